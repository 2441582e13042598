//! What sessions that act for tenants are kept from: seeing plans, leaving something in a pooled session, and what lasts.
//!
//! Lists say what is allowed. A session that acts for tenants, or might, runs ordinary statements and changes objects of its own;
//! a pool session changes no object but temporary ones that end with the transaction; neither touches roles, databases or the
//! server, or leaves a prepared transaction. What a command is that isn't listed, is refused.
//!
//! A plan tells about rows that row security hides: how many a filter removed, and estimates from every tenant's
//! statistics. The hooks work from when the library is loaded, which is at the first call of one of our functions or,
//! with it in `session_preload_libraries`, from the start of the session.

use super::binding::{self, Binding};
use super::class::{Class, class, was_confined};
use super::failure::ScopeError;
use super::{limit, policy, step_up};
use crate::backend::command::{Command, Kind};
use crate::backend::guarded::{self, Guarded};
use crate::backend::hook::{self, Hooks};
use crate::backend::session;
use pgrx::pg_sys::Oid;
use pgrx::pg_sys::panic::ErrorReport;

/// Whether what runs is the deed of an elevated function's owner. Not where the owner is bound to a tenant or enters by token: that
/// is another login of a tenant's, which may not do it either.
fn is_owners_deed() -> bool {
    session::is_elevated()
        && matches!(binding::of(session::acting_role()), Binding::None | Binding::Trusted | Binding::Global)
}

/// What a class may not run.
fn before_command(command: Command) -> Result<(), ErrorReport> {
    if command.kind == Kind::Plain {
        return Ok(());
    }
    let class = class();
    if class == Class::Free {
        return Ok(());
    }
    let in_pool = class == Class::Pool;
    match command.kind {
        Kind::Plain | Kind::Work => {}
        Kind::Explain => return Err(ScopeError::Confined("EXPLAIN".to_owned()).into()),
        Kind::Leaves(what) if in_pool => return Err(ScopeError::Confined(what.to_owned()).into()),
        Kind::Leaves(_) => {}
        // What a function does with its owner's rights is the owner's deed.
        Kind::Object if in_pool && !is_owners_deed() => {
            return Err(ScopeError::Lasting(command.name).into());
        }
        Kind::Administration if !is_owners_deed() => {
            return Err(ScopeError::Lasting(command.name).into());
        }
        Kind::Object | Kind::Administration => {}
    }
    before_execution()?;
    match limit::max_rows() {
        Some(most) if command.copies_out.is_some() => Err(ScopeError::CopiesTable(most).into()),
        Some(_) if command.name == "NOTIFY" => Err(ScopeError::Uncounted("NOTIFY").into()),
        _ => Ok(()),
    }
}

/// Before a statement is planned, or goes on in another function: what it would print, and what it may take.
fn before_execution() -> Result<(), ErrorReport> {
    if let Some(setting) = session::telling_setting()
        && class() != Class::Free
    {
        return Err(ScopeError::Confined(setting.to_owned()).into());
    }
    limit::enforce()
}

fn before_function(kind: Guarded, function: Oid) -> Result<(), ErrorReport> {
    if kind == Guarded::Shows {
        return Ok(());
    }
    let class = class();
    let refused = match kind {
        Guarded::Tells | Guarded::Sets => class != Class::Free,
        Guarded::Stays | Guarded::Carries => class == Class::Pool,
        Guarded::Shows => false,
    };
    let is_uncounted = kind == Guarded::Carries && limit::max_rows().is_some();
    if !(refused || is_uncounted) || is_owners_deed() {
        return Ok(());
    }
    Err(if refused {
        ScopeError::Confined(format!("{}()", guarded::name_of(function)))
    } else {
        ScopeError::Uncounted("pg_notify()")
    }
    .into())
}

/// What the protocol calls without a statement, as libpq does for large objects, returns what nobody counts.
fn before_call() -> Result<(), ErrorReport> {
    limit::enforce()?;
    match limit::max_rows() {
        Some(_) => Err(ScopeError::Uncounted("a function called by the protocol itself").into()),
        None => Ok(()),
    }
}

/// Whether the client of the session must see no messages of the log. A parallel worker's go to its leader, which knows better.
fn hushes() -> bool {
    was_confined() && !session::is_parallel_worker()
}

/// Installs the hooks.
pub fn install() {
    hook::install(Hooks {
        before_planning: before_execution,
        before_execution,
        before_reading: policy::require_scope,
        before_command,
        before_running: limit::bound_statement,
        after_statement: limit::after_statement,
        max_rows: limit::max_rows,
        too_many_rows: limit::too_many_rows,
        bounds_itself: c"run_export",
        before_function,
        before_call,
        before_showing: limit::enforce,
        before_discarding: step_up::end,
        hushes,
        bytes_to_tell: limit::bytes_to_tell,
    });
}
