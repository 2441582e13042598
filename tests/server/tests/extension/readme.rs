//! Every SQL statement of the README runs as it stands, as the login that its block names, with the outcome the text says.

use postgres::SimpleQueryMessage;
use tally_server_tests::Database;

/// The README's SQL blocks: login and text.
fn blocks() -> Vec<(String, String)> {
    let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../README.md")).unwrap();
    let mut blocks = Vec::new();
    let mut current: Option<(String, String)> = None;
    for line in readme.lines() {
        match (&mut current, line.strip_prefix("```sql ")) {
            (None, Some(login)) => current = Some((login.trim().to_owned(), String::new())),
            (Some(_), _) if line == "```" => blocks.extend(current.take()),
            (Some((_, text)), _) => {
                text.push_str(line);
                text.push('\n');
            }
            (None, None) => assert_ne!(line, "```sql", "a block without a login would not be tested"),
        }
    }
    blocks
}

/// Sessions' time zones: what the examples show is the same in each.
const ZONES: [&str; 4] = ["UTC", "America/New_York", "Asia/Kolkata", "Pacific/Kiritimati"];

#[test]
fn the_tour_runs_as_written() {
    ZONES.iter().for_each(|zone| tour(zone));
}

fn tour(zone: &str) {
    let mut database = Database::without_extension("tour");
    database.set(&format!("timezone = '{zone}'"));
    // The tour's roles get names of their own here: roles belong to the cluster, which other tests share.
    let logins = ["shop_app", "acme_bi", "our_analyst"];
    let names: Vec<String> = logins.iter().map(|login| database.reserve_role(login)).collect();
    let mut answers = Vec::new();
    for (login, mut text) in blocks() {
        let mut user = login.clone();
        for (login, name) in logins.iter().zip(&names) {
            text = text.replace(login, name);
            user = user.replace(login, name);
        }
        let mut client = if user == "postgres" { database.superuser() } else { database.connect(&user) };
        let messages =
            client.simple_query(&text).unwrap_or_else(|error| panic!("as {login}: {error:?}\n{text}"));
        answers.extend(messages.into_iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(
                (0..row.len()).map(|column| row.get(column).unwrap_or("").to_owned()).collect::<Vec<_>>(),
            ),
            _ => None,
        }));
    }
    let answers: Vec<String> = answers.iter().map(|row| row.join("|")).collect();
    let expected = [
        "4|0|0|0",
        "north|2026-03-02|2|2|118",
        "south|2026-03-03|1|1|15.5",
        "conflict|23505|an event with this event_id and other content is there already",
        "2",
        "3",
        "4",
        "2026-03-01|free|1|15.5",
        "2026-03-01|pro|2|200",
        "cy|2026-03-03|1",
        "north|2|2",
        "2026-03-03|1|3",
        "2026-03-02|1|2|0",
        "2|0|3",
    ];
    for line in expected {
        assert!(
            answers.iter().any(|answer| answer == line),
            "{zone}: no line {line} in\n{}",
            answers.join("\n")
        );
    }
    assert!(
        answers.iter().any(|answer| answer.starts_with("1|1|[{\"position\":0")),
        "{}",
        answers.join("\n")
    );
}
