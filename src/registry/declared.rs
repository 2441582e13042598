//! The registry as the running backend knows it.

use super::Policy;
use crate::backend::{cache, session, sql};
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

fn load() -> Registry {
    let schemas = "SELECT DISTINCT ON (s.name) s.name, s.version, s.schema::text FROM tally.event_schema AS s \
                    ORDER BY s.name, s.version DESC";
    let policies = "SELECT p.tenant_id, p.policy FROM tally.unregistered_policy AS p";
    let mut registry = Registry::default();
    session::as_owner(|| {
        sql::rows(schemas, &[], |row| {
            // Checked when it was registered; what another version of the library no longer takes checks nothing.
            let compiled = match serde_json::from_str(&row.need::<String>(3)) {
                Ok(schema) => Schema::compile(&schema).map_err(|error| error.to_string()),
                Err(error) => Err(error.to_string()),
            };
            match compiled {
                Ok(schema) => {
                    registry.schemas.insert(row.need(1), (row.need(2), schema));
                }
                Err(error) => pgrx::warning!("a registered schema can't be used: {error}"),
            }
        });
        sql::rows(policies, &[], |row| {
            let policy = match row.need::<String>(2).as_str() {
                "reject" => Policy::Reject,
                "mark" => Policy::Mark,
                _ => Policy::Allow,
            };
            match row.need::<String>(1) {
                tenant if tenant.is_empty() => registry.everyone = policy,
                tenant => {
                    registry.policies.insert(tenant, policy);
                }
            }
        });
    });
    registry
}
