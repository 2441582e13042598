//! Counts what this backend has heard of changed tables, schemas, functions, types, roles and memberships: what was derived from them
//! under another number is out of date.

use super::role;
use super::session;
use core::cell::Cell;
use pgrx::pg_sys::{self, Datum, Oid, SysCacheIdentifier};

thread_local! {
    /// Changes of tables, schemas, functions and types.
    static HEARD: Cell<Option<u64>> = const { Cell::new(None) };
}

/// How many changes were heard of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heard {
    pub roles: u64,
    others: u64,
}

/// How many were heard of by now, with those of every transaction that has committed.
pub fn heard() -> Heard {
    if HEARD.get().is_none() {
        // SAFETY: the callbacks are plain functions that touch a thread-local cell only; registered once a backend.
        unsafe {
            pg_sys::CacheRegisterRelcacheCallback(Some(table_changed), Datum::from(0));
            for cache in
                [SysCacheIdentifier::NAMESPACEOID, SysCacheIdentifier::PROCOID, SysCacheIdentifier::TYPEOID]
            {
                pg_sys::CacheRegisterSyscacheCallback(
                    cache as core::ffi::c_int,
                    Some(entry_changed),
                    Datum::from(0),
                );
            }
        }
        HEARD.set(Some(0));
    }
    role::changes();
    session::accept_invalidations();
    heard_so_far()
}

/// How many were heard of before: what has happened since isn't asked for.
pub fn heard_so_far() -> Heard {
    Heard { roles: role::changes(), others: HEARD.get().unwrap_or_default() }
}

fn hear() {
    HEARD.set(HEARD.get().map(|heard| heard.wrapping_add(1)));
}

extern "C-unwind" fn table_changed(_: Datum, _: Oid) {
    hear();
}

extern "C-unwind" fn entry_changed(_: Datum, _: core::ffi::c_int, _: u32) {
    hear();
}
