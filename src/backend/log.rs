//! Lines of the server's log that tell of a statement without its text.

use core::ffi::{CStr, c_char, c_int};
use pgrx::PgLogLevel;
use std::ffi::CString;

/// The source file that our lines say they are of.
const FILE: &CStr = c"pg_tally";

/// Whether a message is one of ours, which no code of somebody's can claim to be.
///
/// # Safety
/// The message is one that Postgres reports.
pub unsafe fn is_ours(message: *const pgrx::pg_sys::ErrorData) -> bool {
    // SAFETY: a C string, or null.
    unsafe { !(*message).filename.is_null() && CStr::from_ptr((*message).filename) == FILE }
}

unsafe extern "C-unwind" {
    fn errstart(level: c_int, domain: *const c_char) -> bool;
    fn errmsg_internal(format: *const c_char, ...) -> c_int;
    fn errhidestmt(hide: bool) -> c_int;
    fn errhidecontext(hide: bool) -> c_int;
    fn errfinish(file: *const c_char, line: c_int, function: *const c_char);
}

/// Writes a line to the server's log alone, without the statement that runs and its context, which may hold anything. Can be called
/// while a transaction ends.
pub fn line(text: &str) {
    line_at(PgLogLevel::LOG_SERVER_ONLY, text);
}

/// The same at another level, below that of an error: then also to a client that wants it.
pub fn line_at(level: PgLogLevel, text: &str) {
    let text = CString::new(text.replace('\0', "")).unwrap_or_default();
    // SAFETY: the calls that `ereport(…)` consists of; the text lives until they are done. `errfinish` looks for
    // interrupts at its end, and raising one from here would pass over frames of Rust that hold something: they wait.
    unsafe {
        pgrx::pg_sys::InterruptHoldoffCount += 1;
        if errstart(level as c_int, core::ptr::null()) {
            errmsg_internal(c"%s".as_ptr(), text.as_ptr());
            errhidestmt(true);
            errhidecontext(true);
            errfinish(FILE.as_ptr(), 0, FILE.as_ptr());
        }
        pgrx::pg_sys::InterruptHoldoffCount -= 1;
    }
}
