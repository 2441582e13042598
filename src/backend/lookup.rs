//! Equality look-ups in one index, without SPI.

use super::arena;
use super::heap::{Declared, TableError};
use super::report::Report;
use super::types::OID_EQ;
use super::version::{self, attribute};
use core::ptr;
use pgrx::pg_sys::{self, Datum, Oid};
use std::borrow::Cow;
use std::ffi::CStr;

/// Function OIDs of the equality operators that keys use; they have been the same since these types exist.
const TEXT_EQ: u32 = 67;
const UUID_EQ: u32 = 2956;

/// The type of a key column.
#[derive(Clone, Copy, Debug)]
pub enum Key {
    /// `text COLLATE "C"`.
    Text,
    Uuid,
    Oid,
}

impl Key {
    fn is_of(self, type_oid: Oid) -> bool {
        match self {
            Key::Text => type_oid == pg_sys::TEXTOID,
            Key::Uuid => type_oid == pg_sys::UUIDOID,
            Key::Oid => [pg_sys::OIDOID, pg_sys::REGROLEOID].contains(&type_oid),
        }
    }

    fn equality(self) -> Oid {
        Oid::from(match self {
            Key::Text => TEXT_EQ,
            Key::Uuid => UUID_EQ,
            Key::Oid => OID_EQ,
        })
    }
}

/// Which rows a look-up sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    /// Rows visible to the running statement.
    Statement,
    /// Rows committed by now, and the transaction's own, whatever the statement's snapshot.
    Now,
    /// The same; waits for a transaction that is inserting the key.
    Latest,
}

/// An open index to look keys up in.
pub struct Lookup {
    table: pg_sys::Relation,
    index: pg_sys::Relation,
    slot: *mut pg_sys::TupleTableSlot,
    keys: Vec<pg_sys::ScanKeyData>,
    scan: pg_sys::IndexScanDesc,
    snapshot: pg_sys::Snapshot,
    view: View,
}

impl Lookup {
    /// Opens the primary key of a table; `keys` are the types of its leading columns.
    pub fn open(table: Oid, keys: &[Key], view: View) -> Self {
        // SAFETY: both relations stay open until `close` or the transaction's abort; the snapshot lives in memory
        // that outlasts the scan: the active snapshot is held by the running statement, that of now is registered until
        // `close`, the dirty one is palloc'd.
        unsafe {
            let lock = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
            let table = pg_sys::table_open(table, lock);
            let index = version::primary_key(table);
            let index = if index == Oid::INVALID { ptr::null_mut() } else { pg_sys::index_open(index, lock) };
            check_key(table, index, keys);
            let slot = pg_sys::table_slot_create(table, ptr::null_mut());
            let snapshot = match view {
                View::Statement => pg_sys::GetActiveSnapshot(),
                // A snapshot of now that can be had in parallel mode, too.
                View::Now => pg_sys::RegisterSnapshot(pg_sys::GetCatalogSnapshot((*table).rd_id)),
                View::Latest => {
                    let dirty =
                        pg_sys::palloc0(size_of::<pg_sys::SnapshotData>()).cast::<pg_sys::SnapshotData>();
                    (*dirty).snapshot_type = pg_sys::SnapshotType::SNAPSHOT_DIRTY;
                    dirty
                }
            };
            let keys = keys
                .iter()
                .enumerate()
                .map(|(position, key)| {
                    let mut entry = pg_sys::ScanKeyData::default();
                    pg_sys::ScanKeyInit(
                        &raw mut entry,
                        position as i16 + 1,
                        pg_sys::BTEqualStrategyNumber as u16,
                        key.equality(),
                        Datum::from(0),
                    );
                    entry
                })
                .collect();
            let mut lookup = Self { table, index, slot, keys, scan: ptr::null_mut(), snapshot, view };
            lookup.begin();
            lookup
        }
    }

    /// Raises an error unless the declared columns are where they were made.
    pub fn require(&self, declared: &Declared) {
        // SAFETY: the table is open.
        unsafe { super::heap::require(self.table, declared) }
    }

    /// The same of a table whose last columns an earlier version lacks: of those that it has.
    pub fn require_first(&self, declared: &Declared) {
        let present = declared.columns.len().min(self.columns().max(0) as usize);
        self.require(&Declared { columns: &declared.columns[..present], ..*declared });
    }

    /// Finds the row with these key values; `columns` are read from it, by attribute number from 1.
    pub fn find<const N: usize>(&mut self, values: &[Datum], columns: [i32; N]) -> Option<Row<N>> {
        assert_eq!(values.len(), self.keys.len(), "one value for each key column");
        for (key, value) in self.keys.iter_mut().zip(values) {
            key.sk_argument = *value;
        }
        // SAFETY: scan, slot and snapshot belong together and are open; attribute numbers are the caller's constants.
        unsafe {
            loop {
                pg_sys::index_rescan(
                    self.scan,
                    self.keys.as_mut_ptr(),
                    self.keys.len() as i32,
                    ptr::null_mut(),
                    0,
                );
                if !pg_sys::index_getnext_slot(
                    self.scan,
                    pg_sys::ScanDirection::ForwardScanDirection,
                    self.slot,
                ) {
                    return None;
                }
                if self.view == View::Latest {
                    let (xmin, xmax) = ((*self.snapshot).xmin, (*self.snapshot).xmax);
                    let writer = if xmin != pg_sys::InvalidTransactionId { xmin } else { xmax };
                    if writer != pg_sys::InvalidTransactionId {
                        self.wait_for(writer);
                        continue;
                    }
                }
                let mut row =
                    Row { values: [Datum::from(0); N], nulls: [false; N], inserted_by: inserter(self.slot) };
                pg_sys::slot_getallattrs(self.slot);
                let present = (*(*self.slot).tts_tupleDescriptor).natts;
                for (position, column) in columns.iter().enumerate() {
                    // A column that an earlier version's table lacks is null.
                    if *column > present {
                        row.nulls[position] = true;
                        continue;
                    }
                    let place = *column as usize - 1;
                    let value = *(*self.slot).tts_values.add(place);
                    row.nulls[position] = *(*self.slot).tts_isnull.add(place);
                    // Read in place by the caller, whatever a table's storage parameters make of it.
                    let is_varlena = attribute((*self.table).rd_att, place).attlen == -1;
                    row.values[position] = if is_varlena
                        && !row.nulls[position]
                        && super::value::varlena_in_place(value).is_none()
                    {
                        Datum::from(pg_sys::pg_detoast_datum(value.cast_mut_ptr()))
                    } else {
                        value
                    };
                }
                return Some(row);
            }
        }
    }

    /// How many columns the table has, dropped ones included.
    pub fn columns(&self) -> i32 {
        // SAFETY: the table is open.
        unsafe { (*(*self.table).rd_att).natts }
    }

    /// Closes table and index; their locks stay until the transaction ends.
    pub fn close(self) {
        // SAFETY: everything closed here was opened by `open` and is not used again.
        unsafe {
            pg_sys::index_endscan(self.scan);
            if self.view == View::Now {
                pg_sys::UnregisterSnapshot(self.snapshot);
            }
            pg_sys::ExecDropSingleTupleTableSlot(self.slot);
            pg_sys::index_close(self.index, pg_sys::NoLock as pg_sys::LOCKMODE);
            pg_sys::table_close(self.table, pg_sys::NoLock as pg_sys::LOCKMODE);
        }
    }

    fn begin(&mut self) {
        // SAFETY: table, index and snapshot are open.
        self.scan =
            unsafe { version::begin_index_scan(self.table, self.index, self.snapshot, self.keys.len()) };
    }

    /// Waits until another transaction ends, holding no page of the scan meanwhile.
    unsafe fn wait_for(&mut self, writer: pg_sys::TransactionId) {
        // SAFETY: the scan and slot are open; the scan is begun anew after the wait.
        unsafe {
            let mut place = (*self.slot).tts_tid;
            pg_sys::ExecClearTuple(self.slot);
            pg_sys::index_endscan(self.scan);
            pg_sys::XactLockTableWait(
                writer,
                self.table,
                &raw mut place,
                pg_sys::XLTW_Oper::XLTW_InsertIndex,
            );
        }
        self.begin();
    }
}

/// Raises an error unless a table's primary key begins with columns of these types.
unsafe fn check_key(table: pg_sys::Relation, index: pg_sys::Relation, keys: &[Key]) {
    // SAFETY: both are open, the index unless it is null; it has as many column numbers as columns.
    unsafe {
        let fits = index.as_ref().is_some_and(|index| {
            let form = index.rd_index;
            let numbers = (*form).indkey.values.as_ptr();
            let type_at = |place: usize| {
                let number = *numbers.add(place);
                (number > 0).then(|| attribute((*table).rd_att, number as usize - 1).atttypid)
            };
            keys.len() <= (*form).indnkeyatts as usize
                && (0..keys.len()).all(|place| type_at(place).is_some_and(|found| keys[place].is_of(found)))
        });
        if !fits {
            let error = TableError::Column {
                table: super::heap::name(table),
                problem: "its primary key is missing, or has other columns".into(),
            };
            Report::from(error).raise();
        }
    }
}

/// The transaction that inserted the row in a slot for heap tuples; the frozen one where that was long ago.
unsafe fn inserter(slot: *mut pg_sys::TupleTableSlot) -> pg_sys::TransactionId {
    // SAFETY: `table_slot_create` made a slot for heap tuples, and it holds one.
    unsafe {
        let header = &*(*(*slot.cast::<pg_sys::HeapTupleTableSlot>()).tuple).t_data;
        if u32::from(header.t_infomask) & pg_sys::HEAP_XMIN_FROZEN == pg_sys::HEAP_XMIN_FROZEN {
            return pg_sys::FrozenTransactionId;
        }
        header.t_choice.t_heap.t_xmin
    }
}

/// Whether the running transaction's snapshot is fixed and older than the row in a slot.
///
/// # Safety
/// The slot is one for heap tuples and holds one.
pub unsafe fn is_newer_than_snapshot(slot: *mut pg_sys::TupleTableSlot) -> bool {
    // SAFETY: the caller's promise.
    unsafe { is_newer(inserter(slot)) }
}

/// Whether the running transaction's snapshot is fixed and older than what another transaction inserted. Always false at
/// read committed.
fn is_newer(inserted_by: pg_sys::TransactionId) -> bool {
    // SAFETY: reads the transaction's own state; a transaction snapshot exists at these isolation levels.
    unsafe {
        pg_sys::XactIsoLevel >= pg_sys::XACT_REPEATABLE_READ as i32
            && !pg_sys::TransactionIdIsCurrentTransactionId(inserted_by)
            && pg_sys::XidInMVCCSnapshot(inserted_by, pg_sys::GetTransactionSnapshot())
    }
}

/// Columns of a found row. By-reference values are valid until the next `find`.
pub struct Row<const N: usize> {
    pub values: [Datum; N],
    pub nulls: [bool; N],
    inserted_by: pg_sys::TransactionId,
}

impl<const N: usize> Row<N> {
    /// A value, by its place among those that were asked for; `None` where it is null.
    fn value(&self, place: usize) -> Option<Datum> {
        (!self.nulls[place]).then(|| self.values[place])
    }

    /// A text; `find` has detoasted it.
    pub fn text(&self, place: usize) -> Option<&str> {
        self.value(place).map(arena::read_text)
    }

    /// A bytea of known length.
    pub fn fixed<const M: usize>(&self, place: usize) -> Option<[u8; M]> {
        self.value(place).map(arena::read_fixed)
    }

    /// The bytes of a bytea; `find` has detoasted it.
    pub fn bytes(&self, place: usize) -> Option<&[u8]> {
        self.value(place).map(arena::read_bytes)
    }

    /// An int4.
    pub fn int(&self, place: usize) -> Option<i32> {
        self.value(place).map(|value| value.value() as i32)
    }

    /// An int8, or a time in microseconds since 2000.
    pub fn long(&self, place: usize) -> Option<i64> {
        self.value(place).map(|value| value.value() as i64)
    }

    /// Whether a boolean is true.
    pub fn is_true(&self, place: usize) -> bool {
        self.value(place).is_some_and(|value| value.value() != 0)
    }

    /// A name.
    pub fn name(&self, place: usize) -> Option<Cow<'_, str>> {
        // SAFETY: a name ends in NUL, and lives as long as the row.
        self.value(place).map(|name| unsafe { CStr::from_ptr(name.cast_mut_ptr()) }.to_string_lossy())
    }

    /// Whether the running transaction's snapshot is fixed and older than the row. Always false at read committed.
    pub fn is_newer_than_snapshot(&self) -> bool {
        is_newer(self.inserted_by)
    }
}
