//! The door for the SQL type: events are read from their binary form, without a detour through text.

use super::IngestError;
use super::options::Options;
use super::pipeline;
use super::summary::Summary;
use crate::backend::array;
use pgrx::AnyArray;
use pgrx::pg_sys::panic::ErrorReport;
use tally_core::event::{self, EventRef, EventView, Item, Rejection};

/// Ingests an array of events.
pub fn run(events: &AnyArray, options: Options) -> Result<Summary, ErrorReport> {
    let scope = pipeline::admit()?;
    let limits = pipeline::limits();
    // SAFETY: the SQL declaration takes tally.event[] alone, a varlena with the alignment of int4.
    let values = unsafe { array::read_varlenas(events.datum()) };
    pipeline::check_count(values.len(), &limits)?;
    let judged: Vec<(String, Result<EventRef, Rejection>)> = values
        .into_iter()
        .map(|bytes| {
            let Some(bytes) = bytes else { return Ok(("null".to_owned(), Err(null()))) };
            let view = EventView::read(bytes)?;
            let event = view.judge(&limits);
            // The text of an event that is accepted is never asked for.
            let body = if event.is_ok() { String::new() } else { event::to_json_text(&view)? };
            Ok((body, event))
        })
        .collect::<Result<_, IngestError>>()?;
    let (bodies, events): (Vec<String>, Vec<_>) = judged.into_iter().unzip();
    let items = bodies
        .iter()
        .zip(events)
        .enumerate()
        .map(|(position, (raw, event))| Item { position, raw, event })
        .collect();
    pipeline::run_items(items, scope, options)
}

fn null() -> Rejection {
    Rejection {
        field: String::new(),
        reason: "event is null, not an object".into(),
        sqlstate: "22023",
        event_id: None,
        tenant_id: None,
    }
}
