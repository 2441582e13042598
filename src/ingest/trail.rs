//! What the server's log says of an ingest call: one line whose fields keep their names, by which the call that belongs to a
//! trace is found. docs/runbooks/install.md lists the fields.

use super::summary::Summary;
use crate::backend::session;
use crate::raw::store::Lineage;
use crate::scope::Scope;
use serde_json::Value;
use std::fmt::Write;

/// Tells of a call that stored its batch: in the log where an event was not accepted, otherwise at DEBUG1.
pub fn stored(summary: &Summary, scope: &Scope, lineage: &Lineage) {
    let counts = &summary.counts;
    let refused = counts.conflicts + counts.rejected > 0;
    session::log(refused, || {
        let line = format!(
            "pg_tally event=ingest_stored batch_id={} accepted={} duplicates={} conflicts={} rejected={}",
            summary.batch_id.unwrap_or_default(),
            counts.accepted,
            counts.duplicates,
            counts.conflicts,
            counts.rejected
        );
        line + &origin(scope, lineage)
    });
}

/// Tells of a call that fails and stores nothing; the error itself follows in the log, with its SQLSTATE.
pub fn failed(problem: &str, scope: &Scope, lineage: &Lineage) {
    session::log(true, || {
        format!("pg_tally event=ingest_failed problem={}", quoted(problem)) + &origin(scope, lineage)
    });
}

fn origin(scope: &Scope, lineage: &Lineage) -> String {
    let tenant = match scope {
        Scope::Global => None,
        Scope::Tenant { tenant, .. } => Some(tenant),
    };
    let mut fields = format!(" caller={}", quoted(&lineage.caller));
    for (name, value) in [
        ("tenant_id", tenant),
        ("source", lineage.source.as_ref()),
        ("client", lineage.client.as_ref()),
        ("trace_id", lineage.trace_id.as_ref()),
        ("span_id", lineage.span_id.as_ref()),
    ] {
        if let Some(value) = value {
            write!(fields, " {name}={}", quoted(value)).expect("a string takes any text");
        }
    }
    fields
}

/// A value as JSON, so that nothing in it can look like another field or another line.
fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}
