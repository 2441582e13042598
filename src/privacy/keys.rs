//! The tenants' keys: one row a tenant with its keys of every epoch, wrapped. What a backend has unwrapped it takes for as long as
//! the row has the same bytes; the row is read at each call.

use super::failure::PrivacyFailure;
use super::master;
use crate::backend::appender::{Appender, Unique};
use crate::backend::arena::Arena;
use crate::backend::heap::Declared;
use crate::backend::lookup::{Key, Lookup, View};
use crate::backend::report::Report;
use crate::backend::subtransaction::{self, Verdict};
use crate::backend::{session, sql};
use pgrx::pg_sys::{self, Datum};
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use tally_core::privacy::{
    BoxPublic, IDENTITY, KeyFile, PrivacyError, SealKey, Secret, TenantKey, Token, TokenKey, Value,
    fingerprint,
};

pub const KEYS: Declared = Declared {
    table: "privacy_key",
    columns: &[
        ("made_at", pg_sys::TIMESTAMPTZOID),
        ("rotated_at", pg_sys::TIMESTAMPTZOID),
        ("retired_at", pg_sys::TIMESTAMPTZOID),
        ("newest", pg_sys::INT4OID),
        ("oldest", pg_sys::INT4OID),
        ("tenant_id", pg_sys::TEXTOID),
        ("wrapped_by", pg_sys::TEXTOID),
        ("wrapped", pg_sys::BYTEAOID),
        ("box_key", pg_sys::BYTEAOID),
    ],
    key: &["tenant_id"],
};

const ROW: [i32; 5] =
    [KEYS.at("newest"), KEYS.at("oldest"), KEYS.at("wrapped_by"), KEYS.at("wrapped"), KEYS.at("box_key")];

/// Bytes of one wrapped key.
const WRAPPED: usize = 61;
/// The most epochs: a token is computed through each.
pub const MOST_EPOCHS: u32 = 100;
/// The empty tenant has the keys of boxes.
pub const OF_BOXES: &str = "";
/// Tenants whose keys a backend remembers.
const REMEMBERED: usize = 10_000;

/// A tenant's row, as it is stored.
#[derive(Clone, PartialEq, Eq)]
pub struct Wrapped {
    pub newest: u32,
    /// Values are still stored under the epochs from this one on.
    pub oldest: u32,
    pub wrapped_by: String,
    bytes: Vec<u8>,
    box_key: Option<Vec<u8>>,
}

/// A tenant's keys, unwrapped.
pub struct Keys {
    /// By epoch; the first is the identity key.
    every: Vec<TenantKey>,
    identity: TokenKey,
    fingerprints: TokenKey,
    /// Of the epochs from 1 on.
    tokens: Vec<TokenKey>,
    seals: Vec<SealKey>,
}

thread_local! {
    static KNOWN: RefCell<HashMap<String, (Wrapped, Rc<Keys>)>> = RefCell::new(HashMap::new());
}

impl Keys {
    fn new(every: Vec<TenantKey>) -> Self {
        let rotated = every.iter().filter(|key| key.epoch != IDENTITY);
        Self {
            identity: every[0].token(),
            fingerprints: every[0].fingerprint(),
            tokens: rotated.clone().map(TenantKey::token).collect(),
            seals: rotated.map(TenantKey::seal).collect(),
            every,
        }
    }

    pub fn newest(&self) -> u32 {
        self.tokens.len() as u32
    }

    /// What the ledger keeps of a protected event whose plain fingerprint is given.
    pub fn fingerprint(&self, plain: i64) -> i64 {
        fingerprint(&self.fingerprints, plain)
    }

    /// The token of a user id.
    pub fn user(&self, id: &str) -> Token {
        self.identity.first(Value::Text(id))
    }

    /// The token of a property's value under an epoch, or the newest.
    pub fn property(&self, value: Value, epoch: u32) -> Token {
        let first = self.tokens[0].first(value);
        self.tokens[1..epoch as usize]
            .iter()
            .fold(first, |token, key| key.next(&token).expect("epochs in turn"))
    }

    /// A stored token carried over to the newest epoch; `None` where it is of that, or of none that there is.
    pub fn carried(&self, token: &Token) -> Option<Token> {
        if token.epoch == IDENTITY || token.epoch >= self.newest() {
            return None;
        }
        let rest = &self.tokens[token.epoch as usize..];
        Some(rest.iter().fold(token.clone(), |token, key| key.next(&token).expect("epochs in turn")))
    }

    /// What seals under an epoch; `None` where there is no such epoch.
    pub fn seal(&self, epoch: u32) -> Option<&SealKey> {
        self.seals.get((epoch as usize).checked_sub(1)?)
    }

    /// The keys themselves, to be wrapped anew.
    fn secrets(&self) -> &[TenantKey] {
        &self.every
    }
}

/// A tenant's row as of now; `None` where it has no keys.
pub fn wrapped(tenant: &str, view: View) -> Option<Wrapped> {
    let mut arena = Arena::default();
    let mut table = Lookup::open(session::find_relation(c"privacy_key")?, &[Key::Text], view);
    table.require(&KEYS);
    let found = table.find(&[arena.varlena(tenant.as_bytes())], ROW).map(|row| Wrapped {
        newest: row.int(0).expect("NOT NULL") as u32,
        oldest: row.int(1).expect("NOT NULL") as u32,
        wrapped_by: row.text(2).expect("NOT NULL").to_owned(),
        bytes: row.bytes(3).expect("NOT NULL").to_vec(),
        box_key: row.bytes(4).map(<[u8]>::to_vec),
    });
    table.close();
    found
}

impl Wrapped {
    /// Unwraps the keys, or takes them as this backend unwrapped the same bytes before.
    pub fn open(&self, tenant: &str) -> Result<Rc<Keys>, PrivacyFailure> {
        // A key file that is gone, or was replaced, counts at once.
        let masters = master::keys_with(&self.wrapped_by)?;
        let known = KNOWN.with_borrow(|known| {
            known
                .get(tenant)
                .filter(|(wrapped, _)| wrapped == self && masters.has(&self.wrapped_by))
                .map(|(_, keys)| keys.clone())
        });
        if let Some(keys) = known {
            return Ok(keys);
        }
        let every = self.bytes.chunks(WRAPPED).zip(0..).map(|(wrapped, epoch)| {
            let secret = masters.unwrap(&self.wrapped_by, wrapped, tenant, epoch)?;
            Ok(TenantKey::new(epoch, secret))
        });
        let every = every.collect::<Result<Vec<_>, PrivacyFailure>>()?;
        if every.len() != self.newest as usize + 1 || self.newest < 1 {
            return Err(PrivacyFailure::NoKeys(tenant.to_owned()));
        }
        // Whoever could put another public key there would open what is closed up from then on.
        let box_key =
            (tenant == OF_BOXES).then(|| every[self.newest as usize].opener().public().key.to_vec());
        if box_key != self.box_key {
            return Err(PrivacyFailure::Key(PrivacyError::Forged("the public key of boxes")));
        }
        let keys = Rc::new(Keys::new(every));
        KNOWN.with_borrow_mut(|known| {
            if known.len() >= REMEMBERED {
                known.clear();
            }
            known.insert(tenant.to_owned(), (self.clone(), keys.clone()));
        });
        Ok(keys)
    }

    /// The public key that boxes are closed with, which no master key is needed for.
    pub fn closer(&self) -> Option<BoxPublic> {
        let key = self.box_key.as_deref()?.try_into().ok()?;
        Some(BoxPublic { epoch: self.newest, key })
    }
}

/// A tenant's keys, where it has any.
pub fn of(tenant: &str) -> Option<Result<Rc<Keys>, PrivacyFailure>> {
    wrapped(tenant, View::Now).map(|wrapped| wrapped.open(tenant))
}

/// A tenant's keys; made where it has none.
pub fn of_or_made(tenant: &str) -> Result<Rc<Keys>, PrivacyFailure> {
    if let Some(keys) = of(tenant) {
        return keys;
    }
    let masters = master::keys()?;
    loop {
        // Whoever is making them is waited for.
        if let Some(found) = wrapped(tenant, View::Latest) {
            return found.open(tenant);
        }
        let secrets = [IDENTITY, 1].map(|epoch| TenantKey::new(epoch, Secret::new(session::random_bytes())));
        let row = wrap(&masters, tenant, &secrets, 1);
        let made = subtransaction::run(|| {
            let made = insert(tenant, &row);
            if made == Unique::Yes { Verdict::Keep(made) } else { Verdict::Undo(made) }
        });
        match made {
            Ok(Unique::Yes) => session::advance_command(),
            Ok(Unique::Clash) => {}
            Err(caught) => caught.rethrow(),
        }
    }
}

/// The keys of boxes, made where there are none.
pub fn ensure_boxes() -> Result<(), PrivacyFailure> {
    of_or_made(OF_BOXES).map(drop)
}

struct NewRow {
    newest: u32,
    wrapped: Vec<u8>,
    box_key: Option<[u8; 32]>,
    wrapped_by: String,
}

/// Wraps a tenant's keys with the first of the master keys.
fn wrap(masters: &KeyFile, tenant: &str, secrets: &[TenantKey], newest: u32) -> NewRow {
    let first = masters.first();
    let wrapped = secrets
        .iter()
        .flat_map(|key| first.wrap(key.secret(), tenant, key.epoch, session::random_bytes()))
        .collect();
    let box_key = (tenant == OF_BOXES).then(|| secrets[newest as usize].opener().public().key);
    NewRow { newest, wrapped, box_key, wrapped_by: first.id().to_owned() }
}

fn insert(tenant: &str, new: &NewRow) -> Unique {
    let mut arena = Arena::default();
    let mut table = match Appender::open(session::relation(c"privacy_key"), &KEYS) {
        Ok(table) => table,
        Err(error) => Report::from(error).raise(),
    };
    let (row, nulls) = KEYS.row([
        ("made_at", Some(Datum::from(session::clock()))),
        ("rotated_at", None),
        ("retired_at", None),
        ("newest", Some(Datum::from(new.newest as i32))),
        ("oldest", Some(Datum::from(1))),
        ("tenant_id", Some(arena.varlena(tenant.as_bytes()))),
        ("wrapped_by", Some(arena.varlena(new.wrapped_by.as_bytes()))),
        ("wrapped", Some(arena.long_varlena(&new.wrapped))),
        ("box_key", new.box_key.map(|key| arena.varlena(&key))),
    ]);
    if table.push(&row, &nulls) == Unique::Clash {
        return Unique::Clash;
    }
    table.finish()
}

/// Gives a tenant a key of a new epoch; returns the epoch.
pub fn rotate(tenant: &str) -> Result<u32, PrivacyFailure> {
    let found = wrapped(tenant, View::Now).ok_or_else(|| PrivacyFailure::NoKeys(tenant.to_owned()))?;
    let keys = found.open(tenant)?;
    let newest = found.newest + 1;
    if newest > MOST_EPOCHS {
        return Err(PrivacyFailure::Epochs(tenant.to_owned()));
    }
    let mut secrets = keys.secrets().to_vec();
    secrets.push(TenantKey::new(newest, Secret::new(session::random_bytes())));
    replace(tenant, &found, &wrap(&*master::keys()?, tenant, &secrets, newest))?;
    Ok(newest)
}

/// Wraps a tenant's keys with the first master key that is at hand; says whether they were wrapped with another.
pub fn rewrap(tenant: &str) -> Result<bool, PrivacyFailure> {
    let Some(found) = wrapped(tenant, View::Now) else { return Ok(false) };
    let keys = found.open(tenant)?;
    let masters = master::keys()?;
    if found.wrapped_by == masters.first().id() {
        return Ok(false);
    }
    replace(tenant, &found, &wrap(&masters, tenant, keys.secrets(), found.newest))?;
    Ok(true)
}

fn replace(tenant: &str, old: &Wrapped, new: &NewRow) -> Result<(), PrivacyFailure> {
    let update = "SELECT tally_internal.replace_privacy_key($1, $2, $3, $4, $5, $6)";
    let done = session::as_owner(|| {
        sql::one::<bool>(
            update,
            &[
                tenant.into(),
                old.bytes.clone().into(),
                (new.newest as i32).into(),
                new.wrapped_by.as_str().into(),
                new.wrapped.clone().into(),
                new.box_key.map(|key| key.to_vec()).into(),
            ],
        )
    });
    if done == Some(true) { Ok(()) } else { Err(PrivacyFailure::Concurrent(tenant.to_owned())) }
}

/// Opens what was closed up with a key of boxes.
pub fn open_box(epoch: u32, text: &str, bound_to: &[&[u8]]) -> Result<String, PrivacyFailure> {
    let keys = of(OF_BOXES).ok_or_else(|| PrivacyFailure::NoKeys(OF_BOXES.to_owned()))??;
    let key = keys.secrets().get(epoch as usize).filter(|_| epoch != IDENTITY);
    let key = key.ok_or_else(|| PrivacyFailure::NoKeys(OF_BOXES.to_owned()))?;
    let opened = key.opener().open(text, bound_to).map_err(PrivacyFailure::Closed)?;
    Ok(opened.as_str().to_owned())
}
