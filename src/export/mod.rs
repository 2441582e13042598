//! Exports by four eyes: one person requests what a query returns, others approve it, and it is handed out once.
//!
//! A request is bound, by a hash, to all that its answer hangs on beside the rows themselves: query, parameters, columns, scope, limit,
//! requester, and the definitions of what it reads (`request`). It runs with the requester's own rights, in the same scope, as in a
//! read-only transaction (`run`). What becomes of it is noted by a process of its own (`fate`), which no rollback undoes.
//! Approving is in sql/export/export.sql.

mod failure;
mod fate;
mod request;
mod run;

use crate::backend::session;
use pgrx::prelude::*;

#[pg_extern(sql = false)]
fn client_statement_names(word: &str) -> bool {
    session::client_statement().is_some_and(|statement| statement.contains(word))
}
