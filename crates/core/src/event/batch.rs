//! Batches: JSON text with one event or an array of events, each judged by itself.

use super::parse::{Fault, Parser, value_kind};
use super::split::{balanced_end, element_end};
use super::wrapped::disguise;
use super::{EventRef, Limits, format_uuid, id_fault, parse_uuid};
use crate::jsonb::excerpt;
use crate::jsonb::scan::{skip_space, string_end, unescape};
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
    /// Holds the element's text as it was sent; empty for an event whose id isn't in it.
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
    /// Says whether the limit is that of the number of events.
    pub is_of_events: bool,
    /// Counts the bytes before the place of the error.
    pub offset: usize,
}

impl fmt::Display for BatchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl std::error::Error for BatchError {}

#[cold]
pub(super) fn unsplittable(offset: usize, reason: impl Into<String>) -> BatchError {
    BatchError { reason: reason.into(), sqlstate: "22032", is_of_events: false, offset }
}

impl BatchError {
    /// More events than may be; `what` has them.
    #[cold]
    pub fn of_events(what: &str, most: usize) -> Self {
        Self { is_of_events: true, ..Self::of_size(format!("{what} has more than {most} events")) }
    }

    /// More than may be of anything else.
    #[cold]
    pub fn of_size(reason: String) -> Self {
        Self { reason, sqlstate: "54000", is_of_events: false, offset: 0 }
    }
}

/// The byte order mark that some programs put before a text: a parser may pass it over (RFC 8259, 8.1).
pub(crate) const BOM: char = '\u{FEFF}';

/// Splits a text, one JSON object or an array, into elements and parses each.
///
/// An element that is not an event becomes a [`Rejection`] and leaves the others alone: its end is found by
/// counting brackets outside strings. Only a text whose elements cannot be told apart is an error, and one that holds no
/// event since it was written in another form than JSON.
pub fn parse_batch<'a>(text: &'a str, limits: &Limits) -> Result<Batch<'a>, BatchError> {
    let most = limits.batch_bytes.min(1 << 30);
    if text.len() > most {
        return Err(BatchError::of_size(format!(
            "batch has {} bytes, at most {most} are allowed",
            text.len()
        )));
    }
    let bytes = text.as_bytes();
    let mut parser = Parser::new(limits);
    let start = skip_space(bytes, if text.starts_with(BOM) { BOM.len_utf8() } else { 0 });
    let batch = match bytes.get(start) {
        Some(b'{') => single(text, start, &mut parser),
        Some(b'[') => array(text, start, limits, &mut parser),
        Some(_) => Err(unsplittable(start, "batch is neither an object nor an array")),
        None => Err(unsplittable(start, "batch is empty")),
    };
    let elements = batch.as_ref().ok().map(|batch| batch.items.as_slice());
    if elements.is_some_and(|elements| elements.first().is_none_or(|first| first.event.is_ok())) {
        return batch;
    }
    match disguise(text, elements) {
        Some(reason) => Err(unsplittable(start, reason)),
        None => batch,
    }
}

fn single<'a>(text: &'a str, start: usize, parser: &mut Parser<'_>) -> Result<Batch<'a>, BatchError> {
    let (event, end) = match parser.event(text, start) {
        Ok((event, end)) => (Ok(event), end),
        Err(fault) => {
            let end = balanced_end(text.as_bytes(), start)?;
            (Err(reject(&text[start..end], fault)), end)
        }
    };
    at_end(text, end)?;
    let raw = if event.is_ok() && parser.made_id { "" } else { &text[start..end] };
    Ok(Batch { items: vec![Item { position: 0, raw, event }] })
}

fn at_end(text: &str, end: usize) -> Result<(), BatchError> {
    let end = skip_space(text.as_bytes(), end);
    if end < text.len() {
        let rest = excerpt(text.get(end..).unwrap_or_default());
        return Err(unsplittable(end, format!("text after the end of the batch: \"{rest}\"")));
    }
    Ok(())
}

fn array<'a>(
    text: &'a str,
    open: usize,
    limits: &Limits,
    parser: &mut Parser<'_>,
) -> Result<Batch<'a>, BatchError> {
    let bytes = text.as_bytes();
    let mut items = Vec::with_capacity((text.len() / 192).min(limits.batch_events));
    let mut start = skip_space(bytes, open + 1);
    if bytes.get(start) == Some(&b']') {
        at_end(text, start + 1)?;
        return Ok(Batch { items });
    }
    loop {
        if items.len() == limits.batch_events {
            return Err(BatchError::of_events("batch", limits.batch_events));
        }
        parser.position = items.len();
        let mut item = element(text, start, items.len(), parser)?;
        let end = skip_space(bytes, start + item.raw.len());
        if item.event.is_ok() && parser.made_id {
            item.raw = "";
        }
        items.push(item);
        match bytes.get(end) {
            Some(b',') => start = skip_space(bytes, end + 1),
            Some(b']') => {
                at_end(text, end + 1)?;
                return Ok(Batch { items });
            }
            _ => return Err(unsplittable(end, "unbalanced brackets: found }, expected ]")),
        }
    }
}

/// Parses the element at `start`, which a comma or the closing bracket of the array follows.
fn element<'a>(
    text: &'a str,
    start: usize,
    position: usize,
    parser: &mut Parser<'_>,
) -> Result<Item<'a>, BatchError> {
    let bytes = text.as_bytes();
    if bytes.get(start) == Some(&b'{')
        && let Ok((event, end)) = parser.event(text, start)
        && matches!(bytes.get(skip_space(bytes, end)), Some(b',' | b']'))
    {
        return Ok(Item { position, raw: &text[start..end], event: Ok(event) });
    }
    let raw = text[start..element_end(bytes, start)?].trim_end_matches([' ', '\n', '\r', '\t']);
    if raw.is_empty() {
        return Err(unsplittable(start, "nothing between two commas or brackets"));
    }
    // Read by itself: what is wrong with it must not be told with words of the next one, which may be another tenant's.
    let fault = if raw.starts_with('{') {
        match parser.event(raw, 0) {
            Ok((_, end)) => {
                let rest = raw[end..].trim_start();
                Fault::element("22P02", format!("text after the end of the event: \"{}\"", excerpt(rest)))
            }
            Err(fault) => fault,
        }
    } else {
        match value_kind(raw.as_bytes(), 0) {
            Some(kind) => Fault::element("22023", format!("event is {kind}, not an object")),
            None => Fault::element("22P02", format!("event is not JSON: \"{}\"", excerpt(raw))),
        }
    };
    Ok(Item { position, raw, event: Err(reject(raw, fault)) })
}

/// The text of an element with an id added, if it is an object that has none: null is none, and what is inside of a field isn't the element's.
pub fn with_id(raw: &str, id: &[u8; 16]) -> Option<String> {
    let rest = raw.strip_prefix('{')?;
    let given: Vec<usize> = fields(raw).filter(|(field, _)| field == "event_id").map(|(_, at)| at).collect();
    match given[..] {
        [] => {
            let comma = if rest.trim_start().starts_with('}') { "" } else { ", " };
            Some(format!("{{\"event_id\": \"{}\"{comma}{rest}", format_uuid(id)))
        }
        [at] if raw[at..].starts_with("null") => {
            Some(format!("{}\"{}\"{}", &raw[..at], format_uuid(id), &raw[at + 4..]))
        }
        _ => None,
    }
}

/// Parses the text of one event, the text form of the SQL type.
pub fn parse_event<'a>(text: &'a str, limits: &Limits) -> Result<EventRef<'a>, Rejection> {
    let bytes = text.as_bytes();
    let start = skip_space(bytes, 0);
    let fault = match bytes.get(start) {
        Some(b'{') => match Parser::new(limits).event(text, start) {
            Ok((event, end)) if skip_space(bytes, end) == text.len() => return Ok(event),
            Ok(_) => Fault::element("22P02", "text after the end of the event".into()),
            Err(fault) => fault,
        },
        _ => Fault::element("22P02", format!("event is not a JSON object: \"{}\"", excerpt(text))),
    };
    Err(reject(&text[start..], fault))
}

#[cold]
fn reject(raw: &str, fault: Fault) -> Rejection {
    let (tenant_id, event_id) = salvage(raw);
    let Fault { field, reason, sqlstate } = fault;
    Rejection { field, reason, sqlstate, event_id, tenant_id }
}

/// Reads tenant and event id from an element that is not an event. A field given twice is not read at all.
fn salvage(raw: &str) -> (Option<String>, Option<[u8; 16]>) {
    let (mut tenants, mut ids) = (Vec::new(), Vec::new());
    for (field, value) in fields(raw) {
        match field.as_str() {
            "tenant_id" => tenants.push(string_at(raw, value)),
            "event_id" => ids.push(string_at(raw, value)),
            _ => {}
        }
        if tenants.len() == 2 || ids.len() == 2 {
            break;
        }
    }
    let tenant = match &mut tenants[..] {
        [Some((text, _))] if id_fault("", text).is_none() => Some(std::mem::take(text)),
        _ => None,
    };
    let id = match &ids[..] {
        [Some((text, _))] => parse_uuid(text),
        _ => None,
    };
    (tenant, id)
}

/// The fields of an element that is an object, each with where its value begins, as far as they can be read.
fn fields(raw: &str) -> impl Iterator<Item = (String, usize)> {
    let bytes = raw.as_bytes();
    let mut pos = 0;
    std::iter::from_fn(move || {
        // Every step starts at the brace or at a comma between fields.
        if !matches!(bytes.get(pos), Some(b'{' | b',')) {
            return None;
        }
        let (field, end) = string_at(raw, skip_space(bytes, pos + 1))?;
        let colon = skip_space(bytes, end);
        if bytes.get(colon) != Some(&b':') {
            return None;
        }
        let value = skip_space(bytes, colon + 1);
        pos = element_end(bytes, value).unwrap_or(bytes.len());
        Some((field, value))
    })
}

/// Reads the string whose opening quote is at `pos`.
fn string_at(text: &str, pos: usize) -> Option<(String, usize)> {
    let bytes = text.as_bytes();
    if bytes.get(pos) != Some(&b'"') {
        return None;
    }
    let (end, _) = string_end(bytes, pos + 1).ok()?;
    let mut out = Vec::new();
    unescape(&text[pos + 1..end], 0, &mut out).ok()?;
    Some((String::from_utf8(out).ok()?, end + 1))
}
