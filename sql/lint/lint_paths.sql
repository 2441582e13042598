-- Findings about ways around the tables: views, functions, schemas, event triggers.

CREATE FUNCTION tally_internal.lint_paths(OUT rule text, OUT type text, OUT schema text, OUT object text, OUT detail text, OUT fix text)
  RETURNS SETOF record
  LANGUAGE sql STABLE PARALLEL UNSAFE STRICT
  SET search_path = pg_catalog, pg_temp
  BEGIN ATOMIC
    WITH RECURSIVE isolated AS (
      SELECT i.id, i.is_own, c.relname FROM tally_internal.isolated_tables() AS i JOIN pg_catalog.pg_class AS c ON c.oid = i.id
    ), reader (id) AS (
      SELECT i.id FROM isolated AS i
      UNION
      SELECT w.ev_class
        FROM reader AS s
        JOIN pg_catalog.pg_depend AS d ON d.refclassid = 'pg_catalog.pg_class'::regclass AND d.refobjid = s.id
         AND d.classid = 'pg_catalog.pg_rewrite'::regclass
        JOIN pg_catalog.pg_rewrite AS w ON w.oid = d.objid
    ), asker (id) AS (
      -- Materialized views over pg_tally's functions: what those read is read in whatever scope fills the view.
      SELECT w.ev_class
        FROM pg_catalog.pg_proc AS p
        JOIN pg_catalog.pg_depend AS d ON d.refclassid = 'pg_catalog.pg_proc'::regclass AND d.refobjid = p.oid
         AND d.classid = 'pg_catalog.pg_rewrite'::regclass
        JOIN pg_catalog.pg_rewrite AS w ON w.oid = d.objid
        JOIN pg_catalog.pg_class AS c ON c.oid = w.ev_class AND c.relkind = 'm'
       WHERE p.pronamespace IN ('tally'::regnamespace, 'tally_internal'::regnamespace) AND p.provolatile <> 'i'
    ), fn AS (
      SELECT p.*, p.oid::regprocedure AS ref, n.nspname, r.rolname, r.rolsuper, r.rolsuper OR r.rolbypassrls AS bypasses,
             (SELECT pg_catalog.substr(c.setting, 13) FROM pg_catalog.unnest(p.proconfig) AS c (setting)
               WHERE c.setting LIKE $re$search\_path=%$re$) AS path,
             EXISTS (SELECT FROM pg_catalog.aclexplode(coalesce(p.proacl, pg_catalog.acldefault('f', p.proowner))) AS a
                      WHERE a.grantee = 0) AS is_public,
             EXISTS (SELECT FROM pg_catalog.pg_depend AS d WHERE d.classid = 'pg_catalog.pg_proc'::regclass AND d.objid = p.oid
                        AND d.refclassid = 'pg_catalog.pg_extension'::regclass AND d.deptype = 'e') AS is_member
        FROM pg_catalog.pg_proc AS p
        JOIN pg_catalog.pg_namespace AS n ON n.oid = p.pronamespace
        JOIN pg_catalog.pg_roles AS r ON r.oid = p.proowner
       WHERE n.nspname NOT IN ('pg_catalog', 'information_schema')
    ), finding (rule, type, schema, object, detail, fix) AS (
      SELECT CASE c.relkind WHEN 'm' THEN 'materialized_view' ELSE 'view_owner_bypasses_rls' END,
             CASE c.relkind WHEN 'm' THEN 'materialized view' ELSE 'view' END, n.nspname, c.relname::text,
             pg_catalog.format('%s reads protected tables and belongs to %I', c.oid::regclass, r.rolname),
             CASE c.relkind WHEN 'm' THEN pg_catalog.format('DROP MATERIALIZED VIEW %s;', c.oid::regclass)
                            ELSE pg_catalog.format('ALTER VIEW %s SET (security_invoker = true);', c.oid::regclass) END
        FROM (SELECT r.id FROM reader AS r UNION SELECT a.id FROM asker AS a) AS s JOIN pg_catalog.pg_class AS c ON c.oid = s.id
        JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
        JOIN pg_catalog.pg_roles AS r ON r.oid = c.relowner
       WHERE c.relkind = 'm'
          OR c.relkind = 'v' AND (r.rolsuper OR r.rolbypassrls)
         AND NOT EXISTS (SELECT FROM pg_catalog.unnest(c.reloptions) AS o (option)
                          WHERE o.option IN ('security_invoker=true', 'security_invoker=on', 'security_invoker=yes', 'security_invoker=1'))
      UNION ALL
      SELECT 'security_definer_path', 'function', f.nspname, f.ref::text,
             pg_catalog.format('function %s runs with the rights of %I and takes names from the caller''s search_path', f.ref, f.rolname),
             pg_catalog.format('ALTER FUNCTION %s SET search_path = pg_catalog, pg_temp;', f.ref)
        FROM fn AS f WHERE f.prosecdef AND f.is_public AND f.path IS NULL AND f.nspname NOT IN ('tally', 'tally_internal')
      UNION ALL
      SELECT 'security_definer_temp', 'function', f.nspname, f.ref::text,
             pg_catalog.format('function %s runs with the rights of %I and with search_path %s', f.ref, f.rolname, f.path),
             pg_catalog.format('ALTER FUNCTION %s SET search_path = %s, pg_temp;', f.ref, coalesce(nullif(f.path, '""'), 'pg_catalog'))
        FROM fn AS f
       WHERE f.prosecdef AND f.is_public AND f.path !~ '(^|[ ,])"?pg_temp"?$' AND f.nspname NOT IN ('tally', 'tally_internal') AND f.prolang NOT IN (12, 13)
      UNION ALL
      SELECT 'security_definer_reads', 'function', f.nspname, f.ref::text,
             pg_catalog.format('function %s runs with the rights of %I and names a protected table', f.ref, f.rolname),
             pg_catalog.format('ALTER FUNCTION %s SECURITY INVOKER;', f.ref)
        FROM fn AS f
       WHERE f.prosecdef AND f.bypasses AND NOT f.is_member AND f.nspname NOT IN ('tally', 'tally_internal')
         AND (EXISTS (SELECT FROM isolated AS i
                       WHERE f.prosrc ~ (CASE WHEN i.is_own THEN $re$\mtally\.$re$ ELSE $re$\m$re$ END
                         || pg_catalog.regexp_replace(i.relname, $re$(\W)$re$, $re$\\\1$re$, 'g') || $re$\M$re$))
           OR EXISTS (SELECT FROM pg_catalog.pg_depend AS d JOIN reader AS s ON s.id = d.refobjid
                       WHERE d.classid = 'pg_catalog.pg_proc'::regclass AND d.objid = f.oid
                         AND d.refclassid = 'pg_catalog.pg_class'::regclass))
      UNION ALL
      SELECT 'leakproof_function', 'function', f.nspname, f.ref::text,
             pg_catalog.format('function %s of %I is LEAKPROOF', f.ref, f.rolname),
             pg_catalog.format('ALTER FUNCTION %s NOT LEAKPROOF;', f.ref)
        FROM fn AS f WHERE f.proleakproof AND NOT (f.is_member AND f.rolsuper)
      UNION ALL
      SELECT 'stranger_in_schema', 'function', f.nspname, f.ref::text,
             pg_catalog.format('function %s is not part of pg_tally', f.ref), pg_catalog.format('DROP FUNCTION %s;', f.ref)
        FROM fn AS f WHERE f.nspname IN ('tally', 'tally_internal') AND NOT f.is_member
      UNION ALL
      SELECT 'scope_function_altered', 'function', f.nspname, f.ref::text,
             pg_catalog.format('function %s is not as pg_tally declares it', f.ref),
             pg_catalog.format('ALTER FUNCTION %s %s PARALLEL SAFE STRICT SECURITY INVOKER RESET ALL;', f.ref,
               CASE w.volatility WHEN 's' THEN 'STABLE' ELSE 'IMMUTABLE' END)
        FROM fn AS f JOIN pg_catalog.pg_language AS l ON l.oid = f.prolang
        JOIN (VALUES ('tally.current_tenant()'::regprocedure, 's', 'current_tenant_wrapper'),
                     ('tally.current_account()', 's', 'current_account_wrapper'),
                     ('tally.scope_is_global()', 's', 'scope_is_global_wrapper'),
                     ('tally.scope_key()', 's', 'scope_key_wrapper'),
                     ('tally.in_scope(text, text, text)', 'i', 'tally_account_in_scope'),
                     ('tally.in_scope(text, text)', 'i', 'tally_tenant_in_scope'),
                     ('tally.first_account(text)', 'i', 'tally_first_account'),
                     ('tally.last_account(text)', 'i', 'tally_last_account')) AS w (id, volatility, symbol)
          ON w.id = f.oid
       WHERE NOT (l.lanname = 'c' AND f.provolatile = w.volatility::"char" AND f.proparallel = 's' AND f.proisstrict AND NOT f.prosecdef
           AND f.proconfig IS NULL AND f.prosrc = w.symbol
           AND f.probin = (SELECT e.probin FROM pg_catalog.pg_proc AS e WHERE e.oid = 'tally.enter(text, text)'::regprocedure))
      UNION ALL
      SELECT 'elevated_function_altered', 'function', f.nspname, f.ref::text,
             pg_catalog.format('elevated function %s belongs to %I and has search_path %s', f.ref, f.rolname, coalesce(f.path, 'of the caller')),
             pg_catalog.format('ALTER FUNCTION %1$s OWNER TO %2$I; ALTER FUNCTION %1$s SET search_path = pg_catalog, pg_temp;', f.ref, w.owner)
        FROM fn AS f
        CROSS JOIN LATERAL (SELECT CASE WHEN f.proname IN ('bind_role', 'trust_role', 'unbind_role', 'pool_role', 'register_key', 'revoke_key',
                                                            'set_step_up_policy', 'step_up_acts', 'replace_privacy_key', 'retire_privacy_keys', 'key_holders')
                                        THEN 'tally_security' ELSE 'tally_owner' END) AS w (owner)
       WHERE f.nspname IN ('tally', 'tally_internal') AND f.is_member AND f.prosecdef
         AND (f.rolname <> w.owner OR pg_catalog.replace(f.path, '"', '') IS DISTINCT FROM 'pg_catalog, pg_temp')
      UNION ALL
      SELECT 'declared_code', 'rollup', 'tally', s.rollup_name,
             CASE s.problem WHEN 'unreadable' THEN pg_catalog.format('rollup %I can''t be evaluated, and ingest fails: %s', s.rollup_name, s.code)
               WHEN 'momentary' THEN pg_catalog.format('what rollup %I counts depends on when a session began: %s', s.rollup_name, s.code)
               WHEN 'mutable' THEN pg_catalog.format('what rollup %I counts depends on settings or on other rows: %s', s.rollup_name, s.code)
               WHEN 'open' THEN pg_catalog.format('rollup %I calls %s, which has no fixed search_path', s.rollup_name, s.code)
               WHEN 'elevated' THEN pg_catalog.format('rollup %I calls %s, which runs with its owner''s rights', s.rollup_name, s.code)
               ELSE pg_catalog.format('rollup %I calls %s, which %s', s.rollup_name, s.code, s.problem) END,
             CASE s.problem WHEN 'unreadable' THEN 'make what it needs, with USAGE and EXECUTE for tally_evaluator, or drop it with tally.drop_rollup()'
               WHEN 'momentary' THEN pg_catalog.format('SELECT tally.drop_rollup(%L);', s.rollup_name)
               WHEN 'mutable' THEN pg_catalog.format('SELECT tally.drop_rollup(%L);', s.rollup_name)
               WHEN 'open' THEN pg_catalog.format('ALTER FUNCTION %s SET search_path = pg_catalog, pg_temp;', s.code)
               WHEN 'elevated' THEN pg_catalog.format('ALTER FUNCTION %s SECURITY INVOKER;', s.code)
               ELSE pg_catalog.format('ALTER FUNCTION %s RESET %s;', s.code, pg_catalog.substr(s.problem, 6)) END
        FROM tally_internal.strange_code() AS s
      UNION ALL
      -- What has no minimum of its own is cast to what has one, in a view that everybody reads. Declaring refuses it since 0.2.0.
      SELECT 'declared_code', 'rollup', 'tally', c.rollup_name,
             pg_catalog.format('measure %I of rollup %I is the %s of a %s, whose casts its readers call', c.column_name, c.rollup_name, c.kind, a.atttypid::regtype),
             pg_catalog.format('SELECT tally.drop_rollup(%L);', c.rollup_name)
        FROM tally.rollup_column AS c
        JOIN pg_catalog.pg_class AS p ON p.relname = c.rollup_name || '_pending' AND p.relnamespace = 'tally'::regnamespace
        JOIN pg_catalog.pg_attribute AS a ON a.attrelid = p.oid AND a.attname = c.column_name AND NOT a.attisdropped
        JOIN pg_catalog.pg_type AS t ON t.oid = a.atttypid AND t.typtype IN ('c', 'r', 'm')
       WHERE c.kind IN ('min', 'max')
      UNION ALL
      -- Members of the group roles need no grants of their own; what readers and writers may call, others may be given.
      SELECT 'function_granted', 'function', f.nspname, f.ref::text,
             pg_catalog.format('%I may execute %s', pg_catalog.pg_get_userbyid(a.grantee), f.ref),
             pg_catalog.format('REVOKE EXECUTE ON FUNCTION %s FROM %I CASCADE;', f.ref, pg_catalog.pg_get_userbyid(a.grantee))
        FROM fn AS f CROSS JOIN LATERAL pg_catalog.aclexplode(f.proacl) AS a
       WHERE f.nspname IN ('tally', 'tally_internal') AND f.is_member AND NOT f.is_public AND a.grantee <> f.proowner
         AND pg_catalog.pg_get_userbyid(a.grantee) NOT IN ('tally_owner', 'tally_security', 'tally_admin', 'tally_writer', 'tally_reader', 'tally_analyst', 'tally_auditor', 'tally_custodian')
         AND NOT EXISTS (SELECT FROM pg_catalog.aclexplode(f.proacl) AS o
                          WHERE pg_catalog.pg_get_userbyid(o.grantee) IN ('tally_writer', 'tally_reader'))
      UNION ALL
      SELECT 'function_granted_to_public', 'function', f.nspname, f.ref::text,
             pg_catalog.format('PUBLIC may execute %s', f.ref), pg_catalog.format('REVOKE EXECUTE ON FUNCTION %s FROM PUBLIC;', f.ref)
        FROM fn AS f WHERE f.nspname IN ('tally', 'tally_internal') AND f.is_member AND f.is_public AND f.provolatile <> 'i'
      UNION ALL
      SELECT 'public_schema_writable', 'schema', n.nspname, n.nspname::text, 'PUBLIC may create objects in schema public',
             'REVOKE CREATE ON SCHEMA public FROM PUBLIC;'
        FROM pg_catalog.pg_namespace AS n, pg_catalog.aclexplode(n.nspacl) AS a
       WHERE n.nspname = 'public' AND a.grantee = 0 AND a.privilege_type = 'CREATE'
      UNION ALL
      SELECT 'tally_schema_writable', 'schema', n.nspname, n.nspname::text,
             pg_catalog.format('%s may create objects in schema %s', w.who, n.nspname),
             pg_catalog.format('REVOKE CREATE ON SCHEMA %s FROM %s CASCADE;', n.nspname, w.who)
        FROM pg_catalog.pg_namespace AS n, pg_catalog.aclexplode(n.nspacl) AS a,
             LATERAL (SELECT CASE WHEN a.grantee = 0 THEN 'PUBLIC' ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(a.grantee)) END) AS w (who)
       WHERE n.nspname IN ('tally', 'tally_internal') AND a.privilege_type = 'CREATE' AND a.grantee <> n.nspowner
         AND (n.nspname <> 'tally' OR w.who <> 'tally_owner')
      UNION ALL
      SELECT 'file_function_granted', 'function', 'pg_catalog', p.oid::regprocedure::text,
             pg_catalog.format('%s may execute %s', w.who, p.oid::regprocedure),
             pg_catalog.format('REVOKE EXECUTE ON FUNCTION %s FROM %s CASCADE;', p.oid::regprocedure, w.who)
        FROM pg_catalog.pg_proc AS p, pg_catalog.aclexplode(coalesce(p.proacl, pg_catalog.acldefault('f', p.proowner))) AS a,
             LATERAL (SELECT CASE WHEN a.grantee = 0 THEN 'PUBLIC' ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(a.grantee)) END) AS w (who)
       WHERE p.pronamespace = 'pg_catalog'::regnamespace AND a.grantee <> p.proowner
         AND p.proname IN ('pg_read_file', 'pg_read_binary_file', 'pg_ls_dir', 'pg_stat_file', 'lo_import', 'lo_export')
      UNION ALL
      SELECT 'event_trigger', 'event trigger', NULL, t.evtname::text,
             pg_catalog.format('event trigger %I runs %s', t.evtname, t.evtfoid::regprocedure),
             pg_catalog.format('DROP EVENT TRIGGER %I;', t.evtname)
        FROM pg_catalog.pg_event_trigger AS t WHERE t.evtenabled <> 'D' AND t.evtfoid <> pg_catalog.to_regprocedure('tally_internal.before_drop()')
    )
    SELECT f.rule, f.type, f.schema::text, f.object, f.detail, f.fix FROM finding AS f;
  END;
COMMENT ON FUNCTION tally_internal.lint_paths() IS 'findings of tally.lint() about views, functions, schemas and event triggers';

CREATE FUNCTION tally_internal.rules_paths(OUT name text, OUT level text, OUT title text, OUT description text)
  RETURNS SETOF record ROWS 20
  LANGUAGE sql IMMUTABLE PARALLEL SAFE STRICT
  SET search_path = pg_catalog, pg_temp
  BEGIN ATOMIC
    SELECT v.* FROM (VALUES
      ('view_owner_bypasses_rls', 'ERROR', 'A view reads protected tables with the rights of an owner who bypasses row security',
       'A view without security_invoker reads with its owner''s rights.'),
      ('materialized_view', 'ERROR', 'A materialized view holds rows of protected tables',
       'A materialized view has no row security, and a restore fails where it fills one: as its owner, without a scope.'),
      ('security_definer_path', 'ERROR', 'An elevated function without a fixed search path',
       'Everybody may call it, and decides with search_path what its names mean.'),
      ('security_definer_temp', 'WARN', 'An elevated function searches temporary tables first',
       'Where pg_temp isn''t last in its search_path, a caller''s temporary table takes the place of the function''s own.'),
      ('security_definer_reads', 'WARN', 'An elevated function of an owner who bypasses row security names a protected table',
       'It may hand out rows of every tenant.'),
      ('leakproof_function', 'WARN', 'A user''s function is marked LEAKPROOF',
       'Postgres runs leakproof functions on rows before row security has hidden them.'),
      ('public_schema_writable', 'WARN', 'PUBLIC may create objects in schema public',
       'Somebody''s object may take the place of the one that another session means.'),
      ('tally_schema_writable', 'ERROR', 'Others than tally_owner may create objects in a schema of pg_tally',
       'An object in schema tally or tally_internal is taken for one of pg_tally''s.'),
      ('stranger_in_schema', 'ERROR', 'A function in a schema of pg_tally is not part of it',
       'Calls that were meant for pg_tally may reach it.'),
      ('scope_function_altered', 'ERROR', 'A function that policies read the scope through was altered',
       'It must be STABLE, of language C and in pg_tally''s library: a cached plan would serve another tenant''s rows otherwise.'),
      ('elevated_function_altered', 'ERROR', 'An elevated function of pg_tally was altered',
       'Elevated functions belong to tally_owner, those that write bindings, keys and what needs a step-up to tally_security, and have a fixed search path.'),
      ('declared_code', 'ERROR', 'A declared expression calls code that it must not, or can''t be read',
       'A function without a fixed search_path means what its caller wants, one of its owner''s rights isn''t confined, and while one can''t be read nothing is ingested.'),
      ('function_granted', 'ERROR', 'A function that administers pg_tally may be executed by a role outside of its group roles',
       'Default privileges and grants of one''s own give rights that nobody looks for.'),
      ('function_granted_to_public', 'ERROR', 'PUBLIC may execute a function of pg_tally that is not a pure one',
       'PUBLIC may execute immutable functions of the types and nothing else.'),
      ('file_function_granted', 'ERROR', 'A function that reads or writes the server''s files is granted',
       'The server''s files hold every tenant''s rows.'),
      ('event_trigger', 'WARN', 'An event trigger',
       'It runs with the rights of whoever changes the schema, also when pg_tally makes a partition.')
    ) AS v (name, level, title, description);
  END;
COMMENT ON FUNCTION tally_internal.rules_paths() IS 'the rules of tally_internal.lint_paths()';
REVOKE ALL ON FUNCTION tally_internal.rules_paths() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tally_internal.rules_paths() TO tally_admin, tally_auditor;
