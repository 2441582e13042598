//! The aggregate `unit_parts`: packs parts of units' activity, in order of unit, for those that read rows in that order.

use crate::activity::unreadable;
use crate::backend::aggregate::{Holds, State};
use crate::backend::call::{self, sql_function};
use crate::backend::report::Report;
use tally_core::days::DaysRef;
use tally_core::retention::Role;
use tally_core::varint;

/// What packed parts may hold together.
const MAX_BYTES: usize = 500_000_000;

/// What a number says of a part: bit 0 that the unit can begin in it, bit 1 that it returns in it.
pub fn role(bits: Option<i32>) -> Role {
    let bits = bits.unwrap_or(0);
    Role { starts: bits & 1 != 0, returns: bits & 2 != 0 }
}

/// The error of packed parts that aren't any.
pub fn malformed(what: &str) -> Report {
    Report::new("22P03", format!("these bytes are no {what}"))
}

/// A part of a unit's activity.
pub struct Part<'a> {
    pub tenant: &'a [u8],
    pub unit: &'a [u8],
    role: i32,
}

impl<'a> Part<'a> {
    /// Takes a packed part off the front.
    pub fn read(bytes: &mut &'a [u8]) -> Option<(Self, DaysRef<'a>)> {
        let mut text = || {
            let length = usize::try_from(varint::read(bytes)?).ok()?;
            let (text, rest) = bytes.split_at_checked(length)?;
            *bytes = rest;
            Some(text)
        };
        let (tenant, unit, days) = (text()?, text()?, text()?);
        let role = i32::try_from(varint::read(bytes)?).ok()?;
        Some((Part { tenant, unit, role }, DaysRef::parse(days).ok()?))
    }

    pub fn role(&self) -> Role {
        role(Some(self.role))
    }
}

/// Packed parts in the order of arrival, and where each begins.
#[derive(Default)]
struct Parts {
    bytes: Vec<u8>,
    begins: Vec<usize>,
}

impl Holds for Parts {
    fn outside(&self) -> usize {
        self.bytes.capacity() + self.begins.capacity() * size_of::<usize>()
    }
}

impl Parts {
    fn add(&mut self, texts: [&[u8]; 3], role: u64) {
        self.begins.push(self.bytes.len());
        for text in texts {
            varint::write(text.len() as u64, &mut self.bytes);
            self.bytes.extend_from_slice(text);
        }
        varint::write(role, &mut self.bytes);
    }

    /// All of them in order of tenant and unit.
    fn in_order(&self) -> Vec<u8> {
        let ends = self.begins.iter().skip(1).copied().chain([self.bytes.len()]);
        let mut parts: Vec<_> = self
            .begins
            .iter()
            .zip(ends)
            .map(|(&begins, ends)| {
                let part = &self.bytes[begins..ends];
                let (key, _) = Part::read(&mut &part[..]).expect("packed here, its days checked");
                (key.tenant, key.unit, part)
            })
            .collect();
        parts.sort_unstable();
        let mut packed = Vec::with_capacity(self.bytes.len());
        parts.iter().for_each(|(_, _, part)| packed.extend_from_slice(part));
        packed
    }
}

sql_function! {
    /// `unit_parts(tenant, unit, days, role)`
    fn tally_unit_parts_trans / pg_finfo_tally_unit_parts_trans(call) {
        let state = State::<Parts>::of(call, 0);
        let (Some(tenant), Some(unit), Some(days)) = (call.bytes(1), call.bytes(2), call.bytes(3)) else {
            return Ok(state.map(State::datum));
        };
        DaysRef::parse(days).map_err(|error| unreadable("set of days", error))?;
        let state = State::or_new(state, call, || Ok(Parts::default()))?;
        if state.value().bytes.len() > MAX_BYTES {
            return Err(Report::new("54000", "too many rows are pending to be merged while reading")
                .hint("fold them first: CALL tally.maintain()"));
        }
        let role = call.int(4).unwrap_or(0) & 3;
        state.change(|parts| parts.add([tenant, unit, days], role as u64));
        Ok(Some(state.datum()))
    }
}

sql_function! {
    fn tally_unit_parts_final / pg_finfo_tally_unit_parts_final(call) {
        Ok(State::<Parts>::of(call, 0).map(|state| call::varlena(&state.value().in_order())))
    }
}
