//! An entry: one act, or one statement that read.

use super::encoding::{Decoding, Encoding};
use super::{Hash, leaf_hash};
use sha2::{Digest, Sha256};

const KIND: &str = "pg_tally audit entry 1";

/// The part of an entry that can be erased: the entry itself has a hash of it. The salt keeps the hash from telling, afterwards,
/// what it was made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Personal {
    pub salt: Vec<u8>,
    pub content: String,
}

/// What an entry keeps of its personal part.
pub fn commitment(personal: &Personal) -> Hash {
    let length = (personal.salt.len() as u64).to_be_bytes();
    Sha256::new()
        .chain_update(length)
        .chain_update(&personal.salt)
        .chain_update(&personal.content)
        .finalize()
        .into()
}

/// One entry of the audit log, everything that its leaf is made of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// The tenant that it concerns; empty for what concerns none, or all.
    pub tenant_id: String,
    /// The cluster that wrote it, by its system identifier: transactions are numbered by cluster.
    pub origin: u64,
    /// The transaction that wrote it.
    pub xid: u64,
    /// When it happened, microseconds since 2000-01-01 UTC.
    pub at: i64,
    pub entry_id: [u8; 16],
    /// The role that logged in.
    pub actor: String,
    pub account_id: Option<String>,
    pub act: String,
    /// What it was done to.
    pub object: Option<String>,
    /// More about it, a JSON object as text.
    pub detail: Option<String>,
    /// The commitment to its personal part, where it has or had one.
    pub personal: Option<Hash>,
}

impl Entry {
    /// The canonical bytes of the entry.
    pub fn encode(&self) -> Vec<u8> {
        let text = |text: &Option<String>| text.as_ref().map(|text| text.as_bytes().to_vec());
        Encoding::new(KIND)
            .bytes(self.tenant_id.as_bytes())
            .number(self.origin)
            .number(self.xid)
            .number(self.at as u64)
            .bytes(&self.entry_id)
            .bytes(self.actor.as_bytes())
            .optional(text(&self.account_id).as_deref())
            .bytes(self.act.as_bytes())
            .optional(text(&self.object).as_deref())
            .optional(text(&self.detail).as_deref())
            .optional(self.personal.as_ref().map(|hash| &hash[..]))
            .finish()
    }

    /// The entry that such bytes stand for.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut fields = Decoding::new(KIND, bytes)?;
        Some(Self {
            tenant_id: fields.text()?,
            origin: fields.number()?,
            xid: fields.number()?,
            at: fields.number()? as i64,
            entry_id: fields.bytes()?.try_into().ok()?,
            actor: fields.text()?,
            account_id: fields.optional_text()?,
            act: fields.text()?,
            object: fields.optional_text()?,
            detail: fields.optional_text()?,
            personal: match fields.optional()? {
                None => None,
                Some(hash) => Some(hash.try_into().ok()?),
            },
        })
    }

    /// What the entry hashes to, as a leaf of RFC 6962.
    pub fn leaf(&self) -> Hash {
        leaf_hash(&self.encode())
    }
}
