//! Sending quarantined events through the pipeline again.

use super::door;
use super::options::{OnConflict, Options};
use super::pipeline::{self, Home};
use super::summary::Outcome;
use crate::backend::session;
use crate::scope::Scope;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use tally_core::event::{self, Item};

/// A quarantined event, locked until the transaction ends.
struct Taken {
    tenant_id: String,
    account_id: String,
    batch_id: i64,
    position: i32,
    body: String,
}

door! {
    /// Redrives at most `max_events` of the quarantined events that meet every condition that is given, those first that were
    /// tried least. What is accepted, or turns out to be there, leaves the quarantine; the rest stays, with its present reason.
    fn redrive(
        batch_id: Option<i64>,
        position: Option<i32>,
        outcome: Option<&str>,
        sqlstate: Option<&str>,
        since: Option<TimestampWithTimeZone>,
        before: Option<TimestampWithTimeZone>,
        max_events: Option<i32>
    ) {
        let scope = pipeline::admit()?;
        let mut options = Options::read(None)?;
        // All or nothing would make one bad event keep every good one waiting.
        options.all_or_nothing = false;
        options.on_conflict = OnConflict::Quarantine;
        let conditions = [
            batch_id.into(),
            position.into(),
            outcome.into(),
            sqlstate.into(),
            since.into(),
            before.into(),
            max_events.into(),
        ];
        let taken = in_scope(&scope, || take(&conditions));
        let limits = pipeline::limits();
        let homes: Vec<Home> =
            taken.iter().map(|event| (event.tenant_id.clone(), event.account_id.clone())).collect();
        let items = taken
            .iter()
            .map(|event| Item {
                position: event.position as usize,
                raw: &event.body,
                event: event::parse_event(&event.body, &limits),
            })
            .collect();
        let (summary, outcomes) = pipeline::run_quarantined(items, &homes, scope.clone(), options)?;
        in_scope(&scope, || settle(&taken, &outcomes, summary.batch_id));
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

fn take(conditions: &[pgrx::datum::DatumWithOid]) -> Vec<Taken> {
    Spi::connect_mut(|client| {
        let rows = client.update(
            "SELECT t.from_tenant, t.from_account, t.from_batch, t.from_position, t.body \
               FROM tally.take_quarantined($1, $2, $3, $4, $5, $6, $7) AS t",
            None,
            conditions,
        )?;
        rows.map(|row| {
            Ok(Taken {
                tenant_id: row.get(1)?.expect("not null"),
                account_id: row.get(2)?.expect("not null"),
                batch_id: row.get(3)?.expect("not null"),
                position: row.get(4)?.expect("not null"),
                body: row.get(5)?.expect("not null"),
            })
        })
        .collect::<Result<_, pgrx::spi::Error>>()
    })
    .expect("the columns have these types")
}

/// Takes what was accepted out of the quarantine, writes the present reasons to the rest, and says in the batch's rows where
/// its events came from.
fn settle(taken: &[Taken], outcomes: &[Outcome], batch_id: i64) {
    let column = |value: fn(&Taken, &Outcome) -> String| -> Vec<String> {
        taken.iter().zip(outcomes).map(|(event, outcome)| value(event, outcome)).collect()
    };
    Spi::run_with_args(
        "SELECT tally.settle_quarantined($1, $2, $3, $4, $5, $6, $7)",
        &[
            batch_id.into(),
            column(|event, _| event.tenant_id.clone()).into(),
            taken.iter().map(|event| event.batch_id).collect::<Vec<_>>().into(),
            taken.iter().map(|event| event.position).collect::<Vec<_>>().into(),
            column(|_, outcome| outcome.word().to_owned()).into(),
            column(|_, outcome| outcome.reason().0.to_owned()).into(),
            column(|_, outcome| outcome.reason().1.to_owned()).into(),
        ],
    )
    .expect("settling raises its own errors");
}

/// Removes the quarantined events that meet every condition that is given; returns how many there were.
#[pg_extern(sql = false)]
#[allow(clippy::too_many_arguments, reason = "the conditions are the SQL function's arguments")]
fn discard(
    reason: Option<&str>,
    batch_id: Option<i64>,
    position: Option<i32>,
    outcome: Option<&str>,
    sqlstate: Option<&str>,
    since: Option<TimestampWithTimeZone>,
    before: Option<TimestampWithTimeZone>,
) -> Result<i64, ErrorReport> {
    let scope = pipeline::admit()?;
    let conditions = [
        reason.into(),
        batch_id.into(),
        position.into(),
        outcome.into(),
        sqlstate.into(),
        since.into(),
        before.into(),
    ];
    let discarded = in_scope(&scope, || {
        Spi::get_one_with_args::<i64>(
            "SELECT tally.discard_quarantined($1, $2, $3, $4, $5, $6, $7)",
            &conditions,
        )
    });
    Ok(discarded.expect("discarding raises its own errors").unwrap_or(0))
}
