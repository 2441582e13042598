//! The same events sent once, twice and ten times, split, shuffled and overlapped, by eight sessions and through every door,
//! with cancels, timeouts and rollbacks at random points, are stored as if they had been sent once: raw rows, ledger and
//! rollups are equal to the byte. `TALLY_CASES` sets the number of cases (30); 10,000 is the long form.

use postgres::{CancelToken, Client, NoTls};
use serde_json::{Value, json};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::thread;
use std::time::Duration;
use tally_server_tests::{Database, ingest, seeded};
use tally_workload::Random;

const SESSIONS: usize = 8;
/// Calls of a case from which on no more are cancelled, about.
const CANCELLED_A_CASE: i64 = 40;

/// Events of a case, each with a key of its own; the tenant's place is left open.
fn events(random: &mut Random) -> Vec<Value> {
    let count = [1, 3, 20, 60][random.below(4)];
    (0..count)
        .map(|_| {
            let mut event = json!({
                "account_id": format!("a{}", random.below(3)), "name": format!("n{}", random.below(2)),
                "event_id": format!("{:08x}-0000-4000-8000-{:012x}", random.bits() as u32, random.bits() >> 16),
                "occurred_at": format!("2026-0{}-{:02}T{:02}:00:00Z", 1 + random.below(2), 1 + random.below(3), random.below(24)),
                "properties": {"value": random.below(1_000)}
            });
            if random.below(2) > 0 {
                event["session_id"] = json!(format!("s{}", random.below(5)));
            }
            if random.below(3) > 0 {
                event["user_id"] = json!(format!("u{}", random.below(40)));
            }
            event
        })
        .collect()
}

fn of_tenant(event: &Value, tenant: &str) -> Value {
    let mut event = event.clone();
    event["tenant_id"] = json!(tenant);
    event
}

/// Every event so many times, in batches that several sessions send.
fn plan(events: &[Value], tenant: &str, random: &mut Random) -> Vec<Vec<Vec<Value>>> {
    let times = [1, 2, 10][random.below(3)];
    let mut sends: Vec<Value> =
        (0..times).flat_map(|_| events.iter().map(|event| of_tenant(event, tenant))).collect();
    random.shuffle(&mut sends);
    let mut sessions = vec![Vec::new(); SESSIONS];
    while !sends.is_empty() {
        let most = [1, 5, 50][random.below(3)];
        let take = (1 + random.below(most)).min(sends.len());
        sessions[random.below(SESSIONS)].push(sends.split_off(sends.len() - take));
    }
    sessions
}

/// Sends one batch through some door; returns how many were accepted, where it says so.
fn send(client: &mut Client, batch: &[Value], door: usize) -> Result<Option<i64>, postgres::Error> {
    match door {
        0 => {
            let texts: Vec<String> = batch.iter().map(Value::to_string).collect();
            let query = "SELECT accepted FROM tally.ingest_events($1::text[]::tally.event[])";
            Ok(Some(client.query_one(query, &[&texts])?.get(0)))
        }
        1 => {
            let insert = "INSERT INTO tally.inbox SELECT e->>'tenant_id', e->>'account_id', e->>'name', e->>'occurred_at',
                                 e->>'event_id', e->>'user_id', e->>'session_id', e->>'properties'
                          FROM jsonb_array_elements($1::text::jsonb) AS e";
            client.execute(insert, &[&Value::Array(batch.to_vec()).to_string()])?;
            Ok(None)
        }
        _ => Ok(Some(ingest(client, &Value::Array(batch.to_vec()).to_string())?.accepted)),
    }
}

/// Sends a batch until it is acknowledged, with trouble on the way.
fn insist(client: &mut Client, batch: &[Value], random: &mut Random, failures: &AtomicI64) {
    loop {
        let door = random.below(4);
        let trouble = random.below(8);
        let outcome = match trouble {
            0 => {
                client
                    .batch_execute(&format!("SET statement_timeout = {}", 1 + random.below(6)))
                    .unwrap_or(());
                let outcome = send(client, batch, door);
                // Cancels may strike here, too.
                while client.batch_execute("RESET statement_timeout").is_err() {}
                outcome.map(|_| ())
            }
            1 => {
                // Sent, and then undone: it must be sent again.
                let undone =
                    client.batch_execute("BEGIN").and_then(|()| send(client, batch, door).map(|_| ()));
                while client.batch_execute("ROLLBACK").is_err() {}
                undone.ok();
                continue;
            }
            2 => {
                // Undone to a savepoint within, and sent again behind it.
                let outcome = client
                    .batch_execute("BEGIN; SAVEPOINT s")
                    .and_then(|()| send(client, batch, door))
                    .and_then(|_| client.batch_execute("ROLLBACK TO s"))
                    .and_then(|()| send(client, batch, door).map(|_| ()));
                let end = if outcome.is_ok() { client.batch_execute("COMMIT") } else { Ok(()) };
                if outcome.is_err() || end.is_err() {
                    while client.batch_execute("ROLLBACK").is_err() {}
                }
                outcome.and(end)
            }
            _ => send(client, batch, door).map(|_| ()),
        };
        match outcome {
            Ok(()) => return,
            Err(error) => {
                let sqlstate = error.as_db_error().unwrap_or_else(|| panic!("{error}")).code().code();
                // Cancelled or timed out; two transactions with two batches each may also meet in a deadlock.
                assert!(["57014", "40P01"].contains(&sqlstate), "{error:?}");
                failures.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

/// Everything that a tenant's events came to, but for what names the tenant or a batch.
fn state(client: &mut Client, tenant: &str) -> Vec<String> {
    let queries = [
        "SELECT concat_ws('|', 'event', occurred_at, event_id, account_id, name, user_id, session_id, properties) FROM tally.events",
        "SELECT concat_ws('|', 'key', occurred_at, event_id, fingerprint) FROM tally.event_key",
        "SELECT concat_ws('|', 'hour', account_id, bucket, name, events, tally_internal.hll_send(users), tally_internal.hll_send(sessions), value_sum,
                tally.num_vals(value), tally.min_val(value), tally.max_val(value), first_at, last_at) FROM tally.usage_hour_state",
        "SELECT concat_ws('|', 'day', account_id, bucket, name, events, tally_internal.hll_send(users), tally_internal.hll_send(sessions), value_sum,
                tally.num_vals(value), tally.min_val(value), tally.max_val(value), first_at, last_at) FROM tally.usage_day_state",
        "SELECT concat_ws('|', 'user', user_id, first_seen, last_seen, events, active_days) FROM tally.users",
        "SELECT concat_ws('|', 'account', account_id, first_seen, last_seen, events) FROM tally.accounts",
        "SELECT concat_ws('|', 'session', account_id, session_id, user_id, started_at, ended_at, events) FROM tally.sessions",
    ];
    let mut rows: Vec<String> = queries
        .iter()
        .flat_map(|query| client.query(&format!("{query} WHERE tenant_id = $1"), &[&tenant]).unwrap())
        .map(|row| row.get(0))
        .collect();
    rows.sort_unstable();
    rows
}

#[test]
fn however_events_are_sent_they_are_stored_as_if_sent_once() {
    let cases: usize = std::env::var("TALLY_CASES").map_or(30, |cases| cases.parse().unwrap());
    let mut random = seeded();
    let mut database = Database::new("exactly_once");
    let writer = database.role("writer", &["tally_writer", "tally_reader"]);
    let mut admin = database.superuser();
    admin.execute("SELECT tally.trust_role($1::text::regrole)", &[&writer]).unwrap();
    // Often enough that folds happen in the middle of it.
    database.set("tally.pending_limit = '64kB'");
    let mut sessions: Vec<Client> = (0..SESSIONS).map(|_| database.connect(&writer)).collect();
    let (failures, duplicates) = (AtomicI64::new(0), AtomicI64::new(0));
    let (stop, begun) = (AtomicBool::new(false), AtomicI64::new(0));
    let tokens: Mutex<Vec<CancelToken>> = Mutex::new(sessions.iter().map(Client::cancel_token).collect());
    let seed = random.bits();
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut random = Random::new(seed);
            while !stop.load(Ordering::Relaxed) {
                thread::sleep(Duration::from_micros(500 + random.below(8_000) as u64));
                // Where calls take long, nearly all would be cancelled, without end.
                if failures.load(Ordering::Relaxed) >= CANCELLED_A_CASE * begun.load(Ordering::Relaxed) {
                    continue;
                }
                let token = tokens.lock().unwrap()[random.below(SESSIONS)].clone();
                token.cancel_query(NoTls).ok();
            }
        });
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for case in 0..cases {
                begun.fetch_add(1, Ordering::Relaxed);
                let (once, chaos) = (format!("once{case}"), format!("chaos{case}"));
                // Sketches of two tenants differ by their secret; these two share one.
                admin
                    .execute(
                        "INSERT INTO tally.tenant SELECT 1, now(), t, decode(repeat('ab', 16), 'hex') FROM unnest($1::text[]) AS t",
                        &[&vec![&once, &chaos]],
                    )
                    .unwrap();
                let events = events(&mut random);
                let batch = Value::Array(events.iter().map(|event| of_tenant(event, &once)).collect());
                let summary = ingest(&mut admin, &batch.to_string()).unwrap();
                assert_eq!(summary.accepted, events.len() as i64);
                let plans = plan(&events, &chaos, &mut random);
                let seeds: Vec<u64> = plans.iter().map(|_| random.bits()).collect();
                thread::scope(|scope| {
                    for ((client, batches), seed) in sessions.iter_mut().zip(&plans).zip(seeds) {
                        let failures = &failures;
                        scope.spawn(move || {
                            let mut random = Random::new(seed);
                            for batch in batches {
                                insist(client, batch, &mut random, failures);
                            }
                        });
                    }
                });
                assert_eq!(state(&mut admin, &chaos), state(&mut admin, &once), "case {case}");
                let counted: (i64, i64) = {
                    let row = admin
                        .query_one(
                            "SELECT sum(accepted)::int8, sum(duplicates)::int8 FROM tally.ingest_batch WHERE tenant_id = $1",
                            &[&chaos],
                        )
                        .unwrap();
                    (row.get(0), row.get(1))
                };
                let sent: usize = plans.iter().flatten().map(Vec::len).sum();
                assert_eq!(counted, (events.len() as i64, (sent - events.len()) as i64), "case {case}");
                duplicates.fetch_add(counted.1, Ordering::Relaxed);
            }
        }));
        stop.store(true, Ordering::Relaxed);
        if let Err(panic) = outcome {
            std::panic::resume_unwind(panic);
        }
    });
    admin.batch_execute("BEGIN; SELECT tally.enter_global()").unwrap();
    let differences = admin.query("SELECT tally.verify_rollup('usage')::text", &[]).unwrap();
    assert!(
        differences.is_empty(),
        "{:?}",
        differences.iter().map(|row| row.get::<_, String>(0)).collect::<Vec<_>>()
    );
    println!(
        "{cases} cases, {} duplicates, {} calls interrupted",
        duplicates.into_inner(),
        failures.into_inner()
    );
}
