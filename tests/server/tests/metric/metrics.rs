//! Every metric against tests/oracle/metrics.py, which computes it a second time from its definition: on real input and
//! on generated edges, as an operator, as a tenant's login and as an account's, in sessions of several time zones.

use serde_json::{Map, Value, json};
use tally_server_tests::{
    Database, Reader, expected, git_events, ingest, json_array, oracle_is_there, readers, same, seeded,
    take_marks,
};
use tally_workload::{Random, write_time};

const DAY: i64 = 86_400_000_000;
/// How often a user, and an account, has to have had event `a` in a range for the cohorts declared here.
const OFTEN_USER: i64 = 3;
const OFTEN_ACCOUNT: i64 = 60;

/// Asks every question in every scope, of the database and of the oracle; returns how many rows agreed.
fn compare(
    database: &Database,
    lines: &[String],
    readers: &mut [Reader],
    questions: &[(&str, Value)],
) -> usize {
    // Some of them again, all where they are few, for one account of those in scope: its own numbers, as a login that is bound to it has
    // them.
    let account = readers.last().expect("a reader that is bound to an account").scope["account_id"].clone();
    let mut questions = questions.to_vec();
    let every = 1 + questions.len() / 100;
    for (function, arguments) in questions.clone().into_iter().step_by(every) {
        if function != "account_health" {
            let mut arguments = arguments;
            arguments["account"] = account.clone();
            questions.push((function, arguments));
        }
    }
    let questions = &questions;
    let all: Vec<Value> = readers
        .iter()
        .flat_map(|reader| {
            questions.iter().map(|(function, arguments)| {
                json!({"scope": reader.scope, "function": function, "arguments": arguments})
            })
        })
        .collect();
    let mut answers = expected(database.name(), lines, &all).into_iter();
    let mut rows = 0;
    for reader in readers {
        for (function, arguments) in questions {
            let expected = answers.next().expect("an answer a question");
            let mut seen = reader
                .ask(function, arguments.as_object().unwrap())
                .unwrap_or_else(|problem| panic!("{function}({arguments}): {problem:?}"));
            // Nothing is gone here; what is then, whole_ranges.rs shows.
            for marks in take_marks(&mut seen) {
                assert!(
                    matches!(marks, (None, None) | (Some(Value::Bool(true)), Some(Value::Null))),
                    "{marks:?}"
                );
            }
            let scope = &reader.scope;
            for (seen, expected) in seen.iter().zip(&expected) {
                assert!(
                    same(seen, expected),
                    "{function}({arguments}) in {scope}:\n  seen     {seen}\n  expected {expected}"
                );
            }
            assert_eq!(seen.len(), expected.len(), "rows of {function}({arguments}) in {scope}");
            rows += seen.len();
        }
    }
    println!("{rows} rows compared");
    rows
}

#[test]
fn metrics_of_real_input_agree_with_the_oracle() {
    let Some(events) = git_events() else { return };
    if !oracle_is_there() {
        return;
    }
    let mut database = Database::new("metric_real");
    let mut admin = database.superuser();
    for batch in events.chunks(20_000) {
        ingest(&mut admin, &json_array(batch.iter().map(|event| event.line.as_str()))).unwrap();
    }
    let lines: Vec<String> = events.iter().map(|event| event.line.clone()).collect();
    let mut readers = readers(&mut database, "theory", "pgtap");
    let (from, to) = ("2012-01-01T00:00:00Z", "2014-01-01T00:00:00Z");
    let one = json!({"event": "commit", "where": {"files": 1}, "label": "one file"});
    let two = json!({"event": "commit", "where": {"files": 2}, "label": "two files"});
    let rows = compare(
        &database,
        &lines,
        &mut readers,
        &[
            (
                "funnel",
                json!({"steps": ["commit", "commit", "commit"], "window": "1 day", "from": from, "to": to}),
            ),
            (
                "funnel",
                json!({"steps": [one, two], "window": "7 days", "from": from, "to": to, "unit": "account"}),
            ),
            (
                "funnel",
                json!({"steps": [two, one], "window": "1 hour", "from": from, "to": to, "breakdown": "insertions"}),
            ),
            (
                "retention",
                json!({"start_event": "commit", "return_event": "commit", "grain": "month", "from": from, "to": to}),
            ),
            (
                "retention",
                json!({"start_event": "commit", "return_event": "commit", "grain": "week", "from": from, "to": to,
                                 "kind": "rolling"}),
            ),
            (
                "retention_curve",
                json!({"start_event": null, "return_event": null, "grain": "month", "from": from, "to": to}),
            ),
            (
                "activation",
                json!({"start_event": null, "activation_event": "commit", "window": "30 days", "from": from, "to": to}),
            ),
            ("session_metrics", json!({"from": from, "to": to, "grain": "week"})),
            (
                "revenue",
                json!({"from": from, "to": to, "amount_property": "insertions", "currency_property": "none"}),
            ),
            ("active_users", json!({"days": "[2012-02-15,2012-03-15)"})),
            ("active_users", json!({"days": "[2013-02-15,2013-03-15)", "unit": "account"})),
            ("did_at_least", json!({"event": "commit", "n": 10, "from": from, "to": to})),
            (
                "account_health",
                json!({"account": "pgtap", "as_of": "2013-03-15T12:00:00Z", "zone": "Europe/Berlin"}),
            ),
            ("accounts_health", json!({"as_of": "2013-03-15T12:00:00Z", "zone": "Europe/Berlin"})),
        ],
    );
    assert!(rows > 500, "only {rows} rows: the questions ask too little");
}

/// Events that crowd around the edges: ties, windows' ends, months' ends, leap days, changes of the clock, the same user
/// in two accounts and in two tenants, nobody, properties of every type.
fn edges(random: &mut Random, number: usize) -> Vec<String> {
    // 2024: 31 January, 28 and 29 February, 1 March, DST in New York (10 March, 3 November) and Lord Howe (6 April),
    // the year's end; as days after 2024-01-01, which began 1,704,067,200 s after 1970.
    let days = [30, 58, 59, 60, 69, 96, 307, 365, 366];
    let shifts = [
        0,
        0,
        0,
        -1,
        1,
        DAY,
        DAY - 1,
        DAY + 1,
        3_600_000_000,
        3_600_000_001,
        7 * DAY,
        25_200_000_000,
        1_800_000_000,
        1_800_000_001,
        -1_800_000_000,
        -1_800_000_001,
    ];
    (0..number)
        .map(|position| {
            let mut occurred_at = String::new();
            let shift = shifts[random.below(shifts.len())];
            write_time(&mut occurred_at, 1_704_067_200_000_000 + days[random.below(days.len())] * DAY + shift);
            let mut properties = Map::new();
            if random.below(4) > 0 {
                properties.insert("plan".into(), json!(["free", "pro", "ünï", ""][random.below(4)]));
            }
            if random.below(2) > 0 {
                let amounts = [json!(10), json!(2.5), json!(-4), json!(0), json!("7"), json!(true), json!(0.1), json!(99.99)];
                properties.insert("amount".into(), amounts[random.below(amounts.len())].clone());
                properties.insert("currency".into(), [json!("EUR"), json!("USD"), json!(null)][random.below(3)].clone());
            }
            let mut event = json!({
                "event_id": format!("00000000-0000-4000-8000-{position:012}"),
                "tenant_id": (["t1", "t1", "t2"][random.below(3)]), "account_id": format!("a{}", random.below(4)),
                "name": (["a", "b", "c", "help"][random.below(4)]), "occurred_at": occurred_at, "properties": properties,
            });
            if random.below(10) > 0 {
                event["user_id"] = json!(format!("u{}", random.below(40)));
            }
            if random.below(3) == 0 {
                event["session_id"] = json!(format!("s{}", random.below(60)));
            }
            event.to_string()
        })
        .collect()
}

/// The registers of the enriched layer against plain SQL over the raw events, as every reader.
fn registers_agree_with_the_events(readers: &mut [Reader]) {
    let pairs = [
        (
            "SELECT tenant_id, user_id, first_seen, last_seen, events, active_days FROM tally.users",
            "SELECT tenant_id, user_id, min(occurred_at), max(occurred_at), count(*), \
                    count(DISTINCT (occurred_at AT TIME ZONE 'UTC')::date) \
               FROM tally.events WHERE user_id IS NOT NULL GROUP BY 1, 2",
        ),
        (
            "SELECT tenant_id, account_id, first_seen, last_seen, events, active_days, users FROM tally.accounts",
            "SELECT tenant_id, account_id, min(occurred_at), max(occurred_at), count(*), \
                    count(DISTINCT (occurred_at AT TIME ZONE 'UTC')::date), count(DISTINCT user_id) \
               FROM tally.events GROUP BY 1, 2",
        ),
        (
            "SELECT tenant_id, account_id, session_id, user_id, started_at, ended_at, events FROM tally.sessions",
            "SELECT tenant_id, account_id, session_id, max(user_id), min(occurred_at), max(occurred_at), count(*) \
               FROM tally.events WHERE session_id IS NOT NULL GROUP BY 1, 2, 3 \
             UNION ALL SELECT tenant_id, account_id, NULL, user_id, min(occurred_at), max(occurred_at), count(*) \
               FROM (SELECT *, count(*) FILTER (WHERE starts) OVER (PARTITION BY tenant_id, account_id, user_id ORDER BY occurred_at) AS number \
                       FROM (SELECT *, occurred_at - lag(occurred_at) OVER (PARTITION BY tenant_id, account_id, user_id ORDER BY occurred_at) > interval '30 minutes' AS starts \
                               FROM tally.events WHERE session_id IS NULL AND user_id IS NOT NULL) AS e) AS e \
              GROUP BY tenant_id, account_id, user_id, number",
        ),
    ];
    for reader in readers {
        for (register, events) in pairs {
            let query = format!(
                "SELECT (SELECT count(*) FROM ({register}) AS r), (SELECT count(*) FROM ({register} EXCEPT ALL ({events})) AS d), \
                        (SELECT count(*) FROM (({events}) EXCEPT ALL {register}) AS d)"
            );
            let mut transaction = reader.client.transaction().unwrap();
            transaction.batch_execute(reader.enter).unwrap();
            let row =
                transaction.query_one(&query, &[]).unwrap_or_else(|problem| panic!("{query}: {problem:?}"));
            let (rows, more, less): (i64, i64, i64) = (row.get(0), row.get(1), row.get(2));
            assert!(
                rows > 0 && more == 0 && less == 0,
                "{register}: {rows} rows, {more} wrong, {less} missing"
            );
        }
    }
}

#[test]
fn metrics_of_edges_agree_with_the_oracle() {
    if !oracle_is_there() {
        return;
    }
    let mut random = seeded();
    let mut database = Database::new("metric_edges");
    let lines = edges(&mut random, 1_500);
    let mut admin = database.superuser();
    // In no order of time, the second half late.
    for half in lines.chunks(750) {
        assert_eq!(ingest(&mut admin, &json_array(half.iter().map(String::as_str))).unwrap().accepted, 750);
        // Some of it folded, some of the same units' activity pending.
        admin.batch_execute("SELECT tally.fold('user_activity', 500), tally.fold('session', 400)").unwrap();
    }
    for (unit, often) in [("user", OFTEN_USER), ("account", OFTEN_ACCOUNT)] {
        let definition = json!({"event": "a", "at_least": often, "unit": unit}).to_string();
        admin
            .execute(
                "SELECT tally.define_cohort($1, $2::text::jsonb)",
                &[&format!("often_{unit}"), &definition],
            )
            .unwrap();
    }
    let mut readers = readers(&mut database, "t1", "a1");
    let ranges = [
        ("2024-01-31T00:00:00Z", "2025-01-02T00:00:00Z"),
        ("2024-02-29T00:00:00Z", "2024-03-01T00:00:00.000001Z"),
        ("2024-03-10T07:00:00Z", "2024-11-03T00:00:00Z"),
    ];
    let pro = json!({"event": "b", "where": {"plan": "pro"}, "label": "b as pro"});
    let mut questions = Vec::new();
    for (from, to) in ranges {
        for unit in ["user", "account"] {
            for window in ["1 hour", "7 days"] {
                for steps in [json!(["a", "b", "c"]), json!(["a", "a", "b", "a"]), json!(["c", pro, "a"])] {
                    let plain =
                        json!({"steps": steps, "window": window, "from": from, "to": to, "unit": unit});
                    for more in [
                        json!({}),
                        json!({"strict": unit == "user"}),
                        json!({"hold": "plan"}),
                        json!({"any_order": unit == "user", "exclude": ["help"]}),
                        json!({"any_order": unit == "user", "hold": "plan", "breakdown": "currency"}),
                        json!({"breakdown": "plan", "exclude": ["help"]}),
                        json!({"breakdown": "plan", "attribution": "last_step"}),
                        json!({"any_order": unit == "user", "breakdown": "plan", "attribution": "last_step"}),
                        json!({"hold": "currency", "breakdown": "plan", "exclude": ["help", "other"]}),
                    ] {
                        let mut all = plain.clone();
                        all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
                        questions.push(("funnel", all));
                    }
                }
                questions.push((
                    "activation",
                    json!({"start_event": "a", "activation_event": "b", "window": window,
                    "from": from, "to": to, "unit": unit, "grain": "day"}),
                ));
            }
            for grain in ["day", "week", "month"] {
                for kind in ["first_time", "rolling", "bracketed"] {
                    for returned in [json!(null), json!("a"), json!("b")] {
                        let all = json!({"start_event": "a", "return_event": returned, "grain": grain,
                        "from": from, "to": to, "unit": unit, "kind": kind});
                        questions.push((if grain == "day" { "retention_curve" } else { "retention" }, all));
                    }
                    let often = if unit == "user" { OFTEN_USER } else { OFTEN_ACCOUNT };
                    let all = json!({"start_event": "a", "return_event": null, "grain": grain, "from": from, "to": to,
                        "unit": unit, "kind": kind, "members": ["a", often]});
                    questions.push((if grain == "day" { "retention_curve" } else { "retention" }, all));
                }
            }
            questions
                .push(("did_at_least", json!({"event": "a", "n": 3, "from": from, "to": to, "unit": unit})));
        }
        for grain in ["day", "week", "month"] {
            questions.push(("revenue", json!({"from": from, "to": to, "grain": grain})));
            questions.push(("session_metrics", json!({"from": from, "to": to, "grain": grain})));
        }
        questions.push(("revenue", json!({"from": from, "to": to, "event": "a"})));
    }
    for unit in ["user", "account"] {
        questions.push(("active_users", json!({"days": "[2024-02-27,2024-03-20)", "unit": unit})));
    }
    for (account, as_of) in [("nobody", "2024-04-01T00:00:00Z"), ("none", "2025-01-01T00:00:00Z")] {
        questions.push(("account_health", json!({"account": account, "as_of": as_of})));
    }
    let rows = compare(&database, &lines, &mut readers, &questions);
    assert!(rows > 5_000, "only {rows} rows: the questions ask too little");
    registers_agree_with_the_events(&mut readers);
    // The operator sees the account in two tenants, which is an error; a test below has it.
    let health: Vec<_> = [
        "2024-03-10T07:00:00Z",
        "2024-03-11T06:59:59.999999Z",
        "2024-11-04T00:00:00Z",
        "2024-01-01T00:00:00Z",
    ]
    .into_iter()
    .map(|as_of| ("account_health", json!({"account": "a1", "as_of": as_of, "zone": "America/New_York"})))
    .collect();
    assert_eq!(compare(&database, &lines, &mut readers[1..], &health), 2 * health.len());
}
