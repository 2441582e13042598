//! What an administrator may do to pg_tally's own tables: each row of the table in docs/ADMINISTRATION.md is done, used, undone or
//! refused as the row says. And what is no plain heap of ours is refused, never written past.

use postgres::Client;
use tally_server_tests::{
    Database, PrivateServer, TokenSigner, assert_same, describe, ingest, number, succeed,
};

const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/ADMINISTRATION.md");

fn event(n: usize, month: usize) -> String {
    format!(
        r#"{{"tenant_id":"acme","account_id":"n","user_id":"u{n}","name":"paid","event_id":"00000000-0000-4000-8000-{n:012}",
            "occurred_at":"2026-{month:02}-03T09:15:00Z","properties":{{"plan":"pro"}}}}"#
    )
}

/// The rows of the document's table: SQL, and what becomes of it.
fn rows() -> Vec<(String, String)> {
    let text = std::fs::read_to_string(DOCUMENT).unwrap();
    let rows = text.lines().filter(|line| line.starts_with("| `"));
    rows.map(|line| {
        let (sql, rest) = line[3..].split_once("` |").expect("SQL, then a bar");
        (sql.replace("\\|", "|"), rest.split('|').next().unwrap().trim().to_owned())
    })
    .collect()
}

fn sqlstate(error: &postgres::Error) -> String {
    error.code().unwrap_or_else(|| panic!("{error:?}")).code().to_owned()
}

/// Ingests into a month that is there and one that isn't, folds and compares; the error where one step is refused.
fn work(client: &mut Client, from: usize) -> Result<(), String> {
    let told = |step: &str, error: &postgres::Error| {
        let error = error.as_db_error().unwrap_or_else(|| panic!("{step}: {error:?}"));
        format!("{} {step}: {} ({})", error.code().code(), error.message(), error.hint().unwrap_or("no hint"))
    };
    for (n, month) in [(from, 3), (from + 1, 1 + from % 12)] {
        match ingest(client, &event(n, month)) {
            Ok(summary) => assert_eq!(summary.accepted, 1, "event {n}"),
            Err(error) => return Err(told("ingest", &error)),
        }
    }
    for rollup in ["usage", "session", "user_activity"] {
        if let Err(error) = client.execute("SELECT tally.fold($1)", &[&rollup]) {
            return Err(told("fold", &error));
        }
    }
    Ok(())
}

fn verify(client: &mut Client, events: i64) {
    let mut transaction = client.transaction().unwrap();
    transaction.execute("SELECT tally.enter_global()", &[]).unwrap();
    for query in ["SELECT count(*) FROM tally.events", "SELECT sum(events)::int8 FROM tally.usage_day"] {
        assert_eq!(transaction.query_one(query, &[]).unwrap().get::<_, i64>(0), events, "{query}");
    }
    for rollup in ["usage", "session", "user_activity"] {
        let differences = transaction.query("SELECT * FROM tally.verify_rollup($1)", &[&rollup]).unwrap();
        assert!(differences.is_empty(), "{rollup}: {} differences", differences.len());
    }
}

#[test]
fn each_row_of_the_document_is_so() {
    let rows = rows();
    assert!(rows.len() > 30, "{} rows", rows.len());
    let (mut supported, mut refused) = (0, 0);
    for (sql, fate) in rows {
        let database = Database::new("administrator");
        let mut client = database.superuser();
        work(&mut client, 10).unwrap();
        client.batch_execute(&sql).unwrap_or_else(|problem| panic!("{sql}: {problem:?}"));
        // In this session, whose caches are warm, and in a new one.
        let outcomes = [work(&mut client, 20), work(&mut database.superuser(), 30)];
        if fate.starts_with("works") {
            for outcome in outcomes {
                assert_eq!(outcome, Ok(()), "{sql}");
            }
            verify(&mut client, 6);
            supported += 1;
        } else {
            let code = fate.strip_prefix("refused, ").unwrap_or_else(|| panic!("{sql}: {fate}"));
            for outcome in outcomes {
                let problem = outcome.expect_err(&sql);
                assert!(
                    problem.starts_with(code) && !problem.contains("no hint"),
                    "{sql}: {problem}, not {code}"
                );
            }
            refused += 1;
        }
    }
    println!("{supported} supported, {refused} refused");
}

/// A column that comes and goes again leaves nothing behind: its attribute still counts in Postgres.
#[test]
fn dropped_columns_of_every_table_are_passed_over() {
    let database = Database::new("admin_dropped");
    let mut client = database.superuser();
    let tables = [
        "events",
        "event_key",
        "ingest_batch",
        "quarantine",
        "tenant",
        "unregistered_event",
        "usage_pending",
        "usage_day_base",
        "session_pending",
        "session_month_base",
        "user_activity_pending",
        "user_activity_year_base",
        "role_binding",
        "tenant_limit",
        "quota",
        "rollup",
        "rollup_column",
        "retention",
        "tenant_horizon",
    ];
    for (number, table) in tables.iter().enumerate() {
        let sql = format!(
            "ALTER TABLE tally.{table} ADD COLUMN note text; ALTER TABLE tally.{table} DROP COLUMN note"
        );
        client.batch_execute(&sql).unwrap();
        work(&mut client, 10 * number + 10).unwrap_or_else(|problem| panic!("{table}: {problem}"));
    }
    let bad = r#"{"tenant_id":"acme"}"#;
    assert_eq!(ingest(&mut client, bad).unwrap().rejected, 1);
    verify(&mut client, 2 * tables.len() as i64);
    client
        .batch_execute(
            "SELECT tally.rebuild_rollup('usage'); SELECT tally.isolate_tenant('acme', '2026-01-01')",
        )
        .unwrap();
    verify(&mut client, 2 * tables.len() as i64);
}

/// What an administrator's own column or constraint can't take is an event's fault, not its batch's.
#[test]
fn an_event_that_an_own_column_or_constraint_refuses_is_rejected_alone() {
    let database = Database::new("admin_refusal");
    let mut client = database.superuser();
    client
        .batch_execute(
            "ALTER TABLE tally.events ADD COLUMN amount int GENERATED ALWAYS AS ((properties->>'amount')::int) STORED,
               ADD CONSTRAINT no_tests CHECK (name <> 'test'), ADD COLUMN seen timestamptz NOT NULL DEFAULT clock_timestamp()",
        )
        .unwrap();
    let events = format!(
        "[{},{},{},{}]",
        event(1, 3),
        event(2, 3).replace("paid", "test"),
        event(3, 5).replace(r#""plan":"pro""#, r#""amount":"much""#),
        event(4, 5).replace(r#""plan":"pro""#, r#""amount":"17""#)
    );
    let summary = ingest(&mut client, &events).unwrap();
    assert_eq!((summary.accepted, summary.rejected), (2, 2));
    let kept = client.query("SELECT sqlstate FROM tally.quarantine ORDER BY \"position\"", &[]).unwrap();
    assert_eq!(kept.iter().map(|row| row.get(0)).collect::<Vec<String>>(), ["23514", "22P02"]);
    assert_eq!(number(&mut client, "SELECT sum(amount)::int8 FROM tally.events WHERE seen IS NOT NULL"), 17);
    // A rollup is made of what events say, so that it can be made anew.
    let error = client
        .execute(
            "SELECT tally.create_rollup('amounts', '{day}', ARRAY['sum(amount::numeric) AS amount'])",
            &[],
        )
        .unwrap_err();
    assert_eq!(sqlstate(&error), "0A000");
}

/// Tables that aren't what they were: rows would be nowhere, or be seen by nobody who should see them.
#[test]
fn tables_that_are_no_plain_heap_of_ours_are_refused() {
    let citus = "SET allow_system_table_mods = on;
        CREATE TABLE pg_catalog.pg_dist_partition (logicalrelid regclass NOT NULL, partmethod \"char\" NOT NULL);
        RESET allow_system_table_mods; INSERT INTO pg_catalog.pg_dist_partition VALUES ('$table', 'h')";
    let heir = "CREATE TABLE public.heir () INHERITS ($table)";
    let replaced = "ALTER TABLE $table RENAME TO before; CREATE $kind";
    for (table, folds) in [
        ("tally.events_p2026_03", false),
        ("tally.event_key", false),
        ("tally.ingest_batch", false),
        ("tally.usage_pending", false),
        ("tally.usage_day_base", true),
    ] {
        let name = table.strip_prefix("tally.").unwrap();
        let mut ways = vec![
            citus.to_owned(),
            "CREATE RULE gone AS ON INSERT TO $table DO INSTEAD NOTHING".to_owned(),
            "ALTER TABLE $table SET UNLOGGED".to_owned(),
        ];
        if !name.contains("_p2026") {
            ways.push(heir.to_owned());
            ways.push(replaced.replace("$kind", &format!("VIEW tally.{name} AS SELECT * FROM tally.before")));
        }
        for way in ways {
            let database = Database::new("no_plain_heap");
            let mut client = database.superuser();
            work(&mut client, 10).unwrap();
            client
                .batch_execute(&way.replace("$table", table))
                .unwrap_or_else(|problem| panic!("{way}: {problem:?}"));
            let count = |client: &mut Client| number(client, "SELECT count(*) FROM tally.events");
            let before = count(&mut client);
            // A new session: one that knows the rollups goes on writing where the readers' views look, whatever its name is now.
            let problem = work(&mut database.superuser(), 20).expect_err(&way);
            // A view has no key to look an event up by, which is found first.
            let is_view = way.contains("VIEW") && problem.starts_with("42804");
            assert!(problem.starts_with("0A000") || is_view, "{table}, {way}: {problem}");
            assert!(problem.contains(if folds { "fold" } else { "ingest" }), "{table}, {way}: {problem}");
            // Nothing of what was refused is stored.
            let stored = count(&mut client) - before;
            assert_eq!(stored, if folds { 2 } else { 0 }, "{table}, {way}");
        }
    }
}

/// A dump leaves out what was added to the extension's own tables; in the order that the document gives, it is there again.
#[test]
fn a_database_with_additions_is_restored() {
    let server = PrivateServer::create("additions", "");
    server.connect("postgres", "postgres").batch_execute("CREATE DATABASE shop; ").unwrap();
    server.connect("postgres", "postgres").batch_execute("CREATE DATABASE again").unwrap();
    let mut client = server.connect("postgres", "shop");
    let columns = "ALTER TABLE tally.events ADD COLUMN note text, ADD COLUMN plan text GENERATED ALWAYS AS (properties->>'plan') STORED;
                   ALTER TABLE tally.event_key ADD COLUMN note text DEFAULT 'none'";
    client
        .batch_execute(&format!(
            "CREATE EXTENSION pg_tally; {columns}; SELECT tally.open_months('-infinity')"
        ))
        .unwrap();
    work(&mut client, 10).unwrap();
    client.batch_execute("CREATE INDEX own ON tally.events (tenant_id, user_id)").unwrap();
    work(&mut client, 20).unwrap();
    let file = server.data().join("shop.dump");
    let file = file.to_str().unwrap();
    succeed(server.client("pg_dump").args(["-Fc", "-f", file, "shop"]));
    // The schema is there with the extension.
    let listed = String::from_utf8(succeed(server.client("pg_restore").args(["-l", file])).stdout).unwrap();
    let (schema, rest): (Vec<&str>, Vec<&str>) =
        listed.lines().partition(|line| line.contains(" SCHEMA - tally "));
    assert_eq!(schema.len(), 1);
    let list = server.data().join("shop.list");
    std::fs::write(&list, rest.join("\n")).unwrap();
    let restore = |sections: &[&str]| {
        let mut command = server.client("pg_restore");
        command
            .args(["--exit-on-error", "-d", "again", "-L", list.to_str().unwrap()])
            .args(sections)
            .arg(file);
        succeed(&mut command);
    };
    let mut again = server.connect("postgres", "again");
    again.batch_execute(&format!("CREATE EXTENSION pg_tally; {columns}")).unwrap();
    restore(&["--section=pre-data", "--section=data"]);
    again.batch_execute("CREATE INDEX own ON ONLY tally.events (tenant_id, user_id)").unwrap();
    restore(&["--section=post-data"]);
    let schemas = ["tally"];
    let (before, after) = (describe(&mut client, &schemas, true), describe(&mut again, &schemas, true));
    assert_same("restored", &before, &after);
    for query in [
        "SELECT count(*) FROM tally.events WHERE plan = 'pro'",
        "SELECT count(*) FROM pg_index WHERE indrelid = 'tally.events'::regclass AND indisvalid",
        "SELECT count(*) FROM pg_policy",
    ] {
        assert!(number(&mut client, query) > 0, "{query}");
        assert_eq!(number(&mut client, query), number(&mut again, query), "{query}");
    }
    work(&mut again, 30).unwrap();
    verify(&mut again, 6);
}

/// Tables that are looked up below the executor and written by SQL: a column of another type is an error that names it, in whatever
/// session reads it, and a superuser can mend it.
#[test]
fn an_altered_column_of_what_is_looked_up_is_an_error_that_names_it() {
    let cases = [
        // Functions depend on the columns of this one, which keeps their types and not their names.
        ("role_binding", "bound_as", "was", "bound_as", "SELECT count(*) FROM tally.events"),
        ("role_binding", "needs_token", "was", "needs_token", "SELECT count(*) FROM tally.events"),
        ("tenant_limit", "max_transactions", "int8", "int4", "SELECT count(*) FROM tally.events"),
        ("tenant_limit", "idle_in_transaction_ms", "text", "int4", "SELECT count(*) FROM tally.events"),
        ("token_key", "valid_until", "text", "timestamptz", "token"),
        ("token_key", "public_key", "text", "bytea", "token"),
        ("tenant_horizon", "raw_from", "text", "timestamptz", "ingest"),
        ("tenant_horizon", "raw_from", "text", "timestamptz", "funnel"),
        ("raw_loss", "payments_from", "text", "timestamptz", "funnel"),
        ("opened_months", "opened_from", "text", "timestamptz", "ingest old"),
        ("unregistered_event", "first_seen_at", "text", "timestamptz", "ingest"),
    ];
    for (table, column, altered, made, deed) in cases {
        let what = format!("{table}.{column} by {deed}");
        let mut database = Database::new("admin_looked_up");
        let mut superuser = database.superuser();
        let user = database.role("user", &["tally_reader", "tally_writer"]);
        let pool = database.role("pool", &["tally_reader"]);
        superuser.execute("SELECT tally.bind_role($1::text::regrole, 'acme')", &[&user]).unwrap();
        superuser.execute("SELECT tally.pool_role($1::text::regrole)", &[&pool]).unwrap();
        let signer = TokenSigner::new("key", 3);
        signer.register(&mut superuser).unwrap();
        work(&mut superuser, 10).unwrap();
        superuser
            .batch_execute(
                "SELECT tally.limit_tenant('acme', max_transactions => 10); SELECT tally.open_months('2001-01-01', 'acme');
                 SELECT tally.set_unregistered_policy('mark'); SELECT tally.set_retention('acme', '200 years');
                 INSERT INTO tally.raw_loss (whole_from, tenant_id) VALUES ('2001-01-01Z', 'acme')",
            )
            .unwrap();
        superuser.batch_execute("CALL tally.maintain()").unwrap();
        let act = |n: usize| -> Result<(), postgres::Error> {
            let mut client = database.connect(if deed == "token" { &pool } else { &user });
            let funnel = "SELECT * FROM tally.funnel(ARRAY['paid'], '1 day', '2026-01-01Z', '2027-01-01Z')";
            match deed {
                "token" => {
                    let mut transaction = client.transaction()?;
                    signer.enter(&mut transaction, "acme")
                }
                "ingest" => ingest(&mut client, &event(n, 3)).map(drop),
                "ingest old" => {
                    ingest(&mut client, &event(n, 3).replace("2026-", &format!("20{:02}-", n / 10))).map(drop)
                }
                "funnel" => client.query(funnel, &[]).map(drop),
                query => client.query(query, &[]).map(drop),
            }
        };
        act(20).unwrap_or_else(|problem| panic!("{what}: {problem:?}"));
        // What depends on the column's old type goes first, as whoever did that would find.
        let free = format!(
            "ALTER TABLE tally.{table} ALTER {column} DROP DEFAULT;
             DO $$ DECLARE c name; BEGIN
               FOR c IN SELECT conname FROM pg_constraint WHERE conrelid = 'tally.{table}'::regclass AND contype = 'c' LOOP
                 EXECUTE format('ALTER TABLE tally.{table} DROP CONSTRAINT %I', c); END LOOP; END $$"
        );
        if table != "role_binding" {
            superuser.batch_execute(&free).unwrap_or_else(|problem| panic!("{what}: {problem:?}"));
        }
        let to = |to: &str| {
            if table == "role_binding" {
                let from = if to == "was" { column } else { "was" };
                return format!("ALTER TABLE tally.{table} RENAME {from} TO {to}");
            }
            let using = match (column, to) {
                ("public_key", "bytea") => "decode(public_key, 'hex')".to_owned(),
                ("public_key", _) => "encode(public_key, 'hex')".to_owned(),
                _ => format!("{column}::{}", to.split(' ').next().unwrap()),
            };
            format!("ALTER TABLE tally.{table} ALTER {column} TYPE {to} USING {using}")
        };
        superuser.batch_execute(&to(altered)).unwrap_or_else(|problem| panic!("{what}: {problem:?}"));
        let problem = act(30).expect_err(&what);
        assert_eq!(sqlstate(&problem), "42804", "{what}: {problem:?}");
        let problem = problem.as_db_error().unwrap();
        assert!(problem.message().contains(column) && problem.hint().is_some(), "{what}: {problem}");
        superuser.batch_execute(&to(made)).unwrap_or_else(|problem| panic!("{what}: {problem:?}"));
        act(40).unwrap_or_else(|problem| panic!("{what}: {problem:?}"));
    }
}
