//! Taking rows out of a table: reads and deletes them, below the executor.

use super::heap::{self, Declared, Layout, TableError};
use super::value::varlena_in_place;
use super::wal;
use super::writable::{self, Write};
use core::ptr;
use pgrx::pg_sys::{self, Datum, Oid};

/// A row was changed by a transaction that the running one's snapshot doesn't see.
#[derive(Debug)]
pub struct Conflict;

/// Why rows can't be taken or replaced.
#[derive(Debug)]
pub enum TakeError {
    Conflict,
    Table(TableError),
}

impl From<Conflict> for TakeError {
    fn from(_: Conflict) -> Self {
        Self::Conflict
    }
}

impl From<TableError> for TakeError {
    fn from(error: TableError) -> Self {
        Self::Table(error)
    }
}

/// Deletes the rows that a snapshot taken now sees, in the order in which they lie, and hands each one's values and nulls, of
/// the declared columns, to `take`, until that says it has enough. The values, copied and detoasted, live in the current memory
/// context. Logical decoding gets the row by the table's replica identity, as for any DELETE.
pub fn rows(
    table: Oid,
    declared: &Declared,
    mut take: impl FnMut(&[Datum], &[bool]) -> bool,
) -> Result<(), TakeError> {
    // SAFETY: the relation, the snapshot and the scan are open until they are closed here; on error Postgres releases them
    // with the (sub)transaction. The tuple is copied out of the page before it is handed on.
    unsafe {
        let relation = heap::open(table, declared.table, pg_sys::RowExclusiveLock)?;
        writable::check(relation, Write::Delete)?;
        let layout = Layout::of(relation, declared)?;
        let mut row = layout.declared_row();
        let descriptor = (*relation).rd_att;
        let columns = (*descriptor).natts as usize;
        let described = pgrx::PgTupleDesc::from_pg_copy(descriptor);
        let is_varlena: Vec<bool> = described.iter().map(|column| column.attlen == -1).collect();
        let (mut values, mut nulls) = (vec![Datum::from(0); columns], vec![false; columns]);
        pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
        let flags = pg_sys::ScanOptions::SO_TYPE_SEQSCAN | pg_sys::ScanOptions::SO_ALLOW_PAGEMODE;
        let scan = pg_sys::heap_beginscan(
            relation,
            pg_sys::GetActiveSnapshot(),
            0,
            ptr::null_mut(),
            ptr::null_mut(),
            flags,
        );
        let command = pg_sys::GetCurrentCommandId(true);
        let mut result = Ok(());
        loop {
            let tuple = pg_sys::heap_getnext(scan, pg_sys::ScanDirection::ForwardScanDirection);
            if tuple.is_null() {
                break;
            }
            if let Err(conflict) = delete(relation, &raw mut (*tuple).t_self, command) {
                result = Err(conflict.into());
                break;
            }
            let copy = pg_sys::heap_copytuple(tuple);
            pg_sys::heap_deform_tuple(copy, descriptor, values.as_mut_ptr(), nulls.as_mut_ptr());
            for (place, value) in values.iter_mut().enumerate() {
                if is_varlena[place] && !nulls[place] && varlena_in_place(*value).is_none() {
                    *value = Datum::from(pg_sys::pg_detoast_datum(value.cast_mut_ptr()));
                }
            }
            layout.gather(&values, &nulls, &mut row);
            if !take(&row.values, &row.nulls) {
                break;
            }
        }
        pg_sys::heap_endscan(scan);
        pg_sys::PopActiveSnapshot();
        pg_sys::table_close(relation, pg_sys::NoLock as pg_sys::LOCKMODE);
        result
    }
}

/// Deletes the row at a place.
///
/// # Safety
/// The relation is open with a lock to write, and an earlier command than `command` wrote the row.
pub(super) unsafe fn delete(
    relation: pg_sys::Relation,
    place: pg_sys::ItemPointer,
    command: pg_sys::CommandId,
) -> Result<(), Conflict> {
    wal::hand_over();
    let mut failure = pg_sys::TM_FailureData::default();
    // SAFETY: the caller's promise.
    let deleted = unsafe {
        pg_sys::heap_delete(relation, place, command, ptr::null_mut(), true, &raw mut failure, false)
    };
    if deleted == pg_sys::TM_Result::TM_Ok { Ok(()) } else { Err(Conflict) }
}
