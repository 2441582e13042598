//! What sessions that act for tenants may not do: tell about other tenants' rows, and leave something for the next client.

use tally_server_tests::{Confined, Database, PrivateServer, Session, code, number};

#[test]
fn commands_that_tell_or_stay_are_refused_to_those_who_act_for_tenants() {
    let confined = Confined::new("confined");
    let everyone = |codes: [bool; 6]| codes;
    let pool_alone = everyone([true, false, true, true, true, true]);
    for (statement, allowed) in [
        ("EXPLAIN SELECT 1", everyone([false, false, true, false, true, true])),
        ("EXPLAIN ANALYZE SELECT 1", everyone([false, false, true, false, true, true])),
        ("SET debug_print_plan = on; SELECT 1", everyone([false, false, true, false, true, true])),
        ("DECLARE c CURSOR WITH HOLD FOR SELECT 1", pool_alone),
        ("PREPARE p AS SELECT 1", pool_alone),
        ("LISTEN x", pool_alone),
        ("NOTIFY x", pool_alone),
        ("CREATE TEMP TABLE t (x int)", pool_alone),
        ("CREATE TEMP TABLE t ON COMMIT DELETE ROWS AS SELECT 1", pool_alone),
        ("SELECT 1 AS x INTO TEMP t", pool_alone),
        ("CREATE TEMP VIEW t AS SELECT 1", pool_alone),
        ("CREATE TEMP SEQUENCE t", pool_alone),
        ("SET search_path = public", pool_alone),
        ("SET ROLE NONE", pool_alone),
        ("SET SESSION AUTHORIZATION DEFAULT", everyone([true; 6])),
        ("DO $$ BEGIN EXECUTE 'EXPLAIN SELECT 1'; END $$", everyone([false, false, true, false, true, true])),
        ("DECLARE c CURSOR FOR SELECT 1", everyone([true; 6])),
        ("CREATE TEMP TABLE t (x int) ON COMMIT DROP", everyone([true; 6])),
        ("SET LOCAL search_path = public", everyone([true; 6])),
        ("SET work_mem = '1MB'", everyone([true; 6])),
        ("RESET search_path", everyone([true; 6])),
        ("DEALLOCATE ALL", everyone([true; 6])),
        ("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE", everyone([true; 6])),
        ("SET ROLE NONE; SET TRANSACTION ISOLATION LEVEL SERIALIZABLE", pool_alone),
        ("SHOW search_path", everyone([true; 6])),
    ] {
        for (role, allowed) in confined.roles.iter().zip(allowed) {
            let mut client = confined.database.connect(role);
            client.batch_execute("BEGIN").unwrap();
            let outcome = code(client.batch_execute(statement));
            assert_eq!(outcome, if allowed { "no error" } else { "42501" }, "{role}: {statement}");
        }
        let outcome = code(confined.database.superuser().batch_execute(&format!("BEGIN; {statement}")));
        assert_eq!(outcome, "no error", "superuser: {statement}");
    }
    // Who may not even use the schema works on as if it weren't there.
    confined.database.superuser().batch_execute("REVOKE USAGE ON SCHEMA tally FROM PUBLIC").unwrap();
    let [.., stranger] = &confined.roles;
    confined.database.connect(stranger).batch_execute("SELECT 1; EXPLAIN SELECT 1").unwrap();
    // A database without the extension that loads the library all the same.
    let bare = Database::without_extension("bare");
    bare.set("session_preload_libraries = pg_tally");
    let mut client = bare.connect(&confined.roles[1]);
    client.batch_execute("EXPLAIN SELECT 1; SET search_path = public; SELECT 1").unwrap();
    let mut superuser = bare.superuser();
    superuser.batch_execute("EXPLAIN SELECT 1; CREATE EXTENSION pg_tally; DROP EXTENSION pg_tally").unwrap();
}

/// NOINHERIT keeps privileges back until SET ROLE, which needs no look at who has become what.
#[test]
fn whoever_can_become_a_reader_is_confined_like_one() {
    let confined = Confined::new("noinherit");
    let mut admin = confined.database.superuser();
    let groups = ["tally_reader", "tally_writer", "tally_analyst", "tally_admin", "pg_monitor"];
    for (group, expected) in groups.into_iter().zip([true, true, false, false, false]) {
        let role = format!("{}_{group}", confined.database.name());
        admin.batch_execute(&format!("CREATE ROLE {role} LOGIN NOINHERIT IN ROLE {group}")).unwrap();
        for statement in [
            "EXPLAIN SELECT 1",
            "SET client_min_messages = log; SET debug_print_plan = on; SELECT 1",
            "SELECT count(*) FROM pg_locks",
        ] {
            for first in ["SELECT 1".to_owned(), format!("SET ROLE {group}")] {
                let mut client = confined.database.connect(&role);
                let refused = code(client.batch_execute(&format!("{first}; {statement}"))) == "42501";
                assert_eq!(refused, expected, "{role}: {first}; {statement}");
            }
        }
        admin.batch_execute(&format!("DROP ROLE {role}")).unwrap();
    }
}

/// Commands that outlast the session, or reach outside the tenant's own objects: refused to all that act for tenants.
const ADMINISTRATION: &[&str] = &[
    "ALTER ROLE CURRENT_USER SET tally.ingest_options = '{\"on_conflict\":\"ignore\"}'",
    "ALTER ROLE CURRENT_USER SET search_path = evil, public",
    "ALTER USER CURRENT_USER SET row_security = off",
    "ALTER ROLE CURRENT_USER IN DATABASE $database SET default_transaction_read_only = on",
    "ALTER ROLE SESSION_USER RESET ALL",
    "ALTER ROLE CURRENT_USER PASSWORD 'x'",
    "ALTER USER CURRENT_USER VALID UNTIL '2020-01-01'",
    "ALTER ROLE $role RENAME TO somebody",
    "ALTER DATABASE $database OWNER TO CURRENT_USER",
    "ALTER DATABASE $database SET search_path = evil",
    "COMMENT ON DATABASE $database IS 'x'",
    "GRANT CREATE ON DATABASE $database TO PUBLIC",
    "ALTER DATABASE $database RESET ALL",
    "ALTER DATABASE $database CONNECTION LIMIT 1",
    "ALTER DATABASE $database RENAME TO other",
    "DROP DATABASE $database",
    "CREATE ROLE somebody",
    "DROP ROLE IF EXISTS somebody",
    "GRANT tally_reader TO CURRENT_USER",
    "REVOKE tally_reader FROM CURRENT_USER",
    "DROP OWNED BY CURRENT_USER",
    "REASSIGN OWNED BY CURRENT_USER TO CURRENT_USER",
    "LOAD 'plpgsql'",
    "PREPARE TRANSACTION 'held'",
    "CREATE EXTENSION citext",
    "DROP EXTENSION pg_tally",
    "CHECKPOINT",
    "ALTER SYSTEM SET work_mem = '1GB'",
    "COPY (SELECT 1) TO PROGRAM 'true'",
    "COPY (SELECT 1) TO '/dev/null'",
    "CREATE PUBLICATION p",
    "CREATE FOREIGN DATA WRAPPER w",
    "CREATE SERVER s FOREIGN DATA WRAPPER w",
    "CREATE USER MAPPING FOR CURRENT_USER SERVER s",
    "CREATE EVENT TRIGGER e ON ddl_command_end EXECUTE FUNCTION f()",
    "CREATE TABLESPACE t LOCATION '/nowhere'",
    "SECURITY LABEL ON SCHEMA public IS 'x'",
    "CREATE LANGUAGE plother HANDLER f",
];

/// Commands that make or change objects: refused to a pool, whose clients share them, and a matter of privileges for others.
const OBJECTS: &[&str] = &[
    "CREATE TABLE public.t (x int)",
    "CREATE TABLE pg_temp.t (x int)",
    "CREATE UNLOGGED TABLE public.t AS SELECT 1",
    "SELECT 1 AS x INTO public.t",
    "CREATE VIEW public.t AS SELECT 1",
    "CREATE MATERIALIZED VIEW public.t AS SELECT 1",
    "CREATE SEQUENCE public.t",
    "CREATE FUNCTION public.f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "CREATE FUNCTION pg_temp.f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "CREATE PROCEDURE public.f() LANGUAGE plpgsql AS 'BEGIN END'",
    "CREATE TYPE pg_temp.t AS (x int)",
    "CREATE TYPE public.t AS ENUM ('x')",
    "CREATE TYPE public.t AS RANGE (subtype = int4)",
    "CREATE DOMAIN public.d AS int",
    "CREATE AGGREGATE public.a (int) (sfunc = int4pl, stype = int)",
    "CREATE OPERATOR public.@@@ (leftarg = int, rightarg = int, function = int4pl)",
    "CREATE SCHEMA mine",
    "ALTER TABLE public.shared ADD COLUMN y int",
    "ALTER TABLE public.shared RENAME TO other",
    "CREATE INDEX ON public.shared (x)",
    "TRUNCATE public.shared",
    "DROP TABLE public.shared",
    "DROP TABLE IF EXISTS public.nothing",
    "COMMENT ON TABLE public.shared IS 'x'",
    "GRANT SELECT ON public.shared TO PUBLIC",
    "CREATE TRIGGER t BEFORE INSERT ON public.shared EXECUTE FUNCTION suppress_redundant_updates_trigger()",
    "CREATE RULE r AS ON INSERT TO public.shared DO ALSO NOTIFY r",
    "CREATE POLICY p ON public.shared",
    "ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO PUBLIC",
    "REINDEX TABLE public.shared",
    "CREATE STATISTICS public.s ON x, z FROM public.shared",
];

/// What every session may run.
const ORDINARY: &[&str] = &[
    "SAVEPOINT s; RELEASE s; SAVEPOINT s; ROLLBACK TO s",
    "SET LOCAL statement_timeout = 1000; SET LOCAL TIME ZONE 'UTC'; SET LOCAL search_path = public",
    "SET application_name = 'x'; RESET application_name; RESET ALL",
    "SHOW ALL",
    "DECLARE c CURSOR FOR SELECT 1; FETCH c; MOVE c; CLOSE c; CLOSE ALL",
    "DEALLOCATE ALL",
    "SET CONSTRAINTS ALL DEFERRED",
    "SELECT 1; SELECT 2",
    "DO $$ BEGIN PERFORM 1; END $$",
    "CREATE TEMP TABLE t (x int) ON COMMIT DROP; CREATE INDEX ON t (x); ALTER TABLE t ADD COLUMN y int; ANALYZE t; TRUNCATE t; DROP TABLE t",
    "CREATE TEMP TABLE t ON COMMIT DROP AS SELECT 1 AS x; ALTER TABLE t RENAME x TO y; DROP TABLE IF EXISTS pg_temp.t",
    "LOCK TABLE public.shared IN ACCESS SHARE MODE",
    "SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE",
    "UNLISTEN *",
    "SELECT pg_advisory_xact_lock(1), set_config('x.y', 'z', true), pg_stat_get_live_tuples('public.shared'::regclass)",
];

/// Whether a statement is refused by what confines a session, and not by a lack of privileges or of what it names.
fn is_refused(client: &mut postgres::Client, statement: &str) -> bool {
    match client.batch_execute(statement) {
        Ok(()) => false,
        Err(error) => {
            let error = error.as_db_error().unwrap_or_else(|| panic!("{statement}: {error}"));
            let refused = error.message().starts_with("a session that acts for tenants can't");
            assert!(!refused || (error.code().code() == "42501" && error.hint().is_some()), "{error:?}");
            refused
        }
    }
}

#[test]
fn what_lasts_is_refused_to_those_who_act_for_tenants() {
    let confined = Confined::new("lasting");
    let name = confined.database.name().to_owned();
    let [bound, pool, ..] = &confined.roles;
    let mut admin = confined.database.superuser();
    admin
        .batch_execute(&format!(
            "CREATE TABLE public.shared (x int, z int); GRANT SELECT ON public.shared TO PUBLIC; GRANT CREATE ON SCHEMA public TO PUBLIC;
             CREATE FUNCTION public.deed() RETURNS void LANGUAGE plpgsql SECURITY DEFINER AS
               $$ BEGIN CREATE TABLE public.made (); DROP TABLE public.made; ALTER ROLE {bound} CONNECTION LIMIT 50; END $$;
             CREATE FUNCTION public.through(q text) RETURNS void LANGUAGE plpgsql AS $$ BEGIN EXECUTE q; END $$;
             CREATE ROLE other_{name}; GRANT other_{name} TO {bound}, {pool}"
        ))
        .unwrap();
    let (everybody, pool_alone) =
        ([true, true, false, true, false, false], [false, true, false, false, false, false]);
    for (statements, expected) in [(ADMINISTRATION, everybody), (OBJECTS, pool_alone), (ORDINARY, [false; 6])]
    {
        for statement in statements {
            for (role, expected) in confined.roles.iter().zip(expected) {
                let statement = statement.replace("$database", &name).replace("$role", role);
                let mut client = confined.database.connect(role);
                client.batch_execute("BEGIN").unwrap();
                if expected || statements != ADMINISTRATION {
                    assert_eq!(is_refused(&mut client, &statement), expected, "{role}: {statement}");
                }
                if expected {
                    // However it is wrapped.
                    let quoted = statement.replace('\'', "''");
                    let in_block = format!("DO $b$ BEGIN EXECUTE '{quoted}'; END $b$");
                    let in_function = format!("SELECT public.through('{quoted}')");
                    let as_other = format!("SET LOCAL ROLE other_{name}; {statement}");
                    let mut wrapped = vec![in_block, in_function];
                    if role == bound || role == pool {
                        wrapped.push(as_other);
                    }
                    for wrapped in wrapped.iter().filter(|_| !statement.starts_with("PREPARE")) {
                        client.batch_execute("ROLLBACK; BEGIN").unwrap();
                        assert!(is_refused(&mut client, wrapped), "{role}: {wrapped}");
                    }
                }
            }
        }
    }
    // ORDINARY does work, and what a function does with its owner's rights is the owner's deed.
    for role in &confined.roles {
        for statement in ORDINARY.iter().chain(&["SELECT public.deed()"]) {
            let mut client = confined.database.connect(role);
            client.batch_execute("BEGIN").unwrap();
            client.batch_execute(statement).unwrap_or_else(|error| panic!("{role}: {statement}: {error:?}"));
        }
        confined.database.connect(role).batch_execute("DISCARD ALL").unwrap();
    }
    // Not so of a function of the tenant's own, or of a role that it can be.
    let mut client = confined.database.connect(bound);
    client
        .batch_execute(&format!(
            "CREATE FUNCTION pg_temp.mine() RETURNS void LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN ALTER ROLE {bound} SET row_security = off; END $$;
             SET ROLE other_{name};
             CREATE FUNCTION public.others() RETURNS void LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN ALTER ROLE {bound} SET row_security = off; END $$;
             RESET ROLE"
        ))
        .unwrap();
    for call in
        ["SELECT pg_temp.mine()", "SELECT public.others()", "SELECT public.through('SELECT public.others()')"]
    {
        assert!(is_refused(&mut client, call), "{call}");
    }
    admin.batch_execute(&format!("DROP OWNED BY other_{name}; DROP ROLE other_{name}")).unwrap();
}

#[test]
fn functions_that_tell_or_stay_are_refused() {
    let confined = Confined::new("guarded");
    let [bound, ..] = &confined.roles;
    let mut admin = confined.database.superuser();
    admin
        .batch_execute(&format!(
            "CREATE TABLE public.shared (x int); GRANT SELECT ON public.shared TO PUBLIC;
             CREATE FUNCTION public.counted() RETURNS bigint LANGUAGE sql SECURITY DEFINER AS $$ SELECT pg_stat_get_xact_tuples_fetched('public.shared'::regclass) $$;
             CREATE FUNCTION public.locked() RETURNS bigint LANGUAGE sql SECURITY DEFINER AS 'SELECT count(*) FROM pg_locks';
             CREATE FUNCTION public.retired() RETURNS void LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN EXECUTE 'ALTER ROLE CURRENT_USER SET work_mem = 65536'; END $$;
             ALTER FUNCTION public.counted() OWNER TO {bound}; ALTER FUNCTION public.locked() OWNER TO {bound};
             ALTER FUNCTION public.retired() OWNER TO {bound};
             CREATE FUNCTION public.watch() RETURNS bigint LANGUAGE sql SECURITY DEFINER AS 'SELECT count(*) FROM pg_locks';
             CREATE VIEW public.counters AS SELECT relid, seq_tup_read AS n FROM pg_stat_xact_all_tables;
             GRANT SELECT ON public.counters TO PUBLIC;
             CREATE OPERATOR public.!!! (leftarg = text, rightarg = text, function = pg_notify);
             CREATE FUNCTION public.tell() RETURNS void LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_notify('x', 'y'); END $$"
        ))
        .unwrap();
    let (all, pool_alone) =
        ([true, true, false, true, false, false], [false, true, false, false, false, false]);
    for (statement, expected) in [
        ("SELECT pg_notify('x', 'y')", pool_alone),
        ("SELECT count(pg_notify('x', i::text)) FROM generate_series(1, 2) AS i", pool_alone),
        ("SELECT 'x' OPERATOR(public.!!!) 'y'", pool_alone),
        ("SELECT public.tell()", pool_alone),
        ("DO $$ BEGIN PERFORM pg_notify('x', 'y'); END $$", pool_alone),
        ("SELECT pg_advisory_lock(1), pg_advisory_unlock(1)", pool_alone),
        ("SELECT pg_try_advisory_lock_shared(1, 2), pg_advisory_unlock_all()", pool_alone),
        ("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = 0", pool_alone),
        ("SELECT pg_cancel_backend(0)", pool_alone),
        ("SELECT lo_create(0)", pool_alone),
        ("SELECT lo_from_bytea(0, 'x')", pool_alone),
        ("SELECT * FROM pg_locks", all),
        ("SELECT mode FROM pg_locks WHERE mode = 'SIReadLock'", all),
        ("SELECT * FROM pg_lock_status()", all),
        ("SELECT idx_tup_fetch FROM pg_stat_xact_all_tables", all),
        ("SELECT seq_tup_read FROM pg_stat_xact_user_tables", all),
        ("SELECT n FROM public.counters", all),
        ("SELECT pg_stat_get_xact_tuples_fetched('public.shared'::regclass)", all),
        ("SELECT pg_stat_get_xact_blocks_hit('public.shared'::regclass)", all),
        ("SELECT pg_stat_get_tuples_returned('public.shared'::regclass)", all),
        ("SELECT idx_tup_fetch FROM pg_stat_all_tables", all),
        ("SELECT heap_blks_hit FROM pg_statio_all_tables", all),
        ("SELECT idx_tup_read FROM pg_stat_user_indexes", all),
        ("SELECT tup_fetched FROM pg_stat_database", all),
        ("SELECT pg_stat_get_db_tuples_returned(0)", all),
        ("SELECT blks_hit FROM pg_stat_database WHERE datname = current_database()", all),
        ("SELECT pg_stat_get_db_blocks_fetched(0)", all),
        ("SELECT pg_stat_get_xact_function_calls('public.tell()'::regprocedure)", all),
        ("SELECT pg_stat_get_function_calls('public.tell()'::regprocedure)", all),
        ("SELECT idx_scan FROM pg_stat_all_tables", all),
        ("SELECT seq_scan FROM pg_stat_user_tables", all),
        ("SELECT idx_scan FROM pg_stat_user_indexes", all),
        ("SELECT pg_stat_get_numscans('public.shared'::regclass)", all),
        ("SELECT total_time FROM pg_stat_user_functions", all),
        ("SELECT pg_stat_get_function_self_time('public.tell()'::regprocedure)", all),
        ("SELECT pg_stat_get_xact_function_total_time('public.tell()'::regprocedure)", all),
        ("SELECT self_time FROM pg_stat_xact_user_functions", all),
        ("SELECT blk_read_time FROM pg_stat_database", all),
        ("SELECT blks_hit FROM pg_stat_slru", all),
        ("SELECT buffers_alloc FROM pg_stat_bgwriter", all),
        // Another login of a tenant's may do no more for it than the tenant's own.
        ("SELECT public.counted()", all),
        ("SELECT public.locked()", all),
        ("SELECT public.retired()", all),
        ("SELECT public.watch()", [false; 6]),
        ("SELECT n_live_tup, last_vacuum, n_tup_ins FROM pg_stat_all_tables", [false; 6]),
    ] {
        for (role, expected) in confined.roles.iter().zip(expected) {
            let mut client = confined.database.connect(role);
            client.batch_execute("BEGIN").unwrap();
            assert_eq!(is_refused(&mut client, statement), expected, "{role}: {statement}");
            if !expected {
                client.batch_execute("ROLLBACK; BEGIN").unwrap();
                let outcome = client.batch_execute(statement);
                let lacks_privilege = statement.contains("backend(") && code(outcome) == "42501";
                assert!(lacks_privilege || client.batch_execute("SELECT 1").is_ok(), "{role}: {statement}");
            }
        }
    }
    // Since 16 it is told when a table was read last.
    let mut client = confined.database.connect(bound);
    if number(&mut client, "SELECT current_setting('server_version_num')::int8") >= 160_000 {
        for statement in [
            "SELECT last_seq_scan FROM pg_stat_all_tables",
            "SELECT last_idx_scan FROM pg_stat_user_indexes",
            "SELECT pg_stat_get_lastscan('public.shared'::regclass)",
        ] {
            assert!(is_refused(&mut client, statement), "{statement}");
        }
    }
    // In the leader and the workers of a parallel plan alike.
    let force = force_parallel(&mut client);
    client.batch_execute(&force).unwrap();
    assert!(is_refused(&mut client, "SELECT pg_stat_get_xact_tuples_fetched('public.shared'::regclass)"));
}

/// The setting that forces parallel plans has another name since 16.
fn force_parallel(client: &mut postgres::Client) -> String {
    let version = number(client, "SELECT current_setting('server_version_num')::int8");
    let name = if version < 160_000 { "force_parallel_mode" } else { "debug_parallel_query" };
    format!("SET {name} = on")
}

#[test]
fn plans_are_refused_in_parallel_mode() {
    let confined = Confined::new("parallel");
    let mut admin = confined.database.superuser();
    admin
        .batch_execute(
            "CREATE FUNCTION public.told(q text) RETURNS SETOF text LANGUAGE plpgsql PARALLEL SAFE AS
               $$ DECLARE r text; BEGIN FOR r IN EXECUTE q LOOP RETURN NEXT r; END LOOP; END $$;
             CREATE FUNCTION public.told_once(q text) RETURNS text LANGUAGE plpgsql PARALLEL SAFE AS
               $$ DECLARE r text; BEGIN EXECUTE q INTO r; RETURN r; END $$;
             CREATE FUNCTION public.printed(q text) RETURNS text LANGUAGE plpgsql PARALLEL SAFE
               SET debug_print_plan = on SET client_min_messages = log AS $$ DECLARE r text; BEGIN EXECUTE q INTO r; RETURN r; END $$;
             CREATE FUNCTION public.worker() RETURNS int LANGUAGE sql PARALLEL SAFE AS 'SELECT pg_backend_pid()'",
        )
        .unwrap();
    let force = force_parallel(&mut admin);
    let is_confined = [true, true, false, true, false, false];
    for (role, is_confined) in confined.roles.iter().zip(is_confined) {
        let mut client = confined.database.connect(role);
        client.batch_execute("SET max_parallel_workers_per_gather = 4").unwrap();
        client.batch_execute(&force).unwrap();
        let query = "SELECT public.worker() <> $1 FROM pg_class LIMIT 1";
        let leader = client.query_one("SELECT pg_backend_pid()", &[]).map(|row| row.get::<_, i32>(0));
        let elsewhere = (0..50).any(|_| {
            let leader = client.query_one("SELECT pid FROM pg_stat_activity WHERE pid = pg_backend_pid() AND backend_type = 'client backend'", &[]);
            let leader: i32 = leader.map(|row| row.get(0)).unwrap_or(-1);
            client.query_one(query, &[&leader]).unwrap().get::<_, bool>(0)
        });
        assert!(leader.is_ok() && elsewhere, "no worker ran for {role}");
        for statement in [
            "SELECT * FROM public.told('EXPLAIN (ANALYZE, TIMING off) SELECT count(*) FROM pg_class')",
            "SELECT * FROM public.told('EXPLAIN SELECT 1')",
            "SELECT public.told_once('EXPLAIN (FORMAT json) SELECT 1')",
            "SELECT public.told_once('EXPLAIN SELECT 1') FROM pg_class LIMIT 1",
            "SELECT max(public.told_once('EXPLAIN SELECT 1')) FROM pg_class",
            "SELECT public.printed('SELECT 1')",
            "SELECT public.printed('SELECT count(*) FROM pg_class') FROM pg_class LIMIT 1",
        ] {
            assert_eq!(is_refused(&mut client, statement), is_confined, "{role}: {statement}");
            if !is_confined {
                client.batch_execute(statement).unwrap();
            }
        }
    }
}

#[test]
fn messages_that_print_plans_reach_no_client_that_acts_for_a_tenant() {
    for libraries in ["'auto_explain', 'pg_tally'", "'pg_tally', 'auto_explain'"] {
        let mut confined = Confined::new("printed");
        confined.database.set(&format!("session_preload_libraries = {libraries}"));
        confined.database.set("auto_explain.log_min_duration = 0");
        confined.database.set("auto_explain.log_analyze = on");
        let default = confined.database.role("default", &["tally_reader"]);
        let [bound, pool, trusted, nobody, ..] = &confined.roles;
        let mut admin = confined.database.superuser();
        admin
            .batch_execute(&format!(
                "CREATE TABLE public.shared (x int); INSERT INTO public.shared VALUES (7); GRANT SELECT ON public.shared TO PUBLIC;
                 SELECT tally.bind_role('{default}', 'a'); ALTER ROLE {default} SET client_min_messages = log;
                 CREATE FUNCTION public.chatty() RETURNS bigint LANGUAGE plpgsql SET client_min_messages = debug1 AS
                   $$ BEGIN RETURN (SELECT count(*) FROM public.shared); END $$"
            ))
            .unwrap();
        let query = "SELECT count(*) FROM public.shared WHERE x <> 7";
        let mut printed = 0;
        for statement in [
            format!("SET client_min_messages = log; {query}"),
            format!("SET client_min_messages = debug5; {query}"),
            format!("SET LOCAL client_min_messages = debug1; {query}"),
            format!("SELECT set_config('client_min_messages', 'log', false); {query}"),
            format!("SELECT set_config('client_min_messages', 'log', true), ({query})"),
            format!(
                "BEGIN; DECLARE c CURSOR FOR {query}; FETCH c; SET LOCAL client_min_messages = log; CLOSE c; COMMIT"
            ),
            format!("SET client_min_messages = log; SET debug_print_parse = on; {query}"),
            "SELECT public.chatty()".to_owned(),
            format!(
                "DO $$ BEGIN PERFORM set_config('client_min_messages', 'log', true); PERFORM ({query}); END $$"
            ),
        ] {
            for role in [bound, pool, nobody, &default] {
                let answer =
                    Session::new(confined.database.name(), &confined.database, role).answer(&statement);
                assert!(
                    !answer.contains("Seq Scan") && !answer.contains("PLANNEDSTMT"),
                    "{role}: {statement}: {answer}"
                );
                assert!(!answer.contains("LOG:"), "{role}: {statement}: {answer}");
            }
            let answer =
                Session::new(confined.database.name(), &confined.database, trusted).answer(&statement);
            printed += usize::from(answer.contains("Seq Scan"));
        }
        assert!(printed >= 7, "{libraries}: to others they are printed: {printed}");
        // As an option of the connection, and by default: refused until it is set otherwise.
        for (role, options) in [(bound, "-c client_min_messages=debug2"), (&default, "")] {
            let mut client =
                confined.database.config(role).options(options).connect(postgres::NoTls).unwrap();
            assert!(is_refused(&mut client, query), "{role} {options}");
            client.batch_execute(&format!("SET client_min_messages = notice; {query}")).unwrap();
        }
    }
}

#[test]
fn errors_pass_the_hooks_as_they_are() {
    let confined = Confined::new("errors");
    confined
        .database
        .superuser()
        .batch_execute(
            "CREATE TABLE public.keyed (k int CONSTRAINT keyed_once PRIMARY KEY); INSERT INTO public.keyed VALUES (1);
             GRANT ALL ON public.keyed TO PUBLIC;
             CREATE FUNCTION public.fail() RETURNS int LANGUAGE plpgsql AS
               $$ BEGIN RAISE 'own' USING ERRCODE = 'AB123', DETAIL = 'd', HINT = 'h', CONSTRAINT = 'c', COLUMN = 'x', SCHEMA = 's'; END $$;
             CREATE FUNCTION public.caught() RETURNS text LANGUAGE plpgsql AS
               $$ BEGIN PERFORM public.fail(); EXCEPTION WHEN SQLSTATE 'AB123' THEN RETURN 'caught'; END $$",
        )
        .unwrap();
    for role in &confined.roles {
        let mut client = confined.database.connect(role);
        for statement in [
            "SELECT public.fail()",
            "DO $$ BEGIN PERFORM public.fail(); END $$",
            "SELECT max(public.fail()) FROM generate_series(1, 3)",
            "CREATE TEMP TABLE t ON COMMIT DROP AS SELECT public.fail()",
            "BEGIN; DECLARE c CURSOR FOR SELECT public.fail(); FETCH c",
        ] {
            let error = client.batch_execute(statement).unwrap_err();
            let error = error.as_db_error().unwrap();
            let told = (
                error.code().code(),
                error.detail(),
                error.hint(),
                error.constraint(),
                error.column(),
                error.schema(),
            );
            assert_eq!(
                told,
                ("AB123", Some("d"), Some("h"), Some("c"), Some("x"), Some("s")),
                "{role}: {statement}"
            );
            client.batch_execute("ROLLBACK").unwrap();
        }
        let caught: String = client.query_one("SELECT public.caught()", &[]).unwrap().get(0);
        assert_eq!(caught, "caught");
        let error = client.batch_execute("INSERT INTO public.keyed VALUES (1)").unwrap_err();
        let error = error.as_db_error().unwrap();
        assert_eq!(
            (error.constraint(), error.table(), error.code().code()),
            (Some("keyed_once"), Some("keyed"), "23505")
        );
    }
}

#[test]
fn errors_carry_no_backtrace_whatever_the_servers_environment() {
    for (preload, environment) in [
        ("", vec![("RUST_BACKTRACE", "1")]),
        ("shared_preload_libraries = 'pg_tally'", vec![("RUST_BACKTRACE", "full")]),
        (
            "session_preload_libraries = 'pg_tally'",
            vec![("RUST_BACKTRACE", "1"), ("RUST_LIB_BACKTRACE", "1")],
        ),
    ] {
        let server = PrivateServer::create_with("backtrace", preload, &environment);
        server
            .connect("postgres", "postgres")
            .batch_execute(
                "CREATE EXTENSION pg_tally; CREATE ROLE reader LOGIN; GRANT tally_reader, tally_writer TO reader",
            )
            .unwrap();
        let mut client = server.connect("reader", "postgres");
        for statement in [
            "SELECT tally.current_tenant()",
            "SELECT tally.enter('a')",
            "EXPLAIN SELECT 1",
            "SELECT tally.ingest('[')",
            "SELECT tally.enter('')",
            "SELECT '{'::tally.event",
            "SELECT count(*) FROM tally.events",
        ] {
            let error = client.batch_execute(statement).expect_err(statement);
            let error = error.as_db_error().unwrap();
            let told = format!("{} {:?} {:?}", error.message(), error.detail(), error.hint());
            assert!(!told.contains(".rs") && !told.contains("backtrace"), "{preload}: {statement}: {told}");
        }
    }
}

#[test]
fn a_pooler_may_put_back_the_search_path_that_the_session_began_with() {
    let confined = Confined::new("put_back");
    let [_, pool, ..] = &confined.roles;
    let path = "\"$user\", public";
    let mut client = confined.database.connect(pool);
    for (statement, refused) in [
        (format!("SET search_path = {path}"), false),
        (format!("SET search_path TO {path}"), false),
        (format!("BEGIN; SET LOCAL search_path = tally; SET search_path = {path}; COMMIT"), false),
        ("SET search_path TO DEFAULT".to_owned(), false),
        ("SET search_path = public".to_owned(), true),
        (format!("SET search_path = {path}, pg_temp"), true),
        ("SET search_path = public, \"$user\"".to_owned(), true),
        ("SET search_path = ''".to_owned(), true),
    ] {
        assert_eq!(is_refused(&mut client, &statement), refused, "{statement}");
        client.batch_execute("ROLLBACK").unwrap();
    }
    confined.database.set("search_path = app, public");
    let mut client = confined.database.connect(pool);
    assert!(!is_refused(&mut client, "SET search_path = app, public"));
    assert!(is_refused(&mut client, &format!("SET search_path = {path}")));
}
