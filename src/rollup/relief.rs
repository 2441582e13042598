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
use core::cmp::Reverse;
use std::collections::HashMap;
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
/// At so many, of the default four gigabytes, it is even where a COPY keeps others from folding, or where what is pending becomes less.
const LEAVE_AT_LIMITS: u64 = 1_024;
/// How long a call waits there for a process to fold before it is refused.
const WAIT_FOR_PROCESS: Duration = Duration::from_secs(5);
/// For how long a transaction that folded may go on after the call: its client is to take the answer by then.
const OVERSTAY: Duration = Duration::from_secs(10);
/// For how long a COPY that keeps others from folding may bring nothing.
const STALLED_COPY: Duration = Duration::from_secs(600);
/// How much more than what a call adds has to be folded meanwhile, so that it needn't wait longer: as many writers may be waiting.
const ADMITTED_AFTER: u64 = 8;
/// How often it waits `PAUSE` before it looks how much was folded, and has a process started again.
const PAUSES_PER_LOOK: usize = 5;

thread_local! {
    /// Whether the running call is part of a transaction that goes on after its statement.
    static IN_BLOCK: Cell<bool> = const { Cell::new(true) };
    /// Whether it is called by the client's statement itself.
    static IS_OUTERMOST: Cell<bool> = const { Cell::new(false) };
    /// Whether it has tried to fold, and may keep others from folding until its transaction ends.
    static HAS_TRIED: Cell<bool> = const { Cell::new(false) };
    /// Whether it has folded a piece.
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

    /// How probable it was that the call looks at what is pending.
    fn share(&self) -> f64 {
        (CHECKS_PER_FOLD * self.chance()).min(1.0)
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
    HAS_TRIED.set(false);
}

/// Begins an attempt to store its events: what an earlier one folded was undone with it.
pub fn begin_attempt() {
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
pub fn fold_with(
    shared: &Shared,
    definition: &Definition,
    added: &Added,
    rows: &Rows,
) -> Result<bool, RollupError> {
    if !added.is_to_be_folded(definition) || folder::is_to_be_left(definition) {
        return Ok(false);
    }
    // A process folds meanwhile, on another core. Where it doesn't get through, a call that brings much folds a piece, too.
    let helps = !added.is_small() && ends_with_call() && folder::is_behind(definition, added.bytes as u64);
    if !helps && !folds_for(folder::start(definition)) {
        return Ok(false);
    }
    if !added.is_small() && is_to_be_refused(shared) {
        return Ok(false);
    }
    let folded = try_to_fold(definition, || {
        folder::attempt(definition, || {
            let deltas =
                rows.iter().map(|(values, nulls)| Delta::of_row(definition, values, nulls)).collect();
            fold::fold_locked(definition, deltas, FOLD_ROWS, i64::MIN)
        })
    });
    let Some(folded) = folded else { return Ok(false) };
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
    let is_copying = session::is_copying();
    if is_copying {
        let is_folding =
            |definition: &Definition| session::has_lock(definition.pending.to_u32(), COPY_FOLDING);
        if shared.definitions.iter().any(is_folding) {
            // It has brought something.
            limit::bound_transaction(STALLED_COPY);
        }
    }
    let mut patience = Patience::default();
    for (definition, added, mut pending) in outrunning(&shared, added) {
        if folder::is_set_aside(definition) {
            // Nobody is to wait for it: what is pending of it grows as the events themselves do.
            continue;
        }
        let share = added.share();
        let is_beside_copy = lock::is_held(definition.pending, COPY_FOLDING);
        let refuse_at = if is_beside_copy { LEAVE_AT_LIMITS } else { REFUSE_AT_LIMITS };
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
        if is_beside_copy && !is_too_much {
            continue;
        }
        let processes = folder::start(definition);
        let leaves_it = processes == Processes::Enough && added.is_small();
        let may_fold = ends_with_call || folds_for(processes);
        let folds_itself = may_fold && (is_too_much || (share == 1.0 && !leaves_it));
        // That it can't be done is not the caller's, who is not to wait for it.
        let has_tried = || folds_itself && try_to_fold(definition, || fold(definition)).is_some();
        if !leaves_it && has_tried() {
            continue;
        }
        if HAS_FOLDED.get() && pending < LEAVE_AT_LIMITS {
            // It has done its share, and others may be waiting for what it holds. Who comes next waits first.
            continue;
        }
        if (is_too_much && patience.await_folder(definition, added, refuse_at)) || has_tried() {
            continue;
        }
        if is_too_much {
            return Err(RollupError::Behind(definition.name.clone()));
        }
        session::pause(PAUSE.mul_f64(share));
    }
    let holds = |definition: &Definition| session::has_lock(definition.pending.to_u32(), FOLDING);
    if HAS_TRIED.get() && shared.definitions.iter().any(holds) && ends_with_call() {
        limit::bound_transaction(OVERSTAY);
    }
    Ok(())
}

/// The rollups of which so much is pending, where the call looks: what it added and how many limits there are. First those that others
/// fold or keep from being folded, then those of which most is pending: so a call waits before it holds what others wait for.
fn outrunning<'a>(shared: &'a Shared, added: &'a [Option<Added>]) -> Vec<(&'a Definition, &'a Added, u64)> {
    let mut looks = shared
        .definitions
        .iter()
        .zip(added)
        .filter_map(|(definition, added)| Some((definition, added.as_ref()?)))
        .filter(|(_, added)| added.drawn < added.share())
        .peekable();
    if looks.peek().is_some() {
        // A transaction keeps what it has once read, and this one may have begun long ago.
        size::forget_counts();
    }
    let mut outrunning: Vec<_> = looks
        .filter_map(|(definition, added)| Some((definition, added, limits_pending(definition)?)))
        .filter(|&(_, _, pending)| pending >= SLOW_DOWN_AT_LIMITS)
        .collect();
    outrunning.sort_by_cached_key(|&(definition, _, pending)| {
        Reverse((lock::is_held(definition.pending, FOLDING), pending))
    });
    outrunning
}

/// Whether a call that adds much may have to be refused for what is pending of a rollup that somebody keeps from being folded, and what it
/// folded be undone.
fn is_to_be_refused(shared: &Shared) -> bool {
    shared.definitions.iter().any(|definition| {
        let is_held = |work| lock::is_held(definition.pending, work);
        let refuse_at = || if is_held(COPY_FOLDING) { LEAVE_AT_LIMITS } else { REFUSE_AT_LIMITS };
        limits_pending(definition)
            .is_some_and(|pending| pending >= REFUSE_AT_LIMITS && pending >= refuse_at())
            && is_held(FOLDING)
            && !folder::is_set_aside(definition)
    })
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

/// Folds, as `fold` does, where nobody else does; `None` where somebody does. The call then keeps others from folding until its transaction
/// ends, but not where `fold` could do nothing.
fn try_to_fold(definition: &Definition, fold: impl FnOnce() -> Option<i64>) -> Option<Option<i64>> {
    if !fold::try_folding(definition) {
        return None;
    }
    HAS_TRIED.set(true);
    let folded = fold();
    if folded.is_some() {
        HAS_FOLDED.set(true);
    } else {
        session::unlock(definition.pending.to_u32(), FOLDING);
    }
    Some(folded)
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
        session::lock(table.to_u32(), COPY_FOLDING, true);
    }
    limit::bound_transaction(STALLED_COPY);
    if pending >= FOLD_OWN_AT_LIMITS {
        fold(definition);
    }
    true
}

/// Folds a piece of what is pending, where that can be done. The caller holds the folding lock.
fn fold(definition: &Definition) -> Option<i64> {
    folder::attempt(definition, || fold::fold_pending(definition, FOLD_ROWS, i64::MIN))
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
    /// From its first wait on: when it ends, and how many rows of each rollup had been folded by then.
    first: Option<(Instant, HashMap<String, u64>)>,
}

impl Patience {
    /// Waits until others have folded enough for the call to go in; says whether they have. Enough is also what makes room for several
    /// such calls, whatever comes in meanwhile, and in the end whatever shows that they get on, be it with other rollups.
    fn await_folder(&mut self, definition: &Definition, added: &Added, refuse_at: u64) -> bool {
        let limit = settings::pending_limit();
        let begin = || (Instant::now() + WAIT_FOR_PROCESS, fold::folded());
        let (until, before) = self.first.get_or_insert_with(begin);
        let of = |rows: &HashMap<String, u64>| rows.get(&definition.name).copied().unwrap_or(0);
        let was_held = lock::is_held(definition.pending, FOLDING);
        for round in 1.. {
            session::pause(PAUSE);
            size::forget_counts();
            let Some(all) = size::live_bytes(definition.pending) else { return true };
            let pending = all.saturating_sub(size::own_bytes(definition.pending)) / limit;
            if pending < refuse_at {
                return true;
            }
            let is_over = Instant::now() >= *until;
            if !is_over && round % PAUSES_PER_LOOK != 0 {
                continue;
            }
            let has_room = pending < LEAVE_AT_LIMITS;
            let now = fold::folded();
            // What was undone with its transaction isn't counted.
            let folded = of(&now).saturating_sub(of(before));
            if has_room && folded * size::ROW >= ADMITTED_AFTER * added.bytes as u64 {
                return true;
            }
            if is_over {
                // Those who fold may be at other rollups, but not where somebody keeps them from this one.
                let is_kept = was_held && lock::is_held(definition.pending, FOLDING);
                let gets_on = folded > 0 || (now.values().sum::<u64>() > before.values().sum() && !is_kept);
                return has_room && gets_on;
            }
            folder::start(definition);
        }
        false
    }
}
