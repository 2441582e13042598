//! A month that somebody detached or dropped by hand: what rollups have of it is not made anew without its events.

use tally_server_tests::{Database, ingest, number};

/// An event in the middle of a month, and so in the middle of its weeks.
fn event(month: &str) -> String {
    let digits = month.replace('-', "");
    format!(
        r#"{{"tenant_id":"acme","account_id":"n","name":"paid","event_id":"00{digits}-0000-4000-8000-000000000001","occurred_at":"{month}-15T09:15:00Z"}}"#
    )
}

const MONTHS: [&str; 4] = ["2026-01", "2026-02", "2026-03", "2026-04"];

fn shop(topic: &str) -> Database {
    let database = Database::new(topic);
    let mut superuser = database.superuser();
    superuser
        .batch_execute(
            "SELECT tally.create_rollup('weekly', grains => '{week,month}', measures => ARRAY['count(*) AS events']);
             SELECT tally.create_rollup('yearly', grains => '{year}', measures => ARRAY['count(*) AS events'])",
        )
        .unwrap();
    for month in MONTHS {
        assert_eq!(ingest(&mut superuser, &event(month)).unwrap().accepted, 1);
    }
    database
}

const COUNTS: [&str; 5] = ["usage_day", "usage_hour", "weekly_week", "weekly_month", "yearly_year"];

#[test]
fn buckets_of_a_month_taken_out_by_hand_keep_their_numbers() {
    for (number_of_case, (by_hand, is_folded)) in [
        ("ALTER TABLE tally.events DETACH PARTITION tally.events_p2026_02", true),
        ("ALTER TABLE tally.events DETACH PARTITION tally.events_p2026_02", false),
        ("DROP TABLE tally.events_p2026_02", true),
        ("ALTER TABLE tally.events DETACH PARTITION tally.events_p2026_02; ALTER TABLE tally.events_p2026_02 SET SCHEMA public", false),
    ]
    .into_iter()
    .enumerate()
    {
        let mut database = shop(&format!("by_hand_{number_of_case}"));
        let mut superuser = database.superuser();
        let role = database.role("admin", &["tally_admin"]);
        let mut admin = database.connect(&role);
        if is_folded {
            admin.batch_execute("CALL tally.maintain()").unwrap();
        }
        superuser.batch_execute(by_hand).unwrap();
        for refused in [
            "SELECT tally.rebuild_rollup('usage')",
            "SELECT tally.rebuild_rollup('usage', '2026-02-10', '2026-02-20')",
            "SELECT tally.rebuild_rollup('usage', NULL, '2026-02-16', 'acme')",
            "SELECT tally.rebuild_rollup('weekly')",
            "SELECT tally.rebuild_rollup('weekly', '2026-02-16', '2026-02-17')",
            "SELECT tally.rebuild_rollup('yearly', '2026-04-16', '2026-04-17')",
            "SELECT tally.alter_rollup('yearly', add_measures => ARRAY['count(user_id) AS with_user'])",
            "SELECT tally.alter_rollup('weekly', add_measures => ARRAY['count(user_id) AS with_user'])",
        ] {
            let error = admin.batch_execute(refused).expect_err(refused);
            let error = error.as_db_error().unwrap();
            assert_eq!(error.code().code(), "55000", "{by_hand}: {refused}: {error}");
            assert!(error.message().contains("2026-0"), "{by_hand}: {refused}: {error}");
            assert!(error.hint().unwrap().contains("detach_raw"), "{by_hand}: {refused}: {error:?}");
        }
        // What has its events is made anew as ever.
        for free in [
            "SELECT tally.rebuild_rollup('usage', '2026-03-01')",
            "SELECT tally.rebuild_rollup('usage', NULL, '2026-02-01')",
            "SELECT tally.rebuild_rollup('usage', NULL, NULL, 'nobody')",
        ] {
            admin.batch_execute(free).unwrap_or_else(|error| panic!("{by_hand}: {free}: {error:?}"));
        }
        for view in COUNTS {
            let count = number(&mut superuser, &format!("SELECT sum(events)::int8 FROM tally.{view}"));
            assert_eq!(count, 4, "{by_hand}: {view}");
        }
    }
}

#[test]
fn months_that_are_taken_out_as_they_should_be_or_come_back_are_in_nobodys_way() {
    let database = shop("by_hand_and_back");
    let mut superuser = database.superuser();
    superuser
        .batch_execute(
            "ALTER TABLE tally.events DETACH PARTITION tally.events_p2026_02;
             ALTER TABLE tally.events ATTACH PARTITION tally.events_p2026_02 FOR VALUES FROM ('2026-02-01Z') TO ('2026-03-01Z')",
        )
        .unwrap();
    for rollup in ["usage", "weekly", "yearly"] {
        superuser.batch_execute(&format!("SELECT tally.rebuild_rollup('{rollup}')")).unwrap();
    }
    for rollup in ["payment", "session", "usage", "user_activity", "weekly", "yearly"] {
        while number(&mut superuser, &format!("SELECT tally.fold('{rollup}')")) > 0 {}
    }
    assert_eq!(number(&mut superuser, "SELECT count(*) FROM tally.detach_raw('2026-02-01')"), 1);
    for statement in [
        "SELECT tally.rebuild_rollup('usage')",
        "SELECT tally.rebuild_rollup('weekly')",
        "SELECT tally.alter_rollup('weekly', add_measures => ARRAY['count(user_id) AS with_user'])",
        "SELECT tally.alter_rollup('yearly', add_measures => ARRAY['count(user_id) AS with_user'])",
    ] {
        superuser.batch_execute(statement).unwrap_or_else(|error| panic!("{statement}: {error:?}"));
    }
    for view in COUNTS {
        let count = number(&mut superuser, &format!("SELECT sum(events)::int8 FROM tally.{view}"));
        assert_eq!(count, 4, "{view}");
    }
}
