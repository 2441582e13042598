//! Renewable times: those of which a tenant's buckets can be made anew, as all their raw events are there.

use super::definition::{self, Column, Definition, Kind};
use super::frozen;
use super::rebuild::{self, months_without_events};
use crate::backend::session;
use crate::backend::sql::{self, quote, within};
use core::ops::Range;
use pgrx::datum::TimestampWithTimeZone;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

/// `renewable_times(rollup_name, from, to, tenant_id, column_names)`
#[pg_extern(sql = false)]
#[allow(clippy::type_complexity, reason = "the columns of a set-returning function")]
fn renewable_times(
    rollup_name: &str,
    from: TimestampWithTimeZone,
    to: TimestampWithTimeZone,
    tenant_id: &str,
    column_names: Vec<Option<String>>,
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
    let columns = definition
        .columns
        .iter()
        .filter(|column| column_names.iter().flatten().any(|name| *name == column.name));
    let has_value: Vec<String> = columns.filter_map(has_value).collect();
    let times = times(definition, &range, tenant_id, &has_value).into_iter();
    Ok(TableIterator::new(
        times
            .map(|(time, is_renewable)| (moment(time.start), moment(time.end), is_renewable))
            .collect::<Vec<_>>(),
    ))
}

/// SQL that is true of rows in which a column of the tables has a value that was taken from events; `None` where such values say nothing.
fn has_value(column: &Column) -> Option<String> {
    let name = quote(&column.name);
    match column.kind {
        // An empty sketch is none. One that is damaged may have been of any values.
        Kind::Distinct => Some(format!(
            "CASE WHEN tally.damage({name}, NULL) IS NULL THEN tally.distinct_count({name}) > 0 ELSE true END"
        )),
        _ if column.stored_type() == pgrx::pg_sys::BOOLOID => None,
        _ => Some(format!("{name} IS NOT NULL")),
    }
}

/// The times within a range of whole buckets, in order, and whether they are renewable; of those that are not the ones in which the
/// rollup has rows that meet one of some conditions.
fn times(
    definition: &Definition,
    range: &Range<i64>,
    tenant: &str,
    conditions: &[String],
) -> Vec<(Range<i64>, bool)> {
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
        if has_rows(definition, &format!("{own} AND {}", within("bucket", &frozen)), conditions) {
            times.push((frozen, false));
        }
    }
    times.push((renewable_from..range.end, true));
    times.retain(|(time, _)| !time.is_empty());
    times
}

/// Whether a rollup has rows that meet a condition, SQL over a tenant and a bucket, and one of some others.
fn has_rows(definition: &Definition, own: &str, conditions: &[String]) -> bool {
    if conditions.is_empty() {
        return false;
    }
    let any = conditions.join(" OR ");
    let tables = definition.tables().into_iter();
    let found: Vec<String> = tables
        .map(|table| format!("EXISTS (SELECT FROM tally.{} WHERE {own} AND ({any}))", quote(&table)))
        .collect();
    let query = format!("SELECT {}", found.join(" OR "));
    // Where there is no such row, everything else of a base would be read for it: by the key, the tenant's rows alone are. Pending rows have
    // none, and what is to cost so much would be compiled.
    let by_key = [(c"enable_seqscan", c"off"), (c"jit", c"off")];
    session::as_owner(|| session::with_settings(&by_key, || sql::one(&query, &[]))) == Some(true)
}
