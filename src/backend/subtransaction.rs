//! Running a piece of work so that it can be undone while the transaction goes on.

use pgrx::pg_sys::{self, panic::CaughtError};
use pgrx::{PgSqlErrorCode, PgTryBuilder};
use std::panic::{AssertUnwindSafe, UnwindSafe};

/// What a piece of work wants done with its effects.
pub enum Verdict<T> {
    Keep(T),
    Undo(T),
}

/// An SQL error that was caught, its effects undone.
pub struct Caught {
    pub code: PgSqlErrorCode,
    pub message: String,
    error: CaughtError,
}

impl Caught {
    /// Raises the error again as it was.
    pub fn rethrow(self) -> ! {
        self.error.rethrow()
    }

    /// The function of Postgres' source in which it was raised; code in PL/pgSQL has `exec_stmt_raise`.
    pub fn raised_in(&self) -> Option<&str> {
        let (CaughtError::PostgresError(report)
        | CaughtError::ErrorReport(report)
        | CaughtError::RustPanic { ereport: report, .. }) = &self.error;
        report.function_name()
    }

    /// Whether the error says that stored bytes are damaged: what a missing or a garbled piece of a value raises.
    pub fn is_corruption(&self) -> bool {
        sqlstate(self.code).starts_with("XX")
    }

    /// Whether the error is about the data that was worked on, not about the server, the session or a request to stop.
    pub fn is_about_data(&self) -> bool {
        let class = sqlstate(self.code);
        matches!(&class[..2], "21" | "22" | "23" | "2F" | "39" | "42" | "P0") && &class != "42501"
    }

    /// Whether the error may be that of a declared expression, whose code may do much and raise anything, and not that of a
    /// server without resources, or of a request to stop. Codes of somebody's own arrive as XX000.
    pub fn may_be_of_an_expression(&self) -> bool {
        const CLASSES: [&str; 18] = [
            "09", "0A", "20", "21", "22", "23", "24", "25", "2D", "2F", "34", "38", "39", "3B", "3F", "42",
            "54", "P0",
        ];
        let class = sqlstate(self.code);
        CLASSES.contains(&&class[..2]) || class == "XX000" || class == "55000"
    }
}

/// The five characters of an error code.
pub fn sqlstate(code: PgSqlErrorCode) -> String {
    let packed = code as u32;
    (0..5).map(|place| char::from((((packed >> (6 * place)) & 0x3F) as u8) + b'0')).collect()
}

/// Runs `work` in a subtransaction. An SQL error undoes it and comes back as `Err`, and so does a Rust panic, as XX000.
pub fn run<T>(work: impl FnOnce() -> Verdict<T>) -> Result<T, Caught> {
    // SAFETY: the subtransaction begun here is released or rolled back on every path below, and memory context and
    // resource owner are put back as they were, as PL/pgSQL does for an EXCEPTION block.
    unsafe {
        let context = pg_sys::CurrentMemoryContext;
        let owner = pg_sys::CurrentResourceOwner;
        pg_sys::BeginInternalSubTransaction(core::ptr::null());
        pg_sys::MemoryContextSwitchTo(context);
        let restore = || {
            pg_sys::MemoryContextSwitchTo(context);
            pg_sys::CurrentResourceOwner = owner;
        };
        let outcome = catch(AssertUnwindSafe(work));
        match outcome {
            Ok(Verdict::Keep(value)) => {
                pg_sys::ReleaseCurrentSubTransaction();
                restore();
                Ok(value)
            }
            Ok(Verdict::Undo(value)) => {
                pg_sys::RollbackAndReleaseCurrentSubTransaction();
                restore();
                Ok(value)
            }
            Err(caught) => {
                pg_sys::MemoryContextSwitchTo(context);
                pg_sys::RollbackAndReleaseCurrentSubTransaction();
                restore();
                Err(caught)
            }
        }
    }
}

fn catch<T>(work: impl FnOnce() -> Verdict<T> + UnwindSafe) -> Result<Verdict<T>, Caught> {
    let caught = |error: CaughtError| {
        let (code, message) = match &error {
            CaughtError::PostgresError(report)
            | CaughtError::ErrorReport(report)
            | CaughtError::RustPanic { ereport: report, .. } => {
                (report.sql_error_code(), report.message().to_owned())
            }
        };
        Err(Caught { code, message, error })
    };
    PgTryBuilder::new(move || Ok(work())).catch_others(caught).execute()
}
