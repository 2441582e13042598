//! Types of which making a value may run somebody's code: domains with constraints, what contains such, and ranges that somebody's functions
//! measure.

use super::evaluator;
use super::schema;
use super::version::attribute;
use pgrx::pg_sys::{self, Oid};

/// Whether making a value of a type runs somebody's code: that of a domain's constraints.
pub fn runs_code(of: Oid) -> bool {
    // SAFETY: a look-up in the cache.
    is_kind(of, pg_sys::TYPTYPE_DOMAIN) && unsafe { pg_sys::DomainHasConstraints(of) }
}

/// Whether making a value of a type, or of one within it, may run somebody's code.
pub fn may_run_code(of: Oid) -> bool {
    if schema::is_of_postgres(of) {
        return false;
    }
    // SAFETY: look-ups in the caches; a range's entry has what it was asked for, and a copied description is ours.
    unsafe {
        match pg_sys::get_typtype(of) as u8 {
            pg_sys::TYPTYPE_DOMAIN => runs_code(of) || may_run_code(pg_sys::getBaseType(of)),
            pg_sys::TYPTYPE_RANGE => {
                let entry = &*pg_sys::lookup_type_cache(of, pg_sys::TYPECACHE_RANGE_INFO as i32);
                let of_somebody =
                    |function: Oid| function != Oid::INVALID && !evaluator::may_run_as_owner(function);
                may_run_code((*entry.rngelemtype).type_id)
                    || of_somebody(entry.rng_canonical_finfo.fn_oid)
                    || of_somebody(entry.rng_subdiff_finfo.fn_oid)
            }
            pg_sys::TYPTYPE_MULTIRANGE => may_run_code(pg_sys::get_multirange_range(of)),
            pg_sys::TYPTYPE_COMPOSITE => {
                let columns = pg_sys::lookup_rowtype_tupdesc_copy(of, -1);
                (0..(*columns).natts as usize).any(|place| {
                    let column = attribute(columns, place);
                    !column.attisdropped && may_run_code(column.atttypid)
                })
            }
            _ => {
                let element = pg_sys::get_element_type(of);
                element != Oid::INVALID && may_run_code(element)
            }
        }
    }
}

/// Whether somebody made a type, of a kind.
pub fn is_kind(of: Oid, kind: u8) -> bool {
    // SAFETY: a look-up in the cache.
    !schema::is_of_postgres(of) && unsafe { pg_sys::get_typtype(of) } as u8 == kind
}
