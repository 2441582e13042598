//! Makes the partitions that a batch needs, and those of tenants that have their own.

use crate::backend::partition::Routing;
use crate::backend::session;
use crate::rollup::{self, RollupError};
use crate::scope;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use std::collections::BTreeSet;
use tally_core::grain::Grain;

/// Makes each missing partition. Runs before any key is locked: making one waits for other makers, and a transaction
/// that waits must hold nothing they could be waiting for.
pub fn ensure(times: impl Iterator<Item = i64>) {
    let routing = Routing::open(session::relation(c"events"));
    let missing: BTreeSet<i64> =
        times.filter(|time| !routing.covers(*time)).map(|time| Grain::Month.floor(time)).collect();
    routing.close();
    for start in missing {
        session::as_owner(|| {
            Spi::run_with_args(
                "SELECT tally.create_partition($1)",
                &[TimestampWithTimeZone::try_from(start).expect("event times are in range").into()],
            )
            .expect("create_partition raises its own errors");
        });
    }
}

/// Makes the partitions of this month and of `months` after it; returns how many were missing.
#[pg_extern(sql = false)]
fn make_partitions(months: i32) -> i64 {
    session::require_writable(c"tally.make_partitions()");
    session::as_owner(|| {
        let count = "SELECT count(*) FROM pg_inherits WHERE inhparent = 'tally.events'::regclass";
        let there = || Spi::get_one::<i64>(count).expect("a count").unwrap_or(0);
        let before = there();
        Spi::run_with_args(
            "SELECT tally.create_partition(date_trunc('month', now(), 'UTC') + make_interval(months => ahead)) \
               FROM generate_series(0, $1) AS ahead",
            &[months.clamp(0, 120).into()],
        )
        .expect("DDL raises its own errors");
        there() - before
    })
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
    rollup::lock_out_ingest();
    let made = session::as_owner(|| {
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
