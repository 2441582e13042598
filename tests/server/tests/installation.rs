//! Installing where somebody has prepared the ground: roles of pg_tally's names that were made, or given away, before.

use postgres::Client;
use tally_server_tests::{PrivateServer, ingest};

fn refusal(client: &mut Client) -> Option<(String, String)> {
    let error = client.batch_execute("CREATE EXTENSION pg_tally").err()?;
    let error = error.as_db_error().expect("an error of the server");
    assert!(error.hint().is_some(), "{error}");
    Some((error.code().code().to_owned(), error.message().to_owned()))
}

/// What was prepared, what the refusal names, and what undoes it. `mallory` may create roles and objects, and is no superuser.
const PREPARED: &[(&str, &str, &str)] = &[
    (
        "SET ROLE mallory; CREATE ROLE tally_owner NOLOGIN; GRANT tally_owner TO mallory",
        r#"role "mallory" is a member of "tally_owner""#,
        "DROP ROLE tally_owner",
    ),
    (
        "SET ROLE mallory; CREATE ROLE tally_security ADMIN mallory",
        r#"role "mallory" is a member of "tally_security""#,
        "DROP ROLE tally_security",
    ),
    (
        "SET ROLE mallory; CREATE ROLE tally_evaluator ROLE mallory",
        r#"role "mallory" is a member of "tally_evaluator""#,
        "DROP ROLE tally_evaluator",
    ),
    (
        "SET ROLE mallory; CREATE ROLE tally_owner; CREATE ROLE tally_reader IN ROLE tally_owner ROLE mallory",
        r#"role "tally_reader" is a member of "tally_owner""#,
        "DROP ROLE tally_reader, tally_owner",
    ),
    (
        "SET ROLE mallory; CREATE ROLE tally_owner; CREATE ROLE between IN ROLE tally_owner ROLE mallory",
        r#"role "between" is a member of "tally_owner""#,
        "DROP ROLE between, tally_owner",
    ),
    (
        "CREATE ROLE tally_evaluator IN ROLE pg_read_all_data",
        r#"role "tally_evaluator" is a member of "pg_read_all_data""#,
        "DROP ROLE tally_evaluator",
    ),
    (
        "SET ROLE mallory; CREATE ROLE tally_security LOGIN PASSWORD 'x'",
        r#"role "tally_security" exists with LOGIN, SUPERUSER, BYPASSRLS or CREATEROLE"#,
        "DROP ROLE tally_security",
    ),
    (
        "SET ROLE mallory; CREATE ROLE tally_evaluator CREATEROLE",
        r#"role "tally_evaluator" exists with LOGIN, SUPERUSER, BYPASSRLS or CREATEROLE"#,
        "DROP ROLE tally_evaluator",
    ),
    // Left behind by somebody who was a member, and is no more.
    (
        "SET ROLE mallory; CREATE ROLE tally_owner ROLE mallory; GRANT CREATE ON SCHEMA mine TO tally_owner; SET ROLE tally_owner;
         CREATE FUNCTION mine.door() RETURNS void LANGUAGE sql SECURITY DEFINER AS 'SELECT'; SET ROLE mallory;
         REVOKE tally_owner FROM mallory",
        r#"role "tally_owner" already owns function mine.door()"#,
        "DROP FUNCTION mine.door(); DROP OWNED BY tally_owner; DROP ROLE tally_owner",
    ),
    (
        "SET ROLE mallory; CREATE ROLE tally_security ROLE mallory; CREATE TABLE mine.t (x int); GRANT CREATE ON SCHEMA mine TO tally_security;
         ALTER TABLE mine.t OWNER TO tally_security; REVOKE tally_security FROM mallory",
        r#"role "tally_security" already owns table mine.t"#,
        "DROP OWNED BY tally_security; DROP ROLE tally_security",
    ),
    (
        "CREATE ROLE tally_evaluator; CREATE SCHEMA its AUTHORIZATION tally_evaluator",
        r#"role "tally_evaluator" already owns schema its"#,
        "DROP OWNED BY tally_evaluator; DROP ROLE tally_evaluator",
    ),
];

#[test]
fn prepared_roles_stop_the_installation() {
    let server = PrivateServer::create("installation", "shared_preload_libraries = ''");
    let mut admin = server.connect("postgres", "postgres");
    admin
        .batch_execute("CREATE ROLE mallory LOGIN CREATEROLE; CREATE SCHEMA mine AUTHORIZATION mallory")
        .unwrap();
    for (preparation, told, cleaning) in PREPARED {
        admin.batch_execute(preparation).unwrap_or_else(|problem| panic!("{preparation}: {problem:?}"));
        admin.batch_execute("RESET ROLE").unwrap();
        assert_eq!(refusal(&mut admin), Some(("42501".into(), (*told).into())), "{preparation}");
        admin.batch_execute(cleaning).unwrap_or_else(|problem| panic!("{cleaning}: {problem:?}"));
    }
    // Roles without members or rights were no danger, and nor are those of another database's installation.
    admin.batch_execute("CREATE ROLE tally_owner NOLOGIN; CREATE ROLE tally_reader NOLOGIN").unwrap();
    assert_eq!(refusal(&mut admin), None);
    admin.batch_execute("GRANT tally_admin, tally_reader TO mallory").unwrap();
    admin.batch_execute("CREATE DATABASE another").unwrap();
    let mut another = server.connect("postgres", "another");
    assert_eq!(refusal(&mut another), None);
    let event = r#"{"tenant_id":"a","account_id":"x","name":"n","occurred_at":"2026-11-20T00:00:00Z","event_id":"31111111-1111-4111-8111-111111111111"}"#;
    assert_eq!(ingest(&mut another, event).unwrap().accepted, 1);
    // Installed, dropped and installed again in one database.
    another.batch_execute("DROP EXTENSION pg_tally CASCADE").unwrap();
    assert_eq!(refusal(&mut another), None);
}
