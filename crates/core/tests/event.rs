//! Batches and the binary form of events: every kind of bad event beside good ones, round trips, hostile input.

mod corpus;

use proptest::prelude::*;
use serde_json::{Value, json};
use std::borrow::Cow;
use std::cmp::Ordering;
use tally_core::event::*;
use tally_core::jsonb::Bounds;

const ID: &str = "96e44c00-62d3-99ba-ddec-6de52a367d23";

fn good() -> Value {
    json!({"tenant_id": "t", "account_id": "a", "name": "n", "occurred_at": "2024-01-01T00:00:00Z", "event_id": ID,
           "user_id": "u", "session_id": "s", "properties": {"k": [1, "é"]}})
}

fn with(field: &str, value: Value) -> String {
    let mut event = good();
    event[field] = value;
    event.to_string()
}

fn judge(text: &str) -> Rejection {
    parse_event(text, &Limits::default()).expect_err(text)
}

#[test]
fn reads_every_field_and_borrows() {
    let text = good().to_string();
    let event = parse_event(&text, &Limits::default()).expect("a good event");
    assert_eq!(
        (
            &*event.tenant_id,
            &*event.account_id,
            &*event.name,
            event.user_id.as_deref(),
            event.session_id.as_deref()
        ),
        ("t", "a", "n", Some("u"), Some("s"))
    );
    assert_eq!(event.occurred_at, parse_timestamp("2024-01-01T00:00:00Z").expect("a time"));
    assert_eq!(Some(event.event_id), parse_uuid(ID));
    assert_eq!(
        event.properties,
        Properties::from_json(r#"{"k":[1,"é"]}"#, Bounds::WIDEST).expect("an object")
    );
    assert!(matches!(event.tenant_id, Cow::Borrowed(_)) && matches!(event.user_id, Some(Cow::Borrowed(_))));

    let escaped = text.replace("\"u\"", r#""\u0075""#).replace("tenant_id", r"tenant\u005fid");
    let again = parse_event(&escaped, &Limits::default()).expect("a good event");
    assert_eq!(again, event);
    assert!(matches!(again.user_id, Some(Cow::Owned(_))));

    for field in ["user_id", "session_id", "properties"] {
        let mut without = good();
        without.as_object_mut().expect("an object").remove(field);
        let absent = without.to_string();
        let absent = parse_event(&absent, &Limits::default()).expect("optional");
        let null = with(field, Value::Null);
        assert_eq!(parse_event(&null, &Limits::default()).expect("optional"), absent, "{field}");
        assert_ne!(fingerprint(&absent), fingerprint(&event), "{field}");
    }
    let empty = with("properties", json!({}));
    assert_eq!(parse_event(&empty, &Limits::default()).expect("empty").properties, Properties::empty());
}

#[test]
fn each_fault_has_its_field_and_code() {
    let long = "é".repeat(101);
    let cases: Vec<(String, &str, &str)> = ["tenant_id", "account_id", "name", "user_id", "session_id"]
        .into_iter()
        .flat_map(|f| {
            vec![
                (with(f, json!("")), f, "22023"),
                (with(f, json!(1)), f, "22023"),
                (with(f, json!({"a": "}"})), f, "22023"),
                (with(f, json!("a\u{1}b")), f, "22021"),
                (with(f, json!("a\u{7f}")), f, "22021"),
                (with(f, json!("a\u{85}")), f, "22021"),
                (with(f, json!(long)), f, "22001"),
                (
                    good().to_string().replace(&format!("\"{f}\":"), &format!("\"{f}\":NaN,\"x\":")),
                    f,
                    "22P02",
                ),
                (with(f, json!("@")).replace('@', "\\u0000"), f, "22P05"),
                (with(f, json!("@")).replace('@', "\\ud800"), f, "22P05"),
                (with(f, json!("@")).replace('@', "\\q"), f, "22P02"),
            ]
        })
        .chain(
            ["tenant_id", "account_id", "name", "occurred_at", "event_id"]
                .into_iter()
                .map(|f| (with(f, Value::Null), f, "23502")),
        )
        .chain([
            (with("event_id", json!("x")), "event_id", "22P02"),
            (with("event_id", json!(7)), "event_id", "22023"),
            (with("occurred_at", json!("yesterday")), "occurred_at", "22007"),
            (with("occurred_at", json!("2024-01-01T00:00:00")), "occurred_at", "22007"),
            (with("occurred_at", json!("2024-02-30T00:00:00Z")), "occurred_at", "22008"),
            (with("occurred_at", json!("infinity")), "occurred_at", "22008"),
            (with("occurred_at", json!(1704067200)), "occurred_at", "22023"),
            (with("properties", json!([1])), "properties", "22023"),
            (with("properties", json!("{}")), "properties", "22023"),
            (with("properties", json!({"a": "x".repeat(1 << 20)})), "properties", "54000"),
            (
                with("properties", json!("@")).replace("\"@\"", &"{\"a\":".repeat(40)) + &"}".repeat(41),
                "properties",
                "",
            ),
            (with("properties", json!("@")).replace("\"@\"", "{\"a\":1e999}"), "properties", "22003"),
            (with("properties", json!("@")).replace("\"@\"", "{\"a\":Infinity}"), "properties", "22P02"),
            (with("properties", json!("@")).replace("\"@\"", "{\"a\":1,\"a\":1}"), "properties", "22030"),
            (with("properties", json!("@")).replace("\"@\"", "{\"a\":\"\\u0000\"}"), "properties", "22P05"),
            (with("extra", json!(1)), "extra", "22023"),
            (good().to_string().replacen('{', "{\"name\":\"n\",", 1), "name", "22030"),
            (good().to_string().replacen('{', "{\"user_id\":null,", 1), "user_id", "22030"),
            (good().to_string().replacen('{', "{,", 1), "", "22P02"),
            (good().to_string() + "}", "", "22P02"),
            ("{}".into(), "tenant_id", "23502"),
            ("[]".into(), "", "22P02"),
            ("".into(), "", "22P02"),
        ])
        .filter(|(_, _, code)| !code.is_empty())
        .collect();
    for (text, field, code) in cases {
        let rejection = judge(&text);
        assert_eq!(
            (&*rejection.field, rejection.sqlstate),
            (field, code),
            "{text:.200}: {}",
            rejection.reason
        );
        assert!(
            rejection.reason.contains(field) && rejection.reason.chars().count() < 200,
            "{}",
            rejection.reason
        );
        assert!(!rejection.reason.contains(|c: char| c.is_control()), "{}", rejection.reason);
    }
    let fits = with("name", json!("é".repeat(100)));
    assert!(parse_event(&fits, &Limits::default()).is_ok());
}

#[test]
fn the_window_is_inclusive() {
    let at = parse_timestamp("2024-01-01T00:00:00Z").expect("a time");
    let text = good().to_string();
    let window = |earliest, latest| {
        parse_event(&text, &Limits { earliest, latest, ..Limits::default() })
            .map_or_else(|e| e.sqlstate, |_| "")
    };
    assert_eq!(window(at, at), "");
    assert_eq!(window(at + 1, at + 1), "22008");
    assert_eq!(window(at - 1, at - 1), "22008");
}

#[test]
fn bad_elements_leave_the_others_alone() {
    let good = good().to_string();
    let bad = [
        "1",
        "\"a]},[\"",
        "null",
        "[[1],2]",
        "NaN",
        "{\"tenant_id\":NaN,\"event_id\":\"96e44c00-62d3-99ba-ddec-6de52a367d23\"}",
        "{\"a\" \"b\"}",
        "{} junk",
        "{}{}",
        "{,}",
        "{\"a\":\"\n\"}",
        "{\"a\":[1,2,{\"b\":tru}]}",
    ];
    let mut text = String::from(" [ ");
    for element in bad {
        text.push_str(&format!("{good} , {element}\n,"));
    }
    text.push_str(&format!("{good}]\n"));
    let batch = parse_batch(&text, &Limits::default()).expect("a batch");
    assert_eq!(batch.items.len(), bad.len() * 2 + 1);
    for (i, item) in batch.items.iter().enumerate() {
        assert_eq!(item.position, i);
        if i % 2 == 0 {
            assert_eq!(item.raw, good);
            assert!(item.event.is_ok());
        } else {
            assert_eq!(item.raw, bad[i / 2]);
            let code = item.event.as_ref().expect_err(item.raw).sqlstate;
            assert!(["22023", "22P02", "23502"].contains(&code), "{}: {code}", item.raw);
        }
    }
}

#[test]
fn ids_are_salvaged() {
    let salvage = |text: &str| {
        let r = judge(text);
        (r.tenant_id, r.event_id)
    };
    let id = parse_uuid(ID);
    assert_eq!(salvage(&with("occurred_at", json!("x"))), (Some("t".into()), id));
    assert_eq!(salvage(&with("event_id", json!("x"))), (Some("t".into()), None));
    assert_eq!(salvage(&with("tenant_id", json!("a\u{1}"))), (None, id));
    let broken = format!(r#"{{"a":[NaN,"}}"] x,"tenant_id":"\u0074", "event_id":"{ID}","b" 1}}"#);
    assert_eq!(salvage(&broken), (Some("t".into()), id));
    // Two tenants: neither is to be believed.
    let two = good().to_string().replacen('{', "{\"tenant_id\":\"other\",", 1);
    assert_eq!(salvage(&two), (None, id));
}

#[test]
fn texts_that_cannot_be_split() {
    let good = good().to_string();
    for text in [
        "",
        "  ",
        "1",
        "null",
        "\"a\"",
        "[",
        "[1",
        "[1,",
        "[1,]",
        "[,1]",
        "[1,,2]",
        "[1]]",
        "[1] x",
        "{",
        "{}}",
        "{} {}",
        "{},{}",
        "[{]}",
        "[{\"a]",
        "[\"a\\\"]",
        "[{\"a\":[}]",
        "[a}",
        "[{}}]",
        "}",
        "]",
    ] {
        let error = parse_batch(text, &Limits::default()).expect_err(text);
        assert_eq!(error.sqlstate, "22032", "{text}");
        assert!(error.offset <= text.len(), "{text}");
        let beside = format!("[{good},{text}");
        if text.starts_with('[') && !text.ends_with(']') {
            assert!(parse_batch(&beside, &Limits::default()).is_err(), "{beside}");
        }
    }
    assert_eq!(parse_batch(" [ ] ", &Limits::default()).expect("empty").items.len(), 0);
    let limits = Limits { batch_events: 2, ..Limits::default() };
    assert!(parse_batch("[1,2]", &limits).is_ok());
    assert_eq!(parse_batch("[1,2,3]", &limits).expect_err("three").sqlstate, "54000");
    let limits = Limits { batch_bytes: 5, ..Limits::default() };
    assert!(parse_batch("[1,2]", &limits).is_ok());
    assert_eq!(parse_batch("[1,2 ]", &limits).expect_err("six").sqlstate, "54000");
}

/// The figures come from a second implementation, written in Python after docs/formats.md.
#[test]
fn fingerprints_never_change() {
    let text = good().to_string();
    let event = parse_event(&text, &Limits::default()).expect("a good event");
    assert_eq!(fingerprint(&event), 6_061_001_560_487_498_877);
    let mut other = event.clone();
    other.tenant_id = "other".into();
    other.event_id = [0; 16];
    assert_eq!(fingerprint(&other), fingerprint(&event));
    other.user_id = None;
    other.session_id = None;
    other.properties = Properties::empty();
    assert_eq!(fingerprint(&other), -2_108_321_586_264_136_436);
}

#[test]
fn golden_encoding() {
    let text = with("properties", json!({"k": 1})).replace("\"session_id\":\"s\",", "");
    let event = parse_event(&text, &Limits::default()).expect("a good event");
    let hex: String = encode(&event).iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!(
        hex,
        "01010101010100000040e9d4d5b0020096e44c0062d399baddec6de52a367d2374616e75\
         01000020010000800b0000106b00000020000000008001 00"
            .replace(' ', "")
    );
}

fn id() -> impl Strategy<Value = String> {
    "[a-z0-9é漢😀 \"\\\\/]{1,40}"
}

prop_compose! {
    fn event()(
        tenant in id(), account in id(), name in id(), user in prop::option::of(id()),
        session in prop::option::of(id()), occurred_at in -63_082_281_600_000_000i64..=252_455_615_999_999_999,
        event_id in any::<[u8; 16]>(), seed in any::<u64>(), bare in any::<bool>(),
    ) -> EventRef<'static> {
        let properties = if bare {
            Properties::empty()
        } else {
            Properties::from_json(&corpus::Corpus::new(seed).object(), Bounds::WIDEST).expect("an object")
        };
        EventRef {
            tenant_id: tenant.into(), account_id: account.into(), name: name.into(), user_id: user.map(Cow::Owned),
            session_id: session.map(Cow::Owned), occurred_at, event_id, properties,
        }
    }
}

proptest! {
    #[test]
    fn binary_and_text_forms_round_trip(event in event()) {
        let bytes = encode(&event);
        let view = EventView::parse(&bytes).expect("sound bytes");
        prop_assert_eq!(EventView::read(&bytes).expect("sound bytes"), view);
        let back = view.to_event().expect("sound bytes");
        prop_assert_eq!(&back, &event);
        let text = to_json_text(&view).expect("sound bytes");
        let read = parse_event(&text, &Limits::widest()).expect("printed text");
        prop_assert_eq!(&read, &event);
        prop_assert_eq!(encode(&read), bytes.clone());
        prop_assert_eq!(fingerprint(&read), fingerprint(&event));
        let oracle: Result<Value, _> = serde_json::from_str(&text);
        if let Ok(oracle) = oracle {
            prop_assert_eq!(oracle["tenant_id"].as_str(), Some(&*event.tenant_id));
            prop_assert_eq!(oracle["session_id"].as_str(), event.session_id.as_deref());
        }
        for cut in 0..bytes.len() {
            prop_assert!(EventView::parse(&bytes[..cut]).is_err(), "cut at {}", cut);
        }
    }

    #[test]
    fn damaged_bytes_are_refused_or_canonical(
        event in event(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut bytes = encode(&event);
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Ok(view) = EventView::parse(&bytes) {
            prop_assert_eq!(encode(&view.to_event().expect("checked")), bytes.clone());
            let text = to_json_text(&view).expect("checked");
            let read = parse_event(&text, &Limits::widest()).expect("printed text");
            prop_assert_eq!(encode(&read), bytes);
        }
    }

    #[test]
    fn any_bytes_are_judged(mut bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = EventView::parse(&bytes);
        if bytes.len() > 8 {
            bytes[..8].copy_from_slice(&[1, 3, 3, 3, 3, 3, 3, 0]);
            let _ = EventView::parse(&bytes);
            let _ = EventView::read(&bytes).map(|v| to_json_text(&v));
        }
    }

    #[test]
    fn order_and_hash_agree(a in event(), b in event(), same in any::<[bool; 4]>()) {
        let mut b = b;
        if same[0] { b.tenant_id = a.tenant_id.clone(); }
        if same[1] { b.account_id = a.account_id.clone(); }
        if same[2] { b.occurred_at = a.occurred_at; }
        if same[3] { b.event_id = a.event_id; }
        let key = |e: &EventRef<'_>| {
            (e.tenant_id.as_bytes().to_vec(), e.account_id.as_bytes().to_vec(), e.occurred_at, e.event_id)
        };
        let (x, y) = (encode(&a), encode(&b));
        let (x, y) = (EventView::read(&x).expect("sound"), EventView::read(&y).expect("sound"));
        prop_assert_eq!(x.compare(&y), key(&a).cmp(&key(&b)));
        prop_assert_eq!(x.compare(&y) == Ordering::Equal, x.hash(7) == y.hash(7));
        prop_assert!(x.hash(7) != x.hash(8));
    }

    #[test]
    fn spliced_batches_keep_their_neighbours(
        elements in prop::collection::vec((any::<u64>(), any::<prop::sample::Index>(), 0x20u8..0x7F), 1..8),
    ) {
        let good = good().to_string();
        // Damage that keeps brackets and quotes as they are cannot spoil the split.
        let damaged: Vec<String> = elements.iter().map(|(seed, at, byte)| {
            let mut text = corpus::Corpus::new(*seed).object();
            let at = at.index(text.len());
            let byte = if b"[]{}\"\\,".contains(byte) { b'x' } else { *byte };
            let escaped = text[..text.floor_char_boundary(at)].ends_with('\\');
            if text.is_char_boundary(at) && !escaped { text.insert(at, char::from(byte)) }
            text
        }).filter(|t| t.starts_with('{')).collect();
        let text: Vec<&str> = damaged.iter().flat_map(|d| [&**d, &*good]).collect();
        let text = format!("[{}]", text.join(","));
        let batch = parse_batch(&text, &Limits::widest()).expect("a batch");
        prop_assert_eq!(batch.items.len(), damaged.len() * 2);
        for (i, item) in batch.items.iter().enumerate() {
            if i % 2 == 0 {
                prop_assert_eq!(item.raw, damaged[i / 2].trim_end());
                prop_assert!(item.event.is_err());
            } else {
                prop_assert!(item.event.is_ok());
            }
        }
    }

    #[test]
    fn any_text_is_judged(text in "[\\[\\]{}\",:\\\\ a-z0-9é\u{3000}\u{a0}\n]{0,60}", wrap in any::<bool>()) {
        let text = if wrap { format!("[{}]", text) } else { text };
        if let Ok(batch) = parse_batch(&text, &Limits::default()) {
            // Elements lie in the text in order, apart, and nothing but punctuation lies between them.
            let mut rest = text.as_str();
            for item in &batch.items {
                let at = rest.find(item.raw).expect("raw text");
                prop_assert!(rest[..at].chars().all(|c| "[, \n".contains(c)));
                rest = &rest[at + item.raw.len()..];
            }
            prop_assert!(rest.chars().all(|c| "[] \n".contains(c)));
        }
        if let Ok(oracle) = serde_json::from_str::<Value>(&text) {
            let count = match &oracle { Value::Array(a) => Some(a.len()), Value::Object(_) => Some(1), _ => None };
            prop_assert_eq!(parse_batch(&text, &Limits::default()).ok().map(|b| b.items.len()), count);
        }
    }
}

/// A field's text: absent, sound, or not.
fn field(sound: &'static str) -> impl Strategy<Value = Option<String>> {
    prop_oneof![
        1 => Just(None),
        8 => Just(Some(sound.to_owned())),
        2 => "[a-z\"\\\\{}:, \n\t]{0,8}".prop_map(Some),
    ]
}

proptest! {
    /// A row's fields are judged as the JSON object that is kept of them is: what a row's rejection says, its redrive says.
    #[test]
    fn fields_are_judged_as_their_json(
        tenant in field("t"), account in field("a"), name in field("n"), time in field("2024-01-01T00:00:00Z"),
        id in field(ID), user in field("u"), session in field("s"),
        properties in prop_oneof![field("{\"k\": [1, \"é\"]}"), field(" {} "), field("{}, \"user_id\": \"eve\""), field("null"), field(" [ ]")],
    ) {
        let fields: Fields =
            [&tenant, &account, &name, &time, &id, &user, &session, &properties].map(|text| text.as_deref());
        let limits = Limits::default();
        let json = fields_to_json(&fields);
        prop_assert!(serde_json::from_str::<Value>(&json).is_ok(), "{}", json);
        let (mut parser, again) = (FieldsParser::new(&limits), parse_event(&json, &limits));
        match (parser.event(&fields), again) {
            (Ok(event), Ok(again)) => prop_assert_eq!(event, again),
            (Err(_), Err(_)) => {}
            (Ok(_), Err(rejection)) | (Err(rejection), Ok(_)) => prop_assert!(false, "{}: {}", json, rejection),
        }
    }
}

#[test]
fn an_element_without_an_id_of_its_own_gets_one() {
    let id = [7; 16];
    let limits = Limits::default();
    let rest =
        r#""tenant_id": "acme", "account_id": "n", "name": "a", "occurred_at": "2026-03-02T09:15:00Z""#;
    let text = format_uuid(&id);
    for raw in [
        format!("{{{rest}}}"),
        format!("{{ {rest} }}"),
        format!("{{{rest}, \"event_id\": null}}"),
        format!("{{\"event_id\":null, {rest}}}"),
        format!(r#"{{{rest}, "\u0065vent_id" : null }}"#),
        format!("{{{rest}, \"properties\": {{\"event_id\": \"evt_1\"}}}}"),
        format!("{{\"properties\": {{\"a\": [{{\"event_id\": 5}}]}}, {rest}}}"),
        format!("{{{rest}, \"event_id\": null, \"properties\": {{\"event_id\": null}}}}"),
        format!(r#"{{"user_id": "\"event_id\":", {rest}}}"#),
    ] {
        let with = with_id(&raw, &id).unwrap_or_else(|| panic!("{raw}"));
        let event = parse_event(&with, &limits).unwrap_or_else(|problem| panic!("{problem}: {with}"));
        assert_eq!(event.event_id, id, "{with}");
        let properties = |text: &str| serde_json::from_str::<Value>(text).unwrap()["properties"].clone();
        assert_eq!(properties(&with), properties(&raw), "{with}");
    }
    // It's known also where the rest can't be read.
    for raw in ["{}", "{ }", r#"{"name": nothing}"#, r#"{"name": nothing, "event_id": null}"#] {
        let with = with_id(raw, &id).unwrap();
        assert_eq!(parse_event(&with, &limits).unwrap_err().event_id, Some(id), "{with}");
    }
    for raw in [
        format!("{{{rest}, \"event_id\": \"{text}\"}}"),
        format!(r#"{{{rest}, "event\u005fid": "x"}}"#),
        format!("{{{rest}, \"event_id\": 5}}"),
        format!("{{{rest}, \"event_id\": null, \"event_id\": null}}"),
        "5".into(),
        "\"event_id\"".into(),
        "[{}]".into(),
    ] {
        assert_eq!(with_id(&raw, &id), None, "{raw}");
    }
}

/// A reason that quotes an event quotes that one alone: the next one may be another tenant's.
#[test]
fn a_reason_tells_nothing_of_the_next_event() {
    let good = r#"{"tenant_id":"a","account_id":"x","name":"n","occurred_at":"2026-03-02T09:15:00Z","event_id":"00000000-0000-4000-8000-000000000001","properties":{"k":[1,"v"]}}"#;
    let next = good.replace(r#""x""#, r#""ann@beta.example""#);
    let limits = Limits::default();
    let mut quoted = 0;
    for place in 1..=good.len() {
        for junk in ["x", " x", "{", "}", "[", "]", ":", ",", "0", "-", "nul", "\\", "\u{1}"] {
            let mut first = good.to_owned();
            first.insert_str(place, junk);
            let text = format!("[{first},{next}]");
            let Ok(batch) = parse_batch(&text, &limits) else { continue };
            let Err(rejection) = &batch.items[0].event else { continue };
            let raw = batch.items[0].raw;
            if let Some((_, told)) = rejection.reason.split_once('"') {
                let told = told.trim_end_matches('"').trim_end_matches('…');
                quoted += 1;
                assert!(raw.contains("ann@") || !told.contains("ann@"), "{first}: {}", rejection.reason);
                assert!(batch.items.len() < 2 || !told.contains(",{"), "{first}: {}", rejection.reason);
            }
        }
    }
    assert!(quoted > 1_000, "{quoted}");
    let text = format!("[{good} x , {next}]");
    let batch = parse_batch(&text, &limits).expect("a batch");
    let told = batch.items[0].event.as_ref().expect_err("broken");
    assert_eq!(told.reason, "text after the end of the event: \"x\"");
    assert!(batch.items[1].event.is_ok());
}

#[test]
fn properties_that_are_nothing_are_nothing_in_json_too() {
    for nothing in ["null", " null ", "[]", " [ \n] "] {
        let fields = [Some("a"), None, None, None, None, None, None, Some(nothing)];
        assert_eq!(fields_to_json(&fields), format!(r#"{{"tenant_id": "a", "properties": {nothing}}}"#));
    }
    for other in ["[1]", "nul", "\"x\"", "[", "]", "1"] {
        let json = fields_to_json(&[None, None, None, None, None, None, None, Some(other)]);
        assert!(json.starts_with(r#"{"properties": ""#), "{json}");
    }
}
