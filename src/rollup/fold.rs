//! Folding: merges pending rows into the base rows, invisibly to readers.

use super::RollupError;
use super::definition::{self, Column, Definition, Kind};
use crate::backend::session;
use crate::settings;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use tally_core::grain::Grain;

/// Rows that one fold by ingest merges at most: some tens of milliseconds.
const RELIEF: i64 = 10_000;
/// Ingest folds once, on average, for each eighth of the limit that is appended: RELIEF rows are more than that, so
/// pending shrinks, and none of the folds is long.
const SHARE: f64 = 8.0;

/// Folds a little now and then, so that the pending tables stay within the limit where nothing else folds. `appended`
/// has the bytes appended to each rollup. Not where statements share a snapshot: there a fold can fail for reasons that
/// aren't the caller's.
pub fn relieve(appended: &[usize]) -> Result<(), RollupError> {
    if session::has_fixed_snapshot() {
        return Ok(());
    }
    for (definition, &bytes) in definition::all()?.iter().zip(appended) {
        // By chance, so that writers share no counter.
        let chance = SHARE * bytes as f64 / settings::pending_limit() as f64;
        let drawn = f64::from(u32::from_le_bytes(session::random_bytes())) / f64::from(u32::MAX);
        if drawn < chance {
            fold_definition(definition, RELIEF);
        }
    }
    Ok(())
}

/// Folds at most `max_rows` pending rows; 0 where another session is folding this rollup.
fn fold_definition(definition: &Definition, max_rows: i64) -> i64 {
    let statement = statement(definition);
    session::as_owner(|| {
        // Transaction-long, so that the next folder sees what this one did. Taken by a statement of its own: the
        // fold's snapshot must be newer than the lock.
        let locked = Spi::get_one_with_args::<bool>(
            "SELECT pg_try_advisory_xact_lock($1::oid::int4, 1)",
            &[definition.pending.into()],
        );
        if locked != Ok(Some(true)) {
            return 0;
        }
        Spi::get_one_with_args::<i64>(&statement, &[max_rows.into()])
            .expect("a fold raises its own errors")
            .unwrap_or(0)
    })
}

/// One statement, hence one snapshot: takes rows out of pending and merges them into each grain's base rows, which are
/// locked in order of their key.
fn statement(definition: &Definition) -> String {
    let pending = quote(&format!("{}_pending", definition.name));
    let mut text = format!(
        "WITH taken AS (DELETE FROM tally.{pending} WHERE ctid = ANY (ARRAY(SELECT ctid FROM tally.{pending} \
         LIMIT $1)) RETURNING *)"
    );
    for &grain in &definition.grains {
        text.push_str(&merge(definition, grain));
    }
    text.push_str(&format!(
        ", noted AS (INSERT INTO tally.rollup_fold AS fold (rollup_name, last_fold_at, rows_folded) \
         SELECT {}, clock_timestamp(), count(*) FROM taken HAVING count(*) > 0 \
         ON CONFLICT (rollup_name) DO UPDATE SET last_fold_at = excluded.last_fold_at, \
         rows_folded = fold.rows_folded + excluded.rows_folded) SELECT count(*) FROM taken",
        pgrx::spi::quote_literal(&definition.name)
    ));
    text
}

fn merge(definition: &Definition, grain: Grain) -> String {
    let base = quote(&format!("{}_{grain}_base", definition.name));
    let bucket = bucket(definition, grain);
    let dimensions: String =
        definition.dimensions().map(|column| format!(", {}", quote(&column.name))).collect();
    let names: String =
        definition.columns.iter().map(|column| format!(", {}", quote(&column.name))).collect();
    let merged: String = definition.measures().map(|column| format!(", {}", aggregate(column))).collect();
    let places = (1..=3 + definition.dimensions().count())
        .map(|place| place.to_string())
        .collect::<Vec<_>>()
        .join(", ");
    let updates = definition.measures().map(update).collect::<Vec<_>>().join(", ");
    format!(
        ", {grain}_merged AS (INSERT INTO tally.{base} AS base (tenant_id, account_id, bucket{names}) \
         SELECT tenant_id, account_id, {bucket}{dimensions}{merged} FROM taken GROUP BY {places} ORDER BY {places} \
         ON CONFLICT (tenant_id, account_id, bucket{dimensions}) DO UPDATE SET {updates})"
    )
}

/// SQL for the bucket that a pending row belongs to at a grain.
pub fn bucket(definition: &Definition, grain: Grain) -> String {
    if grain == definition.pending_grain() {
        "bucket".to_owned()
    } else {
        format!("date_trunc('{grain}', bucket, 'UTC')")
    }
}

/// SQL that merges a measure's states.
pub fn aggregate(column: &Column) -> String {
    let name = quote(&column.name);
    let at = quote(&column.time_name());
    match column.kind {
        Kind::Count => format!("sum({name})::int8"),
        Kind::Sum => format!("sum({name})"),
        Kind::Min => format!("min({name})"),
        Kind::Max => format!("max({name})"),
        Kind::Distinct | Kind::Percentiles => format!("tally.rollup({name})"),
        Kind::Days => format!("tally.union_days({name})"),
        Kind::SessionWindows => format!("tally.union_session_windows({name})"),
        Kind::First => {
            format!("(array_agg({name} ORDER BY {at}, {name}) FILTER (WHERE {name} IS NOT NULL))[1]")
        }
        Kind::Last => format!(
            "(array_agg({name} ORDER BY {at} DESC, {name} DESC) FILTER (WHERE {name} IS NOT NULL))[1]"
        ),
        Kind::Dimension => unreachable!("a dimension isn't merged"),
    }
}

/// What an added measure knows nothing of is null, and stays out of the sum.
fn update(column: &Column) -> String {
    let name = quote(&column.name);
    let at = quote(&column.time_name());
    let either = |both: &str| format!("{name} = coalesce({both}, base.{name}, excluded.{name})");
    let replaced = |order: &str| {
        format!(
            "{name} = CASE WHEN base.{name} IS NULL OR (excluded.{at}, excluded.{name}) {order} (base.{at}, base.{name}) \
             THEN excluded.{name} ELSE base.{name} END"
        )
    };
    match column.kind {
        Kind::Count | Kind::Sum => either(&format!("base.{name} + excluded.{name}")),
        Kind::Min => format!("{name} = least(base.{name}, excluded.{name})"),
        Kind::Max => format!("{name} = greatest(base.{name}, excluded.{name})"),
        Kind::Distinct | Kind::Percentiles => either(&format!("tally.merge(base.{name}, excluded.{name})")),
        Kind::Days => either(&format!("tally.merge_days(base.{name}, excluded.{name})")),
        Kind::SessionWindows => either(&format!("tally.merge_session_windows(base.{name}, excluded.{name})")),
        Kind::First => replaced("<"),
        Kind::Last => replaced(">"),
        Kind::Dimension => unreachable!("a dimension isn't merged"),
    }
}

/// A name as it stands in SQL.
pub fn quote(name: &str) -> String {
    pgrx::spi::quote_identifier(name)
}

#[pg_extern(sql = false)]
fn fold(rollup_name: &str, max_rows: i64) -> Result<i64, ErrorReport> {
    session::require_writable(c"tally.fold()");
    let definitions = definition::all()?;
    let definition = definition::find(&definitions, rollup_name)?;
    Ok(fold_definition(definition, max_rows))
}
