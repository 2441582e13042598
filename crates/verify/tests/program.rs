//! The program, run on files: what it prints, and what it ends with.

use std::path::PathBuf;
use std::process::{Command, Output};
use tally_core::audit::{Anchor, Entry, Seal, hex, month_of, root};
use tally_core::event::format_uuid;

fn folder() -> PathBuf {
    let folder = std::env::temp_dir().join(format!(
        "tally_verify_{}_{:?}",
        std::process::id(),
        std::thread::current().id()
    ));
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

/// A seal over three entries, and the anchor of it.
fn log() -> (Vec<String>, String) {
    let entries: Vec<Entry> = (0..3)
        .map(|n| Entry {
            tenant_id: "acme".into(),
            origin: 1,
            xid: 5 + n,
            entry_id: [n as u8; 16],
            actor: "a".into(),
            act: "b".into(),
            ..Entry::default()
        })
        .collect();
    let mut seal = Seal {
        place: 1,
        tenant_id: "acme".into(),
        number: 1,
        month: month_of(0),
        origin: 1,
        to_xid: 9,
        total: 3,
        leaves: entries.iter().map(Entry::leaf).collect(),
        ..Seal::default()
    };
    seal.root = seal.root_of_leaves();
    let mut lines = vec![format!(
        r#"{{"seal":1,"tenant_id":"acme","number":1,"month":"{}","origin":"1","from_xid":"0","to_xid":"9","sealed_at":0,"total":3,"root":"{}","previous":"{}","hash":"{}","leaves":"{}"}}"#,
        seal.month,
        hex(&seal.root),
        hex(&seal.previous),
        hex(&seal.hash()),
        hex(&seal.leaves.concat())
    )];
    lines.extend(entries.iter().map(|entry| {
        format!(
            r#"{{"entry":"{}","tenant_id":"acme","origin":"1","xid":"{}","at":0,"actor":"a","act":"b","leaf":"{}"}}"#,
            format_uuid(&entry.entry_id),
            entry.xid,
            hex(&entry.leaf())
        )
    }));
    let anchor = Anchor { database: "1/shop".into(), size: 1, root: root(&[seal.hash()]), at: "now".into() };
    (lines, anchor.print())
}

fn run(lines: &[String], anchors: &str) -> Output {
    let folder = folder();
    let (export, kept) = (folder.join("audit.jsonl"), folder.join("anchors.txt"));
    std::fs::write(&export, lines.join("\n") + "\n").unwrap();
    std::fs::write(&kept, anchors).unwrap();
    Command::new(env!("CARGO_BIN_EXE_tally-verify")).arg("--anchors").arg(kept).arg(export).output().unwrap()
}

fn printed(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[test]
fn it_ends_with_what_it_found() {
    let (lines, anchor) = log();
    let output = run(&lines, &anchor);
    assert_eq!(output.status.code(), Some(0), "{}", printed(&output));
    assert!(
        printed(&output).starts_with("intact: 1 seals, 3 entries, 0 of them not sealed yet, 1 anchors agree"),
        "{}",
        printed(&output)
    );

    let changed: Vec<String> = lines
        .iter()
        .map(|line| line.replace(r#""xid":"6","at":0,"actor":"a""#, r#""xid":"6","at":0,"actor":"x""#))
        .collect();
    let output = run(&changed, &anchor);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        printed(&output).starts_with("changed: seal 1, tenant \"acme\", entry 01010101-"),
        "{}",
        printed(&output)
    );

    let output = run(&[], &anchor);
    assert_eq!(output.status.code(), Some(1));
    assert!(printed(&output).contains("there are 0 seals, and there were 1"), "{}", printed(&output));
}

#[test]
fn it_says_what_it_can_not_do() {
    let (lines, _) = log();
    assert_eq!(run(&lines, "no anchor").status.code(), Some(2));
    let program = || Command::new(env!("CARGO_BIN_EXE_tally-verify"));
    assert_eq!(program().arg("/nowhere/audit.jsonl").output().unwrap().status.code(), Some(2));
    assert_eq!(program().arg("--nothing").output().unwrap().status.code(), Some(2));
    assert_eq!(program().arg("--help").output().unwrap().status.code(), Some(2));
    assert_eq!(program().output().unwrap().status.code(), Some(2), "an empty standard input is no export");
}
