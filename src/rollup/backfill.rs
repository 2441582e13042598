//! Backfilling a rollup in steps, while ingest goes on.
//!
//! A rollup to be backfilled has a frontier, `tally.rollup_backfill.filled_from`: ingest counts the events from it on,
//! whatever their batch; earlier ones wait. A step locks ingest out, moves the frontier back and counts the events that it
//! passed, in one transaction: each event is counted by the one or the other, never by both.

use super::RollupError;
use super::failure::WHICH_ROLLUP;
use super::{append, definition};
use crate::backend::lock::Attempts;
use crate::backend::report::given;
use crate::backend::session;
use crate::backend::sql::{self, Moment};
use crate::raw::{RawError, gate};
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use tally_core::grain::Grain;

/// Notes that the events from before now wait. Runs as the owner.
pub fn begin(rollup_name: &str) {
    sql::run(
        "INSERT INTO tally.rollup_backfill (rollup_name, filled_from, events_expected) \
         SELECT $1, now(), coalesce(sum(greatest(c.reltuples, 0))::int8, 0) \
           FROM pg_partition_tree('tally.events') AS part JOIN pg_class AS c ON c.oid = part.relid AND part.isleaf",
        &[rollup_name.into()],
    );
}

/// One step; returns how many events it counted, 0 where nothing is left.
#[pg_extern(sql = false)]
fn backfill(rollup_name: Option<&str>, max_events: Option<i64>) -> Result<i64, ErrorReport> {
    session::require_writable(c"tally.backfill()");
    let rollup_name = given(rollup_name, "rollup_name", WHICH_ROLLUP)?;
    let max_events = given(max_events, "max_events", "leave it out for 100,000")?;
    if session::has_fixed_snapshot() {
        return Err(RawError::FixedSnapshot.into());
    }
    if max_events < 1 {
        return Err(RawError::TooFew("max_events", 1, "leave it out for 100,000").into());
    }
    // Asked without a lock: two sessions that had the definitions' would each wait for the other when they take the stronger one.
    let is_done = "SELECT (SELECT b.rollup_name IS NULL OR b.finished_at IS NOT NULL FROM tally.rollup AS r \
                             LEFT JOIN tally.rollup_backfill AS b USING (rollup_name) WHERE r.rollup_name = $1)";
    match session::as_owner(|| sql::one(is_done, &[rollup_name.into()])) {
        None => return Err(RollupError::Unknown(rollup_name.to_owned()).into()),
        Some(true) => return Ok(0),
        Some(false) => {}
    }
    gate::close(&[], Attempts::One)?;
    // Another session may have taken a step while this one waited for the lock.
    let end = definition::find(&definition::all()?, rollup_name)?.filled_from;
    let Some(oldest) = oldest_partition().filter(|&oldest| oldest < end) else {
        advance(rollup_name, None, 0);
        return Ok(0);
    };
    let mut range = end..end;
    let mut counted = 0;
    while counted == 0 && range.start > oldest {
        range.end = range.start;
        range.start = step(range.end, max_events);
        advance(rollup_name, Some(range.start), 0);
        definition::invalidate();
        session::advance_command();
        counted = append::fill(rollup_name, &sql::within("occurred_at", &range), None)?;
    }
    let frontier = (range.start > oldest).then_some(range.start);
    advance(rollup_name, frontier, counted);
    Ok(counted)
}

/// Where a step from `end` back begins: at the month's start, or later, at the moment before which there are enough.
fn step(end: i64, max_events: i64) -> i64 {
    let month = Grain::Month.floor(end - 1);
    let query = format!(
        "SELECT {}, count(*) FROM (\
           SELECT occurred_at AS t FROM tally.events WHERE occurred_at >= $1 AND occurred_at < $2 \
            ORDER BY occurred_at DESC LIMIT $3) AS last",
        sql::micros("min(t)")
    );
    let values = [Moment(month).into(), Moment(end).into(), max_events.into()];
    let read = |row: sql::Row| (row.get::<i64>(1), row.need::<i64>(2));
    match session::as_owner(|| sql::changed_rows(&query, &values, read)).first() {
        Some(&(Some(time), count)) if count == max_events => time,
        _ => month,
    }
}

/// Start of the oldest partition, in microseconds since 2000.
fn oldest_partition() -> Option<i64> {
    let query = format!(
        "SELECT {} FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid \
          WHERE i.inhparent = 'tally.events'::regclass AND c.relname ~ '^events_p[0-9]{{4,}}_[0-9]{{2}}$'",
        sql::micros("min(to_timestamp(substr(c.relname, 9), 'YYYY_MM'))")
    );
    session::as_owner(|| sql::one(&query, &[]))
}

/// Moves the frontier, or ends the backfill.
fn advance(rollup_name: &str, frontier: Option<i64>, counted: i64) {
    let statement = "UPDATE tally.rollup_backfill \
            SET events_done = events_done + $3, updated_at = clock_timestamp(), filled_from = coalesce($2, '-infinity'), \
                finished_at = CASE WHEN $2 IS NULL THEN clock_timestamp() ELSE finished_at END \
          WHERE rollup_name = $1";
    let values = [rollup_name.into(), frontier.map(Moment).into(), counted.into()];
    session::as_owner(|| sql::run(statement, &values));
    definition::invalidate();
}

/// Whether some rollup is still to be backfilled.
pub fn is_backfilling() -> bool {
    let waits = "SELECT EXISTS (SELECT FROM tally.rollup_backfill WHERE finished_at IS NULL)";
    session::as_owner(|| sql::one(waits, &[])) != Some(false)
}
