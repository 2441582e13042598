//! Protecting personal data: tokens, sealed values, boxes and the keys behind them.
//!
//! A key-encrypting key, which the database never stores, wraps each tenant's keys. From those, HKDF-SHA256 (RFC 5869) derives one
//! key a purpose. The forms and the bytes that go into each computation are in docs/formats.md.

mod boxes;
mod key;
mod path;
mod reading;
mod seal;
mod token;

use std::fmt;

pub use boxes::{BoxPublic, BoxSecret, has_form as is_box};
pub use key::{KeyFile, MasterKey, Secret, TenantKey};
pub use path::Path;
pub(crate) use path::escaped;
pub use reading::{Reading, Step};
pub use seal::{Place, SealKey, epoch_of as seal_epoch};
pub use token::{Token, TokenKey, Value, fingerprint};

/// The epoch of a tenant's identity key, which is never rotated: tokens of user ids and fingerprints are made with it.
pub const IDENTITY: u32 = 0;

/// What is done to a protected value before it is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Treatment {
    /// It is left out.
    Drop,
    /// A token stands for it, the same for the same value within a tenant.
    Token,
    /// It is encrypted, and can be revealed.
    Seal,
}

impl Treatment {
    /// The treatment of this name.
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "drop" => Some(Self::Drop),
            "token" => Some(Self::Token),
            "seal" => Some(Self::Seal),
            _ => None,
        }
    }

    /// What is done to a value in others that are treated as a whole afterwards, as given; `None` where it goes along as it is. What is
    /// dropped is gone from those, too, and what is made a token can't be read in what is sealed. A token of the whole is made
    /// of what was sent: made of tokens, it would change with the keys.
    pub fn within(self, around: impl Iterator<Item = Self>) -> Option<Self> {
        let outer = around.min();
        match (self, outer) {
            (_, Some(Self::Drop)) => None,
            (Self::Drop, _) => Some(Self::Drop),
            (_, Some(Self::Token)) => None,
            (Self::Token, _) => Some(Self::Token),
            (Self::Seal, Some(_)) => None,
            (Self::Seal, None) => Some(Self::Seal),
        }
    }
}

/// Why a key can't be had, or what is protected can't be read. Never says what was in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PrivacyError {
    /// The text of a key file holds no keys that can be used; says in which line.
    KeyFile(String),
    /// Wrapped with a key-encrypting key that isn't at hand: its id.
    UnknownMaster(String),
    /// It is not what it claims to be: other key, other place, or changed bytes.
    Forged(&'static str),
}

impl fmt::Display for PrivacyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::KeyFile(problem) => f.write_str(problem),
            Self::UnknownMaster(id) => {
                write!(f, "the keys are wrapped with key-encrypting key {id}, which isn't at hand")
            }
            Self::Forged(what) => write!(
                f,
                "{what} doesn't open: it was made with another key, for another place, or was changed"
            ),
        }
    }
}

impl std::error::Error for PrivacyError {}

/// Puts parts one behind the other, each after its length, so that no two lists of parts make the same bytes.
fn joined(label: &str, parts: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::with_capacity(64);
    for part in std::iter::once(label.as_bytes()).chain(parts.iter().copied()) {
        out.extend_from_slice(&(part.len() as u32).to_be_bytes());
        out.extend_from_slice(part);
    }
    out
}

/// The epoch and the body of a text of the form `PREFIX.EPOCH.BODY`, the epoch spelt in the only way it is written.
fn parts<'a>(text: &'a str, prefix: &str) -> Option<(u32, &'a str)> {
    let rest = text.strip_prefix(prefix)?.strip_prefix('.')?;
    let (epoch, body) = rest.split_once('.')?;
    let number: u32 = epoch.parse().ok()?;
    (number.to_string() == epoch).then_some((number, body))
}
