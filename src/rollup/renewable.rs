//! Renewable times: those of which a tenant's buckets can be made anew, as all their raw events are there.

use super::definition::{self, Definition};
use super::frozen;
use super::rebuild::{self, months_without_events};
use crate::backend::session;
use crate::backend::sql::{self, quote, within};
use core::ops::Range;
use pgrx::datum::TimestampWithTimeZone;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

/// `renewable_times(rollup_name, from, to, tenant_id)`
#[pg_extern(sql = false)]
#[allow(clippy::type_complexity, reason = "the columns of a set-returning function")]
fn renewable_times(
    rollup_name: &str,
    from: TimestampWithTimeZone,
    to: TimestampWithTimeZone,
    tenant_id: &str,
) -> Result<
    TableIterator<
        'static,
        (name!(begins, TimestampWithTimeZone), name!(ends, TimestampWithTimeZone), name!(is_renewable, bool)),
    >,
    ErrorReport,
> {
    let asked = rebuild::range(Some(from), Some(to))?;
    let definitions = definition::all()?;
    let definition = definition::find(&definitions, rollup_name)?;
    let range = definition.floor(asked.start)..definition.ceiling(asked.end);
    let moment =
        |micros: i64| TimestampWithTimeZone::try_from(micros).expect("a moment near those asked for");
    let times = times(definition, &range, tenant_id).into_iter();
    Ok(TableIterator::new(
        times
            .map(|(time, is_renewable)| (moment(time.start), moment(time.end), is_renewable))
            .collect::<Vec<_>>(),
    ))
}

/// The times within a range of whole buckets, in order, and whether they are renewable; of those that are not the ones that the rollup
/// has numbers of.
fn times(definition: &Definition, range: &Range<i64>, tenant: &str) -> Vec<(Range<i64>, bool)> {
    let own = format!("tenant_id = {}", sql::literal(tenant));
    let lost = months_without_events(&format!("{own} AND {}", within("bucket", range)));
    let lost: Vec<i64> = lost.into_iter().map(|(month, _)| month).collect();
    let mut times = Vec::new();
    let mut renewable_from = range.start;
    for frozen in frozen::times(definition, tenant, &lost) {
        let frozen = frozen.start.max(range.start)..frozen.end.min(range.end);
        if frozen.is_empty() {
            continue;
        }
        times.push((renewable_from..frozen.start, true));
        renewable_from = frozen.end;
        if has_numbers(definition, &format!("{own} AND {}", within("bucket", &frozen))) {
            times.push((frozen, false));
        }
    }
    times.push((renewable_from..range.end, true));
    times.retain(|(time, _)| !time.is_empty());
    times
}

/// Whether a rollup has rows that meet a condition, SQL over a tenant and a bucket.
fn has_numbers(definition: &Definition, condition: &str) -> bool {
    let tables = definition.tables().into_iter();
    let found: Vec<String> = tables
        .map(|table| format!("EXISTS (SELECT FROM tally.{} WHERE {condition})", quote(&table)))
        .collect();
    session::as_owner(|| sql::one(&format!("SELECT {}", found.join(" OR ")), &[])) == Some(true)
}
