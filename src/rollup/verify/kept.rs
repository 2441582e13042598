//! Frozen buckets, of which no event is read: each state must be readable, and each bucket must be the sum of the finer
//! ones that are kept.

use super::super::definition::{Definition, Kind};
use super::difference::{self, Sides, Theirs};
use super::part::Part;
use super::stored;
use crate::backend::sql::{self, within};
use core::ops::Range;
use tally_core::grain::Grain;

/// The states of frozen buckets, base and pending, that can't be read.
pub fn unreadable(part: &Part, range: &Range<i64>, frozen: &str) -> String {
    let Part { definition, grain, .. } = part;
    let columns = || definition.columns.iter().enumerate();
    let rows: Vec<String> = columns()
        .filter_map(|(place, column)| {
            let damage = stored::damage(column, &format!("rows.c{place}"), "key.sketch_epoch")?;
            Some(format!("({}, {damage})", sql::literal(&column.name)))
        })
        .collect();
    if rows.is_empty() {
        // Nothing to read, in the shape of an answer.
        return "SELECT NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL WHERE false".to_owned();
    }
    let values: Vec<String> = columns()
        .filter(|(_, column)| column.kind == Kind::Dimension)
        .map(|(place, _)| format!("rows.c{place}::text"))
        .collect();
    format!(
        "SELECT '{grain}', rows.tenant_id, rows.account_id, {bucket}, {shown}, state.measure, {stored}, NULL \
           FROM (SELECT * FROM ({every_row}) AS kept WHERE {range} AND {frozen}{tenant}) AS rows \
           LEFT JOIN tally.tenant AS key ON key.tenant_id = rows.tenant_id, LATERAL (VALUES {rows}) AS state (measure, damage) \
          WHERE state.damage IS NOT NULL ORDER BY 2, 3, 4, 5, 6",
        bucket = sql::micros("rows.bucket"),
        shown = difference::dimensions(definition, &values),
        stored = difference::unreadable("state.damage"),
        every_row = stored::every_row(definition, *grain),
        range = within("bucket", range),
        tenant = part.of_tenant(),
        rows = rows.join(", "),
    )
}

/// The base rows of frozen buckets that aren't the sum of the finest grain's, if a finer one is kept: each fold changes every
/// grain in one transaction. Only of buckets that ended before events were removed: what `alter_rollup` adds is counted in
/// fine buckets from then on, and not in a coarse one that began earlier.
pub fn unlike_finer(part: &Part, range: &Range<i64>) -> Option<String> {
    let Part { definition, grain, .. } = part;
    let finest = finest_within(definition, *grain)?;
    let ended = grain.floor(part.horizon);
    let of_all = if ended == i64::MIN { "false".to_owned() } else { within("bucket", &(i64::MIN..ended)) };
    let condition = format!(
        "{} AND ({of_all} OR NOT {}){}",
        within("bucket", range),
        part.frozen.not_frozen("bucket"),
        part.of_tenant()
    );
    let coarse = stored::base_rows(definition, *grain, "bucket");
    let fine = stored::base_rows(definition, finest, &format!("date_trunc('{grain}', bucket, 'UTC')"));
    let sides = Sides {
        ours: stored::groups(definition, &coarse, &condition),
        theirs: stored::groups(definition, &fine, &condition),
        kind: Theirs::Stored,
    };
    Some(difference::statement(definition, *grain, &sides))
}

/// The finest grain that is kept besides this one and of whose buckets this one's consist.
fn finest_within(definition: &Definition, grain: Grain) -> Option<Grain> {
    let finer = |&&other: &&Grain| other != grain && other.nests_in(grain);
    definition.grains.iter().filter(finer).min().copied()
}
