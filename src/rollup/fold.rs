//! Folding: merges pending rows into the base rows, invisibly to readers: both change in one transaction, below the executor.

use super::RollupError;
use super::definition::{self, Column, Definition, Kind};
use super::delta::{self, Delta, States};
use super::failure::WHICH_ROLLUP;
use crate::backend::appender::{Appender, Unique};
use crate::backend::arena::Arena;
use crate::backend::expression;
use crate::backend::heap::Declared;
use crate::backend::lock::{self, Attempts};
use crate::backend::report::given;
use crate::backend::scan::{self, Snapshot};
use crate::backend::sql::{self, quote};
use crate::backend::take::{self, Conflict};
use crate::backend::upsert::Upsert;
use crate::backend::{memory, session};
use crate::raw::RawError;
use pgrx::pg_sys::Datum;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use std::collections::HashMap;
use tally_core::grain::Grain;

/// Rows that are folded at a time where all are: some tens of megabytes.
const CHUNK: i64 = 100_000;
/// Groups from which on some of them are looked up to see whether most are new.
const SAMPLED_FROM: usize = 512;
/// How many are looked up then, and of how many there may be a row.
const SAMPLE: usize = 32;
const KNOWN_IN_SAMPLE: usize = 2;

/// Folds at most `max_rows` pending rows; 0 where another session is folding this rollup.
fn fold_definition(definition: &Definition, max_rows: i64) -> Result<i64, RollupError> {
    if try_folding(definition) { fold_pending(definition, max_rows, i64::MIN) } else { Ok(0) }
}

/// Folds all pending rows, waiting a while for a running fold. Buckets that begin before `frozen` stay as they are.
pub fn fold_all(definition: &Definition, frozen: i64) -> Result<(), RollupError> {
    await_folding(definition)?;
    while fold_pending(definition, CHUNK, frozen)? > 0 {
        session::advance_command();
    }
    Ok(())
}

/// Folds at most `max_rows` pending rows. The caller holds the folding lock.
pub fn fold_pending(definition: &Definition, max_rows: i64, frozen: i64) -> Result<i64, RollupError> {
    fold_locked(definition, Vec::new(), max_rows, frozen)
}

/// Folds `deltas` and at most `max_rows` pending rows; returns how many of the latter.
pub fn fold_locked(
    definition: &Definition,
    mut deltas: Vec<Delta>,
    max_rows: i64,
    frozen: i64,
) -> Result<i64, RollupError> {
    let mut taken = 0;
    memory::in_temporary(c"pg_tally fold", || -> Result<(), RollupError> {
        let columns = definition.stored_columns();
        let pending = Declared { table: &definition.table("pending"), columns: &columns, key: &[] };
        take::rows(definition.pending, &pending, |values, nulls| {
            deltas.push(Delta::of_row(definition, values, nulls));
            taken += 1;
            taken < max_rows
        })?;
        merge_into_base(definition, deltas, frozen)
    })?;
    if taken > 0 {
        note(definition, taken);
    }
    Ok(taken)
}

/// Merges pending rows, of any order, into the base rows of every grain. Buckets that begin before `frozen` stay as they are.
fn merge_into_base(definition: &Definition, deltas: Vec<Delta>, frozen: i64) -> Result<(), RollupError> {
    let mut arena = Arena::default();
    let finest = delta::merge(definition, deltas, &mut arena)?;
    for &grain in &definition.grains {
        let coarser;
        let deltas = if grain == definition.pending_grain() {
            &finest
        } else {
            coarser = delta::merge(definition, delta::at_grain(&finest, grain), &mut arena)?;
            &coarser
        };
        let thawed = deltas.iter().filter(|delta| delta.bucket >= frozen);
        store(definition, grain, thawed, &mut arena)?;
    }
    Ok(())
}

/// Merges what is added to the groups of a grain, sorted by key, into the base rows.
fn store<'d>(
    definition: &Definition,
    grain: Grain,
    deltas: impl Iterator<Item = &'d Delta>,
    arena: &mut Arena,
) -> Result<(), RollupError> {
    let (name, columns, key) =
        (definition.table(&format!("{grain}_base")), definition.stored_columns(), definition.key());
    let declared = Declared { table: &name, columns: &columns, key: &key };
    let base = session::relation_named(&name);
    let deltas: Vec<&Delta> = deltas.collect();
    let mut base_rows = BaseRows {
        rows: Upsert::open(base, &declared)?,
        definition,
        dimensions: definition.dimensions().count(),
        key: Vec::new(),
        columns: Vec::new(),
        written: Row::default(),
    };
    let mut appender = Appender::open(base, &declared)?;
    if base_rows.are_mostly_new(&deltas)? {
        // Most are written without looking for them first.
        appender = appender.noting();
        for delta in &deltas {
            base_rows.written.set(delta, &delta.values);
            let _ = appender.push(&base_rows.written.values, &base_rows.written.nulls);
        }
        let clashes = appender.finish_noting();
        session::advance_command();
        for clash in clashes {
            base_rows.rows.remove(clash.place)?;
            if !base_rows.merge(deltas[clash.row], arena)? {
                return Err(Conflict.into());
            }
        }
        base_rows.rows.close();
        return Ok(());
    }
    let mut new = Vec::new();
    for delta in deltas {
        if !base_rows.merge(delta, arena)? {
            new.push(delta);
        }
    }
    for delta in new {
        base_rows.written.set(delta, &delta.values);
        if appender.push(&base_rows.written.values, &base_rows.written.nulls) == Unique::Clash {
            return Err(Conflict.into());
        }
    }
    base_rows.rows.close();
    if appender.finish() == Unique::Clash { Err(Conflict.into()) } else { Ok(()) }
}

/// The base rows of a grain, while others are merged into them.
struct BaseRows<'d> {
    rows: Upsert,
    definition: &'d Definition,
    /// How many dimensions the rollup has.
    dimensions: usize,
    /// What the last group was looked up by, the columns of its row and the row written.
    key: Vec<Option<Datum>>,
    columns: Vec<Option<Datum>>,
    written: Row,
}

impl BaseRows<'_> {
    /// Merges what is added to a group into its row; `false` where there is none.
    fn merge(&mut self, delta: &Delta, arena: &mut Arena) -> Result<bool, RollupError> {
        delta.key_columns(self.dimensions, &mut self.key);
        let Some((values, nulls)) = self.rows.find(&self.key)? else { return Ok(false) };
        self.columns.clear();
        self.columns.extend((3..values.len()).map(|place| (!nulls[place]).then_some(values[place])));
        let mut states = States::stored(self.definition, &self.columns, arena)?;
        states.merge(&delta.values, arena)?;
        states.finish_into(&mut self.columns, arena);
        self.written.set(delta, &self.columns);
        self.rows.replace(&self.written.values, &self.written.nulls)?;
        Ok(true)
    }

    /// Whether so few of the groups have a row that they are better written first: a group that has one after all costs twice, so
    /// some are looked up.
    fn are_mostly_new(&mut self, deltas: &[&Delta]) -> Result<bool, RollupError> {
        if deltas.len() < SAMPLED_FROM || !self.rows.may_write_twice() {
            return Ok(false);
        }
        let mut known = 0;
        for delta in deltas.iter().step_by(deltas.len() / SAMPLE) {
            delta.key_columns(self.dimensions, &mut self.key);
            known += usize::from(self.rows.find(&self.key)?.is_some());
            if known > KNOWN_IN_SAMPLE {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// A base row.
#[derive(Default)]
struct Row {
    values: Vec<Datum>,
    nulls: Vec<bool>,
}

impl Row {
    /// That of a group with these columns.
    fn set(&mut self, delta: &Delta, columns: &[Option<Datum>]) {
        self.values.clear();
        self.nulls.clear();
        let keys = [Some(delta.tenant), Some(delta.account), Some(Datum::from(delta.bucket))];
        for value in keys.iter().chain(columns) {
            self.values.push(value.unwrap_or(Datum::from(0)));
            self.nulls.push(value.is_none());
        }
    }
}

/// Takes the lock that one folder at a time holds, until the transaction ends, so that the next one sees what this one
/// did; says whether it was to be had.
pub fn try_folding(definition: &Definition) -> bool {
    session::lock(definition.pending.to_u32(), lock::FOLDING, false)
}

/// Takes it where others may be folding. The caller has locked ingest out: a folder that is at work has a moment to end.
pub fn await_folding(definition: &Definition) -> Result<(), RollupError> {
    let what = format!("rollup \"{}\" can't be folded", definition.name);
    Ok(lock::named(&what, definition.pending, lock::FOLDING, Attempts::One)?)
}

/// Notes that rows were folded.
fn note(definition: &Definition, rows: i64) {
    session::as_owner(|| {
        sql::run(
            "INSERT INTO tally.rollup_fold AS fold (rollup_name, last_fold_at, rows_folded) \
             VALUES ($1, clock_timestamp(), $2) \
             ON CONFLICT (rollup_name) DO UPDATE SET last_fold_at = excluded.last_fold_at, \
               rows_folded = fold.rows_folded + excluded.rows_folded",
            &[definition.name.as_str().into(), rows.into()],
        );
    });
}

/// How many rows of each rollup were ever folded, by what is committed now.
pub fn folded() -> HashMap<String, u64> {
    let query = "SELECT f.rollup_name, f.rows_folded FROM tally.rollup_fold AS f";
    let rows = session::as_owner(|| scan::texts(query, Snapshot::Latest));
    let of = |row: Vec<Option<String>>| {
        let Ok([Some(name), Some(rows)]) = <[Option<String>; 2]>::try_from(row) else {
            unreachable!("the columns are NOT NULL")
        };
        (name, rows.parse::<i64>().expect("a number").max(0) as u64)
    };
    rows.into_iter().map(of).collect()
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
    aggregate_of(column, &quote(&column.name), &quote(&column.time_name()))
}

/// The same over other columns: that of the states, and that of the times of a first or last value.
pub fn aggregate_of(column: &Column, name: &str, at: &str) -> String {
    match column.kind {
        Kind::Count => format!("sum({name})::int8"),
        Kind::Sum => format!("sum({name})"),
        Kind::Min => extreme(column, name, "min", ""),
        Kind::Max => extreme(column, name, "max", " DESC"),
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

/// SQL for the least or the greatest of some values. Of a type that somebody made `min` need not be Postgres' own of any type: what an
/// implicit cast of its owner's leads to may be meant as well; and of some of Postgres' types, as uuid and boolean, there is none. The
/// order is the type's, as when ingest compares.
pub fn extreme(column: &Column, value: &str, function: &str, order: &str) -> String {
    let is_without = column.expression.as_ref().is_some_and(|expression| {
        let of = expression.type_oid;
        expression::has_array_type(of)
            && (!expression::is_type_of_postgres(of) || !expression::has_minimum(of))
    });
    if is_without {
        format!("(array_agg({value} ORDER BY {value}{order}) FILTER (WHERE num_nulls({value}) = 0))[1]")
    } else {
        format!("{function}({value})")
    }
}

#[pg_extern(sql = false)]
fn fold(rollup_name: Option<&str>, max_rows: Option<i64>) -> Result<i64, ErrorReport> {
    session::require_writable(c"tally.fold()");
    let rollup_name = given(rollup_name, "rollup_name", WHICH_ROLLUP)?;
    let max_rows = given(max_rows, "max_rows", "leave it out for 100,000")?;
    if max_rows < 1 {
        return Err(RawError::TooFew("max_rows", 1, "leave it out for 100,000").into());
    }
    let definitions = definition::all()?;
    let definition = definition::find(&definitions, rollup_name)?;
    Ok(fold_definition(definition, max_rows)?)
}
