//! Dropping the extension is refused while there are events, however it is dropped and whether or not the library was loaded;
//! where the session wants it, it goes.

use tally_server_tests::{Database, ingest, number};

const EVENT: &str = r#"{"tenant_id":"acme","account_id":"n","name":"paid","event_id":"00000000-0000-4000-8000-000000000001","occurred_at":"2026-03-03T09:15:00Z"}"#;

#[test]
fn events_are_not_dropped_by_accident() {
    let database = Database::new("dropping");
    ingest(&mut database.superuser(), EVENT).unwrap();
    for statement in [
        "DROP EXTENSION pg_tally",
        "DROP EXTENSION pg_tally CASCADE",
        "DROP EXTENSION IF EXISTS pg_tally",
        "DROP EXTENSION plpgsql CASCADE",
        "DROP SCHEMA tally CASCADE",
        "SET session_replication_role = replica; DROP EXTENSION pg_tally",
        "DO $$ BEGIN EXECUTE 'DROP EXTENSION pg_tally'; END $$",
        "BEGIN; SAVEPOINT s; DROP EXTENSION pg_tally; COMMIT",
        "SET tally.allow_drop = off; DROP EXTENSION pg_tally",
    ] {
        // A session of its own: nothing has loaded the library.
        let mut client = database.superuser();
        let refused = client.batch_execute(statement).expect_err(statement);
        let refused = refused.as_db_error().unwrap();
        assert_eq!(refused.code().code(), "2BP01", "{statement}: {refused}");
        assert!(
            refused.hint().is_some_and(|hint| hint.contains("tally.allow_drop")),
            "{statement}: {refused:?}"
        );
        assert_eq!(number(&mut database.superuser(), "SELECT count(*) FROM tally.events"), 1, "{statement}");
    }
    // Other things are dropped as ever.
    let mut client = database.superuser();
    client
        .batch_execute("CREATE SCHEMA other; CREATE TABLE other.t (); DROP SCHEMA other CASCADE; CREATE EXTENSION IF NOT EXISTS plpgsql")
        .unwrap();
    client.batch_execute("SET tally.allow_drop = on; DROP EXTENSION pg_tally").unwrap();
    assert_eq!(
        number(
            &mut client,
            "SELECT count(*) FROM pg_namespace AS n JOIN pg_class AS c ON c.relnamespace = n.oid WHERE n.nspname = 'tally'"
        ),
        0
    );
}

#[test]
fn without_events_the_extension_goes_and_the_option_can_come_with_the_connection() {
    let database = Database::new("dropping_empty");
    let mut client = database.superuser();
    client.batch_execute("BEGIN").unwrap();
    ingest(&mut client, EVENT).unwrap();
    client.batch_execute("ROLLBACK").unwrap();
    client.batch_execute("DROP EXTENSION pg_tally; CREATE EXTENSION pg_tally").unwrap();
    ingest(&mut client, EVENT).unwrap();
    drop(client);
    // As pg_restore --clean is told to.
    let mut client =
        database.config("postgres").options("-c tally.allow_drop=on").connect(postgres::NoTls).unwrap();
    client.batch_execute("DROP EXTENSION IF EXISTS pg_tally; CREATE EXTENSION pg_tally").unwrap();
    assert_eq!(number(&mut client, "SELECT count(*) FROM tally.events"), 0);
}
