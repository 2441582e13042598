//! Exports by four eyes: nobody approves what they requested, what was approved is what runs, and it runs once.

use postgres::fallible_iterator::FallibleIterator;
use postgres::{Client, GenericClient};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::io::Read;
use std::process::Command;
use std::sync::Barrier;
use std::thread;
use std::time::Duration;
use tally_server_tests::{Database, TokenSigner, code, ingest, number, succeed};

pub const TAKEN: &str = "no error";
const DENIED: &str = "42501";
pub const NOT_SO: &str = "55000";
const NO_SUCH: &str = "42704";

/// Tenants `a` and `b` with events and notes; logins that request (of `a`) and approve (members of a group).
pub struct Scene {
    pub database: Database,
    signer: TokenSigner,
    pub requester: String,
    pub group: String,
    approvers: [String; 2],
    pub owner: String,
}

impl Scene {
    pub fn new(topic: &str) -> Self {
        let mut database = Database::new(topic);
        let requester = database.role("requester", &["tally_reader"]);
        let group = database.role("approvers", &["tally_reader"]);
        let approvers = [database.role("one", &[&group]), database.role("two", &[&group])];
        let owner = database.role("owner", &[]);
        let mut admin = database.superuser();
        let events: Vec<Value> = (0..60)
            .map(|n| {
                json!({"tenant_id": if n % 2 == 0 { "a" } else { "b" }, "account_id": format!("x{}", n % 3), "name": "run",
                    "event_id": format!("00000000-0000-4000-8000-{n:012}"), "occurred_at": "2026-01-05T00:00:00Z"})
            })
            .collect();
        ingest(&mut admin, &json!(events).to_string()).unwrap();
        admin
            .batch_execute(&format!(
                "ALTER DATABASE {name} SET session_preload_libraries = pg_tally;
                 SELECT tally.bind_role('{requester}', 'a');
                 SELECT tally.set_export_policy('raw', 1, approvers => '{group}'), tally.set_export_policy('personal', 1, approvers => '{group}'), tally.set_export_policy('aggregate', 1, approvers => '{group}');
                 CREATE SCHEMA shop AUTHORIZATION {owner}; GRANT USAGE, CREATE ON SCHEMA shop TO PUBLIC;
                 CREATE TABLE shop.note (tenant_id text NOT NULL, n int NOT NULL, body text NOT NULL DEFAULT 'note', PRIMARY KEY (tenant_id, n));
                 INSERT INTO shop.note SELECT t, n FROM generate_series(1, 3000) AS n, unnest('{{a,b}}'::text[]) AS t;
                 ALTER TABLE shop.note OWNER TO {owner};
                 SELECT tally.protect('shop.note');
                 SET ROLE {owner};
                 CREATE FUNCTION shop.inner_part(n int) RETURNS int LANGUAGE sql IMMUTABLE BEGIN ATOMIC SELECT n + 1; END;
                 CREATE FUNCTION shop.part(n int) RETURNS int LANGUAGE sql IMMUTABLE BEGIN ATOMIC SELECT shop.inner_part(n) * 2; END;
                 CREATE VIEW shop.few WITH (security_invoker = false) AS SELECT n, body FROM shop.note WHERE n <= 10;
                 CREATE FUNCTION shop.text(n int) RETURNS int LANGUAGE plpgsql STABLE AS 'BEGIN RETURN n; END';
                 CREATE FUNCTION shop.now(n int) RETURNS int LANGUAGE sql VOLATILE BEGIN ATOMIC SELECT n; END;
                 CREATE FUNCTION shop.elevated(n int) RETURNS int LANGUAGE sql STABLE SECURITY DEFINER BEGIN ATOMIC SELECT n; END;
                 GRANT SELECT ON ALL TABLES IN SCHEMA shop TO PUBLIC; RESET ROLE",
                name = database.name()
            ))
            .unwrap();
        let signer = TokenSigner::new("k", 1);
        signer.register(&mut admin).unwrap();
        // A machine that is slow is not one that forgets.
        admin.batch_execute("SELECT tally.set_step_up_policy('approve_export', true, '10 hours')").unwrap();
        Self { database, signer, requester, group, approvers, owner }
    }

    /// A login that has shown a second factor.
    pub fn approver(&self, place: usize) -> Client {
        let mut client = self.database.connect(&self.approvers[place]);
        self.signer.step_up(&mut client, None).unwrap();
        client
    }

    /// An approved request of the requester's.
    pub fn approved(&self, client: &mut Client, query: &str, max_rows: i64) -> String {
        let id = request(client, query, max_rows).unwrap();
        assert_eq!(approve(&mut self.approver(0), &id), TAKEN, "{query}");
        id
    }

    pub fn state(&self, id: &str) -> String {
        let query = "SELECT state FROM tally.exports WHERE id = $1::text::uuid";
        self.database.superuser().query_one(query, &[&id]).unwrap().get(0)
    }
}

pub fn request(
    client: &mut impl GenericClient,
    query: &str,
    max_rows: i64,
) -> Result<String, postgres::Error> {
    let row =
        client.query_one("SELECT tally.request_export($1, 'a test', $2)::text", &[&query, &max_rows])?;
    Ok(row.get(0))
}

pub fn approve(client: &mut impl GenericClient, id: &str) -> String {
    code(client.batch_execute(&format!("SELECT tally.approve_export('{id}')")))
}

pub fn run(client: &mut impl GenericClient, id: &str) -> Result<Vec<String>, postgres::Error> {
    let rows = client.query(&format!("SELECT tally.run_export('{id}')"), &[])?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

#[test]
fn an_export_is_handed_out_once_to_who_requested_it() {
    let scene = Scene::new("export_once");
    let mut client = scene.database.connect(&scene.requester);
    let mut listener = scene.database.connect(&scene.approvers[1]);
    listener.batch_execute("LISTEN tally_export").unwrap();
    let id: String = client
        .query_one(
            "SELECT tally.request_export('SELECT account_id, count(*) AS n FROM tally.events WHERE name = $1 AND account_id <> $2 GROUP BY 1 ORDER BY 1',
               'for the board', 10, '[\"run\", null]')::text",
            &[],
        )
        .unwrap()
        .get(0);
    client
        .batch_execute(&format!("SELECT tally.withdraw_export('{id}', 'a null compares with nothing')"))
        .unwrap();
    let query = "SELECT account_id, count(*) AS n, 'a\\b' AS text FROM tally.events GROUP BY 1 ORDER BY 1";
    let id = request(&mut client, query, 10).unwrap();
    let told = listener.notifications().timeout_iter(Duration::from_secs(100)).next().unwrap().unwrap();
    assert_eq!((told.channel(), told.payload()), ("tally_export", ""));
    assert_eq!(code(run(&mut client, &id)), NOT_SO, "not approved yet");
    let mut approver = scene.database.connect(&scene.approvers[0]);
    assert_eq!(approve(&mut approver, &id), "42T20");
    scene.signer.step_up(&mut approver, None).unwrap();
    let seen = approver.query_one("SELECT query, purpose, classification, requester::text, max_rows, request_hash FROM tally.exports WHERE state = 'requested'", &[]).unwrap();
    assert_eq!((seen.get(0), seen.get(1), seen.get(2)), (query, "a test", "personal"));
    assert_eq!((seen.get::<_, String>(3), seen.get::<_, i64>(4)), (scene.requester.clone(), 10));
    let hash: String = seen.get(5);
    let with_hash = |hash: &str| format!("SELECT tally.approve_export('{id}', '{hash}')");
    assert_eq!(code(approver.batch_execute(&with_hash(&hash.replace(|digit| digit != '0', "0")))), "22023");
    approver.batch_execute(&with_hash(&hash)).unwrap();
    assert_eq!(approve(&mut scene.approver(1), &id), NOT_SO, "decided");
    // Another login of the tenant, another scope, another role's rights.
    let mut admin = scene.database.superuser();
    admin.batch_execute(&format!("SELECT tally.bind_role('{}', 'a')", scene.approvers[1])).unwrap();
    assert_eq!(code(run(&mut scene.database.connect(&scene.approvers[1]), &id)), NO_SUCH);
    client.batch_execute("BEGIN; SELECT tally.enter('a', 'x1')").unwrap();
    assert_eq!(code(run(&mut client, &id)), NO_SUCH);
    client.batch_execute("ROLLBACK; SET ROLE tally_reader").unwrap();
    assert_eq!(code(run(&mut client, &id)), DENIED);
    client.batch_execute("RESET ROLE").unwrap();
    // In a transaction that is undone, and read only: the rows have left all the same.
    client.batch_execute("BEGIN READ ONLY").unwrap();
    let lines = run(&mut client, &id).unwrap();
    client.batch_execute("ROLLBACK").unwrap();
    let lines_wanted = ["x0", "x1", "x2"]
        .map(|account| format!("{{\"account_id\":\"{account}\",\"n\":10,\"text\":\"a\\\\b\"}}"));
    assert_eq!(lines, lines_wanted, "tenant a's alone");
    assert_eq!(code(run(&mut client, &id)), NOT_SO, "spent");
    let row = admin
        .query_one(
            "SELECT state, rows, content_hash = encode(sha256(convert_to($2, 'UTF8')), 'hex') FROM tally.exports WHERE id = $1::text::uuid",
            &[&id, &(lines.join("\n") + "\n")],
        )
        .unwrap();
    assert_eq!((row.get(0), row.get(1), row.get(2)), ("done", 3_i64, true));
    // The session tells at its next write what its read-only transaction couldn't.
    client.batch_execute("SELECT pg_current_xact_id()").unwrap();
    let steps: Vec<String> = admin
        .query(
            "SELECT format('%s %s %s', act, actor = $2, coalesce(detail->>'rows', '')) FROM tally.audit WHERE object = $1 AND tenant_id = 'a' ORDER BY at",
            &[&id, &scene.requester],
        )
        .unwrap()
        .iter()
        .map(|row| row.get(0))
        .collect();
    for step in [
        "export_requested t ",
        "export_approved f ",
        "export_started t ",
        "export_run t 3",
        "export_denied t ",
    ] {
        assert!(steps.iter().any(|found| found == step), "{step}: {steps:?}");
    }
    assert_eq!(
        number(
            &mut admin,
            "SELECT count(*) FROM tally.audit WHERE act = 'export_run' AND length(detail->>'content_hash') = 64 AND length(detail->>'query_hash') = 64"
        ),
        1
    );
    // Broken off: as spent, and recorded as far as it came.
    let id = scene.approved(&mut client, "SELECT n FROM shop.note ORDER BY n", 5000);
    assert_eq!(client.query(&format!("SELECT tally.run_export('{id}') LIMIT 5"), &[]).unwrap().len(), 5);
    assert_eq!(code(run(&mut client, &id)), NOT_SO);
    assert_eq!(scene.state(&id), "running");
    client.batch_execute("SELECT pg_current_xact_id()").unwrap();
    let broken_off = format!(
        "SELECT count(*) FROM tally.audit WHERE act = 'export_run' AND object = '{id}' AND (detail->>'rows')::int >= 5 AND detail->'unfinished' = 'true'"
    );
    assert_eq!(number(&mut admin, &broken_off), 1);
    // More rows than were approved: no more of them leave, and it isn't taken for the whole.
    let id = scene.approved(&mut client, "SELECT n FROM shop.note ORDER BY n", 100);
    let mut text = Vec::new();
    let copied = client
        .copy_out(&format!("COPY (SELECT tally.run_export('{id}')) TO STDOUT"))
        .unwrap()
        .read_to_end(&mut text);
    assert!(copied.is_err());
    assert_eq!(text.iter().filter(|byte| **byte == b'\n').count(), 100);
    assert_eq!(scene.state(&id), "failed");
    // A row counts once for each 4 kB: many are not to be put together in one.
    for (bytes, outcome) in [(40_000, TAKEN), (41_000, "53400")] {
        let id = scene.approved(&mut client, &format!("SELECT repeat('x', {bytes}) AS text"), 10);
        assert_eq!(code(run(&mut client, &id)), outcome, "{bytes}");
    }
}

#[test]
fn two_runs_at_once_give_one_export() {
    let scene = Scene::new("export_at_once");
    let mut client = scene.database.connect(&scene.requester);
    for _ in 0..3 {
        let id = scene.approved(&mut client, "SELECT n FROM shop.note", 5000);
        let begin = Barrier::new(3);
        let outcomes: Vec<String> = thread::scope(|threads| {
            let runners: Vec<_> = (0..3)
                .map(|_| {
                    threads.spawn(|| {
                        let mut client = scene.database.connect(&scene.requester);
                        begin.wait();
                        match run(&mut client, &id) {
                            Ok(lines) => lines.len().to_string(),
                            Err(error) => code(Err::<(), _>(error)),
                        }
                    })
                })
                .collect();
            runners.into_iter().map(|runner| runner.join().unwrap()).collect()
        });
        assert_eq!(outcomes.iter().filter(|outcome| *outcome == "3000").count(), 1, "{outcomes:?}");
        assert_eq!(outcomes.iter().filter(|outcome| *outcome == NOT_SO).count(), 2, "{outcomes:?}");
    }
}

#[test]
fn nobody_approves_what_the_same_person_requested() {
    let mut scene = Scene::new("export_four_eyes");
    let second = scene.database.role("second", &[&scene.group]);
    let mut admin = scene.database.superuser();
    let Scene { requester, group, approvers: [one, two], .. } = &scene;
    admin.batch_execute(&format!("GRANT {group}, {one} TO {requester}")).unwrap();
    let mut client = scene.database.connect(requester);
    scene.signer.step_up(&mut client, Some("jane@example.com")).unwrap();
    let id = request(&mut client, "SELECT n FROM shop.note", 5000).unwrap();
    // A member of the approvers, also by SET ROLE to an approver's login.
    assert_eq!(approve(&mut client, &id), DENIED);
    for role in [group, one] {
        client.batch_execute(&format!("SET ROLE {role}")).unwrap();
        assert_eq!(approve(&mut client, &id), DENIED, "{role}");
        client.batch_execute("RESET ROLE").unwrap();
    }
    // A function with an approver's rights, and one of the requester's that an approver calls; a view that does.
    let definer = |client: &mut Client, name: &str, security: &str, language: &str| {
        let body = match language {
            "sql" => format!("'SELECT tally.approve_export(''{id}'')'"),
            _ => format!("'BEGIN RETURN tally.approve_export(''{id}''); END'"),
        };
        client
            .batch_execute(&format!(
                "CREATE FUNCTION shop.{name}() RETURNS text LANGUAGE {language} {security} AS {body}"
            ))
            .unwrap();
    };
    let mut approver = scene.approver(0);
    for (name, language) in [("theirs_sql", "sql"), ("theirs", "plpgsql")] {
        definer(&mut approver, name, "SECURITY DEFINER", language);
        assert_eq!(code(client.batch_execute(&format!("SELECT shop.{name}() /* approve_export */"))), DENIED);
        definer(&mut client, &format!("{name}_trap"), "", language);
        assert_eq!(code(approver.batch_execute(&format!("SELECT shop.{name}_trap()"))), DENIED);
    }
    client.batch_execute(&format!("CREATE VIEW shop.trap WITH (security_invoker = true) AS SELECT tally.approve_export('{id}'); GRANT SELECT ON shop.trap TO PUBLIC")).unwrap();
    client
        .batch_execute(&format!(
            "CREATE VIEW shop.waiting_to_approve_export WITH (security_invoker = true) AS SELECT 1 AS n, tally.approve_export('{id}');
             CREATE FUNCTION shop.approve_export() RETURNS text LANGUAGE sql AS 'SELECT tally.approve_export(''{id}'')';
             GRANT SELECT ON shop.waiting_to_approve_export TO PUBLIC"
        ))
        .unwrap();
    let nothing = "00000000-0000-4000-8000-000000000000";
    for statement in [
        "SELECT * FROM shop.trap",
        "SELECT * FROM shop.waiting_to_approve_export",
        "SELECT shop.approve_export()",
        &format!("SELECT * FROM shop.trap; SELECT tally.approve_export('{nothing}')"),
        &format!("SELECT tally.approve_export('{nothing}'), t.* FROM shop.trap AS t"),
        &format!("SELECT tally.approve_export('{id}') FROM shop.note"),
        &format!("SELECT tally.approve_export('{id}') WHERE random() >= 0"),
    ] {
        assert_eq!(code(approver.batch_execute(statement)), DENIED, "{statement}");
    }
    assert_eq!(
        code(approver.batch_execute(&format!("DO $$ BEGIN PERFORM tally.approve_export('{id}'); END $$"))),
        DENIED
    );
    // A second login that shows to be the same person's, by the token or by the map; as mapped then and now.
    let mut other = scene.database.connect(&second);
    scene.signer.step_up(&mut other, Some("jane@example.com")).unwrap();
    assert_eq!(approve(&mut other, &id), DENIED);
    scene.signer.step_up(&mut other, None).unwrap();
    admin.batch_execute(&format!("SELECT tally.map_person('jane', login => '{second}'), tally.map_person('jane', subject => 'jane@example.com')")).unwrap();
    assert_eq!(approve(&mut other, &id), DENIED);
    let mapped = request(&mut client, "SELECT n FROM shop.note", 5000).unwrap();
    admin.batch_execute("SELECT tally.map_person(NULL, subject => 'jane@example.com')").unwrap();
    assert_eq!(approve(&mut other, &mapped), DENIED, "mapped when it was requested");
    assert_eq!(approve(&mut other, &id), TAKEN, "not mapped then, nor now");
    // Whoever is no approver.
    admin.batch_execute(&format!("REVOKE {group} FROM {two}")).unwrap();
    let mut stranger = scene.database.connect(two);
    assert_eq!(code(stranger.batch_execute("SELECT tally.challenge()")), DENIED);
    admin.batch_execute(&format!("GRANT tally_reader TO {two}")).unwrap();
    assert_eq!(approve(&mut scene.approver(1), &mapped), DENIED);
    assert_eq!(
        code(scene.approver(1).batch_execute(&format!("SELECT tally.reject_export('{mapped}', 'no')"))),
        DENIED
    );
    assert_eq!(
        code(scene.approver(0).batch_execute(&format!("SELECT tally.reject_export('{mapped}', 'no')"))),
        TAKEN
    );
    assert_eq!(
        (scene.state(&mapped), code(run(&mut client, &mapped))),
        ("rejected".to_owned(), NOT_SO.to_owned())
    );
    // Two people: not one of them twice, under another login either.
    admin.batch_execute(&format!("GRANT {group} TO {two}; SELECT tally.set_export_policy('raw', 2, approvers => '{group}'), tally.map_person('joe', login => '{one}'), tally.map_person('joe', login => '{second}')")).unwrap();
    let id = request(&mut client, "SELECT n FROM shop.note", 5000).unwrap();
    assert_eq!(approve(&mut scene.approver(0), &id), TAKEN);
    assert_eq!(code(run(&mut client, &id)), NOT_SO);
    assert_eq!(approve(&mut scene.approver(0), &id), DENIED);
    assert_eq!(approve(&mut other, &id), DENIED);
    assert_eq!(approve(&mut scene.approver(1), &id), TAKEN);
    assert_eq!(run(&mut client, &id).unwrap().len(), 3000);
    // Every denial is in the log; each was undone with its transaction.
    assert!(number(&mut admin, "SELECT count(*) FROM tally.audit WHERE act = 'export_rejected'") == 1);
}

/// What lint says of exports and persons: the rules' names, and the roles that they name.
fn lint(admin: &mut Client) -> Vec<(String, String, String)> {
    let query = "SELECT name, metadata ->> 'name', remediation FROM tally.lint() WHERE name ~ '^(export|person)_' ORDER BY 1, 2";
    admin.query(query, &[]).unwrap().iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect()
}

fn names(findings: &[(String, String, String)], role: &str) -> Vec<String> {
    findings.iter().filter(|finding| finding.1 == role).map(|finding| finding.0.clone()).collect()
}

#[test]
fn a_login_that_is_renamed_stays_who_it_was_and_one_that_is_made_anew_is_somebody_else() {
    let mut scene = Scene::new("export_names");
    let (asks, other) =
        (scene.database.role("asks", &["tally_reader"]), scene.database.role("other", &[&scene.group]));
    let renamed = scene.database.reserve_role("renamed");
    let mut admin = scene.database.superuser();
    admin
        .batch_execute(&format!(
            "SELECT tally.set_step_up_policy('approve_export', false), tally.bind_role('{asks}', 'a');
             SELECT tally.map_person('jane', login => '{asks}'), tally.map_person('jane', login => '{other}')"
        ))
        .unwrap();
    let query = "SELECT n FROM shop.note WHERE n <= 10";
    let mut client = scene.database.connect(&asks);
    let id = request(&mut client, query, 5000).unwrap();
    assert_eq!(approve(&mut scene.database.connect(&other), &id), DENIED);
    admin.batch_execute(&format!("ALTER ROLE {other} RENAME TO {renamed}")).unwrap();
    assert_eq!(approve(&mut scene.database.connect(&renamed), &id), DENIED, "the same person, renamed");
    assert_eq!(names(&lint(&mut admin), &renamed), [""; 0]);
    // Another login takes the name that became free: it is somebody else, and both mappings stand.
    admin.batch_execute(&format!("CREATE ROLE {other} LOGIN; GRANT {} TO {other}", scene.group)).unwrap();
    assert_eq!(names(&lint(&mut admin), &other), ["export_approver_unmapped"]);
    admin.batch_execute(&format!("SELECT tally.map_person('joe', login => '{other}')")).unwrap();
    assert_eq!(approve(&mut scene.database.connect(&renamed), &id), DENIED, "jane still");
    assert_eq!(approve(&mut scene.database.connect(&other), &id), TAKEN, "joe");
    // Mapped again under the new name, and taken back under it.
    admin.batch_execute(&format!("SELECT tally.map_person('jane', login => '{renamed}')")).unwrap();
    let mapped = "SELECT string_agg(identity || ' ' || person, ', ' ORDER BY person, identity) FROM tally.person_identity";
    let is_mapped = |admin: &mut Client| {
        admin.query_one(mapped, &[]).unwrap().get::<_, Option<String>>(0).unwrap_or_default()
    };
    assert_eq!(is_mapped(&mut admin), format!("login {asks} jane, login {renamed} jane, login {other} joe"));
    admin
        .batch_execute(&format!(
            "SELECT tally.map_person(NULL, login => '{renamed}'), tally.map_person(NULL, login => '{other}')"
        ))
        .unwrap();
    assert_eq!(is_mapped(&mut admin), format!("login {asks} jane"));

    // Who asked is dropped, and another login has the name: it neither lists nor withdraws nor runs what the first one asked for.
    drop(client);
    let approved = {
        let mut client = scene.database.connect(&asks);
        let approved = request(&mut client, query, 5000).unwrap();
        assert_eq!(approve(&mut scene.approver(0), &approved), TAKEN);
        approved
    };
    admin.batch_execute(&format!("DROP ROLE {asks}; CREATE ROLE {asks} LOGIN; GRANT tally_reader TO {asks}; SELECT tally.bind_role('{asks}', 'a')")).unwrap();
    let mut client = scene.database.connect(&asks);
    assert_eq!(number(&mut client, "SELECT count(*) FROM tally.exports"), 0);
    assert_eq!(code(run(&mut client, &approved)), NO_SUCH);
    assert_eq!(code(client.batch_execute(&format!("SELECT tally.withdraw_export('{approved}')"))), NO_SUCH);
    assert_eq!(scene.state(&approved), "approved");
    let findings = lint(&mut admin);
    assert_eq!(names(&findings, &asks), ["person_login_gone"]);
    let fix = &findings.iter().find(|finding| finding.0 == "person_login_gone").unwrap().2;
    admin.batch_execute(fix).unwrap();
    assert_eq!(names(&lint(&mut admin), &asks), [""; 0]);
    // Also in no tenant's scope, where one sees one's own alone.
    admin.batch_execute(&format!("SELECT tally.trust_role('{asks}')")).unwrap();
    assert_eq!(number(&mut scene.database.connect(&asks), "SELECT count(*) FROM tally.exports"), 0);
    // Where a row is written whose numbers are of another cluster, as by a restore, they become those of the roles that it names.
    let copy = "INSERT INTO tally.export SELECT (jsonb_populate_record(e, jsonb_build_object('id', gen_random_uuid(), 'identities', '{login x,role 1,subject s}'::text[],
          'requester_role', (SELECT rolname FROM pg_roles WHERE oid = $1::text::regrole)))).* FROM tally.export AS e WHERE e.id = $2::text::uuid RETURNING identities::text";
    let written: String = admin.query_one(copy, &[&asks, &approved]).unwrap().get(0);
    let number: String = admin.query_one("SELECT $1::text::regrole::oid::text", &[&asks]).unwrap().get(0);
    assert_eq!(written, format!("{{\"login x\",\"role {number}\",\"subject s\"}}"));
}

#[test]
fn a_group_of_approvers_that_is_dropped_or_renamed_lets_nobody_of_its_name_approve() {
    let mut scene = Scene::new("export_group");
    let group = scene.database.reserve_role("second_group");
    let renamed = scene.database.reserve_role("new_name");
    let other = scene.database.role("other", &["tally_reader"]);
    let mut admin = scene.database.superuser();
    admin
        .batch_execute(&format!(
            "CREATE ROLE {group}; GRANT {group} TO {}; SELECT tally.set_step_up_policy('approve_export', false), tally.set_export_policy('raw', 1, approvers => '{group}')",
            scene.approvers[0]
        ))
        .unwrap();
    let mut client = scene.database.connect(&scene.requester);
    let mut approver = scene.database.connect(&scene.approvers[0]);
    let ask = |client: &mut Client| request(client, "SELECT n FROM shop.note", 5000).unwrap();
    let [before, another] = [ask(&mut client), ask(&mut client)];
    assert_eq!(approve(&mut approver, &another), TAKEN);
    assert_eq!(names(&lint(&mut admin), &group), [""; 0]);
    for change in [
        format!("DROP ROLE {group}; CREATE ROLE {group}"),
        format!("ALTER ROLE {group} RENAME TO {renamed}; CREATE ROLE {group}"),
    ] {
        admin.batch_execute(&format!("{change}; GRANT {group} TO {other}, {}", scene.approvers[0])).unwrap();
        let after = ask(&mut client);
        for id in [&before, &after] {
            for role in [&other, &scene.approvers[0]] {
                let mut stranger = scene.database.connect(role);
                assert_eq!(approve(&mut stranger, id), DENIED, "{change}");
                assert_eq!(
                    code(stranger.batch_execute(&format!("SELECT tally.withdraw_export('{id}')"))),
                    NO_SUCH,
                    "{change}"
                );
                assert_eq!(number(&mut stranger, "SELECT count(*) FROM tally.exports"), 0, "{change}");
            }
        }
        assert_eq!(names(&lint(&mut admin), &group), ["export_approvers_gone"], "{change}");
        admin
            .batch_execute(&format!("SELECT tally.set_export_policy('raw', 1, approvers => '{group}')"))
            .unwrap();
        assert_eq!(names(&lint(&mut admin), &group), [""; 0], "{change}");
        let meant = ask(&mut client);
        assert_eq!(approve(&mut scene.database.connect(&other), &meant), TAKEN, "{change}");
    }
}

#[test]
fn an_approver_of_one_account_judges_that_accounts_exports_alone() {
    let scene = Scene::new("export_account");
    let Scene { requester, approvers: [one, _], .. } = &scene;
    let mut admin = scene.database.superuser();
    admin
        .batch_execute(&format!(
            "SELECT tally.set_step_up_policy('approve_export', false), tally.bind_role('{one}', 'a', 'x1')"
        ))
        .unwrap();
    let mut client = scene.database.connect(requester);
    let of_tenant = request(&mut client, "SELECT n FROM shop.note", 5000).unwrap();
    let mut inside = client.transaction().unwrap();
    inside.batch_execute("SELECT tally.enter('a', 'x1')").unwrap();
    let of_account = request(&mut inside, "SELECT name FROM tally.events", 5000).unwrap();
    inside.commit().unwrap();
    let mut approver = scene.database.connect(one);
    assert_eq!(number(&mut approver, "SELECT count(*) FROM tally.exports"), 1);
    assert_eq!(approve(&mut approver, &of_tenant), NO_SUCH);
    for act in ["reject", "withdraw"] {
        let statement = format!("SELECT tally.{act}_export('{of_tenant}', 'no')");
        assert_eq!(code(approver.batch_execute(&statement)), NO_SUCH, "{act}");
    }
    assert_eq!(approve(&mut approver, &of_account), TAKEN);
    assert_eq!(code(approver.batch_execute(&format!("SELECT tally.withdraw_export('{of_account}')"))), TAKEN);
    assert_eq!(scene.state(&of_tenant), "requested");
}

#[test]
fn four_eyes_are_judged_again_when_it_runs() {
    let scene = Scene::new("export_mapped_later");
    let Scene { requester, approvers: [one, two], group, .. } = &scene;
    let mut admin = scene.database.superuser();
    admin
        .batch_execute(&format!(
            "SELECT tally.set_step_up_policy('approve_export', false), tally.set_export_policy('raw', 2, approvers => '{group}')"
        ))
        .unwrap();
    let mut client = scene.database.connect(requester);
    for (left, right) in [(requester, two), (one, two)] {
        let id = request(&mut client, "SELECT n FROM shop.note", 5000).unwrap();
        assert_eq!(approve(&mut scene.database.connect(one), &id), TAKEN);
        assert_eq!(approve(&mut scene.database.connect(two), &id), TAKEN);
        let map = |admin: &mut Client, person: &str| {
            admin.batch_execute(&format!("SELECT tally.map_person({person}, login => '{left}'), tally.map_person({person}, login => '{right}')")).unwrap();
        };
        map(&mut admin, "'bob'");
        assert!(
            !admin
                .query_one("SELECT tally_internal.start_export($1::text::uuid, 1)", &[&id])
                .unwrap()
                .get::<_, bool>(0)
        );
        assert_eq!(code(run(&mut client, &id)), NOT_SO, "{left} and {right} are one by now");
        map(&mut admin, "NULL");
        assert_eq!((scene.state(&id), code(run(&mut client, &id))), ("void".to_owned(), NOT_SO.to_owned()));
        let again = request(&mut client, "SELECT n FROM shop.note", 5000).unwrap();
        assert_eq!(approve(&mut scene.database.connect(one), &again), TAKEN);
        assert_eq!(approve(&mut scene.database.connect(two), &again), TAKEN);
        assert_eq!(run(&mut client, &again).unwrap().len(), 3000);
    }
    assert_eq!(
        number(
            &mut admin,
            "SELECT count(*) FROM tally.audit WHERE act = 'export_void' AND detail ->> 'reason' = 'the same person approved it'"
        ),
        2
    );
}

#[test]
fn any_change_of_what_was_approved_voids_it() {
    let scene = Scene::new("export_void");
    let mut admin = scene.database.superuser();
    let mut client = scene.database.connect(&scene.requester);
    let owner = &scene.owner;
    let by_owner = |statement: &str| format!("SET ROLE {owner}; {statement}; RESET ROLE");
    let by_hand = |set: &str| {
        format!(
            "ALTER TABLE tally.export DISABLE TRIGGER USER; UPDATE tally.export SET {set} WHERE state = 'approved'; ALTER TABLE tally.export ENABLE ALWAYS TRIGGER export_kept, ENABLE ALWAYS TRIGGER export_not_emptied"
        )
    };
    for (query, change, outcome) in [
        (
            "SELECT * FROM shop.few",
            by_owner("CREATE OR REPLACE VIEW shop.few AS SELECT n, body FROM shop.note WHERE n <= 11"),
            NOT_SO,
        ),
        ("SELECT * FROM shop.few", by_owner("ALTER VIEW shop.few SET (security_invoker = true)"), NOT_SO),
        ("SELECT * FROM shop.few", format!("ALTER VIEW shop.few OWNER TO {}", scene.group), NOT_SO),
        (
            "SELECT shop.part(n) AS part FROM shop.note",
            by_owner(
                "CREATE OR REPLACE FUNCTION shop.part(n int) RETURNS int LANGUAGE sql IMMUTABLE BEGIN ATOMIC SELECT shop.inner_part(n) * 3; END",
            ),
            NOT_SO,
        ),
        (
            "SELECT shop.part(n) AS part FROM shop.note",
            by_owner(
                "CREATE OR REPLACE FUNCTION shop.inner_part(n int) RETURNS int LANGUAGE sql IMMUTABLE BEGIN ATOMIC SELECT n + 2; END",
            ),
            NOT_SO,
        ),
        ("SELECT * FROM shop.note", by_owner("ALTER TABLE shop.note ADD more int"), NOT_SO),
        ("SELECT more FROM shop.note", by_owner("ALTER TABLE shop.note ALTER more TYPE bigint"), NOT_SO),
        (
            "SELECT body FROM shop.note",
            by_owner("CREATE POLICY more ON shop.note AS RESTRICTIVE USING (n > 5)"),
            NOT_SO,
        ),
        ("SELECT n FROM shop.note", by_hand("query = 'SELECT n FROM shop.note WHERE n > 5'"), NOT_SO),
        ("SELECT n FROM shop.note", by_hand("max_rows = 100000"), NOT_SO),
        ("SELECT n FROM shop.note", by_hand("params = '[\"x\"]'"), NOT_SO),
        ("SELECT n FROM shop.note", by_hand("tenant_id = 'b'"), NO_SUCH),
        ("SELECT n FROM shop.note", format!("SELECT tally.bind_role('{}', 'b')", scene.requester), NO_SUCH),
        (
            "SELECT n FROM shop.note",
            format!("SELECT tally.bind_role('{0}', 'a', 'x1')", scene.requester),
            NO_SUCH,
        ),
        // Rows, statistics, indexes and new months are no change of what was asked for.
        (
            "SELECT n FROM shop.note UNION ALL SELECT 1 FROM tally.events",
            "INSERT INTO shop.note VALUES ('a', -1); ANALYZE shop.note; CREATE INDEX ON shop.note (tenant_id, body); SELECT tally.open_months('2019-05-01')".to_owned(),
            TAKEN,
        ),
    ] {
        let id = scene.approved(&mut client, query, 50_000);
        admin.batch_execute(&change).unwrap_or_else(|error| panic!("{change}: {error:?}"));
        let mut client_then = scene.database.connect(&scene.requester);
        assert_eq!(code(run(&mut client_then, &id)), outcome, "{change}");
        if outcome == NOT_SO {
            assert_eq!(scene.state(&id), "void", "{change}");
        }
        admin.batch_execute(&format!("SELECT tally.bind_role('{}', 'a')", scene.requester)).unwrap();
    }
    // Changed back, a void one stays void.
    let id = scene.approved(&mut client, "SELECT shop.part(n) AS part FROM shop.note", 5000);
    let part = |factor: u32| {
        format!(
            "CREATE OR REPLACE FUNCTION shop.part(n int) RETURNS int LANGUAGE sql IMMUTABLE BEGIN ATOMIC SELECT shop.inner_part(n) * {factor}; END"
        )
    };
    admin.batch_execute(&by_owner(&part(7))).unwrap();
    assert_eq!(code(run(&mut client, &id)), NOT_SO);
    admin.batch_execute(&by_owner(&part(3))).unwrap();
    assert_eq!(code(run(&mut client, &id)), NOT_SO);
    // What an approver looked at may be changed back as often as one likes: it isn't what was requested.
    let few = |rows: u32| {
        by_owner(&format!(
            "CREATE OR REPLACE VIEW shop.weekly AS SELECT n, body FROM shop.note WHERE n <= {rows}; GRANT SELECT ON shop.weekly TO PUBLIC"
        ))
    };
    admin.batch_execute(&few(3000)).unwrap();
    let id = request(&mut client, "SELECT * FROM shop.weekly", 5000).unwrap();
    admin.batch_execute(&few(10)).unwrap();
    assert_eq!(approve(&mut scene.approver(0), &id), TAKEN);
    admin.batch_execute(&few(3000)).unwrap();
    assert_eq!(code(run(&mut client, &id)), NOT_SO);
    // Nor does a function change while it runs, by the session that runs it or another.
    let late = |limit: u32| {
        format!(
            "CREATE OR REPLACE FUNCTION shop.late(n int) RETURNS text LANGUAGE sql STABLE BEGIN ATOMIC SELECT max(body) FROM shop.note WHERE n < {limit}; END"
        )
    };
    client.batch_execute(&late(1)).unwrap();
    for by_other in [false, true] {
        let query = "SELECT n, CASE WHEN n > 17 THEN shop.late(n) END AS late FROM shop.note ORDER BY n";
        let id = scene.approved(&mut client, query, 5000);
        client
            .batch_execute(&format!(
                "BEGIN; DECLARE c CURSOR FOR SELECT tally.run_export('{id}'); FETCH 16 FROM c"
            ))
            .unwrap();
        let mut other = scene.database.connect(&scene.requester);
        if by_other { &mut other } else { &mut client }.batch_execute(&late(2)).unwrap();
        assert_eq!(code(client.batch_execute("FETCH ALL FROM c")), NOT_SO, "{by_other}");
        client.batch_execute("ROLLBACK").unwrap();
        assert_eq!(scene.state(&id), "failed");
    }
    // Nor while another export runs beside it, which goes by other things. With a setting, so that its body is read when it is called.
    let slow = |text: &str| {
        format!(
            "CREATE OR REPLACE FUNCTION shop.slow() RETURNS text LANGUAGE sql STABLE SET work_mem = '4MB' BEGIN ATOMIC SELECT '{text}'::text; END"
        )
    };
    client.batch_execute(&format!("{}; CREATE TYPE shop.state AS ENUM ('few', 'all')", slow("few"))).unwrap();
    for (query, change) in [
        ("SELECT n, CASE WHEN n > 17 THEN shop.slow() END AS x FROM shop.note ORDER BY n", slow("all")),
        (
            "SELECT n, CASE WHEN n > 17 THEN 'few'::shop.state::text END AS x FROM shop.note ORDER BY n",
            "ALTER TYPE shop.state RENAME VALUE 'few' TO 'most'".to_owned(),
        ),
    ] {
        let id = scene.approved(&mut client, query, 5000);
        let other = scene.approved(&mut client, "SELECT n FROM shop.note", 5000);
        client
            .batch_execute(&format!(
                "BEGIN; DECLARE c CURSOR FOR SELECT tally.run_export('{id}'); FETCH 16 FROM c"
            ))
            .unwrap();
        assert!(run(&mut client, &other).unwrap().len() > 2000);
        client.batch_execute(&change).unwrap();
        assert_eq!(code(client.batch_execute("FETCH ALL FROM c")), NOT_SO, "{change}");
        client.batch_execute("ROLLBACK").unwrap();
    }
    // Another role's rights between two fetches.
    let id = scene.approved(&mut client, "SELECT n FROM shop.note", 5000);
    client.batch_execute(&format!("BEGIN; DECLARE c CURSOR FOR SELECT tally.run_export('{id}'); FETCH 16 FROM c; SET ROLE tally_reader")).unwrap();
    assert_eq!(code(client.batch_execute("FETCH ALL FROM c")), DENIED);
    client.batch_execute("ROLLBACK").unwrap();
    // An older snapshot than what runs.
    let id = scene.approved(&mut client, "SELECT n FROM shop.note", 5000);
    client.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ").unwrap();
    assert_eq!(code(run(&mut client, &id)), "25001");
    client.batch_execute("ROLLBACK").unwrap();
    // Expired, before and after it was approved.
    for approved in [false, true] {
        let id = request(&mut client, "SELECT n FROM shop.note", 5000).unwrap();
        if approved {
            assert_eq!(approve(&mut scene.approver(0), &id), TAKEN);
        }
        admin
            .batch_execute(
                &by_hand("expires_at = now()").replace("state = 'approved'", &format!("id = '{id}'")),
            )
            .unwrap();
        assert_eq!(scene.state(&id), "expired");
        assert_eq!(approve(&mut scene.approver(1), &id), NOT_SO);
        assert_eq!(code(run(&mut client, &id)), NOT_SO);
    }
    // Nobody changes what was requested or approved.
    for statement in [
        "UPDATE tally.export SET query = query || ' '",
        "DELETE FROM tally.export",
        "TRUNCATE tally.export CASCADE",
        "UPDATE tally.export_approval SET at = now()",
        "DELETE FROM tally.export_approval",
    ] {
        assert_eq!(code(admin.batch_execute(statement)), NOT_SO, "{statement}");
        assert_eq!(code(client.batch_execute(statement)), DENIED, "{statement}");
    }
}

/// A process that hangs behind on a busy server is no longer told what was changed, only that something may have been: it looks, and
/// ends an export only where what is called was changed.
#[test]
fn who_missed_what_was_changed_looks_at_what_is_called() {
    let scene = Scene::new("export_missed");
    let mut admin = scene.database.superuser();
    admin.batch_execute("CREATE TABLE shop.another (n int)").unwrap();
    let mut client = scene.database.connect(&scene.requester);
    let pid: i32 = client.query_one("SELECT pg_backend_pid()", &[]).unwrap().get(0);
    let signal = |name: &str| succeed(Command::new("kill").args([name, &pid.to_string()]));
    for (change, outcome) in [
        ("SELECT 1", TAKEN),
        (
            "CREATE OR REPLACE FUNCTION shop.inner_part(n int) RETURNS int LANGUAGE sql IMMUTABLE BEGIN ATOMIC SELECT n + 3; END",
            NOT_SO,
        ),
    ] {
        let id = scene.approved(&mut client, "SELECT shop.part(n) AS part FROM shop.note", 5000);
        client
            .batch_execute(&format!(
                "BEGIN; DECLARE c CURSOR FOR SELECT tally.run_export('{id}'); FETCH 16 FROM c"
            ))
            .unwrap();
        signal("-STOP");
        // Some ten thousand messages, where the server keeps the last 4,096 for who is late.
        let changed = admin
            .batch_execute(
                "DO $$ BEGIN FOR n IN 1 .. 3000 LOOP
                   EXECUTE pg_catalog.format('ALTER TABLE shop.another SET (fillfactor = %s)', 50 + n % 2);
                 END LOOP; END $$",
            )
            .and_then(|()| admin.batch_execute(change));
        signal("-CONT");
        changed.unwrap();
        assert_eq!(code(client.batch_execute("FETCH ALL FROM c")), outcome, "{change}");
        client.batch_execute("ROLLBACK").unwrap();
    }
}

#[test]
fn what_cannot_be_bound_or_only_read_is_refused() {
    let mut scene = Scene::new("export_refused");
    let pool = scene.database.role("pool", &["tally_reader"]);
    let mut admin = scene.database.superuser();
    admin.batch_execute(&format!("SELECT tally.pool_role('{pool}')")).unwrap();
    let mut client = scene.database.connect(&scene.requester);
    client
        .batch_execute(
            "CREATE TEMP TABLE mine (n int);
             CREATE FUNCTION shop.deep() RETURNS text LANGUAGE sql STABLE BEGIN ATOMIC SELECT table_to_xml('shop.note', true, false, '')::text; END;
             CREATE VIEW shop.shown AS SELECT table_to_xml('shop.note', true, false, '')::text AS x;
             CREATE AGGREGATE shop.told(*) (SFUNC = current_setting, STYPE = text, INITCOND = 'application_name');
             CREATE FUNCTION shop.fits(n int) RETURNS boolean LANGUAGE plpgsql STABLE AS 'BEGIN RETURN true; END';
             CREATE DOMAIN shop.checked AS int CHECK (shop.fits(VALUE)); CREATE DOMAIN shop.again AS shop.checked;
             CREATE DOMAIN shop.positive AS int CHECK (VALUE > 0); CREATE TYPE shop.pair AS (a shop.again, b int)",
        )
        .unwrap();
    admin
        .batch_execute(
            "CREATE EXTENSION tablefunc SCHEMA shop; CREATE EXTENSION xml2 SCHEMA shop; CREATE EXTENSION pg_trgm SCHEMA shop; CREATE EXTENSION citext SCHEMA shop;
             CREATE EXTENSION pgcrypto SCHEMA shop",
        )
        .unwrap();
    for (query, outcome) in [
        ("SELECT shop.text(n) AS t FROM shop.note", "0A000"),
        ("SELECT shop.now(n) AS t FROM shop.note", "0A000"),
        ("SELECT shop.elevated(n) AS t FROM shop.note", "0A000"),
        ("SELECT n FROM pg_temp.mine", "0A000"),
        ("SELECT n FROM shop.note FOR UPDATE", "42601"),
        ("INSERT INTO shop.note VALUES ('a', 0) RETURNING n", "42601"),
        ("WITH w AS (DELETE FROM shop.note RETURNING n) SELECT n FROM w", "42601"),
        ("SELECT 1 AS a; SELECT 2 AS b", "42601"),
        ("", "42601"),
        ("SELECT n INTO shop.copied FROM shop.note", "42601"),
        ("COPY shop.note TO STDOUT", "42601"),
        ("SELECT n, n FROM shop.note", "42701"),
        ("SELECT schema_to_xml('shop', true, false, '')::text AS x", "0A000"),
        ("SELECT query_to_xml('TABLE shop.note', true, false, '')::text AS x", "0A000"),
        ("SELECT current_setting('app.query') AS x", "0A000"),
        ("SELECT shop.deep() AS x", "0A000"),
        ("SELECT * FROM shop.shown", "0A000"),
        // What a session can choose at the moment of running.
        ("SELECT random() AS x", "0A000"),
        ("SELECT count(*) AS n FROM pg_settings", "0A000"),
        ("SELECT setting FROM pg_show_all_settings() WHERE name = 'application_name'", "0A000"),
        ("SELECT application_name FROM pg_stat_activity", "0A000"),
        ("SELECT inet_client_port() AS x", "0A000"),
        ("SELECT pg_backend_pid() AS x", "0A000"),
        ("SELECT n FROM shop.note WHERE to_regclass('shop.wanted') IS NOT NULL", "0A000"),
        ("SELECT n FROM shop.note WHERE has_table_privilege('shop.note', 'UPDATE')", "0A000"),
        ("SELECT pg_listening_channels() AS x", "0A000"),
        ("SELECT 98765::oid::regtype::text AS x", "0A000"),
        ("SELECT n FROM shop.note WHERE 98765::oid::regclass::text = 'shop.note'", "0A000"),
        ("SELECT '{=r/postgres}'::aclitem[] AS x", "0A000"),
        ("SELECT age('500'::xid) AS x", "0A000"),
        ("SELECT age(now()) AS x", TAKEN),
        ("SELECT n FROM shop.note WHERE to_tsvector('english', body) @@ 'note'", "0A000"),
        ("SELECT shop.told(*) AS x", "0A000"),
        ("SELECT n::shop.checked AS x FROM shop.note", "0A000"),
        ("SELECT n::shop.again AS x FROM shop.note", "0A000"),
        ("SELECT * FROM json_populate_record(NULL::shop.pair, '{}')", "0A000"),
        ("SELECT * FROM json_to_record('{}') AS t (a shop.again)", "0A000"),
        ("SELECT n::shop.positive AS x FROM shop.note", TAKEN),
        // What other extensions run or look up.
        ("SELECT * FROM shop.crosstab('SELECT 1, 2, 3') AS t (a int, b int)", "0A000"),
        ("SELECT * FROM shop.connectby('shop.note', 'n', 'n', '1', 0) AS t (a int, b int, c int)", "0A000"),
        (
            "SELECT * FROM shop.xpath_table('n', 'body', 'shop.note', '/a', 'true') AS t (a int, b text)",
            "0A000",
        ),
        ("SELECT body OPERATOR(shop.%) 'note' AS x FROM shop.note", "0A000"),
        ("SELECT shop.similarity(body, 'note') AS x FROM shop.note", TAKEN),
        ("SELECT body::shop.citext AS x FROM shop.note", TAKEN),
        ("SELECT encode(shop.digest(body, 'sha256'), 'hex') AS x FROM shop.note", TAKEN),
        (
            "SELECT to_char(now(), 'YYYY') AS a, jsonb_agg(n) AS b, gen_random_uuid() AS c, concat(1, date_trunc('day', now())) AS d, 5::money AS e FROM shop.note",
            TAKEN,
        ),
        ("SELECT nothing FROM shop.note", "42703"),
        ("SELECT n FROM note", "42P01"),
        ("SELECT $1 AS a", "42P02"),
        ("SELECT tally.run_export(id) AS a FROM tally.exports", "0A000"),
        ("SELECT n FROM shop.note -- with a comment", TAKEN),
        ("TABLE shop.note", TAKEN),
        ("VALUES (1)", TAKEN),
        ("SELECT shop.part(n) AS part FROM shop.few", TAKEN),
        ("SELECT day, events FROM tally.usage_day", TAKEN),
    ] {
        assert_eq!(code(request(&mut client, query, 10)), outcome, "{query}");
    }
    // What is handed out is JSON, which Postgres makes of such a type by somebody's function.
    client
        .batch_execute(
            "CREATE TYPE pg_temp.e AS ENUM ('x');
             CREATE FUNCTION pg_temp.f(pg_temp.e) RETURNS json LANGUAGE sql AS $$ SELECT json_agg(v) FROM tally.events AS v $$;
             CREATE CAST (pg_temp.e AS json) WITH FUNCTION pg_temp.f(pg_temp.e)",
        )
        .unwrap();
    assert_eq!(code(request(&mut client, "SELECT 'x'::pg_temp.e AS total", 10)), "0A000");
    // Other queries are nobody's to stop by that.
    assert_eq!(code(request(&mut client, "VALUES (1)", 10)), TAKEN);
    client.batch_execute("DROP TYPE pg_temp.e CASCADE").unwrap();
    for arguments in [
        "NULL, 'x', 1",
        "'SELECT 1 AS a', NULL, 1",
        "'SELECT 1 AS a', '  ', 1",
        "'SELECT 1 AS a', 'x', 0",
        "'SELECT 1 AS a', 'x', 1, '{}'",
        "'SELECT 1 AS a', 'x', 1, '[[1]]'",
    ] {
        assert_eq!(
            code(client.batch_execute(&format!("SELECT tally.request_export({arguments})"))),
            "22023",
            "{arguments}"
        );
    }
    assert_eq!(code(request(&mut admin, "SELECT 1 AS a", 1)), DENIED, "a superuser sees everything");
    client.batch_execute("SET ROLE tally_reader").unwrap();
    assert_eq!(code(request(&mut client, "SELECT 1 AS a", 1)), DENIED);
    client.batch_execute("RESET ROLE; BEGIN ISOLATION LEVEL REPEATABLE READ").unwrap();
    assert_eq!(code(request(&mut client, "SELECT 1 AS a", 1)), "25001");
    client.batch_execute("ROLLBACK").unwrap();
    // A pool: whoever the token is made for.
    let mut pooled = scene.database.connect(&pool);
    let enter = |pooled: &mut Client, subject: Option<&str>| {
        let row = pooled.query_one("SELECT tally.challenge(), tally.token_audience()", &[]).unwrap();
        let mut claims = scene.signer.claims(row.get(1), &pool, "a", row.get(0));
        claims["sub"] = json!(subject);
        claims["amr"] = json!(["hwk"]);
        claims["auth_time"] = claims["iat"].clone();
        pooled.execute("SELECT tally.enter($1)", &[&scene.signer.sign(&claims)]).unwrap();
    };
    admin.batch_execute(&format!("GRANT {} TO {pool}", scene.group)).unwrap();
    pooled.batch_execute("BEGIN").unwrap();
    enter(&mut pooled, None);
    assert_eq!(code(request(&mut pooled, "SELECT n FROM shop.note", 5000)), DENIED);
    pooled.batch_execute("ROLLBACK; BEGIN").unwrap();
    enter(&mut pooled, Some("jane"));
    let id = request(&mut pooled, "SELECT n FROM shop.note", 5000).unwrap();
    pooled.batch_execute("COMMIT").unwrap();
    for (subject, outcome) in [(Some("jane"), DENIED), (None, DENIED), (Some("joe"), TAKEN)] {
        pooled.batch_execute("BEGIN").unwrap();
        enter(&mut pooled, subject);
        assert_eq!(approve(&mut pooled, &id), outcome, "{subject:?}");
        pooled.batch_execute("COMMIT").unwrap();
    }
    for (subject, outcome) in [(Some("joe"), NO_SUCH), (None, NO_SUCH), (Some("jane"), TAKEN)] {
        pooled.batch_execute("BEGIN").unwrap();
        enter(&mut pooled, subject);
        assert_eq!(code(run(&mut pooled, &id)), outcome, "{subject:?}");
        pooled.batch_execute("COMMIT").unwrap();
    }
}

#[test]
fn an_erasure_empties_the_exports_that_name_the_person_and_no_others() {
    let mut scene = Scene::new("export_erased");
    let analyst = scene.database.role("analyst", &["tally_reader", "tally_analyst"]);
    let mut admin = scene.database.superuser();
    admin.batch_execute(&format!("SELECT tally.bind_role('{analyst}', 'global'::tally.scope_kind)")).unwrap();
    let mut client = scene.database.connect(&scene.requester);
    let mut everywhere = scene.database.connect(&analyst);
    let asked = |client: &mut Client, query: &str, purpose: &str, params: &str| -> String {
        let statement = "SELECT tally.request_export($1, $2, 5000, $3::text::jsonb)::text";
        client.query_one(statement, &[&query, &purpose, &params]).unwrap().get(0)
    };
    let kept = [
        asked(&mut client, "SELECT n FROM shop.note WHERE n > 1 LIMIT 1", "note 1 for the board", "[]"),
        asked(&mut client, "SELECT count(*) AS n FROM shop.note WHERE body > $1", "monthly", "[\"10\"]"),
        asked(&mut client, "SELECT n FROM shop.note WHERE body <> 'janet-doe'", "a test", "[\"bluejane\"]"),
        asked(
            &mut everywhere,
            "SELECT name FROM tally.events WHERE tenant_id = 'a' AND name = 'n1'",
            "a test",
            "[]",
        ),
        // Whose it is isn't said.
        asked(&mut everywhere, "SELECT name FROM tally.events WHERE user_id = 'jane-doe'", "weekly", "[]"),
    ];
    let purpose_alone = asked(&mut client, "SELECT n FROM shop.note", "for jane-doe, as she asked", "[]");
    let mut emptied: Vec<String> = [
        ("SELECT n FROM shop.note WHERE body <> 'it''s jane-doe'", "[]"),
        ("SELECT n FROM shop.note WHERE body <> $t$jane-doe$t$", "[]"),
        ("SELECT n AS \"jane-doe\" FROM shop.note -- hers", "[]"),
        ("SELECT n FROM shop.note /* of jane-doe */", "[]"),
        ("SELECT n FROM shop.note WHERE body <> $1", "[\"id=jane-doe\"]"),
        ("SELECT n FROM shop.note WHERE body <> $1", "[4711]"),
        ("SELECT n FROM shop.note WHERE n::text = 4711::text", "[]"),
        ("SELECT n FROM shop.note WHERE body = '1'", "[]"),
    ]
    .map(|(query, params)| asked(&mut client, query, "a test", params))
    .into();
    emptied.push(asked(
        &mut everywhere,
        "SELECT name FROM tally.events WHERE tenant_id = 'a' AND user_id = 'jane-doe'",
        "a test",
        "[]",
    ));
    let before = "SELECT string_agg(to_jsonb(e)::text, E'\\n' ORDER BY id) FROM tally.export AS e WHERE id::text = ANY ($1)";
    let ids: Vec<&str> = kept.iter().map(String::as_str).collect();
    let kept_before: String = admin.query_one(before, &[&ids]).unwrap().get(0);
    assert_eq!(approve(&mut scene.approver(0), &emptied[0]), TAKEN);
    let forget = |admin: &mut Client, tenant: &str| {
        // As the library calls it.
        admin.batch_execute("BEGIN; SET ROLE tally_owner; SELECT tally.enter_global()").unwrap();
        let gone = number(
            admin,
            &format!(
                "SELECT tally_internal.unname_exports(t.id, s.ids, tally_internal.seek_exports(t.id, s.ids, '{{}}')) FROM (VALUES ('{tenant}')) AS t (id), (VALUES ('{{jane-doe,joe,4711,1,user,count}}'::text[])) AS s (ids)"
            ),
        );
        admin.batch_execute("RESET ROLE; COMMIT").unwrap();
        gone
    };
    assert_eq!(forget(&mut admin, "b"), 0, "nobody of this tenant's is named");
    assert_eq!(forget(&mut admin, "a"), emptied.len() as i64 + 1);
    assert_eq!(forget(&mut admin, "a"), 0, "once");
    assert_eq!(admin.query_one(before, &[&ids]).unwrap().get::<_, String>(0), kept_before);
    for id in &emptied {
        let row = admin
            .query_one("SELECT state, query, params::text, columns::text, reason, length(encode(query_hash, 'hex')), cardinality(identities) FROM tally.export WHERE id = $1::text::uuid", &[id])
            .unwrap();
        assert_eq!((row.get(0), row.get(1), row.get(2), row.get(3)), ("void", "", "[]", "[]"));
        assert!(row.get::<_, String>(4).contains("erased"));
        assert!(row.get::<_, i32>(5) == 64 && row.get::<_, i32>(6) >= 2, "the evidence stays");
    }
    // It can't run, and says why.
    let error = run(&mut client, &emptied[0]).unwrap_err();
    let error = error.as_db_error().unwrap();
    assert_eq!((error.code().code(), error.message().contains("void")), (NOT_SO, true));
    assert!(error.detail().unwrap().contains("erased"), "{error:?}");
    // A purpose goes alone, from the audit log, too; what was asked for stays.
    let row = admin
        .query_one(
            "SELECT state, query, purpose FROM tally.export WHERE id = $1::text::uuid",
            &[&purpose_alone],
        )
        .unwrap();
    assert_eq!((row.get(0), row.get(1), row.get(2)), ("requested", "SELECT n FROM shop.note", ""));
    assert_eq!(
        number(&mut admin, "SELECT count(*) FROM tally.audit_personal WHERE content::text LIKE '%jane-doe%'"),
        0
    );
    assert_eq!(
        number(
            &mut admin,
            "SELECT count(*) FROM tally.audit_personal WHERE content::text LIKE '%the board%'"
        ),
        1
    );
    assert_eq!(
        number(&mut admin, "SELECT count(*) FROM tally.audit WHERE act = 'export_erased'"),
        emptied.len() as i64 + 1
    );
    // By hand nobody takes words away.
    admin.batch_execute("SET ROLE tally_owner").unwrap();
    for set in
        ["query = ''", "query = '', params = '[]', columns = '[]'", "purpose = 'another'", "max_rows = 1"]
    {
        let statement = format!("UPDATE tally.export SET {set} WHERE id = '{}'", kept[0]);
        assert_eq!(code(admin.batch_execute(&statement)), NOT_SO, "{set}");
    }
}

/// What an erasure of a person would empty, a report of the person has.
#[test]
fn a_report_tells_the_exports_and_purposes_that_an_erasure_finds() {
    let mut scene = Scene::new("export_reported");
    let analyst = scene.database.role("analyst", &["tally_reader", "tally_analyst"]);
    let officer = scene.database.role("officer", &["tally_admin"]);
    let mut admin = scene.database.superuser();
    admin
        .batch_execute(&format!(
            "SELECT tally.bind_role('{analyst}', 'global'::tally.scope_kind); SELECT tally.set_step_up_policy('subject_report', false)"
        ))
        .unwrap();
    admin
        .batch_execute("SELECT tally.ingest(jsonb_build_array(jsonb_build_object('tenant_id', 'a', 'account_id', 'north', 'name', 'n', 'user_id', 'jane-doe', 'event_id', gen_random_uuid(), 'occurred_at', now())))")
        .unwrap();
    let mut client = scene.database.connect(&scene.requester);
    let mut everywhere = scene.database.connect(&analyst);
    let asked = |client: &mut Client, query: &str, purpose: &str, params: &str| -> String {
        let statement = "SELECT tally.request_export($1, $2, 5000, $3::text::jsonb)::text";
        client.query_one(statement, &[&query, &purpose, &params]).unwrap().get(0)
    };
    asked(&mut client, "SELECT n FROM shop.note WHERE n > 1", "note 1 for the board", "[]");
    asked(
        &mut everywhere,
        "SELECT name FROM tally.events WHERE user_id = 'jane-doe'",
        "whose it is, isn't said",
        "[]",
    );
    let mut named = vec![
        asked(&mut client, "SELECT n FROM shop.note WHERE n > 2", "complaint of jane-doe, ticket 7", "[]"),
        asked(&mut client, "SELECT n FROM shop.note WHERE body <> 'it''s jane-doe'", "a test", "[]"),
        asked(&mut client, "SELECT n FROM shop.note WHERE body <> $1", "a test", "[\"id=jane-doe\"]"),
    ];
    let of_all = asked(
        &mut everywhere,
        "SELECT name FROM tally.events WHERE tenant_id = 'a' AND user_id = 'jane-doe'",
        "a test",
        "[]",
    );
    named.sort();
    drop(client);
    let mut officer = scene.database.connect(&officer);
    let mut told = |scope: &str, from: &str| -> Vec<String> {
        let mut transaction = officer.transaction().unwrap();
        transaction.batch_execute(scope).unwrap();
        let query = "SELECT coalesce(r #>> '{row,id}', r #>> '{row,personal,purpose}') FROM tally.subject_report('a', 'jane-doe') AS r WHERE r ->> 'from' = $1 ORDER BY 1";
        transaction.query(query, &[&from]).unwrap().iter().map(|row| row.get(0)).collect()
    };
    assert_eq!(told("SELECT tally.enter('a')", "exports"), named);
    // Those over all tenants are seen in the global scope alone.
    named.push(of_all);
    named.sort();
    assert_eq!(told("SELECT tally.enter_global()", "exports"), named);
    assert_eq!(told("SELECT tally.enter('a')", "audit"), ["complaint of jane-doe, ticket 7"]);
}

#[test]
fn of_people_who_share_a_trusted_login_each_has_their_own_exports() {
    let mut scene = Scene::new("export_shared");
    let shared = scene.database.role("shared", &["tally_reader"]);
    let mut admin = scene.database.superuser();
    admin.batch_execute(&format!("SELECT tally.trust_role('{shared}')")).unwrap();
    let mut client = scene.database.connect(&shared);
    // A transaction in which the application has said whom it acts for, or hasn't.
    let begin = |client: &mut Client, subject: Option<&str>| {
        client.batch_execute("BEGIN; SELECT tally.enter('a')").unwrap();
        if let Some(subject) = subject {
            let row = client.query_one("SELECT tally.challenge(), tally.token_audience()", &[]).unwrap();
            let mut claims = scene.signer.claims(row.get(1), &shared, "a", row.get(0));
            claims["sub"] = json!(subject);
            claims["amr"] = json!(["hwk"]);
            claims["auth_time"] = claims["iat"].clone();
            client.execute("SELECT tally.step_up($1)", &[&scene.signer.sign(&claims)]).unwrap();
        }
    };
    let mut asked = |subject: Option<&str>| {
        begin(&mut client, subject);
        let id = request(&mut client, "SELECT n FROM shop.note", 5000).unwrap();
        client.batch_execute("COMMIT").unwrap();
        id
    };
    let (by_jane, by_nobody) = (asked(Some("jane")), asked(None));
    for id in [&by_jane, &by_nobody] {
        assert_eq!(approve(&mut scene.approver(0), id), TAKEN);
    }
    for subject in [Some("joe"), None] {
        begin(&mut client, subject);
        client.batch_execute("SAVEPOINT s").unwrap();
        assert_eq!(code(run(&mut client, &by_jane)), NO_SUCH, "{subject:?}");
        client.batch_execute("ROLLBACK TO s").unwrap();
        let withdraw = format!("SELECT tally.withdraw_export('{by_jane}')");
        assert_eq!(code(client.batch_execute(&withdraw)), NO_SUCH, "{subject:?}");
        client.batch_execute("ROLLBACK TO s").unwrap();
        assert_eq!(number(&mut client, "SELECT count(*) FROM tally.exports"), 1, "{subject:?}");
        client.batch_execute("ROLLBACK").unwrap();
    }
    // Without a scope it sees its own alone, too.
    assert_eq!(number(&mut client, "SELECT count(*) FROM tally.exports"), 1);
    begin(&mut client, Some("jane"));
    assert_eq!(number(&mut client, "SELECT count(*) FROM tally.exports"), 2);
    assert_eq!(run(&mut client, &by_jane).unwrap().len(), 3000);
    client.batch_execute("COMMIT").unwrap();
    begin(&mut client, Some("joe"));
    assert_eq!(run(&mut client, &by_nobody).unwrap().len(), 3000, "whose it is, nothing says");
    client.batch_execute("COMMIT").unwrap();
}

#[test]
fn decisions_are_made_by_what_holds_now_and_outlast_a_crash() {
    let mut scene = Scene::new("export_decided");
    let bound = scene.database.role("bound_auditor", &["tally_auditor"]);
    let analyst = scene.database.role("analyst", &["tally_reader", "tally_analyst"]);
    let mut admin = scene.database.superuser();
    admin
        .batch_execute(&format!(
            "SELECT tally.bind_role('{analyst}', 'global'::tally.scope_kind), tally.bind_role('{bound}', 'a')"
        ))
        .unwrap();
    let mut client = scene.database.connect(&scene.requester);
    let ids: Vec<String> =
        (0..3).map(|_| request(&mut client, "SELECT n FROM shop.note", 5000).unwrap()).collect();
    request(&mut scene.database.connect(&analyst), "SELECT name FROM tally.events", 5000).unwrap();
    let mut approver = scene.approver(0);
    // What an older snapshot says of persons may hold no more.
    for level in ["REPEATABLE READ", "SERIALIZABLE"] {
        for statement in [
            format!("SELECT tally.approve_export('{}')", ids[0]),
            format!("SELECT tally.reject_export('{}', 'no')", ids[0]),
        ] {
            approver.batch_execute(&format!("BEGIN ISOLATION LEVEL {level}")).unwrap();
            assert_eq!(code(approver.batch_execute(&statement)), "25001", "{statement}");
            approver.batch_execute("ROLLBACK").unwrap();
        }
    }
    // Whoever doesn't wait for the disk does for these.
    let waits = |client: &mut Client, statement: &str| -> String {
        client.batch_execute(&format!("BEGIN; SET synchronous_commit = off; {statement}")).unwrap();
        let set: String = client.query_one("SHOW synchronous_commit", &[]).unwrap().get(0);
        client.batch_execute("COMMIT; RESET synchronous_commit").unwrap();
        set
    };
    approver.batch_execute("BEGIN; SET synchronous_commit = off").unwrap();
    assert_eq!(approve(&mut approver, &ids[0]), TAKEN);
    let set: String = approver.query_one("SHOW synchronous_commit", &[]).unwrap().get(0);
    assert_eq!(set, "on");
    approver.batch_execute("COMMIT; RESET synchronous_commit").unwrap();
    assert_eq!(waits(&mut approver, &format!("SELECT tally.reject_export('{}', 'no')", ids[1])), "on");
    assert_eq!(waits(&mut client, &format!("SELECT tally.withdraw_export('{}')", ids[0])), "on");
    admin.batch_execute("SET ROLE tally_owner").unwrap();
    assert_eq!(waits(&mut admin, &format!("SELECT tally_internal.start_export('{}', 1)", ids[2])), "on");
    admin.batch_execute("RESET ROLE").unwrap();
    assert_eq!(waits(&mut client, "SELECT 1"), "off");
    // Requests for everybody's data are no tenant's: its auditor doesn't see them.
    let mut auditor = scene.database.connect(&bound);
    for from in ["tally.export", "tally.exports"] {
        assert_eq!(number(&mut auditor, &format!("SELECT count(*) FROM {from}")), 3, "{from}");
    }
    assert_eq!(number(&mut admin, "SELECT count(*) FROM tally.exports"), 4);
}

/// Whatever a later Postgres brings is refused until somebody has looked at it.
#[test]
fn of_postgres_own_functions_those_are_bound_that_were_looked_at() {
    let database = Database::new("export_functions");
    let mut admin = database.superuser();
    // Which functions take arguments that Postgres alone can give doesn't matter here.
    let unlike = "SELECT coalesce(string_agg(p.oid::regprocedure::text, ' '), '') FROM pg_proc AS p
         CROSS JOIN LATERAL tally_internal.export_basis(ARRAY[p.oid], '{}', '{}', '{}') AS b
        WHERE p.oid < 12000 AND p.provolatile <> 'i' AND p.prokind = 'f' AND p.oid <> 'age(xid)'::regprocedure
          AND (b.unbound IS NULL) IS DISTINCT FROM (p.proname = ANY (tally_internal.bound_functions()))";
    let unlike: String = admin.query_one(unlike, &[]).unwrap().get(0);
    assert_eq!(unlike, "");
    // Names of other releases among them; what Postgres says is VOLATILE has been looked at once more.
    let volatile = "SELECT string_agg(DISTINCT p.proname, ' ' ORDER BY p.proname) FROM pg_proc AS p
        WHERE p.oid < 12000 AND p.provolatile = 'v' AND p.proname = ANY (tally_internal.bound_functions()) AND p.proname NOT LIKE 'uuid%'";
    let volatile: String = admin.query_one(volatile, &[]).unwrap().get(0);
    assert_eq!(volatile, "clock_timestamp gen_random_uuid");
}

#[test]
fn policies_go_by_tenant_classification_and_size() {
    let mut scene = Scene::new("export_policy");
    let admin_role = scene.database.role("admin", &["tally_admin"]);
    let mut keeper = scene.database.connect(&admin_role);
    let mut client = scene.database.connect(&scene.requester);
    let group = &scene.group;
    for (statement, outcome) in [
        (
            format!(
                "SELECT tally.set_export_policy('aggregate', 0, 'a'), tally.set_export_policy('aggregate', 2, 'a', 1000, '{group}', '2 hours')"
            ),
            TAKEN,
        ),
        ("SELECT tally.set_export_policy('raw', 0)".to_owned(), "22023"),
        ("SELECT tally.set_export_policy('secret', 1)".to_owned(), "22023"),
        ("SELECT tally.set_export_policy('raw', 6)".to_owned(), "23514"),
        ("SELECT tally.set_export_policy('raw', 1, valid_for => '1 s')".to_owned(), "22023"),
        ("SELECT tally.set_export_policy(NULL, 1)".to_owned(), "22004"),
        ("SELECT tally.set_export_policy('personal', 3, from_rows => 5)".to_owned(), TAKEN),
        ("SELECT tally.set_export_policy('personal', NULL, from_rows => 5)".to_owned(), TAKEN),
    ] {
        assert_eq!(code(keeper.batch_execute(&statement)), outcome, "{statement}");
    }
    assert_eq!(code(client.batch_execute("SELECT tally.set_export_policy('aggregate', 0)")), DENIED);
    let mut states = |query: &str, max_rows: i64| {
        let id = request(&mut client, query, max_rows).unwrap();
        let row = client
            .query_one("SELECT state, classification, approvals, approvers::text, extract(epoch FROM expires_at - requested_at)::int FROM tally.exports WHERE id = $1::text::uuid", &[&id])
            .unwrap();
        (
            row.get::<_, String>(0),
            row.get::<_, String>(1),
            row.get::<_, i32>(2),
            row.get::<_, String>(3) == *group,
            row.get::<_, i32>(4) / 3600,
        )
    };
    let expected = |state: &str, class: &str, approvals, ours, hours| {
        (state.to_owned(), class.to_owned(), approvals, ours, hours)
    };
    let aggregate = "SELECT day, sum(events) AS n FROM tally.usage_day GROUP BY 1";
    assert_eq!(states(aggregate, 999), expected("approved", "aggregate", 0, false, 24));
    assert_eq!(states(aggregate, 1000), expected("requested", "aggregate", 2, true, 2));
    // Whatever else is read makes it raw.
    assert_eq!(
        states("SELECT day, (SELECT count(*) FROM shop.note) AS n FROM tally.usage_day", 10),
        expected("requested", "raw", 1, true, 24)
    );
    assert_eq!(
        states("SELECT event_id FROM tally.events", 10),
        expected("requested", "personal", 1, true, 24)
    );
    assert_eq!(states("SELECT n FROM shop.few", 10), expected("requested", "raw", 1, true, 24));
    // The catalogue has texts that anybody may write.
    assert_eq!(
        states("SELECT description FROM pg_description", 10),
        expected("requested", "raw", 1, true, 24)
    );
    assert_eq!(
        states("SELECT count(*) AS n FROM tally.catalog", 10),
        expected("requested", "raw", 1, true, 24)
    );
    // Approved by policy, it runs at once.
    let id = request(&mut client, aggregate, 10).unwrap();
    assert_eq!(run(&mut client, &id).unwrap().len(), 1);
    // Who sees which: the tenant its own, approvers theirs, others none.
    let all = number(&mut scene.database.superuser(), "SELECT count(*) FROM tally.exports");
    assert!(all >= 6);
    let mut admin = scene.database.superuser();
    assert_eq!(number(&mut client, "SELECT count(*) FROM tally.exports"), all);
    admin.batch_execute(&format!("SELECT tally.bind_role('{}', 'b')", scene.approvers[1])).unwrap();
    assert_eq!(
        number(&mut scene.database.connect(&scene.approvers[1]), "SELECT count(*) FROM tally.exports"),
        0
    );
    assert_eq!(
        number(&mut scene.database.connect(&scene.approvers[0]), "SELECT count(*) FROM tally.exports"),
        all - 2
    );
    admin.batch_execute(&format!("SELECT tally.bind_role('{}', 'a', 'x1')", scene.approvers[1])).unwrap();
    assert_eq!(
        number(&mut scene.database.connect(&scene.approvers[1]), "SELECT count(*) FROM tally.exports"),
        0
    );
    // An approver of another tenant's knows nothing of it.
    let id = request(&mut client, "SELECT n FROM shop.note", 5000).unwrap();
    admin.batch_execute(&format!("SELECT tally.bind_role('{}', 'b')", scene.approvers[1])).unwrap();
    assert_eq!(approve(&mut scene.approver(1), &id), NO_SUCH);
    assert_eq!(number(&mut keeper, "SELECT count(*) FROM tally.audit WHERE act LIKE 'export_policy_%'"), 7);
}

/// Rows of the long export; a million with TALLY_EXPORT_ROWS=1000000.
fn long_rows() -> i64 {
    std::env::var("TALLY_EXPORT_ROWS").ok().and_then(|rows| rows.parse().ok()).unwrap_or(90_000)
}

fn peak_kilobytes(pid: i32) -> i64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn many_rows_leave_in_bounded_memory_past_the_limit_of_rows_and_nothing_else_does() {
    let scene = Scene::new("export_long");
    let mut admin = scene.database.superuser();
    admin.batch_execute("SELECT tally.limit_tenant('a', max_rows => 100)").unwrap();
    let mut client = scene.database.connect(&scene.requester);
    let rows = long_rows();
    let query = |times: i64| {
        format!(
            "SELECT e.n, e.body, repeat('x', 400) AS more FROM shop.note AS e, generate_series(1, {times}) AS g (n)"
        )
    };
    assert_eq!(code(client.batch_execute(&query(1))), "53400");
    let pid: i32 = client.query_one("SELECT pg_backend_pid()", &[]).unwrap().get(0);
    let copy = |client: &mut Client, id: &str| {
        let mut reader =
            client.copy_out(&format!("COPY (SELECT tally.run_export('{id}')) TO STDOUT")).unwrap();
        let (mut buffer, mut lines) = (vec![0; 1 << 16], 0);
        loop {
            match reader.read(&mut buffer).unwrap() {
                0 => return lines,
                length => lines += buffer[..length].iter().filter(|byte| **byte == b'\n').count() as i64,
            }
        }
    };
    let id = scene.approved(&mut client, &query(2), 10_000_000);
    assert_eq!(copy(&mut client, &id), 6000);
    let before = peak_kilobytes(pid);
    let id = scene.approved(&mut client, &query(rows / 3000), 10_000_000);
    assert_eq!(copy(&mut client, &id), rows / 3000 * 3000);
    let grown = peak_kilobytes(pid) - before;
    println!("{rows} rows: {before} kB at most before, {grown} kB more during the export");
    // All of it would be 450 bytes a row, 40 MB. Pages of shared memory count where this session first touches them: more of them in 18.
    assert!(grown < 24_000, "{grown} kB more");
    // By cursor and by FROM, which are nothing but the export, too; not with anything beside it.
    for (statement, outcome) in [
        ("BEGIN; DECLARE c CURSOR FOR SELECT tally.run_export('$'); FETCH ALL FROM c; COMMIT", TAKEN),
        ("SELECT * FROM tally.run_export('$')", TAKEN),
        ("SELECT tally.run_export('$'), (SELECT 1 FROM shop.note LIMIT 1)", "53400"),
        ("SELECT tally.run_export('$') UNION ALL SELECT body FROM shop.note", "53400"),
        ("SELECT count(*) FROM tally.run_export('$')", TAKEN),
    ] {
        let id = scene.approved(&mut client, &query(1), 10_000);
        assert_eq!(code(client.batch_execute(&statement.replace('$', &id))), outcome, "{statement}");
        client.batch_execute("ROLLBACK").unwrap();
    }
    assert_eq!(code(client.batch_execute("SELECT n FROM shop.note")), "53400", "no more than before");
    // Where the limit is, the client is told of exports.
    let mut ids = BTreeSet::new();
    for row in client.query("SELECT id::text FROM tally.exports WHERE state = 'done'", &[]).unwrap() {
        ids.insert(row.get::<_, String>(0));
    }
    assert!(ids.contains(&id) && ids.len() >= 4, "{ids:?}");
}

/// What a request is classified as, at a moment when maintain() hasn't run since anything changed.
fn class_of(client: &mut Client, query: &str) -> String {
    let id = request(client, query, 10).unwrap();
    let class = "SELECT classification FROM tally.exports WHERE id = $1::text::uuid";
    client.query_one(class, &[&id]).unwrap().get(0)
}

#[test]
fn what_was_made_or_attached_since_the_catalogue_looked_is_personal_at_once() {
    let scene = Scene::new("export_personal");
    let mut admin = scene.database.superuser();
    admin.batch_execute("SELECT tally.set_export_policy('aggregate', 0)").unwrap();
    admin.batch_execute("CALL tally.maintain()").unwrap();
    admin
        .batch_execute(
            "SELECT tally.create_rollup('ex', '{day}', ARRAY['count(*) AS n'], ARRAY['(properties->>''card'') AS card', 'user_id']);
             SELECT tally.create_rollup('calm', '{day}', ARRAY['count(*) AS n'], '{name}')",
        )
        .unwrap();
    let mut client = scene.database.connect(&scene.requester);
    assert_eq!(class_of(&mut client, "SELECT user_id, card FROM tally.ex_day"), "personal");
    assert_eq!(class_of(&mut client, "SELECT name, n FROM tally.calm_day"), "aggregate");
    // A column that comes later.
    admin.batch_execute("CALL tally.maintain()").unwrap();
    assert_eq!(class_of(&mut client, "SELECT name, n FROM tally.calm_day"), "aggregate");
    admin.batch_execute("SELECT tally.alter_rollup('calm', add_dimensions => '{user_id}')").unwrap();
    assert_eq!(class_of(&mut client, "SELECT name, n FROM tally.calm_day"), "personal");
    // What inherits from a table that is read is read with it.
    let id = scene.approved(&mut client, "SELECT n, body FROM shop.note", 5000);
    admin
        .batch_execute(&format!(
            "SET ROLE {owner};
             CREATE TABLE shop.card (LIKE shop.note);
             RESET ROLE;
             SELECT tally.protect('shop.card'), tally.classify('shop.card.body', 'personal', 'numbers of cards');
             SET ROLE {owner};
             ALTER TABLE shop.card INHERIT shop.note",
            owner = scene.owner
        ))
        .unwrap();
    assert_eq!(code(run(&mut client, &id)), NOT_SO);
    assert_eq!(scene.state(&id), "void");
    assert_eq!(class_of(&mut client, "SELECT n, body FROM shop.note"), "personal");
}

#[test]
fn our_own_functions_that_hand_out_people_are_personal() {
    let scene = Scene::new("export_functions");
    let mut client = scene.database.connect(&scene.requester);
    for (query, class) in [
        ("SELECT * FROM tally.find_event('00000000-0000-4000-8000-000000000000')", "personal"),
        ("SELECT * FROM tally.did_at_least('run', 1, '2026-01-01', '2026-02-01')", "personal"),
        (
            "SELECT segment FROM tally.funnel('[\"run\"]'::jsonb, '1 day', '2026-01-01', '2026-02-01', breakdown => 'card')",
            "personal",
        ),
        (
            "SELECT segment FROM tally.funnel('{run}'::text[], '1 day', '2026-01-01', '2026-02-01', breakdown => 'card')",
            "personal",
        ),
        (
            "SELECT currency FROM tally.revenue('2026-01-01', '2026-02-01', currency_property => 'card', event => 'run')",
            "personal",
        ),
        ("SELECT day, dau FROM tally.active_users(daterange('2026-01-01', '2026-01-03'))", "raw"),
    ] {
        assert_eq!(class_of(&mut client, query), class, "{query}");
    }
    // Whatever has such a column is among them, and none of them is gone.
    let unnamed = "SELECT string_agg(p.proname, ',' ORDER BY p.proname) FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace
         WHERE n.nspname IN ('tally', 'tally_internal') AND p.provolatile <> 'v' AND p.prokind = 'f'
           AND EXISTS (SELECT FROM unnest(p.proargnames, p.proargmodes) AS a (name, mode)
                        WHERE a.mode IN ('o', 't') AND a.name IN ('user_id', 'unit_id', 'session_id', 'properties', 'body', 'subject', 'personal', 'token', 'tokens', 'example', 'examples'))
           AND EXISTS (SELECT FROM aclexplode(p.proacl) AS g JOIN pg_roles AS r ON r.oid = g.grantee
                        WHERE r.rolname IN ('tally_reader', 'tally_analyst', 'tally_auditor'))
           AND p.proname <> ALL (tally_internal.personal_functions())";
    let mut admin = scene.database.superuser();
    assert_eq!(admin.query_one(unnamed, &[]).unwrap().get::<_, Option<String>>(0), None);
    // Nor is any text that another one gives a property's value or a user: ids of tenants and accounts, names and states of what is declared, and
    // what the catalogue, the checks and the session have.
    let looked_at = "{account_health,accounts_health,current_account,current_scope,current_tenant,describe_metric,event_schema_breaks,first_account,
         governance_review,health,impact,last_account,library_version,lint,lint_rules,lock_holders,metric_series,metric_value,open_lineage,privacy_report,
         readable_by,rollup_status,scope_key,standard_schema,step_up_acts,token_audience,verify_audit}";
    let texts = "SELECT string_agg(DISTINCT p.proname, ',' ORDER BY p.proname) FROM pg_proc AS p
         WHERE p.pronamespace = 'tally'::regnamespace AND p.provolatile <> 'v' AND p.proname <> ALL (tally_internal.personal_functions() || $1::text::name[])
           AND (SELECT bool_or(t.typcategory IN ('S', 'A') OR t.oid IN ('json'::regtype, 'jsonb'::regtype, 'record'::regtype))
                  FROM pg_type AS t
                 WHERE t.oid IN (SELECT a.of FROM unnest(p.proargmodes, p.proallargtypes) AS a (mode, of) WHERE a.mode IN ('o', 't')
                                  UNION SELECT p.prorettype WHERE p.proargmodes IS NULL))
           AND EXISTS (SELECT FROM aclexplode(p.proacl) AS g JOIN pg_roles AS r ON r.oid = g.grantee
                        WHERE r.rolname IN ('tally_reader', 'tally_analyst', 'tally_auditor', 'tally_admin'))";
    assert_eq!(
        admin
            .query_one(texts, &[&looked_at.replace(char::is_whitespace, "")])
            .unwrap()
            .get::<_, Option<String>>(0),
        None
    );
    let gone = "SELECT string_agg(f.name, ',') FROM unnest(tally_internal.personal_functions()) AS f (name)
                 WHERE NOT EXISTS (SELECT FROM pg_proc AS p WHERE p.proname = f.name AND p.pronamespace IN ('tally'::regnamespace, 'tally_internal'::regnamespace))";
    assert_eq!(admin.query_one(gone, &[]).unwrap().get::<_, Option<String>>(0), None);
}

#[test]
fn a_word_that_never_was_a_user_empties_nothing_and_nobody_empties_their_own() {
    let mut scene = Scene::new("export_words");
    let keeper = scene.database.role("keeper", &["tally_admin"]);
    let one = scene.database.role("both", &["tally_admin", "tally_reader"]);
    let second = scene.database.role("second", &["tally_reader"]);
    let renamed = scene.database.reserve_role("renamed");
    let mut superuser = scene.database.superuser();
    superuser
        .batch_execute(&format!(
            "SELECT tally.set_step_up_policy('erase_subject', false), tally.bind_role('{one}', 'a'), tally.bind_role('{second}', 'a')"
        ))
        .unwrap();
    let user = |n: i32, user: &str, time: &str| {
        json!([{"tenant_id": "a", "account_id": "x", "name": "run", "user_id": user, "occurred_at": time,
            "event_id": format!("00000000-0000-4000-9000-{n:012}")}])
        .to_string()
    };
    for (n, id) in [(1, "jane-doe"), (2, "karl-orff"), (3, "late-lilly")] {
        ingest(&mut superuser, &user(n, id, "2026-01-05T00:00:00Z")).unwrap();
    }
    ingest(&mut superuser, &user(4, "rosa-park", "never")).unwrap();
    assert_eq!(number(&mut superuser, "SELECT count(*) FROM tally.quarantine"), 1);
    let asked = |client: &mut Client, query: &str, purpose: &str| -> String {
        client
            .query_one("SELECT tally.request_export($1, $2, 5000)::text", &[&query, &purpose])
            .unwrap()
            .get(0)
    };
    let mut client = scene.database.connect(&scene.requester);
    let by_word =
        asked(&mut client, "SELECT n FROM shop.note WHERE body <> 'quarterly'", "quarterly numbers");
    assert_eq!(approve(&mut scene.approver(0), &by_word), TAKEN);
    let purposes = ["of jane-doe", "of rosa-park", "of karl-orff"]
        .map(|purpose| asked(&mut client, "SELECT n FROM shop.note", purpose));
    let mut keeper = scene.database.connect(&keeper);
    let erase = |client: &mut Client, subject: &str| {
        code(client.batch_execute(&format!("SELECT tally.erase_subject('a', '{subject}', 'a ticket')")))
    };
    let purpose_of = |client: &mut Client, id: &str| -> String {
        client.query_one("SELECT purpose FROM tally.export WHERE id = $1::text::uuid", &[&id]).unwrap().get(0)
    };
    let in_log = |client: &mut Client, word: &str| {
        number(client, &format!("SELECT count(*) FROM tally.audit_personal WHERE content LIKE '%{word}%'"))
    };
    assert_eq!(erase(&mut keeper, "quarterly"), TAKEN);
    assert_eq!(
        (scene.state(&by_word), purpose_of(&mut superuser, &by_word)),
        ("approved".into(), "quarterly numbers".into())
    );
    assert_eq!(in_log(&mut superuser, "quarterly"), 1);
    // Who was one is found: by events, or by the quarantine alone.
    for (subject, id) in [("jane-doe", &purposes[0]), ("rosa-park", &purposes[1])] {
        assert_eq!(erase(&mut keeper, subject), TAKEN);
        assert_eq!(
            (purpose_of(&mut superuser, id), in_log(&mut superuser, subject)),
            (String::new(), 0),
            "{subject}"
        );
    }
    // What one has requested oneself, another has to empty.
    let mut both = scene.database.connect(&one);
    let own = asked(&mut both, "SELECT n FROM shop.note WHERE body <> 'karl-orff'", "a look");
    assert_eq!(erase(&mut both, "karl-orff"), DENIED);
    assert_eq!(
        code(both.batch_execute("SELECT tally.erase_subjects('a', '{karl-orff}', 'a ticket')")),
        DENIED
    );
    assert_eq!(scene.state(&own), "requested");
    assert_eq!(erase(&mut keeper, "karl-orff"), TAKEN);
    assert_eq!((scene.state(&own), purpose_of(&mut superuser, &purposes[2])), ("void".into(), String::new()));
    // Nor what one requests when one has asked for the erasure.
    both.batch_execute("SELECT tally.erase_subjects('a', '{late-lilly}', 'a ticket')").unwrap();
    let late = asked(&mut both, "SELECT n FROM shop.note", "of late-lilly");
    let others = asked(&mut client, "SELECT n FROM shop.note", "of late-lilly, too");
    // By another login of the same person either, or under another name.
    superuser
        .batch_execute(&format!(
            "SELECT tally.map_person('bo', login => '{one}'), tally.map_person('bo', login => '{second}')"
        ))
        .unwrap();
    let by_second = asked(
        &mut scene.database.connect(&second),
        "SELECT n FROM shop.note",
        "of late-lilly, by a second login",
    );
    superuser
        .batch_execute(&format!(
            "ALTER ROLE {one} RENAME TO {renamed}; SELECT tally.bind_role('{renamed}', 'a')"
        ))
        .unwrap();
    let by_new_name = asked(
        &mut scene.database.connect(&renamed),
        "SELECT n FROM shop.note",
        "of late-lilly, by a new name",
    );
    superuser.batch_execute("CALL tally.maintain()").unwrap();
    assert_eq!(number(&mut superuser, "SELECT count(*) FROM tally.erasure WHERE finished_at IS NULL"), 0);
    assert_eq!(
        (purpose_of(&mut superuser, &late), purpose_of(&mut superuser, &others)),
        ("of late-lilly".into(), String::new())
    );
    for kept in [by_second, by_new_name] {
        assert_ne!(purpose_of(&mut superuser, &kept), "");
    }
}
