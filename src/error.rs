//! Every error that a user can meet, mapped to its SQLSTATE, message, detail and hint.

use crate::backend::appender::AppendError;
use crate::scope::ScopeError;
use pgrx::prelude::*;

fn report(code: PgSqlErrorCode, message: String) -> ErrorReport {
    ErrorReport::new(code, message, "pg_tally")
}

impl From<ScopeError> for ErrorReport {
    fn from(error: ScopeError) -> Self {
        use PgSqlErrorCode as Code;
        match error {
            ScopeError::Missing => {
                report(Code::ERRCODE_INSUFFICIENT_PRIVILEGE, "no tenant in scope".into()).set_hint(
                    "call tally.enter(tenant) first in the transaction, or bind the role with tally.bind_role(role, tenant)",
                )
            }
            ScopeError::Denied(role) => report(
                Code::ERRCODE_INSUFFICIENT_PRIVILEGE,
                format!("role \"{role}\" may not enter this scope"),
            )
            .set_hint("a trusted role (tally.trust_role) may enter any tenant's, a member of tally_analyst also the global one"),
            ScopeError::Latched => report(
                Code::ERRCODE_INSUFFICIENT_PRIVILEGE,
                "the transaction is in another scope already".into(),
            )
            .set_hint("a scope lasts until the transaction ends; it can only be narrowed from a tenant to one of its accounts"),
            ScopeError::Subtransaction => report(
                Code::ERRCODE_INSUFFICIENT_PRIVILEGE,
                "a scope can't be entered inside a savepoint or an exception block".into(),
            )
            .set_hint("call tally.enter() first in the transaction: undoing the savepoint would undo the scope"),
            ScopeError::BadId(problem) => report(Code::ERRCODE_INVALID_PARAMETER_VALUE, problem)
                .set_hint("an id is 1 to 200 bytes of text without control characters"),
        }
    }
}

impl From<AppendError> for ErrorReport {
    fn from(error: AppendError) -> Self {
        let code = PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE;
        match error {
            AppendError::Trigger(table) => report(code, format!("table \"{table}\" has an insert trigger"))
                .set_hint("ingest writes below the executor, where triggers don't fire; drop the trigger"),
            AppendError::Kind(table) => report(code, format!("\"{table}\" is not an ordinary heap table")),
        }
    }
}
