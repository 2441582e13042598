//! Declaring rollups: checks a declaration, makes its tables and views, fills them, and drops them again.

use super::RollupError;
use super::definition::{self, Column, Definition, Kind};
use super::fold::{aggregate, bucket, quote};
use crate::backend::expression::{self, type_name};
use crate::backend::session;
use crate::backend::value::Extreme;
use crate::sketch::hash::Hashable;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::pg_sys::{self, Oid};
use pgrx::prelude::*;
use std::collections::BTreeSet;
use tally_core::grain::Grain;

/// Types that a dimension may have: short, and equal exactly where their bytes are.
const DIMENSION_TYPES: [Oid; 9] = [
    pg_sys::TEXTOID,
    pg_sys::VARCHAROID,
    pg_sys::BOOLOID,
    pg_sys::INT2OID,
    pg_sys::INT4OID,
    pg_sys::INT8OID,
    pg_sys::UUIDOID,
    pg_sys::DATEOID,
    pg_sys::TIMESTAMPTZOID,
];
/// Percentiles that a finished view shows of each t-digest.
const SHOWN_PERCENTILES: [(&str, &str); 3] = [("p50", "0.5"), ("p95", "0.95"), ("p99", "0.99")];
/// Longest rollup name: the longest name made from it, `<name>_quarter_state`, still is an identifier.
const MAX_NAME: usize = 40;

#[pg_extern(sql = false)]
fn create_rollup(
    rollup_name: Option<&str>,
    grains: Option<Vec<Option<String>>>,
    measures: Option<Vec<Option<String>>>,
    dimensions: Option<Vec<Option<String>>>,
    filter: Option<&str>,
) -> Result<(), ErrorReport> {
    session::require_writable(c"tally.create_rollup()");
    let name = rollup_name.unwrap_or_default();
    check_name(name)?;
    let grains = parse_grains(grains.unwrap_or_default().into_iter().flatten())?;
    let measures: Vec<String> = measures.unwrap_or_default().into_iter().flatten().collect();
    if measures.is_empty() {
        return Err(RollupError::Empty("a rollup needs a measure").into());
    }
    let mut columns = Vec::new();
    for text in dimensions.unwrap_or_default().into_iter().flatten() {
        columns.push(dimension(text)?);
    }
    for text in &measures {
        columns.push(measure(text)?);
    }
    if let Some(filter) = filter {
        definition::analyse_filter(filter)?;
    }
    check_names(&columns)?;

    if session::has_fixed_snapshot() {
        return Err(RollupError::OldSnapshot.into());
    }
    definition::lock_out_ingest();
    let definition = Definition {
        name: name.to_owned(),
        grains,
        filter: None,
        filter_text: None,
        columns,
        pending: Oid::INVALID,
    };
    let statements = ddl(&definition);
    session::as_owner(|| -> Result<(), RollupError> {
        for relation in relations(&definition) {
            let taken = Spi::get_one_with_args::<bool>(
                "SELECT to_regclass('tally.' || quote_ident($1)) IS NOT NULL",
                &[relation.as_str().into()],
            );
            if taken == Ok(Some(true)) {
                return Err(RollupError::Exists(relation));
            }
        }
        for statement in &statements {
            Spi::run(statement).expect("DDL raises its own errors");
        }
        let grains: Vec<&str> = definition.grains.iter().map(|grain| grain.name()).collect();
        Spi::run_with_args(
            "INSERT INTO tally.rollup (rollup_name, grains, filter) VALUES ($1, $2, $3)",
            &[name.into(), grains.into(), filter.into()],
        )
        .expect("an INSERT raises its own errors");
        for (position, column) in definition.columns.iter().enumerate() {
            Spi::run_with_args(
                "INSERT INTO tally.rollup_column (rollup_name, position, column_name, kind, expression) \
                 VALUES ($1, $2, $3, $4, $5)",
                &[
                    name.into(),
                    (position as i32).into(),
                    column.name.as_str().into(),
                    column.kind.name().into(),
                    column.text.as_deref().into(),
                ],
            )
            .expect("an INSERT raises its own errors");
        }
        Ok(())
    })?;
    definition::invalidate();
    // Until the next command this backend still knows the rollups that it knew before.
    session::advance_command();
    super::append::fill(name, "true")?;
    Ok(())
}

#[pg_extern(sql = false)]
fn drop_rollup(rollup_name: &str) -> Result<(), ErrorReport> {
    session::require_writable(c"tally.drop_rollup()");
    definition::lock_out_ingest();
    let definitions = definition::all()?;
    let definition = definition::find(&definitions, rollup_name)?;
    session::as_owner(|| {
        for grain in &definition.grains {
            let (view, base) = (format!("{rollup_name}_{grain}"), format!("{rollup_name}_{grain}_base"));
            Spi::run(&format!("DROP VIEW tally.{}, tally.{}", quote(&view), quote(&format!("{view}_state"))))
                .expect("DDL raises its own errors");
            Spi::run(&format!("DROP TABLE tally.{}", quote(&base))).expect("DDL raises its own errors");
        }
        Spi::run(&format!("DROP TABLE tally.{}", quote(&format!("{rollup_name}_pending"))))
            .expect("DDL raises its own errors");
        Spi::run_with_args("DELETE FROM tally.rollup WHERE rollup_name = $1", &[rollup_name.into()])
            .expect("a DELETE raises its own errors");
    });
    definition::invalidate();
    Ok(())
}

fn check_name(name: &str) -> Result<(), RollupError> {
    let plain = name.len() <= MAX_NAME
        && name.starts_with(|first: char| first.is_ascii_lowercase())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    if plain { Ok(()) } else { Err(RollupError::Name(name.to_owned())) }
}

fn parse_grains(names: impl Iterator<Item = String>) -> Result<Vec<Grain>, RollupError> {
    let grains: BTreeSet<Grain> =
        names.map(|name| name.parse().map_err(|()| RollupError::Grain(name))).collect::<Result<_, _>>()?;
    if grains.is_empty() {
        Err(RollupError::Empty("a rollup needs a grain"))
    } else {
        Ok(grains.into_iter().collect())
    }
}

/// `expression` or `expression AS name`.
fn dimension(text: String) -> Result<Column, RollupError> {
    let (expression, name) = session::with_fixed_path(|| expression::analyse(&text, None))?;
    if !DIMENSION_TYPES.contains(&expression.type_oid) {
        return Err(RollupError::Type {
            column: name,
            found: type_name(expression.type_oid),
            hint: "a dimension is text, boolean, an integer, a uuid, a date or a timestamptz; cast to one of these",
        });
    }
    Ok(Column { name, kind: Kind::Dimension, expression: Some(expression), text: Some(text) })
}

/// `kind(expression) AS name`, or `count(*) AS name`.
fn measure(text: &str) -> Result<Column, RollupError> {
    let malformed = || RollupError::Measure(text.to_owned());
    let (call, name) = split_alias(text).ok_or_else(malformed)?;
    check_name(name)?;
    let (kind, argument) = call.split_once('(').ok_or_else(malformed)?;
    let argument = argument.trim_end().strip_suffix(')').ok_or_else(malformed)?.trim();
    let kind: Kind = kind.trim().to_ascii_lowercase().parse().map_err(|()| malformed())?;
    if kind == Kind::Dimension || argument.is_empty() {
        return Err(malformed());
    }
    let name = name.to_owned();
    if kind == Kind::Count && argument == "*" {
        return Ok(Column { name, kind, expression: None, text: None });
    }
    let expression = definition::analyse(argument, kind.argument_type())?;
    let problem = match kind {
        Kind::Distinct if Hashable::of(expression.type_oid).is_none() => {
            Some("distinct counts text, uuid, integers, bytea, timestamptz and numeric; cast to text")
        }
        Kind::Min | Kind::Max if !Extreme::is_ordered(&expression) => {
            Some("min and max need a type with an order")
        }
        _ => None,
    };
    match problem {
        Some(hint) => Err(RollupError::Type { column: name, found: type_name(expression.type_oid), hint }),
        None => Ok(Column { name, kind, expression: Some(expression), text: Some(argument.to_owned()) }),
    }
}

/// Splits `call AS name` at the last `AS` that stands alone.
fn split_alias(text: &str) -> Option<(&str, &str)> {
    let lower = text.to_ascii_lowercase();
    let place = lower.rmatch_indices("as").map(|(place, _)| place).find(|&place| {
        lower[..place].ends_with(|c: char| c.is_whitespace() || c == ')')
            && lower[place + 2..].starts_with(char::is_whitespace)
    })?;
    Some((text[..place].trim(), text[place + 2..].trim()))
}

fn check_names(columns: &[Column]) -> Result<(), RollupError> {
    let mut taken: BTreeSet<String> =
        ["tenant_id", "account_id", "bucket"].into_iter().map(str::to_owned).collect();
    for column in columns {
        let shown = finished(column).into_iter().map(|(name, _, _)| name);
        for name in shown.chain([column.name.clone()]).collect::<BTreeSet<_>>() {
            if !taken.insert(name.clone()) {
                return Err(RollupError::DuplicateColumn(name));
            }
        }
    }
    Ok(())
}

fn relations(definition: &Definition) -> Vec<String> {
    let name = &definition.name;
    let mut relations = vec![format!("{name}_pending")];
    for grain in &definition.grains {
        relations.extend([
            format!("{name}_{grain}_base"),
            format!("{name}_{grain}"),
            format!("{name}_{grain}_state"),
        ]);
    }
    relations
}

/// Columns that the finished view shows of a column: name, SQL over the state view, comment.
fn finished(column: &Column) -> Vec<(String, String, String)> {
    let (name, quoted) = (&column.name, quote(&column.name));
    match column.kind {
        Kind::Dimension => vec![(name.clone(), quoted, "dimension".into())],
        Kind::Distinct => vec![
            (
                name.clone(),
                format!("tally.distinct_count({quoted})"),
                "estimated number of distinct values".into(),
            ),
            (
                format!("{name}_stderr"),
                format!("tally.distinct_count({quoted}) * tally.stderror({quoted})"),
                format!("standard error of {name}, in values"),
            ),
        ],
        Kind::Percentiles => SHOWN_PERCENTILES
            .iter()
            .map(|(suffix, fraction)| {
                (
                    format!("{name}_{suffix}"),
                    format!("tally.approx_percentile({fraction}, {quoted})"),
                    format!("estimated value at fraction {fraction}"),
                )
            })
            .collect(),
        kind => vec![(name.clone(), quoted, kind.name().into())],
    }
}

fn column_type(column: &Column) -> String {
    match (column.kind, &column.expression) {
        (Kind::Distinct, _) => "tally.hll".into(),
        (Kind::Percentiles, _) => "tally.tdigest".into(),
        (Kind::Count, _) | (_, None) => "bigint".into(),
        (_, Some(expression)) if expression.collation != Oid::INVALID => {
            format!("{} COLLATE \"C\"", type_name(expression.type_oid))
        }
        (_, Some(expression)) => type_name(expression.type_oid),
    }
}

fn ddl(definition: &Definition) -> Vec<String> {
    let name = &definition.name;
    let columns: String = definition
        .columns
        .iter()
        .map(|column| {
            let sketch = matches!(column.kind, Kind::Distinct | Kind::Percentiles | Kind::Count);
            format!(
                ", {} {}{}",
                quote(&column.name),
                column_type(column),
                if sketch { " NOT NULL" } else { "" }
            )
        })
        .collect();
    let keys = "tenant_id text COLLATE \"C\" NOT NULL, account_id text COLLATE \"C\" NOT NULL, \
                bucket timestamptz NOT NULL";
    let pending = quote(&format!("{name}_pending"));
    // A dense sketch and a digest together exceed the usual 2 kB: kept in line, a reader needs no second look-up.
    let mut statements = vec![
        format!(
            "CREATE TABLE tally.{pending} ({keys}{columns}) WITH (toast_tuple_target = 8160, \
             autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000, \
             autovacuum_vacuum_insert_scale_factor = 0, autovacuum_vacuum_insert_threshold = 100000)"
        ),
        format!("SELECT tally.secure_table('tally.{pending}')"),
        format!("GRANT SELECT ON tally.{pending} TO tally_reader"),
        format!(
            "COMMENT ON TABLE tally.{pending} IS 'rollup {name}: rows written by ingest, not yet folded'"
        ),
    ];
    let dimensions: String =
        definition.dimensions().map(|column| format!(", {}", quote(&column.name))).collect();
    let names: String =
        definition.columns.iter().map(|column| format!(", {}", quote(&column.name))).collect();
    let merged: String = definition
        .measures()
        .map(|column| format!(", {} AS {}", aggregate(column.kind, &column.name), quote(&column.name)))
        .collect();
    let places = (1..=3 + definition.dimensions().count())
        .map(|place| place.to_string())
        .collect::<Vec<_>>()
        .join(", ");
    let shown: Vec<_> = definition.columns.iter().flat_map(finished).collect();
    let finished: String = shown.iter().map(|(name, sql, _)| format!(", {sql} AS {}", quote(name))).collect();
    for &grain in &definition.grains {
        let base = quote(&format!("{name}_{grain}_base"));
        let (view, state) = (quote(&format!("{name}_{grain}")), quote(&format!("{name}_{grain}_state")));
        let key = quote(&format!("{name}_{grain}_key"));
        statements.extend([
            format!(
                "CREATE TABLE tally.{base} ({keys}{columns}, CONSTRAINT {key} UNIQUE NULLS NOT DISTINCT \
                 (tenant_id, account_id, bucket{dimensions})) WITH (fillfactor = 70, toast_tuple_target = 8160)"
            ),
            format!("SELECT tally.secure_table('tally.{base}')"),
            format!("GRANT SELECT ON tally.{base} TO tally_reader"),
            format!("COMMENT ON TABLE tally.{base} IS 'rollup {name} by {grain}: folded rows'"),
            format!(
                "CREATE VIEW tally.{state} WITH (security_invoker = true) AS \
                 SELECT tenant_id, account_id, bucket{dimensions}{merged} FROM (\
                 SELECT tenant_id, account_id, bucket{names} FROM tally.{base} UNION ALL \
                 SELECT tenant_id, account_id, {} AS bucket{names} FROM tally.{pending}) AS rows GROUP BY {places}",
                bucket(definition, grain)
            ),
            format!(
                "CREATE VIEW tally.{view} WITH (security_invoker = true) AS \
                 SELECT tenant_id, account_id, bucket{finished} FROM tally.{state}"
            ),
            format!("GRANT SELECT ON tally.{view}, tally.{state} TO tally_reader"),
            format!("COMMENT ON VIEW tally.{view} IS 'rollup {name} by {grain} (UTC): finished numbers'"),
            format!("COMMENT ON VIEW tally.{state} IS 'rollup {name} by {grain} (UTC): sketches, for further roll-ups'"),
        ]);
        for (column, comment) in [
            ("tenant_id", "the tenant"),
            ("account_id", "the account"),
            ("bucket", "start of the bucket (UTC)"),
        ] {
            for view in [&view, &state] {
                statements.push(format!("COMMENT ON COLUMN tally.{view}.{column} IS '{comment}'"));
            }
        }
        for (column, _, comment) in &shown {
            statements.push(format!("COMMENT ON COLUMN tally.{view}.{} IS '{comment}'", quote(column)));
        }
        for column in &definition.columns {
            statements.push(format!(
                "COMMENT ON COLUMN tally.{state}.{} IS '{}'",
                quote(&column.name),
                column.kind.name()
            ));
        }
    }
    statements
}
