//! Hearing that a transaction is about to commit, that it or a part of it has ended, and that the session ends.

use core::cell::Cell;
use core::ffi::{c_int, c_void};
use pgrx::pg_sys;
use pgrx::prelude::*;

/// What to call.
#[derive(Clone, Copy)]
pub struct Listener {
    /// Just before a transaction commits: it may still write, and an error undoes it.
    pub before_commit: fn(),
    /// Before it is prepared: an error undoes it.
    pub before_prepare: fn(),
    /// After the transaction ended; says whether it committed. Nothing may fail, nor be looked up.
    pub ended: fn(bool),
    /// When a part of it, of this nesting, ends; says whether its work stays. The same.
    pub part_ended: fn(i32, bool),
}

thread_local! {
    static LISTENER: Cell<Option<Listener>> = const { Cell::new(None) };
}

/// Has a listener called from now on. There is room for one.
pub fn listen(listener: Listener) {
    if LISTENER.replace(Some(listener)).is_none() {
        // SAFETY: the callbacks are plain functions and stay registered; this happens once a backend.
        unsafe {
            pg_sys::RegisterXactCallback(Some(transaction), core::ptr::null_mut());
            pg_sys::RegisterSubXactCallback(Some(part), core::ptr::null_mut());
        }
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn transaction(event: pg_sys::XactEvent::Type, _argument: *mut c_void) {
    let Some(listener) = LISTENER.get() else { return };
    match event {
        pg_sys::XactEvent::XACT_EVENT_PRE_COMMIT => (listener.before_commit)(),
        pg_sys::XactEvent::XACT_EVENT_PRE_PREPARE => (listener.before_prepare)(),
        pg_sys::XactEvent::XACT_EVENT_COMMIT | pg_sys::XactEvent::XACT_EVENT_PREPARE => {
            (listener.ended)(true)
        }
        pg_sys::XactEvent::XACT_EVENT_ABORT => (listener.ended)(false),
        // A parallel worker's.
        pg_sys::XactEvent::XACT_EVENT_PARALLEL_COMMIT => (listener.ended)(true),
        pg_sys::XactEvent::XACT_EVENT_PARALLEL_ABORT => (listener.ended)(false),
        _ => {}
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn part(
    event: pg_sys::SubXactEvent::Type,
    _part: pg_sys::SubTransactionId,
    _parent: pg_sys::SubTransactionId,
    _argument: *mut c_void,
) {
    let Some(listener) = LISTENER.get() else { return };
    // SAFETY: reads backend state.
    let nesting = unsafe { pg_sys::GetCurrentTransactionNestLevel() };
    match event {
        pg_sys::SubXactEvent::SUBXACT_EVENT_COMMIT_SUB => (listener.part_ended)(nesting, true),
        pg_sys::SubXactEvent::SUBXACT_EVENT_ABORT_SUB => (listener.part_ended)(nesting, false),
        _ => {}
    }
}

thread_local! {
    static SESSION_END: Cell<Option<fn()>> = const { Cell::new(None) };
}

/// Has `ends` called when this session ends; nothing may fail then, nor be looked up. Asked by the session itself: what the postmaster
/// asks for counts for none that it starts. There is room for one.
pub fn at_session_end(ends: fn()) {
    if SESSION_END.replace(Some(ends)).is_none() {
        // SAFETY: the callback is a plain function and stays registered; this happens once a backend.
        unsafe { pg_sys::before_shmem_exit(Some(exit), pg_sys::Datum::from(0)) };
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn exit(_code: c_int, _argument: pg_sys::Datum) {
    if let Some(ends) = SESSION_END.get() {
        ends();
    }
}

/// Nesting of the running (sub)transaction, 1 for the transaction itself.
pub fn nesting() -> i32 {
    // SAFETY: reads backend state.
    unsafe { pg_sys::GetCurrentTransactionNestLevel() }
}

/// Whether a transaction is running that hasn't failed.
pub fn is_running() -> bool {
    // SAFETY: reads backend state.
    unsafe { pg_sys::IsTransactionState() }
}

/// Whether the transaction has written something.
pub fn has_written() -> bool {
    // SAFETY: reads backend state.
    unsafe { pg_sys::GetTopTransactionIdIfAny() != pg_sys::InvalidTransactionId }
}

/// Whether the transaction may write.
pub fn may_write() -> bool {
    // SAFETY: reads backend state.
    unsafe {
        !pg_sys::XactReadOnly
            && !pg_sys::RecoveryInProgress()
            && !pg_sys::IsInParallelMode()
            && pg_sys::ParallelWorkerNumber < 0
    }
}

unsafe extern "C-unwind" {
    /// Postgres' own.
    fn IsLogicalWorker() -> bool;
}

/// Whether the process applies what logical replication brings.
pub fn is_replicated() -> bool {
    // SAFETY: reads backend state.
    unsafe { IsLogicalWorker() }
}

/// Whether the server is a standby, or recovers.
pub fn in_recovery() -> bool {
    // SAFETY: reads shared memory.
    unsafe { pg_sys::RecoveryInProgress() }
}

/// Number of the running transaction; it gets one.
pub fn number() -> u64 {
    // SAFETY: inside a transaction that may write.
    unsafe { pg_sys::GetTopFullTransactionId().value }
}

/// The cluster's system identifier.
pub fn cluster() -> u64 {
    // SAFETY: reads the control file's copy in shared memory.
    unsafe { pg_sys::GetSystemIdentifier() }
}
