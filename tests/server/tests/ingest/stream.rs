//! Streams: positions move with their events or not at all, whatever fails and whoever else consumes.

use postgres::IsolationLevel;
use serde_json::{Value, json};
use tally_server_tests::{Database, code, number, wait_for};

fn event(id: u32) -> Value {
    json!({
        "tenant_id": "acme", "account_id": "north", "name": "a", "occurred_at": "2026-03-02T09:15:00Z",
        "event_id": format!("00000000-0000-4000-8000-{id:012}")
    })
}

/// batch_id is there, accepted, duplicates, details.
fn send(
    client: &mut impl postgres::GenericClient,
    events: &Value,
    options: &Value,
) -> Result<(bool, i64, i64, Value), postgres::Error> {
    let query = "SELECT batch_id IS NOT NULL, accepted, duplicates, details::text FROM tally.ingest($1, $2)";
    let row = client.query_one(query, &[&events.to_string(), &options.to_string()])?;
    Ok((row.get(0), row.get(1), row.get(2), serde_json::from_str(row.get(3)).unwrap()))
}

fn at(position: i64) -> Value {
    json!({"stream": "orders-3", "position": position})
}

fn tenant(database: &mut Database, topic: &str, tenant: &str, account: Option<&str>) -> String {
    let role = database.role(topic, &["tally_writer", "tally_reader"]);
    let bind = "SELECT tally.bind_role($1::text::regrole, $2, $3)";
    database.superuser().execute(bind, &[&role, &tenant, &account]).unwrap();
    role
}

const POSITION: &str = "SELECT coalesce(tally.stream_position('orders-3'), -1)";

#[test]
fn a_position_that_was_stored_is_skipped_and_a_gap_is_told_or_refused() {
    let mut database = Database::new("stream");
    let role = tenant(&mut database, "w", "acme", None);
    let mut client = database.connect(&role);
    assert_eq!(number(&mut client, POSITION), -1);
    assert_eq!(send(&mut client, &json!([event(1), event(2)]), &at(10)).unwrap(), (true, 2, 0, json!([])));
    assert_eq!(number(&mut client, POSITION), 10);
    for position in [10, 9, 0] {
        let (stored, accepted, duplicates, details) =
            send(&mut client, &json!([event(3), event(4)]), &at(position)).unwrap();
        assert_eq!((stored, accepted, duplicates), (false, 0, 2), "{position}");
        assert_eq!(details[0]["outcome"], "past");
        assert_eq!(details[0]["stored"], 10);
    }
    assert_eq!(number(&mut client, "SELECT count(*) FROM tally.events"), 2);
    // The next; digits are taken, too.
    let next = json!({"stream": "orders-3", "position": "11"});
    assert_eq!(send(&mut client, &json!(event(3)), &next).unwrap(), (true, 1, 0, json!([])));
    // A gap.
    let refuse = json!({"stream": "orders-3", "first": 14, "position": 15, "on_gap": "refuse"});
    assert_eq!(code(send(&mut client, &json!(event(4)), &refuse)), "55T21");
    assert_eq!(number(&mut client, POSITION), 11);
    let report = json!({"stream": "orders-3", "first": 14, "position": 15});
    let (stored, accepted, _, details) = send(&mut client, &json!([event(4), {"bad": 1}]), &report).unwrap();
    assert_eq!((stored, accepted, details[0]["outcome"].as_str()), (true, 1, Some("gap")));
    assert_eq!(details[0]["reason"], "2 positions after 11 are missing");
    assert_eq!(details[1]["outcome"], "rejected");
    assert_eq!(number(&mut client, "SELECT gaps * 100 + missing FROM tally.stream WHERE position = 15"), 102);
    // A piece that was stored in part.
    let overlap = json!({"stream": "orders-3", "first": 15, "position": 16});
    assert_eq!(code(send(&mut client, &json!(event(5)), &overlap)), "55T21");
    let whole = json!({"stream": "orders-3", "first": 16, "position": 20});
    assert_eq!(send(&mut client, &json!(event(5)), &whole).unwrap().3, json!([]));
    assert_eq!(number(&mut client, POSITION), 20);
}

#[test]
fn positions_move_with_their_events_or_not_at_all() {
    let mut database = Database::new("stream_atomic");
    let role = tenant(&mut database, "w", "acme", None);
    let mut client = database.connect(&role);
    send(&mut client, &json!(event(1)), &at(1)).unwrap();
    let mut transaction = client.transaction().unwrap();
    send(&mut transaction, &json!(event(2)), &at(2)).unwrap();
    transaction.rollback().unwrap();
    assert_eq!(number(&mut client, POSITION), 1);
    // A call that fails.
    let all = json!({"stream": "orders-3", "position": 2, "all_or_nothing": true});
    assert_eq!(code(send(&mut client, &json!([event(2), {"bad": 1}]), &all)), "22023");
    assert_eq!(number(&mut client, POSITION), 1);
    // A savepoint that is undone, and the same again.
    let mut transaction = client.transaction().unwrap();
    let mut savepoint = transaction.transaction().unwrap();
    send(&mut savepoint, &json!(event(2)), &at(2)).unwrap();
    savepoint.rollback().unwrap();
    assert_eq!(send(&mut transaction, &json!(event(2)), &at(2)).unwrap().1, 1);
    transaction.commit().unwrap();
    assert_eq!(number(&mut client, POSITION), 2);
    assert_eq!(number(&mut client, "SELECT count(*) FROM tally.events"), 2);
}

#[test]
fn two_consumers_at_once_store_each_position_once() {
    let mut database = Database::new("stream_race");
    let role = tenant(&mut database, "w", "acme", None);
    let mut first = database.connect(&role);
    let mut second = database.connect(&role);
    let backend = number(&mut second, "SELECT pg_backend_pid()::int8");
    let mut transaction = first.transaction().unwrap();
    // Events without ids: position alone keeps them from counting twice.
    let mut nameless = event(1);
    nameless.as_object_mut().unwrap().remove("event_id");
    send(&mut transaction, &json!([nameless, nameless]), &at(1)).unwrap();
    let batch = json!([nameless, nameless]);
    let waiting = std::thread::spawn(move || {
        let answer = send(&mut second, &batch, &at(1)).unwrap();
        (second, answer)
    });
    let mut superuser = database.superuser();
    wait_for("the second consumer to wait", || {
        let blocked = format!("SELECT cardinality(pg_blocking_pids({backend}))::int8");
        (number(&mut superuser, &blocked) > 0).then_some(())
    });
    transaction.commit().unwrap();
    let (mut second, (stored, accepted, duplicates, _)) = waiting.join().unwrap();
    assert_eq!((stored, accepted, duplicates), (false, 0, 2));
    assert_eq!(number(&mut second, "SELECT count(*) FROM tally.events"), 2);
    // At repeatable read, whoever comes second is told to begin again.
    let mut late =
        second.build_transaction().isolation_level(IsolationLevel::RepeatableRead).start().unwrap();
    late.query("SELECT count(*) FROM tally.events", &[]).unwrap();
    send(&mut first, &json!(event(7)), &at(2)).unwrap();
    assert_eq!(code(send(&mut late, &json!(event(7)), &at(2))), "40001");
}

#[test]
fn events_without_ids_get_them_from_their_place_in_the_stream() {
    let mut database = Database::new("stream_ids");
    let role = tenant(&mut database, "w", "acme", None);
    let mut client = database.connect(&role);
    let mut nameless = event(1);
    nameless.as_object_mut().unwrap().remove("event_id");
    let mut unnamed = nameless.clone();
    unnamed.as_object_mut().unwrap().remove("name");
    let (_, accepted, _, details) =
        send(&mut client, &json!([nameless, unnamed, nameless, event(9)]), &at(5)).unwrap();
    assert_eq!((accepted, details[0]["sqlstate"].as_str()), (3, Some("23502")));
    // They hang on a secret that only the owner of everything sees.
    let id = |place: u32| {
        let secret = "(SELECT secret FROM tally.stream_key WHERE tenant_id = 'acme' AND account_id = '')";
        format!("tally.event_id(concat_ws(E'\\n', 'stream', {secret}, 'orders-3', '5', '{place}'))")
    };
    let mut superuser = database.superuser();
    let stored = format!("SELECT count(*) FROM tally.events WHERE event_id IN ({}, {})", id(0), id(2));
    assert_eq!(number(&mut superuser, &stored), 2);
    assert_eq!(code(client.query("SELECT secret FROM tally.stream_key", &[])), "42501");
    let stream_secret = "SELECT tally_internal.stream_secret('acme', '')";
    assert_eq!(code(client.query(stream_secret, &[])), "42501");
    // The rejected one keeps its id: redriven, it is rejected for its name still.
    let kept = &format!("SELECT count(*) FROM tally.quarantine WHERE event_id = {}", id(1));
    assert_eq!(number(&mut superuser, kept), 1);
    assert_eq!(number(&mut client, "SELECT rejected FROM tally.redrive()"), 1);
    assert_eq!(number(&mut superuser, kept), 1);
    let reason = "SELECT count(*) FROM tally.quarantine WHERE reason = 'name is missing'";
    assert_eq!(number(&mut client, reason), 1);
    // Without a stream an id must be there.
    let query = "SELECT rejected FROM tally.ingest($1)";
    assert_eq!(client.query_one(query, &[&nameless.to_string()]).unwrap().get::<_, i64>(0), 1);
}

#[test]
fn what_is_rejected_without_an_id_is_redriven_with_the_streams() {
    let mut database = Database::new("stream_later");
    let role = tenant(&mut database, "w", "acme", None);
    let mut client = database.connect(&role);
    // Too far ahead, for some seconds.
    let time = "SELECT to_char((now() + interval '1 day 5 seconds') AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')";
    let time: String = client.query_one(time, &[]).unwrap().get(0);
    let head = format!(r#""tenant_id": "acme", "account_id": "n", "name": "a", "occurred_at": "{time}""#);
    let sent = [
        format!("{{{head}}}"),
        format!("{{{head}, \"event_id\": null}}"),
        format!(r#"{{"event\u005fid": null, {head}}}"#),
        format!("{{{head}, \"properties\": {{\"event_id\": \"evt_1\"}}}}"),
        format!("{{\"properties\": {{\"a\": [{{\"event_id\": 5}}]}}, {head}}}"),
        format!(r#"{{"user_id": "\"event_id\":", {head}}}"#),
    ];
    let text = format!("[{}]", sent.join(","));
    let options = at(5).to_string();
    let query = "SELECT rejected FROM tally.ingest($1, $2)";
    assert_eq!(client.query_one(query, &[&text, &options]).unwrap().get::<_, i64>(0), 6);
    let mut superuser = database.superuser();
    let waiting =
        "SELECT count(DISTINCT q.event_id) FROM tally.quarantine AS q, tally.find_event(q.event_id) AS f";
    assert_eq!(number(&mut client, waiting), 6);
    let were = "CREATE TABLE were AS SELECT event_id FROM tally.quarantine";
    superuser.batch_execute(were).unwrap();
    let mut accepted = 0;
    wait_for("the events to be no longer too far ahead", || {
        accepted += number(&mut client, "SELECT accepted FROM tally.redrive()");
        (accepted == 6).then_some(())
    });
    let stored = "SELECT count(*) FROM tally.events JOIN were USING (event_id)";
    assert_eq!(number(&mut superuser, stored), 6);
    // Sent again after a reset, they are duplicates.
    client.query("SELECT tally.reset_stream('orders-3', NULL)", &[]).unwrap();
    let query = "SELECT duplicates FROM tally.ingest($1, $2)";
    assert_eq!(client.query_one(query, &[&text, &options]).unwrap().get::<_, i64>(0), 6);
}

/// An event without an id, which says its number.
fn nameless(number: i64) -> Value {
    let mut event = event(1);
    event.as_object_mut().unwrap().remove("event_id");
    event["properties"] = json!({"number": number});
    event
}

#[test]
fn however_a_stream_is_cut_each_event_counts_once() {
    let mut database = Database::new("stream_cuts");
    let role = tenant(&mut database, "w", "acme", None);
    let mut client = database.connect(&role);
    let batch = |from: i64, to: i64| {
        (
            json!((from..=to).map(nameless).collect::<Vec<_>>()),
            json!({"stream": "s", "first": from, "position": to}),
        )
    };
    let mut deliver = |(events, options): (Value, Value)| {
        let (_, accepted, duplicates, _) = send(&mut client, &events, &options).unwrap();
        (accepted, duplicates)
    };
    assert_eq!(deliver(batch(1, 12)), (12, 0));
    // One thing of the stream may hold several events, and things without events lie between them.
    let listed = json!({"stream": "s", "first": 13, "positions": [13, 15, "15", [17, 19]], "position": 20});
    let several = json!([13, 150, 151, 17, 18, 19].map(nameless));
    assert_eq!(deliver((several.clone(), listed.clone())), (6, 0));
    for forget in [false, true] {
        let mut reset = database.connect(&role);
        let to = if forget { "NULL" } else { "0" };
        reset.execute(&format!("SELECT tally.reset_stream('s', {to})"), &[]).unwrap();
        for (from, to) in [(1, 1), (2, 6), (7, 11), (12, 12)] {
            assert_eq!(deliver(batch(from, to)), (0, to - from + 1), "{from} to {to}, forgotten: {forget}");
        }
        if forget {
            assert_eq!(deliver((several.clone(), listed.clone())), (0, 6));
            continue;
        }
        for (position, numbers) in
            [(13, vec![13]), (15, vec![150, 151]), (17, vec![17]), (18, vec![18]), (19, vec![19])]
        {
            let count = numbers.len() as i64;
            let events = json!(numbers.into_iter().map(nameless).collect::<Vec<_>>());
            assert_eq!(
                deliver((events, json!({"stream": "s", "position": position}))),
                (0, count),
                "{position}"
            );
        }
    }
    // Another stream's events are others.
    let (events, mut options) = batch(1, 12);
    options["stream"] = json!("t");
    assert_eq!(deliver((events, options)), (12, 0));
    // What doesn't say which event is where.
    for (events, options) in [
        (json!([nameless(1)]), json!({"stream": "u", "first": 1, "position": 2})),
        (json!([nameless(1), event(7), nameless(2)]), json!({"stream": "u", "first": 1, "position": 2})),
        (json!([nameless(1)]), json!({"stream": "u", "positions": [1, 2]})),
        (json!([event(7)]), json!({"stream": "u", "positions": [1, 2]})),
        (json!([event(7)]), json!({"stream": "u", "positions": [[1, 9_000_000_000_000_000_000_i64]]})),
        (json!([event(7), event(8)]), json!({"stream": "u", "positions": [2, 1]})),
        (json!([event(7)]), json!({"stream": "u", "positions": [2], "position": 1})),
        (json!([event(7)]), json!({"stream": "u", "positions": [2], "first": 3})),
        (json!([event(7)]), json!({"positions": [2]})),
        (json!([]), json!({"stream": "u", "positions": []})),
    ] {
        assert_eq!(code(send(&mut client, &events, &options)), "22023", "{options}");
    }
    let keyed = json!({"stream": "u", "first": 1, "position": 5});
    assert_eq!(send(&mut client, &json!([event(7), event(8)]), &keyed).unwrap().1, 2);
}

#[test]
fn payloads_in_a_stream_have_its_ids() {
    let mut database = Database::new("stream_payload");
    let role = tenant(&mut database, "w", "acme", None);
    let mut client = database.connect(&role);
    let define = r#"SELECT tally.define_mapping('m', 'posthog', '{"account": "/properties/company"}')"#;
    database.superuser().execute(define, &[]).unwrap();
    // Events that say the same, without a vendor's id; of one, nobody says whose it is.
    let same = json!({"event": "opened", "distinct_id": "ann", "timestamp": "2026-03-02T09:15:00Z", "properties": {"company": "north"}});
    let nobodys = json!({"event": "opened", "distinct_id": "ann", "timestamp": "2026-03-02T09:15:00Z"});
    let mut deliver = |events: &[&Value], options: &Value| {
        let payload = events.iter().map(|event| event.to_string()).collect::<Vec<_>>().join("\n");
        let query = "SELECT accepted, duplicates, rejected FROM tally.ingest_from('posthog', $1, 'm', $2)";
        let row = client.query_one(query, &[&payload, &options.to_string()])?;
        Ok::<[i64; 3], postgres::Error>([0, 1, 2].map(|column| row.get(column)))
    };
    let whole = json!({"stream": "p", "first": 1, "position": 4});
    assert_eq!(deliver(&[&same, &same, &nobodys, &same], &whole).unwrap(), [3, 0, 1]);
    assert_eq!(deliver(&[&same, &same], &json!({"stream": "p", "position": 5})).unwrap(), [2, 0, 0]);
    assert_eq!(code(deliver(&[&same, &same], &json!({"stream": "p", "first": 6, "position": 8}))), "22023");
    let mut reset = database.connect(&role);
    reset.execute("SELECT tally.reset_stream('p', 0)", &[]).unwrap();
    assert_eq!(deliver(&[&same], &json!({"stream": "p", "position": 1})).unwrap(), [0, 1, 0]);
    assert_eq!(
        deliver(&[&same, &nobodys], &json!({"stream": "p", "first": 2, "position": 3})).unwrap(),
        [0, 1, 1]
    );
    assert_eq!(
        deliver(&[&same, &same, &same], &json!({"stream": "p", "positions": [4, 5, 5]})).unwrap(),
        [0, 3, 0]
    );
    // What waited keeps the id of its place: it came twice, and counts once.
    let define = r#"SELECT tally.define_mapping('m', 'posthog', '{"account": ["/properties/company", {"value": "south"}]}')"#;
    database.superuser().execute(define, &[]).unwrap();
    let redriven = client.query_one("SELECT accepted, duplicates FROM tally.redrive()", &[]).unwrap();
    assert_eq!([redriven.get::<_, i64>(0), redriven.get::<_, i64>(1)], [1, 1]);
    assert_eq!(number(&mut client, "SELECT count(*) FROM tally.events"), 6);
}

#[test]
fn a_stream_belongs_to_its_tenant_account_and_login() {
    let mut database = Database::new("stream_scope");
    let acme = tenant(&mut database, "acme", "acme", None);
    let other = tenant(&mut database, "other", "acme", None);
    let north = tenant(&mut database, "north", "acme", Some("north"));
    let globex = tenant(&mut database, "globex", "globex", None);
    let relay = database.role("relay", &["tally_writer"]);
    let mut superuser = database.superuser();
    superuser.execute("SELECT tally.trust_role($1::text::regrole)", &[&relay]).unwrap();
    let mut sessions = [&acme, &globex, &north, &relay].map(|role| database.connect(role));
    for (number, client) in sessions.iter_mut().enumerate() {
        // Nobody sees how far another one's stream of this name is, or is kept back by it.
        assert_eq!(tally_server_tests::number(client, POSITION), -1);
        send(client, &json!([]), &at(10 - number as i64)).unwrap();
    }
    for (number, client) in sessions.iter_mut().enumerate() {
        assert_eq!(tally_server_tests::number(client, POSITION), 10 - number as i64);
    }
    let [acme_session, globex_session, north_session, _] = &mut sessions;
    assert_eq!(number(acme_session, "SELECT count(*) FROM tally.stream"), 2);
    assert_eq!(number(north_session, "SELECT count(*) FROM tally.stream"), 1);
    assert_eq!(number(globex_session, "SELECT count(*) FROM tally.stream"), 1);
    assert_eq!(code(globex_session.execute("UPDATE tally.stream SET position = 0", &[])), "42501");
    assert_eq!(
        code(globex_session.query("SELECT tally_internal.put_stream('acme', '', 'orders-3', 0)", &[])),
        "42501"
    );
    // Another login of the same tenant may not, unless it is made a member of the first.
    let mut other_session = database.connect(&other);
    assert_eq!(code(send(&mut other_session, &json!([]), &at(11))), "42501");
    assert_eq!(code(other_session.query("SELECT tally.reset_stream('orders-3', 0)", &[])), "42501");
    superuser.batch_execute(&format!("GRANT {acme} TO {other}")).unwrap();
    assert!(send(&mut other_session, &json!([]), &at(11)).unwrap().0);
    assert!(send(acme_session, &json!([]), &at(12)).unwrap().0);
    // Put back, and forgotten.
    assert_eq!(number(acme_session, "SELECT tally.reset_stream('orders-3', 3)"), 12);
    assert_eq!(number(acme_session, POSITION), 3);
    acme_session.execute("SELECT tally.reset_stream('orders-3', NULL)", &[]).unwrap();
    assert_eq!(number(acme_session, POSITION), -1);
    assert_eq!(number(&mut superuser, "SELECT count(*) FROM tally.audit WHERE act = 'stream_reset'"), 2);
}

#[test]
fn what_is_no_position_is_an_error() {
    let mut database = Database::new("stream_options");
    let role = tenant(&mut database, "w", "acme", None);
    let mut client = database.connect(&role);
    for options in [
        json!({"stream": "s"}),
        json!({"position": 1}),
        json!({"stream": "", "position": 1}),
        json!({"stream": "s", "position": -1}),
        json!({"stream": "s", "position": 1.5}),
        json!({"stream": "s", "position": "x"}),
        json!({"stream": "s", "position": "9223372036854775808"}),
        json!({"stream": "s", "position": 1, "first": 2}),
        json!({"stream": "s", "position": 1, "on_gap": "ignore"}),
        json!({"first": 1}),
        json!({"on_gap": "refuse"}),
    ] {
        assert_eq!(code(send(&mut client, &json!([]), &options)), "22023", "{options}");
    }
    let most = json!({"stream": "s", "position": i64::MAX});
    assert!(send(&mut client, &json!([]), &most).unwrap().0);
    assert!(!send(&mut client, &json!([]), &most).unwrap().0);
    // Not for a whole transaction, or for the pieces of a COPY.
    client.batch_execute(r#"SET tally.ingest_options = '{"stream": "s", "position": 1}'"#).unwrap();
    assert_eq!(code(client.query("SELECT * FROM tally.ingest('[]')", &[])), "22023");
    assert_eq!(code(client.execute("INSERT INTO tally.inbox (tenant_id) VALUES ('acme')", &[])), "22023");
    client.batch_execute("RESET tally.ingest_options").unwrap();
    // Typed events and payloads have streams, too.
    let typed = "SELECT accepted FROM tally.ingest_events(ARRAY[$1::text::tally.event], '{\"stream\": \"t\", \"position\": 1}'::text)";
    for accepted in [1, 0] {
        assert_eq!(client.query_one(typed, &[&event(1).to_string()]).unwrap().get::<_, i64>(0), accepted);
    }
    let payload =
        "SELECT accepted FROM tally.ingest_from('tally', $1, NULL, '{\"stream\": \"p\", \"position\": 1}')";
    for accepted in [1, 0] {
        assert_eq!(client.query_one(payload, &[&event(2).to_string()]).unwrap().get::<_, i64>(0), accepted);
    }
}

#[test]
fn sums_of_gaps_end_at_the_greatest_number() {
    let mut database = Database::new("stream_gaps");
    let role = tenant(&mut database, "w", "acme", None);
    let mut client = database.connect(&role);
    let missing = "SELECT missing FROM tally.stream";
    assert!(send(&mut client, &json!([]), &at(0)).unwrap().0);
    assert!(send(&mut client, &json!([]), &at(i64::MAX)).unwrap().0);
    assert_eq!(number(&mut client, missing), i64::MAX - 1);
    client.query("SELECT tally.reset_stream('orders-3', 1)", &[]).unwrap();
    for position in [3, 7, i64::MAX] {
        let (stored, _, _, details) = send(&mut client, &json!([]), &at(position)).unwrap();
        assert_eq!((stored, &details[0]["outcome"]), (true, &json!("gap")), "{position}");
        assert_eq!(number(&mut client, missing), i64::MAX);
    }
    database.superuser().batch_execute("UPDATE tally.stream SET gaps = 2147483646").unwrap();
    for position in [3, 7] {
        client.query("SELECT tally.reset_stream('orders-3', 1)", &[]).unwrap();
        assert!(send(&mut client, &json!([]), &at(position)).unwrap().0);
        assert_eq!(number(&mut client, "SELECT gaps::int8 FROM tally.stream"), 2_147_483_647);
    }
}

#[test]
fn an_event_that_waits_without_an_id_has_its_place_said_too() {
    let mut database = Database::new("stream_rejected_place");
    let role = tenant(&mut database, "w", "acme", None);
    let mut client = database.connect(&role);
    let three = json!({"stream": "orders-3", "first": 1, "position": 3});
    let mut wrong = nameless(1);
    wrong["occurred_at"] = json!("soon");
    let mut with_null = wrong.clone();
    with_null["event_id"] = Value::Null;
    for wrong in [&wrong, &with_null] {
        assert_eq!(code(send(&mut client, &json!([event(1), wrong]), &three)), "22023", "{wrong}");
    }
    assert_eq!(number(&mut client, "SELECT count(*) FROM tally.quarantine"), 0);
    assert_eq!(number(&mut client, POSITION), -1);
    // One that has an id of its own, or can't have any, takes none from the stream.
    let mut own = event(2);
    own["occurred_at"] = json!("soon");
    let mut bad = event(3);
    bad["event_id"] = json!("not a uuid");
    assert_eq!(send(&mut client, &json!([event(1), own, bad, 7]), &three).unwrap().1, 1);
    assert_eq!(number(&mut client, "SELECT count(*) FROM tally.quarantine"), 3);
    // Where each has its place, it waits with the stream's id.
    assert_eq!(
        send(
            &mut client,
            &json!([event(4), wrong]),
            &json!({"stream": "orders-3", "first": 4, "position": 5})
        )
        .unwrap()
        .1,
        1
    );
    let with_id = "SELECT count(*) FROM tally.quarantine WHERE batch_id = (SELECT max(batch_id) FROM tally.quarantine) AND event_id IS NOT NULL";
    assert_eq!(number(&mut client, with_id), 1);
    // Of payloads the same.
    let payload = "SELECT rejected FROM tally.ingest_from('posthog', $1, NULL, $2)";
    let nobodys =
        json!({"event": "opened", "distinct_id": "ann", "timestamp": "2026-03-02T09:15:00Z"}).to_string();
    let places = json!({"stream": "p", "first": 1, "position": 3}).to_string();
    assert_eq!(code(client.query_one(payload, &[&format!("{nobodys}\n{nobodys}"), &places])), "22023");
}
