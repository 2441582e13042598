//! Quotas: how much each tenant may send. `tally.quota` says how much, `bucket` counts events a minute, `quarantine` what waits there.

mod bucket;
mod failure;
mod quarantine;

use crate::backend::scan::{self, Snapshot};
use crate::backend::{cache, session, sql};
use pgrx::pg_sys;
use pgrx::prelude::*;
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use bucket::Rate;
pub use failure::QuotaError;
pub use quarantine::forget as forget_quarantine;

/// What one tenant may send; `None` where nothing bounds it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Quota {
    rate: Option<Rate>,
    pub batch_events: Option<i64>,
    /// Bytes of an event's properties.
    pub properties_size: Option<usize>,
    pub quarantine_events: Option<i64>,
}

/// The quotas as the running backend knows them.
#[derive(Default)]
pub struct Quotas {
    own: HashMap<String, Quota>,
    /// Of tenants that have none of their own.
    everyone: Quota,
    is_empty: bool,
}

thread_local! {
    static KNOWN: cache::Cache<Quotas> = const { cache::Cache::new() };
}

/// The quotas as of what committed before this call; `None` where there are none at all.
pub fn current() -> Option<Rc<Quotas>> {
    let table = session::relation(c"quota");
    session::lock_relation(table, pg_sys::AccessShareLock);
    let known = KNOWN.with(|known| known.get_or_load(table, || Ok::<_, ()>(load())));
    known.ok().filter(|quotas| !quotas.is_empty)
}

impl Quotas {
    /// A tenant's own quota, or everyone's.
    pub fn of(&self, tenant: &str) -> &Quota {
        self.own.get(tenant).unwrap_or(&self.everyone)
    }

    /// Whether some tenant's calls may have so many events and no more.
    pub fn limit_batches(&self) -> bool {
        self.own.values().chain([&self.everyone]).any(|quota| quota.batch_events.is_some())
    }

    /// Takes what a call sends from its tenants' quotas, or refuses the call.
    pub fn charge(&self, sent: &BTreeMap<&str, i64>) -> Result<(), QuotaError> {
        for (&tenant, &sent) in sent {
            let quota = self.of(tenant);
            if let Some(most) = quota.batch_events.filter(|most| sent > *most) {
                return Err(QuotaError::Batch { tenant: tenant.to_owned(), sent, most });
            }
            if let Some(rate) = quota.rate {
                bucket::take(tenant, sent, rate).map_err(|short| QuotaError::Rate {
                    tenant: tenant.to_owned(),
                    events_per_minute: rate.events_per_minute,
                    sent,
                    left: short.left,
                    wait: short.wait,
                    burst: rate.burst,
                })?;
            }
        }
        Ok(())
    }

    /// Refuses a call that would add to quarantines, before it stores anything, where one is known to have no room for that.
    pub fn expect_room(&self, adding: &BTreeMap<&str, i64>) -> Result<(), QuotaError> {
        self.hold_quarantine(adding, |tenant, most, adding| !quarantine::is_known_full(tenant, most, adding))
    }

    /// Refuses a call that has added more to a quarantine than there was room for.
    pub fn check_quarantine(&self, added: &BTreeMap<&str, i64>) -> Result<(), QuotaError> {
        self.hold_quarantine(added, quarantine::takes)
    }

    fn hold_quarantine(
        &self,
        added: &BTreeMap<&str, i64>,
        takes: impl Fn(&str, i64, i64) -> bool,
    ) -> Result<(), QuotaError> {
        for (&tenant, &added) in added {
            if let Some(most) = self.of(tenant).quarantine_events.filter(|&most| !takes(tenant, most, added))
            {
                return Err(QuotaError::Quarantine { tenant: tenant.to_owned(), most, added });
            }
        }
        Ok(())
    }
}

/// As of now, not of the statement or the transaction: what is loaded outlives both.
fn load() -> Quotas {
    let query = "SELECT q.tenant_id, q.events_per_minute, q.burst, q.batch_events, q.properties_kb, q.quarantine_events \
                   FROM tally.quota AS q";
    let mut quotas = Quotas { is_empty: true, ..Quotas::default() };
    for row in session::as_owner(|| scan::texts(query, Snapshot::Latest)) {
        let Ok([Some(tenant), numbers @ ..]) = <[Option<String>; 6]>::try_from(row) else {
            unreachable!("the tenant is NOT NULL")
        };
        quotas.is_empty = false;
        let [events_per_minute, burst, batch_events, properties_kb, quarantine_events] =
            numbers.map(|text| text.map(|text| text.parse::<i64>().expect("a number")));
        let quota = Quota {
            rate: events_per_minute
                .map(|events| Rate { events_per_minute: events, burst: burst.unwrap_or(events) }),
            batch_events,
            properties_size: properties_kb.map(|size| size as usize * 1024),
            quarantine_events,
        };
        if tenant.is_empty() {
            quotas.everyone = quota;
        } else {
            quotas.own.insert(tenant, quota);
        }
    }
    quotas
}

/// Replaces a tenant's quota as the owner of the table, whatever the caller's scope.
#[pg_extern(sql = false)]
fn write_quota(
    tenant_id: Option<&str>,
    events_per_minute: Option<i64>,
    burst: Option<i64>,
    batch_events: Option<i32>,
    properties_kb: Option<i32>,
    quarantine_events: Option<i64>,
) {
    session::require_writable(c"tally.set_quota()");
    let tenant_id = tenant_id.unwrap_or_default();
    session::as_owner(|| {
        sql::run("DELETE FROM tally.quota AS q WHERE q.tenant_id = $1", &[tenant_id.into()]);
        sql::run(
            "INSERT INTO tally.quota (events_per_minute, burst, quarantine_events, batch_events, properties_kb, tenant_id) \
             SELECT $2, $3, $6, $4, $5, $1 WHERE num_nonnulls($2, $3, $4, $5, $6) > 0",
            &[
                tenant_id.into(),
                events_per_minute.into(),
                burst.into(),
                batch_events.into(),
                properties_kb.into(),
                quarantine_events.into(),
            ],
        );
    });
    cache::invalidate(session::relation(c"quota"));
}
