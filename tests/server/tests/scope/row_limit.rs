//! The rows that one statement of a tenant's login may hand out: a limit that no way of asking gets around.

use postgres::{Client, GenericClient};
use std::io::Read;
use tally_server_tests::{Confined, Database, code, of_this_major};

const LIMIT: i64 = 1000;
const OVER: &str = "53400";
const WITHIN: &str = "no error";

/// A table of the tenant's with this many rows, and functions of its login's.
fn furnish(database: &Database, bound: &str) {
    let mut admin = database.superuser();
    admin
        .batch_execute(&format!(
            "CREATE TABLE public.note (tenant_id text NOT NULL, n int NOT NULL, body text NOT NULL DEFAULT 'note', PRIMARY KEY (tenant_id, n));
             CREATE ROLE {bound}_owner; ALTER TABLE public.note OWNER TO {bound}_owner; GRANT CREATE ON SCHEMA public TO {bound}, {bound}_owner;
             SET ROLE {bound}_owner; GRANT SELECT ON public.note TO tally_reader; RESET ROLE;
             INSERT INTO public.note SELECT 'a', n FROM generate_series(1, 5000) AS n;
             SELECT tally.protect('public.note'); ANALYZE public.note;
             SELECT tally.limit_tenant('a', max_rows => {LIMIT})"
        ))
        .unwrap();
    let mut owner = database.connect(bound);
    owner
        .batch_execute(
            "CREATE FUNCTION public.query() RETURNS SETOF int LANGUAGE plpgsql AS 'BEGIN RETURN QUERY SELECT n FROM public.note; END';
             CREATE FUNCTION public.next() RETURNS SETOF int LANGUAGE plpgsql AS $$
               DECLARE r int; BEGIN FOR r IN SELECT n FROM public.note LOOP RETURN NEXT r; END LOOP; END $$;
             CREATE FUNCTION public.pieces() RETURNS SETOF int LANGUAGE plpgsql AS $$
               BEGIN FOR i IN 0 .. 4 LOOP RETURN QUERY SELECT n FROM public.note WHERE n > i * 1000 AND n <= (i + 1) * 1000; END LOOP; END $$;
             CREATE FUNCTION public.collected() RETURNS int[] LANGUAGE plpgsql AS $$
               DECLARE r int; found int[]; BEGIN FOR r IN SELECT n FROM public.note LOOP found := found || r; END LOOP; RETURN found; END $$;
             CREATE FUNCTION public.caught() RETURNS int LANGUAGE plpgsql AS $$
               DECLARE r int; seen int := 0; BEGIN FOR r IN SELECT n FROM public.note LOOP seen := seen + 1; END LOOP; RETURN seen;
               EXCEPTION WHEN configuration_limit_exceeded THEN RETURN seen; END $$;
             CREATE FUNCTION public.in_sql() RETURNS SETOF int LANGUAGE sql VOLATILE AS 'SELECT n FROM public.note';
             CREATE FUNCTION public.elevated() RETURNS SETOF int LANGUAGE plpgsql SECURITY DEFINER AS 'BEGIN RETURN QUERY SELECT n FROM public.note; END';
             CREATE TABLE public.kept AS SELECT n FROM public.note WHERE n <= 1000;
             INSERT INTO public.kept SELECT n FROM public.note WHERE n > 1000",
        )
        .unwrap();
}

fn run(client: &mut impl GenericClient, statement: &str) -> String {
    code(client.batch_execute(statement))
}

/// Rows that arrive before the error, if there is one.
fn rows_copied(client: &mut Client, statement: &str) -> (usize, bool) {
    let mut text = Vec::new();
    let ended = client.copy_out(statement).unwrap().read_to_end(&mut text);
    (text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).count(), ended.is_ok())
}

#[test]
fn no_way_of_asking_gets_around_the_limit() {
    let confined = Confined::new("row_limit");
    let [bound, pool, trusted, ..] = &confined.roles;
    furnish(&confined.database, bound);
    let mut client = confined.database.connect(bound);
    for (statement, outcome) in [
        ("SELECT * FROM public.note", OVER),
        ("SELECT n FROM public.note LIMIT 1000", WITHIN),
        ("SELECT n FROM public.note LIMIT 1001", OVER),
        ("SELECT count(*), sum(n) FROM public.note", WITHIN),
        ("SELECT n FROM public.note WHERE n < 900; SELECT n FROM public.note WHERE n < 900", WITHIN),
        ("SELECT generate_series(1, 1001)", OVER),
        ("VALUES (1), (2)", WITHIN),
        ("SELECT n FROM public.note UNION ALL SELECT n FROM public.note", OVER),
        // One row that is many: text of 4 kB counts as one each.
        ("SELECT repeat('x', 4000000)", WITHIN),
        ("SELECT repeat('x', 4200000)", OVER),
        ("SELECT string_agg(repeat(body, 1000), ',') FROM public.note", OVER),
        ("SELECT array_out(array_agg(repeat(body, 1000))) FROM public.note", OVER),
        ("SELECT json_agg(e) FROM public.note AS e", WITHIN),
        ("SELECT query_to_xml('SELECT n FROM public.note', true, true, '')", OVER),
        // Functions.
        ("SELECT public.query()", OVER),
        ("SELECT count(*) FROM public.query()", OVER),
        ("SELECT public.next()", OVER),
        ("SELECT public.pieces()", OVER),
        ("SELECT public.collected()", OVER),
        ("SELECT public.in_sql()", OVER),
        ("SELECT public.elevated()", OVER),
        ("DO $$ BEGIN PERFORM n FROM public.note; END $$", OVER),
        (
            "DO $$ DECLARE r int; BEGIN FOR r IN EXECUTE 'SELECT n FROM public.note' LOOP NULL; END LOOP; END $$",
            OVER,
        ),
        (
            "DO $$ DECLARE c CURSOR FOR SELECT n FROM public.note; r int; BEGIN OPEN c; LOOP FETCH c INTO r; EXIT WHEN NOT FOUND; END LOOP; END $$",
            OVER,
        ),
        // Cursors: all that is fetched from one.
        (
            "BEGIN; DECLARE c CURSOR FOR SELECT n FROM public.note; FETCH 600 FROM c; FETCH 400 FROM c; COMMIT",
            WITHIN,
        ),
        (
            "BEGIN; DECLARE c CURSOR FOR SELECT n FROM public.note; FETCH 600 FROM c; FETCH 401 FROM c; COMMIT",
            OVER,
        ),
        (
            "BEGIN; DECLARE c SCROLL CURSOR FOR SELECT n FROM public.note LIMIT 900; FETCH ALL FROM c; FETCH BACKWARD ALL FROM c; COMMIT",
            OVER,
        ),
        (
            "BEGIN; DECLARE c CURSOR FOR SELECT n FROM public.note; MOVE 4500 IN c; FETCH ALL FROM c; COMMIT",
            WITHIN,
        ),
        ("BEGIN; DECLARE c CURSOR WITH HOLD FOR SELECT n FROM public.note; COMMIT", OVER),
        // What is written stays, what is returned leaves.
        ("UPDATE public.kept SET n = n", WITHIN),
        ("UPDATE public.kept SET n = n RETURNING n", OVER),
        ("TABLE public.kept", OVER),
        ("COPY public.kept TO STDOUT", OVER),
        ("PREPARE p AS SELECT n FROM public.note; EXECUTE p", OVER),
        ("SET force_parallel_mode = on; SELECT n FROM public.note", OVER),
        ("SET force_parallel_mode = on; SELECT count(*) FROM public.note", WITHIN),
        (
            "SET force_parallel_mode = off; SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0; SELECT n FROM public.note",
            OVER,
        ),
        ("SELECT count(*) FROM (SELECT n % 7 FROM public.note GROUP BY 1) AS t", WITHIN),
    ] {
        assert_eq!(run(&mut client, &of_this_major(statement)), outcome, "{statement}");
        client.batch_execute("ROLLBACK; DEALLOCATE ALL; RESET ALL").unwrap();
    }
    // Caught inside: no more than the limit was seen.
    let seen: i32 = client.query_one("SELECT public.caught()", &[]).unwrap().get(0);
    assert!(i64::from(seen) <= LIMIT, "{seen}");
    // No row beyond the limit leaves.
    for statement in [
        "COPY (SELECT n FROM public.note) TO STDOUT",
        "COPY public.note TO STDOUT",
        "COPY (SELECT public.in_sql()) TO STDOUT",
    ] {
        let mut client = confined.database.connect(bound);
        assert_eq!(rows_copied(&mut client, statement), (LIMIT as usize, false), "{statement}");
    }
    assert_eq!(
        rows_copied(&mut client, "COPY (SELECT n FROM public.note WHERE n <= 1000) TO STDOUT").0,
        1000
    );
    // The protocol's own way of fetching some rows at a time.
    let mut transaction = client.transaction().unwrap();
    let portal = transaction.bind("SELECT n FROM public.note", &[]).unwrap();
    assert_eq!(transaction.query_portal(&portal, 900).unwrap().len(), 900);
    assert_eq!(code(transaction.query_portal(&portal, 101)), OVER);
    drop(transaction);
    let error = client.batch_execute("SELECT n FROM public.note").unwrap_err();
    assert!(error.as_db_error().unwrap().hint().unwrap().contains("tally.request_export"), "{error:?}");
    // A pool in the tenant's scope; in another tenant's, which has no such limit; who acts for every tenant.
    let mut pooled = confined.database.connect(pool);
    for (tenant, outcome) in [("a", OVER), ("b", WITHIN)] {
        pooled.batch_execute("BEGIN").unwrap();
        confined.signer.enter(&mut pooled, tenant).unwrap();
        assert_eq!(run(&mut pooled, "SELECT generate_series(1, 2000)"), outcome, "{tenant}");
        pooled.batch_execute("ROLLBACK").unwrap();
    }
    let mut free = confined.database.connect(trusted);
    free.batch_execute("BEGIN; SELECT tally.enter('a'); SELECT n FROM public.note; COMMIT").unwrap();
    // Without the limit, from the next transaction on.
    confined.database.superuser().batch_execute("SELECT tally.limit_tenant('a')").unwrap();
    client.batch_execute("SELECT n FROM public.note; SELECT public.collected()").unwrap();
    assert_eq!(rows_copied(&mut client, "COPY public.kept TO STDOUT"), (5000, true));
    let over = confined.database.superuser().batch_execute("SELECT tally.limit_tenant('a', max_rows => -1)");
    assert_eq!(code(over), "23514");
}
