//! Carrying over to rollups what was protected: where raw events of some buckets are gone, and with several sessions at it.

use crate::keyed::{Keyed, array, event, maintain};
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

    /// The rollups of this shop that are said to keep something of tenant a.
    fn left_in(&self) -> Vec<String> {
        let all = self.left_in_all("a").into_iter();
        all.filter(|name| name.starts_with("by") || name.starts_with("of")).collect()
    }

    /// All rollups that are said to keep something of a tenant.
    fn left_in_all(&self, tenant: &str) -> Vec<String> {
        let query = "SELECT l FROM tally.privacy_renewal AS r, unnest(r.left_in) AS l WHERE r.tenant_id = $1 ORDER BY 1";
        self.admin().query(query, &[&tenant]).unwrap().iter().map(|row| row.get(0)).collect()
    }

    /// Declares something as the administrator, and has it carried over.
    fn carry_over(&self, declaration: &str) -> String {
        self.admin().batch_execute(declaration).unwrap();
        let said = self.finish();
        // Folds what was made anew.
        self.admin().batch_execute("CALL tally.maintain()").unwrap();
        said
    }

    /// Detaches these months by hand.
    fn detach(&self, months: &[&str]) {
        for month in months {
            let by_hand = format!("ALTER TABLE tally.events DETACH PARTITION tally.events_p{month}");
            self.database().superuser().batch_execute(&by_hand).unwrap();
        }
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

/// Those of the shop that have users.
const ALL_BY_USER: [&str; 6] =
    ["by_day", "by_month", "by_quarter", "by_week", "by_week_and_month", "by_year"];

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
        assert_eq!(shop.left_in(), ALL_BY_USER);
        for (rollup, grains) in ROLLUPS {
            // A tenant's own horizon freezes buckets of every grain together.
            if by == keep || !grains.contains(',') {
                assert!(verify(&mut shop.database().superuser(), rollup).is_empty(), "{rollup}");
            }
        }
    }
}

/// The same where they went before.
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
    assert_eq!(shop.left_in(), ALL_BY_USER, "{said}");
}

#[test]
fn buckets_beside_a_month_taken_out_by_hand_are_made_anew() {
    let shop = Shop::new("renewal_by_hand");
    shop.detach(&["2025_11"]);
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
    assert_eq!(shop.left_in(), ALL_BY_USER);
}

/// The rollups that have users of a tenant all of whose raw events are gone: those of the shop and the built-in ones.
fn all_with_users() -> Vec<&'static str> {
    [&ALL_BY_USER[..], &["session", "usage", "user_activity"]].concat()
}

const ALL_MONTHS: [&str; 7] = ["2025_08", "2025_09", "2025_10", "2025_11", "2025_12", "2026_01", "2026_02"];

/// No event is changed: the rollups that keep ids are told all the same, and stay as they are.
#[test]
fn rollups_of_a_tenant_without_raw_events_are_told() {
    for (place, by) in ["SELECT tally.drop_raw('2026-03-01Z')", "own", "by hand"].into_iter().enumerate() {
        let shop = Shop::new(&format!("renewal_all_gone_{place}"));
        match by {
            "own" => {
                let keep = "SELECT tally.set_retention('a', now() - '2026-03-01 00:00Z')";
                shop.admin().batch_execute(keep).unwrap();
                shop.admin().batch_execute("CALL tally.maintain()").unwrap();
            }
            "by hand" => shop.detach(&ALL_MONTHS),
            statement => shop.admin().batch_execute(statement).unwrap(),
        }
        let mut superuser = shop.database().superuser();
        let raw = "SELECT count(*) FROM tally.events WHERE tenant_id = 'a'";
        assert_eq!(number(&mut superuser, raw), 0, "{by}");
        let said = shop.carry_over("SELECT tally.protect_user_ids('token', 'a')");
        assert_eq!(shop.left_in_all("a"), all_with_users(), "{by}: {said}");
        for (rollup, _) in ROLLUPS {
            assert!(said.contains(&format!("WARNING: rollup {rollup} keeps user ids")), "{by}: {said}");
        }
        assert!(shop.left_in_all("b").is_empty() && shop.left_in_all("").is_empty(), "{by}");
        for (rollup, grains) in ROLLUPS {
            shop.assert_kept(rollup, grains, (EVER, "2027-01-01"));
        }
        let mut admin = shop.admin();
        let findings = "SELECT count(*) FROM tally.lint() WHERE name = 'privacy_left_behind' AND detail LIKE '% of 1 tenants: a'";
        assert_eq!(number(&mut admin, findings), 9, "{by}");
        let risks = "SELECT count(*) FROM tally.privacy_report('a') WHERE section = 'risks' AND detail LIKE 'rollup % keeps user ids%'";
        admin.batch_execute("BEGIN; SELECT tally.enter('a')").unwrap();
        assert_eq!(number(&mut admin, risks), 9, "{by}");
        admin.batch_execute("COMMIT").unwrap();
    }
}

/// Buckets wholly before the first event that is still there, between others, and after the last one.
#[test]
fn rollups_with_buckets_around_the_changed_events_are_told() {
    let shop = Shop::new("renewal_around");
    shop.admin().batch_execute("SELECT tally.drop_raw('2025-09-01Z')").unwrap();
    shop.detach(&["2025_10", "2026_02"]);
    let said = shop.carry_over("SELECT tally.protect_user_ids('token', 'a')");
    assert_eq!(shop.left_in_all("a"), all_with_users(), "{said}");
    let kept = "SELECT string_agg(DISTINCT to_char(bucket, 'YYYY-MM'), ' ') FROM tally.by_day_day WHERE tenant_id = 'a' AND user_id NOT LIKE 'tok.%'";
    let kept: String = shop.database().superuser().query_one(kept, &[]).unwrap().get(0);
    assert_eq!(kept, "2025-08 2025-10 2026-02");
    for time in ["up to 2025-09-01", "from 2025-10-01 00:00:00+00 to 2025-11-01", "from 2026-02-01"] {
        let warning = format!(
            "WARNING: rollup by_day keeps user ids or tokens of tenant \"a\" as they were before, {time}"
        );
        assert_eq!(said.matches(&warning).count(), 1, "{time}: {said}");
    }
}

/// Looking for what is left keeps no ingest waiting, and reads no base table as a whole.
#[test]
fn looking_for_what_is_left_is_in_nobodys_way() {
    let shop = Shop::new("renewal_looking");
    let mut admin = shop.admin();
    admin
        .batch_execute("SELECT tally.drop_raw('2025-09-01Z'), tally.protect_user_ids('token', 'a')")
        .unwrap();
    shop.step_to(&mut admin, 2);
    admin.batch_execute("BEGIN; SELECT tally_internal.step_privacy('a', 100)").unwrap();
    assert_eq!(in_hand(&mut admin).0.as_deref(), Some("by_day"));
    assert_eq!(shop.left_in_all("a").len(), 0, "nobody sees it yet");
    let locks = "SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid() AND relation = 'tally.rollup'::regclass AND mode = 'ShareRowExclusiveLock'";
    assert_eq!(number(&mut admin, locks), 0);
    let reads = "SELECT (1000 * seq_scan + idx_scan)::int8 FROM pg_stat_xact_user_tables WHERE relname = 'by_day_day_base'";
    assert_eq!(number(&mut admin, reads), 1);
    admin.batch_execute("COMMIT").unwrap();
    assert_eq!(shop.left_in_all("a"), ["by_day"]);
    shop.finish();
    assert_eq!(shop.left_in_all("a"), all_with_users());
}

/// Names in numbers of characters, and digests of what is a number.
#[test]
fn rollups_that_say_it_otherwise_are_told() {
    let shop = Shop::new("renewal_otherwise");
    shop.admin()
        .batch_execute(
            r#"SELECT tally.create_rollup('of_characters', '{day}', dimensions => ARRAY['U&"user\005fid" AS who'], measures => ARRAY['count(*) AS n']);
               SELECT tally.create_rollup('of_digests', '{day}', measures => ARRAY['percentiles(ascii(user_id)::float8) AS letters'])"#,
        )
        .unwrap();
    shop.admin().batch_execute("CALL tally.maintain()").unwrap();
    shop.admin().batch_execute("SELECT tally.drop_raw('2026-03-01Z')").unwrap();
    let said = shop.carry_over("SELECT tally.protect_user_ids('token', 'a')");
    let left = shop.left_in();
    for rollup in ["of_characters", "of_digests"] {
        assert!(left.iter().any(|name| name == rollup), "{rollup}: {said}");
    }
}

#[test]
fn rollups_that_keep_nothing_are_not_told() {
    let shop = Shop::new("renewal_nothing_kept");
    let mut admin = shop.admin();
    admin
        .batch_execute(
            "SELECT tally.create_rollup('of_counts', '{day}', measures => ARRAY['count(*) AS n', 'sum(length(user_id)) AS letters'], filter => 'user_id <> ''u1''');
             SELECT tally.create_rollup('of_sketches', '{month}', measures => ARRAY['distinct(user_id) AS users']);
             SELECT tally.create_rollup('of_last', '{month}', measures => ARRAY['last(USER_ID) AS who']);
             SELECT tally.create_rollup('of_key', '{month}', dimensions => ARRAY['properties->>''user_id'' AS key', 'user_id IS NULL AS is_nobody'], measures => ARRAY['count(*) AS n'])",
        )
        .unwrap();
    // Of d nobody is known.
    let events = (0..40).map(|n| {
        let mut event = event("d", 5_000 + n, "", json!({"user_id": "k"}));
        event.as_object_mut().unwrap().remove("user_id");
        event["occurred_at"] = json!(format!("2025-{:02}-02T09:15:00Z", 8 + n % 5));
        event
    });
    assert_eq!(ingest(&mut shop.database().superuser(), &array(events)).unwrap().accepted, 40);
    // All buckets of b are made anew before their raw events go.
    shop.carry_over("SELECT tally.protect_user_ids('token', 'b')");
    let last =
        "SELECT count(*) FROM tally.of_last_month WHERE tenant_id = 'b' AND (who LIKE 'tok.%') IS NOT TRUE";
    assert_eq!(number(&mut shop.database().superuser(), last), 0, "in capitals, too");
    admin.batch_execute("SELECT tally.drop_raw('2026-03-01Z')").unwrap();
    shop.declare("by_then", "{day}", "NULL");
    let in_steps = "SELECT tally.create_rollup('by_steps', '{day}', dimensions => ARRAY['user_id'], measures => ARRAY['count(*) AS n'], backfill => false)";
    admin.batch_execute(in_steps).unwrap();
    let said = shop.carry_over("SELECT tally.protect_property(NULL, 'email', 'token')");
    for tenant in ["", "a", "b", "d"] {
        assert!(shop.left_in_all(tenant).is_empty(), "{tenant}: {said}");
    }
    let said = shop.carry_over("SELECT tally.rotate_keys('b')");
    assert!(shop.left_in_all("b").is_empty(), "tokens of user ids stay: {said}");
    let said = shop.carry_over("SELECT tally.protect_user_ids('drop', 'b'), tally.protect_user_ids('token')");
    let with_users =
        [&ALL_BY_USER[..], &["of_last", "of_sketches", "session", "usage", "user_activity"]].concat();
    assert_eq!(shop.left_in_all("a"), with_users, "{said}");
    assert_eq!(shop.left_in_all("b"), with_users, "where ids are dropped, tokens are left: {said}");
    assert!(shop.left_in_all("d").is_empty(), "{said}");
}

#[test]
fn what_is_declared_for_all_concerns_no_tenant_that_has_it() {
    let shop = Shop::new("renewal_for_all");
    shop.carry_over("SELECT tally.protect_user_ids('token', 'a'), tally.protect_user_ids('drop', 'b')");
    shop.admin().batch_execute("SELECT tally.drop_raw('2026-03-01Z')").unwrap();
    let said = shop.carry_over("SELECT tally.protect_user_ids('token')");
    assert!(shop.left_in_all("a").is_empty() && shop.left_in_all("b").is_empty(), "{said}");
    // What was dropped leaves nothing.
    let said = shop.carry_over("SELECT tally.protect_user_ids('token', 'b')");
    assert!(shop.left_in_all("b").is_empty(), "{said}");
}

#[test]
fn what_was_told_stays_told_for_as_long_as_it_is_kept() {
    let shop = Shop::new("renewal_stays_told");
    let mut admin = shop.admin();
    admin.batch_execute("SELECT tally.drop_raw('2026-03-01Z')").unwrap();
    shop.carry_over("SELECT tally.protect_user_ids('token', 'a')");
    // Another declaration leaves the ids where they are.
    let said = shop.carry_over("SELECT tally.protect_property(NULL, 'email', 'token')");
    assert_eq!(shop.left_in_all("a"), all_with_users(), "{said}");
    assert!(!said.contains("keeps user ids"), "it was said: {said}");
    admin.batch_execute("SELECT tally.protect_property(NULL, 'phone', 'token', 'a')").unwrap();
    shop.step_to(&mut admin, 2);
    assert_eq!(shop.left_in_all("a"), all_with_users(), "also meanwhile, and where it is begun anew");
    // One is declared anew, and has only what comes now.
    admin.batch_execute("SELECT tally.drop_rollup('by_day')").unwrap();
    shop.declare("by_day", "{day}", "NULL");
    admin.batch_execute("SELECT tally.protect_property(NULL, 'card', 'token', 'a')").unwrap();
    // Of another one nothing is left.
    let gone = "DELETE FROM tally.by_week_week_base WHERE tenant_id = 'a'";
    shop.database().superuser().batch_execute(gone).unwrap();
    shop.finish();
    let mut still = all_with_users();
    still.retain(|name| *name != "by_day" && *name != "by_week");
    assert_eq!(shop.left_in_all("a"), still);
    // What is counted since has tokens alone, also when its raw events go.
    let mut new = event("a", 9_000, "u1", json!({}));
    new["occurred_at"] = json!("2026-03-03T09:15:00Z");
    assert_eq!(ingest(&mut shop.database().superuser(), &array([new])).unwrap().accepted, 1);
    admin.batch_execute("CALL tally.maintain()").unwrap();
    admin.batch_execute("SELECT tally.drop_raw('2026-04-01Z')").unwrap();
    shop.carry_over("SELECT tally.rotate_keys('a')");
    assert_eq!(shop.left_in_all("a"), still);
}

/// A rollup that counts by tokens of a property keeps those of the key before.
#[test]
fn tokens_of_a_key_before_are_told() {
    let shop = Shop::new("renewal_tokens");
    let mut admin = shop.admin();
    shop.carry_over("SELECT tally.protect_property(NULL, 'email', 'token', 'a'), tally.protect_property(NULL, 'phone', 'drop', 'a')");
    admin
        .batch_execute(
            "SELECT tally.create_rollup('of_mails', '{month}', dimensions => ARRAY['properties->>''email'' AS mail'], measures => ARRAY['count(*) AS n']);
             SELECT tally.create_rollup('of_years', '{year}', dimensions => ARRAY['properties->>''email'' AS mail'], measures => ARRAY['count(*) AS n']);
             SELECT tally.create_rollup('of_phones', '{month}', dimensions => ARRAY['properties->>''phone'' AS phone'], measures => ARRAY['count(*) AS n'])",
        )
        .unwrap();
    let events = (0..10).map(|n| {
        let properties = json!({"email": format!("m{n}@example"), "phone": "1", "card": "4711"});
        let mut event = event("a", 7_000 + n, "u1", properties);
        // The raw events of March stay.
        event["occurred_at"] = json!(format!("2026-{:02}-05T09:15:00Z", 1 + n % 3));
        event
    });
    assert_eq!(ingest(&mut shop.database().superuser(), &array(events)).unwrap().accepted, 10);
    admin.batch_execute("CALL tally.maintain()").unwrap();
    admin.batch_execute("SELECT tally.drop_raw('2026-03-01Z')").unwrap();
    let said = shop.carry_over("SELECT tally.protect_property(NULL, 'card', 'token', 'a')");
    assert!(shop.left_in_all("a").is_empty(), "{said}");
    let changed = "SELECT rows_changed FROM tally.privacy_renewal WHERE tenant_id = 'a'";
    assert_eq!(number(&mut admin, changed), 3, "also beside events that were changed");
    for _ in 0..2 {
        let said = shop.carry_over("SELECT tally.rotate_keys('a')");
        assert_eq!(shop.left_in_all("a"), ["of_mails", "of_years"], "{said}");
    }
}

/// However a rollup reads tokens, it has those of the new key, or it is said that it has others.
#[test]
fn tokens_are_carried_over_however_a_rollup_reads_them() {
    const SPELLINGS: [&str; 6] = [
        "PROPERTIES->>$k$email$k$",
        "coalesce(properties, '{}')->>'email'",
        "(properties - 'foo')->>('em' || 'ail')",
        "properties['email']::text",
        r"properties->>U&'em\0061il'",
        "(properties || '{}')->>'email'",
    ];
    let shop = Shop::new("renewal_spelt");
    let mut admin = shop.admin();
    shop.carry_over("SELECT tally.protect_property(NULL, 'email', 'token', 'a')");
    let declare = |admin: &mut Client, name: &str, dimension: &str| {
        let create = "SELECT tally.create_rollup($1, '{month}', dimensions => ARRAY[$2], measures => ARRAY['count(*) AS n'])";
        admin.execute(create, &[&name, &format!("{dimension} AS mail")]).unwrap();
    };
    for (place, spelling) in SPELLINGS.iter().enumerate() {
        declare(&mut admin, &format!("of_{place}"), spelling);
    }
    declare(&mut admin, "of_another", "coalesce(properties, '{}')->>'Email'");
    let filter = r#"SELECT tally.create_rollup('of_filter', '{month}', measures => ARRAY['count(*) AS n'], filter => 'properties @> ''{"email":"x"}''')"#;
    admin.batch_execute(filter).unwrap();
    let events = (0..4).map(|n| {
        let mut event = event("a", 7_000 + n, "u1", json!({"email": format!("m{n}@example")}));
        event["occurred_at"] = json!(format!("2026-{:02}-05T09:15:00Z", 2 + n % 2));
        event
    });
    assert_eq!(ingest(&mut shop.database().superuser(), &array(events)).unwrap().accepted, 4);
    shop.carry_over("SELECT tally.rotate_keys('a')");
    let count = |place: usize, token: &str| {
        let query = format!(
            "SELECT coalesce(sum(n), 0)::int8 FROM tally.of_{place}_month WHERE tenant_id = 'a' AND mail LIKE '%tok.{token}.%'"
        );
        number(&mut shop.database().superuser(), &query)
    };
    for (place, spelling) in SPELLINGS.iter().enumerate() {
        assert_eq!((count(place, "1"), count(place, "2")), (0, 4), "{spelling}");
    }
    admin.batch_execute("SELECT tally.drop_raw('2026-03-01Z')").unwrap();
    let said = shop.carry_over("SELECT tally.rotate_keys('a')");
    for (place, spelling) in SPELLINGS.iter().enumerate() {
        assert_eq!((count(place, "2"), count(place, "3")), (2, 2), "{spelling}");
    }
    let all: Vec<String> = (0..SPELLINGS.len()).map(|place| format!("of_{place}")).collect();
    assert_eq!(shop.left_in(), all, "{said}");
    let told = "SELECT count(*) FROM tally.lint() WHERE name = 'privacy_left_behind' AND detail LIKE '%rollup of\\__ keeps%'";
    assert_eq!(number(&mut admin, told), SPELLINGS.len() as i64, "{said}");
}

/// What counts is what was done to the events that a declaration is about, whichever declaration said it.
#[test]
fn a_declaration_changes_what_was_in_force_for_its_events() {
    let keyed = Keyed::new("renewal_in_force");
    let mut client = keyed.database.superuser();
    let mut changed = |declarations: &str, last: &str| -> Vec<String> {
        client.batch_execute(declarations).unwrap();
        maintain(&mut client);
        client.batch_execute(last).unwrap();
        let query = "SELECT changed_paths FROM tally.privacy_renewal WHERE tenant_id = 'a'";
        client.query_one(query, &[]).unwrap().get(0)
    };
    // It was dropped from every event, and was sealed in none.
    let dropped = "SELECT tally.protect_property(NULL, 'email', 'drop', 'a')";
    assert_eq!(changed(dropped, "SELECT tally.protect_property('signup', 'email', 'token', 'a')"), [""; 0]);
    // What the tenant had declared for every event went before what was declared for all tenants' events of the name.
    let sealed = "SELECT tally.protect_property(NULL, 'phone', 'seal', 'a'), tally.protect_property('signup', 'phone', 'drop')";
    let last = "SELECT tally.protect_property('signup', 'phone', 'token', 'a')";
    assert_eq!(changed(sealed, last), ["/phone"]);
    let same = "SELECT tally.protect_property(NULL, 'card', 'seal', 'a'), tally.protect_property('signup', 'card', 'token')";
    assert_eq!(changed(same, "SELECT tally.protect_property('signup', 'card', 'token', 'a')"), ["/card"]);
    let of_name =
        "SELECT tally.protect_property(NULL, 'id', 'token'), tally.protect_property('signup', 'id', 'seal')";
    assert_eq!(changed(of_name, "SELECT tally.protect_property(NULL, 'id', 'token', 'a')"), ["/id"]);
    assert_eq!(changed("SELECT 1", "SELECT tally.protect_property('login', 'card', 'seal', 'a')"), [""; 0]);
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
    admin.batch_execute("SELECT tally_internal.step_privacy('a', 100)").unwrap();
    assert_eq!(in_hand(&mut admin), (Some("by_day".to_owned()), Some("2025-08-01".to_owned())));
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
        let step = "SELECT tally_internal.step_privacy('a', 100)";
        admin.batch_execute(&format!("{step}; {step}; COMMIT")).unwrap();
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

/// What waits in quarantine is closed up by a declaration where the same event would be if it was sent afterwards: also in the quarantine of
/// a tenant of which nothing is protected.
#[test]
fn quarantined_events_of_a_protected_tenant_are_closed_up_wherever_they_wait() {
    let mut keyed = Keyed::new("closed_anywhere");
    let admin = keyed.database.role("admin", &["tally_admin"]);
    let bound = keyed.database.role("bound", &["tally_writer", "tally_reader"]);
    let trusted = keyed.database.role("trusted", &["tally_writer"]);
    let mut superuser = keyed.database.superuser();
    superuser.execute("SELECT tally.bind_role($1::text::regrole, 'a')", &[&bound]).unwrap();
    superuser.execute("SELECT tally.trust_role($1::text::regrole)", &[&trusted]).unwrap();
    let broken = |tenant: &str| {
        let mut event = event(tenant, 1, "u", json!({"email": "planted"}));
        event["occurred_at"] = json!("never");
        event.to_string()
    };
    let texts = [
        event("b", 1, "u", json!({"email": "planted"})).to_string(),
        broken("b"),
        broken("a"),
        broken("c"),
        json!({"event": event("b", 1, "u", json!({}))}).to_string(),
        json!({"event": event("a", 1, "u", json!({}))}).to_string(),
        json!(["b"]).to_string(),
        r#"{"tenant_id": "a", "tenant_id": "b"}"#.to_owned(),
        r#"{"tenant_id": 7, "properties": {"email": "planted"}}"#.to_owned(),
    ];
    let payloads = ["a", "b", "c"].map(|tenant| {
        json!({"type": "track", "messageId": "m", "userId": "u", "timestamp": "not a time", "tenant": tenant, "event": "e"}).to_string()
    });
    superuser
        .batch_execute("SELECT tally.define_mapping('told', 'segment', '{\"tenant\": \"/tenant\"}')")
        .unwrap();
    let send = || {
        for role in [&bound, &trusted] {
            let mut client = keyed.database.connect(role);
            for text in &texts {
                assert_eq!(
                    ingest(&mut client, &format!("[{text}]"))
                        .map(|summary| summary.rejected + summary.accepted)
                        .unwrap(),
                    1,
                    "{text}"
                );
            }
            for payload in &payloads {
                let sent = "SELECT * FROM tally.ingest_from('segment', $1::text, 'told')";
                client.query(sent, &[payload]).unwrap();
            }
        }
    };
    // In the order in which they were sent: the home, and whether it is closed up.
    let waiting = |client: &mut Client| -> Vec<(String, bool)> {
        let query =
            "SELECT tenant_id, body ~ '^box[.]1[.]' FROM tally.quarantine ORDER BY quarantined_at, batch_id";
        client.query(query, &[]).unwrap().iter().map(|row| (row.get(0), row.get(1))).collect()
    };
    send();
    let before = waiting(&mut superuser);
    assert!(before.len() > 15 && before.iter().all(|(_, is_closed)| !is_closed), "{before:?}");
    let mut admin = keyed.database.connect(&admin);
    admin.batch_execute("SELECT tally.protect_property(NULL, 'email', 'token', 'b')").unwrap();
    crate::keyed::maintain(&mut admin);
    let renewed = waiting(&mut superuser);
    superuser
        .batch_execute("DELETE FROM tally.quarantine; DELETE FROM tally.event_key; DELETE FROM tally.events")
        .unwrap();
    send();
    let afterwards = waiting(&mut superuser);
    assert_eq!(renewed, afterwards);
    let closed_at_home = renewed.iter().filter(|(home, is_closed)| home == "a" && *is_closed).count();
    let open = renewed.iter().filter(|(_, is_closed)| !is_closed).count();
    assert!(closed_at_home >= 5 && open >= 3, "{renewed:?}");
    // Nothing is looked through again without a reason, and what is closed up opens.
    let again = "SELECT count(*) FROM tally.quarantine WHERE tally_internal.closed_body(tenant_id, batch_id, \"position\", body) IS NOT NULL";
    assert_eq!(number(&mut superuser, again), 0);
    let redriven = "SELECT sum(rejected)::int8 FROM tally.redrive()";
    assert!(number(&mut superuser, redriven) >= 15);
}

/// The planner's statistics, and of tally.events those over all partitions, which no autovacuum makes.
#[test]
fn statistics_are_made_anew_of_what_is_protected() {
    let keyed = Keyed::new("renewal_statistics");
    let mut client = keyed.database.superuser();
    let sent = (0..200).map(|n| {
        event("a", n, &format!("planted{}", n % 7), json!({"email": format!("planted{}@x.example", n % 3)}))
    });
    let malformed = (200..240).map(|n| event("a", n, "planted\u{1}", json!({})));
    assert_eq!(ingest(&mut client, &array(sent.chain(malformed))).unwrap().accepted, 200);
    maintain(&mut client);
    client.batch_execute("ANALYZE").unwrap();
    let shown = "SELECT count(*) FROM pg_stats WHERE schemaname = 'tally' AND concat(most_common_vals, histogram_bounds, most_common_elems) ~ 'planted'";
    let before = number(&mut client, shown);
    assert!(before >= 5, "{before}: of events, its month, user activity, sessions and quarantine");
    client
        .batch_execute(
            "SELECT tally.protect_user_ids('token', 'a'), tally.protect_property(NULL, 'email', 'seal', 'a')",
        )
        .unwrap();
    maintain(&mut client);
    client.batch_execute("CALL tally.maintain()").unwrap();
    let left = "SELECT string_agg(DISTINCT tablename, ' ') FROM pg_stats WHERE schemaname = 'tally' AND concat(most_common_vals, histogram_bounds, most_common_elems) ~ 'planted'";
    assert_eq!(client.query_one(left, &[]).unwrap().get::<_, Option<String>>(0), None);
    assert_eq!(number(&mut client, "SELECT count(*) FROM tally.erasure_trace WHERE analyzed_at IS NULL"), 0);
}
