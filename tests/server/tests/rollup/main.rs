//! Rollups: right after anything, in every layout, and as fast with a year of history.

mod alter;
mod corruption;
mod declarations;
mod dependents;
mod differential;
mod layout;
mod measures;
mod newest;
mod plans;
mod relief;
mod shared;
mod states;
mod sums;
mod upkeep;
mod views;
