//! Who is told of scopes that are entered and of attempts that are denied.

use super::binding::{Binding, binding};
use super::{Scope, ScopeError, entered, token};
use std::sync::OnceLock;
use tally_core::token::TokenError;

/// A scope that was entered by who is not bound to it.
pub struct Entered<'a> {
    /// `None` in the global scope.
    pub tenant: Option<&'a str>,
    pub account: Option<&'a str>,
    pub by_token: bool,
    /// Whom the token was made for, in its own words.
    pub subject: Option<&'a str>,
}

/// An attempt that was denied with SQLSTATE 42501.
pub struct Denial {
    /// What was tried, in a word.
    pub kind: &'static str,
    /// Why it was denied.
    pub reason: String,
}

/// What is called.
#[derive(Clone, Copy)]
pub struct Witness {
    pub entered: fn(&Entered),
    pub denied: fn(&Denial),
}

static WITNESS: OnceLock<Witness> = OnceLock::new();

/// Has a witness told; once, when the library is loaded.
pub fn tell(witness: Witness) {
    let _ = WITNESS.set(witness);
}

/// Tells that a scope was entered.
pub(super) fn tell_entered(scope: &Scope, by_token: bool) {
    let Some(witness) = WITNESS.get() else { return };
    let subject = by_token.then(token::subject).flatten();
    let (tenant, account) = match scope {
        Scope::Global => (None, None),
        Scope::Tenant { tenant, account } => (Some(tenant.as_str()), account.as_deref()),
    };
    (witness.entered)(&Entered { tenant, account, by_token, subject: subject.as_deref() });
}

/// Tells of an error that is about to be raised, if it denies something.
pub fn tell_denied(error: &ScopeError) {
    if let (Some(witness), Some(denial)) = (WITNESS.get(), denial_of(error)) {
        (witness.denied)(&denial);
    }
}

fn denial_of(error: &ScopeError) -> Option<Denial> {
    let denial = |kind, reason: String| Some(Denial { kind, reason });
    match error {
        ScopeError::Missing => denial("no_scope", "no tenant in scope".to_owned()),
        ScopeError::Denied(_) => denial("enter", "the role may not enter this scope".to_owned()),
        ScopeError::Latched => denial("enter", "the transaction is in another scope already".to_owned()),
        ScopeError::Subtransaction => denial("enter", "inside a savepoint or an exception block".to_owned()),
        ScopeError::Dirty(leftover) => denial("enter", format!("the session carries {leftover}")),
        ScopeError::RoleSetting { setting, .. } => {
            denial("enter", format!("the pool role has a setting of its own: {setting}"))
        }
        ScopeError::Confined(what) => denial("confined", what.clone()),
        ScopeError::Lasting(command) => denial("confined", (*command).to_owned()),
        ScopeError::NeedsToken(_) => denial("enter", "the role enters a scope by token alone".to_owned()),
        ScopeError::Renamed(_) => denial("no_scope", "the role was bound under another name".to_owned()),
        ScopeError::Ambiguous(_) => {
            denial("no_scope", "the role's groups have bindings that differ".to_owned())
        }
        ScopeError::ReadsOnly(_) => {
            denial("write", "the role is bound to the global scope, which is for reading".to_owned())
        }
        ScopeError::Token(TokenError::Key) | ScopeError::BadId(_) | ScopeError::Busy(..) => None,
        ScopeError::Token(problem) => denial("token", problem.problem().to_owned()),
        ScopeError::UnknownKey => denial("token", "its key is not registered, or no longer valid".to_owned()),
    }
}

/// The tenant that the session acts for, by its scope or its login; `None` where it is none.
pub fn tenant_of_session() -> Option<String> {
    match (entered(), &*binding()) {
        (Some(Scope::Tenant { tenant, .. }), _) => Some(tenant),
        (None, Binding::Bound { tenant, .. }) => Some(tenant.clone()),
        _ => None,
    }
}

/// Whom the token that opened the running transaction's scope was made for.
pub fn subject() -> Option<String> {
    token::subject()
}
