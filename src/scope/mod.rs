//! Scope: what the current transaction may see. One account, one tenant, or global (`kind`).
//!
//! A scope comes from the transaction's own `enter`, or else from the binding of the role that logged in (`binding`); a pool
//! role enters by `token`. Sensitive acts ask for a `step_up`. The setting `tally.scope` carries the key of an entered one, by which row security decides
//! (`policy`). What sessions that act for tenants are kept from is in `confine` and `limit`.

mod binding;
mod class;
mod confine;
mod current;
mod enter;
mod failure;
mod id;
mod identity;
mod kind;
mod limit;
mod policy;
mod step_up;
mod token;
mod trial;
mod witness;
mod words;

pub use class::is_confined;
pub use confine::install as confine;
pub use current::{current, for_writing, key_for_auditing, tenant_of_session};
pub use failure::ScopeError;
pub use id::check;
pub use identity::identities;
pub use kind::Scope;
pub use limit::without_row_limit;
#[allow(unused_imports, reason = "revealing and erasing call it")]
pub use step_up::{require_step_up, stepped_up_subject};
pub use token::subject;
pub use witness::{Denial, Entered, SteppedUp, Witness, tell};
pub use words::{check as check_words, says_something};
