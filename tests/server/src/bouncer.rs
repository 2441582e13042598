//! PgBouncer in transaction mode before the test cluster.

use crate::{Database, skip};
use postgres::config::Host;
use postgres::{Client, Config, NoTls};
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const PROGRAM: &str = "/usr/sbin/pgbouncer";
const PORT: u16 = 6432;

/// A running PgBouncer, stopped when it is dropped.
pub struct Bouncer {
    process: Child,
    directory: PathBuf,
    database: String,
}

impl Bouncer {
    /// Starts one whose `connections` server connections `role` shares; or reports the test as skipped.
    pub fn start(database: &Database, roles: &[&str], connections: u32) -> Option<Self> {
        if !Path::new(PROGRAM).exists() {
            skip("pgbouncer is not installed");
            return None;
        }
        let server = database.config(roles[0]);
        let (Host::Unix(sockets), port) = (&server.get_hosts()[0], server.get_ports()[0]) else {
            panic!("the test cluster is on a Unix socket");
        };
        let directory = std::env::temp_dir().join(format!("{}_pool", database.name()));
        std::fs::create_dir(&directory).expect("a directory of its own");
        let place = directory.display();
        let mut users = String::new();
        for role in roles {
            writeln!(users, "\"{role}\" \"\"").unwrap();
        }
        let settings = format!(
            "[databases]\n* = host={} port={port}\n[pgbouncer]\nlisten_port = {PORT}\nunix_socket_dir = {place}\n\
             auth_type = trust\nauth_file = {place}/users.txt\npool_mode = transaction\ndefault_pool_size = {connections}\n\
             max_client_conn = 300\nserver_lifetime = 1\nlogfile = {place}/log\n",
            sockets.display()
        );
        std::fs::write(directory.join("users.txt"), users).unwrap();
        std::fs::write(directory.join("pool.ini"), settings).unwrap();
        // It refuses to run as root, like Postgres.
        let is_root = Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout == b"0\n");
        let mut command = if is_root {
            assert!(
                Command::new("chown").args(["-R", "postgres"]).arg(&directory).status().unwrap().success()
            );
            let mut command = Command::new("runuser");
            command.args(["-u", "postgres", "--", PROGRAM]);
            command
        } else {
            Command::new(PROGRAM)
        };
        let process = command
            .args(["-q".as_ref(), directory.join("pool.ini").as_os_str()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("starting pgbouncer");
        let bouncer = Self { process, directory, database: database.name().to_owned() };
        for _ in 0..1200 {
            if bouncer.config(roles[0]).connect(NoTls).is_ok() {
                return Some(bouncer);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let log = std::fs::read_to_string(bouncer.directory.join("log")).unwrap_or_default();
        panic!("pgbouncer doesn't answer: {log}");
    }

    fn config(&self, role: &str) -> Config {
        let mut config = Config::new();
        config.host_path(&self.directory).port(PORT).user(role).dbname(&self.database);
        config
    }

    /// Connects as a client. Use simple queries: prepared statements of the protocol don't travel with transactions.
    pub fn connect(&self, role: &str) -> Client {
        self.config(role)
            .connect(NoTls)
            .unwrap_or_else(|problem| panic!("connecting to pgbouncer: {problem}"))
    }
}

impl Drop for Bouncer {
    fn drop(&mut self) {
        // SIGTERM reaches the pooler through runuser, too; SIGKILL would leave it behind.
        let _ = Command::new("kill").arg(self.process.id().to_string()).status();
        let _ = self.process.wait();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}
