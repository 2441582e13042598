//! What sessions that act for tenants may not do, and limits that SQL can't lift.

use postgres::error::SqlState;
use postgres::{Client, GenericClient};
use tally_server_tests::{Database, TokenSigner};

fn code(outcome: Result<impl Sized, postgres::Error>) -> String {
    match outcome {
        Ok(_) => "no error".to_owned(),
        Err(error) => error.code().map(SqlState::code).unwrap_or_default().to_owned(),
    }
}

fn setting(client: &mut impl GenericClient, name: &str) -> String {
    client.query_one("SELECT current_setting($1)", &[&name]).unwrap().get(0)
}

/// A database that loads the library when a session begins, with roles: bound to `a`, pool, trusted, a reader that is
/// nothing, an analyst, and one that has nothing to do with pg_tally.
struct Confined {
    database: Database,
    signer: TokenSigner,
    roles: [String; 6],
}

fn confined(topic: &str) -> Confined {
    let mut database = Database::new(topic);
    let roles = [
        database.role("bound", &["tally_reader"]),
        database.role("pool", &["tally_reader"]),
        database.role("trusted", &["tally_reader"]),
        database.role("nobody", &["tally_reader"]),
        database.role("analyst", &["tally_analyst"]),
        database.role("stranger", &[]),
    ];
    let mut admin = database.superuser();
    admin
        .batch_execute(&format!(
            "ALTER DATABASE {} SET session_preload_libraries = pg_tally;
             SELECT tally.bind_role('{}', 'a'), tally.pool_role('{}'), tally.trust_role('{}')",
            database.name(),
            roles[0],
            roles[1],
            roles[2]
        ))
        .unwrap();
    let signer = TokenSigner::new("k", 1);
    signer.register(&mut admin).unwrap();
    Confined { database, signer, roles }
}

#[test]
fn commands_that_tell_or_stay_are_refused_to_those_who_act_for_tenants() {
    let confined = confined("confined");
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

#[test]
fn limits_hold_whatever_sql_sets() {
    let confined = confined("limits");
    let [bound, pool, trusted, ..] = &confined.roles;
    let mut admin = confined.database.superuser();
    admin.batch_execute("SELECT tally.limit_tenant('a', 400, 1024, 0)").unwrap();
    let names = ["statement_timeout", "work_mem", "max_parallel_workers_per_gather"];
    let limited = ["400ms", "1MB", "0"];
    let lift = "SET LOCAL statement_timeout = 0; SET LOCAL work_mem = '1GB'; SET LOCAL max_parallel_workers_per_gather = 8";
    for role in [bound, pool] {
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
            assert_eq!(code(client.batch_execute("SELECT pg_sleep(20)")), "57014", "{role}: {lift}");
            client.batch_execute("ROLLBACK").unwrap();
        }
    }
    // A bound login has them in its first statement, and doesn't leave them behind when it is bound elsewhere.
    let mut client = confined.database.connect(bound);
    assert_eq!(code(client.batch_execute("SELECT pg_sleep(20)")), "57014");
    admin.batch_execute(&format!("SELECT tally.bind_role('{bound}', 'b')")).unwrap();
    client.batch_execute("SELECT pg_sleep(0.5)").unwrap();
    assert_eq!(setting(&mut client, "work_mem"), "4MB");
    // Parallel workers run with what their leader was given.
    admin
        .batch_execute(&format!(
            "SELECT tally.bind_role('{bound}', 'a'), tally.limit_tenant('a', 60000, 1024, 2)"
        ))
        .unwrap();
    client
        .batch_execute("SET force_parallel_mode = on; SET work_mem = '1GB'; SELECT count(*) FROM tally.events; SELECT tally.enter('a', 'x')")
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
    let confined = confined("slots");
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
        for _ in 0..100 {
            free = begin(roles[0], "a", "").is_ok();
            if free {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
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
