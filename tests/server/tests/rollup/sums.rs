//! What a tool that knows nothing of sketches does to the views: it sums columns, lists their distinct values and filters by one.
//! Comments say of every number whether it adds up; what they advise instead is right.

use postgres::{Client, SimpleQueryMessage};
use serde_json::json;
use tally_server_tests::{Database, ingest};

/// Of each view: its name and the columns with their types and comments.
fn columns(client: &mut Client) -> Vec<(String, String, String, String)> {
    let query = "SELECT c.relname, a.attname, format_type(a.atttypid, NULL), coalesce(col_description(c.oid, a.attnum), '')
                   FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0
                  WHERE c.relnamespace = 'tally'::regnamespace AND c.relkind = 'v'
                    AND (c.relname IN ('users', 'accounts', 'sessions')
                         OR EXISTS (SELECT FROM tally.rollup AS r, unnest(r.grains) AS g
                                     WHERE c.relname IN (r.rollup_name || '_' || g, r.rollup_name || '_' || g || '_state')))
                  ORDER BY c.relname, a.attnum";
    let rows = client.query(query, &[]).unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1), row.get(2), row.get(3))).collect()
}

/// The first column of a query's first row, as text.
fn first(client: &mut Client, query: &str) -> String {
    let messages = client.simple_query(query).unwrap_or_else(|problem| panic!("{query}: {problem:?}"));
    let row = messages.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row.get(0).unwrap_or("null").to_owned()),
        _ => None,
    });
    row.unwrap_or_else(|| panic!("{query} gives no row"))
}

/// A tenant with 40 users, each active in two accounts and on three days; and a rollup with every kind of measure, one of them
/// named by a word that must be quoted.
fn company() -> (Database, Client) {
    let mut database = Database::new("sums");
    let writer = database.role("writer", &["tally_writer"]);
    let reader = database.role("reader", &["tally_reader"]);
    let mut superuser = database.superuser();
    superuser
        .batch_execute(&format!(
            "SELECT tally.trust_role('{writer}'); SELECT tally.bind_role('{reader}', 'acme');
             SELECT tally.create_rollup('every', '{{day}}', dimensions => '{{name}}', measures => ARRAY[
               'count(*) AS times', 'count(user_id) AS acted', 'sum(tally.property_number(properties, ''value'')) AS total',
               'min(occurred_at) AS least', 'max(occurred_at) AS most', 'distinct(user_id) AS order',
               'percentiles(tally.property_float(properties, ''value'')) AS took', 'first(session_id) AS opened', 'last(session_id) AS closed',
               'days(occurred_at) AS present', 'session_windows(occurred_at) AS visits'])"
        ))
        .unwrap();
    let events: Vec<_> = (0..240)
        .map(|n| {
            json!({"tenant_id": "acme", "account_id": format!("a{}", n % 2), "user_id": format!("u{}", n / 6), "name": "ran",
                   "session_id": (n % 5 > 0).then(|| format!("s{n}")), "event_id": format!("00000000-0000-4000-8000-{n:012}"),
                   "occurred_at": format!("2026-11-0{}T12:00:00Z", 1 + n % 3), "properties": {"value": n, "amount": 1, "currency": "EUR"}})
        })
        .collect();
    let mut client = database.connect(&writer);
    assert_eq!(ingest(&mut client, &json!(events).to_string()).unwrap().accepted, 240);
    let client = database.connect(&reader);
    (database, client)
}

#[test]
fn comments_say_what_adds_up_and_what_to_ask_instead() {
    let (database, mut reader) = company();
    let columns = columns(&mut database.superuser());
    let mut asked = 0;
    for (view, column, kind, comment) in &columns {
        assert!(!comment.is_empty(), "{view}.{column}");
        let is_number = ["bigint", "numeric", "double precision", "integer"].contains(&kind.as_str());
        let says = comment.contains("Adds up") || comment.contains("Doesn't add up");
        assert!(!is_number || says, "{view}.{column}: {comment}");
        let advice = comment.split_once("ask ").map(|(_, rest)| rest);
        let (advice, of) = match (advice, view.strip_suffix("_state")) {
            (None, _) => continue,
            (Some(advice), None) => (advice.strip_suffix(" of the _state view"), format!("{view}_state")),
            (Some(advice), Some(_)) => (advice.strip_suffix(", of one row or of several"), view.clone()),
        };
        let advice = advice.unwrap_or_else(|| panic!("{view}.{column}: {comment}"));
        assert_ne!(
            first(&mut reader, &format!("SELECT {advice} FROM tally.{of}")),
            "null",
            "{view}: {advice}"
        );
        asked += 1;
    }
    assert!(asked > 20, "{asked}");

    // The sum that tempts, and what the comment advises: 40 users, each in two accounts on three days.
    let advice = |name: &str| {
        let found =
            columns.iter().find(|(view, column, ..)| (view.as_str(), column.as_str()) == ("every_day", name));
        let comment = &found.unwrap().3;
        comment.split_once("ask ").unwrap().1.strip_suffix(" of the _state view").unwrap().to_owned()
    };
    let mut of_all =
        |name: &str| first(&mut reader, &format!("SELECT {} FROM tally.every_day_state", advice(name)));
    assert_eq!(of_all("order"), "40");
    assert_eq!(of_all("present"), "3");
    assert_eq!(of_all("visits"), "3");
    let median: f64 = of_all("took_p50").parse().unwrap();
    assert!((110.0..130.0).contains(&median), "{median}");
    assert_eq!(first(&mut reader, "SELECT sum(\"order\") FROM tally.every_day"), "240");
    assert_eq!(first(&mut reader, "SELECT sum(times) FROM tally.every_day"), "240");
    assert_eq!(first(&mut reader, "SELECT sum(total) FROM tally.every_day"), "28680");
    assert_eq!(first(&mut reader, "SELECT sum(events) FROM tally.accounts"), "240");
}

#[test]
fn every_column_can_be_listed_grouped_and_filtered_by() {
    let (database, mut reader) = company();
    for (view, column, ..) in columns(&mut database.superuser()) {
        let quoted = format!("\"{column}\"");
        let all: i64 = first(&mut reader, &format!("SELECT count(*) FROM tally.{view}")).parse().unwrap();
        let listed =
            format!("SELECT count(*) FROM (SELECT DISTINCT {quoted} FROM tally.{view} LIMIT 1000) AS d");
        let listed: i64 = first(&mut reader, &listed).parse().unwrap();
        assert!((1..=all).contains(&listed), "{view}.{column}: {listed} of {all}");
        let grouped = format!(
            "SELECT sum(n)::int8 FROM (SELECT count(*) AS n FROM tally.{view} GROUP BY {quoted}) AS g"
        );
        assert_eq!(first(&mut reader, &grouped), all.to_string(), "{view}.{column}");
        // A literal of a sketch's type is compared by an operator of schema tally, which a tool doesn't find.
        if view.ends_with("_state") {
            continue;
        }
        let filtered = format!(
            "SELECT count(*) FROM tally.{view} WHERE {quoted} IN (SELECT {quoted} FROM tally.{view} WHERE {quoted} IS NOT NULL LIMIT 1)
               OR {quoted} IS NULL"
        );
        assert_ne!(first(&mut reader, &filtered), "0", "{view}.{column}");
    }
}
