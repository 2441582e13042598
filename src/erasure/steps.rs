//! Erasing many subjects in steps that are committed one by one, while ingest goes on in between. All that a tenant has asked for go
//! together, a month at a time: what a step costs depends on the accounts that have events of theirs, hardly on how many there are.
//!
//! A run begins by locking ingest out for a moment: batches that had begun before the request was known have ended then, and what a
//! later transaction finds is all that there will be.

use super::elsewhere;
use super::failure::ErasureError;
use super::removal;
use crate::backend::lock::{self, Attempts};
use crate::backend::sql::{self, Moment};
use crate::backend::{session, statistics};
use crate::privacy::Stored;
use crate::raw::{RawError, gate};
use core::ops::Range;
use pgrx::pg_sys::Oid;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use pgrx::{JsonB, Uuid};
use serde_json::Value;

/// Subjects that go together at most, and certificates in a step.
const SUBJECTS: i64 = 10_000;
const CERTIFICATES: i64 = 500;

/// A tenant's subjects that are being erased.
struct Run {
    tenant: String,
    next_month: i64,
    forgotten: Option<Value>,
}

#[pg_extern(sql = false)]
fn erasure_step(max_rows: i64) -> Result<i64, ErrorReport> {
    session::require_writable(c"tally.maintain()");
    if session::has_fixed_snapshot() {
        return Err(RawError::FixedSnapshot.into());
    }
    // One session at a time; who comes second leaves it to the first.
    let table = session::relation(c"erasure_run");
    if !session::lock(table.to_u32(), lock::ERASING, false) {
        return Ok(0);
    }
    if let Some(run) = current() {
        return Ok(go_on(&run, max_rows.max(1))?);
    }
    if begin()? {
        return Ok(1);
    }
    Ok(clear_statistics())
}

/// Makes the statistics of one table anew that may still have what was erased; returns 1 if there was one.
fn clear_statistics() -> i64 {
    let stale = "SELECT tally_internal.stale_statistics()";
    session::as_owner(|| {
        let Some(table) = sql::one::<Oid>(stale, &[]) else { return 0 };
        lock::waiting_at_most(lock::LONGEST_TRY, || statistics::remove(table));
        sql::run("SELECT tally_internal.renew_statistics($1)", &[table.into()]);
        1
    })
}

/// The run that has come furthest; `None` where there is none.
fn current() -> Option<Run> {
    let query = format!(
        "SELECT r.tenant_id, {}, r.forgotten FROM tally.erasure_run AS r ORDER BY r.started_at, r.tenant_id LIMIT 1",
        sql::micros("greatest(r.next_month, timestamptz '4000-01-01 BC')")
    );
    let read = |row: sql::Row| Run {
        tenant: row.need(1),
        next_month: row.need(2),
        forgotten: row.get::<JsonB>(3).map(|told| told.0),
    };
    session::as_owner(|| sql::changed_rows(&query, &[], read)).into_iter().next()
}

/// Begins a run with what the tenant that has waited longest asked for; says whether there was anything.
fn begin() -> Result<bool, ErasureError> {
    let waiting = "SELECT x.tenant_id FROM tally.erasure AS x WHERE x.finished_at IS NULL ORDER BY x.requested_at, x.tenant_id LIMIT 1";
    let Some(tenant) = session::as_owner(|| sql::one::<String>(waiting, &[])) else { return Ok(false) };
    gate::close(&[], Attempts::One)?;
    let take = "UPDATE tally.erasure AS x SET is_taken = true \
                 WHERE x.tenant_id = $1 AND x.subject_hash = ANY (ARRAY(\
                   SELECT w.subject_hash FROM tally.erasure AS w WHERE w.tenant_id = $1 AND w.finished_at IS NULL \
                    ORDER BY w.requested_at, w.subject_hash LIMIT $2))";
    session::as_owner(|| {
        sql::run(take, &[tenant.as_str().into(), SUBJECTS.into()]);
        sql::run("INSERT INTO tally.erasure_run (tenant_id) VALUES ($1)", &[tenant.as_str().into()]);
    });
    Ok(true)
}

fn go_on(run: &Run, max_rows: i64) -> Result<i64, ErasureError> {
    let tenant = run.tenant.as_str();
    let taken = "SELECT x.subject, x.subject_hash FROM tally.erasure AS x \
                  WHERE x.tenant_id = $1 AND x.is_taken AND x.finished_at IS NULL ORDER BY x.subject_hash";
    let read = |row: sql::Row| (row.need::<String>(1), row.need::<Uuid>(2));
    let taken = session::as_owner(|| sql::changed_rows(taken, &[tenant.into()], read));
    let subjects = Stored::of(tenant, taken.iter().map(|(subject, _)| subject));
    let Some(forgotten) = &run.forgotten else {
        return match removal::months_from(run.next_month).first() {
            Some(&month) => remove_month(tenant, &subjects, month, max_rows),
            // Partitions that an administrator made have other names, or more than a month.
            None => match remove_some(tenant, &subjects, &(i64::MIN..i64::MAX), max_rows)?.0 {
                0 => forget(tenant, &subjects, taken.len()),
                done => Ok(done),
            },
        };
    };
    let some: Vec<Uuid> = taken.iter().take(CERTIFICATES as usize).map(|&(_, hash)| hash).collect();
    if some.is_empty() {
        let end = "DELETE FROM tally.erasure_run WHERE tenant_id = $1";
        session::as_owner(|| sql::run(end, &[tenant.into()]));
        return Ok(1);
    }
    let together = forgotten["subjects"].as_i64().unwrap_or(taken.len() as i64);
    elsewhere::certify(tenant, &some, together, forgotten)?;
    Ok(some.len() as i64)
}

/// Removes their events of a month, of as many accounts as a step may read.
fn remove_month(tenant: &str, subjects: &Stored, month: i64, max_rows: i64) -> Result<i64, ErasureError> {
    let (done, left) = remove_some(tenant, subjects, &removal::time_of(month), max_rows)?;
    if left == 0 {
        let next = Moment(removal::time_of(month).end);
        let note = "UPDATE tally.erasure_run SET next_month = $2 WHERE tenant_id = $1";
        session::as_owner(|| sql::run(note, &[tenant.into(), next.into()]));
    }
    Ok(done.max(1))
}

/// Removes their events in a range of time, of as many accounts and months as a step may read; returns how many events were removed or
/// read, and how many accounts and months are left.
fn remove_some(
    tenant: &str,
    subjects: &Stored,
    range: &Range<i64>,
    max_rows: i64,
) -> Result<(i64, usize), ErasureError> {
    let places = removal::find(tenant, &subjects.ids, range);
    let mut done = 0;
    let mut left = places.len();
    if left > 0 {
        gate::close(&[], Attempts::One)?;
        for place in &places {
            if done >= max_rows {
                break;
            }
            done += removal::remove(tenant, subjects, place)?;
            left -= 1;
        }
    }
    Ok((done, left))
}

/// Removes what else is kept of them.
fn forget(tenant: &str, subjects: &Stored, persons: usize) -> Result<i64, ErasureError> {
    gate::close(&[], Attempts::One)?;
    let mut forgotten = elsewhere::forget(tenant, subjects)?;
    forgotten["subjects"] = persons.into();
    let note = "UPDATE tally.erasure_run SET forgotten = $2 WHERE tenant_id = $1";
    session::as_owner(|| sql::run(note, &[tenant.into(), JsonB(forgotten).into()]));
    Ok(1)
}
