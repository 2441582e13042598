//! Views show base rows that nothing is pending of as they are, and group the others with what is: the same as grouping all of them.

use postgres::Client;
use serde_json::json;
use tally_server_tests::{Database, ingest, number};
use tally_workload::Random;

const GRAINS: [&str; 5] = ["hour", "day", "week", "month", "quarter"];

/// Every kind of measure, and types of which `min` gives another one. One column is named as something that the views' queries name.
const ROLLUP: &str = "SELECT tally.create_rollup('every', '{hour,day,week,month,quarter}', dimensions => ARRAY['name',
    '(properties ->> ''plan'') AS waiting', '(properties ->> ''seat'')::int AS keys'], measures => ARRAY[
    'count(*) AS times', 'count(user_id) AS acted', 'sum(tally.property_number(properties, ''value'')) AS total',
    'min(occurred_at) AS least', 'max(tally.property_number(properties, ''value'')) AS most', 'distinct(user_id) AS order',
    'percentiles(tally.property_float(properties, ''value'')) AS took', 'first(session_id) AS opened', 'last(session_id) AS closed',
    'days(occurred_at) AS present', 'session_windows(occurred_at) AS visits', 'min(name::varchar) AS short', 'max(user_id::name) AS login',
    'min(user_id::char(3)) AS fixed', 'max(NULLIF(length(user_id), 2)::int2) AS few', 'last(name::varchar) AS lately'])";

/// The query of a state view that groups all rows.
fn grouped(grain: &str) -> String {
    let columns = "name, waiting, keys, times, acted, total, least, most, \"order\", took, opened, opened_at, closed, closed_at, present, visits, short, login, fixed, few, lately, lately_at";
    format!(
        "SELECT tenant_id, account_id, bucket, name, waiting, keys, sum(times)::int8 AS times, sum(acted)::int8 AS acted, sum(total) AS total,
                min(least) AS least, max(most) AS most, tally.rollup(\"order\") AS \"order\", tally.rollup(took) AS took,
                (array_agg(opened ORDER BY opened_at, opened) FILTER (WHERE opened IS NOT NULL))[1] AS opened, min(opened_at) AS opened_at,
                (array_agg(closed ORDER BY closed_at DESC, closed DESC) FILTER (WHERE closed IS NOT NULL))[1] AS closed, max(closed_at) AS closed_at,
                tally.union_days(present) AS present, tally.union_session_windows(visits) AS visits, min(short) AS short, max(login) AS login,
                min(fixed) AS fixed, max(few) AS few,
                (array_agg(lately ORDER BY lately_at DESC, lately DESC) FILTER (WHERE lately IS NOT NULL))[1] AS lately, max(lately_at) AS lately_at
           FROM (SELECT tenant_id, account_id, bucket, {columns} FROM tally.every_{grain}_base UNION ALL
                 SELECT tenant_id, account_id, date_trunc('{grain}', bucket, 'UTC'), {columns} FROM tally.every_pending) AS rows
          GROUP BY 1, 2, 3, 4, 5, 6"
    )
}

/// Events of half a year, most of the last days.
fn batch(random: &mut Random, sent: &mut usize) -> String {
    let count = 1 + random.below(120);
    let is_late = random.below(3) == 0;
    let events: Vec<_> = (0..count)
        .map(|_| {
            *sent += 1;
            let day = if is_late || random.below(40) == 0 { random.below(180) } else { 175 + random.below(5) };
            let user = random.below(9);
            let value = (random.below(4) > 0).then(|| random.below(1000) as f64 / 8.0);
            json!({"tenant_id": format!("t{}", random.below(3)), "account_id": format!("a{}", random.below(4)),
                   "user_id": (user > 0).then(|| format!("u{:0user$}", user)), "name": (["ran", "opened"][random.below(2)]),
                   "session_id": (random.below(3) > 0).then(|| format!("s{}", random.below(50))),
                   "event_id": format!("00000000-0000-4000-8000-{:012}", *sent),
                   "occurred_at": format!("2026-{:02}-{:02}T{:02}:{:02}:00Z", 1 + day / 30, 1 + day % 30 % 28, random.below(24), random.below(60)),
                   "properties": {"value": value, "plan": (["free", "team"].get(random.below(3))), "seat": (random.below(2))}})
        })
        .collect();
    json!(events).to_string()
}

/// Numbers of a row: the bytes of sketches are shown to those alone whom row security doesn't hold.
const NUMBERS: &str = "ROW(tenant_id, account_id, bucket, name, waiting, keys, times, acted, total, least, most,
    tally.distinct_count(\"order\"), tally.approx_percentile(0.3, took), tally.approx_percentile(0.9, took), opened, opened_at, closed,
    closed_at, present, visits, short, login, fixed, few, lately, lately_at)::text";

fn assert_alike(client: &mut Client, scope: &str, shown: &str, condition: &str, round: usize) {
    let mut transaction = client.transaction().unwrap();
    transaction.batch_execute(scope).unwrap();
    for grain in GRAINS {
        let view = format!("SELECT {shown} FROM tally.every_{grain}_state AS v WHERE {condition}");
        let all = format!("SELECT {shown} FROM ({}) AS v WHERE {condition}", grouped(grain));
        let query = format!(
            "SELECT 'view' AS has, * FROM ({view} EXCEPT ALL {all}) AS v UNION ALL SELECT 'grouped', * FROM ({all} EXCEPT ALL {view}) AS g"
        );
        let rows = transaction.query(&query, &[]).unwrap();
        let unlike: Vec<(String, String)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
        assert!(unlike.is_empty(), "round {round}, {scope}, {grain}: {unlike:#?}");
    }
}

/// `TALLY_STATE_ROUNDS` says how many times events come in, are folded in part and are compared (12).
#[test]
fn rows_that_are_not_grouped_are_as_if_they_were() {
    let mut database = Database::new("states");
    database.set("tally.pending_limit = '1GB'");
    let admin = database.role("admin", &["tally_admin"]);
    let loader = database.role("loader", &["tally_writer"]);
    let reader = database.role("reader", &["tally_reader"]);
    let analyst = database.role("analyst", &["tally_reader", "tally_analyst"]);
    let mut superuser = database.superuser();
    superuser
        .batch_execute(&format!(
            "SELECT tally.trust_role('{loader}'), tally.trust_role('{reader}'); {ROLLUP}"
        ))
        .unwrap();
    // Views have the types that grouping has.
    for grain in GRAINS {
        superuser.batch_execute(&format!("CREATE TEMP VIEW grouped_{grain} AS {}", grouped(grain))).unwrap();
        let mut columns = |relation: &str| -> String {
            let query = "SELECT string_agg(format('%s %s %s %s', attname, format_type(atttypid, atttypmod), attcollation::regcollation, attnum), E'\\n' ORDER BY attnum)
                           FROM pg_attribute WHERE attrelid = $1::text::regclass AND attnum > 0";
            superuser.query_one(query, &[&relation]).unwrap().get(0)
        };
        assert_eq!(columns(&format!("tally.every_{grain}_state")), columns(&format!("grouped_{grain}")));
    }
    let [mut admin, mut loader, mut reader, mut analyst] =
        [admin, loader, reader, analyst].map(|role| database.connect(&role));
    let rounds = std::env::var("TALLY_STATE_ROUNDS").map_or(12, |text| text.parse().expect("a whole number"));
    let seed = std::env::var("TALLY_SEED").map_or(20, |text| text.parse().expect("a seed"));
    println!("TALLY_SEED={seed}");
    let mut random = Random::new(seed);
    let mut sent = 0;
    let (mut folded, mut waited) = (0, 0);
    for round in 0..rounds {
        for _ in 0..1 + random.below(3) {
            let events = batch(&mut random, &mut sent);
            ingest(&mut loader, &events).unwrap();
        }
        let rows = [0, 10, 100, 100_000][random.below(4)];
        if rows > 0 {
            folded += number(&mut admin, &format!("SELECT tally.fold('every', {rows})"));
        }
        waited += number(&mut superuser, "SELECT count(*) FROM tally.every_pending");
        assert_alike(&mut superuser, "", "v::text", "true", round);
        let everything = "SELECT tally.enter_global()";
        for condition in ["true", "tenant_id = 't1' AND account_id = 'a2'"] {
            assert_alike(&mut analyst, everything, NUMBERS, condition, round);
        }
        for (scope, condition) in [
            ("SELECT tally.enter('t2')", "bucket >= '2026-03-01Z'"),
            ("SELECT tally.enter('t0', 'a1')", "name = 'ran' AND waiting IS NULL"),
        ] {
            assert_alike(&mut reader, scope, NUMBERS, condition, round);
        }
    }
    assert!(folded > 0 && waited > 0, "{folded} rows were folded, {waited} waited");
}
