//! Replacing values in container bytes, held to the same change made in a parsed tree.

use proptest::prelude::*;
use serde_json::{Map, Value, json};
use tally_core::jsonb::{self, Bounds, Change, Encoder, Found};
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

/// Values as the bytes have them.
fn normal(value: &Value) -> String {
    printed(&encoded(&json!({"v": value})))["v"].to_string()
}

/// What replacing does, on a parsed tree: by the number of the path a string in place of what it leads to, nothing, other JSON, or itself.
fn changed(value: &Value, paths: &[(usize, &[String])], around: &[usize], at: &str) -> Value {
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
                if let Some(new) = replaced(inner, &live, around, &at) {
                    out.insert(key.clone(), new);
                }
            }
            Value::Object(out)
        }
        Value::Array(elements) => {
            let each = |(place, inner)| {
                replaced(inner, paths, around, &format!("{at}/{place}")).unwrap_or(Value::Null)
            };
            Value::Array(elements.iter().enumerate().map(each).collect())
        }
        scalar => scalar.clone(),
    }
}

fn replaced(value: &Value, live: &[(usize, &[String])], around: &[usize], at: &str) -> Option<Value> {
    match live.iter().find(|(_, steps)| steps.is_empty()) {
        Some((path, _)) if !value.is_null() && !value.is_array() => {
            let inner = changed(value, live, &[around, &[*path]].concat(), at);
            match path % 4 {
                0 => Some(json!(told(*path, around, at, &inner))),
                1 => None,
                2 => Some(json!([{"of": path}])),
                _ => Some(inner),
            }
        }
        _ => Some(changed(value, live, around, at)),
    }
}

fn told(path: usize, around: &[usize], at: &str, value: &Value) -> String {
    format!("{path} {around:?} {at} {}", normal(value))
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
        paths in prop::collection::vec(prop::collection::vec("[abc/]{1,2}", 1..4), 0..8),
    ) {
        let object = Value::Object(members.into_iter().collect());
        let bytes = encoded(&object);
        let steps: Vec<&[String]> = paths.iter().map(Vec::as_slice).collect();
        let found = jsonb::replace(&bytes, &steps, &mut |Found { path, around, text, is_string, at }| match path % 4 {
            0 => {
                let value = if is_string { json!(text) } else { serde_json::from_str(text).expect("JSON") };
                Change::Text(told(path, around, at, &value))
            }
            1 => Change::Remove,
            2 => Change::Json(format!("[{{\"of\":{path}}}]")),
            _ => Change::Keep,
        }).expect("well-formed");
        let numbered: Vec<(usize, &[String])> = steps.iter().copied().enumerate().collect();
        let wanted = changed(&object, &numbered, &[], "");
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
    let found = jsonb::replace(&bytes, &steps, &mut |found: Found| {
        let Found { path, at, is_string, text, .. } = found;
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

#[test]
fn a_value_alone_is_changed_as_it_is_in_its_place() {
    let paths = ["/a", "/a/b", "/a/b/c", "/a/x/c", "/z"].map(|path| Path::parse(path).expect("a path"));
    let steps: Vec<&[String]> = paths.iter().map(Path::steps).collect();
    let mut seen = Vec::new();
    let json = r#"{"b":[{"c":1,"d":1.50}],"x":{"c":"t"}}"#;
    let found = jsonb::replace_inside(json, "/a/0", &[0], &steps, &mut |found: Found| {
        seen.push(format!("{} {:?} {} {}", found.path, found.around, found.at, found.text));
        if found.path == 2 { Change::Remove } else { Change::Keep }
    });
    assert_eq!(found, Ok(Some(r#"{"b": [{"d": 1.50}], "x": {"c": "t"}}"#.into())));
    assert_eq!(seen, ["2 [0, 1] /a/0/b/0/c 1", r#"1 [0] /a/0/b/0 {"d": 1.50}"#, "3 [0] /a/0/x/c t"]);
    for json in ["7", "\"t\"", "null", "{}", r#"{"y":1}"#] {
        assert_eq!(
            jsonb::replace_inside(json, "/a", &[0], &steps, &mut |_| Change::Remove),
            Ok(None),
            "{json}"
        );
    }
}

#[test]
fn values_are_printed_as_paths_lead_to_them() {
    for (json, printed, is_string) in [
        ("1e2", "100", false),
        ("\"a\\u0062\"", "ab", true),
        ("true", "true", false),
        (r#"{"b":1,"a":[]}"#, r#"{"a": [], "b": 1}"#, false),
    ] {
        assert_eq!(jsonb::printed(json), Ok((printed.to_owned(), is_string)), "{json}");
    }
    for json in ["1,\"w\":2", "", "nothing", "1}"] {
        assert!(jsonb::printed(json).is_err(), "{json}");
    }
}
