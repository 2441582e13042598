//! Dump and restore: a database in use goes through pg_dump into a new cluster, by pg_restore in one piece and by four jobs
//! at once, and is the same there: every row, object, privilege, policy and role. Then work goes on where it stopped.

use postgres::{Client, SimpleQueryMessage};
use tally_server_tests::{
    Database, Installation, PrivateServer, TokenSigner, assert_same, code, contents, describe, ingest,
    json_array, major, skip, succeed,
};

fn events(numbers: std::ops::Range<usize>) -> String {
    let events: Vec<String> = numbers
        .map(|n| {
            format!(
                r#"{{"tenant_id":"t{}","account_id":"a{}","name":"n{}","user_id":"u{}","event_id":"00000000-0000-4000-8000-{n:012}",
                    "occurred_at":"2026-0{}-{:02}T{:02}:00:00Z","properties":{{"value":{n},"plan":"p{}"}}}}"#,
                n % 3, n % 7, n % 5, n % 97, 1 + n % 4, 1 + n % 28, n % 24, n % 2
            )
        })
        .collect();
    json_array(events.iter().map(String::as_str))
}

/// Puts something of every kind into a database.
fn furnish(server: &PrivateServer) {
    server.connect("postgres", "postgres").batch_execute("CREATE DATABASE shop").unwrap();
    server
        .connect("postgres", "shop")
        .batch_execute(
            "CREATE EXTENSION pg_tally; SELECT tally.open_months('-infinity');
             CREATE ROLE app LOGIN; GRANT tally_writer, tally_reader TO app; SELECT tally.trust_role('app');
             CREATE ROLE bi LOGIN; GRANT tally_reader TO bi; SELECT tally.bind_role('bi', 't1', 'a1');
             CREATE ROLE dba LOGIN; GRANT tally_admin TO dba;
             CREATE ROLE keeper; CREATE ROLE judges; CREATE ROLE old_name LOGIN; CREATE ROLE stranger LOGIN;
             SELECT tally.set_export_policy('personal', 1, approvers => 'judges'), tally.set_step_up_policy('approve_export', false);
             SELECT tally.map_person('jane', login => 'bi'), tally.map_person('jane', login => 'old_name'), tally.map_person('joe', login => 'stranger');
             ALTER ROLE old_name RENAME TO judge; DROP ROLE stranger; CREATE ROLE stranger LOGIN; GRANT judges, tally_reader TO judge, stranger;
             CREATE SCHEMA shop; CREATE TABLE shop.orders (tenant_id text COLLATE \"C\" NOT NULL, id int NOT NULL, PRIMARY KEY (tenant_id, id));
             ALTER SCHEMA shop OWNER TO keeper; ALTER TABLE shop.orders OWNER TO keeper; GRANT SELECT ON shop.orders TO bi; GRANT USAGE ON SCHEMA shop TO bi;
             SELECT count(*) FROM tally.protect('shop.orders', 'tenant_id');
             INSERT INTO shop.orders SELECT 't' || n % 3, n FROM generate_series(1, 30) AS n;
             CREATE VIEW shop.report WITH (security_invoker = true) AS SELECT account_id, sum(events) AS events FROM tally.usage_day GROUP BY 1;
             GRANT SELECT ON tally.usage_day TO keeper;
             CREATE ROLE pool LOGIN; GRANT tally_reader TO pool; SELECT tally.pool_role('pool');
             SELECT tally.limit_tenant('t1', 5000); SELECT tally.set_quota('t9', events_per_minute => 1000000);
             SELECT tally.set_retention('t1', '30 years'); SELECT tally.set_slo(NULL, '1 hour', '1 hour');
             SELECT tally.register_event('registered', '{\"type\": \"object\"}', 'a test');
             SELECT tally.define_metric('active', '{\"kind\": \"units\", \"event\": \"n1\", \"unit\": \"user\"}');
             SELECT tally.define_cohort('regulars', '{\"event\": \"n1\", \"at_least\": 3, \"unit\": \"user\"}');
             CREATE SCHEMA crm; CREATE TABLE crm.people (gone int, mail text, \"Phone No.\" text, nick text, odd text, born date, gone_too int, city text);
             ALTER TABLE crm.people DROP gone, DROP gone_too; CREATE VIEW crm.mails AS SELECT mail AS m, nick FROM crm.people;
             SELECT tally.classify('crm.people.' || c, k, 'a test') FROM (VALUES ('mail', 'personal'), ('\"Phone No.\"', 'sensitive'), ('odd', 'public'), ('born', 'personal')) AS v (c, k);
             SELECT tally.classify('crm.mails.nick', 'public', 'a test'), tally.describe_asset('crm.people.city', owner => 'sales', purpose => 'maps', retention => 'a year'),
                    tally.describe_asset('crm.people', owner => 'sales');
             -- A decoy, and columns that came into the place of ones that are gone.
             ALTER TABLE crm.people RENAME mail TO contact; ALTER TABLE crm.people ADD mail text;
             ALTER TABLE crm.people DROP odd, DROP born; ALTER TABLE crm.people ADD odd text, ADD born date;",
        )
        .unwrap();
    signer().register(&mut server.connect("postgres", "shop")).unwrap();
    let mut app = server.connect("app", "shop");
    assert_eq!(ingest(&mut app, &events(0..900)).unwrap().accepted, 900);
    let mut dba = server.connect("dba", "shop");
    dba.batch_execute(
        "SELECT tally.isolate_tenant('t1', '2026-02-01');
         SELECT tally.create_rollup('plans', '{hour,week}', dimensions => ARRAY['name', $$properties->>'plan' AS plan$$],
           measures => ARRAY['count(*) AS n', 'distinct(user_id) AS users', $$percentiles(tally.property_float(properties, 'value')) AS value$$,
             'first(user_id) AS opener', 'last(user_id) AS closer', 'min(occurred_at) AS since'], filter => $$name <> 'n4'$$);
         SELECT tally.fold('usage', 200); SELECT tally.fold('plans', 200);
         SELECT tally.create_rollup('later', '{day}', ARRAY['count(*) AS n'], backfill => false);
         SELECT tally.backfill('later', 100);",
    )
    .unwrap();
    // A conflict and a rejection, and rows that no fold has taken.
    let bad = r#"[{"tenant_id":"t0","account_id":"a0","name":"other","event_id":"00000000-0000-4000-8000-000000000000","occurred_at":"2026-01-01T00:00:00Z"},
                  {"tenant_id":"t1","account_id":"a1","name":"x","event_id":"none","occurred_at":"2026-01-01T00:00:00Z"}]"#;
    let summary = ingest(&mut app, bad).unwrap();
    assert_eq!((summary.conflicts, summary.rejected), (1, 1));
    assert_eq!(ingest(&mut app, &events(900..1200)).unwrap().accepted, 300);
    dba.batch_execute("SELECT count(*) FROM tally.make_partitions(1)").unwrap();
}

/// The application's key: its private half is here alone.
fn signer() -> TokenSigner {
    TokenSigner::new("restored", 7)
}

/// Rows by table, except of what the installation of the extension itself writes.
fn rows(client: &mut Client) -> Vec<String> {
    let mut rows: Vec<String> = contents(client, &["tally", "shop"])
        .into_iter()
        .map(|(name, digest)| format!("{name}: {digest}"))
        .collect();
    // The built-in rollups are declared by the installation, at another moment.
    // What a restore puts into tables of definitions is recorded in its turn. A login that is gone is nobody there.
    let other = ["rollup", "audit_rest", "audit_personal", "person_identity"];
    rows.retain(|line| !other.iter().any(|table| line.starts_with(&format!("tally.{table}: "))));
    let people = "SELECT 'person ' || p::text FROM tally.person_identity AS p WHERE EXISTS (SELECT FROM pg_roles AS r WHERE r.oid = p.login)";
    rows.extend(client.query(people, &[]).unwrap().iter().map(|row| row.get::<_, String>(0)));
    let others = "SELECT 'rollup ' || r::text FROM tally.rollup AS r WHERE NOT EXISTS (SELECT FROM pg_depend AS d \
                   WHERE d.classid = 'pg_class'::regclass AND d.deptype = 'e' \
                     AND d.objid = format('tally.%I', r.rollup_name || '_pending')::regclass)";
    rows.extend(client.query(others, &[]).unwrap().iter().map(|row| row.get::<_, String>(0)));
    rows
}

fn shown(client: &mut Client) -> Vec<String> {
    let said = "SELECT 'said ' || concat_ws(' ', c.asset, c.classification, c.origin, c.reason, c.owner, c.purpose, c.retention) FROM tally.catalog AS c WHERE c.asset ~ '^crm.(people|mails)' ORDER BY 1";
    let mut said: Vec<String> = client.query(said, &[]).unwrap().iter().map(|row| row.get(0)).collect();
    for line in
        ["contact personal", "\"Phone No.\" sensitive", "mail personal", "odd internal", "born personal"]
    {
        assert!(
            said.iter().any(|said| said.starts_with(&format!("said crm.people.{line}"))),
            "{line}: {said:#?}"
        );
    }
    let mut transaction = client.transaction().unwrap();
    transaction.execute("SELECT tally.enter_global()", &[]).unwrap();
    let mut lines = Vec::new();
    lines.append(&mut said);
    for view in ["usage_day", "usage_hour", "plans_week", "later_day"] {
        let query = format!("SELECT '{view} ' || v::text FROM tally.{view} AS v ORDER BY 1");
        lines.extend(transaction.query(&query, &[]).unwrap().iter().map(|row| row.get::<_, String>(0)));
    }
    lines
}

fn go_on(server: &PrivateServer) {
    // What was acknowledged before is known, what is new is counted, under the old sketch keys.
    let mut app = server.connect("app", "shop");
    assert_eq!(ingest(&mut app, &events(0..1200)).unwrap().duplicates, 1200);
    assert_eq!(ingest(&mut app, &events(1200..1500)).unwrap().accepted, 300);
    let mut dba = server.connect("dba", "shop");
    dba.batch_execute("CALL tally.maintain()").unwrap();
    let mut transaction = dba.transaction().unwrap();
    transaction.execute("SELECT tally.enter_global()", &[]).unwrap();
    for rollup in ["usage", "plans", "later"] {
        let query = format!(
            "SELECT (SELECT count(*) FROM tally.verify_rollup('{rollup}')), (SELECT count(*) FROM tally.{rollup}_pending)"
        );
        let row = transaction.query_one(&query, &[]).unwrap();
        assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1)), (0, 0), "{rollup}");
    }
    let total: i64 =
        transaction.query_one("SELECT sum(events)::int8 FROM tally.usage_day", &[]).unwrap().get(0);
    assert_eq!(total, 1500);
    let errors =
        transaction.query("SELECT name, detail FROM tally.lint() WHERE level = 'ERROR'", &[]).unwrap();
    assert!(errors.is_empty(), "{:?}", errors.iter().map(|row| row.get::<_, String>(1)).collect::<Vec<_>>());
    transaction.commit().unwrap();
    // The registered key opens a tenant to who holds its other half.
    let mut pool = server.connect("pool", "shop");
    let mut transaction = pool.transaction().unwrap();
    signer().enter(&mut transaction, "t2").unwrap();
    let own = "SELECT count(*), count(*) FILTER (WHERE tenant_id = 't2') FROM tally.events";
    let row = transaction.query_one(own, &[]).unwrap();
    assert!(row.get::<_, i64>(0) > 0 && row.get::<_, i64>(0) == row.get::<_, i64>(1));
    transaction.commit().unwrap();
    // Isolation came along.
    let mut bi = server.connect("bi", "shop");
    let own = "SELECT count(*) FROM tally.events WHERE tenant_id <> 't1' OR account_id <> 'a1'";
    assert_eq!(bi.query_one(own, &[]).unwrap().get::<_, i64>(0), 0);
    assert!(bi.query_one("SELECT count(*) FROM tally.events", &[]).unwrap().get::<_, i64>(0) > 0);
    assert_eq!(bi.query_one("SELECT count(*) FROM shop.orders", &[]).unwrap().get::<_, i64>(0), 10);
    // Who is whom, and who may approve, goes by the roles of this cluster: by whatever name, and whoever has one's name.
    let ask = "SELECT tally.request_export('SELECT name FROM tally.events', 'a test', 1000000)::text";
    let id: String = bi.query_one(ask, &[]).unwrap().get(0);
    let approve = |login: &str| {
        code(server.connect(login, "shop").batch_execute(&format!("SELECT tally.approve_export('{id}')")))
    };
    assert_eq!((approve("judge"), approve("stranger")), ("42501".into(), "no error".into()));
}

#[test]
fn a_restored_database_is_the_same_and_works_on() {
    let old = PrivateServer::create("old", "");
    furnish(&old);
    let mut before = old.connect("postgres", "shop");
    let (objects, stored) =
        (describe(&mut before, &["tally", "tally_internal", "shop"], true), rows(&mut before));
    let views = shown(&mut before);
    let folder = old.data().join("dump");
    std::fs::create_dir(&folder).unwrap();
    let place = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    succeed(old.client("pg_dumpall").args(["-g", "-f", &place("roles.sql")]));
    succeed(old.client("pg_dump").args(["-Fc", "-f", &place("shop.dump"), "shop"]));
    succeed(old.client("pg_dump").args(["-Fd", "-j4", "-f", &place("shop.d"), "shop"]));
    // The private half of the registered key is nowhere in the dump; its public half is.
    let dumped = String::from_utf8(succeed(old.client("pg_dump").arg("shop")).stdout).unwrap();
    assert!(!dumped.contains(&"07".repeat(32)) && dumped.contains("restored"));

    for (name, dump, jobs) in [("single", "shop.dump", "1"), ("parallel", "shop.d", "4")] {
        let new = PrivateServer::create(name, "");
        // The bootstrap superuser is there already; nothing else may fail.
        let roles = std::fs::read_to_string(place("roles.sql")).unwrap().replace("CREATE ROLE postgres;", "");
        std::fs::write(place("roles.sql"), roles).unwrap();
        succeed(new.client("psql").args([
            "-X",
            "-q",
            "-v",
            "ON_ERROR_STOP=1",
            "-f",
            &place("roles.sql"),
            "postgres",
        ]));
        new.connect("postgres", "postgres").batch_execute("CREATE DATABASE shop").unwrap();
        succeed(new.client("pg_restore").args(["--exit-on-error", "-j", jobs, "-d", "shop", &place(dump)]));
        let mut after = new.connect("postgres", "shop");
        assert_same(name, &objects, &describe(&mut after, &["tally", "tally_internal", "shop"], true));
        assert_same(name, &stored, &rows(&mut after));
        assert_same(name, &views, &shown(&mut after));
        let wrong = after.query("SELECT * FROM tally.verify_audit()", &[]).unwrap();
        assert!(wrong.is_empty(), "{name}: {wrong:?}");
        go_on(&new);
    }
    go_on(&old);
}

/// Whether this server's minor version marks the columns of its tables, as those of November 2026 do.
fn marks_columns(server: &PrivateServer) -> bool {
    let marked = "CREATE TEMP TABLE marked (c int);
                  SELECT attoptions::text LIKE '%pg_attver%' FROM pg_attribute WHERE attrelid = 'marked'::regclass AND attname = 'c'";
    let messages = server.connect("postgres", "postgres").simple_query(marked).unwrap();
    messages.iter().any(|message| matches!(message, SimpleQueryMessage::Row(row) if row.get(0) == Some("t")))
}

/// A cluster of PostgreSQL 15 becomes one of the version under test, by pg_upgrade and by dump and restore: every row is there,
/// every role is kept from what it was kept from, what was acknowledged is known, and work goes on.
#[test]
fn a_cluster_of_an_earlier_major_version_is_upgraded_and_works_on() {
    let Some(earlier) = (major() > 15).then(|| Installation::earlier(15)).flatten() else {
        skip(
            "this needs the extension under PostgreSQL 15 and a later version under test: make build PG_MAJOR=15 before",
        );
        return;
    };
    // Its compiler's library stayed in its release.
    let old = PrivateServer::create_on(&earlier, "fifteen", "jit = off", &[]);
    let current = Installation::current();
    let restored = PrivateServer::create_on(&current, "restored", "", &[]);
    // The new version's programs would write down marks that its server doesn't know; those of the old one leave them out.
    let is_newer = marks_columns(&old) && !marks_columns(&restored);
    furnish(&old);
    let stored_and_shown = |server: &PrivateServer| {
        let mut client = server.connect("postgres", "shop");
        (rows(&mut client), shown(&mut client))
    };
    let goes_on = |name: &str, server: &PrivateServer, before: &(Vec<String>, Vec<String>)| {
        let after = stored_and_shown(server);
        assert_same(name, &before.0, &after.0);
        assert_same(name, &before.1, &after.1);
        go_on(server);
    };
    let before = stored_and_shown(&old);
    let roles = old.data().join("roles.sql").to_str().unwrap().to_owned();
    let dump = old.data().join("shop.dump").to_str().unwrap().to_owned();
    let program = |name: &str| {
        let mut command = if is_newer { &old } else { &restored }.client(name);
        command.env("PGPORT", old.port().to_string());
        command
    };
    succeed(program("pg_dumpall").args(["-g", "-f", &roles]));
    succeed(program("pg_dump").args(["-Fc", "-f", &dump, "shop"]));
    let text = std::fs::read_to_string(&roles).unwrap().replace("CREATE ROLE postgres;", "");
    std::fs::write(&roles, text).unwrap();
    succeed(restored.client("psql").args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-f", &roles, "postgres"]));
    restored.connect("postgres", "postgres").batch_execute("CREATE DATABASE shop").unwrap();
    succeed(restored.client("pg_restore").args(["--exit-on-error", "-d", "shop", &dump]));
    goes_on("restored", &restored, &before);

    // pg_upgrade has the new version's programs dump the old cluster.
    let (old, before) = if is_newer {
        let Some(minor) = Installation::earlier_minor(15) else {
            skip(
                "this minor version is older than PostgreSQL 15's here, so pg_upgrade wasn't tried: install a newer one",
            );
            return;
        };
        let old = PrivateServer::create_on(&minor, "fifteen_minor", "jit = off", &[]);
        assert!(!marks_columns(&old));
        furnish(&old);
        let before = stored_and_shown(&old);
        (old, before)
    } else {
        (old, before)
    };
    old.stop();
    // Checksums are the default since 18, and both clusters must agree.
    let options: &[&str] = if major() >= 18 { &["--no-data-checksums"] } else { &[] };
    let upgraded = PrivateServer::prepare_on(&current, "upgraded", "", options);
    old.upgrade_to(&upgraded);
    upgraded.start();
    goes_on("upgraded", &upgraded, &before);
}

/// A row that goes by a role which the cluster lacks stops its whole table. `tally.named_roles()` tells which roles those are: where they are
/// made before, as nobody's logins, all rows come, and none of them is anybody else's.
#[test]
fn a_cluster_that_lacks_roles_is_told_which_it_needs() {
    let old = PrivateServer::create("old", "");
    old.connect("postgres", "postgres").batch_execute("CREATE DATABASE shop").unwrap();
    let mut before = old.connect("postgres", "shop");
    before
        .batch_execute(
            "CREATE EXTENSION pg_tally; CREATE ROLE \"The Bi\" LOGIN; CREATE ROLE judge LOGIN; CREATE ROLE judges; CREATE ROLE was LOGIN; CREATE ROLE eraser LOGIN; CREATE ROLE gone;
             SELECT tally.bind_role('\"The Bi\"', 't1'), tally.set_export_policy('raw', 1, approvers => 'judges'), tally.map_person('jane', login => 'was'), tally.map_person('x', login => 'gone');
             ALTER ROLE was RENAME TO is_now; DROP ROLE gone;
             INSERT INTO tally.export (expires_at, max_rows, approvals, id, requester_role, approvers_role, tenant_id, requester, identities, state, classification, approvers, purpose, query, params, columns, query_hash, request_hash)
             VALUES (now(), 1, 1, '00000000-0000-4000-8000-000000000001', '\"The Bi\"', 'judges', 't1', 'The Bi', '{\"role 1\"}', 'approved', 'raw', 'judges', 'p', 'q', '[]', '[]', '', '');
             INSERT INTO tally.export_approval (approver_role, export_id, approver, identities, request_hash) VALUES ('judge', '00000000-0000-4000-8000-000000000001', 'judge', '{\"role 2\"}', '');
             INSERT INTO tally.erasure (finished_at, subject_hash, requested_role, tenant_id, requested_by, reason, certificate) VALUES (now(), gen_random_uuid(), 'eraser', 't1', 'eraser', 'r', '{}')",
        )
        .unwrap();
    let names = |client: &mut Client| -> Vec<String> {
        let query = "SELECT DISTINCT role_name::text COLLATE \"C\" FROM tally.named_roles() ORDER BY 1";
        client.query(query, &[]).unwrap().iter().map(|row| row.get(0)).collect()
    };
    let needed = names(&mut before);
    assert_eq!(needed, ["The Bi", "eraser", "is_now", "judge", "judges"]);
    let dump = old.data().join("shop.dump").to_str().unwrap().to_owned();
    succeed(old.client("pg_dump").args(["-Fc", "-f", &dump, "shop"]));
    let new = PrivateServer::create("new", "");
    let mut postgres = new.connect("postgres", "postgres");
    postgres.batch_execute("CREATE DATABASE lacking").unwrap();
    let restore = |database: &str| {
        let mut command = new.client("pg_restore");
        command.args(["--exit-on-error", "-d", database, &dump]);
        command
    };
    assert!(!restore("lacking").output().unwrap().status.success());
    // The statements that docs/runbooks/restore.md has made.
    let statements =
        "SELECT DISTINCT format('CREATE ROLE %I NOLOGIN;', role_name) FROM tally.named_roles() ORDER BY 1";
    for row in before.query(statements, &[]).unwrap() {
        postgres.batch_execute(row.get(0)).unwrap();
    }
    postgres.batch_execute("CREATE DATABASE shop").unwrap();
    succeed(&mut restore("shop"));
    let mut after = new.connect("postgres", "shop");
    assert_eq!(names(&mut after), needed);
    let held = |client: &mut Client| -> Vec<String> {
        let query = "SELECT concat_ws(' ', role_name, bound_as) FROM tally.role_binding UNION ALL SELECT concat_ws(' ', requester_role, approvers_role, id) FROM tally.export
                     UNION ALL SELECT concat_ws(' ', approver_role, export_id) FROM tally.export_approval UNION ALL SELECT concat_ws(' ', approvers_role, approvers) FROM tally.export_policy
                     UNION ALL SELECT concat_ws(' ', p.login, p.identity, p.person) FROM tally.person_identity AS p JOIN pg_roles AS r ON r.oid = p.login
                     UNION ALL SELECT concat_ws(' ', requested_role, subject_hash) FROM tally.erasure ORDER BY 1";
        client.query(query, &[]).unwrap().iter().map(|row| row.get(0)).collect()
    };
    assert_eq!(held(&mut after), held(&mut before));
    // Who isn't wanted is dropped, and nobody who comes to have the name is the one that was.
    after.batch_execute("DROP ROLE judges; CREATE ROLE judges").unwrap();
    let gone = "SELECT count(*) FROM tally.lint() WHERE name = 'export_approvers_gone'";
    assert_eq!(after.query_one(gone, &[]).unwrap().get::<_, i64>(0), 1);
}

/// What the extension's own tables hold would be missing from every dump if it weren't marked.
#[test]
fn every_table_of_the_extension_is_dumped() {
    let database = Database::new("dumped");
    let rows = database
        .superuser()
        .query(
            "SELECT c.oid::regclass::text FROM pg_class AS c
               JOIN pg_depend AS d ON d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e'
               JOIN pg_extension AS e ON e.oid = d.refobjid AND e.extname = 'pg_tally'
              WHERE c.relkind IN ('r', 'S') AND c.oid <> ALL (e.extconfig)
                -- What is left of a minute's quota begins anew where a dump is restored.
                AND c.relname NOT IN ('quota_state', 'quota_take')",
            &[],
        )
        .unwrap();
    let missing: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    assert!(missing.is_empty(), "mark with pg_extension_config_dump: {missing:?}");
    let rows = database
        .superuser()
        .query(
            "SELECT c.conname::text FROM pg_constraint AS c JOIN pg_extension AS e ON e.extname = 'pg_tally'
              WHERE c.contype = 'f' AND c.conrelid = ANY (e.extconfig)",
            &[],
        )
        .unwrap();
    let keys: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    assert!(keys.is_empty(), "pg_restore with several jobs loads these tables in any order: {keys:?}");
}
