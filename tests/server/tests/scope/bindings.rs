//! A binding belongs to one role, and to those that inherit from it: it neither outlives the role nor passes to another one,
//! whatever becomes of names and numbers.

use postgres::Client;
use postgres::error::SqlState;
use serde_json::json;
use tally_server_tests::{Database, PrivateServer, TokenSigner, ingest, major, of_this_major, succeed};

const TENANTS: &str =
    "SELECT coalesce(string_agg(DISTINCT tenant_id, ',' ORDER BY tenant_id), '-') FROM tally.events";

/// An event each of tenants a and b, of accounts x and y.
fn two_tenants(client: &mut Client) {
    let events: Vec<_> = [("a", "x"), ("a", "y"), ("b", "x")]
        .iter()
        .enumerate()
        .map(|(number, (tenant, account))| {
            json!({"tenant_id": tenant, "account_id": account, "name": "run",
                "occurred_at": "2026-10-05T00:00:00Z", "event_id": format!("00000000-0000-4000-8000-{number:012}")})
        })
        .collect();
    assert_eq!(ingest(client, &json!(events).to_string()).unwrap().accepted, 3);
}

fn code(error: &postgres::Error) -> &str {
    error.code().map_or("no code", SqlState::code)
}

/// The application's key.
fn signer() -> TokenSigner {
    TokenSigner::new("key", 3)
}

/// What a session may do, in words: the tenants that it reads at once or the SQLSTATE with which that is refused, and how it may
/// enter tenant b.
fn standing(client: &mut Client) -> String {
    let at_once = match client.query_one(TENANTS, &[]) {
        Ok(row) => format!("reads {}", row.get::<_, String>(0)),
        Err(error) => code(&error).to_owned(),
    };
    let mut transaction = client.transaction().unwrap();
    let entered = transaction.execute("SELECT tally.enter('b')", &[]);
    transaction.rollback().unwrap();
    let mut transaction = client.transaction().unwrap();
    let entered = match (entered, signer().enter(&mut transaction, "b")) {
        (Ok(_), _) => "enters".to_owned(),
        (Err(_), Ok(())) => "enters by token".to_owned(),
        (Err(error), Err(_)) => code(&error).to_owned(),
    };
    format!("{at_once}, {entered}")
}

const NOTHING: &str = "42501, 42501";

/// Ways to bind a role, and what the role can do then.
const BINDINGS: [(&str, &str); 4] = [
    ("SELECT tally.trust_role('ROLE')", "42501, enters"),
    ("SELECT tally.bind_role('ROLE', 'a')", "reads a, 42501"),
    ("SELECT tally.pool_role('ROLE')", "42501, enters by token"),
    ("GRANT tally_analyst TO ROLE; SELECT tally.bind_role('ROLE', scope => 'global')", "reads a,b, enters"),
];

/// A binding that was made for a role which is gone, or has another name, is nobody's: neither the role's that has its number
/// now, nor the role's that has its name, nor after dump and restore.
#[test]
fn a_binding_never_outlives_or_changes_its_role() {
    let server = PrivateServer::create("bindings", "");
    let mut postgres = server.connect("postgres", "postgres");
    for (turn, (bind, bound)) in BINDINGS.into_iter().enumerate() {
        let shop = format!("shop{turn}");
        postgres.batch_execute(&format!("CREATE DATABASE {shop}")).unwrap();
        let mut admin = server.connect("postgres", &shop);
        admin.batch_execute("CREATE EXTENSION pg_tally; SELECT tally.open_months('-infinity'); SET allow_system_table_mods = on").unwrap();
        two_tenants(&mut admin);
        signer().register(&mut admin).unwrap();
        let role = |name: &str| format!("{name}_{turn}");
        let create = |admin: &mut Client, name: &str| {
            let name = role(name);
            admin.batch_execute(&format!("CREATE ROLE {name} LOGIN; GRANT tally_reader TO {name}")).unwrap();
        };
        let number = |admin: &mut Client, name: &str| -> u32 {
            admin.query_one("SELECT oid FROM pg_authid WHERE rolname = $1", &[&role(name)]).unwrap().get(0)
        };
        let seen = |database: &str, name: &str| standing(&mut server.connect(&role(name), database));
        let bind_as = |name: &str| bind.replace("ROLE", &role(name));

        for name in ["kept", "gone", "moved", "named"] {
            create(&mut admin, name);
            admin.batch_execute(&bind_as(name)).unwrap();
            assert_eq!(seen(&shop, name), bound, "{bind}");
        }
        // Dropped, with all that it owns; another role gets its number, and another one its name.
        let old = number(&mut admin, "gone");
        let gone = role("gone");
        admin.batch_execute(&format!("DROP OWNED BY {gone}; DROP ROLE {gone}; CREATE ROLE {gone} LOGIN; GRANT tally_reader TO {gone}")).unwrap();
        assert_eq!(seen(&shop, "gone"), NOTHING, "{bind}: a namesake");
        let heir = role("heir");
        admin
            .batch_execute(&format!(
                "CREATE ROLE {heir} LOGIN; UPDATE pg_authid SET oid = {old} WHERE rolname = '{heir}'"
            ))
            .unwrap();
        let mut another = server.connect("postgres", &shop);
        another.batch_execute(&format!("GRANT tally_reader TO {heir}")).unwrap();
        assert_eq!(number(&mut another, "heir"), old);
        assert_eq!(seen(&shop, "heir"), NOTHING, "{bind}: the number's new owner");
        // Renamed, while a session is open; then another role takes the name.
        let mut open = server.connect(&role("moved"), &shop);
        assert_eq!(standing(&mut open), bound);
        let (moved, later) = (role("moved"), role("later"));
        admin.batch_execute(&format!("ALTER ROLE {moved} RENAME TO {later}")).unwrap();
        assert_eq!(standing(&mut open), NOTHING, "{bind}: renamed meanwhile");
        create(&mut admin, "moved");
        assert_eq!(seen(&shop, "moved"), NOTHING, "{bind}: the name's new owner");
        assert_eq!(seen(&shop, "later"), NOTHING, "{bind}: renamed");
        // Two roles that swap their names.
        create(&mut admin, "other");
        admin.batch_execute(&format!("SELECT tally.bind_role('{}', 'b')", role("other"))).unwrap();
        let (named, other) = (role("named"), role("other"));
        admin
            .batch_execute(&format!(
                "ALTER ROLE {named} RENAME TO swap; ALTER ROLE {other} RENAME TO {named}; ALTER ROLE swap RENAME TO {other}"
            ))
            .unwrap();
        assert_eq!(
            (seen(&shop, "named"), seen(&shop, "other")),
            (NOTHING.into(), NOTHING.into()),
            "{bind}: swapped"
        );
        let found: i64 = admin
            .query_one("SELECT count(*) FROM tally.lint() WHERE name = 'binding_of_renamed_role'", &[])
            .unwrap()
            .get(0);
        // The heir counts as well.
        assert_eq!(found, 4, "lint tells of them");

        // A dump has the bindings that count, and is restored whole.
        let restored = format!("restored{turn}");
        postgres.batch_execute(&format!("CREATE DATABASE {restored}")).unwrap();
        let dump = server.data().join(format!("{shop}.dump"));
        let dump = dump.to_str().unwrap();
        succeed(server.client("pg_dump").args(["-Fc", "-f", dump, &shop]));
        // The role that has the number is bound already where the dump comes to.
        succeed(server.client("pg_restore").args(["--exit-on-error", "-d", &restored, dump]));
        assert_eq!(seen(&restored, "kept"), bound, "{bind}: restored");
        for name in ["gone", "heir", "moved", "later", "named", "other"] {
            // Without a binding, what were the renamed ones are analysts like others.
            let is_analyst = bind.contains("analyst") && ["later", "other"].contains(&name);
            let alone = if is_analyst { "42501, enters" } else { NOTHING };
            assert_eq!(seen(&restored, name), alone, "{bind}: {name}, restored");
        }
        let mut after = server.connect("postgres", &restored);
        let rows =
            "SELECT count(*), count(*) FILTER (WHERE role_name::text = bound_as) FROM tally.role_binding";
        let row = after.query_one(rows, &[]).unwrap();
        assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1)), (1, 1));

        // Bound again, each is what it was bound as.
        for name in ["heir", "later", "named"] {
            admin.batch_execute(&bind_as(name)).unwrap();
            assert_eq!(seen(&shop, name), bound, "{bind}: {name} bound again");
        }
    }
}

/// A table that was dropped isn't dumped as a number, which would be another table's.
#[test]
fn a_protected_table_that_was_dropped_is_not_dumped() {
    let server = PrivateServer::create("protected", "");
    for name in ["shop", "restored"] {
        server.connect("postgres", "postgres").batch_execute(&format!("CREATE DATABASE {name}")).unwrap();
    }
    let mut admin = server.connect("postgres", "shop");
    admin
        .batch_execute(
            "CREATE EXTENSION pg_tally; SELECT tally.open_months('-infinity'); CREATE ROLE keeper; CREATE SCHEMA shop AUTHORIZATION keeper; SET ROLE keeper;
             CREATE TABLE shop.old (tenant_id text NOT NULL); CREATE TABLE shop.orders (tenant_id text NOT NULL); RESET ROLE;
             SELECT tally.protect('shop.old'), tally.protect('shop.orders');
             DROP TABLE shop.old; ALTER TABLE shop.orders RENAME TO purchases",
        )
        .unwrap();
    let listed = "SELECT table_name::text FROM tally.protected_table ORDER BY 1";
    assert_eq!(admin.query(listed, &[]).unwrap().len(), 2, "a number and a name");
    let dump = server.data().join("shop.dump");
    succeed(server.client("pg_dump").args(["-Fc", "-f", dump.to_str().unwrap(), "shop"]));
    succeed(server.client("pg_restore").args(["--exit-on-error", "-d", "restored", dump.to_str().unwrap()]));
    let rows = server.connect("postgres", "restored").query(listed, &[]).unwrap();
    let names: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    assert_eq!(names, ["shop.purchases"]);
}

/// A number of the catalogue means something else where a dump is restored, unless it has a name there: each table that keeps one
/// says which of its rows are dumped.
#[test]
fn every_table_that_keeps_a_number_of_the_catalogue_says_what_is_dumped() {
    let database = Database::new("numbers");
    let rows = database
        .superuser()
        .query(
            "SELECT DISTINCT c.relname::text, coalesce(x.condition, '') <> ''
               FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = a.attrelid JOIN pg_type AS t ON t.oid = a.atttypid
               JOIN pg_extension AS e ON e.extname = 'pg_tally'
               LEFT JOIN LATERAL unnest(e.extconfig, e.extcondition) AS x (id, condition) ON x.id = c.oid
              WHERE c.relnamespace = 'tally'::regnamespace AND c.relkind IN ('r', 'p') AND a.attnum > 0 AND NOT a.attisdropped
                AND t.typname ~ '^_?(oid|reg.*)$' ORDER BY 1",
            &[],
        )
        .unwrap();
    let tables: Vec<(String, bool)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    // Of an export, an approval, an erasure and a policy nothing may be missing: a role that is gone by then is dumped as its number.
    let known = [
        ("asset", true),
        ("erasure", false),
        ("export", false),
        ("export_approval", false),
        ("export_policy", false),
        ("person_identity", true),
        ("protected_table", true),
        ("role_binding", true),
    ];
    assert_eq!(tables, known.map(|(table, has_condition)| (table.to_owned(), has_condition)));
}

/// Members of a bound group are bound as it is, as long as nothing says otherwise.
#[test]
fn members_inherit_the_binding_of_their_group() {
    let mut database = Database::new("inherited");
    let mut admin = database.superuser();
    two_tenants(&mut admin);
    signer().register(&mut admin).unwrap();
    let group = |database: &mut Database, topic: &str| {
        let role = database.role(topic, &["tally_reader", "tally_writer"]);
        database.superuser().batch_execute(&format!("ALTER ROLE {role} NOLOGIN")).unwrap();
        role
    };
    let (clients, others, trusted, pools) = (
        group(&mut database, "clients"),
        group(&mut database, "others"),
        group(&mut database, "trusted"),
        group(&mut database, "pools"),
    );
    let middle = group(&mut database, "middle");
    admin
        .batch_execute(&format!(
            "SELECT tally.bind_role('{clients}', 'a', 'x'), tally.bind_role('{others}', 'b'), tally.trust_role('{trusted}'),
                    tally.pool_role('{pools}'); GRANT {clients} TO {middle}"
        ))
        .unwrap();
    let login = database.role("login", &[]);
    let mut client = database.connect(&login);
    // Each step changes what the open session may do with its next statement.
    // Since PostgreSQL 16 it is the membership that is inherited or not.
    let [without, with] = if major() < 16 {
        ["NOINHERIT", "INHERIT"].map(|inherit| format!("ALTER ROLE {login} {inherit}"))
    } else {
        ["FALSE", "TRUE"].map(|inherit| format!("GRANT {others} TO {login} WITH INHERIT {inherit}"))
    };
    for (change, expected) in [
        (format!("GRANT tally_reader TO {login}"), NOTHING),
        (format!("GRANT {clients} TO {login}"), "reads a, 42501"),
        (format!("REVOKE {clients} FROM {login}"), NOTHING),
        (format!("GRANT {middle} TO {login}"), "reads a, 42501"),
        // The same twice is no contradiction; another one is.
        (format!("GRANT {clients} TO {login}"), "reads a, 42501"),
        (format!("GRANT {others} TO {login}"), NOTHING),
        (format!("REVOKE {clients}, {middle} FROM {login}"), "reads b, enters"),
        (format!("GRANT {trusted} TO {login}"), NOTHING),
        (format!("REVOKE {others} FROM {login}"), "42501, enters"),
        (format!("GRANT {pools} TO {login}"), NOTHING),
        (format!("REVOKE {trusted} FROM {login}"), "42501, enters by token"),
        // Its own binding counts before those of its groups.
        (format!("SELECT tally.bind_role('{login}', 'a')"), "reads a, 42501"),
        (format!("GRANT {trusted}, {others} TO {login}"), "reads a, 42501"),
        (format!("SELECT tally.unbind_role('{login}')"), NOTHING),
        (format!("REVOKE {pools}, {trusted} FROM {login}"), "reads b, enters"),
        // Without the group's privileges there is no binding of it.
        (without, NOTHING),
        (with, "reads b, enters"),
        (format!("ALTER ROLE {others} RENAME TO {others}_x"), NOTHING),
        (format!("ALTER ROLE {others}_x RENAME TO {others}"), "reads b, enters"),
        (format!("SELECT tally.unbind_role('{others}')"), NOTHING),
    ] {
        admin.batch_execute(&change).unwrap();
        assert_eq!(standing(&mut client), expected, "after {change}");
    }
    // A group is nothing that SET ROLE changes: the role that logged in counts.
    admin.batch_execute(&format!("SELECT tally.bind_role('{others}', 'b'); GRANT {clients} TO {login}; REVOKE {others} FROM {login}")).unwrap();
    client.batch_execute(&format!("SET ROLE {clients}")).unwrap();
    assert_eq!(client.query_one(TENANTS, &[]).unwrap().get::<_, String>(0), "a");
    client.batch_execute("RESET ROLE").unwrap();
    let accounts = "SELECT string_agg(account_id, ',') FROM tally.events";
    assert_eq!(client.query_one(accounts, &[]).unwrap().get::<_, String>(0), "x", "the group's account");
    // It writes where its group does.
    let event = |tenant: &str, account: &str, number: u32| {
        json!({"tenant_id": tenant, "account_id": account, "name": "run", "occurred_at": "2026-10-05T00:00:00Z",
            "event_id": format!("00000000-0000-4000-9000-{number:012}")})
    };
    let batch = json!([event("a", "x", 1), event("a", "y", 2), event("b", "x", 3)]).to_string();
    let summary = ingest(&mut client, &batch).unwrap();
    assert_eq!((summary.accepted, summary.rejected), (1, 2));
    // In one transaction the scope that was entered stays, whatever becomes of the membership.
    let mut transaction = client.transaction().unwrap();
    transaction.execute("SELECT tally.enter('a', 'x')", &[]).unwrap();
    admin.batch_execute(&format!("GRANT {others} TO {login}; REVOKE {clients} FROM {login}")).unwrap();
    assert_eq!(transaction.query_one(TENANTS, &[]).unwrap().get::<_, String>(0), "a");
    transaction.commit().unwrap();
    assert_eq!(standing(&mut client), "reads b, enters");
    // A member of a pool's group enters by token, and is kept from what a pool is kept from.
    admin.batch_execute(&format!("REVOKE {others} FROM {login}; GRANT {pools} TO {login}")).unwrap();
    let mut transaction = client.transaction().unwrap();
    signer().enter(&mut transaction, "b").unwrap();
    assert_eq!(transaction.query_one(TENANTS, &[]).unwrap().get::<_, String>(0), "b");
    transaction.commit().unwrap();
    assert_eq!(code(&client.batch_execute("LISTEN spy").unwrap_err()), "42501");
    // Parallel workers know it, too.
    admin.batch_execute(&format!("REVOKE {pools} FROM {login}; GRANT {others} TO {login}")).unwrap();
    client
        .batch_execute(
            &of_this_major("SET force_parallel_mode = on; SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0"),
        )
        .unwrap();
    assert_eq!(client.query_one(TENANTS, &[]).unwrap().get::<_, String>(0), "b");
}

#[test]
fn what_cannot_be_bound_is_refused() {
    let mut database = Database::new("bindable");
    let plain = database.role("plain", &["tally_reader"]);
    let mut admin = database.superuser();
    for (call, expected) in [
        ("SELECT tally.trust_role('tally_reader')", "22023"),
        ("SELECT tally.bind_role('tally_writer', 'a')", "22023"),
        ("SELECT tally.pool_role('tally_owner')", "22023"),
        ("SELECT tally.trust_role('pg_read_all_data')", "22023"),
        ("SELECT tally.bind_role('postgres', 'a')", "22023"),
        ("SELECT tally.bind_role('ROLE', NULL::text)", "22004"),
        ("SELECT tally.bind_role('ROLE', scope => 'global')", "22023"),
        ("SELECT tally.bind_role('ROLE', scope => 'tenant')", "22P02"),
        ("SELECT tally.bind_role('ROLE', 'a', scope => 'global')", "42883"),
        ("SELECT tally.bind_role('ROLE', NULL, 'x')", "22004"),
        ("SELECT tally.bind_role(4000000000::oid::regrole, 'a')", "42704"),
    ] {
        let refused = admin.batch_execute(&call.replace("ROLE", &plain)).expect_err(call);
        assert_eq!(code(&refused), expected, "{call}: {refused}");
    }
}

/// A tool that sends single statements reads every tenant, and writes for none.
#[test]
fn a_global_login_reads_every_tenant_in_single_statements() {
    let mut database = Database::new("global");
    let tool = database.role("tool", &["tally_analyst", "tally_writer"]);
    let mut admin = database.superuser();
    two_tenants(&mut admin);
    let mut client = database.connect(&tool);
    assert_eq!(standing(&mut client), "42501, enters");
    admin.batch_execute(&format!("SELECT tally.bind_role('{tool}', scope => 'global')")).unwrap();
    assert_eq!(standing(&mut client), "reads a,b, enters");
    for query in [
        "SELECT sum(events)::int8 FROM tally.usage_day",
        "SELECT count(*) FROM tally.events",
        "SELECT sum(accepted)::int8 FROM tally.ingest_batch",
    ] {
        assert_eq!(client.query_one(query, &[]).unwrap().get::<_, i64>(0), 3, "{query}");
    }
    assert!(client.query_one("SELECT tally.scope_is_global()", &[]).unwrap().get::<_, bool>(0));
    // Reading every tenant is no right to write for any; entering one, as an analyst may, is.
    let event = |number: u32| {
        json!({"tenant_id": "a", "account_id": "x", "name": "run", "occurred_at": "2026-10-05T00:00:00Z",
            "event_id": format!("00000000-0000-4000-a000-{number:012}")})
        .to_string()
    };
    assert_eq!(
        code(&client.query("SELECT * FROM tally.ingest($1::text)", &[&event(1)]).unwrap_err()),
        "42501"
    );
    let mut transaction = client.transaction().unwrap();
    transaction.execute("SELECT tally.enter_global()", &[]).unwrap();
    assert_eq!(
        code(&transaction.query("SELECT * FROM tally.ingest($1::text)", &[&event(1)]).unwrap_err()),
        "42501"
    );
    transaction.rollback().unwrap();
    let copied = client.batch_execute(&format!("INSERT INTO tally.inbox VALUES ('{}')", event(1)));
    assert_eq!(code(&copied.unwrap_err()), "42501");
    assert_eq!(admin.query_one(TENANTS, &[]).unwrap().get::<_, String>(0), "a,b");
    let count: i64 = admin.query_one("SELECT count(*) FROM tally.events", &[]).unwrap().get(0);
    assert_eq!(count, 3);
    // lint names it for what it may do besides.
    let findings = |admin: &mut Client| -> Vec<String> {
        let rows = admin
            .query("SELECT name FROM tally.lint() WHERE name LIKE 'global_role%' ORDER BY 1", &[])
            .unwrap();
        rows.iter().map(|row| row.get(0)).collect()
    };
    assert_eq!(findings(&mut admin), ["global_role_writes"]);
    admin.batch_execute(&format!("REVOKE tally_writer FROM {tool}")).unwrap();
    assert!(findings(&mut admin).is_empty(), "a binding that was meant is no finding");
    // No analyst any more: an error, not an empty answer.
    admin.batch_execute(&format!("REVOKE tally_analyst FROM {tool}; GRANT tally_reader TO {tool}")).unwrap();
    assert_eq!(standing(&mut client), NOTHING);
    assert_eq!(findings(&mut admin), ["global_role_not_analyst"]);
    // Bound to a tenant it is that tenant's alone.
    admin
        .batch_execute(&format!("GRANT tally_analyst TO {tool}; SELECT tally.bind_role('{tool}', 'a')"))
        .unwrap();
    assert_eq!(standing(&mut client), "reads a, 42501");
}
