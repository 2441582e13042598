//! Appends what events add to each rollup: one pending row for each group, never an update. Where the call is to fold anyway,
//! its own rows go straight into the fold: an insert, a delete and a read less for each.

use super::RollupError;
use super::accumulate::{Groups, Origin, Rows};
use super::definition::{self, Definition};
use super::hidden;
use super::relief::{self, Added};
use super::shape::Shape;
use super::shared::{self, Set};
use crate::audit::{self, Act};
use crate::backend::appender::Appender;
use crate::backend::evaluator;
use crate::backend::expression::{Expression, Projector};
use crate::backend::heap::Declared;
use crate::backend::prepared::Values;
use crate::backend::scan::Snapshot;
use crate::backend::subtransaction::{self, Verdict};
use crate::backend::{memory, scan, session};
use crate::event::{EVENTS, EventRow, event_column_names};
use crate::raw::tenant::{self, Hashers};
use pgrx::pg_sys::Oid;
use serde_json::json;
use tally_core::hll::{HashKey, ValueHasher};

/// Adds newly stored events to every declared rollup, once a command; says what now waits of each one, nothing
/// where it was folded.
pub fn append(rows: &[EventRow], hashers: &Hashers) -> Result<Vec<Option<Added>>, RollupError> {
    let shared = shared::current()?;
    let definitions = &shared.definitions;
    let events = session::relation(c"events");
    let values = evaluator::of_built_in(|| {
        let rows = rows.iter().map(|row| (&row.values[..], &row.nulls[..]));
        shared.expressions.evaluate(events, &EVENTS, rows)
    })?;
    let mut added: Vec<Option<Added>> = definitions.iter().map(|_| None).collect();
    for set in &shared.sets {
        let groups = if set.is_shared {
            evaluator::as_nobody(|| group_shared(set, &values, rows, hashers))?
        } else {
            group(&definitions[set.members[0].definition], &set.shape, rows, hashers, true)?
        };
        let finished = groups.finish();
        for member in &set.members {
            let definition = &definitions[member.definition];
            let rows = finished.rows(&member.measures);
            let drawn = Added::draw(&rows);
            if !relief::fold_with(&shared, definition, &drawn, &rows)? {
                write(definition.pending, &member.pending, &member.stored_columns(), &rows)?;
                added[member.definition] = Some(drawn);
            }
        }
    }
    Ok(added)
}

/// Appends the events that are there and meet `condition`, SQL over an event, to one rollup, as if they had been ingested
/// now; returns how many. That they were read is an act, of one tenant's or of everybody's.
pub fn fill(name: &str, condition: &str, tenant: Option<&str>) -> Result<i64, RollupError> {
    let filled = fill_of(name, condition, &[])?;
    if filled > 0 {
        let detail = json!({"events": filled});
        let tenant = tenant.unwrap_or_default();
        let act = Act { act: "rollup_filled", tenant, object: Some(name), detail, ..Act::default() };
        audit::act(&act).map_err(RollupError::Unrecorded)?;
    }
    Ok(filled)
}

/// The same, of a condition that names users, as `$1`.
pub fn fill_of(name: &str, condition: &str, users: &[String]) -> Result<i64, RollupError> {
    let definitions = definition::all()?;
    let definition = definition::find(&definitions, name)?;
    let shape = Shape::of(definition)?;
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
                let groups = hidden::of_stored(definition, &rows, || {
                    group(definition, &shape, &rows, &hashers, false)
                })?;
                let table = definition.table("pending");
                write(definition.pending, &table, &definition.stored_columns(), &all(groups))
            })
        })
    })?;
    Ok(filled)
}

/// Tries events on every rollup and undoes it: error code and reason of each for which one of them can't be evaluated. Those that fail
/// together are tried by halves, so that one among many costs little more than they do.
pub fn unevaluable(rows: &[EventRow]) -> Result<Vec<Option<(String, String)>>, RollupError> {
    let mut refused = vec![None; rows.len()];
    for definition in &shared::current()?.definitions {
        let shape = Shape::of(definition)?;
        let left: Vec<usize> = (0..rows.len()).filter(|&row| refused[row].is_none()).collect();
        for (row, reason) in subtransaction::by_halves(left, |part| try_on(definition, &shape, rows, part))? {
            refused[row] = Some(reason);
        }
    }
    Ok(refused)
}

/// What is wrong with some of the rows, if anything.
fn try_on(
    definition: &Definition,
    shape: &Shape,
    rows: &[EventRow],
    part: &[usize],
) -> Result<Option<(String, String)>, RollupError> {
    let hasher = ValueHasher::Keyed { key: HashKey([0; 16]), epoch: 0 };
    let tried = subtransaction::run(|| {
        let mut groups = Groups::new(shape, true);
        Verdict::Undo(definition.evaluate(|| -> Result<(), RollupError> {
            let mut projector = projector(definition)?;
            part.iter().try_for_each(|&row| add(shape, &mut projector, &mut groups, &rows[row], &hasher))
        }))
    });
    match tried {
        Ok(Ok(())) => Ok(None),
        Ok(Err(RollupError::Value { rollup, column, problem })) => {
            Ok(Some(("22003".into(), format!("rollup \"{rollup}\": {column} {problem}"))))
        }
        Ok(Err(error)) => Err(error),
        Err(caught) if caught.may_be_of_an_expression() => {
            let reason = format!("rollup \"{}\": {}", definition.name, caught.message);
            Ok(Some((caught.sqlstate, reason)))
        }
        Err(caught) => caught.rethrow(),
    }
}

/// The groups of a set of rollups that events add to, whose shared expressions were evaluated.
fn group_shared<'s>(
    set: &'s Set,
    values: &Values,
    rows: &[EventRow],
    hashers: &Hashers,
) -> Result<Groups<'s>, RollupError> {
    let mut groups = Groups::new(&set.shape, true);
    let mut waiting = Groups::new(&set.shape, true);
    for (event, row) in rows.iter().enumerate() {
        if set.condition.is_some_and(|condition| !values.is_met(event, condition)) {
            continue;
        }
        let counted = row.occurred_at() >= set.shape.filled_from;
        let groups = if counted { &mut groups } else { &mut waiting };
        let (values, nulls) = values.of(event);
        groups.add(&origin(&set.shape, row, &hashers[row.tenant_id()]), values, nulls)?;
    }
    Ok(groups)
}

/// The groups of one rollup that events add to.
fn group<'s>(
    definition: &Definition,
    shape: &'s Shape,
    rows: &[EventRow],
    hashers: &Hashers,
    of_new_events: bool,
) -> Result<Groups<'s>, RollupError> {
    let mut groups = Groups::new(shape, of_new_events);
    // Earlier events are counted by the backfill. That they can be is found out now, while they can be rejected.
    let mut waiting = Groups::new(shape, of_new_events);
    definition.evaluate(|| -> Result<(), RollupError> {
        let mut projector = projector(definition)?;
        for row in rows {
            let counted = row.occurred_at() >= shape.filled_from;
            if !counted && !of_new_events {
                continue;
            }
            let groups = if counted { &mut groups } else { &mut waiting };
            add(shape, &mut projector, groups, row, &hashers[row.tenant_id()])?;
        }
        Ok(())
    })?;
    Ok(groups)
}

/// The rows of groups with every measure.
fn all(groups: Groups) -> Rows {
    let measures: Vec<usize> = (0..groups.measures()).collect();
    groups.finish().rows(&measures)
}

/// Appends pending rows.
fn write(pending: Oid, table: &str, columns: &[(&str, Oid)], rows: &Rows) -> Result<(), RollupError> {
    let mut pending = Appender::open(pending, &Declared { table, columns, key: &[] })?;
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
    shape: &Shape,
    projector: &mut Projector,
    groups: &mut Groups,
    row: &EventRow,
    hasher: &ValueHasher,
) -> Result<(), RollupError> {
    match projector.evaluate(&row.values, &row.nulls) {
        Some((values, nulls)) => groups.add(&origin(shape, row, hasher), values, nulls),
        None => Ok(()),
    }
}

fn origin<'a>(shape: &Shape, row: &'a EventRow, hasher: &'a ValueHasher) -> Origin<'a> {
    Origin {
        tenant_id: row.tenant_id(),
        account_id: row.account_id(),
        tenant: row.tenant(),
        account: row.account(),
        occurred_at: row.occurred_at(),
        bucket: shape.grain.floor(row.occurred_at()),
        hasher,
    }
}
