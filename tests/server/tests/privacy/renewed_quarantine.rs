//! Closing up what waits in quarantine, in steps that are bounded however much waits there.

use crate::keyed::{Keyed, array, event, maintain};
use postgres::Client;
use serde_json::json;
use tally_server_tests::{ingest, number};

/// Rows of a step.
const STEP_ROWS: i64 = 10;

/// Of tenant a, b and c in turn: events that wait in quarantine.
fn waiting(topic: &str) -> (Keyed, String) {
    let mut keyed = Keyed::new(topic);
    let admin = keyed.database.role("admin", &["tally_admin"]);
    let mut superuser = keyed.database.superuser();
    for part in 0..3 {
        let broken = (0..90).map(|n| {
            let tenant = ["a", "b", "c"][(n % 3) as usize];
            let mut event = event(tenant, part * 100 + n, "u", json!({"email": "planted"}));
            event["occurred_at"] = json!("never");
            event
        });
        assert_eq!(ingest(&mut superuser, &array(broken)).unwrap().rejected, 90);
    }
    let of_a = "SELECT count(*) FROM tally.quarantine WHERE tenant_id = 'a'";
    assert_eq!(number(&mut superuser, of_a), 90);
    (keyed, admin)
}

/// Makes one step of a tenant's; says how many rows of the quarantine it read.
fn step(client: &mut Client, tenant: &str) -> i64 {
    let reads = "SELECT (seq_tup_read + coalesce(idx_tup_fetch, 0))::int8 FROM pg_stat_xact_user_tables WHERE relid = 'tally.quarantine'::regclass";
    client.batch_execute("BEGIN").unwrap();
    // What earlier transactions read may not have been taken along yet.
    let before = number(client, reads);
    client.execute("SELECT tally_internal.step_privacy($1, $2)", &[&tenant, &STEP_ROWS]).unwrap();
    let reads = number(client, reads) - before;
    client.batch_execute("COMMIT").unwrap();
    reads
}

fn stage(client: &mut Client, tenant: &str) -> i64 {
    let query = "SELECT stage::int8 FROM tally.privacy_renewal WHERE tenant_id = $1";
    client.query_one(query, &[&tenant]).unwrap().get(0)
}

const CLOSED: &str =
    "SELECT count(*) FILTER (WHERE body ~ '^box[.]') * 1000 + count(*) FROM tally.quarantine WHERE tenant_id";

#[test]
fn a_step_reads_no_more_than_its_rows() {
    let (keyed, admin) = waiting("quarantine_bounded");
    let mut admin = keyed.database.connect(&admin);
    admin.batch_execute("SELECT tally.protect_property(NULL, 'email', 'token', 'b')").unwrap();
    // Of which nothing is protected any more, and which are gone through all the same.
    admin.batch_execute("SELECT tally.protect_property(NULL, 'email', 'token', 'c')").unwrap();
    keyed.database.superuser().batch_execute("DELETE FROM tally.protection WHERE tenant_id = 'c'").unwrap();
    let mut client = keyed.database.superuser();
    for (tenant, least) in [("c", 9), ("b", 9), ("", 27)] {
        while stage(&mut client, tenant) < 3 {
            step(&mut client, tenant);
        }
        let mut steps = 0;
        while stage(&mut client, tenant) == 3 {
            let reads = step(&mut client, tenant);
            assert!(reads <= STEP_ROWS, "tenant \"{tenant}\": a step read {reads} rows");
            steps += 1;
            assert!(steps < 100, "tenant \"{tenant}\": there is no end");
        }
        assert!(steps >= least, "tenant \"{tenant}\": {steps} steps");
    }
    let closed = ["a", "b", "c"].map(|tenant| number(&mut client, &format!("{CLOSED} = '{tenant}'")));
    assert_eq!(closed, [90, 90_090, 90]);
}

/// What somebody redrives meanwhile is closed up in another round, and nothing is taken for finished before.
#[test]
fn what_is_in_somebodys_hands_comes_in_another_round() {
    let (keyed, admin) = waiting("quarantine_in_hands");
    let mut admin = keyed.database.connect(&admin);
    admin.batch_execute("SELECT tally.protect_property(NULL, 'email', 'token', 'b')").unwrap();
    let mut client = keyed.database.superuser();
    let mut holder = keyed.database.superuser();
    holder
        .batch_execute("BEGIN; SELECT FROM tally.quarantine WHERE tenant_id = 'b' ORDER BY batch_id, \"position\" LIMIT 1 FOR UPDATE")
        .unwrap();
    for _ in 0..2 {
        client.batch_execute("CALL tally.maintain()").unwrap();
        let unfinished = "SELECT string_agg(tenant_id, ',' ORDER BY tenant_id) FROM tally.privacy_renewal WHERE finished_at IS NULL";
        let unfinished: Option<String> = client.query_one(unfinished, &[]).unwrap().get(0);
        assert_eq!(unfinished.as_deref(), Some(",b"));
        assert_eq!(number(&mut client, &format!("{CLOSED} = 'b'")), 89_090);
    }
    holder.batch_execute("COMMIT").unwrap();
    maintain(&mut client);
    assert_eq!(number(&mut client, &format!("{CLOSED} = 'b'")), 90_090);
}
