//! Sessions whose ids a payload's format makes of the user's: where user ids are protected, they tell nothing of these.

use crate::keyed::{KEY, Keyed, maintain};
use postgres::Client;
use serde_json::json;
use tally_server_tests::{fold_all, number, verify};

/// In no other id, number or text by chance.
const USER: &str = "planted.4711";

fn row(number: u32, user: Option<&str>) -> String {
    json!({
        "event_name": "page_view", "event_timestamp": (1_772_442_900_000_000_u64 + u64::from(number)).to_string(), "stream_id": "1",
        "user_pseudo_id": USER, "user_id": user, "event_params": [{"key": "ga_session_id", "value": {"int_value": "1772"}}]
    })
    .to_string()
}

/// How many were accepted, duplicates, conflicts and rejected.
fn send(client: &mut Client, rows: &[String]) -> [i64; 4] {
    let query =
        "SELECT accepted, duplicates, conflicts, rejected FROM tally.ingest_from('ga4', $1::text, 's')";
    let row = client.query_one(query, &[&rows.join("\n")]).unwrap();
    [0, 1, 2, 3].map(|place| row.get(place))
}

#[test]
fn a_session_stays_one_over_a_declaration_and_shows_no_user() {
    for treatment in ["token", "drop"] {
        let mut keyed = Keyed::new(&format!("made_sessions_{treatment}"));
        let role = keyed.database.role("loader", &["tally_writer"]);
        let mut admin = keyed.database.superuser();
        admin
            .batch_execute(&format!(
                r#"SELECT tally.bind_role('{role}', 'a');
                   SELECT tally.define_mapping('s', 'ga4', '{{"tenant": {{"value": "a"}}, "account": {{"value": "n"}}}}');
                   SELECT tally.create_rollup('visits', '{{day}}', dimensions => ARRAY['session_id'], measures => ARRAY['count(*) AS n'])"#
            ))
            .unwrap();
        let mut loader = keyed.database.connect(&role);
        let before = [row(1, None), row(2, Some("ann")), row(3, None)];
        assert_eq!(send(&mut loader, &before), [3, 0, 0, 0]);
        let sessions = "SELECT count(DISTINCT session_id) * 10 + count(*) FILTER (WHERE session_id LIKE 'tok.0.%') FROM tally.events";
        assert_eq!(number(&mut admin, sessions), 10);
        admin.execute("SELECT tally.protect_user_ids($1, 'a')", &[&treatment]).unwrap();
        // New events at once, and one that had to wait.
        let after = [row(4, None), row(5, Some("ann"))];
        assert_eq!(send(&mut loader, &after), [2, 0, 0, 0], "{treatment}");
        keyed.remove();
        assert_eq!(send(&mut loader, &[row(6, None)]), [0, 0, 0, 1]);
        keyed.write(KEY, "600");
        assert_eq!(number(&mut admin, "SELECT accepted FROM tally.redrive()"), 1);
        assert_eq!(number(&mut admin, sessions), 23, "{treatment}");
        assert_eq!(send(&mut loader, &before), [0, 3, 0, 0]);
        maintain(&mut admin);
        assert_eq!(number(&mut admin, sessions), 16, "{treatment}");
        let folded = "SELECT count(*) * 10 + sum(n)::int8 FROM tally.visits_day";
        assert_eq!(number(&mut admin, folded), 16, "{treatment}");
        assert_eq!(
            number(&mut admin, "SELECT count(*) FROM tally.sessions WHERE session_id LIKE 'tok.0.%'"),
            1
        );
        for rollup in ["visits", "session", "usage"] {
            assert!(verify(&mut admin, rollup).is_empty(), "{rollup}");
        }
        assert_eq!(
            send(&mut loader, &[before, [row(4, None), row(5, None), row(6, None)]].concat()),
            [0, 5, 1, 0]
        );
        let shown = "SELECT count(*) FROM tally.events AS e WHERE e::text ~ 'planted|ga4\\.'";
        assert_eq!(number(&mut admin, shown), 0, "{treatment}");
    }
}

/// A row of a session of somebody's, seconds from the beginning of March.
fn visit(seconds: i64, visitor: &str, user: Option<&str>) -> String {
    json!({
        "event_name": "page_view", "event_timestamp": ((1_772_323_200 + seconds) * 1_000_000).to_string(), "stream_id": "1",
        "user_pseudo_id": visitor, "user_id": user, "event_params": [{"key": "ga_session_id", "value": {"int_value": "1772"}}]
    })
    .to_string()
}

/// In a month that was detached before the declaration the session has one spelling, and in those that are there another.
#[test]
fn a_session_is_one_over_a_month_that_was_detached_before_the_declaration() {
    let mut keyed = Keyed::new("made_sessions_detached");
    let role = keyed.database.role("loader", &["tally_writer"]);
    let mut admin = keyed.database.superuser();
    admin
        .batch_execute(&format!(
            r#"SELECT tally.bind_role('{role}', 'a');
               SELECT tally.define_mapping('s', 'ga4', '{{"tenant": {{"value": "a"}}, "account": {{"value": "n"}}, "user": "/user_id"}}');
               SELECT tally.set_step_up_policy('erase_subject', false), tally.set_step_up_policy('subject_report', false)"#
        ))
        .unwrap();
    let mut loader = keyed.database.connect(&role);
    let rows = [
        // Ann's event is detached, what goes with it is there; and the other way round.
        visit(-600, "v1", Some("ann")),
        visit(600, "v1", None),
        visit(-1200, "v2", None),
        visit(600, "v2", Some("ann")),
        // Near both of them, or Bob's alone: these stay.
        visit(-600, "v3", Some("bob")),
        visit(300, "v3", None),
        visit(600, "v3", Some("ann")),
        visit(-600, "v4", Some("bob")),
        visit(600, "v4", None),
    ];
    assert_eq!(send(&mut loader, &rows), [9, 0, 0, 0]);
    for rollup in ["payment", "session", "usage", "user_activity"] {
        fold_all(&mut admin, rollup);
    }
    admin
        .batch_execute("SELECT tally.detach_raw('2026-03-01'); SELECT tally.protect_user_ids('token', 'a')")
        .unwrap();
    maintain(&mut admin);
    let mut transaction = admin.transaction().unwrap();
    transaction.batch_execute("SELECT tally.enter('a')").unwrap();
    let report = "SELECT count(*) FROM tally.subject_report('a', 'ann') AS r WHERE r -> 'row' ? 'event_id'";
    assert_eq!(transaction.query_one(report, &[]).unwrap().get::<_, i64>(0), 5);
    transaction.commit().unwrap();
    admin.batch_execute("SELECT tally.erase_subject('a', 'ann', 'ticket')").unwrap();
    for (part, left) in [("events", 2), ("detached_events_2026_02", 2)] {
        assert_eq!(number(&mut admin, &format!("SELECT count(*) FROM tally.{part}")), left, "{part}");
    }
}
