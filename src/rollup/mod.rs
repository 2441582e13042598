//! Rollups: declared sets of dimensions and measures, kept per tenant, account and time bucket.
//!
//! `declare` makes them, with the tables and views of `layout`, and `alter` adds to them; `backfill` fills them in steps where that was asked for.
//! `append` writes what a batch adds (`accumulate`) as pending rows, `fold` merges those (`delta`) into the base rows, both
//! by way of each measure's state (`cell`); the views show both. `relief` says when ingest folds on the side, or leaves it to a process (`folder`). `verify`
//! compares rollups with the events, `rebuild` makes them anew where the events are not gone (`frozen`, `renewable`); `pending` says what events are
//! still needed for, `reads` what of them an expression reads.

mod accumulate;
mod alter;
mod append;
mod backfill;
mod cell;
mod declare;
mod definition;
mod delta;
mod dependents;
mod failure;
mod fold;
mod folder;
mod frozen;
mod hidden;
mod layout;
mod pending;
mod pending_keys;
mod reads;
mod rebuild;
mod relief;
mod renew;
mod renewable;
mod shape;
mod shared;
mod strange_code;
mod user_values;
mod verify;
mod view_settings;

pub use append::{append, unevaluable};
pub use backfill::is_backfilling;
pub use failure::RollupError;
pub use pending::{Needed, needs_raw_before, pending_without_lock};
pub use reads::reads;
pub use rebuild::has_its_events;
pub use relief::{Added, begin_attempt, begin_call, relieve};
pub use renew::{Gone, Kept, Lost, Own, Renewed, await_folders, kept, renew, renew_month};
pub use user_values::Made;
