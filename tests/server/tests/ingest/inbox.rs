//! The bulk door: whatever can write to a table ends in the same pipeline.

use postgres::Client;
use std::io::Write;
use tally_server_tests::{Database, ingest, number, wait_for};

fn counts(client: &mut Client) -> (i64, i64, i64, i64) {
    let row = client
        .query_one(
            "SELECT coalesce(sum(accepted), 0)::int8, coalesce(sum(duplicates), 0)::int8,
                    coalesce(sum(conflicts), 0)::int8, coalesce(sum(rejected), 0)::int8 FROM tally.ingest_batch",
            &[],
        )
        .unwrap();
    (row.get(0), row.get(1), row.get(2), row.get(3))
}

/// A line of text format.
fn line(id: u32) -> String {
    format!(
        "acme\tnorth\tpage.view\t2026-03-02T09:15:00Z\t00000000-0000-4000-8000-{id:012}\tu{}\t\\N\t{{\"value\": {id}}}\n",
        id % 7
    )
}

fn copy(client: &mut Client, options: &str, data: &[u8]) -> Result<u64, postgres::Error> {
    let mut writer = client.copy_in(&format!("COPY tally.inbox FROM STDIN {options}"))?;
    writer.write_all(data).unwrap();
    writer.finish()
}

#[test]
fn copy_takes_text_csv_and_binary() {
    let mut database = Database::new("inbox_formats");
    let writer = database.role("writer", &["tally_writer", "tally_reader"]);
    database.superuser().execute("SELECT tally.bind_role($1::text::regrole, 'acme')", &[&writer]).unwrap();
    let mut client = database.connect(&writer);
    let text: String = (0..25_000).map(line).collect();
    assert_eq!(copy(&mut client, "", text.as_bytes()).unwrap(), 25_000);
    assert_eq!(counts(&mut client), (25_000, 0, 0, 0));
    assert_eq!(number(&mut client, "SELECT count(*) FROM tally.ingest_batch"), 3);

    let csv = "name,tenant_id,account_id,occurred_at,event_id,properties\n\
               page.view,acme,north,2026-03-02 09:15:00+00,00000000-0000-4000-8000-000000025000,\"{\"\"value\"\": 25000}\"\n\
               page.view,acme,north,2026-03-02 09:15:00+00,00000000-0000-4000-8000-000000025001,\n";
    let options = "WITH (FORMAT csv, HEADER)";
    let mut writer = client
        .copy_in(&format!("COPY tally.inbox (name, tenant_id, account_id, occurred_at, event_id, properties) FROM STDIN {options}"))
        .unwrap();
    writer.write_all(csv.as_bytes()).unwrap();
    assert_eq!(writer.finish().unwrap(), 2);
    assert_eq!(
        number(&mut client, "SELECT count(*) FROM tally.events WHERE user_id IS NULL AND properties = '{}'"),
        1
    );

    // Binary: every field is the text's bytes.
    let mut binary = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0".to_vec();
    for id in 25_002..25_010 {
        let text = line(id);
        binary.extend(8_i16.to_be_bytes());
        for field in text.trim_end().split('\t') {
            match field {
                "\\N" => binary.extend((-1_i32).to_be_bytes()),
                field => {
                    binary.extend((field.len() as i32).to_be_bytes());
                    binary.extend(field.as_bytes());
                }
            }
        }
    }
    binary.extend((-1_i16).to_be_bytes());
    assert_eq!(copy(&mut client, "WITH (FORMAT binary)", &binary).unwrap(), 8);

    // All of it again: nothing is counted twice. And by the JSON door: the same events.
    assert_eq!(copy(&mut client, "", text.as_bytes()).unwrap(), 25_000);
    assert_eq!(counts(&mut client), (25_010, 25_000, 0, 0));
    let json = r#"{"tenant_id":"acme","account_id":"north","name":"page.view","occurred_at":"2026-03-02T09:15:00Z",
                   "event_id":"00000000-0000-4000-8000-000000000003","user_id":"u3","properties":{"value":3}}"#;
    assert_eq!(ingest(&mut client, json).unwrap().duplicates, 1);
    assert_eq!(number(&mut client, "SELECT sum(events)::int8 FROM tally.usage_day"), 25_010);
}

#[test]
fn bad_rows_go_to_quarantine_with_their_place_and_can_be_redriven() {
    let database = Database::new("inbox_bad");
    let mut client = database.superuser();
    let good: Vec<String> = (0..10_500).map(line).collect();
    let bad = [
        (line(1).replace("page.view", "\\N"), "23502"),
        (line(1).replace("acme", "x\\ty"), "22021"),
        (line(1).replace("2026-03-02T09:15:00Z", "yesterday"), "22007"),
        (line(1).replace("00000000-0000", "0"), "22P02"),
        (line(1).replace("{\"value\"", "[\"value\""), "22023"),
        (line(1).replace("1}", "1}, \"user_id\": \"eve\""), "22P02"),
        (line(1).replace("{\"value\": 1}", ""), "22P02"),
        (line(1).replace("{\"value\": 1}", "5"), "22023"),
        (line(1).replace("{\"value\": 1}", "null"), ""),
    ];
    let mut text = good.concat();
    bad.iter().for_each(|(line, _)| text.push_str(line));
    let rows = good.len() + bad.len();
    assert_eq!(copy(&mut client, "", text.as_bytes()).unwrap(), rows as u64);
    // Properties null: another content of the same key.
    assert_eq!(counts(&mut client), (10_500, 0, 1, 8));
    let kept = client
        .query("SELECT \"position\", sqlstate, body::json->>'account_id' FROM tally.quarantine WHERE outcome = 'rejected' ORDER BY 1", &[])
        .unwrap();
    for ((place, row), (line, sqlstate)) in kept.iter().enumerate().zip(&bad) {
        assert_eq!(
            (row.get::<_, i32>(0), row.get::<_, &str>(1)),
            ((good.len() + place) as i32, *sqlstate),
            "{line}"
        );
        assert_eq!(row.get::<_, &str>(2), "north", "{line}");
    }
    // Redriven, they are judged as before, except that absent properties were what made one a conflict.
    let row = client
        .query_one("SELECT accepted, duplicates, conflicts, rejected FROM tally.redrive()", &[])
        .unwrap();
    let again: Vec<i64> = (0..4).map(|column| row.get(column)).collect();
    assert_eq!(again, [0, 0, 1, 8]);
}

#[test]
fn a_copy_that_breaks_off_leaves_nothing_and_the_next_one_is_right() {
    let database = Database::new("inbox_abort");
    let mut client = database.superuser();
    let text: String = (0..15_000).map(line).collect();
    // A row of too few columns fails the COPY, after a batch was ingested and while rows are buffered.
    let error = copy(&mut client, "", format!("{text}too few\n").as_bytes()).unwrap_err();
    assert_eq!(error.as_db_error().unwrap().code().code(), "22P04");
    assert_eq!(counts(&mut client), (0, 0, 0, 0));
    // Aborted by the client.
    let mut writer = client.copy_in("COPY tally.inbox FROM STDIN").unwrap();
    writer.write_all(text.as_bytes()).unwrap();
    drop(writer);
    assert_eq!(counts(&mut client), (0, 0, 0, 0));
    // In a savepoint: what went before it stays, what failed in it is gone.
    let mut transaction = client.transaction().unwrap();
    transaction.batch_execute(&format!("INSERT INTO tally.inbox VALUES ({})", values(1))).unwrap();
    let mut savepoint = transaction.savepoint("s").unwrap();
    let mut writer = savepoint.copy_in("COPY tally.inbox FROM STDIN").unwrap();
    writer.write_all(b"too few\n").unwrap();
    assert!(writer.finish().is_err());
    savepoint.rollback().unwrap();
    transaction.batch_execute(&format!("INSERT INTO tally.inbox VALUES ({})", values(2))).unwrap();
    transaction.commit().unwrap();
    assert_eq!(counts(&mut client), (2, 0, 0, 0));
    assert_eq!(copy(&mut client, "", text.as_bytes()).unwrap(), 15_000);
    assert_eq!(counts(&mut client), (15_000, 2, 0, 0));
}

fn values(id: u32) -> String {
    let line = line(id);
    let fields = line
        .trim_end()
        .split('\t')
        .map(|field| if field == "\\N" { "NULL".into() } else { format!("'{field}'") });
    fields.collect::<Vec<String>>().join(", ")
}

#[test]
fn insert_takes_typed_columns_and_statements_within_statements() {
    let mut database = Database::new("inbox_insert");
    let writer = database.role("writer", &["tally_writer"]);
    let outsider = database.role("outsider", &["tally_writer"]);
    let reader = database.role("reader", &["tally_reader"]);
    let mut admin = database.superuser();
    admin.execute("SELECT tally.trust_role($1::text::regrole)", &[&writer]).unwrap();
    let mut client = database.connect(&writer);
    let inserted = client
        .execute(
            "INSERT INTO tally.inbox (tenant_id, account_id, name, occurred_at, event_id, properties)
             SELECT 'acme', 'north', 'page.view', '2026-03-02 09:15+00'::timestamptz, tally.event_id(n::text), jsonb_build_object('n', n)
             FROM generate_series(1, 12345) AS n",
            &[],
        )
        .unwrap();
    assert_eq!(inserted, 12_345);
    assert_eq!(
        client.execute("INSERT INTO tally.inbox SELECT * FROM tally.inbox WHERE false", &[]).map_err(|e| e
            .as_db_error()
            .unwrap()
            .code()
            .code()
            .to_owned()),
        Err("42501".to_owned()),
        "the inbox is for writing"
    );
    // A function that inserts, called by a statement that inserts; twice in one statement.
    admin
        .batch_execute(&format!(
            "CREATE FUNCTION public.other(n int) RETURNS text LANGUAGE sql AS $$
               INSERT INTO tally.inbox VALUES ('acme', 'south', 'inner', '2026-03-02T09:15:00Z', tally.event_id('inner' || n)::text, NULL, NULL, NULL);
               SELECT 'acme' $$;
             INSERT INTO tally.inbox (tenant_id, account_id, name, occurred_at, event_id)
             SELECT public.other(n), 'north', 'outer', '2026-03-02T09:15:00Z', tally.event_id('outer' || n) FROM generate_series(1, 30) AS n;
             WITH one AS (INSERT INTO tally.inbox VALUES ({}) RETURNING 1), two AS (INSERT INTO tally.inbox VALUES ({}) RETURNING 1)
             SELECT (SELECT count(*) FROM one) + (SELECT count(*) FROM two)",
            values(1),
            values(2)
        ))
        .unwrap();
    let by_name = "SELECT count(*) FROM tally.events WHERE name = ";
    assert_eq!(number(&mut admin, &format!("{by_name}'inner'")), 30);
    assert_eq!(number(&mut admin, &format!("{by_name}'outer'")), 30);
    assert_eq!(number(&mut admin, &format!("{by_name}'page.view'")), 12_347);
    assert_eq!(counts(&mut admin), (12_407, 0, 0, 0));

    // ON CONFLICT has no key to speak of here.
    let insert = format!("INSERT INTO tally.inbox VALUES ({})", values(1));
    assert_eq!(client.execute(&format!("{insert} ON CONFLICT DO NOTHING"), &[]).unwrap(), 1);
    let sqlstate = |error: postgres::Error| error.as_db_error().unwrap().code().code().to_owned();
    let error = admin.execute(&format!("{insert} ON CONFLICT (event_id) DO NOTHING"), &[]).unwrap_err();
    assert_eq!(sqlstate(error), "42P10");
    // Who may not write, or has no scope, gets an error before the first row.
    for (role, wanted) in [(&outsider, "42501"), (&reader, "42501")] {
        let mut client = database.connect(role);
        assert_eq!(sqlstate(client.execute(&insert, &[]).unwrap_err()), wanted);
        // Where the refusal arrives before the client has ended its rows, the driver tells of a closed stream instead.
        let refusal = copy(&mut client, "", b"").unwrap_err();
        assert!(refusal.as_db_error().is_none_or(|error| error.code().code() == wanted), "{refusal}");
    }
    for statement in ["DELETE FROM tally.inbox", "UPDATE tally.inbox SET name = 'x'", "TRUNCATE tally.inbox"]
    {
        assert!(client.execute(statement, &[]).is_err(), "{statement}");
    }
    assert_eq!(sqlstate(admin.query("SELECT tally_internal.inbox_row()", &[]).unwrap_err()), "0A000");
}

/// Resident memory of a backend that isn't shared with others, in kB.
fn memory(client: &mut Client) -> i64 {
    let pid: i32 = client.query_one("SELECT pg_backend_pid()", &[]).unwrap().get(0);
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let anonymous = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    anonymous.trim().trim_end_matches(" kB").parse().unwrap()
}

/// `TALLY_INBOX_ROWS` (200,000): 5,000,000 is the long form.
#[test]
fn a_copy_of_any_length_needs_bounded_memory() {
    let rows: u32 = std::env::var("TALLY_INBOX_ROWS").map_or(200_000, |rows| rows.parse().unwrap());
    let database = Database::new("inbox_memory");
    let mut client = database.superuser();
    let mut watcher = database.superuser();
    let pid: i32 = client.query_one("SELECT pg_backend_pid()", &[]).unwrap().get(0);
    let resident = |pid: i32| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("RssAnon:"))
            .unwrap()
            .trim()
            .trim_end_matches(" kB")
            .to_owned();
        line.parse::<i64>().unwrap()
    };
    let waits = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE pid = {pid} AND state = 'active' AND wait_event = 'ClientRead'"
    );
    let before = memory(&mut client);
    let mut seen = Vec::new();
    let mut writer = client.copy_in("COPY tally.inbox FROM STDIN").unwrap();
    for first in (0..rows).step_by(1_000) {
        let text: String = (first..first + 1_000).map(line).collect();
        writer.write_all(text.as_bytes()).unwrap();
        if first % (rows / 8) == 0 {
            writer.flush().unwrap();
            // It has taken in what was sent.
            wait_for("the server", || (number(&mut watcher, &waits) == 1).then_some(()));
            seen.push(resident(pid));
        }
    }
    assert_eq!(writer.finish().unwrap(), u64::from(rows));
    assert_eq!(number(&mut watcher, "SELECT count(*) FROM tally.event_key"), i64::from(rows));
    println!(
        "kB of a backend's own memory: {before} before, {seen:?} while {rows} rows came, {} after",
        memory(&mut client)
    );
    // The first batches find the caches empty.
    let (early, late) = seen.split_at(seen.len() / 2);
    let (early, late) = (*early.iter().max().unwrap(), *late.iter().max().unwrap());
    assert!(late < early * 5 / 4, "{before}, {seen:?}");
}
