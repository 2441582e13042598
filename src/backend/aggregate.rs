//! Aggregate states: Rust values whose life and size Postgres knows of.

use super::call::{Call, Outcome};
use super::memory;
use super::report::Report;
use core::cell::Cell;
use core::mem;
use pgrx::pg_sys::{self, Datum};

/// What all states of a backend may hold, in times of what a hash table may: 512 MB by default, 4.5 million events of a funnel.
/// Postgres' own aggregates know no such bound; a state can't spill, and a tenant's work_mem must mean something.
const MOST_HASH_MEMORIES: usize = 64;
/// A state that held more gives memory back to the operating system when it ends.
const LARGE: usize = 16 << 20;

thread_local! {
    /// Bytes that all states hold outside themselves.
    static HELD: Cell<usize> = const { Cell::new(0) };
}

/// A value that grows.
pub trait Holds {
    /// Bytes held outside the value itself.
    fn outside(&self) -> usize;
}

/// A value that takes in another one of the same group, from another process or part of the plan.
pub trait Combines: Holds + Clone {
    fn combine(&mut self, other: &Self) -> Result<(), Report>;
}

/// The combine function: either side may be missing.
pub fn combine<T: Combines>(call: &Call) -> Outcome {
    match (State::<T>::of(call, 0), State::<T>::of(call, 1)) {
        (state, None) => Ok(state.map(State::datum)),
        (None, Some(other)) => State::begun(call, other.value().clone()),
        (Some(state), Some(other)) => {
            state.change(|value| value.combine(other.value()))?;
            Ok(Some(state.datum()))
        }
    }
}

/// The memory context of the aggregate that the function is part of; an error outside one.
fn context(call: &Call) -> Result<pg_sys::MemoryContext, Report> {
    call.aggregate_context().ok_or_else(|| {
        Report::new("0A000", "this function is part of an aggregate and can't be called by itself")
    })
}

/// A state in an aggregate's memory context. What the value allocates by itself is charged to that context, so that a
/// hash aggregate spills when `work_mem` is used up, and is freed with the context. Where nothing can spill, as in a single group,
/// all states together have a bound.
#[repr(C)]
pub struct State<T> {
    callback: pg_sys::MemoryContextCallback,
    context: pg_sys::MemoryContext,
    charged: usize,
    value: T,
}

impl<T: Holds> State<T> {
    /// Moves a value into the aggregate's context.
    fn new<'a>(context: pg_sys::MemoryContext, value: T) -> &'a mut Self {
        // SAFETY: the allocation has the state's size and palloc's alignment, 8, suffices for it. The callback frees
        // the value once, when the context is reset or deleted.
        unsafe {
            const { assert!(align_of::<Self>() <= 8) };
            let state = pg_sys::MemoryContextAlloc(context, size_of::<Self>()).cast::<Self>();
            state.write(Self { callback: mem::zeroed(), context, charged: 0, value });
            (*state).callback.func = Some(drop_state::<T>);
            (*state).callback.arg = state.cast();
            pg_sys::MemoryContextRegisterResetCallback(context, &raw mut (*state).callback);
            (*state).charge();
            &mut *state
        }
    }

    /// A new state with this value, as a function's answer.
    pub fn begun(call: &Call, value: T) -> Outcome {
        Ok(Some(Self::new(context(call)?, value).datum()))
    }

    /// The state that there is, or else a new one.
    #[inline]
    pub fn or_new<'a>(
        state: Option<&'a mut Self>,
        call: &Call,
        make: impl FnOnce() -> Result<T, Report>,
    ) -> Result<&'a mut Self, Report> {
        match state {
            Some(state) => Ok(state),
            None => Ok(Self::new(context(call)?, make()?)),
        }
    }

    /// The state that an aggregate's function gets as an argument.
    pub fn of<'a>(call: &Call, argument: usize) -> Option<&'a mut Self> {
        // SAFETY: the argument is declared `internal` and comes from this aggregate's own functions, which the planner
        // alone can call: SQL has no value of type internal.
        call.datum(argument).map(|datum| unsafe { &mut *datum.cast_mut_ptr::<Self>() })
    }

    /// The value, to read.
    pub fn value(&self) -> &T {
        &self.value
    }

    /// The value, for a change that allocates nothing.
    #[inline]
    pub fn in_place(&mut self) -> &mut T {
        &mut self.value
    }

    /// Changes the value and charges what it grew by.
    #[inline]
    pub fn change<R>(&mut self, change: impl FnOnce(&mut T) -> R) -> R {
        let result = change(&mut self.value);
        if self.value.outside() != self.charged {
            self.charge();
        }
        result
    }

    /// The state as a datum.
    pub fn datum(&mut self) -> Datum {
        Datum::from(core::ptr::from_mut(self))
    }

    #[cold]
    fn charge(&mut self) {
        let holds = self.value.outside();
        // SAFETY: the context outlives the state. Its account only decides when to spill; `drop_state` evens it out.
        unsafe {
            (*self.context).mem_allocated =
                (*self.context).mem_allocated - self.charged as pg_sys::Size + holds as pg_sys::Size;
        }
        let held = HELD.get() - self.charged + holds;
        HELD.set(held);
        let grew = holds > self.charged;
        self.charged = holds;
        if grew && held > LARGE {
            bound(held);
        }
    }
}

/// Raises an error where the states hold more than they may.
fn bound(held: usize) {
    let most = memory::of_hash_table().saturating_mul(MOST_HASH_MEMORIES);
    if held > most {
        Report::new("53200", format!("aggregates hold {} MB, more than work_mem lets them", held >> 20))
            .detail(format!(
                "They may hold {} MB: {MOST_HASH_MEMORIES} times work_mem, times hash_mem_multiplier.",
                most >> 20
            ))
            .hint("choose a shorter range, group by the user or the account, or raise work_mem")
            .raise();
    }
}

unsafe extern "C-unwind" fn drop_state<T>(state: *mut core::ffi::c_void) {
    // SAFETY: called once, by the memory context that the state lives in, just before its memory goes.
    unsafe {
        let state = state.cast::<State<T>>();
        let charged = (*state).charged;
        (*(*state).context).mem_allocated -= charged as pg_sys::Size;
        HELD.set(HELD.get() - charged);
        core::ptr::drop_in_place(&raw mut (*state).value);
        if charged > LARGE {
            memory::give_back();
        }
    }
}
