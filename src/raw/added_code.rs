//! Code that was added to tables of ours and is refused where ingest and folds run it, or where our own statements would, for `tally.lint`.

use crate::backend::added_code;
use pgrx::pg_sys::Oid;
use pgrx::prelude::*;

/// What of a table calls a function that is refused: a column, a constraint or an index and its name, the function, and what that does.
#[pg_extern(sql = false)]
#[allow(clippy::type_complexity, reason = "the columns of a set-returning function")]
fn refused_code(
    target: Oid,
) -> TableIterator<
    'static,
    (name!(kind, String), name!(name, String), name!(function, String), name!(problem, String)),
> {
    let rows = added_code::refused(target).into_iter();
    TableIterator::new(rows.map(|found| (found.of.to_owned(), found.name, found.function, found.problem)))
}

/// What of a table our own statements that change its rows are refused for: a trigger, a column, a constraint or an index, its name, and what
/// it does.
#[pg_extern(sql = false)]
fn code_as_owner(
    target: Oid,
) -> TableIterator<'static, (name!(kind, String), name!(name, String), name!(problem, String))> {
    let rows = added_code::strange(target).into_iter();
    TableIterator::new(rows.map(|found| (found.of.to_owned(), found.name, found.problem)))
}
