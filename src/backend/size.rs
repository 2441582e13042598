//! How much a table holds.

use pgrx::pg_sys::{self, Datum, Oid};

/// Bytes of a table's rows that are alive, by its size and what the statistics know of it; 0 where they know nothing yet.
pub fn live_bytes(table: Oid) -> u64 {
    // SAFETY: functions of one relation's OID that return int8, or null for one that is gone; the relation is open while its
    // blocks are counted.
    unsafe {
        let count = |function| {
            pgrx::direct_function_call::<i64>(function, &[Some(Datum::from(table))]).unwrap_or(0).max(0)
                as f64
        };
        let (live, dead) = (count(pg_sys::pg_stat_get_live_tuples), count(pg_sys::pg_stat_get_dead_tuples));
        let relation = pg_sys::table_open(table, pg_sys::AccessShareLock as pg_sys::LOCKMODE);
        let blocks = pg_sys::RelationGetNumberOfBlocksInFork(relation, pg_sys::ForkNumber::MAIN_FORKNUM);
        pg_sys::table_close(relation, pg_sys::NoLock as pg_sys::LOCKMODE);
        let bytes = f64::from(blocks) * f64::from(pg_sys::BLCKSZ);
        if live > 0.0 { (bytes * live / (live + dead)) as u64 } else { 0 }
    }
}
