//! Folding: merges pending rows into the base rows, invisibly to readers: both change in one transaction, below the executor.

use super::RollupError;
use super::accumulate::Rows;
use super::definition::{self, Column, Definition, Kind};
use super::delta::{self, Delta, States};
use crate::backend::appender::{Appender, Unique};
use crate::backend::arena::Arena;
use crate::backend::subtransaction::{self, Verdict};
use crate::backend::take::{self, Conflict};
use crate::backend::upsert::Upsert;
use crate::backend::{memory, session, size};
use crate::settings;
use core::cell::RefCell;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::pg_sys::{Datum, Oid};
use pgrx::prelude::*;
use std::collections::HashMap;
use std::ffi::CString;
use std::time::Duration;
use tally_core::grain::Grain;

/// Rows that one fold by ingest merges at most: a tenth of a second or two.
const RELIEF: i64 = 30_000;
/// Rows whose folding takes memory worth giving back: a few megabytes.
const MUCH: i64 = 2_000;
/// Rows that are folded at a time where all are: some tens of megabytes.
const CHUNK: i64 = 100_000;
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
    /// How probable it was that the call folds.
    chance: f64,
    /// Drawn by chance, so that writers share no counter.
    drawn: f64,
}

impl Added {
    /// Of so many bytes of pending rows.
    pub fn draw(bytes: usize) -> Self {
        Self {
            bytes,
            chance: SHARE * bytes as f64 / settings::pending_limit() as f64,
            drawn: session::draw(),
        }
    }

    /// Whether the call is to fold. Not where so little is pending that somebody else must be folding; nor where statements
    /// share a snapshot: there a fold can fail for reasons that aren't the caller's.
    pub fn is_to_be_folded(&self, definition: &Definition) -> bool {
        self.drawn < self.chance && !session::has_fixed_snapshot() && self.makes_much_of(definition)
    }

    /// Whether half of the limit is reached with it.
    fn makes_much_of(&self, definition: &Definition) -> bool {
        size::live_bytes(definition.pending)
            .is_none_or(|there| (there + self.bytes as u64) * 2 >= settings::pending_limit())
    }
}

/// Folds a piece of what is pending, and with it the rows that a call adds; says whether it did. The caller holds the folding
/// lock, and appends its rows where this did nothing.
pub fn fold_with(definition: &Definition, rows: &Rows) -> Result<bool, RollupError> {
    let folded = attempt(definition, || {
        let deltas = rows.iter().map(|(values, nulls)| Delta::of_row(definition, values, nulls)).collect();
        fold_locked(definition, deltas, RELIEF, i64::MIN)
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
        let share = (LOOKS * added.chance).min(1.0);
        if added.drawn >= share {
            continue;
        }
        let Some(pending) = size::live_bytes(definition.pending) else { continue };
        let pending = pending / settings::pending_limit();
        if pending < PATIENCE {
            continue;
        }
        let folds = may_fold && (share == 1.0 || pending >= MOST) && lock_folding(definition, Wait::No);
        if folds {
            attempt(definition, || fold_pending(definition, RELIEF, i64::MIN))?;
        } else if pending >= MOST {
            return Err(RollupError::Behind(definition.name.clone()));
        } else {
            session::pause(PAUSE.mul_f64(share));
        }
    }
    Ok(())
}

/// Folds at most `max_rows` pending rows; 0 where another session is folding this rollup.
fn fold_definition(definition: &Definition, max_rows: i64) -> Result<i64, RollupError> {
    if lock_folding(definition, Wait::No) { fold_pending(definition, max_rows, i64::MIN) } else { Ok(0) }
}

/// Folds all pending rows, waiting for a running fold. Buckets that begin before `frozen` stay as they are.
pub fn fold_all(definition: &Definition, frozen: i64) -> Result<(), RollupError> {
    lock_folding(definition, Wait::Yes);
    while fold_pending(definition, CHUNK, frozen)? > 0 {
        session::advance_command();
    }
    Ok(())
}

/// Folds at most `max_rows` pending rows. The caller holds the folding lock.
fn fold_pending(definition: &Definition, max_rows: i64, frozen: i64) -> Result<i64, RollupError> {
    fold_locked(definition, Vec::new(), max_rows, frozen)
}

/// Folds `deltas` and at most `max_rows` pending rows; returns how many of the latter.
fn fold_locked(
    definition: &Definition,
    mut deltas: Vec<Delta>,
    max_rows: i64,
    frozen: i64,
) -> Result<i64, RollupError> {
    let mut taken = 0;
    memory::in_temporary(c"pg_tally fold", || -> Result<(), RollupError> {
        take::rows(definition.pending, |values, nulls| {
            deltas.push(Delta::of_row(definition, values, nulls));
            taken += 1;
            taken < max_rows
        })?;
        merge_into_base(definition, deltas, frozen)
    })?;
    if taken > 0 {
        note(definition, taken);
    }
    Ok(taken)
}

/// Merges pending rows, of any order, into the base rows of every grain. Buckets that begin before `frozen` stay as they are.
fn merge_into_base(definition: &Definition, deltas: Vec<Delta>, frozen: i64) -> Result<(), RollupError> {
    let mut arena = Arena::default();
    let finest = delta::merge(definition, deltas, &mut arena)?;
    for &grain in &definition.grains {
        let coarser;
        let deltas = if grain == definition.pending_grain() {
            &finest
        } else {
            coarser = delta::merge(definition, delta::at_grain(&finest, grain), &mut arena)?;
            &coarser
        };
        let thawed = deltas.iter().filter(|delta| delta.bucket >= frozen);
        store(definition, grain, thawed, &mut arena)?;
    }
    Ok(())
}

/// Merges what is added to the groups of a grain, sorted by key, into the base rows.
fn store<'d>(
    definition: &Definition,
    grain: Grain,
    deltas: impl Iterator<Item = &'d Delta>,
    arena: &mut Arena,
) -> Result<(), RollupError> {
    let base = relation(&format!("{}_{grain}_base", definition.name));
    let mut rows = Upsert::open(base, relation(&format!("{}_{grain}_key", definition.name)));
    let mut new = Vec::new();
    for delta in deltas {
        let Some((values, nulls)) = rows.find(&delta.key_columns(definition))? else {
            new.push(delta);
            continue;
        };
        let mut columns: Vec<Option<Datum>> =
            (3..values.len()).map(|place| (!nulls[place]).then_some(values[place])).collect();
        let mut states = States::stored(definition, &columns, arena)?;
        states.merge(&delta.values, arena)?;
        states.finish_into(&mut columns, arena);
        let (values, nulls) = row(delta, &columns);
        rows.replace(&values, &nulls)?;
    }
    rows.close();
    let mut appender = Appender::open(base)?;
    for delta in new {
        let (values, nulls) = row(delta, &delta.values);
        if appender.push(&values, &nulls) == Unique::Clash {
            return Err(Conflict.into());
        }
    }
    if appender.finish() == Unique::Clash { Err(Conflict.into()) } else { Ok(()) }
}

/// The table row of a group with these columns.
fn row(delta: &Delta, columns: &[Option<Datum>]) -> (Vec<Datum>, Vec<bool>) {
    let keys = [Some(delta.tenant), Some(delta.account), Some(Datum::from(delta.bucket))];
    let all = || keys.iter().chain(columns);
    (all().map(|value| value.unwrap_or(Datum::from(0))).collect(), all().map(Option::is_none).collect())
}

fn relation(name: &str) -> Oid {
    session::relation(&CString::new(name).expect("a rollup's name contains no NUL"))
}

/// Whether to wait for a lock.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    Yes,
    No,
}

/// Takes the lock that one folder at a time holds, until the transaction ends, so that the next one sees what this one
/// did; says whether it was to be had.
pub fn lock_folding(definition: &Definition, wait: Wait) -> bool {
    // Slots of transactions, the other locks of this kind, are numbers that no table has.
    session::lock(definition.pending.to_u32(), 1, wait == Wait::Yes)
}

/// Notes that rows were folded.
fn note(definition: &Definition, rows: i64) {
    session::as_owner(|| {
        Spi::run_with_args(
            "INSERT INTO tally.rollup_fold AS fold (rollup_name, last_fold_at, rows_folded) \
             VALUES ($1, clock_timestamp(), $2) \
             ON CONFLICT (rollup_name) DO UPDATE SET last_fold_at = excluded.last_fold_at, \
               rows_folded = fold.rows_folded + excluded.rows_folded",
            &[definition.name.as_str().into(), rows.into()],
        )
        .expect("an INSERT raises its own errors");
    });
}

/// SQL for the bucket that a pending row belongs to at a grain.
pub fn bucket(definition: &Definition, grain: Grain) -> String {
    if grain == definition.pending_grain() {
        "bucket".to_owned()
    } else {
        format!("date_trunc('{grain}', bucket, 'UTC')")
    }
}

/// SQL that merges a measure's states.
pub fn aggregate(column: &Column) -> String {
    let name = quote(&column.name);
    let at = quote(&column.time_name());
    match column.kind {
        Kind::Count => format!("sum({name})::int8"),
        Kind::Sum => format!("sum({name})"),
        Kind::Min => format!("min({name})"),
        Kind::Max => format!("max({name})"),
        Kind::Distinct | Kind::Percentiles => format!("tally.rollup({name})"),
        Kind::Days => format!("tally.union_days({name})"),
        Kind::SessionWindows => format!("tally.union_session_windows({name})"),
        Kind::First => {
            format!("(array_agg({name} ORDER BY {at}, {name}) FILTER (WHERE {name} IS NOT NULL))[1]")
        }
        Kind::Last => format!(
            "(array_agg({name} ORDER BY {at} DESC, {name} DESC) FILTER (WHERE {name} IS NOT NULL))[1]"
        ),
        Kind::Dimension => unreachable!("a dimension isn't merged"),
    }
}

/// A name as it stands in SQL.
pub fn quote(name: &str) -> String {
    pgrx::spi::quote_identifier(name)
}

#[pg_extern(sql = false)]
fn fold(rollup_name: &str, max_rows: i64) -> Result<i64, ErrorReport> {
    session::require_writable(c"tally.fold()");
    let definitions = definition::all()?;
    let definition = definition::find(&definitions, rollup_name)?;
    Ok(fold_definition(definition, max_rows)?)
}
