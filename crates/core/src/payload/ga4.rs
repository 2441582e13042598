//! Google Analytics 4: rows of its export to BigQuery, as JSON. Parameters, a list of keys with values of several types, become an
//! object.

use super::json::Value;
use super::{Event, Fault, NOWHERE, Paths, Property, Vendor, add_members, compound};
use crate::token;
use sha2::{Digest, Sha256};
use std::borrow::Cow;

pub(super) struct Ga4;

const SESSION: &str = "/event_params/ga_session_id";
/// What ids of sessions begin with that are made of the user's id, and how many bytes of its hash follow.
const MADE: &str = "ga4.";
const HASH_BYTES: usize = 24;

/// Whether a session's id has the form of those that are made of the user's id: whoever has a guess of that can make the same.
pub fn is_made_session(text: &str) -> bool {
    let hash = text.strip_prefix(MADE).and_then(token::decode);
    hash.is_some_and(|hash| hash.len() == HASH_BYTES)
}

impl Vendor for Ga4 {
    fn paths(&self) -> &'static Paths {
        &Paths {
            user: &["/user_id", "/user_pseudo_id"],
            name: &["/event_name"],
            // Microseconds.
            time: &["/event_timestamp"],
            properties: &["/event_params"],
            ..NOWHERE
        }
    }

    fn events<'a>(&self, document: Value<'a>, out: &mut Vec<Event<'a>>) -> Result<(), Fault> {
        let rows = match document {
            Value::Array(rows) => rows,
            row => vec![row],
        };
        out.extend(rows.into_iter().map(|row| Event::made(row, flat, &[])));
        Ok(())
    }

    /// A session's number is unique for its user alone. Both together are hashed, so that the session's id doesn't show the user's, and has
    /// a form by which it is known to be made of one.
    fn session(&self, event: &Event) -> Result<Option<String>, Fault> {
        if event.find(SESSION).is_none() {
            return Ok(None);
        }
        let hash: [u8; 32] = Sha256::digest(compound(event, &["/user_pseudo_id", SESSION])).into();
        Ok(Some(format!("{MADE}{}", token::encode(&hash[..HASH_BYTES]))))
    }

    /// Rows have no key of their own. The same row exported again, also from the table of the day after that of the moment, has
    /// the same of these.
    fn key(&self, event: &Event) -> Result<Option<String>, Fault> {
        let parts = [
            "/stream_id",
            "/user_pseudo_id",
            "/event_timestamp",
            "/event_name",
            "/event_bundle_sequence_id",
            "/batch_page_id",
            "/batch_ordering_id",
            "/batch_event_index",
            "/event_params",
        ];
        Ok(Some(compound(event, &parts)))
    }

    fn properties<'e, 'a>(&self, event: &'e Event<'a>, out: &mut Vec<Property<'e, 'a>>) {
        add_members(event, "/event_params", &[], out);
    }
}

/// A row with its lists of keys and values as objects.
fn flat<'a>(mut row: Value<'a>) -> Value<'a> {
    for lists in ["event_params", "user_properties"] {
        if let Some(list) = row.take(lists)
            && let Value::Object(members) = &mut row
        {
            members.push((format!("\"{lists}\"").into(), object(list)));
        }
    }
    row
}

/// A list of keys and values as an object; what is none stays.
fn object<'a>(list: Value<'a>) -> Value<'a> {
    let Value::Array(elements) = list else { return list };
    let mut members: Vec<(Cow<'a, str>, Value<'a>)> = Vec::with_capacity(elements.len());
    for mut element in elements {
        if let (Some(Value::String(key)), Some(value)) = (element.take("key"), element.take("value")) {
            members.push((key, typed(value)));
        }
    }
    Value::Object(members)
}

/// The one of the typed values that is there.
fn typed(mut value: Value) -> Value {
    for name in ["string_value", "int_value", "float_value", "double_value"] {
        let Some(found) = value.take(name).filter(|found| !found.is_null()) else { continue };
        return match (name, &found) {
            // Integers of 64 bits are strings in JSON.
            ("int_value", Value::String(_)) => integer(&found).unwrap_or(found),
            _ => found,
        };
    }
    Value::NULL
}

/// The number that a string says, where it is a whole one as JSON writes it.
pub(super) fn integer(string: &Value) -> Option<Value<'static>> {
    let text = string.text().ok().filter(|text| is_integer(text))?;
    Some(Value::Token(text.into_owned().into()))
}

fn is_integer(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text);
    (1..=20).contains(&digits.len())
        && digits.bytes().all(|byte| byte.is_ascii_digit())
        && (digits.len() == 1 || !digits.starts_with('0'))
}
