//! What is wrong with a stored state, as an answer instead of an error.

use crate::backend::call::{self, Call, Outcome};
use crate::backend::report::Report;
use crate::backend::subtransaction::{self, Verdict};

/// What can be done about a state that is damaged.
pub const CORRUPTED: &str = "tally.verify_rollup() lists such states, tally.rebuild_rollup() makes their buckets anew while the events are there";

/// The error of reading a state that is damaged.
pub fn corrupted(message: String) -> Report {
    Report::new("XX001", message).hint(CORRUPTED)
}

/// Hands the first argument's bytes to `problem`, and gives what that says as text. Bytes that Postgres itself can't get at,
/// compressed or out of line, are damaged too.
pub fn damage(call: &Call, problem: impl FnOnce(&[u8]) -> Option<String>) -> Outcome {
    let found = match call.bytes_in_place(0) {
        Some(bytes) => problem(bytes),
        None if call.datum(0).is_none() => None,
        None => match subtransaction::run(|| Verdict::Keep(call.bytes(0).and_then(problem))) {
            Ok(found) => found,
            Err(caught) if caught.is_corruption() => Some(caught.message),
            Err(caught) => caught.rethrow(),
        },
    };
    Ok(found.map(|text| call::varlena(text.as_bytes())))
}
