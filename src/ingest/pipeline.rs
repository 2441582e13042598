//! The one pipeline behind every door: parse, check the scope, sort by key, then in one subtransaction ledger, raw,
//! rollups, batch and quarantine.
//!
//! The subtransaction is what makes the optimistic insert safe. A large batch is inserted into the ledger without
//! looking its keys up first; where one turns out to be there, or another transaction is inserting it, everything is
//! undone and done again with every key looked up (and waited for).

use super::ledger::{self, Entry, Known, NotSerializable};
use super::store::{self, EventRow, Quarantined};
use super::summary::{Counts, Detail, Outcome, Summary};
use super::partition;
use crate::backend::appender::{AppendError, Unique};
use crate::backend::arena::Arena;
use crate::backend::session;
use crate::backend::subtransaction::{self, Verdict};
use crate::rollup;
use crate::scope::{self, Scope, ScopeError};
use crate::settings;
use std::collections::BTreeMap;
use tally_core::event::{self, BatchError, EventRef, Limits};

/// Why a whole ingest call fails, with nothing stored.
#[derive(Debug)]
pub enum IngestError {
    /// The text can't be split into events, or is over a limit.
    Batch(BatchError),
    Scope(ScopeError),
    Append(AppendError),
    /// At repeatable read or above: a concurrent transaction committed one of the events.
    NotSerializable,
    /// A declared rollup can't be evaluated at all.
    Rollup(rollup::RollupError),
}

/// Events may be dated this far ahead of the server's clock, in microseconds: a day, for clients whose clock is wrong.
const FUTURE: i64 = 86_400_000_000;
/// 1970-01-01 00:00 UTC: earlier events are refused, since a few of them would make a partition for every month.
const EARLIEST: i64 = -946_684_800_000_000;

/// What one attempt came to.
enum Attempt {
    Done,
    /// A key clashed: look every key up next time.
    Clash,
}

/// Where an attempt stands, so that an error's origin is known after it was undone.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Storing,
    Rollups,
}

struct Batch<'a> {
    items: Vec<event::Item<'a>>,
    /// One outcome for each item.
    outcomes: Vec<Outcome>,
    /// Positions of the valid events, one for each key, sorted by key.
    candidates: Vec<usize>,
    scope: Scope,
    now: i64,
}

/// Ingests one event or an array of them.
pub fn run(text: &str) -> Result<Summary, IngestError> {
    session::require_writable(c"tally.ingest()");
    let scope = scope::for_writing()?;
    let now = session::transaction_start();
    let limits = Limits {
        max_events: settings::batch_max_events(),
        max_properties: settings::properties_max_size(),
        earliest: EARLIEST,
        latest: session::clock() + FUTURE,
        ..Limits::default()
    };
    let items = event::parse_batch(text, &limits)?.items;
    let mut batch = Batch { outcomes: Vec::with_capacity(items.len()), items, candidates: Vec::new(), scope, now };
    batch.judge();
    batch.store()
}

impl<'a> Batch<'a> {
    /// Gives each item its first outcome and finds the candidates: valid, in scope, first of their key in the batch.
    fn judge(&mut self) {
        for item in &self.items {
            self.outcomes.push(match &item.event {
                Err(rejection) => {
                    Outcome::Rejected { sqlstate: rejection.sqlstate, reason: rejection.reason.clone() }
                }
                Ok(event) if !self.scope.admits(&event.tenant_id, &event.account_id) => Outcome::Rejected {
                    sqlstate: "42501",
                    reason: format!(
                        "tenant_id \"{}\", account_id \"{}\" is outside the scope",
                        event.tenant_id, event.account_id
                    ),
                },
                Ok(_) => Outcome::Accepted,
            });
        }
        let valid = (0..self.items.len()).filter(|&position| self.outcomes[position] == Outcome::Accepted);
        let mut sorted: Vec<usize> = valid.collect();
        sorted.sort_unstable_by_key(|&position| {
            let event = event_at(&self.items, position);
            (event.tenant_id.as_bytes(), event.event_id, position)
        });
        for position in sorted {
            let event = event_at(&self.items, position);
            match self.candidates.last().map(|&first| event_at(&self.items, first)) {
                Some(first) if first.tenant_id == event.tenant_id && first.event_id == event.event_id => {
                    self.outcomes[position] = if first.fingerprint() == event.fingerprint() {
                        Outcome::Duplicate
                    } else {
                        Outcome::Conflict
                    };
                }
                _ => self.candidates.push(position),
            }
        }
    }

    /// Stores the batch, again with every key looked up where a key clashed, and without the events that a declared
    /// rollup can't evaluate.
    fn store(mut self) -> Result<Summary, IngestError> {
        let mut look_up = None;
        loop {
            let batch_id = new_batch_id();
            let mut stage = Stage::Storing;
            let attempt = subtransaction::run(|| match self.attempt(batch_id, look_up, &mut stage) {
                Ok(Attempt::Done) => Verdict::Keep(Ok(Attempt::Done)),
                other => Verdict::Undo(other),
            });
            match attempt {
                Ok(Ok(Attempt::Done)) => {
                    session::advance_command();
                    rollup::relieve()?;
                    return Ok(self.summary(batch_id));
                }
                Ok(Ok(Attempt::Clash)) => look_up = Some(true),
                Ok(Err(error)) => return Err(error),
                Err(caught) if stage == Stage::Rollups && caught.is_about_data() => {
                    if !self.reject_unevaluable()? {
                        caught.rethrow();
                    }
                }
                Err(caught) => caught.rethrow(),
            }
        }
    }

    /// One try at storing everything; `look_up` says whether to look every key up first, `None` leaves it to a sample.
    fn attempt(
        &mut self,
        batch_id: i64,
        look_up: Option<bool>,
        stage: &mut Stage,
    ) -> Result<Attempt, IngestError> {
        let Self { items, outcomes, candidates, .. } = self;
        let items = &*items;
        partition::ensure(candidates.iter().map(|&position| event_at(items, position).occurred_at));
        let names = candidates.iter().map(|&position| &*event_at(items, position).tenant_id);
        let Ok(sketch_keys) = store::tenants(names, self.now)? else {
            return Ok(Attempt::Clash);
        };

        let entries: Vec<Entry> = candidates.iter().map(|&position| entry(event_at(items, position))).collect();
        let known = match look_up {
            Some(look_up) => look_up,
            None => ledger::wants_look_up(&entries)?,
        }
        .then(|| ledger::look_up(&entries))
        .transpose()?;
        let is_new = |index: usize| known.as_ref().is_none_or(|known| known[index] == Known::New);
        for (index, &position) in candidates.iter().enumerate() {
            outcomes[position] = match known.as_ref().map(|known| known[index]) {
                None | Some(Known::New) => Outcome::Accepted,
                Some(Known::Same) => Outcome::Duplicate,
                Some(Known::Other) => Outcome::Conflict,
            };
        }

        let mut arena = Arena::default();
        let new: Vec<usize> = (0..candidates.len()).filter(|&index| is_new(index)).collect();
        if !new.is_empty() {
            if ledger::insert(new.iter().map(|&index| &entries[index]), batch_id, &mut arena)? == Unique::Clash {
                return Ok(Attempt::Clash);
            }
            let mut rows: Vec<(&EventRef, EventRow)> = new
                .iter()
                .map(|&index| {
                    let event = event_at(items, candidates[index]);
                    (event, EventRow::new(event, batch_id, &mut arena))
                })
                .collect();
            store::raw(&mut rows)?;
            *stage = Stage::Rollups;
            rollup::append(&rows, &sketch_keys)?;
            *stage = Stage::Storing;
        }
        self.record(batch_id)
    }

    /// Writes the batch's own rows and the quarantine.
    fn record(&self, batch_id: i64) -> Result<Attempt, IngestError> {
        let mut counts: BTreeMap<&str, Counts> = BTreeMap::new();
        let mut quarantined = Vec::new();
        for (item, outcome) in self.items.iter().zip(&self.outcomes) {
            let (tenant_id, account_id) = self.home(item);
            counts.entry(tenant_id).or_default().add(outcome);
            if matches!(outcome, Outcome::Conflict | Outcome::Rejected { .. }) {
                quarantined.push(Quarantined {
                    position: item.position,
                    event_id: event_id(item),
                    tenant_id,
                    account_id,
                    outcome,
                    body: item.source,
                });
            }
        }
        let caller = session::session_role_name();
        let unique = store::batch(batch_id, self.now, &counts, &caller)? == Unique::Yes
            && store::quarantine(batch_id, self.now, &quarantined)? == Unique::Yes;
        Ok(if unique { Attempt::Done } else { Attempt::Clash })
    }

    /// Tenant and account under which an item is recorded: the caller's own scope, or what the item itself names where
    /// the caller may write for every tenant. Empty where nothing valid is known.
    fn home<'b>(&'b self, item: &'b event::Item<'a>) -> (&'b str, &'b str) {
        match (&self.scope, &item.event) {
            (Scope::Tenant { tenant, account }, _) => (tenant, account.as_deref().unwrap_or_default()),
            (Scope::Global, Ok(event)) => (&event.tenant_id, &event.account_id),
            (Scope::Global, Err(rejection)) => (rejection.tenant_id.as_deref().unwrap_or_default(), ""),
        }
    }

    /// Rejects the events that make a declared rollup's expressions fail; says whether there were any.
    fn reject_unevaluable(&mut self) -> Result<bool, IngestError> {
        let mut arena = Arena::default();
        let mut found = false;
        let mut kept = Vec::with_capacity(self.candidates.len());
        for &position in &self.candidates {
            let event = event_at(&self.items, position);
            let row = EventRow::new(event, 0, &mut arena);
            match rollup::evaluate(&row)? {
                None => kept.push(position),
                Some((sqlstate, reason)) => {
                    found = true;
                    self.outcomes[position] = Outcome::Rejected { sqlstate, reason };
                }
            }
        }
        self.candidates = kept;
        Ok(found)
    }

    fn summary(&self, batch_id: i64) -> Summary {
        let mut counts = Counts::default();
        let mut details = Vec::new();
        for (item, outcome) in self.items.iter().zip(&self.outcomes) {
            counts.add(outcome);
            if *outcome != Outcome::Accepted {
                let (sqlstate, reason) = outcome.reason();
                details.push(Detail {
                    position: item.position,
                    event_id: event_id(item).map(|id| event::id::uuid_text(&id)),
                    outcome: outcome.word(),
                    sqlstate,
                    reason,
                });
            }
        }
        let details = serde_json::to_string(&details).expect("details are strings and numbers");
        Summary { batch_id, counts, details }
    }
}

fn event_at<'b, 'a>(items: &'b [event::Item<'a>], position: usize) -> &'b EventRef<'a> {
    items[position].event.as_ref().expect("candidates are valid events")
}

fn event_id(item: &event::Item) -> Option<[u8; 16]> {
    match &item.event {
        Ok(event) => Some(event.event_id),
        Err(rejection) => rejection.event_id,
    }
}

fn entry<'a>(event: &'a EventRef) -> Entry<'a> {
    Entry {
        tenant_id: &event.tenant_id,
        event_id: event.event_id,
        occurred_at: event.occurred_at,
        fingerprint: event.fingerprint() as i64,
    }
}

/// A batch id: milliseconds since 2000 and 22 random bits. In order of time, but not a sequence, whose gaps would tell
/// a tenant how much the others send.
fn new_batch_id() -> i64 {
    let random = u32::from_le_bytes(session::random_bytes()) >> 10;
    (session::clock() / 1000) << 22 | i64::from(random)
}

impl From<BatchError> for IngestError {
    fn from(error: BatchError) -> Self {
        Self::Batch(error)
    }
}

impl From<ScopeError> for IngestError {
    fn from(error: ScopeError) -> Self {
        Self::Scope(error)
    }
}

impl From<AppendError> for IngestError {
    fn from(error: AppendError) -> Self {
        Self::Append(error)
    }
}

impl From<NotSerializable> for IngestError {
    fn from(_: NotSerializable) -> Self {
        Self::NotSerializable
    }
}

impl From<rollup::RollupError> for IngestError {
    fn from(error: rollup::RollupError) -> Self {
        Self::Rollup(error)
    }
}
