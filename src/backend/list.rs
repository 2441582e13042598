//! Postgres' lists, whose null pointer is the empty one.

use pgrx::pg_sys::{self, Oid};

/// How many members a list has.
///
/// # Safety
/// It is a list, or null.
pub(super) unsafe fn length(list: *const pg_sys::List) -> i32 {
    // SAFETY: the caller's promise.
    unsafe { list.as_ref() }.map_or(0, |list| list.length)
}

/// The members of a list of nodes.
///
/// # Safety
/// It is a list of such nodes, or null, while the members are asked for.
pub(super) unsafe fn items<T>(list: *mut pg_sys::List) -> impl Iterator<Item = *mut T> {
    // SAFETY: the caller's promise.
    unsafe { (0..length(list)).map(move |place| pg_sys::list_nth(list, place).cast()) }
}

/// The members of a list of ids.
///
/// # Safety
/// As above, of ids.
pub(super) unsafe fn ids(list: *mut pg_sys::List) -> impl Iterator<Item = Oid> {
    // SAFETY: the caller's promise.
    unsafe { (0..length(list)).map(move |place| pg_sys::list_nth_oid(list, place)) }
}
