//! Functions of Postgres' own that a confined session may not call, found by the names that Postgres knows them by inside:
//! their numbers then need no list for each release.

use core::ffi::CStr;
use pgrx::pg_sys::{self, Oid};
use std::sync::OnceLock;

/// What a guarded function does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guarded {
    /// Tells about rows that row security hides: counters of what was read, and locks on what was read. Counters of the whole
    /// database, too: who reads a row ten thousand times finds it there. How often, how long or when last something was read or called is
    /// the same.
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
            c"pg_stat_get_buf_alloc",
            c"pg_stat_get_db_blk_read_time",
            c"pg_stat_get_db_blocks_fetched",
            c"pg_stat_get_db_blocks_hit",
            c"pg_stat_get_db_tuples_fetched",
            c"pg_stat_get_db_tuples_returned",
            c"pg_stat_get_function_calls",
            c"pg_stat_get_function_self_time",
            c"pg_stat_get_function_total_time",
            c"pg_stat_get_io",
            c"pg_stat_get_lastscan",
            c"pg_stat_get_numscans",
            c"pg_stat_get_slru",
            c"pg_stat_get_tuples_fetched",
            c"pg_stat_get_tuples_returned",
            c"pg_stat_get_xact_blocks_fetched",
            c"pg_stat_get_xact_blocks_hit",
            c"pg_stat_get_xact_function_calls",
            c"pg_stat_get_xact_function_self_time",
            c"pg_stat_get_xact_function_total_time",
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
    (Guarded::Shows, &[c"current_query", c"pg_cursor", c"pg_listening_channels", c"pg_prepared_statement"]),
    (Guarded::Sets, &[c"set_config_by_name"]),
];

/// VOLATILE functions that change nothing.
const HARMLESS: [&[u8]; 12] = [
    b"array_sample",
    b"array_shuffle",
    b"clock_timestamp",
    b"drandom",
    b"drandom_normal",
    b"gen_random_uuid",
    b"int4random",
    b"int8random",
    b"numeric_random",
    b"timeofday",
    b"uuidv7",
    b"uuidv7_interval",
];

/// Those that take numbers from a sequence, and tell which one was taken.
const OF_SEQUENCES: [&[u8]; 3] = [b"currval_oid", b"lastval", b"nextval_oid"];

/// Those that make a value of the type whose number, or name, they are given: what that type runs is found by no look at an expression.
/// So does the check of a function's body, which reads its constants.
const MAKING: [&CStr; 13] = [
    c"array_in",
    c"array_recv",
    c"domain_in",
    c"domain_recv",
    c"fmgr_sql_validator",
    c"multirange_in",
    c"multirange_recv",
    c"pg_input_error_info",
    c"pg_input_is_valid",
    c"range_in",
    c"range_recv",
    c"record_in",
    c"record_recv",
];

static BY_NUMBER: OnceLock<Vec<(u32, Guarded)>> = OnceLock::new();

/// The number of a function that is compiled in; a release that lacks it has none.
fn number(name: &CStr) -> Oid {
    // SAFETY: searches a table that is compiled in.
    unsafe { pg_sys::fmgr_internal_function(name.as_ptr()) }
}

/// Whether calling a VOLATILE function changes nothing, by the name that it has inside, which several share.
pub fn is_harmless(inside: &[u8]) -> bool {
    HARMLESS.contains(&inside)
}

/// Whether a function is about a sequence.
pub fn is_of_sequences(inside: &[u8]) -> bool {
    OF_SEQUENCES.contains(&inside)
}

/// Whether a function reads what it is told to by a text or a name: a query, a table, which may be a view, or all of a schema.
pub fn takes_queries(inside: &[u8]) -> bool {
    inside.windows(b"_to_xml".len()).any(|part| part == b"_to_xml")
}

/// Whether a function is about large objects.
pub fn is_of_large_objects(inside: &[u8]) -> bool {
    inside.starts_with(b"be_lo")
}

/// Whether a function makes a value of whatever type it is told.
pub fn makes_by_type(function: Oid) -> bool {
    static NUMBERS: OnceLock<Vec<Oid>> = OnceLock::new();
    let numbers = NUMBERS
        .get_or_init(|| MAKING.into_iter().map(number).filter(|&number| number != Oid::INVALID).collect());
    numbers.contains(&function)
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

/// Name of a function.
pub fn name_of(function: Oid) -> String {
    // SAFETY: a syscache look-up; the result is a palloc'd C string, or null.
    unsafe {
        let name = pg_sys::get_func_name(function);
        if name.is_null() { String::new() } else { CStr::from_ptr(name).to_string_lossy().into_owned() }
    }
}
