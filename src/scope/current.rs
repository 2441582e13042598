//! The scope that the running transaction is in.

use super::binding::{Binding, binding};
use super::failure::ScopeError;
use super::kind::Scope;
use crate::backend::{reads, session};
use crate::settings;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use std::cell::Cell;

/// The scope that reads happen in.
pub fn current() -> Result<Scope, ScopeError> {
    if let Some(scope) = entered() {
        return Ok(scope);
    }
    match &*binding() {
        // What the login may see, the code isn't meant to.
        Binding::Bound { .. } | Binding::Global if session::runs_for_another() => Err(ScopeError::Restricted),
        Binding::Bound { tenant, account } => {
            Ok(Scope::Tenant { tenant: tenant.clone(), account: account.clone() })
        }
        Binding::Global if is_analyst() => Ok(Scope::Global),
        Binding::Global => Err(ScopeError::Denied(session::session_role_name())),
        Binding::Trusted | Binding::Pool | Binding::None => Err(ScopeError::Missing),
        Binding::Renamed => Err(ScopeError::Renamed(session::session_role_name())),
        Binding::Ambiguous => Err(ScopeError::Ambiguous(session::session_role_name())),
    }
}

/// The key of the scope that the audit log is read in: a member of tally_auditor who is in no scope, and whose login is bound to
/// none, reads everything.
pub fn key_for_auditing() -> Result<String, ScopeError> {
    let is_auditor = || session::session_is_superuser() || session::session_is_member_of(c"tally_auditor");
    match current() {
        Err(ScopeError::Missing)
            if matches!(*binding(), Binding::Trusted | Binding::None)
                && is_auditor()
                && session::runs_for_itself() =>
        {
            Ok(Scope::Global.key())
        }
        // Whoever may look across tenants at numbers and events may not therefore see who did what.
        Ok(Scope::Global) if !is_auditor() => Err(ScopeError::Denied(session::session_role_name())),
        scope => Ok(scope?.key()),
    }
}

/// The scope that records of administration are read in (`is_record`): that of everything for a member of tally_auditor who is in no
/// scope and bound to no tenant. What an elevated function reads and writes of them for whoever calls it needs a scope as ever.
pub(super) fn for_records() -> Result<Scope, ScopeError> {
    match current() {
        Err(ScopeError::Missing)
            if matches!(*binding(), Binding::Trusted | Binding::None)
                && session::session_is_member_of(c"tally_auditor")
                && session::runs_for_itself()
                && !session::is_elevated() =>
        {
            Ok(Scope::Global)
        }
        scope => scope,
    }
}

/// Tables of tenants' rows that auditors read, of every tenant, without a scope: what was set, counted and done for a tenant.
const RECORDS: [&str; 11] = [
    "erasure",
    "erasure_run",
    "isolated_tenant",
    "opened_months",
    "quarantine_discard",
    "quota",
    "quota_state",
    "quota_take",
    "raw_loss",
    "stream",
    "unregistered_policy",
];

/// Whether a table is one of the records that auditors read.
#[pg_extern(sql = false)]
pub(super) fn is_record(relation: pg_sys::Oid) -> bool {
    reads::own_name(relation).is_some_and(|name| RECORDS.contains(&name.as_str()))
}

pub(super) fn is_analyst() -> bool {
    session::session_is_superuser() || session::session_is_member_of(c"tally_analyst")
}

/// The scope that ingest happens in: a trusted role need not enter one, since it may write for every tenant; one that is bound
/// to the global scope may read every tenant, and write for none but one that it has entered.
pub fn for_writing() -> Result<Scope, ScopeError> {
    if session::is_restricted() {
        return Err(ScopeError::Restricted);
    }
    match current() {
        Ok(Scope::Global) if *binding() == Binding::Global => {
            Err(ScopeError::ReadsOnly(session::session_role_name()))
        }
        Err(ScopeError::Missing)
            if session::session_is_superuser() || matches!(*binding(), Binding::Trusted) =>
        {
            Ok(Scope::Global)
        }
        other => other,
    }
}

/// The scope that the transaction entered.
pub(super) fn entered() -> Option<Scope> {
    settings::scope().map(|setting| Scope::parse(&setting.to_string_lossy()))
}

thread_local! {
    static WARNED: Cell<Option<(session::Statement, bool)>> = const { Cell::new(None) };
}

/// Warns, once a statement, whoever row security hides nothing from: outside the global scope its queries see more than
/// the scope says.
pub fn warn_if_unconfined() {
    if !session::bypasses_row_security() {
        return;
    }
    let scope = entered();
    if scope == Some(Scope::Global) {
        return;
    }
    let statement = (session::statement(), scope.is_some());
    if WARNED.replace(Some(statement)) == Some(statement) {
        return;
    }
    let role = session::current_role_name();
    let seen = match scope {
        Some(_) => "sees every tenant's rows, also in a tenant's scope",
        None => "sees every tenant's rows",
    };
    pgrx::ereport!(
        PgLogLevel::WARNING,
        pgrx::PgSqlErrorCode::ERRCODE_WARNING,
        format!("role \"{role}\" {seen}"),
        "row security doesn't hold for superusers and roles with BYPASSRLS: use a role of your own"
    );
}

#[pg_extern(sql = false)]
fn warn_unconfined() {
    warn_if_unconfined();
}

/// The tenant that the session acts for, by its scope or its login; `None` where it is none.
pub fn tenant_of_session() -> Option<String> {
    match (entered(), &*binding()) {
        (Some(Scope::Tenant { tenant, .. }), _) => Some(tenant),
        (None, Binding::Bound { tenant, .. }) => Some(tenant.clone()),
        _ => None,
    }
}

#[pg_extern(sql = false)]
fn current_tenant() -> Result<Option<String>, ErrorReport> {
    Ok(match current()? {
        Scope::Global => None,
        Scope::Tenant { tenant, .. } => Some(tenant),
    })
}

#[pg_extern(sql = false)]
fn current_account() -> Result<Option<String>, ErrorReport> {
    Ok(current()?.account())
}

#[pg_extern(sql = false)]
fn scope_is_global() -> Result<bool, ErrorReport> {
    Ok(current()? == Scope::Global)
}

#[pg_extern(sql = false)]
fn record_tenant() -> Result<Option<String>, ErrorReport> {
    Ok(match for_records()? {
        Scope::Global => None,
        Scope::Tenant { tenant, .. } => Some(tenant),
    })
}

#[pg_extern(sql = false)]
fn record_account() -> Result<Option<String>, ErrorReport> {
    Ok(for_records()?.account())
}

#[pg_extern(sql = false)]
fn record_is_global() -> Result<bool, ErrorReport> {
    Ok(for_records()? == Scope::Global)
}

#[pg_extern(sql = false)]
fn record_key() -> Result<String, ErrorReport> {
    Ok(for_records()?.key())
}

/// The tenant beyond which the session sees nothing: that of its scope, or that of its login.
#[pg_extern(sql = false)]
fn confined_to() -> Result<Option<String>, ErrorReport> {
    match current() {
        Ok(Scope::Tenant { tenant, .. }) => Ok(Some(tenant)),
        Ok(Scope::Global) => Ok(None),
        Err(ScopeError::Missing) if !session::runs_for_itself() => Err(ScopeError::Restricted.into()),
        Err(ScopeError::Missing) if matches!(*binding(), Binding::Trusted | Binding::None) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
