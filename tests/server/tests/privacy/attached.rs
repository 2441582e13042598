//! Months that are attached while somebody is being erased in steps, or after months below the horizon were elsewhere.

use crate::erasure::{Bench, traces};
use postgres::Client;
use serde_json::{Value, json};
use tally_server_tests::number;

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
