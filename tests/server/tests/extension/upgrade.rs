//! Upgrades: from each released version, with data, to the present one, the schema is that of a fresh install and no row is
//! lost; a release's script isn't changed; there is no way back. `tests/upgrade` has the released scripts, which
//! `packaging/release.sh` freezes; docs/runbooks/release.md tells how a change is released.

use postgres::Client;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use tally_server_tests::{
    Database, assert_same, bin_and_sockets, contents, describe, ingest, json_array, major, number, skip,
    succeed,
};

const CURRENT: &str = env!("CARGO_PKG_VERSION");

/// A script placed where the server looks for extensions; removed again.
struct Placed(PathBuf);

impl Placed {
    fn new(name: &str, text: &str) -> Self {
        let place = folder().join(name);
        std::fs::write(&place, text).unwrap_or_else(|problem| panic!("writing {place:?}: {problem}"));
        Self(place)
    }
}

impl Drop for Placed {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Where the server looks for extensions.
fn folder() -> PathBuf {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../pgrx-config/cluster.sh");
    let bin = String::from_utf8(succeed(Command::new(script).arg("bin")).stdout).unwrap();
    let extensions = format!("usr/share/postgresql/{}/extension", major());
    PathBuf::from(bin.trim()).ancestors().nth(5).unwrap().join(extensions)
}

/// The released versions and their scripts, oldest first.
fn released() -> Vec<(String, String)> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../upgrade");
    let mut found: Vec<(Vec<u32>, String, String)> = std::fs::read_dir(folder)
        .map(|entries| entries.map(|entry| entry.unwrap().path()).collect::<Vec<_>>())
        .unwrap_or_default()
        .into_iter()
        .filter_map(|path| {
            let version =
                path.file_name()?.to_str()?.strip_prefix("pg_tally--")?.strip_suffix(".sql")?.to_owned();
            let order = version.split('.').map(|part| part.parse().expect("a number")).collect();
            Some((order, version, std::fs::read_to_string(&path).unwrap()))
        })
        .collect();
    found.sort();
    found.into_iter().map(|(_, version, script)| (version, script)).collect()
}

fn install(database: &Database, version: &str) -> Client {
    let mut client = database.superuser();
    client.batch_execute(&format!("CREATE EXTENSION pg_tally VERSION '{version}'")).unwrap();
    client
}

/// Data of every kind that the first release knows.
fn furnish(client: &mut Client) {
    client
        .batch_execute(
            "SELECT tally.create_rollup('plans', '{hour,week}', dimensions => ARRAY[$$properties->>'plan' AS plan$$],
               measures => ARRAY['count(*) AS n', 'distinct(user_id) AS users', $$percentiles(tally.property_float(properties, 'value')) AS value$$])",
        )
        .unwrap();
    let events: Vec<String> = (0..300)
        .map(|n| {
            format!(
                r#"{{"tenant_id":"t{}","account_id":"a","name":"n","user_id":"u{}","event_id":"00000000-0000-4000-8000-{n:012}","occurred_at":"2026-0{}-01T00:00:00Z","properties":{{"value":{n},"plan":"p{}"}}}}"#,
                n % 3, n % 31, 1 + n % 3, n % 2
            )
        })
        .collect();
    let events = json_array(events.iter().map(String::as_str));
    assert_eq!(ingest(client, &events).unwrap().accepted, 300);
    client.batch_execute("SELECT tally.fold('plans', 100); SELECT tally.fold('usage', 100)").unwrap();
}

/// Works on: what was there is known, what is new is counted, and the rollups are right.
fn go_on(client: &mut Client) {
    let event = |n: usize| {
        format!(
            r#"{{"tenant_id":"t{}","account_id":"a","name":"n","user_id":"u{}","event_id":"00000000-0000-4000-8000-{n:012}","occurred_at":"2026-0{}-01T00:00:00Z","properties":{{"value":{n},"plan":"p{}"}}}}"#,
            n % 3,
            n % 31,
            1 + n % 3,
            n % 2
        )
    };
    client.batch_execute("SELECT tally.open_months('-infinity')").unwrap();
    let events: Vec<String> = (200..400).map(event).collect();
    let summary = ingest(client, &json_array(events.iter().map(String::as_str))).unwrap();
    assert_eq!((summary.accepted, summary.duplicates), (100, 100));
    client.batch_execute("CALL tally.maintain()").unwrap();
    let mut transaction = client.transaction().unwrap();
    transaction.execute("SELECT tally.enter_global()", &[]).unwrap();
    for rollup in ["usage", "plans"] {
        let query = format!("SELECT count(*) FROM tally.verify_rollup('{rollup}')");
        assert_eq!(transaction.query_one(&query, &[]).unwrap().get::<_, i64>(0), 0, "{rollup}");
    }
}

/// The columns of each of our tables and sequences.
fn columns(client: &mut Client) -> Vec<(String, String)> {
    let query = "SELECT c.oid::regclass::text, string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum)
                   FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
                  WHERE c.relnamespace = 'tally'::regnamespace AND c.relkind IN ('r', 'S') GROUP BY c.oid";
    client.query(query, &[]).unwrap().iter().map(|row| (row.get(0), row.get(1))).collect()
}

/// How many rows tables have and what is in these columns of them: an update may add others.
fn rows_of(client: &mut Client, columns: &[(String, String)]) -> BTreeMap<String, String> {
    let digest = |(table, columns): &(String, String)| {
        let query = format!(
            "SELECT count(*) || ' ' || coalesce(md5(string_agg(row({columns})::text, E'\\n' ORDER BY row({columns})::text COLLATE \"C\")), '') FROM {table}"
        );
        (table.clone(), client.query_one(&query, &[]).unwrap().get(0))
    };
    columns.iter().map(digest).collect()
}

/// Whether the lines are about the declared rollup of `furnish`, or partitions, which a fresh install has not.
fn of_the_extension(lines: Vec<String>) -> Vec<String> {
    let own =
        |line: &String| !line.contains("plans_") && !line.contains("events_p2") && !line.starts_with("role ");
    lines.into_iter().filter(own).collect()
}

#[test]
fn every_release_upgrades_to_what_a_fresh_install_is() {
    let released = released();
    if released.is_empty() {
        skip("no version is released yet: packaging/release.sh freezes the first one");
        return;
    }
    let fresh = Database::new("fresh");
    let wanted = of_the_extension(describe(&mut fresh.superuser(), &["tally", "tally_internal"], false));
    for (version, script) in &released {
        let mut database = Database::without_extension("upgraded");
        let mut client = if version == CURRENT {
            // Released and unchanged since: else the version must be raised, and an upgrade script written.
            let name = format!("0.0.{}", std::process::id());
            let _placed = Placed::new(&format!("pg_tally--{name}.sql"), script);
            install(&database, &name)
        } else {
            let placed = folder().join(format!("pg_tally--{version}.sql"));
            let _placed =
                (!placed.exists()).then(|| Placed::new(&format!("pg_tally--{version}.sql"), script));
            let mut client = install(&database, version);
            furnish(&mut client);
            // What a tenant sees, of ours and of a protected table, with the old objects and the new library.
            let [owner, reader] = [("owner", "tally_writer"), ("reader", "tally_reader")]
                .map(|(role, group)| database.role(role, &[group]));
            client
                .batch_execute(&format!(
                    "SELECT tally.bind_role('{reader}', 't1', 'a'); CREATE SCHEMA shop AUTHORIZATION {owner};
                     GRANT USAGE ON SCHEMA shop TO PUBLIC; SET ROLE {owner};
                     CREATE TABLE shop.orders (tenant varchar NOT NULL, account text NOT NULL) PARTITION BY LIST (account);
                     CREATE TABLE shop.orders_1 PARTITION OF shop.orders DEFAULT;
                     SELECT tally.protect('shop.orders', 'tenant', 'account');
                     CREATE TABLE shop.gone (tenant text NOT NULL); SELECT tally.protect('shop.gone', 'tenant'); DROP TABLE shop.gone; GRANT SELECT ON shop.orders TO PUBLIC;
                     RESET ROLE;
                     INSERT INTO shop.orders SELECT t, a FROM unnest('{{t0,t1}}'::text[]) AS t, unnest('{{a,b}}'::text[]) AS a"
                ))
                .unwrap();
            // A view that the release's own library made: without the bucket as a date.
            client
                .batch_execute(
                    "DO $do$
                     DECLARE made text := pg_get_viewdef('tally.plans_week');
                     BEGIN
                       DROP VIEW tally.plans_week;
                       EXECUTE 'CREATE VIEW tally.plans_week WITH (security_invoker = true) AS ' || regexp_replace(made, ',\\s+[^,]* AS week\\M', '');
                       ALTER VIEW tally.plans_week OWNER TO tally_owner;
                       GRANT SELECT ON tally.plans_week TO tally_reader;
                     END $do$",
                )
                .unwrap();
            let week = "SELECT count(*) FROM pg_attribute WHERE attrelid = 'tally.plans_week'::regclass AND attname = 'week'";
            assert_eq!(number(&mut client, week), 0);
            let seen = |database: &Database| -> Vec<i64> {
                let mut reader = database.connect(&reader);
                let query = "SELECT (SELECT count(*) FROM tally.events), (SELECT sum(n)::int8 FROM tally.plans_week),
                                    (SELECT count(*) FROM tally.usage_day), (SELECT count(*) FROM shop.orders)";
                let row = reader.query_one(query, &[]).unwrap();
                (0..4).map(|column| row.get(column)).collect()
            };
            let before = seen(&database);
            assert_eq!((before[0], before[1], before[3]), (100, 100, 1));
            // An administrator's own function of a name that moves stays where it is.
            client
                .batch_execute(
                    "CREATE FUNCTION tally.check_id(a date) RETURNS int8 LANGUAGE sql STABLE BEGIN ATOMIC SELECT count(*) FROM tally.tenant; END",
                )
                .unwrap();
            let columns = columns(&mut client);
            let stored = rows_of(&mut client, &columns);
            client.batch_execute("ALTER EXTENSION pg_tally UPDATE").unwrap_or_else(|problem| {
                panic!(
                    "from {version} to {CURRENT}: {problem}\npackaging/upgrade-script.pl makes the script from sql/ and sql/upgrade/"
                )
            });
            // A built-in rollup that is new has its own rows.
            client
                .batch_execute(
                    "BEGIN; DELETE FROM tally.rollup WHERE rollup_name = 'payment'; DELETE FROM tally.rollup_column WHERE rollup_name = 'payment'",
                )
                .unwrap();
            let now = rows_of(&mut client, &columns);
            client.batch_execute("ROLLBACK").unwrap();
            for (table, digest) in &stored {
                assert_eq!(now.get(table), Some(digest), "the rows of {table} from version {version}");
            }
            assert_eq!(seen(&database), before);
            assert_eq!(number(&mut client, week), 1);
            // Its states are merged as those of a rollup that is declared today.
            let merged = "SELECT count(*) FROM unnest('{hour,week}'::text[]) AS g
                           WHERE pg_get_viewdef(format('tally.plans_%s_state', g)::regclass) ~ 'may_have_pending.*tally_internal.total.*rollup_few.*rollup_few.*may_have_pending'";
            assert_eq!(number(&mut client, merged), 2);
            // It is no more the extension's own than before: a dump has it.
            let members = "SELECT count(*) FROM pg_depend WHERE deptype = 'e' AND objid::regclass::text ~ '^tally\\.plans_'";
            assert_eq!(number(&mut client, members), 0);
            client.batch_execute("DROP FUNCTION tally.check_id(date)").unwrap();
            let undone = "SELECT name, detail FROM tally.lint() WHERE name ~ 'policy|guard|altered'";
            let undone: Vec<(String, String)> =
                client.query(undone, &[]).unwrap().iter().map(|row| (row.get(0), row.get(1))).collect();
            assert_eq!(undone, [], "after the update from {version}");
            client
        };
        let found = of_the_extension(describe(&mut client, &["tally", "tally_internal"], false));
        assert_same(&format!("version {version}"), &wanted, &found);
        if version == CURRENT {
            furnish(&mut client);
        }
        go_on(&mut client);
    }
}

/// A text as an operator is answered, or the code of the error.
fn ask(client: &mut Client, question: &str) -> Result<String, String> {
    client.batch_execute("BEGIN; SELECT tally.enter_global(); SET LOCAL ROLE tally_analyst").unwrap();
    let found = client.query_one(question, &[]).map(|row| row.get::<_, String>(0));
    client.batch_execute("ROLLBACK").unwrap();
    found.map_err(|error| error.code().unwrap().code().to_owned())
}

#[test]
fn a_dump_of_an_earlier_release_goes_into_it_and_is_updated_there() {
    for (version, _) in released().into_iter().filter(|(version, _)| version != CURRENT) {
        let old = Database::without_extension("dumped");
        let mut client = install(&old, &version);
        furnish(&mut client);
        // The built-in rollups are declared at another moment, and an update adds to them.
        let mut before = columns(&mut client);
        before.retain(|(table, _)| !matches!(table.as_str(), "tally.rollup" | "tally.rollup_column"));
        let rows = rows_of(&mut client, &before);
        let new = Database::without_extension("restored");
        let mut client = install(&new, &version);
        let ((bin, sockets), port) = (bin_and_sockets(), old.config("postgres").get_ports()[0]);
        let dump = std::env::temp_dir().join(old.name());
        // As docs/runbooks/restore.md says.
        let steps = format!(
            "PATH={}:$PATH; export PGHOST={} PGPORT={port} PGUSER=postgres; dump={}
             pg_dump --format=custom --file=$dump {} &&
             {{ pg_restore --list $dump | grep -v ' SCHEMA - tally ' >$dump.list; }} &&
             pg_restore --dbname={} --exit-on-error --use-list=$dump.list $dump; code=$?; rm -f $dump $dump.list; exit $code",
            bin.display(),
            sockets.display(),
            dump.display(),
            old.name(),
            new.name()
        );
        succeed(Command::new("bash").args(["-c", &steps]));
        assert_eq!(rows_of(&mut client, &before), rows, "{version}, restored");
        client.batch_execute("ALTER EXTENSION pg_tally UPDATE").unwrap();
        assert_eq!(rows_of(&mut client, &before), rows, "{version}, updated");
        go_on(&mut client);
        let mut transaction = client.transaction().unwrap();
        transaction.execute("SELECT tally.enter_global()", &[]).unwrap();
        let errors = transaction.query("SELECT detail FROM tally.lint() WHERE level = 'ERROR'", &[]).unwrap();
        assert!(
            errors.is_empty(),
            "{:?}",
            errors.iter().map(|row| row.get::<_, String>(0)).collect::<Vec<_>>()
        );
    }
}

/// Months that were dropped before the update, whose amounts no rollup knows; what is dropped afterwards is known.
#[test]
fn what_was_lost_before_an_update_stays_lost() {
    let Some((version, script)) = released().into_iter().find(|(version, _)| version == "0.1.0") else {
        skip("no version is released yet: packaging/release.sh freezes the first one");
        return;
    };
    let database = Database::without_extension("lossy");
    let placed = folder().join(format!("pg_tally--{version}.sql"));
    let _placed = (!placed.exists()).then(|| Placed::new(&format!("pg_tally--{version}.sql"), &script));
    let mut client = install(&database, &version);
    let events: Vec<String> = (0..90)
        .map(|n| {
            format!(
                r#"{{"tenant_id":"t{}","account_id":"a","name":"paid","user_id":"u","event_id":"00000000-0000-4000-8000-{n:012}","occurred_at":"2026-0{}-01T00:00:00Z","properties":{{"amount":{n}}}}}"#,
                n % 2, 1 + n % 3
            )
        })
        .collect();
    ingest(&mut client, &json_array(events.iter().map(String::as_str))).unwrap();
    let young = r#"{"tenant_id":"young","account_id":"a","name":"paid","event_id":"00000000-0000-4000-8000-000000000000","occurred_at":"2026-03-01T00:00:00Z","properties":{"amount":7}}"#;
    ingest(&mut client, young).unwrap();
    let fold = "SELECT sum(tally.fold(rollup_name))::int8 FROM tally.rollup";
    while client.query_one(fold, &[]).unwrap().get::<_, i64>(0) > 0 {}
    client.batch_execute("SELECT tally.drop_raw('2026-02-01Z'); ALTER EXTENSION pg_tally UPDATE").unwrap();
    client
        .batch_execute(r#"SELECT tally.define_metric('paid', '{"kind": "events"}'); SELECT tally.define_metric('sum', '{"kind": "sum", "property": "amount"}')"#)
        .unwrap();
    let months = ["2026-01-01", "2026-02-01", "2026-03-01", "2026-04-01"];
    let range = |from: usize, to: usize| format!("'{} 00:00Z', '{} 00:00Z'", months[from], months[to]);
    let revenue = |from, to| format!("SELECT sum(new)::text FROM tally.revenue({})", range(from, to));
    let metric = |name: &str, from, to| {
        format!("SELECT value::text FROM tally.metric_value('{name}', {})", range(from, to))
    };
    assert_eq!(ask(&mut client, &metric("paid", 0, 3)), Ok("91".into()));
    assert_eq!(ask(&mut client, &metric("sum", 0, 1)), Err("55T20".into()));
    assert_eq!(ask(&mut client, &metric("sum", 1, 3)), Ok((4005 + 7 - 1305).to_string()));
    assert_eq!(ask(&mut client, &revenue(2, 3)), Err("55T20".into()));
    while client.query_one(fold, &[]).unwrap().get::<_, i64>(0) > 0 {}
    client.batch_execute("SELECT tally.drop_raw('2026-03-01Z')").unwrap();
    // February was there when the rollup was made.
    assert_eq!(ask(&mut client, &metric("sum", 1, 3)), Ok((4005 + 7 - 1305).to_string()));
    assert_eq!(ask(&mut client, &metric("sum", 0, 3)), Err("55T20".into()));
}

/// The machinery itself, on a version that isn't there: made of the present one and an upgrade script.
#[test]
fn an_upgrade_script_is_held_against_a_fresh_install_and_there_is_no_way_back() {
    let next = format!("99.0.{}", std::process::id());
    let change = "CREATE TABLE tally.novelty (tenant_id text COLLATE \"C\" NOT NULL CONSTRAINT novelty_pkey PRIMARY KEY);
         ALTER TABLE tally.novelty OWNER TO tally_owner;
         SELECT tally_internal.secure_table('tally.novelty');
         SELECT pg_catalog.pg_extension_config_dump('tally.novelty', '');
         CREATE FUNCTION tally.new_one() RETURNS int LANGUAGE sql IMMUTABLE RETURN 1;
         REVOKE ALL ON FUNCTION tally.new_one() FROM PUBLIC;";
    let current = std::fs::read_to_string(folder().join(format!("pg_tally--{CURRENT}.sql"))).unwrap();
    let _fresh = Placed::new(&format!("pg_tally--{next}.sql"), &format!("{current}\n{change}"));
    let _upgrade = Placed::new(&format!("pg_tally--{CURRENT}--{next}.sql"), change);
    let (fresh, old) = (Database::without_extension("next"), Database::without_extension("previous"));
    let wanted = of_the_extension(describe(&mut install(&fresh, &next), &["tally", "tally_internal"], false));
    let mut client = install(&old, CURRENT);
    furnish(&mut client);
    let stored = contents(&mut client, &["tally"]);
    client.batch_execute(&format!("ALTER EXTENSION pg_tally UPDATE TO '{next}'")).unwrap();
    assert_same(
        "upgraded",
        &wanted,
        &of_the_extension(describe(&mut client, &["tally", "tally_internal"], false)),
    );
    let now = contents(&mut client, &["tally"]);
    assert!(stored.iter().all(|(table, digest)| now.get(table) == Some(digest)));
    go_on(&mut client);

    // Downgrades are refused, and what has neither script nor path says so.
    let back = client.batch_execute(&format!("ALTER EXTENSION pg_tally UPDATE TO '{CURRENT}'")).unwrap_err();
    assert!(back.as_db_error().unwrap().message().contains("no update path"), "{back}");

    // The library is of another version than the database's objects: health says what to do, and work goes on.
    let mut transaction = client.transaction().unwrap();
    transaction.execute("SELECT tally.enter_global()", &[]).unwrap();
    let row = transaction
        .query_one("SELECT status, advice FROM tally.health() WHERE component = 'version'", &[])
        .unwrap();
    assert_eq!(row.get::<_, String>(0), "warning");
    assert!(row.get::<_, String>(1).contains("ALTER EXTENSION pg_tally UPDATE"));
    transaction.commit().unwrap();

    // The comparison can fail: a policy less, and it is named.
    client.batch_execute("DROP POLICY tally_guard ON tally.novelty").unwrap();
    let found = of_the_extension(describe(&mut client, &["tally", "tally_internal"], false));
    assert!(
        wanted
            .iter()
            .any(|line| !found.contains(line) && line.starts_with("policy tally.novelty.tally_guard"))
    );
}

#[test]
fn an_update_and_a_reader_that_need_the_same_tables_both_get_through() {
    let Some((version, script)) = released().into_iter().find(|(version, _)| version != CURRENT) else {
        return;
    };
    let placed = folder().join(format!("pg_tally--{version}.sql"));
    let _placed = (!placed.exists()).then(|| Placed::new(&format!("pg_tally--{version}.sql"), &script));
    let mut database = Database::without_extension("locked");
    let mut client = install(&database, &version);
    furnish(&mut client);
    let reader = database.role("reader", &["tally_reader"]);
    client.batch_execute(&format!("SELECT tally.bind_role('{reader}', 't1')")).unwrap();
    // The library with objects of before says what it can't do.
    let verified = client.batch_execute("SELECT tally.verify_rollup('usage')").unwrap_err();
    assert_eq!(verified.code().map(|code| code.code()), Some("55000"), "{verified}");
    // Its tables first, and then, by their policies, the bindings.
    let mut reading = database.connect(&reader);
    reading.batch_execute("BEGIN; LOCK TABLE tally.usage_pending IN ACCESS SHARE MODE").unwrap();
    let updating = std::thread::spawn(move || client.batch_execute("ALTER EXTENSION pg_tally UPDATE"));
    std::thread::sleep(std::time::Duration::from_secs(3));
    assert!(!updating.is_finished(), "nothing was locked");
    let counted = reading.query_one("SELECT sum(n)::int8 FROM tally.plans_week", &[]);
    assert_eq!(counted.unwrap().get::<_, i64>(0), 100);
    reading.batch_execute("COMMIT").unwrap();
    updating.join().unwrap().unwrap();
}

/// Settings under which Postgres reads literals otherwise, or asks more of a body, are nothing to the scripts.
#[test]
fn scripts_say_the_same_under_settings_that_change_how_they_are_read() {
    let Some((version, script)) = released().into_iter().find(|(version, _)| version != CURRENT) else {
        return;
    };
    let placed = folder().join(format!("pg_tally--{version}.sql"));
    let _placed = (!placed.exists()).then(|| Placed::new(&format!("pg_tally--{version}.sql"), &script));
    let described =
        |database: &Database| describe(&mut database.superuser(), &["tally", "tally_internal"], false);
    let fresh = Database::new("read_plainly");
    let wanted = of_the_extension(described(&fresh));
    let settings = "SET standard_conforming_strings = off; SET escape_string_warning = off; SET backslash_quote = off; \
                    LOAD 'plpgsql'; SET plpgsql.extra_errors = 'all'; SET plpgsql.variable_conflict = 'use_variable'";
    for from in [None, Some(&version)] {
        let database = Database::without_extension("read_otherwise");
        if let Some(version) = from {
            furnish(&mut install(&database, version));
        }
        let mut client = database.superuser();
        client.batch_execute(settings).unwrap();
        let script =
            if from.is_some() { "ALTER EXTENSION pg_tally UPDATE" } else { "CREATE EXTENSION pg_tally" };
        client.batch_execute(script).unwrap_or_else(|problem| panic!("{script}: {problem}"));
        assert_same(script, &wanted, &of_the_extension(described(&database)));
        // What runs later, in a session that has them.
        client.batch_execute("SELECT tally.open_months('2026-01-01')").unwrap();
        client.batch_execute("CALL tally.maintain()").unwrap();
        let funnel = "SELECT count(*) FROM tally.funnel('[\"n\"]', '1 day', '2026-01-01', '2026-02-01')";
        let mut transaction = client.transaction().unwrap();
        transaction.batch_execute("SELECT tally.enter_global()").unwrap();
        assert_eq!(transaction.query_one(funnel, &[]).unwrap().get::<_, i64>(0), 1);
    }
}

/// No literal has a backslash, which some sessions read as the beginning of an escape.
#[test]
fn no_literal_of_a_script_hangs_on_how_backslashes_are_read() {
    let folder = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../sql"));
    let mut looked = 0;
    let mut folders = vec![folder];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()) {
            if entry.is_dir() {
                folders.push(entry);
                continue;
            }
            let text = std::fs::read_to_string(&entry).unwrap();
            let found = with_backslash(&text);
            assert!(found.is_empty(), "{entry:?}: {found:?}: put it between $re$");
            looked += 1;
        }
    }
    assert!(looked > 50);
    assert_eq!(with_backslash(r"SELECT 'a\b', E'\n', $$ '\x' $$, $re$\y$re$ -- '\z"), [r"'a\b'", r"'\x'"]);
}

/// Literals of an SQL text with a backslash, in bodies, too.
fn with_backslash(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(next) = rest.chars().next() {
        let until = |start: usize, end: &str| {
            rest[start..].find(end).map_or(rest.len(), |place| start + place + end.len())
        };
        let length = match next {
            '-' if rest.starts_with("--") => until(2, "\n"),
            '"' => until(1, "\""),
            '\'' => {
                let end = until(1, "'");
                if rest[..end].contains('\\') {
                    found.push(rest[..end].to_owned());
                }
                end
            }
            'E' if rest.starts_with("E'") => {
                let mut end = until(2, "'");
                while rest[end..].starts_with('\'') {
                    end = until(end + 1, "'");
                }
                end
            }
            '$' if rest.starts_with("$re$") => until(4, "$re$"),
            next => next.len_utf8(),
        };
        rest = &rest[length..];
    }
    found
}
