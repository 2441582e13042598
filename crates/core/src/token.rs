//! Tokens: what an application signs to put one transaction of a pooled login in a tenant's scope.
//!
//! `pg_tally.<claims>.<signature>`: claims are a JSON object, the signature is Ed25519 (RFC 8032) over everything before
//! the last dot, both in base64url without padding. There is one algorithm and nothing to negotiate. Verification is
//! strict: one token has one spelling, and small-order keys verify nothing.

use crate::step_up::Authentication;
use ed25519_dalek::{Signature, VerifyingKey};
use serde::Deserialize;

/// Begins every token, and so keeps a signature made for another purpose from being one.
pub const PREFIX: &str = "pg_tally.";
/// The most bytes that a token may have: three ids of 200 bytes, each byte escaped, are a third of it.
pub const MAX_BYTES: usize = 8192;
/// The longest time in seconds between `iat` and `exp`.
pub const MAX_LIFETIME: i64 = 60;
/// Seconds by which the signer's clock may be ahead of the server's.
pub const CLOCK_LEEWAY: i64 = 5;

const VERSION: u32 = 1;
const SIGNATURE_BYTES: usize = 64;
const KEY_BYTES: usize = 32;
/// What precedes the key in a SubjectPublicKeyInfo of Ed25519 (RFC 8410).
const SPKI_PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// Why a token or a key is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenError {
    Malformed,
    Version,
    Key,
    Signature,
    Audience,
    Role,
    Lifetime,
    NotYet,
    Expired,
    Nonce,
    Scope,
    Authentication,
}

impl TokenError {
    /// What is wrong, in a sentence's words.
    pub fn problem(self) -> &'static str {
        match self {
            TokenError::Malformed => "it is not a token",
            TokenError::Version => "its version is unknown",
            TokenError::Key => "it is not a public key of Ed25519: 32 bytes, or 44 as SubjectPublicKeyInfo",
            TokenError::Signature => "its signature does not verify",
            TokenError::Audience => "it is for another database",
            TokenError::Role => "it is for another role",
            TokenError::Lifetime => "it lives longer than 60 seconds, or not at all",
            TokenError::NotYet => "it is from the future: the signer's clock is ahead",
            TokenError::Expired => "it has expired",
            TokenError::Nonce => "it does not answer this transaction's challenge, or was used before",
            TokenError::Scope => "it is for a scope that the session is not in",
            TokenError::Authentication => {
                "it does not say how and when the person was authenticated: auth_time, and amr or acr"
            }
        }
    }
}

/// What a token says.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Claims {
    v: u32,
    kid: String,
    /// Absent in a token that opens no scope.
    #[serde(default)]
    tenant: Option<String>,
    #[serde(default)]
    account: Option<String>,
    /// Whom the application acts for, in its own words; for the audit.
    #[serde(default)]
    pub sub: Option<String>,
    #[serde(default)]
    amr: Option<Vec<String>>,
    #[serde(default)]
    acr: Option<String>,
    #[serde(default)]
    auth_time: Option<i64>,
    aud: String,
    role: String,
    iat: i64,
    exp: i64,
    nonce: String,
}

/// What the claims must agree with.
#[derive(Clone, Copy, Debug)]
pub struct Expected<'a> {
    /// The cluster and the database.
    pub audience: &'a str,
    /// The role that logged in.
    pub role: &'a str,
    /// The challenge that this transaction was given and has not used.
    pub nonce: &'a str,
    /// Seconds since 1970.
    pub now: i64,
}

impl Claims {
    /// Checks everything that a verified token says about where and when it holds.
    pub fn check(&self, expected: &Expected) -> Result<(), TokenError> {
        let lifetime = self.exp.checked_sub(self.iat).ok_or(TokenError::Lifetime)?;
        match () {
            () if self.v != VERSION => Err(TokenError::Version),
            // They become text.
            () if self.texts().any(|text| text.contains('\0')) => Err(TokenError::Malformed),
            () if self.tenant.is_none() && self.account.is_some() => Err(TokenError::Malformed),
            () if self.aud != expected.audience => Err(TokenError::Audience),
            () if self.role != expected.role => Err(TokenError::Role),
            () if !(1..=MAX_LIFETIME).contains(&lifetime) => Err(TokenError::Lifetime),
            () if self.iat > expected.now + CLOCK_LEEWAY => Err(TokenError::NotYet),
            () if self.auth_time.is_some_and(|at| at > expected.now + CLOCK_LEEWAY) => {
                Err(TokenError::NotYet)
            }
            () if self.exp <= expected.now => Err(TokenError::Expired),
            () if expected.nonce.is_empty() || self.nonce != expected.nonce => Err(TokenError::Nonce),
            () => Ok(()),
        }
    }

    fn texts(&self) -> impl Iterator<Item = &String> {
        self.sub.iter().chain(&self.acr).chain(self.amr.iter().flatten())
    }

    /// The tenant and the account that it opens.
    pub fn scope(&self) -> Option<(&str, Option<&str>)> {
        Some((self.tenant.as_deref()?, self.account.as_deref()))
    }

    /// How and when the person was authenticated, where it says both.
    pub fn authentication(&self) -> Option<Authentication> {
        let methods = self.amr.clone().unwrap_or_default();
        let says_how = !methods.is_empty() || self.acr.is_some();
        Some(Authentication { at: self.auth_time.filter(|_| says_how)?, methods, class: self.acr.clone() })
    }
}

/// A public key that tokens are verified with.
#[derive(Clone, Debug)]
pub struct PublicKey(VerifyingKey);

impl PublicKey {
    /// Reads a key of 32 bytes, or a SubjectPublicKeyInfo in DER as most tools write it.
    pub fn read(bytes: &[u8]) -> Result<Self, TokenError> {
        let bare = bytes.strip_prefix(&SPKI_PREFIX).filter(|rest| rest.len() == KEY_BYTES).unwrap_or(bytes);
        let bare: &[u8; KEY_BYTES] = bare.try_into().map_err(|_| TokenError::Key)?;
        let key = VerifyingKey::from_bytes(bare).map_err(|_| TokenError::Key)?;
        if key.is_weak() { Err(TokenError::Key) } else { Ok(Self(key)) }
    }

    /// The key's 32 bytes.
    pub fn bytes(&self) -> [u8; KEY_BYTES] {
        self.0.to_bytes()
    }
}

/// A token that was read and not yet verified: nothing of it may be believed but which key it asks for.
#[derive(Debug)]
pub struct Token<'a> {
    signed: &'a str,
    signature: Signature,
    claims: Claims,
}

impl<'a> Token<'a> {
    /// Takes a token apart.
    pub fn read(text: &'a str) -> Result<Self, TokenError> {
        let broken = TokenError::Malformed;
        if text.len() > MAX_BYTES {
            return Err(broken);
        }
        let (signed, signature) = text.rsplit_once('.').ok_or(broken)?;
        let payload = signed.strip_prefix(PREFIX).ok_or(broken)?;
        let signature: [u8; SIGNATURE_BYTES] =
            decode(signature).and_then(|bytes| bytes.try_into().ok()).ok_or(broken)?;
        let claims = serde_json::from_slice(&decode(payload).ok_or(broken)?).map_err(|_| broken)?;
        Ok(Self { signed, signature: Signature::from_bytes(&signature), claims })
    }

    /// Names the key that it says to be signed with.
    pub fn key_id(&self) -> &str {
        &self.claims.kid
    }

    /// Returns the claims if the key signed them.
    pub fn verify(self, key: &PublicKey) -> Result<Claims, TokenError> {
        match key.0.verify_strict(self.signed.as_bytes(), &self.signature) {
            Ok(()) => Ok(self.claims),
            Err(_) => Err(TokenError::Signature),
        }
    }
}

/// Decodes base64url without padding; of the spellings that a lax decoder takes for the same bytes, one alone.
pub fn decode(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() * 3 / 4);
    let (mut bits, mut held) = (0_u32, 0_u32);
    for symbol in text.bytes() {
        let value = match symbol {
            b'A'..=b'Z' => symbol - b'A',
            b'a'..=b'z' => symbol - b'a' + 26,
            b'0'..=b'9' => symbol - b'0' + 52,
            b'-' => 62,
            b'_' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(value);
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push((bits >> held) as u8);
            bits &= (1 << held) - 1;
        }
    }
    // Six bits over are a symbol too many; fewer are padding, and zero.
    (held < 6 && bits == 0).then_some(bytes)
}

/// Encodes base64url without padding.
pub fn encode(bytes: &[u8]) -> String {
    const SYMBOLS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let word =
            chunk.iter().fold(0_u32, |word, byte| word << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for position in 0..=chunk.len() {
            text.push(char::from(SYMBOLS[(word >> (18 - 6 * position)) as usize & 63]));
        }
    }
    text
}
