//! What compiling a schema, or judging a value by one, may take. A few bytes of either can ask for more than anybody has, so steps are
//! counted, and whoever waits for them can end them.

use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe};

thread_local! {
    /// What is called with each step.
    static WATCH: Cell<fn()> = const { Cell::new(|| {}) };
    /// How many steps are left.
    static LEFT: Cell<usize> = const { Cell::new(usize::MAX) };
}

/// Puts a cell's value back however its scope is left.
struct Restored<T: Copy + 'static>(&'static std::thread::LocalKey<Cell<T>>, T);

impl<T: Copy> Restored<T> {
    fn set(cell: &'static std::thread::LocalKey<Cell<T>>, value: T) -> Self {
        Self(cell, cell.replace(value))
    }
}

impl<T: Copy> Drop for Restored<T> {
    fn drop(&mut self) {
        self.0.set(self.1);
    }
}

/// What is unwound with where too much was asked for: the validator has no other way out.
struct TooMuch;

/// Runs `work`, in which `watch` is called with every step of compiling, comparing and judging. It may end them by a panic.
pub fn watched<T>(watch: fn(), work: impl FnOnce() -> T) -> T {
    let _restored = Restored::set(&WATCH, watch);
    work()
}

/// Takes a step.
pub(crate) fn step() {
    steps(1);
}

/// Takes some steps at once.
pub(crate) fn steps(count: usize) {
    WATCH.get()();
    match LEFT.get().checked_sub(count) {
        Some(left) => LEFT.set(left),
        None => panic::resume_unwind(Box::new(TooMuch)),
    }
}

/// Runs `work`, which may take so many steps; `None` where it would take more.
pub(crate) fn within<T>(steps: usize, work: impl FnOnce() -> T) -> Option<T> {
    let _restored = Restored::set(&LEFT, steps);
    match panic::catch_unwind(AssertUnwindSafe(work)) {
        Ok(done) => Some(done),
        Err(cause) if cause.is::<TooMuch>() => None,
        Err(cause) => panic::resume_unwind(cause),
    }
}
