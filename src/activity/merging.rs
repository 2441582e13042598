//! What sets of days and session windows have in common: times go in, stored states merge.

use crate::backend::aggregate::{Combines, State};
use crate::backend::call::{self, Call, Outcome};
use crate::backend::report::Report;
use crate::sketch::damage::CORRUPTED;
use tally_core::stored::StateError;

/// A state that times are added to, and stored states of its kind.
pub trait Mergeable: Combines + Default {
    /// What an error calls it.
    const NAME: &'static str;

    fn add_time(&mut self, time: i64);
    fn merge_stored(&mut self, bytes: &[u8]) -> Result<(), StateError>;
    /// `None` of an empty state.
    fn stored(&self) -> Option<Vec<u8>>;
}

/// The error of reading bytes that are no state.
pub fn unreadable(name: &str, error: StateError) -> Report {
    let hint = match error {
        StateError::Malformed => "pass what a rollup's state view or the aggregate gave",
        StateError::Checksum => CORRUPTED,
    };
    Report::new(error.sqlstate(), error.about(name)).hint(hint)
}

/// The transition function of the aggregate over times.
pub fn add<T: Mergeable>(call: &Call) -> Outcome {
    let state = State::<T>::of(call, 0);
    let Some(time) = call.long(1) else { return Ok(state.map(State::datum)) };
    if matches!(time, i64::MIN | i64::MAX) {
        return Err(Report::new("22008", "an infinite time is on no day")
            .hint("leave such rows out, with FILTER (WHERE isfinite(...))"));
    }
    let state = State::or_new(state, call, || Ok(T::default()))?;
    state.change(|value| value.add_time(time));
    Ok(Some(state.datum()))
}

/// The transition function of the aggregate over stored states.
pub fn union<T: Mergeable>(call: &Call) -> Outcome {
    let state = State::<T>::of(call, 0);
    let Some(bytes) = call.bytes(1) else { return Ok(state.map(State::datum)) };
    let state = State::or_new(state, call, || Ok(T::default()))?;
    state.change(|value| value.merge_stored(bytes)).map_err(|error| unreadable(T::NAME, error))?;
    Ok(Some(state.datum()))
}

/// The stored form: the final function, and the serialization.
pub fn stored<T: Mergeable>(call: &Call) -> Outcome {
    Ok(State::<T>::of(call, 0).and_then(|state| state.value().stored()).map(|bytes| call::varlena(&bytes)))
}

pub fn deserialize<T: Mergeable>(call: &Call) -> Outcome {
    let Some(bytes) = call.bytes(0) else { return Ok(None) };
    let mut value = T::default();
    value.merge_stored(bytes).map_err(|error| unreadable(T::NAME, error))?;
    State::begun(call, value)
}

/// Two stored states as one.
pub fn merge<T: Mergeable>(call: &Call) -> Outcome {
    let mut value = T::default();
    for argument in 0..2 {
        let Some(bytes) = call.bytes(argument) else { return Ok(None) };
        value.merge_stored(bytes).map_err(|error| unreadable(T::NAME, error))?;
    }
    Ok(value.stored().map(|bytes| call::varlena(&bytes)))
}
