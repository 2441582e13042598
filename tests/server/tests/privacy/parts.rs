//! Partitions that somebody made: of any name, owner and range. What is erased or past its retention goes from them, too.

use crate::erasure::{Bench, traces};
use serde_json::{Value, json};
use tally_server_tests::number;

const SUBJECT: &str = "planted-5d02c7aa";

/// A year, a quarter whose name is a month's, months of another time zone, a table of another schema, and what has no place.
const PARTS: &str = "CREATE SCHEMA archive;
    CREATE TABLE tally.events_y2021 PARTITION OF tally.events FOR VALUES FROM ('2021-01-01Z') TO ('2022-01-01Z');
    CREATE TABLE tally.events_p2022_01 PARTITION OF tally.events FOR VALUES FROM ('2022-01-01Z') TO ('2022-04-01Z');
    CREATE TABLE tally.berlin PARTITION OF tally.events FOR VALUES FROM ('2022-05-31 22:00Z') TO ('2022-06-30 22:00Z');
    CREATE TABLE archive.early PARTITION OF tally.events FOR VALUES FROM (MINVALUE) TO ('2020-01-01Z');
    CREATE TABLE archive.\"Other ones\" PARTITION OF tally.events DEFAULT";

const TIMES: [&str; 9] = [
    "2019-06-10T10:00:00Z",
    "2020-02-10T10:00:00Z",
    "2021-03-10T10:00:00Z",
    "2021-11-10T10:00:00Z",
    "2022-01-10T10:00:00Z",
    "2022-03-10T10:00:00Z",
    "2022-05-31T23:00:00Z",
    "2022-06-20T10:00:00Z",
    "2026-03-10T10:00:00Z",
];

fn events(user: &str, from: usize) -> Vec<Value> {
    let event = |(n, time): (usize, &&str)| {
        json!({"tenant_id": "t", "account_id": format!("a{}", n % 2), "name": "n", "event_id": format!("00000000-0000-4000-8000-{:012}", from + n),
               "occurred_at": time, "user_id": user, "session_id": format!("s-{user}"), "properties": {"value": n}})
    };
    TIMES.iter().enumerate().map(event).collect()
}

fn bench(topic: &str) -> Bench {
    let bench = Bench::new(topic);
    bench.send(&[json!({"tenant_id": "t", "account_id": "a0", "name": "n", "event_id": "00000000-0000-4000-8000-000000009999",
        "occurred_at": "2026-03-10T10:00:00Z", "user_id": "first", "properties": {"value": 1}})]);
    bench.database.superuser().batch_execute(PARTS).unwrap();
    bench
}

#[test]
fn what_lies_in_partitions_that_somebody_made_is_erased() {
    for in_steps in [false, true] {
        let bench = bench(if in_steps { "parts_steps" } else { "parts_once" });
        assert_eq!(bench.send(&[events(SUBJECT, 0), events("other", 100)].concat()).accepted, 18);
        bench.fold();
        let mut superuser = bench.database.superuser();
        superuser.batch_execute("ANALYZE").unwrap();
        let told = "SELECT count(*) FROM tally.subject_report('t', 'planted-5d02c7aa') AS r WHERE r->>'from' = 'events'";
        superuser.batch_execute("SELECT tally.set_step_up_policy('subject_report', false)").unwrap();
        let mut admin = bench.admin();
        let mut transaction = admin.transaction().unwrap();
        transaction.batch_execute("SELECT tally.enter_global()").unwrap();
        assert_eq!(transaction.query_one(told, &[]).unwrap().get::<_, i64>(0), 9);
        transaction.commit().unwrap();
        if in_steps {
            admin.execute("SELECT tally.erase_subjects('t', ARRAY[$1], 'ticket 3')", &[&SUBJECT]).unwrap();
            for _ in 0..2 {
                admin.batch_execute("CALL tally.maintain(2)").unwrap();
            }
        } else {
            bench.erase("t", SUBJECT);
            admin.batch_execute("CALL tally.maintain()").unwrap();
        }
        let certified = "SELECT (certificate->>'events_removed')::int8 FROM tally.erasure";
        assert_eq!(number(&mut superuser, certified), 9, "in steps: {in_steps}");
        let left = format!("SELECT count(*) FROM tally.events WHERE user_id = '{SUBJECT}'");
        assert_eq!(number(&mut superuser, &left), 0, "in steps: {in_steps}");
        assert_eq!(number(&mut superuser, "SELECT count(*) FROM tally.events WHERE user_id = 'other'"), 9);
        assert_eq!(traces(&mut superuser, SUBJECT), Vec::<String>::new(), "in steps: {in_steps}");
        bench.verify();
        // Their files have it until a vacuum: noted by name, wherever they are.
        let noted = "SELECT string_agg(table_name, ' ' ORDER BY table_name) FROM tally.erasure_trace WHERE table_name ~ '^(archive|berlin|events_)'";
        assert_eq!(
            superuser.query_one(noted, &[]).unwrap().get::<_, String>(0),
            "archive.\"Other ones\" archive.early berlin events_p2022_01 events_p2026_03 events_y2021"
        );
        superuser.batch_execute("VACUUM").unwrap();
        superuser.batch_execute("CALL tally.maintain()").unwrap();
        assert_eq!(
            number(
                &mut superuser,
                &noted.replace("string_agg(table_name, ' ' ORDER BY table_name)", "count(*)")
            ),
            0
        );
        let failed = "SELECT count(*) FROM tally.maintenance WHERE failed_at IS NOT NULL";
        assert_eq!(number(&mut superuser, failed), 0);
    }
}

#[test]
fn retention_reaches_partitions_that_somebody_made() {
    let bench = bench("parts_kept");
    let mut elsewhere = events("u", 100);
    elsewhere.iter_mut().for_each(|event| event["tenant_id"] = json!("other"));
    assert_eq!(bench.send(&[events("u", 0), elsewhere].concat()).accepted, 18);
    let mut admin = bench.admin();
    // From the first of June 2022 on.
    let keep = "SELECT tally.set_retention('t', now() - '2022-06-01Z'::timestamptz)";
    admin.batch_execute(keep).unwrap();
    for _ in 0..2 {
        admin.batch_execute("CALL tally.maintain(2)").unwrap();
    }
    let mut superuser = bench.database.superuser();
    let of = |tenant: &str| {
        format!("SELECT count(*) FROM tally.events WHERE tenant_id = '{tenant}' AND user_id = 'u'")
    };
    assert_eq!(number(&mut superuser, &of("t")), 2);
    assert_eq!(number(&mut superuser, &of("other")), 9);
    let keys = "SELECT count(*) FROM tally.event_key WHERE tenant_id = 't' AND occurred_at < '2022-06-01Z'";
    assert_eq!(number(&mut superuser, keys), 0);
    let done = "SELECT count(*) FROM tally.tenant_horizon WHERE tenant_id = 't' AND pruned_from = raw_from";
    assert_eq!(number(&mut superuser, done), 1);
    // None of this is a month that somebody took out.
    assert_eq!(number(&mut superuser, "SELECT count(*) FROM tally_internal.lost_months()"), 0);
}
