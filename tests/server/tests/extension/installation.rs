//! Installing where somebody has prepared the ground: roles of pg_tally's names that were made, or given away, before.

use postgres::Client;
use tally_server_tests::{PrivateServer, ingest, major, number};

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
    // Since PostgreSQL 16 whoever makes a role is its member from then on, which is told before anything else that it did.
    let made = (
        "SET ROLE mallory; CREATE ROLE tally_security",
        r#"role "mallory" is a member of "tally_security""#,
        "DROP ROLE tally_security",
    );
    let makes_members = major() >= 16;
    let prepared =
        PREPARED.iter().filter(|(how, ..)| !(makes_members && how.starts_with("SET ROLE mallory")));
    for (preparation, told, cleaning) in prepared.chain(makes_members.then_some(&made)) {
        admin.batch_execute(preparation).unwrap_or_else(|problem| panic!("{preparation}: {problem:?}"));
        admin.batch_execute("RESET ROLE").unwrap();
        assert_eq!(refusal(&mut admin), Some(("42501".into(), (*told).into())), "{preparation}");
        admin.batch_execute(cleaning).unwrap_or_else(|problem| panic!("{cleaning}: {problem:?}"));
    }
    // The schema that the script makes must not be there, whoever made it.
    admin.batch_execute("CREATE SCHEMA tally_internal AUTHORIZATION mallory").unwrap();
    let told = ("42P06".into(), r#"schema "tally_internal" already exists"#.into());
    assert_eq!(refusal(&mut admin), Some(told));
    admin.batch_execute("DROP SCHEMA tally_internal").unwrap();
    // Roles without members or rights were no danger, and nor are those of another database's installation.
    admin.batch_execute("CREATE ROLE tally_owner NOLOGIN; CREATE ROLE tally_reader NOLOGIN").unwrap();
    assert_eq!(refusal(&mut admin), None);
    admin.batch_execute("GRANT tally_admin, tally_reader TO mallory").unwrap();
    admin.batch_execute("CREATE DATABASE another").unwrap();
    let mut another = server.connect("postgres", "another");
    assert_eq!(refusal(&mut another), None);
    let event = r#"{"tenant_id":"a","account_id":"x","name":"n","occurred_at":"2026-11-20T00:00:00Z","event_id":"31111111-1111-4111-8111-111111111111"}"#;
    another.batch_execute("SELECT tally.open_months('-infinity')").unwrap();
    assert_eq!(ingest(&mut another, event).unwrap().accepted, 1);
    // Installed, dropped and installed again in one database.
    another.batch_execute("SET tally.allow_drop = on; DROP EXTENSION pg_tally CASCADE").unwrap();
    assert_eq!(refusal(&mut another), None);
}

/// Everything in our schemas on which a role has a privilege, its own or PUBLIC's: the same for a stranger in a database
/// without any default privileges.
fn has(client: &mut Client, role: &str) -> Vec<String> {
    let query = "
        SELECT 'relation ' || c.relname || ' ' || x.p FROM pg_class AS c,
               unnest('{SELECT,INSERT,UPDATE,DELETE,TRUNCATE,REFERENCES,TRIGGER}'::text[]) AS x (p)
         WHERE c.relnamespace = ANY ($2) AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
           AND CASE WHEN x.p IN ('SELECT', 'INSERT', 'UPDATE', 'REFERENCES') THEN has_any_column_privilege($1, c.oid, x.p) ELSE has_table_privilege($1, c.oid, x.p) END
        UNION ALL SELECT 'sequence ' || c.relname FROM pg_class AS c
         WHERE c.relnamespace = ANY ($2) AND CASE c.relkind WHEN 'S' THEN has_sequence_privilege($1, c.oid, 'USAGE, SELECT, UPDATE') END
        UNION ALL SELECT 'function ' || p.oid::regprocedure FROM pg_proc AS p
         WHERE p.pronamespace = ANY ($2) AND has_function_privilege($1, p.oid, 'EXECUTE')
        UNION ALL SELECT 'type ' || t.typname || coalesce(t.typacl::text, '') FROM pg_type AS t
         WHERE t.typnamespace = ANY ($2) AND t.typacl::text ~ $1
        UNION ALL SELECT 'schema ' || n.nspname || ' ' || x.p FROM pg_namespace AS n, unnest('{CREATE,USAGE,USAGE WITH GRANT OPTION}'::text[]) AS x (p)
         WHERE n.oid = ANY ($2) AND has_schema_privilege($1, n.oid, x.p) AND NOT (n.nspname = 'tally' AND x.p = 'USAGE')
        ORDER BY 1";
    // An installation of 0.1.0 has the first alone.
    let ours = "SELECT array_agg(oid) FROM pg_namespace WHERE nspname IN ('tally', 'tally_internal')";
    let ours: Vec<u32> = client.query_one(ours, &[]).unwrap().get(0);
    client.query(query, &[&role, &ours]).unwrap().iter().map(|row| row.get(0)).collect()
}

/// Uses the installation so that it makes objects: a month, a rollup, another grain, a heavy tenant's partitions.
fn make_more(client: &mut Client) {
    let event = r#"{"tenant_id":"a","account_id":"x","name":"n","occurred_at":"2026-10-20T00:00:00Z","event_id":"31111111-1111-4111-8111-111111111112"}"#;
    client.batch_execute("SELECT tally.open_months('-infinity')").unwrap();
    assert_eq!(ingest(client, event).unwrap().accepted, 1);
    client
        .batch_execute(
            "SELECT tally.create_rollup('later', '{day,week}', ARRAY['count(*) AS n'], ARRAY['name']);
             SELECT tally.alter_rollup('later', add_measures => ARRAY['distinct(user_id) AS users']);
             SELECT tally.isolate_tenant('a')",
        )
        .unwrap();
    client.batch_execute("CALL tally.maintain()").unwrap();
    assert!(number(client, "SELECT count(*) FROM pg_class WHERE relname ~ '^(later|events_p)'") > 6);
}

#[test]
fn default_privileges_give_nobody_anything() {
    let server = PrivateServer::create("defaults", "shared_preload_libraries = ''");
    let mut admin = server.connect("postgres", "postgres");
    admin.batch_execute("CREATE ROLE anon; CREATE ROLE stranger; CREATE EXTENSION pg_tally").unwrap();
    make_more(&mut admin);
    let (of_anon, of_nobody) = (has(&mut admin, "anon"), has(&mut admin, "stranger"));
    assert_eq!(of_anon, of_nobody);
    assert!(
        of_nobody.iter().all(|line| line.starts_with("function ")) && of_nobody.len() > 20,
        "{of_nobody:#?}"
    );
    let kinds = ["TABLES", "FUNCTIONS", "SEQUENCES", "TYPES", "SCHEMAS"];
    for (place, who) in
        ["", "FOR ROLE tally_owner", "FOR ROLE tally_security", "FOR ROLE postgres, tally_owner"]
            .into_iter()
            .enumerate()
    {
        admin.batch_execute(&format!("CREATE DATABASE defaults{place}")).unwrap();
        let mut client = server.connect("postgres", &format!("defaults{place}"));
        for to in ["anon", "anon WITH GRANT OPTION", "PUBLIC"] {
            for kind in kinds {
                client
                    .batch_execute(&format!("ALTER DEFAULT PRIVILEGES {who} GRANT ALL ON {kind} TO {to}"))
                    .unwrap();
            }
        }
        client.batch_execute("CREATE TABLE public.open (i int)").unwrap();
        if !who.contains("tally") {
            assert_eq!(
                number(
                    &mut client,
                    "SELECT has_table_privilege('anon', 'public.open', 'TRUNCATE')::int::int8"
                ),
                1,
                "the defaults work"
            );
        }
        client.batch_execute("CREATE EXTENSION pg_tally").unwrap();
        make_more(&mut client);
        for role in ["anon", "stranger"] {
            assert_eq!(has(&mut client, role), of_nobody, "{who}: {role}");
        }
        // The group roles have what they have elsewhere, and lint says what is still set for what is made later.
        for role in ["tally_reader", "tally_writer", "tally_admin", "tally_auditor", "tally_analyst"] {
            assert_eq!(has(&mut client, role), has(&mut admin, role), "{who}: {role}");
        }
        let told = number(&mut client, "SELECT count(*) FROM tally.lint() WHERE name = 'default_privileges'");
        assert_eq!(told > 0, who.contains("tally_owner"), "{who}");
    }
    // In the schema, which a superuser may have made before; to a role of ours, whose own grants could not be told from these.
    admin.batch_execute("CREATE DATABASE in_schema").unwrap();
    let mut client = server.connect("postgres", "in_schema");
    client
        .batch_execute("CREATE SCHEMA tally; GRANT ALL ON SCHEMA tally TO anon; ALTER DEFAULT PRIVILEGES IN SCHEMA tally GRANT ALL ON TABLES TO anon;
                        ALTER DEFAULT PRIVILEGES IN SCHEMA tally GRANT ALL ON FUNCTIONS TO anon; ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO tally_reader")
        .unwrap();
    assert_eq!(
        refusal(&mut client),
        Some((
            "42501".into(),
            r#"default privileges of postgres give something to role "tally_reader""#.into()
        ))
    );
    client.batch_execute("ALTER DEFAULT PRIVILEGES REVOKE ALL ON TABLES FROM tally_reader").unwrap();
    assert_eq!(refusal(&mut client), None);
    make_more(&mut client);
    assert_eq!(has(&mut client, "anon"), of_nobody);
    // An installation whose objects had them before it was updated.
    admin.batch_execute("CREATE DATABASE old").unwrap();
    let mut client = server.connect("postgres", "old");
    client.batch_execute("ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO anon; ALTER DEFAULT PRIVILEGES GRANT ALL ON FUNCTIONS TO anon;
                          ALTER DEFAULT PRIVILEGES FOR ROLE tally_owner GRANT ALL ON TABLES TO anon").unwrap();
    // The released script under a number that no update starts from by itself: what is compared is privileges alone.
    let folder = server.client("pg_config").arg("--sharedir").output().unwrap().stdout;
    let place = std::path::Path::new(String::from_utf8(folder).unwrap().trim()).join("extension");
    let version = format!("0.0.{}", std::process::id());
    let present = env!("CARGO_PKG_VERSION");
    let released = concat!(env!("CARGO_MANIFEST_DIR"), "/../upgrade/pg_tally--0.1.0.sql");
    let placed = [
        (place.join(format!("pg_tally--{version}.sql")), std::fs::read(released).unwrap()),
        (
            place.join(format!("pg_tally--{version}--{present}.sql")),
            std::fs::read(place.join(format!("pg_tally--0.1.0--{present}.sql"))).unwrap(),
        ),
    ];
    placed.iter().for_each(|(path, text)| std::fs::write(path, text).unwrap());
    client.batch_execute(&format!("CREATE EXTENSION pg_tally VERSION '{version}'")).unwrap();
    client.batch_execute("SELECT tally.create_rollup('before', '{day}', ARRAY['count(*) AS n'])").unwrap();
    assert!(has(&mut client, "anon").len() > of_nobody.len(), "it had something");
    let updated = client.batch_execute("ALTER EXTENSION pg_tally UPDATE");
    placed.iter().for_each(|(path, _)| std::fs::remove_file(path).unwrap());
    updated.unwrap();
    make_more(&mut client);
    assert_eq!(has(&mut client, "anon"), of_nobody, "after the update");
}
