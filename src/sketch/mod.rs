//! Sketches as SQL types.

pub mod hash;
