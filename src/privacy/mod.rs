//! Privacy, below what stores events: which persons' events are refused (`subject`).

pub mod subject;
