//! The binary form of an event: what the SQL type stores and sends.
//!
//! Little-endian. Byte 0 version (1); 1 flags (1 user, 2 session); 2–6 lengths of tenant, account, name, user,
//! session; 7 zero; 8–15 occurred_at; 16–31 event_id; then the texts in that order, zero bytes up to a multiple of
//! 4, and the jsonb container of the properties up to the end.

use super::{EventRef, Limits, Properties, Rejection, format_timestamp, format_uuid, id_fault, time};
use crate::jsonb::digest::{join, string};
use crate::jsonb::{self, Bounds, JsonbError, scan::quote};
use std::{borrow::Cow, cmp::Ordering, fmt};

const VERSION: u8 = 1;
const HAS_USER: u8 = 1;
const HAS_SESSION: u8 = 2;
const HEADER: usize = 32;

/// Says why bytes are not an event; SQLSTATE 22P03 unless a rule of events says otherwise.
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

impl From<JsonbError> for CodecError {
    fn from(e: JsonbError) -> Self {
        Self { reason: e.reason, sqlstate: e.sqlstate }
    }
}

#[cold]
fn malformed(what: &str) -> CodecError {
    CodecError { reason: format!("malformed event: {what}"), sqlstate: "22P03" }
}

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
    /// Names the session, if known.
    pub session_id: Option<&'a str>,
    /// Counts microseconds since 2000-01-01 00:00 UTC.
    pub occurred_at: i64,
    /// Holds the idempotency key.
    pub event_id: [u8; 16],
    /// Holds the jsonb container of the properties.
    pub properties: &'a [u8],
}

impl<'a> EventView<'a> {
    /// Parses bytes of unknown origin; every rule of an event is checked, jsonb included, so that only what
    /// [`encode`] writes is accepted.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, CodecError> {
        let view = Self::read(bytes)?;
        let texts = [
            ("tenant_id", Some(view.tenant_id)),
            ("account_id", Some(view.account_id)),
            ("name", Some(view.name)),
            ("user_id", view.user_id),
            ("session_id", view.session_id),
        ];
        for (field, text) in texts {
            if let Some((sqlstate, reason)) = text.and_then(|t| id_fault(field, t)) {
                return Err(CodecError { reason, sqlstate });
            }
        }
        if !(time::EARLIEST..=time::LATEST).contains(&view.occurred_at) {
            return Err(CodecError { reason: "occurred_at is out of range".into(), sqlstate: "22008" });
        }
        jsonb::check(view.properties, Bounds::WIDEST)?;
        Ok(view)
    }

    /// Reads bytes that were once checked: layout and UTF-8 are checked again, jsonb and id rules are not.
    pub fn read(bytes: &'a [u8]) -> Result<Self, CodecError> {
        let (header, _) = bytes.split_first_chunk::<HEADER>().ok_or_else(|| malformed("too short"))?;
        if header[0] != VERSION {
            return Err(malformed(&format!("unknown version {}", header[0])));
        }
        let flags = header[1];
        let has_user = flags & HAS_USER != 0;
        let has_session = flags & HAS_SESSION != 0;
        let absent_are_empty = (has_user || header[5] == 0) && (has_session || header[6] == 0);
        if flags & !(HAS_USER | HAS_SESSION) != 0 || header[7] != 0 || !absent_are_empty {
            return Err(malformed("unknown flags"));
        }
        let mut pos = HEADER;
        let mut texts = [""; 5];
        for (text, len) in texts.iter_mut().zip(&header[2..7]) {
            let end = pos + usize::from(*len);
            let part = bytes.get(pos..end).ok_or_else(|| malformed("too short"))?;
            *text = std::str::from_utf8(part).map_err(|_| malformed("text is not UTF-8"))?;
            pos = end;
        }
        let start = pos.next_multiple_of(4);
        let padding = bytes.get(pos..start).ok_or_else(|| malformed("too short"))?;
        if padding.iter().any(|&b| b != 0) {
            return Err(malformed("bad padding"));
        }
        let [tenant_id, account_id, name, user, session] = texts;
        let mut occurred_at = [0; 8];
        occurred_at.copy_from_slice(&header[8..16]);
        let mut event_id = [0; 16];
        event_id.copy_from_slice(&header[16..32]);
        Ok(Self {
            tenant_id,
            account_id,
            name,
            user_id: has_user.then_some(user),
            session_id: has_session.then_some(session),
            occurred_at: i64::from_le_bytes(occurred_at),
            event_id,
            properties: &bytes[start..],
        })
    }

    /// Returns the event, with its properties checked and digested.
    pub fn to_event(&self) -> Result<EventRef<'a>, CodecError> {
        self.judge(&Limits::widest())
            .map_err(|rejection| CodecError { reason: rejection.reason, sqlstate: rejection.sqlstate })
    }

    /// Returns the event where it keeps to limits that may be narrower than those it was once read with.
    pub fn judge(&self, limits: &Limits) -> Result<EventRef<'a>, Rejection> {
        let reject = |field: &str, sqlstate, reason| Rejection {
            field: field.into(),
            reason,
            sqlstate,
            event_id: Some(self.event_id),
            tenant_id: Some(self.tenant_id.to_owned()),
        };
        limits
            .check_time(self.occurred_at, || format_timestamp(self.occurred_at))
            .map_err(|reason| reject("occurred_at", "22008", reason))?;
        let properties = Properties::from_jsonb(self.properties, limits.bounds())
            .map_err(|error| reject("properties", error.sqlstate, format!("properties: {}", error.reason)))?;
        Ok(EventRef {
            tenant_id: Cow::Borrowed(self.tenant_id),
            account_id: Cow::Borrowed(self.account_id),
            name: Cow::Borrowed(self.name),
            user_id: self.user_id.map(Cow::Borrowed),
            session_id: self.session_id.map(Cow::Borrowed),
            occurred_at: self.occurred_at,
            event_id: self.event_id,
            properties,
        })
    }

    /// Orders by tenant, account, time and event id; text bytewise.
    pub fn compare(&self, other: &EventView<'_>) -> Ordering {
        let key = |e: &EventView<'_>| (e.occurred_at, e.event_id);
        (self.tenant_id.cmp(other.tenant_id))
            .then_with(|| self.account_id.cmp(other.account_id))
            .then_with(|| key(self).cmp(&key(other)))
    }

    /// Hashes what [`EventView::compare`] orders by, mixed with `seed`; stable across versions.
    pub fn hash(&self, seed: u64) -> u64 {
        let texts = join(string(self.tenant_id.as_bytes()), string(self.account_id.as_bytes()));
        let key = join(self.occurred_at as u64, string(&self.event_id));
        join(seed, join(texts, key))
    }
}

/// Encodes an event.
pub fn encode(event: &EventRef<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    encode_into(event, &mut out);
    out
}

/// Appends the encoded event to `out`. Ids longer than 200 bytes, which no parser lets through, are a panic.
pub fn encode_into(event: &EventRef<'_>, out: &mut Vec<u8>) {
    let user = event.user_id.as_deref();
    let session = event.session_id.as_deref();
    let texts =
        [&*event.tenant_id, &*event.account_id, &*event.name, user.unwrap_or(""), session.unwrap_or("")];
    let properties = event.properties.jsonb();
    let start = out.len();
    out.reserve(HEADER + texts.iter().map(|t| t.len()).sum::<usize>() + 3 + properties.len());
    let user_flag = if user.is_some() { HAS_USER } else { 0 };
    let session_flag = if session.is_some() { HAS_SESSION } else { 0 };
    out.extend_from_slice(&[VERSION, user_flag | session_flag]);
    out.extend(texts.map(|t| u8::try_from(t.len()).expect("ids are at most 200 bytes")));
    out.push(0);
    out.extend_from_slice(&event.occurred_at.to_le_bytes());
    out.extend_from_slice(&event.event_id);
    for text in texts {
        out.extend_from_slice(text.as_bytes());
    }
    while !(out.len() - start).is_multiple_of(4) {
        out.push(0);
    }
    out.extend_from_slice(properties);
}

/// Prints an event as one JSON object, the text form of the SQL type: fields in the order of [`EventView`], absent
/// ones left out, time in UTC, properties as Postgres prints jsonb and left out when empty.
pub fn to_json_text(event: &EventView<'_>) -> Result<String, CodecError> {
    let mut out = String::with_capacity(192 + event.properties.len());
    for (field, text) in [
        ("{\"tenant_id\": ", Some(event.tenant_id)),
        (", \"account_id\": ", Some(event.account_id)),
        (", \"name\": ", Some(event.name)),
        (", \"user_id\": ", event.user_id),
        (", \"session_id\": ", event.session_id),
    ] {
        if let Some(text) = text {
            out.push_str(field);
            quote(text, &mut out);
        }
    }
    out.push_str(", \"occurred_at\": \"");
    out.push_str(&format_timestamp(event.occurred_at));
    out.push_str("\", \"event_id\": \"");
    out.push_str(&format_uuid(&event.event_id));
    out.push('"');
    if event.properties != jsonb::EMPTY_OBJECT {
        out.push_str(", \"properties\": ");
        jsonb::to_json(event.properties, &mut out)?;
    }
    out.push('}');
    Ok(out)
}
