//! A cluster goes on after `pg_upgrade`, which makes the extension's objects one by one. From the major version under test to itself;
//! restore.rs goes from PostgreSQL 15 to later ones.

use tally_server_tests::{PrivateServer, assert_same, contents, describe, ingest, number};

fn events(first: usize) -> String {
    let events: Vec<String> = (first..first + 20)
        .map(|n| {
            format!(
                r#"{{"tenant_id":"{}","account_id":"n","name":"paid","user_id":"u{n}","occurred_at":"2026-{:02}-15T09:15:00Z",
                    "event_id":"00000000-0000-4000-8000-{n:012}","properties":{{"amount":{n}}}}}"#,
                ["acme", "heavy"][n % 2],
                8 + n % 4
            )
        })
        .collect();
    format!("[{}]", events.join(","))
}

#[test]
fn a_cluster_is_moved_to_another_release_by_pg_upgrade() {
    for (topic, settings) in [
        ("loaded", ""),
        ("preloaded", "shared_preload_libraries = 'pg_tally'\nmax_prepared_transactions = 5"),
    ] {
        let old = PrivateServer::create(&format!("{topic}_old"), settings);
        let mut superuser = old.connect("postgres", "postgres");
        superuser
            .batch_execute(
                "CREATE EXTENSION pg_tally; SELECT tally.open_months('-infinity');
                 CREATE ROLE app LOGIN IN ROLE tally_writer, tally_reader; SELECT tally.bind_role('app', 'acme');
                 SELECT tally.open_months('-infinity'); SELECT tally.limit_tenant('acme', statement_timeout_ms => 60000);
                 SELECT tally.create_rollup('mine', grains => '{day,week}', measures => ARRAY['distinct(user_id) AS users', 'count(*) AS events']);
                 CREATE ROLE shop NOLOGIN; CREATE TABLE public.orders (tenant_id text COLLATE \"C\" NOT NULL, number int);
                 ALTER TABLE public.orders OWNER TO shop; SELECT tally.protect('public.orders');
                 CREATE VIEW public.seen WITH (security_invoker) AS SELECT * FROM tally.mine_day;
                 CREATE INDEX own ON tally.events (tenant_id, user_id)",
            )
            .unwrap();
        assert_eq!(ingest(&mut superuser, &events(0)).unwrap().accepted, 20);
        for prepared in [
            "CALL tally.maintain()",
            "SELECT tally.isolate_tenant('heavy', '2026-10-01')",
            "SELECT tally.detach_raw('2026-09-01')",
        ] {
            superuser.batch_execute(prepared).unwrap();
        }
        assert_eq!(ingest(&mut superuser, &events(20)).unwrap().accepted, 20);
        let described = |client: &mut postgres::Client| {
            let rows = contents(client, &["tally", "public"]).into_iter();
            let objects = describe(client, &["tally", "tally_internal", "public"], true).into_iter();
            // Printed and read again, a body names columns that had no name.
            let objects = objects.map(|line| line.split("BEGIN ATOMIC").next().unwrap().to_owned());
            (objects.collect(), rows.map(|(name, rows)| format!("{name} {rows}")).collect())
        };
        let (objects, stored): (Vec<String>, Vec<String>) = described(&mut superuser);
        drop(superuser);

        let new = old.upgraded(&format!("{topic}_new"), settings);
        let mut superuser = new.connect("postgres", "postgres");
        let (objects_after, stored_after) = described(&mut superuser);
        assert_same(topic, &objects, &objects_after);
        assert_same(topic, &stored, &stored_after);
        let triggers =
            "SELECT count(*) FROM pg_trigger WHERE tgrelid = 'tally.inbox'::regclass AND tgenabled = 'A'";
        assert_eq!(number(&mut superuser, triggers), 3, "{topic}");
        assert_eq!(ingest(&mut superuser, &events(20)).unwrap().duplicates, 20, "{topic}");
        assert_eq!(ingest(&mut superuser, &events(40)).unwrap().accepted, 20, "{topic}");
        let mut app = new.connect("app", "postgres");
        assert_eq!(number(&mut app, "SELECT sum(events)::int8 FROM tally.mine_week"), 30, "{topic}");
        app.batch_execute("INSERT INTO tally.inbox (tenant_id, account_id, name, event_id, occurred_at) \
                             VALUES ('acme', 'n', 'x', '00000000-0000-4000-9000-000000000000', '2026-11-01T00:00:00Z')").unwrap();
        assert_eq!(number(&mut app, "SELECT sum(events)::int8 FROM tally.mine_week"), 31, "{topic}");
        superuser.batch_execute("BEGIN; SELECT tally.enter_global()").unwrap();
        for rollup in ["mine", "usage"] {
            let wrong = format!("SELECT count(*) FROM tally.verify_rollup('{rollup}', '2026-09-07')");
            assert_eq!(number(&mut superuser, &wrong), 0, "{topic}: {rollup}");
        }
        superuser.batch_execute("COMMIT").unwrap();
        let error = superuser.batch_execute("DROP EXTENSION pg_tally CASCADE").unwrap_err();
        assert_eq!(error.code().unwrap().code(), "2BP01", "{topic}: {error:?}");
    }
}
