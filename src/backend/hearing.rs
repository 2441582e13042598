//! Which messages Postgres asks the hook for messages about.

use core::ffi::c_int;
use pgrx::PgLogLevel;
use pgrx::pg_sys;
use std::cell::Cell;

thread_local! {
    /// What log_min_messages was before `hear_messages`.
    static LOGGED_FROM: Cell<Option<c_int>> = const { Cell::new(None) };
}

/// Has the hook for messages (`hook`) hear every message that a client may be told, whatever becomes of the transaction: Postgres asks it about those alone that
/// go to the server's log. There they still go by what log_min_messages says. Says whether that is new.
pub fn hear_messages() -> bool {
    // SAFETY: a setting of this process, of which Postgres wants no more than that it is one of its levels. Set by its own means it would end with a
    // transaction of a procedure's, which goes on.
    unsafe {
        if pg_sys::log_min_messages != PgLogLevel::DEBUG5 as c_int {
            LOGGED_FROM.set(Some(pg_sys::log_min_messages));
            pg_sys::log_min_messages = PgLogLevel::DEBUG5 as c_int;
            return true;
        }
        false
    }
}

/// Has Postgres ask about those again that go to the server's log.
pub fn hear_log_alone() {
    // SAFETY: as above.
    unsafe {
        if let Some(logged_from) = LOGGED_FROM.take()
            && pg_sys::log_min_messages == PgLogLevel::DEBUG5 as c_int
        {
            pg_sys::log_min_messages = logged_from;
        }
    }
}

/// Whether a message was to go to the server's log before `hear_messages`, as Postgres decides.
pub fn is_to_log(level: c_int) -> bool {
    let Some(logged_from) = LOGGED_FROM.get() else { return true };
    let (log, error, fatal) =
        (PgLogLevel::LOG as c_int, PgLogLevel::ERROR as c_int, PgLogLevel::FATAL as c_int);
    // The level LOG stands above errors there; the next one is that of messages for the log alone.
    if level == log || level == log + 1 {
        logged_from == log || logged_from <= error
    } else if logged_from == log {
        level >= fatal
    } else {
        level >= logged_from
    }
}
