//! Where much is pending: what a client can keep open keeps nobody from folding, and what one transaction may bring has an end.

use super::upkeep::BUILT_IN;
use postgres::{Client, Error};
use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use tally_server_tests::{
    Database, PrivateServer, Wire, assert_right, code, fold_all, ingest, json_array, number, wait_for,
};

/// Rows that take more than the 64 limits of 64 kB that may be pending.
const TOO_MANY: usize = 60_000;

/// Events of different users.
fn batch(first: usize, count: usize) -> String {
    let events: Vec<String> = (first..first + count)
        .map(|number| {
            format!(
                r#"{{"tenant_id":"t","account_id":"a{}","name":"n","user_id":"u{number:060}","occurred_at":"2026-03-02T09:15:00Z",
                     "event_id":"00000000-0000-4000-8000-{number:012}"}}"#,
                number % 7
            )
        })
        .collect();
    json_array(events.iter().map(String::as_str))
}

const INTO: &str =
    "COPY tally.inbox (event_id, tenant_id, account_id, name, occurred_at, user_id) FROM STDIN (FORMAT csv)";

/// The same as lines.
fn lines(first: usize, count: usize) -> String {
    let mut text = String::new();
    for number in first..first + count {
        let _ =
            writeln!(text, "00000000-0000-4000-8000-{number:012},t,a,n,2026-03-02T09:15:00Z,u{number:060}");
    }
    text
}

fn copy(client: &mut Client, first: usize, count: usize) -> Result<u64, Error> {
    let mut copy = client.copy_in(INTO)?;
    // The server's error comes with the end.
    let _ = copy.write_all(lines(first, count).as_bytes());
    copy.finish()
}

/// Ingests events in a transaction block, where no call folds.
fn ingest_in_block(client: &mut Client, first: usize, count: usize) {
    let mut block = client.transaction().unwrap();
    for first in (first..first + count).step_by(500) {
        ingest(&mut block, &batch(first, 500)).unwrap();
    }
    block.commit().unwrap();
}

/// Of how many rollups a session keeps others from folding.
fn held(client: &mut Client, pid: i32) -> i64 {
    let query =
        "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND (objid, objsubid) = (1, 3) AND pid =";
    number(client, &format!("{query} {pid}"))
}

/// By the extended protocol the client says when the transaction ends: while it hasn't, such a call leaves folding to others, whatever is
/// pending.
#[test]
fn a_call_that_its_client_keeps_open_keeps_nobody_from_folding() {
    let database = Database::new("kept_open");
    database.set("tally.pending_limit = '64kB'");
    let mut superuser = database.superuser();
    let mut open = Wire::connect(&database, "postgres");
    for first in (0..8_000).step_by(500) {
        let statement = format!("SELECT accepted FROM tally.ingest($batch${}$batch$)", batch(first, 500));
        assert_eq!(open.execute(&statement).as_deref(), Some("500"));
        assert_eq!(held(&mut superuser, open.pid), 0, "after {first}");
    }
    let pending = number(&mut superuser, "SELECT pg_relation_size('tally.user_activity_pending')");
    assert!(pending > 8 << 16, "{pending} bytes are pending");
    open.sync();
    BUILT_IN.iter().for_each(|rollup| assert_right(&mut superuser, rollup));
}

/// Nor does one that the statement goes on after, nor a prepared statement that is run in its name.
#[test]
fn a_call_that_its_statement_goes_on_after_keeps_nobody_from_folding() {
    let database = Database::new("goes_on");
    database.set("tally.pending_limit = '64kB'");
    let mut superuser = database.superuser();
    // Much is pending, and no process gets at it.
    ingest_in_block(&mut database.superuser(), 0, 8_000);
    let mut sent = 8_000;
    for form in [
        "SELECT accepted, pg_sleep(1) FROM tally.ingest($batch$…$batch$)",
        "SELECT pg_sleep(1) FROM (SELECT (tally.ingest($batch$…$batch$)).accepted OFFSET 0) AS i",
        "DO $do$ BEGIN PERFORM tally.ingest($batch$…$batch$); PERFORM pg_sleep(1); END $do$",
        "INSERT INTO tally.inbox (event_id, tenant_id, account_id, name, occurred_at, user_id) \
           SELECT gen_random_uuid(), 't', 'a', 'n', '2026-03-02 09:15Z', 'u' || n || pg_sleep(n / 3000) FROM generate_series(1, 3000) AS n",
    ] {
        let statement = form.replace('…', &batch(sent, 1_000));
        sent += 1_000;
        let mut client = database.superuser();
        let pid = number(&mut client, "SELECT pg_backend_pid()::int8") as i32;
        let times = thread::scope(|scope| {
            let running = scope.spawn(|| client.batch_execute(&statement).unwrap());
            let mut times = 0;
            while !running.is_finished() {
                times += held(&mut superuser, pid);
                thread::sleep(Duration::from_millis(20));
            }
            running.join().unwrap();
            times
        });
        // A call that does nothing else may fold, within milliseconds.
        assert_eq!(times, 0, "{form}");
    }
    let mut open = Wire::connect(&database, "postgres");
    open.execute(&format!(
        "PREPARE p AS SELECT accepted FROM tally.ingest($batch${}$batch$)",
        batch(sent, 1_000)
    ));
    open.sync();
    assert_eq!(open.execute("EXECUTE p").as_deref(), Some("1000"));
    assert_eq!(held(&mut superuser, open.pid), 0);
    open.sync();
    BUILT_IN.iter().for_each(|rollup| assert_right(&mut superuser, rollup));
}

/// Who says half of what ends the transaction is ended soon where it keeps others from folding.
#[test]
fn a_client_that_stops_halfway_keeps_nobody_from_folding_for_long() {
    let database = Database::new("halfway");
    database.set("tally.pending_limit = '64kB'");
    let mut superuser = database.superuser();
    ingest_in_block(&mut database.superuser(), 0, 4_000);
    // Whether it folds itself is a matter of who else does.
    let client = (1..30)
        .find_map(|turn| {
            let mut client = Wire::connect(&database, "postgres");
            let statement = format!("SELECT accepted FROM tally.ingest($batch${}$batch$)", batch(10_000 * turn, 1_000));
            // A message of which the rest doesn't come.
            client.begin(&statement, b"S\0\0\0\x64");
            let waits = format!(
                "SELECT count(*) FROM pg_stat_activity WHERE pid = {} AND wait_event = 'ClientRead' AND query LIKE '%tally.ingest%'",
                client.pid
            );
            wait_for("the call to be done", || (number(&mut superuser, &waits) > 0).then_some(()));
            (held(&mut superuser, client.pid) > 0).then_some(client)
        })
        .expect("one of them folds itself");
    let began = Instant::now();
    wait_for("the session to end", || (held(&mut superuser, client.pid) == 0).then_some(()));
    assert!(began.elapsed() > Duration::from_secs(5), "it has time to take the answer");
    drop(client);
}

/// One that is too large to wait for a fold after its end folds what it brought. Of two at a time one does, and keeps nobody out.
#[test]
fn large_copies_come_in_beside_each_other_and_beside_others() {
    let database = Database::new("large_copy");
    database.set("tally.pending_limit = '64kB'");
    let mut superuser = database.superuser();
    let mut loader = database.superuser();
    // The first event of a tenant waits for who brings it at the same time.
    ingest(&mut superuser, &batch(4_000_000, 1)).unwrap();
    // One that is left open once it keeps others from folding.
    let mut open = loader.copy_in(INTO).unwrap();
    let folds = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND (objid, objsubid) = (7, 3) AND granted";
    let mut sent = 0;
    while number(&mut superuser, folds) == 0 {
        assert!(sent < TOO_MANY, "the copy folds nothing");
        open.write_all(lines(sent, 1_000).as_bytes()).unwrap();
        open.flush().unwrap();
        sent += 1_000;
    }
    assert_eq!(copy(&mut database.superuser(), 1_000_000, TOO_MANY).unwrap(), TOO_MANY as u64);
    let mut client = database.superuser();
    for first in (2_000_000..2_000_000 + TOO_MANY).step_by(2_000) {
        assert_eq!(ingest(&mut client, &batch(first, 2_000)).unwrap().accepted, 2_000);
    }
    open.write_all(lines(sent, TOO_MANY).as_bytes()).unwrap();
    open.finish().unwrap();
    sent += 3 * TOO_MANY + 1;
    assert_eq!(number(&mut superuser, "SELECT count(*) FROM tally.events"), sent as i64);
    BUILT_IN.iter().for_each(|rollup| assert_right(&mut superuser, rollup));
}

/// What one transaction left, however much, refuses nobody while it is folded.
#[test]
fn nobody_is_refused_while_folding_gets_on() {
    let mut database = Database::new("gets_on");
    let bound = database.role("bound", &["tally_writer"]);
    let mut superuser = database.superuser();
    superuser.batch_execute(&format!("SELECT tally.bind_role('{bound}', 't')")).unwrap();
    copy(&mut superuser, 0, 2 * TOO_MANY).unwrap();
    BUILT_IN.iter().for_each(|rollup| fold_all(&mut superuser, rollup));
    database.set("tally.pending_limit = '64kB'");
    let mut client = database.connect(&bound);
    // Its history is appended.
    database
        .superuser()
        .batch_execute(
            "SELECT tally.create_rollup('visit', '{day}', ARRAY['count(*) AS visits'], ARRAY['user_id'])",
        )
        .unwrap();
    let pending = number(&mut superuser, "SELECT count(*) FROM tally.visit_pending");
    assert!(pending * 128 > 64 << 16, "{pending} rows are pending");
    for first in (3_000_000..3_010_000).step_by(1_000) {
        assert_eq!(ingest(&mut client, &batch(first, 1_000)).unwrap().accepted, 1_000);
    }
    assert_right(&mut superuser, "visit");
}

/// In a transaction that goes on, more than may wait is refused; so is a COPY that somebody who folds keeps from folding. Nothing of it is
/// there.
#[test]
fn a_transaction_that_brings_more_than_may_wait_is_refused() {
    let database = Database::new("too_much");
    database.set("tally.pending_limit = '64kB'");
    let mut superuser = database.superuser();
    let mut loader = database.superuser();
    let mut other = database.superuser();
    let mut folds = other.transaction().unwrap();
    folds.batch_execute("SELECT tally.fold('user_activity', 1)").unwrap();
    assert_eq!(code(copy(&mut loader, 0, TOO_MANY)), "54000");
    folds.rollback().unwrap();

    let mut block = loader.transaction().unwrap();
    let refused =
        (0..TOO_MANY).step_by(2_000).find_map(|first| ingest(&mut block, &batch(first, 2_000)).err());
    assert_eq!(refused.expect("a block ends somewhere").code().unwrap().code(), "54000");
    drop(block);

    assert_eq!(number(&mut superuser, "SELECT count(*) FROM tally.events"), 0);
    assert_eq!(copy(&mut loader, 0, TOO_MANY).unwrap(), TOO_MANY as u64);
    BUILT_IN.iter().for_each(|rollup| assert_right(&mut superuser, rollup));
}

/// A server on which no process is to be had and what is pending of `user_activity`, and of a rollup before it, is far more than may be.
fn far_behind(topic: &str) -> PrivateServer {
    let server = PrivateServer::create(
        topic,
        "max_worker_processes = 0\nmax_logical_replication_workers = 0\nmax_parallel_workers = 0",
    );
    let mut superuser = server.connect("postgres", "postgres");
    superuser
        .batch_execute(
            "CREATE EXTENSION pg_tally; SELECT tally.open_months('-infinity');
             SELECT tally.create_rollup('a_visit', '{day}', ARRAY['count(*) AS visits'], ARRAY['user_id'])",
        )
        .unwrap();
    assert_eq!(copy(&mut superuser, 0, 2 * TOO_MANY).unwrap(), 2 * TOO_MANY as u64);
    superuser.batch_execute("ALTER DATABASE postgres SET tally.pending_limit = '64kB'").unwrap();
    for rollup in ["a_visit", "user_activity"] {
        let pending = number(&mut superuser, &format!("SELECT count(*) FROM tally.{rollup}_pending"));
        assert!(pending * 128 > 128 << 16, "{pending} rows of {rollup} are pending");
    }
    server
}

/// Folding that is taken back makes room for nobody.
#[test]
fn folding_that_is_undone_lets_nobody_in() {
    let server = far_behind("undone");
    fold_all(&mut server.connect("postgres", "postgres"), "a_visit");
    let mut other = server.connect("postgres", "postgres");
    let is_over = AtomicBool::new(false);
    let refused = thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                let mut block = other.transaction().unwrap();
                block.batch_execute("SELECT tally.fold('user_activity', 5000)").unwrap();
                block.rollback().unwrap();
            }
        });
        let mut client = server.connect("postgres", "postgres");
        // In a block no call folds itself.
        let mut block = client.transaction().unwrap();
        let refused = code(ingest(&mut block, &batch(4_000_000, 10)));
        is_over.store(true, Ordering::Relaxed);
        refused
    });
    let mut superuser = server.connect("postgres", "postgres");
    let taken = "SELECT pg_stat_get_tuples_deleted('tally.user_activity_pending'::regclass)";
    assert!(number(&mut superuser, taken) >= 5_000, "somebody folded");
    assert_eq!(refused, "53400");
}

/// Who is to be refused for one rollup doesn't fold another one first: that would be undone, and kept from others for as long as it waits.
#[test]
fn who_waits_for_one_rollup_keeps_nobody_from_folding_another() {
    let server = far_behind("waits");
    let mut superuser = server.connect("postgres", "postgres");
    let mut other = server.connect("postgres", "postgres");
    let mut folds = other.transaction().unwrap();
    folds.batch_execute("SELECT tally.fold('user_activity', 1)").unwrap();
    let mut client = server.connect("postgres", "postgres");
    let pid = number(&mut client, "SELECT pg_backend_pid()::int8") as i32;
    let events = batch(4_000_000, 1_000);
    thread::scope(|scope| {
        let call = scope.spawn(|| code(ingest(&mut client, &events)));
        while !call.is_finished() {
            assert_eq!(held(&mut superuser, pid), 0);
            thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(call.join().unwrap(), "53400");
    });
    folds.commit().unwrap();
    assert_eq!(ingest(&mut client, &events).unwrap().accepted, 1_000);
    ["a_visit", "user_activity"].iter().for_each(|rollup| assert_right(&mut superuser, rollup));
}

/// With one process to be had, which can't be replaced before it ends, what a burst left is folded all the same.
#[test]
fn the_only_process_folds_on() {
    let settings = "max_worker_processes = 1\nmax_logical_replication_workers = 0\nmax_parallel_workers = 0";
    let server = PrivateServer::create("only_process", settings);
    let mut superuser = server.connect("postgres", "postgres");
    superuser.batch_execute("CREATE EXTENSION pg_tally; SELECT tally.open_months('-infinity')").unwrap();
    let mut sent = 300_000;
    assert_eq!(copy(&mut superuser, 0, sent).unwrap(), sent as u64);
    let pending = "SELECT count(*) FROM tally.user_activity_pending";
    // Small calls leave folding to a process.
    wait_for("a process to fold a piece", || {
        ingest(&mut superuser, &batch(sent, 100)).unwrap();
        sent += 100;
        (number(&mut superuser, pending) < sent as i64).then_some(())
    });
    // That takes longer than one process folds.
    wait_for("everything to be folded", || {
        let left = BUILT_IN
            .map(|rollup| number(&mut superuser, &format!("SELECT count(*) FROM tally.{rollup}_pending")));
        // Half of the limit, of rows that are taken to have 128 bytes.
        left.iter().all(|&rows| rows < 16_384).then_some(())
    });
}
