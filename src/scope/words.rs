//! What people write, as reasons and purposes.

use super::failure::ScopeError;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

/// Bytes of it at most: it has to fit into an entry of the audit log.
pub const WORDS_BYTES: usize = 2000;

/// Refuses what is longer.
pub fn check(field: &str, value: &str) -> Result<(), ScopeError> {
    match value.len() {
        ..=WORDS_BYTES => Ok(()),
        bytes => Err(ScopeError::TooLong { field: field.to_owned(), bytes }),
    }
}

#[pg_extern(sql = false)]
fn check_words(field: &str, value: &str) -> Result<(), ErrorReport> {
    Ok(check(field, value)?)
}
