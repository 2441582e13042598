//! What is too long for an entry, cut value by value: short ones stay whole, and of a long one its beginning, how much was left out,
//! and a hash by which somebody who has the whole can show that it is.

use super::hex;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

/// Members of an object that are looked at one by one, and bytes of the longest name among them: an object with more is somebody's
/// own, and a value as a whole.
const MEMBERS: usize = 64;
const NAME_BYTES: usize = 64;
/// Bytes, printed, up to which a value stays: what stands in the place of a longer one is about as long.
const SHORT: usize = 200;
/// Bytes, printed, of what stands in its place, besides its beginning.
const CUT: usize = 130;

/// A document of about so many bytes, printed: it stays as it is where it isn't longer. Its members are cut, and where one is called `from`
/// or `to`, the members of that one.
pub fn shorten(document: Value, bytes: usize) -> Value {
    let printed = document.to_string().len();
    if printed <= bytes {
        return document;
    }
    let mut lengths = Vec::new();
    each(document.clone(), true, &mut |value| {
        lengths.push(printed_bytes(&value));
        value
    });
    let others = printed - lengths.iter().sum::<usize>();
    let most = level(lengths, bytes.saturating_sub(others));
    each(document, true, &mut |value| cut(value, most))
}

/// The beginning of a text, with what was left out, where it is longer than so many bytes.
pub fn shorten_text(text: &str, bytes: usize) -> String {
    if text.len() <= bytes {
        return text.to_owned();
    }
    let begin = &text[..text.floor_char_boundary(bytes)];
    format!("{begin}… ({} bytes left out, SHA-256 of all {})", text.len() - begin.len(), hash(text))
}

fn hash(text: &str) -> String {
    hex(&Sha256::digest(text.as_bytes()))
}

fn printed_bytes(value: &Value) -> usize {
    value.to_string().len()
}

/// Replaces each value by what is made of it.
fn each(value: Value, is_outermost: bool, make: &mut impl FnMut(Value) -> Value) -> Value {
    match value {
        Value::Object(members)
            if members.len() <= MEMBERS && members.keys().all(|name| name.len() <= NAME_BYTES) =>
        {
            let made = members.into_iter().map(|(name, value)| {
                let is_change = is_outermost && (name == "from" || name == "to");
                let value = if is_change { each(value, false, make) } else { make(value) };
                (name, value)
            });
            Value::Object(made.collect::<Map<_, _>>())
        }
        other => make(other),
    }
}

/// How long, printed, each value may be so that all of them fit into so many bytes.
fn level(mut lengths: Vec<usize>, bytes: usize) -> usize {
    lengths.sort_unstable();
    let (mut left, mut values) = (bytes, lengths.len());
    for length in lengths {
        if length > left / values {
            break;
        }
        (left, values) = (left - length, values - 1);
    }
    (left / values.max(1)).max(SHORT)
}

/// A value that is no longer, printed, than `most`, or what stands for it.
fn cut(value: Value, most: usize) -> Value {
    if printed_bytes(&value) <= most {
        return value;
    }
    let text = match value {
        Value::String(text) => text,
        other => other.to_string(),
    };
    let room = most.saturating_sub(CUT);
    let (mut begin, mut used) = (0, 0);
    for character in text.chars() {
        used += printed_bytes(&Value::from(character.to_string())) - 2;
        if used > room {
            break;
        }
        begin += character.len_utf8();
    }
    json!({"begin": &text[..begin], "left_out_bytes": text.len() - begin, "sha256": hash(&text)})
}
