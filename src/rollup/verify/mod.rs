//! Verifying, in the calling statement's snapshot. Buckets whose events are there are compared with a plain recomputation
//! from them (`recompute`), which is SQL over the declared expressions and shares no code with ingest and fold. Frozen
//! buckets, whose events may be gone, are compared with those of the finest grain that is kept. Of both, a stored state
//! that can't be read (`stored`) is a difference like any other, and doesn't end the search.

mod difference;
mod evaluated;
mod kept;
mod recompute;
mod stored;

use super::RollupError;
use super::definition::{self, Definition};
use super::frozen::Frozen;
use super::rebuild;
use crate::backend::scan::{self, Snapshot};
use crate::backend::{session, sql};
use crate::raw::horizon;
use core::ops::Range;
use pgrx::datum::TimestampWithTimeZone;
use pgrx::pg_sys;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use tally_core::grain::Grain;

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
                for (statement, events) in part.statements(&range) {
                    let rows = match events {
                        None => scan::texts(&statement, Snapshot::Calling),
                        Some(condition) => evaluated::rows(definition, &condition)?.texts(&statement),
                    };
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

/// What is verified at a time: the buckets of one grain.
struct Part<'a> {
    definition: &'a Definition,
    grain: Grain,
    /// Buckets of any tenant that begin before this are frozen.
    horizon: i64,
    /// Moments before which single tenants' are.
    frozen: &'a Frozen,
    /// The one tenant that is asked for.
    tenant: Option<&'a str>,
}

impl Part<'_> {
    /// Statements that find the differences of whole buckets: from the one that holds the start to the one that holds the
    /// moment before the end; each with the condition of the events whose expressions it reads evaluated, if any.
    fn statements(&self, range: &Range<i64>) -> Vec<(String, Option<String>)> {
        let start = if range.start == i64::MIN { i64::MIN } else { self.grain.floor(range.start) };
        let end = if range.end == i64::MAX { i64::MAX } else { self.grain.ceiling(range.end) };
        let thawed = if self.horizon == i64::MIN { i64::MIN } else { self.grain.ceiling(self.horizon) };
        let mut statements = Vec::new();
        if start.max(thawed) < end {
            statements.push(recompute::statement(self, &(start.max(thawed)..end)));
        }
        if start < thawed || !self.frozen.is_empty() {
            let condition = format!("NOT ({})", self.is_thawed("bucket", thawed));
            statements.push((kept::unreadable(self, &(start..end), &condition), None));
            statements.extend(
                kept::unlike_finer(self, &(start..end)).into_iter().map(|statement| (statement, None)),
            );
        }
        statements
    }

    /// SQL that is true where the bucket that begins at `column` is compared with events.
    fn is_thawed(&self, column: &str, thawed: i64) -> String {
        let of_all = sql::within(column, &(thawed..i64::MAX));
        format!("{of_all} AND {}", self.frozen.not_frozen(column))
    }

    /// SQL that is true for rows of the tenant that is asked for.
    fn of_tenant(&self) -> String {
        self.tenant.map_or_else(String::new, |tenant| format!(" AND tenant_id = {}", sql::literal(tenant)))
    }
}
