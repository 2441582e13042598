//! Sending quarantined events through the pipeline again.

use super::{door, payload};
use crate::backend::call::Call;
use crate::backend::call::sql_function;
use crate::backend::report::Report;
use crate::backend::sql::{self, Moment};
use crate::backend::{schema, session};
use crate::ingest::options::{OnConflict, Options};
use crate::ingest::pipeline::{self, Home};
use crate::privacy::{self, Body, PrivacyFailure};
use crate::quota;
use crate::raw::gate;
use crate::raw::outcome::Outcome;
use crate::scope::Scope;
use pgrx::datum::DatumWithOid;
use pgrx::pg_sys::Datum;
use tally_core::event::{self, FieldsParser, Item, Rejection};

/// A quarantined event, locked until the transaction ends.
struct Taken {
    tenant_id: String,
    account_id: String,
    batch_id: i64,
    position: i32,
    /// The format of the payload that it is of, if it is of one.
    format: Option<String>,
    body: String,
}

impl Taken {
    fn open(&self) -> Body {
        privacy::open_body(&self.tenant_id, self.batch_id, self.position, self.body.clone())
    }

    /// Why an event that is closed up stays where it is.
    fn closed(&self, failure: &PrivacyFailure) -> Rejection {
        Rejection {
            field: String::new(),
            reason: format!("it is closed up: {}", Report::from(failure.clone()).message()),
            sqlstate: privacy::KEYS_MISSING,
            event_id: None,
            tenant_id: (!self.tenant_id.is_empty()).then(|| self.tenant_id.clone()),
        }
    }
}

door! {
    /// Redrives at most `max_events` of the quarantined events that meet every condition that is given, those first that were
    /// tried least. What is accepted, or turns out to be there, leaves the quarantine; the rest stays, with its present reason.
    /// `redrive(batch_id, position, outcome, sqlstate, since, before, max_events)`
    fn redrive_wrapper / pg_finfo_redrive_wrapper(call) {
        let scope = pipeline::admit()?;
        let mut options = Options::read(None)?;
        // All or nothing would make one bad event keep every good one waiting.
        options.all_or_nothing = false;
        options.on_conflict = OnConflict::Quarantine;
        if call.int(6).is_some_and(|most| most < 0) {
            return Err(Report::new("22023", "max_events is less than 0").hint("leave it out for 10,000"));
        }
        let mut conditions = conditions(call, 0);
        conditions.push(call.int(6).into());
        // Before the events are locked: an erasure has ingest locked out when it comes to them.
        gate::enter();
        let taken = in_scope(&scope, || take(&conditions));
        let limits = pipeline::limits();
        let homes: Vec<Home> =
            taken.iter().map(|event| (event.tenant_id.clone(), event.account_id.clone())).collect();
        // Outside of any scope: the keys are nobody's.
        let bodies: Vec<Body> = taken.iter().map(Taken::open).collect();
        let text = |place: usize| match &bodies[place] {
            Body::Text(text) => text.as_str(),
            Body::Closed(_) => taken[place].body.as_str(),
        };
        // Events of payloads are translated again, by what their mapping is now.
        let payloads = payload::retranslate(
            homes.iter().enumerate().map(|(place, home)| (text(place), taken[place].format.as_deref(), home)),
        );
        let mut parser = FieldsParser::new(&limits);
        let items = taken
            .iter()
            .enumerate()
            .zip(&payloads)
            .map(|((place, event), payload)| Item {
                position: event.position as usize,
                raw: text(place),
                event: match (&bodies[place], payload) {
                    (Body::Closed(failure), _) => Err(event.closed(failure)),
                    (_, Some(payload)) => payload.event(&mut parser),
                    (Body::Text(text), None) => event::parse_event(text, &limits),
                },
            })
            .collect();
        let (summary, outcomes) = pipeline::run_quarantined(items, &homes, scope.clone(), options)?;
        in_scope(&scope, || settle(&taken, &outcomes, summary.batch_id.unwrap_or_default()));
        quota::forget_quarantine();
        Ok(summary)
    }
}

/// Runs `work` as the owner of the tables, bound by row security to the scope.
fn in_scope<T>(scope: &Scope, work: impl FnOnce() -> T) -> T {
    match scope {
        // A trusted role that entered no scope has none that row security could read.
        Scope::Global => session::as_owner(work),
        // The path that names are looked up in is not the caller's.
        Scope::Tenant { .. } => session::with_fixed_settings(|| session::with_owner_rights(work)),
    }
}

/// The conditions that both functions have, from an argument on: batch, position, outcome, SQLSTATE, since, before.
fn conditions<'a>(call: &'a Call, from: usize) -> Vec<DatumWithOid<'a>> {
    vec![
        call.long(from).into(),
        call.int(from + 1).into(),
        call.text(from + 2).into(),
        call.text(from + 3).into(),
        call.long(from + 4).map(Moment).into(),
        call.long(from + 5).map(Moment).into(),
    ]
}

fn take(conditions: &[DatumWithOid]) -> Vec<Taken> {
    // The library may be newer than the schema, until ALTER EXTENSION UPDATE; payloads come with that.
    let format = if schema::is_updated() { "t.format" } else { "NULL::text" };
    let statement = format!(
        "SELECT t.from_tenant, t.from_account, t.from_batch, t.from_position, {format}, t.body \
           FROM tally_internal.take_quarantined($1, $2, $3, $4, $5, $6, $7) AS t"
    );
    sql::changed_rows(&statement, conditions, |row| Taken {
        tenant_id: row.need(1),
        account_id: row.need(2),
        batch_id: row.need(3),
        position: row.need(4),
        format: row.get(5),
        body: row.need(6),
    })
}

/// Takes what was accepted out of the quarantine, writes the present reasons to the rest, and says in the batch's rows where
/// its events came from.
fn settle(taken: &[Taken], outcomes: &[Outcome], batch_id: i64) {
    let column = |value: fn(&Taken, &Outcome) -> String| -> Vec<String> {
        taken.iter().zip(outcomes).map(|(event, outcome)| value(event, outcome)).collect()
    };
    sql::run(
        "SELECT tally_internal.settle_quarantined($1, $2, $3, $4, $5, $6, $7)",
        &[
            batch_id.into(),
            column(|event, _| event.tenant_id.clone()).into(),
            taken.iter().map(|event| event.batch_id).collect::<Vec<_>>().into(),
            taken.iter().map(|event| event.position).collect::<Vec<_>>().into(),
            column(|_, outcome| outcome.word().to_owned()).into(),
            column(|_, outcome| outcome.reason().0.to_owned()).into(),
            column(|_, outcome| outcome.reason().1.to_owned()).into(),
        ],
    );
}

sql_function! {
    /// `discard(reason, batch_id, position, outcome, sqlstate, since, before)`: removes the quarantined events that meet every
    /// condition that is given; returns how many there were.
    fn discard_wrapper / pg_finfo_discard_wrapper(call) {
        let scope = pipeline::admit()?;
        let mut values: Vec<DatumWithOid> = vec![call.text(0).into()];
        values.extend(conditions(call, 1));
        let statement = "SELECT tally_internal.discard_quarantined($1, $2, $3, $4, $5, $6, $7)";
        let discarded = in_scope(&scope, || sql::one::<i64>(statement, &values));
        quota::forget_quarantine();
        Ok(Some(Datum::from(discarded.unwrap_or(0))))
    }
}
