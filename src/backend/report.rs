//! What a user is told of an error. Every noun makes reports of its errors in its own `failure.rs`.

use core::ffi::{c_char, c_int};
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::{PgLogLevel, PgSqlErrorCode, pg_sys};
use std::borrow::Cow;
use std::ffi::CString;

/// An error on its way to the user.
#[derive(Debug)]
pub struct Report(Box<Parts>);

#[derive(Debug)]
struct Parts {
    sqlstate: Cow<'static, str>,
    message: Cow<'static, str>,
    /// Empty where there is nothing to say; so is the hint.
    detail: Cow<'static, str>,
    hint: Cow<'static, str>,
}

impl Report {
    /// An error with an SQLSTATE, also one of our own, and a message.
    pub fn new(sqlstate: impl Into<Cow<'static, str>>, message: impl Into<Cow<'static, str>>) -> Self {
        let (sqlstate, message) = (sqlstate.into(), message.into());
        Self(Box::new(Parts { sqlstate, message, detail: "".into(), hint: "".into() }))
    }

    /// The same, with what was seen.
    pub fn detail(mut self, detail: impl Into<Cow<'static, str>>) -> Self {
        self.0.detail = detail.into();
        self
    }

    /// The same, with what to do next.
    pub fn hint(mut self, hint: impl Into<Cow<'static, str>>) -> Self {
        self.0.hint = hint.into();
        self
    }

    /// Its SQLSTATE alone.
    pub fn sqlstate(&self) -> &str {
        &self.0.sqlstate
    }

    /// The message alone.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// Raises the error. What is on the stack is dropped.
    pub fn raise(self) -> ! {
        ErrorReport::from(self).report(PgLogLevel::ERROR);
        unreachable!("an error was raised")
    }
}

/// What an argument says; an error where it is null.
pub fn given<T>(value: Option<T>, name: &'static str, hint: &'static str) -> Result<T, Report> {
    value.ok_or_else(|| Report::new("22004", format!("{name} must not be null")).hint(hint))
}

/// The number that Postgres packs an SQLSTATE into.
fn packed(sqlstate: &str) -> c_int {
    let digits = sqlstate.bytes().enumerate();
    digits.fold(0, |code, (place, byte)| code | c_int::from(byte.wrapping_sub(b'0') & 0x3F) << (6 * place))
}

/// For functions in pgrx's form. It has names for Postgres' own codes only: one of ours becomes the general one of its class there,
/// so who may raise such a one is in the plain C form (`call`).
impl From<Report> for ErrorReport {
    fn from(report: Report) -> Self {
        let Parts { sqlstate, message, detail, hint } = *report.0;
        let code = match PgSqlErrorCode::from(packed(&sqlstate)) {
            PgSqlErrorCode::ERRCODE_INTERNAL_ERROR => {
                PgSqlErrorCode::from(packed(&format!("{}000", sqlstate.get(..2).unwrap_or("XX"))))
            }
            code => code,
        };
        let mut report = ErrorReport::new(code, message, "pg_tally");
        if !detail.is_empty() {
            report = report.set_detail(detail);
        }
        if !hint.is_empty() {
            report = report.set_hint(hint);
        }
        report
    }
}

/// Lets `?` make what pgrx raises of a noun's errors, by way of their reports.
macro_rules! raised_by_pgrx {
    ($($error:ty),+) => { $(
        impl From<$error> for pgrx::pg_sys::panic::ErrorReport {
            fn from(error: $error) -> Self {
                $crate::backend::report::Report::from(error).into()
            }
        }
    )+ };
}
pub(crate) use raised_by_pgrx;

/// An error whose texts are palloc'd, so that a long jump loses nothing.
#[derive(Clone, Copy)]
pub(super) struct Raised {
    code: c_int,
    message: *const c_char,
    detail: *const c_char,
    hint: *const c_char,
}

impl Raised {
    pub fn new(report: Report) -> Self {
        let text = |text: &str| {
            let text = CString::new(text.replace('\0', "")).expect("NULs were removed");
            // SAFETY: pstrdup copies a NUL-terminated string.
            unsafe { pg_sys::pstrdup(text.as_ptr()).cast_const() }
        };
        let Parts { sqlstate, message, detail, hint } = &*report.0;
        Self { code: packed(sqlstate), message: text(message), detail: text(detail), hint: text(hint) }
    }

    /// # Safety
    /// No frame between here and Postgres holds anything to drop.
    pub unsafe fn raise(self) -> ! {
        unsafe extern "C-unwind" {
            fn errstart(level: c_int, domain: *const c_char) -> bool;
            fn errcode(code: c_int) -> c_int;
            fn errmsg(format: *const c_char, ...) -> c_int;
            fn errdetail(format: *const c_char, ...) -> c_int;
            fn errhint(format: *const c_char, ...) -> c_int;
            fn errfinish(file: *const c_char, line: c_int, function: *const c_char);
        }
        // SAFETY: the calls that `ereport(ERROR, …)` consists of, with palloc'd or constant strings. The last one jumps
        // to Postgres' handler, over frames that the caller answers for.
        unsafe {
            errstart(PgLogLevel::ERROR as c_int, core::ptr::null());
            errcode(self.code);
            errmsg(c"%s".as_ptr(), self.message);
            if *self.detail != 0 {
                errdetail(c"%s".as_ptr(), self.detail);
            }
            if *self.hint != 0 {
                errhint(c"%s".as_ptr(), self.hint);
            }
            errfinish(c"pg_tally".as_ptr(), 0, c"pg_tally".as_ptr());
        }
        unreachable!("errfinish does not return from an error")
    }
}
