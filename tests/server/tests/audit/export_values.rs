//! What an export hands out, and what it is asked with: every value as it is, each row on a line.

use super::export::{NOT_SO, Scene, TAKEN, approve, request, run};
use tally_server_tests::{code, ingest};

#[test]
fn numbers_of_parameters_keep_all_their_digits() {
    let scene = Scene::new("export_numbers");
    let mut client = scene.database.connect(&scene.requester);
    for (params, values) in [
        ("[123456789012345678901]", "123456789012345678901"),
        ("[0.1234567890123456789]", "0.1234567890123456789"),
        ("[1.10]", "1.10"),
        ("[1e30]", "1000000000000000000000000000000"),
        ("[-9007199254740993]", "-9007199254740993"),
        (r#"["1e30 \"\u00fc\\"]"#, r#"1e30 \"ü\\"#),
        ("[true]", "true"),
    ] {
        let id: String = client
            .query_one(
                "SELECT tally.request_export('SELECT $1 AS x', 'a test', 10, $1::text::jsonb)::text",
                &[&params],
            )
            .unwrap()
            .get(0);
        assert_eq!(approve(&mut scene.approver(0), &id), TAKEN);
        let kept = "SELECT params = $2::text::jsonb AND params::text = $2::text::jsonb::text FROM tally.exports WHERE id = $1::text::uuid";
        assert!(client.query_one(kept, &[&id, &params]).unwrap().get::<_, bool>(0), "{params}");
        assert_eq!(run(&mut client, &id).unwrap(), [format!("{{\"x\":\"{values}\"}}")], "{params}");
    }
    for params in ["{}", "[[1]]", "[{}]", "1", "null"] {
        let asked = client.query_one(
            "SELECT tally.request_export('SELECT $1 AS x', 'a test', 10, $1::text::jsonb)::text",
            &[&params],
        );
        assert_eq!(code(asked), "22023", "{params}");
    }
    // Beyond doubles, too.
    let params = format!("[1{}]", "0".repeat(400));
    client
        .query_one("SELECT tally.request_export('SELECT $1 AS x', 'a test', 10, $1::text::jsonb)", &[&params])
        .unwrap();
}

#[test]
fn an_erasure_finds_the_person_whose_id_is_a_number_of_many_digits() {
    let scene = Scene::new("export_long_ids");
    let mut admin = scene.database.superuser();
    let person = "123456789012345678901";
    let event = format!(
        r#"[{{"tenant_id": "a", "account_id": "x", "name": "run", "user_id": "{person}", "occurred_at": "2026-01-05T00:00:00Z", "event_id": "00000000-0000-4000-9000-000000000001"}}]"#
    );
    ingest(&mut admin, &event).unwrap();
    admin.batch_execute("SELECT tally.set_step_up_policy('erase_subject', false)").unwrap();
    let mut client = scene.database.connect(&scene.requester);
    let id: String = client
        .query_one("SELECT tally.request_export('SELECT n FROM shop.note WHERE body = $1', 'a test', 10, '[123456789012345678901]')::text", &[])
        .unwrap()
        .get(0);
    admin.batch_execute(&format!("SELECT tally.erase_subject('a', '{person}', 'a ticket')")).unwrap();
    assert_eq!(scene.state(&id), "void");
}

#[test]
fn a_row_is_a_line_whatever_its_values() {
    let scene = Scene::new("export_lines");
    let mut client = scene.database.connect(&scene.requester);
    let query = "SELECT E'{\"a\":\\n1.10,\\r\\n \"b\\\\n\": \"x\\\\r\\\\ny\"}'::json AS x, E'c\\nd' AS \"e\\nf\", n FROM shop.note WHERE n < 3 ORDER BY n";
    let id = scene.approved(&mut client, query, 10);
    let lines = run(&mut client, &id).unwrap();
    let line = |n: i32| format!(r#"{{"x":{{"a": 1.10,   "b\n": "x\r\ny"}},"e\\nf":"c\nd","n":{n}}}"#);
    assert_eq!(lines, [line(1), line(2)]);
    let hash: bool = scene
        .database
        .superuser()
        .query_one(
            "SELECT content_hash = encode(sha256(convert_to($1, 'UTF8')), 'hex') FROM tally.exports",
            &[&(lines.join("\n") + "\n")],
        )
        .unwrap()
        .get(0);
    assert!(hash);
}

#[test]
fn what_was_requested_in_the_same_transaction_says_so() {
    let scene = Scene::new("export_same_transaction");
    scene.database.superuser().batch_execute("SELECT tally.set_export_policy('aggregate', 0)").unwrap();
    let mut client = scene.database.connect(&scene.requester);
    for savepoint in ["", "SAVEPOINT s"] {
        let mut transaction = client.transaction().unwrap();
        transaction.batch_execute(savepoint).unwrap();
        let id = request(&mut transaction, "SELECT 1 AS n", 10).unwrap();
        let error = run(&mut transaction, &id).unwrap_err();
        let told = error.as_db_error().unwrap();
        assert_eq!(
            (told.code().code(), told.message().contains("in the transaction that requested it")),
            (NOT_SO, true),
            "{told:?}"
        );
    }
    // Committed, it runs.
    let id = request(&mut client, "SELECT 1 AS n", 10).unwrap();
    assert_eq!(run(&mut client, &id).unwrap(), [r#"{"n":1}"#]);
}
