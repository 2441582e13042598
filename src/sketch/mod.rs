//! Sketches as SQL types: `hll` (distinct counts) and `tdigest` (percentiles).

pub mod damage;
mod gathered;
pub mod hash;
mod hll;
mod hll_aggregate;
mod tdigest;
mod tdigest_aggregate;
mod text;
