//! How much a table holds.

use core::ptr;
use pgrx::pg_sys::{self, Datum, Oid};

/// Bytes that a row is taken to have where rows are counted alone.
const ROW: u64 = 128;

/// Bytes of a table's rows that are alive, as the statistics count them: what other sessions did is some seconds late, what this
/// one did isn't. No more than the table's size, which says nothing of what is free in it. `None` where the server doesn't count.
pub fn live_bytes(table: Oid) -> Option<u64> {
    // SAFETY: reads a setting; then functions of one relation's OID that return int8, or null for one that is gone.
    let live = unsafe {
        if !pg_sys::pgstat_track_counts {
            return None;
        }
        let count =
            |function| pgrx::direct_function_call::<i64>(function, &[Some(Datum::from(table))]).unwrap_or(0);
        count(pg_sys::pg_stat_get_live_tuples) + count(pg_sys::pg_stat_get_xact_tuples_inserted)
            - count(pg_sys::pg_stat_get_xact_tuples_deleted)
    };
    Some((live.max(0) as u64 * ROW).min(u64::from(blocks(table)) * u64::from(pg_sys::BLCKSZ)))
}

/// Has counts be read anew: a transaction keeps those that it has read.
pub fn forget_counts() {
    // SAFETY: drops a cache of this backend's.
    unsafe { pg_sys::pgstat_clear_snapshot() }
}

/// Whether a table has a row that is committed, or this transaction's own.
pub fn has_rows(table: Oid) -> bool {
    // SAFETY: relation, snapshot and scan are open until they are closed here; on error Postgres releases them.
    unsafe {
        let relation = pg_sys::table_open(table, pg_sys::AccessShareLock as pg_sys::LOCKMODE);
        if (*(*relation).rd_rel).relam != pg_sys::HEAP_TABLE_AM_OID {
            pg_sys::table_close(relation, pg_sys::NoLock as pg_sys::LOCKMODE);
            return true;
        }
        let snapshot = pg_sys::RegisterSnapshot(pg_sys::GetCatalogSnapshot(table));
        let flags = pg_sys::ScanOptions::SO_TYPE_SEQSCAN | pg_sys::ScanOptions::SO_ALLOW_PAGEMODE;
        let scan = pg_sys::heap_beginscan(relation, snapshot, 0, ptr::null_mut(), ptr::null_mut(), flags);
        let found = !pg_sys::heap_getnext(scan, pg_sys::ScanDirection::ForwardScanDirection).is_null();
        pg_sys::heap_endscan(scan);
        pg_sys::UnregisterSnapshot(snapshot);
        pg_sys::table_close(relation, pg_sys::NoLock as pg_sys::LOCKMODE);
        found
    }
}

fn blocks(table: Oid) -> u32 {
    // SAFETY: the relation is open while its blocks are counted.
    unsafe {
        let relation = pg_sys::table_open(table, pg_sys::AccessShareLock as pg_sys::LOCKMODE);
        let blocks = pg_sys::RelationGetNumberOfBlocksInFork(relation, pg_sys::ForkNumber::MAIN_FORKNUM);
        pg_sys::table_close(relation, pg_sys::NoLock as pg_sys::LOCKMODE);
        blocks
    }
}
