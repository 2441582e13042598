//! An entry as a line of the server's log: `pg_tally event=audit id=… act=… actor="…"`, each value as JSON, so that nothing in it
//! can look like another field or another line. docs/GOVERNANCE.md lists the fields.

use crate::backend::log;
use serde_json::Value;
use std::fmt::Write;
use tally_core::audit::{Record, hex};
use tally_core::event::{format_timestamp, format_uuid};

/// Writes a line of this event: `audit` for an entry that is made, `audit_undone` for one whose transaction was undone.
pub fn write(event: &str, record: &Record) {
    let entry = &record.entry;
    let mut line = format!(
        "pg_tally event={event} id={} at={} act={} actor={}",
        format_uuid(&entry.entry_id),
        format_timestamp(entry.at),
        entry.act,
        Value::from(entry.actor.as_str())
    );
    for (name, value) in [
        ("tenant_id", Some(&entry.tenant_id).filter(|tenant| !tenant.is_empty())),
        ("account_id", entry.account_id.as_ref()),
        ("object", entry.object.as_ref()),
    ] {
        if let Some(value) = value {
            // Writing to a text doesn't fail.
            let _ = write!(line, " {name}={}", Value::from(value.as_str()));
        }
    }
    if let Some(detail) = &entry.detail {
        let _ = write!(line, " detail={detail}");
    }
    // Not what it was made of: a log is kept elsewhere, and an erasure doesn't reach it.
    if let Some(commitment) = &entry.personal {
        let _ = write!(line, " personal={}", hex(commitment));
    }
    log::line(&line);
}
