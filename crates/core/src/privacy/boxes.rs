//! Boxes: `box.EPOCH.BODY`, which anybody who has the public key can close and only the secret key opens, so that what can't be
//! protected for want of keys can still be kept.
//!
//! X25519 (RFC 7748) with a key pair made for the one box; HKDF-SHA256 of the shared secret, salted with both public keys, is the
//! key of AES-256-GCM-SIV with a nonce of zeros. The body is the box's own public key, ciphertext and tag, in base64url.

use super::key::{NONCE_BYTES, decrypt, derive, encrypt};
use super::{PrivacyError, Secret, joined, parts};
use crate::token;
use curve25519_dalek::MontgomeryPoint;
use zeroize::Zeroizing;

const PREFIX: &str = "box";
const PUBLIC_BYTES: usize = 32;

/// The public half: closes boxes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BoxPublic {
    pub epoch: u32,
    pub key: [u8; PUBLIC_BYTES],
}

/// The secret half: opens them.
#[derive(Clone)]
pub struct BoxSecret {
    epoch: u32,
    key: Secret,
}

fn shared_key(shared: &MontgomeryPoint, own: &[u8; PUBLIC_BYTES], receiver: &[u8; PUBLIC_BYTES]) -> Secret {
    let shared = Zeroizing::new(shared.to_bytes());
    derive(&*shared, Some(&[own.as_slice(), receiver].concat()), "pg_tally box v1")
}

fn place(epoch: u32, place: &[&[u8]]) -> Vec<u8> {
    joined("pg_tally box v1", &[&epoch.to_be_bytes(), &joined("place", place)])
}

impl BoxPublic {
    /// Closes a text up, bound to its place; `once` is random and used for this box alone.
    pub fn close(&self, text: &str, bound_to: &[&[u8]], once: Secret) -> String {
        let own = MontgomeryPoint::mul_base_clamped(*once).to_bytes();
        let key = shared_key(&MontgomeryPoint(self.key).mul_clamped(*once), &own, &self.key);
        let mut body = own.to_vec();
        body.extend(encrypt(&key, &[0; NONCE_BYTES], text.as_bytes(), &place(self.epoch, bound_to)));
        format!("{PREFIX}.{}.{}", self.epoch, token::encode(&body))
    }
}

impl BoxSecret {
    pub(super) fn new(epoch: u32, key: Secret) -> Self {
        Self { epoch, key }
    }

    /// The other half.
    pub fn public(&self) -> BoxPublic {
        BoxPublic { epoch: self.epoch, key: MontgomeryPoint::mul_base_clamped(*self.key).to_bytes() }
    }

    /// Opens a box that stands in its place.
    pub fn open(&self, closed: &str, bound_to: &[&[u8]]) -> Result<Zeroizing<String>, PrivacyError> {
        self.opened(closed, bound_to).ok_or(PrivacyError::Forged("the box"))
    }

    fn opened(&self, closed: &str, bound_to: &[&[u8]]) -> Option<Zeroizing<String>> {
        let (_, body) = parts(closed, PREFIX).filter(|(epoch, _)| *epoch == self.epoch)?;
        let body = token::decode(body)?;
        let (own, sealed) = body.split_first_chunk::<PUBLIC_BYTES>()?;
        let shared = MontgomeryPoint(*own).mul_clamped(*self.key);
        // A point of small order, with which the secret would be nobody's.
        if shared.to_bytes() == [0; PUBLIC_BYTES] {
            return None;
        }
        let key = shared_key(&shared, own, &self.public().key);
        let plain = decrypt(&key, &[0; NONCE_BYTES], sealed, &place(self.epoch, bound_to))?;
        String::from_utf8(plain.to_vec()).ok().map(Zeroizing::new)
    }
}

/// Whether a text has the form of a box: its epoch.
pub fn has_form(text: &str) -> Option<u32> {
    let (epoch, body) = parts(text, PREFIX)?;
    (token::decode(body)?.len() >= PUBLIC_BYTES + 16).then_some(epoch)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::privacy::TenantKey;

    #[test]
    fn a_box_opens_with_its_key_in_its_place_alone() {
        let opener = TenantKey::new(1, Secret::new([5; 32])).opener();
        let closed = opener.public().close("{\"user_id\": \"ada\"}", &[b"acme", b"7"], Secret::new([8; 32]));
        assert_eq!(has_form(&closed), Some(1));
        assert_eq!(&**opener.open(&closed, &[b"acme", b"7"]).expect("its place"), "{\"user_id\": \"ada\"}");
        assert!(opener.open(&closed, &[b"acme", b"8"]).is_err());
        assert!(opener.open(&closed, &[b"acme7", b""]).is_err());
        assert!(TenantKey::new(1, Secret::new([6; 32])).opener().open(&closed, &[b"acme", b"7"]).is_err());
        let small = format!("box.1.{}", token::encode(&[&[0; 32][..], &[7; 40]].concat()));
        assert!(opener.open(&small, &[]).is_err());
        for cut in 0..closed.len() {
            assert!(opener.open(&closed[..cut], &[b"acme", b"7"]).is_err(), "{cut}");
        }
    }

    #[test]
    fn the_curve_agrees_with_rfc_7748() {
        let bytes = |hex: &str| crate::audit::hash_from_hex(hex).expect("32 bytes in hexadecimal");
        // Section 6.1.
        let alice = bytes("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a");
        let bob = bytes("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb");
        let public = MontgomeryPoint::mul_base_clamped(bob).to_bytes();
        assert_eq!(public, bytes("de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f"));
        let of_alice = MontgomeryPoint::mul_base_clamped(alice);
        assert_eq!(
            of_alice.to_bytes(),
            bytes("8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a")
        );
        let shared = bytes("4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742");
        assert_eq!(of_alice.mul_clamped(bob).to_bytes(), shared);
        assert_eq!(MontgomeryPoint(public).mul_clamped(alice).to_bytes(), shared);
        // Section 5.2, first vector.
        let scalar = bytes("a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4");
        let point = bytes("e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c");
        let wanted = bytes("c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552");
        assert_eq!(MontgomeryPoint(point).mul_clamped(scalar).to_bytes(), wanted);
    }
}
