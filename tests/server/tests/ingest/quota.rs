//! Quotas: over one a call is refused whole, with the time to retry; a tenant's flood costs the others nothing.

use postgres::{Client, Error};
use serde_json::{Value, json};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use tally_server_tests::{Database, fold_all, ingest, number, wait_for};

static NEXT: AtomicI64 = AtomicI64::new(0);

/// So many new events of a tenant.
fn batch(tenant: &str, events: i64, properties: Value) -> String {
    let event = |_| {
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        json!({"tenant_id": tenant, "account_id": "north", "name": "run", "occurred_at": "2026-03-02T09:15:00Z",
               "event_id": format!("00000000-0000-4000-8000-{id:012}"), "properties": properties})
    };
    Value::Array((0..events).map(event).collect()).to_string()
}

fn sqlstate(error: &Error) -> &str {
    error.as_db_error().unwrap_or_else(|| panic!("{error}")).code().code()
}

#[test]
fn over_the_rate_a_call_is_refused_whole_until_tokens_are_back() {
    let database = Database::new("rate");
    let mut client = database.superuser();
    let mut other = database.superuser();
    // A session's first call takes longer than others.
    for session in [&mut client, &mut other] {
        assert_eq!(ingest(session, &batch("a", 1, json!({}))).unwrap().accepted, 1);
    }
    // 120 a minute are 2 a second; 50 at once. Few enough that none are back before the call that is to be refused.
    client.batch_execute("SELECT tally.set_quota('a', 120, burst => 50)").unwrap();
    let error = ingest(&mut other, &batch("a", 51, json!({}))).unwrap_err();
    assert_eq!(sqlstate(&error), "53400");
    assert!(error.as_db_error().unwrap().hint().unwrap().contains("smaller batches"));
    let began = Instant::now();
    assert_eq!(ingest(&mut other, &batch("a", 40, json!({}))).unwrap().accepted, 40);
    assert_eq!(ingest(&mut client, &batch("a", 10, json!({}))).unwrap().accepted, 10);
    let mut taken = 50.0;
    let mut refused = 0;
    let text = batch("a", 10, json!({}));
    // Retried as the hint says, it goes in; meanwhile nothing of it is stored.
    loop {
        match ingest(&mut other, &text) {
            Ok(summary) => {
                assert_eq!(summary.accepted, 10);
                taken += 10.0;
                break;
            }
            Err(error) => {
                refused += 1;
                assert_eq!(sqlstate(&error), "53400");
                let hint = error.as_db_error().unwrap().hint().unwrap().to_owned();
                let seconds: u64 =
                    hint.trim_start_matches("retry in ").trim_end_matches(" s").parse().unwrap();
                assert!((1..=5).contains(&seconds), "the time for ten at most, rounded up: {seconds}");
                thread::sleep(Duration::from_secs(seconds));
            }
        }
    }
    assert!(refused >= 1 && taken <= 50.0 + 2.0 * began.elapsed().as_secs_f64() + 1.0);
    // Other tenants aren't asked; a batch of several is refused whole for the sake of one.
    assert_eq!(ingest(&mut other, &batch("b", 200, json!({}))).unwrap().accepted, 200);
    let mixed = format!(
        "{},{}",
        batch("a", 40, json!({})).trim_end_matches(']'),
        batch("b", 1, json!({})).trim_start_matches('[')
    );
    let before = number(&mut client, "SELECT count(*) FROM tally.ingest_batch");
    assert_eq!(sqlstate(&ingest(&mut other, &mixed).unwrap_err()), "53400");
    assert_eq!(number(&mut client, "SELECT count(*) FROM tally.ingest_batch"), before);
    // What was rolled back was not taken.
    client.batch_execute("SELECT tally.set_quota('c', 60, burst => 5)").unwrap();
    for _ in 0..3 {
        let mut transaction = other.transaction().unwrap();
        assert_eq!(ingest(&mut transaction, &batch("c", 5, json!({}))).unwrap().accepted, 5);
        transaction.rollback().unwrap();
    }
    client.batch_execute("SELECT tally.set_quota('a'), tally.set_quota('c')").unwrap();
    assert_eq!(ingest(&mut other, &batch("a", 500, json!({}))).unwrap().accepted, 500);
}

/// Sends single events as long as they go in; how many, and the seconds after which the next would.
fn send_until_refused(client: &mut Client, tenant: &str, most: usize) -> (usize, Option<u64>) {
    for sent in 0..most {
        if let Err(error) = ingest(client, &batch(tenant, 1, json!({}))) {
            assert_eq!(sqlstate(&error), "53400");
            let hint = error.as_db_error().unwrap().hint().unwrap().to_owned();
            return (
                sent,
                Some(hint.trim_start_matches("retry in ").trim_end_matches(" s").parse().unwrap()),
            );
        }
    }
    (most, None)
}

#[test]
fn a_quota_that_replaces_another_bears_none_of_its_takes() {
    let mut database = Database::new("rate_replaced");
    let mut admin = database.superuser();
    let mut writer = |topic: &str, tenant: &str| {
        let writer = database.role(topic, &["tally_writer"]);
        admin.execute("SELECT tally.bind_role($1::text::regrole, $2)", &[&writer, &tenant]).unwrap();
        database.connect(&writer)
    };
    let (mut a, mut a_again, mut b, mut c) =
        (writer("a", "a"), writer("again", "a"), writer("b", "b"), writer("c", "c"));
    // Lowered: what was within the old one is no debt, and tokens that a session took ahead are worth nothing. 60 a minute are 1 a second.
    admin.batch_execute("SELECT tally.set_quota('a', events_per_minute => 600000)").unwrap();
    for _ in 0..2 {
        assert_eq!(ingest(&mut a, &batch("a", 1000, json!({}))).unwrap().accepted, 1000);
        assert_eq!(ingest(&mut a_again, &batch("a", 1, json!({}))).unwrap().accepted, 1);
    }
    // Nor what a transaction took that ends later.
    let mut open = a_again.transaction().unwrap();
    assert_eq!(ingest(&mut open, &batch("a", 1000, json!({}))).unwrap().accepted, 1000);
    admin.batch_execute("SELECT tally.set_quota('a', events_per_minute => 60, burst => 10)").unwrap();
    let began = Instant::now();
    let (sent, wait) = send_until_refused(&mut a, "a", 100);
    let back = began.elapsed().as_secs() as usize + 1;
    assert!((10..=10 + back).contains(&sent) && wait == Some(1), "{sent} sent, {wait:?}");
    open.commit().unwrap();
    let (sent, wait) = send_until_refused(&mut a_again, "a", 100);
    assert!(sent <= 2 && wait == Some(1), "{sent} sent, {wait:?}");
    // Removed and set again, or set to what it is, it gives nothing away and takes nothing.
    for statement in [
        "SELECT tally.set_quota('a'); SELECT tally.set_quota('a', events_per_minute => 60, burst => 10)",
        "SELECT tally.set_quota('a', events_per_minute => 60, burst => 10, batch_events => 1000)",
    ] {
        admin.batch_execute(statement).unwrap();
        let (sent, wait) = send_until_refused(&mut a, "a", 100);
        assert!(sent <= 2 && wait == Some(1), "{sent} sent, {wait:?}");
    }
    // Raised: the new one begins full.
    admin.batch_execute("SELECT tally.set_quota('a', events_per_minute => 6000, burst => 300)").unwrap();
    assert_eq!(ingest(&mut a, &batch("a", 300, json!({}))).unwrap().accepted, 300);
    // Everyone's, by another burst alone, and with many takes, which are merged.
    admin.batch_execute("SELECT tally.set_quota(NULL, events_per_minute => 60000, burst => 60000)").unwrap();
    for _ in 0..150 {
        assert_eq!(ingest(&mut b, &batch("b", 63, json!({}))).unwrap().accepted, 63);
    }
    assert!(number(&mut admin, "SELECT count(*) FROM tally.quota_take WHERE tenant_id = 'b'") < 70);
    admin.batch_execute("SELECT tally.set_quota(NULL, events_per_minute => 60, burst => 5)").unwrap();
    for (tenant, client) in [("b", &mut b), ("c", &mut c)] {
        let (sent, wait) = send_until_refused(client, tenant, 100);
        assert!((5..=7).contains(&sent) && wait == Some(1), "{tenant}: {sent} sent, {wait:?}");
    }
}

#[test]
fn the_rate_holds_over_sessions_and_its_takes_are_merged() {
    let database = Database::new("rate_sessions");
    let mut client = database.superuser();
    // 6,000 a minute are 100 a second.
    client.batch_execute("SELECT tally.set_quota(NULL, 6000, burst => 100)").unwrap();
    let (stop, accepted) = (AtomicBool::new(false), AtomicI64::new(0));
    let began = Instant::now();
    let connecting = AtomicI64::new(8);
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let mut client = database.superuser();
                connecting.fetch_sub(1, Ordering::SeqCst);
                while !stop.load(Ordering::Relaxed) {
                    match ingest(&mut client, &batch("a", 1, json!({}))) {
                        Ok(summary) => {
                            accepted.fetch_add(summary.accepted, Ordering::Relaxed);
                        }
                        Err(error) => {
                            assert_eq!(sqlstate(&error), "53400");
                            thread::sleep(Duration::from_millis(5));
                        }
                    }
                }
            });
        }
        while connecting.load(Ordering::SeqCst) > 0 {
            thread::sleep(Duration::from_millis(1));
        }
        thread::sleep(Duration::from_secs(4));
        stop.store(true, Ordering::Relaxed);
    });
    let seconds = began.elapsed().as_secs_f64();
    let accepted = accepted.load(Ordering::Relaxed);
    println!("{accepted} accepted in {seconds:.1} s at 100 a second and 100 at once");
    // What eight sessions may take without knowing of each other: about 7 events each, and what they hold unused.
    assert!((accepted as f64) < 100.0 + 100.0 * seconds + 8.0 * 7.0, "{accepted} in {seconds} s");
    assert!((accepted as f64) > 100.0 * seconds * 0.2, "{accepted} in {seconds} s");
    assert_eq!(number(&mut client, "SELECT count(*) FROM tally.events"), accepted);
    assert!(number(&mut client, "SELECT count(*) FROM tally.quota_take") < 200);
    assert_eq!(number(&mut client, "SELECT count(*) FROM tally.quota_state"), 1);
}

#[test]
fn batches_properties_and_quarantine_have_limits_of_a_tenants_own() {
    let mut database = Database::new("sizes");
    let writer = database.role("writer", &["tally_writer"]);
    let mut admin = database.superuser();
    admin.execute("SELECT tally.bind_role($1::text::regrole, 'a')", &[&writer]).unwrap();
    admin
        .batch_execute(
            "SELECT tally.set_quota('a', batch_events => 100, properties_kb => 1, quarantine_events => 50)",
        )
        .unwrap();
    let mut client = database.connect(&writer);
    assert_eq!(sqlstate(&ingest(&mut client, &batch("a", 101, json!({}))).unwrap_err()), "53400");
    assert_eq!(ingest(&mut client, &batch("a", 100, json!({}))).unwrap().accepted, 100);
    // Larger properties: the event alone is rejected.
    let large = json!({"text": "x".repeat(2_000)});
    let summary = ingest(&mut client, &batch("a", 1, large)).unwrap();
    assert_eq!((summary.accepted, summary.rejected), (0, 1));
    assert_eq!(
        admin.query_one("SELECT sqlstate FROM tally.quarantine", &[]).unwrap().get::<_, &str>(0),
        "53400"
    );
    // Rubbish: taken up to about the limit, and then refused; good events go in all the same.
    let rubbish = format!("[{}]", ["{}"; 10].join(","));
    let refused = (0..20).filter(|_| ingest(&mut client, &rubbish).is_err()).count();
    let kept = number(&mut admin, "SELECT count(*) FROM tally.quarantine WHERE tenant_id = 'a'");
    assert!(refused >= 13 && (41..=80).contains(&kept), "{refused} refused, {kept} kept");
    assert_eq!(ingest(&mut client, &batch("a", 10, json!({}))).unwrap().accepted, 10);
    assert!(number(&mut client, "SELECT tally.discard('rubbish')") == kept);
    assert_eq!(ingest(&mut client, &rubbish).unwrap().rejected, 10);
    // A bulk load goes in, in batches of that size.
    let mut copy = admin
        .copy_in("COPY tally.inbox (tenant_id, account_id, name, occurred_at, event_id) FROM STDIN")
        .unwrap();
    for row in 0..100 {
        let line = format!("a\tnorth\trun\t2026-03-02T09:15:00Z\t00000000-0000-4000-9000-{row:012}\n");
        std::io::Write::write_all(&mut copy, line.as_bytes()).unwrap();
    }
    assert_eq!(copy.finish().unwrap(), 100);
    // A tenant neither sees nor sets quotas.
    for statement in [
        "SELECT tally.set_quota('a')",
        "SELECT count(*) FROM tally.quota",
        "SELECT tally_internal.write_quota('a', 1, 1, 1, 1, 1)",
    ] {
        assert_eq!(sqlstate(&client.query(statement, &[]).unwrap_err()), "42501", "{statement}");
    }
    for (call, wanted) in [("'a', 0", "23514"), ("'a', burst => 5", "23514"), ("E'\\x01', 5", "22023")] {
        assert_eq!(
            sqlstate(&admin.query(&format!("SELECT tally.set_quota({call})"), &[]).unwrap_err()),
            wanted,
            "{call}"
        );
    }
}

/// Sends single bad events as a session's tenant; says how many are taken.
fn send_rubbish(client: &mut Client, calls: usize) -> usize {
    let send = client.prepare("SELECT * FROM tally.ingest('{}')").unwrap();
    let mut taken = 0;
    for _ in 0..calls {
        match client.execute(&send, &[]) {
            Ok(_) => taken += 1,
            Err(error) => assert_eq!(sqlstate(&error), "53400"),
        }
    }
    taken
}

#[test]
fn the_limit_of_the_quarantine_bounds_it() {
    let mut database = Database::new("quarantine_limit");
    let mut admin = database.superuser();
    let writers: Vec<String> = ["acme", "globex", "initech", "hooli"]
        .iter()
        .map(|tenant| {
            let writer = database.role(tenant, &["tally_writer"]);
            admin.execute("SELECT tally.bind_role($1::text::regrole, $2)", &[&writer, tenant]).unwrap();
            writer
        })
        .collect();
    let kept = |admin: &mut Client, tenant: &str| {
        number(admin, &format!("SELECT count(*) FROM tally.quarantine WHERE tenant_id = '{tenant}'"))
    };
    // One session, one event a call: exactly as many as may be.
    admin.batch_execute("SELECT tally.set_quota('acme', quarantine_events => 1000)").unwrap();
    let mut client = database.connect(&writers[0]);
    assert_eq!(send_rubbish(&mut client, 1500), 1000);
    assert_eq!(kept(&mut admin, "acme"), 1000);
    // Also with the first look of a session, and in sessions of one call.
    for _ in 0..5 {
        assert_eq!(send_rubbish(&mut database.connect(&writers[0]), 1), 0);
    }
    // A good event goes in all the same; and once there is room, as much as that.
    assert_eq!(ingest(&mut client, &batch("acme", 1, json!({}))).unwrap().accepted, 1);
    let discard = "WITH picked AS MATERIALIZED (SELECT batch_id FROM tally.quarantine WHERE tenant_id = 'acme' ORDER BY batch_id LIMIT 30) \
                   SELECT sum(tally.discard('rubbish', batch_id))::int8 FROM picked";
    assert_eq!(number(&mut admin, discard), 30);
    let mut taken = 0;
    wait_for("the room to be seen", || {
        taken += send_rubbish(&mut client, 5);
        (taken == 30).then_some(())
    });
    assert_eq!(send_rubbish(&mut client, 20), 0);
    assert_eq!(kept(&mut admin, "acme"), 1000);
    // More than there is room for is refused whole, and what still fits goes in.
    for limit in [1, 2, 7] {
        admin
            .batch_execute(&format!(
                "DELETE FROM tally.quarantine; SELECT tally.set_quota('globex', quarantine_events => {limit})"
            ))
            .unwrap();
        let mut client = database.connect(&writers[1]);
        let many = format!("[{}]", vec!["{}"; limit + 1].join(","));
        let error = ingest(&mut client, &many).unwrap_err();
        assert_eq!(sqlstate(&error), "53400");
        let text = error.as_db_error().unwrap().message().to_owned();
        assert!(text.contains(&format!("at most {limit} events in quarantine")), "{text}");
        assert_eq!(send_rubbish(&mut client, limit + 3), limit);
    }
    // A limit that is raised counts at once.
    admin.batch_execute("SELECT tally.set_quota('globex', quarantine_events => 17)").unwrap();
    assert_eq!(send_rubbish(&mut database.connect(&writers[1]), 30), 10);
    // What is sent in one statement is seen by the next call in it, and what was rolled back doesn't count for long.
    admin.batch_execute("SELECT tally.set_quota('hooli', quarantine_events => 10)").unwrap();
    let mut client = database.connect(&writers[3]);
    let several = |events| {
        format!(
            "SELECT sum(i.rejected)::int8 FROM generate_series(1, {events}) AS n, tally.ingest('{{}}' || left(n::text, 0)) AS i"
        )
    };
    assert_eq!(sqlstate(&client.query(&several(11), &[]).unwrap_err()), "53400");
    wait_for("what was rolled back to be forgotten", || client.query(&several(10), &[]).ok().map(|_| ()));
    assert_eq!(send_rubbish(&mut client, 3), 0);
    // Of somebody who was erased nothing is kept, so that a full quarantine is no reason to refuse the call.
    let ann = batch("hooli", 1, json!({})).replace("{\"account_id\"", "{\"user_id\":\"ann\",\"account_id\"");
    assert!(ann.contains("ann"), "{ann}");
    assert_eq!(ingest(&mut client, &ann).unwrap().accepted, 1);
    admin
        .batch_execute("SELECT tally.set_step_up_policy('erase_subject', false); SELECT tally.erase_subject('hooli', 'ann', 'ticket 1')")
        .unwrap();
    assert_eq!(ingest(&mut client, &ann.replace("run", "walk")).unwrap().rejected, 1);
    // Several sessions at once: what each may bring before it looks again is a share of what there is room for.
    admin.batch_execute("SELECT tally.set_quota('initech', quarantine_events => 1600)").unwrap();
    let taken: usize = thread::scope(|scope| {
        let sessions: Vec<_> =
            (0..4).map(|_| scope.spawn(|| send_rubbish(&mut database.connect(&writers[2]), 700))).collect();
        sessions.into_iter().map(|session| session.join().unwrap()).sum()
    });
    println!("{taken} taken of 1,600 by four sessions");
    assert!((1600..=1610).contains(&taken), "{taken}");
    assert_eq!(kept(&mut admin, "initech"), taken as i64);
}

#[test]
fn what_comes_in_waits_where_folding_is_held_up_for_long() {
    let database = Database::new("backpressure");
    let mut admin = database.superuser();
    database.set("tally.pending_limit = '64kB'");
    let (mut holder, mut writer) = (database.superuser(), database.superuser());
    // Somebody folds, and leaves the transaction open.
    assert_eq!(ingest(&mut writer, &batch("a", 1, json!({}))).unwrap().accepted, 1);
    holder.batch_execute("BEGIN; SELECT tally.fold('usage', 1)").unwrap();
    let one_each = |events: i64| {
        let mut all: Vec<Value> = serde_json::from_str(&batch("a", events, json!({}))).unwrap();
        for event in &mut all {
            event["account_id"] = json!(format!("account of {}", event["event_id"].as_str().unwrap()));
        }
        Value::Array(all).to_string()
    };
    let (mut acknowledged, until) = (1, Instant::now() + Duration::from_secs(300));
    let refused = loop {
        let text = one_each(5000);
        match ingest(&mut writer, &text) {
            Ok(summary) => acknowledged += summary.accepted,
            Err(error) => break (error, text),
        }
        assert!(Instant::now() < until, "{acknowledged} events came in without an end");
    };
    assert_eq!(sqlstate(&refused.0), "53400");
    assert!(
        refused.0.as_db_error().unwrap().message().starts_with("rollup \"usage\" has too many pending rows")
    );
    assert!(refused.0.as_db_error().unwrap().hint().unwrap().starts_with("retry in 1 s"));
    assert_eq!(
        number(&mut admin, "SELECT count(*) FROM tally.events"),
        acknowledged,
        "nothing of it was stored"
    );
    let size = number(&mut admin, "SELECT pg_relation_size('tally.usage_pending')");
    assert!((4 << 20..64 << 20).contains(&size), "{size} bytes pending");
    // Nor is there a way around it: a transaction that can't fold isn't kept waiting for its own rows, but for those before it.
    let mut goes_in = true;
    for _ in 0..3 {
        let repeatable = postgres::IsolationLevel::RepeatableRead;
        let mut transaction = writer.build_transaction().isolation_level(repeatable).start().unwrap();
        match ingest(&mut transaction, &one_each(5000)) {
            Ok(summary) => {
                acknowledged += summary.accepted;
                transaction.commit().unwrap();
            }
            Err(error) => {
                assert_eq!(sqlstate(&error), "53400");
                goes_in = false;
                break;
            }
        }
    }
    assert!(!goes_in, "transactions at repeatable read go in without an end");
    // Once the other has ended, the same call goes in, and ingest itself folds what has piled up; so does a process, where those
    // transactions started one that has waited for the processor. Calls may be refused while it is at work.
    let rows = |admin: &mut Client| number(admin, "SELECT count(*) FROM tally.usage_pending");
    let before = rows(&mut admin);
    holder.batch_execute("COMMIT").unwrap();
    let (mut text, mut goes_in) = (refused.1, false);
    wait_for("ingest to fold", || {
        match ingest(&mut writer, &text) {
            Ok(summary) => {
                acknowledged += summary.accepted;
                (text, goes_in) = (one_each(1000), true);
            }
            Err(error) => assert_eq!(sqlstate(&error), "53400"),
        }
        (goes_in && rows(&mut admin) < before / 2).then_some(())
    });
    wait_for("all to be folded", || {
        fold_all(&mut admin, "usage");
        (rows(&mut admin) == 0).then_some(())
    });
    admin.batch_execute("BEGIN; SELECT tally.enter_global()").unwrap();
    assert_eq!(number(&mut admin, "SELECT count(*) FROM tally.verify_rollup('usage')"), 0);
    assert_eq!(number(&mut admin, "SELECT sum(events)::int8 FROM tally.usage_day_base"), acknowledged);
}
