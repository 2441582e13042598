//! Appends what events add to each rollup: one pending row for each group, never an update. Where the call is to fold anyway,
//! its own rows go straight into the fold: an insert, a delete and a read less for each.

use super::RollupError;
use super::accumulate::{Groups, Origin, Rows};
use super::definition::{self, Definition};
use super::relief::{self, Added};
use crate::backend::appender::Appender;
use crate::backend::expression::{Expression, Projector};
use crate::backend::heap::Declared;
use crate::backend::scan::Snapshot;
use crate::backend::subtransaction::{self, Verdict};
use crate::backend::{memory, scan, session};
use crate::event::{EVENTS, EventRow, event_column_names};
use crate::raw::tenant::{self, Hashers};
use tally_core::hll::{HashKey, ValueHasher};

/// Adds newly stored events to every declared rollup, once a command; says what now waits of each one, nothing
/// where it was folded.
pub fn append(rows: &[EventRow], hashers: &Hashers) -> Result<Vec<Option<Added>>, RollupError> {
    definition::all()?
        .iter()
        .map(|definition| {
            let rows = group(definition, rows, hashers, true)?.finish();
            let added = Added::draw(&rows);
            if relief::fold_with(definition, &added, &rows)? {
                return Ok(None);
            }
            write(definition, &rows)?;
            Ok(Some(added))
        })
        .collect()
}

/// Appends the events that are there and meet `condition`, SQL over an event, to one rollup, as if they had been ingested
/// now; returns how many.
pub fn fill(name: &str, condition: &str) -> Result<i64, RollupError> {
    fill_of(name, condition, &[])
}

/// The same, of a condition that names users, as `$1`.
pub fn fill_of(name: &str, condition: &str, users: &[String]) -> Result<i64, RollupError> {
    let definitions = definition::all()?;
    let definition = definition::find(&definitions, name)?;
    let query = format!("SELECT {} FROM tally.events WHERE {condition}", event_column_names());
    let mut filled = 0;
    session::as_owner(|| {
        scan::for_each_chunk(&query, users, Snapshot::Fresh, |rows| {
            let rows: Vec<EventRow> = rows.map(|(values, nulls)| EventRow::read(&values, &nulls)).collect();
            filled += rows.len() as i64;
            memory::in_temporary(c"pg_tally filled rows", || {
                let names = rows.iter().map(EventRow::tenant_id);
                let hashers = tenant::hashers(names, session::transaction_start())?;
                let hashers =
                    hashers.unwrap_or_else(|_| unreachable!("a stored event's tenant is registered"));
                write(definition, &group(definition, &rows, &hashers, false)?.finish())
            })
        })
    })?;
    Ok(filled)
}

/// Tries one event on every rollup and undoes it: error code and reason where one of them can't be evaluated for it.
pub fn evaluate(row: &EventRow) -> Result<Option<(String, String)>, RollupError> {
    let hasher = ValueHasher::Keyed { key: HashKey([0; 16]), epoch: 0 };
    for definition in definition::all()?.iter() {
        let mut groups = Groups::new(definition, true)?;
        let tried = subtransaction::run(|| {
            Verdict::Undo(
                definition
                    .evaluate(|| add(definition, &mut projector(definition)?, &mut groups, row, &hasher)),
            )
        });
        match tried {
            Ok(Ok(())) => {}
            Ok(Err(RollupError::Value { rollup, column, problem })) => {
                return Ok(Some(("22003".into(), format!("rollup \"{rollup}\": {column} {problem}"))));
            }
            Ok(Err(error)) => return Err(error),
            Err(caught) if caught.may_be_of_an_expression() => {
                let reason = format!("rollup \"{}\": {}", definition.name, caught.message);
                return Ok(Some((subtransaction::sqlstate(caught.code), reason)));
            }
            Err(caught) => caught.rethrow(),
        }
    }
    Ok(None)
}

/// The groups that events add to.
fn group<'d>(
    definition: &'d Definition,
    rows: &[EventRow],
    hashers: &Hashers,
    of_new_events: bool,
) -> Result<Groups<'d>, RollupError> {
    let mut groups = Groups::new(definition, of_new_events)?;
    // Earlier events are counted by the backfill. That they can be is found out now, while they can be rejected.
    let mut waiting = Groups::new(definition, of_new_events)?;
    definition.evaluate(|| -> Result<(), RollupError> {
        let mut projector = projector(definition)?;
        for row in rows {
            let counted = row.occurred_at() >= definition.filled_from;
            let groups = if counted { &mut groups } else { &mut waiting };
            add(definition, &mut projector, groups, row, &hashers[row.tenant_id()])?;
        }
        Ok(())
    })?;
    Ok(groups)
}

/// Appends pending rows.
fn write(definition: &Definition, rows: &Rows) -> Result<(), RollupError> {
    let mut pending = Appender::open(
        definition.pending,
        &Declared { table: &definition.table("pending"), columns: &definition.stored_columns(), key: &[] },
    )?;
    for (values, nulls) in rows.iter() {
        // A pending table has no key that could clash.
        let _ = pending.push(values, nulls);
    }
    let _ = pending.finish();
    Ok(())
}

/// What evaluates a rollup's expressions; made where it is used, by `Definition::evaluate`.
pub fn projector(definition: &Definition) -> Result<Projector, RollupError> {
    let expressions: Vec<Expression> =
        definition.columns.iter().filter_map(|column| column.expression).collect();
    Ok(Projector::new(session::relation(c"events"), &EVENTS, definition.filter.as_ref(), &expressions)?)
}

fn add(
    definition: &Definition,
    projector: &mut Projector,
    groups: &mut Groups,
    row: &EventRow,
    hasher: &ValueHasher,
) -> Result<(), RollupError> {
    let Some((values, nulls)) = projector.evaluate(&row.values, &row.nulls) else {
        return Ok(());
    };
    let origin = Origin {
        tenant_id: row.tenant_id(),
        account_id: row.account_id(),
        tenant: row.tenant(),
        account: row.account(),
        occurred_at: row.occurred_at(),
        bucket: definition.pending_grain().floor(row.occurred_at()),
        hasher,
    };
    groups.add(&origin, values, nulls)
}
