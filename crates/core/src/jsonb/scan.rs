//! The lexical layer of JSON: white space, strings, escapes.

use super::{JsonbError, excerpt, fail};

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGH: u64 = 0x8080_8080_8080_8080;

/// Returns the first position at or after `pos` that holds no white space.
#[inline]
pub(crate) fn skip_space(text: &[u8], mut pos: usize) -> usize {
    while matches!(text.get(pos), Some(b' ' | b'\n' | b'\r' | b'\t')) {
        pos += 1;
    }
    pos
}

/// Returns the first position at or after `pos` that holds a quote, a backslash or a byte below 0x20, or the
/// length of the text.
#[inline]
fn find_special(text: &[u8], mut pos: usize) -> usize {
    while let Some(chunk) = text.get(pos..).and_then(|t| t.first_chunk::<8>()) {
        let word = u64::from_le_bytes(*chunk);
        let quote = word ^ (ONES * u64::from(b'"'));
        let slash = word ^ (ONES * u64::from(b'\\'));
        // The lowest marked byte is always a true one; borrows can only mark bytes above it.
        let hit = ((quote.wrapping_sub(ONES) & !quote)
            | (slash.wrapping_sub(ONES) & !slash)
            | (word.wrapping_sub(ONES * 0x20) & !word))
            & HIGH;
        if hit != 0 {
            return pos + hit.trailing_zeros() as usize / 8;
        }
        pos += 8;
    }
    while let Some(&b) = text.get(pos) {
        if b == b'"' || b == b'\\' || b < 0x20 {
            break;
        }
        pos += 1;
    }
    pos
}

/// Finds the closing quote of the string whose opening quote is just before `start`; tells whether there are
/// escapes on the way, which are not checked.
#[inline]
pub(crate) fn string_end(text: &[u8], start: usize) -> Result<(usize, bool), JsonbError> {
    let mut pos = start;
    let mut escaped = false;
    loop {
        pos = find_special(text, pos);
        match text.get(pos) {
            Some(b'"') => return Ok((pos, escaped)),
            Some(b'\\') => {
                escaped = true;
                pos += 2;
            }
            Some(_) => return Err(fail("22P02", pos, "raw control character in a string")),
            None => return Err(fail("22P02", start, "string without an end")),
        }
    }
}

/// Appends the meaning of `body`, what stands between a string's quotes at `offset`, to `out`.
pub(crate) fn unescape(body: &str, offset: usize, out: &mut Vec<u8>) -> Result<(), JsonbError> {
    let bytes = body.as_bytes();
    let mut pos = 0;
    while pos < bytes.len() {
        let run = find_special(bytes, pos);
        out.extend_from_slice(&bytes[pos..run]);
        if run == bytes.len() {
            break;
        }
        if bytes[run] < 0x20 {
            return Err(fail("22P02", offset + run, "raw control character in a string"));
        }
        let plain = match bytes.get(run + 1) {
            Some(b'"') => b'"',
            Some(b'\\') => b'\\',
            Some(b'/') => b'/',
            Some(b'b') => 8,
            Some(b'f') => 12,
            Some(b'n') => b'\n',
            Some(b'r') => b'\r',
            Some(b't') => b'\t',
            Some(b'u') => {
                pos = unicode(bytes, run, offset, out)?;
                continue;
            }
            _ => return Err(fail("22P02", offset + run, "invalid escape in a string")),
        };
        out.push(plain);
        pos = run + 2;
    }
    Ok(())
}

/// Checks the escapes in `body`, what stands between a string's quotes. `\u0000` is one, though Postgres has no such character.
pub(crate) fn check_escapes(body: &str) -> Result<(), JsonbError> {
    let bytes = body.as_bytes();
    let mut pos = 0;
    while let Some(found) = bytes.get(pos..).and_then(|rest| rest.iter().position(|&byte| byte == b'\\')) {
        let at = pos + found;
        pos = match bytes.get(at + 1) {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => at + 2,
            Some(b'u') => escaped(bytes, at, 0)?.1,
            _ => return Err(fail("22P02", at, "invalid escape in a string")),
        };
    }
    Ok(())
}

/// Appends the character of the `\u` escape (or pair of them) at `pos` and returns the position after it.
fn unicode(bytes: &[u8], pos: usize, offset: usize, out: &mut Vec<u8>) -> Result<usize, JsonbError> {
    let (c, end) = escaped(bytes, pos, offset)?;
    if c == '\0' {
        return Err(fail("22P05", offset + pos, "\\u0000 in a string"));
    }
    out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
    Ok(end)
}

/// The character of the `\u` escape (or pair of them) at `pos`, and the position after it.
fn escaped(bytes: &[u8], pos: usize, offset: usize) -> Result<(char, usize), JsonbError> {
    let invalid = || fail("22P02", offset + pos, "invalid escape in a string");
    let lone = || fail("22P05", offset + pos, "lone surrogate in a string");
    let first = hex4(bytes, pos).ok_or_else(invalid)?;
    let (code, end) = match first {
        0xDC00..=0xDFFF => return Err(lone()),
        0xD800..=0xDBFF => match hex4(bytes, pos + 6) {
            Some(second @ 0xDC00..=0xDFFF) => {
                (0x10000 + ((first - 0xD800) << 10) + (second - 0xDC00), pos + 12)
            }
            _ => return Err(lone()),
        },
        code => (code, pos + 6),
    };
    Ok((char::from_u32(code).ok_or_else(lone)?, end))
}

/// Reads the `\uXXXX` at `pos`.
fn hex4(bytes: &[u8], pos: usize) -> Option<u32> {
    let escape = bytes.get(pos..pos + 6)?;
    if !escape.starts_with(b"\\u") {
        return None;
    }
    escape[2..].iter().try_fold(0, |n, &b| Some(n << 4 | char::from(b).to_digit(16)?))
}

/// Appends `text` as a JSON string, quoted and escaped as Postgres does it.
pub fn quote(text: &str, out: &mut String) {
    out.push('"');
    let mut from = 0;
    for (at, b) in text.bytes().enumerate() {
        let escape = match b {
            b'"' => "\\\"",
            b'\\' => "\\\\",
            8 => "\\b",
            12 => "\\f",
            b'\n' => "\\n",
            b'\r' => "\\r",
            b'\t' => "\\t",
            0..0x20 => "",
            _ => continue,
        };
        out.push_str(&text[from..at]);
        out.push_str(escape);
        if escape.is_empty() {
            out.push_str(&format!("\\u{b:04x}"));
        }
        from = at + 1;
    }
    out.push_str(&text[from..]);
    out.push('"');
}

/// Returns the token at `pos` for a message: up to the next punctuation or space, cut short.
#[cold]
pub(crate) fn token(text: &str, pos: usize) -> String {
    let rest = text.get(pos..).unwrap_or_default();
    let end = rest.find(|c: char| ",:[]{}\"".contains(c) || c.is_whitespace()).unwrap_or(rest.len());
    let first = rest.chars().next().map_or(0, char::len_utf8);
    excerpt(&rest[..end.max(first)])
}
