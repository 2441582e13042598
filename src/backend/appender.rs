//! Bulk insert into one heap table and its indexes, as COPY does it: below SPI and the planner.

use super::additions::{self, Additions};
use super::changes::Heard;
use super::heap::{self, Declared, Layout, Row, TableError};
use super::version;
use super::wal;
use super::writable::{self, Write};
use core::ptr;
use pgrx::pg_sys::{self, Datum, Oid};

/// Rows buffered before they are written; COPY uses the same number.
const BUFFERED_ROWS: usize = 1000;

/// Slots from which on they have a descriptor of their own: each slot of the relation's is noted with the transaction's
/// resources, where thousands take long to be found again. A call of a few rows needs no copy.
const FEW_SLOTS: usize = 16;

/// Whether every row so far had unique keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Unique {
    Yes,
    /// A key is there already, or another transaction is inserting it. The caller rolls its subtransaction back.
    Clash,
}

/// An open table to append rows to. Row security isn't consulted: the caller has checked the scope.
pub struct Appender {
    relation: pg_sys::Relation,
    estate: *mut pg_sys::EState,
    target: *mut pg_sys::ResultRelInfo,
    slots: Vec<*mut pg_sys::TupleTableSlot>,
    /// The descriptor that further slots get.
    descriptor: pg_sys::TupleDesc,
    used: usize,
    /// Null until so much is written that filling pages of its own is worth it.
    bulk: pg_sys::BulkInsertState,
    /// Holds the buffered tuples; reset with each write.
    tuples: pg_sys::MemoryContext,
    layout: Layout,
    additions: Additions,
    /// A row of the table, where it has other columns than the declared ones.
    row: Row,
    /// Rows written before those that are buffered.
    written: usize,
    /// Rows whose key may exist already, where they are to be noted instead of ending the work.
    noted: Option<Vec<Clash>>,
}

/// A row that was written although its key may exist already.
#[derive(Clone, Copy)]
pub struct Clash {
    /// Its number among the rows that were pushed, from 0.
    pub row: usize,
    /// Where it lies.
    pub place: pg_sys::ItemPointerData,
}

/// What the executor's index functions need of an open relation, its indices open, too; and what had been heard of changes by then.
///
/// # Safety
/// The relation stays open, with a lock to write, for as long as the result is used.
pub(super) unsafe fn result_relation(
    relation: pg_sys::Relation,
) -> (*mut pg_sys::EState, *mut pg_sys::ResultRelInfo, Heard) {
    // SAFETY: both are palloc'd here; the caller keeps the relation open.
    unsafe {
        let estate = pg_sys::CreateExecutorState();
        let target = pg_sys::palloc0(size_of::<pg_sys::ResultRelInfo>()).cast::<pg_sys::ResultRelInfo>();
        (*target).type_ = pg_sys::NodeTag::T_ResultRelInfo;
        // No place in a range table: there is none, and a violated constraint would look for it.
        pg_sys::InitResultRelInfo(target, relation, 0, ptr::null_mut(), 0);
        let heard = additions::open_indexes(target);
        (estate, target, heard)
    }
}

impl Appender {
    /// Opens a table with the lock of an INSERT.
    pub fn open(table: Oid, declared: &Declared) -> Result<Self, TableError> {
        // SAFETY: the relation stays open, with its lock, until `finish`, or until the transaction aborts;
        // pointers read from the relcache entry are valid for as long.
        unsafe {
            let relation = heap::open(table, declared.table, pg_sys::RowExclusiveLock)?;
            writable::check(relation, Write::Append)?;
            let layout = Layout::of(relation, declared)?;
            let (estate, target, heard) = result_relation(relation);
            heap::check_keys(target, declared, &layout)?;
            let additions = Additions::of(target, &layout, estate, heard)?;
            let tuples = pg_sys::AllocSetContextCreateInternal(
                pg_sys::CurrentMemoryContext,
                c"pg_tally appended rows".as_ptr(),
                pg_sys::ALLOCSET_DEFAULT_MINSIZE as usize,
                pg_sys::ALLOCSET_DEFAULT_INITSIZE as usize,
                pg_sys::ALLOCSET_DEFAULT_MAXSIZE as usize,
            );
            Ok(Self {
                relation,
                estate,
                target,
                slots: Vec::new(),
                descriptor: (*relation).rd_att,
                used: 0,
                bulk: ptr::null_mut(),
                tuples,
                row: layout.row(),
                layout,
                additions,
                written: 0,
                noted: None,
            })
        }
    }

    /// Appends all rows whatever keys exist, and returns with `finish_noting` which of them the caller has to take away again.
    pub fn noting(mut self) -> Self {
        self.noted = Some(Vec::new());
        self
    }

    /// Buffers one row. `values` and `nulls` have one entry for each declared column, in the order of their declaration.
    pub fn push(&mut self, values: &[Datum], nulls: &[bool]) -> Unique {
        // SAFETY: the relation is open, and so is its descriptor.
        unsafe {
            if self.used == self.slots.len() {
                if self.slots.len() == FEW_SLOTS {
                    self.descriptor = pg_sys::CreateTupleDescCopyConstr((*self.relation).rd_att);
                }
                self.slots.push(pg_sys::MakeSingleTupleTableSlot(
                    self.descriptor,
                    &raw const pg_sys::TTSOpsHeapTuple,
                ));
            }
            let outer = pg_sys::MemoryContextSwitchTo(self.tuples);
            let tuple = if self.layout.is_plain() {
                heap::form_tuple(self.relation, values, nulls)
            } else {
                self.layout.scatter(values, nulls, &mut self.row.values, &mut self.row.nulls);
                heap::form_tuple(self.relation, &self.row.values, &self.row.nulls)
            };
            pg_sys::MemoryContextSwitchTo(outer);
            let slot = self.slots[self.used];
            pg_sys::ExecStoreHeapTuple(tuple, slot, false);
        }
        self.used += 1;
        if self.used == BUFFERED_ROWS { self.write() } else { Unique::Yes }
    }

    /// As `finish`, after `noting`.
    pub fn finish_noting(mut self) -> Vec<Clash> {
        let _ = self.write();
        let noted = self.noted.take().unwrap_or_default();
        let _ = self.finish();
        noted
    }

    /// Writes what is buffered and closes the table, keeping its lock until the transaction ends.
    pub fn finish(mut self) -> Unique {
        let unique = self.write();
        let has_own_descriptor = self.slots.len() > FEW_SLOTS;
        // SAFETY: everything closed here was opened by `open` and is not used again.
        unsafe {
            if !self.bulk.is_null() {
                pg_sys::FreeBulkInsertState(self.bulk);
            }
            for slot in self.slots {
                pg_sys::ExecDropSingleTupleTableSlot(slot);
            }
            if has_own_descriptor {
                pg_sys::FreeTupleDesc(self.descriptor);
            }
            pg_sys::ExecCloseIndices(self.target);
            pg_sys::FreeExecutorState(self.estate);
            pg_sys::table_close(self.relation, pg_sys::NoLock as pg_sys::LOCKMODE);
            pg_sys::MemoryContextDelete(self.tuples);
        }
        unique
    }

    fn write(&mut self) -> Unique {
        if self.used == 0 {
            return Unique::Yes;
        }
        let mut unique = Unique::Yes;
        // SAFETY: `used` slots hold tuples of this relation, in `tuples`, until the reset at the end.
        unsafe {
            if self.bulk.is_null() && self.used > FEW_SLOTS {
                self.bulk = pg_sys::GetBulkInsertState();
            }
            let outer = pg_sys::MemoryContextSwitchTo(self.tuples);
            self.additions.complete_new(self.target, self.estate, &self.slots[..self.used]);
            pg_sys::MemoryContextSwitchTo(outer);
            pg_sys::heap_multi_insert(
                self.relation,
                self.slots.as_mut_ptr(),
                self.used as i32,
                pg_sys::GetCurrentCommandId(true),
                0,
                self.bulk,
            );
            wal::hand_over();
            if (*self.target).ri_NumIndices > 0 {
                let mut noted = self.noted.take();
                unique = self.additions.while_indexing(|| {
                    for (position, &slot) in self.slots[..self.used].iter().enumerate() {
                        wal::hand_over();
                        if self.index(slot) == Unique::Yes {
                            continue;
                        }
                        let Some(noted) = &mut noted else { return Unique::Clash };
                        noted.push(Clash { row: self.written + position, place: (*slot).tts_tid });
                    }
                    Unique::Yes
                });
                self.noted = noted;
            }
            for &slot in &self.slots[..self.used] {
                pg_sys::ExecClearTuple(slot);
            }
            self.written += self.used;
            self.used = 0;
            pg_sys::MemoryContextReset(self.tuples);
        }
        unique
    }

    /// Inserts one written row's index entries. A key that may exist already is reported, not raised and not waited for.
    unsafe fn index(&self, slot: *mut pg_sys::TupleTableSlot) -> Unique {
        let mut clash = false;
        // SAFETY: as for `write`; the executor state is this appender's own.
        unsafe {
            version::insert_index_entries(self.target, slot, self.estate, Some(&mut clash), false);
            let context = (*self.estate).es_per_tuple_exprcontext;
            if !context.is_null() {
                pg_sys::MemoryContextReset((*context).ecxt_per_tuple_memory);
            }
        }
        if clash { Unique::Clash } else { Unique::Yes }
    }
}
