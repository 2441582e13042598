//! One event by its id: what became of it, in scope, and fast among many.

use std::time::Instant;
use tally_server_tests::{Database, ingest, json_array, number};

fn id(n: usize) -> String {
    format!("00000000-0000-4000-8000-{n:012}")
}

fn event(tenant: &str, account: &str, n: usize) -> String {
    format!(
        r#"{{"tenant_id":"{tenant}","account_id":"{account}","name":"paid","event_id":"{}","occurred_at":"2026-0{}-03T09:15:00Z","properties":{{"n":{n}}}}}"#,
        id(n),
        1 + n % 6
    )
}

fn found(client: &mut impl postgres::GenericClient, call: &str) -> Vec<String> {
    let query = format!(
        "SELECT concat_ws('|', f.outcome, f.tenant_id, f.account_id, f.name, f.properties, f.\"position\", f.sqlstate)
           FROM tally.find_event({call}) AS f"
    );
    client
        .query(&query, &[])
        .unwrap_or_else(|problem| panic!("{call}: {problem:?}"))
        .iter()
        .map(|row| row.get(0))
        .collect()
}

#[test]
fn what_became_of_an_event_is_told_in_scope_alone() {
    let mut database = Database::new("find_event");
    let [acme, north, globex, analyst, outsider] = [
        ("acme", "tally_reader"),
        ("north", "tally_reader"),
        ("globex", "tally_reader"),
        ("analyst", "tally_analyst"),
        ("outsider", "tally_reader"),
    ]
    .map(|(name, group)| database.role(name, &[group]));
    let mut admin = database.superuser();
    admin
        .batch_execute(&format!(
            "SELECT tally.bind_role('{acme}', 'acme'), tally.bind_role('{north}', 'acme', 'north'), tally.bind_role('{globex}', 'globex')"
        ))
        .unwrap();
    let events = json_array(
        [event("acme", "north", 1), event("acme", "south", 2), event("globex", "g", 1)]
            .iter()
            .map(String::as_str),
    );
    assert_eq!(ingest(&mut admin, &events).unwrap().accepted, 3);
    // The same key with other content: a conflict, of the account that sent it.
    assert_eq!(ingest(&mut admin, &event("acme", "south", 2).replace("paid", "sold")).unwrap().conflicts, 1);
    assert_eq!(
        ingest(&mut admin, &event("acme", "south", 9).replace("2026-04", "1926-04")).unwrap().rejected,
        1
    );
    let call = |n: usize| format!("'{}'", id(n));

    let north_1 = "accepted|acme|north|paid|{\"n\": 1}";
    let south_2 = ["accepted|acme|south|paid|{\"n\": 2}", "conflict|acme|south|0|23505"];
    let mut client = database.connect(&acme);
    assert_eq!(found(&mut client, &call(1)), [north_1]);
    assert_eq!(found(&mut client, &call(2)), south_2);
    assert_eq!(found(&mut client, &call(9)).len(), 1);
    assert_eq!(found(&mut client, &call(3)), [""; 0]);
    assert_eq!(found(&mut client, "NULL"), [""; 0]);
    assert_eq!(found(&mut client, &format!("{}, 'acme'", call(1))), [north_1]);
    assert_eq!(found(&mut client, &format!("{}, 'globex'", call(1))), [""; 0], "another tenant's");
    let mut client = database.connect(&north);
    assert_eq!(found(&mut client, &call(1)), [north_1]);
    assert_eq!(found(&mut client, &call(2)), [""; 0], "another account's");
    assert_eq!(found(&mut client, &call(9)), [""; 0]);
    let mut client = database.connect(&globex);
    assert_eq!(found(&mut client, &call(1)), ["accepted|globex|g|paid|{\"n\": 1}"]);
    assert_eq!(found(&mut client, &call(2)), [""; 0]);
    let mut client = database.connect(&analyst);
    let mut transaction = client.transaction().unwrap();
    transaction.execute("SELECT tally.enter_global()", &[]).unwrap();
    assert_eq!(found(&mut transaction, &call(1)).len(), 2);
    assert_eq!(found(&mut transaction, &format!("{}, 'acme'", call(1))), [north_1]);
    transaction.commit().unwrap();
    let refused =
        database.connect(&outsider).query("SELECT tally.find_event($1::text::uuid)", &[&id(1)]).unwrap_err();
    assert_eq!(refused.code().unwrap().code(), "42501");

    // With its month the event goes; that it was accepted, and in which batch, stays.
    admin
        .batch_execute("SELECT tally.fold('usage'), tally.fold('session'), tally.fold('user_activity')")
        .unwrap();
    admin.batch_execute("SELECT tally.drop_raw('2026-07-01')").unwrap();
    assert_eq!(number(&mut admin, "SELECT count(*) FROM tally.events"), 0);
    assert_eq!(found(&mut database.connect(&acme), &call(1)), ["accepted|acme|north"]);
    assert_eq!(found(&mut database.connect(&north), &call(2)), [""; 0]);
    let whole = "SELECT batch_id > 0 AND ingested_at IS NOT NULL AND occurred_at IS NOT NULL FROM tally.find_event($1::text::uuid)";
    assert!(database.connect(&acme).query_one(whole, &[&id(1)]).unwrap().get::<_, bool>(0));
}

/// `TALLY_FIND_EVENTS` (100,000): 1,000,000 is the long form. A look-up in all of them takes a hundred times as long.
#[test]
fn one_event_among_many_is_found_in_a_fraction_of_the_time_of_reading_all() {
    let events: usize = std::env::var("TALLY_FIND_EVENTS").map_or(100_000, |events| events.parse().unwrap());
    let mut database = Database::new("find_speed");
    let [reader, trusted] = ["reader", "trusted"].map(|role| database.role(role, &["tally_reader"]));
    let mut admin = database.superuser();
    admin.execute("SELECT tally.bind_role($1::text::regrole, 'acme')", &[&reader]).unwrap();
    admin.execute("SELECT tally.trust_role($1::text::regrole)", &[&trusted]).unwrap();
    for first in (0..events).step_by(20_000) {
        let batch: Vec<String> = (first..first + 20_000)
            .map(|n| {
                let time = format!("T{:02}:{:02}:{:02}Z", n / 3600 % 24, n / 60 % 60, n % 60);
                event("acme", &format!("a{}", n % 5_000), n).replace("T09:15:00Z", &time)
            })
            .collect();
        assert_eq!(
            ingest(&mut admin, &json_array(batch.iter().map(String::as_str))).unwrap().accepted,
            20_000
        );
    }
    admin.batch_execute("ANALYZE tally.events").unwrap();
    let mut client = database.connect(&reader);
    let find = client.prepare("SELECT outcome FROM tally.find_event($1::text::uuid)").unwrap();
    let mut times: Vec<_> = (0..200)
        .map(|n| {
            let began = Instant::now();
            let rows = client.query(&find, &[&id(n * 7919 % events)]).unwrap();
            assert_eq!(rows.len(), 1);
            began.elapsed()
        })
        .collect();
    times.sort();
    println!("{events} events: median {:?}, slowest of 200 {:?}", times[100], times[199]);
    let mut whole: Vec<_> = (0..21)
        .map(|n| {
            let began = Instant::now();
            let query = "SELECT count(*) FROM tally.events WHERE event_id::text = $1";
            assert_eq!(client.query_one(query, &[&id(n * 7919 % events)]).unwrap().get::<_, i64>(0), 1);
            began.elapsed()
        })
        .collect();
    whole.sort();
    println!("all of them: median {:?}", whole[10]);
    // Times tell little where others use the machine: what counts is what is read. A bound login may not ask for that.
    let mut trusted = database.connect(&trusted);
    trusted.batch_execute("BEGIN; SELECT tally.enter('acme')").unwrap();
    let mut blocks = |query: &str| -> i64 {
        let explain = format!("EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {query}");
        let plan: serde_json::Value = trusted.query_one(&explain, &[]).unwrap().get(0);
        let of = |key: &str| plan[0]["Plan"][key].as_i64().unwrap();
        of("Shared Hit Blocks") + of("Shared Read Blocks")
    };
    let all = blocks(&format!("SELECT count(*) FROM tally.events WHERE event_id::text = '{}'", id(1)));
    // A session's first look-up reads the catalog, too.
    let found: Vec<_> = (0..21)
        .map(|n| blocks(&format!("SELECT outcome FROM tally.find_event('{}')", id(n * 7919 % events))))
        .collect();
    println!("blocks: {found:?} of {all}");
    assert!(found[1..].iter().all(|found| found * 5 < all), "{found:?} of {all} blocks");
}
