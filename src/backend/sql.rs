//! SQL statements of our own, and the pieces that they are put together from. Values are bound; what can't be, the names of tables
//! and conditions that are handed on, is quoted here.
//!
//! An error of the statement's is raised as it is. Whoever has it run as the owner of the tables says so with `session::as_owner`.

use super::schema::as_installed;
use core::ops::Range;
use pgrx::datum::{DatumWithOid, FromDatum, IntoDatum};
use pgrx::pg_sys::{Datum, Oid};
use pgrx::spi::{SpiError, SpiHeapTupleData};
use pgrx::{Spi, spi};

/// Runs a statement.
pub fn run(statement: &str, values: &[DatumWithOid]) {
    Spi::run_with_args(&as_installed(statement), values).expect("our own SQL fits its values");
}

/// The first column of the first row; `None` where it is null or there is no row.
pub fn one<T: FromDatum + IntoDatum>(statement: &str, values: &[DatumWithOid]) -> Option<T> {
    match Spi::get_one_with_args(&as_installed(statement), values) {
        Ok(found) => found,
        Err(SpiError::InvalidPosition) => None,
        Err(error) => panic!("our own SQL answers what it is asked: {error}"),
    }
}

/// Each row of a query, as `read` takes it; as the calling statement sees the rows, until the transaction has written something.
pub fn rows<T>(query: &str, values: &[DatumWithOid], read: impl FnMut(Row) -> T) -> Vec<T> {
    Spi::connect(|client| {
        let found = client.select(&*as_installed(query), None, values).expect("our own SQL fits its values");
        found.map(Row).map(read).collect()
    })
}

/// Each row that a statement returns which changes rows, or which is to see what the transaction's running statement has changed.
pub fn changed_rows<T>(statement: &str, values: &[DatumWithOid], read: impl FnMut(Row) -> T) -> Vec<T> {
    Spi::connect_mut(|client| {
        let found =
            client.update(&*as_installed(statement), None, values).expect("our own SQL fits its values");
        found.map(Row).map(read).collect()
    })
}

/// A row that a statement returned.
pub struct Row<'a>(SpiHeapTupleData<'a>);

impl Row<'_> {
    /// The value of a column, from 1; `None` where it is null.
    pub fn get<T: FromDatum + IntoDatum>(&self, column: usize) -> Option<T> {
        self.0.get(column).expect("the statement's columns have these types")
    }

    /// The value of a column that is never null.
    pub fn need<T: FromDatum + IntoDatum>(&self, column: usize) -> T {
        self.get(column).expect("the column is never null")
    }
}

/// A moment in microseconds since 2000, to be bound as a timestamptz.
#[derive(Clone, Copy)]
pub struct Moment(pub i64);

impl IntoDatum for Moment {
    fn into_datum(self) -> Option<Datum> {
        Some(Datum::from(self.0))
    }

    fn type_oid() -> Oid {
        pgrx::pg_sys::TIMESTAMPTZOID
    }
}

/// A name as it stands in SQL.
pub fn quote(name: &str) -> String {
    spi::quote_identifier(name)
}

/// A text as it stands in SQL.
pub fn literal(text: &str) -> String {
    spi::quote_literal(text)
}

/// SQL for a moment, given in microseconds since 2000.
pub fn moment(micros: i64) -> String {
    format!("(timestamptz '2000-01-01 00:00:00+00' + interval '{micros} microseconds')")
}

/// SQL for the microseconds since 2000 of a moment, given as SQL.
pub fn micros(moment: &str) -> String {
    // Counted from 1970 on, the last ones are more than a bigint holds, and are rounded.
    format!("(extract(epoch FROM {moment} - timestamptz '2000-01-01 00:00:00+00') * 1000000)::int8")
}

/// SQL that is true where `column` lies in a range of microseconds since 2000; the least and the greatest number bound nothing.
pub fn within(column: &str, range: &Range<i64>) -> String {
    let mut text = "true".to_owned();
    if range.start != i64::MIN {
        text.push_str(&format!(" AND {column} >= {}", moment(range.start)));
    }
    if range.end != i64::MAX {
        text.push_str(&format!(" AND {column} < {}", moment(range.end)));
    }
    text
}

/// SQL that is true where `column` lies in one of some ranges, which are in order; `None` where there is none.
pub fn within_any(column: &str, ranges: &[Range<i64>]) -> Option<String> {
    let span = ranges.first()?.start..ranges.last()?.end;
    let ranges: Vec<String> = ranges.iter().map(|range| format!("({})", within(column, range))).collect();
    Some(format!("{} AND ({})", within(column, &span), ranges.join(" OR ")))
}
