//! Replacing values in container bytes, held to the same change made in a parsed tree.

use proptest::prelude::*;
use serde_json::{Map, Value, json};
use tally_core::jsonb::{self, Bounds, Change, Encoder};
use tally_core::privacy::Path;

fn encoded(value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    Encoder::new().encode(&value.to_string(), Bounds::WIDEST, &mut out).expect("an object");
    out
}

fn printed(bytes: &[u8]) -> Value {
    let mut text = String::new();
    jsonb::to_json(bytes, &mut text).expect("well-formed");
    serde_json::from_str(&text).expect("JSON")
}

/// What replacing does, on a parsed tree: strings in place of what a path leads to, nothing where it begins with "drop".
fn changed(value: &Value, paths: &[(usize, &[String])], at: &str) -> Value {
    match value {
        Value::Object(members) => {
            let mut out = Map::new();
            for (key, inner) in members {
                let at = format!("{at}/{}", key.replace('~', "~0").replace('/', "~1"));
                let live: Vec<(usize, &[String])> = paths
                    .iter()
                    .filter(|(_, steps)| steps.first() == Some(key))
                    .map(|(path, steps)| (*path, &steps[1..]))
                    .collect();
                if let Some(new) = replaced(inner, &live, &at) {
                    out.insert(key.clone(), new);
                }
            }
            Value::Object(out)
        }
        Value::Array(elements) => {
            let each =
                |(place, inner)| replaced(inner, paths, &format!("{at}/{place}")).unwrap_or(Value::Null);
            Value::Array(elements.iter().enumerate().map(each).collect())
        }
        scalar => scalar.clone(),
    }
}

fn replaced(value: &Value, live: &[(usize, &[String])], at: &str) -> Option<Value> {
    match live.iter().find(|(_, steps)| steps.is_empty()) {
        Some((path, _)) if !value.is_null() && !value.is_array() => {
            (path % 2 == 0).then(|| json!(format!("{path} {at}")))
        }
        _ => Some(changed(value, live, at)),
    }
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        "[a-z\"ü/~]{0,40}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 80, 40, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..40).prop_map(Value::from),
            prop::collection::btree_map("[abc/]{1,2}", inner, 0..6)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn values_are_replaced_where_paths_lead(
        members in prop::collection::btree_map("[abc/]{1,2}", value(), 0..40),
        paths in prop::collection::vec(prop::collection::vec("[abc/]{1,2}", 1..4), 0..5),
    ) {
        let object = Value::Object(members.into_iter().collect());
        let bytes = encoded(&object);
        let steps: Vec<&[String]> = paths.iter().map(Vec::as_slice).collect();
        let found = jsonb::replace(&bytes, &steps, &mut |path, _, _, at| {
            if path % 2 == 0 { Change::Text(format!("{path} {at}")) } else { Change::Remove }
        }).expect("well-formed");
        let numbered: Vec<(usize, &[String])> = steps.iter().copied().enumerate().collect();
        let wanted = changed(&object, &numbered, "");
        let found = found.unwrap_or(bytes);
        prop_assert_eq!(printed(&found), wanted.clone());
        // The bytes are those that the text makes.
        prop_assert_eq!(found, encoded(&wanted));
    }
}

#[test]
fn what_a_path_leads_to_is_told() {
    let bytes = encoded(
        &json!({"user": [{"mail": "a\"b", "age": 3.50}, {"mail": null}], "ok": true, "whole": {"a": [1]}}),
    );
    let paths = ["/user/mail", "/user/age", "ok", "whole"].map(|path| Path::parse(path).expect("a path"));
    let steps: Vec<&[String]> = paths.iter().map(Path::steps).collect();
    let mut seen = Vec::new();
    let found = jsonb::replace(&bytes, &steps, &mut |path, text, is_string, at| {
        seen.push(format!("{path} {at} {is_string} {text}"));
        Change::Keep
    });
    assert_eq!(found, Ok(None));
    seen.sort();
    assert_eq!(
        seen,
        [
            "0 /user/0/mail true a\"b",
            "1 /user/0/age false 3.5",
            "2 /ok false true",
            "3 /whole false {\"a\": [1]}"
        ]
    );
}
