//! Writes a batch's rows: tenants, raw events, the batch itself, the quarantine.

use super::summary::{Counts, Outcome};
use crate::backend::appender::{AppendError, Appender, Unique};
use crate::backend::arena::Arena;
use crate::backend::lookup::{Key, Lookup, View};
use crate::backend::partition::Routing;
use crate::backend::session;
use pgrx::pg_sys::{Datum, Oid};
use std::collections::BTreeMap;
use tally_core::event::EventRef;

/// Number of columns of `tally.events`.
pub const EVENT_COLUMNS: usize = 9;

/// One row of `tally.events`, in column order.
pub struct EventRow {
    pub values: [Datum; EVENT_COLUMNS],
    pub nulls: [bool; EVENT_COLUMNS],
}

impl EventRow {
    /// Forms the row; the datums live in the arena.
    pub fn new(event: &EventRef, batch_id: i64, arena: &mut Arena) -> Self {
        let nothing = Datum::from(0);
        let text = |arena: &mut Arena, value: Option<&str>| {
            value.map_or(nothing, |value| arena.varlena(value.as_bytes()))
        };
        let values = [
            Datum::from(event.occurred_at),
            Datum::from(batch_id),
            arena.fixed(&event.event_id),
            arena.varlena(event.tenant_id.as_bytes()),
            arena.varlena(event.account_id.as_bytes()),
            arena.varlena(event.name.as_bytes()),
            text(arena, event.user_id.as_deref()),
            text(arena, event.session_id.as_deref()),
            arena.long_varlena(event.properties.jsonb()),
        ];
        let nulls =
            [false, false, false, false, false, false, event.user_id.is_none(), event.session_id.is_none(), false];
        Self { values, nulls }
    }
}

/// The secret sketch key of each tenant, made for those that are new. `Clash` when another transaction is making one.
pub fn tenants<'a>(
    names: impl Iterator<Item = &'a str>,
    now: i64,
) -> Result<Result<BTreeMap<&'a str, [u8; 16]>, Unique>, AppendError> {
    let table = session::relation(c"tenant");
    let mut arena = Arena::default();
    let mut keys: BTreeMap<&str, [u8; 16]> = names.map(|name| (name, [0; 16])).collect();
    let mut missing = Vec::new();
    let mut known = Lookup::open(table, &[Key::Text], View::Latest);
    for (name, key) in &mut keys {
        match known.find(&[arena.varlena(name.as_bytes())], [3]) {
            // SAFETY: column 3 is a bytea, valid until the next `find`.
            Some(row) => *key = unsafe { crate::backend::arena::read_fixed(row.values[0]) },
            None => missing.push(*name),
        }
    }
    known.close();
    if !missing.is_empty() {
        let mut new = Appender::open(table)?;
        for name in missing {
            let key = session::random_bytes();
            keys.insert(name, key);
            let mut row = [arena.varlena(name.as_bytes()), Datum::from(now), arena.varlena(&key)];
            if new.push(&mut row, &mut [false; 3]) == Unique::Clash {
                return Ok(Err(Unique::Clash));
            }
        }
        if new.finish() == Unique::Clash {
            return Ok(Err(Unique::Clash));
        }
    }
    Ok(Ok(keys))
}

/// Writes events into their partitions. Each partition's rows are sorted as its index is, so that neighbouring rows go
/// to neighbouring index pages.
pub fn raw(rows: &mut [(&EventRef, EventRow)]) -> Result<(), AppendError> {
    let routing = Routing::open(session::relation(c"events"));
    let mut by_partition: BTreeMap<Oid, Vec<usize>> = BTreeMap::new();
    for (position, (event, _)) in rows.iter().enumerate() {
        let partition = routing.find(event.occurred_at).expect("partition::ensure made it");
        by_partition.entry(partition).or_default().push(position);
    }
    routing.close();
    for (partition, mut positions) in by_partition {
        positions.sort_unstable_by_key(|&position| {
            let event = rows[position].0;
            (event.tenant_id.as_bytes(), event.account_id.as_bytes(), event.occurred_at)
        });
        let mut events = Appender::open(partition)?;
        for position in positions {
            let row = &mut rows[position].1;
            // No unique index here: the ledger has said that each event is new.
            let _ = events.push(&mut row.values, &mut row.nulls);
        }
        let _ = events.finish();
    }
    Ok(())
}

/// Writes the batch's row for each tenant.
pub fn batch(
    batch_id: i64,
    now: i64,
    counts: &BTreeMap<&str, Counts>,
    caller: &str,
) -> Result<Unique, AppendError> {
    let mut arena = Arena::default();
    let mut batches = Appender::open(session::relation(c"ingest_batch"))?;
    let caller = arena.name(caller);
    for (tenant, counts) in counts {
        let mut row = [
            Datum::from(batch_id),
            Datum::from(now),
            Datum::from(counts.accepted as i32),
            Datum::from(counts.duplicates as i32),
            Datum::from(counts.conflicts as i32),
            Datum::from(counts.rejected as i32),
            arena.varlena(tenant.as_bytes()),
            caller,
        ];
        if batches.push(&mut row, &mut [false; 8]) == Unique::Clash {
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
    pub body: &'a str,
}

/// Writes conflicting and rejected events, whole.
pub fn quarantine(
    batch_id: i64,
    now: i64,
    events: &[Quarantined],
) -> Result<Unique, AppendError> {
    if events.is_empty() {
        return Ok(Unique::Yes);
    }
    let mut table = Appender::open(session::relation(c"quarantine"))?;
    for event in events {
        let mut arena = Arena::default();
        let (sqlstate, reason) = event.outcome.reason();
        let mut row = [
            Datum::from(batch_id),
            Datum::from(now),
            Datum::from(event.position as i32),
            event.event_id.map_or(Datum::from(0), |id| arena.fixed(&id)),
            arena.varlena(event.tenant_id.as_bytes()),
            arena.varlena(event.account_id.as_bytes()),
            arena.varlena(event.outcome.word().as_bytes()),
            arena.varlena(sqlstate.as_bytes()),
            arena.varlena(reason.as_bytes()),
            arena.varlena(event.body.as_bytes()),
        ];
        let mut nulls = [false; 10];
        nulls[3] = event.event_id.is_none();
        if table.push(&mut row, &mut nulls) == Unique::Clash {
            return Ok(Unique::Clash);
        }
    }
    Ok(table.finish())
}
