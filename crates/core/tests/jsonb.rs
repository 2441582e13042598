//! The jsonb encoder, checker and printer against golden bytes, serde_json and hostile input.

mod corpus;

use proptest::prelude::*;
use serde_json::Value;
use tally_core::jsonb::{Bounds, EMPTY_DIGEST, EMPTY_OBJECT, Encoder, JsonbError, check, to_json, value};

const WIDEST: Bounds = Bounds::WIDEST;

fn encode(text: &str) -> Result<(Vec<u8>, u64), JsonbError> {
    encode_in(text, WIDEST)
}

fn encode_in(text: &str, bounds: Bounds) -> Result<(Vec<u8>, u64), JsonbError> {
    let mut out = Vec::new();
    Encoder::new().encode(text, bounds, &mut out).map(|digest| (out, digest))
}

fn code(text: &str) -> &'static str {
    encode(text).map_or_else(|e| e.sqlstate, |_| "")
}

fn print(bytes: &[u8]) -> String {
    let mut out = String::new();
    to_json(bytes, &mut out).expect("sound bytes");
    out
}

/// Made by PostgreSQL 15.20: JSON text, tab, container bytes in hexadecimal.
const GOLDEN: &str = include_str!("jsonb_golden.tsv");

#[test]
fn golden_bytes() {
    let mut count = 0;
    for line in GOLDEN.lines() {
        let (text, hex) = line.split_once('\t').expect("two columns");
        let (bytes, digest) = encode(text).expect("sound text");
        let ours: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(ours, hex, "{text}");
        assert_eq!(check(&bytes, WIDEST), Ok(digest), "{text}");
        count += 1;
    }
    assert_eq!(count, 10);
}

/// The figures come from a second implementation, written in Python after docs/formats.md.
#[test]
fn digests_never_change() {
    for (text, digest) in [
        ("{}", 4_478_704_255_447_944_746),
        (r#"{"files":5,"insertions":1026,"deletions":0}"#, 15_463_656_157_881_511_345),
        (r#"{"a":[null,true,false,"é",-0.5,1e300,{"b":[]}]}"#, 6_010_470_642_705_892_824),
    ] {
        assert_eq!(encode(text).expect("sound text").1, digest, "{text}");
    }
    assert_eq!(encode("{}").expect("sound text"), (EMPTY_OBJECT.to_vec(), EMPTY_DIGEST));
}

#[test]
fn spelling_leaves_the_digest_alone_and_content_does_not() {
    let digest = |text| encode(text).expect("sound text").1;
    let same = digest(r#"{"a":100,"b":"é/","c":[0.5,0]}"#);
    for text in [
        r#" { "c" : [ 5e-1 , -0.0 ] , "b" : "\u00e9\/" , "a" : 1e2 } "#,
        r#"{"b":"\u00E9/","a":100.00,"c":[0.50,0e5]}"#,
    ] {
        assert_eq!(digest(text), same, "{text}");
    }
    let mut all = vec![same];
    for text in [
        r#"{"a":"100","b":"é/","c":[0.5,0]}"#,
        r#"{"a":-100,"b":"é/","c":[0.5,0]}"#,
        r#"{"a":1000000,"b":"é/","c":[0.5,0]}"#,
        r#"{"a":100,"b":"é/","c":[0,0.5]}"#,
        r#"{"a":100,"b":"é/","c":[0.5,0,null]}"#,
        r#"{"a":100,"b":"é/","c":[[0.5,0]]}"#,
        r#"{"b":100,"a":"é/","c":[0.5,0]}"#,
        r#"{"a":100,"b":"é/"}"#,
        r#"{"a":[]}"#,
        r#"{"a":{}}"#,
        r#"{"a":""}"#,
        r#"{"a":null}"#,
        r#"{"a":false}"#,
        r#"{"a":0}"#,
        r#"{"":"a"}"#,
        "{}",
    ] {
        all.push(digest(text));
    }
    let count = all.len();
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), count);
}

#[test]
fn refused_text() {
    for text in [
        "",
        "{",
        "}",
        "{}}",
        "{} {}",
        "{a:1}",
        "{\"a\"}",
        "{\"a\":}",
        "{\"a\":1,}",
        "{,}",
        "{\"a\":01}",
        "{\"a\":-}",
        "{\"a\":1.}",
        "{\"a\":.5}",
        "{\"a\":+1}",
        "{\"a\":1e}",
        "{\"a\":1e+}",
        "{\"a\":NaN}",
        "{\"a\":Infinity}",
        "{\"a\":-Infinity}",
        "{\"a\":tru}",
        "{\"a\":truex}",
        "{\"a\":\"\n\"}",
        "{\"a\":\"\\x\"}",
        "{\"a\":\"\\u12\"}",
        "{\"a\":\"\\u12g4\"}",
        "{\"a\":[1,]}",
        "{\"a\":[1 2]}",
        "{\"a\":1 \"b\":2}",
        "{\"a\":\"",
        "{\"a\":\"\\\"}",
        "{\"a\":\u{a0}1}",
        "{\"a\":\u{3000}}",
        "{\"a\":1\u{3000}}",
    ] {
        let code = code(text);
        assert!(code == "22P02" || (code == "22023" && !text.starts_with('{')), "{text}: {code}");
        assert!(serde_json::from_str::<Value>(text).is_err(), "{text}");
    }
    for text in ["1", "[]", "\"a\"", "null"] {
        assert_eq!(code(text), "22023", "{text}");
    }
    for text in [
        r#"{"a":"\u0000"}"#,
        r#"{"\u0000":1}"#,
        r#"{"a":"\ud800"}"#,
        r#"{"a":"\udc00"}"#,
        r#"{"a":"\ud800\ud800"}"#,
        r#"{"a":"\ud800x"}"#,
        r#"{"a":"\ude00\ud83d"}"#,
    ] {
        assert_eq!(code(text), "22P05", "{text}");
    }
    for text in [r#"{"a":1,"a":2}"#, r#"{"a":1,"b":2,"\u0061":1}"#, r#"{"x":[{"":1,"":1}]}"#] {
        assert_eq!(code(text), "22030", "{text}");
    }
}

#[test]
fn number_limits_hold_for_every_spelling() {
    for (number, expected) in [
        ("1e399", ""),
        ("1e400", "22003"),
        ("-1e400", "22003"),
        ("1e-400", ""),
        ("1e-401", "22003"),
        ("0e-401", "22003"),
        ("0e1000", ""),
        ("0e1001", ""),
        ("-0.000E+131073", ""),
        ("0e-1001", "22003"),
        ("1e99999999999999999999", "22003"),
        ("1e-99999999999999999999", "22003"),
    ] {
        assert_eq!(code(&format!("{{\"a\":{number}}}")), expected, "{number}");
    }
    for (digits, expected) in [(400, ""), (401, "22003"), (1_000_000, "22003")] {
        assert_eq!(code(&format!("{{\"a\":{}}}", "9".repeat(digits))), expected);
        assert_eq!(code(&format!("{{\"a\":0.{}}}", "9".repeat(digits))), expected);
    }
}

#[test]
fn limits_are_exact() {
    let nested = |n: usize| format!("{}1{}", "{\"a\":".repeat(n), "}".repeat(n));
    for depth in [1, 2, 32, 128] {
        let bounds = Bounds { depth, ..WIDEST };
        let (bytes, _) = encode_in(&nested(depth), bounds).expect("within");
        assert!(check(&bytes, bounds).is_ok());
        assert_eq!(encode_in(&nested(depth + 1), bounds).unwrap_err().sqlstate, "54000");
        if depth > 1 {
            let shallower = Bounds { depth: depth - 1, ..WIDEST };
            assert_eq!(check(&bytes, shallower).unwrap_err().sqlstate, "54000");
        }
    }
    let unbounded = Bounds { depth: usize::MAX, bytes: usize::MAX };
    assert_eq!(encode_in(&"{\"a\":".repeat(1_000_000), unbounded).unwrap_err().sqlstate, "54000");
    assert_eq!(
        encode_in(&format!("{{\"a\":{}", "[".repeat(1_000_000)), unbounded).unwrap_err().sqlstate,
        "54000"
    );
    let text = r#"{"a":[1,2,3],"b":"xyz"}"#;
    let size = encode(text).expect("sound text").0.len();
    assert!(encode_in(text, Bounds { bytes: size, ..WIDEST }).is_ok());
    assert_eq!(encode_in(text, Bounds { bytes: size - 1, ..WIDEST }).unwrap_err().sqlstate, "54000");
    let huge = format!("{{\"a\":\"{}\"}}", "x".repeat(20 << 20));
    assert_eq!(encode_in(&huge, unbounded).unwrap_err().sqlstate, "54000");
}

#[test]
fn checked_bytes_are_canonical() {
    // Whatever single byte is changed, the bytes are refused or are the encoding of what they now say.
    let text = r#"{"a":[1,"x",null,true,{"b":[]}],"bc":-0.50,"d":1e300,"ef":{}}"#;
    let (bytes, digest) = encode(text).expect("sound text");
    let (mut refused, mut other) = (0, 0);
    for at in 0..bytes.len() {
        for flip in 1..=255u8 {
            let mut damaged = bytes.clone();
            damaged[at] ^= flip;
            match check(&damaged, WIDEST) {
                Err(_) => refused += 1,
                Ok(d) => {
                    let (again, again_digest) = encode(&print(&damaged)).expect("printed text");
                    assert_eq!(again, damaged);
                    assert_eq!(again_digest, d);
                    other += 1;
                    // A changed display scale is the only change without a change of content.
                    assert!(d != digest || print(&damaged) != print(&bytes));
                }
            }
        }
        assert!(check(&bytes[..at], WIDEST).is_err(), "cut at {at}");
    }
    assert!(refused > other && other > 0);
    let mut longer = bytes;
    longer.push(0);
    assert!(check(&longer, WIDEST).is_err());
}

/// Compares two values, numbers as numbers: serde_json keeps large ones as floats, so only to 1 part in 10^14.
fn alike(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => {
            let (a, b) = (a.as_f64().unwrap_or(0.0), b.as_f64().unwrap_or(0.0));
            (a - b).abs() <= a.abs() * 1e-14
        }
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| alike(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(k, v)| b.get(k).is_some_and(|w| alike(v, w)))
        }
        (a, b) => a == b,
    }
}

proptest! {
    #[test]
    fn content_is_kept(seed in any::<u64>()) {
        let text = corpus::Corpus::new(seed).object();
        let (bytes, digest) = encode(&text).expect("sound text");
        prop_assert_eq!(check(&bytes, WIDEST), Ok(digest));
        let printed = print(&bytes);
        let read = serde_json::from_str::<Value>(&text);
        // The oracle knows no number beyond f64.
        prop_assume!(!read.as_ref().is_err_and(|e| e.to_string().contains("number out of range")));
        let read = read.expect("an oracle that reads");
        let back: Value = serde_json::from_str(&printed).expect("an oracle that reads");
        prop_assert!(alike(&read, &back), "{} {}", text, printed);
        prop_assert_eq!(encode(&printed), Ok((bytes, digest)));
    }

    #[test]
    fn damaged_text_is_judged_as_serde_json_does(
        seed in any::<u64>(),
        at in any::<prop::sample::Index>(),
        byte in 0x20u8..0x7F,
        cut in any::<bool>(),
    ) {
        let mut text = corpus::Corpus::new(seed).object();
        let at = at.index(text.len());
        if text.is_char_boundary(at) {
            if cut { text.truncate(at) } else { text.insert(at, char::from(byte)) }
        }
        let ours = encode(&text);
        let theirs = serde_json::from_str::<Value>(&text);
        match (&ours, &theirs) {
            (Ok(_), Ok(_)) => {}
            (Err(_), Err(_)) => {}
            // What JSON allows and Postgres or this project does not.
            (Err(e), Ok(_)) => prop_assert!(["22P05", "22030", "22003", "54000"].contains(&e.sqlstate), "{}: {}", e, text),
            (Ok(_), Err(e)) => {
                // serde_json refuses numbers beyond f64.
                prop_assert!(e.to_string().contains("number out of range"), "{e}: {text}");
            }
        }
    }

    #[test]
    fn any_text_and_bytes_are_judged(text in "\\PC*", bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = encode(&text);
        let _ = check(&bytes, WIDEST);
        let mut bytes = bytes;
        if bytes.len() > 4 {
            bytes[..4].copy_from_slice(&0x2000_0002u32.to_le_bytes());
            let _ = check(&bytes, WIDEST);
        }
    }

    #[test]
    fn damaged_bytes_are_refused_or_sound(
        seed in any::<u64>(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let (mut bytes, _) = encode(&corpus::Corpus::new(seed).object()).expect("sound text");
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Ok(digest) = check(&bytes, WIDEST) {
            prop_assert_eq!(encode(&print(&bytes)), Ok((bytes, digest)));
        }
    }
}

#[test]
fn a_tree_of_values_has_all_digits_and_takes_no_key_for_a_number() {
    let text = format!(
        r#"{{"a":[12345678901234567890.123456789,18446744073709551617,0.10,-0.5,1e399,null,true,false,{{"b":[]}}],"é\n":"\u00e9",
            "":{{"$serde_json::private::Number":"5","$serde_json::private::RawValue":"[1]"}},"x":{{{}}}}}"#,
        (0..100).map(|place| format!("\"k{place}\":{place}")).collect::<Vec<_>>().join(",")
    );
    let (bytes, _) = encode(&text).expect("sound text");
    let tree = value(&bytes).expect("sound bytes");
    assert_eq!(tree["a"][0].to_string(), "12345678901234567890.123456789");
    assert_eq!(tree["a"][4].to_string(), format!("1{}", "0".repeat(399)));
    assert!(tree[""].is_object(), "{}", tree[""]);
    // Spelt again and read again, it is the same.
    assert_eq!(encode(&tree.to_string()).expect("sound text").0, bytes);
    for end in 0..bytes.len() {
        assert!(value(&bytes[..end]).is_err());
    }
}
