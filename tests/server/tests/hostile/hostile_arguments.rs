//! Every function that somebody may execute, called with arguments that nobody should send: an error of the caller's or an answer,
//! never an internal error. On a primary, in a transaction that is rolled back, and on a standby, where nothing can be written.

use postgres::Client;
use tally_server_tests::{Database, PrivateServer, ingest, wait_for};

/// Literals by type.
fn literals(type_name: &str) -> Option<Vec<String>> {
    let deep = format!("'{}{}'", "[".repeat(3_000), "]".repeat(3_000));
    let long = format!("'{}'", "x".repeat(70_000));
    let plain: Vec<&str> = match type_name {
        "json" | "jsonb" => vec![
            "'{\"amount\":1e400}'",
            "$deep",
            "'{\"type\":\"object\",\"properties\":{\"x\":{\"minimum\":-1e4000}}}'",
            "'{\"a\":\"\\ud83d\\ude00\",\"\":[null,{}]}'",
            "'{\"kind\":1e400,\"event\":[1e400],\"steps\":1e-400}'",
            "'null'",
            "'[]'",
            "NULL",
        ],
        "text" | "name" => vec![
            "''",
            "'x'",
            "$long",
            "E'\\x01'",
            "'{\"tenant_id\":1e999}'",
            "$deep",
            "'[{\"properties\":{\"a\":1e400}}]'",
            "NULL",
        ],
        "smallint" | "integer" => vec!["0", "-1", "2147483647", "(-2147483648)", "NULL", "1", "17", "100"],
        "bigint" => vec!["0", "-1", "9223372036854775807", "(-9223372036854775808)", "NULL", "1", "1", "100"],
        "double precision" => vec!["'NaN'", "'Infinity'", "-1e308", "0", "NULL", "0.5", "1e-308", "1"],
        "numeric" => vec!["'NaN'", "'Infinity'", "1e131071", "0", "NULL", "-1e-16383", "1", "1"],
        "boolean" => vec!["true", "false", "NULL", "true", "false", "true", "NULL", "false"],
        "timestamp with time zone" => {
            vec![
                "'infinity'",
                "'-infinity'",
                "'4713-01-01 BC'",
                "'294276-12-31'",
                "NULL",
                "'2026-01-01'",
                "'2026-02-01'",
                "'1969-12-31'",
            ]
        }
        "date" => vec![
            "'infinity'",
            "'-infinity'",
            "'5874897-12-31'",
            "'4713-01-01 BC'",
            "NULL",
            "'2026-01-01'",
            "'2026-02-01'",
            "'1970-01-01'",
        ],
        "interval" => vec![
            "'178000000 years'",
            "'-178000000 years'",
            "'0'",
            "'1 month -31 days'",
            "NULL",
            "'1 day'",
            "'1 microsecond'",
            "'-1 day'",
        ],
        "uuid" => {
            vec!["'00000000-0000-0000-0000-000000000000'", "'ffffffff-ffff-ffff-ffff-ffffffffffff'", "NULL"]
        }
        "bytea" => vec!["''", "'\\x00'", "'\\xffffffffffffffffffffffff'", "'\\x0100000000000000'", "NULL"],
        "text[]" | "name[]" => vec![
            "'{}'",
            "'{NULL}'",
            "'{\"\",x}'",
            "'{{a,b},{c,d}}'",
            "NULL",
            "'{run,open}'",
            "'[5:6]={a,b}'",
            "'{x}'",
        ],
        "integer[]" | "bigint[]" => vec![
            "'{}'",
            "'{NULL}'",
            "'{-1,2147483647}'",
            "'{{1,2},{3,4}}'",
            "NULL",
            "'{0,1,7}'",
            "'[5:6]={1,2}'",
            "'{1}'",
        ],
        "double precision[]" => vec!["'{}'", "'{NULL}'", "'{NaN,Infinity}'", "'{{1},{2}}'", "NULL"],
        "timestamp with time zone[]" | "jsonb[]" | "uuid[]" | "boolean[]" => vec!["'{}'", "'{NULL}'", "NULL"],
        "tstzrange" => {
            vec!["'empty'", "'(,)'", "'[2026-01-01,2026-02-01)'", "NULL", "'[-infinity,infinity]'"]
        }
        "daterange" => vec!["'empty'", "'(,)'", "'[2026-01-01,2026-02-01)'", "NULL"],
        "regclass" => vec!["'pg_class'", "0", "'tally.events'", "NULL"],
        "regrole" => vec!["'postgres'", "0", "'tally_owner'", "NULL"],
        "oid" => vec!["0", "1", "4294967295", "NULL"],
        "tally.event" => vec![
            "NULL",
            "'{\"tenant_id\":\"a\",\"account_id\":\"b\",\"name\":\"c\",\"event_id\":\"00000000-0000-4000-8000-000000000001\",\"occurred_at\":\"2026-01-01T00:00:00Z\"}'",
        ],
        "tally.hll" | "tally.tdigest" => vec!["NULL", "''", "'x'"],
        _ => return None,
    };
    Some(plain.into_iter().map(|text| text.replace("$deep", &deep).replace("$long", &long)).collect())
}

/// Calls of every function that the caller may execute.
fn calls(client: &mut Client) -> Vec<String> {
    let functions = client
        .query(
            "SELECT p.pronamespace::regnamespace || '.' || p.proname, ARRAY(SELECT format_type(t, NULL) FROM unnest(p.proargtypes) WITH ORDINALITY AS u (t, n) ORDER BY n)
               FROM pg_proc AS p WHERE p.pronamespace IN ('tally'::regnamespace, 'tally_internal'::regnamespace) AND p.prokind = 'f'
                AND p.prorettype NOT IN ('trigger'::regtype, 'event_trigger'::regtype, 'internal'::regtype)
                AND has_function_privilege(p.oid, 'EXECUTE') ORDER BY 1, 2",
            &[],
        )
        .unwrap();
    let mut calls = Vec::new();
    for row in functions {
        let (name, types): (String, Vec<String>) = (row.get(0), row.get(1));
        let Some(choices) = types.iter().map(|name| literals(name)).collect::<Option<Vec<_>>>() else {
            continue;
        };
        let rounds = if types.is_empty() { 1 } else { 5 };
        for round in 0..rounds {
            // Unlike steps, so that arguments meet in many ways.
            let arguments: Vec<String> = choices
                .iter()
                .zip(&types)
                .enumerate()
                .map(|(place, (texts, of))| {
                    format!("{}::{of}", texts[(round * (2 * place + 1) + place) % texts.len()])
                })
                .collect();
            calls.push(format!("SELECT {name}({})", arguments.join(", ")));
        }
    }
    calls
}

/// Runs each call; those that end in an internal error.
fn internal_errors(client: &mut Client, enter: &str) -> (usize, Vec<String>) {
    let calls = calls(client);
    let mut wrong = Vec::new();
    for call in &calls {
        let _ = client.batch_execute(&format!(
            "BEGIN; SET LOCAL statement_timeout = '1s'; SET LOCAL lock_timeout = '1s'; {enter}"
        ));
        if let Err(error) = client.batch_execute(call) {
            let error = error.as_db_error().unwrap_or_else(|| panic!("{call:.200}: {error:?}"));
            let internal = error.code().code().starts_with("XX") || error.message().contains("panicked");
            if internal {
                wrong.push(format!("{call:.200}: {} {}", error.code().code(), error.message()));
            }
        }
        client.batch_execute("ROLLBACK").unwrap();
    }
    (calls.len(), wrong)
}

const EVENT: &str = r#"{"tenant_id":"a","account_id":"b","name":"run","event_id":"00000000-0000-4000-8000-000000000001","occurred_at":"2026-01-05T00:00:00Z"}"#;

#[test]
fn no_argument_ends_in_an_internal_error() {
    let mut database = Database::new("hostile");
    let roles = [
        ("reader", "tally_reader", "SELECT tally.current_tenant()"),
        ("writer", "tally_writer", ""),
        ("analyst", "tally_analyst", "SELECT tally.enter_global()"),
        ("dba", "tally_admin", ""),
    ]
    .map(|(name, group, enter)| (database.role(name, &[group]), enter));
    let mut admin = database.superuser();
    ingest(&mut admin, EVENT).unwrap();
    for (role, _) in &roles[..2] {
        admin.execute("SELECT tally.bind_role($1::text::regrole, 'a')", &[role]).unwrap();
    }
    let (mut ran, mut wrong) = internal_errors(&mut admin, "");
    for (role, enter) in &roles {
        let (more, found) = internal_errors(&mut database.connect(role), enter);
        assert!(more > 50, "{role} may execute {more}");
        ran += more;
        wrong.extend(found);
    }
    println!("{ran} calls");
    assert!(wrong.is_empty(), "{} of {ran}:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn nothing_ends_in_an_internal_error_on_a_standby() {
    let primary = PrivateServer::create("hostile-primary", "");
    primary.connect("postgres", "postgres").batch_execute("CREATE DATABASE shop").unwrap();
    let mut client = primary.connect("postgres", "shop");
    client
        .batch_execute("CREATE EXTENSION pg_tally; SELECT tally.open_months('-infinity'); CREATE ROLE dba LOGIN; GRANT tally_admin TO dba")
        .unwrap();
    ingest(&mut client, EVENT).unwrap();
    let standby = primary.standby("hostile-standby", "");
    let mut reader = wait_for("the standby to have the database", || {
        standby.config("postgres", "shop").connect(postgres::NoTls).ok()
    });
    wait_for("the standby to have the event", || {
        let rows = reader.query("SELECT FROM tally.event_key", &[]);
        rows.ok().filter(|rows| rows.len() == 1)
    });
    let (mut ran, mut wrong) = internal_errors(&mut reader, "");
    let (more, found) = internal_errors(&mut standby.connect("dba", "shop"), "");
    ran += more;
    wrong.extend(found);
    assert!(ran > 300, "{ran}");
    assert!(wrong.is_empty(), "{} of {ran}:\n{}", wrong.len(), wrong.join("\n"));
    for call in [
        "SELECT tally.set_quota('a', events_per_minute => 5)",
        "SELECT tally.set_unregistered_policy('mark')",
        "SELECT tally.ingest('[]'::text)",
    ] {
        let refused = reader.batch_execute(call).expect_err(call);
        assert_eq!(refused.code().unwrap().code(), "25006", "{call}: {refused}");
    }
}
