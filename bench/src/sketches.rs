//! The sketch aggregates against postgresql-hll and tvondra's tdigest: same rows, same session, interleaved.

use crate::pairing::spread;
use postgres::Client;
use std::error::Error;
use std::time::Instant;

/// One comparison. `base` reads the same rows and does next to nothing with them.
struct Pair {
    name: &'static str,
    peer: &'static str,
    ours: &'static str,
    base: &'static str,
    /// The ratio ours / peer that the project wants, of whole statements.
    wanted: f64,
}

const SETUP: &str = "
    CREATE EXTENSION IF NOT EXISTS hll SCHEMA public;
    CREATE EXTENSION IF NOT EXISTS tdigest SCHEMA public;
    SET max_parallel_workers_per_gather = 0;
    SET jit = off;
    SET work_mem = '1GB';
    SELECT setseed(0.5);
    CREATE TEMP TABLE wide AS
      SELECT 'user_' || (hashint4(g) % 1000000) AS u, exp(random() * 5) AS x FROM generate_series(1, 2000000) AS g;
    CREATE TEMP TABLE grouped AS
      SELECT (g % 100000) AS k, 'user_' || (hashint4(g) % 1000000) AS u FROM generate_series(1, 10000000) AS g;
    CREATE TEMP TABLE hll_peer AS
      SELECT public.hll_add_agg(public.hll_hash_integer(g)) AS s FROM generate_series(1, 5000000) AS g GROUP BY g % 1000;
    CREATE TEMP TABLE hll_ours AS SELECT tally.hll(g) AS s FROM generate_series(1, 5000000) AS g GROUP BY g % 1000;
    CREATE TEMP TABLE hlls_peer AS SELECT s FROM hll_peer, generate_series(1, 100);
    CREATE TEMP TABLE hlls_ours AS SELECT s FROM hll_ours, generate_series(1, 100);
    CREATE TEMP TABLE td_peer AS
      SELECT public.tdigest(exp(random() * 5), 100) AS s FROM generate_series(1, 2000000) AS g GROUP BY g % 1000;
    CREATE TEMP TABLE td_ours AS
      SELECT tally.tdigest(exp(random() * 5)) AS s FROM generate_series(1, 2000000) AS g GROUP BY g % 1000;
    CREATE TEMP TABLE tds_peer AS SELECT s FROM td_peer, generate_series(1, 50);
    CREATE TEMP TABLE tds_ours AS SELECT s FROM td_ours, generate_series(1, 50);
    ANALYZE;";

const PAIRS: [Pair; 6] = [
    Pair {
        name: "distinct, one group of 2 M texts",
        peer: "SELECT public.hll_cardinality(public.hll_add_agg(public.hll_hash_text(u))) FROM wide",
        ours: "SELECT tally.distinct_count(tally.hll(u)) FROM wide",
        base: "SELECT count(u) FROM wide",
        wanted: 0.95,
    },
    Pair {
        name: "distinct, 100,000 groups of 100, hashed",
        peer: "SET enable_hashagg = off; SELECT count(s) FROM (SELECT public.hll_add_agg(public.hll_hash_text(u)) AS s
                 FROM grouped GROUP BY k OFFSET 0) AS t; RESET enable_hashagg",
        ours: "SELECT count(s) FROM (SELECT tally.hll(u) AS s FROM grouped GROUP BY k OFFSET 0) AS t",
        base: "SELECT count(s) FROM (SELECT count(u) AS s FROM grouped GROUP BY k OFFSET 0) AS t",
        wanted: 0.5,
    },
    Pair {
        name: "union of 100,000 dense sketches",
        peer: "SELECT public.hll_cardinality(public.hll_union_agg(s)) FROM hlls_peer",
        ours: "SELECT tally.distinct_count(tally.rollup(s)) FROM hlls_ours",
        base: "SELECT count(s) FROM hlls_ours",
        wanted: 0.1,
    },
    Pair {
        name: "percentile, one group of 2 M doubles",
        peer: "SELECT public.tdigest_percentile(x, 100, 0.95) FROM wide",
        ours: "SELECT tally.approx_percentile(0.95, tally.tdigest(x)) FROM wide",
        base: "SELECT count(x) FROM wide",
        wanted: 0.55,
    },
    Pair {
        name: "merge of 50,000 digests of 2,000",
        peer: "SELECT public.tdigest_percentile(s, 0.95) FROM tds_peer",
        ours: "SELECT tally.approx_percentile(0.95, tally.rollup(s)) FROM tds_ours",
        base: "SELECT count(s) FROM tds_ours",
        wanted: 0.5,
    },
    Pair {
        name: "1,000,000 groups of one value",
        peer: "SET enable_hashagg = off; SELECT count(s) FROM (SELECT public.hll_add_agg(public.hll_hash_text(u)) AS s
                 FROM wide GROUP BY u OFFSET 0) AS t; RESET enable_hashagg",
        ours: "SELECT count(s) FROM (SELECT tally.hll(u) AS s FROM wide GROUP BY u OFFSET 0) AS t",
        base: "SELECT count(s) FROM (SELECT count(u) AS s FROM wide GROUP BY u OFFSET 0) AS t",
        wanted: 1.0,
    },
];

/// Runs every pair in `rounds` rounds and prints medians of the rounds' ratios, of whole statements and net of reading.
pub fn compare(client: &mut Client, rounds: usize) -> Result<(), Box<dyn Error>> {
    let available: i64 = client
        .query_one("SELECT count(*) FROM pg_available_extensions WHERE name IN ('hll', 'tdigest')", &[])?
        .get(0);
    if available < 2 {
        println!("\nsketches: not compared, postgresql-hll or tdigest is not installed");
        return Ok(());
    }
    client.batch_execute("CREATE EXTENSION IF NOT EXISTS pg_tally")?;
    client.batch_execute(SETUP)?;
    println!(
        "\nsketches, {rounds} rounds, one backend, no parallelism: time of ours / time of the C extension"
    );
    println!("  {:<42} {:>7} {:>15} {:>8} {:>8}", "", "whole", "(least–greatest)", "net", "wanted");
    for pair in &PAIRS {
        let (mut whole, mut net) = (Vec::new(), Vec::new());
        for round in 0..=rounds {
            let (peer, ours, base) =
                (time(client, pair.peer)?, time(client, pair.ours)?, time(client, pair.base)?);
            if round > 0 {
                whole.push(ours / peer);
                net.push((ours - base).max(0.0) / (peer - base).max(1e-9));
            }
        }
        let [least, middle, greatest] = spread(&whole);
        let [_, net, _] = spread(&net);
        println!(
            "  {:<42} {middle:>7.2}  ({least:.2}–{greatest:.2}) {net:>12.2} {:>8.2}",
            pair.name, pair.wanted
        );
    }
    Ok(())
}

fn time(client: &mut Client, statement: &str) -> Result<f64, Box<dyn Error>> {
    let began = Instant::now();
    client.batch_execute(statement)?;
    Ok(began.elapsed().as_secs_f64())
}
