//! Rollups that have groups, measures or expressions in common: each has what it would have alone, also where an expression is meant
//! for the events of one of them; and what was prepared for one call is not kept past a change.

use postgres::Client;
use serde_json::{Value, json};
use tally_server_tests::{Database, assert_right, fold_all, ingest, ingest_by_simple_query, number};

/// Rollups alike in all, in dimensions alone, in measures alone, in expressions alone, with filters and grains of their own, and one with
/// somebody's function.
const ROLLUPS: [(&str, &str); 8] = [
    (
        "r_first",
        "'{day}', ARRAY['count(*) AS n', 'distinct(user_id) AS users'], ARRAY['name', 'properties->>''plan'' AS plan']",
    ),
    (
        "r_again",
        "'{day}', ARRAY['distinct(user_id) AS people', 'count(*) AS times'], ARRAY['name AS what', 'properties->>''plan'' AS tier']",
    ),
    (
        "r_more",
        "'{day}', ARRAY['max(occurred_at) AS latest', 'count(user_id) AS n', 'first(session_id) AS opened'], ARRAY['name', 'properties->>''plan'' AS plan']",
    ),
    ("r_turned", "'{day}', ARRAY['count(*) AS n'], ARRAY['properties->>''plan'' AS plan', 'name']"),
    (
        "r_hour",
        "'{hour,day}', ARRAY['count(*) AS n', 'distinct(user_id) AS users'], ARRAY['name', 'properties->>''plan'' AS plan']",
    ),
    (
        "r_some",
        "'{day}', ARRAY['sum((properties->>''v'')::numeric) AS total', 'count(*) AS n'], ARRAY['name', 'properties->>''plan'' AS plan'], 'name = ''numbered'''",
    ),
    ("r_text", "'{day}', ARRAY['count(*) AS n', 'max(properties->>''v'') AS v'], ARRAY['name']"),
    ("r_own", "'{day}', ARRAY['count(*) AS n'], ARRAY['app.f(name) AS f']"),
];

fn scene(topic: &str) -> (Database, Client, Client) {
    let mut database = Database::new(topic);
    let writer = database.role("writer", &["tally_writer"]);
    let mut superuser = database.superuser();
    superuser.batch_execute(&format!("SELECT tally.trust_role('{writer}')")).unwrap();
    let client = database.connect(&writer);
    (database, superuser, client)
}

fn event(n: usize, name: &str, properties: &Value) -> Value {
    json!({"tenant_id": format!("t{}", n % 3), "account_id": format!("a{}", n % 5), "name": name, "user_id": (!n.is_multiple_of(4)).then(|| format!("u{}", n % 17)),
           "session_id": (!n.is_multiple_of(7)).then(|| format!("s{}", n % 40)), "event_id": format!("00000000-0000-4000-8000-{n:012}"),
           "occurred_at": format!("2026-10-0{}T{:02}:10:00Z", 1 + n % 4, n % 24), "properties": properties})
}

#[test]
fn each_has_what_it_would_have_alone() {
    let (_database, mut superuser, mut writer) = scene("shared");
    superuser
        .batch_execute(
            "CREATE SCHEMA app; GRANT USAGE ON SCHEMA app TO PUBLIC;
             CREATE FUNCTION app.f(x text) RETURNS text LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $f$ BEGIN RETURN upper(x); END $f$",
        )
        .unwrap();
    for (name, rest) in ROLLUPS {
        superuser.batch_execute(&format!("SELECT tally.create_rollup('{name}', {rest})")).unwrap();
    }
    // More than are evaluated at a time, and values too long to lie in a row as they are.
    let events: Vec<Value> = (0..300)
        .map(|n: usize| {
            let plan = (!n.is_multiple_of(5)).then(|| "p".repeat(1 + n % 3 * 120));
            let value = if n.is_multiple_of(2) { json!(n) } else { json!("x".repeat(n)) };
            event(
                n,
                if n.is_multiple_of(2) { "numbered" } else { "worded" },
                &json!({"plan": plan, "v": value}),
            )
        })
        .collect();
    for batch in events.chunks(150) {
        let got = ingest(&mut writer, &json!(batch).to_string()).unwrap();
        assert_eq!((got.accepted, got.rejected), (150, 0), "{:?}", got.details);
    }
    // What only one of them can't hold is rejected, whatever the others make of it; and the next call is as before.
    let bad = event(300, "numbered", &json!({"plan": "p", "v": "no number"}));
    let good = event(301, "worded", &json!({"plan": "p", "v": "no number"}));
    let got = ingest(&mut writer, &json!([bad, good]).to_string()).unwrap();
    assert_eq!((got.accepted, got.rejected), (1, 1));
    let details = got.details.unwrap().to_string();
    assert!(details.contains("r_some") && details.contains("22P02"), "{details}");
    let next = event(302, "numbered", &json!({"plan": "p", "v": 7}));
    assert_eq!(ingest(&mut writer, &json!([next]).to_string()).unwrap().accepted, 1);

    let built_in = ["usage", "user_activity", "session", "payment"];
    for folded in [false, true] {
        for name in ROLLUPS.iter().map(|(name, _)| *name).chain(built_in) {
            if folded {
                fold_all(&mut superuser, name);
            }
            assert_right(&mut superuser, name);
        }
    }
    for (name, counted, events) in
        [("r_first", "n", 302), ("r_again", "times", 302), ("r_own", "n", 302), ("r_some", "n", 151)]
    {
        let sum = format!("SELECT sum({counted})::bigint FROM tally.{name}_day_state");
        superuser.batch_execute("BEGIN; SELECT tally.enter_global()").unwrap();
        assert_eq!(number(&mut superuser, &sum), events, "{name}");
        superuser.batch_execute("COMMIT").unwrap();
    }
}

/// What a session prepared for its last call holds no longer than what it was prepared from.
#[test]
fn a_call_sees_what_changed_since_the_last_one() {
    let (_database, mut superuser, mut writer) = scene("shared_changes");
    superuser
        .batch_execute(
            "SELECT tally.create_rollup('words', '{day}', ARRAY['count(*) AS n'], ARRAY['initcap(name) AS word'])",
        )
        .unwrap();
    let mut number_of_calls = 1_000;
    let mut send = || {
        number_of_calls += 1;
        ingest(&mut writer, &json!([event(number_of_calls, "seen", &json!({}))]).to_string()).unwrap()
    };
    assert_eq!(send().accepted, 1);
    for _ in 0..2 {
        superuser.batch_execute("REVOKE EXECUTE ON FUNCTION pg_catalog.initcap(text) FROM PUBLIC").unwrap();
        let refused = send();
        assert_eq!((refused.accepted, refused.rejected), (0, 1), "{refused:?}");
        assert!(refused.details.unwrap().to_string().contains("permission denied"));
        superuser.batch_execute("GRANT EXECUTE ON FUNCTION pg_catalog.initcap(text) TO PUBLIC").unwrap();
        assert_eq!(send().accepted, 1);
    }
    // A column beside the events' own, and another rollup of the same groups.
    superuser
        .batch_execute(
            "ALTER TABLE tally.events ADD COLUMN note text; ALTER TABLE tally.events DROP COLUMN note;
             SELECT tally.create_rollup('words_too', '{day}', ARRAY['distinct(account_id) AS accounts'], ARRAY['initcap(name) AS word'])",
        )
        .unwrap();
    assert_eq!(send().accepted, 1);
    superuser.batch_execute("SELECT tally.drop_rollup('words')").unwrap();
    assert_eq!(send().accepted, 1);
    assert_right(&mut superuser, "words_too");
}

/// A function that somebody put into a schema of ours is somebody's.
#[test]
fn a_function_in_our_schemas_is_guarded_unless_it_belongs_to_the_extension() {
    let (_database, mut superuser, mut writer) = scene("shared_strange");
    for (place, schema) in ["tally", "tally_internal"].into_iter().enumerate() {
        superuser
            .batch_execute(&format!(
                "CREATE FUNCTION {schema}.g(x text) RETURNS text LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS
                   $f$ BEGIN IF x = 'locks' THEN PERFORM pg_advisory_lock(7); END IF; RETURN x; END $f$;
                 CREATE FUNCTION {schema}.f(x text) RETURNS text LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS
                   $f$ BEGIN RETURN {schema}.g(x); END $f$;
                 GRANT EXECUTE ON FUNCTION {schema}.f(text), {schema}.g(text) TO PUBLIC; GRANT USAGE ON SCHEMA {schema} TO PUBLIC;
                 SELECT tally.create_rollup('r_{schema}', '{{day}}', ARRAY['count(*) AS n'], ARRAY['{schema}.f(name) AS f'])"
            ))
            .unwrap();
        let sent = json!([event(2 * place, "locks", &json!({})), event(2 * place + 1, "plain", &json!({})),]);
        let got = ingest(&mut writer, &sent.to_string()).unwrap();
        assert_eq!((got.accepted, got.rejected), (1, 1), "{schema}: {:?}", got.details);
        assert!(got.details.unwrap().to_string().contains("42501"));
        let locks = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 7 AND pid = pg_backend_pid()";
        assert_eq!(number(&mut writer, locks), 0, "{schema}");
        assert_right(&mut superuser, &format!("r_{schema}"));
    }
}

/// A call that an expression makes, of a function that an administrator has made one of ours, leaves the call around it what it had prepared
/// and loaded.
#[test]
fn a_call_inside_another_is_refused_and_takes_nothing_from_it() {
    let (_database, mut superuser, mut writer) = scene("shared_nested");
    let inner: Vec<Value> = (500..560)
        .map(|n: usize| event(n, &"z".repeat(n - 400), &json!({"plan": "q".repeat(n - 300)})))
        .collect();
    superuser
        .batch_execute(&format!(
            "CREATE FUNCTION tally.nest(x text) RETURNS text LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $f$
               DECLARE got int8; BEGIN
                 IF x LIKE 'outer%' THEN
                   IF x LIKE '% changes' THEN ANALYZE tally.rollup; ANALYZE tally.quota; ANALYZE tally.event_schema; END IF;
                   SELECT accepted INTO got FROM tally.ingest(replace('{}', '-4000-', '-4' || lpad((hashtext(x) & 511)::text, 3, '0') || '-'));
                   IF got <> 60 THEN RAISE 'accepted %', got; END IF;
                 END IF;
                 RETURN upper(x);
               END $f$;
             CREATE FUNCTION tally.nests(x text) RETURNS text LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS
               $f$ BEGIN RETURN tally.nest(x); END $f$;
             GRANT EXECUTE ON FUNCTION tally.nest(text), tally.nests(text) TO PUBLIC;
             ALTER EXTENSION pg_tally ADD FUNCTION tally.nest(text); ALTER EXTENSION pg_tally ADD FUNCTION tally.nests(text);
             SELECT tally.create_rollup('nested', '{{day}}', ARRAY['count(*) AS n'],
               ARRAY['lower(properties->>''plan'') AS plan', 'tally.nests(name) AS word', 'upper(properties->>''plan'') AS loud'])",
            json!(inner)
        ))
        .unwrap();
    let mut sent = 0;
    for word in ["outer", "outer changes"] {
        for _ in 0..2 {
            let name = format!("outer {sent}{}", word.trim_start_matches("outer"));
            let mut events: Vec<Value> = (sent..sent + 70)
                .map(|n: usize| event(n, "plain", &json!({"plan": format!("{:0200}", n)})))
                .collect();
            events[40] = event(sent + 40, &name, &json!({"plan": "of the outer"}));
            let again = name.replace("outer", "outer again");
            events[50] = event(sent + 50, &again, &json!({"plan": "of another"}));
            let got = ingest(&mut writer, &json!(events).to_string()).unwrap();
            // What is declared acts for nobody.
            assert_eq!((got.accepted, got.rejected), (68, 2), "{name}: {:?}", got.details);
            sent += 70;
            let refused = "SELECT count(*) FROM tally.quarantine WHERE sqlstate = '42501'";
            assert_eq!(number(&mut superuser, refused), (sent / 70 * 2) as i64);
            superuser.batch_execute("BEGIN; SELECT tally.enter_global()").unwrap();
            let others = "SELECT sum(n)::bigint FROM tally.nested_day_state WHERE word = 'PLAIN'";
            assert_eq!(number(&mut superuser, others), (sent / 70 * 68) as i64);
            superuser.batch_execute("COMMIT").unwrap();
            assert_right(&mut superuser, "user_activity");
        }
    }
    assert_eq!(number(&mut superuser, "SELECT count(*) FROM tally.events"), 4 * 68);
    // Its own expressions would ingest again.
    superuser.batch_execute("CREATE OR REPLACE FUNCTION tally.nests(x text) RETURNS text LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $f$ BEGIN RETURN upper(x); END $f$").unwrap();
    assert_right(&mut superuser, "nested");
}

/// Of rollups that have their groups in common, each counts what it writes itself: the one that writes much folds, and the other has no
/// reason to.
#[test]
fn each_folds_by_what_it_writes_itself() {
    let (database, mut superuser, _) = scene("shared_bytes");
    superuser
        .batch_execute(
            "SELECT tally.create_rollup('wide', '{day}', ARRAY['max(properties->>''text'') AS longest'], ARRAY['name']),
               tally.create_rollup('slim', '{day}', ARRAY['count(*) AS n', 'count(user_id) AS a', 'count(session_id) AS b', 'count(account_id) AS c',
                 'count(event_id) AS d', 'count(occurred_at) AS e'], ARRAY['name'])",
        )
        .unwrap();
    // 300 rows of about 600 bytes are more than twice that, where a call folds itself whatever it draws; 300 of about 110 are less than half.
    database.set("tally.pending_limit = '80kB'");
    let mut client = database.superuser();
    let events: Vec<Value> =
        (0..300).map(|n| event(n, &format!("n{n}"), &json!({"text": "x".repeat(550)}))).collect();
    assert_eq!(ingest_by_simple_query(&mut client, &json!(events).to_string()).unwrap(), 300);
    let pending = |client: &mut Client, name: &str| {
        number(client, &format!("SELECT count(*) FROM tally.{name}_pending"))
    };
    assert_eq!(["wide", "slim"].map(|name| pending(&mut client, name)), [0, 300]);
    for name in ["wide", "slim"] {
        assert_right(&mut superuser, name);
    }
}
