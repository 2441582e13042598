//! What could keep a rollup from being folded or loaded, and thus everybody from ingesting: such an event is rejected alone,
//! such a row stays pending, such a rollup can be dropped; and what is counted doesn't depend on who counts.

use postgres::Client;
use serde_json::{Value, json};
use std::thread::sleep;
use std::time::{Duration, Instant};
use tally_server_tests::{
    Database, assert_right, fold_all, ingest, ingest_by_simple_query, number, wait_for,
};

fn event(number: usize, account: &str, properties: Value) -> Value {
    json!({"tenant_id": "t", "account_id": account, "name": "n", "occurred_at": "2026-03-02T09:15:00Z",
           "event_id": format!("00000000-0000-4000-8000-{number:012}"), "properties": properties})
}

#[test]
fn numbers_whose_sum_could_not_be_stored_are_rejected_alone() {
    let database = Database::new("sums");
    let mut client = database.superuser();
    client
        .batch_execute("SELECT tally.create_rollup('revenue', '{day}', ARRAY['sum((properties->>''amount'')::numeric) AS revenue'])")
        .unwrap();
    let amounts = ["9e131071", "9e131071", "1e1000", "1e-1001", "9e999", "9e999", "1e-1000", "12.5"];
    let events: Vec<Value> = amounts
        .iter()
        .enumerate()
        .map(|(place, amount)| event(place, "a", json!({"amount": amount})))
        .collect();
    let summary = ingest(&mut client, &Value::Array(events).to_string()).unwrap();
    assert_eq!((summary.accepted, summary.rejected), (4, 4));
    let reasons =
        client.query("SELECT DISTINCT sqlstate || ' ' || reason FROM tally.quarantine", &[]).unwrap();
    assert_eq!(reasons.len(), 1);
    assert_eq!(
        reasons[0].get::<_, String>(0),
        "22003 rollup \"revenue\": revenue is not a finite number of at most 1000 digits before its point and 1000 after it"
    );
    fold_all(&mut client, "revenue");
    assert_right(&mut client, "revenue");
}

#[test]
fn values_too_long_for_a_key_are_rejected_alone() {
    let database = Database::new("keys");
    let mut client = database.superuser();
    let dimensions: Vec<String> =
        (0..5).map(|place| format!("$$properties->>'{place}' AS d{place}$$")).collect();
    client
        .batch_execute(&format!(
            "SELECT tally.create_rollup('wide', '{{day}}', dimensions => ARRAY[{}], measures => ARRAY['count(*) AS n'])",
            dimensions.join(", ")
        ))
        .unwrap();
    // Not compressible.
    let text = |seed: usize, length: usize| -> String {
        let mut random = tally_workload::Random::new(seed as u64);
        (0..length).map(|_| char::from(b'!' + random.below(90) as u8)).collect()
    };
    let mut accepted = 0;
    for (place, length) in [400, 450, 460, 470, 480, 490, 495, 500, 501].into_iter().enumerate() {
        let properties: serde_json::Map<String, Value> =
            (0..5).map(|key| (key.to_string(), json!(text(10 * place + key, length)))).collect();
        let events = [
            event(10 * place, &"a".repeat(200), Value::Object(properties)),
            event(10 * place + 1, "b", json!({})),
        ];
        let summary = ingest(&mut client, &Value::Array(events.to_vec()).to_string()).unwrap();
        assert_eq!(summary.accepted + summary.rejected, 2);
        assert!(summary.accepted >= 1, "{length}: the other event goes in");
        accepted += summary.accepted - 1;
        fold_all(&mut client, "wide");
    }
    // Those of 460 bytes and less fit whatever the tenant.
    assert!((3..=5).contains(&accepted), "{accepted}");
    assert_right(&mut client, "wide");
}

/// Whatever put it there: who ingests other events is not to suffer.
#[test]
fn rows_that_cannot_be_folded_stay_pending_and_keep_nobody_out() {
    let database = Database::new("stuck");
    let mut client = database.superuser();
    client
        .batch_execute("SELECT tally.create_rollup('revenue', '{day}', ARRAY['count(*) AS n', 'sum((properties->>''amount'')::numeric) AS revenue'])")
        .unwrap();
    assert_eq!(ingest(&mut client, &event(0, "a", json!({"amount": 1})).to_string()).unwrap().accepted, 1);
    client
        .batch_execute("INSERT INTO tally.revenue_pending SELECT 'x', 'x', '2026-03-02', 1, 9e131071 FROM generate_series(1, 2)")
        .unwrap();
    database.set("tally.pending_limit = '64kB'");
    let mut writer = database.superuser();
    for call in 1..=20 {
        let events: Vec<Value> = (0..500)
            .map(|place| event(call * 500 + place, &format!("a{place}"), json!({"amount": 2})))
            .collect();
        assert_eq!(ingest(&mut writer, &Value::Array(events).to_string()).unwrap().accepted, 500);
    }
    assert!(
        number(&mut client, "SELECT count(*) FROM tally.revenue_pending") > 20 * 400,
        "nothing is folded"
    );
    assert!(client.query("SELECT tally.fold('revenue')", &[]).is_err(), "who folds is told");
    client.batch_execute("DELETE FROM tally.revenue_pending WHERE tenant_id = 'x'").unwrap();
    fold_all(&mut client, "revenue");
    assert_right(&mut client, "revenue");
    assert_eq!(number(&mut client, "SELECT sum(n)::int8 FROM tally.revenue_day_base"), 10_001);
}

/// A session of a tenant's can't fold by itself. It goes on all the same where pending rows can't be folded, however many wait, and
/// health() says which rollup it is.
#[test]
fn a_rollup_that_cannot_be_folded_is_set_aside() {
    let mut database = Database::new("aside");
    let writer = database.role("writer", &["tally_writer"]);
    let mut admin = database.superuser();
    admin
        .batch_execute(&format!(
            "SELECT tally.create_rollup('revenue', '{{day}}', ARRAY['count(*) AS n', 'sum((properties->>''amount'')::numeric) AS revenue']);
             SELECT tally.bind_role('{writer}', 't');
             INSERT INTO tally.revenue_pending SELECT 'x', 'x', '2026-03-02', 1, 9e131071 FROM generate_series(1, 2)"
        ))
        .unwrap();
    database.set("tally.pending_limit = '64kB'");
    let mut client = database.connect(&writer);
    let batch = |call: usize| {
        let events: Vec<Value> = (0..1_000)
            .map(|place| event(call * 1_000 + place, &format!("a{place}"), json!({"amount": 2})))
            .collect();
        Value::Array(events).to_string()
    };
    // A process has to have tried before anybody knows.
    let is_known = "SELECT count(*) FROM tally.maintenance \
                     WHERE task = 'fold' AND subject = 'revenue' AND failed_at IS NOT NULL AND sqlstate = '22003'";
    let until = Instant::now() + Duration::from_secs(180);
    let mut calls = 0;
    while number(&mut admin, is_known) == 0
        || number(&mut admin, "SELECT count(*) FROM tally.revenue_pending") < 45_000
    {
        assert_eq!(ingest(&mut client, &batch(calls)).unwrap().accepted, 1_000);
        calls += 1;
        assert!(Instant::now() < until, "nobody says that the fold fails, after {calls} calls");
    }
    // Of 64 limits of 64 kB a row of 128 bytes is one in 32,768: from there on a rollup that is behind refuses what comes in.
    assert_eq!(ingest(&mut client, &batch(calls)).unwrap().accepted, 1_000);
    let health = "SELECT advice FROM tally_internal.health_maintenance() WHERE status = 'failing'";
    let advice: String = admin.query_one(health, &[]).unwrap().get(0);
    assert!(advice.contains("revenue"), "{advice}");
    for rollup in ["usage", "user_activity", "session"] {
        fold_all(&mut admin, rollup);
        assert_right(&mut admin, rollup);
    }

    // Once the rows are away, a process that folds says so.
    admin.batch_execute("DELETE FROM tally.revenue_pending WHERE tenant_id = 'x'").unwrap();
    while number(&mut admin, is_known) > 0 {
        calls += 1;
        assert_eq!(ingest(&mut client, &batch(calls)).unwrap().accepted, 1_000);
        assert!(Instant::now() < until, "nobody folds again");
        sleep(Duration::from_millis(100));
    }
    fold_all(&mut admin, "revenue");
    assert_right(&mut admin, "revenue");
}

/// What a process can't fold for another reason than the rows, here for a trigger of somebody's, is told as well.
#[test]
fn a_process_that_cannot_write_base_rows_says_so() {
    let mut database = Database::new("unwritable");
    let writer = database.role("writer", &["tally_writer"]);
    let mut admin = database.superuser();
    admin
        .batch_execute(&format!(
            "SELECT tally.bind_role('{writer}', 't');
             CREATE FUNCTION public.see() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
             CREATE TRIGGER see BEFORE INSERT ON tally.usage_day_base FOR EACH ROW EXECUTE FUNCTION public.see()"
        ))
        .unwrap();
    database.set("tally.pending_limit = '64kB'");
    let mut client = database.connect(&writer);
    let mut calls = 0;
    let mut call = || {
        let events: Vec<Value> =
            (0..300).map(|place| event(calls * 300 + place, &format!("a{place}"), json!({}))).collect();
        calls += 1;
        assert_eq!(ingest(&mut client, &Value::Array(events).to_string()).unwrap().accepted, 300);
    };
    let mut told = |admin: &mut Client| -> Option<String> {
        call();
        let health = "SELECT advice FROM tally_internal.health_maintenance() WHERE status = 'failing'";
        admin.query_opt(health, &[]).unwrap().map(|row| row.get(0))
    };
    let advice = wait_for("health to tell", || told(&mut admin));
    assert!(advice.contains("usage") && advice.contains("trigger"), "{advice}");
    admin.batch_execute("DROP TRIGGER see ON tally.usage_day_base").unwrap();
    wait_for("health to say that all is well", || told(&mut admin).is_none().then_some(()));
    fold_all(&mut admin, "usage");
    assert_right(&mut admin, "usage");

    // A call that folds itself isn't refused for it, either.
    admin
        .batch_execute("CREATE TRIGGER see AFTER UPDATE ON tally.usage_day_base FOR EACH ROW EXECUTE FUNCTION public.see()")
        .unwrap();
    for number in 0..6 {
        let events: Vec<Value> = (0..1_600)
            .map(|place| event(100_000 + number * 1_600 + place, &format!("a{place}"), json!({})))
            .collect();
        assert_eq!(ingest_by_simple_query(&mut admin, &Value::Array(events).to_string()).unwrap(), 1_600);
    }
    admin.batch_execute("DROP TRIGGER see ON tally.usage_day_base").unwrap();
    fold_all(&mut admin, "usage");
    assert_right(&mut admin, "usage");
}

/// Nor is anybody's ingest failed by what code that somebody added to the tables may not do.
#[test]
fn a_rollup_whose_index_may_not_be_written_is_set_aside() {
    let database = Database::new("forbidden");
    database.set("tally.pending_limit = '64kB'");
    let mut admin = database.superuser();
    admin
        .batch_execute(
            "CREATE FUNCTION public.peek(text) RETURNS text LANGUAGE plpgsql IMMUTABLE
               AS $$BEGIN PERFORM set_config('tally.peeked', $1, false); RETURN $1; END$$;
             CREATE INDEX peek ON tally.usage_day_base (public.peek(account_id))",
        )
        .unwrap();
    let mut client = database.superuser();
    let mut calls = 0;
    let mut call = || {
        let events: Vec<Value> =
            (0..1_600).map(|place| event(calls * 1_600 + place, &format!("a{place}"), json!({}))).collect();
        calls += 1;
        assert_eq!(ingest(&mut client, &Value::Array(events).to_string()).unwrap().accepted, 1_600);
    };
    let advice = wait_for("health to tell", || {
        call();
        let health = "SELECT advice FROM tally_internal.health_maintenance() WHERE status = 'failing'";
        admin.query_opt(health, &[]).unwrap().map(|row| row.get::<_, String>(0))
    });
    assert!(advice.contains("usage"), "{advice}");
    admin.batch_execute("DROP INDEX tally.peek").unwrap();
    fold_all(&mut admin, "usage");
    assert_right(&mut admin, "usage");
}

/// A literal means the same whoever loads the expression.
#[test]
fn literals_are_read_in_utc_whatever_the_session() {
    let database = Database::new("literals");
    let mut client = database.superuser();
    client.batch_execute("SET timezone = 'America/New_York'").unwrap();
    client
        .batch_execute("SELECT tally.create_rollup('late', '{day}', ARRAY['count(*) AS n'], filter => $$occurred_at >= '2026-03-02 09:15' AND occurred_at < '03/02/2026 09:16'$$)")
        .unwrap();
    for (place, zone) in ["Asia/Tokyo", "UTC", "America/New_York"].into_iter().enumerate() {
        let mut writer = database.superuser();
        writer
            .batch_execute(&format!(
                "SET timezone = '{zone}'; SET datestyle = 'German, DMY'; SET standard_conforming_strings = off"
            ))
            .unwrap();
        let text = event(place, "a", json!({})).to_string();
        assert_eq!(ingest(&mut writer, &text).unwrap().accepted, 1);
        assert_eq!(
            number(&mut client, "SELECT count(*) FROM tally.late_pending"),
            place as i64 + 1,
            "{zone}"
        );
        assert_right(&mut writer, "late");
    }
}

#[test]
fn a_rollup_whose_function_is_gone_can_be_dropped() {
    let database = Database::new("gone");
    let mut client = database.superuser();
    client
        .batch_execute(
            "CREATE FUNCTION public.kind(jsonb) RETURNS text LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$SELECT $1->>'kind'$$;
             SELECT tally.create_rollup('kinds', '{hour,day}', dimensions => ARRAY['public.kind(properties) AS kind'], measures => ARRAY['count(*) AS n']);
             DROP FUNCTION public.kind(jsonb)",
        )
        .unwrap();
    let mut writer = database.superuser();
    let text = event(1, "a", json!({})).to_string();
    assert_eq!(ingest(&mut writer, &text).unwrap_err().code().unwrap().code(), "42883");
    client.batch_execute("SELECT tally.drop_rollup('kinds')").unwrap();
    assert_eq!(ingest(&mut writer, &text).unwrap().accepted, 1);
    assert_eq!(
        client.batch_execute("SELECT tally.drop_rollup('kinds')").unwrap_err().code().unwrap().code(),
        "42704"
    );
}

#[test]
fn a_rollup_whose_type_or_views_or_tables_are_gone_can_be_dropped() {
    let mut database = Database::new("gone_types");
    let owner = database.role("owner", &["tally_admin"]);
    let mut client = database.superuser();
    client
        .batch_execute(&format!(
            "CREATE SCHEMA app AUTHORIZATION {owner}; GRANT USAGE ON SCHEMA app TO PUBLIC"
        ))
        .unwrap();
    let mut owners = database.connect(&owner);
    let mut writer = database.superuser();
    for (number, (gone, by_owner)) in [
        ("DROP TYPE app.level CASCADE", true),
        ("DROP SCHEMA app CASCADE; CREATE SCHEMA app", false),
        ("DROP VIEW tally.levels_day_state CASCADE", false),
        ("DROP TABLE tally.levels_week_base CASCADE", false),
        ("DROP TABLE tally.levels_pending CASCADE", false),
    ]
    .into_iter()
    .enumerate()
    {
        let text = event(number, "a", json!({})).to_string();
        client
            .batch_execute(&format!(
                "GRANT ALL ON SCHEMA app TO {owner}; GRANT USAGE ON SCHEMA app TO PUBLIC"
            ))
            .unwrap();
        owners
            .batch_execute(
                "DROP TYPE IF EXISTS app.level CASCADE; CREATE TYPE app.level AS ENUM ('low');
                 CREATE FUNCTION app.level_of(x text) RETURNS app.level LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp
                   AS $$ BEGIN RETURN 'low'; END $$;
                 SELECT tally.create_rollup('levels', '{day,week}', dimensions => ARRAY['name'], measures => ARRAY['max(app.level_of(name)) AS hi'])",
            )
            .unwrap();
        if by_owner { &mut owners } else { &mut client }.batch_execute(gone).unwrap();
        owners
            .batch_execute("SELECT tally.drop_rollup('levels')")
            .unwrap_or_else(|error| panic!("{gone}: {error:?}"));
        assert_eq!(ingest(&mut writer, &text).unwrap().accepted, 1, "{gone}");
        let left = "SELECT count(*) FROM pg_class WHERE relname LIKE 'levels%' AND relnamespace = 'tally'::regnamespace";
        assert_eq!(tally_server_tests::number(&mut client, left), 0, "{gone}");
    }
}

#[test]
fn a_month_that_is_being_made_or_was_taken_out_keeps_others_from_nothing_else() {
    let database = Database::new("months");
    let (mut client, mut maker) = (database.superuser(), database.superuser());
    client.batch_execute("CALL tally.maintain()").unwrap();
    let mut making = maker.transaction().unwrap();
    let old = event(1, "a", json!({})).to_string().replace("2026-03-02", "1993-05-01");
    assert_eq!(ingest(&mut making, &old).unwrap().accepted, 1);
    client.batch_execute("SET lock_timeout = '500ms'").unwrap();
    client.batch_execute("CALL tally.maintain()").unwrap();
    assert_eq!(number(&mut client, "SELECT count(*) FROM tally.maintenance WHERE failed_at IS NOT NULL"), 0);
    making.commit().unwrap();

    client.batch_execute("ALTER TABLE tally.events DETACH PARTITION tally.events_p1993_05").unwrap();
    let refused = ingest(&mut client, &old.replace("000000000001", "000000000002")).unwrap_err();
    assert_eq!(refused.code().unwrap().code(), "55000", "{refused}");
    assert_eq!(ingest(&mut client, &event(3, "a", json!({})).to_string()).unwrap().accepted, 1);
    client
        .batch_execute("ALTER TABLE tally.events ATTACH PARTITION tally.events_p1993_05 FOR VALUES FROM ('1993-05-01 00:00Z') TO ('1993-06-01 00:00Z')")
        .unwrap();
    assert_eq!(ingest(&mut client, &old.replace("000000000001", "000000000002")).unwrap().accepted, 1);
}

#[test]
fn texts_of_two_dimensions_are_told_apart_whatever_they_contain() {
    let database = Database::new("poison_texts");
    let mut client = database.superuser();
    client
        .batch_execute(
            r"SELECT tally.create_rollup('pairs', '{hour}', ARRAY['count(*) AS n'],
                ARRAY[$$properties->>'a' AS a$$, $$properties->>'b' AS b$$])",
        )
        .unwrap();
    let event = |id: u32, a: &str, b: &str| {
        format!(
            r#"{{"tenant_id":"t","account_id":"x","name":"n","event_id":"00000000-0000-4000-8000-{id:012}","occurred_at":"2026-03-01T00:00:00Z","properties":{{"a":"{a}","b":"{b}"}}}}"#
        )
    };
    let batch = format!("[{},{}]", event(1, r"x\u0001y", "z"), event(2, "x", r"y\u0001z"));
    assert_eq!(ingest(&mut client, &batch).unwrap().accepted, 2);
    client.batch_execute("BEGIN; SELECT tally.enter_global()").unwrap();
    assert_eq!(number(&mut client, "SELECT count(*) FROM tally.pairs_hour WHERE n = 1"), 2);
    assert_eq!(number(&mut client, "SELECT count(*) FROM tally.verify_rollup('pairs')"), 0);
}

/// The one event of a tenant, or of a name, that can't be counted: its tenant is none yet, and its name isn't noted.
#[test]
fn the_name_of_an_event_that_is_rejected_is_not_noted() {
    let database = Database::new("unnoted");
    let mut client = database.superuser();
    client
        .batch_execute("SELECT tally.set_unregistered_policy('mark'); SELECT tally.create_rollup('amounts', '{day}', ARRAY['sum((properties->>''n'')::numeric) AS n'])")
        .unwrap();
    let of = |number: usize, tenant: &str, name: &str, n: &str| {
        let mut event = event(number, "a", json!({"n": n}));
        event["tenant_id"] = json!(tenant);
        event["name"] = json!(name);
        event
    };
    let batch =
        json!([of(1, "good", "n1", "1"), of(2, "bad", "n2", "abc"), of(3, "good", "n3", "abc")]).to_string();
    let summary = ingest(&mut client, &batch).unwrap();
    assert_eq!((summary.accepted, summary.rejected), (1, 2));
    let summary = ingest(&mut client, &of(4, "bad", "n4", "abc").to_string()).unwrap();
    assert_eq!((summary.accepted, summary.rejected), (0, 1));
    assert_eq!(number(&mut client, "SELECT rejected FROM tally.redrive()"), 3);
    let noted: Vec<String> = client
        .query("SELECT tenant_id || ' ' || name FROM tally.unregistered_event", &[])
        .unwrap()
        .iter()
        .map(|row| row.get(0))
        .collect();
    assert_eq!(noted, ["good n1"]);
}

/// What was counted is a duplicate when it is sent again, whatever has been declared since.
#[test]
fn what_was_counted_is_a_duplicate_whatever_was_declared_since() {
    let database = Database::new("since");
    let mut client = database.superuser();
    let counted = event(1, "a", json!({"n": "abc", "pad": "x".repeat(1_900)}));
    assert_eq!(ingest(&mut client, &counted.to_string()).unwrap().accepted, 1);
    client
        .batch_execute("SELECT tally.create_rollup('amounts', '{day}', ARRAY['sum((properties->>''n'')::numeric) AS n'], backfill => false)")
        .unwrap();
    let bad = event(2, "a", json!({"n": "def"}));
    for _ in 0..2 {
        let summary = ingest(&mut client, &json!([counted, bad, counted]).to_string()).unwrap();
        assert_eq!((summary.duplicates, summary.rejected, summary.accepted), (2, 1, 0));
    }
    client.batch_execute("SELECT tally.set_quota('t', properties_kb => 1)").unwrap();
    let large = event(3, "a", json!({"pad": "x".repeat(1_900)}));
    let summary = ingest(&mut client, &json!([counted, bad, large]).to_string()).unwrap();
    assert_eq!((summary.duplicates, summary.rejected, summary.accepted), (1, 2, 0));
    assert_eq!(
        number(
            &mut client,
            "SELECT count(*) FROM tally.quarantine WHERE event_id = '00000000-0000-4000-8000-000000000001'"
        ),
        0
    );
}

/// One bad event among many costs little more than they do, and no transaction id for each.
#[test]
fn one_bad_event_among_many_is_found_by_halves() {
    let database = Database::new("halves");
    let mut client = database.superuser();
    client
        .batch_execute("SELECT tally.create_rollup('amounts', '{day}', ARRAY['sum((properties->>''n'')::numeric) AS n']);
                        ALTER TABLE tally.events ADD CONSTRAINT no_worse CHECK (account_id <> 'worse')")
        .unwrap();
    let mut next = move || number(&mut client, "SELECT pg_current_xact_id()::text::int8");
    let mut writer = database.superuser();
    for (place, wrong) in [(0, 1), (1_234, 1), (2_999, 2)] {
        let mut events: Vec<Value> =
            (0..3_000).map(|n| event(10_000 * wrong + n + place, "a", json!({"n": "1"}))).collect();
        events[place] = event(90_000 + place, "a", json!({"n": "abc"}));
        if wrong == 2 {
            events[17] = event(80_000, "worse", json!({}));
        }
        let before = next();
        let summary = ingest(&mut writer, &Value::Array(events).to_string()).unwrap();
        assert_eq!(
            (summary.rejected, summary.accepted + summary.duplicates),
            (wrong as i64, 3_000 - wrong as i64)
        );
        // A try of the events' table each takes one, and there are two for each halving.
        assert!(next() - before < 120, "{}", next() - before);
    }
}
