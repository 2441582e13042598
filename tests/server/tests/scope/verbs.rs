//! Every verb, in a scope and without one: in a scope it reaches its tenant's rows alone, without one it is an error.

use postgres::error::SqlState;
use postgres::{Client, GenericClient};
use std::io::Read;
use tally_server_tests::{Database, TokenSigner, of_this_major};

fn code(outcome: Result<impl Sized, postgres::Error>) -> String {
    match outcome {
        Ok(_) => "no error".to_owned(),
        Err(error) => error.code().map(SqlState::code).unwrap_or_default().to_owned(),
    }
}

/// A protected, partitioned table with rows of tenants `a` and `b` that every role of the test may read and write, and
/// roles: one bound to `a`, one trusted, a pool role, and one that is nothing.
struct Shop {
    database: Database,
    signer: TokenSigner,
    bound: String,
    trusted: String,
    pool: String,
    nobody: String,
}

fn shop(topic: &str) -> Shop {
    let mut database = Database::new(topic);
    let groups = ["tally_reader", "tally_writer"];
    let [owner, bound, trusted, pool, nobody] =
        ["owner", "bound", "trusted", "pool", "nobody"].map(|role| database.role(role, &groups));
    let mut admin = database.superuser();
    admin
        .batch_execute(&format!(
            "CREATE SCHEMA shop AUTHORIZATION {owner}; GRANT USAGE ON SCHEMA shop TO PUBLIC; SET ROLE {owner};
             CREATE TABLE shop.t (tenant text NOT NULL, id int NOT NULL, v int, PRIMARY KEY (tenant, id))
               PARTITION BY RANGE (id);
             CREATE TABLE shop.t_low PARTITION OF shop.t FOR VALUES FROM (0) TO (100);
             SELECT tally.protect('shop.t', 'tenant');
             GRANT SELECT, INSERT, UPDATE, DELETE ON shop.t, shop.t_low TO PUBLIC; RESET ROLE;
             INSERT INTO shop.t VALUES ('a', 1, 10), ('a', 2, 20), ('b', 1, 30), ('b', 2, 40), ('b', 3, 50);
             SELECT tally.bind_role('{bound}', 'a'), tally.trust_role('{trusted}'), tally.pool_role('{pool}')"
        ))
        .unwrap();
    let signer = TokenSigner::new("k", 1);
    signer.register(&mut admin).unwrap();
    Shop { database, signer, bound, trusted, pool, nobody }
}

/// All rows, as a superuser sees them.
fn contents(database: &Database, table: &str) -> Vec<String> {
    let query = format!("SELECT tenant || id || '=' || v FROM {table} ORDER BY 1");
    database.superuser().query(&query, &[]).unwrap().iter().map(|row| row.get(0)).collect()
}

/// Runs a statement; of a COPY that shows rows, returns them.
fn run(client: &mut Client, statement: &str) -> Result<String, postgres::Error> {
    if statement.contains("TO STDOUT") {
        let mut text = String::new();
        let mut reader = client.copy_out(statement)?;
        return match reader.read_to_string(&mut text) {
            Ok(_) => Ok(text),
            Err(error) => Err(*error.into_inner().unwrap().downcast::<postgres::Error>().unwrap()),
        };
    }
    client.batch_execute(statement).map(|()| String::new())
}

const VERBS: &[&str] = &[
    "SELECT * FROM TABLE",
    "SELECT count(*) FROM TABLE",
    "SELECT 1 FROM TABLE FOR UPDATE",
    "INSERT INTO TABLE VALUES ('a', 7, 1)",
    "INSERT INTO TABLE VALUES ('b', 7, 1)",
    "INSERT INTO TABLE VALUES ('', 7, 1)",
    "INSERT INTO TABLE VALUES ('b', 1, 1) ON CONFLICT DO NOTHING",
    "INSERT INTO TABLE VALUES ('b', 1, 1) ON CONFLICT (tenant, id) DO UPDATE SET v = 0",
    "UPDATE TABLE SET v = 0",
    "UPDATE TABLE SET tenant = ''",
    "DELETE FROM TABLE",
    "MERGE INTO TABLE USING (VALUES ('b', 1)) AS s (tenant, id) ON s.tenant = TABLE.tenant AND s.id = TABLE.id
       WHEN MATCHED THEN UPDATE SET v = 0 WHEN NOT MATCHED THEN INSERT VALUES ('b', 9, 0)",
    "MERGE INTO TABLE USING (VALUES (1)) AS s (x) ON true WHEN MATCHED THEN DELETE",
    "COPY TABLE TO STDOUT",
    "COPY TABLE FROM STDIN",
    "TRUNCATE TABLE",
    "WITH x AS (DELETE FROM TABLE RETURNING *) SELECT * FROM x",
    "DO $$ BEGIN PERFORM FROM TABLE; END $$",
];

#[test]
fn without_a_scope_every_verb_is_an_error() {
    let shop = shop("closed");
    let before = contents(&shop.database, "shop.t");
    for role in [&shop.nobody, &shop.trusted, &shop.pool] {
        for pooled in [false, true] {
            let mut client = shop.database.connect(role);
            if pooled {
                // A scope came and went: the setting is empty now, not unset.
                let mut transaction = client.transaction().unwrap();
                if *role == shop.pool {
                    shop.signer.enter(&mut transaction, "b").unwrap();
                } else {
                    let entered = transaction.execute("SELECT tally.enter('b')", &[]);
                    assert_eq!(entered.is_ok(), *role == shop.trusted);
                }
                transaction.commit().unwrap();
            }
            for table in ["shop.t", "shop.t_low"] {
                for verb in VERBS {
                    let statement = verb.replace("TABLE", table);
                    let statement = statement.replace("shop.t_low.", "t_low.").replace("shop.t.", "t.");
                    let outcome = run(&mut client, &statement);
                    // COPY FROM isn't there at all under row security.
                    let refusal = if statement.ends_with("FROM STDIN") { "0A000" } else { "42501" };
                    assert_eq!(code(outcome), refusal, "{role}, pooled: {pooled}: {statement}");
                }
            }
        }
    }
    assert_eq!(contents(&shop.database, "shop.t"), before);
}

/// Runs a statement in a transaction of tenant `a` that is then undone; returns its outcome and what a's own and other
/// rows are before that.
fn in_scope(shop: &Shop, role: &str, statement: &str) -> (Result<u64, postgres::Error>, String) {
    let mut client = shop.database.connect(role);
    let mut transaction = client.transaction().unwrap();
    if role == shop.pool {
        shop.signer.enter(&mut transaction, "a").unwrap();
    } else {
        transaction.execute("SELECT tally.enter('a')", &[]).unwrap();
    }
    let outcome = transaction.execute(statement, &[]);
    let seen = match &outcome {
        Ok(_) => transaction
            .query_one("SELECT coalesce(string_agg(tenant || id || '=' || v, ' ' ORDER BY tenant, id), '') FROM shop.t", &[])
            .unwrap()
            .get(0),
        Err(_) => String::new(),
    };
    (outcome, seen)
}

#[test]
fn in_a_scope_every_verb_reaches_its_tenant_alone() {
    let shop = shop("verbs");
    let before = contents(&shop.database, "shop.t");
    for role in [&shop.bound, &shop.trusted, &shop.pool] {
        // Rows affected, and what the tenant sees afterwards; none for an error.
        for (statement, rows, after) in [
            ("SELECT * FROM shop.t", Some(2), "a1=10 a2=20"),
            ("SELECT * FROM shop.t_low", Some(2), "a1=10 a2=20"),
            ("SELECT * FROM shop.t WHERE tenant = 'b'", Some(0), "a1=10 a2=20"),
            ("SELECT * FROM shop.t WHERE tenant >= 'b' OR true FOR UPDATE", Some(2), "a1=10 a2=20"),
            ("SELECT 1 / (v - 30) FROM shop.t", Some(2), "a1=10 a2=20"),
            ("SELECT (tenant || 'x')::int FROM shop.t WHERE tenant = 'b'", Some(0), "a1=10 a2=20"),
            ("SELECT * FROM shop.t AS x JOIN shop.t_low AS y USING (id)", Some(2), "a1=10 a2=20"),
            ("INSERT INTO shop.t VALUES ('a', 3, 0)", Some(1), "a1=10 a2=20 a3=0"),
            ("INSERT INTO shop.t VALUES ('b', 9, 0)", None, ""),
            ("INSERT INTO shop.t VALUES ('b', 1, 0)", None, ""),
            ("INSERT INTO shop.t_low VALUES ('b', 1, 0)", None, ""),
            ("INSERT INTO shop.t VALUES ('b', 1, 0) ON CONFLICT DO NOTHING", None, ""),
            ("INSERT INTO shop.t VALUES ('b', 9, 0) ON CONFLICT DO NOTHING", None, ""),
            (
                "INSERT INTO shop.t VALUES ('a', 1, 0) ON CONFLICT (tenant, id) DO UPDATE SET v = 5",
                Some(1),
                "a1=5 a2=20",
            ),
            (
                "INSERT INTO shop.t VALUES ('a', 1, 0) ON CONFLICT (tenant, id) DO UPDATE SET tenant = 'b'",
                None,
                "",
            ),
            ("UPDATE shop.t SET v = 0", Some(2), "a1=0 a2=0"),
            ("UPDATE shop.t_low SET v = 0 WHERE tenant = 'b'", Some(0), "a1=10 a2=20"),
            ("UPDATE shop.t SET tenant = 'b', id = 9 WHERE id = 1", None, ""),
            ("UPDATE shop.t AS x SET v = y.v FROM shop.t AS y WHERE y.id = 3", Some(0), "a1=10 a2=20"),
            ("DELETE FROM shop.t", Some(2), ""),
            ("DELETE FROM shop.t_low USING shop.t WHERE t.id = 3", Some(0), "a1=10 a2=20"),
            (
                "MERGE INTO shop.t USING (VALUES (3)) AS s (id) ON s.id = t.id WHEN MATCHED THEN DELETE
                WHEN NOT MATCHED THEN INSERT VALUES ('a', 3, 0)",
                Some(1),
                "a1=10 a2=20 a3=0",
            ),
            (
                "MERGE INTO shop.t USING (VALUES (3)) AS s (id) ON s.id = t.id
                WHEN NOT MATCHED THEN INSERT VALUES ('b', 3, 0)",
                None,
                "",
            ),
            (
                "MERGE INTO shop.t USING (VALUES (1)) AS s (id) ON s.id = t.id WHEN MATCHED THEN UPDATE SET tenant = 'b'",
                None,
                "",
            ),
            (
                "MERGE INTO shop.t USING (VALUES (1)) AS s (x) ON tenant > '' WHEN MATCHED THEN UPDATE SET v = 1",
                Some(2),
                "a1=1 a2=1",
            ),
            // Where it reads no column, Postgres hides no row from it, and refuses to change others': docs/SECURITY.md.
            (
                "MERGE INTO shop.t USING (VALUES (1)) AS s (x) ON true WHEN MATCHED THEN UPDATE SET v = 1",
                None,
                "",
            ),
            ("TRUNCATE shop.t", None, ""),
            ("ALTER TABLE shop.t DISABLE ROW LEVEL SECURITY", None, ""),
            ("WITH x AS (UPDATE shop.t SET v = 7 RETURNING *) SELECT * FROM x", Some(2), "a1=7 a2=7"),
        ] {
            let (outcome, seen) = in_scope(&shop, role, statement);
            match rows {
                Some(rows) => {
                    assert_eq!((outcome.unwrap(), seen.as_str()), (rows, after), "{role}: {statement}")
                }
                None => assert_eq!(code(outcome), "42501", "{role}: {statement}"),
            }
            assert_eq!(contents(&shop.database, "shop.t"), before);
        }
    }
    // COPY in both directions, as the bound login.
    let mut client = shop.database.connect(&shop.bound);
    assert_eq!(run(&mut client, "COPY shop.t_low TO STDOUT").unwrap(), "a\t1\t10\na\t2\t20\n");
    assert_eq!(code(run(&mut client, "COPY shop.t FROM STDIN")), "0A000");
    assert_eq!(code(run(&mut client, "COPY shop.t_low FROM STDIN")), "0A000");
    assert_eq!(contents(&shop.database, "shop.t"), before);
}

/// Tenants that a query shows.
fn tenants(client: &mut impl GenericClient, query: &str) -> Vec<String> {
    let mut found: Vec<String> = client.query(query, &[]).unwrap().iter().map(|row| row.get(0)).collect();
    found.sort();
    found.dedup();
    found
}

#[test]
fn plans_views_functions_and_later_partitions_follow_the_scope() {
    let shop = shop("plans");
    let mut admin = shop.database.superuser();
    let owner = shop.bound.replace("bound_", "owner_");
    admin
        .batch_execute(&format!(
            "SET ROLE {owner};
             CREATE VIEW shop.plain AS SELECT tenant, v FROM shop.t;
             CREATE VIEW shop.invoked WITH (security_invoker) AS SELECT tenant, v FROM shop.t;
             CREATE VIEW shop.barrier WITH (security_barrier) AS SELECT tenant, v FROM shop.plain;
             CREATE FUNCTION shop.in_sql() RETURNS SETOF text LANGUAGE sql STABLE AS 'SELECT tenant FROM shop.t';
             CREATE FUNCTION shop.in_body() RETURNS SETOF text LANGUAGE sql STABLE BEGIN ATOMIC SELECT tenant FROM shop.t; END;
             CREATE FUNCTION shop.in_plpgsql() RETURNS SETOF text LANGUAGE plpgsql AS
               'BEGIN RETURN QUERY SELECT tenant FROM shop.t; END';
             CREATE FUNCTION shop.elevated() RETURNS SETOF text LANGUAGE plpgsql SECURITY DEFINER
               SET search_path = pg_catalog, pg_temp AS 'BEGIN RETURN QUERY SELECT tenant FROM shop.t; END';
             GRANT SELECT ON shop.plain, shop.invoked, shop.barrier TO PUBLIC;
             CREATE TABLE shop.t_high PARTITION OF shop.t FOR VALUES FROM (100) TO (200);
             GRANT SELECT ON shop.t_high TO PUBLIC; SELECT tally.protect('shop.t', 'tenant'); RESET ROLE;
             INSERT INTO shop.t VALUES ('a', 101, 1), ('b', 102, 2)"
        ))
        .unwrap();
    let sources = [
        "SELECT tenant FROM shop.t",
        "SELECT tenant FROM shop.t_low",
        "SELECT tenant FROM shop.t_high",
        "SELECT tenant FROM shop.plain",
        "SELECT tenant FROM shop.invoked",
        "SELECT tenant FROM shop.barrier",
        "SELECT shop.in_sql()",
        "SELECT shop.in_body()",
        "SELECT shop.in_plpgsql()",
        "SELECT shop.elevated()",
        "SELECT x.tenant FROM shop.t AS x JOIN shop.t AS y USING (id)",
        "SELECT (SELECT max(y.tenant) FROM shop.t AS y) FROM shop.t",
        "SELECT max(tenant) OVER () FROM shop.t",
    ];
    // One connection, one plan a source, alternating tenants.
    let alternations = 1000;
    let mut client = shop.database.connect(&shop.trusted);
    for (mode, rounds) in [("force_generic_plan", alternations), ("force_custom_plan", 20), ("auto", 20)] {
        client.batch_execute(&format!("SET plan_cache_mode = {mode}")).unwrap();
        let prepared = sources.map(|source| client.prepare(source).unwrap());
        for round in 0..rounds {
            let tenant = if round % 2 == 0 { "a" } else { "b" };
            let mut transaction = client.transaction().unwrap();
            transaction.execute("SELECT tally.enter($1)", &[&tenant]).unwrap();
            let which =
                if round < 20 { 0..sources.len() } else { round % sources.len()..round % sources.len() + 1 };
            for (source, statement) in sources.iter().zip(&prepared).skip(which.start).take(which.len()) {
                let rows = transaction.query(statement, &[]).unwrap();
                assert!(
                    !rows.is_empty() && rows.iter().all(|row| row.get::<_, &str>(0) == tenant),
                    "{mode}: {source}"
                );
            }
            transaction.commit().unwrap();
        }
        for statement in &prepared {
            let refused = client.query(statement, &[]);
            assert_eq!(code(refused), "42501", "{mode}: no scope");
        }
    }
    // The same in parallel workers, and with plans of another shape.
    let parallel = format!(
        "{}; SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0",
        of_this_major("SET force_parallel_mode = on")
    );
    for settings in [
        parallel.as_str(),
        "SET enable_seqscan = off; SET enable_bitmapscan = off",
        "SET enable_indexscan = off; SET enable_seqscan = off",
        "SET enable_hashjoin = off; SET enable_mergejoin = off; SET enable_nestloop = on; SET jit = on; SET jit_above_cost = 0",
    ] {
        let mut client = shop.database.connect(&shop.trusted);
        client.batch_execute(settings).unwrap();
        for tenant in ["a", "b", "a"] {
            let mut transaction = client.transaction().unwrap();
            transaction.execute("SELECT tally.enter($1)", &[&tenant]).unwrap();
            for source in sources {
                assert_eq!(tenants(&mut transaction, source), [tenant], "{settings}: {source}");
            }
            transaction.commit().unwrap();
        }
    }
    // Prepared as one role, executed as another: by roles that can be SET, and after the binding changed.
    admin
        .batch_execute(&format!(
            "SELECT tally.bind_role('{}', 'b'); GRANT {} TO {}",
            shop.nobody, shop.nobody, shop.bound
        ))
        .unwrap();
    let mut client = shop.database.connect(&shop.bound);
    client.batch_execute("PREPARE p AS SELECT tenant FROM shop.t").unwrap();
    for (before, tenant) in
        [("SELECT 1", "a"), (&format!("SET ROLE {}", shop.nobody), "a"), ("RESET ROLE", "a")]
    {
        client.batch_execute(before).unwrap();
        assert_eq!(tenants(&mut client, "EXECUTE p"), [tenant], "{before}");
    }
    admin.batch_execute(&format!("SELECT tally.bind_role('{}', 'b')", shop.bound)).unwrap();
    assert_eq!(tenants(&mut client, "EXECUTE p"), ["b"]);
    let mut session = shop.database.superuser();
    session.batch_execute("PREPARE p AS SELECT tenant FROM shop.t").unwrap();
    assert_eq!(tenants(&mut session, "EXECUTE p"), ["a", "b"]);
    for (role, tenant) in [(&shop.nobody, "b"), (&shop.bound, "b")] {
        session.batch_execute(&format!("SET SESSION AUTHORIZATION {role}")).unwrap();
        assert_eq!(tenants(&mut session, "EXECUTE p"), [tenant]);
    }
    // Savepoints and exception blocks inside a scope.
    let mut client = shop.database.connect(&shop.trusted);
    client
        .batch_execute(
            "BEGIN; SELECT tally.enter('a'); SAVEPOINT s; UPDATE shop.t SET v = 0; ROLLBACK TO s;
             DO $$ BEGIN INSERT INTO shop.t VALUES ('b', 50, 1); EXCEPTION WHEN insufficient_privilege THEN NULL; END $$;
             DO $$ BEGIN PERFORM tally.enter('b'); EXCEPTION WHEN insufficient_privilege THEN NULL; END $$",
        )
        .unwrap();
    assert_eq!(tenants(&mut client, "SELECT tenant FROM shop.t"), ["a"]);
    client.batch_execute("SAVEPOINT u; SAVEPOINT w; RELEASE u; COMMIT").unwrap();
    assert_eq!(code(client.query("SELECT tenant FROM shop.t", &[])), "42501");
}

/// What injected SQL could try in a pooled transaction that is in tenant `a`'s scope, and after it.
#[test]
fn injected_sql_in_a_pool_stays_with_its_tenant() {
    let shop = shop("inject");
    let name = shop.database.name().to_owned();
    let mut admin = shop.database.superuser();
    admin.batch_execute("GRANT CREATE ON SCHEMA public TO PUBLIC; CREATE TABLE public.loot (x text); GRANT ALL ON public.loot TO PUBLIC").unwrap();
    let pool = &shop.pool;
    let attacks = [
        "SET tally.scope = '*'",
        "SET LOCAL tally.scope = E'b\\x1f'",
        "SET SESSION tally.scope TO DEFAULT",
        "RESET tally.scope",
        "RESET ALL",
        "SELECT set_config('tally.scope', E'b\\x1f', true)",
        "SELECT set_config('tally.scope', '*', false)",
        "SELECT tally.enter('b')",
        "SELECT tally.enter('b', 'x')",
        "SELECT tally.enter_global()",
        "SELECT tally.challenge()",
        "SELECT tally.pool_role(session_user::text::regrole)",
        "SELECT tally.trust_role(session_user::text::regrole)",
        "SELECT tally.register_key('mine', decode(repeat('ab', 32), 'hex'))",
        "SELECT tally.unbind_role(session_user::text::regrole)",
        "COMMIT; SELECT tally.enter('b')",
        "COMMIT; BEGIN; SELECT tally.challenge(); SELECT tally.enter('b', NULL)",
        "ROLLBACK; SET tally.scope = E'b\\x1f'",
        "COMMIT AND CHAIN; SELECT tally.enter('b')",
        "ROLLBACK; BEGIN; SAVEPOINT s; SELECT tally.enter('b'); ROLLBACK TO s",
        "PREPARE TRANSACTION 'x'",
        "ROLLBACK; DISCARD ALL",
        "SET ROLE tally_owner",
        "SET SESSION AUTHORIZATION postgres",
        "SET row_security = off",
        "SET session_replication_role = replica",
        &format!("ALTER ROLE {pool} SET tally.scope = '*'"),
        &format!("ALTER DATABASE {name} SET tally.scope = '*'"),
        &format!("ALTER ROLE {pool} BYPASSRLS"),
        "CREATE FUNCTION pg_temp.current_tenant() RETURNS text LANGUAGE sql AS $$SELECT 'b'$$; SET search_path = pg_temp, tally, public",
        "CREATE FUNCTION public.f() RETURNS bigint LANGUAGE sql SET tally.scope = '*' AS 'SELECT count(*) FROM shop.t'",
        "CREATE TEMP TABLE t AS SELECT 'b'::text AS tenant; SET search_path = pg_temp, shop",
        "CREATE POLICY mine ON shop.t USING (true)",
        "DECLARE c CURSOR WITH HOLD FOR SELECT tenant FROM shop.t",
        "PREPARE spy AS INSERT INTO public.loot SELECT tenant FROM shop.t",
        "LISTEN loot; NOTIFY loot, 'x'",
        "CREATE RULE r AS ON INSERT TO public.loot DO ALSO SELECT tenant FROM shop.t",
        "CREATE VIEW public.spy AS SELECT tenant FROM shop.t; GRANT SELECT ON public.spy TO PUBLIC",
        "LOAD 'pg_tally'",
        "COPY shop.t TO PROGRAM 'cat'",
        "UPDATE pg_settings SET setting = '*' WHERE name = 'tally.scope'",
    ];
    assert!(attacks.len() >= 25);
    let foreign = "SELECT count(*) FROM shop.t WHERE tenant <> 'a'";
    let mut client = shop.database.connect(pool);
    for attack in attacks {
        client.batch_execute("BEGIN").unwrap();
        shop.signer.enter(&mut client, "a").unwrap();
        let outcome = client.batch_execute(attack);
        let seen = client.query_one(foreign, &[]).map_or(0, |row| row.get::<_, i64>(0));
        assert_eq!(seen, 0, "in the transaction, after {attack} ({outcome:?})");
        let _ = client.batch_execute("COMMIT");
        let seen = client.query_one(foreign, &[]);
        assert!(seen.is_err(), "after the transaction, after {attack} ({outcome:?})");
        // The next client of this connection is refused, or meets its own rows alone.
        client.batch_execute("ROLLBACK; BEGIN").unwrap();
        if shop.signer.enter(&mut client, "b").is_ok() {
            assert_eq!(tenants(&mut client, "SELECT tenant FROM shop.t"), ["b"], "next, after {attack}");
            let _ = client.batch_execute("COMMIT");
        } else {
            client.batch_execute("ROLLBACK").unwrap();
        }
        for cleaning in ["ROLLBACK", "DISCARD ALL", "DROP VIEW IF EXISTS public.spy"] {
            let _ = client.batch_execute(cleaning);
        }
    }
    let loot: i64 = admin.query_one("SELECT count(*) FROM public.loot", &[]).unwrap().get(0);
    assert_eq!(loot, 0);
}
