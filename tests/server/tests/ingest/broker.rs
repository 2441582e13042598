//! integrations/redis/consume.py between a real Redis and pg_tally: every event counts once, whatever is killed.

use crate::drivers::{command, repository};
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use tally_server_tests::{Database, number, skip, wait_for};

const EVENTS: i64 = 3_000;

/// A Redis of its own, on a socket in a directory of its own, which loses nothing that it has answered.
struct Redis {
    directory: PathBuf,
    process: Child,
}

impl Redis {
    fn start(directory: PathBuf) -> Option<Self> {
        // The package of tools has the server, too: it is what it is called.
        let mut command = Command::new("/usr/bin/redis-check-rdb");
        command.arg0("redis-server").current_dir(&directory).stdout(Stdio::null()).stderr(Stdio::null());
        command.args([
            "--port",
            "0",
            "--unixsocket",
            "socket",
            "--appendonly",
            "yes",
            "--appendfsync",
            "always",
            "--save",
            "",
        ]);
        let process = command.spawn().ok()?;
        let redis = Self { directory, process };
        wait_for("Redis to answer", || redis.command("PING\n").contains("PONG").then_some(()));
        Some(redis)
    }

    fn socket(&self) -> String {
        self.directory.join("socket").display().to_string()
    }

    /// What it says to lines of commands.
    fn command(&self, lines: &str) -> String {
        let mut client = Command::new("redis-cli");
        client
            .args(["-s", &self.socket()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut client = client.spawn().expect("redis-cli, which comes with the server");
        // It may have ended without reading, where there is no server yet.
        let _ = client.stdin.take().expect("a pipe").write_all(lines.as_bytes());
        String::from_utf8_lossy(&client.wait_with_output().unwrap().stdout).into_owned()
    }

    fn add(&self, events: std::ops::Range<i64>) {
        let lines: String = events
            .map(|n| {
                format!(
                    "XADD orders * event '{{\"tenant_id\": \"acme\", \"account_id\": \"north\", \"name\": \"ordered\", \"occurred_at\": \"2026-03-02T09:15:00Z\", \"properties\": {{\"n\": {n}}}}}'\n"
                )
            })
            .collect();
        self.command(&lines);
    }

    /// Kills it; its directory is left.
    fn kill(self) -> PathBuf {
        self.directory.clone()
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        kill(&mut self.process);
    }
}

/// A consumer, which is killed when it goes.
struct Consumer(Child);

impl Drop for Consumer {
    fn drop(&mut self) {
        kill(&mut self.0);
    }
}

fn kill(process: &mut Child) {
    // It may have ended by itself.
    let _ = process.kill();
    process.wait().expect("the status of a child");
}

fn consumer(database: &Database, role: &str, redis: &Redis, count: i64) -> Consumer {
    let mut command = command(database, role, "redis");
    command.arg(repository().join("integrations/redis/consume.py"));
    command.args(["--redis", &format!("unix://{}", redis.socket()), "--count", &count.to_string(), "orders"]);
    Consumer(command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("running driver.sh"))
}

#[test]
fn events_of_a_broker_count_once_through_kills() {
    let mut database = Database::new("broker");
    let role = database.role("w", &["tally_writer", "tally_reader"]);
    database.superuser().execute("SELECT tally.bind_role($1::text::regrole, 'acme')", &[&role]).unwrap();
    let directory = std::env::temp_dir().join(format!("tally_{}", database.name()));
    std::fs::create_dir_all(&directory).unwrap();
    let Some(mut redis) = Redis::start(directory.clone()) else {
        return skip("no Redis (redis-tools)");
    };
    // Not everybody who writes to the broker writes events; what one writes may be read alone.
    for entry in [
        "'{\"a\": NaN}'",
        "'{\"a\": \"cut'",
        "'{\"{a\": 1}'",
        "'{\"[a\": 1}'",
        "'\"{}\"'",
        "'[object Object]'",
    ] {
        let before = number(&mut database.superuser(), "SELECT count(*) FROM tally.quarantine");
        redis.command(&format!("XADD orders * event {entry}\n"));
        let mut running = consumer(&database, &role, &redis, 40);
        let mut missing = None;
        wait_for("an entry to wait", || {
            if let Some(status) = running.0.try_wait().unwrap() {
                let mut said = String::new();
                running.0.stderr.take().expect("a pipe").read_to_string(&mut said).unwrap();
                assert_eq!(status.code(), Some(77), "{entry}: {said}");
                missing = Some(said);
                return Some(());
            }
            (number(&mut database.superuser(), "SELECT count(*) FROM tally.quarantine") > before)
                .then_some(())
        });
        if let Some(said) = missing {
            redis.kill();
            std::fs::remove_dir_all(&directory).unwrap();
            return skip(&format!("redis: {}", said.trim()));
        }
    }
    // More than a batch may have, together.
    let large = "x".repeat(8 << 20);
    (0..9).for_each(|_| drop(redis.command(&format!("XADD orders * event {large}\n"))));
    redis.command("XADD orders * other x\nXADD orders * event {no-JSON\nXADD orders * event {},{}\n");
    let mut superuser = database.superuser();
    let counted = "SELECT count(*) FROM tally.events";
    for round in 0..6 {
        redis.add(round * EVENTS / 6..(round + 1) * EVENTS / 6);
        let before = number(&mut superuser, counted);
        let start = || consumer(&database, &role, &redis, 40);
        let mut running = start();
        // Somewhere in the middle, and in the last round to the end.
        let enough = if round == 5 { EVENTS } else { before + 1 };
        let mut missing = None;
        wait_for("events to arrive", || {
            if let Some(status) = running.0.try_wait().unwrap() {
                let mut said = String::new();
                running.0.stderr.take().expect("a pipe").read_to_string(&mut said).unwrap();
                if status.code() == Some(77) {
                    missing = Some(said);
                    return Some(());
                }
                // The one before was killed with a batch on its way, which is now stored: it begins again, as whatever supervises it does.
                assert!(said.contains("is at position"), "{said}");
                running = start();
            }
            (number(&mut superuser, counted) >= enough).then_some(())
        });
        if let Some(said) = missing {
            redis.kill();
            std::fs::remove_dir_all(&directory).unwrap();
            return skip(&format!("redis: {}", said.trim()));
        }
        match round {
            // The broker, the consumer's session, or the consumer.
            1 => redis = Redis::start(redis.kill()).unwrap(),
            3 => {
                let kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = $1";
                superuser.execute(kill, &[&role]).unwrap();
            }
            _ => {}
        }
    }
    let distinct = "SELECT count(DISTINCT properties ->> 'n') FROM tally.events";
    assert_eq!((number(&mut superuser, counted), number(&mut superuser, distinct)), (EVENTS, EVENTS));
    assert_eq!(number(&mut superuser, "SELECT gaps::int8 FROM tally.stream"), 0);
    assert_eq!(number(&mut superuser, "SELECT count(*) FROM tally.quarantine"), 18);
    let kept = "SELECT count(*) FROM tally.quarantine WHERE body ~ 'no-JSON'";
    assert_eq!(number(&mut superuser, kept), 1, "what it said is kept");

    // From the beginning again, cut otherwise: it has all been counted.
    let mut client = database.connect(&role);
    let end = number(&mut client, "SELECT tally.reset_stream('orders', 0)");
    let mut again = consumer(&database, &role, &redis, 333);
    wait_for("the stream to be where it was", || {
        assert!(again.0.try_wait().unwrap().is_none());
        (number(&mut client, "SELECT tally.stream_position('orders')") == end).then_some(())
    });
    drop(again);
    assert_eq!(number(&mut superuser, counted), EVENTS);

    // What was trimmed before it was stored is no gap that is passed over.
    redis.add(EVENTS..EVENTS + 20);
    redis.command("XTRIM orders MAXLEN = 5\n");
    let mut lost = consumer(&database, &role, &redis, 40);
    let mut said = String::new();
    lost.0.stderr.take().expect("a pipe").read_to_string(&mut said).unwrap();
    assert!(!lost.0.wait().unwrap().success() && said.contains("which was stored last, is gone"), "{said}");
    assert_eq!(number(&mut superuser, counted), EVENTS);
    redis.kill();
    std::fs::remove_dir_all(&directory).unwrap();
    // The sessions of consumers that were killed may end a moment later.
    wait_for("no session to be left", || {
        let left = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND backend_type = 'client backend'";
        (number(&mut superuser, left) <= 2).then_some(())
    });
}
