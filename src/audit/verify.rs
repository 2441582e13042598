//! The anchor, and the check of the log inside the database: the same that `tally-verify` makes of an export without one.

use super::acts::{Act, act};
use super::seal;
use crate::backend::report::{Report, given};
use crate::backend::session;
use crate::scope::{self, Scope, ScopeError};
use pgrx::datum::Uuid;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use serde_json::json;
use tally_core::audit::{Anchor, Verifier, hex};
use tally_core::event::format_timestamp;

/// Lines of the export that are fetched at a time.
const LINES: i64 = 5000;

/// What to do instead of giving an anchor that holds nothing: with it, no row would seem to say that nothing was cut off.
const NO_ANCHOR: &str =
    "give what tally.audit_anchor() returned, or nothing at all to check the log against itself";

fn bad_anchor(problem: &str) -> Report {
    Report::new("22023", format!("the anchor can't be read: {problem}"))
        .hint("give what tally.audit_anchor() returned, as it stands")
}

/// Seals, and the log as a whole, tell of every tenant.
fn refuse_confined() -> Result<(), Report> {
    match scope::tenant_of_session() {
        None => Ok(()),
        Some(_) => Err(Report::new(
            "42501",
            "the whole audit log is not for a session that is confined to a tenant".to_owned(),
        )
        .hint("SELECT from tally.audit, which shows the tenant's own entries")),
    }
}

#[pg_extern(sql = false)]
fn audit_anchor() -> Result<String, ErrorReport> {
    refuse_confined()?;
    let (size, root) = seal::tree();
    let anchor = Anchor { database: session::audience(), size, root, at: format_timestamp(session::clock()) };
    act(&Act {
        act: "audit_anchor_taken",
        detail: json!({"seals": size, "root": hex(&root)}),
        ..Act::default()
    })?;
    Ok(anchor.print())
}

type Row = (
    name!(fault, String),
    name!(seal, Option<i64>),
    name!(tenant_id, Option<String>),
    name!(entry_id, Option<Uuid>),
    name!(detail, String),
);

#[pg_extern(sql = false)]
#[allow(clippy::type_complexity, reason = "the columns of the result")]
fn verify_audit(
    anchors: Option<Vec<Option<String>>>,
) -> Result<
    TableIterator<
        'static,
        (
            name!(fault, String),
            name!(seal, Option<i64>),
            name!(tenant_id, Option<String>),
            name!(entry_id, Option<Uuid>),
            name!(detail, String),
        ),
    >,
    ErrorReport,
> {
    refuse_confined()?;
    let mut read = Vec::new();
    for text in given(anchors, "anchors", NO_ANCHOR)? {
        let text = given(text, "an anchor", NO_ANCHOR)?;
        let before = read.len();
        for line in text.lines().filter(|line| !line.trim().is_empty()) {
            read.push(Anchor::read(line).map_err(bad_anchor)?);
        }
        if read.len() == before {
            return Err(Report::new("22023", "an anchor is empty").hint(NO_ANCHOR).into());
        }
    }
    let mut verifier = Verifier::new(read);
    session::as_owner(|| {
        Spi::connect(|client| {
            let mut lines = client.open_cursor("SELECT tally.export_audit()", &[]);
            loop {
                let rows = lines.fetch(LINES)?;
                if rows.is_empty() {
                    break;
                }
                for row in rows {
                    verifier.read(row.get::<&str>(1)?.unwrap_or_default());
                }
            }
            Ok::<(), pgrx::spi::Error>(())
        })
    })
    .expect("a text a row");
    let report = verifier.finish();
    let rows: Vec<Row> = report
        .problems
        .into_iter()
        .map(|problem| {
            (
                problem.fault.name().to_owned(),
                problem.seal.map(|seal| seal as i64),
                problem.tenant_id,
                problem.entry_id.map(Uuid::from_bytes),
                problem.detail,
            )
        })
        .collect();
    Ok(TableIterator::new(rows))
}

/// What who may not read the log is told. Recorded as ever: the report is made of the error.
fn refused(error: ScopeError) -> Report {
    let is_of_everybody =
        matches!(error, ScopeError::Denied(_)) && matches!(scope::current(), Ok(Scope::Global));
    let report = Report::from(error);
    if is_of_everybody {
        Report::new("42501", "the audit log of every tenant is for members of tally_auditor").hint(
            "enter one tenant's scope, with tally.enter(tenant), and read its entries, or ask an auditor",
        )
    } else {
        report
    }
}

/// The scope in which the log is read.
#[pg_extern(sql = false)]
fn audit_scope_key() -> Result<String, ErrorReport> {
    Ok(scope::key_for_auditing().map_err(refused)?)
}
