//! The alert rules in monitoring/: each names a runbook that is there, each runbook for what the server can show has an alert, and
//! promtool finds nothing in them. That the queries give what they declare, runbooks.rs shows.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use tally_server_tests::{Database, skip, succeed};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

fn read(file: &str) -> String {
    std::fs::read_to_string(root().join("monitoring").join(file)).unwrap()
}

/// Metrics as postgres_exporter calls them, with their kinds, from the query file.
fn metrics() -> Vec<(String, String)> {
    let mut query = String::new();
    let mut metrics = Vec::new();
    for line in read("postgres_exporter_queries.yaml").lines() {
        if let Some(name) = line.strip_suffix(':').filter(|name| name.starts_with("tally_")) {
            query = name.to_owned();
        } else if let Some((column, rest)) =
            line.strip_prefix("    - ").and_then(|text| text.split_once(": {usage: \""))
        {
            let kind = rest.split('"').next().unwrap();
            metrics.push((format!("{query}_{column}"), kind.to_owned()));
        }
    }
    metrics
}

#[test]
fn every_alert_has_a_runbook_and_every_runbook_an_alert() {
    let rules = read("prometheus_alerts.yaml");
    let (mut called_for, mut alerts) = (BTreeSet::new(), 0);
    for line in rules.lines() {
        if let Some((_, rest)) = line.split_once("runbook: ") {
            let file = rest.trim_end_matches('}');
            assert!(root().join(file).is_file(), "{file}");
            called_for.insert(file.trim_start_matches("docs/runbooks/").to_owned());
        }
        alerts += usize::from(line.contains("- alert: "));
    }
    assert!(alerts >= called_for.len() && alerts > 10);
    // The others are for what somebody wants, not for what the server shows.
    for name in [
        "corrupt-rollup",
        "disk-full",
        "failover",
        "flood",
        "install",
        "leaked-credential",
        "restore",
        "runaway-tenant",
        "suspected-tampering",
        "upgrade",
        "worker-down",
    ] {
        assert!(called_for.contains(&format!("{name}.md")), "no alert leads to {name}");
    }
    // What the rules ask for is what the queries give.
    let known: BTreeSet<String> = metrics().into_iter().map(|(name, _)| name).collect();
    let rules: String = rules.lines().filter(|line| !line.starts_with('#')).collect();
    let words = rules.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    for word in words.filter(|word| word.starts_with("tally_")) {
        assert!(known.contains(word), "no query gives {word}");
    }
}

/// A rule on a component that health doesn't know would be silent for ever, and so is a component that no rule asks for.
#[test]
fn rules_are_about_components_that_health_has() {
    let mut database = Database::new("monitoring");
    let admin = database.role("admin", &["tally_admin"]);
    let rows = database.connect(&admin).query("SELECT component FROM tally.observe_health()", &[]).unwrap();
    let components: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    let mut looked_at = 0;
    for line in read("prometheus_alerts.yaml").lines().filter(|line| !line.starts_with('#')) {
        let Some((_, rest)) = line.split_once("{component=") else { continue };
        for wanted in rest.trim_start_matches(['~', '"']).split('"').next().unwrap().split('|') {
            let is_there = match wanted.strip_suffix(".+") {
                Some(beginning) => components.iter().any(|component| component.starts_with(beginning)),
                None => components.iter().any(|component| component == wanted),
            };
            assert!(is_there, "no component {wanted}: {components:?}");
            looked_at += 1;
        }
    }
    assert!(looked_at > 8, "{looked_at}");
    let rules = read("prometheus_alerts.yaml");
    for component in components {
        let word = component
            .split_once(' ')
            .filter(|(first, _)| *first == "rollup")
            .map_or(component.as_str(), |_| "rollup .+");
        let is_asked = ["\"", "|"]
            .iter()
            .any(|before| ["\"", "|"].iter().any(|after| rules.contains(&format!("{before}{word}{after}"))));
        assert!(is_asked, "no alert asks for component {component}");
    }
}

#[test]
fn counters_end_in_total_and_nothing_else_does() {
    let metrics = metrics();
    assert!(metrics.len() > 20);
    for (name, kind) in metrics {
        assert_eq!(kind == "COUNTER", name.ends_with("_total"), "{name} is a {kind}");
    }
}

#[test]
fn promtool_finds_nothing() {
    if Command::new("promtool").arg("--version").output().is_err() {
        skip("promtool is missing (Debian's package prometheus)");
        return;
    }
    let folder = root().join("monitoring");
    succeed(Command::new("promtool").current_dir(&folder).args(["check", "rules", "prometheus_alerts.yaml"]));
    succeed(Command::new("promtool").current_dir(&folder).args([
        "test",
        "rules",
        "prometheus_alerts_test.yaml",
    ]));
    // Names and kinds, as an exporter would send them.
    let mut text = String::new();
    for (name, kind) in metrics().into_iter().filter(|(_, kind)| kind != "LABEL") {
        let kind = kind.to_lowercase();
        text.push_str(&format!("# HELP {name} As the query file says.\n# TYPE {name} {kind}\n{name} 1\n"));
    }
    let mut check = Command::new("promtool");
    check.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = check.spawn().unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), text.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success() && said.is_empty(), "{}", String::from_utf8_lossy(&said));
}
