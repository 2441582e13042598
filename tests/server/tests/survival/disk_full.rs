//! A disk that is full: the call fails cleanly, what was acknowledged stays, and once there is room everything goes on.
//! On a tmpfs of 64 MB that root mounts; skipped where that isn't possible.

use postgres::Client;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use tally_server_tests::{Database, connect_superuser, ingest, json_array, skip};

/// A small file system with a tablespace on it. Dropping it removes both.
struct SmallDisk {
    path: PathBuf,
    tablespace: String,
}

impl SmallDisk {
    fn mount() -> Option<SmallDisk> {
        let path = std::env::temp_dir().join(format!("pg_tally_small_{}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=64m,mode=700", "tmpfs"])
            .arg(&path)
            .output()
            .is_ok_and(|output| output.status.success());
        if !mounted {
            std::fs::remove_dir(&path).unwrap();
            skip("mounting a tmpfs of 64 MB is not allowed here");
            return None;
        }
        let disk = SmallDisk { path, tablespace: format!("small_{}", std::process::id()) };
        let space = disk.path.join("space");
        std::fs::create_dir(&space).unwrap();
        // The server's own user owns its socket's directory.
        let owner = std::fs::metadata(socket_directory()).unwrap();
        use std::os::unix::fs::MetadataExt;
        for place in [&disk.path, &space] {
            std::os::unix::fs::chown(place, Some(owner.uid()), Some(owner.gid())).unwrap();
        }
        connect_superuser("postgres")
            .batch_execute(&format!("CREATE TABLESPACE {} LOCATION '{}'", disk.tablespace, space.display()))
            .unwrap();
        Some(disk)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        connect_superuser("postgres")
            .batch_execute(&format!("DROP TABLESPACE IF EXISTS {}", self.tablespace))
            .ok();
        Command::new("umount").arg(&self.path).output().ok();
        std::fs::remove_dir(&self.path).ok();
    }
}

fn socket_directory() -> String {
    let sockets: String =
        connect_superuser("postgres").query_one("SHOW unix_socket_directories", &[]).unwrap().get(0);
    sockets.split(',').next().unwrap().trim().to_owned()
}

fn batch(number: u64) -> String {
    let events: Vec<String> = (0..2_000)
        .map(|place| {
            format!(
                r#"{{"tenant_id":"a","account_id":"a{}","name":"n","user_id":"u{place}","occurred_at":"2026-03-{:02}T09:15:00Z",
                    "event_id":"{number:08x}-0000-4000-8000-{place:012x}","properties":{{"value":{place},"text":"{}"}}}}"#,
                place % 20, 1 + place % 28, "x".repeat(300)
            )
        })
        .collect();
    json_array(events.iter().map(String::as_str))
}

fn numbers(client: &mut Client) -> (i64, i64, i64) {
    let row = client
        .query_one(
            "SELECT (SELECT count(*) FROM tally.event_key), (SELECT count(*) FROM tally.events),
                    (SELECT coalesce(sum(events), 0)::int8 FROM tally.usage_day)",
            &[],
        )
        .unwrap();
    (row.get(0), row.get(1), row.get(2))
}

#[test]
fn a_full_disk_is_a_clean_error_and_then_all_is_right() {
    let Some(disk) = SmallDisk::mount() else { return };
    // Room that can be made later.
    let ballast = disk.path.join("ballast");
    File::create(&ballast).unwrap().write_all(&vec![1; 24 << 20]).unwrap();
    let database = Database::new("disk_full");
    move_to(&database, &disk.tablespace);
    let mut client = database.superuser();
    let mut acknowledged = ingest(&mut client, &batch(0)).unwrap().accepted;
    // No autovacuum makes room while the disk is full, now that each table is there.
    client
        .batch_execute(
            "DO $$ DECLARE t regclass; BEGIN
               FOR t IN SELECT oid FROM pg_class WHERE relkind = 'r' AND relnamespace = 'tally'::regnamespace
               LOOP EXECUTE format('ALTER TABLE %s SET (autovacuum_enabled = off, toast.autovacuum_enabled = off)', t); END LOOP;
             END $$",
        )
        .unwrap();
    let mut number = 1;
    let refused = loop {
        assert!(number < 200, "64 MB were never full");
        match ingest(&mut client, &batch(number)) {
            Ok(summary) => acknowledged += summary.accepted,
            Err(error) => break error,
        }
        number += 1;
    };
    assert_eq!(refused.as_db_error().unwrap().code().code(), "53100", "{refused:?}");
    assert!(acknowledged > 0);
    // Again and again: the same error, the same numbers, on the same connection.
    for _ in 0..3 {
        let error = ingest(&mut client, &batch(number)).unwrap_err();
        assert_eq!(error.as_db_error().unwrap().code().code(), "53100", "{error:?}");
        assert_eq!(numbers(&mut client), (acknowledged, acknowledged, acknowledged));
    }
    std::fs::remove_file(&ballast).unwrap();
    for retried in 0..=number + 2 {
        let summary = ingest(&mut client, &batch(retried)).unwrap();
        assert_eq!(summary.accepted, if retried < number { 0 } else { 2_000 });
        acknowledged += summary.accepted;
    }
    assert_eq!(numbers(&mut client), (acknowledged, acknowledged, acknowledged));
    client.batch_execute("SET temp_tablespaces = pg_default; BEGIN; SELECT tally.enter_global()").unwrap();
    assert!(client.query("SELECT tally.verify_rollup('usage')", &[]).unwrap().is_empty());
    assert!(Path::new(&disk.path).exists());
}

/// Moves a database that nobody is connected to.
fn move_to(database: &Database, tablespace: &str) {
    connect_superuser("postgres")
        .batch_execute(&format!("ALTER DATABASE {} SET TABLESPACE {tablespace}", database.name()))
        .unwrap();
}
