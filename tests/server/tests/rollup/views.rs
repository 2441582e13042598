//! What the views over rollups answer where much is pending, and what they refuse.

use postgres::Client;
use tally_server_tests::{Database, number};

/// As many events as `count`, each of another account, half of them of a bucket that has a base row.
fn send(client: &mut Client, from: i64, count: i64) {
    let send = "SELECT (tally.ingest(jsonb_agg(jsonb_build_object('tenant_id', 't' || n % 3, 'account_id', 'a' || n / 2, 'name', 'n', 'user_id', 'u' || n % 5,
                  'event_id', tally.event_id(n::text), 'occurred_at', '2026-03-03T09:15:00Z'))::text)).accepted
                  FROM generate_series($1::int8, $1::int8 + $2::int8 - 1) AS n";
    let accepted: i64 = client.query_one(send, &[&from, &count]).unwrap().get(0);
    assert_eq!(accepted, count);
}

/// With the least memory there is, a view knows 8,192 pending keys apart; where there are more it groups everything.
#[test]
fn more_pending_keys_than_memory_holds_are_no_error() {
    let mut database = Database::new("pending_keys");
    database.set("tally.pending_limit = '1GB'");
    let analyst = database.role("analyst", &["tally_reader", "tally_analyst"]);
    let mut superuser = database.superuser();
    send(&mut superuser, 0, 10_000);
    superuser.batch_execute("SELECT tally.fold('usage')").unwrap();
    let mut analyst = database.connect(&analyst);
    let mut sent = 10_000;
    for (more, is_full) in [(100, false), (20_000, true)] {
        send(&mut superuser, sent, more);
        sent += more;
        for memory in [
            "SET work_mem = '64kB'; SET hash_mem_multiplier = 1",
            "RESET work_mem; RESET hash_mem_multiplier",
        ] {
            let mut transaction = analyst.transaction().unwrap();
            transaction.batch_execute(&format!("{memory}; SELECT tally.enter_global()")).unwrap();
            let mut ask = |query: &str| transaction.query_one(query, &[]).unwrap().get::<_, i64>(0);
            for view in ["usage_day", "usage_day_state"] {
                assert_eq!(ask(&format!("SELECT sum(events)::int8 FROM tally.{view}")), sent, "{memory}");
                let rows = format!(
                    "SELECT count(*) - count(DISTINCT (tenant_id, account_id, bucket, name)) FROM tally.{view}"
                );
                assert_eq!(ask(&rows), 0, "{view}: one row a group; {memory}");
            }
            let bytes = ask(
                "SELECT length(tally_internal.pending_keys(tenant_id, account_id, bucket, 'day'))::int8 FROM tally.usage_pending",
            );
            assert_eq!(
                bytes == 8,
                is_full && memory.starts_with("SET"),
                "a filter of {bytes} bytes; {memory}"
            );
            transaction.rollback().unwrap();
        }
    }
    drop(database);
}

/// Rows of a view can't be locked: what is asked to lock them fails, for whoever may update a view and so may ask.
#[test]
fn locking_a_views_rows_is_refused() {
    let database = Database::new("locking");
    let mut superuser = database.superuser();
    send(&mut superuser, 0, 100);
    superuser
        .batch_execute("SELECT tally.create_rollup('visits', '{minute,day,year}', ARRAY['count(*) AS n', 'max(name) AS latest'], ARRAY['user_id'])")
        .unwrap();
    superuser.batch_execute("CREATE VIEW public.own AS SELECT * FROM tally.visits_day").unwrap();
    superuser.batch_execute("CALL tally.maintain()").unwrap();
    let views: Vec<String> = superuser
        .query(
            "SELECT c.oid::regclass::text FROM pg_class AS c WHERE c.relkind = 'v' AND (c.relnamespace = 'tally'::regnamespace
               AND (c.relname ~ '_(minute|hour|day|week|month|quarter|year)(_state)?$' OR c.relname IN ('users', 'accounts')) OR c.oid = 'public.own'::regclass)",
            &[],
        )
        .unwrap()
        .iter()
        .map(|row| row.get(0))
        .collect();
    assert!(views.len() > 12, "{views:?}");
    for view in views {
        let mut transaction = superuser.transaction().unwrap();
        transaction.batch_execute("SELECT tally.enter_global()").unwrap();
        transaction.batch_execute(&format!("SELECT * FROM {view}")).unwrap();
        for lock in ["UPDATE", "NO KEY UPDATE", "SHARE", "KEY SHARE", "UPDATE SKIP LOCKED"] {
            let mut nested = transaction.transaction().unwrap();
            let refused = nested.batch_execute(&format!("SELECT * FROM {view} FOR {lock}"));
            let refused = refused.expect_err(&format!("{view} for {lock}"));
            assert_eq!(refused.code().unwrap().code(), "0A000", "{view} for {lock}: {refused}");
        }
    }
    assert_eq!(
        number(
            &mut superuser,
            "SELECT count(*) FROM pg_locks WHERE mode = 'RowShareLock' AND pid = pg_backend_pid()"
        ),
        0
    );
}
