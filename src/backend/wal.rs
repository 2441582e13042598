//! The write-ahead log that this backend writes.

use core::cell::Cell;
use pgrx::pg_sys;

/// So many bytes are handed over at a time, of this backend or of others beside it.
const STEP: u64 = 512 << 10;

thread_local! {
    /// Up to where it was.
    static HANDED_OVER: Cell<u64> = const { Cell::new(0) };
}

/// Has the WAL writer flush what was written so far, where that is much. Else nobody does before a transaction commits, perhaps one that
/// wrote little and then waits for all of it.
pub fn hand_over() {
    // SAFETY: reads where the last record of this backend begins.
    let written = unsafe { pg_sys::ProcLastRecPtr };
    if written < HANDED_OVER.get() + STEP {
        return;
    }
    HANDED_OVER.set(written);
    // SAFETY: notes that in shared memory, and wakes a process.
    unsafe { pg_sys::XLogSetAsyncXactLSN(written) }
}
