//! The demo's story, told up to now, and the login of its tenant.

use crate::{Database, ingest};
use std::time::{SystemTime, UNIX_EPOCH};
use tally_story::Story;
use tally_workload::json_array;

/// A database with the story in it; a writer for all tenants and a reader bound to `acme`, as in `make demo`.
pub fn told(topic: &str) -> (Database, [String; 2]) {
    let mut database = Database::new(topic);
    let writer = database.role("writer", &["tally_writer", "tally_reader"]);
    let reader = database.role("reader", &["tally_reader"]);
    let grants = format!("SELECT tally.trust_role('{writer}'), tally.bind_role('{reader}', 'acme')");
    database.superuser().batch_execute(&grants).unwrap();
    let mut client = database.connect(&writer);
    for batch in story_until_now().chunks(5_000) {
        assert_eq!(ingest(&mut client, &json_array(batch)).unwrap().accepted, batch.len() as i64);
    }
    (database, [writer, reader])
}

/// A database with the demo's story, and a login that sees all three of its tenants.
pub fn told_of_several(topic: &str) -> (Database, String) {
    let (mut database, _) = told(topic);
    let analyst = database.role("analyst", &["tally_analyst"]);
    let binding = format!("SELECT tally.bind_role('{analyst}', scope => 'global')");
    database.superuser().batch_execute(&binding).unwrap();
    (database, analyst)
}

fn story_until_now() -> Vec<tally_workload::Event> {
    let until = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970").as_micros() as i64;
    Story { seed: 1, until }.events()
}
