//! Exports: the hash that binds an approval to what was requested, the values of its parameters, and the lines that are handed out.

use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

/// A hash of parts in their order: each counts with its length, so that no two sequences of parts look alike.
pub struct Fingerprint(Sha256);

impl Fingerprint {
    /// Begins one of this kind.
    pub fn new(kind: &str) -> Self {
        Self(Sha256::new()).text(kind)
    }

    /// Adds a text.
    pub fn text(mut self, text: &str) -> Self {
        self.0.update([1]);
        self.0.update((text.len() as u64).to_be_bytes());
        self.0.update(text.as_bytes());
        self
    }

    /// Adds a text, or that there is none.
    pub fn optional(mut self, text: Option<&str>) -> Self {
        match text {
            Some(text) => self.text(text),
            None => {
                self.0.update([0]);
                self
            }
        }
    }

    /// Adds a number.
    pub fn number(mut self, number: i64) -> Self {
        self.0.update([2]);
        self.0.update(number.to_be_bytes());
        self
    }

    /// The hash.
    pub fn finish(self) -> [u8; 32] {
        self.0.finalize().into()
    }
}

/// The values of a query's parameters, each a text, that a JSON array has: numbers with all their digits. `None` where it is something else,
/// or has other arrays or objects in it.
pub fn parameters(array: &str) -> Option<Vec<Option<String>>> {
    let values: Vec<&RawValue> = serde_json::from_str(array).ok()?;
    let text = |value: &RawValue| match value.get().as_bytes().first() {
        Some(b'n') => Some(None),
        Some(b'"') => serde_json::from_str(value.get()).ok().map(Some),
        Some(b'[' | b'{') | None => None,
        Some(_) => Some(Some(value.get().to_owned())),
    };
    values.into_iter().map(text).collect()
}

/// A JSON document on one line. Outside strings a line's end means nothing, and inside one it is written as an escape.
pub fn on_one_line(document: &str) -> String {
    document.replace(['\n', '\r'], " ")
}

/// SHA-256 of lines, each with its line feed: what `sha256sum` says of a file that has them.
#[derive(Default)]
pub struct Content(Sha256);

impl Content {
    /// Adds a line.
    pub fn line(&mut self, line: &str) {
        self.0.update(line.as_bytes());
        self.0.update(b"\n");
    }

    /// The hash.
    pub fn finish(self) -> [u8; 32] {
        self.0.finalize().into()
    }
}

/// SHA-256 of a text.
pub fn hash(text: &str) -> [u8; 32] {
    Sha256::digest(text.as_bytes()).into()
}
