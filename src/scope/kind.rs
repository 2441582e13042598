//! The kinds of scope, and the keys that stand for them.

use tally_core::scope_key;

/// What a transaction may see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    Tenant { tenant: String, account: Option<String> },
    Global,
}

impl Scope {
    pub(super) fn parse(key: &str) -> Self {
        match scope_key::parts(key) {
            None => Scope::Global,
            Some((tenant, account)) => {
                Scope::Tenant { tenant: tenant.to_owned(), account: account.map(str::to_owned) }
            }
        }
    }

    pub(super) fn account(self) -> Option<String> {
        match self {
            Scope::Global => None,
            Scope::Tenant { account, .. } => account,
        }
    }

    pub(super) fn key(&self) -> String {
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
