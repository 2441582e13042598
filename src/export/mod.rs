//! Exports by four eyes: one person requests what a query returns, others approve it, and it is handed out once.
//!
//! A request is bound, by a hash, to all that its answer hangs on beside the rows themselves: query, parameters, columns, scope, limit,
//! requester, and the definitions of what it reads (`request`). It runs with the requester's own rights, in the same scope, as in a
//! read-only transaction (`run`). What becomes of it is noted by a process of its own (`fate`), which no rollback undoes.
//! Approving is in sql/export/export.sql.

mod failure;
mod fate;
mod naming;
mod request;
mod run;

use crate::backend::{row_count, session};
use pgrx::prelude::*;

/// Whether a client's text is one statement that begins with a call of this function, by its whole name. A text with semicolons inside
/// is taken for several.
fn is_call(text: &str, function: &str) -> bool {
    let mut statements = text.split(';').filter(|statement| !statement.trim().is_empty());
    let (Some(statement), None) = (statements.next(), statements.next()) else { return false };
    let words: String = statement.to_ascii_lowercase().split_whitespace().collect::<Vec<_>>().join(" ");
    let Some(rest) = words.strip_prefix("select ") else { return false };
    let call = rest.strip_prefix("* from ").unwrap_or(rest);
    call.strip_prefix(function).is_some_and(|rest| rest.trim_start().starts_with('('))
}

/// A function or a view of somebody else's may be in the plan as if the client had called what it calls: so the text is looked at, too.
#[pg_extern(sql = false)]
fn client_approves() -> bool {
    session::client_statement().is_some_and(|text| is_call(&text, "tally.approve_export"))
        && row_count::client_only_calls(c"approve_export")
}
