//! The catalogue as OpenLineage, against the published schema; and the review, with a section for each thing to look at.

use postgres::Client;
use serde_json::{Value, json};
use tally_server_tests::{Database, ingest};

/// Whether documents are what the registered schema says: the registry of events judges them, as properties.
fn judged(client: &mut Client, documents: &[Value]) -> (i64, Option<Value>) {
    let events: Vec<Value> = documents
        .iter()
        .enumerate()
        .map(|(number, document)| {
            json!({"tenant_id": "t", "account_id": "a", "name": "lineage", "occurred_at": "2026-11-01T00:00:00Z", "properties": document,
                "event_id": format!("00000000-0000-4000-8000-{:012x}", number + 1000 * documents.len())})
        })
        .collect();
    let summary = ingest(client, &json!(events).to_string()).unwrap();
    (summary.accepted, summary.details)
}

#[test]
fn open_lineage_is_what_its_schema_says() {
    let mut database = Database::new("open_lineage");
    let admin = database.role("admin", &["tally_admin"]);
    database
        .superuser()
        .batch_execute(
            "CREATE SCHEMA app; CREATE VIEW app.plans AS SELECT account_id, properties->>'plan' AS plan, user_id FROM tally.events WHERE name = 'n';
             COMMENT ON VIEW app.plans IS 'plans'",
        )
        .unwrap();
    let mut client = database.connect(&admin);
    client.batch_execute("SELECT tally.describe_asset('app.plans', owner => 'Sales')").unwrap();
    let rows =
        client.query("SELECT * FROM tally.open_lineage('postgres://db.example.com:5432')", &[]).unwrap();
    let events: Vec<Value> = rows.iter().map(|row| row.get(0)).collect();
    let mut superuser = database.superuser();
    let schema = include_str!("open_lineage.schema.json");
    superuser
        .execute("SELECT tally.register_event('lineage', $1::text::jsonb, 'a test')", &[&schema])
        .unwrap();
    let (accepted, details) = judged(&mut superuser, &events);
    assert_eq!(accepted, events.len() as i64, "{details:#?}");
    // The schema would tell.
    for field in ["producer", "schemaURL", "eventTime"] {
        let mut broken = events[0].clone();
        broken.as_object_mut().unwrap().remove(field);
        assert_eq!(judged(&mut superuser, &[broken]).0, 0, "without {field}");
    }
    let name = format!("{}.app.plans", database.name());
    let dataset = events.iter().find(|event| event["dataset"]["name"] == *name).expect("the view");
    assert_eq!(dataset["dataset"]["facets"]["documentation"]["description"], "plans");
    assert_eq!(dataset["dataset"]["facets"]["ownership"]["owners"][0]["name"], "Sales");
    assert_eq!(dataset["dataset"]["facets"]["tags"]["tags"][0]["value"], "personal");
    let job = events.iter().find(|event| event["job"]["name"] == *name).expect("what makes it");
    let lineage = &job["outputs"][0]["facets"]["columnLineage"];
    assert_eq!(lineage["fields"]["plan"]["inputFields"][0]["field"], "properties.plan", "{lineage:#}");
    assert_eq!(
        lineage["fields"]["user_id"]["inputFields"][0]["name"],
        format!("{}.tally.events", database.name())
    );
    assert_eq!(lineage["dataset"][0]["field"], "name", "{lineage:#}");
    assert_eq!(job["inputs"].as_array().unwrap().len(), 1, "{job:#}");
}

#[test]
fn the_review_names_what_is_to_be_looked_at() {
    let mut database = Database::new("catalog_review");
    let admin = database.role("admin", &["tally_admin"]);
    let idle = database.role("idle", &["tally_reader"]);
    let writer = database.role("writer", &["tally_writer"]);
    let mut superuser = database.superuser();
    superuser
        .batch_execute(&format!(
            "CREATE SCHEMA app; CREATE TABLE app.people (mail text); CREATE TABLE app.gone (a int8);
             SELECT tally.classify('app.people.mail', 'personal', 'a test'), tally.classify('app.gone', 'confidential', 'a test');
             CREATE VIEW app.mails AS SELECT lower(mail) AS m FROM app.people;
             SELECT tally.classify('app.mails.m', 'internal', 'it is hashed'); DROP TABLE app.gone;
             SELECT tally.register_key('old', '\\x{}'); UPDATE tally.token_key SET registered_at = now() - interval '2 years'",
            "01".repeat(32)
        ))
        .unwrap();
    let mut client = database.connect(&admin);
    let review = |client: &mut Client| -> Vec<String> {
        let rows = client
            .query("SELECT format('%s %s: %s', section, asset, finding) FROM tally.governance_review()", &[])
            .unwrap();
        rows.iter().map(|row| row.get(0)).collect()
    };
    let found = review(&mut client);
    let idle_login = format!("roles {idle}: login with rights on pg_tally, last seen never");
    for wanted in [
        "owners app.people: nobody answers for this table",
        "purposes app.people: personal, and nobody said what for",
        "exceptions app.mails.m: internal instead of personal since",
        "exceptions app.gone: this was said of a table, view or column that is gone",
        "keys old: key of tokens",
        &idle_login,
    ] {
        assert!(found.iter().any(|line| line.starts_with(wanted)), "{wanted}: {found:#?}");
    }
    // What isn't in the log may be at work: only where everything is recorded is it advised to lock a login out.
    let advice = |client: &mut Client, login: &str| -> Option<String> {
        let query = "SELECT advice FROM tally.governance_review() WHERE section = 'roles' AND asset = $1";
        client.query_opt(query, &[&login]).unwrap().map(|row| row.get(0))
    };
    let locks_out = |advice: Option<String>| advice.map(|advice| advice.contains("NOLOGIN"));
    assert_eq!(locks_out(advice(&mut client, &idle)), Some(false));
    client.batch_execute("SELECT tally.set_audit_policy('all')").unwrap();
    assert_eq!(locks_out(advice(&mut client, &idle)), Some(true));
    assert_eq!(locks_out(advice(&mut client, &writer)), Some(false));
    let at_work = database.connect(&writer);
    assert_eq!(advice(&mut client, &writer), None, "it is connected");
    drop(at_work);
    client
        .batch_execute("SELECT tally.describe_asset('app.people', owner => 'Sales', purpose => 'letters')")
        .unwrap();
    superuser.batch_execute("CREATE OR REPLACE VIEW app.mails AS SELECT lower(mail) AS m FROM (SELECT mail, 1 FROM app.people UNION ALL SELECT user_id COLLATE \"default\", 2 FROM tally.events) AS u").unwrap();
    let found = review(&mut client);
    assert!(!found.iter().any(|line| line.contains("app.people")), "{found:#?}");
    assert!(
        found.iter().any(|line| line.contains("app.mails.m")
            && line.ends_with("it holds no longer, since it comes from something else now")),
        "{found:#?}"
    );
}
