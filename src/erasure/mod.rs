//! Erasure: removes a person, one of a tenant's users, from everything that is kept, so that what is left is what a database would
//! have that never had it; where that can't be, the certificate says so.
//!
//! From the request on ingest refuses the subject's events (`crate::privacy::subject`). `removal` removes the raw events by account and
//! month and has the rollups renewed; `elsewhere` removes what else is kept, and writes the certificates;
//! `missing` knows the months that nobody could look into. `at_once` does all of it in
//! the caller's transaction, `steps` in the housekeeping's. docs/decisions/erasure.md says why.

mod at_once;
mod elsewhere;
mod failure;
mod missing;
mod removal;
mod request;
mod steps;
