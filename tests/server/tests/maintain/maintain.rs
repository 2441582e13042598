//! Housekeeping by an ordinary role, twice at once, while events come in; and what health says before and after.

use postgres::Client;
use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};
use tally_server_tests::{
    Database, assert_right, code, connect_superuser, ingest, json_array, number, wait_for,
};

fn events(from: usize, count: usize) -> String {
    let events: Vec<String> = (from..from + count)
        .map(|number| {
            format!(
                r#"{{"tenant_id":"t{}","account_id":"a","name":"x","event_id":"00000000-0000-4000-8000-{number:012}",
                    "occurred_at":"2026-0{}-01T00:00:00Z"}}"#,
                number % 3,
                1 + number % 6
            )
        })
        .collect();
    json_array(events.iter().map(String::as_str))
}

/// Status and advice of each component, in the global scope.
fn health(admin: &mut Client) -> BTreeMap<String, (String, Option<String>)> {
    let mut transaction = admin.transaction().unwrap();
    transaction.execute("SELECT tally.enter_global()", &[]).unwrap();
    let rows = transaction.query("SELECT component, status, advice FROM tally.health()", &[]).unwrap();
    rows.iter().map(|row| (row.get(0), (row.get(1), row.get(2)))).collect()
}

#[test]
fn maintain_folds_and_makes_partitions_twice_at_once() {
    let mut database = Database::new("maintain");
    let admin = database.role("admin", &["tally_admin"]);
    let loader = database.role("loader", &["tally_writer"]);
    database.superuser().execute("SELECT tally.trust_role($1::text::regrole)", &[&loader]).unwrap();
    let mut client = database.connect(&admin);
    client
        .batch_execute("SELECT tally.create_rollup('second', '{week,month}', ARRAY['count(*) AS n'])")
        .unwrap();

    let before = health(&mut client);
    // Nothing has come in yet that would want them.
    assert_eq!(before["partitions"].0, "ok");
    assert!(before["partitions"].1.as_deref().unwrap().contains("tally.maintain"));
    assert_eq!(before["quarantine"].0, "ok");
    // The test cluster runs with fsync off, which health must not overlook.
    assert_eq!(before["settings"].0, "failing");
    assert!(before["settings"].1.as_deref().unwrap().contains("fsync"));

    thread::scope(|scope| {
        for writer in 0..2 {
            let mut client = database.connect(&loader);
            scope.spawn(move || {
                for batch in 0..20 {
                    let summary = ingest(&mut client, &events((writer * 20 + batch) * 100, 100)).unwrap();
                    assert_eq!(summary.accepted, 100);
                }
            });
        }
        for _ in 0..2 {
            let mut client = database.connect(&admin);
            scope.spawn(move || {
                for _ in 0..5 {
                    client.batch_execute("CALL tally.maintain(7)").unwrap();
                }
            });
        }
    });
    client.batch_execute("CALL tally.maintain()").unwrap();

    let after = health(&mut client);
    assert_eq!(after["partitions"], ("ok".to_owned(), None));
    assert_eq!(after["rollup usage"].0, "ok");
    let mut transaction = client.transaction().unwrap();
    transaction.execute("SELECT tally.enter_global()", &[]).unwrap();
    for (rollup, grain, count) in
        [("usage", "day", "events"), ("second", "week", "n"), ("second", "month", "n")]
    {
        let query = format!(
            "SELECT (SELECT count(*) FROM tally.{rollup}_pending), (SELECT sum({count})::int8 FROM tally.{rollup}_{grain}),
                    (SELECT count(*) FROM tally.verify_rollup('{rollup}'))"
        );
        let row = transaction.query_one(&query, &[]).unwrap();
        assert_eq!(
            (row.get::<_, i64>(0), row.get::<_, i64>(1), row.get::<_, i64>(2)),
            (0, 4000, 0),
            "{rollup}"
        );
    }
    transaction.commit().unwrap();

    // What is wrong shows, with what to do.
    ingest(&mut database.connect(&loader), r#"[{"tenant_id":"t1"}]"#).unwrap();
    let mut superuser = database.superuser();
    superuser.batch_execute("ALTER TABLE tally.events NO FORCE ROW LEVEL SECURITY").unwrap();
    let broken = health(&mut client);
    assert_eq!(broken["quarantine"].0, "warning");
    assert!(broken["quarantine"].1.as_deref().unwrap().contains("tally.quarantine"));
    assert_eq!(broken["protection"].0, "failing");

    // Nobody else may.
    let mut other = database.connect(&loader);
    assert!(other.batch_execute("CALL tally.maintain()").is_err());
    assert!(other.query("SELECT * FROM tally.health()", &[]).is_err());
}

/// A quiet tenant's calls bring little: they have a process fold what others brought, and fold nothing while one may be starting.
#[test]
fn small_calls_leave_folding_to_a_process() {
    let mut database = Database::new("small_calls");
    database.set("tally.pending_limit = '64kB'");
    let loader = database.role("loader", &["tally_writer"]);
    let mut admin = database.superuser();
    admin.execute("SELECT tally.trust_role($1::text::regrole)", &[&loader]).unwrap();
    let mut clients: Vec<Client> = (0..9).map(|_| database.connect(&loader)).collect();
    let folded = |admin: &mut Client| {
        number(admin, "SELECT coalesce(sum(rows_folded), 0)::int8 FROM tally.rollup_fold")
    };
    let admits = |may: bool| {
        let statement = format!("ALTER DATABASE {} ALLOW_CONNECTIONS {may}", database.name());
        connect_superuser("postgres").batch_execute(&statement).unwrap();
    };
    // A process that is started has to connect.
    admits(false);
    let mut calls = 0;
    let mut call = |client: &mut Client| {
        let events: Vec<String> = (0..10)
            .map(|place| {
                let number = calls * 10 + place;
                format!(
                    r#"{{"tenant_id":"t","account_id":"a","name":"x","event_id":"00000000-0000-4000-8000-{number:012}",
                        "user_id":"u{number}","occurred_at":"2026-03-01T00:00:00Z"}}"#
                )
            })
            .collect();
        calls += 1;
        assert_eq!(ingest(client, &json_array(events.iter().map(String::as_str))).unwrap().accepted, 10);
    };
    // A session waits a second for a process that it started before it starts another one, and folds itself where those do nothing.
    let mut client = clients.pop().unwrap();
    for mut client in clients {
        let (before, began) = (folded(&mut admin), Instant::now());
        loop {
            call(&mut client);
            let after = folded(&mut admin);
            if began.elapsed() >= Duration::from_secs(1) {
                break;
            }
            assert_eq!(after, before, "a call folded");
        }
    }
    let pending = number(&mut admin, "SELECT count(*) FROM tally.usage_pending");
    println!("{pending} rows pending, after {} folds", folded(&mut admin));
    admits(true);
    let before = folded(&mut admin);
    wait_for("a process to fold", || {
        call(&mut client);
        (folded(&mut admin) > before).then_some(())
    });
    for rollup in ["usage", "user_activity", "session"] {
        assert_right(&mut admin, rollup);
    }
}

/// Much that came in at once is folded by processes, one after the other, though nobody calls any more.
#[test]
fn processes_fold_on_when_calls_have_ended() {
    let mut database = Database::new("folds_on");
    database.set("tally.pending_limit = '64kB'");
    let writer = database.role("writer", &["tally_writer"]);
    let mut admin = database.superuser();
    admin.execute("SELECT tally.bind_role($1::text::regrole, 't')", &[&writer]).unwrap();
    let mut client = database.connect(&writer);
    for call in 0..20 {
        let events: Vec<String> = (0..3_000)
            .map(|place| {
                let number = call * 3_000 + place;
                format!(
                    r#"{{"tenant_id":"t","account_id":"a{}","name":"x","event_id":"00000000-0000-4000-8000-{number:012}",
                        "user_id":"u{number}","session_id":"s{number}","occurred_at":"2026-03-01T00:00:00Z"}}"#,
                    number % 50
                )
            })
            .collect();
        assert_eq!(
            ingest(&mut client, &json_array(events.iter().map(String::as_str))).unwrap().accepted,
            3_000
        );
    }
    drop(client);
    for rollup in ["session", "user_activity"] {
        wait_for("processes to fold what is left", || {
            (number(&mut admin, &format!("SELECT count(*) FROM tally.{rollup}_pending")) < 500).then_some(())
        });
        assert_right(&mut admin, rollup);
    }
}

/// What failed is told until it succeeds, or until it is no task any more.
#[test]
fn a_task_that_is_gone_has_not_failed() {
    let mut database = Database::new("maintain_gone");
    let admin = database.role("admin", &["tally_admin"]);
    let mut superuser = database.superuser();
    let mut client = database.connect(&admin);
    superuser.batch_execute("SELECT tally.open_months('2026-01-01')").unwrap();
    for name in ["kept", "gone"] {
        client
            .batch_execute(&format!(
                "SELECT tally.create_rollup('{name}', '{{day}}', ARRAY['count(*) AS n'])"
            ))
            .unwrap();
    }
    assert_eq!(ingest(&mut superuser, &events(0, 12)).unwrap().accepted, 12);
    for name in ["kept", "gone"] {
        superuser
            .batch_execute(&format!("ALTER TABLE tally.{name}_day_base RENAME TO {name}_hidden"))
            .unwrap();
    }
    client.batch_execute("CALL tally.maintain()").unwrap();
    let failed = |client: &mut Client| -> Vec<String> {
        let query = "SELECT subject FROM tally.maintenance WHERE failed_at IS NOT NULL AND problem IS NOT NULL ORDER BY 1";
        client.query(query, &[]).unwrap().iter().map(|row| row.get(0)).collect()
    };
    assert_eq!(failed(&mut superuser), ["gone", "kept"]);
    superuser.batch_execute("ALTER TABLE tally.gone_hidden RENAME TO gone_day_base").unwrap();
    client.batch_execute("SELECT tally.drop_rollup('gone')").unwrap();
    client.batch_execute("CALL tally.maintain()").unwrap();
    assert_eq!(failed(&mut superuser), ["kept"]);
    assert_eq!(health(&mut client)["maintenance"].0, "failing");
    superuser.batch_execute("ALTER TABLE tally.kept_hidden RENAME TO kept_day_base").unwrap();
    client.batch_execute("CALL tally.maintain()").unwrap();
    assert_eq!(failed(&mut superuser), [""; 0]);
    assert_eq!(health(&mut client)["maintenance"].0, "ok");
    let counted = "SELECT count(*) FROM tally.maintenance WHERE subject = 'gone' AND failures = 1";
    assert_eq!(number(&mut superuser, counted), 1, "what happened stays counted");
}

/// What failed, and that it didn't, is written down by the step that was made: an administrator makes steps, and says nothing of them.
#[test]
fn nobody_writes_down_what_no_step_did() {
    let mut database = Database::new("maintain_noted");
    let admin = database.role("admin", &["tally_admin"]);
    let mut superuser = database.superuser();
    let mut client = database.connect(&admin);
    superuser.batch_execute("SELECT tally.open_months('2026-01-01')").unwrap();
    assert_eq!(ingest(&mut superuser, &events(0, 12)).unwrap().accepted, 12);
    superuser.batch_execute("ALTER TABLE tally.usage_day_base RENAME TO hidden").unwrap();
    client.batch_execute("CALL tally.maintain()").unwrap();
    let noted = |client: &mut Client| -> Vec<(String, String, bool)> {
        let query = "SELECT task, subject, failed_at IS NOT NULL FROM tally.maintenance \
                      WHERE failed_at IS NOT NULL OR subject = 'none such' OR task IN ('fold', 'statistics') AND subject IN ('usage', '') ORDER BY 1, 2";
        let rows = client.query(query, &[]).unwrap();
        rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect()
    };
    let told = noted(&mut superuser);
    assert!(told.contains(&("fold".into(), "usage".into(), true)), "{told:?}");
    for statement in [
        "SELECT tally_internal.note_maintenance('fold', 'usage', now(), 1, NULL, NULL)",
        "SELECT tally_internal.note_maintenance('statistics', '', now(), 0, 'XX000', 'made up')",
        "SELECT tally_internal.clear_failures('{}', '{}')",
        "UPDATE tally.maintenance SET failed_at = NULL",
    ] {
        assert_eq!(code(client.batch_execute(statement)), "42501", "{statement}");
    }
    // A step that takes nothing, or that is of no task, says nothing either.
    client
        .batch_execute(
            "SELECT tally_internal.maintain_step('fold', 'usage', 0), tally_internal.maintain_step('fold', 'none such', 1),
                    tally_internal.maintain_step('erasure', 'none such', 1)",
        )
        .unwrap();
    client.batch_execute("SELECT count(*) FROM tally_internal.maintenance_round()").unwrap();
    assert_eq!(noted(&mut superuser), told);
    superuser.batch_execute("ALTER TABLE tally.hidden RENAME TO usage_day_base").unwrap();
    client.batch_execute("CALL tally.maintain()").unwrap();
    assert_eq!(
        number(&mut superuser, "SELECT count(*) FROM tally.maintenance WHERE failed_at IS NOT NULL"),
        0
    );
    let caller = "SELECT count(*) FROM tally.maintenance WHERE caller <> $1::text::name";
    assert_eq!(superuser.query_one(caller, &[&admin]).unwrap().get::<_, i64>(0), 0);

    // Nor takes somebody who sees one tenant's tasks alone back what became of others'.
    let failures = "SELECT count(*) FROM tally.maintenance WHERE failed_at IS NOT NULL";
    superuser
        .batch_execute(
            "SELECT tally_internal.note_maintenance('privacy', 'other', now(), 0, '22000', 'failed')",
        )
        .unwrap();
    let bound = database.role("bound_admin", &["tally_admin"]);
    superuser.batch_execute(&format!("SELECT tally.bind_role('{bound}', 't')")).unwrap();
    let round = "SELECT count(*) FROM tally_internal.maintenance_round()";
    let _ = database.connect(&bound).batch_execute(round);
    superuser.batch_execute(&format!("BEGIN; SELECT tally.enter('t'); {round}; COMMIT")).unwrap();
    assert_eq!(number(&mut superuser, failures), 1);
    client.batch_execute(&format!("BEGIN; SELECT tally.enter_global(); {round}; COMMIT")).unwrap();
    assert_eq!(number(&mut superuser, failures), 0, "there is no such task any more");
}

/// Tasks, checks and rules are what nouns of the extension have added, by functions of certain names: nobody else's are called.
#[test]
fn registers_hold_what_is_part_of_the_extension() {
    let mut database = Database::new("registers");
    let admin = database.role("admin", &["tally_admin"]);
    let mut superuser = database.superuser();
    let tasks = |client: &mut Client| -> Vec<String> {
        let query = "SELECT DISTINCT task FROM tally_internal.maintenance_tasks() ORDER BY 1";
        client.query(query, &[]).unwrap().iter().map(|row| row.get(0)).collect()
    };
    let mut client = database.connect(&admin);
    assert_eq!(
        tasks(&mut client),
        [
            "access",
            "audit",
            "backfill",
            "catalog",
            "erasure",
            "fold",
            "partitions",
            "retention",
            "statistics"
        ]
    );
    let (checks, rules) = (health(&mut client).len(), lint_rules(&mut client));
    let foreign = "
        CREATE FUNCTION tally_internal.task_foreign() RETURNS TABLE (place int4, subject text) LANGUAGE sql AS $$SELECT 0, ''$$;
        CREATE FUNCTION tally_internal.step_foreign(subject text, max_rows int8, OUT done int8, OUT is_over boolean)
          LANGUAGE sql AS $$SELECT 1 / 0, true$$;
        CREATE FUNCTION tally_internal.health_foreign()
          RETURNS TABLE (place int4, component text, status text, value float8, \"limit\" float8, advice text)
          LANGUAGE sql AS $$SELECT 0, 'foreign', 'ok', 1 / 0, 0, NULL$$;
        CREATE FUNCTION tally_internal.rules_foreign(OUT name text, OUT level text, OUT title text, OUT description text)
          RETURNS SETOF record LANGUAGE sql AS $$SELECT 'foreign', 'INFO', 'x', 'x'$$";
    let refused = client.batch_execute(foreign).unwrap_err();
    assert_eq!(refused.code().unwrap().code(), "42501", "an administrator adds nothing: {refused}");
    superuser.batch_execute(foreign).unwrap();
    assert_eq!(
        tasks(&mut client),
        [
            "access",
            "audit",
            "backfill",
            "catalog",
            "erasure",
            "fold",
            "partitions",
            "retention",
            "statistics"
        ]
    );
    assert_eq!((health(&mut client).len(), lint_rules(&mut client)), (checks, rules));
    for task in ["foreign", "none", "", "fold(text, int8); SELECT 1 --"] {
        let step = client.query("SELECT tally_internal.maintain_step($1, '', 1)", &[&task]).unwrap_err();
        assert_eq!(step.code().unwrap().code(), "22023", "{task}: {step}");
    }
    let mut transaction = client.transaction().unwrap();
    transaction.execute("SELECT tally.enter_global()", &[]).unwrap();
    let strangers = "SELECT count(*) FROM tally.lint() WHERE name = 'stranger_in_schema'";
    assert_eq!(transaction.query_one(strangers, &[]).unwrap().get::<_, i64>(0), 4);
}

fn lint_rules(client: &mut Client) -> usize {
    client.query("SELECT FROM tally.lint_rules()", &[]).unwrap().len()
}
