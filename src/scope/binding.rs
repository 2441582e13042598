//! What a role may do once it has logged in: known to the backend until tally.role_binding changes, and asked again in every
//! statement.

use crate::backend::arena;
use crate::backend::known::Known;
use crate::backend::lookup::{Key, Lookup, View};
use crate::backend::session::{self, Statement};
use pgrx::FromDatum;
use pgrx::pg_sys::{Datum, Oid};
use std::cell::RefCell;

/// What the role that logged in may do.
#[derive(Clone, Debug)]
pub enum Binding {
    None,
    /// Enters any tenant's scope.
    Trusted,
    /// Enters the scope that a token names.
    Pool,
    /// Is in a scope from the start.
    Bound {
        tenant: String,
        account: Option<String>,
    },
}

thread_local! {
    /// What was asked last, and by which role in which statement.
    static LATEST: RefCell<Option<((Oid, Statement), Binding)>> = const { RefCell::new(None) };
    static KNOWN: Known<Oid, Binding> = const { Known::new() };
}

/// The binding of the role that logged in. One statement asks once, and so keeps to it: the policies of a query ask many times.
pub fn binding() -> Binding {
    let asked = (session::session_role(), session::statement());
    let known = LATEST.with_borrow(|latest| {
        latest.as_ref().filter(|(asker, _)| *asker == asked).map(|(_, binding)| binding.clone())
    });
    known.unwrap_or_else(|| {
        let table = session::relation(c"role_binding");
        let binding = KNOWN.with(|known| known.get_or_look_up(table, asked.0, |role| look_up(table, *role)));
        LATEST.set(Some((asked, binding.clone())));
        binding
    })
}

fn look_up(table: Oid, role: Oid) -> Binding {
    let mut bindings = Lookup::open(table, &[Key::Oid], View::Now);
    let found = bindings.find(&[Datum::from(role)], [2, 3, 4]);
    let binding = match &found {
        None => Binding::None,
        Some(row) => {
            let text = |column: usize| {
                // SAFETY: columns 2 and 3 of role_binding are ids, and the row is valid until the next `find`.
                (!row.nulls[column]).then(|| unsafe { arena::read_text(row.values[column]) }.to_owned())
            };
            // SAFETY: column 4 is a boolean that is not null.
            let needs_token = unsafe { bool::from_datum(row.values[2], row.nulls[2]) } == Some(true);
            match text(0) {
                Some(tenant) => Binding::Bound { tenant, account: text(1) },
                None if needs_token => Binding::Pool,
                None => Binding::Trusted,
            }
        }
    };
    bindings.close();
    binding
}
