//! Plans that hold at size: what a view or function reads grows with what is in scope, not with its square, nor with what is
//! pending. `TALLY_PLAN_EVENTS` says how many events (200,000; each two of them are another user's).

use postgres::Client;
use serde_json::Value;
use tally_server_tests::{Database, fold_all, ingest, json_array, number};

/// Tenants; one of them has half the events.
const TENANTS: usize = 20;
/// Rows of `usage` that are pending where that is said.
const PENDING: usize = 30_000;

fn events() -> usize {
    std::env::var("TALLY_PLAN_EVENTS").map_or(200_000, |text| text.parse().expect("a whole number"))
}

fn event(n: usize) -> String {
    let tenant = if n.is_multiple_of(2) { 0 } else { 1 + n / 2 % (TENANTS - 1) };
    let user = n / 2;
    let session = if n.is_multiple_of(3) { String::new() } else { format!(r#""session_id":"s{}","#, n / 5) };
    format!(
        r#"{{"tenant_id":"t{tenant:02}","account_id":"a{:03}","name":"n{}","user_id":"u{user}",{session}"event_id":"00000000-0000-4000-8000-{n:012}","occurred_at":"2026-{:02}-{:02}T{:02}:00:00Z","properties":{{"value":{},"amount":{},"plan":"p{}"}}}}"#,
        user % 199,
        n * 7919 % 5,
        1 + n / 31 % 6,
        1 + n * 31 % 28,
        n % 24,
        n % 1000,
        n % 17,
        n % 3
    )
}

struct Bench {
    database: Database,
    admin: Client,
    loader: Client,
    /// Reads one tenant or account at a time.
    reader: Client,
    /// Reads everybody's.
    analyst: Client,
}

fn bench(topic: &str, count: usize) -> Bench {
    let mut database = Database::new(topic);
    database.set("tally.pending_limit = '1GB'");
    let admin = database.role("admin", &["tally_admin"]);
    let loader = database.role("loader", &["tally_writer"]);
    let reader = database.role("reader", &["tally_reader"]);
    let analyst = database.role("analyst", &["tally_reader", "tally_analyst"]);
    let mut superuser = database.superuser();
    for role in [&loader, &reader] {
        superuser.execute("SELECT tally.trust_role($1::text::regrole)", &[role]).unwrap();
    }
    let (mut admin, mut loader) = (database.connect(&admin), database.connect(&loader));
    send(&mut loader, 0..count);
    ["usage", "user_activity", "session"].iter().for_each(|rollup| fold_all(&mut admin, rollup));
    for command in ["VACUUM", "ANALYZE"] {
        superuser.batch_execute(command).unwrap();
    }
    let (reader, analyst) = (database.connect(&reader), database.connect(&analyst));
    Bench { database, admin, loader, reader, analyst }
}

fn send(loader: &mut Client, numbers: std::ops::Range<usize>) {
    let numbers: Vec<usize> = numbers.collect();
    for chunk in numbers.chunks(10_000) {
        let events: Vec<String> = chunk.iter().map(|&n| event(n)).collect();
        let sent = ingest(loader, &json_array(events.iter().map(String::as_str))).unwrap();
        assert_eq!(sent.accepted as usize, chunk.len());
    }
}

/// Rows that the nodes of a plan handed on or threw away, in all.
fn work(plan: &Value) -> f64 {
    let of = |key: &str| plan[key].as_f64().unwrap_or(0.0);
    let own = (of("Actual Rows") + of("Rows Removed by Filter") + of("Rows Removed by Join Filter"))
        * of("Actual Loops");
    own + plan["Plans"].as_array().map_or(0.0, |plans| plans.iter().map(work).sum::<f64>())
}

/// Rows that are grouped.
fn grouped(plan: &Value) -> f64 {
    let children = || plan["Plans"].as_array().into_iter().flatten();
    let rows = |plan: &Value| plan["Actual Rows"].as_f64().unwrap() * plan["Actual Loops"].as_f64().unwrap();
    let inputs = children().filter(|child| child["Parent Relationship"] == "Outer");
    let own = if plan["Group Key"].is_array() { inputs.map(rows).sum::<f64>() } else { 0.0 };
    own + children().map(grouped).sum::<f64>()
}

/// How often each table is scanned, and by what.
fn scans(plan: &Value, table: &str, found: &mut Vec<(String, f64)>) {
    if plan["Relation Name"] == table {
        found.push((plan["Node Type"].as_str().unwrap().to_owned(), plan["Actual Loops"].as_f64().unwrap()));
    }
    for plan in plan["Plans"].as_array().into_iter().flatten() {
        scans(plan, table, found);
    }
}

fn explain(client: &mut Client, scope: &str, query: &str) -> Value {
    let mut transaction = client.transaction().unwrap();
    transaction.batch_execute(scope).unwrap();
    let text = format!("EXPLAIN (ANALYZE, FORMAT JSON) {query}");
    let plan: Value = transaction.query_one(&text, &[]).unwrap().get(0);
    println!("{query}: {} ms, {} rows handled", plan[0]["Execution Time"], work(&plan[0]["Plan"]));
    plan[0]["Plan"].clone()
}

/// Changes a setting of all base tables.
fn for_base_tables(superuser: &mut Client, change: &str) {
    let each = format!(
        "DO $$ DECLARE t regclass; BEGIN
           FOR t IN SELECT oid FROM pg_class WHERE relkind = 'r' AND relnamespace = 'tally'::regnamespace AND relname ~ '_base$'
           LOOP EXECUTE format('ALTER TABLE %s {change}', t); END LOOP;
         END $$"
    );
    superuser.batch_execute(&each).unwrap();
}

#[test]
fn views_read_what_is_in_scope_once() {
    let mut bench = bench("views", events());
    let mut superuser = bench.database.superuser();
    let of_tenant = "SELECT tally.enter('t01')";
    let mut rows = |table: &str, condition: &str| {
        number(&mut superuser, &format!("SELECT count(*) FROM tally.{table} WHERE {condition}")) as f64
    };
    let day_rows = rows("usage_day_base", "true");
    let activity_rows = rows("user_activity_year_base", "tenant_id = 't01'");
    let session_rows = rows("session_month_base", "tenant_id = 't01'");
    let account_rows = rows("usage_day_base", "tenant_id = 't00' AND account_id = 'a001'");
    assert!(day_rows > 1_000.0 && activity_rows > 500.0 && session_rows > 500.0 && account_rows > 10.0);
    let account = "SELECT sum(events), max(users) FROM tally.usage_day WHERE bucket >= '2026-03-01Z' AND bucket < '2026-05-30Z' GROUP BY bucket";
    let of_account = "SELECT tally.enter('t00', 'a001')";

    let reader = &mut bench.reader;
    let whole = explain(&mut bench.analyst, "SELECT tally.enter_global()", "SELECT * FROM tally.usage_day");
    assert!(work(&whole) <= 8.0 * day_rows, "{} rows handled of {day_rows}: {whole}", work(&whole));
    assert_eq!(grouped(&whole), 0.0, "nothing is pending: {whole}");
    // Where workers cost nothing they don't aggregate what has to be aggregated again, not even where base tables have them.
    let parallel = "SELECT tally.enter_global(); SET LOCAL parallel_setup_cost = 0; SET LOCAL parallel_tuple_cost = 0; SET LOCAL min_parallel_table_scan_size = 0";
    let alone = explain(&mut bench.analyst, parallel, "SELECT bucket FROM tally.usage_day_base");
    assert!(!alone.to_string().contains("Gather"), "as installed: {alone}");
    for_base_tables(&mut superuser, "RESET (parallel_workers)");
    let gathered = explain(&mut bench.analyst, parallel, "SELECT bucket FROM tally.usage_day_base");
    assert!(gathered.to_string().contains("Gather"), "workers would be used: {gathered}");
    for view in ["usage_day", "usage_day_state", "session_month", "user_activity_year_state"] {
        let plan = explain(&mut bench.analyst, parallel, &format!("SELECT * FROM tally.{view}"));
        assert!(!plan.to_string().contains("\"Partial\""), "{view}: {plan}");
    }
    for_base_tables(&mut superuser, "SET (parallel_workers = 0)");
    for (view, own) in [("accounts", activity_rows), ("users", activity_rows), ("sessions", session_rows)] {
        let plan = explain(reader, of_tenant, &format!("SELECT * FROM tally.{view}"));
        assert!(work(&plan) <= 12.0 * own, "{view}: {} rows handled of {own}: {plan}", work(&plan));
    }
    let plan = explain(reader, of_account, account);
    let handled = work(&plan);
    assert!(handled <= 8.0 * account_rows, "{handled} rows handled of {account_rows}: {plan}");

    // Rows of a few days are grouped where something late is pending of a few accounts.
    send(&mut bench.loader, events() + PENDING..events() + PENDING + 10);
    let whole = explain(&mut bench.analyst, "SELECT tally.enter_global()", "SELECT * FROM tally.usage_day");
    assert!((10.0..day_rows / 10.0).contains(&grouped(&whole)), "of {day_rows} rows: {whole}");

    // The server's statistics are those that the test makes.
    superuser
        .batch_execute(
            "DO $$ DECLARE t regclass; BEGIN
               FOR t IN SELECT oid FROM pg_class WHERE relkind = 'r' AND relnamespace = 'tally'::regnamespace
               LOOP EXECUTE format('ALTER TABLE %s SET (autovacuum_enabled = off)', t); END LOOP;
             END $$",
        )
        .unwrap();
    // With pending rows of everybody, of which each reader looks at its own and passes over the others twice.
    send(&mut bench.loader, events()..events() + PENDING);
    let pending = number(&mut superuser, "SELECT count(*) FROM tally.usage_pending") as f64;
    assert!(pending > PENDING as f64 * 0.8, "{pending} rows are pending");
    let reader = &mut bench.reader;
    for autovacuumed in [false, true] {
        if autovacuumed {
            superuser.batch_execute("ANALYZE").unwrap();
        }
        let plan = explain(reader, of_account, account);
        let (mut base, mut waiting) = (Vec::new(), Vec::new());
        scans(&plan, "usage_day_base", &mut base);
        scans(&plan, "usage_pending", &mut waiting);
        assert!(
            base.iter()
                .all(|(node, loops)| node.contains("Index") || node.contains("Bitmap") && *loops == 1.0),
            "{base:?}"
        );
        // Once for what is pending of which days, and once for the rows.
        assert!(waiting.iter().map(|(_, loops)| loops).sum::<f64>() <= 2.0, "{waiting:?}");
        assert!(work(&plan) <= 3.0 * pending + 12.0 * account_rows, "{}: {plan}", work(&plan));
        let whole =
            explain(&mut bench.analyst, "SELECT tally.enter_global()", "SELECT * FROM tally.usage_day");
        assert!(work(&whole) <= 8.0 * (day_rows + pending), "{} rows handled: {whole}", work(&whole));
        for (view, own) in [("accounts", activity_rows), ("users", activity_rows), ("sessions", session_rows)]
        {
            let plan = explain(reader, of_tenant, &format!("SELECT * FROM tally.{view}"));
            assert!(
                work(&plan) <= 12.0 * (own + pending),
                "{view}: {} rows handled of {own}: {plan}",
                work(&plan)
            );
        }
    }
    drop(bench.admin);
}

/// Two fifths of a hundred thousand users are in a cohort. What is quadratic in them takes a processor minutes; for everybody, and for one
/// tenant, of whose share the planner knows little, with rows pending.
#[test]
fn functions_over_many_units_are_linear() {
    let Bench { database: _database, mut admin, mut loader, mut reader, mut analyst } =
        bench("units", events());
    admin
        .batch_execute(
            r#"SELECT tally.define_cohort('twice', '{"event": "n1", "at_least": 1}');
               SELECT tally.define_cohort('accounts', '{"event": "n1", "at_least": 1, "unit": "account"}');
               SELECT tally.define_metric('stay', '{"kind": "retention", "start": "n1", "return": "n2", "grain": "week", "period": 1}');"#,
        )
        .unwrap();
    let range = "'2026-01-01Z', '2026-07-01Z'";
    let queries = queries(range);
    for (client, scope) in [(&mut analyst, "tally.enter_global()"), (&mut reader, "tally.enter('t00')")] {
        let pid: i32 = client.query_one("SELECT pg_backend_pid()", &[]).unwrap().get(0);
        let mut ask = |query: &str| -> (i64, f64) {
            let mut transaction = client.transaction().unwrap();
            transaction
                .batch_execute(&format!(
                    "SET LOCAL statement_timeout = '600s'; SET LOCAL max_parallel_workers_per_gather = 0; SELECT {scope}"
                ))
                .unwrap();
            let before = processor_time(pid);
            let answer = transaction.query_one(query, &[]);
            let answer = answer.unwrap_or_else(|problem| panic!("{scope}: {query}: {problem}")).get(0);
            let took = processor_time(pid) - before;
            println!("{scope}: {query}: {took:.2} s of a processor, {answer}");
            (answer, took)
        };
        // What one pass over the events takes, here and now. The functions take up to fifty times as long.
        let pass = "SELECT count(DISTINCT user_id) FROM tally.events";
        let pass = (0..5).map(|_| ask(pass).1).sum::<f64>() / 5.0;
        let (members, _) = ask(&format!("SELECT count(*) FROM tally.cohort_members('twice', {range})"));
        assert!(members as usize > events() / 20, "{members} members");
        for query in &queries {
            let (answer, took) = ask(query);
            assert!(answer > 0, "{query} counts something");
            assert!(took < 250.0 * pass, "{query}: {took} s, {pass} s for a pass over the events");
        }
        if scope == "tally.enter_global()" {
            send(&mut loader, events()..events() + PENDING / 3);
        }
    }
}

/// Seconds for which a processor has worked for a backend.
fn processor_time(pid: i32) -> f64 {
    let line = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = line.rsplit_once(')').unwrap().1.split_whitespace().collect();
    // In hundredths: for the program itself, and for the kernel on its behalf.
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
}

/// A number of each function, over a range.
fn queries(range: &str) -> Vec<String> {
    vec![
        format!(
            "SELECT sum(cohort_size)::int8 FROM tally.retention(NULL, NULL, 'week', {range}, of_cohort => 'twice') WHERE period = 0"
        ),
        format!(
            "SELECT sum(cohort_size)::int8 FROM tally.retention('n1', 'n2', 'day', {range}, of_cohort => 'twice') WHERE period = 0"
        ),
        format!(
            "SELECT sum(cohort_size)::int8 FROM tally.retention(NULL, NULL, 'week', {range}, 'account', of_cohort => 'accounts') WHERE period = 0"
        ),
        format!(
            "SELECT sum(units)::int8 FROM tally.retention_curve(NULL, NULL, 'month', {range}, of_cohort => 'twice')"
        ),
        format!("SELECT sum(cohort_size)::int8 FROM tally.activation('n1', 'n2', '7 days', {range})"),
        format!("SELECT count(*) FROM tally.did_at_least('n1', 1, {range})"),
        format!("SELECT sum(sessions)::int8 FROM tally.session_metrics({range})"),
        format!("SELECT count(*) FROM tally.revenue({range})"),
        "SELECT max(mau) FROM tally.active_users('[2026-01-01,2026-07-01)')".to_owned(),
        "SELECT max(mau) FROM tally.active_users('[2026-01-01,2026-07-01)', 'account')".to_owned(),
        format!("SELECT sum(units)::int8 FROM tally.funnel(ARRAY['n1', 'n2'], '30 days', {range})"),
        format!(
            "SELECT sum(units)::int8 FROM tally.funnel(ARRAY['n1', 'n2'], '30 days', {range}, breakdown => 'plan')"
        ),
        format!(
            "SELECT sum(units)::int8 FROM tally.funnel(ARRAY['n1', 'n2'], '30 days', {range}, hold => 'plan', breakdown => 'plan')"
        ),
        format!("SELECT 1 + coalesce(value * 1000, 0)::int8 FROM tally.metric_value('stay', {range})"),
    ]
}
