//! Sets of days in SQL: the aggregates `days(time)` and `union_days(state)`, and what can be asked of a state.

use super::merging::{self, Mergeable, unreadable};
use crate::backend::aggregate::{Combines, Holds, combine};
use crate::backend::array::fixed_values;
use crate::backend::call::{Call, sql_function};
use crate::backend::report::Report;
use crate::sketch::damage::damage;
use pgrx::pg_sys::{self, Datum};
use tally_core::days::{Days, DaysRef, day_of};
use tally_core::stored::StateError;

/// The days that SQL's `date` knows.
const DATES: core::ops::RangeInclusive<i32> = -2_451_545..=2_145_031_948;

impl Holds for Days {
    fn outside(&self) -> usize {
        self.memory()
    }
}

impl Combines for Days {
    fn combine(&mut self, other: &Self) -> Result<(), Report> {
        other.as_slice().iter().for_each(|&day| self.add(day));
        Ok(())
    }
}

impl Mergeable for Days {
    const NAME: &'static str = "set of days";

    fn add_time(&mut self, time: i64) {
        self.add(day_of(time));
    }

    fn merge_stored(&mut self, bytes: &[u8]) -> Result<(), StateError> {
        self.merge(&DaysRef::parse(bytes)?);
        Ok(())
    }

    fn stored(&self) -> Option<Vec<u8>> {
        self.to_bytes()
    }
}

fn read<'a>(call: &'a Call) -> Result<Option<DaysRef<'a>>, Report> {
    call.bytes(0)
        .map(|bytes| DaysRef::parse(bytes).map_err(|error| unreadable(Days::NAME, error)))
        .transpose()
}

sql_function! { fn tally_days_trans / pg_finfo_tally_days_trans(call) { merging::add::<Days>(call) } }
sql_function! { fn tally_days_union / pg_finfo_tally_days_union(call) { merging::union::<Days>(call) } }
sql_function! { fn tally_days_combine / pg_finfo_tally_days_combine(call) { combine::<Days>(call) } }
sql_function! { fn tally_days_stored / pg_finfo_tally_days_stored(call) { merging::stored::<Days>(call) } }
sql_function! { fn tally_days_deserialize / pg_finfo_tally_days_deserialize(call) { merging::deserialize::<Days>(call) } }
sql_function! { fn tally_merge_days / pg_finfo_tally_merge_days(call) { merging::merge::<Days>(call) } }

sql_function! {
    fn tally_day_count / pg_finfo_tally_day_count(call) {
        Ok(read(call)?.map(|days| Datum::from(days.count() as i64)))
    }
}

sql_function! {
    fn tally_day_list / pg_finfo_tally_day_list(call) {
        let Some(stored) = read(call)? else { return Ok(None) };
        let mut days = Vec::new();
        stored.each(|day| days.push(day));
        if days.iter().any(|day| !DATES.contains(day)) {
            return Err(unreadable(Days::NAME, StateError::Malformed));
        }
        Ok(Some(fixed_values(pg_sys::DATEOID, days.len(), days.iter().map(|day| day.to_ne_bytes()))))
    }
}

sql_function! {
    /// What is wrong with a stored set; days that SQL's `date` doesn't know are.
    fn tally_days_damage / pg_finfo_tally_days_damage(call) {
        damage(call, |bytes| match DaysRef::parse(bytes) {
            Err(error) => Some(error.about(Days::NAME)),
            Ok(days) => {
                let mut known = true;
                days.each(|day| known &= DATES.contains(&day));
                (!known).then(|| StateError::Malformed.about(Days::NAME))
            }
        })
    }
}
