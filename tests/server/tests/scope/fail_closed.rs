//! Without a scope a statement that reads an isolated table is refused, whatever its plan leaves out and whether there is
//! anything to read: else an empty answer would look like a number, and its absence would tell that somebody has rows.

use postgres::Client;
use postgres::error::SqlState;
use serde_json::json;
use tally_server_tests::{Database, ingest, number, of_this_major};

/// Statements that need no row to be answered. RANGE is a month in which nobody has an event, or everybody.
const STATEMENTS: &[&str] = &[
    "SELECT count(*) FROM tally.events WHERE occurred_at >= RANGE AND occurred_at < RANGE + interval '1 month'",
    "SELECT count(*) FROM tally.events WHERE occurred_at = RANGE AND tenant_id = 'a'",
    "SELECT count(*) FROM tally.events",
    "SELECT * FROM tally.events LIMIT 0",
    "SELECT * FROM tally.events WHERE false",
    "SELECT count(*) FROM tally.events WHERE tenant_id = NULL",
    "SELECT 1 FROM tally.events WHERE occurred_at < RANGE AND occurred_at > RANGE",
    "SELECT EXISTS (SELECT FROM tally.events WHERE occurred_at = RANGE)",
    "SELECT (SELECT max(name) FROM tally.events WHERE occurred_at = RANGE)",
    "SELECT count(*) FROM tally.events AS e JOIN (SELECT 1 AS one WHERE false) AS n ON true",
    "SELECT count(*) FROM (VALUES (1)) AS v LEFT JOIN tally.events AS e ON e.occurred_at = RANGE",
    "SELECT 1 UNION ALL SELECT 2 FROM tally.events WHERE occurred_at = RANGE",
    "WITH e AS MATERIALIZED (SELECT * FROM tally.events WHERE occurred_at = RANGE) SELECT count(*) FROM e",
    "SELECT count(*) FROM (VALUES (1)) AS v CROSS JOIN LATERAL (SELECT FROM tally.events WHERE occurred_at = RANGE OFFSET 0) AS e",
    "SELECT count(*) FROM tally.usage_day WHERE bucket = RANGE AT TIME ZONE 'UTC'",
    "SELECT count(*) FROM tally.usage_hour LIMIT 0",
    "SELECT count(*) FROM tally.quarantine",
    "SELECT count(*) FROM tally.ingest_batch",
    "SELECT count(*) FROM shop.orders",
    "SELECT count(*) FROM shop.report WHERE id = 7",
    "SELECT shop.number_of_orders()",
    "SELECT shop.number_by_body()",
    "INSERT INTO shop.orders SELECT 'a', 1 WHERE false",
    "UPDATE shop.orders SET id = 1 WHERE false",
    "DELETE FROM shop.orders",
    "INSERT INTO shop.orders VALUES ('a', 1) ON CONFLICT DO NOTHING",
    "DO $$ BEGIN PERFORM 1 FROM tally.events WHERE occurred_at = RANGE; END $$",
    "BEGIN; DECLARE c CURSOR FOR SELECT * FROM tally.events WHERE occurred_at = RANGE; COMMIT",
    "COPY (SELECT * FROM tally.events WHERE occurred_at = RANGE) TO STDOUT",
    "CREATE TEMPORARY TABLE t AS SELECT * FROM tally.events WHERE occurred_at = RANGE",
    "PREPARE p AS SELECT count(*) FROM tally.events WHERE occurred_at = $1; SET plan_cache_mode = force_generic_plan; EXECUTE p(RANGE)",
    "SET force_parallel_mode = on; SET parallel_setup_cost = 0; SELECT count(*) FROM tally.events WHERE occurred_at = RANGE",
    "SET force_parallel_mode = on; SELECT shop.number_of_orders()",
    "SET enable_partition_pruning = off; SELECT count(*) FROM tally.events WHERE occurred_at = RANGE",
    "SET plan_cache_mode = force_generic_plan; SELECT shop.number_of_orders()",
    "SELECT * FROM tally.funnel('{run,stop}'::text[], '1 day', RANGE, RANGE + interval '1 month')",
    "SELECT * FROM tally.funnel('[\"run\",\"stop\"]'::jsonb, '1 day', RANGE, RANGE + interval '1 month')",
    "SELECT * FROM tally.retention('run', 'run', 'day', RANGE, RANGE + interval '1 month')",
    "SELECT * FROM tally.retention_curve('run', 'run', 'day', RANGE, RANGE + interval '1 month')",
    "SELECT * FROM tally.activation('run', 'stop', '1 day', RANGE, RANGE + interval '1 month')",
    "SELECT * FROM tally.revenue(RANGE, RANGE + interval '1 month')",
    "SELECT * FROM tally.active_users('[2031-01-01,2031-01-03]'::daterange)",
    "SELECT * FROM tally.session_metrics(RANGE, RANGE + interval '1 month')",
    "SELECT * FROM tally.did_at_least('run', 1, RANGE, RANGE + interval '1 month')",
    "SELECT * FROM tally.account_health('x')",
    "SELECT * FROM tally.metric_value('active', RANGE, RANGE + interval '1 month')",
    "SELECT * FROM tally.metric_series('active', RANGE, RANGE + interval '1 month')",
    "SELECT * FROM tally.cohort_members('regulars', RANGE, RANGE + interval '1 month')",
    "SELECT tally.current_tenant()",
];

/// Those whose table is never planned: where the library comes with the first statement, it comes too late for them, and what
/// they answer depends on nobody's rows.
const NEVER_PLANNED: &[&str] = &[
    "SELECT count(*) FROM tally.usage_day WHERE false",
    "SELECT * FROM (SELECT count(*) FROM tally.events) AS e WHERE false",
    "SELECT count(*) FROM tally.usage_day_state WHERE tenant_id = NULL",
];

fn outcome(client: &mut Client, statement: &str) -> String {
    let outcome = match client.simple_query(statement) {
        Ok(_) => "an answer".to_owned(),
        Err(error) => error.code().map_or("no code", SqlState::code).to_owned(),
    };
    client
        .batch_execute("ROLLBACK")
        .and_then(|()| client.batch_execute("DISCARD ALL"))
        .expect("leaving nothing behind");
    outcome
}

fn furnish(database: &mut Database) -> Vec<String> {
    let owner = database.role("owner", &["tally_writer"]);
    let roles: Vec<String> = ["nobody", "trusted", "analyst", "both"]
        .into_iter()
        .map(|topic| database.role(topic, &["tally_reader", "tally_writer"]))
        .collect();
    let [one, other] = ["one", "other"].map(|topic| database.role(topic, &[]));
    let (trusted, analyst, both) = (&roles[1], &roles[2], &roles[3]);
    database
        .superuser()
        .batch_execute(&format!(
            "CREATE SCHEMA shop AUTHORIZATION {owner}; SET ROLE {owner};
             CREATE TABLE shop.orders (tenant_id text NOT NULL, id int NOT NULL, PRIMARY KEY (tenant_id, id));
             SELECT tally.protect('shop.orders');
             CREATE VIEW shop.report WITH (security_invoker = true) AS SELECT id, count(*) AS n FROM shop.orders GROUP BY id;
             CREATE FUNCTION shop.number_of_orders() RETURNS bigint LANGUAGE plpgsql STABLE PARALLEL SAFE
               AS 'BEGIN RETURN (SELECT count(*) FROM shop.orders WHERE id < 0); END';
             CREATE FUNCTION shop.number_by_body() RETURNS bigint LANGUAGE sql STABLE
               BEGIN ATOMIC SELECT count(*) FROM tally.events WHERE occurred_at = '2031-01-01'; END;
             GRANT USAGE ON SCHEMA shop TO PUBLIC; GRANT ALL ON shop.orders, shop.report TO PUBLIC;
             RESET ROLE; REVOKE TRUNCATE, REFERENCES, TRIGGER ON shop.orders FROM PUBLIC;
             SELECT tally.define_metric('active', '{{\"kind\": \"units\", \"event\": \"run\", \"unit\": \"user\"}}');
             SELECT tally.define_cohort('regulars', '{{\"event\": \"run\", \"at_least\": 1, \"unit\": \"user\"}}');
             SELECT tally.trust_role('{trusted}'); GRANT tally_analyst TO {analyst};
             SELECT tally.bind_role('{one}', 'a'), tally.bind_role('{other}', 'b'); GRANT {one}, {other} TO {both}"
        ))
        .unwrap();
    roles
}

#[test]
fn a_statement_without_a_scope_is_refused_whatever_there_is_to_read() {
    let mut database = Database::new("closed_plan");
    let roles = furnish(&mut database);
    let reader = database.role("reader", &["tally_reader", "tally_writer"]);
    let mut admin = database.superuser();
    admin.execute("SELECT tally.bind_role($1::text::regrole, 'a')", &[&reader]).unwrap();
    let mut wrong = Vec::new();
    for with_rows in [false, true] {
        if with_rows {
            let events: Vec<_> = ["a", "b"]
                .into_iter()
                .map(|tenant| {
                    json!({"tenant_id": tenant, "account_id": "x", "name": "run", "user_id": "u",
                        "event_id": "00000000-0000-4000-8000-000000000001", "occurred_at": "2026-10-02T09:00:00Z"})
                })
                .collect();
            assert_eq!(ingest(&mut admin, &json!(events).to_string()).unwrap().accepted, 2);
            admin.batch_execute("INSERT INTO shop.orders VALUES ('a', 7), ('b', 7)").unwrap();
        }
        for month in ["timestamptz '2031-01-01'", "timestamptz '2026-10-01'"] {
            for role in &roles {
                let mut used = database.connect(role);
                used.batch_execute("SELECT tally.event_id('x')").unwrap();
                for statement in STATEMENTS.iter().chain(NEVER_PLANNED) {
                    let statement = of_this_major(statement).replace("RANGE", month);
                    let seen = outcome(&mut used, &statement);
                    if seen != "42501" {
                        wrong.push(format!("{role}, rows {with_rows}: {statement}: {seen}"));
                    }
                }
            }
            // The session's first statement, with no library loaded before. One role stands for all.
            for statement in STATEMENTS.iter().step_by(if with_rows { 5 } else { 1 }) {
                let statement = of_this_major(statement).replace("RANGE", month);
                let seen = outcome(&mut database.connect(&roles[1]), &statement);
                if seen != "42501" {
                    wrong.push(format!("first, rows {with_rows}: {statement}: {seen}"));
                }
            }
        }
        // With a scope each is answered: it is the scope that was missing.
        let mut bound = database.connect(&reader);
        for statement in STATEMENTS.iter().chain(NEVER_PLANNED) {
            let statement = of_this_major(statement).replace("RANGE", "timestamptz '2031-01-01'");
            let seen = outcome(&mut bound, &statement);
            if seen != "an answer"
                && !statement.contains("shop.orders VALUES")
                && !statement.starts_with("COPY")
            {
                wrong.push(format!("bound, rows {with_rows}: {statement}: {seen}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

/// The scope counts when a statement is executed, not when it is planned.
#[test]
fn what_enters_a_scope_first_may_be_planned_before() {
    let mut database = Database::new("closed_later");
    let roles = furnish(&mut database);
    let mut admin = database.superuser();
    admin
        .batch_execute(
            "CREATE FUNCTION shop.entered(tenant text) RETURNS bigint LANGUAGE sql
               AS 'SELECT tally.enter(tenant); SELECT count(*) FROM tally.events'",
        )
        .unwrap();
    let mut client = database.connect(&roles[1]);
    let statement = client.prepare("SELECT count(*) FROM tally.events").unwrap();
    for _ in 0..8 {
        assert!(client.query(&statement, &[]).is_err());
        let mut transaction = client.transaction().unwrap();
        transaction.execute("SELECT tally.enter('a')", &[]).unwrap();
        assert_eq!(transaction.query_one(&statement, &[]).unwrap().get::<_, i64>(0), 0);
        transaction.commit().unwrap();
        let mut transaction = client.transaction().unwrap();
        assert_eq!(transaction.query_one("SELECT shop.entered('a')", &[]).unwrap().get::<_, i64>(0), 0);
        transaction.commit().unwrap();
    }
    // Whom row security doesn't bind is not asked for a scope, nor is one that reads other tables.
    assert_eq!(admin.query_one("SELECT count(*) FROM tally.events", &[]).unwrap().get::<_, i64>(0), 0);
    assert_eq!(
        client.query_one("SELECT count(*) FROM pg_class WHERE false", &[]).unwrap().get::<_, i64>(0),
        0
    );
    admin
        .batch_execute(&format!(
            "CREATE TABLE shop.own (owner name DEFAULT current_user); ALTER TABLE shop.own ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
             CREATE POLICY mine ON shop.own USING (owner = current_user); GRANT SELECT, INSERT ON shop.own TO {}",
            roles[1]
        ))
        .unwrap();
    client.batch_execute("INSERT INTO shop.own DEFAULT VALUES").unwrap();
    assert_eq!(client.query_one("SELECT count(*) FROM shop.own", &[]).unwrap().get::<_, i64>(0), 1);
}

/// Records of administration are an auditor's to read, of every tenant and without a scope; nothing else is, nor are they anybody
/// else's, and what acts on them with its owner's rights wants a scope as ever.
#[test]
fn an_auditor_reads_records_of_every_tenant_and_nothing_else() {
    let mut database = Database::new("records");
    let roles = [
        ("auditor", &["tally_auditor"][..]),
        ("reading_auditor", &["tally_auditor", "tally_reader", "tally_writer"]),
        ("admin", &["tally_admin"]),
        ("bound_auditor", &["tally_auditor", "tally_reader", "tally_writer"]),
        ("account_auditor", &["tally_auditor", "tally_reader", "tally_writer"]),
        ("analyst", &["tally_analyst"]),
        ("reader", &["tally_reader"]),
    ]
    .map(|(topic, groups)| (topic, database.role(topic, groups)));
    let of = |topic: &str| roles.iter().find(|(known, _)| *known == topic).unwrap().1.as_str();
    let mut superuser = database.superuser();
    superuser
        .batch_execute(&format!(
            "SELECT tally.bind_role('{}', 'a'), tally.bind_role('{}', 'a', 'x');
             INSERT INTO tally.quarantine_discard VALUES (now(), 1, 'a', 'r', 'w'), (now(), 1, 'b', 'r', 'w');
             INSERT INTO tally.stream (tenant_id, account_id, stream, owned_by) VALUES ('a', '', 's', 'r'), ('b', '', 's', 'r');
             INSERT INTO tally.erasure (finished_at, subject_hash, tenant_id, requested_by, reason, certificate)
             VALUES (now(), gen_random_uuid(), 'a', 'r', 'w', '{{}}'), (now(), gen_random_uuid(), 'b', 'r', 'w', '{{}}')",
            of("bound_auditor"),
            of("account_auditor")
        ))
        .unwrap();
    let read = |topic: &str, query: &str| {
        let mut client = database.connect(of(topic));
        match client.query_one(query, &[]) {
            Ok(row) => row.get::<_, i64>(0).to_string(),
            Err(error) => error.as_db_error().unwrap().message().to_owned(),
        }
    };
    let missing = "no tenant in scope";
    for (topic, all) in [
        ("auditor", "2"),
        ("reading_auditor", "2"),
        ("admin", "2"),
        ("bound_auditor", "1"),
        ("account_auditor", "0"),
        ("analyst", missing),
        ("reader", missing),
    ] {
        for record in ["quarantine_discard", "stream", "erasures"] {
            assert_eq!(
                read(topic, &format!("SELECT count(*) FROM tally.{record}")),
                all,
                "{topic}: {record}"
            );
        }
    }
    for topic in ["reading_auditor", "admin"] {
        for query in [
            "SELECT count(*) FROM tally.events",
            "SELECT count(*) FROM tally.stream AS s JOIN tally.events AS e USING (tenant_id)",
            "SELECT count(*) FROM tally.stream AS s, tally.usage_day AS u WHERE false",
            "SELECT tally.discard('w')",
            "SELECT length(tally.current_tenant())::int8",
        ] {
            assert_eq!(read(topic, query), missing, "{topic}: {query}");
        }
    }
    assert_eq!(number(&mut superuser, "SELECT count(*) FROM tally.stream"), 2);
}
