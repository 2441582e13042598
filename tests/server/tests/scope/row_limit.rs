//! The rows that one statement of a tenant's login may hand out: a limit that no way of asking gets around.

use postgres::{Client, GenericClient};
use std::io::Read;
use std::sync::{Arc, Mutex};
use tally_server_tests::{Confined, Database, PrivateServer, Wire, code, major, of_this_major, wait_for};

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

/// A client, and the messages that it is told.
#[test]
fn what_is_compressed_inside_of_records_counts_as_what_leaves() {
    let mut database = Database::new("row_limit_records");
    let bound = database.role("bound", &["tally_reader"]);
    let owner = database.role("owner", &[]);
    database
        .superuser()
        .batch_execute(&format!(
            "ALTER DATABASE {} SET session_preload_libraries = pg_tally;
             SELECT tally.bind_role('{bound}', 'a'), tally.limit_tenant('a', max_rows => 10);
             CREATE SCHEMA shop AUTHORIZATION {owner}; GRANT USAGE ON SCHEMA shop TO PUBLIC; SET ROLE {owner};
             CREATE TYPE shop.pair AS (n int, body text); CREATE DOMAIN shop.checked AS shop.pair CHECK (VALUE IS NOT NULL);
             CREATE TYPE shop.span AS RANGE (subtype = shop.pair); CREATE TYPE shop.nested AS (p shop.pair, all_of shop.pair[]);
             CREATE TABLE shop.big (tenant_id text NOT NULL, n int NOT NULL, body text NOT NULL, PRIMARY KEY (tenant_id, n));
             INSERT INTO shop.big VALUES ('a', 1, repeat('all is the same. ', 20000)), ('b', 1, '');
             INSERT INTO shop.big SELECT 'a', n, 'short' FROM generate_series(2, 4) AS n;
             RESET ROLE; SELECT tally.protect('shop.big'); GRANT SELECT ON shop.big TO PUBLIC",
            database.name()
        ))
        .unwrap();
    let mut client = database.connect(&bound);
    for (value, types) in [
        ("body", ""),
        ("row(body)", ""),
        ("array[row(body)]", ""),
        ("row(1, row(2, row(body)))", ""),
        ("array[array[row(body)]]", ""),
        ("b", ""),
        ("array_agg(b)", ""),
        ("row(n, body)", "::shop.pair"),
        ("row(n, body)", "::shop.checked"),
        ("array[row(n, body)]", "::shop.checked[]"),
        ("row(row(n, body), array[row(n, body)::shop.pair])", "::shop.nested"),
        ("shop.span(row(0, '')::shop.pair, row(n, body)::shop.pair)", ""),
        ("shop.span_multirange(shop.span(row(0, '')::shop.pair, row(n, body)::shop.pair))", ""),
    ] {
        let ask = |condition: &str| format!("SELECT {value}{types} FROM shop.big AS b WHERE {condition}");
        assert_eq!(run(&mut client, &ask("n = 1")), OVER, "{value}");
        assert_eq!(run(&mut client, &ask("n = 2")), WITHIN, "{value}");
        let copied = client
            .copy_out(&format!("COPY ({}) TO STDOUT", ask("n = 1")))
            .map(|mut rows| rows.read_to_end(&mut Vec::new()).is_ok());
        assert!(!copied.unwrap_or(false), "{value} by COPY");
    }
    assert_eq!(
        run(
            &mut client,
            "SELECT row(n, body), NULL::shop.pair, array[NULL, row(n, NULL)::shop.pair] FROM shop.big WHERE n > 1"
        ),
        WITHIN
    );
    // Rows of before a field was dropped have it still, and nobody is shown it.
    database
        .superuser()
        .batch_execute(
            "CREATE TABLE shop.fewer (n int, long text, m int); INSERT INTO shop.fewer VALUES (1, repeat('x', 50000), 2); ALTER TABLE shop.fewer DROP COLUMN long;
             GRANT SELECT ON shop.fewer TO PUBLIC",
        )
        .unwrap();
    assert_eq!(run(&mut client, "SELECT f FROM shop.fewer AS f"), WITHIN);
    assert_eq!(run(&mut client, "SELECT array_agg(f) FROM shop.fewer AS f"), WITHIN);
}

fn listening(database: &Database, role: &str) -> (Client, Arc<Mutex<Vec<String>>>) {
    let told = Arc::new(Mutex::new(Vec::new()));
    let mut config = database.config(role);
    let kept = Arc::clone(&told);
    config.notice_callback(move |notice| {
        let texts = [Some(notice.message()), notice.detail(), notice.hint(), notice.where_(), notice.table()];
        kept.lock().unwrap().push(texts.into_iter().flatten().collect::<String>());
    });
    (config.connect(postgres::NoTls).unwrap(), told)
}

/// Messages, and bytes of them, since the last time.
fn taken(told: &Mutex<Vec<String>>) -> (i64, i64) {
    let told = std::mem::take(&mut *told.lock().unwrap());
    (told.len() as i64, told.iter().map(String::len).sum::<usize>() as i64)
}

fn bytes_of(error: &postgres::Error) -> i64 {
    let error = error.as_db_error().unwrap();
    let texts =
        [Some(error.message()), error.detail(), error.hint(), error.where_(), error.table(), error.column()];
    texts.into_iter().flatten().map(str::len).sum::<usize>() as i64
}

#[test]
fn what_is_told_beside_rows_is_limited_too() {
    let confined = Confined::new("row_limit_told");
    let [bound, ..] = &confined.roles;
    let database = &confined.database;
    furnish(database, bound);
    let most_bytes = LIMIT * 4096;
    let (mut client, told) = listening(database, bound);
    client.batch_execute("DO $$ BEGIN RAISE NOTICE 'so it is'; RAISE WARNING 'and so'; END $$").unwrap();
    assert_eq!(taken(&told).0, 2);
    // Notices of one statement, together.
    client
        .batch_execute("DO $$ BEGIN FOR i IN 1 .. 5000 LOOP RAISE NOTICE '%', i; END LOOP; END $$")
        .unwrap();
    assert_eq!(taken(&told).0, LIMIT);
    for level in ["INFO", "NOTICE", "WARNING"] {
        client
            .batch_execute(&format!(
                "DO $$ BEGIN FOR i IN 1 .. 100 LOOP RAISE {level} '%', i USING DETAIL = repeat('x', 50000), TABLE = repeat('y', 50000); END LOOP; END $$"
            ))
            .unwrap();
        let (messages, bytes) = taken(&told);
        assert!(messages > 0 && bytes <= most_bytes, "{level}: {messages}, {bytes}");
        client
            .batch_execute(&format!("DO $$ BEGIN RAISE {level} '%', repeat('x', 5000000); END $$"))
            .unwrap();
        assert_eq!(taken(&told), (0, 0), "{level}");
    }
    // In transactions that a procedure or a block ends, too: nothing is asked between two messages.
    client
        .batch_execute(
            "CREATE PROCEDURE public.tell(INOUT t text) LANGUAGE plpgsql AS $$
               BEGIN FOR i IN 1 .. 100 LOOP RAISE INFO '%', t; IF i % 2 = 0 THEN COMMIT; ELSE ROLLBACK; END IF; END LOOP; RAISE '%', repeat(t, 100); END $$;
             CREATE PROCEDURE public.give(INOUT t text) LANGUAGE plpgsql AS $$ BEGIN COMMIT; t := repeat(t, 100000); END $$",
        )
        .unwrap();
    let error = client.batch_execute("CALL public.tell(repeat('x', 100000))").unwrap_err();
    assert!(bytes_of(&error) <= most_bytes, "{}", bytes_of(&error));
    let (messages, bytes) = taken(&told);
    assert!(messages > 0 && bytes <= most_bytes, "{messages}, {bytes}");
    assert_eq!(run(&mut client, "CALL public.give('x')"), WITHIN);
    assert_eq!(run(&mut client, "CALL public.give(repeat('x', 100))"), OVER);
    // What only a debugger is told is told to nobody.
    client
        .batch_execute(
            "DO $$ DECLARE t text := repeat('x', 5000); BEGIN FOR i IN 1 .. 3 LOOP RAISE DEBUG '%', t; PERFORM set_config('client_min_messages', 'debug1', true); END LOOP;
               EXCEPTION WHEN OTHERS THEN NULL; END $$",
        )
        .unwrap();
    assert_eq!(taken(&told), (0, 0));
    // An error is as long as that.
    for (statement, most) in [
        ("DO $$ BEGIN RAISE '%', repeat('x', 9000000); END $$", most_bytes),
        ("DO $$ BEGIN RAISE 'it' USING DETAIL = repeat('x', 9000000); END $$", most_bytes),
        ("DO $$ BEGIN RAISE 'it' USING COLUMN = repeat('x', 9000000); END $$", most_bytes),
        ("SELECT (repeat('é', 4500000) || sum(n))::int FROM public.note", most_bytes),
        (
            "DO $$ BEGIN FOR i IN 1 .. 1000 LOOP RAISE NOTICE '%', i; END LOOP; RAISE '%', repeat('x', 9000000); END $$",
            most_bytes,
        ),
    ] {
        let error = client.batch_execute(statement).unwrap_err();
        let bytes = bytes_of(&error);
        assert!((2..=most).contains(&bytes), "{statement}: {bytes}");
    }
    let error = client.batch_execute("DO $$ BEGIN RAISE 'it' USING DETAIL = 'so', HINT = 'else'; END $$");
    assert_eq!(error.unwrap_err().as_db_error().unwrap().hint(), Some("else"));
    let functions = "CREATE FUNCTION public.much() RETURNS text LANGUAGE plpgsql AS $$ BEGIN RETURN repeat('x', 5000000); END $$;
        CREATE FUNCTION public.set(setting text) RETURNS void LANGUAGE plpgsql AS $$ BEGIN EXECUTE format('SET %s = %L', setting, repeat('x', 5000000)); END $$;
        CREATE FUNCTION public.notify() RETURNS void LANGUAGE plpgsql AS $$ BEGIN EXECUTE format('NOTIFY c, %L', 'text'); END $$";
    client.batch_execute(functions).unwrap();
    let oid = |name: &str| -> u32 {
        database.superuser().query_one("SELECT $1::text::regproc::oid", &[&name]).unwrap().get(0)
    };
    let statements = |client: &mut Client, outcome: &str| {
        for statement in [
            "SELECT pg_notify('c', 'text')",
            "NOTIFY c, 'text'",
            "SELECT public.notify()",
            "SELECT public.set('app.text'); SHOW app.text",
            "SELECT lo_from_bytea(47, convert_to(repeat('x', 5000000), 'UTF8')); SELECT lo_get(47)",
        ] {
            assert_eq!(run(client, statement), outcome, "{statement}");
            client.batch_execute("RESET ALL").unwrap();
        }
    };
    statements(&mut client, OVER);
    // Which PostgreSQL 18 reports.
    let reported = if major() < 18 { WITHIN } else { OVER };
    assert_eq!(run(&mut client, "SELECT public.set('search_path')"), reported);
    client.batch_execute("RESET ALL").unwrap();
    for statement in ["SHOW work_mem", "SHOW ALL", "SET search_path = public; SHOW search_path", "LISTEN c"] {
        assert_eq!(run(&mut client, statement), WITHIN, "{statement}");
    }
    // The protocol's own call; libpq's functions for large objects are such.
    for name in ["public.much", "pg_catalog.now"] {
        assert_eq!(Wire::connect(database, bound).call(oid(name)), OVER, "{name}");
    }
    taken(&told);
    // Also after a savepoint that was undone, in which the limit was first looked up.
    client.batch_execute("BEGIN; SAVEPOINT s; DO $$ BEGIN RAISE NOTICE 'it'; END $$; ROLLBACK TO s").unwrap();
    let loud = "DO $$ BEGIN RAISE NOTICE '%', repeat('x', 5000000); END $$";
    client.batch_execute(loud).unwrap();
    client.batch_execute("ROLLBACK").unwrap();
    assert_eq!(taken(&told).0, 1);
    // Whoever hands out nothing may work all the same.
    let mut admin = confined.database.superuser();
    admin.batch_execute("SELECT tally.limit_tenant('a', max_rows => 0)").unwrap();
    assert_eq!(
        run(&mut client, "CREATE TABLE public.own (n int); INSERT INTO public.own VALUES (1)"),
        WITHIN
    );
    assert_eq!(run(&mut client, "SELECT 1"), OVER);
    let error = client.batch_execute("SELECT nothing FROM public.own").unwrap_err();
    assert!(error.as_db_error().unwrap().message().contains("nothing"), "{error:?}");
    // The greatest number there is, in bytes more than there are numbers for.
    admin.batch_execute("SELECT tally.limit_tenant('a', max_rows => 9223372036854775807)").unwrap();
    client.batch_execute(loud).unwrap();
    taken(&told);
    assert_eq!(run(&mut client, "SELECT public.much()"), WITHIN);
    assert_eq!(code(client.batch_execute("SELECT nothing FROM public.own")), "42703");
    admin.batch_execute("SELECT tally.limit_tenant('a')").unwrap();
    statements(&mut client, WITHIN);
    assert_eq!(Wire::connect(database, bound).call(oid("public.much")), "V");
    client.batch_execute("DO $$ BEGIN RAISE NOTICE '%', repeat('x', 5000000); END $$").unwrap();
    assert_eq!(taken(&told).0, 1);
}

/// At its end a process has neither a transaction nor anything to look up with, and may yet have something to say.
#[test]
fn a_limited_login_leaves_a_server_that_logs_everything_as_it_was() {
    let server = PrivateServer::create(
        "row_limit_leaving",
        "shared_preload_libraries = 'pg_tally'\nlog_connections = on\nlog_disconnections = on\nlog_min_messages = debug3",
    );
    let mut superuser = server.connect("postgres", "postgres");
    superuser
        .batch_execute(
            "CREATE EXTENSION pg_tally; CREATE ROLE bi LOGIN; GRANT tally_reader TO bi;
             SELECT tally.bind_role('bi', 'a'), tally.limit_tenant('a', max_rows => 10)",
        )
        .unwrap();
    for end in ["SELECT count(*) FROM tally.usage_day", "SELECT generate_series(1, 11)", "BEGIN; SELECT 1"] {
        let mut client = server.connect("bi", "postgres");
        let _ = client.batch_execute(end);
        let pid: i32 =
            superuser.query_one("SELECT pid FROM pg_stat_activity WHERE usename = 'bi'", &[]).unwrap().get(0);
        drop(client);
        wait_for("its end", || {
            let there = superuser.query("SELECT FROM pg_stat_activity WHERE pid = $1", &[&pid]).unwrap();
            there.is_empty().then_some(())
        });
    }
    assert!(!server.log().contains("terminated by signal"), "{}", server.log());
    assert!(server.log().matches("disconnection: session time").count() >= 3);
}
