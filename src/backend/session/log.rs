//! Lines in the server's log.

use crate::backend::log;
use pgrx::{PgLogLevel, pg_sys};

/// Writes a line to the server's log alone; or, unless `always`, at DEBUG1, to whoever wants that. `line` is made only if it is
/// written. The statement, in whose text or context there may be events, isn't written with it.
pub fn log(always: bool, line: impl FnOnce() -> String) {
    let level = if always { PgLogLevel::LOG_SERVER_ONLY } else { PgLogLevel::DEBUG1 };
    // SAFETY: reads settings.
    if unsafe { pg_sys::message_level_is_interesting(level as i32) } {
        log::line_at(level, &line());
    }
}
