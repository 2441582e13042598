//! When something was active: sets of days and session windows, as stored bytes, with the aggregates that make and merge
//! them. The rollups `user_activity` and `session` keep them (sql/rollup/enriched.sql); the metrics over them are in `metric`.

mod days;
mod merging;
mod session_windows;

pub use merging::unreadable;
