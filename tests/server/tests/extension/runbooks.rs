//! Every command of the runbooks runs as it stands, by whom its block names, in the order of docs/runbooks/README.md; and
//! every query of monitoring/postgres_exporter_queries.yaml has the columns that it declares.

use postgres::SimpleQueryMessage;
use std::path::{Path, PathBuf};
use std::process::Command;
use tally_server_tests::{PrivateServer, away_from_midnight, ingest, json_array};

const DOCS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs");

/// The blocks of a file that run: language, login and text.
fn blocks(file: &Path) -> Vec<(String, String)> {
    let text = std::fs::read_to_string(file).unwrap_or_else(|problem| panic!("{file:?}: {problem}"));
    let mut blocks = Vec::new();
    let mut current: Option<(String, String)> = None;
    for line in text.lines() {
        match (&mut current, line.strip_prefix("```")) {
            (None, Some(head)) => current = Some((head.trim().to_owned(), String::new())),
            (Some(_), Some("")) => blocks.extend(current.take()),
            (Some((_, text)), _) => {
                text.push_str(line);
                text.push('\n');
            }
            (None, None) => {}
        }
    }
    blocks
}

/// The runbooks in the order in which README.md lists them.
fn runbooks() -> Vec<PathBuf> {
    let folder = Path::new(DOCS).join("runbooks");
    let index = std::fs::read_to_string(folder.join("README.md")).unwrap();
    let names = index.split("](").skip(1).map(|rest| rest.split(')').next().unwrap().to_owned());
    let listed: Vec<PathBuf> = names.map(|name| folder.join(name)).collect();
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        assert!(path.ends_with("README.md") || listed.contains(&path), "README.md doesn't list {path:?}");
    }
    listed
}

/// Events of 2020 and of today, some of them bad.
fn furnish(server: &PrivateServer) {
    let mut app = server.connect("app", "shop");
    let mut superuser = server.connect("postgres", "shop");
    superuser.batch_execute("SELECT tally.open_months('2020-01-01')").unwrap();
    superuser
        .batch_execute("CREATE ROLE acme_bi LOGIN; GRANT tally_reader TO acme_bi; SELECT tally.bind_role('acme_bi', 'acme')")
        .unwrap();
    let today: String =
        superuser.query_one("SELECT to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD')", &[]).unwrap().get(0);
    let events: Vec<String> = (0..400)
        .map(|n| {
            let day = if n % 4 == 0 { "2020-11-02" } else { &today };
            format!(
                r#"{{"tenant_id":"{}","account_id":"a","name":"n","event_id":"00000000-0000-4000-8000-{n:012}","occurred_at":"{day}T00:00:01Z"}}"#,
                ["acme", "globex"][n % 2]
            )
        })
        .collect();
    assert_eq!(ingest(&mut app, &json_array(events.iter().map(String::as_str))).unwrap().accepted, 400);
    assert_eq!(ingest(&mut app, r#"{"tenant_id":"acme"}"#).unwrap().rejected, 1);
}

/// Runs one block.
fn run(server: &PrivateServer, place: &str, head: &str, text: &str, folder: &Path) -> Vec<Vec<String>> {
    match head.split_once(' ') {
        Some(("sql", login)) => {
            let mut client = server.connect(login, "shop");
            // Each statement by itself, as psql sends it: some can't share a transaction.
            let mut rows = Vec::new();
            for statement in statements(text) {
                let answer = client.simple_query(&statement);
                let answer =
                    answer.unwrap_or_else(|problem| panic!("{place}, as {login}: {problem:?}\n{statement}"));
                rows.extend(answer.into_iter().filter_map(|message| match message {
                    SimpleQueryMessage::Row(row) => {
                        Some((0..row.len()).map(|n| row.get(n).unwrap_or("").to_owned()).collect())
                    }
                    _ => None,
                }));
            }
            rows
        }
        None if head == "sh" => {
            // As in the server's own shell: its programs first, told where it is.
            let like = server.client("psql");
            let bin = Path::new(like.get_program()).parent().unwrap();
            let mut command = Command::new("bash");
            command.args(["-euo", "pipefail", "-c", text]).current_dir(folder);
            command.env("PATH", format!("{}:{}", bin.display(), std::env::var("PATH").unwrap()));
            for (name, value) in like.get_envs() {
                command.env(name, value.unwrap());
            }
            let output = command.output().unwrap();
            assert!(output.status.success(), "{place}\n{text}\n{}", String::from_utf8_lossy(&output.stderr));
            vec![]
        }
        // Between two clusters or two releases: pg_upgrade.rs, restore.rs and upgrade.rs run it.
        Some(("sh", "upgrade")) => vec![],
        _ => panic!("{place}: a block {head:?} would not be tested"),
    }
}

/// The statements of a block: none of them has a semicolon in a text.
fn statements(text: &str) -> Vec<String> {
    let lines = text.lines().filter(|line| !line.starts_with("--"));
    let whole = lines.collect::<Vec<_>>().join("\n");
    whole
        .split(";\n")
        .flat_map(|part| part.strip_suffix(';').or(Some(part)))
        .map(str::trim)
        .filter(|part| !part.is_empty())
        .map(str::to_owned)
        .collect()
}

#[test]
fn every_command_runs_as_written() {
    for zone in ["UTC", "America/New_York", "Pacific/Kiritimati"] {
        every_command_runs_in(zone);
    }
}

fn every_command_runs_in(zone: &str) {
    // Fast and lossy is fine here; what the runbooks promise of durability is shown elsewhere.
    let server = PrivateServer::create("runbooks", &format!("timezone = '{zone}'"));
    server.connect("postgres", "postgres").batch_execute("CREATE DATABASE shop").unwrap();
    let folder = server.data().join("work");
    std::fs::create_dir(&folder).unwrap();
    let mut ran = 0;
    for file in runbooks() {
        let name = file.file_name().unwrap().to_str().unwrap().to_owned();
        for (number, (head, text)) in blocks(&file).into_iter().enumerate() {
            let place = format!("{name}, block {}, {zone}", number + 1);
            let rows = run(&server, &place, &head, &text, &folder);
            ran += 1;
            // What each file ends with is what its reader hopes for.
            if name == "corrupt-rollup.md" && number == 0 {
                assert_eq!(rows.len(), 1, "only the answer of enter_global: {rows:?}");
            }
            if name == "disk-full.md" && text.contains("detach_raw") {
                assert!(rows.iter().any(|row| row[0] == "detached_events_2020_11"), "{rows:?}");
            }
            if name == "install.md" && number == 0 {
                furnish(&server);
            }
        }
    }
    assert!(ran > 25, "{ran} blocks");
}

#[test]
fn prometheus_queries_have_the_columns_that_they_declare() {
    let server = PrivateServer::create("prometheus", "");
    away_from_midnight();
    server.connect("postgres", "postgres").batch_execute("CREATE DATABASE shop").unwrap();
    for (head, text) in blocks(&Path::new(DOCS).join("runbooks/install.md")) {
        run(&server, "install.md", &head, &text, server.data());
    }
    furnish(&server);
    server
        .connect("postgres", "shop")
        .batch_execute("CREATE ROLE exporter LOGIN; GRANT tally_admin, tally_auditor TO exporter")
        .unwrap();
    let mut dba = server.connect("dba", "shop");
    dba.batch_execute("CALL tally.maintain(); CALL tally.probe()").unwrap_or_else(|_| {
        dba.batch_execute("CALL tally.maintain()").unwrap();
        dba.batch_execute("CALL tally.probe()").unwrap();
    });
    let text = std::fs::read_to_string(Path::new(DOCS).join("../monitoring/postgres_exporter_queries.yaml"))
        .unwrap();
    let mut exporter = server.connect("exporter", "shop");
    let mut queries = 0;
    let mut declared: Vec<String> = vec![];
    let mut found: Vec<String> = vec![];
    let compare = |declared: &mut Vec<String>, found: &[String]| {
        assert_eq!(declared, found);
        declared.clear();
    };
    for line in text.lines() {
        if let Some(query) = line.trim().strip_prefix("query: \"").and_then(|rest| rest.strip_suffix('"')) {
            compare(&mut declared, &found);
            let query = query.replace("\\\"", "\"");
            let answer =
                exporter.simple_query(&query).unwrap_or_else(|problem| panic!("{query}: {problem:?}"));
            let rows: Vec<_> = answer
                .iter()
                .filter_map(|message| match message {
                    SimpleQueryMessage::Row(row) => Some(row),
                    _ => None,
                })
                .collect();
            assert!(!rows.is_empty(), "{query}");
            found = rows[0].columns().iter().map(|column| column.name().to_owned()).collect();
            queries += 1;
        } else if let Some(metric) = line.strip_prefix("    - ") {
            declared.push(metric.split(':').next().unwrap().to_owned());
        }
    }
    compare(&mut declared, &found);
    assert_eq!(queries, 6);

    // What the probe and the targets said.
    let shown: f64 = exporter
        .query_one("SELECT extract(epoch FROM shown_at - sent_at)::float8 FROM tally.probe_result ORDER BY sent_at DESC LIMIT 1", &[])
        .unwrap()
        .get(0);
    assert!((0.0..120.0).contains(&shown), "{shown}");
    let slo = |client: &mut postgres::Client| {
        let row = client
            .query_one(
                "SELECT freshness_met, share, latency_met FROM tally.observe_slo() WHERE tenant_id = 'acme'",
                &[],
            )
            .unwrap();
        (row.get::<_, bool>(0), row.get::<_, Option<f64>>(1), row.get::<_, bool>(2))
    };
    let (fresh, _, _) = slo(&mut exporter);
    assert!(fresh);
    dba.batch_execute("SELECT tally.set_slo('acme', interval '0', interval '0')").unwrap();
    let (fresh, share, late) = slo(&mut exporter);
    assert_eq!((fresh, share, late), (false, Some(0.0), false));
}
