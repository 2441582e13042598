//! Makes the partitions that a batch needs, and those of tenants that have their own.

use crate::backend::lock::{self, Busy, Patience};
use crate::backend::partition::Routing;
use crate::backend::{own_transaction, session, worker};
use crate::error;
use crate::rollup::{self, RollupError};
use crate::scope;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use std::collections::BTreeSet;
use tally_core::grain::Grain;

/// Months that fit into the message to a process, each as its first hour since 2000.
const MONTHS_OF_A_PROCESS: usize = 12;
const HOUR: i64 = 3_600_000_000;

/// Makes each missing partition. Runs before any key is locked. In a transaction of their own, so that others need not wait
/// for the end of this one; where Postgres has no process for that, in this one.
pub fn ensure(times: impl Iterator<Item = i64>) -> Result<(), Busy> {
    let routing = Routing::open(session::relation(c"events"));
    let missing: BTreeSet<i64> =
        times.filter(|time| !routing.covers(*time)).map(|time| Grain::Month.floor(time)).collect();
    routing.close();
    let missing: Vec<i64> = missing.into_iter().collect();
    for months in missing.chunks(MONTHS_OF_A_PROCESS) {
        let message: Vec<String> = months.iter().map(|month| (month / HOUR).to_string()).collect();
        own_transaction::run("tally_partition_main", &message.join(" "));
        // Those that it didn't make.
        let routing = Routing::open(session::relation(c"events"));
        let left: Vec<i64> = months.iter().copied().filter(|&month| !routing.covers(month)).collect();
        routing.close();
        left.into_iter().try_for_each(create)?;
    }
    Ok(())
}

/// Where Postgres starts the process that makes partitions.
#[pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn tally_partition_main(_argument: pg_sys::Datum) {
    let message = own_transaction::begin();
    for hour in message.split(' ').filter_map(|hour| hour.parse::<i64>().ok()) {
        // What keeps it from making one keeps the session, too, which then says so.
        worker::transaction(|| create(hour * HOUR).is_ok());
    }
}

/// Makes the partition of the month that begins at a moment, unless it is there.
fn create(month: i64) -> Result<(), Busy> {
    let events = session::relation(c"events");
    let what = format!("the partition of {} can't be made", month_name(month));
    let start = TimestampWithTimeZone::try_from(month).expect("event times are in range");
    let exists = "SELECT EXISTS (SELECT FROM pg_class AS c WHERE c.relname = 'events_p' || to_char($1, 'YYYY_MM') \
                    AND c.relnamespace = 'tally'::regnamespace)";
    // Looked for first: who makes one keeps others waiting for what isn't there, not for what is.
    let exists = session::as_owner(|| Spi::get_one_with_args::<bool>(exists, &[start.into()]));
    if exists != Ok(Some(true)) {
        // One maker at a time: without it two first events of a month would both try, and one of them fail.
        lock::named(&what, events, lock::PARTITION_MAKING, Patience::Once)?;
        // What attaching takes, here where it can be given up.
        lock::relations(&what, &[(events, pg_sys::ShareUpdateExclusiveLock)], Patience::Once)?;
    }
    session::as_owner_defining(|| {
        Spi::run_with_args("SELECT tally.create_partition($1)", &[start.into()])
            .expect("create_partition raises its own errors");
    });
    Ok(())
}

fn month_name(month: i64) -> String {
    let start = TimestampWithTimeZone::try_from(month).expect("event times are in range");
    let name = session::as_owner(|| {
        Spi::get_one_with_args::<String>("SELECT to_char($1, 'YYYY-MM')", &[start.into()])
    });
    name.ok().flatten().unwrap_or_default()
}

/// Makes the partitions of this month and of `months` after it; returns how many were missing.
#[pg_extern(sql = false)]
fn make_partitions(months: i32) -> Result<i64, ErrorReport> {
    session::require_writable(c"tally.make_partitions()");
    let starts = "SELECT array_agg((extract(epoch FROM date_trunc('month', now(), 'UTC') + make_interval(months => ahead)) * 1000000)::int8 \
                         - 946684800000000 ORDER BY ahead) FROM generate_series(0, $1) AS ahead";
    let starts =
        session::as_owner(|| Spi::get_one_with_args::<Vec<i64>>(starts, &[months.clamp(0, 120).into()]));
    let starts = starts.expect("numbers").unwrap_or_default();
    let count = "SELECT count(*) FROM pg_inherits WHERE inhparent = 'tally.events'::regclass";
    let there = || session::as_owner(|| Spi::get_one::<i64>(count)).expect("a count").unwrap_or(0);
    let before = there();
    for start in starts {
        create(start).map_err(error::busy_report)?;
    }
    Ok(there() - before)
}

/// Gives a tenant partitions of its own.
#[pg_extern(sql = false)]
fn isolate_tenant(
    tenant_id: &str,
    from: TimestampWithTimeZone,
) -> Result<SetOfIterator<'static, String>, ErrorReport> {
    session::require_writable(c"tally.isolate_tenant()");
    if session::has_fixed_snapshot() {
        return Err(RollupError::FixedSnapshot.into());
    }
    scope::check("tenant_id", tenant_id)?;
    if matches!(i64::from(from), i64::MIN | i64::MAX) {
        return Err(RollupError::Range.into());
    }
    // What ingest stores meanwhile would go to where the tenant's events no longer belong.
    let events = session::relation(c"events");
    let months = "SELECT coalesce(array_agg(t.relid::oid ORDER BY t.level, c.relname), '{}') FROM pg_inherits AS i JOIN pg_class AS m ON m.oid = i.inhrelid \
          CROSS JOIN pg_partition_tree(m.oid) AS t JOIN pg_class AS c ON c.oid = t.relid \
         WHERE i.inhparent = $1 AND m.relname ~ '^events_p[0-9]{4,}_[0-9]{2}$' AND to_timestamp(substr(m.relname, 9), 'YYYY_MM') >= date_trunc('month', $2, 'UTC')";
    let months = session::as_owner(|| {
        Spi::get_one_with_args::<Vec<pg_sys::Oid>>(months, &[events.into(), from.into()])
    });
    let changed: Vec<_> =
        std::iter::once(events).chain(months.expect("numbers").unwrap_or_default()).collect();
    rollup::lock_out_ingest(&changed, Patience::Tries)?;
    lock::named("months can't be split", events, lock::PARTITION_MAKING, Patience::Once)
        .map_err(error::busy_report)?;
    let made = session::as_owner_defining(|| {
        Spi::get_one_with_args::<Vec<String>>(
            "SELECT coalesce(array_agg(made), '{}') FROM tally.split_months($1, $2) AS made",
            &[tenant_id.into(), from.into()],
        )
    });
    Ok(SetOfIterator::new(made.expect("DDL raises its own errors").unwrap_or_default()))
}

/// Makes no more partitions for a tenant.
#[pg_extern(sql = false)]
fn unisolate_tenant(tenant_id: &str) -> bool {
    session::require_writable(c"tally.unisolate_tenant()");
    let end = "WITH ended AS (UPDATE tally.isolated_tenant SET isolated_until = now() \
                 WHERE tenant_id = $1 AND isolated_until IS NULL RETURNING 1) SELECT count(*) FROM ended";
    let ended = session::as_owner(|| Spi::get_one_with_args::<i64>(end, &[tenant_id.into()]));
    ended.expect("an UPDATE raises its own errors") == Some(1)
}
