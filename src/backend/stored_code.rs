//! Expressions of a table as they are stored: reading them runs nothing of them, as reading what the relation cache keeps does.

use super::list;
use super::version;
use core::ffi::c_int;
use pgrx::pg_sys::{self, Datum};

/// The CHECK constraints of an open table that are enforced.
///
/// # Safety
/// The description is that of an open relation.
pub(super) unsafe fn checks<'a>(
    descriptor: pg_sys::TupleDesc,
) -> impl Iterator<Item = &'a pg_sys::ConstrCheck> {
    // SAFETY: the description has `num_check` constraints, which live as long as the relation is open.
    let all: &[_] = unsafe {
        match (*descriptor).constr.as_ref() {
            Some(constraints) if constraints.num_check > 0 => {
                core::slice::from_raw_parts(constraints.check, usize::from(constraints.num_check))
            }
            _ => &[],
        }
    };
    all.iter().filter(|check| version::is_enforced(check))
}

/// The expressions and the predicate of an open index, as they are stored; nothing of them runs.
///
/// # Safety
/// The index is open.
pub(super) unsafe fn of_index(index: pg_sys::Relation) -> Vec<*mut pg_sys::Node> {
    let parts = [pg_sys::Anum_pg_index_indexprs, pg_sys::Anum_pg_index_indpred];
    let stored = parts.into_iter().filter_map(|part| {
        let mut is_null = false;
        let cache = pg_sys::SysCacheIdentifier::INDEXRELID as c_int;
        // SAFETY: the row lives as long as the index is open; what is stored is a tree's text.
        unsafe {
            let text = pg_sys::SysCacheGetAttr(cache, (*index).rd_indextuple, part as i16, &raw mut is_null);
            (!is_null).then(|| pg_sys::stringToNode(pg_sys::text_to_cstring(text.cast_mut_ptr())).cast())
        }
    });
    stored.collect()
}

/// The expressions of an open table's extended statistics, which are computed, as far as they are constant, where the table is planned.
///
/// # Safety
/// The relation is open.
pub(super) unsafe fn of_statistics(relation: pg_sys::Relation) -> Vec<*mut pg_sys::Node> {
    let mut stored = Vec::new();
    // SAFETY: a row of the catalogue is read before it is released; what is stored is a tree's text.
    unsafe {
        for statistics in list::ids(pg_sys::RelationGetStatExtList(relation)) {
            let cache = pg_sys::SysCacheIdentifier::STATEXTOID as c_int;
            let row = pg_sys::SearchSysCache1(cache, Datum::from(statistics));
            if row.is_null() {
                continue;
            }
            let mut is_null = false;
            let part = version::STATISTICS_EXPRESSIONS;
            let text = pg_sys::SysCacheGetAttr(cache, row, part, &raw mut is_null);
            if !is_null {
                stored.push(pg_sys::stringToNode(pg_sys::text_to_cstring(text.cast_mut_ptr())).cast());
            }
            pg_sys::ReleaseSysCache(row);
        }
    }
    stored
}
