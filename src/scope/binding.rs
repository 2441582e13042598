//! What a role may do once it has logged in: known to the backend until tally.role_binding or the roles change, and asked again
//! in every statement.
//!
//! A binding belongs to a role, which has the number and the name that it had when it was bound. A number alone could come to
//! be another role's: after a dump and restore, or when numbers have gone round.

use crate::backend::changes;
use crate::backend::heap::Declared;
use crate::backend::known::Known;
use crate::backend::lookup::{Key, Lookup, View};
use crate::backend::role;
use crate::backend::session::{self, Statement};
use pgrx::pg_sys::{self, Datum, Oid};
use std::cell::RefCell;
use std::rc::Rc;

/// A table of 0.1.0 ends before `bound_as`.
const BINDINGS: Declared = Declared {
    table: "role_binding",
    columns: &[
        ("role_name", pg_sys::REGROLEOID),
        ("tenant_id", pg_sys::TEXTOID),
        ("account_id", pg_sys::TEXTOID),
        ("needs_token", pg_sys::BOOLOID),
        ("bound_as", pg_sys::NAMEOID),
        ("is_global", pg_sys::BOOLOID),
    ],
    key: &["role_name"],
};
/// Numbers of these columns, from 1.
const TENANT_ID: i32 = BINDINGS.at("tenant_id");
const ACCOUNT_ID: i32 = BINDINGS.at("account_id");
const NEEDS_TOKEN: i32 = BINDINGS.at("needs_token");
const BOUND_AS: i32 = BINDINGS.at("bound_as");
const IS_GLOBAL: i32 = BINDINGS.at("is_global");

/// What the role that logged in may do.
#[derive(Clone, Debug, PartialEq, Eq)]
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
    /// Reads every tenant from the start, while it is a member of tally_analyst.
    Global,
    /// Was bound under another name, itself or a group: nothing tells whether it is the same role.
    Renamed,
    /// Is a member of groups whose bindings differ.
    Ambiguous,
}

/// What was asked last.
struct Latest {
    role: Oid,
    statement: Statement,
    binding: Rc<Binding>,
    /// What the backend had heard of before; `None` where nothing would tell of a change.
    heard: Option<changes::Heard>,
}

thread_local! {
    static LATEST: RefCell<Option<Latest>> = const { RefCell::new(None) };
    /// By the role and the number of changes to roles that it was looked up after.
    static KNOWN: Known<(Oid, u64), Rc<Binding>> = const { Known::new() };
}

/// The binding of the role that logged in. One statement asks once, and so keeps to it: the policies of a query ask many times.
pub fn binding() -> Rc<Binding> {
    let (role, statement) = (session::session_role(), session::statement());
    let asked_before = LATEST.with_borrow(|latest| {
        let latest = latest.as_ref().filter(|latest| latest.role == role && latest.statement == statement)?;
        Some(latest.binding.clone())
    });
    asked_before.unwrap_or_else(|| ask(role, statement).0)
}

/// The binding, asked again; and what the backend had heard of before, where that tells whether it is the same still.
pub fn binding_and_heard() -> (Rc<Binding>, Option<changes::Heard>) {
    ask(session::session_role(), session::statement())
}

fn ask(role: Oid, statement: Statement) -> (Rc<Binding>, Option<changes::Heard>) {
    let heard = changes::heard();
    let unchanged = LATEST.with_borrow_mut(|latest| {
        let latest = latest.as_mut().filter(|latest| latest.role == role && latest.heard == Some(heard))?;
        latest.statement = statement;
        Some(latest.binding.clone())
    });
    if let Some(binding) = unchanged {
        return (binding, Some(heard));
    }
    let table = session::relation(c"role_binding");
    let key = (role, heard.roles);
    let found = KNOWN.with(|known| known.get_or_look_up(table, key, |key| Rc::new(look_up(table, key.0))));
    let heard = found.is_remembered.then_some(heard);
    LATEST.set(Some(Latest { role, statement, binding: found.value.clone(), heard }));
    (found.value, heard)
}

/// The binding of any role, looked up anew: what it would be bound to if it logged in.
pub fn of(role: Oid) -> Binding {
    look_up(session::relation(c"role_binding"), role)
}

/// A role's own binding, or else that of the groups whose privileges it has.
fn look_up(table: Oid, login: Oid) -> Binding {
    let mut bindings = Lookup::open(table, &[Key::Oid], View::Now);
    bindings.require_first(&BINDINGS);
    let binding = of_role(&mut bindings, login).unwrap_or_else(|| {
        if role::is_superuser(login) {
            return Binding::None;
        }
        let mut inherited = role::groups(login).into_iter().filter_map(|group| of_role(&mut bindings, group));
        let first = inherited.next().unwrap_or(Binding::None);
        if inherited.all(|other| other == first) { first } else { Binding::Ambiguous }
    });
    bindings.close();
    binding
}

fn of_role(bindings: &mut Lookup, role: Oid) -> Option<Binding> {
    let key = [Datum::from(role)];
    let is_old = bindings.columns() < IS_GLOBAL;
    let [name, global] = if is_old { [TENANT_ID; 2] } else { [BOUND_AS, IS_GLOBAL] };
    let row = bindings.find(&key, [TENANT_ID, ACCOUNT_ID, NEEDS_TOKEN, name, global])?;
    if !is_old && row.name(3).is_none_or(|bound_as| role::name(role).is_none_or(|name| name != bound_as)) {
        return Some(Binding::Renamed);
    }
    Some(match row.text(0) {
        Some(tenant) => Binding::Bound { tenant: tenant.to_owned(), account: row.text(1).map(str::to_owned) },
        None if row.is_true(2) => Binding::Pool,
        None if !is_old && row.is_true(4) => Binding::Global,
        None => Binding::Trusted,
    })
}
