//! Paired, interleaved benchmarks: every round gives the same rows to every contender, in a turning order, so that
//! what the machine does meanwhile strikes all alike. Ratios are taken within a round; their median is reported.
//!
//! Usage: tally-bench [rounds [bloat|ingest|doors|rollups|sketches|dashboards|funnels|retention|scopes]], connected by PGHOST, PGPORT and PGUSER to a database made for this run.

mod bloat;
mod contender;
mod dashboards;
mod doors;
mod funnels;
mod pairing;
mod retention;
mod rollups;
mod scopes;
mod sketches;

use contender::Batch;
use pairing::{Measurements, spread};
use postgres::{Client, Config, NoTls};
use std::error::Error;
use tally_workload::{Event, Ids, Workload, copy_lines, json_array};

/// Events in a batch: what an application's queue worker would send at once.
const BATCH: usize = 10_000;
/// Batches of one contender in a round.
const BATCHES: usize = 20;
const DATABASE: &str = "tally_bench";

fn main() -> Result<(), Box<dyn Error>> {
    let rounds = match std::env::args().nth(1) {
        Some(text) => text.parse::<usize>()?.max(1),
        None => 7,
    };
    let mut client = connect()?;
    println!("{}", client.query_one("SELECT version()", &[])?.get::<_, &str>(0));
    let only = std::env::args().nth(2);
    if only.as_deref().is_none_or(|only| only == "ingest") {
        for (ids, per_session) in [(Ids::Random, 1), (Ids::TimeOrdered, 1), (Ids::Random, 10)] {
            compare(&mut client, &config()?, ids, per_session, rounds)?;
        }
    }
    if only.as_deref().is_none_or(|only| only == "doors") {
        doors::compare(&mut client, &config()?, rounds)?;
    }
    if only.as_deref().is_none_or(|only| only == "bloat") {
        bloat::report(&mut client, &config()?)?;
    }
    if only.as_deref().is_none_or(|only| only == "rollups") {
        rollups::compare(&mut client, &config()?, rounds)?;
    }
    if only.as_deref().is_none_or(|only| only == "sketches") {
        sketches::compare(&mut client, rounds)?;
    }
    if only.as_deref().is_none_or(|only| only == "dashboards") {
        dashboards::compare(&mut client, &config()?, rounds)?;
    }
    if only.as_deref().is_none_or(|only| only == "funnels") {
        funnels::compare(&mut client, rounds)?;
    }
    if only.as_deref().is_none_or(|only| only == "retention") {
        retention::measure(&mut client, &config()?, rounds)?;
    }
    if only.as_deref().is_none_or(|only| only == "scopes") {
        scopes::compare(&mut client, &config()?, rounds)?;
    }
    Ok(())
}

fn config() -> Result<Config, Box<dyn Error>> {
    let mut config = Config::new();
    config.host_path(std::env::var("PGHOST")?).port(std::env::var("PGPORT")?.parse()?);
    config.user(&std::env::var("PGUSER")?).dbname(DATABASE);
    Ok(config)
}

fn connect() -> Result<Client, Box<dyn Error>> {
    Ok(config()?.connect(NoTls)?)
}

/// Runs all contenders over `rounds` rounds and one before them that is not counted.
fn compare(
    client: &mut Client,
    config: &Config,
    ids: Ids,
    per_session: usize,
    rounds: usize,
) -> Result<(), Box<dyn Error>> {
    let mut contenders = contender::all(client, config)?;
    let events = BATCH * BATCHES * (rounds + 1);
    let workload = Workload { seed: 20, events, ids, per_session, ..Workload::default() };
    let mut measurements = Measurements::new(contenders.len());
    let mut wal = vec![Vec::new(); contenders.len()];
    let mut batches = workload.batches(BATCH);
    for round in 0..=rounds {
        let batches: Vec<Batch> = batches.by_ref().take(BATCHES).map(render).collect();
        // No checkpoint comes by itself; one before each round gives each contender the same full-page images.
        client.batch_execute("CHECKPOINT")?;
        let mut seconds = vec![0.0; contenders.len()];
        for turn in 0..contenders.len() {
            let chosen = (turn + round) % contenders.len();
            let before = wal_position(client)?;
            seconds[chosen] = contenders[chosen].run(&batches)?;
            wal[chosen].push((wal_position(client)? - before) as f64 / (BATCH * BATCHES) as f64);
        }
        if round > 0 {
            measurements.add(seconds);
        }
    }
    for contender in &mut contenders {
        contender.verify(workload.events as i64)?;
    }
    let ids = if ids == Ids::Random { "random (v4)" } else { "time-ordered (v7)" };
    println!(
        "\n{BATCH}-event batches, {BATCHES} a round, {rounds} rounds, {ids} ids, {per_session} events a session, \
         one connection, fsync on"
    );
    let names: Vec<&str> = contenders.iter().map(|contender| contender.name).collect();
    for ours in 0..contender::OURS {
        measurements.print_beside(ours, &names, (BATCH * BATCHES) as f64);
    }
    println!("  WAL an event, each round after a checkpoint:");
    for (name, bytes) in names.iter().zip(&wal) {
        let [least, middle, greatest] = spread(bytes);
        println!("  {name:<36} {middle:>10.0} bytes   ({least:.0}–{greatest:.0})");
    }
    Ok(())
}

/// Bytes of WAL ever written.
fn wal_position(client: &mut Client) -> Result<i64, Box<dyn Error>> {
    Ok(client.query_one("SELECT (pg_current_wal_lsn() - '0/0')::int8", &[])?.get(0))
}

fn render(events: Vec<Event>) -> Batch {
    Batch { count: events.len() as i64, json: json_array(&events), copy: copy_lines(&events) }
}
