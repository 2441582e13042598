//! Reading what a rollup stores, state by state, whether or not it can be read.

use super::super::cell::COMPRESSION;
use super::super::definition::{Column, Definition, Kind};
use super::super::fold::{aggregate_of, bucket};
use crate::backend::sql::quote;
use tally_core::grain::Grain;

/// SQL for what is wrong with a stored state, null where nothing is; `None` of a column that can't tell. `epoch` is SQL for
/// the epoch of the tenant's sketch key.
pub fn damage(column: &Column, state: &str, epoch: &str) -> Option<String> {
    match column.kind {
        Kind::Distinct => Some(format!("tally.damage({state}, {epoch})")),
        Kind::Percentiles => Some(format!("tally.damage({state}, {COMPRESSION})")),
        Kind::Days => Some(format!("tally.days_damage({state})")),
        Kind::SessionWindows => Some(format!("tally.session_windows_damage({state})")),
        _ => None,
    }
}

/// SQL for the rows that a grain's buckets consist of, base and pending.
pub fn every_row(definition: &Definition, grain: Grain) -> String {
    format!("{} UNION ALL {}", base_rows(definition, grain, "bucket"), pending_rows(definition, grain))
}

/// SQL for a grain's base rows, `bucket` being SQL for a row's bucket.
pub fn base_rows(definition: &Definition, grain: Grain, bucket: &str) -> String {
    let table = quote(&format!("{}_{grain}_base", definition.name));
    format!("SELECT tenant_id, account_id, {bucket} AS bucket{} FROM tally.{table}", columns(definition))
}

/// SQL for pending rows, in buckets of a grain.
pub fn pending_rows(definition: &Definition, grain: Grain) -> String {
    let table = quote(&format!("{}_pending", definition.name));
    let bucket = bucket(definition, grain);
    format!("SELECT tenant_id, account_id, {bucket} AS bucket{} FROM tally.{table}", columns(definition))
}

/// The columns, each as `c<place>`: names that a definition can't have chosen for others.
fn columns(definition: &Definition) -> String {
    let columns = definition.columns.iter().enumerate();
    columns.map(|(place, column)| format!(", {} AS c{place}", quote(&column.name))).collect()
}

/// SQL for the groups of `rows` that meet `condition`: tenant, account, bucket, each column as `c<place>`, merged from the
/// states that can be read, and of each that may not be what is wrong, as `d<place>`.
pub fn groups(definition: &Definition, rows: &str, condition: &str) -> String {
    let mut damages = String::new();
    let mut readable = String::new();
    let mut merged = String::new();
    let mut dimensions = String::new();
    for (place, column) in definition.columns.iter().enumerate() {
        if column.kind == Kind::Dimension {
            readable.push_str(&format!(", c{place}"));
            dimensions.push_str(&format!(", c{place}"));
            continue;
        }
        let state = format!("c{place}");
        let at = definition.columns.iter().position(|other| other.name == column.time_name());
        let at = at.map_or_else(String::new, |at| format!("c{at}"));
        merged.push_str(&format!(", {} AS c{place}", aggregate_of(column, &state, &at)));
        match damage(column, &state, "key.sketch_epoch") {
            Some(damage) => {
                damages.push_str(&format!(", {damage} AS d{place}"));
                readable.push_str(&format!(
                    ", CASE WHEN d{place} IS NULL THEN c{place} END AS c{place}, d{place}"
                ));
                merged.push_str(&format!(", max(d{place}) AS d{place}"));
            }
            None => readable.push_str(&format!(", c{place}")),
        }
    }
    // Read once: without OFFSET each state would be checked wherever its damage is asked for.
    format!(
        "SELECT tenant_id, account_id, bucket{dimensions}{merged} \
           FROM (SELECT tenant_id, account_id, bucket{readable} \
                   FROM (SELECT rows.*{damages} FROM (SELECT * FROM ({rows}) AS every WHERE {condition}) AS rows \
                           LEFT JOIN tally.tenant AS key ON key.tenant_id = rows.tenant_id OFFSET 0) AS read) AS readable \
          GROUP BY tenant_id, account_id, bucket{dimensions}"
    )
}
