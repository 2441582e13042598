//! What users are told of errors that begin in this layer.

use super::expression::ExpressionError;
use super::heap::TableError;
use super::lock::Busy;
use super::report::{Report, raised_by_pgrx};

impl From<Busy> for Report {
    fn from(busy: Busy) -> Self {
        Report::new("55P03", format!("{}: other transactions hold the locks", busy.what))
            .detail(busy.holders)
            .hint("try again when they have ended; pg_stat_activity shows what a process does, pg_terminate_backend() ends it, ROLLBACK PREPARED a prepared transaction")
    }
}

impl From<ExpressionError> for Report {
    fn from(error: ExpressionError) -> Self {
        match error {
            ExpressionError::NotPlain(text) => {
                Report::new("42601", format!("\"{text}\" is not one plain expression over an event"))
                    .hint("sub-selects, aggregates, window functions and sets of rows can't be used here")
            }
            ExpressionError::NotImmutable(text) => Report::new(
                "42P17",
                format!("\"{text}\" is not immutable"),
            )
            .hint(
                "its value may depend on settings, on other rows or on the moment, so a rebuild could differ",
            ),
            ExpressionError::SystemColumn(text) => {
                Report::new("0A000", format!("\"{text}\" reads a system column or the whole row"))
            }
            ExpressionError::OwnColumn { expression, column } => Report::new(
                "0A000",
                format!("\"{expression}\" reads column \"{column}\", which was added to tally.events"),
            )
            .hint("a rollup is made of what the event itself says; read it from properties"),
            ExpressionError::Type { expression, found, needed } => Report::new(
                "42804",
                format!("\"{expression}\" has type {found}, which can't be cast to {needed}"),
            ),
        }
    }
}

impl From<TableError> for Report {
    fn from(error: TableError) -> Self {
        match error {
            TableError::Kind { table, problem, hint } => {
                Report::new("0A000", format!("table \"{table}\" {problem}")).hint(hint)
            }
            TableError::Missing(table) => {
                Report::new("42P01", format!("there is no table tally.{table}")).hint(
                    "it was renamed, moved or dropped: give it back its name and schema; what was dropped comes back from a backup alone",
                )
            }
            TableError::Column { table, problem } => {
                Report::new("42804", format!("table \"{table}\" was altered: {problem}")).hint(
                    "pg_tally's own columns and keys stay as they were made; columns of yours may be null or have a default. tally.lint() names what was altered",
                )
            }
        }
    }
}

raised_by_pgrx!(Busy, TableError);
