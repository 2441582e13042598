//! Privacy: a person who is erased leaves nothing behind.

mod erasure;
mod model;
mod reports;
