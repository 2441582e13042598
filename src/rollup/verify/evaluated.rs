//! Values of expressions that call functions of somebody's: such code must not run with the rights that reading events takes,
//! so they are evaluated before the comparison, by nobody.

use super::super::RollupError;
use super::super::append;
use super::super::definition::Definition;
use crate::backend::memory;
use crate::backend::named_rows::NamedRows;
use crate::backend::scan::{self, Snapshot};
use crate::event::{EventRow, event_column_names};
use pgrx::pg_sys::{self, Datum, Oid};
use std::ffi::{CStr, CString};

/// The name under which a query reads them.
pub const ROWS: &CStr = c"evaluated";

/// The name of a column's values.
pub fn name(place: usize) -> String {
    format!("e{place}")
}

/// The expressions' values for the events that meet `condition` and the filter, each with its tenant, account and time.
pub fn rows(definition: &Definition, condition: &str) -> Result<NamedRows, RollupError> {
    let names: Vec<CString> = (0..definition.columns.len())
        .map(|place| CString::new(name(place)).expect("a name without NUL"))
        .collect();
    let mut columns = vec![
        (c"tenant_id", pg_sys::TEXTOID, pg_sys::C_COLLATION_OID),
        (c"account_id", pg_sys::TEXTOID, pg_sys::C_COLLATION_OID),
        (c"occurred_at", pg_sys::TIMESTAMPTZOID, Oid::INVALID),
    ];
    columns.extend(definition.columns.iter().zip(&names).filter_map(|(column, name)| {
        column.expression.as_ref().map(|of| (name.as_c_str(), of.type_oid, of.collation))
    }));
    let mut found = NamedRows::new(ROWS, &columns);
    let query = format!("SELECT {} FROM tally.events WHERE {condition}", event_column_names());
    scan::for_each_chunk(&query, &[], Snapshot::Calling, |rows| {
        let rows: Vec<EventRow> = rows.map(|(values, nulls)| EventRow::read(&values, &nulls)).collect();
        memory::in_temporary(c"pg_tally evaluated rows", || {
            definition.evaluate(|| -> Result<(), RollupError> {
                let mut projector = append::projector(definition)?;
                for row in &rows {
                    let Some((values, nulls)) = projector.evaluate(&row.values, &row.nulls) else { continue };
                    let event = [row.tenant(), row.account(), Datum::from(row.occurred_at())];
                    let values: Vec<Datum> = event.into_iter().chain(values.iter().copied()).collect();
                    let nulls: Vec<bool> = [false; 3].into_iter().chain(nulls.iter().copied()).collect();
                    found.push(&values, &nulls);
                }
                Ok(())
            })
        })
    })?;
    Ok(found)
}
