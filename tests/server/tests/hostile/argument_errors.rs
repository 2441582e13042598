//! What is refused says which argument, and what to give instead: of each kind of mistake one call, as who may make it.

use postgres::Client;
use tally_server_tests::Database;

/// Who calls, the call, its SQLSTATE and a word of the message.
const MISTAKES: &[(&str, &str, &str, &str)] = &[
    ("admin", "tally.limit_tenant('acme', statement_timeout_ms => 0)", "23514", "statement_timeout_ms"),
    ("admin", "tally.limit_tenant('acme', work_mem_kb => 1)", "23514", "work_mem_kb"),
    (
        "admin",
        "tally.limit_tenant('acme', max_parallel_workers_per_gather => -1)",
        "23514",
        "max_parallel_workers_per_gather",
    ),
    ("admin", "tally.limit_tenant('acme', max_transactions => 0)", "23514", "max_transactions"),
    ("admin", "tally.limit_tenant('acme', idle_in_transaction_ms => -1)", "23514", "idle_in_transaction_ms"),
    ("admin", "tally.limit_tenant('acme', max_rows => -1)", "23514", "max_rows"),
    ("admin", "tally.limit_tenant(NULL)", "22004", "tenant_id"),
    ("admin", "tally.set_quota('acme', events_per_minute => 0)", "23514", "events_per_minute"),
    ("admin", "tally.set_quota('acme', burst => 5)", "23514", "events_per_minute"),
    ("admin", "tally.set_quota('acme', 10, burst => 0)", "23514", "burst"),
    ("admin", "tally.set_quota('acme', batch_events => 0)", "23514", "batch_events"),
    ("admin", "tally.set_quota('acme', properties_kb => 0)", "23514", "properties_kb"),
    ("admin", "tally.set_quota('acme', quarantine_events => 0)", "23514", "quarantine_events"),
    ("admin", "tally.set_slo('acme', '-1 hour', '1 hour')", "23514", "freshness"),
    ("admin", "tally.set_slo('acme', '1 hour', '-1 second')", "23514", "latency"),
    ("admin", "tally.set_slo('acme', '1 hour', '1 hour', 'NaN')", "23514", "share"),
    ("admin", "tally.set_slo('acme', '1 hour', '1 hour', NULL)", "23514", "share"),
    ("admin", "tally.set_export_policy('raw', 6)", "23514", "approvals"),
    ("admin", "tally.set_export_policy('raw', 1, from_rows => -1)", "23514", "from_rows"),
    ("admin", "tally.set_export_policy(NULL, 1)", "22004", "classification"),
    ("admin", "tally.set_export_policy('raw', 1, approvers => 0)", "42704", "role"),
    ("admin", "tally.classify('word', 'internal', 'because')", "42704", "word"),
    ("admin", "tally.classify('', 'internal', 'because')", "42704", "asset"),
    ("admin", "tally.classify(NULL, 'internal', 'because')", "22004", "asset"),
    ("admin", "tally.describe_asset('a.b.c.d', owner => 'x')", "42704", "a.b.c.d"),
    ("admin", "tally.impact('word')", "42704", "word"),
    ("admin", "tally.find_access_alerts('-infinity')", "22023", "since"),
    ("admin", "tally.set_step_up_policy(NULL, true)", "22004", "act"),
    ("admin", "tally.register_key(NULL, NULL)", "22004", "key_id"),
    ("admin", "tally.trust_role(0)", "42704", "role"),
    ("admin", "tally.create_rollup('r', '{NULL}', '{count(*) AS n}')", "22023", "grain"),
    ("admin", "tally.create_rollup('r', '{day}', '{}')", "22023", "measure"),
    ("admin", "tally.create_rollup('r', '{day}', '{count(*) AS n}', filter => '')", "22023", "filter"),
    ("admin", "tally.create_rollup('r', '{day}', '{count(*) AS n}', filter => E' \\n')", "22023", "filter"),
    ("admin", "tally.backfill('usage', 0)", "22023", "max_events"),
    ("admin", "tally.retain(-1)", "22023", "max_rows"),
    ("admin", "tally.fold('usage', 0)", "22023", "max_rows"),
    ("admin", "tally.seal_audit(0)", "22023", "max_entries"),
    ("admin", "tally.make_partitions(-1)", "22023", "months"),
    ("admin", "tally.drop_raw('infinity')", "22023", "before"),
    ("admin", "tally.detach_raw('-infinity')", "22023", "before"),
    ("admin", "tally.move_raw('infinity', 'pg_default')", "22023", "before"),
    ("admin", "tally.isolate_tenant('acme', '-infinity')", "22023", "from"),
    ("admin", "tally.set_step_up_policy('reveal', true, amr => '{{a,b},{c,d}}')", "22023", "amr"),
    ("admin", "tally.set_step_up_policy('reveal', true, acr => '{{a,b},{c,d}}')", "22023", "acr"),
    ("tenant", "tally.approx_percentile(2, tally.tdigest(1.0))", "22023", "fraction"),
    ("tenant", "tally.trimmed_mean(tally.tdigest(1.0), 0.9, 0.1)", "22023", "fraction"),
    ("tenant", "tally.distinct_count_upper(tally.hll(1), 4)", "22023", "deviations"),
    ("tenant", "tally.active_users('[5874000-01-01,5874000-02-01)')", "22023", "days"),
    ("admin", "tally.alter_rollup('usage')", "22023", "added"),
    ("admin", "tally.set_alert_state(NULL, 'open')", "42704", "alert null"),
    ("admin", "tally.set_alert_state(NULL, NULL)", "22023", "state"),
    ("admin", "tally.withdraw_export(NULL, 'because')", "42704", "export null"),
    ("tenant", "tally.reset_stream(NULL, 1)", "22004", "stream"),
    ("tenant", "tally.reset_stream('', 1)", "22023", "stream"),
    ("tenant", "tally.reset_stream(repeat('x', 300), 1)", "22001", "stream"),
    ("tenant", "tally.stream_position(NULL)", "22004", "stream"),
    ("tenant", "tally.redrive(max_events => -1)", "22023", "max_events"),
    ("tenant", "tally.protect(NULL, NULL)", "22004", "target"),
];

#[test]
fn mistakes_are_named_with_what_to_do_instead() {
    let mut database = Database::new("mistakes");
    let (admin, tenant) = (
        database.role("admin", &["tally_admin"]),
        database.role("tenant", &["tally_reader", "tally_writer"]),
    );
    database.superuser().execute("SELECT tally.bind_role($1::text::regrole, 'acme')", &[&tenant]).unwrap();
    let (mut admin, mut tenant) = (database.connect(&admin), database.connect(&tenant));
    for (who, call, code, word) in MISTAKES {
        let client: &mut Client = if *who == "admin" { &mut admin } else { &mut tenant };
        let refused = client.batch_execute(&format!("SELECT {call}")).expect_err(call);
        let error = refused.as_db_error().unwrap_or_else(|| panic!("{call}: {refused}"));
        let said = format!("{call}: {} {}", error.code().code(), error.message());
        assert_eq!(error.code().code(), *code, "{said}");
        assert!(error.message().contains(word), "{said}");
        assert!(!error.message().contains("relation"), "{said}");
        assert!(error.hint().is_some_and(|hint| !hint.is_empty()), "{said}");
    }
}
