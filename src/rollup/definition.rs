//! The declared rollups as the running backend knows them.

use super::RollupError;
use crate::backend::evaluator;
use crate::backend::expression::{self, Analysis, Expression};
use crate::backend::heap;
use crate::backend::scan::{self, Snapshot};
use crate::backend::subtransaction::{self, Verdict};
use crate::backend::{cache, session, sql};
use crate::event::EVENTS;
use crate::raw::{self, gate};
use crate::registry;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::pg_sys::{self, Oid};
use pgrx::prelude::*;
use std::rc::Rc;
use std::str::FromStr;
use tally_core::grain::Grain;

/// What a column of a rollup is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Dimension,
    Count,
    Sum,
    Min,
    Max,
    Distinct,
    Percentiles,
    /// The value of the earliest event; the measure `<name>_at` has its time.
    First,
    /// The value of the latest event; the measure `<name>_at` has its time.
    Last,
    /// The set of days, in UTC.
    Days,
    /// The session windows.
    SessionWindows,
}

impl Kind {
    const ALL: [(Kind, &'static str); 11] = [
        (Kind::Dimension, "dimension"),
        (Kind::Count, "count"),
        (Kind::Sum, "sum"),
        (Kind::Min, "min"),
        (Kind::Max, "max"),
        (Kind::Distinct, "distinct"),
        (Kind::Percentiles, "percentiles"),
        (Kind::First, "first"),
        (Kind::Last, "last"),
        (Kind::Days, "days"),
        (Kind::SessionWindows, "session_windows"),
    ];

    /// The word for it in declarations.
    pub fn name(self) -> &'static str {
        Kind::ALL.iter().find(|(kind, _)| *kind == self).expect("every kind is listed").1
    }

    /// The type that the measure's argument is cast to.
    pub fn argument_type(self) -> Option<Oid> {
        match self {
            Kind::Sum => Some(pg_sys::NUMERICOID),
            Kind::Percentiles => Some(pg_sys::FLOAT8OID),
            Kind::Days | Kind::SessionWindows => Some(pg_sys::TIMESTAMPTZOID),
            _ => None,
        }
    }
}

impl FromStr for Kind {
    type Err = ();

    fn from_str(name: &str) -> Result<Self, ()> {
        Kind::ALL.iter().find(|(_, word)| *word == name).map(|(kind, _)| *kind).ok_or(())
    }
}

/// A dimension or a measure.
pub struct Column {
    pub name: String,
    pub kind: Kind,
    /// `None` for `count(*)`.
    pub expression: Option<Expression>,
    /// The expression as declared, of a dimension with its `AS name`.
    pub text: Option<String>,
}

impl Column {
    /// The same column again.
    pub fn copied(&self) -> Column {
        Column {
            name: self.name.clone(),
            kind: self.kind,
            expression: self.expression,
            text: self.text.clone(),
        }
    }

    /// The type in which its values lie in the tables.
    pub fn stored_type(&self) -> Oid {
        match (self.kind, &self.expression) {
            (Kind::Distinct, _) => heap::own_type(c"hll"),
            (Kind::Percentiles, _) => heap::own_type(c"tdigest"),
            (Kind::Days | Kind::SessionWindows, _) => pg_sys::BYTEAOID,
            (Kind::Count, _) | (_, None) => pg_sys::INT8OID,
            (_, Some(expression)) => expression.type_oid,
        }
    }

    /// Of a first or last value: the measure that has its time.
    pub fn time_name(&self) -> String {
        format!("{}_at", self.name)
    }
}

/// A declared rollup, its expressions analysed.
pub struct Definition {
    pub name: String,
    pub grains: Vec<Grain>,
    pub filter: Option<Expression>,
    pub filter_text: Option<String>,
    /// Dimensions, then measures.
    pub columns: Vec<Column>,
    pub pending: Oid,
    /// Microseconds since 2000: earlier events wait to be backfilled. The least number where none do.
    pub filled_from: i64,
}

impl Definition {
    /// Width of the pending rows' buckets: the finest grain, from which the others are made when they are folded.
    pub fn pending_grain(&self) -> Grain {
        finest(&self.grains)
    }

    /// The latest moment not after `time` at which a bucket of every grain begins: each pending row feeds all grains.
    pub fn floor(&self, mut time: i64) -> i64 {
        while let Some(earlier) =
            self.grains.iter().map(|grain| grain.floor(time)).find(|&floor| floor != time)
        {
            time = earlier;
        }
        time
    }

    /// The earliest such moment not before `time`.
    pub fn ceiling(&self, mut time: i64) -> i64 {
        while let Some(later) =
            self.grains.iter().map(|grain| grain.ceiling(time)).find(|&ceiling| ceiling != time)
        {
            time = later;
        }
        time
    }

    /// Name of one of its tables.
    pub fn table(&self, part: &str) -> String {
        format!("{}_{part}", self.name)
    }

    /// The tables that have its rows.
    pub fn tables(&self) -> Vec<String> {
        let bases = self.grains.iter().map(|grain| self.table(&format!("{grain}_base")));
        bases.chain([self.table("pending")]).collect()
    }

    /// Columns of its tables, pending and base alike, with their types.
    pub fn stored_columns(&self) -> Vec<(&str, Oid)> {
        let keys = [
            ("tenant_id", pg_sys::TEXTOID),
            ("account_id", pg_sys::TEXTOID),
            ("bucket", pg_sys::TIMESTAMPTZOID),
        ];
        keys.into_iter()
            .chain(self.columns.iter().map(|column| (&*column.name, column.stored_type())))
            .collect()
    }

    /// Key of its base tables.
    pub fn key(&self) -> Vec<&str> {
        ["tenant_id", "account_id", "bucket"]
            .into_iter()
            .chain(self.dimensions().map(|column| &*column.name))
            .collect()
    }

    /// Evaluates expressions of this rollup by `work`, whose result must be its own: with nobody's rights and fixed settings, and where somebody
    /// else's code may run, so that nothing of it is left.
    pub fn evaluate<T>(&self, work: impl FnOnce() -> T) -> T {
        if self.is_built_in() { evaluator::of_built_in(work) } else { evaluator::apart(work) }
    }

    /// Whether evaluating it runs Postgres' own functions and ours alone.
    pub fn is_built_in(&self) -> bool {
        let expressions = self.columns.iter().filter_map(|column| column.expression.as_ref());
        self.filter.iter().chain(expressions).all(|expression| expression.is_built_in)
    }

    /// Names of the dimensions.
    pub fn dimensions(&self) -> impl Iterator<Item = &Column> {
        self.columns.iter().filter(|column| column.kind == Kind::Dimension)
    }

    /// The measures.
    pub fn measures(&self) -> impl Iterator<Item = &Column> {
        self.columns.iter().filter(|column| column.kind != Kind::Dimension)
    }
}

thread_local! {
    static KNOWN: cache::Cache<Vec<Definition>> = const { cache::Cache::new() };
}

/// Every declared rollup, in order of name. Takes the lock that keeps rollups from being declared or dropped until the
/// transaction ends: what this transaction appends fits what is declared when it commits.
pub fn all() -> Result<Rc<Vec<Definition>>, RollupError> {
    let table = gate::enter();
    KNOWN.with(|known| known.get_or_load(table, load))
}

/// The rollup of that name.
pub fn find<'a>(definitions: &'a [Definition], name: &str) -> Result<&'a Definition, RollupError> {
    let found = definitions.iter().find(|definition| definition.name == name);
    found.ok_or_else(|| RollupError::Unknown(name.to_owned()))
}

/// Makes every backend load the declarations anew, once this transaction commits.
pub fn invalidate() {
    cache::invalidate(session::relation(c"rollup"));
}

/// Name and grains of each declared rollup. Takes no lock, and reads no expression, so that it can't fail for one.
pub fn grains() -> Vec<(String, Vec<Grain>)> {
    let declared = "SELECT rollup_name, array_to_string(grains, ',') FROM tally.rollup";
    let rows = session::as_owner(|| scan::texts(declared, Snapshot::Fresh));
    let read = |row: Vec<Option<String>>| {
        let [Some(name), Some(grains)] = &row[..] else { unreachable!("both columns are NOT NULL") };
        (name.clone(), grains.split(',').map(parse).collect())
    };
    rows.into_iter().map(read).collect()
}

fn parse(grain: &str) -> Grain {
    grain.parse().expect("checked when declared")
}

/// The grain from which the others are made.
pub fn finest(grains: &[Grain]) -> Grain {
    Grain::common(grains).expect("a rollup has a grain")
}

/// Every declared rollup, read anew into the current memory context. As of now, not of the statement, which may have begun before it
/// waited for the declarations' lock, nor of the transaction: what is loaded outlives both.
pub fn load() -> Result<Vec<Definition>, RollupError> {
    let query = format!(
        "SELECT r.rollup_name, array_to_string(r.grains, ','), r.filter, c.column_name, c.kind, c.expression, \
                ('tally.' || quote_ident(r.rollup_name || '_pending'))::regclass::oid, \
                (SELECT {} FROM tally.rollup_backfill AS b \
                  WHERE b.rollup_name = r.rollup_name AND b.finished_at IS NULL) \
           FROM tally.rollup AS r JOIN tally.rollup_column AS c USING (rollup_name) \
          ORDER BY r.rollup_name, c.position",
        sql::micros("b.filled_from")
    );
    let rows = session::as_owner(|| scan::texts(&query, Snapshot::Latest));

    let mut definitions: Vec<Definition> = Vec::new();
    for row in rows {
        let Ok(
            [
                Some(name),
                Some(grains),
                filter_text,
                Some(column),
                Some(kind),
                text,
                Some(pending),
                filled_from,
            ],
        ) = <[Option<String>; 8]>::try_from(row)
        else {
            unreachable!("the other columns are NOT NULL")
        };
        if definitions.last().is_none_or(|last| last.name != name) {
            let filter =
                filter_text.as_deref().map(analyse_filter).transpose()?.map(|found| found.expression);
            let number = |text: String| text.parse::<i64>().expect("a number");
            definitions.push(Definition {
                name,
                grains: grains.split(',').map(parse).collect(),
                filter,
                filter_text,
                columns: Vec::new(),
                pending: Oid::from(number(pending) as u32),
                filled_from: filled_from.map_or(i64::MIN, number),
            });
        }
        let kind: Kind = kind.parse().expect("a check constraint lists the kinds");
        let expression = text.as_deref().map(|text| analyse(text, kind.argument_type())).transpose()?;
        let expression = expression.map(|found| found.expression);
        let definition = definitions.last_mut().expect("pushed above");
        definition.columns.push(Column { name: column, kind, expression, text });
    }
    Ok(definitions)
}

/// Analyses an expression as ingest will: names that aren't qualified are looked up in `pg_catalog` and `tally` alone, by
/// nobody's rights.
pub fn analyse(text: &str, cast_to: Option<Oid>) -> Result<Analysis, RollupError> {
    Ok(evaluator::apart(|| expression::analyse(text, cast_to, &EVENTS))?)
}

/// Analyses a filter: an expression that is true or false.
pub fn analyse_filter(text: &str) -> Result<Analysis, RollupError> {
    analyse(&format!("({text}\n)"), Some(pg_sys::BOOLOID))
}

/// Columns that are written below the executor, for the lint.
#[pg_extern(sql = false)]
fn declared_columns() -> Result<
    TableIterator<'static, (name!(table_name, String), name!(column_name, String), name!(type_name, String))>,
    ErrorReport,
> {
    let mut found = Vec::new();
    let mut list = |table: &str, columns: &[(&str, Oid)]| {
        found.extend(columns.iter().map(|(column, type_oid)| {
            (table.to_owned(), (*column).to_owned(), expression::type_name(*type_oid))
        }));
    };
    for declared in raw::TABLES.iter().chain([&registry::UNREGISTERED_NAMES]) {
        list(declared.table, declared.columns);
    }
    // Where an expression can't be read, none of the rollups can; another rule says so.
    let loaded = subtransaction::run(|| Verdict::Undo(load()));
    let definitions = match loaded {
        Ok(definitions) => definitions?,
        Err(caught) if caught.may_be_of_an_expression() => Vec::new(),
        Err(caught) => caught.rethrow(),
    };
    for definition in definitions {
        let columns = definition.stored_columns();
        list(&definition.table("pending"), &columns);
        for grain in &definition.grains {
            list(&definition.table(&format!("{grain}_base")), &columns);
        }
    }
    Ok(TableIterator::new(found))
}
