//! Erasures that are broken off: the server's log, which no erasure reaches, names nobody, whatever it is set to show.

use serde_json::{Value, json};
use std::thread;
use tally_server_tests::{PrivateServer, ingest, number, wait_for};

const SUBJECT: &str = "planted-c1d7ae05";

#[test]
fn the_log_of_an_erasure_that_is_broken_off_names_nobody() {
    let server = PrivateServer::create(
        "broken_off",
        "shared_preload_libraries = 'pg_tally'\nlog_min_duration_statement = 0\nlog_parameter_max_length_on_error = -1\nlog_statement = 'all'\n\
         log_min_messages = debug1\nlog_error_verbosity = verbose",
    );
    server.connect("postgres", "postgres").batch_execute("CREATE DATABASE shop").unwrap();
    server.connect("postgres", "postgres").batch_execute("CREATE ROLE dba LOGIN").unwrap();
    // Of these sessions nothing is logged: they name the subject themselves.
    let silent = || {
        let mut client = server.connect("postgres", "shop");
        let settings = "SET log_min_duration_statement = -1; SET log_parameter_max_length_on_error = 0; SET log_statement = 'none'; SET log_min_messages = panic";
        client.batch_execute(settings).unwrap();
        client
    };
    let mut client = silent();
    client
        .batch_execute("CREATE EXTENSION pg_tally; GRANT tally_admin TO dba; SELECT tally.set_step_up_policy('erase_subject', false), tally.open_months('-infinity')")
        .unwrap();
    let events: Vec<Value> = (0..60)
        .map(|n| {
            json!({"tenant_id": "t", "account_id": "a", "name": "n", "event_id": format!("00000000-0000-4000-8000-{n:012}"),
                   "occurred_at": format!("2026-03-{:02}T10:00:00Z", 1 + n % 28), "user_id": if n % 2 == 0 { SUBJECT } else { "u" },
                   "session_id": format!("s{}", n % 4), "properties": {"value": n}})
        })
        .collect();
    assert_eq!(ingest(&mut client, &Value::from(events).to_string()).unwrap().accepted, 60);
    client.batch_execute("CALL tally.maintain()").unwrap();
    client.execute("SELECT tally.erase_subjects('t', ARRAY[$1], 'ticket 5')", &[&SUBJECT]).unwrap();
    let mut watcher = server.connect("postgres", "shop");
    // What others hold, a step waits for: where it notes what it removes, where it makes rollups anew, and where it removes the rest.
    let held = [
        "SELECT FROM tally.erasure FOR UPDATE",
        "SELECT FROM tally.user_activity_year_base FOR UPDATE",
        "SELECT FROM tally.usage_day_base FOR UPDATE",
        "LOCK TABLE tally.ingest_batch IN SHARE MODE",
    ];
    let mut holder = silent();
    // Cancelled and ended, by housekeeping, whose statement names nobody, and at once, in a session that doesn't log its own.
    let ways = [("pg_cancel_backend", "57014"), ("pg_terminate_backend", "57P01")];
    let cases =
        held.iter().flat_map(|held| ways.iter().flat_map(move |way| [(held, way, true), (held, way, false)]));
    for (held, (stop, sqlstate), in_steps) in cases {
        let mut transaction = holder.transaction().unwrap();
        transaction.batch_execute(held).unwrap();
        let mut worker = if in_steps { server.connect("dba", "shop") } else { silent() };
        let pid: i32 = worker.query_one("SELECT pg_backend_pid()", &[]).unwrap().get(0);
        let working = thread::spawn(move || {
            if in_steps {
                worker.batch_execute("CALL tally.maintain()").err()
            } else {
                worker.batch_execute("SET log_min_messages = error").unwrap();
                worker.execute("SELECT tally.erase_subject('t', $1, 'ticket 5')", &[&SUBJECT]).err()
            }
        });
        let waits =
            format!("SELECT count(*) FROM pg_stat_activity WHERE pid = {pid} AND wait_event_type = 'Lock'");
        wait_for("the erasure meets the lock", || {
            assert!(!working.is_finished(), "{held}: it wasn't kept waiting");
            (number(&mut watcher, &waits) == 1).then_some(())
        });
        watcher.execute(&format!("SELECT {stop}($1)"), &[&pid]).unwrap();
        let error = working.join().unwrap().expect("it was broken off");
        // Whose session is ended may find it closed before it has read why.
        let is_closed = *sqlstate == "57P01" && error.is_closed();
        assert!(is_closed || error.code().map(|code| code.code()) == Some(sqlstate), "{held}: {error:?}");
        transaction.rollback().unwrap();
    }
    let log = server.log();
    for told in
        ["canceling statement due to user request", "terminating connection due to administrator command"]
    {
        assert_eq!(log.matches(told).count(), 2 * held.len(), "{told}");
    }
    let statements = [
        "SQL statement \"WITH gone AS",
        "SQL statement \"DELETE FROM tally.user_activity_year_base",
        "UPDATE tally.ingest_batch",
    ];
    for shown in statements {
        assert!(log.contains(shown), "what could name it is logged: {shown}");
    }
    let names: Vec<&str> = log.lines().filter(|line| line.contains(SUBJECT)).take(5).collect();
    assert_eq!(names, Vec::<&str>::new());
    // And then it is done.
    server.connect("dba", "shop").batch_execute("CALL tally.maintain()").unwrap();
    assert_eq!(number(&mut silent(), "SELECT count(*) FROM tally.erasure WHERE finished_at IS NOT NULL"), 1);
    assert!(!server.log().contains(SUBJECT));
}
