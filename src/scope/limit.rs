//! What entering a tenant's scope limits.

use crate::backend::arena::Arena;
use crate::backend::lookup::{Key, Lookup, View};
use crate::backend::session::{self, Limit};
use pgrx::FromDatum;

/// Lowers what tally.tenant_limit bounds for the tenant.
pub fn apply(tenant: &str) {
    let mut arena = Arena::default();
    let mut limits = Lookup::open(session::relation(c"tenant_limit"), &[Key::Text], View::Statement);
    let found = limits
        .find(&[arena.varlena(tenant.as_bytes())], [1, 2, 3])
        // SAFETY: columns 1 to 3 of tenant_limit are int4.
        .map(|row| [0, 1, 2].map(|column| unsafe { i32::from_datum(row.values[column], row.nulls[column]) }));
    limits.close();
    let settings = [Limit::StatementTimeout, Limit::WorkMem, Limit::ParallelWorkers];
    for (setting, most) in settings.into_iter().zip(found.into_iter().flatten()) {
        if let Some(most) = most {
            session::limit(setting, most);
        }
    }
}
