-- Findings about tables: row security, policies, privileges, keys, triggers and rules.

CREATE FUNCTION tally.lint_policies(OUT rule text, OUT type text, OUT schema text, OUT object text, OUT detail text, OUT fix text)
  RETURNS SETOF record
  LANGUAGE sql STABLE PARALLEL SAFE STRICT
  SET search_path = pg_catalog, pg_temp
  BEGIN ATOMIC
    WITH candidate AS (
      SELECT i.*, c.oid::regclass AS ref, n.nspname, c.relname, c.relrowsecurity, c.relforcerowsecurity, r.rolname,
             r.rolsuper OR r.rolbypassrls AS bypasses, CASE WHEN c.oid = 'tally.tenant'::regclass THEN 'tally_security' ELSE 'tally_owner' END AS owner,
             EXISTS (SELECT FROM pg_catalog.pg_inherits AS h WHERE h.inhrelid = c.oid) AS is_child,
             EXISTS (SELECT FROM pg_catalog.pg_policy AS p WHERE p.polrelid = c.oid
                        AND p.polname IN ('tally_tenant', 'tally_global', 'tally_guard')) AS has_policy
        FROM tally.isolated_tables() AS i
        JOIN pg_catalog.pg_class AS c ON c.oid = i.id
        JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
        JOIN pg_catalog.pg_roles AS r ON r.oid = c.relowner
    ), policy AS (
      SELECT c.ref, p.*, EXISTS (SELECT FROM pg_catalog.pg_policy AS o WHERE o.polrelid = c.id AND o.polname = p.policy_name) AS exists,
             pg_catalog.format('DROP POLICY IF EXISTS %1$I ON %2$s; CREATE POLICY %1$I ON %2$s AS %3$s TO %4$s USING (%5$s) WITH CHECK (%5$s);',
               p.policy_name, c.ref, CASE WHEN p.is_permissive THEN 'PERMISSIVE' ELSE 'RESTRICTIVE' END,
               pg_catalog.array_to_string(p.role_names, ', '), p.declared) AS fix
        FROM candidate AS c CROSS JOIN LATERAL tally.policies(c.id, c.tenant_column, c.account_column) AS p
       WHERE (c.has_policy OR NOT c.is_child)
         AND NOT tally.policy_is_intact(c.id, p.policy_name, p.is_permissive, p.role_names, p.printed)
    ), finding (rule, ref, detail, fix) AS (
      SELECT 'child_unprotected', c.ref, pg_catalog.format('table %s is part of a protected table and has no policies', c.ref),
             CASE WHEN c.is_own THEN pg_catalog.format('SELECT tally.secure_table(%L);', c.ref)
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
       WHERE f.pronamespace NOT IN ('pg_catalog'::regnamespace, 'tally'::regnamespace)
      UNION ALL
      SELECT 'tenant_column_nullable', c.ref, pg_catalog.format('column %I of table %s is nullable', a.attname, c.ref),
             pg_catalog.format('ALTER TABLE %s ALTER %I SET NOT NULL;', c.ref, a.attname)
        FROM candidate AS c
        JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.id AND a.attname IN (c.tenant_column, c.account_column)
       WHERE NOT a.attnotnull AND NOT c.is_child
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
    )
    SELECT f.rule, 'table', n.nspname::text, c.relname::text, f.detail, f.fix
      FROM finding AS f JOIN pg_catalog.pg_class AS c ON c.oid = f.ref
      JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace;
  END;
COMMENT ON FUNCTION tally.lint_policies() IS 'findings of tally.lint() about row security and policies';

CREATE FUNCTION tally.lint_tables(OUT rule text, OUT type text, OUT schema text, OUT object text, OUT detail text, OUT fix text)
  RETURNS SETOF record
  LANGUAGE sql STABLE PARALLEL SAFE STRICT
  SET search_path = pg_catalog, pg_temp
  BEGIN ATOMIC
    WITH isolated AS (
      SELECT i.*, c.oid::regclass AS ref, a.attnum AS tenant_number
        FROM tally.isolated_tables() AS i JOIN pg_catalog.pg_class AS c ON c.oid = i.id
        JOIN pg_catalog.pg_attribute AS a ON a.attrelid = i.id AND a.attname = i.tenant_column
    ), granted AS (
      SELECT c.oid AS id, c.oid::regclass AS ref, c.relkind, c.relnamespace = 'tally'::regnamespace AS is_own,
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
         AND (c.relnamespace = 'tally'::regnamespace OR EXISTS (SELECT FROM isolated AS i WHERE i.id = c.oid))
    ), finding (rule, ref, detail, fix) AS (
      SELECT v.rule, g.ref,
             pg_catalog.format('%s may %s %s%s', g.who, g.privilege_type, g.ref, coalesce(', column ' || pg_catalog.quote_ident(g.column_name), '')),
             pg_catalog.format('REVOKE %s ON %s FROM %s CASCADE;', g.privilege_type, g.ref, g.who)
        FROM granted AS g
        JOIN LATERAL (
          SELECT CASE WHEN g.privilege_type IN ('TRUNCATE', 'REFERENCES', 'TRIGGER') AND g.is_isolated
                        THEN pg_catalog.lower(g.privilege_type) || '_granted'
                      -- Rows of the inbox go through the pipeline, which asks for the scope: that is its purpose.
                      WHEN g.privilege_type = 'INSERT' AND g.id = 'tally.inbox'::regclass AND g.who = 'tally_writer' THEN NULL
                      WHEN g.privilege_type <> 'SELECT' AND g.is_own THEN 'write_granted'
                      WHEN g.privilege_type = 'SELECT' AND g.is_own AND g.grantee = 0 THEN 'read_granted_to_public'
                      WHEN g.privilege_type = 'SELECT' AND g.id = 'tally.tenant'::regclass
                       AND g.who <> 'tally_owner' AND coalesce(g.column_name = 'sketch_key', true) THEN 'secret_readable' END
        ) AS v (rule) ON v.rule IS NOT NULL
      UNION ALL
      SELECT 'unique_key_without_tenant', i.ref,
             pg_catalog.format('unique index %s of table %s does not begin with %I', x.indexrelid::regclass, i.ref, i.tenant_column),
             pg_catalog.format('make the key (%I, ...), tenant first', i.tenant_column)
        FROM isolated AS i JOIN pg_catalog.pg_index AS x ON x.indrelid = i.id
        JOIN pg_catalog.pg_class AS c ON c.oid = x.indexrelid
       WHERE x.indisunique AND x.indkey[0] <> i.tenant_number AND NOT c.relispartition
      UNION ALL
      SELECT 'foreign_key_without_tenant', k.conrelid::regclass,
             pg_catalog.format('foreign key %I of table %s refers to %s without the tenant', k.conname, k.conrelid::regclass, i.ref),
             pg_catalog.format('refer to a key of %s that contains %I, from a protected table''s own tenant column', i.ref, i.tenant_column)
        FROM isolated AS i JOIN pg_catalog.pg_constraint AS k ON k.confrelid = i.id AND k.contype = 'f' AND k.conparentid = 0
       WHERE NOT EXISTS (SELECT FROM ROWS FROM (pg_catalog.unnest(k.conkey), pg_catalog.unnest(k.confkey)) AS p (near, far)
                          JOIN isolated AS o ON o.id = k.conrelid AND o.tenant_number = p.near
                         WHERE p.far = i.tenant_number)
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
    SELECT f.rule, 'table', n.nspname::text, c.relname::text, f.detail, f.fix
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
             CASE d.defaclobjtype WHEN 'r' THEN 'TABLES' WHEN 'S' THEN 'SEQUENCES' WHEN 'f' THEN 'FUNCTIONS' ELSE 'TYPES' END, v.who)
      FROM pg_catalog.pg_default_acl AS d
      LEFT JOIN pg_catalog.pg_namespace AS s ON s.oid = d.defaclnamespace
      CROSS JOIN LATERAL pg_catalog.aclexplode(d.defaclacl) AS g
      CROSS JOIN LATERAL (SELECT CASE WHEN g.grantee = 0 THEN 'PUBLIC' ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(g.grantee)) END) AS v (who)
     WHERE (pg_catalog.pg_get_userbyid(d.defaclrole) = 'tally_owner' OR s.nspname = 'tally')
       AND d.defaclobjtype = 'r' AND g.grantee <> d.defaclrole;
  END;
COMMENT ON FUNCTION tally.lint_tables() IS 'findings of tally.lint() about privileges, keys, publications and statistics';
