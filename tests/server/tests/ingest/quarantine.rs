//! The ways out of the quarantine: redriving counts once, whoever does it and however often, and only in its own scope.

use postgres::Client;
use serde_json::{Value, json};
use std::thread;
use tally_server_tests::{Database, ingest, number};

fn event(tenant: &str, id: u32, amount: &str) -> Value {
    json!({
        "tenant_id": tenant, "account_id": "north", "name": "sale", "occurred_at": "2026-03-02T09:15:00Z",
        "event_id": format!("00000000-0000-4000-8000-{id:012}"), "properties": {"amount": amount}
    })
}

fn array(events: impl IntoIterator<Item = Value>) -> String {
    Value::Array(events.into_iter().collect()).to_string()
}

/// accepted, duplicates, conflicts, rejected of a redrive.
fn redrive(client: &mut Client, conditions: &str) -> (i64, i64, i64, i64) {
    let query = format!("SELECT accepted, duplicates, conflicts, rejected FROM tally.redrive({conditions})");
    let row = client.query_one(&query, &[]).unwrap();
    (row.get(0), row.get(1), row.get(2), row.get(3))
}

/// A rollup that takes numbers alone, so that events wait in quarantine until it is gone.
const STRICT_ROLLUP: &str = "SELECT tally.create_rollup('money', grains => '{day}',
    measures => ARRAY[$$sum((properties->>'amount')::numeric) AS amount$$])";

#[test]
fn what_is_redriven_and_accepted_leaves_the_quarantine_and_counts_once() {
    let database = Database::new("redrive");
    let mut client = database.superuser();
    client.batch_execute(STRICT_ROLLUP).unwrap();
    let batch = array((0..20).map(|id| event("a", id, if id < 12 { "x" } else { "1" })));
    let first = ingest(&mut client, &batch).unwrap();
    assert_eq!((first.accepted, first.rejected), (8, 12));

    // Nothing has changed: everything stays, with the number of tries.
    assert_eq!(redrive(&mut client, ""), (0, 0, 0, 12));
    assert_eq!(
        number(&mut client, "SELECT count(*) FROM tally.quarantine WHERE tries = 1 AND tried_at IS NOT NULL"),
        12
    );
    client.batch_execute("SELECT tally.drop_rollup('money')").unwrap();

    // Filters: what doesn't meet them is left alone.
    assert_eq!(redrive(&mut client, "outcome => 'conflict'"), (0, 0, 0, 0));
    assert_eq!(redrive(&mut client, "sqlstate => '00000'"), (0, 0, 0, 0));
    assert_eq!(redrive(&mut client, "before => now() - interval '1 day'"), (0, 0, 0, 0));
    assert_eq!(redrive(&mut client, "batch_id => 1"), (0, 0, 0, 0));
    assert_eq!(
        redrive(&mut client, &format!("batch_id => {}, \"position\" => 3", first.batch_id)),
        (1, 0, 0, 0)
    );
    // One of them comes from elsewhere meanwhile: redriving it finds it there.
    assert_eq!(ingest(&mut client, &event("a", 4, "x").to_string()).unwrap().accepted, 1);
    assert_eq!(redrive(&mut client, "max_events => 5"), (4, 1, 0, 0));
    assert_eq!(redrive(&mut client, "since => now() - interval '1 day'"), (6, 0, 0, 0));
    assert_eq!(redrive(&mut client, ""), (0, 0, 0, 0));
    assert_eq!(number(&mut client, "SELECT count(*) FROM tally.quarantine"), 0);
    assert_eq!(number(&mut client, "SELECT count(*) FROM tally.events"), 20);
    assert_eq!(number(&mut client, "SELECT sum(events)::int8 FROM tally.usage_day"), 20);
    // Lineage: every raw row leads to a batch, and a redrive's batch to the one that first brought the event.
    assert_eq!(
        number(
            &mut client,
            &format!(
                "SELECT count(*) FROM tally.events AS e JOIN tally.ingest_batch AS b USING (tenant_id, batch_id)
                 WHERE b.batch_id = {0} OR b.redrives = ARRAY[{0}::int8] OR b.redrives IS NULL",
                first.batch_id
            )
        ),
        20
    );
    assert_eq!(
        number(
            &mut client,
            &format!(
                "SELECT sum(accepted)::int8 FROM tally.ingest_batch WHERE redrives = ARRAY[{}::int8]",
                first.batch_id
            )
        ),
        11
    );
}

#[test]
fn a_conflict_stays_until_it_is_discarded_with_a_reason() {
    let mut database = Database::new("discard");
    let auditor = database.role("auditor", &["tally_analyst", "tally_auditor"]);
    let mut client = database.superuser();
    ingest(&mut client, &event("a", 1, "1").to_string()).unwrap();
    ingest(&mut client, &event("a", 1, "2").to_string()).unwrap();
    ingest(&mut client, &event("b", 1, "1").to_string()).unwrap();
    ingest(&mut client, &event("b", 1, "2").to_string()).unwrap();
    assert_eq!(redrive(&mut client, ""), (0, 0, 2, 0));
    let kept: String =
        client.query_one("SELECT body FROM tally.quarantine WHERE tenant_id = 'a'", &[]).unwrap().get(0);
    assert_eq!(kept, event("a", 1, "2").to_string());
    for reason in ["NULL", "' '"] {
        let error = client.query(&format!("SELECT tally.discard({reason})"), &[]).unwrap_err();
        assert_eq!(error.as_db_error().unwrap().code().code(), "22004");
    }
    assert_eq!(number(&mut client, "SELECT tally.discard('sent twice', outcome => 'rejected')"), 0);
    assert_eq!(number(&mut client, "SELECT tally.discard('sent twice', outcome => 'conflict')"), 2);
    assert_eq!(number(&mut client, "SELECT tally.discard('sent twice', outcome => 'conflict')"), 0);
    let mut auditor = database.connect(&auditor);
    let mut transaction = auditor.transaction().unwrap();
    transaction.execute("SELECT tally.enter_global()", &[]).unwrap();
    let notes: Vec<String> = transaction
        .query("SELECT concat_ws(' ', tenant_id, events, role_name, reason) FROM tally.quarantine_discard ORDER BY 1", &[])
        .unwrap()
        .iter()
        .map(|row| row.get(0))
        .collect();
    assert_eq!(notes, ["a 1 postgres sent twice", "b 1 postgres sent twice"]);
}

#[test]
fn a_tenant_redrives_its_own_and_nobody_smuggles_an_event_through_an_operator() {
    let mut database = Database::new("smuggle");
    let writers: Vec<String> = ["a", "b"]
        .map(|tenant| {
            let role = database.role(&format!("writer_{tenant}"), &["tally_writer", "tally_reader"]);
            database
                .superuser()
                .execute("SELECT tally.bind_role($1::text::regrole, $2)", &[&role, &tenant])
                .unwrap();
            role
        })
        .to_vec();
    let trusted = database.role("trusted", &["tally_writer"]);
    database.superuser().execute("SELECT tally.trust_role($1::text::regrole)", &[&trusted]).unwrap();
    let mut admin = database.superuser();
    admin.batch_execute(STRICT_ROLLUP).unwrap();

    let (mut a, mut b) = (database.connect(&writers[0]), database.connect(&writers[1]));
    // Of its own a bad one; and one of b's, which only b may send.
    let sent = ingest(&mut a, &array([event("a", 1, "x"), event("b", 7, "1")])).unwrap();
    assert_eq!((sent.accepted, sent.rejected), (0, 2));
    assert_eq!(ingest(&mut b, &event("b", 2, "x").to_string()).unwrap().rejected, 1);
    admin.batch_execute("SELECT tally.drop_rollup('money')").unwrap();

    assert_eq!(redrive(&mut a, ""), (1, 0, 0, 1));
    assert_eq!(number(&mut admin, "SELECT count(*) FROM tally.quarantine WHERE tenant_id = 'b'"), 1);
    // Everybody's, by roles that may write for every tenant: a's event of b's is refused all the same.
    let mut trusted = database.connect(&trusted);
    assert_eq!(redrive(&mut trusted, ""), (1, 0, 0, 1));
    assert_eq!(redrive(&mut admin, ""), (0, 0, 0, 1));
    assert_eq!(number(&mut admin, "SELECT count(*) FROM tally.events WHERE tenant_id = 'b'"), 1);
    let reason: String = admin.query_one("SELECT sqlstate FROM tally.quarantine", &[]).unwrap().get(0);
    assert_eq!(reason, "42501");
    // Neither can b remove what is a's.
    assert_eq!(number(&mut b, "SELECT tally.discard('not mine')"), 0);
    assert_eq!(number(&mut a, "SELECT tally.discard('was never mine')"), 1);

    // Without a scope, and without the right to write, there is no way.
    let nobody = database.role("nobody", &["tally_writer"]);
    let reader = database.role("reader", &["tally_reader"]);
    for role in [nobody, reader] {
        for call in ["SELECT tally.redrive()", "SELECT tally.discard('x')"] {
            let error = database.connect(&role).query(call, &[]).unwrap_err();
            assert_eq!(error.as_db_error().unwrap().code().code(), "42501", "{role} {call}");
        }
    }
    for call in [
        "SELECT tally_internal.take_quarantined(NULL, NULL, NULL, NULL, NULL, NULL, NULL)",
        "SELECT tally_internal.discard_quarantined('x', NULL, NULL, NULL, NULL, NULL, NULL)",
        "SELECT tally_internal.settle_quarantined(1, '{}', '{}', '{}', '{}', '{}', '{}')",
    ] {
        let error = a.query(call, &[]).unwrap_err();
        assert_eq!(error.as_db_error().unwrap().code().code(), "42501", "{call}");
    }
}

#[test]
fn an_event_that_has_the_form_of_a_payload_stays_what_it_was_sent_as() {
    let mut database = Database::new("posing");
    // It checks tenant_id itself, and hands on what is a's.
    let relay = database.role("relay", &["tally_writer"]);
    database.superuser().execute("SELECT tally.trust_role($1::text::regrole)", &[&relay]).unwrap();
    let mut relay = database.connect(&relay);
    let mut admin = database.superuser();
    let forged = json!({"tenant_id": "b", "account_id": "x", "name": "forged", "occurred_at": "2026-03-20T00:00:00Z",
                        "event_id": "32000000-0000-4000-8000-000000000002"});
    let posing = |tenant: &str| format!(r#"{{"format":"tally","mapping":"","payload":{forged},{tenant}}}"#);
    let sent = [
        posing(r#""tenant_id":"a","tenant_id":"a""#),
        posing(r#""tenant_id":["a"]"#),
        posing(r#""account_id":"north","tenant_id":"a""#),
        format!(r#"{{"format":"tally","mapping":"","text":{}}}"#, json!(forged.to_string())),
    ];
    for (place, text) in sent.iter().enumerate() {
        let answer = ingest(&mut relay, text).unwrap();
        assert_eq!((answer.accepted, answer.rejected), (0, 1), "{place}");
        let conditions = format!("batch_id => {}", answer.batch_id);
        assert_eq!(redrive(&mut relay, &conditions), (0, 0, 0, 1), "{place}");
        assert_eq!(redrive(&mut admin, &conditions), (0, 0, 0, 1), "{place}");
    }
    assert_eq!(number(&mut admin, "SELECT count(*) FROM tally.events"), 0);
    assert_eq!(number(&mut admin, "SELECT count(*) FROM tally.quarantine WHERE format IS NULL"), 4);

    // What did come as a payload is known by its row, and still translated again.
    let payload = json!({"tenant_id": "b", "account_id": "x", "name": "sale", "event_id": "k-1"}).to_string();
    let query = "SELECT rejected FROM tally.ingest_from('tally', $1::text)";
    assert_eq!(relay.query_one(query, &[&payload]).unwrap().get::<_, i64>(0), 1);
    let format = "SELECT count(*) FROM tally.quarantine WHERE format = 'tally' AND body LIKE '{\"format\":\"tally\",%'";
    assert_eq!(number(&mut admin, format), 1);
    // Translated and refused later, it waits as an event of ours.
    admin.batch_execute(STRICT_ROLLUP).unwrap();
    let payload = event("b", 3, "x").to_string();
    assert_eq!(relay.query_one(query, &[&payload]).unwrap().get::<_, i64>(0), 1);
    assert_eq!(number(&mut admin, "SELECT count(*) FROM tally.quarantine WHERE format IS NULL"), 5);
    admin.batch_execute("SELECT tally.drop_rollup('money')").unwrap();
    assert_eq!(redrive(&mut admin, ""), (1, 0, 0, 5));
}

#[test]
fn two_redrives_at_once_count_once() {
    let database = Database::new("redrives");
    let mut admin = database.superuser();
    admin.batch_execute(STRICT_ROLLUP).unwrap();
    assert_eq!(ingest(&mut admin, &array((0..2_000).map(|id| event("a", id, "x")))).unwrap().rejected, 2_000);
    admin.batch_execute("SELECT tally.drop_rollup('money')").unwrap();
    let accepted: i64 = thread::scope(|scope| {
        let redrivers: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let mut client = database.superuser();
                    (0..20)
                        .map(|_| redrive(&mut client, "max_events => 100"))
                        .map(|counts| {
                            assert_eq!((counts.1, counts.2, counts.3), (0, 0, 0));
                            counts.0
                        })
                        .sum::<i64>()
                })
            })
            .collect();
        redrivers.into_iter().map(|redriver| redriver.join().unwrap()).sum()
    });
    assert_eq!(accepted, 2_000);
    assert_eq!(number(&mut admin, "SELECT count(*) FROM tally.quarantine"), 0);
    assert_eq!(number(&mut admin, "SELECT sum(events)::int8 FROM tally.usage_day"), 2_000);
}

#[test]
fn a_redrive_is_no_new_event_to_health() {
    let mut database = Database::new("redrive_health");
    let writer = database.role("writer", &["tally_writer"]);
    let admin = database.role("admin", &["tally_admin"]);
    database.superuser().execute("SELECT tally.bind_role($1::text::regrole, 'acme')", &[&writer]).unwrap();
    let mut client = database.connect(&writer);
    let good = "SELECT sum(accepted)::int8 FROM tally.ingest((SELECT json_agg(json_build_object('tenant_id', 'acme', 'account_id', 'n',
                       'name', 'a', 'occurred_at', '2026-03-02T09:15:00Z', 'event_id', gen_random_uuid())) FROM generate_series(1, 995)))";
    assert_eq!(number(&mut client, good), 995);
    assert_eq!(number(&mut client, "SELECT rejected FROM tally.ingest('[{}, {}, {}, {}, {}]')"), 5);
    let mut admin = database.connect(&admin);
    let mut health = || {
        let query = "SELECT status || ' ' || value FROM tally.observe_health() WHERE component = 'ingest'";
        admin.query_one(query, &[]).unwrap().get::<_, String>(0)
    };
    assert_eq!(health(), "ok 0.5");
    for _ in 0..20 {
        assert_eq!(number(&mut client, "SELECT rejected FROM tally.redrive()"), 5);
    }
    assert_eq!(health(), "ok 0.5");
}
