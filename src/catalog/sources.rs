//! What the columns of views, generated columns of tables and the expressions of rollups come from.

use crate::backend::query_sources::{self, Edge, Source};
use crate::backend::reads::{self, Column};
use crate::backend::session;
use crate::rollup;
use pgrx::pg_sys::Oid;
use pgrx::prelude::*;
use std::collections::HashSet;

type Row = (
    name!(column_number, i16),
    name!(source, Option<Oid>),
    name!(source_column, Option<i16>),
    name!(property, Option<String>),
    name!(called, Option<Oid>),
);

/// The column that holds events' properties.
fn properties() -> (Oid, Column) {
    let events = session::relation(c"events");
    (events, reads::column_number(events, c"properties"))
}

fn rows(edges: Vec<Edge>) -> TableIterator<'static, Row> {
    TableIterator::new(edges.into_iter().map(|(column, source)| match source {
        Source::Column(relation, number) => (column, Some(relation), Some(number), None, None),
        Source::Property(key) => (column, None, None, Some(key), None),
        Source::Function(function) => (column, None, None, None, Some(function)),
    }))
}

#[pg_extern(sql = false)]
#[allow(clippy::type_complexity, reason = "the columns of a set-returning function")]
fn view_sources(
    view: Oid,
) -> TableIterator<
    'static,
    (
        name!(column_number, i16),
        name!(source, Option<Oid>),
        name!(source_column, Option<i16>),
        name!(property, Option<String>),
        name!(called, Option<Oid>),
    ),
> {
    rows(query_sources::of_relation(view, properties()))
}

/// Of an expression over an event, as a rollup declares it. One that can't be read may come from anything.
#[pg_extern(sql = false)]
#[allow(clippy::type_complexity, reason = "the columns of a set-returning function")]
fn expression_sources(
    expression: &str,
) -> TableIterator<
    'static,
    (
        name!(column_number, i16),
        name!(source, Option<Oid>),
        name!(source_column, Option<i16>),
        name!(property, Option<String>),
        name!(called, Option<Oid>),
    ),
> {
    let (events, properties) = properties();
    let read = rollup::reads(expression);
    let column = |number| (1, Source::Column(events, number));
    if read.is_unknown {
        return rows(vec![column(0)]);
    }
    let columns = read.columns.values().map(|&number| column(number));
    let properties = read.properties.iter().map(|reading| match reading.property() {
        Some(key) => (1, Source::Property(key.to_owned())),
        None => column(properties),
    });
    let found: HashSet<Edge> = columns.chain(properties).collect();
    rows(found.into_iter().collect())
}
