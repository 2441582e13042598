//! What a backend knows of a table's rows, by key, until any of them changes.

use super::cache::{self, Cache};
use super::call::sql_function;
use super::session;
use super::trigger::{self, Trigger};
use core::convert::Infallible;
use core::hash::Hash;
use pgrx::pg_sys::{Datum, Oid};
use std::cell::RefCell;
use std::collections::HashMap;

/// Keys that are remembered at most.
const MAX_REMEMBERED: usize = 1_000;
/// What the table's triggers call.
const FORGET: &core::ffi::CStr = c"forget";

type Rows<K, V> = RefCell<HashMap<K, V>>;

/// What there is under a key, and whether it is remembered: until the table says otherwise it is the same then.
pub struct Found<V> {
    pub value: V,
    pub is_remembered: bool,
}

/// What was looked up of a table that says, by triggers, when it changes.
pub struct Known<K, V>(Cache<Rows<K, V>>);

impl<K: Eq + Hash, V: Clone> Known<K, V> {
    pub const fn new() -> Self {
        Self(Cache::new())
    }

    /// What is known of a key, or else what `look_up` finds, which must see the rows as of now: what an older snapshot saw may
    /// have changed before, and nothing would tell of it again. Every change committed before the call has made the backend
    /// forget.
    pub fn get_or_look_up(&self, table: Oid, key: K, look_up: impl FnOnce(&K) -> V) -> Found<V> {
        session::accept_invalidations();
        let Ok(rows) = self.0.get_or_load(table, || Ok::<Rows<K, V>, Infallible>(Rows::default()));
        if let Some(value) = rows.borrow().get(&key) {
            return Found { value: value.clone(), is_remembered: true };
        }
        let value = look_up(&key);
        // Without the triggers, as in a schema of 0.1.0, nothing is remembered.
        let is_remembered = trigger::is_called_always(table, FORGET);
        if is_remembered {
            let mut rows = rows.borrow_mut();
            if rows.len() >= MAX_REMEMBERED {
                rows.clear();
            }
            rows.insert(key, value.clone());
        }
        Found { value, is_remembered }
    }
}

sql_function! {
    fn tally_forget / pg_finfo_tally_forget(call) {
        if let Some(trigger) = Trigger::of(call) {
            cache::invalidate(trigger.table());
        }
        Ok(Some(Datum::from(0)))
    }
}
