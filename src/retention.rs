//! Retention: removing raw events once every rollup has folded the buckets that end with them. Of all tenants by whole
//! months, and of each tenant by the days that it keeps. What is removed and how is `raw`'s; this asks the rollups first.

use crate::backend::lock::{self, Attempts};
use crate::backend::report::{Report, given};
use crate::backend::session;
use crate::raw::months::{self, Fate};
use crate::raw::{RawError, gate, horizon, lost_months, prune};
use crate::rollup::{self, Needed};
use core::ffi::CStr;
use pgrx::datum::TimestampWithTimeZone;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use tally_core::batch;
use tally_core::grain::Grain;

const BEFORE: &str = "give a moment, such as '2026-01-01Z': whole months before it are meant";
const TABLESPACE: &str = "pg_tablespace lists the tablespaces";

#[pg_extern(sql = false)]
fn drop_raw(before: Option<TimestampWithTimeZone>) -> Result<SetOfIterator<'static, String>, ErrorReport> {
    session::require_writable(c"tally.drop_raw()");
    let before = given(before, "before", BEFORE)?;
    Ok(SetOfIterator::new(lock_and_remove(before, Fate::Dropped)?))
}

#[pg_extern(sql = false)]
fn detach_raw(before: Option<TimestampWithTimeZone>) -> Result<SetOfIterator<'static, String>, ErrorReport> {
    session::require_writable(c"tally.detach_raw()");
    let before = given(before, "before", BEFORE)?;
    Ok(SetOfIterator::new(lock_and_remove(before, Fate::Detached)?))
}

/// Moves whole months to a tablespace.
#[pg_extern(sql = false)]
fn move_raw(
    before: Option<TimestampWithTimeZone>,
    tablespace: Option<&CStr>,
) -> Result<SetOfIterator<'static, String>, ErrorReport> {
    session::require_writable(c"tally.move_raw()");
    let (before, tablespace) =
        (given(before, "before", BEFORE)?, given(tablespace, "tablespace", TABLESPACE)?);
    let tablespace = tablespace.to_str().map_err(|_| RawError::Range)?.to_owned();
    if matches!(i64::from(before), i64::MIN | i64::MAX) {
        return Err(RawError::Infinite("before").into());
    }
    months::lock(before, Attempts::Several)?;
    Ok(SetOfIterator::new(months::move_to(&tablespace, before)))
}

/// Records the months that were taken out by hand as `drop_raw` would have.
#[pg_extern(sql = false)]
fn record_lost_months() -> Result<SetOfIterator<'static, String>, ErrorReport> {
    session::require_writable(c"tally.record_lost_months()");
    if session::has_fixed_snapshot() {
        return Err(RawError::FixedSnapshot.into());
    }
    // Nobody takes a month out or puts it back meanwhile.
    session::lock_relation(session::relation(c"events"), pgrx::pg_sys::AccessShareLock);
    gate::close(&[], Attempts::Several).map_err(RawError::from)?;
    let events = session::relation(c"events");
    lock::named("lost months can't be recorded", events, lock::PARTITION_MAKING, Attempts::One)
        .map_err(RawError::from)?;
    let months = lost_months::all();
    if let Some(end) = months.last().map(lost_months::Month::end) {
        if let Some(needed) = rollup::needs_raw_before(end, None)? {
            return Err(still_needed(needed).into());
        }
        // With ingest locked out, nothing is waited for.
        let record = || {
            lost_months::record(&months);
            lost_months::freeze(end);
        };
        session::as_owner(|| lock::waiting_at_most(lock::LONGEST_TRY, record));
    }
    Ok(SetOfIterator::new(months.into_iter().map(|month| month.name).collect::<Vec<_>>()))
}

fn lock_and_remove(before: TimestampWithTimeZone, fate: Fate) -> Result<Vec<String>, Report> {
    if session::has_fixed_snapshot() {
        return Err(RawError::FixedSnapshot.into());
    }
    if matches!(i64::from(before), i64::MIN | i64::MAX) {
        return Err(RawError::Infinite("before").into());
    }
    // Of later months there are no events: none is taken that lies further ahead. What would be said of them now would hold when there are.
    let next_month = Grain::Month.ceiling(session::clock() + batch::FUTURE + 1);
    let before = match TimestampWithTimeZone::try_from(next_month) {
        Ok(next) if i64::from(before) > next_month => next,
        _ => before,
    };
    months::lock(before, Attempts::Several)?;
    remove_months(before, fate)
}

/// Removes whole months. The caller holds their locks.
fn remove_months(before: TimestampWithTimeZone, fate: Fate) -> Result<Vec<String>, Report> {
    let month = Grain::Month.floor(i64::from(before));
    if let Some(needed) = rollup::needs_raw_before(month, None)? {
        return Err(still_needed(needed));
    }
    Ok(session::as_owner(|| months::remove(before, fate)))
}

fn still_needed(needed: Needed) -> Report {
    match needed {
        Needed::Pending(name) => Report::new(
            "55000",
            format!("rollup \"{name}\" has pending rows of buckets whose events would all be dropped"),
        )
        .hint("fold it first, with tally.fold(), until that returns 0"),
        Needed::Unfilled(name) => Report::new(
            "55000",
            format!("rollup \"{name}\" is still to be backfilled with events that would be dropped"),
        )
        .hint("call tally.backfill() until it returns 0"),
    }
}

/// One step of retention.
#[pg_extern(sql = false)]
fn retain(max_rows: Option<i64>) -> Result<i64, ErrorReport> {
    session::require_writable(c"tally.retain()");
    let max_rows = given(max_rows, "max_rows", "leave it out for 50,000")?;
    if session::has_fixed_snapshot() {
        return Err(RawError::FixedSnapshot.into());
    }
    if max_rows < 1 {
        return Err(RawError::TooFew("max_rows", 1, "leave it out for 50,000").into());
    }
    // What others' transactions keep locked waits for the next round; what needs no lock goes on.
    let mut kept_waiting = None;
    match horizon::advance() {
        Ok(0) => {}
        Ok(moved) => return Ok(moved),
        Err(busy) => kept_waiting = Some(busy),
    }
    if rollup::is_backfilling() {
        // Earlier events wait to be counted.
        return Ok(0);
    }
    if let Some(end) = passed_month() {
        // A tenant that is new since then, or whose event came in between, is seen under the lock.
        match months::lock(end, Attempts::One) {
            Ok(()) if passed_month().is_some_and(|again| i64::from(again) == i64::from(end)) => {
                remove_months(end, Fate::Dropped)?;
                return Ok(1);
            }
            Ok(()) => {}
            Err(busy) => kept_waiting = Some(busy),
        }
    }
    // Row by row, also of a month that can't be dropped now: events go when their time has come.
    match (prune_one(max_rows)?, kept_waiting) {
        (0, Some(busy)) => Err(busy.into()),
        (removed, _) => Ok(removed),
    }
}

/// The end of the oldest month, where every tenant's horizon lies behind it and the rollups are done with it.
fn passed_month() -> Option<TimestampWithTimeZone> {
    let oldest = session::as_owner(|| {
        let first = months::before(horizon::passed_by_all()?).into_iter().next()?;
        months::end(&first)
    });
    oldest.filter(|&end| !rollup::pending_without_lock(i64::from(end)))
}

/// Removes up to `max_rows` rows of the first tenant that has any before its horizon and that no rollup needs.
fn prune_one(max_rows: i64) -> Result<i64, Report> {
    for due in prune::due() {
        if rollup::needs_raw_before(due.horizon, Some(&due.tenant))?.is_some() {
            continue;
        }
        let removed = session::as_owner(|| prune::tenant(&due, max_rows));
        if removed > 0 {
            return Ok(removed);
        }
    }
    Ok(0)
}
