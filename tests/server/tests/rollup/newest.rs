//! What is declared while somebody waits, or while an older snapshot is in use: a backend's own copy is of now, whatever its
//! transaction sees, since it outlives that one.

use postgres::Client;
use serde_json::json;
use std::thread;
use tally_server_tests::{Database, assert_right, fold_all, ingest, number, verify, wait_for};

fn batch(from: usize, count: usize) -> String {
    let events: Vec<_> = (from..from + count)
        .map(|n| {
            json!({"tenant_id": "t", "account_id": format!("a{}", n % 5), "name": "n", "occurred_at": "2026-03-02T09:15:00Z",
                   "event_id": format!("00000000-0000-4000-8000-{n:012}"), "properties": {"amount": 1}})
        })
        .collect();
    json!(events).to_string()
}

fn create(client: &mut Client, name: &str) {
    let call =
        format!("SELECT tally.create_rollup('{name}', '{{day}}', ARRAY['count(*) AS n'], backfill => true)");
    client.batch_execute(&call).unwrap();
    while number(client, &format!("SELECT tally.backfill('{name}')")) > 0 {}
}

fn counted(client: &mut Client, name: &str) -> i64 {
    fold_all(client, name);
    number(client, &format!("SELECT coalesce(sum(n), 0)::int8 FROM tally.{name}_day_base"))
}

#[test]
fn a_transaction_older_than_a_rollup_counts_in_it() {
    let database = Database::new("newest_counts");
    let (mut admin, mut client) = (database.superuser(), database.superuser());
    assert_eq!(ingest(&mut client, &batch(0, 10)).unwrap().accepted, 10);
    for (number, level) in ["REPEATABLE READ", "SERIALIZABLE"].into_iter().enumerate() {
        let name = format!("r{number}");
        let before = 1_000 * (number + 1);
        client.batch_execute(&format!("BEGIN ISOLATION LEVEL {level}; SELECT 1")).unwrap();
        create(&mut admin, &name);
        let all = counted(&mut admin, &name);
        assert!(all > 0, "{level}: what was there is counted");
        assert_eq!(ingest(&mut client, &batch(before, 7)).unwrap().accepted, 7, "{level}");
        client.batch_execute("COMMIT").unwrap();
        assert_eq!(ingest(&mut client, &batch(before + 100, 50)).unwrap().accepted, 50, "{level}");
        assert_eq!(counted(&mut admin, &name), all + 57, "{level}");
        assert_right(&mut admin, &name);
    }
}

/// Waits until a session waits for a lock.
fn await_waiting(watcher: &mut Client, pid: i64) {
    let is_waiting = format!("SELECT count(*) FROM pg_locks WHERE pid = {pid} AND NOT granted");
    wait_for("the session to wait for a lock", || (number(watcher, &is_waiting) > 0).then_some(()));
}

/// Runs a statement in another session while `change` holds up what it waits for, and gives how it ended.
fn while_waiting(database: &Database, statement: &'static str, change: &str) -> Client {
    let (mut admin, mut other) = (database.superuser(), database.superuser());
    let waits = number(&mut other, "SELECT pg_backend_pid()::int8");
    admin.batch_execute(&format!("BEGIN; {change}")).unwrap();
    thread::scope(|scope| {
        let running = scope.spawn(|| other.batch_execute(statement).unwrap());
        await_waiting(&mut database.superuser(), waits);
        admin.batch_execute("COMMIT").unwrap();
        running.join().unwrap();
    });
    other
}

#[test]
fn a_fold_or_rebuild_that_waited_for_an_alteration_keeps_the_new_measure() {
    let database = Database::new("newest_folds");
    let mut admin = database.superuser();
    for (place, statement) in [
        "SELECT tally.fold('usage', 1000), tally.fold('r', 1000)",
        "SELECT tally.rebuild_rollup('r')",
        "BEGIN; SELECT tally.enter_global(); SELECT count(*) FROM tally.verify_rollup('r'); COMMIT",
        "CALL tally.maintain()",
    ]
    .into_iter()
    .enumerate()
    {
        create(&mut admin, "r");
        assert!(ingest(&mut admin, &batch(10_000 * place, 20)).unwrap().accepted == 20);
        let change = "SELECT tally.alter_rollup('r', add_measures => ARRAY['sum((properties->>''amount'')::numeric) AS v'])";
        let mut other = while_waiting(&database, statement, change);
        // And what it remembers from then on.
        assert_eq!(ingest(&mut other, &batch(10_000 * place + 100, 20)).unwrap().accepted, 20);
        other.batch_execute("SELECT tally.fold('r', 1000)").unwrap();
        fold_all(&mut admin, "r");
        let sums = "SELECT count(*) FROM tally.r_day_base WHERE v IS DISTINCT FROM n";
        assert_eq!(number(&mut admin, sums), 0, "{statement}");
        assert!(number(&mut admin, "SELECT sum(v)::int8 FROM tally.r_day_base") >= 40, "{statement}");
        assert_eq!(verify(&mut admin, "r").len(), 0, "{statement}");
        admin.batch_execute("SELECT tally.drop_rollup('r')").unwrap();
    }
}

/// The same of what else a backend keeps: quotas and the registry.
#[test]
fn a_call_that_began_before_a_policy_remembers_the_policy() {
    let mut database = Database::new("newest_policies");
    let writer = database.role("writer", &["tally_writer"]);
    let mut admin = database.superuser();
    admin
        .batch_execute(&format!(
            "SELECT tally.bind_role('{writer}', 't');
             CREATE FUNCTION public.slowly(batch text) RETURNS text LANGUAGE plpgsql AS
               'BEGIN PERFORM pg_advisory_xact_lock(47); RETURN batch; END'"
        ))
        .unwrap();
    for (place, policy) in
        ["SELECT tally.set_quota('t', batch_events => 5)", "SELECT tally.set_unregistered_policy('reject')"]
            .into_iter()
            .enumerate()
    {
        let mut client = database.connect(&writer);
        let pid = number(&mut client, "SELECT pg_backend_pid()::int8");
        admin.batch_execute("SELECT pg_advisory_lock(47)").unwrap();
        thread::scope(|scope| {
            let running = scope.spawn(|| {
                let text = batch(10_000 * place, 3);
                client.query("SELECT accepted FROM tally.ingest(public.slowly($1))", &[&text]).unwrap();
            });
            await_waiting(&mut admin, pid);
            admin.batch_execute(policy).unwrap();
            admin.batch_execute("SELECT pg_advisory_unlock(47)").unwrap();
            running.join().unwrap();
        });
        let later = ingest(&mut client, &batch(10_000 * place + 100, 8));
        assert!(
            later.is_err_and(|error| error.code().is_some()) || {
                let rejected = "SELECT count(*) FROM tally.quarantine";
                number(&mut admin, rejected) >= 8
            },
            "{policy}"
        );
        admin.batch_execute("SELECT tally.set_quota('t')").unwrap();
    }
}

/// A client can keep a COPY open for as long as it likes: what it sent is folded by others, and it keeps nobody from folding.
#[test]
fn an_open_copy_holds_up_no_folding() {
    use std::io::Write;
    let database = Database::new("newest_copy");
    database.set("tally.pending_limit = '64kB'");
    let (mut client, mut admin) = (database.superuser(), database.superuser());
    assert_eq!(ingest(&mut admin, &batch(0, 2_000)).unwrap().accepted, 2_000);
    let pid = number(&mut client, "SELECT pg_backend_pid()::int8");
    let mut copy = client
        .copy_in("COPY tally.inbox (event_id, tenant_id, account_id, name, occurred_at, user_id) FROM STDIN")
        .unwrap();
    for number in 0..11_000 {
        writeln!(
            copy,
            "10000000-0000-4000-8000-{number:012}\tt\ta{}\tn\t2026-03-02 09:15:00Z\tu{}",
            number % 7,
            number % 2_000
        )
        .unwrap();
    }
    copy.flush().unwrap();
    let has_flushed =
        format!("SELECT count(*) FROM pg_locks WHERE pid = {pid} AND relation = 'tally.event_key'::regclass");
    wait_for("the first batch of the COPY", || (number(&mut admin, &has_flushed) > 0).then_some(()));
    let step = "SELECT tally_internal.fold_step('user_activity', 1000000) IS NOT NULL";
    wait_for("a fold beside it", || admin.query_one(step, &[]).unwrap().get::<_, bool>(0).then_some(()));
    copy.finish().unwrap();
    for rollup in ["usage", "user_activity", "session"] {
        fold_all(&mut admin, rollup);
        assert_right(&mut admin, rollup);
    }
}
