//! The aggregates over units: `retention_triangle` and `active_counts`. Their rows are parts of the units' activity, in order
//! of unit, so that a unit's parts are merged as they come and nothing is kept of it after its last. What can't be read in
//! that order, pending rows, comes beside them, packed by `unit_parts`.

use super::unit_parts::{Part, malformed, role};
use crate::activity::unreadable;
use crate::backend::aggregate::{Holds, State};
use crate::backend::array::{fixed_values, read_ints};
use crate::backend::call::{Call, Outcome, sql_function};
use crate::backend::report::Report;
use crate::sketch::context;
use core::cmp::Ordering;
use pgrx::pg_sys;
use tally_core::days::DaysRef;
use tally_core::grain::Grain;
use tally_core::retention::{Actives, Kind, MAX_DAYS, MAX_PERIODS, Role, Triangle};

/// What is made of units that come one after the other.
trait Counts {
    fn memory(&self) -> usize;
    fn add(&mut self, role: Role, days: &DaysRef);
    fn end_unit(&mut self);
}

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

impl Counts for Actives {
    fn memory(&self) -> usize {
        self.memory()
    }

    #[inline]
    fn add(&mut self, _: Role, days: &DaysRef) {
        self.add(days);
    }

    fn end_unit(&mut self) {
        self.end_unit();
    }
}

/// Counts, the unit at hand, and the parts that come in between the rows.
struct InOrder<T> {
    tenant: Vec<u8>,
    unit: Vec<u8>,
    others: Vec<u8>,
    /// Up to where the others were read.
    read: usize,
    counts: T,
}

impl<T: Counts> Holds for InOrder<T> {
    fn outside(&self) -> usize {
        self.tenant.capacity() + self.unit.capacity() + self.others.capacity() + self.counts.memory()
    }
}

impl<T: Counts> InOrder<T> {
    fn new(counts: T, others: Option<&[u8]>) -> Self {
        InOrder {
            tenant: Vec::new(),
            unit: Vec::new(),
            others: others.unwrap_or_default().to_vec(),
            read: 0,
            counts,
        }
    }

    /// Turns to a row's unit.
    #[inline]
    fn turn(&mut self, tenant: &[u8], unit: &[u8]) -> Result<(), Report> {
        if unit == self.unit && tenant == self.tenant {
            return Ok(());
        }
        if self.read < self.others.len() {
            self.take_others(Some((tenant, unit)))?;
        }
        self.begin(tenant, unit)
    }

    fn begin(&mut self, tenant: &[u8], unit: &[u8]) -> Result<(), Report> {
        match tenant.cmp(&self.tenant).then_with(|| unit.cmp(&self.unit)) {
            Ordering::Equal => return Ok(()),
            Ordering::Greater => {}
            Ordering::Less => {
                return Err(refused(
                    "the rows must come in order of tenant and unit".into(),
                    "read them from a subquery with ORDER BY tenant_id, unit_id COLLATE \"C\"",
                ));
            }
        }
        self.counts.end_unit();
        self.tenant.clear();
        self.tenant.extend_from_slice(tenant);
        self.unit.clear();
        self.unit.extend_from_slice(unit);
        Ok(())
    }

    /// Takes the other parts up to a unit, or all of them.
    #[cold]
    fn take_others(&mut self, upto: Option<(&[u8], &[u8])>) -> Result<(), Report> {
        let others = core::mem::take(&mut self.others);
        let mut rest = &others[self.read..];
        let mut taken = Ok(());
        while !rest.is_empty() && taken.is_ok() {
            let before = rest;
            let Some((part, days)) = Part::read(&mut rest) else {
                taken = Err(malformed("parts of units' activity"));
                break;
            };
            if upto.is_some_and(|upto| (part.tenant, part.unit) > upto) {
                rest = before;
                break;
            }
            taken = self.begin(part.tenant, part.unit);
            self.counts.add(part.role(), &days);
        }
        self.read = others.len() - rest.len();
        self.others = others;
        taken
    }

    fn finish(&mut self) -> Result<&T, Report> {
        self.take_others(None)?;
        self.counts.end_unit();
        Ok(&self.counts)
    }
}

fn refused(message: String, hint: &'static str) -> Report {
    Report::new("22023", message).hint(hint)
}

fn too_much() -> Report {
    Report::new(
        "54000",
        format!("the range holds no day, more than {MAX_DAYS} days, or more than {MAX_PERIODS} periods"),
    )
    .hint("choose a coarser grain or a shorter range")
}

/// A row's part of a unit's days, once its unit is the one at hand; `None` where there is nothing to count.
fn part<'a, T: Counts>(call: &'a Call, state: &mut InOrder<T>) -> Result<Option<DaysRef<'a>>, Report> {
    let (Some(tenant), Some(unit), Some(days)) = (call.bytes(1), call.bytes(2), call.bytes(3)) else {
        return Ok(None);
    };
    state.turn(tenant, unit)?;
    DaysRef::parse(days).map(Some).map_err(|error| unreadable("set of days", error))
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
                format!("\"{other}\" is no kind of retention"),
                "kinds are first_time, rolling and bracketed",
            ));
        }
    };
    Triangle::new(grain, first, end, kind).ok_or_else(too_much)
}

sql_function! {
    /// `retention_triangle(tenant, unit, days, role, grain, first, end, kind, brackets, others)`
    fn tally_retention_triangle_trans / pg_finfo_tally_retention_triangle_trans(call) {
        let state = match State::<InOrder<Triangle>>::of(call, 0) {
            Some(state) => state,
            None => State::new(context(call)?, InOrder::new(triangle(call)?, call.bytes(10))),
        };
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

sql_function! {
    /// `active_counts(tenant, unit, days, first, end, others)`
    fn tally_active_counts_trans / pg_finfo_tally_active_counts_trans(call) {
        let state = match State::<InOrder<Actives>>::of(call, 0) {
            Some(state) => state,
            None => {
                let (Some(first), Some(end)) = (call.int(4), call.int(5)) else { return Err(too_much()) };
                let actives = Actives::new(first, end).ok_or_else(too_much)?;
                State::new(context(call)?, InOrder::new(actives, call.bytes(6)))
            }
        };
        state.change(|state| -> Result<(), Report> {
            if let Some(days) = part(call, state)? {
                state.counts.add(&days);
            }
            Ok(())
        })?;
        Ok(Some(state.datum()))
    }
}

sql_function! {
    /// Three numbers for each day: active on it, in the 7 and in the 30 days that end with it.
    fn tally_active_counts_final / pg_finfo_tally_active_counts_final(call) {
        let Some(state) = State::<InOrder<Actives>>::of(call, 0) else { return Ok(None) };
        let rows = state.change(|state| state.finish().map(Actives::rows))?;
        numbers_array(&rows.concat())
    }
}

fn numbers_array(numbers: &[i64]) -> Outcome {
    Ok(Some(fixed_values(pg_sys::INT8OID, numbers.len(), numbers.iter().map(|number| number.to_ne_bytes()))))
}
