//! The doors of ingest beside plain SQL: batches through each door, replays, single events from eight clients, and what
//! one tenant's flood does to the others' waiting times.

use crate::pairing::{Measurements, spread};
use postgres::{Client, Config, NoTls};
use std::error::Error;
use std::io::Write;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use tally_workload::{Event, Workload, copy_lines, json_array};

const BATCH: usize = 10_000;
/// Batches of one contender in a round.
const BATCHES: usize = 3;
const CLIENTS: usize = 8;
/// Calls of one quiet tenant in a round of the flood, and those before them that aren't counted.
const CALLS: usize = 200;
const WARM: usize = 10;
/// Single events of one client in a round.
const SINGLES: usize = 500;

const COLUMNS: &str = "tenant_id text COLLATE \"C\", account_id text, name text, occurred_at timestamptz, \
                       event_id uuid, user_id text, session_id text, properties jsonb";
const ON_CONFLICT: &str = "INSERT INTO peer SELECT r.* FROM jsonb_to_recordset($1::text::jsonb) AS r (tenant_id text,
    account_id text, name text, occurred_at timestamptz, event_id uuid, user_id text, session_id text, properties jsonb)
    ON CONFLICT (tenant_id, event_id) DO NOTHING";
const INGEST: &str = "SELECT accepted FROM tally.ingest($1::text)";
/// Folds what calls leave to others: before the clock starts, what is not of the calls that are measured, and before it stops, what is.
const FOLD: &str = "SELECT tally_internal.fold_step(rollup_name, 1000000) FROM tally.rollup";

/// Runs all of them.
pub fn compare(client: &mut Client, config: &Config, rounds: usize) -> Result<(), Box<dyn Error>> {
    prepare(client)?;
    batches(client, rounds)?;
    replays(client, rounds)?;
    singles(client, config, rounds)?;
    flood(client, config, rounds)
}

fn prepare(client: &mut Client) -> Result<(), Box<dyn Error>> {
    client.batch_execute(&format!(
        "SET client_min_messages = warning; SET tally.allow_drop = on; DROP EXTENSION IF EXISTS pg_tally CASCADE; DROP SCHEMA IF EXISTS tally CASCADE;
         CREATE EXTENSION pg_tally; SELECT tally.open_months('2000-01-01'); DROP TABLE IF EXISTS peer;
         CREATE TABLE peer ({COLUMNS}, PRIMARY KEY (tenant_id, event_id))"
    ))?;
    Ok(())
}

/// New events, of a seed of their own for each use.
fn workload(seed: u64, events: usize) -> Vec<Event> {
    Workload { seed, events, ..Workload::default() }.generate().collect()
}

/// 10,000-event batches through the JSON door, the typed door and the inbox. Each door gets events of its own: an event that
/// came through one would be a duplicate at the next.
fn batches(client: &mut Client, rounds: usize) -> Result<(), Box<dyn Error>> {
    let names = ["tally.ingest (JSON)", "tally.ingest_events (typed)", "COPY tally.inbox"];
    let json = client.prepare(INGEST)?;
    client.batch_execute("CREATE TEMP TABLE typed (batch int, events tally.event[])")?;
    let typed = client.prepare(
        "SELECT i.accepted FROM typed AS t, tally.ingest_events(t.events) AS i WHERE t.batch = $1",
    )?;
    let mut measurements = Measurements::new(names.len());
    for round in 0..=rounds {
        let mut seconds = vec![0.0; names.len()];
        client.batch_execute("CHECKPOINT; TRUNCATE typed")?;
        for turn in 0..names.len() {
            let door = (turn + round) % names.len();
            let events = workload(1_000 + (round * 10 + door) as u64, BATCH * BATCHES);
            let texts: Vec<(String, String)> =
                events.chunks(BATCH).map(|batch| (json_array(batch), copy_lines(batch))).collect();
            if door == 1 {
                for (place, (json, _)) in texts.iter().enumerate() {
                    let insert = "INSERT INTO typed SELECT $1, array_agg(e::tally.event) FROM jsonb_array_elements($2::text::jsonb) AS e";
                    client.execute(insert, &[&(place as i32), json])?;
                }
            }
            client.batch_execute(FOLD)?;
            let began = Instant::now();
            for (place, (text, lines)) in texts.iter().enumerate() {
                let accepted = match door {
                    0 => client.query_one(&json, &[text])?.get::<_, i64>(0),
                    1 => client.query_one(&typed, &[&(place as i32)])?.get::<_, i64>(0),
                    _ => {
                        let mut copy = client.copy_in("COPY tally.inbox FROM STDIN")?;
                        copy.write_all(lines.as_bytes())?;
                        copy.finish()? as i64
                    }
                };
                assert_eq!(accepted, BATCH as i64, "{}", names[door]);
            }
            client.batch_execute(FOLD)?;
            seconds[door] = began.elapsed().as_secs_f64();
        }
        if round > 0 {
            measurements.add(seconds);
        }
    }
    println!("\ndoors: {BATCH}-event batches, {BATCHES} a round, {rounds} rounds, one connection");
    measurements.print(&names, (BATCH * BATCHES) as f64);
    Ok(())
}

/// The same batches again: every event is there already.
fn replays(client: &mut Client, rounds: usize) -> Result<(), Box<dyn Error>> {
    let names = ["tally.ingest, all duplicates", "ON CONFLICT DO NOTHING, all there"];
    let (ingest, insert) = (client.prepare(INGEST)?, client.prepare(ON_CONFLICT)?);
    let texts: Vec<String> = workload(2_000, BATCH * BATCHES).chunks(BATCH).map(json_array).collect();
    for text in &texts {
        client.query_one(&ingest, &[text])?;
        client.execute(&insert, &[text])?;
    }
    client.batch_execute(FOLD)?;
    client.batch_execute("VACUUM ANALYZE")?;
    let mut measurements = Measurements::new(names.len());
    for round in 0..=rounds {
        let mut seconds = vec![0.0; names.len()];
        for turn in 0..names.len() {
            let chosen = (turn + round) % names.len();
            let began = Instant::now();
            for text in &texts {
                let stored = match chosen {
                    0 => client.query_one(&ingest, &[text])?.get::<_, i64>(0),
                    _ => client.execute(&insert, &[text])? as i64,
                };
                assert_eq!(stored, 0);
            }
            seconds[chosen] = began.elapsed().as_secs_f64();
        }
        if round > 0 {
            measurements.add(seconds);
        }
    }
    println!("\nreplay: {BATCH}-event batches of duplicates, {BATCHES} a round, {rounds} rounds");
    measurements.print(&names, (BATCH * BATCHES) as f64);
    Ok(())
}

/// Eight clients that send one event a call, each its own transaction.
fn singles(client: &mut Client, config: &Config, rounds: usize) -> Result<(), Box<dyn Error>> {
    let names = ["tally.ingest, one event", "prepared INSERT, one row"];
    let plain = "INSERT INTO peer VALUES ($1, $2, $3, $4::text::timestamptz, $5::text::uuid, $6, $7, $8::text::jsonb)";
    let mut measurements = Measurements::new(names.len());
    for round in 0..=rounds {
        let mut seconds = vec![0.0; names.len()];
        client.batch_execute("CHECKPOINT")?;
        for turn in 0..names.len() {
            let chosen = (turn + round) % names.len();
            let events = workload(3_000 + (round * 10 + chosen) as u64, SINGLES * CLIENTS);
            let barrier = Barrier::new(CLIENTS + 1);
            client.batch_execute(FOLD)?;
            seconds[chosen] = thread::scope(|scope| -> Result<f64, Box<dyn Error>> {
                let clients: Vec<_> = events
                    .chunks(SINGLES)
                    .map(|events| {
                        let (barrier, config) = (&barrier, config);
                        let texts: Vec<String> =
                            events.iter().map(|event| json_array(std::slice::from_ref(event))).collect();
                        let rows: Vec<Vec<Option<String>>> = events.iter().map(fields).collect();
                        scope.spawn(move || {
                            let mut client = config.connect(NoTls).expect("connecting");
                            let statement =
                                client.prepare(if chosen == 0 { INGEST } else { plain }).expect("preparing");
                            barrier.wait();
                            for (text, row) in texts.iter().zip(&rows) {
                                if chosen == 0 {
                                    let accepted: i64 =
                                        client.query_one(&statement, &[text]).expect("ingest").get(0);
                                    assert_eq!(accepted, 1);
                                } else {
                                    let row: Vec<&(dyn postgres::types::ToSql + Sync)> =
                                        row.iter().map(|field| field as _).collect();
                                    assert_eq!(client.execute(&statement, &row).expect("INSERT"), 1);
                                }
                            }
                        })
                    })
                    .collect();
                barrier.wait();
                let began = Instant::now();
                for sender in clients {
                    sender.join().map_err(|_| "a client failed")?;
                }
                if chosen == 0 {
                    client.batch_execute(FOLD)?;
                }
                Ok(began.elapsed().as_secs_f64())
            })?;
        }
        if round > 0 {
            measurements.add(seconds);
        }
    }
    println!(
        "\nsingle events: {CLIENTS} clients, {SINGLES} calls each a round, {rounds} rounds, a commit each, fsync on"
    );
    measurements.print(&names, (SINGLES * CLIENTS) as f64);
    Ok(())
}

/// The columns of a COPY line.
fn fields(event: &Event) -> Vec<Option<String>> {
    let line = copy_lines(std::slice::from_ref(event));
    line.trim_end_matches('\n')
        .split('\t')
        .map(|field| (field != "\\N").then(|| field.replace("\\\\", "\\")))
        .collect()
}

/// Waiting times of calls of ten events by four quiet tenants, alone and while another tenant floods from four connections.
fn flood(client: &mut Client, config: &Config, rounds: usize) -> Result<(), Box<dyn Error>> {
    let mut ratios = Vec::new();
    for quota in [false, true] {
        // A quota of 60,000 a minute for the one that floods.
        let call = if quota {
            "SELECT tally.set_quota('flood', 60000, burst => 5000)"
        } else {
            "SELECT tally.set_quota('flood')"
        };
        client.batch_execute(call)?;
        ratios.clear();
        let mut medians = [0.0; 2];
        for round in 0..rounds.min(5) {
            let mut percentiles = [0.0; 2];
            for flooding in [false, true] {
                client.batch_execute(FOLD)?;
                let stop = AtomicBool::new(false);
                let waits: Vec<f64> = thread::scope(|scope| {
                    if flooding {
                        for writer in 0..4 {
                            let stop = &stop;
                            scope.spawn(move || {
                                let mut client = config.connect(NoTls).expect("connecting");
                                let mut seed = 1_000_000 + (round * 10_000 + writer * 1_000) as u64;
                                while !stop.load(Ordering::Relaxed) {
                                    let text = one_tenant(seed, 1_000, "flood");
                                    seed += 1;
                                    // Over its quota it is refused, and waits as its hint says, or thereabouts.
                                    if client.query_one(INGEST, &[&text]).is_err() {
                                        thread::sleep(Duration::from_millis(200));
                                    }
                                }
                            });
                        }
                    }
                    let quiet: Vec<_> = (0..4)
                        .map(|tenant| {
                            scope.spawn(move || {
                                let mut client = config.connect(NoTls).expect("connecting");
                                let call = client.prepare(INGEST).expect("preparing");
                                let mut wait = |number: usize| {
                                    let seed = 500_000
                                        + (round * 10_000 + tenant * 1_000 + number) as u64 * 2
                                        + u64::from(flooding);
                                    let text = one_tenant(seed, 10, &format!("quiet{tenant}"));
                                    thread::sleep(Duration::from_millis(20));
                                    let began = Instant::now();
                                    client.query_one(&call, &[&text]).expect("ingest");
                                    began.elapsed().as_secs_f64()
                                };
                                // A connection's first calls load caches, and are its slowest.
                                (0..WARM).for_each(|number| _ = wait(number));
                                (WARM..WARM + CALLS).map(wait).collect::<Vec<f64>>()
                            })
                        })
                        .collect();
                    let waits =
                        quiet.into_iter().flat_map(|client| client.join().expect("a quiet client")).collect();
                    stop.store(true, Ordering::Relaxed);
                    waits
                });
                let mut waits = waits;
                waits.sort_by(f64::total_cmp);
                percentiles[usize::from(flooding)] = waits[waits.len() * 99 / 100];
            }
            ratios.push(percentiles[1] / percentiles[0]);
            medians = percentiles;
        }
        let [least, middle, greatest] = spread(&ratios);
        let with = if quota { "with a quota of 60,000 a minute" } else { "without a quota" };
        println!(
            "\nflood {with}: p99 of the others {middle:.2} times ({least:.2}–{greatest:.2}) that without it; last round {:.1} and {:.1} ms",
            medians[1] * 1e3,
            medians[0] * 1e3
        );
    }
    Ok(())
}

/// Events of one tenant.
fn one_tenant(seed: u64, events: usize, tenant: &str) -> String {
    let workload = Workload { seed, events, tenants: 1, ..Workload::default() };
    let events: Vec<Event> =
        workload.generate().map(|event| Event { tenant_id: tenant.to_owned(), ..event }).collect();
    json_array(&events)
}
