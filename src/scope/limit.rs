//! What a tenant's transactions are limited to, from when they enter its scope.

use super::binding::{Binding, binding};
use super::class::{Class, class, was_confined};
use super::current::entered;
use super::failure::ScopeError;
use super::kind::Scope;
use crate::backend::arena::Arena;
use crate::backend::changes::{self, Heard};
use crate::backend::evaluator;
use crate::backend::heap::Declared;
use crate::backend::hearing;
use crate::backend::known::Known;
use crate::backend::limit::{self, Limit};
use crate::backend::lookup::{Key, Lookup, View};
use crate::backend::report::Report;
use crate::backend::row_count::{bytes_of, rows_of};
use crate::backend::{reads, session};
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::pg_sys::{self, Oid};
use std::cell::Cell;
use std::sync::Mutex;

/// What the columns that limit settings limit.
const LIMITS: [Limit; 4] =
    [Limit::StatementTimeout, Limit::WorkMem, Limit::ParallelWorkers, Limit::IdleInTransaction];

/// A row of tally.tenant_limit.
#[derive(Clone, Copy, Debug, Default)]
struct Limits {
    settings: [Option<i32>; LIMITS.len()],
    transactions: Option<i32>,
    slot_key: i32,
    rows: Option<i64>,
}

impl Limits {
    fn of(&self, limit: Limit) -> Option<i32> {
        LIMITS.iter().zip(self.settings).find_map(|(listed, most)| most.filter(|_| *listed == limit))
    }
}

/// The limits of the running transaction.
struct InForce {
    transaction: u32,
    tenant: String,
    limits: Limits,
    /// What the backend had heard of before they were looked up; `None` where nothing would tell of a change.
    heard: Option<Heard>,
    /// Which of the tenant's slots the transaction holds.
    slot: Option<i32>,
}

thread_local! {
    static KNOWN: Known<String, Limits> = const { Known::new() };
}

static IN_FORCE: Mutex<Option<InForce>> = Mutex::new(None);

/// Lowers what is limited for a tenant, and takes one of its slots.
pub fn apply(tenant: &str) -> Result<(), ScopeError> {
    let transaction = session::transaction_number();
    let latest = IN_FORCE.lock().expect("one thread").take().filter(|latest| latest.tenant == tenant);
    let mut known = match latest {
        Some(latest) if latest.transaction == transaction => latest,
        Some(latest) if latest.heard.is_some_and(|heard| heard == changes::heard()) => {
            InForce { transaction, slot: None, ..latest }
        }
        _ => {
            let (table, heard) = (session::relation(c"tenant_limit"), changes::heard());
            let found = KNOWN.with(|known| {
                known.get_or_look_up(table, tenant.to_owned(), |tenant| look_up(table, tenant))
            });
            InForce {
                transaction,
                tenant: tenant.to_owned(),
                limits: found.value,
                heard: found.is_remembered.then_some(heard),
                slot: None,
            }
        }
    };
    for (limit, most) in LIMITS.into_iter().zip(known.limits.settings) {
        if let Some(most) = most {
            limit::lower(limit, most);
        }
    }
    if let Some(most) = known.limits.of(Limit::StatementTimeout) {
        limit::bound_statement(most, class() != Class::Free);
    }
    if let Some(most) = known.limits.transactions {
        // A savepoint that is undone gives back what was taken in it.
        if known.slot.is_none() || session::in_subtransaction() {
            let key = known.limits.slot_key;
            let free = known.slot.into_iter().chain(0..most).find(|slot| session::try_slot(key, *slot));
            known.slot = Some(free.ok_or_else(|| ScopeError::Busy(tenant.to_owned(), most))?);
        }
    }
    let most = known.limits.rows.filter(|_| class() != Class::Free).map(|rows| rows as u64);
    if most.is_some() {
        hearing::hear_messages();
    } else if !evaluator::is_running() {
        hearing::hear_log_alone();
    }
    TOLD.set(Told { most, ..TOLD.get() });
    *IN_FORCE.lock().expect("one thread") = Some(known);
    Ok(())
}

/// Does so before a statement of a session that is in a tenant's scope, whatever SQL has set since. Where nothing can be set, as in a
/// parallel worker, it was done before.
pub fn enforce() -> Result<(), ErrorReport> {
    let class = class();
    if class == Class::Free || !session::can_set() {
        return Ok(());
    }
    match (class, entered()) {
        (_, Some(Scope::Tenant { tenant, .. })) => apply(&tenant)?,
        (Class::Bound, None) => {
            // Another binding than the transaction's class was derived from may have come since.
            if let Binding::Bound { tenant, .. } = &*binding() {
                apply(tenant)?;
            }
        }
        _ => {}
    }
    Ok(())
}

/// The limit that holds for the running transaction of a confined session, as far as it is known, where it can be set.
fn in_force(limit: Limit) -> Option<i32> {
    let known = IN_FORCE.lock().expect("one thread");
    let most = known.as_ref()?.limits.of(limit)?;
    let is_current = known.as_ref()?.transaction == session::transaction_number();
    drop(known);
    (is_current && session::can_set() && class() != Class::Free).then_some(most)
}

/// Sees to the end of a statement that goes on, as one that fetches from a cursor.
pub fn bound_statement() {
    if let Some(most) = in_force(Limit::StatementTimeout) {
        limit::bound_statement(most, true);
    }
}

/// After a statement, or a part of one.
pub fn after_statement() {
    keep_idle_limit();
    let told = session::reported_path_bytes();
    if told > bytes_of(1)
        && let Some(most) = max_rows()
        && told > bytes_of(most)
    {
        too_many_rows(most).raise();
    }
}

/// Sees to it that no statement leaves the transaction to idle longer than it may.
fn keep_idle_limit() {
    if let Some(most) = in_force(Limit::IdleInTransaction) {
        limit::lower(Limit::IdleInTransaction, most);
    }
}

thread_local! {
    /// Whether what runs counts its rows itself.
    static COUNTS_ITSELF: Cell<bool> = const { Cell::new(false) };
}

/// Rows that a statement which a confined session runs now may hand out; what our own functions run with their owner's rights is not
/// handed to the client.
pub fn max_rows() -> Option<u64> {
    let known = IN_FORCE.lock().expect("one thread");
    let known = known.as_ref().filter(|known| known.transaction == session::transaction_number())?;
    let most = known.limits.rows?;
    let is_exempt = COUNTS_ITSELF.get()
        || session::is_parallel_worker()
        || reads::are_our_own()
        || class() == Class::Free;
    (!is_exempt).then_some(most as u64)
}

/// What the client was told beside rows, by one statement of its own.
#[derive(Clone, Copy)]
struct Told {
    /// Rows that a statement may hand out, as it was looked up last: a procedure may tell something in a transaction in which nobody has asked yet.
    most: Option<u64>,
    /// When the client sent the statement.
    statement: i64,
    /// What was said so far, in rows.
    said: u64,
}

thread_local! {
    static TOLD: Cell<Told> = const { Cell::new(Told { most: None, statement: 0, said: 0 }) };
}

/// How many bytes of a message of so many the client may be told, where that isn't all: messages count as rows do, by the client's
/// statement; of an error as much is told as of them all. Looks nothing up.
pub fn bytes_to_tell(bytes: u64, is_error: bool) -> Option<u64> {
    let told = TOLD.get();
    let most = told.most.filter(|_| was_confined())?;
    if is_error {
        let most = bytes_of(most);
        return (bytes > most).then_some(most);
    }
    let statement = session::statement_start();
    let said = if told.statement == statement { told.said } else { 0 };
    let (left, counted) = (most.saturating_sub(said), rows_of(bytes));
    TOLD.set(Told { statement, said: said + counted.min(left), ..told });
    (counted > left).then_some(0)
}

/// What is told who hands out more.
pub fn too_many_rows(most: u64) -> Report {
    ScopeError::TooManyRows(most).into()
}

/// Runs `work`, which bounds the rows of the statements that it runs.
pub fn without_row_limit<T>(work: impl FnOnce() -> T) -> T {
    /// Puts back what was, also where an error passes through.
    struct Before(bool);
    impl Drop for Before {
        fn drop(&mut self) {
            COUNTS_ITSELF.set(self.0);
        }
    }
    let _before = Before(COUNTS_ITSELF.replace(true));
    work()
}

/// A table of 0.1.0 ends before the last two.
const TENANT_LIMITS: Declared = Declared {
    table: "tenant_limit",
    columns: &[
        ("statement_timeout_ms", pg_sys::INT4OID),
        ("work_mem_kb", pg_sys::INT4OID),
        ("max_parallel_workers_per_gather", pg_sys::INT4OID),
        ("max_transactions", pg_sys::INT4OID),
        ("slot_key", pg_sys::INT4OID),
        ("tenant_id", pg_sys::TEXTOID),
        ("idle_in_transaction_ms", pg_sys::INT4OID),
        ("max_rows", pg_sys::INT8OID),
    ],
    key: &["tenant_id"],
};

const COLUMNS: [i32; 7] = [
    TENANT_LIMITS.at("statement_timeout_ms"),
    TENANT_LIMITS.at("work_mem_kb"),
    TENANT_LIMITS.at("max_parallel_workers_per_gather"),
    TENANT_LIMITS.at("max_transactions"),
    TENANT_LIMITS.at("slot_key"),
    TENANT_LIMITS.at("idle_in_transaction_ms"),
    TENANT_LIMITS.at("max_rows"),
];

fn look_up(table: Oid, tenant: &str) -> Limits {
    let mut arena = Arena::default();
    let mut limits = Lookup::open(table, &[Key::Text], View::Now);
    limits.require_first(&TENANT_LIMITS);
    let found = limits.find(&[arena.varlena(tenant.as_bytes())], COLUMNS).map(|row| Limits {
        settings: [row.int(0), row.int(1), row.int(2), row.int(5)],
        transactions: row.int(3),
        slot_key: row.int(4).unwrap_or_default(),
        rows: row.long(6),
    });
    limits.close();
    found.unwrap_or_default()
}
