//! Protected properties and user ids: what is stored in their place, that the same event sent again is a duplicate whatever was
//! declared or rotated meanwhile, and what happens to it where it isn't accepted or where keys are missing.

use crate::keyed::{Keyed, array, computed_in_python, event, id, maintain};
use postgres::Client;
use serde_json::{Value, json};
use tally_server_tests::{code, ingest, number};

fn stored(client: &mut Client, number: u32) -> (Option<String>, Value) {
    let query = "SELECT user_id, properties::text FROM tally.events WHERE event_id = $1::text::uuid";
    let row = client.query_one(query, &[&id(number)]).unwrap();
    (row.get(0), serde_json::from_str(row.get(1)).unwrap())
}

fn error(client: &mut Client, statement: &str) -> (String, String, String) {
    let error = client.batch_execute(statement).expect_err(statement);
    let error = error.as_db_error().unwrap().clone();
    (
        error.code().code().to_owned(),
        format!("{} {}", error.message(), error.detail().unwrap_or_default()),
        error.hint().unwrap_or_default().to_owned(),
    )
}

const ADA: &str = "ada@example.org";
const CARD: &str = "4111111111111111";

#[test]
fn what_is_stored_agrees_with_an_independent_implementation() {
    let keyed = Keyed::new("tokens");
    let mut client = keyed.database.superuser();
    client
        .batch_execute(
            "SELECT tally.protect_property('signup', 'email', 'token'), tally.protect_property(NULL, '/contacts/mail', 'token', 'a'),
                    tally.protect_property('signup', 'card', 'seal'), tally.protect_property('signup', 'note', 'drop'),
                    tally.protect_user_ids()",
        )
        .unwrap();
    let properties = json!({
        "email": ADA, "card": CARD, "note": "call her", "plan": "gold", "n": 7,
        "contacts": [{"mail": ADA, "kind": "work"}, {"mail": "ädä@example.org"}, {"kind": "none"}, {"mail": null}]
    });
    let sent = [event("a", 1, ADA, properties.clone()), event("b", 2, ADA, properties.clone())];
    assert_eq!(ingest(&mut client, &array(sent)).unwrap().accepted, 2);

    let (user, found) = stored(&mut client, 1);
    let card = found["card"].as_str().unwrap().to_owned();
    let sealed = [(id(1), "/card", card.clone())];
    let wanted = computed_in_python(&mut client, "a", &[json!(ADA), json!("ädä@example.org")], &sealed);
    assert_eq!(user.as_deref(), wanted["users"][0].as_str());
    let mail = |place: usize| wanted["properties"][place][0].clone();
    assert_eq!(
        found,
        json!({
            "email": mail(0), "card": card, "plan": "gold", "n": 7,
            "contacts": [{"mail": mail(0), "kind": "work"}, {"mail": mail(1)}, {"kind": "none"}, {"mail": null}]
        })
    );
    assert_eq!(wanted["opened"][0], json!(format!("\"{CARD}\"")));

    // The same address in another tenant is another token; there, nobody asked for the contacts' addresses.
    let (other_user, other) = stored(&mut client, 2);
    let wanted = computed_in_python(&mut client, "b", &[json!(ADA)], &[]);
    assert_eq!(other_user.as_deref(), wanted["users"][0].as_str());
    assert_ne!(other_user, user);
    assert_eq!(other["email"], wanted["properties"][0][0]);
    assert_ne!(other["email"], found["email"]);
    assert_eq!(other["contacts"], properties["contacts"]);

    // Rotated: tokens are carried over without the values, sealed values are sealed anew.
    for epoch in [2, 3] {
        assert_eq!(number(&mut client, "SELECT tally.rotate_keys('a')::int8"), epoch);
        maintain(&mut client);
    }
    let (user_now, now) = stored(&mut client, 1);
    let sealed = [(id(1), "/card", now["card"].as_str().unwrap().to_owned())];
    let wanted = computed_in_python(&mut client, "a", &[json!(ADA)], &sealed);
    assert_eq!(user_now, user, "the identity key is not rotated");
    assert_eq!(now["email"], wanted["properties"][0][2]);
    assert_eq!(now["contacts"][0]["mail"], wanted["properties"][0][2]);
    assert!(now["card"].as_str().unwrap().starts_with("seal.3."), "{now}");
    assert_eq!(wanted["opened"][0], json!(format!("\"{CARD}\"")));
    assert_eq!(number(&mut client, "SELECT oldest::int8 FROM tally.privacy_key WHERE tenant_id = 'a'"), 3);
    assert_eq!(stored(&mut client, 2).1["email"], other["email"], "another tenant's keys are its own");
}

#[test]
fn the_same_event_sent_again_is_a_duplicate_whatever_was_declared_meanwhile() {
    let keyed = Keyed::new("retries");
    let mut client = keyed.database.superuser();
    let plain = event("a", 1, ADA, json!({"email": ADA}));
    let later = event("a", 2, ADA, json!({"email": ADA}));
    let changed = event("a", 1, ADA, json!({"email": "bob@example.org"}));
    assert_eq!(ingest(&mut client, &plain.to_string()).unwrap().accepted, 1);
    let mut send_all = |what: &str, conflicts: i64| {
        let mut sent = vec![plain.clone(), later.clone(), later.clone()];
        sent.extend((0..conflicts).map(|_| changed.clone()));
        let outcome = ingest(&mut client, &array(sent)).unwrap();
        assert_eq!(outcome.rejected, 0, "{what}: {outcome:?}");
        assert_eq!(outcome.conflicts, conflicts, "{what}: {outcome:?}");
        (outcome.accepted, outcome.duplicates)
    };
    assert_eq!(send_all("before", 1), (1, 2));
    for (what, statement) in [
        ("protected", "SELECT tally.protect_property('signup', 'email', 'token'), tally.protect_user_ids()"),
        ("maintained", "CALL tally.maintain()"),
        ("rotated", "SELECT tally.rotate_keys('a')"),
        ("maintained again", "CALL tally.maintain()"),
        ("otherwise treated", "SELECT tally.protect_property('signup', 'email', 'drop')"),
        ("open to taking back", "SELECT tally.set_step_up_policy('unprotect', false)"),
        ("taken back", "SELECT tally.unprotect_property('signup', 'email'), tally.unprotect_user_ids()"),
    ] {
        keyed.database.superuser().batch_execute(statement).unwrap();
        assert_eq!(send_all(what, 1), (0, 3), "{what}");
    }
    // What came while it was protected.
    keyed
        .database
        .superuser()
        .batch_execute("SELECT tally.protect_property('signup', 'email', 'seal')")
        .unwrap();
    let mut client = keyed.database.superuser();
    let third = event("a", 3, "eve", json!({"email": ADA}));
    assert_eq!(ingest(&mut client, &third.to_string()).unwrap().accepted, 1);
    client
        .batch_execute("SELECT tally.rotate_keys('a'), tally.unprotect_property('signup', 'email')")
        .unwrap();
    assert_eq!(ingest(&mut client, &third.to_string()).unwrap().duplicates, 1);
    // A fingerprint of it can't be guessed from its content alone.
    let fingerprints = "SELECT count(DISTINCT fingerprint) FROM tally.event_key WHERE event_id IN ($1::text::uuid, $2::text::uuid)";
    let twin = event("b", 4, "eve", json!({"email": ADA}));
    let third_of_b = event("b", 3, "eve", json!({"email": ADA}));
    client.batch_execute("SELECT tally.protect_property('signup', 'email', 'token', 'b')").unwrap();
    assert_eq!(ingest(&mut client, &array([twin, third_of_b])).unwrap().accepted, 2);
    let row = client.query_one(fingerprints, &[&id(3), &id(4)]).unwrap();
    assert_eq!(row.get::<_, i64>(0), 2, "alike within a tenant, unlike across");
}

#[test]
fn without_keys_events_wait_closed_up_and_count_once_when_the_keys_are_back() {
    let keyed = Keyed::new("missing_keys");
    let mut client = keyed.database.superuser();
    client.batch_execute("SELECT tally.protect_property('signup', 'email', 'token', 'a')").unwrap();
    let sent = array((0..10).map(|number| event("a", number, ADA, json!({"email": ADA, "n": number}))));
    let of_others = event("b", 1, "bob", json!({"email": "bob@example.org"})).to_string();
    assert_eq!(
        ingest(&mut client, &event("a", 0, ADA, json!({"email": ADA, "n": 0})).to_string()).unwrap().accepted,
        1
    );

    keyed.remove();
    let outcome = ingest(&mut client, &sent).unwrap();
    assert_eq!((outcome.accepted, outcome.rejected), (0, 10), "{outcome:?}");
    let details = outcome.details.unwrap();
    assert_eq!(details[0]["sqlstate"], "55T80");
    assert!(!details.to_string().contains("example.org"), "{details}");
    assert_eq!(ingest(&mut client, &of_others).unwrap().accepted, 1, "what isn't protected needs no keys");
    let failing =
        "SELECT count(*) FROM tally.observe_health() WHERE component = 'privacy_keys' AND status = 'failing'";
    assert_eq!(number(&mut client, failing), 1);
    let all_or_nothing = format!("SELECT * FROM tally.ingest($${sent}$$, '{{\"all_or_nothing\": true}}')");
    assert_eq!(error(&mut client, &all_or_nothing).0, "55T80");
    let (sqlstate, message, hint) = error(&mut client, "SELECT tally.rotate_keys('a')");
    assert_eq!(sqlstate, "55T80");
    assert!(message.contains("can't be opened") && hint.contains("tally.key_file"), "{message} {hint}");

    // Closed up: nothing in quarantine says who it was.
    let open = "SELECT count(*) FROM tally.quarantine WHERE body NOT LIKE 'box.1.%' OR body || reason LIKE '%example%'";
    assert_eq!(number(&mut client, open), 0);
    assert_eq!(number(&mut client, "SELECT rejected FROM tally.redrive()"), 10);
    // A key that isn't the one.
    keyed.write(&"ab".repeat(32), "600");
    assert_eq!(number(&mut client, "SELECT rejected FROM tally.redrive()"), 10);
    let (sqlstate, message, hint) = error(&mut client, "SELECT tally.rotate_keys('a')");
    assert_eq!(sqlstate, "55T80");
    assert!(message.contains("key-encrypting key") && hint.contains("rewrap_keys"), "{message} {hint}");

    keyed.write(crate::keyed::KEY, "600");
    let row = client
        .query_one("SELECT accepted, duplicates, conflicts, rejected FROM tally.redrive()", &[])
        .unwrap();
    assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1)), (9, 1), "{row:?}");
    assert_eq!(number(&mut client, "SELECT count(*) FROM tally.quarantine"), 0);
    assert_eq!(
        number(
            &mut client,
            "SELECT count(*) FROM tally.events WHERE tenant_id = 'a' AND properties->>'email' LIKE 'tok.1.%'"
        ),
        10
    );
    assert_eq!(number(&mut client, failing), 0);
    assert_eq!(ingest(&mut client, &sent).unwrap().duplicates, 10);

    // Another key-encrypting key, the earlier one still there; then it goes.
    keyed.write(&format!("{}\n{}", "cd".repeat(32), crate::keyed::KEY), "600");
    assert_eq!(number(&mut client, "SELECT tally.rewrap_keys()"), 2);
    assert_eq!(number(&mut client, "SELECT tally.rewrap_keys()"), 0);
    keyed.write(&"cd".repeat(32), "600");
    assert_eq!(ingest(&mut keyed.database.superuser(), &sent).unwrap().duplicates, 10);
}

#[test]
fn a_key_file_that_others_may_read_is_refused_and_nobody_else_sees_where_it_is() {
    let mut keyed = Keyed::new("key_file");
    let protect = "SELECT tally.protect_user_ids()";
    for (text, mode, problem) in [
        ("0001", "600", "no key of 32 bytes"),
        ("no key", "600", "no key of 32 bytes"),
        ("", "600", "there is no key in it"),
        (crate::keyed::KEY, "640", "mode 0640"),
        (crate::keyed::KEY, "604", "mode 0604"),
    ] {
        keyed.write(text, mode);
        let (sqlstate, message, _) = error(&mut keyed.database.superuser(), protect);
        assert_eq!(sqlstate, "55T80", "{mode}");
        assert!(message.contains(problem), "{message}");
        assert!(!message.contains("0001020304"), "{message}");
    }
    keyed.write(crate::keyed::KEY, "600");
    let mut client = keyed.database.superuser();
    for (path, problem) in [
        ("/tmp/no/such.key", "can't be opened"),
        ("/tmp", "is not a file"),
        ("/etc/hostname", "belongs to user 0"),
    ] {
        client.batch_execute(&format!("SET tally.key_file = '{path}'")).unwrap();
        let (sqlstate, message, _) = error(&mut client, protect);
        assert_eq!(sqlstate, "55T80", "{path}");
        assert!(message.contains(problem), "{path}: {message}");
    }
    // A command in its place.
    client.batch_execute("SET tally.key_file = ''").unwrap();
    for (command, problem) in [
        ("exit 3", "exit status: 3"),
        ("echo", "there is no key in it"),
        ("head -c 70000 /dev/zero", "tally.key_command"),
    ] {
        client.batch_execute(&format!("SET tally.key_command = '{command}'")).unwrap();
        let (sqlstate, message, _) = error(&mut client, protect);
        assert_eq!(sqlstate, "55T80", "{command}");
        assert!(message.contains(problem), "{command}: {message}");
    }
    client
        .batch_execute(&format!("SET tally.key_command = 'echo {}'; {protect}", crate::keyed::KEY))
        .unwrap();

    let admin = keyed.database.role("admin", &["tally_admin"]);
    let mut admin = keyed.database.connect(&admin);
    // Loads the library: until then Postgres takes the setting for anybody's.
    admin.batch_execute("SELECT tally.scope_key()").unwrap_err();
    for setting in ["tally.key_file", "tally.key_command"] {
        assert_eq!(code(admin.query(&format!("SHOW {setting}"), &[])), "42501");
        assert_eq!(code(admin.batch_execute(&format!("SET {setting} = 'x'"))), "42501");
        let shown = format!("SELECT count(*) FROM pg_settings WHERE name = '{setting}'");
        assert_eq!(number(&mut admin, &shown), 0);
    }
    let secrets = "SELECT wrapped FROM tally.privacy_key";
    assert_eq!(code(admin.query(secrets, &[])), "42501");
}

#[test]
fn declarations_that_can_not_be_kept_are_refused() {
    let mut keyed = Keyed::new("declaring");
    let role = keyed.database.role("admin", &["tally_admin"]);
    let mut admin = keyed.database.connect(&role);
    for (statement, sqlstate, says) in [
        ("SELECT tally.protect_property('signup', 'email', 'hash')", "22023", "drop, token and seal"),
        ("SELECT tally.protect_property('signup', NULL, 'drop')", "22004", "email"),
        ("SELECT tally.protect_property('signup', '/a//b', 'drop')", "22023", "JSON Pointer"),
        ("SELECT tally.protect_property('signup', '', 'drop')", "22023", "JSON Pointer"),
        ("SELECT tally.protect_property('', 'email', 'drop')", "22023", "1 to 200 bytes"),
        ("SELECT tally.protect_property('signup', 'email', 'drop', '')", "22023", "1 to 200 bytes"),
        ("SELECT tally.protect_property(NULL, '/contacts/0/email', 'drop')", "22023", "each element"),
        (
            "SELECT tally.register_event('x', '{\"properties\": {\"a\": {\"x-personal\": \"Token\"}}}', 'y')",
            "22023",
            "protect_property",
        ),
        (
            "SELECT tally.register_event('x', '{\"anyOf\": [{\"properties\": {\"a\": {\"x-personal\": true}}}]}', 'y')",
            "22023",
            "protect_property",
        ),
        (
            "SELECT tally.register_event('x', '{\"properties\": {\"a\": {\"x-personal\": true}, \"b\": {\"$ref\": \"#/properties/a\"}}}', 'y')",
            "22023",
            "protect_property",
        ),
        (
            "SELECT tally.register_event('x', '{\"properties\": {\"a\": {\"x-personal\": \"drop\"}, \"b\": {\"items\": {\"$ref\": \"#\"}}}}', 'y')",
            "22023",
            "protect_property",
        ),
        (
            "SELECT tally.register_event('x', '{\"properties\": {\"a\": {\"x-personal\": true, \"$anchor\": \"a\"}, \"b\": {\"$ref\": \"#a\"}}}', 'y')",
            "22023",
            "protect_property",
        ),
        ("SELECT tally.protect_user_ids('seal')", "22023", "token and drop"),
        ("SELECT tally.rotate_keys('nobody')", "55T80", "first protected"),
        ("SELECT tally.unprotect_user_ids()", "42T20", "authenticate"),
        ("SELECT tally.unprotect_property('signup', 'email')", "42T20", "authenticate"),
    ] {
        let (found, _, hint) = error(&mut admin, statement);
        assert_eq!(found, sqlstate, "{statement}");
        assert!(hint.contains(says), "{statement}: {hint}");
    }
    // What can't be a place in an array is the name of a key.
    let mapping =
        r#"SELECT tally.define_mapping('m', 'segment', '{"properties": {"note": "/properties/plan"}}')"#;
    admin.batch_execute(mapping).unwrap();
    for path in ["2023", "/2024/email"] {
        let declare = "SELECT tally.protect_property(NULL, $1, 'drop')";
        assert!(admin.query_one(declare, &[&path]).unwrap().get::<_, bool>(0), "{path}");
    }
    // A rollup that would meet tokens.
    admin
        .batch_execute(
            "SELECT tally.create_rollup('plans', grains => '{day}', dimensions => ARRAY[$$properties->>'plan' AS plan$$],
                measures => ARRAY['count(*) AS events', $$sum((properties #>> '{deal,amount}')::numeric) AS amount$$],
                filter => $$properties ? 'it''s'$$)",
        )
        .unwrap();
    for path in ["plan", "deal", "/deal/amount", "/it's", "/plan/name"] {
        let statement =
            format!("SELECT tally.protect_property(NULL, '{}', 'drop')", path.replace('\'', "''"));
        let (sqlstate, message, hint) = error(&mut admin, &statement);
        assert_eq!(sqlstate, "2BP01", "{path}");
        assert!(message.contains("by rollup plans") && hint.contains("alter_rollup"), "{message} {hint}");
    }
    for path in ["planned", "/other/more", "/deal/other", "its", "number"] {
        admin.batch_execute(&format!("SELECT tally.protect_property(NULL, '{path}', 'drop')")).unwrap();
    }
    // The audit tells who declared what.
    let told =
        "SELECT count(*) FROM tally.audit WHERE act = 'privacy_protection_added' AND actor = session_user";
    admin.batch_execute("SELECT tally.enter_global()").unwrap();
    let mut auditor = keyed.database.superuser();
    assert!(number(&mut auditor, &told.replace("session_user", &format!("'{role}'"))) >= 4);
}

#[test]
fn a_schema_that_marks_properties_has_them_protected() {
    let keyed = Keyed::new("marked");
    let mut client = keyed.database.superuser();
    let schema = json!({
        "type": "object",
        "properties": {
            "email": {"type": "string", "format": "email", "maxLength": 30, "x-personal": true},
            "contacts": {"type": "array", "items": {"type": "object", "properties": {"mail": {"type": "string", "x-personal": "seal"}}}},
            "note": {"x-personal": "drop"}, "mails": {"type": "array", "items": {"x-personal": "drop"}}, "plan": {"x-personal": false}, "kind": {"type": "string"}
        }
    });
    client
        .execute("SELECT tally.register_event('signup', $1::text::jsonb, 'a test')", &[&schema.to_string()])
        .unwrap();
    let declared =
        "SELECT string_agg(event_name || path || ' ' || treatment, ', ' ORDER BY path) FROM tally.protection";
    let declared: String = client.query_one(declared, &[]).unwrap().get(0);
    assert_eq!(
        declared,
        "signup/contacts/mail seal, signup/email token, signup/mails drop, signup/note drop"
    );
    // The schema judges what was sent; what it has to say doesn't show it.
    let sent = [
        event("a", 1, "u", json!({"email": ADA, "contacts": [{"mail": ADA}], "note": "x"})),
        event("a", 2, "u", json!({"email": "a.very.long.address@of.an.example.org", "plan": 7})),
    ];
    let outcome = ingest(&mut client, &array(sent)).unwrap();
    assert_eq!((outcome.accepted, outcome.rejected), (1, 1));
    assert!(!outcome.details.unwrap().to_string().contains("long.address"));
    let (_, found) = stored(&mut client, 1);
    assert!(found["email"].as_str().unwrap().starts_with("tok.1."), "{found}");
    assert!(found["contacts"][0]["mail"].as_str().unwrap().starts_with("seal.1."), "{found}");
    assert_eq!(found.get("note"), None);
    assert_eq!(
        number(
            &mut client,
            "SELECT count(*) FROM tally.quarantine WHERE reason || body LIKE '%long.address%'"
        ),
        0
    );
}

/// Its events are stored under a token, and those from before the protection under the id itself.
#[test]
fn a_tokenised_user_is_erased_and_its_certificate_counts() {
    let keyed = Keyed::new("token_erased");
    let mut client = keyed.database.superuser();
    client.batch_execute("SELECT tally.set_step_up_policy('erase_subject', false)").unwrap();
    let send = |client: &mut Client, numbers: std::ops::Range<u32>, user: &str| {
        let events = numbers.map(|number| event("acme", number, user, json!({"n": number})));
        ingest(client, &array(events)).unwrap().accepted
    };
    assert_eq!(send(&mut client, 1..3, "ann"), 2);
    client.batch_execute("SELECT tally.protect_user_ids()").unwrap();
    assert_eq!(
        send(&mut client, 3..6, "ann") + send(&mut client, 6..9, "bob") + send(&mut client, 9..10, "cy"),
        7
    );
    let tokens = "SELECT count(*) FROM tally.events WHERE user_id LIKE 'tok.%'";
    assert_eq!(number(&mut client, tokens), 7, "nothing is tokenised: nothing is shown");
    let certificate = client.query_one("SELECT tally.erase_subject('acme', 'ann', 'r')", &[]).unwrap();
    let certificate: Value = certificate.get(0);
    assert_eq!(certificate["events_removed"], json!(5), "{certificate}");
    client.batch_execute("SELECT tally.erase_subjects('acme', '{bob}', 'r')").unwrap();
    client.batch_execute("CALL tally.maintain()").unwrap();
    let of_bob = "SELECT e.events FROM tally.erasures AS e WHERE e.certificate->>'erased_together' = '1' ORDER BY e.requested_at DESC LIMIT 1";
    assert_eq!(number(&mut client, of_bob), 3);
    assert_eq!(number(&mut client, "SELECT count(*) FROM tally.events"), 1);
    assert_eq!(send(&mut client, 20..21, "ann") + send(&mut client, 21..22, "bob"), 0);
}

/// Without the tenant's keys nobody can say under which token its users are stored.
#[test]
fn a_tenant_that_can_not_be_erased_from_now_keeps_no_other_waiting() {
    let mut keyed = Keyed::new("token_waits");
    let mut client = keyed.database.superuser();
    client.batch_execute("SELECT tally.set_step_up_policy('erase_subject', false), tally.protect_user_ids('token', 'first')").unwrap();
    let role = keyed.database.role("admin", &["tally_admin"]);
    let mut admin = keyed.database.connect(&role);
    for tenant in ["first", "second"] {
        let events = [event(tenant, 1, "ann", json!({})), event(tenant, 2, "bob", json!({}))];
        assert_eq!(ingest(&mut client, &array(events)).unwrap().accepted, 2);
        // Both at once wait, the first for longer.
        admin.execute("SELECT tally.erase_subjects($1, '{ann}', 'r')", &[&tenant]).unwrap();
    }
    keyed.remove();
    admin.batch_execute("CALL tally.maintain()").unwrap();
    let waiting = "SELECT string_agg(tenant_id, ' ') FROM tally.erasure WHERE finished_at IS NULL";
    assert_eq!(client.query_one(waiting, &[]).unwrap().get::<_, String>(0), "first");
    let told =
        "SELECT advice FROM tally.observe_health() WHERE component = 'maintenance' AND status = 'failing'";
    let advice: String = admin.query_one(told, &[]).unwrap().get(0);
    assert!(advice.contains("erasure first failed") && advice.contains("55T80"), "{advice}");
    assert_eq!(code(admin.query("SELECT tally.erase_subject('first', 'bob', 'r')", &[])), "55T80");
    keyed.write(crate::keyed::KEY, "600");
    admin.batch_execute("CALL tally.maintain()").unwrap();
    assert_eq!(number(&mut client, "SELECT count(*) FROM tally.erasure WHERE finished_at IS NOT NULL"), 2);
    assert_eq!(number(&mut client, "SELECT count(*) FROM tally.events"), 2);
    assert!(admin.query(told, &[]).unwrap().is_empty());
}

/// It may take half a minute, in which declarations and other steps that lock ingest out go on.
#[test]
fn a_command_that_prints_the_keys_keeps_nobody_waiting() {
    let keyed = Keyed::new("key_command");
    let mut client = keyed.database.superuser();
    client.batch_execute("SELECT tally.protect_user_ids()").unwrap();
    assert_eq!(ingest(&mut client, &array([event("a", 1, "u", json!({}))])).unwrap().accepted, 1);
    let mark = format!("/tmp/{}.command", keyed.database.name());
    let file = |client: &mut Client, command: &str| {
        client.batch_execute(&format!("COPY (SELECT) TO PROGRAM 'cat > /dev/null; {command}'")).unwrap();
    };
    file(&mut client, &format!("touch {mark}.hold"));
    let command = format!(
        "touch {mark}.runs; while [ -e {mark}.hold ]; do sleep 0.05; done; echo {}",
        crate::keyed::KEY
    );
    let mut loader = keyed.database.superuser();
    loader.batch_execute(&format!("SET tally.key_file = ''; SET tally.key_command = '{command}'")).unwrap();
    let loading =
        std::thread::spawn(move || ingest(&mut loader, &array([event("a", 2, "u", json!({}))])).unwrap());
    let runs =
        format!("SELECT count(*) FROM pg_stat_file('{mark}.runs', true) AS f WHERE f.size IS NOT NULL");
    tally_server_tests::wait_for("the command runs", || (number(&mut client, &runs) == 1).then_some(()));
    // What a declaration locks ingest out with.
    let locked =
        client.batch_execute("BEGIN; LOCK TABLE tally.rollup IN SHARE ROW EXCLUSIVE MODE NOWAIT; ROLLBACK");
    client.batch_execute("ROLLBACK").unwrap();
    file(&mut client, &format!("rm -f {mark}.hold {mark}.runs"));
    assert_eq!(loading.join().unwrap().accepted, 1);
    locked.unwrap();
}

#[test]
fn a_mapping_copies_nothing_that_is_protected_whichever_is_declared_first() {
    let mut keyed = Keyed::new("mapped");
    let role = keyed.database.role("admin", &["tally_admin"]);
    let mut admin = keyed.database.connect(&role);
    let define =
        |name: &str, mapping: &str| format!("SELECT tally.define_mapping('{name}', 'segment', '{mapping}')");
    admin
        .batch_execute(
            "SELECT tally.protect_property(NULL, 'email', 'token'), tally.protect_property('signup', '/user/phone', 'seal', 'a'),
                    tally.protect_user_ids()",
        )
        .unwrap();
    for (mapping, says) in [
        (r#"{"properties": {"note": "/properties/email"}}"#, "\"/email\""),
        (r#"{"properties": {"note": "/context/traits/email"}}"#, "\"/email\""),
        (r#"{"properties": {"all": "/traits"}}"#, "\"/email\""),
        (r#"{"account": ["/groupId", "/properties/email"]}"#, "\"/email\""),
        (r#"{"properties": {"who": "/properties/user"}}"#, "\"/user/phone\""),
        (r#"{"properties": {"who": "/userId"}}"#, "the user id"),
        (r#"{"account": "/userId"}"#, "the user id"),
    ] {
        let (sqlstate, message, hint) = error(&mut admin, &define("m", mapping));
        assert_eq!(sqlstate, "55000", "{mapping}: {message}");
        assert!(message.contains(says) && hint.contains("protect_property"), "{mapping}: {message} {hint}");
    }
    // What comes to a protected place, or is nothing protected.
    admin
        .batch_execute(&define(
            "m",
            r#"{"account": "/context/groupId", "user": ["/properties/email", "/userId"],
                "properties": {"email": "/context/traits/email", "plan": "/properties/plan"}}"#,
        ))
        .unwrap();
    // The other way round: the mapping in force counts, not what it was before.
    admin.batch_execute(&define("later", r#"{"properties": {"note": "/properties/street"}}"#)).unwrap();
    let street = "SELECT tally.protect_property('signup', 'street', 'drop', 'b')";
    let (sqlstate, message, _) = error(&mut admin, street);
    assert_eq!(sqlstate, "2BP01", "{message}");
    assert!(message.contains("mapping \"later\" (properties: note)"), "{message}");
    let schema =
        r#"SELECT tally.register_event('signup', '{"properties": {"street": {"x-personal": "drop"}}}', 'y')"#;
    assert_eq!(error(&mut admin, schema).0, "2BP01");
    admin.batch_execute(&define("later", "{}")).unwrap();
    admin.batch_execute(street).unwrap();
    admin.batch_execute(schema).unwrap();
    // Nothing was left behind by what was refused.
    let mut superuser = keyed.database.superuser();
    assert_eq!(
        number(&mut superuser, "SELECT count(*) FROM tally.payload_mapping WHERE mapping_name = 'm'"),
        1
    );

    // Nor is the place that something protected is copied to opened.
    superuser.batch_execute("SELECT tally.set_step_up_policy('unprotect', false)").unwrap();
    let (sqlstate, message, _) = error(&mut superuser, "SELECT tally.unprotect_user_ids()");
    assert_eq!(sqlstate, "2BP01", "{message}");
    assert!(message.contains("mapping \"m\""), "{message}");
    superuser.batch_execute("SELECT tally.unprotect_property('signup', 'street', 'b')").unwrap();

    // What is stored of a payload: nothing in clear.
    let payload = json!({"type": "track", "event": "signup", "messageId": "m-1", "userId": CARD, "timestamp": "2026-03-02T09:15:00Z",
        "context": {"groupId": "north", "traits": {"email": ADA}}, "properties": {"email": ADA, "plan": "gold"}});
    let other = json!({"event": "visit", "properties": {"time": 1772442900, "distinct_id": CARD, "$user_id": CARD, "$insert_id": "i", "plan": "gold"}});
    superuser
        .batch_execute("SELECT tally.define_mapping('mix', 'mixpanel', '{\"account\": {\"value\": \"north\"}}'); BEGIN; SELECT tally.enter('a')")
        .unwrap();
    let send = "SELECT accepted FROM tally.ingest_from($1, $2::text, $3)";
    assert_eq!(
        superuser.query_one(send, &[&"segment", &payload.to_string(), &"m"]).unwrap().get::<_, i64>(0),
        1
    );
    assert_eq!(
        superuser.query_one(send, &[&"mixpanel", &other.to_string(), &"mix"]).unwrap().get::<_, i64>(0),
        1
    );
    superuser.batch_execute("COMMIT").unwrap();
    let rows: Vec<String> = superuser
        .query("SELECT e::text FROM tally.events AS e", &[])
        .unwrap()
        .iter()
        .map(|row| row.get(0))
        .collect();
    assert_eq!(rows.len(), 2);
    for row in rows {
        assert!(!row.contains(ADA) && !row.contains(CARD) && row.contains("gold"), "{row}");
    }
}

/// What a mapping showed before, of whatever tenant, is not for whoever takes something else back to put right.
#[test]
fn taking_a_protection_back_is_refused_for_what_it_would_show_and_nothing_else() {
    let mut keyed = Keyed::new("taking_back");
    let role = keyed.database.role("admin", &["tally_admin"]);
    let mut admin = keyed.database.connect(&role);
    let mut superuser = keyed.database.superuser();
    superuser.batch_execute("SELECT tally.set_step_up_policy('unprotect', false)").unwrap();
    admin
        .batch_execute(
            r#"SELECT tally.protect_property(NULL, 'email', 'token'), tally.protect_property(NULL, 'copy', 'token'),
                      tally.protect_property(NULL, 'copy', 'drop', 'a'), tally.protect_property('signup', 'copy', 'drop', 'a');
               SELECT tally.define_mapping('copier', 'segment', '{"properties": {"copy": "/properties/email"}}');
               SELECT tally.protect_property(NULL, 'phone', 'seal', 'a'), tally.protect_property(NULL, 'plan', 'drop', 'a'),
                      tally.protect_property('signup', 'plan', 'drop'), tally.protect_user_ids('token', 'a'),
                      tally.protect_property(NULL, 'street', 'drop', 'b'),
                      tally.protect_property(NULL, 'card', 'seal'), tally.protect_property('paid', 'number', 'seal', 'a')"#,
        )
        .unwrap();
    // Of mappings that were declared before that was looked at: of another tenant, of the same, and of one that guards itself.
    superuser
        .batch_execute(
            r#"INSERT INTO tally.payload_mapping (version, mapping_name, format, definition) VALUES
                 (1, 'older', 'segment', '{"properties": {"note": "/properties/street", "call": "/properties/phone", "number": "/traits/card"}}')"#,
        )
        .unwrap();
    for statement in [
        "SELECT tally.unprotect_property(NULL, 'plan', 'a')",
        "SELECT tally.unprotect_property('signup', 'plan')",
        "SELECT tally.unprotect_user_ids('a')",
        "SELECT tally.unprotect_property(NULL, 'street', 'b')",
        // It stays protected for all.
        "SELECT tally.unprotect_property('signup', 'copy', 'a')",
        "SELECT tally.unprotect_property(NULL, 'copy', 'a')",
    ] {
        let row =
            admin.query_one(statement, &[]).unwrap_or_else(|problem| panic!("{statement}: {problem:?}"));
        assert!(row.get::<_, bool>(0), "{statement}");
    }
    for (statement, says) in [
        (
            "SELECT tally.unprotect_property(NULL, 'copy')",
            "property \"/email\" is copied by mapping \"copier\" (properties: copy)",
        ),
        (
            "SELECT tally.unprotect_property('paid', 'number', 'a')",
            "property \"/card\" is copied by mapping \"older\" (properties: number)",
        ),
    ] {
        let (sqlstate, message, hint) = error(&mut admin, statement);
        assert_eq!(sqlstate, "2BP01", "{message}");
        assert!(message.contains(says) && hint.contains("tally.define_mapping()"), "{message} {hint}");
    }
    assert_eq!(
        number(&mut superuser, "SELECT count(*) FROM tally.protection WHERE path IN ('/copy', '/number')"),
        2
    );
    // Nothing is copied there any more, or nothing that is protected.
    admin
        .batch_execute(
            r#"SELECT tally.define_mapping('copier', 'segment', '{"properties": {"copy": "/properties/plan"}}');
               SELECT tally.unprotect_property(NULL, 'copy');
               SELECT tally.unprotect_property(NULL, 'card');
               SELECT tally.unprotect_property('paid', 'number', 'a')"#,
        )
        .unwrap();
}
