//! Where much is pending: what a client can keep open keeps nobody from folding, and what one transaction may bring has an end.

use postgres::{Client, Error};
use std::fmt::Write as _;
use std::io::Write as _;
use std::thread;
use tally_server_tests::{
    Database, PrivateServer, Wire, assert_right, code, ingest, json_array, number, wait_for,
};

const BUILT_IN: [&str; 3] = ["session", "usage", "user_activity"];
/// Rows that take more than the 64 limits of 64 kB that may be pending.
const TOO_MANY: usize = 60_000;

/// What keeps others from folding until the transaction ends.
const FOLDS: &str = "SELECT tally.fold('user_activity', 1)";

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

/// Copies so many events.
fn copy(client: &mut Client, count: usize) -> Result<u64, Error> {
    let mut text = String::new();
    for number in 0..count {
        let _ =
            writeln!(text, "00000000-0000-4000-8000-{number:012},t,a,n,2026-03-02T09:15:00Z,u{number:060}");
    }
    let into = "COPY tally.inbox (event_id, tenant_id, account_id, name, occurred_at, user_id) FROM STDIN (FORMAT csv)";
    let mut copy = client.copy_in(into)?;
    // The server's error comes with the end.
    let _ = copy.write_all(text.as_bytes());
    copy.finish()
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
        let held = format!(
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND (objid, objsubid) = (1, 3) AND pid = {}",
            open.pid
        );
        assert_eq!(number(&mut superuser, &held), 0, "after {first}");
    }
    let pending = number(&mut superuser, "SELECT pg_relation_size('tally.user_activity_pending')");
    assert!(pending > 8 << 16, "{pending} bytes are pending");
    open.sync();
    BUILT_IN.iter().for_each(|rollup| assert_right(&mut superuser, rollup));
}

/// One that is too large to wait for a fold after its end folds what it brought, and waits a moment for whoever folds.
#[test]
fn a_large_copy_folds_what_it_brought() {
    let database = Database::new("large_copy");
    database.set("tally.pending_limit = '64kB'");
    let mut superuser = database.superuser();
    let mut loader = database.superuser();
    let mut other = database.superuser();
    let mut folds = other.transaction().unwrap();
    folds.batch_execute(FOLDS).unwrap();
    thread::scope(|scope| {
        let copying = scope.spawn(|| copy(&mut loader, TOO_MANY));
        let waits = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted";
        wait_for("the copy to wait", || (number(&mut superuser, waits) > 0).then_some(()));
        folds.rollback().unwrap();
        assert_eq!(copying.join().unwrap().unwrap(), TOO_MANY as u64);
    });
    BUILT_IN.iter().for_each(|rollup| assert_right(&mut superuser, rollup));
    assert_eq!(number(&mut superuser, "SELECT count(*) FROM tally.events"), TOO_MANY as i64);
}

/// Where it can't, and in a transaction that goes on, what comes in is refused, and nothing of it is there.
#[test]
fn a_transaction_that_brings_more_than_may_wait_is_refused() {
    let database = Database::new("too_much");
    database.set("tally.pending_limit = '64kB'");
    let mut superuser = database.superuser();
    let mut loader = database.superuser();
    let mut other = database.superuser();
    let mut folds = other.transaction().unwrap();
    folds.batch_execute(FOLDS).unwrap();
    assert_eq!(code(copy(&mut loader, TOO_MANY)), "54000");
    folds.rollback().unwrap();

    let mut block = loader.transaction().unwrap();
    let refused =
        (0..TOO_MANY).step_by(2_000).find_map(|first| ingest(&mut block, &batch(first, 2_000)).err());
    assert_eq!(refused.expect("a block ends somewhere").code().unwrap().code(), "54000");
    drop(block);

    assert_eq!(number(&mut superuser, "SELECT count(*) FROM tally.events"), 0);
    assert_eq!(copy(&mut loader, TOO_MANY).unwrap(), TOO_MANY as u64);
    BUILT_IN.iter().for_each(|rollup| assert_right(&mut superuser, rollup));
}

/// With one process to be had, which can't be replaced before it ends, what a burst left is folded all the same.
#[test]
fn the_only_process_folds_on() {
    let settings = "max_worker_processes = 1\nmax_logical_replication_workers = 0\nmax_parallel_workers = 0";
    let server = PrivateServer::create("only_process", settings);
    let mut superuser = server.connect("postgres", "postgres");
    superuser.batch_execute("CREATE EXTENSION pg_tally; SELECT tally.open_months('-infinity')").unwrap();
    let mut sent = 300_000;
    assert_eq!(copy(&mut superuser, sent).unwrap(), sent as u64);
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
