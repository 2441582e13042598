//! Metrics a second time: tests/oracle/metrics.py, and asking the database what it is asked.

use crate::{Database, skip};
use postgres::{Client, Error};
use serde_json::{Map, Value, json};
use std::path::Path;
use std::process::Command;

/// One reader: what it may see, how it gets there, and its session.
pub struct Reader {
    pub scope: Value,
    pub client: Client,
    pub enter: &'static str,
}

/// An operator, a tenant's login and an account's, in sessions of three time zones.
pub fn readers(database: &mut Database, tenant: &str, account: &str) -> Vec<Reader> {
    let mut admin = database.superuser();
    let operator = database.role("operator", &["tally_analyst"]);
    let (whole, part) =
        (database.role("tenant", &["tally_reader"]), database.role("account", &["tally_reader"]));
    admin.execute("SELECT tally.bind_role($1::text::regrole, $2)", &[&whole, &tenant]).unwrap();
    admin.execute("SELECT tally.bind_role($1::text::regrole, $2, $3)", &[&part, &tenant, &account]).unwrap();
    let scopes = [
        (operator, json!({}), "SELECT tally.enter_global()", "America/New_York"),
        (whole, json!({"tenant_id": tenant}), "SELECT", "Australia/Lord_Howe"),
        (part, json!({"tenant_id": tenant, "account_id": account}), "SELECT", "UTC"),
    ];
    scopes
        .into_iter()
        .map(|(role, scope, enter, zone)| {
            let mut client = database.connect(&role);
            client.batch_execute(&format!("SET timezone = '{zone}'")).unwrap();
            Reader { scope, client, enter }
        })
        .collect()
}

fn literal(name: &str, value: &Value) -> String {
    let quoted = |text: &str| format!("'{}'", text.replace('\'', "''"));
    match value {
        Value::String(text) => quoted(text),
        Value::Array(_) if name == "steps" => quoted(&value.to_string()) + "::jsonb",
        Value::Array(items) => {
            let items: Vec<&str> = items.iter().map(|item| item.as_str().expect("a list of texts")).collect();
            quoted(&format!("{{{}}}", items.join(",")))
        }
        other => other.to_string(),
    }
}

impl Reader {
    /// The rows that a metric's function returns, as the oracle prints them. A definition is for the oracle alone.
    pub fn ask(&mut self, function: &str, arguments: &Map<String, Value>) -> Result<Vec<Value>, Error> {
        let list: Vec<String> = arguments
            .iter()
            .filter(|(name, _)| *name != "definition")
            .map(|(name, value)| match name.as_str() {
                // The oracle is told who belongs to it, the function its name.
                "members" => format!("of_cohort => 'often_{}'", arguments["unit"].as_str().unwrap()),
                _ => format!("\"{name}\" => {}", literal(name, value)),
            })
            .collect();
        let columns = match function {
            "did_at_least" => {
                "tenant_id, unit_id, times, (extract(epoch FROM first_at) * 1000000)::int8 AS first_at,
                               (extract(epoch FROM last_at) * 1000000)::int8 AS last_at, exact, whole_from"
            }
            "metric_value" => "value, exact, whole_from",
            _ => "*",
        };
        let query = format!(
            "SELECT coalesce(json_agg(to_jsonb(r)), '[]')::text FROM (SELECT {columns} FROM tally.{function}({})) AS r",
            list.join(", ")
        );
        let mut transaction = self.client.transaction()?;
        transaction.batch_execute(self.enter)?;
        let row = transaction.query_one(&query, &[])?;
        Ok(serde_json::from_str(row.get(0)).unwrap())
    }
}

/// Takes the marks off the rows of an answer: whether it is exact, and from when on the raw events are whole.
pub fn take_marks(rows: &mut [Value]) -> Vec<(Option<Value>, Option<Value>)> {
    rows.iter_mut()
        .filter_map(Value::as_object_mut)
        .map(|row| (row.remove("exact"), row.remove("whole_from")))
        .collect()
}

/// Whether a row is the oracle's: numbers to 13 digits, since a mean has as many as it is given.
pub fn same(seen: &Value, expected: &Value) -> bool {
    match (seen, expected) {
        (Value::Number(a), Value::Number(b)) => {
            let (a, b) = (a.as_f64().unwrap(), b.as_f64().unwrap());
            (a - b).abs() <= 1e-13 * a.abs().max(b.abs())
        }
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len()
                && a.iter().all(|(key, value)| b.get(key).is_some_and(|other| same(value, other)))
        }
        _ => seen == expected,
    }
}

/// What the oracle answers to questions, each an object with scope, function and arguments, knowing all these events.
pub fn expected(folder: &str, lines: &[String], questions: &[Value]) -> Vec<Vec<Value>> {
    let folder = std::env::temp_dir().join(folder);
    std::fs::create_dir_all(&folder).unwrap();
    let (events, asked) = (folder.join("events"), folder.join("questions"));
    std::fs::write(&events, lines.join("\n")).unwrap();
    let all: Vec<String> = questions.iter().map(Value::to_string).collect();
    std::fs::write(&asked, all.join("\n")).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../oracle/metrics.py");
    let output = Command::new("/usr/bin/python3").arg(script).args([&events, &asked]).output().unwrap();
    std::fs::remove_dir_all(&folder).unwrap();
    assert!(output.status.success(), "the oracle failed: {}", String::from_utf8_lossy(&output.stderr));
    let output = String::from_utf8(output.stdout).unwrap();
    let answers: Vec<Vec<Value>> = output.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(answers.len(), questions.len(), "an answer a question");
    answers
}

/// Whether the oracle can run here; a test that can't have it says so.
pub fn oracle_is_there() -> bool {
    let found = Command::new("/usr/bin/python3").args(["-c", "import pandas"]).output();
    let there = found.is_ok_and(|output| output.status.success());
    if !there {
        skip("python3-pandas is not installed (make setup-tests)");
    }
    there
}
