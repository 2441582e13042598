//! Why a scope is refused, and what in it.

use super::witness::{self, Denial};
use crate::backend::report::{Report, raised_by_pgrx};
use tally_core::token::TokenError;

/// Why a scope is refused.
#[derive(Debug)]
pub enum ScopeError {
    /// Neither entered nor bound.
    Missing,
    /// The role may not enter this scope.
    Denied(String),
    /// The transaction is in another scope already.
    Latched,
    /// `enter` was called by code that Postgres runs for somebody else.
    Restricted,
    /// `enter` was called inside a savepoint or an exception block.
    Subtransaction,
    /// An earlier client of the session left something in it.
    Dirty(String),
    /// A setting of the pool role's own would change what its clients are answered.
    RoleSetting { role: String, setting: String },
    /// A tenant or account is not an id.
    BadId(String),
    /// What somebody wrote has so many bytes, and may have fewer.
    TooLong { field: String, bytes: usize, most: usize },
    /// A confined session used this.
    Confined(String),
    /// A confined session ran a command that lasts.
    Lasting(&'static str),
    /// The tenant has as many transactions as it may.
    Busy(String, i32),
    /// The statement hands out more rows than the tenant's statements may.
    TooManyRows(u64),
    /// COPY of a table, whose rows nobody would count.
    CopiesTable(u64),
    /// What carries texts out past the count of rows.
    Uncounted(&'static str),
    /// The role enters a scope by token alone.
    NeedsToken(String),
    /// The role was bound under another name.
    Renamed(String),
    /// The role is a member of groups whose bindings differ.
    Ambiguous(String),
    /// The role is bound to the global scope, and tried to write in it.
    ReadsOnly(String),
    /// The token, or the key that is to be registered, is refused.
    Token(TokenError),
    /// The token names a key that is not registered, or no longer valid.
    UnknownKey,
    /// A pool role called `step_up`.
    PoolStepsUp(String),
    /// What is asked for can't be the name of an act.
    BadAct,
    /// A trial of a table's policies was refused by something else, with this message.
    Untold(String),
    /// The act needs a second factor that the session has not shown, for this reason.
    StepUp { act: String, max_age: i32, problem: String },
}

const EXPORT_HINT: &str = "ask for less, or request an export: tally.request_export(query, purpose, max_rows); tally.limit_tenant() sets the limit";

impl From<ScopeError> for Report {
    fn from(error: ScopeError) -> Self {
        tell_denied(&error);
        let denied = "42501";
        match error {
            ScopeError::Missing => Report::new(denied, "no tenant in scope").hint(
                "call tally.enter(tenant) first in the transaction, or have the role bound with tally.bind_role(role, tenant)",
            ),
            ScopeError::Denied(role) => Report::new(denied, format!("role \"{role}\" may not enter this scope")).hint(
                "a trusted role (tally.trust_role) may enter any tenant's scope, a member of tally_analyst also the global one",
            ),
            ScopeError::Latched => Report::new(denied, "the transaction is in another scope already").hint(
                "a scope lasts until the transaction ends; it can only be narrowed from a tenant to one of its accounts",
            ),
            ScopeError::Restricted => {
                Report::new(denied, "the code of an index or a materialized view enters no scope and acts for nobody").hint(
                    "ANALYZE, REINDEX and REFRESH run it as the table's owner, in a session that may see more; have it compute from what it is given. So does a subscription without run_as_owner",
                )
            }
            ScopeError::Subtransaction => {
                Report::new(denied, "a scope can't be entered inside a savepoint or an exception block").hint(
                    "call tally.enter() first in the transaction: undoing the savepoint would undo the scope",
                )
            }
            ScopeError::Dirty(leftover) => {
                Report::new(denied, format!("the session carries {leftover} from before the transaction")).hint(
                    "what one tenant left could reach the next: have the pool run DISCARD ALL between clients; set what a client needs when it logs in, or in the transaction itself",
                )
            }
            ScopeError::RoleSetting { role, setting } => {
                Report::new(denied, format!("role \"{role}\" is a pool role with a setting of its own: {setting}")).hint(format!(
                    "a client could have set it for the next one, and it can change answers: ALTER ROLE {role} RESET {setting} as another role; what all clients need can be set for the database"
                ))
            }
            ScopeError::TooLong { field, bytes, most } => {
                Report::new("22023", format!("{field} has {bytes} bytes, and may have {most}"))
                    .hint("it is kept: say it in fewer words, and name the document or ticket that has more")
            }
            ScopeError::BadId(problem) => Report::new("22023", problem)
                .hint("an id is 1 to 200 bytes of text without control characters"),
            ScopeError::Confined(what) => {
                Report::new(denied, format!("a session that acts for tenants can't use {what}")).hint(
                    "it would tell about other tenants' rows, or stay in the session for the next tenant; use a role of your own",
                )
            }
            ScopeError::Lasting(command) => {
                Report::new(denied, format!("a session that acts for tenants can't run {command}")).hint(
                    "what lasts beyond the session and its tenant is for the owner of the objects or an administrator, who acts for no tenant",
                )
            }
            ScopeError::Busy(tenant, most) => Report::new(
                "53400",
                format!("tenant \"{tenant}\" has {most} transactions open, as many as it may"),
            )
            .hint("try again when one of them has ended; tally.limit_tenant() sets the limit"),
            ScopeError::TooManyRows(most) => Report::new(
                "53400",
                format!("the statement hands out more than {most} rows, as many as one of the tenant's may"),
            )
            .hint(EXPORT_HINT),
            ScopeError::CopiesTable(most) => Report::new(
                "53400",
                format!("COPY of a whole table is not for a session whose statements may hand out {most} rows"),
            )
            .hint("COPY (SELECT * FROM the table) TO, which counts them; for more rows, request an export: tally.request_export()"),
            ScopeError::Uncounted(what) => Report::new(
                "53400",
                format!("{what} is not for a session whose statements may hand out so many rows only"),
            )
            .hint("nobody would count what it carries; SELECT counts, and lo_get() reads large objects; for more rows, request an export: tally.request_export()"),
            ScopeError::NeedsToken(role) => {
                Report::new(denied, format!("role \"{role}\" enters a scope by token alone"))
                    .hint("call tally.challenge(), have the application sign a token that answers it, and call tally.enter(token)")
            }
            ScopeError::Renamed(role) => {
                Report::new(denied, format!("role \"{role}\", or a group of it, was bound under another name"))
                    .hint("a binding ends when its role is renamed: have the role bound again, with tally.bind_role, trust_role or pool_role")
            }
            ScopeError::Ambiguous(role) => {
                Report::new(denied, format!("role \"{role}\" is a member of groups whose bindings differ"))
                    .hint("leave it in one of them, or bind the role itself: its own binding counts before those of its groups")
            }
            ScopeError::ReadsOnly(role) => {
                Report::new(denied, format!("role \"{role}\" is bound to the global scope, which is for reading"))
                    .hint("call tally.enter(tenant) first in the transaction, or write as a trusted role (tally.trust_role)")
            }
            ScopeError::Token(TokenError::Key) => {
                Report::new("22023", "the public key can't be registered")
                    .detail(TokenError::Key.problem())
                    .hint("give the raw key, or what a tool writes as SubjectPublicKeyInfo in DER")
            }
            ScopeError::Token(problem) => {
                let hint = match problem {
                    TokenError::Audience => "tally.token_audience() is what it must be for",
                    TokenError::Nonce => "call tally.challenge() in the same transaction, once for each token",
                    TokenError::NotYet | TokenError::Expired | TokenError::Lifetime => {
                        "sign it when the challenge has come, with exp at most 60 seconds after iat"
                    }
                    _ => "docs/tokens.md says how a token is signed",
                };
                Report::new(denied, "the token is refused").detail(problem.problem()).hint(hint)
            }
            ScopeError::UnknownKey => Report::new(denied, "the token is refused")
                .detail("its key is not registered, or no longer valid")
                .hint("tally.register_key(key_id, public_key) registers one"),
            ScopeError::PoolStepsUp(role) => {
                Report::new(denied, format!("role \"{role}\" is a pool role, which steps up by the token that it enters with"))
                    .hint("have the application sign a token with auth_time, and amr or acr, and call tally.enter(token)")
            }
            ScopeError::BadAct => Report::new("22023", "that is no name of an act")
                .hint("1 to 63 lower-case letters and underscores; tally.step_up_acts() lists those that may need a second factor"),
            ScopeError::Untold(message) => {
                Report::new("55T03", "what the table's row security lets in was not shown: something else refused the trial")
                    .detail(message)
                    .hint("take it away while you try the table: triggers that are ENABLE ALWAYS, rules, privileges that its owner lacks, constraints of domains")
            }
            ScopeError::StepUp { act, max_age, problem } => {
                Report::new("42T20", format!("act \"{act}\" needs a second factor, shown at most {max_age} seconds ago"))
                    .detail(problem)
                    .hint("authenticate anew; then call tally.challenge(), have the application sign a token with auth_time, and amr or acr, and call tally.step_up(token), as a pool role tally.enter(token); tally.set_step_up_policy() says which acts need it")
            }
        }
    }
}

raised_by_pgrx!(ScopeError);

/// Tells of an error that is about to be raised, if it denies something.
fn tell_denied(error: &ScopeError) {
    if witness::is_there()
        && let Some(denial) = denial_of(error)
    {
        witness::denied(&denial);
    }
}

fn denial_of(error: &ScopeError) -> Option<Denial> {
    let denial = |kind, reason: String| Some(Denial { kind, reason });
    match error {
        ScopeError::Missing => denial("no_scope", "no tenant in scope".to_owned()),
        ScopeError::Denied(_) => denial("enter", "the role may not enter this scope".to_owned()),
        ScopeError::Latched => denial("enter", "the transaction is in another scope already".to_owned()),
        ScopeError::Restricted => {
            denial("restricted", "by the code of an index or a materialized view".to_owned())
        }
        ScopeError::Subtransaction => denial("enter", "inside a savepoint or an exception block".to_owned()),
        ScopeError::Dirty(leftover) => denial("enter", format!("the session carries {leftover}")),
        ScopeError::RoleSetting { setting, .. } => {
            denial("enter", format!("the pool role has a setting of its own: {setting}"))
        }
        ScopeError::Confined(what) => denial("confined", what.clone()),
        ScopeError::Lasting(command) => denial("confined", (*command).to_owned()),
        ScopeError::Uncounted(what) => denial("rows", (*what).to_owned()),
        ScopeError::NeedsToken(_) => denial("enter", "the role enters a scope by token alone".to_owned()),
        ScopeError::Renamed(_) => denial("no_scope", "the role was bound under another name".to_owned()),
        ScopeError::Ambiguous(_) => {
            denial("no_scope", "the role's groups have bindings that differ".to_owned())
        }
        ScopeError::ReadsOnly(_) => {
            denial("write", "the role is bound to the global scope, which is for reading".to_owned())
        }
        ScopeError::Token(TokenError::Key)
        | ScopeError::BadAct
        | ScopeError::Untold(_)
        | ScopeError::BadId(_)
        | ScopeError::TooLong { .. }
        | ScopeError::Busy(..) => None,
        ScopeError::TooManyRows(most) | ScopeError::CopiesTable(most) => {
            denial("rows", format!("more than {most} rows of one statement"))
        }
        ScopeError::Token(problem) => denial("token", problem.problem().to_owned()),
        ScopeError::UnknownKey => denial("token", "its key is not registered, or no longer valid".to_owned()),
        ScopeError::PoolStepsUp(_) => {
            denial("token", "a pool role steps up by the token that it enters with".to_owned())
        }
        // The act last: denials are of a kind by how their reasons begin.
        ScopeError::StepUp { act, problem, .. } => {
            denial("step_up", format!("no second factor: {problem}: {act}"))
        }
    }
}
