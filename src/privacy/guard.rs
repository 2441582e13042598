//! What one ingest call needs to protect its events: the declarations, its tenants' keys, and the key that boxes are closed with.

use super::failure::PrivacyFailure;
use super::keys::{self, Keys, OF_BOXES};
use super::master;
use super::opening;
use super::rules::{self, EventRules, Rules};
use crate::backend::lookup::View;
use crate::backend::session;
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use tally_core::event::{EventRef, Properties};
use tally_core::jsonb::{self, Change, Found, JsonbError};
use tally_core::payload::is_made_session;
use tally_core::privacy::{BoxPublic, Place, Treatment, Value};

type OfTenant = Result<Rc<Keys>, PrivacyFailure>;

/// Has the command that prints the keys run where it will be needed for the first time: called before anything is locked that others
/// wait for, since it may take its time. What goes wrong is told where the keys are needed.
pub fn fetch_keys() {
    if master::is_command() && rules::current().is_some() {
        let _ = master::keys();
    }
}

/// Protects the events of one call.
pub struct Guard {
    rules: Rc<Rules>,
    /// Of the tenants that have keys, or need them.
    keys: BTreeMap<String, OfTenant>,
    closer: Option<BoxPublic>,
}

impl Guard {
    /// What a call with events of these tenants and names needs; `None` where nothing is protected. Called inside the gate.
    pub fn new<'a>(events: impl Iterator<Item = (&'a str, &'a str)>) -> Option<Self> {
        let rules = rules::current()?;
        let mut guard = Self { rules, keys: BTreeMap::new(), closer: None };
        guard.closer = keys::wrapped(OF_BOXES, View::Now).and_then(|wrapped| wrapped.closer());
        let mut without = BTreeSet::new();
        for (tenant, event) in events {
            if guard.keys.contains_key(tenant) {
                continue;
            }
            let found = if without.contains(tenant) { None } else { keys::of(tenant) };
            let found = match found {
                None if !guard.rules.of(tenant, event).is_empty() => Some(keys::of_or_made(tenant)),
                found => found,
            };
            match found {
                Some(found) => {
                    guard.keys.insert(tenant.to_owned(), found);
                }
                None => {
                    without.insert(tenant);
                }
            }
        }
        Some(guard)
    }

    /// Whether what is said of a tenant's events must not show them, and what is kept of them must be closed up.
    pub fn concerns(&self, tenant: Option<&str>) -> bool {
        self.rules.concern(tenant)
    }

    /// Why a tenant's events can't be stored now; `None` where they can.
    pub fn obstacle(&self, tenant: &str) -> Option<&PrivacyFailure> {
        self.keys.get(tenant)?.as_ref().err()
    }

    /// The fingerprint for the ledger of an event of a tenant, whose plain one is given.
    pub fn fingerprint(&self, tenant: &str, plain: i64) -> Option<i64> {
        Some(self.keys.get(tenant)?.as_ref().ok()?.fingerprint(plain))
    }

    /// The event as it is to be stored; `None` where nothing of it is protected.
    pub fn protected<'a>(&self, event: &EventRef<'a>) -> Result<Option<EventRef<'a>>, JsonbError> {
        let rules = self.rules.of(&event.tenant_id, &event.name);
        let keys = self.keys.get(&*event.tenant_id).filter(|_| !rules.is_empty());
        let Some(Ok(keys)) = keys else { return Ok(None) };
        let user = event.user_id.as_deref().map(|user| (user, rules.user));
        let user_id = match user {
            Some((user, Some(Treatment::Token))) => Some(Cow::Owned(keys.user(user).text())),
            Some((_, Some(Treatment::Drop | Treatment::Seal))) => None,
            _ => event.user_id.clone(),
        };
        // One that a format made of the user's id would show it to whoever guesses.
        let session_id = match event.session_id.as_deref().filter(|_| rules.user.is_some()) {
            Some(session) if is_made_session(session) => Some(Cow::Owned(keys.user(session).text())),
            _ => event.session_id.clone(),
        };
        let properties =
            protected_properties(&rules, keys, &event.tenant_id, &event.event_id, event.properties.jsonb());
        let properties = match properties? {
            Some(jsonb) => Properties::from_parts(jsonb, event.properties.digest()),
            None => event.properties.clone(),
        };
        Ok(Some(EventRef { user_id, session_id, properties, ..event.clone() }))
    }

    /// Closes a quarantined event's text up, for the place where it is going to stand.
    pub fn close(
        &self,
        tenant: &str,
        batch_id: i64,
        position: u32,
        text: &str,
    ) -> Result<String, PrivacyFailure> {
        let closer = self.closer.as_ref().ok_or_else(|| PrivacyFailure::NoKeys(OF_BOXES.to_owned()))?;
        Ok(opening::close_body(closer, tenant, batch_id, position, text))
    }
}

/// Properties with everything that rules say done to them; `None` where that changes nothing.
fn protected_properties(
    rules: &EventRules,
    keys: &Keys,
    tenant: &str,
    event_id: &[u8; 16],
    properties: &[u8],
) -> Result<Option<Vec<u8>>, JsonbError> {
    if rules.paths.is_empty() {
        return Ok(None);
    }
    let paths: Vec<&[String]> = rules.paths.iter().map(|path| path.steps()).collect();
    let newest = keys.newest();
    let mut decide = |found: Found| {
        let Found { text, is_string, at: path, .. } = found;
        match rules.treatment(&found) {
            None => Change::Keep,
            Some(Treatment::Drop) => Change::Remove,
            Some(Treatment::Token) => Change::Text(keys.property(value(text, is_string), newest).text()),
            Some(Treatment::Seal) => {
                Change::Text(sealed(keys, text, is_string, &Place { tenant, event_id, path }))
            }
        }
    };
    jsonb::replace(properties, &paths, &mut decide)
}

/// A value as tokens are made of it.
pub fn value(text: &str, is_string: bool) -> Value<'_> {
    if is_string { Value::Text(text) } else { Value::Json(text) }
}

/// A value sealed in its place, as JSON.
pub fn sealed(keys: &Keys, text: &str, is_string: bool, place: &Place) -> String {
    let key = keys.seal(keys.newest()).expect("there is a key of every epoch");
    let nonce = session::random_bytes();
    if !is_string {
        return key.seal(text, place, nonce);
    }
    let mut quoted = String::with_capacity(text.len() + 2);
    jsonb::quote(text, &mut quoted);
    key.seal(&quoted, place, nonce)
}

/// What is said in the place of a reason that may quote protected values.
pub fn hidden(field: &str) -> String {
    let what = if jsonb_field(field) { field } else { "the event" };
    format!("{what} is not valid; its text is not shown, since the tenant's events are protected")
}

fn jsonb_field(field: &str) -> bool {
    tally_core::event::FIELD_NAMES.contains(&field)
}

/// A text without what it quotes, where anything is protected: nothing tells whose it is.
pub fn quiet(text: &str) -> Cow<'_, str> {
    match text.split_once('"') {
        Some((before, _)) if rules::current().is_some() => Cow::Owned(format!(
            "{} (its text is not shown, since events are protected)",
            before.trim_end_matches([' ', ':'])
        )),
        _ => Cow::Borrowed(text),
    }
}
