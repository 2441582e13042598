//! Pure logic of pg_tally. Needs no server and contains no `unsafe`.
#![forbid(unsafe_code)]

pub mod access;
pub mod audit;
pub mod batch;
pub mod calendar;
pub mod days;
pub mod event;
pub mod export;
pub mod funnel;
pub mod grain;
pub mod hll;
pub mod id;
pub mod jsonb;
pub mod moment_word;
pub mod naming;
pub mod numeric;
pub mod payload;
pub mod pending_keys;
pub mod personal;
pub mod privacy;
pub mod retention;
pub mod room;
pub mod scope_key;
pub mod session;
pub mod step_up;
pub mod stored;
pub mod subject;
pub mod tdigest;
pub mod token;
pub mod token_bucket;
pub mod traceparent;
pub mod unit_funnel;
pub mod varint;
pub mod words;
