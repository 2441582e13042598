//! Every SQL block of the README's tour runs in psql, as the login that the command above it names, and prints what the README shows, in
//! every time zone. With TALLY_WRITE_REFERENCE=1 the README gets what they print now.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use tally_server_tests::{PrivateServer, succeed};

/// Sessions' time zones: what the examples show is the same in each.
const ZONES: [&str; 4] = ["UTC", "America/New_York", "Asia/Kolkata", "Pacific/Kiritimati"];

fn file() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../README.md"))
}

/// A block of the README's tour.
struct Block {
    login: String,
    text: String,
    /// What the README says that it prints, if it does.
    shown: Option<String>,
}

/// The tour: each block of SQL has the command above it that opens its shell, and may have what it prints below it.
fn blocks(readme: &str) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    let parts: Vec<&str> = readme.split("\n```").collect();
    // Every other part is inside a block.
    for place in (1..parts.len()).step_by(2) {
        let (head, body) = parts[place].split_once('\n').unwrap();
        let before = parts[place - 1];
        if let Some(login) = head.strip_prefix("sql") {
            let login = login.trim();
            let command = format!("    make psql DB=tour AS={login}");
            assert_eq!(before.trim_end().lines().last(), Some(command.as_str()), "above {body}");
            blocks.push(Block { login: login.to_owned(), text: format!("{body}\n"), shown: None });
        } else if before.trim().is_empty() {
            assert_eq!(head, "text", "{head}");
            blocks.last_mut().unwrap().shown = Some(body.to_owned());
        }
    }
    assert_eq!(parts.len() % 2, 1, "a block doesn't end");
    blocks
}

/// What psql prints, without the numbers of rows, and without the answers of functions that answer nothing.
fn told(output: &str) -> String {
    let tables =
        output.split("\n\n").filter(|table| table.lines().nth(2).is_none_or(|row| !row.trim().is_empty()));
    let is_footer =
        |line: &str| line.starts_with('(') && (line.ends_with(" rows)") || line.ends_with(" row)"));
    let lines = |table: &str| {
        table
            .lines()
            .filter(|line| !is_footer(line))
            .map(|line| format!("{}\n", line.trim_end()))
            .collect::<String>()
    };
    tables.map(lines).collect::<Vec<_>>().join("\n").trim_end().to_owned()
}

/// Runs the tour in a database of its own; what each block prints.
fn tour(server: &PrivateServer, zone: &str, blocks: &[Block]) -> Vec<String> {
    let mut superuser = server.connect("postgres", "postgres");
    superuser.batch_execute("CREATE DATABASE tour").unwrap();
    let run = |block: &Block| {
        let mut psql = server.client("psql");
        psql.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-P", "pager=off", "-d", "tour", "-U", &block.login]);
        psql.env("PGTZ", zone).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = psql.spawn().unwrap();
        child.stdin.take().unwrap().write_all(block.text.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "as {}, {zone}: {errors}\n{}", block.login, block.text);
        told(&String::from_utf8(output.stdout).unwrap())
    };
    let printed = blocks.iter().map(run).collect();
    superuser.batch_execute("DROP DATABASE tour WITH (FORCE)").unwrap();
    superuser.batch_execute("DROP ROLE shop_app, acme_bi, our_analyst").unwrap();
    printed
}

#[test]
fn the_tour_runs_as_written() {
    let mut readme = std::fs::read_to_string(file()).unwrap();
    let server = PrivateServer::create("tour", "");
    let tour_of = blocks(&readme);
    assert!(tour_of.len() > 8);
    if std::env::var_os("TALLY_WRITE_REFERENCE").is_some() {
        for (block, printed) in tour_of.iter().zip(tour(&server, "UTC", &tour_of)) {
            if let Some(shown) = &block.shown {
                let (old, new) = (
                    format!("{}```\n\n```text\n{shown}\n```", block.text),
                    format!("{}```\n\n```text\n{printed}\n```", block.text),
                );
                assert!(readme.contains(&old), "{old}");
                readme = readme.replace(&old, &new);
            }
        }
        std::fs::write(file(), &readme).unwrap();
    }
    let tour_of = blocks(&readme);
    let mut shown = 0;
    for zone in ZONES {
        for (block, printed) in tour_of.iter().zip(tour(&server, zone, &tour_of)) {
            if let Some(expected) = &block.shown {
                assert_eq!(expected, &printed, "{zone}: {}", block.text);
                shown += 1;
            }
        }
    }
    assert!(shown >= 8 * ZONES.len(), "{shown} answers");
    // The commands above the blocks are these, and without anything they open the demo.
    let psql = |arguments: &[&str]| {
        let mut make = Command::new("make");
        make.arg("--dry-run").arg("--directory").arg(file().parent().unwrap()).arg("psql").args(arguments);
        String::from_utf8(succeed(&mut make).stdout).unwrap()
    };
    assert!(psql(&["DB=tour", "AS=shop_app"]).contains(r#"psql.sh "tour" "shop_app""#));
    assert!(psql(&[]).contains(r#"psql.sh "tally_demo" "postgres""#));
    // What the text between the blocks says.
    for (said, printed) in [
        ("Four accepted.", "        4 |          0 |         0 |        0"),
        ("A first account-level chart", "north      | 2026-03-02 |      2 |     2 |       118"),
    ] {
        assert!(readme.contains(said) && readme.contains(printed), "{said}");
    }
}
