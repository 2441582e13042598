//! Steps of going through what is stored of a tenant. What each stage does is in sql/privacy/renewal.sql.
//!
//! A step has the tenant's row of `tally.privacy_renewal` locked: the work is neither begun anew nor gone on with by another session
//! between what a step reads there and what it notes. It waits for nobody who has that row, as whoever declares something may have for
//! long.

use crate::backend::call::sql_function;
use crate::backend::lock::{self, Attempts, Busy};
use crate::backend::session;
use crate::backend::sql::{self, Moment, quote};
use pgrx::datum::DatumWithOid;
use pgrx::pg_sys::{self, Datum};

const WAITING: i32 = 0;
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
        // Before the row: whoever ingests and declares something in one transaction has them in this order, too.
        match stage {
            // What a running call stores it protects as it was declared before: it must have ended.
            WAITING => pause_ingest(Attempts::One)?,
            // No horizon moves until the buckets are made anew.
            ROLLUPS => pause_ingest(Attempts::Several)?,
            _ => {}
        }
        let held = "SELECT true FROM tally.privacy_renewal AS r WHERE r.tenant_id = $1 AND r.stage = $2 FOR UPDATE SKIP LOCKED";
        if session::as_owner(|| sql::one::<bool>(held, &[tenant.into(), stage.into()])).is_none() {
            return Ok(None);
        }
        let done = match stage {
            WAITING => begin(tenant),
            ROLLUPS => rollup(tenant),
            1 => step("SELECT tally_internal.renew_events($1, $2)", tenant, max_rows),
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

fn begin(tenant: &str) -> i64 {
    let others = "INSERT INTO tally.privacy_renewal AS r (tenant_id) SELECT t.tenant_id FROM tally.tenant AS t \
                   WHERE EXISTS (SELECT FROM tally.protection AS p WHERE p.tenant_id = '') ON CONFLICT DO NOTHING";
    note("stage = 1", &[tenant.into()]);
    // Those whose first events came with calls that began before.
    if tenant.is_empty() {
        session::as_owner(|| sql::run(others, &[]));
    }
    1
}

/// Makes some of the next rollup anew, by the caller's rights, and notes it. What says how far this has come is written here alone: nobody
/// may say that it was done who didn't do it.
fn rollup(tenant: &str) -> i64 {
    let next = format!(
        "SELECT n.rollup_name, n.\"from\" < n.\"to\", {}, {}, n.until < n.\"to\" \
           FROM tally.privacy_renewal AS r, LATERAL tally_internal.next_renewed(r) AS n WHERE r.tenant_id = $1",
        sql::micros("n.\"from\""),
        sql::micros("n.until")
    );
    let read = |row: sql::Row| {
        (row.get::<String>(1), row.get::<bool>(2), row.get::<i64>(3), row.get::<i64>(4), row.get::<bool>(5))
    };
    let found = session::as_owner(|| sql::changed_rows(&next, &[tenant.into()], read));
    let Some((name, is_concerned, from, until, goes_on)) = found.into_iter().next() else { return 1 };
    let Some(name) = name else {
        note("stage = 3", &[tenant.into()]);
        return 1;
    };
    // Less may be protected by now than when it was begun.
    let (Some(true), Some(from), Some(until)) = (is_concerned, from, until) else {
        note("rollup_done = $2", &[tenant.into(), name.as_str().into()]);
        return 1;
    };
    let done = piece(tenant, &name, from, until);
    if goes_on == Some(true) {
        note(
            "rollup_in_hand = $2, rollup_from = $3",
            &[tenant.into(), name.as_str().into(), Moment(until).into()],
        );
    } else {
        note("rollup_done = $2", &[tenant.into(), name.as_str().into()]);
    }
    done.max(1)
}

/// Makes the buckets of a piece of time anew of which all raw events are there; says of the others that they stay as they are. Returns how
/// many events were read.
fn piece(tenant: &str, name: &str, from: i64, until: i64) -> i64 {
    let times = format!(
        "SELECT t.is_renewable, {}, {}, t.begins::text, t.ends::text FROM tally_internal.renewable_times($1, $2, $3, $4) AS t",
        sql::micros("t.begins"),
        sql::micros("t.ends")
    );
    let values = [name.into(), Moment(from).into(), Moment(until).into(), tenant.into()];
    let read = |row: sql::Row| {
        let texts: [String; 2] = [row.need(4), row.need(5)];
        (row.need::<bool>(1), Moment(row.need(2)), Moment(row.need(3)), texts)
    };
    let mut done = 0;
    for (is_renewable, begins, ends, [first, last]) in sql::changed_rows(&times, &values, read) {
        if is_renewable {
            let rebuild = "SELECT tally.rebuild_rollup($1, $2, $3, $4)";
            let values = [name.into(), begins.into(), ends.into(), tenant.into()];
            done += sql::one::<i64>(rebuild, &values).unwrap_or(0);
        } else {
            pgrx::warning!(
                "rollup {} keeps user ids or tokens of tenant \"{tenant}\" as they were before, from {first} to {last}: raw events of these buckets are gone",
                quote(name)
            );
            let left_in = "left_in = CASE WHEN $2 = ANY (r.left_in) THEN r.left_in ELSE array_append(r.left_in, $2) END";
            note(left_in, &[tenant.into(), name.into()]);
        }
    }
    done
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
