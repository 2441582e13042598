//! Verifying: compares what a rollup shows with a plain recomputation from the events, in the calling statement's
//! snapshot. The recomputation is SQL over the declared expressions and shares no code with ingest and fold.

use super::cell::COMPRESSION;
use super::definition::{self, Column, Definition, Kind};
use super::fold::quote;
use super::rebuild::{self, within};
use super::retention;
use crate::backend::scan::{self, Snapshot};
use crate::backend::session;
use crate::sketch::hash::Hashable;
use core::ops::Range;
use pgrx::datum::TimestampWithTimeZone;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::pg_sys::{self, Oid};
use pgrx::prelude::*;
use pgrx::spi::quote_literal;
use tally_core::grain::Grain;

/// How far, as a fraction of ranks, a stored percentile may be from that of a digest made in one go.
const RANK_TOLERANCE: &str = "0.03";

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
    let horizon = retention::horizon().map_or(i64::MIN, |(horizon, _)| horizon);
    let definitions = definition::all()?;
    let definition = definition::find(&definitions, rollup_name.unwrap_or_default())?;
    let differences = session::with_fixed_settings(|| {
        session::with_owner_rights(|| {
            let statements = definition
                .grains
                .iter()
                .map(|&grain| statement(definition, grain, &range, horizon, tenant_id));
            statements
                .flat_map(|statement| scan::texts(&statement, Snapshot::Calling))
                .map(read)
                .collect::<Vec<_>>()
        })
    });
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

fn statement(
    definition: &Definition,
    grain: Grain,
    range: &Range<i64>,
    horizon: i64,
    tenant: Option<&str>,
) -> String {
    let state = quote(&format!("{}_{grain}_state", definition.name));
    // Whole buckets: from the one that holds the start to the one that holds the moment before the end.
    let start = if range.start == i64::MIN { i64::MIN } else { grain.floor(range.start) };
    let end = if range.end == i64::MAX { i64::MAX } else { grain.ceiling(range.end) };
    let unfrozen = if horizon == i64::MIN { i64::MIN } else { grain.ceiling(horizon) };
    let whole = start.max(unfrozen)..end;
    let frozen = retention::Frozen::read(definition);
    let tenant =
        tenant.map_or_else(String::new, |tenant| format!(" AND tenant_id = {}", quote_literal(tenant)));
    let mut inputs = String::new();
    let mut names = "tenant_id, account_id, bucket".to_owned();
    let mut dimensions = String::new();
    let mut measures = String::new();
    let mut stored = String::new();
    let mut differences = Vec::new();
    for (place, column) in definition.columns.iter().enumerate() {
        let text = column.text.as_deref();
        names.push_str(&format!(", c{place}"));
        let name = quote(&column.name);
        if column.kind == Kind::Dimension {
            inputs.push_str(&format!(", {}\n", text.expect("a dimension has an expression")));
            dimensions.push_str(&format!(", c{place}"));
            stored.push_str(&format!(", {name} AS c{place}"));
            continue;
        }
        inputs
            .push_str(&text.map_or_else(|| ", 1".to_owned(), |text| format!(", {}", argument(column, text))));
        measures.push_str(&format!(", {} AS c{place}", recomputed(definition, column, place)));
        stored.push_str(&format!(", {name} AS c{place}"));
        differences.push(difference(column, place));
    }
    let dimension_names: String =
        definition.dimensions().map(|column| format!(", {}", quote_literal(&column.name))).collect();
    let key = |side: &str| {
        let values: String =
            definition.dimensions().enumerate().map(|(place, _)| format!(", {side}.c{place}")).collect();
        format!("jsonb_build_array({side}.tenant_id, {side}.account_id, {side}.bucket{values})")
    };
    let values: String = (0..definition.dimensions().count())
        .map(|place| format!(", coalesce(s.c{place}, r.c{place})::text"))
        .collect();
    let shown = if dimension_names.is_empty() {
        "'{}'::jsonb".to_owned()
    } else {
        format!("jsonb_object(ARRAY[{}], ARRAY[{}])", &dimension_names[2..], &values[2..])
    };
    let filter =
        definition.filter_text.as_deref().map_or_else(String::new, |text| format!(" AND ({text}\n)"));
    format!(
        "WITH input ({names}) AS (\
           SELECT events.tenant_id, events.account_id, date_trunc('{grain}', events.occurred_at, 'UTC'){inputs} \
             FROM tally.events WHERE {raw}{tenant}{filter}), \
         r AS (SELECT input.tenant_id, account_id, bucket{dimensions}{measures} \
                 FROM input JOIN tally.tenant AS key ON key.tenant_id = input.tenant_id \
                GROUP BY input.tenant_id, account_id, bucket{dimensions}), \
         s AS (SELECT tenant_id, account_id, bucket{stored} FROM tally.{state} WHERE {kept}{tenant}) \
         SELECT '{grain}', coalesce(s.tenant_id, r.tenant_id), coalesce(s.account_id, r.account_id), \
                (extract(epoch FROM coalesce(s.bucket, r.bucket)) * 1000000)::int8 - 946684800000000, {shown}, \
                difference.measure, \
                CASE WHEN s.tenant_id IS NULL THEN NULL ELSE coalesce(difference.stored, 'null') END, \
                CASE WHEN r.tenant_id IS NULL THEN NULL ELSE coalesce(difference.recomputed, 'null') END \
           FROM s FULL JOIN r ON {ours} = {theirs}, \
                LATERAL (VALUES {rows}) AS difference (measure, differs, stored, recomputed) \
          WHERE s.tenant_id IS NULL OR r.tenant_id IS NULL OR difference.differs ORDER BY 2, 3, 4, 5, 6",
        raw = within("events.occurred_at", &(whole.start.max(definition.filled_from)..whole.end))
            + " AND "
            + &frozen.not_frozen("events.occurred_at"),
        kept = within("bucket", &whole) + " AND " + &frozen.not_frozen("bucket"),
        ours = key("s"),
        theirs = key("r"),
        rows = differences.join(", "),
    )
}

/// What the recomputation aggregates.
fn argument(column: &Column, text: &str) -> String {
    let expression = column.expression.as_ref().expect("a column with text has an expression");
    match column.kind {
        Kind::Sum => format!("({text}\n)::numeric"),
        Kind::Percentiles => format!("({text}\n)::float8"),
        Kind::Distinct => match expression.type_oid {
            pg_sys::TIMESTAMPTZOID => {
                format!("(extract(epoch FROM ({text}\n)) * 1000000 - 946684800000000)::int8")
            }
            _ => match Hashable::of(expression.type_oid).expect("checked when declared") {
                Hashable::Int2 | Hashable::Int4 | Hashable::Int8 => format!("({text}\n)::int8"),
                Hashable::Uuid => format!("uuid_send(({text}\n))"),
                Hashable::Numeric => format!("trim_scale(({text}\n))::text"),
                Hashable::Bytes => format!("({text}\n)"),
            },
        },
        _ if expression.collation != Oid::INVALID => format!("({text}\n) COLLATE \"C\""),
        _ => format!("({text}\n)"),
    }
}

fn recomputed(definition: &Definition, column: &Column, place: usize) -> String {
    let time_of = |column: &Column| {
        let name = column.time_name();
        definition.columns.iter().position(|other| other.name == name).expect("declared together")
    };
    match column.kind {
        Kind::Count => format!("count(c{place})"),
        Kind::Sum => format!("sum(c{place})"),
        Kind::Min => format!("min(c{place})"),
        Kind::Max => format!("max(c{place})"),
        Kind::Distinct => format!("tally.hll(c{place}, key.sketch_key, key.sketch_epoch)"),
        Kind::Percentiles => format!("tally.tdigest(c{place}, {COMPRESSION})"),
        Kind::Days => format!(
            "array_agg(DISTINCT (c{place} AT TIME ZONE 'UTC')::date ORDER BY (c{place} AT TIME ZONE 'UTC')::date) \
             FILTER (WHERE c{place} IS NOT NULL)"
        ),
        Kind::SessionWindows => format!("tally.session_windows(c{place})"),
        Kind::First => {
            format!(
                "(array_agg(c{place} ORDER BY c{}, c{place}) FILTER (WHERE c{place} IS NOT NULL))[1]",
                time_of(column)
            )
        }
        Kind::Last => format!(
            "(array_agg(c{place} ORDER BY c{} DESC, c{place} DESC) FILTER (WHERE c{place} IS NOT NULL))[1]",
            time_of(column)
        ),
        Kind::Dimension => unreachable!("a dimension isn't recomputed"),
    }
}

/// A row for the list of measures: name, whether the sides differ, both sides as text.
fn difference(column: &Column, place: usize) -> String {
    let (name, mut ours, theirs) =
        (quote_literal(&column.name), format!("s.c{place}"), format!("r.c{place}"));
    if column.kind == Kind::Days {
        ours = format!("tally.day_list({ours})");
    }
    match column.kind {
        Kind::Distinct => format!(
            "({name}, CASE WHEN {theirs} IS NULL THEN tally.distinct_count({ours}) <> 0 \
             ELSE {ours}::bytea IS DISTINCT FROM {theirs}::bytea END, tally.distinct_count({ours})::text, \
             tally.distinct_count({theirs})::text)"
        ),
        Kind::Percentiles => {
            let shown = |side: &str| {
                format!(
                    "concat_ws(' ', tally.num_vals({side}), tally.min_val({side}), \
                     tally.approx_percentile(0.5, {side}), tally.max_val({side}))"
                )
            };
            format!(
                "({name}, CASE WHEN {theirs} IS NULL THEN tally.num_vals({ours}) <> 0 \
                 ELSE tally.num_vals({ours}) IS DISTINCT FROM tally.num_vals({theirs}) \
                 OR tally.min_val({ours}) IS DISTINCT FROM tally.min_val({theirs}) \
                 OR tally.max_val({ours}) IS DISTINCT FROM tally.max_val({theirs}) \
                 OR abs(tally.approx_percentile_rank(tally.approx_percentile(0.5, {ours}), {theirs}) \
                      - tally.approx_percentile_rank(tally.approx_percentile(0.5, {theirs}), {theirs})) > {RANK_TOLERANCE} END, \
                 {}, {})",
                shown(&ours),
                shown(&theirs)
            )
        }
        _ => format!("({name}, {ours} IS DISTINCT FROM {theirs}, {ours}::text, {theirs}::text)"),
    }
}
