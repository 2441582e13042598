//! Two databases, one with another tenant's data and one without: random statements of a tenant's login are answered
//! alike. Statements come from a grammar of our own, and from SQLsmith.
//!
//! `TALLY_QUERIES` is how many there are of each kind.

use serde_json::json;
use std::collections::HashSet;
use std::path::Path;
use std::process::Command;
use tally_server_tests::{Database, Session, connect_superuser, ingest, of_this_major, seeded, skip};
use tally_workload::Random;

fn queries() -> usize {
    std::env::var("TALLY_QUERIES").map_or(400, |text| text.parse().expect("a number of queries"))
}

struct Twins {
    database: Database,
    names: [String; 2],
    reader: String,
}

impl Drop for Twins {
    fn drop(&mut self) {
        let drop = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.names[1]);
        if let Err(problem) = connect_superuser("postgres").batch_execute(&drop) {
            eprintln!("{drop}: {problem}");
        }
    }
}

/// Tenant `a` has the same in both; tenant `b`, with accounts, users and keys alike and unlike, is in the first alone.
fn twins(topic: &str) -> Twins {
    let mut database = Database::new(topic);
    let [reader, owner] = [("reader", "tally_reader"), ("owner", "tally_writer")]
        .map(|(role, group)| database.role(role, &[group]));
    let mut admin = database.superuser();
    let event = |tenant: &str, number: usize| {
        json!({"tenant_id": tenant, "account_id": format!("{}{}", ["x", "y", tenant][number % 3], number % 2),
            "name": (["run", "open", "pay"][number * 7 % 3]), "user_id": format!("{}{}", ["u", tenant][number % 2], number % 11),
            "occurred_at": format!("2026-01-{:02}T{:02}:00:00Z", number % 28 + 1, number % 24),
            "event_id": format!("{:08x}-0000-4000-8000-{number:012}", number % 5 * usize::from(tenant == "b")),
            "properties": {"value": number % 17, "amount": number, "plan": tenant}})
    };
    let batch = |tenant: &str, count: usize| {
        json!((0..count).map(|number| event(tenant, number)).collect::<Vec<_>>()).to_string()
    };
    assert_eq!(ingest(&mut admin, &batch("a", 300)).unwrap().accepted, 300);
    admin
        .batch_execute(&format!(
            "GRANT tally_writer TO {reader}; SELECT tally.bind_role('{reader}', 'a'); SELECT tally.fold('usage');
             CREATE SCHEMA shop AUTHORIZATION {owner}; GRANT USAGE ON SCHEMA shop TO PUBLIC; SET ROLE {owner};
             CREATE TABLE shop.people (tenant text NOT NULL, mail text NOT NULL, age int, PRIMARY KEY (tenant, mail));
             CREATE TABLE shop.visits (tenant text NOT NULL, mail text NOT NULL, at date,
               FOREIGN KEY (tenant, mail) REFERENCES shop.people);
             CREATE INDEX ON shop.people (mail); CREATE INDEX ON shop.people (age);
             SELECT tally.protect('shop.people', 'tenant'), tally.protect('shop.visits', 'tenant');
             GRANT SELECT, INSERT, UPDATE, DELETE ON shop.people, shop.visits TO PUBLIC; RESET ROLE;
             INSERT INTO shop.people SELECT 'a', 'p' || n, n % 50 FROM generate_series(1, 200) AS n;
             INSERT INTO shop.visits SELECT 'a', 'p' || n, date '2026-01-01' + n FROM generate_series(1, 100) AS n"
        ))
        .unwrap();
    drop(admin);
    let names = [database.name().to_owned(), format!("{}_twin", database.name())];
    let mut server = connect_superuser("postgres");
    server.batch_execute(&format!("CREATE DATABASE {} TEMPLATE {}", names[1], names[0])).unwrap();
    for name in &names {
        let settings = "session_preload_libraries = pg_tally";
        server
            .batch_execute(&format!(
                "ALTER DATABASE {name} SET {settings}; ALTER DATABASE {name} SET statement_timeout = '120s'"
            ))
            .unwrap();
    }
    let mut full = connect_superuser(&names[0]);
    assert_eq!(ingest(&mut full, &batch("b", 3000)).unwrap().accepted, 3000);
    full.batch_execute(
        "INSERT INTO shop.people SELECT 'b', v || n, n % 90 - 20 FROM unnest('{p,q,secret}'::text[]) AS v, generate_series(1, 700) AS n;
         INSERT INTO shop.visits SELECT 'b', 'q' || n, date '2026-01-01' + n FROM generate_series(1, 500) AS n",
    )
    .unwrap();
    for name in &names {
        connect_superuser(name).batch_execute("ANALYZE").unwrap();
    }
    Twins { database, names, reader }
}

/// An answer whose lines are in an order that no plan decides.
fn sorted(answer: &str) -> Vec<&str> {
    let mut lines: Vec<&str> = answer.lines().collect();
    lines.sort_unstable();
    lines
}

/// A grammar of statements whose answers are determined by what the tenant may see.
struct Grammar {
    random: Random,
}

impl Grammar {
    fn pick<'a>(&mut self, choices: &[&'a str]) -> &'a str {
        choices[self.random.below(choices.len())]
    }

    /// A relation, with its text columns and its numeric ones.
    fn relation(&mut self) -> (&'static str, &'static [&'static str], &'static [&'static str]) {
        const RELATIONS: &[(&str, &[&str], &[&str])] = &[
            (
                "tally.events",
                &["tenant_id", "account_id", "name", "user_id", "properties->>'plan'"],
                &[
                    "(properties->>'value')::int",
                    "extract(day FROM occurred_at)",
                    "extract(hour FROM occurred_at)",
                ],
            ),
            ("tally.usage_day", &["tenant_id", "account_id", "name"], &["events", "users", "value_sum"]),
            ("tally.usage_hour", &["tenant_id", "account_id", "name"], &["events", "users", "value_sum"]),
            (
                "tally.usage_day_state",
                &["tenant_id", "account_id", "name", "users::text"],
                &["events", "value_sum"],
            ),
            ("tally.usage_hour_base", &["tenant_id", "account_id", "name"], &["events", "value_sum"]),
            ("tally.usage_pending", &["tenant_id", "account_id", "name"], &["events"]),
            ("shop.people", &["tenant", "mail"], &["age", "length(mail)"]),
            ("shop.visits", &["tenant", "mail"], &["at - date '2026-01-01'"]),
        ];
        RELATIONS[self.random.below(RELATIONS.len())]
    }

    fn condition(&mut self, texts: &[&str], numbers: &[&str], depth: usize) -> String {
        let text = self.pick(texts).to_owned();
        let number = self.pick(numbers).to_owned();
        let value = self
            .pick(&["a", "b", "x0", "x1", "b0", "b1", "u3", "b7", "run", "pay", "p1", "q1", "secret7", ""]);
        let least = self.random.below(60) as i64 - 20;
        match self.random.below(if depth == 0 { 7 } else { 11 }) {
            0 => format!("{text} = '{value}'"),
            1 => format!("{text} <> '{value}'"),
            2 => format!("{text} LIKE '%{}%'", self.pick(&["a", "b", "1", "s"])),
            3 => format!("{number} > {least}"),
            4 => format!("{number} IN ({least}, {}, NULL)", least + 1),
            5 => format!("{text} IS DISTINCT FROM '{value}'"),
            // Fails, if it fails, because of a row in scope.
            6 => format!("100 / ({number} - {least}) > {}", self.random.below(4)),
            7 => format!("NOT ({})", self.condition(texts, numbers, depth - 1)),
            8 => format!(
                "({} OR {})",
                self.condition(texts, numbers, depth - 1),
                self.condition(texts, numbers, depth - 1)
            ),
            9 => format!(
                "({} AND {})",
                self.condition(texts, numbers, depth - 1),
                self.condition(texts, numbers, depth - 1)
            ),
            _ => {
                let (relation, texts, numbers) = self.relation();
                let inner = self.condition(texts, numbers, 0);
                let not = self.pick(&["", "NOT "]);
                format!("{not}EXISTS (SELECT FROM {relation} WHERE {inner})")
            }
        }
    }

    fn select(&mut self) -> String {
        let (relation, texts, numbers) = self.relation();
        let condition = self.condition(texts, numbers, 2);
        let (text, other, number) = (self.pick(texts), self.pick(texts), self.pick(numbers));
        match self.random.below(9) {
            0 => format!("SELECT {text}, {other}, {number} FROM {relation} WHERE {condition}"),
            1 => format!("SELECT count(*), count(DISTINCT {text}), min({other}), max({number}), sum({number}) FROM {relation} WHERE {condition}"),
            2 => format!("SELECT {text}, count(*), sum({number}) FROM {relation} WHERE {condition} GROUP BY ROLLUP (1)"),
            3 => format!("SELECT {text}, rank() OVER (PARTITION BY {text} ORDER BY {number}) FROM {relation} WHERE {condition}"),
            4 => format!("SELECT {text} FROM {relation} WHERE {condition} {} SELECT mail FROM shop.people", self.pick(&["UNION", "EXCEPT", "INTERSECT ALL"])),
            5 => format!("SELECT DISTINCT x.{0}, y.mail FROM {relation} AS x {1} JOIN shop.people AS y ON length(y.mail) = length(x.{0})
                          AND y.age < 3", texts[1], self.pick(&["", "LEFT", "FULL"])),
            6 => format!("SELECT {text}, {number} FROM {relation} WHERE {condition} ORDER BY 1, 2 LIMIT {}", self.random.below(20)),
            7 => format!("SELECT ({text} || '1')::int, 7 / {number} FROM {relation} WHERE {condition}"),
            _ => format!("SELECT (SELECT max({number}) FROM {relation} WHERE {condition}), tally.distinct_count(tally.hll({text})) FROM {relation}"),
        }
    }

    fn change(&mut self) -> String {
        let tenant = self.pick(&["a", "a", "b", "c"]);
        let mail = self.pick(&["p1", "p150", "q1", "secret7", "new"]);
        match self.random.below(7) {
            0 => format!("INSERT INTO shop.people VALUES ('{tenant}', '{mail}', 1) RETURNING *"),
            1 => format!("INSERT INTO shop.people VALUES ('{tenant}', '{mail}') ON CONFLICT DO NOTHING"),
            2 => format!("INSERT INTO shop.people VALUES ('{tenant}', '{mail}') ON CONFLICT (tenant, mail) DO UPDATE SET age = 7 RETURNING *"),
            3 => format!("INSERT INTO shop.visits VALUES ('{tenant}', '{mail}')"),
            4 => format!("UPDATE shop.people SET mail = '{mail}', tenant = '{tenant}' WHERE {} RETURNING *", self.condition(&["mail"], &["age"], 1)),
            5 => format!("DELETE FROM shop.visits WHERE {} RETURNING *", self.condition(&["mail"], &["length(mail)"], 1)),
            _ => format!("MERGE INTO shop.people AS p USING (VALUES ('{tenant}', '{mail}')) AS s (t, m) ON s.m = p.mail
                          WHEN MATCHED THEN UPDATE SET age = 3 WHEN NOT MATCHED THEN INSERT VALUES (s.t, s.m, 5)"),
        }
    }

    fn measure(&mut self) -> String {
        let from = format!("2026-01-{:02}", self.random.below(20) + 1);
        let range = format!("'{from}', '2026-02-01'");
        let unit = self.pick(&["user", "account"]);
        let steps = self.pick(&["'{run,open}'::text[]", "'{open,pay,run}'::text[]", "'{pay}'::text[]"]);
        match self.random.below(6) {
            0 => format!("SELECT * FROM tally.funnel({steps}, '3 days', {range}, '{unit}')"),
            1 => format!("SELECT * FROM tally.retention('run', 'open', 'day', {range}, '{unit}')"),
            2 => format!("SELECT * FROM tally.active_users(daterange('{from}', '2026-01-28'), '{unit}')"),
            3 => format!("SELECT * FROM tally.activation('run', 'pay', '5 days', {range}, '{unit}')"),
            4 => format!("SELECT * FROM tally.revenue({range})"),
            _ => format!(
                "SELECT * FROM tally.did_at_least('run', {}, {range}, '{unit}')",
                self.random.below(30)
            ),
        }
    }

    /// A statement, and which of the grammar's kinds it is of.
    fn statement(&mut self) -> (usize, String) {
        let kind = self.random.below(20);
        let statement = match kind {
            0 => format!("EXPLAIN (ANALYZE) {}", self.select()),
            1 => format!("SET client_min_messages = log; SET debug_print_plan = on; {}", self.select()),
            2 => format!("BEGIN; DECLARE c CURSOR FOR {}; FETCH ALL FROM c", self.select()),
            3 | 4 => format!("BEGIN; {}", self.change()),
            5 => format!("BEGIN; {}; {}", self.change(), self.select()),
            6 | 7 => self.measure(),
            8 => {
                let enter = self.pick(&["'a', 'x0'", "'a', 'b1'", "'b'", "'a', 'nothing'", "'a'"]);
                format!("BEGIN; SELECT tally.enter({enter}); {}", self.select())
            }
            9 => {
                let event = json!({"tenant_id": self.pick(&["a", "b"]), "account_id": "x0", "name": "run",
                    "event_id": format!("0000000{}-0000-4000-8000-{:012}", self.random.below(5), self.random.below(3500)),
                    "occurred_at": "2026-01-05T00:00:00Z"});
                format!(
                    "BEGIN; SELECT accepted, duplicates, conflicts, rejected, details FROM tally.ingest('{event}'::text)"
                )
            }
            10 => format!(
                "SET enable_seqscan = {}; SET enable_indexscan = off; {}",
                self.pick(&["on", "off"]),
                self.select()
            ),
            11 => format!(
                "{}; SET work_mem = '64kB'; {}",
                of_this_major("SET force_parallel_mode = on"),
                self.select()
            ),
            _ => self.select(),
        };
        (kind, statement)
    }
}

/// Kinds of statements that a tenant is refused: plans.
const REFUSED: &[usize] = &[0, 1];

/// Every text that a tenant's own rows can show, from the database that has no others.
fn own_texts(twins: &Twins) -> HashSet<String> {
    let texts = "SELECT x FROM tally.events, unnest(ARRAY[tenant_id, account_id, name, user_id, properties->>'plan']) AS x
           UNION SELECT users::text FROM tally.usage_day_state UNION SELECT users::text FROM tally.usage_hour_state
           UNION SELECT x FROM shop.people, unnest(ARRAY[tenant, mail]) AS x
           UNION SELECT 'new' -- what the grammar itself inserts";
    let rows = connect_superuser(&twins.names[1]).query(texts, &[]).unwrap();
    rows.iter().filter_map(|row| row.get::<_, Option<String>>(0)).collect()
}

/// Whether an answer is an error of the two that the grammar asks for, about a row of the tenant's own. Which of several
/// such rows is met first, or whether one is met at all before a limit or an EXISTS has enough, is the plan's choice, and the
/// planner knows everyone's statistics: docs/SECURITY.md doesn't promise otherwise.
fn fails_by_an_own_row(answer: &str, own: &HashSet<String>) -> bool {
    answer.starts_with("ERROR 22012: division by zero |")
        || answer
            .strip_prefix("ERROR 22P02: invalid input syntax for type integer: \"")
            .and_then(|rest| rest.split_once("1\" |"))
            .is_some_and(|(text, _)| own.contains(text))
}

#[test]
fn statements_of_our_grammar_are_answered_alike() {
    let twins = twins("grammar");
    let mut sessions = twins.names.each_ref().map(|name| Session::new(name, &twins.database, &twins.reader));
    let mut grammar = Grammar { random: seeded() };
    let own = own_texts(&twins);
    let (mut errors, mut rows, mut chosen) = (0, 0, 0);
    // Two sessions that both refuse a setting answer alike, too: of each kind, how many there were, and how many succeeded.
    let mut kinds = [(0, 0); 20];
    for number in 0..queries() {
        let (kind, statement) = grammar.statement();
        let answers = sessions.each_mut().map(|session| session.answer(&statement));
        if sorted(&answers[0]) != sorted(&answers[1]) {
            let plan_chose = answers.iter().any(|answer| fails_by_an_own_row(answer, &own))
                && answers
                    .iter()
                    .all(|answer| !answer.starts_with("ERROR") || fails_by_an_own_row(answer, &own));
            assert!(plan_chose, "statement {number}: {statement}\n{}\n---\n{}", answers[0], answers[1]);
            chosen += 1;
        }
        kinds[kind].0 += 1;
        kinds[kind].1 += usize::from(!answers[0].starts_with("ERROR"));
        errors += usize::from(answers[0].starts_with("ERROR"));
        rows += answers[0].lines().count();
        assert!(
            !answers[0].contains("\"b\"") || !answers[0].contains("Some(\"b\")"),
            "{statement}: {}",
            answers[0]
        );
        if number % 10 == 0 {
            for session in &mut sessions {
                session.answer("RESET ALL");
            }
        }
    }
    println!(
        "{} statements, {errors} errors, {rows} lines: answered alike, but that {chosen} failed by another of the tenant's own rows or by none",
        queries()
    );
    for (kind, (asked, succeeded)) in kinds.into_iter().enumerate() {
        let is_refused = REFUSED.contains(&kind);
        // Up to six in ten of a kind fail: all of sixteen would in three of ten thousand runs.
        assert!(
            asked < 16 || (succeeded == 0) == is_refused,
            "kind {kind}: {succeeded} of {asked} succeeded"
        );
        assert!(!is_refused || succeeded == 0, "kind {kind}: {succeeded} of {asked} succeeded");
    }
    // Over 50,000 statements 57 did: five of 250 would in one of a hundred thousand runs.
    assert!(chosen <= 4 + queries() / 400, "{chosen} differ in which row fails");
    assert!(errors > queries() / 20 && errors < queries() * 3 / 4, "{errors} errors");
}

/// What tells how much there is, or when it was: docs/SECURITY.md doesn't promise to hide it.
fn is_determined(query: &str) -> bool {
    const OTHERS: &[&str] = &[
        "limit ",
        "tablesample",
        "ctid",
        "xmin",
        "xmax",
        "cmin",
        "cmax",
        "_size",
        "pg_stat",
        "txid",
        "wal",
        "snapshot",
        "current_database",
        "database",
        "random",
        "clock",
        "now()",
        "timeofday",
        "timestamp(",
        "pid",
        "lock",
        "pg_current",
        "version",
        "gen_random",
        "current_setting",
        "set_config",
        "first_value",
        "last_value",
        "lag",
        "lead",
        "nth_value",
        "row_number",
        "array_agg",
        "_agg",
        "sleep",
        "tally.rollup",
        "tdigest",
        "batch_id",
        "stddev",
        "variance",
        "regr_",
        "corr",
        "covar",
        "var_",
        "avg",
        "oid",
    ];
    !OTHERS.iter().any(|other| query.contains(other))
}

#[test]
fn sqlsmiths_queries_are_answered_alike() {
    if !Path::new("/usr/bin/sqlsmith").exists() {
        return skip("sqlsmith is not installed");
    }
    let twins = twins("smith");
    let mut seed = seeded().bits() % 1_000_000;
    let server = twins.database.config(&twins.reader);
    let postgres::config::Host::Unix(sockets) = &server.get_hosts()[0] else { panic!("a Unix socket") };
    let mut sessions = twins.names.each_ref().map(|name| Session::new(name, &twins.database, &twins.reader));
    let (mut run, mut alike, mut failed) = (0, 0, 0);
    while run < queries() {
        seed += 1;
        let target = format!(
            "host={} port={} dbname={} user={}",
            sockets.display(),
            server.get_ports()[0],
            twins.names[0],
            twins.reader
        );
        let output = Command::new("/usr/bin/sqlsmith")
            .args(["--dry-run", "--exclude-catalog", "--max-queries=200"])
            .args([format!("--seed={seed}"), format!("--target={target}")])
            .output()
            .expect("running sqlsmith");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        for query in text.split(";\n").filter(|query| !query.trim().is_empty()).take(queries() - run) {
            run += 1;
            let statement = format!("BEGIN; {query}");
            let answers = sessions.each_mut().map(|session| session.answer(&statement));
            failed += usize::from(answers[0].starts_with("ERROR"));
            if sorted(&answers[0]) == sorted(&answers[1]) {
                alike += 1;
                continue;
            }
            // Which of several errors comes first is the plan's choice, and so is which rows a limit leaves; what
            // differs from itself tells nothing.
            let both_failed = answers.iter().all(|answer| answer.starts_with("ERROR"));
            let timed_out = answers.iter().any(|answer| answer.contains("57014"));
            let varies = sorted(&sessions[0].answer(&statement)) != sorted(&answers[0]);
            let excused = both_failed || timed_out || varies || !is_determined(query);
            assert!(excused, "seed {seed}: {statement}\n{}\n---\n{}", answers[0], answers[1]);
        }
    }
    println!("{run} queries of SQLsmith, {failed} errors: {alike} answered alike, the rest undetermined");
    assert!(alike > run * 9 / 10, "{alike} of {run} alike");
}
