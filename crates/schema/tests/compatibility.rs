//! What is called compatible, against the validator itself: whatever the older version of a schema takes, the newer one must take, too.

use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use serde_json::{Map, Value, json};
use tally_schema::{Schema, breaks};

const DRAFT_4: &str = "http://json-schema.org/draft-04/schema#";
const DRAFT_7: &str = "http://json-schema.org/draft-07/schema#";
const DRAFT_2019: &str = "https://json-schema.org/draft/2019-09/schema";
const DRAFT_2020: &str = "https://json-schema.org/draft/2020-12/schema";

/// Asserts that an instance is taken by the older schema and not by the newer one, and that the newer one is a break.
fn is_a_break(older: &Value, newer: &Value, instance: &Value) {
    let problem = |schema: &Value| {
        Schema::compile(schema).unwrap_or_else(|error| panic!("{error}: {schema}")).problem(instance)
    };
    assert_eq!(problem(older), None, "{older} takes {instance}");
    assert!(problem(newer).is_some(), "{newer} takes {instance}");
    assert!(!breaks(older, newer).is_empty(), "{older} to {newer}, which refuses {instance}");
}

#[test]
fn what_other_keywords_depend_on_is_no_harmless_change() {
    let a = |schema: Value| json!({"properties": {"a": schema}});
    for (older, newer, instance) in [
        (
            a(json!({"contains": {"const": 1}, "minContains": 0})),
            a(json!({"contains": {"const": 1}})),
            json!({"a": [2]}),
        ),
        (
            json!({"properties": {"a": {}, "b": {}}, "unevaluatedProperties": false}),
            json!({"properties": {"a": {}}, "unevaluatedProperties": false}),
            json!({"b": 1}),
        ),
        (
            json!({"properties": {"a": {}}, "unevaluatedProperties": false}),
            json!({"unevaluatedProperties": false}),
            json!({"a": 1}),
        ),
        (
            json!({"additionalProperties": {"type": "integer"}, "unevaluatedProperties": false}),
            json!({"unevaluatedProperties": false}),
            json!({"a": 1}),
        ),
        (
            json!({"allOf": [{"properties": {"a": {}}}], "unevaluatedProperties": false}),
            json!({"unevaluatedProperties": false}),
            json!({"a": 1}),
        ),
        (
            json!({"anyOf": [{"properties": {"a": {}}}], "unevaluatedProperties": {"type": "string"}}),
            json!({"unevaluatedProperties": {"type": "string"}}),
            json!({"a": 1}),
        ),
        (
            json!({"dependentSchemas": {"a": {"properties": {"a": {}}}}, "unevaluatedProperties": false}),
            json!({"unevaluatedProperties": false}),
            json!({"a": 1}),
        ),
        (
            a(json!({"items": {"type": "integer"}, "unevaluatedItems": false})),
            a(json!({"unevaluatedItems": false})),
            json!({"a": [1]}),
        ),
        (
            a(json!({"contains": {"const": 1}, "unevaluatedItems": false})),
            a(json!({"unevaluatedItems": false})),
            json!({"a": [1]}),
        ),
        (
            json!({"patternProperties": {"^utm_": {}}, "additionalProperties": false}),
            json!({"patternProperties": {"^utm_": {}}, "additionalProperties": false,
                   "properties": {"utm_source": {"type": "string"}}}),
            json!({"utm_source": 5}),
        ),
        (
            json!({"allOf": [{"properties": {"b": {}}}], "unevaluatedProperties": false}),
            json!({"allOf": [{"properties": {"b": {}}}], "unevaluatedProperties": false,
                   "properties": {"b": {"type": "string"}}}),
            json!({"b": 5}),
        ),
    ] {
        is_a_break(&older, &newer, &instance);
    }
}

#[test]
fn keywords_mean_what_the_draft_says() {
    let of = |draft: Option<&str>, mut schema: Value| {
        if let Some(draft) = draft {
            schema["$schema"] = json!(draft);
        }
        schema
    };
    let reference = json!({"definitions": {"x": {"type": "integer"}}, "properties": {"a": {"$ref": "#/definitions/x", "maximum": 5}}});
    let unevaluated = json!({"properties": {"a": {"properties": {"b": {}}, "unevaluatedProperties": false}}});
    for (older, newer, instance) in [
        (of(Some(DRAFT_7), reference.clone()), of(Some(DRAFT_2020), reference.clone()), json!({"a": 7})),
        (of(Some(DRAFT_7), unevaluated.clone()), of(None, unevaluated.clone()), json!({"a": {"c": 1}})),
        (
            of(Some(DRAFT_2020), json!({"properties": {"a": {"type": "integer"}}})),
            of(Some(DRAFT_4), json!({"properties": {"a": {"type": "integer"}}})),
            json!({"a": 1.0}),
        ),
        (
            of(Some(DRAFT_4), json!({"properties": {"a": {"const": 1}}})),
            of(Some(DRAFT_4), json!({"properties": {"a": {"enum": [1]}}})),
            json!({"a": 2}),
        ),
        (
            of(Some(DRAFT_4), json!({"properties": {"a": {"minimum": 1}}})),
            of(Some(DRAFT_4), json!({"properties": {"a": {"minimum": 1, "exclusiveMinimum": true}}})),
            json!({"a": 1}),
        ),
    ] {
        is_a_break(&older, &newer, &instance);
    }
    // The draft that holds anyway may be named, and spelt otherwise.
    assert_eq!(breaks(&reference, &of(Some(DRAFT_2020), reference.clone())), Vec::<String>::new());
    let bare = DRAFT_7.trim_end_matches('#');
    assert_eq!(
        breaks(&of(Some(DRAFT_7), reference.clone()), &of(Some(bare), reference)),
        Vec::<String>::new()
    );
}

#[test]
fn what_a_reference_leads_to_is_the_same() {
    let not_a = |a: Value| json!({"properties": {"a": a, "b": {"not": {"$ref": "#/properties/a"}}}});
    is_a_break(&not_a(json!({"type": "integer"})), &not_a(json!({"type": "number"})), &json!({"b": 1.5}));
    let anchored = |a: Value| json!({"properties": {"a": a, "b": {"not": {"$ref": "#x"}}}});
    is_a_break(
        &anchored(json!({"items": {"$anchor": "x", "type": "integer"}})),
        &anchored(json!({"items": {"$anchor": "x", "type": "number"}})),
        &json!({"b": 1.5}),
    );
    let not_root = |a: Value| json!({"properties": {"a": a, "b": {"not": {"$ref": "#"}}}});
    is_a_break(
        &not_root(json!({"type": "integer"})),
        &not_root(json!({"type": "number"})),
        &json!({"b": {"a": 1.5}}),
    );
    let in_annotation = |default: Value| json!({"properties": {"a": {"$ref": "#/properties/b/default"}, "b": {"default": default}}});
    is_a_break(
        &in_annotation(json!({"type": "integer"})),
        &in_annotation(json!({"type": "string"})),
        &json!({"a": 1}),
    );
    let unevaluated = |others: Value| json!({"properties": {"a": {"properties": {"c": {}}}, "b": {"$ref": "#/properties/a", "unevaluatedProperties": others}}});
    assert_eq!(breaks(&unevaluated(json!(false)), &unevaluated(json!(false))), Vec::<String>::new());
    // A tree whose leaves may be more than before takes the trees of before.
    let tree = |least: i64| json!({"properties": {"n": {"minimum": least}, "inner": {"type": "array", "items": {"$ref": "#"}}}});
    assert_eq!(breaks(&tree(1), &tree(0)), Vec::<String>::new());
    assert!(!breaks(&tree(0), &tree(1)).is_empty());
}

#[test]
fn widening_beside_other_keywords_is_compatible() {
    for (older, newer) in [
        (
            json!({"patternProperties": {"^utm_": {}}, "additionalProperties": false}),
            json!({"patternProperties": {"^utm_": {}}, "additionalProperties": false,
                   "properties": {"plan": {"type": "string"}, "utm_source": {}}}),
        ),
        (
            json!({"patternProperties": {"^utm_": {"type": "string", "maxLength": 9}}, "additionalProperties": false}),
            json!({"patternProperties": {"^utm_": {"type": "string", "maxLength": 9}}, "additionalProperties": false,
                   "properties": {"utm_source": {"type": "string"}}}),
        ),
        (
            json!({"properties": {"a": {}}, "unevaluatedProperties": false}),
            json!({"properties": {"a": {}, "b": {"type": "string"}}, "unevaluatedProperties": false}),
        ),
        (
            json!({"properties": {"a": {"minimum": 1}}, "unevaluatedProperties": false}),
            json!({"properties": {"a": {"minimum": 0}}}),
        ),
        (
            json!({"properties": {"a": {"contains": {"const": 1}, "minContains": 2, "maxContains": 3}}}),
            json!({"properties": {"a": {"contains": {"const": 1}}}}),
        ),
        (
            json!({"properties": {"a": {"contains": {"const": 1}}}}),
            json!({"properties": {"a": {"contains": {"const": 1}, "minContains": 0}}}),
        ),
        (
            json!({"properties": {"a": {"contains": {"const": 1}, "minContains": 0, "maxContains": 0}}}),
            json!({"properties": {"a": {}}}),
        ),
    ] {
        assert_eq!(breaks(&older, &newer), Vec::<String>::new(), "{older} to {newer}");
    }
}

fn leaf() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(json!({})),
        select(vec![
            json!({"type": "integer"}),
            json!({"type": ["integer", "string"]}),
            json!({"type": "object"}),
            json!({"const": 1}),
            json!({"enum": [1, "x"]}),
            json!({"minimum": 1}),
            json!({"minLength": 1}),
            json!({"required": ["a"]}),
            json!({"$ref": "#/definitions/x"}),
            json!({"$ref": "#/properties/a"}),
            json!({"$ref": "#"}),
            json!({"not": {"$ref": "#/properties/a"}}),
        ]),
    ]
}

/// The keywords that depend on each other, with a schema's place for others.
fn keyword(inner: impl Strategy<Value = Value> + Clone + 'static) -> impl Strategy<Value = (String, Value)> {
    let names = || select(vec!["a", "b", "utm_c"]);
    let closed = prop_oneof![2 => Just(json!(false)), 1 => inner.clone()];
    let named = |keyword: &'static str, value: BoxedStrategy<Value>| {
        value.prop_map(move |value| (keyword.to_owned(), value))
    };
    let list = || proptest::collection::vec(inner.clone(), 1..3).prop_map(Value::Array).boxed();
    let properties = || {
        let several = proptest::collection::btree_map(names(), inner.clone(), 0..3);
        several.prop_map(|map| json!(map)).boxed()
    };
    let count = || (0..3).prop_map(|count| json!(count)).boxed();
    let one = || inner.clone().boxed();
    prop_oneof![
        4 => named("properties", properties()),
        2 => named("patternProperties", inner.clone().prop_map(|schema| json!({"^utm_": schema})).boxed()),
        2 => named("additionalProperties", closed.clone().boxed()),
        3 => named("unevaluatedProperties", closed.clone().boxed()),
        2 => named("items", prop_oneof![3 => one(), 1 => list()].boxed()),
        1 => named("prefixItems", list()),
        1 => named("additionalItems", closed.clone().boxed()),
        2 => named("unevaluatedItems", closed.boxed()),
        2 => named("contains", one()),
        2 => named("minContains", count()),
        1 => named("maxContains", count()),
        1 => named("allOf", list()),
        1 => named("anyOf", list()),
        1 => named("oneOf", list()),
        1 => named("not", one()),
        1 => named("if", one()),
        1 => named("then", one()),
        1 => named("else", one()),
        1 => named("dependentSchemas", properties()),
        1 => named("propertyNames", select(vec![json!({"minLength": 2}), json!({"const": "a"})]).boxed()),
        1 => named("required", subsequence(vec!["a", "b"], 1..=2).prop_map(|names| json!(names)).boxed()),
        1 => named("minimum", count()),
        1 => named("maximum", count()),
        1 => named("exclusiveMinimum", prop_oneof![count(), Just(json!(true))].boxed()),
        1 => named("minItems", count()),
        1 => named("maxProperties", count()),
        1 => named("type", select(vec![json!("object"), json!(["object", "array", "integer"])]).boxed()),
        1 => named("const", select(vec![json!(1), json!({"a": 1})]).boxed()),
        1 => named("enum", select(vec![json!([1]), json!([1, [1], {"a": 1}])]).boxed()),
        1 => named("default", leaf().boxed()),
    ]
}

fn schema() -> BoxedStrategy<Value> {
    leaf()
        .prop_recursive(3, 12, 4, |inner| {
            let inner = inner.boxed();
            proptest::collection::vec(keyword(inner), 1..5)
                .prop_map(|keywords| Value::Object(keywords.into_iter().collect::<Map<_, _>>()))
        })
        .boxed()
}

/// A change of a schema: at a place that a number leads to, a keyword goes, comes or is another.
fn change(schema: &mut Value, mut way: u64, (keyword, value): &(String, Value), depth: usize) {
    let Value::Object(fields) = schema else { return };
    let mut step = |choices: usize| {
        let choice = (way % choices.max(1) as u64) as usize;
        way /= choices.max(1) as u64;
        choice
    };
    let names: Vec<String> = fields.keys().cloned().collect();
    let into = |name: &String| ["properties", "items", "additionalProperties"].contains(&name.as_str());
    let inner: Vec<&String> = names.iter().filter(|name| into(name)).collect();
    if depth < 3 && !inner.is_empty() && step(2) == 0 {
        let name = inner[step(inner.len())].clone();
        let mut place = &mut fields[&name];
        if name == "properties" {
            let keys: Vec<String> = place.as_object().expect("an object").keys().cloned().collect();
            if step(4) == 0 || keys.is_empty() {
                let name = ["a", "b", "utm_c"][step(3)];
                place[name] = value.clone();
                return;
            }
            let key = &keys[step(keys.len())];
            if step(4) == 0 {
                place.as_object_mut().expect("an object").remove(key);
                return;
            }
            place = &mut place[key];
        }
        return change(place, way, &(keyword.clone(), value.clone()), depth + 1);
    }
    match step(3) {
        0 => {
            fields.insert(keyword.clone(), value.clone());
        }
        _ if !names.is_empty() => {
            fields.remove(&names[step(names.len())]);
        }
        _ => {}
    }
}

fn instance() -> impl Strategy<Value = Value> {
    let leaf = select(vec![json!(0), json!(1), json!(2), json!(1.5), json!("x"), json!(""), json!(null)]);
    let value = leaf.prop_recursive(2, 6, 3, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..3).prop_map(Value::Array),
            proptest::collection::btree_map(select(vec!["a", "b", "utm_c"]), inner, 0..3)
                .prop_map(|map| json!(map)),
        ]
    });
    proptest::collection::btree_map(select(vec!["a", "b", "utm_c"]), value, 0..4).prop_map(|map| json!(map))
}

/// Whether a schema has a property that is new where others were open: what a sender used its name for isn't held against it.
fn is_excepted(older: &Value, newer: &Value, knows_unevaluated: bool) -> bool {
    let open = json!({});
    let is_open =
        |schema: Option<&Value>| schema.is_none_or(|schema| *schema == json!(true) || *schema == json!({}));
    let (Value::Object(old), Value::Object(new)) = (older, newer) else { return false };
    if older == newer || new.is_empty() {
        return false;
    }
    let none = Map::new();
    let properties = |schema: &'_ Map<String, Value>| {
        schema.get("properties").and_then(Value::as_object).cloned().unwrap_or(none.clone())
    };
    let (before, after) = (properties(old), properties(new));
    let others = |schema: &Map<String, Value>| {
        let found = schema.get("additionalProperties").or(schema.get("unevaluatedProperties"));
        found.unwrap_or(&open).clone()
    };
    let is_new = |name: &String| {
        let judged = is_open(old.get("additionalProperties"))
            && (is_open(old.get("unevaluatedProperties")) || !knows_unevaluated);
        let matched = name.starts_with("utm_") && old.contains_key("patternProperties");
        judged && !matched && !before.contains_key(name)
    };
    let inner = |older: &Value, newer: &Value| is_excepted(older, newer, knows_unevaluated);
    after.keys().any(is_new)
        || after.iter().any(|(name, schema)| inner(before.get(name).unwrap_or(&others(old)), schema))
        || before.iter().any(|(name, schema)| inner(schema, after.get(name).unwrap_or(&others(new))))
        || inner(&others(old), &others(new))
        || inner(old.get("items").unwrap_or(&open), new.get("items").unwrap_or(&open))
}

proptest! {
    #![proptest_config(ProptestConfig { max_global_rejects: 100_000, ..ProptestConfig::with_cases(2_000) })]
    /// The oracle is the validator: what the older version took, a compatible one takes.
    #[test]
    fn what_is_called_compatible_takes_what_was_taken(
        older in schema(),
        draft in select(vec![None, Some(DRAFT_4), Some(DRAFT_7), Some(DRAFT_2019), Some(DRAFT_2020)]),
        redrafted in prop_oneof![9 => Just(None), 1 => select(vec![Some(DRAFT_4), Some(DRAFT_7), Some(DRAFT_2020)])],
        changes in proptest::collection::vec((any::<u64>(), keyword(leaf().boxed())), 0..3),
        instances in proptest::collection::vec(instance(), 24),
    ) {
        let mut older = older;
        if older.to_string().contains("#/definitions/x") {
            older["definitions"] = json!({"x": {"type": "integer"}});
        }
        let mut newer = older.clone();
        for (way, keyword) in &changes {
            change(&mut newer, *way, keyword, 0);
        }
        if let Some(draft) = draft {
            older["$schema"] = json!(draft);
        }
        if let Some(draft) = redrafted.or(draft) {
            newer["$schema"] = json!(draft);
        }
        let knows_unevaluated = ![Some(DRAFT_4), Some(DRAFT_7)].contains(&draft);
        prop_assume!(!is_excepted(&older, &newer, knows_unevaluated) && breaks(&older, &newer).is_empty());
        let (Ok(old), Ok(new)) = (Schema::compile(&older), Schema::compile(&newer)) else { return Ok(()) };
        for instance in &instances {
            if old.problem(instance).is_none() {
                prop_assert_eq!(new.problem(instance), None, "{} to {}: {}", older, newer, instance);
            }
        }
    }
}

#[test]
fn an_id_of_draft_4_that_references_would_be_read_against_is_refused() {
    let inside = |id: &str| json!({"properties": {"a": {"id": id, "allOf": [{"$ref": "#"}]}}});
    let draft_4 = "http://json-schema.org/draft-04/schema#";
    let mut root = inside("http://b/x");
    root["$schema"] = json!(draft_4);
    let mut within = inside("http://b/x");
    within["properties"]["a"]["$schema"] = json!(draft_4);
    for schema in [root, within] {
        assert!(Schema::compile(&schema).is_err(), "{schema}");
    }
    assert!(
        Schema::compile(&json!({"$schema": draft_4, "properties": {"a": {"id": "#a", "type": "string"}}}))
            .is_ok()
    );
    // Its own leads nowhere else, nor does one where nothing refers to anything, nor a value.
    let mut own = json!({"$schema": draft_4, "id": "http://b/x", "definitions": {"a": {"type": "string"}}});
    own["properties"] = json!({"a": {"$ref": "#/definitions/a"}, "b": {"default": {"id": "u1"}}});
    assert!(Schema::compile(&own).is_ok());
    assert!(
        Schema::compile(&json!({"$schema": draft_4, "properties": {"a": {"id": "b", "type": "string"}}}))
            .is_ok()
    );
    // In 2020-12 it is a name as any other.
    assert!(Schema::compile(&json!({"properties": {"id": {"const": "http://b/x"}}})).is_ok());
}

#[test]
fn a_name_that_many_patterns_judged_breaks_once() {
    let patterns: serde_json::Map<String, Value> =
        (0..1000).map(|n| (format!("^a.*{n}?"), json!({"type": "string"}))).collect();
    let older = json!({"patternProperties": patterns});
    let newer = json!({"patternProperties": patterns, "properties": {"a1": {"type": "integer"}}});
    assert_eq!(breaks(&older, &newer).len(), 1);
}

#[test]
fn the_draft_of_a_schema_inside_is_not_that_of_the_whole() {
    let schema = json!({"properties": {"a": {"type": "integer"}}, "examples": [{"$schema": "http://json-schema.org/draft-04/schema#"}]});
    let event = serde_json::from_str(r#"{"a": 1.0}"#).unwrap();
    assert_eq!(Schema::compile(&schema).unwrap().problem(&event), None);
}
