-- Limits that a tenant's transactions get when they enter its scope.

CREATE TABLE tally.tenant_limit (
  statement_timeout_ms            int4,
  work_mem_kb                     int4,
  max_parallel_workers_per_gather int4,
  tenant_id                       text COLLATE "C" NOT NULL CONSTRAINT tenant_limit_pkey PRIMARY KEY,
  CONSTRAINT tenant_limit_statement_timeout_positive CHECK (statement_timeout_ms > 0),
  CONSTRAINT tenant_limit_work_mem_allowed CHECK (work_mem_kb >= 64),
  CONSTRAINT tenant_limit_parallel_workers_allowed CHECK (max_parallel_workers_per_gather BETWEEN 0 AND 1024)
);
ALTER TABLE tally.tenant_limit OWNER TO tally_owner;
COMMENT ON TABLE tally.tenant_limit IS 'what a transaction is limited to when it enters a tenant''s scope';
COMMENT ON COLUMN tally.tenant_limit.statement_timeout_ms IS 'statement_timeout in milliseconds, for the statements after tally.enter(); null leaves it';
COMMENT ON COLUMN tally.tenant_limit.work_mem_kb IS 'work_mem in kilobytes; null leaves it';
COMMENT ON COLUMN tally.tenant_limit.max_parallel_workers_per_gather IS 'the setting of that name; null leaves it';
COMMENT ON COLUMN tally.tenant_limit.tenant_id IS 'the tenant';
REVOKE ALL ON tally.tenant_limit FROM PUBLIC;
GRANT SELECT ON tally.tenant_limit TO tally_admin, tally_auditor;
SELECT pg_catalog.pg_extension_config_dump('tally.tenant_limit', '');

CREATE FUNCTION tally.limit_tenant(tenant_id text, statement_timeout_ms int4 DEFAULT NULL, work_mem_kb int4 DEFAULT NULL,
    max_parallel_workers_per_gather int4 DEFAULT NULL) RETURNS void
  LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE CALLED ON NULL INPUT SECURITY DEFINER
  SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  IF limit_tenant.tenant_id IS NULL THEN
    RAISE EXCEPTION USING ERRCODE = 'null_value_not_allowed', MESSAGE = 'tenant_id must not be null';
  END IF;
  PERFORM tally.check_id('tenant_id', limit_tenant.tenant_id);
  DELETE FROM tally.tenant_limit AS l WHERE l.tenant_id OPERATOR(pg_catalog.=) limit_tenant.tenant_id;
  IF pg_catalog.num_nonnulls(limit_tenant.statement_timeout_ms, limit_tenant.work_mem_kb,
       limit_tenant.max_parallel_workers_per_gather) OPERATOR(pg_catalog.>) 0 THEN
    INSERT INTO tally.tenant_limit AS l (statement_timeout_ms, work_mem_kb, max_parallel_workers_per_gather, tenant_id)
    VALUES (limit_tenant.statement_timeout_ms, limit_tenant.work_mem_kb, limit_tenant.max_parallel_workers_per_gather,
            limit_tenant.tenant_id);
  END IF;
END
$$;
COMMENT ON FUNCTION tally.limit_tenant(text, int4, int4, int4) IS
  'limits the transactions that enter a tenant''s scope; replaces earlier limits, and removes them where every limit is null';
ALTER FUNCTION tally.limit_tenant(text, int4, int4, int4) OWNER TO tally_owner;
REVOKE ALL ON FUNCTION tally.limit_tenant(text, int4, int4, int4) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tally.limit_tenant(text, int4, int4, int4) TO tally_admin;
