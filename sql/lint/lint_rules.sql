-- What tally.lint() looks for. Each rule is one way in which isolation could be undone; the file that finds it adds it.

CREATE FUNCTION tally.lint_rules(OUT name text, OUT level text, OUT title text, OUT description text)
  RETURNS SETOF record ROWS 75
  LANGUAGE plpgsql STABLE PARALLEL SAFE STRICT
  SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  RETURN QUERY EXECUTE format('SELECT r.name, r.level, r.title, r.description FROM (%s) AS r', tally_internal.every('rules_', 'r.*'));
END
$$;
COMMENT ON FUNCTION tally.lint_rules() IS 'the rules of tally.lint(): what each finds, and why it matters';

CREATE FUNCTION tally_internal.isolated_tables(OUT id oid, OUT tenant_column name, OUT account_column name, OUT is_own boolean)
  RETURNS SETOF record
  LANGUAGE sql STABLE PARALLEL SAFE STRICT
  SET search_path = pg_catalog, pg_temp
  BEGIN ATOMIC
    SELECT c.oid, 'tenant_id'::name,
           (SELECT o.attname FROM pg_catalog.pg_attribute AS o
             WHERE o.attrelid = c.oid AND o.attname = 'account_id' AND NOT o.attisdropped), true
      FROM pg_catalog.pg_class AS c
      JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.oid AND a.attname = 'tenant_id' AND NOT a.attisdropped
     WHERE c.relnamespace = 'tally'::regnamespace AND c.relkind IN ('r', 'p')
       AND c.relname NOT IN ('role_binding', 'tenant_limit', 'retention', 'tenant_horizon', 'slo_target', 'export', 'export_policy', 'protection', 'privacy_key', 'privacy_renewal')
       -- Granted to nobody but auditors; the view tally.audit shows a tenant what is its own.
       AND NOT (c.relname ~ '^audit_'
                AND EXISTS (SELECT FROM pg_catalog.pg_depend AS d JOIN pg_catalog.pg_extension AS e ON e.oid = d.refobjid AND e.extname = 'pg_tally'
                             WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = coalesce(pg_catalog.pg_partition_root(c.oid), c.oid) AND d.deptype = 'e'))
    UNION ALL
    SELECT f.id::oid, p.tenant_column, p.account_column, false
      FROM tally.protected_table AS p
      JOIN pg_catalog.pg_class AS c ON c.oid = p.table_name
      CROSS JOIN LATERAL tally_internal.family(p.table_name) AS f (id);
  END;
COMMENT ON FUNCTION tally_internal.isolated_tables() IS
  'every table with row security by tenant: pg_tally''s own and the protected ones, with their partitions';
