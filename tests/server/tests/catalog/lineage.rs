//! Lineage leads from a property to a view that somebody made, classification flows along it, and what was said is a record that is
//! sealed.

use postgres::Client;
use serde_json::Value;
use std::collections::HashMap;
use tally_server_tests::{Database, PrivateServer, code, ingest, number, wait_for};

/// The classification of each asset.
fn classes(client: &mut Client) -> HashMap<String, String> {
    let query = "SELECT asset, classification FROM tally.catalog WHERE kind <> 'function'";
    client.query(query, &[]).unwrap().iter().map(|row| (row.get(0), row.get(1))).collect()
}

fn class(client: &mut Client, asset: &str) -> String {
    classes(client).remove(asset).unwrap_or_else(|| panic!("no {asset}"))
}

fn classify(client: &mut Client, asset: &str, classification: &str) -> Result<String, postgres::Error> {
    client
        .query_one("SELECT tally.classify($1, $2, 'a test')", &[&asset, &classification])
        .map(|row| row.get(0))
}

/// Columns of pg_tally's own tables that have ids of persons, or words that somebody writes about one, are personal from the start, and so
/// is what shows them: those that the audit log keeps apart as what may name a person, and those whose names say so.
#[test]
fn what_may_name_a_person_in_pg_tallys_own_tables_is_personal() {
    let mut database = Database::new("catalog_own");
    let admin = database.role("admin", &["tally_admin"]);
    let known = classes(&mut database.connect(&admin));
    // What is said of data.
    let of_nobody = [
        "tally.asset.reason",
        "tally.asset.purpose",
        "tally.catalog.reason",
        "tally.catalog.purpose",
        "tally.event_schema.reason",
        "tally.lineage.source",
        "tally.maintenance.subject",
    ];
    let named: Vec<String> = database
        .superuser()
        .query(
            "SELECT format('tally.%I.%I', c.relname, a.attname)
               FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
              WHERE c.relnamespace = 'tally'::regnamespace AND c.relkind IN ('r', 'p', 'v')
                AND (a.attname ~ '^(reason|purpose|note|owner|person|identity|identities|subject|requested_by|query|params|body|content|user_id|session_id|properties|source|client)$'
                       AND c.relname <> 'inbox' -- which shows nothing
                     OR EXISTS (SELECT FROM pg_trigger AS t WHERE t.tgrelid = c.oid AND t.tgfoid = 'tally_internal.record_change()'::regprocedure
                                   AND a.attname = ANY (string_to_array(split_part(encode(t.tgargs, 'escape'), '\\000', 3), ','))))",
            &[],
        )
        .unwrap()
        .iter()
        .map(|row| row.get(0))
        .collect();
    let wrong: Vec<&String> = named
        .iter()
        .filter(|column| (known[*column] == "personal") == of_nobody.contains(&column.as_str()))
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    for column in [
        "tally.person_identity.login",
        "tally.asset.owner",
        "tally.access_alert.note",
        "tally.exports.params",
        "tally.erasures.reason",
    ] {
        assert!(named.iter().any(|name| name == column), "{column} of {named:#?}");
    }
    for secret in [
        "tally.tenant.sketch_key",
        "tally.stream_key.secret",
        "tally.erasure_key.hash_key",
        "tally.privacy_key.wrapped",
    ] {
        assert_eq!(known[secret], "confidential", "{secret}");
    }
}

/// A rollup's columns come from the properties that their expressions lead to, however these are spelt; where that can't be told, from all.
#[test]
fn columns_of_rollups_come_from_what_their_expressions_read() {
    let mut database = Database::new("catalog_reads");
    let admin = database.role("admin", &["tally_admin"]);
    let mut client = database.connect(&admin);
    let columns = [
        ("properties #>> '{plan,name}'", "property:plan"),
        ("PROPERTIES->>$$plan$$", "property:plan"),
        ("coalesce(properties, '{}')->>('pl' || 'an')", "property:plan"),
        ("properties['plan']['name']::text", "property:plan"),
        ("property_number(properties, 'plan')::int8", "property:plan"),
        ("properties @> '{\"plan\":\"pro\"}'", "property:plan"),
        ("(properties - 'mail')::text", "tally.events.properties"),
        ("properties->>name", "tally.events.name,tally.events.properties"),
        (r#"U&"user\005fid""#, "tally.events.user_id"),
        ("session_id", "tally.events.session_id"),
    ];
    for (place, (dimension, _)) in columns.iter().enumerate() {
        let declare = "SELECT tally.create_rollup($1, '{day}', dimensions => ARRAY[$2], measures => ARRAY['count(*) AS n'])";
        client.execute(declare, &[&format!("r{place}"), &format!("{dimension} AS v")]).unwrap();
    }
    let sources = "SELECT coalesce(string_agg(DISTINCT e.source, ',' ORDER BY e.source), '') FROM tally_internal.lineage_edges() AS e WHERE e.target = $1 AND e.kind = 'value'";
    let mut superuser = database.superuser();
    for (place, (dimension, source)) in columns.iter().enumerate() {
        let found: String =
            superuser.query_one(sources, &[&format!("tally.r{place}_pending.v")]).unwrap().get(0);
        assert_eq!(found, *source, "{dimension}");
    }
}

/// Views that name what they are made of again and again, each in another way: followed anew at each name, forty of these are too many for
/// any machine.
fn steep_views() -> Vec<(&'static str, String)> {
    const STEPS: usize = 40;
    let steps = |step: &dyn Fn(usize) -> String| (0..STEPS).map(step).collect::<Vec<_>>().join(", ");
    let queries = steps(&|n| format!("c{} (x) AS (SELECT a.x + b.x FROM c{n} AS a, c{n} AS b)", n + 1));
    let objects = steps(&|n| {
        format!("c{} (x) AS (SELECT (a.x -> 'p') || (b.x -> 'q') FROM c{n} AS a, c{n} AS b)", n + 1)
    });
    let beside = steps(&|n| format!("LATERAL (VALUES (v{n}.x + v{n}.x)) AS v{} (x)", n + 1));
    let called = steps(&|n| format!("LATERAL int4abs(v{n}.x + v{n}.x) AS v{} (x)", n + 1));
    let arrows = "-> 'a'".repeat(STEPS);
    let inside = (0..STEPS).fold("n".to_owned(), |of, _| format!("(SELECT {of} FROM app.steep GROUP BY 1)"));
    let ordered =
        (0..STEPS).fold("n".to_owned(), |of, _| format!("(SELECT n FROM app.steep ORDER BY {of} LIMIT 1)"));
    vec![
        ("queries", format!("WITH c0 (x) AS (SELECT n FROM app.steep), {queries} SELECT x FROM c{STEPS}")),
        ("objects", format!("WITH c0 (x) AS (SELECT doc FROM app.steep), {objects} SELECT x FROM c{STEPS}")),
        ("beside", format!("SELECT v{STEPS}.x FROM (SELECT n FROM app.steep) AS v0 (x), {beside}")),
        ("called", format!("SELECT v{STEPS}.x FROM (SELECT n FROM app.steep) AS v0 (x), {called}")),
        ("arrows", format!("SELECT doc {arrows} AS x FROM app.steep")),
        ("sent", format!("SELECT properties {arrows} AS x FROM tally.events")),
        ("inside", format!("SELECT {inside} AS x FROM app.steep")),
        ("ordered", format!("SELECT {ordered} AS x FROM app.steep")),
    ]
}

#[test]
fn a_view_is_followed_in_the_time_of_its_text_and_a_timeout_ends_it() {
    let mut database = Database::new("catalog_steep");
    let admin = database.role("admin", &["tally_admin"]);
    let mut superuser = database.superuser();
    let views: Vec<String> = steep_views()
        .into_iter()
        .map(|(name, query)| format!("CREATE VIEW app.{name} (x) AS {query};"))
        .collect();
    superuser
        .batch_execute(&format!(
            "CREATE SCHEMA app; CREATE TABLE app.steep (n int, doc jsonb); {}",
            views.concat()
        ))
        .unwrap();
    superuser.batch_execute("SET statement_timeout = '20s'").unwrap();
    let sources = "SELECT DISTINCT concat(s.source::regclass, '.' || a.attname, 'property:' || s.property, s.called::regproc) AS found
                     FROM tally_internal.view_sources($1::text::regclass) AS s
                     LEFT JOIN pg_attribute AS a ON a.attrelid = s.source AND a.attnum = s.source_column
                    WHERE s.column_number = 1 ORDER BY 1";
    for (name, expected) in [
        ("queries", "app.steep.n int4pl"),
        ("objects", "app.steep.doc jsonb_concat jsonb_object_field"),
        ("beside", "app.steep.n int4pl"),
        ("called", "app.steep.n int4abs int4pl"),
        ("arrows", "app.steep.doc jsonb_object_field"),
        ("sent", "jsonb_object_field property:a"),
        ("inside", "app.steep.n"),
        ("ordered", "app.steep.n"),
    ] {
        let found = superuser.query(sources, &[&format!("app.{name}")]);
        let found: Vec<String> = found
            .unwrap_or_else(|problem| panic!("{name}: {problem:?}"))
            .iter()
            .map(|row| row.get(0))
            .collect();
        assert_eq!(found.join(" "), expected, "{name}");
    }
    // And so for whoever asks.
    let mut client = database.connect(&admin);
    client.batch_execute("SET statement_timeout = '60s'").unwrap();
    classify(&mut client, "app.steep.n", "personal").unwrap();
    let known = classes(&mut client);
    for name in ["queries", "beside", "called", "inside", "ordered", "sent"] {
        assert_eq!(known[&format!("app.{name}.x")], "personal", "{name}");
    }
    for name in ["objects", "arrows"] {
        assert_eq!(known[&format!("app.{name}.x")], "internal", "{name}");
    }
    client.batch_execute("SELECT count(*) FROM tally.lint()").unwrap();
}

/// What one tenant's login makes, or changes just now, keeps nobody's exports nor the catalogue.
#[test]
fn a_view_that_is_nested_too_deeply_or_being_dropped_comes_from_anything_and_stops_nobody() {
    let mut database = Database::new("catalog_deep");
    let admin = database.role("admin", &["tally_admin"]);
    let [maker, other] = ["maker", "other"].map(|name| database.role(name, &["tally_reader"]));
    database
        .superuser()
        .batch_execute(&format!(
            "SELECT tally.bind_role('{maker}', 't1'), tally.bind_role('{other}', 't2'); CREATE SCHEMA app AUTHORIZATION {maker}"
        ))
        .unwrap();
    let mut maker = database.connect(&maker);
    let deep = |by: &str, times: usize| format!("{}n{}", "(".repeat(times), format!("{by} n)").repeat(times));
    let beneath =
        (0..150).fold("SELECT n FROM app.deep".to_owned(), |of, _| format!("SELECT n FROM ({of}) AS of"));
    maker
        .batch_execute(&format!(
            "CREATE TABLE app.deep (n int, made int GENERATED ALWAYS AS ({}) STORED);
             CREATE VIEW app.long (x) AS SELECT {} FROM app.deep;
             CREATE VIEW app.beneath (x) AS {beneath};
             CREATE VIEW app.plain (x) AS SELECT n FROM app.deep",
            deep("+", 1500),
            deep("-", 1500)
        ))
        .unwrap();
    let sources = |name: &str| {
        let query =
            "SELECT coalesce(string_agg(DISTINCT s.source::regclass || '.' || s.source_column, ' '), '-')
                       FROM tally_internal.view_sources($1::text::regclass) AS s WHERE s.column_number <> 0";
        let mut superuser = database.superuser();
        superuser.batch_execute("SET lock_timeout = '5s'").unwrap();
        superuser.query_one(query, &[&name]).unwrap().get::<_, String>(0)
    };
    assert_eq!(sources("app.long"), "tally.events.0");
    assert_eq!(sources("app.deep"), "tally.events.0");
    assert_eq!(sources("app.plain"), "app.deep.1");
    let ask = |what: &str| {
        let mut other = database.connect(&other);
        other.batch_execute("SET statement_timeout = '20s'; SET lock_timeout = '5s'").unwrap();
        let request = "SELECT tally.request_export('SELECT count(*) FROM tally.usage_day', 'how many', 10)";
        other.batch_execute(request).unwrap_or_else(|problem| panic!("{what}: {problem:?}"));
        let mut client = database.connect(&admin);
        client.batch_execute("SET lock_timeout = '5s'").unwrap();
        let known = classes(&mut client);
        assert_eq!(known["app.long.x"], "personal", "{what}");
        assert_eq!(known["app.deep.made"], "personal", "{what}");
        let mut superuser = database.superuser();
        superuser.batch_execute("CALL tally.maintain()").unwrap();
        let failed = "SELECT count(*) FROM tally.maintenance WHERE failed_at IS NOT NULL";
        assert_eq!(number(&mut superuser, failed), 0, "{what}");
    };
    ask("nested deeply");
    maker.batch_execute("BEGIN; DROP VIEW app.plain").unwrap();
    assert_eq!(sources("app.plain"), "tally.events.0");
    ask("being dropped");
    maker.batch_execute("ROLLBACK").unwrap();
    assert_eq!(sources("app.plain"), "app.deep.1");
    // What was held for a while is looked at again, though nothing has changed.
    maker
        .batch_execute("CREATE TABLE app.held (n int, twice int GENERATED ALWAYS AS (n * 2) STORED)")
        .unwrap();
    let mut superuser = database.superuser();
    let mut noted = || {
        superuser.batch_execute("CALL tally.maintain()").unwrap();
        number(&mut superuser, "SELECT count(*) FROM tally.personal_column WHERE relation = 'app.held'")
    };
    maker.batch_execute("BEGIN; LOCK TABLE app.held").unwrap();
    assert_eq!(noted(), 1);
    maker.batch_execute("ROLLBACK").unwrap();
    assert_eq!(noted(), 0);
}

/// Before 18 no column is computed when it is read.
fn of_generated(statements: &str, has_virtual: bool) -> String {
    let heir = "CREATE TABLE app.split_heir (id int, mail text); CREATE TABLE app.child";
    let filled = if has_virtual { ", late text GENERATED ALWAYS AS (lower(mail)) VIRTUAL" } else { "" };
    statements.replace("CREATE TABLE app.child", heir).replace(" VIRTUAL", filled)
}

#[test]
fn what_derives_from_personal_is_personal() {
    let mut database = Database::new("catalog_flow");
    let admin = database.role("admin", &["tally_admin"]);
    let mut superuser = database.superuser();
    let mut client = database.connect(&admin);
    client
        .batch_execute(
            "SELECT tally.create_rollup('visits', '{day}', ARRAY['count(*) AS n', 'distinct(properties->>''mail'') AS mails', 'max(tally.property_number(properties, ''age'')) AS oldest'],
                      dimensions => ARRAY['properties->>''plan'' AS plan', 'upper(properties->''address''->>''city'') AS city'], filter => 'properties->>''consent'' = ''yes''')",
        )
        .unwrap();
    superuser
        .batch_execute(
            "CREATE SCHEMA app;
             CREATE TABLE app.people (id int8, mail text, born date, likes text[]);
             CREATE VIEW app.renamed AS SELECT id AS number, mail AS contact, born FROM app.people;
             CREATE VIEW app.nested AS WITH w AS (SELECT contact, count(*) AS n FROM app.renamed GROUP BY contact) SELECT w.n, lower(w.contact) AS c FROM w;
             CREATE VIEW app.either AS SELECT id::text AS v FROM app.people UNION ALL SELECT NULL UNION ALL SELECT c FROM app.nested;
             CREATE VIEW app.inside AS SELECT (SELECT max(p.mail) FROM app.people AS p WHERE p.id = o.id) AS top, o.born FROM app.people AS o;
             CREATE VIEW app.beside AS SELECT x.l FROM app.people AS p CROSS JOIN LATERAL (SELECT unnest(p.likes) || p.mail AS l) AS x;
             CREATE VIEW app.joined AS SELECT id, a.mail, b.born FROM app.people AS a JOIN app.people AS b USING (id);
             CREATE VIEW app.whole AS SELECT p AS everything FROM app.people AS p;
             CREATE VIEW app.windowed AS SELECT id, first_value(mail) OVER (ORDER BY born) AS first FROM app.people;
             CREATE VIEW app.chosen AS SELECT id FROM app.people WHERE mail LIKE '%@example.com';
             CREATE FUNCTION app.mails() RETURNS SETOF text LANGUAGE sql STABLE BEGIN ATOMIC SELECT mail FROM app.people; END;
             CREATE VIEW app.called AS SELECT m.m FROM app.mails() AS m (m);
             CREATE MATERIALIZED VIEW app.stored AS SELECT n, c FROM app.nested;
             CREATE VIEW app.recursive AS WITH RECURSIVE r (m, n) AS (SELECT mail, 1 FROM app.people UNION ALL SELECT m, n + 1 FROM r WHERE n < 3) SELECT m, n FROM r;
             CREATE VIEW app.plans AS SELECT plan, city, mails, n FROM tally.visits_day;
             CREATE VIEW app.sent AS SELECT properties->>'plan' AS plan, properties->>'mail' AS mail, properties, account_id FROM tally.events;
             CREATE VIEW app.persons AS SELECT user_id FROM tally.users",
        )
        .unwrap();
    let personal = [
        "nested.c",
        "either.v",
        "inside.top",
        "beside.l",
        "joined.mail",
        "whole.everything",
        "windowed.first",
        "called.m",
        "stored.c",
        "recursive.m",
        "renamed.contact",
    ];
    let other = [
        "nested.n",
        "inside.born",
        "joined.born",
        "joined.id",
        "windowed.id",
        "chosen.id",
        "stored.n",
        "recursive.n",
        "renamed.number",
        "people.born",
    ];
    let known = classes(&mut client);
    for column in personal.iter().chain(&other) {
        assert_eq!(known[&format!("app.{column}")], "internal", "{column} before");
    }
    assert_eq!(classify(&mut client, "app.people.mail", "personal").unwrap(), "personal");
    let known = classes(&mut client);
    for column in personal {
        assert_eq!(known[&format!("app.{column}")], "personal", "{column}");
        let view = format!("app.{}", column.split('.').next().unwrap());
        assert_eq!(known[&view], "personal", "{view}");
    }
    for column in other {
        assert_eq!(known[&format!("app.{column}")], "internal", "{column}");
    }
    assert_eq!(known["app.chosen"], "internal", "rows that are chosen by a mail have none");

    // Properties of which nobody said anything may be anything.
    for asset in [
        "property:plan",
        "app.sent.plan",
        "app.sent.properties",
        "app.plans.plan",
        "tally.visits_day.plan",
        "app.persons.user_id",
        "property:address",
        "app.plans.city",
    ] {
        assert_eq!(known[asset], "personal", "{asset}");
    }
    assert_eq!(ingest(&mut superuser, r#"{"tenant_id":"acme","account_id":"x","name":"n","event_id":"00000000-0000-4000-8000-000000000001","occurred_at":"2026-11-01T00:00:00Z"}"#).unwrap().accepted, 1);
    // Generated columns, and what is made of them; not defaults, nor what comes from other columns.
    superuser
        .batch_execute(&of_generated(
            "CREATE FUNCTION app.text_body(t text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN t; END';
             CREATE TABLE app.crm (id int8, mail text, mail_lower text GENERATED ALWAYS AS (lower(mail)) STORED, twice int8 GENERATED ALWAYS AS (id * 2) STORED,
               hidden text GENERATED ALWAYS AS (app.text_body(mail)) STORED, filled text DEFAULT current_user VIRTUAL);
             CREATE TABLE app.split (id int, mail text, top text GENERATED ALWAYS AS (upper(mail)) STORED, twice int GENERATED ALWAYS AS (id * 2) STORED) PARTITION BY RANGE (id);
             CREATE TABLE app.split1 PARTITION OF app.split FOR VALUES FROM (0) TO (100);
             CREATE TABLE app.child (own text GENERATED ALWAYS AS (mail || 'x') STORED) INHERITS (app.split_heir);
             CREATE VIEW app.over AS SELECT mail_lower AS m, twice, filled FROM app.crm;
             CREATE MATERIALIZED VIEW app.kept AS SELECT top, twice FROM app.split;
             ALTER TABLE tally.events ADD COLUMN plan text GENERATED ALWAYS AS (properties->>'plan') STORED, ADD COLUMN mail text GENERATED ALWAYS AS (lower(properties->>'mail')) STORED,
               ADD COLUMN size int GENERATED ALWAYS AS (length(name)) STORED;
             CREATE VIEW app.plan_of AS SELECT plan, mail, size FROM tally.events;
             ALTER TABLE tally.visits_day_base ADD COLUMN city_lower text GENERATED ALWAYS AS (lower(city)) STORED, ADD COLUMN twice int8 GENERATED ALWAYS AS (n * 2) STORED",
            number(&mut client, "SELECT current_setting('server_version_num')::bigint") >= 180_000,
        ))
        .unwrap();
    for column in ["crm.mail", "split.mail", "split_heir.mail"] {
        classify(&mut client, &format!("app.{column}"), "personal").unwrap();
    }
    classify(&mut client, "property:plan", "internal").unwrap();
    classify(&mut client, "property:mail", "sensitive").unwrap();
    let known = classes(&mut client);
    for (asset, expected) in [
        ("app.crm.mail_lower", "personal"),
        ("app.crm.hidden", "personal"),
        ("app.crm.twice", "internal"),
        ("app.crm.filled", "internal"),
        ("app.over.m", "personal"),
        ("app.over.twice", "internal"),
        ("app.split.top", "personal"),
        ("app.split.twice", "internal"),
        ("app.split1.top", "personal"),
        ("app.split1.twice", "internal"),
        ("app.child.own", "personal"),
        ("app.kept.top", "personal"),
        ("app.kept.twice", "internal"),
        ("tally.events.plan", "internal"),
        ("tally.events.mail", "sensitive"),
        ("tally.events.size", "internal"),
        ("app.plan_of.plan", "internal"),
        ("app.plan_of.mail", "sensitive"),
        ("tally.visits_day_base.city_lower", "personal"),
        ("tally.visits_day_base.twice", "internal"),
    ] {
        assert_eq!(known[asset], expected, "{asset}");
    }
    let month: String = client
        .query_one("SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'tally.events'::regclass LIMIT 1", &[])
        .unwrap()
        .get(0);
    assert_eq!(
        (known[&format!("{month}.plan")].as_str(), known[&format!("{month}.mail")].as_str()),
        ("internal", "sensitive")
    );
    let reached = |client: &mut Client, asset: &str| -> Vec<String> {
        client
            .query("SELECT affected FROM tally.impact($1) WHERE kind = 'value'", &[&asset])
            .unwrap()
            .iter()
            .map(|row| row.get(0))
            .collect()
    };
    let of_mail = reached(&mut client, "app.crm.mail");
    for asset in ["app.crm.mail_lower", "app.crm.hidden", "app.over.m"] {
        assert!(of_mail.contains(&asset.to_owned()), "{asset}: {of_mail:?}");
    }
    assert!(!of_mail.contains(&"app.over.twice".to_owned()));
    assert!(reached(&mut client, "property:mail").contains(&"app.plan_of.mail".to_owned()));
    assert_eq!(
        number(
            &mut client,
            "SELECT count(*) FROM tally.lineage WHERE kind = 'unknown' AND target = 'app.crm.hidden'"
        ),
        1
    );
    superuser.batch_execute("DROP VIEW app.plan_of; ALTER TABLE tally.events DROP COLUMN plan, DROP COLUMN mail, DROP COLUMN size").unwrap();
    // What was said holds for a part of what an export reads, and of what the audit log asks for.
    let asked = "SELECT columns FROM tally_internal.personal_columns_now() WHERE name = 'app.crm'";
    let columns: String = superuser.query_one(asked, &[]).unwrap().get(0);
    // From 18 on there is a virtual column, too.
    let has_virtual =
        number(&mut superuser, "SELECT current_setting('server_version_num')::int8 / 10000") >= 18;
    let late = if has_virtual { r#", "late""# } else { "" };
    assert_eq!(columns, format!(r#"["mail", "mail_lower", "hidden"{late}]"#));
    client
        .batch_execute("SELECT tally.classify('property:plan', NULL, 'a test'), tally.classify('property:mail', NULL, 'a test')")
        .unwrap();
    let known = classes(&mut client);
    // Sketches and what is counted of them are none of the people.
    for asset in [
        "app.plans.mails",
        "app.plans.n",
        "app.sent.account_id",
        "tally.usage_day",
        "tally.usage_day.users",
        "tally.accounts.users",
        "tally.payment_day",
    ] {
        assert_eq!(known[asset], "internal", "{asset}");
    }
    assert_eq!(classify(&mut client, "property:plan", "internal").unwrap(), "internal");
    let known = classes(&mut client);
    for asset in ["app.sent.plan", "app.plans.plan", "tally.visits_pending.plan"] {
        assert_eq!(known[asset], "internal", "{asset}");
    }
    assert_eq!(known["app.sent.mail"], "personal");
    // A schema says so, too.
    client
        .batch_execute(r#"SELECT tally.register_event('visit', '{"type":"object","properties":{"age":{"type":"number","x-classification":"sensitive"}}}', 'a test')"#)
        .unwrap();
    assert_eq!(class(&mut client, "tally.visits_day.oldest"), "sensitive");

    // Lowered, with a reason, and only as long as it comes from the same.
    assert_eq!(code(client.execute("SELECT tally.classify('app.nested.c', 'internal', ' ')", &[])), "22004");
    assert_eq!(classify(&mut client, "app.nested.c", "internal").unwrap(), "internal");
    assert_eq!(class(&mut client, "app.stored.c"), "internal");
    superuser
        .batch_execute("CREATE OR REPLACE VIEW app.nested AS SELECT 1::int8 AS n, lower(contact) || number AS c FROM app.renamed")
        .unwrap();
    assert_eq!(class(&mut client, "app.nested.c"), "personal", "it comes from more than what was lowered");
    assert_eq!(classify(&mut client, "app.nested.c", "internal").unwrap(), "internal");
    assert_eq!(classify(&mut client, "app.people.mail", "sensitive").unwrap(), "sensitive");
    assert_eq!(class(&mut client, "app.nested.c"), "sensitive", "what it comes from has risen");
    // A table by itself isn't lowered beneath its columns; raised, it raises them.
    assert_eq!(code(classify(&mut client, "app.either", "public").map(drop)), "55000");
    assert_eq!(classify(&mut client, "app.people", "confidential").unwrap(), "confidential");
    assert_eq!(class(&mut client, "app.joined.born"), "confidential");
    // It stays with what is renamed.
    superuser
        .batch_execute(
            "ALTER TABLE app.people RENAME COLUMN mail TO email; ALTER TABLE app.people RENAME TO humans",
        )
        .unwrap();
    assert_eq!(class(&mut client, "app.humans.email"), "sensitive");
    assert_eq!(class(&mut client, "app.renamed.contact"), "sensitive");
    assert_eq!(classify(&mut client, "app.humans.email", "personal").unwrap(), "personal");
    assert_eq!(
        number(&mut client, "SELECT count(*) FROM tally.asset WHERE asset ~ '(people|humans).*mail'"),
        1
    );

    // What a change bears on.
    let reach = |client: &mut Client, asset: &str| -> Vec<String> {
        let rows = client
            .query("SELECT format('%s %s', kind, affected) FROM tally.impact($1) ORDER BY 1", &[&asset])
            .unwrap();
        rows.iter().map(|row| row.get(0)).collect()
    };
    let found = reach(&mut client, "property:plan");
    for wanted in [
        "value tally.visits_pending.plan",
        "value tally.visits_day_base.plan",
        "value tally.visits_day.plan",
        "value app.plans.plan",
        "value app.sent.plan",
    ] {
        assert!(found.iter().any(|line| line == wanted), "{wanted}: {found:?}");
    }
    assert!(!found.iter().any(|line| line.starts_with("value") && line.contains("city")), "{found:?}");
    let found = reach(&mut client, "property:consent");
    for wanted in ["condition tally.visits_pending", "condition app.plans.n"] {
        assert!(found.iter().any(|line| line == wanted), "{wanted}: {found:?}");
    }
    assert_eq!(code(client.query("SELECT * FROM tally.impact('app.nothing')", &[])), "42704");
    // A dropped view takes nothing else along.
    superuser.batch_execute("DROP SCHEMA app CASCADE").unwrap();
    assert_eq!(number(&mut client, "SELECT count(*) FROM tally.catalog WHERE asset ~ '^app'"), 0);
    assert_eq!(number(&mut client, "SELECT count(*) FROM tally_internal.classes() WHERE asset ~ '^app'"), 0);
}

/// A recursive query hands values from one of its columns to another, each time further.
#[test]
fn what_comes_from_personal_by_recursion_is_personal() {
    let mut database = Database::new("recursion");
    let admin = database.role("admin", &["tally_admin"]);
    let mut superuser = database.superuser();
    let rotated = "WITH RECURSIVE x (i, a, b, c, d) AS (SELECT id, mail, plan, plan, plan FROM app.people UNION ALL SELECT i + 1, d, a, b, c FROM x WHERE i < 9)";
    let views = [
        ("plain", "WITH RECURSIVE x (i, m, p) AS (SELECT id, mail, plan FROM app.people UNION ALL SELECT i + 1, m, p FROM x WHERE i < 3) SELECT p AS kept, m AS c FROM x".to_owned()),
        ("swapped", "WITH RECURSIVE x (i, m, z) AS (SELECT id, mail, plan FROM app.people UNION ALL SELECT i + 1, z, m FROM x WHERE i < 3) SELECT i AS kept, z AS c FROM x".to_owned()),
        ("rotated", format!("{rotated} SELECT i AS kept, d AS c FROM x")),
        ("searched", "WITH RECURSIVE x (i, m) AS (SELECT id, mail FROM app.people UNION ALL SELECT i + 1, m FROM x WHERE i < 3) SEARCH DEPTH FIRST BY m SET ord SELECT i AS kept, ord::text AS c FROM x".to_owned()),
        ("cycled", "WITH RECURSIVE x (i, m) AS (SELECT id, mail FROM app.people UNION ALL SELECT i + 1, m FROM x) CYCLE m SET isc USING pth SELECT i AS kept, pth::text AS c FROM x".to_owned()),
        ("nested", format!("WITH RECURSIVE y (i, k, l) AS (SELECT id, plan, plan FROM app.people UNION ALL SELECT s.i + 1, s.l, s.k FROM ({rotated} SELECT y.i, y.l, x.c AS k FROM x JOIN y USING (i)) AS s WHERE s.i < 3) SELECT i AS kept, l AS c FROM y")),
        ("harmless", "WITH RECURSIVE x (i, p, z) AS (SELECT id, plan, plan FROM app.people UNION ALL SELECT i + 1, z, p FROM x WHERE i < 3) SELECT i AS kept, z AS c FROM x".to_owned()),
    ];
    superuser
        .batch_execute(&format!(
            "CREATE SCHEMA app; GRANT USAGE ON SCHEMA app TO PUBLIC; CREATE TABLE app.people (id int, mail text, plan text); GRANT SELECT ON app.people TO {admin}; {}",
            views.iter().map(|(name, query)| format!("CREATE VIEW app.{name} AS {query};")).collect::<String>()
        ))
        .unwrap();
    let mut admin = database.connect(&admin);
    classify(&mut admin, "app.people.mail", "personal").unwrap();
    admin.batch_execute("CALL tally.maintain()").unwrap();
    let classes = classes(&mut admin);
    for (name, _) in &views {
        let wanted = if *name == "harmless" { "internal" } else { "personal" };
        assert_eq!(classes[&format!("app.{name}.c")], wanted, "{name}");
        assert_eq!(classes[&format!("app.{name}.kept")], "internal", "{name}");
    }
}

#[test]
fn what_takes_a_tables_place_is_protected_like_it_and_what_hides_is_said_to() {
    let mut database = Database::new("catalog_swap");
    let admin = database.role("admin", &["tally_admin"]);
    let mut superuser = database.superuser();
    let mut client = database.connect(&admin);
    superuser
        .batch_execute(
            "CREATE SCHEMA app; CREATE TABLE app.people (id int8, mail text, likes text); CREATE TABLE app.orders (id int8); CREATE TABLE app.notes (body text)",
        )
        .unwrap();
    for (asset, class) in
        [("app.people.mail", "personal"), ("app.people.likes", "public"), ("app.notes", "confidential")]
    {
        classify(&mut client, asset, class).unwrap();
    }
    client.batch_execute("SELECT tally.describe_asset('app.people.mail', purpose => 'letters')").unwrap();
    // As one changes a large table: a copy takes its place. And a table that is made again.
    superuser
        .batch_execute(
            "CREATE TABLE app.people_new (id int8, mail text, likes text);
             ALTER TABLE app.people RENAME TO people_old; ALTER TABLE app.people_new RENAME TO people;
             DROP TABLE app.notes; CREATE TABLE app.notes (body text);
             CREATE VIEW app.mails AS SELECT mail FROM app.people",
        )
        .unwrap();
    let known = classes(&mut client);
    for (asset, class) in [
        ("app.people.mail", "personal"),
        ("app.people_old.mail", "personal"),
        ("app.mails.mail", "personal"),
        ("app.notes.body", "confidential"),
        ("app.people_old.likes", "public"),
        // What made it lower was said of the other one.
        ("app.people.likes", "internal"),
        ("app.orders.id", "internal"),
    ] {
        assert_eq!(known[asset], class, "{asset}");
    }
    let mut review = |wanted: &str| -> i64 {
        let query = "SELECT count(*) FROM tally.governance_review() WHERE format('%s %s: %s', section, asset, finding) LIKE $1";
        client.query_one(query, &[&format!("%{wanted}%")]).unwrap().get(0)
    };
    assert_eq!(
        review(
            "exceptions app.people.mail: another table or column has this name since this was said of it, personal holds for both"
        ),
        1
    );
    // What was said of it is its own from now on; the other one keeps its.
    let mut client = database.connect(&admin);
    client.batch_execute("SELECT tally.describe_asset('app.people.mail', owner => 'Sales')").unwrap();
    let known = classes(&mut client);
    assert_eq!((&*known["app.people.mail"], &*known["app.people_old.mail"]), ("personal", "personal"));
    let kept = "SELECT count(*) FROM tally.catalog WHERE asset IN ('app.people.mail', 'app.people_old.mail') AND purpose = 'letters'";
    assert_eq!(number(&mut client, kept), 2);
    classify(&mut client, "app.people.mail", "sensitive").unwrap();
    let known = classes(&mut client);
    assert_eq!((&*known["app.people.mail"], &*known["app.people_old.mail"]), ("sensitive", "personal"));

    // Swapped again, and two that exchange their names.
    superuser
        .batch_execute(
            "DROP TABLE app.people_old; CREATE TABLE app.people_new (id int8, mail text, likes text);
             DROP VIEW app.mails; ALTER TABLE app.people RENAME TO people_old; ALTER TABLE app.people_new RENAME TO people",
        )
        .unwrap();
    for column in ["mail", "likes", "id"] {
        classify(&mut client, &format!("app.people.{column}"), "personal").unwrap();
    }
    let known = classes(&mut client);
    assert_eq!((&*known["app.people.mail"], &*known["app.people_old.mail"]), ("personal", "sensitive"));
    superuser
        .batch_execute("ALTER TABLE app.people RENAME TO p; ALTER TABLE app.people_old RENAME TO people; ALTER TABLE app.p RENAME TO people_old")
        .unwrap();
    client.batch_execute("SELECT tally.describe_asset('app.people.mail', owner => 'Support')").unwrap();
    let known = classes(&mut client);
    assert_eq!((&*known["app.people.mail"], &*known["app.people_old.mail"]), ("sensitive", "personal"));
    assert_eq!(number(&mut client, "SELECT count(*) FROM tally.asset WHERE asset LIKE 'moving%'"), 0);

    // A body that is a text may read anything; one that Postgres has read is followed, also into the functions that it calls.
    superuser
        .batch_execute(
            "CREATE FUNCTION app.first() RETURNS text LANGUAGE sql STABLE BEGIN ATOMIC SELECT min(mail) FROM app.people; END;
             CREATE FUNCTION app.outer() RETURNS text LANGUAGE sql STABLE BEGIN ATOMIC SELECT upper(app.first()); END;
             CREATE FUNCTION app.hidden() RETURNS text LANGUAGE plpgsql STABLE AS 'BEGIN RETURN (SELECT min(mail) FROM app.people); END';
             CREATE FUNCTION app.around() RETURNS text LANGUAGE sql STABLE BEGIN ATOMIC SELECT app.hidden(); END;
             CREATE VIEW app.shown AS SELECT o.id, app.outer() AS followed, app.hidden() AS h, app.around() AS a FROM app.orders AS o;
             CREATE VIEW app.kept AS SELECT o.id FROM app.orders AS o WHERE app.hidden() = 'x'",
        )
        .unwrap();
    let known = classes(&mut client);
    assert_eq!(known["app.shown.followed"], "sensitive");
    let unknown: Vec<String> = client
        .query(
            "SELECT format('%s < %s', target, source) FROM tally.lineage WHERE kind = 'unknown' ORDER BY 1",
            &[],
        )
        .unwrap()
        .iter()
        .map(|row| row.get(0))
        .collect();
    let function = "function:app.hidden()";
    assert_eq!(
        unknown,
        ["app.kept", "app.shown.a", "app.shown.h"].map(|target| format!("{target} < {function}"))
    );
    assert_eq!(number(&mut client, "SELECT count(*) FROM tally.catalog WHERE origin = 'unknown'"), 2);
    let wanted = format!("SELECT count(*) FROM tally.impact('{function}') WHERE affected = 'app.shown.h'");
    assert_eq!(number(&mut client, &wanted), 1);
    let hidden = "SELECT count(*) FROM tally.governance_review() WHERE section = 'lineage'";
    assert_eq!(number(&mut client, hidden), 2);
    classify(&mut client, "app.shown.h", "sensitive").unwrap();
    assert_eq!(number(&mut client, hidden), 1);
}

/// A table's owner may rename and add columns, and lower no class by it.
#[test]
fn what_was_said_of_a_column_stays_with_it_whatever_is_called_like_it_then() {
    let mut database = Database::new("catalog_decoy");
    let admin = database.role("admin", &["tally_admin"]);
    let owner = database.role("owner", &[]);
    let mut client = database.connect(&admin);
    let mut superuser = database.superuser();
    superuser
        .batch_execute(&format!(
            "CREATE SCHEMA app AUTHORIZATION {owner}; SET ROLE {owner};
             CREATE TABLE app.crm (gone int, mail text, phone text, nick text); CREATE VIEW app.over AS SELECT mail AS m FROM app.crm; ALTER TABLE app.crm DROP COLUMN gone; RESET ROLE"
        ))
        .unwrap();
    classify(&mut client, "app.crm.mail", "personal").unwrap();
    classify(&mut client, "app.crm.nick", "public").unwrap();
    let mut keeper = database.connect(&owner);
    let classes_of = |client: &mut Client, expected: &[(&str, &str)]| {
        let known = classes(client);
        for (asset, class) in expected {
            assert_eq!(known[&format!("app.{asset}")], *class, "{asset}");
        }
    };
    let review = |client: &mut Client, asset: &str| {
        number(
            client,
            &format!(
                "SELECT count(*) FROM tally.governance_review() WHERE asset = '{asset}' AND finding LIKE 'another table or column has this name%'"
            ),
        )
    };
    assert_eq!(review(&mut client, "app.crm.mail"), 0);
    // A decoy in its place: both are protected, and the review tells.
    keeper
        .batch_execute("ALTER TABLE app.crm RENAME mail TO contact; ALTER TABLE app.crm ADD COLUMN mail text")
        .unwrap();
    classes_of(
        &mut client,
        &[
            ("crm.contact", "personal"),
            ("over.m", "personal"),
            ("crm.mail", "personal"),
            ("crm.phone", "internal"),
            ("crm.nick", "public"),
        ],
    );
    assert_eq!(review(&mut client, "app.crm.mail"), 1);
    let columns: String = superuser
        .query_one("SELECT columns FROM tally_internal.personal_columns_now() WHERE name = 'app.crm'", &[])
        .unwrap()
        .get(0);
    assert_eq!(columns, r#"["contact", "mail"]"#);
    // What lowers passes to no other column; two that exchange their names keep what protects them.
    keeper
        .batch_execute("ALTER TABLE app.crm DROP COLUMN nick; ALTER TABLE app.crm ADD COLUMN nick text")
        .unwrap();
    classes_of(&mut client, &[("crm.nick", "internal")]);
    keeper.batch_execute("ALTER TABLE app.crm DROP COLUMN mail; ALTER TABLE app.crm RENAME phone TO mail; ALTER TABLE app.crm RENAME contact TO phone").unwrap();
    classify(&mut client, "app.crm.mail", "public").unwrap();
    classes_of(&mut client, &[("crm.phone", "personal"), ("crm.mail", "public"), ("over.m", "personal")]);
    // Said anew, by the name that it has now.
    classify(&mut client, "app.crm.phone", "sensitive").unwrap();
    classes_of(&mut client, &[("crm.phone", "sensitive"), ("crm.mail", "public"), ("over.m", "sensitive")]);
    assert_eq!(review(&mut client, "app.crm.phone") + review(&mut client, "app.crm.mail"), 0);
}

/// Reads of personal columns are recorded, and each change of a definition is an entry that says who, why, from what, to what, and
/// that is sealed.
#[test]
fn the_audit_log_knows_what_is_personal_and_what_changed() {
    let server = PrivateServer::create(
        "catalog_audit",
        "shared_preload_libraries = 'pg_tally'\ntally.worker_databases = 'shop'\ntally.worker_role = 'worker'\ntally.worker_interval = 1",
    );
    let mut postgres = server.connect("postgres", "postgres");
    postgres.batch_execute("CREATE ROLE worker LOGIN; CREATE ROLE admin LOGIN; CREATE ROLE bi LOGIN; CREATE ROLE auditor LOGIN").unwrap();
    postgres.batch_execute("CREATE DATABASE shop").unwrap();
    let mut superuser = server.connect("postgres", "shop");
    superuser
        .batch_execute(
            "CREATE EXTENSION pg_tally; SELECT tally.open_months('-infinity'); GRANT tally_admin TO worker, admin; GRANT tally_reader, tally_writer TO bi; GRANT tally_auditor TO auditor;
             CREATE SCHEMA app; CREATE TABLE app.orders (tenant_id text NOT NULL, mail text, price int8); INSERT INTO app.orders VALUES ('acme', 'a@example.com', 1);
             GRANT USAGE ON SCHEMA app TO bi, admin; GRANT CREATE ON SCHEMA app TO admin; ALTER TABLE app.orders OWNER TO admin; SET ROLE admin; SELECT tally.protect('app.orders'); GRANT SELECT ON app.orders TO bi;
             CREATE VIEW app.prices AS SELECT price FROM app.orders; GRANT SELECT ON app.prices TO bi; RESET ROLE",
        )
        .unwrap();
    let mut admin = server.connect("admin", "shop");
    admin.batch_execute("SELECT tally.bind_role('bi', 'acme'), tally.set_audit_policy('raw')").unwrap();
    let mut bi = server.connect("bi", "shop");
    assert_eq!(ingest(&mut bi, r#"{"tenant_id":"acme","account_id":"x","name":"n","user_id":"u","event_id":"00000000-0000-4000-8000-000000000001","occurred_at":"2026-11-01T00:00:00Z"}"#).unwrap().accepted, 1);
    let mut auditor = server.connect("auditor", "shop");
    let reads = |auditor: &mut Client, relation: &str| {
        let query = "SELECT count(*) FROM tally.audit WHERE act = 'read' AND actor = 'bi' AND detail -> 'relations' ? $1";
        auditor.query_one(query, &[&relation]).unwrap().get::<_, i64>(0)
    };
    bi.batch_execute("SELECT mail FROM app.orders").unwrap();
    admin
        .batch_execute(
            "ALTER TABLE app.orders ADD COLUMN mail_lower text GENERATED ALWAYS AS (lower(mail)) STORED",
        )
        .unwrap();
    admin.batch_execute("SELECT tally.classify('app.orders.mail', 'personal', 'an address')").unwrap();
    bi.batch_execute("SELECT mail_lower FROM app.orders").unwrap();
    wait_for("the read", || (reads(&mut auditor, "app.orders") == 1).then_some(()));
    // The worker may be looking, too.
    let looks = |admin: &mut Client| {
        let look = "SELECT tally_internal.note_personal_columns()";
        wait_for("a look for what is personal", || admin.batch_execute(look).ok());
    };
    admin.batch_execute("ALTER TABLE app.orders DROP COLUMN mail_lower").unwrap();
    looks(&mut admin);
    bi.batch_execute("SELECT price FROM app.orders; SELECT price FROM app.prices").unwrap();
    bi.batch_execute("SELECT mail FROM app.orders").unwrap();
    bi.batch_execute("SELECT o FROM app.orders AS o").unwrap();
    bi.batch_execute("SELECT count(*) FROM app.orders WHERE mail = 'x'").unwrap();
    wait_for("the reads", || (reads(&mut auditor, "app.orders") == 4).then_some(()));
    // What a rollup keeps of people, once the worker or a round of housekeeping has looked.
    looks(&mut admin);
    bi.batch_execute("SELECT user_id FROM tally.users").unwrap();
    bi.batch_execute("SELECT events FROM tally.usage_day").unwrap();
    wait_for("the read", || {
        (reads(&mut auditor, "tally.user_activity_pending")
            + reads(&mut auditor, "tally.user_activity_year_base")
            > 0)
        .then_some(())
    });
    assert_eq!(reads(&mut auditor, "tally.usage_day_base") + reads(&mut auditor, "app.prices"), 0);
    // A generated column may be made of anything else, until somebody has looked; of one that is computed when it is read nothing but the
    // column's own row tells.
    let is_virtual =
        number(&mut superuser, "SELECT current_setting('server_version_num')::int8 / 10000") >= 18;
    superuser
        .batch_execute(&format!(
            "SET ROLE admin; CREATE TABLE app.sums (tenant_id text NOT NULL, n int, m int GENERATED ALWAYS AS (n + 1) {});
             SELECT tally.protect('app.sums'); GRANT SELECT ON app.sums TO bi; RESET ROLE",
            if is_virtual { "VIRTUAL" } else { "STORED" }
        ))
        .unwrap();
    wait_for("a look that has seen the table", || {
        looks(&mut admin);
        let seen =
            "SELECT count(*) FROM tally.personal_column AS p WHERE p.relation = '-' AND p.columns::int8 >
                      (SELECT max(c.xmin::text::int8) FROM pg_class AS c WHERE c.oid = 'app.sums'::regclass)";
        (number(&mut superuser, seen) == 1).then_some(())
    });
    bi.batch_execute("SELECT m FROM app.sums").unwrap();
    // As long as this is open, nobody has seen what began after it.
    postgres = server.connect("postgres", "shop");
    postgres.batch_execute("BEGIN; SELECT pg_current_xact_id()").unwrap();
    superuser
        .batch_execute(if is_virtual {
            "ALTER TABLE app.sums ALTER COLUMN m SET EXPRESSION AS (n + 2)"
        } else {
            "SET allow_system_table_mods = on; UPDATE pg_attribute SET attstattarget = 1 WHERE attrelid = 'app.sums'::regclass AND attname = 'm'"
        })
        .unwrap();
    looks(&mut admin);
    bi.batch_execute("SELECT m + 1 FROM app.sums").unwrap();
    wait_for("the read", || (reads(&mut auditor, "app.sums") > 0).then_some(()));
    assert_eq!(reads(&mut auditor, "app.sums"), 1);
    postgres.batch_execute("ROLLBACK").unwrap();
    admin
        .batch_execute("SELECT tally.classify('app.orders.mail', 'internal', 'all of example.com')")
        .unwrap();
    bi.batch_execute("SELECT mail FROM app.orders").unwrap();

    // Definitions of every kind.
    admin
        .batch_execute(
            r#"SELECT tally.create_rollup('r', '{day}', ARRAY['count(*) AS n']); SELECT tally.alter_rollup('r', ARRAY['max(occurred_at) AS latest']);
               SELECT tally.define_metric('m', '{"kind":"events","event":"n"}'); SELECT tally.define_metric('m', '{"kind":"events","event":"o"}');
               SELECT tally.define_cohort('c', '{"kind":"cohort","at_least":1}');
               SELECT tally.register_event('n', '{"type":"object"}', 'we need it');
               SELECT tally.describe_asset('rollup:r', owner => 'Numbers team', purpose => 'billing');
               SELECT tally.describe_asset('rollup:r', owner => 'Billing team');
               SELECT tally.set_retention('acme', '1 year'); SELECT tally.drop_rollup('r')"#,
        )
        .unwrap();
    let entries = |auditor: &mut Client, act: &str, object: &str| -> Vec<Value> {
        let query = "SELECT detail FROM tally.audit WHERE act = $1 AND object = $2 AND actor = 'admin' ORDER BY at, entry_id";
        auditor.query(query, &[&act, &object]).unwrap().iter().map(|row| row.get(0)).collect()
    };
    let lowered = wait_for("the last entry", || {
        entries(&mut auditor, "rollup_removed", "r").pop()?;
        entries(&mut auditor, "classified", "app.orders.mail").pop()
    });
    assert_eq!((lowered["reason"].as_str(), lowered["lowers"].as_str()), (Some("all of example.com"), None));
    let changed = entries(&mut auditor, "asset_changed", "app.orders.mail");
    assert!(changed.iter().any(|detail| detail["from"]["classification"] == "personal"), "{changed:?}");
    // Who answers for something may be a person: that is what can be erased.
    let owners = "SELECT EXISTS (SELECT FROM tally.audit WHERE act = 'asset_changed' AND object = 'rollup:r' AND NOT detail -> 'to' ? 'owner'
          AND personal -> 'from' ->> 'owner' = 'Numbers team' AND personal -> 'to' ->> 'owner' = 'Billing team')";
    assert!(auditor.query_one(owners, &[]).unwrap().get::<_, bool>(0));
    for (act, object) in [
        ("rollup_added", "r"),
        ("rollup_removed", "r"),
        ("rollup_column_added", "r"),
        ("metric_added", "m"),
        ("cohort_added", "c"),
        ("schema_added", "n"),
        ("retention_added", "acme"),
    ] {
        assert!(!entries(&mut auditor, act, object).is_empty(), "{act} {object}");
    }
    let columns = entries(&mut auditor, "rollup_column_added", "r");
    assert!(
        columns
            .iter()
            .any(|detail| detail["to"]["column_name"] == "latest"
                && detail["to"]["expression"] == "occurred_at"),
        "{columns:?}"
    );
    assert_eq!(entries(&mut auditor, "schema_added", "n")[0]["to"]["reason"], "we need it");
    wait_for("seals", || {
        let state = auditor
            .query_one("SELECT unsealed_since IS NULL FROM tally_internal.audit_state()", &[])
            .unwrap();
        state.get::<_, bool>(0).then_some(())
    });
    let anchor: String = auditor.query_one("SELECT tally.audit_anchor()", &[]).unwrap().get(0);
    assert!(auditor.query("SELECT * FROM tally.verify_audit($1)", &[&anchor]).unwrap().is_empty());
    superuser
        .batch_execute("DO $$ DECLARE t regclass; BEGIN FOR t IN SELECT inhrelid FROM pg_inherits WHERE inhparent = 'tally.audit_entry'::regclass LOOP EXECUTE format('ALTER TABLE %s DISABLE TRIGGER ALL', t); END LOOP; END $$; UPDATE tally.audit_entry SET detail = replace(detail, 'all of example.com', 'no reason') WHERE act = 'classified'")
        .unwrap();
    assert!(
        !auditor.query("SELECT * FROM tally.verify_audit($1)", &[&anchor]).unwrap().is_empty(),
        "it is sealed"
    );
}
