//! Batches: JSON text with one event or an array of events, each judged by itself.

use super::{EventRef, Limits};
use std::fmt;

/// Holds what one text carried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch<'a> {
    /// Holds the elements in the order of the text.
    pub items: Vec<Item<'a>>,
}

/// Holds one element of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item<'a> {
    /// Counts the elements before this one.
    pub position: usize,
    /// Holds the element's text as it was sent.
    pub raw: &'a str,
    /// Holds the event, or why there is none.
    pub event: Result<EventRef<'a>, Rejection>,
}

/// Says why an element is not an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// Names the field at fault; empty when the element as a whole is.
    pub field: String,
    /// Says what is wrong: lower case, no full stop, long values cut short.
    pub reason: String,
    /// Holds the SQLSTATE of the error.
    pub sqlstate: &'static str,
    /// Holds the element's event id where it can be read.
    pub event_id: Option<[u8; 16]>,
    /// Holds the element's tenant where it can be read.
    pub tenant_id: Option<String>,
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl std::error::Error for Rejection {}

/// Says why a text cannot be split into elements; nothing of it is accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchError {
    /// Says what is wrong: lower case, no full stop.
    pub reason: String,
    /// Holds the SQLSTATE: 22032 for text that is not JSON, 54000 for a limit.
    pub sqlstate: &'static str,
    /// Counts the bytes before the place of the error.
    pub offset: usize,
}

impl fmt::Display for BatchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl std::error::Error for BatchError {}

/// Splits a text into elements and parses each.
pub fn parse_batch<'a>(_text: &'a str, _limits: &Limits) -> Result<Batch<'a>, BatchError> {
    unimplemented!("batch")
}

/// Parses the text of one event.
pub fn parse_event<'a>(_text: &'a str, _limits: &Limits) -> Result<EventRef<'a>, Rejection> {
    unimplemented!("event")
}
