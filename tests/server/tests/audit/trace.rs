//! What leaves no trace elsewhere, or one that it shouldn't: prepared transactions, names of people in entries, and what the code of
//! declared expressions says of events that its caller may not see.

use postgres::{Client, NoTls};
use std::sync::{Arc, Mutex};
use tally_server_tests::{PrivateServer, code, number, wait_for};

fn server(topic: &str) -> PrivateServer {
    let server = PrivateServer::create(
        topic,
        "shared_preload_libraries = 'pg_tally'\ntally.worker_databases = 'shop'\ntally.worker_role = 'worker'\n\
         tally.worker_interval = 1\nmax_prepared_transactions = 5",
    );
    let mut postgres = server.connect("postgres", "postgres");
    postgres.batch_execute("CREATE ROLE worker LOGIN; CREATE ROLE admin LOGIN; CREATE ROLE app LOGIN; CREATE ROLE auditor LOGIN").unwrap();
    postgres.batch_execute("CREATE DATABASE shop").unwrap();
    server
        .connect("postgres", "shop")
        .batch_execute(
            "CREATE EXTENSION pg_tally; GRANT tally_admin TO worker, admin; GRANT tally_writer TO app; GRANT tally_auditor TO auditor;
             SELECT tally.set_step_up_policy('erase_subject', false), tally.trust_role('app')",
        )
        .unwrap();
    server
}

fn event(tenant: &str, n: u32, mail: &str) -> String {
    format!(
        r#"{{"tenant_id":"{tenant}","account_id":"x","name":"n","event_id":"00000000-0000-4000-8000-{n:012}","occurred_at":"2026-11-01T00:00:00Z",
            "properties":{{"mail":"{mail}"}}}}"#
    )
}

fn ingest(app: &mut Client, event: &str) {
    app.query_one("SELECT tally.ingest($1)", &[&event]).unwrap();
}

/// Whether an entry of an act is there, undone or not.
fn is_recorded(auditor: &mut Client, act: &str, is_undone: bool) -> bool {
    let query = "SELECT EXISTS (SELECT FROM tally.audit WHERE act = $1 AND coalesce(detail ->> 'undone', 'false')::boolean = $2)";
    auditor.query_one(query, &[&act, &is_undone]).unwrap().get(0)
}

#[test]
fn no_act_is_lost_in_a_transaction_that_is_prepared() {
    let server = server("audit_prepared");
    let mut admin = server.connect("admin", "shop");
    let mut auditor = server.connect("auditor", "shop");
    admin.batch_execute("BEGIN; SELECT tally.set_retention('acme', '40 days')").unwrap();
    assert_eq!(code(admin.batch_execute("PREPARE TRANSACTION 'x'")), "0A000");
    wait_for("the attempt", || is_recorded(&mut auditor, "retention_added", true).then_some(()));
    assert!(server.log().contains("event=audit_undone"));
    // Nothing is left of one that was undone within.
    admin
        .batch_execute("BEGIN; SAVEPOINT s; SELECT tally.set_retention('acme', '41 days'); ROLLBACK TO s; PREPARE TRANSACTION 'z'")
        .unwrap();
    admin.batch_execute("ROLLBACK PREPARED 'z'").unwrap();
    assert_eq!(number(&mut auditor, "SELECT count(*) FROM pg_prepared_xacts"), 0);
    // Ingest may be prepared, and ends either way.
    let mut app = server.connect("app", "shop");
    for (n, end) in [(1, "COMMIT"), (2, "ROLLBACK")] {
        app.batch_execute("BEGIN").unwrap();
        ingest(&mut app, &event("acme", n, "m"));
        app.batch_execute("PREPARE TRANSACTION 'p'").unwrap();
        app.batch_execute(&format!("{end} PREPARED 'p'")).unwrap();
    }
    assert_eq!(number(&mut server.connect("postgres", "shop"), "SELECT count(*) FROM tally.events"), 1);
}

#[test]
fn who_is_whom_can_be_erased_from_the_log() {
    let server = server("audit_person");
    let mut admin = server.connect("admin", "shop");
    let mut auditor = server.connect("auditor", "shop");
    let named = |auditor: &mut Client, what: &str| {
        let query = "SELECT count(*) FILTER (WHERE concat(object, detail) ~* $1), count(*) FILTER (WHERE personal::text ~* $1) FROM tally.audit";
        let row = auditor.query_one(query, &[&what]).unwrap();
        (row.get::<_, i64>(0), row.get::<_, i64>(1))
    };
    admin
        .batch_execute("SELECT tally.map_person('Jane Doe', subject => 'jane.doe@example.com'); SELECT tally.map_person('Joe', subject => 'joe@example.com')")
        .unwrap();
    admin.batch_execute("SELECT tally.map_person('Jane D', subject => 'jane.doe@example.com')").unwrap();
    assert_eq!(named(&mut auditor, "jane"), (0, 2));
    // Who answers for something is somebody, too.
    admin.batch_execute("SELECT tally.describe_asset('tally.events', owner => 'Jane Doe')").unwrap();
    assert_eq!(named(&mut auditor, "jane"), (0, 3));
    assert_eq!(
        number(
            &mut auditor,
            "SELECT count(*) FROM tally.audit WHERE act LIKE 'person\\__%' AND detail -> 'to' ->> 'mapped_by' = 'admin'"
        ),
        2
    );
    let erase = "SELECT tally.erase_subject('acme', 'jane.doe@example.com', 'asked to')";
    let log = server.log();
    assert!(log.contains("act=person_added") && !log.to_lowercase().contains("jane"));
    // As long as it holds, it keeps apart who must be two.
    admin.batch_execute("SELECT tally.map_person(NULL, subject => 'jane.doe@example.com')").unwrap();
    assert_eq!(named(&mut auditor, "jane.doe@").1, 3);
    admin.batch_execute(&erase.replace("jane.doe", "joe")).unwrap();
    admin.batch_execute(erase).unwrap();
    assert_eq!(named(&mut auditor, "jane.doe@"), (0, 0));
    assert_eq!(named(&mut auditor, "joe@"), (0, 1), "that mapping holds");
    assert_eq!(number(&mut auditor, "SELECT count(*) FROM tally.audit WHERE act LIKE 'person\\__%'"), 4);
}

#[test]
fn declared_code_tells_its_caller_and_the_log_nothing_of_others_events() {
    let server = server("audit_silent");
    let mut postgres = server.connect("postgres", "shop");
    let mut app = server.connect("app", "shop");
    let mut auditor = server.connect("auditor", "shop");
    postgres
        .batch_execute("CREATE SCHEMA m AUTHORIZATION admin; GRANT USAGE ON SCHEMA m TO tally_evaluator")
        .unwrap();
    let heard = Arc::new(Mutex::new(Vec::new()));
    let mut config = server.config("admin", "shop");
    let hearing = heard.clone();
    config.notice_callback(move |notice| hearing.lock().unwrap().push(format!("{notice:?}")));
    let mut admin = config.connect(NoTls).unwrap();
    let define = |body: &str| {
        format!(
            "CREATE OR REPLACE FUNCTION m.f(t text, p jsonb) RETURNS text LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp
             SET client_min_messages = debug5 AS $f$ BEGIN {body} RETURN t; END $f$"
        )
    };
    admin
        .batch_execute(&format!(
            "{}; SELECT tally.create_rollup('calm', '{{day}}', ARRAY['count(*) AS n'], ARRAY['m.f(tenant_id, properties) AS t'])",
            define("")
        ))
        .unwrap();
    for (n, tenant) in [(1, "acme"), (2, "globex")] {
        ingest(&mut app, &event(tenant, n, "secret-mail"));
    }
    let levels = ["DEBUG", "LOG", "INFO", "NOTICE", "WARNING"];
    let says: String = levels.map(|level| format!("RAISE {level} 'code says % %', t, p; ")).concat();
    admin.batch_execute(&define(&says)).unwrap();
    let before = number(&mut auditor, "SELECT count(*) FROM tally.audit WHERE act = 'rollup_filled'");
    admin.batch_execute("SET client_min_messages = debug5; SELECT tally.rebuild_rollup('calm', NULL, NULL, 'acme'); SELECT tally.rebuild_rollup('calm', NULL, NULL); RESET client_min_messages").unwrap();
    assert!(!heard.lock().unwrap().is_empty(), "Postgres' own messages are heard");
    ingest(&mut app, &event("globex", 3, "secret-mail"));
    admin
        .batch_execute("SELECT tally.alter_rollup('calm', add_measures => ARRAY['sum((length(m.f(tenant_id, properties)))::numeric) AS s'])")
        .unwrap();
    let filled = "SELECT string_agg(concat_ws(' ', actor, tenant_id, object, detail ->> 'events'), ', ' ORDER BY at, entry_id) FROM tally.audit WHERE act = 'rollup_filled'";
    let recorded: String = auditor.query_one(filled, &[]).unwrap().get(0);
    assert_eq!((before, recorded.as_str()), (0, "admin acme calm 1, admin  calm 2, admin  calm 3"));
    // Errors, also of Postgres' own functions, tell where they were, and their code.
    admin
        .batch_execute("SELECT tally.create_rollup('strict', '{day}', ARRAY['count(*) AS n'], ARRAY['name', '((properties->>''mail'')::int)::text AS d'], backfill => false)")
        .unwrap();
    let says = |error: postgres::Error| {
        let error = error.as_db_error().unwrap();
        let texts = format!("{error:?}");
        assert!(!texts.contains("secret") && !texts.contains("code says"), "{texts}");
        (error.code().code().to_owned(), error.detail().unwrap_or_default().to_owned())
    };
    let (sqlstate, detail) = says(admin.batch_execute("SELECT tally.backfill('strict')").unwrap_err());
    assert!(sqlstate == "22P02" && detail.starts_with("column \"d\""), "{sqlstate} {detail}");
    for (code, statement) in [
        ("P0001", "rebuild_rollup('calm', NULL, NULL)"),
        ("53400", "rebuild_rollup('calm', NULL, NULL)"),
        ("57014", "verify_rollup('calm', NULL, NULL)"),
    ] {
        admin
            .batch_execute(&define(&format!(
                "RAISE EXCEPTION USING ERRCODE = '{code}', MESSAGE = 'code says ' || p::text;"
            )))
            .unwrap();
        let (asks, scope) = match statement.starts_with("verify") {
            true => (&mut postgres, "SELECT tally.enter_global(); "),
            false => (&mut admin, ""),
        };
        let (sqlstate, detail) =
            says(asks.batch_execute(&format!("BEGIN; {scope}SELECT * FROM tally.{statement}")).unwrap_err());
        asks.batch_execute("ROLLBACK").unwrap();
        assert!(sqlstate == code && detail.contains(code), "{sqlstate} {detail}");
    }
    // The housekeeping's notes have the same.
    let noted = wait_for("the backfill's failure", || {
        let query = "SELECT problem FROM tally.maintenance WHERE task = 'backfill' AND problem IS NOT NULL";
        postgres.query_opt(query, &[]).unwrap().map(|row| row.get::<_, String>(0))
    });
    assert!(!noted.contains("secret"), "{noted}");
    let log = server.log();
    assert!(
        log.contains("act=rollup_filled") && !log.contains("secret-mail"),
        "{}",
        log.lines().find(|line| line.contains("secret")).unwrap_or_default()
    );
}

#[test]
fn what_was_made_since_the_catalogue_looked_is_read_as_personal() {
    let server = server("audit_new");
    let mut postgres = server.connect("postgres", "shop");
    let mut auditor = server.connect("auditor", "shop");
    postgres.batch_execute("SELECT tally.set_audit_policy('raw')").unwrap();
    ingest(&mut server.connect("app", "shop"), &event("acme", 1, "m"));
    wait_for("the catalogue's first look", || {
        (number(&mut auditor, "SELECT count(*) FROM tally.personal_column WHERE relation IN ('', '-')") == 2)
            .then_some(())
    });
    // In one transaction: no round of housekeeping can have seen them.
    postgres
        .batch_execute(
            "BEGIN;
             SELECT tally.create_rollup('ex', '{day}', ARRAY['count(*) AS n'], '{user_id}'), tally.enter_global();
             SELECT user_id FROM tally.ex_day;
             CREATE SCHEMA m;
             CREATE MATERIALIZED VIEW m.v AS SELECT user_id FROM tally.users;
             SELECT * FROM m.v;
             COMMIT",
        )
        .unwrap();
    for relation in ["tally.ex_day_base", "m.v"] {
        let read =
            "SELECT EXISTS (SELECT FROM tally.audit WHERE act = 'read' AND detail -> 'relations' ? $1)";
        wait_for(relation, || auditor.query_one(read, &[&relation]).unwrap().get::<_, bool>(0).then_some(()));
    }
}
