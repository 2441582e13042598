//! Where COPY adds the row that it is at to whatever is reported while a trigger runs for it: to errors, to lines of the log, to what
//! Postgres logs of waiting. The row is an event, of which the log may have nothing.

use core::ffi::{c_char, c_int, c_void};
use core::{mem, ptr};
use pgrx::pg_sys::{self, ErrorContextCallback};

unsafe extern "C-unwind" {
    #[link_name = "CopyFromErrorCallback"]
    fn copied_row(state: *mut c_void);
    fn errcontext_msg(format: *const c_char, ...) -> c_int;
}

/// Runs `work`, of which nothing that is reported shows a row of a COPY that is around it; only that there is one. Nor does the error
/// that it ends in, which is raised once it is left: whoever catches that puts back what was around him.
pub fn hidden<T, E>(work: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
    // SAFETY: entries around live longer than what runs here. After an error, which passes by the frames that the entries of COPY are in,
    // nobody goes on with this list: PG_CATCH, and so pgrx, sets it to what it was there.
    unsafe {
        let around = pg_sys::error_context_stack;
        pg_sys::error_context_stack = without_rows(around);
        let outcome = work();
        if outcome.is_ok() {
            pg_sys::error_context_stack = around;
        }
        outcome
    }
}

/// The list, with another entry in the place of each that shows a row.
///
/// # Safety
/// The list is the one that is around; the result is used no longer than the current memory context lives.
unsafe fn without_rows(around: *mut ErrorContextCallback) -> *mut ErrorContextCallback {
    // SAFETY: each entry leads to the one around it; copies are palloc'd, since an error leaves no other way to free them.
    unsafe {
        let shows_row = |entry: &ErrorContextCallback| {
            entry.callback.is_some_and(|callback| callback as *const () == copied_row as *const ())
        };
        let entries = || {
            let next =
                |entry: &*mut ErrorContextCallback| Some((**entry).previous).filter(|next| !next.is_null());
            core::iter::successors(Some(around).filter(|entry| !entry.is_null()), next)
        };
        // What is around the outermost row stays as it is.
        let Some(outermost) = entries().enumerate().filter(|(_, entry)| shows_row(&**entry)).last() else {
            return around;
        };
        let (last, outer) = (outermost.0, (*outermost.1).previous);
        let size = mem::size_of::<ErrorContextCallback>() * (last + 1);
        let copies = pg_sys::palloc(size).cast::<ErrorContextCallback>();
        for (place, entry) in entries().take(last + 1).enumerate() {
            let previous = if place == last { outer } else { copies.add(place + 1) };
            let told = if shows_row(&*entry) {
                ErrorContextCallback { previous, callback: Some(tell_of_row), arg: ptr::null_mut() }
            } else {
                ErrorContextCallback { previous, callback: (*entry).callback, arg: (*entry).arg }
            };
            copies.add(place).write(told);
        }
        copies
    }
}

unsafe extern "C-unwind" fn tell_of_row(_: *mut c_void) {
    // SAFETY: Postgres calls it while a report is being made.
    unsafe { errcontext_msg(c"COPY, a row that is not shown".as_ptr()) };
}
