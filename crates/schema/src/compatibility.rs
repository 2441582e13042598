//! Whether a schema's next version takes everything that the one before it took.
//!
//! Conservative: what can't be shown to be compatible is a break. Compatible are, at every place of a schema:
//!
//! * equal schemas of one draft, annotations (`title`, `description`, `examples`, `default`, `$comment`, `deprecated`) aside, whose references
//!   lead to what they led to;
//! * dropping a keyword that only restricts, unless `unevaluatedProperties` or `unevaluatedItems` would refuse what it let pass, and
//!   schemas that are empty or `true`;
//! * more `type`s, and `number` in place of `integer`; more values in an `enum`, and an `enum` in place of a `const` in it;
//! * wider bounds: a smaller `minimum`, `minLength`, `minItems`, `minProperties` …, a greater `maximum` …; `minContains` is 1 where it is absent;
//! * fewer `required` fields;
//! * a new optional property: where other properties were open before, a sender may have used its name for something else,
//!   which isn't held against it; where `patternProperties`, `additionalProperties` or `unevaluatedProperties` judged it before, it takes what they took;
//! * a compatible change of a property's schema, of `items` and of `additionalProperties`.

use crate::exact::{Decimal, alike};
use crate::watch::step;
use crate::{Schema, reference};
use jsonschema::Draft;
use serde_json::{Map, Value, json};
use std::collections::{BTreeSet, HashSet};
use std::sync::LazyLock;

/// Keywords that say nothing of what is valid.
const ANNOTATIONS: [&str; 9] = [
    "$schema",
    "$comment",
    "title",
    "description",
    "examples",
    "default",
    "deprecated",
    "readOnly",
    "writeOnly",
];
/// Keywords of which a smaller number takes more.
const LOWER_BOUNDS: [&str; 6] =
    ["minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties", "minContains"];
/// Keywords of which a greater number takes more.
const UPPER_BOUNDS: [&str; 6] =
    ["maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties", "maxContains"];
/// Keywords whose absence takes everything, and which no other keyword but those for what is unevaluated depends on.
const RESTRICTIONS: [&str; 11] = [
    "contains",
    "pattern",
    "format",
    "multipleOf",
    "uniqueItems",
    "const",
    "not",
    "allOf",
    "propertyNames",
    "dependentRequired",
    "dependentSchemas",
];

/// Keywords that let a property, or an item, count as evaluated: by a schema's own rules for them, or those of others that it has for the same value.
const EVALUATE_BOTH: [&str; 11] = [
    "$ref",
    "$dynamicRef",
    "$recursiveRef",
    "allOf",
    "anyOf",
    "oneOf",
    "if",
    "then",
    "else",
    "dependencies",
    "dependentSchemas",
];
const EVALUATE_PROPERTIES: [&str; 2] = ["patternProperties", "additionalProperties"];
const EVALUATE_ITEMS: [&str; 4] = ["items", "prefixItems", "additionalItems", "contains"];

/// Keywords that must be the same: what they mean stands elsewhere, or is meant elsewhere.
const SAME: [&str; 9] = [
    "$ref",
    "$dynamicRef",
    "$recursiveRef",
    "$defs",
    "definitions",
    "$anchor",
    "$dynamicAnchor",
    "$recursiveAnchor",
    "id",
];
/// What `minContains` is where it is absent.
static ONE: LazyLock<Value> = LazyLock::new(|| json!(1));

/// What was found so far, and by which draft both schemas are read.
struct Found {
    draft: Draft,
    breaks: Vec<String>,
}

impl Found {
    fn push(&mut self, what: String) {
        self.breaks.push(what);
    }
}

/// Lists what the newer version may refuse although the older one took it; nothing where it is compatible.
pub fn breaks(older: &Value, newer: &Value) -> Vec<String> {
    let (older, newer) = (&alike(older), &alike(newer));
    let mut found = Found { draft: Draft::default().detect(older), breaks: Vec::new() };
    compare(older, newer, "", &mut found);
    // Also what is the same as before may refer to what isn't, and mean something else in another draft.
    if !is_open(newer) {
        if found.draft != Draft::default().detect(newer) {
            found.push("$schema is another draft".into());
        }
        found.breaks.extend(reference::breaks(older, newer, found.draft));
    }
    found.breaks
}

fn is_open(schema: &Value) -> bool {
    match schema {
        Value::Bool(open) => *open,
        Value::Object(fields) => fields.keys().all(|key| ANNOTATIONS.contains(&key.as_str())),
        _ => false,
    }
}

fn compare(older: &Value, newer: &Value, place: &str, found: &mut Found) {
    step();
    if older == newer || is_open(newer) || *older == Value::Bool(false) {
        return;
    }
    let empty = Map::new();
    let (old, new) = match (older, newer) {
        (Value::Object(old), Value::Object(new)) => (old, new),
        (Value::Bool(true), Value::Object(new)) => (&empty, new),
        _ => return found.push(at(place, "takes less than before")),
    };
    // A reference or a choice may mean anything: only equal ones are compared, and only where the definitions are equal.
    for keyword in SAME.into_iter().filter(|keyword| old.get(*keyword) != new.get(*keyword)) {
        found.push(at(place, &format!("{keyword} is not the same")));
    }
    if !place.is_empty() && (old.contains_key("$schema") || new.contains_key("$schema")) {
        found.push(at(place, "$schema may mean another draft"));
    }
    for (keyword, value) in new {
        if old.get(keyword) != Some(value) && !ANNOTATIONS.contains(&keyword.as_str()) {
            keyword_change(keyword, old, new, value, place, found);
        }
    }
    // A property that is declared no longer is one of the others.
    let declared = |schema: &Map<String, Value>| schema.get("properties").and_then(Value::as_object).cloned();
    let (before, after) = (declared(old).unwrap_or_default(), declared(new).unwrap_or_default());
    let others = others(new).unwrap_or(&Value::Bool(true));
    for (name, earlier) in before.iter().filter(|(name, _)| !after.contains_key(*name)) {
        compare(earlier, others, &format!("{place}/{name}"), found);
    }
    // What is dropped takes more, unless another keyword's meaning depends on it.
    let is_closed = |keyword: &str| new.get(keyword).is_some_and(|schema| !is_open(schema));
    let (closes_properties, closes_items) =
        (is_closed("unevaluatedProperties"), is_closed("unevaluatedItems"));
    for keyword in old.keys().filter(|keyword| !new.contains_key(*keyword)) {
        let key = keyword.as_str();
        let evaluates = (closes_properties || closes_items) && EVALUATE_BOTH.contains(&key)
            || closes_properties && EVALUATE_PROPERTIES.contains(&key)
            || closes_items && EVALUATE_ITEMS.contains(&key);
        match key {
            _ if evaluates => found.push(at(place, &format!("{key} is dropped beside unevaluated ones"))),
            // Absent, it is 1.
            "minContains" => keyword_change(key, old, new, &json!(1), place, found),
            // Compared above: what they judged, the others judge.
            "properties" => {}
            "type" | "enum" | "required" | "items" | "additionalProperties" | "anyOf" | "oneOf" => {}
            "unevaluatedProperties" | "unevaluatedItems" => {}
            _ if [&ANNOTATIONS[..], &LOWER_BOUNDS, &UPPER_BOUNDS, &RESTRICTIONS, &SAME]
                .iter()
                .any(|harmless| harmless.contains(&key)) => {}
            _ => found.push(at(place, &format!("{key} is dropped"))),
        }
    }
}

/// What judges the properties that nothing else of the schema does; `None` where anything goes.
fn others(schema: &Map<String, Value>) -> Option<&Value> {
    let judge = schema.get("additionalProperties").or_else(|| schema.get("unevaluatedProperties"));
    judge.filter(|judge| !is_open(judge))
}

fn keyword_change(
    keyword: &str,
    old: &Map<String, Value>,
    new: &Map<String, Value>,
    value: &Value,
    place: &str,
    found: &mut Found,
) {
    let before = match keyword {
        "minContains" => old.get(keyword).or(old.get("contains").map(|_| &*ONE)),
        _ => old.get(keyword),
    };
    match keyword {
        "type" => {
            let takes = |kind: &str| {
                let kinds = kinds(value);
                kinds.contains(&kind) || (kind == "integer" && kinds.contains(&"number"))
            };
            match before {
                Some(before) => {
                    for kind in kinds(before).into_iter().filter(|kind| !takes(kind)) {
                        found.push(at(place, &format!("type {kind} is no longer taken")));
                    }
                }
                None => found.push(at(place, "type is new")),
            }
        }
        "enum" => {
            // Numbers that are the same are written alike.
            let values: HashSet<String> =
                value.as_array().into_iter().flatten().map(Value::to_string).collect();
            let listed = |wanted: &Value| values.contains(&wanted.to_string());
            // Draft 4 doesn't know `const`.
            let only = old.get("const").filter(|_| found.draft != Draft::Draft4);
            let kept = match (before, only) {
                (Some(Value::Array(values)), _) => values.iter().all(listed),
                (None, Some(only)) => listed(only),
                _ => false,
            };
            if !kept {
                found.push(at(place, "enum takes less than before"));
            }
        }
        "required" => {
            let names = |value: &Value| -> BTreeSet<String> {
                let values = value.as_array().into_iter().flatten();
                values.filter_map(|name| name.as_str().map(str::to_owned)).collect()
            };
            let before = before.map(names).unwrap_or_default();
            for name in names(value).into_iter().filter(|name| !before.contains(name)) {
                found.push(at(place, &format!("{name} is required")));
            }
        }
        "properties" => properties(old, value, place, found),
        "additionalProperties" => {
            let before = before.unwrap_or(&Value::Bool(true));
            compare(before, value, &format!("{place}/*"), found);
        }
        "items" if !old.contains_key("prefixItems") && !new.contains_key("prefixItems") => {
            compare(before.unwrap_or(&Value::Bool(true)), value, &format!("{place}/[]"), found);
        }
        // Without `contains` it means nothing.
        "minContains" | "maxContains" if !new.contains_key("contains") => {}
        _ if LOWER_BOUNDS.contains(&keyword) || UPPER_BOUNDS.contains(&keyword) => {
            let number = |value: &Value| match value {
                Value::Number(number) => Some(Decimal::of(number)),
                _ => None,
            };
            let widened = match (before.and_then(number), number(value)) {
                (Some(before), Some(after)) if LOWER_BOUNDS.contains(&keyword) => after <= before,
                (Some(before), Some(after)) => after >= before,
                _ => false,
            };
            if !widened {
                found.push(at(place, &format!("{keyword} takes less than before")));
            }
        }
        // Reported above.
        _ if SAME.contains(&keyword) => {}
        _ => found.push(at(place, &format!("{keyword} is new or changed"))),
    }
}

/// A property that was declared keeps taking what it took. One that wasn't was judged by `patternProperties` before, or else by what judges
/// the others; where those were open, a new optional one is no break.
fn properties(old: &Map<String, Value>, value: &Value, place: &str, found: &mut Found) {
    let nothing = Map::new();
    let before = old.get("properties").and_then(Value::as_object).unwrap_or(&nothing);
    let after = value.as_object().unwrap_or(&nothing);
    let others = others(old);
    let patterns = old.get("patternProperties").and_then(Value::as_object).unwrap_or(&nothing);
    let is_matched = matching(patterns);
    // A schema for the same value may have evaluated it, and then nothing else judged it.
    let may_be_evaluated = !old.contains_key("additionalProperties")
        && EVALUATE_BOTH.iter().any(|keyword| old.contains_key(*keyword));
    for (name, schema) in after {
        let place = format!("{place}/{name}");
        match (before.get(name), others) {
            (Some(earlier), _) => compare(earlier, schema, &place, found),
            _ if is_open(schema) => {}
            // Which of them, doesn't matter where it takes what each of them does.
            (None, _) if is_matched(name) => {
                // One whose events it may refuse is enough.
                let known = found.breaks.len();
                for pattern in patterns.values() {
                    compare(pattern, schema, &place, found);
                    if found.breaks.len() > known {
                        break;
                    }
                }
            }
            (None, None) => {}
            (None, Some(_)) if may_be_evaluated => {
                found
                    .push(at(&place, "is new, and may have been taken by another schema for the same value"));
            }
            (None, Some(others)) => compare(others, schema, &place, found),
        }
    }
}

/// Tells which names any of the patterns matches, as the validator has it; all of them where that can't be told.
fn matching(patterns: &Map<String, Value>) -> impl Fn(&str) -> bool {
    let none: Map<String, Value> = patterns.keys().map(|pattern| (pattern.clone(), json!(false))).collect();
    let has_any = !none.is_empty();
    let schema = has_any.then(|| Schema::compile(&json!({"patternProperties": none})).ok());
    move |name| match &schema {
        None => false,
        Some(None) => true,
        Some(Some(schema)) => schema.problem(&json!({name: null})).is_some(),
    }
}

fn kinds(value: &Value) -> Vec<&str> {
    match value {
        Value::String(kind) => vec![kind],
        Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    }
}

fn at(place: &str, what: &str) -> String {
    if place.is_empty() { what.to_owned() } else { format!("{place}: {what}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn base() -> Value {
        json!({"type": "object", "properties": {"n": {"type": "integer", "minimum": 1, "maximum": 10},
               "plan": {"enum": ["free", "pro"]}}, "required": ["n"], "additionalProperties": false})
    }

    fn with(change: impl FnOnce(&mut Value)) -> Value {
        let mut schema = base();
        change(&mut schema);
        schema
    }

    #[test]
    fn widening_is_compatible() {
        for newer in [
            base(),
            json!({}),
            with(|s| s["description"] = json!("a text")),
            with(|s| s["properties"]["n"]["type"] = json!("number")),
            with(|s| s["properties"]["n"]["type"] = json!(["integer", "null"])),
            with(|s| s["properties"]["n"]["minimum"] = json!(0)),
            with(|s| s["properties"]["n"]["maximum"] = json!(10.5)),
            with(|s| s["properties"]["n"] = json!(true)),
            with(|s| s["properties"]["plan"]["enum"] = json!(["pro", "free", "team"])),
            with(|s| s["properties"]["extra"] = json!({"type": "string"})),
            with(|s| s["required"] = json!([])),
            with(|s| s["additionalProperties"] = json!(true)),
            with(|s| {
                s.as_object_mut().expect("an object").remove("additionalProperties");
            }),
        ] {
            assert_eq!(breaks(&base(), &newer), Vec::<String>::new(), "{newer}");
        }
        let open = json!({"properties": {"a": {"type": "string"}}});
        let more = json!({"properties": {"a": {"type": "string"}, "b": {"type": "integer"}}});
        assert_eq!(breaks(&open, &more), Vec::<String>::new());
    }

    #[test]
    fn narrowing_is_a_break() {
        for newer in [
            with(|s| s["properties"]["n"]["type"] = json!("string")),
            with(|s| s["properties"]["n"]["minimum"] = json!(2)),
            with(|s| s["properties"]["n"]["maximum"] = json!(9)),
            with(|s| s["properties"]["n"]["multipleOf"] = json!(2)),
            with(|s| s["properties"]["plan"]["enum"] = json!(["free"])),
            with(|s| s["properties"]["plan"] = json!({"type": "string", "pattern": "^f"})),
            with(|s| s["properties"]["plan"] = json!(false)),
            with(|s| s["required"] = json!(["n", "plan"])),
            with(|s| s["maxProperties"] = json!(1)),
            with(|s| s["not"] = json!({"required": ["plan"]})),
            with(|s| s["allOf"] = json!([{"required": ["plan"]}])),
            with(|s| s["$ref"] = json!("#/properties/n")),
            with(|s| s["patternProperties"] = json!({"^n$": {"minimum": 5}})),
            with(|s| {
                s["properties"].as_object_mut().expect("an object").remove("plan");
            }),
            json!({"type": "object", "additionalProperties": {"type": "integer"}}),
        ] {
            assert!(!breaks(&base(), &newer).is_empty(), "{newer}");
        }
        assert!(!breaks(&json!({}), &json!({"additionalProperties": false})).is_empty());
        assert!(!breaks(&json!({}), &json!({"type": "object"})).is_empty());
    }

    fn leaf() -> impl Strategy<Value = Value> {
        prop_oneof![
            Just(json!(true)),
            Just(json!({})),
            Just(json!({"type": "string"})),
            (0..4, 4..8).prop_map(|(low, high)| json!({"type": "integer", "minimum": low, "maximum": high})),
            (0..4).prop_map(|low| json!({"type": ["number", "string"], "minimum": low})),
            proptest::sample::subsequence(vec![0, 1, 2, 3], 1..4).prop_map(|values| json!({"enum": values})),
            (0..3).prop_map(|length| json!({"type": "string", "minLength": length})),
        ]
    }

    fn schemas() -> impl Strategy<Value = Value> {
        let names = proptest::sample::subsequence(vec!["a", "b"], 0..=2);
        (leaf(), leaf(), names, prop_oneof![Just(json!(true)), Just(json!(false)), leaf()], any::<bool>())
            .prop_map(|(a, b, required, others, both)| {
                let mut schema = json!({"type": "object", "properties": {"a": a}, "required": required,
                                        "additionalProperties": others});
                if both {
                    schema["properties"]["b"] = b;
                }
                schema
            })
    }

    fn instances() -> impl Strategy<Value = Value> {
        let value = prop_oneof![
            (0..9).prop_map(|n| json!(n)),
            Just(json!("x")),
            Just(json!("")),
            Just(json!(null)),
            Just(json!(1.5))
        ];
        proptest::collection::btree_map(proptest::sample::select(vec!["a", "b"]), value, 0..3).prop_map(
            |map| Value::Object(map.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()),
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]
        /// The oracle: what the older version took, a compatible one takes. (Other properties were open to anything only
        /// where a new one may have been used otherwise: that exception is documented.)
        #[test]
        fn compatible_versions_take_what_was_taken(older in schemas(), newer in schemas(), instance in instances()) {
            let excepted = older["additionalProperties"] == json!(true) || older["additionalProperties"] == json!({});
            prop_assume!(!excepted || newer["properties"].get("b").is_none() || older["properties"].get("b").is_some());
            if breaks(&older, &newer).is_empty() {
                let (old, new) = (Schema::compile(&older).expect("a schema"), Schema::compile(&newer).expect("a schema"));
                if old.problem(&instance).is_none() {
                    prop_assert_eq!(new.problem(&instance), None);
                }
            }
        }
    }
}
