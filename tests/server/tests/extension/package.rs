//! `make package`: the Debian package unpacks into an empty root, and holds what the server needs, as it was built.

use std::path::{Path, PathBuf};
use std::process::Command;
use tally_server_tests::{Installation, PrivateServer, ingest, json_array, major, skip, succeed};

/// What packing leaves behind.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn the_package_unpacks_into_an_empty_root_and_works() {
    if Command::new("dpkg-deb").arg("--version").output().is_err() {
        skip("dpkg-deb is missing");
        return;
    }
    let checkout = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let scratch = Scratch(std::env::temp_dir().join(format!("pg_tally_package_{}", std::process::id())));
    let root = scratch.0.join("root");
    std::fs::create_dir_all(&root).unwrap();
    let output = succeed(Command::new(checkout.join("packaging/deb.sh")).arg(scratch.0.join("out")));
    let package = String::from_utf8(output.stdout).unwrap().trim().to_owned();
    let field = |name: &str| {
        let output = succeed(Command::new("dpkg-deb").args(["-f", &package, name]));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    let major = major();
    assert_eq!(field("Package"), format!("postgresql-{major}-pg-tally"));
    assert_eq!(field("Version"), env!("CARGO_PKG_VERSION"));
    assert!(field("Depends").contains(&format!("postgresql-{major}")));

    succeed(Command::new("dpkg-deb").args(["-x", &package, root.to_str().unwrap()]));
    let bin = succeed(Command::new(checkout.join("pgrx-config/cluster.sh")).arg("bin"));
    let bin = PathBuf::from(String::from_utf8(bin.stdout).unwrap().trim());
    let server = bin.ancestors().nth(5).unwrap();
    let version = env!("CARGO_PKG_VERSION");
    for file in ["pg_tally.control".to_owned(), format!("pg_tally--{version}.sql")] {
        let place = format!("usr/share/postgresql/{major}/extension/{file}");
        let (packed, built) = (std::fs::read(root.join(&place)), std::fs::read(server.join(&place)));
        assert_eq!(packed.unwrap(), built.unwrap(), "{file}");
    }
    // The library without its debugging information.
    let library = root.join(format!("usr/lib/postgresql/{major}/lib/pg_tally.so"));
    assert!(std::fs::metadata(&library).unwrap().len() > 100_000);
    let symbols = succeed(Command::new("nm").args(["-D", "--defined-only", library.to_str().unwrap()]));
    let symbols = String::from_utf8(symbols.stdout).unwrap();
    for symbol in ["Pg_magic_func", "_PG_init", "tally_worker_main", "retain_wrapper"] {
        assert!(symbols.contains(symbol), "{symbol}");
    }
    let sums = succeed(Command::new("dpkg-deb").args(["--ctrl-tarfile", &package]));
    assert!(!sums.stdout.is_empty());
    for file in [
        "doc/NAME/README.md",
        "doc/NAME/CHANGELOG.md",
        "doc/NAME/docs/sql-reference.md",
        "doc/NAME/docs/runbooks/restore.md",
        "NAME/monitoring/prometheus_alerts.yaml",
        "NAME/dashboards/grafana.json",
        "NAME/integrations/bi/views.sql",
        "NAME/packaging/tally-doctor.sql",
    ] {
        let file = file.replace("NAME", &format!("postgresql-{major}-pg-tally"));
        assert!(root.join("usr/share").join(&file).exists(), "{file}");
    }

    // Debian's own files of the server and the package's, nothing else: the extension installs, and an event counts once.
    let clean = Scratch(server.join(format!("../data/package-{}", std::process::id())));
    let (lib, share) = (format!("usr/lib/postgresql/{major}"), format!("usr/share/postgresql/{major}"));
    for part in [&lib, &share] {
        let to = clean.0.join(part);
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        succeed(Command::new("cp").arg("-al").arg(server.join(part)).arg(&to));
    }
    std::fs::remove_file(clean.0.join(&lib).join("lib/pg_tally.so")).unwrap();
    for entry in std::fs::read_dir(clean.0.join(&share).join("extension")).unwrap() {
        let path = entry.unwrap().path();
        if path.file_name().unwrap().to_str().unwrap().starts_with("pg_tally") {
            std::fs::remove_file(path).unwrap();
        }
    }
    succeed(Command::new("dpkg-deb").args(["-x", &package, clean.0.to_str().unwrap()]));
    let installation = Installation::at(clean.0.canonicalize().unwrap().join(&lib).join("bin"));
    let server = PrivateServer::create_on(&installation, "package", "", &[]);
    let mut client = server.connect("postgres", "postgres");
    client
        .batch_execute(
            "CREATE EXTENSION pg_tally; CREATE ROLE app LOGIN; GRANT tally_writer, tally_reader TO app",
        )
        .unwrap();
    client.batch_execute("SELECT tally.trust_role('app')").unwrap();
    let today: String =
        client.query_one("SELECT to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD')", &[]).unwrap().get(0);
    let event = format!(
        r#"{{"tenant_id":"t","account_id":"a","name":"n","event_id":"00000000-0000-4000-8000-000000000001","occurred_at":"{today}T00:00:00Z"}}"#
    );
    let event = json_array([event.as_str()]);
    let mut app = server.connect("app", "postgres");
    assert_eq!(ingest(&mut app, &event).unwrap().accepted, 1);
    assert_eq!(ingest(&mut app, &event).unwrap().duplicates, 1);
}

/// What PGXN reads: each field that its specification asks for, the version of the sources, and files that are there.
#[test]
fn the_metadata_for_pgxn_is_whole() {
    let checkout = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let text = std::fs::read_to_string(checkout.join("META.json")).unwrap();
    let meta: serde_json::Value = serde_json::from_str(&text).unwrap();
    for field in ["name", "version", "abstract", "maintainer", "license", "provides", "meta-spec"] {
        assert!(!meta[field].is_null(), "{field}");
    }
    let provided = &meta["provides"]["pg_tally"];
    for version in [&meta["version"], &provided["version"]] {
        assert_eq!(version, env!("CARGO_PKG_VERSION"));
    }
    for file in ["file", "docfile"] {
        assert!(checkout.join(provided[file].as_str().unwrap()).is_file(), "{file}");
    }
    assert!(["stable", "testing", "unstable"].contains(&meta["release_status"].as_str().unwrap()));
    // Its client runs `make all`, then `make install`, with PG_CONFIG.
    let make = ["--dry-run", "--directory", checkout.to_str().unwrap(), "PG_CONFIG=/nowhere/pg_config"];
    succeed(Command::new("make").args(make).arg("all"));
    let install = succeed(Command::new("make").args(make).arg("install"));
    let install = String::from_utf8(install.stdout).unwrap();
    assert!(install.contains("install-extension.sh \"/nowhere/pg_config\""), "{install}");
}
