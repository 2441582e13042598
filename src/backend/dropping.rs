//! Keeps `DROP EXTENSION` from taking every event along, and whatever else would drop the extension by way of CASCADE.
//!
//! An event trigger hears of the command before it begins, which also loads the library where nothing had; whether the command
//! comes to the extension is known only when its turn is, which Postgres tells by a hook.

use super::call::{Call, sql_function};
use super::session;
use core::cell::Cell;
use core::ffi::{c_int, c_void};
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::pg_sys::{self, Datum, Oid};
use pgrx::prelude::*;

thread_local! {
    /// The transaction in which a command that drops something began while there were events.
    static HOLDS_EVENTS: Cell<Option<u32>> = const { Cell::new(None) };
    static BEFORE: Cell<pg_sys::object_access_hook_type> = const { Cell::new(None) };
    static IS_ALLOWED: Cell<Option<fn() -> bool>> = const { Cell::new(None) };
}

/// Puts the hook in; called once, when the library is loaded. `is_allowed` says whether the session wants it so.
pub fn guard(is_allowed: fn() -> bool) {
    IS_ALLOWED.set(Some(is_allowed));
    // SAFETY: one thread; the hook that was there is called by ours.
    unsafe {
        BEFORE.set(pg_sys::object_access_hook);
        pg_sys::object_access_hook = Some(before_access);
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn before_access(
    access: pg_sys::ObjectAccessType::Type,
    class: Oid,
    object: Oid,
    part: c_int,
    argument: *mut c_void,
) {
    // SAFETY: Postgres' own arguments; catalogue look-ups of constant names.
    unsafe {
        if let Some(before) = BEFORE.get() {
            pg_sys::ffi::pg_guard_ffi_boundary(move || before(access, class, object, part, argument));
        }
        if access == pg_sys::ObjectAccessType::OAT_DROP
            && class == pg_sys::ExtensionRelationId
            && HOLDS_EVENTS.get() == Some(session::transaction_number())
            && object == pg_sys::get_extension_oid(c"pg_tally".as_ptr(), true)
            && !IS_ALLOWED.get().is_some_and(|is_allowed| is_allowed())
        {
            ErrorReport::new(
                PgSqlErrorCode::ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST,
                "the extension pg_tally holds events, which would be dropped with it",
                "pg_tally",
            )
            .set_hint("take a dump first; where they are to go, SET tally.allow_drop = on and drop it again")
            .report(PgLogLevel::ERROR);
        }
    }
}

sql_function! {
    fn tally_before_drop / pg_finfo_tally_before_drop(call) {
        // Called otherwise than as an event trigger, it does nothing.
        let holds = is_event_trigger(call)
            && session::find_relation(c"event_key").is_some_and(super::size::has_rows);
        HOLDS_EVENTS.set(holds.then(session::transaction_number));
        Ok(Some(Datum::from(0)))
    }
}

fn is_event_trigger(call: &Call) -> bool {
    // SAFETY: the call record is valid, and so is its context during the call.
    unsafe {
        let context = call.context();
        !context.is_null() && (*context).type_ == pg_sys::NodeTag::T_EventTriggerData
    }
}
