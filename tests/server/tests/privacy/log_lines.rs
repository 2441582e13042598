//! What the server's log and the client are told while a row is being sent: nothing of the row.

use crate::nowhere::installed;
use postgres::Client;
use std::io::Write;
use tally_server_tests::{PrivateServer, ingest, wait_for};

/// Stands in user ids, and nowhere else.
const PERSON: &str = "planted-4d1c77";

struct Bench {
    server: PrivateServer,
}

impl Bench {
    /// A tenant whose batches have one event, so that each row of a COPY is sent while it is read.
    fn new(topic: &str) -> Self {
        let server = PrivateServer::create(topic, "log_lock_waits = on\ndeadlock_timeout = 50ms");
        installed(&server)
            .batch_execute(
                "SELECT tally.protect_user_ids('token', 'a'); SELECT tally.set_quota('a', batch_events => 1);
                 CREATE ROLE app LOGIN; GRANT tally_writer, tally_reader TO app; SELECT tally.trust_role('app');
                 GRANT CREATE ON SCHEMA public TO app",
            )
            .unwrap();
        Self { server }
    }

    fn app(&self) -> Client {
        self.server.connect("app", "privacy")
    }

    /// What was logged since, once a later line is there.
    fn logged_since(&self, before: usize) -> String {
        self.app().batch_execute("DO $$BEGIN RAISE LOG 'all of it is logged'; END$$").unwrap();
        wait_for("the log", || {
            let log = self.server.log();
            log[before..].contains("all of it is logged").then(|| log[before..].to_owned())
        })
    }
}

fn row(id: &str) -> String {
    format!("{PERSON}\ta\tn\tx\t{id}\t2026-03-02T09:15:00Z\t{{}}\n")
}

/// Copies one row into a table; what went wrong as the client is told it, context included.
fn copy(client: &mut Client, target: &str, row: &str) -> Result<u64, String> {
    let mut copy = client.copy_in(&format!("COPY {target} FROM STDIN")).unwrap();
    copy.write_all(row.as_bytes()).unwrap();
    copy.finish().map_err(|error| {
        let told = error.as_db_error().expect("the server says why");
        format!("{}\n{:?}\n{:?}\n{:?}", told.message(), told.detail(), told.hint(), told.where_())
    })
}

const INBOX: &str = "tally.inbox (user_id, tenant_id, account_id, name, event_id, occurred_at, properties)";

#[test]
fn rows_of_a_copy_are_in_no_line_of_ours() {
    let bench = Bench::new("log_lines");
    let mut app = bench.app();
    app.batch_execute(
        "CREATE TABLE public.outbox (user_id text, tenant_id text, account_id text, name text, event_id text, occurred_at text, properties text);
         CREATE TABLE public.outbox_2 (LIKE public.outbox);
         CREATE FUNCTION public.hand_on() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN
           INSERT INTO tally.inbox (user_id, tenant_id, account_id, name, event_id, occurred_at, properties) VALUES (NEW.*); RETURN NEW;
         END$$;
         CREATE FUNCTION public.send() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN PERFORM tally.ingest(to_jsonb(NEW)); RETURN NEW; END$$;
         CREATE TRIGGER hand_on BEFORE INSERT ON public.outbox FOR EACH ROW EXECUTE FUNCTION public.hand_on();
         CREATE TRIGGER send BEFORE INSERT ON public.outbox_2 FOR EACH ROW EXECUTE FUNCTION public.send()",
    )
    .unwrap();
    for (target, lines) in [(INBOX, 1), ("public.outbox", 1), ("public.outbox_2", 1)] {
        let before = bench.server.log().len();
        copy(&mut app, target, &row("bad")).unwrap();
        let log = bench.logged_since(before);
        assert_eq!(log.matches("event=ingest_stored").count(), lines, "{target}:\n{log}");
        assert!(!log.contains(PERSON), "{target}:\n{log}");

        // A call that fails says so twice: by a line of ours, and by the error.
        let before = bench.server.log().len();
        app.batch_execute("SET tally.ingest_options = '{\"all_or_nothing\": true}'").unwrap();
        let told = copy(&mut app, target, &row("bad")).expect_err("all or nothing");
        app.batch_execute("RESET tally.ingest_options").unwrap();
        let log = bench.logged_since(before);
        assert!(log.contains("event=ingest_failed") && log.contains("ERROR:"), "{target}:\n{log}");
        assert!(!log.contains(PERSON), "{target}:\n{log}");
        assert!(!told.contains(PERSON), "{target}: {told}");
        assert!(told.contains("event_id") && told.contains("COPY"), "{target}: {told}");
        // Whose function it was is told still.
        assert_eq!(told.contains("PL/pgSQL function"), target != INBOX, "{target}: {told}");
    }
    // An error of Postgres', a panic and a wait while a row is being sent.
    let before = bench.server.log().len();
    let mut other = bench.app();
    let mut transaction = other.transaction().unwrap();
    ingest_one(&mut transaction, "00000000-0000-4000-8000-000000000001");
    app.batch_execute("SET statement_timeout = '300ms'").unwrap();
    let told = copy(&mut app, INBOX, &row("00000000-0000-4000-8000-000000000001")).expect_err("a wait");
    app.batch_execute("RESET statement_timeout").unwrap();
    drop(transaction);
    let log = bench.logged_since(before);
    assert!(told.contains("statement timeout") && !told.contains(PERSON), "{told}");
    assert!(log.contains("still waiting") && log.contains("statement timeout"), "{log}");
    assert!(!log.contains(PERSON), "{log}");
    // What comes after is told as ever: the line that COPY itself can't read.
    let told = copy(&mut app, INBOX, "one column\n").expect_err("a line that is none");
    assert!(told.contains("COPY inbox, line 1"), "{told}");
}

fn ingest_one(client: &mut postgres::Transaction, id: &str) {
    let event = format!(
        r#"{{"tenant_id": "a", "account_id": "n", "name": "x", "event_id": "{id}", "occurred_at": "2026-03-02T09:15:00Z"}}"#
    );
    client.query("SELECT * FROM tally.ingest($1::text)", &[&event]).unwrap();
}

#[test]
fn lines_of_ours_come_without_the_statement() {
    let bench = Bench::new("log_statement_lines");
    let before = bench.server.log().len();
    // Nobody should write values into the statement; Postgres shows it where it reports an error itself.
    let bad = format!(r#"{{"tenant_id": "a", "user_id": "{PERSON}", "name": "x"}}"#);
    bench
        .app()
        .batch_execute(&format!(
            "SELECT * FROM tally.ingest('{bad}'); DO $do$BEGIN PERFORM tally.ingest('{bad}'); END$do$"
        ))
        .unwrap();
    let log = bench.logged_since(before);
    assert_eq!(log.matches("event=ingest_stored").count(), 2, "{log}");
    assert!(!log.contains(PERSON), "{log}");
    assert_eq!(ingest(&mut bench.app(), &bad).unwrap().rejected, 1);
}
