//! Rotating keys, and protecting what is stored, while events come in and the server is killed: nothing is lost, nothing is carried over
//! twice, and numbers stay what they were.

use crate::keyed::{KEY, Keyed, array, computed_in_python, event, maintain};
use postgres::Client;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use tally_server_tests::{PrivateServer, ingest, number, verify, wait_for};

fn mail(number: i64) -> String {
    format!("user{number}@planted.example")
}

fn sent(from: i64, to: i64) -> String {
    let one = |number: i64| {
        json!({
            "tenant_id": "a", "account_id": format!("n{}", number % 5), "name": "signup", "user_id": format!("u{}", number % 50),
            "occurred_at": format!("2026-0{}-02T09:15:00Z", number % 3 + 1), "event_id": format!("00000000-0000-4000-8000-{number:012}"),
            "properties": {"email": mail(number), "card": number, "number": number}
        })
    };
    array((from..to).map(one))
}

#[test]
fn what_was_stored_before_is_protected_in_steps_and_numbers_stay() {
    let keyed = Keyed::new("renewal");
    let mut client = keyed.database.superuser();
    let events: Vec<_> = (0..300)
        .map(|n| event("a", n, &format!("u{}", n % 40), json!({"email": mail(i64::from(n) % 60), "card": n})))
        .chain((300..320).map(|n| event("b", n, "u1", json!({"email": mail(1)}))))
        .chain((320..325).map(|n| event("a", n, "u\u{1}", json!({"email": mail(1)}))))
        .collect();
    assert_eq!(ingest(&mut client, &array(events.clone())).unwrap().accepted, 320);
    let users = "SELECT jsonb_agg(to_jsonb(u) ORDER BY u.day)::text FROM (SELECT bucket AS day, sum(events) AS events, sum(users) AS users
                   FROM tally.usage_day WHERE tenant_id = 'a' GROUP BY 1) AS u";
    let before: String = client.query_one(users, &[]).unwrap().get(0);
    let of_b =
        "SELECT md5(string_agg(e::text, ',' ORDER BY event_id)) FROM tally.events AS e WHERE tenant_id = 'b'";
    let untouched: String = client.query_one(of_b, &[]).unwrap().get(0);
    client
        .batch_execute(
            "SELECT tally.protect_property('signup', 'email', 'token', 'a'), tally.protect_property(NULL, 'card', 'seal', 'a'), tally.protect_user_ids('token', 'a')",
        )
        .unwrap();
    // A few rows a step, each of which may be the last one before a crash.
    let mut steps = 0;
    loop {
        let row = client.query_one("SELECT is_over FROM tally_internal.step_privacy('a', 7)", &[]).unwrap();
        if row.get(0) {
            break;
        }
        steps += 1;
        assert!(steps < 1000, "it comes to an end");
    }
    // Five accounts of a month would be less; ties at one moment are one step.
    assert!(steps > 5, "{steps}");
    let open = "SELECT count(*) FROM tally.events WHERE tenant_id = 'a' AND NOT (user_id LIKE 'tok.0.%' AND properties->>'email' LIKE 'tok.1.%'
                  AND properties->>'card' LIKE 'seal.1.%')";
    assert_eq!(number(&mut client, open), 0);
    assert_eq!(
        number(
            &mut client,
            "SELECT count(*) FROM tally.quarantine WHERE body NOT LIKE 'box.%' OR reason LIKE '%u%1%'"
        ),
        0
    );
    assert_eq!(client.query_one(of_b, &[]).unwrap().get::<_, String>(0), untouched);
    assert_eq!(client.query_one(users, &[]).unwrap().get::<_, String>(0), before);
    for rollup in ["usage", "user_activity", "session"] {
        assert!(verify(&mut client, rollup).is_empty(), "{rollup}");
    }
    // Nothing more is done, and what came before is still known.
    assert_eq!(ingest(&mut client, &array(events)).unwrap().duplicates, 320);
    client.batch_execute("SELECT tally.protect_property(NULL, 'card', 'token', 'a')").unwrap();
    maintain(&mut client);
    // From sealed to tokenised: it is opened for that.
    let wanted = computed_in_python(&mut client, "a", &[json!(17)], &[]);
    let token = wanted["properties"][0][0].as_str().unwrap().to_owned();
    let found = "SELECT count(*) FROM tally.events WHERE tenant_id = 'a' AND properties->>'card' = $1";
    assert_eq!(client.query_one(found, &[&token]).unwrap().get::<_, i64>(0), 1);
}

/// Another declaration begins the work anew: what the first one has changed is carried over to rollups all the same.
#[test]
fn a_declaration_in_the_middle_of_another_leaves_nothing_behind() {
    let keyed = Keyed::new("renewal_anew");
    let mut client = keyed.database.superuser();
    client
        .batch_execute("SELECT tally.create_rollup('mine', '{day}', dimensions => ARRAY['user_id'], measures => ARRAY['count(*) AS n'])")
        .unwrap();
    let sent = (0..90).map(|n| {
        let mut event = event("a", n, &format!("u{}", n % 7), json!({"card": n}));
        event["occurred_at"] = json!(format!("2026-{:02}-02T09:15:00Z", 1 + n / 30));
        event
    });
    assert_eq!(ingest(&mut client, &array(sent)).unwrap().accepted, 90);
    maintain(&mut client);
    client.batch_execute("SELECT tally.protect_user_ids('token', 'a')").unwrap();
    let renewed = "SELECT count(*) FROM tally.events WHERE user_id LIKE 'tok.0.%'";
    while number(&mut client, renewed) < 60 {
        client.batch_execute("SELECT tally_internal.step_privacy('a', 100)").unwrap();
    }
    assert_eq!(number(&mut client, renewed), 60, "of three months two are done");
    client.batch_execute("SELECT tally.protect_property('signup', 'card', 'seal', 'a')").unwrap();
    maintain(&mut client);
    assert_eq!(number(&mut client, renewed), 90);
    let kept = "SELECT count(*) FILTER (WHERE user_id LIKE 'tok.0.%') * 1000 + count(*) FROM tally.mine_day";
    assert_eq!(number(&mut client, kept), 21_021);
    assert!(verify(&mut client, "mine").is_empty());
}

/// Declared while the property was being tokenised, when some of its values still were as sent; then the declaration is taken back.
#[test]
fn what_was_tokenised_is_carried_over_though_it_is_protected_no_longer() {
    let keyed = Keyed::new("renewal_undeclared");
    let mut client = keyed.database.superuser();
    let sent = (0..90).map(|n| {
        let mut event = event("a", n, "u", json!({"card": format!("c{}", n % 7)}));
        event["occurred_at"] = json!(format!("2026-{:02}-02T09:15:00Z", 1 + n / 30));
        event
    });
    assert_eq!(ingest(&mut client, &array(sent)).unwrap().accepted, 90);
    client.batch_execute("SELECT tally.protect_property(NULL, 'card', 'token', 'a')").unwrap();
    let renewed = "SELECT count(*) FROM tally.events WHERE properties->>'card' LIKE 'tok.%'";
    let step =
        |client: &mut Client| client.batch_execute("SELECT tally_internal.step_privacy('a', 100)").unwrap();
    for _ in 0..100 {
        if number(&mut client, renewed) >= 60 {
            break;
        }
        step(&mut client);
    }
    assert_eq!(number(&mut client, renewed), 60, "of three months two are done");
    client
        .batch_execute("SELECT tally.create_rollup('cards', '{day}', dimensions => ARRAY['properties->>''card'' AS card'], measures => ARRAY['count(*) AS n'])")
        .unwrap();
    for _ in 0..100 {
        if number(&mut client, "SELECT stage::int8 FROM tally.privacy_renewal WHERE tenant_id = 'a'") >= 2 {
            break;
        }
        step(&mut client);
    }
    assert_eq!(number(&mut client, renewed), 90);
    assert!(!verify(&mut client, "cards").is_empty(), "the last month's values are in it as sent");
    client.batch_execute("SELECT tally.set_step_up_policy('unprotect', false), tally.unprotect_property(NULL, 'card', 'a')").unwrap();
    maintain(&mut client);
    assert!(verify(&mut client, "cards").is_empty());
    assert_eq!(number(&mut client, "SELECT count(*) FROM tally.cards_day WHERE card NOT LIKE 'tok.%'"), 0);
}

/// A rollup that counts by a token, declared after the property was protected.
#[test]
fn rollups_by_tokens_are_carried_over_and_what_is_not_is_told() {
    let mut keyed = Keyed::new("by_tokens");
    let role = keyed.database.role("admin", &["tally_admin"]);
    let mut client = keyed.database.superuser();
    client
        .batch_execute(
            // Where March has an hour less.
            "SET timezone = 'Europe/Berlin'; SELECT tally.protect_property(NULL, 'email', 'token', 'a'), tally.protect_user_ids('token', 'a');
             SELECT tally.create_rollup('mails', '{day}', dimensions => ARRAY['properties->>''email'' AS mail'], measures => ARRAY['count(*) AS n'])",
        )
        .unwrap();
    let send = |numbers: std::ops::Range<u32>, month: u32| {
        let events = numbers.map(|n| {
            let mut event = event("a", n, "u", json!({"email": mail(i64::from(n) % 3)}));
            event["occurred_at"] = json!(format!("2026-{month:02}-02T09:15:00Z"));
            event
        });
        let events = array(events.chain([json!({"tenant_id": "b", "account_id": "n", "name": "signup", "event_id": "00000000-0000-4000-8000-999999999999",
            "occurred_at": "2026-03-02T09:15:00Z", "properties": {"email": "plain"}})]));
        ingest(&mut keyed.database.superuser(), &events).unwrap();
    };
    send(0..30, 2);
    send(30..60, 3);
    let mut admin = keyed.database.connect(&role);
    admin.batch_execute("SELECT tally.rotate_keys('a')").unwrap();
    send(60..90, 3);
    maintain(&mut client);
    // By day and token, each once, under the newest key.
    let counted = "SELECT count(*) * 1000 + sum(n)::int8 FROM tally.mails_day WHERE tenant_id = 'a' AND mail LIKE 'tok.2.%'";
    assert_eq!(number(&mut client, counted), 6_090);
    assert_eq!(number(&mut client, "SELECT count(*) FROM tally.mails_day"), 7);
    assert_eq!(number(&mut client, "SELECT count(*) FROM tally.mails_day WHERE mail = 'plain' AND n = 1"), 1);
    assert!(verify(&mut client, "mails").is_empty());
    let told =
        "SELECT count(*) FROM tally.lint() WHERE name = 'privacy_left_behind' AND detail LIKE '%mails%a%'";
    assert_eq!(number(&mut client, told), 0);
    // Without the raw events of February, those of March are carried over, and which rollups keep the others' tokens is told.
    let by_year = "SELECT tally.create_rollup('yearly', '{year}', dimensions => ARRAY['properties->>''email'' AS mail'], measures => ARRAY['count(*) AS n'])";
    admin.batch_execute(by_year).unwrap();
    admin.batch_execute("CALL tally.maintain()").unwrap();
    admin.batch_execute("SELECT tally.drop_raw('2026-03-01'); SELECT tally.rotate_keys('a')").unwrap();
    maintain(&mut client);
    assert_eq!(number(&mut client, &counted.replace("tok.2", "tok.3")), 3_060);
    assert_eq!(number(&mut client, counted), 3_030);
    assert_eq!(number(&mut client, told), 1);
    assert_eq!(number(&mut client, &told.replace("mails", "yearly")), 1);
    assert_eq!(number(&mut client, "SELECT sum(n)::int8 FROM tally.yearly_year WHERE tenant_id = 'a'"), 90);
}

fn connect(server: &PrivateServer) -> Client {
    server.connect("postgres", "rotation")
}

#[test]
fn keys_rotate_under_load_over_kills_of_the_server() {
    let tokens: i64 =
        std::env::var("TALLY_PRIVACY_TOKENS").ok().and_then(|text| text.parse().ok()).unwrap_or(20_000);
    let server = PrivateServer::create("rotation", "fsync = off");
    server.connect("postgres", "postgres").batch_execute("CREATE DATABASE rotation").unwrap();
    let key = server.data().join("keys");
    let mut client = connect(&server);
    client
        .batch_execute(&format!(
            "COPY (SELECT '{KEY}') TO PROGRAM 'umask 077; cat > {0}'; CREATE EXTENSION pg_tally; SELECT tally.open_months('-infinity'); ALTER DATABASE rotation SET tally.key_file = '{0}'",
            key.display()
        ))
        .unwrap();
    let mut client = connect(&server);
    client
        .batch_execute("SELECT tally.protect_property(NULL, 'email', 'token'), tally.protect_property(NULL, 'card', 'seal'), tally.protect_user_ids(), tally.open_months('-infinity')")
        .unwrap();
    let half = tokens / 2;
    for from in (0..half).step_by(2_000) {
        ingest(&mut client, &sent(from, half.min(from + 2_000))).unwrap();
    }
    let (stop, halt) = (AtomicBool::new(false), AtomicBool::new(false));
    thread::scope(|scope| {
        // Whatever fails here, the threads end.
        let _halt = Halt(&halt);
        // Sends the other half, a piece again until it was answered, over the kills.
        let writer = scope.spawn(|| {
            let mut from = half;
            while from < tokens && !halt.load(Ordering::SeqCst) {
                let outcome = server.config("postgres", "rotation").connect(postgres::NoTls);
                let Ok(mut client) = outcome else {
                    thread::sleep(std::time::Duration::from_millis(50));
                    continue;
                };
                while from < tokens && ingest(&mut client, &sent(from, tokens.min(from + 500))).is_ok() {
                    from += 500;
                }
            }
            stop.store(true, Ordering::SeqCst);
        });
        for round in 0..3 {
            let mut client = connect(&server);
            client.batch_execute("SELECT tally.rotate_keys('a')").unwrap();
            // Some steps, and then the server goes down in the midst of one.
            let stepping = scope.spawn(|| {
                if let Ok(mut client) = server.config("postgres", "rotation").connect(postgres::NoTls) {
                    let step = "SELECT * FROM tally_internal.step_privacy('a', 500)";
                    while !halt.load(Ordering::SeqCst) && client.query(step, &[]).is_ok() {
                        thread::sleep(std::time::Duration::from_millis(5));
                    }
                }
            });
            if round < 2 {
                let some =
                    "SELECT count(*) FROM tally.privacy_renewal WHERE tenant_id = 'a' AND rows_read > 500";
                wait_for("some steps", || (number(&mut client, some) == 1).then_some(()));
                server.kill();
                stepping.join().unwrap();
                drop(client);
                // The killed one's processes may still have its memory.
                wait_for("the server", || {
                    thread::sleep(std::time::Duration::from_millis(200));
                    std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| server.start())).ok()
                });
            } else {
                // However long that is; one that fails ends, too.
                while !stop.load(Ordering::SeqCst) && !writer.is_finished() {
                    thread::sleep(std::time::Duration::from_millis(50));
                }
                drop(client);
                halt.store(true, Ordering::SeqCst);
                stepping.join().unwrap();
            }
        }
        writer.join().unwrap();
    });
    let mut client = connect(&server);
    maintain(&mut client);
    assert_eq!(number(&mut client, "SELECT count(*) FROM tally.events"), tokens);
    assert_eq!(number(&mut client, "SELECT newest::int8 FROM tally.privacy_key WHERE tenant_id = 'a'"), 4);
    assert_eq!(number(&mut client, "SELECT oldest::int8 FROM tally.privacy_key WHERE tenant_id = 'a'"), 4);
    // Every one, computed apart from this, over every epoch.
    let values: Vec<Value> = (0..tokens).map(|number| json!(mail(number))).collect();
    let wanted = computed_in_python(&mut client, "a", &values, &[]);
    let found: HashMap<i64, String> = client
        .query("SELECT (properties->>'number')::int8, properties->>'email' FROM tally.events", &[])
        .unwrap()
        .into_iter()
        .map(|row| (row.get(0), row.get(1)))
        .collect();
    let mismatches = (0..tokens).filter(|number| {
        found.get(number).map(String::as_str) != wanted["properties"][*number as usize][3].as_str()
    });
    assert_eq!(mismatches.count(), 0);
    assert_eq!(
        number(
            &mut client,
            "SELECT count(*) FROM tally.events WHERE properties->>'card' NOT LIKE 'seal.4.%'"
        ),
        0
    );
    // Sent again over every rotation: duplicates.
    let again = ingest(&mut client, &sent(0, 1_000)).unwrap();
    assert_eq!(again.duplicates, 1_000, "{again:?}");
    assert!(verify(&mut client, "usage").is_empty());
}

/// Tells the threads to end, also after a failure.
struct Halt<'a>(&'a AtomicBool);

impl Drop for Halt<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}
