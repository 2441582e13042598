//! Why something can't be done with raw events.

use crate::backend::lock::Busy;
use crate::backend::report::{Report, raised_by_pgrx};
use crate::scope::ScopeError;

/// Why months can't be made, split or removed.
#[derive(Debug)]
pub enum RawError {
    /// In a transaction whose snapshot may be older than events that are there.
    FixedSnapshot,
    /// A range of time that isn't one.
    Range,
    /// A moment that is given is infinite.
    Infinite(&'static str),
    /// A number of steps or rows is too small: its name, the least, and what to do instead.
    TooFew(&'static str, i64, &'static str),
    /// Others' transactions hold what is to be locked.
    Busy(Busy),
    Scope(ScopeError),
}

impl From<Busy> for RawError {
    fn from(busy: Busy) -> Self {
        Self::Busy(busy)
    }
}

impl From<ScopeError> for RawError {
    fn from(error: ScopeError) -> Self {
        Self::Scope(error)
    }
}

impl From<RawError> for Report {
    fn from(error: RawError) -> Self {
        match error {
            RawError::FixedSnapshot => {
                Report::new("25001", "this can't be done in a repeatable read or serializable transaction")
                    .hint("use read committed: the snapshot may be older than events that must be counted")
            }
            RawError::Range => Report::new("22023", "the range of time is empty or infinite")
                .hint("give a start before the end; leave either out for everything on that side"),
            RawError::Infinite(name) => Report::new("22023", format!("{name} must not be infinite"))
                .hint("give a moment, such as '2026-01-01Z'"),
            RawError::TooFew(name, least, hint) => {
                Report::new("22023", format!("{name} is less than {least}")).hint(hint)
            }
            RawError::Busy(busy) => busy.into(),
            RawError::Scope(error) => error.into(),
        }
    }
}

raised_by_pgrx!(RawError);
