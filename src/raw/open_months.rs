//! Which months ingest may make partitions for: those of a year and a bit, and what was opened for an import. Each partition
//! is one that every tenant's queries plan for and lock, so no tenant can have them made at will.

use crate::backend::arena::Arena;
use crate::backend::heap::Declared;
use crate::backend::lookup::{Key, Lookup, View};
use crate::backend::partition::Routing;
use crate::backend::{session, sql};
use crate::scope;
use pgrx::pg_sys;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use tally_core::grain::Grain;

/// Months before the present one that are open to everybody: a year ago can be compared with, and the month before it.
const MONTHS: usize = 13;

/// SQLSTATE of an event whose month has no partition and may not get one.
pub const NOT_OPEN: &str = "22T12";

/// What becomes of such an event, in words.
pub const REASON: &str = "its month is before those that ingest opens by itself: have an administrator call tally.open_months(), then tally.redrive()";

/// Start of the first month that is open to everybody at a moment.
fn usual(now: i64) -> i64 {
    (0..MONTHS).fold(Grain::Month.floor(now), |start, _| Grain::Month.floor(start - 1))
}

/// The numbers of those among `events` (number, tenant, time) whose month has no partition and may not get one.
pub fn not_open<'a>(events: impl Iterator<Item = (usize, &'a str, i64)>, now: i64) -> BTreeSet<usize> {
    let usual = usual(now);
    let old: Vec<_> = events.filter(|&(_, _, time)| time < usual).collect();
    // A database that isn't updated yet can't declare months: there all are open, as they were.
    if old.is_empty() || session::find_relation(c"opened_months").is_none() {
        return BTreeSet::new();
    }
    let routing = Routing::open(session::relation(c"events"));
    let missing: Vec<_> = old.into_iter().filter(|&(_, _, time)| !routing.covers(time)).collect();
    routing.close();
    if missing.is_empty() {
        return BTreeSet::new();
    }
    let tenants: BTreeSet<&str> = missing.iter().map(|&(_, tenant, _)| tenant).collect();
    let opened = opened(&tenants);
    let is_open = |tenant: &str, time: i64| {
        opened.get(tenant).or_else(|| opened.get("")).is_some_and(|&from| time >= from)
    };
    missing
        .into_iter()
        .filter(|&(_, tenant, time)| !is_open(tenant, time))
        .map(|(number, _, _)| number)
        .collect()
}

const OPENED_FROM: [i32; 1] = [OPENED.at("opened_from")];
const OPENED: Declared = Declared {
    table: "opened_months",
    columns: &[
        ("opened_from", pg_sys::TIMESTAMPTZOID),
        ("set_at", pg_sys::TIMESTAMPTZOID),
        ("tenant_id", pg_sys::TEXTOID),
    ],
    key: &["tenant_id"],
};

/// From when months are open, by tenant, of those for which that was declared; empty for all others.
fn opened<'a>(tenants: &BTreeSet<&'a str>) -> BTreeMap<&'a str, i64> {
    let mut arena = Arena::default();
    let mut declared = Lookup::open(session::relation(c"opened_months"), &[Key::Text], View::Now);
    declared.require(&OPENED);
    let mut found = BTreeMap::new();
    for &tenant in tenants.iter().chain([&""]) {
        if let Some(row) = declared.find(&[arena.varlena(tenant.as_bytes())], OPENED_FROM) {
            found.insert(tenant, row.values[0].value() as i64);
        }
    }
    declared.close();
    found
}

/// Opens earlier months for a tenant's events, or for everybody's.
#[pg_extern(sql = false)]
fn open_months(from: Option<TimestampWithTimeZone>, tenant_id: Option<&str>) -> Result<(), ErrorReport> {
    session::require_writable(c"tally.open_months()");
    if let Some(tenant) = tenant_id {
        scope::check("tenant_id", tenant)?;
    }
    let tenant = tenant_id.unwrap_or_default();
    session::as_owner(|| {
        let forget = "DELETE FROM tally.opened_months AS o WHERE o.tenant_id = $1";
        sql::run(forget, &[tenant.into()]);
        if let Some(from) = from {
            let note = "INSERT INTO tally.opened_months (opened_from, tenant_id) VALUES (date_trunc('month', $1, 'UTC'), $2)";
            sql::run(note, &[from.into(), tenant.into()]);
        }
    });
    Ok(())
}
