//! What becomes known of a batch: its own rows, the quarantine, and the answer to the caller.

use super::{Batch, event_id};
use crate::backend::appender::Unique;
use crate::ingest::failure::IngestError;
use crate::ingest::options::OnConflict;
use crate::ingest::summary::{Detail, Summary};
use crate::raw::outcome::{Counts, Outcome};
use crate::raw::store::{self, Quarantined};
use std::collections::BTreeMap;
use tally_core::event;

impl Batch<'_> {
    /// Writes the batch's own rows and the quarantine.
    pub(super) fn record(&self, batch_id: i64) -> Result<Unique, IngestError> {
        let mut counts: BTreeMap<&str, Counts> = BTreeMap::new();
        let mut quarantined = Vec::new();
        for (index, (item, outcome)) in self.items.iter().zip(&self.outcomes).enumerate() {
            let (tenant_id, account_id) = self.home(index);
            counts.entry(tenant_id).or_default().add(outcome);
            if self.is_kept(index) {
                quarantined.push(Quarantined {
                    position: item.position as u32,
                    event_id: event_id(item),
                    tenant_id,
                    account_id,
                    outcome,
                    // What a door has no text of is written anew, as an event of ours.
                    format: self.format.filter(|_| !item.raw.is_empty()),
                    body: self.body(batch_id, index, item)?,
                });
            }
        }
        let lineage = &self.options.lineage;
        match store::batch(batch_id, self.now, &counts, lineage)? {
            Unique::Yes => Ok(store::quarantine(batch_id, self.now, &quarantined)?),
            Unique::Clash => Ok(Unique::Clash),
        }
    }

    /// How many events of each tenant go to quarantine, as far as their outcomes are known.
    pub(super) fn kept(&self) -> BTreeMap<&str, i64> {
        self.counts(|index| self.is_kept(index))
    }

    /// Whether an event goes to quarantine.
    fn is_kept(&self, index: usize) -> bool {
        self.homes.is_none()
            && !self.erased.contains(&index)
            && match self.outcomes[index] {
                Outcome::Accepted | Outcome::Duplicate => false,
                Outcome::Conflict => self.options.on_conflict != OnConflict::Ignore,
                Outcome::Rejected { .. } => true,
            }
    }

    /// The answer to the call.
    pub(super) fn summary(&self, batch_id: i64) -> Summary {
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
        Summary { batch_id: Some(batch_id), counts, details }
    }
}
