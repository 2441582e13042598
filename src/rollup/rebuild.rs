//! Rebuilding: makes the buckets of a range of time anew from the events, as one change that readers see whole.

use super::RollupError;
use super::append;
use super::definition::{self, Definition};
use super::fold::quote;
use super::retention;
use crate::backend::session;
use core::ops::Range;
use pgrx::datum::TimestampWithTimeZone;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

/// A range of time in microseconds since 2000; an open side is the least or greatest number.
pub fn range(
    from: Option<TimestampWithTimeZone>,
    to: Option<TimestampWithTimeZone>,
) -> Result<Range<i64>, RollupError> {
    let bound = |time: Option<TimestampWithTimeZone>, open| match time.map(i64::from) {
        Some(i64::MIN | i64::MAX) => Err(RollupError::Range),
        Some(time) => Ok(time),
        None => Ok(open),
    };
    let range = bound(from, i64::MIN)?..bound(to, i64::MAX)?;
    if range.is_empty() { Err(RollupError::Range) } else { Ok(range) }
}

/// SQL that is true where `column` lies in the range.
pub fn within(column: &str, range: &Range<i64>) -> String {
    let mut text = "true".to_owned();
    if range.start != i64::MIN {
        text.push_str(&format!(" AND {column} >= {}", literal(range.start)));
    }
    if range.end != i64::MAX {
        text.push_str(&format!(" AND {column} < {}", literal(range.end)));
    }
    text
}

/// SQL for a moment.
pub fn literal(time: i64) -> String {
    format!("(timestamptz '2000-01-01 00:00:00+00' + interval '{time} microseconds')")
}

/// Widens a range until it begins and ends where a bucket of every grain does: each pending row feeds all grains.
fn widen(definition: &Definition, range: Range<i64>) -> Range<i64> {
    let floor = |mut time: i64| {
        while let Some(earlier) =
            definition.grains.iter().map(|grain| grain.floor(time)).find(|&floor| floor != time)
        {
            time = earlier;
        }
        time
    };
    let ceiling = |mut time: i64| {
        while let Some(later) =
            definition.grains.iter().map(|grain| grain.ceiling(time)).find(|&ceiling| ceiling != time)
        {
            time = later;
        }
        time
    };
    let start = if range.start == i64::MIN { range.start } else { floor(range.start) };
    let end = if range.end == i64::MAX { range.end } else { ceiling(range.end) };
    start..end
}

#[pg_extern(sql = false)]
fn rebuild_rollup(
    rollup_name: &str,
    from: Option<TimestampWithTimeZone>,
    to: Option<TimestampWithTimeZone>,
    tenant_id: Option<&str>,
) -> Result<i64, ErrorReport> {
    session::require_writable(c"tally.rebuild_rollup()");
    if session::has_fixed_snapshot() {
        return Err(RollupError::FixedSnapshot.into());
    }
    let asked = range(from, to)?;
    definition::lock_out_ingest();
    let definitions = definition::all()?;
    let definition = definition::find(&definitions, rollup_name)?;
    let mut range = widen(definition, asked.clone());
    if let Some((horizon, text)) = retention::horizon() {
        if asked.start == i64::MIN {
            range.start = widen(definition, horizon..i64::MAX).start;
        }
        if range.start < horizon {
            return Err(RollupError::Frozen(text).into());
        }
    }
    let tenant = tenant_id.map_or_else(String::new, |tenant| {
        format!(" AND tenant_id = {}", pgrx::spi::quote_literal(tenant))
    });
    session::as_owner(|| {
        // Waits for a running fold; the deletions' snapshots are newer than the lock.
        Spi::run_with_args("SELECT pg_advisory_xact_lock($1::oid::int4, 1)", &[definition.pending.into()])
            .expect("a lock raises its own errors");
        let bases = definition.grains.iter().map(|grain| format!("{rollup_name}_{grain}_base"));
        for table in bases.chain([format!("{rollup_name}_pending")]) {
            let condition = within("bucket", &range);
            Spi::run(&format!("DELETE FROM tally.{} WHERE {condition}{tenant}", quote(&table)))
                .expect("a DELETE raises its own errors");
        }
    });
    Ok(append::fill(rollup_name, &format!("{}{tenant}", within("occurred_at", &range)))?)
}
