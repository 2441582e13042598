//! Container bytes as a tree of `serde_json`, whose numbers keep all their digits. Not by way of JSON text: keys by which `serde_json` knows
//! numbers of its own are keys like any other here.

use super::walk::{Entries, check};
use super::*;
use serde_json::{Map, Value};

/// The value of an object container, which is checked as by [`check`].
pub fn value(bytes: &[u8]) -> Result<Value, JsonbError> {
    check(bytes, Bounds::WIDEST)?;
    container(bytes, 0, bytes.len())
}

fn container(bytes: &[u8], start: usize, end: usize) -> Result<Value, JsonbError> {
    let (is_object, count, mut values) = Entries::open(bytes, start, end)?;
    if !is_object {
        return (0..count).map(|_| entry(bytes, &mut values)).collect::<Result<_, _>>().map(Value::Array);
    }
    let mut keys = values;
    for _ in 0..count {
        values.next(bytes)?;
    }
    let mut members = Map::new();
    for _ in 0..count {
        let (_, from, to) = keys.next(bytes)?;
        members.insert(text(bytes, from, to), entry(bytes, &mut values)?);
    }
    Ok(Value::Object(members))
}

fn text(bytes: &[u8], from: usize, to: usize) -> String {
    String::from_utf8_lossy(&bytes[from..to]).into_owned()
}

fn entry(bytes: &[u8], entries: &mut Entries) -> Result<Value, JsonbError> {
    let (kind, from, to) = entries.next(bytes)?;
    let aligned = from.next_multiple_of(4);
    Ok(match kind {
        TYPE_STRING => Value::String(text(bytes, from, to)),
        TYPE_NUMERIC => {
            let mut digits = String::new();
            numeric::decode(&bytes[aligned..to], aligned)?.print(&mut digits);
            Value::Number(digits.parse().map_err(|_| fail("22P03", from, "malformed jsonb: a number"))?)
        }
        TYPE_CONTAINER => container(bytes, aligned, to)?,
        TYPE_TRUE => Value::Bool(true),
        TYPE_FALSE => Value::Bool(false),
        _ => Value::Null,
    })
}
