//! Aggregate states: Rust values whose life and size Postgres knows of.

use super::call::Call;
use core::mem;
use pgrx::pg_sys::{self, Datum};

/// A value that grows.
pub trait Holds {
    /// Bytes held outside the value itself.
    fn outside(&self) -> usize;
}

/// A state in an aggregate's memory context. What the value allocates by itself is charged to that context, so that a
/// hash aggregate spills when `work_mem` is used up, and is freed with the context.
#[repr(C)]
pub struct State<T> {
    callback: pg_sys::MemoryContextCallback,
    context: pg_sys::MemoryContext,
    charged: usize,
    value: T,
}

impl<T: Holds> State<T> {
    /// Moves a value into the aggregate's context.
    pub fn new<'a>(context: pg_sys::MemoryContext, value: T) -> &'a mut Self {
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
        self.charged = holds;
    }
}

unsafe extern "C-unwind" fn drop_state<T>(state: *mut core::ffi::c_void) {
    // SAFETY: called once, by the memory context that the state lives in, just before its memory goes.
    unsafe {
        let state = state.cast::<State<T>>();
        (*(*state).context).mem_allocated -= (*state).charged as pg_sys::Size;
        core::ptr::drop_in_place(&raw mut (*state).value);
    }
}
