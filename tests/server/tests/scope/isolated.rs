//! What `tally.assert_isolated` shows: a table passes where its policies refuse, and never where something else does.

use postgres::Client;
use tally_server_tests::Database;

/// Policies that keep reads apart and nothing else: each writes other tenants' rows.
const LEAKS: [(&str, &str); 4] = [
    ("insert", "CREATE POLICY i ON shop.t FOR INSERT WITH CHECK (true)"),
    (
        "update",
        "CREATE POLICY u ON shop.t FOR UPDATE USING (tenant = tally.current_tenant()) WITH CHECK (true)",
    ),
    (
        "take",
        "CREATE POLICY u ON shop.t FOR UPDATE USING (true) WITH CHECK (tenant = tally.current_tenant())",
    ),
    ("delete", "CREATE POLICY d ON shop.t FOR DELETE USING (true)"),
];

/// The same for some rows alone: of tenant b's second one is.
const LEAKS_OF_SOME: [&str; 3] = [
    "CREATE POLICY i ON shop.t FOR INSERT WITH CHECK (tenant = tally.current_tenant() OR v = 2)",
    "CREATE POLICY u ON shop.t FOR UPDATE USING (tenant = tally.current_tenant()) WITH CHECK (tenant = tally.current_tenant() OR v = 2)",
    "CREATE POLICY u ON shop.t FOR UPDATE USING (tenant = tally.current_tenant() OR v = 2); CREATE POLICY n ON shop.t AS RESTRICTIVE FOR UPDATE USING (v = 2)",
];

/// What may keep the trials of a leaking table from touching a row, and what is told of the table then: that it leaks, where this
/// can be shown, else that nothing was shown.
const HIDING: [(&str, &str); 10] = [
    ("SELECT 1", "P0004"),
    (
        "CREATE TRIGGER g BEFORE INSERT OR UPDATE OR DELETE ON shop.t FOR EACH ROW EXECUTE FUNCTION shop.forbid()",
        "P0004",
    ),
    (
        "CREATE TRIGGER g BEFORE INSERT OR UPDATE OR DELETE ON shop.t FOR EACH ROW EXECUTE FUNCTION shop.swallow()",
        "P0004",
    ),
    (
        "CREATE RULE g AS ON INSERT TO shop.t DO INSTEAD NOTHING; CREATE RULE h AS ON UPDATE TO shop.t DO INSTEAD NOTHING; CREATE RULE k AS ON DELETE TO shop.t DO INSTEAD NOTHING",
        "P0004",
    ),
    (
        "CREATE TRIGGER g BEFORE INSERT OR UPDATE OR DELETE ON shop.t FOR EACH ROW EXECUTE FUNCTION shop.forbid(); ALTER TABLE shop.t ENABLE ALWAYS TRIGGER g",
        "55T03",
    ),
    (
        "CREATE TRIGGER g BEFORE INSERT OR UPDATE OR DELETE ON shop.t FOR EACH STATEMENT EXECUTE FUNCTION shop.forbid(); ALTER TABLE shop.t ENABLE ALWAYS TRIGGER g",
        "55T03",
    ),
    (
        "CREATE TRIGGER g BEFORE INSERT OR UPDATE OR DELETE ON shop.t FOR EACH ROW EXECUTE FUNCTION shop.swallow(); ALTER TABLE shop.t ENABLE ALWAYS TRIGGER g",
        "55T03",
    ),
    (
        "CREATE RULE g AS ON INSERT TO shop.t DO INSTEAD NOTHING; ALTER TABLE shop.t ENABLE ALWAYS RULE g",
        "55T03",
    ),
    // Its own policy refuses what the trigger writes.
    (
        "ALTER TABLE shop.t DROP CONSTRAINT t_tenant_v_key; CREATE TRIGGER g AFTER INSERT OR UPDATE OR DELETE ON shop.t FOR EACH ROW EXECUTE FUNCTION shop.note(); ALTER TABLE shop.t ENABLE ALWAYS TRIGGER g",
        "55T03",
    ),
    ("REVOKE INSERT, UPDATE, DELETE ON shop.t FROM CURRENT_USER", "55T03"),
];

/// What a table that leaks nothing may have.
const HARMLESS: [&str; 7] = [
    "SELECT 1",
    "CREATE TRIGGER g BEFORE UPDATE OR DELETE ON shop.t FOR EACH ROW EXECUTE FUNCTION shop.forbid()",
    "CREATE TRIGGER g BEFORE INSERT OR UPDATE OR DELETE ON shop.t FOR EACH ROW EXECUTE FUNCTION shop.swallow()",
    "CREATE TRIGGER g BEFORE INSERT OR UPDATE ON shop.t FOR EACH ROW EXECUTE FUNCTION shop.fill()",
    "CREATE TABLE shop.child (tenant text, v int, FOREIGN KEY (tenant, v) REFERENCES shop.t (tenant, v)); INSERT INTO shop.child VALUES ('a', 1)",
    // Some policies for reading alone: whoever may write nothing writes nothing of others.
    "DROP POLICY tally_tenant ON shop.t; CREATE POLICY s ON shop.t FOR SELECT USING (tenant = tally.current_tenant())",
    "ALTER TABLE shop.t ADD CHECK (tenant <> 'x')",
];

fn shop() -> (Database, Client) {
    let mut database = Database::new("isolated");
    let owner = database.role("owner", &["tally_writer"]);
    let mut admin = database.superuser();
    admin
        .batch_execute(&format!(
            "CREATE SCHEMA shop AUTHORIZATION {owner}; SET ROLE {owner};
             CREATE TABLE shop.t (tenant text NOT NULL, v int, UNIQUE (tenant, v)); SELECT tally.protect('shop.t', 'tenant');
             CREATE TABLE shop.log (tenant text NOT NULL); SELECT tally.protect('shop.log', 'tenant');
             CREATE FUNCTION shop.forbid() RETURNS trigger LANGUAGE plpgsql AS
               $$ BEGIN RAISE insufficient_privilege USING MESSAGE = 'new row violates row-level security policy for table \"t\"'; END $$;
             CREATE FUNCTION shop.swallow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
             CREATE FUNCTION shop.fill() RETURNS trigger LANGUAGE plpgsql AS
               $$ BEGIN NEW.tenant := tally.current_tenant(); RETURN NEW; END $$;
             CREATE FUNCTION shop.note() RETURNS trigger LANGUAGE plpgsql AS
               $$ BEGIN INSERT INTO shop.log VALUES (CASE tally.current_tenant() WHEN 'a' THEN 'b' ELSE 'a' END); RETURN NULL; END $$;
             CREATE FUNCTION shop.may(id text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS
               $$ BEGIN RAISE insufficient_privilege; END $$;
             RESET ROLE; INSERT INTO shop.t VALUES ('a', 1), ('b', 1), ('b', 2), ('c', 1)"
        ))
        .unwrap();
    (database, admin)
}

/// The code of what a trial of the table comes to, empty where it passes; undone.
fn tried(admin: &mut Client, plants: &[&str]) -> (String, String) {
    let mut transaction = admin.transaction().unwrap();
    for plant in plants {
        let owner = "SELECT format('SET LOCAL ROLE %I', relowner::regrole::text) FROM pg_class WHERE oid = 'shop.t'::regclass";
        let owner: String = transaction.query_one(owner, &[]).unwrap().get(0);
        transaction
            .batch_execute(&format!("{owner}; {plant}; RESET ROLE"))
            .unwrap_or_else(|problem| panic!("{plant}: {problem:?}"));
    }
    let outcome = transaction.batch_execute("SELECT tally.assert_isolated('shop.t', 'a', 'b')");
    outcome.err().map_or_else(Default::default, |error| {
        let error = error.as_db_error().expect("an SQL error").clone();
        (error.code().code().to_owned(), format!("{}: {:?}", error.message(), error.detail()))
    })
}

#[test]
fn a_leaking_table_does_not_pass_whatever_hides_it() {
    let (_database, mut admin) = shop();
    let reads = "DROP POLICY tally_tenant ON shop.t; DROP POLICY tally_guard ON shop.t;
        CREATE POLICY s ON shop.t FOR SELECT USING (tenant = tally.current_tenant())";
    for (leak, policy) in LEAKS {
        for (hiding, expected) in HIDING {
            let (found, message) = tried(&mut admin, &[reads, policy, hiding]);
            assert_eq!(found, expected, "{leak}; {hiding}: {message}");
        }
    }
    // What swallows no inserted row, and what refuses a tenant's own updates as well as a take-over.
    let swallow = "CREATE TRIGGER g BEFORE UPDATE OR DELETE ON shop.t FOR EACH ROW EXECUTE FUNCTION shop.swallow(); ALTER TABLE shop.t ENABLE ALWAYS TRIGGER g";
    for (leak, policy) in &LEAKS[1..] {
        let (found, message) = tried(&mut admin, &[reads, policy, swallow]);
        assert_eq!(found, "55T03", "{leak}: {message}");
    }
    let take = LEAKS[2].1;
    let null = "CREATE POLICY u ON shop.t FOR UPDATE USING (true) WITH CHECK (tenant = tally.current_tenant() AND v IS NULL)";
    for plants in
        [[reads, take, "ALTER TABLE shop.t ADD CHECK (v IS NULL) NOT VALID"], [reads, null, "SELECT 1"]]
    {
        let (found, message) = tried(&mut admin, &plants);
        assert_eq!(found, "55T03", "{plants:?}: {message}");
    }
    // A domain, and a constraint, of which the row's turn comes before or after the policies.
    let insert = LEAKS[0].1;
    let (found, message) =
        tried(&mut admin, &[reads, insert, "ALTER TABLE shop.t ADD CHECK (shop.may(tenant)) NOT VALID"]);
    assert_eq!(found, "55T03", "{message}");
    let (found, message) =
        tried(&mut admin, &[reads, insert, "ALTER TABLE shop.t ADD CHECK (v IS NULL) NOT VALID"]);
    assert_eq!(found, "P0004", "{message}");
}

/// The first row that is refused ends a statement, and is no sign of what the policies say of others.
#[test]
fn a_table_that_leaks_some_rows_does_not_pass() {
    let (_database, mut admin) = shop();
    let reads = "DROP POLICY tally_tenant ON shop.t; DROP POLICY tally_guard ON shop.t;
        CREATE POLICY s ON shop.t FOR SELECT USING (tenant = tally.current_tenant())";
    for leak in LEAKS_OF_SOME {
        let (found, message) = tried(&mut admin, &[reads, leak]);
        assert_eq!(found, "P0004", "{leak}: {message}");
    }
    // A restrictive policy, and one of a role that the owner has nothing of, let in none of them.
    let held = "CREATE POLICY r ON shop.t AS RESTRICTIVE USING (tenant = tally.current_tenant())";
    for harmless in [
        [reads, LEAKS_OF_SOME[0], held],
        [
            reads,
            "CREATE POLICY i ON shop.t FOR INSERT TO pg_monitor WITH CHECK (true)",
            "CREATE POLICY u ON shop.t FOR UPDATE USING (false) WITH CHECK (true)",
        ],
    ] {
        let (found, message) = tried(&mut admin, &harmless);
        assert_eq!((&*found, &*message), ("", ""), "{harmless:?}");
    }
}

/// A partition that the other tenant hasn't is no reason to tell nothing: the policies are asked.
#[test]
fn a_tenant_without_a_partition_for_a_row_is_tried_all_the_same() {
    let (_database, mut admin) = shop();
    let parted = "DROP TABLE shop.t;
        CREATE TABLE shop.t (tenant text NOT NULL, v int) PARTITION BY LIST (tenant);
        CREATE TABLE shop.t_a PARTITION OF shop.t FOR VALUES IN ('a') PARTITION BY LIST (v);
        CREATE TABLE shop.t_a1 PARTITION OF shop.t_a FOR VALUES IN (1);
        CREATE TABLE shop.t_b PARTITION OF shop.t FOR VALUES IN ('b') PARTITION BY LIST (v);
        CREATE TABLE shop.t_b2 PARTITION OF shop.t_b FOR VALUES IN (2);
        SELECT tally.protect('shop.t', 'tenant')";
    let rows = "ALTER TABLE shop.t NO FORCE ROW LEVEL SECURITY; INSERT INTO shop.t VALUES ('a', 1), ('b', 2); ALTER TABLE shop.t FORCE ROW LEVEL SECURITY";
    let (found, message) = tried(&mut admin, &[parted, rows]);
    assert_eq!((&*found, &*message), ("", ""));
    let reads = "DROP POLICY tally_tenant ON shop.t; DROP POLICY tally_guard ON shop.t;
        CREATE POLICY s ON shop.t FOR SELECT USING (tenant = tally.current_tenant())";
    for (_, leak) in &LEAKS[..2] {
        let (found, message) = tried(&mut admin, &[parted, rows, reads, leak]);
        assert_eq!(found, "P0004", "{leak}: {message}");
    }
}

#[test]
fn a_table_that_leaks_nothing_passes_whatever_else_it_has() {
    let (_database, mut admin) = shop();
    for harmless in HARMLESS {
        let (found, message) = tried(&mut admin, &[harmless]);
        assert_eq!((&*found, &*message), ("", ""), "{harmless}");
    }
    assert_eq!(admin.query("SELECT FROM shop.t", &[]).unwrap().len(), 4, "nothing was changed");
}

/// What the owner has put into an index runs where a table is planned, and never as the superuser who tries it.
#[test]
fn the_owners_code_has_none_of_the_superusers_rights() {
    let (_database, mut admin) = shop();
    let planted = "CREATE TABLE shop.seen (who name, is_super bool);
        CREATE FUNCTION shop.see() RETURNS boolean LANGUAGE plpgsql AS
          $$ BEGIN IF (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) THEN RAISE 'seen by %', current_user; END IF; RETURN true; END $$;
        CREATE FUNCTION shop.sees(x int) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN shop.see(); END'";
    for place in [
        "CREATE INDEX ON shop.t (tenant) WHERE shop.sees(1)",
        "CREATE INDEX ON shop.t (tenant, shop.sees(v)); CREATE STATISTICS shop.own ON tenant, shop.sees(v) FROM shop.t",
        "ALTER TABLE shop.t ADD CHECK (shop.sees(1))",
    ] {
        let (found, message) = tried(&mut admin, &[planted, place]);
        assert_eq!((&*found, &*message), ("", ""), "{place}");
    }
}

/// Nothing is shown of a tenant that isn't named, or that has no rows; the error names that one.
#[test]
fn a_trial_says_which_tenant_has_nothing_to_hide() {
    let (_database, mut admin) = shop();
    let mut told = |arguments: &str| {
        let error = admin.batch_execute(&format!("SELECT tally.assert_isolated({arguments})")).err();
        error.map_or_else(Default::default, |error| {
            let error = error.as_db_error().expect("an SQL error").clone();
            (
                error.code().code().to_owned(),
                error.message().to_owned(),
                error.hint().unwrap_or_default().to_owned(),
            )
        })
    };
    for arguments in ["'shop.t', NULL, 'b'", "'shop.t', 'a', NULL", "NULL, 'a', 'b'"] {
        assert_eq!(told(arguments).0, "22004", "{arguments}");
    }
    assert_eq!(told("'shop.t', 'a', ''").0, "22023");
    for (arguments, named) in [
        ("'shop.t', 'a', 'nobody'", "nobody"),
        ("'shop.t', 'nobody', 'a'", "nobody"),
        ("'shop.t', 'a', 'a'", "a"),
    ] {
        let (code, message, _) = told(arguments);
        assert!(
            code == "55T02" && message.contains(&format!("\"{named}\"")),
            "{arguments}: {code} {message}"
        );
    }
    // A view can't be protected.
    let (code, _, hint) = told("'tally.usage_day', 'a', 'b'");
    assert!(code == "55T01" && !hint.contains("tally.protect(") && hint.contains("tables"), "{code} {hint}");
    let (code, _, hint) = told("'shop.log', 'a', 'b'");
    assert!(code == "55T02", "{code} {hint}");
}
