//! Payloads of each vendor, written for these tests after its documentation, and what they become; and hostile ones.

use proptest::prelude::*;
use serde_json::{Value, json};
use std::ops::ControlFlow;
use tally_core::event::{
    EventView, FieldsParser, Keys, Limits, Places, Rejection, encode, event_id_from_key, format_uuid,
    to_json_text,
};
use tally_core::payload::{Format, Home, Mapping, Waiting, is_made_session, translate};

const HOME: Home<'static> = Home { tenant: Some("acme"), account: None };

fn limits() -> Limits {
    Limits::default()
}

/// What becomes of each event: ours as JSON, or why not.
fn all(format: &str, text: &str, mapping: &str, home: Home) -> Result<Vec<Result<Value, Rejection>>, String> {
    let mapping = Mapping::parse(mapping)?;
    let format = Format::of(format).unwrap();
    let limits = limits();
    let translated = translate(format, text, ("m", &mapping), home, &limits, &mut || {});
    let translated = translated.map_err(|error| format!("{} {}", error.sqlstate, error.reason))?;
    let mut parser = FieldsParser::new(&limits);
    let mut made = 0;
    let mut out = Vec::new();
    for one in &translated {
        let event = one.event(&mut parser).map(|event| {
            let bytes = encode(&event);
            serde_json::from_str(&to_json_text(&EventView::read(&bytes).unwrap()).unwrap()).unwrap()
        });
        // What quarantine keeps comes to the same when it is read again.
        let body = one.body(&mut made).unwrap();
        let Some(waiting) = Waiting::read(&body) else {
            assert!(event.is_err(), "{body}");
            out.push(event);
            continue;
        };
        assert_eq!(waiting.mapping, "m");
        let again = waiting.translate(format, &mapping, home);
        let again = again.event(&mut parser).map(|event| {
            let bytes = encode(&event);
            serde_json::from_str::<Value>(&to_json_text(&EventView::read(&bytes).unwrap()).unwrap()).unwrap()
        });
        match (&event, &again) {
            (Ok(event), Ok(again)) => assert_eq!(event, again, "{body}"),
            (Err(_), Err(_)) => {}
            _ => panic!("{event:?} was first, then {again:?}: {body}"),
        }
        out.push(event);
    }
    Ok(out)
}

fn good(format: &str, payload: &str, mapping: Value) -> Vec<Value> {
    let events = all(format, payload, &mapping.to_string(), HOME).unwrap();
    events.into_iter().map(|event| event.unwrap_or_else(|problem| panic!("{problem:?}"))).collect()
}

fn fault(format: &str, payload: &str, mapping: Value) -> (&'static str, String, String) {
    let mut events = all(format, payload, &mapping.to_string(), HOME).unwrap();
    assert_eq!(events.len(), 1, "{payload}");
    let rejection = events.remove(0).unwrap_err();
    (rejection.sqlstate, rejection.field, rejection.reason)
}

fn made(key: &str) -> Value {
    json!(format_uuid(&event_id_from_key(key)))
}

fn pick(event: &Value, fields: &[&str]) -> Value {
    fields.iter().map(|field| event[*field].clone()).collect()
}

fn named_in(body: &str, field: &str) -> Vec<String> {
    let mut found = Vec::new();
    let _ = tally_core::subject::named_in(body, field, |value| {
        found.push(value);
        ControlFlow::Continue(())
    });
    found.sort();
    found
}

#[test]
fn segment() {
    let batch = json!({
        "writeKey": "secret", "sentAt": "2026-03-02T09:20:00Z",
        "context": {"groupId": "north", "library": {"name": "lib"}},
        "batch": [
            {"type": "track", "event": "Order Completed", "messageId": "m-1", "userId": "ann", "anonymousId": "x",
             "timestamp": "2026-03-02T09:15:00.250Z", "properties": {"total": 19.90, "items": [1]}, "context": {"ip": "10.0.0.1"}},
            {"type": "page", "name": "Home", "category": "Docs", "messageId": "018f6b1e-7c00-7000-8000-000000000001",
             "anonymousId": "x", "timestamp": "2026-03-02T09:15:00Z", "properties": {"url": "https://a", "name": "own"}},
            {"type": "screen", "name": "Start", "messageId": "m-3", "userId": "ann", "timestamp": "2026-03-02T09:15:00Z"},
            {"type": "identify", "messageId": "m-4", "userId": "ann", "timestamp": "2026-03-02T09:15:00Z", "traits": {"plan": "pro"}},
            {"type": "group", "messageId": "m-5", "userId": "ann", "groupId": "south", "context": {"groupId": null},
             "timestamp": "2026-03-02T09:15:00Z", "traits": {"seats": 5}},
            {"type": "alias", "messageId": "m-6", "userId": "ann", "previousId": "x", "timestamp": "2026-03-02T09:15:00Z"}
        ]
    });
    let mapping = json!({"account": ["/groupId", "/context/groupId"], "names": {"Order Completed": "paid"}, "properties": {"ip": "/context/ip"}});
    let events = good("segment", &batch.to_string(), mapping);
    assert_eq!(
        events[0],
        json!({
            "tenant_id": "acme", "account_id": "north", "name": "paid", "user_id": "ann", "occurred_at": "2026-03-02T09:15:00.25Z",
            "event_id": made("segment:m-1"), "properties": {"total": 19.9, "items": [1], "ip": "10.0.0.1"}
        })
    );
    assert_eq!(events[1]["properties"], json!({"name": "own", "category": "Docs", "url": "https://a"}));
    let seen: Vec<Value> =
        events[1..].iter().map(|event| pick(event, &["name", "account_id", "user_id"])).collect();
    assert_eq!(
        seen,
        [
            json!(["page", "north", "x"]),
            json!(["screen", "north", "ann"]),
            json!(["identify", "north", "ann"]),
            json!(["group", "south", "ann"]),
            json!(["alias", "north", "ann"])
        ]
    );
    assert_eq!(events[1]["event_id"], "018f6b1e-7c00-7000-8000-000000000001");
    assert_eq!(events[4]["properties"], json!({"seats": 5}));
    // Without a mapping, too: a call that puts somebody into a group names it, whatever group other calls are made in.
    let mut groups = batch.clone();
    groups["batch"][4]["context"]["groupId"] = json!("east");
    let events_of = good("segment", &groups.to_string(), json!({}));
    assert_eq!(pick(&events_of[4], &["name", "account_id"]), json!(["group", "south"]));
    groups["batch"][0]["groupId"] = json!("south");
    let events_of = good("segment", &groups.to_string(), json!({}));
    assert_eq!(pick(&events_of[0], &["name", "account_id"]), json!(["Order Completed", "north"]));
    // A later delivery of the same batch is the same.
    let mut later = batch.clone();
    later["sentAt"] = json!("2026-03-02T10:00:00Z");
    assert_eq!(
        good("segment", &later.to_string(), json!({"account": {"value": "n"}}))[0]["event_id"],
        events[0]["event_id"]
    );
    // Without a type, and alone.
    let alone = json!({"event": "a", "userId": "u", "messageId": "m", "timestamp": "2026-03-02T09:15:00Z", "context": {"groupId": "north"}});
    assert_eq!(good("segment", &alone.to_string(), json!({}))[0]["name"], "a");
}

#[test]
fn posthog() {
    let batch = json!({"api_key": "phc", "historical_migration": true, "batch": [
        {"event": "$pageview", "distinct_id": "ann", "uuid": "018F6B1E-7C00-7000-8000-000000000002", "timestamp": "2026-03-02T09:15:00+01:00",
         "properties": {"$session_id": "s1", "$groups": {"company": "north"}, "$current_url": "https://a", "token": "phc"}},
        {"event": "signed up", "timestamp": "2026-03-02T09:15:00Z", "properties": {"distinct_id": "bob", "$groups": {"company": "south"}}}
    ]});
    let mapping = json!({"account": "/properties/$groups/company"});
    let events = good("posthog", &batch.to_string(), mapping.clone());
    assert_eq!(
        events[0],
        json!({"tenant_id": "acme", "account_id": "north", "name": "$pageview", "user_id": "ann", "session_id": "s1",
               "occurred_at": "2026-03-02T08:15:00Z", "event_id": "018f6b1e-7c00-7000-8000-000000000002",
               "properties": {"$groups": {"company": "north"}, "$current_url": "https://a"}})
    );
    assert_eq!(pick(&events[1], &["user_id", "account_id"]), json!(["bob", "south"]));
    // Alone, and with its members in another order: the content is the key.
    let one = r#"{"properties": {"$groups": {"company": "south"}, "distinct_id": "bob"}, "timestamp": "2026-03-02T09:15:00Z", "event": "signed up", "api_key": "phc"}"#;
    assert_eq!(good("posthog", one, mapping)[0]["event_id"], events[1]["event_id"]);
}

#[test]
fn mixpanel() {
    let event = |time: Value, id: &str| {
        json!({"event": "Purchase", "properties": {"time": time, "distinct_id": "ann", "$insert_id": id, "token": "t",
               "company": "north", "Amount": 5.0}})
    };
    let mapping = json!({"account": "/properties/company", "omit": ["company"]});
    let events = good(
        "mixpanel",
        &json!([event(json!(1772442900), "i-1"), event(json!(1772442900123i64), "i-2")]).to_string(),
        mapping.clone(),
    );
    assert_eq!(
        events[0],
        json!({"tenant_id": "acme", "account_id": "north", "name": "Purchase", "user_id": "ann", "occurred_at": "2026-03-02T09:15:00Z",
               "event_id": made(r#"mixpanel:["Purchase","ann",1772442900,"i-1"]"#), "properties": {"Amount": 5.0}})
    );
    assert_eq!(events[1]["occurred_at"], "2026-03-02T09:15:00.123Z");
    // One a line.
    let lines = format!("{}\n\n{}\r\n", event(json!(1772442900), "i-1"), event(json!(1772442900), "i-3"));
    let lines = good("mixpanel", &lines, mapping);
    assert_eq!(lines.len(), 2);
    assert_eq!(lines[0], events[0]);
}

#[test]
fn amplitude() {
    let body = json!({"api_key": "k", "events": [
        {"user_id": "ann", "device_id": "d", "event_type": "buy", "time": 1772442900123i64, "insert_id": "i", "session_id": 1772442000000i64,
         "event_properties": {"plan": "pro"}, "groups": {"company": "north"}, "revenue": 9.99, "productId": "p"},
        {"device_id": "d", "event_type": "buy", "time": 1772442900123i64, "session_id": -1, "groups": {"company": "north"}}
    ]});
    let events = good("amplitude", &body.to_string(), json!({"account": "/groups/company"}));
    assert_eq!(
        events[0],
        json!({"tenant_id": "acme", "account_id": "north", "name": "buy", "user_id": "ann", "session_id": "1772442000000",
               "occurred_at": "2026-03-02T09:15:00.123Z", "event_id": made(r#"amplitude:["d","i"]"#),
               "properties": {"revenue": 9.99, "productId": "p", "plan": "pro"}})
    );
    assert_eq!(pick(&events[1], &["user_id", "session_id"]), json!(["d", null]));
    // An insert id is one of its device, or of its user where there is no device.
    let of = |who: Value| {
        let mut event = json!({"event_type": "buy", "time": 1772442900123i64, "insert_id": "i"});
        event.as_object_mut().unwrap().extend(who.as_object().unwrap().clone());
        good("amplitude", &event.to_string(), json!({"account": {"value": "n"}}))[0]["event_id"].clone()
    };
    let ids = [
        of(json!({"user_id": "ann"})),
        of(json!({"user_id": "bob"})),
        of(json!({"user_id": "ann", "device_id": "ann"})),
        of(json!({"device_id": "d"})),
    ];
    assert!(ids.iter().enumerate().all(|(n, id)| !ids[..n].contains(id)), "{ids:?}");
    assert_eq!(of(json!({"user_id": "ann", "device_id": "d"})), ids[3]);
}

#[test]
fn events_that_say_the_same_are_told_apart_by_their_number() {
    let one = json!({"event": "opened", "distinct_id": "ann", "timestamp": "2026-03-02T09:15:00Z", "properties": {"a": 1}});
    let other = json!({"event": "closed", "distinct_id": "ann", "timestamp": "2026-03-02T09:15:00Z"});
    let keyed =
        json!({"event": "opened", "distinct_id": "ann", "timestamp": "2026-03-02T09:15:00Z", "uuid": "u-1"});
    let mapping = json!({"account": {"value": "n"}});
    let ids = |events: &[&Value]| -> Vec<Value> {
        let events = good("posthog", &json!(events).to_string(), mapping.clone());
        events.into_iter().map(|event| event["event_id"].clone()).collect()
    };
    let found = ids(&[&one, &other, &one, &keyed, &one, &keyed]);
    assert_eq!(found[3], found[5], "a key of its own holds");
    let own = [&found[0], &found[1], &found[2], &found[3], &found[4]];
    assert!(own.iter().enumerate().all(|(n, id)| !own[..n].contains(id)), "{own:?}");
    // Whatever comes between them, and cut otherwise: no more ids than there are events.
    assert_eq!(ids(&[&one, &one, &one]), [found[0].clone(), found[2].clone(), found[4].clone()]);
    assert_eq!(ids(&[&other, &one]), [found[1].clone(), found[0].clone()]);
    // One document a line, and a batch.
    let lines = format!("{one}\n{one}\n");
    let lines = good("posthog", &lines, mapping.clone());
    assert_eq!([&lines[0]["event_id"], &lines[1]["event_id"]], [&found[0], &found[2]]);
    // What waits keeps its number, for a mapping that finds its account.
    let none = Mapping::parse(r#"{"account": "/properties/company"}"#).unwrap();
    let text = json!([one, one]).to_string();
    let posthog = Format::of("posthog").unwrap();
    let waiting = translate(posthog, &text, ("m", &none), HOME, &limits(), &mut || {}).unwrap();
    let again: Vec<String> = waiting
        .iter()
        .map(|one| {
            let body = one.body(&mut 0).unwrap();
            let translated = Waiting::read(&body).unwrap().translate(
                posthog,
                &Mapping::parse(&mapping.to_string()).unwrap(),
                HOME,
            );
            let limits = limits();
            let id = translated.event(&mut FieldsParser::new(&limits)).unwrap().event_id;
            format_uuid(&id)
        })
        .collect();
    assert_eq!(json!(again), json!([found[0], found[2]]));
}

/// What a delivery adds, wherever it stands, makes no other event of one that has no key.
#[test]
fn what_differs_from_one_delivery_to_the_next_is_not_taken() {
    let time = "2026-03-02T09:15:00Z";
    let events = [
        (
            "segment",
            "batch",
            json!({"type": "track", "event": "x", "userId": "ann", "timestamp": time, "properties": {"sentAt": 1}}),
        ),
        (
            "posthog",
            "batch",
            json!({"event": "x", "distinct_id": "ann", "timestamp": time, "properties": {"sent_at": 1}}),
        ),
        (
            "amplitude",
            "events",
            json!({"event_type": "x", "user_id": "ann", "time": 1772442900, "event_properties": {"api_key": 1}}),
        ),
        (
            "mixpanel",
            "",
            json!({"event": "x", "properties": {"distinct_id": "ann", "time": 1772442900, "sent_at": 1}}),
        ),
        ("snowplow", "", json!({"event": "x", "user_id": "ann", "collector_tstamp": time, "app_id": "a"})),
    ];
    let added = |format: &str| match format {
        "segment" => vec!["/sentAt", "/receivedAt", "/writeKey"],
        "posthog" => {
            vec!["/sent_at", "/api_key", "/token", "/offset", "/historical_migration", "/properties/token"]
        }
        "amplitude" => vec![
            "/api_key",
            "/client_upload_time",
            "/server_upload_time",
            "/server_received_time",
            "/processed_time",
        ],
        "mixpanel" => vec!["/properties/token"],
        _ => vec!["/etl_tstamp", "/dvce_sent_tstamp"],
    };
    let mapping = json!({"account": {"value": "n"}});
    for (format, list, event) in events {
        let ids = |payload: Value, mapping: &Value| -> Vec<Value> {
            let events = good(format, &payload.to_string(), mapping.clone());
            events.into_iter().map(|event| event["event_id"].clone()).collect()
        };
        let id = ids(event.clone(), &mapping);
        for path in added(format) {
            let (place, name) = path.rsplit_once('/').unwrap();
            for delivery in ["2026-03-02T09:16:00Z", "2026-03-02T09:17:00Z"] {
                let mut other = event.clone();
                other.pointer_mut(place).unwrap()[name] = json!(delivery);
                assert_eq!(ids(other.clone(), &mapping), id, "{format}: {path}");
                assert_eq!(ids(json!([other]), &mapping), id, "{format}: {path}");
                if !list.is_empty() {
                    assert_eq!(ids(json!({list: [other]}), &mapping), id, "{format}: {path}");
                    assert_eq!(ids(json!({list: [event], name: delivery}), &mapping), id, "{format}: {path}");
                }
                // Of two in one payload each counts, however they were delivered.
                let two = ids(json!([event, other]), &mapping);
                assert!(two[0] == id[0] && two[1] != id[0], "{format}: {path}");
            }
            // What a mapping reads is the event's.
            let mut other = event.clone();
            other.pointer_mut(place).unwrap()[name] = json!("z");
            let reads = json!({"account": {"value": "n"}, "properties": {"more": path}});
            let is_read = ids(other, &reads) != ids(event.clone(), &reads);
            assert!(is_read || path == "/api_key" && format == "posthog", "{format}: {path}");
        }
        if format == "mixpanel" {
            let mut other = event.clone();
            other["properties"]["token"] = json!("t");
            let reads = json!({"account": {"value": "n"}, "properties": {"all": "/properties"}});
            assert_ne!(ids(other, &reads), ids(event.clone(), &reads));
        }
        let mut other = event.clone();
        other["more"] = json!(1);
        assert_ne!(ids(other, &mapping), id, "{format}");
    }
    // Nor does PostHog's key of the project wait with an event.
    let event = json!({"event": "x", "api_key": "phc_secret"});
    for payload in [event.clone(), json!([event]), json!({"api_key": "phc_secret", "batch": [event]})] {
        let waiting = judged("posthog", &payload.to_string());
        assert!(waiting[0].0.is_some() && !waiting[0].1.contains("secret"), "{waiting:?}");
    }
}

#[test]
fn events_of_a_stream_have_its_ids() {
    let one = json!({"event": "a", "properties": {"distinct_id": "u", "time": 1772442900}});
    let mut keyed = one.clone();
    keyed["properties"]["$insert_id"] = json!("i");
    let mapping = Mapping::parse(r#"{"account": {"value": "n"}}"#).unwrap();
    let keys = Keys { prefix: "p\n".into(), places: Places::From(7) };
    let limits = Limits { keys: Some(keys.clone()), ..limits() };
    let text = format!("{one}\n{keyed}\n{one}\n");
    let mixpanel = Format::of("mixpanel").unwrap();
    let found = translate(mixpanel, &text, ("", &mapping), HOME, &limits, &mut || {}).unwrap();
    let mut parser = FieldsParser::new(&limits);
    let ids: Vec<_> = found.iter().map(|one| one.event(&mut parser).unwrap().event_id).collect();
    assert_eq!([Some(ids[0]), Some(ids[2])], [keys.id(0), keys.id(2)]);
    assert_eq!(ids[1], event_id_from_key(r#"mixpanel:["a","u",1772442900,"i"]"#));
    let made: Vec<bool> = found.iter().map(|one| one.has_made_id()).collect();
    assert_eq!(made, [true, false, true]);
}

/// A stream's positions are what they are: one whose text can't be read costs itself, or the stream would stop there for good.
#[test]
fn a_line_of_a_stream_that_cannot_be_read_is_rejected_also_where_no_other_can_be() {
    let mapping = Mapping::parse(r#"{"account": {"value": "n"}}"#).unwrap();
    let keys = Keys { prefix: "p\n".into(), places: Places::From(7) };
    let limits = Limits { keys: Some(keys), ..limits() };
    for name in Format::names() {
        let format = Format::of(name).unwrap();
        for (text, count) in [
            ("{\"a\": ", 1),
            ("nonsense", 1),
            ("", 1),
            (" \n", 1),
            ("{\"a\":NaN,\n{\n", 2),
            ("\"text\"\n\"text\"", 2),
            ("{\"a\"\n\n5\n", 2),
            ("\u{feff}{", 1),
        ] {
            let found = translate(format, text, ("m", &mapping), HOME, &limits, &mut || {}).unwrap();
            let mut parser = FieldsParser::new(&limits);
            assert!(found.iter().all(|one| one.event(&mut parser).is_err()), "{name}: {text}");
            assert_eq!(found.len(), count, "{name}: {text}");
            for one in &found {
                let body = one.body(&mut 0).unwrap();
                let again = Waiting::read(&body).unwrap().translate(format, &mapping, HOME);
                assert!(again.event(&mut parser).is_err(), "{body}");
            }
        }
        // What there is to read is read as ever, and has no event where it has none.
        let none = if name == "opentelemetry" { r#"{"resourceLogs":[]}"# } else { "[]" };
        assert!(translate(format, none, ("m", &mapping), HOME, &limits, &mut || {}).unwrap().is_empty());
    }
}

#[test]
fn a_payload_is_the_same_as_text_and_as_jsonb() {
    let mapping = json!({"account": {"value": "n"}, "properties": {"copied": "/properties/n"}});
    // As text, and as jsonb prints it.
    for (format, text, printed) in [
        (
            "posthog",
            r#"{"event": "a", "distinct_id": 1.50e3, "uuid": "k", "timestamp": 1.7955E15, "properties": {"n": 1}}"#,
            r#"{"uuid": "k", "event": "a", "timestamp": 1795500000000000, "properties": {"n": 1}, "distinct_id": 1500}"#,
        ),
        (
            "posthog",
            r#"{"event": -0, "distinct_id": 12.5e-3, "uuid": "k", "timestamp": 17955e5, "properties": {"a": {"x": 1, "\u0078": 2}}}"#,
            r#"{"uuid": "k", "event": 0, "timestamp": 1795500000, "properties": {"a": {"x": 2}}, "distinct_id": 0.0125}"#,
        ),
        (
            "ga4",
            r#"{"event_name": "a", "event_timestamp": "1772442900123456", "event_params": [{"key": "a", "value": {"int_value": 1}}, {"key": "\u0061", "value": {"int_value": 2}}]}"#,
            r#"{"event_name": "a", "event_params": [{"key": "a", "value": {"int_value": 1}}, {"key": "a", "value": {"int_value": 2}}], "event_timestamp": "1772442900123456"}"#,
        ),
        (
            "opentelemetry",
            r#"{"resourceLogs": [{"scopeLogs": [{"logRecords": [{"timeUnixNano": 1.772442900123456789e18, "attributes": [{"key": "a", "value": {"stringValue": "x"}}, {"key": "\u0061", "value": {"kvlistValue": {"values": [{"key": "b", "value": {"boolValue": true}}, {"key": "\u0062", "value": {"boolValue": false}}]}}}]}]}]}]}"#,
            r#"{"resourceLogs": [{"scopeLogs": [{"logRecords": [{"attributes": [{"key": "a", "value": {"stringValue": "x"}}, {"key": "a", "value": {"kvlistValue": {"values": [{"key": "b", "value": {"boolValue": true}}, {"key": "b", "value": {"boolValue": false}}]}}}], "timeUnixNano": 1772442900123456789}]}]}]}"#,
        ),
        (
            "snowplow",
            r#"{"event": "unstruct", "event_id": "k", "collector_tstamp": "2026-03-02T09:15:00Z", "unstruct\u005fevent_com_acme_buy_1": {"a": 1, "b": 2}}"#,
            r#"{"event": "unstruct", "event_id": "k", "collector_tstamp": "2026-03-02T09:15:00Z", "unstruct_event_com_acme_buy_1": {"a": 1, "b": 2}}"#,
        ),
        (
            "snowplow",
            r#"{"event": "unstruct", "collector_tstamp": "2026-03-02T09:15:00Z", "unstruct_event_com_acme_buy_1": {"a": 1}, "unstruct_event_com_acme_buy_1": {"b": 2}}"#,
            r#"{"event": "unstruct", "collector_tstamp": "2026-03-02T09:15:00Z", "unstruct_event_com_acme_buy_1": {"b": 2}}"#,
        ),
        (
            "ga4",
            r#"{"event_name": "a", "event_timestamp": "1772442900123456", "event_params": [{"key": "a", "value": {"int_value": "\u0035"}}, {"key": "b", "value": {"int_value": 1, "int_value": null, "double_value": 2}}], "user_properties": 1, "user_properties": []}"#,
            r#"{"event_name": "a", "event_timestamp": "1772442900123456", "event_params": [{"key": "a", "value": {"int_value": "5"}}, {"key": "b", "value": {"int_value": null, "double_value": 2}}], "user_properties": []}"#,
        ),
        (
            "opentelemetry",
            r#"{"resourceLogs": 5, "resourceLogs": [{"scopeLogs": [], "scopeLogs": [{"logRecords": [{"timeUnixNano": "1772442900123456789", "body": {"stringValue": "x", "stringValue": "y"}, "attributes": [{"key": "no"}], "attributes": [{"key": "a", "value": {"intValue": "\u0035"}}, {"key": "b", "value": {"intValue": "1", "int\u0056alue": "2"}}, {"key": "x", "key": "c", "value": {"kvlistValue": {"values": [], "values": [{"key": "d", "value": 1}]}}}]}]}]}]}"#,
            r#"{"resourceLogs": [{"scopeLogs": [{"logRecords": [{"timeUnixNano": "1772442900123456789", "body": {"stringValue": "y"}, "attributes": [{"key": "a", "value": {"intValue": "5"}}, {"key": "b", "value": {"intValue": "2"}}, {"key": "c", "value": {"kvlistValue": {"values": [{"key": "d", "value": 1}]}}}]}]}]}]}"#,
        ),
        (
            "posthog",
            r#"{"api_key": "a", "api_key": "b", "batch": [], "batch": [{"event": "a", "distinct_id": "u", "api_key": 1, "api_key": 2, "timestamp": "2026-03-02T09:15:00Z", "properties": {"n": 0e131073, "m": -0.00E+00000000000000001000}}]}"#,
            r#"{"batch": [{"event": "a", "distinct_id": "u", "timestamp": "2026-03-02T09:15:00Z", "properties": {"n": 0, "m": 0}}]}"#,
        ),
        (
            "segment",
            r#"{"type": "track", "event": "a", "userId": 0e131073, "timestamp": "2026-03-02T09:15:00Z", "x": 1e00000000000002, "properties": {}, "properties": {"n": 1}, "writeKey": 1, "writeKey": 2}"#,
            r#"{"type": "track", "event": "a", "userId": 0, "timestamp": "2026-03-02T09:15:00Z", "x": 100, "properties": {"n": 1}}"#,
        ),
        (
            "amplitude",
            r#"{"events": 1, "events": [{"event_type": "a", "user_id": "x", "user_id": "u", "time": 1772442900, "insert_id": "k", "event_properties": {"a": 1}, "event_properties": {"n": 1}}]}"#,
            r#"{"events": [{"event_type": "a", "user_id": "u", "time": 1772442900, "insert_id": "k", "event_properties": {"n": 1}}]}"#,
        ),
        (
            "mixpanel",
            r#"{"event": "a", "properties": {"time": 1.7955e9, "distinct_id": 1E+2, "$insert_id": 1e0, "tags": [{"k": 1, "k": [2]}]}}"#,
            r#"{"event": "a", "properties": {"tags": [{"k": [2]}], "time": 1795500000, "$insert_id": 1, "distinct_id": 100}}"#,
        ),
    ] {
        assert_eq!(good(format, text, mapping.clone()), good(format, printed, mapping.clone()), "{text}");
    }
}

#[test]
fn what_is_as_deep_and_large_as_may_be_is_read_again() {
    let posthog = Format::of("posthog").unwrap();
    let event = |more: &str| {
        format!(r#"{{"event": "a", "distinct_id": "u", "timestamp": "2026-03-02T09:15:00Z", {more}}}"#)
    };
    let deep = |levels: usize| event(&format!("\"a\": {}{}", "[".repeat(levels), "]".repeat(levels)));
    let large = |values: usize| event(&format!("\"uuid\": \"k\", \"a\": [{}0]", "0,".repeat(values - 1)));
    let (none, limits) = (Mapping::default(), Limits { batch_bytes: 64 << 20, ..limits() });
    let mapping = json!({"account": {"value": "n"}});
    let found_later = Mapping::parse(&mapping.to_string()).unwrap();
    for (at_limit, beyond) in [(deep(63), deep(64)), (large(1_999_994), large(1_999_995))] {
        let refused = translate(posthog, &beyond, ("", &found_later), HOME, &limits, &mut || {}).unwrap();
        let refused = refused[0].event(&mut FieldsParser::new(&limits)).unwrap_err();
        assert_eq!(refused.sqlstate, "54000", "{refused:?}");
        let found = translate(posthog, &at_limit, ("", &none), HOME, &limits, &mut || {}).unwrap();
        let body = found[0].body(&mut 0).unwrap();
        let again =
            Waiting::read(&body).expect("an event of a payload").translate(posthog, &found_later, HOME);
        assert!(again.event(&mut FieldsParser::new(&limits)).is_ok());
    }
    // What it says is one content, however it's spelt.
    let spelt = |text: &str| good("posthog", text, mapping.clone())[0]["event_id"].clone();
    assert_eq!(spelt(&deep(63)), spelt(&deep(63).replace("\"a\":", "\"\\u0061\" :")));
}

/// What is too deep or too large for a payload costs the event or line that it is in.
#[test]
fn what_is_too_deep_or_too_large_costs_its_event_alone() {
    let levels = |levels: usize| format!("{}{}", "{\"a\":".repeat(levels) + "\"ann\"", "}".repeat(levels));
    let values = |values: usize| format!("[{}0]", "0,".repeat(values - 1));
    let limits = limits();
    // Whether each is accepted, and what waits says the same when it is redriven.
    let judged = |format: &str, text: &str, mapping: &Value| -> Vec<bool> {
        let mapping = Mapping::parse(&mapping.to_string()).unwrap();
        let format = Format::of(format).unwrap();
        let found = translate(format, text, ("m", &mapping), HOME, &limits, &mut || {}).unwrap();
        let mut parser = FieldsParser::new(&limits);
        let mut one = |one: &tally_core::payload::Translated| match one.event(&mut parser) {
            Ok(_) => true,
            Err(rejection) => {
                assert!(rejection.sqlstate == "54000" && !rejection.reason.contains("JSON"), "{rejection:?}");
                assert_eq!(rejection.tenant_id.as_deref(), HOME.tenant);
                let body = one.body(&mut 0).unwrap();
                let waiting = Waiting::read(&body).unwrap();
                let again = waiting.translate(format, &mapping, HOME);
                assert!(again.event(&mut FieldsParser::new(&limits)).is_err(), "{}", &body[..200]);
                false
            }
        };
        found.iter().map(&mut one).collect()
    };
    let deeps = [62, 63, 64, 65, 66, 67, 68, 69, 70, 72, 75, 100, 200, 20_000].map(levels);
    for bad in deeps.iter().chain(&[values(2_000_001)]) {
        let mapping = json!({"account": {"value": "n"}});
        let track = |id: &str, properties: &str| {
            format!(
                r#"{{"type":"track","event":"x","messageId":"{id}","userId":"ann","timestamp":"2026-03-02T09:15:00Z","context":{properties}}}"#
            )
        };
        let (good, bad_one, last) = (track("1", "{}"), track("2", bad), track("3", "{}"));
        let batch = format!(r#"{{"batch":[{good},{bad_one},{last}]}}"#);
        assert_eq!(judged("segment", &batch, &mapping), [true, false, true], "{}", bad.len());
        let deep_alone = bad.len() > 66 * 6;
        if bad.starts_with('[') {
            let lines = format!("{good}\n{bad_one}\n{last}\n");
            assert_eq!(judged("segment", &lines, &mapping), [true, false, true]);
            assert_eq!(judged("segment", &bad_one, &mapping), [false]);
            continue;
        }
        // An erasure finds whose it is.
        let segment = Format::of("segment").unwrap();
        let parsed = Mapping::parse(&mapping.to_string()).unwrap();
        let found = translate(segment, &batch, ("m", &parsed), HOME, &limits, &mut || {}).unwrap();
        assert!(named_in(&found[1].body(&mut 0).unwrap(), "user_id").contains(&"ann".to_owned()));
        if deep_alone {
            let lines = format!("{good}\n{bad_one}\n{last}\n");
            assert_eq!(judged("segment", &lines, &mapping), [true, false, true], "{}", bad.len());
            assert_eq!(judged("segment", &format!("{bad_one}\n{good}"), &mapping), [false, true]);
            assert_eq!(judged("segment", &bad_one, &mapping), [false]);
            // A batch in a line, and what is no object.
            assert_eq!(
                judged("segment", &format!("{good}\n{bad}\n{batch}"), &mapping),
                [true, false, true, false, true]
            );
            // What no event has costs none.
            let beside = format!(r#"{{"sentAt":{bad},"batch":[{good},{last}]}}"#);
            assert_eq!(judged("segment", &beside, &mapping), [true, true]);
            // What they share, each.
            let shared = format!(r#"{{"context":{bad},"batch":[{good},{last}]}}"#);
            assert_eq!(judged("segment", &shared, &mapping), [false, false]);
        }
        let record = |value: &str| {
            format!(
                r#"{{"timeUnixNano":"1772442900123456789","attributes":[{{"key":"a","value":{value}}}]}}"#
            )
        };
        let (good, bad) = (record(r#"{"stringValue":"x"}"#), record(bad));
        let logs =
            format!(r#"{{"resourceLogs":[{{"scopeLogs":[{{"logRecords":[{good},{bad},{good}]}}]}}]}}"#);
        assert_eq!(judged("opentelemetry", &logs, &mapping), [true, false, true]);
    }
    // Many events with too many values together are to be sent in smaller pieces.
    let many = format!(r#"{{"batch":[{}]}}"#, vec![format!(r#"{{"a":{}}}"#, values(1_000)); 2_000].join(","));
    let error = all("segment", &many, "{}", HOME).unwrap_err();
    assert_eq!(error, "54000 payload has more than 2000000 values");
    let many = &many[9..many.len() - 1];
    assert_eq!(all("segment", many, "{}", HOME).unwrap_err(), error);
    // Brackets that don't belong together are no JSON, however deep.
    for text in ["[".repeat(100_000), "[".repeat(70) + "}", "[".repeat(70) + "\"" + &"]".repeat(70)] {
        assert!(all("segment", &text, "{}", HOME).unwrap_err().starts_with("22032"));
    }
}

#[test]
fn what_many_events_share_is_searched_once() {
    // Half a million members in the head, and a hundred thousand events beside it; then as many scopes of one resource.
    let mut head: serde_json::Map<String, Value> =
        (0..500_000).map(|n| (format!("k{n}"), json!(0))).collect();
    let event = |n: usize| json!({"event": "a", "uuid": n.to_string(), "distinct_id": "u", "timestamp": "2026-03-02T09:15:00Z"});
    let batch: Vec<Value> = (0..100_000).map(event).collect();
    head.insert("batch".into(), json!(batch));
    let mapping = json!({"account": "/company"}).to_string();
    let mapping = Mapping::parse(&mapping).unwrap();
    let text = Value::Object(head).to_string();
    let mut pauses = 0;
    let posthog = Format::of("posthog").unwrap();
    let found = translate(posthog, &text, ("", &mapping), HOME, &limits(), &mut || pauses += 1).unwrap();
    assert_eq!((found.len(), pauses), (100_000, 100_000));
    let attributes: Vec<Value> = (0..200_000).map(|n| json!({"key": format!("k{n}")})).collect();
    let scopes = vec![json!({"logRecords": [{"timeUnixNano": "1772442900123456789"}]}); 90_000];
    let body =
        json!({"resourceLogs": [{"resource": {"attributes": attributes}, "scopeLogs": scopes}]}).to_string();
    let mapping = Mapping::parse(r#"{"account": {"value": "n"}, "event_id": "/attributes/id"}"#).unwrap();
    let logs = Format::of("opentelemetry").unwrap();
    let found = translate(logs, &body, ("", &mapping), HOME, &limits(), &mut || {}).unwrap();
    assert_eq!(found.len(), 90_000);
}

fn snowplow_line(columns: &[(usize, &str)]) -> String {
    let mut line = vec![""; 131];
    for (place, text) in columns {
        line[*place] = text;
    }
    line.join("\t")
}

#[test]
fn snowplow() {
    let line = snowplow_line(&[
        (0, "shop"),
        (1, "web"),
        (3, "2026-03-02 09:15:00.123"),
        (5, "unstruct"),
        (6, "018f6b1e-7c00-7000-8000-000000000003"),
        (12, "ann"),
        (
            52,
            r#"{"schema":"iglu:com.snowplowanalytics.snowplow/contexts/jsonschema/1-0-0","data":[{"schema":"iglu:com.acme/account/jsonschema/1-0-0","data":{"id":"north"}}]}"#,
        ),
        (
            58,
            r#"{"schema":"iglu:com.snowplowanalytics.snowplow/unstruct_event/jsonschema/1-0-0","data":{"schema":"iglu:com.acme/linkClick/jsonschema/1-0-1","data":{"target":"x"}}}"#,
        ),
        (123, "s1"),
        (126, "link_click"),
    ]);
    let mapping = json!({"account": "/contexts_com_acme_account_1/0/id"});
    let events = good("snowplow", &format!("{line}\n{line}\n"), mapping.clone());
    let wanted = json!({
        "tenant_id": "acme", "account_id": "north", "name": "link_click", "user_id": "ann", "session_id": "s1",
        "occurred_at": "2026-03-02T09:15:00.123Z", "event_id": "018f6b1e-7c00-7000-8000-000000000003",
        "properties": {"app_id": "shop", "platform": "web", "target": "x"}
    });
    assert_eq!(events, [wanted.clone(), wanted.clone()]);
    let sdk = json!({
        "app_id": "shop", "platform": "web", "collector_tstamp": "2026-03-02T09:15:00.123Z", "event": "unstruct", "user_id": "ann",
        "event_id": "018f6b1e-7c00-7000-8000-000000000003", "domain_sessionid": "s1", "event_name": "link_click", "page_url": null,
        "contexts_com_acme_account_1": [{"id": "north"}], "unstruct_event_com_acme_link_click_1": {"target": "x"}
    });
    assert_eq!(good("snowplow", &sdk.to_string(), mapping), [wanted]);
    let (sqlstate, _, reason) = fault("snowplow", "a\tb", json!({}));
    assert_eq!((sqlstate, reason.as_str()), ("22P02", "event has 2 columns, an enriched event has 131"));
    let (sqlstate, path, _) = fault("snowplow", &snowplow_line(&[(58, "{")]), json!({}));
    assert_eq!((sqlstate, path.as_str()), ("22P02", "/unstruct_event"));
}

#[test]
fn ga4() {
    let row = |page: &str| {
        json!({
            "event_date": "20260302", "event_timestamp": "1772442900123456", "event_name": "page_view", "user_pseudo_id": "123.456",
            "event_bundle_sequence_id": "7", "stream_id": "1", "user_id": null,
            "event_params": [
                {"key": "ga_session_id", "value": {"string_value": null, "int_value": "1772442000", "double_value": null}},
                {"key": "page_location", "value": {"string_value": page}},
                {"key": "value", "value": {"double_value": 1.5}}
            ],
            "user_properties": [{"key": "account", "value": {"string_value": "north", "set_timestamp_micros": "1"}}]
        })
    };
    let lines = format!("{}\n{}", row("/a"), row("/b"));
    // Of 123.456 and 1772442000: it stays the same for ever.
    const SESSION: &str = "ga4.w9rNIBR-J6H-cLT4uAi-6ZmEULP8Tzx6";
    assert!(is_made_session(SESSION));
    let events = good("ga4", &lines, json!({"account": "/user_properties/account"}));
    assert_eq!(
        pick(&events[0], &["account_id", "name", "user_id", "session_id", "occurred_at", "properties"]),
        json!(["north", "page_view", "123.456", SESSION, "2026-03-02T09:15:00.123456Z",
               {"ga_session_id": 1772442000, "page_location": "/a", "value": 1.5}])
    );
    assert_ne!(events[0]["event_id"], events[1]["event_id"]);
    // What else a later export says of the row makes no other event of it.
    let mut later = row("/a");
    later["traffic_source"] = json!({"medium": "organic"});
    let later = good("ga4", &later.to_string(), json!({"account": "/user_properties/account"}));
    assert_eq!(later[0], events[0]);
    // The session goes on where the user logs in, and is another of another user, or of another number.
    let session = |changed: &dyn Fn(&mut serde_json::Value)| {
        let mut row = row("/a");
        changed(&mut row);
        good("ga4", &row.to_string(), json!({"account": {"value": "n"}}))[0]["session_id"].clone()
    };
    assert_eq!(session(&|row| row["user_id"] = json!("ann")), SESSION);
    assert_eq!(session(&|row| row["event_params"][0]["value"] = json!({"int_value": 1772442000})), SESSION);
    let others = [
        session(&|row| row["user_pseudo_id"] = json!("123.457")),
        session(&|row| row["user_pseudo_id"] = json!("123")),
        session(&|row| row["event_params"][0]["value"] = json!({"int_value": "1772442001"})),
        session(&|row| row["user_pseudo_id"] = json!(null)),
    ];
    for other in &others {
        assert_ne!(*other, SESSION);
        assert!(is_made_session(other.as_str().unwrap()), "{other}");
    }
    assert_eq!(session(&|row| row["event_params"] = json!([])), json!(null));
    for other in ["ga4.", "ga4.abc", "123.456.1772442000", &SESSION[1..], &format!("{SESSION}a")] {
        assert!(!is_made_session(other), "{other}");
    }
}

#[test]
fn cloudevents() {
    let event = json!({"specversion": "1.0", "type": "com.acme.order.paid", "source": "/orders", "id": "7", "time": "2026-03-02T09:15:00Z",
                       "subject": "order/7", "tenantid": "north", "data": {"total": 5}});
    let mapping = json!({"account": "/tenantid"});
    let events = good(
        "cloudevents",
        &json!([event, {"specversion": "1.0", "type": "ping", "source": "/s", "id": "7",
        "time": "2026-03-02T09:15:00Z", "tenantid": "north", "data": "text"}])
        .to_string(),
        mapping.clone(),
    );
    assert_eq!(
        events[0],
        json!({"tenant_id": "acme", "account_id": "north", "name": "com.acme.order.paid", "occurred_at": "2026-03-02T09:15:00Z",
               "event_id": made(r#"cloudevents:["/orders","7"]"#), "properties": {"total": 5, "subject": "order/7"}})
    );
    assert_eq!(events[1]["properties"], json!({"data": "text"}));
    assert_ne!(events[0]["event_id"], events[1]["event_id"]);
    for (key, value, path, sqlstate) in [
        ("specversion", json!("0.3"), "/specversion", "0A000"),
        ("specversion", json!(null), "/specversion", "23502"),
        ("id", json!(""), "/id", "23502"),
        ("time", json!(null), "/time", "23502"),
        ("time", json!("noon"), "/time", "22007"),
        ("tenantid", json!(["a"]), "/tenantid", "22023"),
    ] {
        let mut event = event.clone();
        event[key] = value;
        let (found, field, reason) = fault("cloudevents", &event.to_string(), mapping.clone());
        assert_eq!((found, field.as_str()), (sqlstate, path), "{reason}");
        assert!(reason.starts_with(path), "{reason}");
    }
}

#[test]
fn opentelemetry() {
    let body = json!({"resourceLogs": [{
        "resource": {"attributes": [{"key": "service.name", "value": {"stringValue": "shop"}}, {"key": "account.id", "value": {"stringValue": "north"}}]},
        "scopeLogs": [{"scope": {"name": "lib"}, "logRecords": [
            {"timeUnixNano": "1772442900123456789", "observedTimeUnixNano": "1772442901000000000", "eventName": "order.paid", "severityText": "INFO",
             "attributes": [{"key": "user.id", "value": {"stringValue": "ann"}}, {"key": "session.id", "value": {"stringValue": "s1"}},
                            {"key": "log.record.uid", "value": {"stringValue": "r-1"}}, {"key": "total", "value": {"intValue": "500"}},
                            {"key": "tags", "value": {"arrayValue": {"values": [{"stringValue": "a"}, {"boolValue": true}]}}}],
             "body": {"kvlistValue": {"values": [{"key": "k", "value": {"doubleValue": 1.5}}]}}},
            {"timeUnixNano": "0", "observedTimeUnixNano": "1772442901000000000", "body": {"stringValue": "hello"}}
        ]}]
    }]});
    let mapping = json!({"account": "/resource/attributes/account.id", "properties": {"service": "/resource/attributes/service.name"}});
    let events = good("opentelemetry", &body.to_string(), mapping);
    assert_eq!(
        events[0],
        json!({"tenant_id": "acme", "account_id": "north", "name": "order.paid", "user_id": "ann", "session_id": "s1",
               "occurred_at": "2026-03-02T09:15:00.123456Z", "event_id": made("opentelemetry:r-1"),
               "properties": {"severity": "INFO", "body": {"k": 1.5}, "session.id": "s1", "total": 500,
                              "tags": ["a", true], "service": "shop"}})
    );
    assert_eq!(
        pick(&events[1], &["name", "occurred_at", "properties"]),
        json!(["log", "2026-03-02T09:15:01Z", {"body": "hello", "service": "shop"}])
    );
}

#[test]
fn a_fault_names_the_path_and_costs_one_event() {
    let track = |id: u32, group: Value| json!({"type": "track", "event": "a", "messageId": id.to_string(), "timestamp": "2026-03-02T09:15:00Z", "context": {"groupId": group}});
    let text = json!([
        track(1, json!("north")),
        track(2, json!(null)),
        5,
        track(3, json!({"a": 1})),
        track(4, json!("x".repeat(300)))
    ]);
    let events = all("segment", &text.to_string(), "{}", HOME).unwrap();
    assert!(events[0].is_ok());
    let reasons: Vec<String> =
        events[1..].iter().map(|event| event.as_ref().unwrap_err().reason.clone()).collect();
    assert_eq!(reasons[0], "/context/groupId or /groupId is missing, which account_id is read from");
    assert_eq!(reasons[1], "event is a number, not an object");
    assert_eq!(reasons[2], "/context/groupId is an object, not a text or number");
    assert!(reasons[3].starts_with("account_id \"xxx"), "{}", reasons[3]);
    // Lines: one that is no JSON costs itself.
    let lines = format!("{}\n{{\"type\":\n{}", track(1, json!("n")), track(2, json!("n")));
    let events = all("segment", &lines, "{}", HOME).unwrap();
    assert_eq!(events.iter().filter(|event| event.is_ok()).count(), 2);
    assert!(events[1].as_ref().unwrap_err().reason.contains("is not JSON"));
    // Strings that Postgres can't store cost their event alone.
    let bad =
        json!([track(1, json!("n")), track(2, json!("n"))]).to_string().replacen("\"a\"", r#""\u0000""#, 1);
    let events = all("segment", &bad, "{}", HOME).unwrap();
    assert_eq!(events[0].as_ref().unwrap_err().sqlstate, "22P05");
    assert!(events[1].is_ok());
}

#[test]
fn what_nobody_can_read_is_an_error_of_the_call() {
    for (text, sqlstate) in [("", "22032"), ("{", "22032"), ("[object Object]", "22032"), ("a\nb", "22032")] {
        let error = all("segment", text, "{}", HOME).unwrap_err();
        assert!(error.starts_with(sqlstate), "{text}: {error}");
    }
    let many = format!("[{}1]", "1,".repeat(100_001));
    assert!(all("segment", &many, "{}", HOME).unwrap_err().starts_with("54000"));
    let wrong = json!({"batch": 5}).to_string();
    assert_eq!(fault("segment", &wrong, json!({})).1, "/batch");
    // What can't be told apart is kept as it came, with what was to come after it.
    let text = json!({"batch": 5, "properties": {"lot": 7}}).to_string();
    let mapping = Mapping::parse("{}").unwrap();
    let kept = translate(Format::of("segment").unwrap(), &text, ("m", &mapping), HOME, &limits(), &mut || {})
        .unwrap();
    let body = kept[0].body(&mut 0).unwrap();
    assert_eq!(
        serde_json::from_str::<Value>(&body).unwrap(),
        json!({"format": "segment", "mapping": "m", "tenant_id": HOME.tenant, "text": text})
    );
    // Whatever it says it is, it waits as what it came as.
    let posed =
        json!({"format": "tally", "mapping": "", "payload": {"tenant_id": "globex"}, "batch": 5}).to_string();
    let segment = Format::of("segment").unwrap();
    let kept = translate(segment, &posed, ("m", &mapping), HOME, &limits(), &mut || {}).unwrap();
    let body = kept[0].body(&mut 0).unwrap();
    let waiting = Waiting::read(&body).unwrap();
    assert_eq!(waiting.mapping, "m");
    let again = waiting.translate(segment, &mapping, HOME);
    assert_eq!(again.event(&mut FieldsParser::new(&limits())).unwrap_err().sqlstate, "22P02");
    // Whom it may name, an erasure finds.
    let named = named_in(&body, "user_id");
    assert!(named.contains(&"globex".to_owned()) && named.contains(&"5".to_owned()), "{named:?}");
    // Nor does a body that merely looks like one keep its own names to itself; a key is nobody.
    let posed =
        r#"{"format":"x","mapping":"y","text":"{\"userId\":\"bob\"}","tenant_id":"acme","user_id":"ann"}"#;
    assert_eq!(named_in(posed, "user_id"), ["ann", "bob"]);
    assert_eq!(named_in(posed, "tenant_id"), ["acme", "bob"]);
    // What is no event has the tenant that the mapping says, and names whom it has.
    let fixed = Mapping::parse(r#"{"tenant": {"value": "acme"}}"#).unwrap();
    let text = r#"{"batch":["ann@example.org",["bob"],{"type":"track","userId":"eve","properties":"x"}]}"#;
    let kept = translate(segment, text, ("m", &fixed), Home::default(), &limits(), &mut || {}).unwrap();
    for (one, name) in kept.iter().zip(["ann@example.org", "bob", "eve"]) {
        let body = one.body(&mut 0).unwrap();
        assert!(named_in(&body, "user_id").contains(&name.to_owned()), "{body}");
        assert_eq!(named_in(&body, "tenant_id")[..1], ["acme"], "{body}");
    }
    // An event of an array isn't a batch, nor when it is read again.
    for own in [json!(5), json!([{}, {}])] {
        let event = json!([{"batch": own, "type": "group", "groupId": "g", "messageId": "m", "timestamp": "2026-03-02T09:15:00Z"}]);
        good("segment", &event.to_string(), json!({"tenant": {"value": "acme"}, "account": {"value": "n"}}));
    }
}

#[test]
fn a_large_head_is_not_copied_for_ever() {
    // A hundred thousand records without a key, each of them with a megabyte of resource.
    let records = vec![json!({"timeUnixNano": "1772442900123456789"}); 100_000];
    let body = json!({"resourceLogs": [{"resource": {"attributes": [{"key": "a", "value": {"stringValue": "x".repeat(1 << 20)}}]},
                                        "scopeLogs": [{"logRecords": records}]}]});
    let mapping = json!({"account": {"value": "n"}, "properties": {"a": "/resource/attributes/a"}});
    let error = all("opentelemetry", &body.to_string(), &mapping.to_string(), HOME).unwrap_err();
    assert!(error.starts_with("54000"), "{error}");
}

#[test]
fn zones_and_homes_fill_what_is_missing() {
    let event =
        json!({"event": "a", "properties": {"time": "2026-03-02 09:15:00", "distinct_id": "u"}}).to_string();
    let mapping = json!({"zone": "+02:00", "event_id": "/event"}).to_string();
    let home = Home { tenant: Some("acme"), account: Some("north") };
    let events = all("mixpanel", &event, &mapping, home).unwrap();
    let event_of = events[0].as_ref().unwrap();
    assert_eq!(pick(event_of, &["account_id", "occurred_at"]), json!(["north", "2026-03-02T07:15:00Z"]));
    let nobody = all("mixpanel", &event, &mapping, Home::default()).unwrap().remove(0).unwrap_err();
    assert_eq!(
        nobody.reason,
        "event has no tenant_id: the format has no place for it, and no mapping names one"
    );
    let named = json!({"tenant": {"value": "other"}, "account": "/event"}).to_string();
    assert_eq!(all("mixpanel", &event, &named, home).unwrap()[0].as_ref().unwrap()["tenant_id"], "other");
}

/// JSON that is made of the keys that the formats look for.
fn likely() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "\\PC{0,8}".prop_map(Value::from),
        Just(json!("2026-03-02T09:15:00Z")),
        Just(json!("iglu:com.acme/a/jsonschema/1-0-0")),
    ];
    const KEYS: [&str; 32] = [
        "batch",
        "events",
        "type",
        "event",
        "properties",
        "traits",
        "context",
        "groupId",
        "userId",
        "messageId",
        "timestamp",
        "event_params",
        "key",
        "value",
        "string_value",
        "int_value",
        "resourceLogs",
        "resource",
        "scopeLogs",
        "logRecords",
        "attributes",
        "body",
        "kvlistValue",
        "arrayValue",
        "values",
        "intValue",
        "time",
        "specversion",
        "data",
        "schema",
        "unstruct_event",
        "event_timestamp",
    ];
    leaf.prop_recursive(6, 60, 6, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            proptest::collection::vec((0..KEYS.len(), inner), 0..8).prop_map(|members| members
                .into_iter()
                .map(|(key, value)| (KEYS[key].to_owned(), value))
                .collect()),
        ]
    })
}

proptest! {
    #[test]
    fn hostile_payloads_have_an_answer(document in likely(), cut in 0usize..400, tabs in 0usize..140) {
        let text = document.to_string();
        let cut = text.floor_char_boundary(cut.min(text.len()));
        let mapping = r#"{"account": {"value": "n"}, "properties": {"x": "/data/0/value"}}"#;
        for format in Format::names() {
            let _ = all(format, &text, mapping, HOME);
            let _ = all(format, &text[..cut], mapping, HOME);
            let _ = all(format, &format!("{text}\n{}\n{text}", &text[..cut]), mapping, HOME);
            let _ = all(format, &format!("{}{text}", "\t".repeat(tabs)), mapping, HOME);
        }
    }

    #[test]
    fn hostile_bytes_have_an_answer(text in "[\\[\\]{},:\"\\\\\t\n a1é]{0,80}") {
        for format in Format::names() {
            let _ = all(format, &text, "{}", HOME);
        }
    }

    #[test]
    fn hostile_mappings_have_an_answer(mapping in likely(), text in "\\PC{0,40}") {
        let _ = Mapping::parse(&mapping.to_string());
        let _ = Mapping::parse(&text);
    }
}

/// What the reader says of each event of a payload: nothing, or the SQLSTATE; and what quarantine keeps of it.
fn judged(format: &str, text: &str) -> Vec<(Option<&'static str>, String)> {
    let mapping = json!({"account": {"value": "n"}, "properties": {"of": "/resource/attributes/of"}});
    let mapping = Mapping::parse(&mapping.to_string()).unwrap();
    let translated =
        translate(Format::of(format).unwrap(), text, ("m", &mapping), HOME, &limits(), &mut || {});
    let translated = translated.unwrap();
    let limits = limits();
    let mut parser = FieldsParser::new(&limits);
    let one = |one: &tally_core::payload::Translated| {
        let event = one.event(&mut parser);
        (event.err().map(|rejection| rejection.sqlstate), one.body(&mut 0).unwrap())
    };
    translated.iter().map(one).collect()
}

fn told(judged: &[(Option<&'static str>, String)]) -> Vec<Option<&'static str>> {
    judged.iter().map(|(sqlstate, _)| *sqlstate).collect()
}

#[test]
fn what_events_share_is_judged_with_each_of_them() {
    let track = |user: &str| {
        format!(
            r#"{{"type":"track","event":"x","messageId":"{user}","userId":"{user}","timestamp":"2026-03-02T09:15:00Z"}}"#
        )
    };
    // Each waits for itself, with its user and with what it shares, and names nobody else.
    let text = format!(
        r#"{{"batch":[{},{}],"context":{{"ip":undefined,"app":"web"}}}}"#,
        track("ann"),
        track("bob")
    );
    let segment = judged("segment", &text);
    assert_eq!(told(&segment), [Some("22P02"); 2]);
    for ((_, body), (own, other)) in segment.iter().zip([("ann", "bob"), ("bob", "ann")]) {
        assert!(body.contains(r#""context":{"ip":undefined,"app":"web"}"#), "{body}");
        let named = named_in(body, "user_id");
        assert!(named.contains(&own.to_owned()) && !named.contains(&other.to_owned()), "{body}");
    }
    // What is none of its own, nor shared, costs no event.
    let beside = format!(r#"{{"sentAt":undefined,"batch":[{},{}]}}"#, track("ann"), track("bob"));
    assert_eq!(told(&judged("segment", &beside)), [None; 2]);
    // Of several resources, one's costs its own records.
    let record = |id: &str| json!({"timeUnixNano": "1772442900123456789", "attributes": [{"key": "log.record.uid", "value": {"stringValue": id}}]});
    let resource = |of: &str, ids: [&str; 2]| {
        json!({"resource": {"attributes": [{"key": "of", "value": {"stringValue": of}}]},
               "scopeLogs": [{"scope": {"name": "s"}, "logRecords": ids.map(record)}]})
    };
    let logs = json!({"resourceLogs": [resource("@", ["1", "2"]), resource("good", ["3", "4"])]}).to_string();
    let wrong = logs.replace("\"@\"", r#""\ud800""#);
    assert_eq!(told(&judged("opentelemetry", &wrong)), [Some("22P05"), Some("22P05"), None, None]);
    // And one that can't be told apart waits whole, and alone.
    let mut logs: Value = serde_json::from_str(&logs).unwrap();
    logs["resourceLogs"][0]["scopeLogs"] = json!("records of carl");
    let found = judged("opentelemetry", &logs.to_string());
    assert_eq!(told(&found), [Some("22023"), None, None]);
    assert!(found[0].1.contains("records of carl") && !found[0].1.contains("good"), "{}", found[0].1);
    assert!(found[0].1.contains(r#"\"of\""#), "with its resource: {}", found[0].1);
    logs["resourceLogs"][0]["scopeLogs"] = json!([{"logRecords": [record("1")]}, {"logRecords": 5}]);
    let found = judged("opentelemetry", &logs.to_string());
    assert_eq!(told(&found), [None, Some("22023"), None, None]);
    // Where several can't, at the place of the first.
    let scope = |id: &str| json!({"logRecords": [record(id)]});
    logs["resourceLogs"][0]["scopeLogs"] =
        json!([{"logRecords": 5}, scope("1"), {"logRecords": 6}, scope("2")]);
    assert_eq!(told(&judged("opentelemetry", &logs.to_string())), [Some("22023"), None, None, None, None]);
    logs["resourceLogs"][0]["scopeLogs"] =
        json!([scope("1"), {"logRecords": 5}, {"logRecords": 6}, scope("2")]);
    assert_eq!(told(&judged("opentelemetry", &logs.to_string())), [None, Some("22023"), None, None, None]);
    // What a format takes nothing from is the event's own all the same: it waits as it came, alone.
    let row = |id: u32, other: &str| {
        format!(
            r#"{{"event_timestamp":"1772442900123456","event_name":"v","user_pseudo_id":"u{id}","stream_id":"{id}",
                "event_params":[{{"key":"p","value":{{"string_value":"/a","int_value":{other}}}}}]}}"#
        )
    };
    let found = judged("ga4", &format!("[{}, {} ,{}]", row(1, "null"), row(2, "NaN"), row(3, "null")));
    assert_eq!(told(&found), [None, Some("22P02"), None]);
    let named = named_in(&found[1].1, "user_id");
    assert!(named.contains(&"u2".into()) && !named.iter().any(|name| ["u1", "u3"].contains(&&**name)));
    let kept: Value = serde_json::from_str(&found[1].1).unwrap();
    assert_eq!(kept["text"], row(2, "NaN"), "as it came");
}

#[test]
fn texts_and_numbers_are_one_key_at_one_path_alone() {
    let mapping = json!({"account": {"value": "n"}, "user": {"value": "u"}});
    let ids = |format: &str, event: &dyn Fn(&str) -> String| {
        [r#""1""#, "1", "1.0", r#""1.0""#]
            .map(|key| good(format, &event(key), mapping.clone())[0]["event_id"].clone())
    };
    let at_one_path = |key: &str| {
        format!(r#"{{"type":"track","event":"e","messageId":{key},"timestamp":"2026-03-02T09:15:00Z"}}"#)
    };
    let [text, number, long, other] = ids("segment", &at_one_path);
    assert_eq!([&text, &text], [&number, &long]);
    assert_ne!(text, other);
    let of_several = |key: &str| {
        format!(r#"{{"event":"e","properties":{{"distinct_id":"u","time":1772442900,"$insert_id":{key}}}}}"#)
    };
    let [text, number, long, other] = ids("mixpanel", &of_several);
    assert_eq!(number, long);
    assert!(text != number && text != other && number != other);
    let content = |key: &str| {
        format!(
            r#"[{{"event":"e","distinct_id":"u","timestamp":"2026-03-02T09:15:00Z","properties":{{"a":{key}}}}}]"#
        )
    };
    let [text, number, long, other] = ids("posthog", &content);
    assert_eq!(number, long);
    assert!(text != number && text != other && number != other);
}

#[test]
fn what_a_batch_shares_is_the_same_when_an_event_waits() {
    let batch = |shared: &Value, own: &Value| {
        let mut event = json!({"type": "track", "event": "e", "messageId": "m", "userId": "u", "timestamp": "2026-03-02T09:15:00Z"});
        event.as_object_mut().unwrap().extend(own.as_object().unwrap().clone());
        let mut batch = shared.clone();
        batch["batch"] = json!([event]);
        batch.to_string()
    };
    let mapping = json!({"account": {"value": "n"}, "properties":
        {"ctx": "/context", "lib": "/context/lib", "name": "/context/lib/name", "first": "/context/0", "second": "/context/1/a"}});
    let said = |shared: Value, own: Value| {
        let events = good("segment", &batch(&shared, &own), mapping.clone());
        events[0]["properties"].clone()
    };
    assert_eq!(
        said(json!({"context": {"lib": "x"}}), json!({"context": {"ip": "y"}})),
        json!({"ctx": {"ip": "y", "lib": "x"}, "lib": "x"})
    );
    assert_eq!(
        said(
            json!({"context": {"lib": {"name": "x", "v": 1}, "a": 1}}),
            json!({"context": {"lib": {"v": 2, "name": null}, "a": ""}})
        ),
        json!({"ctx": {"lib": {"v": 2, "name": "x"}, "a": 1}, "lib": {"v": 2, "name": "x"}, "name": "x"})
    );
    // What isn't an object goes before whole; null and the empty text before nothing.
    assert_eq!(said(json!({"context": {"lib": "x"}}), json!({"context": 5})), json!({"ctx": 5}));
    assert_eq!(
        said(json!({"context": [1, {"a": 2}]}), json!({"context": [3]})),
        json!({"ctx": [3], "first": 3})
    );
    assert_eq!(said(json!({"context": [1]}), json!({"context": {"a": 1}})), json!({"ctx": {"a": 1}}));
    assert_eq!(
        said(json!({"context": {"lib": "x"}}), json!({"context": null})),
        json!({"ctx": {"lib": "x"}, "lib": "x"})
    );
    assert_eq!(
        said(json!({"properties": {"a": 1, "b": 2}}), json!({"properties": {"b": 3}})),
        json!({"a": 1, "b": 3})
    );

    // All of two levels.
    let inner = [
        json!(null),
        json!(""),
        json!(1),
        json!("x"),
        json!([2, {"a": 3}]),
        json!({}),
        json!({"name": null}),
        json!({"name": "z", "v": 1}),
    ];
    let mut outer: Vec<Value> = inner.iter().map(|inner| json!({"lib": inner, "0": inner})).collect();
    outer.extend(inner.clone());
    for shared in &outer {
        for own in &outer {
            said(json!({"context": shared}), json!({"context": own}));
        }
        said(json!({}), json!({"context": shared}));
        said(json!({"context": shared}), json!({}));
    }
}

/// What many events share is not copied for each without end where it can't be read.
#[test]
fn what_cannot_be_read_is_copied_for_so_many_events_alone_as_are_counted() {
    let mapping = Mapping::parse(r#"{"account":{"value":"n"}}"#).unwrap();
    let many = vec!["1"; 50_000].join(",");
    let long = "x".repeat(50_000);
    let texts = [
        (
            "opentelemetry",
            format!(
                r#"{{"\x":0,"pad":"{long}","resourceLogs":[{{"scopeLogs":[{{"logRecords":[{many}]}}]}}]}}"#
            ),
        ),
        ("posthog", format!(r#"{{"batch":[{many}],"sent_at":{{"\x":1}},"pad":"{long}"}}"#)),
        (
            "opentelemetry",
            format!(
                r#"{{"resourceLogs":[{{"resource":{{"attributes":[{{"key":"a","value":{{"stringValue":"{long}"}},"junk":NaN}}]}},"scopeLogs":[{{"logRecords":[{many}]}}]}}]}}"#
            ),
        ),
    ];
    for (format, text) in texts {
        let found =
            translate(Format::of(format).unwrap(), &text, ("m", &mapping), HOME, &limits(), &mut || {});
        let told = found.map(|events| events.len()).map_err(|error| error.sqlstate);
        assert_eq!(told, Err("54000"), "{format}");
    }
    // Scopes that are none are told together, with their resource once.
    let text = format!(
        r#"{{"resourceLogs":[{{"resource":{{"attributes":[{{"key":"a","value":{{"stringValue":"{long}"}}}}]}},"scopeLogs":[{many}]}}]}}"#
    );
    let found =
        translate(Format::of("opentelemetry").unwrap(), &text, ("m", &mapping), HOME, &limits(), &mut || {});
    let found = found.unwrap();
    assert_eq!(found.len(), 1);
    assert!(found[0].body(&mut 0).unwrap().len() < 3 * text.len());
}
