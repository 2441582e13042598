//! Processes that fold in transactions of their own what ingest calls have committed, and folds on behalf of a caller whose rows
//! they aren't.

use super::RollupError;
use super::definition::{self, Definition};
use super::fold;
use crate::backend::lock::{self, FOLDER_PROCESS, FOLDING, SECOND_PROCESS};
use crate::backend::report::Report;
use crate::backend::subtransaction::{self, Verdict};
use crate::backend::worker::process_main;
use crate::backend::{memory, own_transaction, schema, session, size, sql, worker};
use crate::settings;
use core::cell::RefCell;
use pgrx::PgSqlErrorCode;
use pgrx::pg_sys::Oid;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use std::collections::HashMap;
use std::thread::LocalKey;
use std::time::{Duration, Instant};

/// Rows that a process folds at a time: at first, and from then on as many, within bounds, as are folded within `PIECE`. In larger pieces
/// a row takes less, and who alters the rollup waits longer.
const PROCESS_ROWS: i64 = 30_000;
const MOST_ROWS: i64 = 100_000;
const FEWEST_ROWS: i64 = 1_000;
const PIECE: Duration = Duration::from_millis(400);
/// How long a process folds before it makes room for another one, which it starts where more is pending: DROP DATABASE, which nobody
/// can connect beside, gets in between. With the piece that it is at, and the looks before it, less than the five seconds that DROP
/// DATABASE waits for it.
const PROCESS_LIFE: Duration = Duration::from_secs(2);
/// How long `maintain()`, the worker and a COPY that has brought too much wait for others to end their piece.
const WAIT_TO_FOLD: Duration = Duration::from_secs(1);
/// How often it looks for more before it ends, and how long it waits in between: a busy session brings enough again soon.
const LOOKS: usize = 5;
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(100);
/// After how long it looks again into a rollup of which it could fold nothing.
const LOOK_INTO_AGAIN_AFTER: Duration = Duration::from_millis(200);
/// How long a session starts no other process for a rollup: one that dies at its start, as where its role may no longer log in,
/// would be followed by one with each call.
const START_AGAIN_AFTER_US: i64 = 1_000_000;
/// How long a session attempts no fold of a rollup after one that failed, in microseconds.
const RETRY_AFTER_US: i64 = 10_000_000;
/// For how long from its start a process whose fold failed keeps others from being started for that rollup.
const REST_AFTER_FAILURE: Duration = Duration::from_secs(3);
/// From so many limits of pending rows on, folding is behind: a second process folds beside the first, and a call that brings much folds
/// a piece itself.
const BEHIND_AT_LIMITS: u64 = 2;
/// What else can be wrong with rows that are there, or their tables: they don't fit an index, aren't as they were written, or would run
/// code that somebody added.
const ROWS_FAULTS: [PgSqlErrorCode; 4] = [
    PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
    PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED,
    PgSqlErrorCode::ERRCODE_DATA_CORRUPTED,
    PgSqlErrorCode::ERRCODE_INDEX_CORRUPTED,
];

const DATA_CORRUPTED: &str = "XX001";
const FEATURE_NOT_SUPPORTED: &str = "0A000";

/// Whether the last fold of the rollup `$1` is known to have failed.
const IS_SET_ASIDE: &str = "task = 'fold' AND subject = $1 AND failed_at IS NOT NULL";
/// And that it was for what its rows or its tables are, not for what passes, as a full disk or a lock.
const IS_FOR_ITS_ROWS: &str = "(left(sqlstate, 2) IN ('0A', '21', '22', '23', '2F', '39', '42', 'P0') AND sqlstate <> '42501' \
     OR sqlstate IN ('54000', 'XX001', 'XX002'))";

/// Microseconds since 2000, by pending table.
type Moments = LocalKey<RefCell<HashMap<Oid, i64>>>;

thread_local! {
    /// By pending table: when a fold that this session attempted failed last.
    static FAILED: RefCell<HashMap<Oid, i64>> = RefCell::new(HashMap::new());
    /// With which SQLSTATE and message.
    static PROBLEM: RefCell<(String, String)> = const { RefCell::new((String::new(), String::new())) };
    /// By pending table: when this session asked whether it is set aside, and for how many seconds it was.
    static SET_ASIDE: RefCell<HashMap<Oid, (i64, Option<f64>)>> = RefCell::new(HashMap::new());
    /// By pending table: when this session started a process for it last.
    static STARTED: RefCell<HashMap<Oid, i64>> = RefCell::new(HashMap::new());
    /// By pending table: how many bytes were there then.
    static THERE: RefCell<HashMap<Oid, u64>> = RefCell::new(HashMap::new());
}

/// Whether processes fold.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Processes {
    /// None is to be had.
    None,
    /// One was started, and more is pending than when the last one was: that did nothing or too little.
    TooFew,
    /// Folding can be left to them.
    Enough,
}

/// Has a process fold what other transactions have committed, unless one folds already or was started a moment ago. One folds for all
/// rollups, and a second one where that is not enough.
pub fn start(definition: &Definition) -> Processes {
    if is_at_work(definition) || is_recent(&STARTED, definition, START_AGAIN_AFTER_US) {
        return Processes::Enough;
    }
    let declared = session::relation(c"rollup");
    if lock::is_kept(declared, FOLDER_PROCESS)
        && (!is_behind(definition, 0) || lock::is_kept(declared, SECOND_PROCESS))
    {
        return Processes::Enough;
    }
    let has_started = own_transaction::start("tally_fold_main", &definition.name).is_some();
    if !has_started {
        return Processes::None;
    }
    note(&STARTED, definition);
    let there = size::live_bytes(definition.pending).unwrap_or(0);
    let before = THERE.with_borrow_mut(|known| known.insert(definition.pending, there));
    if before.is_none_or(|before| there <= before) { Processes::Enough } else { Processes::TooFew }
}

/// Whether another session folds a rollup, or is a process that does.
fn is_at_work(definition: &Definition) -> bool {
    lock::is_held(definition.pending, FOLDING) || lock::is_kept(definition.pending, FOLDER_PROCESS)
}

/// Whether so much is pending, with what is to be added, that a process alone doesn't get through it, or the server doesn't say.
pub fn is_behind(definition: &Definition, added: u64) -> bool {
    size::live_bytes(definition.pending)
        .is_none_or(|pending| pending + added >= BEHIND_AT_LIMITS * settings::pending_limit())
}

/// What came of an attempt to fold a piece.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Piece {
    Folded(i64),
    /// Another session is at it.
    Busy,
    /// The rows can't be folded, or not now, or not in this table.
    Failed,
}

process_main! {
    /// Where Postgres starts that process.
    fn tally_fold_main() {
        let mut next = own_transaction::begin();
        // Who waits holds up all who count on this process.
        session::set_for_session(&[(c"lock_timeout", c"2s")]);
        let mut began = Instant::now();
        let is_over = |began: Instant| began.elapsed() >= PROCESS_LIFE || worker::shutdown_is_requested();
        let Some(slot) = take_slot() else { return };
        // The rollup that this process is at, and those that it leaves alone until a moment, or from now on.
        let mut at: Option<Oid> = None;
        let (mut left, mut is_to_rest) = (Vec::new(), false);
        let (mut rows, mut has_folded) = (PROCESS_ROWS, false);
        loop {
            let before = Instant::now();
            let (piece, locked) = worker::transaction(|| fold_piece(&next, rows, at));
            at = locked;
            let is_full = piece == Piece::Folded(rows);
            if is_full {
                let takes = before.elapsed().as_secs_f64() / rows as f64;
                rows = ((PIECE.as_secs_f64() / takes) as i64).clamp(FEWEST_ROWS, MOST_ROWS);
            }
            match piece {
                Piece::Folded(done) if done > 0 => {
                    has_folded = true;
                    worker::transaction(|| record(&next, Some(done)));
                }
                // What is there is of transactions that go on.
                Piece::Folded(_) => left.push((next.clone(), Some(Instant::now() + LOOK_INTO_AGAIN_AFTER))),
                // It is looked at again: a call that folded a piece itself may leave the rest to this process.
                Piece::Busy => {}
                Piece::Failed => {
                    left.push((next.clone(), None));
                    is_to_rest = true;
                    // Kept, so that no other process is started for it.
                    at = None;
                    worker::transaction(|| record(&next, None));
                }
            }
            let left_now = || -> Vec<String> {
                let stays = |until: &Option<Instant>| until.is_none_or(|until| Instant::now() < until);
                left.iter().filter(|(_, until)| stays(until)).map(|(name, _)| name.clone()).collect()
            };
            if is_over(began) {
                if !has_folded || worker::shutdown_is_requested() {
                    break;
                }
                let Some(other) = worker::transaction(|| next_pending(&next, at, &left_now())) else { break };
                // Another one goes on, also where nobody calls any more. Where none is to be had this one does, unless the database is
                // left to it: then it may be to be dropped.
                if own_transaction::start("tally_fold_main", &other).is_some() || !worker::has_clients() {
                    break;
                }
                (began, has_folded) = (Instant::now(), false);
            }
            let others = (0..LOOKS).find_map(|look| {
                if look > 0 {
                    session::pause(LOOK_AGAIN_AFTER);
                }
                let mut skipped = left_now();
                if look == 0 && !is_full {
                    // Whoever brought less than a piece is given time to bring more.
                    skipped.push(next.clone());
                }
                worker::transaction(|| next_pending(&next, at, &skipped))
            });
            let Some(other) = others else { break };
            if other != next
                && let Some(pending) = at.take()
            {
                session::unlock_early(pending.to_u32(), FOLDER_PROCESS);
            }
            if other != next {
                // A row of another rollup may take longer.
                rows = PROCESS_ROWS;
            }
            next = other;
        }
        if is_to_rest {
            // Else each call that comes in would start a process that fails. Those for other rollups are welcome.
            let (class, object) = slot;
            session::unlock_early(class, object);
            session::pause(REST_AFTER_FAILURE.saturating_sub(began.elapsed()));
        }
    }
}

/// Makes this process the first or the second that folds; `None` where there are two.
fn take_slot() -> Option<(u32, u32)> {
    let declared = worker::transaction(|| session::relation(c"rollup")).to_u32();
    // Who looks whether one is taken has it for a moment.
    (0..3).find_map(|attempt| {
        if attempt > 0 {
            session::pause(LOOK_AGAIN_AFTER);
        }
        [FOLDER_PROCESS, SECOND_PROCESS]
            .into_iter()
            .map(|process| (declared, process))
            .find(|&(class, object)| session::lock_until_exit(class, object))
    })
}

/// Folds one piece of a rollup; also gives the one that this process then has a lock of, which was `at` before.
fn fold_piece(rollup_name: &str, rows: i64, at: Option<Oid>) -> (Piece, Option<Oid>) {
    let definitions = match definition::all() {
        Ok(definitions) => definitions,
        Err(error) => {
            let report = Report::from(error);
            failed(rollup_name, report.sqlstate(), report.message());
            return (Piece::Failed, at);
        }
    };
    let Ok(definition) = definition::find(&definitions, rollup_name) else { return (Piece::Busy, at) };
    let pending = definition.pending;
    if at != Some(pending) && !session::lock_until_exit(pending.to_u32(), FOLDER_PROCESS) {
        return (Piece::Busy, at);
    }
    let at = Some(pending);
    if !fold::try_folding(definition) {
        return (Piece::Busy, at);
    }
    match attempt(definition, || fold::fold_pending(definition, rows, i64::MIN)) {
        Some(folded) => (Piece::Folded(folded), at),
        None => (Piece::Failed, at),
    }
}

/// Keeps what is wrong for `record`, and has the log tell of it.
fn failed(rollup_name: &str, sqlstate: &str, problem: &str) {
    PROBLEM.set((sqlstate.to_owned(), problem.to_owned()));
    session::log(true, || {
        let problem = serde_json::Value::from(problem);
        format!("pg_tally event=fold_failed rollup={rollup_name} sqlstate={sqlstate} problem={problem}")
    });
}

/// Writes down that a rollup's fold failed, which sets it aside where its rows are to blame; or that it no longer does.
fn record(rollup_name: &str, folded: Option<i64>) {
    if !schema::is_updated() {
        return;
    }
    let note = "SELECT tally_internal.note_maintenance('fold', $1, clock_timestamp(), $2, $3, $4)";
    let (statement, sqlstate, problem) = match folded {
        Some(_) => (format!("{note} FROM tally.maintenance WHERE {IS_SET_ASIDE}"), None, None),
        None => {
            let (sqlstate, problem) = PROBLEM.take();
            (note.to_owned(), Some(sqlstate), Some(problem))
        }
    };
    // Whoever has the table is not waited for for long; the next process tries again.
    let _ = subtransaction::run(|| {
        session::as_owner(|| {
            let done = folded.unwrap_or(0);
            sql::run(&statement, &[rollup_name.into(), done.into(), sqlstate.into(), problem.into()]);
        });
        Verdict::Keep(())
    });
}

/// Whether a rollup's folds are known to fail: then nobody who ingests is to wait for them, or be refused.
pub fn is_set_aside(definition: &Definition) -> bool {
    failed_for(definition).is_some()
}

/// Whether it is, and was tried a moment ago.
pub fn is_to_be_left(definition: &Definition) -> bool {
    // Where a clock that was ahead noted the failure, nothing is known of when it was.
    failed_for(definition).is_some_and(|seconds| (0.0..RETRY_AFTER_US as f64).contains(&(seconds * 1e6)))
}

/// For how many seconds a rollup is set aside, since its last fold failed; `None` where it isn't. Asked now and then.
fn failed_for(definition: &Definition) -> Option<f64> {
    let now = session::clock();
    let known = SET_ASIDE.with_borrow(|known| known.get(&definition.pending).copied());
    if let Some((at, failed_for)) = known
        && (0..RETRY_AFTER_US).contains(&(now - at))
    {
        return failed_for;
    }
    let query = format!(
        "SELECT extract(epoch FROM clock_timestamp() - failed_at)::float8 FROM tally.maintenance \
          WHERE {IS_SET_ASIDE} AND {IS_FOR_ITS_ROWS}"
    );
    let failed_for: Option<f64> = session::as_owner(|| sql::one(&query, &[definition.name.as_str().into()]));
    SET_ASIDE.with_borrow_mut(|known| known.insert(definition.pending, (now, failed_for)));
    failed_for
}

/// A rollup of which enough is pending for a fold, in turn after the one that was folded, but for those that are left alone and those
/// that others are at; `at` is this process's own. Counted, since the statistics of a busy session are a second late.
fn next_pending(folded: &str, at: Option<Oid>, left: &[String]) -> Option<String> {
    let definitions = definition::all().ok()?;
    let enough = settings::pending_limit() / 2;
    let (before, after) = definitions.split_at(definitions.partition_point(|other| &*other.name <= folded));
    let is_waiting = |definition: &&Definition| {
        (at == Some(definition.pending) || !is_at_work(definition))
            && !left.contains(&definition.name)
            && size::fills(definition.pending, enough)
            && !is_to_be_left(definition)
    };
    after.iter().chain(before).find(is_waiting).map(|definition| definition.name.clone())
}

/// Folds on behalf of a caller who adds other rows than those that are folded: what keeps them from being merged, in themselves or in
/// the tables, is not the caller's, so the log tells of it, everything stays pending, and this gives `None`; also where one failed a
/// moment ago.
pub fn attempt(definition: &Definition, fold: impl FnOnce() -> Result<i64, RollupError>) -> Option<i64> {
    if is_recent(&FAILED, definition, RETRY_AFTER_US) {
        return None;
    }
    let folded = memory::in_temporary(c"pg_tally attempted fold", || {
        subtransaction::run(|| match fold() {
            Ok(taken) => Verdict::Keep(Ok(taken)),
            Err(error) => Verdict::Undo(Err(error)),
        })
    });
    let (sqlstate, problem) = match folded {
        Ok(Ok(taken)) => return Some(taken),
        Ok(Err(error)) => {
            let is_of_a_state = matches!(error, RollupError::State { .. });
            let report = Report::from(error);
            // Whoever folds is told what is wrong with the measure; here it is rows that aren't as they were written.
            let sqlstate = if is_of_a_state { DATA_CORRUPTED } else { report.sqlstate() };
            (sqlstate.to_owned(), report.message().to_owned())
        }
        Err(caught) if caught.is_about_data() || ROWS_FAULTS.contains(&caught.code) => {
            (caught.sqlstate, caught.message)
        }
        // Folding itself asks for no privilege: code that somebody added to the table does.
        Err(caught) if caught.code == PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE => {
            (FEATURE_NOT_SUPPORTED.to_owned(), caught.message)
        }
        Err(caught) => caught.rethrow(),
    };
    note(&FAILED, definition);
    failed(&definition.name, &sqlstate, &problem);
    None
}

fn note(moments: &'static Moments, definition: &Definition) {
    let now = session::clock();
    moments.with_borrow_mut(|moments| moments.insert(definition.pending, now));
}

/// Whether it was noted at most so many microseconds ago.
fn is_recent(moments: &'static Moments, definition: &Definition, span: i64) -> bool {
    let now = session::clock();
    moments.with_borrow(|moments| {
        moments.get(&definition.pending).is_some_and(|at| (0..span).contains(&(now - at)))
    })
}

/// As `tally.fold`; null where another session is folding that rollup. A process of ours is waited for until it has folded its piece:
/// then it goes on with another rollup.
#[pg_extern(sql = false)]
fn fold_step(rollup_name: &str, max_rows: i64) -> Result<Option<i64>, ErrorReport> {
    session::require_writable(c"tally.maintain()");
    let definitions = definition::all()?;
    let definition = definition::find(&definitions, rollup_name)?;
    if !fold::try_folding(definition) && !take_over(definition) {
        return Ok(None);
    }
    Ok(Some(fold::fold_pending(definition, max_rows, i64::MIN)?))
}

/// Waits for a process that folds a rollup to end its piece; says whether this session is to fold now.
fn take_over(definition: &Definition) -> bool {
    lock::is_kept(definition.pending, FOLDER_PROCESS) && wait_to_fold(definition)
}

/// Waits a second for whoever folds a rollup; says whether this session is to fold now.
pub fn wait_to_fold(definition: &Definition) -> bool {
    let waited = subtransaction::run(|| {
        lock::waiting_at_most(WAIT_TO_FOLD, || {
            session::lock(definition.pending.to_u32(), FOLDING, true);
        });
        Verdict::Keep(())
    });
    match waited {
        Ok(()) => true,
        // Two sessions that have folded one rollup each may wait for the other's.
        Err(caught)
            if matches!(
                caught.code,
                PgSqlErrorCode::ERRCODE_LOCK_NOT_AVAILABLE | PgSqlErrorCode::ERRCODE_T_R_DEADLOCK_DETECTED
            ) =>
        {
            false
        }
        Err(caught) => caught.rethrow(),
    }
}
