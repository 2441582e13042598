//! Revealing to a custodian what is sealed. Each is counted in a transaction of its own, and recorded before it is opened, so that
//! neither is undone with the transaction that asked.

use super::failure::PrivacyFailure;
use super::keys;
use super::opening::{Body, open_body};
use crate::audit::{self, Act};
use crate::backend::call::{self, sql_function};
use crate::backend::report::Report;
use crate::backend::scan::{self, Snapshot};
use crate::backend::subtransaction::{self, Verdict};
use crate::backend::worker::process_main;
use crate::backend::{own_transaction, session, sql, worker};
use crate::scope;
use serde_json::json;
use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use tally_core::privacy::{Place, seal_epoch};

/// Values that one custodian may have revealed in an hour where nothing else is set: a case needs a few.
const PER_HOUR: i64 = 100;

/// Whom a process is told of at most: a message of it has 127 bytes.
const ACTORS: usize = 7;

/// Who asks, each as it is counted: the login, which is the same whatever it is called, with whom its token was made for; and the persons whose
/// these are, under whatever other logins.
fn actors() -> Vec<String> {
    let identities = scope::identities();
    let persons = "SELECT tally_internal.with_persons($1)";
    let known = identities.len();
    let with_persons: Option<Vec<String>> = session::as_owner(|| sql::one(persons, &[identities.into()]));
    let persons = with_persons.into_iter().flatten().skip(known);
    let login = hash((session::session_role().to_u32(), scope::subject()));
    let mut actors: Vec<String> = persons.map(hash).take(ACTORS - 1).chain([login]).collect();
    // Those of two logins are counted in one order.
    actors.sort_unstable();
    actors
}

fn hash(of: impl Hash) -> String {
    let mut hasher = DefaultHasher::new();
    of.hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}

/// Numbers that stand for some actors, in one order.
fn lock_numbers(actors: &[String]) -> BTreeSet<u32> {
    actors.iter().map(|actor| u32::from_str_radix(&actor[..8], 16).expect("digits of a hash")).collect()
}

/// How often an actor has had something revealed in the last hour in which that happened, and that hour.
fn counted(actor: &str) -> Option<(i64, String)> {
    let query = format!(
        "SELECT c.revealed, c.hour AT TIME ZONE 'UTC' FROM tally.reveal_count AS c WHERE c.actor = {}",
        sql::literal(actor)
    );
    let row = session::as_owner(|| scan::texts(&query, Snapshot::Fresh)).into_iter().next()?;
    let [Some(revealed), Some(hour)] = &row[..] else { return None };
    Some((revealed.parse().ok()?, hour.clone()))
}

process_main! {
    /// Where Postgres starts the process that counts a reveal.
    fn tally_reveal_main() {
        let actors = own_transaction::begin();
        worker::transaction(|| {
            for actor in actors.split(' ') {
                session::as_owner(|| sql::run("SELECT tally_internal.note_reveal($1)", &[actor.into()]));
            }
        });
    }
}

sql_function! {
    /// `begin_reveal(tenant_id, object, purpose)`
    fn tally_begin_reveal / pg_finfo_tally_begin_reveal(call) {
        let text = |place| call.text(place).unwrap_or_default();
        session::require_writable(c"tally.reveal()");
        let limit = "SELECT l.per_hour::int8 FROM tally.reveal_limit AS l";
        let limit = session::as_owner(|| sql::one::<i64>(limit, &[])).unwrap_or(PER_HOUR);
        let actors = actors();
        let counts = || actors.iter().map(|actor| counted(actor)).collect::<Vec<_>>();
        // One at a time for each of them, or what is read had been raised by others, too; the locks end with the subtransaction.
        let counting = subtransaction::run(|| {
            let table = session::relation(c"reveal_count").to_u32();
            lock_numbers(&actors).into_iter().for_each(|number| {
                session::lock(table, number, true);
            });
            let before = counts();
            let is_run = own_transaction::run("tally_reveal_main", &actors.join(" "));
            Verdict::Undo((before, is_run, counts()))
        });
        let (before, is_run, after) = counting.unwrap_or_else(|caught| caught.rethrow());
        let is_counted = is_run && before.iter().zip(&after).all(|(before, after)| after.is_some() && before != after);
        let act = |name| Act {
            act: name,
            tenant: text(0),
            object: Some(text(1)),
            // It may name the person: an erasure takes it away.
            personal: json!({"purpose": text(2)}),
            ..Act::default()
        };
        if !is_counted {
            audit::attempt(&act("reveal_denied"));
            return Err(Report::new("53400", "the reveal can't be counted, so nothing is revealed")
                .hint("Postgres had no background process to spare: try again, or raise max_worker_processes"));
        }
        if after.iter().flatten().any(|&(revealed, _)| revealed > limit) {
            audit::attempt(&act("reveal_denied"));
            return Err(Report::new("53400", format!("{limit} values were revealed to you in this hour, as many as may be"))
                .hint("wait for the next hour, or have an administrator call tally.set_reveal_limit()"));
        }
        audit::attempt(&act("value_revealed"));
        Ok(None)
    }
}

sql_function! {
    /// `open_sealed(tenant_id, event_id, path, value)`: as JSON.
    fn tally_open_sealed / pg_finfo_tally_open_sealed(call) {
        let text = |place| call.text(place).unwrap_or_default();
        let event_id = call.uuid(1).unwrap_or_default();
        let (tenant, path, value) = (text(0), text(2), text(3));
        let epoch = seal_epoch(value).ok_or(PrivacyFailure::NotSealed)?;
        let keys = keys::of(tenant).ok_or_else(|| PrivacyFailure::NoKeys(tenant.to_owned()))??;
        let key = keys.seal(epoch).ok_or(PrivacyFailure::NotSealed)?;
        let place = Place { tenant, event_id: &event_id, path };
        let plain = key.open(value, &place).map_err(PrivacyFailure::Closed)?;
        Ok(Some(call::varlena(plain.as_bytes())))
    }
}

sql_function! {
    /// `open_quarantined(tenant_id, batch_id, position, body)`
    fn tally_open_quarantined / pg_finfo_tally_open_quarantined(call) {
        let text = |place| call.text(place).unwrap_or_default();
        let (batch_id, position) = (call.long(1).unwrap_or(0), call.int(2).unwrap_or(0));
        match open_body(text(0), batch_id, position, text(3).to_owned()) {
            Body::Text(text) => Ok(Some(call::varlena(text.as_bytes()))),
            Body::Closed(failure) => Err(failure.into()),
        }
    }
}

sql_function! {
    /// `readable_quarantined(tenant_id, batch_id, position, body)`: null where it doesn't open in this place. Missing keys are an error.
    fn tally_readable_quarantined / pg_finfo_tally_readable_quarantined(call) {
        let text = |place| call.text(place).unwrap_or_default();
        let (batch_id, position) = (call.long(1).unwrap_or(0), call.int(2).unwrap_or(0));
        match open_body(text(0), batch_id, position, text(3).to_owned()) {
            Body::Text(text) => Ok(Some(call::varlena(text.as_bytes()))),
            Body::Closed(PrivacyFailure::Closed(_) | PrivacyFailure::NoKeys(_)) => Ok(None),
            Body::Closed(failure) => Err(failure.into()),
        }
    }
}
