//! Carrying over to rollups what was protected: where raw events of some buckets are gone, and with several sessions at it.

use crate::keyed::{Keyed, array, event};
use postgres::Client;
use serde_json::json;
use std::thread;
use tally_server_tests::{Database, Session, ingest, number, verify, wait_for};

/// Rollups of which the grains begin together ever more seldom.
const ROLLUPS: [(&str, &str); 6] = [
    ("by_day", "{day}"),
    ("by_week", "{week}"),
    ("by_month", "{day,month}"),
    ("by_quarter", "{quarter}"),
    ("by_week_and_month", "{week,month}"),
    ("by_year", "{month,year}"),
];

/// A shop with rollups by user, and an administrator.
struct Shop {
    keyed: Keyed,
    role: String,
}

impl Shop {
    /// With events of tenants a and b every second day from August 2025 to February 2026, all of them folded.
    fn new(topic: &str) -> Self {
        let mut keyed = Keyed::new(topic);
        let role = keyed.database.role("admin", &["tally_admin"]);
        let shop = Self { keyed, role };
        let mut admin = shop.admin();
        for (name, grains) in ROLLUPS {
            shop.declare(name, grains, "NULL");
        }
        shop.declare("of_rare", "{year}", "'name = ''rare'''");
        let days = "SELECT to_char(d, 'YYYY-MM-DD') FROM generate_series(timestamp '2025-08-01', '2026-02-28', '2 days') AS d";
        let days: Vec<String> = admin.query(days, &[]).unwrap().iter().map(|row| row.get(0)).collect();
        let events = ["a", "b"].into_iter().enumerate().flat_map(|(place, tenant)| {
            days.iter().enumerate().map(move |(number, day)| {
                let number = (place * 1000 + number) as u32;
                let mut event = event(tenant, number, &format!("u{}", number % 5), json!({}));
                event["occurred_at"] = json!(format!("{day}T09:15:00Z"));
                event
            })
        });
        assert_eq!(ingest(&mut shop.database().superuser(), &array(events)).unwrap().accepted, 212);
        admin.batch_execute("CALL tally.maintain()").unwrap();
        shop
    }

    fn database(&self) -> &Database {
        &self.keyed.database
    }

    fn admin(&self) -> Client {
        self.database().connect(&self.role)
    }

    fn declare(&self, name: &str, grains: &str, filter: &str) {
        let declaration = format!(
            "SELECT tally.create_rollup('{name}', '{grains}', dimensions => ARRAY['user_id'], measures => ARRAY['count(*) AS n'], filter => {filter})"
        );
        self.admin().batch_execute(&declaration).unwrap();
    }

    /// Makes steps until one ended in this stage.
    fn step_to(&self, client: &mut Client, stage: i64) {
        for _ in 0..200 {
            if number(client, "SELECT stage::int8 FROM tally.privacy_renewal WHERE tenant_id = 'a'") == stage
            {
                return;
            }
            client.batch_execute("SELECT tally_internal.step_privacy('a', 100)").unwrap();
        }
        panic!("stage {stage} is never reached");
    }

    /// Ends what is being carried over; gives the warnings.
    fn finish(&self) -> String {
        let mut session = Session::new(self.database().name(), self.database(), &self.role);
        let said = session.answer("CALL tally.maintain()");
        let left = "SELECT count(*) FROM tally.privacy_renewal WHERE finished_at IS NULL";
        assert_eq!(number(&mut self.admin(), left), 0, "{said}");
        said
    }

    /// The buckets in which a view shows ids of tenant a as they were sent.
    fn as_sent(&self, view: &str) -> Vec<String> {
        let query = format!(
            "SELECT coalesce(to_char(bucket, 'YYYY-MM-DD'), '') FROM tally.{view} WHERE tenant_id = 'a' AND user_id NOT LIKE 'tok.%' GROUP BY bucket ORDER BY bucket"
        );
        self.database().superuser().query(&query, &[]).unwrap().iter().map(|row| row.get(0)).collect()
    }

    /// The rollups of this shop that are said to keep something.
    fn left_in(&self) -> Vec<String> {
        let query = "SELECT l FROM tally.privacy_renewal AS r, unnest(r.left_in) AS l
                      WHERE r.tenant_id = 'a' AND (l LIKE 'by%' OR l LIKE 'of%') ORDER BY 1";
        self.admin().query(query, &[]).unwrap().iter().map(|row| row.get(0)).collect()
    }

    /// That a rollup shows ids as sent in the buckets of `kept` and in no other, numbers as before, and what its events say elsewhere.
    fn assert_kept(&self, rollup: &str, grains: &str, kept: (&str, &str)) {
        let mut superuser = self.database().superuser();
        for grain in grains.trim_matches(['{', '}']).split(',') {
            let view = format!("{rollup}_{grain}");
            let total = format!("SELECT sum(n)::int8 FROM tally.{view} WHERE tenant_id = 'a'");
            assert_eq!(number(&mut superuser, &total), 106, "{view}");
            let wrong = format!(
                "SELECT count(*) FROM tally.{view} WHERE tenant_id = 'a'
                    AND (user_id LIKE 'tok.%') = (bucket >= '{}Z' AND bucket < '{}Z')",
                kept.0, kept.1
            );
            assert_eq!(number(&mut superuser, &wrong), 0, "{view}: as sent in {:?}", self.as_sent(&view));
            let others =
                format!("SELECT count(*) FROM tally.{view} WHERE tenant_id = 'b' AND user_id LIKE 'tok.%'");
            assert_eq!(number(&mut superuser, &others), 0, "{view}");
        }
        for row in verify(&mut superuser, rollup) {
            let bucket: String = row.get("bucket");
            assert!(
                &bucket[..10] >= kept.0 && &bucket[..10] < kept.1,
                "{rollup}: {bucket} differs from its events"
            );
        }
    }
}

const EVER: &str = "2000-01-01";

/// Of some of the buckets that are being made anew the raw events go, after the events' ids were changed and before the rollups' are.
#[test]
fn buckets_after_a_horizon_are_made_anew_and_those_before_are_told() {
    let keep = "SELECT tally.set_retention('a', now() - '2025-11-12 00:00Z')";
    let drop = "SELECT tally.drop_raw('2025-11-01Z')";
    for (place, (by, kept_until)) in [
        (drop, ["2025-11-01", "2025-11-03", "2025-11-01", "2026-01-01", "2025-12-01", "2026-01-01"]),
        (keep, ["2025-11-12", "2025-11-17", "2025-12-01", "2026-01-01", "2025-12-01", "2026-01-01"]),
    ]
    .into_iter()
    .enumerate()
    {
        let shop = Shop::new(&format!("renewal_horizon_{place}"));
        let mut admin = shop.admin();
        admin.batch_execute("SELECT tally.protect_user_ids('token', 'a')").unwrap();
        shop.step_to(&mut admin, 2);
        admin.batch_execute(by).unwrap();
        let said = shop.finish();
        for ((rollup, grains), until) in ROLLUPS.into_iter().zip(kept_until) {
            shop.assert_kept(rollup, grains, (EVER, until));
            assert!(said.contains(&format!("WARNING: rollup {rollup} keeps user ids")), "{said}");
        }
        assert!(!said.contains("of_rare"), "{said}");
        assert_eq!(
            shop.left_in(),
            ["by_day", "by_month", "by_quarter", "by_week", "by_week_and_month", "by_year"]
        );
        for (rollup, grains) in ROLLUPS {
            // A tenant's own horizon freezes buckets of every grain together.
            if by == keep || !grains.contains(',') {
                assert!(verify(&mut shop.database().superuser(), rollup).is_empty(), "{rollup}");
            }
        }
    }
}

/// The same where they went before: what is left is what buckets have of both sides.
#[test]
fn a_bucket_in_which_a_horizon_lies_is_told_and_those_behind_are_made_anew() {
    let shop = Shop::new("renewal_in_a_bucket");
    let mut admin = shop.admin();
    admin
        .batch_execute("SELECT tally.drop_raw('2025-11-01Z'), tally.protect_user_ids('token', 'a')")
        .unwrap();
    let said = shop.finish();
    let kept_until = ["2025-11-01", "2025-11-03", "2025-11-01", "2026-01-01", "2025-12-01", "2026-01-01"];
    for ((rollup, grains), until) in ROLLUPS.into_iter().zip(kept_until) {
        shop.assert_kept(rollup, grains, (EVER, until));
        if !grains.contains(',') {
            assert!(verify(&mut shop.database().superuser(), rollup).is_empty(), "{rollup}");
        }
    }
    assert_eq!(shop.left_in(), ["by_quarter", "by_week", "by_week_and_month", "by_year"], "{said}");
}

#[test]
fn buckets_beside_a_month_taken_out_by_hand_are_made_anew() {
    let shop = Shop::new("renewal_by_hand");
    let by_hand = "ALTER TABLE tally.events DETACH PARTITION tally.events_p2025_11";
    shop.database().superuser().batch_execute(by_hand).unwrap();
    shop.admin().batch_execute("SELECT tally.protect_user_ids('token', 'a')").unwrap();
    let said = shop.finish();
    let kept = [
        ("2025-11-01", "2025-12-01"),
        ("2025-10-27", "2025-12-01"),
        ("2025-11-01", "2025-12-01"),
        ("2025-10-01", "2026-01-01"),
        ("2025-09-01", "2025-12-01"),
        ("2025-01-01", "2026-01-01"),
    ];
    for ((rollup, grains), kept) in ROLLUPS.into_iter().zip(kept) {
        shop.assert_kept(rollup, grains, kept);
        assert!(said.contains(&format!("WARNING: rollup {rollup} keeps user ids")), "{said}");
    }
    assert!(!said.contains("of_rare"), "{said}");
    assert_eq!(
        shop.left_in(),
        ["by_day", "by_month", "by_quarter", "by_week", "by_week_and_month", "by_year"]
    );
}

/// Runs a step in another session, and `change` once it waits for a lock of `holder`'s transaction.
fn step_behind(shop: &Shop, holder: &mut Client, change: impl FnOnce(&mut Client)) {
    let mut other = shop.admin();
    let pid = number(&mut other, "SELECT pg_backend_pid()::int8");
    let waits = format!("SELECT count(*) FROM pg_locks WHERE pid = {pid} AND NOT granted");
    thread::scope(|scope| {
        let stepping =
            scope.spawn(|| other.batch_execute("SELECT tally_internal.step_privacy('a', 100)").unwrap());
        let mut watcher = shop.database().superuser();
        wait_for("the step to wait", || (number(&mut watcher, &waits) > 0).then_some(()));
        change(holder);
        stepping.join().unwrap();
    });
}

/// The rollup in hand and up to when it is done.
fn in_hand(client: &mut Client) -> (Option<String>, Option<String>) {
    let query = "SELECT rollup_in_hand, to_char(rollup_from, 'YYYY-MM-DD') FROM tally.privacy_renewal WHERE tenant_id = 'a'";
    let row = client.query_one(query, &[]).unwrap();
    (row.get(0), row.get(1))
}

#[test]
fn sessions_that_carry_over_at_once_do_one_piece_after_the_other() {
    let shop = Shop::new("renewal_at_once");
    let mut admin = shop.admin();
    admin.batch_execute("SELECT tally.protect_user_ids('token', 'a')").unwrap();
    shop.step_to(&mut admin, 2);
    admin.batch_execute("BEGIN; SELECT tally_internal.step_privacy('a', 100)").unwrap();
    assert_eq!(in_hand(&mut admin), (Some("by_day".to_owned()), Some("2025-09-01".to_owned())));
    step_behind(&shop, &mut admin, |admin| admin.batch_execute("COMMIT").unwrap());
    assert_eq!(in_hand(&mut admin), (Some("by_day".to_owned()), Some("2025-10-01".to_owned())));
    shop.finish();
    for (rollup, grains) in ROLLUPS {
        shop.assert_kept(rollup, grains, (EVER, EVER));
    }
}

/// A session's step waits while the work is begun anew: what it makes then is a step of that, and nothing is taken for done that isn't.
#[test]
fn a_step_from_before_the_work_was_begun_anew_steps_over_nothing() {
    let shop = Shop::new("renewal_begun_anew");
    let mut admin = shop.admin();
    admin.batch_execute("SELECT tally.protect_user_ids('token', 'a')").unwrap();
    shop.step_to(&mut admin, 2);
    // Of the first rollup the last piece is left.
    while in_hand(&mut admin).1.as_deref() != Some("2026-02-01") {
        admin.batch_execute("SELECT tally_internal.step_privacy('a', 100)").unwrap();
    }
    // Ingest and steps wait for this transaction, in which ids are dropped from now on and raw events follow.
    admin.batch_execute("BEGIN; SELECT tally.rebuild_rollup('of_rare')").unwrap();
    let anew = |admin: &mut Client| {
        admin.batch_execute("SELECT tally.protect_user_ids('drop', 'a')").unwrap();
        shop.step_to(admin, 2);
        admin.batch_execute("SELECT tally_internal.step_privacy('a', 100); COMMIT").unwrap();
    };
    step_behind(&shop, &mut admin, anew);
    let then = in_hand(&mut admin);
    shop.finish();
    let mut superuser = shop.database().superuser();
    for (rollup, _) in ROLLUPS {
        assert!(verify(&mut superuser, rollup).is_empty(), "{rollup}");
    }
    assert_eq!(then, (Some("by_day".to_owned()), Some("2025-10-01".to_owned())));
}

/// Who declares something has the row until the transaction ends, which may be long.
#[test]
fn steps_wait_for_nobody_who_declares_something() {
    let shop = Shop::new("renewal_declared");
    let (mut admin, mut other) = (shop.admin(), shop.admin());
    admin.batch_execute("SELECT tally.protect_user_ids('token', 'a')").unwrap();
    for stage in 0..4 {
        shop.step_to(&mut admin, stage);
        other.batch_execute("BEGIN; SELECT tally.protect_user_ids('drop', 'a')").unwrap();
        let step = "SET statement_timeout = '5s'; SELECT tally_internal.step_privacy('a', 100); RESET statement_timeout";
        admin.batch_execute(step).unwrap_or_else(|error| panic!("stage {stage}: {error}"));
        other.batch_execute("ROLLBACK").unwrap();
        let seen = number(&mut admin, "SELECT stage::int8 FROM tally.privacy_renewal WHERE tenant_id = 'a'");
        assert_eq!(seen, stage, "what another session is at is left to it");
    }
    assert_eq!(number(&mut admin, "SELECT count(*) FROM tally.maintenance WHERE failed_at IS NOT NULL"), 0);
    shop.finish();
}
