//! A call that is stopped stores all of its batch or nothing, and the next call on the same connection is right; and a
//! backend's memory stays flat. `TALLY_INTERRUPTIONS` (30) and `TALLY_CALLS` (10,000) set the length; 100 and 1,000,000 are
//! the long forms.

use postgres::{Client, NoTls};
use std::thread;
use std::time::{Duration, Instant};
use tally_server_tests::{Database, ingest, json_array, seeded};

const BATCH: u64 = 4_000;

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| value.parse().unwrap())
}

/// Events whose keys begin with `number`.
fn batch(number: u64, events: u64) -> String {
    let events: Vec<String> = (0..events)
        .map(|place| {
            format!(
                r#"{{"tenant_id":"a","account_id":"a{}","name":"n","user_id":"u{}","occurred_at":"2026-03-{:02}T09:15:00Z",
                    "event_id":"{number:08x}-0000-4000-8000-{place:012x}","properties":{{"value":{place}}}}}"#,
                place % 20, place % 300, 1 + place % 28
            )
        })
        .collect();
    json_array(events.iter().map(String::as_str))
}

/// Rows of a batch in the ledger, the raw layer and the record of batches.
fn stored(client: &mut Client, number: u64) -> (i64, i64) {
    let row = client
        .query_one(
            "SELECT (SELECT count(*) FROM tally.event_key WHERE event_id::text LIKE $1),
                    (SELECT count(*) FROM tally.events WHERE event_id::text LIKE $1)",
            &[&format!("{number:08x}-%")],
        )
        .unwrap();
    (row.get(0), row.get(1))
}

#[test]
fn a_stopped_call_stores_all_or_nothing_and_the_next_is_right() {
    let interruptions = setting("TALLY_INTERRUPTIONS", 30);
    let mut random = seeded();
    let database = Database::new("interrupted");
    let mut client = database.superuser();
    let mut watcher = database.superuser();
    let mut blocker = database.superuser();
    // Four of them, so that one also shows how long a warm one takes where nothing else is going on.
    let mut usual = Duration::MAX;
    for number in 0..4 {
        let text = batch(number, BATCH);
        let began = Instant::now();
        ingest(&mut client, &text).unwrap();
        usual = usual.min(began.elapsed());
    }
    let (mut stopped, mut stored_whole) = (0, 0);
    let mut expected = 4 * BATCH as i64;
    for number in 4..4 + interruptions {
        let text = batch(number, BATCH);
        let point = Duration::from_secs_f64(usual.as_secs_f64() * 1.1 * random.unit());
        let outcome = match number % 3 {
            0 => {
                let token = client.cancel_token();
                thread::scope(|scope| {
                    scope.spawn(move || {
                        thread::sleep(point);
                        token.cancel_query(NoTls).unwrap();
                    });
                    ingest(&mut client, &text)
                })
            }
            1 => {
                client
                    .batch_execute(&format!("SET statement_timeout = {}", point.as_millis().max(1)))
                    .unwrap();
                let outcome = ingest(&mut client, &text);
                // That has no more time itself.
                while client.batch_execute("RESET statement_timeout").is_err() {}
                outcome
            }
            _ => {
                // Another transaction is inserting some key of the batch, so the call waits, and not for long.
                let mut transaction = blocker.transaction().unwrap();
                let key = random.below(BATCH as usize);
                let one = batch(number, BATCH);
                let one: Vec<serde_json::Value> = serde_json::from_str(&one).unwrap();
                ingest(&mut transaction, &one[key].to_string()).unwrap();
                client.batch_execute(&format!("SET lock_timeout = {}", 1 + random.below(30))).unwrap();
                let outcome = ingest(&mut client, &text);
                assert_eq!(outcome.as_ref().unwrap_err().as_db_error().unwrap().code().code(), "55P03");
                client.batch_execute("RESET lock_timeout").unwrap();
                transaction.rollback().unwrap();
                outcome
            }
        };
        let whole = match outcome {
            Ok(summary) => {
                assert_eq!(summary.accepted, BATCH as i64);
                true
            }
            Err(error) => {
                let sqlstate =
                    error.as_db_error().unwrap_or_else(|| panic!("{error}")).code().code().to_owned();
                assert!(["57014", "55P03"].contains(&&*sqlstate), "{sqlstate}");
                false
            }
        };
        let rows = if whole { BATCH as i64 } else { 0 };
        assert_eq!(stored(&mut watcher, number), (rows, rows), "after {point:?} of {usual:?}");
        // The same connection, at once: what was stored is a duplicate, what wasn't is accepted. A cancel that came too late for
        // its call strikes here.
        let mut again = ingest(&mut client, &text);
        while again.as_ref().is_err_and(|error| error.as_db_error().unwrap().code().code() == "57014") {
            again = ingest(&mut client, &text);
        }
        let again = again.unwrap();
        assert_eq!((again.accepted, again.duplicates), (BATCH as i64 - rows, rows));
        expected += BATCH as i64;
        if whole { stored_whole += 1 } else { stopped += 1 }
    }
    let events: i64 = watcher.query_one("SELECT sum(events)::int8 FROM tally.usage_day", &[]).unwrap().get(0);
    assert_eq!(events, expected);
    watcher.batch_execute("BEGIN; SELECT tally.enter_global()").unwrap();
    assert!(watcher.query("SELECT tally.verify_rollup('usage')", &[]).unwrap().is_empty());
    println!("{stopped} calls stopped, {stored_whole} done before that, of {usual:?} each");
    assert!(stopped > interruptions / 3);
}

fn memory(pid: i32) -> i64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn memory_stays_flat_over_many_calls_in_one_backend() {
    let calls = setting("TALLY_CALLS", 10_000);
    // Folds need memory, too. With the lesser limit the first half of the calls has seen many, with the greater one no large one.
    for limit in ["64kB", "1MB"] {
        let database = Database::new("flat");
        database.set(&format!("tally.pending_limit = '{limit}'"));
        let mut client = database.superuser();
        let pid: i32 = client.query_one("SELECT pg_backend_pid()", &[]).unwrap().get(0);
        let statement = client
            .prepare("SELECT accepted + duplicates + conflicts + rejected FROM tally.ingest($1::text)")
            .unwrap();
        let mut early = 0;
        for call in 0..calls {
            // New, repeated, conflicting and bad ones, in turn.
            let text = match call % 10 {
                7 => batch(call - 1, 1),
                8 => batch(call - 2, 1).replace("\"n\"", "\"other\""),
                9 => batch(call, 1).replace("2026", "26"),
                _ => batch(call, 1),
            };
            assert_eq!(client.query_one(&statement, &[&text]).unwrap().get::<_, i64>(0), 1);
            if call == calls / 2 {
                early = memory(pid);
            }
        }
        let late = memory(pid);
        println!(
            "limit {limit}: {early} kB of the backend's own memory after half of {calls} calls, {late} kB after all"
        );
        // A leak of some hundred bytes a call is more, and what a fold that this backend does in the second half leaves is less.
        assert!(late <= early * 115 / 100, "limit {limit}: {early} kB, {late} kB");
    }
}
