//! Code of a tenant that Postgres runs for it in somebody else's session: of an index, when a superuser's ANALYZE or autovacuum comes by, and of
//! a materialized view. The session's role isn't its own.

use postgres::Client;
use tally_server_tests::{Database, ingest, number};

const SETUP: &str = r#"
    CREATE TABLE SCHEMA.loot (query text, found text);
    CREATE FUNCTION SCHEMA.look() RETURNS void LANGUAGE plpgsql AS $look$
    DECLARE
      query text;
      found record;
    BEGIN
      IF session_user = current_user THEN RETURN; END IF;
      FOREACH query IN ARRAY QUERIES LOOP
        BEGIN
          FOR found IN EXECUTE query LOOP INSERT INTO SCHEMA.loot VALUES (query, found::text); END LOOP;
          INSERT INTO SCHEMA.loot VALUES (query, 'done');
        EXCEPTION WHEN OTHERS THEN INSERT INTO SCHEMA.loot VALUES (query, SQLSTATE);
        END;
      END LOOP;
    END $look$;
    CREATE FUNCTION SCHEMA.indexed(x int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN PERFORM SCHEMA.look(); RETURN x; END $$;
    CREATE TABLE SCHEMA.mine (x int);
    CREATE INDEX ON SCHEMA.mine (SCHEMA.indexed(x));
    INSERT INTO SCHEMA.mine VALUES (1)"#;

fn event(tenant: &str, number: u32) -> String {
    format!(
        r#"{{"tenant_id":"{tenant}","account_id":"x","name":"n","occurred_at":"2026-01-05T00:00:00Z","event_id":"00000000-0000-4000-8000-{number:012}"}}"#
    )
}

/// What the code found or was told, by query.
fn loot(client: &mut Client, schema: &str) -> Vec<(String, String)> {
    let rows = client.query(&format!("SELECT query, found FROM {schema}.loot ORDER BY 1, 2"), &[]).unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

#[test]
fn code_that_postgres_runs_for_a_tenant_has_no_rights_of_the_session() {
    let mut database = Database::new("restricted");
    let [writer, analyst] =
        [("writer", &["tally_reader", "tally_writer"][..]), ("analyst", &["tally_reader", "tally_analyst"])]
            .map(|(name, groups)| database.role(name, groups));
    let schema = format!("s_{writer}");
    let mut superuser = database.superuser();
    superuser
        .batch_execute(&format!(
            "SELECT tally.bind_role('{writer}', 'a'), tally.bind_role('{analyst}', scope => 'global'); CREATE SCHEMA {schema} AUTHORIZATION {writer}"
        ))
        .unwrap();
    ingest(&mut superuser, &event("b", 1)).unwrap();
    ingest(&mut superuser, &event("b", 1).replace(r#""name":"n","#, "")).unwrap();
    let other = database.role("other", &["tally_reader"]);
    superuser.execute("SELECT tally.bind_role($1::text::regrole, 'b')", &[&other]).unwrap();
    database
        .connect(&other)
        .batch_execute("SELECT tally.request_export('SELECT name FROM tally.events', 'a report', 10)")
        .unwrap();
    let forged = event("b", 7);
    let queries = [
        format!("SELECT accepted FROM tally.ingest('{forged}')"),
        format!("SELECT accepted FROM tally.ingest_events(ARRAY['{forged}'::tally.event])"),
        "INSERT INTO tally.inbox VALUES ('b', 'x', 'n', '2026-01-05T00:00:00Z', '00000000-0000-4000-8000-000000000008') RETURNING name".to_owned(),
        "SELECT accepted FROM tally.redrive()".to_owned(),
        "SELECT tally.discard('gone')".to_owned(),
        "SELECT tally.reset_stream('s', 1)".to_owned(),
        "SELECT act FROM tally.audit".to_owned(),
        "SELECT id FROM tally.exports".to_owned(),
        "SELECT tally.reject_export('00000000-0000-4000-8000-000000000009', 'no')".to_owned(),
        "SELECT tally.withdraw_export('00000000-0000-4000-8000-000000000009')".to_owned(),
        "SELECT tally.enter('b')".to_owned(),
        "SELECT tally.enter_global()".to_owned(),
        "SELECT name FROM tally.events".to_owned(),
        "SELECT reason FROM tally.quarantine".to_owned(),
        "SELECT events FROM tally.usage_day".to_owned(),
        "SELECT tally.find_event('00000000-0000-4000-8000-000000000001')".to_owned(),
        "SELECT tally.current_tenant()".to_owned(),
        "SELECT tally.scope_key()".to_owned(),
        "SELECT count(*) FROM pg_locks".to_owned(),
        "EXPLAIN SELECT 1".to_owned(),
        "SELECT tally.funnel('{n,n}'::text[], '1 day', '2026-01-01', '2026-02-01')".to_owned(),
    ];
    let listed: Vec<String> = queries.iter().map(|query| format!("$q${query}$q$")).collect();
    let setup = SETUP.replace("QUERIES", &format!("ARRAY[{}]", listed.join(", "))).replace("SCHEMA", &schema);
    database.connect(&writer).batch_execute(&setup).unwrap();
    let refused = |found: &[(String, String)]| {
        assert!(found.len() >= queries.len(), "the code ran: {found:?}");
        for (query, told) in found {
            // That there is nothing to reject tells nothing, and what is its own it may ask.
            assert!(["42501", "02000", "42704"].contains(&told.as_str()), "{query}: {told}");
        }
    };
    superuser.batch_execute(&format!("ANALYZE {schema}.mine")).unwrap();
    refused(&loot(&mut superuser, &schema));
    // Nothing that a session may see by its binding, either: one that has the table's owner analyse it.
    superuser
        .batch_execute(&format!(
            "TRUNCATE {schema}.loot; ALTER DATABASE {} OWNER TO {analyst}; GRANT USAGE ON SCHEMA {schema} TO {analyst}",
            database.name()
        ))
        .unwrap();
    database.connect(&analyst).batch_execute(&format!("ANALYZE {schema}.mine")).unwrap();
    refused(&loot(&mut superuser, &schema));
    assert_eq!(number(&mut superuser, "SELECT count(*) FROM tally.quarantine"), 1);
    assert_eq!(number(&mut superuser, "SELECT count(*) FROM tally.events"), 1);
    assert_eq!(number(&mut superuser, "SELECT count(*) FROM tally.export WHERE state = 'requested'"), 1);
    // A materialized view of one's own is filled in one's own scope.
    let mut own = database.connect(&writer);
    own.batch_execute(&format!(
        "CREATE MATERIALIZED VIEW {schema}.days AS SELECT events FROM tally.usage_day WITH NO DATA"
    ))
    .unwrap();
    ingest(&mut superuser, &event("a", 2)).unwrap();
    own.batch_execute(&format!("REFRESH MATERIALIZED VIEW {schema}.days")).unwrap();
    assert_eq!(number(&mut own, &format!("SELECT sum(events)::int8 FROM {schema}.days")), 1);
}
