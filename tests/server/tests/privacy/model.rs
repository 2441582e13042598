//! Erasure against a model: whatever happens in between, batches, folds, rebuilds, dropped months and kills, afterwards everything
//! is as in a database that never had the subjects.

use crate::erasure::{Bench, traces};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};
use tally_server_tests::{PrivateServer, assert_same, ingest, number, seeded};
use tally_workload::Random;

const USERS: u64 = 12;
const SUBJECTS: u64 = 4;

fn user(number: u64) -> String {
    format!("person-{number}-x")
}

fn event(n: u64, random: &mut Random) -> Value {
    let month = 1 + random.below(3);
    json!({
        "tenant_id": "t", "account_id": format!("a{}", random.below(3)), "name": format!("n{}", n % 3),
        "event_id": format!("00000000-0000-4000-8000-{n:012x}"),
        "occurred_at": format!("2026-0{month}-{:02}T{:02}:{:02}:00Z", 1 + random.below(28), random.below(24), random.below(60)),
        "user_id": user(random.below(USERS as usize) as u64), "session_id": format!("s{}", n / 2),
        "properties": {"value": random.below(1_000), "amount": 1, "currency": "EUR"},
    })
}

/// What must be the same: everything, or where January is gone, what begins later and what is kept by user.
fn comparable(bench: &Bench, is_dropped: bool) -> Vec<String> {
    let is_kept = |line: &String| {
        let (table, row) = line.split_once(' ').unwrap();
        let row: Value = serde_json::from_str(row).unwrap();
        !is_dropped
            || table.starts_with("user_activity")
            || table.starts_with("session")
            // A week may begin in January and end in February.
            || row["bucket"].as_str().unwrap() >= "2026-02-02"
    };
    bench.numbers(false).into_iter().filter(is_kept).collect()
}

#[test]
fn a_database_with_erasures_equals_one_that_never_had_the_subjects() {
    let steps: u64 = std::env::var("TALLY_MODEL_STEPS").map_or(24, |text| text.parse().expect("a number"));
    let (with, without) = (Bench::new("model"), Bench::new("model_never"));
    let mut random = seeded();
    let subjects: BTreeSet<String> = (0..SUBJECTS).map(user).collect();
    let mut waiting: Vec<String> = subjects.iter().cloned().collect();
    let mut erased: BTreeSet<String> = BTreeSet::new();
    let (mut next, mut is_dropped) = (0_u64, false);
    for step in 0..steps {
        let choice = random.below(10);
        match choice {
            0..5 => {
                let events: Vec<Value> =
                    (0..1 + random.below(60) as u64).map(|n| event(next + n, &mut random)).collect();
                next += events.len() as u64;
                let is = |event: &&Value, users: &BTreeSet<String>| {
                    users.contains(event["user_id"].as_str().unwrap())
                };
                let refused = events.iter().filter(|event| is(event, &erased)).count() as i64;
                let sent = with.send(&events);
                assert_eq!((sent.rejected, sent.accepted), (refused, events.len() as i64 - refused));
                let rest: Vec<Value> = events.iter().filter(|event| !is(event, &subjects)).cloned().collect();
                if !rest.is_empty() {
                    without.send(&rest);
                }
            }
            5 => with.fold(),
            6 => {
                let rollup = &with.rollups()[random.below(6)];
                with.admin().execute("SELECT tally.rebuild_rollup($1)", &[rollup]).unwrap();
            }
            7 if step > steps / 2 && !is_dropped => {
                is_dropped = true;
                for bench in [&with, &without] {
                    bench.fold();
                    bench.admin().batch_execute("SELECT tally.drop_raw('2026-02-01')").unwrap();
                }
            }
            _ => {
                let Some(subject) = waiting.pop() else { continue };
                if random.below(2) == 0 {
                    with.erase("t", &subject);
                } else {
                    with.admin()
                        .execute("SELECT tally.erase_subjects('t', ARRAY[$1], 'model')", &[&subject])
                        .unwrap();
                }
                erased.insert(subject);
            }
        }
    }
    with.admin().execute("SELECT tally.erase_subjects('t', $1, 'model')", &[&waiting]).unwrap();
    with.admin().batch_execute("CALL tally.maintain()").unwrap();
    without.admin().batch_execute("CALL tally.maintain()").unwrap();
    with.verify();
    assert_same("with and without", &comparable(&without, is_dropped), &comparable(&with, is_dropped));
    let mut superuser = with.database.superuser();
    assert_eq!(
        number(&mut superuser, "SELECT count(*) FROM tally.erasure WHERE finished_at IS NOT NULL"),
        SUBJECTS as i64
    );
    with.admin().batch_execute("CALL tally.maintain()").unwrap();
    for subject in &subjects {
        assert_eq!(traces(&mut superuser, subject), Vec::<String>::new());
    }
}

/// A session and its process, however long recovery takes: whoever is killed takes every session with it.
fn connect_again(config: &postgres::Config) -> (postgres::Client, i32) {
    let until = Instant::now() + Duration::from_secs(300);
    loop {
        if let Ok(mut client) = config.connect(postgres::NoTls)
            && let Ok(row) = client.query_one("SELECT pg_backend_pid()", &[])
        {
            return (client, row.get(0));
        }
        assert!(Instant::now() < until, "the server did not come back");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_run_goes_on_after_kills() {
    let server = PrivateServer::create("erasing", "shared_preload_libraries = 'pg_tally'");
    let mut client = server.connect("postgres", "postgres");
    client.batch_execute("CREATE DATABASE shop").unwrap();
    client.batch_execute("CREATE ROLE app LOGIN; CREATE ROLE dba LOGIN").unwrap();
    let mut superuser = server.connect("postgres", "shop");
    superuser
        .batch_execute(
            "CREATE EXTENSION pg_tally; SELECT tally.open_months('-infinity'); GRANT tally_writer TO app; GRANT tally_admin TO dba; SELECT tally.trust_role('app');
             SELECT tally.set_step_up_policy('erase_subject', false), tally.open_months('-infinity')",
        )
        .unwrap();
    let mut random = seeded();
    let events: Vec<Value> = (0..3_000).map(|n| event(n, &mut random)).collect();
    for batch in events.chunks(1_000) {
        ingest(&mut server.connect("app", "shop"), &Value::from(batch.to_vec()).to_string()).unwrap();
    }
    let named: Vec<String> = (0..SUBJECTS).map(user).collect();
    server
        .connect("dba", "shop")
        .execute("SELECT tally.erase_subjects('t', $1, 'kills')", &[&named])
        .unwrap();
    drop(superuser);
    drop(client);
    for _ in 0..3 {
        let config = server.config("dba", "shop");
        let (tell, told) = std::sync::mpsc::channel();
        let worker = std::thread::spawn(move || {
            let (mut client, pid) = connect_again(&config);
            tell.send(pid).unwrap();
            // Ends with the connection, or with the work.
            let _ = client.batch_execute("CALL tally.maintain(20)");
        });
        let pid = told.recv().unwrap();
        std::thread::sleep(Duration::from_millis(20 + random.below(400) as u64));
        let is_there = format!("SELECT count(*) FROM pg_stat_activity WHERE pid = {pid} AND usename = 'dba'");
        let (mut client, _) = connect_again(&server.config("postgres", "shop"));
        if client.query_one(&is_there, &[]).is_ok_and(|row| row.get::<_, i64>(0) > 0) {
            let _ = std::process::Command::new("kill").args(["-9", &pid.to_string()]).output();
        }
        worker.join().unwrap();
    }
    let (mut dba, _) = connect_again(&server.config("dba", "shop"));
    for _ in 0..2 {
        dba.batch_execute("CALL tally.maintain()").unwrap();
    }
    let mut superuser = server.connect("postgres", "shop");
    assert_eq!(
        number(&mut superuser, "SELECT count(*) FROM tally.erasure WHERE finished_at IS NOT NULL"),
        SUBJECTS as i64
    );
    assert_eq!(
        number(&mut superuser, "SELECT count(*) FROM tally.audit_entry WHERE act = 'subject_erased'"),
        SUBJECTS as i64
    );
    let rest =
        events.iter().filter(|event| !named.iter().any(|name| event["user_id"] == json!(name))).count();
    assert_eq!(number(&mut superuser, "SELECT count(*) FROM tally.events"), rest as i64);
    let removed = "SELECT sum((certificate ->> 'events_removed')::int8)::int8 FROM tally.erasure";
    assert_eq!(number(&mut superuser, removed), (events.len() - rest) as i64);
    for subject in &named {
        assert_eq!(traces(&mut superuser, subject), Vec::<String>::new());
    }
    let mut transaction = dba.transaction().unwrap();
    transaction.execute("SELECT tally.enter_global()", &[]).unwrap();
    for rollup in ["usage", "user_activity", "session", "payment"] {
        let wrong = transaction.query("SELECT * FROM tally.verify_rollup($1)", &[&rollup]).unwrap();
        assert!(wrong.is_empty(), "{rollup}");
    }
}
