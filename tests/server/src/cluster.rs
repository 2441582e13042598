//! Databases and roles that belong to one test.

use crate::turn::Turn;
use postgres::{Client, Config, NoTls};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// A fresh database with the extension, and the roles made for it. Dropping it removes both, also after a failure.
pub struct Database {
    name: String,
    roles: Vec<String>,
    _turn: Turn,
}

impl Database {
    /// Clones a database with the extension installed. `topic` (letters, digits, underscores) becomes part of its
    /// name, so that a log line tells which test it belongs to.
    pub fn new(topic: &str) -> Database {
        Database::clone_of("tally_template", topic)
    }

    /// Makes a database without the extension.
    pub fn without_extension(topic: &str) -> Database {
        Database::clone_of("template1", topic)
    }

    /// Makes a database with the extension whose text is ordered as a language does: "a" before "B".
    pub fn in_language(language: &str, topic: &str) -> Database {
        let sorted = format!("template0 LOCALE_PROVIDER icu ICU_LOCALE '{language}' LOCALE 'C.UTF-8'");
        let database = Database::clone_of(&sorted, topic);
        database
            .superuser()
            .batch_execute("CREATE EXTENSION pg_tally; SELECT tally.open_months('-infinity')")
            .expect("creating the extension");
        database
    }

    fn clone_of(template: &str, topic: &str) -> Database {
        let turn = Turn::take();
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("test_{topic}_{}_{number}", std::process::id());
        connect_superuser("postgres")
            .batch_execute(&format!("CREATE DATABASE {name} TEMPLATE {template}"))
            .unwrap_or_else(|problem| panic!("cannot clone {template}, which `make test` builds: {problem}"));
        Database { name, roles: Vec::new(), _turn: turn }
    }

    /// Names the database.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Sets what the sessions that begin later start with: `name = value`.
    pub fn set(&self, setting: &str) {
        self.superuser().batch_execute(&format!("ALTER DATABASE {} SET {setting}", self.name)).unwrap();
    }

    /// Connects as the superuser `postgres`, who sees everything and therefore proves nothing about isolation.
    pub fn superuser(&self) -> Client {
        connect_superuser(&self.name)
    }

    /// Connects as `role`.
    pub fn connect(&self, role: &str) -> Client {
        self.config(role).connect(NoTls).unwrap_or_else(|problem| panic!("connecting as {role}: {problem}"))
    }

    /// Says how to connect as `role`, for a test that wants options of its own.
    pub fn config(&self, role: &str) -> Config {
        config(&self.name, role)
    }

    /// Names a role that the test will create itself; dropped with the database.
    pub fn reserve_role(&mut self, topic: &str) -> String {
        let role = format!("{topic}_{}", self.name);
        assert!(role.len() < 64, "Postgres would cut the name {role}");
        self.roles.push(role.clone());
        role
    }

    /// Creates a login role, a member of `groups`, and returns its name: unique in the cluster, beginning with `topic`.
    pub fn role(&mut self, topic: &str, groups: &[&str]) -> String {
        let role = self.reserve_role(topic);
        let mut client = self.superuser();
        client.batch_execute(&format!("CREATE ROLE {role} LOGIN")).expect("creating a role");
        for group in groups {
            client.batch_execute(&format!("GRANT {group} TO {role}")).expect("granting a role");
        }
        role
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        // Panicking here while a test's own panic unwinds would hide the test's message.
        let Ok(mut client) = config("postgres", "postgres").connect(NoTls) else { return };
        let mut statements = vec![format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name)];
        statements.extend(self.roles.iter().map(|role| format!("DROP ROLE IF EXISTS {role}")));
        for statement in statements {
            if let Err(problem) = client.batch_execute(&statement) {
                eprintln!("{statement}: {problem}");
            }
        }
    }
}

/// Connects to any database of the test cluster as the superuser.
pub fn connect_superuser(database: &str) -> Client {
    config(database, "postgres").connect(NoTls).unwrap_or_else(|problem| {
        panic!("no test cluster; start it with tests/template-database.sh: {problem}")
    })
}

fn config(database: &str, role: &str) -> Config {
    static ADDRESS: OnceLock<(String, u16)> = OnceLock::new();
    let (directory, port) = ADDRESS.get_or_init(address);
    let mut config = Config::new();
    config.host_path(directory).port(*port).user(role).dbname(database);
    config
}

/// What the script that starts the clusters prints.
fn script(arguments: &[&str]) -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../pgrx-config/cluster.sh");
    let output = Command::new(script).args(arguments).output().expect("running cluster.sh");
    String::from_utf8(output.stdout).expect("cluster.sh prints text")
}

/// Where the private server's programs are, and where its clusters have their sockets.
pub fn bin_and_sockets() -> &'static (PathBuf, PathBuf) {
    static PLACES: OnceLock<(PathBuf, PathBuf)> = OnceLock::new();
    PLACES.get_or_init(|| (script(&["bin"]).trim().into(), address().0.into()))
}

/// The major version of the private server.
pub fn major() -> u32 {
    let (bin, _) = bin_and_sockets();
    let major = bin.ancestors().nth(1).and_then(Path::file_name).and_then(|name| name.to_str());
    major.and_then(|name| name.parse().ok()).expect("the programs lie in usr/lib/postgresql/MAJOR/bin")
}

/// A statement with the names that the server under test has for its settings, where they differ by major version.
pub fn of_this_major(statement: &str) -> String {
    if major() < 16 {
        statement.to_owned()
    } else {
        statement.replace("force_parallel_mode", "debug_parallel_query")
    }
}

/// Asks the script that starts the cluster for its socket's directory and its port.
fn address() -> (String, u16) {
    let text = script(&["env", "test"]);
    let value = |key: &str| {
        let found = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        found.unwrap_or_else(|| panic!("cluster.sh env test prints no {key}")).to_owned()
    };
    (value("PGHOST"), value("PGPORT").parse().expect("a port"))
}

/// The `bigint` that a query returns.
pub fn number(client: &mut Client, query: &str) -> i64 {
    client.query_one(query, &[]).unwrap().get(0)
}
