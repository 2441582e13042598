//! The registry as the running backend knows it.

use super::Policy;
use crate::backend::scan::{self, Snapshot};
use crate::backend::{cache, session};
use pgrx::pg_sys;
use std::collections::HashMap;
use std::rc::Rc;
use tally_schema::Schema;

/// The newest version of each registered schema, compiled, and the policies.
#[derive(Default)]
pub struct Registry {
    pub schemas: HashMap<String, (i32, Schema)>,
    /// By tenant.
    policies: HashMap<String, Policy>,
    /// Of tenants that have none of their own.
    everyone: Policy,
}

impl Registry {
    /// Whether it has nothing to say of any event.
    pub fn is_empty(&self) -> bool {
        self.schemas.is_empty() && self.policies.is_empty() && self.everyone == Policy::Allow
    }

    /// What becomes of a tenant's events whose name nobody registered.
    pub fn policy(&self, tenant: &str) -> Policy {
        self.policies.get(tenant).copied().unwrap_or(self.everyone)
    }
}

thread_local! {
    static KNOWN: cache::Cache<Registry> = const { cache::Cache::new() };
}

/// The registry as of what committed before this call.
pub fn current() -> Rc<Registry> {
    let table = session::relation(c"event_schema");
    // Waits for nobody who only registers: it makes invalidations arrive.
    session::lock_relation(table, pg_sys::AccessShareLock);
    let known = KNOWN.with(|known| known.get_or_load(table, || Ok::<_, ()>(load())));
    known.expect("loading raises its own errors")
}

/// As of now, not of the statement or the transaction: what is loaded outlives both.
fn load() -> Registry {
    let schemas = "SELECT DISTINCT ON (s.name) s.name, s.version, s.schema::text FROM tally.event_schema AS s \
                    ORDER BY s.name, s.version DESC";
    let policies = "SELECT p.tenant_id, p.policy FROM tally.unregistered_policy AS p";
    let rows = |query| session::as_owner(|| scan::texts(query, Snapshot::Latest));
    let mut registry = Registry::default();
    for row in rows(schemas) {
        let Ok([Some(name), Some(version), Some(text)]) = <[Option<String>; 3]>::try_from(row) else {
            unreachable!("the columns are NOT NULL")
        };
        // Checked when it was registered; what another version of the library no longer takes checks nothing.
        let compiled = match serde_json::from_str(&text) {
            Ok(schema) => super::cancellable(|| Schema::compile(&schema)).map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        match compiled {
            Ok(schema) => {
                registry.schemas.insert(name, (version.parse().expect("a number"), schema));
            }
            Err(error) => pgrx::warning!("a registered schema can't be used: {error}"),
        }
    }
    for row in rows(policies) {
        let [Some(tenant), Some(policy)] = &row[..] else { unreachable!("the columns are NOT NULL") };
        let policy = match policy.as_str() {
            "reject" => Policy::Reject,
            "mark" => Policy::Mark,
            _ => Policy::Allow,
        };
        if tenant.is_empty() {
            registry.everyone = policy;
        } else {
            registry.policies.insert(tenant.clone(), policy);
        }
    }
    registry
}
