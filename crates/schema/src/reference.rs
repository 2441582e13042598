//! References of a schema: whether they lead to what they led to.

use jsonschema::Draft;
use serde_json::{Map, Value};
use std::collections::{BTreeSet, HashMap};

/// Keywords that refer to another place of the schema.
const REFERENCES: [&str; 3] = ["$ref", "$dynamicRef", "$recursiveRef"];
/// Keywords whose schemas may take more only to the effect that the whole takes more.
const WIDENING: [&str; 7] =
    ["additionalProperties", "allOf", "anyOf", "items", "patternProperties", "prefixItems", "properties"];

/// Keywords whose schemas judge the same value as the one that has them: one schema each, a list of them, or one under each name.
const IN_PLACE: [&str; 9] =
    ["allOf", "anyOf", "oneOf", "not", "if", "then", "else", "dependentSchemas", "dependencies"];

/// Whether a schema refers to itself for the same value, so that judging that would never end.
pub(crate) fn is_endless(schema: &Value) -> bool {
    let mut seen = HashMap::new();
    let mut places = vec![schema];
    while let Some(place) = places.pop() {
        if comes_back(schema, place, &mut seen) {
            return true;
        }
        match place {
            Value::Object(fields) => places.extend(fields.values()),
            Value::Array(values) => places.extend(values),
            _ => {}
        }
    }
    false
}

/// Whether the way from a schema through those for the same value leads back. `seen` holds where it went, and whether it is still on its way.
fn comes_back(root: &Value, schema: &Value, seen: &mut HashMap<*const Value, bool>) -> bool {
    let Value::Object(fields) = schema else { return false };
    let place = std::ptr::from_ref(schema);
    if let Some(is_on_its_way) = seen.get(&place) {
        return *is_on_its_way;
    }
    seen.insert(place, true);
    let mut next = Vec::new();
    for (keyword, value) in fields {
        match value {
            Value::String(target) if REFERENCES.contains(&keyword.as_str()) => {
                leads_to(root, target, &mut next)
            }
            _ if !IN_PLACE.contains(&keyword.as_str()) => {}
            Value::Array(schemas) => next.extend(schemas),
            Value::Object(named) if keyword.starts_with("depend") => next.extend(named.values()),
            other => next.push(other),
        }
    }
    let comes_back = next.into_iter().any(|next| comes_back(root, next, seen));
    seen.insert(place, false);
    comes_back
}

/// Adds what a reference leads to, as far as it's found.
fn leads_to<'a>(root: &'a Value, target: &str, found: &mut Vec<&'a Value>) {
    let Some(target) = target.strip_prefix('#') else { return };
    if target.is_empty() || target.starts_with('/') {
        found.extend(root.pointer(&percent_decoded(target)));
    } else {
        anchored(root, target, found);
    }
}

/// A reference's text without its `%`-escapes.
fn percent_decoded(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, behind)) = rest.split_first() {
        let hex = behind.get(..2).filter(|_| byte == b'%').and_then(|hex| std::str::from_utf8(hex).ok());
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(escaped) => {
                out.push(escaped);
                rest = &behind[2..];
            }
            None => {
                out.push(byte);
                rest = behind;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Lists the references of the newer schema that lead to something else than in the older one. A schema that takes more may make the one
/// that refers to it take less, as by `not` or `oneOf`. One that refers to itself alone is compared as a whole anyway.
pub(crate) fn breaks(older: &Value, newer: &Value, draft: Draft) -> Vec<String> {
    let mut found = References { targets: BTreeSet::new(), are_widening: true };
    found.collect(newer, true);
    if older == newer
        || found.targets.is_empty()
        || (found.are_widening && found.targets.iter().all(|to| to == "#"))
    {
        return Vec::new();
    }
    // There, an `id` changes where references lead.
    if draft == Draft::Draft4 && [older, newer].into_iter().any(has_id) {
        return vec!["an id may change what references lead to".into()];
    }
    let leads_elsewhere = |target: &&String| {
        let (mut before, mut after) = (Vec::new(), Vec::new());
        leads_to(older, target, &mut before);
        leads_to(newer, target, &mut after);
        before.is_empty() || before != after
    };
    let changed = found.targets.iter().filter(leads_elsewhere);
    changed.map(|target| format!("\"{target}\" may lead to something else than before")).collect()
}

struct References {
    targets: BTreeSet<String>,
    /// Whether each is where a schema that takes more lets the whole take more.
    are_widening: bool,
}

impl References {
    /// Adds those of a schema, or of anything else in it; `is_widening` where all keywords on the way are of [`WIDENING`].
    fn collect(&mut self, value: &Value, is_widening: bool) {
        match value {
            Value::Object(fields) => self.collect_fields(fields, is_widening),
            Value::Array(values) => values.iter().for_each(|value| self.collect(value, is_widening)),
            _ => {}
        }
    }

    fn collect_fields(&mut self, fields: &Map<String, Value>, is_widening: bool) {
        for (key, value) in fields {
            // A schema that takes more may evaluate less.
            self.are_widening &= !key.starts_with("unevaluated");
            match value {
                Value::String(target) if REFERENCES.contains(&key.as_str()) => {
                    self.targets.insert(target.clone());
                    self.are_widening &= is_widening;
                }
                Value::Object(named) if ["properties", "patternProperties"].contains(&key.as_str()) => {
                    named.values().for_each(|schema| self.collect(schema, is_widening));
                }
                _ => self.collect(value, is_widening && WIDENING.contains(&key.as_str())),
            }
        }
    }
}

/// Whether a schema with references has another inside of it with an `id` that isn't an anchor: in draft 4, what references there are read
/// against. Its own leads none astray.
pub(crate) fn has_base(schema: &Value) -> bool {
    let has_inside = |value: &Value| has_text(value, "id", |id| !id.starts_with('#'));
    REFERENCES.iter().any(|keyword| has_text(schema, keyword, |_| true))
        && schema.as_object().is_some_and(|fields| fields.values().any(has_inside))
}

fn has_id(schema: &Value) -> bool {
    has_text(schema, "id", |_| true)
}

/// Whether a schema, or another inside of it, has a text of this kind under a keyword. What values are compared with, or shown as, is none.
pub(crate) fn has_text(value: &Value, key: &str, is_meant: fn(&str) -> bool) -> bool {
    match value {
        Value::Object(fields) => {
            fields.get(key).and_then(Value::as_str).is_some_and(is_meant)
                || fields
                    .iter()
                    .filter(|(key, _)| !["enum", "const", "default", "examples"].contains(&key.as_str()))
                    .any(|(_, value)| has_text(value, key, is_meant))
        }
        Value::Array(values) => values.iter().any(|value| has_text(value, key, is_meant)),
        _ => false,
    }
}

/// Adds what has an anchor of this name.
fn anchored<'a>(value: &'a Value, name: &str, found: &mut Vec<&'a Value>) {
    let is_anchor = |keyword| value.get(keyword).is_some_and(|anchor| anchor == name);
    // Draft 4 has them as ids.
    let id = value.get("id").and_then(|id| id.as_str()?.strip_prefix('#'));
    if is_anchor("$anchor") || is_anchor("$dynamicAnchor") || id == Some(name) {
        found.push(value);
    }
    match value {
        Value::Object(fields) => fields.values().for_each(|value| anchored(value, name, found)),
        Value::Array(values) => values.iter().for_each(|value| anchored(value, name, found)),
        _ => {}
    }
}
