//! What groups consist of: of one rollup, or of several that have the same groups.

use super::RollupError;
use super::definition::{Column, Definition, Kind};
use crate::backend::expression::type_name;
use crate::sketch::hash::Hashable;
use tally_core::grain::Grain;

/// A dimension.
pub struct Dimension {
    pub column: Column,
    /// Where its value lies among an event's evaluated expressions.
    pub place: usize,
}

/// A measure.
pub struct Measure {
    pub column: Column,
    /// Where the value of its argument lies; `None` of `count(*)`.
    pub place: Option<usize>,
    /// How the values of a distinct measure are hashed.
    pub hashable: Option<Hashable>,
}

/// Dimensions and measures.
pub struct Shape {
    /// The rollup that an error names.
    pub rollup: String,
    /// Width of the pending rows' buckets.
    pub grain: Grain,
    /// Microseconds since 2000: earlier events wait to be backfilled.
    pub filled_from: i64,
    pub dimensions: Vec<Dimension>,
    pub measures: Vec<Measure>,
}

impl Shape {
    /// Of one rollup, whose expressions are evaluated in the order of its columns.
    pub fn of(definition: &Definition) -> Result<Self, RollupError> {
        let mut places = 0..;
        let mut shape = Self::empty(definition);
        for column in &definition.columns {
            let place = column.expression.and_then(|_| places.next());
            match (column.kind, place) {
                (Kind::Dimension, Some(place)) => {
                    shape.dimensions.push(Dimension { column: column.copied(), place });
                }
                _ => shape.measures.push(Measure::new(column, place)?),
            }
        }
        Ok(shape)
    }

    /// Of the same buckets as a rollup, with no columns yet.
    pub fn empty(definition: &Definition) -> Self {
        Self {
            rollup: definition.name.clone(),
            grain: definition.pending_grain(),
            filled_from: definition.filled_from,
            dimensions: Vec::new(),
            measures: Vec::new(),
        }
    }

    /// What is said of an event for which a column can't be computed.
    pub fn refuse(&self, column: &Column, problem: &'static str) -> RollupError {
        RollupError::Value { rollup: self.rollup.clone(), column: column.name.clone(), problem }
    }
}

impl Measure {
    /// An error where its values can't be hashed and must be.
    pub fn new(column: &Column, place: Option<usize>) -> Result<Self, RollupError> {
        let hashable = match (column.kind, &column.expression) {
            (Kind::Distinct, Some(expression)) => Some(Hashable::of(expression.type_oid).ok_or_else(|| {
                RollupError::Type {
                    column: column.name.clone(),
                    found: type_name(expression.type_oid),
                    hint: "distinct counts text, uuid, integers, bytea, timestamptz and numeric; cast to text",
                }
            })?),
            _ => None,
        };
        Ok(Self { column: column.copied(), place, hashable })
    }
}
