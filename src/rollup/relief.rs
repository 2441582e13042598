//! What ingest folds on the side: when a call does, what becomes of its own rows, and what it does where writers outrun the
//! folder.
//!
//! Who folds keeps others from folding until its transaction ends. So a call folds in its own transaction only where that
//! ends with the statement and nobody is confined to a tenant: other transactions can stay open for as long as a client
//! likes. Those have a process fold in a transaction of its own, and so have calls that bring little.

use super::RollupError;
use super::accumulate::Rows;
use super::definition::{self, Definition};
use super::delta::Delta;
use super::fold;
use super::shared;
use crate::backend::lock::{self, FOLDER_PROCESS, FOLDING};
use crate::backend::report::Report;
use crate::backend::subtransaction::{self, Verdict};
use crate::backend::worker::process_main;
use crate::backend::{memory, own_transaction, session, size, worker};
use crate::scope;
use crate::settings;
use core::cell::{Cell, RefCell};
use pgrx::PgSqlErrorCode;
use pgrx::pg_sys::Oid;
use std::collections::HashMap;
use std::thread::LocalKey;
use std::time::{Duration, Instant};

/// Rows that one fold by ingest merges at most: a tenth of a second or two.
const FOLD_ROWS: i64 = 30_000;
/// Rows from which on a call folds a piece of what others brought itself. A call that brings fewer would wait a hundred times as long
/// for that as for the rest, and has a process do it.
const FOLDS_ITSELF: usize = 256;
/// Rows whose folding takes memory worth giving back: a few megabytes.
const LARGE_FOLD_ROWS: i64 = 2_000;
/// Ingest folds once, on average, for each half of the limit that is appended: FOLD_ROWS rows are more than that, so pending
/// shrinks, and many rows of one group have become one. For each eighth, ingest took a tenth longer.
const FOLDS_PER_LIMIT: f64 = 2.0;
/// Ingest looks so many times as often as it folds whether too much is pending: a call that adds a 64th of the limit always.
const CHECKS_PER_FOLD: f64 = 32.0;
/// From so many limits of pending rows on, ingest that looks folds, or pauses where another session is folding, so that
/// that one gets the processor: eight writers otherwise outrun one folder for good.
const SLOW_DOWN_AT_LIMITS: u64 = 8;
const PAUSE: Duration = Duration::from_millis(20);
/// At so many limits, of the default a quarter of a gigabyte, which a reader merges in seconds, what comes in is refused.
const REFUSE_AT_LIMITS: u64 = 64;
/// How long a call waits there for a process to fold before it is refused.
const WAIT_FOR_PROCESS: Duration = Duration::from_secs(5);

/// How long a session starts no other process for a rollup: one that dies at its start, as where its role may no longer log in,
/// would be followed by one with each call.
const START_AGAIN_AFTER_US: i64 = 1_000_000;
/// How long a session attempts no fold of a rollup after one that failed, in microseconds.
const RETRY_AFTER_US: i64 = 10_000_000;
/// How long a process whose fold failed keeps others from being started. Shorter than DROP DATABASE waits for it.
const REST_AFTER_FAILURE: Duration = Duration::from_secs(3);
/// Pieces that a process folds before it makes room for another one.
const FOLDS_PER_PROCESS: usize = 100;
/// What else can be wrong with rows that are there: they don't fit an index, or aren't as they were written.
const ROWS_FAULTS: [PgSqlErrorCode; 3] = [
    PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED,
    PgSqlErrorCode::ERRCODE_DATA_CORRUPTED,
    PgSqlErrorCode::ERRCODE_INDEX_CORRUPTED,
];

/// Microseconds since 2000, by pending table.
type Moments = LocalKey<RefCell<HashMap<Oid, i64>>>;

thread_local! {
    /// By pending table: when a fold that this session attempted failed last.
    static FAILED: RefCell<HashMap<Oid, i64>> = RefCell::new(HashMap::new());
    /// By pending table: when this session started a process for it last.
    static STARTED: RefCell<HashMap<Oid, i64>> = RefCell::new(HashMap::new());
    /// By pending table: how many bytes were there then.
    static THERE: RefCell<HashMap<Oid, u64>> = RefCell::new(HashMap::new());
    /// Whether the running call is part of a transaction that goes on after its statement.
    static IN_BLOCK: Cell<bool> = const { Cell::new(true) };
}

/// What an ingest call added to one rollup.
pub struct Added {
    rows: usize,
    bytes: usize,
    /// Drawn by chance, so that writers share no counter.
    drawn: f64,
}

impl Added {
    /// Of these pending rows.
    pub fn draw(rows: &Rows) -> Self {
        Self { rows: rows.len(), bytes: rows.bytes, drawn: session::draw() }
    }

    /// Whether it is so little that the call leaves folding to a process, where one is to be had.
    fn is_small(&self) -> bool {
        self.rows < FOLDS_ITSELF
    }

    /// How probable it was that the call folds.
    fn chance(&self) -> f64 {
        FOLDS_PER_LIMIT * self.bytes as f64 / settings::pending_limit() as f64
    }

    /// Whether there is to be a fold. Not where so little is pending that somebody else must be folding.
    fn is_to_be_folded(&self, definition: &Definition) -> bool {
        self.drawn < self.chance() && self.makes_much_of(definition)
    }

    /// Whether half of the limit is reached with it.
    fn makes_much_of(&self, definition: &Definition) -> bool {
        size::live_bytes(definition.pending)
            .is_none_or(|there| (there + self.bytes as u64) * 2 >= settings::pending_limit())
    }
}

/// Begins an ingest call, outside any subtransaction of its own: inside one, Postgres doesn't tell a block from a statement.
pub fn begin_call() {
    IN_BLOCK.set(session::in_transaction_block());
}

/// Whether this transaction may hold what a fold holds. Not where statements share a snapshot, either: there a fold can fail
/// for reasons that aren't the caller's.
fn may_fold_here() -> bool {
    !IN_BLOCK.get() && !session::has_fixed_snapshot() && !scope::is_confined()
}

/// Where there is to be a fold and nobody else is folding, folds a piece of what is pending and with it the rows that the
/// call adds; says whether it did. The caller appends its rows where this did nothing.
pub fn fold_with(definition: &Definition, added: &Added, rows: &Rows) -> Result<bool, RollupError> {
    if !added.is_to_be_folded(definition) {
        return Ok(false);
    }
    let has_folder = (added.is_small() || !may_fold_here()) && start_folder(definition);
    if has_folder || !may_fold_here() || !fold::try_folding(definition) {
        return Ok(false);
    }
    let folded = attempt(definition, || {
        let deltas = rows.iter().map(|(values, nulls)| Delta::of_row(definition, values, nulls)).collect();
        fold::fold_locked(definition, deltas, FOLD_ROWS, i64::MIN)
    })?;
    // A connection that sends large batches needs as much again.
    if folded.is_some_and(|taken| taken > LARGE_FOLD_ROWS && taken > 4 * rows.len() as i64) {
        memory::give_back();
    }
    Ok(folded.is_some())
}

/// Has a process fold what other transactions have committed, unless one folds already or was started a moment ago; says whether
/// folding can be left to it.
fn start_folder(definition: &Definition) -> bool {
    let is_at_work =
        [FOLDING, FOLDER_PROCESS].into_iter().any(|work| lock::is_held(definition.pending, work));
    if is_at_work || is_recent(&STARTED, definition, START_AGAIN_AFTER_US) {
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

process_main! {
    /// Where Postgres starts that process.
    fn tally_fold_main() {
        let rollup_name = own_transaction::begin();
        for _ in 0..FOLDS_PER_PROCESS {
            match worker::transaction(|| fold_piece(&rollup_name)) {
                Some(FOLD_ROWS) if !worker::shutdown_is_requested() => {}
                // Of what is left after a piece that isn't full, others will make enough for another fold.
                Some(_) => break,
                None => {
                    // Else each call that comes in would start a process that fails.
                    session::pause(REST_AFTER_FAILURE);
                    break;
                }
            }
        }
    }
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
    attempt(definition, || fold::fold_pending(definition, FOLD_ROWS, i64::MIN)).ok().flatten()
}

/// Folds on behalf of a caller who adds other rows than those that are folded: what can't be merged is not theirs, so the log
/// tells of it, everything stays pending, and this gives `None`; also where one failed a moment ago.
fn attempt(
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

/// Folds or pauses where so much is pending that writers must be outrunning the folder, in proportion to what the call added:
/// those who bring little wait little. An error where folding has been kept from happening for too long: what comes in must wait;
/// and where one transaction that can't fold brings more than others may be made to merge.
pub fn relieve(added: &[Option<Added>]) -> Result<(), RollupError> {
    for (definition, added) in shared::current()?.definitions.iter().zip(added) {
        let Some(added) = added else { continue };
        let share = (CHECKS_PER_FOLD * added.chance()).min(1.0);
        if added.drawn >= share {
            continue;
        }
        let Some(mut pending) = limits_pending(definition) else { continue };
        if pending < SLOW_DOWN_AT_LIMITS {
            continue;
        }
        if !may_fold_here() {
            // What this transaction brought nobody else can fold before it ends: waiting for that would be in vain.
            let own = own_limits(definition).min(pending);
            if own >= REFUSE_AT_LIMITS {
                return Err(RollupError::TooMuchAtOnce(definition.name.clone()));
            }
            pending = pending.saturating_sub(own);
            if pending < SLOW_DOWN_AT_LIMITS {
                continue;
            }
        }
        let has_folder = (added.is_small() || !may_fold_here()) && start_folder(definition);
        if has_folder && pending >= REFUSE_AT_LIMITS && await_folder(definition) {
            continue;
        }
        let folds_itself = may_fold_here() && (pending >= REFUSE_AT_LIMITS || (share == 1.0 && !has_folder));
        if folds_itself && fold::try_folding(definition) {
            attempt(definition, || fold::fold_pending(definition, FOLD_ROWS, i64::MIN))?;
            continue;
        }
        if pending >= REFUSE_AT_LIMITS {
            return Err(RollupError::Behind(definition.name.clone()));
        }
        session::pause(PAUSE.mul_f64(share));
    }
    Ok(())
}

/// How many limits of rows are pending.
fn limits_pending(definition: &Definition) -> Option<u64> {
    size::live_bytes(definition.pending).map(|bytes| bytes / settings::pending_limit())
}

/// How many of them this transaction brought.
fn own_limits(definition: &Definition) -> u64 {
    size::own_bytes(definition.pending) / settings::pending_limit()
}

/// Waits until a process has folded enough for the call to go in; says whether it has.
fn await_folder(definition: &Definition) -> bool {
    let until = Instant::now() + WAIT_FOR_PROCESS;
    while Instant::now() < until {
        session::pause(PAUSE);
        size::forget_counts();
        let own = own_limits(definition);
        if limits_pending(definition).is_none_or(|pending| pending.saturating_sub(own) < REFUSE_AT_LIMITS) {
            return true;
        }
        start_folder(definition);
    }
    false
}
