//! A null where something must be given is an error, never a call that does nothing: of every function that changes something,
//! or that vouches for something. A parameter whose default is null may be null, what any other may be is said below.

use tally_server_tests::Database;

/// Functions that change nothing, whose answer is an assurance: no rows would say that all is well.
const VOUCHING: &str = "'verify_audit', 'privacy_report'";

/// The argument is null, or, in words, no value that can be used, or nothing is there that is called null.
const TOLD: &[&str] = &["22004", "22023", "42602", "42704", "23514"];

/// Parameters without a null default for which null has a meaning of its own, in words or by another parameter's.
const MEANT: &[(&str, &str)] = &[
    // The default of what is left out, and the careful choice.
    ("alter_rollup", "add_measures"),
    ("alter_rollup", "add_dimensions"),
    ("alter_rollup", "cascade"),
    ("create_rollup", "dimensions"),
    ("create_rollup", "backfill"),
    ("redrive", "max_events"),
    ("ingest", "options"),
    ("ingest_events", "options"),
    ("ingest_from", "mapping"),
    ("ingest_from", "options"),
    // Takes back what was said.
    ("classify", "classification"),
    ("map_person", "person"),
    ("open_months", "from"),
    ("reset_stream", "position"),
    ("set_audit_policy", "reads"),
    ("set_audit_retention", "keep"),
    ("set_export_policy", "approvals"),
    ("set_retention", "keep"),
    ("set_reveal_limit", "per_hour"),
    ("set_slo", "freshness"),
    ("set_slo", "latency"),
    ("set_step_up_policy", "required"),
    ("set_unregistered_policy", "policy"),
    // Every tenant that has nothing of its own, or every event.
    ("set_quota", "tenant_id"),
    ("set_retention", "tenant_id"),
    ("set_slo", "tenant_id"),
    ("protect_property", "event"),
    ("unprotect_property", "event"),
    // No scope, and no role.
    ("authenticate_as", "tenant_id"),
    ("authenticate_as", "role_name"),
];

/// A value that the function takes, by the parameter's name and type.
fn literal(name: &str, type_name: &str) -> String {
    let text = match (name, type_name) {
        ("to", _) => "2026-04-01Z",
        ("options", _) => "{}",
        ("format", _) => "tally",
        ("treatment", _) => "drop",
        ("classification", _) => "raw",
        ("state", _) => "open",
        ("act", _) => "reveal",
        ("login", _) => "NULL",
        ("grains", _) => "{day}",
        ("measures", _) => "{count(*) AS n}",
        ("add_measures", _) => "{sum(1) AS n}",
        ("params", _) => "[]",
        (_, "text" | "name") => "acme",
        (_, "jsonb" | "json") => "{}",
        (_, "regrole") => "pg_monitor",
        (_, "regclass") => "app.orders",
        (_, "timestamp with time zone") => "2026-03-01Z",
        (_, "interval") => "1 day",
        (_, "uuid") => "00000000-0000-4000-8000-000000000001",
        (_, "bytea") => "\\x00",
        (_, "boolean") => "false",
        (_, "smallint" | "integer" | "bigint" | "double precision") => "1",
        (_, "tally.scope_kind") => "global",
        (_, array) if array.ends_with("[]") => "{}",
        _ => panic!("a value of type {type_name}, please"),
    };
    if text == "NULL" { format!("NULL::{type_name}") } else { format!("'{text}'::{type_name}") }
}

#[test]
fn a_null_where_something_must_be_given_is_an_error_with_a_hint() {
    let database = Database::new("null_arguments");
    let mut admin = database.superuser();
    admin.batch_execute("CREATE SCHEMA app; CREATE TABLE app.orders (tenant_id text)").unwrap();
    let parameters = admin
        .query(
            &format!(
                "SELECT p.oid::regproc::text, p.proargnames[1:p.pronargs], ARRAY(SELECT format_type(t, NULL) FROM unnest(p.proargtypes) WITH ORDINALITY AS u (t, n) ORDER BY n),
                        i, p.provariadic <> 0, pg_get_function_arguments(p.oid)
                   FROM pg_proc AS p CROSS JOIN LATERAL generate_series(1, p.pronargs) AS i
                  WHERE p.pronamespace = 'tally'::regnamespace AND p.prokind = 'f' AND p.prorettype <> 'trigger'::regtype
                    AND p.proname NOT IN ('assert_isolated', 'step_up')
                    AND (p.provolatile = 'v' OR p.proname IN ({VOUCHING}))
                    AND coalesce(pg_get_function_arg_default(p.oid, i), '') NOT LIKE 'NULL::%' ORDER BY p.proname, 6, i"
            ),
            &[],
        )
        .unwrap();
    let mut silent = Vec::new();
    for row in &parameters {
        let (function, names, types): (String, Vec<String>, Vec<String>) =
            (row.get(0), row.get(1), row.get(2));
        let (place, is_variadic): (i32, bool) = (row.get(3), row.get(4));
        let null = place as usize - 1;
        if MEANT.contains(&(function.trim_start_matches("tally."), &names[null])) {
            continue;
        }
        let arguments: Vec<String> = types
            .iter()
            .zip(&names)
            .enumerate()
            .map(|(place, (of, name))| {
                let value = if place == null { format!("NULL::{of}") } else { literal(name, of) };
                let variadic = if is_variadic && place + 1 == types.len() { "VARIADIC " } else { "" };
                format!("{variadic}{value}")
            })
            .collect();
        let call = format!("SELECT * FROM {function}({})", arguments.join(", "));
        // Some act in a scope, others for administrators who are in none.
        let answers = ["", "SELECT tally.enter('acme')"].map(|enter| {
            let mut transaction = admin.transaction().unwrap();
            transaction.batch_execute(enter).unwrap();
            match transaction.batch_execute(&call) {
                Ok(()) => "no error".to_owned(),
                Err(error) => {
                    let error = error.as_db_error().unwrap();
                    format!(
                        "{} {} ({})",
                        error.code().code(),
                        error.message(),
                        error.hint().unwrap_or_default()
                    )
                }
            }
        });
        let is_told =
            |answer: &String| TOLD.iter().any(|code| answer.starts_with(code)) && !answer.ends_with("()");
        if !answers.iter().any(is_told) {
            silent.push(format!("{call}: {}", answers.join("; ")));
        }
    }
    let strict = admin
        .query_one(
            &format!(
                "SELECT string_agg(p.oid::regprocedure::text, ', ') FROM pg_proc AS p WHERE p.pronamespace = 'tally'::regnamespace AND p.proisstrict AND p.pronargs > 0
                    AND p.prokind = 'f' AND (p.provolatile = 'v' OR p.proname IN ({VOUCHING})) AND p.proname NOT IN ('assert_isolated', 'step_up')"
            ),
            &[],
        )
        .unwrap();
    assert_eq!(strict.get::<_, Option<String>>(0), None, "functions that do nothing, silently, on null");
    assert!(parameters.len() > 80, "only {} parameters were looked at", parameters.len());
    assert!(silent.is_empty(), "{} of {}:\n{}", silent.len(), parameters.len(), silent.join("\n"));
}
