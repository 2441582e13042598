//! pg_tally: multi-tenant product analytics inside Postgres. docs/ARCHITECTURE.md is the map.

#![deny(unsafe_code)]

use pgrx::prelude::*;

mod activity;
mod audit;
#[allow(unsafe_code, reason = "calls into Postgres, each with its SAFETY note")]
mod backend;
mod catalog;
mod erasure;
mod event;
mod export;
mod ingest;
mod metric;
mod privacy;
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
    audit::install();
    catalog::install();
    backend::dropping::guard(settings::allow_drop);
    worker::register();
}

extension_sql_file!("../sql/extension/roles.sql", name = "roles", bootstrap);
extension_sql_file!("../sql/extension/register.sql", name = "register", requires = ["roles"]);
extension_sql_file!("../sql/sketch/sketch.sql", name = "sketch", requires = ["register"]);
extension_sql_file!("../sql/sketch/sketch_equality.sql", name = "sketch_equality", requires = ["sketch"]);
extension_sql_file!("../sql/event/event.sql", name = "event", requires = ["sketch_equality"]);
extension_sql_file!("../sql/scope/scope.sql", name = "scope", requires = ["event"]);
extension_sql_file!("../sql/scope/administration.sql", name = "administration", requires = ["scope"]);
extension_sql_file!("../sql/scope/token.sql", name = "token", requires = ["administration"]);
extension_sql_file!("../sql/audit/audit.sql", name = "audit", requires = ["token"]);
extension_sql_file!("../sql/audit/seal.sql", name = "seal", requires = ["audit"]);
extension_sql_file!("../sql/scope/step_up.sql", name = "step_up", requires = ["seal"]);
extension_sql_file!("../sql/raw/raw.sql", name = "raw", requires = ["step_up"]);
extension_sql_file!("../sql/raw/partition.sql", name = "partition", requires = ["raw"]);
extension_sql_file!("../sql/ingest/ingest.sql", name = "ingest", requires = ["partition"]);
extension_sql_file!("../sql/ingest/inbox.sql", name = "inbox", requires = ["ingest"]);
extension_sql_file!("../sql/ingest/quarantine.sql", name = "quarantine", requires = ["inbox"]);
extension_sql_file!("../sql/ingest/find_event.sql", name = "find_event", requires = ["quarantine"]);
extension_sql_file!("../sql/ingest/payload.sql", name = "payload", requires = ["find_event"]);
extension_sql_file!("../sql/ingest/stream.sql", name = "stream", requires = ["payload"]);
extension_sql_file!("../sql/registry/registry.sql", name = "registry", requires = ["stream"]);
extension_sql_file!("../sql/quota/quota.sql", name = "quota", requires = ["registry"]);
extension_sql_file!("../sql/rollup/rollup.sql", name = "rollup", requires = ["quota"]);
extension_sql_file!("../sql/activity/active_state.sql", name = "active_state", requires = ["rollup"]);
extension_sql_file!("../sql/rollup/state_view.sql", name = "state_view", requires = ["active_state"]);
extension_sql_file!("../sql/rollup/usage.sql", name = "usage", requires = ["state_view"]);
extension_sql_file!("../sql/rollup/enriched.sql", name = "enriched", requires = ["usage"]);
extension_sql_file!("../sql/rollup/payment.sql", name = "payment", requires = ["enriched"]);
extension_sql_file!("../sql/metric/whole.sql", name = "whole", requires = ["payment"]);
extension_sql_file!("../sql/rollup/upkeep.sql", name = "upkeep", requires = ["whole"]);
extension_sql_file!("../sql/metric/metric_aggregate.sql", name = "metric_aggregate", requires = ["upkeep"]);
extension_sql_file!(
    "../sql/metric/unit_aggregate.sql",
    name = "unit_aggregate",
    requires = ["metric_aggregate"]
);
extension_sql_file!("../sql/metric/metric_check.sql", name = "metric_check", requires = ["unit_aggregate"]);
extension_sql_file!("../sql/metric/funnel.sql", name = "funnel", requires = ["metric_check"]);
extension_sql_file!("../sql/metric/metric.sql", name = "metric", requires = ["funnel"]);
extension_sql_file!("../sql/metric/activity.sql", name = "activity", requires = ["metric"]);
extension_sql_file!("../sql/metric/definition.sql", name = "definition", requires = ["activity"]);
extension_sql_file!("../sql/privacy/protection.sql", name = "protection", requires = ["definition"]);
extension_sql_file!("../sql/privacy/privacy_key.sql", name = "privacy_key", requires = ["protection"]);
extension_sql_file!("../sql/privacy/renewal.sql", name = "renewal", requires = ["privacy_key"]);
extension_sql_file!("../sql/privacy/reveal.sql", name = "reveal", requires = ["renewal"]);
extension_sql_file!("../sql/scope/isolation.sql", name = "isolation", requires = ["reveal"]);
extension_sql_file!("../sql/scope/protect.sql", name = "protect", requires = ["isolation"]);
extension_sql_file!("../sql/lint/lint_rules.sql", name = "lint_rules", requires = ["protect"]);
extension_sql_file!("../sql/lint/lint_tables.sql", name = "lint_tables", requires = ["lint_rules"]);
extension_sql_file!("../sql/lint/lint_roles.sql", name = "lint_roles", requires = ["lint_tables"]);
extension_sql_file!("../sql/lint/lint_paths.sql", name = "lint_paths", requires = ["lint_roles"]);
extension_sql_file!("../sql/lint/lint_columns.sql", name = "lint_columns", requires = ["lint_paths"]);
extension_sql_file!("../sql/lint/lint_audit.sql", name = "lint_audit", requires = ["lint_columns"]);
extension_sql_file!("../sql/lint/lint.sql", name = "lint", requires = ["lint_audit"]);
extension_sql_file!("../sql/raw/retention.sql", name = "retention", requires = ["upkeep"]);
extension_sql_file!("../sql/maintain/worker.sql", name = "worker", requires = ["retention"]);
extension_sql_file!(
    "../sql/maintain/maintain.sql",
    name = "maintain",
    requires = ["lint", "definition", "worker"]
);
extension_sql_file!("../sql/maintain/probe.sql", name = "probe", requires = ["maintain"]);
extension_sql_file!("../sql/maintain/health.sql", name = "health", requires = ["probe"]);
extension_sql_file!("../sql/scope/limit.sql", name = "limit", requires = ["lint"]);
extension_sql_file!("../sql/audit/audit_changes.sql", name = "audit_changes", requires = ["limit", "health"]);
extension_sql_file!("../sql/erasure/erasure.sql", name = "erasure", requires = ["audit_changes"]);
extension_sql_file!("../sql/erasure/forget.sql", name = "forget", requires = ["erasure"]);
extension_sql_file!(
    "../sql/erasure/find_personal_data.sql",
    name = "find_personal_data",
    requires = ["forget"]
);
extension_sql_file!(
    "../sql/erasure/subject_report.sql",
    name = "subject_report",
    requires = ["find_personal_data"]
);
extension_sql_file!(
    "../sql/erasure/privacy_report.sql",
    name = "privacy_report",
    requires = ["subject_report"]
);
extension_sql_file!("../sql/catalog/asset.sql", name = "asset", requires = ["privacy_report"]);
extension_sql_file!("../sql/catalog/lineage.sql", name = "lineage", requires = ["asset"]);
extension_sql_file!("../sql/catalog/readable.sql", name = "readable", requires = ["lineage"]);
extension_sql_file!("../sql/catalog/catalog.sql", name = "catalog", requires = ["readable"]);
extension_sql_file!("../sql/catalog/access_alert.sql", name = "access_alert", requires = ["catalog"]);
extension_sql_file!("../sql/catalog/open_lineage.sql", name = "open_lineage", requires = ["access_alert"]);
extension_sql_file!("../sql/export/person.sql", name = "person", requires = ["open_lineage"]);
extension_sql_file!("../sql/export/export_policy.sql", name = "export_policy", requires = ["person"]);
extension_sql_file!("../sql/export/basis.sql", name = "export_basis", requires = ["export_policy"]);
extension_sql_file!("../sql/export/export.sql", name = "export", requires = ["export_basis"]);
extension_sql_file!("../sql/export/lint_export.sql", name = "lint_export", requires = ["export"]);
extension_sql_file!("../sql/privacy/lint_privacy.sql", name = "lint_privacy", requires = ["lint_export"]);
extension_sql_file!("../sql/erasure/lint_erasure.sql", name = "lint_erasure", requires = ["lint_privacy"]);
extension_sql_file!("../sql/extension/named_roles.sql", name = "named_roles", requires = ["lint_erasure"]);
extension_sql_file!("../sql/scope/testing.sql", name = "testing", requires = ["named_roles"]);
extension_sql_file!("../sql/extension/dropping.sql", name = "dropping", requires = ["testing"]);
// The last one: it looks at every object.
extension_sql_file!("../sql/extension/ambient.sql", name = "ambient", finalize);
