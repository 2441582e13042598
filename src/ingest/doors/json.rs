//! The door for text and, having the same bytes, for json.

use super::door;
use crate::backend::json::Document;
use crate::ingest::failure::IngestError;
use crate::ingest::options::Options;
use crate::ingest::pipeline;

door! {
    /// `ingest(events)`
    fn ingest_wrapper / pg_finfo_ingest_wrapper(call) {
        pipeline::run(call.text(0).ok_or(IngestError::NoBatch)?, Options::read(None)?)
    }
}

door! {
    /// `ingest(events, options)` with options of type jsonb
    fn ingest_with_options_wrapper / pg_finfo_ingest_with_options_wrapper(call) {
        let options = Options::read(Document::argument(call, 1)?)?;
        pipeline::run(call.text(0).ok_or(IngestError::NoBatch)?, options)
    }
}

door! {
    /// `ingest(events, options)` with options of type text or json
    fn ingest_with_options_text_wrapper / pg_finfo_ingest_with_options_text_wrapper(call) {
        let options = Options::read_text(call.text(1))?;
        pipeline::run(call.text(0).ok_or(IngestError::NoBatch)?, options)
    }
}
