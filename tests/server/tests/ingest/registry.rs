//! The schema registry: versions don't change, what doesn't fit waits in quarantine, and a retry stays a duplicate.

use postgres::{Client, Error};
use serde_json::{Value, json};
use std::thread;
use tally_server_tests::{Database, ingest, number};

fn event(tenant: &str, id: u32, name: &str, properties: Value) -> Value {
    json!({
        "tenant_id": tenant, "account_id": "north", "name": name, "occurred_at": "2026-03-02T09:15:00Z",
        "event_id": format!("00000000-0000-4000-8000-{id:012}"), "properties": properties
    })
}

fn array(events: &[Value]) -> String {
    Value::Array(events.to_vec()).to_string()
}

fn register(client: &mut Client, name: &str, schema: Value, more: &str) -> Result<i32, Error> {
    let query = format!("SELECT tally.register_event($1::text, $2::text::jsonb, 'for a test'{more})");
    Ok(client.query_one(&query, &[&name, &schema.to_string()])?.get(0))
}

fn sqlstate(error: Error) -> String {
    error.as_db_error().unwrap_or_else(|| panic!("{error}")).code().code().to_owned()
}

fn price(minimum: i32) -> Value {
    json!({"type": "object", "properties": {"price": {"type": "number", "minimum": minimum}}, "required": ["price"]})
}

#[test]
fn what_does_not_fit_waits_and_fits_once_the_schema_does() {
    let database = Database::new("registry");
    let mut client = database.superuser();
    let mut other = database.superuser();
    // The other session has an empty registry in its cache.
    assert_eq!(ingest(&mut other, &event("a", 0, "sale", json!({})).to_string()).unwrap().accepted, 1);
    assert_eq!(register(&mut client, "sale", price(10), "").unwrap(), 1);
    let batch = array(&[
        event("a", 1, "sale", json!({"price": 12})),
        event("a", 2, "sale", json!({"price": 5})),
        event("a", 3, "sale", json!({"price": "12"})),
        event("a", 4, "sale", json!({})),
        event("a", 5, "other", json!({"price": "free"})),
        // Accepted before there was a schema, and sent again: it counts, and its sender must learn so.
        event("a", 0, "sale", json!({})),
    ]);
    for (accepted, duplicates) in [(2, 1), (0, 3)] {
        let summary = ingest(&mut other, &batch).unwrap();
        assert_eq!(
            (summary.accepted, summary.duplicates, summary.conflicts, summary.rejected),
            (accepted, duplicates, 0, 3)
        );
    }
    let reasons: Vec<String> = client
        .query("SELECT DISTINCT sqlstate || ' ' || reason FROM tally.quarantine ORDER BY 1", &[])
        .unwrap()
        .iter()
        .map(|row| row.get(0))
        .collect();
    assert_eq!(
        reasons,
        [
            "23514 properties of \"sale\", schema version 1: \"price\" is a required property",
            "23514 properties of \"sale\", schema version 1: /price: the value is less than the minimum of 10",
            "23514 properties of \"sale\", schema version 1: /price: the value is not of type \"number\"",
        ]
    );
    client.execute("SELECT tally.discard('sent twice', since => '-infinity', batch_id => (SELECT max(batch_id) FROM tally.quarantine))", &[]).unwrap();

    assert_eq!(register(&mut client, "sale", price(0), "").unwrap(), 2);
    let row =
        client.query_one("SELECT accepted, rejected FROM tally.redrive(sqlstate => '23514')", &[]).unwrap();
    assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1)), (1, 2));
    assert_eq!(ingest(&mut other, &batch).unwrap().rejected, 2);
    // Every door asks the registry.
    let typed = format!(
        "SELECT rejected FROM tally.ingest_events(ARRAY['{}']::tally.event[])",
        event("a", 7, "sale", json!({}))
    );
    assert_eq!(number(&mut other, &typed), 1);
    other
        .batch_execute("INSERT INTO tally.inbox VALUES ('a', 'north', 'sale', '2026-03-02T09:15:00Z', '00000000-0000-4000-8000-000000000008')")
        .unwrap();
    assert_eq!(number(&mut other, "SELECT count(*) FROM tally.events WHERE name = 'sale'"), 3);
}

/// Definitions in a chain, each of which judges the same value by the following one, in several ways.
fn chain(levels: usize, ways: usize) -> Value {
    let link = |level| json!({"allOf": vec![json!({"$ref": format!("#/d/a{}", level + 1)}); ways]});
    let mut definitions: serde_json::Map<String, Value> =
        (0..levels).map(|level| (format!("a{level}"), link(level))).collect();
    definitions.insert(format!("a{levels}"), json!({}));
    json!({"d": definitions, "$ref": "#/d/a0", "unevaluatedProperties": false})
}

#[test]
fn what_a_schema_asks_for_is_bounded_and_can_be_cancelled() {
    let database = Database::new("schema_steps");
    let mut client = database.superuser();
    for (levels, ways) in [(1_100, 1), (18, 2), (30, 2)] {
        let error = register(&mut client, "big", chain(levels, ways), "").unwrap_err();
        assert!(error.as_db_error().unwrap().hint().is_some());
        assert_eq!(sqlstate(error), "22023", "{levels} {ways}");
    }
    register(&mut client, "small", chain(4, 2), "").unwrap();
    // Each level of the value has three schemas judge the next one.
    let fans = json!({"anyOf": [{"$ref": "#/d/a"}], "unevaluatedProperties": false,
                      "d": {"a": {"properties": {"i": {"anyOf": [{"$ref": "#"}, {"$ref": "#"}, {"$ref": "#"}], "not": {"const": 1}}},
                            "anyOf": [{"required": ["z"]}, {"properties": {"i": {"$ref": "#"}}}]}}});
    register(&mut client, "fans", fans, "").unwrap();
    let deep = (0..30).fold(json!({"x": 1}), |inner, _| json!({"i": inner}));
    let summary = ingest(&mut client, &array(&[event("a", 1, "fans", deep.clone())])).unwrap();
    assert_eq!((summary.accepted, summary.rejected), (0, 1));
    let reason: String = client.query_one("SELECT reason FROM tally.quarantine", &[]).unwrap().get(0);
    assert!([" steps", "in more ways"].iter().any(|told| reason.contains(told)), "{reason}");
    let many: Vec<Value> = (2..50).map(|id| event("a", id, "fans", deep.clone())).collect();
    client.batch_execute("SET statement_timeout = '20ms'").unwrap();
    assert_eq!(sqlstate(ingest(&mut client, &array(&many)).unwrap_err()), "57014");
    client.batch_execute("RESET statement_timeout").unwrap();
    assert_eq!(ingest(&mut client, &array(&[event("a", 50, "small", json!({}))])).unwrap().accepted, 1);
}

#[test]
fn versions_are_immutable_compatible_and_on_record() {
    let mut database = Database::new("versions");
    let admin = database.role("admin", &["tally_admin"]);
    let mut client = database.connect(&admin);
    assert_eq!(register(&mut client, "sale", price(10), "").unwrap(), 1);
    // The same again, in another spelling: nothing new.
    assert_eq!(register(&mut client, "sale", price(10), "").unwrap(), 1);
    assert_eq!(register(&mut client, "sale", price(10), ", version => 1").unwrap(), 1);
    assert_eq!(register(&mut client, "sale", price(5), ", version => 2").unwrap(), 2);
    assert_eq!(sqlstate(register(&mut client, "sale", price(4), ", version => 2").unwrap_err()), "55000");
    assert_eq!(sqlstate(register(&mut client, "sale", price(4), ", version => 4").unwrap_err()), "22023");
    let error = register(&mut client, "sale", price(7), "").unwrap_err();
    let details = error.as_db_error().unwrap();
    assert_eq!(
        (details.detail(), details.code().code()),
        (Some("/price: minimum takes less than before"), "42P17")
    );
    assert_eq!(register(&mut client, "sale", price(7), ", breaking => true").unwrap(), 3);
    for bad in [
        json!({"type": "strin"}),
        json!(true),
        json!({"$ref": "http://example.com/"}),
        json!({"pattern": "("}),
    ] {
        assert_eq!(sqlstate(register(&mut client, "other", bad, "").unwrap_err()), "22023");
    }
    for call in [
        "SELECT tally.register_event('x', '{}', ' ')",
        "SELECT tally.register_event('x', NULL, 'why')",
        "SELECT tally.register_event(NULL, '{}', 'why')",
    ] {
        assert_eq!(sqlstate(client.query(call, &[]).unwrap_err()), "22004", "{call}");
    }
    let record: Vec<String> = client
        .query(
            "SELECT concat_ws(' ', version, breaking, registered_by = session_user, registered_at IS NOT NULL, reason)
             FROM tally.event_schema WHERE name = 'sale' ORDER BY version",
            &[],
        )
        .unwrap()
        .iter()
        .map(|row| row.get(0))
        .collect();
    assert_eq!(record, ["1 f t t for a test", "2 f t t for a test", "3 t t t for a test"]);
    for statement in [
        "UPDATE tally.event_schema SET schema = '{}'",
        "DELETE FROM tally.event_schema",
        "INSERT INTO tally.event_schema SELECT * FROM tally.event_schema",
        "SELECT tally_internal.registry_changed()",
        "SELECT tally_internal.write_policy('allow', '')",
    ] {
        assert_eq!(sqlstate(client.execute(statement, &[]).unwrap_err()), "42501", "{statement}");
    }
    // A writer may look up what is asked of its events, and declare nothing.
    let writer = database.role("writer", &["tally_writer"]);
    let mut writer = database.connect(&writer);
    assert_eq!(number(&mut writer, "SELECT count(*) FROM tally.event_schema"), 3);
    assert_eq!(sqlstate(register(&mut writer, "sale", json!({}), "").unwrap_err()), "42501");
    assert_eq!(
        sqlstate(writer.query("SELECT tally.set_unregistered_policy('allow')", &[]).unwrap_err()),
        "42501"
    );

    for kind in ["product_view", "feature_usage", "conversion_step"] {
        let query = format!(
            "SELECT tally.register_event('std.{kind}', tally.standard_schema('{kind}'), 'standard')::bigint"
        );
        assert_eq!(number(&mut client, &query), 1);
    }
    assert_eq!(sqlstate(client.query("SELECT tally.standard_schema('x')", &[]).unwrap_err()), "22023");
}

#[test]
fn unregistered_names_are_allowed_marked_or_rejected() {
    let database = Database::new("unregistered");
    let mut client = database.superuser();
    register(&mut client, "sale", json!({}), "").unwrap();
    let outcome = |client: &mut Client, tenant: &str, id: u32, name: &str| {
        let summary = ingest(client, &event(tenant, id, name, json!({})).to_string()).unwrap();
        (summary.accepted, summary.rejected)
    };
    assert_eq!(outcome(&mut client, "a", 1, "x"), (1, 0));
    client.batch_execute("SELECT tally.set_unregistered_policy('mark')").unwrap();
    client.batch_execute("SELECT tally.set_unregistered_policy('reject', 'strict'), tally.set_unregistered_policy('allow', 'loose')").unwrap();
    let mut other = database.superuser();
    assert_eq!(outcome(&mut other, "strict", 2, "sale"), (1, 0));
    assert_eq!(outcome(&mut other, "strict", 3, "x"), (0, 1));
    assert_eq!(outcome(&mut other, "loose", 4, "x"), (1, 0));
    // Eight sessions see a name first, at once: each is noted once.
    thread::scope(|scope| {
        for writer in 0..8 {
            let database = &database;
            scope.spawn(move || {
                let mut client = database.superuser();
                for round in 0..10 {
                    let names = ["p", "q", "r"].map(|name| {
                        event(
                            "a",
                            100 + writer * 1_000 + round * 10 + name.as_bytes()[0] as u32,
                            &format!("{name}{round}"),
                            json!({}),
                        )
                    });
                    assert_eq!(ingest(&mut client, &array(&names)).unwrap().accepted, 3);
                }
            });
        }
    });
    assert_eq!(
        number(&mut client, "SELECT count(*) FROM tally.unregistered_event WHERE tenant_id = 'a'"),
        30
    );
    assert_eq!(number(&mut client, "SELECT count(*) FROM tally.unregistered_event"), 30);
    let rejected: String = client.query_one("SELECT sqlstate FROM tally.quarantine", &[]).unwrap().get(0);
    assert_eq!(rejected, "42704");
    client.batch_execute("SELECT tally.set_unregistered_policy(NULL, 'strict')").unwrap();
    assert_eq!(number(&mut client, "SELECT accepted FROM tally.redrive()"), 1);
    assert_eq!(
        sqlstate(client.query("SELECT tally.set_unregistered_policy('forbid')", &[]).unwrap_err()),
        "22023"
    );
}
