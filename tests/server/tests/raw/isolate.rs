//! A tenant's own partitions: what was stored before, comes meanwhile and comes later is the same as without them, for everybody.

use postgres::Client;
use postgres::error::SqlState;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use tally_server_tests::{Database, assert_same, away_from_midnight, ingest, json_array};

/// Events of four tenants in four months of 2026, `numbers` of them; one tenant's name needs quoting.
fn events(numbers: std::ops::Range<usize>) -> String {
    let events: Vec<String> = numbers
        .map(|n| {
            format!(
                r#"{{"tenant_id":"{}","account_id":"a{}","name":"n{}","user_id":"u{}","event_id":"00000000-0000-4000-8000-{n:012}",
                    "occurred_at":"2026-0{}-{:02}T{:02}:00:00Z","properties":{{"value":{n}}}}}"#,
                TENANTS[n % 4], n % 7, n % 3, n % 31, 1 + n % 5, 1 + n % 28, n % 24
            )
        })
        .collect();
    json_array(events.iter().map(String::as_str))
}

const TENANTS: [&str; 4] = ["small", "O'Hara \u{201c}big\u{201d} {1}", "other", "third"];
const BIG: &str = TENANTS[1];

struct Shop {
    database: Database,
    admin: String,
    loader: String,
    reader: String,
}

impl Shop {
    fn new(topic: &str) -> Self {
        let mut database = Database::new(topic);
        let admin = database.role("admin", &["tally_admin"]);
        let loader = database.role("loader", &["tally_writer"]);
        let reader = database.role("reader", &["tally_reader"]);
        let mut superuser = database.superuser();
        superuser.execute("SELECT tally.trust_role($1::text::regrole)", &[&loader]).unwrap();
        superuser.execute("SELECT tally.bind_role($1::text::regrole, 'small')", &[&reader]).unwrap();
        Self { database, admin, loader, reader }
    }

    fn admin(&self) -> Client {
        self.database.connect(&self.admin)
    }

    fn send(&self, numbers: std::ops::Range<usize>) -> [i64; 3] {
        let summary = ingest(&mut self.database.connect(&self.loader), &events(numbers)).unwrap();
        [summary.accepted, summary.duplicates, summary.conflicts]
    }

    fn isolate(&self, tenant: &str, from: &str) -> Vec<String> {
        let made = "SELECT * FROM tally.isolate_tenant($1, $2::text::timestamptz)";
        let until = Instant::now() + Duration::from_secs(180);
        loop {
            match self.admin().query(made, &[&tenant, &from]) {
                Ok(rows) => return rows.iter().map(|row| row.get(0)).collect(),
                // It gives up where calls of others are always under way when it tries, as its hint says.
                Err(error) => {
                    let code = error.code().map(SqlState::code);
                    assert!(code == Some("55P03") && Instant::now() < until, "{error:?}");
                }
            }
        }
    }

    /// All raw events and daily numbers, and that they are the same recomputed.
    fn shown(&self) -> Vec<String> {
        let mut superuser = self.database.superuser();
        superuser.batch_execute("BEGIN; SELECT tally.enter_global()").unwrap();
        let lines = "SELECT 'event ' || row(tenant_id, account_id, name, user_id, occurred_at, event_id, properties)::text FROM tally.events
                      UNION ALL
                     SELECT 'day ' || row(tenant_id, account_id, bucket, name, events, users)::text FROM tally.usage_day ORDER BY 1";
        assert_eq!(count(&mut superuser, "SELECT count(*) FROM tally.verify_rollup('usage')"), 0);
        superuser.query(lines, &[]).unwrap().iter().map(|row| row.get(0)).collect()
    }

    /// Names of the leaves that hold a tenant's events.
    fn leaves(&self, tenant: &str) -> Vec<String> {
        let held =
            "SELECT DISTINCT tableoid::regclass::text FROM tally.events WHERE tenant_id = $1 ORDER BY 1";
        let leaves = self.database.superuser().query(held, &[&tenant]).unwrap();
        leaves.iter().map(|row| row.get::<_, String>(0).replace("tally.events_p2026_", "")).collect()
    }
}

fn count(client: &mut Client, query: &str) -> i64 {
    client.query_one(query, &[]).unwrap_or_else(|error| panic!("{query}: {error}")).get(0)
}

#[test]
fn an_isolated_tenant_is_as_before_to_everybody() {
    let (plain, shop) = (Shop::new("isolate_plain"), Shop::new("isolate"));
    for shop in [&plain, &shop] {
        assert_eq!(shop.send(0..400), [400, 0, 0]);
    }
    assert_same("before", &plain.shown(), &shop.shown());
    let made = shop.isolate(BIG, "2026-03-20T12:00:00Z");
    assert_eq!(made, ["events_p2026_03_t1", "events_p2026_04_t1", "events_p2026_05_t1"]);
    assert!(shop.isolate(BIG, "2026-04-01T00:00:00Z").is_empty(), "again");
    assert_same("after", &plain.shown(), &shop.shown());
    assert_eq!(shop.leaves(BIG), ["01", "02", "03_t1", "04_t1", "05_t1"]);
    assert_eq!(shop.leaves("small"), ["01", "02", "03_rest", "04_rest", "05_rest"]);

    // What was there is a duplicate, what is new goes where it belongs, other content is a conflict.
    for shop in [&plain, &shop] {
        assert_eq!(shop.send(200..600), [200, 200, 0]);
    }
    let other = events(0..50).replace("\"value\"", "\"price\"");
    for shop in [&plain, &shop] {
        let summary = ingest(&mut shop.database.connect(&shop.loader), &other).unwrap();
        assert_eq!((summary.accepted, summary.conflicts), (0, 50));
    }
    assert_same("later", &plain.shown(), &shop.shown());
    assert_eq!(shop.leaves(BIG), ["01", "02", "03_t1", "04_t1", "05_t1"]);

    // Another one, further back; then a month that ingest makes.
    assert_eq!(
        shop.isolate("other", "2026-02-01T00:00:00Z"),
        ["02_t2", "03_t2", "04_t2", "05_t2"].map(|leaf| format!("events_p2026_{leaf}"))
    );
    assert_eq!(shop.isolate(BIG, "2026-02-11T00:00:00Z"), ["events_p2026_02_t1"]);
    for shop in [&plain, &shop] {
        let june = events(600..700).replace("2026-03", "2026-06");
        assert_eq!(ingest(&mut shop.database.connect(&shop.loader), &june).unwrap().accepted, 100);
    }
    assert_same("two", &plain.shown(), &shop.shown());
    assert_eq!(shop.leaves(BIG), ["01", "02_t1", "03_t1", "04_t1", "05_t1", "06_t1"]);
    assert_eq!(shop.leaves("other"), ["01", "02_t2", "03_t2", "04_t2", "05_t2", "06_t2"]);
    assert_eq!(shop.leaves("third"), ["01", "02_rest", "03_rest", "04_rest", "05_rest", "06_rest"]);

    // No longer: months that begin later have none, this month still has.
    away_from_midnight();
    let ended =
        "SELECT count(*) FILTER (WHERE tally.unisolate_tenant(t)) FROM unnest(ARRAY['other', 'third']) AS t";
    assert_eq!(count(&mut shop.admin(), ended), 1);
    let ahead = "SELECT tally.make_partitions(2)::int8";
    assert!(count(&mut shop.admin(), ahead) > 0);
    let own = "SELECT count(*) FROM pg_class WHERE relnamespace = 'tally'::regnamespace AND relname LIKE '%\\_t2' AND relkind = 'r'";
    assert_eq!(count(&mut shop.admin(), own), 6);
    let own = own.replace("t2", "t1");
    assert_eq!(count(&mut shop.admin(), &own), 8);
    assert_same("at the end", &plain.shown(), &shop.shown());
}

#[test]
fn nobody_reads_a_partition_by_name_and_nothing_is_left_unprotected() {
    let shop = Shop::new("isolate_roles");
    assert_eq!(shop.send(0..400), [400, 0, 0]);
    shop.isolate(BIG, "2026-01-01T00:00:00Z");
    let mut reader = shop.database.connect(&shop.reader);
    for partition in ["events_p2026_02", "events_p2026_02_t1", "events_p2026_02_rest"] {
        let refused = reader.query(&format!("SELECT FROM tally.{partition}"), &[]).unwrap_err();
        assert_eq!(refused.code(), Some(&SqlState::INSUFFICIENT_PRIVILEGE), "{partition}");
    }
    assert_eq!(count(&mut reader, "SELECT count(*) FROM tally.events"), 100);
    assert_eq!(count(&mut reader, "SELECT count(*) FROM tally.events WHERE tenant_id <> 'small'"), 0);
    for call in [
        "tally.isolate_tenant('small')",
        "tally.unisolate_tenant('small')",
        "tally_internal.split_months('small', now())",
    ] {
        let refused = reader.query(&format!("SELECT {call}"), &[]).unwrap_err();
        assert_eq!(refused.code(), Some(&SqlState::INSUFFICIENT_PRIVILEGE), "{call}");
    }
    assert!(reader.query("SELECT FROM tally.isolated_tenant", &[]).is_err());
    let mut superuser = shop.database.superuser();
    let unprotected =
        "SELECT count(*) FROM pg_partition_tree('tally.events') AS t JOIN pg_class AS c ON c.oid = t.relid
                        WHERE NOT c.relrowsecurity OR NOT c.relforcerowsecurity
                           OR (SELECT count(*) FROM pg_policy AS p WHERE p.polrelid = c.oid) <> 3";
    assert_eq!(count(&mut superuser, unprotected), 0);
    let found = "SELECT coalesce(string_agg(name || ': ' || detail, '; '), '') FROM tally.lint() WHERE detail LIKE '%events%'";
    // What everybody can read of an isolated tenant, and nothing else.
    let partitions =
        count(&mut superuser, "SELECT count(*) FROM pg_class WHERE relname ~ '_t1$' AND relkind = 'r'");
    assert_eq!(
        superuser.query_one(found, &[]).unwrap().get::<_, String>(0),
        format!(
            "tenant_in_partition_bound: bounds of {partitions} partitions of table tally.events name tenants"
        )
    );
}

#[test]
fn what_cannot_be_isolated_is_refused() {
    let shop = Shop::new("isolate_refused");
    let mut admin = shop.admin();
    for (call, sqlstate) in [
        ("isolate_tenant('')", "22023"),
        ("isolate_tenant(repeat('x', 201))", "22023"),
        ("isolate_tenant('a', 'infinity')", "22023"),
        ("isolate_tenant('a', '-infinity')", "22023"),
    ] {
        let refused = admin.query(&format!("SELECT tally.{call}"), &[]).unwrap_err();
        assert_eq!(refused.code().map(SqlState::code), Some(sqlstate), "{call}: {refused}");
    }
    let mut fixed =
        admin.build_transaction().isolation_level(postgres::IsolationLevel::RepeatableRead).start().unwrap();
    let refused = fixed.query("SELECT tally.isolate_tenant('a')", &[]).unwrap_err();
    assert_eq!(refused.code().map(SqlState::code), Some("25001"));
    fixed.rollback().unwrap();
    admin.batch_execute("SELECT tally.isolate_tenant('t' || n) FROM generate_series(1, 100) AS n").unwrap();
    let refused = admin.query("SELECT tally.isolate_tenant('t101')", &[]).unwrap_err();
    assert_eq!(refused.code().map(SqlState::code), Some("54000"));
    admin.batch_execute("SELECT tally.isolate_tenant('t7'), tally.unisolate_tenant('t8')").unwrap();
    admin.batch_execute("SELECT tally.isolate_tenant('t101')").unwrap();
}

#[test]
fn ingest_goes_on_while_a_tenant_is_isolated() {
    let shop = Shop::new("isolate_race");
    assert_eq!(shop.send(0..200), [200, 0, 0]);
    let done = AtomicBool::new(false);
    let sent: usize = thread::scope(|scope| {
        let (shop, done) = (&shop, &done);
        let writers: Vec<_> = (0..3)
            .map(|writer| {
                scope.spawn(move || {
                    let mut sent = 0;
                    while !done.load(Ordering::Relaxed) || sent == 0 {
                        let first = 10_000 * (writer + 1) + sent;
                        assert_eq!(shop.send(first..first + 20), [20, 0, 0]);
                        sent += 20;
                    }
                    sent
                })
            })
            .collect();
        for (tenant, from) in [(BIG, "2026-03-01"), ("other", "2026-01-01"), (BIG, "2026-01-01")] {
            assert!(!shop.isolate(tenant, from).is_empty(), "{tenant}");
            shop.admin()
                .batch_execute("SELECT tally.make_partitions(3); SELECT tally.fold('usage')")
                .unwrap();
        }
        done.store(true, Ordering::Relaxed);
        writers.into_iter().map(|writer| writer.join().unwrap()).sum()
    });
    let events = shop.shown().iter().filter(|line| line.starts_with("event ")).count();
    assert_eq!(events, 200 + sent);
    assert_eq!(shop.leaves(BIG), ["01_t1", "02_t1", "03_t1", "04_t1", "05_t1"]);
    assert_eq!(shop.leaves("small"), ["01_rest", "02_rest", "03_rest", "04_rest", "05_rest"]);
}
