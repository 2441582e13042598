//! What surrounds the evaluation of expressions that users declare: whoever calls, their code has nobody's rights, and
//! leaves nothing behind.

use super::kept_portals::Kept;
use super::report::Report;
use super::subtransaction::{self, Caught, Verdict};
use super::{guarded, hearing, schema, session, version};
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
pub const SETTINGS: [&str; 27] = [
    "array_nulls",
    "bytea_output",
    "client_min_messages",
    "datestyle",
    "default_text_search_config",
    "enable_bitmapscan",
    "enable_hashagg",
    "enable_hashjoin",
    "enable_indexonlyscan",
    "enable_indexscan",
    "enable_mergejoin",
    "enable_nestloop",
    "enable_seqscan",
    "enable_sort",
    "extra_float_digits",
    "intervalstyle",
    "jit",
    "lc_monetary",
    "lc_numeric",
    "lc_time",
    "plan_cache_mode",
    "search_path",
    "standard_conforming_strings",
    "timezone",
    "work_mem",
    "xmlbinary",
    "xmloption",
];

/// The languages internal and C, whose numbers are Postgres' own.
const INTERNAL: Oid = Oid::from_u32(12);
const C: Oid = Oid::from_u32(13);

/// Whose code may be running in somebody else's session.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Running {
    Nobodys,
    /// That of a declared expression.
    Declared,
    /// That of columns, constraints and indexes which an administrator has added to a table of ours.
    Added,
    /// That of a table's owner, as a trial, whose changes are undone.
    Tried,
}

thread_local! {
    /// With the transaction's number: nothing of one reaches the next.
    static RUNNING: Cell<(Running, u32)> = const { Cell::new((Running::Nobodys, 0)) };
}

/// While it lives, code of somebody's is guarded. Puts back what was, also where an error ends the work.
struct Guard {
    before: (Running, u32),
    /// What errors are told with: the session's statement among it, which the code could ask for.
    context: *mut pg_sys::ErrorContextCallback,
    /// Whether all messages are heard for the guard's sake.
    hears: bool,
    _cursors: Kept,
}

impl Guard {
    fn begin(now: Running) -> Self {
        let before = RUNNING.replace((now, version::transaction_number()));
        // SAFETY: a list on the stack, of which what lies below lives longer than this.
        let context =
            unsafe { (&raw mut pg_sys::error_context_stack).replace(subtransaction::noting_alone()) };
        Self { before, context, hears: hearing::hear_messages(), _cursors: Kept::begin() }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        RUNNING.set(self.before);
        if self.hears {
            hearing::hear_log_alone();
        }
        // SAFETY: see above.
        unsafe { pg_sys::error_context_stack = self.context };
    }
}

fn running() -> Running {
    let (running, transaction) = RUNNING.get();
    if running == Running::Nobodys || transaction != version::transaction_number() {
        Running::Nobodys
    } else {
        running
    }
}

/// Whether code of somebody's may be running, which may read and compute, and nothing else: what it did otherwise would be done in the
/// session of whoever ingests, and much of that no rollback undoes.
pub fn is_running() -> bool {
    running() != Running::Nobodys
}

/// Whether messages below errors are told nobody, nor kept in the log: the code reads rows of everybody's, and whoever calls, or reads the log, may not.
pub fn is_mute() -> bool {
    matches!(running(), Running::Declared | Running::Added)
}

fn refuse(what: &str) -> ! {
    let (whose, hint) = match running() {
        Running::Tried => {
            // Not what a policy answers, which the trial is about.
            Report::new("0A000", format!("a trial can't {what}"))
                .hint("no rollback would undo it in the session that tries; try the table without what does it, as a trigger")
                .raise()
        }
        Running::Added => ("what was added to a table of pg_tally", "columns, constraints and indexes"),
        _ => ("the code of a declared expression", "it"),
    };
    Report::new("42501", format!("{whose} can't {what}"))
        .hint(format!("{hint} may read and compute alone, in the session of whoever ingests; return a value and change nothing"))
        .raise()
}

/// Refuses any command. A trial's code may run them, but for SET: some of what is set stays.
#[pg_guard]
pub unsafe extern "C-unwind" fn refuse_command(node: *mut pg_sys::Node) {
    // SAFETY: the node is a utility statement; names of commands are constants of Postgres'.
    let (name, sets) = unsafe {
        let name = CStr::from_ptr(pg_sys::GetCommandTagName(pg_sys::CreateCommandTag(node)));
        (name, (*node).type_ == pg_sys::NodeTag::T_VariableSetStmt)
    };
    if sets || running() != Running::Tried {
        refuse(&format!("run {}", name.to_string_lossy()));
    }
}

/// Refuses statements that write or lock rows.
#[pg_guard]
pub unsafe extern "C-unwind" fn refuse_writing(plan: *mut pg_sys::PlannedStmt) {
    // SAFETY: a statement that is about to start.
    let plan = unsafe { &*plan };
    let writes =
        plan.commandType != pg_sys::CmdType::CMD_SELECT || plan.hasModifyingCTE || !plan.rowMarks.is_null();
    if writes && running() != Running::Tried {
        refuse("write or lock rows");
    }
}

/// Refuses functions that do more than read and compute, as far as that is known of them: of those in SQL and PL/pgSQL by what they do.
#[pg_guard]
pub unsafe extern "C-unwind" fn refuse_function(function: Oid) {
    if problem(function, running()).is_some() {
        refuse(&format!("call {}()", guarded::name_of(function)));
    }
}

/// What a function does that code which was added to a table of ours can't do; `None` where it may be called.
pub fn problem_of_added(function: Oid) -> Option<String> {
    problem(function, Running::Added)
}

/// Whether a function may run with the rights of the owner of our tables, wherever somebody put a call of it: Postgres' own that only read
/// and compute, ours, and those in C. What a query that it takes as text does is somebody's again, and so is what a type runs that it takes by
/// number.
pub fn may_run_as_owner(function: Oid) -> bool {
    // SAFETY: a look-up in the cache, whose row is read before it is released.
    let (inside, language, volatility) = unsafe {
        let cache = pg_sys::SysCacheIdentifier::PROCOID as core::ffi::c_int;
        let row = pg_sys::SearchSysCache1(cache, Datum::from(function));
        if row.is_null() {
            return false;
        }
        let form = &*pg_sys::GETSTRUCT(row).cast::<pg_sys::FormData_pg_proc>();
        let mut is_null = false;
        let source =
            pg_sys::SysCacheGetAttr(cache, row, pg_sys::Anum_pg_proc_prosrc as i16, &raw mut is_null);
        let inside = String::from_polymorphic_datum(source, is_null, pg_sys::TEXTOID).unwrap_or_default();
        let found = (inside, form.prolang, form.provolatile as u8);
        pg_sys::ReleaseSysCache(row);
        found
    };
    if !schema::is_of_postgres(function) {
        return language == C || schema::has_function(function);
    }
    let inside = inside.as_bytes();
    language != INTERNAL
        || !guarded::takes_queries(inside)
            && !guarded::makes_by_type(function)
            && (volatility != pg_sys::PROVOLATILE_VOLATILE
                || guarded::is_harmless(inside)
                || guarded::is_of_sequences(inside))
}

fn problem(function: Oid, running: Running) -> Option<String> {
    let is_harmless = |inside: &[u8]| {
        guarded::is_harmless(inside)
            || running != Running::Declared && guarded::is_of_sequences(inside)
            // The trial undoes these.
            || running == Running::Tried && (inside == b"pg_notify" || guarded::is_of_large_objects(inside))
    };
    // SAFETY: a look-up in the cache, whose row is read before it is released.
    unsafe {
        let cache = pg_sys::SysCacheIdentifier::PROCOID as core::ffi::c_int;
        let row = pg_sys::SearchSysCache1(cache, Datum::from(function));
        if row.is_null() {
            return None;
        }
        let form = &*pg_sys::GETSTRUCT(row).cast::<pg_sys::FormData_pg_proc>();
        let attribute = |number: u32| {
            let mut is_null = false;
            let value = pg_sys::SysCacheGetAttr(cache, row, number as i16, &raw mut is_null);
            (!is_null).then_some(value)
        };
        let inside = attribute(pg_sys::Anum_pg_proc_prosrc)
            .filter(|_| form.prolang == INTERNAL)
            .and_then(|name| <&str>::from_polymorphic_datum(name, false, pg_sys::TEXTOID))
            .unwrap_or_default();
        // What an administrator adds and an owner tries may call what extensions have.
        let is_compiled = form.prolang == INTERNAL || form.prolang == C && running == Running::Declared;
        let is_volatile = form.provolatile as u8 == pg_sys::PROVOLATILE_VOLATILE;
        let is_free = running == Running::Tried;
        let sets = || {
            let settings = attribute(pg_sys::Anum_pg_proc_proconfig).and_then(|settings| {
                <Vec<Option<String>>>::from_polymorphic_datum(settings, false, pg_sys::TEXTARRAYOID)
            })?;
            settings.into_iter().flatten().find(|setting| !is_of_reading(setting))
        };
        let problem = if !is_free && form.prosecdef {
            Some("has the rights of its owner".to_owned())
        } else if !is_free && guarded::guarded(function).is_some()
            || is_compiled && is_volatile && !is_harmless(inside.as_bytes())
        {
            Some("may change or tell more than rows".to_owned())
        } else {
            sets().map(|setting| format!("sets {setting}"))
        };
        pg_sys::ReleaseSysCache(row);
        problem
    }
}

/// Whether a setting of a function's, `name=value`, may be one.
fn is_of_reading(setting: &str) -> bool {
    let name = setting.split('=').next().unwrap_or_default();
    SETTINGS.iter().any(|known| known.eq_ignore_ascii_case(name))
}

/// Runs `work`, in which Postgres' own functions and ours alone run, as nobody, confined, with fixed settings: functions that are called
/// immutable read some nevertheless.
pub fn of_built_in<T>(work: impl FnOnce() -> T) -> T {
    session::with_settings_of_values(|| as_nobody(work))
}

/// Runs `work` as nobody, confined. Enough to compare values of Postgres' own types, which no setting changes.
pub fn as_nobody<T>(work: impl FnOnce() -> T) -> T {
    // SAFETY: a catalogue look-up of a constant name.
    let role = unsafe { pg_sys::get_role_oid(ROLE.as_ptr(), true) };
    confined(if role == Oid::INVALID { NO_ROLE } else { role }, work)
}

/// Runs `work` as the owner of a table, confined, in a tenant's scope or in none, and undoes it; of a tenant without a name, in none and
/// without being bound by the row security of the owner's own tables. A superuser who ran it as
/// that role by SET ROLE would be one RESET ROLE of the owner's code away from running that code as a superuser.
pub fn as_owner_of<T>(table: Oid, tenant: Option<&str>, work: impl FnOnce() -> T) -> Result<T, Caught> {
    // SAFETY: a catalogue look-up; of a table that is gone it gives no role.
    let owner = unsafe { owner(table) };
    let security = if tenant == Some("") { pg_sys::SECURITY_NOFORCE_RLS } else { 0 };
    let tenant = tenant.filter(|tenant| !tenant.is_empty());
    let key = tenant.map_or_else(String::new, |tenant| scope_key::of(tenant, None));
    let guarded = || {
        let _guard = Guard::begin(Running::Tried);
        confined_with(owner, security, work)
    };
    let scoped = || session::in_scope(&key, || alone(guarded));
    subtransaction::run(|| Verdict::Undo(scoped()))
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
    confined_with(role, 0, work)
}

/// The same, with more of what Postgres keeps beside the role.
fn confined_with<T>(role: Oid, more: u32, work: impl FnOnce() -> T) -> T {
    // SAFETY: the role is put back below; on error Postgres does it when it aborts the (sub)transaction.
    unsafe {
        let confined = pg_sys::SECURITY_LOCAL_USERID_CHANGE | pg_sys::SECURITY_RESTRICTED_OPERATION | more;
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
    alone(|| {
        let _guard = Guard::begin(Running::Added);
        as_nobody(work)
    })
}

/// Runs `work` without the triggers and rules that fire in an ordinary session, foreign keys among them: what they refuse, change or
/// swallow comes before the table's policies, or hides that these let a row pass.
pub fn without_triggers<T>(work: impl FnOnce() -> T) -> T {
    session::with_settings(&[(c"session_replication_role", c"replica")], work)
}

/// Without parallel workers, which don't know of a guard: plans that are made have none, and those that were made get none.
fn alone<T>(work: impl FnOnce() -> T) -> T {
    session::with_settings(
        &[(c"max_parallel_workers_per_gather", c"0"), (c"max_parallel_workers", c"0")],
        work,
    )
}

/// Runs `work`, in which code of anybody's may run, as nobody, with fixed settings and without a scope, and undoes it: rows,
/// objects, cursors, notifications, triggers that wait for the commit, and settings. What it returns must be its own, not
/// the subtransaction's.
pub fn apart<T>(work: impl FnOnce() -> T) -> T {
    try_apart(work).unwrap_or_else(|caught| caught.rethrow())
}

/// The same, where an error of the work comes back.
pub fn try_apart<T>(work: impl FnOnce() -> T) -> Result<T, Caught> {
    let guarded = || {
        let _guard = Guard::begin(Running::Declared);
        as_nobody(work)
    };
    let fixed = || session::with_fixed_settings(|| session::in_scope("", || alone(guarded)));
    subtransaction::run(|| Verdict::Undo(fixed()))
}
