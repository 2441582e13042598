//! The real input, sent by four connections at once, twice over, then again in another order: the database must
//! agree with a plain recomputation, for the operator and for each tenant's own login.

use postgres::Client;
use postgres::error::SqlState;
use std::collections::BTreeMap;
use std::thread;
use tally_server_tests::{
    Database, GitEvent, Group, Summary, fold_all, git_events, groups, ingest, json_array, number, rank_error,
    seeded, wait_for,
};
use tally_workload::Random;

const CONNECTIONS: usize = 4;
type Day = (String, String, String, String);

#[test]
fn real_input_counts_once_and_reads_right_in_every_scope() {
    let Some(events) = git_events() else { return };
    let mut random = seeded();
    let mut database = Database::new("real");
    let loader = database.role("loader", &["tally_writer"]);
    let operator = database.role("operator", &["tally_analyst"]);
    let mut admin = database.superuser();
    admin.execute("SELECT tally.trust_role($1::text::regrole)", &[&loader]).unwrap();
    // Declared before the first event: its rows come from ingest, not from filling an existing table.
    admin
        .batch_execute(
            "SELECT tally.create_rollup('commits', grains => '{day}', dimensions => '{name}', measures => ARRAY[
               'count(*) AS events', 'distinct(user_id) AS users',
               $$percentiles(tally.property_float(properties, 'insertions')) AS insertions$$])",
        )
        .unwrap();

    // Every event is on its way twice at once: pairs of connections carry the same events in unlike batches.
    let halves: Vec<&[GitEvent]> = events.chunks(events.len().div_ceil(CONNECTIONS / 2)).collect();
    let shares = (0..CONNECTIONS).map(|connection| shuffled(halves[connection / 2], &mut random)).collect();
    let first = send(&database, &loader, shares, &mut random);
    assert_eq!(totals(&first), (82_030, 82_030, 0, 0));

    let shares = shuffled(&events, &mut random);
    let shares = shares.chunks(events.len().div_ceil(CONNECTIONS)).map(<[_]>::to_vec).collect();
    let second = send(&database, &loader, shares, &mut random);
    assert_eq!(totals(&second), (0, 82_030, 0, 0));

    let by_day = groups(&events, day_of);
    let mut reader = database.connect(&operator);
    compare_days(&days(&mut reader, "SELECT tally.enter_global()"), &by_day);
    compare_accounts(&mut reader, &events);

    // Folding moves rows from pending to base and must change no answer.
    let before = fingerprint(&mut reader);
    fold_to_the_end(&mut admin, "usage");
    fold_to_the_end(&mut admin, "commits");
    assert_eq!(fingerprint(&mut reader), before, "folding changed what a reader sees");
    compare_accounts(&mut reader, &events);

    for tenant in ["theory", "supabase"] {
        let login = database.role(tenant, &["tally_reader"]);
        admin.execute("SELECT tally.bind_role($1::text::regrole, $2)", &[&login, &tenant]).unwrap();
        let own: BTreeMap<&Day, &Group> = by_day.iter().filter(|(day, _)| day.0 == tenant).collect();
        let mut client = database.connect(&login);
        let seen = days(&mut client, "SELECT");
        assert!(seen.keys().eq(own.keys().copied()), "{tenant} sees other days than its own");
        let raw = client.query("SELECT tenant_id, count(*) FROM tally.events GROUP BY 1", &[]).unwrap();
        let total: i64 = own.values().map(|group| group.events).sum();
        assert_eq!(raw.len(), 1);
        assert_eq!((raw[0].get::<_, &str>(0), raw[0].get::<_, i64>(1)), (tenant, total));
    }

    let mut nobody = database.connect(&operator);
    for table in ["tally.events", "tally.usage_day", "tally.commits_day"] {
        let refused = nobody.query(&format!("SELECT count(*) FROM {table}"), &[]).unwrap_err();
        assert_eq!(refused.code(), Some(&SqlState::INSUFFICIENT_PRIVILEGE), "{table}: {refused}");
    }
}

fn shuffled(events: &[GitEvent], random: &mut Random) -> Vec<GitEvent> {
    let mut events = events.to_vec();
    random.shuffle(&mut events);
    events
}

/// Sends each share over a connection of its own, all at once, in batches of 1 to 2,000 events.
fn send(database: &Database, role: &str, shares: Vec<Vec<GitEvent>>, random: &mut Random) -> Vec<Summary> {
    assert_eq!(shares.len(), CONNECTIONS);
    thread::scope(|scope| {
        let threads: Vec<_> = shares
            .into_iter()
            .map(|share| {
                let (mut client, mut random) = (database.connect(role), Random::new(random.bits()));
                scope.spawn(move || {
                    let (mut rest, mut summaries) = (share.as_slice(), Vec::new());
                    while !rest.is_empty() {
                        let (batch, later) = rest.split_at((random.below(2_000) + 1).min(rest.len()));
                        rest = later;
                        let text = json_array(batch.iter().map(|event| event.line.as_str()));
                        let summary = ingest(&mut client, &text).expect("ingest");
                        assert_eq!(summary.sent(), batch.len() as i64, "{summary:?}");
                        summaries.push(summary);
                    }
                    summaries
                })
            })
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("a sender")).collect()
    })
}

fn totals(summaries: &[Summary]) -> (i64, i64, i64, i64) {
    summaries.iter().fold((0, 0, 0, 0), |sum, one| {
        (sum.0 + one.accepted, sum.1 + one.duplicates, sum.2 + one.conflicts, sum.3 + one.rejected)
    })
}

fn day_of(event: &GitEvent) -> Day {
    (
        event.tenant_id.clone(),
        event.account_id.clone(),
        event.name.clone(),
        event.occurred_at[..10].to_owned(),
    )
}

struct SeenDay {
    events: i64,
    users: i64,
    users_stderr: f64,
    first_at: String,
    last_at: String,
    percentiles: [Option<f64>; 3],
}

/// Reads both rollups by day, after `enter`, which must agree with each other.
fn days(client: &mut Client, enter: &str) -> BTreeMap<Day, SeenDay> {
    let mut transaction = client.transaction().unwrap();
    transaction.batch_execute(enter).unwrap();
    let time = r#"'YYYY-MM-DD"T"HH24:MI:SS"Z"'"#;
    let rows = transaction
        .query(
            &format!(
                "SELECT tenant_id, account_id, name, (bucket AT TIME ZONE 'UTC')::date::text,
                        u.events, u.users, u.users_stderr, to_char(u.first_at AT TIME ZONE 'UTC', {time}),
                        to_char(u.last_at AT TIME ZONE 'UTC', {time}),
                        c.insertions_p50, c.insertions_p95, c.insertions_p99, c.events = u.events
                   FROM tally.usage_day AS u FULL JOIN tally.commits_day AS c
                     USING (tenant_id, account_id, bucket, name)"
            ),
            &[],
        )
        .unwrap();
    transaction.commit().unwrap();
    rows.iter()
        .map(|row| {
            let day = (row.get(0), row.get(1), row.get(2), row.get(3));
            assert_eq!(row.get::<_, Option<bool>>(12), Some(true), "the two rollups differ on {day:?}");
            let seen = SeenDay {
                events: row.get(4),
                users: row.get(5),
                users_stderr: row.get(6),
                first_at: row.get(7),
                last_at: row.get(8),
                percentiles: [row.get(9), row.get(10), row.get(11)],
            };
            (day, seen)
        })
        .collect()
}

fn compare_days(seen: &BTreeMap<Day, SeenDay>, expected: &BTreeMap<Day, Group>) {
    assert!(seen.keys().eq(expected.keys()), "{} days seen, {} expected", seen.len(), expected.len());
    for (day, group) in expected {
        let seen = &seen[day];
        assert_eq!(seen.events, group.events, "{day:?}");
        assert_eq!((&seen.first_at, &seen.last_at), (&group.first_at, &group.last_at), "{day:?}");
        compare_users(day, seen.users, seen.users_stderr, group, 3.0);
        compare_percentiles(day, &seen.percentiles, group);
    }
}

/// Rolls the days' sketches up to whole accounts.
fn compare_accounts(client: &mut Client, events: &[GitEvent]) {
    let expected = groups(events, |event| (event.tenant_id.clone(), event.account_id.clone()));
    let mut transaction = client.transaction().unwrap();
    transaction.batch_execute("SELECT tally.enter_global()").unwrap();
    let rows = transaction
        .query(
            "SELECT tenant_id, account_id, sum(events)::int8, tally.distinct_count(tally.rollup(users)),
                    tally.distinct_count(tally.rollup(users)) * tally.stderror(tally.rollup(users)),
                    tally.approx_percentile(0.5, tally.rollup(insertions)),
                    tally.approx_percentile(0.95, tally.rollup(insertions)),
                    tally.approx_percentile(0.99, tally.rollup(insertions))
               FROM tally.commits_day_state GROUP BY tenant_id, account_id",
            &[],
        )
        .unwrap();
    transaction.commit().unwrap();
    assert_eq!(rows.len(), expected.len());
    for row in rows {
        let account: (String, String) = (row.get(0), row.get(1));
        let group = &expected[&account];
        assert_eq!(row.get::<_, i64>(2), group.events, "{account:?}");
        // The tenants' keys are random, so the errors are drawn anew in each run. Of 22 accounts one is beyond 3
        // standard errors in 1 run of 17, beyond 4 in 1 of 700.
        compare_users(&account, row.get(3), row.get(4), group, 4.0);
        compare_percentiles(&account, &[row.get(5), row.get(6), row.get(7)], group);
    }
}

fn compare_users(of: &impl std::fmt::Debug, users: i64, stderr: f64, group: &Group, deviations: f64) {
    let exact = group.users.len() as f64;
    // Half a user for rounding. A sketch of three values has next to no error, and must not claim a large one.
    assert!(
        (users as f64 - exact).abs() <= deviations * stderr + 0.5,
        "{of:?}: {users} ± {stderr} users, not {exact}"
    );
    assert!(stderr <= 0.03 * exact, "{of:?}: a standard error of {stderr} for {exact} users");
}

fn compare_percentiles(of: &impl std::fmt::Debug, percentiles: &[Option<f64>; 3], group: &Group) {
    for (fraction, value) in [0.5, 0.95, 0.99].into_iter().zip(percentiles) {
        let Some(value) = value else {
            assert!(
                group.insertions.is_empty(),
                "{of:?}: no percentile of {} values",
                group.insertions.len()
            );
            continue;
        };
        // With fewer than 100 values one rank is more than 1 %: an answer between two neighbours is right.
        let allowed = (1.0 / group.insertions.len() as f64).max(0.01);
        let error = rank_error(&group.insertions, fraction, *value);
        assert!(
            error <= allowed,
            "{of:?}: {value} at {fraction} is off by {error} of {} ranks",
            group.insertions.len()
        );
    }
}

/// Folds until nothing is pending. Where a process is folding at the same time, a call has nothing to fold while rows are left.
fn fold_to_the_end(client: &mut Client, rollup: &str) {
    wait_for(&format!("folds of {rollup}"), || {
        fold_all(client, rollup);
        (number(client, &format!("SELECT count(*) FROM tally.{rollup}_pending")) == 0).then_some(())
    });
}

/// Hashes every number of the rollups that does not depend on the order of merging: counts, times and HLL estimates.
fn fingerprint(client: &mut Client) -> String {
    let mut transaction = client.transaction().unwrap();
    transaction.batch_execute("SELECT tally.enter_global()").unwrap();
    let query = "SELECT md5(string_agg(row(tenant_id, account_id, bucket, name, events, users, first_at, last_at)::text,
                            ',' ORDER BY tenant_id, account_id, bucket, name)) FROM tally.usage_hour";
    transaction.query_one(query, &[]).unwrap().get(0)
}
