//! A hostile night: eight writers that retry whatever was not acknowledged, a folder, and kill -9 of backends and of the
//! postmaster at random moments. Afterwards no acknowledged event is lost and none counted twice, every rollup equals its
//! recomputation, and pg_amcheck finds nothing. On a cluster of its own. `TALLY_KILLS` sets the number of kills (12).

use postgres::{Client, Config, NoTls};
use std::path::Path;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use tally_server_tests::{ingest, json_array, seeded};
use tally_workload::Random;

const WRITERS: u64 = 8;
const BATCH: u64 = 500;
const DATABASE: &str = "tally_crash";

fn script(arguments: &[&str]) -> Output {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../pgrx-config/cluster.sh");
    Command::new(script).args(arguments).output().expect("running cluster.sh")
}

/// Starts the cluster; backends of a killed postmaster hold its memory for a moment.
fn start() {
    let until = Instant::now() + Duration::from_secs(180);
    loop {
        let output = script(&["start", "crash"]);
        if output.status.success() {
            return;
        }
        assert!(Instant::now() < until, "{}", String::from_utf8_lossy(&output.stderr));
        thread::sleep(Duration::from_millis(200));
    }
}

/// What `cluster.sh env crash` prints.
#[derive(Clone)]
struct Address(Config, String);

impl Address {
    fn find() -> Self {
        let text = String::from_utf8(script(&["env", "crash"]).stdout).unwrap();
        let value = |key: &str| {
            text.lines()
                .find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
                .expect("printed")
                .to_owned()
        };
        let mut config = Config::new();
        config.host_path(value("PGHOST")).port(value("PGPORT").parse().unwrap()).user("postgres");
        Self(config, text.replace('\n', " "))
    }

    fn connect(&self, role: &str, database: &str) -> Option<Client> {
        self.0.clone().user(role).dbname(database).connect(NoTls).ok()
    }

    /// Connects however long recovery takes.
    fn wait(&self, role: &str, database: &str) -> Client {
        let until = Instant::now() + Duration::from_secs(300);
        loop {
            if let Some(client) = self.connect(role, database) {
                return client;
            }
            assert!(Instant::now() < until, "the server did not come back");
            thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Batch `number` of a writer: the same events each time it is asked for. Half of its ids are also another writer's.
fn batch(writer: u64, number: u64) -> String {
    let events: Vec<String> = (0..BATCH)
        .map(|place| {
            // Even places belong to a pair of writers, who both send them; odd ones to this writer alone.
            let owner = if place % 2 == 0 { writer / 2 } else { WRITERS + writer };
            let key = (owner << 40) | (number * BATCH + place);
            let mut random = Random::new(key);
            format!(
                r#"{{"tenant_id":"t{}","account_id":"a{}","name":"n{}","user_id":"u{}","event_id":"00000000-0000-4000-8000-{key:012x}",
                    "occurred_at":"2026-{:02}-{:02}T{:02}:00:00Z","properties":{{"value":{}}}}}"#,
                random.below(4), random.below(10), random.below(3), random.below(500),
                1 + random.below(3), 1 + random.below(28), random.below(24), random.below(10_000),
            )
        })
        .collect();
    json_array(events.iter().map(String::as_str))
}

fn kill(pid: i32) {
    // The process may be gone already.
    let _ = Command::new("kill").args(["-9", &pid.to_string()]).output();
}

/// Waits until a killed postmaster and its children run no more. Where nobody reaps dead processes, its pid stays taken and
/// the next postmaster would think that it lives: then the file that names it is removed.
fn bury(postmaster: i32, children: Vec<i32>, file: &Path) {
    let runs = |pid: i32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit(')').next().is_some_and(|rest| !rest.is_empty() && !rest.trim_start().starts_with('Z'))
    };
    let until = Instant::now() + Duration::from_secs(180);
    while runs(postmaster) || children.iter().any(|&pid| runs(pid)) {
        assert!(Instant::now() < until, "the killed server's processes go on");
        thread::sleep(Duration::from_millis(10));
    }
    if Path::new(&format!("/proc/{postmaster}")).exists() {
        std::fs::remove_file(file).expect("removing postmaster.pid");
    }
}

#[test]
fn nothing_acknowledged_is_lost_or_counted_twice_whatever_is_killed() {
    let kills: u64 = std::env::var("TALLY_KILLS").map_or(12, |text| text.parse().expect("a whole number"));
    let mut random = seeded();
    start();
    let address = Address::find();
    let mut admin = address.wait("postgres", "postgres");
    admin
        .batch_execute(&format!("DROP DATABASE IF EXISTS {DATABASE} WITH (FORCE)"))
        .and_then(|()| admin.batch_execute(&format!("CREATE DATABASE {DATABASE}")))
        .unwrap();
    let mut admin = address.wait("postgres", DATABASE);
    admin
        .batch_execute(
            "CREATE EXTENSION pg_tally;
             DO $$ BEGIN CREATE ROLE crash_writer LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$;
             GRANT tally_writer TO crash_writer;
             SELECT tally.trust_role('crash_writer');",
        )
        .unwrap();

    let (done, sent, refused) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    let numbers: Vec<u64> = thread::scope(|scope| {
        let (done, sent, refused, address) = (&done, &sent, &refused, &address);
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                scope.spawn(move || {
                    let mut client = address.wait("crash_writer", DATABASE);
                    let mut number = 0;
                    // Ends with an acknowledged batch: one in doubt is retried until it is.
                    loop {
                        match ingest(&mut client, &batch(writer, number)) {
                            Ok(summary) => {
                                assert_eq!(summary.sent() as u64, BATCH);
                                assert_eq!((summary.conflicts, summary.rejected), (0, 0));
                                sent.fetch_add(BATCH, Ordering::Relaxed);
                                number += 1;
                                if done.load(Ordering::Relaxed) {
                                    return number;
                                }
                            }
                            Err(_) => {
                                refused.fetch_add(1, Ordering::Relaxed);
                                client = address.wait("crash_writer", DATABASE);
                            }
                        }
                    }
                })
            })
            .collect();
        scope.spawn(move || {
            let mut client = address.wait("postgres", DATABASE);
            while !done.load(Ordering::Relaxed) {
                if client.execute("SELECT tally.fold('usage', 2000)", &[]).is_err() {
                    client = address.wait("postgres", DATABASE);
                }
            }
        });
        for number in 0..kills {
            thread::sleep(Duration::from_millis(200 + random.below(600) as u64));
            let mut client = address.wait("postgres", "postgres");
            if number % 4 == 3 {
                let all = "SELECT split_part(pg_read_file('postmaster.pid'), E'\\n', 1)::int,
                                  current_setting('data_directory'), array_agg(pid) FROM pg_stat_activity";
                let Ok(row) = client.query_one(all, &[]) else { continue };
                drop(client);
                kill(row.get(0));
                let postmaster: i32 = row.get(0);
                bury(postmaster, row.get(2), &Path::new(row.get::<_, &str>(1)).join("postmaster.pid"));
                start();
            } else {
                let pids = client.query(
                    "SELECT pid FROM pg_stat_activity WHERE datname = $1 OR backend_type IN ('checkpointer', 'walwriter')",
                    &[&DATABASE],
                );
                let Ok(pids) = pids else { continue };
                if !pids.is_empty() {
                    kill(pids[random.below(pids.len())].get(0));
                }
            }
        }
        done.store(true, Ordering::Relaxed);
        writers.into_iter().map(|writer| writer.join().unwrap()).collect()
    });

    // The slow, obvious count: every id of every acknowledged batch, once.
    let mut wanted = std::collections::HashSet::new();
    for (writer, &batches) in numbers.iter().enumerate() {
        for number in 0..batches {
            for place in 0..BATCH {
                let writer = writer as u64;
                let owner = if place % 2 == 0 { writer / 2 } else { WRITERS + writer };
                wanted.insert((owner << 40) | (number * BATCH + place));
            }
        }
    }
    let mut admin = address.wait("postgres", DATABASE);
    let count = |admin: &mut Client, query: &str| -> i64 { admin.query_one(query, &[]).unwrap().get(0) };
    assert_eq!(count(&mut admin, "SELECT count(*) FROM tally.events") as usize, wanted.len());
    assert_eq!(count(&mut admin, "SELECT count(DISTINCT event_id) FROM tally.events") as usize, wanted.len());
    assert_eq!(count(&mut admin, "SELECT count(*) FROM tally.event_key") as usize, wanted.len());
    assert_eq!(count(&mut admin, "SELECT sum(events)::int8 FROM tally.usage_day") as usize, wanted.len());
    assert_eq!(
        count(&mut admin, "SELECT sum(accepted)::int8 FROM tally.ingest_batch") as usize,
        wanted.len()
    );
    let mut transaction = admin.transaction().unwrap();
    transaction.execute("SELECT tally.enter_global()", &[]).unwrap();
    let different: i64 =
        transaction.query_one("SELECT count(*) FROM tally.verify_rollup('usage')", &[]).unwrap().get(0);
    assert_eq!(different, 0);
    transaction.commit().unwrap();
    let amcheck = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../pgrx-config/cluster.sh");
    let server =
        String::from_utf8(Command::new(amcheck).args(["bin", "crash"]).output().unwrap().stdout).unwrap();
    let check = Command::new("env")
        .args(address.1.split_whitespace())
        .arg(format!("{}/pg_amcheck", server.trim()))
        .args(["--install-missing", "--heapallindexed", "-d", DATABASE])
        .output()
        .expect("running pg_amcheck");
    assert!(
        check.status.success() && check.stdout.is_empty(),
        "{}{}",
        String::from_utf8_lossy(&check.stdout),
        String::from_utf8_lossy(&check.stderr)
    );
    println!(
        "{kills} kills, {} events acknowledged, {} distinct, {} calls refused",
        sent.into_inner(),
        wanted.len(),
        refused.into_inner()
    );
    script(&["stop", "crash"]);
}
