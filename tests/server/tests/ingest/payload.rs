//! Payloads of other systems, from `tally.ingest_from` to numbers: mappings, scopes, exactly once, quarantine, redrive, files.

use postgres::Client;
use serde_json::{Value, json};
use std::io::Write;
use std::path::Path;
use std::process::Command;
use tally_server_tests::{Database, bin_and_sockets, code, number, skip};

/// accepted, duplicates, conflicts, rejected; and the details.
type Answer = ([i64; 4], Value);

fn send(
    client: &mut Client,
    format: &str,
    payload: &str,
    mapping: Option<&str>,
) -> Result<Answer, postgres::Error> {
    let query =
        "SELECT accepted, duplicates, conflicts, rejected, details::text FROM tally.ingest_from($1, $2, $3)";
    let row = client.query_one(query, &[&format, &payload, &mapping])?;
    let details = row.get::<_, Option<String>>(4).map(|text| serde_json::from_str(&text).unwrap());
    Ok(([row.get(0), row.get(1), row.get(2), row.get(3)], details.unwrap_or(Value::Null)))
}

fn sqlstate<T: std::fmt::Debug>(answer: Result<T, postgres::Error>) -> String {
    answer.unwrap_err().code().unwrap().code().to_owned()
}

fn define(client: &mut Client, name: &str, format: &str, mapping: &Value) -> i32 {
    let query = "SELECT tally.define_mapping($1, $2, $3::text::jsonb)";
    client.query_one(query, &[&name, &format, &mapping.to_string()]).unwrap().get(0)
}

fn track(id: &str, event: &str, group: &str) -> Value {
    json!({"type": "track", "event": event, "messageId": id, "userId": "ann", "timestamp": "2026-03-02T09:15:00Z",
           "context": {"groupId": group}, "properties": {"value": 5}})
}

fn writer(database: &mut Database, tenant: &str) -> String {
    let role = database.role(&format!("w_{tenant}"), &["tally_writer", "tally_reader"]);
    let bind = "SELECT tally.bind_role($1::text::regrole, $2)";
    database.superuser().execute(bind, &[&role, &tenant]).unwrap();
    role
}

#[test]
fn a_payload_counts_once_and_reaches_the_rollups() {
    let mut database = Database::new("payload");
    let role = writer(&mut database, "acme");
    let mut client = database.connect(&role);
    let batch = json!({"batch": [track("m-1", "Order Completed", "north"), track("m-2", "Order Completed", "south")]});
    let sent = send(&mut client, "segment", &batch.to_string(), None).unwrap();
    assert_eq!(sent, ([2, 0, 0, 0], json!([])));
    assert_eq!(send(&mut client, "segment", &batch.to_string(), None).unwrap().0, [0, 2, 0, 0]);
    // The same message with other content.
    let other = track("m-1", "Order Cancelled", "north").to_string();
    assert_eq!(send(&mut client, "segment", &other, None).unwrap().0, [0, 0, 1, 0]);
    let usage = "SELECT sum(events)::int8 FROM tally.usage_day WHERE account_id = 'north' AND name = 'Order Completed'";
    assert_eq!(number(&mut client, usage), 1);
    let found =
        "SELECT count(*) FROM tally.find_event(tally.event_id('segment:m-1')) WHERE outcome = 'accepted'";
    assert_eq!(number(&mut client, found), 1);
    let source = "SELECT count(*) FROM tally.ingest_batch WHERE source = 'segment'";
    assert_eq!(number(&mut client, source), 3);
    for payload in ["json", "jsonb"] {
        let query = format!(
            "SELECT duplicates FROM tally.ingest_from('segment', $1::text::{payload}, NULL, '{{\"source\": \"mine\"}}'::jsonb)"
        );
        assert_eq!(client.query_one(&query, &[&batch.to_string()]).unwrap().get::<_, i64>(0), 2);
    }
    assert_eq!(number(&mut client, "SELECT count(*) FROM tally.ingest_batch WHERE source = 'mine'"), 2);
}

#[test]
fn a_mapping_is_declared_in_versions_and_says_where_tenant_and_account_are() {
    let mut database = Database::new("mapping");
    let admin = database.role("admin", &["tally_admin"]);
    let relay = database.role("relay", &["tally_writer"]);
    database.superuser().execute("SELECT tally.trust_role($1::text::regrole)", &[&relay]).unwrap();
    let own = writer(&mut database, "acme");
    let mut admin = database.connect(&admin);
    let mapping = json!({"tenant": "/context/traits/customer", "account": "/context/groupId"});
    assert_eq!(define(&mut admin, "shop", "segment", &mapping), 1);
    assert_eq!(define(&mut admin, "shop", "segment", &mapping), 1);
    let next =
        json!({"tenant": "/context/traits/customer", "account": "/context/groupId", "names": {"a": "b"}});
    assert_eq!(define(&mut admin, "shop", "segment", &next), 2);

    let mut event = track("m-1", "a", "north");
    event["context"]["traits"] = json!({"customer": "globex"});
    let text = event.to_string();
    let mut relay = database.connect(&relay);
    assert_eq!(send(&mut relay, "segment", &text, Some("shop")).unwrap().0, [1, 0, 0, 0]);
    let mut superuser = database.superuser();
    let stored = "SELECT count(*) FROM tally.events WHERE tenant_id = 'globex' AND account_id = 'north' AND name = 'b'";
    assert_eq!(number(&mut superuser, stored), 1);
    let source = "SELECT count(*) FROM tally.ingest_batch WHERE source = 'segment by shop, version 2'";
    assert_eq!(number(&mut superuser, source), 1);
    // Without a mapping nothing says whose it is; a tenant's login can't be led to write for another one.
    let (counts, details) = send(&mut relay, "segment", &text, None).unwrap();
    assert_eq!(counts, [0, 0, 0, 1]);
    assert!(details[0]["reason"].as_str().unwrap().contains("no tenant_id"), "{details}");
    let mut own = database.connect(&own);
    let (counts, details) = send(&mut own, "segment", &text, Some("shop")).unwrap();
    assert_eq!((counts, details[0]["sqlstate"].as_str()), ([0, 0, 0, 1], Some("42501")));

    assert_eq!(sqlstate(send(&mut own, "segment", &text, Some("shap"))), "42704");
    assert_eq!(sqlstate(send(&mut own, "posthog", &text, Some("shop"))), "22023");
    assert_eq!(sqlstate(send(&mut own, "segmint", &text, None)), "22023");
    assert_eq!(sqlstate(send(&mut own, "segment", "{", None)), "22032");
    assert_eq!(sqlstate(own.query("SELECT tally.ingest_from('segment', NULL::text)", &[])), "22004");
    // Who may declare, and what.
    let undeclared = "SELECT tally.define_mapping('m', 'segment', '{}')";
    assert_eq!(code(own.execute(undeclared, &[])), "42501");
    assert_eq!(code(own.query("SELECT * FROM tally.payload_mapping", &[])), "42501");
    for (statement, wanted) in [
        ("SELECT tally.define_mapping('m', 'segmint', '{}')", "22023"),
        ("SELECT tally.define_mapping('m', 'segment', '{\"tennant\": \"/a\"}')", "22023"),
        ("SELECT tally.define_mapping('m', 'segment', NULL)", "22004"),
        ("SELECT tally.define_mapping('', 'segment', '{}')", "22023"),
    ] {
        assert_eq!(sqlstate(admin.query(statement, &[])), wanted, "{statement}");
    }
    let recorded = "SELECT count(*) FROM tally.audit WHERE object = 'shop'";
    assert!(number(&mut superuser, recorded) >= 2);
}

#[test]
fn a_mapping_stays_with_its_format() {
    let mut database = Database::new("mapping_format");
    let admin = database.role("admin", &["tally_admin"]);
    let own = writer(&mut database, "acme");
    let (mut admin, mut own) = (database.connect(&admin), database.connect(&own));
    assert_eq!(define(&mut admin, "shop", "segment", &json!({"account": "/context/groupId"})), 1);
    let mut event = track("m-1", "a", "north");
    event["context"] = json!({});
    assert_eq!(send(&mut own, "segment", &event.to_string(), Some("shop")).unwrap().0, [0, 0, 0, 1]);
    // What waits would be translated by the other format's paths.
    let statement = "SELECT tally.define_mapping('shop', 'posthog', '{\"account\": {\"value\": \"x\"}}')";
    let error = admin.query(statement, &[]).unwrap_err();
    let error = error.as_db_error().unwrap();
    assert_eq!(error.code().code(), "42710");
    assert!(error.message().contains("for the format segment"), "{}", error.message());
    assert_eq!(define(&mut admin, "shop", "segment", &json!({"account": {"value": "south"}})), 2);
    assert_eq!(number(&mut own, "SELECT accepted FROM tally.redrive()"), 1);
    assert_eq!(number(&mut own, "SELECT count(*) FROM tally.events WHERE account_id = 'south'"), 1);
    // Nor is it where somebody has put one of another format into the table.
    assert_eq!(define(&mut admin, "other", "segment", &json!({"account": "/context/groupId"})), 1);
    event["messageId"] = json!("m-2");
    assert_eq!(send(&mut own, "segment", &event.to_string(), Some("other")).unwrap().0, [0, 0, 0, 1]);
    let put = "UPDATE tally.payload_mapping SET format = 'posthog', definition = '{\"account\": {\"value\": \"x\"}}' WHERE mapping_name = 'other'";
    database.superuser().batch_execute(put).unwrap();
    assert_eq!(number(&mut own, "SELECT rejected FROM tally.redrive()"), 1);
    assert_eq!(number(&mut own, "SELECT count(*) FROM tally.events WHERE account_id = 'x'"), 0);
    for mapping in [r#"{"zone": ".5+02:00"}"#, r#"{"account": "/a~2"}"#, r#"{"properties": {"a": "/b~"}}"#] {
        let statement = format!("SELECT tally.define_mapping('m', 'segment', '{mapping}')");
        assert_eq!(sqlstate(admin.query(&statement, &[])), "22023", "{mapping}");
    }
}

#[test]
fn what_a_mapping_cannot_find_waits_and_is_redriven_by_the_next_version() {
    let mut database = Database::new("remap");
    let admin = database.role("admin", &["tally_admin"]);
    let role = writer(&mut database, "acme");
    let mut admin = database.connect(&admin);
    define(&mut admin, "shop", "mixpanel", &json!({"account": "/properties/company"}));
    let mut client = database.connect(&role);
    let event = |id: u32| json!({"event": "a", "properties": {"time": 1772442900, "distinct_id": "u", "$insert_id": id.to_string(), "org": "north"}});
    let lines = format!("{}\nnot json\n{}\n{{\"event\": 5}}\n", event(1), event(2));
    let (counts, details) = send(&mut client, "mixpanel", &lines, Some("shop")).unwrap();
    assert_eq!(counts, [0, 0, 0, 4]);
    let reason = details[0]["reason"].as_str().unwrap();
    assert_eq!(reason, "/properties/company is missing, which account_id is read from");
    assert_eq!(details[0]["position"], 0);
    let redrive = "SELECT accepted * 100 + duplicates * 10 + rejected FROM tally.redrive()";
    assert_eq!(number(&mut client, redrive), 4);
    define(&mut admin, "shop", "mixpanel", &json!({"account": ["/properties/company", "/properties/org"]}));
    assert_eq!(number(&mut client, redrive), 202);
    assert_eq!(number(&mut client, "SELECT count(*) FROM tally.events WHERE account_id = 'north'"), 2);
    assert_eq!(number(&mut client, "SELECT count(*) FROM tally.quarantine"), 2);
    // The payload again: those are duplicates.
    assert_eq!(send(&mut client, "mixpanel", &lines, Some("shop")).unwrap().0, [0, 2, 0, 2]);
    assert_eq!(
        number(
            &mut client,
            "SELECT count(*) FROM tally.quarantine WHERE body LIKE '%\"text\":\"not json\"}'"
        ),
        2
    );
}

#[test]
fn a_quarantined_payload_stays_in_the_scope_it_was_sent_in() {
    let mut database = Database::new("payload_scope");
    let admin = database.role("admin", &["tally_admin"]);
    let operator = database.role("operator", &["tally_writer"]);
    let role = writer(&mut database, "acme");
    let mut superuser = database.superuser();
    superuser.execute("SELECT tally.trust_role($1::text::regrole)", &[&operator]).unwrap();
    define(&mut database.connect(&admin), "any", "tally", &json!({"account": "/nowhere"}));
    let mut client = database.connect(&role);
    // Written by hand, as if ingest_from had put it there; and by way of it.
    let event = json!({"tenant_id": "globex", "account_id": "hq", "name": "a", "event_id": "k", "occurred_at": "2026-03-02T09:15:00Z"});
    let forged = json!({"format": "tally", "mapping": "", "payload": event}).to_string();
    let sent = "SELECT rejected FROM tally.ingest($1)";
    assert_eq!(client.query_one(sent, &[&forged]).unwrap().get::<_, i64>(0), 1);
    assert_eq!(send(&mut client, "tally", &event.to_string(), Some("any")).unwrap().0, [0, 0, 0, 1]);
    define(&mut database.connect(&admin), "any", "tally", &json!({}));
    let mut operator = database.connect(&operator);
    // Handed on by who may write for every tenant, under a mapping that says whose all is: a document that its format refuses.
    let hook = json!({"tenant": {"value": "acme"}, "account": {"value": "north"}});
    define(&mut database.connect(&admin), "hook", "segment", &hook);
    let mut posed: Value = serde_json::from_str(&forged).unwrap();
    posed["batch"] = json!(5);
    let named = json!({"batch": 5, "userId": "ann", "traits": {"email": "ann@example.org"}});
    for document in [&posed, &named] {
        assert_eq!(
            send(&mut operator, "segment", &document.to_string(), Some("hook")).unwrap().0,
            [0, 0, 0, 1]
        );
    }
    assert_eq!(number(&mut operator, "SELECT rejected FROM tally.redrive()"), 4);
    assert_eq!(number(&mut superuser, "SELECT count(*) FROM tally.events"), 0);
    // An erasure finds whom it names.
    superuser.batch_execute("SELECT tally.set_step_up_policy('erase_subject', false)").unwrap();
    let mut admin = database.connect(&admin);
    admin.batch_execute("SELECT tally.erase_subject('acme', 'ann', 'ticket')").unwrap();
    assert_eq!(
        number(&mut superuser, "SELECT count(*) FROM tally.quarantine WHERE body LIKE '%ann@example.org%'"),
        0
    );
    assert_eq!(number(&mut superuser, "SELECT count(*) FROM tally.quarantine"), 3);
}

fn send_file(database: &Database, role: &str, arguments: &[&str]) -> (i32, String) {
    let (bin, sockets) = bin_and_sockets();
    let port = number(&mut database.superuser(), "SELECT setting::int8 FROM pg_settings WHERE name = 'port'");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../integrations/send-events");
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let mut command = Command::new("python3");
    command.arg(script).args(arguments).env("PATH", path).env("PGHOST", sockets);
    command.env("PGPORT", port.to_string()).env("PGUSER", role).env("PGDATABASE", database.name());
    let output = command.output().expect("running send-events");
    let said =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.code().unwrap_or(-1), said)
}

#[test]
fn files_are_sent_plain_and_compressed_once_whatever_happens() {
    let mut database = Database::new("send_events");
    let role = writer(&mut database, "acme");
    let directory = std::env::temp_dir().join(format!("tally_{}", database.name()));
    std::fs::create_dir_all(&directory).unwrap();
    let line = |id: u32| {
        json!({"account_id": "north", "name": "it's $1 \\ :x 'é", "user_id": "ann", "event_id": format!("k-{id}"), "occurred_at": "2026-03-02T09:15:00Z"}).to_string() + "\n"
    };
    let first: String = (0..25).map(line).collect();
    let plain = directory.join("a.ndjson");
    std::fs::write(&plain, &first).unwrap();
    let packed = directory.join("b.ndjson.gz");
    let mut gzip =
        flate2::write::GzEncoder::new(std::fs::File::create(&packed).unwrap(), flate2::Compression::fast());
    gzip.write_all((20..30).map(line).collect::<String>().as_bytes()).unwrap();
    gzip.finish().unwrap();
    let [plain, packed] = [plain, packed].map(|path| path.to_str().unwrap().to_owned());
    assert_eq!(
        send_file(&database, &role, &["--lines", "10", &plain, &packed]),
        (0, "30 accepted, 5 duplicates, 0 conflicts, 0 rejected\n".into())
    );
    let mut client = database.connect(&role);
    assert_eq!(
        number(&mut client, r"SELECT count(*) FROM tally.events WHERE name = 'it''s $1 \ :x ''é'"),
        30
    );

    // As a log: what grows is sent from where it ended, a line that isn't whole yet not at all.
    let log = directory.join("log");
    let lines: Vec<String> = (100..130).map(line).collect();
    std::fs::write(&log, lines[..12].concat() + &lines[12][..20]).unwrap();
    let log_name = log.to_str().unwrap();
    let arguments = ["--stream", "log", "--lines", "5", log_name];
    assert_eq!(
        send_file(&database, &role, &arguments).1,
        "12 accepted, 0 duplicates, 0 conflicts, 0 rejected\n"
    );
    let sent = "SELECT sum(\"position\")::int8 FROM tally.stream WHERE stream LIKE 'log:%'";
    assert_eq!(number(&mut client, sent), 12);
    std::fs::write(&log, lines.concat()).unwrap();
    // Two at once share or skip, and nothing counts twice.
    std::thread::scope(|scope| {
        let runs: Vec<_> = (0..2).map(|_| scope.spawn(|| send_file(&database, &role, &arguments))).collect();
        for run in runs {
            let (status, said) = run.join().unwrap();
            assert!(status == 0 || said.contains("is at position"), "{said}");
        }
    });
    assert_eq!(send_file(&database, &role, &arguments).0, 0);
    assert_eq!(number(&mut client, sent), 30);
    assert_eq!(number(&mut client, "SELECT count(*) FROM tally.events"), 60);
    // What is rejected is said.
    std::fs::write(&log, "{\"name\": 5}\nnonsense\n").unwrap();
    let (status, said) = send_file(&database, &role, &[log_name]);
    assert_eq!(status, 1, "{said}");
    assert!(said.contains("is missing") && said.contains("2 rejected"), "{said}");
    std::fs::remove_dir_all(&directory).unwrap();
}

#[test]
fn a_line_of_a_log_that_cannot_be_read_waits_and_the_log_goes_on() {
    let mut database = Database::new("send_poison");
    let role = writer(&mut database, "acme");
    let directory = std::env::temp_dir().join(format!("tally_{}", database.name()));
    std::fs::create_dir_all(&directory).unwrap();
    let line = |id: u32| {
        let event = json!({"account_id": "north", "name": "x", "properties": {"id": id}, "occurred_at": "2026-03-02T09:15:00Z"});
        event.to_string().into_bytes()
    };
    let bad = |id: u32, byte: &[u8]| [b"{\"name\": \"", byte, b"\", ", &line(id)[1..]].concat();
    let mut client = database.connect(&role);
    let mut superuser = database.superuser();
    // Accepted, rejected of a log with these lines, which is sent once and then has nothing that is new.
    let mut sent = |name: &str, lines: &[Vec<u8>], more: &[&str], expected: (i64, i64)| {
        superuser.batch_execute("SELECT tally.discard('test')").unwrap();
        let before = number(&mut superuser, "SELECT count(*) FROM tally.events");
        let path = directory.join(name);
        std::fs::write(&path, lines.join(&b'\n')).unwrap();
        let arguments = [&["--stream", name], more, &[path.to_str().unwrap()]].concat();
        let (status, said) = send_file(&database, &role, &arguments);
        let end = format!("{} accepted, 0 duplicates, 0 conflicts, {} rejected", expected.0, expected.1);
        assert!(status == i32::from(expected.1 > 0) && said.contains(&end), "{name}: {status} {said}");
        let nothing = "0 accepted, 0 duplicates, 0 conflicts, 0 rejected\n";
        assert_eq!(send_file(&database, &role, &arguments), (0, nothing.into()), "{name}");
        let now = number(&mut superuser, "SELECT count(*) FROM tally.events");
        assert_eq!(now - before, expected.0, "{name}");
        let waiting = superuser.query("SELECT body FROM tally.quarantine ORDER BY batch_id, position", &[]);
        let waiting: Vec<String> = waiting.unwrap().iter().map(|row| row.get(0)).collect();
        assert_eq!(waiting.len() as i64, expected.1, "{name}");
        waiting
    };
    let text = |text: &str| text.as_bytes().to_vec();
    let none = || text("");
    // A torn line alone between others that have no event; then nothing but such lines.
    let torn = sent(
        "torn",
        &[line(1), text("# note"), text("{\"name\": \"to"), none(), line(2), none()],
        &[],
        (2, 1),
    );
    assert!(torn[0].contains(r#"{\"name\": \"to"#), "{torn:?}");
    sent("garbage", &[text("{\"a\":"), text("nonsense"), text("\"{}\""), none()], &[], (0, 3));
    // A byte that isn't UTF-8, and one that Postgres hasn't, in an event, a note, and alone.
    for (name, byte) in [("latin", &b"\xe9"[..]), ("zero", b"\0")] {
        let note = [b"# caf", byte].concat();
        let lines = [line(1), bad(7, byte), line(2), note, none(), byte.to_vec(), none(), line(3), none()];
        let waiting = sent(name, &lines, &[], (3, 2));
        assert!(waiting[0].contains("\u{fffd}") && waiting[0].contains("2026-03-02"), "{waiting:?}");
    }
    let zeros = vec![0; 5_000];
    sent("zeros", &[line(1), [&zeros[..], &line(2)].concat(), line(3), none()], &[], (2, 1));
    // A line that has no event, or several.
    let several = [b"[", &line(7)[..], b",", &line(8), b"]"].concat();
    sent("several", &[line(1), text("[]"), line(2), several, line(3), none()], &[], (5, 0));
    // The same of other formats.
    let record =
        |id: u32| text(&json!({"timeUnixNano": "1772442900123456789", "attributes": {"id": id}}).to_string());
    let otel = ["--format", "opentelemetry", "--mapping", "north"];
    define(&mut database.superuser(), "north", "opentelemetry", &json!({"account": {"value": "n"}}));
    let lines = [record(1), none(), text("{\"a"), none(), bad(1, b"\xff"), record(2), none()];
    sent("otel", &lines, &otel, (2, 2));
    let lines = [text("a\tb"), none(), [b"a\t".to_vec(), vec![0xff]].concat(), none()];
    sent("snowplow", &lines, &["--format", "snowplow"], (0, 2));
    assert_eq!(number(&mut client, "SELECT count(*) FROM tally.stream WHERE gaps > 0"), 0);

    // Files that can't be read cost no other, and end with 2.
    let whole = directory.join("whole");
    std::fs::write(&whole, [line(100), none()].join(&b'\n')).unwrap();
    let packed = directory.join("packed.gz");
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::none());
    gzip.write_all(&(200..300).flat_map(|id| [line(id), none()].join(&b'\n')).collect::<Vec<u8>>()).unwrap();
    let packed_bytes = gzip.finish().unwrap();
    std::fs::write(&packed, &packed_bytes[..packed_bytes.len() / 2]).unwrap();
    let missing = directory.join("missing");
    let [whole, packed, missing, place] =
        [&whole, &packed, &missing, &directory].map(|path| path.to_str().unwrap());
    for stream in [&["--stream", "s"][..], &["--format", "posthog"]] {
        for file in [missing, place, packed] {
            let (status, said) = send_file(&database, &role, &[stream, &[file]].concat());
            assert!(status == 2 && said.contains(file) && !said.contains("Traceback"), "{file}: {said}");
        }
    }
    let (status, said) = send_file(&database, &role, &["--stream", "t", packed, place, whole]);
    assert!(status == 2 && !said.starts_with("0 accepted"), "{said}");
    assert_eq!(number(&mut client, "SELECT count(*) FROM tally.events WHERE properties ->> 'id' = '100'"), 1);
    std::fs::remove_dir_all(&directory).unwrap();
}

/// Rotates a log as logrotate does with these lines of its configuration; false where it isn't installed.
fn rotate(directory: &Path, how: &str) -> bool {
    let configuration = directory.join("logrotate.conf");
    let text = format!("{} {{\n  rotate 4\n{how}\n}}\n", directory.join("app.log").display());
    std::fs::write(&configuration, text).unwrap();
    std::fs::set_permissions(&configuration, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    let mut command = Command::new("/usr/sbin/logrotate");
    match command.args(["-f", "-s"]).arg(directory.join("state")).arg(&configuration).output() {
        Ok(output) => {
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            true
        }
        Err(_) => {
            skip("logrotate isn't installed");
            false
        }
    }
}

#[test]
fn a_log_that_is_rotated_is_sent_whole_and_once() {
    for (topic, how) in [
        ("rotate_rename", "  create 0644\n  compress\n  delaycompress"),
        ("rotate_copy", "  copytruncate\n  compress\n  delaycompress"),
    ] {
        let mut database = Database::new(topic);
        let role = writer(&mut database, "acme");
        let directory = std::env::temp_dir().join(format!("tally_{}", database.name()));
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::set_permissions(&directory, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let log = directory.join("app.log");
        let mut written = 0;
        // No ids: positions alone keep lines from counting twice. An empty line in between.
        let mut write = |count: i64| {
            let mut file = std::fs::OpenOptions::new().create(true).append(true).open(&log).unwrap();
            for _ in 0..count {
                written += 1;
                let line = json!({"account_id": "north", "name": "a", "occurred_at": "2026-03-02T09:15:00Z", "properties": {"n": written}});
                writeln!(file, "{line}{}", if written % 4 == 0 { "\n" } else { "" }).unwrap();
            }
            written
        };
        let mut client = database.connect(&role);
        let names = ["app.log.3.gz", "app.log.2.gz", "app.log.1", "app.log"]
            .map(|name| directory.join(name).to_str().unwrap().to_owned());
        let arguments: Vec<&str> =
            ["--stream", "app"].into_iter().chain(names.iter().map(String::as_str)).collect();
        let mut sent = |wanted: i64| {
            let (status, said) = send_file(&database, &role, &arguments);
            assert_eq!(status, 0, "{said}");
            let distinct = "SELECT count(DISTINCT properties ->> 'n') * 1000 + count(*) FROM tally.events";
            assert_eq!(number(&mut client, distinct), wanted * 1001, "{topic}: {said}");
        };
        sent(write(5));
        write(6);
        // The last lines before a rotation weren't sent yet.
        if !rotate(&directory, how) {
            continue;
        }
        sent(write(7));
        assert!(rotate(&directory, how));
        write(3);
        assert!(rotate(&directory, how));
        sent(write(9));
        sent(write(0));
        // Files that begin alike, but for their first events.
        for n in 1..3 {
            let line = json!({"account_id": "north", "name": "a", "occurred_at": "2026-03-02T09:15:00Z", "properties": {"n": written + n}});
            let alike = directory.join(format!("alike.{n}"));
            std::fs::write(&alike, format!("# log started\n\n{line}\n")).unwrap();
            let (status, said) = send_file(&database, &role, &["--stream", "app", alike.to_str().unwrap()]);
            assert_eq!((status, &*said), (0, "1 accepted, 0 duplicates, 0 conflicts, 0 rejected\n"));
        }
        // What can't be the file that was sent before is no reason to skip lines.
        let text = std::fs::read_to_string(&log).unwrap();
        std::fs::write(&log, text.split_inclusive('\n').take(2).collect::<String>()).unwrap();
        let (status, said) = send_file(&database, &role, &arguments);
        assert!(status == 2 && said.contains("is another file"), "{said}");
        std::fs::remove_dir_all(&directory).unwrap();
    }
}

#[test]
fn a_mapping_is_declared_by_nobody_who_is_confined_to_a_tenant() {
    let mut database = Database::new("payload_confined");
    let role = database.role("own", &["tally_admin", "tally_writer", "tally_reader"]);
    let bind = "SELECT tally.bind_role($1::text::regrole, 'acme')";
    database.superuser().execute(bind, &[&role]).unwrap();
    let mut client = database.connect(&role);
    let define = "SELECT tally.define_mapping('m', 'segment', '{}')";
    assert_eq!(code(client.execute(define, &[])), "42501");
    let free = database.role("free", &["tally_admin"]);
    database.connect(&free).execute(define, &[]).unwrap();
    assert_eq!(number(&mut database.superuser(), "SELECT count(*) FROM tally.payload_mapping"), 1);
}

#[test]
fn a_payload_can_be_cancelled() {
    let mut database = Database::new("payload_cancel");
    let role = writer(&mut database, "acme");
    let mut client = database.connect(&role);
    // One event too many, which is noticed at the end: it is told before, where the statement may run for a millisecond.
    let event = json!({"event": "a", "distinct_id": "u", "timestamp": "2026-03-02T09:15:00Z"}).to_string();
    let payload = vec![event; 100_001].join("\n");
    let query = "SELECT accepted FROM tally.ingest_from('posthog', $1)";
    assert_eq!(code(client.query(query, &[&payload])), "54000");
    client.batch_execute("SET statement_timeout = '1ms'").unwrap();
    let statement = client.query(query, &[&payload]);
    assert_eq!(code(statement), "57014");
}

/// One event in as many spellings: by way of jsonb, with other escapes, other forms of the same number and moment.
#[test]
fn an_event_that_is_spelt_otherwise_is_the_same_event() {
    let mut database = Database::new("spelt");
    let role = writer(&mut database, "acme");
    let mut superuser = database.superuser();
    let account = json!({"account": {"value": "x"}});
    define(&mut superuser, "ce", "cloudevents", &account);
    define(&mut superuser, "seg", "segment", &account);
    define(&mut superuser, "amp", "amplitude", &account);
    define(&mut superuser, "own", "tally", &account);
    let mut client = database.connect(&role);
    for (format, mapping, spellings) in [
        (
            "cloudevents",
            "ce",
            vec![
                r#"[{"specversion":"1.0","type":"a","source":"https:\/\/x\/caf\u00e9","id":"1","time":"2026-03-20T00:00:00Z","data":{"n":1.0,"t":"\u00e9"}}]"#,
                r#"[{"specversion":"1.0","type":"a","source":"https://x/café","id":"\u0031","time":"2026-03-20T01:00:00.000+01:00","data":{"t":"é","n":1}}]"#,
            ],
        ),
        (
            // Without messageId, what it says is its key.
            "segment",
            "seg",
            vec![
                r#"{"type":"track","event":"caf\u00e9","userId":"a\/b","timestamp":"2026-03-20T00:00:00Z","properties":{"v":1e2,"w":[1.0,2.50],"\u0061":1}}"#,
                r#"{"properties":{"a":1,"w":[1,2.5],"v":100},"timestamp":"2026-03-20T00:00:00.000Z","userId":"a/b","type":"track","event":"café"}"#,
                r#"{"properties":{"a":0,"a":1,"w":[1,2.5],"v":100.0},"timestamp":"2026-03-20T02:00:00.0+02:00","userId":"a/b","type":"track","event":"café"}"#,
            ],
        ),
        (
            "amplitude",
            "amp",
            vec![
                r#"{"event_type":"e","device_id":"d\u002d1","insert_id":7.0,"time":1772442900000}"#,
                r#"{"event_type":"e","device_id":"d-1","insert_id":7,"time":1772442900000}"#,
            ],
        ),
        (
            "tally",
            "own",
            vec![
                r#"{"name":"n","occurred_at":"2026-03-20T00:00:00Z","event_id":12e1}"#,
                r#"{"name":"n","occurred_at":"2026-03-20T00:00:00Z","event_id":120.0}"#,
            ],
        ),
    ] {
        let mut counts = [0; 4];
        for text in &spellings {
            for cast in ["text", "json", "jsonb"] {
                let query = format!(
                    "SELECT accepted, duplicates, conflicts, rejected FROM tally.ingest_from($1, $2::text::{cast}, $3)"
                );
                let row = client.query_one(&query, &[&format, text, &mapping]).unwrap();
                (0..4).for_each(|place| counts[place] += row.get::<_, i64>(place));
            }
        }
        assert_eq!(counts, [1, 3 * spellings.len() as i64 - 1, 0, 0], "{format}");
    }
    // Keys that are other texts are other keys.
    for id in ["\"1.0\"", "\"1\"", "\"01\""] {
        let text = format!(r#"{{"name":"n","occurred_at":"2026-03-20T00:00:00Z","event_id":{id}}}"#);
        assert_eq!(send(&mut client, "tally", &text, Some("own")).unwrap().0, [1, 0, 0, 0], "{id}");
    }
}

#[test]
fn a_byte_order_mark_is_passed_over() {
    let mut database = Database::new("bom");
    let role = writer(&mut database, "acme");
    let mut client = database.connect(&role);
    let marked = |text: &str| format!("\u{feff}{text}");
    let own = json!({"tenant_id": "acme", "account_id": "x", "name": "n", "occurred_at": "2026-03-20T00:00:00Z",
                     "event_id": "00000000-0000-4000-8000-000000000001"});
    let accepted = |client: &mut Client, text: &str| -> i64 {
        client.query_one("SELECT accepted FROM tally.ingest($1::text)", &[&text]).unwrap().get(0)
    };
    assert_eq!(accepted(&mut client, &marked(&own.to_string())), 1);
    assert_eq!(accepted(&mut client, &marked(&format!("\r\n[{own}]"))), 0);
    let batch = json!([track("m-1", "a", "north"), track("m-2", "a", "north")]).to_string();
    assert_eq!(send(&mut client, "segment", &marked(&batch), None).unwrap().0, [2, 0, 0, 0]);
    let lines = format!("{}\n{}\n", track("m-2", "a", "north"), track("m-3", "a", "north"));
    assert_eq!(send(&mut client, "segment", &marked(&lines), None).unwrap().0, [1, 1, 0, 0]);
    // One alone, or within the text, is none.
    assert_eq!(sqlstate(client.query("SELECT tally.ingest($1::text)", &[&marked("")])), "22032");
    assert_eq!(sqlstate(client.query("SELECT tally.ingest($1::text)", &[&marked(&marked("[]"))])), "22032");
}

#[test]
fn what_is_no_json_waits_in_quarantine_and_is_nobodys() {
    let mut database = Database::new("payload_malformed");
    let role = writer(&mut database, "acme");
    let mut client = database.connect(&role);
    let bare = track("m-1", "a", "north").to_string().replace("\"ann\"", "ann");
    let at_the_top = track("m-2", "a", "north").to_string().replacen('{', "{\"z\": bad,", 1);
    let shared = json!({"context": {"ip": "@"}, "batch": [track("m-3", "a", "north")]});
    let shared = shared.to_string().replace("\"@\"", "01");
    let good = track("m-4", "a", "north");
    let payload = format!("[{bare},{good},{at_the_top}]");
    assert_eq!(send(&mut client, "segment", &payload, None).unwrap().0, [1, 0, 0, 2]);
    let (counts, details) = send(&mut client, "segment", &shared, None).unwrap();
    assert_eq!(counts, [0, 0, 0, 1], "{details}");
    let mut superuser = database.superuser();
    let waiting = "SELECT count(*) FROM tally.quarantine WHERE sqlstate = '22P02' AND format = 'segment' AND tenant_id = 'acme' AND reason LIKE 'event is not JSON%'";
    assert_eq!(number(&mut superuser, waiting), 3);
    superuser.batch_execute("SELECT tally.redrive()").unwrap();
    let waiting =
        "SELECT count(*) FROM tally.quarantine WHERE sqlstate = '22P02' AND format = 'segment' AND tries = 1";
    assert_eq!(number(&mut superuser, waiting), 3);
    assert_eq!(number(&mut superuser, "SELECT count(*) FROM tally.events"), 1);
    // Whoever it may mean is found there by an erasure.
    let own = "SELECT count(*) FROM tally.quarantine WHERE tally_internal.names(body, 'user_id', '{ann}')";
    assert_eq!(number(&mut superuser, own), 3);
}

#[test]
fn an_event_that_is_nested_too_deeply_waits_alone_and_can_be_discarded() {
    let mut database = Database::new("payload_deep");
    let role = writer(&mut database, "acme");
    let mut client = database.connect(&role);
    let deep = |id: &str| {
        let levels = "{\"a\":".repeat(70) + "0" + &"}".repeat(70);
        track(id, "a", "north").to_string().replace("{\"value\":5}", &levels)
    };
    let good = |id: &str| track(id, "a", "north").to_string();
    let batch = format!("{{\"batch\":[{},{},{}]}}", good("m-1"), deep("m-2"), good("m-3"));
    assert_eq!(send(&mut client, "segment", &batch, None).unwrap().0, [2, 0, 0, 1]);
    let lines = format!("{}\n{}\n{}\n", good("m-4"), deep("m-5"), good("m-6"));
    assert_eq!(send(&mut client, "segment", &lines, None).unwrap().0, [2, 0, 0, 1]);
    let mut superuser = database.superuser();
    let waiting = |tries: i32| {
        format!(
            "SELECT count(*) FROM tally.quarantine WHERE sqlstate = '54000' AND tenant_id = 'acme' AND tries = {tries} \
             AND body LIKE '%\\\\\"a\\\\\":{{\\\\\"a\\\\\":%' AND tally_internal.names(body, 'user_id', '{{ann}}')"
        )
    };
    assert_eq!(number(&mut superuser, &waiting(0)), 2);
    // Redriven it waits again.
    let accepted = "SELECT count(*) FROM tally.events";
    superuser.batch_execute("SELECT tally.redrive()").unwrap();
    assert_eq!(number(&mut superuser, accepted), 4);
    let still = "SELECT count(*) FROM tally.quarantine WHERE tenant_id = 'acme' AND tries = 1 AND tally_internal.names(body, 'user_id', '{ann}')";
    assert_eq!(number(&mut superuser, still), 2);
    superuser.batch_execute("SELECT tally.discard('too deep')").unwrap();
    assert_eq!(number(&mut superuser, "SELECT count(*) FROM tally.quarantine"), 0);
}

#[test]
fn what_a_batch_shares_costs_no_other_person_where_one_was_erased() {
    let mut database = Database::new("payload_shared");
    let role = writer(&mut database, "acme");
    let mut superuser = database.superuser();
    superuser
        .batch_execute(
            "SELECT tally.set_step_up_policy('erase_subject', false); SELECT tally.erase_subject('acme', 'ann', 'ticket')",
        )
        .unwrap();
    let mut client = database.connect(&role);
    let of = |id: &str, user: &str| {
        let mut event = track(id, "a", "north");
        event["userId"] = json!(user);
        event
    };
    let batch = json!({"batch": [of("m-1", "ann"), of("m-2", "bob"), of("m-3", "carl")], "integrations": {"all": "@"}});
    let wrong = batch.to_string().replace("\"@\"", "True");
    let (counts, details) = send(&mut client, "segment", &wrong, None).unwrap();
    assert_eq!(counts, [0, 0, 0, 3], "{details}");
    let kept = superuser.query("SELECT body FROM tally.quarantine ORDER BY position", &[]).unwrap();
    let kept: Vec<String> = kept.iter().map(|row| row.get(0)).collect();
    assert_eq!(kept.len(), 2, "{kept:?}");
    for (body, user) in kept.iter().zip(["bob", "carl"]) {
        assert!(body.contains(user) && body.contains("\"all\":True") && !body.contains("ann"), "{body}");
    }
    // As they should have been, they count.
    let right = batch.to_string().replace("\"@\"", "true");
    assert_eq!(send(&mut client, "segment", &right, None).unwrap().0, [2, 0, 0, 1]);
}
