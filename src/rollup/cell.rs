//! The state of one measure of one group: accumulated from events, or merged from what a column stores.

use super::definition::{Column, Kind};
use crate::backend::arena::Arena;
use crate::backend::value::{self, Extreme, NumericSum};
use pgrx::pg_sys::Datum;
use tally_core::days::{Days, DaysRef};
use tally_core::hll::{DEFAULT_LGK, Hll, HllRef, Keying};
use tally_core::session::{Windows, WindowsRef};
use tally_core::tdigest::{Summary, TDigest};

/// Compression of the rollups' digests. Folded again and again, digests of 100 were off by up to 2.7 % of ranks on the
/// real input; see docs/BENCHMARKS.md.
pub const COMPRESSION: u16 = 200;

/// Accumulated so far.
pub enum Cell {
    Count(i64),
    Sum(NumericSum),
    Extreme(Extreme),
    /// The value at the earliest or latest time; of several then, the smallest or the greatest.
    AtExtreme {
        time: i64,
        value: Extreme,
        latest: bool,
    },
    Distinct(Hll),
    Percentiles(TDigest),
    Days(Days),
    SessionWindows(Windows),
}

/// What a stored state can't be merged for.
pub type Problem = String;

impl Cell {
    /// Of no event; distinct values will be hashed with `keying`.
    pub fn empty(column: &Column, keying: Keying) -> Self {
        match (column.kind, &column.expression) {
            (Kind::Sum, _) => Cell::Sum(NumericSum::default()),
            (Kind::Min, Some(expression)) => Cell::Extreme(Extreme::new(expression, false)),
            (Kind::Max, Some(expression)) => Cell::Extreme(Extreme::new(expression, true)),
            (Kind::First | Kind::Last, Some(expression)) => {
                let latest = column.kind == Kind::Last;
                Cell::AtExtreme { time: 0, value: Extreme::new(expression, latest), latest }
            }
            (Kind::Distinct, _) => {
                Cell::Distinct(Hll::new(DEFAULT_LGK, keying).expect("the default size is valid"))
            }
            (Kind::Percentiles, _) => {
                Cell::Percentiles(TDigest::new(COMPRESSION).expect("the default is valid"))
            }
            (Kind::Days, _) => Cell::Days(Days::default()),
            (Kind::SessionWindows, _) => Cell::SessionWindows(Windows::default()),
            _ => Cell::Count(0),
        }
    }

    /// Takes a value of a first or last measure into account.
    pub fn add_at(&mut self, column: &Column, at: i64, new: Datum, arena: &mut Arena) {
        let Cell::AtExtreme { time, value: kept, latest } = self else {
            unreachable!("called for first and last values alone")
        };
        if kept.is_empty() || (at != *time && (at > *time) == *latest) {
            let expression = column.expression.as_ref().expect("first and last have an argument");
            (*time, *kept) = (at, Extreme::new(expression, *latest));
        }
        if at == *time {
            kept.add(new, arena);
        }
    }

    /// What a column stores that isn't null. `time` is that of a first or last value.
    pub fn stored(column: &Column, state: Datum, time: i64, arena: &mut Arena) -> Result<Self, Problem> {
        let with_bytes = |read: &mut dyn FnMut(&[u8]) -> Result<Cell, Problem>| {
            value::with_varlena(state, |bytes| read(bytes))
        };
        match column.kind {
            Kind::Distinct => with_bytes(&mut |bytes| {
                let sketch = HllRef::parse(bytes).and_then(|sketch| Hll::try_from(&sketch));
                sketch.map(Cell::Distinct).map_err(|error| error.to_string())
            }),
            Kind::Percentiles => with_bytes(&mut |bytes| {
                let summary = Summary::parse(bytes).map_err(|error| error.to_string())?;
                let mut digest = TDigest::new(summary.compression()).map_err(|error| error.to_string())?;
                digest.merge_summary(&summary).map_err(|error| error.to_string())?;
                Ok(Cell::Percentiles(digest))
            }),
            _ => {
                let mut cell = Cell::empty(column, Keying::Plain);
                cell.merge(column, state, time, arena)?;
                Ok(cell)
            }
        }
    }

    /// Merges what the same measure stores elsewhere, which isn't null.
    pub fn merge(
        &mut self,
        column: &Column,
        state: Datum,
        time: i64,
        arena: &mut Arena,
    ) -> Result<(), Problem> {
        match self {
            Cell::Count(count) => {
                let more = state.value() as i64;
                *count = count.checked_add(more).ok_or("counts more than a bigint holds")?;
                Ok(())
            }
            Cell::Sum(sum) => sum.add(state).map_err(|()| "is not a finite number".to_owned()),
            Cell::Extreme(extreme) => {
                extreme.add(state, arena);
                Ok(())
            }
            Cell::AtExtreme { .. } => {
                self.add_at(column, time, state, arena);
                Ok(())
            }
            Cell::Distinct(sketch) => value::with_varlena(state, |bytes| {
                HllRef::parse(bytes).and_then(|other| sketch.merge(&other))
            })
            .map_err(|error| error.to_string()),
            Cell::Percentiles(digest) => {
                value::with_varlena(state, |bytes| digest.merge(bytes)).map_err(|error| error.to_string())
            }
            Cell::Days(days) => {
                value::with_varlena(state, |bytes| DaysRef::parse(bytes).map(|other| days.merge(&other)))
                    .map_err(|error| error.about("set of days"))
            }
            Cell::SessionWindows(windows) => value::with_varlena(state, |bytes| {
                WindowsRef::parse(bytes).map(|other| windows.merge(&other))
            })
            .map_err(|error| error.about("set of session windows")),
        }
    }

    /// What the measure's column stores of it.
    pub fn finish(self, arena: &mut Arena) -> Option<Datum> {
        match self {
            Cell::Count(count) => Some(Datum::from(count)),
            Cell::Sum(sum) => sum.finish(),
            Cell::Extreme(value) | Cell::AtExtreme { value, .. } => value.finish(),
            Cell::Distinct(hll) => Some(arena.varlena(&hll.to_bytes())),
            Cell::Percentiles(digest) => Some(arena.varlena(&digest.into_summary().to_bytes())),
            Cell::Days(days) => days.to_bytes().map(|bytes| arena.varlena(&bytes)),
            Cell::SessionWindows(windows) => windows.to_bytes().map(|bytes| arena.varlena(&bytes)),
        }
    }
}
