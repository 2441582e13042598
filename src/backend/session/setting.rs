//! Settings of this session, and changing them for a while.

use core::ffi::{CStr, c_char};
use pgrx::pg_sys;
use std::ffi::CString;

/// What is asked several times a statement and raises no error: pgrx's guard would cost more than the answer.
mod unguarded {
    use core::ffi::c_char;

    unsafe extern "C-unwind" {
        /// With `missing_ok`, and without `restrict_privileged`.
        pub fn GetConfigOption(
            name: *const c_char,
            missing_ok: bool,
            restrict_privileged: bool,
        ) -> *const c_char;
        pub fn IsInParallelMode() -> bool;
        pub fn IsTransactionState() -> bool;
    }
}

/// Name of the setting that holds the scope.
pub(super) const SCOPE_SETTING: &CStr = c"tally.scope";

/// What the client calls itself; `None` where it doesn't say.
pub fn application_name() -> Option<String> {
    setting(c"application_name").filter(|name| !name.is_empty())
}

/// Bytes of search_path as it is set, where Postgres reports it to the client.
pub fn reported_path_bytes() -> u64 {
    if !crate::backend::version::REPORTS_SEARCH_PATH {
        return 0;
    }
    // SAFETY: a C string of the setting's own, or null.
    unsafe {
        let path = pg_sys::namespace_search_path;
        if path.is_null() { 0 } else { CStr::from_ptr(path).count_bytes() as u64 }
    }
}

/// The text of what the client has sent; `None` where it calls a function without one.
pub fn client_statement() -> Option<String> {
    // SAFETY: a C string of the running statement's, or null.
    unsafe {
        let text = pg_sys::debug_query_string;
        (!text.is_null()).then(|| CStr::from_ptr(text).to_string_lossy().into_owned())
    }
}

/// Whether this process may change settings: not in parallel mode, not outside a transaction.
pub fn can_set() -> bool {
    // SAFETY: reads backend state.
    unsafe {
        unguarded::IsTransactionState() && !unguarded::IsInParallelMode() && pg_sys::ParallelWorkerNumber < 0
    }
}

/// Sets a setting until the transaction ends, or the function that sets it too.
pub fn set_local(name: &CStr, value: &CStr) {
    write_setting(name, value, pg_sys::GucAction::GUC_ACTION_LOCAL);
}

/// A setting that prints what a statement does, to the log and so to a client that asks for it; or that asks for the log.
pub fn telling_setting() -> Option<&'static str> {
    // SAFETY: reads backend state.
    unsafe {
        if pg_sys::Debug_print_plan {
            Some("debug_print_plan")
        } else if pg_sys::Debug_print_parse {
            Some("debug_print_parse")
        } else if pg_sys::Debug_print_rewritten {
            Some("debug_print_rewritten")
        } else {
            (pg_sys::client_min_messages <= pg_sys::LOG as i32).then_some("client_min_messages below notice")
        }
    }
}

/// Whether a setting exists.
pub fn is_known(setting: &CStr) -> bool {
    self::setting(setting).is_some()
}

/// What a setting is set to, where it exists.
pub fn setting(name: &CStr) -> Option<String> {
    // SAFETY: a C string of the setting's own or of a buffer that lasts until the next question, or null.
    unsafe {
        let value = pg_sys::GetConfigOption(name.as_ptr(), true, false);
        (!value.is_null()).then(|| CStr::from_ptr(value).to_string_lossy().into_owned())
    }
}

/// Whether a setting exists and is this, letter by letter.
pub fn is(name: &CStr, value: &CStr) -> bool {
    // SAFETY: as in `setting`.
    unsafe {
        let found = unguarded::GetConfigOption(name.as_ptr(), true, false);
        !found.is_null() && CStr::from_ptr(found) == value
    }
}

/// Changes settings of this process for as long as it lives.
pub fn set_for_session(settings: &[(&CStr, &CStr)]) {
    for (name, value) in settings {
        write_setting(name, value, pg_sys::GucAction::GUC_ACTION_SET);
    }
}

/// Runs `work` with other settings. Afterwards, also where an error ends the (sub)transaction, they are as they were.
pub fn with_settings<T>(settings: &[(&CStr, &CStr)], work: impl FnOnce() -> T) -> T {
    // SAFETY: opens and closes one level of settings; on error Postgres closes it with the (sub)transaction.
    unsafe {
        let level = pg_sys::NewGUCNestLevel();
        for (name, value) in settings {
            write_setting(name, value, pg_sys::GucAction::GUC_ACTION_SAVE);
        }
        let result = work();
        pg_sys::AtEOXact_GUC(true, level);
        result
    }
}

/// Sets the scope until the transaction ends.
pub fn set_scope(value: &str) {
    let value = CString::new(value).expect("ids contain no NUL");
    write_setting(SCOPE_SETTING, &value, pg_sys::GucAction::GUC_ACTION_LOCAL);
}

fn write_setting(name: &CStr, value: &CStr, action: pg_sys::GucAction::Type) {
    let (name, value): (*const c_char, *const c_char) = (name.as_ptr(), value.as_ptr());
    // SAFETY: both strings outlive the call, which copies them. The superuser context is ours to claim: the caller's
    // right to the scope was checked before.
    unsafe {
        pg_sys::set_config_option(
            name,
            value,
            pg_sys::GucContext::PGC_SUSET,
            pg_sys::GucSource::PGC_S_SESSION,
            action,
            true,
            0,
            false,
        );
    }
}

/// Keeps a prefix of settings' names for those that are defined by now.
pub fn reserve_prefix(prefix: &CStr) {
    // SAFETY: the string is copied; called from _PG_init.
    unsafe { pg_sys::MarkGUCPrefixReserved(prefix.as_ptr()) }
}
