//! The ground that the other tests stand on: databases are fresh and apart, roles are real, nothing stays behind.

use tally_server_tests::{Database, connect_superuser, git_events, seeded};

#[test]
fn each_database_is_its_own_and_has_the_extension() {
    let (one, other) = (Database::new("one"), Database::new("other"));
    one.superuser().batch_execute("CREATE TABLE mark ()").unwrap();
    let query = "SELECT to_regclass('public.mark') IS NOT NULL,
                        EXISTS (SELECT FROM pg_extension WHERE extname = 'pg_tally')";
    let row = one.superuser().query_one(query, &[]).unwrap();
    assert_eq!((row.get::<_, bool>(0), row.get::<_, bool>(1)), (true, true));
    let row = other.superuser().query_one(query, &[]).unwrap();
    assert_eq!((row.get::<_, bool>(0), row.get::<_, bool>(1)), (false, true));
}

#[test]
fn a_role_is_no_superuser_and_goes_with_its_database() {
    let mut database = Database::new("roles");
    let role = database.role("writer", &["pg_monitor"]);
    let query =
        "SELECT current_setting('is_superuser'), session_user::text, pg_has_role('pg_monitor', 'USAGE')";
    let row = database.connect(&role).query_one(query, &[]).unwrap();
    assert_eq!(row.get::<_, &str>(0), "off");
    assert_eq!(row.get::<_, &str>(1), role);
    assert!(row.get::<_, bool>(2));

    let name = database.name().to_owned();
    drop(database);
    let query = "SELECT (SELECT count(*) FROM pg_roles WHERE rolname = $1) + \
                 (SELECT count(*) FROM pg_database WHERE datname = $2)";
    let left: i64 = connect_superuser("postgres").query_one(query, &[&role, &name]).unwrap().get(0);
    assert_eq!(left, 0);
}

#[test]
fn the_real_input_is_what_the_tests_take_it_for() {
    let Some(mut events) = git_events() else { return };
    assert_eq!(events.len(), 82_030);
    assert!(events.iter().all(|event| event.occurred_at.len() == 20 && event.occurred_at.ends_with('Z')));
    seeded().shuffle(&mut events);
    events.sort_by(|a, b| (&a.tenant_id, &a.event_id).cmp(&(&b.tenant_id, &b.event_id)));
    let repeated = events
        .windows(2)
        .filter(|pair| pair[0].tenant_id == pair[1].tenant_id && pair[0].event_id == pair[1].event_id)
        .count();
    assert_eq!(repeated, 0, "an event_id twice within a tenant");
}

/// A file that no folder's main.rs names is a test that somebody believes in and nobody runs.
#[test]
fn every_file_is_run() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests");
    let mut files = 0;
    for noun in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        assert!(noun.is_dir(), "{noun:?} belongs into the folder of a noun");
        let main = std::fs::read_to_string(noun.join("main.rs")).unwrap();
        let listed: Vec<&str> =
            main.lines().filter_map(|line| line.strip_prefix("mod ")?.strip_suffix(';')).collect();
        for file in std::fs::read_dir(&noun).unwrap().map(|entry| entry.unwrap().path()) {
            // A schema that a test reads lies beside it.
            if file.extension().is_none_or(|extension| extension != "rs") {
                continue;
            }
            let name = file.file_stem().unwrap().to_str().unwrap();
            assert!(name == "main" || listed.contains(&name), "{noun:?}/main.rs lacks mod {name}");
            files += 1;
        }
    }
    assert!(files > 60, "{files}");
}
