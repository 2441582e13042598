//! Servers with a data directory of their own, for tests that copy one, kill one or start one with other settings.

use crate::cluster::{bin_and_sockets, major};
use crate::turn::Turn;
use postgres::{Client, Config, NoTls};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// A server that one test made. Dropping it stops the server and removes its data.
pub struct PrivateServer {
    bin: PathBuf,
    /// Where the programs look for libraries that this release doesn't have.
    libraries: Option<PathBuf>,
    sockets: PathBuf,
    data: PathBuf,
    port: u16,
    environment: Vec<(&'static str, &'static str)>,
    _turn: Turn,
}

impl PrivateServer {
    /// Makes a cluster and starts it with `settings`, lines of postgresql.conf.
    pub fn create(topic: &str, settings: &str) -> Self {
        Self::create_with(topic, settings, &[])
    }

    /// Does so with variables of the environment that the server starts with.
    pub fn create_with(topic: &str, settings: &str, environment: &[(&'static str, &'static str)]) -> Self {
        let mut server = Self::place(topic);
        server.environment.extend(environment);
        server.initialise(settings, &[]);
        server.start();
        server
    }

    /// The same with another installation's programs, and `options` for initdb.
    pub fn create_on(installation: &Installation, topic: &str, settings: &str, options: &[&str]) -> Self {
        let server = Self::prepare_on(installation, topic, settings, options);
        server.start();
        server
    }

    /// A cluster that isn't started yet.
    pub fn prepare_on(installation: &Installation, topic: &str, settings: &str, options: &[&str]) -> Self {
        let mut server = Self::place(topic);
        server.bin.clone_from(&installation.bin);
        server.libraries.clone_from(&installation.libraries);
        server.initialise(settings, options);
        server
    }

    fn initialise(&self, settings: &str, options: &[&str]) {
        let initdb =
            ["-U", "postgres", "--auth=trust", "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync", "-D"];
        succeed(self.as_server("initdb").args(options).args(initdb).arg(&self.data));
        self.configure(settings);
    }

    /// Makes a standby of this server and starts it with `settings` besides this server's own.
    pub fn standby(&self, topic: &str, settings: &str) -> Self {
        let standby = Self::place(topic);
        let name = format!("application_name={topic}");
        succeed(self.as_server("pg_basebackup").args(["-h", self.sockets.to_str().unwrap()]).args([
            "-p",
            &self.port.to_string(),
            "-U",
            "postgres",
            "-d",
            &name,
            "-c",
            "fast",
            "-X",
            "stream",
            "-R",
            "--no-sync",
            "-D",
            standby.data.to_str().unwrap(),
        ]));
        standby.configure(settings);
        standby.start();
        standby
    }

    /// Stops this server and moves it to a new cluster by `pg_upgrade`, as to another release; starts that with `settings`.
    pub fn upgraded(&self, topic: &str, settings: &str) -> Self {
        let new = Self::place(topic);
        new.initialise(settings, &[]);
        self.stop();
        self.upgrade_to(&new);
        new.start();
        new
    }

    fn place(topic: &str) -> Self {
        let turn = Turn::take();
        static NEXT: AtomicU16 = AtomicU16::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let (bin, sockets) = bin_and_sockets();
        // root/usr/lib/postgresql/NN/bin
        let private = bin.ancestors().nth(6).expect("the private server lies below the private directory");
        // Two majors' tests may run beside each other in namespaces of their own, where they have the same numbers.
        let data = private.join(format!("data/test-{}-{topic}-{}-{number}", major(), std::process::id()));
        let _ = std::fs::remove_dir_all(&data);
        let mut install = Command::new("install");
        install.args(["-d", "-m", "700"]);
        if runs_as_root() {
            install.args(["-o", "postgres"]);
        }
        succeed(install.arg(&data));
        // Ports only name the socket files.
        let port = 20_000 + (std::process::id() % 4000 * 10) as u16 + number;
        let bin = bin.clone();
        Self {
            bin,
            libraries: None,
            sockets: sockets.clone(),
            data,
            port,
            environment: Vec::new(),
            _turn: turn,
        }
    }

    /// Where the server's socket is.
    pub fn sockets(&self) -> &Path {
        &self.sockets
    }

    /// Adds lines to postgresql.conf; the last one that names a setting counts.
    pub fn configure(&self, settings: &str) {
        let path = self.data.join("postgresql.conf");
        let mut text = std::fs::read_to_string(&path).expect("reading postgresql.conf");
        text.push_str(&format!(
            "\nlisten_addresses = ''\nunix_socket_directories = '{}'\nport = {}\nfsync = off\ntimezone = 'UTC'\n\
             log_timezone = 'UTC'\njit = off\nshared_buffers = 64MB\n{settings}\n",
            self.sockets.display(),
            self.port
        ));
        std::fs::write(path, text).expect("writing postgresql.conf");
    }

    pub fn start(&self) {
        let log = self.data.join("log.txt");
        let mut command = self.as_server("pg_ctl");
        command.args(["start", "-w", "-s", "-D"]).arg(&self.data).arg("-l").arg(&log);
        // The server outlives the command, so it must not hold its pipes.
        let status = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
        assert!(status.expect("running pg_ctl").success(), "{}", self.log());
    }

    /// What the server has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.data.join("log.txt")).unwrap_or_default()
    }

    pub fn stop(&self) {
        succeed(self.as_server("pg_ctl").args(["stop", "-w", "-s", "-m", "fast", "-D"]).arg(&self.data));
    }

    /// Re-reads the settings.
    pub fn reload(&self) {
        succeed(self.as_server("pg_ctl").args(["reload", "-s", "-D"]).arg(&self.data));
    }

    /// Makes a standby the primary.
    pub fn promote(&self) {
        succeed(self.as_server("pg_ctl").args(["promote", "-w", "-s", "-D"]).arg(&self.data));
    }

    /// Kills the postmaster; its children end when they notice.
    pub fn kill(&self) {
        let file = std::fs::read_to_string(self.data.join("postmaster.pid")).expect("the server runs");
        succeed(Command::new("kill").args(["-9", file.lines().next().expect("a pid")]));
    }

    pub fn config(&self, role: &str, database: &str) -> Config {
        let mut config = Config::new();
        config.host_path(&self.sockets).port(self.port).user(role).dbname(database);
        config
    }

    pub fn connect(&self, role: &str, database: &str) -> Client {
        let connected = self.config(role, database).connect(NoTls);
        connected.unwrap_or_else(|problem| panic!("connecting as {role}: {problem}\n{}", self.log()))
    }

    /// What names its socket.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The data directory.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// A client program of this server's, told how to connect to it as the superuser.
    pub fn client(&self, program: &str) -> Command {
        let mut command = Command::new(self.bin.join(program));
        if let Some(libraries) = &self.libraries {
            command.env("LD_LIBRARY_PATH", libraries);
        }
        command.env("PGHOST", &self.sockets).env("PGPORT", self.port.to_string()).env("PGUSER", "postgres");
        command
    }

    /// Moves this cluster, which has stopped, to one that was made and hasn't begun, as docs/runbooks/upgrade.md says.
    pub fn upgrade_to(&self, new: &PrivateServer) {
        let runbook = include_str!("../../../docs/runbooks/upgrade.md");
        let commands = runbook.split_once("```sh upgrade\n").and_then(|(_, rest)| rest.split_once("```"));
        let (commands, _) = commands.expect("the runbook has a block of commands");
        let mut command = new.as_server("/bin/bash");
        command.args(["-euo", "pipefail", "-c", commands]).current_dir(&new.data);
        command.env("PGBINOLD", &self.bin).env("PGDATAOLD", &self.data);
        command.env("PGBINNEW", &new.bin).env("PGDATANEW", &new.data);
        command.env("PGPORTOLD", self.port.to_string()).env("PGPORTNEW", new.port.to_string());
        command.env("PGSOCKETDIR", &self.sockets);
        if let Some(libraries) = &self.libraries {
            command.env("LD_LIBRARY_PATH", libraries);
        }
        succeed(&mut command);
    }

    fn as_server(&self, program: &str) -> Command {
        let program = self.bin.join(program);
        let mut command = if runs_as_root() {
            let mut command = Command::new("runuser");
            command.args(["-u", "postgres", "--"]).arg(program);
            command
        } else {
            Command::new(program)
        };
        // On a slow machine a server takes its time to start, to stop and to become a primary.
        command.current_dir("/").env("LC_ALL", "C.UTF-8").env("PGCTLTIMEOUT", "180");
        command.envs(self.environment.iter().copied());
        if let Some(libraries) = &self.libraries {
            command.env("LD_LIBRARY_PATH", libraries);
        }
        command
    }
}

/// The programs of a server, which needn't be those of the clusters that `make test` starts.
pub struct Installation {
    bin: PathBuf,
    libraries: Option<PathBuf>,
}

impl Installation {
    /// Programs in a directory that ends in usr/lib/postgresql/MAJOR/bin.
    pub fn at(bin: PathBuf) -> Self {
        Self { bin, libraries: None }
    }

    /// The private copy of the major version under test.
    pub fn current() -> Self {
        Self::at(bin_and_sockets().0.clone())
    }

    /// The private copy of an earlier major version with the extension, where this checkout has one: after `make build
    /// PG_MAJOR=...`. It brings the libraries of its release along; those that this release has, too, stay its own.
    pub fn earlier(major: u32) -> Option<Self> {
        let home = bin_and_sockets().0.ancestors().nth(2)?.join(major.to_string());
        Self::with_libraries(major, &home, &home.join("lib/of-its-release"))
    }

    /// The same of the oldest minor version that the earlier release still has, after `make setup-tests PG_MAJOR=...`, too.
    pub fn earlier_minor(major: u32) -> Option<Self> {
        let versions = bin_and_sockets().0.ancestors().nth(2)?;
        // .pg/root/usr/lib/postgresql
        let home = versions.ancestors().nth(4)?.join(format!("older-{major}/usr/lib/postgresql/{major}"));
        Self::with_libraries(major, &home, &versions.join(format!("{major}/lib/of-its-release")))
    }

    fn with_libraries(major: u32, home: &Path, brought: &Path) -> Option<Self> {
        let bin = home.join("bin");
        if !bin.join("postgres").exists() || !home.join("lib/pg_tally.so").exists() {
            return None;
        }
        let missing = Command::new("ldd").arg(bin.join("postgres")).output().ok()?;
        let missing = String::from_utf8_lossy(&missing.stdout).into_owned();
        let libraries =
            std::env::temp_dir().join(format!("pg_tally_libraries_{major}_{}", std::process::id()));
        std::fs::create_dir_all(&libraries).expect("making a directory for libraries");
        let mut needs_more = true;
        // A library that is brought may need another one.
        let mut text = missing;
        while needs_more {
            needs_more = false;
            for line in text.lines().filter(|line| line.contains("not found")) {
                let name = line.split_whitespace().next().expect("a name");
                let (from, to) = (brought.join(name), libraries.join(name));
                if from.exists() && !to.exists() {
                    std::fs::copy(from, to).expect("copying a library");
                    needs_more = true;
                }
            }
            let again =
                Command::new("ldd").arg(bin.join("postgres")).env("LD_LIBRARY_PATH", &libraries).output();
            text = String::from_utf8_lossy(&again.ok()?.stdout).into_owned();
        }
        assert!(!text.contains("not found"), "PostgreSQL {major} misses libraries here:\n{text}");
        Some(Self { bin, libraries: Some(libraries) })
    }
}

impl Drop for PrivateServer {
    fn drop(&mut self) {
        let _ = self
            .as_server("pg_ctl")
            .args(["stop", "-w", "-s", "-m", "immediate", "-D"])
            .arg(&self.data)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        let _ = std::fs::remove_dir_all(&self.data);
    }
}

fn runs_as_root() -> bool {
    let output = Command::new("id").arg("-u").output().expect("running id");
    output.stdout.trim_ascii() == b"0"
}

/// Runs a command, and fails with what it printed unless it succeeds.
pub fn succeed(command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|problem| panic!("running {command:?}: {problem}"));
    assert!(
        output.status.success(),
        "{command:?}\n{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

/// Asks again and again until there is an answer, for three minutes.
pub fn wait_for<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + Duration::from_secs(180);
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < until, "waited three minutes for {what}");
        thread::sleep(Duration::from_millis(20));
    }
}
