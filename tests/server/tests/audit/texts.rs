//! Long texts: none stops the log, none hides what was done, and what people write has a limit, told before anything is done.

use crate::audit::served_with;
use postgres::Client;
use serde_json::Value;
use std::thread;
use std::time::Duration;
use tally_server_tests::{Database, code, number, wait_for};

/// A message that is longer than what the worker takes in one step is taken nevertheless, and what comes behind it.
#[test]
fn an_entry_of_any_size_leaves_shared_memory() {
    let server = served_with("audit_long", "4MB");
    let mut superuser = server.connect("postgres", "shop");
    superuser.batch_execute("SELECT tally.bind_role('acme_bi', 'acme'); SET ROLE tally_owner").unwrap();
    for length in [1_100_000, 3_000_000, 10] {
        let long = format!("BEGIN; SELECT tally_internal.record_act(repeat('x', {length})); ROLLBACK");
        superuser.batch_execute(&long).unwrap();
    }
    let mut bi = server.connect("acme_bi", "shop");
    assert_eq!(code(bi.batch_execute("SELECT tally.enter('globex')")), "42501");
    let mut auditor = server.connect("auditor", "shop");
    wait_for("all of them", || {
        let query =
            "SELECT count(*) FROM tally.audit WHERE act LIKE 'xxx%' AND detail ? 'undone' OR act = 'denied'";
        (number(&mut auditor, query) == 4).then_some(())
    });
}

/// Where the worker can't take entries out of shared memory, nothing of them is in a table: health tells.
#[test]
fn health_tells_how_long_entries_wait_in_memory() {
    let server = served_with("audit_waits", "256kB");
    let mut admin = server.connect("admin", "shop");
    admin.batch_execute("SELECT tally.bind_role('acme_bi', 'acme')").unwrap();
    let mut superuser = server.connect("postgres", "shop");
    let waits = |superuser: &mut Client| -> f64 {
        let health = "SELECT coalesce((SELECT value FROM tally.health() WHERE component = 'audit'), 0)";
        superuser.query_one(health, &[]).unwrap().get(0)
    };
    wait_for("seals", || {
        let state = "SELECT unsealed_since IS NULL FROM tally_internal.audit_state()";
        superuser.query_one(state, &[]).unwrap().get::<_, bool>(0).then_some(())
    });
    let mut locker = server.connect("postgres", "shop");
    locker.batch_execute("BEGIN; LOCK TABLE tally.audit_rest, tally.audit_entry IN SHARE MODE").unwrap();
    assert_eq!(
        code(server.connect("acme_bi", "shop").batch_execute("SELECT tally.enter('globex')")),
        "42501"
    );
    thread::sleep(Duration::from_secs(4));
    let waited = waits(&mut superuser);
    assert!(waited >= 3.0, "{waited}");
    locker.batch_execute("COMMIT").unwrap();
    wait_for("the table", || {
        (number(&mut superuser, "SELECT count(*) FROM tally.audit WHERE act = 'denied'") == 1).then_some(())
    });
    wait_for("nothing to wait", || (waits(&mut superuser) == 0.0).then_some(()));
}

/// Each function that takes a text of somebody's: too long a one is refused, before anything is looked at or done.
#[test]
fn what_people_write_has_a_limit() {
    let mut database = Database::new("audit_words");
    let roles = ["tally_admin", "tally_auditor", "tally_reader", "tally_custodian"];
    let names = roles.map(|group| database.role(&group[6..], &[group]));
    let mut superuser = database.superuser();
    superuser
        .batch_execute(&format!(
            "SELECT tally.bind_role('{}', 'acme'), tally.bind_role('{}', 'acme'); SELECT tally.set_step_up_policy(act, false) FROM tally.step_up_acts()",
            names[2], names[3]
        ))
        .unwrap();
    let nothing = "00000000-0000-4000-8000-000000000001";
    let long = "repeat('x', 2001)";
    let calls = [
        (2, format!("withdraw_export('{nothing}', {long})")),
        (0, format!("reject_export('{nothing}', {long})")),
        (2, format!("request_export('SELECT 1 AS one', {long}, 1)")),
        (0, format!("classify('tally.events.name', 'internal', {long})")),
        (0, format!("describe_asset('tally.events', owner => {long})")),
        (0, format!("describe_asset('tally.events', purpose => {long})")),
        (0, format!("describe_asset('tally.events', retention => {long})")),
        (1, format!("set_alert_state('{nothing}', 'closed', {long})")),
        (0, format!("set_step_up_policy('reveal', false, amr => ARRAY[{long}])")),
        (
            0,
            "set_step_up_policy('reveal', false, acr => string_to_array(repeat('x ', 1000) || 'x', ' '))"
                .to_owned(),
        ),
        (0, format!("map_person('jane', subject => {long})")),
        (0, format!("register_event('signup', '{{}}', {long})")),
        (0, format!("erase_subject('acme', 'somebody', {long})")),
        (0, format!("erase_subjects('acme', '{{somebody}}', {long})")),
        (2, format!("discard({long})")),
        (3, format!("reveal('{nothing}', '/card', {long})")),
        (3, format!("reveal('{nothing}', '/card', 'because' || repeat(' ', 17000))")),
        (3, format!("reveal_quarantined(1, 1, {long})")),
        (3, format!("tokens_of('x', {long})")),
    ];
    superuser.batch_execute(&format!("GRANT tally_writer TO {}", names[2])).unwrap();
    let before = number(&mut superuser, "SELECT count(*) FROM tally.audit_entry");
    let mut clients = names.each_ref().map(|name| database.connect(name));
    for (client, call) in &calls {
        let refused = clients[*client].batch_execute(&format!("SELECT tally.{call}")).unwrap_err();
        let refused = refused.as_db_error().unwrap_or_else(|| panic!("{call}: {refused}"));
        assert_eq!(refused.code().code(), "22023", "{call}");
        // In one place, so that all say the same.
        assert!(refused.message().ends_with(" bytes, and may have 2000"), "{call}: {refused}");
        assert!(refused.hint().unwrap_or_default().contains("fewer words"), "{call}: {refused:?}");
    }
    drop(clients);
    assert_eq!(number(&mut superuser, "SELECT count(*) FROM tally.audit_entry"), before);
    assert_eq!(number(&mut superuser, "SELECT count(*) FROM tally.reveal_count"), 0);
    // As long as it may be.
    let mut admin = database.connect(&names[0]);
    admin.batch_execute("SELECT tally.classify('tally.events.name', 'internal', repeat('x', 2000))").unwrap();
    admin.batch_execute("SELECT tally.describe_asset('tally.events', owner => repeat('é', 1000))").unwrap();
}

/// What is too long for an entry is cut, value by value: the others say what was done, and what was left out is named.
#[test]
fn a_long_value_hides_no_other() {
    let mut database = Database::new("audit_padded");
    let admin = database.role("admin", &["tally_admin"]);
    let mut client = database.connect(&admin);
    let pad = |n: usize| " ".repeat(n);
    let filter = format!("name = 'a'{}", pad(17_000));
    client
        .execute("SELECT tally.create_rollup('r', '{day}', ARRAY['count(*) AS n'], filter => $1)", &[&filter])
        .unwrap();
    let long: String = (0..30_000).map(|n| char::from(b'a' + (n % 26) as u8)).collect();
    let schema = format!(r#"{{"type": "object", "title": "{long}"}}"#);
    client
        .execute("SELECT tally.register_event('signup', $1::text::jsonb, 'ticket 4711')", &[&schema])
        .unwrap();
    let mut superuser = database.superuser();
    let mut told = |act: &str| -> Value {
        let query = "SELECT detail FROM tally.audit WHERE act = $1 ORDER BY at LIMIT 1";
        superuser.query_one(query, &[&act]).unwrap().get(0)
    };
    let rollup = told("rollup_added");
    assert_eq!(rollup["to"]["rollup_name"], "r", "{rollup}");
    let cut = &rollup["to"]["filter"];
    assert!(cut["begin"].as_str().unwrap().starts_with("name = 'a'   "), "{rollup}");
    assert_eq!(
        cut["begin"].as_str().unwrap().len() as u64 + cut["left_out_bytes"].as_u64().unwrap(),
        filter.len() as u64
    );
    let hash: String =
        client.query_one("SELECT encode(sha256(convert_to($1, 'UTF8')), 'hex')", &[&filter]).unwrap().get(0);
    assert_eq!(cut["sha256"], hash.as_str());
    let schema = told("schema_added");
    assert_eq!(schema["to"]["reason"], "ticket 4711", "{schema}");
    assert_eq!(schema["to"]["name"], "signup");
    assert_eq!(schema["to"]["registered_by"], admin.as_str());
    assert!(schema["to"]["schema"]["left_out_bytes"].as_u64().unwrap() > 10_000, "{schema}");
    // The personal part, too, and an object, whoever hands it over.
    superuser
        .batch_execute(
            "SET ROLE tally_owner;
             SELECT tally_internal.record_act('padded', repeat('o', 5000), NULL, 'acme', NULL,
               jsonb_build_object('reason', repeat('x', 1100000), 'subject', 'jane'))",
        )
        .unwrap();
    superuser.batch_execute("RESET ROLE").unwrap();
    let row =
        superuser.query_one("SELECT object, personal FROM tally.audit WHERE act = 'padded'", &[]).unwrap();
    let (object, personal): (String, Value) = (row.get(0), row.get(1));
    assert!(
        object.starts_with("ooo") && object.len() < 1200 && object.contains("bytes left out"),
        "{object}"
    );
    assert_eq!(personal["subject"], "jane", "{}", personal.to_string().len());
    assert!(personal["reason"]["left_out_bytes"].as_u64().unwrap() > 1_000_000);
    assert!(client.query("SELECT * FROM tally.verify_audit()", &[]).unwrap().is_empty());
}
