//! What an approved export is bound to: every object of the catalogue that its answer hangs on, before it runs and while it does.

use super::export::{NOT_SO, Scene, TAKEN, approve, request, run};
use tally_server_tests::{code, number};

/// Who makes and changes something.
#[derive(Clone, Copy, PartialEq)]
enum By {
    Requester,
    Owner,
    Admin,
}

/// What is made, what is requested of it, and what is changed before it runs.
struct Case(By, &'static str, &'static str, &'static str);

/// Objects by the catalogue that they are in. A dollar sign stands for the requester.
const VOIDING: &[Case] = &[
    // Composite types, and whatever has such rows.
    Case(
        By::Requester,
        "CREATE TYPE shop.added AS (account_id text)",
        "SELECT jsonb_populate_record(NULL::shop.added, to_jsonb(e)) AS r",
        "ALTER TYPE shop.added ADD ATTRIBUTE user_id text, ADD ATTRIBUTE properties jsonb",
    ),
    Case(
        By::Requester,
        "CREATE TYPE shop.renamed AS (account_id text, name text)",
        "SELECT jsonb_populate_record(NULL::shop.renamed, to_jsonb(e)) AS r",
        "ALTER TYPE shop.renamed RENAME ATTRIBUTE name TO user_id",
    ),
    Case(
        By::Requester,
        "CREATE TYPE shop.typed AS (account_id text, user_id boolean)",
        "SELECT jsonb_populate_record(NULL::shop.typed, to_jsonb(e) - 'user_id') AS r",
        "ALTER TYPE shop.typed ALTER ATTRIBUTE user_id TYPE text",
    ),
    Case(
        By::Requester,
        "CREATE TYPE shop.back AS (account_id text)",
        "SELECT jsonb_populate_record(NULL::shop.back, to_jsonb(e)) AS r",
        "ALTER TYPE shop.back ADD ATTRIBUTE user_id text; ALTER TYPE shop.back DROP ATTRIBUTE user_id",
    ),
    Case(
        By::Requester,
        "CREATE TABLE shop.row_table (account_id text)",
        "SELECT jsonb_populate_record(NULL::shop.row_table, to_jsonb(e)) AS r",
        "ALTER TABLE shop.row_table ADD user_id text",
    ),
    Case(
        By::Requester,
        "CREATE VIEW shop.row_view AS SELECT 'x'::text AS account_id",
        "SELECT jsonb_populate_record(NULL::shop.row_view, to_jsonb(e)) AS r",
        "CREATE OR REPLACE VIEW shop.row_view AS SELECT 'x'::text AS account_id, 'y'::text AS user_id",
    ),
    Case(
        By::Requester,
        "CREATE TYPE shop.beneath AS (account_id text); CREATE DOMAIN shop.over AS shop.beneath",
        "SELECT jsonb_populate_record(NULL::shop.over, to_jsonb(e)) AS r",
        "ALTER TYPE shop.beneath ADD ATTRIBUTE user_id text",
    ),
    Case(
        By::Requester,
        "CREATE TYPE shop.inside AS (account_id text); CREATE TYPE shop.outside AS (a shop.inside[])",
        "SELECT jsonb_populate_record(NULL::shop.outside, jsonb_build_object('a', jsonb_build_array(to_jsonb(e)))) AS r",
        "ALTER TYPE shop.inside ADD ATTRIBUTE user_id text",
    ),
    Case(
        By::Requester,
        "CREATE TYPE shop.of_column AS (account_id text)",
        "SELECT (SELECT x.a FROM jsonb_to_record(jsonb_build_object('a', to_jsonb(e))) AS x (a shop.of_column)) AS a",
        "ALTER TYPE shop.of_column ADD ATTRIBUTE user_id text",
    ),
    Case(
        By::Requester,
        "CREATE TYPE shop.of_body AS (account_id text);
         CREATE FUNCTION shop.body(e jsonb) RETURNS jsonb LANGUAGE sql STABLE BEGIN ATOMIC SELECT to_jsonb(jsonb_populate_record(NULL::shop.of_body, e)); END",
        "SELECT shop.body(to_jsonb(e)) AS r",
        "ALTER TYPE shop.of_body ADD ATTRIBUTE user_id text",
    ),
    Case(
        By::Requester,
        "CREATE TYPE shop.result AS (a int, b int);
         CREATE FUNCTION shop.pair() RETURNS shop.result LANGUAGE sql IMMUTABLE BEGIN ATOMIC SELECT ROW(1, 2)::shop.result; END",
        "SELECT shop.pair() AS r",
        "ALTER TYPE shop.result RENAME ATTRIBUTE a TO x; ALTER TYPE shop.result RENAME ATTRIBUTE b TO a; ALTER TYPE shop.result RENAME ATTRIBUTE x TO b",
    ),
    // Domains and enumerations.
    Case(
        By::Requester,
        "CREATE DOMAIN shop.checked AS text CONSTRAINT few CHECK (VALUE = 'x0')",
        "SELECT account_id::shop.checked AS a",
        "ALTER DOMAIN shop.checked DROP CONSTRAINT few",
    ),
    Case(
        By::Requester,
        "CREATE FUNCTION shop.is_few(a text) RETURNS boolean LANGUAGE sql IMMUTABLE BEGIN ATOMIC SELECT a = 'x0'; END;
         CREATE DOMAIN shop.by_function AS text CHECK (shop.is_few(VALUE))",
        "SELECT account_id::shop.by_function AS a",
        "CREATE OR REPLACE FUNCTION shop.is_few(a text) RETURNS boolean LANGUAGE sql IMMUTABLE BEGIN ATOMIC SELECT true; END",
    ),
    Case(
        By::Requester,
        "CREATE TYPE shop.label AS ENUM ('x0', 'x2')",
        "SELECT account_id::shop.label AS a",
        "ALTER TYPE shop.label ADD VALUE 'x1'",
    ),
    Case(
        By::Requester,
        "CREATE TYPE shop.order AS ENUM ('x0', 'x1', 'x2')",
        "SELECT max(account_id::shop.order) AS a",
        "ALTER TYPE shop.order RENAME VALUE 'x0' TO 'x'; ALTER TYPE shop.order RENAME VALUE 'x' TO 'x0'",
    ),
    // Functions, aggregates, operators, casts and ranges.
    Case(
        By::Requester,
        "CREATE FUNCTION shop.step(n int, e text) RETURNS int LANGUAGE sql IMMUTABLE BEGIN ATOMIC SELECT n + 1; END;
         CREATE AGGREGATE shop.steps(text) (SFUNC = shop.step, STYPE = int, INITCOND = '0')",
        "SELECT shop.steps(account_id) AS a",
        "CREATE OR REPLACE AGGREGATE shop.steps(text) (SFUNC = shop.step, STYPE = int, INITCOND = '5')",
    ),
    Case(
        By::Requester,
        "CREATE FUNCTION shop.other_step(n int, e text) RETURNS int LANGUAGE sql IMMUTABLE BEGIN ATOMIC SELECT n + 1; END;
         CREATE AGGREGATE shop.other_steps(text) (SFUNC = shop.other_step, STYPE = int, INITCOND = '0')",
        "SELECT shop.other_steps(account_id) AS a",
        "CREATE OR REPLACE FUNCTION shop.other_step(n int, e text) RETURNS int LANGUAGE sql IMMUTABLE BEGIN ATOMIC SELECT n + 2; END",
    ),
    Case(
        By::Requester,
        "CREATE FUNCTION shop.same(a text, b text) RETURNS boolean LANGUAGE sql IMMUTABLE BEGIN ATOMIC SELECT a = b; END;
         CREATE OPERATOR shop.=== (LEFTARG = text, RIGHTARG = text, FUNCTION = shop.same);
         CREATE VIEW shop.by_operator AS SELECT n FROM shop.note WHERE body OPERATOR(shop.===) 'x'; GRANT SELECT ON shop.by_operator TO PUBLIC",
        "SELECT (SELECT count(*) FROM shop.by_operator) AS n",
        "CREATE OR REPLACE FUNCTION shop.same(a text, b text) RETURNS boolean LANGUAGE sql IMMUTABLE BEGIN ATOMIC SELECT true; END",
    ),
    Case(
        By::Admin,
        "CREATE TYPE shop.sorted AS (a text);
         CREATE FUNCTION shop.lt(a shop.sorted, b shop.sorted) RETURNS boolean LANGUAGE sql IMMUTABLE BEGIN ATOMIC SELECT a.a < b.a; END;
         CREATE FUNCTION shop.le(a shop.sorted, b shop.sorted) RETURNS boolean LANGUAGE sql IMMUTABLE BEGIN ATOMIC SELECT a.a <= b.a; END;
         CREATE FUNCTION shop.eq(a shop.sorted, b shop.sorted) RETURNS boolean LANGUAGE sql IMMUTABLE BEGIN ATOMIC SELECT a.a = b.a; END;
         CREATE FUNCTION shop.ge(a shop.sorted, b shop.sorted) RETURNS boolean LANGUAGE sql IMMUTABLE BEGIN ATOMIC SELECT a.a >= b.a; END;
         CREATE FUNCTION shop.gt(a shop.sorted, b shop.sorted) RETURNS boolean LANGUAGE sql IMMUTABLE BEGIN ATOMIC SELECT a.a > b.a; END;
         CREATE FUNCTION shop.compare(a shop.sorted, b shop.sorted) RETURNS int LANGUAGE sql IMMUTABLE BEGIN ATOMIC SELECT CASE WHEN a.a < b.a THEN -1 WHEN a.a = b.a THEN 0 ELSE 1 END; END;
         CREATE OPERATOR shop.< (LEFTARG = shop.sorted, RIGHTARG = shop.sorted, FUNCTION = shop.lt);
         CREATE OPERATOR shop.<= (LEFTARG = shop.sorted, RIGHTARG = shop.sorted, FUNCTION = shop.le);
         CREATE OPERATOR shop.= (LEFTARG = shop.sorted, RIGHTARG = shop.sorted, FUNCTION = shop.eq);
         CREATE OPERATOR shop.>= (LEFTARG = shop.sorted, RIGHTARG = shop.sorted, FUNCTION = shop.ge);
         CREATE OPERATOR shop.> (LEFTARG = shop.sorted, RIGHTARG = shop.sorted, FUNCTION = shop.gt);
         CREATE OPERATOR CLASS shop.sorted_ops DEFAULT FOR TYPE shop.sorted USING btree AS
           OPERATOR 1 shop.<, OPERATOR 2 shop.<=, OPERATOR 3 shop.=, OPERATOR 4 shop.>=, OPERATOR 5 shop.>, FUNCTION 1 shop.compare(shop.sorted, shop.sorted)",
        "SELECT DISTINCT ROW(e.account_id)::shop.sorted AS a FROM tally.events AS e ORDER BY a",
        "CREATE OR REPLACE FUNCTION shop.compare(a shop.sorted, b shop.sorted) RETURNS int LANGUAGE sql IMMUTABLE BEGIN ATOMIC SELECT 1; END",
    ),
    Case(
        By::Admin,
        "CREATE TYPE shop.greatest AS (a text);
         CREATE OPERATOR FAMILY shop.greatest_ops USING btree;
         CREATE FUNCTION shop.greatest_compare(a shop.greatest, b shop.greatest) RETURNS int LANGUAGE sql IMMUTABLE BEGIN ATOMIC SELECT CASE WHEN a.a < b.a THEN -1 WHEN a.a = b.a THEN 0 ELSE 1 END; END;
         CREATE OPERATOR CLASS shop.greatest_ops DEFAULT FOR TYPE shop.greatest USING btree FAMILY shop.greatest_ops AS FUNCTION 1 shop.greatest_compare(shop.greatest, shop.greatest)",
        "SELECT ARRAY[ROW(e.account_id)::shop.greatest] AS a",
        "CREATE OR REPLACE FUNCTION shop.greatest_compare(a shop.greatest, b shop.greatest) RETURNS int LANGUAGE sql IMMUTABLE BEGIN ATOMIC SELECT 1; END",
    ),
    Case(
        By::Requester,
        "CREATE TYPE shop.cast_from AS (a text);
         CREATE FUNCTION shop.as_text(a shop.cast_from) RETURNS text LANGUAGE sql IMMUTABLE BEGIN ATOMIC SELECT left(a.a, 1); END;
         CREATE CAST (shop.cast_from AS text) WITH FUNCTION shop.as_text(shop.cast_from)",
        "SELECT ROW(user_id)::shop.cast_from::text AS a",
        "CREATE OR REPLACE FUNCTION shop.as_text(a shop.cast_from) RETURNS text LANGUAGE sql IMMUTABLE BEGIN ATOMIC SELECT a.a; END",
    ),
    Case(
        By::Requester,
        "CREATE TYPE shop.io AS (a text)",
        "SELECT ROW(user_id)::shop.io::text AS a",
        "CREATE FUNCTION shop.io_text(a shop.io) RETURNS text LANGUAGE sql IMMUTABLE BEGIN ATOMIC SELECT 'all'::text; END;
         CREATE CAST (shop.io AS text) WITH FUNCTION shop.io_text(shop.io)",
    ),
    Case(
        By::Requester,
        "CREATE FUNCTION shop.apart(a text, b text) RETURNS float8 LANGUAGE sql IMMUTABLE BEGIN ATOMIC SELECT 1.0::float8; END;
         CREATE TYPE shop.span AS RANGE (SUBTYPE = text, SUBTYPE_DIFF = shop.apart)",
        "SELECT shop.span(account_id, 'y') AS a",
        "CREATE OR REPLACE FUNCTION shop.apart(a text, b text) RETURNS float8 LANGUAGE sql IMMUTABLE BEGIN ATOMIC SELECT 2.0::float8; END",
    ),
    Case(
        By::Requester,
        "CREATE COLLATION shop.order (PROVIDER = icu, LOCALE = 'de')",
        "SELECT max(account_id COLLATE shop.order) AS a",
        "ALTER COLLATION shop.order RENAME TO other; CREATE COLLATION shop.order (PROVIDER = icu, LOCALE = 'sv')",
    ),
    // What a function reads, which the query's own tree doesn't show.
    Case(
        By::Owner,
        "CREATE FUNCTION shop.notes() RETURNS bigint LANGUAGE sql STABLE BEGIN ATOMIC SELECT count(*) FROM shop.note; END",
        "SELECT shop.notes() AS n",
        "CREATE POLICY more ON shop.note USING (false)",
    ),
    Case(
        By::Owner,
        "CREATE VIEW shop.inner_view AS SELECT n FROM shop.note WHERE n < 5; GRANT SELECT ON shop.inner_view TO PUBLIC;
         CREATE FUNCTION shop.of_view() RETURNS bigint LANGUAGE sql STABLE BEGIN ATOMIC SELECT count(*) FROM shop.inner_view; END",
        "SELECT shop.of_view() AS n",
        "CREATE OR REPLACE VIEW shop.inner_view AS SELECT n FROM shop.note",
    ),
    Case(
        By::Admin,
        "CREATE ROLE \"$ manager\"; CREATE TABLE shop.secret (n int); INSERT INTO shop.secret VALUES (1); GRANT SELECT ON shop.secret TO PUBLIC;
         ALTER TABLE shop.secret ENABLE ROW LEVEL SECURITY; CREATE POLICY managers ON shop.secret TO \"$ manager\" USING (true);
         CREATE FUNCTION shop.secrets() RETURNS bigint LANGUAGE sql STABLE BEGIN ATOMIC SELECT count(*) FROM shop.secret; END",
        "SELECT shop.secrets() AS n",
        "GRANT \"$ manager\" TO \"$\"",
    ),
    Case(
        By::Admin,
        "",
        "SELECT shop.secrets() AS n",
        "REVOKE \"$ manager\" FROM \"$\"; DROP POLICY managers ON shop.secret; CREATE POLICY managers ON shop.secret TO \"$ manager\" USING (true)",
    ),
    Case(
        By::Owner,
        "CREATE TABLE shop.computed (n int, m int GENERATED ALWAYS AS (n + 1) STORED); GRANT SELECT ON shop.computed TO PUBLIC;
         CREATE FUNCTION shop.sum() RETURNS bigint LANGUAGE sql STABLE BEGIN ATOMIC SELECT sum(m) FROM shop.computed; END",
        "SELECT shop.sum() AS n",
        "ALTER TABLE shop.computed ALTER m DROP EXPRESSION",
    ),
    // Foreign tables, and what they reach through.
    Case(
        By::Admin,
        "CREATE EXTENSION file_fdw;
         CREATE FOREIGN DATA WRAPPER files HANDLER file_fdw_handler OPTIONS (\"null\" 'a'); CREATE SERVER disk FOREIGN DATA WRAPPER files OPTIONS (format 'text');
         CREATE USER MAPPING FOR PUBLIC SERVER disk OPTIONS (password 'a');
         CREATE FOREIGN TABLE shop.file (line text) SERVER disk OPTIONS (filename 'PG_VERSION'); GRANT SELECT ON shop.file TO PUBLIC",
        "SELECT line FROM shop.file",
        "ALTER FOREIGN TABLE shop.file OPTIONS (SET filename 'postmaster.opts')",
    ),
    Case(By::Admin, "", "SELECT line FROM shop.file", "ALTER SERVER disk OPTIONS (SET format 'csv')"),
    Case(By::Admin, "", "SELECT line FROM shop.file", "ALTER FOREIGN TABLE shop.file ALTER line OPTIONS (force_null 'true')"),
    Case(By::Admin, "", "SELECT line FROM shop.file", "ALTER FOREIGN DATA WRAPPER files OPTIONS (SET \"null\" 'b')"),
    Case(By::Admin, "", "SELECT line FROM shop.file", "ALTER USER MAPPING FOR PUBLIC SERVER disk OPTIONS (SET password 'b')"),
    Case(By::Admin, "", "SELECT line FROM shop.file", "CREATE USER MAPPING FOR \"$\" SERVER disk"),
    Case(
        By::Admin,
        "CREATE FUNCTION shop.of_file() RETURNS bigint LANGUAGE sql STABLE BEGIN ATOMIC SELECT count(*) FROM shop.file; END",
        "SELECT shop.of_file() AS n",
        "ALTER FOREIGN TABLE shop.file OPTIONS (SET filename 'PG_VERSION')",
    ),
    Case(
        By::Admin,
        "CREATE TABLE shop.parts (line text) PARTITION BY LIST (line); GRANT SELECT ON shop.parts TO PUBLIC;
         CREATE FOREIGN TABLE shop.of_parts PARTITION OF shop.parts DEFAULT SERVER disk OPTIONS (filename 'PG_VERSION')",
        "SELECT line FROM shop.parts",
        "ALTER FOREIGN TABLE shop.of_parts OPTIONS (SET filename 'postmaster.opts')",
    ),
];

/// The same, of what Postgres has from 17 on: a type that nothing but a JSON expression names.
const VOIDING_FROM_17: &[Case] = &[Case(
    By::Requester,
    "CREATE TYPE shop.said AS ENUM ('x0', 'x1', 'x2')",
    "SELECT JSON_VALUE(to_jsonb(account_id), '$' RETURNING shop.said ERROR ON EMPTY ERROR ON ERROR)::text AS a",
    "ALTER TYPE shop.said RENAME VALUE 'x0' TO 'x'; ALTER TYPE shop.said RENAME VALUE 'x' TO 'x0'",
)];

#[test]
fn whatever_an_answer_hangs_on_voids_its_approval_when_it_changes() {
    let scene = Scene::new("export_basis");
    let mut admin = scene.database.superuser();
    let mut client = scene.database.connect(&scene.requester);
    let mut failures = Vec::new();
    let is_17 = number(&mut admin, "SELECT current_setting('server_version_num')::int8 / 10000") >= 17;
    let late = if is_17 { VOIDING_FROM_17 } else { &[] };
    for Case(by, made, query, change) in VOIDING.iter().chain(late) {
        let told = |statement: &str| {
            let statement = statement.replace('$', &scene.requester);
            if *by == By::Owner {
                format!("SET ROLE {}; {statement}; RESET ROLE", scene.owner)
            } else {
                statement
            }
        };
        let query = if query.contains("FROM") && !query.starts_with("SELECT (SELECT") {
            (*query).to_owned()
        } else {
            format!("{query} FROM tally.events AS e")
        };
        let mut by = |statement: &str| {
            let client = if *by == By::Requester { &mut client } else { &mut admin };
            client.batch_execute(&told(statement)).unwrap_or_else(|error| panic!("{statement}: {error:?}"));
        };
        by(made);
        let mut client = scene.database.connect(&scene.requester);
        let id = scene.approved(&mut client, &query, 50_000);
        by(change);
        let outcome = code(run(&mut client, &id));
        if (outcome.as_str(), scene.state(&id).as_str()) != (NOT_SO, "void") {
            failures.push(format!("{outcome} {}: {query}: {change}", scene.state(&id)));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    // Within one transaction, whose number every version of a definition has.
    for (made, query, change) in [
        (
            "CREATE FUNCTION shop.nothing(a text) RETURNS int LANGUAGE sql IMMUTABLE BEGIN ATOMIC SELECT 1; END",
            "SELECT shop.nothing(NULL) AS n",
            "ALTER FUNCTION shop.nothing(text) STRICT",
        ),
        (
            "CREATE AGGREGATE shop.at_once(int) (SFUNC = int4larger, STYPE = int, INITCOND = '0')",
            "SELECT shop.at_once(n) AS n FROM shop.few",
            "CREATE OR REPLACE AGGREGATE shop.at_once(int) (SFUNC = int4larger, STYPE = int, INITCOND = '5')",
        ),
        (
            "CREATE TYPE shop.two AS (a text, b text)",
            "SELECT jsonb_populate_record(NULL::shop.two, '{\"user_id\": 1}') AS n",
            "ALTER TYPE shop.two RENAME ATTRIBUTE b TO user_id",
        ),
    ] {
        let mut transaction = client.transaction().unwrap();
        transaction.batch_execute(made).unwrap();
        let id = request(&mut transaction, query, 10).unwrap();
        transaction.batch_execute(change).unwrap();
        transaction.commit().unwrap();
        assert_eq!(approve(&mut scene.approver(0), &id), TAKEN);
        assert_eq!(
            (code(run(&mut client, &id)).as_str(), scene.state(&id).as_str()),
            (NOT_SO, "void"),
            "{change}"
        );
    }
}

/// What is somebody else's, or no part of any answer, leaves an approval as it is.
#[test]
fn what_an_answer_does_not_hang_on_leaves_its_approval() {
    let mut scene = Scene::new("export_basis_else");
    let other = scene.database.role("other", &[]);
    let mut admin = scene.database.superuser();
    admin
        .batch_execute(&format!(
            "CREATE EXTENSION file_fdw; CREATE FOREIGN DATA WRAPPER files HANDLER file_fdw_handler; CREATE SERVER disk FOREIGN DATA WRAPPER files; CREATE USER MAPPING FOR PUBLIC SERVER disk;
             CREATE FOREIGN TABLE shop.file (line text) SERVER disk OPTIONS (filename 'PG_VERSION'); GRANT SELECT ON shop.file TO PUBLIC;
             CREATE FOREIGN TABLE shop.own_file (line text) SERVER disk OPTIONS (filename 'PG_VERSION'); ALTER FOREIGN TABLE shop.own_file OWNER TO {0};
             CREATE VIEW shop.over_file AS SELECT line FROM shop.own_file; ALTER VIEW shop.over_file OWNER TO {0}; GRANT SELECT ON shop.over_file TO PUBLIC",
            scene.owner
        ))
        .unwrap();
    let mut client = scene.database.connect(&scene.requester);
    for (query, change, outcome) in [
        ("SELECT line FROM shop.file", "CREATE USER MAPPING FOR @ SERVER disk", TAKEN),
        ("SELECT line FROM shop.file", "ALTER USER MAPPING FOR @ SERVER disk OPTIONS (password 'b')", TAKEN),
        ("SELECT line FROM shop.file", "DROP USER MAPPING FOR @ SERVER disk", TAKEN),
        (
            "SELECT line FROM shop.file",
            "GRANT SELECT ON shop.file TO @; COMMENT ON COLUMN shop.file.line IS 'a line'",
            TAKEN,
        ),
        ("SELECT line FROM shop.over_file", "CREATE USER MAPPING FOR @ SERVER disk", TAKEN),
        ("SELECT line FROM shop.over_file", "CREATE USER MAPPING FOR # SERVER disk", NOT_SO),
        (
            "SELECT line FROM shop.over_file",
            "ALTER USER MAPPING FOR # SERVER disk OPTIONS (password 'b')",
            NOT_SO,
        ),
        ("SELECT line FROM shop.over_file", "CREATE USER MAPPING FOR $ SERVER disk", NOT_SO),
        (
            "SELECT line FROM shop.over_file",
            "ALTER USER MAPPING FOR PUBLIC SERVER disk OPTIONS (password 'b')",
            NOT_SO,
        ),
    ] {
        let id = scene.approved(&mut client, query, 50_000);
        let change = change.replace('@', &other).replace('$', &scene.requester).replace('#', &scene.owner);
        admin.batch_execute(&change).unwrap_or_else(|error| panic!("{change}: {error:?}"));
        assert_eq!(code(run(&mut client, &id)), outcome, "{query}: {change}");
    }
    admin.batch_execute("DROP SERVER disk CASCADE").unwrap();
}

#[test]
fn nothing_that_an_answer_hangs_on_changes_while_it_runs() {
    let scene = Scene::new("export_basis_runs");
    let mut admin = scene.database.superuser();
    let mut client = scene.database.connect(&scene.requester);
    admin
        .batch_execute(&format!(
            "CREATE ROLE \"{name} manager\";
             CREATE TYPE shop.row AS (body text);
             CREATE TYPE shop.label AS ENUM ('note');
             CREATE VIEW shop.late_view AS SELECT body FROM shop.note WHERE n < 5;
             CREATE TABLE shop.secret (n int); ALTER TABLE shop.secret ENABLE ROW LEVEL SECURITY; CREATE POLICY managers ON shop.secret TO \"{name} manager\" USING (true);
             GRANT SELECT ON shop.late_view, shop.secret TO PUBLIC;
             CREATE FUNCTION shop.late(n int) RETURNS bigint LANGUAGE sql STABLE SET work_mem = '4MB' BEGIN ATOMIC SELECT count(*) FROM shop.late_view; END;
             CREATE FUNCTION shop.secrets(n int) RETURNS bigint LANGUAGE sql STABLE SET work_mem = '4MB' BEGIN ATOMIC SELECT count(*) FROM shop.secret; END",
            name = scene.database.name()
        ))
        .unwrap();
    let row = r#"jsonb_populate_record(NULL::shop.row, '{"body": "note"}')"#;
    for (value, change, outcome) in [
        (row, "ALTER TYPE shop.row ADD ATTRIBUTE tenant_id text", NOT_SO),
        (row, "ALTER TYPE shop.row ADD ATTRIBUTE n int; ALTER TYPE shop.row DROP ATTRIBUTE n", NOT_SO),
        (row, "ALTER TYPE shop.row RENAME ATTRIBUTE body TO n", NOT_SO),
        ("left('notes', n - n + 4)::shop.label", "ALTER TYPE shop.label ADD VALUE 'all'", NOT_SO),
        ("left('notes', n - n + 4)::shop.label", "ALTER TYPE shop.label RENAME VALUE 'note' TO 'few'; ALTER TYPE shop.label RENAME VALUE 'few' TO 'note'", NOT_SO),
        ("shop.late(n)", "CREATE OR REPLACE VIEW shop.late_view AS SELECT body FROM shop.note", NOT_SO),
        ("shop.late(n)", "CREATE OR REPLACE VIEW shop.late_view AS SELECT body FROM shop.note WHERE n < 7; CREATE OR REPLACE VIEW shop.late_view AS SELECT body FROM shop.note", NOT_SO),
        ("shop.secrets(n)", "ALTER TABLE shop.secret DISABLE ROW LEVEL SECURITY; ALTER TABLE shop.secret ENABLE ROW LEVEL SECURITY", NOT_SO),
        ("shop.secrets(n)", "CREATE POLICY more ON shop.secret USING (true)", NOT_SO),
        ("shop.secrets(n)", "DROP POLICY more ON shop.secret; CREATE POLICY more ON shop.secret USING (true)", NOT_SO),
        ("shop.secrets(n)", "GRANT \"$ manager\" TO \"@\"", NOT_SO),
        // What is no definition.
        (
            "shop.secrets(n) + (SELECT count(*) FROM tally.events)",
            "ANALYZE shop.note; ANALYZE shop.secret; CREATE INDEX ON shop.secret (n); INSERT INTO shop.secret VALUES (1); VACUUM shop.secret;
             SELECT tally.open_months('2019-05-01'); CREATE TYPE shop.unused AS (a int); CREATE TABLE shop.another (a int)",
            TAKEN,
        ),
    ] {
        let query = format!("SELECT n, CASE WHEN n > 17 THEN {value} END AS x FROM generate_series(1, 100) AS g (n)");
        let id = scene.approved(&mut client, &query, 50_000);
        client.batch_execute(&format!("BEGIN; DECLARE c CURSOR FOR SELECT tally.run_export('{id}'); FETCH 16 FROM c")).unwrap();
        for statement in change.split(';') {
            let statement = statement.replace('$', scene.database.name()).replace('@', &scene.requester);
            admin.batch_execute(&statement).unwrap_or_else(|error| panic!("{statement}: {error:?}"));
        }
        assert_eq!(code(client.batch_execute("FETCH ALL FROM c")), outcome, "{change}");
        client.batch_execute("COMMIT").ok();
        client.batch_execute("ROLLBACK").unwrap();
        assert_eq!(scene.state(&id), if outcome == TAKEN { "done" } else { "failed" }, "{change}");
    }
    // By the session that runs it.
    client.batch_execute("CREATE TYPE shop.own AS (body text)").unwrap();
    let id = scene.approved(
        &mut client,
        "SELECT n, jsonb_populate_record(NULL::shop.own, to_jsonb(e)) AS r FROM shop.note AS e ORDER BY n",
        50_000,
    );
    client.batch_execute(&format!("BEGIN; DECLARE c CURSOR FOR SELECT tally.run_export('{id}'); FETCH 16 FROM c; ALTER TYPE shop.own ADD ATTRIBUTE tenant_id text")).unwrap();
    assert_eq!(code(client.batch_execute("FETCH ALL FROM c")), NOT_SO);
    client.batch_execute("ROLLBACK").unwrap();
    assert_eq!(scene.state(&id), "failed");
}
