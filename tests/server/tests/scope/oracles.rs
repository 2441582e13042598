//! Two databases that differ in one value of another tenant's: whatever a tenant's login runs, it gets the same bytes.

use postgres::Client;
use serde_json::json;
use tally_server_tests::{Database, Session, connect_superuser, ingest};

/// The value that tenant `b` has in one database, and the one that it has in the other.
const SECRETS: [&str; 2] = ["secret@example.org", "nobody@example.org"];

/// Two databases with the same events and people of tenants `a` and `b`, then a secret of `b`'s in each; and the login
/// bound to `a`. `preload` has the library loaded from the start of each session.
fn twins(topic: &str, preload: bool) -> (Database, [String; 2], String) {
    let mut database = Database::new(topic);
    let [reader, owner] = [("reader", "tally_reader"), ("owner", "tally_writer")]
        .map(|(role, group)| database.role(role, &[group]));
    let mut admin = database.superuser();
    admin
        .batch_execute(&format!("GRANT tally_writer TO {reader}; SELECT tally.bind_role('{reader}', 'a')"))
        .unwrap();
    let event = |tenant: &str, user: &str, number: usize| {
        json!({"tenant_id": tenant, "account_id": "x", "name": "run", "user_id": user,
            "occurred_at": format!("2026-01-{:02}T00:00:00Z", number % 28 + 1),
            "event_id": format!("{:08x}-0000-4000-8000-{number:012}", tenant.as_bytes()[0]),
            "properties": {"value": number, "mail": user}})
    };
    let events: Vec<_> = ["a", "b"]
        .iter()
        .flat_map(|tenant| (0..300).map(move |number| event(tenant, &format!("u{}", number % 7), number)))
        .collect();
    assert_eq!(ingest(&mut admin, &json!(events).to_string()).unwrap().accepted, 600);
    admin
        .batch_execute(&format!(
            "SELECT tally.fold('usage'); CREATE SCHEMA shop AUTHORIZATION {owner}; GRANT USAGE ON SCHEMA shop TO PUBLIC;
             SET ROLE {owner};
             CREATE TABLE shop.people (tenant text NOT NULL, mail text NOT NULL, age int, PRIMARY KEY (tenant, mail));
             CREATE INDEX ON shop.people (mail);
             CREATE TABLE shop.visits (tenant text NOT NULL, mail text NOT NULL,
               FOREIGN KEY (tenant, mail) REFERENCES shop.people);
             CREATE INDEX ON shop.visits (mail);
             SELECT tally.protect('shop.people', 'tenant'), tally.protect('shop.visits', 'tenant');
             GRANT SELECT, INSERT, UPDATE, DELETE ON shop.people, shop.visits TO PUBLIC; RESET ROLE;
             INSERT INTO shop.people SELECT t, 'p' || n, n FROM unnest('{{a,b}}'::text[]) AS t, generate_series(1, 500) AS n"
        ))
        .unwrap();
    // Nothing by chance: no fold that ingest does now and then, no autovacuum.
    admin
        .batch_execute(
            "DO $$ DECLARE t regclass; BEGIN
               FOR t IN SELECT oid FROM pg_class WHERE relkind = 'r' AND relnamespace::regnamespace::text IN ('tally', 'shop')
               LOOP EXECUTE format('ALTER TABLE %s SET (autovacuum_enabled = off, toast.autovacuum_enabled = off)', t); END LOOP;
             END $$",
        )
        .unwrap();
    drop(admin);
    let twin = format!("{}_twin", database.name());
    let names = [database.name().to_owned(), twin.clone()];
    let mut server = connect_superuser("postgres");
    server.batch_execute(&format!("CREATE DATABASE {twin} TEMPLATE {}", names[0])).unwrap();
    for (name, secret) in names.iter().zip(SECRETS) {
        if preload {
            server
                .batch_execute(&format!("ALTER DATABASE {name} SET session_preload_libraries = pg_tally"))
                .unwrap();
        }
        let mut admin = connect_superuser(name);
        // Counters of the statistics views aren't cloned with the rows.
        admin.batch_execute("SELECT pg_stat_reset()").unwrap();
        // Often enough to be among the most common values of the statistics.
        let events: Vec<_> = (1000..1400).map(|number| event("b", secret, number)).collect();
        assert_eq!(ingest(&mut admin, &json!(events).to_string()).unwrap().accepted, 400);
        admin
            .batch_execute(&format!(
                "INSERT INTO shop.people VALUES ('b', '{secret}', 0); INSERT INTO shop.visits SELECT 'b', '{secret}' FROM generate_series(1, 400);
                 SELECT pg_stat_force_next_flush()"
            ))
            .unwrap();
        admin.batch_execute("VACUUM ANALYZE").unwrap();
    }
    (database, names, reader)
}

fn drop_twin(names: &[String; 2]) {
    connect_superuser("postgres").batch_execute(&format!("DROP DATABASE {} WITH (FORCE)", names[1])).unwrap();
}

/// Statements that could betray whether another tenant has the value.
fn probes() -> Vec<String> {
    let secret = SECRETS[0];
    let mut probes = Vec::new();
    let queries = [
        format!("SELECT * FROM shop.people WHERE mail = '{secret}'"),
        format!("SELECT * FROM shop.visits WHERE mail = '{secret}'"),
        format!("SELECT * FROM tally.events WHERE user_id = '{secret}'"),
        "SELECT name, events, users FROM tally.usage_day".to_owned(),
        format!("INSERT INTO shop.visits VALUES ('a', '{secret}')"),
        format!("UPDATE shop.people SET age = 1 WHERE mail = '{secret}'"),
    ];
    for query in &queries {
        for how in [
            "EXPLAIN",
            "EXPLAIN (ANALYZE, BUFFERS, TIMING off, SUMMARY off)",
            "EXPLAIN (FORMAT json, VERBOSE)",
            "SET enable_seqscan = off; EXPLAIN (ANALYZE, TIMING off, SUMMARY off)",
            "SET client_min_messages = log; SET debug_print_plan = on;",
            "SELECT set_config('client_min_messages', 'log', false), set_config('debug_print_plan', 'on', false);",
            "SET client_min_messages = debug5;",
        ] {
            probes.push(format!("{how} {query}"));
            probes.push("RESET ALL".to_owned());
        }
        for nested in [
            "DO $$ DECLARE l text; BEGIN FOR l IN EXECUTE 'EXPLAIN ANALYZE QUERY' LOOP RAISE NOTICE '%', l; END LOOP; END $$",
            "BEGIN; CREATE FUNCTION pg_temp.f() RETURNS SETOF text LANGUAGE plpgsql AS
               $$ BEGIN RETURN QUERY EXECUTE 'EXPLAIN (COSTS) QUERY'; END $$; SELECT pg_temp.f()",
        ] {
            probes.push(nested.replace("QUERY", &query.replace('\'', "''''").replace("''''", "''")));
        }
        probes.push(format!("PREPARE q AS {query}"));
        probes.push("EXPLAIN (ANALYZE, TIMING off, SUMMARY off) EXECUTE q".to_owned());
        probes.push("DEALLOCATE q".to_owned());
        probes.push(query.clone());
    }
    let column = |expression: &str| {
        [
            format!("SELECT {} FROM shop.people ORDER BY 1", expression.replace('X', "mail")),
            format!("SELECT count(*) FROM shop.people WHERE {} IS NULL", expression.replace('X', "mail")),
            format!("SELECT count(*) FROM tally.events WHERE {} IS NULL", expression.replace('X', "user_id")),
        ]
    };
    for expression in [
        format!("1 / (CASE WHEN X = '{secret}' THEN 0 ELSE 1 END)"),
        format!("CASE WHEN X = '{secret}' THEN X::int ELSE 1 END"),
        format!("CASE WHEN X = '{secret}' THEN 9223372036854775807 + length(X)::int8 ELSE 1 END"),
        format!("substr(X, 1, CASE WHEN X = '{secret}' THEN -1 ELSE 1 END)"),
        "sqrt(18 - length(X))".to_owned(),
    ] {
        probes.extend(column(&expression));
    }
    for mail in SECRETS {
        for tenant in ["a", "b"] {
            probes.push(format!("BEGIN; INSERT INTO shop.people VALUES ('{tenant}', '{mail}', 1)"));
            probes.push(format!(
                "BEGIN; INSERT INTO shop.people VALUES ('{tenant}', '{mail}') ON CONFLICT DO NOTHING"
            ));
            probes.push(format!("BEGIN; INSERT INTO shop.visits VALUES ('{tenant}', '{mail}')"));
        }
        probes.push(format!("BEGIN; UPDATE shop.people SET mail = '{mail}' WHERE mail = 'p1'"));
        probes.push(format!("BEGIN; UPDATE shop.people SET tenant = 'b' WHERE mail = '{mail}'"));
        probes.push(format!("DELETE FROM shop.people WHERE mail = '{mail}'"));
        probes.push(format!(
            "MERGE INTO shop.people USING (VALUES ('{mail}')) AS s (m) ON s.m = mail WHEN MATCHED THEN UPDATE SET age = 9"
        ));
    }
    for number in [3, 1003] {
        let event = json!({"tenant_id": "b", "account_id": "x", "name": "run", "user_id": secret,
            "event_id": format!("00000062-0000-4000-8000-{number:012}"), "occurred_at": "2026-01-04T00:00:00Z"});
        probes.push(format!(
            "SELECT accepted, duplicates, conflicts, rejected, details FROM tally.ingest('{event}'::text)"
        ));
    }
    probes.extend(
        [
            "SELECT relname, reltuples, relpages, relallvisible FROM pg_class WHERE relnamespace::regnamespace::text IN ('tally', 'shop') ORDER BY 1",
            "SELECT relname, pg_relation_size(oid), pg_total_relation_size(oid) FROM pg_class
               WHERE relnamespace::regnamespace::text IN ('tally', 'shop') AND relkind IN ('r', 'i') ORDER BY 1",
            "SELECT relname, n_tup_ins, n_tup_upd, n_tup_del, n_live_tup, n_dead_tup FROM pg_stat_all_tables
               WHERE schemaname IN ('tally', 'shop') ORDER BY relname",
            "SELECT * FROM pg_stats WHERE schemaname IN ('tally', 'shop')",
            "SELECT * FROM pg_stats_ext",
            "SELECT * FROM pg_statistic",
            "SELECT locktype, relation, classid, objid, objsubid, mode, granted FROM pg_locks
               WHERE pid <> pg_backend_pid() AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
               ORDER BY 1, 2, 3, 4, 5, 6",
            "SELECT usename IS NULL, query, state, wait_event FROM pg_stat_activity
               WHERE pid <> pg_backend_pid() AND datname = current_database() ORDER BY 1, 2, 3",
            "SELECT bucket, name, tally.distinct_count(users), tally.stderror(sessions) FROM tally.usage_day_state ORDER BY 1, 2",
            "SELECT tally.distinct_count(tally.rollup(users)), tally.rollup(value) FROM tally.usage_day_state",
            "SELECT tally.distinct_count_upper(tally.rollup(users), 2) FROM tally.usage_hour_state WHERE bucket > '2026-01-10'",
            "SELECT tally.distinct_count(tally.hll(user_id)) FROM tally.events",
            "SELECT * FROM tally.usage_day ORDER BY bucket",
            "SELECT * FROM tally.tenant",
            "SELECT tenant_id, first_seen_at IS NULL FROM tally.tenant",
            "SELECT * FROM tally.event_key",
            "SELECT tenant_id, account_id, outcome, sqlstate, reason FROM tally.quarantine ORDER BY 1, 2, 3, 4, 5",
            "SELECT count(*), min(tenant_id), max(tenant_id) FROM tally.ingest_batch",
            "SELECT count(*), sum(hashtext(e::text)) FROM tally.events AS e",
            "SELECT user_id, count(*) FROM tally.events TABLESAMPLE BERNOULLI (50) REPEATABLE (1) GROUP BY 1 ORDER BY 1",
            "SELECT max(ctid), min(ctid), count(DISTINCT xmin) FROM shop.people",
            "LISTEN x; NOTIFY x, 'y'; UNLISTEN x",
            "SELECT * FROM tally.lint()",
            "SELECT nextval('shop.s')",
            "LOCK TABLE tally.events IN SHARE MODE",
            "ANALYZE VERBOSE shop.people",
            "SELECT * FROM pg_prepared_xacts",
        ]
        .map(str::to_owned),
    );
    probes
}

/// What both databases answer. Autovacuum, and counts that reach the statistics later, come to one before the other: then it is asked
/// again, for what a value changes doesn't go.
fn alike(what: &str, mut ask: impl FnMut() -> [String; 2]) -> [String; 2] {
    let mut answers = ask();
    for _ in 0..30 {
        if answers[0] == answers[1] {
            break;
        }
        eprintln!("once more: {what}\n{}\n---\n{}", answers[0], answers[1]);
        std::thread::sleep(std::time::Duration::from_secs(1));
        answers = ask();
    }
    assert_eq!(answers[0], answers[1], "{what}");
    answers
}

#[test]
fn a_value_of_another_tenants_changes_no_byte() {
    let (database, names, reader) = twins("oracle", true);
    // Tenant b is at work meanwhile, with the value.
    let mut others: Vec<Client> = names.iter().map(|name| connect_superuser(name)).collect();
    for (other, secret) in others.iter_mut().zip(SECRETS) {
        other
            .batch_execute(&format!(
                "BEGIN; UPDATE shop.people SET age = 2 WHERE mail = '{secret}'; NOTIFY x, '{secret}'"
            ))
            .unwrap();
    }
    let mut sessions = names.each_ref().map(|name| Session::new(name, &database, &reader));
    let mut refused = 0;
    let probes = probes();
    for probe in &probes {
        let answers = alike(probe, || {
            sessions.each_mut().map(|session| session.answer(probe).replace(&names[1], &names[0]))
        });
        refused += usize::from(answers[0].contains("can't use EXPLAIN"));
        assert!(!answers[0].contains(SECRETS[0]) || probe.contains(SECRETS[0]), "{probe}: {}", answers[0]);
        assert!(!answers[0].contains("PLANNEDSTMT"), "{probe}");
    }
    assert!(refused >= 35, "{refused} of {} refused", probes.len());
    // In a session of its own each, so that no probe profits from what an earlier one set up.
    for probe in probes.iter().step_by(3) {
        alike(&format!("in a fresh session: {probe}"), || {
            names.each_ref().map(|name| {
                Session::new(name, &database, &reader).answer(probe).replace(&names[1], &names[0])
            })
        });
    }
    drop((others, sessions));
    drop_twin(&names);
}

/// What docs/SECURITY.md says of sessions without preloading: the first EXPLAIN of a session isn't refused. It shows, too,
/// that the databases above differ in what an oracle would tell.
#[test]
fn without_preloading_the_first_explain_tells() {
    let (database, names, reader) = twins("lazy", false);
    for query in [
        format!("EXPLAIN SELECT * FROM shop.visits WHERE mail = '{}'", SECRETS[0]),
        format!(
            "EXPLAIN (ANALYZE, TIMING off, SUMMARY off) SELECT * FROM shop.visits WHERE mail = '{}'",
            SECRETS[0]
        ),
    ] {
        let mut sessions = names.each_ref().map(|name| Session::new(name, &database, &reader));
        let answers = sessions.each_mut().map(|session| session.answer(&query));
        assert_ne!(answers[0], answers[1], "{query}");
        // Once a statement has read the scope, the library is there.
        for session in &mut sessions {
            session.answer("RESET ALL");
            session.answer("SELECT count(*) FROM shop.people");
            let answer = session.answer(&query);
            assert!(answer.contains("42501"), "{query}: {answer}");
        }
    }
    // Planning a query of a protected table loads the library, before the plan is printed.
    let printing = "SET client_min_messages = log; SET debug_print_plan = on; SELECT * FROM shop.visits";
    for name in &names {
        let answer = Session::new(name, &database, &reader).answer(printing);
        assert!(answer.contains("42501") && !answer.contains("PLANNEDSTMT"), "{answer}");
    }
    drop_twin(&names);
}
