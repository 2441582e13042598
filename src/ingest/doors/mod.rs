//! The doors: each turns what it is given into items for the pipeline.

mod inbox;
mod json;
mod payload;
mod redrive;
mod typed;

/// Defines a door that is a function: its body ends in a `Summary`, which becomes its one row. In the plain C form, since what an
/// event is rejected for may have an SQLSTATE of our own, and fails the call where its options want that.
macro_rules! door {
    ($(#[$attribute:meta])* fn $name:ident / $record:ident ($call:ident) $body:block) => {
        $crate::backend::call::sql_function! {
            $(#[$attribute])*
            fn $name / $record($call) {
                let answer = || -> Result<$crate::ingest::summary::Summary, $crate::backend::report::Report> { $body };
                // In a trigger, a row that is copied into somebody's table may be around it.
                Ok(Some($crate::backend::copied_row::hidden(answer)?.row($call)))
            }
        }
    };
}
pub(crate) use door;
