//! What pending rows add to the groups of a grain.

use super::RollupError;
use super::cell::Cell;
use super::definition::{Column, Definition, Kind};
use crate::backend::arena::{self, Arena};
use crate::backend::value;
use pgrx::pg_sys::Datum;
use tally_core::grain::Grain;

/// What is added to one group. Its datums live as long as the fold that it is part of.
pub struct Delta {
    /// Tenant, account, bucket, then the dimensions' bytes: equal for one group, and in the order of the base tables' keys,
    /// but for `user_activity`'s, which has the user before the bucket.
    key: Vec<u8>,
    /// Where the bucket begins in the key.
    bucket_at: usize,
    pub tenant: Datum,
    pub account: Datum,
    pub bucket: i64,
    /// Dimensions, then the states of the measures, in the order of the definition's columns.
    pub values: Vec<Option<Datum>>,
}

impl Delta {
    /// Of a pending row. The datums are neither compressed nor out of line.
    pub fn of_row(definition: &Definition, row: &[Datum], nulls: &[bool]) -> Self {
        let (tenant, account, bucket) = (row[0], row[1], row[2].value() as i64);
        let values: Vec<_> = (3..row.len()).map(|place| (!nulls[place]).then_some(row[place])).collect();
        let mut key = Vec::with_capacity(64);
        // Ids are detoasted; none contains the NUL that ends it here.
        for id in [tenant, account].map(arena::read_text) {
            key.extend_from_slice(id.as_bytes());
            key.push(0);
        }
        let bucket_at = key.len();
        key.extend_from_slice(&sortable(bucket));
        for (column, value) in definition.dimensions().zip(&values) {
            let Some(value) = value else {
                key.push(0);
                continue;
            };
            key.push(1);
            let start = key.len();
            key.extend_from_slice(&[0; 2]);
            let expression = column.expression.as_ref().expect("a dimension has an expression");
            value::append_bytes(*value, expression, &mut key);
            let length = (key.len() - start - 2) as u16;
            key[start..start + 2].copy_from_slice(&length.to_be_bytes());
        }
        Self { key, bucket_at, tenant, account, bucket, values }
    }

    /// Writes the leading columns of its base row, which are its key: tenant, account, bucket, dimensions.
    pub fn key_columns(&self, dimensions: usize, columns: &mut Vec<Option<Datum>>) {
        columns.clear();
        columns.extend([Some(self.tenant), Some(self.account), Some(Datum::from(self.bucket))]);
        columns.extend(&self.values[..dimensions]);
    }

    fn at(&self, grain: Grain) -> Self {
        let bucket = grain.floor(self.bucket);
        let mut key = self.key.clone();
        key[self.bucket_at..self.bucket_at + 8].copy_from_slice(&sortable(bucket));
        Self {
            key,
            bucket_at: self.bucket_at,
            tenant: self.tenant,
            account: self.account,
            bucket,
            values: self.values.clone(),
        }
    }
}

/// Bytes that sort as the number does.
fn sortable(number: i64) -> [u8; 8] {
    (number as u64 ^ 1 << 63).to_be_bytes()
}

/// The same in buckets of a grain.
pub fn at_grain(deltas: &[Delta], grain: Grain) -> Vec<Delta> {
    deltas.iter().map(|delta| delta.at(grain)).collect()
}

/// Sorts by group and merges those of the same one.
pub fn merge(
    definition: &Definition,
    mut deltas: Vec<Delta>,
    arena: &mut Arena,
) -> Result<Vec<Delta>, RollupError> {
    deltas.sort_unstable_by(|left, right| left.key.cmp(&right.key));
    let mut merged: Vec<Delta> = Vec::new();
    let mut rest = deltas.into_iter().peekable();
    while let Some(mut first) = rest.next() {
        if rest.peek().is_some_and(|next| next.key == first.key) {
            let mut states = States::stored(definition, &first.values, arena)?;
            while let Some(next) = rest.next_if(|next| next.key == first.key) {
                states.merge(&next.values, arena)?;
            }
            states.finish_into(&mut first.values, arena);
        }
        merged.push(first);
    }
    Ok(merged)
}

/// The states of one group's measures while others are merged into them.
pub struct States<'d> {
    definition: &'d Definition,
    /// One for each measure; `None` where it knows nothing yet.
    cells: Vec<Option<Cell>>,
}

impl<'d> States<'d> {
    /// What a row stores; `values` are in the order of the definition's columns.
    pub fn stored(
        definition: &'d Definition,
        values: &[Option<Datum>],
        arena: &mut Arena,
    ) -> Result<Self, RollupError> {
        let cells = definition.measures().map(|_| None).collect();
        let mut states = Self { definition, cells };
        states.merge(values, arena)?;
        Ok(states)
    }

    /// Merges what another row of the same group stores.
    pub fn merge(&mut self, values: &[Option<Datum>], arena: &mut Arena) -> Result<(), RollupError> {
        let dimensions = self.definition.dimensions().count();
        for (place, column) in self.definition.measures().enumerate() {
            let Some(state) = values[dimensions + place] else { continue };
            let time = self.time(column, values);
            let cell = &mut self.cells[place];
            let merged = match cell {
                Some(cell) => cell.merge(column, state, time, arena),
                None => Cell::stored(column, state, time, arena).map(|stored| *cell = Some(stored)),
            };
            merged.map_err(|problem| RollupError::State {
                rollup: self.definition.name.clone(),
                column: column.name.clone(),
                problem,
            })?;
        }
        Ok(())
    }

    /// Writes the states over those in `values`.
    pub fn finish_into(self, values: &mut [Option<Datum>], arena: &mut Arena) {
        let dimensions = self.definition.dimensions().count();
        for (value, cell) in values[dimensions..].iter_mut().zip(self.cells) {
            *value = cell.and_then(|cell| cell.finish(arena));
        }
    }

    /// The time of a first or last value, which another column has; 0 of any other.
    fn time(&self, column: &Column, values: &[Option<Datum>]) -> i64 {
        if !matches!(column.kind, Kind::First | Kind::Last) {
            return 0;
        }
        let name = column.time_name();
        let place = self.definition.columns.iter().position(|other| other.name == name);
        place.and_then(|place| values[place]).map_or(0, |time| time.value() as i64)
    }
}
