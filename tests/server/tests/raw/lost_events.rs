//! Each metric before and after raw events are removed, whole and in part, of one tenant and of all; who is warned that row
//! security holds nothing back.

use postgres::{Client, SimpleQueryMessage};
use serde_json::json;
use tally_server_tests::{Database, Session, away_from_midnight, fold_all, ingest};

const ROLLUPS: [&str; 4] = ["usage", "user_activity", "session", "payment"];

/// A question, and whether what is kept for ever answers it.
struct Question {
    sql: &'static str,
    survives: bool,
}

/// Over January alone, over January to March, and over March alone, where `[` and `]` are the ends.
const QUESTIONS: &[Question] = &[
    Question {
        sql: "SELECT step, units, median_seconds FROM tally.funnel(ARRAY['tried', 'paid'], '30 days', [])",
        survives: false,
    },
    Question {
        sql: "SELECT segment, units FROM tally.funnel(ARRAY['tried', 'paid'], '30 days', [], breakdown => 'currency')",
        survives: false,
    },
    Question {
        sql: "SELECT units FROM tally.funnel(ARRAY['tried'], '30 days', [], strict => true)",
        survives: false,
    },
    Question { sql: "SELECT units FROM tally.funnel(ARRAY['never'], '30 days', [])", survives: true },
    Question {
        sql: "SELECT cohort, period, cohort_size, retained FROM tally.retention('tried', NULL, 'month', [])",
        survives: true,
    },
    Question {
        sql: "SELECT cohort, period, cohort_size, retained FROM tally.retention('tried', NULL, 'week', [], of_cohort => 'payers')",
        survives: false,
    },
    Question {
        sql: "SELECT period, units, retained FROM tally.retention_curve(NULL, 'paid', 'month', [], 'account')",
        survives: true,
    },
    Question {
        sql: "SELECT period, units FROM tally.retention_curve(NULL, 'paid', 'month', [], of_cohort => 'payers')",
        survives: false,
    },
    Question {
        sql: "SELECT cohort, cohort_size, activated, median_seconds FROM tally.activation('tried', 'paid', '30 days', [])",
        survives: true,
    },
    Question {
        sql: "SELECT period, sessions, bounced, mean_seconds FROM tally.session_metrics([], 'month')",
        survives: true,
    },
    Question {
        sql: "SELECT period, tenant_id, account_id, currency, amount, new, reactivation, expansion, contraction, churned, arpa, cumulative FROM tally.revenue([])",
        survives: true,
    },
    Question {
        sql: "SELECT period, account_id, amount, new, cumulative FROM tally.revenue([], 'week', event => 'paid')",
        survives: true,
    },
    Question {
        sql: "SELECT tenant_id, unit_id, times, last_at FROM tally.did_at_least('paid', 1, [])",
        survives: false,
    },
    Question {
        sql: "SELECT tenant_id, unit_id, times FROM tally.cohort_members('payers', [])",
        survives: false,
    },
    Question {
        sql: "SELECT value, exact, stderror FROM tally.metric_value('purchases', [])",
        survives: true,
    },
    Question { sql: "SELECT value FROM tally.metric_value('everything', [])", survives: true },
    Question { sql: "SELECT value FROM tally.metric_value('payers', [])", survives: true },
    Question { sql: "SELECT value FROM tally.metric_value('accounts', [])", survives: true },
    Question { sql: "SELECT value FROM tally.metric_value('estimated', [])", survives: true },
    Question { sql: "SELECT value FROM tally.metric_value('turnover', [])", survives: true },
    Question { sql: "SELECT round(value, 9) FROM tally.metric_value('basket', [])", survives: true },
    Question { sql: "SELECT round(value, 9) FROM tally.metric_value('per_event', [])", survives: true },
    Question { sql: "SELECT value FROM tally.metric_value('values', [])", survives: true },
    Question { sql: "SELECT round(value, 9) FROM tally.metric_value('value_mean', [])", survives: false },
    Question { sql: "SELECT value FROM tally.metric_value('clamped', [])", survives: false },
    Question { sql: "SELECT value FROM tally.metric_value('conversion', [])", survives: false },
    Question { sql: "SELECT value FROM tally.metric_value('back', [])", survives: true },
    Question {
        sql: "SELECT period, value, exact FROM tally.metric_series('purchases', [], 'week')",
        survives: true,
    },
    Question {
        sql: "SELECT period, value FROM tally.metric_series('conversion', [], 'month')",
        survives: false,
    },
];

const METRICS: [(&str, &str); 12] = [
    ("purchases", r#"{"kind": "events", "event": "paid"}"#),
    ("everything", r#"{"kind": "events"}"#),
    ("payers", r#"{"kind": "units", "event": "paid"}"#),
    ("accounts", r#"{"kind": "units", "unit": "account"}"#),
    ("estimated", r#"{"kind": "units", "approximate": true}"#),
    ("turnover", r#"{"kind": "sum", "event": "paid", "property": "amount"}"#),
    ("basket", r#"{"kind": "mean", "property": "amount"}"#),
    ("per_event", r#"{"kind": "mean", "property": "amount", "missing": "zero"}"#),
    ("values", r#"{"kind": "sum", "property": "value"}"#),
    ("value_mean", r#"{"kind": "mean", "property": "value"}"#),
    ("clamped", r#"{"kind": "sum", "property": "amount", "outliers": {"treat": "clamp", "greatest": 5}}"#),
    ("back", r#"{"kind": "retention", "grain": "month", "period": 1}"#),
];

const RANGES: [(&str, &str); 3] = [
    ("2024-01-01 00:00Z", "2024-02-01 00:00Z"),
    ("2024-01-01 00:00Z", "2024-04-01 00:00Z"),
    ("2024-03-01 00:00Z", "2024-04-01 00:00Z"),
];

struct Shop {
    database: Database,
    admin: Client,
    superuser: Client,
}

impl Shop {
    fn new(topic: &str) -> Self {
        let mut database = Database::new(topic);
        away_from_midnight();
        let admin = database.role("admin", &["tally_admin"]);
        let mut admin = database.connect(&admin);
        for (name, definition) in METRICS {
            admin.execute("SELECT tally.define_metric($1, $2::text::jsonb)", &[&name, &definition]).unwrap();
        }
        admin
            .batch_execute(
                r#"SELECT tally.define_metric('conversion', '{"kind": "funnel", "steps": ["tried", "paid"], "window": "30 days"}');
                   SELECT tally.define_cohort('payers', '{"event": "paid", "at_least": 1}')"#,
            )
            .unwrap();
        let superuser = database.superuser();
        Self { database, admin, superuser }
    }

    /// A customer who tries at the end of January, pays then and in March; and one who comes in March.
    fn send(&mut self, tenant: &str, account: &str, months: &[u32]) {
        let mut events = Vec::new();
        let mut add = |name: &str, user: &str, at: String, properties: serde_json::Value| {
            let number = events.len();
            events.push(json!({"tenant_id": tenant, "account_id": account, "name": name, "user_id": format!("{account}-{user}"),
                "occurred_at": at, "properties": properties,
                "event_id": format!("{:02x}{:02x}0000-0000-4000-8000-{number:012}", tenant.as_bytes()[0], account.as_bytes()[0])}));
        };
        for &month in months {
            let paid = json!({"amount": 10.5 * f64::from(month), "currency": "EUR", "value": month});
            add("tried", "old", format!("2024-0{month}-29T10:15:00Z"), json!({"value": 1}));
            add("tried", "old", format!("2024-0{month}-29T10:45:00Z"), json!({}));
            add("paid", "old", format!("2024-0{month}-30T09:00:00Z"), paid.clone());
            add("paid", &format!("of{month}"), format!("2024-0{month}-11T09:00:00Z"), paid);
        }
        let sent = events.len() as i64;
        assert_eq!(ingest(&mut self.superuser, &json!(events).to_string()).unwrap().accepted, sent);
    }

    fn fold(&mut self) {
        ROLLUPS.iter().for_each(|rollup| fold_all(&mut self.admin, rollup));
    }

    fn login(&mut self, topic: &str, tenant: &str, account: Option<&str>) -> Client {
        let role = self.database.role(topic, &["tally_reader"]);
        self.superuser
            .execute("SELECT tally.bind_role($1::text::regrole, $2, $3)", &[&role, &tenant, &account])
            .unwrap();
        self.database.connect(&role)
    }
}

/// The answer in lines, or the code of the error.
fn answer(client: &mut Client, enter: &str, sql: &str) -> Result<String, String> {
    let query = format!("BEGIN; {enter} {sql}");
    let found = client.simple_query(&query);
    let found = match found {
        Ok(messages) => {
            let rows = messages.iter().filter_map(|message| match message {
                SimpleQueryMessage::Row(row) if row.columns()[0].name() != "enter_global" => Some(
                    (0..row.len()).map(|column| row.get(column).unwrap_or("")).collect::<Vec<_>>().join("|"),
                ),
                _ => None,
            });
            Ok(rows.collect::<Vec<_>>().join("\n"))
        }
        Err(error) => {
            Err(error.as_db_error().unwrap_or_else(|| panic!("{sql}: {error}")).code().code().to_owned())
        }
    };
    client.batch_execute("ROLLBACK").unwrap();
    found
}

fn over(question: &Question, (from, to): (&str, &str)) -> String {
    question.sql.replace("[]", &format!("'{from}', '{to}'"))
}

struct Asking {
    name: &'static str,
    client: Client,
    enter: &'static str,
    /// Whether January is gone for it.
    loses: bool,
    before: Vec<Result<String, String>>,
}

fn ask_all(asking: &mut Asking) -> Vec<Result<String, String>> {
    RANGES
        .iter()
        .flat_map(|range| QUESTIONS.iter().map(move |question| over(question, *range)))
        .map(|sql| answer(&mut asking.client, asking.enter, &sql))
        .collect()
}

fn removal(topic: &str, remove: impl FnOnce(&mut Shop), loses_b: bool) {
    let mut shop = Shop::new(topic);
    for tenant in ["a", "b"] {
        shop.send(tenant, "x", &[1, 3]);
        shop.send(tenant, "y", &[3]);
    }
    shop.send("c", "x", &[3]);
    let operator = shop.database.role("operator", &["tally_analyst"]);
    let mut readers = Vec::new();
    for (name, tenant, account, loses) in [
        ("a", "a", None, true),
        ("ax", "a", Some("x"), true),
        // Its account, and tenant c, had nothing in January.
        ("ay", "a", Some("y"), false),
        ("b", "b", None, loses_b),
        ("c", "c", None, false),
    ] {
        let client = shop.login(&format!("r{name}"), tenant, account);
        readers.push(Asking { name, client, enter: "", loses, before: Vec::new() });
    }
    let client = shop.database.connect(&operator);
    readers.push(Asking {
        name: "global",
        client,
        enter: "SELECT tally.enter_global();",
        loses: true,
        before: Vec::new(),
    });
    for reader in &mut readers {
        reader.before = ask_all(reader);
        for found in &reader.before {
            assert!(found.is_ok(), "{}: {found:?}", reader.name);
        }
    }
    shop.fold();
    remove(&mut shop);
    for reader in &mut readers {
        let after = ask_all(reader);
        for (place, (before, after)) in reader.before.iter().zip(&after).enumerate() {
            let range = RANGES[place / QUESTIONS.len()];
            let question = &QUESTIONS[place % QUESTIONS.len()];
            let is_gone = reader.loses && !question.survives && range.0 < "2024-02";
            let said = format!("{} asks {}", reader.name, over(question, range));
            if is_gone {
                assert_eq!(after, &Err("55T20".to_owned()), "{said}");
                reader.client.batch_execute("SET tally.incomplete = 'mark'").unwrap();
                let columns = question.sql.split_once(" FROM ").unwrap().1;
                let marks = format!("SELECT DISTINCT exact, whole_from AT TIME ZONE 'UTC' FROM {columns}")
                    .replace("[]", &format!("'{}', '{}'", range.0, range.1));
                let marked = answer(&mut reader.client, reader.enter, &marks).unwrap();
                reader.client.batch_execute("RESET tally.incomplete").unwrap();
                // The weeks of a series from February on are whole.
                let marked: Vec<&str> = marked.lines().filter(|line| *line != "t|").collect();
                assert!(marked.is_empty() || marked == ["f|2024-02-01 00:00:00"], "{said}: {marked:?}");
            } else {
                assert_eq!(after, before, "{said}");
            }
        }
    }
    // A tenant that comes later, with events of the month that is gone, has lost none.
    shop.send("d", "x", &[1, 3]);
    let mut late = shop.login("rd", "d", None);
    let numbers = "SELECT (SELECT value FROM tally.metric_value('purchases', '2024-01-01Z', '2024-04-01Z')), \
                          (SELECT max(units) FROM tally.funnel(ARRAY['tried', 'paid'], '30 days', '2024-01-01Z', '2024-04-01Z')), \
                          (SELECT sum(new) FROM tally.revenue('2024-01-01Z', '2024-04-01Z'))";
    assert_eq!(answer(&mut late, "", numbers), Ok("4|1|21.0".to_owned()));
}

#[test]
fn after_dropped_months_every_metric_is_right_or_refused() {
    removal(
        "lost_all",
        |shop| shop.admin.batch_execute("SELECT tally.drop_raw('2024-02-01Z')").unwrap(),
        true,
    );
}

#[test]
fn after_detached_months_every_metric_is_right_or_refused() {
    removal(
        "lost_away",
        |shop| shop.admin.batch_execute("SELECT tally.detach_raw('2024-02-01Z')").unwrap(),
        true,
    );
}

#[test]
fn after_one_tenants_retention_only_its_metrics_are_refused() {
    let retain = |shop: &mut Shop| {
        shop.admin
            .batch_execute("SELECT tally.set_retention('a', date_trunc('day', now(), 'UTC') - timestamptz '2024-02-01 00:00Z')")
            .unwrap();
        shop.admin.batch_execute("CALL tally.maintain()").unwrap();
    };
    removal("lost_one", retain, false);
}

/// A range that ends within an hour, or a day, of which events are gone.
#[test]
fn what_a_bucket_cannot_divide_is_refused() {
    let mut shop = Shop::new("lost_split");
    shop.send("a", "x", &[1, 3]);
    shop.fold();
    shop.admin.batch_execute("SELECT tally.drop_raw('2024-02-01Z')").unwrap();
    let mut reader = shop.login("reader", "a", None);
    let value = |metric: &str, from: &str, to: &str| {
        format!("SELECT value FROM tally.metric_value('{metric}', '2024-01-{from}Z', '2024-01-{to}Z')")
    };
    for (sql, expected) in [
        // Events at 10:15 and 10:45 on the 29th, at 9:00 on the 30th and the 11th.
        (value("everything", "29 10:30", "30 00:00"), Err("55T20")),
        (value("everything", "29 10:00", "29 11:00"), Ok("2")),
        (value("everything", "29 10:15", "29 10:45:00.000001"), Ok("2")),
        (value("everything", "29 10:15:00.000001", "30 00:00"), Err("55T20")),
        (value("everything", "29 10:50", "31 00:00"), Ok("1")),
        (value("turnover", "11 09:00", "11 09:00:00.000001"), Ok("10.5")),
        (value("payers", "11 08:00", "11 10:00"), Ok("1")),
        (value("payers", "11 09:30", "11 10:00"), Ok("0")),
        (value("payers", "11 09:30", "31 00:00"), Ok("1")),
        ("SELECT sum(amount) FROM tally.revenue('2024-01-01Z', '2024-01-30 09:00Z')".into(), Ok("10.5")),
        ("SELECT sum(amount) FROM tally.revenue('2024-01-01Z', '2024-01-30 09:01Z')".into(), Ok("21.0")),
        (
            "SELECT status, events_30d, last_seen FROM tally.account_health('x', '2024-05-01Z')".into(),
            Ok("declining|0|2024-03-30 09:00:00"),
        ),
    ] {
        let seen = answer(&mut reader, "", &sql);
        if sql.contains("account_health") {
            // The sixty days before May begin in March: what they hold is whole.
            assert!(seen.is_ok(), "{sql}: {seen:?}");
            continue;
        }
        assert_eq!(seen.as_deref().map_err(String::as_str), expected, "{sql}");
    }
    // Sixty days that begin in January.
    let gone = answer(&mut reader, "", "SELECT status FROM tally.account_health('x', '2024-03-20Z')");
    assert_eq!(gone, Err("55T20".to_owned()));
    // What a kept month calls new is not what raw events of it alone would call new.
    let march = answer(
        &mut reader,
        "",
        "SELECT new, reactivation, cumulative FROM tally.revenue('2024-03-01Z', '2024-04-01Z')",
    );
    assert_eq!(march, Ok("0|63.0|84.0".to_owned()));
    let other = "SELECT new FROM tally.revenue('2024-03-01Z', '2024-04-01Z', amount_property => 'value')";
    assert_eq!(answer(&mut reader, "", other), Err("55T20".to_owned()));
    let wrong = reader.batch_execute("SET tally.incomplete = 'perhaps'").unwrap_err();
    assert_eq!(wrong.code().unwrap().code(), "22023");
}

/// A snapshot that is older than the loss, and a transaction that has asked before it.
#[test]
fn a_loss_meanwhile_is_seen() {
    let mut shop = Shop::new("lost_race");
    shop.send("a", "x", &[1, 3]);
    shop.fold();
    let mut reader = shop.login("reader", "a", None);
    let operator = shop.database.role("operator", &["tally_analyst"]);
    let mut operator = shop.database.connect(&operator);
    let funnel = "SELECT max(units) FROM tally.funnel(ARRAY['tried'], '1 day', '2024-01-01Z', '2024-02-01Z')";
    let mut open = reader.transaction().unwrap();
    let ask = |transaction: &mut postgres::Transaction| -> i64 {
        transaction.query_one(funnel, &[]).unwrap().get(0)
    };
    assert_eq!(ask(&mut open), 1);
    // Waits, or is refused for now, as long as that transaction lasts.
    shop.admin.batch_execute("SET lock_timeout = '200ms'").unwrap();
    let _ = shop.admin.batch_execute("SELECT tally.drop_raw('2024-02-01Z')");
    assert_eq!(ask(&mut open), 1, "what was whole is whole until the transaction ends");
    open.commit().unwrap();
    for (client, enter) in [(&mut reader, "SELECT"), (&mut operator, "SELECT tally.enter_global()")] {
        client
            .batch_execute(&format!(
                "BEGIN ISOLATION LEVEL REPEATABLE READ; {enter}; SELECT count(*) FROM tally.usage_day"
            ))
            .unwrap();
    }
    shop.admin.batch_execute("SET lock_timeout = 0; SELECT tally.drop_raw('2024-02-01Z')").unwrap();
    for client in [&mut reader, &mut operator] {
        let refused = client.query(funnel, &[]).unwrap_err();
        assert_eq!(refused.code().unwrap().code(), "55T20");
        assert!(refused.as_db_error().unwrap().hint().unwrap().contains("2024-02-01"), "{refused:?}");
    }
}

#[test]
fn who_bypasses_row_security_is_warned() {
    let mut shop = Shop::new("lost_warning");
    shop.send("a", "x", &[1]);
    shop.send("b", "x", &[1]);
    let bypass = shop.database.role("bypass", &["tally_reader", "tally_analyst"]);
    let ordinary = shop.database.role("ordinary", &["tally_reader", "tally_analyst"]);
    shop.superuser.batch_execute(&format!("ALTER ROLE {bypass} BYPASSRLS")).unwrap();
    let name = shop.database.name().to_owned();
    let metric = "SELECT value FROM tally.metric_value('purchases', '2024-01-01Z', '2024-02-01Z')";
    let warnings = |role: &str, statement: &str| {
        Session::new(&name, &shop.database, role).answer(statement).matches("WARNING: role").count()
    };
    for role in ["postgres", bypass.as_str()] {
        assert_eq!(warnings(role, "BEGIN; SELECT tally.enter('a')"), 1, "{role}");
        assert_eq!(warnings(role, "BEGIN; SELECT tally.enter('a', 'x')"), 1, "{role}");
        assert_eq!(warnings(role, "BEGIN; SELECT tally.enter_global()"), 0, "{role}");
        assert_eq!(warnings(role, &format!("BEGIN; SELECT tally.enter_global(); {metric}")), 0, "{role}");
        assert_eq!(warnings(role, metric), 1, "{role}");
        for call in [
            "funnel(ARRAY['a'], '1 day', '2024-01-01Z', '2024-02-01Z')",
            "retention(NULL, NULL, 'day', '2024-01-01Z', '2024-02-01Z')",
            "activation('a', 'b', '1 day', '2024-01-01Z', '2024-02-01Z')",
            "session_metrics('2024-01-01Z', '2024-02-01Z')",
            "revenue('2024-01-01Z', '2024-02-01Z')",
            "active_users('[2024-01-01,2024-01-03)')",
            "did_at_least('a', 1, '2024-01-01Z', '2024-02-01Z')",
            "metric_series('purchases', '2024-01-01Z', '2024-02-01Z')",
            "cohort_members('payers', '2024-01-01Z', '2024-02-01Z')",
        ] {
            assert_eq!(warnings(role, &format!("SELECT FROM tally.{call}")), 1, "{role}: {call}");
        }
    }
    // Who acts as somebody else, and who is held by row security, is not warned.
    assert_eq!(
        warnings("postgres", &format!("BEGIN; SET LOCAL ROLE {ordinary}; SELECT tally.enter('a'); {metric}")),
        0
    );
    assert_eq!(warnings(&ordinary, &format!("BEGIN; SELECT tally.enter('a'); {metric}")), 0);
}

/// Today is not over, whatever the range says; nor is a period of which the range has a part.
#[test]
fn a_period_that_is_not_over_is_marked() {
    let mut shop = Shop::new("not_over");
    // Of three days ago, of yesterday and of today.
    let events = shop
        .superuser
        .query_one(
            "SELECT json_agg(json_build_object('tenant_id', 'a', 'account_id', 'x', 'user_id', 'u' || n, 'name', name, \
               'event_id', gen_random_uuid(), 'occurred_at', to_json(now() - n * interval '1 day'), 'properties', json_build_object('amount', 1)))::text \
               FROM unnest('{0,1,3}'::int[]) AS n, unnest('{tried,paid}'::text[]) AS name",
            &[],
        )
        .unwrap();
    assert_eq!(ingest(&mut shop.superuser, events.get(0)).unwrap().accepted, 6);
    let mut reader = shop.login("reader", "a", None);
    reader.batch_execute("SET timezone = 'UTC'").unwrap();
    let range = "date_trunc('day', now()) - interval '5 days', date_trunc('day', now()) + interval '2 days'";
    // A cohort's last user may act until an hour after its day.
    for (call, period, longer) in [
        (format!("session_metrics({range})"), "period", "0"),
        ("active_users(daterange(current_date - 5, current_date + 2))".to_owned(), "day", "0"),
        (format!("activation('tried', 'paid', '1 hour', {range}, grain => 'day')"), "cohort", "1 hour"),
        (format!("revenue({range}, 'day')"), "period", "0"),
        (format!("metric_series('purchases', {range})"), "period", "0"),
        (format!("retention('tried', NULL, 'day', {range})"), "cohort + period", "0"),
        (format!("retention('tried', NULL, 'day', {range}, kind => 'rolling')"), "cohort + period", "0"),
    ] {
        let wrong = format!(
            "SELECT count(*), count(*) FILTER (WHERE complete), count(*) FILTER (WHERE NOT complete), \
                    count(*) FILTER (WHERE complete <> (({period})::date + interval '1 day' + '{longer}' <= now()::timestamp)) FROM tally.{call}"
        );
        let row = reader.query_one(&wrong, &[]).unwrap_or_else(|problem| panic!("{call}: {problem:?}"));
        let [rows, over, not_over, wrong]: [i64; 4] = [0, 1, 2, 3].map(|column| row.get(column));
        assert!(
            over > 0 && not_over > 0 && wrong == 0,
            "{call}: {rows} rows, {over} over, {not_over} not, {wrong} wrong"
        );
    }
    // A range that begins and ends within a day has neither whole.
    let part =
        "date_trunc('day', now()) - interval '100 hours', date_trunc('day', now()) - interval '30 hours'";
    for call in [format!("session_metrics({part})"), format!("metric_series('purchases', {part})")] {
        let marks = format!("SELECT string_agg(complete::text, ' ' ORDER BY period) FROM tally.{call}");
        let marks: String = reader.query_one(&marks, &[]).unwrap().get(0);
        assert_eq!(marks, "false true true false", "{call}");
    }
    // Brackets: the first is over in a day, the second when its last day is; the last is open.
    let brackets = format!(
        "SELECT string_agg(period || ' ' || complete, ', ' ORDER BY period) FROM tally.retention('tried', NULL, 'day', {range}, \
           kind => 'bracketed', brackets => '{{0,1,3}}') WHERE cohort = current_date - 3"
    );
    let brackets: String = reader.query_one(&brackets, &[]).unwrap().get(0);
    assert_eq!(brackets, "0 true, 1 true, 3 false");
}

/// What is declared after a loss says what it never counted, also once it was altered.
#[test]
fn a_rollup_that_begins_after_a_loss_says_so() {
    let mut shop = Shop::new("lost_rollup");
    shop.send("a", "x", &[1, 3]);
    shop.fold();
    let declare =
        |name: &str| format!("SELECT tally.create_rollup('{name}', '{{day,month}}', ARRAY['count(*) AS n'])");
    shop.admin.batch_execute(&declare("early")).unwrap();
    while shop.admin.query_one("SELECT tally.fold('early')", &[]).unwrap().get::<_, i64>(0) > 0 {}
    shop.admin.batch_execute("SELECT tally.drop_raw('2024-02-01Z')").unwrap();
    shop.admin.batch_execute(&declare("later")).unwrap();
    for rollup in ["early", "later"] {
        let alter =
            format!("SELECT tally.alter_rollup('{rollup}', add_measures => '{{max(name) AS latest}}')");
        for altered in [false, true] {
            if altered {
                shop.admin.batch_execute(&alter).unwrap();
            }
            let row = shop
                .superuser
                .query_one(
                    "SELECT whole_from = timestamptz '2024-02-01 00:00Z', obj_description(('tally.' || $1 || '_day')::regclass) ~ 'before 2024-02-01', \
                            obj_description(('tally.' || $1 || '_month')::regclass) ~ 'before 2024-02-01' FROM tally.rollup WHERE rollup_name = $1",
                    &[&rollup],
                )
                .unwrap();
            let said: [Option<bool>; 3] = [0, 1, 2].map(|column| row.get(column));
            let expected = if rollup == "later" { [Some(true); 3] } else { [None, Some(false), Some(false)] };
            assert_eq!(said, expected, "{rollup}, altered {altered}");
        }
    }
}

/// What one client of a pool chose doesn't have the next one's numbers marked instead of refused.
#[test]
fn a_choice_that_one_client_of_a_pool_left_keeps_the_next_ones_scope_out() {
    let mut shop = Shop::new("lost_pool");
    let pool = shop.database.role("pool", &["tally_reader"]);
    shop.superuser.execute("SELECT tally.trust_role($1::text::regrole)", &[&pool]).unwrap();
    let mut client = shop.database.connect(&pool);
    let enter = "BEGIN; SELECT tally.enter('a'); COMMIT";
    client.batch_execute("BEGIN; SET LOCAL tally.incomplete = 'mark'; COMMIT").unwrap();
    client.batch_execute(enter).unwrap();
    client.batch_execute("SET tally.incomplete = 'mark'").unwrap();
    let refused = client.batch_execute(enter).unwrap_err();
    assert_eq!(refused.code().unwrap().code(), "42501");
    assert!(refused.as_db_error().unwrap().message().contains("tally.incomplete"), "{refused}");
    for statement in ["ROLLBACK", "RESET tally.incomplete", enter] {
        client.batch_execute(statement).unwrap();
    }
}
