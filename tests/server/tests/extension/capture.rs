//! Somebody who may create objects in schema public has prepared one of the same name and arguments for every function and
//! operator that Postgres has, and waits for a superuser to install the extension and use it.

use postgres::Client;
use tally_server_tests::{Database, ingest};

/// Makes the traps as `mallory`: whoever calls one is noted and, if that is a superuser, makes mallory one.
const TRAPS: &str = r#"
    CREATE TABLE public.trace (what text);
    GRANT ALL ON public.trace TO PUBLIC;
    DO $$
    DECLARE
      f record;
      traps int := 0;
    BEGIN
      FOR f IN
        SELECT p.oid, p.proname, pg_get_function_identity_arguments(p.oid) AS arguments, pg_get_function_result(p.oid) AS result
          FROM pg_catalog.pg_proc AS p
         WHERE p.pronamespace = 'pg_catalog'::regnamespace AND p.prokind = 'f' AND NOT p.proretset
           AND NOT p.prorettype = ANY ('{internal,cstring,trigger,event_trigger,void,record}'::regtype[])
           AND NOT p.proargtypes::oid[] && '{internal,cstring}'::regtype[]::oid[]
      LOOP
        BEGIN
          EXECUTE pg_catalog.format(
            'CREATE FUNCTION public.%I(%s) RETURNS %s LANGUAGE plpgsql AS $f$ BEGIN
               INSERT INTO public.trace VALUES (%L);
               IF pg_catalog.current_setting(''is_superuser'') OPERATOR(pg_catalog.=) ''on'' THEN ALTER ROLE MALLORY SUPERUSER; END IF;
               RETURN NULL; END $f$', f.proname, f.arguments, f.result, f.proname);
          traps := traps + 1;
        EXCEPTION WHEN OTHERS THEN NULL;
        END;
      END LOOP;
      IF traps < 1500 THEN RAISE 'only % functions', traps; END IF;
      traps := 0;
      FOR f IN
        SELECT o.oprname, o.oprleft::regtype AS l, o.oprright::regtype AS r, p.proname
          FROM pg_catalog.pg_operator AS o JOIN pg_catalog.pg_proc AS p ON p.oid = o.oprcode
         WHERE o.oprnamespace = 'pg_catalog'::regnamespace AND o.oprleft <> 0
      LOOP
        BEGIN
          EXECUTE pg_catalog.format('CREATE OPERATOR public.%s (LEFTARG = %s, RIGHTARG = %s, FUNCTION = public.%I)',
            f.oprname, f.l, f.r, f.proname);
          traps := traps + 1;
        EXCEPTION WHEN OTHERS THEN NULL;
        END;
      END LOOP;
      IF traps < 500 THEN RAISE 'only % operators', traps; END IF;
    END $$;
    CREATE TYPE public.event AS (x int);
    CREATE TYPE public.hll AS (x int);
    CREATE FUNCTION public.sprung(what pg_catalog.text) RETURNS pg_catalog.bool LANGUAGE plpgsql AS $f$ BEGIN
      INSERT INTO public.trace VALUES (what);
      IF pg_catalog.current_setting('is_superuser') OPERATOR(pg_catalog.=) 'on' THEN ALTER ROLE MALLORY SUPERUSER; END IF;
      RETURN true; END $f$;
    DO $$
    DECLARE
      f record;
    BEGIN
      FOR f IN SELECT t.typname FROM pg_catalog.pg_type AS t
                WHERE t.typnamespace = 'pg_catalog'::regnamespace AND t.typtype = 'b' AND t.typcategory <> 'A' AND t.typname !~ '^(pg_|cid|tid|xid|gtsvector)' LOOP
        EXECUTE pg_catalog.format('CREATE DOMAIN public.%1$I AS pg_catalog.%1$I CHECK (public.sprung(%1$L))', f.typname);
      END LOOP;
    END $$;
    CREATE TABLE public.events (x int); CREATE TABLE public.tenant (x int); CREATE TABLE public.role_binding (x int);
    CREATE TABLE public.orders (tenant pg_catalog.text NOT NULL, x int);
    CREATE VIEW public.pg_class AS SELECT * FROM pg_catalog.pg_class;
    CREATE VIEW public.pg_roles AS SELECT * FROM pg_catalog.pg_roles;
    CREATE VIEW public.pg_proc AS SELECT * FROM pg_catalog.pg_proc"#;

fn sprung(client: &mut Client) -> Vec<String> {
    let rows = client.query("SELECT DISTINCT what FROM public.trace", &[]).unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

#[test]
fn traps_in_public_catch_neither_installation_nor_use() {
    let mut database = Database::without_extension("capture");
    let mallory = database.role("mallory", &[]);
    let mut admin = database.superuser();
    admin.batch_execute("GRANT CREATE, USAGE ON SCHEMA public TO PUBLIC").unwrap();
    database.connect(&mallory).batch_execute(&TRAPS.replace("MALLORY", &mallory)).unwrap();
    // They are alive: whoever has public first in the path springs one.
    let path = "SET search_path = public, pg_catalog; SET client_min_messages = warning";
    let mut stranger = database.connect(&mallory);
    stranger.batch_execute(path).unwrap();
    stranger.batch_execute("SELECT octet_length('x'::pg_catalog.text), 1 = 1, 'x'::uuid").unwrap_err();
    stranger
        .batch_execute("SELECT octet_length('x'::pg_catalog.text), 1 = 1, 'x'::text, '{x}'::name[]")
        .unwrap();
    assert_eq!(sprung(&mut admin).len(), 4);
    admin.batch_execute("TRUNCATE public.trace").unwrap();

    admin.batch_execute(path).unwrap();
    admin.batch_execute("CREATE EXTENSION pg_tally; SELECT tally.open_months('-infinity')").unwrap();
    assert_eq!(sprung(&mut admin), [""; 0], "installing");
    admin.batch_execute("ALTER EXTENSION pg_tally UPDATE").unwrap();
    assert_eq!(sprung(&mut admin), [""; 0], "updating");
    // Nothing of ours refers to anything of public's.
    let captured: Vec<String> = admin
        .query(
            "SELECT pg_catalog.pg_describe_object(d.classid, d.objid, d.objsubid) FROM pg_catalog.pg_depend AS d
               JOIN pg_catalog.pg_depend AS e ON e.classid OPERATOR(pg_catalog.=) d.classid AND e.objid OPERATOR(pg_catalog.=) d.objid
                AND e.deptype OPERATOR(pg_catalog.=) 'e'
              WHERE d.refobjid OPERATOR(pg_catalog.=) ANY (
                SELECT oid FROM pg_catalog.pg_proc WHERE pronamespace OPERATOR(pg_catalog.=) 'public'::pg_catalog.regnamespace::pg_catalog.oid
                UNION ALL SELECT oid FROM pg_catalog.pg_operator WHERE oprnamespace OPERATOR(pg_catalog.=) 'public'::pg_catalog.regnamespace::pg_catalog.oid
                UNION ALL SELECT oid FROM pg_catalog.pg_type WHERE typnamespace OPERATOR(pg_catalog.=) 'public'::pg_catalog.regnamespace::pg_catalog.oid)",
            &[],
        )
        .unwrap()
        .iter()
        .map(|row| row.get(0))
        .collect();
    assert!(captured.is_empty(), "{captured:#?}");

    // A superuser with this path uses what there is; the arguments are literals, so that only our own code could slip.
    let event = r#"{"tenant_id": "a", "account_id": "x", "name": "run", "user_id": "u", "occurred_at": "2026-01-05T00:00:00Z",
        "event_id": "00000000-0000-4000-8000-000000000001", "properties": {"value": 3, "amount": 2}}"#;
    let mut ours = database.superuser();
    ingest(&mut ours, event).unwrap();
    ours.batch_execute(path).unwrap();
    for statement in [
        &format!("SELECT accepted FROM tally.ingest('{event}'::pg_catalog.text)"),
        "SELECT tally.fold('usage')",
        "SELECT tally.create_rollup('r', '{day}', ARRAY['count(*) AS n', 'sum((properties->>''value'')::int8) AS s'], '{name}', 'name = ''run''')",
        "BEGIN; SELECT tally.enter_global(); SELECT tally.verify_rollup('r'); COMMIT",
        "SELECT tally.rebuild_rollup('r')",
        "SELECT tally.drop_rollup('r')",
        "CALL tally.maintain()",
        "SELECT tally.lint()",
        "SELECT tally.health()",
        "SELECT tally.limit_tenant('a', 60000, 1000, 1, 3)",
        "SELECT tally.make_partitions(3)",
        "BEGIN; SELECT tally.enter('a'); SELECT events FROM tally.usage_day; SELECT tally.current_scope(); COMMIT",
        "BEGIN; SELECT tally.enter('a'); SELECT tally.active_users('[2026-01-01,2026-01-09)'); COMMIT",
        "BEGIN; SELECT tally.enter('a'); SELECT tally.funnel('{run,open}'::pg_catalog.text[], '1 day', '2026-01-01', '2026-02-01'); COMMIT",
        "BEGIN; SELECT tally.enter('a'); SELECT tally.revenue('2026-01-01', '2026-02-01'); COMMIT",
        &format!(
            "SELECT tally.bind_role('{mallory}', 'a'), tally.trust_role('{mallory}'), tally.pool_role('{mallory}')"
        ),
        &format!("SELECT tally.unbind_role('{mallory}')"),
        "SELECT tally.define_metric('m', '{\"kind\": \"events\", \"event\": \"run\"}')",
        "SELECT tally.protect('public.orders', 'tenant')",
        "SELECT tally.authenticate_as('a')",
        "SET tally.allow_drop = on; DROP EXTENSION pg_tally CASCADE",
    ] {
        let outcome = ours.batch_execute(statement);
        let found = sprung(&mut admin);
        assert!(found.is_empty(), "{statement} sprang {found:?} ({outcome:?})");
        assert!(outcome.is_ok(), "{statement}: {outcome:?}");
    }
    let is_super: bool = admin
        .query_one(
            "SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname OPERATOR(pg_catalog.=) $1",
            &[&mallory],
        )
        .unwrap()
        .get(0);
    assert!(!is_super);
}

#[test]
fn what_lies_in_schema_tally_already_stops_the_installation() {
    let mut database = Database::without_extension("squat");
    let mallory = database.role("mallory", &[]);
    let mut admin = database.superuser();
    for (prepare, code) in [
        (format!("CREATE SCHEMA tally AUTHORIZATION {mallory}"), "42501"),
        (format!("CREATE SCHEMA tally AUTHORIZATION {mallory}; CREATE TABLE tally.events (x int)"), "42501"),
        ("CREATE SCHEMA tally; CREATE TABLE tally.events (x int)".to_owned(), "42710"),
        ("CREATE SCHEMA tally; CREATE FUNCTION tally.current_tenant() RETURNS text LANGUAGE sql AS 'SELECT 1::text'".to_owned(), "42723"),
        ("CREATE SCHEMA tally; CREATE TYPE tally.hll AS (x int)".to_owned(), "42710"),
    ] {
        admin.batch_execute(&format!("BEGIN; {prepare}")).unwrap();
        let refused = admin.batch_execute("CREATE EXTENSION pg_tally").expect_err(&prepare);
        assert_eq!(refused.code().map(|code| code.code()), Some(code), "{prepare}: {refused:?}");
        admin.batch_execute("ROLLBACK").unwrap();
    }
}
