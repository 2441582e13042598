//! Partitions of its own for a heavy tenant.

use super::{RawError, gate};
use crate::backend::lock::{self, Attempts};
use crate::backend::report::given;
use crate::backend::{session, sql};
use crate::scope;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

const TENANT: &str = "name one tenant; tally.isolated_tenant lists those that have partitions of their own";

/// Gives a tenant partitions of its own.
#[pg_extern(sql = false)]
fn isolate_tenant(
    tenant_id: Option<&str>,
    from: Option<TimestampWithTimeZone>,
) -> Result<SetOfIterator<'static, String>, ErrorReport> {
    session::require_writable(c"tally.isolate_tenant()");
    let tenant_id = given(tenant_id, "tenant_id", TENANT)?;
    let from = given(from, "from", "leave it out for the months from this one on")?;
    if session::has_fixed_snapshot() {
        return Err(RawError::FixedSnapshot.into());
    }
    scope::check("tenant_id", tenant_id)?;
    if matches!(i64::from(from), i64::MIN | i64::MAX) {
        return Err(RawError::Infinite("from").into());
    }
    // What ingest stores meanwhile would go to where the tenant's events no longer belong.
    let events = session::relation(c"events");
    let months = "SELECT coalesce(array_agg(t.relid::oid ORDER BY t.level, c.relname), '{}') FROM pg_inherits AS i JOIN pg_class AS m ON m.oid = i.inhrelid \
          CROSS JOIN pg_partition_tree(m.oid) AS t JOIN pg_class AS c ON c.oid = t.relid \
         WHERE i.inhparent = $1 AND m.relname ~ '^events_p[0-9]{4,}_[0-9]{2}$' AND to_timestamp(substr(m.relname, 9), 'YYYY_MM') >= date_trunc('month', $2, 'UTC')";
    let months = session::as_owner(|| sql::one::<Vec<pg_sys::Oid>>(months, &[events.into(), from.into()]));
    let changed: Vec<_> = std::iter::once(events).chain(months.unwrap_or_default()).collect();
    gate::close(&changed, Attempts::Several)?;
    lock::named("months can't be split", events, lock::PARTITION_MAKING, Attempts::One)?;
    let made = lock::as_owner_defining(|| {
        let split = "SELECT coalesce(array_agg(made), '{}') FROM tally_internal.split_months($1, $2) AS made";
        sql::one::<Vec<String>>(split, &[tenant_id.into(), from.into()])
    });
    Ok(SetOfIterator::new(made.unwrap_or_default()))
}

/// Makes no more partitions for a tenant.
#[pg_extern(sql = false)]
fn unisolate_tenant(tenant_id: Option<&str>) -> Result<bool, ErrorReport> {
    session::require_writable(c"tally.unisolate_tenant()");
    let tenant_id = given(tenant_id, "tenant_id", TENANT)?;
    let end = "WITH ended AS (UPDATE tally.isolated_tenant SET isolated_until = now() \
                 WHERE tenant_id = $1 AND isolated_until IS NULL RETURNING 1) SELECT count(*) FROM ended";
    Ok(session::as_owner(|| sql::one::<i64>(end, &[tenant_id.into()])) == Some(1))
}
