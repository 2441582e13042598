//! Numbers are judged by all of their digits: what doubles don't hold is neither taken for another number nor refused.

use serde_json::Value;
use tally_schema::{Schema, breaks};

fn read(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn takes(rule: &str, number: &str) -> bool {
    let schema = Schema::compile(&read(&format!(r#"{{"properties":{{"n":{{{rule}}}}}}}"#))).unwrap();
    schema.problem(&read(&format!(r#"{{"n":{number}}}"#))).is_none()
}

#[test]
fn numbers_beyond_doubles_are_told_apart() {
    let great = format!("{}.5", "9".repeat(399));
    for (rule, taken, refused) in [
        (r#""const":18446744073709551617"#, "18446744073709551617", "18446744073709551616"),
        (r#""const":18446744073709551617"#, "18446744073709551617.0", "18446744073709551617.1"),
        (r#""const":1.5"#, "1.50", "1.50000000000000000001"),
        (r#""const":100"#, "1e2", "1e3"),
        (r#""const":0"#, "-0", "1e-300"),
        (r#""const":0.1"#, "0.1", "0.1000000000000000055511151231257827"),
        (r#""const":{"a":[9007199254740993]}"#, r#"{"a":[9007199254740993]}"#, r#"{"a":[9007199254740992]}"#),
        (
            r#""enum":[1,12345678901234567890.123456789]"#,
            "12345678901234567890.1234567890",
            "12345678901234567890.123456788",
        ),
        (r#""minimum":18446744073709551617"#, "18446744073709551617", "18446744073709551616"),
        (r#""exclusiveMinimum":9007199254740993"#, "9007199254740993.1", "9007199254740993"),
        (
            r#""maximum":12345678901234567890.123456789"#,
            "12345678901234567890.123456789",
            "12345678901234567890.1234567891",
        ),
        (r#""exclusiveMaximum":0.1"#, "0.09999999999999999999999", "0.1"),
        (r#""multipleOf":0.01"#, "12345678901234567890.01", "12345678901234567890.015"),
        (r#""type":"integer""#, "18446744073709551617.0", "18446744073709551617.5"),
        (r#""type":"number","minimum":1"#, &great, "0.99999999999999999999999"),
        (r#""uniqueItems":true"#, "[18446744073709551617,18446744073709551616]", "[1.5,1.50]"),
    ] {
        assert!(takes(rule, taken), "{rule}: {taken}");
        assert!(!takes(rule, refused), "{rule}: {refused}");
    }
}

#[test]
fn bounds_are_compared_by_their_digits() {
    for (older, newer, is_break) in [
        (r#""maximum":18446744073709551617"#, r#""maximum":18446744073709551616"#, true),
        (r#""maximum":18446744073709551616"#, r#""maximum":18446744073709551617"#, false),
        (r#""minimum":0.1"#, r#""minimum":0.10000000000000000001"#, true),
        (r#""minimum":-0.1"#, r#""minimum":-0.10000000000000000001"#, false),
        (r#""minimum":-5"#, r#""minimum":-12"#, false),
        (r#""minimum":5e3"#, r#""minimum":4999.9"#, false),
        (r#""minimum":1"#, r#""minimum":0"#, false),
        (r#""minimum":-1"#, r#""minimum":0"#, true),
        (r#""maximum":1e399"#, r#""maximum":1e398"#, true),
        (r#""multipleOf":1.5"#, r#""multipleOf":1.50"#, false),
        (r#""const":9007199254740992"#, r#""const":9007199254740993"#, true),
        (r#""enum":[1.0,2]"#, r#""enum":[2,1,3]"#, false),
        (r#""enum":[9007199254740993]"#, r#""enum":[9007199254740992]"#, true),
    ] {
        let found = breaks(&read(&format!("{{{older}}}")), &read(&format!("{{{newer}}}")));
        assert_eq!(!found.is_empty(), is_break, "{older} to {newer}: {found:?}");
    }
}
