//! pg_tally: multi-tenant product analytics inside Postgres. docs/ARCHITECTURE.md is the map.

use pgrx::prelude::*;

mod activity;
mod backend;
mod event;
mod ingest;
mod metric;
mod probe;
mod quota;
mod raw;
mod registry;
mod retention;
mod rollup;
mod scope;
mod settings;
mod sketch;
mod worker;

pgrx::pg_module_magic!(name, version);

/// Runs when a backend loads the library.
#[pg_guard]
pub extern "C-unwind" fn _PG_init() {
    backend::backtrace::keep_from_clients();
    settings::define();
    scope::confine();
    backend::dropping::guard(settings::allow_drop);
    worker::register();
}

extension_sql_file!("../sql/roles.sql", name = "roles", bootstrap);
extension_sql_file!("../sql/sketch.sql", name = "sketch", requires = ["roles"]);
extension_sql_file!("../sql/sketch_equality.sql", name = "sketch_equality", requires = ["sketch"]);
extension_sql_file!("../sql/event.sql", name = "event", requires = ["sketch_equality"]);
extension_sql_file!("../sql/scope.sql", name = "scope", requires = ["event"]);
extension_sql_file!("../sql/administration.sql", name = "administration", requires = ["scope"]);
extension_sql_file!("../sql/token.sql", name = "token", requires = ["administration"]);
extension_sql_file!("../sql/raw.sql", name = "raw", requires = ["token"]);
extension_sql_file!("../sql/partition.sql", name = "partition", requires = ["raw"]);
extension_sql_file!("../sql/ingest.sql", name = "ingest", requires = ["partition"]);
extension_sql_file!("../sql/inbox.sql", name = "inbox", requires = ["ingest"]);
extension_sql_file!("../sql/quarantine.sql", name = "quarantine", requires = ["inbox"]);
extension_sql_file!("../sql/find_event.sql", name = "find_event", requires = ["quarantine"]);
extension_sql_file!("../sql/registry.sql", name = "registry", requires = ["find_event"]);
extension_sql_file!("../sql/quota.sql", name = "quota", requires = ["registry"]);
extension_sql_file!("../sql/rollup.sql", name = "rollup", requires = ["quota"]);
extension_sql_file!("../sql/active_state.sql", name = "active_state", requires = ["rollup"]);
extension_sql_file!("../sql/usage.sql", name = "usage", requires = ["active_state"]);
extension_sql_file!("../sql/enriched.sql", name = "enriched", requires = ["usage"]);
extension_sql_file!("../sql/payment.sql", name = "payment", requires = ["enriched"]);
extension_sql_file!("../sql/whole.sql", name = "whole", requires = ["payment"]);
extension_sql_file!("../sql/upkeep.sql", name = "upkeep", requires = ["whole"]);
extension_sql_file!("../sql/metric_aggregate.sql", name = "metric_aggregate", requires = ["upkeep"]);
extension_sql_file!("../sql/unit_aggregate.sql", name = "unit_aggregate", requires = ["metric_aggregate"]);
extension_sql_file!("../sql/metric_check.sql", name = "metric_check", requires = ["unit_aggregate"]);
extension_sql_file!("../sql/funnel.sql", name = "funnel", requires = ["metric_check"]);
extension_sql_file!("../sql/metric.sql", name = "metric", requires = ["funnel"]);
extension_sql_file!("../sql/activity.sql", name = "activity", requires = ["metric"]);
extension_sql_file!("../sql/definition.sql", name = "definition", requires = ["activity"]);
extension_sql_file!("../sql/isolation.sql", name = "isolation", requires = ["upkeep"]);
extension_sql_file!("../sql/protect.sql", name = "protect", requires = ["isolation"]);
extension_sql_file!("../sql/lint_rules.sql", name = "lint_rules", requires = ["protect"]);
extension_sql_file!("../sql/lint_tables.sql", name = "lint_tables", requires = ["lint_rules"]);
extension_sql_file!("../sql/lint_roles.sql", name = "lint_roles", requires = ["lint_tables"]);
extension_sql_file!("../sql/lint_paths.sql", name = "lint_paths", requires = ["lint_roles"]);
extension_sql_file!("../sql/lint_columns.sql", name = "lint_columns", requires = ["lint_paths"]);
extension_sql_file!("../sql/lint.sql", name = "lint", requires = ["lint_columns"]);
extension_sql_file!("../sql/retention.sql", name = "retention", requires = ["upkeep"]);
extension_sql_file!("../sql/worker.sql", name = "worker", requires = ["retention"]);
extension_sql_file!("../sql/maintain.sql", name = "maintain", requires = ["lint", "definition", "worker"]);
extension_sql_file!("../sql/probe.sql", name = "probe", requires = ["maintain"]);
extension_sql_file!("../sql/health.sql", name = "health", requires = ["probe"]);
extension_sql_file!("../sql/limit.sql", name = "limit", requires = ["lint"]);
extension_sql_file!("../sql/testing.sql", name = "testing", requires = ["limit"]);
extension_sql_file!("../sql/dropping.sql", name = "dropping", requires = ["testing"]);
// The last one: it looks at every object.
extension_sql_file!("../sql/ambient.sql", name = "ambient", finalize);
