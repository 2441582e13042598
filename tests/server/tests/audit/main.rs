//! The record of who did what.

mod audit;
mod audit_tampering;
mod export;
mod export_basis;
mod texts;
mod trace;
