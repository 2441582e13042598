//! A bound login sees its tenant alone, whatever it tries; without a scope there is an error, not an empty answer.

use postgres::error::SqlState;
use postgres::{Client, NoTls};
use serde_json::json;
use std::io::Read;
use tally_server_tests::{Database, ingest, of_this_major};

/// A database with events of two tenants and two accounts each, and a reader bound to tenant `a`.
fn two_tenants(topic: &str) -> (Database, String) {
    let mut database = Database::new(topic);
    let reader = database.role("reader", &["tally_reader", "tally_writer"]);
    let mut admin = database.superuser();
    let mut events = Vec::new();
    for (tenant, account) in [("a", "a1"), ("a", "a2"), ("b", "b1"), ("b", "a1")] {
        for number in 0..3 {
            events.push(json!({
                "tenant_id": tenant, "account_id": account, "name": "run", "user_id": format!("u{number}"),
                "event_id": format!("00000000-0000-4000-8000-{:012}", events.len()),
                "occurred_at": format!("2026-0{}-02T09:15:00Z", number + 1), "properties": {"secret": tenant}
            }));
        }
    }
    events.push(json!({"tenant_id": "b", "account_id": "b1"}));
    admin.batch_execute("SELECT tally.set_unregistered_policy('mark')").unwrap();
    assert_eq!(ingest(&mut admin, &serde_json::Value::from(events).to_string()).unwrap().accepted, 12);
    admin.batch_execute("SELECT tally.fold('usage')").unwrap();
    let half = json!({"tenant_id": "b", "account_id": "b1", "name": "run",
        "event_id": "00000000-0000-4000-8000-000000000099", "occurred_at": "2026-01-05T00:00:00Z"});
    assert_eq!(ingest(&mut admin, &half.to_string()).unwrap().accepted, 1);
    let bad = ingest(&mut admin, r#"{"tenant_id": "b"}"#).unwrap();
    assert_eq!(admin.execute("SELECT tally.discard('a test', batch_id => $1)", &[&bad.batch_id]).unwrap(), 1);
    admin.execute("SELECT tally.bind_role($1::text::regrole, 'a')", &[&reader]).unwrap();
    (database, reader)
}

/// Everything that a reader is granted and that has tenants: base, pending, partitions, views.
fn readable(client: &mut Client) -> Vec<String> {
    client
        .query(
            "SELECT c.oid::regclass::text FROM pg_class AS c
             JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attname = 'tenant_id'
             WHERE c.relnamespace IN ('tally'::regnamespace, 'tally_internal'::regnamespace) AND c.relkind IN ('r', 'p', 'v')
               AND has_column_privilege(c.oid, a.attnum, 'SELECT')",
            &[],
        )
        .unwrap()
        .iter()
        .map(|row| row.get(0))
        .collect()
}

/// Rows of other tenants in anything readable; an error counts as none.
fn foreign_rows(client: &mut Client, relations: &[String]) -> i64 {
    relations
        .iter()
        .map(|relation| {
            let query = format!("SELECT count(*) FROM {relation} WHERE tenant_id <> 'a'");
            client.query_one(&query, &[]).map_or(0, |row| row.get::<_, i64>(0))
        })
        .sum()
}

#[test]
fn no_statement_widens_what_a_bound_login_sees() {
    let (mut database, reader) = two_tenants("spoof");
    let other = database.role("other", &["tally_reader"]);
    let mut admin = database.superuser();
    admin.execute("SELECT tally.bind_role($1::text::regrole, 'b')", &[&other]).unwrap();
    admin.batch_execute("GRANT CREATE ON SCHEMA public TO PUBLIC").unwrap();
    let mut client = database.connect(&reader);
    let relations = readable(&mut client);
    assert!(relations.len() >= 9, "{relations:?}");
    let own: i64 = client.query_one("SELECT count(*) FROM tally.events", &[]).unwrap().get(0);
    assert_eq!(own, 6);

    let attacks = [
        "SET tally.scope = '*'",
        "SET tally.scope = E'b\\x1f'",
        "SET LOCAL tally.scope = '*'",
        "SET SESSION tally.scope TO DEFAULT",
        "RESET tally.scope",
        "RESET ALL",
        "DISCARD ALL",
        "SELECT set_config('tally.scope', '*', false)",
        "SELECT set_config('tally.scope', E'b\\x1f', true)",
        "UPDATE pg_settings SET setting = '*' WHERE name = 'tally.scope'",
        &format!("ALTER ROLE {reader} SET tally.scope = '*'"),
        &format!("ALTER DATABASE {} SET tally.scope = '*'", database.name()),
        "ALTER SYSTEM SET tally.scope = '*'",
        "SET ROLE tally_owner",
        "SET ROLE tally_analyst",
        &format!("SET ROLE {other}"),
        &format!("SET SESSION AUTHORIZATION {other}"),
        "SELECT tally.enter('b')",
        "SELECT tally.enter('b', 'a1')",
        "SELECT tally.enter_global()",
        &format!("SELECT tally.bind_role('{reader}', 'b')"),
        &format!("SELECT tally.trust_role('{reader}')"),
        &format!("SELECT tally.unbind_role('{reader}')"),
        "UPDATE tally.role_binding SET tenant_id = 'b'",
        "CREATE FUNCTION public.f() RETURNS bigint LANGUAGE sql SET tally.scope = '*' AS 'SELECT count(*) FROM tally.events'",
        "CREATE FUNCTION pg_temp.current_tenant() RETURNS text LANGUAGE sql AS $$SELECT 'b'$$; SET search_path = pg_temp, public, tally",
        "CREATE FUNCTION public.current_tenant() RETURNS text LANGUAGE sql AS $$SELECT 'b'$$; SET search_path = public, pg_catalog, tally",
        "CREATE FUNCTION pg_temp.is(text, text) RETURNS boolean LANGUAGE sql AS 'SELECT true';
           CREATE OPERATOR pg_temp.= (LEFTARG = text, RIGHTARG = text, FUNCTION = pg_temp.is); SET search_path = pg_temp, pg_catalog",
        "CREATE POLICY mine ON tally.events USING (true)",
        "ALTER TABLE tally.events DISABLE ROW LEVEL SECURITY",
        "SET row_security = off",
        "CREATE VIEW public.spy AS SELECT * FROM tally.events",
        "BEGIN; SAVEPOINT s; SELECT tally.enter('a'); ROLLBACK TO s; SELECT tally.enter('b'); COMMIT",
        "DO $$ BEGIN PERFORM tally.enter('b'); EXCEPTION WHEN OTHERS THEN NULL; END $$",
        "SELECT tally_internal.secure_table('tally.events')",
        "COPY tally.events TO PROGRAM 'cat'",
    ];
    for attack in attacks {
        let outcome = client.batch_execute(attack);
        let seen = foreign_rows(&mut client, &relations);
        assert_eq!(seen, 0, "after {attack} ({outcome:?})");
        // Leave no failed transaction behind for the next attack.
        let _ = client.batch_execute("ROLLBACK");
    }
    // From outside the session: options at connection time, before the library is loaded.
    for options in ["-c tally.scope=*", "-c tally.scope=b\x1f", "-c session_preload_libraries="] {
        let mut config = database.config(&reader);
        if let Ok(mut client) = config.options(options).connect(NoTls) {
            assert_eq!(foreign_rows(&mut client, &relations), 0, "{options}");
        }
    }
    // The attacker still sees what is his.
    let mut client = database.connect(&reader);
    assert_eq!(client.query_one("SELECT count(*) FROM tally.events", &[]).unwrap().get::<_, i64>(0), 6);
}

#[test]
fn without_a_scope_every_read_is_an_error() {
    let (mut database, _) = two_tenants("closed");
    let nobody = database.role("nobody", &["tally_reader"]);
    let trusted = database.role("trusted", &["tally_reader"]);
    database.superuser().execute("SELECT tally.trust_role($1::text::regrole)", &[&trusted]).unwrap();
    for role in [&nobody, &trusted] {
        let mut client = database.connect(role);
        for relation in readable(&mut client) {
            // A login sees the exports that it asked for in any scope, and in none.
            if relation.ends_with("exports") {
                continue;
            }
            let query = format!("SELECT count(tenant_id) FROM {relation}");
            let refused = client.batch_execute(&query).expect_err(&query);
            assert_eq!(refused.code(), Some(&SqlState::INSUFFICIENT_PRIVILEGE), "{role}: {query}: {refused}");
            let copy = format!("COPY (SELECT tenant_id FROM {relation}) TO STDOUT");
            let mut bytes = Vec::new();
            let copied = client.copy_out(&copy).map(|mut reader| reader.read_to_end(&mut bytes).is_ok());
            assert!(!copied.unwrap_or(false) && bytes.is_empty(), "{role}: {copy}");
        }
        for statement in [
            "INSERT INTO tally.events SELECT * FROM tally.events",
            "UPDATE tally.events SET name = 'x'",
            "DELETE FROM tally.events",
            "TRUNCATE tally.events",
            "SELECT * FROM tally.ingest('[]')",
        ] {
            let refused = client.batch_execute(statement).expect_err(statement);
            assert_eq!(refused.code(), Some(&SqlState::INSUFFICIENT_PRIVILEGE), "{role}: {statement}");
        }
    }
}

#[test]
fn a_scope_latches_narrows_and_ends_with_the_transaction() {
    let (mut database, _) = two_tenants("latch");
    let trusted = database.role("trusted", &["tally_reader"]);
    database.superuser().execute("SELECT tally.trust_role($1::text::regrole)", &[&trusted]).unwrap();
    let mut client = database.connect(&trusted);
    let count = |client: &mut Client| -> Result<i64, postgres::Error> {
        Ok(client.query_one("SELECT sum(events)::int8 FROM tally.usage_day", &[])?.get(0))
    };
    client.batch_execute("BEGIN; SELECT tally.enter('b')").unwrap();
    assert_eq!(count(&mut client).unwrap(), 7);
    client.batch_execute("DECLARE c CURSOR FOR SELECT * FROM tally.events").unwrap();
    client.batch_execute("SELECT tally.enter('b', 'a1')").unwrap();
    assert_eq!(count(&mut client).unwrap(), 3);
    let refused = client.batch_execute("SELECT tally.enter('a')").unwrap_err();
    assert_eq!(refused.code(), Some(&SqlState::INSUFFICIENT_PRIVILEGE));
    client.batch_execute("ROLLBACK").unwrap();
    assert!(count(&mut client).is_err(), "the scope ended with the transaction");

    // One prepared statement, a generic plan, alternating scopes.
    client.batch_execute("SET plan_cache_mode = force_generic_plan; SET debug_print_plan = off").unwrap();
    let statement = client
        .prepare("SELECT count(*), count(DISTINCT tenant_id), min(tenant_id) FROM tally.events")
        .unwrap();
    for turn in 0..200 {
        let (tenant, rows) = if turn % 2 == 0 { ("a", 6) } else { ("b", 7) };
        let mut transaction = client.transaction().unwrap();
        transaction.execute("SELECT tally.enter($1)", &[&tenant]).unwrap();
        let row = transaction.query_one(&statement, &[]).unwrap();
        let seen: (i64, i64, &str) = (row.get(0), row.get(1), row.get(2));
        assert_eq!(seen, (rows, 1, tenant));
        transaction.commit().unwrap();
    }
    // The same in parallel workers.
    client
        .batch_execute(&format!(
            "{}; SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0;
             SET min_parallel_table_scan_size = 0; SET plan_cache_mode = auto",
            of_this_major("SET force_parallel_mode = on")
        ))
        .unwrap();
    for (tenant, rows) in [("a", 6_i64), ("b", 7)] {
        let mut transaction = client.transaction().unwrap();
        transaction.execute("SELECT tally.enter($1)", &[&tenant]).unwrap();
        let row = transaction
            .query_one("SELECT count(*), min(tenant_id), max(tenant_id) FROM tally.events", &[])
            .unwrap();
        assert_eq!(
            (row.get::<_, i64>(0), row.get::<_, &str>(1), row.get::<_, &str>(2)),
            (rows, tenant, tenant)
        );
    }
}

#[test]
fn a_bound_writer_writes_for_its_own_tenant_alone() {
    let (database, reader) = two_tenants("writer");
    let mut client = database.connect(&reader);
    let event = |tenant: &str, number: u32| {
        json!({"tenant_id": tenant, "account_id": "a1", "name": "run",
            "event_id": format!("00000000-0000-4000-9000-{number:012}"), "occurred_at": "2026-01-05T00:00:00Z"})
    };
    let batch = json!([event("a", 1), event("b", 2), event("c", 3)]).to_string();
    let summary = ingest(&mut client, &batch).unwrap();
    assert_eq!((summary.accepted, summary.rejected), (1, 2));
    let mine: Vec<String> = client
        .query(
            "SELECT sqlstate || ' ' || tenant_id || ' ' || (body::json->>'tenant_id') FROM tally.quarantine",
            &[],
        )
        .unwrap()
        .iter()
        .map(|row| row.get(0))
        .collect();
    assert_eq!(mine, ["42501 a b", "42501 a c"], "kept where their sender can see them");
    // A key that another tenant has is not betrayed: the outcome is the same as for one that nobody has.
    let taken = json!({"tenant_id": "b", "account_id": "b1", "name": "run",
        "event_id": "00000000-0000-4000-8000-000000000099", "occurred_at": "2026-01-05T00:00:00Z"});
    let summary = ingest(&mut client, &taken.to_string()).unwrap();
    assert_eq!((summary.accepted, summary.duplicates, summary.conflicts, summary.rejected), (0, 0, 0, 1));
}

/// Whatever changes a binding takes effect with the next statement of sessions that know it, in an open transaction, too.
#[test]
fn a_changed_binding_takes_effect_with_the_next_statement() {
    let (database, reader) = two_tenants("rebinding");
    let mut admin = database.superuser();
    let mut client = database.connect(&reader);
    let changes = [
        ("SELECT tally.unbind_role('ROLE')", None),
        ("SELECT tally.bind_role('ROLE', 'a')", Some("a")),
        ("SELECT tally.bind_role('ROLE', 'b')", Some("b")),
        ("UPDATE tally.role_binding SET tenant_id = 'a' WHERE role_name = 'ROLE'::regrole", Some("a")),
        (
            "SET session_replication_role = replica; DELETE FROM tally.role_binding; RESET session_replication_role",
            None,
        ),
        (
            "SET session_replication_role = replica; INSERT INTO tally.role_binding (role_name, tenant_id) VALUES ('ROLE', 'a')",
            Some("a"),
        ),
        ("TRUNCATE tally.role_binding", None),
        ("BEGIN; SELECT tally.bind_role('ROLE', 'b'); ROLLBACK", None),
        ("SELECT tally.bind_role('ROLE', 'b')", Some("b")),
        // Where nothing tells of changes, nothing is remembered.
        ("ALTER TABLE tally.role_binding DISABLE TRIGGER role_binding_changed", Some("b")),
        ("UPDATE tally.role_binding SET tenant_id = 'a'", Some("a")),
        ("ALTER TABLE tally.role_binding ENABLE ALWAYS TRIGGER role_binding_changed", Some("a")),
        ("SELECT tally.trust_role('ROLE')", None),
    ];
    let tenants = "SELECT array_agg(DISTINCT tenant_id) FROM tally.events";
    for is_in_transaction in [false, true] {
        admin.batch_execute(&format!("SELECT tally.bind_role('{reader}', 'a')")).unwrap();
        for (change, tenant) in changes {
            if is_in_transaction {
                client.batch_execute("BEGIN; SAVEPOINT known").unwrap();
            }
            // From here on the session knows its binding; where it has none, this fails.
            let _ = client.query(tenants, &[]);
            if is_in_transaction {
                client.batch_execute("ROLLBACK TO known").unwrap();
            }
            admin.batch_execute(&change.replace("ROLE", &reader)).unwrap();
            let seen = client.query_one(tenants, &[]).map(|row| row.get::<_, Vec<String>>(0));
            match (seen, tenant) {
                (Ok(seen), Some(tenant)) => assert_eq!(seen, [tenant], "{change}"),
                (Err(error), None) => {
                    assert_eq!(error.code(), Some(&SqlState::INSUFFICIENT_PRIVILEGE), "{change}");
                }
                (seen, tenant) => panic!("{change}: {seen:?}, not {tenant:?}"),
            }
            if is_in_transaction {
                client.batch_execute("ROLLBACK").unwrap();
            }
        }
    }
}

/// A binding that a transaction undoes is forgotten with it, also by the session that made it.
#[test]
fn a_binding_that_is_rolled_back_is_forgotten() {
    let (database, reader) = two_tenants("unbound");
    let mut admin = database.superuser();
    let tenant = format!("SET LOCAL SESSION AUTHORIZATION {reader}; SELECT tally.current_tenant()");
    let mut seen = |change: &str| {
        admin.batch_execute(&format!("BEGIN; SAVEPOINT before; {change}")).unwrap();
        let inside = last_value(&admin.simple_query(&tenant).unwrap());
        admin.batch_execute("ROLLBACK TO before").unwrap();
        let after = last_value(&admin.simple_query(&tenant).unwrap());
        admin.batch_execute("ROLLBACK; BEGIN").unwrap();
        let later = last_value(&admin.simple_query(&tenant).unwrap());
        admin.batch_execute("ROLLBACK").unwrap();
        [inside, after, later]
    };
    assert_eq!(seen("SELECT 1"), ["a", "a", "a"]);
    assert_eq!(seen(&format!("SELECT tally.bind_role('{reader}', 'b')")), ["b", "a", "a"]);
}

fn last_value(messages: &[postgres::SimpleQueryMessage]) -> String {
    let row = messages.iter().rev().find_map(|message| match message {
        postgres::SimpleQueryMessage::Row(row) => row.get(0),
        _ => None,
    });
    row.unwrap_or_default().to_owned()
}
