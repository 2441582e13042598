//! Scope: what the current transaction may see. One account, one tenant, or global.
//!
//! A scope comes from the transaction's own `enter`, or else from the binding of the role that logged in. The setting
//! `tally.scope` carries an entered one: `*` is global, otherwise tenant and account separated by U+001F, which no id
//! contains.

use crate::backend::arena::Arena;
use crate::backend::lookup::{Key, Lookup, View};
use crate::backend::session::{self, Limit};
use crate::settings;
use pgrx::pg_sys::Datum;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use tally_core::id;

const SEPARATOR: char = '\u{1f}';

/// What a transaction may see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    Tenant { tenant: String, account: Option<String> },
    Global,
}

/// Why a scope is refused.
#[derive(Debug)]
pub enum ScopeError {
    /// Neither entered nor bound.
    Missing,
    /// The role may not enter this scope.
    Denied(String),
    /// The transaction is in another scope already.
    Latched,
    /// `enter` was called inside a savepoint or an exception block.
    Subtransaction,
    /// An earlier client of the session left something in it.
    Dirty(&'static str),
    /// A tenant or account is not an id.
    BadId(String),
}

/// What the role that logged in may do.
enum Binding {
    None,
    Trusted,
    Bound { tenant: String, account: Option<String> },
}

impl Scope {
    fn parse(setting: &str) -> Self {
        match setting.split_once(SEPARATOR) {
            None => Scope::Global,
            Some((tenant, "")) => Scope::Tenant { tenant: tenant.to_owned(), account: None },
            Some((tenant, account)) => {
                Scope::Tenant { tenant: tenant.to_owned(), account: Some(account.to_owned()) }
            }
        }
    }

    fn setting(&self) -> String {
        match self {
            Scope::Global => session::GLOBAL_SCOPE.to_string_lossy().into_owned(),
            Scope::Tenant { tenant, account } => {
                format!("{tenant}{SEPARATOR}{}", account.as_deref().unwrap_or_default())
            }
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
    match binding() {
        Binding::Bound { tenant, account } => Ok(Scope::Tenant { tenant, account }),
        Binding::Trusted | Binding::None => Err(ScopeError::Missing),
    }
}

/// The scope that ingest happens in: a trusted role need not enter one, since it may write for every tenant.
pub fn for_writing() -> Result<Scope, ScopeError> {
    match current() {
        Err(ScopeError::Missing)
            if session::session_is_superuser() || matches!(binding(), Binding::Trusted) =>
        {
            Ok(Scope::Global)
        }
        other => other,
    }
}

fn entered() -> Option<Scope> {
    settings::scope().map(|setting| Scope::parse(&setting.to_string_lossy()))
}

fn binding() -> Binding {
    let mut bindings = Lookup::open(session::relation(c"role_binding"), &[Key::Oid], View::Statement);
    let found = bindings.find(&[Datum::from(session::session_role())], [2, 3]);
    let text = |column: usize| {
        let row = found.as_ref()?;
        // SAFETY: columns 2 and 3 of role_binding are text, and the row is valid until the next `find`.
        unsafe { String::from_datum(row.values[column], row.nulls[column]) }
    };
    let binding = match (&found, text(0)) {
        (None, _) => Binding::None,
        (Some(_), None) => Binding::Trusted,
        (Some(_), Some(tenant)) => Binding::Bound { tenant, account: text(1) },
    };
    bindings.close();
    binding
}

fn enter_scope(wanted: Scope) -> Result<(), ScopeError> {
    if session::in_subtransaction() {
        return Err(ScopeError::Subtransaction);
    }
    if let Scope::Tenant { tenant, account } = &wanted {
        for value in [Some(tenant), account.as_ref()].into_iter().flatten() {
            id::check(value)
                .map_err(|problem| ScopeError::BadId(format!("\"{value}\" {}", problem.problem())))?;
        }
    }
    if let Some(already) = entered() {
        let narrows = matches!((&already, &wanted), (Scope::Tenant { tenant: own, account: None },
            Scope::Tenant { tenant, account: Some(_) }) if own == tenant);
        if already != wanted && !narrows {
            return Err(ScopeError::Latched);
        }
    }
    let superuser = session::session_is_superuser();
    let is_first = entered().is_none();
    if let (Scope::Tenant { .. }, true, false, Some(leftover)) =
        (&wanted, is_first, superuser, session::leftover())
    {
        return Err(ScopeError::Dirty(leftover));
    }
    let allowed = match (binding(), &wanted) {
        (Binding::Bound { tenant: own, account: only }, Scope::Tenant { tenant, account }) => {
            own == *tenant && only.is_none_or(|only| account.as_ref() == Some(&only))
        }
        (Binding::Bound { .. }, Scope::Global) => false,
        (Binding::Trusted, Scope::Tenant { .. }) => true,
        (Binding::None, Scope::Tenant { .. }) => superuser || session::session_is_member_of(c"tally_analyst"),
        (_, Scope::Global) => superuser || session::session_is_member_of(c"tally_analyst"),
    };
    if !allowed {
        return Err(ScopeError::Denied(session::session_role_name()));
    }
    session::set_scope(&wanted.setting());
    if let (Scope::Tenant { tenant, .. }, true) = (&wanted, is_first) {
        apply_limits(tenant);
    }
    Ok(())
}

/// Lowers what tally.tenant_limit bounds for the tenant.
fn apply_limits(tenant: &str) {
    let mut arena = Arena::default();
    let mut limits = Lookup::open(session::relation(c"tenant_limit"), &[Key::Text], View::Statement);
    let found = limits
        .find(&[arena.varlena(tenant.as_bytes())], [1, 2, 3])
        // SAFETY: columns 1 to 3 of tenant_limit are int4.
        .map(|row| [0, 1, 2].map(|column| unsafe { i32::from_datum(row.values[column], row.nulls[column]) }));
    limits.close();
    let settings = [Limit::StatementTimeout, Limit::WorkMem, Limit::ParallelWorkers];
    for (setting, most) in settings.into_iter().zip(found.into_iter().flatten()) {
        if let Some(most) = most {
            session::limit(setting, most);
        }
    }
}

#[pg_extern(sql = false)]
fn enter(tenant_id: Option<&str>, account_id: Option<&str>) -> Result<(), ErrorReport> {
    let tenant = tenant_id.ok_or_else(|| ScopeError::BadId("tenant_id must not be null".into()))?;
    enter_scope(Scope::Tenant { tenant: tenant.to_owned(), account: account_id.map(str::to_owned) })?;
    Ok(())
}

#[pg_extern(sql = false)]
fn enter_global() -> Result<(), ErrorReport> {
    Ok(enter_scope(Scope::Global)?)
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
    Ok(match current()? {
        Scope::Global => None,
        Scope::Tenant { account, .. } => account,
    })
}

#[pg_extern(sql = false)]
fn scope_is_global() -> Result<bool, ErrorReport> {
    Ok(current()? == Scope::Global)
}

#[pg_extern(sql = false)]
fn scope_first_account() -> Result<String, ErrorReport> {
    Ok(current_account()?.unwrap_or_default())
}

#[pg_extern(sql = false)]
fn scope_last_account() -> Result<String, ErrorReport> {
    Ok(current_account()?.unwrap_or_else(|| id::GREATEST.to_owned()))
}

#[pg_extern(sql = false)]
fn check_id(field: &str, value: &str) -> Result<(), ErrorReport> {
    id::check(value).map_err(|problem| ScopeError::BadId(format!("{field} {}", problem.problem())).into())
}
