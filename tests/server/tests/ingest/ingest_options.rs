//! What a caller may ask of an ingest call, and what its batch remembers of where it came from.

use postgres::{Client, Error};
use serde_json::{Value, json};
use std::io::Write;
use tally_server_tests::{Database, PrivateServer, ingest};

fn event(id: u32, name: &str) -> Value {
    json!({
        "tenant_id": "acme", "account_id": "north", "name": name, "occurred_at": "2026-03-02T09:15:00Z",
        "event_id": format!("00000000-0000-4000-8000-{id:012}")
    })
}

fn array(events: &[Value]) -> String {
    Value::Array(events.to_vec()).to_string()
}

/// accepted, duplicates, conflicts, rejected.
fn with_options(client: &mut Client, events: &str, options: &Value) -> Result<(i64, i64, i64, i64), Error> {
    let query =
        "SELECT accepted, duplicates, conflicts, rejected FROM tally.ingest($1::text, $2::text::jsonb)";
    let row = client.query_one(query, &[&events, &options.to_string()])?;
    Ok((row.get(0), row.get(1), row.get(2), row.get(3)))
}

fn sqlstate(error: Error) -> String {
    error.as_db_error().unwrap_or_else(|| panic!("{error}")).code().code().to_owned()
}

fn stored(client: &mut Client) -> (i64, i64, i64) {
    let row = client
        .query_one(
            "SELECT (SELECT count(*) FROM tally.events), (SELECT count(*) FROM tally.quarantine),
                    (SELECT count(*) FROM tally.ingest_batch)",
            &[],
        )
        .unwrap();
    (row.get(0), row.get(1), row.get(2))
}

#[test]
fn all_or_nothing_stores_all_or_nothing() {
    let database = Database::new("all_or_nothing");
    let mut client = database.superuser();
    let options = json!({"all_or_nothing": true});
    assert_eq!(
        with_options(&mut client, &array(&[event(1, "a"), event(2, "a")]), &options).unwrap(),
        (2, 0, 0, 0)
    );
    let mut bad = event(4, "a");
    bad["occurred_at"] = json!("yesterday");
    let before = stored(&mut client);
    for (batch, wanted) in [
        (vec![event(3, "a"), bad], "22007"),
        (vec![event(3, "a"), event(1, "other")], "23505"),
        (vec![event(3, "a"), event(3, "other")], "23505"),
    ] {
        let error = with_options(&mut client, &array(&batch), &options).unwrap_err();
        let details = error.as_db_error().unwrap();
        assert!(details.message().starts_with("event 1 (event_id 0000"), "{details:?}");
        assert!(details.hint().unwrap().contains("nothing of this batch was stored"));
        assert_eq!(sqlstate(error), wanted);
        assert_eq!(stored(&mut client), before);
    }
    // A retry is no fault.
    assert_eq!(
        with_options(&mut client, &array(&[event(3, "a"), event(1, "a")]), &options).unwrap(),
        (1, 1, 0, 0)
    );
}

#[test]
fn a_conflict_waits_is_ignored_or_is_an_error() {
    let database = Database::new("on_conflict");
    let mut client = database.superuser();
    let batch = array(&[event(1, "other"), event(2, "a"), json!({"bad": 1})]);
    ingest(&mut client, &event(1, "a").to_string()).unwrap();
    let error = with_options(&mut client, &batch, &json!({"on_conflict": "error"})).unwrap_err();
    assert_eq!(sqlstate(error), "23505");
    assert_eq!(stored(&mut client), (1, 0, 1));
    assert_eq!(with_options(&mut client, &batch, &json!({"on_conflict": "ignore"})).unwrap(), (1, 0, 1, 1));
    assert_eq!(stored(&mut client).1, 1, "the bad event alone");
    assert_eq!(
        with_options(&mut client, &batch, &json!({"on_conflict": "quarantine"})).unwrap(),
        (0, 1, 1, 1)
    );
    assert_eq!(stored(&mut client).1, 3);
    assert_eq!(with_options(&mut client, &batch, &json!({})).unwrap(), (0, 1, 1, 1));

    // The setting serves every door; the argument's keys come before its own.
    client
        .batch_execute(r#"SET tally.ingest_options = '{"on_conflict": "error", "source": "etl"}'"#)
        .unwrap();
    assert_eq!(sqlstate(ingest(&mut client, &batch).unwrap_err()), "23505");
    assert_eq!(with_options(&mut client, &batch, &json!({"on_conflict": "ignore"})).unwrap(), (0, 1, 1, 1));
    let typed =
        format!("SELECT conflicts FROM tally.ingest_events(ARRAY['{}']::tally.event[])", event(1, "other"));
    assert_eq!(sqlstate(client.query(&typed, &[]).unwrap_err()), "23505");
    let mut copy = client.copy_in("COPY tally.inbox FROM STDIN (FORMAT csv)").unwrap();
    copy.write_all(b"acme,north,other,2026-03-02T09:15:00Z,00000000-0000-4000-8000-000000000001,,,\n")
        .unwrap();
    assert_eq!(sqlstate(copy.finish().unwrap_err()), "23505");
    client.batch_execute("RESET tally.ingest_options").unwrap();
    assert_eq!(ingest(&mut client, &batch).unwrap().conflicts, 1);
}

#[test]
fn options_that_are_none_are_errors() {
    let database = Database::new("bad_options");
    let mut client = database.superuser();
    for options in [
        json!([]),
        json!("all_or_nothing"),
        json!({"all_or_nothing": "yes"}),
        json!({"on_conflict": "overwrite"}),
        json!({"onconflict": "ignore"}),
        json!({"source": ""}),
        json!({"client": "a\nb"}),
    ] {
        let error = with_options(&mut client, &event(1, "a").to_string(), &options).unwrap_err();
        assert!(error.as_db_error().unwrap().hint().is_some());
        assert_eq!(sqlstate(error), "22023", "{options}");
    }
    client.batch_execute("SET tally.ingest_options = '{'").unwrap();
    assert_eq!(sqlstate(ingest(&mut client, &event(1, "a").to_string()).unwrap_err()), "22023");
    // Refused before it is parsed, which would take gigabytes.
    client.batch_execute("RESET tally.ingest_options").unwrap();
    for endless in ["'[' || repeat('1,', 100000000) || '1]'", "repeat('{\"source\":', 50000)"] {
        let error =
            client.batch_execute(&format!("SELECT * FROM tally.ingest('[]', {endless})")).unwrap_err();
        let error = error.as_db_error().unwrap();
        assert!(error.code().code() == "22023" && error.message().contains("bytes"), "{error:?}");
    }
    assert_eq!(stored(&mut client), (0, 0, 0));
}

#[test]
fn every_parameter_style_resolves_with_options() {
    let database = Database::new("option_styles");
    let mut client = database.superuser();
    let statement = client.prepare("SELECT accepted FROM tally.ingest($1, $2)").unwrap();
    let types: Vec<&str> = statement.params().iter().map(|kind| kind.name()).collect();
    assert_eq!(types, ["text", "text"]);
    for (id, cast) in [(1, ""), (2, "::text"), (3, "::json"), (4, "::jsonb"), (5, "::varchar")] {
        let query =
            format!("SELECT accepted FROM tally.ingest('{}'{cast}, '{{\"source\": \"s\"}}')", event(id, "a"));
        assert_eq!(client.query_one(&query, &[]).unwrap().get::<_, i64>(0), 1, "{cast}");
    }
    let query = format!(
        "SELECT accepted, duplicates, rejected FROM tally.ingest_events(ARRAY['{}', '{}', NULL]::tally.event[], '{{\"source\": \"typed\"}}')",
        event(5, "a"),
        event(6, "a")
    );
    let row = client.query_one(&query, &[]).unwrap();
    assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1), row.get::<_, i64>(2)), (1, 1, 1));
    let sources: i64 = client
        .query_one(
            "SELECT count(DISTINCT batch_id) FROM tally.ingest_batch WHERE source IN ('s', 'typed')",
            &[],
        )
        .unwrap()
        .get(0);
    assert_eq!(sources, 6);
}

#[test]
fn the_typed_door_holds_events_to_the_limits_of_now() {
    let database = Database::new("typed_limits");
    let mut client = database.superuser();
    // The type takes what ingest doesn't: a time long ago, and large properties.
    let mut old = event(1, "a");
    old["occurred_at"] = json!("1950-01-01T00:00:00Z");
    let mut large = event(2, "a");
    large["properties"] = json!({"text": "x".repeat(100_000)});
    let query = "SELECT accepted, rejected FROM tally.ingest_events(ARRAY[$1::text::tally.event, $2::text::tally.event, $3::text::tally.event])";
    let row =
        client.query_one(query, &[&old.to_string(), &large.to_string(), &event(3, "a").to_string()]).unwrap();
    assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1)), (1, 2));
    let kept: Vec<(String, Value)> = client
        .query("SELECT sqlstate, body FROM tally.quarantine ORDER BY position", &[])
        .unwrap()
        .iter()
        .map(|row| (row.get(0), serde_json::from_str(row.get(1)).unwrap()))
        .collect();
    assert_eq!(kept[0], ("22008".to_owned(), old));
    assert_eq!(kept[1], ("54000".to_owned(), large));
    // A conflict keeps its text, too, though this door has none.
    let query = "SELECT conflicts FROM tally.ingest_events(ARRAY[$1::text::tally.event])";
    assert_eq!(client.query_one(query, &[&event(3, "b").to_string()]).unwrap().get::<_, i64>(0), 1);
    let body: String =
        client.query_one("SELECT body FROM tally.quarantine WHERE outcome = 'conflict'", &[]).unwrap().get(0);
    assert_eq!(serde_json::from_str::<Value>(&body).unwrap(), event(3, "b"));
}

#[test]
fn a_batch_says_where_it_came_from() {
    let mut database = Database::new("lineage");
    let writer = database.role("writer", &["tally_writer", "tally_reader"]);
    database.superuser().execute("SELECT tally.bind_role($1::text::regrole, 'acme')", &[&writer]).unwrap();
    let mut config = database.config(&writer);
    let mut client = config.application_name("shop 2.1").connect(postgres::NoTls).unwrap();
    let header = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let options = json!({"source": "checkout", "traceparent": header});
    with_options(&mut client, &event(1, "a").to_string(), &options).unwrap();
    with_options(
        &mut client,
        &event(2, "a").to_string(),
        &json!({"client": "relay", "traceparent": "00-nonsense"}),
    )
    .unwrap();
    client.batch_execute("SET tally.ingest_options = '{\"source\": \"etl\"}'").unwrap();
    client
        .batch_execute(
            "INSERT INTO tally.inbox VALUES ('acme', 'north', 'a', '2026-03-02T09:15:00Z', '00000000-0000-4000-8000-000000000003')",
        )
        .unwrap();
    let lineage: Vec<String> = client
        .query(
            "SELECT concat_ws('|', b.caller = session_user, b.source, b.client, b.trace_id, b.span_id)
             FROM tally.events AS e JOIN tally.ingest_batch AS b USING (tenant_id, batch_id) ORDER BY e.event_id",
            &[],
        )
        .unwrap()
        .iter()
        .map(|row| row.get(0))
        .collect();
    assert_eq!(
        lineage,
        [
            "t|checkout|shop 2.1|4bf92f3577b34da6a3ce929d0e0e4736|00f067aa0ba902b7",
            "t|relay",
            "t|etl|shop 2.1"
        ]
    );
}

#[test]
fn options_that_one_client_of_a_pool_left_keep_the_next_ones_scope_out() {
    let mut database = Database::new("left_options");
    let pool = database.role("pool", &["tally_writer"]);
    database.superuser().execute("SELECT tally.trust_role($1::text::regrole)", &[&pool]).unwrap();
    let mut client = database.connect(&pool);
    client
        .batch_execute(r#"BEGIN; SET LOCAL tally.ingest_options = '{"on_conflict": "ignore"}'; COMMIT"#)
        .unwrap();
    client.batch_execute("BEGIN; SELECT tally.enter('acme'); COMMIT").unwrap();
    client.batch_execute(r#"SET tally.ingest_options = '{"on_conflict": "ignore"}'"#).unwrap();
    let error = client.batch_execute("BEGIN; SELECT tally.enter('acme'); COMMIT").unwrap_err();
    assert_eq!(sqlstate(error), "42501");
    for statement in ["ROLLBACK", "DISCARD ALL", "BEGIN; SELECT tally.enter('acme'); COMMIT"] {
        client.batch_execute(statement).unwrap();
    }
}

/// The fields of the log's lines about an event of ours, as docs/runbooks/install.md lists them.
fn logged(server: &PrivateServer, event: &str) -> Vec<String> {
    let start = format!("pg_tally event={event} ");
    server
        .log()
        .lines()
        .filter_map(|line| line.split_once(&start).map(|(_, fields)| fields.to_owned()))
        .collect()
}

#[test]
fn the_log_leads_from_a_trace_to_its_call() {
    let server = PrivateServer::create("trail", "");
    let mut client = server.connect("postgres", "postgres");
    client.batch_execute("CREATE EXTENSION pg_tally; SELECT tally.open_months('-infinity'); SET application_name = 'a \"b\" event=c'").unwrap();
    let call = |client: &mut Client, trace: char, events: &str| {
        let traceparent = format!("00-{}-00f067aa0ba902b7-01", trace.to_string().repeat(32));
        with_options(client, events, &json!({"traceparent": traceparent, "source": "web"}))
    };
    let from = |trace: char| {
        format!(
            r#"caller="postgres" source="web" client="a \"b\" event=c" trace_id="{}" span_id="00f067aa0ba902b7""#,
            trace.to_string().repeat(32)
        )
    };
    // A batch that went well is told of only where DEBUG1 is wanted.
    call(&mut client, '1', &array(&[event(1, "a")])).unwrap();
    assert_eq!(logged(&server, "ingest_stored"), Vec::<String>::new());
    client.batch_execute("SET log_min_messages = debug1").unwrap();
    call(&mut client, '2', &array(&[event(2, "a")])).unwrap();
    client.batch_execute("RESET log_min_messages").unwrap();
    call(&mut client, '3', &array(&[event(2, "a"), event(2, "b"), event(3, "a")])).unwrap();
    // Not the greatest: ids of one millisecond are in no order.
    let of_trace = "SELECT batch_id FROM tally.ingest_batch WHERE trace_id = repeat('3', 32)";
    let batch: i64 = client.query_one(of_trace, &[]).unwrap().get(0);
    let lines = logged(&server, "ingest_stored");
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(
        lines[0].ends_with(&format!("accepted=1 duplicates=0 conflicts=0 rejected=0 {}", from('2'))),
        "{lines:?}"
    );
    assert_eq!(
        lines[1],
        format!("batch_id={batch} accepted=1 duplicates=1 conflicts=1 rejected=0 {}", from('3'))
    );

    // Whatever fails: text that is no JSON, an option, a statement that Postgres ends.
    call(&mut client, '4', "[{").unwrap_err();
    let whole = json!({"all_or_nothing": true, "source": "line\u{2028}break", "client": "c"});
    with_options(&mut client, &array(&[event(9, "a"), event(2, "b")]), &whole).unwrap_err();
    client.batch_execute("BEGIN READ WRITE; LOCK TABLE tally.events").unwrap();
    let mut other = server.connect("postgres", "postgres");
    other.batch_execute("SET lock_timeout = '50ms'; SET application_name = 'other'").unwrap();
    let error = call(&mut other, '5', &array(&[event(10, "a")])).unwrap_err();
    assert_eq!(sqlstate(error), "55P03");
    client.batch_execute("ROLLBACK").unwrap();
    let lines = logged(&server, "ingest_failed");
    assert_eq!(lines.len(), 3, "{lines:?}");
    assert!(lines[0].starts_with("problem=\"") && lines[0].ends_with(&from('4')), "{lines:?}");
    assert!(
        lines[1].starts_with("problem=\"event 1 (event_id 00000000-0000-4000-8000-000000000002): conflict")
            && lines[1].ends_with("caller=\"postgres\" source=\"line\u{2028}break\" client=\"c\""),
        "{lines:?}"
    );
    assert!(
        lines[2].starts_with("problem=\"canceling statement due to lock timeout\"")
            && lines[2].contains("trace_id=\"5555"),
        "{lines:?}"
    );
}

#[test]
fn a_position_that_is_none_is_told_in_words() {
    let database = Database::new("options_position");
    let mut client = database.superuser();
    let wanted = "is not a whole number from 0 to 9223372036854775807";
    for options in [
        json!({"stream": "s", "position": 1.5}),
        json!({"stream": "s", "position": -1}),
        json!({"stream": "s", "position": true}),
        json!({"stream": "s", "position": "one"}),
        json!({"stream": "s", "position": 9_223_372_036_854_775_808u64}),
        json!({"stream": "s", "first": [1], "position": 2}),
        json!({"stream": "s", "positions": [1.5]}),
        json!({"stream": "s", "positions": [null]}),
        json!({"stream": "s", "positions": [[1, 2, 3]]}),
        json!({"stream": "s", "positions": [[1, {"to": 2}]]}),
    ] {
        let error = with_options(&mut client, "[]", &options).unwrap_err();
        let error = error.as_db_error().unwrap();
        assert_eq!(error.code().code(), "22023", "{options}");
        assert!(error.message().contains(wanted), "{options}: {}", error.message());
        assert!(error.hint().is_some(), "{options}");
    }
}
