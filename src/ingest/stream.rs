//! Streams: what a consumer reads in order, such as a partition of a broker's topic. How far it has been stored is kept in the same
//! transaction as the events, so that after whatever failure the consumer goes on where they end.

use super::failure::IngestError;
use super::options::{OnGap, Stream};
use super::summary::{StreamDetail, Summary};
use crate::audit::{self, Act};
use crate::backend::call::{Call, sql_function};
use crate::backend::report::Report;
use crate::backend::{session, sql};
use crate::raw::outcome::Counts;
use crate::scope::{self, Scope};
use pgrx::pg_sys::Datum;
use tally_core::event::{Keys, Places};

/// Where a batch stands in its stream.
pub enum Place {
    /// Everything up to this position has been stored, and the batch is of that.
    Past(i64),
    /// It comes next, but for positions that are missing.
    Next(Option<Gap>),
}

/// Positions that no batch brought.
#[derive(Clone, Copy)]
pub struct Gap {
    /// The position up to which the stream had been stored.
    stored: i64,
    missing: i64,
}

/// Tenant and account that a scope's streams belong to; empty where there is none.
fn home(scope: &Scope) -> (&str, &str) {
    match scope {
        Scope::Global => ("", ""),
        Scope::Tenant { tenant, account } => (tenant, account.as_deref().unwrap_or_default()),
    }
}

/// What the ids of events that have none are made from: a secret of the scope, so that nobody can take them first, and each one's place in
/// the stream. Names of streams contain no line feeds.
pub fn keys(scope: &Scope, stream: &Stream) -> Keys {
    let (tenant, account) = home(scope);
    let statement = "SELECT tally_internal.stream_secret($1, $2)";
    let secret = session::as_owner(|| sql::one::<String>(statement, &[tenant.into(), account.into()]));
    let secret = secret.expect("a function returns a value");
    let places = match &stream.positions {
        Some(positions) => Places::Listed(positions.clone()),
        None if stream.first == stream.position => Places::One(stream.position),
        None => Places::From(stream.first),
    };
    Keys { prefix: format!("stream\n{secret}\n{}\n", stream.name), places }
}

/// Whether each event of a batch has a place in the stream; an error where one has no other id, or where the places are listed and don't
/// fit.
pub fn check_places(stream: &Stream, events: usize, ids_are_made: bool) -> Result<bool, IngestError> {
    let span = i128::from(stream.position) - i128::from(stream.first) + 1;
    let fits = match &stream.positions {
        Some(positions) if positions.len() == events => true,
        Some(positions) => {
            let problem = format!("positions are {}, and events {events}", positions.len());
            return Err(IngestError::Places(problem));
        }
        None => span == 1 || span == events as i128,
    };
    if !fits && ids_are_made {
        let problem = format!("{events} events without ids for {span} positions: which has which isn't said");
        return Err(IngestError::Places(problem));
    }
    Ok(fits)
}

/// Locks the stream until the transaction ends, and says where the batch stands in it.
pub fn hold(scope: &Scope, stream: &Stream) -> Result<Place, IngestError> {
    let Some(stored) = lock(scope, &stream.name)? else { return Ok(Place::Next(None)) };
    if stream.position <= stored {
        return Ok(Place::Past(stored));
    }
    let name = &stream.name;
    if stream.first <= stored {
        return Err(IngestError::OutOfOrder(format!(
            "stream \"{name}\" is at position {stored}, the batch goes from {} to {}",
            stream.first, stream.position
        )));
    }
    let missing = stream.first - stored - 1;
    match stream.on_gap {
        _ if missing == 0 => Ok(Place::Next(None)),
        OnGap::Report => Ok(Place::Next(Some(Gap { stored, missing }))),
        OnGap::Refuse => Err(IngestError::OutOfOrder(format!(
            "stream \"{name}\" is at position {stored}, the batch begins at {}: {missing} positions are missing",
            stream.first
        ))),
    }
}

/// Locks a stream, made if there is none; its position, where it has one.
fn lock(scope: &Scope, name: &str) -> Result<Option<i64>, IngestError> {
    let (tenant, account) = home(scope);
    let statement =
        "SELECT s.\"position\", s.owned_by::text, s.is_own FROM tally_internal.hold_stream($1, $2, $3) AS s";
    let found = session::as_owner(|| {
        sql::changed_rows(statement, &[tenant.into(), account.into(), name.into()], |row| {
            (row.get::<i64>(1), row.need::<String>(2), row.need::<bool>(3))
        })
    });
    match found.into_iter().next() {
        Some((position, _, true)) => Ok(position),
        Some((_, owner, false)) => Err(IngestError::Stream { stream: name.to_owned(), owner }),
        None => Ok(None),
    }
}

/// The answer to a batch that has been stored before: nothing is done.
pub fn past(stream: &Stream, stored: i64, events: usize) -> Summary {
    let mut summary = Summary {
        batch_id: None,
        counts: Counts { duplicates: events as i64, ..Counts::default() },
        details: "[]".into(),
    };
    let reason = format!("the stream is at position {stored}: nothing was stored");
    pgrx::notice!("stream \"{}\", position {}: {reason}", stream.name, stream.position);
    summary.add(&StreamDetail { stream: &stream.name, stored, outcome: "past", reason });
    summary
}

/// Moves the stream to the batch's position, once that is stored.
pub fn advance(scope: &Scope, stream: &Stream, gap: Option<Gap>, summary: &mut Summary) {
    let (tenant, account) = home(scope);
    let missing = gap.map_or(0, |gap| gap.missing);
    session::as_owner(|| {
        let statement = "SELECT tally_internal.move_stream($1, $2, $3, $4, $5, $6)";
        let values = [
            tenant.into(),
            account.into(),
            stream.name.as_str().into(),
            stream.position.into(),
            summary.batch_id.unwrap_or_default().into(),
            missing.into(),
        ];
        sql::run(statement, &values);
    });
    if let Some(Gap { stored, missing }) = gap {
        let reason = format!("{missing} positions after {stored} are missing");
        pgrx::warning!("stream \"{}\", position {}: {reason}", stream.name, stream.position);
        summary.add(&StreamDetail { stream: &stream.name, stored, outcome: "gap", reason });
    }
}

/// What streams are called.
const NAME: &str =
    "a stream is named as in the option stream of ingest: 1 to 200 bytes of text without control characters";

fn named(call: &Call) -> Result<&str, Report> {
    call.text(0).ok_or_else(|| Report::new("22004", "stream must not be null").hint(NAME))
}

sql_function! {
    /// `stream_position(stream)`: how far a stream of the scope has been stored; null for nothing.
    fn stream_position_wrapper / pg_finfo_stream_position_wrapper(call) {
        let scope = scope::for_writing()?;
        let (tenant, account) = home(&scope);
        let statement = "SELECT s.\"position\" FROM tally.stream AS s WHERE s.tenant_id = $1 AND s.account_id = $2 AND s.stream = $3";
        let values = [tenant.into(), account.into(), named(call)?.into()];
        // A standby may be asked, too.
        let found = session::as_owner(|| sql::rows(statement, &values, |row| row.get::<i64>(1)));
        Ok(found.into_iter().next().flatten().map(Datum::from))
    }
}

sql_function! {
    /// `reset_stream(stream, position)`: puts a stream of the scope to a position; forgets it where that is null.
    fn reset_stream_wrapper / pg_finfo_reset_stream_wrapper(call) {
        session::require_writable(c"tally.reset_stream()");
        let scope = scope::for_writing()?;
        let (name, position) = (named(call)?, call.long(1));
        let (tenant, account) = home(&scope);
        if position.is_some_and(|position| position < 0) {
            return Err(Report::new("22023", "position is less than 0").hint("null forgets the stream"));
        }
        tally_core::id::check(name).map_err(|error| Report::new(error.sqlstate(), format!("stream {}", error.problem())).hint(NAME))?;
        let before = lock(&scope, name)?;
        session::as_owner(|| {
            let values = [tenant.into(), account.into(), name.into(), position.into()];
            sql::run("SELECT tally_internal.put_stream($1, $2, $3, $4)", &values);
        });
        audit::act(&Act {
            act: "stream_reset",
            tenant,
            account: (!account.is_empty()).then_some(account),
            object: Some(name),
            detail: serde_json::json!({"from": before, "to": position}),
            ..Act::default()
        })?;
        Ok(before.map(Datum::from))
    }
}
