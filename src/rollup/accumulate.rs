//! Groups a batch's events and accumulates each group's measures.

use super::RollupError;
use super::cell::Cell;
use super::definition::{Column, Kind};
use super::shape::{Dimension, Shape};
use crate::backend::arena::Arena;
use crate::backend::value;
use core::hash::{BuildHasher, BuildHasherDefault, Hasher};
use core::ops::Range;
use pgrx::pg_sys::Datum;
use std::collections::HashMap;
use std::hash::RandomState;
use std::rc::Rc;
use tally_core::days;
use tally_core::hll::ValueHasher;

/// Longest value that a dimension may hold, in bytes: several of them still fit an index row.
const MAX_DIMENSION: usize = 500;

/// Bytes that an index row may take: 2,704, less its header, a null bitmap and padding.
const MAX_KEY: usize = 2600;

/// Bytes that a value takes in an index row beside its own: a length and padding.
const KEY_OVERHEAD: usize = 7;

const UNSUMMABLE: &str = "is not a finite number of at most 1000 digits before its point and 1000 after it";

/// Bytes that a heap row takes beside its values, about.
const ROW_HEADER: usize = 28;

struct Group {
    tenant: Datum,
    account: Datum,
    bucket: i64,
    /// Where its key lies.
    key: Range<usize>,
    /// An earlier group whose key has the same hash.
    next: Option<usize>,
}

/// Takes a number that is a hash already as it is.
#[derive(Default)]
struct Hashed(u64);

impl Hasher for Hashed {
    fn write(&mut self, _: &[u8]) {
        unreachable!("only numbers are hashed")
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = number;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// The groups of a shape that a batch adds to. What they consist of lies side by side, since a batch of scattered events
/// makes tens of thousands.
pub struct Groups<'s> {
    shape: &'s Shape,
    /// Whether a summand of too many digits is refused: of events that are there, what they sum up to counts.
    of_new_events: bool,
    groups: Vec<Group>,
    /// Of each group in turn: its dimensions, its measures.
    dimensions: Vec<Option<Datum>>,
    cells: Vec<Cell>,
    keys: Vec<u8>,
    hashing: RandomState,
    by_hash: HashMap<u64, usize, BuildHasherDefault<Hashed>>,
    /// The key that is looked for.
    key: Vec<u8>,
    arena: Arena,
}

/// Bytes that a state of a measure takes in its column, about.
fn stored_bytes(column: &Column, state: Datum) -> usize {
    match (column.kind, &column.expression) {
        (Kind::Count, _) => size_of::<i64>(),
        (Kind::Min | Kind::Max | Kind::First | Kind::Last, Some(expression)) => {
            value::bytes_of(state, expression)
        }
        _ => value::with_varlena(state, <[u8]>::len),
    }
}

/// What came of the groups: of each in turn its key and the state of each measure, in columns.
pub struct Finished {
    dimensions: usize,
    measures: usize,
    count: usize,
    values: Vec<Datum>,
    nulls: Vec<bool>,
    /// Bytes of all keys, and of all states of each measure: one may take a thousand times as much as another.
    key_bytes: usize,
    measure_bytes: Vec<usize>,
    /// What the values point to, beside the events themselves.
    arena: Rc<Arena>,
}

impl Finished {
    /// The pending rows of a rollup that keeps these of the measures.
    pub fn rows(&self, measures: &[usize]) -> Rows {
        let keys = 3 + self.dimensions;
        let (all, columns) = (keys + self.measures, keys + measures.len());
        let mut rows = Rows {
            columns,
            values: Vec::with_capacity(self.count * columns),
            nulls: Vec::with_capacity(self.count * columns),
            bytes: self.count * ROW_HEADER
                + self.key_bytes
                + measures.iter().map(|&measure| self.measure_bytes[measure]).sum::<usize>(),
            _arena: self.arena.clone(),
        };
        for (values, nulls) in self.values.chunks(all).zip(self.nulls.chunks(all)) {
            rows.values.extend_from_slice(&values[..keys]);
            rows.nulls.extend_from_slice(&nulls[..keys]);
            rows.values.extend(measures.iter().map(|&measure| values[keys + measure]));
            rows.nulls.extend(measures.iter().map(|&measure| nulls[keys + measure]));
        }
        rows
    }
}

/// The pending rows that a batch adds to one rollup.
pub struct Rows {
    columns: usize,
    values: Vec<Datum>,
    nulls: Vec<bool>,
    /// About how many bytes they take.
    pub bytes: usize,
    /// What the values point to, beside the events themselves.
    _arena: Rc<Arena>,
}

impl Rows {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.values.len() / self.columns
    }

    /// Each row's values and nulls.
    pub fn iter(&self) -> impl Iterator<Item = (&[Datum], &[bool])> {
        self.values.chunks(self.columns).zip(self.nulls.chunks(self.columns))
    }
}

/// What the groups need to know of an event beside its evaluated expressions.
pub struct Origin<'a> {
    pub tenant_id: &'a str,
    pub account_id: &'a str,
    pub tenant: Datum,
    pub account: Datum,
    pub bucket: i64,
    pub occurred_at: i64,
    pub hasher: &'a ValueHasher,
}

impl<'s> Groups<'s> {
    pub fn new(shape: &'s Shape, of_new_events: bool) -> Self {
        Self {
            shape,
            of_new_events,
            groups: Vec::new(),
            dimensions: Vec::new(),
            cells: Vec::new(),
            keys: Vec::new(),
            hashing: RandomState::new(),
            by_hash: HashMap::default(),
            key: Vec::new(),
            arena: Arena::default(),
        }
    }

    /// How many measures each has.
    pub fn measures(&self) -> usize {
        self.shape.measures.len()
    }

    /// Adds one event; `values` are evaluated expressions, at the places that the shape says.
    pub fn add(&mut self, origin: &Origin, values: &[Datum], nulls: &[bool]) -> Result<(), RollupError> {
        let shape = self.shape;
        let group = self.group(origin, values, nulls)?;
        let measures = shape.measures.len();
        let cells = &mut self.cells[group * measures..(group + 1) * measures];
        for (measure, cell) in shape.measures.iter().zip(cells) {
            let column = &measure.column;
            let value = measure.place.map(|place| (!nulls[place]).then(|| values[place]));
            match (cell, value) {
                (Cell::Count(count), None | Some(Some(_))) => *count += 1,
                (_, None | Some(None)) => {}
                (Cell::Sum(sum), Some(Some(value))) => {
                    // Two of the greatest numbers would be a sum that nobody could fold.
                    let is_taken = !self.of_new_events || value::is_moderate(value);
                    if !is_taken || sum.add(value).is_err() {
                        return Err(shape.refuse(column, UNSUMMABLE));
                    }
                }
                (Cell::Extreme(extreme), Some(Some(value))) => extreme.add(value, &mut self.arena),
                (cell @ Cell::AtExtreme { .. }, Some(Some(value))) => {
                    cell.add_at(column, origin.occurred_at, value, &mut self.arena);
                }
                (Cell::Distinct(hll), Some(Some(value))) => {
                    let hashable = measure.hashable.as_ref().expect("every distinct measure has one");
                    if let Some(coupon) = hashable.coupon(origin.hasher, value) {
                        hll.add(coupon);
                    }
                }
                (Cell::Percentiles(digest), Some(Some(value))) => {
                    let value = f64::from_bits(value.value() as u64);
                    digest.add(value).map_err(|_| shape.refuse(column, "is not a finite number"))?;
                }
                (cell, Some(Some(value))) => {
                    let time = value.value() as i64;
                    if matches!(time, i64::MIN | i64::MAX) {
                        return Err(shape.refuse(column, "is not a finite time"));
                    }
                    match cell {
                        Cell::Days(days) => days.add(days::day_of(time)),
                        Cell::SessionWindows(windows) => windows.add(time),
                        _ => unreachable!("the other cells are above"),
                    }
                }
            }
        }
        Ok(())
    }

    /// Finishes each group.
    pub fn finish(mut self) -> Finished {
        let (dimensions, measures) = (self.shape.dimensions.len(), self.shape.measures.len());
        let count = self.groups.len();
        let columns = 3 + dimensions + measures;
        let (mut values, mut nulls) =
            (Vec::with_capacity(count * columns), Vec::with_capacity(count * columns));
        let (mut kept, mut cells) = (self.dimensions.into_iter(), self.cells.into_iter());
        let (mut key_bytes, mut measure_bytes) = (0, vec![0; measures]);
        for group in self.groups {
            values.extend([group.tenant, group.account, Datum::from(group.bucket)]);
            nulls.extend([false; 3]);
            // Ids, bucket and dimensions, with a length each, as they are stored.
            key_bytes += group.key.len();
            let mut push = |value: Option<Datum>| {
                values.push(value.unwrap_or(Datum::from(0)));
                nulls.push(value.is_none());
            };
            kept.by_ref().take(dimensions).for_each(&mut push);
            for (measure, bytes) in self.shape.measures.iter().zip(&mut measure_bytes) {
                let cell = cells.next().expect("each group has a cell for each measure");
                let state = cell.finish(&mut self.arena);
                *bytes += state.map_or(0, |state| stored_bytes(&measure.column, state));
                push(state);
            }
        }
        let arena = Rc::new(self.arena);
        Finished { dimensions, measures, count, values, nulls, key_bytes, measure_bytes, arena }
    }

    fn group(&mut self, origin: &Origin, values: &[Datum], nulls: &[bool]) -> Result<usize, RollupError> {
        let shape = self.shape;
        self.key.clear();
        for id in [origin.tenant_id, origin.account_id] {
            self.key.push(id.len() as u8);
            self.key.extend_from_slice(id.as_bytes());
        }
        self.key.extend_from_slice(&origin.bucket.to_le_bytes());
        for (number, Dimension { column, place }) in shape.dimensions.iter().enumerate() {
            let (value, is_null) = (values[*place], nulls[*place]);
            let expression = column.expression.as_ref().expect("a dimension has an expression");
            if is_null {
                self.key.push(0);
                continue;
            }
            // With its length, or the end of a text could pass for the next dimension.
            self.key.extend_from_slice(&[1, 0, 0]);
            let before = self.key.len();
            value::append_bytes(value, expression, &mut self.key);
            let length = self.key.len() - before;
            if length > MAX_DIMENSION {
                return Err(shape.refuse(column, "is longer than 500 bytes"));
            }
            self.key[before - 2..before].copy_from_slice(&(length as u16).to_be_bytes());
            // The base rows' key, which has no lengths of ours. A pending row has none, and could never be folded.
            if self.key.len() - 2 * (number + 1) + KEY_OVERHEAD * (number + 3) > MAX_KEY {
                return Err(shape.refuse(column, "makes a key of more than 2600 bytes"));
            }
        }
        let hash = self.hashing.hash_one(&*self.key);
        let first = self.by_hash.get(&hash).copied();
        let mut next = first;
        while let Some(found) = next {
            let group = &self.groups[found];
            if self.keys[group.key.clone()] == *self.key {
                return Ok(found);
            }
            next = group.next;
        }
        for Dimension { column, place } in &shape.dimensions {
            let expression = column.expression.as_ref().expect("a dimension has an expression");
            let value = (!nulls[*place]).then(|| value::keep(values[*place], expression, &mut self.arena));
            self.dimensions.push(value);
        }
        let keying = origin.hasher.keying();
        self.cells.extend(shape.measures.iter().map(|measure| Cell::empty(&measure.column, keying)));
        let start = self.keys.len();
        self.keys.extend_from_slice(&self.key);
        self.groups.push(Group {
            tenant: origin.tenant,
            account: origin.account,
            bucket: origin.bucket,
            key: start..self.keys.len(),
            next: first,
        });
        self.by_hash.insert(hash, self.groups.len() - 1);
        Ok(self.groups.len() - 1)
    }
}
