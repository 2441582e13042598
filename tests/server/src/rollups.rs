//! Folding and proving rollups, as an administrator does.

use postgres::{Client, Row};

/// Folds until nothing is pending.
pub fn fold_all(admin: &mut Client, rollup: &str) {
    while admin.query_one("SELECT tally.fold($1)", &[&rollup]).unwrap().get::<_, i64>(0) > 0 {}
}

/// The differences of a rollup in the global scope.
pub fn verify(admin: &mut Client, rollup: &str) -> Vec<Row> {
    let mut transaction = admin.transaction().unwrap();
    transaction.execute("SELECT tally.enter_global()", &[]).unwrap();
    transaction
        .query(
            "SELECT grain, tenant_id, account_id, bucket::text, dimensions::text, measure, stored, recomputed \
               FROM tally.verify_rollup($1)",
            &[&rollup],
        )
        .unwrap()
}

/// Panics where a rollup differs from a recomputation.
pub fn assert_right(admin: &mut Client, rollup: &str) {
    let differences = verify(admin, rollup);
    assert!(
        differences.is_empty(),
        "{rollup}: {} differences, first {:?}",
        differences.len(),
        (0..8).map(|place| differences[0].get::<_, Option<String>>(place)).collect::<Vec<_>>()
    );
}
