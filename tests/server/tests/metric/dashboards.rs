//! dashboards/grafana.json on the demo's data, with what Grafana puts for its macros and variables, as a tenant's login: no panel
//! is empty, and none is all zeros.

use postgres::{Client, SimpleQueryMessage};
use serde_json::Value;
use std::collections::HashMap;
use tally_server_tests::{told, told_of_several};

/// What a month may be without.
const MAY_BE_ZERO: [&str; 4] = ["reactivation", "expansion", "contraction", "churned"];

/// The range that the dashboard opens with.
const RANGE: &str = "90 days";

/// Rows of a query, as text by the name of the column.
fn rows(client: &mut Client, query: &str) -> Vec<Vec<(String, Option<String>)>> {
    let messages = client.simple_query(query).unwrap_or_else(|problem| panic!("{query}: {problem:?}"));
    let row = |message: &SimpleQueryMessage| match message {
        SimpleQueryMessage::Row(row) => {
            let columns = row.columns().iter().enumerate();
            Some(
                columns
                    .map(|(n, column)| (column.name().to_owned(), row.get(n).map(str::to_owned)))
                    .collect(),
            )
        }
        _ => None,
    };
    messages.iter().filter_map(row).collect()
}

/// Values of a variable as Grafana's format `sqlstring` has them.
fn quoted(values: &[String]) -> String {
    values.iter().map(|value| format!("'{}'", value.replace('\'', "''"))).collect::<Vec<_>>().join(",")
}

/// A query with what Grafana puts for the macros and variables.
fn filled_in(query: &str, range: &str, variables: &HashMap<String, String>) -> String {
    // As Grafana writes moments.
    let moment = |ago: &str| {
        format!("to_char((now() - interval '{ago}') AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"')")
    };
    let (from, to) = (moment(range), moment("0 days"));
    let mut text = query.replace("$__timeFrom()", &from).replace("$__timeTo()", &to);
    while let Some((before, rest)) = text.split_once("$__timeFilter(") {
        let (column, after) = rest.split_once(')').unwrap();
        text = format!("{before}{column} BETWEEN ({from})::timestamptz AND ({to})::timestamptz{after}");
    }
    for (name, value) in variables {
        text = text.replace(&format!("${{{name}:sqlstring}}"), value).replace(&format!("${name}"), value);
    }
    assert!(!text.contains('$'), "something is not filled in: {text}");
    text
}

/// The dashboard.
fn dashboard() -> Value {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../dashboards/grafana.json");
    let dashboard: Value = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    assert_eq!(dashboard["time"]["from"], "now-90d", "RANGE");
    dashboard
}

/// The dashboard's variables, all of what each offers chosen.
fn all_chosen(dashboard: &Value, client: &mut Client) -> HashMap<String, String> {
    let mut variables = HashMap::from([("grain".to_owned(), "week".to_owned())]);
    let mut asked = 0;
    for variable in dashboard["templating"]["list"].as_array().unwrap() {
        if variable["type"] == "query" {
            let query = filled_in(variable["query"].as_str().unwrap(), RANGE, &variables);
            let values: Vec<String> =
                rows(client, &query).into_iter().map(|row| row[0].1.clone().unwrap()).collect();
            assert!(!values.is_empty(), "{query}");
            // What stands for all of them may be a value of its own.
            let all = variable["allValue"].as_str().map_or_else(|| quoted(&values), str::to_owned);
            variables.insert(variable["name"].as_str().unwrap().to_owned(), all);
            asked += 1;
        }
    }
    assert_eq!(asked, 2);
    variables
}

#[test]
fn every_panel_shows_all_tenants_of_a_global_login() {
    let (database, analyst) = told_of_several("panels_of_several");
    let mut client = database.connect(&analyst);
    let dashboard = dashboard();
    let variables = all_chosen(&dashboard, &mut client);
    let tenants: Vec<&str> = variables["tenant"].split(',').collect();
    assert_eq!(tenants, ["'acme'", "'globex'", "'initech'"]);
    let mut of_one = variables.clone();
    let mut number = |client: &mut Client, sql: &str, tenant: &str| {
        of_one.insert("tenant".to_owned(), tenant.to_owned());
        first_number(&rows(client, &filled_in(sql, RANGE, &of_one)))
    };
    for panel in dashboard["panels"].as_array().unwrap() {
        let title = panel["title"].as_str().unwrap();
        for target in panel["targets"].as_array().unwrap() {
            let sql = target["rawSql"].as_str().unwrap();
            assert!(!rows(&mut client, &filled_in(sql, RANGE, &variables)).is_empty(), "{title}");
            // Users, too, are those of a tenant and of the other: of one id two.
            if matches!(title, "Events" | "Users" | "Active accounts" | "Paid") {
                let of_each: f64 = tenants.iter().map(|tenant| number(&mut client, sql, tenant)).sum();
                let of_all = number(&mut client, sql, &variables["tenant"]);
                assert!(of_all > 0.0 && (of_all - of_each).abs() < 1e-6, "{title}: {of_all} of {of_each}");
            }
        }
    }
}

#[test]
fn every_panel_shows_something() {
    let (database, [_, reader]) = told("panels");
    let dashboard = dashboard();
    let mut client = database.connect(&reader);
    let variables = all_chosen(&dashboard, &mut client);
    assert_eq!(variables["tenant"], "'acme'");

    let panels = dashboard["panels"].as_array().unwrap();
    assert!(panels.len() > 10);
    for panel in panels {
        let title = panel["title"].as_str().unwrap();
        let targets = panel["targets"].as_array().unwrap();
        assert!(!targets.is_empty(), "{title} asks nothing");
        for target in targets {
            let sql = target["rawSql"].as_str().unwrap();
            let query = filled_in(sql, RANGE, &variables);
            let found = rows(&mut client, &query);
            assert!(!found.is_empty(), "{title}: {query} gives no rows");
            for (place, (column, _)) in found[0].iter().enumerate() {
                let says_something = |value: &str| value.parse() != Ok(0.0);
                let says = found.iter().any(|row| row[place].1.as_deref().is_some_and(says_something));
                assert!(
                    says || MAY_BE_ZERO.contains(&column.as_str()),
                    "{title}: {column} is empty: {query}"
                );
            }

            // Whatever somebody chooses, a panel may be empty but doesn't fail.
            for (range, grain) in [("10 minutes", "day"), ("6 hours", "week"), ("400 days", "month")] {
                let mut chosen = variables.clone();
                chosen.insert("grain".to_owned(), grain.to_owned());
                rows(&mut client, &filled_in(sql, range, &chosen));
            }

            // A chosen account reaches every panel.
            let mut one = variables.clone();
            let busiest = "SELECT account_id FROM tally.accounts ORDER BY events DESC LIMIT 1";
            one.insert("account".to_owned(), quoted(&[rows(&mut client, busiest)[0][0].1.clone().unwrap()]));
            let of_one = rows(&mut client, &filled_in(sql, RANGE, &one));
            assert!(!of_one.is_empty() && of_one != found, "{title}, of one account: {of_one:?}");
            if matches!(title, "Events" | "Users" | "Paid") {
                let (part, whole) = (first_number(&of_one), first_number(&found));
                assert!(part > 0.0 && part < whole, "{title}: {part} of {whole}");
            }
        }
    }
}

fn first_number(rows: &[Vec<(String, Option<String>)>]) -> f64 {
    rows[0].iter().find_map(|(_, value)| value.as_deref()?.parse().ok()).unwrap_or_default()
}
