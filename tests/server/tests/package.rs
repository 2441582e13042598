//! `make package`: the Debian package unpacks into an empty root, and holds what the server needs, as it was built.

use std::path::{Path, PathBuf};
use std::process::Command;
use tally_server_tests::{skip, succeed};

/// What packing leaves behind.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn the_package_installs_into_an_empty_root() {
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
    assert_eq!(field("Package"), "postgresql-15-pg-tally");
    assert_eq!(field("Version"), env!("CARGO_PKG_VERSION"));
    assert!(field("Depends").contains("postgresql-15"));

    succeed(Command::new("dpkg-deb").args(["-x", &package, root.to_str().unwrap()]));
    let bin = succeed(Command::new(checkout.join("pgrx-config/cluster.sh")).arg("bin"));
    let bin = PathBuf::from(String::from_utf8(bin.stdout).unwrap().trim());
    let server = bin.ancestors().nth(5).unwrap();
    let version = env!("CARGO_PKG_VERSION");
    for file in ["pg_tally.control".to_owned(), format!("pg_tally--{version}.sql")] {
        let place = format!("usr/share/postgresql/15/extension/{file}");
        let (packed, built) = (std::fs::read(root.join(&place)), std::fs::read(server.join(&place)));
        assert_eq!(packed.unwrap(), built.unwrap(), "{file}");
    }
    // The library without its debugging information.
    let library = root.join("usr/lib/postgresql/15/lib/pg_tally.so");
    assert!(std::fs::metadata(&library).unwrap().len() > 100_000);
    let symbols = succeed(Command::new("nm").args(["-D", "--defined-only", library.to_str().unwrap()]));
    let symbols = String::from_utf8(symbols.stdout).unwrap();
    for symbol in ["Pg_magic_func", "_PG_init", "tally_worker_main", "retain_wrapper"] {
        assert!(symbols.contains(symbol), "{symbol}");
    }
    let sums = succeed(Command::new("dpkg-deb").args(["--ctrl-tarfile", &package]));
    assert!(!sums.stdout.is_empty());
    for document in ["README.md", "CHANGELOG.md", "sql-reference.md", "runbooks/restore.md"] {
        assert!(root.join("usr/share/doc/postgresql-15-pg-tally").join(document).exists(), "{document}");
    }
}
