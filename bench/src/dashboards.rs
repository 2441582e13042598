//! A dashboard of one account over 90 days, daily users and 95th percentile: from the rollup as the account's own login,
//! from the rollup with literal predicates and no row security, and exactly from the raw events with their index; then
//! again with ten times the raw events.

use crate::pairing::{spread, turn_about};
use postgres::{Client, Config, NoTls};
use std::error::Error;
use std::time::Instant;
use tally_workload::{Workload, json_array};

const SIZES: [usize; 2] = [200_000, 2_000_000];
/// Pairs of backends in a round, and executions of the rollup's statements in each; the median of all is the round's time.
const BACKENDS: usize = 8;
const REPEATS: usize = 21;

const ROLLUP: &str = "SELECT tally.create_rollup('daily', '{day}', ARRAY['count(*) AS events',
    'distinct(user_id) AS users', $$percentiles(tally.property_float(properties, 'value')) AS value$$])";
const SCOPED: &str = "SELECT bucket, users, value_p95 FROM tally.daily_day ORDER BY bucket";

/// Runs `rounds` rounds for each size.
pub fn compare(client: &mut Client, config: &Config, rounds: usize) -> Result<(), Box<dyn Error>> {
    println!(
        "\ndashboard of one account, 90 days, {rounds} rounds, one client; milliseconds, least–greatest"
    );
    let mut earlier = None;
    for size in SIZES {
        client
            .batch_execute("SET client_min_messages = warning; SET tally.allow_drop = on; DROP EXTENSION IF EXISTS pg_tally CASCADE")?;
        client.batch_execute("DROP SCHEMA IF EXISTS tally CASCADE; CREATE EXTENSION pg_tally; SELECT tally.open_months('2000-01-01')")?;
        client.batch_execute(ROLLUP)?;
        let workload = Workload { seed: 90, events: size, days: 90, ..Workload::default() };
        for batch in workload.batches(10_000) {
            client.execute("SELECT tally.ingest($1::text)", &[&json_array(&batch)])?;
        }
        for rollup in ["usage", "daily"] {
            while client.query_one("SELECT tally.fold($1)", &[&rollup])?.get::<_, i64>(0) > 0 {}
        }
        for table in ["events", "daily_day_base", "daily_pending"] {
            client.batch_execute(&format!("VACUUM ANALYZE tally.{table}"))?;
        }
        let busiest = "SELECT tenant_id, account_id, sum(events)::int8 FROM tally.daily_day_base GROUP BY 1, 2 ORDER BY 3 DESC LIMIT 1";
        let row = client.query_one(busiest, &[])?;
        let (tenant, account, events): (&str, &str, i64) = (row.get(0), row.get(1), row.get(2));
        client.batch_execute(
            "DO $$ BEGIN CREATE ROLE tally_bench_account LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$;
             GRANT tally_reader TO tally_bench_account",
        )?;
        client.execute("SELECT tally.bind_role('tally_bench_account', $1, $2)", &[&tenant, &account])?;
        let predicate = format!("tenant_id = '{tenant}' AND account_id = '{account}'");
        let literal = SCOPED.replace("ORDER BY", &format!("WHERE {predicate} ORDER BY"));
        let exact = format!(
            "SELECT date_trunc('day', occurred_at, 'UTC'), count(DISTINCT user_id),
                    percentile_cont(0.95) WITHIN GROUP (ORDER BY (properties->>'value')::float8)
               FROM tally.events WHERE {predicate} GROUP BY 1 ORDER BY 1"
        );
        let mut rows = 0;
        let mut times: [Vec<f64>; 3] = Default::default();
        for _ in 0..rounds {
            let (mut taken, mut exactly): ([Vec<f64>; 2], Vec<f64>) = Default::default();
            for _ in 0..BACKENDS {
                let mut sides =
                    [config.clone().user("tally_bench_account").connect(NoTls)?, config.connect(NoTls)?];
                rows = turn_about(&mut sides, [SCOPED, &literal], REPEATS, &mut taken)?;
                let exact = sides[1].prepare(&exact)?;
                assert_eq!(rows, sides[1].query(&exact, &[])?.len(), "both show the same days");
                let began = Instant::now();
                sides[1].query(&exact, &[])?;
                exactly.push(began.elapsed().as_secs_f64());
            }
            let all = taken.iter().chain([&exactly]);
            times.iter_mut().zip(all).for_each(|(times, taken)| times.push(spread(taken)[1]));
        }
        println!("  {size} raw events, {events} of them of the account, {rows} days");
        let names =
            ["rollup, as the account's login", "rollup, literal predicate", "exact, raw events with index"];
        for (name, times) in names.iter().zip(&times) {
            let [least, middle, greatest] = spread(times).map(|seconds| seconds * 1e3);
            println!("    {name:<32} {middle:>9.2}  ({least:.2}–{greatest:.2})");
        }
        let ratio =
            |a: &[f64], b: &[f64]| spread(&a.iter().zip(b).map(|(a, b)| a / b).collect::<Vec<_>>())[1];
        println!(
            "    exact / rollup {:.0} (wanted 60), row security costs {:+.0} % (wanted at most 10)",
            ratio(&times[2], &times[0]),
            100.0 * (ratio(&times[0], &times[1]) - 1.0)
        );
        let [_, middle, _] = spread(&times[0]);
        if let Some(earlier) = earlier {
            println!("    against a tenth of the raw events: {:.2} (wanted at most 1.2)", middle / earlier);
        }
        earlier = Some(middle);
    }
    Ok(())
}
