//! Strong locks, taken so that nobody waits for long behind whoever waits for one.
//!
//! Who waits for a strong lock keeps everybody out who comes later, even readers, for as long as the holder likes: a
//! client's idle transaction would stop all the others. So such locks are tried for a moment, given up and tried again,
//! with pauses in which the others get through; after some tries there is an error that names the holders.

use super::own_transaction;
use super::report::{Report, raised_by_pgrx};
use super::subtransaction::{self, Caught, Verdict};
use super::{session, sql};
use pgrx::PgSqlErrorCode;
use pgrx::pg_sys::{self, Oid};
use std::cell::Cell;
use std::ffi::CString;
use std::time::{Duration, Instant};

/// Pieces of work on a table that one session at a time does: second number of a lock of ours; the first is the table's.
pub const FOLDING: u32 = 1;
pub const PARTITION_MAKING: u32 = 2;
/// A process that folds is there, or was in vain a moment ago: on a rollup's table, for that rollup; on that of what is declared, the
/// first one.
pub const FOLDER_PROCESS: u32 = 3;
/// So is a second one.
pub const SECOND_PROCESS: u32 = 6;
/// A COPY that folds what it brought has it besides FOLDING, until it ends.
pub const COPY_FOLDING: u32 = 7;
/// Erasing what was queued.
pub const ERASING: u32 = 5;

/// A lock that didn't come in time.
#[derive(Debug)]
pub struct Busy {
    /// What was to be locked.
    pub what: String,
    /// Which session has it, as a sentence.
    pub holders: String,
}

/// How long to try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attempts {
    /// Once: housekeeping, which comes again.
    One,
    /// Several times: somebody is waiting for the answer.
    Several,
}

/// Time of the first try, and of the longest. A second is what others may have to wait at most; two locks of a try, and a
/// machine under load, must stay below it.
const FIRST_TRY: Duration = Duration::from_millis(100);
pub const LONGEST_TRY: Duration = Duration::from_millis(300);
/// Between two tries: longer than a try, so that others get more than half of the time.
pub const RETRY_PAUSE: Duration = Duration::from_millis(400);
const TRIES: u32 = 12;

/// A lock on a relation, and its mode.
pub type Wanted = (Oid, u32);

/// Takes all the locks, in the order given, until the transaction ends, or none. `what` names them in the error.
pub fn relations(what: &str, wanted: &[Wanted], attempts: Attempts) -> Result<(), Busy> {
    let take = |deadline: Instant| {
        for &(relation, mode) in wanted {
            let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(10));
            waiting_at_most(left, || session::lock_relation(relation, mode));
        }
    };
    tries(attempts, taken(take)).ok_or_else(|| Busy { what: what.to_owned(), holders: holders_of(wanted) })
}

/// Runs work that locks rows of some tables, which others may have locked for as long as they like: a try that doesn't get a lock in a moment
/// is undone with all locks that it took, and made again. `is_busy` tells the work's own errors that say the same.
pub fn tried<T, E: From<Busy>>(
    what: &str,
    tables: &[Oid],
    attempts: Attempts,
    is_busy: impl Fn(&E) -> bool,
    work: impl Fn() -> Result<Verdict<T>, E>,
) -> Result<T, E> {
    let last = Cell::new(None);
    let take = |_| {
        let tried = subtransaction::run(|| match work() {
            Ok(Verdict::Keep(done)) => Verdict::Keep(Ok(done)),
            Ok(Verdict::Undo(done)) => Verdict::Undo(Ok(done)),
            Err(error) => Verdict::Undo(Err(error)),
        });
        match tried {
            Ok(Err(error)) if is_busy(&error) => {
                last.set(Some(error));
                None
            }
            Ok(result) => Some(result),
            // Also in a circle with somebody who has such rows and waits for what this has.
            Err(caught) if is_of_waiting(&caught) => {
                last.set(None);
                None
            }
            Err(caught) => caught.rethrow(),
        }
    };
    tries(attempts, take).unwrap_or_else(|| {
        // Whoever locks rows has a lock on their table that stands in the way of this one. Others keep all of a table of ours from being written.
        let wanted: Vec<_> = tables.iter().map(|&table| (table, pg_sys::ExclusiveLock)).collect();
        let holders = || said(&format!("({} OR {KEPT_FROM_WRITING})", conditions_of(&wanted)));
        let busy = || Busy { what: what.to_owned(), holders: holders() }.into();
        Err(last.take().unwrap_or_else(busy))
    })
}

/// Takes a lock of ours that stands for a piece of work on a table.
pub fn named(what: &str, table: Oid, work: u32, attempts: Attempts) -> Result<(), Busy> {
    let take = |deadline: Instant| {
        let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(10));
        waiting_at_most(left, || {
            session::lock(table.to_u32(), work, true);
        });
    };
    tries(attempts, taken(take))
        .ok_or_else(|| Busy { what: what.to_owned(), holders: holders_of_named(table, work) })
}

/// Runs `work` with a lock_timeout that is at most so long; the caller's own stays where it is shorter.
pub fn waiting_at_most<T>(time: Duration, work: impl FnOnce() -> T) -> T {
    let milliseconds = match (time.as_millis() as i32, session::lock_timeout()) {
        (ours, 0) => ours,
        (ours, own) => ours.min(own),
    };
    let text = CString::new(milliseconds.max(1).to_string()).expect("digits contain no NUL");
    session::with_settings(&[(c"lock_timeout", &text)], work)
}

/// Runs statements that define something, as `session::as_owner` does, with the settings that could change what they define or keep
/// them from running: whoever's first event of a month makes its partition, that one is like all others.
pub fn as_owner_defining<T>(work: impl FnOnce() -> T) -> T {
    let settings = [
        // Both are the database's own to choose; a session that chose another place would choose it for everybody.
        (c"default_tablespace", c""),
        (c"default_table_access_method", c"heap"),
        // Event triggers would run as the owner of our tables, and what they may not do would fail the caller's statement.
        (c"session_replication_role", c"replica"),
        (c"event_triggers", c"off"),
    ];
    // A setting that this release doesn't have is left out.
    let known: Vec<_> = settings.into_iter().filter(|(name, _)| session::is_known(name)).collect();
    // What is to be changed is locked before; who holds something else all the same is not waited for with others locked out.
    session::as_owner(|| session::with_settings(&known, || waiting_at_most(LONGEST_TRY, work)))
}

/// Whether it says that a lock didn't come.
fn is_of_waiting(caught: &Caught) -> bool {
    let codes = [PgSqlErrorCode::ERRCODE_LOCK_NOT_AVAILABLE, PgSqlErrorCode::ERRCODE_T_R_DEADLOCK_DETECTED];
    codes.contains(&caught.code)
}

/// A try that takes locks; `None` where one didn't come.
fn taken(take: impl Fn(Instant)) -> impl Fn(Instant) -> Option<()> {
    move |deadline| {
        let tried = subtransaction::run(|| {
            take(deadline);
            Verdict::Keep(())
        });
        match tried {
            Ok(()) => Some(()),
            // Also in a circle with somebody who has one of them already, and wants another.
            Err(caught) if is_of_waiting(&caught) => None,
            Err(caught) => caught.rethrow(),
        }
    }
}

/// Makes a try until one gives something; `None` where none does. Each is told by when it should end.
fn tries<T>(attempts: Attempts, take: impl Fn(Instant) -> Option<T>) -> Option<T> {
    // A caller that set a lock_timeout wants an answer by then.
    let own = match session::lock_timeout() {
        0 => None,
        milliseconds => Some(Instant::now() + Duration::from_millis(milliseconds as u64)),
    };
    let tries = if attempts == Attempts::One { 1 } else { TRIES };
    let mut time = if attempts == Attempts::One { LONGEST_TRY } else { FIRST_TRY };
    for number in 1..=tries {
        let taken = take(Instant::now() + time);
        if taken.is_some() {
            return taken;
        }
        if number == tries || own.is_some_and(|until| Instant::now() + RETRY_PAUSE >= until) {
            break;
        }
        session::pause(RETRY_PAUSE);
        time = (time * 2).min(LONGEST_TRY);
    }
    None
}

/// Whether another session's ANALYZE, or another command of an administrator's, has a table's lock that keeps partitions from being
/// attached and nothing else. A session that makes a partition has a lock of ours, too.
pub fn is_analyzed(table: Oid) -> bool {
    let query = format!(
        "SELECT EXISTS (SELECT FROM pg_locks AS l \
           WHERE l.granted AND l.locktype = 'relation' AND l.relation = {0} AND l.mode = 'ShareUpdateExclusiveLock' \
             AND l.database = (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database()) \
             AND l.pid NOT IN (pg_backend_pid(), {1}) \
             AND NOT EXISTS (SELECT FROM pg_locks AS o WHERE o.pid = l.pid AND o.granted AND o.locktype = 'advisory' \
                               AND o.classid = {0} AND o.objid = {PARTITION_MAKING} AND o.objsubid = 3))",
        table.to_u32(),
        own_transaction::caller()
    );
    session::as_owner(|| sql::one::<bool>(&query, &[])) == Some(true)
}

/// Whether another transaction does a piece of work on a table.
pub fn is_held(table: Oid, work: u32) -> bool {
    session::is_locked(table.to_u32(), work)
}

/// Whether another session has a lock of ours, also one that it keeps beyond its transactions. Who looks has it for a moment.
pub fn is_kept(table: Oid, work: u32) -> bool {
    if !session::lock(table.to_u32(), work, false) {
        return true;
    }
    session::unlock(table.to_u32(), work);
    false
}

const HOLDERS: &str = "coalesce((SELECT string_agg(who, ', ' ORDER BY who) FROM (\
       SELECT DISTINCT CASE WHEN l.pid IS NULL THEN 'prepared transaction ' || coalesce(quote_literal(x.gid), l.virtualtransaction) \
                            ELSE 'process ' || l.pid END AS who \
         FROM pg_locks AS l \
         LEFT JOIN pg_locks AS o ON l.pid IS NULL AND o.pid IS NULL AND o.locktype = 'transactionid' AND o.virtualtransaction = l.virtualtransaction \
         LEFT JOIN pg_prepared_xacts AS x ON x.transaction = o.transactionid \
        WHERE l.granted AND l.pid IS DISTINCT FROM pg_backend_pid() \
          AND l.database = (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database()) AND ";

/// Locks that keep a table of ours from being written.
const KEPT_FROM_WRITING: &str = "(l.locktype = 'relation' AND l.mode IN ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock') \
       AND l.relation IN (SELECT c.oid FROM pg_class AS c WHERE c.relnamespace = 'tally'::regnamespace))";

fn said(condition: &str) -> String {
    let query = format!(
        "SELECT {HOLDERS}{condition} LIMIT 8) AS holding), 'transactions that may have ended by now')"
    );
    let who: String = session::as_owner(|| sql::one(&query, &[])).unwrap_or_default();
    format!("held by {who}")
}

fn holders_of(wanted: &[Wanted]) -> String {
    said(&format!("({})", conditions_of(wanted)))
}

fn conditions_of(wanted: &[Wanted]) -> String {
    let conditions: Vec<String> = wanted
        .iter()
        .map(|(relation, mode)| {
            // A reader's lock stands in the way of ACCESS EXCLUSIVE alone.
            let harmless = match *mode {
                pg_sys::AccessExclusiveLock => "''",
                pg_sys::ExclusiveLock => "'AccessShareLock'",
                _ => "'AccessShareLock', 'RowShareLock'",
            };
            format!(
                "(l.locktype = 'relation' AND l.relation = {} AND l.mode NOT IN ({harmless}))",
                relation.to_u32()
            )
        })
        .collect();
    conditions.join(" OR ")
}

fn holders_of_named(table: Oid, work: u32) -> String {
    said(&format!(
        "l.locktype = 'advisory' AND l.classid = {} AND l.objid = {work} AND l.objsubid = 3",
        table.to_u32()
    ))
}

impl From<Busy> for Report {
    fn from(busy: Busy) -> Self {
        Report::new("55P03", format!("{}: other transactions hold the locks", busy.what))
            .detail(busy.holders)
            .hint("try again when they have ended; pg_stat_activity shows what a process does, pg_terminate_backend() ends it, ROLLBACK PREPARED a prepared transaction")
    }
}

raised_by_pgrx!(Busy);
