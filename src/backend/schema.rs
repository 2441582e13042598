//! The extension's two schemas: `tally` has what users call and read, `tally_internal` what only our own SQL and code call.

use core::ffi::CStr;
use pgrx::pg_sys::{self, Oid};
use std::borrow::Cow;

const INTERNAL: &CStr = c"tally_internal";

/// A statement of ours as this installation understands it: before an update from 0.1.0, everything is in `tally`.
pub fn as_installed(statement: &str) -> Cow<'_, str> {
    if statement.contains("tally_internal.") && !is_updated() {
        statement.replace("tally_internal.", "tally.").into()
    } else {
        statement.into()
    }
}

/// Whether the installation was made or updated since 0.1.0.
pub fn is_updated() -> bool {
    internal_oid().is_some()
}

/// Whether a function belongs to the extension. That it lies in one of its schemas doesn't say so: a superuser, or a dump, may put anybody's
/// there.
pub fn has_function(function: Oid) -> bool {
    // SAFETY: catalogue look-ups, of a constant name and of a number.
    unsafe {
        let extension = pg_sys::get_extension_oid(c"pg_tally".as_ptr(), true);
        extension != Oid::INVALID
            && pg_sys::getExtensionOfObject(pg_sys::ProcedureRelationId, function) == extension
    }
}

/// Whether an object comes with Postgres.
pub fn is_of_postgres(object: Oid) -> bool {
    object.to_u32() < pg_sys::FirstNormalObjectId
}

/// The inner schema, where it belongs to the extension: before an update, anybody may have made one of that name.
fn internal_oid() -> Option<Oid> {
    // SAFETY: catalogue look-ups of constant names.
    unsafe {
        let schema = pg_sys::get_namespace_oid(INTERNAL.as_ptr(), true);
        if schema == Oid::INVALID {
            return None;
        }
        let extension = pg_sys::get_extension_oid(c"pg_tally".as_ptr(), true);
        let member_of = pg_sys::getExtensionOfObject(pg_sys::NamespaceRelationId, schema);
        (extension != Oid::INVALID && member_of == extension).then_some(schema)
    }
}
