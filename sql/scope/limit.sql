-- Limits of a tenant's transactions, from when they are in its scope.

CREATE TABLE tally.tenant_limit (
  statement_timeout_ms            int4,
  work_mem_kb                     int4,
  max_parallel_workers_per_gather int4,
  max_transactions                int4,
  slot_key                        int4 NOT NULL,
  tenant_id                       text COLLATE "C" NOT NULL CONSTRAINT tenant_limit_pkey PRIMARY KEY,
  idle_in_transaction_ms          int4,
  max_rows                        int8,
  CONSTRAINT tenant_limit_statement_timeout_positive CHECK (statement_timeout_ms > 0),
  CONSTRAINT tenant_limit_work_mem_allowed CHECK (work_mem_kb >= 64),
  CONSTRAINT tenant_limit_parallel_workers_allowed CHECK (max_parallel_workers_per_gather BETWEEN 0 AND 1024),
  CONSTRAINT tenant_limit_transactions_allowed CHECK (max_transactions BETWEEN 1 AND 10000),
  CONSTRAINT tenant_limit_idle_in_transaction_positive CHECK (idle_in_transaction_ms > 0),
  CONSTRAINT tenant_limit_rows_not_negative CHECK (max_rows >= 0)
);
ALTER TABLE tally.tenant_limit OWNER TO tally_owner;
COMMENT ON TABLE tally.tenant_limit IS 'what the transactions in a tenant''s scope are limited to';
COMMENT ON COLUMN tally.tenant_limit.statement_timeout_ms IS 'milliseconds that what a client sends may run, counted from when it came; null for any time';
COMMENT ON COLUMN tally.tenant_limit.work_mem_kb IS 'work_mem in kilobytes, and with it maintenance_work_mem, temp_buffers and logical_decoding_work_mem; hash tables get twice as much; null leaves them';
COMMENT ON COLUMN tally.tenant_limit.max_parallel_workers_per_gather IS 'the setting of that name, and max_parallel_maintenance_workers; null leaves them';
COMMENT ON COLUMN tally.tenant_limit.max_transactions IS 'transactions that may be in the tenant''s scope at a time; null for any number';
COMMENT ON COLUMN tally.tenant_limit.slot_key IS 'random number that stands for the tenant in the locks that count them: pg_locks is public';
COMMENT ON COLUMN tally.tenant_limit.tenant_id IS 'the tenant';
COMMENT ON COLUMN tally.tenant_limit.idle_in_transaction_ms IS 'milliseconds that a session may idle in an open transaction before it is ended; null for any time';
COMMENT ON COLUMN tally.tenant_limit.max_rows IS 'rows that one statement of the tenant''s logins may hand out, one of a cursor in all that is fetched from it; a row counts once for each 4 kB that it begins; null for any number';
SELECT tally_internal.confine_table('tally.tenant_limit');
REVOKE ALL ON tally.tenant_limit FROM PUBLIC;
GRANT SELECT ON tally.tenant_limit TO tally_admin, tally_auditor;
SELECT pg_catalog.pg_extension_config_dump('tally.tenant_limit', '');
CREATE TRIGGER tenant_limit_changed AFTER INSERT OR UPDATE OR DELETE ON tally.tenant_limit
  FOR EACH ROW EXECUTE FUNCTION tally_internal.forget();
CREATE TRIGGER tenant_limit_emptied AFTER TRUNCATE ON tally.tenant_limit
  FOR EACH STATEMENT EXECUTE FUNCTION tally_internal.forget();
ALTER TABLE tally.tenant_limit ENABLE ALWAYS TRIGGER tenant_limit_changed, ENABLE ALWAYS TRIGGER tenant_limit_emptied;

CREATE FUNCTION tally.limit_tenant(tenant_id text, statement_timeout_ms int4 DEFAULT NULL, work_mem_kb int4 DEFAULT NULL,
    max_parallel_workers_per_gather int4 DEFAULT NULL, max_transactions int4 DEFAULT NULL,
    idle_in_transaction_ms int4 DEFAULT NULL, max_rows int8 DEFAULT NULL) RETURNS void
  LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE CALLED ON NULL INPUT SECURITY DEFINER
  SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  problem text := CASE WHEN limit_tenant.statement_timeout_ms < 1 THEN 'statement_timeout_ms must be 1 or more'
                       WHEN limit_tenant.work_mem_kb < 64 THEN 'work_mem_kb must be 64 or more'
                       WHEN limit_tenant.max_parallel_workers_per_gather NOT BETWEEN 0 AND 1024 THEN 'max_parallel_workers_per_gather must be from 0 to 1024'
                       WHEN limit_tenant.max_transactions NOT BETWEEN 1 AND 10000 THEN 'max_transactions must be from 1 to 10000'
                       WHEN limit_tenant.idle_in_transaction_ms < 1 THEN 'idle_in_transaction_ms must be 1 or more'
                       WHEN limit_tenant.max_rows < 0 THEN 'max_rows must be 0 or more' END;
BEGIN
  IF limit_tenant.tenant_id IS NULL THEN
    RAISE EXCEPTION USING ERRCODE = 'null_value_not_allowed', MESSAGE = 'tenant_id must not be null',
      HINT = 'limits are of one tenant; leave all of them out to take them back';
  END IF;
  PERFORM tally_internal.check_id('tenant_id', limit_tenant.tenant_id);
  IF problem IS NOT NULL THEN
    RAISE EXCEPTION USING ERRCODE = 'check_violation', MESSAGE = problem, HINT = 'what is left out, or null, is not limited';
  END IF;
  DELETE FROM tally.tenant_limit AS l WHERE l.tenant_id OPERATOR(pg_catalog.=) limit_tenant.tenant_id;
  IF pg_catalog.num_nonnulls(limit_tenant.statement_timeout_ms, limit_tenant.work_mem_kb,
       limit_tenant.max_parallel_workers_per_gather, limit_tenant.max_transactions,
       limit_tenant.idle_in_transaction_ms, limit_tenant.max_rows) OPERATOR(pg_catalog.>) 0 THEN
    INSERT INTO tally.tenant_limit AS l (statement_timeout_ms, work_mem_kb, max_parallel_workers_per_gather, max_transactions,
      slot_key, tenant_id, idle_in_transaction_ms, max_rows)
    VALUES (limit_tenant.statement_timeout_ms, limit_tenant.work_mem_kb, limit_tenant.max_parallel_workers_per_gather,
            limit_tenant.max_transactions, pg_catalog.hashtext(pg_catalog.gen_random_uuid()::text), limit_tenant.tenant_id,
            limit_tenant.idle_in_transaction_ms, limit_tenant.max_rows);
  END IF;
END
$$;
COMMENT ON FUNCTION tally.limit_tenant(text, int4, int4, int4, int4, int4, int8) IS
  'limits the transactions in a tenant''s scope, each of them and how many there may be, and the rows that a statement of the tenant''s logins may hand out; replaces earlier limits, and removes them where every limit is null';
ALTER FUNCTION tally.limit_tenant(text, int4, int4, int4, int4, int4, int8) OWNER TO tally_owner;
REVOKE ALL ON FUNCTION tally.limit_tenant(text, int4, int4, int4, int4, int4, int8) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tally.limit_tenant(text, int4, int4, int4, int4, int4, int8) TO tally_admin;
