//! Declaring rollups: checks a declaration, makes its tables and views, fills them, and drops them again.

use super::RollupError;
use super::definition::{self, Column, Definition, Kind};
use super::dependents::{Dependents, Going};
use super::failure::WHICH_ROLLUP;
use super::layout::{self, finished};
use super::{backfill, frozen, strange_code};
use crate::backend::expression::{self, Analysis, ExpressionError, type_name};
use crate::backend::expression_code::Code;
use crate::backend::lock::{self, Attempts};
use crate::backend::report::{Report, given};
use crate::backend::session;
use crate::backend::sql::{self, quote};
use crate::backend::value::Extreme;
use crate::raw::gate;
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
/// What Postgres calls a column of a SELECT that has no name.
const NO_NAME: &str = "?column?";
/// Names that every table has already.
const SYSTEM_COLUMNS: [&str; 6] = ["tableoid", "ctid", "xmin", "cmin", "xmax", "cmax"];
/// Longest rollup name: the longest name made from it, `<name>_quarter_state`, still is an identifier.
const MAX_NAME: usize = 40;

#[pg_extern(sql = false)]
fn create_rollup(
    rollup_name: Option<&str>,
    grains: Option<Vec<Option<String>>>,
    measures: Option<Vec<Option<String>>>,
    dimensions: Option<Vec<Option<String>>>,
    filter: Option<&str>,
    backfill: Option<bool>,
) -> Result<(), ErrorReport> {
    session::require_writable(c"tally.create_rollup()");
    let name = rollup_name.unwrap_or_default();
    check_name(name)?;
    let grains = parse_grains(grains.unwrap_or_default().into_iter().flatten())?;
    let measures = measure_texts(measures)?;
    if measures.is_empty() {
        return Err(RollupError::Empty("a rollup needs a measure").into());
    }
    let mut code = Code::default();
    let mut columns = dimension_columns(dimensions, &mut code)?;
    columns.extend(measure_columns(&measures, &mut code)?);
    if let Some(filter) = filter {
        if filter.trim().is_empty() {
            return Err(Report::new("22023", "the filter is empty")
                .hint("leave it out to count every event")
                .into());
        }
        let found = lasting(filter, definition::analyse_filter(filter)?)?;
        if let Some(read_from) = found.read_from {
            return Err(RollupError::Filter { filter: filter.to_owned(), found: type_name(read_from) }.into());
        }
        code.add(found.code);
        // The parentheses of that must not be what makes it whole.
        definition::analyse(filter, Some(pg_sys::BOOLOID))?;
    }
    strange_code::refuse(&code)?;
    check_names(&columns)?;
    check_view_names(&grains, &columns)?;

    // While the extension is being created there are no events that a snapshot could be older than.
    if session::has_fixed_snapshot() && !session::is_creating_extension() {
        return Err(RollupError::OldSnapshot.into());
    }
    gate::close(&[], Attempts::Several)?;
    let definition = Definition {
        name: name.to_owned(),
        grains,
        filter: None,
        filter_text: None,
        columns,
        pending: Oid::INVALID,
        filled_from: i64::MIN,
    };
    let at_once = backfill.unwrap_or(true);
    lock::as_owner_defining(|| -> Result<(), RollupError> {
        for relation in layout::relations(&definition) {
            let taken = "SELECT to_regclass('tally.' || quote_ident($1)) IS NOT NULL";
            if sql::one(taken, &[relation.as_str().into()]) == Some(true) {
                return Err(RollupError::Exists(relation));
            }
        }
        run(&layout::create_tables(&definition));
        run(&layout::create_views(&definition));
        let grains: Vec<&str> = definition.grains.iter().map(|grain| grain.name()).collect();
        sql::run(
            "INSERT INTO tally.rollup (rollup_name, grains, filter) VALUES ($1, $2, $3)",
            &[name.into(), grains.into(), filter.into()],
        );
        register(&definition);
        frozen::note_what_is_gone(name);
        frozen::say_what_is_gone(name, &definition.grains);
        if !at_once {
            backfill::begin(name);
        }
        Ok(())
    })?;
    definition::invalidate();
    // Until the next command this backend still knows the rollups that it knew before.
    session::advance_command();
    // Of a rollup that is to be backfilled, only the events from now on are counted here.
    super::append::fill(name, if at_once { "true" } else { "occurred_at >= now()" }, None)?;
    Ok(())
}

/// Runs statements, one after the other.
pub fn run(statements: &[String]) {
    for statement in statements {
        sql::run(statement, &[]);
    }
}

/// Notes the columns of a rollup.
pub fn register(definition: &Definition) {
    for (position, column) in definition.columns.iter().enumerate() {
        sql::run(
            "INSERT INTO tally.rollup_column (rollup_name, position, column_name, kind, expression) \
             VALUES ($1, $2, $3, $4, $5)",
            &[
                definition.name.as_str().into(),
                (position as i32).into(),
                column.name.as_str().into(),
                column.kind.name().into(),
                column.text.as_deref().into(),
            ],
        );
    }
}

/// Measures as an array has them.
pub fn measure_texts(measures: Option<Vec<Option<String>>>) -> Result<Vec<String>, RollupError> {
    let given = |text: Option<String>| text.ok_or(RollupError::Null("a measure"));
    measures.unwrap_or_default().into_iter().map(given).collect()
}

/// Refuses columns that would take the place of those that the views have by themselves. One from before 0.2.0 stays.
pub fn check_view_names<'a>(
    grains: &[Grain],
    columns: impl IntoIterator<Item = &'a Column>,
) -> Result<(), RollupError> {
    for (name, ..) in columns.into_iter().flat_map(finished) {
        if let Some(grain) = grains.iter().find(|grain| layout::has_date(**grain) && grain.name() == name) {
            return Err(RollupError::DateColumn(grain.name()));
        }
    }
    Ok(())
}

/// Dimensions as declared; adds the functions of theirs to `code`.
pub fn dimension_columns(
    texts: Option<Vec<Option<String>>>,
    code: &mut Code,
) -> Result<Vec<Column>, RollupError> {
    let given = |text: Option<String>| text.ok_or(RollupError::Null("a dimension"));
    texts.unwrap_or_default().into_iter().map(|text| dimension(given(text)?, code)).collect()
}

/// Measures as declared. A first or last value brings a measure of its own with it, the time of that value.
pub fn measure_columns(texts: &[String], code: &mut Code) -> Result<Vec<Column>, RollupError> {
    let mut columns = Vec::new();
    for text in texts {
        let column = measure(text, code)?;
        let of_time = match column.kind {
            Kind::First => Some("min"),
            Kind::Last => Some("max"),
            _ => None,
        };
        let time = of_time.map(|kind| {
            let value = column.text.as_deref().expect("has an argument");
            let time = column.time_name();
            measure(
                &format!("{kind}(CASE WHEN ({value}\n) IS NOT NULL THEN occurred_at END) AS {time}"),
                code,
            )
        });
        columns.push(column);
        columns.extend(time.transpose()?);
    }
    Ok(columns)
}

/// What schemas of 0.1.0 call.
#[pg_extern(sql = false)]
fn drop_rollup(rollup_name: &str) -> Result<(), ErrorReport> {
    drop_rollup_cascade(Some(rollup_name), Some(false))
}

#[pg_extern(sql = false)]
fn drop_rollup_cascade(rollup_name: Option<&str>, cascade: Option<bool>) -> Result<(), ErrorReport> {
    session::require_writable(c"tally.drop_rollup()");
    let rollup_name = given(rollup_name, "rollup_name", WHICH_ROLLUP)?;
    let cascade =
        given(cascade, "cascade", "true also drops what others made of the rollup's views, false doesn't")?;
    refuse_built_in(rollup_name)?;
    lock_rollup(rollup_name)?;
    // Not by way of the definitions: where a function that one uses is gone, none can be loaded, and dropping it is the way out.
    let declared = definition::grains().into_iter().find(|(name, _)| name == rollup_name);
    let (_, grains) = declared.ok_or_else(|| RollupError::Unknown(rollup_name.to_owned()))?;
    let dependents = Dependents::of(rollup_name, &grains, cascade, Going::All)?;
    let dropping = dependents.sql();
    lock::as_owner_defining(|| {
        run(&layout::drop_views(rollup_name, &grains, dependents));
        for grain in &grains {
            let base = format!("{rollup_name}_{grain}_base");
            sql::run(&format!("DROP TABLE IF EXISTS tally.{}{dropping}", quote(&base)), &[]);
        }
        let pending = quote(&format!("{rollup_name}_pending"));
        sql::run(&format!("DROP TABLE IF EXISTS tally.{pending}{dropping}"), &[]);
        for table in ["rollup", "rollup_column", "rollup_backfill", "rollup_fold"] {
            let delete = format!("DELETE FROM tally.{table} WHERE rollup_name = $1");
            sql::run(&delete, &[rollup_name.into()]);
        }
        // A later rollup of that name hasn't failed.
        let forget = "UPDATE tally.maintenance SET failed_at = NULL, sqlstate = NULL, problem = NULL \
                       WHERE task = 'fold' AND subject = $1 AND failed_at IS NOT NULL";
        sql::run(forget, &[rollup_name.into()]);
    });
    definition::invalidate();
    Ok(())
}

/// Refuses rollups that come with the extension, whose views and tables can't be dropped without it.
pub fn refuse_built_in(name: &str) -> Result<(), RollupError> {
    let belongs = "SELECT EXISTS (SELECT FROM pg_depend AS d WHERE d.classid = 'pg_class'::regclass AND d.deptype = 'e' \
                                     AND d.objid = to_regclass('tally.' || quote_ident($1 || '_pending')))";
    let belongs = session::as_owner(|| sql::one::<bool>(belongs, &[name.into()])) == Some(true);
    let is_built_in = belongs && !session::is_creating_extension();
    if is_built_in { Err(RollupError::BuiltIn(name.to_owned())) } else { Ok(()) }
}

/// Locks ingest out, and everybody from a rollup's tables and views, which are to be dropped or made anew.
pub fn lock_rollup(name: &str) -> Result<(), RollupError> {
    let declared = definition::grains().into_iter().find(|(declared, _)| declared == name);
    let (_, grains) = declared.ok_or_else(|| RollupError::Unknown(name.to_owned()))?;
    let of_grains =
        grains.iter().flat_map(|grain| ["", "_state", "_base"].map(|part| format!("_{grain}{part}")));
    let relations: Vec<Oid> = std::iter::once("_pending".to_owned())
        .chain(of_grains)
        // One that somebody dropped by hand is not waited for.
        .filter_map(|part| session::find_relation_named(&format!("{name}{part}")))
        .collect();
    Ok(gate::close(&relations, Attempts::Several)?)
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

/// Refuses an expression that counts by when it is analysed, or by settings that Postgres doesn't ask of. Not where declarations are read: one from before 0.2.0 may be such,
/// and is reported.
fn lasting(text: &str, analysis: Analysis) -> Result<Analysis, RollupError> {
    if analysis.says_moment || analysis.has_mutable_part {
        return Err(ExpressionError::NotImmutable(text.to_owned()).into());
    }
    Ok(analysis)
}

/// `expression` or `expression AS name`.
fn dimension(text: String, code: &mut Code) -> Result<Column, RollupError> {
    let Analysis { expression, name, code: found, .. } = lasting(&text, definition::analyse(&text, None)?)?;
    // Verifying puts it behind others.
    if !expression::is_item(&text) {
        return Err(ExpressionError::NotPlain(text).into());
    }
    if name == NO_NAME {
        return Err(RollupError::NoName(text));
    }
    code.add(found);
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
fn measure(text: &str, code: &mut Code) -> Result<Column, RollupError> {
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
    let Analysis { expression, code: found, read_from, has_properties, .. } =
        lasting(argument, definition::analyse(argument, kind.argument_type())?)?;
    // What a property has as text may be a number in every event; of the event's own columns none is.
    if let Some(read_from) = read_from.filter(|_| !has_properties) {
        return Err(RollupError::Type {
            column: name,
            found: type_name(read_from),
            hint: "every event whose text is no number would be rejected: measure a number, such as tally.property_number(properties, 'amount'), or cast to one yourself",
        });
    }
    // Verifying puts it in parentheses.
    definition::analyse(&format!("({argument}\n)"), kind.argument_type())?;
    code.add(found);
    let problem = match kind {
        Kind::Distinct if Hashable::of(expression.type_oid).is_none() => {
            Some("distinct counts text, uuid, integers, bytea, timestamptz and numeric; cast to text")
        }
        Kind::Min | Kind::Max
            if !Extreme::is_ordered(&expression) || !expression::has_extremes(expression.type_oid) =>
        {
            Some("min and max need a type with an order that is no row and no range")
        }
        Kind::First | Kind::Last
            if !Extreme::is_ordered(&expression)
                || !expression::has_array_type(expression.type_oid)
                || expression::is_pseudo(expression.type_oid) =>
        {
            Some("first and last need a type that has an order and is no array and no anonymous row")
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

/// Refuses two columns of one name, in the tables or in the views.
pub fn check_names(columns: &[Column]) -> Result<(), RollupError> {
    let mut taken: BTreeSet<String> =
        ["tenant_id", "account_id", "bucket"].into_iter().map(str::to_owned).collect();
    for column in columns {
        if SYSTEM_COLUMNS.contains(&&*column.name) {
            return Err(RollupError::SystemName(column.name.clone()));
        }
        let shown = finished(column).into_iter().map(|(name, _, _)| name);
        for name in shown.chain([column.name.clone()]).collect::<BTreeSet<_>>() {
            if !taken.insert(name.clone()) {
                return Err(RollupError::DuplicateColumn(name));
            }
        }
    }
    Ok(())
}
