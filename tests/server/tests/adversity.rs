//! Bad days short of a crash: cancelled and timed-out statements, locks that don't come, a clock that steps back, a disk that
//! is full. Each is an error with its own SQLSTATE, nothing is half done, and a retry counts everything once.

use postgres::Client;
use std::process::Command;
use std::thread;
use std::time::Duration;
use tally_server_tests::{Database, PrivateServer, ingest, json_array, seeded, skip, wait_for};

fn batch(from: usize, count: usize, padding: usize) -> String {
    let events: Vec<String> = (from..from + count)
        .map(|n| {
            format!(
                r#"{{"tenant_id":"t{}","account_id":"a","name":"n{}","user_id":"u{}","event_id":"00000000-0000-4000-8000-{n:012}","occurred_at":"2026-0{}-01T00:00:00Z","properties":{{"value":{n},"text":"{}"}}}}"#,
                n % 3, n % 4, n % 50, 1 + n % 3, format!("{n:x}").repeat(padding)
            )
        })
        .collect();
    json_array(events.iter().map(String::as_str))
}

fn assert_counted(client: &mut Client, events: usize) {
    let mut transaction = client.transaction().unwrap();
    transaction.execute("SELECT tally.enter_global()", &[]).unwrap();
    let row = transaction
        .query_one(
            "SELECT (SELECT count(*) FROM tally.events), (SELECT count(*) FROM tally.event_key),
                    (SELECT sum(events)::int8 FROM tally.usage_day), (SELECT count(*) FROM tally.verify_rollup('usage'))",
            &[],
        )
        .unwrap();
    let events = events as i64;
    assert_eq!((row.get(0), row.get(1), row.get(2), row.get(3)), (events, events, events, 0_i64));
}

/// `TALLY_CANCELS` batches (60), each sent until it is through, with timeouts that end it anywhere.
#[test]
fn statements_may_be_cancelled_anywhere() {
    let cancels = std::env::var("TALLY_CANCELS").map_or(60, |text| text.parse().expect("a whole number"));
    let database = Database::new("cancelled");
    let mut client = database.superuser();
    let mut random = seeded();
    let (mut refused, mut timeout) = (0, 1);
    for number in 0..cancels {
        let text = batch(number * 300, 300, 1);
        loop {
            client.batch_execute(&format!("SET statement_timeout = {timeout}")).unwrap();
            match ingest(&mut client, &text) {
                Ok(summary) => {
                    assert_eq!(summary.accepted, 300, "a cancelled try left something behind");
                    timeout = 1 + random.below(12);
                    break;
                }
                Err(problem) => {
                    assert_eq!(problem.code().unwrap().code(), "57014", "{problem}");
                    refused += 1;
                    timeout += 1 + timeout / 4;
                }
            }
            // Housekeeping is cancelled as well.
            client.batch_execute(&format!("SET statement_timeout = {}", 1 + random.below(20))).unwrap();
            let _ = client.batch_execute("CALL tally.maintain(100)");
        }
    }
    client.batch_execute("RESET statement_timeout; SELECT 1").unwrap();
    assert!(refused > 0, "no timeout was short enough");
    assert_counted(&mut client, cancels * 300);
    client.batch_execute("CALL tally.maintain()").unwrap();
    assert_counted(&mut client, cancels * 300);
    println!("{refused} statements cancelled");
}

#[test]
fn a_lock_that_does_not_come_is_an_error_and_nothing_else() {
    let database = Database::new("locked");
    let (mut client, mut holder) = (database.superuser(), database.superuser());
    let mut declaring = holder.transaction().unwrap();
    declaring.batch_execute("SELECT tally.create_rollup('slow', '{day}', ARRAY['count(*) AS n'])").unwrap();
    client.batch_execute("SET lock_timeout = '50ms'").unwrap();
    let refused = ingest(&mut client, &batch(0, 100, 1)).unwrap_err();
    assert_eq!(refused.code().unwrap().code(), "55P03", "{refused}");
    declaring.commit().unwrap();
    assert_eq!(ingest(&mut client, &batch(0, 100, 1)).unwrap().accepted, 100);
    // Housekeeping notes it and does what it can.
    let mut folding = holder.transaction().unwrap();
    folding.batch_execute("LOCK TABLE tally.rollup IN ACCESS EXCLUSIVE MODE").unwrap();
    assert!(client.batch_execute("CALL tally.maintain()").is_err(), "it can't even read what there is to do");
    folding.rollback().unwrap();
    client.batch_execute("CALL tally.maintain()").unwrap();
    assert_counted(&mut client, 100);
}

/// Nothing is decided by the order of two readings of the clock: what the clock said is moved in the tables instead, which
/// is the same to whoever reads it afterwards.
#[test]
fn a_clock_that_steps_back_moves_no_horizon_back() {
    let database = Database::new("clock");
    let mut client = database.superuser();
    assert_eq!(ingest(&mut client, &batch(0, 100, 1)).unwrap().accepted, 100);
    client.batch_execute("SELECT tally.set_retention('t0', '1 day')").unwrap();
    client.batch_execute("CALL tally.maintain()").unwrap();
    // Yesterday's clock had been a year ahead: batches, folds and horizons from the future.
    client
        .batch_execute(
            "UPDATE tally.tenant_horizon SET raw_from = raw_from + interval '1 year', pruned_from = pruned_from + interval '1 year';
             UPDATE tally.ingest_batch SET ingested_at = ingested_at + interval '1 year', batch_id = batch_id + (31536000000::int8 << 22);
             UPDATE tally.rollup_fold SET last_fold_at = last_fold_at + interval '1 year';
             UPDATE tally.maintenance SET started_at = started_at + interval '1 year', finished_at = finished_at + interval '1 year'",
        )
        .unwrap();
    let horizon = "SELECT raw_from::text FROM tally.tenant_horizon WHERE tenant_id = 't0'";
    let before: String = client.query_one(horizon, &[]).unwrap().get(0);
    client.batch_execute("CALL tally.maintain()").unwrap();
    assert_eq!(client.query_one(horizon, &[]).unwrap().get::<_, String>(0), before);
    // What was counted stays counted, and new events of others come in.
    let again = ingest(&mut client, &batch(0, 100, 1)).unwrap();
    assert_eq!((again.accepted, again.duplicates, again.rejected), (0, 66, 34));
    assert_eq!(ingest(&mut client, &batch(1000, 99, 1)).unwrap().accepted, 66);
    client.batch_execute("CALL tally.maintain()").unwrap();
    let mut transaction = client.transaction().unwrap();
    transaction.execute("SELECT tally.enter_global()", &[]).unwrap();
    let total: i64 =
        transaction.query_one("SELECT sum(events)::int8 FROM tally.usage_day", &[]).unwrap().get(0);
    assert_eq!(total, 166);
    assert!(transaction.query("SELECT * FROM tally.health()", &[]).unwrap().len() > 8);
}

/// A file system of its own; unmounted afterwards.
struct SmallDisk(std::path::PathBuf);

impl SmallDisk {
    fn mount(place: std::path::PathBuf) -> Option<Self> {
        std::fs::create_dir(&place).unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=24m,mode=0777", "tmpfs"]).arg(&place);
        mount.output().is_ok_and(|output| output.status.success()).then_some(Self(place))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).output();
    }
}

/// The database's files on a disk of 24 MB, until it is full, and on once there is space.
#[test]
fn a_full_disk_refuses_batches_whole() {
    let place = std::env::temp_dir().join(format!("pg_tally_disk_{}", std::process::id()));
    let Some(disk) = SmallDisk::mount(place.clone()) else {
        let _ = std::fs::remove_dir(&place);
        skip("mounting a small disk needs root");
        return;
    };
    let server = PrivateServer::create("disk", "");
    let mut admin = server.connect("postgres", "postgres");
    let small = disk.0.join("small");
    std::fs::create_dir(&small).unwrap();
    assert!(Command::new("chown").arg("postgres").arg(&small).status().is_ok_and(|status| status.success()));
    admin.batch_execute(&format!("CREATE TABLESPACE small LOCATION '{}'", small.display())).unwrap();
    admin.batch_execute("CREATE DATABASE shop").unwrap();
    let mut client = server.connect("postgres", "shop");
    client.batch_execute("CREATE EXTENSION pg_tally").unwrap();
    // Ledger, partitions and pending rows go there from now on.
    client.batch_execute("ALTER TABLE tally.event_key SET TABLESPACE small; ALTER INDEX tally.event_key_pkey SET TABLESPACE small; ALTER TABLE tally.usage_pending SET TABLESPACE small").unwrap();
    let ballast = disk.0.join("ballast");
    std::fs::write(&ballast, vec![0_u8; 12 << 20]).unwrap();
    let (mut sent, mut full) = (0, 0);
    while full < 3 && sent < 600_000 {
        match ingest(&mut client, &batch(sent, 2000, 1)) {
            Ok(summary) => {
                assert_eq!(summary.accepted, 2000);
                sent += 2000;
            }
            Err(problem) => {
                assert_eq!(problem.code().unwrap().code(), "53100", "{problem}");
                full += 1;
            }
        }
    }
    assert_eq!(full, 3, "the disk was never full");
    assert_counted(&mut client, sent);
    std::fs::remove_file(&ballast).unwrap();
    wait_for("space", || ingest(&mut client, &batch(sent, 2000, 1)).ok());
    assert_counted(&mut client, sent + 2000);
    println!("full after {sent} events");
    drop(client);
    drop(admin);
    drop(server);
    thread::sleep(Duration::from_millis(100));
    drop(disk);
    let _ = std::fs::remove_dir(&place);
}
