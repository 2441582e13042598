//! Appends what a batch adds to each rollup: one pending row for each group, never an update.

use super::RollupError;
use super::accumulate::{Groups, Origin};
use super::definition::{self, Definition};
use crate::backend::appender::Appender;
use crate::backend::expression::{Expression, Projector};
use crate::backend::session;
use crate::backend::subtransaction::{self, Verdict};
use crate::ingest::EventRow;
use std::collections::BTreeMap;
use tally_core::event::EventRef;

/// Appends the pending rows of newly stored events to every declared rollup.
pub fn append(
    rows: &[(&EventRef, EventRow)],
    sketch_keys: &BTreeMap<&str, [u8; 16]>,
) -> Result<(), RollupError> {
    let definitions = definition::all()?;
    for definition in definitions.iter() {
        let mut groups = Groups::new(definition)?;
        session::with_owner_rights(|| -> Result<(), RollupError> {
            let mut projector = projector(definition);
            for (event, row) in rows {
                add(definition, &mut projector, &mut groups, event, row, sketch_keys[&*event.tenant_id])?;
            }
            Ok(())
        })?;
        let mut pending = Appender::open(definition.pending)?;
        groups.rows(|values, nulls| {
            // A pending table has no key that could clash.
            let _ = pending.push(values, nulls);
            Ok::<(), RollupError>(())
        })?;
        let _ = pending.finish();
    }
    Ok(())
}

/// Tries one event on every rollup and undoes it: the reason why one of them can't be evaluated for it, if so.
pub fn evaluate(event: &EventRef, row: &EventRow) -> Result<Option<(String, String)>, RollupError> {
    for definition in definition::all()?.iter() {
        let mut groups = Groups::new(definition)?;
        let tried = subtransaction::run(|| {
            Verdict::Undo(session::with_owner_rights(|| {
                add(definition, &mut projector(definition), &mut groups, event, row, [0; 16])
            }))
        });
        match tried {
            Ok(Ok(())) => {}
            Ok(Err(RollupError::Value { rollup, column, problem })) => {
                return Ok(Some(("22003".into(), format!("rollup \"{rollup}\": {column} {problem}"))));
            }
            Ok(Err(error)) => return Err(error),
            Err(caught) if caught.is_about_data() => {
                let reason = format!("rollup \"{}\": {}", definition.name, caught.message);
                return Ok(Some((subtransaction::sqlstate(caught.code), reason)));
            }
            Err(caught) => caught.rethrow(),
        }
    }
    Ok(None)
}

fn projector(definition: &Definition) -> Projector {
    let expressions: Vec<Expression> =
        definition.columns.iter().filter_map(|column| column.expression).collect();
    Projector::new(session::relation(c"events"), definition.filter.as_ref(), &expressions)
}

fn add(
    definition: &Definition,
    projector: &mut Projector,
    groups: &mut Groups,
    event: &EventRef,
    row: &EventRow,
    sketch_key: [u8; 16],
) -> Result<(), RollupError> {
    let Some((values, nulls)) = projector.evaluate(&row.values, &row.nulls) else {
        return Ok(());
    };
    let origin = Origin {
        tenant_id: &event.tenant_id,
        account_id: &event.account_id,
        tenant: row.tenant(),
        account: row.account(),
        bucket: definition.pending_grain().floor(event.occurred_at),
        sketch_key,
    };
    groups.add(&origin, values, nulls)
}
