//! Key-encrypting keys, as a file holds them, and the tenants' keys that they wrap.

use super::{BoxSecret, PrivacyError, SealKey, TokenKey, joined};
use crate::token;
use aes_gcm_siv::aead::{Aead, Payload};
use aes_gcm_siv::{Aes256GcmSiv, KeyInit};
use hkdf::Hkdf;
use sha2::Sha256;
use std::fmt::{self, Write};
use zeroize::Zeroizing;

/// 256 bits that are wiped when they are dropped.
pub type Secret = Zeroizing<[u8; 32]>;

const VERSION: u8 = 1;
pub(super) const NONCE_BYTES: usize = 12;
const TAG_BYTES: usize = 16;
const WRAPPED_BYTES: usize = 1 + NONCE_BYTES + 32 + TAG_BYTES;

/// Derives 256 bits for a purpose.
pub(super) fn derive(secret: &[u8], salt: Option<&[u8]>, purpose: &str) -> Secret {
    let mut out = Secret::default();
    let derived = Hkdf::<Sha256>::new(salt, secret).expand(purpose.as_bytes(), &mut *out);
    derived.expect("256 bits are one block of the hash");
    out
}

/// Encrypts with AES-256-GCM-SIV (RFC 8452), tag behind.
pub(super) fn encrypt(key: &Secret, nonce: &[u8; NONCE_BYTES], plain: &[u8], bound_to: &[u8]) -> Vec<u8> {
    let cipher = Aes256GcmSiv::new(&(**key).into());
    let sealed = cipher.encrypt(&(*nonce).into(), Payload { msg: plain, aad: bound_to });
    sealed.expect("values are far below the 64 GB that GCM-SIV takes")
}

/// Decrypts what `encrypt` made; `None` where anything differs.
pub(super) fn decrypt(
    key: &Secret,
    nonce: &[u8; NONCE_BYTES],
    sealed: &[u8],
    bound_to: &[u8],
) -> Option<Zeroizing<Vec<u8>>> {
    let cipher = Aes256GcmSiv::new(&(**key).into());
    cipher.decrypt(&(*nonce).into(), Payload { msg: sealed, aad: bound_to }).ok().map(Zeroizing::new)
}

/// A key-encrypting key.
pub struct MasterKey {
    /// Names it without betraying it.
    id: String,
    key: Secret,
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MasterKey({})", self.id)
    }
}

impl MasterKey {
    /// Derives it from 32 random bytes.
    fn new(bytes: &[u8]) -> Self {
        let mut id = String::with_capacity(16);
        for byte in &derive(bytes, None, "pg_tally key id v1")[..8] {
            write!(id, "{byte:02x}").expect("a string takes any text");
        }
        Self { id, key: derive(bytes, None, "pg_tally key-encrypting key v1") }
    }

    /// 16 hexadecimal digits.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Wraps a tenant's key of an epoch; `nonce` is random.
    pub fn wrap(&self, key: &Secret, tenant: &str, epoch: u32, nonce: [u8; NONCE_BYTES]) -> Vec<u8> {
        let mut out = Vec::with_capacity(WRAPPED_BYTES);
        out.push(VERSION);
        out.extend_from_slice(&nonce);
        out.extend(encrypt(&self.key, &nonce, &**key, &wrapped_for(tenant, epoch)));
        out
    }

    fn unwrap(&self, wrapped: &[u8], tenant: &str, epoch: u32) -> Option<Secret> {
        let rest = wrapped.strip_prefix(&[VERSION])?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_BYTES>()?;
        let plain = decrypt(&self.key, nonce, sealed, &wrapped_for(tenant, epoch))?;
        Some(Zeroizing::new(plain.as_slice().try_into().ok()?))
    }
}

fn wrapped_for(tenant: &str, epoch: u32) -> Vec<u8> {
    joined("pg_tally wrap v1", &[tenant.as_bytes(), &epoch.to_be_bytes()])
}

/// The key-encrypting keys that are at hand: the first wraps, the others unwrap what it has not wrapped yet.
#[derive(Debug)]
pub struct KeyFile(Vec<MasterKey>);

impl KeyFile {
    /// Reads a key of 32 bytes a line, as 64 hexadecimal digits or in base64 (either alphabet, padded or not); empty lines and those
    /// that begin with `#` say nothing.
    pub fn parse(text: &str) -> Result<Self, PrivacyError> {
        let mut keys: Vec<MasterKey> = Vec::new();
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let problem = |what: String| PrivacyError::KeyFile(format!("line {}: {what}", number + 1));
            let bytes = bytes_of(line).ok_or_else(|| {
                problem(
                    "it is no key of 32 bytes, neither 64 hexadecimal digits nor 43 characters of base64"
                        .into(),
                )
            })?;
            let key = MasterKey::new(&bytes);
            if keys.iter().any(|known| known.id == key.id) {
                return Err(problem("the key is there twice".into()));
            }
            keys.push(key);
        }
        if keys.is_empty() {
            return Err(PrivacyError::KeyFile("there is no key in it".into()));
        }
        Ok(Self(keys))
    }

    /// The key that wraps.
    pub fn first(&self) -> &MasterKey {
        &self.0[0]
    }

    /// Whether the key of this id is there.
    pub fn has(&self, id: &str) -> bool {
        self.0.iter().any(|key| key.id == id)
    }

    /// Unwraps a tenant's key.
    pub fn unwrap(&self, by: &str, wrapped: &[u8], tenant: &str, epoch: u32) -> Result<Secret, PrivacyError> {
        let master = self.0.iter().find(|key| key.id == by);
        let master = master.ok_or_else(|| PrivacyError::UnknownMaster(by.to_owned()))?;
        master.unwrap(wrapped, tenant, epoch).ok_or(PrivacyError::Forged("a wrapped key"))
    }
}

/// 64 hexadecimal digits, or 43 characters of base64, of either alphabet, and perhaps a sign of padding.
fn bytes_of(line: &str) -> Option<Zeroizing<Vec<u8>>> {
    if line.len() == 64 {
        let pairs = line.as_bytes().chunks(2).map(|pair| {
            let text = std::str::from_utf8(pair).ok().filter(|text| !text.starts_with('+'))?;
            u8::from_str_radix(text, 16).ok()
        });
        return pairs.collect::<Option<Vec<u8>>>().map(Zeroizing::new);
    }
    let bare = line.strip_suffix('=').unwrap_or(line);
    let plain = Zeroizing::new(bare.replace('+', "-").replace('/', "_"));
    (plain.len() == 43).then(|| token::decode(&plain).map(Zeroizing::new)).flatten()
}

/// A tenant's key of one epoch, unwrapped. Purposes' keys are derived from it.
#[derive(Clone)]
pub struct TenantKey {
    pub epoch: u32,
    secret: Secret,
}

impl TenantKey {
    pub fn new(epoch: u32, secret: Secret) -> Self {
        Self { epoch, secret }
    }

    /// The key itself, to be wrapped.
    pub fn secret(&self) -> &Secret {
        &self.secret
    }

    /// The key of tokens.
    pub fn token(&self) -> TokenKey {
        TokenKey::new(self.epoch, &derive(&*self.secret, None, "pg_tally token v1"))
    }

    /// The key of sealed values.
    pub fn seal(&self) -> SealKey {
        SealKey::new(self.epoch, derive(&*self.secret, None, "pg_tally seal v1"))
    }

    /// The key of fingerprints.
    pub fn fingerprint(&self) -> TokenKey {
        TokenKey::new(self.epoch, &derive(&*self.secret, None, "pg_tally fingerprint v1"))
    }

    /// The secret half of a key of boxes.
    pub fn opener(&self) -> BoxSecret {
        BoxSecret::new(self.epoch, derive(&*self.secret, None, "pg_tally box key v1"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

    #[test]
    fn every_spelling_of_a_key_is_the_same_key() {
        let base64 = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
        let spelt = |text: &str| KeyFile::parse(text).expect("a key").first().id().to_owned();
        let id = spelt(HEX);
        assert_eq!(id.len(), 16);
        for other in
            [base64, base64.trim_end_matches('='), &format!("# mine\n\n  {HEX}\r\n"), &HEX.to_uppercase()]
        {
            assert_eq!(spelt(other), id, "{other}");
        }
    }

    #[test]
    fn bad_key_files_are_refused_without_showing_them() {
        for (text, problem) in [
            ("", "there is no key in it"),
            ("# only a remark", "there is no key in it"),
            (
                "0001",
                "line 1: it is no key of 32 bytes, neither 64 hexadecimal digits nor 43 characters of base64",
            ),
            (
                "\nsecret word",
                "line 2: it is no key of 32 bytes, neither 64 hexadecimal digits nor 43 characters of base64",
            ),
            (
                &HEX.replace('f', "g"),
                "line 1: it is no key of 32 bytes, neither 64 hexadecimal digits nor 43 characters of base64",
            ),
            (&format!("{HEX}\n{HEX}"), "line 2: the key is there twice"),
        ] {
            assert_eq!(KeyFile::parse(text).expect_err(text), PrivacyError::KeyFile(problem.into()));
        }
    }

    #[test]
    fn a_wrapped_key_opens_for_its_tenant_and_epoch_alone() {
        let keys = KeyFile::parse(HEX).expect("a key");
        let secret = Secret::new([7; 32]);
        let wrapped = keys.first().wrap(&secret, "acme", 3, [9; 12]);
        assert_eq!(wrapped.len(), WRAPPED_BYTES);
        let id = keys.first().id().to_owned();
        assert_eq!(*keys.unwrap(&id, &wrapped, "acme", 3).expect("ours"), [7; 32]);
        assert!(keys.unwrap(&id, &wrapped, "acmf", 3).is_err());
        assert!(keys.unwrap(&id, &wrapped, "acme", 2).is_err());
        assert_eq!(keys.unwrap("0", &wrapped, "acme", 3), Err(PrivacyError::UnknownMaster("0".into())));
        for place in 0..wrapped.len() {
            let mut changed = wrapped.clone();
            changed[place] ^= 1;
            assert!(keys.unwrap(&id, &changed, "acme", 3).is_err(), "byte {place}");
        }
    }

    #[test]
    fn after_a_change_of_files_old_keys_still_open() {
        let old = KeyFile::parse(HEX).expect("a key");
        let wrapped = old.first().wrap(&Secret::new([7; 32]), "acme", 1, [9; 12]);
        let both = KeyFile::parse(&format!("{}\n{HEX}", "ab".repeat(32))).expect("two keys");
        assert_ne!(both.first().id(), old.first().id());
        assert_eq!(*both.unwrap(old.first().id(), &wrapped, "acme", 1).expect("at hand"), [7; 32]);
    }
}
