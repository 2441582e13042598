//! The aggregates over `hll`: `hll(value)` and `rollup(hll)`.

use super::gathered::{self, Gathered, Sketch};
use super::hash::Hashable;
use crate::backend::aggregate::{self, Holds, State};
use crate::backend::call::{Call, Outcome, sql_function};
use crate::backend::report::Report;
use pgrx::pg_sys::Datum;
use std::borrow::Cow;
use tally_core::hll::{self, DEFAULT_LGK, HashKey, Hll, HllRef, Keying, ValueHasher};

impl Holds for Hll {
    fn outside(&self) -> usize {
        self.memory() - size_of::<Hll>()
    }
}

impl Sketch for Hll {
    fn renew(stored: &[u8]) -> Result<Cow<'_, [u8]>, Report> {
        Ok(hll::renew(stored)?)
    }

    fn open(stored: &[u8]) -> Result<Self, Report> {
        Ok(Hll::try_from(&HllRef::parse(stored)?)?)
    }

    fn merge_stored(&mut self, stored: &[u8]) -> Result<(), Report> {
        Ok(self.merge(&HllRef::parse(stored)?)?)
    }

    fn merge_open(&mut self, other: &Self) -> Result<(), Report> {
        Ok(self.merge_state(other)?)
    }

    fn stored(&self) -> Vec<u8> {
        self.to_bytes()
    }
}

type Gathering = State<Gathered<Hll>>;

/// Adds one value to a plain sketch.
fn add(call: &Call, hashable: Hashable) -> Outcome {
    let hasher = ValueHasher::Plain;
    let state = Gathering::of(call, 0);
    let Some(value) = call.datum(1) else {
        return Ok(state.map(State::datum));
    };
    let state = State::or_new(state, call, || Ok(Gathered::Merged(Hll::new(DEFAULT_LGK, Keying::Plain)?)))?;
    if let Some(coupon) = hashable.coupon(&hasher, value) {
        state.change(|sketch| sketch.merged().map(|sketch| sketch.add(coupon)))?;
    }
    Ok(Some(state.datum()))
}

/// Adds one value to a plain sketch that has room for it.
#[inline(always)]
fn add_in_place(call: &Call, hashable: Hashable) -> Option<Datum> {
    let state = Gathering::of(call, 0)?;
    let coupon = match hashable {
        // Never detoasted here: that could fail.
        Hashable::Bytes => ValueHasher::Plain.bytes(call.bytes_in_place(1)?)?,
        hashable => hashable.coupon(&ValueHasher::Plain, call.datum(1)?)?,
    };
    state.in_place().open()?.add_in_place(coupon).then(|| state.datum())
}

sql_function! {
    fn tally_hll_trans_int2 / pg_finfo_tally_hll_trans_int2(call)
    fast { add_in_place(call, Hashable::Int2) }
    { add(call, Hashable::Int2) }
}
sql_function! {
    fn tally_hll_trans_int4 / pg_finfo_tally_hll_trans_int4(call)
    fast { add_in_place(call, Hashable::Int4) }
    { add(call, Hashable::Int4) }
}
sql_function! {
    fn tally_hll_trans_int8 / pg_finfo_tally_hll_trans_int8(call)
    fast { add_in_place(call, Hashable::Int8) }
    { add(call, Hashable::Int8) }
}
sql_function! {
    fn tally_hll_trans_bytes / pg_finfo_tally_hll_trans_bytes(call)
    fast { add_in_place(call, Hashable::Bytes) }
    { add(call, Hashable::Bytes) }
}
sql_function! {
    fn tally_hll_trans_uuid / pg_finfo_tally_hll_trans_uuid(call)
    fast { add_in_place(call, Hashable::Uuid) }
    { add(call, Hashable::Uuid) }
}
sql_function! {
    fn tally_hll_trans_numeric / pg_finfo_tally_hll_trans_numeric(call) { add(call, Hashable::Numeric) }
}

sql_function! {
    /// `hll(value text, key bytea, epoch int4)`: a sketch hashed under a 128-bit secret.
    fn tally_hll_trans_keyed / pg_finfo_tally_hll_trans_keyed(call) { add_keyed(call, Hashable::Bytes) }
}
sql_function! {
    fn tally_hll_trans_keyed_int8 / pg_finfo_tally_hll_trans_keyed_int8(call) { add_keyed(call, Hashable::Int8) }
}

/// Adds one value to a sketch under a key.
fn add_keyed(call: &Call, hashable: Hashable) -> Outcome {
    let state = Gathering::of(call, 0);
    let (Some(value), Some(key), Some(epoch)) = (call.datum(1), call.bytes(2), call.int(3)) else {
        return Ok(state.map(State::datum));
    };
    let key = HashKey(
        key.try_into()
            .map_err(|_| Report::new("22023", format!("a sketch key has 16 bytes, not {}", key.len())))?,
    );
    let hasher = ValueHasher::Keyed { key, epoch: epoch as u32 };
    let state = State::or_new(state, call, || Ok(Gathered::Merged(Hll::new(DEFAULT_LGK, hasher.keying())?)))?;
    state.change(|sketch| -> Result<(), Report> {
        let sketch = sketch.merged()?;
        if sketch.keying() != hasher.keying() {
            return Err(tally_core::hll::HllError::KeyingMismatch.into());
        }
        if let Some(coupon) = hashable.coupon(&hasher, value) {
            sketch.add(coupon);
        }
        Ok(())
    })?;
    Ok(Some(state.datum()))
}

sql_function! { fn tally_hll_rollup_trans / pg_finfo_tally_hll_rollup_trans(call) { gathered::union::<Hll>(call) } }
sql_function! { fn tally_hll_combine / pg_finfo_tally_hll_combine(call) { aggregate::combine::<Gathered<Hll>>(call) } }
sql_function! { fn tally_hll_serialize / pg_finfo_tally_hll_serialize(call) { gathered::stored::<Hll>(call) } }
sql_function! { fn tally_hll_deserialize / pg_finfo_tally_hll_deserialize(call) { gathered::deserialize::<Hll>(call) } }
sql_function! { fn tally_hll_final / pg_finfo_tally_hll_final(call) { gathered::stored::<Hll>(call) } }
