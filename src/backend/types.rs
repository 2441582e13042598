//! Types and their operators, as the catalogue has them.

use core::ffi::CStr;
use pgrx::pg_sys::{self, Datum, Oid};

/// Function of `oid = oid`, the same since that type exists.
pub(super) const OID_EQ: u32 = 184;

/// SQL name of a type, of values of any length: `character` and `bit` would be those of one.
pub fn type_name(oid: Oid) -> String {
    // SAFETY: the result is a palloc'd C string.
    unsafe {
        let name = pg_sys::format_type_extended(oid, -1, pg_sys::FORMAT_TYPE_TYPEMOD_GIVEN as pg_sys::bits16);
        CStr::from_ptr(name).to_string_lossy().into_owned()
    }
}

/// OID of one of our types, by name.
pub fn own_type(name: &CStr) -> Oid {
    // SAFETY: catalogue look-ups of constant names.
    unsafe {
        let schema = pg_sys::get_namespace_oid(c"tally".as_ptr(), false);
        let nulls = Datum::from(0);
        pg_sys::GetSysCacheOid(
            pg_sys::SysCacheIdentifier::TYPENAMENSP as i32,
            1,
            Datum::from(name.as_ptr()),
            schema.into(),
            nulls,
            nulls,
        )
    }
}
