//! A weekly retention triangle of a year's users, from the enriched layer, as a tenant's own login: serial, with row
//! security, with users in no order on disk and some rows still pending; and the daily, weekly and monthly active users.

use crate::pairing::spread;
use postgres::{Client, Config, NoTls};
use std::error::Error;
use std::time::Instant;

const USERS: i64 = 1_000_000;
const PENDING: i64 = 10_000;
const RANGE: &str = "'2025-01-01 00:00Z', '2026-01-01 00:00Z'";

/// Straight into the tables: 4,000 patterns of days, about 60 active ones in what is left of the year after the first.
const FILL: &str = "
  CREATE TEMP TABLE pattern AS
    SELECT p, tally.days(at) AS days, min(at) AS first_at, max(at) AS last_at, count(*) AS events
      FROM generate_series(0, 3999) AS p CROSS JOIN LATERAL (
           SELECT timestamptz '2025-01-01 10:00Z' + (p % 365 + d) * interval '1 day' AS at FROM generate_series(0, 364 - p % 365) AS d
            WHERE d = 0 OR hashint8(p * 1000::int8 + d) % 3 = 0) AS t GROUP BY p;
  INSERT INTO tally.user_activity_year_base (tenant_id, account_id, bucket, user_id, name, events, first_at, last_at, days)
    SELECT 'tenant', 'account' || u % 5000, '2025-01-01 00:00Z', 'user-' || u, 'app.opened', events, first_at, last_at, days
      FROM generate_series(1::int8, $users) AS u JOIN pattern ON p = u % 4000 ORDER BY hashint8(u);
  INSERT INTO tally.user_activity_pending (tenant_id, account_id, bucket, user_id, name, events, first_at, last_at, days)
    SELECT 'tenant', 'account' || u % 5000, '2025-01-01 00:00Z', 'user-' || u, 'app.opened', events, first_at, last_at, days
      FROM generate_series(1::int8, $pending) AS u JOIN pattern ON p = u * 7 % 4000";

/// Runs `rounds` rounds and prints medians.
pub fn measure(client: &mut Client, config: &Config, rounds: usize) -> Result<(), Box<dyn Error>> {
    client.batch_execute("SET client_min_messages = warning; SET tally.allow_drop = on; DROP EXTENSION IF EXISTS pg_tally CASCADE")?;
    client.batch_execute("DROP SCHEMA IF EXISTS tally CASCADE; CREATE EXTENSION pg_tally; SELECT tally.open_months('2000-01-01')")?;
    client.batch_execute(
        &FILL.replace("$users", &USERS.to_string()).replace("$pending", &PENDING.to_string()),
    )?;
    client.batch_execute("VACUUM ANALYZE tally.user_activity_year_base, tally.user_activity_pending")?;
    client.batch_execute(
        "DO $$ BEGIN CREATE ROLE tally_bench_tenant LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$;
         GRANT tally_reader TO tally_bench_tenant; SELECT tally.bind_role('tally_bench_tenant', 'tenant')",
    )?;
    let mut login = config.clone().user("tally_bench_tenant").connect(NoTls)?;
    login.batch_execute("SET max_parallel_workers_per_gather = 0; SET jit = off")?;
    let bytes: i64 = client.query_one("SELECT pg_table_size('tally.user_activity_year_base')", &[])?.get(0);
    println!(
        "\n{USERS} users over 365 days, {PENDING} rows pending, {} MB, {rounds} rounds, one backend, no parallelism, default work_mem",
        bytes >> 20
    );
    for (name, query) in [
        (
            "weekly retention triangle",
            format!(
                "SELECT sum(cohort_size) FILTER (WHERE period = 0)::int8 FROM tally.retention(NULL, NULL, 'week', {RANGE})"
            ),
        ),
        (
            "the same for one event",
            format!(
                "SELECT sum(cohort_size) FILTER (WHERE period = 0)::int8 FROM tally.retention('app.opened', 'app.opened', 'week', {RANGE})"
            ),
        ),
        (
            "daily retention triangle",
            format!(
                "SELECT sum(cohort_size) FILTER (WHERE period = 0)::int8 FROM tally.retention(NULL, NULL, 'day', {RANGE})"
            ),
        ),
        (
            "the same by account",
            format!(
                "SELECT 200 * sum(cohort_size) FILTER (WHERE period = 0)::int8 FROM tally.retention(NULL, NULL, 'week', {RANGE}, 'account')"
            ),
        ),
        (
            "activation",
            format!(
                "SELECT sum(cohort_size)::int8 FROM tally.activation(NULL, 'app.opened', '7 days', {RANGE})"
            ),
        ),
        (
            "active users of each day",
            "SELECT 1000000::int8 FROM tally.active_users('[2025-01-01,2026-01-01)') HAVING count(*) = 365"
                .to_owned(),
        ),
    ] {
        let mut times = Vec::new();
        for round in 0..=rounds {
            let began = Instant::now();
            let counted: i64 = login.query_one(&query, &[])?.get(0);
            if counted != USERS {
                return Err(format!("{name}: {counted} users, not {USERS}").into());
            }
            if round > 0 {
                times.push(began.elapsed().as_secs_f64());
            }
        }
        let [least, middle, greatest] = spread(&times).map(|seconds| seconds * 1e3);
        let peak = own_memory(&mut login)?;
        println!(
            "  {name:<28} {middle:>6.0} ms ({least:.0}–{greatest:.0}); {peak} MB of own memory after it"
        );
    }
    Ok(())
}

/// The memory that the backend holds beside shared buffers, in MB, by the kernel's account.
fn own_memory(login: &mut Client) -> Result<u64, Box<dyn Error>> {
    let process: i32 = login.query_one("SELECT pg_backend_pid()", &[])?.get(0);
    let status = std::fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = |key: &str| -> u64 {
        let found = status.lines().find_map(|line| line.strip_prefix(key));
        found.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
    };
    Ok(line("RssAnon:") >> 10)
}
