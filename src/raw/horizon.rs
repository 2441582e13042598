//! Horizons: the moments before which raw events are gone, or go.
//!
//! A tenant's horizon, `tally.tenant_horizon.raw_from`, moves before its events go, with ingest locked out: from then on earlier
//! events are rejected as too late, so their keys can leave the ledger together with them, and no retry is counted again. It
//! never moves back. `tally.raw_horizon` has the months that were removed whole, of every tenant.

use super::gate;
use crate::backend::arena::Arena;
use crate::backend::heap::Declared;
use crate::backend::lock::{self, Attempts, Busy};
use crate::backend::lookup::{Key, Lookup, View};
use crate::backend::scan::{self, Snapshot};
use crate::backend::{session, sql};
use pgrx::datum::TimestampWithTimeZone;
use pgrx::pg_sys;
use std::collections::BTreeMap;

/// The moment before which events of every tenant may be gone: microseconds since 2000, and as text. `None` where none
/// were dropped.
pub fn of_all() -> Option<(i64, String)> {
    let latest = format!(
        "SELECT {}, raw_from FROM tally.raw_horizon ORDER BY raw_from DESC LIMIT 1",
        sql::micros("raw_from")
    );
    let row = session::as_owner(|| scan::texts(&latest, Snapshot::Fresh)).pop()?;
    let [Some(time), Some(text)] = &row[..] else { unreachable!("both columns are NOT NULL") };
    Some((time.parse().expect("a bigint"), text.clone()))
}

/// The horizon of each tenant that has one, in microseconds since 2000.
pub fn of_tenants() -> Vec<(String, i64)> {
    let query = format!("SELECT tenant_id, {} FROM tally.tenant_horizon", sql::micros("raw_from"));
    let rows = session::as_owner(|| scan::texts(&query, Snapshot::Fresh));
    let read = |row: Vec<Option<String>>| {
        let [Some(tenant), Some(time)] = &row[..] else { unreachable!("both columns are NOT NULL") };
        (tenant.clone(), time.parse().expect("a bigint"))
    };
    rows.into_iter().map(read).collect()
}

/// How far each tenant's own retention has come.
pub const HORIZONS: Declared = Declared {
    table: "tenant_horizon",
    columns: &[
        ("raw_from", pg_sys::TIMESTAMPTZOID),
        ("pruned_from", pg_sys::TIMESTAMPTZOID),
        ("tenant_id", pg_sys::TEXTOID),
    ],
    key: &["tenant_id"],
};

const RAW_FROM: [i32; 1] = [HORIZONS.at("raw_from")];

/// The horizons of some tenants, in microseconds since 2000, of those that have one. Enters the gate before reading them: they
/// hold until the transaction ends.
pub fn hold<'a>(tenants: impl Iterator<Item = &'a str>) -> BTreeMap<String, i64> {
    gate::enter();
    let mut tenants: Vec<&str> = tenants.collect();
    tenants.sort_unstable();
    tenants.dedup();
    let mut arena = Arena::default();
    let mut horizons = Lookup::open(session::relation(c"tenant_horizon"), &[Key::Text], View::Latest);
    horizons.require(&HORIZONS);
    let mut found = BTreeMap::new();
    for tenant in tenants {
        if let Some(row) = horizons.find(&[arena.varlena(tenant.as_bytes())], RAW_FROM) {
            found.insert(tenant.to_owned(), row.values[0].value() as i64);
        }
    }
    horizons.close();
    found
}

/// Moves the horizon of each tenant that keeps less than it has; returns how many moved.
pub fn advance() -> Result<i64, Busy> {
    // The day in which the retention begins.
    let wanted = "SELECT t.tenant_id, date_trunc('day', now() - least(coalesce(own.keep, usual.keep), interval '1000 years'), 'UTC') AS raw_from \
           FROM tally.tenant AS t \
           LEFT JOIN tally.retention AS own ON own.tenant_id = t.tenant_id \
           LEFT JOIN tally.retention AS usual ON usual.tenant_id = '' \
          WHERE coalesce(own.keep, usual.keep) IS NOT NULL";
    let due = format!(
        "SELECT count(*) FROM ({wanted}) AS w LEFT JOIN tally.tenant_horizon AS h USING (tenant_id) \
          WHERE h.raw_from IS NULL OR h.raw_from < w.raw_from"
    );
    if session::as_owner(|| sql::one::<i64>(&due, &[])) == Some(0) {
        return Ok(0);
    }
    gate::close(&[], Attempts::One)?;
    let moved = format!(
        "WITH moved AS (INSERT INTO tally.tenant_horizon AS h (tenant_id, raw_from) \
           SELECT w.tenant_id, w.raw_from FROM ({wanted}) AS w ORDER BY 1 \
           ON CONFLICT (tenant_id) DO UPDATE SET raw_from = excluded.raw_from WHERE h.raw_from < excluded.raw_from \
           RETURNING 1) SELECT count(*) FROM moved"
    );
    // Who prunes has its tenant's row, and may take its time: ingest doesn't wait for that, which is done in the next round.
    let moved = || session::as_owner(|| sql::one(&moved, &[])).unwrap_or(0);
    Ok(lock::waiting_at_most(lock::LONGEST_TRY, moved))
}

/// The moment that every tenant's horizon has passed; `None` where there is none. Called as the owner.
pub fn passed_by_all() -> Option<TimestampWithTimeZone> {
    let everybody = "SELECT min(coalesce(h.raw_from, '-infinity')) \
                       FROM tally.tenant AS t LEFT JOIN tally.tenant_horizon AS h USING (tenant_id)";
    sql::one::<TimestampWithTimeZone>(everybody, &[]).filter(|&passed| i64::from(passed) != i64::MIN)
}
