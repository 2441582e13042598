//! Events without a user go with the persons of their session, wherever raw events lie: in months that are attached, that were detached and
//! across the bounds of those. Which, an oracle says; the report names the same ones that an erasure takes.

use crate::erasure::Bench;
use postgres::Row;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use tally_server_tests::{assert_same, number, verify};

const HOUR: i64 = 3600;
const DAY: i64 = 24 * HOUR;
/// The bounds of months near which the events lie, in seconds since 1970: Februaries, Marches and Aprils first of 2026.
const FEBRUARY: i64 = 1_769_904_000;
const MARCH: i64 = FEBRUARY + 28 * DAY;
const APRIL: i64 = MARCH + 31 * DAY;

#[derive(Clone)]
struct Sent {
    n: usize,
    account: usize,
    at: i64,
    user: Option<&'static str>,
    session: Option<String>,
}

impl Sent {
    fn is_detached(&self) -> bool {
        self.at < FEBRUARY || (MARCH..APRIL).contains(&self.at)
    }

    fn json(&self) -> Value {
        json!({"tenant_id": "t", "account_id": format!("a{}", self.account), "name": "n", "event_id": id(self.n),
               "occurred_at": format_time(self.at), "user_id": self.user, "session_id": self.session, "properties": {"value": self.n}})
    }
}

fn id(n: usize) -> String {
    format!("00000000-0000-4000-8000-{n:012}")
}

fn format_time(at: i64) -> String {
    let (month, from) = match at {
        ..FEBRUARY => (1, FEBRUARY - 31 * DAY),
        FEBRUARY..MARCH => (2, FEBRUARY),
        MARCH..APRIL => (3, MARCH),
        _ => (4, APRIL),
    };
    let second = at - from;
    let (day, hour, minute) = (1 + second / DAY, second % DAY / HOUR, second % HOUR / 60);
    format!("2026-{month:02}-{day:02}T{hour:02}:{minute:02}:{:02}Z", second % 60)
}

/// What goes with the subjects, by the rule as docs/PRIVACY.md says it: their events, and those without a user that lie within a day of one
/// of theirs in the same session, but within a day of nobody else's there.
fn oracle(events: &[Sent], subjects: &[&str]) -> BTreeSet<usize> {
    let is_subject = |user: Option<&str>| user.is_some_and(|user| subjects.contains(&user));
    let goes = |event: &Sent| {
        let near: Vec<&Sent> = events
            .iter()
            .filter(|other| {
                event.session.is_some() && other.session == event.session && other.account == event.account
            })
            .filter(|other| other.user.is_some() && (other.at - event.at).abs() <= DAY)
            .collect();
        is_subject(event.user)
            || (event.user.is_none() && !near.is_empty() && near.iter().all(|other| is_subject(other.user)))
    };
    events.iter().filter(|event| goes(event)).map(|event| event.n).collect()
}

/// Those that were thought of, by the names of their sessions, and some by chance.
fn events() -> Vec<Sent> {
    let mut events = Vec::new();
    let mut add = |account: usize, session: Option<&str>, at: i64, user: Option<&'static str>| {
        events.push(Sent { n: events.len() + 1, account, at, user, session: session.map(str::to_owned) });
    };
    for bound in [FEBRUARY, MARCH, APRIL] {
        let mut session = |name: &str, parts: &[(i64, Option<&'static str>)]| {
            for (after, user) in parts {
                add(0, Some(&format!("{name}-{bound}")), bound + after, *user);
            }
        };
        session("named-after-the-bound", &[(-600, None), (300, Some("ann"))]);
        session("named-before-the-bound", &[(-600, Some("ann")), (300, None)]);
        session("within-a-month", &[(5 * DAY, Some("ann")), (5 * DAY + 60, None)]);
        session("shared-across", &[(-600, Some("ann")), (-500, None), (60, Some("bob"))]);
        session("shared-the-other-way", &[(-600, Some("bob")), (60, None), (90, Some("ann"))]);
        session("six-days-later", &[(3 * DAY, Some("ann")), (9 * DAY, None)]);
        session("a-day-exactly", &[(-HOUR, Some("ann")), (23 * HOUR, None), (23 * HOUR + 1, None)]);
        session(
            "from-one-to-the-other",
            &[(-2 * HOUR, Some("ann")), (20 * HOUR, None), (50 * HOUR, Some("bob"))],
        );
        session("of-another", &[(-600, Some("bob")), (60, None)]);
        session("of-nobody", &[(-600, None), (60, None)]);
    }
    add(0, None, FEBRUARY + HOUR, Some("ann"));
    add(0, None, FEBRUARY + HOUR, None);
    let mut random = tally_server_tests::seeded();
    for _ in 0..400 {
        let bound = [FEBRUARY, MARCH, APRIL][random.below(3)];
        let at = bound - 3 * DAY + random.below(6 * 24 * 60) as i64 * 60;
        let user = [None, None, Some("ann"), Some("bob"), Some("carl")][random.below(5) as usize];
        add(random.below(2), Some(&format!("s{}-{bound}", random.below(20))), at, user);
    }
    events
}

/// A database with the events, of which January was detached as it should be, and March by hand.
fn prepared(topic: &str, events: &[Sent]) -> Bench {
    let bench = Bench::new(topic);
    let sent: Vec<Value> = events.iter().map(Sent::json).collect();
    assert_eq!(bench.send(&sent).accepted, sent.len() as i64);
    bench.fold();
    bench.admin().batch_execute("SELECT tally.detach_raw('2026-02-01')").unwrap();
    bench
        .database
        .superuser()
        .batch_execute(
            "ALTER TABLE tally.events DETACH PARTITION tally.events_p2026_03;
             SELECT tally.set_step_up_policy('subject_report', false)",
        )
        .unwrap();
    bench
}

fn left(bench: &Bench) -> BTreeSet<usize> {
    let query = "SELECT right(event_id::text, 12)::int8 FROM (SELECT event_id FROM tally.events UNION ALL
        SELECT event_id FROM tally.detached_events_2026_01 UNION ALL SELECT event_id FROM tally.events_p2026_03) AS e";
    let rows = bench.database.superuser().query(query, &[]).unwrap();
    rows.iter().map(|row| row.get::<_, i64>(0) as usize).collect()
}

fn reported(bench: &Bench, subject: &str) -> Vec<usize> {
    let mut admin = bench.admin();
    let mut transaction = admin.transaction().unwrap();
    transaction.batch_execute("SELECT tally.enter('t')").unwrap();
    let query = "SELECT right(r -> 'row' ->> 'event_id', 12)::int8 FROM tally.subject_report('t', $1) AS r WHERE r -> 'row' ? 'event_id' ORDER BY 1";
    transaction.query(query, &[&subject]).unwrap().iter().map(|row| row.get::<_, i64>(0) as usize).collect()
}

/// What rollups of which each month's buckets are made anew for themselves have of the attached months.
fn numbers(bench: &Bench) -> Vec<String> {
    bench.fold();
    let attached = "(bucket >= '2026-02-01Z' AND bucket < '2026-03-01Z' OR bucket >= '2026-04-01Z')";
    let mut lines = Vec::new();
    for table in ["usage_day_base", "latest_hour_base", "session_month_base"] {
        let query = format!(
            "SELECT '{table} ' || (to_jsonb(t) - 'value')::text FROM tally.{table} AS t WHERE {attached} ORDER BY 1"
        );
        let rows = bench.database.superuser().query(&query, &[]).unwrap();
        assert!(!rows.is_empty(), "{table}");
        lines.extend(rows.iter().map(|row| row.get::<_, String>(0)));
    }
    lines
}

/// Where rollups differ from a recomputation, whatever the values are; but for the one by weeks, of which those stay as they are that reach
/// into a month that is gone.
fn differing(bench: &Bench) -> BTreeSet<String> {
    let of = |rollup: String| {
        let rows = verify(&mut bench.admin(), &rollup);
        let place =
            |row: &Row| (0..6).filter_map(|column| row.get::<_, Option<String>>(column)).collect::<Vec<_>>();
        rows.iter().map(|row| format!("{rollup}: {}", place(row).join(" "))).collect::<Vec<_>>()
    };
    bench.rollups().into_iter().filter(|rollup| rollup != "names").flat_map(of).collect()
}

fn erase(bench: &Bench, subjects: &[&str], in_steps: bool) -> Vec<Value> {
    if in_steps {
        let mut admin = bench.admin();
        admin.execute("SELECT tally.erase_subjects('t', $1, 'ticket')", &[&subjects]).unwrap();
        let waiting = "SELECT count(*) FROM tally.erasure WHERE finished_at IS NULL";
        let mut rounds = 0;
        while number(&mut bench.database.superuser(), waiting) > 0 {
            admin.batch_execute("CALL tally.maintain(1)").unwrap();
            rounds += 1;
            assert!(rounds < 500, "the erasures don't end");
        }
    }
    subjects.iter().map(|subject| bench.erase("t", subject)).collect()
}

#[test]
fn of_a_session_goes_what_the_report_names_and_no_more() {
    let events = events();
    for (topic, subjects) in [("session_of_one", &["ann"][..]), ("session_of_two", &["ann", "bob"][..])] {
        let goes = oracle(&events, subjects);
        assert!(goes.iter().any(|&n| events[n - 1].user.is_none() && events[n - 1].is_detached()));
        let stays: BTreeSet<usize> =
            events.iter().map(|event| event.n).filter(|n| !goes.contains(n)).collect();
        let rest: Vec<Sent> = events.iter().filter(|event| stays.contains(&event.n)).cloned().collect();
        let never = prepared(&format!("{topic}_never"), &rest);
        for in_steps in [false, true] {
            let bench = prepared(&format!("{topic}_{in_steps}"), &events);
            for subject in subjects {
                let own: Vec<usize> = oracle(&events, &[subject]).into_iter().collect();
                assert_eq!(reported(&bench, subject), own, "the report of {subject}");
            }
            let before = differing(&bench);
            let certificates = erase(&bench, subjects, in_steps);
            let left = left(&bench);
            let kept: Vec<&str> = goes.intersection(&left).map(|&n| about(&events, n)).collect();
            let lost: Vec<&str> = stays.difference(&left).map(|&n| about(&events, n)).collect();
            assert_eq!((kept, lost), (vec![], vec![]), "in sessions of these, in steps: {in_steps}");
            assert_same("numbers of attached months", &numbers(&never), &numbers(&bench));
            // Buckets of the month that was taken out by hand differed before.
            let after = differing(&bench);
            assert_eq!(
                after.difference(&before).collect::<Vec<_>>(),
                Vec::<&String>::new(),
                "in steps: {in_steps}"
            );
            // Every removed event is in the certificates, once.
            let told =
                |field: &str| certificates.iter().map(|told| told[field].as_u64().unwrap()).sum::<u64>();
            let detached =
                certificates.iter().map(|told| told["removed_elsewhere"]["detached"].as_u64().unwrap());
            let detached = if in_steps { detached.max().unwrap() } else { detached.sum() };
            let kinds = |detached: bool| {
                goes.iter().filter(|&&n| events[n - 1].is_detached() == detached).count() as u64
            };
            assert_eq!(
                told("events_removed") + told("anonymous_events_removed"),
                kinds(false),
                "{certificates:?}"
            );
            assert_eq!(detached, kinds(true), "{certificates:?}");
            for subject in subjects {
                assert_eq!(reported(&bench, subject), Vec::<usize>::new());
            }
        }
    }
}

fn about(events: &[Sent], n: usize) -> &str {
    events[n - 1].session.as_deref().unwrap_or("none")
}
