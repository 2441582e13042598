//! Declarations that are refused, each before it rejects an event or hides a column.

use tally_server_tests::{Database, ingest};

const EVENT: &str = r#"{"tenant_id":"acme","account_id":"a","name":"run","event_id":"00000000-0000-4000-8000-000000000001","occurred_at":"2026-03-01T00:00:00Z","properties":{"paid":true,"amount":"12.5"}}"#;

/// Calls as an administrator: SQLSTATE, message and hint, nothing where it succeeds.
fn answer(client: &mut postgres::Client, call: &str) -> Option<[String; 3]> {
    let error = client.batch_execute(&format!("SELECT tally.{call}")).err()?;
    let error = error.as_db_error().unwrap_or_else(|| panic!("{call}: {error}"));
    Some([error.code().code(), error.message(), error.hint().unwrap_or_default()].map(str::to_owned))
}

fn refused(client: &mut postgres::Client, call: &str, code: &str, word: &str) {
    let [found, message, hint] = answer(client, call).unwrap_or_else(|| panic!("{call}: no error"));
    assert!(
        found == code && message.contains(word) && !hint.is_empty(),
        "{call}: {found} {message} ({hint})"
    );
}

#[test]
fn what_is_no_condition_filters_nothing_and_what_is_no_number_is_not_summed() {
    let mut database = Database::new("conditions");
    let admin = database.role("admin", &["tally_admin"]);
    let mut admin = database.connect(&admin);
    for filter in ["name", "name || ''x''", "properties->>''paid''", "coalesce(user_id, ''t'')"] {
        let call = format!("create_rollup('r', '{{day}}', '{{count(*) AS n}}', filter => '{filter}')");
        refused(&mut admin, &call, "42804", "no condition");
    }
    for measure in ["sum(name)", "percentiles(name)", "sum(user_id)", "sum(lower(name))"] {
        let call = format!("create_rollup('r', '{{day}}', ARRAY['{measure} AS n'])");
        refused(&mut admin, &call, "42804", "type text");
        refused(&mut admin, &format!("alter_rollup('usage', ARRAY['{measure} AS n'])"), "42804", "type text");
    }
    // A literal, JSON and the text of a property may be what is needed.
    for (place, (measure, filter)) in [
        ("sum(''1'')", "''t''"),
        ("sum(properties->''count'')", "properties->''paid''"),
        ("sum(properties->>''amount'')", "name = ''run''"),
        ("percentiles(length(name))", "(properties->>''paid'')::boolean"),
    ]
    .into_iter()
    .enumerate()
    {
        let call =
            format!("create_rollup('r{place}', '{{day}}', ARRAY['{measure} AS n'], filter => '{filter}')");
        assert_eq!(answer(&mut admin, &call), None, "{call}");
    }
    let sent = ingest(&mut database.superuser(), EVENT).unwrap();
    assert_eq!((sent.accepted, sent.rejected), (1, 0));
}

#[test]
fn a_column_takes_no_name_that_is_taken_and_has_one() {
    let mut database = Database::new("column_names");
    let admin = database.role("admin", &["tally_admin"]);
    let mut admin = database.connect(&admin);
    for (grain, column) in [("day", "day"), ("week", "week"), ("month,hour", "month"), ("year", "year")] {
        let measure = format!("create_rollup('r', '{{{grain}}}', '{{count(*) AS {column}}}')");
        refused(&mut admin, &measure, "42701", "by itself");
        let dimension =
            format!("create_rollup('r', '{{{grain}}}', '{{count(*) AS n}}', ARRAY['name AS {column}'])");
        refused(&mut admin, &dimension, "42701", "by itself");
    }
    for column in ["ctid", "xmin", "tableoid"] {
        let call = format!("create_rollup('r', '{{day}}', '{{count(*) AS n}}', ARRAY['name AS {column}'])");
        refused(&mut admin, &call, "42701", "every table");
        refused(
            &mut admin,
            &format!("create_rollup('r', '{{day}}', '{{count(*) AS {column}}}')"),
            "42701",
            "every table",
        );
    }
    for dimension in ["name || ''x''", "properties->>''plan''", "1"] {
        let call = format!("create_rollup('r', '{{day}}', '{{count(*) AS n}}', ARRAY['{dimension}'])");
        refused(&mut admin, &call, "42602", "has no name");
    }
    for arrays in [
        "'{count(*) AS n}', '{NULL}'",
        "'{count(*) AS n}', '{name,NULL}'",
        "'{NULL}'",
        "'{count(*) AS n,NULL}'",
    ] {
        refused(&mut admin, &format!("create_rollup('r', '{{day}}', {arrays})"), "22004", "null");
    }
    // A name is free where no view has it.
    let free = "create_rollup('r', '{hour,week}', '{count(*) AS hour}', ARRAY['name AS day'])";
    assert_eq!(answer(&mut admin, free), None);
    refused(&mut admin, "alter_rollup('r', '{count(*) AS week}')", "42701", "by itself");
    refused(&mut admin, "alter_rollup('r', add_dimensions => '{NULL}')", "22004", "null");
}

#[test]
fn the_rollups_that_pg_tally_brings_stay_as_they_are() {
    let mut database = Database::new("built_in");
    let login = database.role("admin", &["tally_admin"]);
    let mut admin = database.connect(&login);
    let names = database.superuser().query("SELECT rollup_name FROM tally.rollup", &[]).unwrap();
    assert!(names.len() > 2);
    for client in [&mut admin, &mut database.superuser()] {
        for name in names.iter().map(|row| row.get::<_, String>(0)) {
            for cascade in [false, true] {
                refused(client, &format!("drop_rollup('{name}', {cascade})"), "2BP01", "comes with pg_tally");
                let alter = format!("alter_rollup('{name}', '{{count(*) AS more}}', cascade => {cascade})");
                refused(client, &alter, "2BP01", "comes with pg_tally");
            }
        }
    }
}
