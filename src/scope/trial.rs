//! Trials of what the owner of a table can do in a tenant's scope, for a superuser's tests: each is undone.

use super::failure::ScopeError;
use crate::backend::{evaluator, scan, session};
use pgrx::pg_sys::Oid;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

#[pg_extern(sql = false)]
fn try_as_owner(
    target: Option<Oid>,
    tenant_id: Option<&str>,
    statement: Option<&str>,
) -> Result<Option<Vec<i64>>, ErrorReport> {
    if !session::session_is_superuser() {
        return Err(ScopeError::Denied(session::session_role_name()).into());
    }
    session::require_writable(c"tally_internal.try_as_owner()");
    // Of no table, and of no statement, there is no answer.
    let (Some(target), Some(statement)) = (target, statement) else { return Ok(None) };
    Ok(Some(evaluator::as_owner_of(target, tenant_id, || scan::numbers(statement))))
}
