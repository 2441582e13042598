//! `tally.protect` isolates a table of the user's own, and says why where it can't.

use postgres::error::SqlState;
use postgres::{Client, SimpleQueryMessage};
use tally_server_tests::{Database, code, major};

/// A database whose role `owner` may make tables, and readers bound to tenant `a` and to its account `a1`.
struct Shop {
    database: Database,
    owner: String,
    tenant: String,
    account: String,
}

fn shop(topic: &str) -> Shop {
    let mut database = Database::new(topic);
    let owner = database.role("owner", &["tally_writer"]);
    let tenant = database.role("tenant", &["tally_reader"]);
    let account = database.role("account", &["tally_reader"]);
    database
        .superuser()
        .batch_execute(&format!(
            "CREATE SCHEMA shop AUTHORIZATION {owner}; GRANT USAGE ON SCHEMA shop TO PUBLIC;
             SELECT tally.bind_role('{tenant}', 'a'), tally.bind_role('{account}', 'a', 'a1');"
        ))
        .unwrap();
    Shop { database, owner, tenant, account }
}

fn lines(client: &mut Client, query: &str) -> Vec<String> {
    let messages = client.simple_query(query).unwrap_or_else(|problem| panic!("{query}: {problem}"));
    let row = |message: &SimpleQueryMessage| match message {
        SimpleQueryMessage::Row(row) => Some(row.get(0).unwrap_or_default().to_owned()),
        _ => None,
    };
    messages.iter().filter_map(row).collect()
}

const FORMS: [&str; 5] = [
    "CREATE TABLE shop.t (tenant text COLLATE \"C\" NOT NULL, account text COLLATE \"C\" NOT NULL, v int)",
    "CREATE TABLE shop.t (tenant text NOT NULL, account text NOT NULL, v int)",
    "CREATE TABLE shop.t (v int, tenant varchar(40) NOT NULL, account varchar NOT NULL)",
    "CREATE TABLE shop.t (tenant text COLLATE \"en-x-icu\" NOT NULL, account text COLLATE \"en-x-icu\" NOT NULL, v int)",
    "CREATE TABLE shop.t (tenant text NOT NULL, account text NOT NULL, v int) PARTITION BY LIST (v);
     CREATE TABLE shop.t1 PARTITION OF shop.t FOR VALUES IN (1) PARTITION BY LIST (tenant);
     CREATE TABLE shop.t1a PARTITION OF shop.t1 DEFAULT; CREATE TABLE shop.t2 PARTITION OF shop.t DEFAULT",
];

#[test]
fn a_protected_table_shows_what_is_in_scope() {
    let shop = shop("protect");
    let mut owner = shop.database.connect(&shop.owner);
    for form in FORMS {
        owner.batch_execute(form).unwrap();
        owner
            .batch_execute(
                "INSERT INTO shop.t (tenant, account, v) VALUES
                   ('a', 'a1', 1), ('a', 'z\u{ffff}', 2), ('a', '~', 1), ('b', 'a1', 1), ('b', 'b1', 2);
                 GRANT ALL ON ALL TABLES IN SCHEMA shop TO PUBLIC",
            )
            .unwrap();
        let dry = lines(&mut owner, "SELECT tally.protect('shop.t', 'tenant', 'account', dry_run => true)");
        assert!(dry.len() >= 6, "{form}: {dry:#?}");
        assert_eq!(lines(&mut owner, "SELECT count(*) FROM shop.t"), ["5"], "a dry run changes nothing");
        let done = lines(&mut owner, "SELECT tally.protect('shop.t', 'tenant', 'account')");
        assert_eq!(done, dry);
        assert!(done.iter().any(|ddl| ddl.starts_with("CREATE INDEX")), "{done:#?}");
        let again = lines(&mut owner, "SELECT tally.protect('shop.t', 'tenant', 'account')");
        assert!(again.is_empty(), "{form}: {again:#?}");
        let recorded = lines(
            &mut shop.database.superuser(),
            "SELECT concat_ws(' ', table_name, tenant_column, account_column) FROM tally.protected_table",
        );
        assert_eq!(recorded, ["shop.t tenant account"]);

        let refused = owner.batch_execute("SELECT * FROM shop.t").expect_err("the owner is bound, too");
        assert_eq!(refused.code(), Some(&SqlState::INSUFFICIENT_PRIVILEGE));
        let tables = lines(
            &mut owner,
            "SELECT oid::regclass FROM pg_class WHERE relnamespace = 'shop'::regnamespace AND relkind IN ('r', 'p')",
        );
        for (role, rows) in [(&shop.tenant, "3"), (&shop.account, "1")] {
            let mut client = shop.database.connect(role);
            assert_eq!(lines(&mut client, "SELECT count(*) FROM shop.t"), [rows], "{role}: {form}");
            for table in &tables {
                let foreign = format!("SELECT count(*) FROM {table} WHERE tenant <> 'a'");
                assert_eq!(lines(&mut client, &foreign), ["0"], "{role}: {table}");
                for statement in ["TRUNCATE", "CREATE TRIGGER x AFTER INSERT ON"] {
                    let rest = if statement == "TRUNCATE" {
                        ""
                    } else {
                        "EXECUTE FUNCTION suppress_redundant_updates_trigger()"
                    };
                    let refused = client.batch_execute(&format!("{statement} {table} {rest}")).unwrap_err();
                    assert_eq!(
                        refused.code(),
                        Some(&SqlState::INSUFFICIENT_PRIVILEGE),
                        "{role}: {statement}"
                    );
                }
            }
            for statement in [
                "INSERT INTO shop.t (tenant, account, v) VALUES ('b', 'b1', 1)",
                "UPDATE shop.t SET tenant = 'b'",
                "INSERT INTO shop.t (tenant, account, v) VALUES ('A', 'a1', 1)",
            ] {
                let refused = client.batch_execute(statement).expect_err(statement);
                assert_eq!(refused.code(), Some(&SqlState::INSUFFICIENT_PRIVILEGE), "{role}: {statement}");
            }
            client.batch_execute("DELETE FROM shop.t WHERE tenant = 'b'").unwrap();
        }
        assert_eq!(lines(&mut shop.database.superuser(), "SELECT count(*) FROM shop.t"), ["5"]);

        let undone = lines(&mut owner, "SELECT tally.unprotect('shop.t')");
        assert!(undone.len() >= 4, "{undone:#?}");
        assert!(lines(&mut owner, "SELECT tally.unprotect('shop.t')").is_empty());
        assert_eq!(lines(&mut owner, "SELECT count(*) FROM shop.t"), ["5"]);
        assert!(
            lines(&mut shop.database.superuser(), "SELECT table_name FROM tally.protected_table").is_empty()
        );
        owner.batch_execute("DROP TABLE shop.t").unwrap();
    }
}

#[test]
fn a_changed_policy_is_put_back_and_other_policies_are_left_alone() {
    let shop = shop("repair");
    let mut owner = shop.database.connect(&shop.owner);
    owner
        .batch_execute(
            "CREATE TABLE shop.t (tenant_id text PRIMARY KEY); INSERT INTO shop.t VALUES ('a'), ('b');
             GRANT SELECT ON shop.t TO PUBLIC; SELECT tally.protect('shop.t');
             ALTER POLICY tally_guard ON shop.t USING (true); ALTER POLICY tally_tenant ON shop.t USING (true);
             CREATE POLICY mine ON shop.t USING (true)",
        )
        .unwrap();
    let mut client = shop.database.connect(&shop.tenant);
    assert_eq!(lines(&mut client, "SELECT count(*) FROM shop.t"), ["2"], "the fault is one");
    let put_back = lines(&mut owner, "SELECT tally.protect('shop.t')");
    assert_eq!(put_back.len(), 4, "{put_back:#?}");
    assert_eq!(
        lines(&mut client, "SELECT count(*) FROM shop.t"),
        ["1"],
        "the guard holds beside a wide policy"
    );
    owner.batch_execute("SELECT tally.unprotect('shop.t')").unwrap();
    let forced = "SELECT relrowsecurity FROM pg_class WHERE oid = 'shop.t'::regclass";
    assert_eq!(lines(&mut owner, forced), ["t"], "the other policy still counts");
}

#[test]
fn what_cannot_be_isolated_is_refused() {
    let shop = shop("refuse");
    let mut owner = shop.database.connect(&shop.owner);
    let mut admin = shop.database.superuser();
    admin
        .batch_execute(
            "CREATE TABLE public.super (tenant_id text NOT NULL);
             CREATE COLLATION public.blind (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
             CREATE FOREIGN DATA WRAPPER nothing; CREATE SERVER nowhere FOREIGN DATA WRAPPER nothing",
        )
        .unwrap();
    admin.batch_execute(&format!("GRANT USAGE ON FOREIGN SERVER nowhere TO {}", shop.owner)).unwrap();
    owner
        .batch_execute(
            "CREATE TABLE shop.good (tenant_id text NOT NULL, account text);
             CREATE VIEW shop.v AS SELECT * FROM shop.good;
             CREATE TYPE shop.colour AS ENUM ('red'); CREATE DOMAIN shop.fixed AS char(8);
             CREATE TABLE shop.number (tenant_id numeric NOT NULL); CREATE TABLE shop.float (tenant_id float8 NOT NULL);
             CREATE TABLE shop.padded (tenant_id char(8) NOT NULL); CREATE TABLE shop.domain (tenant_id shop.fixed NOT NULL);
             CREATE TABLE shop.name (tenant_id name NOT NULL); CREATE TABLE shop.json (tenant_id jsonb NOT NULL);
             CREATE TABLE shop.enum (tenant_id shop.colour NOT NULL); CREATE TABLE shop.list (tenant_id text[] NOT NULL);
             CREATE TABLE shop.account (tenant_id text NOT NULL, account bytea NOT NULL);
             CREATE TABLE shop.tribe (tenant_id text NOT NULL); CREATE TABLE shop.stranger () INHERITS (shop.tribe);
             CREATE TABLE shop.nullable (tenant_id text);
             CREATE TABLE shop.blind (tenant_id text COLLATE public.blind NOT NULL);
             CREATE TABLE shop.far (tenant_id text NOT NULL) PARTITION BY LIST (tenant_id);
             CREATE FOREIGN TABLE shop.far1 PARTITION OF shop.far DEFAULT SERVER nowhere",
        )
        .unwrap();
    // From 18 on, a child can't take back what it has inherited, but a parent can keep it for itself.
    owner
        .batch_execute(if major() < 18 {
            "CREATE TABLE shop.clan (tenant_id text NOT NULL); CREATE TABLE shop.kin () INHERITS (shop.clan);
             ALTER TABLE shop.kin ALTER tenant_id DROP NOT NULL"
        } else {
            "CREATE TABLE shop.clan (tenant_id text CONSTRAINT here NOT NULL NO INHERIT); CREATE TABLE shop.kin () INHERITS (shop.clan)"
        })
        .unwrap();
    admin.batch_execute("ALTER TABLE shop.stranger OWNER TO postgres").unwrap();
    for (arguments, code) in [
        ("NULL", "22004"),
        ("'shop.v'", "42T01"),
        ("'tally.events'", "42T02"),
        ("'pg_class'", "42T02"),
        ("'public.super'", "42T03"),
        ("'shop.far'", "42T04"),
        ("'shop.good', 'tenant'", "42T05"),
        ("'shop.good', 'tenant_id', 'ctid'", "42T05"),
        ("'shop.number'", "42T06"),
        ("'shop.float'", "42T06"),
        ("'shop.padded'", "42T06"),
        ("'shop.domain'", "42T06"),
        ("'shop.name'", "42T06"),
        ("'shop.json'", "42T06"),
        ("'shop.enum'", "42T06"),
        ("'shop.list'", "42T06"),
        ("'shop.account', 'tenant_id', 'account'", "42T06"),
        ("'shop.clan'", "42T08"),
        ("'shop.tribe'", "42T03"),
        ("'shop.blind'", "42T07"),
        ("'shop.nullable'", "42T08"),
        ("'shop.good', 'tenant_id', 'account'", "42T08"),
    ] {
        let call = format!("SELECT tally.protect({arguments})");
        let refused = owner.batch_execute(&call).expect_err(&call);
        let error = refused.as_db_error().unwrap();
        assert_eq!(error.code().code(), code, "{call}: {error}");
        assert!(error.hint().is_some() || code == "22004", "{call}: no hint");
    }
    // Somebody else's table, or with a child that is somebody else's: refused before anything is promised.
    admin.batch_execute(&format!("ALTER TABLE shop.stranger OWNER TO {}", shop.account)).unwrap();
    for (role, table) in [(&shop.tenant, "shop.good"), (&shop.owner, "shop.tribe")] {
        for dry_run in ["true", "false"] {
            let call = format!("SELECT tally.protect('{table}', dry_run => {dry_run})");
            let refused = shop.database.connect(role).batch_execute(&call).unwrap_err();
            assert_eq!(refused.code(), Some(&SqlState::INSUFFICIENT_PRIVILEGE), "{call}");
            assert!(refused.as_db_error().unwrap().hint().is_some(), "{call}");
        }
    }
    assert!(lines(&mut admin, "SELECT table_name FROM tally.protected_table").is_empty());
    // A record can't be made or removed against the catalog.
    owner.batch_execute("SELECT tally.protect('shop.good')").unwrap();
    let mut client = shop.database.connect(&shop.tenant);
    client.batch_execute("SELECT tally_internal.record_protection('shop.good', NULL, NULL), tally_internal.record_protection('shop.number', 'tenant_id', NULL)").unwrap();
    assert_eq!(lines(&mut admin, "SELECT table_name FROM tally.protected_table"), ["shop.good"]);
}

/// A table's columns; ids of a tenant with its two accounts, and of another tenant; spellings that are none of them.
const TYPED: &[(&str, [&str; 4], &[&str])] = &[
    (
        "tenant uuid NOT NULL, account text NOT NULL",
        ["018f6b1e-7c00-7000-8000-0000000000aa", "x", "y", "018f6b1e-7c00-7000-8000-0000000000ab"],
        &[
            "018F6B1E-7C00-7000-8000-0000000000AA",
            "{018f6b1e-7c00-7000-8000-0000000000aa}",
            "018f6b1e7c007000800000000000000aa",
            "018f6b1e-7c00-7000-8000-0000000000a",
            "no uuid",
        ],
    ),
    (
        "tenant int2 NOT NULL, account int2 NOT NULL",
        ["7", "1", "-2", "8"],
        &["07", "+7", " 7", "7.0", "70000", "7 or 8"],
    ),
    (
        "tenant int NOT NULL, account varchar NOT NULL",
        ["-7", "x", "y", "8"],
        &["-07", "- 7", "−7", "4294967289"],
    ),
    (
        "tenant bigint NOT NULL, account uuid NOT NULL",
        [
            "9223372036854775807",
            "018f6b1e-7c00-7000-8000-0000000000aa",
            "018f6b1e-7c00-7000-8000-0000000000ab",
            "0",
        ],
        &["9223372036854775808", "-0", "00", "1e3", "99999999999999999999999999"],
    ),
    ("tenant text NOT NULL, account int NOT NULL", ["a", "1", "2", "b"], &["A", "a2"]),
    ("tenant varchar(9) NOT NULL, account shop.small NOT NULL", ["a", "1", "2", "b"], &["A", "a2"]),
    (
        "tenant shop.code NOT NULL, account shop.code NOT NULL",
        ["a", "x", "y", "b"],
        &["A", "a2", "too long for the domain, which a cast would run"],
    ),
    ("tenant shop.short NOT NULL, account shop.code NOT NULL", ["a", "x", "y", "b"], &["A", "a2"]),
    (
        "tenant shop.key NOT NULL, account shop.small NOT NULL",
        ["018f6b1e-7c00-7000-8000-0000000000aa", "1", "2", "018f6b1e-7c00-7000-8000-0000000000ab"],
        &["x"],
    ),
    ("tenant shop.small NOT NULL, account shop.code NOT NULL", ["7", "x", "y", "8"], &["07", "x"]),
    ("tenant shop.smaller NOT NULL, account text NOT NULL", ["7", "x", "y", "8"], &["07", "999"]),
];

#[test]
fn ids_may_be_uuids_integers_and_domains() {
    let mut shop = shop("typed");
    let trusted = shop.database.role("trusted", &["tally_reader"]);
    let stray = shop.database.role("stray", &["tally_reader"]);
    let mut admin = shop.database.superuser();
    admin.batch_execute(&format!("SELECT tally.trust_role('{trusted}')")).unwrap();
    let mut owner = shop.database.connect(&shop.owner);
    owner
        .batch_execute(
            "CREATE FUNCTION shop.noted(x anyelement) RETURNS boolean LANGUAGE plpgsql AS
               $$ BEGIN RAISE NOTICE 'a domain was asked about %', x; RETURN length(x::text) < 40; END $$;
             CREATE DOMAIN shop.code AS text COLLATE \"C\" CHECK (shop.noted(VALUE)); CREATE DOMAIN shop.short AS varchar(9);
             CREATE DOMAIN shop.key AS uuid; CREATE DOMAIN shop.small AS int4 CHECK (VALUE < 100); CREATE DOMAIN shop.smaller AS shop.small",
        )
        .unwrap();
    for (columns, [tenant, one, two, other], strays) in TYPED {
        owner
            .batch_execute(&format!(
                "CREATE TABLE shop.t ({columns}, v int);
                 INSERT INTO shop.t VALUES ('{tenant}', '{one}', 1), ('{tenant}', '{two}', 2), ('{other}', '{one}', 3);
                 INSERT INTO shop.t SELECT '{other}', '{one}', 3 FROM generate_series(1, 2000); GRANT ALL ON shop.t TO PUBLIC; ANALYZE shop.t"
            ))
            .unwrap();
        let dry = lines(&mut owner, "SELECT tally.protect('shop.t', 'tenant', 'account', dry_run => true)");
        let done = lines(&mut owner, "SELECT tally.protect('shop.t', 'tenant', 'account')");
        assert_eq!(done, dry, "{columns}");
        assert!(
            lines(&mut owner, "SELECT tally.protect('shop.t', 'tenant', 'account')").is_empty(),
            "{columns}: again"
        );
        admin
            .batch_execute(&format!(
                "SELECT tally.bind_role('{}', '{tenant}'), tally.bind_role('{}', '{tenant}', '{one}')",
                shop.tenant, shop.account
            ))
            .unwrap();
        assert_eq!(
            lines(&mut admin, "SELECT name || detail FROM tally.lint() WHERE metadata->>'schema' = 'shop'"),
            [""; 0],
            "{columns}"
        );
        for (role, rows) in [(&shop.tenant, vec!["1", "2"]), (&shop.account, vec!["1"])] {
            let mut client = shop.database.connect(role);
            assert_eq!(lines(&mut client, "SELECT v FROM shop.t ORDER BY v"), rows, "{columns}");
            assert_eq!(
                lines(&mut client, &format!("SELECT v FROM shop.t WHERE tenant = '{other}'")),
                [""; 0],
                "{columns}"
            );
            client
                .batch_execute(&format!(
                    "DELETE FROM shop.t WHERE tenant = '{other}'; UPDATE shop.t SET v = v"
                ))
                .unwrap();
            for statement in [
                format!("INSERT INTO shop.t VALUES ('{other}', '{one}', 4)"),
                format!("UPDATE shop.t SET tenant = '{other}'"),
            ] {
                let refused = client.batch_execute(&statement).expect_err(&statement);
                assert_eq!(refused.code(), Some(&SqlState::INSUFFICIENT_PRIVILEGE), "{columns}: {statement}");
            }
            client
                .batch_execute(&format!(
                    "BEGIN; INSERT INTO shop.t VALUES ('{tenant}', '{one}', 5); ROLLBACK"
                ))
                .unwrap();
        }
        let mut account = shop.database.connect(&shop.account);
        let refused = account
            .batch_execute(&format!("INSERT INTO shop.t VALUES ('{tenant}', '{two}', 4)"))
            .unwrap_err();
        assert_eq!(refused.code(), Some(&SqlState::INSUFFICIENT_PRIVILEGE), "{columns}: another account");
        assert_eq!(lines(&mut admin, "SELECT count(*) FROM shop.t"), ["2003"], "{columns}");
        // Another spelling is another tenant; what is no value of the type is one without rows.
        for id in *strays {
            let mut client = shop.database.connect(&trusted);
            let mut transaction = client.transaction().unwrap();
            transaction.execute("SELECT tally.enter($1)", &[id]).unwrap();
            let seen: i64 = transaction.query_one("SELECT count(*) FROM shop.t", &[]).unwrap().get(0);
            assert_eq!(seen, 0, "{columns}: {id}");
        }
        admin.batch_execute(&format!("SELECT tally.bind_role('{stray}', '{}', '{one}')", strays[0])).unwrap();
        assert_eq!(lines(&mut shop.database.connect(&stray), "SELECT v FROM shop.t"), [""; 0], "{columns}");
        // The tenant is a condition of the index.
        let mut client = shop.database.connect(&trusted);
        client
            .batch_execute(&format!("BEGIN; SET LOCAL enable_seqscan = off; SELECT tally.enter('{tenant}')"))
            .unwrap();
        let plan = lines(&mut client, "EXPLAIN (COSTS off) SELECT v FROM shop.t").join("\n");
        assert!(
            plan.contains("Index Cond: ((tenant") || plan.contains("Index Cond: (tenant"),
            "{columns}: {plan}"
        );
        client.batch_execute("ROLLBACK").unwrap();
        admin
            .batch_execute(&format!("SELECT tally.assert_isolated('shop.t', '{tenant}', '{other}')"))
            .unwrap();
        lines(&mut owner, "SELECT tally.unprotect('shop.t')");
        owner.batch_execute("DROP TABLE shop.t").unwrap();
    }
}

/// As docs/SECURITY.md says: Postgres checks the rows that are there by a query of the owner's, whom row security binds.
#[test]
fn a_foreign_key_is_added_in_the_global_scope() {
    let mut database = Database::new("added_key");
    let owner = database.role("owner", &["tally_reader"]);
    let mut superuser = database.superuser();
    superuser
        .batch_execute(&format!(
            "SELECT tally.trust_role('{owner}'); CREATE SCHEMA shop AUTHORIZATION {owner}; SET ROLE {owner};
             CREATE TABLE shop.orders (tenant_id text NOT NULL, id int, PRIMARY KEY (tenant_id, id));
             CREATE TABLE shop.item (tenant_id text NOT NULL, id int);
             INSERT INTO shop.orders VALUES ('a', 1); INSERT INTO shop.item VALUES ('a', 1), ('b', 2);
             SELECT tally.protect('shop.orders'), tally.protect('shop.item'); RESET ROLE"
        ))
        .unwrap();
    let add = "ALTER TABLE shop.item ADD FOREIGN KEY (tenant_id, id) REFERENCES shop.orders";
    let mut client = database.connect(&owner);
    assert_eq!(code(client.batch_execute(add)), "42501");
    // That tenant's rows alone are checked.
    client.batch_execute(&format!("BEGIN; SELECT tally.enter('a'); {add}; ROLLBACK")).unwrap();
    superuser.batch_execute(&format!("GRANT tally_analyst TO {owner}")).unwrap();
    let global = format!("BEGIN; SELECT tally.enter_global(); {add}; COMMIT");
    assert_eq!(code(client.batch_execute(&global)), "23503", "a row of b refers to nothing");
    client.batch_execute("ROLLBACK").unwrap();
    superuser.batch_execute("DELETE FROM shop.item WHERE tenant_id = 'b'").unwrap();
    client.batch_execute(&global).unwrap();
}
