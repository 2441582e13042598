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
    /// `None` where nothing was to be done, so that there is no batch.
    pub batch_id: Option<i64>,
    pub counts: Counts,
    /// JSON array of `Detail`s in the order of the batch, those about its stream first.
    pub details: String,
}

/// What the summary's `details` tell about the stream that a call belongs to.
#[derive(Serialize)]
pub struct StreamDetail<'a> {
    pub stream: &'a str,
    /// The position up to which the stream had been stored before.
    pub stored: i64,
    /// `past`: all of it had been stored before; `gap`: positions before it are missing.
    pub outcome: &'static str,
    pub reason: String,
}

impl Summary {
    /// The summary as the row that a door answers.
    pub fn row(&self, call: &Call) -> Datum {
        let Counts { accepted, duplicates, conflicts, rejected } = self.counts;
        let mut row = vec![self.batch_id.map(Datum::from)];
        row.extend([accepted, duplicates, conflicts, rejected].map(|number| Some(Datum::from(number))));
        row.push(Some(call::varlena(self.details.as_bytes())));
        call.row(&row)
    }

    /// Puts what there is to tell about the stream before the other details.
    pub fn add(&mut self, detail: &StreamDetail) {
        let detail = serde_json::to_string(detail).expect("details are strings and numbers");
        let rest = self.details.trim_start_matches('[');
        let comma = if rest == "]" { "" } else { "," };
        self.details = format!("[{detail}{comma}{rest}");
    }
}
