//! A database with a key file, and events to protect.

use postgres::Client;
use serde_json::{Value, json};
use std::io::Write;
use std::process::{Command, Stdio};
use tally_server_tests::Database;

pub const KEY: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

/// A database whose sessions find a key in a file.
pub struct Keyed {
    pub database: Database,
    path: String,
}

impl Keyed {
    pub fn new(topic: &str) -> Self {
        let database = Database::new(topic);
        let path = format!("/tmp/{}.key", database.name());
        let keyed = Self { database, path };
        keyed.write(KEY, "600");
        keyed.database.set(&format!("tally.key_file = '{}'", keyed.path));
        keyed.database.superuser().batch_execute("SELECT tally.open_months('-infinity')").unwrap();
        keyed
    }

    /// The same, and a custodian of whom no second factor is asked.
    pub fn with_custodian(topic: &str) -> (Self, Client) {
        let mut keyed = Self::new(topic);
        let role = keyed.database.role("custodian", &["tally_custodian"]);
        let open =
            "SELECT tally.set_step_up_policy('reveal', false), tally.set_step_up_policy('unprotect', false)";
        let mut superuser = keyed.database.superuser();
        superuser.batch_execute(&format!("{open}; SELECT tally.trust_role('{role}')")).unwrap();
        let custodian = keyed.database.connect(&role);
        (keyed, custodian)
    }

    /// Writes the file as the server's user.
    pub fn write(&self, text: &str, mode: &str) {
        let program = format!("rm -f {0}; umask 077; cat > {0} && chmod {mode} {0}", self.path);
        let lines = text.replace('\n', "'), ('");
        let copy = format!("COPY (VALUES ('{lines}')) TO PROGRAM '{program}'");
        self.database.superuser().batch_execute(&copy).unwrap();
    }

    pub fn remove(&self) {
        let copy = format!("COPY (SELECT) TO PROGRAM 'cat > /dev/null; rm -f {}'", self.path);
        self.database.superuser().batch_execute(&copy).unwrap();
    }
}

impl Drop for Keyed {
    fn drop(&mut self) {
        let _ = Command::new("rm").args(["-f", &self.path]).status();
    }
}

pub fn id(number: u32) -> String {
    format!("00000000-0000-4000-8000-{number:012}")
}

/// An event of a tenant with personal data in properties and user id.
pub fn event(tenant: &str, number: u32, user: &str, properties: Value) -> Value {
    json!({
        "tenant_id": tenant, "account_id": "north", "name": "signup", "occurred_at": "2026-03-02T09:15:00Z",
        "event_id": id(number), "user_id": user, "properties": properties
    })
}

pub fn array(events: impl IntoIterator<Item = Value>) -> String {
    Value::Array(events.into_iter().collect()).to_string()
}

/// Does all the housekeeping.
pub fn maintain(client: &mut Client) {
    client.batch_execute("CALL tally.maintain()").unwrap();
    let left = "SELECT count(*) FROM tally.privacy_renewal WHERE finished_at IS NULL";
    // What others hold is left for another round.
    for _ in 0..100 {
        if tally_server_tests::number(client, left) == 0 {
            return;
        }
        client.batch_execute("CALL tally.maintain()").unwrap();
    }
    panic!("what is stored is not gone through after a hundred rounds");
}

/// What the other implementation computes.
pub fn computed_in_python(
    client: &mut Client,
    tenant: &str,
    values: &[Value],
    sealed: &[(String, &str, String)],
) -> Value {
    let wrapped: String = client
        .query_one("SELECT encode(wrapped, 'hex') FROM tally.privacy_key WHERE tenant_id = $1", &[&tenant])
        .unwrap()
        .get(0);
    let asked = json!({"key": KEY, "tenant": tenant, "wrapped": wrapped, "values": values, "sealed": sealed});
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/privacy/protected.py");
    let mut python = Command::new("/usr/bin/python3")
        .arg(script)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    python.stdin.take().unwrap().write_all(asked.to_string().as_bytes()).unwrap();
    let output = python.wait_with_output().unwrap();
    assert!(output.status.success(), "{asked}");
    serde_json::from_slice(&output.stdout).unwrap()
}
