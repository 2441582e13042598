//! Tokens: the one that was signed is taken, and nothing that differs from it in a bit.

use ed25519_dalek::{Signer, SigningKey};
use proptest::prelude::*;
use serde_json::{Value, json};
use tally_core::step_up::Authentication;
use tally_core::token::{Expected, PREFIX, PublicKey, Token, TokenError, encode};

const EXPECTED: Expected = Expected { audience: "1/app", role: "pool", nonce: "n1", now: 1_000_000 };

fn key(number: u8) -> SigningKey {
    SigningKey::from_bytes(&[number; 32])
}

fn public(key: &SigningKey) -> PublicKey {
    PublicKey::read(key.verifying_key().as_bytes()).unwrap()
}

fn claims() -> Value {
    json!({"v": 1, "kid": "k", "tenant": "a", "account": "x", "aud": "1/app", "role": "pool",
        "iat": 999_990, "exp": 1_000_050, "nonce": "n1"})
}

fn signed(payload: &[u8]) -> String {
    let text = format!("{PREFIX}{}", encode(payload));
    let signature = key(1).sign(text.as_bytes());
    format!("{text}.{}", encode(&signature.to_bytes()))
}

/// What becomes of a token: the tenant and account, or why not.
fn judge(text: &str) -> Result<(String, Option<String>), TokenError> {
    let claims = Token::read(text)?.verify(&public(&key(1)))?;
    claims.check(&EXPECTED)?;
    let (tenant, account) = claims.scope().ok_or(TokenError::Malformed)?;
    Ok((tenant.to_owned(), account.map(str::to_owned)))
}

fn changed(name: &str, value: Value) -> String {
    let mut claims = claims();
    claims[name] = value;
    signed(claims.to_string().as_bytes())
}

#[test]
fn a_good_token_is_taken() {
    assert_eq!(judge(&changed("v", json!(1))), Ok(("a".into(), Some("x".into()))));
    assert_eq!(judge(&changed("account", Value::Null)), Ok(("a".into(), None)));
    assert_eq!(Token::read(&changed("kid", json!("other"))).unwrap().key_id(), "other");
}

#[test]
fn a_flipped_bit_refuses_it() {
    let token = changed("v", json!(1));
    let mut flips = 0;
    for position in 0..token.len() {
        for bit in 0..8 {
            let mut bytes = token.clone().into_bytes();
            bytes[position] ^= 1 << bit;
            let Ok(text) = String::from_utf8(bytes) else { continue };
            let refused = judge(&text).unwrap_err();
            assert!(matches!(refused, TokenError::Malformed | TokenError::Signature), "{text}: {refused:?}");
            flips += 1;
        }
    }
    assert!(flips > token.len() * 6);
}

#[test]
fn each_claim_is_held_to_what_is_expected() {
    for (name, value, wanted) in [
        ("v", json!(2), TokenError::Version),
        ("aud", json!("1/other"), TokenError::Audience),
        ("aud", json!("2/app"), TokenError::Audience),
        ("role", json!("Pool"), TokenError::Role),
        ("nonce", json!("n2"), TokenError::Nonce),
        ("nonce", json!(""), TokenError::Nonce),
        ("exp", json!(1_000_000), TokenError::Expired),
        ("exp", json!(1_000_051), TokenError::Lifetime),
        ("exp", json!(999_990), TokenError::Lifetime),
        ("exp", json!(i64::MIN), TokenError::Lifetime),
        ("iat", json!(1_000_006), TokenError::NotYet),
        ("exp", json!("1000050"), TokenError::Malformed),
        ("exp", json!(1e6), TokenError::Malformed),
        ("tenant", Value::Null, TokenError::Malformed),
        ("sub", json!("\0"), TokenError::Malformed),
        ("acr", json!("\0"), TokenError::Malformed),
        ("amr", json!(["otp", "a\0"]), TokenError::Malformed),
        ("amr", json!("otp"), TokenError::Malformed),
        ("auth_time", json!("1000000"), TokenError::Malformed),
        ("auth_time", json!(1_000_006), TokenError::NotYet),
        ("alg", json!("none"), TokenError::Malformed),
    ] {
        assert_eq!(judge(&changed(name, value.clone())), Err(wanted), "{name} = {value}");
    }
    assert!(judge(&changed("iat", json!(1_000_005))).is_ok());
    for name in ["v", "kid", "tenant", "aud", "role", "iat", "exp", "nonce"] {
        let mut claims = claims();
        claims.as_object_mut().unwrap().remove(name);
        assert_eq!(
            judge(&signed(claims.to_string().as_bytes())),
            Err(TokenError::Malformed),
            "without {name}"
        );
    }
    let twice = claims().to_string().replace(r#""tenant":"a""#, r#""tenant":"a","tenant":"b""#);
    assert_eq!(judge(&signed(twice.as_bytes())), Err(TokenError::Malformed));
    // A transaction without a challenge takes none, also not an empty one.
    let empty = changed("nonce", json!(""));
    let claims = Token::read(&empty).unwrap().verify(&public(&key(1))).unwrap();
    assert_eq!(claims.check(&Expected { nonce: "", ..EXPECTED }), Err(TokenError::Nonce));
}

/// What a token says of an authentication, if all of these claims are in it.
fn authenticated(more: Value) -> Option<Authentication> {
    let mut claims = claims();
    for (name, value) in more.as_object().unwrap() {
        claims[name] = value.clone();
    }
    let text = signed(claims.to_string().as_bytes());
    let claims = Token::read(&text).unwrap().verify(&public(&key(1))).unwrap();
    claims.check(&EXPECTED).unwrap();
    claims.authentication()
}

#[test]
fn an_authentication_is_read_where_it_says_how_and_when() {
    let found = authenticated(json!({"amr": ["pwd", "otp"], "acr": "gold", "auth_time": 999_000})).unwrap();
    assert_eq!(found.at, 999_000);
    assert_eq!((found.methods, found.class), (vec!["pwd".into(), "otp".into()], Some("gold".into())));
    assert!(authenticated(json!({"acr": "gold", "auth_time": 1_000_005})).is_some());
    for missing in [
        json!({}),
        json!({"auth_time": 999_000}),
        json!({"amr": [], "auth_time": 999_000}),
        json!({"amr": ["otp"]}),
        json!({"acr": "gold"}),
        json!({"amr": null, "acr": null, "auth_time": 1}),
    ] {
        assert_eq!(authenticated(missing.clone()), None, "{missing}");
    }
}

#[test]
fn what_is_not_a_token_is_refused() {
    let good = changed("v", json!(1));
    let body = good.strip_prefix(PREFIX).unwrap();
    for text in [
        "",
        ".",
        "..",
        "a",
        PREFIX,
        body,
        &format!("{PREFIX}{good}"),
        &format!("{good}="),
        &format!("{good} "),
        &format!(" {good}"),
        &format!("{good}."),
        &good[..good.len() - 1],
        &good.replace("pg_tally.", "PG_TALLY."),
        &format!("{PREFIX}{}", "A".repeat(10_000)),
    ] {
        assert_eq!(judge(text), Err(TokenError::Malformed), "{text}");
    }
    let other = key(2);
    assert_eq!(Token::read(&good).unwrap().verify(&public(&other)), Err(TokenError::Signature));
}

#[test]
fn keys_are_read_bare_and_wrapped() {
    let bare = key(1).verifying_key().to_bytes();
    let wrapped =
        [&[0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00], &bare[..]].concat();
    assert_eq!(PublicKey::read(&wrapped).unwrap().bytes(), bare);
    let mut identity = [0; 32];
    identity[0] = 1;
    let mut off_curve = [0; 32];
    off_curve[0] = 2;
    for wrong in [&[][..], &bare[1..], &wrapped[1..], &[0; 32], &identity, &off_curve] {
        assert_eq!(PublicKey::read(wrong).unwrap_err(), TokenError::Key, "{wrong:?}");
    }
}

/// RFC 8032, section 7.1, test 3: the signature's arithmetic is the standard's.
#[test]
fn verifies_as_the_standard_does() {
    use ed25519_dalek::Verifier;
    let hex = |text: &str| -> Vec<u8> {
        (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
    };
    let secret = hex("c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7");
    let key = SigningKey::from_bytes(&secret.try_into().unwrap());
    let known = "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025";
    assert_eq!(PublicKey::read(&hex(known)).unwrap().bytes(), key.verifying_key().to_bytes());
    let signature = key.sign(&hex("af82"));
    let wanted = "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac\
                  18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a";
    assert_eq!(signature.to_bytes().to_vec(), hex(&wanted.replace(char::is_whitespace, "")));
    assert!(key.verifying_key().verify(&hex("af82"), &signature).is_ok());
}

proptest! {
    #[test]
    fn hostile_text_is_refused(text in "(pg_tally\\.)?[A-Za-z0-9_.-]{0,300}") {
        prop_assert!(judge(&text).is_err());
    }

    #[test]
    fn hostile_claims_are_refused_or_read(payload in prop::collection::vec(any::<u8>(), 0..200)) {
        let refused = judge(&signed(&payload));
        prop_assert!(refused.is_err());
    }
}
