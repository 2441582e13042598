//! Sealed values: `seal.EPOCH.BODY`, where the body is nonce, ciphertext and tag of AES-256-GCM-SIV in base64url. A value opens in
//! its own place alone: tenant, event and path are bound to it.

use super::key::{NONCE_BYTES, decrypt, encrypt};
use super::{PrivacyError, Secret, joined, parts};
use crate::token;
use zeroize::Zeroizing;

const PREFIX: &str = "seal";

/// Where a sealed value stands.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    pub tenant: &'a str,
    pub event_id: &'a [u8; 16],
    /// The path within the event, as `Path::text` spells it, with the places in arrays on the way.
    pub path: &'a str,
}

impl Place<'_> {
    fn bytes(&self, epoch: u32) -> Vec<u8> {
        let parts = [self.tenant.as_bytes(), &epoch.to_be_bytes(), self.event_id, self.path.as_bytes()];
        joined("pg_tally seal v1", &parts)
    }
}

/// Seals and opens values of an epoch.
#[derive(Clone)]
pub struct SealKey {
    pub epoch: u32,
    key: Secret,
}

impl SealKey {
    pub(super) fn new(epoch: u32, key: Secret) -> Self {
        Self { epoch, key }
    }

    /// Seals a value's text; `nonce` is random.
    pub fn seal(&self, text: &str, place: &Place, nonce: [u8; NONCE_BYTES]) -> String {
        let mut body = nonce.to_vec();
        body.extend(encrypt(&self.key, &nonce, text.as_bytes(), &place.bytes(self.epoch)));
        format!("{PREFIX}.{}.{}", self.epoch, token::encode(&body))
    }

    /// Opens what was sealed in this place under this key.
    pub fn open(&self, sealed: &str, place: &Place) -> Result<Zeroizing<String>, PrivacyError> {
        self.opened(sealed, place).ok_or(PrivacyError::Forged("the sealed value"))
    }

    fn opened(&self, sealed: &str, place: &Place) -> Option<Zeroizing<String>> {
        let (_, body) = parts(sealed, PREFIX).filter(|(epoch, _)| *epoch == self.epoch)?;
        let body = token::decode(body)?;
        let (nonce, sealed) = body.split_first_chunk::<NONCE_BYTES>()?;
        let plain = decrypt(&self.key, nonce, sealed, &place.bytes(self.epoch))?;
        String::from_utf8(plain.to_vec()).ok().map(Zeroizing::new)
    }
}

/// The epoch of the key that a text is sealed with, where it has the form of a sealed value.
pub fn epoch_of(text: &str) -> Option<u32> {
    let (epoch, body) = parts(text, PREFIX)?;
    (token::decode(body)?.len() >= NONCE_BYTES + 16).then_some(epoch)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::privacy::TenantKey;

    fn key(epoch: u32) -> SealKey {
        TenantKey::new(epoch, Secret::new([5; 32])).seal()
    }

    const PLACE: Place = Place { tenant: "acme", event_id: &[1; 16], path: "/email" };

    #[test]
    fn a_value_opens_in_its_own_place_alone() {
        let sealed = key(2).seal("ada@example.org", &PLACE, [3; 12]);
        assert_eq!(epoch_of(&sealed), Some(2));
        assert_eq!(&**key(2).open(&sealed, &PLACE).expect("its place"), "ada@example.org");
        for place in [
            Place { tenant: "acm", ..PLACE },
            Place { event_id: &[2; 16], ..PLACE },
            Place { path: "/mail", ..PLACE },
        ] {
            assert_eq!(
                key(2).open(&sealed, &place),
                Err(PrivacyError::Forged("the sealed value")),
                "{place:?}"
            );
        }
        assert!(key(1).open(&sealed, &PLACE).is_err());
        assert!(key(1).open(&sealed.replace("seal.2", "seal.1"), &PLACE).is_err());
        for cut in 0..sealed.len() {
            assert!(key(2).open(&sealed[..cut], &PLACE).is_err(), "{cut}");
        }
    }

    fn bytes(hex: &str) -> Vec<u8> {
        crate::audit::from_hex(hex).expect("hexadecimal")
    }

    /// Key, nonce, what it is bound to, plaintext, ciphertext with tag.
    const VECTORS: &str = include_str!("../../tests/data/aes_256_gcm_siv.tsv");

    #[test]
    fn the_cipher_agrees_with_published_vectors() {
        let mut taken = 0;
        let lines = VECTORS.lines().filter(|line| !line.starts_with('#'));
        for fields in lines.map(|line| line.split('\t').collect::<Vec<_>>()) {
            let [name, key, nonce, bound_to, plain, sealed, verdict] = fields[..] else {
                panic!("{fields:?}")
            };
            let key = Secret::new(bytes(key).try_into().expect("256 bits"));
            let nonce: [u8; NONCE_BYTES] = bytes(nonce).try_into().expect("96 bits");
            let opened = decrypt(&key, &nonce, &bytes(sealed), &bytes(bound_to));
            if verdict == "valid" {
                assert_eq!(encrypt(&key, &nonce, &bytes(plain), &bytes(bound_to)), bytes(sealed), "{name}");
                assert_eq!(opened.expect(name).to_vec(), bytes(plain), "{name}");
            } else {
                assert_eq!(opened, None, "{name}");
            }
            taken += 1;
        }
        assert!(taken >= 40, "{taken}");
    }
}
