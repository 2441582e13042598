//! After events with planted personal data: none of it is anywhere on the server.

use crate::keyed::{KEY, computed_in_python};
use postgres::Client;
use serde_json::{Value, json};
use std::io::Write;
use std::path::Path;
use std::process::Command;
use tally_server_tests::{PrivateServer, ingest, number, succeed};

/// Values that are looked for afterwards: planted in properties, user ids and events that end in quarantine.
fn planted(number: u64) -> [String; 4] {
    [
        format!("zq.mail{number}x@planted.example"),
        format!("Zqname Planted{number}x"),
        format!("98765{number:011}"),
        format!("zq-user-{number}x-planted"),
    ]
}

fn sent(number: u64) -> Value {
    let [mail, name, card, user] = planted(number);
    let mut event = json!({
        "tenant_id": (["a", "b", "c"][number as usize % 3]), "account_id": format!("n{}", number % 7), "name": "signup",
        "occurred_at": format!("2026-03-{:02}T09:15:00Z", number % 28 + 1), "user_id": user,
        "event_id": format!("00000000-0000-4000-8000-{number:012}"),
        "properties": {"email": mail, "who": {"name": name}, "cards": [card], "number": number}
    });
    match number % 20 {
        // A conflict with the one before.
        1 => {
            event["event_id"] = sent_id(number - 1);
            event["tenant_id"] = json!(["a", "b", "c"][(number as usize - 1) % 3]);
        }
        // No event: a field that there isn't, a time that isn't one, a wrong type, something that is no object.
        2 => event["phone"] = json!(user),
        3 => event["occurred_at"] = json!(name),
        4 => event["user_id"] = json!([mail]),
        5 => event["tenant_id"] = json!({"mail": mail}),
        6 => event = json!([mail, name]),
        7 => event["properties"] = json!(card),
        _ => {}
    }
    event
}

fn sent_id(number: u64) -> Value {
    json!(format!("00000000-0000-4000-8000-{number:012}"))
}

pub fn installed(server: &PrivateServer) -> Client {
    server.connect("postgres", "postgres").batch_execute("CREATE DATABASE privacy").unwrap();
    let mut client = server.connect("postgres", "privacy");
    let key = server.data().join("keys");
    client
        .batch_execute(&format!("COPY (SELECT '{KEY}') TO PROGRAM 'umask 077; cat > {0}'", key.display()))
        .unwrap();
    client
        .batch_execute(&format!(
            "CREATE EXTENSION pg_tally; SELECT tally.open_months('-infinity'); CREATE EXTENSION pg_stat_statements; ALTER DATABASE privacy SET tally.key_file = '{}'",
            key.display()
        ))
        .unwrap();
    server.connect("postgres", "privacy")
}

/// Files below a directory that hold one of the values.
fn found_in(folder: &Path, values: &Path) -> String {
    let output =
        Command::new("grep").args(["-raoF", "-m", "2", "-f"]).arg(values).arg(folder).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn planted_values_are_nowhere_on_the_server() {
    let events: u64 =
        std::env::var("TALLY_PRIVACY_EVENTS").ok().and_then(|text| text.parse().ok()).unwrap_or(5_000);
    let server = PrivateServer::create(
        "nowhere",
        "shared_preload_libraries = 'pg_stat_statements,pg_tally'\nwal_keep_size = 2GB\nlog_min_duration_statement = 0\nlog_parameter_max_length = 0\nwal_level = logical\n\
         track_activity_query_size = 65536",
    );
    let mut client = installed(&server);
    client
        .batch_execute(
            "SELECT tally.protect_property(NULL, 'email', 'token'), tally.protect_property(NULL, '/who/name', 'seal'),
                    tally.protect_property(NULL, 'cards', 'drop'), tally.protect_user_ids(), tally.open_months('-infinity')",
        )
        .unwrap();
    let mut counts = (0, 0, 0);
    let numbers: Vec<u64> = (0..events).collect();
    for batch in numbers.chunks(500) {
        let text = Value::Array(batch.iter().map(|&number| sent(number)).collect()).to_string();
        let outcome = ingest(&mut client, &text).unwrap();
        let details = outcome.details.unwrap_or_default().to_string();
        assert!(!details.contains("lanted"), "{}", &details[..details.len().min(500)]);
        counts = (counts.0 + outcome.accepted, counts.1 + outcome.conflicts, counts.2 + outcome.rejected);
    }
    assert_eq!(counts.0 + counts.1 + counts.2, events as i64);
    assert!(counts.1 > 0 && counts.2 > 5 * counts.1, "{counts:?}");
    // The bulk door, by rows that are sent while they are read, and calls that fail: what they say goes to the log.
    client.batch_execute("SELECT tally.set_quota('a', batch_events => 1)").unwrap();
    let [mail, name, card, user] = planted(events);
    let mut copy = client.copy_in("COPY tally.inbox FROM STDIN").unwrap();
    let row = |id: u64, user: &str| {
        format!(
            "a\tn\tsignup\t2026-03-02T09:15:00Z\t00000000-0000-4000-8000-{id:012}\t{user}\t\\N\t{{\"email\": \"{mail}\", \"who\": {{\"name\": \"{name}\"}}, \"cards\": {card}}}\n"
        )
    };
    copy.write_all((row(events, &user) + &row(events + 1, &format!("{user}{}", "x".repeat(300)))).as_bytes())
        .unwrap();
    copy.finish().unwrap();
    let strict = "SELECT * FROM tally.ingest($1::text, '{\"all_or_nothing\": true}')";
    for bad in
        [sent(2).to_string(), sent(3).to_string(), format!("{} \"{mail}\"", sent(0)), format!("\"{mail}\"")]
    {
        let error = client.query(strict, &[&bad]).expect_err("all or nothing");
        assert!(!error.as_db_error().unwrap().message().contains("lanted"), "{error}");
    }
    client.batch_execute("CALL tally.maintain()").unwrap();
    assert_eq!(
        number(&mut client, "SELECT count(*) FROM tally.redrive(max_events => 1000000) WHERE accepted = 0"),
        1
    );
    let quarantined = "SELECT count(*) FROM tally.quarantine WHERE body NOT LIKE 'box.%'";
    assert_eq!(number(&mut client, quarantined), 0);

    // Some tokens are right: computed apart from this.
    for place in [0, 1, 2] {
        let number = events / 4 / 60 * 60 * place + 9;
        let [mail, ..] = planted(number);
        let tenant = ["a", "b", "c"][number as usize % 3];
        let wanted = computed_in_python(&mut client, tenant, &[json!(mail)], &[]);
        let query = "SELECT count(*) FROM tally.events WHERE tenant_id = $1 AND properties->>'email' = $2";
        let token = wanted["properties"][0][0].as_str().unwrap().to_owned();
        assert_eq!(client.query_one(query, &[&tenant, &token]).unwrap().get::<_, i64>(0), 1, "{number}");
    }

    // What is in memory alone.
    let shown = "SELECT count(*) FROM pg_stat_activity AS a WHERE a.query ~ '(lanted[0-9]|98765[0-9]{11}|zq-user)' AND a.pid <> pg_backend_pid()";
    assert_eq!(number(&mut client, shown), 0);
    let statements =
        "SELECT count(*) FROM pg_stat_statements WHERE query ~ 'lanted[0-9]x|98765[0-9]{11}|zq-user-[0-9]'";
    assert_eq!(number(&mut client, statements), 0);
    client.batch_execute("CHECKPOINT").unwrap();
    let values = std::env::temp_dir().join(format!("tally_planted_{}", std::process::id()));
    let each: Vec<String> = (0..=events).flat_map(planted).collect();
    std::fs::write(&values, each.join("\n")).unwrap();
    let dump = server.data().join("dump.sql");
    succeed(server.client("pg_dump").args(["-d", "privacy", "-f"]).arg(&dump));
    server.stop();
    let found = found_in(server.data(), &values);
    // The search finds what is there.
    std::fs::write(server.data().join("planted.txt"), format!("x{}x", planted(3)[0])).unwrap();
    let control = found_in(server.data(), &values);
    std::fs::remove_file(&values).unwrap();
    assert_eq!(found.lines().take(20).collect::<Vec<_>>(), Vec::<&str>::new(), "found on disk");
    assert!(control.trim().ends_with(&planted(3)[0]), "{control}");
}
