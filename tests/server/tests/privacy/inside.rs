//! Declarations one inside the other: what is dropped, or made a token, inside something that is sealed or made a token as a whole.

use crate::keyed::{Keyed, array, computed_in_python, event, id, maintain};
use postgres::Client;
use serde_json::{Value, json};
use tally_server_tests::{ingest, number};

/// What a custodian is shown.
fn revealed(custodian: &mut Client, number: u32, path: &str) -> Value {
    let mut transaction = custodian.transaction().unwrap();
    transaction.batch_execute("SELECT tally.enter('a')").unwrap();
    let query = "SELECT tally.reveal($1::text::uuid, $2, 'case 4711')::text";
    let text: String = transaction.query_one(query, &[&id(number), &path]).unwrap().get(0);
    transaction.commit().unwrap();
    serde_json::from_str(&text).unwrap()
}

fn stored(client: &mut Client, number: u32) -> Value {
    let query = "SELECT properties::text FROM tally.events WHERE event_id = $1::text::uuid";
    serde_json::from_str(client.query_one(query, &[&id(number)]).unwrap().get(0)).unwrap()
}

fn person() -> Value {
    json!({
        "user": {"email": "ada@example.org", "phone": "0815", "name": "Ada", "pin": 7, "z": 1},
        "people": [{"email": "eve@example.org", "z": 1}, {"of": [{"email": "kim@example.org"}]}],
        "card": {"email": "ada@example.org", "n": 5}
    })
}

/// General and special ones, as they come.
const DECLARED: &str = "SELECT tally.protect_property(NULL, '/user', 'seal'), tally.protect_property(NULL, '/user/email', 'drop'),
    tally.protect_property('signup', '/user/phone', 'drop', 'a'), tally.protect_property(NULL, '/user/name', 'token'),
    tally.protect_property(NULL, '/user/pin', 'seal'), tally.protect_property(NULL, '/people', 'seal'),
    tally.protect_property(NULL, '/people/email', 'drop'), tally.protect_property(NULL, '/people/of/email', 'drop'),
    tally.protect_property(NULL, '/card', 'token'), tally.protect_property(NULL, '/card/email', 'drop')";

/// Whether everything of an event is as it should be.
fn is_protected(client: &mut Client, custodian: &mut Client, number: u32, epoch: usize) {
    let wanted = computed_in_python(client, "a", &[json!("Ada")], &[]);
    let name = &wanted["properties"][0][epoch - 1];
    assert_eq!(revealed(custodian, number, "/user"), json!({"name": name, "pin": 7, "z": 1}), "{number}");
    assert_eq!(revealed(custodian, number, "/people/0"), json!({"z": 1}), "{number}");
    assert_eq!(revealed(custodian, number, "/people/1"), json!({"of": [{}]}), "{number}");
    let newest = format!("seal.{epoch}.");
    let stored = stored(client, number);
    assert!(stored["user"].as_str().unwrap().starts_with(&newest), "{stored}");
    // The same as of what never had it.
    let sent = array([event("a", 100 + number, "u", json!({"card": {"n": 5}}))]);
    ingest(client, &sent).unwrap();
    assert_eq!(stored["card"], self::stored(client, 100 + number)["card"], "{number}");
}

#[test]
fn what_is_dropped_inside_is_gone_of_new_events() {
    let (keyed, mut custodian) = Keyed::with_custodian("inside_new");
    let mut client = keyed.database.superuser();
    client.batch_execute(DECLARED).unwrap();
    let sent = array([event("a", 1, "u", person())]);
    assert_eq!(ingest(&mut client, &sent).unwrap().accepted, 1);
    is_protected(&mut client, &mut custodian, 1, 1);
    assert_eq!(ingest(&mut client, &sent).unwrap().duplicates, 1);
    // And what had waited closed up.
    let key = crate::keyed::KEY;
    keyed.remove();
    let later = array([event("a", 2, "u", person())]);
    assert_eq!(ingest(&mut client, &later).unwrap().rejected, 1);
    keyed.write(key, "600");
    assert_eq!(number(&mut client, "SELECT accepted FROM tally.redrive()"), 1);
    is_protected(&mut client, &mut custodian, 2, 1);
    // The inner token goes over to the new key with what it is in.
    client.batch_execute("SELECT tally.rotate_keys('a')").unwrap();
    maintain(&mut client);
    for number in [1, 2] {
        is_protected(&mut client, &mut custodian, number, 2);
    }
    assert_eq!(ingest(&mut client, &later).unwrap().duplicates, 1);
}

#[test]
fn what_is_dropped_inside_is_gone_of_stored_events_in_whatever_order_it_was_declared() {
    let outer_first: Vec<&str> =
        DECLARED.strip_prefix("SELECT ").unwrap().split("),").map(str::trim).collect();
    for (topic, is_reversed) in [("inside_outer", false), ("inside_inner", true)] {
        let (keyed, mut custodian) = Keyed::with_custodian(topic);
        let mut client = keyed.database.superuser();
        let sent = array([event("a", 1, "u", person())]);
        assert_eq!(ingest(&mut client, &sent).unwrap().accepted, 1);
        let mut calls = outer_first.clone();
        if is_reversed {
            calls.reverse();
        }
        for call in calls {
            // A token of the whole says for ever what it was made of.
            if call.contains("'/card'") {
                continue;
            }
            client.batch_execute(&format!("SELECT {})", call.trim_end_matches(')'))).unwrap();
            maintain(&mut client);
        }
        client.batch_execute("SELECT tally.protect_property(NULL, '/card', 'token')").unwrap();
        maintain(&mut client);
        is_protected(&mut client, &mut custodian, 1, 1);
        assert_eq!(ingest(&mut client, &sent).unwrap().duplicates, 1, "{topic}");
        // Nothing is left to be done.
        let before = stored(&mut client, 1);
        client.batch_execute("SELECT tally.protect_property(NULL, 'other', 'drop')").unwrap();
        maintain(&mut client);
        assert_eq!(stored(&mut client, 1), before, "{topic}");
        // From sealed to a token: of what is left in it.
        client.batch_execute("SELECT tally.protect_property(NULL, '/user', 'token')").unwrap();
        maintain(&mut client);
        let token = stored(&mut client, 1)["user"].as_str().unwrap().to_owned();
        assert!(token.starts_with("tok.1."), "{token}");
    }
}
