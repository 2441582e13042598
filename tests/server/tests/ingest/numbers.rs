//! Numbers keep all of their digits, whichever door they come by, and are judged by all of them.

use serde_json::json;
use tally_server_tests::{Database, ingest, number};

/// As a sender writes them.
const NUMBERS: [&str; 9] = [
    "12345678901234567890.123456789",
    "0.1",
    "-0",
    "-0.0",
    "18446744073709551617",
    "1e399",
    "-1.50e-20",
    "0.1000000000000000055511151231257827021181583404541015625",
    "9007199254740993",
];

fn event(id: usize, properties: &str) -> String {
    let event = json!({
        "tenant_id": "a", "account_id": "n", "name": "sale", "occurred_at": "2026-03-02T09:15:00Z",
        "event_id": format!("00000000-0000-4000-8000-{id:012}"), "properties": "@"
    });
    event.to_string().replace("\"@\"", properties)
}

#[test]
fn every_door_keeps_all_digits() {
    let database = Database::new("numbers");
    let mut client = database.superuser();
    let all = format!("{{\"deep\":[{}],\"n\":{}}}", NUMBERS.join(","), NUMBERS[0]);
    let payload = |format: &str, id: usize| match format {
        "tally" => event(id, &all),
        "segment" => format!(
            r#"{{"type":"track","event":"sale","messageId":"{id}","timestamp":"2026-03-02T09:15:00Z","properties":{all}}}"#
        ),
        "posthog" => {
            format!(
                r#"{{"event":"sale","uuid":"{id}","timestamp":"2026-03-02T09:15:00Z","properties":{all}}}"#
            )
        }
        "cloudevents" => format!(
            r#"{{"specversion":"1.0","type":"sale","source":"s","id":"{id}","time":"2026-03-02T09:15:00Z","data":{all}}}"#
        ),
        "amplitude" => format!(
            r#"{{"device_id":"d","insert_id":"{id}","event_type":"sale","time":1772442900123,"event_properties":{all}}}"#
        ),
        other => panic!("{other}"),
    };
    let literal = |text: &str| format!("'{text}'");
    let mut doors: Vec<(String, String)> = Vec::new();
    for kind in ["text", "json", "jsonb"] {
        doors.push((kind.into(), format!("tally.ingest({}::{kind})", literal(&event(doors.len(), &all)))));
    }
    let id = doors.len();
    doors.push((
        "typed".into(),
        format!("tally.ingest_events(ARRAY[{}::tally.event])", literal(&event(id, &all))),
    ));
    for format in ["tally", "segment", "posthog", "cloudevents", "amplitude"] {
        for kind in ["text", "jsonb"] {
            let payload = payload(format, doors.len());
            doors.push((
                format!("{format} as {kind}"),
                format!("tally.ingest_from('{format}', {}::{kind}::text, 'm_{format}')", literal(&payload)),
            ));
        }
        let define = "SELECT tally.define_mapping($1, $2, '{\"tenant\": {\"value\": \"a\"}, \"account\": {\"value\": \"n\"}}')";
        client.execute(define, &[&format!("m_{format}"), &format]).unwrap();
    }
    let exact = format!(
        "SELECT count(*) FROM tally.events WHERE properties::text = ({})::jsonb::text AND properties = ({0})::jsonb",
        literal(&all)
    );
    for (sent, (door, call)) in doors.iter().enumerate() {
        assert_eq!(number(&mut client, &format!("SELECT accepted FROM {call}")), 1, "{door}");
        assert_eq!(number(&mut client, &exact), sent as i64 + 1, "{door}");
    }
    let columns = "tenant_id, account_id, name, occurred_at, event_id, properties";
    let insert = |id: u32| {
        format!(
            "INSERT INTO tally.inbox ({columns}) VALUES ('a', 'n', 'sale', '2026-03-02T09:15:00Z', '00000000-0000-4000-9000-{id:012}', {})",
            literal(&all)
        )
    };
    client.batch_execute(&insert(1)).unwrap();
    client.batch_execute(&insert(2).replace(&literal(&all), &format!("{}::jsonb", literal(&all)))).unwrap();
    let copied = |id: u32, separator: &str, quoted: &str| {
        ["a", "n", "sale", "2026-03-02T09:15:00Z", &format!("00000000-0000-4000-9000-{id:012}"), quoted]
            .join(separator)
    };
    for (options, line) in [
        ("", copied(3, "\t", &all)),
        (" (FORMAT csv)", copied(4, ",", &format!("\"{}\"", all.replace('"', "\"\"")))),
    ] {
        use std::io::Write;
        let mut copy = client.copy_in(&format!("COPY tally.inbox ({columns}) FROM STDIN{options}")).unwrap();
        copy.write_all(format!("{line}\n").as_bytes()).unwrap();
        copy.finish().unwrap();
    }
    assert_eq!(number(&mut client, &exact), doors.len() as i64 + 4);
    // What has more digits than an event may have is refused by each, and waits as it was sent.
    let before = number(&mut client, "SELECT count(*) FROM tally.quarantine");
    let great = |call: &str| {
        call.replace(NUMBERS[5], "1e400").replace("00000000-0000-4000-8000", "00000000-0000-4000-a000")
    };
    for (door, call) in doors.iter().filter(|(door, _)| door != "typed") {
        assert_eq!(number(&mut client, &format!("SELECT rejected FROM {}", great(call))), 1, "{door}");
    }
    client.batch_execute(&great(&insert(5))).unwrap();
    let waiting = "SELECT count(*) FROM tally.quarantine WHERE sqlstate = '22003' AND (body LIKE '%1e400%' OR body LIKE '%' || repeat('0', 400) || '%')";
    assert_eq!(number(&mut client, waiting), before + doors.len() as i64);
}

#[test]
fn schemas_tell_numbers_by_all_digits() {
    let database = Database::new("numbers_judged");
    let mut client = database.superuser();
    client
        .batch_execute(
            r#"SELECT tally.register_event('sale', '{"properties": {"n": {"const": 18446744073709551617},
                 "great": {"type": "number", "minimum": 1e398}}}', 'for a test')"#,
        )
        .unwrap();
    for (id, properties, accepted) in [
        (1, r#"{"n":18446744073709551617}"#, 1),
        (2, r#"{"n":18446744073709551616}"#, 0),
        (3, r#"{"n":18446744073709551617.0,"great":1e399}"#, 1),
        (4, r#"{"great":1e397}"#, 0),
        // What stands for a number inside the judge's own library is an object like any other.
        (5, r#"{"n":{"$serde_json::private::Number":"18446744073709551617"}}"#, 0),
        (6, r#"{"n":{"$serde_json::private::RawValue":"18446744073709551617"}}"#, 0),
    ] {
        assert_eq!(ingest(&mut client, &event(id, properties)).unwrap().accepted, accepted, "{properties}");
    }
    let breaks = r#"SELECT tally.event_schema_breaks('{"maximum": 18446744073709551617}', '{"maximum": 18446744073709551616}')"#;
    assert_eq!(client.query_one(breaks, &[]).unwrap().get::<_, Vec<String>>(0).len(), 1);
}
