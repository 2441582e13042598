//! What is told of personal data: everything of a subject to its tenant, where personal data seems to be, and how it is dealt with.

use crate::erasure::Bench;
use crate::keyed::{self, Keyed, maintain};
use serde_json::{Value, json};
use tally_server_tests::{code, ingest, number};

fn event(n: u32, user: Value, properties: Value) -> Value {
    json!({"tenant_id": "t", "account_id": "a", "name": "n", "event_id": format!("00000000-0000-4000-8000-{n:012}"),
           "occurred_at": format!("2026-0{}-01T10:00:00Z", 1 + n % 3), "user_id": user, "session_id": format!("s{}", n % 2), "properties": properties})
}

fn lines(client: &mut postgres::Client, scope: &str, query: &str) -> Vec<String> {
    let mut transaction = client.transaction().unwrap();
    transaction.batch_execute(scope).unwrap();
    let lines = transaction.query(query, &[]).unwrap().iter().map(|row| row.get(0)).collect();
    transaction.commit().unwrap();
    lines
}

#[test]
fn a_subject_is_told_everything_and_nothing_of_others() {
    let bench = Bench::new("reported");
    bench
        .database
        .superuser()
        .batch_execute("SELECT tally.set_step_up_policy('subject_report', false)")
        .unwrap();
    // Of session s0 the subject is the only user, of s1 it is one of two.
    let sent = [
        event(2, json!("ann"), json!({"plan": "pro"})),
        event(8, Value::Null, json!({"seen": "before"})),
        event(1, json!("ann"), json!({})),
        event(3, json!("bob"), json!({"secret": "of-bob"})),
        event(5, Value::Null, json!({"seen": "by-anyone"})),
    ];
    assert_eq!(bench.send(&sent).accepted, 5);
    assert_eq!(
        bench
            .send(&[
                json!({"tenant_id": "t", "account_id": "a", "name": "n", "user_id": "ann", "bad": "one"})
            ])
            .rejected,
        1
    );
    let query = "SELECT r::text FROM tally.subject_report('t', 'ann') AS r";
    let told = lines(&mut bench.admin(), "SELECT tally.enter('t')", query);
    let of = |from: &str| told.iter().filter(|line| line.contains(&format!("\"from\": \"{from}"))).count();
    assert_eq!((of("events"), of("quarantine")), (3, 1), "{told:?}");
    assert!(of("user_activity by year") == 1 && of("session by month") == 2, "{told:?}");
    let text = told.join("\n");
    assert!(
        text.contains("before")
            && !text.contains("of-bob")
            && !text.contains("by-anyone")
            && !text.contains("\"bob\""),
        "{text}"
    );
    assert_eq!(
        lines(&mut bench.admin(), "SELECT tally.enter_global()", query).len(),
        told.len() + 1,
        "and that it was reported"
    );
    for scope in ["SELECT tally.enter('other')", "SELECT tally.enter('t', 'a')"] {
        let mut admin = bench.admin();
        let mut transaction = admin.transaction().unwrap();
        transaction.batch_execute(scope).unwrap();
        assert_eq!(code(transaction.query(query, &[])), "42501", "{scope}");
    }
    bench
        .database
        .superuser()
        .batch_execute("SELECT tally.set_step_up_policy('subject_report', null)")
        .unwrap();
    let mut admin = bench.admin();
    let mut transaction = admin.transaction().unwrap();
    transaction.batch_execute("SELECT tally.enter('t')").unwrap();
    assert_eq!(code(transaction.query(query, &[])), "42T20");
    drop(transaction);
    // Whoever was erased has nothing left to report, the earlier reports included.
    bench.erase("t", "ann");
    bench
        .database
        .superuser()
        .batch_execute("SELECT tally.set_step_up_policy('subject_report', false)")
        .unwrap();
    assert_eq!(lines(&mut bench.admin(), "SELECT tally.enter('t')", query), Vec::<String>::new());
}

/// By the id as it is sent, whatever it is stored under.
#[test]
fn a_subject_whose_id_is_protected_is_told_everything() {
    let mut keyed = Keyed::new("told_protected");
    let mut superuser = keyed.database.superuser();
    superuser
        .batch_execute(
            "SELECT tally.set_step_up_policy('subject_report', false), tally.set_step_up_policy('erase_subject', false)",
        )
        .unwrap();
    let role = keyed.database.role("admin", &["tally_admin"]);
    let mut admin = keyed.database.connect(&role);
    let in_session = |mut event: Value, session: &str| {
        event["session_id"] = json!(session);
        event
    };
    let mut send = |tenant: &str, from: u32| {
        let mut nobody = in_session(keyed::event(tenant, from, "", json!({"seen": "before"})), "s1");
        nobody["user_id"] = Value::Null;
        let mut wrong = keyed::event(tenant, from + 1, "ann", json!({}));
        wrong["phone"] = json!(1);
        let events = [
            nobody,
            in_session(keyed::event(tenant, from + 2, "ann", json!({"plan": "pro"})), "s1"),
            in_session(keyed::event(tenant, from + 3, "bob", json!({"secret": "of-bob"})), "s2"),
            wrong,
        ];
        let summary = ingest(&mut superuser, &keyed::array(events)).unwrap();
        assert_eq!((summary.accepted, summary.rejected), (3, 1));
    };
    let mut told = |tenant: &str| {
        let query = format!("SELECT r::text FROM tally.subject_report('{tenant}', 'ann') AS r");
        let told = lines(&mut admin, &format!("SELECT tally.enter('{tenant}')"), &query);
        let text = told.join("\n");
        assert!(!text.contains("of-bob") && !text.contains("\"bob\""), "{tenant}: {text}");
        let of =
            |from: &str| told.iter().filter(|line| line.contains(&format!("\"from\": \"{from}"))).count();
        (of("events"), of("quarantine"), of("user_activity by year"))
    };
    let mut admin_of_declarations = keyed.database.connect(&role);
    for (tenant, from) in [("token", 100), ("drop", 200)] {
        send(tenant, from);
        assert_eq!(told(tenant), (2, 1, 1), "{tenant}, as it was sent");
        let declare = format!("SELECT tally.protect_user_ids('{tenant}', '{tenant}')");
        admin_of_declarations.batch_execute(&declare).unwrap();
        send(tenant, from + 10);
    }
    assert_eq!(
        code(admin_of_declarations.query("SELECT tally.protect_user_ids('seal', 'token')", &[])),
        "22023"
    );
    // Of both declarations; under a token and under the id, until the earlier ones have followed.
    assert_eq!(told("token"), (4, 2, 2));
    // What was dropped since is of a session that was its alone.
    assert_eq!(told("drop"), (4, 2, 1));
    let mut housekeeper = keyed.database.superuser();
    maintain(&mut housekeeper);
    let plain = "SELECT count(*) FROM tally.events WHERE user_id = 'ann' OR EXISTS (SELECT FROM tally.quarantine WHERE body LIKE '%\"ann\"%')";
    assert_eq!(number(&mut housekeeper, plain), 0);
    for round in 0..2 {
        assert_eq!(told("token"), (4, 2, 1), "round {round}");
        assert_eq!(told("drop"), (0, 2, 0), "round {round}");
        admin_of_declarations
            .batch_execute("SELECT tally.rotate_keys('token'), tally.rotate_keys('drop')")
            .unwrap();
        maintain(&mut housekeeper);
    }
    // The audit log has whom each report was about; from the declaration on not as it was sent.
    let named = |pattern: &str| {
        format!("SELECT count(*) FROM tally.audit_personal AS p JOIN tally.audit_entry AS a USING (tenant_id, entry_id)
        WHERE a.act = 'subject_reported' AND p.content LIKE '%\"subject\":\"{pattern}\"%'")
    };
    assert_eq!(number(&mut housekeeper, &named("ann")), 2, "of the two reports before it");
    assert_eq!(number(&mut housekeeper, &named("tok.0.%")), 6);
    // What is done about it is in the record of processing.
    let query = "SELECT concat_ws('|', section, item, detail) FROM tally.privacy_report('token')";
    let processing = lines(&mut admin_of_declarations, "SELECT tally.enter('token')", query);
    for expected in [
        "measures|protected before it is stored|user ids of every event: tokenised",
        "measures|keys|of its own",
    ] {
        assert!(processing.iter().any(|line| line.starts_with(expected)), "{expected}: {processing:#?}");
    }
    // Without keys nobody can say that this is all.
    keyed.remove();
    let mut transaction = admin_of_declarations.transaction().unwrap();
    transaction.batch_execute("SELECT tally.enter('token')").unwrap();
    let refused = transaction.query("SELECT tally.subject_report('token', 'ann')", &[]).unwrap_err();
    assert_eq!(refused.code().unwrap().code(), "55T80", "{refused:?}");
    drop(transaction);
    keyed.write(keyed::KEY, "600");
    admin_of_declarations.query("SELECT tally.erase_subject('token', 'ann', 'r')", &[]).unwrap();
    assert_eq!(told("token"), (0, 0, 0));
    let left = "SELECT count(*) FROM tally.audit_personal WHERE tenant_id = 'token' AND content LIKE '%\"subject\"%'";
    assert_eq!(number(&mut housekeeper, left), 0, "tokens go with the person");
}

#[test]
fn personal_data_is_found_and_never_shown() {
    let mut bench = Bench::new("found");
    let properties = json!({
        "email": "ann@example.com", "contact": {"phones": ["+49 171 1234567", 7]}, "order": "4711-0815", "version": "1.2.3",
        "card": "4111 1111 1111 1111", "bob@example.com": true, "amount": 12.5,
    });
    let sent: Vec<Value> = (1..=30)
        .map(|n| {
            event(
                n,
                json!(format!("user{n}@example.com")),
                if n <= 20 { properties.clone() } else { json!({}) },
            )
        })
        .collect();
    assert_eq!(bench.send(&sent).accepted, 30);
    let reader = bench.database.role("reader", &["tally_reader"]);
    bench.database.superuser().execute("SELECT tally.bind_role($1::text::regrole, 't')", &[&reader]).unwrap();
    let mut client = bench.database.connect(&reader);
    let query = "SELECT concat_ws('|', event, path, kind, sampled, found) FROM tally.find_personal_data()";
    let found: Vec<String> = client.query(query, &[]).unwrap().iter().map(|row| row.get(0)).collect();
    assert_eq!(
        found,
        [
            "n|properties.*|e-mail address|30|20",
            "n|properties.card|card number|30|20",
            "n|properties.contact.phones[]|phone number|30|20",
            "n|properties.email|e-mail address|30|20",
            "n|user_id|e-mail address|30|30",
        ]
    );
    assert_eq!(code(client.query("SELECT * FROM tally.find_personal_data(0)", &[])), "22023");
    let nobody = bench.database.role("nobody", &["tally_reader"]);
    assert_eq!(
        code(bench.database.connect(&nobody).query("SELECT * FROM tally.find_personal_data()", &[])),
        "42501"
    );
}

#[test]
fn the_report_of_processing_says_what_is_so() {
    let bench = Bench::new("processing");
    bench.send(&[event(1, json!("ann"), json!({})), event(2, json!("bob"), json!({}))]);
    bench.database.superuser().batch_execute("SELECT tally.register_event('n', '{}', 'to see what is used'); SELECT tally.set_retention('t', '90 days')").unwrap();
    bench.erase("t", "ann");
    let query = "SELECT concat_ws('|', section, item, detail) FROM tally.privacy_report('t')";
    let told = lines(&mut bench.admin(), "SELECT tally.enter('t')", query);
    for expected in [
        "data|users|1 users with 1 events",
        "purpose|n|version 1",
        "retention|raw events|90 days",
        "rights|erasures|1 asked for, 1 done",
        "risks|reads|",
    ] {
        assert!(told.iter().any(|line| line.starts_with(expected)), "{expected}: {told:#?}");
    }
    assert!(!told.iter().any(|line| line.starts_with("risks|retention")), "{told:#?}");
    let mut admin = bench.admin();
    let mut transaction = admin.transaction().unwrap();
    transaction.batch_execute("SELECT tally.enter('other')").unwrap();
    assert_eq!(code(transaction.query(query, &[])), "42501");
}

/// A rollup may have any name: what is a month that was taken out is told by what it has.
#[test]
fn a_rollup_with_the_name_of_a_month_is_none() {
    let bench = Bench::new("named_month");
    let mut superuser = bench.database.superuser();
    superuser.batch_execute("SELECT tally.set_step_up_policy('subject_report', false), tally.set_step_up_policy('erase_subject', false)").unwrap();
    for name in ["events_p2026_01", "detached_events_2031_01"] {
        superuser
            .batch_execute(&format!(
                "SELECT tally.create_rollup('{name}', '{{day}}', dimensions => ARRAY['name'], measures => ARRAY['count(*) AS n'])"
            ))
            .unwrap();
    }
    assert_eq!(
        bench.send(&[event(1, json!("ann"), json!({})), event(4, json!("bob"), json!({}))]).accepted,
        2
    );
    // One that is: detached by hand, and called otherwise.
    superuser
        .batch_execute(
            "DO $$ DECLARE month name; BEGIN
               SELECT c.relname INTO STRICT month FROM pg_class AS c JOIN tally.events AS e ON e.tableoid = c.oid WHERE e.user_id = 'ann';
               EXECUTE format('ALTER TABLE tally.events DETACH PARTITION tally.%I', month);
               EXECUTE format('ALTER TABLE tally.%I RENAME TO kept_for_later', month);
             END $$",
        )
        .unwrap();
    let query = "SELECT r::text FROM tally.subject_report('t', 'ann') AS r";
    let told = lines(&mut bench.admin(), "SELECT tally.enter('t')", query);
    assert_eq!(
        told.iter().filter(|line| line.contains("\"from\": \"kept_for_later\"")).count(),
        1,
        "{told:?}"
    );
    bench.admin().batch_execute("SELECT tally.erase_subject('t', 'ann', 'asked')").unwrap();
    let left = "SELECT count(*) FROM tally.kept_for_later";
    assert_eq!(number(&mut superuser, left), 1);
    assert_eq!(number(&mut superuser, &format!("{left} WHERE user_id = 'ann'")), 0);
    let kept = "SELECT retention FROM tally.catalog WHERE asset = 'tally.events_p2026_01_day_base'";
    assert_eq!(superuser.query_one(kept, &[]).unwrap().get::<_, String>(0), "for ever");
}
