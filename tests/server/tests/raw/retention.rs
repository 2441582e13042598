//! Retention per tenant: what a tenant no longer keeps goes, with its keys, in bounded steps; no number changes, no retry is
//! counted again, and nobody else's events are touched.

use postgres::Client;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use tally_server_tests::{Database, assert_same, away_from_midnight, ingest, json_array, number};

/// Days ago of each event; each tenant has one of each.
const AGES: std::ops::Range<usize> = 0..150;

struct Bench {
    database: Database,
    admin: String,
    loader: String,
    /// Midnight so many days ago.
    days: Vec<String>,
}

impl Bench {
    fn new(topic: &str) -> Self {
        let mut database = Database::new(topic);
        away_from_midnight();
        let admin = database.role("admin", &["tally_admin"]);
        let loader = database.role("loader", &["tally_writer"]);
        let mut superuser = database.superuser();
        superuser.execute("SELECT tally.trust_role($1::text::regrole)", &[&loader]).unwrap();
        let days = superuser
            .query(
                "SELECT to_char(date_trunc('day', now(), 'UTC') AT TIME ZONE 'UTC' - make_interval(days => n), 'YYYY-MM-DD')
                   FROM generate_series(0, 200) AS n ORDER BY n",
                &[],
            )
            .unwrap();
        let days = days.iter().map(|row| row.get(0)).collect();
        let bench = Self { database, admin, loader, days };
        bench
            .admin()
            .batch_execute("SELECT tally.create_rollup('sums', '{week,month}', dimensions => '{name}', measures => ARRAY['count(*) AS n', 'distinct(user_id) AS users'])")
            .unwrap();
        for tenant in 0..3 {
            assert_eq!(ingest(&mut bench.loader(), &bench.batch(tenant, AGES)).unwrap().accepted, 150);
        }
        // Some months are partitioned by tenant, too.
        bench
            .admin()
            .batch_execute("SELECT tally.isolate_tenant('t0', now() - interval '100 days')")
            .unwrap();
        bench
    }

    fn admin(&self) -> Client {
        self.database.connect(&self.admin)
    }

    fn loader(&self) -> Client {
        self.database.connect(&self.loader)
    }

    fn batch(&self, tenant: usize, ages: std::ops::Range<usize>) -> String {
        let events: Vec<String> = ages
            .map(|age| {
                format!(
                    r#"{{"tenant_id":"t{tenant}","account_id":"a{}","name":"n","user_id":"u{}","event_id":"00000000-0000-4000-8000-{age:012}","occurred_at":"{}T00:00:01Z"}}"#,
                    age % 2, age % 11, self.days[age]
                )
            })
            .collect();
        json_array(events.iter().map(String::as_str))
    }

    /// Every number that the views show.
    fn shown(&self, admin: &mut Client) -> Vec<String> {
        let mut transaction = admin.transaction().unwrap();
        transaction.execute("SELECT tally.enter_global()", &[]).unwrap();
        let mut lines = Vec::new();
        for (view, columns) in [
            ("usage_day", "tenant_id, account_id, bucket, name, events, users, first_at, last_at"),
            ("sums_week", "tenant_id, account_id, bucket, name, n, users"),
            ("sums_month", "tenant_id, account_id, bucket, name, n, users"),
        ] {
            let query = format!("SELECT '{view}' || row({columns})::text FROM tally.{view} ORDER BY 1");
            lines.extend(transaction.query(&query, &[]).unwrap().iter().map(|row| row.get::<_, String>(0)));
        }
        for rollup in ["usage", "sums"] {
            let query = format!("SELECT count(*) FROM tally.verify_rollup('{rollup}')");
            assert_eq!(transaction.query_one(&query, &[]).unwrap().get::<_, i64>(0), 0, "{rollup}");
        }
        lines
    }

    /// Raw events and ledger keys of each tenant.
    fn kept(&self) -> Vec<(i64, i64)> {
        let mut superuser = self.database.superuser();
        (0..3)
            .map(|tenant| {
                let row = superuser
                    .query_one(
                        "SELECT (SELECT count(*) FROM tally.events WHERE tenant_id = $1), (SELECT count(*) FROM tally.event_key WHERE tenant_id = $1)",
                        &[&format!("t{tenant}")],
                    )
                    .unwrap();
                (row.get(0), row.get(1))
            })
            .collect()
    }
}

fn step(admin: &mut Client, rows: i64) -> i64 {
    admin.query_one("SELECT tally.retain($1)", &[&rows]).unwrap().get(0)
}

#[test]
fn a_tenant_keeps_what_it_asked_for_and_every_number() {
    let bench = Bench::new("retention");
    let mut admin = bench.admin();
    let before = bench.shown(&mut admin);
    admin
        .batch_execute(
            "SELECT tally.set_retention('t0', '30 days'); SELECT tally.set_retention('t1', '3 months')",
        )
        .unwrap();
    assert_eq!(step(&mut admin, 10), 2, "the horizons move first");
    assert_eq!(step(&mut admin, 10), 0, "nothing goes that isn't folded");
    assert_eq!(bench.kept(), [(150, 150); 3]);
    let fold = "SELECT sum(tally.fold(rollup_name))::int8 FROM tally.rollup";
    while admin.query_one(fold, &[]).unwrap().get::<_, i64>(0) > 0 {}
    assert_eq!(step(&mut admin, 10), 10);
    assert_eq!(bench.kept()[0], (140, 140));
    assert_same("half way", &before, &bench.shown(&mut admin));
    // Batches that are older than a tenant's horizon, and their rejected events, go with what they carried.
    bench
        .database
        .superuser()
        .batch_execute(
            "INSERT INTO tally.ingest_batch (batch_id, ingested_at, accepted, duplicates, conflicts, rejected, tenant_id, caller)
             SELECT (extract(epoch FROM now() - age - timestamptz '2000-01-01Z') * 1000)::int8 << 22, now() - age, 0, 0, 0, 1, tenant, 'x'
               FROM unnest('{t0,t2}'::text[]) AS tenant, unnest('{33 days,29 days}'::interval[]) AS age;
             INSERT INTO tally.quarantine (batch_id, quarantined_at, position, tenant_id, account_id, outcome, sqlstate, reason, body)
             SELECT batch_id, ingested_at, 0, tenant_id, '', 'rejected', '22007', 'old', '{}' FROM tally.ingest_batch WHERE caller = 'x'",
        )
        .unwrap();
    admin.batch_execute("CALL tally.maintain(7)").unwrap();
    let left = "SELECT (SELECT string_agg(tenant_id, ' ' ORDER BY tenant_id) FROM tally.ingest_batch WHERE caller = 'x'),
                       (SELECT string_agg(tenant_id, ' ' ORDER BY tenant_id) FROM tally.quarantine WHERE reason = 'old'),
                       (SELECT string_agg(tenant_id || ' ' || events || ' ' || reason, ', ') FROM tally.quarantine_discard)";
    let row = bench.database.superuser().query_one(left, &[]).unwrap();
    let left: [Option<&str>; 3] = [row.get(0), row.get(1), row.get(2)];
    assert_eq!(left, [Some("t0 t2 t2"), Some("t0 t2 t2"), Some("t0 1 retention")]);
    assert_eq!(step(&mut admin, 10), 0);
    let kept = bench.kept();
    // The days from 30 days ago on, and today.
    assert_eq!(kept[0], (31, 31));
    assert!((89..=93).contains(&kept[1].0) && kept[1].0 == kept[1].1, "{kept:?}");
    assert_eq!(kept[2], (150, 150));
    assert_same("pruned", &before, &bench.shown(&mut admin));

    // Resent: what is too old says so, what is kept is known, others' are known whatever their age.
    let mut loader = bench.loader();
    let again = ingest(&mut loader, &bench.batch(0, AGES)).unwrap();
    assert_eq!((again.accepted, again.duplicates, again.rejected), (0, 31, 119));
    let details = again.details.unwrap();
    let late = details.as_array().unwrap().iter().filter(|detail| detail["outcome"] == "rejected");
    assert!(
        late.clone().count() == 119 && late.clone().all(|detail| detail["sqlstate"] == "22T11"),
        "{details}"
    );
    assert_eq!(ingest(&mut loader, &bench.batch(2, AGES)).unwrap().duplicates, 150);

    // Rebuilding and altering leave what is frozen as it is.
    admin.batch_execute("SELECT tally.rebuild_rollup('usage'); SELECT tally.rebuild_rollup('sums')").unwrap();
    assert_same("rebuilt", &before, &bench.shown(&mut admin));
    let refused = admin
        .query(&format!("SELECT tally.rebuild_rollup('usage', '{}', NULL, 't0')", bench.days[100]), &[])
        .unwrap_err();
    assert_eq!(refused.code().unwrap().code(), "55000");
    admin
        .batch_execute(
            "SELECT tally.alter_rollup('sums', add_measures => ARRAY['max(occurred_at) AS latest'])",
        )
        .unwrap();
    assert_same("altered", &before, &bench.shown(&mut admin));

    // A default for everybody: months that all have passed go whole, with their keys; the horizon never goes back.
    admin
        .batch_execute("SELECT tally.set_retention(NULL, '40 days'); SELECT tally.set_retention('t0', NULL)")
        .unwrap();
    admin.batch_execute("CALL tally.maintain()").unwrap();
    let kept = bench.kept();
    assert_eq!((kept[0], kept[2]), ((31, 31), (41, 41)));
    let oldest: String = bench
        .database
        .superuser()
        .query_one("SELECT min(inhrelid::regclass::text) FROM pg_inherits WHERE inhparent = 'tally.events'::regclass", &[])
        .unwrap()
        .get(0);
    assert!(
        oldest.as_str() >= format!("tally.events_p{}", bench.days[95][..7].replace('-', "_")).as_str(),
        "{oldest}"
    );
    assert_same("everybody's", &before, &bench.shown(&mut admin));

    let short = admin.batch_execute("SELECT tally.set_retention('t0', '1 hour')").unwrap_err();
    assert_eq!(short.code().unwrap().code(), "22023");
    assert!(loader.batch_execute("SELECT tally.set_retention('t0', '2 days')").is_err(), "not for everybody");
}

/// A year's bucket gets pending rows for as long as events come in.
#[test]
fn retention_goes_on_while_events_come_in() {
    let bench = Bench::new("retention_busy");
    let (mut admin, mut loader) = (bench.admin(), bench.loader());
    admin.batch_execute("SELECT tally.set_retention('t0', '30 days')").unwrap();
    assert_eq!(step(&mut admin, 10), 1, "the horizon moves");
    let fold = "SELECT sum(tally.fold(rollup_name))::int8 FROM tally.rollup";
    while admin.query_one(fold, &[]).unwrap().get::<_, i64>(0) > 0 {}
    let fresh = bench.batch(0, 0..1).replace("-4000-8000-", "-4000-9000-");
    assert_eq!(ingest(&mut loader, &fresh).unwrap().accepted, 1);
    assert_eq!(step(&mut admin, 10), 10);
    assert_eq!(bench.kept()[0], (141, 141));
}

#[test]
fn no_retry_is_counted_again_while_retention_runs() {
    let bench = Bench::new("retention_race");
    let mut admin = bench.admin();
    let before = bench.shown(&mut admin);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let mut loader = bench.loader();
                while !done.load(Ordering::Relaxed) {
                    for tenant in 0..3 {
                        let summary = ingest(&mut loader, &bench.batch(tenant, AGES)).unwrap();
                        assert_eq!((summary.accepted, summary.conflicts), (0, 0));
                    }
                }
            });
        }
        let kept = [140, 100, 60, 20, 5].iter().try_for_each(|keep| {
            admin.batch_execute(&format!("SELECT tally.set_retention(NULL, '{keep} days')"))?;
            admin.batch_execute("CALL tally.maintain(20)")
        });
        // Before anything can fail: the others wait for it.
        done.store(true, Ordering::Relaxed);
        kept.unwrap();
    });
    admin.batch_execute("CALL tally.maintain()").unwrap();
    assert_eq!(bench.kept(), [(6, 6); 3]);
    assert_same("raced", &before, &bench.shown(&mut admin));
}

#[test]
fn cold_months_move_and_leave_by_name() {
    let bench = Bench::new("cold");
    let mut admin = bench.admin();
    admin.batch_execute("CALL tally.maintain()").unwrap();
    let before = bench.shown(&mut admin);
    let mut superuser = bench.database.superuser();
    let space = format!("cold_{}", std::process::id());
    superuser.batch_execute("SET allow_in_place_tablespaces = true").unwrap();
    superuser.batch_execute(&format!("CREATE TABLESPACE {space} LOCATION ''")).unwrap();
    superuser.batch_execute(&format!("GRANT CREATE ON TABLESPACE {space} TO tally_owner")).unwrap();
    let cold = &bench.days[100];
    let names = |client: &mut Client, query: String| -> Vec<String> {
        client.query(&query, &[]).unwrap().iter().map(|row| row.get(0)).collect()
    };
    let moved = names(&mut admin, format!("SELECT * FROM tally.move_raw('{cold}', '{space}')"));
    assert!(!moved.is_empty());
    assert!(names(&mut admin, format!("SELECT * FROM tally.move_raw('{cold}', '{space}')")).is_empty());
    let there = format!(
        "SELECT c.relname::text FROM pg_class AS c JOIN pg_tablespace AS t ON t.oid = c.reltablespace WHERE t.spcname = '{space}' AND c.relkind = 'r' ORDER BY 1"
    );
    assert_eq!(names(&mut superuser, there), moved);
    assert_same("moved", &before, &bench.shown(&mut admin));

    let count: i64 = superuser.query_one("SELECT count(*) FROM tally.events", &[]).unwrap().get(0);
    let left = names(&mut admin, format!("SELECT * FROM tally.detach_raw('{cold}')"));
    assert_eq!(left.len(), moved.len());
    assert!(left.iter().all(|name| name.starts_with("detached_events_")), "{left:?}");
    assert_same("detached", &before, &bench.shown(&mut admin));
    let mut gone = 0;
    for name in &left {
        gone +=
            superuser.query_one(&format!("SELECT count(*) FROM tally.{name}"), &[]).unwrap().get::<_, i64>(0);
        let lines = superuser
            .copy_out(&format!("COPY (SELECT * FROM tally.{name}) TO STDOUT"))
            .map(std::io::read_to_string);
        assert!(!lines.unwrap().unwrap().is_empty(), "exported by name");
    }
    assert_eq!(
        superuser.query_one("SELECT count(*) FROM tally.events", &[]).unwrap().get::<_, i64>(0),
        count - gone
    );
    // A late event of a detached month finds a place.
    let late = bench.batch(0, 149..150).replace("00000000-", "11111111-");
    assert_eq!(ingest(&mut bench.loader(), &late).unwrap().accepted, 1);
    // What was left behind is isolated as before.
    let errors = "SELECT count(*) FROM tally.lint() WHERE level = 'ERROR'";
    assert_eq!(superuser.query_one(errors, &[]).unwrap().get::<_, i64>(0), 0);
    for name in &left {
        superuser.batch_execute(&format!("DROP TABLE tally.{name}")).unwrap();
    }
    superuser.batch_execute("SELECT 1").unwrap();
    for name in names(
        &mut superuser,
        format!(
            "SELECT c.oid::regclass::text FROM pg_class AS c JOIN pg_tablespace AS t ON t.oid = c.reltablespace WHERE t.spcname = '{space}' AND c.relkind = 'r'"
        ),
    ) {
        superuser.batch_execute(&format!("DROP TABLE {name}")).unwrap();
    }
    superuser.batch_execute(&format!("DROP TABLESPACE {space}")).unwrap();
}

/// Two that keep house at once: what the one is removing doesn't look to the other as if nothing were left.
#[test]
fn two_housekeepers_leave_nothing() {
    let bench = Bench::new("two_keepers");
    let [mut first, mut second] = [bench.admin(), bench.admin()];
    first
        .batch_execute("SELECT tally.set_retention('t1', '90 days'), tally.set_retention('t2', '90 days')")
        .unwrap();
    assert_eq!(step(&mut first, 10), 2, "the horizons move first");
    let fold = "SELECT sum(tally.fold(rollup_name))::int8 FROM tally.rollup";
    while first.query_one(fold, &[]).unwrap().get::<_, i64>(0) > 0 {}
    let old = "SELECT count(*) FROM tally.events WHERE tenant_id IN ('t1', 't2') AND occurred_at < date_trunc('day', now() - interval '90 days', 'UTC')";
    let mut superuser = bench.database.superuser();
    assert!(number(&mut superuser, old) > 50);
    first.batch_execute("BEGIN").unwrap();
    assert!(step(&mut first, 10) > 0);
    thread::scope(|scope| {
        let beside = scope.spawn(move || (0..40).map(|_| step(&mut second, 10)).sum::<i64>());
        thread::sleep(std::time::Duration::from_millis(300));
        first.batch_execute("COMMIT").unwrap();
        beside.join().unwrap();
    });
    let mut admin = bench.admin();
    while step(&mut admin, 100) > 0 {}
    assert_eq!(number(&mut superuser, old), 0);
    assert_eq!(
        number(&mut superuser, "SELECT count(*) FROM tally.tenant_horizon WHERE pruned_from < raw_from"),
        0
    );
}

#[test]
fn a_retention_beyond_all_time_is_refused_and_stops_nobody() {
    let bench = Bench::new("long_retention");
    let mut admin = bench.admin();
    let refused = admin.batch_execute("SELECT tally.set_retention('t1', '10000 years')").unwrap_err();
    assert_eq!(refused.code().unwrap().code(), "22023");
    // As an earlier version took it.
    bench
        .database
        .superuser()
        .batch_execute("INSERT INTO tally.retention (keep, tenant_id) VALUES ('10000 years', 't1')")
        .unwrap();
    admin.batch_execute("SELECT tally.set_retention('t2', '90 days')").unwrap();
    assert!(step(&mut admin, 10) > 0);
}

/// Months that are still to come aren't taken for gone.
#[test]
fn what_is_dropped_ends_with_the_present_month() {
    let bench = Bench::new("future_drop");
    let mut admin = bench.admin();
    admin.batch_execute("CALL tally.maintain()").unwrap();
    admin.batch_execute("SELECT tally.drop_raw('2999-12-01')").unwrap();
    let mut superuser = bench.database.superuser();
    let frozen = "SELECT count(*) FROM tally.raw_horizon WHERE raw_from = date_trunc('month', now() + interval '1 day', 'UTC') + interval '1 month'";
    assert_eq!(number(&mut superuser, frozen), 1);
    assert_eq!(number(&mut superuser, "SELECT count(*) FROM tally.events"), 0);
}

/// Who opens months and doesn't commit is in nobody's way, of whose events' months some are there already.
#[test]
fn opening_months_keeps_nobody_waiting() {
    let database = Database::new("opening");
    let [mut opener, mut writer] = [database.superuser(), database.superuser()];
    let event = |id: u32, time: &str| {
        format!(
            r#"{{"tenant_id": "t", "account_id": "a", "name": "n", "occurred_at": "{time}", "event_id": "00000000-0000-4000-8000-{id:012}"}}"#
        )
    };
    assert_eq!(ingest(&mut writer, &event(1, "2020-05-01T00:00:00Z")).unwrap().accepted, 1);
    opener.batch_execute("SELECT tally.open_months('2020-01-01')").unwrap();
    opener
        .batch_execute("BEGIN; SELECT tally.open_months('2020-02-01'), tally.open_months('2020-01-01', 't')")
        .unwrap();
    writer.batch_execute("SET statement_timeout = '5s'").unwrap();
    for (id, time) in [(2, "2020-05-02T00:00:00Z"), (3, "2020-06-02T00:00:00Z")] {
        assert_eq!(ingest(&mut writer, &event(id, time)).unwrap().accepted, 1, "{time}");
    }
    opener.batch_execute("ROLLBACK").unwrap();
}
