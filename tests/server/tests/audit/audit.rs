//! The audit log: every act once, also where its transaction is undone; reads as policy says; nobody changes it, and a tenant reads
//! its own entries alone.

use postgres::Client;
use serde_json::Value;
use std::thread;
use std::time::Duration;
use tally_server_tests::{Database, PrivateServer, TokenSigner, code, ingest, number, wait_for};

/// A server whose worker stores and seals, with little shared memory for entries.
fn served(topic: &str) -> PrivateServer {
    served_with(topic, "256kB")
}

/// The same with so much shared memory for entries.
pub fn served_with(topic: &str, buffer: &str) -> PrivateServer {
    let server = PrivateServer::create(
        topic,
        &format!(
            "shared_preload_libraries = 'pg_tally'\ntally.worker_databases = 'shop'\ntally.worker_role = 'worker'\n\
             tally.worker_interval = 1\ntally.audit_buffer = '{buffer}'\ncompute_query_id = on"
        ),
    );
    let mut postgres = server.connect("postgres", "postgres");
    postgres
        .batch_execute(
            "CREATE ROLE worker LOGIN; CREATE ROLE admin LOGIN; CREATE ROLE app LOGIN; CREATE ROLE pool LOGIN;
             CREATE ROLE acme_bi LOGIN; CREATE ROLE auditor LOGIN; CREATE ROLE analyst LOGIN",
        )
        .unwrap();
    postgres.batch_execute("CREATE DATABASE shop").unwrap();
    server
        .connect("postgres", "shop")
        .batch_execute(
            "CREATE EXTENSION pg_tally; GRANT tally_admin TO worker, admin; GRANT tally_reader, tally_writer TO app, pool, acme_bi;
             GRANT tally_auditor TO auditor; GRANT tally_analyst TO analyst",
        )
        .unwrap();
    server
}

/// What an auditor reads: act, tenant, actor, object, detail, in the order in which it happened.
type Read = (String, String, String, Option<String>, Value);

fn entries(auditor: &mut Client) -> Vec<Read> {
    let query =
        "SELECT act, tenant_id, actor, object, coalesce(detail, '{}') FROM tally.audit ORDER BY at, entry_id";
    let rows = auditor.query(query, &[]).unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1), row.get(2), row.get(3), row.get(4))).collect()
}

/// Waits until so many entries are in the table.
fn settled(auditor: &mut Client, at_least: usize) -> Vec<Read> {
    let mut found = Vec::new();
    for _ in 0..900 {
        found = entries(auditor);
        if found.len() >= at_least {
            return found;
        }
        thread::sleep(Duration::from_millis(200));
    }
    panic!("{} entries instead of {at_least}: {found:#?}", found.len());
}

fn event(tenant: &str, n: u64) -> String {
    format!(
        r#"{{"tenant_id":"{tenant}","account_id":"x","name":"n","event_id":"00000000-0000-4000-8000-{n:012x}","occurred_at":"2026-11-01T00:00:00Z"}}"#
    )
}

#[test]
fn every_act_is_recorded_once_whatever_becomes_of_its_transaction() {
    let server = served("audit_acts");
    let mut admin = server.connect("admin", "shop");
    let signer = TokenSigner::new("k1", 7);
    // Changes, kept and undone.
    admin.batch_execute("SELECT tally.trust_role('app')").unwrap();
    admin.batch_execute("SELECT tally.pool_role('pool')").unwrap();
    admin.batch_execute("SELECT tally.bind_role('acme_bi', 'acme')").unwrap();
    signer.register(&mut admin).unwrap();
    admin.batch_execute("BEGIN; SELECT tally.bind_role('acme_bi', 'globex'); ROLLBACK").unwrap();
    admin.batch_execute("DO $$ BEGIN PERFORM tally.unbind_role('acme_bi'); RAISE EXCEPTION 'no'; EXCEPTION WHEN raise_exception THEN NULL; END $$").unwrap();
    admin.batch_execute("SELECT tally.set_retention('acme', '1 year')").unwrap();
    admin.batch_execute("SELECT tally.limit_tenant('acme', statement_timeout_ms => 5000)").unwrap();
    admin.batch_execute("SELECT tally.create_rollup('r', '{day}', measures => ARRAY['count(*) AS n']); SELECT tally.drop_rollup('r')").unwrap();
    // What is denied, in a transaction that is rolled back, in a block that hides the error, and in a read-only one.
    let mut bi = server.connect("acme_bi", "shop");
    bi.batch_execute("BEGIN").unwrap();
    assert_eq!(code(bi.batch_execute("SELECT tally.enter('globex')")), "42501");
    bi.batch_execute("ROLLBACK").unwrap();
    bi.batch_execute(
        "DO $$ BEGIN PERFORM tally.enter_global(); EXCEPTION WHEN insufficient_privilege THEN NULL; END $$",
    )
    .unwrap();
    assert_eq!(code(bi.batch_execute("BEGIN READ ONLY; EXPLAIN SELECT 1")), "42501");
    bi.batch_execute("ROLLBACK").unwrap();
    // Scopes that are entered: by role, read only, and by token; the repeats within a window are counted with the next.
    let mut app = server.connect("app", "shop");
    for _ in 0..3 {
        app.batch_execute("BEGIN READ ONLY; SELECT tally.enter('globex'); ROLLBACK").unwrap();
    }
    app.batch_execute("BEGIN; SELECT tally.enter('acme', 'x'); COMMIT").unwrap();
    let mut pool = server.connect("pool", "shop");
    let mut transaction = pool.transaction().unwrap();
    let row = transaction.query_one("SELECT tally.challenge(), tally.token_audience()", &[]).unwrap();
    let mut claims = signer.claims(row.get(1), "pool", "acme", row.get(0));
    claims["sub"] = "jane@example.com".into();
    transaction.execute("SELECT tally.enter($1)", &[&signer.sign(&claims)]).unwrap();
    transaction.commit().unwrap();
    assert_eq!(code(pool.execute("SELECT tally.enter($1)", &[&signer.sign(&claims)])), "42501");
    // Who ends a session tells what it counted.
    drop((admin, bi, app, pool));

    let mut auditor = server.connect("auditor", "shop");
    let expected: Vec<(&str, &str, &str, &str, &str)> = vec![
        ("binding_added", "", "admin", "app", ""),
        ("binding_added", "", "admin", "pool", ""),
        ("binding_added", "acme", "admin", "acme_bi", ""),
        ("key_added", "", "admin", "k1", ""),
        ("binding_removed", "acme", "admin", "acme_bi", "undone"),
        ("binding_added", "globex", "admin", "acme_bi", "undone"),
        ("binding_removed", "acme", "admin", "acme_bi", "undone"),
        ("retention_added", "acme", "admin", "acme", ""),
        ("limit_added", "acme", "admin", "acme", ""),
        ("rollup_added", "", "admin", "r", ""),
        ("rollup_removed", "", "admin", "r", ""),
        ("denied", "acme", "acme_bi", "enter", ""),
        ("denied", "acme", "acme_bi", "enter", ""),
        ("denied", "acme", "acme_bi", "confined", ""),
        ("scope_entered", "globex", "app", "tenant", ""),
        ("scope_entered", "acme", "app", "tenant", ""),
        ("scope_entered", "acme", "pool", "tenant", ""),
        ("denied", "", "pool", "token", ""),
        ("scope_entered", "globex", "app", "tenant", "2 times"),
    ];
    let found = settled(&mut auditor, expected.len());
    thread::sleep(Duration::from_secs(3));
    let now = entries(&mut auditor);
    assert_eq!(now.len(), found.len(), "{now:#?}");
    let mut told: Vec<String> = found
        .iter()
        .filter(|(act, ..)| !act.starts_with("rollup_changed") && !act.starts_with("rollup_column_"))
        .map(|(act, tenant, actor, object, detail)| {
            let more = match (&detail["undone"], &detail["times"]) {
                (Value::Bool(true), _) => "undone".to_owned(),
                (_, Value::Number(times)) => format!("{times} times"),
                _ => String::new(),
            };
            format!("{act} {tenant} {actor} {} {more}", object.as_deref().unwrap_or(""))
        })
        .collect();
    let mut wanted: Vec<String> = expected
        .iter()
        .map(|(act, tenant, actor, object, more)| format!("{act} {tenant} {actor} {object} {more}"))
        .collect();
    told.sort();
    wanted.sort();
    assert_eq!(told, wanted);
    // The token's subject is the part that can be erased; the log of the server has each act and not the subject.
    let subject: Value = auditor
        .query_one("SELECT personal FROM tally.audit WHERE actor = 'pool' AND act = 'scope_entered'", &[])
        .unwrap()
        .get(0);
    assert_eq!(subject["subject"], "jane@example.com");
    let log = server.log();
    for row in auditor.query("SELECT entry_id::text FROM tally.audit", &[]).unwrap() {
        assert!(log.contains(&format!("id={}", row.get::<_, String>(0))), "the log has each act");
    }
    assert!(!log.contains("jane@example.com"));

    // The worker seals within 10 seconds on an idle machine; here it has a minute.
    wait_for("seals", || {
        let state = auditor
            .query_one("SELECT unsealed_since IS NULL FROM tally_internal.audit_state()", &[])
            .unwrap();
        state.get::<_, bool>(0).then_some(())
    });
    let anchor: String = auditor.query_one("SELECT tally.audit_anchor()", &[]).unwrap().get(0);
    assert!(auditor.query("SELECT * FROM tally.verify_audit($1)", &[&anchor]).unwrap().is_empty());
    // An erasure leaves the chain whole, and says that it was one.
    let mut superuser = server.connect("postgres", "shop");
    let erased = "SELECT tally_internal.erase_audit_personal('acme', (SELECT array_agg(entry_id) FROM tally.audit_personal))";
    assert_eq!(number(&mut superuser, erased), 1);
    assert!(auditor.query("SELECT * FROM tally.verify_audit($1)", &[&anchor]).unwrap().is_empty());
    superuser.batch_execute("INSERT INTO tally.audit_personal SELECT at, entry_id, tenant_id, 'x', '{}' FROM tally.audit_entry WHERE personal IS NOT NULL").unwrap();
    assert_eq!(auditor.query("SELECT * FROM tally.verify_audit($1)", &[&anchor]).unwrap().len(), 1);
}

/// Its connection is lost, or it is ended, while a transaction is open: that is undone after the session's last word.
#[test]
fn a_session_that_ends_within_a_transaction_leaves_its_trace() {
    let server = served("audit_leaving");
    let mut admin = server.connect("admin", "shop");
    admin
        .batch_execute("SELECT tally.trust_role('app'), tally.bind_role('acme_bi', 'acme'), tally.set_audit_policy('raw')")
        .unwrap();
    assert_eq!(ingest(&mut server.connect("app", "shop"), &event("acme", 1)).unwrap().accepted, 1);
    let mut superuser = server.connect("postgres", "shop");
    for is_lost in [true, false] {
        let mut bi = server.connect("acme_bi", "shop");
        bi.batch_execute("BEGIN; SELECT * FROM tally.events").unwrap();
        admin.batch_execute("BEGIN; SELECT tally.set_retention('acme', '400 days')").unwrap();
        if is_lost {
            admin = server.connect("admin", "shop");
        } else {
            let end =
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE state = 'idle in transaction'";
            superuser.execute(end, &[]).unwrap();
        }
    }
    let told =
        "SELECT act || ' by ' || actor || coalesce(' undone ' || (detail->>'undone'), '') FROM tally.audit
         WHERE actor IN ('acme_bi', 'admin') AND act IN ('read', 'retention_added')";
    let mut seen = Vec::new();
    for _ in 0..1800 {
        seen = superuser.query(told, &[]).unwrap().iter().map(|row| row.get::<_, String>(0)).collect();
        seen.sort();
        if seen.len() >= 4 {
            break;
        }
        thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(
        seen,
        ["read by acme_bi"; 2]
            .into_iter()
            .chain(["retention_added by admin undone true"; 2])
            .collect::<Vec<_>>()
    );
}

#[test]
fn reads_are_recorded_as_policy_says() {
    let server = served("audit_reads");
    let mut admin = server.connect("admin", "shop");
    admin.batch_execute("SELECT tally.trust_role('app'), tally.bind_role('acme_bi', 'acme')").unwrap();
    let mut app = server.connect("app", "shop");
    let events: Vec<String> = (0..20).map(|n| event("acme", n)).collect();
    assert_eq!(ingest(&mut app, &format!("[{}]", events.join(","))).unwrap().accepted, 20);
    let mut bi = server.connect("acme_bi", "shop");
    let look = |bi: &mut Client| {
        bi.batch_execute("SELECT * FROM tally.events LIMIT 7").unwrap();
        bi.batch_execute("BEGIN READ ONLY; DECLARE c CURSOR FOR SELECT * FROM tally.events; FETCH 3 FROM c; FETCH 4 FROM c; COMMIT").unwrap();
        // Fails after its rows were made.
        let failing = "SELECT 1 / (20 - count(*) OVER ()) FROM tally.events";
        assert_eq!(code(bi.batch_execute(failing)), "22012");
        bi.batch_execute("COPY (SELECT name FROM tally.events) TO STDOUT").unwrap_or(());
        // One statement, however many are inside.
        bi.batch_execute("DO $$ BEGIN FOR n IN 1 .. 5 LOOP PERFORM name FROM tally.events; END LOOP; END $$")
            .unwrap();
        bi.batch_execute("SELECT * FROM tally.usage_day").unwrap();
        bi.batch_execute("SELECT 1").unwrap();
    };
    let mut auditor = server.connect("auditor", "shop");
    let reads = |auditor: &mut Client| -> Vec<(Value, bool)> {
        let query = "SELECT detail, detail ? 'failed' FROM tally.audit WHERE act = 'read' AND actor = 'acme_bi' AND tenant_id = 'acme' ORDER BY at, entry_id";
        auditor.query(query, &[]).unwrap().iter().map(|row| (row.get(0), row.get(1))).collect()
    };
    look(&mut bi);
    admin.batch_execute("SELECT tally.set_audit_policy('raw')").unwrap();
    look(&mut bi);
    let found = wait_for("reads", || Some(reads(&mut auditor)).filter(|found| found.len() >= 5));
    let rows = |found: &[(Value, bool)]| -> Vec<i64> {
        found.iter().map(|(detail, _)| detail["rows"].as_i64().unwrap()).collect()
    };
    assert_eq!(rows(&found)[..2], [7, 7], "{found:#?}");
    assert!(found[2].1, "{found:#?}");
    assert!(
        found.iter().all(|(detail, _)| detail["relations"].to_string().contains("tally.events")),
        "{found:#?}"
    );
    assert!(found[0].0["query_id"].is_number());
    // An event that a function of ours finds with its owner's rights is read, too.
    let before = found.len();
    bi.batch_execute("SELECT * FROM tally.find_event('00000000-0000-4000-8000-000000000001')").unwrap();
    let found = wait_for("reads", || Some(reads(&mut auditor)).filter(|found| found.len() > before));
    // A function that isn't a statement's own: each statement that it runs outside of one is one.
    admin.batch_execute("SELECT tally.set_audit_policy('all', 'acme')").unwrap();
    let before = found.len();
    bi.batch_execute("SELECT * FROM tally.usage_day").unwrap();
    let found = wait_for("reads", || Some(reads(&mut auditor)).filter(|found| found.len() > before));
    assert!(found.last().unwrap().0["relations"].to_string().contains("usage"), "{found:#?}");
    // A rollup is a rollup, whatever it is called.
    admin
        .batch_execute("SELECT tally.create_rollup('audit_use', '{day}', measures => ARRAY['count(*) AS n'])")
        .unwrap();
    let before = found.len();
    bi.batch_execute("SELECT * FROM tally.audit_use_day").unwrap();
    let found = wait_for("reads", || Some(reads(&mut auditor)).filter(|found| found.len() > before));
    assert!(found.last().unwrap().0["relations"].to_string().contains("audit_use"), "{found:#?}");
    admin.batch_execute("SELECT tally.set_audit_policy('none', 'acme')").unwrap();
    let before = found.len();
    look(&mut bi);
    thread::sleep(Duration::from_secs(4));
    assert_eq!(reads(&mut auditor).len(), before);
}

/// Where shared memory is full, entries go to the log, and one entry tells how many: none is lost in silence.
#[test]
fn what_does_not_fit_is_told() {
    let server = served("audit_full");
    let mut admin = server.connect("admin", "shop");
    admin.batch_execute("SELECT tally.bind_role('acme_bi', 'acme'), tally.set_audit_policy('all')").unwrap();
    let mut auditor = server.connect("auditor", "shop");
    settled(&mut auditor, 2);
    // The worker can't store.
    let mut superuser = server.connect("postgres", "shop");
    superuser.batch_execute("BEGIN; LOCK TABLE tally.audit_rest, tally.audit_entry IN SHARE MODE").unwrap();
    let mut bi = server.connect("acme_bi", "shop");
    let reads = 1500;
    for _ in 0..reads {
        bi.batch_execute("SELECT * FROM tally.usage_day").unwrap();
    }
    // Acts find room where reads don't, and nobody waits.
    assert_eq!(code(bi.batch_execute("EXPLAIN SELECT 1")), "42501");
    superuser.batch_execute("COMMIT").unwrap();
    let in_log = server.log().matches("act=read actor=\"acme_bi\"").count();
    assert!(in_log > 0, "the ring was full");
    wait_for("the rest", || {
        let query = "SELECT count(*) FILTER (WHERE act = 'read' AND actor = 'acme_bi'), coalesce(sum((detail->>'entries')::int8) FILTER (WHERE act = 'audit_log_only'), 0)::int8,
                            count(*) FILTER (WHERE act = 'denied') FROM tally.audit";
        let row = auditor.query_one(query, &[]).unwrap();
        let (stored, told, denied): (i64, i64, i64) = (row.get(0), row.get(1), row.get(2));
        (stored + in_log as i64 == reads
            && told == server.log().matches(" act=read ").count() as i64
            && denied == 1)
            .then_some(())
    });
}

#[test]
fn nobody_changes_it_and_a_tenant_reads_its_own() {
    let mut database = Database::new("audit_who");
    let admin = database.role("admin", &["tally_admin"]);
    let auditor = database.role("auditor", &["tally_auditor"]);
    let acme = database.role("acme", &["tally_reader", "tally_writer"]);
    let account = database.role("account", &["tally_reader"]);
    let nobody = database.role("nobody", &[]);
    let trusted = database.role("trusted", &["tally_reader"]);
    let mut client = database.connect(&admin);
    client
        .batch_execute(&format!(
            "SELECT tally.bind_role('{acme}', 'acme'); SELECT tally.bind_role('{account}', 'acme', 'x'); SELECT tally.trust_role('{trusted}');
             SELECT tally.set_retention('globex', '1 year')"
        ))
        .unwrap();
    let tenants = |client: &mut Client| -> Vec<String> {
        client
            .query("SELECT DISTINCT tenant_id FROM tally.audit ORDER BY 1", &[])
            .unwrap()
            .iter()
            .map(|row| row.get(0))
            .collect()
    };
    assert_eq!(tenants(&mut database.connect(&auditor)), ["", "acme", "globex"]);
    assert_eq!(tenants(&mut database.connect(&acme)), ["acme"]);
    assert_eq!(tenants(&mut database.connect(&account)), [] as [&str; 0]);
    let mut operator = database.connect(&trusted);
    assert_eq!(code(operator.query("SELECT * FROM tally.audit", &[])), "42501");
    operator.batch_execute("BEGIN; SELECT tally.enter('globex')").unwrap();
    assert_eq!(tenants(&mut operator), ["globex"]);
    operator.batch_execute("ROLLBACK").unwrap();
    assert_eq!(code(database.connect(&nobody).query("SELECT * FROM tally.audit", &[])), "42501");
    // An auditor who is bound after all reads no more than the tenant.
    database.superuser().batch_execute(&format!("GRANT tally_auditor TO {acme}")).unwrap();
    let mut bound = database.connect(&acme);
    assert_eq!(tenants(&mut bound), ["acme"]);
    for whole in ["tally.export_audit()", "tally.verify_audit()", "tally.audit_anchor()"] {
        assert_eq!(code(bound.query(&format!("SELECT * FROM {whole}"), &[])), "42501", "{whole}");
    }
    assert_eq!(number(&mut bound, "SELECT count(*) FROM tally.audit_seal"), 0);
    database.superuser().batch_execute(&format!("REVOKE tally_auditor FROM {acme}")).unwrap();
    // Nor does an analyst, who sees every tenant's numbers.
    let analyst = database.role("looker", &["tally_analyst"]);
    let mut looker = database.connect(&analyst);
    looker.batch_execute("BEGIN; SELECT tally.enter_global()").unwrap();
    let refused = looker.query("SELECT * FROM tally.audit", &[]).unwrap_err();
    let refused = refused.as_db_error().unwrap();
    assert_eq!(refused.code().code(), "42501");
    assert!(
        refused.message().contains("members of tally_auditor") && refused.hint().is_some(),
        "{refused:?}"
    );

    // Nobody writes, forges, drains or takes it all along.
    for role in [&admin, &auditor, &acme, &trusted] {
        let mut client = database.connect(role);
        for statement in [
            "INSERT INTO tally.audit_entry SELECT * FROM tally.audit_entry",
            "DELETE FROM tally.audit_entry",
            "UPDATE tally.audit_seal SET entries = 0",
            "TRUNCATE tally.audit_rest",
            "SELECT * FROM tally.audit_entry",
            "SELECT * FROM tally.audit_personal",
            "SELECT tally_internal.record_act('export_approved', 'x', NULL, 'globex')",
            "SELECT tally_internal.erase_audit_personal('acme', '{}')",
        ] {
            assert_eq!(code(client.batch_execute(statement)), "42501", "{role}: {statement}");
        }
    }
    for role in [&acme, &trusted] {
        for statement in [
            "SELECT tally.export_audit()",
            "SELECT tally.audit_anchor()",
            "SELECT tally.verify_audit()",
            "SELECT tally.set_audit_policy('none')",
            "SELECT tally.seal_audit()",
            "SELECT * FROM tally.audit_seal",
            "SELECT * FROM tally.audit_policy",
        ] {
            assert_eq!(code(database.connect(role).batch_execute(statement)), "42501", "{role}: {statement}");
        }
    }
    let mut superuser = database.superuser();
    for mode in ["origin", "replica", "local"] {
        superuser.batch_execute(&format!("SET session_replication_role = {mode}")).unwrap();
        for statement in [
            "DELETE FROM tally.audit_entry",
            "UPDATE tally.audit_entry SET act = 'nothing'",
            "TRUNCATE tally.audit_entry",
            "SET ROLE tally_owner; DELETE FROM tally.audit_entry",
        ] {
            assert_eq!(code(superuser.batch_execute(statement)), "55T60", "{mode}: {statement}");
            superuser.batch_execute("RESET ROLE").unwrap();
        }
    }
    assert_eq!(code(client.batch_execute("SELECT tally.set_audit_retention('1 day')")), "22023");
    assert_eq!(code(client.batch_execute("SELECT tally.set_audit_policy('some')")), "22023");
    assert_eq!(code(client.batch_execute("SELECT tally.verify_audit('{}')")), "22023");
}

/// An open transaction's entries fall under exactly one seal, made after it has ended, however many are made meanwhile.
#[test]
fn a_transaction_that_sleeps_is_sealed_once_and_later() {
    let mut database = Database::new("audit_sleep");
    let admin = database.role("admin", &["tally_admin"]);
    let mut sleeper = database.connect(&admin);
    let mut other = database.connect(&admin);
    let mut superuser = database.superuser();
    other.batch_execute("SELECT tally.set_retention('acme', '1 year')").unwrap();
    sleeper.batch_execute("BEGIN; SELECT tally.set_retention('globex', '2 years')").unwrap();
    for days in 0..3 {
        other.batch_execute(&format!("SELECT tally.set_retention('acme', '{} days')", 400 + days)).unwrap();
        other.batch_execute("SELECT tally.seal_audit()").unwrap();
    }
    let sealed = "SELECT coalesce(sum(entries), 0)::int8 FROM tally.audit_seal WHERE tenant_id = 'globex'";
    assert_eq!(number(&mut superuser, sealed), 0);
    sleeper.batch_execute("COMMIT").unwrap();
    for _ in 0..3 {
        other.batch_execute("SELECT tally.seal_audit()").unwrap();
    }
    let otherwise = "SELECT count(*) FROM tally.audit_entry AS e
                  WHERE 1 <> (SELECT count(*) FROM tally.audit_seal AS s WHERE s.tenant_id = e.tenant_id AND s.month = date_trunc('month', e.at, 'UTC')::date
                                  AND e.xid >= s.from_xid AND e.xid < s.to_xid)";
    // Other databases of the cluster have transactions, too: what is younger than theirs is sealed later.
    wait_for("each entry under one seal", || {
        other.batch_execute("SELECT tally.seal_audit()").unwrap();
        (number(&mut superuser, otherwise) == 0).then_some(())
    });
    assert_eq!(number(&mut superuser, sealed), 1);
    assert!(other.query("SELECT * FROM tally.verify_audit()", &[]).unwrap().is_empty());
}

/// Months that retention drops leave their seals, and the log says so.
#[test]
fn retention_drops_sealed_months_alone() {
    let mut database = Database::new("audit_months");
    let admin = database.role("admin", &["tally_admin"]);
    let mut client = database.connect(&admin);
    let mut superuser = database.superuser();
    superuser.batch_execute("SELECT tally_internal.create_audit_month('2026-02-01'); ALTER TABLE tally.audit_p2026_02 OWNER TO tally_owner").unwrap();
    old(&mut superuser, "2026-02-10", 5);
    old(&mut superuser, "2026-03-10", 4);
    client.batch_execute("SELECT tally.set_audit_retention('60 days')").unwrap();
    wait_for("the months to go", || {
        client.batch_execute("CALL tally.maintain()").unwrap();
        (number(&mut superuser, "SELECT count(*) FROM tally.audit_entry WHERE at < '2026-04-01'") == 0)
            .then_some(())
    });
    assert_eq!(number(&mut superuser, "SELECT count(*) FROM pg_class WHERE relname = 'audit_p2026_02'"), 0);
    assert_eq!(
        number(&mut superuser, "SELECT sum(entries) FROM tally.audit_seal WHERE month < '2026-04-01'"),
        9
    );
    assert_eq!(
        number(&mut superuser, "SELECT count(*) FROM tally.audit WHERE act = 'audit_month_dropped'"),
        2
    );
    assert!(client.query("SELECT * FROM tally.verify_audit()", &[]).unwrap().is_empty());
    // A month that somebody drops by hand is missed.
    superuser.batch_execute("SELECT tally_internal.create_audit_month('2026-04-01'); ALTER TABLE tally.audit_p2026_04 OWNER TO tally_owner").unwrap();
    old(&mut superuser, "2026-04-10", 3);
    client.batch_execute("SELECT tally.set_audit_retention(NULL)").unwrap();
    wait_for("the seal", || {
        client.batch_execute("SELECT tally.seal_audit()").unwrap();
        (number(&mut superuser, "SELECT count(*) FROM tally.audit_seal WHERE month = '2026-04-01'") == 1)
            .then_some(())
    });
    superuser.batch_execute("DROP TABLE tally.audit_p2026_04").unwrap();
    let found = client.query("SELECT fault, detail FROM tally.verify_audit()", &[]).unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].get::<_, &str>(0), "missing");
}

/// Entries of another day, as they would have been written then.
fn old(superuser: &mut Client, day: &str, entries: u8) {
    for n in 0..entries {
        let mut transaction = superuser.transaction().unwrap();
        let row = transaction
            .query_one(
                "SELECT pg_current_xact_id()::text, tally_internal.cluster_number(), (extract(epoch FROM $1::text::timestamptz) * 1000000)::int8 - 946684800000000",
                &[&day],
            )
            .unwrap();
        let (xid, origin, at): (String, i64, i64) = (row.get(0), row.get(1), row.get(2));
        let entry = tally_core::audit::Entry {
            tenant_id: "acme".into(),
            origin: origin as u64,
            xid: xid.parse().unwrap(),
            at,
            entry_id: [n; 16],
            actor: "somebody".into(),
            act: "limit_changed".into(),
            ..Default::default()
        };
        let id = tally_core::event::format_uuid(&entry.entry_id);
        transaction
            .execute(
                "INSERT INTO tally.audit_entry (xid, at, origin, entry_id, tenant_id, actor, act, leaf)
                 VALUES ($1::text::xid8, $2::text::timestamptz, $3, $4::text::uuid, 'acme', 'somebody', 'limit_changed', $5)",
                &[&xid, &day, &origin, &id, &&entry.leaf()[..]],
            )
            .unwrap();
        transaction.commit().unwrap();
    }
}

#[test]
fn a_statement_that_ends_while_reads_are_told_takes_nothing_down() {
    let mut database = Database::new("audit_cancelled");
    let acme = database.role("acme", &["tally_reader"]);
    database
        .superuser()
        .batch_execute(&format!(
            "SELECT tally.bind_role('{acme}', 'acme'); SELECT tally.set_audit_policy('all')"
        ))
        .unwrap();
    let mut client = database.connect(&acme);
    // Every thousandth read hands over what waits, a line of the log each.
    for round in 0..8 {
        // In one message, so that the limit is undone with it: what follows has all the time that it takes.
        let endless = format!(
            "SET statement_timeout = {}; DO $$ BEGIN LOOP PERFORM count(*) FROM tally.events; END LOOP; END $$",
            250 + 60 * round
        );
        assert_eq!(code(client.batch_execute(&endless)), "57014");
        assert_eq!(number(&mut client, "SELECT 1::bigint"), 1);
    }
}
