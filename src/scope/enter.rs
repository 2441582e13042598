//! Entering a scope.

use super::binding::{Binding, binding};
use super::current::{entered, is_analyst, warn_if_unconfined};
use super::failure::ScopeError;
use super::kind::Scope;
use super::token::{self, Verified};
use super::witness::{self, Entered};
use super::{limit, step_up};
use crate::backend::leftover::{self, Leftover};
use crate::backend::session;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use tally_core::id;
use tally_core::token::{Claims, TokenError};

/// Who vouches for the scope that is entered.
#[derive(Clone, Copy, Debug)]
enum Warrant<'a> {
    /// What the role that logged in may do.
    Role,
    /// A token that was verified for this role and transaction.
    Token(&'a Verified),
}

fn enter_scope(wanted: Scope, warrant: Warrant) -> Result<(), ScopeError> {
    // Who may enter it is asked of the session's role: here the code is somebody else's.
    if session::is_restricted() {
        return Err(ScopeError::Restricted);
    }
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
        (Binding::Pool, Scope::Tenant { .. }) if matches!(warrant, Warrant::Role) && !stays && !narrows => {
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
        warn_if_unconfined();
    }
    if let (Scope::Tenant { tenant, .. }, None) = (&wanted, &already) {
        limit::apply(tenant)?;
    }
    match warrant {
        // A second token may be somebody else's: whom it was made for counts from now on, and that is told, too.
        Warrant::Token(verified) => {
            token::note_subject(verified.claims.sub.as_deref());
            tell_entered(&wanted, Some(&verified.claims));
            step_up::follow_token(verified);
        }
        Warrant::Role if !is_bound && !stays => tell_entered(&wanted, None),
        Warrant::Role => {}
    }
    Ok(())
}

#[pg_extern(sql = false)]
fn enter(tenant_id: Option<&str>, account_id: Option<&str>) -> Result<(), ErrorReport> {
    if let (Binding::Pool, None) = (&*binding(), account_id) {
        // A token that is refused leaves nothing of the one before.
        step_up::end();
        let verified = token::verified(tenant_id.unwrap_or_default())?;
        let (tenant, account) = verified.claims.scope().ok_or(ScopeError::Token(TokenError::Malformed))?;
        let scope = Scope::Tenant { tenant: tenant.to_owned(), account: account.map(str::to_owned) };
        return Ok(enter_scope(scope, Warrant::Token(&verified))?);
    }
    let tenant = tenant_id.ok_or_else(|| ScopeError::BadId("tenant_id must not be null".into()))?;
    let scope = Scope::Tenant { tenant: tenant.to_owned(), account: account_id.map(str::to_owned) };
    Ok(enter_scope(scope, Warrant::Role)?)
}

#[pg_extern(sql = false)]
fn enter_global() -> Result<(), ErrorReport> {
    Ok(enter_scope(Scope::Global, Warrant::Role)?)
}

/// Tells that a scope was entered.
fn tell_entered(scope: &Scope, token: Option<&Claims>) {
    let subject = token.and_then(|claims| claims.sub.as_deref());
    let (tenant, account) = match scope {
        Scope::Global => (None, None),
        Scope::Tenant { tenant, account } => (Some(tenant.as_str()), account.as_deref()),
    };
    witness::entered(&Entered { tenant, account, by_token: token.is_some(), subject });
}
