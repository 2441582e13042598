//! A funnel over raw events against the SQL that one writes by hand: a self-join a step, and window functions.

use crate::pairing::spread;
use postgres::Client;
use std::error::Error;
use std::time::Instant;
use tally_workload::{Workload, json_array};

/// Raw events, unless `TALLY_FUNNEL_EVENTS` says otherwise.
const EVENTS: usize = 400_000;
/// Above this the self-join would take hours.
const SELF_JOIN_EVENTS: usize = 1_000_000;
const OURS: &str = "SELECT array_agg(units ORDER BY step) FROM tally.funnel(
    ARRAY['page.view', 'feature.search', 'feature.export', 'invoice.paid'], '1 day', '2026-01-05 00:00Z', '2026-01-18 00:00Z')";

/// Every start with its earliest next steps.
const SELF_JOIN: &str = "
  WITH one AS (
    SELECT tenant_id, user_id, occurred_at AS t1 FROM tally.events WHERE name = 'page.view' AND user_id IS NOT NULL
       AND occurred_at >= '2026-01-05 00:00Z' AND occurred_at < '2026-01-18 00:00Z'
  ), two AS (
    SELECT o.tenant_id, o.user_id, o.t1, min(e.occurred_at) AS t2 FROM one AS o JOIN tally.events AS e
        ON e.tenant_id = o.tenant_id AND e.user_id = o.user_id AND e.name = 'feature.search'
       AND e.occurred_at >= o.t1 AND e.occurred_at <= o.t1 + interval '24 hours'
       AND e.occurred_at >= '2026-01-05 00:00Z' AND e.occurred_at < '2026-01-19 00:00Z' GROUP BY 1, 2, 3
  ), three AS (
    SELECT o.tenant_id, o.user_id, o.t1, min(e.occurred_at) AS t3 FROM two AS o JOIN tally.events AS e
        ON e.tenant_id = o.tenant_id AND e.user_id = o.user_id AND e.name = 'feature.export'
       AND e.occurred_at >= o.t2 AND e.occurred_at <= o.t1 + interval '24 hours'
       AND e.occurred_at >= '2026-01-05 00:00Z' AND e.occurred_at < '2026-01-19 00:00Z' GROUP BY 1, 2, 3
  ), four AS (
    SELECT o.tenant_id, o.user_id FROM three AS o JOIN tally.events AS e
        ON e.tenant_id = o.tenant_id AND e.user_id = o.user_id AND e.name = 'invoice.paid'
       AND e.occurred_at >= o.t3 AND e.occurred_at <= o.t1 + interval '24 hours'
       AND e.occurred_at >= '2026-01-05 00:00Z' AND e.occurred_at < '2026-01-19 00:00Z' GROUP BY 1, 2
  )
  SELECT ARRAY[(SELECT count(DISTINCT (tenant_id, user_id)) FROM one), (SELECT count(DISTINCT (tenant_id, user_id)) FROM two),
               (SELECT count(DISTINCT (tenant_id, user_id)) FROM three), (SELECT count(*) FROM four)]";

/// The latest start that leads to each step, carried along a user's events.
const WINDOWS: &str = "
  WITH one AS (
    SELECT tenant_id, user_id, occurred_at, name,
           max(occurred_at) FILTER (WHERE name = 'page.view' AND occurred_at < '2026-01-18 00:00Z') OVER w AS s1
      FROM tally.events WHERE user_id IS NOT NULL
       AND name IN ('page.view', 'feature.search', 'feature.export', 'invoice.paid')
       AND occurred_at >= '2026-01-05 00:00Z' AND occurred_at < '2026-01-19 00:00Z'
    WINDOW w AS (PARTITION BY tenant_id, user_id ORDER BY occurred_at)
  ), two AS (
    SELECT *, max(s1) FILTER (WHERE name = 'feature.search' AND occurred_at <= s1 + interval '24 hours') OVER w AS s2
      FROM one WINDOW w AS (PARTITION BY tenant_id, user_id ORDER BY occurred_at)
  ), three AS (
    SELECT *, max(s2) FILTER (WHERE name = 'feature.export' AND occurred_at <= s2 + interval '24 hours') OVER w AS s3
      FROM two WINDOW w AS (PARTITION BY tenant_id, user_id ORDER BY occurred_at)
  ), users AS (
    SELECT count(s1) > 0 AS a, count(s2) > 0 AS b, count(s3) > 0 AS c,
           bool_or(name = 'invoice.paid' AND occurred_at <= s3 + interval '24 hours') AS d
      FROM three GROUP BY tenant_id, user_id
  )
  SELECT ARRAY[count(*) FILTER (WHERE a), count(*) FILTER (WHERE b), count(*) FILTER (WHERE c), count(*) FILTER (WHERE d)]
    FROM users";

/// Runs all three in `rounds` rounds, which must agree, and prints medians of the rounds' ratios.
pub fn compare(client: &mut Client, rounds: usize) -> Result<(), Box<dyn Error>> {
    client.batch_execute("SET client_min_messages = warning; SET tally.allow_drop = on; DROP EXTENSION IF EXISTS pg_tally CASCADE")?;
    client.batch_execute("DROP SCHEMA IF EXISTS tally CASCADE; CREATE EXTENSION pg_tally; SELECT tally.open_months('2000-01-01')")?;
    let events = match std::env::var("TALLY_FUNNEL_EVENTS") {
        Ok(text) => text.parse()?,
        Err(_) => EVENTS,
    };
    let workload = Workload { seed: 20, events, users: 50 * events.div_ceil(EVENTS), ..Workload::default() };
    client.batch_execute("SET tally.pending_limit = '1GB'")?;
    for batch in workload.batches(10_000) {
        client.execute("SELECT tally.ingest($1::text)", &[&json_array(&batch)])?;
    }
    client.batch_execute("VACUUM ANALYZE tally.events")?;
    client.batch_execute("SET max_parallel_workers_per_gather = 0; SET jit = off; SET work_mem = '256MB'")?;
    let (mut join, mut windows, mut own) = (Vec::new(), Vec::new(), Vec::new());
    let mut reached = Vec::new();
    for round in 0..=rounds {
        let (ours, seconds) = time(client, OURS)?;
        if events > SELF_JOIN_EVENTS {
            let (by_windows, windows_seconds) = time(client, WINDOWS)?;
            if by_windows != ours {
                return Err(format!("funnels differ: {ours:?}, windows {by_windows:?}").into());
            }
            if round > 0 {
                windows.push(windows_seconds / seconds);
                own.push(seconds);
            }
            reached = ours;
            continue;
        }
        // Left to the planner, this ran for seconds in some runs and for minutes in one, probably by nested loops.
        // The peer gets the plan that was always good.
        client.batch_execute("SET enable_nestloop = off")?;
        let (by_join, join_seconds) = time(client, SELF_JOIN)?;
        client.batch_execute("RESET enable_nestloop")?;
        let (by_windows, windows_seconds) = time(client, WINDOWS)?;
        if by_join != ours || by_windows != ours {
            return Err(
                format!("funnels differ: {ours:?}, self-join {by_join:?}, windows {by_windows:?}").into()
            );
        }
        if round > 0 {
            join.push(join_seconds / seconds);
            windows.push(windows_seconds / seconds);
            own.push(seconds);
        }
        reached = ours;
    }
    println!("\nfunnel of four steps over {events} raw events, {rounds} rounds, one backend, no parallelism");
    println!("  tally.funnel, with times: {:.0} ms; units {reached:?}", spread(&own)[1] * 1_000.0);
    for (name, ratios) in
        [("a self-join a step, counts alone", join), ("window functions, counts alone", windows)]
    {
        if ratios.is_empty() {
            continue;
        }
        let [least, middle, greatest] = spread(&ratios);
        println!(
            "  {name:<36} tally.funnel is {middle:.1} times as fast ({least:.1}–{greatest:.1}); wanted 5"
        );
    }
    Ok(())
}

fn time(client: &mut Client, statement: &str) -> Result<(Vec<i64>, f64), Box<dyn Error>> {
    let began = Instant::now();
    let row = client.query_one(statement, &[])?;
    Ok((row.get(0), began.elapsed().as_secs_f64()))
}
