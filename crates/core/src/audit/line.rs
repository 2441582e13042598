//! The lines of an export: each is one JSON object, a seal or an entry. The entries of a seal follow it; those that aren't sealed
//! yet come after the last one. The first line tells of the cluster that exported.

use super::{Entry, Hash, Personal, Seal, from_hex, hash_from_hex, hashes_of};
use crate::event::parse_uuid;
use serde_json::Value;

/// An entry as it is stored.
#[derive(Clone, Debug)]
pub struct SealedEntry {
    pub entry: Entry,
    /// The hash that stands with it.
    pub leaf: Hash,
    /// Its personal part, unless that was erased.
    pub personal: Option<Personal>,
}

/// The cluster that exported, as it was then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cluster {
    pub origin: u64,
    /// The first transaction that had not begun, so that none of its entries can be there.
    pub next_xid: u64,
    /// Microseconds since 2000-01-01 UTC.
    pub at: i64,
}

/// One line of an export.
#[derive(Clone, Debug)]
pub enum Line {
    Cluster(Cluster),
    Seal {
        seal: Box<Seal>,
        /// The hash that stands with it.
        hash: Hash,
        /// Of the last seal of a round: the frontier of the tree over all seals, as stored.
        frontier: Option<Vec<u8>>,
    },
    Entry(Box<SealedEntry>),
}

impl Line {
    /// Reads a line.
    pub fn read(text: &str) -> Result<Self, String> {
        let value: Value = serde_json::from_str(text).map_err(|problem| format!("not JSON: {problem}"))?;
        let read = if value.get("seal").is_some() {
            read_seal(&value)
        } else if value.get("cluster").is_some() {
            read_cluster(&value)
        } else {
            read_entry(&value)
        };
        read.ok_or_else(|| "neither a seal nor an entry".to_owned())
    }
}

fn text(value: &Value, key: &str) -> Option<String> {
    value[key].as_str().map(str::to_owned)
}

/// A number, as such or in a text: JSON readers elsewhere round above 2^53.
fn number<T: std::str::FromStr>(value: &Value, key: &str) -> Option<T> {
    match &value[key] {
        Value::String(text) => text.parse().ok(),
        Value::Number(number) => number.to_string().parse().ok(),
        _ => None,
    }
}

fn hash(value: &Value, key: &str) -> Option<Hash> {
    hash_from_hex(value[key].as_str()?)
}

fn read_cluster(value: &Value) -> Option<Line> {
    Some(Line::Cluster(Cluster {
        origin: number::<i64>(value, "cluster")? as u64,
        next_xid: number(value, "next_xid")?,
        at: number(value, "at")?,
    }))
}

fn read_seal(value: &Value) -> Option<Line> {
    let seal = Seal {
        place: number(value, "seal")?,
        tenant_id: text(value, "tenant_id")?,
        number: number(value, "number")?,
        month: text(value, "month")?,
        origin: number::<i64>(value, "origin")? as u64,
        from_xid: number(value, "from_xid")?,
        to_xid: number(value, "to_xid")?,
        sealed_at: number(value, "sealed_at")?,
        total: number(value, "total")?,
        root: hash(value, "root")?,
        previous: hash(value, "previous")?,
        leaves: hashes_of(&from_hex(value["leaves"].as_str()?)?)?,
    };
    let frontier = match value["frontier"].as_str() {
        None => None,
        Some(digits) => Some(from_hex(digits)?),
    };
    Some(Line::Seal { seal: Box::new(seal), hash: hash(value, "hash")?, frontier })
}

fn read_entry(value: &Value) -> Option<Line> {
    let personal = match value["personal"].as_str() {
        None => None,
        Some(digits) => Some(hash_from_hex(digits)?),
    };
    let entry = Entry {
        tenant_id: text(value, "tenant_id")?,
        origin: number::<i64>(value, "origin")? as u64,
        xid: number(value, "xid")?,
        at: number(value, "at")?,
        entry_id: parse_uuid(value["entry"].as_str()?)?,
        actor: text(value, "actor")?,
        account_id: text(value, "account_id"),
        act: text(value, "act")?,
        object: text(value, "object"),
        detail: text(value, "detail"),
        personal,
    };
    let personal = match (value["salt"].as_str(), text(value, "content")) {
        (Some(salt), Some(content)) => Some(Personal { salt: from_hex(salt)?, content }),
        _ => None,
    };
    Some(Line::Entry(Box::new(SealedEntry { entry, leaf: hash(value, "leaf")?, personal })))
}
