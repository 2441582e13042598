//! Payloads that are no JSON: what serde_json refuses is refused, of every format, and nothing of it is guessed.

use proptest::prelude::*;
use serde_json::{Value, json};
use tally_core::event::{FieldsParser, Limits};
use tally_core::payload::{Format, Home, Mapping, Waiting, translate};

const HOME: Home<'static> = Home { tenant: Some("acme"), account: Some("north") };

/// Scalars that are none.
const SCALARS: [&str; 36] = [
    "ann",
    "bad",
    "True",
    "FALSE",
    "Null",
    "nul",
    "truee",
    "None",
    "undefined",
    "NaN",
    "-NaN",
    "Infinity",
    "-Infinity",
    "01",
    "-01",
    "00",
    ".5",
    "+1",
    "1.",
    "-",
    "-.5",
    "1e",
    "1e+",
    "1.e5",
    "0x1F",
    "1_000",
    "1f",
    "١",
    "'ann'",
    "`ann`",
    "\"\\x41\"",
    "\"\\u12g4\"",
    "\"\\ud800\"",
    "\"\\udc00\\ud800\"",
    "\"a\u{1}b\"",
    "\"a\tb\"",
];

/// The first is one event, of each format; the second one more in whatever way the format has several, with what it says beside them.
fn documents() -> Vec<(&'static str, Value, Value)> {
    let time = "2026-03-02T09:15:00Z";
    let event = |format: &str, id: &str| match format {
        "amplitude" => {
            json!({"user_id": "ann", "device_id": "d", "event_type": "buy", "time": 1772442900123i64, "insert_id": id,
            "event_properties": {"plan": ["pro", 1.5, true, null]}, "library": "x"})
        }
        "cloudevents" => {
            json!({"specversion": "1.0", "type": "paid", "source": "/orders", "id": id, "time": time, "data": {"total": [5]}, "extra": 1})
        }
        "ga4" => {
            json!({"event_timestamp": "1772442900123456", "event_name": "page_view", "user_pseudo_id": "u", "event_bundle_sequence_id": id,
            "stream_id": "1", "event_params": [{"key": "page", "value": {"string_value": "/a", "int_value": null}}], "device": {"category": "x"}})
        }
        "mixpanel" => {
            json!({"event": "buy", "properties": {"time": 1772442900, "distinct_id": "ann", "$insert_id": id, "token": "t", "n": 5.0}})
        }
        "opentelemetry" => {
            json!({"timeUnixNano": "1772442900123456789", "eventName": "paid", "severityText": "INFO", "flags": 1,
            "attributes": [{"key": "log.record.uid", "value": {"stringValue": id}}, {"key": "n", "value": {"intValue": "5"}}]})
        }
        "posthog" => {
            json!({"event": "opened", "distinct_id": "ann", "uuid": id, "timestamp": time, "properties": {"a": 1}, "ip": "x"})
        }
        "segment" => {
            json!({"type": "track", "event": "x", "messageId": id, "userId": "ann", "timestamp": time, "properties": {"n": [1, {"b": "c"}]}, "z": 1})
        }
        "snowplow" => {
            json!({"app_id": "shop", "collector_tstamp": time, "event": "struct", "user_id": "ann", "event_id": id, "geo_city": null,
            "contexts_com_acme_account_1": [{"id": "north"}]})
        }
        "tally" => {
            json!({"name": "x", "event_id": id, "occurred_at": time, "user_id": "ann", "properties": {"a": {"b": 1}}, "z": [1]})
        }
        other => panic!("{other} has no event here"),
    };
    let several = |format: &str| {
        let events = json!([event(format, "1"), event(format, "2"), event(format, "3")]);
        match format {
            "amplitude" => json!({"api_key": "k", "events": events, "options": {"min_id_length": 1}}),
            "opentelemetry" => {
                json!({"resourceLogs": [{"resource": {"attributes": [{"key": "a", "value": {"stringValue": "b"}}]},
                "scopeLogs": [{"scope": {"name": "s"}, "logRecords": events}]}]})
            }
            "posthog" => json!({"api_key": "k", "historical_migration": true, "batch": events}),
            "segment" => {
                json!({"writeKey": "k", "sentAt": time, "context": {"ip": "10.0.0.1"}, "batch": events})
            }
            _ => events,
        }
    };
    let one = |format: &str| match format {
        "opentelemetry" => json!({"resourceLogs": [{"scopeLogs": [{"logRecords": [event(format, "1")]}]}]}),
        _ => event(format, "1"),
    };
    Format::names().map(|format| (format, one(format), several(format))).collect()
}

/// Whether each event was accepted; nothing where the payload was refused as a whole. What is refused is so again when it is redriven.
fn accepted(format: &str, text: &str) -> Vec<bool> {
    let limits = Limits::default();
    let mapping = Mapping::parse("{}").unwrap();
    let format = Format::of(format).unwrap();
    let Ok(translated) = translate(format, text, ("", &mapping), HOME, &limits, &mut || {}) else {
        return vec![];
    };
    assert!(!translated.is_empty(), "{text}");
    let mut parser = FieldsParser::new(&limits);
    let of = |one: &tally_core::payload::Translated| {
        let is_accepted = one.event(&mut parser).is_ok();
        if !is_accepted {
            let body = one.body(&mut 0).unwrap();
            let again = Waiting::read(&body).unwrap().translate(format, &mapping, HOME);
            assert!(again.event(&mut FieldsParser::new(&limits)).is_err(), "{body}");
        }
        is_accepted
    };
    translated.iter().map(of).collect()
}

/// The document with each of its scalars, and each of its keys, replaced in turn.
fn replaced(document: &Value, by: &str) -> Vec<String> {
    const MARK: &str = "@@";
    fn each(value: &Value, whole: &dyn Fn(Value) -> Value, out: &mut Vec<Value>) {
        match value {
            Value::Array(elements) => {
                for (place, element) in elements.iter().enumerate() {
                    let within = |other: Value| {
                        let mut elements = elements.clone();
                        elements[place] = other;
                        whole(elements.into())
                    };
                    each(element, &within, out);
                }
            }
            Value::Object(members) => {
                for (key, member) in members {
                    let within = |other: Value| {
                        let mut members = members.clone();
                        members[key] = other;
                        whole(members.into())
                    };
                    each(member, &within, out);
                    let mut renamed = members.clone();
                    renamed.insert(MARK.to_owned(), json!(1));
                    out.push(whole(renamed.into()));
                }
            }
            _ => out.push(whole(json!(MARK))),
        }
    }
    let mut out = Vec::new();
    each(document, &|whole| whole, &mut out);
    out.iter().map(|document| document.to_string().replace("\"@@\"", by)).collect()
}

#[test]
fn a_scalar_or_key_that_is_none_is_refused_wherever_it_stands() {
    for (format, one, several) in documents() {
        assert_eq!(accepted(format, &one.to_string()), [true], "{format}");
        assert_eq!(accepted(format, &several.to_string()), [true; 3], "{format}");
        for by in SCALARS {
            for text in replaced(&one, by) {
                assert!(serde_json::from_str::<Value>(&text).is_err(), "{text}");
                assert!(!accepted(format, &text).contains(&true), "{format}: {text}");
            }
            // Of several, one's own costs that one, what they share, and any key, each of them; and a value that is in none of them none.
            for text in replaced(&several, by) {
                let accepted = accepted(format, &text);
                let is_key = text.contains(&format!("{by}:1"));
                if is_key && !by.starts_with('"') {
                    // Of brackets, commas or quotes that are wrong nobody could say whose they are.
                    assert!(accepted.is_empty(), "{format}: {text}");
                    continue;
                }
                assert_eq!(accepted.len(), 3, "{format}: {text}");
                let good = accepted.iter().filter(|&&one| one).count();
                let is = |name: &str| text.contains(&format!("\"{name}\":{by}"));
                let is_beside = ["api_key", "sentAt", "writeKey", "historical_migration", "min_id_length"]
                    .into_iter()
                    .any(is);
                let is_right = if is_beside { good == 3 } else { [0, 2].contains(&good) };
                assert!(is_right, "{format}: {text}");
            }
        }
    }
}

#[test]
fn one_that_is_wrong_costs_no_other_and_says_what_is_wrong_without_its_value() {
    let limits = Limits::default();
    let mapping = Mapping::parse("{}").unwrap();
    for (wrong, sqlstate) in
        [("Planted-ann", "22P02"), ("\"Planted-\\ud800\"", "22P05"), ("\"Planted-\u{2}\"", "22P02")]
    {
        let event = |id: &str, user: &str| {
            format!(
                "{{\"type\":\"track\",\"event\":\"x\",\"messageId\":\"{id}\",\"userId\":{user},\"timestamp\":\"2026-03-02T09:15:00Z\"}}"
            )
        };
        let text = format!("[{},{},{}]", event("1", "\"ann\""), event("2", wrong), event("3", "\"ann\""));
        assert_eq!(accepted("segment", &text), [true, false, true], "{text}");
        assert_eq!(
            accepted("segment", &text[1..text.len() - 1].replace("},{", "}\n{")),
            [true, false, true],
            "{text}"
        );
        let segment = Format::of("segment").unwrap();
        let found = translate(segment, &text, ("", &mapping), HOME, &limits, &mut || {}).unwrap();
        let rejection = found[1].event(&mut FieldsParser::new(&limits)).unwrap_err();
        assert_eq!(rejection.sqlstate, sqlstate, "{rejection:?}");
        assert!(
            !rejection.reason.contains("Planted") && rejection.reason.contains("is not JSON"),
            "{rejection:?}"
        );
        // Nobody is taken for its user.
        assert!(!found[1].body(&mut 0).unwrap().contains("user_id"));
    }
    // Of one alone everything is its own, wherever it stands.
    for alone in [
        r#"{"api_key":bad,"event":"x","distinct_id":"a","uuid":"1","timestamp":"2026-03-02T09:15:00Z"}"#,
        r#"{"event":"x","api_key":bad,"distinct_id":"a","uuid":"1","timestamp":"2026-03-02T09:15:00Z"}"#,
    ] {
        assert_eq!(accepted("posthog", alone), [false], "{alone}");
    }
    // A line of other white space than JSON's is no empty one.
    let event = r#"{"type":"track","event":"x","messageId":"1","timestamp":"2026-03-02T09:15:00Z"}"#;
    assert_eq!(accepted("segment", &format!("{event}\n\u{a0}\n \t\r\n{event}")), [true, false, true]);
    // What JSON allows stays as it is: a zero character where nobody looks, and of members of one key the last.
    let odd = r#"{"type":"track","event":"x","messageId":"1","messageId":"2","timestamp":"2026-03-02T09:15:00Z","z":["\u0000",-0,1E+5,0.5e-3,1e999,"\ud83d\ude00\/\b"]}"#;
    assert_eq!(accepted("segment", odd), [true]);
}

/// Columns of tab-separated events that hold JSON.
#[test]
fn a_column_that_is_no_json_is_refused() {
    let line = |contexts: &str| {
        let mut columns = vec![""; 131];
        for (place, text) in [
            (0, "shop"),
            (3, "2026-03-02 09:15:00.123"),
            (5, "struct"),
            (6, "018f6b1e-7c00-7000-8000-000000000003"),
            (52, contexts),
        ] {
            columns[place] = text;
        }
        columns.join("\t")
    };
    assert_eq!(accepted("snowplow", &line(r#"{"schema":"s","data":[]}"#)), [true]);
    for by in SCALARS.iter().filter(|by| !by.contains('\t')) {
        let lines = format!("{}\n{}", line(&format!(r#"{{"schema":{by},"data":[]}}"#)), line("{}"));
        assert_eq!(accepted("snowplow", &lines), [false, true], "{lines}");
    }
}

fn is_refused(text: &str) -> bool {
    // A number beyond what serde_json holds is JSON all the same.
    serde_json::from_str::<Value>(text).is_err_and(|error| !error.to_string().contains("number out of range"))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn what_serde_json_refuses_is_refused(
        which in 0..9_usize, at in 0..1_000_usize, cut in 0..4_usize,
        piece in prop_oneof!["[\\[\\]{},:\"'\\\\/a-z0-9+\\-.eE\\x01-\\x20é]{0,4}", prop::sample::select(&SCALARS[..]).prop_map(str::to_owned)],
    ) {
        let (format, one, _) = documents().swap_remove(which);
        let text: Vec<char> = one.to_string().chars().collect();
        let at = at % text.len();
        let end = (at + cut).min(text.len());
        let text: String = text[..at].iter().copied().chain(piece.chars()).chain(text[end..].iter().copied()).collect();
        // Lines are documents of their own.
        if is_refused(&text) && !text.contains('\n') {
            prop_assert!(!accepted(format, &text).contains(&true), "{}: {}", format, text);
        }
    }
}
