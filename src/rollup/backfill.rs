//! Backfilling a rollup in steps, while ingest goes on.
//!
//! A rollup to be backfilled has a frontier, `tally.rollup_backfill.filled_from`: ingest counts the events from it on,
//! whatever their batch; earlier ones wait. A step locks ingest out, moves the frontier back and counts the events that it
//! passed, in one transaction: each event is counted by the one or the other, never by both.

use super::RollupError;
use super::rebuild::literal;
use super::{append, definition};
use crate::backend::lock::Patience;
use crate::backend::scan::{self, Snapshot};
use crate::backend::session;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use tally_core::grain::Grain;

/// Notes that the events from before now wait. Runs as the owner.
pub fn begin(rollup_name: &str) {
    Spi::run_with_args(
        "INSERT INTO tally.rollup_backfill (rollup_name, filled_from, events_expected) \
         SELECT $1, now(), coalesce(sum(greatest(c.reltuples, 0))::int8, 0) \
           FROM pg_partition_tree('tally.events') AS part JOIN pg_class AS c ON c.oid = part.relid AND part.isleaf",
        &[rollup_name.into()],
    )
    .expect("an INSERT raises its own errors");
}

/// One step; returns how many events it counted, 0 where nothing is left.
#[pg_extern(sql = false)]
fn backfill(rollup_name: &str, max_events: i64) -> Result<i64, ErrorReport> {
    session::require_writable(c"tally.backfill()");
    if session::has_fixed_snapshot() {
        return Err(RollupError::FixedSnapshot.into());
    }
    if max_events < 1 {
        return Err(RollupError::Range.into());
    }
    // Asked without a lock: two sessions that had the definitions' would each wait for the other when they take the stronger one.
    let is_done = "SELECT (SELECT b.rollup_name IS NULL OR b.finished_at IS NOT NULL FROM tally.rollup AS r \
                             LEFT JOIN tally.rollup_backfill AS b USING (rollup_name) WHERE r.rollup_name = $1)";
    let is_done = session::as_owner(|| Spi::get_one_with_args::<bool>(is_done, &[rollup_name.into()]));
    match is_done.expect("a boolean") {
        None => return Err(RollupError::Unknown(rollup_name.to_owned()).into()),
        Some(true) => return Ok(0),
        Some(false) => {}
    }
    definition::lock_out_ingest(&[], Patience::Once)?;
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
        let passed =
            format!("occurred_at >= {} AND occurred_at < {}", literal(range.start), literal(range.end));
        counted = append::fill(rollup_name, &passed)?;
    }
    let frontier = (range.start > oldest).then_some(range.start);
    advance(rollup_name, frontier, counted);
    Ok(counted)
}

/// Where a step from `end` back begins: at the month's start, or later, at the moment before which there are enough.
fn step(end: i64, max_events: i64) -> i64 {
    let month = Grain::Month.floor(end - 1);
    let query = format!(
        "SELECT (extract(epoch FROM min(t)) * 1000000)::int8 - 946684800000000, count(*) FROM (\
           SELECT occurred_at AS t FROM tally.events WHERE occurred_at >= {} AND occurred_at < {} \
            ORDER BY occurred_at DESC LIMIT {max_events}) AS last",
        literal(month),
        literal(end)
    );
    let row =
        session::as_owner(|| scan::texts(&query, Snapshot::Fresh)).pop().expect("an aggregate gives a row");
    match (&row[0], &row[1]) {
        (Some(time), Some(count)) if count.parse() == Ok(max_events) => time.parse().expect("a bigint"),
        _ => month,
    }
}

/// Start of the oldest partition, in microseconds since 2000.
fn oldest_partition() -> Option<i64> {
    let query = "SELECT (extract(epoch FROM min(to_timestamp(substr(c.relname, 9), 'YYYY_MM'))) * 1000000)::int8 \
                        - 946684800000000 \
                   FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid \
                  WHERE i.inhparent = 'tally.events'::regclass AND c.relname ~ '^events_p[0-9]{4,}_[0-9]{2}$'";
    let row = session::as_owner(|| scan::texts(query, Snapshot::Fresh)).pop()?;
    row[0].as_ref().map(|time| time.parse().expect("a bigint"))
}

/// Moves the frontier, or ends the backfill.
fn advance(rollup_name: &str, frontier: Option<i64>, counted: i64) {
    let statement = format!(
        "UPDATE tally.rollup_backfill SET events_done = events_done + {counted}, updated_at = clock_timestamp(), {} \
          WHERE rollup_name = {}",
        frontier.map_or_else(
            || "filled_from = '-infinity', finished_at = clock_timestamp()".to_owned(),
            |time| format!("filled_from = {}", literal(time))
        ),
        pgrx::spi::quote_literal(rollup_name)
    );
    session::as_owner(|| Spi::run(&statement)).expect("an UPDATE raises its own errors");
    definition::invalidate();
}
