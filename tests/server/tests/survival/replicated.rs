//! Replication: the inbox in every mode of `session_replication_role`, by a subscription's worker, too; and a subscriber of all
//! tables that ends equal to its publisher.

use postgres::Client;
use std::process::{Command, Stdio};
use tally_server_tests::{
    Database, PrivateServer, contents, ingest, json_array, major, number, succeed, wait_for,
};

fn row(n: usize) -> String {
    format!(
        "('acme', 'n', 'paid', '2026-03-01T09:15:00Z', '00000000-0000-4000-8000-{n:012}', NULL, NULL, '{{\"plan\": \"pro\"}}')"
    )
}

#[test]
fn the_inbox_stores_in_every_replication_mode() {
    let mut database = Database::new("replica_mode");
    let writer = database.role("writer", &["tally_writer"]);
    let mut admin = database.superuser();
    admin.execute("SELECT tally.trust_role($1::text::regrole)", &[&writer]).unwrap();
    admin.batch_execute(&format!("GRANT SET ON PARAMETER session_replication_role TO {writer}")).unwrap();
    let mut stored = 0;
    for (number_of, mode) in ["origin", "replica", "local"].iter().enumerate() {
        for role in ["postgres", &writer] {
            let mut client = database.connect(role);
            client.batch_execute(&format!("SET session_replication_role = {mode}")).unwrap();
            let n = 10 * number_of + usize::from(role == "postgres");
            assert_eq!(
                client.execute(&format!("INSERT INTO tally.inbox VALUES {}", row(n)), &[]).unwrap(),
                1
            );
            stored += 1;
            let kept = number(&mut admin, "SELECT count(*) FROM tally.events");
            assert_eq!(kept, stored, "{mode}, {role}");
            // One that is bad waits in quarantine, there too.
            let bad = row(n).replace("2026-03-01T09:15:00Z", "yesterday");
            client.execute(&format!("INSERT INTO tally.inbox VALUES {bad}"), &[]).unwrap();
            assert_eq!(number(&mut admin, "SELECT count(*) FROM tally.quarantine"), stored, "{mode}, {role}");
        }
    }
    // A view's triggers can't be switched off by DDL.
    for statement in
        ["ALTER TABLE tally.inbox DISABLE TRIGGER ALL", "ALTER TABLE tally.inbox DISABLE TRIGGER USER"]
    {
        assert!(admin.batch_execute(statement).is_err(), "{statement}");
    }
    admin.batch_execute(&format!("REVOKE SET ON PARAMETER session_replication_role FROM {writer}")).unwrap();
}

/// Every trigger of ours fires always: what it does would be left undone without a word.
#[test]
fn every_trigger_of_ours_fires_in_every_mode() {
    let database = Database::new("triggers_always");
    let mut client = database.superuser();
    let rows = client
        .query(
            "SELECT format('%s %s', t.tgrelid::regclass, t.tgname), t.tgenabled = 'A' FROM pg_trigger AS t
               JOIN pg_proc AS f ON f.oid = t.tgfoid WHERE f.pronamespace IN ('tally'::regnamespace, 'tally_internal'::regnamespace) AND NOT t.tgisinternal",
            &[],
        )
        .unwrap();
    assert!(rows.len() >= 7, "{}", rows.len());
    for row in rows {
        assert!(row.get::<_, bool>(1), "{}", row.get::<_, String>(0));
    }
}

/// An autovacuum that makes room for a command logs that as an error, and the tests look for errors.
const QUIET: &str = "autovacuum = off";

fn events(numbers: std::ops::Range<usize>) -> String {
    let events: Vec<String> = numbers
        .map(|n| {
            format!(
                r#"{{"tenant_id":"t{}","account_id":"a{}","name":"n{}","user_id":"u{}","event_id":"00000000-0000-4000-8000-{n:012}",
                    "occurred_at":"2026-0{}-{:02}T{:02}:00:00Z","properties":{{"value":{n},"plan":"p{}"}}}}"#,
                n % 3, n % 7, n % 5, n % 97, 1 + n % 3, 1 + n % 28, n % 24, n % 2
            )
        })
        .collect();
    json_array(events.iter().map(String::as_str))
}

/// Waits until the subscriber has what the publisher had.
fn caught_up(publisher: &mut Client, subscriber: &PrivateServer) {
    let here: String = publisher.query_one("SELECT pg_current_wal_insert_lsn()::text", &[]).unwrap().get(0);
    wait_for("the subscriber", || {
        let there = format!(
            "SELECT count(*) FROM pg_stat_replication WHERE application_name = 'mirror' AND replay_lsn >= '{here}'"
        );
        let failed = subscriber.log();
        assert!(!failed.contains("ERROR:"), "{failed}");
        (publisher.query_one(&there, &[]).unwrap().get::<_, i64>(0) == 1).then_some(())
    });
}

#[test]
fn a_subscriber_of_all_tables_ends_equal() {
    let publisher = PrivateServer::create("publisher", &format!("wal_level = logical\n{QUIET}"));
    publisher.connect("postgres", "postgres").batch_execute("CREATE DATABASE shop").unwrap();
    let mut here = publisher.connect("postgres", "shop");
    here.batch_execute(
        "CREATE EXTENSION pg_tally; SELECT tally.open_months('-infinity');
         SELECT tally.create_rollup('plans', '{hour,week}', dimensions => ARRAY['name', $$properties->>'plan' AS plan$$],
           measures => ARRAY['count(*) AS n', 'distinct(user_id) AS users', $$percentiles(tally.property_float(properties, 'value')) AS value$$,
             'first(user_id) AS opener', 'sum((properties->>''value'')::numeric) AS total']);
         CREATE PUBLICATION everything FOR ALL TABLES",
    )
    .unwrap();
    for first in (0..600).step_by(200) {
        assert_eq!(ingest(&mut here, &events(first..first + 200)).unwrap().accepted, 200);
    }
    here.batch_execute("SELECT tally.fold('usage', 50); SELECT tally.fold('plans', 50)").unwrap();

    // The subscriber: the same tables, empty.
    let subscriber = PrivateServer::create(
        "subscriber",
        &format!(
            "wal_level = logical\nmax_worker_processes = 16\nmax_logical_replication_workers = 8\n\
             max_sync_workers_per_subscription = 4\n{QUIET}"
        ),
    );
    subscriber.connect("postgres", "postgres").batch_execute("CREATE DATABASE shop").unwrap();
    let dumped = succeed(publisher.client("pg_dump").args(["-s", "shop"])).stdout;
    let file = subscriber.data().join("schema.sql");
    std::fs::write(&file, dumped).unwrap();
    let mut load = subscriber.client("psql");
    succeed(
        load.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-f", file.to_str().unwrap(), "shop"])
            .stdin(Stdio::null()),
    );
    let mut there = subscriber.connect("postgres", "shop");
    there
        .batch_execute(
            "DROP PUBLICATION everything;
             DO $$
             DECLARE guarded text;
             BEGIN
               -- What the installation itself recorded: the audit log and exports give it up to a superuser's hand alone.
               FOR guarded IN SELECT format('ALTER TABLE %s %%s TRIGGER %I', tgrelid::regclass, tgname) FROM pg_trigger WHERE tgname ~ 'not_emptied$' LOOP
                 EXECUTE format(guarded, 'DISABLE');
               END LOOP;
               EXECUTE (SELECT 'TRUNCATE ' || string_agg(oid::regclass::text, ', ') FROM pg_class
                 WHERE relnamespace = 'tally'::regnamespace AND relkind IN ('r', 'p'));
               FOR guarded IN SELECT format('ALTER TABLE %s %%s TRIGGER %I', tgrelid::regclass, tgname) FROM pg_trigger WHERE tgname ~ 'not_emptied$' LOOP
                 EXECUTE format(guarded, 'ENABLE ALWAYS');
               END LOOP;
             END $$",
        )
        .unwrap();
    let config = publisher.client("psql");
    let port = config
        .get_envs()
        .find(|(name, _)| *name == "PGPORT")
        .unwrap()
        .1
        .unwrap()
        .to_str()
        .unwrap()
        .to_owned();
    // Since PostgreSQL 16 a change is applied as the table's owner, whom row security binds, unless this says otherwise.
    let options = if major() < 16 { "" } else { "WITH (run_as_owner = true)" };
    there
        .batch_execute(&format!(
            "CREATE SUBSCRIPTION mirror CONNECTION 'host={} port={port} user=postgres dbname=shop' PUBLICATION everything {options}",
            publisher.sockets().display()
        ))
        .unwrap();
    wait_for("the first copy", || {
        let left = "SELECT count(*) FROM pg_subscription_rel WHERE srsubstate <> 'r'";
        assert!(!subscriber.log().contains("ERROR:"), "{}", subscriber.log());
        (number(&mut there, left) == 0).then_some(())
    });

    // Everything that changes rows.
    for first in (600..1200).step_by(100) {
        assert_eq!(ingest(&mut here, &events(first..first + 100)).unwrap().accepted, 100);
        assert_eq!(ingest(&mut here, &events(first - 50..first)).unwrap().duplicates, 50);
        here.batch_execute(
            "SELECT tally.fold('usage', 70), tally.fold('plans', 70), tally.fold('session', 70)",
        )
        .unwrap();
    }
    // Many new groups among few known ones: no row of a key is sent twice.
    for first in [10_000, 10_990] {
        let sessions = (first..first + 1_000).map(|session| {
            format!(
                r#"{{"tenant_id":"t0","account_id":"a0","name":"n","session_id":"s{session}","occurred_at":"2026-02-03T09:15:00Z",
                     "event_id":"00000000-0000-4000-9000-{:012}"}}"#,
                if session < 11_000 && first > 10_000 { session + 50_000 } else { session }
            )
        });
        let sessions: Vec<String> = sessions.collect();
        assert_eq!(ingest(&mut here, &format!("[{}]", sessions.join(","))).unwrap().accepted, 1_000);
        here.batch_execute("SELECT tally.fold('session'), tally.fold('user_activity'), tally.fold('usage')")
            .unwrap();
    }
    let bad = r#"[{"tenant_id":"t0","account_id":"a0","name":"other","event_id":"00000000-0000-4000-8000-000000000000","occurred_at":"2026-01-01T00:00:00Z"},
                  {"tenant_id":"t1","account_id":"a1","name":"x","event_id":"none","occurred_at":"2026-01-01T00:00:00Z"}]"#;
    let summary = ingest(&mut here, bad).unwrap();
    assert_eq!((summary.conflicts, summary.rejected), (1, 1));
    here.batch_execute(
        "SELECT tally.redrive(); SELECT tally.discard('a test', outcome => 'rejected');
         SELECT tally.rebuild_rollup('plans', '2026-02-01', '2026-03-01');
         CALL tally.maintain()",
    )
    .unwrap_or_else(|_| {
        here.batch_execute("SELECT tally.redrive(); SELECT tally.discard('a test', outcome => 'rejected')")
            .unwrap();
        here.batch_execute("SELECT tally.rebuild_rollup('plans', '2026-02-01', '2026-03-01')").unwrap();
        here.batch_execute("SELECT tally.fold('usage'), tally.fold('plans')").unwrap();
    });
    here.batch_execute("SELECT tally.set_retention('t2', '1 month'); SELECT tally.retain(100000)").unwrap();

    caught_up(&mut here, &subscriber);
    let (left, right) = (contents(&mut here, &["tally"]), contents(&mut there, &["tally"]));
    assert!(left.len() > 20 && left.values().any(|digest| !digest.starts_with("0 ")));
    let differing: Vec<_> = left.iter().filter(|(table, digest)| right.get(*table) != Some(digest)).collect();
    assert!(differing.is_empty(), "{differing:?}");
    let sums = "SELECT sum(n)::int8 FROM tally.plans_week";
    for client in [&mut here, &mut there] {
        let mut transaction = client.transaction().unwrap();
        transaction.execute("SELECT tally.enter_global()", &[]).unwrap();
        assert!(transaction.query_one(sums, &[]).unwrap().get::<_, i64>(0) > 1000);
    }
    there.batch_execute("DROP SUBSCRIPTION mirror").unwrap();
}

/// Publications of every make never make ingest or a fold fail.
#[test]
fn publications_never_reach_ingest() {
    for publication in [
        "FOR ALL TABLES",
        "FOR ALL TABLES WITH (publish_via_partition_root = true)",
        "FOR TABLES IN SCHEMA tally",
        "FOR TABLE tally.usage_pending, tally.usage_day_base",
        "FOR TABLE tally.usage_day_base (tenant_id, bucket)",
        "FOR TABLE tally.usage_day_base WHERE (events > 1)",
        "FOR ALL TABLES WITH (publish = 'insert')",
    ] {
        let database = Database::new("publications");
        let mut client = database.superuser();
        client.batch_execute(&format!("CREATE PUBLICATION p {publication}")).unwrap();
        for first in (0..300).step_by(100) {
            assert_eq!(
                ingest(&mut client, &events(first..first + 100)).unwrap().accepted,
                100,
                "{publication}"
            );
            client
                .batch_execute("SELECT tally.fold('usage')")
                .unwrap_or_else(|problem| panic!("{publication}: {problem:?}"));
        }
    }
}

/// What an application's table is subscribed with: its rows, and rows of it handed on to the inbox.
const TABLE: &str =
    "CREATE TABLE public.page_view (tenant text NOT NULL, account text NOT NULL, at timestamptz NOT NULL,
    id uuid PRIMARY KEY, properties jsonb)";
const FEED: &str = "CREATE FUNCTION public.feed() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
    BEGIN
      INSERT INTO tally.inbox (tenant_id, account_id, name, occurred_at, event_id, properties)
      VALUES (new.tenant, new.account, 'page.view', new.at, new.id, new.properties);
      RETURN NULL;
    END $$;
    CREATE TRIGGER feed AFTER INSERT ON public.page_view FOR EACH ROW EXECUTE FUNCTION public.feed()";

/// Rows of two tenants and nine months.
fn views(numbers: std::ops::Range<usize>) -> String {
    format!(
        "INSERT INTO public.page_view SELECT 't' || n % 2, 'a' || n % 5, timestamptz '2026-01-15Z' + make_interval(months => n % 9, secs => n),
           ('00000000-0000-4000-8000-' || lpad(n::text, 12, '0'))::uuid, jsonb_build_object('value', n) FROM generate_series({}, {}) AS n",
        numbers.start,
        numbers.end - 1
    )
}

/// An application's table is subscribed to, and a trigger feeds the inbox: by a superuser's subscription and, where that can
/// be, by a trusted writer's; through the first copy, new months, folds and a crash in the middle. Each row becomes one event.
#[test]
fn a_subscriptions_trigger_feeds_the_inbox_exactly_once() {
    let publisher = PrivateServer::create("source", &format!("wal_level = logical\n{QUIET}"));
    let mut here = publisher.connect("postgres", "postgres");
    here.batch_execute(TABLE).unwrap();
    here.batch_execute(&format!("{}; CREATE PUBLICATION views FOR TABLE public.page_view", views(0..400)))
        .unwrap();
    // Whose subscription it is, and how its trigger is enabled.
    let mut ways = vec![("postgres", "ALWAYS", ""), ("postgres", "REPLICA", "")];
    // Later versions act as the table's owner, unless this says otherwise.
    let options = if major() < 16 { "" } else { ", run_as_owner = true, password_required = false" };
    ways.push(("feeder", "ALWAYS", options));
    let mut servers = Vec::new();
    for (number_of, (owner, mode, options)) in ways.iter().enumerate() {
        let subscriber = PrivateServer::create(
            &format!("fed_{number_of}"),
            &format!("max_worker_processes = 16\nwal_retrieve_retry_interval = 500ms\n{QUIET}"),
        );
        let mut there = subscriber.connect("postgres", "postgres");
        there
            .batch_execute(&format!(
                "CREATE EXTENSION pg_tally; SELECT tally.open_months('-infinity'); ALTER DATABASE postgres SET tally.pending_limit = '64kB';
                 CREATE ROLE feeder LOGIN IN ROLE tally_writer; SELECT tally.trust_role('feeder'); ALTER ROLE feeder SUPERUSER;
                 {TABLE}; {FEED}; ALTER TABLE public.page_view ENABLE {mode} TRIGGER feed; GRANT ALL ON public.page_view TO feeder"
            ))
            .unwrap();
        subscriber
            .connect(owner, "postgres")
            .batch_execute(&format!(
                "CREATE SUBSCRIPTION fed_{number_of} CONNECTION 'host={} port={} user=postgres dbname=postgres'
                   PUBLICATION views WITH (enabled = false{options})",
                publisher.sockets().display(),
                publisher.port()
            ))
            .unwrap();
        there
            .batch_execute(&format!(
                "ALTER ROLE feeder NOSUPERUSER; ALTER SUBSCRIPTION fed_{number_of} ENABLE"
            ))
            .unwrap();
        servers.push(subscriber);
    }
    for subscriber in &servers {
        let mut there = subscriber.connect("postgres", "postgres");
        wait_for("the first copy", || {
            assert!(!subscriber.log().contains("ERROR:"), "{}", subscriber.log());
            let left = "SELECT count(*) FROM pg_subscription_rel WHERE srsubstate <> 'r'";
            (number(&mut there, left) == 0).then_some(())
        });
        assert_eq!(number(&mut there, "SELECT count(*) FROM tally.events"), 400);
        // The worker commits without waiting for the disk. A copy that the crash below took back would be made again of what the table
        // has then, without the rows that were deleted.
        there.batch_execute("CHECKPOINT").unwrap();
    }
    // Single rows and many, a transaction that is undone, and rows that change or go: an event stays what it was.
    let mut expected = 400;
    for round in 0..10 {
        here.batch_execute(&views(expected..expected + 1)).unwrap();
        here.batch_execute(&views(expected + 1..expected + 150)).unwrap();
        here.batch_execute(&format!("BEGIN; {}; ROLLBACK", views(100_000..100_100))).unwrap();
        here.batch_execute(&format!(
            "UPDATE public.page_view SET account = 'moved' WHERE id = (SELECT id FROM public.page_view LIMIT 1 OFFSET {round});
             DELETE FROM public.page_view WHERE id = (SELECT id FROM public.page_view ORDER BY id DESC LIMIT 1)"
        ))
        .unwrap();
        expected += 150;
        if round == 5 {
            // The server ends its other processes then and recovers.
            for subscriber in &servers {
                assert!(!subscriber.log().contains("ERROR:"), "{}", subscriber.log());
                let mut there = subscriber.connect("postgres", "postgres");
                let worker =
                    "SELECT pid::int8 FROM pg_stat_subscription WHERE pid IS NOT NULL AND relid IS NULL";
                succeed(Command::new("kill").args(["-9", &number(&mut there, worker).to_string()]));
            }
        }
    }
    let end: String = here.query_one("SELECT pg_current_wal_insert_lsn()::text", &[]).unwrap().get(0);
    for (number_of, subscriber) in servers.iter().enumerate() {
        let what = format!("{:?}", ways[number_of]);
        wait_for(&what, || {
            let there = format!(
                "SELECT count(*) FROM pg_stat_replication WHERE application_name = 'fed_{number_of}' AND replay_lsn >= '{end}'"
            );
            (number(&mut here, &there) == 1).then_some(())
        });
        let mut there = subscriber.connect("postgres", "postgres");
        let missing = format!(
            "SELECT coalesce(string_agg(n::text, ' '), '') FROM generate_series(0, {expected} - 1) AS n
              WHERE NOT EXISTS (SELECT FROM tally.events AS e WHERE (e.properties->>'value')::int8 = n)"
        );
        let missing: String = there.query_one(&missing, &[]).unwrap().get(0);
        assert_eq!(missing, "", "{what} has no event of these rows\n{}", subscriber.log());
        let mut is =
            |query: &str, wanted: i64| assert_eq!(number(&mut there, query), wanted, "{what}: {query}");
        is("SELECT count(*) FROM tally.events", expected as i64);
        is("SELECT count(DISTINCT event_id) FROM tally.events", expected as i64);
        is("SELECT sum((properties->>'value')::int8)::int8 FROM tally.events", (0..expected as i64).sum());
        is("SELECT sum(accepted)::int8 FROM tally.ingest_batch", expected as i64);
        is("SELECT sum(duplicates + conflicts + rejected)::int8 FROM tally.ingest_batch", 0);
        is("SELECT sum(events)::int8 FROM tally.usage_day", expected as i64);
        is("SELECT count(*) FROM tally.quarantine", 0);
        let mut global = there.transaction().unwrap();
        global.execute("SELECT tally.enter_global()", &[]).unwrap();
        let differences = global.query("SELECT * FROM tally.verify_rollup('usage')", &[]).unwrap();
        assert!(differences.is_empty(), "{what}: {} differences", differences.len());
    }
    // Processes fold, too, though the worker's transactions don't end a call of a client's. Which calls start one is chance: rows come
    // in until one did.
    for (subscriber, way) in servers.iter().zip(&ways) {
        let mut there = subscriber.connect("postgres", "postgres");
        let folded =
            "SELECT coalesce(sum(rows_folded), 0)::int8 FROM tally.rollup_fold WHERE rollup_name = 'usage'";
        wait_for(&format!("a fold, {way:?}"), || {
            let is_folded = number(&mut there, folded) > 0;
            if !is_folded {
                here.batch_execute(&views(expected..expected + 20)).unwrap();
                expected += 20;
            }
            is_folded.then_some(())
        });
    }
}
