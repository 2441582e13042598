//! Comparing with the events: a plain recomputation, joined in full with what is stored.

use super::super::cell::COMPRESSION;
use super::super::definition::{Column, Definition, Kind};
use super::super::fold::extreme;
use super::difference::{self, Sides, Theirs};
use super::part::Part;
use super::{evaluated, stored};
use crate::backend::sql::{self, within};
use crate::sketch::hash::Hashable;
use core::ops::Range;
use pgrx::pg_sys::{self, Oid};

/// The differences between the events and the rows, base and pending, of thawed buckets in the range: the statement, which
/// reads the events itself where all expressions are built in, and else the condition of the events whose evaluated
/// expressions it reads as `evaluated`.
pub fn statement(part: &Part, whole: &Range<i64>) -> (String, Option<String>) {
    let Part { definition, grain, frozen, .. } = part;
    let tenant = part.of_tenant();
    let mut inputs = String::new();
    let mut names = "tenant_id, account_id, bucket".to_owned();
    let (mut dimensions, mut shown) = (String::new(), String::new());
    let mut measures = String::new();
    for (place, column) in definition.columns.iter().enumerate() {
        // What was evaluated already has the type that it is cast to, if to any.
        let evaluated = evaluated::name(place);
        let text = column.text.as_deref();
        let text = if definition.is_built_in() { text } else { text.map(|_| evaluated.as_str()) };
        names.push_str(&format!(", c{place}"));
        if column.kind == Kind::Dimension {
            inputs.push_str(&format!(", {}\n", text.expect("a dimension has an expression")));
            let value = grouped(column, place);
            dimensions.push_str(&format!(", {value}"));
            shown.push_str(&format!(", {value} AS c{place}"));
            continue;
        }
        inputs
            .push_str(&text.map_or_else(|| ", 1".to_owned(), |text| format!(", {}", argument(column, text))));
        measures.push_str(&format!(", {} AS c{place}", recomputed(definition, column, place)));
    }
    let filter =
        definition.filter_text.as_deref().map_or_else(String::new, |text| format!(" AND ({text}\n)"));
    let raw = within("events.occurred_at", &(whole.start.max(definition.filled_from)..whole.end))
        + " AND "
        + &frozen.not_frozen("events.occurred_at");
    let raw = raw + &tenant;
    let source = if definition.is_built_in() {
        format!("tally.events WHERE {raw}{filter}")
    } else {
        format!("{} AS events", evaluated::ROWS.to_string_lossy())
    };
    let kept = within("bucket", whole) + " AND " + &frozen.not_frozen("bucket") + &tenant;
    let theirs = format!(
        "SELECT input.tenant_id, account_id, bucket{shown}{measures} \
           FROM (SELECT events.tenant_id, events.account_id, date_trunc('{grain}', events.occurred_at, 'UTC'){inputs} \
                   FROM {source}) AS input ({names}) \
           JOIN tally.tenant AS key ON key.tenant_id = input.tenant_id \
          GROUP BY input.tenant_id, account_id, bucket{dimensions}"
    );
    let ours = stored::groups(definition, &stored::every_row(definition, *grain), &kept);
    let statement =
        difference::statement(definition, *grain, &Sides { ours, theirs, kind: Theirs::Recomputed });
    (statement, (!definition.is_built_in()).then_some(raw))
}

/// A dimension's value as ingest groups by it: text by its bytes, also where its collation calls others equal.
fn grouped(column: &Column, place: usize) -> String {
    match &column.expression {
        Some(expression) if expression.collation != Oid::INVALID => format!("(c{place} COLLATE \"C\")"),
        _ => format!("c{place}"),
    }
}

/// What the recomputation aggregates.
fn argument(column: &Column, text: &str) -> String {
    let expression = column.expression.as_ref().expect("a column with text has an expression");
    match column.kind {
        Kind::Sum => format!("({text}\n)::numeric"),
        Kind::Percentiles => format!("({text}\n)::float8"),
        Kind::Distinct => match expression.type_oid {
            // As they are stored, the infinite ones are the least and the greatest number.
            pg_sys::TIMESTAMPTZOID => format!(
                "CASE ({text}\n) WHEN '-infinity' THEN {} WHEN 'infinity' THEN {} ELSE {} END",
                "'-9223372036854775808'::int8",
                "'9223372036854775807'::int8",
                sql::micros(&format!("({text}\n)"))
            ),
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
        Kind::Min => extreme(column, &format!("c{place}"), "min", ""),
        Kind::Max => extreme(column, &format!("c{place}"), "max", " DESC"),
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
