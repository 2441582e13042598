//! Writes entries into their month.

use crate::backend::appender::Appender;
use crate::backend::arena::Arena;
use crate::backend::heap::{Declared, TableError};
use crate::backend::report::Report;
use crate::backend::{session, transaction_end};
use pgrx::pg_sys::{self, Datum, Oid};
use std::collections::BTreeMap;
use tally_core::audit::{Record, month_of};

const ENTRIES: Declared = Declared {
    table: "audit_entry",
    columns: &[
        ("xid", pg_sys::XID8OID),
        ("at", pg_sys::TIMESTAMPTZOID),
        ("origin", pg_sys::INT8OID),
        ("entry_id", pg_sys::UUIDOID),
        ("tenant_id", pg_sys::TEXTOID),
        ("account_id", pg_sys::TEXTOID),
        ("actor", pg_sys::TEXTOID),
        ("act", pg_sys::TEXTOID),
        ("object", pg_sys::TEXTOID),
        ("detail", pg_sys::TEXTOID),
        ("personal", pg_sys::BYTEAOID),
        ("leaf", pg_sys::BYTEAOID),
    ],
    key: &[],
};
const PERSONAL: Declared = Declared {
    table: "audit_personal",
    columns: &[
        ("at", pg_sys::TIMESTAMPTZOID),
        ("entry_id", pg_sys::UUIDOID),
        ("tenant_id", pg_sys::TEXTOID),
        ("salt", pg_sys::BYTEAOID),
        ("content", pg_sys::TEXTOID),
    ],
    key: &["tenant_id", "entry_id"],
};

/// Whether this database has the audit log: not where the library is newer than the extension's objects.
pub fn is_installed() -> bool {
    session::find_relation(c"audit_entry").is_some()
}

/// The table of a month, locked to write; what has none of its own goes to the rest.
fn table_of(month: &str) -> Oid {
    // Made, dropped or split off meanwhile: seen once it is locked.
    loop {
        let found = find(month);
        session::lock_relation(found, pg_sys::RowExclusiveLock);
        if find(month) == found {
            return found;
        }
    }
}

fn find(month: &str) -> Oid {
    let name = format!("audit_p{}_{}", &month[..month.len() - 6], &month[month.len() - 5..month.len() - 3]);
    session::find_relation_named(&name).unwrap_or_else(|| session::relation(c"audit_rest"))
}

/// Writes entries in the running transaction.
pub fn write(records: &[Record]) -> Result<(), Report> {
    let (xid, origin) = (transaction_end::number(), transaction_end::cluster());
    let mut by_month: BTreeMap<String, Vec<&Record>> = BTreeMap::new();
    for record in records {
        by_month.entry(month_of(record.entry.at)).or_default().push(record);
    }
    for (month, records) in by_month {
        let table = table_of(&month);
        append(table, &records, xid, origin)?;
    }
    personal(records)?;
    Ok(())
}

fn append(table: Oid, records: &[&Record], xid: u64, origin: u64) -> Result<(), TableError> {
    let mut entries = Appender::open(table, &ENTRIES)?;
    for record in records {
        let mut arena = Arena::default();
        let mut entry = record.entry.clone();
        (entry.xid, entry.origin) = (xid, origin);
        let text = |arena: &mut Arena, text: &Option<String>| {
            text.as_ref().map_or(Datum::from(0), |text| arena.varlena(text.as_bytes()))
        };
        let row = [
            Datum::from(xid),
            Datum::from(entry.at),
            Datum::from(origin),
            arena.fixed(&entry.entry_id),
            arena.varlena(entry.tenant_id.as_bytes()),
            text(&mut arena, &entry.account_id),
            arena.varlena(entry.actor.as_bytes()),
            arena.varlena(entry.act.as_bytes()),
            text(&mut arena, &entry.object),
            text(&mut arena, &entry.detail),
            entry.personal.map_or(Datum::from(0), |hash| arena.varlena(&hash)),
            arena.varlena(&entry.leaf()),
        ];
        let mut nulls = [false; 12];
        nulls[5] = entry.account_id.is_none();
        nulls[8] = entry.object.is_none();
        nulls[9] = entry.detail.is_none();
        nulls[10] = entry.personal.is_none();
        // No unique key here.
        let _ = entries.push(&row, &nulls);
    }
    let _ = entries.finish();
    Ok(())
}

fn personal(records: &[Record]) -> Result<(), TableError> {
    let with_parts: Vec<_> =
        records.iter().filter_map(|record| Some((&record.entry, record.personal.as_ref()?))).collect();
    if with_parts.is_empty() {
        return Ok(());
    }
    let mut table = Appender::open(session::relation(c"audit_personal"), &PERSONAL)?;
    for (entry, personal) in with_parts {
        let mut arena = Arena::default();
        let row = [
            Datum::from(entry.at),
            arena.fixed(&entry.entry_id),
            arena.varlena(entry.tenant_id.as_bytes()),
            arena.varlena(&personal.salt),
            arena.varlena(personal.content.as_bytes()),
        ];
        // An entry's id is random.
        let _ = table.push(&row, &[false; 5]);
    }
    let _ = table.finish();
    Ok(())
}
