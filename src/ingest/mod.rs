//! Ingest: every door leads to one pipeline (`pipeline`), which stores each event exactly once.

mod event_row;
mod failure;
mod inbox;
mod ledger;
mod months;
mod options;
mod partition;
mod pipeline;
mod redrive;
mod store;
mod summary;
mod trail;
mod typed;

use crate::backend::json::Document;
use options::Options;
use pgrx::AnyArray;

pub use event_row::{EVENTS, EventRow, event_column_names};
pub use failure::{IngestError, Refusal};

/// The tables that ingest writes.
pub const TABLES: [crate::backend::heap::Declared; 4] =
    [event_row::EVENTS, ledger::LEDGER, store::BATCHES, store::QUARANTINE];

/// Defines a door that is a function: its body ends in a `Summary`, which becomes its one row. pgrx reads the columns from the
/// signature, so each function has to have them written out.
macro_rules! door {
    ($(#[$attribute:meta])* fn $name:ident($($argument:ident: $type:ty),*) $body:block) => {
        $(#[$attribute])*
        #[pgrx::pg_extern(sql = false)]
        #[allow(clippy::too_many_arguments, clippy::type_complexity, reason = "the signature is the SQL function's")]
        fn $name(
            $($argument: $type),*
        ) -> Result<
            pgrx::iter::TableIterator<
                'static,
                (
                    pgrx::name!(batch_id, i64),
                    pgrx::name!(accepted, i64),
                    pgrx::name!(duplicates, i64),
                    pgrx::name!(conflicts, i64),
                    pgrx::name!(rejected, i64),
                    pgrx::name!(details, String),
                ),
            >,
            pgrx::pg_sys::panic::ErrorReport,
        > {
            let answer = || -> Result<$crate::ingest::summary::Summary, pgrx::pg_sys::panic::ErrorReport> { $body };
            let $crate::ingest::summary::Summary { batch_id, counts, details } = answer()?;
            Ok(pgrx::iter::TableIterator::once((
                batch_id,
                counts.accepted,
                counts.duplicates,
                counts.conflicts,
                counts.rejected,
                details,
            )))
        }
    };
}
pub(crate) use door;

door! {
    /// The door for text and, having the same bytes, for json.
    fn ingest(events: &str) {
        pipeline::run(events, Options::read(None)?)
    }
}

door! {
    fn ingest_with_options(events: &str, options: Document) {
        pipeline::run(events, Options::read(Some(options.0))?)
    }
}

door! {
    /// The door for the SQL type.
    fn ingest_events(events: AnyArray) {
        typed::run(&events, Options::read(None)?)
    }
}

door! {
    fn ingest_events_with_options(events: AnyArray, options: Document) {
        typed::run(&events, Options::read(Some(options.0))?)
    }
}
