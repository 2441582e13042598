//! The record of who did what.

mod audit;
mod audit_tampering;
mod export;
mod export_basis;
mod export_values;
mod texts;
mod trace;
