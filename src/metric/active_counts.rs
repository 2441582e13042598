//! The aggregate `active_counts`.

use super::in_order::{Counts, InOrder, numbers_array, part, too_much};
use crate::backend::aggregate::State;
use crate::backend::call::sql_function;
use crate::backend::report::Report;
use tally_core::days::DaysRef;
use tally_core::retention::{Actives, Role};

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

sql_function! {
    /// `active_counts(tenant, unit, days, first, end, others)`
    fn tally_active_counts_trans / pg_finfo_tally_active_counts_trans(call) {
        let state = State::or_new(State::<InOrder<Actives>>::of(call, 0), call, || {
                let (Some(first), Some(end)) = (call.int(4), call.int(5)) else { return Err(too_much()) };
                let actives = Actives::new(first, end).ok_or_else(too_much)?;
                Ok(InOrder::new(actives, call.bytes(6)))
        })?;
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
