//! The one pipeline behind every door: parse, check the scope, sort by key, then in one subtransaction ledger, raw,
//! rollups, batch and quarantine. `judge` says what may be stored, `store` stores it, `answer` records and tells what became
//! of each event.

mod answer;
mod judge;
mod protect;
mod store;

use super::failure::IngestError;
use super::options::Options;
use super::stream::{self, Place};
use super::summary::Summary;
use super::trail;
use crate::backend::report::Report;
use crate::backend::session;
use crate::privacy::{self, Guard};
use crate::quota::{self, Quotas};
use crate::raw::outcome::Outcome;
use crate::rollup;
use crate::scope::{self, Scope};
use crate::settings;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use tally_core::batch;
use tally_core::event::{self, BatchError, EventRef, Item, Limits};

/// Tenant and account in whose scope a quarantined event was sent; each empty where there was none.
pub type Home = (String, String);

/// 1970-01-01 00:00 UTC: earlier events are refused, since a few of them would make a partition for every month.
const EARLIEST: i64 = -946_684_800_000_000;

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
    /// Indices of events, valid or not, of users that were erased: nothing of them is kept.
    erased: BTreeSet<usize>,
    /// Tenants and names that the registry wants noted.
    unregistered: BTreeSet<(String, String)>,
    /// What protects the events, where anything is protected.
    guard: Option<Guard>,
    /// Events as they were sent, of those that are stored otherwise: by index of the item.
    sent: BTreeMap<usize, EventRef<'a>>,
    /// Of events that wait in quarantine already: where each came from.
    homes: Option<&'a [Home]>,
    /// Of a payload of another system: its format, in whose form the items' texts are.
    format: Option<&'static str>,
    options: Options,
    quotas: Option<Rc<Quotas>>,
    now: i64,
}

/// The caller's scope, where it may write at all. Called before anything that others wait for.
pub fn admit() -> Result<Scope, IngestError> {
    session::require_writable(c"tally.ingest()");
    let scope = scope::for_writing()?;
    privacy::fetch_keys();
    Ok(scope)
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
    Err(BatchError::of_events("batch", limits.batch_events).into())
}

/// Ingests one event or an array of them, given as JSON.
pub fn run(text: &str, options: Options) -> Result<Summary, Report> {
    let scope = admit()?;
    let keys = options.stream.as_ref().map(|stream| stream::keys(&scope, stream));
    let limits = Limits { keys, ..limits() };
    match event::parse_batch(text, &limits) {
        Ok(batch) if limits.keys.is_some() => run_with_ids(batch.items, &limits, scope, options),
        Ok(batch) => run_items(batch.items, scope, options),
        Err(error) => {
            let error = BatchError { reason: privacy::quiet(&error.reason).into_owned(), ..error };
            trail::failed(&error.reason, &scope, &options.lineage);
            Err(IngestError::from(error).into())
        }
    }
}

/// Ingests events that have their ids from a stream. One that is rejected gets its id written into its text, so that it has the same
/// when it is redriven.
fn run_with_ids(
    items: Vec<Item>,
    limits: &Limits,
    scope: Scope,
    options: Options,
) -> Result<Summary, Report> {
    // What an event that waits without an id has in it, where it can have one.
    let with_id = |item: &Item, id: Option<[u8; 16]>| match &item.event {
        Err(rejection) if rejection.event_id.is_none() => event::with_id(item.raw, &id?),
        _ => None,
    };
    let is_made = |item: &Item| match item.event {
        Ok(_) => item.raw.is_empty(),
        Err(_) => with_id(item, Some([0; 16])).is_some(),
    };
    let fits = match &options.stream {
        Some(stream) => stream::check_places(stream, items.len(), items.iter().any(is_made))?,
        None => false,
    };
    let id_at = |position| limits.keys.as_ref().filter(|_| fits).and_then(|keys| keys.id(position));
    let texts: Vec<Option<String>> = items.iter().map(|item| with_id(item, id_at(item.position))).collect();
    let items = items
        .into_iter()
        .zip(&texts)
        .map(|(item, text)| match (text, item.event) {
            (Some(text), Err(mut rejection)) => {
                rejection.event_id = id_at(item.position);
                Item { position: item.position, raw: text, event: Err(rejection) }
            }
            (_, event) => Item { event, ..item },
        })
        .collect();
    run_items(items, scope, options)
}

/// Ingests events that a door has judged by `limits`. An item whose event is valid may go without its text.
pub fn run_items(items: Vec<Item>, scope: Scope, options: Options) -> Result<Summary, Report> {
    run_batch(items, None, scope, options)
}

/// Ingests events of a payload of a format: the texts of those that aren't valid are [`payload::Translated::body`]'s, the others have none.
pub fn run_payload(
    items: Vec<Item>,
    format: &'static str,
    scope: Scope,
    options: Options,
) -> Result<Summary, Report> {
    run_batch(items, Some(format), scope, options)
}

fn run_batch(
    items: Vec<Item>,
    format: Option<&'static str>,
    scope: Scope,
    mut options: Options,
) -> Result<Summary, Report> {
    let batch = |items, scope, options| Batch { format, ..Batch::new(items, scope, None, options) };
    let Some(stream) = options.stream.take() else {
        return Ok(batch(items, scope, options).work()?.0);
    };
    stream::check_places(&stream, items.len(), false)?;
    // Before anything that others may wait for: two consumers of a stream wait for each other here.
    match stream::hold(&scope, &stream)? {
        Place::Past(stored) => {
            let summary = stream::past(&stream, stored, items.len());
            trail::stored(&summary, &scope, &options.lineage);
            Ok(summary)
        }
        Place::Next(gap) => {
            let mut summary = batch(items, scope.clone(), options).work()?.0;
            stream::advance(&scope, &stream, gap, &mut summary);
            Ok(summary)
        }
    }
}

/// Ingests events that wait in quarantine, each in the scope in which it was sent; says what became of each. None is put
/// into quarantine again: they are there.
pub fn run_quarantined(
    items: Vec<Item>,
    homes: &[Home],
    scope: Scope,
    options: Options,
) -> Result<(Summary, Vec<Outcome>), Report> {
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
            erased: BTreeSet::new(),
            unregistered: BTreeSet::new(),
            guard: None,
            sent: BTreeMap::new(),
            scope,
            homes,
            format: None,
            options,
            quotas: quota::current(),
            now: session::transaction_start(),
        }
    }

    /// Does all of it, and tells the log how it went.
    fn work(mut self) -> Result<(Summary, Vec<Outcome>), Report> {
        rollup::begin_call();
        match self.judge_and_store().map_err(Report::from) {
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
        let refused = self.charge()?;
        self.refuse_by_rule(refused)?;
        self.protect();
        self.refuse()?;
        if let Some(quotas) = &self.quotas {
            quotas.expect_room(&self.kept())?;
        }
        self.group();
        self.store()
    }

    /// Whether an event is to be stored, as far as is known.
    fn is_valid(&self, index: usize) -> bool {
        !self.outcomes[index].is_rejected() && !self.known.contains(&index)
    }

    /// How many events of each tenant are wanted, by index.
    fn counts(&self, wanted: impl Fn(usize) -> bool) -> BTreeMap<&str, i64> {
        let mut counts = BTreeMap::new();
        for index in (0..self.items.len()).filter(|&index| wanted(index)) {
            *counts.entry(self.home(index).0).or_default() += 1;
        }
        counts
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
}

fn event_at<'b, 'a>(items: &'b [Item<'a>], position: usize) -> &'b EventRef<'a> {
    items[position].event.as_ref().expect("candidates are valid events")
}

fn event_id(item: &Item) -> Option<[u8; 16]> {
    match &item.event {
        Ok(event) => Some(event.event_id),
        Err(rejection) => rejection.event_id,
    }
}
