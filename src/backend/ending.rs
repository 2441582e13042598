//! Hearing that a transaction, or a part of it, has ended.

use core::cell::Cell;
use core::ffi::c_void;
use pgrx::pg_sys;

/// How many transactions lie around each other: 1, and one more for each savepoint or exception block.
pub fn nesting() -> i32 {
    // SAFETY: reads backend state.
    unsafe { pg_sys::GetCurrentTransactionNestLevel() }
}

/// Called with the nesting of what is undone, 0 for everything, also once the transaction has committed.
type Undone = fn(i32);

thread_local! {
    static UNDONE: Cell<Option<Undone>> = const { Cell::new(None) };
}

/// Has `undone` called at each end of a transaction and each undoing of a part, from now on. It touches nothing but the
/// backend's own memory. There is room for one.
pub fn watch(undone: Undone) {
    if UNDONE.replace(Some(undone)).is_none() {
        // SAFETY: the callbacks are plain functions and stay registered; this happens once a backend.
        unsafe {
            pg_sys::RegisterXactCallback(Some(transaction), core::ptr::null_mut());
            pg_sys::RegisterSubXactCallback(Some(part), core::ptr::null_mut());
        }
    }
}

extern "C-unwind" fn transaction(event: pg_sys::XactEvent::Type, _: *mut c_void) {
    if matches!(
        event,
        pg_sys::XactEvent::XACT_EVENT_ABORT
            | pg_sys::XactEvent::XACT_EVENT_COMMIT
            | pg_sys::XactEvent::XACT_EVENT_PREPARE
    ) && let Some(undone) = UNDONE.get()
    {
        undone(0);
    }
}

extern "C-unwind" fn part(
    event: pg_sys::SubXactEvent::Type,
    _: pg_sys::SubTransactionId,
    _: pg_sys::SubTransactionId,
    _: *mut c_void,
) {
    if event == pg_sys::SubXactEvent::SUBXACT_EVENT_ABORT_SUB
        && let Some(undone) = UNDONE.get()
    {
        undone(nesting());
    }
}
