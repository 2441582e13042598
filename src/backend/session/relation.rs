//! Where the session is connected, and our relations there.

use crate::backend::binary_upgrade;
use crate::backend::failure::TableError;
use crate::backend::report::Report;
use core::ffi::CStr;
use pgrx::pg_sys::{self, Oid};
use std::ffi::CString;

/// Names this cluster and database, as tokens do.
pub fn audience() -> String {
    // SAFETY: reads backend state; the database that we are connected to exists, so its name is a palloc'd C string.
    unsafe {
        let name = CStr::from_ptr(pg_sys::get_database_name(pg_sys::MyDatabaseId));
        format!("{}/{}", pg_sys::GetSystemIdentifier(), name.to_string_lossy())
    }
}

/// Whether this database has the extension, with its bindings. Not while `pg_upgrade` makes them, whose tables have no keys yet.
pub fn is_installed() -> bool {
    if binary_upgrade::is_running() {
        return false;
    }
    // SAFETY: catalogue look-ups of names that live until they end.
    unsafe {
        let schema = pg_sys::get_namespace_oid(c"tally".as_ptr(), true);
        schema != Oid::INVALID
            && [c"role_binding", c"tenant_limit"]
                .into_iter()
                .all(|name| pg_sys::get_relname_relid(name.as_ptr(), schema) != Oid::INVALID)
    }
}

/// OID of one of our relations, by name; `None` where there is none.
pub fn find_relation(name: &CStr) -> Option<Oid> {
    // SAFETY: catalogue look-ups of names that live until they end.
    let found = unsafe {
        match pg_sys::get_namespace_oid(c"tally".as_ptr(), true) {
            Oid::INVALID => Oid::INVALID,
            schema => pg_sys::get_relname_relid(name.as_ptr(), schema),
        }
    };
    (found != Oid::INVALID).then_some(found)
}

/// The same, of a name that is put together at run time. A name of ours has no NUL.
pub fn find_relation_named(name: &str) -> Option<Oid> {
    CString::new(name).ok().and_then(|name| find_relation(&name))
}

/// OID of one of our relations, by a name that is put together at run time. An error where there is none.
pub fn relation_named(name: &str) -> Oid {
    find_relation_named(name).unwrap_or_else(|| Report::from(TableError::Missing(name.to_owned())).raise())
}

/// OID of one of our relations, by name. An error where there is none: somebody renamed, moved or dropped it.
pub fn relation(name: &CStr) -> Oid {
    find_relation(name)
        .unwrap_or_else(|| Report::from(TableError::Missing(name.to_string_lossy().into_owned())).raise())
}
