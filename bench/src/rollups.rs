//! Ingest with rollups against the same ingest without, and against what one would write by hand: raw rows deduplicated by
//! ON CONFLICT and, in the same statement, an hourly and a daily table upserted in order of their keys, with the sketches of
//! postgresql-hll and tdigest. Eight clients at once, each with batches of its own. What is still pending after the last
//! batch is folded inside the measured time.

use crate::pairing::Measurements;
use postgres::{Client, Config, NoTls};
use std::error::Error;
use std::sync::Barrier;
use std::thread;
use std::time::Instant;
use tally_workload::{Workload, json_array};

const CLIENTS: usize = 8;
const BATCH: usize = 1000;
/// Batches of one client in a round.
const BATCHES: usize = 20;

/// The same measures as the hand-written tables keep.
const ROLLUP: &str = "SELECT tally.create_rollup('peer', '{hour,day}', dimensions => '{name}',
    measures => ARRAY['count(*) AS events', 'distinct(user_id) AS users',
                      $$percentiles(tally.property_float(properties, 'value')) AS value$$])";

const HAND_WRITTEN: &str = "
    CREATE EXTENSION IF NOT EXISTS hll SCHEMA public;
    CREATE EXTENSION IF NOT EXISTS tdigest SCHEMA public;
    DROP TABLE IF EXISTS hand_raw, hand_hour, hand_day;
    CREATE TABLE hand_raw (tenant_id text COLLATE \"C\", account_id text COLLATE \"C\", name text COLLATE \"C\",
      occurred_at timestamptz, event_id uuid, user_id text, session_id text, properties jsonb,
      PRIMARY KEY (tenant_id, event_id));
    CREATE INDEX ON hand_raw (tenant_id, account_id, occurred_at);
    CREATE TABLE hand_hour (tenant_id text COLLATE \"C\", account_id text COLLATE \"C\", bucket timestamptz,
      name text COLLATE \"C\", events int8, users public.hll, value public.tdigest,
      PRIMARY KEY (tenant_id, account_id, bucket, name)) WITH (fillfactor = 70);
    CREATE TABLE hand_day (LIKE hand_hour INCLUDING ALL) WITH (fillfactor = 70);";

fn hand_written() -> String {
    let upsert = |table: &str, grain: &str| {
        format!(
            "INSERT INTO {table} AS t SELECT tenant_id, account_id, date_trunc('{grain}', occurred_at, 'UTC'), name,
               count(*), public.hll_add_agg(public.hll_hash_text(user_id)),
               public.tdigest((properties->>'value')::float8, 100)
             FROM fresh GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4
             ON CONFLICT (tenant_id, account_id, bucket, name) DO UPDATE SET events = t.events + excluded.events,
               users = public.hll_union(t.users, excluded.users),
               value = public.tdigest_union(t.value, excluded.value)"
        )
    };
    format!(
        "WITH fresh AS (INSERT INTO hand_raw SELECT r.* FROM jsonb_to_recordset($1::text::jsonb) AS r (tenant_id text,
           account_id text, name text, occurred_at timestamptz, event_id uuid, user_id text, session_id text,
           properties jsonb) ORDER BY tenant_id, event_id ON CONFLICT DO NOTHING RETURNING *),
         hours AS ({}), days AS ({}) SELECT count(*) FROM fresh",
        upsert("hand_hour", "hour"),
        upsert("hand_day", "day")
    )
}

/// One way of keeping the numbers, in a database of its own.
struct Way {
    name: &'static str,
    database: &'static str,
    set_up: String,
    call: String,
    fold: bool,
}

fn ways(with_peers: bool) -> Vec<Way> {
    // The built-in rollups keep other things than the hand-written tables do, so they are given a filter that nothing
    // passes, and one that keeps the same is declared. The filters are still evaluated for each event, in both ways.
    let bare = "CREATE EXTENSION pg_tally; SELECT tally.open_months('2000-01-01'); UPDATE tally.rollup SET filter = 'false';";
    let ingest = "SELECT accepted FROM tally.ingest($1::text)".to_owned();
    let mut ways = vec![
        Way {
            name: "ingest, hourly and daily rollup",
            database: "tally_bench_rollup",
            set_up: format!("{bare} {ROLLUP}"),
            call: ingest.clone(),
            fold: true,
        },
        Way {
            name: "ingest without a rollup",
            database: "tally_bench_bare",
            set_up: bare.to_owned(),
            call: ingest,
            fold: false,
        },
    ];
    if with_peers {
        ways.push(Way {
            name: "hand-written upsert, C extensions",
            database: "tally_bench_hand",
            set_up: HAND_WRITTEN.to_owned(),
            call: hand_written(),
            fold: false,
        });
    }
    ways
}

/// Runs hot batches, then sparse ones.
pub fn compare(client: &mut Client, config: &Config, rounds: usize) -> Result<(), Box<dyn Error>> {
    let available: i64 = client
        .query_one("SELECT count(*) FROM pg_available_extensions WHERE name IN ('hll', 'tdigest')", &[])?
        .get(0);
    if available < 2 {
        println!("\nrollups: no hand-written peer, postgresql-hll or tdigest is not installed");
    }
    for peer in ["timescaledb", "pg_ivm", "pg_incremental"] {
        let found = client.query_opt("SELECT FROM pg_available_extensions WHERE name = $1", &[&peer])?;
        println!(
            "{}{peer}: {}",
            if peer == "timescaledb" { "\n" } else { "" },
            match found {
                Some(_) => "installed, but not compared: no contender is written for it",
                None => "not installed, not compared",
            }
        );
    }
    let hot = Workload { seed: 7, tenants: 4, accounts: 10, days: 1, ..Workload::default() };
    let sparse =
        Workload { seed: 8, tenants: 10, accounts: 5000, users: 20, days: 60, ..Workload::default() };
    for (kind, workload) in [("hot", hot), ("sparse", sparse)] {
        one(client, config, rounds, kind, workload, ways(available == 2))?;
    }
    Ok(())
}

fn one(
    client: &mut Client,
    config: &Config,
    rounds: usize,
    kind: &str,
    workload: Workload,
    ways: Vec<Way>,
) -> Result<(), Box<dyn Error>> {
    let workload = Workload { events: CLIENTS * BATCHES * BATCH * (rounds + 1), ..workload };
    for way in &ways {
        client.batch_execute(&format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", way.database))?;
        client.batch_execute(&format!("CREATE DATABASE {}", way.database))?;
        let mut own = config.clone().dbname(way.database).connect(NoTls)?;
        own.batch_execute(&format!("SET client_min_messages = warning; {}", way.set_up))?;
    }
    let mut measurements = Measurements::new(ways.len());
    let mut batches = workload.batches(BATCH);
    for round in 0..=rounds {
        let batches: Vec<String> =
            batches.by_ref().take(CLIENTS * BATCHES).map(|batch| json_array(&batch)).collect();
        client.batch_execute("CHECKPOINT")?;
        let mut seconds = vec![0.0; ways.len()];
        for turn in 0..ways.len() {
            let chosen = (turn + round) % ways.len();
            seconds[chosen] = run(config, &ways[chosen], &batches)?;
        }
        if round > 0 {
            measurements.add(seconds);
        }
    }
    println!(
        "\n{kind}: {CLIENTS} clients, batches of {BATCH}, {BATCHES} a client and round, {rounds} rounds, fsync on"
    );
    let names: Vec<&str> = ways.iter().map(|way| way.name).collect();
    measurements.print(&names, (CLIENTS * BATCHES * BATCH) as f64);
    for way in &ways {
        verify(config, way, &workload)?;
    }
    Ok(())
}

/// Sends the batches, dealt out to the clients; returns the seconds until everything is stored and folded.
fn run(config: &Config, way: &Way, batches: &[String]) -> Result<f64, Box<dyn Error>> {
    let start = Barrier::new(CLIENTS + 1);
    let config = config.clone().dbname(way.database).clone();
    thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|number| {
                let (start, config) = (&start, &config);
                scope.spawn(move || {
                    let mut client = config.connect(NoTls).expect("a connection");
                    let call = client.prepare(&way.call).expect("the call");
                    start.wait();
                    for batch in batches.iter().skip(number).step_by(CLIENTS) {
                        let stored: i64 = client.query_one(&call, &[batch]).expect("a batch").get(0);
                        assert_eq!(stored, BATCH as i64, "{}", way.name);
                    }
                })
            })
            .collect();
        start.wait();
        let began = Instant::now();
        for client in clients {
            client.join().expect("a client");
        }
        if way.fold {
            let mut client = config.connect(NoTls)?;
            while client.query_one("SELECT tally.fold('peer')", &[])?.get::<_, i64>(0) > 0 {}
        }
        Ok(began.elapsed().as_secs_f64())
    })
}

/// Every way must have counted every event, in hours and in days.
fn verify(config: &Config, way: &Way, workload: &Workload) -> Result<(), Box<dyn Error>> {
    let tables: &[&str] = match way.database {
        "tally_bench_hand" => &["hand_hour", "hand_day"],
        "tally_bench_rollup" => &["tally.peer_hour_base", "tally.peer_day_base"],
        _ => return Ok(()),
    };
    let mut client = config.clone().dbname(way.database).connect(NoTls)?;
    for table in tables {
        let row = client.query_one(&format!("SELECT sum(events)::int8, count(*) FROM {table}"), &[])?;
        let (events, groups): (i64, i64) = (row.get(0), row.get(1));
        println!("  {table}: {groups} rows, {:.1} events a row", events as f64 / groups as f64);
        if events != workload.events as i64 {
            return Err(format!("{table} counts {events} of {} events", workload.events).into());
        }
    }
    Ok(())
}
