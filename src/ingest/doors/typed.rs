//! The door for the SQL type: events are read from their binary form, without a detour through text.

use super::door;
use crate::backend::array;
use crate::backend::call::Call;
use crate::backend::json::Document;
use crate::backend::report::Report;
use crate::ingest::failure::IngestError;
use crate::ingest::options::Options;
use crate::ingest::pipeline;
use crate::ingest::summary::Summary;
use tally_core::event::{self, EventRef, EventView, Item, Rejection};

door! {
    /// `ingest_events(events)`
    fn ingest_events_wrapper / pg_finfo_ingest_events_wrapper(call) { run(call, Options::read(None)?) }
}

door! {
    /// `ingest_events(events, options)` with options of type jsonb
    fn ingest_events_with_options_wrapper / pg_finfo_ingest_events_with_options_wrapper(call) {
        run(call, Options::read(Document::argument(call, 1)?)?)
    }
}

door! {
    /// `ingest_events(events, options)` with options of type text or json
    fn ingest_events_with_options_text_wrapper / pg_finfo_ingest_events_with_options_text_wrapper(call) {
        run(call, Options::read_text(call.text(1))?)
    }
}

fn run(call: &Call, options: Options) -> Result<Summary, Report> {
    let scope = pipeline::admit()?;
    let limits = pipeline::limits();
    let values = call.datum(0).map(array::read_varlenas).ok_or(IngestError::NoBatch)?;
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
