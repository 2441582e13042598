//! Why a table can't be used below the executor, and what users are told of it.

use super::report::{Report, raised_by_pgrx};

/// Why a table can't be written below the executor.
#[derive(Debug)]
pub enum TableError {
    /// It has something that only the executor heeds, or is no plain table.
    Kind { table: String, problem: String, hint: &'static str },
    /// It was renamed, moved to another schema or dropped.
    Missing(String),
    /// A column isn't there, or isn't as it was made.
    Column { table: String, problem: String },
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

raised_by_pgrx!(TableError);
