//! Real input: 82,030 commits as events, read from ../shared/data/git-events.jsonl.gz beside the checkout.

use crate::skip;
use flate2::read::GzDecoder;
use serde_json::Value;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;

const FILE: &str = "../shared/data/git-events.jsonl.gz";

/// One line of the file, whole and taken apart for recomputations.
#[derive(Clone, Debug)]
pub struct GitEvent {
    /// The JSON object as it stands in the file.
    pub line: String,
    pub event_id: String,
    pub tenant_id: String,
    pub account_id: String,
    pub user_id: Option<String>,
    pub name: String,
    /// `2008-06-07T00:55:01Z`: UTC, whole seconds, so that text order is time order.
    pub occurred_at: String,
    /// The property `insertions`: lines added.
    pub insertions: Option<f64>,
}

/// Reads the file, or reports the calling test as skipped and returns nothing where the file is missing.
/// `TALLY_GIT_EVENTS` names another place for it.
pub fn git_events() -> Option<Vec<GitEvent>> {
    let path = match std::env::var_os("TALLY_GIT_EVENTS") {
        Some(path) => PathBuf::from(path),
        None => PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..").join(FILE),
    };
    let Ok(file) = File::open(&path) else {
        skip(&format!("{FILE} not found"));
        return None;
    };
    let lines = BufReader::new(GzDecoder::new(file)).lines();
    Some(lines.map(|line| parse(line.expect("a gzip file of lines"))).collect())
}

fn parse(line: String) -> GitEvent {
    let value: Value = serde_json::from_str(&line).expect("each line is a JSON object");
    let text = |key: &str| value[key].as_str().map(str::to_owned);
    let required = |key: &str| text(key).unwrap_or_else(|| panic!("no {key} in {line}"));
    GitEvent {
        event_id: required("event_id"),
        tenant_id: required("tenant_id"),
        account_id: required("account_id"),
        user_id: text("user_id"),
        name: required("name"),
        occurred_at: required("occurred_at"),
        insertions: value["properties"]["insertions"].as_f64(),
        line,
    }
}
