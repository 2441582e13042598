//! Waiting, and being told not to go on.

use pgrx::pg_sys;

/// Ends the statement where it was cancelled.
pub fn check_for_interrupts() {
    pgrx::check_for_interrupts!();
}

/// Ends the statement where it was cancelled, or where its stack is too deep (54001).
pub fn check_for_interrupts_and_depth() {
    check_for_interrupts();
    // SAFETY: reads backend state, or raises an error.
    unsafe { pg_sys::check_stack_depth() }
}

/// Sleeps, unless the statement is cancelled meanwhile.
pub fn pause(time: std::time::Duration) {
    // SAFETY: sleeps, and raises an error where one was asked for.
    unsafe {
        pg_sys::pg_usleep(time.as_micros() as core::ffi::c_long);
        pgrx::check_for_interrupts!();
    }
}
