//! Looking after rollups: verify finds what is wrong and nothing else, rebuild puts it right, retention loses no number;
//! and whatever is done in whatever order, by however many sessions, every rollup equals a recomputation.

use postgres::error::SqlState;
use postgres::{Client, IsolationLevel};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use tally_server_tests::{
    Database, PrivateServer, assert_right, fold_all, ingest, ingest_by_simple_query, json_array, number,
    seeded, verify, wait_for,
};
use tally_workload::Random;

/// Every kind of measure over every type that can be counted, by grains that don't nest.
const EVERYTHING: &str = "SELECT tally.create_rollup('everything', grains => '{hour,week,month}',
    dimensions => ARRAY['name', $$(properties->>'n')::int % 3 AS third$$, $$properties->>'absent' AS nothing$$],
    measures => ARRAY['count(*) AS events', 'count(user_id) AS known', 'distinct(user_id) AS users',
      'distinct(event_id) AS ids', 'distinct(occurred_at) AS moments', 'distinct(length(user_id)) AS lengths',
      $$distinct(tally.property_number(properties, 'n')) AS numbers$$,
      $$distinct(decode(md5(name), 'hex')) AS bytes$$,
      $$sum(tally.property_number(properties, 'n')) AS total$$, 'min(user_id) AS least', 'max(occurred_at) AS latest',
      'first(user_id) AS opener', $$last((properties->>'n')::int) AS closing$$,
      'days(occurred_at) AS active', 'session_windows(CASE WHEN user_id IS NULL THEN occurred_at END) AS sittings',
      $$percentiles(tally.property_float(properties, 'n')) AS n$$],
    filter => $$name <> 'skipped'$$)";

struct Bench {
    database: Database,
    admin: String,
    loader: String,
}

impl Bench {
    fn new(topic: &str) -> Self {
        let mut database = Database::new(topic);
        let admin = database.role("admin", &["tally_admin"]);
        let loader = database.role("loader", &["tally_writer"]);
        let mut superuser = database.superuser();
        superuser.execute("SELECT tally.trust_role($1::text::regrole)", &[&loader]).unwrap();
        Self { database, admin, loader }
    }

    fn admin(&self) -> Client {
        self.database.connect(&self.admin)
    }

    fn loader(&self) -> Client {
        self.database.connect(&self.loader)
    }
}

/// An event whose content follows from its number alone, so that a second sending is a duplicate.
fn event(number: usize) -> String {
    let mut random = Random::new(number as u64);
    let name = ["opened", "closed", "skipped"][random.below(3)];
    let user =
        if random.below(5) == 0 { String::new() } else { format!(r#""user_id":"u{}","#, random.below(40)) };
    format!(
        r#"{{"tenant_id":"t{}","account_id":"a{}","name":"{name}",{user}"event_id":"00000000-0000-4000-8000-{number:012}",
            "occurred_at":"20{}-{:02}-{:02}T{:02}:30:00Z","properties":{{"n":{}}}}}"#,
        random.below(3),
        random.below(4),
        24 + random.below(2),
        1 + random.below(12),
        1 + random.below(28),
        random.below(24),
        random.below(1000),
    )
}

fn batch(numbers: impl IntoIterator<Item = usize>) -> String {
    let events: Vec<String> = numbers.into_iter().map(event).collect();
    json_array(events.iter().map(String::as_str))
}

/// The rollups that are there from the start.
pub const BUILT_IN: [&str; 3] = ["session", "usage", "user_activity"];

#[test]
fn verify_finds_each_planted_fault_and_rebuild_removes_it() {
    let bench = Bench::new("verify");
    let (mut admin, mut loader) = (bench.admin(), bench.loader());
    admin.batch_execute(EVERYTHING).unwrap();
    assert_eq!(ingest(&mut loader, &batch(0..600)).unwrap().accepted, 600);
    assert_right(&mut admin, "everything");
    fold_all(&mut admin, "everything");
    assert_right(&mut admin, "everything");
    assert_right(&mut admin, "usage");

    // Every fault in one row of one grain; found alone, as that measure.
    let mut superuser = bench.database.superuser();
    let row = "WHERE ctid = (SELECT min(ctid) FROM tally.everything_week_base WHERE known > 1)";
    for (fault, measure) in [
        ("events = events + 1", "events"),
        ("known = known - 1", "known"),
        ("total = total + 0.5", "total"),
        ("least = 'a'", "least"),
        ("latest = latest + interval '1 microsecond'", "latest"),
        ("opener = 'intruder'", "opener"),
        ("closing = closing + 1", "closing"),
        ("closing_at = closing_at + interval '1 microsecond'", "closing_at"),
        ("users = tally.hll_from_text_of_other(users)", "users"),
        ("active = tally.merge_days(active, (SELECT tally.days('2001-01-01Z')))", "active"),
        ("sittings = (SELECT tally.session_windows('2001-01-01Z'))", "sittings"),
        ("n = (SELECT tally.merge(n, tally.tdigest(5000::float8, 200)))", "n"),
    ] {
        let fault = fault.replace(
            "tally.hll_from_text_of_other(users)",
            "(SELECT tally.hll('intruder', sketch_key, sketch_epoch) FROM tally.tenant AS t \
               WHERE t.tenant_id = everything_week_base.tenant_id)",
        );
        let changed =
            superuser.execute(&format!("UPDATE tally.everything_week_base SET {fault} {row}"), &[]).unwrap();
        assert_eq!(changed, 1, "{fault}");
        let found = verify(&mut admin, "everything");
        assert_eq!(found.len(), 1, "{fault}: {found:?}");
        assert_eq!((found[0].get::<_, &str>(0), found[0].get::<_, &str>(5)), ("week", measure));
        let (tenant, bucket): (&str, &str) = (found[0].get(1), found[0].get(3));
        let read: i64 = admin
            .query_one(
                "SELECT tally.rebuild_rollup('everything', $1::text::timestamptz, \
                        $1::text::timestamptz + interval '1 day', $2)",
                &[&bucket, &tenant],
            )
            .unwrap()
            .get(0);
        assert!(read > 0 && read < 600, "only the widened range of one tenant is read, not {read}");
        assert_right(&mut admin, "everything");
        fold_all(&mut admin, "everything");
        assert_right(&mut admin, "everything");
    }

    // A row too many, and rows too few.
    superuser
        .batch_execute(
            "INSERT INTO tally.usage_day_base SELECT * FROM tally.usage_day_base LIMIT 0;
             DELETE FROM tally.everything_hour_base WHERE account_id = 'a1';",
        )
        .unwrap();
    assert!(!verify(&mut admin, "everything").is_empty());
    admin.execute("SELECT tally.rebuild_rollup('everything')", &[]).unwrap();
    assert_right(&mut admin, "everything");

    // Without a scope nothing is verified: an error, not an empty answer.
    let problem = admin.query("SELECT * FROM tally.verify_rollup('usage')", &[]).unwrap_err();
    assert_eq!(problem.code(), Some(&SqlState::INSUFFICIENT_PRIVILEGE));
    for call in
        ["verify_rollup('none')", "backfill('none')", "rebuild_rollup('none')", "rebuild_rollup(NULL)"]
    {
        let problem = admin.query(&format!("SELECT tally.{call}"), &[]).unwrap_err();
        assert_eq!(problem.code(), Some(&SqlState::UNDEFINED_OBJECT), "{call}");
    }
    let empty = "SELECT tally.rebuild_rollup('usage', '2025-01-02', '2025-01-02')";
    assert_eq!(admin.query(empty, &[]).unwrap_err().code(), Some(&SqlState::INVALID_PARAMETER_VALUE));
}

#[test]
fn dropping_raw_events_waits_for_folds_and_freezes_their_buckets() {
    let bench = Bench::new("retention");
    // Ingest must not fold by itself here.
    bench.database.set("tally.pending_limit = '1GB'");
    let (mut admin, mut loader) = (bench.admin(), bench.loader());
    ingest(&mut loader, &batch(0..300)).unwrap();
    let drop = "SELECT count(*) FROM tally.drop_raw('2025-01-15')";
    let problem = admin.query(drop, &[]).unwrap_err();
    assert_eq!(problem.code(), Some(&SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE));
    let numbers =
        "SELECT count(*), sum(events)::int8, sum(users)::text, sum(value_sum)::text FROM tally.usage_day";
    let read = |admin: &mut Client| -> (i64, i64, Option<String>) {
        let mut transaction = admin.transaction().unwrap();
        transaction.execute("SELECT tally.enter_global()", &[]).unwrap();
        let row = transaction.query_one(numbers, &[]).unwrap();
        (row.get(0), row.get(1), row.get(2))
    };
    let before = read(&mut admin);
    BUILT_IN.iter().for_each(|rollup| fold_all(&mut admin, rollup));
    assert_eq!(admin.query_one(drop, &[]).unwrap().get::<_, i64>(0), 12, "the months of 2024");
    assert_eq!(admin.query_one(drop, &[]).unwrap().get::<_, i64>(0), 0, "and nothing the second time");
    assert_eq!(read(&mut admin), before, "rollups keep what raw events no longer show");
    BUILT_IN.iter().for_each(|rollup| assert_right(&mut admin, rollup));
    let rebuild = |range: &str| format!("SELECT tally.rebuild_rollup('usage'{range})");
    let problem = admin.query(&rebuild(", '2024-12-31'"), &[]).unwrap_err();
    assert_eq!(problem.code(), Some(&SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE), "{problem}");
    for range in ["", ", '2025-01-01'"] {
        admin.query(&rebuild(range), &[]).unwrap();
        assert_eq!(read(&mut admin), before);
    }
    // The ledger remembers: what was dropped is still a duplicate.
    let again = ingest(&mut loader, &batch(0..300)).unwrap();
    assert_eq!((again.accepted, again.duplicates), (0, 300));
    assert_eq!(read(&mut admin), before);
}

#[test]
fn status_says_what_waits() {
    let bench = Bench::new("status");
    let (mut admin, mut loader) = (bench.admin(), bench.loader());
    let status = |admin: &mut Client| -> (i64, i64, f64) {
        let mut transaction = admin.transaction().unwrap();
        transaction.execute("SELECT tally.enter_global()", &[]).unwrap();
        let row = transaction
            .query_one(
                "SELECT pending_rows, rows_folded, tally.freshness('usage') FROM tally.rollup_status() \
                  WHERE rollup_name = 'usage'",
                &[],
            )
            .unwrap();
        (row.get(0), row.get(1), row.get(2))
    };
    assert_eq!(status(&mut admin), (0, 0, 0.0));
    ingest(&mut loader, &batch(0..50)).unwrap();
    let (pending, folded, freshness) = status(&mut admin);
    assert!(pending + folded > 0 && (freshness > 0.0) == (pending > 0));
    fold_all(&mut admin, "usage");
    let (left, all, freshness) = status(&mut admin);
    assert_eq!((left, all, freshness), (0, pending + folded, 0.0));
}

/// Monitoring that waits for whoever drops a rollup goes on with the others.
#[test]
fn status_leaves_out_a_rollup_that_is_dropped_meanwhile() {
    let bench = Bench::new("status_dropped");
    let mut admin = bench.admin();
    for asked in [
        "SELECT count(*) FROM tally.observe_health()",
        "SELECT count(*) FROM tally.observe_rollups()",
        "SELECT count(*) FROM tally.observe_slo()",
        "SELECT count(*) FROM tally.lint()",
        "SELECT count(*) FROM tally.catalog",
        "SELECT count(*) FROM tally.lineage",
    ] {
        admin.batch_execute("SELECT tally.create_rollup('xr', '{day}', ARRAY['count(*) AS n'])").unwrap();
        let mut dropping = admin.transaction().unwrap();
        dropping.execute("SELECT tally.drop_rollup('xr')", &[]).unwrap();
        let mut watcher = bench.admin();
        let pid = number(&mut watcher, "SELECT pg_backend_pid()::int8");
        thread::scope(|scope| {
            let answer = scope.spawn(move || {
                let mut transaction = watcher.transaction()?;
                transaction.execute("SELECT tally.enter_global()", &[])?;
                transaction.query_one(asked, &[]).map(|row| row.get::<_, i64>(0))
            });
            let is_waiting = format!("SELECT count(*) FROM pg_locks WHERE pid = {pid} AND NOT granted");
            let mut superuser = bench.database.superuser();
            // What doesn't need the rollup's tables doesn't wait.
            wait_for("the watcher to wait or to end", || {
                (answer.is_finished() || number(&mut superuser, &is_waiting) > 0).then_some(())
            });
            dropping.commit().unwrap();
            let answered = answer.join().unwrap();
            assert!(answered.is_ok(), "{asked}: {answered:?}");
        });
    }
}

/// Where folding is behind, a call whose rows are more than the limit folds, and takes them with it; not where another session folds, nor where it
/// could fail because of what others did meanwhile.
#[test]
fn a_call_that_folds_takes_its_own_rows_along() {
    let bench = Bench::new("along");
    let limited = |size: &str| {
        bench.database.set(&format!("tally.pending_limit = '{size}'"));
        bench.loader()
    };
    let (mut never, mut always) = (limited("1GB"), limited("64kB"));
    let (mut admin, mut superuser) = (bench.admin(), bench.database.superuser());
    admin.batch_execute(EVERYTHING).unwrap();
    let mut pending = || {
        let count = "SELECT count(*) FROM tally.everything_pending";
        superuser.query_one(count, &[]).unwrap().get::<_, i64>(0)
    };
    // So much is pending that a process alone wouldn't get through it.
    ingest(&mut never, &batch(10_000..13_000)).unwrap();
    let waiting = pending();
    assert!(waiting > 1_500, "{waiting} rows are pending");
    // A session reports what it did when it ends.
    drop(never);
    wait_for("the statistics", || {
        let reported = "SELECT pg_stat_get_live_tuples('tally.everything_pending'::regclass)";
        (number(&mut bench.database.superuser(), reported) > 1_500).then_some(())
    });
    ingest(&mut always, &batch(500..1_000)).unwrap();
    assert_eq!(pending(), 0);
    assert_right(&mut admin, "everything");
    ingest_by_simple_query(&mut always, &batch(13_000..14_000)).unwrap();
    assert_eq!(pending(), 0);

    let mut folder = bench.admin();
    let mut folding = folder.transaction().unwrap();
    folding.query("SELECT tally.fold('everything', 1)", &[]).unwrap();
    ingest_by_simple_query(&mut always, &batch(1_000..1_500)).unwrap();
    let waiting = pending();
    assert!(waiting > 250, "{waiting} rows are pending");
    folding.commit().unwrap();
    let mut transaction =
        always.build_transaction().isolation_level(IsolationLevel::RepeatableRead).start().unwrap();
    ingest(&mut transaction, &batch(1_500..2_000)).unwrap();
    transaction.commit().unwrap();
    assert_right(&mut admin, "everything");

    // Undone with its transaction, and done again; twice in one transaction, into the same groups.
    let mut transaction = always.transaction().unwrap();
    ingest(&mut transaction, &batch(2_000..2_500)).unwrap();
    transaction.rollback().unwrap();
    let mut transaction = always.transaction().unwrap();
    for numbers in [2_000..2_500, 2_500..3_000] {
        assert_eq!(ingest(&mut transaction, &batch(numbers)).unwrap().accepted, 500);
    }
    transaction.commit().unwrap();
    // What a block brings is folded by a process, which may still be at it.
    let until = Instant::now() + Duration::from_secs(180);
    while pending() > 0 {
        fold_all(&mut admin, "everything");
        assert!(Instant::now() < until, "nobody folds");
    }
    assert_right(&mut admin, "everything");
    BUILT_IN.iter().for_each(|rollup| assert_right(&mut admin, rollup));
}

/// Of groups that are mostly new, those that have a row already are merged with it; undone with the transaction.
#[test]
fn folds_of_new_groups_merge_the_few_that_are_known() {
    let bench = Bench::new("mostly_new");
    let (mut admin, mut loader) = (bench.admin(), bench.loader());
    bench.database.set("tally.pending_limit = '1GB'");
    let sessions = |first: usize, numbers: &mut dyn Iterator<Item = usize>| {
        let events: Vec<String> = numbers.enumerate().map(|(place, session)| {
            format!(
                r#"{{"tenant_id":"t","account_id":"a{}","name":"n","session_id":"s{session}","occurred_at":"2026-03-02T09:15:00Z",
                     "event_id":"00000000-0000-4000-8000-{:012}"}}"#,
                session % 7,
                first + place
            )
        }).collect();
        json_array(events.iter().map(String::as_str))
    };
    assert_eq!(ingest(&mut loader, &sessions(0, &mut (0..3_000))).unwrap().accepted, 3_000);
    fold_all(&mut admin, "session");
    // One in sixty is known.
    let mut mixed = (0..3_000).map(|place| if place % 60 == 0 { place } else { 10_000 + place });
    assert_eq!(ingest(&mut loader, &sessions(3_000, &mut mixed)).unwrap().accepted, 3_000);
    let taken_away = "SELECT pg_stat_get_xact_tuples_deleted('tally.session_month_base'::regclass)";
    for ends in ["ROLLBACK", "COMMIT"] {
        let mut folder = bench.admin();
        folder.batch_execute("BEGIN; SELECT tally.fold('session')").unwrap();
        assert_eq!(number(&mut folder, taken_away), 50, "rows are written before they are looked for");
        folder.batch_execute(ends).unwrap();
        assert_right(&mut admin, "session");
    }
    let rows = "SELECT count(*) FROM tally.session_month_base";
    assert_eq!(number(&mut bench.database.superuser(), rows), 5_950);
    // Most are known.
    assert_eq!(ingest(&mut loader, &sessions(6_000, &mut (1_000..3_500))).unwrap().accepted, 2_500);
    let mut folder = bench.admin();
    folder.batch_execute("BEGIN; SELECT tally.fold('session')").unwrap();
    assert_eq!(number(&mut folder, taken_away), 0);
    folder.batch_execute("COMMIT").unwrap();
    assert_right(&mut admin, "session");

    // Nor where a constraint would judge what is added instead of the sum, or the key takes nulls for different.
    for (round, addition) in [
        "ADD CONSTRAINT several CHECK (events > 0)",
        "DROP CONSTRAINT several, DROP CONSTRAINT session_month_key, ADD CONSTRAINT session_month_key \
         UNIQUE (tenant_id, account_id, bucket, user_id, session_id)",
    ]
    .into_iter()
    .enumerate()
    {
        let alter = format!("ALTER TABLE tally.session_month_base {addition}");
        bench.database.superuser().batch_execute(&alter).unwrap();
        let first = 10_000 + round * 3_000;
        let mut mixed = (0..3_000).map(|place| if place % 60 == 0 { place } else { 10 * first + place });
        assert_eq!(ingest(&mut loader, &sessions(first, &mut mixed)).unwrap().accepted, 3_000);
        let mut folder = bench.admin();
        folder.batch_execute("BEGIN; SELECT tally.fold('session')").unwrap();
        assert_eq!(number(&mut folder, taken_away), 0, "{addition}");
        folder.batch_execute("COMMIT").unwrap();
        assert_right(&mut admin, "session");
    }
}

/// Where somebody folds, calls leave it to them; where nobody does, they keep pending small, also where the server doesn't
/// count rows.
#[test]
fn calls_fold_where_nobody_else_does() {
    let bench = Bench::new("leave");
    bench.database.set("tally.pending_limit = '64kB'");
    // What any login may take keeps nobody from folding.
    let mut hostile = bench.loader();
    for rollup in BUILT_IN {
        let lock = format!("SELECT pg_advisory_lock('tally.{rollup}_pending'::regclass::oid::int4, 1)");
        hostile.batch_execute(&lock).unwrap();
    }
    // Its own deletions are counted at once, other sessions' within a second.
    let mut session = bench.database.superuser();
    let pending = |session: &mut Client| -> i64 {
        session.query_one("SELECT count(*) FROM tally.usage_pending", &[]).unwrap().get(0)
    };
    let mut sent = 0;
    let mut send = |session: &mut Client| {
        sent += 5;
        assert_eq!(ingest(session, &batch(sent - 5..sent)).unwrap().accepted, 5);
    };
    // Ten times the limit in all.
    for call in 0..600 {
        send(&mut session);
        assert!(pending(&mut session) > 0, "call {call} folded its own rows");
        BUILT_IN.iter().for_each(|rollup| fold_all(&mut session, rollup));
    }
    for track_counts in ["on", "off"] {
        session.batch_execute(&format!("SET track_counts = {track_counts}")).unwrap();
        // A process may fold at any time, also between two calls.
        let (mut folds, mut last) = (0, pending(&mut session));
        let until = Instant::now() + Duration::from_secs(180);
        while folds < 3 {
            assert!(Instant::now() < until, "{folds} folds in three minutes, track_counts {track_counts}");
            send(&mut session);
            let left = pending(&mut session);
            folds += usize::from(left < last);
            last = left;
        }
    }
    BUILT_IN.iter().for_each(|rollup| assert_right(&mut bench.admin(), rollup));
}

/// Processes that die at their start are not started with each call.
#[test]
fn a_role_that_may_no_longer_log_in_starts_few_processes() {
    let server = PrivateServer::create("futile", "tally.pending_limit = '64kB'");
    let mut superuser = server.connect("postgres", "postgres");
    superuser.batch_execute("CREATE EXTENSION pg_tally; CREATE ROLE w LOGIN IN ROLE tally_writer").unwrap();
    superuser
        .batch_execute("SELECT tally.bind_role('w', 't'); SELECT tally.open_months('-infinity')")
        .unwrap();
    let mut writer = server.connect("w", "postgres");
    superuser.batch_execute("ALTER ROLE w NOLOGIN").unwrap();
    let began = Instant::now();
    for call in 0..1_500 {
        let events: Vec<String> = (call * 5..call * 5 + 5)
            .map(|number| {
                format!(
                    r#"{{"tenant_id":"t","account_id":"a{number}","name":"n","event_id":"00000000-0000-4000-8000-{number:012}","occurred_at":"2026-01-01T00:00:00Z"}}"#
                )
            })
            .collect();
        // Once too much is pending, calls are refused.
        match ingest(&mut writer, &format!("[{}]", events.join(","))) {
            Ok(summary) => assert_eq!(summary.accepted, 5),
            Err(error) => {
                assert_eq!(error.code().map(|code| code.code()), Some("53400"), "{error:?}");
                break;
            }
        }
    }
    let died = || server.log().matches("is not permitted to log in").count();
    wait_for("a process that dies", || (died() > 0).then_some(()));
    let (died, seconds) = (died(), began.elapsed().as_secs() as usize + 1);
    // One a rollup and second.
    assert!(died <= 6 * seconds, "{died} processes in {seconds} s");
}

/// The switch from waiting to counted, event by event, while writers send more.
#[test]
fn a_backfill_in_steps_counts_each_event_once_while_ingest_goes_on() {
    let bench = Bench::new("backfill");
    let (mut admin, mut loader) = (bench.admin(), bench.loader());
    for start in (0..3000).step_by(500) {
        ingest(&mut loader, &batch(start..start + 500)).unwrap();
    }
    admin.batch_execute(&EVERYTHING.replace("'skipped'$$)", "'skipped'$$, backfill => false)")).unwrap();
    let events = "SELECT coalesce(sum(events), 0)::int8 FROM tally.everything_month";
    let sum = |admin: &mut Client| -> i64 {
        let mut transaction = admin.transaction().unwrap();
        transaction.execute("SELECT tally.enter_global()", &[]).unwrap();
        transaction.query_one(events, &[]).unwrap().get(0)
    };
    assert_eq!(sum(&mut admin), 0, "nothing is counted yet");
    // Dropping raw events would lose what waits.
    fold_all(&mut admin, "usage");
    let problem = admin.query("SELECT tally.drop_raw('2025-06-01')", &[]).unwrap_err();
    assert_eq!(problem.code(), Some(&SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE), "{problem}");

    let mut steps = 0;
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut loader = bench.loader();
            for number in 3000..3600 {
                ingest(&mut loader, &batch([number, number - 3000])).unwrap();
            }
        });
        while admin.query_one("SELECT tally.backfill('everything', 400)", &[]).unwrap().get::<_, i64>(0) > 0 {
            steps += 1;
            if steps % 5 == 0 {
                assert_right(&mut admin, "everything");
            }
        }
    });
    assert!(steps > 5, "{steps} steps");
    assert_right(&mut admin, "everything");
    let row = admin
        .query_one("SELECT finished_at IS NOT NULL, events_done FROM tally.rollup_backfill", &[])
        .unwrap();
    assert!(row.get::<_, bool>(0) && row.get::<_, i64>(1) >= 3000, "{row:?}");
    let counted: i64 = bench
        .database
        .superuser()
        .query_one("SELECT count(*) FROM tally.events WHERE name <> 'skipped'", &[])
        .unwrap()
        .get(0);
    assert_eq!(sum(&mut admin), counted);
}

/// What was added is filled from the events that are there, and null where they were dropped.
#[test]
fn an_altered_rollup_keeps_frozen_buckets() {
    let bench = Bench::new("altered");
    let (mut admin, mut loader) = (bench.admin(), bench.loader());
    // A week lies across the horizon.
    admin.batch_execute(EVERYTHING).unwrap();
    ingest(&mut loader, &batch(0..900)).unwrap();
    for rollup in BUILT_IN.into_iter().chain(["everything"]) {
        fold_all(&mut admin, rollup);
    }
    admin.execute("SELECT tally.drop_raw('2025-03-01')", &[]).unwrap();
    let numbers = "SELECT sum(events)::int8, sum(total)::text, max(closing) FROM tally.everything_month";
    let read = |admin: &mut Client, query: &str| -> (i64, String, i32) {
        let mut transaction = admin.transaction().unwrap();
        transaction.execute("SELECT tally.enter_global()", &[]).unwrap();
        let row = transaction.query_one(query, &[]).unwrap();
        (row.get(0), row.get(1), row.get(2))
    };
    let before = read(&mut admin, numbers);
    admin
        .batch_execute(
            "SELECT tally.alter_rollup('everything', '{count(*) AS again,last(name) AS said}', '{event_id AS id}')",
        )
        .unwrap();
    assert_eq!(read(&mut admin, numbers), before);
    assert_right(&mut admin, "everything");
    let added = "SELECT count(*) FILTER (WHERE again IS NULL), \
                        bool_and(again IS NULL OR again = events)::text, count(*) FILTER (WHERE said IS NULL)::int4 \
                   FROM tally.everything_hour";
    let (frozen, equal, unknown) = read(&mut admin, added);
    assert!(frozen > 0 && equal == "true" && i64::from(unknown) == frozen, "{frozen} {equal} {unknown}");
    // A late event of a frozen bucket still counts.
    fold_all(&mut admin, "everything");
    for (call, code) in [
        ("'none', '{count(*) AS n}'", SqlState::UNDEFINED_OBJECT),
        ("'everything'", SqlState::INVALID_PARAMETER_VALUE),
        ("'everything', '{count(*) AS events}'", SqlState::DUPLICATE_COLUMN),
        ("'everything', '{count(*) AS said_at, count(*) AS said_at}'", SqlState::DUPLICATE_COLUMN),
        ("'everything', '{first(properties) AS p, first(ARRAY[1]) AS q}'", SqlState::DATATYPE_MISMATCH),
    ] {
        let problem = admin.query(&format!("SELECT tally.alter_rollup({call})"), &[]).unwrap_err();
        assert_eq!(problem.code(), Some(&code), "{call}: {problem}");
    }
}

/// Random schedules of a hundred steps, each in a database of its own, every step checked. `TALLY_CASES` steps in all,
/// 120 unless told otherwise.
#[test]
fn every_schedule_ends_in_the_recomputed_numbers() {
    let cases: usize = std::env::var("TALLY_CASES").map_or(120, |text| text.parse().expect("a whole number"));
    let mut random = seeded();
    for start in (0..cases).step_by(100) {
        schedule(&mut random, 100.min(cases - start));
    }
}

fn schedule(random: &mut Random, cases: usize) {
    let bench = Bench::new("model");
    let mut horizon = "2024-01-01";
    bench.database.set("tally.pending_limit = '256kB'");
    let mut admin = bench.admin();
    let mut loaders = [bench.loader(), bench.loader(), bench.loader()];
    let (mut sent, mut kept) = (BTreeSet::new(), BTreeSet::from(BUILT_IN));
    let mut added = 0;
    for case in 0..cases {
        let loader = &mut loaders[random.below(3)];
        match random.below(11) {
            // New, duplicate and late at once: numbers are drawn from a pool that grows slowly, times from two years.
            0..=5 => {
                // Now and then so many that they are folded at once.
                let (most, pool) = if random.below(8) == 0 { (700, 5_000) } else { (40, 50 + 10 * case) };
                let numbers: Vec<usize> = (0..1 + random.below(most)).map(|_| random.below(pool)).collect();
                let fresh: BTreeSet<usize> =
                    numbers.iter().copied().filter(|number| !sent.contains(number)).collect();
                if random.below(6) == 0 {
                    let mut transaction = loader.transaction().unwrap();
                    ingest(&mut transaction, &batch(numbers)).unwrap();
                    transaction.rollback().unwrap();
                } else {
                    let summary = ingest(loader, &batch(numbers)).unwrap();
                    assert_eq!(summary.accepted as usize, fresh.len(), "case {case}");
                    sent.extend(fresh);
                }
            }
            6..=7 => {
                for rollup in &kept {
                    let rows = 1 + random.below(200) as i64;
                    admin.execute("SELECT tally.fold($1, $2)", &[rollup, &rows]).unwrap();
                }
            }
            8 if random.below(8) == 0 => {
                let before = ["2024-03-01", "2024-06-01", "2024-10-01"][random.below(3)];
                // Refused where something is pending, or waits to be backfilled.
                match admin.execute("SELECT tally.drop_raw($1::text::timestamptz)", &[&before]) {
                    Ok(_) => horizon = horizon.max(before),
                    Err(refused) => {
                        assert_eq!(
                            refused.code(),
                            Some(&SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE),
                            "{refused}"
                        );
                    }
                }
            }
            8 => {
                let month = format!("2024-{:02}-17 05:00", 1 + random.below(12));
                let tenant = (random.below(2) == 0).then(|| format!("t{}", random.below(3)));
                for rollup in &kept {
                    let rebuilt = admin.execute(
                        "SELECT tally.rebuild_rollup($1, $2::text::timestamptz, $2::text::timestamptz + '40 days', $3)",
                        &[rollup, &month, &tenant],
                    );
                    // Frozen where a bucket that the range touches begins before the horizon.
                    if let Err(refused) = rebuilt {
                        assert_eq!(
                            refused.code(),
                            Some(&SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE),
                            "{refused}"
                        );
                        assert!(horizon > "2024-01-01", "case {case}: {refused}");
                    }
                }
            }
            // Of the last months only: each takes a moment.
            9 => {
                let (tenant, from) =
                    (format!("t{}", random.below(3)), format!("2025-{:02}-07", 7 + random.below(6)));
                admin
                    .execute("SELECT tally.isolate_tenant($1, $2::text::timestamptz)", &[&tenant, &from])
                    .unwrap();
            }
            _ if kept.contains("everything") => match random.below(3) {
                0 => {
                    admin.execute("SELECT tally.drop_rollup('everything')", &[]).unwrap();
                    kept.remove("everything");
                    added = 0;
                }
                1 if added < 3 => {
                    added += 1;
                    admin
                        .batch_execute(&format!(
                            "SELECT tally.alter_rollup('everything', \
                               add_measures => '{{last(name) AS said_{added},distinct(user_id) AS who_{added}}}', \
                               add_dimensions => ARRAY[$$(properties->>'n')::int % {added} AS part_{added}$$])"
                        ))
                        .unwrap();
                }
                _ => {
                    let events = 1 + random.below(100) as i64;
                    admin.execute("SELECT tally.backfill('everything', $1)", &[&events]).unwrap();
                }
            },
            _ => {
                let later = if random.below(2) == 0 { ", backfill => false)" } else { ")" };
                admin
                    .batch_execute(&EVERYTHING.replace("'skipped'$$)", &format!("'skipped'$${later}")))
                    .unwrap();
                kept.insert("everything");
            }
        }
        for rollup in &kept {
            assert_right(&mut admin, rollup);
        }
        // Whatever raw events were dropped meanwhile.
        let mut transaction = admin.transaction().unwrap();
        transaction.execute("SELECT tally.enter_global()", &[]).unwrap();
        let counted = "SELECT coalesce(sum(events), 0)::int8 FROM tally.usage_day";
        assert_eq!(
            transaction.query_one(counted, &[]).unwrap().get::<_, i64>(0) as usize,
            sent.len(),
            "case {case}"
        );
    }
}

/// Writers with overlapping keys, folders and a rebuilder at once; no deadlock, and the numbers right in the end.
#[test]
fn concurrent_writers_folders_and_rebuilds_agree_with_recomputation() {
    // With the folders and the reader sixteen sessions.
    const WRITERS: usize = 12;
    const EVENTS: usize = 4_000;
    let bench = Bench::new("together");
    let seed = seeded().bits();
    bench.database.set("tally.pending_limit = '256kB'");
    bench.admin().batch_execute(EVERYTHING).unwrap();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let mut loader = bench.loader();
                scope.spawn(move || {
                    let mut random = Random::new(seed.wrapping_add(writer as u64));
                    let mut numbers: Vec<usize> = (0..EVENTS).collect();
                    random.shuffle(&mut numbers);
                    // Every third one's batches are large enough to be folded at once.
                    let accepted: i64 = numbers
                        .chunks(if writer % 3 == 0 { 900 } else { 150 })
                        .map(|chunk| ingest(&mut loader, &batch(chunk.iter().copied())).unwrap().accepted)
                        .sum();
                    accepted
                })
            })
            .collect();
        let done = &done;
        for folder in 0..3 {
            let mut admin = bench.admin();
            scope.spawn(move || {
                while !done.load(Ordering::Relaxed) {
                    for rollup in ["usage", "everything"] {
                        admin.execute("SELECT tally.fold($1, 500)", &[&rollup]).unwrap();
                        if folder == 0 {
                            let range = "SELECT tally.rebuild_rollup($1, '2024-05-05', '2024-07-07')";
                            admin.execute(range, &[&rollup]).unwrap();
                        }
                    }
                }
            });
        }
        let mut reader = bench.admin();
        scope.spawn(move || {
            while !done.load(Ordering::Relaxed) {
                assert_right(&mut reader, "usage");
            }
        });
        // Before anything can fail: the others wait for it.
        let accepted: Vec<_> = writers.into_iter().map(|writer| writer.join()).collect();
        done.store(true, Ordering::Relaxed);
        let accepted: i64 = accepted.into_iter().map(|accepted| accepted.unwrap()).sum();
        assert_eq!(accepted as usize, EVENTS, "each event counted once among {WRITERS} writers");
    });
    let mut admin = bench.admin();
    assert_right(&mut admin, "usage");
    assert_right(&mut admin, "everything");
}

/// What folds take off a pending table is its dead rows: autovacuum comes by after 10,000 of them, however large the table was, so
/// that the pages that readers pass through don't grow with the number of folds.
#[test]
fn dead_rows_of_pending_tables_are_vacuumed_in_time() {
    let server = PrivateServer::create(
        "vacuum",
        "autovacuum = on\nautovacuum_naptime = 1s\nautovacuum_vacuum_cost_delay = 0",
    );
    let mut superuser = server.connect("postgres", "postgres");
    superuser
        .batch_execute(
            "CREATE EXTENSION pg_tally; ALTER DATABASE postgres SET tally.pending_limit = '1GB';
             SELECT tally.create_rollup('own', '{day}', ARRAY['count(*) AS n'], dimensions => '{name}')",
        )
        .unwrap();
    let mut client = server.connect("postgres", "postgres");
    let tables = ["usage", "own", "user_activity"];
    let vacuums = |client: &mut Client, rollup: &str| {
        let count =
            "SELECT autovacuum_count FROM pg_stat_user_tables WHERE schemaname = 'tally' AND relname = ";
        number(client, &format!("{count}'{rollup}_pending'"))
    };
    let mut largest = [0; 3];
    for round in 0..8 {
        let before = tables.map(|rollup| vacuums(&mut superuser, rollup));
        // Each event is a pending row of its own in each rollup.
        for part in 0..4 {
            let first = (round * 4 + part) * 3_500;
            let events: Vec<String> = (first..first + 3_500)
                .map(|n| {
                    format!(
                        r#"{{"tenant_id":"t","account_id":"a{n}","name":"n","user_id":"u{n}","occurred_at":"2026-03-{:02}T00:00:00Z","event_id":"00000000-0000-4000-8000-{n:012}"}}"#,
                        1 + n % 28
                    )
                })
                .collect();
            let sent = ingest(&mut client, &format!("[{}]", events.join(","))).unwrap();
            assert_eq!(sent.accepted, 3_500);
            for rollup in tables {
                assert_eq!(
                    number(&mut client, &format!("SELECT tally.fold('{rollup}', 100000)")),
                    3_500,
                    "{rollup}"
                );
            }
        }
        for (place, rollup) in tables.into_iter().enumerate() {
            wait_for(&format!("autovacuum of {rollup}_pending"), || {
                (vacuums(&mut superuser, rollup) > before[place]).then_some(())
            });
            let size = format!("SELECT pg_relation_size('tally.{rollup}_pending')");
            largest[place] = largest[place].max(number(&mut superuser, &size));
        }
    }
    // 14,000 rows of a round, and of those before, where the vacuum that was waited for had begun before their folds; of 112,000 in all.
    let row = |rollup: &str| if rollup == "usage" { 260 } else { 130 };
    for (place, rollup) in tables.into_iter().enumerate() {
        println!("{rollup}_pending: at most {} bytes", largest[place]);
        assert!(largest[place] < 4 * 14_000 * row(rollup), "{rollup}: {} bytes", largest[place]);
    }
}

/// What the caller has under the names of Postgres' own operators and functions, first in its path, is called by none of our statements.
#[test]
fn operators_of_the_caller_are_never_called() {
    let mut database = Database::new("upkeep_path");
    let admin = database.role("admin", &["tally_admin", "tally_auditor"]);
    let mut superuser = database.superuser();
    superuser
        .batch_execute(&format!(
            "CREATE SCHEMA evil AUTHORIZATION {admin}; SELECT tally.trust_role('{admin}'), tally.set_step_up_policy('erase_subject', false)"
        ))
        .unwrap();
    let mut client = database.connect(&admin);
    for of in [
        "oid",
        "name",
        "text",
        "\"char\"",
        "int2",
        "int4",
        "int8",
        "boolean",
        "uuid",
        "timestamptz",
        "regtype",
        "regclass",
        "jsonb",
    ] {
        client
            .batch_execute(&format!(
                "CREATE FUNCTION evil.called(a {of}, b {of}) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'an operator of {of} is called'; END $$"
            ))
            .unwrap();
        for operator in ["=", "<>", "<", "<=", ">", ">="] {
            client
                .batch_execute(&format!(
                    "CREATE OPERATOR evil.{operator} (LEFTARG = {of}, RIGHTARG = {of}, FUNCTION = evil.called)"
                ))
                .unwrap();
        }
    }
    for function in [
        "concat(VARIADIC a text[])",
        "coalesce_all(a text)",
        "to_char(a timestamptz, b text)",
        "lower(a text)",
        "date_trunc(a text, b timestamptz, c text)",
        "num_nulls(VARIADIC a text[])",
    ] {
        client
            .batch_execute(&format!(
                "CREATE FUNCTION evil.{function} RETURNS text LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'a function is called'; END $$"
            ))
            .unwrap();
    }
    let event = |number: u32, month: u32| {
        format!(
            r#"{{"tenant_id":"a","account_id":"x","name":"n","user_id":"u{number}","event_id":"00000000-0000-4000-8000-{number:012}","occurred_at":"2026-{month:02}-03T00:00:00Z","properties":{{"k":"v{number}"}}}}"#
        )
    };
    let events = (1..9).map(|number| event(number, 1 + number % 2)).collect::<Vec<_>>().join(",");
    assert_eq!(ingest(&mut superuser, &format!("[{events}]")).unwrap().accepted, 8);
    superuser.batch_execute(&format!("ALTER ROLE {admin} SET search_path = evil, pg_catalog")).unwrap();
    client = database.connect(&admin);
    for statement in [
        "SELECT tally.create_rollup('r', '{day,month}', ARRAY['count(*) AS n', 'max(user_id) AS who', 'min(event_id) AS least', 'first(user_id) AS beginner'], dimensions => ARRAY['user_id', 'name'])",
        "SELECT tally.create_rollup('late', '{day}', ARRAY['max(user_id) AS who'], backfill => false)",
        "SELECT tally.backfill('late', 10)",
        "SELECT tally.alter_rollup('r', ARRAY['max(properties->>''k'') AS k'])",
        "SELECT tally.fold('r', 1000)",
        "BEGIN; SELECT tally.enter('a'); SELECT tally.verify_rollup('r'); COMMIT",
        "CALL tally.maintain()",
        "SELECT tally.drop_raw('2026-02-01')",
        "BEGIN; SELECT tally.enter('a'); SELECT tally.verify_rollup('r'); COMMIT",
        "SELECT tally.rebuild_rollup('r', '2026-02-01', '2026-03-01')",
        "SELECT tally.erase_subject('a', 'u1', 'asked for')",
        "SELECT tally.erase_subject('a', 'u2', 'asked for')",
        "SELECT tally.erase_subjects('a', '{u3,u4}', 'asked for')",
        "CALL tally.maintain()",
        "SELECT tally.set_retention('a', '20 years')",
        "SELECT tally.lint()",
        "BEGIN; SELECT tally.enter('a'); SELECT tally.health(); COMMIT",
        "SELECT tally.drop_rollup('late')",
    ] {
        client.batch_execute(statement).unwrap_or_else(|problem| panic!("{statement}: {problem:?}"));
    }
    assert_eq!(number(&mut superuser, "SELECT count(*) FROM tally.erasure WHERE finished_at IS NOT NULL"), 4);
}
