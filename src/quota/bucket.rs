//! Events a minute: a token bucket a tenant, kept in tables so that it holds across sessions, without a row that writers
//! would wait for.
//!
//! Each session takes tokens ahead, a sixteenth of a second's worth or what a batch needs, and notes the take as a row of
//! its own in `tally.quota_take`. The level is that of `tally.quota_state` less the takes since; now and then one session,
//! holding an advisory lock that nobody waits for, merges takes into the state. Takes that haven't committed are unknown to
//! others: each open transaction may take what the bucket held when it looked. The bucket goes below zero then, and the
//! rate holds in the long run.
//!
//! Takes and states say under which rate they were noted. Those of another one count for nothing: a rate that replaces another begins with
//! a full bucket, whatever sessions took under the old one, also in transactions that end later, or hold ahead.

use crate::backend::sql::{self, Moment};
use crate::backend::{heap, session, transactions};
use core::cell::RefCell;
use pgrx::datum::DatumWithOid;
use pgrx::pg_sys::TransactionId;
use std::collections::HashMap;
use tally_core::token_bucket::{Bucket, Level};

/// Takes of a tenant that are read before somebody merges them.
const TAKES: usize = 64;
/// Parts of a second's tokens that a session takes ahead.
const AHEAD: f64 = 16.0;
/// How long a session remembers tokens that it took ahead, and takes under another rate are left alone, in microseconds. The tokens are a
/// sixteenth of a second's; and whether a transaction committed can be asked for no longer than its status is kept.
const REMEMBERED: i64 = 60_000_000;
/// Tenants that a session keeps tokens of.
const TENANTS: usize = 10_000;

/// What a tenant may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    pub events_per_minute: i64,
    /// The most events at once.
    pub burst: i64,
}

impl Rate {
    fn bucket(self) -> Bucket {
        Bucket { capacity: self.burst as f64, rate: self.events_per_minute as f64 / 60.0 }
    }
}

/// Tokens that this session has taken and not used.
struct Ahead {
    tokens: f64,
    rate: Rate,
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
pub fn take(tenant: &str, events: i64, rate: Rate) -> Result<(), Short> {
    let bucket = rate.bucket();
    let wanted = events as f64;
    let now = session::clock();
    let spent = AHEAD_OF.with_borrow_mut(|all| {
        let ahead = all.get_mut(tenant)?;
        let is_recent = (0..REMEMBERED).contains(&(now - ahead.taken_at));
        if ahead.rate != rate || !is_recent || !transactions::holds(ahead.taken_by) || ahead.tokens < wanted {
            return None;
        }
        ahead.tokens -= wanted;
        Some(())
    });
    if spent.is_some() {
        return Ok(());
    }
    let level = session::as_owner(|| Takes::of(tenant, rate).level(now));
    if level.tokens < wanted {
        return Err(Short { left: level.tokens.max(0.0) as i64, wait: bucket.wait(level, wanted) });
    }
    let taken = wanted.max((bucket.rate / AHEAD).min(level.tokens));
    session::as_owner(|| Takes::of(tenant, rate).note(now, taken));
    let taken_by = transactions::current();
    AHEAD_OF.with_borrow_mut(|all| {
        if all.len() >= TENANTS {
            all.clear();
        }
        all.insert(tenant.to_owned(), Ahead { tokens: taken - wanted, rate, taken_at: now, taken_by });
    });
    Ok(())
}

/// What a tenant's sessions took under a rate.
struct Takes<'a> {
    tenant: &'a str,
    rate: Rate,
    /// Whether the tables say under which rate. The library may be newer than they are, until ALTER EXTENSION UPDATE.
    have_rates: bool,
}

impl<'a> Takes<'a> {
    fn of(tenant: &'a str, rate: Rate) -> Self {
        let have_rates = heap::has_column(session::relation(c"quota_take"), c"burst");
        Self { tenant, rate, have_rates }
    }

    /// Tenant and rate, as the statements have them: $1, $2 and $3.
    fn values(&self) -> [DatumWithOid<'a>; 3] {
        [self.tenant.into(), self.rate.events_per_minute.into(), self.rate.burst.into()]
    }

    /// SQL that is true for the rows of a table that count.
    fn count(&self, table: &str) -> String {
        let rate = if self.have_rates {
            format!(" AND {table}.events_per_minute = $2 AND {table}.burst = $3")
        } else {
            String::new()
        };
        format!("{table}.tenant_id = $1{rate}")
    }

    /// Names and values of the columns that say the rate.
    fn rate_columns(&self) -> (&'static str, &'static str, &'static str) {
        if self.have_rates {
            (
                ", events_per_minute, burst",
                ", $2, $3",
                ", events_per_minute = excluded.events_per_minute, burst = excluded.burst",
            )
        } else {
            ("", "", "")
        }
    }

    /// Notes a take.
    fn note(&self, now: i64, tokens: f64) {
        let (names, values, _) = self.rate_columns();
        let [tenant, per_minute, burst] = self.values();
        sql::run(
            &format!(
                "INSERT INTO tally.quota_take (taken_at, tokens, tenant_id{names}) VALUES ($4, $5, $1{values})"
            ),
            &[tenant, per_minute, burst, Moment(now).into(), tokens.into()],
        );
    }

    /// The level now; merges takes where there are many.
    fn level(&self, now: i64) -> Level {
        let bucket = self.rate.bucket();
        let takes = format!("false, {}, t.tokens", sql::micros("t.taken_at"));
        let state = format!(
            "SELECT true, {}, s.tokens FROM tally.quota_state AS s WHERE {}",
            sql::micros("s.refilled_at"),
            self.count("s")
        );
        // One statement, hence one snapshot: what is merged meanwhile is neither missed nor counted twice.
        let (start, found) = self.read(&format!(
            "SELECT {takes} FROM tally.quota_take AS t WHERE {} UNION ALL {state}",
            self.count("t")
        ));
        let count = found.len();
        let level = bucket.level(start, found, now);
        if count < TAKES || session::has_fixed_snapshot() {
            return level;
        }
        // Not a lock that SQL can take: any login could keep takes from being merged. Nor one that names the tenant: everybody
        // sees the numbers of locks.
        let number = "SELECT coalesce((SELECT hashtext(t.tenant_id || encode(t.sketch_key, 'hex')) FROM tally.tenant AS t WHERE t.tenant_id = $1), 0)";
        let number = sql::one::<i32>(number, &[self.tenant.into()]).unwrap_or(0) as u32;
        if !session::lock(session::relation(c"quota_take").to_u32(), number, false) {
            return level;
        }
        // Statements after the lock see what its last holder did.
        let (start, _) = self.read(&state);
        let (_, found) = self
            .read(&format!("DELETE FROM tally.quota_take AS t WHERE {} RETURNING {takes}", self.count("t")));
        let merged = bucket.level(start, found, now);
        let (names, values, new) = self.rate_columns();
        let [tenant, per_minute, burst] = self.values();
        sql::run(
            &format!(
                "INSERT INTO tally.quota_state AS s (refilled_at, tokens, tenant_id{names}) VALUES ($4, $5, $1{values}) \
                 ON CONFLICT ON CONSTRAINT quota_state_pkey \
                 DO UPDATE SET refilled_at = excluded.refilled_at, tokens = excluded.tokens{new}"
            ),
            &[tenant, per_minute, burst, Moment(merged.at).into(), merged.tokens.into()],
        );
        if self.have_rates {
            // What is left of other rates; not at once, since sessions may not know yet that there is another.
            sql::run(
                "DELETE FROM tally.quota_take AS t \
                  WHERE t.tenant_id = $1 AND (t.events_per_minute, t.burst) IS DISTINCT FROM ($2, $3) AND t.taken_at < $4",
                &[
                    self.tenant.into(),
                    self.rate.events_per_minute.into(),
                    self.rate.burst.into(),
                    Moment(now - REMEMBERED).into(),
                ],
            );
        }
        merged
    }

    /// The state, where the statement returns it, and the takes in order of time. Not read-only: a statement that sends several
    /// batches sees its own takes.
    fn read(&self, statement: &str) -> (Option<Level>, Vec<(i64, f64)>) {
        let (mut start, mut takes) = (None, Vec::new());
        sql::changed_rows(statement, &self.values(), |row| {
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
}
