//! Erasing somebody beside what else changes the tenant's events and its quarantine: nobody waits for another in a circle.

use crate::keyed::{Keyed, array, event};
use postgres::Client;
use serde_json::{Value, json};
use std::thread;
use tally_server_tests::{ingest, number, wait_for};

/// A tenant with events of two persons and more, and an administrator who erases.
struct Shop {
    keyed: Keyed,
    admin: String,
    writer: String,
}

const STEP: &str = "SELECT tally_internal.step_privacy('a', 1000)";

impl Shop {
    fn new(topic: &str) -> Self {
        let mut keyed = Keyed::new(topic);
        let admin = keyed.database.role("admin", &["tally_admin"]);
        let writer = keyed.database.role("writer", &["tally_writer"]);
        let mut superuser = keyed.database.superuser();
        let open =
            "SELECT tally.set_step_up_policy('erase_subject', false), tally.trust_role($1::text::regrole)";
        superuser.execute(open, &[&writer]).unwrap();
        let at = |number: u32, user: &str, time: &str| -> Value {
            let mut event = event("a", number, user, json!({}));
            event["occurred_at"] = json!(time);
            event
        };
        // In the order of the table and of time: what goes through it comes to the second person first.
        let sent = (0..40).map(|n| {
            let user = ["second", "other", "other", "first"][(n / 10) as usize];
            at(n, user, &format!("2026-03-02T09:{n:02}:00Z"))
        });
        assert_eq!(ingest(&mut superuser, &array(sent)).unwrap().accepted, 40);
        let broken = ["second", "first"].map(|user| at(100, user, "never"));
        assert_eq!(ingest(&mut superuser, &array(broken)).unwrap().rejected, 2);
        Self { keyed, admin, writer }
    }

    fn admin(&self) -> Client {
        self.keyed.database.connect(&self.admin)
    }

    /// Has user ids protected, and makes steps until this stage has been reached.
    fn protect_until(&self, stage: i64) {
        let mut admin = self.admin();
        admin.batch_execute("SELECT tally.protect_user_ids('token', 'a')").unwrap();
        let seen = "SELECT stage::int8 FROM tally.privacy_renewal WHERE tenant_id = 'a'";
        while number(&mut admin, seen) < stage {
            admin.batch_execute(STEP).unwrap();
        }
    }

    /// Erases the first person, and before that transaction ends the second, while another session does something else.
    fn erase_beside(&self, mut other: Client, statement: &str) {
        let pid = number(&mut other, "SELECT pg_backend_pid()::int8");
        let waits = format!("SELECT count(*) FROM pg_locks WHERE pid = {pid} AND NOT granted");
        let erase = |client: &mut Client, person: &str| {
            let erase = "SELECT tally.erase_subject('a', $1, 'ticket 1')";
            client.execute(erase, &[&person]).unwrap_or_else(|error| panic!("{statement}: {error:?}"));
        };
        let mut admin = self.admin();
        admin.batch_execute("BEGIN").unwrap();
        erase(&mut admin, "first");
        thread::scope(|scope| {
            let beside = scope.spawn(move || other.batch_execute(statement));
            let mut watcher = self.keyed.database.superuser();
            wait_for("the other one to wait or to end", || {
                (beside.is_finished() || number(&mut watcher, &waits) > 0).then_some(())
            });
            erase(&mut admin, "second");
            admin.batch_execute("COMMIT").unwrap();
            beside.join().unwrap().unwrap_or_else(|error| panic!("{statement}: {error:?}"));
        });
        let mut superuser = self.keyed.database.superuser();
        assert_eq!(number(&mut superuser, "SELECT count(*) FROM tally.erasure WHERE finished_at IS NULL"), 0);
        assert_eq!(number(&mut superuser, "SELECT count(*) FROM tally.quarantine"), 0);
    }
}

#[test]
fn raw_events_that_are_being_protected() {
    let shop = Shop::new("beside_renewed_events");
    shop.protect_until(1);
    shop.erase_beside(shop.admin(), STEP);
    crate::keyed::maintain(&mut shop.admin());
    let left = "SELECT count(*) FILTER (WHERE user_id LIKE 'tok.%') * 1000 + count(*) FROM tally.events";
    assert_eq!(number(&mut shop.keyed.database.superuser(), left), 20_020);
}

#[test]
fn quarantined_events_that_are_being_closed_up() {
    let shop = Shop::new("beside_renewed_quarantine");
    shop.protect_until(3);
    shop.erase_beside(shop.admin(), STEP);
    crate::keyed::maintain(&mut shop.admin());
}

#[test]
fn quarantined_events_that_are_being_redriven() {
    let shop = Shop::new("beside_redrive");
    let writer = shop.keyed.database.connect(&shop.writer);
    shop.erase_beside(writer, "SELECT tally.redrive()");
}

#[test]
fn raw_events_that_are_past_their_time() {
    let shop = Shop::new("beside_retention");
    let mut admin = shop.admin();
    admin.batch_execute("CALL tally.maintain()").unwrap();
    // The tenant's horizon moves in a step of its own.
    admin
        .batch_execute(
            "SELECT tally.set_retention('a', now() - '2026-03-03Z'::timestamptz); SELECT tally.retain(1000)",
        )
        .unwrap();
    let left = "SELECT count(*) FROM tally.events";
    assert_eq!(number(&mut shop.keyed.database.superuser(), left), 40);
    shop.erase_beside(admin, "SELECT tally.retain(1000)");
    shop.admin().batch_execute("CALL tally.maintain()").unwrap();
    assert_eq!(number(&mut shop.keyed.database.superuser(), left), 0);
}

/// Statistics take their time: who notes that there are more to be made anew, with ingest locked out, doesn't wait for that, and what he
/// notes isn't taken for done.
#[test]
fn statistics_that_are_being_made_anew() {
    let shop = Shop::new("beside_statistics");
    let mut admin = shop.admin();
    let erase = |person: &str| {
        let mut admin = shop.admin();
        admin.batch_execute("SET statement_timeout = '20s'").unwrap();
        let erase = "SELECT tally.erase_subject('a', $1, 'ticket 1')";
        admin.execute(erase, &[&person]).unwrap_or_else(|error| panic!("{person}: {error:?}"));
    };
    erase("first");
    let mut superuser = shop.keyed.database.superuser();
    let stale = "SELECT count(DISTINCT table_name) FROM tally.erasure_trace WHERE analyzed_at IS NULL";
    let before = number(&mut superuser, stale);
    // A partition that is gone meanwhile.
    superuser
        .batch_execute(
            "INSERT INTO tally.erasure_trace (changed_at, table_name) VALUES (now(), 'events_p1999_01')",
        )
        .unwrap();
    admin.batch_execute("BEGIN").unwrap();
    for _ in 0..before {
        assert_eq!(number(&mut admin, "SELECT tally_internal.erasure_step('', 1000)"), 1);
    }
    erase("second");
    admin.batch_execute("COMMIT").unwrap();
    assert_eq!(number(&mut superuser, stale), before, "those of the second erasure are still to be made");
    admin.batch_execute("CALL tally.maintain()").unwrap();
    assert_eq!(number(&mut superuser, stale), 0);
    superuser.batch_execute("VACUUM").unwrap();
    admin.batch_execute("CALL tally.maintain()").unwrap();
    assert_eq!(number(&mut superuser, "SELECT count(*) FROM tally.erasure_trace"), 0);
}

/// Who keeps a table that an erasure writes from being written is named, whichever it is.
#[test]
fn who_is_in_the_way_is_told() {
    let shop = Shop::new("in_the_way");
    let mut holder = shop.keyed.database.superuser();
    let pid = number(&mut holder, "SELECT pg_backend_pid()::int8");
    let mut admin = shop.admin();
    for table in ["tally.user_activity_year_base", "tally.events_p2026_03"] {
        holder.batch_execute(&format!("BEGIN; LOCK TABLE {table} IN SHARE MODE")).unwrap();
        let error = admin.execute("SELECT tally.erase_subject('a', 'first', 'ticket 1')", &[]).unwrap_err();
        let told = error.as_db_error().unwrap();
        assert_eq!(told.code().code(), "55P03", "{table}: {told}");
        assert!(
            told.detail().is_some_and(|detail| detail.contains(&format!("process {pid}"))),
            "{table}: {told:?}"
        );
        holder.batch_execute("COMMIT").unwrap();
    }
    admin.execute("SELECT tally.erase_subject('a', 'first', 'ticket 1')", &[]).unwrap();
}
