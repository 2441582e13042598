-- Findings about roles: attributes, memberships, bindings and settings.

CREATE FUNCTION tally_internal.lint_roles(OUT rule text, OUT type text, OUT schema text, OUT object text, OUT detail text, OUT fix text)
  RETURNS SETOF record
  LANGUAGE sql STABLE PARALLEL SAFE STRICT
  SET search_path = pg_catalog, pg_temp
  BEGIN ATOMIC
    WITH groups AS (
      SELECT g.* FROM pg_catalog.pg_roles AS g
       WHERE g.rolname IN ('tally_owner', 'tally_security', 'tally_evaluator', 'tally_admin', 'tally_writer', 'tally_reader', 'tally_analyst', 'tally_auditor', 'tally_custodian')
    ), person AS (
      -- Superusers are members of everything; what binds them is outside of what a lint can tell.
      SELECT r.* FROM pg_catalog.pg_roles AS r
       WHERE NOT r.rolsuper AND r.oid >= 16384 AND r.oid NOT IN (SELECT g.oid FROM groups AS g)
    ), bound AS (
      SELECT b.role_name::oid AS id, b.tenant_id IS NOT NULL OR b.needs_token AS is_confined, b.is_global,
             r.rolname, r.oid IS NULL AS is_gone, r.rolsuper OR r.rolbypassrls AS bypasses,
             b.bound_as, b.bound_as IS DISTINCT FROM r.rolname AS is_renamed,
             pg_catalog.jsonb_build_array(b.tenant_id, b.account_id, b.needs_token, b.is_global) AS content
        FROM tally.role_binding AS b LEFT JOIN pg_catalog.pg_roles AS r ON r.oid = b.role_name
    ), acting AS (
      -- Who is in which binding: its own, or else those of the groups whose privileges it has.
      SELECT p.oid AS id, p.rolname, p.rolcanlogin, b.is_confined, b.is_global, b.content
        FROM person AS p JOIN bound AS b ON b.id = p.oid
      UNION ALL
      SELECT p.oid, p.rolname, p.rolcanlogin, b.is_confined, b.is_global, b.content
        FROM bound AS b JOIN person AS p ON p.oid <> b.id AND pg_catalog.pg_has_role(p.oid, b.id, 'USAGE')
       WHERE NOT b.is_gone AND p.oid NOT IN (SELECT o.id FROM bound AS o)
         AND EXISTS (SELECT FROM pg_catalog.pg_auth_members AS m WHERE m.roleid = b.id)
    ), finding (rule, object, detail, fix) AS (
      SELECT 'group_role_attribute', g.rolname, pg_catalog.format('group role %I has %s', g.rolname, a.attribute),
             pg_catalog.format('ALTER ROLE %I NO%s;', g.rolname, a.attribute)
        FROM groups AS g
        CROSS JOIN LATERAL (VALUES ('LOGIN', g.rolcanlogin), ('SUPERUSER', g.rolsuper), ('BYPASSRLS', g.rolbypassrls),
          ('CREATEROLE', g.rolcreaterole)) AS a (attribute, has) WHERE a.has
      UNION ALL
      SELECT 'bypassrls_role', p.rolname, pg_catalog.format('role %I has BYPASSRLS and may read protected tables', p.rolname),
             pg_catalog.format('ALTER ROLE %I NOBYPASSRLS;', p.rolname)
        FROM person AS p
       WHERE p.rolbypassrls AND p.oid NOT IN (SELECT b.id FROM bound AS b)
         AND (EXISTS (SELECT FROM groups AS g WHERE pg_catalog.pg_has_role(p.oid, g.oid, 'MEMBER'))
           OR EXISTS (SELECT FROM tally_internal.isolated_tables() AS i WHERE pg_catalog.has_table_privilege(p.oid, i.id, 'SELECT')))
      UNION ALL
      SELECT 'binding_bypasses_rls', b.rolname,
             pg_catalog.format('role %I is %s and bypasses row security', b.rolname,
               CASE WHEN b.is_confined THEN 'bound' ELSE 'trusted' END),
             pg_catalog.format('ALTER ROLE %I NOSUPERUSER NOBYPASSRLS;', b.rolname)
        FROM bound AS b WHERE b.bypasses
      UNION ALL
      SELECT 'binding_without_role', b.id::text, pg_catalog.format('role number %s is bound and does not exist', b.id),
             pg_catalog.format('SELECT tally.unbind_role(%L);', b.id)
        FROM bound AS b WHERE b.is_gone
      UNION ALL
      SELECT 'binding_of_renamed_role', b.rolname,
             pg_catalog.format('role %I was bound as %I: its binding doesn''t count, and it is in no scope', b.rolname, b.bound_as),
             pg_catalog.format('SELECT tally.unbind_role(%L);', pg_catalog.quote_ident(b.rolname))
        FROM bound AS b WHERE b.is_renamed AND NOT b.is_gone
      UNION ALL
      SELECT 'binding_ambiguous', a.rolname,
             pg_catalog.format('role %I is a member of groups whose bindings differ, and is in no scope', a.rolname),
             'leave it in one of the groups, or bind it itself'
        FROM acting AS a WHERE a.rolcanlogin GROUP BY a.id, a.rolname HAVING pg_catalog.count(DISTINCT a.content) > 1
      UNION ALL
      SELECT DISTINCT 'global_role_writes', a.rolname,
             pg_catalog.format('role %I reads every tenant from the start and is a member of %I', a.rolname, g.rolname),
             pg_catalog.format('REVOKE %I FROM %I;', g.rolname, a.rolname)
        FROM acting AS a
        -- An administrator is a writer, too.
        CROSS JOIN LATERAL (SELECT w.rolname FROM groups AS w
                             WHERE w.rolname IN ('tally_writer', 'tally_admin') AND pg_catalog.pg_has_role(a.id, w.oid, 'MEMBER')
                             ORDER BY w.rolname LIMIT 1) AS g
       WHERE a.is_global
      UNION ALL
      SELECT DISTINCT 'global_role_not_analyst', a.rolname,
             pg_catalog.format('role %I is bound to the global scope and may not read it', a.rolname),
             pg_catalog.format('GRANT tally_analyst TO %I;', a.rolname)
        FROM acting AS a JOIN groups AS g ON g.rolname = 'tally_analyst'
       WHERE a.is_global AND NOT pg_catalog.pg_has_role(a.id, g.oid, 'USAGE')
      UNION ALL
      SELECT DISTINCT 'bound_role_is_admin', a.rolname, pg_catalog.format('bound role %I is a member of tally_admin', a.rolname),
             pg_catalog.format('REVOKE tally_admin FROM %I;', a.rolname)
        FROM acting AS a JOIN groups AS g ON g.rolname = 'tally_admin'
       WHERE a.is_confined AND pg_catalog.pg_has_role(a.id, g.oid, 'MEMBER')
      UNION ALL
      SELECT 'bound_role_is_auditor', b.rolname, pg_catalog.format('bound role %I is a member of tally_auditor', b.rolname),
             pg_catalog.format('REVOKE tally_auditor FROM %I;', b.rolname)
        FROM bound AS b JOIN groups AS g ON g.rolname = 'tally_auditor' JOIN groups AS a ON a.rolname = 'tally_admin'
       WHERE b.is_confined AND NOT b.bypasses AND pg_catalog.pg_has_role(b.id, g.oid, 'MEMBER')
         AND NOT pg_catalog.pg_has_role(b.id, a.oid, 'MEMBER')
      UNION ALL
      SELECT 'bound_role_owns_table', b.rolname,
             pg_catalog.format('bound role %I owns table %s', b.rolname, c.oid::regclass),
             'give the table to a role that nobody logs in as, with ALTER TABLE ... OWNER TO'
        FROM bound AS b JOIN pg_catalog.pg_class AS c ON c.relowner = b.id
        JOIN tally_internal.isolated_tables() AS i ON i.id = c.oid
       WHERE b.is_confined AND NOT i.is_own
      UNION ALL
      SELECT 'owner_member', m.rolname, pg_catalog.format('role %I is a member of %I', m.rolname, g.rolname),
             pg_catalog.format('REVOKE %I FROM %I;', g.rolname, m.rolname)
        FROM groups AS g JOIN pg_catalog.pg_roles AS m ON NOT m.rolsuper AND m.oid <> g.oid
       WHERE g.rolname IN ('tally_owner', 'tally_security', 'tally_evaluator') AND pg_catalog.pg_has_role(m.oid, g.oid, 'MEMBER')
      UNION ALL
      SELECT 'evaluator_may', e.rolname, pg_catalog.format('role %I is a member of %I', e.rolname, r.rolname),
             pg_catalog.format('REVOKE %I FROM %I;', r.rolname, e.rolname)
        FROM groups AS e JOIN pg_catalog.pg_auth_members AS a ON a.member = e.oid JOIN pg_catalog.pg_roles AS r ON r.oid = a.roleid
       WHERE e.rolname = 'tally_evaluator'
      UNION ALL
      -- What it calls needs USAGE and EXECUTE; of anything else it neither owns nor is granted a thing.
      SELECT 'evaluator_may', e.rolname,
             pg_catalog.format('role %I %s %s', e.rolname, CASE d.deptype WHEN 'o' THEN 'owns' ELSE 'has privileges on' END,
               CASE WHEN d.dbid = 0 OR o.datname = pg_catalog.current_database() THEN pg_catalog.pg_describe_object(d.classid, d.objid, d.objsubid)
                    ELSE 'objects of database ' || pg_catalog.quote_ident(o.datname) END),
             CASE d.deptype WHEN 'o' THEN pg_catalog.format('in that database: REASSIGN OWNED BY %I TO another role', e.rolname)
                            ELSE pg_catalog.format('revoke them from %I', e.rolname) END
        FROM groups AS e
        JOIN pg_catalog.pg_shdepend AS d ON d.refclassid = 'pg_catalog.pg_authid'::regclass AND d.refobjid = e.oid
        LEFT JOIN pg_catalog.pg_database AS o ON o.oid = d.dbid
       WHERE e.rolname = 'tally_evaluator'
         AND (d.deptype = 'o' OR d.deptype = 'a' AND d.classid NOT IN ('pg_catalog.pg_proc'::regclass, 'pg_catalog.pg_type'::regclass,
                'pg_catalog.pg_namespace'::regclass, 'pg_catalog.pg_language'::regclass))
      UNION ALL
      SELECT 'createrole', p.rolname, pg_catalog.format('role %I has CREATEROLE', p.rolname),
             pg_catalog.format('ALTER ROLE %I NOCREATEROLE;', p.rolname)
        FROM person AS p
       WHERE p.rolcreaterole
         AND (pg_catalog.current_setting('server_version_num')::int4 < 160000
           OR EXISTS (SELECT FROM groups AS g WHERE pg_catalog.pg_has_role(p.oid, g.oid, 'MEMBER WITH ADMIN OPTION')))
      UNION ALL
      SELECT 'data_role_member', m.rolname, pg_catalog.format('role %I is a member of %I', m.rolname, d.rolname),
             pg_catalog.format('REVOKE %I FROM %I;', d.rolname, m.rolname)
        FROM pg_catalog.pg_roles AS d
        JOIN pg_catalog.pg_roles AS m ON NOT m.rolsuper AND m.oid >= 16384 AND pg_catalog.pg_has_role(m.oid, d.oid, 'MEMBER')
       WHERE d.rolname IN ('pg_read_all_data', 'pg_write_all_data', 'pg_read_server_files', 'pg_write_server_files',
                           'pg_execute_server_program', 'pg_maintain')
      UNION ALL
      SELECT DISTINCT 'statistics_reader', a.rolname,
             pg_catalog.format('role %I acts for tenants and is a member of %I', a.rolname, g.rolname),
             pg_catalog.format('REVOKE %I FROM %I;', g.rolname, a.rolname)
        FROM acting AS a
        -- Members of pg_monitor are members of the other.
        CROSS JOIN LATERAL (SELECT r.rolname FROM pg_catalog.pg_roles AS r
                             WHERE r.rolname IN ('pg_monitor', 'pg_read_all_stats') AND pg_catalog.pg_has_role(a.id, r.oid, 'MEMBER')
                             ORDER BY r.rolname LIMIT 1) AS g
       WHERE a.is_confined
      UNION ALL
      SELECT 'replication_role', p.rolname, pg_catalog.format('role %I has REPLICATION', p.rolname),
             pg_catalog.format('ALTER ROLE %I NOREPLICATION;', p.rolname)
        FROM person AS p WHERE p.rolreplication
    )
    SELECT f.rule, 'role', NULL::text, f.object::text, f.detail, f.fix FROM finding AS f
    UNION ALL
    SELECT 'role_setting', CASE WHEN s.setrole = 0 THEN 'database' ELSE 'role' END, NULL,
           coalesce(r.rolname, d.datname)::text,
           pg_catalog.format('%s is set for %s', c.setting, pg_catalog.concat_ws(' in database ', r.rolname, d.datname)),
           CASE WHEN s.setrole = 0 THEN pg_catalog.format('ALTER DATABASE %I RESET %s;', d.datname, c.name)
                ELSE pg_catalog.format('ALTER ROLE %s%s RESET %s;', pg_catalog.quote_ident(r.rolname),
                  coalesce(' IN DATABASE ' || pg_catalog.quote_ident(d.datname), ''), c.name) END
      FROM pg_catalog.pg_db_role_setting AS s
      LEFT JOIN pg_catalog.pg_roles AS r ON r.oid = s.setrole
      LEFT JOIN pg_catalog.pg_database AS d ON d.oid = s.setdatabase
      CROSS JOIN LATERAL (SELECT x, pg_catalog.split_part(x, '=', 1), pg_catalog.split_part(x, '=', 2)
                            FROM pg_catalog.unnest(s.setconfig) AS x) AS c (setting, name, value)
     WHERE s.setdatabase IN (0, (SELECT o.oid FROM pg_catalog.pg_database AS o WHERE o.datname = pg_catalog.current_database()))
       AND (c.name = 'row_security' AND c.value IN ('off', 'false', 'no', '0')
         OR c.name = 'session_replication_role' AND c.value <> 'origin'
         OR c.name = 'tally.scope'
         OR c.name = 'search_path' AND c.value ~ '(^|[ ,])"?pg_temp"? *,')
    UNION ALL
    -- What tally.enter() refuses of a pool role, and a path on which the role may put objects. Names that Postgres doesn't know are
    -- applications' own.
    SELECT 'pool_role_setting', 'role', NULL, b.rolname::text,
           pg_catalog.format('%s is set for pool role %I, and its clients could have set it for each other', c.setting, b.rolname),
           pg_catalog.format('ALTER ROLE %I%s RESET %s;', b.rolname,
             (SELECT ' IN DATABASE ' || pg_catalog.quote_ident(d.datname) FROM pg_catalog.pg_database AS d WHERE d.oid = s.setdatabase),
             pg_catalog.array_to_string(ARRAY(SELECT pg_catalog.quote_ident(p.part)
               FROM pg_catalog.string_to_table(c.name, '.') AS p (part)), '.'))
      FROM pg_catalog.pg_db_role_setting AS s
      JOIN bound AS b ON b.id = s.setrole
      JOIN tally.role_binding AS t ON t.role_name = b.id::regrole AND t.needs_token
      CROSS JOIN LATERAL (SELECT x, pg_catalog.split_part(x, '=', 1), pg_catalog.substr(x, pg_catalog.strpos(x, '=') + 1)
                            FROM pg_catalog.unnest(s.setconfig) AS x) AS c (setting, name, value)
      LEFT JOIN pg_catalog.pg_settings AS g ON pg_catalog.lower(g.name) = pg_catalog.lower(c.name)
     WHERE s.setdatabase IN (0, (SELECT o.oid FROM pg_catalog.pg_database AS o WHERE o.datname = pg_catalog.current_database()))
       AND CASE
             -- Reported as role_setting.
             WHEN c.name IN ('row_security', 'session_replication_role', 'tally.scope') THEN false
             WHEN c.name = 'search_path' THEN EXISTS (
               SELECT FROM pg_catalog.string_to_table(c.value, ',') AS p (part)
               JOIN pg_catalog.pg_namespace AS n ON n.nspname = pg_catalog.btrim(p.part, ' "')
                WHERE pg_catalog.has_schema_privilege(b.id, n.oid, 'CREATE'))
             WHEN g.name IS NULL THEN true
             WHEN g.context <> 'user' OR pg_catalog.lower(g.boot_val) = pg_catalog.lower(c.value) THEN false
             WHEN g.category ~ '^(Query Tuning|Resource Usage|Statistics / Monitoring)' OR g.name ~ '_timeout$' THEN false
             ELSE pg_catalog.lower(g.name) NOT IN ('application_name', 'client_connection_check_interval', 'client_encoding',
               'client_min_messages', 'debug_parallel_query', 'debug_pretty_print', 'default_transaction_isolation',
               'force_parallel_mode', 'lc_messages', 'lc_monetary', 'lc_numeric', 'lc_time', 'local_preload_libraries',
               'datestyle', 'intervalstyle', 'timezone', 'bytea_output', 'extra_float_digits', 'xmlbinary', 'xmloption')
           END
    UNION ALL
    SELECT 'statement_statistics', 'extension', n.nspname::text, e.extname::text,
           pg_catalog.format('%s may read pg_stat_statements', w.who),
           pg_catalog.string_agg(pg_catalog.format('REVOKE %s ON %s FROM %s;', g.privilege_type, g.ref, w.who), ' ' ORDER BY g.ref)
      FROM pg_catalog.pg_extension AS e
      JOIN pg_catalog.pg_namespace AS n ON n.oid = e.extnamespace
      CROSS JOIN LATERAL (
        SELECT x.grantee, x.privilege_type, c.oid::regclass::text
          FROM pg_catalog.pg_class AS c, pg_catalog.aclexplode(c.relacl) AS x
         WHERE c.relnamespace = n.oid AND c.relname = 'pg_stat_statements' AND x.privilege_type = 'SELECT' AND x.grantee <> c.relowner
        UNION ALL
        SELECT x.grantee, x.privilege_type, 'FUNCTION ' || p.oid::regprocedure
          FROM pg_catalog.pg_proc AS p, pg_catalog.aclexplode(coalesce(p.proacl, pg_catalog.acldefault('f', p.proowner))) AS x
         WHERE p.pronamespace = n.oid AND p.proname = 'pg_stat_statements' AND x.grantee <> p.proowner
      ) AS g (grantee, privilege_type, ref)
      CROSS JOIN LATERAL (SELECT CASE WHEN g.grantee = 0 THEN 'PUBLIC' ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(g.grantee)) END) AS w (who)
     WHERE e.extname = 'pg_stat_statements'
       AND EXISTS (SELECT FROM acting AS a WHERE a.is_confined AND (g.grantee = 0 OR pg_catalog.pg_has_role(a.id, g.grantee, 'USAGE')))
     GROUP BY n.nspname, e.extname, w.who
    UNION ALL
    SELECT 'plan_printing_library', CASE WHEN l.is_own THEN 'setting' ELSE 'role' END, NULL, l.name,
           pg_catalog.format('%s loads auto_explain, which prints plans', l.name),
           pg_catalog.format('take auto_explain out of %s, or let it write nowhere but to the log: see docs/SECURITY.md', l.name)
      FROM (SELECT s.name, true FROM pg_catalog.pg_settings AS s
             WHERE s.name IN ('shared_preload_libraries', 'session_preload_libraries', 'local_preload_libraries')
               AND s.setting ~ $re$\mauto_explain\M$re$ AND s.source NOT IN ('database', 'user', 'database user')
            UNION ALL
            SELECT DISTINCT c.name || ' of ' || pg_catalog.concat_ws(' in database ', r.rolname, d.datname), false
              FROM pg_catalog.pg_db_role_setting AS s
              LEFT JOIN pg_catalog.pg_roles AS r ON r.oid = s.setrole
              LEFT JOIN pg_catalog.pg_database AS d ON d.oid = s.setdatabase
              CROSS JOIN LATERAL (SELECT pg_catalog.split_part(x, '=', 1), x FROM pg_catalog.unnest(s.setconfig) AS x) AS c (name, setting)
             WHERE s.setdatabase IN (0, (SELECT o.oid FROM pg_catalog.pg_database AS o WHERE o.datname = pg_catalog.current_database()))
               AND c.setting ~ $re$^(session|local)_preload_libraries=.*\mauto_explain\M$re$) AS l (name, is_own)
    UNION ALL
    -- What the server's own files say is shown to superusers and members of pg_read_all_settings; others aren't told.
    SELECT DISTINCT 'library_not_preloaded', 'role', NULL::text, b.rolname::text,
           pg_catalog.format('role %I acts for tenants, and neither its sessions nor the server load pg_tally when they begin', b.rolname),
           pg_catalog.format('ALTER ROLE %I SET session_preload_libraries = ''pg_tally'';', b.rolname)
      FROM acting AS b
     WHERE b.is_confined AND b.rolcanlogin
       AND EXISTS (SELECT FROM pg_catalog.pg_settings AS s WHERE s.name = 'shared_preload_libraries')
       AND NOT EXISTS (SELECT FROM pg_catalog.pg_settings AS s
                        WHERE s.name IN ('shared_preload_libraries', 'session_preload_libraries') AND s.setting ~ $re$\mpg_tally\M$re$
                          AND s.source NOT IN ('database', 'user', 'database user'))
       AND NOT EXISTS (SELECT FROM pg_catalog.pg_db_role_setting AS s CROSS JOIN LATERAL pg_catalog.unnest(s.setconfig) AS c (setting)
                        WHERE s.setrole IN (0, b.id)
                          AND s.setdatabase IN (0, (SELECT o.oid FROM pg_catalog.pg_database AS o WHERE o.datname = pg_catalog.current_database()))
                          AND c.setting ~ $re$^session_preload_libraries=.*\mpg_tally\M$re$);
  END;
COMMENT ON FUNCTION tally_internal.lint_roles() IS 'findings of tally.lint() about roles, bindings and their settings';

CREATE FUNCTION tally_internal.rules_roles(OUT name text, OUT level text, OUT title text, OUT description text)
  RETURNS SETOF record ROWS 20
  LANGUAGE sql IMMUTABLE PARALLEL SAFE STRICT
  SET search_path = pg_catalog, pg_temp
  BEGIN ATOMIC
    SELECT v.* FROM (VALUES
      ('group_role_attribute', 'ERROR', 'A group role of pg_tally has an attribute that it must not have',
       'Group roles are neither SUPERUSER, BYPASSRLS nor CREATEROLE, and nobody logs in as one.'),
      ('bypassrls_role', 'ERROR', 'A role that bypasses row security may read protected tables',
       'BYPASSRLS makes every policy void.'),
      ('binding_bypasses_rls', 'ERROR', 'A bound or trusted role bypasses row security',
       'A binding holds only for roles that are neither SUPERUSER nor BYPASSRLS.'),
      ('binding_without_role', 'WARN', 'A binding of a role that was dropped',
       'The number of a dropped role may be given to a new one, which would inherit its binding.'),
      ('binding_of_renamed_role', 'WARN', 'A role was renamed after it was bound',
       'A binding counts for a role''s number and name together, so that it never passes to another role: bind it again.'),
      ('binding_ambiguous', 'WARN', 'A login inherits bindings that differ',
       'Members of a bound role inherit its binding. Which of several was meant nobody can tell, so none of them counts.'),
      ('global_role_writes', 'WARN', 'A login that reads every tenant may write or administer, too',
       'A binding to the global scope is for tools that read; what connects all the time should have no other right.'),
      ('global_role_not_analyst', 'WARN', 'A login is bound to the global scope and is not an analyst',
       'The global scope is for members of tally_analyst: every statement of this login is refused.'),
      ('bound_role_is_admin', 'ERROR', 'A bound role may administer pg_tally',
       'A member of tally_admin can bind itself to another tenant.'),
      ('bound_role_is_auditor', 'WARN', 'A bound role may read the records of who did what',
       'A member of tally_auditor reads which role is bound to which tenant.'),
      ('bound_role_owns_table', 'ERROR', 'A bound role owns a protected table',
       'A table''s owner can drop its policies.'),
      ('owner_member', 'ERROR', 'A role is a member of tally_owner, tally_security or tally_evaluator',
       'It can SET ROLE to it, and drop every policy, bind itself to any tenant, or alter what expressions run as.'),
      ('evaluator_may', 'ERROR', 'The role that evaluates declared expressions may do something',
       'Code in a declared expression has the rights of tally_evaluator: it owns nothing and is granted USAGE and EXECUTE alone.'),
      ('createrole', 'ERROR', 'A role may grant itself the group roles of pg_tally',
       'Before Postgres 16, CREATEROLE allows granting any role that isn''t superuser, tally_owner and tally_security among them.'),
      ('data_role_member', 'ERROR', 'A role may read or write everything, or reach the server''s files',
       'pg_read_all_data reads pg_tally''s secrets and bindings; pg_maintain locks every table; files and programs of the server hold every tenant''s rows.'),
      ('replication_role', 'WARN', 'A role may replicate',
       'Replication isn''t subject to row security.'),
      ('role_setting', 'ERROR', 'A role or database setting weakens isolation',
       'row_security, session_replication_role, plan and path settings and a preset scope take effect before anybody enters one.'),
      ('pool_role_setting', 'WARN', 'A pool role has a setting of its own that could change answers',
       'ALTER ROLE CURRENT_USER SET, run by one client, holds for every later one: tally.enter() refuses such a role, and a path on which its clients could put objects is a trap.'),
      ('plan_printing_library', 'INFO', 'A library that prints plans is loaded',
       'Plans tell how many rows of other tenants a filter removed; the library pg_tally, loaded too, keeps the log from the clients that act for tenants.'),
      ('library_not_preloaded', 'WARN', 'Roles act for tenants and the library is not preloaded',
       'Until a session has called one of pg_tally''s functions, EXPLAIN isn''t refused to it: plans tell about other tenants'' rows.'),
      ('statistics_reader', 'WARN', 'A role that acts for tenants may read all statistics',
       'Members of pg_read_all_stats read the text of every session''s statement, in pg_stat_activity and pg_stat_statements.'),
      ('statement_statistics', 'WARN', 'Roles that act for tenants may read pg_stat_statements',
       'It has the text of statements of all clients of a login, as of a pool''s, and of everybody''s how many rows and pages they read.')
    ) AS v (name, level, title, description);
  END;
COMMENT ON FUNCTION tally_internal.rules_roles() IS 'the rules of tally_internal.lint_roles()';
REVOKE ALL ON FUNCTION tally_internal.rules_roles() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tally_internal.rules_roles() TO tally_admin, tally_auditor;
