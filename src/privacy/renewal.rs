//! Steps of going through what is stored of a tenant. What each stage does is in sql/privacy/renewal.sql.
//!
//! A step has the tenant's row of `tally.privacy_renewal` locked: the work is neither begun anew nor gone on with by another session
//! between what a step reads there and what it notes. It waits for nobody who has that row, as whoever declares something may have for
//! long.

use crate::backend::call::sql_function;
use crate::backend::lock::{self, Attempts, Busy};
use crate::backend::session;
use crate::backend::sql::{self, Moment, quote};
use pgrx::datum::{DatumWithOid, TimestampWithTimeZone};
use pgrx::pg_sys::{self, Datum};

const WAITING: i32 = 0;
const EVENTS: i32 = 1;
const ROLLUPS: i32 = 2;

sql_function! {
    /// `renew_stored(tenant_id, max_rows)`: one bounded step; 0 where nothing is left, null where another session is at it.
    fn renew_stored_wrapper / pg_finfo_renew_stored_wrapper(call) {
        let (tenant, max_rows) = (call.text(0).unwrap_or_default(), call.long(1).unwrap_or(1).max(1));
        session::require_writable(c"tally.maintain()");
        let stage = "SELECT r.stage FROM tally.privacy_renewal AS r WHERE r.tenant_id = $1 AND r.finished_at IS NULL";
        let Some(stage) = session::as_owner(|| sql::one::<i32>(stage, &[tenant.into()])) else {
            return Ok(Some(Datum::from(0_i64)));
        };
        let is_begun = stage == ROLLUPS && next(tenant).is_some_and(|next| next.is_begun);
        // Before the row: whoever ingests and declares something in one transaction has them in this order, too.
        match stage {
            // What a running call stores it protects as it was declared before: it must have ended.
            WAITING => pause_ingest(Attempts::One)?,
            // No horizon moves until the buckets are made anew.
            ROLLUPS if is_begun => pause_ingest(Attempts::Several)?,
            // Nor is a rollup declared; and an erasure would lock the tenant's events in an order of its own.
            EVENTS | ROLLUPS => enter()?,
            _ => {}
        }
        let held = "SELECT true FROM tally.privacy_renewal AS r WHERE r.tenant_id = $1 AND r.stage = $2 FOR UPDATE SKIP LOCKED";
        if session::as_owner(|| sql::one::<bool>(held, &[tenant.into(), stage.into()])).is_none() {
            return Ok(None);
        }
        let done = match stage {
            WAITING => begin(tenant),
            ROLLUPS => match next(tenant) {
                // Another session has looked into it meanwhile, or been done with the one before.
                Some(next) if next.is_begun != is_begun => return Ok(None),
                next => rollup(tenant, next),
            },
            EVENTS => step("SELECT tally_internal.renew_events($1, $2)", tenant, max_rows),
            3 => step("SELECT tally_internal.renew_quarantine($1, $2)", tenant, max_rows),
            _ => 0,
        };
        Ok(Some(Datum::from(done)))
    }
}

/// Waits for every running ingest, and keeps new ones waiting, until the transaction ends.
fn pause_ingest(attempts: Attempts) -> Result<(), Busy> {
    let ingest = (session::relation(c"rollup"), pg_sys::ShareRowExclusiveLock);
    lock::relations("ingest can't be paused", &[ingest], attempts)
}

/// Keeps rollups from being declared or dropped, horizons from being moved, and persons from being erased, until the transaction ends; ingest
/// goes on.
fn enter() -> Result<(), Busy> {
    let declared = (session::relation(c"rollup"), pg_sys::RowExclusiveLock);
    lock::relations("ingest is paused", &[declared], Attempts::Several)
}

fn begin(tenant: &str) -> i64 {
    let others = "INSERT INTO tally.privacy_renewal AS r (tenant_id, changed_paths) \
                   SELECT t.tenant_id, a.changed_paths FROM tally.tenant AS t JOIN tally.privacy_renewal AS a ON a.tenant_id = '' \
                    WHERE EXISTS (SELECT FROM tally.protection AS p WHERE p.tenant_id = '') ON CONFLICT DO NOTHING";
    note("stage = 1", &[tenant.into()]);
    // Those whose first events came with calls that began before.
    if tenant.is_empty() {
        session::as_owner(|| sql::run(others, &[]));
    }
    1
}

/// The rollup that a step is about.
struct Next {
    name: String,
    /// Whether a step has looked for what it keeps.
    is_begun: bool,
    /// What is to be made anew of it, and whether that isn't all; `None` where nothing is.
    piece: Option<(Moment, Moment, bool)>,
}

fn next(tenant: &str) -> Option<Next> {
    let query = format!(
        "SELECT n.rollup_name, n.is_begun, n.\"from\" < n.\"to\", {}, {}, n.until < n.\"to\" \
           FROM tally.privacy_renewal AS r, LATERAL tally_internal.next_renewed(r) AS n WHERE r.tenant_id = $1",
        sql::micros("n.\"from\""),
        sql::micros("n.until")
    );
    let read = |row: sql::Row| {
        // Less may be protected by now than when it was begun.
        let piece = match (row.get::<bool>(3), row.get::<i64>(4), row.get::<i64>(5)) {
            (Some(true), Some(from), Some(until)) => {
                Some((Moment(from), Moment(until), row.get(6) == Some(true)))
            }
            _ => None,
        };
        Some(Next { name: row.get(1)?, is_begun: row.need(2), piece })
    };
    session::as_owner(|| sql::changed_rows(&query, &[tenant.into()], read)).into_iter().next().flatten()
}

/// Looks for what the next rollup keeps, or makes some of it anew, by the caller's rights, and notes it. What says how far this has come is
/// written here alone: nobody may say that it was done who didn't do it.
fn rollup(tenant: &str, next: Option<Next>) -> i64 {
    let Some(Next { name, is_begun, piece }) = next else {
        note("stage = 3", &[tenant.into()]);
        return 1;
    };
    if !is_begun {
        look(tenant, &name);
    }
    match piece {
        Some((from, until, goes_on)) => {
            let (done, until) = if is_begun { (renew(tenant, &name, from, until), until) } else { (1, from) };
            if goes_on || !is_begun {
                let begun = "rollup_in_hand = $2, rollup_from = $3";
                note(begun, &[tenant.into(), name.as_str().into(), until.into()]);
            } else {
                note("rollup_done = $2", &[tenant.into(), name.as_str().into()]);
            }
            done.max(1)
        }
        None => {
            note("rollup_done = $2", &[tenant.into(), name.as_str().into()]);
            1
        }
    }
}

/// Says of all buckets of which raw events are gone that they keep what was declared since the last time, also where no event is left that
/// could have been changed. They stay as they are. What the rollup kept before it may keep no more.
fn look(tenant: &str, name: &str) {
    let columns = columns(tenant, name);
    let asked = if columns.is_told { columns.protected } else { columns.changed };
    if asked.is_empty() && !columns.is_told {
        return;
    }
    let ever = [Moment(i64::MIN), Moment(i64::MAX)];
    let kept = times(tenant, name, ever, asked).into_iter().filter(|time| !time.is_renewable);
    let kept: Vec<String> = kept.map(|time| time.text).collect();
    match (columns.is_told, kept.is_empty()) {
        (false, false) => tell(tenant, name, &kept),
        (true, true) => note("left_in = array_remove(r.left_in, $2)", &[tenant.into(), name.into()]),
        _ => {}
    }
}

/// Makes the buckets of a piece of time anew of which all raw events are there; says of the others, where nobody has said it, that they stay
/// as they are. Returns how many events were read.
fn renew(tenant: &str, name: &str, from: Moment, until: Moment) -> i64 {
    let columns = columns(tenant, name);
    let (mut done, mut kept) = (0, Vec::new());
    for time in times(tenant, name, [from, until], columns.changed) {
        if time.is_renewable {
            let rebuild = "SELECT tally.rebuild_rollup($1, $2, $3, $4)";
            let values = [name.into(), time.begins.into(), time.ends.into(), tenant.into()];
            done += sql::one::<i64>(rebuild, &values).unwrap_or(0);
        } else {
            kept.push(time.text);
        }
    }
    if !columns.is_told && !kept.is_empty() {
        tell(tenant, name, &kept);
    }
    // Their statistics have what was there.
    let note = "SELECT tally_internal.note_trace(array_agg(concat(r.rollup_name, '_', t.part))) \
                  FROM tally.rollup AS r, LATERAL (SELECT concat(unnest(r.grains), '_base') UNION ALL SELECT 'pending') AS t (part) WHERE r.rollup_name = $1";
    session::as_owner(|| sql::run(note, &[name.into()]));
    done
}

fn tell(tenant: &str, name: &str, times: &[String]) {
    for time in times {
        pgrx::warning!(
            "rollup {} keeps user ids or tokens of tenant \"{tenant}\" as they were before, {time}: raw events of these buckets are gone",
            quote(name)
        );
    }
    note("left_in = array_append(r.left_in, $2)", &[tenant.into(), name.into()]);
}

/// Columns of a rollup in which something may be kept.
struct Columns {
    /// Of what was declared, or has another key, since the last time.
    changed: Vec<String>,
    /// Of all that is protected.
    protected: Vec<String>,
    /// Whether it has been told that the rollup keeps something.
    is_told: bool,
}

fn columns(tenant: &str, name: &str) -> Columns {
    let query = "SELECT c.changed, c.all_of_them, $2 = ANY (r.left_in) FROM tally.privacy_renewal AS r, \
                   LATERAL tally_internal.protected_columns(r, $2) AS c WHERE r.tenant_id = $1";
    let read = |row: sql::Row| Columns { changed: row.need(1), protected: row.need(2), is_told: row.need(3) };
    let found = session::as_owner(|| sql::changed_rows(query, &[tenant.into(), name.into()], read));
    found.into_iter().next().expect("the row is locked")
}

/// Some whole buckets of a rollup.
struct Time {
    begins: Moment,
    ends: Moment,
    /// Whether all raw events are there.
    is_renewable: bool,
    text: String,
}

/// The parts of a range of time, those of which raw events are gone only where something is in one of these columns.
fn times(tenant: &str, name: &str, [from, until]: [Moment; 2], columns: Vec<String>) -> Vec<Time> {
    let query = "SELECT t.is_renewable, t.begins, t.ends, \
                        CASE WHEN t.begins = '-infinity' THEN concat('up to ', t.ends) WHEN t.ends = 'infinity' THEN concat('from ', t.begins, ' on') \
                             ELSE concat('from ', t.begins, ' to ', t.ends) END \
                   FROM tally_internal.renewable_times($1, $2, $3, $4, $5) AS t";
    let values = [name.into(), from.into(), until.into(), tenant.into(), columns.into()];
    let moment = |row: &sql::Row, place| Moment(row.need::<TimestampWithTimeZone>(place).into());
    let read = |row: sql::Row| Time {
        is_renewable: row.need(1),
        begins: moment(&row, 2),
        ends: moment(&row, 3),
        text: row.need(4),
    };
    session::as_owner(|| sql::changed_rows(query, &values, read))
}

/// Writes into a tenant's row, which is locked; the first value is the tenant.
fn note(change: &str, values: &[DatumWithOid]) {
    let statement = format!(
        "UPDATE tally.privacy_renewal AS r SET updated_at = clock_timestamp(), {change} WHERE r.tenant_id = $1"
    );
    session::as_owner(|| sql::run(&statement, values));
}

fn step(statement: &str, tenant: &str, max_rows: i64) -> i64 {
    session::as_owner(|| sql::one(statement, &[tenant.into(), max_rows.into()])).unwrap_or(0)
}
