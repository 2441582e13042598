//! What drivers send: the examples of docs/drivers.md run with the real ones, and parameters of every type and shape that a driver
//! gives them, good and bad, arrive or are refused with a hint.

use postgres::Client;
use postgres::types::Type;
use serde_json::json;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use tally_server_tests::{Database, bin_and_sockets, ingest, number, skip};

pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The example of a driver in docs/drivers.md.
fn example(driver: &str) -> String {
    let document = std::fs::read_to_string(repository().join("docs/drivers.md")).unwrap();
    let mut lines = document.lines();
    let fence = |line: &str| line.starts_with("```") && line.ends_with(&format!(" {driver}"));
    lines.by_ref().find(|line| fence(line)).unwrap_or_else(|| panic!("no example of {driver}"));
    lines.take_while(|line| *line != "```").map(|line| format!("{line}\n")).collect()
}

/// A database with a login that writes and reads for one tenant.
fn shop() -> (Database, String) {
    let mut database = Database::new("drivers");
    let role = database.role("app", &["tally_writer", "tally_reader"]);
    database.superuser().execute("SELECT tally.bind_role($1::text::regrole, 'acme')", &[&role]).unwrap();
    (database, role)
}

fn port(database: &Database) -> i64 {
    number(&mut database.superuser(), "SELECT setting::int8 FROM pg_settings WHERE name = 'port'")
}

/// The script that runs a file with a driver, as a login in a database.
pub fn command(database: &Database, role: &str, driver: &str) -> Command {
    let mut command = Command::new(repository().join("tests/driver.sh"));
    command.arg(driver).env("PGHOST", &bin_and_sockets().1).env("PGPORT", port(database).to_string());
    command.env("PGUSER", role).env("PGDATABASE", database.name());
    command
}

/// Runs a driver's example from a file of this name, and sees that its events are there.
fn runs(driver: &str, file: &str) {
    let (database, role) = shop();
    let directory = std::env::temp_dir().join(format!("tally_{}_{}", database.name(), driver));
    std::fs::create_dir_all(&directory).unwrap();
    let path = directory.join(file);
    std::fs::write(&path, example(driver)).unwrap();
    let mut command = command(&database, &role, driver);
    command.arg(&path);
    if driver == "pgjdbc" {
        let tcp = forward(bin_and_sockets().1.join(format!(".s.PGSQL.{}", port(&database))));
        command.env("PGHOST", "127.0.0.1").env("PGPORT", tcp.to_string());
    }
    let output = command.output().expect("running driver.sh");
    let errors = String::from_utf8_lossy(&output.stderr);
    std::fs::remove_dir_all(&directory).unwrap();
    if output.status.code() == Some(77) {
        return skip(&format!("{driver}: {}", errors.trim()));
    }
    assert!(output.status.success(), "{driver}: {errors}");
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "2 signed_up=1 paid=1", "{driver}: {errors}");
    let sent = "SELECT sum(accepted)::int8 FROM tally.ingest_batch WHERE source = 'checkout'";
    assert_eq!(number(&mut database.superuser(), sent), 2, "{driver}");
}

/// Hands connections to a port on to a socket of Unix, for a driver that knows none; returns the port.
fn forward(socket: PathBuf) -> u16 {
    fn copy(mut from: impl Read, mut to: impl Write) {
        // Ends with either side.
        let _ = io::copy(&mut from, &mut to);
    }
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let client: TcpStream = client.unwrap();
            let server = UnixStream::connect(&socket).unwrap();
            let (client_too, server_too) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            std::thread::spawn(move || copy(client, server));
            std::thread::spawn(move || copy(server_too, client_too));
        }
    });
    port
}

#[test]
fn node_postgres() {
    runs("node-postgres", "example.mjs");
}

#[test]
fn postgres_js() {
    runs("postgres.js", "example.mjs");
}

#[test]
fn psycopg() {
    runs("psycopg", "example.py");
}

#[test]
fn asyncpg() {
    runs("asyncpg", "example.py");
}

#[test]
fn jdbc() {
    runs("pgjdbc", "Snippet.java");
}

#[test]
fn pgx() {
    runs("pgx", "example.go");
}

#[test]
fn pdo() {
    runs("pdo", "example.php");
}

#[test]
fn ruby_pg() {
    runs("ruby-pg", "example.rb");
}

/// The example of tokio-postgres, which stands in the document word for word.
fn tokio_postgres_example(client: &mut Client) -> Result<(i64, Vec<(String, i64)>), postgres::Error> {
    // example
    let events = r#"[
  {"tenant_id": "acme", "account_id": "north", "user_id": "ann", "name": "signed_up", "properties": {},
   "event_id": "018f6b1e-7c00-7000-8000-000000000000", "occurred_at": "2026-03-02T09:10:00Z"},
  {"tenant_id": "acme", "account_id": "north", "user_id": "ann", "name": "paid", "properties": {},
   "event_id": "018f6b1e-7c00-7000-8000-000000000001", "occurred_at": "2026-03-02T09:11:00Z"}]"#;
    let sent = client.query_one(
        "SELECT accepted, duplicates, conflicts, rejected FROM tally.ingest($1, $2)",
        &[&events, &r#"{"source": "checkout"}"#],
    )?;
    let steps = client.query(
        "SELECT name, units FROM tally.funnel($1, $2::text::interval, '2026-03-01 00:00Z', '2026-04-01 00:00Z')",
        &[&r#"["signed_up", "paid"]"#, &"7 days"],
    )?;
    // end of the example
    Ok((sent.get(0), steps.iter().map(|step| (step.get(0), step.get(1))).collect()))
}

#[test]
fn tokio_postgres() {
    let source = include_str!("drivers.rs");
    let here = source.split("    // example\n").nth(1).unwrap().split("    // end of the example").next();
    let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(words(here.unwrap()), words(&example("tokio-postgres")), "docs/drivers.md has another text");
    let (database, role) = shop();
    let (accepted, steps) = tokio_postgres_example(&mut database.connect(&role)).unwrap();
    assert_eq!((accepted, steps), (2, vec![("signed_up".to_owned(), 1), ("paid".to_owned(), 1)]));
}

fn event(id: u32) -> serde_json::Value {
    json!({
        "tenant_id": "acme", "account_id": "north", "user_id": "ann", "name": "signed_up",
        "event_id": format!("00000000-0000-4000-8000-{id:012}"), "occurred_at": "2026-03-02T09:15:00Z",
    })
}

/// Parameters have no type until the server gives them one.
fn untyped(client: &mut Client, query: &str) -> Vec<Type> {
    client.prepare(query).unwrap_or_else(|error| panic!("{query}: {error:?}")).params().to_vec()
}

#[test]
fn parameters_of_no_type_are_texts() {
    let (database, role) = shop();
    let mut client = database.connect(&role);
    assert_eq!(untyped(&mut client, "SELECT accepted FROM tally.ingest($1)"), [Type::TEXT]);
    assert_eq!(untyped(&mut client, "SELECT accepted FROM tally.ingest($1, $2)"), [Type::TEXT, Type::TEXT]);
    assert_eq!(
        untyped(&mut client, "SELECT units FROM tally.funnel($1, $2, $3, $4)"),
        [Type::TEXT, Type::INTERVAL, Type::TIMESTAMPTZ, Type::TIMESTAMPTZ]
    );
    assert_eq!(untyped(&mut client, "SELECT tally.event_id($1)"), [Type::TEXT]);
}

#[test]
fn events_and_options_are_taken_as_text_json_and_jsonb() {
    let (database, role) = shop();
    let mut client = database.connect(&role);
    let mut id = 0;
    for events in ["text", "json", "jsonb", "varchar"] {
        for options in ["text", "json", "jsonb", "varchar"] {
            id += 1;
            let query = format!("SELECT accepted FROM tally.ingest($1::text::{events}, $2::text::{options})");
            let source = format!("{events} and {options}");
            let options = json!({"source": source}).to_string();
            let row = client.query_one(&query, &[&event(id).to_string(), &options]).unwrap();
            assert_eq!(row.get::<_, i64>(0), 1, "{query}");
            let noted = "SELECT count(*) FROM tally.ingest_batch WHERE source = $1";
            assert_eq!(client.query_one(noted, &[&source]).unwrap().get::<_, i64>(0), 1, "{query}");
        }
        // Null options are none.
        id += 1;
        for nothing in ["text", "json", "jsonb"] {
            let query = format!(
                "SELECT accepted + duplicates FROM tally.ingest($1::text::{events}, NULL::{nothing})"
            );
            let row = client.query_one(&query, &[&event(id).to_string()]).unwrap();
            assert_eq!(row.get::<_, i64>(0), 1, "{query}");
        }
    }
    for options in ["text", "json", "jsonb"] {
        id += 1;
        let query = format!(
            "SELECT accepted FROM tally.ingest_events(ARRAY[$1::text::tally.event], $2::text::{options})"
        );
        let row = client.query_one(&query, &[&event(id).to_string(), &"{}"]).unwrap();
        assert_eq!(row.get::<_, i64>(0), 1, "{query}");
    }
    for options in ["not json", "[1]", r#"{"sauce": 1}"#] {
        let error = client.query("SELECT accepted FROM tally.ingest('[]', $1)", &[&options]).unwrap_err();
        assert_eq!(error.code().unwrap().code(), "22023", "{options}: {error:?}");
    }
}

#[test]
fn null_events_are_an_error() {
    let (database, role) = shop();
    let mut client = database.connect(&role);
    for call in [
        "ingest(NULL)",
        "ingest(NULL::text)",
        "ingest(NULL::json)",
        "ingest(NULL::jsonb)",
        "ingest(NULL::text, '{}')",
        "ingest(NULL::json, '{}'::json)",
        "ingest(NULL::jsonb, '{}'::jsonb)",
        "ingest_events(NULL)",
        "ingest_events(NULL, '{}'::jsonb)",
        "ingest_events(NULL, '{}'::text)",
    ] {
        let error = client.query(&format!("SELECT accepted FROM tally.{call}"), &[]).unwrap_err();
        let error = error.as_db_error().unwrap();
        assert_eq!(error.code().code(), "22004", "{call}: {error:?}");
        assert!(error.hint().is_some(), "{call}");
    }
}

#[test]
fn what_a_driver_wrapped_is_an_error_and_no_rejected_event() {
    let (database, role) = shop();
    let mut client = database.connect(&role);
    let event = event(1).to_string();
    let quoted = serde_json::to_string(&event).unwrap();
    for text in [
        // node-postgres, given an array of objects.
        format!("{{{quoted},{quoted}}}"),
        "[object Object]".to_owned(),
        "[object Object],[object Object]".to_owned(),
        // Serialised twice, whole or each.
        quoted.clone(),
        format!("[{quoted}]"),
        // str() of a list of dicts; a hash's inspect.
        "[{'tenant_id': 'acme', 'name': 'signed_up'}]".to_owned(),
        r#"[{"tenant_id"=>"acme", "name"=>"signed_up"}]"#.to_owned(),
    ] {
        let error = ingest(&mut client, &text).unwrap_err();
        let error = error.as_db_error().unwrap();
        assert_eq!(error.code().code(), "22032", "{text}: {error:?}");
        assert!(error.message().contains(", not JSON"), "{text}: {error:?}");
        assert!(error.hint().unwrap().contains("JSON.stringify"), "{text}: {error:?}");
    }
    assert_eq!(number(&mut client, "SELECT count(*) FROM tally.quarantine"), 0);
    // Beside an event it is a bad event like any other.
    let summary = ingest(&mut client, &format!("[{quoted},{event}]")).unwrap();
    assert_eq!((summary.accepted, summary.rejected), (1, 1));
    let summary = ingest(&mut client, &format!("[{quoted},5,{{\"tenant_id\": \"acme\"}}]")).unwrap();
    assert_eq!(summary.rejected, 3);
}

#[test]
fn no_properties_are_written_in_several_ways() {
    let (database, role) = shop();
    let mut client = database.connect(&role);
    for (accepted, properties) in [(1, json!([])), (0, json!({})), (0, json!(null))] {
        let mut event = event(1);
        event["properties"] = properties;
        let summary = ingest(&mut client, &event.to_string()).unwrap();
        assert_eq!((summary.accepted, summary.duplicates), (accepted, 1 - accepted), "{event}");
    }
    let mut copy = client
        .copy_in("COPY tally.inbox (tenant_id, account_id, user_id, name, event_id, occurred_at, properties) FROM STDIN")
        .unwrap();
    copy.write_all(
        b"acme\tnorth\tann\tsigned_up\t00000000-0000-4000-8000-000000000001\t2026-03-02T09:15:00Z\t[ ]\n",
    )
    .unwrap();
    copy.finish().unwrap();
    let counts = "SELECT sum(accepted)::int8 * 100 + sum(duplicates)::int8 * 10 + sum(conflicts + rejected)::int8 FROM tally.ingest_batch";
    assert_eq!(number(&mut client, counts), 130);
    for properties in ["[1]", "[{}]"] {
        let text = format!("{},\"properties\":{properties}}}", event(2).to_string().trim_end_matches('}'));
        assert_eq!(ingest(&mut client, &text).unwrap().rejected, 1, "{text}");
    }
}

#[test]
fn steps_are_taken_in_every_form() {
    let (database, role) = shop();
    let mut client = database.connect(&role);
    ingest(&mut client, &event(1).to_string()).unwrap();
    let mut funnel = |steps: &str| {
        let query = format!(
            "SELECT name, units FROM tally.funnel({steps}, '1 day', '2026-03-01 00:00Z', '2026-04-01 00:00Z')"
        );
        let rows = client.query(&query, &[])?;
        Ok::<Vec<(String, i64)>, postgres::Error>(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
    };
    let wanted = vec![("signed_up".to_owned(), 1), ("paid".to_owned(), 0)];
    for steps in [
        r#"'["signed_up", "paid"]'"#,
        r#"'["signed_up", "paid"]'::json"#,
        r#"'["signed_up", "paid"]'::jsonb"#,
        r#"' [{"event": "signed_up", "label": "signed_up"}, "paid"]'"#,
        r#"'{signed_up,paid}'"#,
        r#"' {"signed_up", "paid"}'"#,
        "ARRAY['signed_up', 'paid']",
        "ARRAY['signed_up', 'paid']::varchar[]",
    ] {
        assert_eq!(funnel(steps).unwrap(), wanted, "{steps}");
    }
    for (steps, sqlstate) in [
        ("'signed_up,paid'", "22023"),
        ("''", "22023"),
        ("'[object Object]'", "22023"),
        (r#"'{"{\"event\":\"signed_up\"}","paid"}'"#, "22023"),
        (r#"'{"event": "signed_up"}'"#, "22023"),
        ("'[0:1]={signed_up,paid}'", "22023"),
        ("'[1'", "22P02"),
        ("'[1]'", "22023"),
        ("NULL", "22023"),
    ] {
        assert_eq!(funnel(steps).unwrap_err().code().unwrap().code(), sqlstate, "{steps}");
    }
}
