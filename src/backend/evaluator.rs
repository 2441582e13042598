//! What surrounds the evaluation of expressions that users declare: whoever calls, their code has nobody's rights, and
//! leaves nothing behind.

use super::report::Report;
use super::subtransaction::{self, Verdict};
use super::{array, guarded, hook, session};
use core::ffi::CStr;
use pgrx::pg_sys::{self, Datum, Oid};
use pgrx::prelude::*;
use std::cell::Cell;
use tally_core::scope_key;

/// The role that expressions are evaluated as. It owns nothing.
const ROLE: &CStr = c"tally_evaluator";
/// A number that no role has: it has what PUBLIC has, and stands in where the role is not there yet, or was dropped.
const NO_ROLE: Oid = Oid::from_u32(1);

/// Settings that a function of somebody's may have of its own there: where names are looked up, how values are read and written,
/// and how plans are made. Others reach further, and not all end with the function: `exit_on_error` ends the session, `seed` stays.
pub const SETTINGS: [&str; 17] = [
    "bytea_output",
    "datestyle",
    "default_text_search_config",
    "enable_hashagg",
    "enable_hashjoin",
    "enable_nestloop",
    "enable_sort",
    "extra_float_digits",
    "intervalstyle",
    "jit",
    "lc_time",
    "plan_cache_mode",
    "search_path",
    "standard_conforming_strings",
    "timezone",
    "work_mem",
    "xmloption",
];

/// The languages internal and C, whose numbers are Postgres' own.
const COMPILED: [Oid; 2] = [Oid::from_u32(12), Oid::from_u32(13)];

/// Whose code may be running in somebody else's session.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Running {
    Nobodys,
    /// That of a declared expression.
    Declared,
    /// That of columns and constraints which an administrator has added to a table of ours.
    Added,
}

thread_local! {
    static RUNNING: Cell<Running> = const { Cell::new(Running::Nobodys) };
}

/// Puts back what was, also where an error ends the work.
struct Guard(Running);

impl Guard {
    fn begin(now: Running) -> Self {
        Self(RUNNING.replace(now))
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        RUNNING.set(self.0);
    }
}

/// Whether code of somebody's may be running, which may read and compute, and nothing else: what it did otherwise would be done in the
/// session of whoever ingests, and much of that no rollback undoes.
pub fn is_running() -> bool {
    RUNNING.get() != Running::Nobodys
}

fn refuse(what: &str) -> ! {
    Report::new("42501", format!("the code of a declared expression can't {what}"))
        .hint("it runs in the session of whoever ingests, and may read and compute alone; let it return a value and change nothing")
        .raise()
}

/// Refuses any command.
#[pg_guard]
pub unsafe extern "C-unwind" fn refuse_command(node: *mut pg_sys::Node) {
    // SAFETY: the node is a utility statement; names of commands are constants of Postgres'.
    let name = unsafe { CStr::from_ptr(pg_sys::GetCommandTagName(pg_sys::CreateCommandTag(node))) };
    refuse(&format!("run {}", name.to_string_lossy()))
}

/// Refuses statements that write or lock rows.
#[pg_guard]
pub unsafe extern "C-unwind" fn refuse_writing(plan: *mut pg_sys::PlannedStmt) {
    // SAFETY: a statement that is about to start.
    let plan = unsafe { &*plan };
    if plan.commandType != pg_sys::CmdType::CMD_SELECT || plan.hasModifyingCTE || !plan.rowMarks.is_null() {
        refuse("write or lock rows");
    }
}

/// Refuses functions that do more than read and compute, as far as that is known of them: of those in SQL and PL/pgSQL by what they do.
#[pg_guard]
pub unsafe extern "C-unwind" fn refuse_function(function: Oid) {
    let harmless = |function| {
        guarded::is_harmless(function)
            || RUNNING.get() == Running::Added && guarded::is_of_sequences(function)
    };
    // SAFETY: a look-up in the cache, whose row is read before it is released.
    let refused = unsafe {
        let cache = pg_sys::SysCacheIdentifier::PROCOID as core::ffi::c_int;
        let row = pg_sys::SearchSysCache1(cache, Datum::from(function));
        if row.is_null() {
            return;
        }
        let form = &*pg_sys::GETSTRUCT(row).cast::<pg_sys::FormData_pg_proc>();
        let is_compiled = COMPILED.contains(&form.prolang);
        let is_volatile = form.provolatile as u8 == pg_sys::PROVOLATILE_VOLATILE;
        let mut has_none = false;
        let settings =
            pg_sys::SysCacheGetAttr(cache, row, pg_sys::Anum_pg_proc_proconfig as i16, &raw mut has_none);
        let refused = form.prosecdef
            || is_compiled && is_volatile && !harmless(function)
            || guarded::guarded(function).is_some()
            || !has_none
                && array::read_varlenas(settings)
                    .into_iter()
                    .flatten()
                    .any(|setting| !is_of_reading(setting));
        pg_sys::ReleaseSysCache(row);
        refused
    };
    if refused {
        refuse(&format!("call {}()", hook::function_name(function)));
    }
}

/// Whether a setting of a function's, `name=value`, may be one.
fn is_of_reading(setting: &[u8]) -> bool {
    let name = setting.split(|&byte| byte == b'=').next().unwrap_or_default();
    SETTINGS.iter().any(|known| known.as_bytes().eq_ignore_ascii_case(name))
}

/// Cursors that are open, as not to be run, moved or closed.
struct Kept(Vec<*mut pg_sys::PortalData>);

impl Kept {
    fn begin() -> Self {
        // SAFETY: the portals' own memory, by whose names they are found; those that exist now are closed by nobody until this is dropped.
        unsafe {
            let kept: Vec<_> = portals()
                .into_iter()
                .filter(|&portal| (*portal).status == pg_sys::PortalStatus::PORTAL_READY)
                .collect();
            kept.iter().for_each(|&portal| (*portal).status = pg_sys::PortalStatus::PORTAL_ACTIVE);
            Self(kept)
        }
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        // SAFETY: see above.
        self.0.iter().for_each(|&portal| unsafe { (*portal).status = pg_sys::PortalStatus::PORTAL_READY });
    }
}

/// All portals of the session. Postgres lists them for itself alone; each has a memory context that is called by its name.
unsafe fn portals() -> Vec<*mut pg_sys::PortalData> {
    // SAFETY: contexts are linked while they exist, and their names are C strings.
    unsafe {
        let named = |context: pg_sys::MemoryContext, name: &CStr| CStr::from_ptr((*context).name) == name;
        let mut portals = Vec::new();
        for all in children(pg_sys::TopMemoryContext).filter(|&child| named(child, c"TopPortalContext")) {
            for one in
                children(all).filter(|&child| named(child, c"PortalContext") && !(*child).ident.is_null())
            {
                let name =
                    if CStr::from_ptr((*one).ident) == c"<unnamed>" { c"".as_ptr() } else { (*one).ident };
                portals.push(pg_sys::GetPortalByName(name));
            }
        }
        portals.retain(|portal| !portal.is_null());
        portals
    }
}

unsafe fn children(context: pg_sys::MemoryContext) -> impl Iterator<Item = pg_sys::MemoryContext> {
    // SAFETY: a context that exists, and nothing is made or deleted while they are gone through.
    unsafe {
        let some = |context: pg_sys::MemoryContext| (!context.is_null()).then_some(context);
        std::iter::successors(some((*context).firstchild), move |&child| some((*child).nextchild))
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
        pg_sys::SetUserIdAndSecContext(role, security | confined as i32);
        let result = work();
        // As after an index's functions: settings that the code has changed are as they were.
        pg_sys::AtEOXact_GUC(false, level);
        pg_sys::SetUserIdAndSecContext(caller, security);
        result
    }
}

/// Runs `work`, in which code that an administrator has added to a table of ours may run, as nobody, confined.
pub fn as_added<T>(work: impl FnOnce() -> T) -> T {
    let _guard = Guard::begin(Running::Added);
    as_nobody(work)
}

/// Runs `work`, in which code of anybody's may run, as nobody, with fixed settings and without a scope, and undoes it: rows,
/// objects, cursors, notifications, triggers that wait for the commit, and settings. What it returns must be its own, not
/// the subtransaction's.
pub fn apart<T>(work: impl FnOnce() -> T) -> T {
    let guarded = || {
        let _guards = (Guard::begin(Running::Declared), Kept::begin());
        as_nobody(work)
    };
    // Nor does a parallel worker know of the guards.
    let alone = || session::with_settings(&[(c"max_parallel_workers_per_gather", c"0")], guarded);
    let fixed = || session::with_fixed_settings(|| session::in_scope("", alone));
    subtransaction::run(|| Verdict::Undo(fixed())).unwrap_or_else(|caught| caught.rethrow())
}
