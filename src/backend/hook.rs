//! Hooks: what is asked before Postgres plans, executes or runs a command, after it did, before it calls one of its own
//! functions, and before it tells a client something.

use super::added_code;
use super::binary_upgrade;
use super::command::{self, Command};
use super::evaluator;
use super::guarded::{self, Guarded};
use super::hearing;
use super::log as log_line;
use super::reads::Reads;
use super::report::Report;
use super::row_count;
use super::version;
use core::ffi::{CStr, c_char, c_int, c_void};
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::pg_sys::{self, Oid};
use pgrx::prelude::*;
use std::sync::OnceLock;

/// What to ask; an error is raised in place of the statement.
#[derive(Clone, Copy)]
pub struct Hooks {
    /// In parallel mode, too, where nothing can be set.
    pub before_planning: fn() -> Result<(), ErrorReport>,
    pub before_execution: fn() -> Result<(), ErrorReport>,
    /// Asked of statements that read anything, in parallel workers, too.
    pub before_reading: fn(&Reads) -> Result<(), ErrorReport>,
    pub before_command: fn(Command) -> Result<(), ErrorReport>,
    /// Also when a statement goes on that began before.
    pub before_running: fn(),
    pub after_statement: fn(),
    /// Rows that a statement which runs now may hand out, in all its runs; and what it is told that hands out more.
    pub max_rows: fn() -> Option<u64>,
    pub too_many_rows: fn(u64) -> Report,
    /// A function of schema tally that bounds its rows itself: a statement that does nothing but call it is not limited.
    pub bounds_itself: &'static CStr,
    pub before_function: fn(Guarded, Oid) -> Result<(), ErrorReport>,
    /// A function that the protocol calls, without a statement whose rows could be counted.
    pub before_call: fn() -> Result<(), ErrorReport>,
    /// Looks up what `max_rows` says, before a command that isn't asked about otherwise.
    pub before_showing: fn() -> Result<(), ErrorReport>,
    /// Before DISCARD ALL, which leaves the session as it was when it began.
    pub before_discarding: fn(),
    /// Whether the client must not see messages below INFO; called at any time, also within an error.
    pub hushes: fn() -> bool,
    /// How many bytes of a message of so many the client may see, and whether it is an error; `None` for all. Called as `hushes` is.
    pub bytes_to_tell: fn(u64, bool) -> Option<u64>,
}

/// The hooks, and those that other libraries had set before.
struct Installed {
    hooks: Hooks,
    planner: pg_sys::planner_hook_type,
    start: pg_sys::ExecutorStart_hook_type,
    run: pg_sys::ExecutorRun_hook_type,
    end: pg_sys::ExecutorEnd_hook_type,
    utility: pg_sys::ProcessUtility_hook_type,
    access: pg_sys::object_access_hook_type,
    log: pg_sys::emit_log_hook_type,
}

/// The module that is told of statements that read; each statement has a number that no other open one has.
#[derive(Clone, Copy)]
pub struct Observer {
    pub starts: fn(usize, &Reads),
    /// Also when a statement goes on. What it answers is given to `ran`, with the number of rows.
    pub runs: fn(usize) -> Option<(usize, i32)>,
    pub ran: fn(usize, Option<(usize, i32)>, u64),
    pub ends: fn(usize),
}

static OBSERVER: OnceLock<Observer> = OnceLock::new();

/// Has statements observed; once, when the library is loaded.
pub fn observe(observer: Observer) {
    let _ = OBSERVER.set(observer);
}

#[pg_guard]
unsafe extern "C-unwind" fn observe_start(query: *mut pg_sys::QueryDesc, flags: c_int) {
    // SAFETY: a statement that was started.
    unsafe {
        if flags & pg_sys::EXEC_FLAG_EXPLAIN_ONLY as c_int == 0
            && let Some(observer) = OBSERVER.get()
            && let Some(reads) = Reads::of((*query).plannedstmt)
        {
            (observer.starts)(query as usize, &reads);
        }
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn observe_end(query: *mut pg_sys::QueryDesc) {
    if let Some(observer) = OBSERVER.get() {
        (observer.ends)(query as usize);
    }
}

/// Rows that the run of a statement which has just ended returned.
unsafe fn rows_of(query: *mut pg_sys::QueryDesc) -> u64 {
    // SAFETY: the statement is open, and so is its state.
    unsafe { (*query).estate.as_ref().map_or(0, |state| state.es_processed) }
}

static INSTALLED: OnceLock<Installed> = OnceLock::new();

fn installed() -> &'static Installed {
    INSTALLED.get().expect("the hooks run after they were installed")
}

/// Puts the hooks in; called once, when the library is loaded.
pub fn install(hooks: Hooks) {
    // SAFETY: a backend, or the postmaster, has one thread; the hooks that were there are called by ours.
    unsafe {
        let before = Installed {
            hooks,
            planner: pg_sys::planner_hook,
            start: pg_sys::ExecutorStart_hook,
            run: pg_sys::ExecutorRun_hook,
            end: pg_sys::ExecutorEnd_hook,
            utility: pg_sys::ProcessUtility_hook,
            access: pg_sys::object_access_hook,
            log: pg_sys::emit_log_hook,
        };
        if INSTALLED.set(before).is_ok() {
            pg_sys::planner_hook = Some(plan);
            pg_sys::ExecutorStart_hook = Some(start);
            pg_sys::ExecutorRun_hook = Some(run);
            pg_sys::ExecutorEnd_hook = Some(end);
            pg_sys::ProcessUtility_hook = Some(utility);
            pg_sys::object_access_hook = Some(access);
            pg_sys::emit_log_hook = Some(log);
        }
    }
}

// An error of what a hook calls next must pass as it is: the guards of pgrx rebuild it, without names of constraints and with
// SQLSTATEs that they don't know as XX000. So these are Postgres' own functions, unguarded, and the hooks are frames that hold nothing,
// over which Postgres may jump. What we ask ourselves is guarded.
mod unguarded {
    use pgrx::pg_sys;
    use std::ffi::{c_char, c_int};

    #[allow(clippy::too_many_arguments, reason = "the functions' signatures are Postgres'")]
    unsafe extern "C-unwind" {
        pub fn standard_planner(
            query: *mut pg_sys::Query,
            text: *const c_char,
            options: c_int,
            parameters: pg_sys::ParamListInfo,
        ) -> *mut pg_sys::PlannedStmt;
        pub fn standard_ExecutorStart(query: *mut pg_sys::QueryDesc, flags: c_int);
        pub fn standard_ExecutorEnd(query: *mut pg_sys::QueryDesc);
        pub fn standard_ProcessUtility(
            statement: *mut pg_sys::PlannedStmt,
            text: *const c_char,
            read_only: bool,
            context: pg_sys::ProcessUtilityContext::Type,
            parameters: pg_sys::ParamListInfo,
            environment: *mut pg_sys::QueryEnvironment,
            destination: *mut pg_sys::DestReceiver,
            completion: *mut pg_sys::QueryCompletion,
        );
    }
}

/// Asks with a snapshot to look things up in: not every statement comes with one. It isn't the transaction's, so that
/// the isolation level can still be set. Outside a transaction, or in one that has failed, Postgres runs nothing but what
/// ends it.
unsafe fn ask(question: impl FnOnce() -> Result<(), ErrorReport>) {
    // SAFETY: what is pushed is popped; on error Postgres pops it when it aborts the (sub)transaction.
    unsafe {
        if !pg_sys::IsTransactionState() {
            return;
        }
        let had_snapshot = pg_sys::ActiveSnapshotSet();
        if !had_snapshot {
            pg_sys::PushActiveSnapshot(pg_sys::GetCatalogSnapshot(pg_sys::Oid::INVALID));
        }
        if let Err(report) = question() {
            report.report(PgLogLevel::ERROR);
        }
        if !had_snapshot {
            pg_sys::PopActiveSnapshot();
        }
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn ask_before_planning() {
    // SAFETY: called by a hook.
    unsafe { ask(installed().hooks.before_planning) }
}

#[pg_guard]
unsafe extern "C-unwind" fn ask_before_execution() {
    // SAFETY: called by a hook.
    unsafe { ask(installed().hooks.before_execution) }
}

/// After the statement was started, so that whoever may not read the table at all is told just that.
#[pg_guard]
unsafe extern "C-unwind" fn ask_before_reading(statement: *mut pg_sys::PlannedStmt) {
    // SAFETY: the statement that was started.
    unsafe {
        if pg_sys::IsTransactionState()
            && let Some(reads) = Reads::of(statement)
            && let Err(report) = (installed().hooks.before_reading)(&reads)
        {
            report.report(PgLogLevel::ERROR);
        }
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn ask_before_command(node: *mut pg_sys::Node) {
    // SAFETY: the node is a utility statement.
    unsafe {
        if !command::is_free(node) {
            ask(|| (installed().hooks.before_command)(command::read(node)));
        }
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn tell_before_discarding() {
    (installed().hooks.before_discarding)();
}

#[pg_guard]
unsafe extern "C-unwind" fn ask_before_function(object: Oid) {
    if let Some(guarded) = guarded::guarded(object) {
        // SAFETY: reads backend state. The protocol's own function call has no portal, and none of the other hooks.
        unsafe {
            if guarded != Guarded::Sets || pg_sys::ActivePortal.is_null() {
                ask(|| (installed().hooks.before_function)(guarded, object));
            }
        }
    }
}

/// Whether the protocol itself calls a function. Neither is there a statement or a portal then; but nor is there while deferred triggers run.
unsafe fn is_call_by_protocol() -> bool {
    // SAFETY: reads backend state.
    unsafe {
        let Some(entry) = pg_sys::MyBEEntry.as_ref() else { return false };
        pg_sys::debug_query_string.is_null()
            && pg_sys::ActivePortal.is_null()
            && (entry.st_state == pg_sys::BackendState::STATE_FASTPATH
                // Where activities aren't tracked, nobody can say.
                || entry.st_state == pg_sys::BackendState::STATE_DISABLED && pg_sys::MyBackendType != pg_sys::BackendType::B_BG_WORKER)
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn ask_before_call() {
    // SAFETY: called by a hook.
    unsafe { ask(installed().hooks.before_call) }
}

/// The receiver of a SHOW or CALL: one that counts, where rows are limited.
#[pg_guard]
unsafe extern "C-unwind" fn receiver_of_command(
    destination: *mut pg_sys::DestReceiver,
) -> *mut pg_sys::DestReceiver {
    let hooks = installed().hooks;
    // SAFETY: called by a hook, with the command's receiver.
    unsafe {
        ask(hooks.before_showing);
        match (hooks.max_rows)() {
            Some(most) if !destination.is_null() => {
                row_count::counting(destination, most, hooks.too_many_rows)
            }
            _ => destination,
        }
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn tell_before_running() {
    (installed().hooks.before_running)();
}

#[pg_guard]
unsafe extern "C-unwind" fn count_rows(query: *mut pg_sys::QueryDesc) {
    let hooks = installed().hooks;
    // SAFETY: the statement is about to run.
    unsafe {
        if let Some(most) = (hooks.max_rows)()
            && !row_count::is_only_call_of((*query).plannedstmt, hooks.bounds_itself)
        {
            row_count::put_between(query, most, hooks.too_many_rows);
        }
    }
}

/// Tells that a statement, or a part of one, has run.
#[pg_guard]
unsafe extern "C-unwind" fn tell_after() {
    (installed().hooks.after_statement)();
}

unsafe extern "C-unwind" fn plan(
    query: *mut pg_sys::Query,
    text: *const c_char,
    options: c_int,
    parameters: pg_sys::ParamListInfo,
) -> *mut pg_sys::PlannedStmt {
    // SAFETY: the arguments are passed on as they came.
    unsafe {
        ask_before_planning();
        added_code::refuse_in_query(query);
        let next = installed().planner.unwrap_or(unguarded::standard_planner);
        next(query, text, options, parameters)
    }
}

unsafe extern "C-unwind" fn start(query: *mut pg_sys::QueryDesc, flags: c_int) {
    // SAFETY: the arguments are passed on as they came.
    unsafe {
        if evaluator::is_running() {
            evaluator::refuse_writing((*query).plannedstmt);
        }
        ask_before_execution();
        added_code::refuse_in_plan((*query).plannedstmt);
        let next = installed().start.unwrap_or(unguarded::standard_ExecutorStart);
        next(query, flags);
        row_count::forget(query as usize);
        ask_before_reading((*query).plannedstmt);
        observe_start(query, flags);
    }
}

version::run_hook!(run by around_running);

/// Runs a plan by what comes next after us.
unsafe fn around_running(query: *mut pg_sys::QueryDesc, go: impl FnOnce(version::Run)) {
    // SAFETY: called by the hook.
    unsafe {
        tell_before_running();
        count_rows(query);
    }
    let observer = OBSERVER.get();
    let before = observer.and_then(|observer| (observer.runs)(query as usize));
    go(installed().run.unwrap_or(version::standard_ExecutorRun));
    // SAFETY: the statement has run, and is open.
    unsafe { row_count::put_back(query) };
    if let Some(observer) = observer {
        // SAFETY: the statement has run, and is open.
        (observer.ran)(query as usize, before, unsafe { rows_of(query) });
    }
    // SAFETY: as above.
    unsafe { tell_after() };
}

unsafe extern "C-unwind" fn end(query: *mut pg_sys::QueryDesc) {
    // SAFETY: the argument is passed on as it came.
    unsafe {
        let next = installed().end.unwrap_or(unguarded::standard_ExecutorEnd);
        observe_end(query);
        row_count::forget(query as usize);
        next(query);
        tell_after();
    }
}

#[allow(clippy::too_many_arguments, reason = "the hook's signature is Postgres'")]
unsafe extern "C-unwind" fn utility(
    statement: *mut pg_sys::PlannedStmt,
    text: *const c_char,
    read_only: bool,
    context: pg_sys::ProcessUtilityContext::Type,
    parameters: pg_sys::ParamListInfo,
    environment: *mut pg_sys::QueryEnvironment,
    destination: *mut pg_sys::DestReceiver,
    completion: *mut pg_sys::QueryCompletion,
) {
    // SAFETY: a planned statement has a utility statement here; the arguments are passed on as they came.
    unsafe {
        if evaluator::is_running() {
            evaluator::refuse_command((*statement).utilityStmt);
        }
        ask_before_command((*statement).utilityStmt);
        if command::discards_all((*statement).utilityStmt) {
            tell_before_discarding();
        }
        if binary_upgrade::enables_inbox((*statement).utilityStmt) {
            return;
        }
        let next = installed().utility.unwrap_or(unguarded::standard_ProcessUtility);
        let destination = match (*(*statement).utilityStmt).type_ {
            // What these hand out no executor runs.
            pg_sys::NodeTag::T_VariableShowStmt | pg_sys::NodeTag::T_CallStmt => {
                receiver_of_command(destination)
            }
            _ => destination,
        };
        next(statement, text, read_only, context, parameters, environment, destination, completion);
        tell_after();
    }
}

unsafe extern "C-unwind" fn access(
    access: pg_sys::ObjectAccessType::Type,
    class: Oid,
    object: Oid,
    part: c_int,
    argument: *mut c_void,
) {
    // SAFETY: the arguments are passed on as they came.
    unsafe {
        if access == pg_sys::ObjectAccessType::OAT_FUNCTION_EXECUTE && evaluator::is_running() {
            evaluator::refuse_function(object);
        }
        if access == pg_sys::ObjectAccessType::OAT_FUNCTION_EXECUTE && is_call_by_protocol() {
            ask_before_call();
        }
        if access == pg_sys::ObjectAccessType::OAT_FUNCTION_EXECUTE
            && object.to_u32() < pg_sys::FirstNormalObjectId
        {
            ask_before_function(object);
        }
        if let Some(next) = installed().access {
            next(access, class, object, part, argument);
        }
    }
}

/// The texts of a message that a client is sent.
unsafe fn texts(message: *mut pg_sys::ErrorData) -> [*mut *mut c_char; 10] {
    // SAFETY: addresses of fields of a struct that is there.
    unsafe {
        [
            &raw mut (*message).message,
            &raw mut (*message).detail,
            &raw mut (*message).hint,
            &raw mut (*message).context,
            &raw mut (*message).internalquery,
            &raw mut (*message).schema_name,
            &raw mut (*message).table_name,
            &raw mut (*message).column_name,
            &raw mut (*message).datatype_name,
            &raw mut (*message).constraint_name,
        ]
    }
}

/// Bytes of these.
unsafe fn bytes_of(message: *mut pg_sys::ErrorData) -> u64 {
    // SAFETY: each is a C string or null.
    unsafe {
        let bytes = texts(message)
            .map(|text| if (*text).is_null() { 0 } else { CStr::from_ptr(*text).count_bytes() });
        bytes.iter().sum::<usize>() as u64
    }
}

/// Leaves so many bytes of a message's texts, in their order.
unsafe fn shorten(message: *mut pg_sys::ErrorData, bytes: u64) {
    let mut left = bytes as usize;
    // SAFETY: the message is Postgres' to change while it is reported, and its first text a C string of its own; clipping looks nothing up.
    unsafe {
        for (place, text) in texts(message).into_iter().enumerate().filter(|(_, text)| !(**text).is_null()) {
            let length = CStr::from_ptr(*text).count_bytes();
            if length <= left {
                left -= length;
            } else if place == 0 {
                let kept = pg_sys::pg_mbcliplen(*text, length as c_int, left as c_int);
                *(*text).add(kept as usize) = 0;
                left = 0;
            } else {
                *text = core::ptr::null_mut();
            }
        }
    }
}

/// Runs while a message is being reported: it must not raise an error, nor look anything up.
unsafe extern "C-unwind" fn log(message: *mut pg_sys::ErrorData) {
    let Some(installed) = INSTALLED.get() else { return };
    // SAFETY: Postgres hands the message over to be changed.
    unsafe {
        if !hearing::is_to_log((*message).elevel) {
            (*message).output_to_server = false;
        }
        // What somebody's code says of rows that the caller may not see, or the log may not keep.
        if (*message).elevel < PgLogLevel::ERROR as c_int
            && evaluator::is_mute()
            && !log_line::is_ours(message)
        {
            (*message).output_to_server = false;
            (*message).output_to_client = false;
            return;
        }
        if (*message).output_to_client
            && (*message).elevel < pg_sys::INFO as c_int
            && (installed.hooks.hushes)()
        {
            (*message).output_to_client = false;
        }
        if (*message).output_to_client
            && let Some(most) = (installed.hooks.bytes_to_tell)(
                bytes_of(message),
                (*message).elevel >= PgLogLevel::ERROR as c_int,
            )
        {
            if most == 0 {
                (*message).output_to_client = false;
            } else {
                shorten(message, most);
            }
        }
        if let Some(next) = installed.log {
            next(message);
        }
    }
}
