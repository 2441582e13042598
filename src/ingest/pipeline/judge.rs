//! What may be stored: by scope, age, quota, month and schema. What may not is rejected, or fails the call.

use super::protect::entry;
use super::{Batch, event_at};
use crate::backend::session;
use crate::ingest::failure::{IngestError, Refusal};
use crate::ingest::options::OnConflict;
use crate::privacy::subject::Erased;
use crate::raw::ledger::{self, Entry};
use crate::raw::outcome::Outcome;
use crate::raw::{horizon, open_months};
use crate::registry::{self, Verdict};
use tally_core::event::EventRef;

/// SQLSTATE of an event that is older than its tenant's retention: its key may have left the ledger.
const TOO_LATE: &str = "22T11";
/// SQLSTATE of an event of a user that was erased.
const ERASED: &str = "22T13";

impl Batch<'_> {
    /// Gives each item its first outcome: rejected where it isn't valid or not in scope.
    pub(super) fn judge(&mut self) {
        // Taken before any other lock: from here on nobody moves a horizon under this batch.
        let named = self.items.iter().filter_map(|item| Some(&*item.event.as_ref().ok()?.tenant_id));
        let horizons = horizon::hold(named);
        self.ready_guard();
        for (index, item) in self.items.iter().enumerate() {
            self.outcomes.push(match &item.event {
                Err(rejection) => Outcome::Rejected {
                    sqlstate: rejection.sqlstate.into(),
                    reason: self.shown(index, &rejection.field, &rejection.reason),
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
                Ok(event) => self.obstacle(event).unwrap_or(Outcome::Accepted),
            });
        }
        self.refuse_erased();
    }

    /// Rejects the events of users that were erased; of such a one that isn't valid anyway nothing is kept either. Looked up once the
    /// gate is entered: an erasure that begins now waits for this batch, and removes what it stores.
    fn refuse_erased(&mut self) {
        let Some(erased) = Erased::current() else { return };
        let mut users: Vec<(usize, String, String)> = Vec::new();
        for (index, item) in self.items.iter().enumerate() {
            let home = self.home(index).0;
            match &item.event {
                // Out of scope it would wait in its sender's quarantine, and tells nothing of another tenant's subjects.
                Ok(event) => {
                    let tenant = if home.is_empty() { &event.tenant_id } else { home };
                    let user = event.user_id.as_deref().filter(|_| erased.has(tenant));
                    users.extend(user.map(|user| (index, tenant.to_owned(), user.to_owned())));
                }
                Err(_) => {
                    // As an erasure finds them in quarantine.
                    let is_named = match home {
                        "" => erased.is_named_in_nobodys(item.raw),
                        home => erased.has(home) && erased.is_named_in(item.raw, home),
                    };
                    if is_named {
                        self.erased.insert(index);
                    }
                }
            }
        }
        let users: Vec<_> =
            users.iter().map(|(index, tenant, user)| (*index, tenant.as_str(), user.as_str())).collect();
        self.erased.extend(erased.find(&users));
        for &index in &self.erased {
            if self.outcomes[index] == Outcome::Accepted {
                let reason = "user_id is that of a subject that was erased".to_owned();
                self.outcomes[index] = Outcome::Rejected { sqlstate: ERASED.into(), reason };
            }
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

    /// Takes the events from their tenants' quotas, and rejects those whose properties are larger than their tenant may send; says which
    /// these are. What waits in quarantine was taken from them when it was sent.
    pub(super) fn charge(&mut self) -> Result<Vec<usize>, IngestError> {
        let mut refused = Vec::new();
        let Some(quotas) = self.quotas.clone() else { return Ok(refused) };
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
                refused.push(index);
            }
        }
        Ok(refused)
    }

    /// Rejects events of months that may not get a partition, and those that the schema registry refuses; `refused` are those that their
    /// tenant's quota refused.
    pub(super) fn refuse_by_rule(&mut self, mut refused: Vec<usize>) -> Result<(), IngestError> {
        let valid = (0..self.items.len()).filter(|&index| self.is_valid(index));
        let times = valid.map(|index| {
            let event = event_at(&self.items, index);
            (index, &*event.tenant_id, event.occurred_at)
        });
        let not_open: Vec<usize> = open_months::not_open(times, self.now).into_iter().collect();
        for &index in &not_open {
            self.outcomes[index] = Outcome::Rejected {
                sqlstate: open_months::NOT_OPEN.into(),
                reason: open_months::REASON.into(),
            };
        }
        refused.extend(not_open);
        self.consult_registry(&mut refused);
        refused.extend(self.erased.iter().filter(|&&index| self.outcomes[index].reason().0 == ERASED));
        // What was accepted before and is sent again is a duplicate, whatever the rules are now: its sender must learn that it
        // counts.
        refused.sort_unstable_by_key(|&index| {
            let event = event_at(&self.items, index);
            (event.tenant_id.as_bytes().to_vec(), event.event_id)
        });
        let entries: Vec<Entry> =
            refused.iter().map(|&index| entry(&self.items, &self.sent, self.guard.as_ref(), index)).collect();
        if entries.is_empty() {
            return Ok(());
        }
        for ((&index, entry), known) in refused.iter().zip(&entries).zip(ledger::look_up(&entries)?) {
            if known.is_some_and(|known| entry.is(known)) {
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
            session::check_for_interrupts();
            let event = event_at(&self.items, index);
            match registry.judge(event) {
                Verdict::Fine => {}
                Verdict::Mark => {
                    self.unregistered.insert((event.tenant_id.to_string(), event.name.to_string()));
                }
                Verdict::Reject(sqlstate, reason) => {
                    refused.push(index);
                    let reason = self.shown(index, "properties", &reason);
                    self.outcomes[index] = Outcome::Rejected { sqlstate: sqlstate.into(), reason };
                }
            }
        }
    }

    /// Fails the call where an event stands in the way of what its options want.
    pub(super) fn refuse(&self) -> Result<(), IngestError> {
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
            event_id: super::event_id(item),
            outcome: outcome.word(),
            sqlstate: sqlstate.to_owned(),
            reason: reason.to_owned(),
            refused: standing.count() as i64,
            sent: self.items.len(),
        }))
    }
}
