//! What rollups read of properties and user ids, however their expressions spell it. The oracle is what the rollups show: of events that
//! differ in one place alone, what reads that place shows different values.

use crate::keyed::{Keyed, array, event, maintain};
use postgres::Client;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use tally_server_tests::{ingest, number};

/// Paths of properties that events differ in; the empty one is the user id.
const PLACES: [&str; 5] = ["", "/email", "/user/email", "/items/email", "/age"];

/// Functions of somebody's, which take what they are given whole.
const FUNCTIONS: &str = "
    CREATE SCHEMA app;
    GRANT USAGE ON SCHEMA app TO tally_evaluator, PUBLIC;
    CREATE FUNCTION app.mail(of jsonb) RETURNS text LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp RETURN of ->> 'email';
    CREATE FUNCTION app.inner_mail(of jsonb) RETURNS text LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp
      AS $$ BEGIN RETURN of -> 'user' ->> 'email'; END $$;
    CREATE FUNCTION app.itself(of text) RETURNS text LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp RETURN of;
    CREATE FUNCTION app.key() RETURNS text LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp RETURN 'email';
    CREATE OPERATOR app.~> (FUNCTION = jsonb_object_field_text, LEFTARG = jsonb, RIGHTARG = text);
    CREATE DOMAIN app.word AS text;
    CREATE DOMAIN app.document AS jsonb;";

/// Of these it is known exactly what they read.
const FOLLOWED: [&str; 68] = [
    "properties->>'email'",
    "PROPERTIES->>'email'",
    r#"U&"proper\0074ies"->>'email'"#,
    r#""properties" ->> 'email'"#,
    "events.properties->>'email'",
    "tally.events.properties->>'email'",
    "properties->>$$email$$",
    "properties->>$of$email$of$",
    r"properties->>E'em\x61il'",
    r"properties->>U&'em\0061il'",
    "properties->>/* it's */'email'",
    "properties->>('em'||'ail')",
    "properties->>replace('phone', 'phone', 'email')",
    "properties->>lower('EMAIL')",
    "properties->>'email'::text",
    "properties->>'email'::varchar(20)",
    "properties->>('email' COLLATE \"C\")",
    "properties->>CASE WHEN 1 < 2 THEN 'email' ELSE 'phone' END",
    "coalesce(properties,'{}')->>'email'",
    "coalesce(properties->'email','{}')#>>'{}'",
    "(properties - 'foo')->>'email'",
    "(properties - '{foo,bar}'::text[])->>'email'",
    "(properties #- '{foo}')->>'email'",
    "(properties)->>('email')",
    "properties['email']",
    "properties['user']['email']",
    "(properties['items'])[0]['email']",
    "properties #>> '{email}'",
    "properties #> ARRAY['user','email']",
    "properties #>> '{items,0,email}'",
    "properties->'items'->0->>'email'",
    "properties->'items'->-1->>'email'",
    "properties->'user'->>'email'",
    "properties->'user'",
    "(properties->>'user')::jsonb->>'email'",
    "jsonb_extract_path_text(properties, 'user', 'email')",
    "jsonb_extract_path_text(properties, VARIADIC '{user,email}')",
    "jsonb_extract_path(from_json => properties, VARIADIC path_elems => ARRAY['email'])",
    "jsonb_object_field_text(properties, 'email')",
    "pg_catalog.jsonb_object_field(properties, 'user')",
    "properties OPERATOR(pg_catalog.->>) 'email'",
    "properties OPERATOR(app.~>) 'email'",
    "(CASE WHEN name = 'x' THEN '{}' ELSE properties END)->>'email'",
    "(CASE properties->>'phone' WHEN 'none' THEN NULL ELSE properties->'email' END)",
    "md5(upper(trim(properties->>'email')))",
    "length((properties->>'email')::text)",
    "(properties->>'email') IN ('one@of.example', 'x')",
    "app.itself(properties->>'email')",
    "app.mail(properties->'user')",
    "properties ? 'email'",
    "properties ?| '{email,foo}'",
    "properties->'user' @> '{\"email\":\"one@of.example\"}'",
    "properties @> '{\"email\":\"one@of.example\"}'",
    "'{\"user\":{\"email\":\"one@of.example\"}}' <@ properties",
    "property_number(properties, 'age')",
    "property_float(properties, 'ag' || 'e') > 30",
    "tally.property_number(key => 'age', properties => properties)",
    "user_id",
    "USER_ID",
    r#"U&"user\005fid""#,
    "(events.user_id)",
    "coalesce(user_id, 'none')",
    "user_id > 'two'",
    "upper(app.itself(user_id)) || (properties->>'phone')",
    "properties->>'user_id'",
    "properties->>$$phone$$",
    "coalesce(properties->>'phone', properties #>> '{user,phone}', '\"email\"')",
    "name || 'properties->>''email'' user_id' /* user_id */",
];

/// Of these that is unknown, so that they count as reading all of the properties.
const WHOLE: [&str; 16] = [
    "properties",
    "properties::text",
    "properties::json->>'email'",
    "(properties || '{\"a\":1}')->>'email'",
    "jsonb_set(properties, '{a}', '1')->>'email'",
    "jsonb_path_query_first(properties, '$.email')",
    "properties @@ '$.email == \"one@of.example\"'",
    "properties->>(CASE WHEN name = 'x' THEN 'phone' ELSE 'email' END)",
    "properties->>app.key()",
    "properties->>'email'::app.word",
    "properties::app.document->>'email'",
    "properties #>> ARRAY['user', CASE WHEN name = 'x' THEN 'phone' ELSE 'email' END]",
    "app.mail(properties)",
    "app.inner_mail(properties)",
    "md5(app.mail(coalesce(properties, '{}')))",
    "jsonb_strip_nulls(properties)->>'email'",
];

/// Nothing of these events differs in what these read.
const NOT_READ: [&str; 14] = [
    "properties->>'phone'",
    "properties->'user'->>'phone'",
    "properties #>> '{items,0,phone}'",
    "properties->'items'->0->>'phone'",
    "properties['emails']",
    "properties ? 'foo'",
    "properties @> '{\"phone\":\"1\"}'",
    "properties->>'user_id'",
    "coalesce(properties,'{}')->>'phone'",
    "(properties - 'email')->>'phone'",
    "property_number(properties, 'n')",
    "name || ' user_id properties'",
    "session_id",
    "properties->>'Email'",
];

/// An event for each place, of an account that is called by it, with another value there alone; that of `base` has none of these.
fn events() -> String {
    let one = |number: usize, account: &str| {
        let value = |place: &str| if place == account { "two@of.example" } else { "one@of.example" };
        let properties = json!({
            "email": value("/email"), "age": if account == "/age" { 31 } else { 30 }, "phone": "1", "n": 5, "user_id": "k",
            "user": {"email": value("/user/email"), "phone": "1"},
            "items": [{"email": value("/items/email"), "phone": "1"}],
        });
        let mut event = event("a", number as u32, if account.is_empty() { "zoe" } else { "ann" }, properties);
        event["account_id"] = json!(if account.is_empty() { "user" } else { account });
        event
    };
    // One in which there is nothing, so that also what is asked of a value's presence and length differs.
    let mut bare = event(
        "a",
        90,
        "ann",
        json!({"phone": "1", "n": 5, "user_id": "k", "user": {"phone": "1"}, "items": [{"phone": "1"}]}),
    );
    bare["account_id"] = json!("bare");
    let mut without_user = event("a", 91, "", json!({}));
    without_user.as_object_mut().unwrap().remove("user_id");
    without_user["account_id"] = json!("nobody");
    without_user["properties"] = one(92, "base")["properties"].clone();
    let all = PLACES.iter().enumerate().map(|(number, place)| one(number, place));
    let of_one_place = ["email", "user", "items", "age"].iter().enumerate().map(|(number, key)| {
        let mut event = one(80 + number, "base");
        let properties = event["properties"].as_object_mut().unwrap();
        match properties.get_mut(*key).unwrap() {
            Value::Object(user) => drop(user.remove("email")),
            Value::Array(items) => drop(items[0].as_object_mut().unwrap().remove("email")),
            _ => drop(properties.remove(*key)),
        }
        event["account_id"] = json!(format!("no {key}"));
        event
    });
    array(
        [one(93, "base"), bare, without_user]
            .into_iter()
            .chain(all)
            .chain(of_one_place)
            .collect::<Vec<Value>>(),
    )
}

/// The places in which events differ for which a rollup shows something else.
fn shown(superuser: &mut Client, view: &str) -> BTreeSet<&'static str> {
    let query =
        format!("SELECT account_id, coalesce(v::text, 'NULL') FROM tally.{view} WHERE tenant_id = 'a'");
    let rows = superuser.query(&query, &[]).unwrap();
    let of = |account: &str| -> String {
        let row = rows.iter().find(|row| row.get::<_, String>(0) == account);
        row.unwrap_or_else(|| panic!("{view} has nothing of {account}")).get(1)
    };
    let base = of("base");
    let other = |account: &str| of(account) != base;
    PLACES
        .into_iter()
        .filter(|&place| match place {
            "" => other("user") || other("nobody"),
            _ => other(place) || other(&format!("no {}", place.split('/').nth(1).unwrap())),
        })
        .collect()
}

/// What the decision says of an expression.
fn decided(superuser: &mut Client, expression: &str) -> BTreeSet<&'static str> {
    let query = "SELECT CASE $2 WHEN '' THEN tally_internal.reads_user_id($1) ELSE tally_internal.reads_property($1, $2) END";
    PLACES
        .into_iter()
        .filter(|place| superuser.query_one(query, &[&expression, place]).unwrap().get(0))
        .collect()
}

#[test]
fn what_a_rollup_shows_it_is_said_to_read() {
    let mut keyed = Keyed::new("reading");
    let role = keyed.database.role("admin", &["tally_admin"]);
    let (mut admin, mut superuser) = (keyed.database.connect(&role), keyed.database.superuser());
    superuser.batch_execute(FUNCTIONS).unwrap();
    let spellings: Vec<&str> = FOLLOWED.into_iter().chain(WHOLE).chain(NOT_READ).collect();
    let declare = "SELECT tally.create_rollup($1, '{day}', dimensions => ARRAY[$2], measures => ARRAY['count(*) AS n'])";
    for (place, spelling) in spellings.iter().enumerate() {
        let name = format!("s{place}");
        // Documents and numbers can't be dimensions.
        if admin.execute(declare, &[&name, &format!("{spelling} AS v")]).is_err() {
            let as_text = format!("({spelling})::text AS v");
            admin
                .execute(declare, &[&name, &as_text])
                .unwrap_or_else(|error| panic!("{spelling}: {error:?}"));
        }
    }
    assert_eq!(ingest(&mut superuser, &events()).unwrap().rejected, 0);
    let mut wrong = Vec::new();
    let mut using: [Vec<String>; PLACES.len()] = Default::default();
    for (place, spelling) in spellings.iter().enumerate() {
        let (shown, decided) = (
            shown(&mut superuser, &format!("s{place}_day")),
            decided(&mut superuser, &format!("{spelling} AS v")),
        );
        for (at, place_of) in PLACES.iter().enumerate() {
            if decided.contains(place_of) {
                using[at].push(format!("s{place}"));
            }
        }
        let is_followed = !WHOLE.contains(spelling);
        let is_right = if is_followed {
            decided == shown
        } else {
            !shown.is_empty() && decided == BTreeSet::from_iter(PLACES[1..].iter().copied())
        };
        if !is_right
            || !is_followed && !shown.is_subset(&decided)
            || NOT_READ.contains(spelling) && !shown.is_empty()
        {
            wrong.push(format!("{spelling}: shows {shown:?}, is said to read {decided:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // Where the property is protected, it is refused for each of them, and for no other.
    for (at, path) in PLACES.iter().enumerate().skip(1) {
        let refused = admin.execute("SELECT tally.protect_property(NULL, $1, 'token')", &[path]).unwrap_err();
        let refused = refused.as_db_error().unwrap();
        assert_eq!(refused.code().code(), "2BP01", "{refused}");
        let named: BTreeSet<&str> =
            refused.message().split(" by rollup ").nth(1).unwrap().split(", ").collect();
        assert_eq!(named, using[at].iter().map(String::as_str).collect::<BTreeSet<_>>(), "{path}");
    }
    for (place, spelling) in spellings.iter().enumerate() {
        if !NOT_READ.contains(spelling) {
            admin.execute("SELECT tally.drop_rollup($1)", &[&format!("s{place}")]).unwrap();
        }
    }
    for path in &PLACES[1..] {
        admin.execute("SELECT tally.protect_property(NULL, $1, 'token')", &[path]).unwrap();
    }
}

/// Without the properties that were taken out, the rest is still there.
#[test]
fn what_was_taken_out_of_the_properties_is_not_read() {
    let mut keyed = Keyed::new("reading_rest");
    let role = keyed.database.role("admin", &["tally_admin"]);
    let mut admin = keyed.database.connect(&role);
    admin
        .batch_execute("SELECT tally.create_rollup('rest', '{day}', dimensions => ARRAY['(properties - ''email'')::text AS rest'], measures => ARRAY['count(*) AS n'])")
        .unwrap();
    admin.batch_execute("SELECT tally.protect_property(NULL, 'email', 'token')").unwrap();
    let refused = admin.batch_execute("SELECT tally.protect_property(NULL, 'phone', 'token')").unwrap_err();
    assert_eq!(refused.code().unwrap().code(), "2BP01");
}

/// Of a document that is looked at in forty places, what decides on it is read once, however deep that goes.
#[test]
fn what_is_looked_at_in_many_places_is_read_once() {
    let keyed = Keyed::new("reading_deep");
    let mut superuser = keyed.database.superuser();
    superuser.batch_execute("SET statement_timeout = '20s'").unwrap();
    let keys = |of: &str| (0..40).map(|n| format!("{of}{n}")).collect::<Vec<_>>();
    let (asked, other) = (keys("k").join(","), keys("o").join(","));
    let document =
        serde_json::to_string(&BTreeMap::from_iter(keys("c").into_iter().map(|key| (key, 1)))).unwrap();
    let expression = (0..30).fold("properties".to_owned(), |of, depth| {
        let way = match depth % 3 {
            0 => format!("{of} ?| '{{{asked}}}'"),
            1 => format!("{of} ?& '{{{other}}}'"),
            _ => format!("{of} @> '{document}'"),
        };
        format!("(CASE WHEN {way} THEN properties -> 'then' ELSE coalesce(properties - 'less', '{{}}') END)")
    });
    for (path, is_read) in [
        ("/k39", true),
        ("/then/o0", true),
        ("/o0", true),
        ("/c7", true),
        ("/then", true),
        ("/less", false),
        ("/x", false),
    ] {
        let query = "SELECT tally_internal.reads_property($1 || ' ?| ''{a,b}''', $2)";
        let found = superuser.query_one(query, &[&expression, &path]);
        let found: bool = found.unwrap_or_else(|problem| panic!("{path}: {problem:?}")).get(0);
        assert_eq!(found, is_read, "{path}");
    }
}

/// An expression whose function is gone may have read anything, and is in nobody's way but where something is to be protected.
#[test]
fn what_can_not_be_read_any_more_may_have_read_everything() {
    let mut keyed = Keyed::new("reading_gone");
    let role = keyed.database.role("admin", &["tally_admin"]);
    let (mut admin, mut superuser) = (keyed.database.connect(&role), keyed.database.superuser());
    superuser.batch_execute(FUNCTIONS).unwrap();
    admin
        .batch_execute(
            "SELECT tally.create_rollup('gone', '{day}', dimensions => ARRAY['app.itself(properties->>''plan'') AS plan'],
                measures => ARRAY['count(*) AS n'], filter => 'app.itself(name) <> ''x''')",
        )
        .unwrap();
    admin.batch_execute("SELECT tally.protect_property(NULL, 'email', 'token')").unwrap();
    superuser.batch_execute("DROP FUNCTION app.itself(text)").unwrap();
    let refused = admin.batch_execute("SELECT tally.protect_property(NULL, 'phone', 'token')").unwrap_err();
    assert_eq!(refused.code().unwrap().code(), "2BP01", "{refused:?}");
    for (asked, answer) in [
        ("SELECT cardinality(tally_internal.rollups_using('/phone'))::int8", 1),
        ("SELECT tally_internal.reads_user_id('app.itself(name)')::int::int8", 1),
        ("SELECT tally_internal.reads_user_id('this is none')::int::int8", 1),
        ("SELECT tally_internal.reads_property('1 / 0', '/phone')::int::int8", 0),
        ("SELECT tally_internal.reads_property('properties -> (1 / 0)', '/phone')::int::int8", 1),
        (
            "SELECT count(*) FROM tally_internal.expression_sources('app.itself(name)') WHERE source_column = 0",
            1,
        ),
    ] {
        assert_eq!(number(&mut superuser, asked), answer, "{asked}");
    }
}

/// Asking what an expression reads calls nobody's functions.
#[test]
fn nothing_is_evaluated_to_see_what_is_read() {
    let mut keyed = Keyed::new("reading_only");
    let role = keyed.database.role("admin", &["tally_admin"]);
    let (mut admin, mut superuser) = (keyed.database.connect(&role), keyed.database.superuser());
    superuser
        .batch_execute(
            "CREATE SCHEMA app;
             GRANT USAGE ON SCHEMA app TO PUBLIC;
             CREATE FUNCTION app.key(of text) RETURNS text LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp
               AS $$ BEGIN RETURN of; END $$",
        )
        .unwrap();
    admin
        .batch_execute("SELECT tally.create_rollup('keyed', '{day}', dimensions => ARRAY['properties->>app.key(''plan'') AS v', 'app.key(''x'') AS w'], measures => ARRAY['count(*) AS n'])")
        .unwrap();
    superuser
        .batch_execute(
            "CREATE OR REPLACE FUNCTION app.key(of text) RETURNS text LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp
               AS $$ BEGIN PERFORM pg_sleep(100); RETURN of; END $$",
        )
        .unwrap();
    admin.batch_execute("SET statement_timeout = '20s'").unwrap();
    let refused = admin.batch_execute("SELECT tally.protect_property(NULL, 'email', 'token')").unwrap_err();
    assert_eq!(refused.code().unwrap().code(), "2BP01", "{refused:?}");
}

/// The ids in a rollup by user are the user's, also where its declaration spells them otherwise: in its report, and when it is erased.
#[test]
fn rollups_by_user_are_told_by_what_they_are() {
    let mut keyed = Keyed::new("reading_users");
    let role = keyed.database.role("admin", &["tally_admin"]);
    let mut admin = keyed.database.connect(&role);
    let mut superuser = keyed.database.superuser();
    let by_user = [
        "user_id",
        "\"user_id\" AS who",
        "events.user_id who",
        "U&\"user\\005fid\" AS who",
        "(USER_ID) AS who",
        "user_id::varchar AS who",
        "user_id COLLATE \"C\" AS who",
        "(user_id COLLATE \"POSIX\")::varchar AS who",
        "user_id || '!' AS who",
    ];
    for (place, dimension) in by_user.iter().enumerate() {
        let declare = "SELECT tally.create_rollup($1, '{day}', dimensions => ARRAY[$2], measures => ARRAY['count(*) AS n', 'distinct(session_id) AS s'])";
        admin.execute(declare, &[&format!("by{place}"), dimension]).unwrap();
    }
    admin
        .batch_execute("SELECT tally.create_rollup('by_letters', '{day}', dimensions => ARRAY['left(user_id, 1) AS who'], measures => ARRAY['count(*) AS n'])")
        .unwrap();
    let sent = [("u1", 1), ("u2", 2)].map(|(user, number)| event("a", number, user, json!({})));
    assert_eq!(ingest(&mut superuser, &array(sent)).unwrap().accepted, 2);
    maintain(&mut admin);
    let open = "SELECT tally.set_step_up_policy('erase_subject', false), tally.set_step_up_policy('subject_report', false)";
    superuser.batch_execute(open).unwrap();
    let told =
        "SELECT r ->> 'from' FROM tally.subject_report('a', 'u1') AS r WHERE r ->> 'from' LIKE 'by%by day'";
    let mut transaction = admin.transaction().unwrap();
    transaction.batch_execute("SELECT tally.enter('a', NULL)").unwrap();
    let told: BTreeSet<String> = transaction.query(told, &[]).unwrap().iter().map(|row| row.get(0)).collect();
    transaction.commit().unwrap();
    assert_eq!(told, (0..by_user.len()).map(|place| format!("by{place} by day")).collect());
    // Where no raw event is left to make buckets anew from.
    admin.batch_execute("SELECT tally.drop_raw('2026-04-01Z')").unwrap();
    admin.batch_execute("SELECT tally.erase_subject('a', 'u1', 'asked')").unwrap();
    maintain(&mut admin);
    for (place, dimension) in by_user.iter().enumerate() {
        let left =
            |of: &str| format!("SELECT count(*) FROM tally.by{place}_day AS v WHERE v::text LIKE '%{of}%'");
        let mut all = keyed.database.superuser();
        assert_eq!(number(&mut all, &left("u1")), 0, "{dimension}");
        assert_eq!(number(&mut all, &left("u2")), 1, "{dimension}");
    }
}
