//! The doors of ingest, and what becomes of an event.

mod broker;
mod drivers;
mod exactly_once;
mod find_event;
mod inbox;
mod ingest_options;
mod interrupted;
mod numbers;
mod outcomes;
mod payload;
mod poison;
mod quarantine;
mod quota;
mod real_input;
mod registry;
mod stream;
