//! The dedupe ledger: which of a batch's events are new.

use crate::backend::appender::{Appender, Unique};
use crate::backend::arena::Arena;
use crate::backend::heap::{self, Declared, TableError};
use crate::backend::lookup::{Key, Lookup, View};
use crate::backend::session;
use pgrx::pg_sys::{self, Datum, Oid};
use pgrx::prelude::*;

const COLUMNS: [(&str, Oid); 6] = [
    ("occurred_at", pg_sys::TIMESTAMPTZOID),
    ("fingerprint", pg_sys::INT8OID),
    ("batch_id", pg_sys::INT8OID),
    ("event_id", pg_sys::UUIDOID),
    ("tenant_id", pg_sys::TEXTOID),
    ("account", pg_sys::TEXTOID),
];
/// The ledger's table, as version 0.1.0 made it.
const FIRST_LEDGER: Declared =
    Declared { table: "event_key", columns: COLUMNS.split_at(5).0, key: &["tenant_id", "event_id"] };
/// The ledger's table.
pub const LEDGER: Declared = Declared { columns: &COLUMNS, ..FIRST_LEDGER };

const FINGERPRINT: [i32; 1] = [LEDGER.at("fingerprint")];
const ENTRY: [i32; 3] = [LEDGER.at("occurred_at"), LEDGER.at("batch_id"), LEDGER.at("account")];

/// Up to this many keys are all looked up before they are inserted; of more, this many are sampled.
const SAMPLE: usize = 16;

/// One event's ledger row.
pub struct Entry<'a> {
    pub tenant_id: &'a str,
    pub account_id: &'a str,
    pub event_id: [u8; 16],
    pub occurred_at: i64,
    /// What is to be stored.
    pub fingerprint: i64,
    /// What was stored of the same event before its tenant's events were protected.
    pub earlier: i64,
}

impl Entry<'_> {
    /// Whether a fingerprint that is stored is that of the same event.
    pub fn is(&self, known: i64) -> bool {
        known == self.fingerprint || known == self.earlier
    }
}

/// A row that the transaction's snapshot is too old to see.
#[derive(Debug)]
pub struct NotSerializable;

/// The fingerprint that the ledger has for each entry's key, `None` where the key is new. Waits for transactions that
/// are inserting one; `entries` are sorted by key, so that two batches wait for each other in one order only.
pub fn look_up(entries: &[Entry]) -> Result<Vec<Option<i64>>, NotSerializable> {
    let mut arena = Arena::default();
    let mut ledger = open();
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
    let mut ledger = open();
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

fn open() -> Lookup {
    let ledger = Lookup::open(session::relation(c"event_key"), &[Key::Text, Key::Uuid], View::Latest);
    ledger.require(&FIRST_LEDGER);
    ledger
}

/// Inserts the entries. `Clash` says that one is there after all, or that another transaction is inserting it.
pub fn insert<'a>(
    entries: impl Iterator<Item = &'a Entry<'a>>,
    batch_id: i64,
    arena: &mut Arena,
) -> Result<Unique, TableError> {
    let table = session::relation(c"event_key");
    // The library may be newer than the schema, until ALTER EXTENSION UPDATE.
    let declared = if heap::has_column(table, c"account") { LEDGER } else { FIRST_LEDGER };
    let mut ledger = Appender::open(table, &declared)?;
    for entry in entries {
        let row = [
            Datum::from(entry.occurred_at),
            Datum::from(entry.fingerprint),
            Datum::from(batch_id),
            arena.fixed(&entry.event_id),
            arena.varlena(entry.tenant_id.as_bytes()),
            arena.varlena(entry.account_id.as_bytes()),
        ];
        let columns = declared.columns.len();
        if ledger.push(&row[..columns], &[false; 6][..columns]) == Unique::Clash {
            return Ok(Unique::Clash);
        }
    }
    Ok(ledger.finish())
}

fn find(ledger: &mut Lookup, arena: &mut Arena, entry: &Entry) -> Result<Option<i64>, NotSerializable> {
    let key = [arena.varlena(entry.tenant_id.as_bytes()), arena.fixed(&entry.event_id)];
    match ledger.find(&key, FINGERPRINT) {
        Some(row) if row.is_newer_than_snapshot() => Err(NotSerializable),
        found => Ok(found.map(|row| row.values[0].value() as i64)),
    }
}

/// Part of `tally.find_event()`, which has looked at the scope: what the ledger knows of an event. No rows where it isn't there.
#[pg_extern(sql = false)]
fn ledger_entry(
    tenant_id: &str,
    event_id: pgrx::Uuid,
) -> TableIterator<
    'static,
    (name!(occurred_at, TimestampWithTimeZone), name!(batch_id, i64), name!(account, Option<String>)),
> {
    let mut arena = Arena::default();
    let table = session::relation(c"event_key");
    let mut ledger = Lookup::open(table, &[Key::Text, Key::Uuid], View::Statement);
    ledger.require(&LEDGER);
    let key = [arena.varlena(tenant_id.as_bytes()), arena.fixed(event_id.as_bytes())];
    let found = ledger.find(&key, ENTRY).map(|row| {
        let occurred_at = TimestampWithTimeZone::try_from(row.values[0].value() as i64);
        let account = row.text(2).map(str::to_owned);
        (occurred_at.expect("stored times are in range"), row.values[1].value() as i64, account)
    });
    ledger.close();
    TableIterator::new(found)
}
