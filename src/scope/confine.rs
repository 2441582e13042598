//! What sessions that act for tenants are kept from: seeing plans, and leaving something in a pooled session.
//!
//! A plan tells about rows that row security hides: how many a filter removed, and estimates from every tenant's
//! statistics. The hooks work from when the library is loaded, which is at the first call of one of our functions or,
//! with it in `session_preload_libraries`, from the start of the session.

use super::binding::{Binding, binding};
use super::{ScopeError, limit, policy};
use crate::backend::hook::{self, Command, Hooks};
use crate::backend::{own_transaction, session};
use pgrx::pg_sys::Oid;
use pgrx::pg_sys::panic::ErrorReport;
use std::sync::Mutex;

/// What the role that logged in is, as far as the hooks care.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Class {
    /// Not confined: superusers, trusted roles, analysts, and whoever has nothing to do with us.
    Free,
    /// Might use our tables, and is in no scope of its own.
    Outside,
    /// Is in a scope from the start.
    Bound(String),
    /// Enters by token; other tenants' transactions follow in the same session.
    Pool,
}

/// The class of a role, as it was when the transaction first asked.
struct Known {
    transaction: u32,
    role: Oid,
    class: Class,
}

static KNOWN: Mutex<Option<Known>> = Mutex::new(None);

/// The class of the role that logged in, looked up once a transaction.
pub fn class() -> Class {
    let (transaction, role) = (session::transaction_number(), session::session_role());
    if let Some(known) = &*KNOWN.lock().expect("one thread")
        && known.transaction == transaction
        && known.role == role
    {
        return known.class.clone();
    }
    let class = classify();
    *KNOWN.lock().expect("one thread") = Some(Known { transaction, role, class: class.clone() });
    class
}

/// Whether the session acts for a tenant.
pub fn is_confined() -> bool {
    class() != Class::Free
}

fn classify() -> Class {
    // What a session's process does for us is ours; a tenant's limits are its client's.
    if own_transaction::is_running() || session::session_is_superuser() || !session::is_installed() {
        return Class::Free;
    }
    match binding() {
        Binding::Bound { tenant, .. } => Class::Bound(tenant),
        Binding::Pool => Class::Pool,
        Binding::Trusted | Binding::Global => Class::Free,
        // What it was meant to be is not known.
        Binding::Renamed | Binding::Ambiguous => Class::Outside,
        Binding::None if session::session_is_member_of(c"tally_analyst") => Class::Free,
        Binding::None => {
            let uses_us = [c"tally_reader", c"tally_writer"].into_iter().any(session::session_is_member_of);
            if uses_us { Class::Outside } else { Class::Free }
        }
    }
}

/// Refuses a command of a confined session.
fn before_command(command: Command) -> Result<(), ErrorReport> {
    let in_pool_only = |what: &'static str| match class() {
        Class::Pool => Err(ScopeError::Confined(what)),
        _ => Ok(()),
    };
    match command {
        Command::Explain => match class() {
            Class::Free => Ok(()),
            _ => Err(ScopeError::Confined("EXPLAIN")),
        },
        Command::HoldCursor => in_pool_only("a cursor WITH HOLD"),
        Command::Notify => in_pool_only("LISTEN or NOTIFY"),
        Command::Prepare => in_pool_only("PREPARE"),
        Command::Temporary => in_pool_only("a temporary object that outlives the transaction"),
        Command::SetRole => in_pool_only("another role"),
        Command::SetPath => in_pool_only("a search_path for the session"),
    }?;
    Ok(())
}

fn before_planning() -> Result<(), ErrorReport> {
    // Printed plans go to whoever sets client_min_messages.
    if session::prints_plans() && class() != Class::Free {
        return Err(ScopeError::Confined("debug_print_plan").into());
    }
    limit::enforce()
}

/// Installs the hooks.
pub fn install() {
    hook::install(Hooks {
        before_planning,
        before_execution: limit::enforce,
        before_reading: policy::require_scope,
        before_command,
    });
}
