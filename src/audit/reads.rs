//! Reads: which statements read raw events, personal columns or anything that belongs to tenants, and how many rows they
//! returned. One entry a statement of the client's; what functions read inside belongs to it.
//!
//! A statement that fails is recorded, too: rows may have reached the client before.

use super::acts::{self, Act, cut};
use super::pending::{self, Kind};
use crate::backend::arena::{self, Arena};
use crate::backend::known::Known;
use crate::backend::lookup::{Key, Lookup, View};
use crate::backend::reads::{self, Column, Reads};
use crate::backend::schema::is_of_postgres;
use crate::backend::{session, transaction_end};
use crate::scope::{self, Scope};
use crate::settings;
use pgrx::pg_sys::{self, Oid};
use serde_json::{Value, json};
use std::cell::{Cell, LazyCell, RefCell};
use std::collections::HashMap;
use std::sync::OnceLock;
use tally_core::audit::Record;

/// What is recorded of a tenant's reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Recorded {
    /// Nothing.
    None,
    /// Statements that read raw events or personal columns.
    Raw,
    /// Statements that read anything that belongs to tenants.
    All,
}

/// What a relation holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Holds {
    Other,
    /// Numbers that belong to tenants.
    Numbers,
    /// Events as they were sent.
    Raw,
}

/// A statement that reads.
struct Statement {
    id: usize,
    nesting: i32,
    record: Record,
    relations: Vec<String>,
    rows: u64,
    query_id: i64,
}

thread_local! {
    static OPEN: RefCell<Vec<Statement>> = const { RefCell::new(Vec::new()) };
    /// The client's statement that is running, and the nesting of the transaction in which it runs.
    static RUNNING: Cell<Option<(usize, i32)>> = const { Cell::new(None) };
    static HOLDS: RefCell<HashMap<Oid, Holds>> = RefCell::new(HashMap::new());
    static POLICY: Known<String, Option<Recorded>> = const { Known::new() };
    /// Whether there is a policy at all.
    static IS_DECLARED: Known<(), bool> = const { Known::new() };
}

/// Relations that a session remembers.
const REMEMBERED: usize = 2000;

/// What tells which columns are personal.
pub struct Classifier {
    /// Whether a column is, as the catalogue found it last; column 0 stands for all.
    pub is_personal: fn(Oid, Column) -> bool,
    /// Whether one of these relations has such a column, as of now: what was made or changed since is looked at.
    pub have_personal: fn(&[Oid]) -> bool,
}

static CLASSIFIER: OnceLock<Classifier> = OnceLock::new();

/// Says which columns are classified personal; for the catalogue, once, when the library is loaded.
pub fn classify_by(classifier: Classifier) {
    let _ = CLASSIFIER.set(classifier);
}

/// Whether one of the relations has a column that is classified personal, as of now. It takes a moment, and runs as the owner.
pub fn have_personal_columns(relations: &[Oid]) -> bool {
    CLASSIFIER.get().is_some_and(|classifier| (classifier.have_personal)(relations))
}

/// Whether a relation of the schema is the events' table, a part of it or a month that was taken out: no other has a key and properties as
/// jsonb, since no column of a rollup is jsonb.
fn has_events(relation: Oid) -> bool {
    reads::has_column(relation, c"event_id")
        && reads::column_type(relation, c"properties") == Some(pg_sys::JSONBOID)
        && reads::is_table(relation)
}

fn holds(relation: Oid) -> Holds {
    HOLDS.with_borrow_mut(|known| {
        if known.len() >= REMEMBERED {
            known.clear();
        }
        *known.entry(relation).or_insert_with(|| match reads::own_name(relation) {
            None => Holds::Other,
            // Whatever it is called: a rollup may have any name.
            Some(_) if has_events(relation) => Holds::Raw,
            Some(name) if reads::is_of_extension(relation) && name == "quarantine" => Holds::Raw,
            Some(name) if reads::is_of_extension(relation) && name.starts_with("audit_") => Holds::Other,
            Some(_) if !reads::has_column(relation, c"tenant_id") => Holds::Other,
            Some(_) => Holds::Numbers,
        })
    })
}

fn policy_of(tenant: &str) -> Recorded {
    let Some(table) = session::find_relation(c"audit_policy") else { return Recorded::None };
    POLICY.with(|known| {
        let of = |tenant: &str| {
            known.get_or_look_up(table, tenant.to_owned(), |tenant| look_up(table, tenant)).value
        };
        of(tenant).or_else(|| of("")).unwrap_or(Recorded::None)
    })
}

/// Whether reads of anybody's may be recorded: where no policy was ever declared, a statement has nothing more looked up.
fn may_be_recorded() -> bool {
    let Some(table) = session::find_relation(c"audit_policy") else { return false };
    let has_rows = |(): &()| {
        let mut policies = Lookup::open(table, &[], View::Now);
        let found = policies.find(&[], [1]).is_some();
        policies.close();
        found
    };
    IS_DECLARED.with(|known| known.get_or_look_up(table, (), has_rows).value)
}

fn look_up(table: Oid, tenant: &str) -> Option<Recorded> {
    /// The column.
    const READS: i32 = 1;
    let mut arena = Arena::default();
    let mut policies = Lookup::open(table, &[Key::Text], View::Now);
    let found = policies.find(&[arena.varlena(tenant.as_bytes())], [READS]).map(|row| {
        // SAFETY: column 1 is a short text that is not null, and the row is valid until the next `find`.
        match arena::read_text(row.values[0]) {
            "none" => Recorded::None,
            "raw" => Recorded::Raw,
            _ => Recorded::All,
        }
    });
    policies.close();
    found
}

/// A statement begins; `id` names it until it ends.
pub fn statement_starts(id: usize, statement: &Reads) {
    if !transaction_end::is_running() || session::is_parallel_worker() {
        return;
    }
    // The tables first: who reads others has nothing looked up.
    let mut what = Holds::Other;
    let mut relations = Vec::new();
    let may_be_recorded = LazyCell::new(may_be_recorded);
    statement.relations(|relation, columns| {
        let mut holds = holds(relation);
        if holds < Holds::Raw
            && let Some(classifier) = CLASSIFIER.get()
            && !is_of_postgres(relation)
            && *may_be_recorded
            && columns().into_iter().any(|column| (classifier.is_personal)(relation, column))
        {
            holds = Holds::Raw;
        }
        if holds > Holds::Other {
            relations.push(relation);
        }
        what = what.max(holds);
    });
    if what == Holds::Other || !*may_be_recorded || !session::is_installed() {
        return;
    }
    let scope = scope::current();
    // What our own functions do with their owner's rights is no read of the client's, unless they hand out events in its scope.
    if reads::are_our_own() && (what < Holds::Raw || !matches!(scope, Ok(Scope::Tenant { .. }))) {
        return;
    }
    let (tenant, account) = match scope {
        Ok(Scope::Tenant { tenant, account }) => (tenant, account),
        Ok(Scope::Global) | Err(_) => (String::new(), None),
    };
    let recorded = policy_of(&tenant);
    if recorded == Recorded::None || (recorded == Recorded::Raw && what < Holds::Raw) {
        return;
    }
    pending::has_worker();
    let top = RUNNING.get().map_or(id, |(running, _)| running);
    OPEN.with_borrow_mut(|open| {
        let place = match open.iter().position(|statement| statement.id == top) {
            Some(place) => place,
            None => {
                let subject = scope::subject();
                let record = Act {
                    act: "read",
                    tenant: &tenant,
                    account: account.as_deref(),
                    personal: subject.map_or(Value::Null, |subject| json!({"subject": subject})),
                    ..Act::default()
                }
                .record();
                let nesting = transaction_end::nesting();
                let query_id = statement.query_id();
                open.push(Statement { id: top, nesting, record, relations: Vec::new(), rows: 0, query_id });
                open.len() - 1
            }
        };
        for relation in relations {
            if let Some(name) = reads::qualified_name(relation)
                && !open[place].relations.contains(&name)
            {
                open[place].relations.push(name);
            }
        }
    });
}

/// The statement around another one, if any.
pub type Before = Option<(usize, i32)>;

/// A statement runs, or goes on; answers what ran before, for `statement_ran`.
pub fn statement_runs(id: usize) -> Before {
    let before = RUNNING.get();
    if before.is_none() {
        RUNNING.set(Some((id, transaction_end::nesting())));
    }
    before
}

/// It has run, and returned so many rows.
pub fn statement_ran(id: usize, before: Before, rows: u64) {
    RUNNING.set(before);
    OPEN.with_borrow_mut(|open| {
        if let Some(statement) = open.iter_mut().find(|statement| statement.id == id) {
            statement.rows += rows;
        }
    });
}

/// It has ended.
pub fn statement_ends(id: usize) {
    let ended = OPEN.with_borrow_mut(|open| {
        let place = open.iter().position(|statement| statement.id == id)?;
        Some(open.swap_remove(place))
    });
    if let Some(statement) = ended {
        pending::keep(statement.finish(false), Kind::Read);
    }
}

/// A transaction ended, or a part of it of this nesting: of what had not ended by then, rows may have reached the client.
pub fn forget(nesting: i32, committed: bool) {
    if !committed && RUNNING.get().is_some_and(|(_, running)| running >= nesting) {
        RUNNING.set(None);
    }
    let unfinished = OPEN.with_borrow_mut(|open| {
        let mut unfinished = Vec::new();
        for mut statement in std::mem::take(open) {
            if statement.nesting < nesting {
                open.push(statement);
            } else if committed && nesting > 1 {
                statement.nesting = nesting - 1;
                open.push(statement);
            } else {
                unfinished.push(statement);
            }
        }
        unfinished
    });
    for statement in unfinished {
        pending::keep_at_end(statement.finish(!committed), Kind::Read);
    }
}

impl Statement {
    fn finish(mut self, failed: bool) -> Record {
        let mut detail = json!({"relations": self.relations, "rows": self.rows});
        if self.query_id != 0 {
            detail["query_id"] = json!(self.query_id);
        }
        if failed {
            // Those of the run that failed aren't counted.
            detail["failed"] = json!(true);
        }
        if let Some(client) = session::application_name() {
            detail["client"] = json!(cut(&client, 64));
        }
        let trace = settings::ingest_options()
            .and_then(|options| serde_json::from_str::<Value>(&options.to_string_lossy()).ok())
            .and_then(|options| {
                Some(tally_core::traceparent::parse(options["traceparent"].as_str()?)?.trace_id.to_owned())
            });
        if let Some(trace) = trace {
            detail["trace_id"] = json!(trace);
        }
        self.record.entry.detail = Some(acts::text(detail));
        self.record
    }
}
