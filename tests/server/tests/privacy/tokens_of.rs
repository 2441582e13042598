//! `tally.tokens_of()`: whatever a value is stored under is among what it gives, and of other values nothing is.

use crate::keyed::{Keyed, maintain};
use postgres::Client;
use std::collections::HashSet;
use tally_server_tests::{ingest, number};

/// What is looked for, and as what it was sent.
const VALUES: [(&str, &str, &str); 8] = [
    ("text", "ada", r#""ada""#),
    ("digits", "42", r#""42""#),
    ("number", "42", "42.0"),
    ("power", "1e2", "1e2"),
    ("fraction", "-0.50", "-5e-1"),
    ("flag", "true", "true"),
    ("word", "true", r#""true""#),
    ("whole", r#"{"bb": 2, "a": ["x", null]}"#, r#"{"bb":2,"a":["x",null]}"#),
];

fn tokens(custodian: &mut Client, value: &str) -> HashSet<String> {
    let mut transaction = custodian.transaction().unwrap();
    transaction.batch_execute("SELECT tally.enter('a')").unwrap();
    let rows = transaction
        .query("SELECT token, of_user_ids FROM tally.tokens_of($1, 'case 4711')", &[&value])
        .unwrap();
    transaction.commit().unwrap();
    assert_eq!(rows.iter().filter(|row| row.get(1)).count(), 1, "{value}");
    rows.iter().map(|row| row.get(0)).collect()
}

#[test]
fn every_token_that_a_value_is_stored_under_is_given() {
    let (keyed, mut custodian) = Keyed::with_custodian("tokens_of");
    let mut client = keyed.database.superuser();
    for (name, ..) in VALUES {
        client.execute("SELECT tally.protect_property(NULL, $1, 'token')", &[&name]).unwrap();
    }
    let members: Vec<String> = VALUES.iter().map(|(name, _, json)| format!("\"{name}\": {json}")).collect();
    let sent = format!(
        r#"[{{"tenant_id": "a", "account_id": "n", "name": "x", "event_id": "00000000-0000-4000-8000-000000000001",
            "occurred_at": "2026-03-02T09:15:00Z", "properties": {{{}}}}}]"#,
        members.join(", ")
    );
    let send = |client: &mut Client| ingest(client, &sent).unwrap();
    assert_eq!(send(&mut client).accepted, 1);
    let mut find_all = |client: &mut Client, what: &str| {
        for (name, value, _) in VALUES {
            let stored: String =
                client.query_one("SELECT properties->>$1 FROM tally.events", &[&name]).unwrap().get(0);
            assert!(tokens(&mut custodian, value).contains(&stored), "{what}: {name} is {stored}");
            assert!(!tokens(&mut custodian, &format!("{value}1")).contains(&stored), "{what}: {name}");
        }
    };
    client.batch_execute("SELECT tally.set_reveal_limit(1000)").unwrap();
    find_all(&mut client, "as it came");
    client.batch_execute("SELECT tally.rotate_keys('a')").unwrap();
    find_all(&mut client, "while it is carried over");
    maintain(&mut client);
    find_all(&mut client, "carried over");
    // A token stays one where it is to be sealed; where the declaration is taken back, also under its key.
    let otherwise =
        "SELECT tally.protect_property(NULL, 'text', 'seal'), tally.protect_property(NULL, 'whole', 'seal'),
                            tally.unprotect_property(NULL, 'flag'), tally.rotate_keys('a')";
    client.batch_execute(otherwise).unwrap();
    maintain(&mut client);
    find_all(&mut client, "to be sealed, or protected no longer");
    let of_newest = "SELECT count(*) FROM tally.events AS e, jsonb_each_text(e.properties) AS p WHERE p.value LIKE 'tok.3.%'";
    assert_eq!(number(&mut client, of_newest), 7, "nothing that is protected is under an earlier key");
    assert_eq!(number(&mut client, "SELECT oldest::int8 FROM tally.privacy_key WHERE tenant_id = 'a'"), 3);
    assert_eq!(send(&mut client).duplicates, 1);
    assert_eq!(tokens(&mut custodian, "[1]").len(), 4, "elements have tokens of their own");
    assert_eq!(tokens(&mut custodian, "null").len(), 4);
}
