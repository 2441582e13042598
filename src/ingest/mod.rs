//! Ingest: every door (`doors`) leads to one pipeline (`pipeline`), which stores each event exactly once.

mod doors;
mod failure;
mod options;
mod pipeline;
mod stream;
mod summary;
mod trail;
