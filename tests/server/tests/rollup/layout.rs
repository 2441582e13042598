//! What the layout of tables keeps apart: a search reads entries of its own tenant alone, so that the counters and the locks
//! of the transaction say nothing of what others have; and what is kept without accounts is no account's to read.

use postgres::Client;
use postgres::error::SqlState;
use serde_json::{Value, json};
use std::io::Read;
use std::process::Command;
use tally_server_tests::{Database, connect_superuser, ingest, number};

/// The one column of a query's rows, as text.
fn lines(client: &mut Client, query: &str) -> Vec<String> {
    let messages = client.simple_query(query).unwrap_or_else(|problem| panic!("{query}: {problem}"));
    let row = |message: &postgres::SimpleQueryMessage| match message {
        postgres::SimpleQueryMessage::Row(row) => Some(row.get(0).unwrap_or("null").to_owned()),
        _ => None,
    };
    messages.iter().filter_map(row).collect()
}

/// A protected table in which tenant `a` has rows with values that tenant `b` has not, and a trusted login: row security binds
/// it in a scope like any tenant's own login, and nothing refuses to tell it what its transaction counted.
fn clinic(topic: &str) -> (Database, String) {
    let mut database = Database::new(topic);
    let owner = database.role("owner", &["tally_writer"]);
    let reader = database.role("reader", &["tally_reader"]);
    database
        .superuser()
        .batch_execute(&format!(
            "SELECT tally.trust_role('{reader}'); CREATE SCHEMA shop AUTHORIZATION {owner}; SET ROLE {owner};
             GRANT USAGE ON SCHEMA shop TO {reader};
             CREATE TABLE shop.patients (tenant_id text NOT NULL, id int NOT NULL, diagnosis text NOT NULL, weight int NOT NULL,
               PRIMARY KEY (tenant_id, id))
               WITH (autovacuum_enabled = off); -- Which pages a search reads depends on it.
             INSERT INTO shop.patients
             SELECT chr(97 + n % 3), n, CASE WHEN n % 300 = 0 THEN 'rare-' || n ELSE 'common-' || n % 7 END, n
               FROM generate_series(1, 12000) AS n;
             GRANT SELECT ON shop.patients TO {reader}; SET client_min_messages = error;
             SELECT tally.protect('shop.patients'); RESET ROLE; ANALYZE shop.patients"
        ))
        .unwrap();
    (database, reader)
}

/// What a transaction in tenant `b` counted and locked when it asked for a value: none of it may depend on whether another
/// tenant has it.
fn traces(database: &Database, reader: &str, settings: &str, query: &str) -> String {
    // A new session: what another transaction counted is not told apart.
    let mut client = database.connect(reader);
    client
        .batch_execute(&format!("BEGIN ISOLATION LEVEL SERIALIZABLE; SELECT tally.enter('b'); {settings}"))
        .unwrap();
    let answer = lines(&mut client, query);
    let told = lines(
        &mut client,
        "SELECT json_build_array(t.seq_scan, t.idx_scan, t.seq_tup_read, t.idx_tup_fetch, pg_stat_get_xact_numscans(t.relid),
                  pg_stat_get_xact_tuples_returned(t.relid), pg_stat_get_xact_tuples_fetched(t.relid),
                  (SELECT json_agg(json_build_array(i.indexrelid::regclass, pg_stat_get_xact_numscans(i.indexrelid),
                            pg_stat_get_xact_tuples_returned(i.indexrelid), pg_stat_get_xact_tuples_fetched(i.indexrelid)) ORDER BY 1)
                     FROM pg_index AS i WHERE i.indrelid = t.relid),
                  (SELECT json_agg(json_build_array(l.relation::regclass, l.locktype, CASE WHEN l.tuple IS NOT NULL THEN l.page END, l.tuple) ORDER BY l.relation, l.locktype, l.page, l.tuple)
                     -- Which leaf of an index would hold the value follows from the entries of the tenant's own.
                     FROM pg_locks AS l WHERE l.mode = 'SIReadLock' AND l.pid = pg_backend_pid()))
           FROM pg_stat_xact_all_tables AS t WHERE t.relid = 'shop.patients'::regclass",
    );
    assert_eq!(told.len(), 1);
    format!("{answer:?} {told:?}")
}

/// How an index of the table may be searched.
const PLANS: &[&str] = &[
    "",
    "SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off",
    "SET LOCAL enable_seqscan = off; SET LOCAL enable_indexscan = off; SET LOCAL enable_indexonlyscan = off",
    "SET LOCAL enable_bitmapscan = off; SET LOCAL enable_indexscan = off",
    "SET LOCAL plan_cache_mode = force_generic_plan; SET LOCAL enable_seqscan = off",
];

/// Indexes, a query for a value that only another tenant has, and the value that nobody has.
const SEARCHES: &[(&str, &str, (&str, &str))] = &[
    ("(diagnosis)", "SELECT count(*) FROM shop.patients WHERE diagnosis = '$'", ("rare-300", "rare-zzz")),
    (
        "(diagnosis, id, tenant_id)",
        "SELECT id FROM shop.patients WHERE diagnosis >= '$' AND diagnosis < '$x' AND id % 2 = 1",
        ("rare-300", "rare-zzz"),
    ),
    (
        "USING hash (diagnosis)",
        "SELECT id FROM shop.patients WHERE diagnosis = '$'",
        ("rare-600", "rare-601"),
    ),
    (
        "(weight) WHERE diagnosis LIKE 'rare%'",
        "SELECT id FROM shop.patients WHERE diagnosis LIKE 'rare%' AND weight = $",
        ("900", "901"),
    ),
    (
        "(weight) INCLUDE (tenant_id)",
        "SELECT tenant_id FROM shop.patients WHERE weight BETWEEN $ AND $",
        ("300", "30000"),
    ),
    (
        "(diagnosis DESC)",
        "SELECT max(id) FROM shop.patients WHERE diagnosis IN ('$', 'x')",
        ("rare-300", "rare-zzz"),
    ),
];

#[test]
fn counters_and_predicate_locks_tell_nothing_where_indexes_begin_with_the_tenant() {
    let (database, reader) = clinic("layout_traces");
    let mut admin = database.superuser();
    let mut told_before = 0;
    for (index, query, (present, absent)) in SEARCHES {
        admin
            .batch_execute(&format!("CREATE INDEX ON shop.patients {index}; ANALYZE shop.patients"))
            .unwrap();
        let ask = |settings: &str| {
            [present, absent].map(|value| traces(&database, &reader, settings, &query.replace('$', value)))
        };
        let differ = |settings: &&&str| {
            let [one, other] = ask(settings);
            one != other
        };
        // The fault: with the index as it is, one way to search it or another tells.
        let leaks = PLANS.iter().filter(differ).count();
        told_before += leaks;
        assert!(leaks > 0, "{index}: no plan tells, so the test can't fail");
        let fix: String = admin
            .query_one(
                "SELECT remediation FROM tally.lint() WHERE name = 'index_without_tenant' AND metadata->>'name' = 'patients'",
                &[],
            )
            .unwrap()
            .get(0);
        admin.batch_execute(&fix).unwrap();
        admin.batch_execute("ANALYZE shop.patients").unwrap();
        assert_eq!(
            number(&mut admin, "SELECT count(*) FROM tally.lint() WHERE name LIKE 'index%'"),
            0,
            "{fix}"
        );
        for settings in PLANS {
            let [one, other] = ask(settings);
            assert_eq!(one, other, "{index}, {settings}, after {fix}");
        }
        admin
            .batch_execute(
                "DO $$ DECLARE i record; BEGIN FOR i IN SELECT indexrelid::regclass AS id FROM pg_index
                   WHERE indrelid = 'shop.patients'::regclass AND NOT indisunique LOOP EXECUTE 'DROP INDEX ' || i.id; END LOOP; END $$",
            )
            .unwrap();
    }
    assert!(told_before >= SEARCHES.len(), "{told_before}");
}

#[test]
fn protect_warns_of_indexes_that_do_not_begin_with_the_tenant_and_leaves_them() {
    let (database, _) = clinic("layout_warns");
    let mut admin = database.superuser();
    admin.batch_execute("CREATE INDEX by_diagnosis ON shop.patients (diagnosis)").unwrap();
    let owner: String = admin
        .query_one("SELECT relowner::regrole::text FROM pg_class WHERE oid = 'shop.patients'::regclass", &[])
        .unwrap()
        .get(0);
    let mut session = tally_server_tests::Session::new(database.name(), &database, &owner);
    for call in
        ["SELECT tally.protect('shop.patients')", "SELECT tally.protect('shop.patients', dry_run => true)"]
    {
        let answer = session.answer(call);
        assert!(answer.contains("index shop.by_diagnosis begins with diagnosis"), "{answer}");
    }
    assert_eq!(number(&mut admin, "SELECT count(*) FROM pg_class WHERE relname = 'by_diagnosis'"), 1);
    admin.batch_execute("DROP INDEX shop.by_diagnosis").unwrap();
    let answer = session.answer("SELECT tally.protect('shop.patients')");
    assert!(!answer.contains("index shop."), "{answer}");
}

#[test]
fn an_index_of_another_kind_does_not_count_as_the_tenants() {
    let (database, _) = clinic("layout_other_kinds");
    let mut admin = database.superuser();
    for index in [
        "USING hash (tenant_id)",
        "USING brin (tenant_id)",
        "USING spgist (tenant_id)",
        "((tenant_id || ''))",
        "(tenant_id) WHERE id > 3",
    ] {
        admin
            .batch_execute(&format!(
                "CREATE TABLE public.t (tenant_id text NOT NULL, id int); ALTER TABLE public.t OWNER TO tally_owner; CREATE INDEX ON public.t {index}"
            ))
            .unwrap();
        let made =
            lines(&mut admin, "SELECT s FROM tally.protect('public.t') AS s WHERE s LIKE 'CREATE INDEX%'");
        assert_eq!(made.len(), 1, "{index}: {made:?}");
        admin.batch_execute("SELECT tally.unprotect('public.t'); DROP TABLE public.t").unwrap();
    }
}

fn event(account: &str, id: u32, name: &str) -> Value {
    json!({"tenant_id": "a", "account_id": account, "name": name, "user_id": "u", "occurred_at": "2026-03-02T09:15:00Z",
           "event_id": format!("00000000-0000-4000-8000-{id:012}")})
}

#[test]
fn what_is_kept_without_accounts_is_no_accounts_to_read() {
    let mut database = Database::new("layout_accounts");
    let whole = database.role("whole", &["tally_reader", "tally_writer"]);
    let account = database.role("account", &["tally_reader", "tally_writer"]);
    let trusted = database.role("trusted", &["tally_reader", "tally_writer"]);
    let mut admin = database.superuser();
    admin
        .batch_execute(&format!(
            "SELECT tally.bind_role('{whole}', 'a'), tally.bind_role('{account}', 'a', 'acct1'), tally.trust_role('{trusted}');
             SELECT tally.set_unregistered_policy('mark'); GRANT tally_auditor TO {whole}, {account}, {trusted};"
        ))
        .unwrap();
    // The whole tenant's doings, the account's own, and a discard of each.
    let mut tenant = database.connect(&whole);
    assert_eq!(ingest(&mut tenant, &event("acct0", 1, "private_import").to_string()).unwrap().accepted, 1);
    assert_eq!(ingest(&mut tenant, &event("acct0", 1, "other").to_string()).unwrap().conflicts, 1);
    tenant.batch_execute("SELECT tally.discard('not for others to read')").unwrap();
    let mut bound = database.connect(&account);
    assert_eq!(ingest(&mut bound, &event("acct1", 2, "mine").to_string()).unwrap().accepted, 1);
    assert_eq!(ingest(&mut bound, &event("acct1", 2, "again").to_string()).unwrap().conflicts, 1);
    assert_eq!(
        lines(&mut bound, "SELECT conflicts FROM tally.redrive()"),
        ["1"],
        "an account redrives its own"
    );
    assert_eq!(lines(&mut bound, "SELECT tally.discard('mine')"), ["1"], "and discards its own");
    assert_eq!(number(&mut admin, "SELECT count(*) FROM tally.ingest_batch WHERE redrives IS NOT NULL"), 1);
    assert_eq!(number(&mut admin, "SELECT count(*) FROM tally.quarantine_discard"), 2);

    let tables = lines(
        &mut admin,
        "SELECT format('tally.%I', c.relname) FROM pg_class AS c WHERE c.relnamespace = 'tally'::regnamespace AND c.relkind IN ('r', 'p')
           AND EXISTS (SELECT FROM pg_attribute AS a WHERE a.attrelid = c.oid AND a.attname = 'tenant_id')
           AND NOT EXISTS (SELECT FROM pg_attribute AS a WHERE a.attrelid = c.oid AND a.attname = 'account_id')
           AND EXISTS (SELECT FROM pg_policy AS p WHERE p.polrelid = c.oid AND p.polname = 'tally_guard') ORDER BY 1",
    );
    assert!(tables.len() >= 9, "{tables:?}");
    let (mut read, mut shown) = (0, 0);
    for table in &tables {
        for (begin, client) in
            [("", &mut bound), ("SELECT tally.enter('a', 'acct1');", &mut database.connect(&trusted))]
        {
            let query = format!("{begin} SELECT count(tenant_id) FROM {table}");
            match client.batch_execute(&format!("BEGIN; {query}")) {
                Ok(()) => {
                    client.batch_execute("ROLLBACK; BEGIN").unwrap();
                    assert_eq!(lines(client, &query).last().unwrap(), "0", "{table}");
                    read += 1;
                    client.batch_execute("COMMIT").unwrap();
                }
                Err(refused) => {
                    assert_eq!(refused.code(), Some(&SqlState::INSUFFICIENT_PRIVILEGE), "{table}");
                    client.batch_execute("ROLLBACK").unwrap();
                }
            }
        }
        if let Ok(row) = tenant.query_one(&format!("SELECT count(tenant_id) FROM {table}"), &[]) {
            shown += i32::from(row.get::<_, i64>(0) > 0);
        }
    }
    assert!(read >= 8 && shown >= 4, "{read} readable by an account, {shown} with rows of the tenant");
    // What has accounts shows the account's own rows as before.
    assert_eq!(lines(&mut bound, "SELECT DISTINCT account_id FROM tally.events"), ["acct1"]);
    assert_eq!(lines(&mut bound, "SELECT sum(events) FROM tally.usage_day"), ["1"]);
    // A role that narrows itself is in the account's scope alike.
    tenant.batch_execute("BEGIN; SELECT tally.enter('a', 'acct1')").unwrap();
    assert_eq!(lines(&mut tenant, "SELECT count(*) FROM tally.ingest_batch"), ["0"]);
    assert_eq!(lines(&mut tenant, "SELECT count(*) FROM tally.quarantine_discard"), ["0"]);
    tenant.batch_execute("ROLLBACK").unwrap();
}

#[test]
fn who_is_confined_to_a_tenant_reads_of_administration_what_is_its_own() {
    let mut database = Database::new("layout_administration");
    let bound = database.role("bound", &["tally_analyst", "tally_writer", "tally_auditor"]);
    let pool = database.role("pool", &["tally_analyst"]);
    let analyst = database.role("analyst", &["tally_analyst"]);
    let trusted = database.role("trusted", &["tally_analyst", "tally_auditor"]);
    let admin_role = database.role("admin", &["tally_admin"]);
    let mut admin = database.superuser();
    admin
        .batch_execute(&format!(
            "SELECT tally.bind_role('{bound}', 'a'), tally.pool_role('{pool}'), tally.trust_role('{trusted}');
             SELECT tally.set_retention('a', '30 years'), tally.set_retention('b-secret', '20 years'), tally.set_retention(NULL, '40 years'),
                    tally.set_slo('b-secret', '1 hour', '1 hour'), tally.set_slo('a', '1 hour', '1 hour'),
                    tally.limit_tenant('b-secret', 5000), tally.limit_tenant('a', 5000);
             INSERT INTO tally.tenant_horizon (raw_from, tenant_id) VALUES ('2000-01-01', 'a'), ('2001-01-01', 'b-secret');"
        ))
        .unwrap();
    admin.batch_execute("CALL tally.maintain()").unwrap();
    ingest(&mut admin, &event("x", 1, "n").to_string()).unwrap();
    admin
        .batch_execute(
            "SELECT tally.create_rollup('slow', '{day}', ARRAY['count(*) AS n'], backfill => false)",
        )
        .unwrap();
    let by_tenant = ["retention", "tenant_horizon", "slo_target", "tenant_limit"];
    let of_all = ["rollup_backfill", "maintenance"];
    // As bound, and as who entered a tenant's scope.
    let mut confined = database.connect(&bound);
    let mut entered = database.connect(&trusted);
    entered.batch_execute("BEGIN; SELECT tally.enter('a')").unwrap();
    for client in [&mut confined, &mut entered] {
        for table in by_tenant {
            let own = lines(client, &format!("SELECT tenant_id FROM tally.{table} WHERE tenant_id <> ''"));
            assert_eq!(own, ["a"], "{table}");
            let guessed =
                lines(client, &format!("SELECT count(*) FROM tally.{table} WHERE tenant_id LIKE 'b%'"));
            assert_eq!(guessed, ["0"], "{table}");
        }
        for table in of_all {
            assert_eq!(lines(client, &format!("SELECT count(*) FROM tally.{table}")), ["0"], "{table}");
        }
    }
    // A pool role sees nothing without a token.
    let refused = database.connect(&pool).batch_execute("SELECT * FROM tally.tenant_horizon").unwrap_err();
    assert_eq!(refused.code(), Some(&SqlState::INSUFFICIENT_PRIVILEGE));
    // Who administers or analyses reads all of it, without a scope.
    for role in [&analyst, &admin_role] {
        let mut client = database.connect(role);
        for table in by_tenant {
            if table != "tenant_limit" || role == &admin_role {
                let seen = lines(
                    &mut client,
                    &format!("SELECT count(*) FROM tally.{table} WHERE tenant_id = 'b-secret'"),
                );
                assert_eq!(seen, ["1"], "{table}");
            }
        }
        for table in of_all {
            assert_ne!(lines(&mut client, &format!("SELECT count(*) FROM tally.{table}")), ["0"], "{table}");
        }
    }
    // The functions write for any tenant, whatever the scope of who calls them.
    let mut client = database.connect(&admin_role);
    client
        .batch_execute("BEGIN; SELECT tally.enter('a'); SELECT tally.set_retention('c', '10 years'), tally.limit_tenant('c', 1000), tally.set_slo('c', '1 hour', '1 hour'); COMMIT")
        .unwrap();
    assert_eq!(lines(&mut client, "SELECT count(*) FROM tally.retention WHERE tenant_id = 'c'"), ["1"]);
}

#[test]
fn every_table_of_ours_has_row_security_or_a_reason() {
    let database = Database::new("layout_all_tables");
    // The same for every tenant, or an auditor's to see: sql/scope/administration.sql says which and why.
    let without = lines(
        &mut database.superuser(),
        "SELECT c.relname FROM pg_class AS c WHERE c.relnamespace = 'tally'::regnamespace AND c.relkind IN ('r', 'p')
           AND NOT c.relrowsecurity ORDER BY 1",
    );
    let known = [
        "audit_entry",
        "audit_personal",
        "audit_rest",
        "audit_retention",
        "cohort",
        "event_schema",
        "metric",
        "payload_mapping",
        "person_identity",
        "protected_table",
        "role_binding",
        "rollup",
        "rollup_column",
        "step_up_policy",
        "token_key",
    ];
    assert_eq!(without, known);
}

#[test]
fn bytes_of_keyed_sketches_pass_for_nobody_who_is_bound() {
    let mut database = Database::new("layout_sketch_bytes");
    let bound = database.role("bound", &["tally_reader", "tally_writer"]);
    let analyst = database.role("analyst", &["tally_analyst", "tally_writer"]);
    let mut admin = database.superuser();
    admin.batch_execute(&format!("SELECT tally.bind_role('{bound}', 'a')")).unwrap();
    let mut client = database.connect(&bound);
    assert_eq!(ingest(&mut client, &event("acct0", 1, "n").to_string()).unwrap().accepted, 1);
    let image = lines(&mut admin, "SELECT users FROM tally.usage_pending").remove(0);
    assert!(image.starts_with("\\xb"), "{image}");
    let leaks = [
        "SELECT users::bytea FROM tally.usage_day_state".to_owned(),
        "SELECT users::text FROM tally.usage_hour_state".to_owned(),
        "SELECT users FROM tally.usage_pending".to_owned(),
        "SELECT tally.rollup(users) FROM tally.usage_day_state".to_owned(),
        "SELECT tally.merge(users, users) FROM tally.usage_day_state".to_owned(),
        "SELECT tally_internal.hll_send(users) FROM tally.usage_day_state".to_owned(),
        "SELECT tally_internal.hll_out(users) FROM tally.usage_day_state".to_owned(),
        "SELECT to_json(s) FROM tally.usage_day_state AS s".to_owned(),
        "SELECT format('%s', ARRAY[users]) FROM tally.usage_day_state".to_owned(),
        "SELECT record_send(ROW(users)) FROM tally.usage_day_state".to_owned(),
        // Sketches of one's own making, to be compared with what is kept.
        format!("SELECT tally.distinct_count('{image}'::tally.hll)"),
        format!("SELECT tally.distinct_count('{image}'::bytea::tally.hll)"),
        format!("SELECT tally.distinct_count(tally_internal.hll_in('{image}'))"),
        format!(
            "SELECT json_populate_record(NULL::tally.usage_pending, json_build_object('users', '{}'))",
            image
        ),
    ];
    for role in [&bound, &analyst] {
        let mut client = database.connect(role);
        client
            .batch_execute(if role == &bound {
                "BEGIN; SAVEPOINT s"
            } else {
                "BEGIN; SELECT tally.enter_global(); SAVEPOINT s"
            })
            .unwrap();
        for statement in &leaks {
            let refused = client.batch_execute(statement).expect_err(statement);
            let error = refused.as_db_error().unwrap();
            assert_eq!(
                (error.code(), error.hint().is_some()),
                (&SqlState::INSUFFICIENT_PRIVILEGE, true),
                "{statement}: {error}"
            );
            client.batch_execute("ROLLBACK TO s").unwrap();
        }
        for format in ["text", "csv", "binary"] {
            let copy = format!("COPY (SELECT users FROM tally.usage_day_state) TO STDOUT (FORMAT {format})");
            let mut copied = Vec::new();
            let refused = client.copy_out(&copy).unwrap().read_to_end(&mut copied).expect_err(&copy);
            assert!(
                refused.to_string().contains("db error") && copied.len() < 30,
                "{copy}: {refused}, {copied:?}"
            );
            client.batch_execute("ROLLBACK TO s").unwrap();
        }
        for answered in [
            "SELECT tally.distinct_count(tally.rollup(users)) FROM tally.usage_day_state",
            "SELECT users FROM tally.usage_day",
            "SELECT tally.distinct_count(tally.hll(user_id)::bytea::tally.hll) FROM tally.events",
        ] {
            assert_eq!(lines(&mut client, answered), ["1"], "{answered}");
        }
    }
    // For who sees every row anyway they pass, or no dump could be restored; and verifying compares them.
    let dump = database.role("dump", &["tally_reader"]);
    admin.batch_execute(&format!("ALTER ROLE {dump} BYPASSRLS")).unwrap();
    assert_eq!(
        lines(&mut database.connect(&dump), "SELECT users FROM tally.usage_pending"),
        std::slice::from_ref(&image)
    );
    assert_eq!(lines(&mut admin, &format!("SELECT tally.distinct_count('{image}'::tally.hll)")), ["1"]);
    assert_eq!(lines(&mut client, "SELECT count(*) FROM tally.events"), ["1"]);
    admin.batch_execute(&format!("GRANT tally_admin TO {analyst}")).unwrap();
    let mut verifier = database.connect(&analyst);
    verifier.batch_execute("BEGIN; SELECT tally.enter_global()").unwrap();
    assert_eq!(lines(&mut verifier, "SELECT count(*) FROM tally.verify_rollup('usage')"), ["0"]);
}

/// Runs one of the server's programs on the test cluster: whether it succeeded, and what it said.
fn program(name: &str, arguments: &[&str]) -> (bool, String) {
    let (bin, sockets) = tally_server_tests::bin_and_sockets();
    let port = connect_superuser("postgres").query_one("SHOW port", &[]).unwrap().get::<_, String>(0);
    let mut command = Command::new(bin.join(name));
    command.args(["-h", sockets.to_str().unwrap(), "-p", &port, "-U", "postgres"]).args(arguments);
    let output = command.output().unwrap();
    (
        output.status.success(),
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr),
    )
}

#[test]
fn a_materialized_view_stops_a_restore_until_its_data_is_left_out() {
    let mut database = Database::new("layout_matview");
    let maker = database.role("maker", &["tally_reader", "tally_writer"]);
    let copy = Database::without_extension("layout_matview_copy");
    let second = Database::without_extension("layout_matview_list");
    let mut admin = database.superuser();
    admin
        .batch_execute(&format!(
            "SELECT tally.trust_role('{maker}'); CREATE SCHEMA shop; GRANT ALL ON SCHEMA shop TO {maker}"
        ))
        .unwrap();
    ingest(&mut admin, &event("acct0", 1, "n").to_string()).unwrap();
    database
        .connect(&maker)
        .batch_execute("BEGIN; SELECT tally.enter('a'); CREATE MATERIALIZED VIEW shop.m AS SELECT sum(events)::int8 AS n FROM tally.usage_day; COMMIT")
        .unwrap();
    assert_eq!(
        lines(&mut admin, "SELECT name FROM tally.lint() WHERE metadata->>'schema' = 'shop'"),
        ["materialized_view"]
    );
    let folder = std::env::temp_dir().join(database.name());
    std::fs::create_dir(&folder).unwrap();
    let (dump, list) = (folder.join("dump"), folder.join("list"));
    let (dump, list) = (dump.to_str().unwrap(), list.to_str().unwrap());
    let (made, said) = program("pg_dump", &["-Fc", "-f", dump, database.name()]);
    assert!(made, "{said}");
    let (restored, said) = program("pg_restore", &["--exit-on-error", "-d", copy.name(), dump]);
    assert!(!restored && said.contains("REFRESH MATERIALIZED VIEW shop.m"), "{said}");
    let (_, entries) = program("pg_restore", &["--list", dump]);
    let kept: Vec<&str> = entries.lines().filter(|line| !line.contains("MATERIALIZED VIEW DATA")).collect();
    assert!(kept.len() + 1 == entries.lines().count(), "{entries}");
    std::fs::write(list, kept.join("\n")).unwrap();
    let (restored, said) = program("pg_restore", &["--exit-on-error", "-L", list, "-d", second.name(), dump]);
    std::fs::remove_dir_all(&folder).unwrap();
    assert!(restored, "{said}");
    let mut client = second.connect(&maker);
    client.batch_execute("BEGIN; SELECT tally.enter('a'); REFRESH MATERIALIZED VIEW shop.m; COMMIT").unwrap();
    assert_eq!(lines(&mut client, "SELECT n FROM shop.m"), ["1"]);
}

#[test]
fn accounts_share_the_event_ids_of_their_tenant_and_nothing_of_theirs_is_lost() {
    let mut database = Database::new("layout_event_ids");
    let first = database.role("first", &["tally_reader", "tally_writer"]);
    let second = database.role("second", &["tally_reader", "tally_writer"]);
    let mut admin = database.superuser();
    admin
        .batch_execute(&format!(
            "SELECT tally.bind_role('{first}', 'a', 'acct0'), tally.bind_role('{second}', 'a', 'acct1')"
        ))
        .unwrap();
    let mut squatter = database.connect(&second);
    assert_eq!(ingest(&mut squatter, &event("acct1", 7, "n").to_string()).unwrap().accepted, 1);
    // As documented: the other account's event is a conflict, which its sender is told and only its sender can read.
    let mut client = database.connect(&first);
    assert_eq!(ingest(&mut client, &event("acct0", 7, "n").to_string()).unwrap().conflicts, 1);
    assert_eq!(
        lines(&mut client, "SELECT account_id || ' ' || outcome FROM tally.quarantine"),
        ["acct0 conflict"]
    );
    assert_eq!(lines(&mut squatter, "SELECT count(*) FROM tally.quarantine"), ["0"]);
    // The same event by another door is one event: G1 before a boundary between accounts.
    admin.batch_execute(&format!("SELECT tally.bind_role('{second}', 'a')")).unwrap();
    assert_eq!(ingest(&mut squatter, &event("acct1", 7, "n").to_string()).unwrap().duplicates, 1);
    assert_eq!(number(&mut admin, "SELECT sum(events)::int8 FROM tally.usage_day"), 1);
}
