//! The planner's statistics of a table, which hold values of its rows.

use super::session;
use pgrx::pg_sys::{self, Oid};

/// Removes the statistics of all of a table's columns: ANALYZE leaves those of a table that has become empty. Holds the lock that
/// ANALYZE takes until the transaction ends.
pub fn remove(table: Oid) {
    session::lock_relation(table, pg_sys::ShareUpdateExclusiveLock);
    // SAFETY: deletes rows of the catalogue, of a table that exists while its lock is held; no attribute number means all.
    unsafe { pg_sys::RemoveStatistics(table, 0) }
}
