//! The aggregates over `tdigest`: `tdigest(value [, compression])` and `rollup(tdigest)`.

use super::gathered::{self, Gathered, Sketch};
use crate::backend::aggregate::{self, Holds, State};
use crate::backend::call::{Call, Outcome, sql_function};
use crate::backend::report::Report;
use pgrx::pg_sys::Datum;
use std::borrow::Cow;
use tally_core::tdigest::{self, DEFAULT_COMPRESSION, TDigest};

impl Holds for TDigest {
    fn outside(&self) -> usize {
        self.memory() - size_of::<TDigest>()
    }
}

impl Sketch for TDigest {
    fn renew(stored: &[u8]) -> Result<Cow<'_, [u8]>, Report> {
        Ok(tdigest::renew(stored)?)
    }

    fn open(stored: &[u8]) -> Result<Self, Report> {
        let mut digest = TDigest::new(tdigest::compression(stored)?)?;
        digest.merge(stored)?;
        Ok(digest)
    }

    fn merge_stored(&mut self, stored: &[u8]) -> Result<(), Report> {
        Ok(self.merge(stored)?)
    }

    fn merge_open(&mut self, other: &Self) -> Result<(), Report> {
        Ok(self.merge_state(other)?)
    }

    fn stored(&self) -> Vec<u8> {
        self.finish().to_bytes()
    }
}

type Gathering = State<Gathered<TDigest>>;

fn add(call: &Call, compression: u16) -> Outcome {
    let state = Gathering::of(call, 0);
    let Some(value) = call.float(1) else {
        return Ok(state.map(State::datum));
    };
    let state = State::or_new(state, call, || Ok(Gathered::Merged(TDigest::new(compression)?)))?;
    state.change(|digest| -> Result<(), Report> { Ok(digest.merged()?.add(value)?) })?;
    Ok(Some(state.datum()))
}

/// Adds a value to a digest that has room for it.
#[inline(always)]
fn add_in_place(call: &Call) -> Option<Datum> {
    let state = Gathering::of(call, 0)?;
    state.in_place().open()?.add_in_place(call.float(1)?).then(|| state.datum())
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

sql_function! { fn tally_tdigest_rollup_trans / pg_finfo_tally_tdigest_rollup_trans(call) { gathered::union::<TDigest>(call) } }
sql_function! { fn tally_tdigest_combine / pg_finfo_tally_tdigest_combine(call) { aggregate::combine::<Gathered<TDigest>>(call) } }
sql_function! { fn tally_tdigest_serialize / pg_finfo_tally_tdigest_serialize(call) { gathered::stored::<TDigest>(call) } }
sql_function! { fn tally_tdigest_deserialize / pg_finfo_tally_tdigest_deserialize(call) { gathered::deserialize::<TDigest>(call) } }
sql_function! { fn tally_tdigest_final / pg_finfo_tally_tdigest_final(call) { gathered::stored::<TDigest>(call) } }
