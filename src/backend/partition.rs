//! Finding the leaf partition of `tally.events` for a time.

use pgrx::pg_sys::{self, Oid};

/// The partitions of a table that is range-partitioned by one `timestamptz` column.
pub struct Routing {
    relation: pg_sys::Relation,
}

impl Routing {
    /// Opens the partitioned table with the lock of an INSERT.
    pub fn open(table: Oid) -> Self {
        // SAFETY: the relation stays open until `close` or the transaction's abort.
        let relation = unsafe { pg_sys::table_open(table, pg_sys::RowExclusiveLock as pg_sys::LOCKMODE) };
        Self { relation }
    }

    /// The partition that holds `time` (microseconds since 2000-01-01 UTC); `None` where there is none yet.
    pub fn find(&self, time: i64) -> Option<Oid> {
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
            (part >= 0).then(|| *descriptor.oids.add(part as usize))
        }
    }

    /// Closes the table; its lock stays until the transaction ends.
    pub fn close(self) {
        // SAFETY: opened by `open`, not used again.
        unsafe { pg_sys::table_close(self.relation, pg_sys::NoLock as pg_sys::LOCKMODE) }
    }
}
