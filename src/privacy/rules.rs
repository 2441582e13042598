//! What was declared to be protected, as the running backend knows it.

use super::keys::{self, OF_BOXES};
use crate::backend::lookup::View;
use crate::backend::scan::{self, Snapshot};
use crate::backend::{cache, session};
use pgrx::pg_sys;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::rc::Rc;
use tally_core::jsonb::Found;
use tally_core::privacy::{Path, Treatment};

/// Pairs of tenant and event whose rules are kept ready.
const READY: usize = 10_000;

/// What is protected of the events of one name of one tenant.
#[derive(Default)]
pub struct EventRules {
    pub paths: Vec<Path>,
    /// Of the path at the same place.
    pub treatments: Vec<Treatment>,
    pub user: Option<Treatment>,
}

impl EventRules {
    pub fn is_empty(&self) -> bool {
        self.paths.is_empty() && self.user.is_none()
    }

    /// What is to be done to a value that a path leads to; `None` where it goes along with what it is in.
    pub fn treatment(&self, found: &Found) -> Option<Treatment> {
        self.treatments[found.path].within(found.around.iter().map(|&path| self.treatments[path]))
    }
}

/// A declaration; the empty tenant stands for all, the empty event for every event, and no path for the user id.
struct Rule {
    tenant: String,
    event: String,
    path: Option<Path>,
    treatment: Treatment,
}

/// Every declaration.
#[derive(Default)]
pub struct Rules {
    declared: Vec<Rule>,
    /// Tenants that have declarations of their own.
    tenants: BTreeSet<String>,
    /// Whether something is declared for all.
    for_all: bool,
    /// Whether any tenant has keys, and so may have fingerprints made with them.
    pub has_keys: bool,
    ready: RefCell<HashMap<String, HashMap<String, Rc<EventRules>>>>,
}

thread_local! {
    static KNOWN: cache::Cache<Rules> = const { cache::Cache::new() };
}

/// The declarations as of what committed before this call; `None` where nothing was ever protected.
pub fn current() -> Option<Rc<Rules>> {
    // A database that isn't updated yet has no such table.
    let table = session::find_relation(c"protection")?;
    session::lock_relation(table, pg_sys::AccessShareLock);
    let known = KNOWN.with(|known| known.get_or_load(table, || Ok::<_, ()>(load())));
    known.ok().filter(|rules| rules.has_keys || !rules.declared.is_empty())
}

/// Makes every backend load the declarations anew, once this transaction commits.
pub fn changed() {
    cache::invalidate(session::relation(c"protection"));
}

/// What was declared by now, whatever the transaction's snapshot: the copy outlives the transaction.
fn load() -> Rules {
    let query = "SELECT p.tenant_id, p.event_name, p.path, p.treatment FROM tally.protection AS p";
    let mut rules = Rules { has_keys: keys::wrapped(OF_BOXES, View::Now).is_some(), ..Rules::default() };
    for row in session::as_owner(|| scan::texts(query, Snapshot::Latest)) {
        let [Some(tenant), Some(event), Some(path), Some(treatment)] = &row[..] else {
            unreachable!("the columns are NOT NULL")
        };
        rules.for_all |= tenant.is_empty();
        rules.tenants.insert(tenant.clone());
        rules.declared.push(Rule {
            tenant: tenant.clone(),
            event: event.clone(),
            // Both were checked when they were declared. What can't be read protects nothing less: the user id, whole.
            path: (!path.is_empty()).then(|| Path::parse(path).ok()).flatten(),
            treatment: Treatment::named(treatment).unwrap_or(Treatment::Drop),
        });
    }
    rules
}

impl Rules {
    /// Whether anything is declared that concerns a tenant; an unknown one is concerned where anything is declared at all.
    pub fn concern(&self, tenant: Option<&str>) -> bool {
        match tenant {
            Some(tenant) if !tenant.is_empty() => self.for_all || self.tenants.contains(tenant),
            _ => !self.declared.is_empty(),
        }
    }

    /// What is protected of an event. Of declarations about the same value, one for the tenant goes before one for all, and then one
    /// for the event before one for every event.
    pub fn of(&self, tenant: &str, event: &str) -> Rc<EventRules> {
        let mut ready = self.ready.borrow_mut();
        if let Some(found) = ready.get(tenant).and_then(|events| events.get(event)) {
            return found.clone();
        }
        let mut chosen: BTreeMap<Option<Path>, (bool, bool, Treatment)> = BTreeMap::new();
        for rule in &self.declared {
            let is_meant = (rule.tenant.is_empty() || rule.tenant == tenant)
                && (rule.event.is_empty() || rule.event == event);
            if !is_meant {
                continue;
            }
            let rank = (!rule.tenant.is_empty(), !rule.event.is_empty(), rule.treatment);
            let known = chosen.entry(rule.path.clone()).or_insert(rank);
            if (rank.0, rank.1) > (known.0, known.1) {
                *known = rank;
            }
        }
        let mut rules = EventRules {
            user: chosen.remove(&None).map(|(_, _, treatment)| treatment),
            ..EventRules::default()
        };
        for (path, (_, _, treatment)) in chosen {
            rules.paths.extend(path);
            rules.treatments.push(treatment);
        }
        let rules = Rc::new(rules);
        if ready.values().map(HashMap::len).sum::<usize>() >= READY {
            ready.clear();
        }
        ready.entry(tenant.to_owned()).or_default().insert(event.to_owned(), rules.clone());
        rules
    }
}
