//! Retention: dropping raw events by whole months, once every rollup has folded them.

use super::RollupError;
use super::definition;
use super::fold::quote;
use crate::backend::scan::{self, Snapshot};
use crate::backend::session;
use pgrx::datum::TimestampWithTimeZone;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

/// The moment before which events may be gone: microseconds since 2000, and as text. `None` where none were dropped.
pub fn horizon() -> Option<(i64, String)> {
    let latest = "SELECT (extract(epoch FROM raw_from) * 1000000)::int8 - 946684800000000, raw_from \
                    FROM tally.raw_horizon ORDER BY raw_from DESC LIMIT 1";
    let row = session::as_owner(|| scan::texts(latest, Snapshot::Fresh)).pop()?;
    let [Some(time), Some(text)] = &row[..] else { unreachable!("both columns are NOT NULL") };
    Some((time.parse().expect("a bigint"), text.clone()))
}

#[pg_extern(sql = false)]
fn drop_raw(before: TimestampWithTimeZone) -> Result<SetOfIterator<'static, String>, ErrorReport> {
    session::require_writable(c"tally.drop_raw()");
    if session::has_fixed_snapshot() {
        return Err(RollupError::FixedSnapshot.into());
    }
    if matches!(i64::from(before), i64::MIN | i64::MAX) {
        return Err(RollupError::Range.into());
    }
    definition::lock_out_ingest();
    let definitions = definition::all()?;
    let dropped = session::as_owner(|| -> Result<Vec<String>, RollupError> {
        for definition in definitions.iter() {
            if definition.filled_from != i64::MIN {
                return Err(RollupError::Unfilled(definition.name.clone()));
            }
            let pending = quote(&format!("{}_pending", definition.name));
            let unfolded = Spi::get_one_with_args::<bool>(
                &format!(
                    "SELECT EXISTS (SELECT FROM tally.{pending} WHERE bucket < date_trunc('month', $1, 'UTC'))"
                ),
                &[before.into()],
            );
            if unfolded != Ok(Some(false)) {
                return Err(RollupError::Pending(definition.name.clone()));
            }
        }
        let partitions = Spi::get_one_with_args::<Vec<String>>(
            "SELECT coalesce(array_agg(c.relname::text ORDER BY c.relname), '{}') \
               FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid \
              WHERE i.inhparent = 'tally.events'::regclass AND c.relname ~ '^events_p[0-9]{4,}_[0-9]{2}$' \
                AND to_timestamp(substr(c.relname, 9), 'YYYY_MM') + interval '1 month' <= $1",
            &[before.into()],
        )
        .expect("the columns have these types")
        .unwrap_or_default();
        for partition in &partitions {
            Spi::run(&format!("DROP TABLE tally.{}", quote(partition))).expect("DDL raises its own errors");
        }
        if !partitions.is_empty() {
            Spi::run_with_args(
                "INSERT INTO tally.raw_horizon (raw_from) VALUES (date_trunc('month', $1, 'UTC'))",
                &[before.into()],
            )
            .expect("an INSERT raises its own errors");
        }
        Ok(partitions)
    })?;
    Ok(SetOfIterator::new(dropped))
}
