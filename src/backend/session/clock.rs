//! Now, and which transaction and statement is running.

use crate::backend::version::transaction_number;
use pgrx::pg_sys;

/// What is asked several times a statement and raises no error: pgrx's guard would cost more than the answer.
mod unguarded {
    unsafe extern "C-unwind" {
        pub fn GetCurrentStatementStartTimestamp() -> i64;
    }
}

/// Tells one statement of a client, in one transaction, from every other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Statement {
    began: i64,
    transaction: u32,
}

/// The statement that is running.
pub fn statement() -> Statement {
    Statement { began: statement_start(), transaction: transaction_number() }
}

/// When the client sent its statement, microseconds since 2000-01-01 UTC.
pub fn statement_start() -> i64 {
    // SAFETY: reads backend state.
    unsafe { unguarded::GetCurrentStatementStartTimestamp() }
}

/// Start of the running transaction, microseconds since 2000-01-01 UTC.
pub fn transaction_start() -> i64 {
    // SAFETY: reads backend state.
    unsafe { pg_sys::GetCurrentTransactionStartTimestamp() }
}

/// Now, microseconds since 2000-01-01 UTC.
pub fn clock() -> i64 {
    // SAFETY: reads the clock.
    unsafe { pg_sys::GetCurrentTimestamp() }
}
