//! A sketch while it is aggregated. Most groups of a rollup's view have one row: its sketch is handed on as it is stored,
//! checked, and only where a second one comes are both read and merged.

use crate::backend::aggregate::{Combines, Holds, State};
use crate::backend::call::{self, Call, Outcome};
use crate::backend::report::Report;
use std::borrow::Cow;

/// A sketch that can be read from and written to its stored form.
pub trait Sketch: Holds + Clone + Sized {
    /// Checks stored bytes and gives them in the newest form.
    fn renew(stored: &[u8]) -> Result<Cow<'_, [u8]>, Report>;
    fn open(stored: &[u8]) -> Result<Self, Report>;
    fn merge_stored(&mut self, stored: &[u8]) -> Result<(), Report>;
    fn merge_open(&mut self, other: &Self) -> Result<(), Report>;
    fn stored(&self) -> Vec<u8>;
}

#[derive(Clone)]
pub enum Gathered<T> {
    /// The only one so far, as it is stored.
    Alone(Box<[u8]>),
    Merged(T),
}

impl<T: Sketch> Holds for Gathered<T> {
    fn outside(&self) -> usize {
        match self {
            Self::Alone(bytes) => bytes.len(),
            Self::Merged(sketch) => sketch.outside(),
        }
    }
}

impl<T: Sketch> Gathered<T> {
    /// Of one stored sketch.
    pub fn alone(stored: &[u8]) -> Result<Self, Report> {
        Ok(Self::Alone(T::renew(stored)?.into()))
    }

    /// The sketch, to add to.
    pub fn merged(&mut self) -> Result<&mut T, Report> {
        if let Self::Alone(bytes) = self {
            *self = Self::Merged(T::open(bytes)?);
        }
        match self {
            Self::Merged(sketch) => Ok(sketch),
            Self::Alone(_) => unreachable!("opened above"),
        }
    }

    /// The sketch, where it is open already.
    #[inline]
    pub fn open(&mut self) -> Option<&mut T> {
        match self {
            Self::Merged(sketch) => Some(sketch),
            Self::Alone(_) => None,
        }
    }

    pub fn merge_stored(&mut self, stored: &[u8]) -> Result<(), Report> {
        self.merged()?.merge_stored(stored)
    }

    /// The stored form.
    pub fn stored(&self) -> Cow<'_, [u8]> {
        match self {
            Self::Alone(bytes) => Cow::Borrowed(bytes),
            Self::Merged(sketch) => Cow::Owned(sketch.stored()),
        }
    }
}

impl<T: Sketch> Combines for Gathered<T> {
    fn combine(&mut self, other: &Self) -> Result<(), Report> {
        match other {
            Self::Alone(bytes) => self.merged()?.merge_stored(bytes),
            Self::Merged(sketch) => self.merged()?.merge_open(sketch),
        }
    }
}

/// The transition function of the aggregate over stored sketches.
pub fn union<T: Sketch>(call: &Call) -> Outcome {
    let state = State::<Gathered<T>>::of(call, 0);
    match (state, call.bytes(1)) {
        (state, None) => Ok(state.map(State::datum)),
        (None, Some(stored)) => State::begun(call, Gathered::<T>::alone(stored)?),
        (Some(state), Some(stored)) => {
            state.change(|sketch| sketch.merge_stored(stored))?;
            Ok(Some(state.datum()))
        }
    }
}

/// The stored form: the final function, and the serialization.
pub fn stored<T: Sketch>(call: &Call) -> Outcome {
    Ok(State::<Gathered<T>>::of(call, 0).map(|state| call::varlena(&state.value().stored())))
}

pub fn deserialize<T: Sketch>(call: &Call) -> Outcome {
    call.bytes(0).map_or(Ok(None), |stored| State::begun(call, Gathered::<T>::alone(stored)?))
}
