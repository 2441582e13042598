//! Months that are attached while somebody is being erased in steps, or after months below the horizon were elsewhere.

use crate::erasure::{Bench, traces};
use postgres::Client;
use serde_json::{Value, json};
use tally_server_tests::{code, number};

const SUBJECT: &str = "planted-b1a9d0e2";

/// From January to April, an event of the person and one of somebody else.
fn events() -> Vec<Value> {
    let event = |n: u32, month: u32, user: &str| {
        json!({"tenant_id": "t", "account_id": "a", "name": "n", "event_id": format!("00000000-0000-4000-8000-{n:012}"),
               "occurred_at": format!("2026-{month:02}-10T10:00:00Z"), "user_id": user, "session_id": format!("s-{user}"), "properties": {"value": n}})
    };
    (1..=4).flat_map(|month| [event(month, month, SUBJECT), event(month + 10, month, "u")]).collect()
}

const TAKEN_OUT: &str =
    "CREATE SCHEMA archive; ALTER TABLE tally.events DETACH PARTITION tally.events_p2026_02;
     ALTER TABLE tally.events_p2026_02 SET SCHEMA archive";
const DETACHED: &str =
    "CREATE SCHEMA archive; ALTER TABLE tally.events DETACH PARTITION tally.events_p2026_02";
const BACK: &str = "DO $$ BEGIN
       IF to_regclass('archive.events_p2026_02') IS NOT NULL THEN ALTER TABLE archive.events_p2026_02 SET SCHEMA tally; END IF;
     END $$;
     ALTER TABLE tally.events ATTACH PARTITION tally.events_p2026_02 FOR VALUES FROM ('2026-02-01 00:00Z') TO ('2026-03-01 00:00Z')";

fn step(admin: &mut Client) {
    admin.batch_execute("SELECT tally_internal.erasure_step('t', 1000)").unwrap();
}

fn is_told(bench: &Bench) -> bool {
    let told = "SELECT count(*) FROM tally.lint() WHERE name = 'erased_there_again' AND detail ~ '2026_02 .* 1 persons of tenant ''t'''";
    number(&mut bench.admin(), told) == 1
}

#[test]
fn a_month_that_is_attached_while_steps_go_on_is_searched() {
    for (place, out) in [TAKEN_OUT, DETACHED].into_iter().enumerate() {
        let bench = Bench::new(&format!("attached_meanwhile_{place}"));
        assert_eq!(bench.send(&events()).accepted, 8);
        bench.fold();
        let (mut admin, mut superuser) = (bench.admin(), bench.database.superuser());
        superuser.batch_execute(out).unwrap();
        admin.execute("SELECT tally.erase_subjects('t', ARRAY[$1], 'ticket 1')", &[&SUBJECT]).unwrap();
        // Later months than this one are done.
        let left = format!("SELECT count(*) FROM tally.events WHERE user_id = '{SUBJECT}'");
        while number(&mut superuser, &left) > 0 {
            step(&mut admin);
        }
        superuser.batch_execute(BACK).unwrap();
        assert_eq!(number(&mut superuser, &left), 1, "{out}");
        admin.batch_execute("CALL tally.maintain()").unwrap();
        assert_eq!(number(&mut superuser, &left), 0, "{out}");
        let certified = "SELECT (certificate->>'events_removed')::int8 FROM tally.erasure";
        assert_eq!(number(&mut superuser, certified), 4, "{out}");
        assert!(!is_told(&bench), "{out}");
        admin.batch_execute("CALL tally.maintain()").unwrap();
        assert_eq!(traces(&mut superuser, SUBJECT), Vec::<String>::new(), "{out}");
        bench.verify();
    }
}

/// What is searched no more is told: between the last search and the certificate, other steps may come.
#[test]
fn a_month_that_is_attached_before_the_certificate_is_told() {
    let bench = Bench::new("attached_late");
    assert_eq!(bench.send(&events()).accepted, 8);
    let (mut admin, mut superuser) = (bench.admin(), bench.database.superuser());
    superuser.batch_execute(TAKEN_OUT).unwrap();
    admin.execute("SELECT tally.erase_subjects('t', ARRAY[$1], 'ticket 1')", &[&SUBJECT]).unwrap();
    while number(&mut superuser, "SELECT count(*) FROM tally.erasure_run WHERE forgotten IS NOT NULL") == 0 {
        step(&mut admin);
    }
    superuser.batch_execute(BACK).unwrap();
    admin.batch_execute("CALL tally.maintain()").unwrap();
    assert_eq!(number(&mut superuser, "SELECT count(*) FROM tally.erasure WHERE finished_at IS NOT NULL"), 1);
    assert!(is_told(&bench));
    let again = bench.erase("t", SUBJECT);
    assert_eq!(again["events_removed"], json!(1), "{again}");
    assert!(!is_told(&bench));
    bench.verify();
}

/// The months below it are gone by what we did, but one that was moved away may come back.
#[test]
fn a_month_below_the_horizon_that_is_there_again_is_told() {
    for in_steps in [false, true] {
        let bench = Bench::new(if in_steps { "below_steps" } else { "below_once" });
        assert_eq!(bench.send(&events()).accepted, 8);
        bench.fold();
        let (mut admin, mut superuser) = (bench.admin(), bench.database.superuser());
        admin.batch_execute("SELECT tally.detach_raw('2026-03-01')").unwrap();
        superuser
            .batch_execute(
                "CREATE SCHEMA archive; ALTER TABLE tally.detached_events_2026_02 SET SCHEMA archive",
            )
            .unwrap();
        if in_steps {
            admin.execute("SELECT tally.erase_subjects('t', ARRAY[$1], 'ticket 1')", &[&SUBJECT]).unwrap();
            admin.batch_execute("CALL tally.maintain()").unwrap();
        } else {
            bench.erase("t", SUBJECT);
        }
        assert!(!is_told(&bench), "in steps: {in_steps}");
        superuser
            .batch_execute("ALTER TABLE archive.detached_events_2026_02 RENAME TO events_p2026_02")
            .unwrap();
        superuser.batch_execute(BACK).unwrap();
        assert!(is_told(&bench), "in steps: {in_steps}");
        let again = bench.erase("t", SUBJECT);
        assert_eq!(again["events_removed"], json!(1), "{again}");
        assert!(!is_told(&bench), "in steps: {in_steps}");
    }
}

/// Its events are removed from the table, but its numbers can't be made anew meanwhile, nor those of a week that begins or ends in it.
#[test]
fn numbers_of_a_month_that_was_detached_are_right_once_it_is_attached() {
    for in_steps in [false, true] {
        let bench = Bench::new(if in_steps { "unrenewed_steps" } else { "unrenewed_once" });
        let mut sent = events();
        // Of a week that ends in February, and of nobody, in a session of the person.
        sent.push(json!({"tenant_id": "t", "account_id": "b", "name": "n", "event_id": "00000000-0000-4000-8000-000000000021",
            "occurred_at": "2026-01-30T10:00:00Z", "user_id": SUBJECT, "properties": {"value": 1}}));
        sent.push(json!({"tenant_id": "t", "account_id": "b", "name": "n", "event_id": "00000000-0000-4000-8000-000000000022",
            "occurred_at": "2026-02-01T10:00:00Z", "user_id": "u", "properties": {"value": 2}}));
        sent.push(json!({"tenant_id": "t", "account_id": "a", "name": "n", "event_id": "00000000-0000-4000-8000-000000000023",
            "occurred_at": "2026-02-10T11:00:00Z", "session_id": format!("s-{SUBJECT}"), "properties": {"value": 3}}));
        assert_eq!(bench.send(&sent).accepted, 11);
        bench.fold();
        let (mut admin, mut superuser) = (bench.admin(), bench.database.superuser());
        superuser.batch_execute("ALTER TABLE tally.events DETACH PARTITION tally.events_p2026_02").unwrap();
        if in_steps {
            admin.execute("SELECT tally.erase_subjects('t', ARRAY[$1], 'ticket 1')", &[&SUBJECT]).unwrap();
            admin.batch_execute("CALL tally.maintain()").unwrap();
        } else {
            bench.erase("t", SUBJECT);
        }
        let certificate = "SELECT certificate::text FROM tally.erasure";
        let certificate: Value =
            serde_json::from_str(&superuser.query_one(certificate, &[]).unwrap().get::<_, String>(0))
                .unwrap();
        assert_eq!(certificate["removed_elsewhere"]["detached"], json!(2), "{certificate}");
        let left = certificate["left_in_rollups"].as_array().unwrap();
        assert!(left.iter().any(|left| left["rollup"] == "latest"), "{certificate}");
        // As long as it is elsewhere, nothing is done, and nothing fails.
        admin.batch_execute("CALL tally.maintain()").unwrap();
        superuser.batch_execute(BACK).unwrap();
        let told = "SELECT count(*) FROM tally.lint() WHERE name = 'erased_there_again' AND detail ~ 'count them still'";
        assert_eq!(number(&mut bench.admin(), told), 1, "in steps: {in_steps}");
        admin.batch_execute("CALL tally.maintain()").unwrap();
        assert_eq!(number(&mut bench.admin(), told), 0, "in steps: {in_steps}");
        bench.verify();
        bench.fold();
        assert_eq!(traces(&mut superuser, SUBJECT), Vec::<String>::new(), "in steps: {in_steps}");
        let failed = "SELECT count(*) FROM tally.maintenance WHERE failed_at IS NOT NULL";
        assert_eq!(number(&mut superuser, failed), 0);
    }
}

/// A tenant's part of a month that is there otherwise: what others have in it stays counted.
#[test]
fn numbers_of_a_part_that_was_detached_are_right_once_it_is_attached() {
    let bench = Bench::new("unrenewed_part");
    let (mut admin, mut superuser) = (bench.admin(), bench.database.superuser());
    admin.batch_execute("SELECT tally.isolate_tenant('t', '2026-01-01')").unwrap();
    assert_eq!(bench.send(&events()).accepted, 8);
    admin.batch_execute("CALL tally.maintain()").unwrap();
    bench.fold();
    let leaf = "SELECT p.relname::text FROM pg_class AS p JOIN pg_inherits AS i ON i.inhrelid = p.oid
                 WHERE i.inhparent = 'tally.events_p2026_02'::regclass AND p.relname !~ 'rest$'";
    let leaf: String = superuser.query_one(leaf, &[]).unwrap().get(0);
    superuser
        .batch_execute(&format!("ALTER TABLE tally.events_p2026_02 DETACH PARTITION tally.{leaf}"))
        .unwrap();
    let certificate = bench.erase("t", SUBJECT);
    assert_eq!(certificate["removed_elsewhere"]["detached"], json!(1), "{certificate}");
    let left = certificate["left_in_rollups"].as_array().unwrap();
    assert!(left.iter().any(|left| left["rollup"] == "latest"), "{certificate}");
    admin.batch_execute("CALL tally.maintain()").unwrap();
    let february =
        "SELECT coalesce(sum(n), 0)::int8 FROM tally.latest_month_base WHERE bucket = '2026-02-01Z'";
    assert_eq!(number(&mut superuser, february), 2);
    assert_eq!(code(admin.query("SELECT tally.rebuild_rollup('latest')", &[])), "55000");
    superuser
        .batch_execute(&format!(
            "ALTER TABLE tally.events_p2026_02 ATTACH PARTITION tally.{leaf} FOR VALUES IN ('t')"
        ))
        .unwrap();
    let told = "SELECT count(*) FROM tally.lint() WHERE name = 'erased_there_again'";
    assert_eq!(number(&mut admin, told), 1);
    admin.batch_execute("CALL tally.maintain()").unwrap();
    bench.fold();
    assert_eq!(number(&mut superuser, february), 1);
    assert_eq!(number(&mut admin, told), 0);
    bench.verify();
    assert_eq!(traces(&mut superuser, SUBJECT), Vec::<String>::new());
}
