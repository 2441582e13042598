//! packaging/tally-doctor.sql: a member of tally_admin gets every section without an error, and nothing that names a person, a
//! tenant, an account, a role or a property is in it, also where something is wrong.

use serde_json::json;
use std::path::Path;
use std::process::Command;
use tally_server_tests::{PrivateServer, ingest};

/// Stands in everything that is personal here.
const MARK: &str = "zarathustra";

#[test]
fn it_tells_what_a_support_case_needs_and_nothing_personal() {
    let server = PrivateServer::create("doctor", "");
    let mut superuser = server.connect("postgres", "postgres");
    superuser
        .batch_execute(&format!(
            "CREATE EXTENSION pg_tally; CREATE ROLE dba_{MARK} LOGIN IN ROLE tally_admin; CREATE ROLE app_{MARK} LOGIN IN ROLE tally_writer, tally_reader;
             SELECT tally.trust_role('app_{MARK}'); CREATE ROLE bi_{MARK} LOGIN IN ROLE tally_reader; SELECT tally.bind_role('bi_{MARK}', 'tenant_{MARK}');
             SELECT tally.create_rollup('reports', '{{day}}', ARRAY['count(*) AS runs'], ARRAY[$$properties->>'plan' AS plan$$],
                                        filter => $$name <> '{MARK}'$$);
             CREATE TABLE public.of_{MARK} (tenant_id text)"
        ))
        .unwrap();
    let today: String =
        superuser.query_one("SELECT to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD')", &[]).unwrap().get(0);
    let mut app = server.connect(&format!("app_{MARK}"), "postgres");
    let event = |n: u32, name: &str| {
        json!({"tenant_id": format!("tenant_{MARK}"), "account_id": format!("account_{MARK}"), "user_id": format!("user_{MARK}"), "name": name,
               "session_id": format!("s_{MARK}"), "event_id": format!("00000000-0000-4000-8000-{n:012}"),
               "occurred_at": format!("{today}T00:00:00Z"), "properties": {"value": n, "plan": MARK}})
    };
    let batch = json!([event(1, "ran"), event(2, MARK), event(1, "conflicts"), {"tenant_id": MARK}]);
    let summary = ingest(&mut app, &batch.to_string()).unwrap();
    assert_eq!((summary.accepted, summary.conflicts, summary.rejected), (2, 1, 1));
    let mut dba = server.connect(&format!("dba_{MARK}"), "postgres");
    dba.batch_execute(&format!("SELECT tally.isolate_tenant('tenant_{MARK}')")).unwrap();
    dba.batch_execute("CALL tally.maintain()").unwrap();

    // Somebody holds a lock meanwhile, which health and the list of sessions tell of.
    let mut holder = server.connect(&format!("app_{MARK}"), "postgres");
    holder.batch_execute("BEGIN").unwrap();
    ingest(&mut holder, &json!(event(3, "ran")).to_string()).unwrap();
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../packaging/tally-doctor.sql");
    for (login, sees_all) in [(format!("dba_{MARK}"), "f"), ("postgres".to_owned(), "t")] {
        let mut psql: Command = server.client("psql");
        psql.args(["-X", "-U", &login, "-d", "postgres", "-f"]).arg(&file);
        let output = psql.output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && errors.is_empty(), "{login}: {errors}");
        assert!(!said.contains(MARK), "{login}: {said}");
        // Who isn't shown what sessions do is told so, rather than that there are none.
        let after = said.split_once("sees_all_sessions").unwrap().1;
        assert!(after.lines().nth(2).unwrap().trim().starts_with(sees_all), "{after}");
        let sections: Vec<&str> = said.lines().filter(|line| line.starts_with("== ")).collect();
        assert_eq!(sections.len(), 11, "{sections:?}");
        for found in ["usage", "reports", "23505", "rollup reports", "pg_tally", "quarantine", "events_p"] {
            assert!(said.contains(found), "{login}: no {found} in {said}");
        }
    }
}
