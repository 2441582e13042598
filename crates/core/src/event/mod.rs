//! Events: the type, its JSON and binary forms, its fingerprint.

mod batch;
mod codec;
mod fields;
mod fingerprint;
mod id;
mod keys;
mod parse;
mod split;
mod time;
mod wrapped;

use crate::id::{self as id_rules, IdError};
use crate::jsonb::{self, Bounds, JsonbError};
use std::borrow::Cow;

pub(crate) use batch::BOM;
pub use batch::{Batch, BatchError, Item, Rejection, parse_batch, parse_event, with_id};
pub use codec::{CodecError, EventView, encode, encode_into, to_json_text};
pub use fields::{FIELD_NAMES, Fields, FieldsParser, fields_to_json};
pub use fingerprint::fingerprint;
pub use id::{KEY_NAMESPACE, event_id_from_key, format_uuid, parse_uuid};
pub use keys::{Keys, Places};
pub use time::{format_timestamp, parse_timestamp};

/// Holds one event; text without JSON escapes is borrowed from the input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventRef<'a> {
    /// Names the tenant; 1–200 bytes, no control characters, like every id here.
    pub tenant_id: Cow<'a, str>,
    /// Names the account inside the tenant.
    pub account_id: Cow<'a, str>,
    /// Says what happened.
    pub name: Cow<'a, str>,
    /// Names who acted, if known.
    pub user_id: Option<Cow<'a, str>>,
    /// Names the session, if known.
    pub session_id: Option<Cow<'a, str>>,
    /// Counts microseconds since 2000-01-01 00:00 UTC, as Postgres does.
    pub occurred_at: i64,
    /// Holds the idempotency key.
    pub event_id: [u8; 16],
    /// Holds everything else that was sent.
    pub properties: Properties<'a>,
}

/// Holds an event's properties as Postgres stores jsonb, with the digest of their content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Properties<'a> {
    jsonb: Cow<'a, [u8]>,
    digest: u64,
}

impl<'a> Properties<'a> {
    /// Returns the properties of an event that has none: `{}`.
    pub fn empty() -> Self {
        Self { jsonb: Cow::Borrowed(&jsonb::EMPTY_OBJECT), digest: jsonb::EMPTY_DIGEST }
    }

    /// Parses and encodes a JSON object.
    pub fn from_json(text: &str, bounds: Bounds) -> Result<Properties<'static>, JsonbError> {
        let mut out = Vec::new();
        let digest = jsonb::Encoder::new().encode(text, bounds, &mut out)?;
        Ok(Properties { jsonb: Cow::Owned(out), digest })
    }

    /// Checks and borrows the container bytes of a stored jsonb object (without its varlena header).
    pub fn from_jsonb(bytes: &'a [u8], bounds: Bounds) -> Result<Self, JsonbError> {
        let digest = jsonb::check(bytes, bounds)?;
        Ok(Self { jsonb: Cow::Borrowed(bytes), digest })
    }

    /// Takes container bytes that are known to be well-formed, and a digest that is not theirs: that of what was sent in their place.
    pub fn from_parts(jsonb: Vec<u8>, digest: u64) -> Self {
        Self { jsonb: Cow::Owned(jsonb), digest }
    }

    /// Returns the jsonb container bytes; a varlena header in front makes them a jsonb datum.
    pub fn jsonb(&self) -> &[u8] {
        &self.jsonb
    }

    /// Returns the digest of the content, the same for every spelling of it.
    pub fn digest(&self) -> u64 {
        self.digest
    }
}

/// Bounds what is accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// The most bytes of text in a batch.
    pub batch_bytes: usize,
    /// The most elements in a batch.
    pub batch_events: usize,
    /// The most bytes that an event's properties may take once encoded as jsonb, so that the limit is the same
    /// for every spelling of the same content.
    pub properties_bytes: usize,
    /// The deepest nesting of properties; the properties object itself counts as 1.
    pub depth: usize,
    /// The first accepted `occurred_at`, in microseconds since 2000-01-01 00:00 UTC.
    pub earliest: i64,
    /// The last accepted `occurred_at`, in microseconds since 2000-01-01 00:00 UTC.
    pub latest: i64,
    /// What the id of an event that has none is made from. Without it, an event must have one.
    pub keys: Option<Keys>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            batch_bytes: 64 << 20,
            batch_events: 100_000,
            properties_bytes: 64 << 10,
            depth: 32,
            earliest: time::EARLIEST,
            latest: time::LATEST,
            keys: None,
        }
    }
}

impl Limits {
    /// Returns the limits of the type itself: whatever was once stored can be read again.
    pub fn widest() -> Self {
        Self {
            batch_bytes: 1 << 30,
            batch_events: usize::MAX,
            properties_bytes: jsonb::MAX_BYTES,
            depth: jsonb::MAX_DEPTH,
            ..Self::default()
        }
    }

    /// Says what is wrong with a time outside the limits; `text` prints it.
    pub(crate) fn check_time(&self, micros: i64, text: impl FnOnce() -> String) -> Result<(), String> {
        let side = if micros < self.earliest {
            "earlier"
        } else if micros > self.latest {
            "later"
        } else {
            return Ok(());
        };
        Err(format!("occurred_at \"{}\" is {side} than is accepted", jsonb::excerpt(&text())))
    }

    /// Returns the part of the limits that bounds properties.
    pub fn bounds(&self) -> Bounds {
        Bounds { depth: self.depth, bytes: self.properties_bytes }
    }
}

/// Says what is wrong with an id or a name, if anything: SQLSTATE and reason.
fn id_fault(field: &str, text: &str) -> Option<(&'static str, String)> {
    let error = id_rules::check(text).err()?;
    let value = jsonb::excerpt(text);
    let reason = match error {
        IdError::Empty => format!("{field} is empty"),
        IdError::TooLong => {
            let len = text.len();
            format!("{field} \"{value}\" has {len} bytes, at most {} are allowed", id_rules::MAX_BYTES)
        }
        IdError::ControlCharacter => format!("{field} \"{value}\" has a control character"),
    };
    Some((error.sqlstate(), reason))
}
