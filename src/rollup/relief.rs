//! What ingest folds on the side: when a call does, what becomes of its own rows, and what it does where writers outrun the
//! folder.

use super::RollupError;
use super::accumulate::Rows;
use super::definition::{self, Definition};
use super::delta::Delta;
use super::fold::{self, Wait};
use crate::backend::subtransaction::{self, Verdict};
use crate::backend::{memory, session, size};
use crate::settings;
use core::cell::RefCell;
use pgrx::PgSqlErrorCode;
use pgrx::pg_sys::Oid;
use pgrx::pg_sys::panic::ErrorReport;
use std::collections::HashMap;
use std::time::Duration;

/// Rows that one fold by ingest merges at most: a tenth of a second or two.
const RELIEF: i64 = 30_000;
/// Rows whose folding takes memory worth giving back: a few megabytes.
const MUCH: i64 = 2_000;
/// Ingest folds once, on average, for each half of the limit that is appended: RELIEF rows are more than that, so pending
/// shrinks, and many rows of one group have become one. For each eighth, ingest took a tenth longer.
const SHARE: f64 = 2.0;
/// Ingest looks so many times as often as it folds whether too much is pending: a call that adds a 64th of the limit always.
const LOOKS: f64 = 32.0;
/// From so many limits of pending rows on, ingest that looks folds, or pauses where another session is folding, so that
/// that one gets the processor: eight writers otherwise outrun one folder for good.
const PATIENCE: u64 = 8;
const PAUSE: Duration = Duration::from_millis(20);
/// At so many limits, of the default a quarter of a gigabyte, which a reader merges in seconds, what comes in is refused.
const MOST: u64 = 64;

/// How long a session attempts no fold of a rollup after one that failed, in microseconds.
const FORGOTTEN: i64 = 10_000_000;
/// What else can be wrong with rows that are there: they don't fit an index, or aren't as they were written.
const ROWS_FAULTS: [PgSqlErrorCode; 3] = [
    PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED,
    PgSqlErrorCode::ERRCODE_DATA_CORRUPTED,
    PgSqlErrorCode::ERRCODE_INDEX_CORRUPTED,
];

thread_local! {
    /// By pending table: when a fold that this session attempted failed last.
    static FAILED: RefCell<HashMap<Oid, i64>> = RefCell::new(HashMap::new());
}

/// What an ingest call added to one rollup.
pub struct Added {
    bytes: usize,
    /// Drawn by chance, so that writers share no counter.
    drawn: f64,
}

impl Added {
    /// Of so many bytes of pending rows.
    pub fn draw(bytes: usize) -> Self {
        Self { bytes, drawn: session::draw() }
    }

    /// How probable it was that the call folds.
    fn chance(&self) -> f64 {
        SHARE * self.bytes as f64 / settings::pending_limit() as f64
    }

    /// Whether the call is to fold. Not where so little is pending that somebody else must be folding; nor where statements
    /// share a snapshot: there a fold can fail for reasons that aren't the caller's.
    fn is_to_be_folded(&self, definition: &Definition) -> bool {
        self.drawn < self.chance() && !session::has_fixed_snapshot() && self.makes_much_of(definition)
    }

    /// Whether half of the limit is reached with it.
    fn makes_much_of(&self, definition: &Definition) -> bool {
        size::live_bytes(definition.pending)
            .is_none_or(|there| (there + self.bytes as u64) * 2 >= settings::pending_limit())
    }
}

/// Where the call is to fold and nobody else is folding, folds a piece of what is pending and with it the rows that the call
/// adds; says whether it did. The caller appends its rows where this did nothing.
pub fn fold_with(definition: &Definition, added: &Added, rows: &Rows) -> Result<bool, RollupError> {
    if !added.is_to_be_folded(definition) || !fold::lock_folding(definition, Wait::No) {
        return Ok(false);
    }
    let folded = attempt(definition, || {
        let deltas = rows.iter().map(|(values, nulls)| Delta::of_row(definition, values, nulls)).collect();
        fold::fold_locked(definition, deltas, RELIEF, i64::MIN)
    })?;
    // A connection that sends large batches needs as much again.
    if folded.is_some_and(|taken| taken > MUCH && taken > 4 * rows.len() as i64) {
        memory::give_back();
    }
    Ok(folded.is_some())
}

/// Folds on behalf of a caller who adds other rows than those that are folded: what can't be merged is not theirs, so the log
/// tells of it, everything stays pending, and this gives `None`; also where one failed a moment ago.
fn attempt(
    definition: &Definition,
    fold: impl FnOnce() -> Result<i64, RollupError>,
) -> Result<Option<i64>, RollupError> {
    let now = session::clock();
    let is_futile = FAILED.with_borrow(|failed| {
        failed.get(&definition.pending).is_some_and(|at| (0..FORGOTTEN).contains(&(now - at)))
    });
    if is_futile {
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
            (PgSqlErrorCode::ERRCODE_DATA_CORRUPTED, ErrorReport::from(error).message().to_owned())
        }
        Ok(Err(error)) => return Err(error),
        Err(caught) if caught.is_about_data() || ROWS_FAULTS.contains(&caught.code) => {
            (caught.code, caught.message)
        }
        Err(caught) => caught.rethrow(),
    };
    FAILED.with_borrow_mut(|failed| failed.insert(definition.pending, now));
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

/// Folds or pauses where so much is pending that writers must be outrunning the folder, in proportion to what the call added:
/// those who bring little wait little. An error where folding has been kept from happening for too long: what comes in must wait.
pub fn relieve(added: &[Option<Added>]) -> Result<(), RollupError> {
    // Where statements share a snapshot a fold can fail for reasons that aren't the caller's; waiting can't.
    let may_fold = !session::has_fixed_snapshot();
    for (definition, added) in definition::all()?.iter().zip(added) {
        let Some(added) = added else { continue };
        let share = (LOOKS * added.chance()).min(1.0);
        if added.drawn >= share {
            continue;
        }
        let Some(pending) = size::live_bytes(definition.pending) else { continue };
        let pending = pending / settings::pending_limit();
        if pending < PATIENCE {
            continue;
        }
        let folds = may_fold && (share == 1.0 || pending >= MOST) && fold::lock_folding(definition, Wait::No);
        if folds {
            attempt(definition, || fold::fold_pending(definition, RELIEF, i64::MIN))?;
        } else if pending >= MOST {
            return Err(RollupError::Behind(definition.name.clone()));
        } else {
            session::pause(PAUSE.mul_f64(share));
        }
    }
    Ok(())
}
