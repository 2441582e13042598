//! The aggregates over `tdigest`: `tdigest(value [, compression])` and `rollup(tdigest)`.

use super::hll_aggregate::context;
use crate::backend::aggregate::{Holds, State};
use crate::backend::call::{self, Call, Outcome, sql_function};
use pgrx::pg_sys::Datum;
use tally_core::tdigest::{DEFAULT_COMPRESSION, Summary, TDigest};

impl Holds for TDigest {
    fn outside(&self) -> usize {
        self.memory() - size_of::<TDigest>()
    }
}

fn add(call: &Call, compression: u16) -> Outcome {
    let state = State::<TDigest>::of(call, 0);
    let Some(value) = call.float(1) else {
        return Ok(state.map(State::datum));
    };
    let state = match state {
        Some(state) => state,
        None => State::new(context(call)?, TDigest::new(compression)?),
    };
    state.change(|digest| digest.add(value))?;
    Ok(Some(state.datum()))
}

/// Adds a value to a digest that has room for it.
#[inline(always)]
fn add_in_place(call: &Call) -> Option<Datum> {
    let state = State::<TDigest>::of(call, 0)?;
    state.in_place().add_in_place(call.float(1)?).then(|| state.datum())
}

sql_function! {
    fn tally_tdigest_trans / pg_finfo_tally_tdigest_trans(call)
    fast { add_in_place(call) }
    { add(call, DEFAULT_COMPRESSION) }
}

sql_function! {
    fn tally_tdigest_trans_compression / pg_finfo_tally_tdigest_trans_compression(call)
    fast { add_in_place(call) }
    {
        let compression = call.int(2).map_or(DEFAULT_COMPRESSION, |given| u16::try_from(given).unwrap_or(0));
        add(call, compression)
    }
}

sql_function! {
    fn tally_tdigest_rollup_trans / pg_finfo_tally_tdigest_rollup_trans(call) {
        let state = State::<TDigest>::of(call, 0);
        let Some(stored) = call.bytes(1) else {
            return Ok(state.map(State::datum));
        };
        merge(call, state, stored)
    }
}

sql_function! {
    fn tally_tdigest_combine / pg_finfo_tally_tdigest_combine(call) {
        match (State::<TDigest>::of(call, 0), State::<TDigest>::of(call, 1)) {
            (state, None) => Ok(state.map(State::datum)),
            (None, Some(other)) => Ok(Some(State::new(context(call)?, other.value().clone()).datum())),
            (Some(state), Some(other)) => {
                state.change(|digest| digest.merge_state(other.value()))?;
                Ok(Some(state.datum()))
            }
        }
    }
}

sql_function! {
    fn tally_tdigest_serialize / pg_finfo_tally_tdigest_serialize(call) {
        Ok(State::<TDigest>::of(call, 0).map(|state| call::varlena(&state.value().finish().to_bytes())))
    }
}

sql_function! {
    fn tally_tdigest_deserialize / pg_finfo_tally_tdigest_deserialize(call) {
        let Some(stored) = call.bytes(0) else { return Ok(None) };
        merge(call, None, stored)
    }
}

sql_function! {
    fn tally_tdigest_final / pg_finfo_tally_tdigest_final(call) {
        Ok(State::<TDigest>::of(call, 0).map(|state| call::varlena(&state.value().finish().to_bytes())))
    }
}

fn merge(call: &Call, state: Option<&mut State<TDigest>>, stored: &[u8]) -> Outcome {
    let state = match state {
        Some(state) => state,
        None => State::new(context(call)?, TDigest::new(Summary::parse(stored)?.compression())?),
    };
    state.change(|digest| digest.merge(stored))?;
    Ok(Some(state.datum()))
}
