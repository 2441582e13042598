//! The sealer: stores what sessions handed over, and puts every tenant's entries under a seal once no transaction can add an
//! earlier one.
//!
//! A round takes the entries whose transactions lie below the oldest that is running: all of those have ended, and a later commit
//! can't fall behind the seal. Entries of another cluster, of a dump that was restored, have no such bound.

use super::acts::Act;
use super::store;
use crate::backend::report::{Report, given};
use crate::backend::sql::{self, Moment};
use crate::backend::{lock, ring, session, transaction_end};
use pgrx::datum::DatumWithOid;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use std::cell::RefCell;
use tally_core::audit::{Frontier, Hash, Record, Seal};

/// Bytes of messages that one step stores.
const STEP_BYTES: usize = 1 << 20;

thread_local! {
    /// Messages that the running transaction has stored, and in which nesting.
    static TAKEN: RefCell<Option<(i32, ring::Waiting)>> = const { RefCell::new(None) };
}

/// What a prepared transaction stores may yet be undone, when nobody would know what to put back. What waits of the transaction itself
/// goes to the worker instead.
pub fn refuse_to_prepare() {
    if TAKEN.with_borrow(Option::is_some) {
        Report::new("0A000", "a transaction that has stored audit entries can't be prepared".to_owned())
            .hint("call tally.seal_audit() in a transaction of its own")
            .raise();
    }
}

/// A transaction ended, or a part of it: takes away what it stored, once that is committed.
pub fn forget(nesting: i32, committed: bool) {
    let Some((stored_in, waiting)) = TAKEN.take() else { return };
    match (nesting, committed) {
        (1, true) => waiting.take_away(),
        (1, false) => {}
        _ if stored_in < nesting => TAKEN.set(Some((stored_in, waiting))),
        (_, true) => TAKEN.set(Some((nesting - 1, waiting))),
        // Undone: the messages are still there.
        (_, false) => {}
    }
}

/// Stores what sessions handed over; returns how many entries.
fn store_messages() -> Result<i64, Report> {
    if TAKEN.with_borrow(Option::is_some) {
        // What this transaction has stored stays in the ring until it commits.
        return Ok(0);
    }
    let Some(waiting) = ring::waiting(STEP_BYTES) else { return Ok(0) };
    if waiting.messages.is_empty() && waiting.refused == 0 {
        return Ok(0);
    }
    // What isn't a record was written by another version of the library.
    let mut records: Vec<Record> =
        waiting.messages.iter().filter_map(|message| Record::decode(message)).collect();
    if waiting.refused > 0 {
        let act = Act {
            act: "audit_log_only",
            object: Some("entries that did not fit into shared memory: the server's log has them"),
            detail: serde_json::json!({"entries": waiting.refused}),
            ..Act::default()
        };
        records.push(act.record());
    }
    store::write(&records)?;
    TAKEN.set(Some((transaction_end::nesting(), waiting)));
    Ok(records.len() as i64)
}

/// An entry that is to be sealed.
struct Unsealed {
    tenant_id: String,
    month: String,
    leaf: Hash,
}

/// What one round seals: entries of one cluster, from one transaction up to another.
struct Round {
    origin: i64,
    from_xid: String,
    to_xid: String,
}

// Each query of the sealer has a snapshot of its own (`changed_rows`): that of the calling statement is older than the lock, and would
// miss seals that were made meanwhile, and entries of transactions that lie below the oldest one by now.

/// Seals what can be; at most about `most` entries. Returns how many.
fn seal(most: i64) -> i64 {
    let query = "SELECT r.origin, r.from_xid, r.to_xid FROM tally_internal.audit_rounds($1) AS r";
    let rounds = sql::changed_rows(query, &[most.into()], |row| Round {
        origin: row.need(1),
        from_xid: row.need(2),
        to_xid: row.need(3),
    });
    rounds.iter().map(seal_round).sum()
}

fn seal_round(round: &Round) -> i64 {
    let range: [DatumWithOid; 3] =
        [round.origin.into(), round.from_xid.as_str().into(), round.to_xid.as_str().into()];
    let query = "SELECT e.tenant_id, to_char(e.at, 'YYYY-MM-01'), e.leaf FROM tally.audit_entry AS e \
                  WHERE e.origin = $1 AND e.xid >= $2::xid8 AND e.xid < $3::xid8 \
                  ORDER BY e.tenant_id, 2, e.xid, e.entry_id";
    let unsealed = sql::changed_rows(query, &range, |row| Unsealed {
        tenant_id: row.need(1),
        month: row.need(2),
        leaf: row.need::<Vec<u8>>(3).try_into().unwrap_or_default(),
    });
    if unsealed.is_empty() {
        return 0;
    }
    let (mut place, mut tree) = head(true);
    let groups =
        unsealed.chunk_by(|left, right| (&left.tenant_id, &left.month) == (&right.tenant_id, &right.month));
    let mut seals: Vec<Seal> = Vec::new();
    for group in groups {
        place += 1;
        let (tenant_id, leaves) = (&group[0].tenant_id, group.iter().map(|entry| entry.leaf).collect());
        let before = seals.last().filter(|seal| seal.tenant_id == *tenant_id);
        let (number, total, previous) =
            before.map_or_else(|| last_of(tenant_id), |seal| (seal.number, seal.total, seal.hash()));
        let mut seal = Seal {
            place,
            tenant_id: tenant_id.clone(),
            number: number + 1,
            month: group[0].month.clone(),
            origin: round.origin as u64,
            from_xid: round.from_xid.parse().expect("a number"),
            to_xid: round.to_xid.parse().expect("a number"),
            sealed_at: session::clock(),
            total: total + group.len() as u64,
            root: Hash::default(),
            previous,
            leaves,
        };
        seal.root = seal.root_of_leaves();
        tree.push(seal.hash());
        seals.push(seal);
    }
    let last = place;
    for seal in &seals {
        insert(seal, (seal.place == last).then(|| tree.encode()));
    }
    unsealed.len() as i64
}

/// Rows of a query: with a snapshot of its own, or, where nothing may be written, with the statement's.
fn read<T>(is_fresh: bool, query: &str, take: impl FnMut(sql::Row) -> T) -> Vec<T> {
    if is_fresh { sql::changed_rows(query, &[], take) } else { sql::rows(query, &[], take) }
}

/// Number of seals, and the tree over them.
fn head(is_fresh: bool) -> (u64, Frontier) {
    let last = "SELECT s.place, s.frontier FROM tally.audit_seal AS s ORDER BY s.place DESC LIMIT 1";
    let found = read(is_fresh, last, |row| (row.need::<i64>(1) as u64, row.get::<Vec<u8>>(2)));
    let (place, frontier) = found.into_iter().next().unwrap_or_default();
    match frontier.as_deref().and_then(Frontier::decode) {
        Some(tree) if tree.size() == place => (place, tree),
        _ if place == 0 => (0, Frontier::default()),
        // Somebody has changed it: what verify_audit() reports. It is made anew from the hashes.
        _ => (place, tree_of_hashes(is_fresh)),
    }
}

fn tree_of_hashes(is_fresh: bool) -> Frontier {
    let mut tree = Frontier::default();
    let query = "SELECT s.hash FROM tally.audit_seal AS s ORDER BY s.place";
    for hash in read(is_fresh, query, |row| row.need::<Vec<u8>>(1)) {
        tree.push(hash.try_into().unwrap_or_default());
    }
    tree
}

/// Number, total and hash of a tenant's last seal.
fn last_of(tenant_id: &str) -> (u64, u64, Hash) {
    let last = "SELECT s.number, s.total, s.hash FROM tally.audit_seal AS s WHERE s.tenant_id = $1 ORDER BY s.number DESC LIMIT 1";
    let found = sql::changed_rows(last, &[tenant_id.into()], |row| {
        let hash: Vec<u8> = row.need(3);
        (row.need::<i64>(1) as u64, row.need::<i64>(2) as u64, hash.try_into().unwrap_or_default())
    });
    found.into_iter().next().unwrap_or_default()
}

fn insert(seal: &Seal, frontier: Option<Vec<u8>>) {
    let insert = "INSERT INTO tally.audit_seal AS s (place, number, from_xid, to_xid, sealed_at, origin, total, entries, month, \
           tenant_id, root, previous, hash, leaves, frontier) \
         VALUES ($1, $2, $3::xid8, $4::xid8, $5, $6, $7, $8, $9::date, $10, $11, $12, $13, $14, $15)";
    let (from, to) = (seal.from_xid.to_string(), seal.to_xid.to_string());
    sql::run(
        insert,
        &[
            (seal.place as i64).into(),
            (seal.number as i64).into(),
            from.as_str().into(),
            to.as_str().into(),
            Moment(seal.sealed_at).into(),
            (seal.origin as i64).into(),
            (seal.total as i64).into(),
            (seal.leaves.len() as i32).into(),
            seal.month.as_str().into(),
            seal.tenant_id.as_str().into(),
            seal.root.to_vec().into(),
            seal.previous.to_vec().into(),
            seal.hash().to_vec().into(),
            seal.leaves.concat().into(),
            frontier.into(),
        ],
    );
}

/// One step: stores what waits, then seals. One session at a time does it; another one returns at once.
#[pg_extern(sql = false)]
fn seal_audit(max_entries: Option<i64>) -> Result<i64, ErrorReport> {
    session::require_writable(c"tally.seal_audit()");
    let max_entries = given(max_entries, "max_entries", "leave it out for 50,000")?;
    if max_entries < 1 {
        return Err(Report::new("22023", "max_entries is less than 1")
            .hint("leave it out for 50,000")
            .into());
    }
    if !store::is_installed() || !session::lock(session::relation(c"audit_seal").to_u32(), SEALING, false) {
        return Ok(0);
    }
    let stored = store_messages()?;
    // Another session's seals are seen by a snapshot that is taken after the lock.
    if session::has_fixed_snapshot() {
        return Ok(stored);
    }
    let sealed = session::as_owner(|| seal(max_entries));
    Ok(stored + sealed)
}

/// A statement of the housekeeping's that makes or drops a table of entries; the owner alone may have it run.
#[pg_extern(sql = false)]
fn define_audit_table(statement: &str) {
    session::require_writable(c"tally_internal.define_audit_table()");
    lock::as_owner_defining(|| sql::run(statement, &[]));
}

/// How long entries have waited in shared memory while none was taken out of it, in seconds.
#[pg_extern(sql = false)]
fn audit_waits_s() -> Option<f64> {
    ring::waits_since().map(|since| (session::clock() - since) as f64 / 1_000_000.0)
}

#[pg_extern(sql = false)]
fn cluster_number() -> i64 {
    transaction_end::cluster() as i64
}

/// Second number of the lock that sealing takes; the first is the table of seals.
const SEALING: u32 = 4;

/// Size and root of the tree over all seals.
pub fn tree() -> (u64, Hash) {
    session::as_owner(|| {
        let (size, tree) = head(false);
        (size, tree.root())
    })
}
