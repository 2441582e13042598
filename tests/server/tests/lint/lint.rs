//! `tally.lint` is silent about a clean install, finds each planted fault alone, and names a fix that works.

use postgres::{Client, GenericClient};
use serde_json::json;
use std::collections::BTreeSet;
use tally_server_tests::{Database, ingest, number};

struct Finding {
    name: String,
    object: String,
    fix: String,
}

fn lint(client: &mut impl GenericClient) -> Vec<Finding> {
    // Administrators are the cluster's: those of other tests, whose names end with their databases', may be there.
    let query =
        "SELECT name, concat_ws('.', metadata->>'schema', metadata->>'name'), remediation FROM tally.lint()
                 WHERE level IN ('ERROR', 'WARN', 'INFO') AND length(detail) > 10 AND length(description) > 20
                   AND (name <> 'export_approver_alone' OR metadata->>'name' LIKE '%' || current_database())";
    let row = |row: &postgres::Row| Finding { name: row.get(0), object: row.get(1), fix: row.get(2) };
    client.query(query, &[]).unwrap().iter().map(row).collect()
}

fn told(findings: &[Finding]) -> Vec<String> {
    findings.iter().map(|finding| format!("{}: {} ({})", finding.name, finding.object, finding.fix)).collect()
}

/// Rule, part of the object's name, SQL that plants the fault. `$owner`, `$app` and `$spare` are roles: the owner of
/// the protected tables, one bound to tenant `a`, one without anything.
const SECURITY: &str = include_str!("../../../../docs/SECURITY.md");
const FAULTS: &[(&str, &str, &str)] = &[
    (
        "audit_policy_missing",
        "tally.audit_policy",
        "INSERT INTO tally.audit_seal VALUES ('0', '1', now() - interval '8 days', 1, 1, 0, 0, 0, '2026-01-01', '', '', '', '', '', NULL); SELECT tally.audit_anchor()",
    ),
    (
        "privacy_left_behind",
        "usage",
        "INSERT INTO tally.privacy_renewal (tenant_id, stage, finished_at, left_in) VALUES ('a', 4, now(), '{usage}')",
    ),
    (
        "erased_there_again",
        "tally.events_p2026_01",
        "INSERT INTO tally.erasure (finished_at, subject_hash, tenant_id, requested_by, reason, certificate, months_missing)
         VALUES (now(), gen_random_uuid(), 'a', 'x', 'y', '{}', '{2026-01-01 00:00Z}')",
    ),
    ("audit_reads_off", "tally.audit_policy", "SELECT tally.set_audit_policy('none', 'a')"),
    (
        "audit_not_sealed",
        "tally.audit_entry",
        "INSERT INTO tally.audit_entry (xid, at, origin, entry_id, tenant_id, actor, act, leaf) SELECT pg_current_xact_id(), now() - interval '2 days', tally_internal.cluster_number(), gen_random_uuid(), 'a', 'x', 'y', ''",
    ),
    (
        "audit_not_anchored",
        "tally.audit_seal",
        "INSERT INTO tally.audit_seal VALUES ('0', '1', now() - interval '8 days', 1, 1, 0, 0, 0, '2026-01-01', '', '', '', '', '', NULL); SELECT tally.set_audit_policy('raw')",
    ),
    (
        "step_up_switched_off",
        "tally.step_up_policy",
        "SELECT tally.set_step_up_policy('approve_export', false)",
    ),
    (
        "export_approver_alone",
        "spare",
        "CREATE ROLE $spare_approvers; GRANT $spare_approvers, tally_admin TO $spare; SELECT tally.set_export_policy('raw', 1, approvers => '$spare_approvers')",
    ),
    // Where no policy says who approves, members of tally_admin do: of everything, of personal data, of few rows, of one tenant's.
    (
        "export_approver_alone",
        "spare",
        "GRANT tally_admin TO $spare; SELECT tally.set_export_policy(c, NULL) FROM unnest('{aggregate,raw,personal}'::text[]) AS c",
    ),
    (
        "export_approver_alone",
        "spare",
        "GRANT tally_admin TO $spare; SELECT tally.set_export_policy('personal', NULL)",
    ),
    (
        "export_approver_alone",
        "spare",
        "GRANT tally_admin TO $spare; SELECT tally.set_export_policy('raw', NULL), tally.set_export_policy('raw', 2, from_rows => 10, approvers => '$group')",
    ),
    (
        "export_approver_alone",
        "spare",
        "GRANT tally_admin TO $spare; SELECT tally.set_export_policy('raw', 2, tenant_id => 'a', from_rows => 10, approvers => '$group')",
    ),
    (
        "export_approver_unmapped",
        "spare",
        "CREATE ROLE $spare_approvers; GRANT $spare_approvers TO $spare; SELECT tally.set_export_policy('raw', 1, approvers => '$spare_approvers'), tally.map_person('jane', subject => 'jane')",
    ),
    (
        "export_approvers_gone",
        "spare",
        "CREATE ROLE $spare_approvers; SELECT tally.set_export_policy('raw', 1, approvers => '$spare_approvers'); DROP ROLE $spare_approvers",
    ),
    (
        "person_login_gone",
        "spare",
        "CREATE ROLE $spare_gone; SELECT tally.map_person('jane', login => '$spare_gone'); DROP ROLE $spare_gone",
    ),
    ("audit_unguarded", "tally.audit_rest", "DROP TRIGGER audit_kept ON tally.audit_rest"),
    ("audit_unguarded", "tally.audit_seal", "DROP TRIGGER audit_not_emptied ON tally.audit_seal"),
    ("audit_readable", "tally.audit_rest", "GRANT SELECT ON tally.audit_rest TO $app"),
    ("rls_disabled", "tally.events", "ALTER TABLE tally.events DISABLE ROW LEVEL SECURITY"),
    ("rls_disabled", "events_p2026_01", "ALTER TABLE tally.events_p2026_01 DISABLE ROW LEVEL SECURITY"),
    ("rls_disabled", "shop.orders", "ALTER TABLE shop.orders DISABLE ROW LEVEL SECURITY"),
    ("rls_not_forced", "usage_pending", "ALTER TABLE tally.usage_pending NO FORCE ROW LEVEL SECURITY"),
    ("rls_not_forced", "shop.part1", "ALTER TABLE shop.part1 NO FORCE ROW LEVEL SECURITY"),
    (
        "child_unprotected",
        "shop.part2",
        "CREATE TABLE shop.part2 PARTITION OF shop.part FOR VALUES IN (2); ALTER TABLE shop.part2 OWNER TO $owner",
    ),
    (
        "child_unprotected",
        "shop.heir",
        "CREATE TABLE shop.heir () INHERITS (shop.orders); ALTER TABLE shop.heir OWNER TO $owner",
    ),
    (
        "child_unprotected",
        "tally.events_p2031_01",
        "CREATE TABLE tally.events_p2031_01 PARTITION OF tally.events FOR VALUES FROM ('2031-01-01') TO ('2031-02-01'); ALTER TABLE tally.events_p2031_01 REPLICA IDENTITY FULL; ALTER TABLE tally.events_p2031_01 OWNER TO tally_owner",
    ),
    (
        "child_outside_extension",
        "shop.mine",
        "CREATE TABLE shop.mine PARTITION OF tally.events FOR VALUES FROM ('2031-01-01') TO ('2031-02-01')",
    ),
    ("guard_missing", "tally.quarantine", "DROP POLICY tally_guard ON tally.quarantine"),
    ("guard_missing", "shop.orders", "DROP POLICY tally_guard ON shop.orders"),
    ("guard_altered", "tally.event_key", "ALTER POLICY tally_guard ON tally.event_key USING (true)"),
    (
        "guard_altered",
        "shop.part1",
        "ALTER POLICY tally_guard ON shop.part1 WITH CHECK (tenant_id IS NOT NULL)",
    ),
    ("guard_altered", "shop.orders", "ALTER POLICY tally_guard ON shop.orders TO $app"),
    (
        "guard_altered",
        "tally.events",
        "DROP POLICY tally_guard ON tally.events; CREATE POLICY tally_guard ON tally.events AS RESTRICTIVE FOR SELECT USING (tenant_id = (SELECT tally.current_tenant()))",
    ),
    ("tenant_policy_altered", "shop.orders", "ALTER POLICY tally_tenant ON shop.orders USING (true)"),
    ("tenant_policy_altered", "tally.events", "ALTER POLICY tally_global ON tally.events TO PUBLIC"),
    ("tenant_policy_altered", "tally.tenant", "DROP POLICY tally_tenant ON tally.tenant"),
    (
        "administration_open",
        "tally.tenant_horizon",
        "ALTER TABLE tally.tenant_horizon DISABLE ROW LEVEL SECURITY",
    ),
    ("administration_open", "tally.retention", "DROP POLICY tally_confined ON tally.retention"),
    ("administration_open", "tally.maintenance", "CREATE POLICY mine ON tally.maintenance USING (true)"),
    (
        "administration_open",
        "tally.rollup_backfill",
        "ALTER POLICY tally_confined ON tally.rollup_backfill USING (true)",
    ),
    (
        "guard_altered",
        "tally.ingest_batch",
        "ALTER POLICY tally_guard ON tally.ingest_batch USING (tally.in_scope(tenant_id, (SELECT tally.scope_key())))",
    ),
    ("extra_policy", "shop.orders", "CREATE POLICY support ON shop.orders USING (true)"),
    (
        "policy_function",
        "shop.orders",
        "CREATE FUNCTION shop.peek(text) RETURNS boolean LANGUAGE sql AS 'SELECT true'; CREATE POLICY slow ON shop.orders AS RESTRICTIVE USING (shop.peek(tenant_id))",
    ),
    ("tenant_column_nullable", "shop.part", "ALTER TABLE shop.part ALTER tenant_id DROP NOT NULL"),
    ("owner_bypasses_rls", "shop.orders", "ALTER TABLE shop.orders OWNER TO postgres"),
    (
        "owner_bypasses_rls",
        "shop.lone",
        "ALTER TABLE shop.lone OWNER TO $spare; ALTER ROLE $spare BYPASSRLS; REVOKE ALL ON shop.lone FROM $spare",
    ),
    ("owner_changed", "tally.quarantine", "ALTER TABLE tally.quarantine OWNER TO postgres"),
    ("owner_changed", "tally.tenant", "ALTER TABLE tally.tenant OWNER TO tally_owner"),
    ("owner_changed", "tally.role_binding", "ALTER TABLE tally.role_binding OWNER TO tally_owner"),
    ("owner_changed", "tally.token_key", "ALTER TABLE tally.token_key OWNER TO tally_owner"),
    ("owner_changed", "tally.usage_day", "ALTER VIEW tally.usage_day OWNER TO postgres"),
    ("owner_changed", "tally.session_month_state", "ALTER VIEW tally.session_month_state OWNER TO $spare"),
    ("truncate_granted", "tally.events", "GRANT TRUNCATE ON tally.events TO tally_writer"),
    ("truncate_granted", "shop.orders", "GRANT TRUNCATE ON shop.orders TO PUBLIC"),
    ("references_granted", "shop.orders", "GRANT REFERENCES (tenant_id) ON shop.orders TO $app"),
    ("trigger_granted", "shop.part1", "GRANT TRIGGER ON shop.part1 TO $app"),
    ("write_granted", "tally.events", "GRANT UPDATE ON tally.events TO tally_writer"),
    ("write_granted", "tally.events", "GRANT DELETE ON tally.events TO tally_admin"),
    ("write_granted", "tally.role_binding", "GRANT UPDATE (tenant_id) ON tally.role_binding TO tally_reader"),
    ("read_granted_to_public", "tally.usage_day", "GRANT SELECT ON tally.usage_day TO PUBLIC"),
    ("secret_readable", "tally.tenant", "GRANT SELECT (sketch_key) ON tally.tenant TO tally_reader"),
    ("secret_readable", "tally.tenant", "GRANT SELECT ON tally.tenant TO tally_analyst"),
    ("secret_readable", "tally.stream_key", "GRANT SELECT (secret) ON tally.stream_key TO tally_reader"),
    ("unique_key_without_tenant", "shop.orders", "ALTER TABLE shop.orders ADD UNIQUE (id)"),
    (
        "unique_key_without_tenant",
        "tally.ingest_batch",
        "CREATE UNIQUE INDEX ON tally.ingest_batch (batch_id, ingested_at)",
    ),
    (
        "unique_key_without_tenant",
        "shop.orders",
        "CREATE UNIQUE INDEX ON shop.orders ((tenant_id || 'x'), id)",
    ),
    ("index_without_tenant", "shop.orders", "CREATE INDEX ON shop.orders (id)"),
    (
        "index_without_tenant",
        "shop.orders",
        "CREATE INDEX ON shop.orders (id DESC NULLS LAST) INCLUDE (tenant_id) WHERE id > 5",
    ),
    (
        "index_without_tenant",
        "shop.orders",
        "CREATE INDEX \"x USING btree (y); DROP TABLE shop.lone; --\" ON shop.orders (id)",
    ),
    ("index_without_tenant", "shop.orders", "CREATE INDEX ON shop.orders ((id + 1), tenant_id)"),
    ("index_without_tenant", "shop.orders", "CREATE INDEX ON shop.orders (lower(tenant_id), id)"),
    ("index_without_tenant", "shop.orders", "CREATE INDEX ON shop.orders USING hash (id) WHERE id > 5"),
    ("index_without_tenant", "shop.orders", "CREATE INDEX ON shop.orders USING hash (tenant_id)"),
    ("index_without_tenant", "shop.orders", "CREATE INDEX ON shop.orders USING brin (tenant_id)"),
    (
        "index_without_tenant",
        "shop.orders",
        "CREATE INDEX ON shop.orders USING gin (to_tsvector('simple', tenant_id))",
    ),
    ("index_without_tenant", "shop.orders", "CREATE INDEX ON shop.orders USING spgist (tenant_id)"),
    ("index_without_tenant", "shop.orders", "CREATE INDEX ON shop.orders (tenant_id COLLATE \"POSIX\", id)"),
    ("index_without_tenant", "shop.part", "CREATE INDEX ON shop.part (v)"),
    ("index_without_tenant", "shop.part1", "CREATE INDEX ON shop.part1 (v, tenant_id)"),
    ("index_without_tenant", "tally.events_p2026_01", "CREATE INDEX ON tally.events_p2026_01 (name)"),
    (
        "index_without_tenant",
        "tally.usage_day_base",
        "CREATE INDEX ON tally.usage_day_base USING hash (name)",
    ),
    ("index_without_tenant", "tally.quarantine", "CREATE INDEX ON tally.quarantine (event_id)"),
    ("exclusion_without_tenant", "shop.orders", "ALTER TABLE shop.orders ADD EXCLUDE USING hash (id WITH =)"),
    (
        "exclusion_without_tenant",
        "shop.orders",
        "ALTER TABLE shop.orders ADD EXCLUDE USING btree (id WITH =)",
    ),
    ("statistics_without_tenant", "shop.part", "CREATE STATISTICS shop.pairs ON v, (v + 1) FROM shop.part"),
    (
        "statistics_without_tenant",
        "tally.events",
        "CREATE STATISTICS shop.names ON name, user_id FROM tally.events",
    ),
    (
        "foreign_key_to_shared",
        "shop.lone",
        "CREATE TABLE shop.product (id int PRIMARY KEY); GRANT DELETE ON shop.product TO $app; ALTER TABLE shop.lone ADD COLUMN product int REFERENCES shop.product",
    ),
    (
        "foreign_key_to_shared",
        "shop.lone",
        "CREATE TABLE shop.product (id int PRIMARY KEY); GRANT UPDATE (id) ON shop.product TO PUBLIC; ALTER TABLE shop.lone ADD COLUMN product int REFERENCES shop.product",
    ),
    (
        "tenant_in_partition_bound",
        "shop.apart",
        "SET ROLE $owner; CREATE TABLE shop.apart (tenant_id text NOT NULL) PARTITION BY LIST (tenant_id); CREATE TABLE shop.apart1 PARTITION OF shop.apart FOR VALUES IN ('acme'); CREATE TABLE shop.apart2 PARTITION OF shop.apart DEFAULT; SELECT tally.protect('shop.apart'); RESET ROLE",
    ),
    ("tenant_in_partition_bound", "tally.events", "SELECT tally.isolate_tenant('a', '2026-01-01')"),
    (
        "foreign_key_without_tenant",
        "shop.line",
        "CREATE TABLE shop.line (t text, id int, FOREIGN KEY (t, id) REFERENCES shop.orders)",
    ),
    (
        "foreign_key_without_tenant",
        "shop.lone",
        "ALTER TABLE shop.lone ADD COLUMN other text, ADD COLUMN id int, ADD FOREIGN KEY (other, id) REFERENCES shop.orders",
    ),
    (
        "trigger_on_table",
        "tally.quarantine",
        "CREATE TRIGGER spy AFTER INSERT ON tally.quarantine EXECUTE FUNCTION suppress_redundant_updates_trigger()",
    ),
    ("rule_on_table", "shop.orders", "CREATE RULE spy AS ON INSERT TO shop.orders DO ALSO NOTIFY spy"),
    ("publication", "feed", "CREATE PUBLICATION feed FOR TABLE shop.orders"),
    ("publication", "feed", "CREATE PUBLICATION feed FOR ALL TABLES"),
    ("publication", "feed", "CREATE PUBLICATION feed FOR TABLES IN SCHEMA tally"),
    ("statistics_granted", "pg_catalog.pg_statistic", "GRANT SELECT ON pg_statistic TO $app"),
    (
        "default_privileges",
        "tally_owner",
        "ALTER DEFAULT PRIVILEGES FOR ROLE tally_owner GRANT SELECT ON TABLES TO PUBLIC",
    ),
    (
        "default_privileges",
        "postgres",
        "ALTER DEFAULT PRIVILEGES IN SCHEMA tally GRANT SELECT ON TABLES TO $app",
    ),
    (
        "default_privileges",
        "postgres",
        "ALTER DEFAULT PRIVILEGES IN SCHEMA tally GRANT EXECUTE ON FUNCTIONS TO $app",
    ),
    (
        "default_privileges",
        "tally_owner",
        "ALTER DEFAULT PRIVILEGES FOR ROLE tally_owner GRANT USAGE ON SEQUENCES TO $spare",
    ),
    ("group_role_attribute", "tally_reader", "ALTER ROLE tally_reader LOGIN"),
    ("group_role_attribute", "tally_owner", "ALTER ROLE tally_owner SUPERUSER"),
    ("group_role_attribute", "tally_security", "ALTER ROLE tally_security LOGIN"),
    ("group_role_attribute", "tally_evaluator", "ALTER ROLE tally_evaluator CREATEROLE"),
    ("group_role_attribute", "tally_analyst", "ALTER ROLE tally_analyst BYPASSRLS"),
    ("bypassrls_role", "spare", "ALTER ROLE $spare BYPASSRLS; GRANT tally_reader TO $spare"),
    ("bypassrls_role", "spare", "ALTER ROLE $spare BYPASSRLS; GRANT SELECT ON shop.orders TO $spare"),
    ("binding_bypasses_rls", "app", "ALTER ROLE $app BYPASSRLS"),
    ("binding_bypasses_rls", "spare", "SELECT tally.trust_role('$spare'); ALTER ROLE $spare SUPERUSER"),
    (
        "binding_without_role",
        "4000000000",
        "INSERT INTO tally.role_binding VALUES (4000000000::oid::regrole, 'a')",
    ),
    ("binding_of_renamed_role", "app", "ALTER ROLE $app RENAME TO $app_2"),
    (
        "binding_of_renamed_role",
        "spare",
        "SELECT tally.trust_role('$spare'); UPDATE tally.role_binding SET bound_as = 'another' WHERE tenant_id IS NULL",
    ),
    (
        "binding_ambiguous",
        "spare",
        "CREATE ROLE one IN ROLE tally_reader; CREATE ROLE two; GRANT one, two TO $spare; SELECT tally.bind_role('one', 'a'), tally.bind_role('two', 'b')",
    ),
    (
        "binding_ambiguous",
        "spare",
        "CREATE ROLE one; CREATE ROLE two ROLE one; CREATE ROLE three ROLE one; GRANT one TO $spare; SELECT tally.bind_role('two', 'a'), tally.trust_role('three')",
    ),
    (
        "global_role_writes",
        "spare",
        "GRANT tally_analyst, tally_writer TO $spare; SELECT tally.bind_role('$spare', scope => 'global')",
    ),
    (
        "global_role_writes",
        "spare",
        "CREATE ROLE tools IN ROLE tally_analyst ROLE $spare; GRANT tally_admin TO $spare; SELECT tally.bind_role('tools', scope => 'global')",
    ),
    (
        "global_role_not_analyst",
        "spare",
        "GRANT tally_analyst TO $spare; SELECT tally.bind_role('$spare', scope => 'global'); REVOKE tally_analyst FROM $spare",
    ),
    (
        "bound_role_is_admin",
        "spare",
        "CREATE ROLE clients ROLE $spare; SELECT tally.bind_role('clients', 'a'); GRANT tally_admin TO $spare",
    ),
    ("bound_role_is_admin", "app", "GRANT tally_admin TO $app"),
    ("bound_role_is_auditor", "app", "GRANT tally_auditor TO $app"),
    ("bound_role_owns_table", "app", "ALTER TABLE shop.lone OWNER TO $app"),
    ("owner_member", "spare", "GRANT tally_owner TO $spare"),
    ("owner_member", "spare", "GRANT tally_security TO $spare"),
    ("owner_member", "spare", "GRANT tally_evaluator TO $spare"),
    ("evaluator_may", "tally_evaluator", "GRANT $spare TO tally_evaluator"),
    ("evaluator_may", "tally_evaluator", "GRANT SELECT ON shop.orders TO tally_evaluator"),
    ("evaluator_may", "tally_evaluator", "GRANT CREATE ON DATABASE $database TO tally_evaluator"),
    (
        "evaluator_may",
        "tally_evaluator",
        "CREATE FUNCTION shop.f() RETURNS int LANGUAGE sql AS 'SELECT 1'; ALTER FUNCTION shop.f() OWNER TO tally_evaluator",
    ),
    ("createrole", "spare", "ALTER ROLE $spare CREATEROLE; GRANT tally_reader TO $spare WITH ADMIN OPTION"),
    ("data_role_member", "spare", "GRANT pg_read_all_data TO $spare"),
    ("data_role_member", "app", "GRANT pg_write_all_data TO $app"),
    ("data_role_member", "spare", "GRANT pg_execute_server_program TO $spare"),
    ("data_role_member", "spare", "GRANT pg_read_server_files TO $spare"),
    ("replication_role", "spare", "ALTER ROLE $spare REPLICATION"),
    ("library_not_preloaded", "app", "ALTER DATABASE $database RESET session_preload_libraries"),
    (
        "pool_role_setting",
        "spare",
        "SELECT tally.pool_role('$spare'); ALTER ROLE $spare SET tally.ingest_options = '{}'",
    ),
    (
        "pool_role_setting",
        "spare",
        "SELECT tally.pool_role('$spare'); ALTER ROLE $spare SET app.user_id = '7'",
    ),
    (
        "pool_role_setting",
        "spare",
        "SELECT tally.pool_role('$spare'); GRANT CREATE ON SCHEMA shop TO $spare; ALTER ROLE $spare IN DATABASE $database SET search_path = public, \"shop\"",
    ),
    (
        "plan_printing_library",
        "test_lint",
        "ALTER DATABASE $database SET session_preload_libraries = pg_tally, auto_explain",
    ),
    (
        "plan_printing_library",
        "app",
        "ALTER ROLE $app SET local_preload_libraries = '$libdir/plugins/auto_explain'",
    ),
    ("role_setting", "app", "ALTER ROLE $app SET row_security = off"),
    ("role_setting", "app", "ALTER ROLE $app IN DATABASE $database SET session_replication_role = replica"),
    ("role_setting", "test_lint", "ALTER DATABASE $database SET row_security = off"),
    ("role_setting", "app", "ALTER ROLE $app SET tally.scope = '*'"),
    ("role_setting", "app", "ALTER ROLE $app SET search_path = pg_temp, public"),
    ("view_owner_bypasses_rls", "shop.v", "CREATE VIEW shop.v AS SELECT * FROM tally.events"),
    (
        "view_owner_bypasses_rls",
        "shop.outer",
        "CREATE VIEW shop.inner WITH (security_invoker) AS SELECT * FROM shop.orders; CREATE VIEW shop.outer AS SELECT * FROM shop.inner",
    ),
    (
        "materialized_view",
        "shop.m",
        "CREATE MATERIALIZED VIEW shop.m AS SELECT * FROM tally.usage_day WITH NO DATA",
    ),
    (
        "materialized_view",
        "shop.m",
        "CREATE MATERIALIZED VIEW shop.m AS SELECT * FROM tally.current_scope() WITH NO DATA",
    ),
    (
        "materialized_view",
        "shop.m",
        "CREATE VIEW shop.w WITH (security_invoker) AS SELECT * FROM shop.orders; CREATE MATERIALIZED VIEW shop.m AS SELECT * FROM shop.w WITH NO DATA",
    ),
    (
        "security_definer_path",
        "shop.f()",
        "CREATE FUNCTION shop.f() RETURNS int LANGUAGE sql SECURITY DEFINER AS 'SELECT 1'",
    ),
    (
        "security_definer_temp",
        "shop.f()",
        "CREATE FUNCTION shop.f() RETURNS int LANGUAGE plpgsql SECURITY DEFINER SET search_path = shop AS 'BEGIN RETURN 1; END'",
    ),
    (
        "security_definer_reads",
        "shop.f()",
        "CREATE FUNCTION shop.f() RETURNS bigint LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS 'SELECT count(*) FROM shop.orders'; REVOKE ALL ON FUNCTION shop.f() FROM PUBLIC; GRANT EXECUTE ON FUNCTION shop.f() TO $app",
    ),
    (
        "security_definer_reads",
        "shop.f()",
        "CREATE FUNCTION shop.f() RETURNS bigint LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp BEGIN ATOMIC SELECT count(*) FROM tally.usage_day; END",
    ),
    (
        "leakproof_function",
        "shop.f(text)",
        "CREATE FUNCTION shop.f(text) RETURNS boolean LANGUAGE sql LEAKPROOF AS 'SELECT true'; ALTER FUNCTION shop.f(text) OWNER TO $spare",
    ),
    ("public_schema_writable", "public", "GRANT CREATE ON SCHEMA public TO PUBLIC"),
    ("tally_schema_writable", "tally", "GRANT CREATE ON SCHEMA tally TO PUBLIC"),
    ("tally_schema_writable", "tally", "GRANT CREATE ON SCHEMA tally TO tally_writer"),
    ("tally_schema_writable", "tally_internal", "GRANT CREATE ON SCHEMA tally_internal TO tally_owner"),
    (
        "stranger_in_schema",
        "tally_internal.check_id(integer)",
        "CREATE FUNCTION tally_internal.check_id(int) RETURNS int LANGUAGE sql AS 'SELECT 1'",
    ),
    ("read_granted_to_public", "usage_day_part", "GRANT SELECT ON tally_internal.usage_day_part TO PUBLIC"),
    (
        "function_granted_to_public",
        "note_maintenance",
        "GRANT EXECUTE ON FUNCTION tally_internal.note_maintenance(text, text, timestamptz, int8, text, text) TO PUBLIC",
    ),
    (
        "elevated_function_altered",
        "analyze_events",
        "ALTER FUNCTION tally_internal.analyze_events() RESET search_path",
    ),
    (
        "stranger_in_schema",
        "tally.enter(integer)",
        "CREATE FUNCTION tally.enter(int) RETURNS int LANGUAGE sql AS 'SELECT 1'",
    ),
    ("scope_function_altered", "current_tenant", "ALTER FUNCTION tally.current_tenant() IMMUTABLE"),
    (
        "scope_function_altered",
        "in_scope",
        "ALTER FUNCTION tally.in_scope(text, text, text) CALLED ON NULL INPUT",
    ),
    ("scope_function_altered", "scope_key", "ALTER FUNCTION tally.scope_key() IMMUTABLE"),
    (
        "scope_function_altered",
        "scope_is_global",
        "ALTER FUNCTION tally.scope_is_global() SET tally.scope = '*'",
    ),
    (
        "elevated_function_altered",
        "bind_role",
        "ALTER FUNCTION tally.bind_role(regrole, text, text) RESET search_path",
    ),
    ("elevated_function_altered", "trust_role", "ALTER FUNCTION tally.trust_role(regrole) OWNER TO postgres"),
    (
        "elevated_function_altered",
        "revoke_key",
        "ALTER FUNCTION tally.revoke_key(text, timestamptz) OWNER TO tally_owner",
    ),
    ("declared_code", "lower_all", "ALTER FUNCTION shop.lower_all(text) RESET search_path"),
    (
        "declared_code",
        "lower_all",
        "CREATE OR REPLACE FUNCTION shop.lower_all(x text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN x; END'",
    ),
    (
        "declared_code",
        "lower_all",
        "ALTER FUNCTION shop.lower_all(text) SECURITY DEFINER; REVOKE EXECUTE ON FUNCTION shop.lower_all(text) FROM PUBLIC; GRANT EXECUTE ON FUNCTION shop.lower_all(text) TO tally_evaluator",
    ),
    (
        "declared_code",
        "lower_all",
        "REVOKE EXECUTE ON FUNCTION shop.lower_all(text) FROM PUBLIC; DROP FUNCTION shop.lower_all(text)",
    ),
    ("function_granted", "trust_role", "GRANT EXECUTE ON FUNCTION tally.trust_role(regrole) TO $spare"),
    (
        "function_granted",
        "maintain_step",
        "GRANT EXECUTE ON FUNCTION tally_internal.maintain_step(text, text, int8) TO $app",
    ),
    (
        "function_granted_to_public",
        "enter_global",
        "GRANT EXECUTE ON FUNCTION tally.enter_global() TO PUBLIC",
    ),
    (
        "function_granted_to_public",
        "bind_role",
        "GRANT EXECUTE ON FUNCTION tally.bind_role(regrole, text, text) TO PUBLIC",
    ),
    ("file_function_granted", "pg_read_file(text)", "GRANT EXECUTE ON FUNCTION pg_read_file(text) TO PUBLIC"),
    ("table_altered", "event_key", "ALTER TABLE tally.event_key ALTER batch_id TYPE numeric"),
    ("table_altered", "quarantine", "ALTER TABLE tally.quarantine RENAME tried_at TO tried"),
    ("table_altered", "ingest_batch", "ALTER TABLE tally.ingest_batch RENAME TO batches"),
    ("table_altered", "usage_pending", "ALTER TABLE tally.usage_pending SET UNLOGGED"),
    (
        "table_altered",
        "event_key",
        "TRUNCATE tally.event_key; ALTER TABLE tally.event_key ADD COLUMN note text NOT NULL",
    ),
    (
        "added_code",
        "ingest_batch",
        "ALTER TABLE tally.ingest_batch ADD CONSTRAINT one CHECK (pg_advisory_xact_lock(1) IS NOT NULL) NOT VALID",
    ),
    (
        "added_code",
        "tally.events",
        "ALTER TABLE tally.events ADD CONSTRAINT one CHECK (current_query() <> '') NOT VALID",
    ),
    (
        "added_code",
        "events_p2026_01",
        "CREATE FUNCTION shop.setting(x text) RETURNS text LANGUAGE plpgsql IMMUTABLE SET statement_timeout = 0 AS 'BEGIN RETURN x; END';
         CREATE INDEX one ON tally.events_p2026_01 (tenant_id, shop.setting(name))",
    ),
    (
        "added_code",
        "usage_pending",
        "CREATE FUNCTION shop.owned(x text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE SECURITY DEFINER AS 'BEGIN RETURN true; END';
         REVOKE EXECUTE ON FUNCTION shop.owned(text) FROM PUBLIC; ALTER TABLE tally.usage_pending ADD CHECK (shop.owned(tenant_id)) NOT VALID",
    ),
    (
        "code_as_owner",
        "tally.rollup_fold",
        "CREATE FUNCTION shop.spy() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
         CREATE TRIGGER t AFTER UPDATE ON tally.rollup_fold FOR EACH ROW EXECUTE FUNCTION shop.spy()",
    ),
    (
        "code_as_owner",
        "quarantine_discard",
        "CREATE FUNCTION shop.own(x text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN x; END';
         ALTER TABLE tally.quarantine_discard ADD CONSTRAINT own CHECK (shop.own(reason) <> '') NOT VALID",
    ),
    (
        "code_as_owner",
        "tally.rollup",
        "CREATE TABLE shop.refers (rollup_name text COLLATE \"C\" REFERENCES tally.rollup ON DELETE CASCADE)",
    ),
    (
        "trigger_altered",
        "tally.role_binding",
        "ALTER TABLE tally.role_binding DISABLE TRIGGER role_binding_changed",
    ),
    (
        "trigger_altered",
        "tally.tenant_limit",
        "ALTER TABLE tally.tenant_limit ENABLE REPLICA TRIGGER tenant_limit_emptied",
    ),
    (
        "trigger_altered",
        "tally.inbox",
        "CREATE OR REPLACE TRIGGER inbox_row INSTEAD OF INSERT ON tally.inbox FOR EACH ROW EXECUTE FUNCTION tally_internal.inbox_row()",
    ),
    ("own_index", "tally.events", "CREATE INDEX own ON tally.events (tenant_id, user_id)"),
    ("own_column", "events", "ALTER TABLE tally.events ADD COLUMN note text"),
    ("own_column", "usage_day_base", "ALTER TABLE tally.usage_day_base ADD COLUMN note text DEFAULT 'none'"),
    ("own_column", "retention", "ALTER TABLE tally.retention ADD COLUMN why text"),
    ("replica_identity", "usage_pending", "ALTER TABLE tally.usage_pending REPLICA IDENTITY NOTHING"),
    ("replica_identity", "usage_day_base", "ALTER TABLE tally.usage_day_base REPLICA IDENTITY DEFAULT"),
    ("replica_identity", "event_key", "ALTER TABLE tally.event_key REPLICA IDENTITY NOTHING"),
    (
        "too_few_locks",
        "tally.events",
        "SELECT tally.enter_global(); SET ROLE tally_owner; SELECT tally_internal.create_partition(m AT TIME ZONE 'UTC') FROM generate_series(timestamp '2020-01-01', '2022-12-01', '1 month') AS m; RESET ROLE",
    ),
    (
        "month_detached",
        "tally.events_p2026_01",
        "ALTER TABLE tally.events DETACH PARTITION tally.events_p2026_01",
    ),
    ("month_missing", "tally.events", "DROP TABLE tally.events_p2026_01"),
    ("statistics_reader", "app", "GRANT pg_read_all_stats TO $app"),
    ("statistics_reader", "app", "GRANT pg_monitor TO $app"),
    ("statement_statistics", "pg_stat_statements", "CREATE EXTENSION pg_stat_statements"),
    (
        "statement_statistics",
        "shop.pg_stat_statements",
        "CREATE EXTENSION pg_stat_statements SCHEMA shop; REVOKE SELECT ON shop.pg_stat_statements FROM PUBLIC; REVOKE EXECUTE ON FUNCTION shop.pg_stat_statements(boolean) FROM PUBLIC; GRANT SELECT ON shop.pg_stat_statements TO tally_reader",
    ),
    (
        "event_trigger",
        "watch",
        "CREATE FUNCTION shop.watch() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END'; CREATE EVENT TRIGGER watch ON ddl_command_end EXECUTE FUNCTION shop.watch()",
    ),
];

/// A clean database in use: events, a rollup, bound roles, and tables that their owner has protected.
fn clean(database: &mut Database) -> (Client, Vec<(&'static str, String)>) {
    let roles: Vec<(&str, String)> = vec![
        ("$owner", database.role("owner", &["tally_writer"])),
        ("$app", database.role("app", &["tally_reader"])),
        ("$spare", database.role("spare", &[])),
        ("$group", database.reserve_role("group")),
        ("$database", database.name().to_owned()),
    ];
    let mut admin = database.superuser();
    let event = json!({"tenant_id": "a", "account_id": "a1", "name": "run",
        "event_id": "00000000-0000-4000-8000-000000000001", "occurred_at": "2026-01-05T00:00:00Z"});
    ingest(&mut admin, &event.to_string()).unwrap();
    let (owner, app, group) = (&roles[0].1, &roles[1].1, &roles[3].1);
    admin
        .batch_execute(&format!(
            "CREATE ROLE {group}; SELECT tally.set_export_policy(c, 1, approvers => '{group}') FROM unnest('{{aggregate,raw,personal}}'::text[]) AS c;
             SELECT tally.bind_role('{app}', 'a'); ALTER DATABASE {} SET session_preload_libraries = pg_tally;
             CREATE SCHEMA shop AUTHORIZATION {owner}; SET ROLE {owner};
             CREATE TABLE shop.orders (tenant_id text NOT NULL, id int, PRIMARY KEY (tenant_id, id));
             CREATE TABLE shop.item (tenant_id text NOT NULL, id int, FOREIGN KEY (tenant_id, id) REFERENCES shop.orders);
             CREATE TABLE shop.lone (tenant_id text NOT NULL);
             CREATE TABLE shop.part (tenant_id text NOT NULL, v int) PARTITION BY LIST (v);
             CREATE TABLE shop.part1 PARTITION OF shop.part FOR VALUES IN (1);
             CREATE TABLE shop.clan (tenant_id text NOT NULL); CREATE TABLE shop.kin () INHERITS (shop.clan);
             CREATE TABLE shop.typed (tenant_id uuid NOT NULL, id int, PRIMARY KEY (tenant_id, id));
             CREATE VIEW shop.own AS SELECT * FROM shop.orders;
             CREATE FUNCTION shop.harmless() RETURNS int LANGUAGE sql AS 'SELECT 1';
             CREATE FUNCTION shop.lower_all(x text) RETURNS text LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS 'BEGIN RETURN lower(x); END';
             GRANT USAGE ON SCHEMA shop TO tally_evaluator;
             SELECT tally.protect('shop.orders'), tally.protect('shop.item'), tally.protect('shop.lone'), tally.protect('shop.part'),
                    tally.protect('shop.clan'), tally.protect('shop.typed');
             GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA shop TO {app};
             RESET ROLE; SELECT tally.create_rollup('lower_all', '{{day}}', ARRAY['count(*) AS n'], ARRAY['shop.lower_all(name) AS name']);
             CREATE VIEW shop.safe WITH (security_invoker = true) AS SELECT * FROM tally.events",
            database.name()
        ))
        .unwrap();
    (admin, roles)
}

#[test]
fn settings_of_the_session_change_no_finding() {
    let mut database = Database::new("lint_settings");
    let (mut admin, roles) = clean(&mut database);
    admin.batch_execute("ALTER TABLE shop.orders DISABLE ROW LEVEL SECURITY; CREATE INDEX ON shop.lone (left(tenant_id, 1))").unwrap();
    let expected = told(&lint(&mut admin));
    assert_eq!(expected.len(), 2, "{expected:#?}");
    for setting in [
        "quote_all_identifiers = on",
        "search_path = shop, pg_catalog",
        "standard_conforming_strings = off",
        "DateStyle = 'German, DMY'",
        "IntervalStyle = sql_standard",
        "extra_float_digits = -15",
        "bytea_output = escape",
        "xmlbinary = hex",
        "transform_null_equals = on",
        "array_nulls = off",
        "row_security = off",
        "client_min_messages = error",
        "lc_messages = 'C'",
        "TimeZone = 'Asia/Kathmandu'",
    ] {
        let mut transaction = admin.transaction().unwrap();
        transaction.batch_execute(&format!("SET LOCAL {setting}")).unwrap();
        assert_eq!(told(&lint(&mut transaction)), expected, "{setting}");
    }
    // The same for what protect() finds missing, and for a database whose every session quotes.
    let owner = &roles[0].1;
    let mut session = database.connect(owner);
    session.batch_execute("SET quote_all_identifiers = on").unwrap();
    let statements = session.query("SELECT tally.protect('shop.item', dry_run => true)", &[]).unwrap();
    assert!(statements.is_empty(), "{} statements", statements.len());
    admin
        .batch_execute("ALTER TABLE shop.orders ENABLE ROW LEVEL SECURITY; DROP INDEX shop.lone_left_idx")
        .unwrap();
    let quoting = Database::without_extension("lint_quoting");
    quoting.set("quote_all_identifiers = on");
    let mut installer = quoting.superuser();
    installer.batch_execute("CREATE EXTENSION pg_tally; CREATE TABLE public.t (tenant_id text PRIMARY KEY); ALTER TABLE public.t OWNER TO tally_owner; SELECT tally.protect('public.t')").unwrap();
    for setting in ["on", "off"] {
        installer.batch_execute(&format!("SET quote_all_identifiers = {setting}")).unwrap();
        let found = lint(&mut installer);
        assert!(found.is_empty(), "{setting}: {:#?}", told(&found));
    }
}

#[test]
fn a_clean_install_has_no_findings() {
    let database = Database::new("lint_fresh");
    let found = lint(&mut database.superuser());
    assert!(found.is_empty(), "{:#?}", told(&found));
}

#[test]
fn each_planted_fault_is_found_alone_and_its_fix_removes_it() {
    let mut database = Database::new("lint");
    let (mut admin, roles) = clean(&mut database);
    let found = lint(&mut admin);
    assert!(found.is_empty(), "before any fault: {:#?}", told(&found));
    let (mut wrong, mut fixed) = (Vec::new(), 0);
    let version = number(&mut admin, "SELECT current_setting('server_version_num')::bigint");
    let later = LATER_FAULTS.iter().filter(|(since, _)| version >= i64::from(*since)).map(|(_, fault)| fault);
    let earlier =
        EARLIER_FAULTS.iter().filter(|(until, _)| version < i64::from(*until)).map(|(_, fault)| fault);
    let faults: Vec<_> = FAULTS.iter().chain(later).chain(earlier).collect();
    for (rule, object, fault) in &faults {
        let plant = roles.iter().fold((*fault).to_owned(), |sql, (name, role)| sql.replace(name, role));
        let mut transaction = admin.transaction().unwrap();
        if let Err(problem) = transaction.batch_execute(&plant) {
            wrong.push(format!("{plant}: {problem:?}"));
            continue;
        }
        let found = lint(&mut transaction);
        let alone = matches!(&found[..], [one] if one.name == *rule && one.object.contains(object));
        if !alone {
            wrong.push(format!("{rule} of {object}: found {:#?}", told(&found)));
            continue;
        }
        // A fix that ends like SQL is SQL.
        if found[0].fix.ends_with(';') {
            fixed += 1;
            if let Err(problem) = transaction.batch_execute(&found[0].fix) {
                wrong.push(format!("{rule} of {object}: {}: {problem:?}", found[0].fix));
                continue;
            }
            let mut left = lint(&mut transaction);
            // A column that somebody added may stay, and is told of as theirs.
            left.retain(|finding| finding.name != "own_column" || !plant.contains("ADD COLUMN"));
            if !left.is_empty() {
                wrong.push(format!("{rule} of {object}: after {}: {:#?}", found[0].fix, told(&left)));
            }
        }
        transaction.rollback().unwrap();
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), faults.len(), wrong.join("\n"));
    assert!(fixed * 5 >= faults.len() * 4, "{fixed} of {} fixes are SQL", faults.len());
    let found = lint(&mut admin);
    assert!(found.is_empty(), "after all: {:#?}", told(&found));
}

/// Faults that a later major refuses to make: from which on.
const EARLIER_FAULTS: &[(i32, (&str, &str, &str))] =
    &[(180000, ("tenant_column_nullable", "shop.kin", "ALTER TABLE shop.kin ALTER tenant_id DROP NOT NULL"))];

/// Faults that only later majors have: from which on.
const LATER_FAULTS: &[(i32, (&str, &str, &str))] = &[
    (170000, ("maintain_granted", "shop.orders", "GRANT MAINTAIN ON shop.orders TO $app")),
    (170000, ("maintain_granted", "tally.events", "GRANT MAINTAIN ON tally.events TO tally_writer")),
    (170000, ("data_role_member", "app", "GRANT pg_maintain TO $app")),
    (
        180000,
        (
            "tenant_column_nullable",
            "shop.late",
            "SET ROLE $owner; CREATE TABLE shop.late (tenant_id text NOT NULL); SELECT tally.protect('shop.late'); ALTER TABLE shop.late ALTER tenant_id DROP NOT NULL, ADD CONSTRAINT late NOT NULL tenant_id NOT VALID; RESET ROLE",
        ),
    ),
];

/// Defaults of columns, which are told of as theirs, too; and where ingest stops, it does so for what is told.
#[test]
fn code_that_ingest_refuses_is_told_with_table_object_and_reason() {
    let mut database = Database::new("lint_added");
    let writer = database.role("writer", &["tally_writer"]);
    let mut admin = database.superuser();
    admin
        .batch_execute(&format!("SELECT tally.bind_role('{writer}', 'a'), tally.open_months('2026-01-01')"))
        .unwrap();
    let mut client = database.connect(&writer);
    let mut sent = 0;
    let mut send = || {
        sent += 1;
        let event = json!({"tenant_id": "a", "account_id": "a1", "name": "run", "occurred_at": "2026-01-05T00:00:00Z",
            "event_id": format!("00000000-0000-4000-8000-{sent:012}")});
        ingest(&mut client, &event.to_string())
    };
    assert_eq!(send().unwrap().accepted, 1);
    for (added, function, fix) in [
        (
            "ADD COLUMN note text DEFAULT current_query()",
            "current_query",
            "ALTER TABLE tally.events ALTER note DROP DEFAULT;",
        ),
        (
            "ADD COLUMN note boolean DEFAULT (pg_advisory_xact_lock(1) IS NULL)",
            "pg_advisory_xact_lock",
            "ALTER TABLE tally.events ALTER note DROP DEFAULT;",
        ),
        ("ADD COLUMN note timestamptz DEFAULT now()", "", ""),
        ("ADD COLUMN note uuid DEFAULT gen_random_uuid(), ADD COLUMN noted float8 DEFAULT random()", "", ""),
        ("ADD COLUMN note text DEFAULT (current_user || 'x'), ADD CHECK (tenant_id <> 'x')", "", ""),
    ] {
        admin.batch_execute(&format!("ALTER TABLE tally.events {}", added)).unwrap();
        let query = "SELECT detail, remediation FROM tally.lint() WHERE name = 'added_code'";
        let found: Vec<(String, String)> =
            admin.query(query, &[]).unwrap().iter().map(|row| (row.get(0), row.get(1))).collect();
        let sent = send();
        if function.is_empty() {
            assert_eq!((found.len(), sent.unwrap().accepted), (0, 1), "{added}: {found:?}");
        } else {
            let refused = sent.expect_err(added);
            assert_eq!(refused.code().map(|code| code.code()), Some("42501"), "{added}: {refused:?}");
            assert!(
                matches!(&found[..], [(detail, found)] if detail.contains(&format!("column note of table tally.events calls {function}(), which may")) && found == fix),
                "{found:?}"
            );
            admin.batch_execute(&found[0].1).unwrap();
            assert_eq!(send().unwrap().accepted, 1, "{added}");
            assert_eq!(admin.query(query, &[]).unwrap().len(), 0);
        }
        admin
            .batch_execute("ALTER TABLE tally.events DROP COLUMN note, DROP COLUMN IF EXISTS noted")
            .unwrap();
    }
}

#[test]
fn every_rule_is_shown_to_find_something() {
    let database = Database::new("lint_rules");
    let rows = database.superuser().query("SELECT name FROM tally.lint_rules()", &[]).unwrap();
    let rules: BTreeSet<String> = rows.iter().map(|row| row.get(0)).collect();
    let planted: BTreeSet<String> = LATER_FAULTS
        .iter()
        .map(|(_, fault)| fault)
        .chain(FAULTS)
        .map(|(rule, ..)| (*rule).to_owned())
        .collect();
    assert_eq!(rules, planted);
    let said = format!("finds {} kinds of faults", rules.len());
    assert!(SECURITY.contains(&said), "docs/SECURITY.md doesn't say: {said}");
}

#[test]
fn an_auditor_may_lint_and_a_reader_may_not() {
    let mut database = Database::new("lint_who");
    let auditor = database.role("auditor", &["tally_auditor"]);
    let reader = database.role("reader", &["tally_reader"]);
    database.superuser().batch_execute("ALTER TABLE tally.events NO FORCE ROW LEVEL SECURITY").unwrap();
    assert_eq!(lint(&mut database.connect(&auditor)).len(), 1);
    assert!(database.connect(&reader).query("SELECT * FROM tally.lint()", &[]).is_err());
}
