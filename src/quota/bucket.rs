//! Events a minute: a token bucket a tenant, kept in tables so that it holds across sessions, without a row that writers
//! would wait for.
//!
//! Each session takes tokens ahead, a sixteenth of a second's worth or what a batch needs, and notes the take as a row of
//! its own in `tally.quota_take`. The level is that of `tally.quota_state` less the takes since; now and then one session,
//! holding an advisory lock that nobody waits for, merges takes into the state. Takes that haven't committed are unknown to
//! others: each open transaction may take what the bucket held when it looked. The bucket goes below zero then, and the
//! rate holds in the long run.

use crate::backend::sql::{self, Moment};
use crate::backend::{session, transactions};
use core::cell::RefCell;
use pgrx::pg_sys::TransactionId;
use std::collections::HashMap;
use tally_core::token_bucket::{Bucket, Level};

/// Takes of a tenant that are read before somebody merges them.
const TAKES: usize = 64;
/// Parts of a second's tokens that a session takes ahead.
const AHEAD: f64 = 16.0;
/// How long a session remembers tokens that it took ahead, in microseconds. They are a sixteenth of a second's; and whether a
/// transaction committed can be asked for no longer than its status is kept.
const REMEMBERED: i64 = 60_000_000;
/// Tenants that a session keeps tokens of.
const TENANTS: usize = 10_000;

/// Tokens that this session has taken and not used.
struct Ahead {
    tokens: f64,
    taken_at: i64,
    /// The transaction that noted the take: undone, it has taken nothing.
    taken_by: TransactionId,
}

/// What there was instead of what was asked for.
pub struct Short {
    pub left: i64,
    /// Seconds until it will be there; `None` where the bucket is too small.
    pub wait: Option<f64>,
}

thread_local! {
    static AHEAD_OF: RefCell<HashMap<String, Ahead>> = RefCell::new(HashMap::new());
}

/// Takes `events` tokens.
pub fn take(tenant: &str, events: i64, bucket: &Bucket) -> Result<(), Short> {
    let wanted = events as f64;
    let now = session::clock();
    let spent = AHEAD_OF.with_borrow_mut(|all| {
        let ahead = all.get_mut(tenant)?;
        let is_recent = (0..REMEMBERED).contains(&(now - ahead.taken_at));
        if !is_recent || !transactions::holds(ahead.taken_by) || ahead.tokens < wanted {
            return None;
        }
        ahead.tokens -= wanted;
        Some(())
    });
    if spent.is_some() {
        return Ok(());
    }
    let level = session::as_owner(|| level(tenant, bucket, now));
    if level.tokens < wanted {
        return Err(Short { left: level.tokens.max(0.0) as i64, wait: bucket.wait(level, wanted) });
    }
    let taken = wanted.max((bucket.rate / AHEAD).min(level.tokens));
    session::as_owner(|| {
        sql::run(
            "INSERT INTO tally.quota_take (taken_at, tokens, tenant_id) VALUES ($1, $2, $3)",
            &[Moment(now).into(), taken.into(), tenant.into()],
        );
    });
    let taken_by = transactions::current();
    AHEAD_OF.with_borrow_mut(|all| {
        if all.len() >= TENANTS {
            all.clear();
        }
        all.insert(tenant.to_owned(), Ahead { tokens: taken - wanted, taken_at: now, taken_by });
    });
    Ok(())
}

/// The level now; merges takes where there are many.
fn level(tenant: &str, bucket: &Bucket, now: i64) -> Level {
    let takes = format!("false, {}, t.tokens", sql::micros("t.taken_at"));
    let state = format!(
        "SELECT true, {}, s.tokens FROM tally.quota_state AS s WHERE s.tenant_id = $1",
        sql::micros("s.refilled_at")
    );
    // One statement, hence one snapshot: what is merged meanwhile is neither missed nor counted twice.
    let (start, found) = read(
        &format!("SELECT {takes} FROM tally.quota_take AS t WHERE t.tenant_id = $1 UNION ALL {state}"),
        tenant,
    );
    let count = found.len();
    let level = bucket.level(start, found, now);
    if count < TAKES || session::has_fixed_snapshot() {
        return level;
    }
    // Not a lock that SQL can take: any login could keep takes from being merged. Nor one that names the tenant: everybody
    // sees the numbers of locks.
    let number = "SELECT coalesce((SELECT hashtext(t.tenant_id || encode(t.sketch_key, 'hex')) FROM tally.tenant AS t WHERE t.tenant_id = $1), 0)";
    let number = sql::one::<i32>(number, &[tenant.into()]).unwrap_or(0) as u32;
    if !session::lock(session::relation(c"quota_take").to_u32(), number, false) {
        return level;
    }
    // Statements after the lock see what its last holder did.
    let (start, _) = read(&state, tenant);
    let (_, found) =
        read(&format!("DELETE FROM tally.quota_take AS t WHERE t.tenant_id = $1 RETURNING {takes}"), tenant);
    let merged = bucket.level(start, found, now);
    sql::run(
        "INSERT INTO tally.quota_state AS s (refilled_at, tokens, tenant_id) VALUES ($1, $2, $3) \
         ON CONFLICT ON CONSTRAINT quota_state_pkey \
         DO UPDATE SET refilled_at = excluded.refilled_at, tokens = excluded.tokens",
        &[Moment(merged.at).into(), merged.tokens.into(), tenant.into()],
    );
    merged
}

/// The state, where the statement returns it, and the takes in order of time. Not read-only: a statement that sends several
/// batches sees its own takes.
fn read(statement: &str, tenant: &str) -> (Option<Level>, Vec<(i64, f64)>) {
    let (mut start, mut takes) = (None, Vec::new());
    sql::changed_rows(statement, &[tenant.into()], |row| {
        let (at, tokens) = (row.need(2), row.need(3));
        if row.need(1) {
            start = Some(Level { tokens, at });
        } else {
            takes.push((at, tokens));
        }
    });
    takes.sort_by_key(|(at, _)| *at);
    (start, takes)
}
