//! What personal data a document seems to have: where, and of what kind, never which.

use crate::backend::json::Document;
use pgrx::prelude::*;
use serde_json::Value;
use std::collections::BTreeSet;
use tally_core::personal::{self, Kind};

/// How deep documents are looked into, and bytes of a key that is shown.
const DEEPEST: usize = 8;
const KEY_BYTES: usize = 64;

/// Paths of a document and what they seem to have, each once.
#[pg_extern(sql = false)]
fn personal_kinds(document: Document) -> TableIterator<'static, (name!(path, String), name!(kind, String))> {
    let mut found = BTreeSet::new();
    look(&document.0, "", DEEPEST, &mut found);
    TableIterator::new(found.into_iter().map(|(path, kind)| (path, kind.name().to_owned())))
}

fn look(value: &Value, path: &str, depth: usize, found: &mut BTreeSet<(String, Kind)>) {
    match value {
        Value::Object(fields) if depth > 0 => {
            for (key, value) in fields {
                let key_kind = personal::kind_of(key);
                // A key can be personal itself: it isn't shown then.
                let shown = if key_kind.is_some() || key.len() > KEY_BYTES { "*" } else { key };
                let path = if path.is_empty() { shown.to_owned() } else { format!("{path}.{shown}") };
                found.extend(key_kind.map(|kind| (path.clone(), kind)));
                look(value, &path, depth - 1, found);
            }
        }
        Value::Array(elements) if depth > 0 => {
            let path = format!("{path}[]");
            elements.iter().for_each(|element| look(element, &path, depth - 1, found));
        }
        Value::String(text) => found.extend(personal::kind_of(text).map(|kind| (path.to_owned(), kind))),
        Value::Number(number) => {
            found.extend(personal::kind_of(&number.to_string()).map(|kind| (path.to_owned(), kind)));
        }
        _ => {}
    }
}
