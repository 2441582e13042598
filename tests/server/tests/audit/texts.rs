//! Long texts: none stops the log, none hides what was done, and what people write has a limit, told before anything is done.

use crate::audit::served_with;
use postgres::Client;
use std::thread;
use std::time::Duration;
use tally_server_tests::{code, number, wait_for};

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
