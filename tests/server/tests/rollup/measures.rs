//! Measures of values that nobody expects: the ends of what a type holds, text that the database orders in its own way, types of which
//! Postgres has no minimum, and literals that say a moment.

use postgres::{Client, SimpleQueryMessage};
use serde_json::json;
use tally_server_tests::{Database, assert_right, fold_all, ingest, number};

/// An administrator who also ingests and reads everything.
fn administrator(database: &mut Database) -> Client {
    let admin = database.role("admin", &["tally_admin", "tally_writer", "tally_reader", "tally_auditor"]);
    let mut superuser = database.superuser();
    superuser.execute("SELECT tally.trust_role($1::text::regrole)", &[&admin]).unwrap();
    database.connect(&admin)
}

/// Sends one event with these properties.
fn send(
    client: &mut Client,
    number: usize,
    tenant: &str,
    account: &str,
    properties: serde_json::Value,
) -> i64 {
    let event = json!([{"tenant_id": tenant, "account_id": account, "name": "ran", "event_id": format!("00000000-0000-4000-8000-{number:012}"),
                        "occurred_at": "2026-03-01T00:00:00Z", "properties": properties}]);
    ingest(client, &event.to_string()).unwrap().accepted
}

/// Rows of a query in the scope of everybody, each as text.
fn rows(admin: &mut Client, query: &str) -> Vec<String> {
    let all = format!("BEGIN; SELECT tally.enter_global(); {query}; COMMIT");
    let messages = admin.simple_query(&all).unwrap_or_else(|problem| panic!("{query}: {problem:?}"));
    let rows = messages.iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => {
            Some((0..row.len()).map(|place| row.get(place).unwrap_or("-")).collect::<Vec<_>>().join(" "))
        }
        _ => None,
    });
    // The first is what entering the scope answers.
    rows.skip(1).collect()
}

fn refused(client: &mut Client, statement: &str) -> (String, String) {
    let error = client.batch_execute(statement).expect_err(statement);
    let error = error.as_db_error().unwrap_or_else(|| panic!("{statement}: {error}"));
    (error.code().code().to_owned(), error.hint().unwrap_or_default().to_owned())
}

#[test]
fn any_time_of_a_sender_is_measured_and_folded() {
    let mut database = Database::new("extreme_times");
    let mut admin = administrator(&mut database);
    admin
        .batch_execute(
            "SELECT tally.create_rollup('far', '{day,month}', dimensions => '{}', measures => ARRAY[
               $$session_windows(to_timestamp(tally.property_float(properties, 't'))) AS visits$$,
               $$days(to_timestamp(tally.property_float(properties, 't'))) AS present$$,
               $$min(to_timestamp(tally.property_float(properties, 't'))) AS least$$,
               $$last(to_timestamp(tally.property_float(properties, 't'))) AS latest$$,
               $$distinct(to_timestamp(tally.property_float(properties, 't'))) AS several$$,
               $$distinct(CASE WHEN tally.property_float(properties, 't') < 0 THEN '-infinity'::timestamptz ELSE 'infinity' END) AS ever$$,
               $$max(CASE WHEN tally.property_float(properties, 't') < 0 THEN '-infinity'::timestamptz ELSE 'infinity' END) AS evermost$$,
               $$percentiles(tally.property_float(properties, 't')) AS some$$])",
        )
        .unwrap();
    // The first and the last time that there is, from account to account in one batch or in several, and a tenant beside them.
    let ends = [-210_866_803_200_i64, 9_224_318_015_999];
    for (place, end) in ends.into_iter().enumerate() {
        assert_eq!(send(&mut admin, place, "one", "apart", json!({"t": end})), 1);
        assert_eq!(
            send(&mut admin, 10 + place, "other", "calm", json!({"t": 1_700_000_000 + 60 * place})),
            1
        );
    }
    let both: Vec<_> = ends
        .iter()
        .enumerate()
        .map(|(place, end)| {
            json!({"tenant_id": "one", "account_id": "at_once", "name": "ran", "event_id": format!("00000000-0000-4000-8000-0000000000{}", 20 + place),
                   "occurred_at": "2026-03-01T00:00:00Z", "properties": {"t": end}})
        })
        .collect();
    assert_eq!(ingest(&mut admin, &json!(both).to_string()).unwrap().accepted, 2);
    let shown = "SELECT tenant_id, account_id, visits, present, several, ever, evermost FROM tally.far_month ORDER BY 1, 2";
    let expected =
        ["one apart 2 2 2 2 infinity", "one at_once 2 2 2 2 infinity", "other calm 1 1 2 1 infinity"];
    assert_eq!(rows(&mut admin, shown), expected, "before the fold");
    assert_right(&mut admin, "far");
    fold_all(&mut admin, "far");
    assert_eq!(number(&mut database.superuser(), "SELECT count(*) FROM tally.far_pending"), 0);
    assert_eq!(rows(&mut admin, shown), expected, "after the fold");
    assert_right(&mut admin, "far");
    let starts = "SELECT tally.session_window_starts(visits) = ARRAY[to_timestamp(-210866803200), to_timestamp(9224318015999)] \
                    FROM tally.far_day_state WHERE account_id = 'apart'";
    assert_eq!(rows(&mut admin, starts), ["t"]);
}

/// Extremes, first and last values of text, in several types, with and without a collation of their own; a dimension that has one.
const TEXTS: &str = "SELECT tally.create_rollup('texts', '{day,month}', dimensions => ARRAY[$$((properties ->> 'y') COLLATE app.any_case) AS plan$$],
    measures => ARRAY[
    $$min(properties ->> 'x') AS lo$$, $$max(properties ->> 'x') AS hi$$, $$first(properties ->> 'x') AS f$$, $$last(properties ->> 'x') AS l$$,
    $$min((properties ->> 'x') COLLATE \"en-x-icu\") AS en_lo$$, $$max((properties ->> 'x') COLLATE \"en-x-icu\") AS en_hi$$,
    $$first((properties ->> 'x') COLLATE app.any_case) AS case_f$$, $$max((properties ->> 'x') COLLATE app.any_case) AS case_hi$$,
    $$min(ARRAY[properties ->> 'x']) AS list_lo$$, $$max(ARRAY[properties ->> 'x']) AS list_hi$$, $$min((properties ->> 'x')::varchar) AS v_lo$$,
    $$max((properties ->> 'x')::char(3)) AS c_hi$$, $$last((properties ->> 'x')::app.word) AS w_l$$, $$max((properties ->> 'x')::app.word) AS w_hi$$,
    $$last(app.words(properties ->> 'x', 'zz')) AS r_l$$,
    $$distinct((properties ->> 'x') COLLATE app.any_case) AS different$$])";

fn text_is_ordered_by_its_bytes(database: &mut Database) {
    let mut admin = administrator(database);
    database
        .superuser()
        .batch_execute(
            "CREATE SCHEMA app; GRANT USAGE ON SCHEMA app TO PUBLIC;
             CREATE COLLATION app.any_case (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
             CREATE DOMAIN app.word AS text; CREATE TYPE app.words AS RANGE (subtype = text, collation = \"C\")",
        )
        .unwrap();
    admin.batch_execute(TEXTS).unwrap();
    let mut sent = 0;
    for round in 0..2 {
        let all: Vec<_> = ["a", "B", "A", "b"]
            .iter()
            .enumerate()
            .map(|(place, x)| {
                json!({"tenant_id": "t", "account_id": "one", "name": "ran", "event_id": format!("00000000-0000-4000-8000-90000000{round}0{place}0"),
                       "occurred_at": "2026-03-01T00:00:00Z", "properties": {"x": x, "y": x}})
            })
            .collect();
        assert_eq!(ingest(&mut admin, &json!(all).to_string()).unwrap().accepted, 4);
        for (account, order) in [("two", ["a", "B", "A", "b"]), ("three", ["B", "b", "a", "A"])] {
            for x in order {
                sent += 1;
                assert_eq!(send(&mut admin, sent, "t", account, json!({"x": x, "y": "same"})), 1);
            }
        }
        let shown = "SELECT account_id, count(*), min(lo), max(hi), min(f), max(l), min(en_lo), max(en_hi), min(case_f), max(case_hi), min(list_lo), max(list_hi),
                            min(v_lo), max(c_hi), max(w_l), max(w_hi), max(r_l::text COLLATE \"C\") FROM tally.texts_month GROUP BY 1 ORDER BY 1";
        let expected = ["one 4", "three 1", "two 1"]
            .map(|account| format!("{account} A b A b A b A b {{A}} {{b}} A b b b [b,zz)"));
        // Of the padded one, without its blanks.
        let plain = |rows: Vec<String>| -> Vec<String> {
            rows.iter().map(|row| row.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
        };
        assert_eq!(plain(rows(&mut admin, shown)), expected, "round {round}, before the fold");
        assert_right(&mut admin, "texts");
        fold_all(&mut admin, "texts");
        assert_eq!(plain(rows(&mut admin, shown)), expected, "round {round}, after the fold");
        assert_right(&mut admin, "texts");
    }
    admin
        .batch_execute("BEGIN; SELECT tally.enter_global(); SELECT tally.rebuild_rollup('texts'); COMMIT")
        .unwrap();
    assert_right(&mut admin, "texts");
}

#[test]
fn text_is_ordered_by_its_bytes_where_the_database_orders_it_otherwise() {
    text_is_ordered_by_its_bytes(&mut Database::in_language("en", "icu_texts"));
}

#[test]
fn text_is_ordered_by_its_bytes_where_an_expression_orders_it_otherwise() {
    text_is_ordered_by_its_bytes(&mut Database::new("c_texts"));
}

#[test]
fn literals_that_say_a_moment_are_not_immutable() {
    let mut database = Database::new("moments");
    let mut admin = administrator(&mut database);
    database
        .superuser()
        .batch_execute(
            "CREATE SCHEMA app; GRANT USAGE ON SCHEMA app TO PUBLIC; CREATE DOMAIN app.moment AS timestamptz; CREATE DOMAIN app.later AS app.moment;
             CREATE TYPE app.pair AS (x int, at timestamptz); CREATE TYPE app.note AS (note text, at timestamptz); CREATE TYPE app.mood AS ENUM ('now', 'today'); CREATE DOMAIN app.span AS tstzrange",
        )
        .unwrap();
    let filters = [
        "occurred_at < 'now'",
        "occurred_at < 'NOW'::timestamptz",
        "occurred_at < timestamptz ' Today '",
        "occurred_at < CAST('tomorrow' AS timestamptz(0))",
        "occurred_at < E'n\\x6fw'",
        "occurred_at < U&'\\006eow'::timestamptz",
        "occurred_at < $m$now$m$",
        "occurred_at BETWEEN 'yesterday' AND '2026-01-01Z'",
        "occurred_at < 'today 12:00'::timestamptz",
        "(occurred_at AT TIME ZONE 'UTC') < 'now'",
        "(occurred_at AT TIME ZONE 'UTC')::date = 'today'",
        "(occurred_at AT TIME ZONE 'UTC')::date = ANY ('{2026-01-01,yesterday}')",
        "occurred_at IN ('2026-01-01Z', 'tomorrow')",
        "(occurred_at AT TIME ZONE 'UTC')::time < 'now'",
        "(occurred_at AT TIME ZONE 'UTC')::time < timetz 'now'::time",
        "occurred_at <@ '[now,tomorrow)'::tstzrange",
        "occurred_at <@ '{[2026-01-01Z,now)}'::tstzmultirange",
        "occurred_at <@ '[now,)'::app.span",
        "occurred_at < 'now'::app.later",
        "occurred_at < ('(1,now)'::app.pair).at",
        "occurred_at < ('(1,n\\ow)'::app.pair).at",
        "occurred_at < ('(know,now)'::app.note).at",
        "occurred_at < 'today12:00'",
        "occurred_at < coalesce(NULL, 'now'::timestamptz)",
        "CASE WHEN name = 'x' THEN occurred_at < 'now' ELSE true END",
        "date_part('day', occurred_at - 'now') > 1",
    ];
    let declare = |measure: &str, dimensions: &str, filter: &str| {
        format!(
            "SELECT tally.create_rollup('nw', '{{day}}', ARRAY[$d${measure}$d$], ARRAY[{dimensions}]::text[], {filter})"
        )
    };
    let calls =
        filters.iter().map(|filter| declare("count(*) AS n", "", &format!("$d${filter}$d$"))).chain([
            declare("max('now'::timestamptz) AS n", "", "NULL"),
            declare("count(NULLIF(occurred_at, 'today')) AS n", "", "NULL"),
            declare("days(least(occurred_at, 'now')) AS n", "", "NULL"),
            declare("count(*) AS n", "$d$(occurred_at < 'now') AS is_early$d$", "NULL"),
        ]);
    for call in calls {
        let (code, hint) = refused(&mut admin, &call);
        assert!(code == "42P17" && hint.contains("moment"), "{call}: {code} {hint}");
    }
    // What is a word there is none here.
    for filter in [
        "name = 'now'",
        "name = 'buy now' AND occurred_at > '2026-01-01Z'",
        "properties @> '{\"when\": \"today\"}'",
        "name = ANY ('{now,tomorrow}')",
        "occurred_at < 'infinity' AND occurred_at > 'epoch'",
        "(properties ->> 'known') = 'yesterday'",
        "'now'::app.mood = 'today'",
        "occurred_at > ('(know,2026-01-01Z)'::app.note).at",
        "name = ('(\"nowhere, todays\",2026-01-01Z)'::app.note).note",
        "occurred_at - '2026-01-01Z' > interval '1 day'",
    ] {
        admin
            .batch_execute(&declare("count(*) AS n", "", &format!("$d${filter}$d$")))
            .unwrap_or_else(|problem| panic!("{filter}: {problem:?}"));
        admin.batch_execute("SELECT tally.drop_rollup('nw')").unwrap();
    }
}

/// What is written into XML, or read out of a document as a type, is held to what a cast is.
#[test]
fn what_goes_by_settings_inside_xml_and_json_is_not_immutable() {
    let mut database = Database::new("mutable_parts");
    let mut admin = administrator(&mut database);
    let declare = |expression: &str| {
        format!(
            "SELECT tally.create_rollup('mp', '{{day}}', ARRAY[$d$max({expression}) AS n$d$], '{{}}'::text[])"
        )
    };
    let mut immutable =
        vec!["xmlforest(occurred_at AS t, name, 1.5 AS n)::text", "xmlelement(name a, event_id)::text"];
    let mut mutable = vec![
        "xmlforest(1259::regclass AS t)::text",
        "xmlforest(ARRAY[1259::regclass] AS t)::text",
        "xmlelement(name a, xmlattributes('$1'::money * 2 AS t))::text",
        "xmlconcat(xmlelement(name a, occurred_at - '2026-01-01Z'))::text",
        "coalesce(name, xmlforest(row(occurred_at) AS t)::text)",
    ];
    let has_json = "SELECT count(*) FROM (VALUES (current_setting('server_version_num')::int >= 170000)) AS v (has) WHERE has";
    if number(&mut database.superuser(), has_json) == 1 {
        immutable.extend([
            "JSON_VALUE(properties, '$.n' RETURNING int)",
            "JSON_VALUE(properties, '$.n')",
            "JSON_QUERY(properties, '$.n')::text",
        ]);
        mutable.extend([
            "JSON_VALUE(properties, '$.at' RETURNING timestamptz)",
            "JSON_VALUE(properties, '$.at' RETURNING date)",
            "coalesce(occurred_at, JSON_VALUE(properties, '$.at' RETURNING timestamptz NULL ON ERROR))",
        ]);
    }
    for expression in mutable {
        let (code, hint) = refused(&mut admin, &declare(expression));
        assert!(code == "42P17" && hint.contains("settings"), "{expression}: {code} {hint}");
    }
    for expression in immutable {
        admin
            .batch_execute(&declare(expression))
            .unwrap_or_else(|problem| panic!("{expression}: {problem:?}"));
        admin.batch_execute("SELECT tally.drop_rollup('mp')").unwrap();
    }
    // One from before goes on, and is reported.
    admin.batch_execute(&declare("name")).unwrap();
    database
        .superuser()
        .batch_execute("UPDATE tally.rollup_column SET expression = 'xmlforest(1259::regclass AS t)::text' WHERE rollup_name = 'mp'")
        .unwrap();
    let login: String = admin.query_one("SELECT session_user::text", &[]).unwrap().get(0);
    let mut admin = database.connect(&login);
    assert_eq!(send(&mut admin, 1, "t", "a", json!({})), 1);
    let found = "SELECT count(*) FROM tally.lint() AS l WHERE to_jsonb(l)::text LIKE '%declared_code%' AND to_jsonb(l)::text LIKE '%settings%regclass%'";
    assert_eq!(number(&mut admin, found), 1);
}

#[test]
fn a_rollup_from_before_that_says_a_moment_is_reported_and_goes_on() {
    let mut database = Database::new("old_moment");
    let mut admin = administrator(&mut database);
    admin.batch_execute("SELECT tally.create_rollup('old', '{day}', '{count(*) AS n}', '{}', $$occurred_at < 'infinity'$$)").unwrap();
    // As 0.1.0 took it.
    let mut superuser = database.superuser();
    superuser
        .batch_execute("UPDATE tally.rollup SET filter = $$occurred_at < 'now'$$ WHERE rollup_name = 'old'")
        .unwrap();
    let login: String = admin.query_one("SELECT session_user::text", &[]).unwrap().get(0);
    let mut admin = database.connect(&login);
    assert_eq!(send(&mut admin, 1, "t", "a", json!({})), 1);
    let found = "SELECT count(*) FROM tally.lint() AS l WHERE to_jsonb(l)::text LIKE '%declared_code%' AND to_jsonb(l)::text LIKE '%session%now%'";
    assert_eq!(number(&mut admin, found), 1);
}

#[test]
fn types_without_a_minimum_in_postgres_have_extremes() {
    let mut database = Database::new("any_order");
    let mut admin = administrator(&mut database);
    admin
        .batch_execute(
            "SELECT tally.create_rollup('any', '{day,month}', dimensions => '{}', measures => ARRAY[
               'min(event_id) AS id_lo', 'max(event_id) AS id_hi', 'last(event_id) AS id_l',
               $$min((properties ->> 'n')::int4 > 1) AS is_lo$$, $$max((properties ->> 'n')::int4 > 1) AS is_hi$$,
               $$min(properties -> 'n') AS json_lo$$, $$max(properties -> 'n') AS json_hi$$, $$max((properties ->> 'n')::int4::bit(4)) AS bit_hi$$,
               $$min(('08:00:2b:01:02:0' || (properties ->> 'n'))::macaddr) AS mac_lo$$, $$max(('08:00:2b:01:02:03:04:0' || (properties ->> 'n'))::macaddr8) AS mac_hi$$,
               $$max(array_to_tsvector(ARRAY[properties ->> 'n'])) AS vector_hi$$, $$min(decode('0' || (properties ->> 'n'), 'hex')) AS bytes_lo$$,
               $$max((properties ->> 'n')::\"char\") AS char_hi$$, $$min((properties ->> 'n')::name) AS name_lo$$])",
        )
        .unwrap();
    for round in 0..2 {
        for n in [2, 1, 3] {
            assert_eq!(send(&mut admin, round * 10 + n, "t", "a", json!({"n": n})), 1);
        }
        let shown = "SELECT right(id_lo::text, 2), right(id_hi::text, 2), right(id_l::text, 2), is_lo, is_hi, json_lo, json_hi, bit_hi, mac_lo, mac_hi,
                            vector_hi, bytes_lo, char_hi, name_lo FROM tally.any_month";
        let expected = format!(
            "01 {0}3 {0}3 f t 1 3 0011 08:00:2b:01:02:01 08:00:2b:01:02:03:04:03 '3' \\x01 3 1",
            round
        );
        assert_eq!(rows(&mut admin, shown).join(" | "), expected, "before the fold");
        assert_right(&mut admin, "any");
        fold_all(&mut admin, "any");
        assert_eq!(rows(&mut admin, shown).join(" | "), expected, "after the fold");
        assert_right(&mut admin, "any");
    }
    for (measure, word) in [
        ("first(ROW(name, account_id)) AS f", "row"),
        ("last(ARRAY[name]) AS l", "array"),
        ("min(ROW(name)) AS m", "row"),
        ("max(point(1, 2)) AS m", "order"),
    ] {
        let error = refused(
            &mut admin,
            &format!("SELECT tally.create_rollup('none', '{{day}}', ARRAY['{measure}'])"),
        );
        assert!(error.0 == "42804" && error.1.contains(word), "{measure}: {error:?}");
    }
}

/// Values of types whose names alone mean one character, or one bit: the tables' columns take any length, and so does a dump.
#[test]
fn measures_of_fixed_length_keep_their_length() {
    let database = Database::new("fixed_length");
    let mut client = database.superuser();
    client
        .batch_execute(
            "SELECT tally.create_rollup('r', grains => '{day,month}', measures => ARRAY['max(user_id::char(60)) AS greatest', 'first(user_id::char(7)) AS one', 'last(B''10110101''::bit(8)) AS bits'])",
        )
        .unwrap();
    let short = "SELECT count(*) FROM pg_attribute WHERE attrelid::regclass::text LIKE 'tally.r\\_%' AND atttypid IN ('bpchar'::regtype, 'bit'::regtype, 'bpchar[]'::regtype) AND atttypmod <> -1";
    let all = short.replace("<> -1", "= -1");
    assert_eq!(number(&mut client, short), 0);
    assert!(number(&mut client, &all) >= 9);
    for (place, user) in ["ann", "abe"].into_iter().enumerate() {
        let event = json!({"tenant_id": "t", "account_id": "a", "name": "longer", "user_id": user, "occurred_at": "2026-03-02T09:15:00Z",
                           "event_id": format!("00000000-0000-4000-8000-{place:012}")});
        assert_eq!(ingest(&mut client, &event.to_string()).unwrap().accepted, 1);
    }
    fold_all(&mut client, "r");
    assert_right(&mut client, "r");
    client
        .batch_execute(
            "CREATE TABLE copied (LIKE tally.r_day_base); INSERT INTO copied SELECT * FROM tally.r_day_base",
        )
        .unwrap();
    assert_eq!(
        number(&mut client, "SELECT count(*) FROM copied WHERE greatest = 'ann' AND bits = B'10110101'"),
        1
    );
    assert_eq!(number(&mut client, "SELECT count(*) FROM tally.lint() WHERE name LIKE 'column%'"), 0);
    client.batch_execute("CALL tally.maintain()").unwrap();
    client
        .batch_execute("SELECT tally.drop_raw('2026-04-01'), tally.set_step_up_policy('erase_subject', false); SELECT tally.erase_subject('t', 'ann', 'ticket 1')")
        .unwrap();
}
