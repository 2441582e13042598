//! What refused a statement that writes: row security, a constraint, or something else. An error code alone doesn't tell, since
//! anybody's code may raise any.

use super::subtransaction::Caught;
use core::ptr;
use pgrx::PgSqlErrorCode;
use pgrx::pg_sys;
use std::cell::Cell;

/// Functions of Postgres in which the constraints of a row are checked, after the policies.
const CONSTRAINTS: [&str; 4] = [
    "ExecConstraints",
    "ReportNotNullViolationError",
    "_bt_check_unique",
    "check_exclusion_or_unique_constraint",
];

/// What refused it.
#[derive(Debug, PartialEq, Eq)]
pub enum Refusal {
    /// A policy of the table that the statement itself writes to.
    Policy,
    /// A constraint of that table: its policies let the row in.
    Constraint,
    /// No partition of that table takes the row: its policies weren't asked.
    NoPartition,
    Other(String),
}

thread_local! {
    /// How many pieces of code were in each other where the last error was raised.
    static DEPTH: Cell<usize> = const { Cell::new(0) };
}

/// While it lives, it is noted where errors are raised.
struct Watch {
    entry: pg_sys::ErrorContextCallback,
}

impl Drop for Watch {
    fn drop(&mut self) {
        // SAFETY: what lies below lives longer than this.
        unsafe { pg_sys::error_context_stack = self.entry.previous };
    }
}

/// Runs `work`, one statement by SPI, of whose error `of` can be asked.
pub fn watched<T>(work: impl FnOnce() -> T) -> T {
    // SAFETY: a list on the stack; the entry doesn't move, and is taken out before it goes, also where an error passes.
    unsafe {
        let mut watch = Watch {
            entry: pg_sys::ErrorContextCallback {
                previous: pg_sys::error_context_stack,
                callback: Some(note),
                arg: ptr::null_mut(),
            },
        };
        watch.entry.arg = (&raw mut watch.entry).cast();
        pg_sys::error_context_stack = &raw mut watch.entry;
        work()
    }
}

/// Called where an error is raised, when each piece of code below has had its turn.
unsafe extern "C-unwind" fn note(entry: *mut core::ffi::c_void) {
    // SAFETY: Postgres passes what the entry says, which is its own place in the list that the innermost begins.
    unsafe {
        let mut depth = 0;
        let mut next = pg_sys::error_context_stack;
        while !next.is_null() && next.cast() != entry {
            depth += 1;
            next = (*next).previous;
        }
        DEPTH.set(depth);
    }
}

/// What an error says of the statement that was watched.
pub fn of(caught: &Caught) -> Refusal {
    // The statement itself has SPI's entry alone. A function that it calls, as a trigger or a CHECK does, has one more.
    let is_its_own = DEPTH.get() == 1;
    let raised_in = caught.raised_in().unwrap_or_default();
    match caught.code {
        PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE
            if is_its_own && raised_in == "ExecWithCheckOptions" =>
        {
            Refusal::Policy
        }
        _ if is_its_own && CONSTRAINTS.contains(&raised_in) => Refusal::Constraint,
        PgSqlErrorCode::ERRCODE_CHECK_VIOLATION if is_its_own && raised_in == "ExecFindPartition" => {
            Refusal::NoPartition
        }
        _ => Refusal::Other(caught.message.clone()),
    }
}
