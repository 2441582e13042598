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
