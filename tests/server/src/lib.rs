//! What tests against a running server share: a database of their own, real roles, ingest, seeds, real input.
//!
//! The server is the private test cluster of this checkout, which `make test` starts; every database is cloned from
//! `tally_template`, so tests run side by side and see nothing of each other except roles.

mod bouncer;
mod calendar;
mod catalogue;
mod cluster;
mod confined;
mod git_events;
mod ingest;
mod metric_oracle;
mod oracle;
mod private_server;
mod rollups;
mod seed;
mod session;
mod story;
mod token;
mod turn;
mod wire;

pub use bouncer::Bouncer;
pub use calendar::{away_from_midnight, away_from_the_hours_end};
pub use catalogue::{assert_same, contents, describe};
pub use cluster::{Database, bin_and_sockets, connect_superuser, major, number, of_this_major};
pub use confined::{Confined, code};
pub use git_events::{GitEvent, git_events};
pub use ingest::{Summary, ingest, ingest_by_simple_query, json_array};
pub use metric_oracle::{Reader, expected, oracle_is_there, readers, same, take_marks};
pub use oracle::{Group, groups, rank_error};
pub use private_server::{Installation, PrivateServer, succeed, wait_for};
pub use rollups::{assert_right, fold_all, verify};
pub use seed::{seeded, skip};
pub use session::Session;
pub use story::{told, told_of_several};
pub use token::TokenSigner;
pub use wire::Wire;
