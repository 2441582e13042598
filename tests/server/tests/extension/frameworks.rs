//! docs/bi.md: its SQL runs as it stands, as the login that each block names, and so do its examples with the real SQLAlchemy, Django and
//! ActiveRecord.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};
use tally_server_tests::{PrivateServer, ingest, number, skip};
use tally_story::Story;
use tally_workload::json_array;

fn checkout() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The blocks of the document: language, login or framework, text.
fn blocks() -> Vec<(String, String, String)> {
    let text = std::fs::read_to_string(checkout().join("docs/bi.md")).unwrap();
    let mut blocks = Vec::new();
    let mut rest = text.as_str();
    while let Some((_, after)) = rest.split_once("\n```") {
        let (head, after) = after.split_once('\n').unwrap();
        let (body, after) = after.split_once("\n```").unwrap();
        let (language, whose) =
            head.split_once(' ').unwrap_or_else(|| panic!("a block {head:?} would not be tested"));
        blocks.push((language.to_owned(), whose.to_owned(), format!("{body}\n")));
        rest = after;
    }
    blocks
}

/// A server with the demo's story, and the document's SQL run in its order.
fn server() -> PrivateServer {
    let server = PrivateServer::create("frameworks", "");
    let mut superuser = server.connect("postgres", "postgres");
    superuser
        .batch_execute(
            "CREATE EXTENSION pg_tally; CREATE ROLE shop_app LOGIN; GRANT tally_writer, tally_reader TO shop_app; SELECT tally.trust_role('shop_app')",
        )
        .unwrap();
    let until = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros() as i64;
    let story = Story { seed: 1, until }.events();
    let mut app = server.connect("shop_app", "postgres");
    for batch in story.chunks(5_000) {
        assert_eq!(ingest(&mut app, &json_array(batch)).unwrap().accepted, batch.len() as i64);
    }
    let mut ran = 0;
    for (_, login, text) in blocks().iter().filter(|(language, ..)| language == "sql") {
        let answers = server.connect(login, "postgres").simple_query(text);
        let answers = answers.unwrap_or_else(|problem| panic!("as {login}: {problem:?}\n{text}"));
        let rows: Vec<_> = answers
            .iter()
            .filter_map(|message| match message {
                postgres::SimpleQueryMessage::Row(row) => Some(row.get(0).unwrap_or("null").to_owned()),
                _ => None,
            })
            .collect();
        if login == "acme_bi" {
            assert!(rows.len() > 2, "{rows:?}");
        }
        if login == "authenticator" {
            assert_eq!(rows.last().unwrap(), "t");
        }
        ran += 1;
    }
    assert!(ran >= 5, "{ran} blocks of SQL");
    server
}

/// Runs a program that is in a file; what it printed and said, unless the framework can't be had, which is noted as missing.
fn run(
    server: &PrivateServer,
    missing: &mut BTreeSet<String>,
    framework: &str,
    login: &str,
    program: &str,
) -> Option<(bool, String, String)> {
    let file =
        server.data().join(format!("example.{}", if framework == "activerecord" { "rb" } else { "py" }));
    std::fs::write(&file, program).unwrap();
    let mut command = Command::new(checkout().join("tests/driver.sh"));
    command
        .arg(framework)
        .arg(&file)
        .env("PGHOST", server.sockets())
        .env("PGPORT", server.port().to_string());
    command.env("PGUSER", login).env("PGDATABASE", "postgres");
    if login == "shop_test" {
        command.env("TALLY_ENTER", "no");
    }
    let output = command.output().unwrap();
    let (said, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if output.status.code() == Some(77) {
        missing.insert(format!("{framework}: {}", errors.trim()));
        return None;
    }
    Some((output.status.success(), said.trim().to_owned(), errors.into_owned()))
}

#[test]
fn every_block_runs_as_written() {
    let server = server();
    let mut missing = BTreeSet::new();
    let mut superuser = server.connect("postgres", "postgres");
    // What the text says of sums.
    let ratio = "SELECT (SELECT sum(users) FROM tally.usage_day)::int8 / (SELECT count(*) FROM tally.users)";
    let ratio = number(&mut server.connect("acme_bi", "postgres"), ratio);
    assert!(ratio >= 10, "{ratio}");
    let programs: HashMap<String, String> = blocks()
        .into_iter()
        .filter(|(language, ..)| language != "sql")
        .map(|(_, whose, text)| (whose, text))
        .collect();
    assert_eq!(programs.len(), 4);
    for framework in ["sqlalchemy", "django", "activerecord"] {
        let Some((good, said, errors)) =
            run(&server, &mut missing, framework, "shop_app", &programs[framework])
        else {
            continue;
        };
        assert!(good && said == "2 paid=1 signed_up=1", "{framework}: {said}\n{errors}");
    }

    // Rolled back tests: of a bound login they pass and leave nothing; of one that enters, the savepoint is refused.
    let events = number(&mut superuser, "SELECT count(*) FROM tally.events");
    let tests = format!(
        "{}\n\n{}\n\nimport unittest\nunittest.main()\n",
        programs["django"].split("\nif __name__").next().unwrap(),
        programs["django-test"]
    );
    if let Some((good, _, errors)) = run(&server, &mut missing, "django", "shop_test", &tests) {
        assert!(good && errors.contains("Ran 2 tests") && errors.contains("OK"), "{errors}");
        let (good, _, errors) = run(&server, &mut missing, "django", "shop_app", &tests).unwrap();
        assert!(!good && errors.contains("inside a savepoint"), "{errors}");
    }
    let wrapped = programs["activerecord"].replace(
        "class UsageDay",
        "# As Rails does around a test.\nActiveRecord::Base.connection.begin_transaction(joinable: false)\n\nclass UsageDay",
    );
    assert_ne!(wrapped, programs["activerecord"]);
    // Other events: these were sent already.
    let wrapped = wrapped.replace("00000000004#{n}", "00000000005#{n}").replace("from-rails", "from-a-test");
    if let Some((good, said, errors)) = run(&server, &mut missing, "activerecord", "shop_test", &wrapped) {
        assert!(good && said == "2 paid=1 signed_up=1", "{said}\n{errors}");
        let (good, _, errors) = run(&server, &mut missing, "activerecord", "shop_app", &wrapped).unwrap();
        assert!(!good && errors.contains("inside a savepoint"), "{errors}");
    }
    assert_eq!(
        number(&mut superuser, "SELECT count(*) FROM tally.events"),
        events,
        "a rolled back test left events"
    );

    // A request of PostgREST without a tenant is refused.
    let mut request = server.connect("authenticator", "postgres");
    request.batch_execute("BEGIN; SELECT set_config('role', 'web_user', true), set_config('request.jwt.claims', '{}', true)").unwrap();
    assert!(request.batch_execute("SELECT api.enter_tenant()").is_err());
    // Said once: each line is a test less that passed.
    if !missing.is_empty() {
        skip(&missing.into_iter().collect::<Vec<_>>().join("; "));
    }
}
