//! An application that signs tokens.

use ed25519_dalek::{Signer as _, SigningKey};
use postgres::{Client, Error, GenericClient};
use serde_json::{Value, json};
use std::time::{SystemTime, UNIX_EPOCH};
use tally_core::token::{PREFIX, encode};

/// A signing key, and the name that its public half is registered under.
pub struct TokenSigner {
    key: SigningKey,
    key_id: String,
}

impl TokenSigner {
    /// Makes a key from a number, the same every time.
    pub fn new(key_id: &str, number: u8) -> Self {
        Self { key: SigningKey::from_bytes(&[number; 32]), key_id: key_id.to_owned() }
    }

    /// Registers the public key, as a superuser or member of `tally_admin`.
    pub fn register(&self, admin: &mut Client) -> Result<u64, Error> {
        let public = self.key.verifying_key().to_bytes();
        admin.execute("SELECT tally.register_key($1, $2)", &[&self.key_id, &&public[..]])
    }

    /// What a token of `role` says to open a tenant now, in answer to a challenge.
    pub fn claims(&self, audience: &str, role: &str, tenant: &str, nonce: &str) -> Value {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970").as_secs();
        json!({"v": 1, "kid": self.key_id, "aud": audience, "role": role, "tenant": tenant, "nonce": nonce,
            "iat": now, "exp": now + 30})
    }

    /// Signs claims.
    pub fn sign(&self, claims: &Value) -> String {
        let text = format!("{PREFIX}{}", encode(claims.to_string().as_bytes()));
        format!("{text}.{}", encode(&self.key.sign(text.as_bytes()).to_bytes()))
    }

    /// Asks for a challenge and signs a token that answers it, as an application does.
    pub fn token(&self, client: &mut impl GenericClient, tenant: &str) -> Result<String, Error> {
        let row =
            client.query_one("SELECT tally.challenge(), tally.token_audience(), session_user::text", &[])?;
        Ok(self.sign(&self.claims(row.get(1), row.get(2), tenant, row.get(0))))
    }

    /// Shows a second factor, as whoever is named, for the rest of the session.
    pub fn step_up(&self, client: &mut Client, subject: Option<&str>) -> Result<(), Error> {
        let mut transaction = client.transaction()?;
        let row = transaction
            .query_one("SELECT tally.challenge(), tally.token_audience(), session_user::text", &[])?;
        let mut claims = self.claims(row.get(1), row.get(2), "", row.get(0));
        claims["tenant"] = Value::Null;
        claims["sub"] = json!(subject);
        claims["amr"] = json!(["pwd", "otp"]);
        claims["auth_time"] = json!(claims["iat"].as_u64().unwrap_or_default() - 5);
        transaction.execute("SELECT tally.step_up($1)", &[&self.sign(&claims)])?;
        transaction.commit()
    }

    /// Enters a tenant's scope.
    pub fn enter(&self, client: &mut impl GenericClient, tenant: &str) -> Result<(), Error> {
        let token = self.token(client, tenant)?;
        client.execute("SELECT tally.enter($1)", &[&token]).map(drop)
    }
}
