//! Why an export is refused.

use crate::backend::report::{Report, raised_by_pgrx};

/// Why an export is refused.
#[derive(Debug)]
pub enum ExportError {
    /// An argument that must not be null, or is no value that it may have.
    Argument(&'static str),
    /// No query that only reads, but this.
    NoQuery(&'static str),
    /// Two columns have this name.
    SameName(String),
    /// The answer hangs on this, which no approval can be bound to.
    Unbound(String),
    /// The transaction's snapshot may be older than definitions that Postgres goes by.
    FixedSnapshot,
    /// Row security hides nothing from this role.
    SeesEverything(String),
    /// Another role's rights are in force than those of the role that logged in.
    OtherRole,
    /// The token of a pool role says for nobody.
    Nobody,
    /// There is none of this id that the session requested, in its scope.
    NotYours(String),
    /// It is in this state, for this reason.
    State { id: String, state: String, reason: Option<String> },
    /// It was requested by the transaction that would run it.
    SameTransaction(String),
    /// What it reads has changed since it was requested.
    Void(String),
    /// Who requested and who approved it are one person, as they are mapped by now.
    SamePerson(String),
    /// What it reads was changed while it ran.
    Changed(String),
    /// Postgres has no process to note with that it runs.
    NoProcess,
    /// It has more rows than were approved.
    TooManyRows(i64),
}

impl From<ExportError> for Report {
    fn from(error: ExportError) -> Self {
        let (denied, not_so) = ("42501", "55000");
        match error {
            ExportError::Argument(problem) => Report::new("22023", problem)
                .hint("tally.request_export('SELECT …', 'what it is for', 1000, '[\"value of $1\"]')"),
            ExportError::NoQuery(what) => Report::new("42601", format!("an export is of one query that reads, not of {what}"))
                .hint("a SELECT, VALUES or TABLE; its parameters are texts: $1::timestamptz"),
            ExportError::SameName(name) => Report::new("42701", format!("two columns of the export are named \"{name}\""))
                .hint("each row becomes a JSON object: name them differently, with AS"),
            ExportError::Unbound(what) => Report::new("0A000", format!("an export can't read {what}"))
                .hint("what is approved must be what runs: use views, and functions that are STABLE or IMMUTABLE, without SECURITY DEFINER, in C or in SQL with BEGIN ATOMIC"),
            ExportError::FixedSnapshot => Report::new("25001", "exports are requested and run at isolation level read committed")
                .hint("what an older snapshot shows of views and functions isn't what runs: BEGIN ISOLATION LEVEL READ COMMITTED"),
            ExportError::SeesEverything(role) => Report::new(denied, format!("role \"{role}\" sees every tenant's rows, whatever its scope"))
                .hint("row security doesn't hold for superusers and roles with BYPASSRLS: request exports as a role of your own"),
            ExportError::OtherRole => Report::new(denied, "an export is requested and run with the rights of the role that logged in")
                .hint("RESET ROLE, and call it in no function that has its owner's rights"),
            ExportError::Nobody => Report::new(denied, "the token says for nobody")
                .hint("whoever requests an export through a pool role must be named by the token's sub"),
            ExportError::NotYours(id) => Report::new("42704", format!("there is no export {id} of yours in this scope"))
                .hint("it is run by who requested it, in the scope in which that was; tally.exports lists them"),
            ExportError::State { id, state, reason } => Report::new(not_so, format!("export {id} is {state}"))
                .detail(reason.unwrap_or_default())
                .hint("it runs once, when it is approved and before it expires; request another one"),
            ExportError::SameTransaction(id) => Report::new(not_so, format!("export {id} can't run in the transaction that requested it"))
                .detail("That it is started is noted in a transaction of its own, which doesn't see the request before it is committed.")
                .hint("COMMIT, then run it"),
            ExportError::Void(id) => Report::new(not_so, format!("export {id} is void"))
                .detail("What it reads has changed since it was requested: a view, a function, a policy, a table's or a type's definition, or a role's rights.")
                .hint("request it again"),
            ExportError::SamePerson(id) => Report::new(not_so, format!("export {id} is void"))
                .detail("Who requested and who approved it are the same person, as they are mapped now, or two who approved it are.")
                .hint("request it again, and have another person approve it"),
            ExportError::Changed(id) => Report::new(not_so, format!("export {id} ends here: something that it goes by was changed"))
                .hint("what was handed out before is not the whole: request it again"),
            ExportError::NoProcess => Report::new("53000", "Postgres has no process to note with that the export runs")
                .hint("raise max_worker_processes, or try again"),
            ExportError::TooManyRows(most) => Report::new("53400", format!("the export has more than {most} rows, as many as were approved"))
                .hint("what was handed out is not the whole: request it again, with more rows"),
        }
    }
}

raised_by_pgrx!(ExportError);
