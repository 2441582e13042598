//! Functions of Postgres' own that a confined session may not call, found by the names that Postgres knows them by inside:
//! their numbers then need no list for each release.

use core::ffi::CStr;
use pgrx::pg_sys::{self, Oid};
use std::sync::OnceLock;

/// What a guarded function does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guarded {
    /// Tells about rows that row security hides: counters of what was read, and locks on what was read. Counters of the whole
    /// database, too: who reads a row ten thousand times finds it there.
    Tells,
    /// Stays in the session, makes an object, or reaches into the sessions of the same role.
    Stays,
    /// The same, and carries a text to whoever listens.
    Carries,
    /// Changes what the session, a sequence or the log keeps, which nothing undoes; guarded in declared expressions alone.
    Outlasts,
    /// Sets a setting; guarded only where no statement runs, so that nothing would look at it afterwards.
    Sets,
}

const GUARDED: [(Guarded, &[&CStr]); 5] = [
    (
        Guarded::Tells,
        &[
            c"pg_lock_status",
            c"pg_stat_get_backend_io",
            c"pg_stat_get_blocks_fetched",
            c"pg_stat_get_blocks_hit",
            c"pg_stat_get_db_blocks_fetched",
            c"pg_stat_get_db_blocks_hit",
            c"pg_stat_get_db_tuples_fetched",
            c"pg_stat_get_db_tuples_returned",
            c"pg_stat_get_function_calls",
            c"pg_stat_get_io",
            c"pg_stat_get_tuples_fetched",
            c"pg_stat_get_tuples_returned",
            c"pg_stat_get_xact_blocks_fetched",
            c"pg_stat_get_xact_blocks_hit",
            c"pg_stat_get_xact_function_calls",
            c"pg_stat_get_xact_numscans",
            c"pg_stat_get_xact_tuples_deleted",
            c"pg_stat_get_xact_tuples_fetched",
            c"pg_stat_get_xact_tuples_hot_updated",
            c"pg_stat_get_xact_tuples_inserted",
            c"pg_stat_get_xact_tuples_newpage_updated",
            c"pg_stat_get_xact_tuples_returned",
            c"pg_stat_get_xact_tuples_updated",
        ],
    ),
    (
        Guarded::Stays,
        &[
            c"be_lo_creat",
            c"be_lo_create",
            c"be_lo_from_bytea",
            c"be_lo_import",
            c"be_lo_import_with_oid",
            c"pg_advisory_lock_int4",
            c"pg_advisory_lock_int8",
            c"pg_advisory_lock_shared_int4",
            c"pg_advisory_lock_shared_int8",
            c"pg_cancel_backend",
            c"pg_terminate_backend",
            c"pg_try_advisory_lock_int4",
            c"pg_try_advisory_lock_int8",
            c"pg_try_advisory_lock_shared_int4",
            c"pg_try_advisory_lock_shared_int8",
        ],
    ),
    (Guarded::Carries, &[c"pg_notify"]),
    (
        Guarded::Outlasts,
        &[
            c"nextval_oid",
            c"pg_advisory_unlock_all",
            c"pg_advisory_unlock_int4",
            c"pg_advisory_unlock_int8",
            c"pg_advisory_unlock_shared_int4",
            c"pg_advisory_unlock_shared_int8",
            c"pg_logical_emit_message_bytea",
            c"pg_logical_emit_message_text",
            c"setseed",
            c"setval3_oid",
            c"setval_oid",
        ],
    ),
    (Guarded::Sets, &[c"set_config_by_name"]),
];

static BY_NUMBER: OnceLock<Vec<(u32, Guarded)>> = OnceLock::new();

fn by_number() -> &'static [(u32, Guarded)] {
    BY_NUMBER.get_or_init(|| {
        let mut numbers: Vec<_> = GUARDED
            .into_iter()
            .flat_map(|(kind, names)| names.iter().map(move |name| (kind, *name)))
            .filter_map(|(kind, name)| {
                // SAFETY: searches a table that is compiled in; a release that lacks the function has no number for it.
                let number = unsafe { pg_sys::fmgr_internal_function(name.as_ptr()) };
                (number != Oid::INVALID).then_some((number.to_u32(), kind))
            })
            .collect();
        numbers.sort_unstable_by_key(|(number, _)| *number);
        numbers
    })
}

/// What a function is guarded for.
pub fn guarded(function: Oid) -> Option<Guarded> {
    if function.to_u32() >= pg_sys::FirstNormalObjectId {
        return None;
    }
    let numbers = by_number();
    let place = numbers.binary_search_by_key(&function.to_u32(), |(number, _)| *number).ok()?;
    Some(numbers[place].1)
}
