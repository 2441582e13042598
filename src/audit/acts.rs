//! Recording an act.

use super::line;
use super::pending::{self, Kind};
use crate::backend::json::Document;
use crate::backend::report::Report;
use crate::backend::{session, transaction_end};
use pgrx::datum::Uuid;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use serde_json::Value;
use tally_core::audit::{Entry, Personal, Record, commitment, shorten, shorten_text};

/// Bytes of an object, and of the texts of a detail and of a personal part: what is longer is cut, and says so. An entry must fit in
/// shared memory and in a line of the log.
const OBJECT_BYTES: usize = 1000;
const DETAIL_BYTES: usize = 16_000;

/// Something that somebody did, or tried.
#[derive(Clone, Debug, Default)]
pub struct Act<'a> {
    /// What, in lower case with underscores: `scope_entered`, `export_approved`.
    pub act: &'a str,
    /// The tenant that it concerns, who may read the entry; empty for none.
    pub tenant: &'a str,
    pub account: Option<&'a str>,
    /// What it was done to.
    pub object: Option<&'a str>,
    /// More about it, an object without anything personal; null where there is no more to say.
    pub detail: Value,
    /// What an erasure takes away again, an object; null where there is nothing.
    pub personal: Value,
}

impl Act<'_> {
    /// The entry of it, as done now by whoever logged in.
    pub(super) fn record(&self) -> Record {
        let text = |value: &Value| (!value.is_null()).then(|| text(value.clone()));
        let personal = text(&self.personal)
            .map(|content| Personal { salt: session::random_bytes::<16>().to_vec(), content });
        let detail = text(&self.detail);
        let entry = Entry {
            tenant_id: self.tenant.to_owned(),
            at: session::clock(),
            entry_id: new_id(),
            actor: session::session_role_name(),
            account_id: self.account.map(str::to_owned),
            act: self.act.to_owned(),
            object: self.object.map(|object| shorten_text(object, OBJECT_BYTES)),
            detail,
            personal: personal.as_ref().map(commitment),
            ..Entry::default()
        };
        Record { entry, personal }
    }
}

/// What an entry keeps of a detail or a personal part.
pub(super) fn text(value: Value) -> String {
    shorten(value, DETAIL_BYTES).to_string()
}

/// The beginning of a text, of so many bytes at most.
pub(super) fn cut(text: &str, bytes: usize) -> &str {
    &text[..text.floor_char_boundary(bytes)]
}

/// A random uuid, of version 4. It is no secret: the operating system isn't asked for each read.
fn new_id() -> [u8; 16] {
    let mut id = [0; 16];
    for part in id.chunks_mut(4) {
        part.copy_from_slice(&session::random_bits().to_ne_bytes());
    }
    id[6] = id[6] & 0x0F | 0x40;
    id[8] = id[8] & 0x3F | 0x80;
    id
}

/// Records an act of the running transaction: with it, and also where it is undone; returns the entry's id. An error where it can't
/// be recorded, which undoes the act.
pub fn act(act: &Act) -> Result<[u8; 16], Report> {
    if session::is_restricted() {
        return Err(Report::new("42501", "the code of an index or a materialized view has no scope and acts for nobody").hint(
            "ANALYZE, REINDEX and REFRESH run it as the table's owner, in a session that may do more; have it compute from what it is given",
        ));
    }
    let record = act.record();
    let id = record.entry.entry_id;
    line::write("audit", &record);
    pending::store(record, Kind::Act)?;
    Ok(id)
}

/// Keeps the entry of what has happened whatever becomes of the transaction.
pub(super) fn happened(record: Record) {
    line::write("audit", &record);
    pending::keep(record, Kind::Happened);
}

/// Records what was tried, or has happened whatever becomes of the transaction: an attempt that is denied, a scope that was
/// entered. It never fails.
pub fn attempt(act: &Act) {
    if transaction_end::is_running() {
        happened(act.record());
    }
}

#[pg_extern(sql = false)]
fn record_act(
    name: &str,
    object: Option<&str>,
    detail: Option<Document>,
    tenant_id: Option<&str>,
    account_id: Option<&str>,
    personal: Option<Document>,
) -> Result<Option<Uuid>, ErrorReport> {
    // What replication brings was recorded where it was done.
    if session::is_creating_extension() || transaction_end::is_replicated() {
        return Ok(None);
    }
    let document = |document: Option<Document>| document.map_or(Value::Null, |document| document.0);
    let id = act(&Act {
        act: name,
        tenant: tenant_id.unwrap_or_default(),
        account: account_id,
        object,
        detail: document(detail),
        personal: document(personal),
    })?;
    Ok(Some(Uuid::from_bytes(id)))
}
