//! Counting units whose parts come in order of unit, so that a unit's parts are merged as they come and nothing is kept of it after
//! its last. What can't be read in that order, pending rows, comes beside them, packed by `unit_parts`.

use super::unit_parts::{Part, malformed};
use crate::activity::unreadable;
use crate::backend::aggregate::Holds;
use crate::backend::array::fixed_values;
use crate::backend::call::{Call, Outcome};
use crate::backend::report::Report;
use core::cmp::Ordering;
use pgrx::pg_sys;
use tally_core::days::DaysRef;
use tally_core::retention::{MAX_DAYS, MAX_PERIODS, Role};

/// What is made of units that come one after the other.
pub trait Counts {
    fn memory(&self) -> usize;
    fn add(&mut self, role: Role, days: &DaysRef);
    fn end_unit(&mut self);
}

/// Counts, the unit at hand, and the parts that come in between the rows.
pub struct InOrder<T> {
    tenant: Vec<u8>,
    unit: Vec<u8>,
    others: Vec<u8>,
    /// Up to where the others were read.
    read: usize,
    pub counts: T,
}

impl<T: Counts> Holds for InOrder<T> {
    fn outside(&self) -> usize {
        self.tenant.capacity() + self.unit.capacity() + self.others.capacity() + self.counts.memory()
    }
}

impl<T: Counts> InOrder<T> {
    pub fn new(counts: T, others: Option<&[u8]>) -> Self {
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

    /// What was counted, once the last unit has ended.
    pub fn finish(&mut self) -> Result<&T, Report> {
        self.take_others(None)?;
        self.counts.end_unit();
        Ok(&self.counts)
    }
}

/// An argument that isn't what it should be.
pub fn refused(message: String, hint: &'static str) -> Report {
    Report::new("22023", message).hint(hint)
}

/// A range that can't be counted.
pub fn too_much() -> Report {
    Report::new(
        "54000",
        format!("the range holds no day, more than {MAX_DAYS} days, or more than {MAX_PERIODS} periods"),
    )
    .hint("choose a coarser grain or a shorter range")
}

/// A row's part of a unit's days, once its unit is the one at hand; `None` where there is nothing to count.
pub fn part<'a, T: Counts>(call: &'a Call, state: &mut InOrder<T>) -> Result<Option<DaysRef<'a>>, Report> {
    let (Some(tenant), Some(unit), Some(days)) = (call.bytes(1), call.bytes(2), call.bytes(3)) else {
        return Ok(None);
    };
    state.turn(tenant, unit)?;
    DaysRef::parse(days).map(Some).map_err(|error| unreadable("set of days", error))
}

/// An array of numbers as an answer.
pub fn numbers_array(numbers: &[i64]) -> Outcome {
    Ok(Some(fixed_values(pg_sys::INT8OID, numbers.len(), numbers.iter().map(|number| number.to_ne_bytes()))))
}
