//! What sessions are to the hooks: free, or acting for a tenant.

use super::binding::{self, Binding};
use crate::backend::changes::{self, Heard};
use crate::backend::{evaluator, own_transaction, session};
use pgrx::pg_sys::Oid;
use std::cell::Cell;
use std::sync::atomic::{AtomicBool, Ordering};

/// What the role that logged in is, as far as the hooks care.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Not confined: superusers, trusted roles, analysts, and whoever has nothing to do with us.
    Free,
    /// Might use our tables, and is in no scope of its own.
    Outside,
    /// Is in a scope from the start.
    Bound,
    /// Enters by token; other tenants' transactions follow in the same session.
    Pool,
}

/// The class of a role, as it was when the transaction first asked.
#[derive(Clone, Copy)]
struct Known {
    transaction: u32,
    role: Oid,
    class: Class,
    /// What the backend had heard of before; `None` where nothing would tell of a change.
    heard: Option<Heard>,
}

thread_local! {
    static KNOWN: Cell<Option<Known>> = const { Cell::new(None) };
}
/// Until somebody has asked, it is.
static IS_CONFINED: AtomicBool = AtomicBool::new(true);

/// The class of the role that logged in, looked up once a transaction.
pub fn class() -> Class {
    // A tenant's code, whoever's session it is. What we try as a table's owner is ours.
    if session::runs_for_another() && !evaluator::is_running() && session::acts_as_reader_or_writer() {
        return Class::Outside;
    }
    let (transaction, role) = (session::transaction_number(), session::session_role());
    let known = KNOWN.get().filter(|known| known.role == role);
    if let Some(known) = known
        && known.transaction == transaction
    {
        return known.class;
    }
    // In another transaction it is the same unless something has changed.
    let unchanged = known.filter(|known| known.heard.is_some_and(|heard| heard == changes::heard()));
    let known = unchanged.map_or_else(|| classify(transaction, role), |known| Known { transaction, ..known });
    IS_CONFINED.store(known.class != Class::Free, Ordering::Relaxed);
    KNOWN.set(Some(known));
    known.class
}

/// Whether the session acts for a tenant.
pub fn is_confined() -> bool {
    class() != Class::Free
}

fn classify(transaction: u32, role: Oid) -> Known {
    // What a session's process does for us is ours; a tenant's limits are its client's.
    if own_transaction::is_running() || session::session_is_superuser() || !session::is_installed() {
        return Known { transaction, role, class: Class::Free, heard: None };
    }
    let (binding, heard) = binding::binding_and_heard();
    let class = match *binding {
        Binding::Bound { .. } => Class::Bound,
        Binding::Pool => Class::Pool,
        Binding::Trusted | Binding::Global => Class::Free,
        // What it was meant to be is not known.
        Binding::Renamed | Binding::Ambiguous => Class::Outside,
        Binding::None if session::session_can_act_as(c"tally_analyst") => Class::Free,
        Binding::None => {
            let uses_us = [c"tally_reader", c"tally_writer"].into_iter().any(session::session_can_act_as);
            if uses_us { Class::Outside } else { Class::Free }
        }
    };
    Known { transaction, role, class, heard }
}

/// Whether the session acted for a tenant when somebody last asked; looks nothing up.
pub fn was_confined() -> bool {
    IS_CONFINED.load(Ordering::Relaxed)
}
