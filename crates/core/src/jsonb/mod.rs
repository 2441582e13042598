//! Postgres' on-disk `jsonb`: encoded from JSON text, checked, walked and printed without a server.
//!
//! Bytes here are the root container, what follows the varlena header of a stored value. The layout is that of
//! PostgreSQL 9.4 to 18 on a little-endian machine; `docs/formats.md` names what this project relies on.

use std::fmt;

/// The deepest nesting that any limit may allow; parsing and walking recurse at most this far.
pub const MAX_DEPTH: usize = 128;

/// The most bytes that an encoded container may take, whatever limit is set: 16 MiB.
pub const MAX_BYTES: usize = 16 << 20;

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

/// Bounds what an encoded object may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// The deepest nesting, the object itself counting as 1. At most [`MAX_DEPTH`].
    pub depth: usize,
    /// The most bytes that the encoded container may take. At most [`MAX_BYTES`].
    pub bytes: usize,
}

/// Encodes JSON objects; keeps its buffers from one object to the next.
#[derive(Default)]
pub struct Encoder {}

impl Encoder {
    /// Makes an encoder with empty buffers.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends the container of the JSON object `text` to `out` and returns the digest of its content.
    pub fn encode(&mut self, _text: &str, _bounds: Bounds, _out: &mut Vec<u8>) -> Result<u64, JsonbError> {
        unimplemented!("encoder")
    }
}

/// Checks that `bytes` are one well-formed object container and returns the digest of its content.
pub fn check(_bytes: &[u8], _bounds: Bounds) -> Result<u64, JsonbError> {
    unimplemented!("checker")
}

/// Appends the JSON text of a container to `out`, spelt as Postgres prints it.
pub fn to_json(_bytes: &[u8], _out: &mut String) -> Result<(), JsonbError> {
    unimplemented!("printer")
}

/// The container of `{}`.
pub const EMPTY_OBJECT: [u8; 4] = [0, 0, 0, 0x20];

/// The digest of `{}`.
pub const EMPTY_DIGEST: u64 = 0;
