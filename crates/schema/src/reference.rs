//! References of a schema: whether they lead to what they led to.

use crate::watch::step;
use jsonschema::Draft;
use serde_json::{Map, Value};
use std::collections::{BTreeSet, HashMap};

/// Keywords that refer to another place of the schema.
const REFERENCES: [&str; 3] = ["$ref", "$dynamicRef", "$recursiveRef"];
/// Keywords whose schemas may take more only to the effect that the whole takes more.
const WIDENING: [&str; 7] =
    ["additionalProperties", "allOf", "anyOf", "items", "patternProperties", "prefixItems", "properties"];

/// Keywords that have values, and no schemas.
const VALUES: [&str; 4] = ["enum", "const", "default", "examples"];

/// Keywords whose schemas judge the same value as the one that has them: one schema each, a list of them, or one under each name.
const IN_PLACE: [&str; 9] =
    ["allOf", "anyOf", "oneOf", "not", "if", "then", "else", "dependentSchemas", "dependencies"];
/// Those of which the schemas judge what others don't, and are made ready together with them.
const UNEVALUATED: [&str; 2] = ["unevaluatedProperties", "unevaluatedItems"];

/// The most schemas in a row, each in the one before it or what that refers to, that judge one value.
const MAX_DEEP: usize = 64;
/// The most schemas that judge one value, each counted as often as a way leads to it.
const MAX_SCHEMAS: usize = 10_000;
/// The most of them, with the names of properties in each, that all schemas with `unevaluated…` have together: each makes all of its own anew.
const MAX_UNEVALUATED: usize = 20_000;

/// Schemas that judge the same value: how many, each as often as a way leads to it, and how many in a row.
#[derive(Clone, Copy)]
struct Judges {
    count: usize,
    /// With the names of properties that they have.
    names: usize,
    deep: usize,
}

/// Why a schema's references ask for too much, if they do: that one leads back to its own place for the same value, so that judging that
/// would never end, or that one value would be judged too often.
pub(crate) fn obstacle(schema: &Value) -> Option<&'static str> {
    let mut ways = Ways { root: schema, known: HashMap::new() };
    let mut unevaluated = 0_usize;
    let mut places = vec![schema];
    while let Some(place) = places.pop() {
        let judges = match ways.from(place, 0) {
            Ok(judges) => judges,
            Err(why) => return Some(why),
        };
        match place {
            Value::Object(fields) => {
                if UNEVALUATED.iter().any(|key| fields.contains_key(*key)) {
                    unevaluated = unevaluated.saturating_add(judges.names);
                }
                places.extend(fields.values());
            }
            Value::Array(values) => places.extend(values),
            _ => {}
        }
    }
    (unevaluated > MAX_UNEVALUATED)
        .then_some("unevaluatedProperties or unevaluatedItems would go through too many schemas")
}

/// The ways from schemas through those for the same value.
struct Ways<'a> {
    root: &'a Value,
    /// Of each place where a way led: what judges there, or that it's still on the way.
    known: HashMap<*const Value, Option<Judges>>,
}

impl<'a> Ways<'a> {
    fn from(&mut self, schema: &'a Value, passed: usize) -> Result<Judges, &'static str> {
        const BACK: &str = "a reference leads back to its own place for the same value, or for what is unevaluated of it: judging that might never end";
        const DEEP: &str = "more than 64 schemas in a row would judge the same value";
        const OFTEN: &str = "its references would have the same value judged too often";
        let mut judges = Judges { count: 1, names: 1, deep: 1 };
        let Value::Object(fields) = schema else { return Ok(judges) };
        step();
        let place = std::ptr::from_ref(schema);
        match self.known.get(&place) {
            Some(Some(known)) => return Ok(*known),
            Some(None) => return Err(BACK),
            None if passed == MAX_DEEP => return Err(DEEP),
            None => self.known.insert(place, None),
        };
        for keyword in ["properties", "patternProperties"] {
            judges.names += fields.get(keyword).and_then(Value::as_object).map_or(0, Map::len);
        }
        for next in self.next(fields) {
            let of_next = self.from(next, passed + 1)?;
            judges.count = judges.count.saturating_add(of_next.count);
            judges.names = judges.names.saturating_add(of_next.names);
            judges.deep = judges.deep.max(of_next.deep + 1);
        }
        if judges.deep > MAX_DEEP {
            return Err(DEEP);
        }
        if judges.count > MAX_SCHEMAS {
            return Err(OFTEN);
        }
        self.known.insert(place, Some(judges));
        Ok(judges)
    }

    /// What judges the same value beside a schema's own keywords.
    fn next(&self, fields: &'a Map<String, Value>) -> Vec<&'a Value> {
        let mut next = Vec::new();
        for (keyword, value) in fields {
            match value {
                // Whatever its text is, this one leads to the whole.
                Value::String(_) if keyword == "$recursiveRef" => next.push(self.root),
                Value::String(target) if REFERENCES.contains(&keyword.as_str()) => {
                    leads_to(self.root, target, &mut next);
                }
                _ if ![&IN_PLACE[..], &UNEVALUATED].iter().any(|known| known.contains(&keyword.as_str())) => {
                }
                Value::Array(schemas) => next.extend(schemas),
                Value::Object(named) if keyword.starts_with("depend") => next.extend(named.values()),
                other => next.push(other),
            }
        }
        next
    }
}

/// Whether a keyword's object has schemas under names of their own.
fn has_schemas_under_names(keyword: &str) -> bool {
    ["$defs", "definitions", "dependencies", "dependentSchemas", "patternProperties", "properties"]
        .contains(&keyword)
}

/// How many patterns a schema has.
pub(crate) fn patterns(schema: &Value) -> usize {
    match schema {
        Value::Object(fields) => {
            let own = |(key, value): (&String, &Value)| match (key.as_str(), value) {
                ("pattern", Value::String(_)) => 1,
                ("patternProperties", Value::Object(patterns)) => patterns.len() + self::patterns(value),
                _ => self::patterns(value),
            };
            fields.iter().map(own).sum()
        }
        Value::Array(values) => values.iter().map(patterns).sum(),
        _ => 0,
    }
}

/// Whether a reference's text leads where its digits say: some read `00` and `+0` as 0.
pub(crate) fn is_plain(target: &str) -> bool {
    percent_decoded(target).split('/').all(|part| {
        let is_number = part.strip_prefix('+').unwrap_or(part).bytes().all(|byte| byte.is_ascii_digit());
        part.is_empty() || part == "0" || !is_number || !part.starts_with(['0', '+'])
    })
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
    let is_base =
        |key: &str, value: &Value, _| key == "id" && value.as_str().is_some_and(|id| !id.starts_with('#'));
    REFERENCES.iter().any(|keyword| has_text(schema, keyword, |_| true))
        && schema
            .as_object()
            .is_some_and(|fields| fields.iter().any(|(key, value)| any_in(key, value, false, &is_base)))
}

fn has_id(schema: &Value) -> bool {
    has_text(schema, "id", |_| true)
}

/// Whether a schema, or another inside of it, has a text of this kind under a keyword.
pub(crate) fn has_text(schema: &Value, keyword: &str, is_meant: fn(&str) -> bool) -> bool {
    has(schema, keyword, &|value| value.as_str().is_some_and(is_meant))
}

/// Whether a schema, or another inside of it, has a value of this kind under a keyword. What values are compared with, or shown as, is no schema.
fn has(schema: &Value, keyword: &str, is_meant: &dyn Fn(&Value) -> bool) -> bool {
    any_member(schema, &|key, value, _| key == keyword && is_meant(value))
}

/// Whether a member of an object anywhere in a schema is meant: its key, its value, and whether the key is a name that keywords such as
/// `properties` have schemas under. Values that are no schemas are left out.
fn any_member(schema: &Value, is_meant: &dyn Fn(&str, &Value, bool) -> bool) -> bool {
    any_under(schema, false, is_meant)
}

/// The same in a value of which is known whether its keys are names.
fn any_under(value: &Value, names: bool, is_meant: &dyn Fn(&str, &Value, bool) -> bool) -> bool {
    match value {
        Value::Object(fields) => fields
            .iter()
            .any(|(key, value)| is_meant(key, value, names) || any_in(key, value, names, is_meant)),
        Value::Array(elements) => elements.iter().any(|value| any_under(value, false, is_meant)),
        _ => false,
    }
}

/// The same inside of what is under a key.
fn any_in(key: &str, value: &Value, is_name: bool, is_meant: &dyn Fn(&str, &Value, bool) -> bool) -> bool {
    (is_name || !VALUES.contains(&key))
        && any_under(value, !is_name && has_schemas_under_names(key), is_meant)
}

/// Adds what has an anchor of this name.
fn anchored<'a>(value: &'a Value, name: &str, found: &mut Vec<&'a Value>) {
    step();
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
