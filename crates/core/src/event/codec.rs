//! The binary form of an event.

use super::EventRef;
use std::{cmp::Ordering, fmt};

/// Says why bytes are not an event; SQLSTATE 22P03.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CodecError {
    /// Says what is wrong: lower case, no full stop.
    pub reason: String,
    /// Holds the SQLSTATE of the error.
    pub sqlstate: &'static str,
}

impl fmt::Display for CodecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl std::error::Error for CodecError {}

/// Views the parts of an encoded event in place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventView<'a> {
    /// Names the tenant.
    pub tenant_id: &'a str,
    /// Names the account inside the tenant.
    pub account_id: &'a str,
    /// Says what happened.
    pub name: &'a str,
    /// Names who acted, if known.
    pub user_id: Option<&'a str>,
    /// Names the sitting, if known.
    pub session_id: Option<&'a str>,
    /// Counts microseconds since 2000-01-01 00:00 UTC.
    pub occurred_at: i64,
    /// Holds the idempotency key.
    pub event_id: [u8; 16],
    /// Holds the jsonb container of the properties.
    pub properties: &'a [u8],
}

impl<'a> EventView<'a> {
    /// Parses bytes of unknown origin; every rule of an event is checked, jsonb included.
    pub fn parse(_bytes: &'a [u8]) -> Result<Self, CodecError> {
        unimplemented!("codec")
    }

    /// Reads bytes that were once checked: layout and UTF-8 are checked again, jsonb and id rules are not.
    pub fn read(_bytes: &'a [u8]) -> Result<Self, CodecError> {
        unimplemented!("codec")
    }

    /// Returns the event, with its properties checked and digested.
    pub fn to_event(&self) -> Result<EventRef<'a>, CodecError> {
        unimplemented!("codec")
    }

    /// Orders by tenant, account, time and event id; text bytewise.
    pub fn compare(&self, _other: &EventView<'_>) -> Ordering {
        unimplemented!("codec")
    }

    /// Hashes what [`EventView::compare`] orders by, mixed with `seed`; stable across versions.
    pub fn hash(&self, _seed: u64) -> u64 {
        unimplemented!("codec")
    }
}

/// Encodes an event.
pub fn encode(event: &EventRef<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    encode_into(event, &mut out);
    out
}

/// Appends the encoded event to `out`.
pub fn encode_into(_event: &EventRef<'_>, _out: &mut Vec<u8>) {
    unimplemented!("codec")
}

/// Prints an event as one JSON object, the text form of the SQL type.
pub fn to_json_text(_event: &EventView<'_>) -> Result<String, CodecError> {
    unimplemented!("codec")
}
