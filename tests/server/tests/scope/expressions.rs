//! Code in declared expressions is somebody's: it has nobody's rights, whoever ingests or maintains, and leaves nothing behind.

use super::operator::Scene;
use postgres::Client;
use std::collections::BTreeSet;
use tally_server_tests::{
    Database, Summary, assert_right, code, fold_all, ingest, json_array, number, verify,
};

impl Scene {
    /// A rollup whose dimension is `app.f(name)`, declared when the function was harmless.
    fn declare(&self, backfill: bool) -> Client {
        let mut adm = self.as_adm();
        adm.batch_execute(&format!(
            "{}; SELECT tally.create_rollup('probed', '{{day}}', ARRAY['count(*) AS n'], ARRAY['app.f(name) AS f'], backfill => {backfill})",
            function("RETURN x;")
        ))
        .unwrap();
        adm
    }

    fn is_superuser(&mut self) -> bool {
        let query = format!(
            "SELECT count(*) FROM pg_roles WHERE rolname IN ('{}', '{}') AND rolsuper",
            self.adm, self.rw
        );
        number(&mut self.admin, &query) > 0
    }
}

/// `app.f(text)`, in the form in which it may be declared, with this body, which may do what immutable functions can't.
fn function(body: &str) -> String {
    format!(
        "CREATE OR REPLACE FUNCTION app.g(x text) RETURNS text LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $f$ BEGIN {body} END $f$;
         CREATE OR REPLACE FUNCTION app.f(x text) RETURNS text LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $f$ BEGIN RETURN app.g(x); END $f$"
    )
}

fn event(number: usize, name: &str) -> String {
    format!(
        r#"{{"tenant_id":"a","account_id":"x","name":"{name}","occurred_at":"2026-11-20T00:00:00Z","event_id":"00000000-0000-4000-8000-{number:012}","properties":{{"v":{number}}}}}"#
    )
}

fn events(numbers: impl Iterator<Item = usize>, name: &str) -> String {
    json_array(numbers.map(|number| event(number, name)).collect::<Vec<_>>().iter().map(String::as_str))
}

fn refused(client: &mut Client, statement: &str) -> Option<(String, String)> {
    let error = client.batch_execute(statement).err()?;
    let error = error.as_db_error().unwrap_or_else(|| panic!("{statement}: {error}"));
    Some((error.code().code().to_owned(), error.hint().unwrap_or_default().to_owned()))
}

/// Every door into somebody's code: what makes it, an expression that goes through it, and the function to be mended.
const DOORS: &[(&str, &str, &str)] = &[
    ("", "app.loose(name)", "app.loose(text)"),
    ("", "upper(app.loose(name || 'x'))", "app.loose(text)"),
    ("", "CASE WHEN name = 'x' THEN 'y' ELSE app.loose(name) END", "app.loose(text)"),
    ("", "coalesce(user_id, app.loose(name))", "app.loose(text)"),
    (
        "CREATE FUNCTION app.inlined(x text) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT lower(x)'",
        "app.inlined(name)",
        "app.inlined(text)",
    ),
    (
        "CREATE FUNCTION app.joined(x text, y text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN x; END';
         CREATE OPERATOR app.<+> (LEFTARG = text, RIGHTARG = text, FUNCTION = app.joined)",
        "name OPERATOR(app.<+>) 'x'",
        "app.joined(text,text)",
    ),
    (
        "CREATE TYPE app.pair AS (x int); CREATE FUNCTION app.first_of(p app.pair) RETURNS text LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN p.x; END';
         CREATE CAST (app.pair AS text) WITH FUNCTION app.first_of(app.pair)",
        "ROW(1)::app.pair::text",
        "app.first_of(app.pair)",
    ),
    (
        "CREATE FUNCTION app.small(x int) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN true; END';
         CREATE DOMAIN app.small_int AS int CHECK (app.small(VALUE))",
        "length(name)::app.small_int",
        "app.small(integer)",
    ),
    (
        "CREATE FUNCTION app.tidy(x jsonb) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN true; END';
         CREATE DOMAIN app.tidy_json AS jsonb CHECK (app.tidy(VALUE))",
        "(properties::app.tidy_json->>'v')",
        "app.tidy(jsonb)",
    ),
    (
        "CREATE FUNCTION app.odd(x int, y int) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN true; END';
         CREATE OPERATOR app.<?> (LEFTARG = int, RIGHTARG = int, FUNCTION = app.odd);
         CREATE DOMAIN app.odd_int AS int CHECK (VALUE OPERATOR(app.<?>) 1)",
        "(length(name)::app.odd_int)::int8",
        "app.odd(integer,integer)",
    ),
    (
        "CREATE FUNCTION app.inner_check(x int) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN true; END';
         CREATE DOMAIN app.inner_int AS int CHECK (app.inner_check(VALUE)); CREATE TYPE app.outer_row AS (x app.inner_int)",
        "((ROW(length(name))::app.outer_row).x)::int",
        "app.inner_check(integer)",
    ),
    (
        "CREATE FUNCTION app.each(x text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN true; END';
         CREATE DOMAIN app.each_text AS text CHECK (app.each(VALUE))",
        "(string_to_array(name, ',')::app.each_text[])[1]::text",
        "app.each(text)",
    ),
];

#[test]
fn code_without_a_fixed_path_or_with_its_owners_rights_is_refused_when_it_is_declared() {
    let mut scene = Scene::new("expr_doors");
    let mut adm = scene.as_adm();
    adm.batch_execute("CREATE FUNCTION app.loose(x text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN trim(x); END'").unwrap();
    assert_eq!(ingest(&mut scene.admin, &events(0..5, "N")).unwrap().accepted, 5);
    for (place, (preparation, expression, function)) in DOORS.iter().enumerate() {
        adm.batch_execute(preparation).unwrap_or_else(|problem| panic!("{preparation}: {problem:?}"));
        let declare = format!(
            "SELECT tally.create_rollup('door{place}', '{{day}}', ARRAY['count(*) AS n'], ARRAY[$e$({expression}) AS f$e$])"
        );
        let remedy = format!("ALTER FUNCTION {function} SET search_path = pg_catalog, pg_temp");
        let open = Some(("42P13".to_owned(), remedy.clone()));
        assert_eq!(refused(&mut adm, &declare), open, "{expression}");
        // The hint is the remedy, whoever declares; what is fixed but elevated is refused as well.
        adm.batch_execute(&remedy).unwrap();
        adm.batch_execute(&format!("ALTER FUNCTION {function} SECURITY DEFINER")).unwrap();
        // A call of constants is refused when it is made.
        let code = refused(&mut scene.admin, &declare).map(|(code, _)| code);
        assert!(matches!(code.as_deref(), Some("42P13" | "42501")), "{expression}: {code:?}");
        adm.batch_execute(&format!("ALTER FUNCTION {function} SECURITY INVOKER")).unwrap();
        adm.batch_execute(&declare).unwrap_or_else(|problem| panic!("{declare}: {problem:?}"));
        let counted = format!("SELECT coalesce(sum(n), 0)::int8 FROM tally.door{place}_day");
        assert_eq!(number(&mut scene.admin, &counted), 5, "{expression}");
        assert_right(&mut scene.admin, &format!("door{place}"));
        adm.batch_execute(&format!(
            "SELECT tally.drop_rollup('door{place}'); ALTER FUNCTION {function} RESET search_path"
        ))
        .unwrap();
    }
    // In a filter, in each kind of measure, and in what is added later.
    for arguments in [
        "ARRAY['count(*) AS n'], filter => $f$app.loose(name) = ''$f$",
        "ARRAY['count(app.loose(name)) AS n']",
        "ARRAY['distinct(app.loose(name)) AS n']",
        "ARRAY['min(app.loose(name)) AS n']",
        "ARRAY['last(app.loose(name)) AS n']",
        "ARRAY['sum(length(app.loose(name))) AS n']",
        "ARRAY['count(*) AS n'], ARRAY['lower(name) AS l', 'app.loose(user_id) AS u']",
    ] {
        let declare = format!("SELECT tally.create_rollup('door', '{{day}}', {arguments})");
        assert_eq!(refused(&mut adm, &declare).map(|(code, _)| code), Some("42P13".to_owned()), "{declare}");
    }
    let alter = "SELECT tally.alter_rollup('session', add_dimensions => ARRAY['app.loose(name) AS f'])";
    assert_eq!(refused(&mut adm, alter).map(|(code, _)| code), Some("42P13".to_owned()));
    // Nothing of this is asked of Postgres' functions and ours.
    adm.batch_execute("SELECT tally.create_rollup('plain', '{day}', ARRAY['sum(tally.property_number(properties, ''v'')) AS s'], ARRAY['lower(name) AS l'])")
        .unwrap();
}

#[test]
fn what_is_loosened_later_is_reported_and_its_caller_gains_nothing() {
    let mut scene = Scene::new("expr_loosened");
    let mut adm = scene.declare(true);
    let strange = |admin: &mut Client| -> Vec<(String, String)> {
        let found = "SELECT name, remediation FROM tally.lint() WHERE name ~ 'declared_code' ORDER BY 1, 2";
        admin.query(found, &[]).unwrap().iter().map(|row| (row.get(0), row.get(1))).collect()
    };
    assert_eq!(strange(&mut scene.admin), []);
    adm.batch_execute("CREATE OR REPLACE FUNCTION app.f(x text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$ DECLARE y text := lower(x); BEGIN RETURN trim(y); END $$")
        .unwrap();
    let fix = |end: &str| vec![("declared_code".to_owned(), format!("ALTER FUNCTION app.f(text) {end};"))];
    assert_eq!(strange(&mut scene.admin), fix("SET search_path = pg_catalog, pg_temp"));

    // The tenant's own types stand in for Postgres' where a path says so: at evaluation none does, and nobody's rights are in force.
    scene.admin.batch_execute("CREATE TABLE public.seen (who text); GRANT ALL ON public.seen TO PUBLIC; GRANT USAGE ON SCHEMA public TO PUBLIC").unwrap();
    let mut rw = scene.database.connect(&scene.rw);
    rw.batch_execute(&format!(
        "CREATE FUNCTION pg_temp.pwn(v pg_catalog.text) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN
           INSERT INTO public.seen VALUES (current_user); RAISE WARNING 'caught as %', current_user;
           IF current_user = 'tally_owner' THEN UPDATE tally.role_binding SET tenant_id = NULL WHERE role_name = '{}'::regrole; END IF; RETURN true; END $$;
         CREATE DOMAIN pg_temp.text AS pg_catalog.text CHECK (pg_temp.pwn(VALUE));
         CREATE DOMAIN pg_temp.jsonb AS pg_catalog.jsonb CHECK (pg_temp.pwn(VALUE::pg_catalog.text))",
        scene.rw
    ))
    .unwrap();
    // The trap is alive: called by the tenant itself, the function falls into it.
    rw.batch_execute("SELECT app.f('X')").unwrap();
    assert!(number(&mut scene.admin, "SELECT count(*) FROM public.seen") > 0);
    scene.admin.batch_execute("TRUNCATE public.seen").unwrap();
    for (number, path) in
        ["\"$user\", public", "pg_temp, pg_catalog, public", "app, pg_temp"].into_iter().enumerate()
    {
        rw.batch_execute(&format!("SET search_path = {path}")).unwrap();
        let text = event(number, "Name");
        let sent = rw.query_one("SELECT accepted FROM tally.ingest($1::pg_catalog.text)", &[&text]).unwrap();
        assert_eq!(sent.get::<_, i64>(0), 1, "{path}");
    }
    assert_eq!(number(&mut scene.admin, "SELECT count(*) FROM public.seen"), 0);
    let still = format!(
        "SELECT count(*) FROM tally.role_binding WHERE role_name = '{}'::regrole AND tenant_id = 'a'",
        scene.rw
    );
    assert_eq!(number(&mut scene.admin, &still), 1);
    drop(rw);
    // A session that never called it directly finds Postgres' types.
    let mut fresh = scene.database.connect(&scene.rw);
    assert_eq!(ingest(&mut fresh, &event(9, "Name")).unwrap().accepted, 1);
    assert_eq!(number(&mut scene.admin, "SELECT sum(n)::int8 FROM tally.probed_day WHERE f = 'name'"), 4);

    adm.batch_execute("ALTER FUNCTION app.f(text) SET search_path = pg_catalog, pg_temp; ALTER FUNCTION app.f(text) SECURITY DEFINER").unwrap();
    assert_eq!(strange(&mut scene.admin), fix("SECURITY INVOKER"));
    adm.batch_execute("DROP FUNCTION app.f(text)").unwrap();
    assert_eq!(strange(&mut scene.admin).len(), 1, "an expression that can't be read");
}

/// What code wants, and the code with which its event is rejected. `$adm` owns schema app.
const WANTS: &[(&str, &str)] = &[
    ("PERFORM sketch_key FROM tally.tenant; RETURN x;", "42501"),
    ("PERFORM 1 FROM tally.events; RETURN x;", "42501"),
    ("UPDATE tally.role_binding SET tenant_id = NULL; RETURN x;", "42501"),
    ("DELETE FROM tally.token_key; RETURN x;", "42501"),
    ("INSERT INTO tally.maintenance SELECT * FROM tally.maintenance; RETURN x;", "42501"),
    ("PERFORM tally.trust_role('$adm'); RETURN x;", "42501"),
    ("PERFORM tally.ingest('[]'::text); RETURN x;", "42501"),
    ("PERFORM tally.enter('b'); RETURN x;", "42501"),
    ("ALTER ROLE $adm SUPERUSER; RETURN x;", "42501"),
    ("ALTER TABLE tally.events NO FORCE ROW LEVEL SECURITY; RETURN x;", "42501"),
    ("SET LOCAL ROLE tally_owner; RETURN x;", "42501"),
    ("PERFORM set_config('role', 'none', true); RETURN x;", "42501"),
    ("RESET SESSION AUTHORIZATION; RETURN x;", "42501"),
    ("CREATE TEMP TABLE bomb (i int); RETURN x;", "42501"),
    ("EXECUTE 'LISTEN secrets'; RETURN x;", "42501"),
    ("EXECUTE 'PREPARE trap AS SELECT 1'; RETURN x;", "42501"),
    (
        "SET CONSTRAINTS ALL DEFERRED; INSERT INTO app.bomb VALUES (1); SET CONSTRAINTS ALL IMMEDIATE; RETURN x;",
        "42501",
    ),
    ("COPY app.open TO PROGRAM 'true'; RETURN x;", "42501"),
    ("PERFORM pg_read_file('/etc/passwd'); RETURN x;", "42501"),
    ("PERFORM pg_terminate_backend(pg_backend_pid()); RETURN x;", "42501"),
    ("RAISE EXCEPTION 'no' USING ERRCODE = '42501';", "42501"),
    ("RAISE EXCEPTION 'no' USING ERRCODE = '0A000';", "0A000"),
    ("INSERT INTO app.bomb VALUES (1); RETURN x;", "42501"),
    // Its own words are the event's, whatever code they have, also codes of a server that is short of something.
    ("RAISE EXCEPTION 'no' USING ERRCODE = 'U0001';", "U0001"),
    ("RAISE EXCEPTION 'no' USING ERRCODE = 'SH001';", "SH001"),
    ("RAISE EXCEPTION 'no' USING ERRCODE = '53200';", "53200"),
    ("RAISE EXCEPTION 'no' USING ERRCODE = '57014';", "57014"),
    ("RAISE EXCEPTION 'no' USING ERRCODE = '40001';", "40001"),
    ("RAISE EXCEPTION 'no' USING ERRCODE = '01000';", "01000"),
    (
        "BEGIN RAISE EXCEPTION 'no' USING ERRCODE = 'SH002'; EXCEPTION WHEN SQLSTATE 'SH002' THEN RAISE; END;",
        "SH002",
    ),
    (
        "BEGIN RAISE EXCEPTION 'no' USING ERRCODE = 'SH004'; EXCEPTION WHEN SQLSTATE 'SH004' THEN PERFORM 1 / 0; END;",
        "22012",
    ),
    ("COMMIT; RETURN x;", "2D000"),
];

#[test]
fn what_wants_more_rights_fails_alone() {
    let mut scene = Scene::new("expr_wants");
    let mut adm = scene.declare(true);
    adm.batch_execute(
        &"CREATE TABLE app.open (i int); GRANT ALL ON app.open TO PUBLIC; CREATE TABLE app.bomb (i int); GRANT ALL ON app.bomb TO PUBLIC;
         CREATE FUNCTION app.trg() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN ALTER ROLE $adm SUPERUSER; RETURN NULL; END';
         CREATE CONSTRAINT TRIGGER boom AFTER INSERT ON app.bomb DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION app.trg()"
            .replace("$adm", &scene.adm),
    )
    .unwrap();
    let mut number_of_event = 0;
    for (body, sqlstate) in WANTS {
        let guarded = format!("IF x <> 'evil' THEN RETURN x; END IF; {}", body.replace("$adm", &scene.adm));
        adm.batch_execute(&function(&guarded)).unwrap();
        for role in [scene.rw.clone(), "postgres".to_owned()] {
            let mut client =
                if role == "postgres" { scene.database.superuser() } else { scene.database.connect(&role) };
            let batch = json_array(
                [
                    event(number_of_event, "good"),
                    event(number_of_event + 1, "evil"),
                    event(number_of_event + 2, "good"),
                ]
                .iter()
                .map(String::as_str),
            );
            number_of_event += 3;
            let Summary { accepted, rejected, .. } =
                ingest(&mut client, &batch).unwrap_or_else(|problem| panic!("{role}: {body}: {problem:?}"));
            assert_eq!((accepted, rejected), (2, 1), "{role}: {body}");
        }
        let seen =
            format!("SELECT count(*) FROM tally.quarantine WHERE sqlstate = '{sqlstate}' AND body ~ 'evil'");
        assert_eq!(number(&mut scene.admin, &seen), 2, "{body}");
        scene.admin.batch_execute("DELETE FROM tally.quarantine").unwrap();
    }
    assert!(!scene.is_superuser());
    adm.batch_execute(&function("RETURN x;")).unwrap();
    assert_right(&mut scene.admin, "probed");
}

/// A cancel, and what code says that has caught one, still end the call.
#[test]
fn a_cancel_ends_the_call_whatever_code_makes_of_it() {
    let mut scene = Scene::new("expr_cancel");
    let mut adm = scene.declare(true);
    let mut client = scene.database.connect(&scene.rw);
    for body in ["LOOP END LOOP;", "BEGIN LOOP END LOOP; EXCEPTION WHEN query_canceled THEN RAISE; END;"] {
        adm.batch_execute(&function(&format!("IF x <> 'evil' THEN RETURN x; END IF; {body}"))).unwrap();
        client.batch_execute("SET statement_timeout = '2s'").unwrap();
        assert_eq!(
            code(client.query("SELECT tally.ingest($1::text)", &[&event(1, "evil")])),
            "57014",
            "{body}"
        );
        client.batch_execute("RESET statement_timeout").unwrap();
    }
    assert_eq!(number(&mut scene.admin, "SELECT count(*) FROM tally.quarantine"), 0);
    assert_eq!(ingest(&mut client, &event(2, "good")).unwrap().accepted, 1);
}

/// What code puts off until later, and a query that is 0 where nothing of it is left.
const DOES: &[(&str, &str)] = &[
    (
        "DECLARE c refcursor; BEGIN OPEN c FOR SELECT app.escalate(); END;",
        "SELECT count(*) FROM pg_cursors WHERE statement ~ 'escalate' AND statement !~ 'pg_cursors'",
    ),
    ("PERFORM random(), clock_timestamp(), gen_random_uuid();", "SELECT 0::int8"),
];

/// What changes anything, or tells what else the session does: much of it no rollback undoes.
const CHANGES: &[&str] = &[
    "INSERT INTO app.open VALUES (1);",
    "WITH made AS (INSERT INTO app.open VALUES (1) RETURNING i) SELECT i::text INTO x FROM made;",
    "UPDATE app.open SET i = 2;",
    "PERFORM FROM app.open FOR UPDATE;",
    "CREATE TABLE IF NOT EXISTS yard.made (i int);",
    "CREATE OR REPLACE FUNCTION yard.gift() RETURNS int LANGUAGE sql SECURITY DEFINER AS 'SELECT 1';",
    "PERFORM set_config('search_path', 'app', false);",
    "PERFORM set_config('k.' || x, '1', true);",
    "SET statement_timeout = 1234;",
    "EXECUTE 'SET application_name = evil';",
    "PERFORM set_config('tally.ingest_options', '{\"on_conflict\":\"ignore\"}', false);",
    "PERFORM pg_notify('app', x);",
    "NOTIFY app;",
    "PERFORM pg_advisory_lock(1);",
    "PERFORM pg_advisory_lock_shared(1, 2);",
    "IF pg_try_advisory_lock(1) THEN RETURN 'y'; END IF;",
    "IF pg_try_advisory_lock_shared(2, 3) THEN RETURN 'y'; END IF;",
    "PERFORM pg_advisory_xact_lock(1);",
    "PERFORM pg_advisory_unlock_all();",
    "IF pg_advisory_unlock(77) THEN RETURN 'y'; END IF;",
    "PERFORM pg_advisory_unlock_shared(77);",
    "EXECUTE 'DO $do$ BEGIN PERFORM pg_advisory_lock(1); END $do$';",
    "BEGIN PERFORM lower(x) FROM generate_series(1, 2) AS i ORDER BY pg_try_advisory_lock(i); END;",
    "PERFORM app.latch(1);",
    "PERFORM app.act(1);",
    "PERFORM setseed(0.5);",
    "SET seed = 0.5;",
    "SET LOCAL seed = 0.5;",
    "PERFORM set_config('seed', '0.5', false);",
    "PERFORM app.sets(x);",
    "PERFORM app.ends(x);",
    "SET exit_on_error = on; RAISE 'boo';",
    "PERFORM nextval('app.numbers');",
    "INSERT INTO app.numbered DEFAULT VALUES;",
    "INSERT INTO app.identified DEFAULT VALUES;",
    "PERFORM setval('app.numbers', 1000);",
    "PERFORM setval('app.numbers', 1000, false);",
    "PERFORM pg_logical_emit_message(false, 'app', 'x');",
    "PERFORM lo_create(0);",
    "PERFORM app.elevated();",
    "EXECUTE 'SELECT app.elevated()';",
    "PERFORM tally.challenge();",
    "PERFORM tally.ingest('[]'::text);",
    "PERFORM query_to_xml('SELECT 1', false, false, '');",
    "PERFORM cursor_to_xml('mine', 10, false, false, '');",
    "PERFORM current_query();",
    "PERFORM FROM pg_cursors;",
    "PERFORM FROM pg_prepared_statements;",
    "PERFORM pg_listening_channels();",
    "DECLARE c refcursor := 'mine'; BEGIN FETCH c INTO x; END;",
    "DECLARE c refcursor := 'mine'; BEGIN MOVE FORWARD ALL IN c; END;",
    "DECLARE c refcursor := 'held'; BEGIN FETCH LAST FROM c INTO x; END;",
    "DECLARE c refcursor := 'held'; BEGIN CLOSE c; END;",
    "DECLARE c refcursor := '<unnamed>'; BEGIN FETCH c INTO x; END;",
    "DECLARE c refcursor := '<unnamed portal 1>'; BEGIN FETCH c INTO x; END;",
    "BEGIN PERFORM pg_advisory_lock(1); EXCEPTION WHEN OTHERS THEN RAISE 'no'; END;",
];

#[test]
fn what_code_does_or_puts_off_is_undone() {
    let mut scene = Scene::new("expr_does");
    let mut adm = scene.declare(true);
    scene.admin.batch_execute("CREATE SCHEMA yard; GRANT ALL ON SCHEMA yard TO PUBLIC").unwrap();
    adm.batch_execute(&format!(
        "CREATE TABLE app.open (i int); GRANT ALL ON app.open TO PUBLIC; CREATE TABLE app.bomb (i int); GRANT ALL ON app.bomb TO PUBLIC;
         CREATE FUNCTION app.escalate() RETURNS int LANGUAGE plpgsql AS $$ BEGIN ALTER ROLE {adm} SUPERUSER; RETURN 1; END $$;
         CREATE FUNCTION app.trg() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN ALTER ROLE {adm} SUPERUSER; RETURN NULL; END $$;
         CREATE CONSTRAINT TRIGGER boom AFTER INSERT ON app.bomb DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION app.trg()",
        adm = scene.adm
    ))
    .unwrap();
    // The bomb is live.
    scene
        .admin
        .batch_execute("BEGIN; INSERT INTO app.bomb VALUES (1); SET CONSTRAINTS ALL IMMEDIATE")
        .unwrap();
    assert!(scene.is_superuser());
    scene.admin.batch_execute("ROLLBACK").unwrap();
    let mut next = 0;
    for (body, left) in DOES {
        adm.batch_execute(&function(&format!("{body} RETURN x;"))).unwrap();
        for role in [scene.rw.clone(), "postgres".to_owned()] {
            let mut client =
                if role == "postgres" { scene.database.superuser() } else { scene.database.connect(&role) };
            client.batch_execute("BEGIN").unwrap();
            if role == "postgres" {
                client.batch_execute("DECLARE mine CURSOR FOR SELECT 1").unwrap();
            }
            assert_eq!(
                ingest(&mut client, &events(next..next + 3, "n")).unwrap().accepted,
                3,
                "{role}: {body}"
            );
            next += 3;
            if role == "postgres" {
                for maintain in ["tally.rebuild_rollup('probed')", "tally.fold('probed')"] {
                    client
                        .batch_execute(&format!("SELECT {maintain}"))
                        .unwrap_or_else(|problem| panic!("{body}: {maintain}: {problem:?}"));
                }
                assert_eq!(number(&mut client, left), 0, "{role}: {body}");
            }
            client.batch_execute("COMMIT").unwrap_or_else(|problem| panic!("{role}: {body}: {problem:?}"));
            if role == "postgres" {
                client.batch_execute("CALL tally.maintain()").unwrap();
                assert_right(&mut client, "probed");
                assert_eq!(number(&mut client, left), 0, "{role}: {body}");
            }
        }
        assert!(!scene.is_superuser(), "{body}");
    }
    // What reads the events in pieces is not closed beneath itself.
    adm.batch_execute(&function("EXECUTE 'CLOSE ALL'; RETURN x;")).unwrap();
    let mut client = scene.database.superuser();
    let sent = ingest(&mut client, &events(next..next + 3, "n")).unwrap();
    assert_eq!(sent.accepted + sent.rejected, 3);
    let told = refused(&mut client, "SELECT tally.rebuild_rollup('probed')").map(|(code, _)| code);
    assert_eq!(told, Some("42501".to_owned()));
    adm.batch_execute(&function("RETURN x;")).unwrap();
    client.batch_execute("SELECT tally.rebuild_rollup('probed')").unwrap();
    let counted = number(&mut client, "SELECT sum(n)::int8 FROM tally.probed_day");
    assert_eq!(counted, next as i64 + sent.accepted);
}

/// It runs in the session of whoever ingests: it reads and computes, and nothing else.
#[test]
fn code_that_changes_anything_is_refused() {
    let mut scene = Scene::new("expr_changes");
    let mut adm = scene.declare(true);
    scene.admin.batch_execute("CREATE SCHEMA yard; GRANT ALL ON SCHEMA yard TO PUBLIC").unwrap();
    adm.batch_execute(
        "CREATE TABLE app.open (i int); GRANT ALL ON app.open TO PUBLIC; INSERT INTO app.open VALUES (0);
         CREATE SEQUENCE app.numbers; GRANT ALL ON SEQUENCE app.numbers TO PUBLIC;
         CREATE TABLE app.numbered (i int DEFAULT nextval('app.numbers')); GRANT ALL ON app.numbered TO PUBLIC;
         CREATE TABLE app.identified (i int GENERATED ALWAYS AS IDENTITY (SEQUENCE NAME app.identities)); GRANT ALL ON app.identified TO PUBLIC;
         CREATE FUNCTION app.step(s int, x int) RETURNS int LANGUAGE sql AS 'SELECT x FROM pg_advisory_lock(x)';
         CREATE AGGREGATE app.latch(int) (SFUNC = app.step, STYPE = int);
         CREATE FUNCTION app.act(x int) RETURNS int LANGUAGE plpgsql PARALLEL SAFE AS 'BEGIN PERFORM pg_logical_emit_message(false, ''a'', ''b''); RETURN x; END';
         CREATE FUNCTION app.sets(x text) RETURNS int LANGUAGE sql SET statement_timeout = '1h' AS 'SELECT 1';
         CREATE FUNCTION app.ends(x text) RETURNS int LANGUAGE plpgsql SET exit_on_error = on AS 'BEGIN RAISE ''boo''; END';
         CREATE FUNCTION app.elevated() RETURNS int LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS 'SELECT 1'",
    )
    .unwrap();
    let kept = "SELECT concat_ws(' ',
            (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objsubid < 3 AND pid = pg_backend_pid() AND granted),
            (SELECT last_value || is_called::text FROM app.numbers), (SELECT last_value || is_called::text FROM app.identities),
            (SELECT count(*) FROM pg_largeobject_metadata), (SELECT count(*) || ' ' || sum(i) FROM app.open), (SELECT count(*) FROM app.numbered),
            (SELECT count(*) FROM pg_class WHERE relname = 'made'), (SELECT count(*) FROM pg_proc WHERE proname = 'gift'),
            current_setting('search_path'), current_setting('statement_timeout'), current_setting('application_name'),
            (SELECT count(*) FROM pg_cursors WHERE name IN ('mine', 'held')))";
    let text = |client: &mut Client, query: &str| client.query_one(query, &[]).unwrap().get::<_, String>(0);
    let mut client = scene.database.superuser();
    client
        .batch_execute(
            "LISTEN app; DECLARE \"<unnamed>\" SCROLL CURSOR WITH HOLD FOR SELECT 'held ' || i FROM generate_series(1, 3) AS i;
             DECLARE held SCROLL CURSOR WITH HOLD FOR SELECT 'held ' || i FROM generate_series(1, 3) AS i;
             SELECT pg_advisory_lock(77), pg_advisory_lock_shared(77)",
        )
        .unwrap();
    let mut before = String::new();
    for (place, body) in CHANGES.iter().enumerate() {
        adm.batch_execute(&function(&format!("IF x = 'evil' THEN {body} END IF; RETURN x;"))).unwrap();
        client.batch_execute("BEGIN; DECLARE mine CURSOR FOR SELECT 'mine ' || i FROM generate_series(1, 3) AS i; SELECT setseed(0.25)").unwrap();
        if place == 0 {
            before = text(&mut client, kept);
        }
        let batch =
            json_array([event(place * 2, "good"), event(place * 2 + 1, "evil")].iter().map(String::as_str));
        let sent = ingest(&mut client, &batch).unwrap_or_else(|problem| panic!("{body}: {problem:?}"));
        assert_eq!((sent.accepted, sent.rejected), (1, 1), "{body}");
        assert_eq!(text(&mut client, kept), before, "{body}");
        let drawn: f64 = client.query_one("SELECT random()", &[]).unwrap().get(0);
        client.batch_execute("SELECT setseed(0.25)").unwrap();
        assert_eq!(drawn, client.query_one("SELECT random()", &[]).unwrap().get::<_, f64>(0), "{body}");
        assert_eq!(text(&mut client, "FETCH mine"), "mine 1", "{body}");
        client.batch_execute("COMMIT").unwrap();
    }
    assert_eq!(text(&mut client, "FETCH held"), "held 1");
    let others = "SELECT reason FROM tally.quarantine WHERE NOT (sqlstate = '42501' AND reason ~ 'the code of a declared expression can.t') ORDER BY event_id";
    let others: Vec<String> = scene.admin.query(others, &[]).unwrap().iter().map(|row| row.get(0)).collect();
    let others: Vec<&str> =
        others.iter().map(|reason| reason.trim_start_matches("rollup \"probed\": ")).collect();
    let expected = [
        "permission denied for function challenge",
        "permission denied for function ingest",
        "portal \"mine\" cannot be run",
        "portal \"mine\" cannot be run",
        "portal \"held\" cannot be run",
        "cannot drop active portal \"held\"",
        "portal \"<unnamed>\" cannot be run",
        "cursor \"<unnamed portal 1>\" does not exist",
        "no",
    ];
    assert_eq!(others, expected);
    // It is told nothing of the statement that it is a part of.
    adm.batch_execute(&function("DECLARE told text; BEGIN GET DIAGNOSTICS told = PG_CONTEXT; IF x = 'told' THEN RETURN 'told: ' || told; END IF; RETURN x; END;")).unwrap();
    client
        .batch_execute(&format!(
            "DO $$ BEGIN EXECUTE $e$SELECT tally.ingest('{}') AS secret$e$; END $$",
            event(9998, "told")
        ))
        .unwrap();
    let told = text(&mut client, "SELECT f FROM tally.probed_day WHERE f LIKE 'told: %'");
    assert!(told.contains("app.") && !told.contains("secret") && !told.contains("DO"), "{told}");
    // The session itself, and what it calls by its own will, may still; a loop of its own goes on to its end.
    client.batch_execute("SELECT pg_advisory_unlock_all(), setseed(0.5), nextval('app.numbers')").unwrap();
    adm.batch_execute(&function("DECLARE c refcursor := '<unnamed portal 1>'; BEGIN FETCH c INTO x; RETURN x; EXCEPTION WHEN OTHERS THEN RETURN x; END;")).unwrap();
    let events = number(&mut scene.admin, "SELECT count(*) FROM tally.events");
    client
        .batch_execute(
            "DO $$ DECLARE e text; BEGIN FOR e IN SELECT format('{\"tenant_id\":\"a\",\"account_id\":\"x\",\"name\":\"loop\",\"occurred_at\":\"2026-11-20T00:00:00Z\",\"event_id\":\"00000000-0000-4000-9000-%s\"}', lpad(i::text, 12, '0'))
               FROM generate_series(1, 30) AS i LOOP PERFORM tally.ingest(e); END LOOP; END $$",
        )
        .unwrap();
    assert_eq!(number(&mut scene.admin, "SELECT count(*) FROM tally.events"), events + 30);
    // The function is another one by now.
    client.batch_execute("SELECT tally.rebuild_rollup('probed')").unwrap();
    assert_right(&mut scene.admin, "probed");
    // Nor is it declared.
    for (function, problem) in [("app.ends", "exit_on_error"), ("app.sets", "statement_timeout")] {
        adm.batch_execute(&format!("ALTER FUNCTION {function}(text) IMMUTABLE; ALTER FUNCTION {function}(text) SET search_path = pg_catalog, pg_temp")).unwrap();
        let (code, hint) = refused(&mut adm, &format!("SELECT tally.create_rollup('set', '{{day}}', ARRAY['count(*) AS n'], ARRAY['{function}(name) AS f'])")).unwrap();
        assert_eq!(
            (code.as_str(), hint.contains(&format!("ALTER FUNCTION {function}(text) RESET {problem}"))),
            ("42P13", true),
            "{hint}"
        );
    }
    adm.batch_execute("ALTER FUNCTION app.f(text) SET statement_timeout = '1h'").unwrap();
    let told = "SELECT count(*) FROM tally.lint() WHERE name ~ 'declared_code' AND remediation = 'ALTER FUNCTION app.f(text) RESET statement_timeout;'";
    assert_eq!(number(&mut scene.admin, told), 1);
}

/// What an administrator adds to our tables may take numbers of a sequence, as elsewhere.
#[test]
fn an_added_column_takes_numbers_of_its_sequence() {
    let mut scene = Scene::new("expr_numbers");
    scene
        .admin
        .batch_execute("CREATE SEQUENCE app.numbers; GRANT USAGE ON SEQUENCE app.numbers TO PUBLIC; ALTER TABLE tally.events ADD COLUMN n bigint DEFAULT nextval('app.numbers')")
        .unwrap();
    let mut client = scene.database.connect(&scene.rw);
    assert_eq!(ingest(&mut client, &events(0..3, "n")).unwrap().accepted, 3);
    assert_eq!(number(&mut scene.admin, "SELECT sum(n)::int8 FROM tally.events"), 6);
}

/// Filled at once, in steps, altered, rebuilt, verified: each reads as nobody, without a scope, whoever calls.
#[test]
fn every_evaluation_is_by_nobody_without_a_scope() {
    let mut scene = Scene::new("expr_nobody");
    assert_eq!(ingest(&mut scene.admin, &events(0..20, "n")).unwrap().accepted, 20);
    let mut adm = scene.as_adm();
    let body = "RETURN concat_ws('/', current_user, current_setting('tally.scope', true), current_setting('search_path'), current_setting('DateStyle'));";
    adm.batch_execute(&function(body)).unwrap();
    let wanted = "tally_evaluator//pg_catalog, pg_temp/ISO, MDY";
    let shown = |admin: &mut Client, rollup: &str| -> BTreeSet<Option<String>> {
        admin
            .query(&format!("SELECT DISTINCT f FROM tally.{rollup}_day"), &[])
            .unwrap()
            .iter()
            .map(|row| row.get(0))
            .collect()
    };
    let only: BTreeSet<Option<String>> = [Some(wanted.to_owned())].into();
    adm.batch_execute("SET datestyle = german").unwrap();
    adm.batch_execute(
        "SELECT tally.create_rollup('at_once', '{day}', ARRAY['count(*) AS n'], ARRAY['app.f(name) AS f'])",
    )
    .unwrap();
    assert_eq!(shown(&mut scene.admin, "at_once"), only);
    adm.batch_execute("SELECT tally.create_rollup('steps', '{day}', ARRAY['count(*) AS n'], ARRAY['app.f(name) AS f'], backfill => false)").unwrap();
    let mut rw = scene.database.connect(&scene.rw);
    rw.batch_execute("SET datestyle = german").unwrap();
    assert_eq!(ingest(&mut rw, &events(20..30, "n")).unwrap().accepted, 10);
    scene.admin.batch_execute("SET datestyle = german").unwrap();
    scene.admin.batch_execute("CALL tally.maintain()").unwrap();
    assert_eq!(shown(&mut scene.admin, "steps"), only);
    adm.batch_execute(
        "SELECT tally.alter_rollup('steps', add_measures => ARRAY['min(app.f(user_id || name)) AS g'])",
    )
    .unwrap();
    adm.batch_execute("SELECT tally.rebuild_rollup('steps')").unwrap();
    assert_eq!(shown(&mut scene.admin, "steps"), only);
    for rollup in ["at_once", "steps"] {
        fold_all(&mut scene.admin, rollup);
        assert_eq!(
            number(&mut scene.admin, &format!("SELECT sum(n)::int8 FROM tally.{rollup}_day")),
            30,
            "{rollup}"
        );
        assert_right(&mut scene.admin, rollup);
        // The comparison is of something: a number that was changed is found.
        scene.admin.batch_execute(&format!("UPDATE tally.{rollup}_day_base SET n = n + 1")).unwrap();
        assert_eq!(verify(&mut scene.admin, rollup).len(), 1, "{rollup}");
        scene.admin.batch_execute(&format!("UPDATE tally.{rollup}_day_base SET n = n - 1")).unwrap();
    }
    // What verifying runs has no more rights than ingest's.
    adm.batch_execute(&function("PERFORM 1 FROM tally.events; RETURN x;")).unwrap();
    for statement in [
        "SELECT * FROM tally.verify_rollup('steps')",
        "SELECT tally.rebuild_rollup('steps')",
        "SELECT tally.create_rollup('more', '{day}', ARRAY['count(*) AS n'], ARRAY['app.f(name) AS f'])",
        "SELECT tally.create_rollup('more', '{day}', ARRAY['count(*) AS n'], ARRAY['app.f(''x'') AS f'])",
        "SELECT tally.create_rollup('more', '{day}', ARRAY['count(*) AS n'], filter => 'app.f(name) = ''x''')",
    ] {
        for role in [scene.adm.clone(), "postgres".to_owned()] {
            let mut client =
                if role == "postgres" { scene.database.superuser() } else { scene.database.connect(&role) };
            let statement = format!("BEGIN; SELECT tally.enter_global(); {statement}");
            assert_eq!(
                refused(&mut client, &statement).map(|(code, _)| code),
                Some("42501".to_owned()),
                "{role}: {statement}"
            );
        }
    }
}

/// All kinds of measures over a function of somebody's agree with a recomputation.
#[test]
fn measures_over_somebodys_functions_are_right() {
    let mut scene = Scene::new("expr_measures");
    let mut adm = scene.as_adm();
    adm.batch_execute(
        "CREATE FUNCTION app.v(p jsonb) RETURNS int LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$ BEGIN RETURN (p->>'v')::int % 7; END $$;
         CREATE DOMAIN app.digit AS int CHECK (VALUE BETWEEN 0 AND 9);
         SELECT tally.create_rollup('all_kinds', '{hour,week}', dimensions => ARRAY['(app.v(properties) % 2)::int2 AS parity'],
           measures => ARRAY['count(app.v(properties)) AS n', 'sum(app.v(properties)) AS s', 'min(app.v(properties)::app.digit) AS lo',
             'max(app.v(properties)::text) AS hi', 'distinct(app.v(properties)) AS d', 'percentiles(app.v(properties)) AS p',
             'first(app.v(properties)) AS f', 'last(app.v(properties)::app.digit) AS l'],
           filter => 'app.v(properties) <> 3')",
    )
    .unwrap_or_else(|problem| panic!("{problem:?}"));
    let mut rw = scene.database.connect(&scene.rw);
    assert_eq!(ingest(&mut rw, &events(0..100, "n")).unwrap().accepted, 100);
    let text = json_array(
        [event(100, "n").replace(r#""v":100"#, r#""v":"many""#), event(101, "n")].iter().map(String::as_str),
    );
    let summary = ingest(&mut rw, &text).unwrap();
    assert_eq!((summary.accepted, summary.rejected), (1, 1));
    assert_right(&mut scene.admin, "all_kinds");
    fold_all(&mut scene.admin, "all_kinds");
    assert_right(&mut scene.admin, "all_kinds");
    let exact = number(
        &mut scene.admin,
        "SELECT sum((properties->>'v')::int % 7)::int8 FROM tally.events WHERE (properties->>'v')::int % 7 <> 3",
    );
    assert_eq!(number(&mut scene.admin, "SELECT sum(s)::int8 FROM tally.all_kinds_week"), exact);
    let of_domain = "SELECT count(*) FROM pg_attribute WHERE attrelid = 'tally.all_kinds_week_base'::regclass AND atttypid = 'app.digit'::regtype";
    assert_eq!(number(&mut scene.admin, of_domain), 0);
}

/// What SELECT would take besides an expression is refused, and what isn't whole without the parentheses around it.
#[test]
fn a_declaration_is_of_expressions_and_nothing_else() {
    let mut scene = Scene::new("expr_plain");
    let mut adm = scene.as_adm();
    let create = |dimension: &str, measure: &str, filter: &str| {
        format!(
            "SELECT tally.create_rollup('plain', '{{day}}', ARRAY[$m${measure}$m$], ARRAY[$d${dimension}$d$], filter => $f${filter}$f$)"
        )
    };
    let (dimension, measure, filter) = ("name AS x", "max(name) AS m", "name <> 'y'");
    for text in [
        "name INTO app.made",
        "name INTO TEMP made",
        "name AS x INTO UNLOGGED app.made",
        "name x INTO TABLE app.made",
        "name INTO app.made FROM tally.events UNION SELECT name",
        "name INTO app.made FROM tally.events UNION SELECT name FROM tally.events EXCEPT SELECT name",
        "name FROM tally.events --",
        "DISTINCT name",
        "DISTINCT ON (name) name",
        "ALL name",
        "all name AS x",
        "/* plain */ ALL\nname",
        "VARIADIC name",
        "*",
        "name; SELECT name",
        "name FOR UPDATE",
    ] {
        let code = refused(&mut adm, &create(text, measure, filter)).map(|(code, _)| code);
        assert_eq!(code.as_deref(), Some("42601"), "{text}");
    }
    for text in [
        "max(name INTO app.made) AS m",
        "sum(1 INTO made) AS m",
        "max(name x) AS m",
        "max(name AS x) AS m",
        "max(ALL name) AS m",
        "max(name) || (name) AS m",
        "max(name) FILTER (WHERE true) AS m",
    ] {
        let code = refused(&mut adm, &create(dimension, text, filter)).map(|(code, _)| code);
        assert_eq!(code.as_deref(), Some("42601"), "{text}");
    }
    for text in ["true INTO app.made", "true) INTO app.made --", "false) OR (true", "true AS x", "ALL true"] {
        let code = refused(&mut adm, &create(dimension, measure, text)).map(|(code, _)| code);
        assert_eq!(code.as_deref(), Some("42601"), "{text}");
    }
    // The server is there still, and takes what is plain.
    adm.batch_execute(&create(dimension, measure, filter)).unwrap();
    assert_eq!(ingest(&mut scene.admin, &events(0..3, "n")).unwrap().accepted, 3);
    assert_right(&mut scene.admin, "plain");
}

/// Whoever owns a type owns its casts: values of measures are shown, compared and merged without them.
#[test]
fn casts_of_somebodys_types_are_never_called() {
    let mut scene = Scene::new("expr_casts");
    let mut adm = scene.as_adm();
    adm.batch_execute(
        "CREATE TABLE app.seen (who name, how text); GRANT SELECT, INSERT ON app.seen TO PUBLIC;
         CREATE TYPE app.level AS ENUM ('low', 'high'); CREATE TYPE app.pair AS (x text, y int); CREATE TYPE app.span AS RANGE (subtype = int4);
         CREATE FUNCTION app.level_of(x text) RETURNS app.level LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp
           AS $$ BEGIN RETURN CASE x WHEN 'n' THEN 'low' ELSE 'high' END; END $$;
         CREATE FUNCTION app.pair_of(x text) RETURNS app.pair LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp
           AS $$ BEGIN RETURN ROW(x, 1); END $$;
         CREATE FUNCTION app.span_of(x text) RETURNS app.span LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp
           AS $$ BEGIN RETURN app.span(1, 3); END $$",
    )
    .unwrap();
    for (of, result) in
        [("level", "text"), ("level", "json"), ("level", "jsonb"), ("pair", "text"), ("span", "text")]
    {
        let how = if of == "level" { "" } else { "AS IMPLICIT" };
        adm.batch_execute(&format!(
            "CREATE FUNCTION app.{result}_of(x app.{of}) RETURNS {result} LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS
               $$ BEGIN INSERT INTO app.seen VALUES (current_user, '{of} as {result}'); RETURN '1'; END $$;
             CREATE CAST (app.{of} AS {result}) WITH FUNCTION app.{result}_of(app.{of}) {how}"
        ))
        .unwrap();
    }
    // A minimum of what has none would be one of what it is cast to, in a view that everybody reads.
    for measure in [
        "min(app.pair_of(name))",
        "max(app.pair_of(name))",
        "min(app.span_of(name))",
        "max(app.span_of(name))",
        "max(int4range(1, 3))",
    ] {
        let declared =
            format!("SELECT tally.create_rollup('casts', '{{day}}', ARRAY['{measure} AS m'], '{{name}}')");
        let code = refused(&mut adm, &declared).map(|(code, _)| code);
        assert_eq!(code.as_deref(), Some("42804"), "{measure}");
    }
    adm.batch_execute(
        "SELECT tally.create_rollup('levels', '{day,week}', dimensions => '{name}', measures => ARRAY['count(*) AS n',
           'min(app.level_of(name)) AS lo', 'max(app.level_of(name)) AS hi', 'first(app.level_of(name)) AS f', 'last(app.level_of(name)) AS l',
           'first(app.pair_of(name)) AS p', 'last(app.span_of(name)) AS s'])",
    )
    .unwrap_or_else(|problem| panic!("{problem:?}"));
    let mut rw = scene.database.connect(&scene.rw);
    assert_eq!(ingest(&mut rw, &events(0..20, "n")).unwrap().accepted, 20);
    fold_all(&mut scene.admin, "levels");
    assert_right(&mut scene.admin, "levels");
    scene
        .admin
        .batch_execute(
            "UPDATE tally.levels_day_base SET lo = 'high', hi = 'high', f = 'high', l = NULL, p = ROW('o', 2)::app.pair, s = '[5,6)'",
        )
        .unwrap();
    for mut client in [scene.database.superuser(), scene.as_adm()] {
        let found: BTreeSet<[String; 3]> = verify(&mut client, "levels")
            .iter()
            .map(|row| ["measure", "stored", "recomputed"].map(|column| row.get(column)))
            .collect();
        let wanted = [
            ["lo", "high", "low"],
            ["hi", "high", "low"],
            ["f", "high", "low"],
            ["l", "null", "low"],
            ["p", "(o,2)", "(n,1)"],
            ["s", "[5,6)", "[1,3)"],
        ];
        assert_eq!(found, wanted.map(|row| row.map(str::to_owned)).into());
        client
            .batch_execute(
                "BEGIN; SELECT tally.enter_global(); TABLE tally.levels_day; TABLE tally.levels_week; COMMIT",
            )
            .unwrap();
    }
    scene.admin.batch_execute("SELECT tally.rebuild_rollup('levels')").unwrap();
    assert_right(&mut scene.admin, "levels");
    // An implicit cast, made later, is no function that `min` could mean as well.
    for result in ["text", "int4"] {
        adm.batch_execute(&format!(
            "DROP CAST IF EXISTS (app.level AS {result});
             CREATE FUNCTION app.{result}_implied(x app.level) RETURNS {result} LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS
               $$ BEGIN INSERT INTO app.seen VALUES (current_user, 'implied'); RETURN '1'; END $$;
             CREATE CAST (app.level AS {result}) WITH FUNCTION app.{result}_implied(app.level) AS IMPLICIT"
        ))
        .unwrap();
    }
    assert_right(&mut scene.admin, "levels");
    adm.batch_execute("SELECT tally.alter_rollup('levels', ARRAY['max(app.level_of(account_id)) AS other'])")
        .unwrap_or_else(|problem| panic!("{problem:?}"));
    assert_right(&mut scene.admin, "levels");
    for view in ["levels_day", "levels_week"] {
        let shown = format!(
            "SELECT count(*) FROM tally.{view} WHERE num_nulls(lo, hi, other) = 0 AND concat(lo, hi, other) = 'lowlowhigh'"
        );
        assert_eq!(
            number(&mut scene.admin, &shown),
            number(&mut scene.admin, &format!("SELECT count(*) FROM tally.{view}"))
        );
    }
    // One that an earlier version let be declared is found.
    let declared = "SELECT detail FROM tally.lint() WHERE name = 'declared_code'";
    assert_eq!(scene.admin.query(declared, &[]).unwrap().len(), 0);
    for (column, kind) in [("p", "min"), ("s", "max")] {
        let earlier = format!(
            "UPDATE tally.rollup_column SET kind = '{kind}' WHERE rollup_name = 'levels' AND column_name = '{column}'"
        );
        scene.admin.batch_execute(&format!("BEGIN; {earlier}")).unwrap();
        let found = scene.admin.query(declared, &[]).unwrap();
        let details: Vec<String> = found.iter().map(|row| row.get(0)).collect();
        assert!(
            details.iter().any(|detail| detail.contains("whose casts its readers call")),
            "{column}: {details:?}"
        );
        scene.admin.batch_execute("ROLLBACK").unwrap();
    }
    let seen = "SELECT count(*) FROM app.seen";
    assert_eq!(number(&mut scene.admin, seen), 0, "called by somebody");
    // It would have told.
    adm.batch_execute("SELECT 'low'::app.level::text").unwrap();
    assert_eq!(number(&mut scene.admin, seen), 1);
}

/// What a table's owner leaves for the superuser who tries the table: each would make it superuser if it ran with his rights.
const OWNERS_CODE: &[&str] = &[
    "CREATE TRIGGER t BEFORE INSERT ON shop.orders FOR EACH STATEMENT EXECUTE FUNCTION shop.trg(); ALTER TABLE shop.orders ENABLE ALWAYS TRIGGER t",
    "CREATE TRIGGER t BEFORE DELETE ON shop.orders FOR EACH STATEMENT EXECUTE FUNCTION shop.trg(); ALTER TABLE shop.orders ENABLE ALWAYS TRIGGER t",
    "CREATE TRIGGER t AFTER UPDATE ON shop.orders FOR EACH STATEMENT EXECUTE FUNCTION shop.trg(); ALTER TABLE shop.orders ENABLE ALWAYS TRIGGER t",
    "CREATE CONSTRAINT TRIGGER t AFTER INSERT ON shop.orders DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION shop.trg()",
    "CREATE RULE r AS ON INSERT TO shop.orders DO ALSO SELECT shop.pwn()",
    "CREATE POLICY p ON shop.orders AS RESTRICTIVE USING (shop.pwn())",
    "ALTER TABLE shop.orders ADD CONSTRAINT c CHECK (shop.pwn()) NOT VALID",
    "CREATE INDEX ON shop.orders ((shop.pwn_of(item)))",
];

#[test]
fn trying_a_table_runs_its_owners_code_as_the_owner() {
    let mut database = Database::new("expr_tried");
    let owner = database.role("shopowner", &["tally_writer"]);
    let mut admin = database.superuser();
    admin
        .batch_execute(&format!(
            "CREATE TABLE public.seen (who text); GRANT ALL ON public.seen TO PUBLIC; CREATE SCHEMA shop AUTHORIZATION {owner}; SET ROLE {owner};
             CREATE TABLE shop.orders (tenant_id text NOT NULL, item text);
             SELECT tally.protect('shop.orders'); RESET ROLE;
             INSERT INTO shop.orders VALUES ('a', 'x'), ('b', 'y'); SET ROLE {owner};
             CREATE FUNCTION shop.pwn() RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN
               RAISE NOTICE 'ran as %', current_user;
               BEGIN PERFORM set_config('role', 'none', true); EXCEPTION WHEN OTHERS THEN NULL; END;
               BEGIN EXECUTE 'RESET SESSION AUTHORIZATION'; EXCEPTION WHEN OTHERS THEN NULL; END;
               IF (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) THEN EXECUTE 'ALTER ROLE {owner} SUPERUSER'; END IF;
               RETURN true; END $$;
             CREATE FUNCTION shop.pwn_of(x text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN shop.pwn(); END';
             CREATE FUNCTION shop.trg() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM shop.pwn(); RETURN NEW; END'"
        ))
        .unwrap();
    let is_superuser = |admin: &mut Client| {
        number(admin, &format!("SELECT count(*) FROM pg_roles WHERE rolname = '{owner}' AND rolsuper")) > 0
    };
    let mut plain = database.superuser();
    plain
        .batch_execute("SELECT tally.assert_isolated('shop.orders', 'a', 'b')")
        .unwrap_or_else(|problem| panic!("{problem:?}"));
    for code in OWNERS_CODE {
        admin
            .batch_execute(&format!("RESET ROLE; BEGIN; SET LOCAL ROLE {owner}; {code}; COMMIT"))
            .unwrap_or_else(|problem| panic!("{code}: {problem:?}"));
        let notices = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
        let heard = notices.clone();
        let mut config = database.config("postgres");
        config.notice_callback(move |notice| heard.lock().unwrap().push(notice.message().to_owned()));
        let mut superuser = config.connect(postgres::NoTls).unwrap();
        // Whether the table passes is the policies' matter; that the owner's code ran, and as whom, is this test's.
        let passed = superuser.batch_execute("SELECT tally.assert_isolated('shop.orders', 'a', 'b')");
        assert!(!is_superuser(&mut admin), "{code}");
        let ran: Vec<String> =
            notices.lock().unwrap().iter().filter(|notice| notice.starts_with("ran as")).cloned().collect();
        assert!(ran.iter().all(|notice| *notice == format!("ran as {owner}")), "{code}: {ran:?}");
        // The others' turn comes with rows that were written, and the policies let none be.
        let runs = code.contains(" BEFORE ") || code.contains("POLICY");
        assert!(!runs || !ran.is_empty(), "{code} did not run: {passed:?}");
        admin.batch_execute(&format!("BEGIN; SET LOCAL ROLE {owner}; DROP TRIGGER IF EXISTS t ON shop.orders; DROP RULE IF EXISTS r ON shop.orders;
            DROP POLICY IF EXISTS p ON shop.orders; ALTER TABLE shop.orders DROP CONSTRAINT IF EXISTS c; COMMIT")).unwrap();
    }
    // The code is as dangerous as it looks: SET ROLE alone doesn't hold it.
    admin.batch_execute(&format!("BEGIN; SET LOCAL ROLE {owner}; SELECT shop.pwn(); RESET ROLE")).unwrap();
    assert!(is_superuser(&mut admin));
    admin.batch_execute("ROLLBACK").unwrap();
    // Nobody but a superuser tries anything.
    let reader = database.role("reader", &["tally_admin"]);
    for statement in [
        "SELECT tally_internal.try_as_owner('shop.orders', 'a', 'SELECT 1')",
        "SELECT tally.assert_isolated('shop.orders', 'a', 'b')",
    ] {
        assert_eq!(
            refused(&mut database.connect(&reader), statement).map(|(code, _)| code),
            Some("42501".to_owned())
        );
    }
}

/// What a superuser adds to the events' table is evaluated by whoever ingests, too.
#[test]
fn what_was_added_to_the_events_is_evaluated_by_nobody() {
    for added in [
        "ADD COLUMN low text GENERATED ALWAYS AS (app.f(name)) STORED",
        "ADD COLUMN low text DEFAULT app.f('n')",
        "ADD CONSTRAINT low CHECK (app.f(name) <> '')",
        "an index: app.f(name)",
        "an index: (name || app.f('n'))",
    ] {
        let mut scene = Scene::new("expr_added");
        let mut adm = scene.as_adm();
        adm.batch_execute(&function("RETURN x;")).unwrap();
        if added.starts_with("ADD") {
            scene.admin.batch_execute(&format!("ALTER TABLE tally.events {added}")).unwrap();
        } else {
            let expression = added.trim_start_matches("an index: ");
            let index = format!("CREATE INDEX own ON tally.events (tenant_id, {expression})");
            scene.admin.batch_execute(&index).unwrap();
        }
        adm.batch_execute(&function(&format!(
            "IF (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) THEN ALTER ROLE {} SUPERUSER; END IF; RETURN current_user;",
            scene.adm
        )))
        .unwrap();
        for (number, role) in [scene.rw.clone(), "postgres".to_owned()].into_iter().enumerate() {
            let mut client =
                if role == "postgres" { scene.database.superuser() } else { scene.database.connect(&role) };
            let sent = ingest(&mut client, &event(number, "n"))
                .unwrap_or_else(|problem| panic!("{added}: {role}: {problem:?}"));
            assert_eq!(sent.accepted, 1, "{added}: {role}: {sent:?}");
        }
        assert!(!scene.is_superuser(), "{added}");
        if added.contains("COLUMN") {
            let by_nobody = "SELECT count(*) FROM tally.events WHERE low = 'tally_evaluator'";
            assert_eq!(number(&mut scene.admin, by_nobody), 2, "{added}");
        }
        adm.batch_execute(&function("PERFORM pg_advisory_lock(1); RETURN x;")).unwrap();
        let mut client = scene.database.superuser();
        let _ = ingest(&mut client, &event(7, "n"));
        let locks = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objsubid < 3 AND pid = pg_backend_pid()";
        assert_eq!(number(&mut client, locks), 0, "{added}");
        // Nor does it see or move what the session has open.
        adm.batch_execute(&function("DECLARE c refcursor := 'held'; BEGIN CLOSE c; RETURN x; END;")).unwrap();
        client.batch_execute("DECLARE held CURSOR WITH HOLD FOR SELECT 1").unwrap();
        let _ = ingest(&mut client, &event(8, "n"));
        assert_eq!(number(&mut client, "SELECT count(*) FROM pg_cursors WHERE name = 'held'"), 1, "{added}");
    }
}

/// Rows of a call are completed together: each has its own values, and one that a constraint refuses is refused alone. The code is
/// nobody's, but for what can only compute.
#[test]
fn rows_of_a_batch_are_completed_together() {
    let mut scene = Scene::new("expr_batch");
    let mut adm = scene.as_adm();
    adm.batch_execute(&function("RETURN x || current_user;")).unwrap();
    scene
        .admin
        .batch_execute(
            "CREATE SEQUENCE app.numbers; GRANT USAGE ON SEQUENCE app.numbers TO PUBLIC;
             ALTER TABLE tally.events ADD COLUMN own text DEFAULT app.f('own '), ADD COLUMN place int8 DEFAULT nextval('app.numbers'),
               ADD COLUMN kept text DEFAULT upper('kept'), ADD COLUMN at timestamptz NOT NULL DEFAULT now(), ADD COLUMN who name DEFAULT current_user,
               ADD COLUMN v numeric GENERATED ALWAYS AS ((properties->>'v')::numeric) STORED,
               ADD COLUMN low text GENERATED ALWAYS AS (app.f(name)) STORED, ADD CHECK (name <> 'bad'), ADD CONSTRAINT of_f CHECK (app.f(name) <> 'worse');
             CREATE INDEX own_f ON tally.events (tenant_id, app.f(name)); CREATE INDEX own_lower ON tally.events (tenant_id, lower(name)) WHERE account_id <> 'y'",
        )
        .unwrap();
    let mut writer = scene.database.connect(&scene.rw);
    let sent = ingest(&mut writer, &events(0..1_500, "n")).unwrap();
    assert_eq!((sent.accepted, sent.rejected), (1_500, 0), "{:?}", sent.details);
    let mixed = json_array(
        [event(2_000, "good"), event(2_001, "bad"), event(2_002, "fine")].iter().map(String::as_str),
    );
    let sent = ingest(&mut writer, &mixed).unwrap();
    assert_eq!((sent.accepted, sent.rejected), (2, 1), "{:?}", sent.details);
    let right = "SELECT count(*) FROM tally.events WHERE own = 'own tally_evaluator' AND kept = 'KEPT' AND at <= now() AND who = 'tally_evaluator'
                   AND v = (properties->>'v')::numeric AND low = name || 'tally_evaluator'";
    assert_eq!(number(&mut scene.admin, right), 1_502);
    assert_eq!(number(&mut scene.admin, "SELECT count(DISTINCT place) FROM tally.events"), 1_502);
    scene.admin.batch_execute("SET enable_seqscan = off").unwrap();
    let indexed =
        "SELECT count(*) FROM tally.events WHERE tenant_id = 'a' AND lower(name) = 'n' AND account_id <> 'y'";
    assert_eq!(number(&mut scene.admin, indexed), 1_500);
    // A replaced function is guarded as the one before, also where the session knew another.
    adm.batch_execute(&function("PERFORM pg_advisory_lock(1); RETURN x;")).unwrap();
    let _ = ingest(&mut writer, &event(3_000, "n"));
    let locks = "SELECT count(*) FROM pg_locks AS l JOIN pg_database AS d ON d.oid = l.database
                  WHERE d.datname = current_database() AND l.locktype = 'advisory' AND l.objid = 1 AND l.objsubid = 1";
    assert_eq!(number(&mut scene.admin, locks), 0);
    scene
        .admin
        .batch_execute("DROP INDEX tally.own_f; ALTER TABLE tally.events DROP COLUMN own, DROP COLUMN low, DROP CONSTRAINT of_f")
        .unwrap_or_else(|problem| panic!("{problem:?}"));
    assert_eq!(ingest(&mut writer, &event(3_001, "n")).unwrap().accepted, 1);
}
