//! Tokens: `tok.EPOCH.BODY`, HMAC-SHA256 (RFC 2104) of a value in base64url.
//!
//! The token of epoch 0 and of epoch 1 is the HMAC of the value, a byte for its kind in front; that of a later epoch n is the HMAC, under the key of n, of the
//! 32 bytes of the token of epoch n - 1. So stored tokens can be carried over to a new key without the values, which are nowhere.

use super::{Secret, parts};
use crate::token;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

const PREFIX: &str = "tok";
const BYTES: usize = 32;

/// What a token stands for. A byte in front keeps the text "42" and the number 42 apart; a number is the same however it is spelt.
#[derive(Clone, Copy, Debug)]
pub enum Value<'a> {
    Text(&'a str),
    /// Anything else, as Postgres prints it as jsonb.
    Json(&'a str),
}

impl Value<'_> {
    fn message(&self) -> Vec<u8> {
        let (kind, text) = match self {
            Self::Text(text) => (b's', *text),
            Self::Json(json) if json.starts_with(|first: char| first == '-' || first.is_ascii_digit()) => {
                let is_fraction = json.contains('.');
                (b'n', if is_fraction { json.trim_end_matches('0').trim_end_matches('.') } else { json })
            }
            Self::Json(json) => (b'j', *json),
        };
        [&[kind], text.as_bytes()].concat()
    }
}

/// The key of one link: of the tokens of an epoch.
#[derive(Clone)]
pub struct TokenKey {
    pub epoch: u32,
    /// Has taken up the key: what follows costs two blocks less.
    keyed: Hmac<Sha256>,
}

impl TokenKey {
    pub(super) fn new(epoch: u32, key: &Secret) -> Self {
        let keyed = Hmac::<Sha256>::new_from_slice(&**key).expect("HMAC takes keys of any length");
        Self { epoch, keyed }
    }

    fn link(&self, message: &[u8]) -> [u8; BYTES] {
        self.keyed.clone().chain_update(message).finalize().into_bytes().into()
    }

    /// The token of a value. This is the key of the first link: of epoch 0 or 1.
    pub fn first(&self, value: Value) -> Token {
        assert!(self.epoch <= 1, "a chain begins with epoch 1");
        Token { epoch: self.epoch, bytes: self.link(&value.message()) }
    }

    /// The token that follows one of the epoch before; `None` for any other.
    pub fn next(&self, token: &Token) -> Option<Token> {
        (token.epoch.checked_add(1) == Some(self.epoch) && token.epoch > 0)
            .then(|| Token { epoch: self.epoch, bytes: self.link(&token.bytes) })
    }
}

/// Stands for a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    pub epoch: u32,
    bytes: [u8; BYTES],
}

impl Token {
    /// Reads the one spelling that a token has.
    pub fn parse(text: &str) -> Option<Self> {
        let (epoch, body) = parts(text, PREFIX)?;
        Some(Self { epoch, bytes: token::decode(body)?.try_into().ok()? })
    }

    /// As it is stored.
    pub fn text(&self) -> String {
        format!("{PREFIX}.{}.{}", self.epoch, token::encode(&self.bytes))
    }
}

/// The fingerprint that the ledger keeps of a protected event: the first 8 bytes, little-endian, of the HMAC of the plain one.
pub fn fingerprint(key: &TokenKey, plain: i64) -> i64 {
    let [a, b, c, d, e, f, g, h, ..] = key.link(&plain.to_le_bytes());
    i64::from_le_bytes([a, b, c, d, e, f, g, h])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::privacy::TenantKey;

    fn key(epoch: u32) -> TokenKey {
        TenantKey::new(epoch, Secret::new([epoch as u8 + 1; 32])).token()
    }

    #[test]
    fn hmac_agrees_with_rfc_4231() {
        let cases: [(&[u8], &[u8], &str); 5] = [
            (&[0x0b; 20], b"Hi There", "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"),
            (b"Jefe", b"what do ya want for nothing?", "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"),
            (&[0xaa; 20], &[0xdd; 50], "773ea91e36800e46854db8ebd09181a72959098b3ef8c122d9635514ced565fe"),
            (&[0xaa; 131], b"Test Using Larger Than Block-Size Key - Hash Key First", "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54"),
            (&[0xaa; 131], b"This is a test using a larger than block-size key and a larger than block-size data. The key needs to be hashed before being used by the HMAC algorithm.", "9b09ffa71b942fcb27635fbcd5b0e944bfdc63644f0713938a7f51535c3a35e2"),
        ];
        for (key, message, wanted) in cases {
            let keyed = Hmac::<Sha256>::new_from_slice(key).expect("any length");
            let found = TokenKey { epoch: 0, keyed }.link(message);
            assert_eq!(found.iter().map(|byte| format!("{byte:02x}")).collect::<String>(), wanted);
        }
    }

    #[test]
    fn a_token_has_one_spelling() {
        let token = key(1).first(Value::Text("ada@example.org"));
        let text = token.text();
        assert_eq!(text.len(), "tok.1.".len() + 43);
        assert_eq!(Token::parse(&text), Some(token));
        for other in [
            text.replace("tok.1", "tok.01"),
            text.replace("tok.1", "tok.+1"),
            format!("{text}="),
            text[..text.len() - 1].to_owned(),
            text.replace("tok", "TOK"),
        ] {
            assert_eq!(Token::parse(&other), None, "{other}");
        }
    }

    #[test]
    fn a_stored_token_is_carried_over_without_its_value() {
        let (one, two, three) = (key(1), key(2), key(3));
        let stored = one.first(Value::Text("ada"));
        let carried = two.next(&stored).and_then(|token| three.next(&token)).expect("in turn");
        let anew = three.next(&two.next(&one.first(Value::Text("ada"))).expect("in turn")).expect("in turn");
        assert_eq!(carried, anew);
        assert_eq!(three.next(&stored), None, "no link is left out");
        assert_eq!(one.next(&key(0).first(Value::Text("ada"))), None, "the identity key begins no chain");
    }

    #[test]
    fn a_number_has_one_token_however_it_is_spelt_and_a_text_has_another() {
        let token = |value| key(1).first(value);
        for (one, other) in [("42", "42.0"), ("3.5", "3.500"), ("-0.10", "-0.1")] {
            assert_eq!(token(Value::Json(one)), token(Value::Json(other)), "{one}");
            assert_ne!(token(Value::Json(one)), token(Value::Text(one)), "{one}");
        }
        assert_ne!(token(Value::Json("420")), token(Value::Json("42")));
        assert_ne!(token(Value::Json("true")), token(Value::Text("true")));
    }

    #[test]
    fn tenants_and_purposes_are_unrelated() {
        let tenant = TenantKey::new(1, Secret::new([5; 32]));
        assert_ne!(tenant.token().first(Value::Text("ada")), key(1).first(Value::Text("ada")));
        assert_ne!(fingerprint(&tenant.fingerprint(), 1), fingerprint(&tenant.token(), 1));
        assert_ne!(fingerprint(&tenant.fingerprint(), 1), 1);
    }
}
