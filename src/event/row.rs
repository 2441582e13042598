//! A row of `tally.events`, as ingest forms it and rollups read it.

use crate::backend::arena::{self, Arena};
use crate::backend::heap::Declared;
use pgrx::pg_sys::{self, Datum, Oid};
use tally_core::event::EventRef;

/// Columns of `tally.events`, in order.
pub const EVENT_COLUMNS: [(&str, Oid); 9] = [
    ("occurred_at", pg_sys::TIMESTAMPTZOID),
    ("batch_id", pg_sys::INT8OID),
    ("event_id", pg_sys::UUIDOID),
    ("tenant_id", pg_sys::TEXTOID),
    ("account_id", pg_sys::TEXTOID),
    ("name", pg_sys::TEXTOID),
    ("user_id", pg_sys::TEXTOID),
    ("session_id", pg_sys::TEXTOID),
    ("properties", pg_sys::JSONBOID),
];

/// `tally.events` and each of its partitions: no key of their own, since the ledger has it.
pub const EVENTS: Declared = Declared { table: "events", columns: &EVENT_COLUMNS, key: &[] };

/// Places of columns in a row, from 0.
const OCCURRED_AT: usize = EVENTS.at("occurred_at") as usize - 1;
const TENANT_ID: usize = EVENTS.at("tenant_id") as usize - 1;
const ACCOUNT_ID: usize = EVENTS.at("account_id") as usize - 1;
const USER_ID: usize = EVENTS.at("user_id") as usize - 1;
const SESSION_ID: usize = EVENTS.at("session_id") as usize - 1;

/// Their names, as a query lists them.
pub fn event_column_names() -> String {
    EVENT_COLUMNS.map(|(name, _)| name).join(", ")
}

/// One row; its datums live in an arena or in a tuple of the caller's.
pub struct EventRow {
    pub values: [Datum; EVENT_COLUMNS.len()],
    pub nulls: [bool; EVENT_COLUMNS.len()],
}

impl EventRow {
    /// Forms the row of an event.
    pub fn new(event: &EventRef, batch_id: i64, arena: &mut Arena) -> Self {
        let text = |arena: &mut Arena, value: Option<&str>| {
            value.map_or(Datum::from(0), |value| arena.varlena(value.as_bytes()))
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
        let mut nulls = [false; EVENT_COLUMNS.len()];
        nulls[USER_ID] = event.user_id.is_none();
        nulls[SESSION_ID] = event.session_id.is_none();
        Self { values, nulls }
    }

    /// The row of an event of which nothing is known but its user.
    pub fn of_user(tenant: &str, user: &str, arena: &mut Arena) -> Self {
        let mut row =
            Self { values: [Datum::from(0); EVENT_COLUMNS.len()], nulls: [true; EVENT_COLUMNS.len()] };
        for (place, text) in [(TENANT_ID, tenant), (USER_ID, user)] {
            row.values[place] = arena.varlena(text.as_bytes());
            row.nulls[place] = false;
        }
        row
    }

    /// Takes a row that a query over `event_column_names` returned.
    pub fn read(values: &[Datum], nulls: &[bool]) -> Self {
        Self {
            values: values.try_into().expect("the query selects these columns"),
            nulls: nulls.try_into().expect("the query selects these columns"),
        }
    }

    /// The same row again; its datums live where they did.
    pub fn copied(&self) -> Self {
        Self { values: self.values, nulls: self.nulls }
    }

    /// Microseconds since 2000-01-01 UTC.
    pub fn occurred_at(&self) -> i64 {
        self.values[OCCURRED_AT].value() as i64
    }

    /// The tenant's datum.
    pub fn tenant(&self) -> Datum {
        self.values[TENANT_ID]
    }

    /// The account's datum.
    pub fn account(&self) -> Datum {
        self.values[ACCOUNT_ID]
    }

    /// The tenant.
    pub fn tenant_id(&self) -> &str {
        // At most 200 bytes, hence neither compressed nor out of line.
        arena::read_text(self.values[TENANT_ID])
    }

    /// The account.
    pub fn account_id(&self) -> &str {
        arena::read_text(self.values[ACCOUNT_ID])
    }
}
