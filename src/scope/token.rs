//! Tokens: challenge, verification, keys.
//!
//! A token answers a challenge: a random number that this backend gave to this transaction and holds in its memory. It is
//! forgotten as soon as a token is tried, and it counts for no other transaction. So a token works once, in one
//! connection, whatever becomes of the transaction; nothing is shared, nothing written, and a standby can do it too.

use super::failure::ScopeError;
use crate::backend::arena::Arena;
use crate::backend::heap::Declared;
use crate::backend::lookup::{Key, Lookup, View};
use crate::backend::session;
use pgrx::pg_sys;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use std::sync::Mutex;
use tally_core::token::{Claims, Expected, PublicKey, Token, encode};

/// Seconds between 1970, which tokens count from, and 2000, which Postgres counts from.
const EPOCH: i64 = 946_684_800;
const CHALLENGE_BYTES: usize = 18;

/// What a token in this transaction must answer.
struct Challenge {
    transaction: u32,
    nonce: String,
}

static CHALLENGE: Mutex<Option<Challenge>> = Mutex::new(None);
/// Whom the last token was made for, and the transaction that it was used in.
static SUBJECT: Mutex<Option<(u32, String)>> = Mutex::new(None);

/// Takes the running transaction's challenge: a second token needs another one.
fn take_challenge() -> Option<String> {
    let taken = CHALLENGE.lock().expect("one thread").take()?;
    (taken.transaction == session::transaction_number()).then_some(taken.nonce)
}

/// Now, in seconds since 1970, as tokens count.
pub fn seconds_now() -> i64 {
    session::clock().div_euclid(1_000_000) + EPOCH
}

/// A moment that a token tells, in microseconds since 2000; what a timestamp can't hold is its bound.
pub fn moment(seconds: i64) -> i64 {
    /// The first and the last microsecond of a timestamptz.
    const RANGE: [i64; 2] = [-211_813_488_000_000_000, 9_223_371_331_199_999_999];
    seconds.saturating_sub(EPOCH).saturating_mul(1_000_000).clamp(RANGE[0], RANGE[1])
}

/// A token that answers this transaction's challenge.
#[derive(Debug)]
pub struct Verified {
    pub claims: Claims,
    /// The key that it was signed with.
    pub key_id: String,
}

/// Verifies a token that answers this transaction's challenge.
pub fn verified(text: &str) -> Result<Verified, ScopeError> {
    // First of all: a token that is refused has used its challenge up, too.
    let nonce = take_challenge().unwrap_or_default();
    let token = Token::read(text).map_err(ScopeError::Token)?;
    let key_id = token.key_id().to_owned();
    let key = registered(&key_id).ok_or(ScopeError::UnknownKey)?;
    let claims = token.verify(&key).map_err(ScopeError::Token)?;
    let (audience, role) = (session::audience(), session::session_role_name());
    let expected = Expected { audience: &audience, role: &role, nonce: &nonce, now: seconds_now() };
    claims.check(&expected).map_err(ScopeError::Token)?;
    Ok(Verified { claims, key_id })
}

/// Notes whom the token was made for that the running transaction has entered a scope by.
pub fn note_subject(subject: Option<&str>) {
    *SUBJECT.lock().expect("one thread") =
        subject.map(|subject| (session::transaction_number(), subject.to_owned()));
}

const KEYS: Declared = Declared {
    table: "token_key",
    columns: &[
        ("registered_at", pg_sys::TIMESTAMPTZOID),
        ("valid_until", pg_sys::TIMESTAMPTZOID),
        ("public_key", pg_sys::BYTEAOID),
        ("key_id", pg_sys::TEXTOID),
    ],
    key: &["key_id"],
};

const KEY: [i32; 2] = [KEYS.at("valid_until"), KEYS.at("public_key")];

/// Whom the token was made for that the running transaction entered its scope by, where it says so.
pub fn subject() -> Option<String> {
    let subject = SUBJECT.lock().expect("one thread");
    let (transaction, subject) = subject.as_ref()?;
    (*transaction == session::transaction_number()).then(|| subject.clone())
}

/// Whether a key of this name is registered and valid.
pub fn is_registered(key_id: &str) -> bool {
    registered(key_id).is_some()
}

/// The registered key of this name, while it is valid: as of now, whatever the transaction's snapshot.
fn registered(key_id: &str) -> Option<PublicKey> {
    let mut arena = Arena::default();
    let mut keys = Lookup::open(session::relation(c"token_key"), &[Key::Text], View::Now);
    keys.require(&KEYS);
    let found = keys.find(&[arena.varlena(key_id.as_bytes())], KEY).and_then(|row| {
        let is_valid = row.long(0).is_none_or(|until| session::clock() < until);
        row.fixed::<32>(1).filter(|_| is_valid)
    });
    keys.close();
    PublicKey::read(&found?).ok()
}

#[pg_extern(sql = false)]
fn challenge() -> String {
    let nonce = encode(&session::random_bytes::<CHALLENGE_BYTES>());
    let transaction = session::transaction_number();
    *CHALLENGE.lock().expect("one thread") = Some(Challenge { transaction, nonce: nonce.clone() });
    nonce
}

#[pg_extern(sql = false)]
fn token_audience() -> String {
    session::audience()
}

#[pg_extern(sql = false)]
fn read_public_key(key: &[u8]) -> Result<Vec<u8>, ErrorReport> {
    Ok(PublicKey::read(key).map_err(ScopeError::Token)?.bytes().to_vec())
}
