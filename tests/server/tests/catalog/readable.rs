//! The catalogue says readable exactly where a real SELECT works: for roles of every kind, every table and view, and columns.

use postgres::Client;
use std::collections::HashMap;
use tally_server_tests::{Database, TokenSigner, fold_all, ingest};

/// Events of two tenants with everything that a rollup keeps of one, and one that is rejected.
fn events(from: u64) -> String {
    let event = |n: u64| {
        format!(
            r#"{{"tenant_id":"{}","account_id":"x","name":"n","user_id":"u{n}","session_id":"s{n}","event_id":"00000000-0000-4000-8000-{n:012x}","occurred_at":"2026-11-01T00:00:00Z","properties":{{"value":1,"amount":2,"currency":"EUR"}}}}"#,
            if n.is_multiple_of(2) { "acme" } else { "globex" }
        )
    };
    let mut all: Vec<String> = (from..from + 6).map(event).collect();
    all.push(r#"{"tenant_id":"acme","account_id":"x","occurred_at":"never"}"#.to_owned());
    format!("[{}]", all.join(","))
}

/// Whether a statement works; only a refusal counts as a no.
fn works(client: &mut Client, statement: &str) -> bool {
    match client.simple_query(statement) {
        Ok(_) => true,
        Err(error) if error.code().is_some_and(|code| code.code() == "42501") => false,
        Err(error) => panic!("{statement}: {error}"),
    }
}

/// Begins a transaction as the catalogue says that the role comes into a scope.
fn begin(client: &mut Client, scope: &str, signer: &TokenSigner) {
    match scope {
        "enter" => client.batch_execute("BEGIN; SELECT tally.enter('acme')").unwrap(),
        "token" => {
            client.batch_execute("BEGIN").unwrap();
            let row = client
                .query_one("SELECT tally.challenge(), tally.token_audience(), session_user::text", &[])
                .unwrap();
            let token = signer.sign(&signer.claims(row.get(1), row.get(2), "acme", row.get(0)));
            client.execute("SELECT tally.enter($1)", &[&token]).unwrap();
        }
        _ => {}
    }
}

/// An asset of a role: its name, its kind, whether it is readable, in which scope.
type Answer = (String, String, bool, String);

fn answers(auditor: &mut Client, role: &str) -> Vec<Answer> {
    let query =
        "SELECT asset, kind, readable, scope FROM tally.readable_by($1::text::regrole) ORDER BY asset";
    let rows = auditor.query(query, &[&role]).unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1), row.get(2), row.get(3))).collect()
}

#[test]
fn readable_is_what_a_select_reads() {
    let mut database = Database::new("catalog_readable");
    let group = database.reserve_role("team");
    let other_group = database.reserve_role("other");
    let roles: HashMap<&str, String> = [
        ("nobody", &[][..]),
        ("unbound", &["tally_reader"]),
        ("tenant", &["tally_reader", "tally_writer"]),
        ("account", &["tally_reader"]),
        ("trusted", &["tally_reader"]),
        ("pool", &["tally_reader", "tally_writer"]),
        ("analyst", &["tally_analyst"]),
        ("global", &["tally_analyst"]),
        ("admin", &["tally_admin"]),
        ("auditor", &["tally_auditor"]),
        ("bound_auditor", &["tally_auditor", "tally_reader"]),
        ("writer", &["tally_writer"]),
        ("columns", &["tally_reader"]),
        ("granted", &[]),
        ("owner", &["tally_reader"]),
        ("member", &[]),
        ("torn", &["tally_reader"]),
        ("renamed", &["tally_reader"]),
        ("bypass", &["tally_reader"]),
        ("outsider", &[]),
    ]
    .into_iter()
    .map(|(topic, groups)| (topic, database.role(topic, groups)))
    .collect();
    let of = |topic: &str| roles[topic].as_str();
    let mut superuser = database.superuser();
    let signer = TokenSigner::new("k", 9);
    signer.register(&mut superuser).unwrap();
    let renamed_before = format!("was_{}", of("renamed"));
    let statements = [
        format!("CREATE ROLE {group} NOLOGIN; CREATE ROLE {other_group} NOLOGIN; GRANT tally_reader TO {group}"),
        format!("GRANT {group} TO {}; GRANT {group}, {other_group} TO {}", of("member"), of("torn")),
        format!("SELECT tally.bind_role('{group}', 'acme'), tally.bind_role('{other_group}', 'globex')"),
        format!("SELECT tally.bind_role('{}', 'acme'), tally.bind_role('{}', 'acme', 'x')", of("tenant"), of("account")),
        format!("SELECT tally.trust_role('{}'), tally.pool_role('{}')", of("trusted"), of("pool")),
        format!("SELECT tally.bind_role('{}', scope => 'global')", of("global")),
        format!("SELECT tally.bind_role(r::regrole, 'acme') FROM unnest(ARRAY['{}', '{}', '{}', '{}']) AS r",
            of("columns"), of("granted"), of("owner"), of("bound_auditor")),
        format!("ALTER ROLE {0} RENAME TO {renamed_before}", of("renamed")),
        format!("SELECT tally.bind_role('{renamed_before}', 'acme')"),
        format!("ALTER ROLE {renamed_before} RENAME TO {}", of("renamed")),
        format!("ALTER ROLE {} BYPASSRLS", of("bypass")),
        // Grants by column, and without the group roles' functions.
        format!("REVOKE tally_reader FROM {}", of("columns")),
        format!("GRANT EXECUTE ON FUNCTION tally.current_tenant(), tally.current_account(), tally.scope_key(), tally.scope_is_global(), tally.in_scope(text, text, text) TO {}", of("columns")),
        format!("GRANT SELECT (tenant_id, name) ON tally.events TO {0}; GRANT SELECT (day, events) ON tally.usage_day TO {0}; GRANT SELECT ON tally.rollup TO {0}", of("columns")),
        format!("GRANT SELECT ON tally.events, tally.usage_day, tally.rollup TO {}", of("granted")),
        // Objects of somebody's own.
        format!("CREATE SCHEMA app AUTHORIZATION {0}; CREATE SCHEMA hidden AUTHORIZATION {0}; GRANT USAGE ON SCHEMA app TO PUBLIC", of("owner")),
        format!("SET ROLE {}", of("owner")),
        "CREATE TABLE app.orders (tenant_id text NOT NULL, customer text, price int8)".to_owned(),
        "INSERT INTO app.orders VALUES ('acme', 'c', 1), ('globex', 'd', 2)".to_owned(),
        "SELECT tally.protect('app.orders')".to_owned(),
        "CREATE TABLE app.plain (a int8, b int8); INSERT INTO app.plain VALUES (1, 2)".to_owned(),
        "CREATE TABLE hidden.plain (a int8); INSERT INTO hidden.plain VALUES (1)".to_owned(),
        "CREATE FUNCTION app.secret(int8) RETURNS int8 LANGUAGE sql IMMUTABLE AS 'SELECT $1'; REVOKE ALL ON FUNCTION app.secret(int8) FROM PUBLIC".to_owned(),
        "CREATE VIEW app.as_owner AS SELECT tenant_id, customer FROM app.orders".to_owned(),
        "CREATE VIEW app.as_asker WITH (security_invoker = true) AS SELECT tenant_id, customer FROM app.orders".to_owned(),
        "CREATE VIEW app.over_asker AS SELECT customer FROM app.as_asker".to_owned(),
        "CREATE VIEW app.usage AS SELECT day, events, users FROM tally.usage_day".to_owned(),
        "CREATE VIEW app.usage_asker WITH (security_invoker = true) AS SELECT day, events FROM tally.usage_day".to_owned(),
        "CREATE VIEW app.calls AS SELECT app.secret(a) AS a FROM app.plain".to_owned(),
        "CREATE VIEW app.scope AS SELECT tally.current_tenant() AS tenant".to_owned(),
        "CREATE VIEW app.sketch AS SELECT users FROM tally.usage_day_state".to_owned(),
        "CREATE MATERIALIZED VIEW app.kept AS SELECT a, b FROM app.plain".to_owned(),
        "CREATE TABLE app.own_policy (a int8); ALTER TABLE app.own_policy ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON app.own_policy USING (app.secret(a) > 0); INSERT INTO app.own_policy VALUES (1)".to_owned(),
        "CREATE TABLE app.parts (a int8) PARTITION BY LIST (a); CREATE TABLE app.part PARTITION OF app.parts DEFAULT; INSERT INTO app.parts VALUES (1)".to_owned(),
        "GRANT SELECT ON app.as_owner, app.as_asker, app.over_asker, app.usage, app.usage_asker, app.calls, app.scope, app.sketch, app.kept, app.own_policy, app.part, hidden.plain TO PUBLIC".to_owned(),
        format!("GRANT SELECT (a) ON app.plain TO {0}; GRANT SELECT ON app.orders TO {0}, {1}", of("tenant"), of("analyst")),
        format!("GRANT SELECT (customer) ON app.orders TO {}", of("outsider")),
        "CREATE TABLE app.taken (a int8); INSERT INTO app.taken VALUES (1); CREATE VIEW app.over_taken AS SELECT a FROM app.taken; GRANT SELECT ON app.over_taken TO PUBLIC".to_owned(),
        "RESET ROLE".to_owned(),
        "ALTER TABLE app.taken OWNER TO CURRENT_USER".to_owned(),
        "SELECT tally.set_retention(NULL, '10 years'), tally.set_audit_policy('raw')".to_owned(),
    ];
    for statement in statements {
        superuser.batch_execute(&statement).unwrap_or_else(|error| panic!("{statement}: {error}"));
    }
    assert_eq!(ingest(&mut superuser, &events(0)).unwrap().accepted, 6);
    for rollup in ["usage", "user_activity", "session", "payment"] {
        fold_all(&mut superuser, rollup);
    }
    assert_eq!(ingest(&mut superuser, &events(10)).unwrap().accepted, 6);
    let owned = "SELECT count(*) FROM app.usage";
    assert!(database.connect(of("owner")).query_one(owned, &[]).is_ok());

    let mut auditor = database.connect(of("auditor"));
    let (mut asked, mut readable, mut wrong) = (0, 0, Vec::new());
    let mut topics: Vec<&&str> = roles.keys().collect();
    topics.sort();
    for (place, topic) in topics.into_iter().enumerate() {
        let mut client = database.connect(of(topic));
        for (number, (asset, kind, told, scope)) in answers(&mut auditor, of(topic)).into_iter().enumerate() {
            // All of the columns where grants tell them apart, else some of them, other ones for each role.
            let is_special = ["app.", "hidden.", "tally.events.", "tally.usage_day.", "tally.usage_day_"]
                .iter()
                .any(|known| asset.starts_with(known));
            if kind == "column" && !is_special && (number + place) % 20 != 0 {
                continue;
            }
            let statement = match kind.as_str() {
                "column" => {
                    let (relation, column) = asset.rsplit_once('.').unwrap();
                    format!("SELECT {column} FROM {relation}")
                }
                _ => format!("SELECT * FROM {asset}"),
            };
            begin(&mut client, &scope, &signer);
            let found = works(&mut client, &statement);
            let is_entered = matches!(scope.as_str(), "enter" | "token");
            if is_entered {
                client.batch_execute("ROLLBACK").unwrap();
            }
            if found != told {
                wrong.push(format!("{topic}: {asset} told {told}, found {found}, scope {scope}"));
            }
            // Without a scope that has to be entered.
            if is_entered && told && works(&mut client, &statement) {
                wrong.push(format!("{topic}: {asset} is read without entering a scope ({scope})"));
            }
            asked += 1;
            readable += usize::from(told);
        }
    }
    assert!(wrong.is_empty(), "{} of {asked}:\n{}", wrong.len(), wrong.join("\n"));
    assert!(asked > 2000 && readable > 500 && asked - readable > 500, "{asked} asked, {readable} readable");
    // The catalogue names the same readers.
    let readers: Vec<String> = auditor
        .query_one("SELECT readers::text[] FROM tally.catalog WHERE asset = 'app.orders.price'", &[])
        .unwrap()
        .get(0);
    for topic in ["tenant", "analyst", "owner"] {
        assert!(readers.iter().any(|reader| reader == of(topic)), "{topic}: {readers:?}");
    }
    for topic in ["nobody", "outsider", "account"] {
        assert!(!readers.iter().any(|reader| reader == of(topic)), "{topic}: {readers:?}");
    }
    // It is nobody's who is confined to a tenant.
    for topic in ["tenant", "bound_auditor", "pool"] {
        let mut client = database.connect(of(topic));
        for query in [
            "SELECT * FROM tally.catalog",
            "SELECT * FROM tally.lineage",
            "SELECT * FROM tally.impact('tally.events')",
        ] {
            assert!(!works(&mut client, query), "{topic}: {query}");
        }
    }
}
