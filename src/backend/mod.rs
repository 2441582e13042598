//! The innermost layer: calls into Postgres, with all of the crate's `unsafe`.
//!
//! A datum that the crate hands about is a value of the type that its column, argument or expression is declared with, and is read
//! no longer than the row, arena or call that it came from lives. The type of Rust can't say so; functions that take one rely on it.
//!
//! Nothing here implements `Drop` for what Postgres has: while an error unwinds, Postgres itself releases relations, locks, pins and
//! memory when it aborts the (sub)transaction.

pub mod added_code;
mod added_keys;
mod additions;
pub mod aggregate;
pub mod appender;
pub mod arena;
pub mod array;
pub mod backtrace;
pub mod binary_upgrade;
pub mod bound_query;
pub mod cache;
pub mod call;
pub mod changes;
pub mod column_name;
pub mod command;
pub mod copied_row;
pub mod cursor;
pub mod dropping;
pub mod ending;
pub mod evaluator;
pub mod expression;
pub mod expression_code;
pub mod expression_reads;
mod failure;
pub mod guarded;
pub mod heap;
pub mod hearing;
pub mod hook;
pub mod json;
mod kept_portals;
pub mod key_source;
pub mod known;
pub mod leftover;
pub mod limit;
mod list;
pub mod lock;
pub mod log;
pub mod lookup;
mod made_types;
pub mod memory;
mod moment;
mod mutable_parts;
pub mod named_rows;
pub mod own_transaction;
pub mod partition;
pub mod planner;
pub mod prepared;
pub mod query_sources;
pub mod reads;
pub mod refusal;
pub mod report;
pub mod ring;
pub mod role;
pub mod row_count;
pub mod scan;
pub mod schema;
pub mod session;
pub mod size;
pub mod sql;
pub mod statistics;
mod stored_code;
pub mod subtransaction;
pub mod take;
pub mod transaction_end;
pub mod transactions;
pub mod trigger;
mod types;
pub mod upsert;
pub mod value;
pub mod version;
mod wal;
pub mod worker;
mod writable;
