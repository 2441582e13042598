//! The door for text and, having the same bytes, for json.

use super::door;
use crate::backend::json::Document;
use crate::ingest::options::Options;
use crate::ingest::pipeline;

door! {
    /// `ingest(events)`
    fn ingest_wrapper / pg_finfo_ingest_wrapper(call) {
        pipeline::run(call.text(0).unwrap_or_default(), Options::read(None)?)
    }
}

door! {
    /// `ingest(events, options)`
    fn ingest_with_options_wrapper / pg_finfo_ingest_with_options_wrapper(call) {
        let options = Options::read(Document::argument(call, 1)?)?;
        pipeline::run(call.text(0).unwrap_or_default(), options)
    }
}
