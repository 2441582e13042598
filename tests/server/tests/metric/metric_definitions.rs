//! Declared metrics give what their functions give, with the hash of the rule; bad arguments are refused by SQLSTATE
//! and with a hint; nothing is read without a scope.

use postgres::Client;
use postgres::error::SqlState;
use serde_json::json;
use tally_server_tests::{Database, ingest};

const RANGE: &str = "'2026-01-01 00:00Z', '2026-02-01 00:00Z'";

/// Two tenants of 300 users each who sign up; a third of them pays on the next day. Returns logins: admin, a reader of
/// tenant `a`, an operator.
fn shop(topic: &str) -> (Database, [String; 3]) {
    let mut database = Database::new(topic);
    let mut events = Vec::new();
    for tenant in ["a", "b"] {
        for user in 0..300 {
            for (name, day, wanted) in [("signed_up", 2, true), ("paid", 3, user % 3 == 0)] {
                if wanted {
                    events.push(
                        json!({"tenant_id": tenant, "account_id": format!("acc{}", user % 4), "name": name,
                        "user_id": format!("u{user}"), "occurred_at": format!("2026-01-0{day}T10:00:00Z"),
                        "event_id": format!("00000000-0000-4000-8000-{:012}", events.len()),
                        "properties": {"amount": user, "plan": (["free", "pro"][user % 2])}}),
                    );
                }
            }
        }
    }
    let mut superuser = database.superuser();
    assert_eq!(ingest(&mut superuser, &json!(events).to_string()).unwrap().accepted, 800);
    let admin = database.role("admin", &["tally_admin"]);
    let reader = database.role("reader", &["tally_reader"]);
    let operator = database.role("operator", &["tally_analyst"]);
    superuser.execute("SELECT tally.bind_role($1::text::regrole, 'a')", &[&reader]).unwrap();
    (database, [admin, reader, operator])
}

fn text(client: &mut Client, query: &str) -> String {
    client.query_one(query, &[]).unwrap_or_else(|problem| panic!("{query}: {problem:?}")).get(0)
}

#[test]
fn a_declared_metric_gives_what_its_function_gives() {
    let (database, [admin, reader, _]) = shop("define");
    let (mut admin, mut reader) = (database.connect(&admin), database.connect(&reader));
    let metrics = [
        (
            "events",
            json!({"kind": "events", "event": "paid"}),
            "SELECT 100",
            "the number of events named \"paid\"",
        ),
        (
            "users",
            json!({"kind": "units"}),
            "SELECT 300",
            "the exact number of distinct users with all events",
        ),
        (
            "revenue",
            json!({"kind": "sum", "event": "paid", "property": "amount"}),
            "SELECT sum(amount) FROM tally.revenue('2026-01-01Z', '2026-02-01Z', event => 'paid')",
            "the sum of the property \"amount\"",
        ),
        (
            "trimmed",
            json!({"kind": "sum", "event": "paid", "property": "amount", "outliers": {"treat": "drop", "greatest": 9}}),
            "SELECT 0 + 3 + 6 + 9",
            "where it is a number, leaving out what is above 9",
        ),
        (
            "typical",
            json!({"kind": "mean", "event": "paid", "property": "amount", "missing": "zero",
                   "outliers": {"treat": "clamp", "least": 6, "greatest": 9}}),
            "SELECT (6 + 6 + 6 + 97 * 9) / 100.0",
            "as 0 where it is not a number, each raised to 6 where it is less and lowered to 9 where it is more",
        ),
        (
            "capped",
            json!({"kind": "sum", "event": "paid", "property": "amount", "outliers": {"treat": "clamp", "greatest": 1}}),
            "SELECT 99",
            "where it is a number, each lowered to 1 where it is more",
        ),
        (
            "gifts",
            json!({"kind": "mean", "event": "paid", "property": "gift", "missing": "zero"}),
            "SELECT 0",
            "the mean of the property",
        ),
        (
            "both",
            json!({"kind": "funnel", "steps": ["paid", "signed_up"], "window": "2 days", "any_order": true}),
            "SELECT 1.0 / 3",
            ", in any order",
        ),
        (
            "conversion",
            json!({"kind": "funnel", "steps": ["signed_up", "paid"], "window": "2 days", "hold": "plan"}),
            "SELECT 1.0 / 3",
            "of the users that did \"signed_up\" in the range, the share that went on to \"paid\", all within 2 days of the first step, with the same \"plan\" throughout",
        ),
        (
            "fast",
            json!({"kind": "funnel", "steps": ["signed_up", "paid"], "window": "1 hour", "exclude": ["left"]}),
            "SELECT 0",
            "and without \"left\" between",
        ),
        (
            "activated",
            json!({"kind": "activation", "start": "signed_up", "activation": "paid", "window": "1 day"}),
            "SELECT 1.0 / 3",
            "the share with event \"paid\" within 1 day of it",
        ),
        (
            "back",
            json!({"kind": "retention", "grain": "day", "period": 1}),
            "SELECT 1.0 / 3",
            "in day 1 (UTC) after the one in which they began",
        ),
        (
            "still",
            json!({"kind": "retention", "grain": "week", "period": 0, "rolling": true, "unit": "account"}),
            "SELECT 1",
            "or after that",
        ),
    ];
    for (name, definition, direct, words) in metrics {
        let query = format!("SELECT tally.define_metric('{name}', '{definition}')::text");
        assert_eq!(
            (text(&mut admin, &query), text(&mut admin, &query)),
            ("1".into(), "1".into()),
            "defining twice is once"
        );
        let expected: f64 = reader.query_one(&format!("SELECT ({direct})::float8"), &[]).unwrap().get(0);
        let row = reader
            .query_one(
                &format!("SELECT value::float8, exact, stderror, version, as_of <= clock_timestamp(), definition_hash,
                          encode(sha256(convert_to($1::text::jsonb::text, 'UTF8')), 'hex') FROM tally.metric_value('{name}', {RANGE})"),
                &[&definition.to_string()],
            )
            .unwrap();
        let value: f64 = row.get(0);
        assert!((value - expected).abs() < 1e-12, "{name}: {value}, not {expected}");
        assert_eq!(
            (row.get::<_, bool>(1), row.get::<_, f64>(2), row.get::<_, i32>(3), row.get::<_, bool>(4)),
            (true, 0.0, 1, true)
        );
        assert_eq!(row.get::<_, &str>(5), row.get::<_, &str>(6), "{name}");
        let told = text(&mut reader, &format!("SELECT tally.describe_metric('{name}')"));
        assert!(told.starts_with(&format!("{name}, version 1: ")) && told.contains(words), "{told}");
    }
    // Another definition is another version with another hash, and the old one stays on record.
    assert_eq!(
        text(
            &mut admin,
            "SELECT tally.define_metric('users', '{\"kind\": \"units\", \"approximate\": true}')::text"
        ),
        "2"
    );
    let row = reader
        .query_one(
            &format!(
                "SELECT value::float8, exact, stderror, version FROM tally.metric_value('users', {RANGE})"
            ),
            &[],
        )
        .unwrap();
    let (value, exact, stderror): (f64, bool, f64) = (row.get(0), row.get(1), row.get(2));
    assert!((value - 300.0).abs() <= 4.0 * stderror + 0.5 && stderror < 12.0, "{value} ± {stderror}");
    assert_eq!((exact, row.get::<_, i32>(3)), (stderror == 0.0, 2));
    assert_eq!(
        text(
            &mut reader,
            "SELECT count(DISTINCT definition_hash)::text FROM tally.metric WHERE metric_name = 'users'"
        ),
        "2"
    );
    // A series is the metric of each period; the ends as far as the range reaches.
    let series = reader
        .query(
            "SELECT period::text, value::float8, definition_hash, exact FROM tally.metric_series('events', \
             '2026-01-03 09:00Z', '2026-01-05 12:00Z')",
            &[],
        )
        .unwrap();
    assert_eq!(series.iter().map(|row| row.get::<_, f64>(1)).collect::<Vec<_>>(), [100.0, 0.0, 0.0]);
    assert!(series.iter().all(|row| row.get::<_, &str>(2).len() == 64 && row.get::<_, bool>(3)));
    // Something may still be added to a period of an activation while its window isn't over.
    admin
        .execute(
            "SELECT tally.define_metric('soon', '{\"kind\": \"activation\", \"start\": \"a\", \"activation\": \"b\", \"window\": \"7 days\"}')",
            &[],
        )
        .unwrap();
    let complete = "SELECT array_agg(complete ORDER BY period) FROM tally.metric_series('soon', date_trunc('day', now(), 'UTC') - interval '10 days', \
                      date_trunc('day', now(), 'UTC') - interval '4 days')";
    assert_eq!(
        reader.query_one(complete, &[]).unwrap().get::<_, Vec<bool>>(0),
        [true, true, true, false, false, false]
    );
    for (call, code) in [
        ("'events', '2026-01-01Z', '2026-01-02Z', 'hour'", "22023"),
        ("'events', '1926-01-01Z', '2026-01-02Z'", "54000"),
    ] {
        let refused = reader.query(&format!("SELECT * FROM tally.metric_series({call})"), &[]).unwrap_err();
        assert_eq!(refused.code().map(SqlState::code), Some(code), "{refused}");
    }
    let forged = admin.execute("INSERT INTO tally.metric VALUES ('x', 1, '{}', 'x')", &[]).unwrap_err();
    assert_eq!(forged.code(), Some(&SqlState::INSUFFICIENT_PRIVILEGE));
    let refused = reader.query("SELECT tally.define_metric('x', '{\"kind\": \"units\"}')", &[]).unwrap_err();
    assert_eq!(refused.code(), Some(&SqlState::INSUFFICIENT_PRIVILEGE));

    assert_eq!(
        text(
            &mut admin,
            "SELECT tally.define_cohort('payers', '{\"event\": \"paid\", \"at_least\": 1}')::text"
        ),
        "1"
    );
    let members = reader
        .query(
            &format!("SELECT tenant_id, times, definition_hash FROM tally.cohort_members('payers', {RANGE})"),
            &[],
        )
        .unwrap();
    assert_eq!(members.len(), 100);
    assert!(members.iter().all(|row| row.get::<_, &str>(0) == "a"
        && row.get::<_, i64>(1) == 1
        && row.get::<_, &str>(2).len() == 64));
}

#[test]
fn bad_arguments_are_refused_with_a_hint() {
    let (database, [admin, reader, operator]) = shop("refuse");
    let mut reader = database.connect(&reader);
    let mut admin = database.connect(&admin);
    admin
        .batch_execute("SELECT tally.define_cohort('of_users', '{\"event\": \"a\", \"at_least\": 1}')")
        .unwrap();
    let bad = [
        "funnel('{}'::text[], '1 day', '2026-01-01Z', '2026-02-01Z')",
        "funnel(NULL::text[], '1 day', '2026-01-01Z', '2026-02-01Z')",
        "funnel(array_fill('a'::text, ARRAY[32]), '1 day', '2026-01-01Z', '2026-02-01Z')",
        "funnel('[{\"evnt\": \"a\"}]'::jsonb, '1 day', '2026-01-01Z', '2026-02-01Z')",
        "funnel('[{\"event\": \"a\", \"where\": 3}]'::jsonb, '1 day', '2026-01-01Z', '2026-02-01Z')",
        "funnel('[7]'::jsonb, '1 day', '2026-01-01Z', '2026-02-01Z')",
        "funnel(ARRAY['a', NULL], '1 day', '2026-01-01Z', '2026-02-01Z')",
        "funnel(ARRAY['a'], '0', '2026-01-01Z', '2026-02-01Z')",
        "funnel(ARRAY['a'], '1 day', '2026-01-01Z', '2026-02-01Z', breakdown => 'plan', attribution => 'last')",
        "retention('a', NULL, 'day', '2026-01-01Z', '2026-02-01Z', 'account', of_cohort => 'of_users')",
        "funnel(ARRAY['a'], '-1 day', '2026-01-01Z', '2026-02-01Z')",
        "funnel(ARRAY['a'], '1 month', '2026-01-01Z', '2026-02-01Z')",
        "funnel(ARRAY['a'], NULL, '2026-01-01Z', '2026-02-01Z')",
        "funnel(ARRAY['a'], '1 day', '2026-02-01Z', '2026-02-01Z')",
        "funnel(ARRAY['a'], '1 day', NULL, '2026-02-01Z')",
        "funnel(ARRAY['a'], '1 day', '-infinity', 'infinity')",
        "funnel(ARRAY['a'], '1 day', '2026-01-01Z', '2026-02-01Z', unit => 'team')",
        "funnel(ARRAY['a'], '1 day', '2026-01-01Z', '2026-02-01Z', strict => true, any_order => true)",
        "retention_curve('a', 'a', 'year', '2026-01-01Z', '2026-02-01Z')",
        "session_metrics('2026-02-01Z', '2026-01-01Z')",
        "session_metrics('2026-01-01Z', '2026-02-01Z', 'year')",
        "funnel(ARRAY['a'], '1 day', '2026-01-01Z', '2026-02-01Z', exclude => '{b,a}')",
        "retention('a', 'a', 'hour', '2026-01-01Z', '2026-02-01Z')",
        "retention('a', 'a', 'day', '2026-02-01Z', '2026-01-01Z')",
        "retention('a', 'a', 'day', '2026-01-01Z', '2026-02-01Z', kind => 'sticky')",
        "retention('a', 'a', 'day', '2026-01-01Z', '2026-02-01Z', unit => NULL)",
        "retention('a', 'a', 'day', '2026-01-01Z', '2026-02-01Z', kind => 'bracketed', brackets => '{3,1}')",
        "activation('a', 'a', '1 day', '2026-01-01Z', '2026-02-01Z')",
        "activation('a', 'b', '0', '2026-01-01Z', '2026-02-01Z')",
        "revenue('2026-02-01Z', '2026-01-01Z')",
        "revenue('2026-01-01Z', '2026-02-01Z', 'year')",
        "revenue('2026-01-01Z', '2026-02-01Z', amount_property => NULL)",
        "active_users('[2026-01-01,)')",
        "active_users('empty')",
        "active_users('[2026-01-01,2026-01-05)', unit => 'session')",
        "did_at_least('a', 0, '2026-01-01Z', '2026-02-01Z')",
        "account_health(NULL)",
        "retention('a', 'a', 'day', '2026-01-01Z', '2026-02-01Z', kind => 'bracketed', brackets => '{{0,1}}')",
        "retention_curve('a', 'a', 'day', '2026-01-01Z', '2026-02-01Z', kind => 'bracketed', brackets => '[0:1]={0,1}')",
        "funnel(ARRAY['a'], '106751991 days', '2026-01-01Z', '2026-02-01Z')",
        "activation('a', 'b', '106751991 days', '2026-01-01Z', '2026-02-01Z')",
        "funnel(ARRAY['a'], '1 day', '2026-01-01Z', '294276-12-31 23:59Z')",
        "retention('a', 'a', 'day', '294276-12-01Z', '294276-12-31 23:59Z')",
        "activation('a', 'b', '1 day', '4714-11-24 00:00Z BC', '2026-02-01Z')",
        "revenue('294276-12-01Z', '294276-12-31 23:59Z')",
        "session_metrics('294276-12-01Z', '294276-12-31 23:59Z')",
        "metric_value('extreme', '294276-12-01Z', '294276-12-31 23:59Z')",
        "metric_series('extreme', '294276-12-01Z', '294276-12-31 23:59Z', 'month')",
        "cohort_members('of_users', '294276-12-01Z', '294276-12-31 23:59Z')",
        "did_at_least('a', 1, '4714-11-24 00:00Z BC', '2026-02-01Z')",
    ];
    admin.batch_execute("SELECT tally.define_metric('extreme', '{\"kind\": \"events\"}')").unwrap();
    let admins = [
        ("define_metric('x', '{\"kind\": \"mystery\"}')", "22023"),
        ("define_metric('x', '{\"kind\": \"cohort\", \"at_least\": 1}')", "22023"),
        ("define_metric('x', '{\"kind\": \"funnel\", \"window\": \"1 day\"}')", "22023"),
        (
            "define_metric('x', '{\"kind\": \"funnel\", \"window\": \"1 month\", \"steps\": [\"a\"]}')",
            "22023",
        ),
        ("define_metric('x', '{\"kind\": \"units\", \"color\": \"red\"}')", "22023"),
        (
            "define_metric('x', '{\"kind\": \"units\", \"unit\": \"account\", \"approximate\": true}')",
            "22023",
        ),
        ("define_metric('x', '{\"kind\": \"retention\", \"grain\": \"day\", \"period\": 1.5}')", "22023"),
        ("define_metric('x', NULL)", "22023"),
        (
            "define_metric('x', '{\"kind\": \"sum\", \"property\": \"p\", \"outliers\": {\"treat\": \"clamp\", \"least\": 3, \"greatest\": 2}}')",
            "22023",
        ),
        (
            "define_metric('x', '{\"kind\": \"activation\", \"start\": \"a\", \"activation\": \"a\", \"window\": \"1 day\"}')",
            "22023",
        ),
        (
            "define_metric('x', '{\"kind\": \"activation\", \"activation\": \"a\", \"window\": \"106751991 days\"}')",
            "22023",
        ),
        ("define_metric('x', '{\"kind\": \"sum\", \"property\": \"p\", \"missing\": \"guess\"}')", "22023"),
        (
            "define_metric('x', '{\"kind\": \"sum\", \"property\": \"p\", \"outliers\": {\"least\": 3}}')",
            "22023",
        ),
        (
            "define_metric('x', '{\"kind\": \"mean\", \"property\": \"p\", \"outliers\": {\"treat\": \"drop\", \"most\": 3}}')",
            "22023",
        ),
        ("define_metric('No Name', '{\"kind\": \"units\"}')", "42602"),
        ("define_cohort('x', '{\"event\": \"paid\", \"at_least\": 0}')", "22023"),
        ("metric_value('missing', '2026-01-01Z', '2026-02-01Z')", "42704"),
    ];
    let calls = bad
        .iter()
        .map(|call| (true, *call, "22023"))
        .chain(admins.iter().map(|(call, code)| (false, *call, *code)));
    for (reads, call, code) in calls {
        let client = if reads { &mut reader } else { &mut admin };
        let problem = client.query(&format!("SELECT * FROM tally.{call}"), &[]).expect_err(call);
        let error = problem.as_db_error().unwrap_or_else(|| panic!("{call}: {problem}"));
        assert_eq!(error.code().code(), code, "{call}: {error}");
        assert!(error.hint().is_some_and(|hint| !hint.is_empty()), "{call} has no hint: {error}");
        let first = error.message().chars().next().unwrap();
        assert!(!first.is_uppercase() && !error.message().ends_with('.'), "{call}: {error}");
    }
    let mut operator = database.connect(&operator);
    let mut transaction = operator.transaction().unwrap();
    transaction.batch_execute("SELECT tally.enter_global()").unwrap();
    let twice = transaction.query("SELECT * FROM tally.account_health('acc1')", &[]).unwrap_err();
    assert_eq!(twice.code(), Some(&SqlState::INVALID_PARAMETER_VALUE), "{twice}");
}

#[test]
fn every_metric_needs_a_scope_and_stays_in_it() {
    let (database, [_, reader, operator]) = shop("scoped");
    let (mut reader, mut operator) = (database.connect(&reader), database.connect(&operator));
    let range = RANGE;
    let metrics = [
        format!("SELECT max(units)::int8 FROM tally.funnel(ARRAY['signed_up', 'paid'], '2 days', {range})"),
        format!(
            "SELECT max(units)::int8 FROM tally.funnel(ARRAY['signed_up'], '2 days', {range}, strict => true, hold => 'plan', breakdown => 'plan')"
        ),
        format!("SELECT max(cohort_size)::int8 FROM tally.retention(NULL, NULL, 'month', {range})"),
        format!("SELECT max(cohort_size)::int8 FROM tally.activation('signed_up', 'paid', '1 day', {range})"),
        format!("SELECT count(*) FROM tally.revenue({range})"),
        "SELECT max(mau) FROM tally.active_users('[2026-01-01,2026-01-20)')".to_owned(),
        format!("SELECT count(*) FROM tally.did_at_least('signed_up', 1, {range})"),
        format!(
            "SELECT max(cohort_size)::int8 FROM tally.retention(NULL, 'paid', 'week', {range}, 'account', 'rolling')"
        ),
        format!("SELECT max(units) FROM tally.retention_curve(NULL, NULL, 'day', {range})"),
        format!("SELECT max(sessions) FROM tally.session_metrics({range})"),
        "SELECT count(*) FROM tally.users".to_owned(),
        "SELECT count(*) FROM tally.accounts".to_owned(),
        "SELECT count(*) FROM tally.sessions".to_owned(),
        "SELECT sum(events)::int8 FROM tally.user_activity_year".to_owned(),
        "SELECT sum(events)::int8 FROM tally.session_month".to_owned(),
    ];
    for metric in metrics {
        let own: i64 = reader.query_one(&metric, &[]).unwrap().get(0);
        let nobody = operator.query(&metric, &[]).unwrap_err();
        assert_eq!(nobody.code(), Some(&SqlState::INSUFFICIENT_PRIVILEGE), "{metric}: {nobody}");
        let mut transaction = operator.transaction().unwrap();
        transaction.batch_execute("SELECT tally.enter_global()").unwrap();
        let all: i64 = transaction.query_one(&metric, &[]).unwrap().get(0);
        assert!(own > 0 && all == 2 * own, "{metric}: {own} in one of two equal tenants, {all} in both");
    }
    assert_eq!(
        operator.query("SELECT * FROM tally.account_health('acc1')", &[]).unwrap_err().code(),
        Some(&SqlState::INSUFFICIENT_PRIVILEGE)
    );
}

#[test]
fn every_metric_function_takes_an_account() {
    let (mut database, [admin, reader, _]) = shop("account");
    let mut superuser = database.superuser();
    let part = database.role("part", &["tally_reader"]);
    superuser.execute("SELECT tally.bind_role($1::text::regrole, 'a', 'acc1')", &[&part]).unwrap();
    let mut admin = database.connect(&admin);
    let declared = [
        ("events", json!({"kind": "events", "event": "paid"})),
        ("users", json!({"kind": "units"})),
        ("estimate", json!({"kind": "units", "approximate": true})),
        ("revenue", json!({"kind": "sum", "event": "paid", "property": "amount"})),
        (
            "mean",
            json!({"kind": "mean", "property": "amount", "outliers": {"treat": "drop", "greatest": 90}}),
        ),
        ("conversion", json!({"kind": "funnel", "steps": ["signed_up", "paid"], "window": "2 days"})),
        (
            "activated",
            json!({"kind": "activation", "start": "signed_up", "activation": "paid", "window": "2 days"}),
        ),
        ("back", json!({"kind": "retention", "grain": "day", "period": 1})),
    ];
    for (name, definition) in &declared {
        text(&mut admin, &format!("SELECT tally.define_metric('{name}', '{definition}')::text"));
    }
    text(&mut admin, "SELECT tally.define_cohort('payers', '{\"event\": \"paid\", \"at_least\": 1}')::text");
    let range = RANGE;
    let mut calls: Vec<(&str, String)> = vec![
        ("funnel", format!("ARRAY['signed_up', 'paid'], '2 days', {range}")),
        ("funnel", format!("'[\"signed_up\", \"paid\"]'::text, '2 days', {range}")),
        ("funnel", format!("'[\"signed_up\", \"paid\"]'::json, '2 days', {range}")),
        ("funnel", format!("'[\"signed_up\", \"paid\"]'::jsonb, '2 days', {range}")),
        ("retention", format!("NULL, NULL, 'day', {range}")),
        ("retention", format!("NULL, NULL, 'day', {range}, of_cohort => 'payers'")),
        ("retention_curve", format!("NULL, NULL, 'day', {range}")),
        ("session_metrics", range.to_owned()),
        ("activation", format!("'signed_up', 'paid', '2 days', {range}")),
        ("revenue", range.to_owned()),
        ("active_users", "'[2026-01-01,2026-01-05)'".to_owned()),
        ("did_at_least", format!("'paid', 1, {range}")),
        ("cohort_members", format!("'payers', {range}")),
        ("account_health", "as_of => '2026-02-01Z'".to_owned()),
        ("accounts_health", "'2026-02-01Z'".to_owned()),
    ];
    for (name, _) in &declared {
        calls.push(("metric_value", format!("'{name}', {range}")));
        calls.push(("metric_series", format!("'{name}', {range}, 'month'")));
    }
    // Whatever a reader may call that has a range of time and returns rows.
    let there: Vec<(String, bool)> = superuser
        .query(
            "SELECT p.proname::text, 'account' = ANY (p.proargnames[1:p.pronargs]) FROM pg_proc AS p
              WHERE p.pronamespace = 'tally'::regnamespace AND p.prorettype = 'record'::regtype
                AND has_function_privilege('tally_reader', p.oid, 'EXECUTE')
                AND p.proargtypes::oid[] && ARRAY['timestamptz'::regtype, 'daterange'::regtype]::oid[]",
            &[],
        )
        .unwrap()
        .iter()
        .map(|row| (row.get(0), row.get(1)))
        .collect();
    assert!(
        there.len() >= calls.iter().map(|(name, _)| name).collect::<std::collections::HashSet<_>>().len()
    );
    for (name, takes) in &there {
        assert!(takes, "tally.{name}() has no argument named account");
        assert!(calls.iter().any(|(called, _)| called == name), "tally.{name}() is not called here");
    }
    let (mut tenant, mut part) = (database.connect(&reader), database.connect(&part));
    for (name, arguments) in calls {
        let answer = |client: &mut Client, more: &str| {
            text(
                client,
                &format!(
                    "SELECT coalesce(json_agg(to_jsonb(r) - 'as_of'), '[]')::text FROM tally.{name}({arguments}{more}) AS r"
                ),
            )
        };
        let of_tenant = answer(&mut tenant, ", account => 'acc1'");
        let own = answer(&mut part, ", account => 'acc1'");
        let of_another = answer(&mut part, ", account => 'acc2'");
        assert_eq!(of_tenant, own, "{name}({arguments}) of a tenant's account, and as its login");
        assert_eq!(of_another.replace("acc2", "nobody"), answer(&mut tenant, ", account => 'nobody'"));
        assert_ne!(own, of_another, "{name}({arguments})");
        if name != "account_health" {
            assert_eq!(own, answer(&mut part, ""), "{name}({arguments})");
            assert_eq!(answer(&mut tenant, ""), answer(&mut tenant, ", account => NULL"));
        }
    }
}
