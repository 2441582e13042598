//! What an ingest call answers.

use crate::backend::call::{self, Call};
use crate::raw::outcome::Counts;
use pgrx::pg_sys::Datum;
use serde::Serialize;

/// One event that was not accepted, as the summary's `details` tell it.
#[derive(Serialize)]
pub struct Detail<'a> {
    pub position: u32,
    pub event_id: Option<String>,
    pub outcome: &'static str,
    pub sqlstate: &'a str,
    pub reason: &'a str,
}

/// The answer to one ingest call.
pub struct Summary {
    pub batch_id: i64,
    pub counts: Counts,
    /// JSON array of `Detail`s in the order of the batch.
    pub details: String,
}

impl Summary {
    /// The summary as the row that a door answers.
    pub fn row(&self, call: &Call) -> Datum {
        let Counts { accepted, duplicates, conflicts, rejected } = self.counts;
        let numbers = [self.batch_id, accepted, duplicates, conflicts, rejected].map(Datum::from);
        let [batch_id, accepted, duplicates, conflicts, rejected] = numbers;
        let details = call::varlena(self.details.as_bytes());
        call.row(&[batch_id, accepted, duplicates, conflicts, rejected, details])
    }
}
