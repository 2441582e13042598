//! The lock between ingest and what must not happen while it stores: declaring or rebuilding a rollup, moving a horizon, removing
//! or splitting months. Whoever stores shares it until the transaction ends; it is taken before any other lock.

use crate::backend::lock::{self, Attempts, Busy};
use crate::backend::session;
use pgrx::pg_sys::{self, Oid};

/// The table that the lock is taken on. What is declared there decides what an event is counted in.
const TABLE: &core::ffi::CStr = c"rollup";

/// Keeps the gate open until the transaction ends; waits while it is closed. Gives the table of what is declared.
pub fn enter() -> Oid {
    let table = session::relation(TABLE);
    session::lock_relation(table, pg_sys::RowExclusiveLock);
    table
}

/// Waits for every running ingest, and keeps new ones waiting, until the transaction ends; then takes the locks on `also`,
/// relations that are to be changed, so that nothing is waited for once ingest is locked out. All of them, or none.
pub fn close(also: &[Oid], attempts: Attempts) -> Result<(), Busy> {
    let changed = also.iter().map(|&relation| (relation, pg_sys::AccessExclusiveLock));
    let ingest = (session::relation(TABLE), pg_sys::ShareRowExclusiveLock);
    let wanted: Vec<_> = std::iter::once(ingest).chain(changed).collect();
    let what = if also.is_empty() { "ingest can't be paused" } else { "ingest and reads can't be paused" };
    lock::relations(what, &wanted, attempts)
}
