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
        ("SET transform_null_equals = on", "transform_null_equals", "RESET transform_null_equals"),
        (
            "SET standard_conforming_strings = off",
            "standard_conforming_strings",
            "SET standard_conforming_strings = on",
        ),
        ("SET default_transaction_read_only = on", "default_transaction_read_only", "DISCARD ALL"),
        (
            "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE",
            "default_transaction_isolation",
            "RESET ALL",
        ),
        ("SET statement_timeout = '50min'", "statement_timeout", "SET statement_timeout = 0"),
        ("SET lock_timeout = '50min'", "lock_timeout", "RESET lock_timeout"),
        ("SET app.note = 'x'", "app.note", "RESET app.note"),
        ("SELECT set_config('app.tenant', 'a', false)", "app.tenant", "DISCARD ALL"),
        ("BEGIN; SELECT tally.enter('a'); SET array_nulls = off; COMMIT", "array_nulls", "RESET ALL"),
        ("SET synchronous_commit = off", "synchronous_commit", "RESET ALL"),
        ("SET backslash_quote = on", "backslash_quote", "RESET ALL"),
        ("SET quote_all_identifiers = on", "quote_all_identifiers", "RESET ALL"),
        ("SET default_tablespace = 'pg_default'", "default_tablespace", "RESET ALL"),
        ("SET default_text_search_config = 'pg_catalog.simple'", "default_text_search_config", "RESET ALL"),
        ("SET tally.ingest_options = '{\"on_conflict\":\"ignore\"}'", "tally.ingest_options", "RESET ALL"),
        ("SET debug_print_plan = on", "debug_print_plan", "RESET ALL"),
        ("SET TIME ZONE 'Asia/Tokyo'", "TimeZone", "RESET ALL"),
        ("SET DateStyle = 'SQL, DMY'", "DateStyle", "RESET DateStyle"),
        ("SET IntervalStyle = 'iso_8601'", "IntervalStyle", "RESET ALL"),
        ("SET bytea_output = 'escape'", "bytea_output", "RESET ALL"),
        ("SET extra_float_digits = -15", "extra_float_digits", "RESET ALL"),
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
fn what_cannot_change_an_answer_and_what_the_client_itself_set_is_let_in() {
    let (database, pool) = pool("let_in");
    let other = pool.replace("pool_", "other_");
    database
        .superuser()
        .batch_execute(&format!(
            "CREATE SCHEMA app; GRANT USAGE ON SCHEMA app TO PUBLIC; GRANT tally_reader TO {other};
             CREATE FUNCTION app.begin(t text) RETURNS void LANGUAGE plpgsql SET search_path = app SET work_mem = '8MB'
               AS $$ BEGIN PERFORM tally.enter(t); END $$;"
        ))
        .unwrap();
    // Left by an earlier client.
    for harmless in [
        "SET application_name = 'x'",
        "SET client_encoding = 'UTF8'; SET client_min_messages = warning",
        "SET work_mem = '8MB'; SET enable_seqscan = off; SET plan_cache_mode = force_generic_plan; SET jit = off",
        "SET random_page_cost = 1; SET from_collapse_limit = 4; SET maintenance_work_mem = '32MB'",
        "SELECT setseed(0.5)",
        "SET search_path = public; SET TimeZone = 'Asia/Tokyo'; RESET ALL",
        "BEGIN; SET LOCAL search_path = app; SET LOCAL ROLE NONE; SET LOCAL app.who = '7'; SET LOCAL TimeZone = 'Asia/Tokyo'; COMMIT",
        "BEGIN; SET search_path = app; SET standard_conforming_strings = off; ROLLBACK",
        "SELECT set_config('request.claims', 'x', true)",
        "SET statement_timeout = 0; SET lock_timeout = 0",
    ] {
        let mut client = database.connect(&pool);
        assert_eq!(enter(&mut client, "a").unwrap(), 1);
        client.batch_execute(harmless).unwrap();
        assert_eq!(enter(&mut client, "b").unwrap(), 1, "after {harmless}");
    }
    // Set in the transaction, before it enters.
    let mut client = database.connect(&pool);
    for own in [
        format!("SET LOCAL ROLE {other}; SELECT tally.enter('a')"),
        format!("SET ROLE {other}; SELECT tally.enter('a')"),
        format!(
            "SELECT set_config('role', '{other}', true), set_config('search_path', 'app, public', true),
                   set_config('request.jwt.claims', '{{}}', true); SELECT tally.enter('a')"
        ),
        "SET LOCAL search_path = app, public; SELECT tally.enter('a')".to_owned(),
        "SET search_path = app, public; SELECT tally.enter('a')".to_owned(),
        "SET LOCAL TIME ZONE 'Asia/Tokyo'; SET LOCAL app.who = '7'; SELECT tally.enter('a')".to_owned(),
        "SELECT app.begin('a')".to_owned(),
        "SET LOCAL search_path = public; SELECT app.begin('a')".to_owned(),
    ] {
        client.batch_execute(&format!("BEGIN; {own}")).unwrap_or_else(|error| panic!("{own}: {error:?}"));
        let seen: i64 = client.query_one("SELECT count(*) FROM tally.events", &[]).unwrap().get(0);
        assert_eq!(seen, 1, "{own}");
        client.batch_execute("ROLLBACK").unwrap();
        // In a transaction that was all of one message, too.
        client.batch_execute(&own).unwrap();
        client.batch_execute("RESET ALL; RESET ROLE").unwrap();
    }
    // What an earlier transaction left is no better for being set again before.
    client.batch_execute("SET search_path = app").unwrap();
    let again = client.batch_execute("BEGIN; SET LOCAL search_path = public; SELECT tally.enter('a')");
    assert_eq!(code(&again.unwrap_err()), "42501");
    client.batch_execute("ROLLBACK; SET SESSION search_path TO DEFAULT").unwrap();
    assert_eq!(enter(&mut client, "a").unwrap(), 1);
    // At login: options of the connection, and what the administrator set.
    for options in
        ["-c search_path=app", "-c search_path=app,public -c TimeZone=Asia/Tokyo -c statement_timeout=60000"]
    {
        let mut client = database.config(&pool).options(options).connect(postgres::NoTls).unwrap();
        assert_eq!(enter(&mut client, "a").unwrap(), 1, "{options}");
        client.batch_execute("SET search_path = public").unwrap();
        assert_eq!(code(&enter(&mut client, "a").unwrap_err()), "42501", "{options}");
        client.batch_execute("DISCARD ALL").unwrap();
        assert_eq!(enter(&mut client, "a").unwrap(), 1, "{options}");
    }
    // How frameworks set up a connection, before it first enters a scope: that stays right, and no other value is.
    let mut client = database.connect(&pool);
    client
        .batch_execute(
            "SET SESSION timezone TO 'Asia/Tokyo'; SET intervalstyle = iso_8601; SET standard_conforming_strings = on;
             SET client_min_messages TO 'warning'; SET SESSION statement_timeout TO '30s'",
        )
        .unwrap();
    for _ in 0..2 {
        assert_eq!(enter(&mut client, "a").unwrap(), 1);
    }
    client.batch_execute("SET TIME ZONE 'America/Lima'").unwrap();
    assert_eq!(code(&enter(&mut client, "b").unwrap_err()), "42501");
    client.batch_execute("SET TIME ZONE 'Asia/Tokyo'").unwrap();
    assert_eq!(enter(&mut client, "b").unwrap(), 1);
    client.batch_execute("SET statement_timeout = '10s'").unwrap();
    assert_eq!(code(&enter(&mut client, "b").unwrap_err()), "42501");
}

#[test]
fn a_pool_roles_own_settings_are_no_way_to_the_next_client() {
    let mut database = Database::new("role_settings");
    let [pool, bound] = ["pool", "bound"].map(|role| database.role(role, &["tally_reader"]));
    database.set("session_preload_libraries = pg_tally");
    let name = database.name().to_owned();
    let mut admin = database.superuser();
    admin
        .batch_execute(&format!("SELECT tally.pool_role('{pool}'), tally.bind_role('{bound}', 'a')"))
        .unwrap();
    let signer = tally_server_tests::TokenSigner::new("k", 1);
    signer.register(&mut admin).unwrap();
    let enter = |role: &str| {
        let mut client = database.connect(role);
        client.batch_execute("BEGIN").unwrap();
        signer.enter(&mut client, "a")
    };
    for (setting, is_let_in) in [
        ("row_security = off", false),
        ("default_transaction_read_only = on", false),
        ("transform_null_equals = on", false),
        ("standard_conforming_strings = off", false),
        ("tally.ingest_options = '{\"on_conflict\":\"ignore\"}'", false),
        ("app.tenant = 'a'", false),
        ("synchronous_commit = off", false),
        ("role = 'tally_reader'", false),
        ("search_path = public", true),
        ("statement_timeout = '60s'", true),
        ("TimeZone = 'Asia/Tokyo'", true),
        ("work_mem = '8MB'", true),
        ("standard_conforming_strings = on", true),
    ] {
        for place in ["", &format!(" IN DATABASE {name}")] {
            admin.batch_execute(&format!("ALTER ROLE {pool}{place} SET {setting}")).unwrap();
            let entered = enter(&pool);
            let rule = "SELECT name, remediation FROM tally.lint() WHERE name = 'pool_role_setting'";
            let found = admin.query(rule, &[]).unwrap();
            if is_let_in {
                entered.unwrap_or_else(|error| panic!("{setting}{place}: {error:?}"));
                assert!(found.is_empty(), "{setting}{place}");
            } else {
                let error = entered.expect_err(setting);
                let error = error.as_db_error().unwrap();
                let named = setting.split(' ').next().unwrap();
                assert!(
                    error.code().code() == "42501" && error.message().contains(named),
                    "{setting}: {error:?}"
                );
                if named != "row_security" {
                    assert_eq!(found.len(), 1, "{setting}{place}");
                    admin.batch_execute(found[0].get("remediation")).unwrap();
                    enter(&pool).unwrap();
                }
            }
            admin.batch_execute(&format!("ALTER ROLE {pool}{place} RESET ALL")).unwrap();
        }
    }
    // A path on which the pool's clients could put something is reported.
    admin
        .batch_execute(&format!("CREATE SCHEMA trap; GRANT CREATE ON SCHEMA trap TO {pool}; ALTER ROLE {pool} SET search_path = trap, public"))
        .unwrap();
    let rule = "SELECT name FROM tally.lint() WHERE name = 'pool_role_setting'";
    assert_eq!(admin.query(rule, &[]).unwrap().len(), 1);
    admin.batch_execute(&format!("REVOKE CREATE ON SCHEMA trap FROM {pool}")).unwrap();
    assert_eq!(admin.query(rule, &[]).unwrap().len(), 0);
    // A bound login's settings are its own affair.
    admin.batch_execute(&format!("ALTER ROLE {bound} SET default_transaction_isolation = serializable; ALTER ROLE {bound} SET app.x = 'y'")).unwrap();
    let mut client = database.connect(&bound);
    client.batch_execute("BEGIN; SELECT tally.enter('a', 'x'); COMMIT").unwrap();
}

#[test]
fn limits_are_lowered_on_entering_and_end_with_the_transaction() {
    let (database, pool) = pool("limit");
    let mut admin = database.superuser();
    admin
        .batch_execute(
            "SELECT tally.limit_tenant('a', 5000, 1024, 0), tally.limit_tenant('b', work_mem_kb => 1000000)",
        )
        .unwrap();
    let mut client = database.connect(&pool);
    let names = ["statement_timeout", "work_mem", "max_parallel_workers_per_gather"];
    let before = names.map(|name| setting(&mut client, name));
    for (tenant, expected) in
        [("a", ["5s", "1MB", "0"].map(str::to_owned)), ("b", before.clone()), ("c", before.clone())]
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
        .batch_execute("ROLLBACK; BEGIN; SET LOCAL statement_timeout = '4s'; SELECT tally.enter('a')")
        .unwrap();
    assert_eq!(setting(&mut client, "statement_timeout"), "4s");
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
