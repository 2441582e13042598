//! The record of who did what.

mod audit;
mod audit_tampering;
mod export;
mod texts;
mod trace;
