//! Metrics after raw events have gone: random schedules of ingest, late events, dropped and detached months, retention of
//! single tenants, rebuilds, altered rollups and a restore. Each answer is right by an oracle that knows every event ever
//! accepted, or is refused, or marked with the moment from which the raw events are whole.

use postgres::Client;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashSet};
use std::process::Command;
use tally_server_tests::{
    Database, Reader, away_from_midnight, bin_and_sockets, expected, ingest, json_array, oracle_is_there,
    readers, same, seeded, take_marks,
};
use tally_workload::{Random, write_time};

const DAY: i64 = 86_400_000_000;
/// 2024-01-01 in microseconds since 1970; events lie in the half year from then on.
const START: i64 = 1_704_067_200_000_000;
const DAYS: usize = 182;
/// What the metrics say where they can't answer.
const INCOMPLETE: &str = "55T20";

fn time(micros: i64) -> String {
    let mut text = String::new();
    write_time(&mut text, micros);
    text
}

struct Sent {
    line: String,
    id: String,
    tenant: String,
    account: String,
}

struct Model {
    database: Database,
    admin: Client,
    sent: Vec<Sent>,
    tried: usize,
    /// Earlier events of a tenant are too late.
    horizons: BTreeMap<String, i64>,
    altered: usize,
}

const DEFINITIONS: [(&str, &str); 9] = [
    ("m_events", r#"{"kind": "events", "event": "a"}"#),
    ("m_all", r#"{"kind": "events"}"#),
    ("m_units", r#"{"kind": "units", "event": "pay"}"#),
    ("m_accounts", r#"{"kind": "units", "unit": "account"}"#),
    ("m_paid", r#"{"kind": "sum", "event": "pay", "property": "amount"}"#),
    ("m_mean", r#"{"kind": "mean", "event": "pay", "property": "amount"}"#),
    ("m_value", r#"{"kind": "sum", "property": "value"}"#),
    ("m_size", r#"{"kind": "mean", "property": "size", "missing": "zero"}"#),
    ("m_funnel", r#"{"kind": "funnel", "steps": ["a", "b"], "window": "2 days"}"#),
];

impl Model {
    fn new(topic: &str) -> Self {
        let mut database = Database::new(topic);
        away_from_midnight();
        let admin = database.role("admin", &["tally_admin"]);
        let mut admin = database.connect(&admin);
        admin
            .batch_execute(
                "SELECT tally.create_rollup('own', '{week}', ARRAY['count(*) AS n'], dimensions => '{name}')",
            )
            .unwrap();
        for (name, definition) in DEFINITIONS {
            admin.execute("SELECT tally.define_metric($1, $2::text::jsonb)", &[&name, &definition]).unwrap();
        }
        for unit in ["user", "account"] {
            let definition = json!({"event": "a", "at_least": 2, "unit": unit}).to_string();
            admin
                .execute(
                    "SELECT tally.define_cohort($1, $2::text::jsonb)",
                    &[&format!("often_{unit}"), &definition],
                )
                .unwrap();
        }
        Self { database, admin, sent: Vec::new(), tried: 0, horizons: BTreeMap::new(), altered: 0 }
    }

    /// Sends events of all times; those of a tenant from before its horizon are refused, and so never counted.
    fn send(&mut self, random: &mut Random, number: usize, tenants: &[&str]) {
        let mut lines = Vec::new();
        let mut refused = 0;
        let before = self.sent.len();
        for _ in 0..number {
            self.tried += 1;
            let tenant = tenants[random.below(tenants.len())].to_owned();
            let account = format!("a{}", random.below(3));
            // Edges of days and months, and times within.
            let within = [0, 1, DAY - 1, 43_200_000_000, random.below(86_400) as i64 * 1_000_000];
            let at = START + random.below(DAYS) as i64 * DAY + within[random.below(within.len())];
            let name = ["a", "a", "b", "pay", "other"][random.below(5)];
            let mut properties = serde_json::Map::new();
            if name == "pay" && random.below(8) > 0 {
                let amounts = [json!(10), json!(2.5), json!(-4), json!(0.1), json!("7")];
                properties.insert("amount".into(), amounts[random.below(amounts.len())].clone());
                properties.insert(
                    "currency".into(),
                    [json!("EUR"), json!("USD"), json!(null)][random.below(3)].clone(),
                );
            }
            if random.below(3) == 0 {
                properties.insert("value".into(), json!(random.below(9)));
                properties.insert("size".into(), json!(random.below(5)));
            }
            let id = format!("00000000-0000-4000-8000-{:012}", self.tried);
            let mut event = json!({"event_id": id, "tenant_id": tenant, "account_id": account, "name": name,
                "occurred_at": time(at), "properties": properties});
            if random.below(8) > 0 {
                event["user_id"] = json!(format!("u{}", random.below(12)));
            }
            if random.below(4) == 0 {
                event["session_id"] = json!(format!("s{}", random.below(30)));
            }
            lines.push(event.to_string());
            if self.horizons.get(&tenant).is_some_and(|horizon| at < *horizon) {
                refused += 1;
            } else {
                self.sent.push(Sent { line: event.to_string(), id, tenant, account });
            }
        }
        let summary =
            ingest(&mut self.database.superuser(), &json_array(lines.iter().map(String::as_str))).unwrap();
        assert_eq!(
            (summary.accepted, summary.rejected),
            ((self.sent.len() - before) as i64, refused),
            "{:?}",
            summary.details
        );
    }

    fn fold(&mut self) {
        let fold = "SELECT sum(tally.fold(rollup_name))::int8 FROM tally.rollup";
        while self.admin.query_one(fold, &[]).unwrap().get::<_, i64>(0) > 0 {}
    }

    fn remove_months(&mut self, random: &mut Random) {
        self.fold();
        let verb = ["drop_raw", "detach_raw"][random.below(2)];
        let month = ["2024-02-01", "2024-03-01", "2024-04-01", "2024-05-15"][random.below(4)];
        self.admin.batch_execute(&format!("SELECT tally.{verb}('{month} 00:00Z')")).unwrap();
    }

    fn retain(&mut self, random: &mut Random) {
        let tenant = ["t1", "t2"][random.below(2)];
        let horizon = START + (20 + random.below(100)) as i64 * DAY;
        self.fold();
        self.admin
            .execute(
                "SELECT tally.set_retention($1, date_trunc('day', now(), 'UTC') - $2::text::timestamptz)",
                &[&tenant, &time(horizon)],
            )
            .unwrap();
        self.admin.batch_execute("CALL tally.maintain()").unwrap();
        if self.sent.iter().any(|event| event.tenant == tenant) {
            let moved = self.horizons.entry(tenant.to_owned()).or_insert(horizon);
            *moved = (*moved).max(horizon);
        }
    }

    fn rebuild(&mut self, random: &mut Random) {
        let rollup = ["usage", "user_activity", "session", "payment", "own"][random.below(5)];
        let tenant = [None, Some("t1"), Some("t3")][random.below(3)];
        // What is frozen whole is refused.
        let rebuilt =
            self.admin.execute("SELECT tally.rebuild_rollup($1, NULL, NULL, $2)", &[&rollup, &tenant]);
        if let Err(refused) = rebuilt {
            assert_eq!(refused.code().map(|code| code.code()), Some("55000"), "{refused}");
        }
    }

    fn alter(&mut self) {
        self.altered += 1;
        let measure = format!("max(occurred_at) AS latest_{}", self.altered);
        self.admin
            .execute("SELECT tally.alter_rollup('own', add_measures => ARRAY[$1])", &[&measure])
            .unwrap();
    }

    fn step(&mut self, random: &mut Random, tenants: &[&str]) {
        match random.below(9) {
            0..=2 => self.send(random, 40, tenants),
            3 => self.fold(),
            4 | 5 => self.remove_months(random),
            6 => self.retain(random),
            7 => self.rebuild(random),
            _ => self.alter(),
        }
    }

    /// Whether raw events of a scope are gone.
    fn lost(&self, scope: &Value) -> bool {
        let kept: HashSet<String> = self
            .database
            .superuser()
            .query("SELECT event_id::text FROM tally.events", &[])
            .unwrap()
            .iter()
            .map(|row| row.get(0))
            .collect();
        let within = |field: &str, value: &str| scope.get(field).is_none_or(|wanted| wanted == value);
        self.sent.iter().any(|event| {
            within("tenant_id", &event.tenant)
                && within("account_id", &event.account)
                && !kept.contains(&event.id)
        })
    }

    fn lines(&self) -> Vec<String> {
        self.sent.iter().map(|event| event.line.clone()).collect()
    }
}

/// Each metric over a range.
fn questions(from: &str, to: &str, random: &mut Random) -> Vec<(&'static str, Value)> {
    let unit = ["user", "account"][random.below(2)];
    let grain = ["day", "week", "month"][random.below(3)];
    let kind = ["first_time", "rolling", "bracketed"][random.below(3)];
    let funnel = |more: Value| {
        let mut all = json!({"steps": ["a", "b"], "window": "3 days", "from": from, "to": to, "unit": unit});
        all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        ("funnel", all)
    };
    let retention = |name: &'static str, more: Value| {
        let mut all = json!({"start_event": "a", "return_event": null, "grain": grain, "from": from, "to": to,
            "unit": unit, "kind": kind});
        all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        (name, all)
    };
    let mut questions = vec![
        funnel(json!({})),
        funnel(json!({"strict": true})),
        funnel(json!({"any_order": true, "exclude": ["other"]})),
        funnel(json!({"hold": "currency", "steps": ["pay", "pay"]})),
        funnel(json!({"breakdown": "currency", "steps": ["pay", "a"]})),
        retention("retention", json!({})),
        retention("retention", json!({"members": ["a", 2]})),
        retention("retention_curve", json!({"return_event": "b"})),
        (
            "activation",
            json!({"start_event": "a", "activation_event": "b", "window": "5 days", "from": from, "to": to,
                "unit": unit, "grain": grain}),
        ),
        ("session_metrics", json!({"from": from, "to": to, "grain": grain})),
        ("revenue", json!({"from": from, "to": to, "grain": grain})),
        ("revenue", json!({"from": from, "to": to, "grain": grain, "event": "pay"})),
        ("revenue", json!({"from": from, "to": to, "grain": grain, "amount_property": "value"})),
        ("did_at_least", json!({"event": "a", "n": 2, "from": from, "to": to, "unit": unit})),
        ("did_at_least", json!({"event": null, "n": 1, "from": from, "to": to, "unit": unit})),
        ("active_users", json!({"days": format!("[{},{})", &from[..10], "2024-06-30"), "unit": unit})),
        ("account_health", json!({"account": "a1", "as_of": to, "zone": "Europe/Berlin"})),
        ("account_health", json!({"account": "nobody", "as_of": to})),
    ];
    for (name, definition) in DEFINITIONS {
        let definition: Value = serde_json::from_str(definition).unwrap();
        questions
            .push(("metric_value", json!({"name": name, "definition": definition, "from": from, "to": to})));
    }
    // Some of one account alone.
    for (function, arguments) in &mut questions {
        if *function != "account_health" && random.below(3) == 0 {
            arguments["account"] = json!(["a0", "a1"][random.below(2)]);
        }
    }
    questions
}

#[derive(Default, Debug)]
struct Tally {
    right: usize,
    refused: usize,
    marked: usize,
    /// Right where events of the scope are gone.
    right_after_loss: BTreeMap<String, usize>,
    narrowed: usize,
}

/// Asks all readers, in both ways of the setting, and asks again for what is said to be whole.
fn check(model: &Model, readers: &mut [Reader], asked: &[(&'static str, Value)], tally: &mut Tally) {
    let lost: Vec<bool> = readers.iter().map(|reader| model.lost(&reader.scope)).collect();
    let all: Vec<Value> = readers
        .iter()
        .flat_map(|reader| asked.iter().map(|(function, arguments)| question(reader, function, arguments)))
        .collect();
    let mut answers = expected(model.database.name(), &model.lines(), &all).into_iter();
    let mut again: Vec<(usize, &'static str, Value)> = Vec::new();
    for (place, reader) in readers.iter_mut().enumerate() {
        let scope = reader.scope.clone();
        let mut ask = |mode: &str, function, arguments: &Value| {
            reader.client.batch_execute(&format!("SET tally.incomplete = '{mode}'")).unwrap();
            reader.ask(function, arguments.as_object().unwrap())
        };
        for (function, arguments) in asked {
            let expected = answers.next().unwrap();
            let question = format!("{function}({arguments}) in {scope}");
            match ask("error", function, arguments) {
                Ok(mut rows) => {
                    for marks in take_marks(&mut rows) {
                        let whole =
                            matches!(marks, (None, None) | (Some(Value::Bool(true)), Some(Value::Null)));
                        assert!(whole, "{question}: {marks:?}");
                    }
                    assert!(
                        agree(&rows, &expected),
                        "{question}:\n  seen     {rows:?}\n  expected {expected:?}"
                    );
                    tally.right += 1;
                    if lost[place] {
                        let name = arguments.get("name").and_then(Value::as_str).unwrap_or(function);
                        *tally.right_after_loss.entry(name.to_owned()).or_default() += 1;
                    }
                }
                Err(error) => {
                    let error = error.as_db_error().unwrap_or_else(|| panic!("{question}: {error}"));
                    if error.code().code() == "22023" && *function == "account_health" {
                        continue;
                    }
                    assert_eq!(error.code().code(), INCOMPLETE, "{question}: {error}");
                    assert!(error.hint().is_some(), "{question}");
                    assert!(lost[place], "{question} is refused, and nothing is gone");
                    tally.refused += 1;
                    let mut rows =
                        ask("mark", function, arguments).unwrap_or_else(|e| panic!("{question}: {e:?}"));
                    for (exact, whole_from) in take_marks(&mut rows) {
                        assert_eq!(exact, Some(json!(false)), "{question}");
                        let whole_from = whole_from.and_then(|moment| moment.as_str().map(str::to_owned));
                        let whole_from = whole_from.unwrap_or_else(|| panic!("{question}: no moment"));
                        tally.marked += 1;
                        // What revenue needs has no beginning.
                        let narrows = !matches!(*function, "revenue" | "account_health");
                        if narrows
                            && again.last().is_none_or(|(p, f, a)| {
                                (*p, *f) != (place, *function) || a["to"] != arguments["to"]
                            })
                        {
                            let mut arguments = arguments.clone();
                            arguments["from"] = json!(whole_from);
                            again.push((place, function, arguments));
                        }
                    }
                }
            }
        }
    }
    // What is left of the range after that moment is answered, rightly.
    again.retain(|(place, _, arguments)| {
        let [from, to] = ["from", "to"].map(|end| arguments[end].as_str().unwrap());
        let is_left = "SELECT $1::text::timestamptz < $2::text::timestamptz";
        readers[*place].client.query_one(is_left, &[&from, &to]).unwrap().get(0)
    });
    let all: Vec<Value> = again
        .iter()
        .map(|(place, function, arguments)| question(&readers[*place], function, arguments))
        .collect();
    let answers = expected(model.database.name(), &model.lines(), &all);
    for ((place, function, arguments), expected) in again.iter().zip(answers) {
        let reader = &mut readers[*place];
        reader.client.batch_execute("SET tally.incomplete = 'error'").unwrap();
        let rows = reader.ask(function, arguments.as_object().unwrap());
        let mut rows =
            rows.unwrap_or_else(|error| panic!("{function}({arguments}) is said to be whole: {error:?}"));
        take_marks(&mut rows);
        assert!(
            agree(&rows, &expected),
            "{function}({arguments}):\n  seen     {rows:?}\n  expected {expected:?}"
        );
        tally.narrowed += 1;
    }
}

fn agree(rows: &[Value], expected: &[Value]) -> bool {
    rows.len() == expected.len() && rows.iter().zip(expected).all(|(seen, expected)| same(seen, expected))
}

/// As the oracle is asked, which takes no name for a declared metric.
fn question(reader: &Reader, function: &str, arguments: &Value) -> Value {
    let mut arguments = arguments.clone();
    arguments.as_object_mut().unwrap().remove("name");
    json!({"scope": reader.scope, "function": function, "arguments": arguments})
}

fn range(random: &mut Random) -> (String, String) {
    let day = |random: &mut Random, first: usize, last: usize| {
        let within = [0, 0, 0, 1, 30_000_000_000, DAY - 1][random.below(6)];
        START + (first + random.below(last - first)) as i64 * DAY + within
    };
    let from = day(random, 0, 150);
    let length = [10, 30, DAYS][random.below(3)];
    let first = ((from - START) / DAY) as usize + 1;
    (time(from), time(day(random, first, first + length)))
}

/// `TALLY_CASES` rounds of steps and questions, four unless told otherwise.
#[test]
fn every_answer_is_right_or_says_that_it_is_not() {
    if !oracle_is_there() {
        return;
    }
    let cases: usize = std::env::var("TALLY_CASES").map_or(4, |text| text.parse().expect("a whole number"));
    let mut random = seeded();
    let mut tally = Tally::default();
    let mut model = Model::new("whole");
    let mut readers = readers(&mut model.database, "t1", "a1");
    model.send(&mut random, 500, &["t1", "t2", "t3"]);
    for case in 0..cases {
        // A tenant that comes after the first loss has lost nothing.
        let tenants = if case == 0 { &["t1", "t2", "t3"][..] } else { &["t1", "t2", "t3", "t4"] };
        if case > 0 {
            model.remove_months(&mut random);
            if case % 2 == 0 {
                model.retain(&mut random);
            }
            for _ in 0..3 {
                model.step(&mut random, tenants);
            }
            model.send(&mut random, 60, tenants);
        }
        let mut asked = Vec::new();
        // Any range, and one that reaches from what may be gone to what is never.
        let (from, _) = range(&mut random);
        let long = (from, time(START + (DAYS - random.below(5)) as i64 * DAY));
        for (from, to) in [range(&mut random), long] {
            asked.extend(questions(&from, &to, &mut random));
        }
        check(&model, &mut readers, &asked, &mut tally);
    }
    println!("{tally:?}");
    if cases >= 4 {
        assert!(tally.refused > 0 && tally.marked > 0 && tally.narrowed > 0, "{tally:?}");
        for name in [
            "m_events",
            "m_all",
            "m_units",
            "m_paid",
            "m_value",
            "revenue",
            "retention",
            "active_users",
            "session_metrics",
        ] {
            assert!(tally.right_after_loss.contains_key(name), "{name} never answers: {tally:?}");
        }
    }
    // What is noted of losses goes with a dump.
    let copy = Database::without_extension("whole_restored");
    let (bin, sockets) = bin_and_sockets();
    let port: i32 = copy.superuser().query_one("SELECT current_setting('port')::int", &[]).unwrap().get(0);
    let dump = format!(
        "{0}/pg_dump -h {1} -p {port} -U postgres -Fc {2} | {0}/pg_restore -h {1} -p {port} -U postgres -d {3} --exit-on-error",
        bin.display(),
        sockets.display(),
        model.database.name(),
        copy.name()
    );
    assert!(Command::new("sh").args(["-c", &dump]).status().unwrap().success());
    let original = std::mem::replace(&mut model.database, copy);
    let mut readers = tally_server_tests::readers(&mut model.database, "t1", "a1");
    let (from, to) = range(&mut random);
    check(&model, &mut readers, &questions(&from, &to, &mut random), &mut tally);
    drop(original);
}
