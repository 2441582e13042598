//! The one pipeline behind every door: parse, check the scope, sort by key, then in one subtransaction ledger, raw,
//! rollups, batch and quarantine.
//!
//! The subtransaction is what makes the optimistic insert safe. A large batch is inserted into the ledger without
//! looking its keys up first; where one turns out to be there, or another transaction is inserting it, everything is
//! undone and done again with every key looked up (and waited for).
//!
//! One file, though a long one: every step works on the same batch, and they are read in this order.

use super::event_row::EventRow;
use super::failure::{IngestError, Refusal};
use super::ledger::{self, Entry};
use super::months;
use super::options::{OnConflict, Options};
use super::partition;
use super::store::{self, Quarantined};
use super::summary::{Counts, Detail, Outcome, Summary};
use super::trail;
use crate::backend::appender::Unique;
use crate::backend::arena::Arena;
use crate::backend::session;
use crate::backend::subtransaction::{self, Caught, Verdict};
use crate::quota::{self, Quotas};
use crate::registry::{self, Verdict as Judged};
use crate::rollup::{self, RollupError};
use crate::scope::{self, Scope};
use crate::settings;
use crate::tenant;
use pgrx::pg_sys::panic::ErrorReport;
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use tally_core::batch;
use tally_core::event::{self, BatchError, CodecError, EventRef, EventView, Item, Limits};

/// Tenant and account in whose scope a quarantined event was sent; each empty where there was none.
pub type Home = (String, String);

/// 1970-01-01 00:00 UTC: earlier events are refused, since a few of them would make a partition for every month.
const EARLIEST: i64 = -946_684_800_000_000;

/// SQLSTATE of an event that is older than its tenant's retention: its key may have left the ledger.
const TOO_LATE: &str = "22T11";

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
    /// What an administrator added to the events' table is evaluated: columns, constraints.
    Events,
    Rollups,
}

struct Batch<'a> {
    items: Vec<Item<'a>>,
    /// One outcome for each item.
    outcomes: Vec<Outcome>,
    /// Indices of the valid events, the first of each key in the batch, sorted by key.
    candidates: Vec<usize>,
    /// What was added to each rollup and not folded.
    added: Vec<Option<rollup::Added>>,
    /// Later events of the same key: index of the item, and of the candidate.
    repeats: Vec<(usize, usize)>,
    scope: Scope,
    /// Indices of events that a rule refuses now and that were accepted before: a retry stays a duplicate.
    known: BTreeSet<usize>,
    /// Tenants and names that the registry wants noted.
    unregistered: BTreeSet<(String, String)>,
    /// Of events that wait in quarantine already: where each came from.
    homes: Option<&'a [Home]>,
    options: Options,
    quotas: Option<Rc<Quotas>>,
    now: i64,
}

/// The caller's scope, where it may write at all.
pub fn admit() -> Result<Scope, IngestError> {
    session::require_writable(c"tally.ingest()");
    Ok(scope::for_writing()?)
}

/// What events are held to now.
pub fn limits() -> Limits {
    Limits {
        batch_events: settings::batch_max_events(),
        properties_bytes: settings::properties_max_size(),
        earliest: EARLIEST,
        latest: session::clock() + batch::FUTURE,
        ..Limits::default()
    }
}

/// Refuses a batch of too many events.
pub fn check_count(events: usize, limits: &Limits) -> Result<(), IngestError> {
    if events <= limits.batch_events {
        return Ok(());
    }
    let reason = format!("batch has more than {} events", limits.batch_events);
    Err(BatchError { reason, sqlstate: "54000", offset: 0 }.into())
}

/// Ingests one event or an array of them, given as JSON.
pub fn run(text: &str, options: Options) -> Result<Summary, ErrorReport> {
    let scope = admit()?;
    match event::parse_batch(text, &limits()) {
        Ok(batch) => run_items(batch.items, scope, options),
        Err(error) => {
            trail::failed(&error.reason, &scope, &options.lineage);
            Err(IngestError::from(error).into())
        }
    }
}

/// Ingests events that a door has judged by `limits`. An item whose event is valid may go without its text.
pub fn run_items(items: Vec<Item>, scope: Scope, options: Options) -> Result<Summary, ErrorReport> {
    Ok(Batch::new(items, scope, None, options).work()?.0)
}

/// Ingests events that wait in quarantine, each in the scope in which it was sent; says what became of each. None is put
/// into quarantine again: they are there.
pub fn run_quarantined(
    items: Vec<Item>,
    homes: &[Home],
    scope: Scope,
    options: Options,
) -> Result<(Summary, Vec<Outcome>), ErrorReport> {
    Batch::new(items, scope, Some(homes), options).work()
}

impl<'a> Batch<'a> {
    fn new(items: Vec<Item<'a>>, scope: Scope, homes: Option<&'a [Home]>, options: Options) -> Self {
        Self {
            outcomes: Vec::with_capacity(items.len()),
            items,
            candidates: vec![],
            repeats: vec![],
            added: vec![],
            known: BTreeSet::new(),
            unregistered: BTreeSet::new(),
            scope,
            homes,
            options,
            quotas: quota::current(),
            now: session::transaction_start(),
        }
    }

    /// Does all of it, and tells the log how it went.
    fn work(mut self) -> Result<(Summary, Vec<Outcome>), ErrorReport> {
        rollup::begin_call();
        match self.judge_and_store().map_err(ErrorReport::from) {
            Ok(summary) => {
                trail::stored(&summary, &self.scope, &self.options.lineage);
                Ok((summary, self.outcomes))
            }
            Err(error) => {
                trail::failed(error.message(), &self.scope, &self.options.lineage);
                Err(error)
            }
        }
    }

    fn judge_and_store(&mut self) -> Result<Summary, IngestError> {
        self.judge();
        self.charge()?;
        self.refuse_by_rule()?;
        self.refuse()?;
        self.group();
        self.store()
    }

    /// Gives each item its first outcome: rejected where it isn't valid or not in scope.
    fn judge(&mut self) {
        // Taken before any other lock: from here on nobody moves a horizon under this batch.
        let named = self.items.iter().filter_map(|item| Some(&*item.event.as_ref().ok()?.tenant_id));
        let horizons = rollup::hold_horizons(named);
        for (index, item) in self.items.iter().enumerate() {
            self.outcomes.push(match &item.event {
                Err(rejection) => Outcome::Rejected {
                    sqlstate: rejection.sqlstate.into(),
                    reason: rejection.reason.clone(),
                },
                Ok(event) if !self.admits(index, event) => Outcome::Rejected {
                    sqlstate: "42501".into(),
                    reason: format!(
                        "tenant_id \"{}\", account_id \"{}\" is outside the scope",
                        event.tenant_id, event.account_id
                    ),
                },
                Ok(event)
                    if horizons.get(&*event.tenant_id).is_some_and(|&from| event.occurred_at < from) =>
                {
                    Outcome::Rejected {
                        sqlstate: TOO_LATE.into(),
                        reason: "occurred_at is before the time from which this tenant's events are kept"
                            .into(),
                    }
                }
                Ok(_) => Outcome::Accepted,
            });
        }
    }

    /// Whether an event lies in the caller's scope; of a quarantined one, also in the scope in which it was sent, so that
    /// nobody gets another's event in by leaving it for an operator to redrive.
    fn admits(&self, index: usize, event: &EventRef) -> bool {
        let at_home = self.homes.is_none_or(|homes| {
            let (tenant, account) = &homes[index];
            (tenant.is_empty() || *tenant == event.tenant_id)
                && (account.is_empty() || *account == event.account_id)
        });
        at_home && self.scope.admits(&event.tenant_id, &event.account_id)
    }

    /// Fails the call where an event stands in the way of what its options want.
    fn refuse(&self) -> Result<(), IngestError> {
        let stands = |outcome: &Outcome| match outcome {
            Outcome::Accepted | Outcome::Duplicate => false,
            Outcome::Conflict => self.options.all_or_nothing || self.options.on_conflict == OnConflict::Error,
            Outcome::Rejected { .. } => self.options.all_or_nothing,
        };
        let mut standing =
            self.items.iter().zip(&self.outcomes).filter(|(_, outcome)| stands(outcome)).peekable();
        let Some(&(item, outcome)) = standing.peek() else { return Ok(()) };
        let (sqlstate, reason) = outcome.reason();
        Err(IngestError::Refused(Refusal {
            position: item.position,
            event_id: event_id(item),
            outcome: outcome.word(),
            sqlstate: sqlstate.to_owned(),
            reason: reason.to_owned(),
            refused: standing.count() as i64,
            sent: self.items.len(),
        }))
    }

    /// Takes the events from their tenants' quotas, and rejects those whose properties are larger than their tenant may send.
    /// What waits in quarantine was taken from them when it was sent.
    fn charge(&mut self) -> Result<(), IngestError> {
        let Some(quotas) = self.quotas.clone() else { return Ok(()) };
        if self.homes.is_none() {
            quotas.charge(&self.counts(|_| true))?;
        }
        for index in (0..self.items.len()).filter(|&index| self.is_valid(index)).collect::<Vec<_>>() {
            let event = event_at(&self.items, index);
            let size = event.properties.jsonb().len();
            if let Some(most) = quotas.of(&event.tenant_id).properties_size.filter(|most| size > *most) {
                let reason = format!(
                    "properties have {size} bytes as stored, tenant \"{}\" may send {most}",
                    event.tenant_id
                );
                self.outcomes[index] = Outcome::Rejected { sqlstate: "53400".into(), reason };
            }
        }
        Ok(())
    }

    /// How many events of each tenant have an outcome that is wanted.
    fn counts(&self, wanted: impl Fn(&Outcome) -> bool) -> BTreeMap<&str, i64> {
        let mut counts = BTreeMap::new();
        for index in (0..self.items.len()).filter(|&index| wanted(&self.outcomes[index])) {
            *counts.entry(self.home(index).0).or_default() += 1;
        }
        counts
    }

    /// Rejects events of months that may not get a partition, and those that the schema registry refuses.
    fn refuse_by_rule(&mut self) -> Result<(), IngestError> {
        let valid = (0..self.items.len()).filter(|&index| self.is_valid(index));
        let times = valid.map(|index| {
            let event = event_at(&self.items, index);
            (index, &*event.tenant_id, event.occurred_at)
        });
        let mut refused: Vec<usize> = months::not_open(times, self.now).into_iter().collect();
        for &index in &refused {
            self.outcomes[index] =
                Outcome::Rejected { sqlstate: months::NOT_OPEN.into(), reason: months::REASON.into() };
        }
        self.consult_registry(&mut refused);
        // What was accepted before and is sent again is a duplicate, whatever the rules are now: its sender must learn that it
        // counts.
        refused.sort_unstable_by_key(|&index| {
            let event = event_at(&self.items, index);
            (event.tenant_id.as_bytes().to_vec(), event.event_id)
        });
        let entries: Vec<Entry> = refused.iter().map(|&index| entry(event_at(&self.items, index))).collect();
        if entries.is_empty() {
            return Ok(());
        }
        for ((&index, entry), known) in refused.iter().zip(&entries).zip(ledger::look_up(&entries)?) {
            if known == Some(entry.fingerprint) {
                self.outcomes[index] = Outcome::Duplicate;
                self.known.insert(index);
            }
        }
        Ok(())
    }

    /// Rejects what the schema registry refuses, and adds its index to `refused`.
    fn consult_registry(&mut self, refused: &mut Vec<usize>) {
        let registry = registry::current();
        if registry.is_empty() {
            return;
        }
        for index in (0..self.items.len()).filter(|&index| self.is_valid(index)).collect::<Vec<_>>() {
            let event = event_at(&self.items, index);
            match registry.judge(event) {
                Judged::Fine => {}
                Judged::Mark => {
                    self.unregistered.insert((event.tenant_id.to_string(), event.name.to_string()));
                }
                Judged::Reject(sqlstate, reason) => {
                    refused.push(index);
                    self.outcomes[index] = Outcome::Rejected { sqlstate: sqlstate.into(), reason };
                }
            }
        }
    }

    /// Whether an event is to be stored, as far as is known.
    fn is_valid(&self, index: usize) -> bool {
        !self.outcomes[index].is_rejected() && !self.known.contains(&index)
    }

    /// Finds the candidates and their repeats among the items that aren't rejected.
    fn group(&mut self) {
        let mut sorted: Vec<usize> =
            (0..self.items.len()).filter(|&position| self.is_valid(position)).collect();
        let key = |position: usize| {
            let event = event_at(&self.items, position);
            (event.tenant_id.as_bytes(), event.event_id)
        };
        sorted.sort_unstable_by(|&left, &right| key(left).cmp(&key(right)).then(left.cmp(&right)));
        self.candidates.clear();
        self.repeats.clear();
        for position in sorted {
            match self.candidates.last() {
                Some(&first) if key(first) == key(position) => {
                    self.repeats.push((position, self.candidates.len() - 1));
                }
                _ => self.candidates.push(position),
            }
        }
    }

    /// Stores the batch: again with every key looked up where a key clashed, and again without the events that a
    /// declared rollup can't be evaluated for.
    fn store(&mut self) -> Result<Summary, IngestError> {
        let mut look_up = None;
        loop {
            let batch_id = batch::id(session::clock(), session::random_bits());
            let mut stage = Stage::Storing;
            let attempt = subtransaction::run(|| match self.attempt(batch_id, look_up, &mut stage) {
                Ok(Attempt::Done) => Verdict::Keep(Ok(Attempt::Done)),
                other => Verdict::Undo(other),
            });
            match attempt {
                Ok(Ok(Attempt::Done)) => {
                    self.refuse()?;
                    session::advance_command();
                    if let Some(quotas) = &self.quotas {
                        quotas.check_quarantine(&self.counts(|outcome| self.is_kept(outcome)))?;
                    }
                    let summary = self.summary(batch_id);
                    rollup::relieve(&self.added)?;
                    return Ok(summary);
                }
                Ok(Ok(Attempt::Clash)) => look_up = Some(true),
                Ok(Err(IngestError::Rollup(error @ RollupError::Value { .. }))) => {
                    if !self.reject_unevaluable()? {
                        return Err(error.into());
                    }
                }
                Ok(Err(error)) => return Err(error),
                Err(caught) if stage != Stage::Storing && caught.may_be_of_an_expression() => {
                    if !self.reject_unevaluable()? {
                        self.rethrow(caught);
                    }
                }
                Err(caught) => self.rethrow(caught),
            }
        }
    }

    fn rethrow(&self, caught: Caught) -> ! {
        trail::failed(&caught.message, &self.scope, &self.options.lineage);
        caught.rethrow()
    }

    /// One try at storing everything; `look_up` says whether to look every key up first, `None` leaves it to a sample.
    fn attempt(
        &mut self,
        batch_id: i64,
        look_up: Option<bool>,
        stage: &mut Stage,
    ) -> Result<Attempt, IngestError> {
        self.added.clear();
        let items = &self.items;
        let candidates = || self.candidates.iter().map(|&position| event_at(items, position));
        partition::ensure(candidates().map(|event| event.occurred_at))?;
        let Ok(hashers) = tenant::hashers(candidates().map(|event| &*event.tenant_id), self.now)? else {
            return Ok(Attempt::Clash);
        };
        let unregistered: Vec<(&str, &str)> =
            self.unregistered.iter().map(|(tenant, name)| (tenant.as_str(), name.as_str())).collect();
        if registry::mark(&unregistered, &hashers, batch_id, self.now)? == Unique::Clash {
            return Ok(Attempt::Clash);
        }
        let entries: Vec<Entry> = candidates().map(entry).collect();
        let look_up = look_up.map_or_else(|| ledger::wants_look_up(&entries), Ok)?;
        let known = if look_up { ledger::look_up(&entries)? } else { vec![None; entries.len()] };

        let new = || (0..entries.len()).filter(|&index| known[index].is_none());
        if new().next().is_some() {
            let mut arena = Arena::default();
            if ledger::insert(new().map(|index| &entries[index]), batch_id, &mut arena)? == Unique::Clash {
                return Ok(Attempt::Clash);
            }
            let mut rows: Vec<EventRow> = new()
                .map(|index| EventRow::new(event_at(items, self.candidates[index]), batch_id, &mut arena))
                .collect();
            *stage = Stage::Events;
            store::raw(&mut rows)?;
            *stage = Stage::Rollups;
            self.added = rollup::append(&rows, &hashers)?;
            *stage = Stage::Storing;
        }
        for (index, &position) in self.candidates.iter().enumerate() {
            self.outcomes[position] = outcome(known[index], entries[index].fingerprint);
        }
        for &(position, first) in &self.repeats {
            let there = known[first].unwrap_or(entries[first].fingerprint);
            self.outcomes[position] =
                outcome(Some(there), entry(event_at(&self.items, position)).fingerprint);
        }
        self.record(batch_id)
    }

    /// Writes the batch's own rows and the quarantine.
    fn record(&self, batch_id: i64) -> Result<Attempt, IngestError> {
        let mut counts: BTreeMap<&str, Counts> = BTreeMap::new();
        let mut quarantined = Vec::new();
        for (index, (item, outcome)) in self.items.iter().zip(&self.outcomes).enumerate() {
            let (tenant_id, account_id) = self.home(index);
            counts.entry(tenant_id).or_default().add(outcome);
            if self.is_kept(outcome) {
                quarantined.push(Quarantined {
                    position: item.position as u32,
                    event_id: event_id(item),
                    tenant_id,
                    account_id,
                    outcome,
                    body: body(item)?,
                });
            }
        }
        let lineage = &self.options.lineage;
        let unique = store::batch(batch_id, self.now, &counts, lineage)? == Unique::Yes
            && store::quarantine(batch_id, self.now, &quarantined)? == Unique::Yes;
        Ok(if unique { Attempt::Done } else { Attempt::Clash })
    }

    /// Whether an event goes to quarantine.
    fn is_kept(&self, outcome: &Outcome) -> bool {
        self.homes.is_none()
            && match outcome {
                Outcome::Accepted | Outcome::Duplicate => false,
                Outcome::Conflict => self.options.on_conflict != OnConflict::Ignore,
                Outcome::Rejected { .. } => true,
            }
    }

    /// Tenant and account under which an item is recorded: those it was quarantined under, the caller's own scope, or what
    /// the item itself names where the caller may write for every tenant. Empty where nothing valid is known.
    fn home(&self, index: usize) -> (&str, &str) {
        if let Some(homes) = self.homes {
            return (&homes[index].0, &homes[index].1);
        }
        match (&self.scope, &self.items[index].event) {
            (Scope::Tenant { tenant, account }, _) => (tenant, account.as_deref().unwrap_or_default()),
            (Scope::Global, Ok(event)) => (&event.tenant_id, &event.account_id),
            (Scope::Global, Err(rejection)) => (rejection.tenant_id.as_deref().unwrap_or_default(), ""),
        }
    }

    /// Rejects the events for which a declared rollup's expressions fail, or what an administrator added to the events' table; says
    /// whether there were any.
    fn reject_unevaluable(&mut self) -> Result<bool, IngestError> {
        let mut found = false;
        let valid = self.candidates.iter().copied().chain(self.repeats.iter().map(|&(position, _)| position));
        for position in valid.collect::<Vec<_>>() {
            let mut arena = Arena::default();
            let row = EventRow::new(event_at(&self.items, position), 0, &mut arena);
            let refused = match store::refusal(row.copied())? {
                Some(refused) => Some(refused),
                None => rollup::evaluate(&row)?,
            };
            if let Some((sqlstate, reason)) = refused {
                found = true;
                self.outcomes[position] = Outcome::Rejected { sqlstate: Cow::Owned(sqlstate), reason };
            }
        }
        self.group();
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
                    position: item.position as u32,
                    event_id: event_id(item).map(|id| event::format_uuid(&id)),
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

fn event_at<'b, 'a>(items: &'b [Item<'a>], position: usize) -> &'b EventRef<'a> {
    items[position].event.as_ref().expect("candidates are valid events")
}

/// The outcome of an event whose key has the fingerprint `known` in the ledger.
fn outcome(known: Option<i64>, fingerprint: i64) -> Outcome {
    match known {
        None => Outcome::Accepted,
        Some(known) if known == fingerprint => Outcome::Duplicate,
        Some(_) => Outcome::Conflict,
    }
}

/// The text of an item, made anew where a door has none.
fn body<'b>(item: &'b Item) -> Result<Cow<'b, str>, CodecError> {
    match &item.event {
        Ok(event) if item.raw.is_empty() => {
            event::to_json_text(&EventView::read(&event::encode(event))?).map(Cow::Owned)
        }
        _ => Ok(Cow::Borrowed(item.raw)),
    }
}

fn event_id(item: &Item) -> Option<[u8; 16]> {
    match &item.event {
        Ok(event) => Some(event.event_id),
        Err(rejection) => rejection.event_id,
    }
}

fn entry<'a>(event: &'a EventRef) -> Entry<'a> {
    Entry {
        tenant_id: &event.tenant_id,
        account_id: &event.account_id,
        event_id: event.event_id,
        occurred_at: event.occurred_at,
        fingerprint: event::fingerprint(event),
    }
}
