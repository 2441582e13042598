//! What people write, as reasons and purposes, which the audit log keeps.

use super::failure::ScopeError;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use tally_core::words;

/// Bytes of it at most: it has to fit into an entry of the audit log.
const WORDS_BYTES: usize = 2000;

/// Refuses what is longer.
pub fn check(field: &str, value: &str) -> Result<(), ScopeError> {
    match value.len() {
        ..=WORDS_BYTES => Ok(()),
        bytes => Err(ScopeError::TooLong { field: field.to_owned(), bytes, most: WORDS_BYTES }),
    }
}

#[pg_extern(sql = false)]
fn check_words(field: &str, value: &str) -> Result<(), ErrorReport> {
    Ok(check(field, value)?)
}

/// Whether a purpose or a reason says something that anybody can read.
pub fn says_something(text: &str) -> bool {
    words::visible(text) > 0
}

#[pg_extern(sql = false)]
fn visible_characters(text: &str) -> i32 {
    i32::try_from(words::visible(text)).unwrap_or(i32::MAX)
}
