//! What the declared rollups have in common, so that an ingest call does it once: expressions are evaluated once an event, rollups of
//! the same buckets, filter and dimensions have one set of groups, and of these a measure that several keep is accumulated once.
//!
//! Only where expressions call Postgres' own functions and ours alone. Others run apart, each rollup by itself.

use super::RollupError;
use super::definition::{self, Column, Definition};
use super::shape::{Dimension, Measure, Shape};
use crate::backend::cache;
use crate::backend::expression::Expression;
use crate::backend::prepared::{List, Prepared, Wanted};
use crate::raw::gate;
use pgrx::pg_sys::Oid;
use std::rc::Rc;

/// A rollup of a set.
pub struct Member {
    /// Its place among the definitions.
    pub definition: usize,
    /// Its measures, by their places among those of the set.
    pub measures: Vec<usize>,
    /// Name and columns of its pending table.
    pub pending: String,
    pub columns: Vec<(String, Oid)>,
}

/// Rollups that have the same groups.
pub struct Set {
    pub shape: Shape,
    /// Which condition its filter is.
    pub condition: Option<usize>,
    /// Whether its expressions are among the shared ones; else its one member is evaluated apart.
    pub is_shared: bool,
    pub members: Vec<Member>,
}

/// Every declared rollup, and what they share.
pub struct Shared {
    /// In order of name.
    pub definitions: Vec<Definition>,
    pub sets: Vec<Set>,
    pub expressions: Prepared,
}

thread_local! {
    static KNOWN: cache::Cache<Shared> = const { cache::Cache::new() };
}

/// What ingest appends to, under the same lock as `definition::all`.
pub fn current() -> Result<Rc<Shared>, RollupError> {
    let table = gate::enter();
    KNOWN.with(|known| known.get_or_load(table, || Shared::of(definition::load()?)))
}

impl Shared {
    /// Of definitions, in the memory context in which their expressions live.
    fn of(definitions: Vec<Definition>) -> Result<Self, RollupError> {
        let mut list = List::default();
        let mut sets: Vec<Set> = Vec::new();
        for (place, definition) in definitions.iter().enumerate() {
            let columns = definition.stored_columns();
            let mut member = Member {
                definition: place,
                measures: Vec::new(),
                pending: definition.table("pending"),
                columns: columns.into_iter().map(|(name, kind)| (name.to_owned(), kind)).collect(),
            };
            if !definition.is_built_in() {
                let shape = Shape::of(definition)?;
                member.measures = (0..shape.measures.len()).collect();
                sets.push(Set { shape, condition: None, is_shared: false, members: vec![member] });
                continue;
            }
            let condition = definition.filter.map(|filter| add_condition(&mut list, filter));
            let mut place_of = |column: &Column| {
                column.expression.map(|expression| add_expression(&mut list, expression, condition))
            };
            let dimensions: Vec<Dimension> = definition
                .dimensions()
                .filter_map(|column| Some(Dimension { column: column.copied(), place: place_of(column)? }))
                .collect();
            let measures: Vec<Measure> = definition
                .measures()
                .map(|column| Measure::new(column, place_of(column)))
                .collect::<Result<_, _>>()?;
            let mut shape = Shape::empty(definition);
            shape.dimensions = dimensions;
            let is_alike = |set: &Set| {
                let places = |shape: &Shape| -> Vec<usize> {
                    shape.dimensions.iter().map(|dimension| dimension.place).collect()
                };
                set.is_shared
                    && set.condition == condition
                    && (set.shape.grain, set.shape.filled_from) == (shape.grain, shape.filled_from)
                    && places(&set.shape) == places(&shape)
            };
            let at = sets.iter().position(is_alike).unwrap_or_else(|| {
                sets.push(Set { shape, condition, is_shared: true, members: Vec::new() });
                sets.len() - 1
            });
            let set = &mut sets[at];
            for measure in measures {
                let is_same = |known: &Measure| {
                    (known.column.kind, known.place) == (measure.column.kind, measure.place)
                };
                let at = set.shape.measures.iter().position(is_same).unwrap_or_else(|| {
                    set.shape.measures.push(measure);
                    set.shape.measures.len() - 1
                });
                member.measures.push(at);
            }
            set.members.push(member);
        }
        Ok(Self { definitions, sets, expressions: Prepared::new(list) })
    }
}

fn add_condition(list: &mut List, filter: Expression) -> usize {
    let known = list.conditions.iter().position(|condition| condition.is_same(&filter));
    known.unwrap_or_else(|| {
        list.conditions.push(filter);
        list.conditions.len() - 1
    })
}

/// The expression's place; it is evaluated where the condition is met, too.
fn add_expression(list: &mut List, expression: Expression, condition: Option<usize>) -> usize {
    let known = list.expressions.iter().position(|wanted| wanted.expression.is_same(&expression));
    let Some(place) = known else {
        let conditions = condition.into_iter().collect();
        list.expressions.push(Wanted { expression, conditions });
        return list.expressions.len() - 1;
    };
    let wanted = &mut list.expressions[place];
    match condition {
        // Already wanted for every event where it has none.
        Some(condition) if !wanted.conditions.is_empty() && !wanted.conditions.contains(&condition) => {
            wanted.conditions.push(condition);
        }
        Some(_) => {}
        None => wanted.conditions.clear(),
    }
    place
}

impl Member {
    /// Columns as the pending table is declared.
    pub fn stored_columns(&self) -> Vec<(&str, Oid)> {
        self.columns.iter().map(|(name, kind)| (&**name, *kind)).collect()
    }
}
