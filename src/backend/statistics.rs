//! The planner's statistics of a table, which hold values of its rows.

use super::{list, session};
use pgrx::pg_sys::{self, Oid};

/// Removes the statistics of all of a table's columns, those of its indexes' expressions, and those that somebody declared over some of them: ANALYZE
/// leaves those of a table that has become empty. Holds the lock that ANALYZE takes until the transaction ends.
pub fn remove(table: Oid) {
    session::lock_relation(table, pg_sys::ShareUpdateExclusiveLock);
    // SAFETY: deletes rows of the catalogue, of a table that exists while its lock is held; no attribute number means all.
    unsafe {
        pg_sys::RemoveStatistics(table, 0);
        let relation = pg_sys::table_open(table, pg_sys::NoLock as pg_sys::LOCKMODE);
        for index in list::ids(pg_sys::RelationGetIndexList(relation)) {
            pg_sys::RemoveStatistics(index, 0);
        }
        for statistics in list::ids(pg_sys::RelationGetStatExtList(relation)) {
            for with_children in [false, true] {
                pg_sys::RemoveStatisticsDataById(statistics, with_children);
            }
        }
        pg_sys::table_close(relation, pg_sys::NoLock as pg_sys::LOCKMODE);
    }
}
