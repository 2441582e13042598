//! Storing what was judged: ledger, raw events, rollups, batch and quarantine, in one subtransaction.
//!
//! The subtransaction is what makes the optimistic insert safe. A large batch is inserted into the ledger without
//! looking its keys up first; where one turns out to be there, or another transaction is inserting it, everything is
//! undone and done again with every key looked up (and waited for).

use super::protect::entry;
use super::{Batch, event_at};
use crate::backend::appender::Unique;
use crate::backend::arena::Arena;
use crate::backend::session;
use crate::backend::subtransaction::{self, Caught, Verdict};
use crate::event::EventRow;
use crate::ingest::failure::IngestError;
use crate::ingest::summary::Summary;
use crate::ingest::trail;
use crate::raw::ledger::{self, Entry};
use crate::raw::outcome::Outcome;
use crate::raw::{partition, store, tenant};
use crate::registry;
use crate::rollup::{self, RollupError};
use std::borrow::Cow;
use std::collections::BTreeSet;
use tally_core::batch;

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

impl Batch<'_> {
    /// Finds the candidates and their repeats among the items that aren't rejected.
    pub(super) fn group(&mut self) {
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
    pub(super) fn store(&mut self) -> Result<Summary, IngestError> {
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
                        quotas.check_quarantine(&self.kept())?;
                    }
                    let summary = self.summary(batch_id);
                    rollup::relieve(&self.added)?;
                    return Ok(summary);
                }
                Ok(Ok(Attempt::Clash)) => look_up = Some(true),
                Ok(Err(IngestError::Rollup(error @ RollupError::Value { .. }))) => {
                    if !self.reject_failing(stage)? {
                        return Err(error.into());
                    }
                }
                Ok(Err(error)) => return Err(error),
                Err(caught) if stage != Stage::Storing && caught.may_be_of_an_expression() => {
                    if !self.reject_failing(stage)? {
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
        rollup::begin_attempt();
        let items = &self.items;
        let candidates = || self.candidates.iter().map(|&position| event_at(items, position));
        partition::ensure(candidates().map(|event| event.occurred_at))?;
        let Ok(hashers) = tenant::hashers(candidates().map(|event| &*event.tenant_id), self.now)? else {
            return Ok(Attempt::Clash);
        };
        // Of those that are stored: others may have been rejected since.
        let unregistered: BTreeSet<(&str, &str)> = candidates()
            .map(|event| (&*event.tenant_id, &*event.name))
            .filter(|&name| self.is_to_be_noted(name))
            .collect();
        if registry::mark(unregistered.into_iter().collect(), &hashers, batch_id, self.now)? == Unique::Clash
        {
            return Ok(Attempt::Clash);
        }
        let entry = |position: usize| entry(items, &self.sent, self.guard.as_ref(), position);
        let entries: Vec<Entry> = self.candidates.iter().map(|&position| entry(position)).collect();
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
            self.outcomes[position] = outcome(known[index], &entries[index]);
        }
        for &(position, first) in &self.repeats {
            let there = known[first].unwrap_or(entries[first].fingerprint);
            self.outcomes[position] = outcome(Some(there), &entry(position));
        }
        let recorded = self.record(batch_id)?;
        Ok(if recorded == Unique::Yes { Attempt::Done } else { Attempt::Clash })
    }

    /// Whether the registry wants an event's name noted.
    fn is_to_be_noted(&self, (tenant, name): (&str, &str)) -> bool {
        !self.unregistered.is_empty() && self.unregistered.contains(&(tenant.to_owned(), name.to_owned()))
    }

    /// Rejects the events for which a declared rollup's expressions fail or, where the attempt came no further, what an administrator added
    /// to the events' table; says whether there were any. What was counted before is a duplicate, whatever was declared since.
    fn reject_failing(&mut self, stage: Stage) -> Result<bool, IngestError> {
        let entries: Vec<Entry> = self
            .candidates
            .iter()
            .map(|&position| entry(&self.items, &self.sent, self.guard.as_ref(), position))
            .collect();
        let is_new: Vec<bool> = ledger::look_up(&entries)?.iter().map(Option::is_none).collect();
        let candidates = (0..).zip(&self.candidates).map(|(first, &position)| (position, first));
        let valid = candidates.chain(self.repeats.iter().copied()).filter(|&(_, first)| is_new[first]);
        let valid: Vec<usize> = valid.map(|(position, _)| position).collect();
        if valid.is_empty() {
            // Another session has just stored those that failed.
            return Ok(true);
        }
        let mut arena = Arena::default();
        let rows: Vec<EventRow> = valid
            .iter()
            .map(|&position| EventRow::new(event_at(&self.items, position), 0, &mut arena))
            .collect();
        let refused: Vec<_> = if stage == Stage::Events {
            store::refusals(&rows)?
        } else {
            (0..)
                .zip(rollup::unevaluable(&rows)?)
                .filter_map(|(row, refused)| Some((row, refused?)))
                .collect()
        };
        let found = !refused.is_empty();
        for (row, (sqlstate, reason)) in refused {
            self.outcomes[valid[row]] = Outcome::Rejected { sqlstate: Cow::Owned(sqlstate), reason };
        }
        self.group();
        Ok(found)
    }
}

/// The outcome of an event whose key has the fingerprint `known` in the ledger.
fn outcome(known: Option<i64>, entry: &Entry) -> Outcome {
    match known {
        None => Outcome::Accepted,
        Some(known) if entry.is(known) => Outcome::Duplicate,
        Some(_) => Outcome::Conflict,
    }
}
