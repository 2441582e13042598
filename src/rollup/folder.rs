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

/// Rows that a process folds at a time: a piece of a second. In larger pieces a row takes less, and who alters the rollup waits longer.
const PROCESS_ROWS: i64 = 50_000;
/// How long a process folds before it makes room for another one. With the piece that it is at, less than the five seconds that DROP
/// DATABASE waits for it.
const PROCESS_LIFE: Duration = Duration::from_secs(3);
/// How often it looks for more before it ends, and how long it waits in between: a busy session brings enough again soon.
const LOOKS: usize = 10;
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(50);
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
/// What else can be wrong with rows that are there: they don't fit an index, or aren't as they were written.
const ROWS_FAULTS: [PgSqlErrorCode; 3] = [
    PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED,
    PgSqlErrorCode::ERRCODE_DATA_CORRUPTED,
    PgSqlErrorCode::ERRCODE_INDEX_CORRUPTED,
];

/// Whether the last fold of the rollup `$1` is known to have failed.
const IS_SET_ASIDE: &str = "task = 'fold' AND subject = $1 AND failed_at IS NOT NULL";

/// Microseconds since 2000, by pending table.
type Moments = LocalKey<RefCell<HashMap<Oid, i64>>>;

thread_local! {
    /// By pending table: when a fold that this session attempted failed last.
    static FAILED: RefCell<HashMap<Oid, i64>> = RefCell::new(HashMap::new());
    /// With which SQLSTATE and message.
    static PROBLEM: RefCell<(String, String)> = const { RefCell::new((String::new(), String::new())) };
    /// By pending table: when this session asked whether it is set aside, and whether it was.
    static SET_ASIDE: RefCell<HashMap<Oid, (i64, bool)>> = RefCell::new(HashMap::new());
    /// By pending table: when this session started a process for it last.
    static STARTED: RefCell<HashMap<Oid, i64>> = RefCell::new(HashMap::new());
    /// By pending table: how many bytes were there then.
    static THERE: RefCell<HashMap<Oid, u64>> = RefCell::new(HashMap::new());
}

/// Has a process fold what other transactions have committed, unless one folds already or was started a moment ago; says whether
/// folding can be left to it. One folds for all rollups, and a second one where that is not enough.
pub fn start(definition: &Definition) -> bool {
    let is_at_work =
        [FOLDING, FOLDER_PROCESS].into_iter().any(|work| lock::is_held(definition.pending, work));
    if is_at_work || is_recent(&STARTED, definition, START_AGAIN_AFTER_US) {
        return true;
    }
    let declared = session::relation(c"rollup");
    if lock::is_held(declared, FOLDER_PROCESS)
        && (!is_behind(definition, 0) || lock::is_held(declared, SECOND_PROCESS))
    {
        return true;
    }
    let has_started = own_transaction::start("tally_fold_main", &definition.name).is_some();
    if !has_started {
        return false;
    }
    note(&STARTED, definition);
    let there = size::live_bytes(definition.pending).unwrap_or(0);
    let before = THERE.with_borrow_mut(|known| known.insert(definition.pending, there));
    // Where more is there than when the last one was started, that one did nothing or too little.
    before.is_none_or(|before| there <= before)
}

/// Whether so much is pending, with what is to be added, that a process alone doesn't get through it.
pub fn is_behind(definition: &Definition, added: u64) -> bool {
    let pending = size::live_bytes(definition.pending).unwrap_or(0);
    pending + added >= BEHIND_AT_LIMITS * settings::pending_limit()
}

/// Where another rollup is behind while one is folded, has a process fold that one meanwhile.
fn start_for_others(definitions: &[Definition], folded: &str) {
    let others =
        definitions.iter().filter(|definition| definition.name != folded && is_behind(definition, 0));
    if let Some(most) = others.max_by_key(|definition| size::live_bytes(definition.pending)) {
        start(most);
    }
}

process_main! {
    /// Where Postgres starts that process.
    fn tally_fold_main() {
        let mut next = own_transaction::begin();
        let began = Instant::now();
        let is_over = || began.elapsed() >= PROCESS_LIFE || worker::shutdown_is_requested();
        let Some(slot) = worker::transaction(take_slot) else { return };
        let mut failed = Vec::new();
        loop {
            let folded = worker::transaction(|| fold_piece(&next));
            worker::transaction(|| record(&next, folded));
            if folded.is_none() {
                failed.push(next.clone());
            }
            if is_over() {
                break;
            }
            if folded == Some(PROCESS_ROWS) {
                continue;
            }
            let others = (0..LOOKS).find_map(|look| {
                if look > 0 {
                    session::pause(LOOK_AGAIN_AFTER);
                }
                if is_over() { None } else { worker::transaction(|| next_pending(&failed)) }
            });
            let Some(other) = others else { break };
            next = other;
        }
        if !failed.is_empty() {
            // Else each call that comes in would start a process that fails. Those for other rollups are welcome.
            let (class, object) = slot;
            session::unlock_early(class, object);
            session::pause(REST_AFTER_FAILURE.saturating_sub(began.elapsed()));
        }
    }
}

/// Makes this process the first or the second that folds; `None` where there are two.
fn take_slot() -> Option<(u32, u32)> {
    let declared = session::relation(c"rollup").to_u32();
    [FOLDER_PROCESS, SECOND_PROCESS]
        .into_iter()
        .map(|process| (declared, process))
        .find(|&(class, object)| session::lock_until_exit(class, object))
}

/// Folds one piece; nothing where another session is folding, `None` where it failed.
fn fold_piece(rollup_name: &str) -> Option<i64> {
    let definitions = definition::all().ok()?;
    let Ok(definition) = definition::find(&definitions, rollup_name) else { return Some(0) };
    // One process a rollup, for as long as it lives.
    if !session::lock_until_exit(definition.pending.to_u32(), FOLDER_PROCESS)
        || !fold::try_folding(definition)
    {
        return Some(0);
    }
    attempt(definition, || fold::fold_pending(definition, PROCESS_ROWS, i64::MIN)).ok().flatten()
}

/// Writes down that a rollup's fold failed, which sets it aside; or that it no longer does.
fn record(rollup_name: &str, folded: Option<i64>) {
    let note = "SELECT tally_internal.note_maintenance('fold', $1, clock_timestamp(), $2, $3, $4)";
    session::as_owner(|| match folded {
        _ if !schema::is_updated() => {}
        Some(0) => {}
        Some(done) => {
            let again = format!("{note} FROM tally.maintenance WHERE {IS_SET_ASIDE}");
            let none = None::<String>;
            sql::run(&again, &[rollup_name.into(), done.into(), none.clone().into(), none.into()]);
        }
        None => {
            let (sqlstate, problem) = PROBLEM.take();
            sql::run(note, &[rollup_name.into(), 0_i64.into(), sqlstate.into(), problem.into()]);
        }
    });
}

/// Whether a rollup's folds are known to fail: then nobody who ingests is to wait for them, or be refused.
pub fn is_set_aside(definition: &Definition) -> bool {
    let now = session::clock();
    let known = SET_ASIDE.with_borrow(|known| known.get(&definition.pending).copied());
    if let Some((at, is_set_aside)) = known
        && (0..RETRY_AFTER_US).contains(&(now - at))
    {
        return is_set_aside;
    }
    let query = format!("SELECT EXISTS (SELECT FROM tally.maintenance WHERE {IS_SET_ASIDE})");
    let is_set_aside =
        session::as_owner(|| sql::one(&query, &[definition.name.as_str().into()])) == Some(true);
    SET_ASIDE.with_borrow_mut(|known| known.insert(definition.pending, (now, is_set_aside)));
    is_set_aside
}

/// A rollup of which enough is pending for a fold, but for those whose fold failed. Counted, since the statistics of a busy session
/// are a second late.
fn next_pending(failed: &[String]) -> Option<String> {
    let definitions = definition::all().ok()?;
    let enough = settings::pending_limit() / 2;
    definitions
        .iter()
        .filter(|definition| !failed.contains(&definition.name))
        .find(|definition| {
            !lock::is_held(definition.pending, FOLDING) && size::fills(definition.pending, enough)
        })
        .map(|definition| definition.name.clone())
}

/// Folds on behalf of a caller who adds other rows than those that are folded: what can't be merged is not theirs, so the log
/// tells of it, everything stays pending, and this gives `None`; also where one failed a moment ago.
pub fn attempt(
    definition: &Definition,
    fold: impl FnOnce() -> Result<i64, RollupError>,
) -> Result<Option<i64>, RollupError> {
    if is_recent(&FAILED, definition, RETRY_AFTER_US) {
        return Ok(None);
    }
    let folded = memory::in_temporary(c"pg_tally attempted fold", || {
        subtransaction::run(|| match fold() {
            Ok(taken) => Verdict::Keep(Ok(taken)),
            Err(error) => Verdict::Undo(Err(error)),
        })
    });
    let (code, problem) = match folded {
        Ok(Ok(taken)) => return Ok(Some(taken)),
        Ok(Err(error @ RollupError::State { .. })) => {
            (PgSqlErrorCode::ERRCODE_DATA_CORRUPTED, Report::from(error).message().to_owned())
        }
        Ok(Err(error)) => return Err(error),
        Err(caught) if caught.is_about_data() || ROWS_FAULTS.contains(&caught.code) => {
            (caught.code, caught.message)
        }
        Err(caught) => caught.rethrow(),
    };
    note(&FAILED, definition);
    PROBLEM.set((subtransaction::sqlstate(code), problem.clone()));
    session::log(true, || {
        format!(
            "pg_tally event=fold_failed rollup={} sqlstate={} problem={}",
            definition.name,
            subtransaction::sqlstate(code),
            serde_json::Value::from(problem)
        )
    });
    Ok(None)
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

#[pg_extern(sql = false)]
fn fold_step(rollup_name: &str, max_rows: i64) -> Result<i64, ErrorReport> {
    session::require_writable(c"tally.maintain()");
    let definitions = definition::all()?;
    let definition = definition::find(&definitions, rollup_name)?;
    let folded = fold::fold_definition(definition, max_rows)?;
    if folded == max_rows {
        start_for_others(&definitions, rollup_name);
    }
    Ok(folded)
}
