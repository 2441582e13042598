//! One event from JSON: fields are read in one pass, strings without escapes are borrowed.

use super::{EventRef, Limits, Properties, id_fault, parse_timestamp, parse_uuid};
use crate::jsonb::scan::{skip_space, string_end, token, unescape};
use crate::jsonb::{Encoder, JsonbError, excerpt};
use std::borrow::Cow;

/// Says why an element is not an event, before the element's ids are looked for.
#[derive(Debug)]
pub(super) struct Fault {
    pub field: String,
    pub reason: String,
    pub sqlstate: &'static str,
}

impl Fault {
    #[cold]
    pub(super) fn element(sqlstate: &'static str, reason: String) -> Self {
        Self { field: String::new(), reason, sqlstate }
    }

    #[cold]
    pub(super) fn field(field: &str, sqlstate: &'static str, reason: String) -> Self {
        Self { field: field.into(), reason, sqlstate }
    }

    /// Puts the field's name before what the lower layer said.
    #[cold]
    fn within(field: &str, error: JsonbError) -> Self {
        Self::field(field, error.sqlstate, format!("{field}: {}", error.reason))
    }
}

/// Names the kind of the JSON value at `pos`, if one begins there.
pub(super) fn value_kind(text: &[u8], pos: usize) -> Option<&'static str> {
    let rest = text.get(pos..)?;
    match rest.first()? {
        b'"' => Some("a string"),
        b'{' => Some("an object"),
        b'[' => Some("an array"),
        b'0'..=b'9' => Some("a number"),
        b'-' if rest.get(1).is_some_and(u8::is_ascii_digit) => Some("a number"),
        b't' if rest.starts_with(b"true") => Some("a boolean"),
        b'f' if rest.starts_with(b"false") => Some("a boolean"),
        b'n' if rest.starts_with(b"null") => Some("null"),
        _ => None,
    }
}

/// Parses events; keeps its buffers from one to the next.
pub(super) struct Parser<'l> {
    limits: &'l Limits,
    encoder: Encoder,
    jsonb: Vec<u8>,
    /// Counts the elements of the batch before the one that is read.
    pub(super) position: usize,
    /// Whether the last event's id was made from its place.
    pub(super) made_id: bool,
}

/// Collects the fields read so far.
#[derive(Default)]
pub(super) struct Draft<'a> {
    pub tenant_id: Option<Cow<'a, str>>,
    pub account_id: Option<Cow<'a, str>>,
    pub name: Option<Cow<'a, str>>,
    pub user_id: Option<Cow<'a, str>>,
    pub session_id: Option<Cow<'a, str>>,
    pub occurred_at: Option<i64>,
    pub event_id: Option<[u8; 16]>,
    properties: Option<Properties<'a>>,
    /// One bit for each field that has been seen, be it null.
    seen: u8,
}

impl Draft<'_> {
    fn once(&mut self, bit: u8, field: &str) -> Result<(), Fault> {
        if self.seen & (1 << bit) != 0 {
            return Err(Fault::field(field, "22030", format!("field {field} is given twice")));
        }
        self.seen |= 1 << bit;
        Ok(())
    }
}

impl<'l> Parser<'l> {
    pub(super) fn new(limits: &'l Limits) -> Self {
        Self { limits, encoder: Encoder::new(), jsonb: Vec::new(), position: 0, made_id: false }
    }

    /// Parses the event whose brace is at `start`; returns it and the position after it.
    pub(super) fn event<'a>(&mut self, text: &'a str, start: usize) -> Result<(EventRef<'a>, usize), Fault> {
        let bytes = text.as_bytes();
        let mut draft = Draft::default();
        let mut pos = skip_space(bytes, start + 1);
        if bytes.get(pos) == Some(&b'}') {
            return self.finish(draft).map(|e| (e, pos + 1));
        }
        loop {
            if bytes.get(pos) != Some(&b'"') {
                return Err(unexpected(text, pos, "a field name"));
            }
            let (field, end) = string(text, pos).map_err(|e| Fault::element(e.sqlstate, e.reason))?;
            pos = skip_space(bytes, end);
            if bytes.get(pos) != Some(&b':') {
                return Err(unexpected(text, pos, "\":\""));
            }
            pos = self.field(&mut draft, &field, text, skip_space(bytes, pos + 1))?;
            pos = skip_space(bytes, pos);
            match bytes.get(pos) {
                Some(b',') => pos = skip_space(bytes, pos + 1),
                Some(b'}') => return self.finish(draft).map(|e| (e, pos + 1)),
                _ => return Err(unexpected(text, pos, "\",\" or \"}\"")),
            }
        }
    }

    fn finish<'a>(&mut self, mut draft: Draft<'a>) -> Result<EventRef<'a>, Fault> {
        self.made_id = draft.event_id.is_none() && self.limits.keys.is_some();
        let keys = self.limits.keys.as_ref();
        draft.event_id = draft.event_id.or_else(|| keys.and_then(|keys| keys.id(self.position)));
        draft.finish()
    }

    /// Reads the value at `pos` into its place; returns the position after it.
    fn field<'a>(
        &mut self,
        draft: &mut Draft<'a>,
        field: &str,
        text: &'a str,
        pos: usize,
    ) -> Result<usize, Fault> {
        let (bit, place) = match field {
            "tenant_id" => (0, &mut draft.tenant_id),
            "account_id" => (1, &mut draft.account_id),
            "name" => (2, &mut draft.name),
            "user_id" => (3, &mut draft.user_id),
            "session_id" => (4, &mut draft.session_id),
            "occurred_at" => {
                draft.once(5, field)?;
                let Some((value, end)) = optional_string(field, text, pos)? else { return Ok(pos + 4) };
                draft.occurred_at = Some(self.occurred_at(field, &value)?);
                return Ok(end);
            }
            "event_id" => {
                draft.once(6, field)?;
                let Some((value, end)) = optional_string(field, text, pos)? else { return Ok(pos + 4) };
                draft.event_id = Some(Self::event_id(field, &value)?);
                return Ok(end);
            }
            "properties" => {
                draft.once(7, field)?;
                return self.properties(draft, text, pos);
            }
            other => {
                let name = excerpt(other);
                return Err(Fault::field(&name, "22023", format!("unknown field \"{name}\"")));
            }
        };
        let read = match optional_string(field, text, pos)? {
            Some((value, end)) => {
                if let Some((sqlstate, reason)) = id_fault(field, &value) {
                    return Err(Fault::field(field, sqlstate, reason));
                }
                *place = Some(value);
                end
            }
            None => pos + 4,
        };
        draft.once(bit, field)?;
        Ok(read)
    }

    pub(super) fn event_id(field: &str, text: &str) -> Result<[u8; 16], Fault> {
        parse_uuid(text).ok_or_else(|| {
            Fault::field(field, "22P02", format!("event_id \"{}\" is not a uuid", excerpt(text)))
        })
    }

    pub(super) fn occurred_at(&self, field: &str, text: &str) -> Result<i64, Fault> {
        let micros = parse_timestamp(text)
            .map_err(|e| Fault::field(field, e.sqlstate, format!("{field}: {}", e.reason)))?;
        let checked = self.limits.check_time(micros, || text.to_owned());
        checked.map(|()| micros).map_err(|reason| Fault::field(field, "22008", reason))
    }

    pub(super) fn properties(
        &mut self,
        draft: &mut Draft<'_>,
        text: &str,
        pos: usize,
    ) -> Result<usize, Fault> {
        let field = "properties";
        match text.as_bytes().get(pos) {
            Some(b'{') => {
                self.jsonb.clear();
                let (end, digest) = self
                    .encoder
                    .encode_at(text, pos, self.limits.bounds(), &mut self.jsonb)
                    .map_err(|e| Fault::within(field, e))?;
                if self.jsonb.len() > 4 {
                    draft.properties = Some(Properties { jsonb: Cow::Owned(self.jsonb.clone()), digest });
                }
                Ok(end)
            }
            _ => match value_kind(text.as_bytes(), pos) {
                Some("null") => Ok(pos + 4),
                // What PHP writes for an object that has nothing.
                Some("an array")
                    if text.as_bytes().get(skip_space(text.as_bytes(), pos + 1)) == Some(&b']') =>
                {
                    Ok(skip_space(text.as_bytes(), pos + 1) + 1)
                }
                Some(kind) => Err(Fault::field(field, "22023", format!("{field} is {kind}, not an object"))),
                None => Err(bad_token(field, text, pos)),
            },
        }
    }
}

impl<'a> Draft<'a> {
    pub(super) fn finish(self) -> Result<EventRef<'a>, Fault> {
        #[cold]
        fn missing(field: &str) -> Fault {
            Fault::field(field, "23502", format!("{field} is missing"))
        }
        Ok(EventRef {
            tenant_id: self.tenant_id.ok_or_else(|| missing("tenant_id"))?,
            account_id: self.account_id.ok_or_else(|| missing("account_id"))?,
            name: self.name.ok_or_else(|| missing("name"))?,
            user_id: self.user_id,
            session_id: self.session_id,
            occurred_at: self.occurred_at.ok_or_else(|| missing("occurred_at"))?,
            event_id: self.event_id.ok_or_else(|| missing("event_id"))?,
            properties: self.properties.unwrap_or_else(Properties::empty),
        })
    }
}

/// Reads the string whose opening quote is at `pos`; returns it and the position after it.
#[inline]
fn string(text: &str, pos: usize) -> Result<(Cow<'_, str>, usize), JsonbError> {
    let (end, escaped) = string_end(text.as_bytes(), pos + 1)?;
    let body = &text[pos + 1..end];
    if !escaped {
        return Ok((Cow::Borrowed(body), end + 1));
    }
    let mut out = Vec::with_capacity(body.len());
    unescape(body, pos + 1, &mut out)?;
    Ok((Cow::Owned(String::from_utf8_lossy(&out).into_owned()), end + 1))
}

/// Reads the string or null at `pos`.
#[inline]
fn optional_string<'a>(
    field: &str,
    text: &'a str,
    pos: usize,
) -> Result<Option<(Cow<'a, str>, usize)>, Fault> {
    if text.as_bytes().get(pos) == Some(&b'"') {
        return string(text, pos).map(Some).map_err(|e| Fault::within(field, e));
    }
    match value_kind(text.as_bytes(), pos) {
        Some("null") => Ok(None),
        Some(kind) => Err(Fault::field(field, "22023", format!("{field} is {kind}, not a string"))),
        None => Err(bad_token(field, text, pos)),
    }
}

#[cold]
fn bad_token(field: &str, text: &str, pos: usize) -> Fault {
    let token = token(text, pos);
    Fault::field(field, "22P02", format!("{field}: invalid token \"{token}\""))
}

#[cold]
fn unexpected(text: &str, pos: usize, wanted: &str) -> Fault {
    Fault::element("22P02", format!("expected {wanted}, found \"{}\"", token(text, pos)))
}
