//! Postgres' on-disk `jsonb`: encoded from JSON text, checked, walked and printed without a server.
//!
//! Bytes here are the root container, what follows the varlena header of a stored value. The layout is that of
//! PostgreSQL 9.4 to 18 on a little-endian machine; `docs/formats.md` names what this project relies on.

pub(crate) mod digest;
mod encode;
mod numeric;
mod replace;
pub(crate) mod scan;
mod value;
mod walk;

use std::fmt;

pub use digest::EMPTY_DIGEST;
pub use encode::Encoder;
pub use numeric::MAX_DIGITS;
pub use replace::{Change, Found, printed, replace, replace_inside};
pub use scan::quote;
pub use value::value;
pub use walk::{check, to_json};

/// The deepest nesting that any limit may allow; parsing and walking recurse at most this far.
pub const MAX_DEPTH: usize = 128;

/// The most bytes that an encoded container may take, whatever limit is set: 16 MiB.
pub const MAX_BYTES: usize = 16 << 20;

/// The container of `{}`.
pub const EMPTY_OBJECT: [u8; 4] = OBJECT.to_le_bytes();

const COUNT_MASK: u32 = 0x0FFF_FFFF;
const OBJECT: u32 = 0x2000_0000;
const ARRAY: u32 = 0x4000_0000;

/// One entry in so many holds an end offset instead of a length.
const OFFSET_STRIDE: usize = 32;
const ENTRY_LENGTH: u32 = 0x0FFF_FFFF;
const ENTRY_HAS_OFFSET: u32 = 0x8000_0000;
const ENTRY_TYPE: u32 = 0x7000_0000;
const TYPE_STRING: u32 = 0;
const TYPE_NUMERIC: u32 = 0x1000_0000;
const TYPE_FALSE: u32 = 0x2000_0000;
const TYPE_TRUE: u32 = 0x3000_0000;
const TYPE_NULL: u32 = 0x4000_0000;
const TYPE_CONTAINER: u32 = 0x5000_0000;

/// Describes why JSON text or jsonb bytes are refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JsonbError {
    /// Says what is wrong: lower case, no full stop.
    pub reason: String,
    /// Holds the SQLSTATE of the error.
    pub sqlstate: &'static str,
    /// Counts the bytes before the place of the error.
    pub offset: usize,
}

impl fmt::Display for JsonbError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl std::error::Error for JsonbError {}

/// Makes an error; out of line, as it is rare.
#[cold]
pub(crate) fn fail(sqlstate: &'static str, offset: usize, reason: impl Into<String>) -> JsonbError {
    JsonbError { reason: reason.into(), sqlstate, offset }
}

/// Bounds what an encoded object may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// The deepest nesting, the object itself counting as 1. At most [`MAX_DEPTH`].
    pub depth: usize,
    /// The most bytes that the encoded container may take. At most [`MAX_BYTES`].
    pub bytes: usize,
}

impl Bounds {
    /// The bounds of what can be read again at all.
    pub const WIDEST: Self = Self { depth: MAX_DEPTH, bytes: MAX_BYTES };

    /// Returns the bounds with neither part above its maximum.
    fn capped(self) -> Self {
        Self { depth: self.depth.min(MAX_DEPTH), bytes: self.bytes.min(MAX_BYTES) }
    }

    #[cold]
    fn too_deep(self, offset: usize) -> JsonbError {
        fail("54000", offset, format!("nested deeper than {} levels", self.depth))
    }

    #[cold]
    fn too_large(self, offset: usize) -> JsonbError {
        fail("54000", offset, format!("larger than {} bytes when stored", self.bytes))
    }
}

/// Cuts a value short for use in a message: at most 60 characters, control characters escaped.
pub(crate) fn excerpt(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars().take(60) {
        if c.is_control() { out.extend(c.escape_unicode()) } else { out.push(c) }
    }
    if text.chars().nth(60).is_some() {
        out.push('…');
    }
    out
}
