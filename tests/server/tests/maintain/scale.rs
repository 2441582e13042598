//! Many tenants, accounts, rollups and months at once: every number right, and what a unit of each costs. Small unless told
//! otherwise: TALLY_TENANTS (40) × TALLY_ACCOUNTS (10), TALLY_ROLLUPS (4) besides the built-in ones, TALLY_MONTHS (24).
//! The figures are for docs/SCALING.md: run with --nocapture.

use postgres::Client;
use std::time::Instant;
use tally_server_tests::{Database, ingest, json_array};

fn size(name: &str, usual: usize) -> usize {
    std::env::var(name).map_or(usual, |text| text.parse().expect("a whole number"))
}

/// Events numbered `from` on: one for each account, tenant by tenant, spread over the months before 2026.
fn batch(numbers: std::ops::Range<usize>, accounts: usize, months: usize) -> String {
    let events: Vec<String> = numbers
        .map(|n| {
            let month = n * 7919 % months;
            let (year, month) = (2025 - month / 12, 12 - month % 12);
            format!(
                r#"{{"tenant_id":"t{:04}","account_id":"a{:03}","name":"n{}","user_id":"u{}","event_id":"00000000-0000-4000-8000-{n:012}","occurred_at":"{year}-{month:02}-10T00:00:00Z","properties":{{"value":{}}}}}"#,
                n / accounts, n % accounts, n % 5, n % 97, n % 1000
            )
        })
        .collect();
    json_array(events.iter().map(String::as_str))
}

fn timed<T>(what: &str, units: usize, unit: &str, work: impl FnOnce() -> T) -> T {
    let began = Instant::now();
    let result = work();
    let took = began.elapsed().as_secs_f64();
    println!("{what}: {:.3} s, {:.1} µs a {unit}", took, took * 1e6 / units.max(1) as f64);
    result
}

fn count(client: &mut Client, query: &str) -> i64 {
    client.query_one(query, &[]).unwrap().get(0)
}

#[test]
fn many_of_everything_stay_right() {
    let (tenants, accounts) = (size("TALLY_TENANTS", 40), size("TALLY_ACCOUNTS", 10));
    let (rollups, months) = (size("TALLY_ROLLUPS", 4), size("TALLY_MONTHS", 24));
    let mut database = Database::new("scale");
    let admin = database.role("admin", &["tally_admin"]);
    let loader = database.role("loader", &["tally_writer"]);
    let reader = database.role("reader", &["tally_reader"]);
    let mut superuser = database.superuser();
    superuser.execute("SELECT tally.trust_role($1::text::regrole)", &[&loader]).unwrap();
    superuser.execute("SELECT tally.bind_role($1::text::regrole, 't0000')", &[&reader]).unwrap();
    let mut admin = database.connect(&admin);
    let mut loader = database.connect(&loader);
    let events = tenants * accounts;

    let text = batch(0..events.min(10_000), accounts, months);
    let first =
        timed("first batch, with every partition", months, "month", || ingest(&mut loader, &text).unwrap());
    assert_eq!(first.accepted as usize, events.min(10_000));
    for number in 0..rollups {
        admin
            .batch_execute(&format!(
                "SELECT tally.create_rollup('scale_{number}', '{{day}}', dimensions => '{{name}}',
                   measures => ARRAY['count(*) AS n', 'distinct(user_id) AS users', $$percentiles(tally.property_float(properties, 'value')) AS value$$])"
            ))
            .unwrap();
    }
    timed("ingest", events.saturating_sub(10_000), "event", || {
        for from in (10_000..events).step_by(10_000) {
            let text = batch(from..(from + 10_000).min(events), accounts, months);
            assert_eq!(ingest(&mut loader, &text).unwrap().rejected, 0);
        }
    });
    timed("the same again, all duplicates", events, "event", || {
        for from in (0..events).step_by(10_000) {
            let upto = (from + 10_000).min(events);
            assert_eq!(
                ingest(&mut loader, &batch(from..upto, accounts, months)).unwrap().duplicates as usize,
                upto - from
            );
        }
    });
    timed("CALL tally.maintain()", events * (rollups + 1), "event and rollup", || {
        admin.batch_execute("CALL tally.maintain()").unwrap();
    });
    timed("CALL tally.maintain() with nothing to do", rollups + 1, "rollup", || {
        admin.batch_execute("CALL tally.maintain()").unwrap();
    });
    let mut transaction = admin.transaction().unwrap();
    transaction.execute("SELECT tally.enter_global()", &[]).unwrap();
    timed("health", rollups + 1, "rollup", || {
        transaction.query("SELECT * FROM tally.health()", &[]).unwrap()
    });
    let shown: i64 =
        transaction.query_one("SELECT sum(events)::int8 FROM tally.usage_day", &[]).unwrap().get(0);
    assert_eq!(shown as usize, events);
    for number in 0..rollups {
        let query = format!("SELECT sum(n)::int8 FROM tally.scale_{number}_day");
        assert_eq!(transaction.query_one(&query, &[]).unwrap().get::<_, i64>(0) as usize, events);
    }
    let wrong = timed("verify_rollup('usage')", events, "event", || {
        transaction
            .query_one("SELECT count(*) FROM tally.verify_rollup('usage')", &[])
            .unwrap()
            .get::<_, i64>(0)
    });
    assert_eq!(wrong, 0);
    transaction.commit().unwrap();

    let mut reader = database.connect(&reader);
    reader.query("SELECT * FROM tally.usage_day LIMIT 1", &[]).unwrap();
    timed("a tenant's dashboard", 1, "query", || {
        let query = "SELECT account_id, bucket, sum(events)::int8 FROM tally.usage_day GROUP BY 1, 2";
        assert!(!reader.query(query, &[]).unwrap().is_empty());
    });
    timed("a month of a tenant's raw events", months, "month that there is", || {
        let query = "SELECT count(*) FROM tally.events WHERE occurred_at >= '2025-12-01' AND occurred_at < '2026-01-01'";
        count(&mut reader, query)
    });
    timed("all of a tenant's raw events", months, "month", || {
        assert_eq!(count(&mut reader, "SELECT count(*) FROM tally.events") as usize, accounts);
    });
    admin.batch_execute("SELECT tally.set_retention(NULL, '1 day')").unwrap();
    timed("retention of everything", events, "event", || {
        admin.batch_execute("CALL tally.maintain()").unwrap()
    });
    assert_eq!(count(&mut superuser, "SELECT count(*) FROM tally.events"), 0);
    assert_eq!(count(&mut superuser, "SELECT count(*) FROM tally.event_key"), 0);
    let size: i64 = count(
        &mut superuser,
        "SELECT sum(pg_total_relation_size(oid))::int8 FROM pg_class WHERE relname LIKE 'scale_0%base'",
    );
    println!("a rollup's base rows: {} bytes an event", size / events as i64);
    println!(
        "{tenants} tenants × {accounts} accounts, {rollups} rollups and the built-in ones, {months} months"
    );
}
