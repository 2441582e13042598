//! What docs/metrics.md says of `account` in the global scope, where several tenants have an account of that name.

use serde_json::json;
use tally_server_tests::{Database, ingest};

#[test]
fn a_global_scope_has_each_tenants_account_of_a_name() {
    let mut database = Database::new("one_name");
    let writer = database.role("writer", &["tally_writer", "tally_reader"]);
    let analyst = database.role("analyst", &["tally_analyst"]);
    let bindings =
        format!("SELECT tally.trust_role('{writer}'), tally.bind_role('{analyst}', scope => 'global')");
    database.superuser().batch_execute(&bindings).unwrap();
    let mut events = Vec::new();
    for tenant in ["a", "b", "c"] {
        for account in ["north", "south"] {
            events.push(json!({"tenant_id": tenant, "account_id": account, "user_id": "u", "name": "paid",
                "event_id": format!("00000000-0000-4000-8000-{:012}", events.len()), "occurred_at": "2024-05-01T10:00:00Z",
                "properties": {"amount": 2, "currency": "EUR"}}));
        }
    }
    assert_eq!(ingest(&mut database.connect(&writer), &json!(events).to_string()).unwrap().accepted, 6);

    let range = "'2024-05-01Z', '2024-06-01Z'";
    let mut global = database.connect(&analyst);
    let mut tenant = database.connect(&writer);
    for (question, of_all, of_one) in [
        (
            "SELECT sum(units)::text FROM tally.funnel(ARRAY['paid'], '1 day', RANGE, account => 'north')",
            "3",
            "1",
        ),
        ("SELECT count(*)::text FROM tally.did_at_least('paid', 1, RANGE, account => 'north')", "3", "1"),
        (
            "SELECT max(dau)::text FROM tally.active_users('[2024-05-01,2024-05-02)', account => 'north')",
            "3",
            "1",
        ),
        (
            "SELECT string_agg(tenant_id || round(amount), ' ' ORDER BY tenant_id) FROM tally.revenue(RANGE, account => 'north') WHERE amount > 0",
            "a2 b2 c2",
            "a2",
        ),
        (
            "SELECT string_agg(tenant_id || events_before, ' ' ORDER BY tenant_id) FROM tally.accounts_health('2024-07-01Z', account => 'north')",
            "a0 b0 c0",
            "a0",
        ),
    ] {
        let question = question.replace("RANGE", range);
        let answer: String = global.query_one(&question, &[]).unwrap().get(0);
        assert_eq!(answer, of_all, "{question}");
        let mut transaction = tenant.transaction().unwrap();
        transaction.batch_execute("SELECT tally.enter('a')").unwrap();
        let answer: String = transaction.query_one(&question, &[]).unwrap().get(0);
        assert_eq!(answer, of_one, "{question}");
    }
    let refused = global.query("SELECT tally.account_health('north', '2024-07-01Z')", &[]).unwrap_err();
    assert_eq!(refused.code().unwrap().code(), "22023");
}
