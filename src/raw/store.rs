//! Writes a batch's rows: raw events, the batch itself, the quarantine.

use super::outcome::{Counts, Outcome};
use super::partition;
use crate::backend::appender::{Appender, Unique};
use crate::backend::arena::Arena;
use crate::backend::heap::{self, Declared, TableError};
use crate::backend::partition::Routing;
use crate::backend::report::Report;
use crate::backend::session;
use crate::backend::subtransaction::{self, Verdict};
use crate::event::{EVENTS, EventRow};
use pgrx::pg_sys::{self, Datum, Oid};
use std::borrow::Cow;
use std::collections::BTreeMap;
use tally_core::event::format_timestamp;

pub const BATCHES: Declared = Declared {
    table: "ingest_batch",
    columns: &[
        ("batch_id", pg_sys::INT8OID),
        ("ingested_at", pg_sys::TIMESTAMPTZOID),
        ("accepted", pg_sys::INT4OID),
        ("duplicates", pg_sys::INT4OID),
        ("conflicts", pg_sys::INT4OID),
        ("rejected", pg_sys::INT4OID),
        ("tenant_id", pg_sys::TEXTOID),
        ("caller", pg_sys::NAMEOID),
        ("source", pg_sys::TEXTOID),
        ("client", pg_sys::TEXTOID),
        ("trace_id", pg_sys::TEXTOID),
        ("span_id", pg_sys::TEXTOID),
        ("redrives", pg_sys::INT8ARRAYOID),
    ],
    key: &["tenant_id", "batch_id"],
};
const QUARANTINED: [(&str, Oid); 13] = [
    ("batch_id", pg_sys::INT8OID),
    ("quarantined_at", pg_sys::TIMESTAMPTZOID),
    ("position", pg_sys::INT4OID),
    ("event_id", pg_sys::UUIDOID),
    ("tenant_id", pg_sys::TEXTOID),
    ("account_id", pg_sys::TEXTOID),
    ("outcome", pg_sys::TEXTOID),
    ("sqlstate", pg_sys::TEXTOID),
    ("reason", pg_sys::TEXTOID),
    ("body", pg_sys::TEXTOID),
    ("tries", pg_sys::INT4OID),
    ("tried_at", pg_sys::TIMESTAMPTZOID),
    ("format", pg_sys::TEXTOID),
];
/// The quarantine's table, as version 0.1.0 made it.
const FIRST_QUARANTINE: Declared = Declared { columns: QUARANTINED.split_at(12).0, ..QUARANTINE };
pub const QUARANTINE: Declared =
    Declared { table: "quarantine", columns: &QUARANTINED, key: &["tenant_id", "batch_id", "position"] };

/// Writes events into their partitions. Each partition's rows are sorted as its index is, so that neighbouring rows go
/// to neighbouring index pages.
pub fn raw(rows: &mut [EventRow]) -> Result<(), TableError> {
    let routing = Routing::open(session::relation(c"events"));
    let mut by_partition: BTreeMap<u32, Vec<&mut EventRow>> = BTreeMap::new();
    for row in rows {
        let Some(partition) = routing.find(row.occurred_at(), row.tenant_id()) else {
            no_partition(row.occurred_at(), row.tenant_id(), routing.covers(row.occurred_at())).raise()
        };
        by_partition.entry(partition.to_u32()).or_default().push(row);
    }
    routing.close();
    for (partition, mut rows) in by_partition {
        rows.sort_unstable_by(|left, right| {
            (left.tenant_id(), left.account_id(), left.occurred_at()).cmp(&(
                right.tenant_id(),
                right.account_id(),
                right.occurred_at(),
            ))
        });
        let mut events = Appender::open(Oid::from(partition), &EVENTS)?;
        for row in rows {
            // No unique index here: the ledger has said that each event is new.
            let _ = events.push(&row.values, &row.nulls);
        }
        let _ = events.finish();
    }
    Ok(())
}

/// An event can't be stored although its month was seen to: somebody has just taken the month out, or has divided it by tenants by hand.
fn no_partition(time: i64, tenant: &str, is_divided: bool) -> Report {
    let time = format_timestamp(time);
    if is_divided {
        Report::new("23514", format!("no partition of the month of {time} takes tenant {tenant:?}"))
            .hint("the month was divided by hand: give it a default partition")
    } else {
        Report::new("55P03", format!("the partition of {time} has just been taken out of tally.events"))
            .hint("try again: it is made anew")
    }
}

/// The number of an event among others, and the error code and reason of what is wrong with it.
type Refused = (usize, (String, String));

/// Tries events on their partitions and undoes it: of each that a column or constraint which an administrator added doesn't take.
pub fn refusals(rows: &[EventRow]) -> Result<Vec<Refused>, TableError> {
    subtransaction::by_halves((0..rows.len()).collect(), |part| {
        let stored = subtransaction::run(|| {
            if let Err(busy) = partition::ensure(part.iter().map(|&row| rows[row].occurred_at())) {
                Report::from(busy).raise();
            }
            let mut part: Vec<EventRow> = part.iter().map(|&row| rows[row].copied()).collect();
            Verdict::Undo(raw(&mut part))
        });
        match stored {
            Ok(stored) => stored.map(|()| None),
            Err(caught) if caught.is_about_data() => {
                Ok(Some((caught.sqlstate, format!("tally.events: {}", caught.message))))
            }
            Err(caught) => caught.rethrow(),
        }
    })
}

/// Where a batch came from, as `tally.ingest_batch` keeps it.
#[derive(Clone, Debug, Default)]
pub struct Lineage {
    /// The role that logged in.
    pub caller: String,
    /// What produced the events, in the sender's words.
    pub source: Option<String>,
    /// The program that sent them; `application_name` where nothing else is said.
    pub client: Option<String>,
    /// Of the W3C trace that the call is part of.
    pub trace_id: Option<String>,
    pub span_id: Option<String>,
}

/// Writes the batch's row for each tenant.
pub fn batch(
    batch_id: i64,
    now: i64,
    counts: &BTreeMap<&str, Counts>,
    lineage: &Lineage,
) -> Result<Unique, TableError> {
    let mut arena = Arena::default();
    let mut batches = Appender::open(session::relation(c"ingest_batch"), &BATCHES)?;
    let caller = arena.name(&lineage.caller);
    let Lineage { source, client, trace_id, span_id, .. } = lineage;
    let texts = [source, client, trace_id, span_id];
    let [source, client, trace_id, span_id] =
        texts.map(|text| text.as_ref().map(|text| arena.varlena(text.as_bytes())));
    for (tenant, counts) in counts {
        let (row, nulls) = BATCHES.row([
            ("batch_id", Some(Datum::from(batch_id))),
            ("ingested_at", Some(Datum::from(now))),
            ("accepted", Some(Datum::from(counts.accepted as i32))),
            ("duplicates", Some(Datum::from(counts.duplicates as i32))),
            ("conflicts", Some(Datum::from(counts.conflicts as i32))),
            ("rejected", Some(Datum::from(counts.rejected as i32))),
            ("tenant_id", Some(arena.varlena(tenant.as_bytes()))),
            ("caller", Some(caller)),
            ("source", source),
            ("client", client),
            ("trace_id", trace_id),
            ("span_id", span_id),
            ("redrives", None),
        ]);
        if batches.push(&row, &nulls) == Unique::Clash {
            return Ok(Unique::Clash);
        }
    }
    Ok(batches.finish())
}

/// An event on its way to the quarantine.
pub struct Quarantined<'a> {
    pub position: u32,
    pub event_id: Option<[u8; 16]>,
    pub tenant_id: &'a str,
    pub account_id: &'a str,
    pub outcome: &'a Outcome,
    /// The format of the payload that the body is an event of; `None` where it is an event as `tally.ingest` takes it.
    pub format: Option<&'static str>,
    pub body: Cow<'a, str>,
}

/// Writes conflicting and rejected events, whole.
pub fn quarantine(batch_id: i64, now: i64, events: &[Quarantined]) -> Result<Unique, TableError> {
    if events.is_empty() {
        return Ok(Unique::Yes);
    }
    let table = session::relation(c"quarantine");
    // The library may be newer than the schema, until ALTER EXTENSION UPDATE; what takes payloads comes with that.
    let declared = if heap::has_column(table, c"format") { QUARANTINE } else { FIRST_QUARANTINE };
    let columns = declared.columns.len();
    let mut table = Appender::open(table, &declared)?;
    for event in events {
        let mut arena = Arena::default();
        let (sqlstate, reason) = event.outcome.reason();
        let (row, nulls) = QUARANTINE.row([
            ("batch_id", Some(Datum::from(batch_id))),
            ("quarantined_at", Some(Datum::from(now))),
            ("position", Some(Datum::from(event.position as i32))),
            ("event_id", event.event_id.map(|id| arena.fixed(&id))),
            ("tenant_id", Some(arena.varlena(event.tenant_id.as_bytes()))),
            ("account_id", Some(arena.varlena(event.account_id.as_bytes()))),
            ("outcome", Some(arena.varlena(event.outcome.word().as_bytes()))),
            ("sqlstate", Some(arena.varlena(sqlstate.as_bytes()))),
            ("reason", Some(arena.varlena(reason.as_bytes()))),
            ("body", Some(arena.varlena(event.body.as_bytes()))),
            ("tries", Some(Datum::from(0))),
            ("tried_at", None),
            ("format", event.format.map(|format| arena.varlena(format.as_bytes()))),
        ]);
        if table.push(&row[..columns], &nulls[..columns]) == Unique::Clash {
            return Ok(Unique::Clash);
        }
    }
    Ok(table.finish())
}
