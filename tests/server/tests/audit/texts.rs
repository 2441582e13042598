//! Long texts: none stops the log, none hides what was done, and what people write has a limit, told before anything is done.

use crate::audit::served_with;
use postgres::Client;
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
        assert_eq!(code(clients[*client].batch_execute(&format!("SELECT tally.{call}"))), "22023", "{call}");
    }
    drop(clients);
    assert_eq!(number(&mut superuser, "SELECT count(*) FROM tally.audit_entry"), before);
    assert_eq!(number(&mut superuser, "SELECT count(*) FROM tally.reveal_count"), 0);
    // As long as it may be.
    let mut admin = database.connect(&names[0]);
    admin.batch_execute("SELECT tally.classify('tally.events.name', 'internal', repeat('x', 2000))").unwrap();
    admin.batch_execute("SELECT tally.describe_asset('tally.events', owner => repeat('é', 1000))").unwrap();
}
