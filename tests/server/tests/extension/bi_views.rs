//! integrations/bi/views.sql: a tool that is shown one schema lists what people read and nothing else, with comments, and each login's own
//! numbers; and it can be run again when rollups have changed.

use postgres::Client;
use serde_json::json;
use std::path::Path;
use std::process::Command;
use tally_server_tests::{PrivateServer, ingest, number};

const READ: [&str; 12] = [
    "accounts",
    "events",
    "payment_day",
    "payment_day_state",
    "quarantine",
    "sessions",
    "usage_day",
    "usage_day_state",
    "usage_hour",
    "usage_hour_state",
    "user_activity_year",
    "users",
];

/// How tools ask for the tables of a schema: Power BI, Grafana and Tableau by the standard's views; Superset's SQLAlchemy, pgAdmin and JDBC
/// by the catalogue.
const LISTS: [&str; 3] = [
    "SELECT table_name::text FROM information_schema.tables WHERE table_schema = $1 ORDER BY 1",
    "SELECT c.relname::text FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
      WHERE n.nspname = $1 AND c.relkind IN ('r', 'p', 'v', 'm', 'f') ORDER BY 1",
    "SELECT c.relname::text FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
      WHERE n.nspname = $1 AND c.relkind IN ('r', 'p', 'v', 'm', 'f') AND has_table_privilege(c.oid, 'SELECT') ORDER BY 1",
];

fn listed(client: &mut Client, query: &str, schema: &str) -> Vec<String> {
    client.query(query, &[&schema]).unwrap().iter().map(|row| row.get(0)).collect()
}

#[test]
fn tools_list_what_people_read() {
    let server = PrivateServer::create("bi_views", "");
    let mut superuser = server.connect("postgres", "postgres");
    superuser
        .batch_execute(
            "CREATE EXTENSION pg_tally; CREATE ROLE dba LOGIN IN ROLE tally_admin; GRANT CREATE ON DATABASE postgres TO dba;
             CREATE ROLE app LOGIN IN ROLE tally_writer, tally_reader; SELECT tally.trust_role('app');
             CREATE ROLE acme_bi LOGIN IN ROLE tally_reader; SELECT tally.bind_role('acme_bi', 'acme');
             CREATE ROLE north_bi LOGIN IN ROLE tally_reader; SELECT tally.bind_role('north_bi', 'acme', 'north');
             CREATE ROLE unbound LOGIN IN ROLE tally_reader; CREATE ROLE stranger LOGIN",
        )
        .unwrap();
    let today: String =
        superuser.query_one("SELECT to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD')", &[]).unwrap().get(0);
    let mut events = Vec::new();
    for (tenant, account) in [("acme", "north"), ("acme", "south"), ("other", "north")] {
        for n in 0..5 {
            events.push(json!({"tenant_id": tenant, "account_id": account, "user_id": format!("u{n}"), "name": "paid",
                "event_id": format!("00000000-0000-4000-8000-{:012}", events.len()), "occurred_at": format!("{today}T00:00:00Z"),
                "properties": {"amount": 2, "currency": "EUR"}}));
        }
    }
    let mut app = server.connect("app", "postgres");
    assert_eq!(ingest(&mut app, &json!(events).to_string()).unwrap().accepted, 15);

    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../integrations/bi/views.sql");
    let run = |more: &[&str]| {
        let mut psql: Command = server.client("psql");
        let output = psql
            .args(["-X", "-U", "dba", "-d", "postgres"])
            .args(more)
            .arg("-f")
            .arg(&file)
            .output()
            .unwrap();
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success() && errors.is_empty(), "{errors}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let said = run(&[]);
    assert!(said.contains("usage_day_state") && !said.contains("_base"), "{said}");
    let wanted = READ.map(str::to_owned).to_vec();
    let mut reader = server.connect("acme_bi", "postgres");
    for query in LISTS {
        assert_eq!(listed(&mut reader, query, "analytics"), wanted, "{query}");
        let all = listed(&mut reader, query, "tally");
        println!("{} in tally, {} here: {query}", all.len(), wanted.len());
        assert!(all.len() > wanted.len(), "there is nothing to shorten: {all:?}");
    }
    // With the schema as its path a login needs no other name.
    superuser.batch_execute("ALTER ROLE acme_bi SET search_path = analytics").unwrap();
    let mut reader = server.connect("acme_bi", "postgres");
    let mut part = server.connect("north_bi", "postgres");
    assert_eq!(number(&mut reader, "SELECT sum(events)::int8 FROM usage_day"), 10);
    assert_eq!(number(&mut part, "SELECT sum(events)::int8 FROM analytics.usage_day"), 5);
    for view in &wanted {
        let rows = |client: &mut Client, schema: &str| {
            number(client, &format!("SELECT count(*) FROM {schema}.{view}"))
        };
        assert_eq!(rows(&mut reader, "analytics"), rows(&mut reader, "tally"), "{view}");
        assert_eq!(rows(&mut part, "analytics"), rows(&mut part, "tally"), "{view}");
        for login in ["unbound", "stranger", "dba"] {
            let refused = server
                .connect(login, "postgres")
                .query(&format!("SELECT count(*) FROM analytics.{view}"), &[]);
            let refused = refused.expect_err(view);
            assert_eq!(refused.code().unwrap().code(), "42501", "{login} reads {view}");
        }
    }
    // A preview, as tools ask for it, shows rows of each; so it does of the columns that are left out.
    for view in &wanted {
        let preview = |schema: &str| format!("SELECT * FROM {schema}.{view} LIMIT 200");
        reader.simple_query(&preview("analytics")).unwrap_or_else(|problem| panic!("{view}: {problem:?}"));
        let hidden = "SELECT count(*) FROM pg_attribute WHERE attrelid = $1::text::regclass AND atttypid = 'tally.hll'::regtype";
        let hidden: i64 = superuser.query_one(hidden, &[&format!("tally.{view}")]).unwrap().get(0);
        let refused = reader.simple_query(&preview("tally")).err();
        let refused = refused.map(|problem| problem.code().unwrap().code().to_owned());
        assert_eq!(refused.as_deref(), (hidden > 0).then_some("42501"), "{view}");
    }
    // What docs/bi.md says of sketches.
    for (query, refused) in [
        ("SELECT tally.distinct_count(tally.rollup(users)), count(users) FROM tally.usage_day_state", None),
        ("SELECT count(*) FROM (SELECT users FROM tally.usage_day_state GROUP BY users) AS g", None),
        ("SELECT value FROM tally.usage_day_state", None),
        ("SELECT users FROM tally.usage_day_state LIMIT 1", Some("42501")),
        ("SELECT DISTINCT users FROM tally.usage_day_state", Some("42501")),
        ("SELECT count(DISTINCT users) FROM tally.usage_day_state", Some("42883")),
        ("SELECT name FROM tally.usage_day_state ORDER BY users", Some("42883")),
        ("SELECT name FROM tally.usage_day_state WHERE users = 'x'", Some("42883")),
    ] {
        let answer =
            reader.simple_query(query).err().map(|problem| problem.code().unwrap().code().to_owned());
        assert_eq!(answer.as_deref(), refused, "{query}");
    }
    // Every column says what it says in tally.
    let silent = "SELECT count(*) FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = a.attrelid
         JOIN pg_class AS o ON o.relname = c.relname AND o.relnamespace = 'tally'::regnamespace
         JOIN pg_attribute AS b ON b.attrelid = o.oid AND b.attname = a.attname
        WHERE c.relnamespace = 'analytics'::regnamespace AND a.attnum > 0
          AND (col_description(a.attrelid, a.attnum) IS NULL OR col_description(a.attrelid, a.attnum) <> col_description(b.attrelid, b.attnum))";
    assert_eq!(number(&mut superuser, silent), 0);
    let found = superuser
        .query(
            "SELECT to_jsonb(l)::text FROM tally.lint() AS l WHERE to_jsonb(l)::text LIKE '%analytics%'",
            &[],
        )
        .unwrap();
    assert!(found.is_empty(), "{found:?}");

    // A rollup of one's own, a column more, and one less.
    let mut dba = server.connect("dba", "postgres");
    let lists = |client: &mut Client| listed(client, LISTS[0], "analytics").len();
    dba.batch_execute("SELECT tally.create_rollup('plans', '{day,week}', ARRAY['count(*) AS runs', 'sum(properties->>''amount'') AS amount'], '{}')")
        .unwrap();
    run(&[]);
    assert_eq!(lists(&mut reader), wanted.len() + 4);
    dba.batch_execute("SELECT tally.drop_rollup('plans', cascade => true)").unwrap();
    assert_eq!(lists(&mut reader), wanted.len());
    run(&["-v", "schema=Für Lesende"]);
    assert_eq!(listed(&mut reader, LISTS[0], "Für Lesende"), wanted);
    dba.batch_execute("DROP SCHEMA analytics CASCADE").unwrap();
}
