//! The aggregate `funnel_counts`: a funnel over the events of all units at once.

use super::window_funnel::rule;
use crate::backend::aggregate::{Holds, State};
use crate::backend::array::fixed_values;
use crate::backend::call::sql_function;
use crate::backend::report::Report;
use pgrx::pg_sys;
use tally_core::unit_funnel::{MAX_EVENTS, UnitFunnel};

impl Holds for UnitFunnel {
    fn outside(&self) -> usize {
        self.memory()
    }
}

sql_function! {
    /// `funnel_counts(window, mode, tenant, unit, occurred_at, steps, mask)`; window, mode and steps are read once.
    fn tally_funnel_counts_trans / pg_finfo_tally_funnel_counts_trans(call)
    fast {
        let state = State::<UnitFunnel>::of(call, 0)?;
        let (tenant, unit) = (call.bytes_in_place(3)?, call.bytes_in_place(4)?);
        let (time, mask) = (call.long(5)?, call.int(7)? as u32);
        state.in_place().add_in_place(tenant, unit, time, mask).then(|| state.datum())
    }
    {
        let state = State::or_new(State::<UnitFunnel>::of(call, 0), call, || {
                let steps = call.int(6).and_then(|steps| usize::try_from(steps).ok()).unwrap_or(0);
                Ok(UnitFunnel::new(rule(call, 1, call.text(2), steps)?))
        })?;
        let (Some(tenant), Some(unit), Some(time)) = (call.bytes(3), call.bytes(4), call.long(5)) else {
            return Ok(Some(state.datum()));
        };
        let mask = call.int(7).unwrap_or(0) as u32;
        if state.value().events() == MAX_EVENTS {
            return Err(Report::new("54000", format!("a funnel can't hold more than {MAX_EVENTS} events at once"))
                .hint("choose a shorter range, or use tally.funnel_times with GROUP BY"));
        }
        state.change(|funnel| funnel.add(tenant, unit, time, mask));
        Ok(Some(state.datum()))
    }
}

sql_function! {
    /// Three numbers for each step: units, median and 90th percentile of the wait in microseconds, -1 where there is none.
    fn tally_funnel_counts_final / pg_finfo_tally_funnel_counts_final(call) {
        let Some(state) = State::<UnitFunnel>::of(call, 0) else { return Ok(None) };
        let steps = state.value().count();
        let numbers: Vec<i64> = steps
            .iter()
            .flat_map(|step| {
                let wait = |thousandths| step.percentile(thousandths).unwrap_or(-1);
                [step.units as i64, wait(500), wait(900)]
            })
            .collect();
        Ok(Some(fixed_values(pg_sys::INT8OID, numbers.len(), numbers.iter().map(|number| number.to_ne_bytes()))))
    }
}
