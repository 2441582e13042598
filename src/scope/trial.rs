//! Trials of what the owner of a table can do in a tenant's scope, for a superuser's tests: each is undone.

use super::failure::ScopeError;
use crate::backend::call::sql_function;
use crate::backend::refusal::{self, Refusal};
use crate::backend::{evaluator, scan, session};
use core::ffi::CStr;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::pg_sys::{Datum, Oid};
use pgrx::prelude::*;

/// What a trial answers where a constraint refused a row that the policies had let in.
const REFUSED_BY_CONSTRAINT: i64 = -1;
/// What it answers where a partitioned table has none for the row.
const WITHOUT_PARTITION: i64 = -2;

fn require_superuser(function: &CStr) -> Result<(), ScopeError> {
    if !session::session_is_superuser() {
        return Err(ScopeError::Denied(session::session_role_name()));
    }
    session::require_writable(function);
    Ok(())
}

#[pg_extern(sql = false)]
fn try_as_owner(
    target: Option<Oid>,
    tenant_id: Option<&str>,
    statement: Option<&str>,
) -> Result<Option<Vec<i64>>, ErrorReport> {
    require_superuser(c"tally_internal.try_as_owner()")?;
    // Of no table, and of no statement, there is no answer.
    let (Some(target), Some(statement)) = (target, statement) else { return Ok(None) };
    let answer = evaluator::as_owner_of(target, tenant_id, || scan::numbers(statement));
    Ok(Some(answer.unwrap_or_else(|caught| caught.rethrow())))
}

sql_function! {
    fn tally_try_writing_as_owner / pg_finfo_tally_try_writing_as_owner(call) {
        require_superuser(c"tally_internal.try_writing_as_owner()")?;
        let (Some(target), Some(statement)) = (call.datum(0), call.text(2)) else { return Ok(None) };
        let target = Oid::from(target.value() as u32);
        let rows = evaluator::without_triggers(|| {
            evaluator::as_owner_of(target, call.text(1), || refusal::watched(|| scan::numbers(statement)))
        });
        match rows {
            Ok(rows) => Ok(rows.first().map(|&rows| Datum::from(rows))),
            // What a trial itself refuses.
            Err(caught) if caught.code == PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED => caught.rethrow(),
            Err(caught) if caught.may_be_of_an_expression() => match refusal::of(&caught) {
                Refusal::Policy => Ok(None),
                Refusal::Constraint => Ok(Some(Datum::from(REFUSED_BY_CONSTRAINT))),
                Refusal::NoPartition => Ok(Some(Datum::from(WITHOUT_PARTITION))),
                Refusal::Other(message) => Err(ScopeError::Untold(message).into()),
            },
            Err(caught) => caught.rethrow(),
        }
    }
}
