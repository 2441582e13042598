//! Groups a batch's events and accumulates each group's measures.

use super::RollupError;
use super::cell::Cell;
use super::definition::{Definition, Kind};
use crate::backend::arena::Arena;
use crate::backend::value;
use crate::sketch::hash::Hashable;
use core::hash::{BuildHasher, BuildHasherDefault, Hasher};
use core::ops::Range;
use pgrx::pg_sys::Datum;
use std::collections::HashMap;
use std::hash::RandomState;
use tally_core::days;
use tally_core::hll::ValueHasher;

/// Longest value that a dimension may hold, in bytes: several of them still fit an index row.
const MAX_DIMENSION: usize = 500;

/// Bytes that an index row may take: 2,704, less its header, a null bitmap and padding.
const MAX_KEY: usize = 2600;

/// Bytes that a value takes in an index row beside its own: a length and padding.
const KEY_OVERHEAD: usize = 7;

const UNSUMMABLE: &str = "is not a finite number of at most 1000 digits before its point and 1000 after it";

/// Bytes that a heap row takes beside its values.
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

/// The groups of one rollup that a batch adds to. What they consist of lies side by side, since a batch of scattered events
/// makes tens of thousands.
pub struct Groups<'d> {
    definition: &'d Definition,
    /// Whether a summand of too many digits is refused: of events that are there, what they sum up to counts.
    of_new_events: bool,
    hashables: Vec<Option<Hashable>>,
    groups: Vec<Group>,
    /// Of each group in turn: its dimensions, its measures.
    dimensions: Vec<Option<Datum>>,
    cells: Vec<Cell>,
    measures: usize,
    keys: Vec<u8>,
    hashing: RandomState,
    by_hash: HashMap<u64, usize, BuildHasherDefault<Hashed>>,
    /// The key that is looked for.
    key: Vec<u8>,
    arena: Arena,
}

/// The pending rows that a batch adds to one rollup.
pub struct Rows {
    columns: usize,
    values: Vec<Datum>,
    nulls: Vec<bool>,
    /// About how many bytes they take.
    pub bytes: usize,
    /// What the values point to, beside the events themselves.
    _arena: Arena,
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

impl<'d> Groups<'d> {
    pub fn new(definition: &'d Definition, of_new_events: bool) -> Result<Self, RollupError> {
        let hashables = definition
            .columns
            .iter()
            .map(|column| match (column.kind, &column.expression) {
                (Kind::Distinct, Some(expression)) => Hashable::of(expression.type_oid).map(Some).ok_or_else(|| {
                    RollupError::Type {
                        column: column.name.clone(),
                        found: crate::backend::expression::type_name(expression.type_oid),
                        hint: "distinct counts text, uuid, integers, bytea, timestamptz and numeric; cast to text",
                    }
                }),
                _ => Ok(None),
            })
            .collect::<Result<_, _>>()?;
        Ok(Self {
            definition,
            of_new_events,
            hashables,
            groups: Vec::new(),
            dimensions: Vec::new(),
            cells: Vec::new(),
            measures: definition.measures().count(),
            keys: Vec::new(),
            hashing: RandomState::new(),
            by_hash: HashMap::default(),
            key: Vec::new(),
            arena: Arena::default(),
        })
    }

    /// Adds one event; `values` are its evaluated expressions, in the order of the columns that have one.
    pub fn add(&mut self, origin: &Origin, values: &[Datum], nulls: &[bool]) -> Result<(), RollupError> {
        let group = self.group(origin, values, nulls)?;
        let cells = &mut self.cells[group * self.measures..(group + 1) * self.measures];
        let mut place = 0;
        let mut cell = 0;
        for (index, column) in self.definition.columns.iter().enumerate() {
            let value = column.expression.as_ref().map(|expression| {
                place += 1;
                (expression, (!nulls[place - 1]).then(|| values[place - 1]))
            });
            if column.kind == Kind::Dimension {
                continue;
            }
            cell += 1;
            match (&mut cells[cell - 1], value) {
                (Cell::Count(count), None | Some((_, Some(_)))) => *count += 1,
                (_, None | Some((_, None))) => {}
                (Cell::Sum(sum), Some((_, Some(value)))) => {
                    // Two of the greatest numbers would be a sum that nobody could fold.
                    let is_taken = !self.of_new_events || value::is_moderate(value);
                    if !is_taken || sum.add(value).is_err() {
                        return Err(self.definition.refuse(&column.name, UNSUMMABLE));
                    }
                }
                (Cell::Extreme(extreme), Some((_, Some(value)))) => extreme.add(value, &mut self.arena),
                (cell @ Cell::AtExtreme { .. }, Some((_, Some(value)))) => {
                    cell.add_at(column, origin.occurred_at, value, &mut self.arena);
                }
                (Cell::Distinct(hll), Some((_, Some(value)))) => {
                    let hashable = self.hashables[index].as_ref().expect("made for every distinct measure");
                    if let Some(coupon) = hashable.coupon(origin.hasher, value) {
                        hll.add(coupon);
                    }
                }
                (Cell::Percentiles(digest), Some((_, Some(value)))) => {
                    let value = f64::from_bits(value.value() as u64);
                    digest
                        .add(value)
                        .map_err(|_| self.definition.refuse(&column.name, "is not a finite number"))?;
                }
                (cell, Some((_, Some(value)))) => {
                    let time = value.value() as i64;
                    if matches!(time, i64::MIN | i64::MAX) {
                        return Err(self.definition.refuse(&column.name, "is not a finite time"));
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

    /// Finishes each group's pending row.
    pub fn finish(mut self) -> Rows {
        let columns = 3 + self.definition.columns.len();
        let count = self.groups.len();
        let (mut values, mut nulls) =
            (Vec::with_capacity(count * columns), Vec::with_capacity(count * columns));
        let dimensions_of_each = self.definition.dimensions().count();
        let (mut dimensions, mut cells) = (self.dimensions.into_iter(), self.cells.into_iter());
        for group in self.groups {
            values.extend([group.tenant, group.account, Datum::from(group.bucket)]);
            nulls.extend([false; 3]);
            let mut push = |value: Option<Datum>| {
                values.push(value.unwrap_or(Datum::from(0)));
                nulls.push(value.is_none());
            };
            dimensions.by_ref().take(dimensions_of_each).for_each(&mut push);
            for cell in cells.by_ref().take(self.measures) {
                push(cell.finish(&mut self.arena));
            }
        }
        Rows {
            columns,
            bytes: count * (ROW_HEADER + 8 * columns) + self.arena.bytes(),
            values,
            nulls,
            _arena: self.arena,
        }
    }

    fn group(&mut self, origin: &Origin, values: &[Datum], nulls: &[bool]) -> Result<usize, RollupError> {
        self.key.clear();
        for id in [origin.tenant_id, origin.account_id] {
            self.key.push(id.len() as u8);
            self.key.extend_from_slice(id.as_bytes());
        }
        self.key.extend_from_slice(&origin.bucket.to_le_bytes());
        for (place, column) in self.definition.dimensions().enumerate() {
            let expression = column.expression.as_ref().expect("a dimension has an expression");
            if nulls[place] {
                self.key.push(0);
                continue;
            }
            // With its length, or the end of a text could pass for the next dimension.
            self.key.extend_from_slice(&[1, 0, 0]);
            let before = self.key.len();
            value::append_bytes(values[place], expression, &mut self.key);
            let length = self.key.len() - before;
            if length > MAX_DIMENSION {
                return Err(self.definition.refuse(&column.name, "is longer than 500 bytes"));
            }
            self.key[before - 2..before].copy_from_slice(&(length as u16).to_be_bytes());
            // The base rows' key, which has no lengths of ours. A pending row has none, and could never be folded.
            if self.key.len() - 2 * (place + 1) + KEY_OVERHEAD * (place + 3) > MAX_KEY {
                return Err(self.definition.refuse(&column.name, "makes a key of more than 2600 bytes"));
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
        for (place, column) in self.definition.dimensions().enumerate() {
            let expression = column.expression.as_ref().expect("a dimension has an expression");
            let value = (!nulls[place]).then(|| value::keep(values[place], expression, &mut self.arena));
            self.dimensions.push(value);
        }
        let keying = origin.hasher.keying();
        self.cells.extend(self.definition.measures().map(|column| Cell::empty(column, keying)));
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

impl Definition {
    fn refuse(&self, column: &str, problem: &'static str) -> RollupError {
        RollupError::Value { rollup: self.name.clone(), column: column.to_owned(), problem }
    }
}
