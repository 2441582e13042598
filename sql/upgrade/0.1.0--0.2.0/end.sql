-- Every guard: ours, those of declared rollups and partitions, and those of protected tables.
DO $upgrade$
DECLARE
  guarded record;
BEGIN
  FOR guarded IN
    SELECT p.polrelid::pg_catalog.regclass AS id, w.declared
      FROM pg_catalog.pg_policy AS p
      JOIN pg_catalog.pg_class AS c ON c.oid OPERATOR(pg_catalog.=) p.polrelid
      LEFT JOIN LATERAL (
        SELECT t.tenant_column, t.account_column FROM tally.protected_table AS t
         WHERE p.polrelid OPERATOR(pg_catalog.=) ANY (SELECT f.id FROM tally.family(t.table_name) AS f (id)) LIMIT 1) AS t ON true
      CROSS JOIN LATERAL tally.policies(p.polrelid,
        CASE WHEN c.relnamespace OPERATOR(pg_catalog.=) 'tally'::pg_catalog.regnamespace THEN 'tenant_id' ELSE t.tenant_column END,
        CASE WHEN c.relnamespace OPERATOR(pg_catalog.=) 'tally'::pg_catalog.regnamespace
             THEN (SELECT a.attname FROM pg_catalog.pg_attribute AS a
                    WHERE a.attrelid OPERATOR(pg_catalog.=) p.polrelid AND a.attname OPERATOR(pg_catalog.=) 'account_id' AND NOT a.attisdropped)
             ELSE t.account_column END) AS w
     WHERE p.polname OPERATOR(pg_catalog.=) 'tally_guard' AND w.policy_name OPERATOR(pg_catalog.=) 'tally_guard'
     ORDER BY p.polrelid
  LOOP
    EXECUTE pg_catalog.format('ALTER POLICY tally_guard ON %s USING (%s) WITH CHECK (%s)', guarded.id, guarded.declared, guarded.declared);
  END LOOP;
END
$upgrade$;

-- A policy of somebody's own may call these: then this stops, and says which.
DROP FUNCTION tally.scope_first_account(), tally.scope_last_account();
