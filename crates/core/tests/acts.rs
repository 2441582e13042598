//! What docs/GOVERNANCE.md says is recorded is what the sources record: whoever looks for an act in the audit log finds there what it means.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The texts of the files with this ending, below a folder.
fn texts(folder: &Path, ending: &str, out: &mut Vec<(PathBuf, String)>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => texts(&path, ending, out),
            false if path.extension().is_some_and(|found| found == ending) => {
                let text = std::fs::read_to_string(&path).unwrap();
                out.push((path, text));
            }
            false => {}
        }
    }
}

/// What follows each place where a text begins so.
fn after<'t>(text: &'t str, begin: &'t str) -> impl Iterator<Item = &'t str> {
    text.match_indices(begin).map(move |(at, _)| &text[at + begin.len()..])
}

/// The names of those acts that the changes of a row are.
fn changes(of: &str) -> [String; 3] {
    ["added", "changed", "removed"].map(|what| format!("{of}_{what}"))
}

/// Acts of functions and triggers in SQL. The scripts that a build makes of these lie beside the nouns' folders.
fn of_sql(acts: &mut BTreeSet<String>) {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(root().join("sql")).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.ends_with("upgrade") {
            texts(&path, "sql", &mut files);
        }
    }
    for (_, text) in &files {
        for called in after(text, "record_act('") {
            acts.insert(called[..called.find('\'').unwrap()].to_owned());
        }
        // The table first, then what its changes are called.
        for called in after(text, "record_changes_of('") {
            acts.extend(changes(called.split('\'').nth(2).unwrap()));
        }
    }
    let by_name = |text: &str| after(text, "record_act(").filter(|called| !called.starts_with('\'')).count();
    let elsewhere: Vec<String> = files
        .iter()
        .filter(|(path, text)| !path.ends_with("audit/audit.sql") && by_name(text) > 0)
        .map(|(path, _)| path.display().to_string())
        .collect();
    assert_eq!(elsewhere, Vec::<String>::new(), "acts whose names this test can't read");
}

/// Acts that the library records: named where an `Act` is made, by a constant, or where a function is called that makes one.
fn of_rust(acts: &mut BTreeSet<String>) {
    let mut files = Vec::new();
    texts(&root().join("src"), "rs", &mut files);
    for (path, text) in &files {
        for made in after(text, "Act {").filter_map(|made| after(made, "act: ").next()) {
            let name = made.split([',', ' ', '\n']).next().unwrap();
            if let Some(literal) = name.strip_prefix('"') {
                acts.insert(literal.trim_end_matches('"').to_owned());
            } else if name.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_') {
                let begin = format!("const {name}: &str = \"");
                let constant =
                    after(text, &begin).next().unwrap_or_else(|| panic!("{name} in {}", path.display()));
                acts.insert(constant[..constant.find('"').unwrap()].to_owned());
            } else {
                // Of whoever calls what makes it.
                assert!(
                    matches!(name, "name" | "&'a" | "&str"),
                    "an act called {name} in {}",
                    path.display()
                );
            }
        }
        for called in after(text, "act(") {
            if let Some(literal) = called.trim_start().strip_prefix('"') {
                acts.insert(literal[..literal.find('"').unwrap()].to_owned());
            }
        }
    }
}

/// Acts in the first column of the table in "What is recorded": `a_…` is each change of a row, `_b` after `a_x` is `a_b`.
fn documented() -> BTreeSet<String> {
    let text = std::fs::read_to_string(root().join("docs/GOVERNANCE.md")).unwrap();
    let table = after(&text, "| act | when |\n").next().unwrap();
    let mut acts = BTreeSet::new();
    for row in table.lines().skip(1).take_while(|line| line.starts_with('|')) {
        let mut of = String::new();
        for name in row.split('|').nth(1).unwrap().split('`').skip(1).step_by(2) {
            if let Some(of) = name.strip_suffix("_…") {
                acts.extend(changes(of));
            } else if name.starts_with('_') {
                acts.insert(format!("{of}{name}"));
            } else {
                of = name[..name.rfind('_').unwrap_or(name.len())].to_owned();
                acts.insert(name.to_owned());
            }
        }
    }
    acts
}

#[test]
fn every_act_is_in_the_table_of_what_is_recorded() {
    let mut recorded = BTreeSet::new();
    of_sql(&mut recorded);
    of_rust(&mut recorded);
    for known in ["denied", "export_run", "key_added", "read", "subject_reported", "value_revealed"] {
        assert!(recorded.contains(known), "{known} isn't seen: is the test blind?");
    }
    let documented = documented();
    let missing: Vec<_> = recorded.difference(&documented).collect();
    assert_eq!(missing, Vec::<&String>::new(), "recorded, and not in docs/GOVERNANCE.md");
    let unknown: Vec<_> = documented.difference(&recorded).collect();
    assert_eq!(unknown, Vec::<&String>::new(), "in docs/GOVERNANCE.md, and never recorded");
}
