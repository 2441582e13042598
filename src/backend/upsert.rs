//! Finding rows of a table by a unique key and replacing them, below the executor.

use super::additions::{self, Additions};
use super::appender::result_relation;
use super::heap::{self, Declared, Layout, Row, TableError};
use super::take::{self, Conflict};
use super::version;
use super::wal;
use super::writable::{self, Write};
use core::ptr;
use pgrx::pg_sys::{self, Datum, Oid};

/// The strategy number of a search for nulls.
const INVALID_STRATEGY: u16 = 0;

/// Values and nulls of a found row.
pub type Found<'a> = (&'a [Datum], &'a [bool]);

/// A table open for replacing rows found by key. Row security isn't consulted.
pub struct Upsert {
    table: pg_sys::Relation,
    index: pg_sys::Relation,
    estate: *mut pg_sys::EState,
    target: *mut pg_sys::ResultRelInfo,
    found: *mut pg_sys::TupleTableSlot,
    written: *mut pg_sys::TupleTableSlot,
    scan: pg_sys::IndexScanDesc,
    keys: Vec<pg_sys::ScanKeyData>,
    /// Of each column of the index: its place among the declared ones.
    key_places: Vec<usize>,
    layout: Layout,
    additions: Additions,
    /// The row found last, as the declared columns have it; and the row to be written, as the table has it.
    declared_row: Row,
    row: Row,
}

impl Upsert {
    /// Opens a table and the unique index of its declared key. The caller holds a lock that keeps other writers away.
    ///
    /// Whether a publication can send what is changed isn't asked, as the executor would: it would be the caller of ingest who is
    /// refused for it. The tables are made with a replica identity that suffices; `lint` tells where somebody took it away.
    pub fn open(table: Oid, declared: &Declared) -> Result<Self, TableError> {
        // SAFETY: both relations stay open until `close` or the (sub)transaction's abort; the dirty snapshot is palloc'd.
        unsafe {
            let lock = pg_sys::RowExclusiveLock as pg_sys::LOCKMODE;
            let table = heap::open(table, declared.table, pg_sys::RowExclusiveLock)?;
            writable::check(table, Write::Replace)?;
            let layout = Layout::of(table, declared)?;
            let (estate, target, heard) = result_relation(table);
            heap::check_keys(target, declared, &layout)?;
            let additions = Additions::of(target, &layout, estate, heard)?;
            let index = heap::key_index(target, declared, &layout)?;
            let key_places = heap::key_columns(index, declared, &layout)
                .into_iter()
                .map(|key| declared.columns.iter().position(|(column, _)| Some(*column) == key))
                .collect::<Option<Vec<_>>>()
                .expect("the index has the declared key's columns");
            let index = pg_sys::index_open((*index).rd_id, lock);
            let dirty = pg_sys::palloc0(size_of::<pg_sys::SnapshotData>()).cast::<pg_sys::SnapshotData>();
            (*dirty).snapshot_type = pg_sys::SnapshotType::SNAPSHOT_DIRTY;
            // Without the columns that the index merely includes.
            let keys = vec![pg_sys::ScanKeyData::default(); (*(*index).rd_index).indnkeyatts as usize];
            let scan = version::begin_index_scan(table, index, dirty, keys.len());
            Ok(Self {
                row: layout.row(),
                declared_row: layout.declared_row(),
                key_places,
                layout,
                additions,
                table,
                index,
                estate,
                target,
                found: pg_sys::table_slot_create(table, ptr::null_mut()),
                written: pg_sys::MakeSingleTupleTableSlot(
                    (*table).rd_att,
                    &raw const pg_sys::TTSOpsHeapTuple,
                ),
                scan,
                keys,
            })
        }
    }

    /// Finds the row with this key; `leading` are values of the first declared columns, among them all that the key has.
    /// A null is equal to a null. The row's values and nulls, of the declared columns, are valid until the next call.
    pub fn find(&mut self, leading: &[Option<Datum>]) -> Result<Option<Found<'_>>, Conflict> {
        // SAFETY: scan, slot and index belong together and are open.
        unsafe {
            for place in 0..self.keys.len() {
                self.set_key(place, leading[self.key_places[place]]);
            }
            pg_sys::index_rescan(
                self.scan,
                self.keys.as_mut_ptr(),
                self.keys.len() as i32,
                ptr::null_mut(),
                0,
            );
            let forward = pg_sys::ScanDirection::ForwardScanDirection;
            if !pg_sys::index_getnext_slot(self.scan, forward, self.found) {
                return Ok(None);
            }
            let snapshot = (*self.scan).xs_snapshot;
            let in_progress = [(*snapshot).xmin, (*snapshot).xmax];
            if in_progress.iter().any(|&writer| writer != pg_sys::InvalidTransactionId)
                || super::lookup::is_newer_than_snapshot(self.found)
            {
                return Err(Conflict);
            }
            pg_sys::slot_getallattrs(self.found);
            let columns = (*(*self.table).rd_att).natts as usize;
            let values = core::slice::from_raw_parts((*self.found).tts_values, columns);
            let nulls = core::slice::from_raw_parts((*self.found).tts_isnull, columns);
            if self.layout.is_plain() {
                return Ok(Some((values, nulls)));
            }
            // What isn't declared is written back as it was.
            self.row.values.copy_from_slice(values);
            self.row.nulls.copy_from_slice(nulls);
            self.layout.gather(values, nulls, &mut self.declared_row);
            Ok(Some((&self.declared_row.values, &self.declared_row.nulls)))
        }
    }

    /// Replaces the row found last. Its key stays as it is.
    pub fn replace(&mut self, values: &[Datum], nulls: &[bool]) -> Result<(), Conflict> {
        wal::hand_over();
        // SAFETY: the slot still holds the row found last; the new tuple is formed for the same table.
        unsafe {
            let mut tuple = if self.layout.is_plain() {
                heap::form_tuple(self.table, values, nulls)
            } else {
                self.layout.scatter(values, nulls, &mut self.row.values, &mut self.row.nulls);
                heap::form_tuple(self.table, &self.row.values, &self.row.nulls)
            };
            if !self.additions.is_empty() {
                pg_sys::ExecStoreHeapTuple(tuple, self.written, false);
                self.additions.complete(self.target, self.estate, self.written);
                tuple = pg_sys::ExecCopySlotHeapTuple(self.written);
                (*tuple).t_tableOid = (*self.table).rd_id;
            }
            let replaced = version::replace(self.table, (*self.found).tts_tid, tuple);
            if replaced.outcome != pg_sys::TM_Result::TM_Ok {
                return Err(Conflict);
            }
            // Indexes that summarize blocks, which an administrator may add, are told also where no other has to be.
            if !replaced.heap_only || replaced.has_summarizing {
                pg_sys::ExecStoreHeapTuple(tuple, self.written, false);
                let only = replaced.has_summarizing;
                self.additions.while_indexing(|| {
                    version::insert_index_entries(self.target, self.written, self.estate, None, only);
                });
                pg_sys::ExecClearTuple(self.written);
            }
            pg_sys::heap_freetuple(tuple);
            Ok(())
        }
    }

    /// Whether a row may be written that is taken away again before the transaction ends: where the key says at once that it is there
    /// already, and nothing else judges a row. Not where changes are decoded, either: who receives them would have to take two rows of
    /// a key.
    pub fn may_write_twice(&self) -> bool {
        // SAFETY: reads a setting; the table and its indexes are open.
        unsafe {
            let form = &*(*self.index).rd_index;
            let are_plain =
                |index: &pg_sys::IndexInfo| index.ii_Expressions.is_null() && index.ii_Predicate.is_null();
            pg_sys::wal_level < pg_sys::WalLevel::WAL_LEVEL_LOGICAL as i32
                && form.indimmediate
                && form.indnullsnotdistinct
                && self.additions.is_empty()
                && additions::indexes(self.target).all(are_plain)
                && writable::check(self.table, Write::Delete).is_ok()
        }
    }

    /// Takes a row away that an earlier command of this transaction wrote.
    pub fn remove(&mut self, mut place: pg_sys::ItemPointerData) -> Result<(), Conflict> {
        // SAFETY: the table is open with a lock to write.
        unsafe { take::delete(self.table, &raw mut place, pg_sys::GetCurrentCommandId(true)) }
    }

    /// Closes table and index; their locks stay until the transaction ends.
    pub fn close(self) {
        // SAFETY: everything closed here was opened by `open` and is not used again.
        unsafe {
            pg_sys::index_endscan(self.scan);
            pg_sys::ExecDropSingleTupleTableSlot(self.found);
            pg_sys::ExecDropSingleTupleTableSlot(self.written);
            pg_sys::ExecCloseIndices(self.target);
            pg_sys::FreeExecutorState(self.estate);
            pg_sys::index_close(self.index, pg_sys::NoLock as pg_sys::LOCKMODE);
            pg_sys::table_close(self.table, pg_sys::NoLock as pg_sys::LOCKMODE);
        }
    }

    /// Equality of one key column, by the index's own operator.
    unsafe fn set_key(&mut self, place: usize, value: Option<Datum>) {
        let column = place as i16 + 1;
        // SAFETY: the arrays of the open index have an entry for each of its columns.
        unsafe {
            let entry = &raw mut self.keys[place];
            let Some(value) = value else {
                pg_sys::ScanKeyEntryInitialize(
                    entry,
                    (pg_sys::SK_ISNULL | pg_sys::SK_SEARCHNULL) as i32,
                    column,
                    INVALID_STRATEGY,
                    Oid::INVALID,
                    Oid::INVALID,
                    Oid::INVALID,
                    Datum::from(0),
                );
                return;
            };
            // The function is looked up once: it stays the same for the column.
            if (*entry).sk_func.fn_oid != Oid::INVALID && (*entry).sk_flags == 0 {
                (*entry).sk_argument = value;
                return;
            }
            let (family, of) =
                (*(*self.index).rd_opfamily.add(place), *(*self.index).rd_opcintype.add(place));
            let equality = pg_sys::BTEqualStrategyNumber;
            let operator = pg_sys::get_opfamily_member(family, of, of, equality as i16);
            pg_sys::ScanKeyEntryInitialize(
                entry,
                0,
                column,
                equality as u16,
                Oid::INVALID,
                *(*self.index).rd_indcollation.add(place),
                pg_sys::get_opcode(operator),
                value,
            );
        }
    }
}
