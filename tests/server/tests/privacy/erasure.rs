//! Erasure: what a subject leaves behind is nothing, in any table; what is left is what a database has that never had it.

use postgres::Client;
use serde_json::{Value, json};
use tally_server_tests::{Database, assert_right, assert_same, code, fold_all, ingest, number};
use tally_workload::Random;

/// In no other id, number or text by chance.
const SUBJECT: &str = "planted-7f3e91c0";

/// A database with an administrator, a loader and the rollups that know users in every way.
pub struct Bench {
    pub database: Database,
    admin: String,
    loader: String,
}

impl Bench {
    pub fn new(topic: &str) -> Self {
        let mut database = Database::new(topic);
        let admin = database.role("admin", &["tally_admin"]);
        let loader = database.role("loader", &["tally_writer"]);
        let mut superuser = database.superuser();
        superuser.execute("SELECT tally.trust_role($1::text::regrole)", &[&loader]).unwrap();
        superuser
            .batch_execute(
                "SELECT tally.set_step_up_policy('erase_subject', false), tally.open_months('-infinity')",
            )
            .unwrap();
        // The same keys of sketches everywhere, so that they can be compared.
        superuser
            .batch_execute(
                "INSERT INTO tally.tenant (sketch_epoch, first_seen_at, tenant_id, sketch_key)
                 SELECT 7, now(), t, decode('000102030405060708090a0b0c0d0e0f', 'hex') FROM unnest('{t,other}'::text[]) AS t",
            )
            .unwrap();
        let bench = Self { database, admin, loader };
        bench
            .admin()
            .batch_execute(
                "SELECT tally.create_rollup('names', '{day,week}', dimensions => ARRAY['name', 'coalesce(user_id, ''none'') AS who'],
                   measures => ARRAY['count(*) AS n', 'last(session_id) AS last_session']);
                 SELECT tally.create_rollup('latest', '{hour,month}', dimensions => ARRAY['name'],
                   measures => ARRAY['count(*) AS n', 'distinct(user_id) AS users', 'first(user_id) AS first_user', 'last(user_id) AS last_user',
                                     'min(user_id) AS least_user', 'max(user_id) AS greatest_user', 'days(occurred_at) AS days'])",
            )
            .unwrap();
        bench
    }

    pub fn admin(&self) -> Client {
        self.database.connect(&self.admin)
    }

    pub fn send(&self, events: &[Value]) -> tally_server_tests::Summary {
        ingest(&mut self.database.connect(&self.loader), &Value::from(events.to_vec()).to_string()).unwrap()
    }

    pub fn erase(&self, tenant: &str, subject: &str) -> Value {
        let text = self
            .admin()
            .query_one("SELECT tally.erase_subject($1, $2, 'ticket 1')::text", &[&tenant, &subject])
            .unwrap()
            .get::<_, String>(0);
        serde_json::from_str(&text).unwrap()
    }

    pub fn fold(&self) {
        for rollup in self.rollups() {
            fold_all(&mut self.admin(), &rollup);
        }
    }

    pub fn rollups(&self) -> Vec<String> {
        let rows =
            self.database.superuser().query("SELECT rollup_name FROM tally.rollup ORDER BY 1", &[]).unwrap();
        rows.iter().map(|row| row.get(0)).collect()
    }

    pub fn verify(&self) {
        for rollup in self.rollups() {
            assert_right(&mut self.admin(), &rollup);
        }
    }

    /// Every row of the rollups' base tables, states and all; with percentiles, which depend on how they were merged, only once
    /// every bucket was made anew.
    pub fn numbers(&self, rebuilt: bool) -> Vec<String> {
        self.fold();
        if rebuilt {
            for rollup in self.rollups() {
                self.admin().execute("SELECT tally.rebuild_rollup($1)", &[&rollup]).unwrap();
            }
            self.fold();
        }
        let mut superuser = self.database.superuser();
        let tables = superuser
            .query("SELECT relname::text FROM pg_class WHERE relnamespace = 'tally'::regnamespace AND relname ~ '_base$' AND relkind = 'r' ORDER BY 1", &[])
            .unwrap();
        let mut lines = Vec::new();
        for table in tables.iter().map(|row| row.get::<_, String>(0)) {
            let without = if rebuilt { "'{}'" } else { "'{value}'" };
            let query = format!(
                "SELECT '{table} ' || (to_jsonb(t) - {without}::text[])::text FROM tally.{table} AS t ORDER BY 1"
            );
            lines.extend(superuser.query(&query, &[]).unwrap().iter().map(|row| row.get::<_, String>(0)));
        }
        lines
    }
}

/// Event number `n`: of one of eight users, of the subject, or of nobody in a session.
fn event(n: u64, random: &mut Random) -> Value {
    let user = match random.below(10) {
        0 => json!(SUBJECT),
        1 => Value::Null,
        user => json!(format!("u{user}")),
    };
    let mut event = json!({
        "tenant_id": "t", "account_id": format!("a{}", n % 3), "name": format!("n{}", n % 4),
        "event_id": format!("00000000-0000-4000-8000-{n:012x}"),
        "occurred_at": format!("2026-0{}-{:02}T{:02}:{:02}:0{}Z", 1 + random.below(3), 1 + random.below(28), random.below(24), random.below(60), n % 10),
        "user_id": user, "properties": {"value": random.below(1000), "amount": n % 7, "currency": "EUR"},
    });
    if random.below(2) == 0 {
        event["session_id"] = json!(format!("s{}", n / 3));
    }
    event
}

fn is_of_subject(event: &Value) -> bool {
    event["user_id"] == json!(SUBJECT)
}

/// Where the text stands, in any column of any table, in statistics, and as bytes.
pub fn traces(superuser: &mut Client, text: &str) -> Vec<String> {
    let columns = superuser
        .query(
            "SELECT format('%I.%I', n.nspname, c.relname), a.attname::text, a.atttypid::regtype::text
               FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
               JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
              WHERE c.relkind IN ('r', 'p', 't') AND n.nspname IN ('tally', 'tally_internal') ORDER BY 1, 2",
            &[],
        )
        .unwrap();
    let mut found = Vec::new();
    let hexadecimal: String = text.bytes().map(|byte| format!("{byte:02x}")).collect();
    for row in &columns {
        let (table, column, kind): (String, String, String) = (row.get(0), row.get(1), row.get(2));
        let is_there = format!(
            "SELECT count(*) FROM ONLY {table} AS t WHERE t.\"{column}\"::text LIKE '%{text}%' OR t.\"{column}\"::text LIKE '%{hexadecimal}%'"
        );
        let count = number(superuser, &is_there);
        if count > 0 {
            found.push(format!("{table}.{column} ({kind}): {count}"));
        }
    }
    let statistics = format!(
        "SELECT count(*) FROM pg_statistic AS s WHERE concat(s.stavalues1, s.stavalues2, s.stavalues3, s.stavalues4, s.stavalues5) LIKE '%{text}%'"
    );
    let count = number(superuser, &statistics);
    if count > 0 {
        found.push(format!("pg_statistic: {count}"));
    }
    found
}

#[test]
fn nothing_is_left_and_the_rest_is_as_if_the_subject_had_never_been() {
    let (with, without) = (Bench::new("erased"), Bench::new("never"));
    let mut random = tally_server_tests::seeded();
    let mut events: Vec<Value> = (0..1_500).map(|n| event(n, &mut random)).collect();
    // A session that begins before its user is known.
    for (n, user) in [(9001, Value::Null), (9002, json!(SUBJECT))] {
        events.push(json!({"tenant_id": "t", "account_id": "a0", "name": "n0", "event_id": format!("00000000-0000-4000-8000-{n:012}"),
            "occurred_at": format!("2026-02-28T23:5{}:00Z", n % 10), "user_id": user, "session_id": "before-login", "properties": {"value": 1}}));
    }
    let others: std::collections::BTreeSet<(String, String)> = events
        .iter()
        .filter(|event| !is_of_subject(event) && !event["user_id"].is_null())
        .map(|event| (event["account_id"].to_string(), event["session_id"].to_string()))
        .collect();
    let own: std::collections::BTreeSet<(String, String)> = events
        .iter()
        .filter(|event| is_of_subject(event) && event.get("session_id").is_some())
        .map(|event| (event["account_id"].to_string(), event["session_id"].to_string()))
        .collect();
    // Events without a user lie months apart from others of their session, but in that one.
    let is_anonymous_part = |event: &Value| {
        let session = (event["account_id"].to_string(), event["session_id"].to_string());
        event["user_id"].is_null()
            && event["session_id"] == json!("before-login")
            && own.contains(&session)
            && !others.contains(&session)
    };
    events.retain(|event| {
        !event["user_id"].is_null() || event.get("session_id").is_none() || is_anonymous_part(event)
    });
    for batch in events.chunks(200) {
        let sent = with.send(batch);
        assert_eq!(sent.accepted, batch.len() as i64);
        let rest: Vec<Value> = batch
            .iter()
            .filter(|event| !is_of_subject(event) && !is_anonymous_part(event))
            .cloned()
            .collect();
        assert_eq!(without.send(&rest).accepted, rest.len() as i64);
        if random.below(3) == 0 {
            with.fold();
        }
    }
    // The same user id in another tenant is another person.
    let mut elsewhere = events.iter().find(|event| is_of_subject(event)).unwrap().clone();
    elsewhere["tenant_id"] = json!("other");
    elsewhere["user_id"] = json!("kept-in-other");
    assert_eq!(with.send(std::slice::from_ref(&elsewhere)).accepted, 1);
    assert_eq!(without.send(std::slice::from_ref(&elsewhere)).accepted, 1);
    // Into quarantine: a conflict, a rejection, one that is no event at all and one of a user whose id begins alike.
    let mut conflict = events.iter().find(|event| is_of_subject(event)).unwrap().clone();
    conflict["name"] = json!("other");
    let rejected = json!({"tenant_id": "t", "account_id": "a0", "name": "n", "user_id": SUBJECT});
    let alike = json!({"tenant_id": "t", "account_id": "a0", "name": "n", "user_id": format!("{}x", "planted-7f3e91c")});
    let summary = with.send(&[conflict, rejected, alike]);
    assert_eq!((summary.conflicts, summary.rejected), (1, 2));
    let options = json!({"source": SUBJECT, "client": "app"}).to_string();
    let noise = json!([{"tenant_id": "t", "account_id": "a0", "name": "x"}]).to_string();
    with.database
        .connect(&with.loader)
        .execute("SELECT tally.ingest($1::text, $2::text::jsonb)", &[&noise, &options])
        .unwrap();
    with.database.superuser().batch_execute("ANALYZE").unwrap();
    assert!(traces(&mut with.database.superuser(), SUBJECT).len() > 8, "the search finds what is there");
    let removed = events.iter().filter(|event| is_of_subject(event)).count();

    let certificate = with.erase("t", SUBJECT);
    assert_eq!(certificate["events_removed"], json!(removed), "{certificate}");
    assert_eq!(certificate["anonymous_events_removed"], json!(1), "{certificate}");
    assert_eq!(certificate["left_in_rollups"], json!([]), "{certificate}");
    assert_eq!(certificate["removed_elsewhere"]["quarantine"], json!(2), "{certificate}");
    with.verify();
    with.database.connect(&with.admin).batch_execute("CALL tally.maintain()").unwrap();
    assert_eq!(traces(&mut with.database.superuser(), SUBJECT), Vec::<String>::new());
    assert_same("kept as they were merged", &without.numbers(false), &with.numbers(false));
    assert_same("made anew", &without.numbers(true), &with.numbers(true));
    // What nobody asked to be erased is there: the quarantined event of the other, its batches, every key of the ledger.
    assert_eq!(number(&mut with.database.superuser(), "SELECT count(*) FROM tally.quarantine"), 2);
    assert_eq!(
        number(&mut with.database.superuser(), "SELECT count(*) FROM tally.event_key WHERE tenant_id = 't'"),
        events.len() as i64
    );

    // Once more: nothing happens, and the certificate is the same; its hash is in the audit log, which verifies.
    assert_eq!(with.erase("t", SUBJECT), certificate);
    let mut superuser = with.database.superuser();
    let sealed = "SELECT count(*) FROM tally.erasure AS x JOIN tally.audit_entry AS a ON a.act = 'subject_erased' AND a.object = x.subject_hash::text
                   WHERE a.detail::jsonb ->> 'certificate_sha256' = encode(sha256(convert_to(x.certificate::text, 'UTF8')), 'hex')";
    assert_eq!(number(&mut superuser, sealed), 1);
    assert_eq!(
        number(&mut superuser, "SELECT count(*) FROM tally.audit_entry WHERE act = 'subject_erased'"),
        1
    );
    superuser.execute("SELECT tally.seal_audit()", &[]).unwrap();
    assert!(superuser.query("SELECT * FROM tally.verify_audit()", &[]).unwrap().is_empty());
}

#[test]
fn later_events_are_refused_and_retries_stay_duplicates() {
    let bench = Bench::new("refused");
    let event = |n: u32, user: &str| {
        json!({"tenant_id": "t", "account_id": "a", "name": "n", "event_id": format!("00000000-0000-4000-8000-{n:012}"),
               "occurred_at": "2026-03-01T10:00:00Z", "user_id": user})
    };
    assert_eq!(bench.send(&[event(1, SUBJECT), event(2, "u")]).accepted, 2);
    // A transaction that began before the tenant's first erasure, whose session goes on.
    let mut early = bench.database.connect(&bench.loader);
    early.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1").unwrap();
    bench.erase("t", SUBJECT);
    for end in ["COMMIT", ""] {
        let summary = ingest(&mut early, &event(7, SUBJECT).to_string()).unwrap();
        assert_eq!((summary.accepted, summary.rejected), (0, 1), "{summary:?}");
        early.batch_execute(end).unwrap();
    }
    let mut changed = event(1, SUBJECT);
    changed["name"] = json!("changed");
    let mut broken = event(5, SUBJECT);
    broken["properties"] = json!(7);
    let mut other_tenant = event(6, SUBJECT);
    other_tenant["tenant_id"] = json!("other");
    let sent =
        [event(1, SUBJECT), event(2, "u"), event(3, SUBJECT), changed, broken, event(4, "u"), other_tenant];
    let summary = bench.send(&sent);
    assert_eq!(
        (summary.accepted, summary.duplicates, summary.conflicts, summary.rejected),
        (2, 2, 0, 3),
        "{summary:?}"
    );
    let details = summary.details.unwrap();
    let refused: Vec<&Value> =
        details.as_array().unwrap().iter().filter(|detail| detail["sqlstate"] == json!("22T13")).collect();
    assert_eq!(refused.len(), 2, "{details}");
    assert!(!details.to_string().contains(SUBJECT), "{details}");
    let mut superuser = bench.database.superuser();
    assert_eq!(
        number(&mut superuser, "SELECT count(*) FROM tally.quarantine"),
        0,
        "nothing of the subject is kept"
    );
    superuser.batch_execute("DELETE FROM tally.events WHERE tenant_id = 'other'").unwrap();
    assert_eq!(
        traces(&mut superuser, SUBJECT)
            .into_iter()
            .filter(|trace| !trace.contains("_base") && !trace.contains("_pending"))
            .collect::<Vec<_>>(),
        Vec::<String>::new()
    );
    // Through every door, and where the call is to fail.
    let mut loader = bench.database.connect(&bench.loader);
    let text = event(8, SUBJECT).to_string();
    let refused =
        loader.query("SELECT * FROM tally.ingest($1::text, '{\"all_or_nothing\": true}')", &[&text]);
    assert_eq!(code(refused), "22T13");
    loader.execute("SELECT * FROM tally.ingest_events(ARRAY[$1::text::tally.event])", &[&text]).unwrap();
    loader
        .execute(
            "INSERT INTO tally.inbox (tenant_id, account_id, name, occurred_at, event_id, user_id)
             VALUES ('t', 'a', 'n', '2026-03-01T10:00:00Z', '00000000-0000-4000-8000-000000000009', $1)",
            &[&SUBJECT],
        )
        .unwrap();
    let kept = format!(
        "SELECT (SELECT count(*) FROM tally.quarantine) + (SELECT count(*) FROM tally.events WHERE user_id = '{SUBJECT}')"
    );
    assert_eq!(number(&mut superuser, &kept), 0);
}

/// What an erasure takes out of quarantine isn't put there afterwards: whatever is rejected, and whoever's it is said to be.
#[test]
fn what_an_erasure_takes_out_of_quarantine_does_not_come_again() {
    let bench = Bench::new("come_again");
    let nested = json!({"event": {"user_id": SUBJECT, "tenant_id": "t", "account_id": "n"}});
    let id = format!(r#""{SUBJECT}""#);
    let sent = [
        nested.to_string(),
        format!(r#"{{"user_id": {id}, "tenant_id": "t", "tenant_id": "t", "account_id": "n"}}"#),
        format!(r#"{{"user_id": {id}, "tenant_id": "other", "tenant_id": "t", "account_id": "n"}}"#),
        format!(r#"{{"user_id": {id}, "tenant_id": ["other", {{"tenant_id": "\u0074"}}]}}"#),
        format!(r#"{{"tenant_id": "t", "userId": 1, "x": {{"user_id": {id}}}}}"#),
    ];
    let payload = json!({"type": "track", "messageId": "m", "userId": SUBJECT, "timestamp": "not a time", "tenant": "t"}).to_string();
    // Kept before and after: another tenant's, another person's, nobody's.
    let others = [
        format!(r#"{{"user_id": {id}, "tenant_id": "other", "tenant_id": "other"}}"#),
        r#"{"user_id": "u", "tenant_id": "t", "tenant_id": "t"}"#.to_owned(),
        format!(r#"{{"user_id": {id}, "tenant_id": "nobody-was-erased-here", "tenant_id": "x"}}"#),
    ];
    let kept = "SELECT count(*) FROM tally.quarantine";
    bench
        .admin()
        .batch_execute("SELECT tally.define_mapping('of_t', 'segment', '{\"tenant\": \"/tenant\"}')")
        .unwrap();
    let send = |texts: &[String]| {
        let mut loader = bench.database.connect(&bench.loader);
        for text in texts {
            assert_eq!(ingest(&mut loader, text).unwrap().rejected, 1, "{text}");
        }
        let rejected = loader
            .query_one("SELECT rejected FROM tally.ingest_from('segment', $1::text, 'of_t')", &[&payload])
            .unwrap();
        assert_eq!(rejected.get::<_, i64>(0), 1);
    };
    send(&sent);
    let mut superuser = bench.database.superuser();
    assert_eq!(number(&mut superuser, kept), sent.len() as i64 + 1);
    bench.erase("t", SUBJECT);
    assert_eq!(number(&mut superuser, kept), 0);
    send(&sent);
    assert_eq!(number(&mut superuser, kept), 0, "refused, and nothing of it is kept");
    let mut loader = bench.database.connect(&bench.loader);
    for text in &others {
        assert_eq!(ingest(&mut loader, text).unwrap().rejected, 1, "{text}");
    }
    assert_eq!(number(&mut superuser, kept), others.len() as i64);
    // A call of many.
    let together = format!("[{}]", [&sent[..], &others[..]].concat().join(","));
    assert_eq!(ingest(&mut loader, &together).unwrap().rejected, (sent.len() + others.len()) as i64);
    assert_eq!(number(&mut superuser, kept), 2 * others.len() as i64);
}

/// One of a year, with a name of its own: erasures in steps go by month first.
#[test]
fn partitions_that_an_administrator_made_are_searched_too() {
    let bench = Bench::new("of_a_year");
    let mut superuser = bench.database.superuser();
    superuser
        .batch_execute(
            "SELECT tally_internal.create_leaf('of_2024');
             ALTER TABLE tally.events ATTACH PARTITION tally.of_2024 FOR VALUES FROM ('2024-01-01Z') TO ('2025-01-01Z')",
        )
        .unwrap();
    let event = |n: u32, user: &str, occurred_at: &str| {
        json!({"tenant_id": "t", "account_id": "a", "name": "n", "event_id": format!("00000000-0000-4000-8000-{n:012}"),
               "occurred_at": occurred_at, "user_id": user})
    };
    let sent = [
        event(1, SUBJECT, "2024-05-10T10:00:00Z"),
        event(2, "u", "2024-05-10T10:00:00Z"),
        event(3, SUBJECT, "2026-03-01T10:00:00Z"),
    ];
    assert_eq!(bench.send(&sent).accepted, 3);
    let mut admin = bench.admin();
    admin.execute("SELECT tally.erase_subjects('t', ARRAY[$1], 'ticket')", &[&SUBJECT]).unwrap();
    admin.batch_execute("CALL tally.maintain()").unwrap();
    let kept = format!("SELECT count(*) FROM tally.events WHERE user_id = '{SUBJECT}'");
    assert_eq!(number(&mut superuser, &kept), 0);
    assert_eq!(number(&mut superuser, "SELECT count(*) FROM tally.events"), 1);
    let certified = "SELECT count(*) FROM tally.erasure WHERE finished_at IS NOT NULL AND events = 2";
    assert_eq!(number(&mut superuser, certified), 1);
}

/// Events of the subject and of another user in each of four months.
fn two_users() -> Vec<Value> {
    let event = |n: u32, month: u32, user: &str| {
        json!({"tenant_id": "t", "account_id": "a", "name": "n", "event_id": format!("00000000-0000-4000-8000-{n:012}"),
               "occurred_at": format!("2026-{month:02}-10T10:00:00Z"), "user_id": user, "session_id": format!("s-{user}"), "properties": {"value": n}})
    };
    (1..=4).flat_map(|month| [event(month, month, SUBJECT), event(month + 10, month, "u")]).collect()
}

#[test]
fn what_raw_events_are_gone_for_is_named() {
    let bench = Bench::new("frozen");
    assert_eq!(bench.send(&two_users()).accepted, 8);
    bench.fold();
    let mut admin = bench.admin();
    admin
        .batch_execute("SELECT tally.drop_raw('2026-03-01'); SELECT tally.detach_raw('2026-04-01')")
        .unwrap();
    let certificate = bench.erase("t", SUBJECT);
    assert_eq!(certificate["events_removed"], json!(1), "{certificate}");
    assert_eq!(certificate["removed_elsewhere"]["detached"], json!(1), "{certificate}");
    let left: Vec<&str> = certificate["left_in_rollups"]
        .as_array()
        .unwrap()
        .iter()
        .map(|left| left["rollup"].as_str().unwrap())
        .collect();
    assert_eq!(left, ["latest", "names", "payment", "usage"], "{certificate}");
    for left in certificate["left_in_rollups"].as_array().unwrap() {
        assert_eq!(left["from"], json!("2026-01-10T10:00:00Z"), "{left}");
    }
    bench.verify();
    admin.batch_execute("CALL tally.maintain()").unwrap();
    let mut superuser = bench.database.superuser();
    superuser.batch_execute("ANALYZE").unwrap();
    assert_eq!(traces(&mut superuser, SUBJECT), Vec::<String>::new());
    // Counts of others are what they were, also in buckets that stay.
    let counts = "SELECT sum(events)::int8 FROM tally.user_activity_year_base WHERE user_id = 'u'";
    assert_eq!(number(&mut superuser, counts), 4);
    assert_eq!(number(&mut superuser, "SELECT sum(events)::int8 FROM tally.usage_day_base"), 7);
}

/// In months that were detached go also the events without a user of the person's own sessions; and statistics over several columns that
/// somebody declared.
#[test]
fn sessions_in_detached_months_and_declared_statistics_go_too() {
    let bench = Bench::new("detached_sessions");
    let event = |n: u32, month: u32, user: Option<&str>, session: &str| {
        json!({"tenant_id": "t", "account_id": "a", "name": "n", "event_id": format!("00000000-0000-4000-8000-{n:012}"),
               "occurred_at": format!("2026-{month:02}-10T10:00:00Z"), "user_id": user, "session_id": session})
    };
    let mut events = vec![
        event(1, 1, Some(SUBJECT), "own"),
        event(2, 1, None, "own"),
        event(3, 1, Some(SUBJECT), "shared"),
        event(4, 1, None, "shared"),
        event(5, 1, Some("u"), "shared"),
        event(6, 1, None, "another"),
    ];
    events.extend((10..60).map(|n| event(n, 2, Some(SUBJECT), "later")));
    assert_eq!(bench.send(&events).accepted, 56);
    bench.fold();
    let (mut admin, mut superuser) = (bench.admin(), bench.database.superuser());
    admin.batch_execute("SELECT tally.detach_raw('2026-02-01')").unwrap();
    superuser
        .batch_execute(
            "CREATE STATISTICS tally.pairs (mcv) ON tenant_id, user_id FROM tally.events_p2026_02; ANALYZE tally.events_p2026_02",
        )
        .unwrap();
    let remembered =
        format!("SELECT count(*) FROM pg_stats_ext WHERE most_common_vals::text LIKE '%{SUBJECT}%'");
    assert_eq!(number(&mut superuser, &remembered), 1);
    let certificate = bench.erase("t", SUBJECT);
    assert_eq!(certificate["removed_elsewhere"]["detached"], json!(3), "{certificate}");
    let left = "SELECT string_agg(right(event_id::text, 1), '' ORDER BY event_id) FROM tally.detached_events_2026_01";
    assert_eq!(superuser.query_one(left, &[]).unwrap().get::<_, String>(0), "456");
    for _ in 0..2 {
        admin.batch_execute("CALL tally.maintain()").unwrap();
    }
    assert_eq!(number(&mut superuser, &remembered), 0);
}

/// Of what indexes make of rows, too, also where the table is empty afterwards.
#[test]
fn statistics_of_expressions_in_indexes_go_too() {
    let bench = Bench::new("index_statistics");
    let rejected = json!({"tenant_id": "t", "account_id": "a", "name": "n", "user_id": SUBJECT, "occurred_at": "2026-01-10T10:00:00Z", "bad": 1});
    assert_eq!(bench.send(&[rejected.clone(), rejected]).rejected, 2);
    let events: Vec<Value> = (1..=40)
        .map(|n| {
            json!({"tenant_id": "t", "account_id": "a", "name": "n", "event_id": format!("00000000-0000-4000-8000-{n:012}"),
               "occurred_at": "2026-01-10T10:00:00Z", "user_id": SUBJECT})
        })
        .collect();
    assert_eq!(bench.send(&events).accepted, 40);
    let mut superuser = bench.database.superuser();
    superuser
        .batch_execute(
            "CREATE INDEX waiting ON tally.quarantine (tenant_id, left(body, 200));
             CREATE INDEX named ON tally.events (tenant_id, lower(user_id));
             CREATE STATISTICS tally.made ON (left(body, 100)) FROM tally.quarantine; ANALYZE",
        )
        .unwrap();
    let remembered = format!(
        "SELECT count(*) FROM pg_stats WHERE concat(most_common_vals::text, histogram_bounds::text) LIKE '%{SUBJECT}%' AND tablename ~ '^waiting$|_idx|_lower'"
    );
    assert!(number(&mut superuser, &remembered) >= 2);
    bench.erase("t", SUBJECT);
    for _ in 0..2 {
        bench.admin().batch_execute("CALL tally.maintain()").unwrap();
    }
    assert_eq!(number(&mut superuser, &remembered), 0);
    assert_eq!(traces(&mut superuser, SUBJECT), Vec::<String>::new());
}

/// What is made from an id in other letters goes with it; counts and sums in which it counts with others' are told, and by what.
#[test]
fn numbers_that_are_left_are_named_and_ids_in_other_letters_are_not_left() {
    const MIXED: &str = "Planted-4B77E0";
    let bench = Bench::new("letters");
    bench
        .admin()
        .batch_execute(
            "SELECT tally.create_rollup('folded', '{day}', dimensions => ARRAY['lower(user_id) AS who'], measures => ARRAY['count(*) AS n']);
             SELECT tally.create_rollup('plans', '{day}', dimensions => ARRAY['properties->>''plan'' AS plan', 'name'],
               measures => ARRAY['count(*) AS n', 'sum((properties->>''value'')::numeric) AS value', 'max(upper(user_id)) AS loudest'])",
        )
        .unwrap();
    let event = |n: u32, month: u32, user: &str| {
        json!({"tenant_id": "t", "account_id": "a", "name": "n", "event_id": format!("00000000-0000-4000-8000-{n:012}"),
               "occurred_at": format!("2026-{month:02}-10T10:00:00Z"), "user_id": user, "properties": {"value": n, "plan": "pro"}})
    };
    let events: Vec<Value> =
        (1..=2).flat_map(|month| [event(month, month, MIXED), event(month + 10, month, "Other")]).collect();
    assert_eq!(bench.send(&events).accepted, 4);
    bench.fold();
    bench.admin().batch_execute("SELECT tally.drop_raw('2026-02-01')").unwrap();
    let certificate = bench.erase("t", MIXED);
    let left = certificate["left_in_rollups"].as_array().unwrap();
    let of = |rollup: &str| left.iter().find(|left| left["rollup"] == json!(rollup)).unwrap();
    assert_eq!(
        (&of("folded")["numbers"], &of("folded")["columns"], &of("folded")["by"]),
        (&json!(["n"]), &json!([]), &json!(["who"])),
        "{certificate}"
    );
    assert_eq!(
        (&of("plans")["numbers"], &of("plans")["columns"], &of("plans")["by"]),
        (&json!(["n", "value"]), &json!(["loudest"]), &json!(["plan"])),
        "{certificate}"
    );
    bench.admin().batch_execute("CALL tally.maintain()").unwrap();
    let mut superuser = bench.database.superuser();
    for letters in [MIXED.to_owned(), MIXED.to_lowercase(), MIXED.to_uppercase()] {
        assert_eq!(traces(&mut superuser, &letters), Vec::<String>::new());
    }
    let others = "SELECT (SELECT sum(n) FROM tally.folded_day WHERE who = 'other')::int8 * 10 + (SELECT count(*) FROM tally.folded_day)";
    assert_eq!(number(&mut superuser, others), 22);
    // A letter that one collation folds and another doesn't.
    let subject = "Änn-4B77E0@x.de";
    bench
        .admin()
        .batch_execute("SELECT tally.create_rollup('folded_so', '{day}', dimensions => ARRAY['lower(user_id COLLATE \"default\") AS who'], measures => ARRAY['count(*) AS n'])")
        .unwrap();
    assert_eq!(bench.send(&[event(30, 3, subject), event(31, 3, "Other")]).accepted, 2);
    bench.fold();
    bench.admin().batch_execute("SELECT tally.drop_raw('2026-04-01')").unwrap();
    bench.erase("t", subject);
    bench.admin().batch_execute("CALL tally.maintain()").unwrap();
    assert_eq!(traces(&mut superuser, "nn-4b77e0"), Vec::<String>::new());
    assert_eq!(traces(&mut superuser, "NN-4B77E0"), Vec::<String>::new());
    assert_eq!(number(&mut superuser, "SELECT sum(n)::int8 FROM tally.folded_so_day WHERE who = 'other'"), 2);
    // Counted still in January, with others'.
    assert_eq!(
        number(&mut superuser, "SELECT sum(n)::int8 FROM tally.plans_day WHERE bucket < '2026-03-01'"),
        3
    );
}

/// What an expression makes of an id goes with it, whatever its type is and however it is written, where events are gone; what it makes of
/// others' ids, too, stays and is named.
#[test]
fn what_is_made_of_an_id_goes_whatever_its_type() {
    const UUID: &str = "4b77e0d1-9c3a-4f5e-8b6d-7e0f1a2b3c4d";
    const NUMBER: &str = "0471108150";
    const WORD: &str = "pLanted-4b77e0";
    let bench = Bench::new("made");
    let mut admin = bench.admin();
    for (name, filter, made) in [
        ("uuids", "length(user_id) = 36", "user_id::uuid"),
        ("numbers", "user_id ~ '^[0-9]+$'", "user_id::int8"),
        ("amounts", "user_id ~ '^[0-9]+$'", "(user_id::numeric / 10)::text"),
        ("marked", "true", "'u:' || user_id"),
        ("hashed", "true", "md5(user_id)"),
        ("hashes", "true", "md5(user_id)::uuid"),
        ("titled", "true", "initcap(user_id)"),
        ("halves", "length(user_id) = 36", "coalesce(session_id, user_id)::uuid"),
    ] {
        let declare = format!(
            "SELECT tally.create_rollup('{name}', '{{day,month}}', dimensions => ARRAY[$a${made} AS who$a$], measures => ARRAY['count(*) AS n'], filter => $a${filter}$a$);
             SELECT tally.create_rollup('{name}_of_all', '{{day,month}}', dimensions => ARRAY['name'],
               measures => ARRAY['count(*) AS n', $a$min({made}) AS least$a$, $a$max({made}) AS greatest$a$, $a$first({made}) AS earliest$a$, $a$last({made}) AS latest$a$], filter => $a${filter}$a$)"
        );
        admin.batch_execute(&declare).unwrap();
    }
    for (name, made) in [
        ("letters", "left(user_id, 1)"),
        ("known", "user_id IS NOT NULL"),
        ("lengths", "length(user_id)"),
        ("shares", "abs(hashtext(user_id) % 20)"),
        ("kinds", "CASE WHEN user_id ~ '^[0-9]' THEN 'number' ELSE 'word' END"),
        ("ends", "right(user_id, 2)"),
    ] {
        let declare = format!(
            "SELECT tally.create_rollup('{name}', '{{day}}', dimensions => ARRAY[$a${made} AS part$a$], measures => ARRAY['count(*) AS n', $a$last({made}) AS latest$a$])"
        );
        admin.batch_execute(&declare).unwrap();
    }
    let mut sent = 0;
    let mut event = |user: &str| {
        sent += 1;
        json!({"tenant_id": "t", "account_id": "a", "name": "n", "event_id": format!("00000000-0000-4000-8000-{sent:012}"),
               "occurred_at": format!("2026-01-10T10:00:{sent:02}Z"), "user_id": user})
    };
    let own = [UUID, NUMBER, WORD];
    let others = ["4b77e0d1-9c3a-4f5e-8b6d-7e0f1a2b3c4e", "471108151", "planted-4b77e1"];
    let events: Vec<Value> = own.into_iter().chain(others).map(&mut event).collect();
    assert_eq!(bench.send(&events).accepted, 6);
    bench.fold();
    admin.batch_execute("SELECT tally.drop_raw('2026-02-01')").unwrap();
    let mut superuser = bench.database.superuser();
    let rows = |superuser: &mut Client, table: &str| -> Vec<String> {
        let query = format!(
            "SELECT (to_jsonb(b) - '{{tenant_id,account_id,bucket}}'::text[])::text FROM tally.{table}_day_base AS b ORDER BY 1"
        );
        superuser.query(&query, &[]).unwrap().iter().map(|row| row.get(0)).collect()
    };
    let parts = ["letters", "known", "lengths", "shares", "kinds", "ends"];
    let before = parts.map(|table| rows(&mut superuser, table));
    superuser.batch_execute("SELECT tally.set_step_up_policy('subject_report', false)").unwrap();
    // What a report hands out is what an erasure takes.
    let told = |admin: &mut Client, user: &str| -> Vec<String> {
        let mut transaction = admin.transaction().unwrap();
        transaction.batch_execute("SELECT tally.enter('t', NULL); SET LOCAL datestyle = 'German'").unwrap();
        let query = "SELECT r ->> 'from' FROM tally.subject_report('t', $1) AS r WHERE r -> 'row' ? 'who' AND r ->> 'from' LIKE '% by day' ORDER BY 1";
        let told = transaction.query(query, &[&user]).unwrap().iter().map(|row| row.get(0)).collect();
        // That it was told is an act: undone, its entry would come after the erasure.
        transaction.commit().unwrap();
        told
    };
    let by_day =
        |names: &[&str]| -> Vec<String> { names.iter().map(|name| format!("{name} by day")).collect() };
    assert_eq!(
        told(&mut admin, UUID),
        by_day(&["halves", "hashed", "hashes", "marked", "names", "titled", "uuids"])
    );
    assert_eq!(
        told(&mut admin, NUMBER),
        by_day(&["amounts", "hashed", "hashes", "marked", "names", "numbers", "titled"])
    );
    for user in own {
        let certificate = bench.erase("t", user);
        let left = certificate["left_in_rollups"].as_array().unwrap();
        let by: Vec<&Value> = left
            .iter()
            .filter(|left| parts.contains(&left["rollup"].as_str().unwrap()))
            .map(|left| &left["by"])
            .collect();
        assert_eq!(by, vec![&json!(["part"]); parts.len()], "{certificate}");
        assert_eq!(told(&mut admin, user), Vec::<String>::new());
    }
    for _ in 0..2 {
        admin.batch_execute("CALL tally.maintain()").unwrap();
    }
    let made = "SELECT md5($1), md5($1)::uuid::text, initcap($1)";
    for user in own {
        let row = superuser.query_one(made, &[&user]).unwrap();
        for text in [user.trim_start_matches('0'), row.get(0), row.get(1), row.get(2)] {
            assert_eq!(traces(&mut superuser, text), Vec::<String>::new(), "{user}");
        }
    }
    for name in ["uuids", "numbers", "amounts", "halves"] {
        assert_eq!(rows(&mut superuser, name).len(), 1, "{name}");
    }
    for name in ["marked", "hashed", "hashes", "titled"] {
        assert_eq!(rows(&mut superuser, name).len(), 3, "{name}");
    }
    assert_eq!(parts.map(|table| rows(&mut superuser, table)), before);
    bench.verify();
}

/// What two ids are alike as values of a type is neither's alone.
#[test]
fn a_number_that_others_have_too_stays_and_is_named() {
    let bench = Bench::new("alike");
    let mut admin = bench.admin();
    for (name, made) in [
        ("numbers", "user_id::int8"),
        ("decimals", "user_id::numeric::int8"),
        ("shorter", "ltrim(user_id, '0')"),
        ("texts", "user_id::int8::text"),
    ] {
        let declare = format!(
            "SELECT tally.create_rollup('{name}', '{{day}}', dimensions => ARRAY[$a${made} AS part$a$], measures => ARRAY['count(*) AS n', $a$last({made}) AS latest$a$])"
        );
        admin.batch_execute(&declare).unwrap();
    }
    let event = |n: u32, user: &str| {
        json!({"tenant_id": "t", "account_id": "a", "name": "n", "event_id": format!("00000000-0000-4000-8000-{n:012}"),
               "occurred_at": format!("2026-01-{n:02}T10:00:00Z"), "user_id": user})
    };
    let sent = [event(1, "4711"), event(2, "004711"), event(3, "815"), event(4, "12")];
    assert_eq!(bench.send(&sent).accepted, 4);
    bench.fold();
    admin.batch_execute("SELECT tally.drop_raw('2026-02-01')").unwrap();
    let certificate = bench.erase("t", "4711");
    let of = |name: &str| {
        let left = certificate["left_in_rollups"].as_array().unwrap();
        left.iter()
            .find(|left| left["rollup"] == name)
            .unwrap_or_else(|| panic!("{name}: {certificate}"))
            .clone()
    };
    let mut superuser = bench.database.superuser();
    for name in ["numbers", "decimals", "shorter", "texts"] {
        assert_eq!(of(name)["by"], json!(["part"]), "{certificate}");
        let counted = format!("SELECT sum(n)::int8 FROM tally.{name}_day_base WHERE part::text ~ '^4711'");
        assert_eq!(number(&mut superuser, &counted), 2, "{name}");
        let last = format!("SELECT count(latest) FROM tally.{name}_day_base");
        assert_eq!(number(&mut superuser, &last), 4, "{name}");
    }
}

/// As where it was dropped by hand: buckets that need it stay, and keep nobody from being erased.
#[test]
fn a_month_taken_out_by_hand_is_in_nobodys_way() {
    for in_steps in [false, true] {
        let bench = Bench::new(if in_steps { "lost_steps" } else { "lost_once" });
        assert_eq!(bench.send(&two_users()).accepted, 8);
        bench.fold();
        let mut superuser = bench.database.superuser();
        superuser.batch_execute("DROP TABLE tally.events_p2026_02").unwrap();
        let certificate = if in_steps {
            let mut admin = bench.admin();
            admin.execute("SELECT tally.erase_subjects('t', ARRAY[$1], 'ticket 4')", &[&SUBJECT]).unwrap();
            admin.batch_execute("CALL tally.maintain()").unwrap();
            bench.erase("t", SUBJECT)
        } else {
            bench.erase("t", SUBJECT)
        };
        assert_eq!(certificate["events_removed"], json!(3), "{certificate}");
        // February of what is kept by months; the weeks that are in it of what is kept by days and weeks.
        let left: Vec<(&str, &str, &str)> = certificate["left_in_rollups"]
            .as_array()
            .unwrap()
            .iter()
            .map(|left| ["rollup", "from", "before"].map(|part| left[part].as_str().unwrap()).into())
            .collect();
        let february = ("2026-02-01T00:00:00Z", "2026-03-01T00:00:00Z");
        for (rollup, from, before) in [
            ("latest", february.0, february.1),
            ("names", "2026-01-26T00:00:00Z", "2026-03-02T00:00:00Z"),
            ("usage", february.0, february.1),
        ] {
            assert!(left.contains(&(rollup, from, before)), "{rollup}: {certificate}");
        }
        bench.admin().batch_execute("CALL tally.maintain()").unwrap();
        superuser.batch_execute("ANALYZE").unwrap();
        assert_eq!(traces(&mut superuser, SUBJECT), Vec::<String>::new(), "in steps: {in_steps}");
        // Everything of the other, and the subject's one event that nobody can tell from it.
        assert_eq!(number(&mut superuser, "SELECT sum(events)::int8 FROM tally.usage_day_base"), 5);
        let of_other = "SELECT sum(events)::int8 FROM tally.user_activity_year_base WHERE user_id = 'u'";
        assert_eq!(number(&mut superuser, of_other), 4);
        assert_eq!(
            number(&mut superuser, "SELECT count(*) FROM tally.maintenance WHERE failed_at IS NOT NULL"),
            0
        );
    }
}

#[test]
fn many_are_erased_in_steps_while_ingest_goes_on() {
    let subjects: u64 = std::env::var("TALLY_ERASURES").map_or(400, |text| text.parse().expect("a number"));
    let bench = Bench::new("many");
    let event = |n: u64, user: String| {
        json!({"tenant_id": "t", "account_id": format!("a{}", n % 5), "name": "n", "event_id": format!("00000000-0000-4000-8000-{n:012}"),
               "occurred_at": format!("2026-0{}-{:02}T10:00:00Z", 1 + n % 3, 1 + n % 28), "user_id": user, "properties": {"value": n % 100}})
    };
    let users = subjects + subjects / 4;
    let events: Vec<Value> = (0..users * 3).map(|n| event(n, format!("u-{}-end", n % users))).collect();
    for batch in events.chunks(2_000) {
        assert_eq!(bench.send(batch).accepted, batch.len() as i64);
    }
    let named: Vec<String> = (0..subjects).map(|n| format!("u-{n}-end")).collect();
    let ask = "SELECT tally.erase_subjects('t', $1, 'ticket 2')";
    assert_eq!(bench.admin().query_one(ask, &[&named]).unwrap().get::<_, i64>(0), subjects as i64);
    assert_eq!(bench.admin().query_one(ask, &[&named]).unwrap().get::<_, i64>(0), 0, "asked for before");
    // Refused from the request on.
    assert_eq!(bench.send(&[event(9_000_000, named[0].clone())]).rejected, 1);
    let is_done = std::sync::atomic::AtomicBool::new(false);
    let sent = std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut sent = 0;
            // Not for ever, should the erasures fail.
            while sent < 3_000 && !is_done.load(std::sync::atomic::Ordering::Relaxed) {
                let batch: Vec<Value> =
                    (0..10).map(|n| event(10_000_000 + sent + n, format!("later-{n}"))).collect();
                assert_eq!(bench.send(&batch).accepted, 10);
                sent += 10;
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
            sent
        });
        let mut admin = bench.admin();
        let left = "SELECT count(*) FROM tally.erasure WHERE finished_at IS NULL";
        let until = std::time::Instant::now() + std::time::Duration::from_secs(600);
        while number(&mut bench.database.superuser(), left) > 0 {
            admin.batch_execute("CALL tally.maintain(500)").unwrap();
            assert!(std::time::Instant::now() < until, "the erasures don't end");
        }
        is_done.store(true, std::sync::atomic::Ordering::Relaxed);
        writer.join().unwrap()
    });
    bench.verify();
    let mut superuser = bench.database.superuser();
    assert_eq!(number(&mut superuser, "SELECT count(*) FROM tally.events"), (subjects / 4 * 3 + sent) as i64);
    assert_eq!(
        number(
            &mut superuser,
            "SELECT count(*) FROM tally.erasure WHERE events = 3 AND certificate ->> 'events_removed' = '3'"
        ),
        subjects as i64
    );
    assert_eq!(
        number(&mut superuser, "SELECT count(*) FROM tally.audit_entry WHERE act = 'subject_erased'"),
        subjects as i64
    );
    assert_eq!(number(&mut superuser, "SELECT count(*) FROM tally.erasure_run"), 0);
    bench.admin().batch_execute("CALL tally.maintain()").unwrap();
    for subject in named.iter().step_by(named.len() / 4) {
        assert_eq!(traces(&mut superuser, subject), Vec::<String>::new());
    }
}

#[test]
fn only_administrators_erase_and_errors_say_what_to_do() {
    let mut bench = Bench::new("refusals");
    let reader = bench.database.role("reader", &["tally_reader", "tally_writer"]);
    let mut admin = bench.admin();
    let erase = "SELECT tally.erase_subject($1::text, $2::text, $3::text)";
    let try_to = |client: &mut Client, tenant: Option<&str>, subject: Option<&str>, reason: Option<&str>| {
        code(client.query(erase, &[&tenant, &subject, &reason]))
    };
    assert_eq!(try_to(&mut bench.database.connect(&reader), Some("t"), Some("u"), Some("r")), "42501");
    assert_eq!(try_to(&mut admin, None, Some("u"), Some("r")), "22004");
    assert_eq!(try_to(&mut admin, Some("t"), None, Some("r")), "22004");
    assert_eq!(try_to(&mut admin, Some("t"), Some("u"), Some("  ")), "22004");
    assert_eq!(try_to(&mut admin, Some("t"), Some(SUBJECT), Some(&format!("erase {SUBJECT}"))), "22023");
    assert_eq!(try_to(&mut admin, Some("t"), Some(""), Some("r")), "22023");
    assert_eq!(code(admin.query("SELECT tally.erase_subjects('t', ARRAY['u', NULL], 'r')", &[])), "22004");
    let mut transaction = admin.transaction().unwrap();
    transaction.execute("SELECT tally.enter('other')", &[]).unwrap();
    assert_eq!(code(transaction.query("SELECT tally.erase_subject('t', 'u', 'r')", &[])), "42501");
    transaction.rollback().unwrap();
    let mut transaction =
        admin.build_transaction().isolation_level(postgres::IsolationLevel::RepeatableRead).start().unwrap();
    assert_eq!(code(transaction.query("SELECT tally.erase_subject('t', 'u', 'r')", &[])), "25001");
    transaction.rollback().unwrap();
    // A second factor is needed unless a policy says otherwise.
    let mut superuser = bench.database.superuser();
    superuser.batch_execute("SELECT tally.set_step_up_policy('erase_subject', null)").unwrap();
    assert_eq!(try_to(&mut admin, Some("t"), Some("u"), Some("r")), "42T20");
    assert_eq!(code(admin.query("SELECT tally.erase_subjects('t', '{u}', 'r')", &[])), "42T20");
    superuser.batch_execute("SELECT tally.set_step_up_policy('erase_subject', false)").unwrap();
    // What is undone is as if it had never been asked for.
    assert_eq!(bench.send(&[json!({"tenant_id": "t", "account_id": "a", "name": "n", "user_id": SUBJECT, "occurred_at": "2026-03-01T10:00:00Z",
        "event_id": "00000000-0000-4000-8000-000000000001"})]).accepted, 1);
    let mut transaction = admin.transaction().unwrap();
    transaction.query(erase, &[&"t", &SUBJECT, &"r"]).unwrap();
    transaction.rollback().unwrap();
    assert_eq!(bench.send(&[json!({"tenant_id": "t", "account_id": "a", "name": "n", "user_id": SUBJECT, "occurred_at": "2026-03-01T10:00:00Z",
        "event_id": "00000000-0000-4000-8000-000000000002"})]).accepted, 1);
    bench.verify();
    // An administrator of one tenant's is told of no other's, and does nothing of theirs.
    let confined = bench.database.role("confined", &["tally_admin"]);
    bench
        .database
        .superuser()
        .execute("SELECT tally.bind_role($1::text::regrole, 'other')", &[&confined])
        .unwrap();
    admin.query("SELECT tally.erase_subjects('t', '{somebody}', 'r')", &[]).unwrap();
    let mut confined = bench.database.connect(&confined);
    assert_eq!(number(&mut admin, "SELECT count(*) FROM tally_internal.erasing_tenants()"), 1);
    assert_eq!(number(&mut confined, "SELECT count(*) FROM tally_internal.erasing_tenants()"), 0);
    assert_eq!(code(confined.query("SELECT tally_internal.erasure_step('t', 10)", &[])), "42501");
    admin.batch_execute("CALL tally.maintain()").unwrap();
    // Nobody but the tables' owner reads keys or waiting ids; a tenant sees its own erasures.
    admin.query("SELECT tally.erase_subjects('t', ARRAY[$1::text], 'r')", &[&SUBJECT]).unwrap();
    for query in ["SELECT * FROM tally.erasure_key", "SELECT subject FROM tally.erasure"] {
        assert_eq!(code(admin.query(query, &[])), "42501", "{query}");
    }
    bench.database.superuser().execute("SELECT tally.bind_role($1::text::regrole, 't')", &[&reader]).unwrap();
    let mut bound = bench.database.connect(&reader);
    assert_eq!(number(&mut bound, "SELECT count(*) FROM tally.erasures"), 2);
    admin.query("SELECT tally.erase_subjects('other', ARRAY[$1::text], 'r')", &[&SUBJECT]).unwrap();
    assert_eq!(number(&mut bound, "SELECT count(*) FROM tally.erasures"), 2);
}

/// What a person has who was erased, and who is there again: in a month that was elsewhere meanwhile, and as the source of a batch.
#[test]
fn who_is_there_again_is_erased_again() {
    for in_steps in [false, true] {
        let bench = Bench::new(if in_steps { "again_steps" } else { "again_once" });
        assert_eq!(bench.send(&two_users()).accepted, 8);
        let mut superuser = bench.database.superuser();
        superuser
            .batch_execute(
                "CREATE SCHEMA archive; ALTER TABLE tally.events DETACH PARTITION tally.events_p2026_02;
                 ALTER TABLE tally.events_p2026_02 SET SCHEMA archive",
            )
            .unwrap();
        let erase = |reason: &str| -> Value {
            let mut admin = bench.admin();
            if in_steps {
                let asked = "SELECT tally.erase_subjects('t', ARRAY[$1], $2)";
                assert_eq!(admin.query_one(asked, &[&SUBJECT, &reason]).unwrap().get::<_, i64>(0), 1);
                // While it waits, once more says nothing new.
                assert_eq!(admin.query_one(asked, &[&SUBJECT, &reason]).unwrap().get::<_, i64>(0), 0);
                admin.batch_execute("CALL tally.maintain()").unwrap();
                let last = "SELECT certificate::text FROM tally.erasure ORDER BY finished_at DESC LIMIT 1";
                let text: String = bench.database.superuser().query_one(last, &[]).unwrap().get(0);
                return serde_json::from_str(&text).unwrap();
            }
            let asked = "SELECT tally.erase_subject('t', $1, $2)::text";
            let text: String = admin.query_one(asked, &[&SUBJECT, &reason]).unwrap().get(0);
            serde_json::from_str(&text).unwrap()
        };
        let first = erase("ticket 1");
        assert_eq!(first["events_removed"], json!(3), "{first}");
        // Nothing is there: the certificate is that of before, and what was asked for is an act.
        assert_eq!(erase("ticket 2"), first);
        let certificates = "SELECT count(*) FROM tally.erasure";
        assert_eq!(number(&mut superuser, certificates), 1);
        let any = "SELECT count(*) FROM tally.lint() WHERE name = 'erased_there_again'";
        assert_eq!(number(&mut bench.admin(), any), 0, "it isn't there");

        let has_february =
            "SELECT count(*) FROM tally.events WHERE occurred_at < '2026-03-01' AND user_id ~ 'planted'";
        superuser
            .batch_execute(
                "ALTER TABLE archive.events_p2026_02 SET SCHEMA tally;
                 ALTER TABLE tally.events ATTACH PARTITION tally.events_p2026_02 FOR VALUES FROM ('2026-02-01 00:00Z') TO ('2026-03-01 00:00Z')",
            )
            .unwrap();
        assert_eq!(number(&mut superuser, has_february), 1);
        let told = "SELECT count(*) FROM tally.lint() WHERE name = 'erased_there_again' AND detail ~ 'p2026_02 .* 1 persons of tenant ''t'''";
        assert_eq!(number(&mut bench.admin(), told), 1);
        let second = erase("ticket 3");
        assert_eq!(number(&mut bench.admin(), told), 0);
        assert_eq!(second["events_removed"], json!(1), "{second}");
        assert_eq!(second["reason"], json!("ticket 3"), "{second}");
        assert_eq!(second["erased_before"], json!(1), "{second}");
        assert_eq!(second["left_in_rollups"], json!([]), "{second}");
        bench.admin().batch_execute("CALL tally.maintain()").unwrap();
        superuser.batch_execute("ANALYZE").unwrap();
        assert_eq!(traces(&mut superuser, SUBJECT), Vec::<String>::new(), "in steps: {in_steps}");
        bench.verify();

        // As a later batch's source, which ingest doesn't refuse.
        let mut loader = bench.database.connect(&bench.loader);
        loader
            .execute(
                "SELECT * FROM tally.ingest('[{\"tenant_id\": \"t\", \"account_id\": \"a\", \"name\": \"n\", \"event_id\": \"00000000-0000-4000-8000-0000000000aa\",
                   \"occurred_at\": \"2026-03-01T10:00:00Z\"}]', jsonb_build_object('source', $1::text))",
                &[&SUBJECT],
            )
            .unwrap();
        let third = erase("ticket 4");
        assert_eq!(third["removed_elsewhere"]["batches"], json!(1), "{third}");
        assert_eq!((&third["events_removed"], &third["erased_before"]), (&json!(0), &json!(2)), "{third}");
        assert_eq!(erase("ticket 5"), third);

        // All certificates are there, with their reasons, and sealed; and each request is an act with its reason.
        let sealed = "SELECT array_agg(x.reason ORDER BY x.finished_at) FROM tally.erasures AS x JOIN tally.audit_entry AS a
                        ON a.act = 'subject_erased' AND a.object = x.subject_hash::text
                       AND a.detail::jsonb ->> 'certificate_sha256' = encode(sha256(convert_to(x.certificate::text, 'UTF8')), 'hex')";
        let reasons: Vec<String> = superuser.query_one(sealed, &[]).unwrap().get(0);
        assert_eq!(reasons, ["ticket 1", "ticket 3", "ticket 4"]);
        let asked = "SELECT array_agg(a.detail::jsonb ->> 'reason' ORDER BY a.at) FROM tally.audit_entry AS a WHERE a.act = 'erasure_requested'";
        let reasons: Vec<String> = superuser.query_one(asked, &[]).unwrap().get(0);
        assert_eq!(reasons, ["ticket 1", "ticket 2", "ticket 3", "ticket 4", "ticket 5"]);
        let summary = bench.send(&two_users()[..1]);
        assert_eq!(summary.accepted, 0, "{summary:?}");
    }
}

/// Who is asked for again together with others, and of whom nothing is there, keeps the certificate, whatever the others had.
#[test]
fn who_has_nothing_keeps_the_certificate_beside_others() {
    let bench = Bench::new("again_beside");
    assert_eq!(bench.send(&two_users()).accepted, 8);
    let first = bench.erase("t", SUBJECT);
    let rejected = json!({"tenant_id": "t", "account_id": "a", "name": "n", "user_id": "second"});
    assert_eq!(bench.send(&[rejected]).rejected, 1);
    let mut admin = bench.admin();
    let asked = "SELECT tally.erase_subjects('t', ARRAY[$1, 'second', 'u'], 'ticket 2')";
    assert_eq!(admin.query_one(asked, &[&SUBJECT]).unwrap().get::<_, i64>(0), 3);
    admin.batch_execute("CALL tally.maintain()").unwrap();
    let certificates = "SELECT certificate::text FROM tally.erasure ORDER BY reason, events";
    let certificates: Vec<Value> = bench
        .database
        .superuser()
        .query(certificates, &[])
        .unwrap()
        .iter()
        .map(|row| serde_json::from_str(row.get(0)).unwrap())
        .collect();
    assert_eq!(certificates.len(), 3, "{certificates:?}");
    assert_eq!(certificates[0], first);
    for (certificate, events) in certificates[1..].iter().zip([0, 4]) {
        assert_eq!(certificate["events_removed"], json!(events), "{certificate}");
        assert_eq!(certificate["erased_together"], json!(3), "{certificate}");
        assert_eq!(certificate["erased_before"], json!(0), "{certificate}");
        let told = &certificate["removed_elsewhere"];
        assert_eq!(told["quarantine"], json!(1), "{certificate}");
        assert!(told.get("again").is_none(), "{certificate}");
    }
    assert_eq!(bench.erase("t", SUBJECT), first);
}

/// Asking again where nothing is there keeps nobody waiting, and two who ask at once get one certificate.
#[test]
fn asking_again_locks_nobody_out() {
    let bench = Bench::new("again_unlocked");
    assert_eq!(bench.send(&two_users()).accepted, 8);
    let first = bench.erase("t", SUBJECT);
    // A call that is in the middle of its work.
    let mut loader = bench.database.connect(&bench.loader);
    let mut transaction = loader.transaction().unwrap();
    let event = json!({"tenant_id": "t", "account_id": "a", "name": "n", "event_id": "00000000-0000-4000-8000-0000000000ab",
                       "occurred_at": "2026-03-01T10:00:00Z", "user_id": "u"});
    assert_eq!(ingest(&mut transaction, &event.to_string()).unwrap().accepted, 1);
    let mut admin = bench.admin();
    admin.batch_execute("SET statement_timeout = '20s'").unwrap();
    let again: String =
        admin.query_one("SELECT tally.erase_subject('t', $1, 'ticket 1')::text", &[&SUBJECT]).unwrap().get(0);
    transaction.commit().unwrap();
    assert_eq!(serde_json::from_str::<Value>(&again).unwrap(), first);

    let certificates: Vec<Value> = std::thread::scope(|scope| {
        let erasing: Vec<_> = (0..3).map(|_| scope.spawn(|| bench.erase("t", "u"))).collect();
        erasing.into_iter().map(|each| each.join().unwrap()).collect()
    });
    assert!(certificates.iter().all(|each| *each == certificates[0]), "{certificates:?}");
    assert_eq!(number(&mut bench.database.superuser(), "SELECT count(*) FROM tally.erasure"), 2);
    // In one transaction, too.
    let mut both = admin.transaction().unwrap();
    let erase = "SELECT tally.erase_subject('t', 'nobody', 'ticket 6')::text";
    let [one, other] = [0, 1].map(|_| both.query_one(erase, &[]).unwrap().get::<_, String>(0));
    both.commit().unwrap();
    assert_eq!(one, other);
}

/// Of lines that are no event, and of what is no JSON, whatever parts words in it.
#[test]
fn an_id_with_separators_in_it_is_found_in_what_could_not_be_read() {
    let bench = Bench::new("erased_words");
    let mapping = r#"SELECT tally.define_mapping(format, format, '{"tenant": {"value": "t"}, "account": {"value": "n"}}') FROM unnest('{snowplow,segment}'::text[]) AS format"#;
    bench.admin().batch_execute(mapping).unwrap();
    let broken = r#"{"type":"track"}
{"type":"track","event":"5" x","userId":"SUBJECT"}"#;
    let mut loader = bench.database.connect(&bench.loader);
    let mut superuser = bench.database.superuser();
    for subject in ["urn:user:4711", "ann lee", "ann@x.example", "{4711}", "a, b; c"] {
        let mut send = || {
            for (format, text) in [
                ("snowplow", "web\tx\t2026\tSUBJECT\tfoo"),
                // Somebody else.
                ("snowplow", "web\tx\t2026\tmyxSUBJECTx7\tfoo"),
                ("segment", broken),
            ] {
                let send =
                    format!("SELECT rejected FROM tally.ingest_from('{format}', $1::text, '{format}')");
                let sent = text.replace("SUBJECT", subject);
                assert!(loader.query_one(&send, &[&sent]).unwrap().get::<_, i64>(0) > 0, "{sent}");
            }
        };
        send();
        let mut waiting = || {
            let query = "SELECT count(*), count(*) FILTER (WHERE tally_internal.names(body, 'user_id', ARRAY[$1::text])) FROM tally.quarantine";
            let row = superuser.query_one(query, &[&subject]).unwrap();
            (row.get::<_, i64>(0), row.get::<_, i64>(1))
        };
        let (before, named) = waiting();
        assert_eq!(named, 2, "{subject}");
        let certificate = bench.erase("t", subject);
        assert_eq!(certificate["removed_elsewhere"]["quarantine"], json!(2), "{certificate}");
        assert_eq!(waiting(), (before - 2, 0), "{subject}");
        // The same again is not kept.
        send();
        assert_eq!(waiting(), (before, 0), "{subject}: the other two lines");
    }
}

/// What a rollup can't be evaluated for, among events that it hasn't counted yet, is none of an erasure's business.
#[test]
fn a_rollup_that_is_not_filled_yet_keeps_nobody_from_being_erased() {
    let mut database = Database::new("unfilled");
    let admin = database.role("admin", &["tally_admin"]);
    let mut superuser = database.superuser();
    superuser.batch_execute("SELECT tally.set_step_up_policy('erase_subject', false)").unwrap();
    let event = |number: u32, user: &str, time: &str, amount: &str| {
        json!({"tenant_id": "t", "account_id": "n", "name": "p", "user_id": user, "occurred_at": time,
               "event_id": format!("00000000-0000-4000-8000-{number:012}"), "properties": {"x": amount}})
    };
    let old = [event(1, "bob", "2026-01-05T10:00:00Z", "NaN"), event(2, "ann", "2026-01-05T11:00:00Z", "1")];
    assert_eq!(ingest(&mut superuser, &json!(old).to_string()).unwrap().accepted, 2);
    let mut admin = database.connect(&admin);
    admin
        .batch_execute(
            "SELECT tally.create_rollup('s', grains => '{day}', measures => ARRAY[$$sum((properties->>'x')::numeric) AS p$$, 'distinct(user_id) AS u'], backfill => false)",
        )
        .unwrap();
    // What comes in late is tried all the same, while it can be rejected.
    let late = ingest(&mut superuser, &event(3, "eve", "2026-01-05T12:00:00Z", "NaN").to_string()).unwrap();
    assert_eq!(late.rejected, 1);
    admin.batch_execute("SELECT tally.erase_subject('t', 'ann', 'ticket 1')").unwrap();
    assert_eq!(number(&mut superuser, "SELECT count(*) FROM tally.events WHERE user_id = 'ann'"), 0);
    admin.batch_execute("SELECT tally.rebuild_rollup('s')").unwrap();
    assert_eq!(number(&mut superuser, "SELECT count(*) FROM tally.s_day"), 0);
}
