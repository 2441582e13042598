//! Subjects: the persons that users of a tenant are. Under which ids one is stored, and who was erased.
//!
//! Of who was erased, `tally.erasure` has a hash under a secret of the tenant's (`tally.erasure_key`): whoever reads the table learns
//! no id. What is looked up is as of now, whatever the transaction's snapshot.

use super::failure::PrivacyFailure;
use super::keys;
use crate::backend::arena::Arena;
use crate::backend::cache::Cache;
use crate::backend::call::sql_function;
use crate::backend::lookup::{Key, Lookup, View};
use crate::backend::scan::{self, Snapshot};
use crate::backend::{session, sql};
use pgrx::Uuid;
use pgrx::pg_sys;
use pgrx::prelude::*;
use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::ops::ControlFlow;
use std::rc::Rc;
use tally_core::audit::from_hex;
use tally_core::subject;

/// Values of a text that are looked at between two looks at whether the statement was cancelled.
const SEEN_AT_ONCE: usize = 1000;

/// Ids under which a user may be stored, of one that was sent: as it is, and its token where the tenant has keys. An error where
/// those are not at hand, since nobody could say then that nothing is left.
fn stored_user_ids(tenant: &str, sent: &str) -> Result<Vec<String>, PrivacyFailure> {
    let token = keys::of(tenant).transpose()?.map(|keys| keys.user(sent).text());
    Ok(std::iter::once(sent.to_owned()).chain(token).collect())
}

/// The ids under which some users may be stored, and of each at the same place the id as sent.
#[derive(Default, PartialEq, Eq)]
pub struct Stored {
    pub ids: Vec<String>,
    pub sent: Vec<String>,
}

impl Stored {
    /// Of users of a tenant.
    pub fn of<'a>(tenant: &str, sent: impl IntoIterator<Item = &'a String>) -> Result<Self, PrivacyFailure> {
        let mut all = Self::default();
        for user in sent {
            let ids = stored_user_ids(tenant, user)?;
            all.sent.extend(ids.iter().map(|_| user.clone()));
            all.ids.extend(ids);
        }
        Ok(all)
    }

    /// Those of which the id as sent meets a condition, and the others.
    pub fn split(&self, is_first: impl Fn(&String) -> bool) -> (Self, Self) {
        let (mut first, mut others) = (Self::default(), Self::default());
        for (id, sent) in self.ids.iter().zip(&self.sent) {
            let part = if is_first(sent) { &mut first } else { &mut others };
            part.ids.push(id.clone());
            part.sent.push(sent.clone());
        }
        (first, others)
    }
}

type Keys = HashMap<String, subject::Key>;

thread_local! {
    static KEYS: Cache<Keys> = const { Cache::new() };
}

/// The keys of the tenants that have erased somebody, as of now; `None` where none has.
fn keys() -> Option<Rc<Keys>> {
    // A database that isn't updated yet has no such table.
    let table = session::find_relation(c"erasure_key")?;
    session::lock_relation(table, pg_sys::AccessShareLock);
    let known = KEYS.with(|known| known.get_or_load(table, || Ok::<_, ()>(load())));
    known.ok().filter(|keys| !keys.is_empty())
}

fn load() -> Keys {
    let query = "SELECT k.tenant_id, encode(k.hash_key, 'hex') FROM tally.erasure_key AS k";
    // Not by the statement's snapshot, which may be from before it waited for the erasure, or the transaction's.
    let rows = session::as_owner(|| scan::texts(query, Snapshot::Latest));
    rows.into_iter()
        .filter_map(|mut row| {
            let (key, tenant) = (row.pop()??, row.pop()??);
            Some((tenant, key_of(&from_hex(&key)?)))
        })
        .collect()
}

/// A key from the bytes that are stored, of which the table holds the number.
fn key_of(bytes: &[u8]) -> subject::Key {
    core::array::from_fn(|place| bytes.get(place).copied().unwrap_or_default())
}

/// What stands for a subject of a tenant; `None` where the tenant has erased nobody.
fn hash(tenant: &str, subject: &str) -> Option<[u8; 16]> {
    Some(subject::hash(keys()?.get(tenant)?, subject))
}

/// What stands for a subject of a tenant; makes the tenant's key where it has none.
pub fn hash_or_begin(tenant: &str, subject: &str) -> Uuid {
    let known = hash(tenant, subject).unwrap_or_else(|| {
        let key: subject::Key = session::random_bytes();
        let insert =
            "INSERT INTO tally.erasure_key (tenant_id, hash_key) VALUES ($1, $2) ON CONFLICT DO NOTHING";
        session::as_owner(|| sql::run(insert, &[tenant.into(), key.to_vec().into()]));
        // Somebody else's may have been first; what this transaction wrote, no cache has yet.
        let find = "SELECT k.hash_key FROM tally.erasure_key AS k WHERE k.tenant_id = $1";
        let found =
            session::as_owner(|| sql::changed_rows(find, &[tenant.into()], |row| row.need::<Vec<u8>>(1)));
        subject::hash(&key_of(&found.into_iter().next().expect("the key is there now")), subject)
    });
    Uuid::from_bytes(known)
}

/// Who was erased, or is about to be, of the tenants that have erased anybody.
pub struct Erased(Rc<Keys>);

impl Erased {
    /// As of now; `None` where no tenant has erased anybody.
    pub fn current() -> Option<Self> {
        keys().map(Self)
    }

    /// Whether a tenant has erased anybody.
    pub fn has(&self, tenant: &str) -> bool {
        self.0.contains_key(tenant)
    }

    /// Whether the text of an event that isn't valid names such a user of a tenant. It may be large.
    pub fn is_named_in(&self, body: &str, tenant: &str) -> bool {
        self.is_named_in_any(body, &[tenant])
    }

    /// The same of several tenants: the text is gone through once.
    fn is_named_in_any(&self, body: &str, tenants: &[&str]) -> bool {
        if tenants.is_empty() {
            return false;
        }
        let mut waiting = Vec::new();
        let any = |waiting: &mut Vec<String>| {
            let is_any = tenants.iter().any(|tenant| {
                session::check_for_interrupts();
                let users: Vec<_> = waiting.iter().map(|user| (0, *tenant, user.as_str())).collect();
                !self.find(&users).is_empty()
            });
            waiting.clear();
            is_any
        };
        let found = subject::named_in(body, "user_id", |user| {
            waiting.push(user);
            if waiting.len() >= SEEN_AT_ONCE && any(&mut waiting) {
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        });
        found.is_break() || any(&mut waiting)
    }

    /// The same of a text of which nothing says whose it is: whether it names such a user of a tenant that it names.
    pub fn is_named_in_nobodys(&self, body: &str) -> bool {
        let mut tenants = BTreeSet::new();
        let mut seen = 0;
        let _ = subject::named_in(body, "tenant_id", |tenant| {
            seen += 1;
            if seen % SEEN_AT_ONCE == 0 {
                session::check_for_interrupts();
            }
            if self.has(&tenant) {
                tenants.insert(tenant);
            }
            ControlFlow::Continue(())
        });
        self.is_named_in_any(body, &tenants.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// The places at which such a user of a tenant stands.
    pub fn find(&self, users: &[(usize, &str, &str)]) -> BTreeSet<usize> {
        if users.is_empty() {
            return BTreeSet::new();
        }
        let mut arena = Arena::default();
        let mut seen: HashMap<(&str, &str), bool> = HashMap::new();
        let mut erasures = Lookup::open(session::relation(c"erasure"), &[Key::Text, Key::Uuid], View::Now);
        let found = users.iter().filter_map(|&(place, tenant, user)| {
            let key = self.0.get(tenant)?;
            let is_erased = *seen.entry((tenant, user)).or_insert_with(|| {
                let hash = subject::hash(key, user);
                let key = [arena.varlena(tenant.as_bytes()), arena.fixed(&hash)];
                erasures.find(&key, []).is_some()
            });
            is_erased.then_some(place)
        });
        let found = found.collect();
        erasures.close();
        found
    }
}

sql_function! {
    /// `stored_user_ids(tenant_id, user_id)`
    fn tally_stored_user_ids / pg_finfo_tally_stored_user_ids(call) {
        let [tenant, user] = [0, 1].map(|place| call.text(place).unwrap_or_default());
        Ok(stored_user_ids(tenant, user)?.into_datum())
    }
}

/// Whether a field has one of these values in the text of an event. Texts may be large, and are not held in pieces.
#[pg_extern(sql = false)]
fn names(body: &str, field: &str, ids: Vec<Option<String>>) -> bool {
    let ids: HashSet<String> = ids.into_iter().flatten().collect();
    let mut seen = 0;
    let find = |value| {
        seen += 1;
        if seen % SEEN_AT_ONCE == 0 {
            session::check_for_interrupts();
        }
        if ids.contains(&value) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    subject::named_in(body, field, find).is_break()
}

thread_local! {
    /// The ids of the last call, with the array that they came in: an erasure asks of many texts.
    static IDS: RefCell<(Vec<u8>, HashSet<String>)> = RefCell::default();
}

sql_function! {
    /// `named(body, field, ids)`: which of these values the field has. Texts may be large, and are not held in pieces.
    fn tally_named / pg_finfo_tally_named(call) {
        let (Some(body), Some(field), Some(array)) = (call.text(0), call.text(1), call.bytes(2)) else {
            return Ok(Vec::<String>::new().into_datum());
        };
        let found = IDS.with_borrow_mut(|(known, ids)| {
            if known != array {
                *ids = call.texts(2).into_iter().flatten().flatten().collect();
                array.clone_into(known);
            }
            let (mut found, mut seen) = (BTreeSet::new(), 0);
            let _ = subject::named_in(body, field, |value| {
                seen += 1;
                if seen % SEEN_AT_ONCE == 0 {
                    session::check_for_interrupts();
                }
                if ids.contains(&value) {
                    found.insert(value);
                }
                ControlFlow::Continue(())
            });
            found
        });
        Ok(found.into_iter().collect::<Vec<_>>().into_datum())
    }
}
