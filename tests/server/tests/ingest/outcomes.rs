//! What becomes of good, repeated, conflicting and bad events: nothing is lost, and one never spoils another.

use postgres::types::Json;
use serde_json::{Value, json};
use tally_server_tests::{Database, Summary, ingest};

fn event(id: u32) -> Value {
    json!({
        "tenant_id": "acme", "account_id": "north", "user_id": "ann", "name": "report.run",
        "event_id": format!("00000000-0000-4000-8000-{id:012}"), "occurred_at": "2026-03-02T09:15:00Z",
        "properties": {"value": id}
    })
}

/// An event whose text is that of `event(id)` with `from` replaced by `to`: for what `json!` can't express.
fn bent(id: u32, from: &str, to: &str) -> String {
    let text = event(id).to_string();
    assert!(text.contains(from), "{from} is not in {text}");
    text.replace(from, to)
}

/// Text of a bad event and the SQLSTATE that it must be rejected with.
fn bad_events() -> Vec<(String, &'static str)> {
    let value = |id: u32| format!("\"value\":{id}");
    let mut bad = vec![
        (bent(1, "\"tenant_id\":\"acme\",", ""), "23502"),
        (bent(2, "\"acme\"", "\"\""), "22023"),
        (bent(3, "\"acme\"", "null"), "23502"),
        (bent(4, "\"acme\"", "7"), "22023"),
        (bent(5, "\"north\"", r#""a\u0007b""#), "22021"),
        (bent(6, "\"north\"", "\"a\u{85}b\""), "22021"),
        (bent(7, "\"north\"", &format!("\"{}\"", "x".repeat(201))), "22001"),
        (bent(8, "00000000-0000", "zzzzzzzz-0000"), "22P02"),
        (bent(9, "2026-03-02T09:15:00Z", "yesterday"), "22007"),
        (bent(10, "2026-03-02T09:15:00Z", "2026-03-02T09:15:00"), "22007"),
        (bent(11, "2026-03-02T09:15:00Z", "infinity"), "22008"),
        (bent(12, "2026-03-02T09:15:00Z", "2026-02-30T09:15:00Z"), "22008"),
        (bent(13, "2026-03-02T09:15:00Z", "2999-03-02T09:15:00Z"), "22008"),
        (bent(14, "2026-03-02T09:15:00Z", "1969-12-31T23:59:59Z"), "22008"),
        (bent(15, &value(15), &format!("\"value\":\"{}\"", "x".repeat(1 << 20))), "54000"),
        (bent(16, &value(16), r#""value":"a\u0000b""#), "22P05"),
        (bent(17, &value(17), r#""value":"\ud800""#), "22P05"),
        (bent(18, &value(18), &format!("\"value\":{}1{}", "[".repeat(500), "]".repeat(500))), "54000"),
        (bent(19, &value(19), "\"value\":1,\"value\":2"), "22030"),
        (bent(20, "\"name\":\"report.run\"", "\"name\":\"report.run\",\"name\":\"x\""), "22030"),
        (bent(21, "\"name\":\"report.run\"", "\"name\":\"report.run\",\"nmae\":\"x\""), "22023"),
        (bent(22, &value(22), "\"value\":NaN"), "22P02"),
        (bent(23, &value(23), "\"value\":1e999999"), "22003"),
        (bent(24, "{\"value\":24}", "[1]"), "22023"),
    ];
    bad.extend(["5", "null", "\"text\"", "[1, 2]", "true"].map(|text| (text.to_owned(), "22023")));
    bad
}

#[test]
fn a_batch_of_a_thousand_keeps_the_good_and_quarantines_the_bad() {
    let mut database = Database::new("bad_batch");
    let writer = database.role("writer", &["tally_writer", "tally_analyst"]);
    database.superuser().execute("SELECT tally.trust_role($1::text::regrole)", &[&writer]).unwrap();

    let bad = bad_events();
    let mut texts: Vec<String> = (1_000..2_000 - bad.len() as u32).map(|id| event(id).to_string()).collect();
    for (place, (text, _)) in bad.iter().enumerate() {
        texts.insert(place * 30, text.clone());
    }
    assert_eq!(texts.len(), 1_000);
    let mut client = database.connect(&writer);
    let summary = ingest(&mut client, &format!("[{}]", texts.join(","))).unwrap();
    assert_eq!(
        (summary.accepted, summary.duplicates),
        (1_000 - bad.len() as i64, 0),
        "{:?}",
        summary.details
    );
    assert_eq!((summary.conflicts, summary.rejected), (0, bad.len() as i64));

    let mut transaction = client.transaction().unwrap();
    transaction.execute("SELECT tally.enter_global()", &[]).unwrap();
    let stored: i64 = transaction.query_one("SELECT count(*) FROM tally.events", &[]).unwrap().get(0);
    assert_eq!(stored, summary.accepted);
    let quarantined = transaction
        .query("SELECT position, sqlstate, reason, body FROM tally.quarantine ORDER BY position", &[])
        .unwrap();
    assert_eq!(quarantined.len(), bad.len());
    for (row, (place, (text, sqlstate))) in quarantined.iter().zip(bad.iter().enumerate()) {
        let (position, reason): (i32, &str) = (row.get(0), row.get(2));
        assert_eq!(position, place as i32 * 30);
        assert_eq!(row.get::<_, &str>(1), *sqlstate, "{reason}: {}", &text[..text.len().min(300)]);
        assert!(!reason.is_empty() && !reason.ends_with('.'));
        assert_eq!(row.get::<_, &str>(3), text, "the whole text is kept");
    }
    // The same again: the good are duplicates, the bad are rejected and kept again, under another batch.
    drop(transaction);
    let again = ingest(&mut client, &format!("[{}]", texts.join(","))).unwrap();
    assert_eq!((again.accepted, again.duplicates, again.rejected), (0, summary.accepted, summary.rejected));
}

#[test]
fn a_text_that_cannot_be_split_stores_nothing() {
    let database = Database::new("unsplit");
    let mut client = database.superuser();
    for (text, sqlstate) in [
        (format!("[{},", event(1)), "22032"),
        (format!("[{}]]", event(1)), "22032"),
        ("".to_owned(), "22032"),
        ("5".to_owned(), "22032"),
        (format!("[{}, {{\"a\":\"open]", event(1)), "22032"),
    ] {
        let error = ingest(&mut client, &text).unwrap_err();
        let error = error.as_db_error().unwrap();
        assert_eq!(error.code().code(), sqlstate, "{text}: {error:?}");
        assert!(error.hint().is_some());
    }
    let stored: i64 = client.query_one("SELECT count(*) FROM tally.event_key", &[]).unwrap().get(0);
    assert_eq!(stored, 0);
    let empty = ingest(&mut client, "[]").unwrap();
    assert_eq!(empty.sent(), 0);
}

#[test]
fn same_key_with_other_content_is_a_conflict_and_another_tenant_is_another_event() {
    let database = Database::new("conflict");
    let mut client = database.superuser();
    let outcome =
        |summary: Summary| (summary.accepted, summary.duplicates, summary.conflicts, summary.rejected);
    let first = event(1);
    assert_eq!(outcome(ingest(&mut client, &first.to_string()).unwrap()), (1, 0, 0, 0));
    // Other spelling, same content.
    let spelled =
        bent(1, "{\"value\":1}", "{ \"value\" : 10e-1 }").replace("09:15:00Z", "10:15:00.000+01:00");
    assert_eq!(outcome(ingest(&mut client, &spelled).unwrap()), (0, 1, 0, 0));

    for change in [
        ("account_id", json!("south")),
        ("name", json!("other")),
        ("user_id", json!("bob")),
        ("user_id", Value::Null),
        ("session_id", json!("s1")),
        ("occurred_at", json!("2026-03-02T09:15:00.000001Z")),
        ("properties", json!({"value": 2})),
        ("properties", json!({})),
    ] {
        let mut other = first.clone();
        other[change.0] = change.1;
        assert_eq!(outcome(ingest(&mut client, &other.to_string()).unwrap()), (0, 0, 1, 0), "{other}");
        let kept: String = client
            .query_one("SELECT body FROM tally.quarantine ORDER BY quarantined_at DESC LIMIT 1", &[])
            .unwrap()
            .get(0);
        assert_eq!(kept, other.to_string());
    }
    let row = client.query_one("SELECT account_id, properties FROM tally.events", &[]).unwrap();
    assert_eq!(row.get::<_, &str>(0), "north");
    assert_eq!(row.get::<_, Json<Value>>(1).0, json!({"value": 1}));

    let mut elsewhere = first.clone();
    elsewhere["tenant_id"] = json!("globex");
    assert_eq!(outcome(ingest(&mut client, &elsewhere.to_string()).unwrap()), (1, 0, 0, 0));
    // Within one batch: the first of a key counts, equal ones are duplicates, unequal ones conflicts.
    let batch = json!([event(2), event(2), {"a": 1}, first, elsewhere]).to_string();
    assert_eq!(outcome(ingest(&mut client, &batch).unwrap()), (1, 3, 0, 1));
    // A repeat is judged against what is stored, not against the batch's first.
    let mut other = first.clone();
    other["name"] = json!("other");
    let batch = json!([other, first]).to_string();
    assert_eq!(outcome(ingest(&mut client, &batch).unwrap()), (0, 1, 1, 0));
}

#[test]
fn every_parameter_style_resolves() {
    let database = Database::new("styles");
    let mut client = database.superuser();
    let quoted = |id: u32| event(id).to_string();
    // psql: an untyped literal; then literals with a cast.
    for (id, cast) in [(1, ""), (2, "::text"), (3, "::json"), (4, "::jsonb"), (5, "::varchar")] {
        let query = format!("SELECT accepted FROM tally.ingest('{}'{cast})", quoted(id));
        assert_eq!(client.query_one(&query, &[]).unwrap().get::<_, i64>(0), 1, "{cast}");
    }
    // libpq, node-postgres, psycopg: a parameter whose type the server chooses. It chooses text.
    let statement = client.prepare("SELECT accepted FROM tally.ingest($1)").unwrap();
    assert_eq!(statement.params()[0].name(), "text");
    assert_eq!(client.query_one(&statement, &[&quoted(6)]).unwrap().get::<_, i64>(0), 1);
    // JDBC's setString declares varchar; drivers with JSON types declare json or jsonb.
    for (id, kind) in [(7, "varchar"), (8, "json"), (9, "jsonb"), (10, "text"), (11, "unknown")] {
        client
            .batch_execute(&format!("PREPARE s ({kind}) AS SELECT accepted FROM tally.ingest($1)"))
            .unwrap();
        let query = format!("EXECUTE s ('{}')", quoted(id));
        let messages = client.simple_query(&query).unwrap();
        let accepted = messages.iter().find_map(|message| match message {
            postgres::SimpleQueryMessage::Row(row) => row.get(0),
            _ => None,
        });
        assert_eq!(accepted, Some("1"), "{kind}");
        client.batch_execute("DEALLOCATE s").unwrap();
    }
    // The typed door.
    let query = format!(
        "SELECT accepted, duplicates FROM tally.ingest_events(ARRAY['{}', '{}']::tally.event[])",
        quoted(11),
        quoted(12)
    );
    let row = client.query_one(&query, &[]).unwrap();
    assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1)), (1, 1));
}

#[test]
fn a_rollup_that_cannot_take_an_event_rejects_that_event_alone() {
    let database = Database::new("unevaluable");
    let mut client = database.superuser();
    client
        .batch_execute(
            "SELECT tally.create_rollup('money', grains => '{day}',
               measures => ARRAY[$$sum((properties->>'amount')::numeric) AS amount$$])",
        )
        .unwrap();
    let with_amount = |id: u32, amount: Value| {
        let mut event = event(id);
        event["properties"] = json!({"amount": amount});
        event
    };
    let batch = json!([
        with_amount(1, json!("12.50")),
        with_amount(2, json!("abc")),
        with_amount(2, json!("7.50")),
        with_amount(3, json!("NaN")),
        with_amount(4, json!(1)),
        event(5),
    ]);
    let summary = ingest(&mut client, &batch.to_string()).unwrap();
    assert_eq!((summary.accepted, summary.rejected, summary.duplicates, summary.conflicts), (4, 2, 0, 0));
    let reasons: Vec<String> = client
        .query("SELECT sqlstate || ' ' || reason FROM tally.quarantine ORDER BY position", &[])
        .unwrap()
        .iter()
        .map(|row| row.get(0))
        .collect();
    assert_eq!(reasons[0], "22P02 rollup \"money\": invalid input syntax for type numeric: \"abc\"");
    assert_eq!(
        reasons[1],
        "22003 rollup \"money\": amount is not a finite number of at most 1000 digits before its point and 1000 after it"
    );
    let total: String =
        client.query_one("SELECT sum(amount)::text FROM tally.money_day", &[]).unwrap().get(0);
    assert_eq!(total, "21.00");
}

#[test]
fn a_batch_over_a_limit_is_told_what_helps() {
    let database = Database::new("too_large");
    let mut client = database.superuser();
    client.batch_execute("LOAD 'pg_tally'; SET tally.batch_max_events = 2").unwrap();
    let mut hint = |statement: &str| {
        let error = client.batch_execute(statement).unwrap_err();
        let error = error.as_db_error().unwrap();
        assert_eq!(error.code().code(), "54000", "{}", error.message());
        error.hint().unwrap().to_owned()
    };
    let setting = "tally.batch_max_events";
    for events in [
        "SELECT tally.ingest('[{},{},{}]')",
        "SELECT tally.ingest_events(ARRAY[NULL, NULL, NULL]::tally.event[])",
        "SELECT tally.ingest_from('segment', '[{},{},{}]')",
    ] {
        let hint = hint(events);
        assert!(hint.contains("fewer events") && hint.contains(setting), "{events}: {hint}");
    }
    // No setting allows more bytes.
    for bytes in [
        "SELECT tally.ingest(repeat(' ', 67108865))",
        "SELECT tally.ingest_from('segment', repeat(' ', 67108865))",
        "INSERT INTO tally.inbox (tenant_id, properties) SELECT 'a', to_json(repeat('x', 67108865))::text::jsonb",
    ] {
        let hint = hint(bytes);
        assert!(hint.contains("smaller pieces") && !hint.contains(setting), "{bytes}: {hint}");
    }
}
