//! The aggregate `retention_mask`: which of several conditions a group met, given that it met the first.

use super::conditions;
use crate::backend::aggregate::{Combines, Holds, State, combine};
use crate::backend::call::{self, sql_function};
use crate::backend::report::Report;

const MAX_CONDITIONS: usize = 32;
/// Serialized: this version, the number of conditions, the mask.
const VERSION: u8 = 1;

#[derive(Clone, Copy)]
struct Met {
    mask: u32,
    conditions: usize,
}

impl Holds for Met {
    fn outside(&self) -> usize {
        0
    }
}

impl Combines for Met {
    fn combine(&mut self, other: &Met) -> Result<(), Report> {
        if self.conditions != other.conditions {
            return Err(Report::new(
                "22023",
                format!("{} conditions after {}", other.conditions, self.conditions),
            )
            .hint("give as many conditions in every row of a group"));
        }
        self.mask |= other.mask;
        Ok(())
    }
}

sql_function! {
    fn tally_retention_mask_trans / pg_finfo_tally_retention_mask_trans(call) {
        let state = State::<Met>::of(call, 0);
        let Some((mask, number)) = conditions::mask(call, 1, MAX_CONDITIONS)? else {
            return Ok(state.map(State::datum));
        };
        let met = Met { mask, conditions: number };
        match state {
            None => State::begun(call, met),
            Some(state) => {
                state.change(|seen| seen.combine(&met))?;
                Ok(Some(state.datum()))
            }
        }
    }
}

sql_function! { fn tally_retention_mask_combine / pg_finfo_tally_retention_mask_combine(call) { combine::<Met>(call) } }

sql_function! {
    fn tally_retention_mask_serialize / pg_finfo_tally_retention_mask_serialize(call) {
        Ok(State::<Met>::of(call, 0).map(|state| {
            let Met { mask, conditions } = *state.value();
            let [a, b, c, d] = mask.to_le_bytes();
            call::varlena(&[VERSION, conditions as u8, a, b, c, d])
        }))
    }
}

sql_function! {
    fn tally_retention_mask_deserialize / pg_finfo_tally_retention_mask_deserialize(call) {
        match call.bytes(0) {
            None => Ok(None),
            Some(&[VERSION, conditions, a, b, c, d]) if (1..=MAX_CONDITIONS).contains(&conditions.into()) => {
                let met = Met { mask: u32::from_le_bytes([a, b, c, d]), conditions: conditions.into() };
                State::begun(call, met)
            }
            Some(_) => Err(Report::new("22P03", "these bytes are no state of a retention mask")),
        }
    }
}

sql_function! {
    fn tally_retention_mask_final / pg_finfo_tally_retention_mask_final(call) {
        Ok(State::<Met>::of(call, 0).map(|state| {
            let Met { mask, conditions } = *state.value();
            conditions::booleans((0..conditions).map(|place| mask & 1 == 1 && mask >> place & 1 == 1))
        }))
    }
}
