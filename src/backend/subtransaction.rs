//! Running a piece of work so that it can be undone while the transaction goes on.

use pgrx::pg_sys::{self, panic::CaughtError};
use pgrx::{PgSqlErrorCode, PgTryBuilder};
use std::cell::{Cell, UnsafeCell};
use std::panic::{AssertUnwindSafe, UnwindSafe};

/// What a piece of work wants done with its effects.
pub enum Verdict<T> {
    Keep(T),
    Undo(T),
}

/// An SQL error that was caught, its effects undone.
pub struct Caught {
    pub code: PgSqlErrorCode,
    /// The five characters of the code as it was raised; `code` is XX000 for each that Postgres doesn't define.
    pub sqlstate: String,
    pub message: String,
    error: CaughtError,
}

/// Classes that Postgres' own codes have: every other is somebody's own.
const KNOWN_CLASSES: [&str; 43] = [
    "00", "01", "02", "03", "08", "09", "0A", "0B", "0F", "0L", "0P", "0Z", "10", "20", "21", "22", "23",
    "24", "25", "26", "27", "28", "2B", "2D", "2F", "34", "38", "39", "3B", "3D", "3F", "40", "42", "44",
    "53", "54", "55", "57", "58", "72", "F0", "HV", "P0",
];

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

    /// Whether the error was raised by our own code, and not by Postgres or a language of its.
    pub fn is_ours(&self) -> bool {
        let (CaughtError::PostgresError(report)
        | CaughtError::ErrorReport(report)
        | CaughtError::RustPanic { ereport: report, .. }) = &self.error;
        report.file() == "pg_tally" || report.file().ends_with(".rs")
    }

    /// Whether the error says that stored bytes are damaged: what a missing or a garbled piece of a value raises.
    pub fn is_corruption(&self) -> bool {
        self.sqlstate.starts_with("XX")
    }

    /// Whether the error is about the data that was worked on, not about the server, the session or a request to stop.
    pub fn is_about_data(&self) -> bool {
        let class = &self.sqlstate[..2];
        matches!(class, "21" | "22" | "23" | "2F" | "39" | "42" | "P0") && self.sqlstate != "42501"
            || self.is_said_by_code()
    }

    /// Whether code in PL/pgSQL raised it by a statement of its own, whatever code it gave. A server without memory, a cancel, or what such code
    /// caught of these and raises again, is raised elsewhere.
    fn is_said_by_code(&self) -> bool {
        matches!(self.raised_in(), Some("exec_stmt_raise" | "exec_stmt_assert"))
    }

    /// Whether the error may be that of a declared expression, whose code may do much and raise anything, and not that of a
    /// server without resources, or of a request to stop.
    pub fn may_be_of_an_expression(&self) -> bool {
        const CLASSES: [&str; 18] = [
            "09", "0A", "20", "21", "22", "23", "24", "25", "2D", "2F", "34", "38", "39", "3B", "3F", "42",
            "54", "P0",
        ];
        let class = &self.sqlstate[..2];
        CLASSES.contains(&class)
            || matches!(&*self.sqlstate, "XX000" | "55000")
            || !KNOWN_CLASSES.contains(&class) && class != "XX"
            || self.is_said_by_code()
    }
}

/// The five characters of an error code, packed as Postgres does it.
fn sqlstate(packed: u32) -> String {
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
        RAISED.set(0);
        let mut callback = noting(pg_sys::error_context_stack);
        pg_sys::error_context_stack = &raw mut callback;
        let outcome = catch(AssertUnwindSafe(work));
        pg_sys::error_context_stack = callback.previous;
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

unsafe extern "C-unwind" {
    /// The code of the report that is being made: Postgres' own, without pgrx's guard around it, which has no business inside a report.
    #[link_name = "geterrcode"]
    fn code_of_report() -> core::ffi::c_int;
}

thread_local! {
    /// The code of what was reported last while a piece of work ran.
    static RAISED: Cell<i32> = const { Cell::new(0) };
    static NOTING_ALONE: UnsafeCell<pg_sys::ErrorContextCallback> = const { UnsafeCell::new(noting(core::ptr::null_mut())) };
}

/// What Postgres calls for each report, so that its code is known, before what it would call anyway.
const fn noting(previous: *mut pg_sys::ErrorContextCallback) -> pg_sys::ErrorContextCallback {
    pg_sys::ErrorContextCallback { previous, callback: Some(note_code), arg: core::ptr::null_mut() }
}

/// The same for work that nothing else around it is to be told of.
pub(super) fn noting_alone() -> *mut pg_sys::ErrorContextCallback {
    NOTING_ALONE.with(UnsafeCell::get)
}

unsafe extern "C-unwind" fn note_code(_: *mut core::ffi::c_void) {
    // SAFETY: Postgres calls it while a report is being made.
    let code = unsafe { code_of_report() };
    // Messages that are no errors have none, and come after one, too, as of the rollback.
    if code != 0 {
        RAISED.set(code);
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
        // pgrx has a name for each of Postgres' codes alone. What was reported before, and not raised, may be another's.
        let last = RAISED.get();
        let is_of_none = code == PgSqlErrorCode::ERRCODE_INTERNAL_ERROR
            && last != 0
            && PgSqlErrorCode::from(last) == PgSqlErrorCode::ERRCODE_INTERNAL_ERROR;
        let sqlstate = sqlstate(if is_of_none { last as u32 } else { code as u32 });
        Err(Caught { code, sqlstate, message, error })
    };
    PgTryBuilder::new(move || Ok(work())).catch_others(caught).execute()
}

/// Tries some things together and, where that fails, each half of them, down to each by itself: those that fail, with the reason that
/// `attempt` gives. It tries them in a subtransaction of its own.
pub fn by_halves<R, E>(
    things: Vec<usize>,
    attempt: impl Fn(&[usize]) -> Result<Option<R>, E>,
) -> Result<Vec<(usize, R)>, E> {
    let mut failing = Vec::new();
    let mut waiting = vec![things];
    while let Some(part) = waiting.pop() {
        if part.is_empty() {
            continue;
        }
        pgrx::check_for_interrupts!();
        match (attempt(&part)?, &part[..]) {
            (None, _) => {}
            (Some(reason), &[thing]) => failing.push((thing, reason)),
            (Some(_), several) => {
                let (first, second) = several.split_at(several.len() / 2);
                waiting.extend([first.to_vec(), second.to_vec()]);
            }
        }
    }
    Ok(failing)
}
