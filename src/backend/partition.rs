//! Finding the leaf partition of `tally.events` for a time and a tenant.

use super::arena;
use pgrx::pg_sys::{self, Oid};
use std::cell::RefCell;
use std::collections::HashMap;

const LOCK: pg_sys::LOCKMODE = pg_sys::RowExclusiveLock as pg_sys::LOCKMODE;
const READ_LOCK: pg_sys::LOCKMODE = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
const NO_LOCK: pg_sys::LOCKMODE = pg_sys::NoLock as pg_sys::LOCKMODE;

/// The partitions of a table that is range-partitioned by one `timestamptz` column, of which some are partitioned again, by
/// lists of one `text` column.
pub struct Routing {
    relation: pg_sys::Relation,
    lists: RefCell<HashMap<Oid, List>>,
}

/// The partitions of a part that is partitioned by a list.
struct List {
    by_value: HashMap<String, Oid>,
    rest: Option<Oid>,
}

impl List {
    fn read(table: Oid) -> Self {
        // SAFETY: the relation is open while its bounds are read; a list-partitioned table's `datums` and `indexes` have
        // `ndatums` entries, of one column, texts that Postgres copied from constants: neither compressed nor out of line.
        unsafe {
            let relation = pg_sys::table_open(table, LOCK);
            let descriptor = &*pg_sys::RelationGetPartitionDesc(relation, true);
            let mut list = Self { by_value: HashMap::new(), rest: None };
            if let Some(bounds) = descriptor.boundinfo.as_ref() {
                let part = |index: i32| (index >= 0).then(|| *descriptor.oids.add(index as usize));
                for bound in 0..bounds.ndatums as usize {
                    if let Some(oid) = part(*bounds.indexes.add(bound)) {
                        let value = arena::read_text(*(*bounds.datums.add(bound)));
                        list.by_value.insert(value.to_owned(), oid);
                    }
                }
                list.rest = part(bounds.default_index);
            }
            pg_sys::table_close(relation, NO_LOCK);
            list
        }
    }
}

impl Routing {
    /// Opens the partitioned table with the lock of an INSERT.
    pub fn open(table: Oid) -> Self {
        // SAFETY: the relation stays open until `close` or the transaction's abort.
        Self { relation: unsafe { pg_sys::table_open(table, LOCK) }, lists: RefCell::default() }
    }

    /// Opens it with the lock of a SELECT, to ask `covers` alone.
    pub fn open_to_read(table: Oid) -> Self {
        // SAFETY: as in `open`.
        Self { relation: unsafe { pg_sys::table_open(table, READ_LOCK) }, lists: RefCell::default() }
    }

    /// The leaf for a row of `time` (microseconds since 2000-01-01 UTC) and this value of the list's column; `None` where there
    /// is none yet.
    pub fn find(&self, time: i64, value: &str) -> Option<Oid> {
        let (part, is_leaf) = self.at(time)?;
        if is_leaf {
            return Some(part);
        }
        let mut lists = self.lists.borrow_mut();
        let list = lists.entry(part).or_insert_with(|| List::read(part));
        list.by_value.get(value).copied().or(list.rest)
    }

    /// Whether there is a partition for `time`.
    pub fn covers(&self, time: i64) -> bool {
        self.at(time).is_some()
    }

    /// The partition for `time`, and whether it isn't partitioned again.
    fn at(&self, time: i64) -> Option<(Oid, bool)> {
        // SAFETY: the descriptor and its bounds live in the relcache while the relation is open. A range-partitioned
        // table's `datums` and `kind` have `ndatums` entries of one column each, `indexes` has `ndatums + 1`.
        unsafe {
            let descriptor = &*pg_sys::RelationGetPartitionDesc(self.relation, true);
            let bounds = descriptor.boundinfo.as_ref()?;
            let is_above = |bound: usize| match *(*bounds.kind.add(bound)) {
                pg_sys::PartitionRangeDatumKind::PARTITION_RANGE_DATUM_MINVALUE => false,
                pg_sys::PartitionRangeDatumKind::PARTITION_RANGE_DATUM_MAXVALUE => true,
                _ => (*(*bounds.datums.add(bound))).value() as i64 > time,
            };
            let (mut low, mut high) = (0, bounds.ndatums as usize);
            while low < high {
                let middle = low.midpoint(high);
                if is_above(middle) { high = middle } else { low = middle + 1 }
            }
            let part = *bounds.indexes.add(low);
            let part = if part >= 0 { part } else { bounds.default_index };
            (part >= 0).then(|| (*descriptor.oids.add(part as usize), *descriptor.is_leaf.add(part as usize)))
        }
    }

    /// Closes the table; its lock stays until the transaction ends.
    pub fn close(self) {
        // SAFETY: opened by `open`, not used again.
        unsafe { pg_sys::table_close(self.relation, NO_LOCK) }
    }
}
