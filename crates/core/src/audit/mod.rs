//! The audit log, apart from where it is stored: what an entry hashes to, the Merkle trees of RFC 6962 that seal entries, the
//! anchors to be kept outside, and the check of an export against them.
//!
//! Each entry hashes to a leaf. The sealer puts a tenant's new entries under one root, in a seal that names the hash of the
//! tenant's seal before. All tenants' seals, in the order in which they were made, are the leaves of one more tree: its size
//! and root are an anchor, and vouch for every entry below.

mod anchor;
mod dropped;
mod encoding;
mod entry;
mod line;
mod moment;
mod record;
mod seal;
mod shorten;
mod tree;
mod verifier;

pub use anchor::Anchor;
pub use entry::{Entry, Personal, commitment};
pub use line::{Cluster, Line, SealedEntry};
pub use record::Record;
pub use seal::{Seal, hashes_of};
pub use shorten::{shorten, shorten_text};
pub use tree::{
    Frontier, consistency_proof, inclusion_proof, leaf_hash, node_hash, root, verify_consistency,
    verify_inclusion,
};
pub use verifier::{Fault, Problem, Report, Verifier};

use crate::calendar::civil_from_days;

/// A SHA-256.
pub type Hash = [u8; 32];

/// The act by which retention says that it has dropped a month's entries; its object is the month's first day.
pub const MONTH_DROPPED: &str = "audit_month_dropped";
/// The act that says that an entry's personal part was erased; its object is the entry's id.
pub const PERSONAL_ERASED: &str = "audit_personal_erased";

/// First day of the month (UTC) of a moment, in microseconds since 2000-01-01, as 2026-11-01.
pub fn month_of(at: i64) -> String {
    let (year, month, _) = civil_from_days(at.div_euclid(86_400_000_000));
    format!("{year:04}-{month:02}-01")
}

/// Bytes as lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .map(|digit| char::from_digit(digit.into(), 16).unwrap_or('0'))
        .collect()
}

/// The bytes that hexadecimal digits stand for.
pub fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> =
        text.chars().map(|digit| digit.to_digit(16).map(|digit| digit as u8)).collect();
    let digits = digits?;
    digits.len().is_multiple_of(2).then(|| digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect())
}

/// A hash that hexadecimal digits stand for.
pub fn hash_from_hex(text: &str) -> Option<Hash> {
    from_hex(text)?.try_into().ok()
}
