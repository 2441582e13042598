//! A seal: what vouches for a tenant's entries of one round of the sealer.

use super::encoding::Encoding;
use super::{Hash, leaf_hash, root};

const KIND: &str = "pg_tally audit seal 1";

/// A seal over the entries of a tenant and month that transactions from `from_xid` up to `to_xid` wrote.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seal {
    /// Its place among all tenants' seals, from 1.
    pub place: u64,
    pub tenant_id: String,
    /// Its place among the tenant's seals, from 1.
    pub number: u64,
    /// First day of the month (UTC) in which the entries happened, as 2026-11-01.
    pub month: String,
    /// The cluster that wrote the entries.
    pub origin: u64,
    pub from_xid: u64,
    pub to_xid: u64,
    /// Microseconds since 2000-01-01 UTC.
    pub sealed_at: i64,
    /// The tenant's entries up to here.
    pub total: u64,
    /// Root of the tree over the leaves.
    pub root: Hash,
    /// Hash of the tenant's seal before; zeros in the first.
    pub previous: Hash,
    /// The leaves, by transaction and entry id.
    pub leaves: Vec<Hash>,
}

impl Seal {
    /// What the seal hashes to: the next seal of the tenant names it, and it is a leaf of the tree over all seals.
    pub fn hash(&self) -> Hash {
        leaf_hash(
            &Encoding::new(KIND)
                .number(self.place)
                .bytes(self.tenant_id.as_bytes())
                .number(self.number)
                .bytes(self.month.as_bytes())
                .number(self.origin)
                .number(self.from_xid)
                .number(self.to_xid)
                .number(self.sealed_at as u64)
                .number(self.leaves.len() as u64)
                .number(self.total)
                .bytes(&self.root)
                .bytes(&self.previous)
                .finish(),
        )
    }

    /// The root that its leaves have.
    pub fn root_of_leaves(&self) -> Hash {
        root(&self.leaves)
    }
}

/// Hashes that stand one after the other.
pub fn hashes_of(bytes: &[u8]) -> Option<Vec<Hash>> {
    let (hashes, rest) = bytes.as_chunks::<32>();
    rest.is_empty().then(|| hashes.to_vec())
}
