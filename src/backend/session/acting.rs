//! Doing a piece of work as somebody else, or with other settings.

use super::setting::{self, SCOPE_SETTING, with_settings};
use core::ffi::CStr;
use pgrx::pg_sys::{self, Oid};
use std::ffi::CString;
use tally_core::scope_key;

/// Runs `work` as `tally_owner` in the global scope, with a search path nobody can shadow. For our own SQL only: what
/// somebody declared is evaluated by `evaluator`, also where its events are read inside. Afterwards role, scope and path are as they were; where an
/// error ends the (sub)transaction, Postgres puts them back.
pub fn as_owner<T>(work: impl FnOnce() -> T) -> T {
    let global = CString::new(scope_key::GLOBAL).expect("a constant without NUL");
    with_settings(
        &[
            (SCOPE_SETTING, &global),
            (c"search_path", c"pg_catalog, pg_temp"),
            (c"timezone", c"UTC"),
            // pg_restore turns it off, so that a policy raises an error instead of hiding rows.
            (c"row_security", c"on"),
        ],
        || with_owner_rights(work),
    )
}

/// Runs `work` with the rights of `tally_owner` and the caller's own scope.
pub fn with_owner_rights<T>(work: impl FnOnce() -> T) -> T {
    // SAFETY: the role is put back below; on error Postgres does it when it aborts the (sub)transaction.
    unsafe {
        let owner = pg_sys::get_role_oid(c"tally_owner".as_ptr(), false);
        let (mut role, mut security) = (Oid::INVALID, 0);
        pg_sys::GetUserIdAndSecContext(&raw mut role, &raw mut security);
        pg_sys::SetUserIdAndSecContext(owner, security | pg_sys::SECURITY_LOCAL_USERID_CHANGE as i32);
        let result = work();
        pg_sys::SetUserIdAndSecContext(role, security);
        result
    }
}

/// The settings in which declared expressions are evaluated, whoever does: how values become text and texts values, in which functions that
/// Postgres calls immutable go by the session's settings, too.
const OF_VALUES: [(&CStr, &CStr); 9] = [
    (c"timezone_abbreviations", c"Default"),
    (c"timezone", c"UTC"),
    (c"datestyle", c"ISO, MDY"),
    (c"intervalstyle", c"postgres"),
    (c"bytea_output", c"hex"),
    (c"extra_float_digits", c"1"),
    (c"xmlbinary", c"base64"),
    (c"xmloption", c"content"),
    (c"quote_all_identifiers", c"off"),
];
/// Those in which they are read besides: where names are looked up, and what a literal means. What is read needs them no more.
const OF_TEXTS: [(&CStr, &CStr); 4] = [
    (c"search_path", c"pg_catalog, tally, pg_temp"),
    (c"standard_conforming_strings", c"on"),
    (c"transform_null_equals", c"off"),
    (c"array_nulls", c"on"),
];

/// Runs `work` with the settings in which declared expressions are read and evaluated.
pub fn with_fixed_settings<T>(work: impl FnOnce() -> T) -> T {
    fixing(&OF_TEXTS, || fixing(&OF_VALUES, work))
}

/// Runs `work` with those in which what was read is evaluated.
pub fn with_settings_of_values<T>(work: impl FnOnce() -> T) -> T {
    fixing(&OF_VALUES, work)
}

/// Only what differs is set: to set the abbreviations reads a file.
fn fixing<T>(settings: &[(&CStr, &CStr)], work: impl FnOnce() -> T) -> T {
    let is_other = |(name, value): &(&CStr, &CStr)| !setting::is(name, value);
    let others: Vec<_> = settings.iter().copied().filter(is_other).collect();
    if others.is_empty() { work() } else { with_settings(&others, work) }
}

/// Runs `work` with the same settings, and those by which Postgres writes amounts and words.
pub fn with_settings_of_exports<T>(work: impl FnOnce() -> T) -> T {
    let settings = [(c"lc_monetary", c"C"), (c"lc_numeric", c"C"), (c"lc_time", c"C")];
    with_fixed_settings(|| with_settings(&settings, work))
}

/// Runs `work` as a session that has entered the scope of this key; of none where it is empty.
pub fn in_scope<T>(key: &str, work: impl FnOnce() -> T) -> T {
    let key = CString::new(key).expect("ids contain no NUL");
    with_settings(&[(SCOPE_SETTING, &key)], work)
}
