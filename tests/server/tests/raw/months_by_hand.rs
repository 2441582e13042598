//! A month that somebody detached or dropped by hand: what rollups have of it is not made anew without its events.

use postgres::Client;
use tally_server_tests::{Database, away_from_midnight, ingest, number};

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

const RANGE: &str = "'2026-01-01Z', '2026-05-01Z'";
const FROM_MARCH: &str = "'2026-03-01Z', '2026-05-01Z'";
const IN_JANUARY: &str = "'2026-01-01Z', '2026-02-01Z'";

/// One event of a tenant in each of these months.
fn send(client: &mut Client, tenant: &str, months: &[&str]) {
    for month in months {
        let own =
            event(month).replace("acme", tenant).replace("000000000001", &format!("{:012}", tenant.len()));
        assert_eq!(ingest(client, &own).unwrap().accepted, 1, "{tenant}, {month}");
    }
}

/// What a funnel, which needs raw events, counts over a range, or the SQLSTATE of its refusal.
fn funnel(client: &mut Client, range: &str) -> Result<i64, String> {
    let query = format!(
        "SELECT coalesce(max(units), 0)::int8 FROM tally.funnel(ARRAY['paid'], '1 day', {range}, 'account')"
    );
    match client.query_one(&query, &[]) {
        Ok(row) => Ok(row.get(0)),
        Err(error) => Err(error.code().unwrap_or_else(|| panic!("{error:?}")).code().to_owned()),
    }
}

fn gone() -> Result<i64, String> {
    Err("55T20".to_owned())
}

struct Readers {
    /// Had events in every month.
    all: Client,
    /// Had none in February, and some in January.
    before: Client,
    /// Came in March.
    after: Client,
}

/// The shop with two more tenants, folded, and a reader bound to each.
fn shop_of_three(topic: &str) -> (Database, Readers) {
    let mut database = shop(topic);
    let mut superuser = database.superuser();
    send(&mut superuser, "before", &["2026-01", "2026-03"]);
    send(&mut superuser, "after", &["2026-03", "2026-04"]);
    superuser.batch_execute("CALL tally.maintain()").unwrap();
    let mut reader = |tenant: &str| {
        let role = database.role(tenant, &["tally_reader"]);
        superuser.execute("SELECT tally.bind_role($1::text::regrole, $2)", &[&role, &tenant]).unwrap();
        database.connect(&role)
    };
    let (all, before, after) = (reader("acme"), reader("before"), reader("after"));
    (database, Readers { all, before, after })
}

#[test]
fn metrics_say_what_a_month_taken_out_by_hand_leaves_them() {
    for (number_of_case, by_hand) in [
        "DROP TABLE tally.events_p2026_02",
        "ALTER TABLE tally.events DETACH PARTITION tally.events_p2026_02",
        "ALTER TABLE tally.events DETACH PARTITION tally.events_p2026_02; ALTER TABLE tally.events_p2026_02 SET SCHEMA public",
    ]
    .into_iter()
    .enumerate()
    {
        let (database, mut readers) = shop_of_three(&format!("hand_metrics_{number_of_case}"));
        let mut superuser = database.superuser();
        for client in [&mut readers.all, &mut readers.before, &mut readers.after] {
            assert_eq!(funnel(client, RANGE), Ok(1));
        }
        // A snapshot that is older than the deed doesn't bring the events back.
        let mut early = readers.all.transaction().unwrap();
        early.batch_execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; SELECT 1").unwrap();
        superuser.batch_execute(by_hand).unwrap();
        let query = format!("SELECT count(*) FROM tally.funnel(ARRAY['paid'], '1 day', {RANGE})");
        let refused = early.query_one(&query, &[]).unwrap_err();
        assert_eq!(refused.code().unwrap().code(), "55T20", "{by_hand}");
        assert!(refused.as_db_error().unwrap().message().contains("2026-03-01"), "{refused:?}");
        early.rollback().unwrap();

        assert_eq!(funnel(&mut readers.all, RANGE), gone(), "{by_hand}");
        assert_eq!(funnel(&mut readers.all, FROM_MARCH), Ok(1), "{by_hand}");
        // Nobody has noted that this tenant lost nothing.
        assert_eq!(funnel(&mut readers.before, RANGE), gone(), "{by_hand}");
        assert_eq!(funnel(&mut readers.after, RANGE), Ok(1), "{by_hand}");
        // What rollups keep is exact, and says so.
        superuser
            .batch_execute("SELECT tally.define_metric('paid', '{\"kind\": \"events\", \"event\": \"paid\"}')")
            .unwrap();
        let value = format!("SELECT value::int8, exact FROM tally.metric_value('paid', {RANGE})");
        let row = readers.all.query_one(&value, &[]).unwrap();
        assert_eq!((row.get::<_, i64>(0), row.get::<_, bool>(1)), (4, true), "{by_hand}");
        let accounts = format!("SELECT times FROM tally.did_at_least('paid', 4, {RANGE}, 'account')");
        assert_eq!(number(&mut readers.all, &accounts), 4, "{by_hand}");
        // Marked, where that is asked for.
        readers.all.batch_execute("SET tally.incomplete = 'mark'").unwrap();
        let marked = format!(
            "SELECT units, exact, whole_from = '2026-03-01Z' FROM tally.funnel(ARRAY['paid'], '1 day', {RANGE}, 'account')"
        );
        let row = readers.all.query_one(&marked, &[]).unwrap();
        assert!(!row.get::<_, bool>(1) && row.get::<_, bool>(2), "{by_hand}: {row:?}");
        readers.all.batch_execute("RESET tally.incomplete").unwrap();
        // A rollup that is declared now never had February.
        superuser.batch_execute("SELECT tally.create_rollup('late', '{day}', ARRAY['count(*) AS n'])").unwrap();
        let known = "SELECT count(*) FROM tally.rollup WHERE rollup_name = 'late' AND whole_from = '2026-03-01Z'";
        assert_eq!(number(&mut superuser, known), 1, "{by_hand}");
        let health = "SELECT count(*) FROM tally.health() WHERE component = 'partitions' AND status <> 'ok'";
        assert_eq!(number(&mut superuser, health), 1, "{by_hand}");
    }
}

#[test]
fn an_administrator_says_that_a_month_will_not_come_back() {
    for (number_of_case, by_hand) in [
        "DROP TABLE tally.events_p2026_02",
        "ALTER TABLE tally.events DETACH PARTITION tally.events_p2026_02; DROP TABLE tally.events_p2026_02",
    ]
    .into_iter()
    .enumerate()
    {
        let (mut database, mut readers) = shop_of_three(&format!("hand_recorded_{number_of_case}"));
        let mut superuser = database.superuser();
        let role = database.role("admin", &["tally_admin"]);
        let mut admin = database.connect(&role);
        let record = "SELECT coalesce(string_agg(m, ' '), 'none') FROM tally.record_lost_months() AS m";
        let recorded = |client: &mut Client| client.query_one(record, &[]).map(|row| row.get::<_, String>(0));
        assert_eq!(recorded(&mut admin).unwrap(), "none");
        assert_eq!(number(&mut superuser, "SELECT count(*) FROM tally.raw_horizon"), 0);
        superuser.batch_execute(by_hand).unwrap();
        let alter =
            "SELECT tally.alter_rollup('weekly', add_measures => ARRAY['count(user_id) AS with_user'])";
        let refused = admin.batch_execute(alter).unwrap_err();
        assert!(refused.as_db_error().unwrap().hint().unwrap().contains("record_lost_months"), "{refused:?}");
        // What waits to be folded comes first, as before drop_raw().
        send(&mut superuser, "pending", &["2026-01"]);
        assert_eq!(recorded(&mut admin).unwrap_err().code().unwrap().code(), "55000");
        admin.batch_execute("CALL tally.maintain()").unwrap();
        assert_eq!(recorded(&mut admin).unwrap(), "2026-02", "{by_hand}");
        assert_eq!(recorded(&mut admin).unwrap(), "none", "{by_hand}");
        for statement in [
            alter,
            "SELECT tally.rebuild_rollup('usage')",
            "SELECT tally.alter_rollup('yearly', add_measures => ARRAY['count(user_id) AS with_user'])",
        ] {
            admin
                .batch_execute(statement)
                .unwrap_or_else(|error| panic!("{by_hand}: {statement}: {error:?}"));
        }
        for view in COUNTS {
            let count = number(&mut superuser, &format!("SELECT sum(events)::int8 FROM tally.{view}"));
            assert_eq!(count, 9, "{by_hand}: {view}");
        }
        // Who lost events is known now, and who didn't.
        assert_eq!(funnel(&mut readers.all, RANGE), gone(), "{by_hand}");
        assert_eq!(funnel(&mut readers.all, FROM_MARCH), Ok(1), "{by_hand}");
        assert_eq!(funnel(&mut readers.before, RANGE), Ok(1), "{by_hand}");
        assert_eq!(funnel(&mut readers.before, IN_JANUARY), Ok(1), "{by_hand}");
        assert_eq!(funnel(&mut readers.after, RANGE), Ok(1), "{by_hand}");
        let health =
            "SELECT count(*) FROM tally.health() WHERE component = 'partitions' AND advice LIKE '%by hand%'";
        assert_eq!(number(&mut superuser, health), 0, "{by_hand}");
        // A second month that goes by hand is another one.
        superuser.batch_execute("DROP TABLE tally.events_p2026_01").unwrap();
        assert_eq!(funnel(&mut readers.before, IN_JANUARY), gone(), "{by_hand}");
        assert_eq!(recorded(&mut admin).unwrap(), "2026-01", "{by_hand}");
        assert_eq!(funnel(&mut readers.before, IN_JANUARY), gone(), "{by_hand}");
        assert_eq!(funnel(&mut readers.before, FROM_MARCH), Ok(1), "{by_hand}");
    }
}

#[test]
fn a_month_without_events_goes_without_a_trace() {
    for (number_of_case, by_hand) in [
        // Not come yet, and one that only ever was empty.
        "SELECT tally.make_partitions(3); \
         DO $$ BEGIN EXECUTE format('DROP TABLE tally.%I', to_char(now() + interval '3 months', '\"events_p\"YYYY_MM')); END $$",
        "DROP TABLE tally.events_p2026_05",
    ]
    .into_iter()
    .enumerate()
    {
        let (mut database, mut readers) = shop_of_three(&format!("hand_empty_{number_of_case}"));
        away_from_midnight();
        let mut superuser = database.superuser();
        let role = database.role("admin", &["tally_admin"]);
        let mut admin = database.connect(&role);
        // Undone, an ingest leaves a month behind that is empty.
        let mut undone = superuser.transaction().unwrap();
        ingest(&mut undone, &event("2026-05")).unwrap();
        undone.rollback().unwrap();
        assert_eq!(number(&mut superuser, "SELECT count(*) FROM tally.raw_month WHERE month = '2026-05-01Z'"), 1);
        superuser.batch_execute(by_hand).unwrap();
        let health =
            "SELECT count(*) FROM tally.health() WHERE component = 'partitions' AND advice LIKE '%by hand%'";
        for _ in ["before it is made again", "after"] {
            assert_eq!(funnel(&mut readers.all, RANGE), Ok(1), "{by_hand}");
            assert_eq!(number(&mut superuser, health), 0, "{by_hand}");
            assert_eq!(number(&mut admin, "SELECT count(*) FROM tally.record_lost_months()"), 0, "{by_hand}");
            for rollup in ["usage", "weekly", "yearly"] {
                admin.batch_execute(&format!("SELECT tally.rebuild_rollup('{rollup}')")).unwrap();
            }
            ingest(&mut superuser, &event("2026-05").replace("acme", "may")).unwrap();
            superuser.batch_execute("SELECT tally.make_partitions(3)").unwrap();
        }
    }
}

#[test]
fn a_partition_attached_by_hand_is_missed_when_it_goes_by_hand() {
    let (mut database, mut readers) = shop_of_three("hand_attached");
    let mut superuser = database.superuser();
    let role = database.role("admin", &["tally_admin"]);
    let mut admin = database.connect(&role);
    // It went, that was recorded, and it came back; and another one was never pg_tally's.
    superuser.batch_execute("ALTER TABLE tally.events DETACH PARTITION tally.events_p2026_02").unwrap();
    assert_eq!(number(&mut admin, "SELECT count(*) FROM tally.record_lost_months()"), 1);
    superuser
        .batch_execute(
            "ALTER TABLE tally.events ATTACH PARTITION tally.events_p2026_02 FOR VALUES FROM ('2026-02-01Z') TO ('2026-03-01Z');
             SELECT tally_internal.create_leaf('quarter');
             ALTER TABLE tally.events ATTACH PARTITION tally.quarter FOR VALUES FROM ('2026-07-01Z') TO ('2026-10-01Z')",
        )
        .unwrap();
    superuser.batch_execute("CALL tally.maintain()").unwrap();
    send(&mut superuser, "acme", &["2026-08"]);
    let quarter = "'2026-08-01Z', '2026-09-01Z'";
    assert_eq!(funnel(&mut readers.all, FROM_MARCH), Ok(1));
    superuser.batch_execute("DROP TABLE tally.quarter").unwrap();
    assert_eq!(funnel(&mut readers.all, quarter), gone());
    admin.batch_execute("CALL tally.maintain()").unwrap();
    let recorded = "SELECT string_agg(m, ' ') FROM tally.record_lost_months() AS m";
    assert_eq!(admin.query_one(recorded, &[]).unwrap().get::<_, String>(0), "2026-08");
    superuser.batch_execute("DROP TABLE tally.events_p2026_02").unwrap();
    assert_eq!(admin.query_one(recorded, &[]).unwrap().get::<_, String>(0), "2026-02");
}

/// Made under another time zone: it begins two hours before a month of ours.
#[test]
fn a_partition_that_has_a_piece_of_a_month_makes_no_month_a_lost_one() {
    let (mut database, mut readers) = shop_of_three("hand_piece");
    let mut superuser = database.superuser();
    let role = database.role("admin", &["tally_admin"]);
    superuser
        .batch_execute(
            "SET timezone = 'Europe/Berlin'; SELECT tally_internal.create_leaf('july');
             ALTER TABLE tally.events ATTACH PARTITION tally.july FOR VALUES FROM ('2026-07-01') TO ('2026-08-01'); RESET timezone",
        )
        .unwrap();
    let early = event("2026-06").replace("2026-06-15T09:15:00Z", "2026-06-30T22:30:00Z");
    assert_eq!(ingest(&mut superuser, &early).unwrap().accepted, 1);
    superuser.batch_execute("CALL tally.maintain()").unwrap();
    assert_eq!(number(&mut superuser, "SELECT count(*) FROM tally_internal.lost_months()"), 0);
    assert_eq!(funnel(&mut readers.all, "'2026-06-01Z', '2026-08-01Z'"), Ok(1));
    let mut admin = database.connect(&role);
    admin.batch_execute("SELECT tally.rebuild_rollup('usage')").unwrap();
    assert_eq!(number(&mut admin, "SELECT count(*) FROM tally.record_lost_months()"), 0);
}

/// The partition is there again then, with nothing but that event.
#[test]
fn a_late_event_does_not_make_a_lost_month_whole() {
    let (mut database, mut readers) = shop_of_three("hand_late");
    let mut superuser = database.superuser();
    let role = database.role("admin", &["tally_admin"]);
    let mut admin = database.connect(&role);
    superuser.batch_execute("DROP TABLE tally.events_p2026_02").unwrap();
    send(&mut superuser, "latecomer", &["2026-02"]);
    assert_eq!(funnel(&mut readers.all, RANGE), gone());
    assert_eq!(funnel(&mut readers.before, RANGE), Ok(1));
    let refused =
        admin.batch_execute("SELECT tally.rebuild_rollup('usage', '2026-02-01', '2026-03-01')").unwrap_err();
    assert_eq!(refused.code().unwrap().code(), "55000");
    admin.batch_execute("CALL tally.maintain()").unwrap();
    assert_eq!(number(&mut admin, "SELECT count(*) FROM tally.record_lost_months()"), 1);
    admin.batch_execute("SELECT tally.rebuild_rollup('usage')").unwrap();
    assert_eq!(funnel(&mut readers.all, RANGE), gone());
    assert_eq!(number(&mut superuser, "SELECT sum(events)::int8 FROM tally.usage_day"), 9);
    // Taken out once more, it is missed once more.
    superuser.batch_execute("DROP TABLE tally.events_p2026_02").unwrap();
    assert_eq!(number(&mut admin, "SELECT count(*) FROM tally.record_lost_months()"), 1);
}

#[test]
fn dropping_later_months_notes_what_went_by_hand_before() {
    let (database, mut readers) = shop_of_three("hand_dropped");
    let mut superuser = database.superuser();
    // Had its one event in the month that goes by hand.
    send(&mut superuser, "brief", &["2026-02"]);
    superuser.batch_execute("CALL tally.maintain()").unwrap();
    superuser.batch_execute("DROP TABLE tally.events_p2026_02").unwrap();
    assert_eq!(number(&mut superuser, "SELECT count(*) FROM tally.drop_raw('2026-04-01Z')"), 2);
    let lost = "SELECT count(*) FROM tally.raw_loss WHERE tenant_id = 'brief' AND whole_from = '2026-03-01Z'";
    assert_eq!(number(&mut superuser, lost), 1);
    assert_eq!(number(&mut superuser, "SELECT count(*) FROM tally.raw_month WHERE month < '2026-04-01Z'"), 0);
    assert_eq!(funnel(&mut readers.all, FROM_MARCH), gone());
    assert_eq!(number(&mut superuser, "SELECT count(*) FROM tally.record_lost_months()"), 0);
}

#[test]
fn a_month_that_is_attached_again_is_whole() {
    let (database, mut readers) = shop_of_three("hand_back");
    let mut superuser = database.superuser();
    superuser.batch_execute("ALTER TABLE tally.events DETACH PARTITION tally.events_p2026_02").unwrap();
    assert_eq!(funnel(&mut readers.all, RANGE), gone());
    superuser
        .batch_execute(
            "ALTER TABLE tally.events ATTACH PARTITION tally.events_p2026_02 FOR VALUES FROM ('2026-02-01Z') TO ('2026-03-01Z')",
        )
        .unwrap();
    assert_eq!(funnel(&mut readers.all, RANGE), Ok(1));
    assert_eq!(funnel(&mut readers.before, RANGE), Ok(1));
    assert_eq!(number(&mut superuser, "SELECT count(*) FROM tally.record_lost_months()"), 0);
}

/// A month that an administrator divided by tenants, without a place for the rest.
#[test]
fn an_event_that_no_part_of_its_month_takes_is_rejected_alone() {
    let database = Database::new("by_hand_no_part");
    let mut superuser = database.superuser();
    superuser
        .batch_execute(
            "CREATE TABLE tally.by_hand (LIKE tally.events INCLUDING ALL EXCLUDING INDEXES) PARTITION BY LIST (tenant_id);
             CREATE TABLE tally.by_hand_other (LIKE tally.events INCLUDING ALL EXCLUDING INDEXES);
             ALTER TABLE tally.by_hand ATTACH PARTITION tally.by_hand_other FOR VALUES IN ('other');
             ALTER TABLE tally.events ATTACH PARTITION tally.by_hand FOR VALUES FROM ('2026-02-01Z') TO ('2026-03-01Z')",
        )
        .unwrap();
    let of_other = event("2026-02").replace("acme", "other").replace("0001\"", "0002\"");
    let batch = format!("[{},{},{of_other}]", event("2026-01"), event("2026-02"));
    let summary = ingest(&mut superuser, &batch).unwrap();
    assert_eq!((summary.accepted, summary.rejected), (2, 1));
    let refused = superuser
        .query_one("SELECT sqlstate, reason FROM tally.quarantine", &[])
        .map(|row| (row.get::<_, String>(0), row.get::<_, String>(1)))
        .unwrap();
    assert_eq!(refused.0, "23514", "{}", refused.1);
    assert!(refused.1.contains("2026-02"), "{}", refused.1);
}
