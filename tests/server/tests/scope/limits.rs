//! Limits of a tenant that SQL can't lift.

use postgres::error::SqlState;
use postgres::{Client, GenericClient};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tally_server_tests::{Confined, Wire, code, number, of_this_major, wait_for};

/// What ends by itself does so long before: a machine that is slow or busy is not one where it went on for a hundred seconds.
const AT_ONCE: Duration = Duration::from_secs(50);

fn setting(client: &mut impl GenericClient, name: &str) -> String {
    client.query_one("SELECT current_setting($1)", &[&name]).unwrap().get(0)
}

#[test]
fn limits_hold_whatever_sql_sets() {
    let confined = Confined::new("limits");
    let [bound, pool, trusted, ..] = &confined.roles;
    let mut admin = confined.database.superuser();
    admin.batch_execute("SELECT tally.limit_tenant('a', 3000, 1024, 0)").unwrap();
    let names = ["statement_timeout", "work_mem", "max_parallel_workers_per_gather"];
    let limited = ["3s", "1MB", "0"];
    let lift = "SET LOCAL statement_timeout = 0; SET LOCAL work_mem = '1GB'; SET LOCAL max_parallel_workers_per_gather = 8";
    let holds_for = |role: &String| {
        let mut client = confined.database.connect(role);
        for lift in [
            "SELECT 1",
            lift,
            &lift.replace("LOCAL", "SESSION"),
            "SELECT set_config('statement_timeout', '0', true)",
        ] {
            client.batch_execute("BEGIN").unwrap();
            if role == pool {
                confined.signer.enter(&mut client, "a").unwrap();
            }
            client.batch_execute(lift).unwrap();
            assert_eq!(names.map(|name| setting(&mut client, name)), limited, "{role}: {lift}");
            client.batch_execute(lift).unwrap();
            assert_eq!(code(client.batch_execute("SELECT pg_sleep(100)")), "57014", "{role}: {lift}");
            client.batch_execute("ROLLBACK").unwrap();
        }
    };
    std::thread::scope(|scope| {
        for role in [bound, pool] {
            scope.spawn(|| holds_for(role));
        }
    });
    // A bound login has them in its first statement, and doesn't leave them behind when it is bound elsewhere.
    let mut client = confined.database.connect(bound);
    assert_eq!(code(client.batch_execute("SELECT pg_sleep(100)")), "57014");
    admin.batch_execute(&format!("SELECT tally.bind_role('{bound}', 'b')")).unwrap();
    client.batch_execute("SELECT pg_sleep(4)").unwrap();
    assert_eq!(setting(&mut client, "work_mem"), "4MB");
    // Parallel workers run with what their leader was given.
    admin
        .batch_execute(&format!(
            "SELECT tally.bind_role('{bound}', 'a'), tally.limit_tenant('a', 60000, 1024, 2)"
        ))
        .unwrap();
    client
        .batch_execute(&of_this_major("SET force_parallel_mode = on; SET work_mem = '1GB'; SELECT count(*) FROM tally.events; SELECT tally.enter('a', 'x')"))
        .unwrap();
    assert_eq!(setting(&mut client, "work_mem"), "1MB");
    // Trusted roles are lowered on entering, and may raise again: they act for every tenant anyway.
    let mut client = confined.database.connect(trusted);
    client.batch_execute("BEGIN; SELECT tally.enter('a')").unwrap();
    assert_eq!(setting(&mut client, "work_mem"), "1MB");
    client.batch_execute("SET LOCAL work_mem = '5MB'").unwrap();
    assert_eq!(setting(&mut client, "work_mem"), "5MB");
}

#[test]
fn a_tenant_has_no_more_transactions_than_it_may() {
    let confined = Confined::new("slots");
    let [bound, pool, trusted, ..] = &confined.roles;
    let mut admin = confined.database.superuser();
    admin.batch_execute("SELECT tally.limit_tenant('a', max_transactions => 2)").unwrap();
    let begin = |role: &str, tenant: &str, options: &str| -> Result<Client, postgres::Error> {
        let mut client = confined.database.connect(role);
        client.batch_execute(&format!("BEGIN {options}"))?;
        match role {
            _ if role == bound => client.batch_execute("SELECT 1")?,
            _ if role == pool => confined.signer.enter(&mut client, tenant)?,
            _ => client.execute("SELECT tally.enter($1)", &[&tenant]).map(drop)?,
        }
        Ok(client)
    };
    for roles in [[bound, pool, trusted], [trusted, bound, pool], [pool, trusted, bound]] {
        let mut first = begin(roles[0], "a", "READ ONLY").unwrap();
        let mut second = begin(roles[1], "a", "").unwrap();
        let refused = begin(roles[2], "a", "").err().unwrap();
        assert_eq!(refused.code().map(SqlState::code), Some("53400"), "{roles:?}");
        assert!(refused.as_db_error().unwrap().hint().is_some());
        // Others are not counted; what is undone in a savepoint gives no room; more statements take no more of it.
        begin(trusted, "b", "").unwrap();
        for client in [&mut first, &mut second] {
            client.batch_execute("SAVEPOINT s; SELECT 1; ROLLBACK TO s; SELECT 2").unwrap();
        }
        assert!(begin(roles[2], "a", "").is_err());
        first.batch_execute("ROLLBACK").unwrap();
        let mut third = begin(roles[2], "a", "").unwrap();
        assert!(begin(roles[0], "a", "").is_err());
        // The end of a connection is the end of its transaction.
        drop(second);
        let mut free = false;
        for _ in 0..3000 {
            if let Ok(mut client) = begin(roles[0], "a", "") {
                // By a statement, so that the next round doesn't meet it.
                client.batch_execute("ROLLBACK").unwrap();
                free = true;
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        assert!(free);
        third.batch_execute("COMMIT").unwrap();
    }
    // In a savepoint from its first statement on.
    let mut client = confined.database.connect(bound);
    client.batch_execute("BEGIN; SAVEPOINT s; SELECT 1; ROLLBACK TO s; SELECT 1").unwrap();
    let mut second = begin(trusted, "a", "").unwrap();
    assert!(begin(trusted, "a", "").is_err());
    client.batch_execute("ROLLBACK TO s; SELECT 1; COMMIT").unwrap();
    second.batch_execute("COMMIT").unwrap();
    // What counts them is public in pg_locks, and doesn't tell whom it counts.
    let _held = begin(trusted, "a", "").unwrap();
    let keys = "SELECT objid::int8, objsubid FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 3
                  AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    let before: i64 = admin.query_one(keys, &[]).unwrap().get(0);
    admin.batch_execute("SELECT tally.limit_tenant('a', max_transactions => 1)").unwrap();
    let _again = begin(trusted, "a", "").unwrap();
    let after: Vec<i64> = admin.query(keys, &[]).unwrap().iter().map(|row| row.get(0)).collect();
    assert!(after.len() == 2 && after.iter().any(|key| *key != before), "{before} {after:?}");
    for wrong in ["0", "-1", "10001"] {
        let outcome =
            admin.batch_execute(&format!("SELECT tally.limit_tenant('a', max_transactions => {wrong})"));
        assert_eq!(code(outcome), "23514", "{wrong}");
    }
}

/// What lifts the statement timeout while it runs, and goes on for a hundred seconds.
const EVASIONS: [&str; 9] = [
    "DO $$ BEGIN FOR i IN 1..200 LOOP PERFORM set_config('statement_timeout', '0', true); EXECUTE 'SELECT 1'; PERFORM pg_sleep(0.5); END LOOP; END $$",
    "DO $$ BEGIN FOR i IN 1..200 LOOP SET LOCAL statement_timeout = 0; EXECUTE 'SELECT ' || i; PERFORM pg_sleep(0.5); END LOOP; END $$",
    "DO $$ BEGIN FOR i IN 1..200 LOOP SET statement_timeout = '1h'; PERFORM pg_sleep(0.5); END LOOP; END $$",
    "DO $$ BEGIN FOR i IN 1..200 LOOP RESET statement_timeout; EXECUTE 'SELECT ' || i; PERFORM pg_temp.long(0.5); END LOOP; END $$",
    "DO $$ BEGIN LOOP NULL; END LOOP; END $$",
    "SELECT pg_temp.long(0.3) FROM generate_series(1, 300)",
    "SELECT pg_temp.long(0.3), set_config('statement_timeout', '0', false), pg_sleep(0.2) FROM generate_series(1, 200)",
    "WITH x AS MATERIALIZED (SELECT set_config('statement_timeout', '0', true)) SELECT pg_sleep(100) FROM x",
    "CREATE TEMP TABLE x ON COMMIT DROP AS SELECT i, pg_temp.long(0.5)::text FROM generate_series(1, 200) AS i",
];

#[test]
fn a_statement_ends_in_time_whatever_it_sets() {
    let confined = Confined::new("timer");
    let [bound, pool, ..] = &confined.roles;
    let mut admin = confined.database.superuser();
    admin
        .batch_execute(
            "SELECT tally.limit_tenant('a', 3000);
             CREATE FUNCTION public.long(float8) RETURNS void LANGUAGE plpgsql SET statement_timeout = 0 AS
               $$ BEGIN PERFORM pg_sleep($1); PERFORM count(*) FROM pg_class; END $$",
        )
        .unwrap();
    let ends_in_time = |client: &mut Client, what: &str, run: &mut dyn FnMut(&mut Client) -> String| {
        let began = Instant::now();
        assert_eq!(run(client), "57014", "{what}");
        let took = began.elapsed();
        assert!(took > Duration::from_millis(2800) && took < AT_ONCE, "{what}: {took:?}");
    };
    let all_end = |role: &String| {
        let mut client = confined.database.connect(role);
        let begin = |client: &mut Client| {
            client.batch_execute("BEGIN").unwrap();
            if role == pool {
                confined.signer.enter(client, "a").unwrap();
            }
        };
        for evasion in EVASIONS {
            let evasion = evasion.replace("pg_temp.long", "public.long");
            begin(&mut client);
            ends_in_time(&mut client, &format!("{role}: {evasion}"), &mut |client| {
                code(client.simple_query(&evasion))
            });
            client.batch_execute("ROLLBACK").unwrap();
        }
        // A cursor that was opened in time: each FETCH is a statement of its own, and bounded.
        begin(&mut client);
        client
            .batch_execute("DECLARE c CURSOR FOR SELECT pg_sleep(10) FROM generate_series(1, 10); SET LOCAL statement_timeout = 0")
            .unwrap();
        ends_in_time(&mut client, "FETCH", &mut |client| code(client.simple_query("FETCH ALL c")));
        client.batch_execute("ROLLBACK").unwrap();
        // The same of a portal that goes on.
        let mut transaction = client.transaction().unwrap();
        if role == pool {
            confined.signer.enter(&mut transaction, "a").unwrap();
        }
        let portal = transaction
            .bind("SELECT CASE WHEN i > 1 THEN pg_sleep(100)::text END FROM generate_series(1, 5) AS i", &[])
            .unwrap();
        assert_eq!(transaction.query_portal(&portal, 1).unwrap().len(), 1);
        transaction.batch_execute("SET LOCAL statement_timeout = 0").unwrap();
        let began = Instant::now();
        assert_eq!(code(transaction.query_portal(&portal, 0)), "57014");
        assert!(began.elapsed() < AT_ONCE);
        transaction.rollback().unwrap();
    };
    std::thread::scope(|scope| {
        for role in [bound, pool] {
            scope.spawn(|| all_end(role));
        }
    });
    // Statements one after the other have their time each.
    admin.batch_execute("SELECT tally.limit_tenant('a', 5000)").unwrap();
    let mut client = confined.database.connect(bound);
    client.batch_execute("BEGIN").unwrap();
    for _ in 0..3 {
        client.batch_execute("SELECT pg_sleep(2)").unwrap();
    }
}

#[test]
fn an_open_transaction_ends_when_it_idles() {
    let confined = Confined::new("idle");
    let [bound, pool, trusted, ..] = &confined.roles;
    let mut admin = confined.database.superuser();
    admin
        .batch_execute(
            "SELECT tally.limit_tenant('a', idle_in_transaction_ms => 5000);
             CREATE FUNCTION public.lift() RETURNS text LANGUAGE plpgsql SET idle_in_transaction_session_timeout = 0 AS
               $$ BEGIN RETURN set_config('idle_in_transaction_session_timeout', '0', false); END $$",
        )
        .unwrap();
    let idle = "idle_in_transaction_session_timeout";
    let lifts = [
        "SELECT 1".to_owned(),
        format!("SET {idle} = 0"),
        format!("SET LOCAL {idle} = '1h'"),
        format!("SELECT set_config('{idle}', '0', false)"),
        format!("DO $$ BEGIN PERFORM set_config('{idle}', '0', true); END $$"),
        format!("RESET {idle}"),
        "RESET ALL".to_owned(),
        "SELECT public.lift()".to_owned(),
        format!(
            "DECLARE c CURSOR FOR SELECT set_config('{idle}', '0', true) FROM generate_series(1, 3); FETCH 1 c"
        ),
        format!("SAVEPOINT s; SET {idle} = 0; SELECT 1; RELEASE s"),
        format!("SAVEPOINT s; SET {idle} = 0; ROLLBACK TO s"),
    ];
    let (mut sessions, mut alone) = (Vec::new(), Vec::new());
    for role in [bound, pool] {
        for lift in &lifts {
            let mut client = confined.database.connect(role);
            // The session's own value is none.
            client.batch_execute(&format!("SET {idle} = 0; BEGIN")).unwrap();
            if role == pool {
                confined.signer.enter(&mut client, "a").unwrap();
            }
            client.batch_execute("SELECT count(*) FROM tally.events").unwrap();
            client.batch_execute(lift).unwrap();
            sessions.push((role, lift, client));
        }
    }
    // What is limited inside a savepoint for the first time, and undone with it; the snapshot stays.
    let undone = [
        "SAVEPOINT s; SELECT count(*) FROM tally.events; ROLLBACK TO s",
        "SAVEPOINT s; SAVEPOINT t; SELECT 1; ROLLBACK TO s; RELEASE s",
        "SAVEPOINT s; DO $$ BEGIN NULL; END $$; ROLLBACK TO s",
    ]
    .map(str::to_owned);
    for lift in &undone {
        let mut client = confined.database.connect(bound);
        client.batch_execute(&format!("SET {idle} = 0; BEGIN ISOLATION LEVEL REPEATABLE READ")).unwrap();
        client.batch_execute(lift).unwrap();
        sessions.push((bound, lift, client));
    }
    // From its beginning on, before any statement, where the library is loaded already.
    for lift in ["BEGIN", "START TRANSACTION READ ONLY", "BEGIN ISOLATION LEVEL SERIALIZABLE"] {
        let mut client = confined.database.connect(bound);
        client.batch_execute(&format!("SET {idle} = 0")).unwrap();
        client.batch_execute(lift).unwrap();
        alone.push((lift, client));
    }
    let open = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND backend_type = 'client backend' AND xact_start IS NOT NULL AND pid <> pg_backend_pid()";
    wait_for("all of them to end", || (number(&mut admin, open) == 0).then_some(()));
    for (lift, mut client) in alone {
        let error = client.batch_execute("SELECT 1").expect_err(lift);
        assert!(client.is_closed() || error.code().map(SqlState::code) == Some("25P03"), "{lift}: {error}");
    }
    for (role, lift, mut client) in sessions {
        let error = client.batch_execute("SELECT 1").expect_err(lift);
        let ended = client.is_closed() || error.code().map(SqlState::code) == Some("25P03");
        assert!(ended, "{role}: {lift}: {error}");
    }
    // Idle outside a transaction, working, and others' tenants aren't ended.
    let mut client = confined.database.connect(bound);
    client.batch_execute("SELECT count(*) FROM tally.events").unwrap();
    let mut other = confined.database.connect(trusted);
    other.batch_execute("BEGIN; SELECT tally.enter('b'); SELECT 1").unwrap();
    std::thread::sleep(Duration::from_secs(7));
    client.batch_execute("BEGIN; SELECT pg_sleep(7); COMMIT; SELECT 1").unwrap();
    other.batch_execute("SELECT 1; COMMIT").unwrap();
    for wrong in ["0", "-1"] {
        let outcome = admin
            .batch_execute(&format!("SELECT tally.limit_tenant('a', idle_in_transaction_ms => {wrong})"));
        assert_eq!(code(outcome), "23514", "{wrong}");
    }
}

#[test]
fn what_multiplies_work_memory_is_limited_with_it() {
    let confined = Confined::new("memory");
    let [bound, pool, ..] = &confined.roles;
    let mut admin = confined.database.superuser();
    admin
        .batch_execute(
            "SELECT tally.limit_tenant('a', work_mem_kb => 2048, max_parallel_workers_per_gather => 1)",
        )
        .unwrap();
    for (name, raised, limited) in [
        ("hash_mem_multiplier", "1000", "2"),
        ("work_mem", "1GB", "2MB"),
        ("maintenance_work_mem", "1GB", "2MB"),
        ("logical_decoding_work_mem", "1GB", "2MB"),
        ("temp_buffers", "1GB", "2MB"),
        ("max_parallel_workers_per_gather", "8", "1"),
        ("max_parallel_maintenance_workers", "8", "1"),
    ] {
        for role in [bound, pool] {
            for how in [
                format!("SET {name} = '{raised}'"),
                format!("SET LOCAL {name} = '{raised}'"),
                format!("SELECT set_config('{name}', '{raised}', true)"),
            ] {
                let mut client = confined.database.connect(role);
                client.batch_execute(&format!("SET {name} = '{raised}'; BEGIN")).unwrap();
                if role == pool {
                    confined.signer.enter(&mut client, "a").unwrap();
                }
                client.batch_execute(&how).unwrap();
                assert_eq!(setting(&mut client, name), limited, "{role}: {how}");
            }
            let mut config = confined.database.config(role);
            let mut client = config.options(&format!("-c {name}={raised}")).connect(postgres::NoTls).unwrap();
            client.batch_execute("BEGIN").unwrap();
            if role == pool {
                confined.signer.enter(&mut client, "a").unwrap();
            }
            assert_eq!(setting(&mut client, name), limited, "{role}: as an option");
        }
    }
    // What is lower stays.
    let mut client = confined.database.connect(bound);
    client.batch_execute("BEGIN; SET LOCAL hash_mem_multiplier = 1; SET LOCAL work_mem = '64kB'").unwrap();
    assert_eq!(
        (setting(&mut client, "hash_mem_multiplier"), setting(&mut client, "work_mem")),
        ("1".into(), "64kB".into())
    );
}

/// Kilobytes that a backend takes of the machine's memory by itself.
fn resident(pid: i32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn aggregates_count_their_memory_and_give_it_back() {
    let confined = Confined::new("aggregates");
    let [bound, ..] = &confined.roles;
    confined.database.superuser().batch_execute("SELECT tally.limit_tenant('a', work_mem_kb => 64)").unwrap();
    let mut client = confined.database.connect(bound);
    let pid: i32 = client
        .query_one("SELECT pid FROM pg_stat_activity WHERE pid = pg_backend_pid()", &[])
        .unwrap()
        .get(0);
    let rows = "generate_series(1, 3000000) AS x";
    for call in [
        format!(
            "SELECT tally_internal.funnel_counts('1 day', '', 'a', x::text, to_timestamp(x), 3, 1) FROM {rows}"
        ),
        format!("SELECT tally.window_funnel('1 day', to_timestamp(x), true, x % 2 = 0) FROM {rows}"),
        format!("SELECT tally.funnel_times('1 day', '', to_timestamp(x), 3, 1) FROM {rows}"),
        format!(
            "SELECT tally.window_funnel('1 day', to_timestamp(x), true), tally.funnel_times('1 day', '', to_timestamp(x), 3, 1) FROM {rows}"
        ),
        format!("SELECT tally.window_funnel('1 day', to_timestamp(x), true) OVER () FROM {rows} LIMIT 1"),
    ] {
        client.batch_execute("SET hash_mem_multiplier = 1000; SET work_mem = '1GB'").unwrap();
        let error = client.query(&call, &[]).expect_err(&call);
        let error = error.as_db_error().unwrap_or_else(|| panic!("{call}: {error}"));
        assert_eq!(error.code().code(), "53200", "{call}: {error:?}");
        assert!(error.message().contains("work_mem") && error.hint().is_some(), "{error:?}");
        assert!(resident(pid) < 60_000, "{call}: {} kB", resident(pid));
    }
    // Groups by the thousand are held one after the other, or spill.
    let many = "SELECT count(*) FROM (SELECT tally.window_funnel('1 day', to_timestamp(x), true) FROM generate_series(1, 300000) AS x GROUP BY x / 3) AS y";
    client.query_one(many, &[]).unwrap();
    // What isn't limited takes what it needs, and keeps none of it.
    let mut admin = confined.database.superuser();
    let pid: i32 = admin.query_one("SELECT pg_backend_pid()", &[]).unwrap().get(0);
    let before = resident(pid);
    let counts = format!(
        "SELECT tally_internal.funnel_counts('1 day', '', 'a', x::text, to_timestamp(x), 3, 1) FROM {rows}"
    );
    admin.query_one(&counts, &[]).unwrap();
    assert!(resident(pid) < before + 40_000, "{before} kB before, {} kB after", resident(pid));
}

/// Ends the session `pid` where it hasn't ended by itself: a test that waits for one must not wait for ever.
fn end_at_last(admin: &mut Client, pid: i32, is_done: &AtomicBool) {
    let until = Instant::now() + AT_ONCE;
    while !is_done.load(Ordering::Relaxed) {
        if Instant::now() > until {
            admin.execute("SELECT pg_terminate_backend($1)", &[&pid]).unwrap();
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// What catches its end: in a loop that is cancelled again and again, in one that isn't any more, and in one that is in the middle
/// of undoing a savepoint most of the time, when nothing can be ended.
const CATCHING: [&str; 6] = [
    "DO $$ BEGIN LOOP BEGIN PERFORM pg_sleep(100); EXCEPTION WHEN query_canceled THEN NULL; END; END LOOP; END $$",
    "DO $$ BEGIN PERFORM pg_sleep(100); EXCEPTION WHEN query_canceled THEN LOOP NULL; END LOOP; END $$",
    "DO $$ DECLARE x int := 0; BEGIN PERFORM pg_sleep(100); EXCEPTION WHEN SQLSTATE '57014' THEN LOOP x := (x + 1) % 10; END LOOP; END $$",
    "DO $$ BEGIN PERFORM pg_sleep(100); EXCEPTION WHEN query_canceled THEN PERFORM set_config('statement_timeout', '0', true); LOOP NULL; END LOOP; END $$",
    "DO $$ BEGIN BEGIN PERFORM pg_sleep(100); EXCEPTION WHEN query_canceled THEN NULL; END; LOOP BEGIN RAISE 'x'; EXCEPTION WHEN OTHERS THEN NULL; END; END LOOP; END $$",
    "DO $$ BEGIN BEGIN PERFORM pg_sleep(100); EXCEPTION WHEN query_canceled THEN NULL; END; LOOP BEGIN BEGIN BEGIN BEGIN RAISE 'x'; EXCEPTION WHEN too_many_rows THEN NULL; END; EXCEPTION WHEN too_many_rows THEN NULL; END; EXCEPTION WHEN too_many_rows THEN NULL; END; EXCEPTION WHEN OTHERS THEN NULL; END; END LOOP; END $$",
];

#[test]
fn a_statement_that_catches_its_end_ends_with_its_session() {
    let confined = Confined::new("caught");
    let [bound, pool, ..] = &confined.roles;
    confined.database.superuser().batch_execute("SELECT tally.limit_tenant('a', 3000)").unwrap();
    let ends_with_its_session = |role: &str, caught: &str| {
        let mut client = confined.database.connect(role);
        client.batch_execute("BEGIN").unwrap();
        if role == pool {
            confined.signer.enter(&mut client, "a").unwrap();
        }
        let pid: i32 = client.query_one("SELECT pg_backend_pid()", &[]).unwrap().get(0);
        let mut admin = confined.database.superuser();
        let (began, is_done) = (Instant::now(), AtomicBool::new(false));
        let error = std::thread::scope(|scope| {
            scope.spawn(|| end_at_last(&mut admin, pid, &is_done));
            let error = client.batch_execute(caught).expect_err(caught);
            is_done.store(true, Ordering::Relaxed);
            error
        });
        let took = began.elapsed();
        assert!(took > Duration::from_millis(2900) && took < AT_ONCE, "{role}: {caught}: {took:?}");
        let ended = matches!(error.code().map(SqlState::code), None | Some("57P01" | "57014"));
        assert!(ended, "{role}: {caught}: {error:?}");
    };
    for role in [bound, pool] {
        std::thread::scope(|scope| {
            // Whether the timer comes at a moment in which nothing can be ended is chance: four tries of each.
            for caught in CATCHING.iter().chain(CATCHING[4..].iter().cycle().take(6)) {
                scope.spawn(move || ends_with_its_session(role, caught));
            }
        });
    }
    // What ends in time keeps its session: idle, in many statements, and in another transaction.
    let mut client = confined.database.connect(bound);
    client.batch_execute("BEGIN; SELECT 1").unwrap();
    assert_eq!(code(client.batch_execute("SELECT pg_sleep(100)")), "57014");
    client.batch_execute("ROLLBACK; BEGIN").unwrap();
    for _ in 0..10 {
        client.batch_execute("SELECT pg_sleep(0.4)").unwrap();
    }
    std::thread::sleep(Duration::from_secs(6));
    client.batch_execute("SELECT 1; COMMIT").unwrap();
}

/// The protocol can call a function itself: no statement has text then, and what is called is bounded all the same.
#[test]
fn a_call_by_the_protocol_that_catches_its_end_ends_with_its_session() {
    let confined = Confined::new("called");
    let [bound, ..] = &confined.roles;
    let mut admin = confined.database.superuser();
    admin
        .batch_execute(
            "SELECT tally.limit_tenant('a', 3000);
             CREATE FUNCTION public.catches() RETURNS void LANGUAGE plpgsql AS
               $$ BEGIN PERFORM pg_sleep(100); EXCEPTION WHEN query_canceled THEN LOOP NULL; END LOOP; END $$;
             CREATE FUNCTION public.returns() RETURNS void LANGUAGE plpgsql AS $$ BEGIN PERFORM count(*) FROM tally.events; END $$",
        )
        .unwrap();
    let mut number = |function: &str| -> u32 {
        admin.query_one("SELECT $1::text::regprocedure::oid", &[&function]).unwrap().get(0)
    };
    let [catches, returns] = ["public.catches()", "public.returns()"].map(&mut number);
    let mut wire = Wire::connect(&confined.database, bound);
    assert_eq!(wire.call(returns), "V");
    // Nor does what has ended end the session afterwards.
    std::thread::sleep(Duration::from_secs(7));
    assert_eq!(wire.call(returns), "V");
    let (began, is_done) = (Instant::now(), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let (pid, admin, is_done) = (wire.pid, &mut admin, &is_done);
        scope.spawn(move || end_at_last(admin, pid, is_done));
        assert_eq!(wire.call(catches), "57P01");
        is_done.store(true, Ordering::Relaxed);
    });
    assert!(began.elapsed() < AT_ONCE, "{:?}", began.elapsed());
}
