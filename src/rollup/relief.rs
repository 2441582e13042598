//! What ingest folds on the side: when a call does, what becomes of its own rows, and what it does where writers outrun the
//! folder.
//!
//! Who folds keeps others from folding until its transaction ends. So a call folds in its own transaction only where that
//! ends with the call, whatever the client does from then on, and nobody is confined to a tenant: other transactions can stay open
//! for as long as a client likes, and statements that do more take as long as they take. Those have a process fold in a transaction
//! of its own (`folder`), and so have calls that bring little, and all others where one is enough. A COPY, which alone can bring more
//! than there may be, folds what it brought itself.

use super::RollupError;
use super::accumulate::Rows;
use super::definition::Definition;
use super::delta::Delta;
use super::fold;
use super::folder::{self, Processes};
use super::shared::{self, Shared};
use crate::backend::lock::{self, COPY_FOLDING, FOLDING};
use crate::backend::{limit, memory, row_count, session, size};
use crate::scope;
use crate::settings;
use core::cell::Cell;
use std::time::{Duration, Instant};

/// Rows that one fold by ingest merges at most: a tenth of a second or two.
const FOLD_ROWS: i64 = 30_000;
/// Rows from which on a call may fold a piece of what others brought itself. A call that brings fewer would wait a hundred times as long
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
/// From so many limits on that one COPY brought, which nobody else can fold before it ends, it folds them itself.
const FOLD_OWN_AT_LIMITS: u64 = 32;
/// At so many limits, of the default a quarter of a gigabyte, which a reader merges in seconds, what comes in is refused.
const REFUSE_AT_LIMITS: u64 = 64;
/// At so many, of the default four gigabytes, it is even where the rollup is set aside, where a COPY keeps others from folding, or where
/// what is pending becomes less.
const LEAVE_AT_LIMITS: u64 = 1_024;
/// How long a call waits there for a process to fold before it is refused.
const WAIT_FOR_PROCESS: Duration = Duration::from_secs(5);
/// For how long a transaction that folded may go on after the call: its client is to take the answer by then.
const OVERSTAY: Duration = Duration::from_secs(10);
/// For how long a COPY that keeps others from folding may bring nothing.
const STALLED_COPY: Duration = Duration::from_secs(600);
/// How long it takes to look whether somebody has a lock.
const GLANCE: Duration = Duration::from_millis(2);
/// How much more than what a call adds has to be folded meanwhile, so that it needn't wait longer: as many writers may be waiting.
const ADMITTED_AFTER: u64 = 8;
/// How often it waits `PAUSE` before it has a process started again.
const PAUSES_PER_START: usize = 10;

thread_local! {
    /// Whether the running call is part of a transaction that goes on after its statement.
    static IN_BLOCK: Cell<bool> = const { Cell::new(true) };
    /// Whether it is called by the client's statement itself.
    static IS_OUTERMOST: Cell<bool> = const { Cell::new(false) };
    /// Whether it has folded a piece, and keeps others from folding that rollup until its transaction ends.
    static HAS_FOLDED: Cell<bool> = const { Cell::new(false) };
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
    IS_OUTERMOST.set(session::is_outermost());
    HAS_FOLDED.set(false);
}

/// Whether the transaction ends with this call, so that it may hold what a fold holds.
fn ends_with_call() -> bool {
    // A redrive does more once its events are in.
    IS_OUTERMOST.get() && ends_with_statement() && row_count::client_only_calls_one_of(b"ingest")
}

/// Whether it ends with the running statement, which may do more.
fn ends_with_statement() -> bool {
    may_hold_folding() && !session::goes_on_as_client_says()
}

/// Whether it may hold what a fold holds at all. Not where statements share a snapshot: there a fold can fail for reasons that aren't
/// the caller's.
fn may_hold_folding() -> bool {
    !IN_BLOCK.get() && !session::has_fixed_snapshot() && !scope::is_confined()
}

/// Where there is to be a fold and nobody else is folding, folds a piece of what is pending and with it the rows that the
/// call adds; says whether it did. The caller appends its rows where this did nothing.
pub fn fold_with(definition: &Definition, added: &Added, rows: &Rows) -> Result<bool, RollupError> {
    if !added.is_to_be_folded(definition) || folder::is_to_be_left(definition) {
        return Ok(false);
    }
    // A process folds meanwhile, on another core. Where it doesn't get through, a call that brings much folds a piece, too.
    let helps = !added.is_small() && ends_with_call() && folder::is_behind(definition, added.bytes as u64);
    if !helps && !folds_for(folder::start(definition)) {
        return Ok(false);
    }
    if !try_folding(definition) {
        return Ok(false);
    }
    let folded = folder::attempt(definition, || {
        let deltas = rows.iter().map(|(values, nulls)| Delta::of_row(definition, values, nulls)).collect();
        fold::fold_locked(definition, deltas, FOLD_ROWS, i64::MIN)
    });
    // A connection that sends large batches needs as much again.
    if folded.is_some_and(|taken| taken > LARGE_FOLD_ROWS && taken > 4 * rows.len() as i64) {
        memory::give_back();
    }
    if helps && folder::is_behind(definition, 0) {
        folder::start(definition);
    }
    Ok(folded.is_some())
}

/// Folds or pauses where so much is pending that writers must be outrunning the folder, in proportion to what the call added:
/// those who bring little wait little. An error where folding has been kept from happening for too long: what comes in must wait,
/// unless the rollup's folds are known to fail; and where one transaction that can't fold brings more than others may be made to merge.
pub fn relieve(added: &[Option<Added>]) -> Result<(), RollupError> {
    let shared = shared::current()?;
    let mut patience = Patience::default();
    for (definition, added) in shared.definitions.iter().zip(added) {
        let Some(added) = added else { continue };
        let share = (CHECKS_PER_FOLD * added.chance()).min(1.0);
        if added.drawn >= share {
            continue;
        }
        let is_copying = session::is_copying();
        if is_copying && share == 1.0 {
            // What others did is known anew for each transaction, and this one takes long.
            size::forget_counts();
        }
        let Some(mut pending) = limits_pending(definition) else { continue };
        if pending < SLOW_DOWN_AT_LIMITS {
            continue;
        }
        let is_beside_copy = is_copy_folding(definition);
        let is_left = is_beside_copy || folder::is_set_aside(definition);
        let refuse_at = if is_left { LEAVE_AT_LIMITS } else { REFUSE_AT_LIMITS };
        let ends_with_call = ends_with_call();
        if !ends_with_call {
            // What this transaction brought nobody else can fold before it ends: waiting for that would be in vain.
            let own = own_limits(definition).min(pending);
            let has_folded =
                is_copying && may_hold_folding() && fold_own(definition, own, pending, is_beside_copy);
            if own >= if has_folded { LEAVE_AT_LIMITS } else { refuse_at } {
                return Err(RollupError::TooMuchAtOnce(definition.name.clone()));
            }
            pending -= own;
            if has_folded || pending < SLOW_DOWN_AT_LIMITS {
                continue;
            }
        }
        let is_too_much = pending >= refuse_at;
        if is_left && !is_too_much {
            continue;
        }
        let processes = folder::start(definition);
        let leaves_it = processes == Processes::Enough && added.is_small();
        let may_fold = ends_with_call || folds_for(processes);
        let folds_itself = may_fold && (is_too_much || (share == 1.0 && !leaves_it));
        let folds = || {
            let folds = folds_itself && try_folding(definition);
            if folds {
                // That it can't be done is not the caller's, who is not to wait for it.
                fold(definition);
            }
            folds
        };
        if !leaves_it && folds() {
            continue;
        }
        // Who has folded a piece has done its share, and others may be waiting for what it holds. That has an end, too, where somebody
        // keeps this rollup from being folded.
        let has_done_its_share = HAS_FOLDED.get() && pending < 2 * refuse_at;
        if has_done_its_share
            || (is_too_much && patience.await_folder(&shared, definition, added, refuse_at))
            || folds()
        {
            continue;
        }
        if is_too_much {
            return Err(RollupError::Behind(definition.name.clone()));
        }
        session::pause(PAUSE.mul_f64(share));
    }
    if HAS_FOLDED.get() && ends_with_call() {
        limit::bound_transaction(OVERSTAY);
    }
    Ok(())
}

/// Whether a call is to fold in the stead of processes: where none is to be had, also one that its statement goes on after, since nobody
/// would fold.
fn folds_for(processes: Processes) -> bool {
    match processes {
        Processes::None => !session::is_copying() && ends_with_statement(),
        Processes::TooFew => ends_with_call(),
        Processes::Enough => false,
    }
}

/// Takes the folding lock where it is to be had, and notes that.
fn try_folding(definition: &Definition) -> bool {
    let is_taken = fold::try_folding(definition);
    if is_taken {
        HAS_FOLDED.set(true);
    }
    is_taken
}

/// Whether another session's COPY folds what it brought. Who looks has that lock for a moment, so it is looked at again.
fn is_copy_folding(definition: &Definition) -> bool {
    let looks = || lock::is_held(definition.pending, COPY_FOLDING);
    looks() && {
        session::pause(GLANCE);
        looks()
    }
}

/// Folds a piece of what a COPY brought, `own` limits of it, where that is much; says whether it keeps others from folding now. From then
/// on it folds whatever is pending, and is ended where it brings nothing more for long.
fn fold_own(definition: &Definition, own: u64, pending: u64, is_beside_copy: bool) -> bool {
    let table = definition.pending;
    if !session::has_lock(table.to_u32(), COPY_FOLDING) {
        let may_begin = own >= FOLD_OWN_AT_LIMITS
            && (fold::try_folding(definition)
                || (own >= REFUSE_AT_LIMITS && !is_beside_copy && folder::wait_to_fold(definition)));
        if !may_begin {
            return false;
        }
        // Who looks whether somebody has it has it for a moment.
        session::lock(table.to_u32(), COPY_FOLDING, true);
    }
    limit::bound_transaction(STALLED_COPY);
    if pending >= FOLD_OWN_AT_LIMITS {
        fold(definition);
    }
    true
}

/// Folds a piece of what is pending, where that can be done. The caller holds the folding lock.
fn fold(definition: &Definition) {
    folder::attempt(definition, || fold::fold_pending(definition, FOLD_ROWS, i64::MIN));
}

/// How many limits of rows are pending.
fn limits_pending(definition: &Definition) -> Option<u64> {
    size::live_bytes(definition.pending).map(|bytes| bytes / settings::pending_limit())
}

/// How many of them this transaction brought.
fn own_limits(definition: &Definition) -> u64 {
    size::own_bytes(definition.pending) / settings::pending_limit()
}

/// How long one call waits for others, of all rollups together.
#[derive(Default)]
struct Patience {
    /// From its first wait on: when it ends, and how much had been folded by then.
    first: Option<(Instant, u64)>,
}

impl Patience {
    /// Waits until others have folded enough for the call to go in; says whether they have. Enough is also what makes room for several
    /// such calls, whatever comes in meanwhile, and in the end whatever shows that they get on, be it with other rollups.
    fn await_folder(
        &mut self,
        shared: &Shared,
        definition: &Definition,
        added: &Added,
        refuse_at: u64,
    ) -> bool {
        let limit = settings::pending_limit();
        let taken =
            || -> u64 { shared.definitions.iter().map(|other| size::taken_bytes(other.pending)).sum() };
        let (until, everywhere) =
            *self.first.get_or_insert_with(|| (Instant::now() + WAIT_FOR_PROCESS, taken()));
        let here = size::taken_bytes(definition.pending);
        for round in 1.. {
            session::pause(PAUSE);
            size::forget_counts();
            let Some(all) = size::live_bytes(definition.pending) else { return true };
            let pending = all.saturating_sub(size::own_bytes(definition.pending)) / limit;
            let has_room = pending < LEAVE_AT_LIMITS;
            let folded = size::taken_bytes(definition.pending).saturating_sub(here);
            if pending < refuse_at || (has_room && folded >= ADMITTED_AFTER * added.bytes as u64) {
                return true;
            }
            if Instant::now() >= until {
                // Those who fold may be at other rollups, but not where somebody keeps them from this one.
                let gets_on =
                    folded > 0 || (taken() > everywhere && !lock::is_held(definition.pending, FOLDING));
                return has_room && gets_on;
            }
            if round % PAUSES_PER_START == 0 {
                folder::start(definition);
            }
        }
        false
    }
}
