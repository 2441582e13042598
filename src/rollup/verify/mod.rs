//! Verifying, in the calling statement's snapshot. Buckets whose events are there are compared with a plain recomputation
//! from them (`recompute`), which is SQL over the declared expressions and shares no code with ingest and fold. Frozen
//! buckets, whose events may be gone, are compared with those of the finest grain that is kept. Of both, a stored state
//! that can't be read (`stored`) is a difference like any other, and doesn't end the search.

mod difference;
mod evaluated;
mod kept;
mod part;
mod recompute;
mod stored;

use self::part::Part;
use super::RollupError;
use super::definition;
use super::frozen::Frozen;
use super::hidden;
use super::rebuild;
use crate::backend::scan::{self, Snapshot};
use crate::backend::{schema, session};
use crate::raw::horizon;
use core::ops::Range;
use pgrx::datum::TimestampWithTimeZone;
use pgrx::pg_sys;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

/// One difference: grain, tenant, account, bucket, dimensions, measure, stored, recomputed.
type Difference = (
    Option<String>,
    Option<String>,
    Option<String>,
    Option<TimestampWithTimeZone>,
    Option<pgrx::JsonB>,
    Option<String>,
    Option<String>,
    Option<String>,
);

#[pg_extern(sql = false)]
#[allow(clippy::type_complexity, reason = "the columns of a set-returning function")]
fn verify_rollup(
    rollup_name: Option<&str>,
    from: Option<TimestampWithTimeZone>,
    to: Option<TimestampWithTimeZone>,
    tenant_id: Option<&str>,
) -> Result<
    TableIterator<
        'static,
        (
            name!(grain, Option<String>),
            name!(tenant_id, Option<String>),
            name!(account_id, Option<String>),
            name!(bucket, Option<TimestampWithTimeZone>),
            name!(dimensions, Option<pgrx::JsonB>),
            name!(measure, Option<String>),
            name!(stored, Option<String>),
            name!(recomputed, Option<String>),
        ),
    >,
    ErrorReport,
> {
    if !schema::is_updated() {
        return Err(RollupError::Outdated.into());
    }
    let range = rebuild::range(from, to)?;
    // No partition is dropped between reading the horizon and reading the events.
    session::lock_relation(session::relation(c"events"), pg_sys::AccessShareLock);
    // Buckets that begin before this are frozen, also those that end after it.
    let horizon = horizon::of_all().map_or(i64::MIN, |(horizon, _)| horizon);
    let definitions = definition::all()?;
    let definition = definition::find(&definitions, rollup_name.unwrap_or_default())?;
    let differences = session::with_fixed_settings(|| {
        session::with_owner_rights(|| -> Result<Vec<Difference>, RollupError> {
            let frozen = Frozen::read(definition);
            let mut differences = Vec::new();
            for &grain in &definition.grains {
                let part = Part { definition, grain, horizon, frozen: &frozen, tenant: tenant_id };
                for (statement, events) in statements(&part, &range) {
                    let rows = hidden::of_stored(definition, &[], || match events {
                        None => Ok(scan::texts(&statement, Snapshot::Calling)),
                        Some(condition) => Ok(evaluated::rows(definition, &condition)?.texts(&statement)),
                    })?;
                    differences.extend(rows.into_iter().map(read));
                }
            }
            Ok(differences)
        })
    })?;
    Ok(TableIterator::new(differences))
}

/// A row of `statement`'s result.
fn read(row: Vec<Option<String>>) -> Difference {
    let [grain, tenant_id, account_id, bucket, dimensions, measure, stored, recomputed] =
        row.try_into().expect("eight columns");
    let bucket = bucket.map(|time| {
        let time: i64 = time.parse().expect("a bigint");
        TimestampWithTimeZone::try_from(time).expect("a bucket is in range")
    });
    let dimensions = dimensions.map(|text| pgrx::JsonB(serde_json::from_str(&text).expect("json")));
    (grain, tenant_id, account_id, bucket, dimensions, measure, stored, recomputed)
}

/// Statements that find the differences of whole buckets: from the one that holds the start to the one that holds the
/// moment before the end; each with the condition of the events whose expressions it reads evaluated, if any.
fn statements(part: &Part, range: &Range<i64>) -> Vec<(String, Option<String>)> {
    let (start, end) = (part.grain.floor(range.start), part.grain.ceiling(range.end));
    let thawed = if part.horizon == i64::MIN { i64::MIN } else { part.grain.ceiling(part.horizon) };
    let mut statements = Vec::new();
    if start.max(thawed) < end {
        statements.push(recompute::statement(part, &(start.max(thawed)..end)));
    }
    if start < thawed || !part.frozen.is_empty() {
        let condition = format!("NOT ({})", part.is_thawed("bucket", thawed));
        statements.push((kept::unreadable(part, &(start..end), &condition), None));
        statements
            .extend(kept::unlike_finer(part, &(start..end)).into_iter().map(|statement| (statement, None)));
    }
    statements
}
