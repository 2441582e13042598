//! Hooks: what is asked before Postgres plans, executes or runs a command.

use super::reads::Reads;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::pg_sys::{self, ffi::pg_guard_ffi_boundary};
use pgrx::prelude::*;
use std::ffi::{CStr, c_char, c_int};
use std::sync::OnceLock;

/// A command that leaves something in the session, or tells about rows that row security hides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    Explain,
    HoldCursor,
    Notify,
    Prepare,
    /// Another role, for longer than the transaction.
    SetRole,
    /// Another search path, for longer than the transaction.
    SetPath,
    Temporary,
}

/// What to ask; an error is raised in place of the statement.
#[derive(Clone, Copy)]
pub struct Hooks {
    pub before_planning: fn() -> Result<(), ErrorReport>,
    pub before_execution: fn() -> Result<(), ErrorReport>,
    /// Asked of statements that read anything, in parallel workers, too.
    pub before_reading: fn(&Reads) -> Result<(), ErrorReport>,
    pub before_command: fn(Command) -> Result<(), ErrorReport>,
}

/// The hooks, and those that other libraries had set before.
struct Installed {
    hooks: Hooks,
    planner: pg_sys::planner_hook_type,
    start: pg_sys::ExecutorStart_hook_type,
    utility: pg_sys::ProcessUtility_hook_type,
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
            utility: pg_sys::ProcessUtility_hook,
        };
        if INSTALLED.set(before).is_ok() {
            pg_sys::planner_hook = Some(plan);
            pg_sys::ExecutorStart_hook = Some(start);
            pg_sys::ProcessUtility_hook = Some(utility);
        }
    }
}

/// Whether this process may look something up and change settings: not in a parallel worker, not outside a transaction.
fn is_able() -> bool {
    // SAFETY: reads backend state.
    unsafe { pg_sys::IsTransactionState() && !pg_sys::IsInParallelMode() && pg_sys::ParallelWorkerNumber < 0 }
}

/// Asks with a snapshot to look things up in: not every statement comes with one. It isn't the transaction's, so that
/// the isolation level can still be set.
unsafe fn ask(question: impl FnOnce() -> Result<(), ErrorReport>) {
    if !is_able() {
        return;
    }
    // SAFETY: what is pushed is popped; on error Postgres pops it when it aborts the (sub)transaction.
    unsafe {
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
unsafe extern "C-unwind" fn plan(
    query: *mut pg_sys::Query,
    text: *const c_char,
    options: c_int,
    parameters: pg_sys::ParamListInfo,
) -> *mut pg_sys::PlannedStmt {
    // SAFETY: the arguments are passed on as they came.
    unsafe {
        ask(installed().hooks.before_planning);
        match installed().planner {
            Some(next) => pg_guard_ffi_boundary(|| next(query, text, options, parameters)),
            None => pg_sys::standard_planner(query, text, options, parameters),
        }
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn start(query: *mut pg_sys::QueryDesc, flags: c_int) {
    // SAFETY: the arguments are passed on as they came.
    unsafe {
        ask(installed().hooks.before_execution);
        match installed().start {
            Some(next) => pg_guard_ffi_boundary(|| next(query, flags)),
            None => pg_sys::standard_ExecutorStart(query, flags),
        }
        // Afterwards, so that whoever may not read the table at all is told just that.
        if pg_sys::IsTransactionState()
            && let Some(reads) = Reads::of((*query).plannedstmt)
            && let Err(report) = (installed().hooks.before_reading)(&reads)
        {
            report.report(PgLogLevel::ERROR);
        }
    }
}

#[pg_guard]
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
        if let Some(command) = command((*statement).utilityStmt) {
            ask(|| (installed().hooks.before_command)(command));
        }
        match installed().utility {
            Some(next) => pg_guard_ffi_boundary(|| {
                next(statement, text, read_only, context, parameters, environment, destination, completion)
            }),
            None => pg_sys::standard_ProcessUtility(
                statement,
                text,
                read_only,
                context,
                parameters,
                environment,
                destination,
                completion,
            ),
        }
    }
}

/// Reads the commands that are asked about from their parse tree.
unsafe fn command(node: *mut pg_sys::Node) -> Option<Command> {
    let is_temporary = |persistence: c_char| persistence as u8 == pg_sys::RELPERSISTENCE_TEMP;
    // SAFETY: the tag says which struct the node is.
    unsafe {
        match (*node).type_ {
            pg_sys::NodeTag::T_ExplainStmt => Some(Command::Explain),
            pg_sys::NodeTag::T_DeclareCursorStmt => {
                let options = (*node.cast::<pg_sys::DeclareCursorStmt>()).options;
                (options as u32 & pg_sys::CURSOR_OPT_HOLD != 0).then_some(Command::HoldCursor)
            }
            pg_sys::NodeTag::T_PrepareStmt => Some(Command::Prepare),
            pg_sys::NodeTag::T_ListenStmt | pg_sys::NodeTag::T_NotifyStmt => Some(Command::Notify),
            pg_sys::NodeTag::T_VariableSetStmt => {
                let set = &*node.cast::<pg_sys::VariableSetStmt>();
                let resets = matches!(
                    set.kind,
                    pg_sys::VariableSetKind::VAR_RESET
                        | pg_sys::VariableSetKind::VAR_RESET_ALL
                        | pg_sys::VariableSetKind::VAR_SET_DEFAULT
                );
                if set.is_local || resets || set.name.is_null() {
                    return None;
                }
                match CStr::from_ptr(set.name).to_bytes() {
                    b"role" | b"session_authorization" => Some(Command::SetRole),
                    b"search_path" => Some(Command::SetPath),
                    _ => None,
                }
            }
            pg_sys::NodeTag::T_CreateStmt => {
                let create = &*node.cast::<pg_sys::CreateStmt>();
                let stays = create.oncommit != pg_sys::OnCommitAction::ONCOMMIT_DROP;
                (is_temporary((*create.relation).relpersistence) && stays).then_some(Command::Temporary)
            }
            pg_sys::NodeTag::T_CreateTableAsStmt => {
                let into = &*(*node.cast::<pg_sys::CreateTableAsStmt>()).into;
                let stays = into.onCommit != pg_sys::OnCommitAction::ONCOMMIT_DROP;
                (is_temporary((*into.rel).relpersistence) && stays).then_some(Command::Temporary)
            }
            pg_sys::NodeTag::T_ViewStmt => {
                let view = (*node.cast::<pg_sys::ViewStmt>()).view;
                is_temporary((*view).relpersistence).then_some(Command::Temporary)
            }
            pg_sys::NodeTag::T_CreateSeqStmt => {
                let sequence = (*node.cast::<pg_sys::CreateSeqStmt>()).sequence;
                is_temporary((*sequence).relpersistence).then_some(Command::Temporary)
            }
            _ => None,
        }
    }
}
