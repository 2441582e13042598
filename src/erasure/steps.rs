//! Erasing many subjects in steps that are committed one by one, while ingest goes on in between. All that a tenant has asked for go
//! together, a month at a time: what a step costs depends on the accounts that have events of theirs, hardly on how many there are.
//!
//! A run begins by locking ingest out for a moment: batches that had begun before the request was known have ended then, and what a
//! later transaction finds is all that there will be.

use super::elsewhere::{self, Sought};
use super::failure::ErasureError;
use super::missing;
use super::removal::{self, Place};
use crate::backend::call::sql_function;
use crate::backend::lock::{self, Attempts};
use crate::backend::sql;
use crate::backend::subtransaction::Verdict;
use crate::backend::{session, statistics};
use crate::privacy::Stored;
use crate::raw::{RawError, gate};
use crate::{rollup, scope};
use pgrx::datum::TimestampWithTimeZone;
use pgrx::pg_sys::{Datum, Oid};
use pgrx::prelude::*;
use pgrx::{JsonB, Uuid};
use serde_json::Value;
use std::collections::BTreeSet;

/// Subjects that go together at most, and certificates in a step.
const SUBJECTS: i64 = 10_000;
const CERTIFICATES: i64 = 500;

/// A tenant's subjects that are being erased.
struct Run {
    /// Marks of the months that are done.
    searched: Vec<String>,
    /// The months that nobody could search.
    missing: Vec<i64>,
    forgotten: Option<Value>,
}

sql_function! {
    /// `erasure_step(tenant_id, max_rows)`: one step of a tenant's erasures, or for the empty one of making statistics anew.
    fn tally_erasure_step / pg_finfo_tally_erasure_step(call) {
        let (tenant, max_rows) = (call.text(0).unwrap_or_default(), call.long(1).unwrap_or(1).max(1));
        Ok(Some(Datum::from(step(tenant, max_rows)?)))
    }
}

fn step(tenant: &str, max_rows: i64) -> Result<i64, ErasureError> {
    session::require_writable(c"tally.maintain()");
    if session::has_fixed_snapshot() {
        return Err(RawError::FixedSnapshot.into());
    }
    // One session at a time; who comes second leaves it to the first.
    let table = session::relation(c"erasure_run");
    if !session::lock(table.to_u32(), lock::ERASING, false) {
        return Ok(0);
    }
    if tenant.is_empty() {
        return Ok(clear_statistics());
    }
    // An administrator of one tenant's has the others' done by others.
    if scope::tenant_of_session().is_some_and(|own| own != tenant) {
        return Err(ErasureError::Elsewhere);
    }
    match current(tenant) {
        Some(run) => go_on(tenant, &run, max_rows),
        // What keeps a month from being made anew keeps nobody from being erased.
        None => match begin(tenant)? {
            0 => lock::waiting_at_most(lock::LONGEST_TRY, || removal::renew_attached(tenant)),
            done => Ok(done),
        },
    }
}

/// Tenants that wait for a step, each on its own: what keeps one from being erased keeps nobody else's. With them those of which the
/// last step failed, so that it is noted when nothing is left to be done.
#[pg_extern(sql = false)]
fn erasing_tenants() -> SetOfIterator<'static, String> {
    let waiting = "SELECT r.tenant_id FROM tally.erasure_run AS r \
             UNION SELECT x.tenant_id FROM tally.erasure AS x WHERE x.finished_at IS NULL \
             UNION SELECT m.subject FROM tally.maintenance AS m WHERE m.task = 'erasure' AND m.subject <> '' AND m.failed_at IS NOT NULL";
    let own = scope::tenant_of_session();
    let tenants = session::as_owner(|| sql::rows(waiting, &[], |row| row.need::<String>(1)));
    let unrenewed = removal::unrenewed(own.as_deref()).into_iter().map(|(tenant, ..)| tenant);
    let mut tenants: BTreeSet<String> = tenants.into_iter().chain(unrenewed).collect();
    // Who else there is, no tenant learns.
    tenants.retain(|tenant| own.as_ref().is_none_or(|own| own == tenant));
    SetOfIterator::new(tenants)
}

/// Months that are attached again and of which the rollups count what was erased while they were elsewhere.
#[pg_extern(sql = false)]
fn unrenewed_months()
-> TableIterator<'static, (name!(tenant_id, String), name!(month, TimestampWithTimeZone))> {
    let own = scope::tenant_of_session();
    let mut found: BTreeSet<_> =
        removal::unrenewed(own.as_deref()).into_iter().map(|(tenant, _, month)| (tenant, month)).collect();
    // Who else there is, no tenant learns.
    found.retain(|(tenant, _)| own.as_ref().is_none_or(|own| own == tenant));
    let of =
        |(tenant, month)| (tenant, TimestampWithTimeZone::try_from(month).expect("a moment that was stored"));
    TableIterator::new(found.into_iter().map(of))
}

/// Makes the statistics of one table anew that may still have what was erased; returns 1 if there was one.
fn clear_statistics() -> i64 {
    let stale = "SELECT tally_internal.stale_statistics()";
    session::as_owner(|| {
        let Some(table) = sql::one::<Oid>(stale, &[]) else { return 0 };
        lock::waiting_at_most(lock::LONGEST_TRY, || statistics::remove(table));
        // Of a partition that somebody made, the statistics were removed, and whoever owns it makes them anew.
        let own = "SELECT c.oid::regclass::text FROM pg_class AS c WHERE c.oid = $1 AND c.relowner = 'tally_owner'::regrole";
        if let Some(table) = sql::one::<String>(own, &[table.into()]) {
            // Without a scope: functions of indexes run there, as the owner.
            session::in_scope("", || sql::run(&format!("ANALYZE {table}"), &[]));
        }
        1
    })
}

/// The tenant's run; `None` where there is none.
fn current(tenant: &str) -> Option<Run> {
    let query = format!(
        "SELECT r.searched, ARRAY(SELECT {} FROM unnest(r.months_missing) AS m), r.forgotten FROM tally.erasure_run AS r WHERE r.tenant_id = $1",
        sql::micros("m")
    );
    let read = |row: sql::Row| Run {
        searched: row.need(1),
        missing: row.need(2),
        forgotten: row.get::<JsonB>(3).map(|told| told.0),
    };
    session::as_owner(|| sql::changed_rows(&query, &[tenant.into()], read)).into_iter().next()
}

/// Begins a run with what the tenant asked for; returns 0 where there is nothing.
fn begin(tenant: &str) -> Result<i64, ErasureError> {
    let waits =
        "SELECT EXISTS (SELECT FROM tally.erasure AS x WHERE x.tenant_id = $1 AND x.finished_at IS NULL)";
    if session::as_owner(|| sql::one(waits, &[tenant.into()])) != Some(true) {
        return Ok(0);
    }
    gate::close(&[], Attempts::One)?;
    let take = "UPDATE tally.erasure AS x SET is_taken = true \
                 WHERE x.tenant_id = $1 AND x.finished_at IS NULL AND x.subject_hash = ANY (ARRAY(\
                   SELECT w.subject_hash FROM tally.erasure AS w WHERE w.tenant_id = $1 AND w.finished_at IS NULL \
                    ORDER BY w.requested_at, w.subject_hash LIMIT $2))";
    bounded(Attempts::One, || {
        session::as_owner(|| {
            sql::run(take, &[tenant.into(), SUBJECTS.into()]);
            sql::run("INSERT INTO tally.erasure_run (tenant_id) VALUES ($1)", &[tenant.into()]);
        });
        Ok(1)
    })
}

fn go_on(tenant: &str, run: &Run, max_rows: i64) -> Result<i64, ErasureError> {
    let taken = "SELECT x.subject, x.subject_hash FROM tally.erasure AS x \
                  WHERE x.tenant_id = $1 AND x.is_taken AND x.finished_at IS NULL ORDER BY x.subject_hash";
    let read = |row: sql::Row| (row.need::<String>(1), row.need::<Uuid>(2));
    let taken = session::as_owner(|| sql::changed_rows(taken, &[tenant.into()], read));
    let stored = || Stored::of(tenant, taken.iter().map(|(subject, _)| subject));
    let subjects = stored()?;
    let Some(forgotten) = &run.forgotten else {
        // Whenever a month was attached, as long as others are left.
        let parts = removal::parts();
        let next = parts.iter().find(|part| part.month.is_some() && !run.searched.contains(&part.mark));
        let month = next.and_then(|part| part.month);
        let detached = removal::detached_months();
        let mut places = match month {
            Some(month) => removal::find(tenant, &subjects.ids, &removal::time_of(month)),
            None => removal::find_in_others(tenant, &subjects.ids),
        };
        if month.is_none() && places.is_empty() {
            let of = |month: &String| removal::find_in_detached(tenant, &subjects.ids, month);
            places = detached.iter().map(of).find(|places| !places.is_empty()).unwrap_or_default();
        }
        let is_last = month.is_none() && places.is_empty();
        let lost = is_last.then(|| rollup::Lost::of(tenant));
        let sought = match &lost {
            Some(lost) => Some(elsewhere::seek_together(tenant, &subjects, &lost.months)?),
            None => None,
        };
        if let Some(sought) = &sought {
            // What was found took its time: this is not to be done for nothing.
            bounded(Attempts::Several, || {
                sought.iter().for_each(|(_, found)| found.pin());
                Ok(gate::close(&[], Attempts::One)?)
            })?;
        } else if !places.is_empty() {
            gate::close(&[], Attempts::One)?;
        }
        // Whatever is waited for from here on, everybody's ingest waits for.
        return lock::waiting_at_most(lock::LONGEST_TRY, || {
            // The tenant may have got keys meanwhile: another step looks for them by those, too. Or a month was detached, or attached.
            if stored()? != subjects || removal::detached_months() != detached || removal::parts() != parts {
                return Ok(1);
            }
            let (done, is_over) = remove_some(tenant, &subjects, &places, &detached, max_rows)?;
            match (next, lost.zip(sought)) {
                _ if !is_over => Ok(done),
                (Some(part), _) => {
                    let note = "UPDATE tally.erasure_run SET searched = array_append(searched, $2) WHERE tenant_id = $1";
                    session::as_owner(|| sql::run(note, &[tenant.into(), part.mark.as_str().into()]));
                    Ok(done)
                }
                // Of what is attached from now on it was noted that nobody could look into it.
                (None, Some((lost, sought))) => {
                    forget(tenant, &sought, taken.len(), &lost.months, &missing::of(&lost, &detached))
                }
                (None, None) => Ok(done),
            }
        });
    };
    let some: Vec<Uuid> = taken.iter().take(CERTIFICATES as usize).map(|&(_, hash)| hash).collect();
    if some.is_empty() {
        let end = "DELETE FROM tally.erasure_run WHERE tenant_id = $1";
        session::as_owner(|| sql::run(end, &[tenant.into()]));
        return Ok(1);
    }
    let together = forgotten["subjects"].as_i64().unwrap_or(taken.len() as i64);
    let lost = rollup::Lost::of(tenant);
    let mut missing = missing::of(&lost, &removal::detached_months());
    missing.extend(run.missing.iter().filter(|month| !missing.contains(month)).collect::<Vec<_>>());
    bounded(Attempts::One, || {
        elsewhere::certify(tenant, &some, together, forgotten, &lost.months, &missing)
    })?;
    Ok(some.len() as i64)
}

/// Removes their events of as many places as a step may read; how many events that were, and whether of all places.
fn remove_some(
    tenant: &str,
    subjects: &Stored,
    places: &BTreeSet<Place>,
    detached: &[String],
    max_rows: i64,
) -> Result<(i64, bool), ErasureError> {
    let mut done = 0;
    for place in places {
        if done > 0 && done >= max_rows {
            return Ok((done, false));
        }
        match bounded(Attempts::One, || removal::remove(tenant, subjects, place, detached)) {
            // What was removed stays so; another step goes on from there.
            Err(error) if done > 0 && error.is_busy() => return Ok((done, false)),
            removed => done += removed?,
        }
    }
    Ok((done.max(1), true))
}

/// Runs work on rows that a tenant's transaction may have locked. The step comes again.
fn bounded<T>(attempts: Attempts, work: impl Fn() -> Result<T, ErasureError>) -> Result<T, ErasureError> {
    elsewhere::tried(attempts, || work().map(Verdict::Keep))
}

/// Removes what else is kept of them. The caller has locked ingest out; `missing` are the months that nobody could search.
fn forget(
    tenant: &str,
    sought: &Sought,
    persons: usize,
    lost: &[i64],
    missing: &[i64],
) -> Result<i64, ErasureError> {
    let mut forgotten = bounded(Attempts::One, || elsewhere::forget_together(tenant, sought, lost))?;
    forgotten["subjects"] = persons.into();
    let missing = missing::array(missing);
    let note = format!(
        "UPDATE tally.erasure_run SET forgotten = $2, months_missing = {missing} WHERE tenant_id = $1"
    );
    session::as_owner(|| sql::run(&note, &[tenant.into(), JsonB(forgotten).into()]));
    Ok(1)
}
