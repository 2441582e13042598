//! Raw events: the ledger of their keys (`ledger`), the tables that they and their batches are written to (`store`), the months
//! that hold them (`partition`, `leaf`, `isolate`, `open_months`, `months`), up to where they are kept (`horizon`, `prune`; `lost_months` what went by hand) and
//! their tenants. `gate` is the lock that keeps ingest out while one of those changes.

mod added_code;
mod failure;
pub mod gate;
pub mod horizon;
mod isolate;
pub mod leaf;
pub mod ledger;
pub mod lost_months;
pub mod months;
pub mod open_months;
pub mod outcome;
pub mod partition;
pub mod prune;
pub mod store;
pub mod tenant;

use crate::backend::heap::Declared;
pub use failure::RawError;

/// The tables that are written below the executor.
pub const TABLES: [Declared; 5] =
    [crate::event::EVENTS, ledger::LEDGER, store::BATCHES, store::QUARANTINE, tenant::TENANTS];
