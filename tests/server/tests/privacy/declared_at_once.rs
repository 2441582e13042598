//! Mappings of payloads, rollups and protections that two sessions declare, or take back, at the same time: whoever comes second is judged
//! by what the first committed.

use crate::keyed::Keyed;
use postgres::Client;
use std::thread;
use tally_server_tests::{code, number, wait_for};

/// Copies a property, a user id, and a property to where it is protected.
const COPY: &str = r#"SELECT tally.define_mapping('m', 'segment', '{"properties": {"copy": "/properties/email", "who": "/userId"}}')"#;
const COPY_TO_PROTECTED: &str =
    r#"SELECT tally.define_mapping('m', 'segment', '{"properties": {"note": "/properties/street"}}')"#;
const PROTECT: &str = "SELECT tally.protect_property(NULL, 'email', 'drop')";
const PROTECT_USERS: &str = "SELECT tally.protect_user_ids('token', 'a')";
const MARK: &str =
    r#"SELECT tally.register_event('signup', '{"properties": {"email": {"x-personal": "drop"}}}', 'a test')"#;
const READ: &str = "SELECT tally.create_rollup('mails', '{day}', ARRAY['count(*) AS n'], dimensions => ARRAY['properties->>''email'' AS mail'])";
const READ_MORE: &str =
    "SELECT tally.alter_rollup('plans', add_measures => ARRAY['max(properties->>''email'') AS mail'])";
const TAKE_BACK: &str = "SELECT tally.unprotect_property(NULL, 'note')";

/// A statement, one that together with it shows what is protected, and what is raised where that was committed before it.
const TOGETHER: [(&str, &str, &str); 12] = [
    (PROTECT, READ, "2BP01"),
    (PROTECT, READ_MORE, "2BP01"),
    (MARK, READ, "2BP01"),
    (MARK, READ_MORE, "2BP01"),
    (PROTECT, COPY, "2BP01"),
    (PROTECT_USERS, COPY, "2BP01"),
    (MARK, COPY, "2BP01"),
    (TAKE_BACK, COPY_TO_PROTECTED, "2BP01"),
    (COPY, PROTECT, "55000"),
    (COPY, PROTECT_USERS, "55000"),
    (COPY, MARK, "55000"),
    (COPY_TO_PROTECTED, TAKE_BACK, "55000"),
];

/// Two administrators where `street` is protected, and `note`, but for what a test declares.
fn administrators(keyed: &mut Keyed) -> (Client, Client) {
    keyed.database.superuser().batch_execute("SELECT tally.set_step_up_policy('unprotect', false)").unwrap();
    let roles = ["one", "other"].map(|topic| keyed.database.role(topic, &["tally_admin"]));
    (keyed.database.connect(&roles[0]), keyed.database.connect(&roles[1]))
}

/// Makes what is declared what it was at first.
fn begin_anew(keyed: &Keyed) {
    let statement = "TRUNCATE tally.payload_mapping; DELETE FROM tally.protection; DELETE FROM tally.event_schema;
                     SELECT tally.drop_rollup(r.rollup_name) FROM tally.rollup AS r WHERE r.rollup_name IN ('mails', 'plans');
                     SELECT tally.create_rollup('plans', '{day}', ARRAY['count(*) AS n'], dimensions => ARRAY['properties->>''plan'' AS plan']);
                     SELECT tally.protect_property(NULL, path, 'drop') FROM unnest('{street,note}'::text[]) AS path";
    keyed.database.superuser().batch_execute(statement).unwrap();
}

#[test]
fn whoever_waited_is_judged_by_what_was_committed_meanwhile() {
    let mut keyed = Keyed::new("at_once");
    let (mut one, mut other) = administrators(&mut keyed);
    let mut watcher = keyed.database.superuser();
    for (statement, first, sqlstate) in TOGETHER {
        for (ended, expected) in [("COMMIT", sqlstate), ("ROLLBACK", "no error")] {
            begin_anew(&keyed);
            let pid = number(&mut other, "SELECT pg_backend_pid()::int8");
            // Its snapshot is older, too, than what it waits for.
            other.batch_execute("BEGIN; SELECT count(*) FROM tally.payload_mapping").unwrap();
            one.batch_execute(&format!("BEGIN; {first}")).unwrap();
            let outcome = thread::scope(|scope| {
                let waiting = scope.spawn(|| code(other.batch_execute(statement)));
                let is_waiting = format!("SELECT count(*) FROM pg_locks WHERE pid = {pid} AND NOT granted");
                wait_for("the second to wait", || (number(&mut watcher, &is_waiting) > 0).then_some(()));
                one.batch_execute(ended).unwrap();
                waiting.join().unwrap()
            });
            assert_eq!(outcome, expected, "{statement} after {first}, {ended}");
            other.batch_execute("ROLLBACK").unwrap();
        }
    }
}

#[test]
fn a_transaction_with_one_snapshot_for_all_declares_nothing_that_it_can_not_judge() {
    let mut keyed = Keyed::new("old_snapshot");
    let (mut one, mut other) = administrators(&mut keyed);
    for level in ["REPEATABLE READ", "SERIALIZABLE"] {
        for (statement, first, _) in TOGETHER {
            begin_anew(&keyed);
            other
                .batch_execute(&format!(
                    "BEGIN ISOLATION LEVEL {level}; SELECT count(*) FROM tally.protection"
                ))
                .unwrap();
            one.batch_execute(first).unwrap();
            let problem = other.batch_execute(statement).expect_err(statement);
            let problem = problem.as_db_error().unwrap();
            assert_eq!(problem.code().code(), "25001", "{statement} at {level}: {problem:?}");
            assert!(problem.hint().unwrap().contains("read committed"), "{problem:?}");
            other.batch_execute("ROLLBACK").unwrap();
        }
        // What protects nothing is nobody's to refuse.
        let plain = r#"SELECT tally.register_event('visit', '{"properties": {"page": {"type": "string"}}}', 'a test')"#;
        other.batch_execute(&format!("BEGIN ISOLATION LEVEL {level}; {plain}; ROLLBACK")).unwrap();
    }
}
