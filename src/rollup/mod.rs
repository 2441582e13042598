//! Rollups: declared sets of dimensions and measures, kept per tenant, account and time bucket.
//!
//! `declare` makes them, with the tables and views of `layout`; `backfill` fills them in steps where that was asked for.
//! `append` writes what a batch adds (`accumulate`) as pending rows, `fold` merges those (`delta`) into the base rows, both
//! by way of each measure's state (`cell`); the views show both. `relief` says when ingest folds on the side. `verify`
//! compares rollups with the events, `rebuild` makes them anew, `retention` drops old events once every rollup has them.

mod accumulate;
mod append;
mod backfill;
mod cell;
mod declare;
mod definition;
mod delta;
mod fold;
mod layout;
mod rebuild;
mod relief;
mod retention;
mod strange_code;
mod verify;

pub use append::{append, evaluate};
pub use definition::lock_out_ingest;
pub use relief::{Added, begin_call, relieve};
pub use retention::hold_horizons;

use crate::backend::expression::ExpressionError;
use crate::backend::heap::TableError;
use crate::backend::lock::Busy;
use crate::backend::take::{Conflict, TakeError};

/// Why a rollup can't be declared, filled or folded.
#[derive(Debug)]
pub enum RollupError {
    /// A name that isn't a plain lower-case identifier, or is reserved.
    Name(String),
    /// A grain that doesn't exist.
    Grain(String),
    /// Nothing to measure, or no grain.
    Empty(&'static str),
    /// A measure that isn't of the form `kind(expression) AS name`.
    Measure(String),
    /// Two columns of the same name.
    DuplicateColumn(String),
    /// A relation of that name exists.
    Exists(String),
    /// Declaring in a transaction whose snapshot may be older than events that are there.
    OldSnapshot,
    /// Rebuilding or dropping events in a transaction whose snapshot may be older than events that are there.
    FixedSnapshot,
    /// A range of time that isn't one.
    Range,
    /// Events of buckets from before this moment (text) are gone.
    Frozen(String),
    /// A month that buckets would be made anew from is no partition of the events.
    NoMonth(String),
    /// Events that would be dropped are still to be backfilled.
    Unfilled(String),
    /// Pending rows still stand for events that would be dropped.
    Pending(String),
    /// Others' transactions hold what is to be locked.
    Busy(Busy),
    /// Too much is pending, and another session keeps this one from folding.
    Behind(String),
    /// One transaction brought more pending rows than there may be, which nobody can fold before it ends.
    TooMuchAtOnce(String),
    /// No such rollup.
    Unknown(String),
    /// A type that can't be a dimension or be counted.
    Type {
        column: String,
        found: String,
        hint: &'static str,
    },
    /// A stored state that can't be merged.
    State {
        rollup: String,
        column: String,
        problem: String,
    },
    /// At repeatable read or above: what is to be folded was changed after the snapshot was taken.
    NotSerializable,
    /// A value that the rollup can't hold.
    Value {
        rollup: String,
        column: String,
        problem: &'static str,
    },
    /// A function of somebody's, called by an expression, that takes names from its caller's path or has its owner's rights.
    StrangeCode {
        function: String,
        is_elevated: bool,
    },
    Expression(ExpressionError),
    Append(TableError),
}

impl From<ExpressionError> for RollupError {
    fn from(error: ExpressionError) -> Self {
        Self::Expression(error)
    }
}

impl From<Conflict> for RollupError {
    fn from(_: Conflict) -> Self {
        Self::NotSerializable
    }
}

impl From<Busy> for RollupError {
    fn from(busy: Busy) -> Self {
        Self::Busy(busy)
    }
}

impl From<TakeError> for RollupError {
    fn from(error: TakeError) -> Self {
        match error {
            TakeError::Conflict => Self::NotSerializable,
            TakeError::Table(error) => Self::Append(error),
        }
    }
}

impl From<TableError> for RollupError {
    fn from(error: TableError) -> Self {
        Self::Append(error)
    }
}
