//! Transactions: those that sessions have open, and what became of one.

use super::version;
use pgrx::pg_sys;

/// Process and start of the open transaction (microseconds since 2000-01-01 UTC) of each session of this database.
pub fn open() -> Vec<(i32, i64)> {
    let mut found = Vec::new();
    // SAFETY: the entries are this backend's own copy, numbered from 1, and stay until the transaction ends.
    unsafe {
        for place in 1..=pg_sys::pgstat_fetch_stat_numbackends() {
            let entry = version::session_entry(place);
            if entry.is_null() {
                continue;
            }
            let status = &(*entry).backendStatus;
            if status.st_databaseid == pg_sys::MyDatabaseId && status.st_xact_start_timestamp != 0 {
                found.push((status.st_procpid, status.st_xact_start_timestamp));
            }
        }
    }
    found
}

/// Number of the running transaction, which gets one if it has none yet.
pub fn current() -> pg_sys::TransactionId {
    // SAFETY: inside a transaction.
    unsafe { pg_sys::GetCurrentTransactionId() }
}

/// Whether it is the running transaction, or one inside it.
pub fn is_running(transaction: u32) -> bool {
    // SAFETY: reads transaction state.
    unsafe { pg_sys::TransactionIdIsCurrentTransactionId(transaction.into()) }
}

/// Whether what a transaction did holds: it is the running one, or committed. Its number is younger than the oldest whose status
/// is kept.
pub fn holds(transaction: pg_sys::TransactionId) -> bool {
    // SAFETY: reads transaction state.
    unsafe {
        pg_sys::TransactionIdIsCurrentTransactionId(transaction)
            || pg_sys::TransactionIdDidCommit(transaction)
    }
}
