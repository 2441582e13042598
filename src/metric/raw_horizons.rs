//! From when on the raw events of each tenant in scope are whole.

use crate::backend::arena::Arena;
use crate::backend::heap::Declared;
use crate::backend::lookup::{Key, Lookup, View};
use crate::backend::scan::{self, Snapshot};
use crate::backend::{session, sql};
use crate::raw::horizon::HORIZONS;
use crate::raw::lost_months;
use crate::scope::{self, Scope};
use pgrx::datum::TimestampWithTimeZone;
use pgrx::iter::TableIterator;
use pgrx::pg_sys;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use std::collections::BTreeMap;

/// Earlier raw events of a tenant may be gone; earlier payments may be missing in the rollup `payment`, too. Microseconds
/// since 2000.
#[derive(Clone, Copy)]
struct Horizon {
    whole_from: i64,
    payments_from: i64,
}

const LOSSES: Declared = Declared {
    table: "raw_loss",
    columns: &[
        ("whole_from", pg_sys::TIMESTAMPTZOID),
        ("payments_from", pg_sys::TIMESTAMPTZOID),
        ("tenant_id", pg_sys::TEXTOID),
    ],
    key: &["tenant_id"],
};

const RAW_FROM: [i32; 1] = [HORIZONS.at("raw_from")];
const LOSS: [i32; 2] = [LOSSES.at("whole_from"), LOSSES.at("payments_from")];

const NEVER: Horizon = Horizon { whole_from: i64::MIN, payments_from: i64::MIN };

#[pg_extern(sql = false)]
fn raw_horizons() -> Result<
    TableIterator<
        'static,
        (
            name!(tenant_id, String),
            name!(whole_from, TimestampWithTimeZone),
            name!(payments_from, TimestampWithTimeZone),
        ),
    >,
    ErrorReport,
> {
    // Until the transaction ends no month can be dropped or detached: what is whole now is whole for who asked.
    session::lock_relation(session::relation(c"events"), pg_sys::AccessShareLock);
    let only = if session::bypasses_row_security() {
        None
    } else {
        match scope::current()? {
            Scope::Global => None,
            Scope::Tenant { tenant, .. } => Some(tenant),
        }
    };
    let dropped = dropped_before_losses_were_recorded();
    // Before the tenants' own: whose month is made anew is noted with it. Of what was taken out by hand nobody knows whose it was;
    // what the rollups have of it stays.
    let everybodys =
        Horizon { whole_from: dropped.max(lost_months::unnoted_until()), payments_from: dropped };
    let tenants = match only {
        Some(tenant) => vec![tenant],
        None => tenants(everybodys.whole_from > i64::MIN),
    };
    let rows = read(&tenants, everybodys).into_iter().map(|(tenant, horizon)| {
        let time = |micros: i64| {
            TimestampWithTimeZone::try_from(micros).expect("read from a column of this type, or infinite")
        };
        (tenant, time(horizon.whole_from), time(horizon.payments_from))
    });
    Ok(TableIterator::new(rows))
}

/// A month that was dropped by a version that didn't record whose events went with it; the least number where there is none.
fn dropped_before_losses_were_recorded() -> i64 {
    let query = format!(
        "SELECT {} FROM tally.raw_horizon \
          WHERE raw_from > coalesce((SELECT whole_from FROM tally.raw_loss WHERE tenant_id = ''), '-infinity') \
          ORDER BY raw_from DESC LIMIT 1",
        sql::micros("raw_from")
    );
    let rows = session::as_owner(|| scan::texts(&query, Snapshot::Calling));
    let time = rows.first().and_then(|row| row[0].as_ref());
    time.map_or(i64::MIN, |time| time.parse().expect("a bigint"))
}

/// Tenants that may have a horizon.
fn tenants(every: bool) -> Vec<String> {
    // A horizon that is younger than a fixed snapshot is found by the tenant, whose events are as old as the snapshot.
    let query = if every || session::has_fixed_snapshot() {
        "SELECT tenant_id FROM tally.tenant ORDER BY 1"
    } else {
        "SELECT tenant_id FROM tally.raw_loss WHERE tenant_id <> '' UNION SELECT tenant_id FROM tally.tenant_horizon ORDER BY 1"
    };
    let rows = session::as_owner(|| scan::texts(query, Snapshot::Fresh));
    rows.into_iter().filter_map(|mut row| row.pop().flatten()).collect()
}

/// The horizons of tenants, as they are now, of those that have one.
fn read(tenants: &[String], everybodys: Horizon) -> BTreeMap<String, Horizon> {
    let mut arena = Arena::default();
    let mut losses = Lookup::open(session::relation(c"raw_loss"), &[Key::Text], View::Now);
    let mut horizons = Lookup::open(session::relation(c"tenant_horizon"), &[Key::Text], View::Now);
    losses.require(&LOSSES);
    horizons.require(&HORIZONS);
    let mut found = BTreeMap::new();
    for tenant in tenants {
        let key = [arena.varlena(tenant.as_bytes())];
        let mut horizon = everybodys;
        if let Some(row) = losses.find(&key, LOSS) {
            horizon.whole_from = horizon.whole_from.max(row.values[0].value() as i64);
            horizon.payments_from = horizon.payments_from.max(row.values[1].value() as i64);
        }
        if let Some(row) = horizons.find(&key, RAW_FROM) {
            horizon.whole_from = horizon.whole_from.max(row.values[0].value() as i64);
        }
        if horizon.whole_from > NEVER.whole_from || horizon.payments_from > NEVER.payments_from {
            found.insert(tenant.clone(), horizon);
        }
    }
    losses.close();
    horizons.close();
    found
}
