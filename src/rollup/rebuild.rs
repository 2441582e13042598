//! Rebuilding: makes the buckets of a range of time anew from the events, as one change that readers see whole.

use super::RollupError;
use super::append;
use super::definition;
use super::fold::await_folding;
use super::frozen::Frozen;
use crate::backend::lock::Attempts;
use crate::backend::partition::Routing;
use crate::backend::scan::{self, Snapshot};
use crate::backend::session;
use crate::backend::sql::{self, Moment, quote, within};
use crate::backend::subtransaction::{self, Verdict};
use crate::raw::{RawError, gate, horizon, lost_months};
use core::ops::Range;
use pgrx::datum::TimestampWithTimeZone;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use tally_core::grain::Grain;

/// Microseconds from 2000 beyond which no event can be: about the year 5168, and as far before 2000.
const FAR: i64 = 100_000_000_000_000_000;

/// A range of time in microseconds since 2000; a side that is open, or beyond any event, is the least or greatest number.
pub fn range(
    from: Option<TimestampWithTimeZone>,
    to: Option<TimestampWithTimeZone>,
) -> Result<Range<i64>, RawError> {
    let start = from.map_or(i64::MIN, i64::from);
    let end = to.map_or(i64::MAX, i64::from);
    if start >= end || start > FAR || end < -FAR {
        return Err(RawError::Range);
    }
    Ok(if start < -FAR { i64::MIN } else { start }..if end > FAR { i64::MAX } else { end })
}

/// Refuses where events that meet a condition, SQL over a tenant and a bucket, are of a month that is no partition any more: somebody
/// took it out by hand, and made anew from the events that are there buckets would lose what they have of it. Which months had
/// events the built-in rollup `usage` knows, which counts every one by day.
pub fn require_months(condition: &str) -> Result<(), RollupError> {
    match months_without_events(condition).into_iter().next() {
        None => Ok(()),
        Some((_, month)) => Err(RollupError::NoMonth(month)),
    }
}

/// Such months: their beginning in microseconds since 2000, and as text.
pub fn months_without_events(condition: &str) -> Vec<(i64, String)> {
    if session::find_relation(c"usage_day_base").is_none()
        || session::find_relation(c"usage_pending").is_none()
    {
        return Vec::new();
    }
    let days = ["usage_day_base", "usage_pending"].map(|table| {
        format!("SELECT date_trunc('day', bucket, 'UTC') AS day FROM tally.{table} AS kept WHERE {condition}")
    });
    let query = format!(
        "SELECT {}, {}, to_char(d.day, 'YYYY-MM') FROM ({}) AS d ORDER BY 2, 1",
        sql::micros("d.day"),
        sql::micros("date_trunc('month', d.day, 'UTC')"),
        days.join(" UNION ")
    );
    let days = session::as_owner(|| scan::texts(&query, Snapshot::Fresh));
    let lost = lost_months::all();
    let routing = Routing::open(session::relation(c"events"));
    let mut missing: Vec<(i64, String)> = Vec::new();
    for row in &days {
        let [Some(day), Some(start), Some(month)] = &row[..] else { unreachable!("bucket is NOT NULL") };
        let number = |text: &str| text.parse::<i64>().expect("a bigint");
        let (day, start) = (number(day), number(start));
        // One that a late event made anew has that event alone. A partition that somebody made may begin within a day.
        let is_lost = lost.iter().any(|lost| lost.start == start);
        let is_there = routing.covers(day) || routing.covers(Grain::Day.ceiling(day + 1) - 1);
        if (is_lost || !is_there) && missing.last().is_none_or(|(last, _)| *last != start) {
            missing.push((start, month.clone()));
        }
    }
    routing.close();
    let apart = months_in_detached_leaves(condition);
    if !apart.is_empty() {
        missing.extend(apart);
        missing.sort_unstable();
        missing.dedup();
    }
    missing
}

/// Those of which somebody detached the part of one tenant alone, and that has such events still: the month is there without them.
fn months_in_detached_leaves(condition: &str) -> Vec<(i64, String)> {
    // A database that isn't updated yet has no such function.
    if session::find_relation(c"erasure_unrenewed").is_none() {
        return Vec::new();
    }
    let leaves = "SELECT c.relname::text FROM pg_class AS c \
                   WHERE c.relname ~ '^events_p[0-9]{4}_[0-9]{2}_' AND c.relnamespace = 'tally'::regnamespace AND NOT c.relispartition \
                     AND EXISTS (SELECT FROM tally_internal.detached_months() AS d (month) WHERE d.month = c.relname)";
    // As of now, and without writing: monitoring asks, too, also on a standby.
    let read = |query: &str| session::as_owner(|| scan::texts(query, Snapshot::Fresh));
    let month = "date_trunc('month', kept.bucket, 'UTC')";
    let of = |leaf: String| {
        let query = format!(
            "SELECT DISTINCT {}, to_char({month} AT TIME ZONE 'UTC', 'YYYY-MM') \
               FROM (SELECT e.tenant_id, e.account_id, date_trunc('day', e.occurred_at, 'UTC') AS bucket FROM tally.{} AS e) AS kept WHERE {condition}",
            sql::micros(month),
            quote(&leaf)
        );
        read(&query).into_iter().filter_map(|row| match <[Option<String>; 2]>::try_from(row) {
            Ok([Some(start), Some(name)]) => Some((start.parse().ok()?, name)),
            _ => None,
        })
    };
    read(leaves).into_iter().flatten().flatten().flat_map(of).collect()
}

/// Whether a tenant's events of a month are where its numbers came from.
pub fn has_its_events(tenant: &str, month: i64) -> bool {
    let time = within("bucket", &(month..Grain::Month.ceiling(month + 1)));
    let own = format!("tenant_id = {}", sql::literal(tenant));
    months_without_events(&format!("{own} AND {time}")).is_empty()
}

/// Months of which there are numbers and no events, although nothing of ours took those out.
#[pg_extern(sql = false)]
fn missing_months() -> SetOfIterator<'static, String> {
    let unaccounted = "bucket >= coalesce((SELECT whole_from FROM tally.raw_loss WHERE tenant_id = ''), '-infinity') \
           AND NOT EXISTS (SELECT FROM tally.tenant_horizon AS h WHERE h.tenant_id = kept.tenant_id AND bucket < h.raw_from)";
    // Where the tables can't be read, as with a policy's function that somebody altered, the lint has other rules that say so.
    match subtransaction::run(|| Verdict::Undo(months_without_events(unaccounted))) {
        Ok(months) => SetOfIterator::new(months.into_iter().map(|(_, month)| month).collect::<Vec<_>>()),
        Err(caught) if caught.may_be_of_an_expression() => SetOfIterator::new(Vec::new()),
        Err(caught) => caught.rethrow(),
    }
}

#[pg_extern(sql = false)]
fn rebuild_rollup(
    rollup_name: Option<&str>,
    from: Option<TimestampWithTimeZone>,
    to: Option<TimestampWithTimeZone>,
    tenant_id: Option<&str>,
) -> Result<i64, ErrorReport> {
    session::require_writable(c"tally.rebuild_rollup()");
    let rollup_name = rollup_name.unwrap_or_default();
    if session::has_fixed_snapshot() {
        return Err(RawError::FixedSnapshot.into());
    }
    let asked = range(from, to)?;
    gate::close(&[], Attempts::Several)?;
    let definitions = definition::all()?;
    let definition = definition::find(&definitions, rollup_name)?;
    let horizon = horizon::of_all();
    let start = match (asked.start, &horizon) {
        (i64::MIN, None) => i64::MIN,
        (i64::MIN, Some((horizon, _))) => definition.ceiling(*horizon),
        (start, _) => definition.floor(start),
    };
    if let Some((horizon, text)) = horizon
        && start < horizon
    {
        return Err(RollupError::Frozen(text).into());
    }
    let range = start..if asked.end == i64::MAX { i64::MAX } else { definition.ceiling(asked.end) };
    let frozen = Frozen::read(definition);
    if let Some(moment) = tenant_id.and_then(|tenant| frozen.of(tenant))
        && asked.start != i64::MIN
        && start < moment
    {
        let text = session::as_owner(|| sql::one::<String>("SELECT $1::text", &[Moment(moment).into()]));
        return Err(RollupError::Frozen(text.unwrap_or_default()).into());
    }
    let tenant =
        tenant_id.map_or_else(String::new, |tenant| format!(" AND tenant_id = {}", sql::literal(tenant)));
    require_months(&format!("{} AND {}{tenant}", within("bucket", &range), frozen.not_frozen("bucket")))?;
    // The deletions' snapshots are newer than the lock.
    await_folding(definition)?;
    session::as_owner(|| {
        for table in definition.tables() {
            let condition = within("bucket", &range);
            let thawed = frozen.not_frozen("bucket");
            let table = quote(&table);
            sql::run(&format!("DELETE FROM tally.{table} WHERE {condition} AND {thawed}{tenant}"), &[]);
        }
    });
    Ok(append::fill(
        rollup_name,
        &format!("{} AND {}{tenant}", within("occurred_at", &range), frozen.not_frozen("occurred_at")),
        tenant_id,
    )?)
}
