//! Ingest: every door leads to one pipeline (`pipeline`), which stores each event exactly once.

mod ledger;
mod partition;
mod pipeline;
mod store;
mod summary;

use pgrx::prelude::*;

pub use pipeline::IngestError;

type SummaryRow = TableIterator<
    'static,
    (
        name!(batch_id, i64),
        name!(accepted, i64),
        name!(duplicates, i64),
        name!(conflicts, i64),
        name!(rejected, i64),
        name!(details, String),
    ),
>;

/// The door for text and, having the same bytes, for json.
#[pg_extern(sql = false)]
fn ingest(events: &str) -> Result<SummaryRow, ErrorReport> {
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
