-- Findings about tables: row security, policies, privileges, keys, triggers and rules.

CREATE FUNCTION tally_internal.lint_policies(OUT rule text, OUT type text, OUT schema text, OUT object text, OUT detail text, OUT fix text)
  RETURNS SETOF record
  LANGUAGE sql STABLE PARALLEL SAFE STRICT
  SET search_path = pg_catalog, pg_temp
  SET quote_all_identifiers = off -- what pg_get_expr() prints is compared
  BEGIN ATOMIC
    WITH candidate AS (
      SELECT i.*, c.oid::regclass AS ref, n.nspname, c.relname, c.relrowsecurity, c.relforcerowsecurity, r.rolname,
             r.rolsuper OR r.rolbypassrls AS bypasses, CASE WHEN c.oid = 'tally.tenant'::regclass THEN 'tally_security' ELSE 'tally_owner' END AS owner,
             EXISTS (SELECT FROM pg_catalog.pg_inherits AS h WHERE h.inhrelid = c.oid) AS is_child,
             EXISTS (SELECT FROM pg_catalog.pg_policy AS p WHERE p.polrelid = c.oid
                        AND p.polname IN ('tally_tenant', 'tally_global', 'tally_guard')) AS has_policy
        FROM tally_internal.isolated_tables() AS i
        JOIN pg_catalog.pg_class AS c ON c.oid = i.id
        JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
        JOIN pg_catalog.pg_roles AS r ON r.oid = c.relowner
    ), policy AS (
      SELECT c.ref, p.*, EXISTS (SELECT FROM pg_catalog.pg_policy AS o WHERE o.polrelid = c.id AND o.polname = p.policy_name) AS exists,
             pg_catalog.format('DROP POLICY IF EXISTS %1$I ON %2$s; CREATE POLICY %1$I ON %2$s AS %3$s TO %4$s USING (%5$s) WITH CHECK (%5$s);',
               p.policy_name, c.ref, CASE WHEN p.is_permissive THEN 'PERMISSIVE' ELSE 'RESTRICTIVE' END,
               pg_catalog.array_to_string(p.role_names, ', '), p.declared) AS fix
        FROM candidate AS c CROSS JOIN LATERAL tally_internal.policies(c.id, c.tenant_column, c.account_column) AS p
       WHERE (c.has_policy OR NOT c.is_child)
         AND NOT tally_internal.policy_is_intact(c.id, p.policy_name, p.is_permissive, p.role_names, p.printed)
    ), finding (rule, ref, detail, fix) AS (
      SELECT 'child_unprotected', c.ref, pg_catalog.format('table %s is part of a protected table and has no policies', c.ref),
             CASE WHEN c.is_own THEN pg_catalog.format('SELECT tally_internal.secure_table(%L);', c.ref)
                  ELSE pg_catalog.format('SELECT tally.protect(%L, %L, %L);', c.ref, c.tenant_column, c.account_column) END
        FROM candidate AS c WHERE c.is_child AND NOT c.has_policy AND NOT c.relrowsecurity
      UNION ALL
      SELECT 'rls_disabled', c.ref, pg_catalog.format('row security of table %s is off', c.ref),
             pg_catalog.format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY;', c.ref)
        FROM candidate AS c WHERE NOT c.relrowsecurity AND (c.has_policy OR NOT c.is_child)
      UNION ALL
      SELECT 'rls_not_forced', c.ref, pg_catalog.format('row security of table %s is not forced', c.ref),
             pg_catalog.format('ALTER TABLE %s FORCE ROW LEVEL SECURITY;', c.ref)
        FROM candidate AS c WHERE NOT c.relforcerowsecurity AND (c.has_policy OR c.relrowsecurity OR NOT c.is_child)
      UNION ALL
      SELECT CASE WHEN p.policy_name <> 'tally_guard' THEN 'tenant_policy_altered'
                  WHEN p.exists THEN 'guard_altered' ELSE 'guard_missing' END, p.ref,
             pg_catalog.format('policy %s of table %s %s', p.policy_name, p.ref, CASE WHEN p.exists THEN 'was altered' ELSE 'is missing' END), p.fix
        FROM policy AS p
      UNION ALL
      SELECT 'administration_open', a.id,
             pg_catalog.format('table %s %s', a.id, CASE WHEN c.relrowsecurity THEN 'has other policies than tally_confined as pg_tally makes it' ELSE 'has no row security' END),
             pg_catalog.format('ALTER TABLE %1$s ENABLE ROW LEVEL SECURITY; DROP POLICY IF EXISTS tally_confined ON %1$s; CREATE POLICY tally_confined ON %1$s USING %2$s;%3$s',
               a.id, a.condition, (SELECT pg_catalog.string_agg(pg_catalog.format(' DROP POLICY %I ON %s;', p.polname, a.id), '')
                                     FROM pg_catalog.pg_policy AS p WHERE p.polrelid = a.id AND p.polname <> 'tally_confined'))
        FROM tally_internal.administration_tables() AS a JOIN pg_catalog.pg_class AS c ON c.oid = a.id
       WHERE NOT c.relrowsecurity
          OR NOT EXISTS (SELECT FROM pg_catalog.pg_policy AS p
                          WHERE p.polrelid = a.id AND p.polname = 'tally_confined' AND p.polcmd = '*' AND p.polpermissive AND p.polroles = '{0}'
                            AND pg_catalog.pg_get_expr(p.polqual, p.polrelid) = a.condition AND p.polwithcheck IS NULL)
          OR EXISTS (SELECT FROM pg_catalog.pg_policy AS p WHERE p.polrelid = a.id AND p.polname <> 'tally_confined')
      UNION ALL
      SELECT 'extra_policy', c.ref, pg_catalog.format('table %s has the permissive policy "%s"', c.ref, p.polname),
             pg_catalog.format('DROP POLICY %I ON %s;', p.polname, c.ref)
        FROM candidate AS c JOIN pg_catalog.pg_policy AS p ON p.polrelid = c.id
       WHERE p.polpermissive AND p.polname NOT IN ('tally_tenant', 'tally_global', 'tally_guard')
      UNION ALL
      SELECT 'policy_function', c.ref,
             pg_catalog.format('policy "%s" of table %s calls %s', p.polname, c.ref, f.oid::regprocedure),
             pg_catalog.format('DROP POLICY %I ON %s;', p.polname, c.ref)
        FROM candidate AS c
        JOIN pg_catalog.pg_policy AS p ON p.polrelid = c.id AND NOT p.polpermissive AND p.polname <> 'tally_guard'
        JOIN pg_catalog.pg_depend AS d ON d.classid = 'pg_catalog.pg_policy'::regclass AND d.objid = p.oid
         AND d.refclassid = 'pg_catalog.pg_proc'::regclass
        JOIN pg_catalog.pg_proc AS f ON f.oid = d.refobjid
       WHERE f.pronamespace NOT IN ('pg_catalog'::regnamespace, 'tally'::regnamespace, 'tally_internal'::regnamespace)
      UNION ALL
      SELECT 'tenant_column_nullable', c.ref, pg_catalog.format('column %I of table %s is nullable', a.attname, c.ref),
             pg_catalog.format('ALTER TABLE %s ALTER %I SET NOT NULL;', c.ref, a.attname)
        FROM candidate AS c
        JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.id AND a.attname IN (c.tenant_column, c.account_column)
       WHERE EXISTS (SELECT FROM tally_internal.nullable_members(c.ref, a.attname) AS m WHERE m.id = c.ref)
         AND NOT EXISTS (SELECT FROM pg_catalog.pg_inherits AS h JOIN candidate AS o ON o.id = h.inhparent
                          CROSS JOIN LATERAL tally_internal.nullable_members(o.ref, a.attname) AS m WHERE h.inhrelid = c.id AND m.id = o.ref)
      UNION ALL
      SELECT CASE WHEN c.is_own THEN 'owner_changed' ELSE 'owner_bypasses_rls' END, c.ref,
             pg_catalog.format('table %s belongs to %I', c.ref, c.rolname),
             CASE WHEN c.is_own THEN pg_catalog.format('ALTER TABLE %s OWNER TO %I;', c.ref, c.owner)
                  ELSE 'give the table to a role that is neither SUPERUSER nor BYPASSRLS, with ALTER TABLE ... OWNER TO' END
        FROM candidate AS c WHERE CASE WHEN c.is_own THEN c.rolname <> c.owner ELSE c.bypasses END
      UNION ALL
      SELECT 'owner_changed', c.oid::regclass, pg_catalog.format('table %s belongs to %I', c.oid::regclass, r.rolname),
             pg_catalog.format('ALTER TABLE %s OWNER TO tally_security;', c.oid::regclass)
        FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_roles AS r ON r.oid = c.relowner
       WHERE c.oid IN ('tally.role_binding'::regclass, 'tally.token_key'::regclass) AND r.rolname <> 'tally_security'
      UNION ALL
      SELECT 'owner_changed', c.oid::regclass, pg_catalog.format('view %s of rollup "%s" belongs to %I', c.oid::regclass, u.rollup_name, r.rolname),
             pg_catalog.format('ALTER VIEW %s OWNER TO tally_owner;', c.oid::regclass)
        FROM tally.rollup AS u CROSS JOIN pg_catalog.unnest(u.grains) AS g
        JOIN pg_catalog.pg_class AS c ON c.relname IN (u.rollup_name || '_' || g, u.rollup_name || '_' || g || '_state')
        JOIN pg_catalog.pg_roles AS r ON r.oid = c.relowner
       WHERE c.relnamespace = 'tally'::regnamespace AND c.relkind = 'v' AND r.rolname <> 'tally_owner'
      UNION ALL
      SELECT 'child_outside_extension', h.inhrelid::regclass,
             pg_catalog.format('table %s is a child of %s', h.inhrelid::regclass, c.ref),
             CASE WHEN k.relispartition THEN pg_catalog.format('ALTER TABLE %s DETACH PARTITION %s;', c.ref, h.inhrelid::regclass)
                  ELSE pg_catalog.format('ALTER TABLE %s NO INHERIT %s;', h.inhrelid::regclass, c.ref) END
        FROM candidate AS c JOIN pg_catalog.pg_inherits AS h ON h.inhparent = c.id
        JOIN pg_catalog.pg_class AS k ON k.oid = h.inhrelid
       WHERE c.is_own AND k.relnamespace <> 'tally'::regnamespace
      UNION ALL
      SELECT 'rule_on_table', c.ref, pg_catalog.format('table %s has the rule "%s"', c.ref, r.rulename),
             pg_catalog.format('DROP RULE %I ON %s;', r.rulename, c.ref)
        FROM candidate AS c JOIN pg_catalog.pg_rewrite AS r ON r.ev_class = c.id
      UNION ALL
      SELECT 'trigger_on_table', c.ref, pg_catalog.format('table %s has the trigger "%s"', c.ref, t.tgname),
             pg_catalog.format('DROP TRIGGER %I ON %s;', t.tgname, c.ref)
        FROM candidate AS c JOIN pg_catalog.pg_trigger AS t ON t.tgrelid = c.id
       WHERE c.is_own AND NOT t.tgisinternal AND t.tgparentid = 0
         -- What these do is to record that definitions change, and to have sessions read them anew.
         AND t.tgfoid NOT IN ('tally_internal.record_change()'::regprocedure, 'tally_internal.forget()'::regprocedure)
    )
    SELECT f.rule, CASE c.relkind WHEN 'v' THEN 'view' ELSE 'table' END, n.nspname::text, c.relname::text, f.detail, f.fix
      FROM finding AS f JOIN pg_catalog.pg_class AS c ON c.oid = f.ref
      JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace;
  END;
COMMENT ON FUNCTION tally_internal.lint_policies() IS 'findings of tally.lint() about row security and policies';

CREATE FUNCTION tally_internal.lint_tables(OUT rule text, OUT type text, OUT schema text, OUT object text, OUT detail text, OUT fix text)
  RETURNS SETOF record
  LANGUAGE sql STABLE PARALLEL SAFE STRICT
  SET search_path = pg_catalog, pg_temp
  SET quote_all_identifiers = off -- what pg_get_expr() prints is compared
  BEGIN ATOMIC
    WITH isolated AS (
      SELECT i.*, c.oid::regclass AS ref, a.attnum AS tenant_number
        FROM tally_internal.isolated_tables() AS i JOIN pg_catalog.pg_class AS c ON c.oid = i.id
        JOIN pg_catalog.pg_attribute AS a ON a.attrelid = i.id AND a.attname = i.tenant_column
    ), granted AS (
      SELECT c.oid AS id, c.oid::regclass AS ref, c.relkind, c.relnamespace IN ('tally'::regnamespace, 'tally_internal'::regnamespace) AS is_own,
             EXISTS (SELECT FROM isolated AS i WHERE i.id = c.oid) AS is_isolated, g.*,
             CASE WHEN g.grantee = 0 THEN 'PUBLIC' ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(g.grantee)) END AS who
        FROM pg_catalog.pg_class AS c
        CROSS JOIN LATERAL (
          SELECT x.grantee, x.privilege_type, NULL::name AS column_name FROM pg_catalog.aclexplode(c.relacl) AS x
          UNION ALL
          SELECT x.grantee, x.privilege_type, a.attname
            FROM pg_catalog.pg_attribute AS a, pg_catalog.aclexplode(a.attacl) AS x
           WHERE a.attrelid = c.oid AND NOT a.attisdropped
        ) AS g
       WHERE g.grantee <> c.relowner AND c.relkind IN ('r', 'p', 'v', 'm')
         AND (c.relnamespace IN ('tally'::regnamespace, 'tally_internal'::regnamespace) OR EXISTS (SELECT FROM isolated AS i WHERE i.id = c.oid))
    ), finding (rule, ref, detail, fix) AS (
      SELECT v.rule, g.ref,
             pg_catalog.format('%s may %s %s%s', g.who, g.privilege_type, g.ref, coalesce(', column ' || pg_catalog.quote_ident(g.column_name), '')),
             pg_catalog.format('REVOKE %s ON %s FROM %s CASCADE;', g.privilege_type, g.ref, g.who)
        FROM granted AS g
        JOIN LATERAL (
          SELECT CASE WHEN g.privilege_type IN ('TRUNCATE', 'REFERENCES', 'TRIGGER', 'MAINTAIN') AND g.is_isolated
                        THEN pg_catalog.lower(g.privilege_type) || '_granted'
                      -- Rows of the inbox go through the pipeline, which asks for the scope: that is its purpose.
                      WHEN g.privilege_type = 'INSERT' AND g.id = 'tally.inbox'::regclass AND g.who = 'tally_writer' THEN NULL
                      WHEN g.privilege_type <> 'SELECT' AND g.is_own THEN 'write_granted'
                      WHEN g.privilege_type = 'SELECT' AND g.is_own AND g.grantee = 0 THEN 'read_granted_to_public'
                      WHEN g.privilege_type = 'SELECT' AND g.who <> 'tally_owner'
                       AND (g.id = 'tally.tenant'::regclass AND coalesce(g.column_name = 'sketch_key', true)
                            OR g.id = 'tally.stream_key'::regclass AND coalesce(g.column_name = 'secret', true)) THEN 'secret_readable' END
        ) AS v (rule) ON v.rule IS NOT NULL
      UNION ALL
      SELECT CASE WHEN x.indisunique THEN 'unique_key_without_tenant'
                  WHEN k.excludes_tenants THEN 'exclusion_without_tenant' ELSE 'index_without_tenant' END,
             i.ref, pg_catalog.format('index %s of table %s %s', s.index_id, i.ref, s.reason), s.fix
        FROM isolated AS i
        CROSS JOIN LATERAL tally_internal.shared_indexes(i.ref, i.tenant_column) AS s
        JOIN pg_catalog.pg_index AS x ON x.indexrelid = s.index_id
        JOIN pg_catalog.pg_class AS c ON c.oid = x.indexrelid
        CROSS JOIN LATERAL (
          SELECT x.indisexclusion AND NOT EXISTS (
                   SELECT FROM pg_catalog.pg_constraint AS e
                    CROSS JOIN LATERAL ROWS FROM (pg_catalog.unnest(e.conkey), pg_catalog.unnest(e.conexclop)) AS p (near, operator)
                    JOIN pg_catalog.pg_operator AS o ON o.oid = p.operator
                   WHERE e.conindid = x.indexrelid AND p.near = i.tenant_number AND o.oprname = '=')
        ) AS k (excludes_tenants)
       WHERE NOT c.relispartition
      UNION ALL
      SELECT 'statistics_without_tenant', i.ref,
             pg_catalog.format('statistics %s of table %s do not contain %I', t.name, i.ref, i.tenant_column),
             pg_catalog.format('DROP STATISTICS %s;', t.name)
        FROM isolated AS i JOIN pg_catalog.pg_statistic_ext AS x ON x.stxrelid = i.id
        JOIN pg_catalog.pg_namespace AS n ON n.oid = x.stxnamespace
        CROSS JOIN LATERAL pg_catalog.format('%I.%I', n.nspname, x.stxname) AS t (name)
       WHERE i.tenant_number <> ALL (x.stxkeys)
      UNION ALL
      SELECT 'foreign_key_without_tenant', k.conrelid::regclass,
             pg_catalog.format('foreign key %I of table %s refers to %s without the tenant', k.conname, k.conrelid::regclass, i.ref),
             pg_catalog.format('refer to a key of %s that contains %I, from a protected table''s own tenant column', i.ref, i.tenant_column)
        FROM isolated AS i JOIN pg_catalog.pg_constraint AS k ON k.confrelid = i.id AND k.contype = 'f' AND k.conparentid = 0
       WHERE NOT EXISTS (SELECT FROM ROWS FROM (pg_catalog.unnest(k.conkey), pg_catalog.unnest(k.confkey)) AS p (near, far)
                          JOIN isolated AS o ON o.id = k.conrelid AND o.tenant_number = p.near
                         WHERE p.far = i.tenant_number)
      UNION ALL
      SELECT 'foreign_key_to_shared', i.ref,
             pg_catalog.format('foreign key %I of table %s refers to %s, which %s may %s', k.conname, i.ref, k.confrelid::regclass, w.who, g.privileges),
             pg_catalog.format('REVOKE %s ON %s FROM %s CASCADE;', g.privileges, k.confrelid::regclass, w.who)
        FROM isolated AS i
        JOIN pg_catalog.pg_constraint AS k ON k.conrelid = i.id AND k.contype = 'f' AND k.conparentid = 0
        JOIN pg_catalog.pg_class AS f ON f.oid = k.confrelid
        CROSS JOIN LATERAL (
          SELECT a.grantee, pg_catalog.string_agg(DISTINCT a.privilege_type, ', ')
            FROM (SELECT x.grantee, x.privilege_type FROM pg_catalog.aclexplode(f.relacl) AS x
                  UNION ALL
                  SELECT x.grantee, x.privilege_type FROM pg_catalog.pg_attribute AS c, pg_catalog.aclexplode(c.attacl) AS x
                   WHERE c.attrelid = f.oid) AS a
           WHERE a.privilege_type IN ('DELETE', 'UPDATE') AND a.grantee <> f.relowner
           GROUP BY a.grantee
        ) AS g (grantee, privileges)
        CROSS JOIN LATERAL (SELECT CASE WHEN g.grantee = 0 THEN 'PUBLIC' ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(g.grantee)) END) AS w (who)
       WHERE NOT EXISTS (SELECT FROM isolated AS o WHERE o.id = k.confrelid)
      UNION ALL
      SELECT 'tenant_in_partition_bound', pg_catalog.pg_partition_root(i.ref),
             pg_catalog.format('bounds of %s partitions of table %s name tenants', pg_catalog.count(*), pg_catalog.pg_partition_root(i.ref)),
             'accept it, or partition by something else, as by hash; tally.unisolate_tenant() ends it for months to come'
        FROM isolated AS i
        JOIN pg_catalog.pg_partitioned_table AS t ON t.partrelid = i.id AND t.partstrat <> 'h' AND i.tenant_number = ANY (t.partattrs)
        JOIN pg_catalog.pg_inherits AS h ON h.inhparent = i.id AND h.inhrelid <> t.partdefid
       GROUP BY pg_catalog.pg_partition_root(i.ref)
      UNION ALL
      SELECT 'statistics_granted', c.oid::regclass,
             pg_catalog.format('%s may %s %s', CASE WHEN g.grantee = 0 THEN 'PUBLIC' ELSE pg_catalog.pg_get_userbyid(g.grantee) END,
               g.privilege_type, c.oid::regclass),
             pg_catalog.format('REVOKE %s ON pg_catalog.%I FROM %s;', g.privilege_type, c.relname,
               CASE WHEN g.grantee = 0 THEN 'PUBLIC' ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(g.grantee)) END)
        FROM pg_catalog.pg_class AS c, pg_catalog.aclexplode(c.relacl) AS g
       WHERE c.oid IN ('pg_catalog.pg_statistic'::regclass, 'pg_catalog.pg_statistic_ext_data'::regclass)
         AND g.grantee <> c.relowner
    )
    SELECT f.rule, CASE c.relkind WHEN 'v' THEN 'view' ELSE 'table' END, n.nspname::text, c.relname::text, f.detail, f.fix
      FROM finding AS f JOIN pg_catalog.pg_class AS c ON c.oid = f.ref
      JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
    UNION ALL
    SELECT 'publication', 'publication', NULL, p.pubname::text,
           pg_catalog.format('publication %I sends %s', p.pubname, pg_catalog.string_agg(DISTINCT i.ref::text, ', ')),
           pg_catalog.format('DROP PUBLICATION %I;', p.pubname)
      FROM pg_catalog.pg_publication AS p
      JOIN isolated AS i ON true
      JOIN pg_catalog.pg_class AS c ON c.oid = i.id
     WHERE p.puballtables
        OR EXISTS (SELECT FROM pg_catalog.pg_publication_rel AS r WHERE r.prpubid = p.oid AND r.prrelid = i.id)
        OR EXISTS (SELECT FROM pg_catalog.pg_publication_namespace AS s WHERE s.pnpubid = p.oid AND s.pnnspid = c.relnamespace)
     GROUP BY p.pubname
    UNION ALL
    SELECT 'default_privileges', 'role', s.nspname::text, pg_catalog.pg_get_userbyid(d.defaclrole)::text,
           pg_catalog.format('%s gets %s on objects that %I makes%s', v.who, g.privilege_type, pg_catalog.pg_get_userbyid(d.defaclrole),
             coalesce(' in schema ' || pg_catalog.quote_ident(s.nspname), '')),
           pg_catalog.format('ALTER DEFAULT PRIVILEGES FOR ROLE %I%s REVOKE %s ON %s FROM %s;', pg_catalog.pg_get_userbyid(d.defaclrole),
             coalesce(' IN SCHEMA ' || pg_catalog.quote_ident(s.nspname), ''), g.privilege_type,
             CASE d.defaclobjtype WHEN 'r' THEN 'TABLES' WHEN 'S' THEN 'SEQUENCES' WHEN 'f' THEN 'FUNCTIONS' WHEN 'n' THEN 'SCHEMAS' ELSE 'TYPES' END, v.who)
      FROM pg_catalog.pg_default_acl AS d
      LEFT JOIN pg_catalog.pg_namespace AS s ON s.oid = d.defaclnamespace
      CROSS JOIN LATERAL pg_catalog.aclexplode(d.defaclacl) AS g
      CROSS JOIN LATERAL (SELECT CASE WHEN g.grantee = 0 THEN 'PUBLIC' ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(g.grantee)) END) AS v (who)
     WHERE (pg_catalog.pg_get_userbyid(d.defaclrole) = 'tally_owner' OR s.nspname IN ('tally', 'tally_internal'))
       AND g.grantee <> d.defaclrole AND NOT (g.grantee = 0 AND d.defaclobjtype IN ('f', 'T'));
  END;
COMMENT ON FUNCTION tally_internal.lint_tables() IS 'findings of tally.lint() about privileges, keys, publications and statistics';

CREATE FUNCTION tally_internal.rules_policies(OUT name text, OUT level text, OUT title text, OUT description text)
  RETURNS SETOF record ROWS 20
  LANGUAGE sql IMMUTABLE PARALLEL SAFE STRICT
  SET search_path = pg_catalog, pg_temp
  BEGIN ATOMIC
    SELECT v.* FROM (VALUES
      ('rls_disabled', 'ERROR', 'Row security is off',
       'Without row security the policies of the table don''t count: everybody who may read it reads every tenant.'),
      ('rls_not_forced', 'ERROR', 'Row security does not bind the owner',
       'Without FORCE the table''s owner, and views and elevated functions of that owner, see every tenant.'),
      ('child_unprotected', 'ERROR', 'A partition or child has no protection',
       'Policies of the parent don''t count for statements that name the child.'),
      ('child_outside_extension', 'ERROR', 'A table outside pg_tally is a child of one of its tables',
       'Rows of the parent may lie in a table whose owner and privileges pg_tally doesn''t control.'),
      ('guard_missing', 'ERROR', 'The restrictive policy is missing',
       'Permissive policies are OR-ed: without tally_guard any further policy widens what a tenant sees.'),
      ('guard_altered', 'ERROR', 'The restrictive policy was altered',
       'tally_guard is what bounds every other policy; it must be exactly as pg_tally declares it.'),
      ('tenant_policy_altered', 'ERROR', 'A permissive policy of pg_tally is missing or was altered',
       'tally_tenant and tally_global open the table to the scope and to nothing else.'),
      ('administration_open', 'WARN', 'A table of administration has no row security, or another',
       'Analysts and auditors that are bound to a tenant would read every tenant''s id there.'),
      ('extra_policy', 'WARN', 'A further permissive policy',
       'It widens what is seen as soon as tally_guard is gone, and hides rows from nobody.'),
      ('policy_function', 'WARN', 'A restrictive policy calls a function that is not pg_tally''s',
       'A policy''s function is handed rows before they are known to be in scope, and may keep them.'),
      ('tenant_column_nullable', 'WARN', 'The tenant or account column is nullable',
       'Rows without an id belong to nobody: no scope sees them, and no tenant can remove them.'),
      ('owner_bypasses_rls', 'ERROR', 'The owner of the table bypasses row security',
       'FORCE ROW LEVEL SECURITY doesn''t bind superusers and BYPASSRLS roles.'),
      ('owner_changed', 'ERROR', 'A table or view of pg_tally does not belong to its owner',
       'A table''s owner can drop its policies, a view''s can change what it shows; alter_rollup and drop_rollup need views that are tally_owner''s.'),
      ('trigger_on_table', 'ERROR', 'A trigger on a table of pg_tally',
       'A trigger sees what is written in every scope.'),
      ('rule_on_table', 'ERROR', 'A rewrite rule on a protected table',
       'A rule replaces statements, with the rights of the table''s owner.')
    ) AS v (name, level, title, description);
  END;
COMMENT ON FUNCTION tally_internal.rules_policies() IS 'the rules of tally_internal.lint_policies()';
REVOKE ALL ON FUNCTION tally_internal.rules_policies() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tally_internal.rules_policies() TO tally_admin, tally_auditor;

CREATE FUNCTION tally_internal.rules_tables(OUT name text, OUT level text, OUT title text, OUT description text)
  RETURNS SETOF record ROWS 20
  LANGUAGE sql IMMUTABLE PARALLEL SAFE STRICT
  SET search_path = pg_catalog, pg_temp
  BEGIN ATOMIC
    SELECT v.* FROM (VALUES
      ('truncate_granted', 'ERROR', 'TRUNCATE is granted on a protected table',
       'TRUNCATE isn''t subject to row security: it removes every tenant''s rows.'),
      ('references_granted', 'WARN', 'REFERENCES is granted on a protected table',
       'A foreign key isn''t subject to row security: whoever may make one can test which keys exist.'),
      ('trigger_granted', 'ERROR', 'TRIGGER is granted on a protected table',
       'A trigger runs with the rights, and in the scope, of whoever writes.'),
      ('maintain_granted', 'WARN', 'MAINTAIN is granted on a protected table',
       'Who may VACUUM, CLUSTER, REINDEX or LOCK a table can keep every tenant from it.'),
      ('write_granted', 'ERROR', 'A table of pg_tally may be written directly',
       'Events are immutable, and numbers, bindings and limits are only written by pg_tally''s functions.'),
      ('read_granted_to_public', 'WARN', 'PUBLIC may read a relation of pg_tally',
       'Reading is for members of pg_tally''s group roles.'),
      ('secret_readable', 'ERROR', 'Secrets of tenants may be read: keys of their sketches or streams',
       'Who knows a tenant''s key can choose ids that bend its distinct counts, or that its streams will come to.'),
      ('unique_key_without_tenant', 'WARN', 'A unique key does not begin with the tenant',
       'Uniqueness isn''t subject to row security: a refused insert tells that another tenant has the key.'),
      ('index_without_tenant', 'WARN', 'An index does not begin with the tenant',
       'A search reads entries of every tenant before row security hides their rows: pg_stat_xact_all_tables counts them, and in a serializable transaction pg_locks tells where they are.'),
      ('exclusion_without_tenant', 'WARN', 'An exclusion constraint does not compare the tenant',
       'Constraints aren''t subject to row security: a refused insert tells that another tenant has a row it excludes.'),
      ('statistics_without_tenant', 'INFO', 'Extended statistics do not contain the tenant',
       'They steer every tenant''s plans by what all tenants have; with the tenant among their columns by what it has itself.'),
      ('foreign_key_without_tenant', 'WARN', 'A foreign key does not pair the tenants',
       'Foreign keys aren''t subject to row security: a row may refer to another tenant''s, and so tell that it exists.'),
      ('foreign_key_to_shared', 'WARN', 'A protected table refers to rows that others than their owner may remove',
       'Foreign keys aren''t subject to row security: a refused DELETE or UPDATE tells that some tenant refers to the row.'),
      ('tenant_in_partition_bound', 'INFO', 'Partition bounds name tenants',
       'Everybody may read pg_class: the ids, and how much each of those tenants has. tally.isolate_tenant() does so, too.'),
      ('publication', 'WARN', 'A publication contains a protected table',
       'Logical replication isn''t subject to row security: a subscriber gets every tenant''s rows.'),
      ('statistics_granted', 'ERROR', 'Column statistics may be read',
       'The most common values of a column are rows of every tenant; the view pg_stats hides them, the table doesn''t.'),
      ('default_privileges', 'ERROR', 'Default privileges open what pg_tally makes',
       'Partitions and rollups are made later: what is granted by default is granted on them.')
    ) AS v (name, level, title, description);
  END;
COMMENT ON FUNCTION tally_internal.rules_tables() IS 'the rules of tally_internal.lint_tables()';
REVOKE ALL ON FUNCTION tally_internal.rules_tables() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tally_internal.rules_tables() TO tally_admin, tally_auditor;
