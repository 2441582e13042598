//! A pooled session: nothing that one tenant's transaction leaves behind meets the next one's; limits; test helpers.

use postgres::error::SqlState;
use postgres::{Client, GenericClient};
use serde_json::json;
use tally_server_tests::{Database, ingest};

fn code(error: &postgres::Error) -> String {
    error.code().map(SqlState::code).unwrap_or_default().to_owned()
}

fn setting(client: &mut impl GenericClient, name: &str) -> String {
    client.query_one("SELECT current_setting($1)", &[&name]).unwrap().get(0)
}

fn pool(topic: &str) -> (Database, String) {
    let mut database = Database::new(topic);
    let pool = database.role("pool", &["tally_reader"]);
    let other = database.role("other", &["tally_reader"]);
    let mut admin = database.superuser();
    let events: Vec<_> = ["a", "b"]
        .iter()
        .enumerate()
        .map(|(number, tenant)| {
            json!({"tenant_id": tenant, "account_id": "x", "name": "run", "occurred_at": "2026-01-05T00:00:00Z",
                "event_id": format!("00000000-0000-4000-8000-{number:012}")})
        })
        .collect();
    ingest(&mut admin, &json!(events).to_string()).unwrap();
    admin
        .batch_execute(&format!("SELECT tally.trust_role('{pool}'); GRANT {other} TO {pool}; GRANT CREATE ON SCHEMA public TO {pool}"))
        .unwrap();
    (database, pool)
}

fn enter(client: &mut Client, tenant: &str) -> Result<i64, postgres::Error> {
    let mut transaction = client.transaction()?;
    transaction.execute("SELECT tally.enter($1)", &[&tenant])?;
    let seen = transaction.query_one("SELECT count(*) FROM tally.events", &[])?.get(0);
    transaction.commit()?;
    Ok(seen)
}

#[test]
fn a_session_that_somebody_left_dirty_is_refused_until_it_is_clean() {
    let (database, pool) = pool("dirty");
    let other = pool.replace("pool_", "other_");
    let mut client = database.connect(&pool);
    for (dirt, what, cure) in [
        ("CREATE TEMP TABLE orders (card text)", "temporary", "DROP TABLE pg_temp.orders"),
        ("CREATE TEMP VIEW orders AS SELECT 1", "temporary", "DISCARD TEMP"),
        ("CREATE TEMP SEQUENCE s", "temporary", "DISCARD ALL"),
        (
            "CREATE FUNCTION pg_temp.f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
            "temporary",
            "DROP FUNCTION pg_temp.f()",
        ),
        ("CREATE TYPE pg_temp.t AS (a int)", "temporary", "DROP TYPE pg_temp.t"),
        ("CREATE DOMAIN pg_temp.d AS int", "temporary", "DROP DOMAIN pg_temp.d"),
        (
            "BEGIN; SELECT tally.enter('a'); DECLARE c CURSOR WITH HOLD FOR SELECT * FROM tally.events; COMMIT",
            "cursor",
            "CLOSE c",
        ),
        (
            "BEGIN; SELECT tally.enter('a'); DECLARE c CURSOR WITH HOLD FOR SELECT * FROM tally.events; FETCH ALL c; COMMIT",
            "cursor",
            "CLOSE ALL",
        ),
        ("SET search_path = public, pg_temp", "search_path", "RESET search_path"),
        ("SET row_security = off", "row_security", "RESET row_security"),
        (&format!("SET ROLE {other}"), "role", "RESET ROLE"),
    ] {
        assert_eq!(enter(&mut client, "a").unwrap(), 1, "clean before {dirt}");
        client.batch_execute(dirt).unwrap();
        let refused = enter(&mut client, "b").expect_err(dirt);
        assert_eq!(code(&refused), "42501", "{dirt}");
        let error = refused.as_db_error().unwrap();
        assert!(error.message().contains(what) && error.hint().is_some(), "{dirt}: {error:?}");
        client.batch_execute(cure).unwrap();
        assert_eq!(enter(&mut client, "b").unwrap(), 1, "clean after {cure}");
    }
    // What the role itself is given when it logs in is no dirt; neither is what follows inside the scope.
    database.superuser().batch_execute(&format!("ALTER ROLE {pool} SET search_path = public")).unwrap();
    let mut client = database.connect(&pool);
    assert_eq!(enter(&mut client, "a").unwrap(), 1);
    client
        .batch_execute(
            "BEGIN; SELECT tally.enter('a'); SET LOCAL search_path = tally;
             CREATE TEMP TABLE t ON COMMIT DROP AS SELECT * FROM events; DECLARE c CURSOR FOR SELECT * FROM t;
             SELECT tally.enter('a', 'x'); COMMIT",
        )
        .unwrap();
    assert_eq!(enter(&mut client, "b").unwrap(), 1);
}

#[test]
fn limits_are_lowered_on_entering_and_end_with_the_transaction() {
    let (database, pool) = pool("limit");
    let mut admin = database.superuser();
    admin
        .batch_execute(
            "SELECT tally.limit_tenant('a', 1500, 1024, 0), tally.limit_tenant('b', work_mem_kb => 1000000)",
        )
        .unwrap();
    let mut client = database.connect(&pool);
    let names = ["statement_timeout", "work_mem", "max_parallel_workers_per_gather"];
    let before = names.map(|name| setting(&mut client, name));
    for (tenant, expected) in
        [("a", ["1500ms", "1MB", "0"].map(str::to_owned)), ("b", before.clone()), ("c", before.clone())]
    {
        let mut transaction = client.transaction().unwrap();
        transaction.execute("SELECT tally.enter($1)", &[&tenant]).unwrap();
        assert_eq!(names.map(|name| setting(&mut transaction, name)), expected, "{tenant}");
        transaction.commit().unwrap();
        assert_eq!(names.map(|name| setting(&mut client, name)), before);
    }
    // It stops a statement, and a tighter setting stays.
    client.batch_execute("BEGIN; SELECT tally.enter('a')").unwrap();
    assert_eq!(code(&client.batch_execute("SELECT pg_sleep(20)").unwrap_err()), "57014");
    client
        .batch_execute("ROLLBACK; BEGIN; SET LOCAL statement_timeout = 700; SELECT tally.enter('a')")
        .unwrap();
    assert_eq!(setting(&mut client, "statement_timeout"), "700ms");
    client.batch_execute("ROLLBACK").unwrap();
    assert_eq!(code(&client.batch_execute("SELECT tally.limit_tenant('a')").unwrap_err()), "42501");
    for wrong in ["NULL", "''", "'a', 0", "'a', 1, 63", "'a', 1, 64, -1"] {
        assert!(admin.batch_execute(&format!("SELECT tally.limit_tenant({wrong})")).is_err(), "{wrong}");
    }
    admin.batch_execute("SELECT tally.limit_tenant('a'), tally.limit_tenant('b')").unwrap();
    assert_eq!(admin.query("SELECT FROM tally.tenant_limit", &[]).unwrap().len(), 0);
}

#[test]
fn the_test_helpers_change_tenants_and_notice_leaks() {
    let (mut database, pool) = pool("helpers");
    let owner = database.role("owner", &["tally_writer"]);
    let mut admin = database.superuser();
    admin
        .batch_execute(&format!(
            "CREATE SCHEMA shop AUTHORIZATION {owner}; SET ROLE {owner};
             CREATE TABLE shop.t (tenant text NOT NULL, v int); SELECT tally.protect('shop.t', 'tenant'); RESET ROLE;
             CREATE TABLE shop.bare (tenant_id text); INSERT INTO shop.t VALUES ('a', 1), ('b', 1), ('b', 2)"
        ))
        .unwrap();
    let mut transaction = admin.transaction().unwrap();
    for (tenant, account, events) in
        [("a", None, 1_i64), ("b", Some("x"), 1), ("b", Some("y"), 0), ("a", None, 1)]
    {
        transaction.execute("SELECT tally.authenticate_as($1, $2)", &[&tenant, &account]).unwrap();
        let row = transaction
            .query_one(
                "SELECT count(*), coalesce(min(tenant_id), $1) = $1, current_user::text FROM tally.events",
                &[&tenant],
            )
            .unwrap();
        let seen: (i64, bool, &str) = (row.get(0), row.get(1), row.get(2));
        assert_eq!(seen, (events, true, "tally_reader"));
    }
    transaction.rollback().unwrap();
    assert_eq!(setting(&mut admin, "role"), "none");
    assert!(admin.query("SELECT tally.current_tenant()", &[]).is_err(), "the scope ended, too");

    let isolated =
        "SELECT tally.assert_isolated('shop.t', 'a', 'b'), tally.assert_isolated('tally.events', 'b', 'a')";
    admin.batch_execute(isolated).unwrap();
    assert_eq!(admin.query("SELECT FROM shop.t", &[]).unwrap().len(), 3, "nothing was changed");
    for (plant, call, expected) in [
        ("SELECT 1", "'shop.bare', 'a', 'b'", "55T01"),
        ("SELECT 1", "'shop.t', 'a', 'c'", "55T02"),
        ("SELECT 1", "'shop.t', 'a', 'a'", "55T02"),
        ("ALTER TABLE shop.t NO FORCE ROW LEVEL SECURITY", "'shop.t', 'a', 'b'", "P0004"),
        ("ALTER TABLE shop.t DISABLE ROW LEVEL SECURITY", "'shop.t', 'a', 'b'", "P0004"),
        (
            "DROP POLICY tally_guard ON shop.t; CREATE POLICY p ON shop.t USING (true)",
            "'shop.t', 'a', 'b'",
            "P0004",
        ),
        (
            "DROP POLICY tally_guard ON shop.t; CREATE POLICY p ON shop.t FOR SELECT USING (tenant = 'b')",
            "'shop.t', 'a', 'b'",
            "P0004",
        ),
        (
            "ALTER POLICY tally_guard ON shop.t WITH CHECK (true); ALTER POLICY tally_tenant ON shop.t WITH CHECK (true)",
            "'shop.t', 'a', 'b'",
            "P0004",
        ),
        ("DROP POLICY tally_tenant ON shop.t", "'shop.t', 'a', 'b'", "P0004"),
    ] {
        let mut transaction = admin.transaction().unwrap();
        transaction.batch_execute(plant).unwrap();
        let outcome = transaction.batch_execute(&format!("SELECT tally.assert_isolated({call})"));
        let found = outcome.err().map(|error| code(&error)).unwrap_or_default();
        assert_eq!(found, expected, "{plant}; {call}");
    }
    let mut client = database.connect(&pool);
    for call in [
        "tally.authenticate_as('a')",
        "tally.authenticate_as('a', role_name => 'tally_owner')",
        "tally.assert_isolated('tally.events', 'a', 'b')",
    ] {
        assert_eq!(code(&client.batch_execute(&format!("SELECT {call}")).unwrap_err()), "42501", "{call}");
    }
}
