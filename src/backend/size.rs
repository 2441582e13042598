//! How much a table holds.

use super::version;
use core::ptr;
use pgrx::pg_sys::{self, Datum, Oid};

/// Bytes that a row is taken to have where rows are counted alone.
pub const ROW: u64 = 128;
/// Pages that are read to count rows, for each that they would fill.
const READ_PAGES: u64 = 2;

/// Bytes of a table's rows that are alive, as the statistics count them: what other sessions did is some seconds late, what this
/// one did isn't. No more than the table's size, which says nothing of what is free in it. `None` where the server doesn't count.
pub fn live_bytes(table: Oid) -> Option<u64> {
    // SAFETY: reads a setting; then a function of one relation's OID that returns int8, or null for one that is gone.
    let reported = unsafe {
        if !pg_sys::pgstat_track_counts {
            return None;
        }
        pgrx::direct_function_call::<i64>(pg_sys::pg_stat_get_live_tuples, &[Some(Datum::from(table))])
    };
    let counted = Counted::of(table);
    let live = reported.unwrap_or(0) + counted.unreported + counted.own;
    Some((live.max(0) as u64 * ROW).min(u64::from(blocks(table)) * u64::from(pg_sys::BLCKSZ)))
}

/// Bytes of those rows among them that this transaction brought, which nobody else sees before it ends.
pub fn own_bytes(table: Oid) -> u64 {
    Counted::of(table).own.max(0) as u64 * ROW
}

/// Rows, fewer those deleted, that the statistics don't have from this session yet. What was rolled back is in neither number.
struct Counted {
    /// Of earlier transactions.
    unreported: i64,
    /// Of this one.
    own: i64,
}

impl Counted {
    fn of(table: Oid) -> Self {
        // SAFETY: the relation is open; its counts stay until they are reported, after the transaction's end, and those of the
        // running transaction, one entry for each level of subtransactions, until that ends.
        unsafe {
            let relation = pg_sys::table_open(table, pg_sys::AccessShareLock as pg_sys::LOCKMODE);
            if (*relation).pgstat_info.is_null() && (*relation).pgstat_enabled {
                pg_sys::pgstat_assoc_relation(relation);
            }
            let mut counted = Self { unreported: 0, own: 0 };
            if let Some(counts) = (*relation).pgstat_info.as_ref() {
                counted.unreported = version::unreported_rows(counts);
                let mut level = counts.trans;
                while let Some(count) = level.as_ref() {
                    counted.own += count.tuples_inserted - count.tuples_deleted;
                    level = count.upper;
                }
            }
            pg_sys::table_close(relation, pg_sys::NoLock as pg_sys::LOCKMODE);
            counted
        }
    }
}

/// Has counts be read anew: a transaction keeps those that it has read.
pub fn forget_counts() {
    // SAFETY: drops a cache of this backend's.
    unsafe { pg_sys::pgstat_clear_snapshot() }
}

/// Whether a table has a row that is committed, or this transaction's own.
pub fn has_rows(table: Oid) -> bool {
    has_more_than(table, 0, None)
}

/// Whether such rows make up more of a table than so many bytes. Of a table with many pages a part is read, and then the statistics say.
pub fn fills(table: Oid, bytes: u64) -> bool {
    let pages = u32::try_from(READ_PAGES * bytes / u64::from(pg_sys::BLCKSZ)).unwrap_or(u32::MAX);
    has_more_than(table, bytes / ROW, Some(pages))
        || (blocks(table) > pages && live_bytes(table).is_some_and(|live| live > bytes))
}

/// Whether a table has more than so many rows that are committed, or this transaction's own, in so many pages.
fn has_more_than(table: Oid, rows: u64, pages: Option<u32>) -> bool {
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
        if let Some(pages) = pages {
            let all = pg_sys::RelationGetNumberOfBlocksInFork(relation, pg_sys::ForkNumber::MAIN_FORKNUM);
            pg_sys::heap_setscanlimits(scan, 0, pages.min(all));
        }
        let forward = pg_sys::ScanDirection::ForwardScanDirection;
        let found = (0..=rows).all(|_| !pg_sys::heap_getnext(scan, forward).is_null());
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
