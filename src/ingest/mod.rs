//! Ingest: every door leads to one pipeline (`pipeline`), which stores each event exactly once.

mod event_row;
mod ledger;
mod partition;
mod pipeline;
mod store;
mod summary;

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

pub use event_row::{EVENT_COLUMN_NAMES, EventRow};
pub use pipeline::IngestError;

/// The door for text and, having the same bytes, for json.
#[pg_extern(sql = false)]
#[allow(clippy::type_complexity, reason = "pgrx reads the columns from the signature")]
fn ingest(
    events: &str,
) -> Result<
    TableIterator<
        'static,
        (
            name!(batch_id, i64),
            name!(accepted, i64),
            name!(duplicates, i64),
            name!(conflicts, i64),
            name!(rejected, i64),
            name!(details, String),
        ),
    >,
    ErrorReport,
> {
    let summary = pipeline::run(events)?;
    let counts = summary.counts;
    Ok(TableIterator::once((
        summary.batch_id,
        counts.accepted,
        counts.duplicates,
        counts.conflicts,
        counts.rejected,
        summary.details,
    )))
}
