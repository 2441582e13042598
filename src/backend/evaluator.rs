//! What surrounds the evaluation of expressions that users declare: whoever calls, their code has nobody's rights, and
//! leaves nothing behind.

use super::session;
use super::subtransaction::{self, Verdict};
use core::ffi::CStr;
use pgrx::pg_sys::{self, Oid};
use std::cell::Cell;
use tally_core::scope_key;

/// The role that expressions are evaluated as. It owns nothing.
const ROLE: &CStr = c"tally_evaluator";
/// A number that no role has: it has what PUBLIC has, and stands in where the role is not there yet, or was dropped.
const NO_ROLE: Oid = Oid::from_u32(1);

thread_local! {
    static IS_RUNNING: Cell<bool> = const { Cell::new(false) };
}

/// Whether code of anybody's may be running here in somebody else's session.
pub fn is_running() -> bool {
    IS_RUNNING.get()
}

/// Puts back what was, also where an error ends the work.
struct Running(bool);

impl Running {
    fn begin() -> Self {
        Self(IS_RUNNING.replace(true))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        IS_RUNNING.set(self.0);
    }
}

/// Runs `work` as nobody, confined. Enough for expressions of Postgres' own functions and ours, which read no setting.
pub fn as_nobody<T>(work: impl FnOnce() -> T) -> T {
    // SAFETY: a catalogue look-up of a constant name.
    let role = unsafe { pg_sys::get_role_oid(ROLE.as_ptr(), true) };
    confined(if role == Oid::INVALID { NO_ROLE } else { role }, work)
}

/// Runs `work` as the owner of a table, confined, in a tenant's scope or in none, and undoes it. A superuser who ran it as
/// that role by SET ROLE would be one RESET ROLE of the owner's code away from running that code as a superuser.
pub fn as_owner_of<T>(table: Oid, tenant: Option<&str>, work: impl FnOnce() -> T) -> T {
    // SAFETY: a catalogue look-up; of a table that is gone it gives no role.
    let owner = unsafe { owner(table) };
    let key = tenant.map_or_else(String::new, |tenant| scope_key::of(tenant, None));
    let scoped = || session::in_scope(&key, || confined(owner, work));
    subtransaction::run(|| Verdict::Undo(scoped())).unwrap_or_else(|caught| caught.rethrow())
}

/// The owner of a relation.
unsafe fn owner(relation: Oid) -> Oid {
    // SAFETY: the relation is open, with a lock, while its row of the catalogue is read; a missing one is an error.
    unsafe {
        let lock = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
        let relation = pg_sys::relation_open(relation, lock);
        let owner = (*(*relation).rd_rel).relowner;
        pg_sys::relation_close(relation, lock);
        owner
    }
}

/// Runs `work` as a role that can't change roles, make temporary objects, fire deferred triggers or leave settings changed.
fn confined<T>(role: Oid, work: impl FnOnce() -> T) -> T {
    // SAFETY: the role is put back below; on error Postgres does it when it aborts the (sub)transaction.
    unsafe {
        let confined = pg_sys::SECURITY_LOCAL_USERID_CHANGE | pg_sys::SECURITY_RESTRICTED_OPERATION;
        let (mut caller, mut security) = (Oid::INVALID, 0);
        pg_sys::GetUserIdAndSecContext(&raw mut caller, &raw mut security);
        let level = pg_sys::NewGUCNestLevel();
        let _running = Running::begin();
        pg_sys::SetUserIdAndSecContext(role, security | confined as i32);
        let result = work();
        // As after an index's functions: settings that the code has changed are as they were.
        pg_sys::AtEOXact_GUC(false, level);
        pg_sys::SetUserIdAndSecContext(caller, security);
        result
    }
}

/// Runs `work`, in which code of anybody's may run, as nobody, with fixed settings and without a scope, and undoes it: rows,
/// objects, cursors, notifications, triggers that wait for the commit, and settings. What it returns must be its own, not
/// the subtransaction's.
pub fn apart<T>(work: impl FnOnce() -> T) -> T {
    let fixed = || session::with_fixed_settings(|| session::in_scope("", || as_nobody(work)));
    subtransaction::run(|| Verdict::Undo(fixed())).unwrap_or_else(|caught| caught.rethrow())
}
