//! What tells an event of a payload from every other: the vendor's key, a place in a stream, or what it says.

use super::event::Event;
use super::json::Reader;
use super::mapping::{Mapping, steps};
use super::{Fault, Format, field_read, missing};
use crate::event::{event_id_from_key, format_uuid, parse_uuid};
use std::collections::HashMap;

/// How often each content has come in a payload, by the id that the first one gets.
pub(super) type Seen = HashMap<[u8; 16], usize>;

/// What is known of an event that has no key of its own.
pub(super) enum Known<'s> {
    /// Its id, from its place in a stream.
    Placed(Option<[u8; 16]>),
    /// What came before it in its payload; and the bytes that such events have said so far.
    Seen(&'s mut Seen, &'s mut usize),
    /// It waits, with the id that was made when it came.
    Before(Option<String>),
}

/// The id of an event.
pub(super) struct Key {
    pub(super) id: String,
    /// Whether the event alone doesn't lead to it.
    pub(super) made: bool,
}

/// The id: the key that the event has, if that is a uuid, else one made from it.
pub(super) fn event_id(format: Format, mapping: &Mapping, event: &Event, known: Known) -> Result<Key, Fault> {
    let vendor = format.vendor;
    let made = |key: &str| match format.name {
        // As tally.event_id() makes it of the same key.
        "tally" => event_id_from_key(key),
        name => event_id_from_key(&format!("{name}:{key}")),
    };
    let key =
        field_read(event, mapping, "event_id", vendor.paths().key, || vendor.key(event), super::key_text)?;
    if let Some(key) = key {
        let id = parse_uuid(&key).unwrap_or_else(|| made(&key));
        return Ok(Key { id: format_uuid(&id), made: false });
    }
    match known {
        Known::Placed(Some(id)) => return Ok(Key { id: format_uuid(&id), made: true }),
        Known::Before(Some(id)) => return Ok(Key { id, made: true }),
        _ if mapping.places("event_id").is_some() => {
            return Err(missing(mapping, "event_id", "event_id", &[]));
        }
        _ if !vendor.is_told_by_content() => {
            return Err(Fault::new(vendor.paths().key.join(" or "), "23502", "is missing"));
        }
        _ => {}
    }
    // Nothing tells it from others but what it says, in whatever spelling.
    let mut whole = String::new();
    event.print(&mut whole);
    let content = match Reader::of_printed(&whole).whole(0, whole.len()) {
        Ok(mut value) => {
            // What the mapping reads is the event's, whoever adds it.
            let is_in = |inner: &str, outer: &str| {
                inner.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            };
            let is_read =
                |path: &str| mapping.reads().any(|(read, ..)| is_in(path, read) || is_in(read, path));
            for path in vendor.of_delivery().iter().filter(|path| !is_read(path)) {
                value.without(steps(path));
            }
            value.canonical(true)
        }
        Err(_) => whole,
    };
    let id = made(&content);
    let Known::Seen(seen, bytes) = known else { return Ok(Key { id: format_uuid(&id), made: false }) };
    *bytes += content.len();
    let before = seen.entry(id).and_modify(|times| *times += 1).or_default();
    Ok(match *before {
        0 => Key { id: format_uuid(&id), made: false },
        // The same again is another event: no payload has one twice.
        times => Key { id: format_uuid(&made(&format!("{content}\n{}", times + 1))), made: true },
    })
}
