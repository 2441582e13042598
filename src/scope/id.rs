//! Ids: whether a text is one; and as values of other types, for tables of the user's whose tenant or account is no text.
//!
//! Only the spelling that Postgres prints stands for a value: `01` and `1` are two tenants, and must not share the rows of
//! one number.

use super::failure::ScopeError;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use tally_core::id;

/// Refuses what is no id.
pub fn check(field: &str, value: &str) -> Result<(), ScopeError> {
    id::check(value).map_err(|problem| ScopeError::BadId(format!("{field} {}", problem.problem())))
}

#[pg_extern(sql = false)]
fn check_id(field: &str, value: &str) -> Result<(), ErrorReport> {
    Ok(check(field, value)?)
}

#[pg_extern(sql = false)]
fn id_as_int8(id: &str) -> Option<i64> {
    id.parse().ok().filter(|value: &i64| value.to_string() == id)
}

#[pg_extern(sql = false)]
fn id_as_uuid(id: &str) -> Option<pgrx::Uuid> {
    uuid(id).map(pgrx::Uuid::from_bytes)
}

/// 32 lower-case hexadecimal digits in groups of 8, 4, 4, 4 and 12.
fn uuid(id: &str) -> Option<[u8; 16]> {
    let text = id.as_bytes();
    let is_dash = |place: usize| matches!(place, 8 | 13 | 18 | 23);
    if text.len() != 36 {
        return None;
    }
    let mut digits = [0u8; 32];
    let mut found = 0;
    for (place, &byte) in text.iter().enumerate() {
        match byte {
            b'-' if is_dash(place) => continue,
            b'0'..=b'9' if !is_dash(place) => digits[found] = byte - b'0',
            b'a'..=b'f' if !is_dash(place) => digits[found] = byte - b'a' + 10,
            _ => return None,
        }
        found += 1;
    }
    let mut value = [0; 16];
    for (byte, pair) in value.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = pair[0] << 4 | pair[1];
    }
    Some(value)
}
