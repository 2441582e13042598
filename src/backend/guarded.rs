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
    /// Tells what else the session does; guarded in declared expressions alone.
    Shows,
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
    (Guarded::Shows, &[c"current_query", c"pg_cursor", c"pg_prepared_statement"]),
    (Guarded::Sets, &[c"set_config_by_name"]),
];

/// Functions that aren't the same each time they are called, and change nothing.
const HARMLESS: [&CStr; 13] = [
    c"array_sample",
    c"array_shuffle",
    c"clock_timestamp",
    c"drandom",
    c"drandom_normal",
    c"gen_random_uuid",
    c"int4random",
    c"int8random",
    c"numeric_random",
    c"timeofday",
    c"txid_current_if_assigned",
    c"uuidv7",
    c"uuidv7_interval",
];

/// Functions that take numbers from a sequence, and tell which one was taken.
const OF_SEQUENCES: [&CStr; 3] = [c"currval_oid", c"lastval", c"nextval_oid"];

static BY_NUMBER: OnceLock<Vec<(u32, Guarded)>> = OnceLock::new();

/// The number of a function that is compiled in; a release that lacks it has none.
fn number(name: &CStr) -> Oid {
    // SAFETY: searches a table that is compiled in.
    unsafe { pg_sys::fmgr_internal_function(name.as_ptr()) }
}

/// Whether calling a VOLATILE function changes nothing.
pub fn is_harmless(function: Oid) -> bool {
    HARMLESS.into_iter().any(|name| number(name) == function)
}

/// Whether a function is about a sequence.
pub fn is_of_sequences(function: Oid) -> bool {
    OF_SEQUENCES.into_iter().any(|name| number(name) == function)
}

fn by_number() -> &'static [(u32, Guarded)] {
    BY_NUMBER.get_or_init(|| {
        let mut numbers: Vec<_> = GUARDED
            .into_iter()
            .flat_map(|(kind, names)| names.iter().map(move |name| (kind, *name)))
            .filter_map(|(kind, name)| {
                let number = number(name);
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
