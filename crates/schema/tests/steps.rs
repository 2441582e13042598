//! What schemas and values ask for is bounded, however few bytes they have.

use serde_json::{Map, Value, json};
use std::cell::Cell;
use std::panic;
use tally_schema::{Schema, breaks, watched};

/// Definitions `0` to `levels`, each of what `link` makes of a reference to the following one.
fn chain(levels: usize, link: impl Fn(Value) -> Value, whole: Value) -> Value {
    let mut definitions: Map<String, Value> = (0..levels)
        .map(|level| (format!("a{level}"), link(json!({"$ref": format!("#/d/a{}", level + 1)}))))
        .collect();
    definitions.insert(format!("a{levels}"), json!({"type": "object"}));
    let mut schema = whole;
    schema["d"] = Value::Object(definitions);
    schema["$ref"] = json!("#/d/a0");
    schema
}

fn twice(keyword: &'static str) -> impl Fn(Value) -> Value {
    move |reference| json!({keyword: [reference, reference]})
}

#[test]
fn a_long_way_of_references_for_one_value_is_refused() {
    for whole in [json!({}), json!({"unevaluatedProperties": {}}), json!({"unevaluatedItems": false})] {
        for draft in
            ["https://json-schema.org/draft/2020-12/schema", "http://json-schema.org/draft-07/schema#"]
        {
            let mut whole = whole.clone();
            whole["$schema"] = json!(draft);
            let links: [&dyn Fn(Value) -> Value; 3] =
                [&|next| next, &|next| json!({"allOf": [next]}), &|next| json!({"if": next, "then": {}})];
            for link in links {
                let refused = Schema::compile(&chain(1_400, link, whole.clone())).expect_err("too long");
                assert!(refused.0.contains("in a row"), "{refused}");
                Schema::compile(&chain(20, link, whole.clone())).expect("a schema");
            }
        }
    }
}

#[test]
fn a_value_that_would_be_judged_too_often_is_refused_with_its_schema() {
    for keyword in ["allOf", "anyOf", "oneOf"] {
        for whole in [json!({}), json!({"unevaluatedProperties": false}), json!({"unevaluatedItems": false})]
        {
            for levels in [14, 16, 18, 30] {
                let refused =
                    Schema::compile(&chain(levels, twice(keyword), whole.clone())).expect_err("too often");
                assert!(refused.0.contains("too often"), "{refused}");
            }
            let few = Schema::compile(&chain(6, twice(keyword), whole.clone())).expect("a schema");
            assert!(few.problem(&json!([])).is_some());
        }
    }
}

#[test]
fn a_choice_of_many_is_no_trouble() {
    let many: Vec<Value> = (0..3_000).map(|number| json!({"const": number})).collect();
    let schema = Schema::compile(&json!({"properties": {"n": {"oneOf": many}}})).expect("a schema");
    assert_eq!(schema.problem(&json!({"n": 2_999})), None);
    assert!(schema.problem(&json!({"n": 3_000})).is_some());
}

#[test]
fn schemas_nested_in_each_other_are_compiled_or_refused() {
    for keyword in ["anyOf", "allOf", "oneOf", "if", "not", "then", "else"] {
        for unevaluated in ["unevaluatedProperties", "unevaluatedItems"] {
            let mut schema = json!({"type": "object"});
            for _ in 0..14 {
                schema = match keyword {
                    "anyOf" | "allOf" | "oneOf" => json!({keyword: [schema], unevaluated: false}),
                    _ => json!({"if": {}, keyword: schema, unevaluated: false}),
                };
            }
            // Either will do; that it ends is what is asked.
            if let Ok(schema) = Schema::compile(&schema) {
                schema.problem(&json!({"a": [1, {"b": 2}]}));
            }
        }
    }
}

#[test]
fn a_value_that_branches_with_its_depth_takes_so_many_steps() {
    let schema = json!({"properties": {"i": {"allOf": [{"$ref": "#"}, {"$ref": "#"}, {"$ref": "#"}]}, "n": {"type": "integer"}}});
    let schema = Schema::compile(&schema).expect("a schema");
    let (mut good, mut bad) = (json!({"n": 1}), json!({"n": "x"}));
    for _ in 0..30 {
        (good, bad) = (json!({"i": good}), json!({"i": bad}));
    }
    let ends = |value: &Value| schema.problem(value).is_none_or(|problem| problem.contains("1000000 steps"));
    assert!(ends(&good));
    assert!(schema.problem(&bad).is_some());
    assert!(
        schema.problem(&json!({"i": {"i": {"n": "x"}}})).is_some_and(|problem| problem.contains("/i/i/n"))
    );
}

thread_local! {
    static SEEN: Cell<usize> = const { Cell::new(0) };
}

fn note() {
    SEEN.set(SEEN.get() + 1);
}

fn cancel() {
    panic::resume_unwind(Box::new("cancelled"));
}

#[test]
fn who_waits_is_asked_with_each_step_and_may_end_it() {
    let schema = json!({"$defs": {"a": {"items": {"$ref": "#/$defs/b"}}, "b": {"$ref": "#/$defs/c"}, "c": {"minimum": 1}},
                        "additionalProperties": {"$ref": "#/$defs/a"}});
    let value = json!({"x": (1..=1_000).collect::<Vec<_>>()});
    let compiled = Schema::compile(&schema).expect("a schema");
    let steps = |work: &dyn Fn()| {
        SEEN.set(0);
        watched(note, work);
        SEEN.get()
    };
    assert!(steps(&|| assert_eq!(compiled.problem(&value), None)) >= 1_000);
    assert!(steps(&|| drop(Schema::compile(&schema))) >= 4);
    let newer = json!({"additionalProperties": {"items": {"minimum": 2}}});
    assert!(steps(&|| assert!(!breaks(&schema, &newer).is_empty())) >= 2);
    assert_eq!(steps(&|| ()), 0);
    for work in
        [&(|| drop(Schema::compile(&schema))) as &dyn Fn(), &|| drop(compiled.problem(&value)), &|| {
            drop(breaks(&schema, &newer))
        }]
    {
        let ended = panic::catch_unwind(panic::AssertUnwindSafe(|| watched(cancel, work)));
        assert_eq!(*ended.expect_err("cancelled").downcast::<&str>().expect("the cause"), "cancelled");
    }
    // Nobody is asked any more.
    assert_eq!(compiled.problem(&value), None);
}

#[test]
fn what_is_compared_is_compared_as_it_was_written() {
    for (schema, good) in [
        (json!({"const": {"a": {"b": [{}]}}}), json!({"a": {"b": [{}]}})),
        (json!({"enum": [{"a": {}}, 1]}), json!({"a": {}})),
        (
            json!({"properties": {"enum": {"const": {"c": 1}}, "const": {"enum": [{"d": 2}]}}, "additionalProperties": false}),
            json!({"enum": {"c": 1}, "const": {"d": 2}}),
        ),
        (
            json!({"dependentRequired": {"a": ["b"]}, "patternProperties": {"^a": {"type": "integer"}}, "maxProperties": 2}),
            json!({"a": 1, "b": 2}),
        ),
        (
            json!({"properties": {"a": {}}, "unevaluatedProperties": false, "minProperties": 1}),
            json!({"a": 1}),
        ),
        (
            json!({"$schema": "http://json-schema.org/draft-04/schema#", "definitions": {"x": {}}, "dependencies": {"a": {"required": ["b"]}}}),
            json!({"b": 1}),
        ),
    ] {
        let compiled = Schema::compile(&schema).unwrap_or_else(|error| panic!("{schema}: {error}"));
        assert_eq!(compiled.problem(&good), None, "{schema}");
    }
    let compiled = Schema::compile(&json!({"properties": {"enum": {"const": {"c": 1}}}})).expect("a schema");
    assert!(compiled.problem(&json!({"enum": {"c": 2}})).is_some());
}

#[test]
fn references_that_are_read_in_two_ways_are_refused() {
    for schema in [
        json!({"allOf": [{"$ref": "#/allOf/00"}]}),
        json!({"allOf": [{}, {"$ref": "#/allOf/+0"}]}),
        json!({"allOf": [{}, {"$ref": "#/allOf/%2B0"}]}),
        json!({"$schema": "https://json-schema.org/draft/2019-09/schema", "$defs": {"b": {}}, "$recursiveRef": "#/$defs/b"}),
        json!({"enum": [{"$ref": "#/enum/0"}]}),
        json!({"d": {"const": {"a": {"$ref": "#"}}}, "$ref": "#/d/const/a"}),
        json!({"$schema": "http://json-schema.org/draft-04/schema#",
               "properties": {"default": {"id": "http://b/x", "allOf": [{"$ref": "#"}]}}}),
    ] {
        assert!(Schema::compile(&schema).is_err(), "{schema}");
    }
    let named =
        json!({"properties": {"const": {"$ref": "#/$defs/enum"}}, "$defs": {"enum": {"type": "integer"}}});
    assert!(Schema::compile(&named).expect("a schema").problem(&json!({"const": "x"})).is_some());
}
