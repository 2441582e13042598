//! Entries of the running transaction, until it ends: which are in the table, and which wait for their way there.

use super::line;
use super::store;
use crate::backend::report::Report;
use crate::backend::{ring, session, transaction_end};
use serde_json::{Map, Value};
use std::cell::{Cell, RefCell};
use tally_core::audit::Record;

/// Acts that a session without a worker keeps for its next transaction that writes. Older ones are in the log alone.
const KEPT: usize = 1000;
/// Microseconds for which they are kept: what is written a month after it happened counts as put in by hand (the check of the log).
const KEPT_FOR_US: i64 = 7 * 86_400_000_000;
/// Entries that wait in a transaction before they are handed over: a long one mustn't need memory without bounds.
const WAITING: usize = 1000;

/// What an entry is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Its line in the log is written; one that is undone with its transaction says so.
    Act,
    /// The same, of what has happened whatever becomes of the transaction.
    Happened,
    /// It goes to the log only where it can go nowhere else.
    Read,
}

struct Pending {
    /// Of the (sub)transaction that it is in.
    nesting: i32,
    record: Record,
    kind: Kind,
    /// Whether its row is written, and goes if the (sub)transaction does.
    is_stored: bool,
}

thread_local! {
    static PENDING: RefCell<Vec<Pending>> = const { RefCell::new(Vec::new()) };
    /// What else is told when the session ends, by `at_exit`.
    static TELLS_AT_EXIT: Cell<Option<fn()>> = const { Cell::new(None) };
}

/// Has `tell` called when the session ends, before what waits is handed over. There is room for one.
pub fn tell_at_exit(tell: fn()) {
    TELLS_AT_EXIT.set(Some(tell));
    transaction_end::at_session_end(leave);
}

/// Whether sessions of this database can hand entries over. Asked at first where things can be looked up.
pub fn has_worker() -> bool {
    ring::is_there()
}

fn push(record: Record, kind: Kind, is_stored: bool) {
    transaction_end::at_session_end(leave);
    let nesting = transaction_end::nesting().max(1);
    PENDING.with_borrow_mut(|pending| pending.push(Pending { nesting, record, kind, is_stored }));
}

/// Stores an entry in the running transaction; where that may not write, it waits.
pub fn store(record: Record, kind: Kind) -> Result<(), Report> {
    has_worker();
    let is_stored = transaction_end::may_write() && store::is_installed();
    if is_stored {
        store::write(std::slice::from_ref(&record))?;
    }
    push(record, kind, is_stored);
    Ok(())
}

/// Keeps an entry, which happened whatever becomes of the transaction.
pub fn keep(record: Record, kind: Kind) {
    has_worker();
    push(record, kind, false);
    let is_full = PENDING.with_borrow(|pending| pending.len() > WAITING);
    if is_full {
        hand_over_waiting();
    }
}

/// Keeps an entry at the end of its (sub)transaction, where nothing can be looked up.
pub fn keep_at_end(record: Record, kind: Kind) {
    push(record, kind, false);
}

/// Hands an entry to the worker; says whether it took it.
fn hand_over(record: &Record, kind: Kind) -> bool {
    // A standby has no worker that would take it.
    let taken = !transaction_end::in_recovery() && ring::put(&record.encode(), kind != Kind::Read);
    if !taken && kind == Kind::Read {
        line::write("audit", record);
        give_up(1);
    }
    taken
}

/// So many entries stay in the log alone. An act that waits for another chance isn't one of them yet.
fn give_up(entries: usize) {
    if entries > 0 && !transaction_end::in_recovery() {
        ring::count_refused(entries as u64);
    }
}

/// Leaves to the log alone what has waited for too long.
fn give_up_old() {
    let since = now() - KEPT_FOR_US;
    let is_old = |entry: &Pending| !entry.is_stored && entry.record.entry.at < since;
    let mut pending = PENDING.take();
    let old: Vec<Pending> = pending.extract_if(.., |entry| is_old(entry)).collect();
    PENDING.with_borrow_mut(|now| {
        pending.append(now);
        *now = pending;
    });
    // Not while it is borrowed: this writes lines to the log.
    old.iter().filter(|entry| entry.kind == Kind::Read).for_each(|entry| line::write("audit", &entry.record));
    give_up(old.len());
}

/// Hands over everything that isn't stored. What the worker doesn't take stays, where it is an act, until the session writes.
fn hand_over_waiting() {
    give_up_old();
    // Not while it is borrowed: this writes lines to the log.
    let mut pending = PENDING.take();
    pending.retain(|entry| {
        entry.is_stored || !(hand_over(&entry.record, entry.kind) || entry.kind == Kind::Read)
    });
    let waiting = pending.iter().filter(|entry| !entry.is_stored).count();
    let mut surplus = waiting.saturating_sub(KEPT);
    give_up(surplus);
    pending.retain(|entry| {
        let goes = !entry.is_stored && surplus > 0;
        surplus -= usize::from(goes);
        !goes
    });
    PENDING.with_borrow_mut(|now| {
        pending.append(now);
        *now = pending;
    });
}

/// A transaction that writes anyway takes along what waits.
pub fn before_commit() {
    let waits = || PENDING.with_borrow(|pending| pending.iter().any(|entry| !entry.is_stored));
    if waits() {
        give_up_old();
    }
    let waits = waits();
    if !waits || !transaction_end::has_written() || !transaction_end::may_write() || !store::is_installed() {
        return;
    }
    let records: Vec<Record> = PENDING.with_borrow(|pending| {
        pending.iter().filter(|entry| !entry.is_stored).map(|entry| entry.record.clone()).collect()
    });
    if let Err(report) = store::write(&records) {
        report.raise();
    }
    PENDING.with_borrow_mut(|pending| pending.iter_mut().for_each(|entry| entry.is_stored = true));
}

/// A prepared transaction may yet be undone, when no session is left that would tell of it: what it did would be in the log alone, without a
/// word that it did not come to be. What happened whatever becomes of it goes to the worker, as where it ends.
pub fn refuse_to_prepare() {
    let act = PENDING.with_borrow(|pending| {
        let stored = pending.iter().find(|entry| entry.is_stored && entry.kind == Kind::Act);
        stored.map(|entry| entry.record.entry.act.clone())
    });
    if let Some(act) = act {
        Report::new("0A000", format!("a transaction with an act that is recorded can't be prepared: {act}"))
            .detail("Where it is rolled back later, nobody would note that the act did not come to be.")
            .hint("do what is recorded in a transaction of its own; ingest alone can be prepared")
            .raise();
    }
}

/// A transaction ended.
pub fn ended(committed: bool) {
    PENDING.with_borrow_mut(|pending| {
        if committed {
            pending.retain(|entry| !entry.is_stored);
        } else {
            pending.iter_mut().for_each(undo);
        }
        pending.iter_mut().for_each(|entry| entry.nesting = 1);
    });
    if PENDING.with_borrow(|pending| !pending.is_empty()) {
        hand_over_waiting();
    }
}

/// A part of it ended.
pub fn part_ended(nesting: i32, committed: bool) {
    PENDING.with_borrow_mut(|pending| {
        for entry in pending.iter_mut().filter(|entry| entry.nesting >= nesting) {
            entry.nesting = nesting - 1;
            if !committed {
                undo(entry);
            }
        }
    });
}

/// An act whose row went with its transaction is an attempt, and says so.
fn undo(entry: &mut Pending) {
    if !entry.is_stored {
        return;
    }
    entry.is_stored = false;
    if entry.kind == Kind::Act {
        let told = entry.record.entry.detail.as_deref().and_then(|detail| serde_json::from_str(detail).ok());
        let mut detail: Map<String, Value> = match told {
            Some(Value::Object(detail)) => detail,
            _ => Map::new(),
        };
        detail.insert("undone".to_owned(), Value::Bool(true));
        entry.record.entry.detail = Some(Value::Object(detail).to_string());
        line::write("audit_undone", &entry.record);
    }
}

/// Hands an entry over outside of a transaction, as at the end of a session.
pub fn at_exit(record: &Record) {
    line::write("audit", record);
    if !hand_over(record, Kind::Happened) {
        give_up(1);
    }
}

/// The session ends: what still waits has its last chance.
fn leave() {
    if let Some(tell) = TELLS_AT_EXIT.get() {
        tell();
    }
    // A transaction that is open now is undone after this.
    PENDING.with_borrow_mut(|pending| pending.iter_mut().for_each(undo));
    give_up_old();
    let pending = PENDING.take();
    let refused = pending.iter().filter(|entry| !hand_over(&entry.record, entry.kind));
    give_up(refused.filter(|entry| entry.kind != Kind::Read).count());
}

/// Now, for entries that are made outside a transaction.
pub fn now() -> i64 {
    session::clock()
}
