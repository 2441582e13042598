//! The extension's two schemas: `tally` has what users call and read, `tally_internal` what only our own SQL and code call.

use core::ffi::CStr;
use pgrx::pg_sys::{self, Oid};
use std::borrow::Cow;

const PUBLIC: &CStr = c"tally";
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

/// Whether a schema is one of the extension's.
pub fn is_ours(schema: Oid) -> bool {
    // SAFETY: a catalogue look-up of a constant name.
    let public = unsafe { pg_sys::get_namespace_oid(PUBLIC.as_ptr(), true) };
    schema != Oid::INVALID && (schema == public || internal_oid() == Some(schema))
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
