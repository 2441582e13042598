//! Protecting what is stored: the events' properties and user ids, their fingerprints, and the texts and reasons of those that go
//! to quarantine. Everything is judged as it was sent; what is stored, or told, comes after.

use super::{Batch, event_at};
use crate::ingest::failure::IngestError;
use crate::privacy::{self, Guard, KEYS_MISSING};
use crate::raw::ledger::Entry;
use crate::raw::outcome::Outcome;
use std::borrow::Cow;
use std::collections::BTreeMap;
use tally_core::event::{self, EventRef, EventView, Item};

impl Batch<'_> {
    /// Finds what protects the batch's events. Called inside the gate, so that what is declared later finds what this call stores.
    pub(super) fn ready_guard(&mut self) {
        let named = self.items.iter().filter_map(|item| item.event.as_ref().ok());
        self.guard = Guard::new(
            named
                .filter(|event| self.scope.admits(&event.tenant_id, &event.account_id))
                .map(|event| (&*event.tenant_id, &*event.name)),
        );
    }

    /// The reason for a rejection, without what it may quote where the tenant's events are protected.
    pub(super) fn shown(&self, index: usize, field: &str, reason: &str) -> String {
        let is_closed =
            matches!(&self.items[index].event, Err(rejection) if rejection.sqlstate == KEYS_MISSING);
        if !is_closed && self.is_concerned(index) { privacy::hidden(field) } else { reason.to_owned() }
    }

    /// Whether what is kept and said of an item must not show it.
    fn is_concerned(&self, index: usize) -> bool {
        let Some(guard) = &self.guard else { return false };
        let named = match &self.items[index].event {
            Ok(event) => Some(&*event.tenant_id),
            Err(rejection) => rejection.tenant_id.as_deref(),
        };
        guard.concerns(named) || guard.concerns(Some(self.home(index).0))
    }

    /// The rejection of an event whose tenant's keys are not at hand.
    pub(super) fn obstacle(&self, event: &EventRef) -> Option<Outcome> {
        self.guard.as_ref()?.obstacle(&event.tenant_id)?;
        let reason = "the keys of the tenant's protected data are not at hand; the event can be redriven when they are";
        Some(Outcome::Rejected { sqlstate: KEYS_MISSING.into(), reason: reason.into() })
    }

    /// Puts in the place of each event what is to be stored of it.
    pub(super) fn protect(&mut self) {
        let Some(guard) = &self.guard else { return };
        for index in 0..self.items.len() {
            if !self.is_valid(index) {
                continue;
            }
            match guard.protected(event_at(&self.items, index)) {
                Ok(None) => {}
                Ok(Some(protected)) => {
                    let sent = std::mem::replace(&mut self.items[index].event, Ok(protected));
                    self.sent.insert(index, sent.expect("candidates are valid events"));
                }
                // With tokens in the place of many small values.
                Err(error) => {
                    let reason = format!("properties, protected: {}", error.reason);
                    self.outcomes[index] = Outcome::Rejected { sqlstate: error.sqlstate.into(), reason };
                }
            }
        }
    }

    /// What the quarantine is to have of an item: its text, made anew where a door has none, and closed up where the tenant's events
    /// are protected.
    pub(super) fn body<'b>(
        &'b self,
        batch_id: i64,
        index: usize,
        item: &'b Item,
    ) -> Result<Cow<'b, str>, IngestError> {
        let text = match &item.event {
            Ok(_) if item.raw.is_empty() => Cow::Owned(event::to_json_text(&EventView::read(
                &event::encode(sent(&self.items, &self.sent, index)),
            )?)?),
            _ => Cow::Borrowed(item.raw),
        };
        match self.guard.as_ref().filter(|_| self.is_concerned(index)) {
            None => Ok(text),
            Some(guard) => {
                Ok(Cow::Owned(guard.close(self.home(index).0, batch_id, item.position as u32, &text)?))
            }
        }
    }
}

/// An event as it was sent.
fn sent<'b, 'a>(
    items: &'b [Item<'a>],
    sent: &'b BTreeMap<usize, EventRef<'a>>,
    index: usize,
) -> &'b EventRef<'a> {
    sent.get(&index).unwrap_or_else(|| event_at(items, index))
}

/// What the ledger is to have of the event at a place: a fingerprint of what was sent, under a secret of the tenant's where it has
/// keys. The plain hash of an event that could be guessed would tell whether the guess is right.
pub(super) fn entry<'b>(
    items: &'b [Item],
    as_sent: &'b BTreeMap<usize, EventRef>,
    guard: Option<&Guard>,
    index: usize,
) -> Entry<'b> {
    let event = sent(items, as_sent, index);
    let plain = event::fingerprint(event);
    let keyed = guard.and_then(|guard| guard.fingerprint(&event.tenant_id, plain));
    Entry {
        tenant_id: &event.tenant_id,
        account_id: &event.account_id,
        event_id: event.event_id,
        occurred_at: event.occurred_at,
        fingerprint: keyed.unwrap_or(plain),
        earlier: plain,
    }
}
