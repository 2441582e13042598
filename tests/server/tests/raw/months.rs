//! Which months ingest opens by itself: a year and a month back, more where that was declared; what is refused comes in later.

use postgres::Client;
use std::sync::{Barrier, Mutex};
use std::thread;
use tally_server_tests::{Database, PrivateServer, away_from_midnight, ingest, number, wait_for};

struct Shop {
    database: Database,
    writer: String,
    admin: String,
}

impl Shop {
    fn new(topic: &str) -> Self {
        let mut database = Database::new(topic);
        away_from_midnight();
        let writer = database.role("writer", &["tally_writer", "tally_reader"]);
        let admin = database.role("admin", &["tally_admin"]);
        let mut superuser = database.superuser();
        superuser.execute("SELECT tally.bind_role($1::text::regrole, 'a')", &[&writer]).unwrap();
        // As installed: the template that tests are cloned from has all months open.
        superuser.batch_execute("SELECT tally.open_months(NULL)").unwrap();
        Self { database, writer, admin }
    }

    fn writer(&self) -> Client {
        self.database.connect(&self.writer)
    }

    fn admin(&self) -> Client {
        self.database.connect(&self.admin)
    }

    /// The first day of the month so many months ago, as the server sees it.
    fn month(&self, ago: i32) -> String {
        let start =
            "SELECT to_char(date_trunc('month', now(), 'UTC') - make_interval(months => $1), 'YYYY-MM-DD')";
        self.database.superuser().query_one(start, &[&ago]).unwrap().get(0)
    }

    fn partitions(&self) -> i64 {
        number(
            &mut self.database.superuser(),
            "SELECT count(*) FROM pg_inherits WHERE inhparent = 'tally.events'::regclass",
        )
    }
}

fn event(tenant: &str, day: &str, number: usize) -> String {
    format!(
        r#"{{"tenant_id":"{tenant}","account_id":"x","name":"n","occurred_at":"{day}T00:00:00Z",
            "event_id":"00000000-0000-4000-8000-{number:012}"}}"#
    )
}

#[test]
fn a_call_that_fails_for_an_event_of_ours_has_its_sqlstate() {
    let shop = Shop::new("own_sqlstate");
    let old = event("a", &shop.month(20), 1);
    let error = shop
        .writer()
        .query("SELECT * FROM tally.ingest($1::text, '{\"all_or_nothing\": true}')", &[&old])
        .unwrap_err();
    let error = error.as_db_error().expect("the server refuses it");
    assert_eq!(error.code().code(), "22T12");
    assert!(error.detail().is_some_and(|detail| detail.contains("22T12")), "{error:?}");
    assert!(error.hint().is_some_and(|hint| hint.contains("nothing of this batch was stored")), "{error:?}");
    // The function is a set in a FROM clause, and one row where it stands for itself.
    let good = event("a", &shop.month(0), 2);
    let row = shop.writer().query_one("SELECT (tally.ingest($1::text)).accepted", &[&good]).unwrap();
    assert_eq!(row.get::<_, i64>(0), 1);
}

#[test]
fn a_batch_of_every_month_since_1970_makes_those_of_a_year() {
    let shop = Shop::new("since_1970");
    let all: Vec<String> = (0..683).map(|ago| event("a", &shop.month(ago), ago as usize)).collect();
    let text = format!("[{}]", all.join(","));
    let summary = ingest(&mut shop.writer(), &text).unwrap();
    assert_eq!((summary.accepted, summary.rejected), (14, 683 - 14), "this month and thirteen before it");
    assert_eq!(shop.partitions(), 14);
    let details = summary.details.unwrap();
    let first = &details.as_array().unwrap()[0];
    assert_eq!(first["sqlstate"], "22T12");
    assert!(first["reason"].as_str().unwrap().contains("tally.open_months()"), "{first}");
    // A retry changes nothing.
    let again = ingest(&mut shop.writer(), &text).unwrap();
    assert_eq!((again.accepted, again.duplicates, again.rejected), (0, 14, 683 - 14));
    assert_eq!(shop.partitions(), 14);
    // Other doors are the same door.
    let typed = format!(
        "SELECT rejected FROM tally.ingest_events(ARRAY['{}'::tally.event])",
        event("a", "1999-01-01", 9001)
    );
    assert_eq!(number(&mut shop.writer(), &typed), 1);
    let mut writer = shop.writer();
    writer
        .batch_execute("INSERT INTO tally.inbox (tenant_id, account_id, name, occurred_at, event_id) VALUES ('a', 'x', 'n', '1999-02-01', '00000000-0000-4000-8000-000000009002')")
        .unwrap();
    assert_eq!(shop.partitions(), 14);
}

#[test]
fn what_was_refused_comes_in_once_its_month_is_open() {
    let shop = Shop::new("redriven");
    let old = shop.month(30);
    assert_eq!(ingest(&mut shop.writer(), &event("a", &old, 1)).unwrap().rejected, 1);
    assert_eq!(ingest(&mut shop.writer(), &event("a", &shop.month(13), 2)).unwrap().accepted, 1);
    // For another tenant, from a later month, and undone: still refused.
    let mut admin = shop.admin();
    let redrive = "SELECT accepted FROM tally.redrive()";
    let mut global = shop.database.superuser();
    let mut redriven = || {
        global.batch_execute("BEGIN; SELECT tally.enter_global()").unwrap();
        let accepted = number(&mut global, redrive);
        global.batch_execute("COMMIT").unwrap();
        accepted
    };
    for command in [
        "SELECT tally.open_months('-infinity', 'b')".to_owned(),
        format!("SELECT tally.open_months('{}')", shop.month(29)),
        "SELECT tally.open_months(NULL, 'b'), tally.open_months(NULL)".to_owned(),
        // What a tenant has of its own counts before what all have.
        format!("SELECT tally.open_months('-infinity'), tally.open_months('{}', 'a')", shop.month(20)),
    ] {
        admin.batch_execute(&command).unwrap();
        assert_eq!(redriven(), 0, "{command}");
    }
    admin
        .batch_execute(&format!("SELECT tally.open_months('{old}'::timestamptz + interval '20 days', 'a')"))
        .unwrap();
    assert_eq!(redriven(), 1, "the whole month is open");
    assert_eq!(ingest(&mut shop.writer(), &event("a", &old, 1)).unwrap().duplicates, 1);
    // A month that is there takes everybody's events.
    admin.batch_execute("SELECT tally.open_months(NULL), tally.open_months(NULL, 'a')").unwrap();
    assert_eq!(ingest(&mut shop.writer(), &event("a", &old, 3)).unwrap().accepted, 1);
}

/// A retry from a month that was dropped stays a duplicate, and doesn't make the month again.
#[test]
fn a_retry_from_a_dropped_month_is_a_duplicate() {
    let shop = Shop::new("dropped");
    let mut admin = shop.admin();
    admin.batch_execute("SELECT tally.open_months('-infinity')").unwrap();
    ingest(&mut shop.writer(), &event("a", "2001-05-01", 1)).unwrap();
    for rollup in ["usage", "session", "user_activity"] {
        admin.batch_execute(&format!("SELECT tally.fold('{rollup}')")).unwrap();
    }
    admin.batch_execute("SELECT tally.drop_raw('2001-06-01'), tally.open_months(NULL)").unwrap();
    assert_eq!(shop.partitions(), 0);
    assert_eq!(ingest(&mut shop.writer(), &event("a", "2001-05-01", 1)).unwrap().duplicates, 1);
    assert_eq!(ingest(&mut shop.writer(), &event("a", "2001-05-01", 2)).unwrap().rejected, 1);
    assert_eq!(shop.partitions(), 0);
}

#[test]
fn only_an_administrator_opens_months() {
    let shop = Shop::new("who_opens");
    let refused = shop.writer().batch_execute("SELECT tally.open_months('-infinity')").unwrap_err();
    assert_eq!(refused.code().unwrap().code(), "42501");
    let bad = shop.admin().batch_execute("SELECT tally.open_months('2020-01-01', '')").unwrap_err();
    assert_eq!(bad.code().unwrap().code(), "22023");
}

/// Many months, and what it takes to query them all, are told before statements fail.
#[test]
fn health_compares_the_partitions_with_the_lock_table_and_finds_stray_months() {
    let shop = Shop::new("lock_table");
    let mut admin = shop.admin();
    let mut of = |component: &str| -> (String, Option<String>) {
        let mut transaction = admin.transaction().unwrap();
        transaction.execute("SELECT tally.enter_global()", &[]).unwrap();
        let row = transaction
            .query_one("SELECT status, advice FROM tally.health() WHERE component = $1", &[&component])
            .unwrap();
        (row.get(0), row.get(1))
    };
    for component in ["partitions", "partition locks", "locks", "worker"] {
        assert_eq!(of(component).0, "ok", "{component} of a clean installation");
    }
    let mut superuser = shop.database.superuser();
    superuser.batch_execute("SELECT tally.open_months('2020-01-01')").unwrap();
    let batch: Vec<String> = (0..40).map(|ago| event("a", &shop.month(ago), ago as usize)).collect();
    assert_eq!(ingest(&mut shop.writer(), &format!("[{}]", batch.join(","))).unwrap().accepted, 40);
    let (status, advice) = of("partition locks");
    assert_eq!(status, "warning");
    assert!(advice.unwrap().contains("max_locks_per_transaction"));
    // A month taken out by hand, past or to come.
    let name: String = superuser
        .query_one(
            "SELECT to_char(date_trunc('month', now(), 'UTC') - interval '5 months', '\"events_p\"YYYY_MM')",
            &[],
        )
        .unwrap()
        .get(0);
    superuser.batch_execute(&format!("ALTER TABLE tally.events DETACH PARTITION tally.{name}")).unwrap();
    let (status, advice) = of("partitions");
    assert_eq!(status, "failing");
    assert!(advice.unwrap().contains(&name));
    let refused = ingest(&mut shop.writer(), &event("a", &shop.month(5), 5000)).unwrap_err();
    assert_eq!(refused.code().unwrap().code(), "55000");
    superuser.batch_execute(&format!("ALTER TABLE tally.{name} RENAME TO kept_by_hand")).unwrap();
    assert_ne!(of("partitions").0, "failing");
}

/// ANALYZE of all events keeps partitions from being attached for as long as it reads. The first events of a month wait for it,
/// and what keeps them waiting for longer is named.
#[test]
fn the_first_events_of_a_month_wait_for_an_analyze() {
    let shop = Shop::new("analyzed");
    let mut superuser = shop.database.superuser();
    let kept = ingest(&mut shop.writer(), &event("a", &shop.month(0), 1)).unwrap();
    assert_eq!(kept.accepted, 1);
    // An expression that takes so long that ANALYZE is seen at it, and not as long as a month's first events wait.
    superuser
        .batch_execute(
            "CREATE FUNCTION public.slow(name text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS 'BEGIN PERFORM pg_sleep(2); RETURN name; END';
             CREATE STATISTICS public.slowly ON (public.slow(name)), tenant_id FROM tally.events",
        )
        .unwrap();
    std::thread::scope(|scope| {
        let mut analyzing = shop.database.superuser();
        let analyze = scope.spawn(move || analyzing.batch_execute("ANALYZE tally.events"));
        let running = "SELECT count(*) FROM pg_locks WHERE relation = 'tally.events'::regclass AND mode = 'ShareUpdateExclusiveLock' AND granted";
        wait_for("ANALYZE", || (number(&mut superuser, running) > 0).then_some(()));
        // Two at once, of two months: neither is in the other's way.
        let writers = [2, 3].map(|ago| {
            let (mut client, text) = (shop.writer(), event("a", &shop.month(ago), ago as usize));
            scope.spawn(move || ingest(&mut client, &text))
        });
        for writer in writers {
            assert_eq!(writer.join().unwrap().unwrap().accepted, 1);
        }
        analyze.join().unwrap().unwrap();
    });
    assert_eq!(shop.partitions(), 3);
    // The same lock, by somebody who doesn't end.
    superuser.batch_execute("BEGIN; LOCK TABLE tally.events IN SHARE UPDATE EXCLUSIVE MODE").unwrap();
    let pid = number(&mut superuser, "SELECT pg_backend_pid()::int8");
    let refused = ingest(&mut shop.writer(), &event("a", &shop.month(4), 4)).unwrap_err();
    let refused = refused.as_db_error().unwrap();
    assert_eq!(refused.code().code(), "55P03", "{refused}");
    assert!(refused.detail().unwrap().contains(&format!("process {pid}")), "{refused:?}");
    // Who said how long it waits is told by then; what is there already waits for nobody.
    let mut hasty = shop.writer();
    hasty.batch_execute("SET lock_timeout = '100ms'").unwrap();
    assert_eq!(ingest(&mut hasty, &event("a", &shop.month(0), 5)).unwrap().accepted, 1);
    superuser.batch_execute("COMMIT").unwrap();
    assert_eq!(ingest(&mut shop.writer(), &event("a", &shop.month(4), 4)).unwrap().accepted, 1);
}

/// Several sessions that bring the first events of the same months at once, where Postgres has no process to make months in.
#[test]
fn first_events_of_a_month_from_several_sessions_are_all_taken_without_a_process() {
    const SESSIONS: usize = 8;
    const MONTHS: usize = 30;
    let settings = "max_worker_processes = 0\nmax_logical_replication_workers = 0\nmax_parallel_workers = 0\nfsync = off";
    let server = PrivateServer::create("months_at_once", settings);
    let mut superuser = server.connect("postgres", "postgres");
    superuser.batch_execute("CREATE EXTENSION pg_tally; SELECT tally.open_months('-infinity')").unwrap();
    let (start, failures) = (Barrier::new(SESSIONS), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for session in 0..SESSIONS {
            let (server, start, failures) = (&server, &start, &failures);
            scope.spawn(move || {
                let mut client = server.connect("postgres", "postgres");
                start.wait();
                for month in 0..MONTHS {
                    let event = format!(
                        r#"{{"tenant_id":"a","account_id":"x","name":"n","event_id":"{session:08}-0000-4000-8000-{month:012}","occurred_at":"{}-{:02}-15T00:00:00Z"}}"#,
                        2000 + month / 12,
                        1 + month % 12
                    );
                    while let Err(error) = ingest(&mut client, &event) {
                        let error = error.as_db_error().unwrap();
                        // Another session makes it, and the caller is to try again.
                        if error.code().code() != "55P03" {
                            failures.lock().unwrap().push(error.to_string());
                        }
                    }
                }
            });
        }
    });
    assert_eq!(failures.into_inner().unwrap(), Vec::<String>::new());
    assert_eq!(number(&mut superuser, "SELECT count(*) FROM tally.events"), (SESSIONS * MONTHS) as i64);
}
