//! Weeks and months of docs/bi.md and integrations/dbt are those of UTC, whatever the time zone of the session that asks.

use postgres::{Client, SimpleQueryMessage};
use std::path::{Path, PathBuf};
use tally_server_tests::{told, told_of_several};

/// UTC, one west and one east of it, and the ends of what there is.
const ZONES: [&str; 5] = ["UTC", "America/New_York", "Pacific/Auckland", "Etc/GMT+12", "Pacific/Kiritimati"];

fn checkout() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Files below a directory of the checkout.
fn files(directory: &Path, out: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files(&path, out) } else { out.push(path) }
    }
}

/// A model or test of the package as SQL: what dbt makes of the macros, refs and loops that these have.
fn compiled(name: &str) -> String {
    let text = std::fs::read_to_string(checkout().join("integrations/dbt").join(name)).unwrap();
    let mut sql: String = text
        .lines()
        .filter(|line| !line.starts_with("{%") && !line.starts_with("--"))
        .collect::<Vec<_>>()
        .join("\n");
    if let Some((before, rest)) = sql.split_once("{% for ") {
        let (_, after) = rest.split_once("{% endfor %}").unwrap();
        sql = format!("{before}'signed_up', 'report.run'{after}");
    }
    while let Some((before, rest)) = sql.split_once("{{ ") {
        let (macro_call, after) = rest.split_once(" }}").unwrap();
        let argument = macro_call.split('\'').rev().nth(1);
        let made = match macro_call.split('(').next().unwrap() {
            "tally_users" => "tally.distinct_count(tally.rollup(users))".to_owned(),
            "tally_percentile" => "tally.approx_percentile(0.95, tally.rollup(value))".to_owned(),
            "source" => format!("tally.{}", argument.unwrap()),
            "ref" => format!("({})", compiled(&format!("models/{}.sql", argument.unwrap()))),
            other => panic!("{name} calls {other}"),
        };
        sql = format!("{before}{made}{after}");
    }
    sql
}

fn rows(client: &mut Client, query: &str) -> Vec<Vec<Option<String>>> {
    let messages = client.simple_query(query).unwrap_or_else(|problem| panic!("{query}: {problem:?}"));
    let mut rows: Vec<Vec<Option<String>>> = messages
        .iter()
        .filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => {
                Some((0..row.len()).map(|place| row.get(place).map(str::to_owned)).collect())
            }
            _ => None,
        })
        .collect();
    rows.sort();
    rows
}

/// The first example of docs/bi.md, and the models of the package.
fn queries() -> Vec<String> {
    let text = std::fs::read_to_string(checkout().join("docs/bi.md")).unwrap();
    let (_, rest) = text.split_once("```sql acme_bi\n").unwrap();
    let documented = rest.split_once("```").unwrap().0.trim().trim_end_matches(';').to_owned();
    let dbt = checkout().join("integrations/dbt/models");
    let mut models = Vec::new();
    files(&dbt, &mut models);
    models.retain(|path| path.extension().is_some_and(|extension| extension == "sql"));
    assert!(models.len() >= 3);
    let mut queries = vec![documented];
    for model in &models {
        queries.push(compiled(&format!("models/{}", model.file_name().unwrap().to_str().unwrap())));
    }
    queries
}

#[test]
fn a_global_login_is_answered_of_all_tenants() {
    let (database, analyst) = told_of_several("periods_of_several");
    let mut client = database.connect(&analyst);
    for query in queries() {
        assert!(rows(&mut client, &query).len() > 1, "{query}");
    }
    let test = compiled("tests/users_are_fewer_than_their_sum.sql");
    assert_eq!(rows(&mut client, &test), Vec::<Vec<_>>::new());
}

#[test]
fn weeks_and_months_are_those_of_utc_in_any_time_zone() {
    let (database, [_, reader]) = told("periods");
    let mut client = database.connect(&reader);
    for query in &queries() {
        let answers = ZONES.map(|zone| {
            client.batch_execute(&format!("SET timezone = '{zone}'")).unwrap();
            rows(&mut client, query)
        });
        assert!(answers[0].len() > 1, "{query}");
        for (zone, answer) in ZONES.iter().zip(&answers) {
            assert_eq!(answer, &answers[0], "{zone}: {query}");
        }
    }
    // What compares users with their sum finds each week on both sides, and so compares.
    let test = compiled("tests/users_are_fewer_than_their_sum.sql");
    let (compared, _) = test.rsplit_once("where").unwrap();
    let weeks = "SELECT count(DISTINCT day - extract(isodow FROM day)::int4) FROM tally.usage_day";
    for zone in ZONES {
        client.batch_execute(&format!("SET timezone = '{zone}'")).unwrap();
        let counted = format!("SELECT count(*), count(users), count(summed) FROM ({compared}) AS t");
        let wanted = vec![rows(&mut client, weeks)[0][0].clone(); 3];
        assert_eq!(rows(&mut client, &counted), [wanted], "{zone}");
        assert_eq!(rows(&mut client, &test), Vec::<Vec<_>>::new(), "{zone}");
    }
}

#[test]
fn no_bucket_is_made_a_date_in_the_sessions_time_zone() {
    let mut all = vec![checkout().join("README.md"), checkout().join("demo/read.sql")];
    for directory in ["docs", "dashboards", "integrations"] {
        files(&checkout().join(directory), &mut all);
    }
    let mut searched = 0;
    for path in all {
        let Ok(text) = std::fs::read_to_string(&path) else { continue };
        searched += 1;
        for line in text.lines() {
            // A moment in UTC that is cast to a date; a date that is truncated is a moment of the session's zone.
            let flat: String = line.to_lowercase().split_whitespace().collect();
            let flat = flat.replace("attimezone'utc')::date", "");
            for wrong in ["'utc')::date", "bucket::date", "_at::date", "_seen::date"] {
                assert!(!flat.contains(wrong), "{}: {line}", path.display());
            }
            for unit in ["day", "week", "month", "quarter", "year"] {
                assert!(!flat.contains(&format!("date_trunc('{unit}',day)")), "{}: {line}", path.display());
            }
        }
    }
    assert!(searched > 30, "{searched}");
}
