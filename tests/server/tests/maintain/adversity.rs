//! Locks that don't come, and a clock that steps back: an error with its own SQLSTATE, nothing half done, and a retry counts
//! everything once.

use postgres::Client;
use tally_server_tests::{Database, ingest, json_array};

fn batch(from: usize, count: usize, padding: usize) -> String {
    let events: Vec<String> = (from..from + count)
        .map(|n| {
            format!(
                r#"{{"tenant_id":"t{}","account_id":"a","name":"n{}","user_id":"u{}","event_id":"00000000-0000-4000-8000-{n:012}","occurred_at":"2026-0{}-01T00:00:00Z","properties":{{"value":{n},"text":"{}"}}}}"#,
                n % 3, n % 4, n % 50, 1 + n % 3, format!("{n:x}").repeat(padding)
            )
        })
        .collect();
    json_array(events.iter().map(String::as_str))
}

fn assert_counted(client: &mut Client, events: usize) {
    let mut transaction = client.transaction().unwrap();
    transaction.execute("SELECT tally.enter_global()", &[]).unwrap();
    let row = transaction
        .query_one(
            "SELECT (SELECT count(*) FROM tally.events), (SELECT count(*) FROM tally.event_key),
                    (SELECT sum(events)::int8 FROM tally.usage_day), (SELECT count(*) FROM tally.verify_rollup('usage'))",
            &[],
        )
        .unwrap();
    let events = events as i64;
    assert_eq!((row.get(0), row.get(1), row.get(2), row.get(3)), (events, events, events, 0_i64));
}

#[test]
fn a_lock_that_does_not_come_is_an_error_and_nothing_else() {
    let database = Database::new("locked");
    let (mut client, mut holder) = (database.superuser(), database.superuser());
    let mut declaring = holder.transaction().unwrap();
    declaring.batch_execute("SELECT tally.create_rollup('slow', '{day}', ARRAY['count(*) AS n'])").unwrap();
    client.batch_execute("SET lock_timeout = '50ms'").unwrap();
    let refused = ingest(&mut client, &batch(0, 100, 1)).unwrap_err();
    assert_eq!(refused.code().unwrap().code(), "55P03", "{refused}");
    declaring.commit().unwrap();
    // What autovacuum holds now and then may take longer.
    client.batch_execute("RESET lock_timeout").unwrap();
    assert_eq!(ingest(&mut client, &batch(0, 100, 1)).unwrap().accepted, 100);
    // Housekeeping notes it and does what it can.
    let mut folding = holder.transaction().unwrap();
    folding.batch_execute("LOCK TABLE tally.rollup IN ACCESS EXCLUSIVE MODE").unwrap();
    client.batch_execute("SET lock_timeout = '50ms'").unwrap();
    assert!(client.batch_execute("CALL tally.maintain()").is_err(), "it can't even read what there is to do");
    folding.rollback().unwrap();
    client.batch_execute("RESET lock_timeout").unwrap();
    client.batch_execute("CALL tally.maintain()").unwrap();
    assert_counted(&mut client, 100);
}

/// Nothing is decided by the order of two readings of the clock: what the clock said is moved in the tables instead, which
/// is the same to whoever reads it afterwards.
#[test]
fn a_clock_that_steps_back_moves_no_horizon_back() {
    let database = Database::new("clock");
    let mut client = database.superuser();
    assert_eq!(ingest(&mut client, &batch(0, 100, 1)).unwrap().accepted, 100);
    client.batch_execute("SELECT tally.set_retention('t0', '1 day')").unwrap();
    client.batch_execute("CALL tally.maintain()").unwrap();
    // Yesterday's clock had been a year ahead: batches, folds and horizons from the future.
    client
        .batch_execute(
            "UPDATE tally.tenant_horizon SET raw_from = raw_from + interval '1 year', pruned_from = pruned_from + interval '1 year';
             UPDATE tally.ingest_batch SET ingested_at = ingested_at + interval '1 year', batch_id = batch_id + (31536000000::int8 << 22);
             UPDATE tally.rollup_fold SET last_fold_at = last_fold_at + interval '1 year';
             UPDATE tally.maintenance SET started_at = started_at + interval '1 year', finished_at = finished_at + interval '1 year'",
        )
        .unwrap();
    let horizon = "SELECT raw_from::text FROM tally.tenant_horizon WHERE tenant_id = 't0'";
    let before: String = client.query_one(horizon, &[]).unwrap().get(0);
    client.batch_execute("CALL tally.maintain()").unwrap();
    assert_eq!(client.query_one(horizon, &[]).unwrap().get::<_, String>(0), before);
    // What was counted stays counted, and new events of others come in.
    let again = ingest(&mut client, &batch(0, 100, 1)).unwrap();
    assert_eq!((again.accepted, again.duplicates, again.rejected), (0, 66, 34));
    assert_eq!(ingest(&mut client, &batch(1000, 99, 1)).unwrap().accepted, 66);
    client.batch_execute("CALL tally.maintain()").unwrap();
    let mut transaction = client.transaction().unwrap();
    transaction.execute("SELECT tally.enter_global()", &[]).unwrap();
    let total: i64 =
        transaction.query_one("SELECT sum(events)::int8 FROM tally.usage_day", &[]).unwrap().get(0);
    assert_eq!(total, 166);
    assert!(transaction.query("SELECT * FROM tally.health()", &[]).unwrap().len() > 8);
}

/// What was noted while the clock was ahead hides nothing that stands still once it is right again.
#[test]
fn a_clock_that_was_ahead_hides_nothing_from_health() {
    let mut database = Database::new("clock_ahead");
    let role = database.role("admin", &["tally_admin"]);
    let (mut superuser, mut admin) = (database.superuser(), database.connect(&role));
    assert_eq!(ingest(&mut superuser, &batch(0, 100, 1)).unwrap().accepted, 100);
    admin.batch_execute("CALL tally.maintain()").unwrap();
    let mut status = |component: &str| -> (String, Option<f64>) {
        let query = "SELECT status, value FROM tally.observe_health() WHERE component = $1";
        let row = admin.query_one(query, &[&component]).unwrap();
        (row.get(0), row.get(1))
    };
    assert_eq!(status("worker").0, "ok");
    superuser
        .batch_execute(
            "UPDATE tally.maintenance SET started_at = started_at + interval '1 year', finished_at = finished_at + interval '1 year';
             UPDATE tally.rollup_fold SET last_fold_at = last_fold_at + interval '1 year';
             INSERT INTO tally.probe_result (sent_at, shown_at) VALUES (now() + interval '1 year', now() + interval '1 year'), (now() - interval '5 seconds', NULL);
             DELETE FROM tally.access_day;
             INSERT INTO tally.access_day (day, updated_at, rows, denials, hours, tenants, actor) VALUES (now() + interval '1 year', now() + interval '1 year', 1, 0, array_fill(0::int8, ARRAY[24]), '{}', 'somebody')",
        )
        .unwrap();
    // Housekeeping that has stopped since, and a probe that isn't shown.
    assert_eq!(status("worker"), ("warning".to_owned(), None));
    assert_eq!(status("probe").0, "warning");
    assert_eq!(ingest(&mut superuser, &batch(1000, 99, 1)).unwrap().accepted, 99);
    let lag = "SELECT coalesce(min(lag) < interval '0', false) FROM tally.observe_rollups()";
    assert!(!superuser.query_one(lag, &[]).unwrap().get::<_, bool>(0));
    let judged = "SELECT coalesce(tally_internal.access_was_judged() > now(), false)";
    assert!(!superuser.query_one(judged, &[]).unwrap().get::<_, bool>(0));
    superuser
        .batch_execute(
            "INSERT INTO tally.audit_entry (xid, at, origin, entry_id, tenant_id, actor, act, leaf)
             VALUES ('3', now() + interval '1 year', 1, gen_random_uuid(), '', 'somebody', 'audit_anchor_taken', decode(repeat('00', 32), 'hex'))",
        )
        .unwrap();
    let anchored = "SELECT anchored_at IS NULL FROM tally_internal.audit_state()";
    assert!(superuser.query_one(anchored, &[]).unwrap().get::<_, bool>(0));
    // Once it runs again, it is noted as ever.
    superuser.batch_execute("CALL tally.maintain()").unwrap();
    let (worker, age) = status("worker");
    assert!(worker == "ok" && age.is_some_and(|age| (0.0..60.0).contains(&age)), "{worker} {age:?}");
    let ahead =
        "SELECT count(*) FROM tally.maintenance WHERE task <> 'fold' AND finished_at > clock_timestamp()";
    assert_eq!(superuser.query_one(ahead, &[]).unwrap().get::<_, i64>(0), 0);
}
