//! What a long run of hot batches leaves behind, with autovacuum on: size of the base tables against a fresh copy of their
//! rows, the share of updates that touched no index, and what is still pending. `usage` alone: of the enriched layer hardly
//! a row is hot; with `TALLY_BLOAT_ENRICHED=1` it is kept, too.

use postgres::error::SqlState;
use postgres::{Client, Config, NoTls};
use std::error::Error;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use tally_workload::{Workload, json_array};

const CLIENTS: usize = 8;
const BATCH: usize = 1000;
/// Made and sent at a time, so that the client's memory stays bounded.
const PORTION: usize = CLIENTS * 25 * BATCH;

/// Sends `TALLY_BLOAT_EVENTS` events, a million unless told otherwise.
pub fn report(client: &mut Client, config: &Config) -> Result<(), Box<dyn Error>> {
    let events = match std::env::var("TALLY_BLOAT_EVENTS") {
        Ok(text) => text.parse::<usize>()?.div_ceil(PORTION) * PORTION,
        Err(_) => 1_000_000,
    };
    client.batch_execute("SET client_min_messages = warning; SET tally.allow_drop = on; DROP EXTENSION IF EXISTS pg_tally CASCADE")?;
    client.batch_execute("DROP SCHEMA IF EXISTS tally CASCADE; CREATE EXTENSION pg_tally; SELECT tally.open_months('2000-01-01')")?;
    if std::env::var("TALLY_BLOAT_ENRICHED").is_err() {
        client.batch_execute("UPDATE tally.rollup SET filter = 'false' WHERE rollup_name <> 'usage'")?;
    }
    client.batch_execute("ALTER SYSTEM SET autovacuum = on")?;
    client.batch_execute("ALTER SYSTEM SET autovacuum_naptime = '5s'")?;
    client.batch_execute("SELECT pg_reload_conf()")?;
    let workload = Workload { seed: 11, events, days: 30, ..Workload::default() };
    let mut batches = workload.batches(BATCH);
    let refused = AtomicU64::new(0);
    let began = Instant::now();
    loop {
        let portion: Vec<String> =
            batches.by_ref().take(PORTION / BATCH).map(|batch| json_array(&batch)).collect();
        if portion.is_empty() {
            break;
        }
        let (portion, refused) = (&portion, &refused);
        thread::scope(|scope| {
            for number in 0..CLIENTS {
                scope.spawn(move || {
                    let mut client = config.connect(NoTls).expect("a connection");
                    let call =
                        client.prepare("SELECT accepted FROM tally.ingest($1::text)").expect("the call");
                    for batch in portion.iter().skip(number).step_by(CLIENTS) {
                        while let Err(problem) = client.query_one(&call, &[batch]) {
                            assert_eq!(
                                problem.code(),
                                Some(&SqlState::CONFIGURATION_LIMIT_EXCEEDED),
                                "{problem}"
                            );
                            refused.fetch_add(1, Ordering::Relaxed);
                            thread::sleep(Duration::from_secs(1));
                        }
                    }
                });
            }
        });
    }
    let seconds = began.elapsed().as_secs_f64();
    println!(
        "\n{events} events from {CLIENTS} clients in {seconds:.0} s, {} calls refused for a second, autovacuum on",
        refused.into_inner()
    );
    let rollups: Vec<String> = client
        .query("SELECT rollup_name FROM tally.rollup ORDER BY 1", &[])?
        .iter()
        .map(|row| row.get(0))
        .collect();
    for rollup in &rollups {
        while client.query_one("SELECT tally.fold($1)", &[rollup])?.get::<_, i64>(0) > 0 {}
        let pending: i64 =
            client.query_one(&format!("SELECT count(*) FROM tally.{rollup}_pending"), &[])?.get(0);
        println!("  {rollup}: {pending} rows pending after folding");
    }
    // The statistics of the other sessions arrive when these end.
    thread::sleep(std::time::Duration::from_secs(12));
    let bases = "SELECT c.relname::text, pg_table_size(c.oid), s.n_tup_upd, s.n_tup_hot_upd, s.n_live_tup
                   FROM pg_class AS c JOIN pg_stat_user_tables AS s ON s.relid = c.oid
                  WHERE c.relnamespace = 'tally'::regnamespace AND c.relname LIKE '%\\_base' ORDER BY 1";
    println!("  {:<28} {:>10} {:>12} {:>8} {:>14}", "base table", "rows", "updates", "HOT %", "size / fresh");
    for row in client.query(bases, &[])? {
        let (name, size, updates, hot, live): (String, i64, i64, i64, i64) =
            (row.get(0), row.get(1), row.get(2), row.get(3), row.get(4));
        client.batch_execute(&format!(
            "CREATE TABLE fresh (LIKE tally.{name}) WITH (fillfactor = 70, toast_tuple_target = 8160);
             INSERT INTO fresh SELECT * FROM tally.{name}"
        ))?;
        let fresh: i64 = client.query_one("SELECT pg_table_size('fresh')", &[])?.get(0);
        client.batch_execute("DROP TABLE fresh")?;
        println!(
            "  {name:<28} {live:>10} {updates:>12} {:>8.1} {:>14.2}",
            100.0 * hot as f64 / updates.max(1) as f64,
            size as f64 / fresh as f64
        );
    }
    client.batch_execute("ALTER SYSTEM RESET autovacuum")?;
    client.batch_execute("ALTER SYSTEM RESET autovacuum_naptime")?;
    client.batch_execute("SELECT pg_reload_conf()")?;
    Ok(())
}
