-- Protection: the row security of pg_tally's own tables, for a table of the user's.

CREATE TABLE tally.protected_table (
  table_name     regclass NOT NULL CONSTRAINT protected_table_pkey PRIMARY KEY,
  tenant_column  name NOT NULL,
  account_column name
);
ALTER TABLE tally.protected_table OWNER TO tally_owner;
COMMENT ON TABLE tally.protected_table IS 'the user''s tables that tally.protect() has protected; tally.lint() watches them';
COMMENT ON COLUMN tally.protected_table.table_name IS 'the table; its partitions are protected with it';
COMMENT ON COLUMN tally.protected_table.tenant_column IS 'the column that holds the tenant';
COMMENT ON COLUMN tally.protected_table.account_column IS 'the column that holds the account; null where the tenant alone bounds';
REVOKE ALL ON tally.protected_table FROM PUBLIC;
GRANT SELECT ON tally.protected_table TO tally_admin, tally_auditor;
-- A table that was dropped is printed as a number, which is another table's where the dump is restored.
SELECT pg_catalog.pg_extension_config_dump('tally.protected_table',
  'WHERE EXISTS (SELECT FROM pg_catalog.pg_class AS c WHERE c.oid OPERATOR(pg_catalog.=) table_name::pg_catalog.oid)');

CREATE FUNCTION tally_internal.check_protectable(target regclass, tenant_column name, account_column name) RETURNS void
  LANGUAGE plpgsql STABLE PARALLEL SAFE CALLED ON NULL INPUT
  SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  seen  record;
  wanted record;
BEGIN
  IF target IS NULL OR tenant_column IS NULL THEN
    RAISE EXCEPTION USING ERRCODE = 'null_value_not_allowed', MESSAGE = 'target and tenant_column must not be null',
      HINT = 'name a table of yours and its column that says the tenant, as tally.protect(''shop.orders'', ''tenant_id'')';
  END IF;
  SELECT c.relkind, c.relpersistence, n.nspname
    INTO seen
    FROM pg_catalog.pg_class AS c
    JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
   WHERE c.oid = target;
  IF NOT FOUND OR seen.relkind NOT IN ('r', 'p') OR seen.relpersistence = 't' THEN
    RAISE EXCEPTION USING ERRCODE = '42T01', MESSAGE = pg_catalog.format('"%s" is not a table', target),
      HINT = 'row security binds ordinary and partitioned tables; give a view security_invoker, and protect its tables';
  END IF;
  IF seen.nspname IN ('tally', 'tally_internal', 'pg_catalog', 'information_schema') THEN
    RAISE EXCEPTION USING ERRCODE = '42T02', MESSAGE = pg_catalog.format('"%s" is not a table of yours', target),
      HINT = 'pg_tally''s own tables are protected already; tally.lint() tells whether they still are';
  END IF;
  FOR seen IN
    SELECT f.id, r.rolname, r.rolsuper OR r.rolbypassrls AS bypasses, pg_catalog.pg_has_role(r.oid, 'USAGE') AS is_own
      FROM tally_internal.family(target) AS f (id) JOIN pg_catalog.pg_class AS c ON c.oid = f.id JOIN pg_catalog.pg_roles AS r ON r.oid = c.relowner
     ORDER BY f.id = target DESC, f.id
  LOOP
    IF seen.bypasses THEN
      RAISE EXCEPTION USING ERRCODE = '42T03',
        MESSAGE = pg_catalog.format('owner "%s" of table "%s" bypasses row security', seen.rolname, seen.id),
        HINT = 'FORCE ROW LEVEL SECURITY doesn''t bind superusers and BYPASSRLS roles; ALTER TABLE ... OWNER TO a role that is neither';
    END IF;
    IF NOT seen.is_own THEN
      RAISE EXCEPTION USING ERRCODE = 'insufficient_privilege', MESSAGE = pg_catalog.format('table "%s" is not yours', seen.id),
        HINT = pg_catalog.format('its owner "%s", or a member of that role, may protect it', seen.rolname);
    END IF;
  END LOOP;
  IF EXISTS (SELECT FROM tally_internal.family(target) AS f (id) JOIN pg_catalog.pg_class AS c ON c.oid = f.id
              WHERE c.relkind NOT IN ('r', 'p')) THEN
    RAISE EXCEPTION USING ERRCODE = '42T04',
      MESSAGE = pg_catalog.format('table "%s" has a foreign table below it', target),
      HINT = 'a foreign table has no row security; detach it first';
  END IF;
  FOR wanted IN SELECT * FROM (VALUES (tenant_column), (account_column)) AS v (column_name) WHERE v.column_name IS NOT NULL LOOP
    SELECT a.atttypid::pg_catalog.regtype AS type_name, tally_internal.id_type(a.atttypid) IS NOT NULL AS holds_ids,
           coalesce(l.collisdeterministic, true) AS deterministic, a.attgenerated = 'v' AS is_virtual,
           (SELECT c.id FROM tally_internal.nullable_members(target, wanted.column_name) AS c LIMIT 1) AS nullable
      INTO seen
      FROM pg_catalog.pg_attribute AS a LEFT JOIN pg_catalog.pg_collation AS l ON l.oid = a.attcollation
     WHERE a.attrelid = target AND a.attname = wanted.column_name AND a.attnum > 0 AND NOT a.attisdropped;
    IF NOT FOUND THEN
      RAISE EXCEPTION USING ERRCODE = '42T05',
        MESSAGE = pg_catalog.format('table "%s" has no column "%s"', target, wanted.column_name),
        HINT = 'name the columns: tally.protect(table, tenant_column => ..., account_column => ...)';
    END IF;
    IF NOT seen.holds_ids THEN
      RAISE EXCEPTION USING ERRCODE = '42T06',
        MESSAGE = pg_catalog.format('column "%s" of table "%s" has type %s', wanted.column_name, target, seen.type_name),
        HINT = 'ids are text, varchar, uuid, int2, int4, int8 or a domain over one of them';
    END IF;
    IF seen.is_virtual THEN
      RAISE EXCEPTION USING ERRCODE = '42T09',
        MESSAGE = pg_catalog.format('column "%s" of table "%s" is a virtual generated column', wanted.column_name, target),
        HINT = 'no index can have it; make it an ordinary or a stored generated column';
    END IF;
    IF NOT seen.deterministic THEN
      RAISE EXCEPTION USING ERRCODE = '42T07',
        MESSAGE = pg_catalog.format('column "%s" of table "%s" has a nondeterministic collation', wanted.column_name, target),
        HINT = 'two different ids could be equal under it; use COLLATE "C"';
    END IF;
    IF seen.nullable IS NOT NULL THEN
      RAISE EXCEPTION USING ERRCODE = '42T08',
        MESSAGE = pg_catalog.format('column "%s" of table "%s" is nullable', wanted.column_name, seen.nullable),
        DETAIL = 'A NOT NULL constraint that is not validated doesn''t count: rows from before it may be null.',
        HINT = pg_catalog.format('a row without an id belongs to nobody: ALTER TABLE %s ALTER %I SET NOT NULL', seen.nullable, wanted.column_name);
    END IF;
  END LOOP;
END
$$;
COMMENT ON FUNCTION tally_internal.check_protectable(regclass, name, name) IS
  'raises an error for a table that row security can''t isolate, 42T01 to 42T09, or that the caller may not alter';

CREATE FUNCTION tally_internal.protect_statements(target regclass, tenant_column name, account_column name) RETURNS SETOF text
  LANGUAGE sql STABLE PARALLEL SAFE CALLED ON NULL INPUT
  SET search_path = pg_catalog, pg_temp
  SET jit = off -- compiling this query takes a second, running it a hundredth
  SET quote_all_identifiers = off
  BEGIN ATOMIC
    WITH member AS (
      SELECT c.oid, c.oid::regclass AS id, c.relowner, c.relrowsecurity AND c.relforcerowsecurity AS is_forced, c.relacl,
             c.oid = target OR t.relkind = 'r' AS needs_index
        FROM tally_internal.family(target) AS f (id)
        JOIN pg_catalog.pg_class AS c ON c.oid = f.id
        JOIN pg_catalog.pg_class AS t ON t.oid = target
    ), policy AS (
      SELECT m.id, p.*, EXISTS (SELECT FROM pg_catalog.pg_policy AS o WHERE o.polrelid = m.id AND o.polname = p.policy_name) AS exists
        FROM member AS m CROSS JOIN LATERAL tally_internal.policies(m.id, tenant_column, account_column) AS p
       WHERE NOT tally_internal.policy_is_intact(m.id, p.policy_name, p.is_permissive, p.role_names, p.printed)
    ), granted AS (
      SELECT m.id, g.grantee, pg_catalog.string_agg(DISTINCT g.privilege_type, ', ') AS privileges
        FROM member AS m
        CROSS JOIN LATERAL (
          SELECT a.grantee, a.grantor, a.privilege_type FROM pg_catalog.aclexplode(m.relacl) AS a
          UNION ALL
          SELECT a.grantee, a.grantor, a.privilege_type
            FROM pg_catalog.pg_attribute AS c, pg_catalog.aclexplode(c.attacl) AS a WHERE c.attrelid = m.id
        ) AS g
       WHERE g.grantee <> m.relowner AND g.grantor = m.relowner
         AND g.privilege_type IN ('TRUNCATE', 'REFERENCES', 'TRIGGER', 'MAINTAIN')
       GROUP BY m.id, g.grantee
    ), statement (step, id, name, ddl) AS (
      SELECT 1, m.id, '', 'ALTER TABLE ' || m.id || ' ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY'
        FROM member AS m WHERE NOT m.is_forced
      UNION ALL
      SELECT 2, p.id, p.policy_name::text, 'DROP POLICY ' || pg_catalog.quote_ident(p.policy_name) || ' ON ' || p.id
        FROM policy AS p WHERE p.exists
      UNION ALL
      SELECT 3, p.id, p.policy_name::text,
             pg_catalog.format('CREATE POLICY %I ON %s AS %s TO %s USING (%s) WITH CHECK (%s)', p.policy_name, p.id,
               CASE WHEN p.is_permissive THEN 'PERMISSIVE' ELSE 'RESTRICTIVE' END,
               pg_catalog.array_to_string(p.role_names, ', '), p.declared, p.declared)
        FROM policy AS p
      UNION ALL
      SELECT 4, g.id, g.grantee::text,
             pg_catalog.format('REVOKE %s ON %s FROM %s CASCADE', g.privileges, g.id,
               CASE WHEN g.grantee = 0 THEN 'PUBLIC' ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(g.grantee)) END)
        FROM granted AS g
      UNION ALL
      SELECT 5, m.id, '',
             pg_catalog.format('CREATE INDEX ON %s (%I%s)', m.id, tenant_column,
               (SELECT ', ' || pg_catalog.quote_ident(a.attname) || CASE WHEN a.attcollation <> 0 THEN ' COLLATE pg_catalog."C"' ELSE '' END
                  FROM pg_catalog.pg_attribute AS a WHERE a.attrelid = m.id AND a.attname = account_column))
        FROM member AS m
       WHERE m.needs_index
         AND NOT EXISTS (SELECT FROM pg_catalog.pg_index AS i
                          WHERE i.indrelid = m.id AND i.indisvalid AND i.indpred IS NULL
                            AND NOT EXISTS (SELECT FROM tally_internal.shared_indexes(m.id, tenant_column) AS s WHERE s.index_id = i.indexrelid))
    )
    SELECT s.ddl FROM statement AS s ORDER BY s.step, s.id, s.name;
  END;
COMMENT ON FUNCTION tally_internal.protect_statements(regclass, name, name) IS
  'the DDL that is missing to isolate a table by tenant, or by tenant and account; none where it is isolated';

-- Elevated, so that a table's owner can have it recorded; what is recorded is read from the catalog, not believed.
CREATE FUNCTION tally_internal.record_protection(target regclass, tenant_column name, account_column name) RETURNS void
  LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE CALLED ON NULL INPUT SECURITY DEFINER
  SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  IF NOT EXISTS (SELECT FROM pg_catalog.pg_policy AS p
                  WHERE p.polrelid OPERATOR(pg_catalog.=) target::pg_catalog.oid AND p.polname OPERATOR(pg_catalog.=) ANY (ARRAY['tally_tenant', 'tally_global', 'tally_guard']::pg_catalog.name[])) THEN
    DELETE FROM tally.protected_table AS p WHERE p.table_name OPERATOR(pg_catalog.=) target;
  ELSIF EXISTS (SELECT FROM tally_internal.policies(target, tenant_column, account_column))
    AND NOT EXISTS (SELECT FROM tally_internal.policies(target, tenant_column, account_column) AS p
                     WHERE NOT tally_internal.policy_is_intact(target, p.policy_name, p.is_permissive, p.role_names, p.printed)) THEN
    INSERT INTO tally.protected_table AS p (table_name, tenant_column, account_column)
    VALUES (target, record_protection.tenant_column, record_protection.account_column)
    ON CONFLICT ON CONSTRAINT protected_table_pkey
    DO UPDATE SET tenant_column = excluded.tenant_column, account_column = excluded.account_column;
  END IF;
END
$$;
COMMENT ON FUNCTION tally_internal.record_protection(regclass, name, name) IS
  'brings tally.protected_table in line with the policies that a table has';
ALTER FUNCTION tally_internal.record_protection(regclass, name, name) OWNER TO tally_owner;

CREATE FUNCTION tally.protect(target regclass, tenant_column name DEFAULT 'tenant_id', account_column name DEFAULT NULL,
    dry_run boolean DEFAULT false) RETURNS SETOF text
  LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE CALLED ON NULL INPUT
  SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  statements text[];
  statement  text;
  shared     record;
BEGIN
  IF dry_run IS NULL THEN
    RAISE EXCEPTION USING ERRCODE = 'null_value_not_allowed', MESSAGE = 'dry_run must not be null',
      HINT = 'true for the statements alone, false to have them executed';
  END IF;
  PERFORM tally_internal.check_protectable(target, tenant_column, account_column);
  statements := ARRAY(SELECT s FROM tally_internal.protect_statements(target, tenant_column, account_column) AS s);
  IF dry_run IS NOT TRUE THEN
    FOREACH statement IN ARRAY statements LOOP
      EXECUTE statement;
    END LOOP;
    PERFORM tally_internal.record_protection(target, tenant_column, account_column);
  END IF;
  -- Said, not done: whether an index may go is the owner's to decide.
  FOR shared IN
    SELECT s.* FROM tally_internal.family(target) AS f (id) CROSS JOIN LATERAL tally_internal.shared_indexes(f.id, tenant_column) AS s
      JOIN pg_catalog.pg_class AS c ON c.oid = s.index_id AND NOT c.relispartition
  LOOP
    RAISE WARNING USING MESSAGE = pg_catalog.format('index %s %s: a tenant that searches it can learn which values others have', shared.index_id, shared.reason),
      HINT = shared.fix;
  END LOOP;
  RETURN QUERY SELECT u.ddl FROM pg_catalog.unnest(statements) AS u (ddl);
END
$$;
COMMENT ON FUNCTION tally.protect(regclass, name, name, boolean) IS
  'isolates a table of yours, with its partitions, by the scope of the transaction; returns the DDL, executed unless dry_run; no rows where nothing is to change; warns of indexes that do not begin with the tenant, and says what to have instead. Ids are text, varchar, uuid, integers or domains over them';

CREATE FUNCTION tally.unprotect(target regclass, dry_run boolean DEFAULT false) RETURNS SETOF text
  LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE CALLED ON NULL INPUT
  SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  statements text[];
  statement  text;
BEGIN
  IF target IS NULL OR dry_run IS NULL THEN
    RAISE EXCEPTION USING ERRCODE = 'null_value_not_allowed', MESSAGE = 'target and dry_run must not be null',
      HINT = 'name a table of yours; dry_run is true for the statements alone, false to have them executed';
  END IF;
  IF EXISTS (SELECT FROM pg_catalog.pg_class AS c
              WHERE c.oid = target AND c.relnamespace = 'tally'::pg_catalog.regnamespace) THEN
    RAISE EXCEPTION USING ERRCODE = '42T02', MESSAGE = pg_catalog.format('"%s" is not a table of yours', target),
      HINT = 'pg_tally''s own tables stay protected';
  END IF;
  -- Policies of somebody else's making keep row security on: without it they would stop to count.
  statements := ARRAY(
    SELECT s.ddl
      FROM tally_internal.family(target) AS f (id)
      CROSS JOIN LATERAL (
        SELECT 1, pg_catalog.format('DROP POLICY %I ON %s', p.polname, f.id)
          FROM pg_catalog.pg_policy AS p
         WHERE p.polrelid = f.id AND p.polname IN ('tally_tenant', 'tally_global', 'tally_guard')
        UNION ALL
        SELECT 2, pg_catalog.format('ALTER TABLE %s DISABLE ROW LEVEL SECURITY, NO FORCE ROW LEVEL SECURITY', f.id)
          FROM pg_catalog.pg_class AS c
         WHERE c.oid = f.id AND (c.relrowsecurity OR c.relforcerowsecurity)
           AND NOT EXISTS (SELECT FROM pg_catalog.pg_policy AS p
                            WHERE p.polrelid = f.id AND p.polname NOT IN ('tally_tenant', 'tally_global', 'tally_guard'))
      ) AS s (step, ddl)
     ORDER BY s.step, f.id, s.ddl);
  IF dry_run IS NOT TRUE THEN
    FOREACH statement IN ARRAY statements LOOP
      EXECUTE statement;
    END LOOP;
    PERFORM tally_internal.record_protection(target, NULL, NULL);
  END IF;
  RETURN QUERY SELECT u.ddl FROM pg_catalog.unnest(statements) AS u (ddl);
END
$$;
COMMENT ON FUNCTION tally.unprotect(regclass, boolean) IS
  'undoes tally.protect(): drops its policies and, where no other policy is left, switches row security off; the index and the revoked privileges stay as they are';

REVOKE ALL ON FUNCTION tally_internal.check_protectable(regclass, name, name),
  tally_internal.protect_statements(regclass, name, name), tally_internal.record_protection(regclass, name, name),
  tally.protect(regclass, name, name, boolean), tally.unprotect(regclass, boolean) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tally_internal.check_protectable(regclass, name, name),
  tally_internal.protect_statements(regclass, name, name), tally_internal.record_protection(regclass, name, name),
  tally.protect(regclass, name, name, boolean), tally.unprotect(regclass, boolean)
  TO tally_owner, tally_reader, tally_writer, tally_auditor;
