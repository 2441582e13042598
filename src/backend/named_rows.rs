//! Rows that are kept for one query, which reads them as a relation of a name.

use super::scan;
use core::ffi::CStr;
use pgrx::pg_sys::{self, Datum, Oid};

/// A column: its name, type and collation.
pub type NamedColumn<'a> = (&'a CStr, Oid, Oid);

/// Such rows, in memory up to `work_mem` and in a temporary file beyond it.
pub struct NamedRows {
    name: &'static CStr,
    store: *mut pg_sys::Tuplestorestate,
    descriptor: pg_sys::TupleDesc,
    rows: usize,
}

impl NamedRows {
    /// None yet. They live as long as the current memory context.
    pub fn new(name: &'static CStr, columns: &[NamedColumn]) -> Self {
        // SAFETY: the descriptor has an entry for each column, and copies the names.
        unsafe {
            let descriptor = pg_sys::CreateTemplateTupleDesc(columns.len() as i32);
            for (place, (column, of_type, collation)) in (1..).zip(columns) {
                pg_sys::TupleDescInitEntry(descriptor, place, column.as_ptr(), *of_type, -1, 0);
                pg_sys::TupleDescInitEntryCollation(descriptor, place, *collation);
            }
            let store = pg_sys::tuplestore_begin_heap(true, false, pg_sys::work_mem);
            Self { name, store, descriptor, rows: 0 }
        }
    }

    /// Adds a row, a copy of what is given.
    pub fn push(&mut self, values: &[Datum], nulls: &[bool]) {
        // SAFETY: both have a value for each column, checked here; the store copies them.
        unsafe {
            let columns = (*self.descriptor).natts as usize;
            assert!(values.len() == columns && nulls.len() == columns, "one value for each column");
            pg_sys::tuplestore_putvalues(
                self.store,
                self.descriptor,
                values.as_ptr().cast_mut(),
                nulls.as_ptr().cast_mut(),
            );
        }
        self.rows += 1;
    }

    /// The result, as text, of a query that reads them, in the calling statement's snapshot.
    pub fn texts(self, query: &str) -> Vec<Vec<Option<String>>> {
        let mut relation = pg_sys::EphemeralNamedRelationData {
            md: pg_sys::EphemeralNamedRelationMetadataData {
                name: self.name.as_ptr().cast_mut(),
                reliddesc: Oid::INVALID,
                tupdesc: self.descriptor,
                enrtype: pg_sys::EphemeralNameRelationType::ENR_NAMED_TUPLESTORE,
                enrtuples: self.rows as f64,
            },
            reldata: self.store.cast(),
        };
        // SAFETY: relation and store outlive the query, which ends with SPI_finish; SPI forgets the relation there.
        unsafe {
            let rows = scan::texts_with(query, scan::Snapshot::Calling, || {
                let registered = pg_sys::SPI_register_relation(&raw mut relation);
                assert_eq!(registered, pg_sys::SPI_OK_REL_REGISTER as i32, "the name is free");
            });
            pg_sys::tuplestore_end(self.store);
            rows
        }
    }
}
