//! Errors of expressions over stored events: whoever fills, rebuilds or verifies a rollup may see none of these events, and an error's text
//! may have any value of theirs. It is told which rollup and column it was, and the error's code.

use super::RollupError;
use super::definition::Definition;
use crate::backend::expression::{Expression, Projector};
use crate::backend::session;
use crate::backend::subtransaction::{self, Caught, Verdict};
use crate::event::{EVENTS, EventRow};

/// Runs `work`, in which a rollup's expressions are evaluated for stored events; `events` are those, where they are known.
pub fn of_stored<T>(
    definition: &Definition,
    events: &[EventRow],
    work: impl FnOnce() -> Result<T, RollupError>,
) -> Result<T, RollupError> {
    match subtransaction::run(|| Verdict::Keep(work())) {
        Ok(done) => done,
        Err(caught) if may_tell(&caught) => caught.rethrow(),
        Err(caught) => Err(RollupError::Stored {
            rollup: definition.name.clone(),
            column: failing(definition, events),
            sqlstate: caught.sqlstate,
        }),
    }
}

/// Whether an error says nothing of an event: our own ones, and those of the server.
fn may_tell(caught: &Caught) -> bool {
    caught.is_ours() || !caught.may_be_of_an_expression()
}

/// The first column that can't be evaluated for one of the events, or `filter`.
fn failing(definition: &Definition, events: &[EventRow]) -> Option<String> {
    let fails = |filter: Option<&Expression>, expressions: &[Expression]| {
        let tried = subtransaction::run(|| {
            Verdict::Undo(definition.evaluate(|| -> Result<(), RollupError> {
                let mut projector =
                    Projector::new(session::relation(c"events"), &EVENTS, filter, expressions)?;
                for event in events {
                    projector.evaluate(&event.values, &event.nulls);
                }
                Ok(())
            }))
        });
        tried.is_err()
    };
    if events.is_empty() {
        return None;
    }
    if fails(definition.filter.as_ref(), &[]) {
        return Some("filter".to_owned());
    }
    let columns = definition.columns.iter();
    let mut failing = columns.filter_map(|column| Some((column, column.expression?)));
    failing
        .find(|(_, expression)| fails(definition.filter.as_ref(), &[*expression]))
        .map(|(column, _)| column.name.clone())
}
