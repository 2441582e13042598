-- Row security of the tables of administration: they belong to no scope, and administrators and analysts read them without
-- entering one. A session that is confined to a tenant, by its scope or its login, sees that tenant's rows alone, and of what
-- isn't kept by tenant nothing. Not forced: the functions that write them belong to their owner and act for any tenant.
--
-- Without row security are tally.role_binding, tally.token_key and tally.protected_table, which hold what auditors are there
-- to see (lint reports a bound auditor), what is the same for every tenant: tally.rollup, tally.rollup_column,
-- tally.event_schema, tally.step_up_policy, tally.person_identity, tally.metric, tally.cohort, tally.audit_retention, and the entries of the audit log, tally.audit_entry with
-- its partitions and tally.audit_personal, which are granted to nobody: the view tally.audit shows what is in scope.
CREATE FUNCTION tally_internal.administration_tables(OUT id regclass, OUT condition text) RETURNS SETOF record
  LANGUAGE sql STABLE PARALLEL SAFE STRICT
  SET search_path = pg_catalog, pg_temp
  BEGIN ATOMIC
    -- Requests of the global scope are no tenant's.
    SELECT c.oid::regclass, CASE WHEN v.name = 'export' THEN
               '((( SELECT tally_internal.confined_to() AS confined_to) IS NULL) OR (tenant_id = ( SELECT tally_internal.confined_to() AS confined_to)))'
             WHEN v.is_by_tenant THEN pg_catalog.concat(
               '((( SELECT tally_internal.confined_to() AS confined_to) IS NULL) OR (tenant_id = ANY (ARRAY[( SELECT tally_internal.confined_to() AS confined_to), ', pg_catalog.quote_literal(''), '::text])))')
             ELSE '(( SELECT tally_internal.confined_to() AS confined_to) IS NULL)' END
      FROM (VALUES ('retention', true), ('tenant_horizon', true), ('slo_target', true), ('tenant_limit', true), ('export', true), ('export_policy', true), ('export_approval', false),
                   ('audit_policy', true), ('audit_seal', false), ('protection', true), ('privacy_key', true),
                   ('privacy_renewal', true), ('reveal_count', false), ('reveal_limit', false),
                   ('rollup_backfill', false), ('rollup_fold', false), ('raw_horizon', false), ('raw_month', false),
                   ('maintenance', false), ('probe_result', false), ('erasure_trace', false),
                   ('asset', false), ('personal_column', false), ('access_day', false), ('access_alert', false)) AS v (name, is_by_tenant)
      JOIN pg_catalog.pg_class AS c ON c.relname = v.name AND c.relnamespace = 'tally'::regnamespace;
  END;
COMMENT ON FUNCTION tally_internal.administration_tables() IS
  'tables that no scope is needed to read, and the condition of the policy tally_confined that each must have';

CREATE FUNCTION tally_internal.confine_table(target regclass) RETURNS void
  LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE STRICT
  SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  EXECUTE pg_catalog.format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', target);
  EXECUTE pg_catalog.format('DROP POLICY IF EXISTS tally_confined ON %s', target);
  EXECUTE (SELECT pg_catalog.format('CREATE POLICY tally_confined ON %s USING %s', target, a.condition)
             FROM tally_internal.administration_tables() AS a WHERE a.id OPERATOR(pg_catalog.=) target);
END
$$;
COMMENT ON FUNCTION tally_internal.confine_table(regclass) IS
  'enables row security on a table of administration and makes its policy';
REVOKE ALL ON FUNCTION tally_internal.administration_tables(), tally_internal.confine_table(regclass) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tally_internal.administration_tables() TO tally_admin, tally_auditor;
