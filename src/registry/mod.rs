//! The schema registry: what the properties of an event of a name must look like, and what becomes of events whose name
//! nobody registered.

mod declared;
mod failure;

use crate::backend::appender::{Appender, Unique};
use crate::backend::arena::Arena;
use crate::backend::heap::{Declared, TableError};
use crate::backend::json::Document;
use crate::backend::lookup::{Key, Lookup, View};
use crate::backend::{cache, session, sql};
use crate::raw::tenant::Hashers;
use pgrx::JsonB;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::pg_sys::{self, Datum, Oid};
use pgrx::prelude::*;
use std::hash::{DefaultHasher, Hash, Hasher};
use tally_core::event::EventRef;
use tally_core::hll::ValueHasher;
use tally_core::jsonb;
use tally_schema::{Schema, SchemaError};

pub use declared::{Registry, current};

/// SQLSTATE of events that their schema doesn't take.
const INVALID: &str = "23514";
/// SQLSTATE of events whose name must be registered and isn't.
const UNREGISTERED: &str = "42704";

pub const UNREGISTERED_NAMES: Declared = Declared {
    table: "unregistered_event",
    columns: &[
        ("first_seen_at", pg_sys::TIMESTAMPTZOID),
        ("batch_id", pg_sys::INT8OID),
        ("tenant_id", pg_sys::TEXTOID),
        ("name", pg_sys::TEXTOID),
    ],
    key: &["tenant_id", "name"],
};

/// What becomes of an event whose name nobody registered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    #[default]
    Allow,
    /// It is taken, and its name noted.
    Mark,
    Reject,
}

/// What the registry says of an event.
pub enum Verdict {
    Fine,
    /// To be taken, and its name to be noted.
    Mark,
    /// To be rejected: SQLSTATE and reason.
    Reject(&'static str, String),
}

impl Registry {
    /// Judges one event.
    pub fn judge(&self, event: &EventRef) -> Verdict {
        let Some((version, schema)) = self.schemas.get(&*event.name) else {
            return match self.policy(&event.tenant_id) {
                Policy::Allow => Verdict::Fine,
                Policy::Mark => Verdict::Mark,
                Policy::Reject => Verdict::Reject(
                    UNREGISTERED,
                    format!("no schema is registered for events named \"{}\"", event.name),
                ),
            };
        };
        match problem(schema, event) {
            None => Verdict::Fine,
            Some(problem) => {
                let name = &event.name;
                Verdict::Reject(
                    INVALID,
                    format!("properties of \"{name}\", schema version {version}: {problem}"),
                )
            }
        }
    }
}

/// Compiles, compares or judges so that a cancel, a timeout or too deep a stack ends it.
fn cancellable<T>(work: impl FnOnce() -> T) -> T {
    tally_schema::watched(session::check_for_interrupts_and_depth, work)
}

fn problem(schema: &Schema, event: &EventRef) -> Option<String> {
    match jsonb::value(event.properties.jsonb()) {
        Ok(properties) => cancellable(|| schema.problem(&properties)),
        Err(error) => Some(error.reason),
    }
}

/// Notes names that nobody registered, each once a tenant. What another transaction is noting is left to it: nobody waits for
/// it to end, and where it is undone the next event of the name is noted.
pub fn mark(
    names: Vec<(&str, &str)>,
    hashers: &Hashers,
    batch_id: i64,
    now: i64,
) -> Result<Unique, TableError> {
    if names.is_empty() {
        return Ok(Unique::Yes);
    }
    let table = session::relation(c"unregistered_event");
    let mut arena = Arena::default();
    let missing = not_noted(table, names, View::Now, &mut arena);
    let ours = missing
        .into_iter()
        .filter(|(tenant, name)| session::lock(table.to_u32(), number(hashers, tenant, name), false))
        .collect();
    // The transaction that had the lock may have committed by now; and this transaction may have noted it in the same command.
    let missing = not_noted(table, ours, View::Latest, &mut arena);
    if missing.is_empty() {
        return Ok(Unique::Yes);
    }
    let mut notes = Appender::open(table, &UNREGISTERED_NAMES)?;
    for (tenant, name) in missing {
        let (row, nulls) = UNREGISTERED_NAMES.row([
            ("first_seen_at", Some(Datum::from(now))),
            ("batch_id", Some(Datum::from(batch_id))),
            ("tenant_id", Some(arena.varlena(tenant.as_bytes()))),
            ("name", Some(arena.varlena(name.as_bytes()))),
        ]);
        if notes.push(&row, &nulls) == Unique::Clash {
            return Ok(Unique::Clash);
        }
    }
    Ok(notes.finish())
}

/// Those among names of tenants that a look shows no note of.
fn not_noted<'a>(
    table: Oid,
    names: Vec<(&'a str, &'a str)>,
    view: View,
    arena: &mut Arena,
) -> Vec<(&'a str, &'a str)> {
    if names.is_empty() {
        return names;
    }
    let mut noted = Lookup::open(table, &[Key::Text, Key::Text], view);
    noted.require(&UNREGISTERED_NAMES);
    let missing = names
        .into_iter()
        .filter(|(tenant, name)| {
            let key = [arena.varlena(tenant.as_bytes()), arena.varlena(name.as_bytes())];
            noted.find(&key, []).is_none()
        })
        .collect();
    noted.close();
    missing
}

/// Stands for a tenant's name of an event in the lock of who notes it. Everybody sees the numbers of locks, so it depends on
/// what only the tenant's sketches know.
fn number(hashers: &Hashers, tenant: &str, name: &str) -> u32 {
    let ValueHasher::Keyed { key, epoch } = hashers[tenant] else {
        unreachable!("a tenant's hasher has a key")
    };
    let mut hasher = DefaultHasher::new();
    (key.0, epoch, name).hash(&mut hasher);
    hasher.finish() as u32
}

#[pg_extern(sql = false)]
fn check_event_schema(schema: Document) -> Result<(), ErrorReport> {
    cancellable(|| Schema::compile(&schema.0)).map_err(failure::schema_report)?;
    Ok(())
}

#[pg_extern(sql = false)]
fn event_schema_breaks(older: Document, newer: Document) -> Result<Vec<String>, ErrorReport> {
    for schema in [&older.0, &newer.0] {
        tally_schema::check_size(schema).map_err(failure::schema_report)?;
    }
    Ok(cancellable(|| tally_schema::breaks(&older.0, &newer.0)))
}

#[pg_extern(sql = false)]
fn standard_schema(kind: &str) -> Result<JsonB, ErrorReport> {
    let unknown = || {
        let kinds = tally_schema::STANDARD_KINDS.join(", ");
        failure::schema_report(SchemaError(format!("there is no standard schema \"{kind}\", only {kinds}")))
    };
    Ok(JsonB(tally_schema::standard(kind).ok_or_else(unknown)?))
}

/// Makes every backend load the registry anew, once this transaction commits.
#[pg_extern(sql = false)]
fn registry_changed() {
    cache::invalidate(session::relation(c"event_schema"));
}

/// Writes a policy as the owner: the tables' row security would want a scope, which declaring needs none of.
#[pg_extern(sql = false)]
fn write_policy(policy: Option<&str>, tenant_id: Option<&str>) {
    let tenant_id = tenant_id.unwrap_or_default();
    session::require_writable(c"tally.set_unregistered_policy()");
    session::as_owner(|| {
        sql::run("DELETE FROM tally.unregistered_policy AS p WHERE p.tenant_id = $1", &[tenant_id.into()]);
        if let Some(policy) = policy {
            let insert = "INSERT INTO tally.unregistered_policy (tenant_id, policy) VALUES ($1, $2)";
            sql::run(insert, &[tenant_id.into(), policy.into()]);
        }
    });
    registry_changed();
}
