//! Damaged states: every single bit of every stored state of a small database is flipped, in base and in pending rows, live
//! and frozen. Each is told by verify_rollup and by reading; none ends the search, crashes or changes a number silently.

use postgres::Client;
use std::collections::BTreeSet;
use tally_server_tests::{Database, assert_right, fold_all, ingest, json_array, number, verify};

/// Puts any bytes where only a state may be, as a failing disk does.
const RAW: &str = "
CREATE SCHEMA raw;
CREATE FUNCTION raw.bytes(tally.hll) RETURNS bytea LANGUAGE internal IMMUTABLE STRICT AS 'byteasend';
CREATE FUNCTION raw.bytes(tally.tdigest) RETURNS bytea LANGUAGE internal IMMUTABLE STRICT AS 'byteasend';
CREATE FUNCTION raw.bytes(bytea) RETURNS bytea LANGUAGE internal IMMUTABLE STRICT AS 'byteasend';
CREATE FUNCTION raw.put(bytea, tally.hll) RETURNS tally.hll LANGUAGE internal IMMUTABLE AS 'byteasend';
CREATE FUNCTION raw.put(bytea, tally.tdigest) RETURNS tally.tdigest LANGUAGE internal IMMUTABLE AS 'byteasend';
CREATE FUNCTION raw.put(bytea, bytea) RETURNS bytea LANGUAGE internal IMMUTABLE AS 'byteasend';
CREATE FUNCTION raw.flip(state bytea, place int) RETURNS bytea LANGUAGE sql IMMUTABLE STRICT
  AS 'SELECT set_bit(state, place % (8 * length(state)), 1 - get_bit(state, place % (8 * length(state))))';
CREATE FUNCTION raw.reads(state anyelement, query text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE answer text;
BEGIN
  EXECUTE query INTO answer USING state;
  RETURN 'answers ' || answer;
EXCEPTION WHEN OTHERS THEN
  RETURN SQLSTATE;
END $$;";

/// Every table with stored states, its columns of them, and what reads one.
const STATES: [(&str, &str, &[&str]); 7] = [
    ("usage_hour_base", "users", HLL),
    ("usage_day_base", "sessions", HLL),
    ("usage_day_base", "value", DIGEST),
    ("usage_pending", "value", DIGEST),
    ("usage_pending", "users", HLL),
    ("user_activity_year_base", "days", DAYS),
    ("session_month_base", "windows", WINDOWS),
];
const HLL: &[&str] = &[
    "SELECT tally.distinct_count($1)",
    "SELECT tally.distinct_count(tally.rollup(s)) FROM (VALUES ($1), ($1)) AS v (s)",
    "SELECT tally.merge($1, NULL)::bytea",
    "SELECT tally.damage($1, NULL) IS NULL AND (1 / 0)::boolean",
];
const DIGEST: &[&str] = &[
    "SELECT tally.approx_percentile(0.95, $1)",
    "SELECT tally.mean($1)",
    "SELECT tally.mean(tally.rollup(s)) FROM (VALUES ($1), ($1)) AS v (s)",
    "SELECT tally.num_vals(tally.merge($1, $1))",
];
const DAYS: &[&str] = &[
    "SELECT tally.day_list($1)",
    "SELECT tally.union_days(s) FROM (VALUES ($1), ($1)) AS v (s)",
    "SELECT tally.merge_days($1, $1)",
    "SELECT tally_internal.unit_parts('t', 'u', $1, 3)",
];
const WINDOWS: &[&str] = &[
    "SELECT tally.session_window_events($1)",
    "SELECT tally.union_session_windows(s) FROM (VALUES ($1), ($1)) AS v (s)",
];

struct Bench {
    database: Database,
    admin: Client,
    superuser: Client,
}

/// Two years of a few events, some of them pending.
fn bench(topic: &str) -> Bench {
    let mut database = Database::new(topic);
    database.set("tally.pending_limit = '1GB'");
    let (admin, loader) =
        (database.role("admin", &["tally_admin"]), database.role("loader", &["tally_writer"]));
    let mut superuser = database.superuser();
    superuser.execute("SELECT tally.trust_role($1::text::regrole)", &[&loader]).unwrap();
    superuser.batch_execute(RAW).unwrap();
    let (mut admin, mut loader) = (database.connect(&admin), database.connect(&loader));
    let event = |n: usize| {
        let session =
            if n.is_multiple_of(3) { String::new() } else { format!(r#""session_id":"s{}","#, n % 11) };
        format!(
            r#"{{"tenant_id":"t{}","account_id":"a{}","name":"n{}","user_id":"u{}",{session}"event_id":"00000000-0000-4000-8000-{n:012}","occurred_at":"20{}-{:02}-{:02}T{:02}:10:00Z","properties":{{"value":{}}}}}"#,
            n % 2,
            n / 2 % 2,
            n / 4 % 2,
            n % 7,
            24 + n / 8 % 2,
            1 + n / 16 % 2 * 8,
            1 + n / 32 % 2,
            n % 2,
            n * n % 103
        )
    };
    let mut send = |numbers: std::ops::Range<usize>| {
        let events: Vec<String> = numbers.clone().map(event).collect();
        let sent = ingest(&mut loader, &json_array(events.iter().map(String::as_str))).unwrap();
        assert_eq!(sent.accepted as usize, numbers.len());
    };
    send(0..300);
    ["usage", "user_activity", "session"].iter().for_each(|rollup| fold_all(&mut admin, rollup));
    send(300..400);
    Bench { database, admin, superuser }
}

#[test]
fn every_flipped_bit_is_an_error_to_whoever_reads_it() {
    let Bench { database: _database, mut superuser, .. } = bench("flips");
    let mut flips = 0;
    for (table, column, readers) in STATES {
        let damage = match readers {
            HLL | DIGEST => "tally.damage(flipped, NULL)",
            DAYS => "tally.days_damage(flipped)",
            _ => "tally.session_windows_damage(flipped)",
        };
        let every = format!(
            "SELECT raw.put(raw.flip(raw.bytes({column}), place), {column}) AS flipped, {column} AS state, place
               FROM (SELECT DISTINCT ON (raw.bytes({column})) {column} FROM tally.{table}
                      WHERE {column} IS NOT NULL LIMIT 40) AS few,
                    generate_series(0, 8 * length(raw.bytes({column})) - 1) AS place"
        );
        let row = superuser
            .query_one(
                &format!("SELECT count(*), count(*) FILTER (WHERE {damage} IS NULL) FROM ({every}) AS e"),
                &[],
            )
            .unwrap();
        let (all, missed): (i64, i64) = (row.get(0), row.get(1));
        assert!(all > 0 && missed == 0, "{table}.{column}: {missed} of {all} missed");
        flips += all;
        for reader in readers {
            let found = superuser
                .query(
                    &format!("SELECT DISTINCT left(raw.reads(flipped, $1), 20) FROM ({every}) AS e"),
                    &[reader],
                )
                .unwrap();
            let found: BTreeSet<String> = found.iter().map(|row| row.get(0)).collect();
            let expected: &[&str] =
                if reader.contains("tally.damage") { &["answers false"] } else { &["XX001", "22P03"] };
            assert!(
                !found.is_empty() && found.iter().all(|found| expected.contains(&found.as_str())),
                "{table}.{column}: {reader}: {found:?}"
            );
            // The states as they are can be read.
            let whole = format!(
                "SELECT count(*) FROM tally.{table} WHERE {column} IS NOT NULL AND raw.reads({column}, $1) NOT LIKE 'answers%'"
            );
            if !reader.contains("tally.damage") {
                assert_eq!(superuser.query_one(&whole, &[reader]).unwrap().get::<_, i64>(0), 0, "{reader}");
            }
        }
    }
    println!("{flips} flips");
    assert!(flips > 45_000, "{flips}");
}

/// Flips one bit of every state of a table's column, and says how many rows it changed.
fn flip_all(superuser: &mut Client, table: &str, column: &str, bit: i32) -> u64 {
    superuser
        .execute(
            &format!(
                "UPDATE tally.{table} SET {column} = raw.put(raw.flip(raw.bytes({column}), $1), {column}) WHERE {column} IS NOT NULL"
            ),
            &[&bit],
        )
        .unwrap()
}

/// The differences that a rollup has, those of states that can't be read, and groups of them by grain.
fn unreadable(admin: &mut Client, rollup: &str) -> Vec<(String, String, String, String)> {
    let rows = verify(admin, rollup);
    for row in &rows {
        let (tenant, bucket): (Option<&str>, Option<&str>) = (row.get(1), row.get(3));
        assert!(tenant.is_some() && bucket.is_some(), "{row:?}");
        let stored: Option<&str> = row.get(6);
        assert!(stored.is_some_and(|text| text.starts_with("unreadable: ")), "{stored:?}");
    }
    let text = |row: &postgres::Row, place| row.get::<_, Option<String>>(place).unwrap_or_default();
    rows.iter()
        .map(|row| {
            let key = format!("{} {} {} {}", text(row, 1), text(row, 2), text(row, 3), text(row, 4));
            (text(row, 0), text(row, 5), key, text(row, 6))
        })
        .collect()
}

fn verify_tells_each(bench: &mut Bench, frozen: bool) {
    let (admin, superuser) = (&mut bench.admin, &mut bench.superuser);
    let rollups = ["usage", "user_activity", "session"];
    rollups.iter().for_each(|rollup| assert_right(admin, rollup));
    for (table, column, _) in STATES {
        let pending = table.ends_with("pending");
        if pending && frozen {
            continue;
        }
        let rollup = rollups.iter().rev().find(|rollup| table.starts_with(**rollup)).unwrap();
        let kept = format!("SELECT count({column}) FROM tally.{table}");
        let states = number(superuser, &kept);
        assert!(states > 0, "{table}.{column}");
        for bit in [0, 3, 9, 17, 38, 61, 77, 111] {
            let flipped = flip_all(superuser, table, column, bit);
            assert_eq!(flipped as i64, states);
            let found = unreadable(admin, rollup);
            if pending {
                assert!(
                    !found.is_empty() && found.iter().all(|found| found.1 == column),
                    "{table}.{column}, bit {bit}"
                );
            } else {
                let keys: BTreeSet<_> = found.iter().map(|(grain, _, key, _)| (grain, key)).collect();
                assert_eq!(
                    (found.len(), keys.len()),
                    (flipped as usize, flipped as usize),
                    "{table}.{column}, bit {bit}"
                );
                assert!(found.iter().all(|found| table.contains(&found.0) && found.1 == column));
            }
            // Back again.
            flip_all(superuser, table, column, bit);
        }
    }
    rollups.iter().for_each(|rollup| assert_right(admin, rollup));
}

#[test]
fn verify_lists_each_damaged_state_of_live_and_of_frozen_buckets() {
    let mut bench = bench("damaged");
    verify_tells_each(&mut bench, false);
    let admin = &mut bench.admin;
    ["usage", "user_activity", "session"].iter().for_each(|rollup| fold_all(admin, rollup));
    let dropped = admin.query("SELECT tally.drop_raw('2027-01-01')", &[]).unwrap();
    assert!(dropped.len() >= 4);
    verify_tells_each(&mut bench, true);
}

/// One tenant's events are gone, the other's are there.
#[test]
fn verify_lists_damaged_states_of_one_tenant_whose_events_are_gone() {
    let mut bench = bench("tenant");
    let admin = &mut bench.admin;
    ["usage", "user_activity", "session"].iter().for_each(|rollup| fold_all(admin, rollup));
    admin.batch_execute("SELECT tally.set_retention('t0', '1 day')").unwrap();
    admin.batch_execute("CALL tally.maintain()").unwrap();
    assert_eq!(number(&mut bench.superuser, "SELECT count(*) FROM tally.events WHERE tenant_id = 't0'"), 0);
    assert!(number(&mut bench.superuser, "SELECT count(*) FROM tally.events WHERE tenant_id = 't1'") > 100);
    verify_tells_each(&mut bench, true);
}

#[test]
fn a_frozen_bucket_is_compared_with_its_finer_ones_and_no_event_is_read() {
    let Bench { database: _database, mut admin, mut superuser } = bench("grains");
    ["usage", "user_activity", "session"].iter().for_each(|rollup| fold_all(&mut admin, rollup));
    admin.execute("SELECT tally.drop_raw('2025-05-01')", &[]).unwrap();
    assert_right(&mut admin, "usage");
    for (table, bucket) in [
        ("usage_day_base", "2024-01-01"),
        ("usage_hour_base", "2024-09-02 00:00"),
        ("usage_day_base", "2025-01-02"),
    ] {
        let row = format!("WHERE ctid = (SELECT min(ctid) FROM tally.{table} WHERE bucket = '{bucket}Z')");
        for fault in [
            "events = events + 1",
            "value_sum = value_sum + 0.001",
            "first_at = first_at + interval '1 microsecond'",
            "last_at = NULL",
            "users = (SELECT tally.hll('intruder', sketch_key, sketch_epoch) FROM tally.tenant AS t WHERE t.tenant_id = b.tenant_id)",
            "value = tally.merge(value, tally.tdigest_of(5))",
        ] {
            let fault = fault.replace("tally.tdigest_of(5)", "(SELECT tally.tdigest(5::float8, 200))");
            superuser.batch_execute("BEGIN").unwrap();
            let changed =
                superuser.execute(&format!("UPDATE tally.{table} AS b SET {fault} {row}"), &[]).unwrap();
            assert_eq!(changed, 1, "{fault}");
            superuser.batch_execute("SELECT tally.enter_global()").unwrap();
            let found =
                superuser.query("SELECT grain, measure FROM tally.verify_rollup('usage')", &[]).unwrap();
            let found: Vec<(&str, &str)> = found.iter().map(|row| (row.get(0), row.get(1))).collect();
            let measure = fault.split(' ').next().unwrap();
            assert_eq!(found, [("day", measure)], "{table} {bucket}: {fault}");
            superuser.batch_execute("ROLLBACK").unwrap();
        }
    }
    // A row too few or too many is a difference in each of its measures.
    superuser.batch_execute("BEGIN; DELETE FROM tally.usage_day_base WHERE bucket = '2024-01-01Z' AND tenant_id = 't0'; SELECT tally.enter_global()").unwrap();
    assert!(
        superuser
            .query("SELECT FROM tally.verify_rollup('usage') WHERE stored IS NULL AND grain = 'day'", &[])
            .unwrap()
            .len()
            > 5
    );
    superuser.batch_execute("ROLLBACK").unwrap();

    // Frozen months alone: no scan of a partition that is still there.
    let mut transaction = admin.transaction().unwrap();
    transaction.execute("SELECT tally.enter_global()", &[]).unwrap();
    let scans = "SELECT coalesce(sum(pg_stat_get_xact_numscans(t.id)), 0)::int8
                   FROM (SELECT i.inhrelid AS id FROM pg_inherits AS i WHERE i.inhparent = 'tally.events'::regclass
                         UNION SELECT x.indexrelid FROM pg_inherits AS i JOIN pg_index AS x ON x.indrelid = i.inhrelid
                                WHERE i.inhparent = 'tally.events'::regclass) AS t";
    let counts =
        |transaction: &mut postgres::Transaction| transaction.query_one(scans, &[]).unwrap().get::<_, i64>(0);
    let before = counts(&mut transaction);
    let found = transaction
        .query("SELECT * FROM tally.verify_rollup('usage', '2024-01-01', '2025-02-01')", &[])
        .unwrap();
    assert!(found.is_empty());
    assert_eq!(counts(&mut transaction), before, "no event is read");
    transaction.query("SELECT * FROM tally.verify_rollup('usage', '2025-08-01', '2025-12-01')", &[]).unwrap();
    assert!(counts(&mut transaction) > before, "the counter counts");
}

/// A digest that reads well and says something else: each bit of a digest flipped and sealed anew.
#[test]
fn verify_finds_digests_of_other_values() {
    let Bench { database: _database, mut admin, mut superuser } = bench("forged");
    ["usage", "user_activity", "session"].iter().for_each(|rollup| fold_all(&mut admin, rollup));
    // The form without a checksum is taken, and renewed.
    superuser
        .batch_execute(
            "CREATE FUNCTION raw.sealed(state bytea) RETURNS tally.tdigest LANGUAGE plpgsql AS $$
             BEGIN RETURN set_byte(substr(state, 1, length(state) - 4), 0, 209)::tally.tdigest;
             EXCEPTION WHEN OTHERS THEN RETURN NULL; END $$;
             CREATE TABLE raw.forged AS
               SELECT row_number() OVER () AS number, key, place, forged FROM (
                 SELECT b.ctid AS key, place, raw.sealed(raw.flip(raw.bytes(b.value), place)) AS forged
                   FROM (SELECT ctid, value FROM tally.usage_day_base WHERE tally.num_vals(value) BETWEEN 2 AND 6 ORDER BY ctid LIMIT 2) AS b,
                        -- All but the header, whose flips are other formats, and the last digits of the sum.
                        generate_series(80, 8 * length(raw.bytes(b.value)) - 33) AS place) AS f
                WHERE forged IS NOT NULL AND raw.bytes(forged) IS DISTINCT FROM (SELECT raw.bytes(b.value) FROM tally.usage_day_base AS b WHERE b.ctid = f.key);",
        )
        .unwrap();
    let forged = number(&mut superuser, "SELECT count(*) FROM raw.forged");
    assert!(forged > 60, "{forged} flipped digests read well");
    let mut missed = Vec::new();
    for place in 1..=forged {
        superuser.batch_execute("BEGIN; SELECT tally.enter_global()").unwrap();
        let changed = superuser
            .execute("UPDATE tally.usage_day_base AS b SET value = f.forged FROM raw.forged AS f WHERE f.number = $1 AND b.ctid = f.key", &[&place])
            .unwrap();
        assert_eq!(changed, 1);
        let found = superuser
            .query("SELECT FROM tally.verify_rollup('usage') WHERE grain = 'day' AND measure = 'value'", &[])
            .unwrap();
        if found.len() != 1 {
            missed.push(place);
        }
        superuser.batch_execute("ROLLBACK").unwrap();
    }
    assert!(missed.is_empty(), "{} of {forged} missed", missed.len());
}

/// What version 0.1.0 stored has no checksum: it is read, compared, and written anew by the next fold.
#[test]
fn states_without_a_checksum_are_read_and_renewed() {
    let Bench { database: _database, mut admin, mut superuser } = bench("old");
    for (table, column, old) in [
        ("usage_day_base", "users", "177"),
        ("usage_hour_base", "users", "177"),
        ("usage_day_base", "value", "209"),
        ("user_activity_year_base", "days", "get_byte(raw.bytes(days), 0) - 6"),
        ("session_month_base", "windows", "32"),
    ] {
        let changed = superuser
            .execute(
                &format!(
                    "UPDATE tally.{table} SET {column} = raw.put(set_byte(substr(raw.bytes({column}), 1, length(raw.bytes({column})) - 4), 0, {old}), {column})
                      WHERE {column} IS NOT NULL"
                ),
                &[],
            )
            .unwrap();
        assert!(changed > 10, "{table}");
    }
    let rollups = ["usage", "user_activity", "session"];
    rollups.iter().for_each(|rollup| assert_right(&mut admin, rollup));
    let old = "SELECT count(*) FROM tally.usage_day_base WHERE get_byte(raw.bytes(users), 0) = 177";
    let before = number(&mut superuser, old);
    rollups.iter().for_each(|rollup| fold_all(&mut admin, rollup));
    assert!(number(&mut superuser, old) < before);
    rollups.iter().for_each(|rollup| assert_right(&mut admin, rollup));
    admin.execute("SELECT tally.rebuild_rollup('usage')", &[]).unwrap();
    fold_all(&mut admin, "usage");
    assert_eq!(number(&mut superuser, old), 0);
    // What is cast or restored from a dump is written in the newest form.
    for (kind, old) in [("hll", 177), ("tdigest", 209)] {
        let renewed = format!(
            "SELECT get_byte(raw.bytes(old::tally.{kind}), 0), get_byte(raw.bytes(old::text::tally.{kind}), 0)
               FROM (SELECT set_byte(substr(b, 1, length(b) - 4), 0, {old}) AS old
                       FROM (SELECT raw.bytes(tally.{kind}(g)) AS b FROM generate_series(1, 9) AS g) AS s) AS o"
        );
        let row = superuser.query_one(&renewed, &[]).unwrap();
        assert_eq!((row.get::<_, i32>(0), row.get::<_, i32>(1)), (old + 1, old + 1));
    }
}

/// A late event of a frozen bucket whose sketch is damaged: the fold says so and changes nothing, until the sketch is given up.
#[test]
fn a_damaged_state_is_never_merged_into() {
    let mut bench = bench("merged");
    let (admin, superuser) = (&mut bench.admin, &mut bench.superuser);
    ["usage", "user_activity", "session", "payment"].iter().for_each(|rollup| fold_all(admin, rollup));
    admin.execute("SELECT tally.drop_raw('2025-05-01')", &[]).unwrap();
    let late = r#"{"tenant_id":"t0","account_id":"a0","name":"n0","user_id":"late","event_id":"10000000-0000-4000-8000-000000000000","occurred_at":"2024-01-01T00:30:00Z"}"#;
    assert_eq!(ingest(superuser, late).unwrap().accepted, 1);
    let tables = ["usage_hour_base", "usage_day_base"];
    for table in tables {
        flip_all(superuser, table, "users", 40);
    }
    let refused = admin.query("SELECT tally.fold('usage')", &[]).unwrap_err();
    assert_eq!(refused.code().map(|code| code.code()), Some("XX001"), "{refused}");
    assert!(unreadable(admin, "usage").len() > 10);
    for table in tables {
        let given_up =
            format!("UPDATE tally.{table} SET users = NULL WHERE tally.damage(users, NULL) IS NOT NULL");
        assert!(superuser.execute(&given_up, &[]).unwrap() > 10);
    }
    fold_all(admin, "usage");
    let found = verify(admin, "usage");
    assert!(found.iter().all(|row| row.get::<_, &str>(5) == "users"), "nothing else differs");
    let counted = "SELECT tally.distinct_count(users) FROM tally.usage_day_base WHERE tenant_id = 't0' AND account_id = 'a0' AND name = 'n0' AND bucket = '2024-01-01Z'";
    assert_eq!(number(superuser, counted), 1, "what came later");
}

/// States without a checksum, each with a flipped bit: whatever that makes of them, a sketch of another size, key, compression
/// or none at all, verify goes on to the end. Only the last digits of a digest's sum can hide.
#[test]
fn damaged_states_without_a_checksum_do_not_end_the_search() {
    let mut bench = bench("bare");
    let (admin, superuser) = (&mut bench.admin, &mut bench.superuser);
    for (table, column, old) in [
        ("usage_day_base", "users", "177"),
        ("usage_pending", "users", "177"),
        ("usage_day_base", "value", "209"),
        ("user_activity_year_base", "days", "get_byte(raw.bytes(days), 0) - 6"),
        ("session_month_base", "windows", "32"),
    ] {
        let rollup =
            ["usage", "user_activity", "session"].iter().rev().find(|rollup| table.starts_with(**rollup));
        let bare = format!(
            "UPDATE tally.{table} SET {column} = raw.put(set_byte(substr(raw.bytes({column}), 1, length(raw.bytes({column})) - 4), 0, {old}), {column})
              WHERE {column} IS NOT NULL"
        );
        superuser.batch_execute(&bare).unwrap();
        assert_right(admin, rollup.unwrap());
        for bit in (0..24).chain((24..140).step_by(7)) {
            assert!(flip_all(superuser, table, column, bit) > 10);
            let found = verify(admin, rollup.unwrap());
            let may_hide = column == "value" && (32..72).contains(&bit);
            assert!(may_hide || !found.is_empty(), "{table}.{column}, bit {bit}");
            flip_all(superuser, table, column, bit);
        }
    }
}
