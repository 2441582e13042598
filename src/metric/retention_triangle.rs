//! The aggregate `retention_triangle`.

use super::in_order::{Counts, InOrder, numbers_array, part, refused, too_much};
use super::unit_parts::role;
use crate::backend::aggregate::State;
use crate::backend::array::read_ints;
use crate::backend::call::{Call, sql_function};
use crate::backend::report::Report;
use tally_core::days::DaysRef;
use tally_core::grain::Grain;
use tally_core::retention::{Kind, Role, Triangle};

impl Counts for Triangle {
    fn memory(&self) -> usize {
        self.memory()
    }

    #[inline]
    fn add(&mut self, role: Role, days: &DaysRef) {
        self.add(role, days);
    }

    fn end_unit(&mut self) {
        self.end_unit();
    }
}

/// Reads the arguments that are the same for all rows.
fn triangle(call: &Call) -> Result<Triangle, Report> {
    let grain = call.text(5).unwrap_or_default();
    let grain = grain.parse().ok().filter(|grain| matches!(grain, Grain::Day | Grain::Week | Grain::Month));
    let Some(grain) = grain else {
        return Err(refused("there is no such grain of retention".into(), "grains are day, week and month"));
    };
    let (Some(first), Some(end)) = (call.int(6), call.int(7)) else { return Err(too_much()) };
    let kind = match call.text(8).unwrap_or_default() {
        "first_time" => Kind::Each,
        "rolling" => Kind::Rolling,
        "bracketed" => {
            let brackets = call.bytes(9).and_then(read_ints).unwrap_or_default();
            let brackets: Vec<usize> =
                brackets.iter().filter_map(|begins| usize::try_from(*begins).ok()).collect();
            if brackets.is_empty() || brackets.windows(2).any(|pair| pair[0] >= pair[1]) {
                return Err(refused(
                    "brackets must be numbers of periods from 0, each greater than the one before".into(),
                    "each number begins a bracket that the next one ends, such as ARRAY[0, 1, 7, 30]",
                ));
            }
            Kind::Brackets(brackets)
        }
        other => {
            return Err(refused(
                format!("unknown kind of retention \"{other}\""),
                "kinds are first_time, rolling and bracketed",
            ));
        }
    };
    Triangle::new(grain, first, end, kind).ok_or_else(too_much)
}

sql_function! {
    /// `retention_triangle(tenant, unit, days, role, grain, first, end, kind, brackets, others)`
    fn tally_retention_triangle_trans / pg_finfo_tally_retention_triangle_trans(call) {
        let state = State::or_new(State::<InOrder<Triangle>>::of(call, 0), call, || Ok(InOrder::new(triangle(call)?, call.bytes(10))))?;
        let role = role(call.int(4));
        state.change(|state| -> Result<(), Report> {
            if let Some(days) = part(call, state)? {
                state.counts.add(role, &days);
            }
            Ok(())
        })?;
        Ok(Some(state.datum()))
    }
}

sql_function! {
    /// Four numbers for each row of the triangle: first day of the cohort, period, size, retained.
    fn tally_retention_triangle_final / pg_finfo_tally_retention_triangle_final(call) {
        let Some(state) = State::<InOrder<Triangle>>::of(call, 0) else { return Ok(None) };
        let rows = state.change(|state| state.finish().map(Triangle::rows))?;
        let numbers: Vec<i64> = rows
            .iter()
            .flat_map(|(cohort, period, size, retained)| [i64::from(*cohort), *period as i64, *size, *retained])
            .collect();
        numbers_array(&numbers)
    }
}
