//! The dedupe ledger: which of a batch's events are new.

use crate::backend::appender::{AppendError, Appender, Unique};
use crate::backend::arena::Arena;
use crate::backend::lookup::{Key, Lookup, View};
use crate::backend::session;
use pgrx::pg_sys::Datum;

/// Up to this many keys are all looked up before they are inserted; of more, this many are sampled.
const SAMPLE: usize = 16;

/// One event's ledger row.
pub struct Entry<'a> {
    pub tenant_id: &'a str,
    pub event_id: [u8; 16],
    pub occurred_at: i64,
    pub fingerprint: i64,
}

/// A row that the transaction's snapshot is too old to see.
#[derive(Debug)]
pub struct NotSerializable;

/// The fingerprint that the ledger has for each entry's key, `None` where the key is new. Waits for transactions that
/// are inserting one; `entries` are sorted by key, so that two batches wait for each other in one order only.
pub fn look_up(entries: &[Entry]) -> Result<Vec<Option<i64>>, NotSerializable> {
    let mut arena = Arena::default();
    let mut ledger = Lookup::open(session::relation(c"event_key"), &[Key::Text, Key::Uuid], View::Latest);
    let known = entries.iter().map(|entry| find(&mut ledger, &mut arena, entry)).collect();
    ledger.close();
    known
}

/// Whether it is worth looking every key up first: a small batch, or one of which some sampled key is there.
/// For a large batch of new events, inserting straight away saves half of the index descents.
pub fn wants_look_up(entries: &[Entry]) -> Result<bool, NotSerializable> {
    if entries.len() <= SAMPLE {
        return Ok(true);
    }
    let mut arena = Arena::default();
    let mut ledger = Lookup::open(session::relation(c"event_key"), &[Key::Text, Key::Uuid], View::Latest);
    let mut found = false;
    for sample in 0..SAMPLE {
        let entry = &entries[sample * (entries.len() - 1) / (SAMPLE - 1)];
        if find(&mut ledger, &mut arena, entry)?.is_some() {
            found = true;
            break;
        }
    }
    ledger.close();
    Ok(found)
}

/// Inserts the entries. `Clash` says that one is there after all, or that another transaction is inserting it.
pub fn insert<'a>(
    entries: impl Iterator<Item = &'a Entry<'a>>,
    batch_id: i64,
    arena: &mut Arena,
) -> Result<Unique, AppendError> {
    let mut ledger = Appender::open(session::relation(c"event_key"))?;
    for entry in entries {
        let row = [
            Datum::from(entry.occurred_at),
            Datum::from(entry.fingerprint),
            Datum::from(batch_id),
            arena.fixed(&entry.event_id),
            arena.varlena(entry.tenant_id.as_bytes()),
        ];
        if ledger.push(&row, &[false; 5]) == Unique::Clash {
            return Ok(Unique::Clash);
        }
    }
    Ok(ledger.finish())
}

fn find(ledger: &mut Lookup, arena: &mut Arena, entry: &Entry) -> Result<Option<i64>, NotSerializable> {
    let key = [arena.varlena(entry.tenant_id.as_bytes()), arena.fixed(&entry.event_id)];
    match ledger.find(&key, [2]) {
        Some(row) if row.is_newer_than_snapshot() => Err(NotSerializable),
        found => Ok(found.map(|row| row.values[0].value() as i64)),
    }
}
