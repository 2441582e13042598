//! What a tenant's transactions are limited to, from when they enter its scope.

use super::confine::{Class, class};
use super::{Scope, ScopeError, entered};
use crate::backend::arena::Arena;
use crate::backend::known::Known;
use crate::backend::lookup::{Key, Lookup, View};
use crate::backend::session::{self, Limit};
use pgrx::FromDatum;
use pgrx::pg_sys::Oid;
use pgrx::pg_sys::panic::ErrorReport;
use std::sync::Mutex;

/// A row of tally.tenant_limit.
#[derive(Clone, Copy, Debug, Default)]
struct Limits {
    settings: [Option<i32>; 3],
    transactions: Option<i32>,
    slot_key: i32,
}

/// The limits of the running transaction.
struct InForce {
    transaction: u32,
    tenant: String,
    limits: Limits,
    /// Which of the tenant's slots the transaction holds.
    slot: Option<i32>,
}

thread_local! {
    static KNOWN: Known<String, Limits> = const { Known::new() };
}

static IN_FORCE: Mutex<Option<InForce>> = Mutex::new(None);

/// Lowers what is limited for a tenant, and takes one of its slots.
pub fn apply(tenant: &str) -> Result<(), ScopeError> {
    let transaction = session::transaction_number();
    let mut in_force = IN_FORCE.lock().expect("one thread").take();
    if in_force.as_ref().is_none_or(|known| known.transaction != transaction || known.tenant != tenant) {
        let table = session::relation(c"tenant_limit");
        let limits = KNOWN
            .with(|known| known.get_or_look_up(table, tenant.to_owned(), |tenant| look_up(table, tenant)));
        in_force = Some(InForce { transaction, tenant: tenant.to_owned(), limits, slot: None });
    }
    let mut known = in_force.expect("made above");
    let settings = [Limit::StatementTimeout, Limit::WorkMem, Limit::ParallelWorkers];
    for (setting, most) in settings.into_iter().zip(known.limits.settings) {
        if let Some(most) = most {
            session::limit(setting, most);
        }
    }
    if let Some(most) = known.limits.transactions {
        // A savepoint that is undone gives back what was taken in it.
        if known.slot.is_none() || session::in_subtransaction() {
            let key = known.limits.slot_key;
            let free = known.slot.into_iter().chain(0..most).find(|slot| session::try_slot(key, *slot));
            known.slot = Some(free.ok_or_else(|| ScopeError::Busy(tenant.to_owned(), most))?);
        }
    }
    *IN_FORCE.lock().expect("one thread") = Some(known);
    Ok(())
}

/// Does so before a statement of a session that is in a tenant's scope, whatever SQL has set since.
pub fn enforce() -> Result<(), ErrorReport> {
    match (class(), entered()) {
        (Class::Free, _) | (_, Some(Scope::Global)) => Ok(()),
        (_, Some(Scope::Tenant { tenant, .. })) | (Class::Bound(tenant), None) => Ok(apply(&tenant)?),
        (_, None) => Ok(()),
    }
}

fn look_up(table: Oid, tenant: &str) -> Limits {
    let mut arena = Arena::default();
    let mut limits = Lookup::open(table, &[Key::Text], View::Now);
    let found = limits.find(&[arena.varlena(tenant.as_bytes())], [1, 2, 3, 4, 5]).map(|row| {
        // SAFETY: columns 1 to 5 of tenant_limit are int4.
        let number = |column: usize| unsafe { i32::from_datum(row.values[column], row.nulls[column]) };
        Limits {
            settings: [number(0), number(1), number(2)],
            transactions: number(3),
            slot_key: number(4).unwrap_or_default(),
        }
    });
    limits.close();
    found.unwrap_or_default()
}
