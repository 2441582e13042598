//! What a planned statement reads: whether a policy binds the one who runs it.

use super::version;
use core::ffi::CStr;
use pgrx::pg_sys::{self, CheckEnableRlsResult, Oid};

/// A statement that reads tables or functions.
pub struct Reads<'a>(&'a pg_sys::PlannedStmt);

impl<'a> Reads<'a> {
    /// `None` where it reads nothing.
    ///
    /// # Safety
    /// The statement is one that is about to be executed, or null.
    pub unsafe fn of(statement: *const pg_sys::PlannedStmt) -> Option<Self> {
        // SAFETY: the caller's promise.
        let statement = unsafe { statement.as_ref() }?;
        (!statement.rtable.is_null()).then_some(Self(statement))
    }

    /// Whether a table of the statement, also one that the plan leaves out, has a policy of this name that holds for whoever
    /// reads it.
    pub fn are_bound_by(&self, policy: &CStr) -> bool {
        // SAFETY: the range table is a list of its entries, whose relations the statement has locked.
        unsafe {
            (0..list_length(self.0.rtable)).any(|place| {
                let entry = &*pg_sys::list_nth(self.0.rtable, place).cast::<pg_sys::RangeTblEntry>();
                entry.rtekind == pg_sys::RTEKind::RTE_RELATION
                    && pg_sys::check_enable_rls(entry.relid, version::reader(self.0, entry), true)
                        == CheckEnableRlsResult::RLS_ENABLED as core::ffi::c_int
                    && has_policy(entry.relid, policy)
            })
        }
    }
}

unsafe fn list_length(list: *mut pg_sys::List) -> i32 {
    // SAFETY: a list is null where it is empty.
    unsafe { list.as_ref() }.map_or(0, |list| list.length)
}

unsafe fn has_policy(relation: Oid, name: &CStr) -> bool {
    // SAFETY: the relation is closed again; its policies live as long as it is open.
    unsafe {
        let opened = pg_sys::RelationIdGetRelation(relation);
        if opened.is_null() {
            return false;
        }
        let found = (*opened).rd_rsdesc.as_ref().is_some_and(|security| {
            (0..list_length(security.policies)).any(|place| {
                let policy = pg_sys::list_nth(security.policies, place).cast::<pg_sys::RowSecurityPolicy>();
                CStr::from_ptr((*policy).policy_name) == name
            })
        });
        pg_sys::RelationClose(opened);
        found
    }
}
