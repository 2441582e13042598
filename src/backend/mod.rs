//! The innermost layer: calls into Postgres, with all of the crate's `unsafe`.
//!
//! Nothing here implements `Drop`: while an error unwinds, Postgres itself releases relations, locks, pins and
//! memory when it aborts the (sub)transaction.

pub mod appender;
pub mod arena;
pub mod expression;
pub mod lookup;
pub mod partition;
pub mod session;
pub mod subtransaction;
