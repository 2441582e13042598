//! Altering rollups: adds measures and dimensions to the tables that are there, so that these keep all that an administrator set on
//! them, and makes the views anew.

use super::RollupError;
use super::declare::{
    check_names, check_view_names, dimension_columns, lock_rollup, measure_columns, measure_texts,
    refuse_built_in, register, run,
};
use super::definition::{self, Column, Definition};
use super::dependents::{Dependents, Going};
use super::fold;
use super::frozen::{self, Frozen};
use super::layout;
use super::rebuild::require_months;
use super::strange_code;
use super::view_settings::ViewSettings;
use crate::backend::expression_code::Code;
use crate::backend::lock;
use crate::backend::scan::{self, Snapshot};
use crate::backend::session;
use crate::backend::sql::{self, literal, quote, within};
use crate::raw::horizon;
use pgrx::pg_sys::Oid;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

/// What schemas of 0.1.0 call.
#[pg_extern(sql = false)]
fn alter_rollup(
    rollup_name: Option<&str>,
    add_measures: Option<Vec<Option<String>>>,
    add_dimensions: Option<Vec<Option<String>>>,
) -> Result<(), ErrorReport> {
    alter_rollup_cascade(rollup_name, add_measures, add_dimensions, None)
}

/// Adds measures and dimensions; keeps the buckets whose events were dropped as they are, and fills the others from the events.
#[pg_extern(sql = false)]
fn alter_rollup_cascade(
    rollup_name: Option<&str>,
    add_measures: Option<Vec<Option<String>>>,
    add_dimensions: Option<Vec<Option<String>>>,
    cascade: Option<bool>,
) -> Result<(), ErrorReport> {
    session::require_writable(c"tally.alter_rollup()");
    let name = rollup_name.unwrap_or_default();
    let measures = measure_texts(add_measures)?;
    let mut code = Code::default();
    let (new_dimensions, new_measures) =
        (dimension_columns(add_dimensions, &mut code)?, measure_columns(&measures, &mut code)?);
    strange_code::refuse(&code)?;
    if new_dimensions.is_empty() && new_measures.is_empty() {
        return Err(RollupError::Empty("nothing is to be added").into());
    }
    if session::has_fixed_snapshot() {
        return Err(RollupError::OldSnapshot.into());
    }
    refuse_built_in(name)?;
    lock_rollup(name)?;
    let definitions = definition::all()?;
    let old = definition::find(&definitions, name)?;
    let dependents = Dependents::of(name, &old.grains, cascade.unwrap_or(false), Going::Views)?;
    check_view_names(&old.grains, new_dimensions.iter().chain(&new_measures))?;
    refuse_own_columns(old, new_dimensions.iter().chain(&new_measures))?;
    let kept = |column: &Column| column.copied();
    let mut columns: Vec<Column> = old.dimensions().map(kept).collect();
    columns.extend(new_dimensions);
    columns.extend(old.measures().map(kept));
    columns.extend(new_measures);
    check_names(&columns)?;
    // Buckets that begin before this keep what they have; those that begin later are made anew from the events.
    let from = horizon::of_all().map_or(i64::MIN, |(horizon, _)| horizon);
    let thawed = Frozen::read(old);
    let new = Definition {
        name: name.to_owned(),
        grains: old.grains.clone(),
        filter: None,
        filter_text: None,
        columns,
        pending: old.pending,
        filled_from: old.filled_from,
    };
    let made_anew = format!("{} AND {}", within("bucket", &(from..i64::MAX)), thawed.not_frozen("bucket"));
    require_months(&made_anew)?;
    fold::fold_all(old, i64::MIN)?;
    session::advance_command();
    lock::as_owner_defining(|| {
        let settings = ViewSettings::read(old);
        run(&layout::drop_views(&old.name, &old.grains, dependents));
        run(&empty(old, (from != i64::MIN || !thawed.is_empty()).then_some(&made_anew)));
        run(&add_columns(old, &new));
        run(&layout::create_views(&new));
        sql::run("DELETE FROM tally.rollup_column WHERE rollup_name = $1", &[name.into()]);
        register(&new);
        frozen::say_what_is_gone(name, &new.grains);
        let whole_from = frozen::whole_from();
        let note = whole_from.as_ref().map(|moment| {
            format!("added when raw events from before {moment} were gone: in buckets that begin before, it has only what was ingested since")
        });
        settings.set_again(note.as_deref());
        if let Some(moment) = whole_from {
            pgrx::warning!(
                "rollup {}: raw events from before {moment} are gone, so what is added has, in buckets that begin before, only what is ingested from now on",
                quote(name)
            );
        }
    });
    definition::invalidate();
    session::advance_command();
    let counted = within("occurred_at", &(from..i64::MAX));
    super::append::fill(name, &format!("{counted} AND {}", thawed.not_frozen("occurred_at")), None)?;
    session::advance_command();
    let definitions = definition::all()?;
    Ok(fold::fold_all(definition::find(&definitions, name)?, from)?)
}

/// The tables of the rows by key.
fn base_tables(definition: &Definition) -> impl Iterator<Item = String> {
    definition.grains.iter().map(|grain| definition.table(&format!("{grain}_base")))
}

/// Refuses columns of which a table has one already that isn't ours: an administrator's own.
fn refuse_own_columns<'c>(
    definition: &Definition,
    mut added: impl Iterator<Item = &'c Column>,
) -> Result<(), RollupError> {
    let tables: Vec<Oid> = base_tables(definition)
        .map(|table| session::relation_named(&table))
        .chain([definition.pending])
        .collect();
    let has_one = |column: &&Column| {
        let query = "SELECT EXISTS (SELECT FROM pg_attribute WHERE attrelid = ANY ($1) AND attname = $2)";
        let of_tables = &[tables.clone().into(), column.name.as_str().into()];
        session::as_owner(|| sql::one::<bool>(query, of_tables)) == Some(true)
    };
    added.find(has_one).map_or(Ok(()), |column| Err(RollupError::DuplicateColumn(column.name.clone())))
}

/// Statements that remove of the base rows those that are made anew: all, unless there is a condition. Nothing is pending. No TRUNCATE:
/// whoever reads by an older snapshot is to find the rows as they were.
fn empty(definition: &Definition, made_anew: Option<&String>) -> Vec<String> {
    let condition = made_anew.map(|condition| format!(" WHERE {condition}")).unwrap_or_default();
    base_tables(definition).map(|table| format!("DELETE FROM tally.{}{condition}", quote(&table))).collect()
}

/// Statements that add to the tables what a rollup is to have more, and make the keys of its base tables anew where it has more dimensions.
fn add_columns(old: &Definition, new: &Definition) -> Vec<String> {
    let is_added = |column: &&Column| old.columns.iter().all(|known| known.name != column.name);
    let added: Vec<String> = new
        .columns
        .iter()
        .filter(is_added)
        .map(|column| format!("ADD COLUMN {}", layout::column_definition(column)))
        .collect();
    let added = added.join(", ");
    let mut statements = vec![format!("ALTER TABLE tally.{} {added}", quote(&old.table("pending")))];
    let has_key = old.dimensions().count() == new.dimensions().count();
    for (grain, table) in old.grains.iter().zip(base_tables(old)) {
        let table = quote(&table);
        if has_key {
            statements.push(format!("ALTER TABLE tally.{table} {added}"));
            continue;
        }
        let key = KeySettings::read(old, &table, &old.table(&format!("{grain}_key")));
        let dropped = if key.is_there { format!("DROP CONSTRAINT {}, ", key.name) } else { String::new() };
        statements.push(format!(
            "ALTER TABLE tally.{table} {dropped}{added}, ADD CONSTRAINT {} {}{}",
            key.name,
            layout::unique(new),
            key.settings
        ));
        // Its columns are not all NOT NULL any more.
        if key.is_identity {
            statements.push(format!("ALTER TABLE tally.{table} REPLICA IDENTITY FULL"));
        }
    }
    statements
}

/// What an administrator may have set on the key of a base table: it goes with its index.
struct KeySettings {
    is_there: bool,
    /// Quoted.
    name: String,
    /// SQL behind the constraint.
    settings: String,
    is_identity: bool,
}

impl KeySettings {
    /// `table` is quoted; `made_as` is the name that the key had at first.
    fn read(definition: &Definition, table: &str, made_as: &str) -> Self {
        let columns: Vec<String> = definition.key().into_iter().map(literal).collect();
        let query = format!(
            "SELECT quote_ident(n.conname), i.indisreplident::text, \
                    coalesce((SELECT ' WITH (' || string_agg(format('%I = %L', o.option_name, o.option_value), ', ') || ')' \
                                FROM pg_options_to_table(c.reloptions) AS o), '') || \
                    coalesce((SELECT format(' USING INDEX TABLESPACE %I', s.spcname) FROM pg_tablespace AS s \
                               WHERE s.oid = c.reltablespace AND has_tablespace_privilege(s.oid, 'CREATE')), '') \
               FROM pg_constraint AS n JOIN pg_index AS i ON i.indexrelid = n.conindid JOIN pg_class AS c ON c.oid = n.conindid \
              WHERE n.conrelid = {}::regclass AND n.contype = 'u' \
                AND (SELECT array_agg(a.attname::text ORDER BY a.attname::text) FROM pg_attribute AS a \
                      WHERE a.attrelid = n.conrelid AND a.attnum = ANY (n.conkey)) \
                  = (SELECT array_agg(k ORDER BY k) FROM unnest(ARRAY[{}]::text[]) AS k) \
              ORDER BY n.conname <> {}, n.conname LIMIT 1",
            literal(&format!("tally.{table}")),
            columns.join(", "),
            literal(made_as)
        );
        let mut rows = scan::texts(&query, Snapshot::Fresh).into_iter();
        match rows.next().as_deref() {
            Some([Some(name), Some(is_identity), Some(settings)]) => Self {
                is_there: true,
                name: name.clone(),
                settings: settings.clone(),
                is_identity: is_identity == "true",
            },
            _ => Self { is_there: false, name: quote(made_as), settings: String::new(), is_identity: false },
        }
    }
}
