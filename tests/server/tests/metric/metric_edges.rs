//! Edges of the metrics, a case each: a tenant of its own with few events, a question, and the answer worked out by hand.

use serde_json::json;
use tally_server_tests::{Database, ingest, number};

/// Account, user, name, time; batches are ingested one after the other.
type Events = &'static [(&'static str, &'static str, &'static str, &'static str)];

struct Case {
    name: &'static str,
    /// As `tally.enter` takes it after the tenant: nothing, or an account.
    account: Option<&'static str>,
    batches: &'static [Events],
    questions: &'static [(&'static str, &'static str)],
}

const CASES: &[Case] = &[
    Case {
        name: "same_timestamp",
        account: None,
        batches: &[&[("x", "u", "b", "2024-05-01T10:00:00Z"), ("x", "u", "a", "2024-05-01T10:00:00Z")]],
        questions: &[
            (
                "SELECT step, units, median_seconds FROM tally.funnel(ARRAY['a','b'], '1 hour', '2024-05-01Z', '2024-05-02Z')",
                "1|1| 2|1|0",
            ),
            (
                "SELECT activated, median_seconds FROM tally.activation('a', 'b', '1 hour', '2024-05-01Z', '2024-05-02Z')",
                "1|0",
            ),
            ("SELECT events, ended_at - started_at FROM tally.sessions", "2|00:00:00"),
        ],
    },
    Case {
        name: "repeated_steps",
        account: None,
        batches: &[&[
            ("x", "twice", "a", "2024-05-01T10:00:00Z"),
            ("x", "twice", "a", "2024-05-01T10:10:00Z"),
            ("x", "once", "a", "2024-05-01T10:00:00Z"),
        ]],
        questions: &[
            (
                "SELECT step, units FROM tally.funnel(ARRAY['a','a'], '1 hour', '2024-05-01Z', '2024-05-02Z')",
                "1|2 2|1",
            ),
            (
                "SELECT step, units FROM tally.funnel(ARRAY['a','a'], '1 hour', '2024-05-01Z', '2024-05-02Z', any_order => true)",
                "1|2 2|1",
            ),
        ],
    },
    Case {
        name: "step_before_start",
        account: None,
        batches: &[&[
            ("x", "u", "b", "2024-05-01T09:59:59.999999Z"),
            ("x", "u", "a", "2024-05-01T10:00:00Z"),
        ]],
        questions: &[
            (
                "SELECT step, units FROM tally.funnel(ARRAY['a','b'], '1 hour', '2024-05-01Z', '2024-05-02Z')",
                "1|1 2|0",
            ),
            (
                "SELECT step, units FROM tally.funnel(ARRAY['a','b'], '1 hour', '2024-05-01Z', '2024-05-02Z', any_order => true)",
                "1|1 2|1",
            ),
            // What was reached before the beginning took no time.
            (
                "SELECT activated, median_seconds FROM tally.activation('a', 'b', '1 hour', '2024-05-01Z', '2024-05-02Z')",
                "1|0",
            ),
        ],
    },
    Case {
        name: "window_boundary",
        account: None,
        batches: &[&[
            ("x", "before", "a", "2024-05-01T10:00:00Z"),
            ("x", "before", "b", "2024-05-01T10:59:59.999999Z"),
            ("x", "on", "a", "2024-05-01T10:00:00Z"),
            ("x", "on", "b", "2024-05-01T11:00:00Z"),
            ("x", "after", "a", "2024-05-01T10:00:00Z"),
            ("x", "after", "b", "2024-05-01T11:00:00.000001Z"),
        ]],
        questions: &[
            (
                "SELECT step, units FROM tally.funnel(ARRAY['a','b'], '1 hour', '2024-05-01Z', '2024-05-02Z')",
                "1|3 2|2",
            ),
            (
                "SELECT cohort_size, activated FROM tally.activation('a', 'b', '1 hour', '2024-05-01Z', '2024-05-02Z')",
                "3|2",
            ),
            // A range holds its start and not its end.
            (
                "SELECT units FROM tally.funnel(ARRAY['a'], '1 hour', '2024-05-01 10:00Z', '2024-05-01 10:00:00.000001Z')",
                "3",
            ),
            (
                "SELECT units FROM tally.funnel(ARRAY['a'], '1 hour', '2024-05-01 09:00Z', '2024-05-01 10:00Z')",
                "0",
            ),
        ],
    },
    Case {
        name: "session_boundary",
        account: None,
        batches: &[&[
            ("x", "on", "a", "2024-05-01T10:00:00Z"),
            ("x", "on", "a", "2024-05-01T10:30:00Z"),
            ("x", "after", "a", "2024-05-01T10:00:00Z"),
            ("x", "after", "a", "2024-05-01T10:30:00.000001Z"),
        ]],
        questions: &[
            ("SELECT user_id, count(*) FROM tally.sessions GROUP BY 1 ORDER BY 1", "after|2 on|1"),
            (
                "SELECT sessions, bounced, mean_seconds FROM tally.session_metrics('2024-05-01Z', '2024-05-02Z')",
                "3|2|600",
            ),
        ],
    },
    Case {
        name: "two_accounts",
        account: None,
        batches: &[&[("x", "u", "a", "2024-05-01T10:00:00Z"), ("y", "u", "a", "2024-05-02T10:00:00Z")]],
        questions: &[
            ("SELECT user_id, active_days FROM tally.users", "u|2"),
            ("SELECT account_id, users FROM tally.accounts ORDER BY 1", "x|1 y|1"),
            (
                "SELECT cohort, period, cohort_size, retained FROM tally.retention('a', 'a', 'day', '2024-05-01Z', '2024-05-03Z')",
                "2024-05-01|0|1|1 2024-05-01|1|1|1",
            ),
            (
                "SELECT cohort, period, cohort_size, retained FROM tally.retention('a', 'a', 'day', '2024-05-01Z', '2024-05-03Z', 'account')",
                "2024-05-01|0|1|1 2024-05-01|1|1|0 2024-05-02|0|1|1",
            ),
        ],
    },
    Case {
        name: "one_of_two_accounts",
        account: Some("y"),
        batches: &[&[("x", "u", "a", "2024-05-01T10:00:00Z"), ("y", "u", "a", "2024-05-02T10:00:00Z")]],
        questions: &[
            ("SELECT user_id, first_seen::date, active_days FROM tally.users", "u|2024-05-02|1"),
            (
                "SELECT cohort, cohort_size FROM tally.retention('a', 'a', 'day', '2024-05-01Z', '2024-05-03Z')",
                "2024-05-02|1",
            ),
        ],
    },
    Case {
        name: "no_events",
        account: None,
        batches: &[],
        questions: &[
            (
                "SELECT status, events_30d, first_seen FROM tally.account_health('nobody', '2024-05-01Z')",
                "never|0|",
            ),
            ("SELECT count(*) FROM tally.retention(NULL, NULL, 'day', '2024-05-01Z', '2024-05-03Z')", "0"),
            ("SELECT day, dau, mau FROM tally.active_users('[2024-05-01,2024-05-02)')", "2024-05-01|0|0"),
            (
                "SELECT step, units, from_first FROM tally.funnel(ARRAY['a','b'], '1 hour', '2024-05-01Z', '2024-05-02Z')",
                "1|0| 2|0|",
            ),
            (
                "SELECT period, sessions, bounce_rate, complete FROM tally.session_metrics('2024-05-01Z', '2024-05-03Z')",
                "2024-05-01|0||t 2024-05-02|0||t",
            ),
            (
                "SELECT cohort, cohort_size, rate, complete FROM tally.activation('a', 'b', '1 day', '2024-05-01Z', '2024-06-02Z')",
                "2024-05-01|0||t 2024-06-01|0||f",
            ),
        ],
    },
    Case {
        name: "late_events",
        account: None,
        batches: &[
            &[("x", "u", "a", "2024-05-02T10:00:00Z"), ("x", "u", "a", "2024-05-02T10:50:00Z")],
            &[("x", "u", "a", "2024-05-02T10:25:00Z"), ("x", "u", "a", "2024-05-01T10:00:00Z")],
        ],
        questions: &[
            (
                "SELECT cohort, period, retained FROM tally.retention('a', 'a', 'day', '2024-05-01Z', '2024-05-03Z')",
                "2024-05-01|0|1 2024-05-01|1|1",
            ),
            (
                "SELECT started_at::time, events FROM tally.sessions WHERE started_at >= '2024-05-02Z'",
                "10:00:00|3",
            ),
            ("SELECT first_seen::date FROM tally.users", "2024-05-01"),
        ],
    },
    Case {
        name: "month_end",
        account: None,
        batches: &[&[
            ("x", "u", "a", "2024-01-31T23:59:59.999999Z"),
            ("x", "u", "a", "2024-02-01T00:00:00Z"),
        ]],
        questions: &[
            (
                "SELECT cohort, period, retained FROM tally.retention('a', 'a', 'month', '2024-01-01Z', '2024-03-01Z')",
                "2024-01-01|0|1 2024-01-01|1|1",
            ),
            ("SELECT events FROM tally.sessions", "2"),
            (
                "SELECT period, sessions FROM tally.session_metrics('2024-01-01Z', '2024-03-01Z', 'month')",
                "2024-01-01|1 2024-02-01|0",
            ),
            (
                "SELECT cohort, cohort_size FROM tally.activation('a', 'b', '1 hour', '2024-01-01Z', '2024-03-01Z')",
                "2024-01-01|1 2024-02-01|0",
            ),
        ],
    },
    Case {
        name: "year_end",
        account: None,
        batches: &[&[("x", "u", "a", "2024-12-31T23:50:00Z")], &[("x", "u", "a", "2025-01-01T00:10:00Z")]],
        questions: &[
            (
                "SELECT cohort, period, retained FROM tally.retention('a', 'a', 'week', '2024-12-30Z', '2025-01-06Z')",
                "2024-12-30|0|1",
            ),
            ("SELECT active_days FROM tally.users", "2"),
            ("SELECT events FROM tally.sessions", "2"),
            ("SELECT day, dau, wau FROM tally.active_users('[2025-01-01,2025-01-02)')", "2025-01-01|1|1"),
        ],
    },
    Case {
        name: "leap_day",
        account: None,
        batches: &[&[
            ("x", "u", "a", "2024-02-29T12:00:00Z"),
            ("x", "u", "a", "2024-03-01T12:00:00Z"),
            ("x", "u", "a", "2025-02-28T12:00:00Z"),
        ]],
        questions: &[
            (
                "SELECT cohort, period, retained FROM tally.retention('a', 'a', 'day', '2024-02-29Z', '2024-03-02Z')",
                "2024-02-29|0|1 2024-02-29|1|1",
            ),
            (
                "SELECT cohort, retained FROM tally.retention('a', 'a', 'month', '2024-02-01Z', '2025-03-01Z') WHERE period = 12",
                "2024-02-01|1",
            ),
            (
                "SELECT day, dau FROM tally.active_users('[2024-02-28,2024-03-02)')",
                "2024-02-28|0 2024-02-29|1 2024-03-01|1",
            ),
        ],
    },
    Case {
        name: "daylight_saving",
        account: None,
        // 2024-03-10 has 23 hours in New York: 01:59:59 is followed by 03:00:00.
        batches: &[&[("x", "u", "a", "2024-03-10T06:59:59Z"), ("x", "u", "a", "2024-03-10T07:00:00Z")]],
        questions: &[
            (
                "SELECT first_seen, last_seen FROM tally.account_health('x', '2024-03-11Z', 'America/New_York')",
                "2024-03-10 01:59:59|2024-03-10 03:00:00",
            ),
            (
                "SELECT day, dau FROM tally.active_users('[2024-03-09,2024-03-11)')",
                "2024-03-09|0 2024-03-10|1",
            ),
            (
                "SELECT cohort, cohort_size FROM tally.retention('a', 'a', 'day', '2024-03-10 00:00Z', '2024-03-11 00:00Z')",
                "2024-03-10|1",
            ),
            (
                "SELECT period, sessions FROM tally.session_metrics('2024-03-10 00:00Z', '2024-03-11 00:00Z')",
                "2024-03-10|1",
            ),
        ],
    },
];

#[test]
fn targets_are_of_tenants_that_are_promised_something_and_of_no_probe() {
    let mut database = Database::new("promised");
    let admin = database.role("admin", &["tally_admin"]);
    let mut superuser = database.superuser();
    superuser.batch_execute("CALL tally.probe()").unwrap();
    superuser
        .batch_execute(
            "SELECT tally.set_slo(NULL, '1 hour', NULL), tally.set_slo('silent', NULL, '5 minutes')",
        )
        .unwrap();
    ingest(&mut superuser, r#"{"tenant_id":"acme","account_id":"a","name":"run","event_id":"00000000-0000-4000-8000-000000000001","occurred_at":"2026-03-01T00:00:00Z"}"#).unwrap();
    // The tenants of the reserved name and of no event: the one is promised nothing, the other appears all the same.
    let query = "SELECT concat_ws(' ', tenant_id, coalesce(freshness_target::text, '-'), freshness_met, coalesce(latency_target::text, '-'), latency_met) FROM tally.observe_slo() ORDER BY 1";
    let rows = database.connect(&admin).query(query, &[]).unwrap();
    let rows: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    assert_eq!(rows, ["acme 01:00:00 t - t", "silent - t 00:05:00 t"]);
}

#[test]
fn each_edge_has_its_answer() {
    let mut database = Database::new("metric_cases");
    let mut superuser = database.superuser();
    let role = database.role("reader", &["tally_reader"]);
    superuser.execute("SELECT tally.trust_role($1::text::regrole)", &[&role]).unwrap();
    for case in CASES {
        for (batch, events) in case.batches.iter().enumerate() {
            let events: Vec<_> = events
                .iter()
                .enumerate()
                .map(|(place, (account, user, name, at))| {
                    json!({"tenant_id": case.name, "account_id": account, "user_id": user, "name": name,
                           "occurred_at": at, "event_id": format!("00000000-0000-4000-8000-{:06}{place:06}", batch)})
                })
                .collect();
            let sent = events.len() as i64;
            assert_eq!(
                ingest(&mut superuser, &json!(events).to_string()).unwrap().accepted,
                sent,
                "{}",
                case.name
            );
        }
    }
    let mut client = database.connect(&role);
    // Whether folded or pending, and whatever the session's time zone.
    for zone in ["UTC", "America/New_York", "Australia/Lord_Howe"] {
        for case in CASES {
            let mut transaction = client.transaction().unwrap();
            transaction.execute("SELECT tally.enter($1, $2)", &[&case.name, &case.account]).unwrap();
            transaction.batch_execute(&format!("SET LOCAL timezone = '{zone}'")).unwrap();
            for (question, answer) in case.questions {
                // Times are shown in the session's zone, which is no metric's business.
                if zone != "UTC" && (question.contains("_at::") || question.contains("_seen::")) {
                    continue;
                }
                let question = question.replace("Z'", "+00'");
                let rows = transaction
                    .simple_query(&question)
                    .unwrap_or_else(|problem| panic!("{question}: {problem}"));
                let rows: Vec<String> = rows
                    .iter()
                    .filter_map(|message| match message {
                        postgres::SimpleQueryMessage::Row(row) => Some(
                            (0..row.len())
                                .map(|column| row.get(column).unwrap_or(""))
                                .collect::<Vec<_>>()
                                .join("|"),
                        ),
                        _ => None,
                    })
                    .collect();
                assert_eq!(rows.join(" "), *answer, "{}, session in {zone}: {question}", case.name);
            }
        }
        superuser.batch_execute("SELECT tally.fold('user_activity'), tally.fold('session')").unwrap();
    }
}

#[test]
fn an_event_that_is_dated_ahead_did_not_occur_in_the_last_day() {
    let database = Database::new("edges_slo");
    let mut client = database.superuser();
    client
        .batch_execute(
            "SELECT tally.set_slo(NULL, '1 hour', '1 hour');
             SELECT tally.ingest(jsonb_agg(jsonb_build_object('tenant_id', 't', 'account_id', 'a', 'name', 'n', 'event_id', gen_random_uuid(),
                                                              'occurred_at', now() + hours * interval '1 hour')))
               FROM unnest('{-2, 20}'::int4[]) AS h (hours)",
        )
        .unwrap();
    client.batch_execute("BEGIN; SELECT tally.enter_global()").unwrap();
    let row = client.query_one("SELECT events, share FROM tally.slo", &[]).unwrap();
    assert_eq!((row.get::<_, i64>(0), row.get::<_, Option<f64>>(1)), (1, Some(0.0)));
}

/// An average of numeric has 16 digits in all, so that of great amounts none behind the point.
#[test]
fn averages_of_great_amounts_have_their_fractions() {
    let mut database = Database::new("great_amounts");
    let reader = database.role("reader", &["tally_reader"]);
    let mut superuser = database.superuser();
    superuser.execute("SELECT tally.bind_role($1::text::regrole, 't')", &[&reader]).unwrap();
    superuser
        .batch_execute(
            "SELECT tally.define_metric('usual', '{\"kind\": \"mean\", \"event\": \"paid\", \"property\": \"amount\"}')",
        )
        .unwrap();
    let amount = |digits: &str, n: usize| {
        format!(
            r#"{{"tenant_id": "t", "account_id": "a{n}", "name": "paid", "event_id": "00000000-0000-4000-8000-{n:012}",
                "occurred_at": "2026-03-01T00:00:00Z", "properties": {{"amount": {digits}, "currency": "EUR"}}}}"#
        )
    };
    let events = format!("[{},{}]", amount("100000000000000000", 1), amount("100000000000000001", 2));
    assert_eq!(ingest(&mut superuser, &events).unwrap().accepted, 2);
    let mut reader = database.connect(&reader);
    let mean =
        "SELECT trim_scale(value)::text FROM tally.metric_value('usual', '2026-03-01Z', '2026-04-01Z')";
    for (query, expected) in [
        (
            "SELECT DISTINCT arpa::text FROM tally.revenue('2026-03-01Z', '2026-04-01Z')",
            "100000000000000000.500000",
        ),
        (mean, "100000000000000000.5"),
        (
            "SELECT coalesce(value::text, '-') FROM tally.metric_value('usual', '2026-04-01Z', '2026-05-01Z')",
            "-",
        ),
        ("SELECT coalesce(max(arpa)::text, '-') FROM tally.revenue('2026-04-01Z', '2026-05-01Z')", "-"),
    ] {
        assert_eq!(reader.query_one(query, &[]).unwrap().get::<_, String>(0), expected, "{query}");
    }
    // From what is kept, too.
    superuser.batch_execute("CALL tally.maintain()").unwrap();
    superuser.batch_execute("SELECT tally.drop_raw('2026-04-01Z')").unwrap();
    assert_eq!(number(&mut superuser, "SELECT count(*) FROM tally.events"), 0);
    assert_eq!(reader.query_one(mean, &[]).unwrap().get::<_, String>(0), "100000000000000000.5");
}

#[test]
fn modes_of_a_funnel_go_in_any_order() {
    let database = Database::new("funnel_modes");
    let mut client = database.superuser();
    let mut depth = |mode: &str| {
        let funnel = "SELECT tally.window_funnel('1 hour', $1, at, page = 'a', page = 'b', page = 'c') FROM (VALUES
                        ('2026-03-01 00:00Z'::timestamptz, 'a'), ('2026-03-01 00:01Z', 'b'), ('2026-03-01 00:01Z', 'c')) AS v (at, page)";
        client
            .query_one(funnel, &[&mode])
            .map(|row| row.get::<_, i32>(0))
            .map_err(|error| error.code().map(|code| code.code().to_owned()))
    };
    for mode in
        ["strict_order,strict_increase", "strict_increase,strict_order", " strict_increase , strict_order "]
    {
        assert_eq!(depth(mode), Ok(2), "{mode}");
    }
    for (mode, expected) in [("", 3), ("strict_order", 3), (" any_order", 3), ("strict_increase", 2)] {
        assert_eq!(depth(mode), Ok(expected), "{mode}");
    }
    for mode in [
        "strict_order,",
        ",",
        "strict_order,any_order",
        "strict_order,strict_order",
        "strict_order,strict_increase,strict_order",
    ] {
        assert_eq!(depth(mode), Err(Some("22023".to_owned())), "{mode}");
    }
}
