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
    let ends = |value: &Value| schema.problem(value).is_none_or(|problem| problem.contains(" steps"));
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
    assert!(steps(&|| drop(Schema::compile(&schema))) >= 1);
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

/// Ways through a value that no keyword of ours is on.
fn ladder(levels: usize, ways: usize, end: Value) -> (Value, Value) {
    let mut definitions: Map<String, Value> = (0..levels)
        .map(|level| {
            let way = json!({"properties": {"i": {"$ref": format!("#/d/{}", level + 1)}}});
            (level.to_string(), json!({"anyOf": vec![way; ways]}))
        })
        .collect();
    definitions.insert(levels.to_string(), end);
    let value = (0..levels).fold(json!({"x": []}), |inner, _| json!({"i": inner}));
    (json!({"d": definitions, "$ref": "#/d/0"}), value)
}

#[test]
fn every_look_into_a_value_is_a_step() {
    for (levels, ways) in [(28, 3), (12, 6), (8, 10)] {
        for end in [json!(false), json!({"required": ["z"]}), json!({"minProperties": 3})] {
            for draft in
                ["http://json-schema.org/draft-07/schema#", "https://json-schema.org/draft/2020-12/schema"]
            {
                let (mut schema, value) = ladder(levels, ways, end.clone());
                schema["$schema"] = json!(draft);
                let schema = Schema::compile(&schema).expect("a schema");
                assert!(schema.problem(&value).is_some_and(|problem| problem.contains("steps")));
            }
        }
    }
    let (schema, value) = ladder(4, 2, json!({"required": ["z"]}));
    let problem = Schema::compile(&schema).expect("a schema").problem(&value).expect("not valid");
    assert!(!problem.contains("steps"), "{problem}");
}

/// What is wrong in many ways takes no more memory than that of one.
#[test]
fn a_value_that_is_wrong_in_many_ways_is_told_of_in_bounds() {
    let nulls: Vec<Value> = vec![json!({"type": "null"}); 3_900];
    let values: Vec<Value> = vec![json!({"": null}); 4_000];
    let long = "x".repeat(30_000);
    for (schema, value) in [
        (json!({"anyOf": nulls}), json!({"a": values})),
        (
            json!({"$defs": {"e": {"properties": {"a": {"items": {"enum": ["x".repeat(50_000)]}}}}},
                   "anyOf": vec![json!({"$ref": "#/$defs/e"}); 60]}),
            json!({"a": vec![true; 16_000]}),
        ),
        (
            json!({"$defs": {"e": {"properties": {&long: {"items": {"minItems": 1}}}}},
                   "anyOf": vec![json!({"$ref": "#/$defs/e"}); 60]}),
            json!({&long: vec![json!([]); 4_000]}),
        ),
    ] {
        let before = most_memory();
        let problem = Schema::compile(&schema).expect("a schema").problem(&value).expect("not valid");
        assert!(problem.len() < 400, "{problem}");
        let taken = most_memory() - before;
        assert!(taken < 600 << 10, "{taken} kB");
    }
}

/// The most memory that this process has had, in kB.
fn most_memory() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("a process has one");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("its memory");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

#[test]
fn patterns_share_what_they_may_take() {
    let patterns = |count: usize| -> Map<String, Value> {
        (0..count).map(|number| (format!("\\p{{L}}{{20}}{number}"), json!(false))).collect()
    };
    assert!(Schema::compile(&json!({"patternProperties": patterns(2_000)})).is_err());
    assert!(Schema::compile(&json!({"patternProperties": patterns(10)})).is_ok());
    let named: Map<String, Value> =
        (0..300).map(|n| (format!("p{n}"), json!({"pattern": "^[a-z]{1,20}$"}))).collect();
    assert!(Schema::compile(&json!({"properties": named})).is_ok());
}

#[test]
fn what_is_unevaluated_is_in_the_row_too() {
    let links: Map<String, Value> = (0..300)
        .map(|n| (format!("d{n}"), json!({"unevaluatedProperties": {"$ref": format!("#/d/d{}", n + 1), "unevaluatedProperties": {}}})))
        .collect();
    let names: Map<String, Value> = (0..5_000).map(|n| (format!("{n}"), json!(true))).collect();
    for schema in [
        json!({"d": links, "$ref": "#/d/d0"}),
        json!({"unevaluatedProperties": {"$ref": "#", "unevaluatedProperties": {}}}),
        json!({"d": {"b": {"properties": names}, "m": {"anyOf": vec![json!({"$ref": "#/d/b"}); 48]}},
               "anyOf": vec![json!({"$ref": "#/d/m"}); 48], "unevaluatedProperties": false}),
        json!({"properties": {"x".repeat(30_000): {"anyOf": vec![true; 6_000]}}}),
    ] {
        assert!(Schema::compile(&schema).is_err(), "{}", &schema.to_string()[..100]);
    }
    let each: Map<String, Value> = (0..1_000)
        .map(|n| (format!("p{n}"), json!({"properties": {"a": {}}, "unevaluatedProperties": false})))
        .collect();
    Schema::compile(&json!({"properties": each})).expect("a schema");
}

#[test]
fn versions_are_compared_in_bounds() {
    let patterns: Map<String, Value> =
        (0..2_500).map(|n| (format!("\\p{{L}}{{22}}{n}"), json!(true))).collect();
    let newer = json!({"patternProperties": patterns, "properties": {"a": {"type": "string"}}});
    assert!(!breaks(&json!({"patternProperties": patterns}), &newer).is_empty());
    let many = |first: usize| -> Vec<usize> { (first..first + 30_000).collect() };
    assert!(!breaks(&json!({"enum": many(0)}), &json!({"enum": many(1)})).is_empty());
    assert!(
        breaks(&json!({"enum": many(0)}), &json!({"enum": many(0).into_iter().rev().collect::<Vec<_>>()}))
            .is_empty()
    );
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
