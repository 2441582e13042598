//! Every error that a user can meet, mapped to its SQLSTATE, message, detail and hint.

use crate::backend::expression::ExpressionError;
use crate::backend::heap::TableError;
use crate::backend::lock::Busy;
use crate::ingest::{IngestError, Refusal};
use crate::quota::QuotaError;
use crate::rollup::RollupError;
use crate::scope::ScopeError;
use pgrx::PgSqlErrorCode as Code;
use pgrx::pg_sys::panic::ErrorReport;
use tally_core::token::TokenError;
use tally_schema::SchemaError;

fn report(code: Code, message: impl Into<String>) -> ErrorReport {
    ErrorReport::new(code, message.into(), "pg_tally")
}

/// The code of an SQLSTATE; of one that pgrx has no name for, that of a violated check.
fn code_of(sqlstate: &str) -> Code {
    let packed = sqlstate
        .bytes()
        .enumerate()
        .fold(0, |code, (place, byte)| code | i32::from(byte.wrapping_sub(b'0') & 0x3F) << (6 * place));
    match Code::from(packed) {
        Code::ERRCODE_INTERNAL_ERROR => Code::ERRCODE_CHECK_VIOLATION,
        code => code,
    }
}

impl From<ScopeError> for ErrorReport {
    fn from(error: ScopeError) -> Self {
        let denied = Code::ERRCODE_INSUFFICIENT_PRIVILEGE;
        match error {
            ScopeError::Missing => report(denied, "no tenant in scope").set_hint(
                "call tally.enter(tenant) first in the transaction, or have the role bound with tally.bind_role(role, tenant)",
            ),
            ScopeError::Denied(role) => report(denied, format!("role \"{role}\" may not enter this scope")).set_hint(
                "a trusted role (tally.trust_role) may enter any tenant's scope, a member of tally_analyst also the global one",
            ),
            ScopeError::Latched => report(denied, "the transaction is in another scope already").set_hint(
                "a scope lasts until the transaction ends; it can only be narrowed from a tenant to one of its accounts",
            ),
            ScopeError::Subtransaction => {
                report(denied, "a scope can't be entered inside a savepoint or an exception block").set_hint(
                    "call tally.enter() first in the transaction: undoing the savepoint would undo the scope",
                )
            }
            ScopeError::Dirty(leftover) => {
                report(denied, format!("the session carries {leftover} from before the transaction")).set_hint(
                    "what one tenant left could reach the next: have the pool run DISCARD ALL between clients; set what a client needs when it logs in, or in the transaction itself",
                )
            }
            ScopeError::RoleSetting { role, setting } => {
                report(denied, format!("role \"{role}\" is a pool role with a setting of its own: {setting}")).set_hint(format!(
                    "a client could have set it for the next one, and it can change answers: ALTER ROLE {role} RESET {setting} as another role; what all clients need can be set for the database"
                ))
            }
            ScopeError::BadId(problem) => report(Code::ERRCODE_INVALID_PARAMETER_VALUE, problem)
                .set_hint("an id is 1 to 200 bytes of text without control characters"),
            ScopeError::Confined(what) => {
                report(denied, format!("a session that acts for tenants can't use {what}")).set_hint(
                    "it would tell about other tenants' rows, or stay in the session for the next tenant; use a role of your own",
                )
            }
            ScopeError::Lasting(command) => {
                report(denied, format!("a session that acts for tenants can't run {command}")).set_hint(
                    "what lasts beyond the session and its tenant is for the owner of the objects or an administrator, who acts for no tenant",
                )
            }
            ScopeError::Busy(tenant, most) => report(
                Code::ERRCODE_CONFIGURATION_LIMIT_EXCEEDED,
                format!("tenant \"{tenant}\" has {most} transactions open, as many as it may"),
            )
            .set_hint("try again when one of them has ended; tally.limit_tenant() sets the limit"),
            ScopeError::NeedsToken(role) => {
                report(denied, format!("role \"{role}\" enters a scope by token alone"))
                    .set_hint("call tally.challenge(), have the application sign a token that answers it, and call tally.enter(token)")
            }
            ScopeError::Renamed(role) => {
                report(denied, format!("role \"{role}\", or a group of it, was bound under another name"))
                    .set_hint("a binding ends when its role is renamed: have the role bound again, with tally.bind_role, trust_role or pool_role")
            }
            ScopeError::Ambiguous(role) => {
                report(denied, format!("role \"{role}\" is a member of groups whose bindings differ"))
                    .set_hint("leave it in one of them, or bind the role itself: its own binding counts before those of its groups")
            }
            ScopeError::ReadsOnly(role) => {
                report(denied, format!("role \"{role}\" is bound to the global scope, which is for reading"))
                    .set_hint("call tally.enter(tenant) first in the transaction, or write as a trusted role (tally.trust_role)")
            }
            ScopeError::Token(TokenError::Key) => {
                report(Code::ERRCODE_INVALID_PARAMETER_VALUE, "the public key can't be registered")
                    .set_detail(TokenError::Key.problem())
                    .set_hint("give the raw key, or what a tool writes as SubjectPublicKeyInfo in DER")
            }
            ScopeError::Token(problem) => {
                let hint = match problem {
                    TokenError::Audience => "tally.token_audience() is what it must be for",
                    TokenError::Nonce => "call tally.challenge() in the same transaction, once for each token",
                    TokenError::NotYet | TokenError::Expired | TokenError::Lifetime => {
                        "sign it when the challenge has come, with exp at most 60 seconds after iat"
                    }
                    _ => "docs/SECURITY.md says how a token is signed",
                };
                report(denied, "the token is refused").set_detail(problem.problem()).set_hint(hint)
            }
            ScopeError::UnknownKey => report(denied, "the token is refused")
                .set_detail("its key is not registered, or no longer valid")
                .set_hint("tally.register_key(key_id, public_key) registers one"),
        }
    }
}

impl From<IngestError> for ErrorReport {
    fn from(error: IngestError) -> Self {
        match error {
            IngestError::Batch(problem) => {
                let (code, hint) = match problem.sqlstate {
                    "54000" => (
                        Code::ERRCODE_PROGRAM_LIMIT_EXCEEDED,
                        "send fewer events in a batch, or raise tally.batch_max_events",
                    ),
                    _ => (
                        Code::ERRCODE_INVALID_JSON_TEXT,
                        "send one JSON object or an array of them; nothing of this batch was stored",
                    ),
                };
                report(code, problem.reason).set_detail(format!("at byte {}", problem.offset)).set_hint(hint)
            }
            IngestError::Codec(error) => report(Code::ERRCODE_DATA_CORRUPTED, error.reason),
            IngestError::Options(problem) => report(Code::ERRCODE_INVALID_PARAMETER_VALUE, problem).set_hint(
                "options are a JSON object with the keys all_or_nothing (true, false), on_conflict (quarantine, ignore, error), source, client and traceparent",
            ),
            IngestError::Quota(error) => error.into(),
            IngestError::Refused(Refusal { position, event_id, outcome, sqlstate, reason, refused, sent }) => {
                let id = event_id.map_or("unknown".into(), |id| tally_core::event::format_uuid(&id));
                report(code_of(&sqlstate), format!("event {position} (event_id {id}): {outcome}: {reason}"))
                    .set_detail(format!("{refused} of {sent} events like this, SQLSTATE {sqlstate} in quarantine"))
                    .set_hint("nothing of this batch was stored; leave out the options all_or_nothing and on_conflict to have such events wait in quarantine instead")
            }
            IngestError::Scope(error) => error.into(),
            IngestError::Append(error) => error.into(),
            IngestError::NotSerializable => report(
                Code::ERRCODE_T_R_SERIALIZATION_FAILURE,
                "could not serialize access due to a concurrent ingest of the same event",
            )
            .set_hint("retry the transaction"),
            IngestError::Rollup(error) => error.into(),
            IngestError::Busy(busy) => busy_report(busy),
        }
    }
}

/// Locks that other transactions didn't give up in time.
pub fn busy_report(busy: Busy) -> ErrorReport {
    report(Code::ERRCODE_LOCK_NOT_AVAILABLE, format!("{}: other transactions hold the locks", busy.what))
        .set_detail(busy.holders)
        .set_hint("try again when they have ended; pg_stat_activity shows what a process does, pg_terminate_backend() ends it, ROLLBACK PREPARED a prepared transaction")
}

/// A document that is no schema that can be registered.
pub fn schema_report(error: SchemaError) -> ErrorReport {
    report(Code::ERRCODE_INVALID_PARAMETER_VALUE, error.0).set_hint(
        "a schema is a JSON Schema of an event's properties, an object of at most 64 kB; patterns have neither look-around nor back-references",
    )
}

impl From<QuotaError> for ErrorReport {
    fn from(error: QuotaError) -> Self {
        let code = Code::ERRCODE_CONFIGURATION_LIMIT_EXCEEDED;
        match error {
            QuotaError::Rate { tenant, events_per_minute, sent, left, wait, burst } => {
                let report = report(code, format!("tenant \"{tenant}\" is over its quota of {events_per_minute} events a minute"))
                    .set_detail(format!("the call has {sent} events and {left} can be sent now; nothing of it was stored"));
                match wait {
                    Some(seconds) => report.set_hint(format!("retry in {:.0} s", seconds.ceil().max(1.0))),
                    None => report.set_hint(format!("at most {burst} can be sent at once: send smaller batches")),
                }
            }
            QuotaError::Batch { tenant, sent, most } => {
                report(code, format!("the call has {sent} events of tenant \"{tenant}\", at most {most} are allowed"))
                    .set_hint("send smaller batches, at once; nothing of this one was stored")
            }
            QuotaError::Quarantine { tenant, most } => {
                report(code, format!("{most} events of tenant \"{tenant}\" wait in quarantine, and the call would add to them"))
                    .set_hint("retry once some have left it, by tally.redrive() or tally.discard(); a call whose events are all good goes in")
            }
        }
    }
}

impl From<RollupError> for ErrorReport {
    fn from(error: RollupError) -> Self {
        match error {
            RollupError::Name(name) => {
                report(Code::ERRCODE_INVALID_NAME, format!("\"{name}\" can't be used as a name"))
                    .set_hint("use 1 to 40 lower-case letters, digits and underscores, with a letter first")
            }
            RollupError::Grain(name) => {
                report(Code::ERRCODE_INVALID_PARAMETER_VALUE, format!("\"{name}\" is no grain"))
                    .set_hint("grains are minute, hour, day, week, month, quarter and year")
            }
            RollupError::Empty(problem) => report(Code::ERRCODE_INVALID_PARAMETER_VALUE, problem),
            RollupError::Measure(text) => report(
                Code::ERRCODE_SYNTAX_ERROR,
                format!("\"{text}\" is no measure"),
            )
            .set_hint(
                "write kind(expression) AS name, where kind is count, sum, min, max, distinct or percentiles",
            ),
            RollupError::DuplicateColumn(name) => {
                report(Code::ERRCODE_DUPLICATE_COLUMN, format!("column \"{name}\" exists already"))
                    .set_hint("name it otherwise, with AS")
            }
            RollupError::Exists(name) => {
                report(Code::ERRCODE_DUPLICATE_TABLE, format!("relation tally.{name} exists already"))
                    .set_hint("choose another name, or drop that rollup first with tally.drop_rollup()")
            }
            RollupError::OldSnapshot => report(
                Code::ERRCODE_ACTIVE_SQL_TRANSACTION,
                "a rollup can't be declared in a repeatable read or serializable transaction",
            )
            .set_hint("use read committed: the snapshot may be older than events that the rollup must count"),
            RollupError::FixedSnapshot => report(
                Code::ERRCODE_ACTIVE_SQL_TRANSACTION,
                "this can't be done in a repeatable read or serializable transaction",
            )
            .set_hint("use read committed: the snapshot may be older than events that must be counted"),
            RollupError::Range => {
                report(Code::ERRCODE_INVALID_PARAMETER_VALUE, "the range of time is empty or infinite")
                    .set_hint("give a start before the end; leave either out for everything on that side")
            }
            RollupError::Frozen(from) => report(
                Code::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                format!("the events from before {from} were dropped, so these buckets can't be rebuilt"),
            )
            .set_hint("they keep the numbers that they have; rebuild a range that begins later"),
            RollupError::NoMonth(month) => report(
                Code::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                format!("the events of {month} are not there, so buckets that have numbers of them can't be made anew"),
            )
            .set_hint("somebody detached or dropped that month by hand: attach it again, or rebuild the ranges before and after it; tally.detach_raw() is the way to take months out"),
            RollupError::Pending(name) => report(
                Code::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                format!("rollup \"{name}\" has pending rows of buckets whose events would all be dropped"),
            )
            .set_hint("fold it first, with tally.fold(), until that returns 0"),
            RollupError::Unfilled(name) => report(
                Code::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                format!("rollup \"{name}\" is still to be backfilled with events that would be dropped"),
            )
            .set_hint("call tally.backfill() until it returns 0"),
            RollupError::Busy(busy) => busy_report(busy),
            RollupError::Behind(name) => report(
                Code::ERRCODE_CONFIGURATION_LIMIT_EXCEEDED,
                format!("rollup \"{name}\" has too many pending rows, which this call can't fold"),
            )
            .set_hint("retry in 1 s; if that doesn't help, tally.health() names the transaction that keeps folds from happening; call tally.maintain(), and see that max_worker_processes leaves a process for folds"),
            RollupError::TooMuchAtOnce(name) => report(
                Code::ERRCODE_PROGRAM_LIMIT_EXCEEDED,
                format!("this transaction brings rollup \"{name}\" more pending rows than may wait, which are folded only after it ends"),
            )
            .set_hint("nothing of it is stored; send the events in several transactions of fewer events, by several COPYs or with a COMMIT now and then"),
            RollupError::Unknown(name) => {
                report(Code::ERRCODE_UNDEFINED_OBJECT, format!("there is no rollup \"{name}\""))
                    .set_hint("tally.rollup lists the declared rollups")
            }
            RollupError::Type { column, found, hint } => {
                report(Code::ERRCODE_DATATYPE_MISMATCH, format!("column \"{column}\" has type {found}"))
                    .set_hint(hint)
            }
            RollupError::State { rollup, column, problem } => report(
                Code::ERRCODE_DATA_CORRUPTED,
                format!("rollup \"{rollup}\": a stored {column} can't be merged: {problem}"),
            )
            .set_hint("tally.verify_rollup() shows which buckets differ from the events, tally.rebuild_rollup() makes them anew"),
            RollupError::NotSerializable => report(
                Code::ERRCODE_T_R_SERIALIZATION_FAILURE,
                "could not serialize access due to a concurrent fold of the same rollup",
            )
            .set_hint("retry the transaction"),
            RollupError::Value { rollup, column, problem } => report(
                Code::ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE,
                format!("rollup \"{rollup}\": {column} {problem}"),
            ),
            RollupError::StrangeCode { function, is_elevated: false } => report(
                Code::ERRCODE_INVALID_FUNCTION_DEFINITION,
                format!("function {function} in a declared expression has no fixed search_path"),
            )
            .set_hint(format!("ALTER FUNCTION {function} SET search_path = pg_catalog, pg_temp")),
            RollupError::StrangeCode { function, is_elevated: true } => report(
                Code::ERRCODE_INVALID_FUNCTION_DEFINITION,
                format!("function {function} in a declared expression runs with its owner's rights"),
            )
            .set_hint(format!("ALTER FUNCTION {function} SECURITY INVOKER; tally_evaluator must be able to execute what it calls")),
            RollupError::Expression(error) => error.into(),
            RollupError::Append(error) => error.into(),
        }
    }
}

impl From<ExpressionError> for ErrorReport {
    fn from(error: ExpressionError) -> Self {
        match error {
            ExpressionError::NotPlain(text) => report(
                Code::ERRCODE_SYNTAX_ERROR,
                format!("\"{text}\" is not one plain expression over an event"),
            )
            .set_hint("sub-selects, aggregates, window functions and sets of rows can't be used here"),
            ExpressionError::NotImmutable(text) => report(
                Code::ERRCODE_INVALID_OBJECT_DEFINITION,
                format!("\"{text}\" is not immutable"),
            )
            .set_hint(
                "its value may depend on settings, on other rows or on the moment, so a rebuild could differ",
            ),
            ExpressionError::SystemColumn(text) => report(
                Code::ERRCODE_FEATURE_NOT_SUPPORTED,
                format!("\"{text}\" reads a system column or the whole row"),
            ),
            ExpressionError::OwnColumn { expression, column } => report(
                Code::ERRCODE_FEATURE_NOT_SUPPORTED,
                format!("\"{expression}\" reads column \"{column}\", which was added to tally.events"),
            )
            .set_hint("a rollup is made of what the event itself says; read it from properties"),
            ExpressionError::Type { expression, found, needed } => report(
                Code::ERRCODE_DATATYPE_MISMATCH,
                format!("\"{expression}\" has type {found}, which can't be cast to {needed}"),
            ),
        }
    }
}

impl From<TableError> for ErrorReport {
    fn from(error: TableError) -> Self {
        match error {
            TableError::Kind { table, problem, hint } => {
                report(Code::ERRCODE_FEATURE_NOT_SUPPORTED, format!("table \"{table}\" {problem}")).set_hint(hint)
            }
            TableError::Missing(table) => {
                report(Code::ERRCODE_UNDEFINED_TABLE, format!("there is no table tally.{table}")).set_hint(
                    "it was renamed, moved or dropped: give it back its name and schema; what was dropped comes back from a backup alone",
                )
            }
            TableError::Column { table, problem } => {
                report(Code::ERRCODE_DATATYPE_MISMATCH, format!("table \"{table}\" was altered: {problem}")).set_hint(
                    "pg_tally's own columns and keys stay as they were made; columns of yours may be null or have a default. tally.lint() names what was altered",
                )
            }
        }
    }
}
