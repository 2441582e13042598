//! Scope: what the current transaction may see. One account, one tenant, or global.
//!
//! A scope comes from the transaction's own `enter`, or else from the binding of the role that logged in; a pool role
//! enters by token. The setting `tally.scope` carries the key of an entered one.

mod binding;
mod confine;
mod failure;
mod limit;
mod policy;
mod token;
mod trial;
mod typed_id;
mod witness;

use crate::backend::leftover::{self, Leftover};
use crate::backend::session;
use crate::settings;
use binding::{Binding, binding};
pub use confine::{install as confine, is_confined};
pub use failure::ScopeError;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use std::cell::Cell;
use tally_core::{id, scope_key};
pub use witness::{Denial, Entered, Witness, subject, tell, tell_denied, tenant_of_session};

/// What a transaction may see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    Tenant { tenant: String, account: Option<String> },
    Global,
}

impl Scope {
    fn parse(key: &str) -> Self {
        match scope_key::parts(key) {
            None => Scope::Global,
            Some((tenant, account)) => {
                Scope::Tenant { tenant: tenant.to_owned(), account: account.map(str::to_owned) }
            }
        }
    }

    fn account(self) -> Option<String> {
        match self {
            Scope::Global => None,
            Scope::Tenant { account, .. } => account,
        }
    }

    fn key(&self) -> String {
        match self {
            Scope::Global => scope_key::GLOBAL.to_owned(),
            Scope::Tenant { tenant, account } => scope_key::of(tenant, account.as_deref()),
        }
    }

    /// Whether an event of this tenant and account may be written in this scope.
    pub fn admits(&self, tenant: &str, account: &str) -> bool {
        match self {
            Scope::Global => true,
            Scope::Tenant { tenant: own, account: only } => {
                own == tenant && only.as_ref().is_none_or(|only| only == account)
            }
        }
    }
}

/// The scope that reads happen in.
pub fn current() -> Result<Scope, ScopeError> {
    if let Some(scope) = entered() {
        return Ok(scope);
    }
    match &*binding() {
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
    match current() {
        Err(ScopeError::Missing)
            if matches!(*binding(), Binding::Trusted | Binding::None)
                && (session::session_is_superuser() || session::session_is_member_of(c"tally_auditor")) =>
        {
            Ok(Scope::Global.key())
        }
        scope => Ok(scope?.key()),
    }
}

fn is_analyst() -> bool {
    session::session_is_superuser() || session::session_is_member_of(c"tally_analyst")
}

/// The scope that ingest happens in: a trusted role need not enter one, since it may write for every tenant; one that is bound
/// to the global scope may read every tenant, and write for none but one that it has entered.
pub fn for_writing() -> Result<Scope, ScopeError> {
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

fn entered() -> Option<Scope> {
    settings::scope().map(|setting| Scope::parse(&setting.to_string_lossy()))
}

/// Who vouches for the scope that is entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Warrant {
    /// What the role that logged in may do.
    Role,
    /// A token that was verified for this role and transaction.
    Token,
}

fn enter_scope(wanted: Scope, warrant: Warrant) -> Result<(), ScopeError> {
    if session::in_subtransaction() {
        return Err(ScopeError::Subtransaction);
    }
    if let Scope::Tenant { tenant, account } = &wanted {
        for value in [Some(tenant), account.as_ref()].into_iter().flatten() {
            id::check(value)
                .map_err(|problem| ScopeError::BadId(format!("\"{value}\" {}", problem.problem())))?;
        }
    }
    let already = entered();
    let narrows = matches!((&already, &wanted), (Some(Scope::Tenant { tenant: own, account: None }),
        Scope::Tenant { tenant, account: Some(_) }) if own == tenant);
    let stays = already.as_ref() == Some(&wanted);
    if already.is_some() && !stays && !narrows {
        return Err(ScopeError::Latched);
    }
    // A role that might be another one than was bound enters nothing.
    let binding = binding();
    match *binding {
        Binding::Renamed => return Err(ScopeError::Renamed(session::session_role_name())),
        Binding::Ambiguous => return Err(ScopeError::Ambiguous(session::session_role_name())),
        _ => {}
    }
    let superuser = session::session_is_superuser();
    if matches!(wanted, Scope::Tenant { .. }) && already.is_none() && !superuser {
        match leftover::leftover(*binding == Binding::Pool) {
            None => {}
            Some(Leftover::Session(what)) => return Err(ScopeError::Dirty(what)),
            Some(Leftover::Role(setting)) => {
                return Err(ScopeError::RoleSetting { role: session::session_role_name(), setting });
            }
        }
    }
    let is_bound = matches!(&*binding, Binding::Bound { .. });
    let allowed = match (&*binding, &wanted) {
        (Binding::Bound { tenant: own, account: only }, Scope::Tenant { tenant, account }) => {
            own == tenant && only.as_ref().is_none_or(|only| account.as_ref() == Some(only))
        }
        (Binding::Bound { .. } | Binding::Pool, Scope::Global) => false,
        (Binding::Pool, Scope::Tenant { .. }) if warrant == Warrant::Role && !stays && !narrows => {
            return Err(ScopeError::NeedsToken(session::session_role_name()));
        }
        (Binding::Trusted | Binding::Pool, Scope::Tenant { .. }) => true,
        (Binding::None | Binding::Global, Scope::Tenant { .. }) | (_, Scope::Global) => is_analyst(),
        (Binding::Renamed | Binding::Ambiguous, _) => false,
    };
    if !allowed {
        return Err(ScopeError::Denied(session::session_role_name()));
    }
    session::set_scope(&wanted.key());
    if matches!(wanted, Scope::Tenant { .. }) {
        warn_unconfined();
    }
    if let (Scope::Tenant { tenant, .. }, None) = (&wanted, &already) {
        limit::apply(tenant)?;
    }
    if !is_bound && !stays {
        witness::tell_entered(&wanted, warrant == Warrant::Token);
    }
    Ok(())
}

thread_local! {
    static WARNED: Cell<Option<(session::Statement, bool)>> = const { Cell::new(None) };
}

/// Warns, once a statement, whoever row security hides nothing from: outside the global scope its queries see more than
/// the scope says.
pub fn warn_unconfined() {
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
fn enter(tenant_id: Option<&str>, account_id: Option<&str>) -> Result<(), ErrorReport> {
    if let (Binding::Pool, None) = (&*binding(), account_id) {
        let scope = token::scope(tenant_id.unwrap_or_default())?;
        return Ok(enter_scope(scope, Warrant::Token)?);
    }
    let tenant = tenant_id.ok_or_else(|| ScopeError::BadId("tenant_id must not be null".into()))?;
    let scope = Scope::Tenant { tenant: tenant.to_owned(), account: account_id.map(str::to_owned) };
    Ok(enter_scope(scope, Warrant::Role)?)
}

#[pg_extern(sql = false)]
fn enter_global() -> Result<(), ErrorReport> {
    Ok(enter_scope(Scope::Global, Warrant::Role)?)
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

/// The tenant beyond which the session sees nothing: that of its scope, or that of its login.
#[pg_extern(sql = false)]
fn confined_to() -> Result<Option<String>, ErrorReport> {
    match current() {
        Ok(Scope::Tenant { tenant, .. }) => Ok(Some(tenant)),
        Ok(Scope::Global) => Ok(None),
        Err(ScopeError::Missing) if matches!(*binding(), Binding::Trusted | Binding::None) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Refuses what is no id.
pub fn check(field: &str, value: &str) -> Result<(), ScopeError> {
    id::check(value).map_err(|problem| ScopeError::BadId(format!("{field} {}", problem.problem())))
}

#[pg_extern(sql = false)]
fn check_id(field: &str, value: &str) -> Result<(), ErrorReport> {
    Ok(check(field, value)?)
}
