-- From 0.1.0 to 0.2.0. Policies compare the whole scope in one function; retention can be confined to a declared cohort;
-- a funnel's breakdown can go by the last step.

SET LOCAL search_path = pg_catalog, pg_temp;

CREATE FUNCTION tally.scope_key() RETURNS text
  LANGUAGE c STABLE PARALLEL SAFE STRICT AS 'MODULE_PATHNAME', 'scope_key_wrapper';
COMMENT ON FUNCTION tally.scope_key() IS
  'the scope as one text, which row security gives to tally.in_scope(); error 42501 where there is none';

-- Pure functions of their arguments: what changes with the scope is the key, which every query reads anew.
CREATE FUNCTION tally.in_scope_support(request internal) RETURNS internal
  LANGUAGE c STABLE PARALLEL SAFE STRICT AS 'MODULE_PATHNAME', 'tally_in_scope_support';
COMMENT ON FUNCTION tally.in_scope_support(internal) IS
  'tells the planner how many rows tally.in_scope() keeps, and which range of an index has them';

CREATE FUNCTION tally.in_scope(tenant_id text, account_id text, scope_key text) RETURNS boolean
  LANGUAGE c IMMUTABLE PARALLEL SAFE STRICT SUPPORT tally.in_scope_support AS 'MODULE_PATHNAME', 'tally_account_in_scope';
COMMENT ON FUNCTION tally.in_scope(text, text, text) IS
  'whether a row of this tenant and account is in the scope that has this key (tally.scope_key())';

CREATE FUNCTION tally.in_scope(tenant_id text, scope_key text) RETURNS boolean
  LANGUAGE c IMMUTABLE PARALLEL SAFE STRICT SUPPORT tally.in_scope_support AS 'MODULE_PATHNAME', 'tally_tenant_in_scope';
COMMENT ON FUNCTION tally.in_scope(text, text) IS
  'whether a row of this tenant, in a table without accounts, is in the scope that has this key (tally.scope_key())';

CREATE FUNCTION tally.first_account(scope_key text) RETURNS text
  LANGUAGE c IMMUTABLE PARALLEL SAFE STRICT AS 'MODULE_PATHNAME', 'tally_first_account';
COMMENT ON FUNCTION tally.first_account(text) IS
  'lower end, inclusive, of the account ids in the scope that has this key: where an index is searched from';

CREATE FUNCTION tally.last_account(scope_key text) RETURNS text
  LANGUAGE c IMMUTABLE PARALLEL SAFE STRICT AS 'MODULE_PATHNAME', 'tally_last_account';
COMMENT ON FUNCTION tally.last_account(text) IS
  'upper end, inclusive, of the account ids in the scope that has this key';

REVOKE ALL ON FUNCTION tally.scope_key(), tally.in_scope_support(internal), tally.in_scope(text, text, text), tally.in_scope(text, text),
  tally.first_account(text), tally.last_account(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tally.scope_key(), tally.in_scope(text, text, text), tally.in_scope(text, text),
  tally.first_account(text), tally.last_account(text) TO tally_owner, tally_reader, tally_writer;

-- Backends remember bindings and limits; whatever changes one, also replication and a restore, makes them forget.
CREATE FUNCTION tally.forget() RETURNS trigger
  LANGUAGE c VOLATILE PARALLEL UNSAFE CALLED ON NULL INPUT AS 'MODULE_PATHNAME', 'tally_forget';
COMMENT ON FUNCTION tally.forget() IS
  'trigger: tells every session, at commit, to forget what it knows of the table';
REVOKE ALL ON FUNCTION tally.forget() FROM PUBLIC;
CREATE TRIGGER role_binding_changed AFTER INSERT OR UPDATE OR DELETE ON tally.role_binding
  FOR EACH ROW EXECUTE FUNCTION tally.forget();
CREATE TRIGGER role_binding_emptied AFTER TRUNCATE ON tally.role_binding
  FOR EACH STATEMENT EXECUTE FUNCTION tally.forget();
ALTER TABLE tally.role_binding ENABLE ALWAYS TRIGGER role_binding_changed, ENABLE ALWAYS TRIGGER role_binding_emptied;
CREATE TRIGGER tenant_limit_changed AFTER INSERT OR UPDATE OR DELETE ON tally.tenant_limit
  FOR EACH ROW EXECUTE FUNCTION tally.forget();
CREATE TRIGGER tenant_limit_emptied AFTER TRUNCATE ON tally.tenant_limit
  FOR EACH STATEMENT EXECUTE FUNCTION tally.forget();
ALTER TABLE tally.tenant_limit ENABLE ALWAYS TRIGGER tenant_limit_changed, ENABLE ALWAYS TRIGGER tenant_limit_emptied;

CREATE OR REPLACE FUNCTION tally.secure_table(target regclass) RETURNS void
  LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE STRICT
  SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  guard text := 'tally.in_scope(tenant_id, (SELECT tally.scope_key()))';
BEGIN
  IF EXISTS (SELECT FROM pg_catalog.pg_attribute AS a
              WHERE a.attrelid OPERATOR(pg_catalog.=) target::pg_catalog.oid
                AND a.attname OPERATOR(pg_catalog.=) 'account_id' AND NOT a.attisdropped) THEN
    guard := 'tally.in_scope(tenant_id, account_id, (SELECT tally.scope_key()))';
  END IF;
  EXECUTE pg_catalog.format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY', target);
  EXECUTE pg_catalog.format('CREATE POLICY tally_tenant ON %s TO PUBLIC '
    'USING (tenant_id OPERATOR(pg_catalog.=) (SELECT tally.current_tenant())) '
    'WITH CHECK (tenant_id OPERATOR(pg_catalog.=) (SELECT tally.current_tenant()))', target);
  EXECUTE pg_catalog.format('CREATE POLICY tally_global ON %s TO tally_analyst, tally_owner '
    'USING ((SELECT tally.scope_is_global())) WITH CHECK ((SELECT tally.scope_is_global()))', target);
  EXECUTE pg_catalog.format('CREATE POLICY tally_guard ON %s AS RESTRICTIVE TO PUBLIC USING (%s) WITH CHECK (%s)',
    target, guard, guard);
END
$$;

CREATE OR REPLACE FUNCTION tally.policies(target regclass, tenant_column name, account_column name,
    OUT policy_name name, OUT is_permissive boolean, OUT role_names name[], OUT declared text, OUT printed text)
  RETURNS SETOF record
  LANGUAGE sql STABLE PARALLEL SAFE CALLED ON NULL INPUT
  SET search_path = pg_catalog, pg_temp
  BEGIN ATOMIC
    WITH spelled AS (
      SELECT a.attname = tenant_column AS is_tenant, pg_catalog.quote_ident(a.attname) AS declared,
             CASE WHEN a.atttypid = 'varchar'::regtype THEN '(' || pg_catalog.quote_ident(a.attname) || ')::text'
                  ELSE pg_catalog.quote_ident(a.attname) END AS printed
        FROM pg_catalog.pg_attribute AS a
       WHERE a.attrelid = target AND a.attname IN (tenant_column, account_column) AND NOT a.attisdropped
    ), tenant AS (
      SELECT s.declared || ' OPERATOR(pg_catalog.=) (SELECT tally.current_tenant())' AS declared,
             '(' || s.printed || ' = ( SELECT tally.current_tenant() AS current_tenant))' AS printed,
             s.declared AS declared_column, s.printed AS printed_column
        FROM spelled AS s WHERE s.is_tenant
    ), account AS (
      SELECT s.declared, s.printed FROM spelled AS s WHERE NOT s.is_tenant
    )
    SELECT p.* FROM tenant AS t LEFT JOIN account AS c ON true
     CROSS JOIN LATERAL (VALUES
       ('tally_tenant'::name, true, '{public}'::name[], t.declared, t.printed),
       ('tally_global', true, '{tally_analyst,tally_owner}', '(SELECT tally.scope_is_global())',
        '( SELECT tally.scope_is_global() AS scope_is_global)'),
       ('tally_guard', false, '{public}',
        'tally.in_scope(' || pg_catalog.concat_ws(', ', t.declared_column, c.declared, '(SELECT tally.scope_key())') || ')',
        'tally.in_scope(' || pg_catalog.concat_ws(', ', t.printed_column, c.printed, '( SELECT tally.scope_key() AS scope_key)') || ')')
     ) AS p (policy_name, is_permissive, role_names, declared, printed);
  END;

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

CREATE OR REPLACE FUNCTION tally.lint_paths(OUT rule text, OUT type text, OUT schema text, OUT object text, OUT detail text, OUT fix text)
  RETURNS SETOF record
  LANGUAGE sql STABLE PARALLEL SAFE STRICT
  SET search_path = pg_catalog, pg_temp
  BEGIN ATOMIC
    WITH RECURSIVE isolated AS (
      SELECT i.id, i.is_own, c.relname FROM tally.isolated_tables() AS i JOIN pg_catalog.pg_class AS c ON c.oid = i.id
    ), reader (id) AS (
      SELECT i.id FROM isolated AS i
      UNION
      SELECT w.ev_class
        FROM reader AS s
        JOIN pg_catalog.pg_depend AS d ON d.refclassid = 'pg_catalog.pg_class'::regclass AND d.refobjid = s.id
         AND d.classid = 'pg_catalog.pg_rewrite'::regclass
        JOIN pg_catalog.pg_rewrite AS w ON w.oid = d.objid
    ), fn AS (
      SELECT p.*, p.oid::regprocedure AS ref, n.nspname, r.rolname, r.rolsuper, r.rolsuper OR r.rolbypassrls AS bypasses,
             (SELECT pg_catalog.substr(c.setting, 13) FROM pg_catalog.unnest(p.proconfig) AS c (setting)
               WHERE c.setting LIKE 'search\_path=%') AS path,
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
        FROM reader AS s JOIN pg_catalog.pg_class AS c ON c.oid = s.id
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
        FROM fn AS f WHERE f.prosecdef AND f.is_public AND f.path IS NULL AND f.nspname <> 'tally'
      UNION ALL
      SELECT 'security_definer_temp', 'function', f.nspname, f.ref::text,
             pg_catalog.format('function %s runs with the rights of %I and with search_path %s', f.ref, f.rolname, f.path),
             pg_catalog.format('ALTER FUNCTION %s SET search_path = %s, pg_temp;', f.ref, coalesce(nullif(f.path, '""'), 'pg_catalog'))
        FROM fn AS f
       WHERE f.prosecdef AND f.is_public AND f.path !~ '(^|[ ,])"?pg_temp"?$' AND f.nspname <> 'tally' AND f.prolang NOT IN (12, 13)
      UNION ALL
      SELECT 'security_definer_reads', 'function', f.nspname, f.ref::text,
             pg_catalog.format('function %s runs with the rights of %I and names a protected table', f.ref, f.rolname),
             pg_catalog.format('ALTER FUNCTION %s SECURITY INVOKER;', f.ref)
        FROM fn AS f
       WHERE f.prosecdef AND f.bypasses AND NOT f.is_member AND f.nspname <> 'tally'
         AND (EXISTS (SELECT FROM isolated AS i
                       WHERE f.prosrc ~ (CASE WHEN i.is_own THEN '\mtally\.' ELSE '\m' END
                         || pg_catalog.regexp_replace(i.relname, '(\W)', '\\\1', 'g') || '\M'))
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
        FROM fn AS f WHERE f.nspname = 'tally' AND NOT f.is_member
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
             pg_catalog.format('ALTER FUNCTION %1$s OWNER TO tally_owner; ALTER FUNCTION %1$s SET search_path = pg_catalog, pg_temp;', f.ref)
        FROM fn AS f
       WHERE f.nspname = 'tally' AND f.is_member AND f.prosecdef
         AND (f.rolname <> 'tally_owner' OR f.path IS DISTINCT FROM 'pg_catalog, pg_temp')
      UNION ALL
      SELECT 'function_granted_to_public', 'function', f.nspname, f.ref::text,
             pg_catalog.format('PUBLIC may execute %s', f.ref), pg_catalog.format('REVOKE EXECUTE ON FUNCTION %s FROM PUBLIC;', f.ref)
        FROM fn AS f WHERE f.nspname = 'tally' AND f.is_member AND f.is_public AND f.provolatile <> 'i'
      UNION ALL
      SELECT 'public_schema_writable', 'schema', n.nspname, n.nspname::text, 'PUBLIC may create objects in schema public',
             'REVOKE CREATE ON SCHEMA public FROM PUBLIC;'
        FROM pg_catalog.pg_namespace AS n, pg_catalog.aclexplode(n.nspacl) AS a
       WHERE n.nspname = 'public' AND a.grantee = 0 AND a.privilege_type = 'CREATE'
      UNION ALL
      SELECT 'tally_schema_writable', 'schema', n.nspname, n.nspname::text,
             pg_catalog.format('%s may create objects in schema tally', w.who),
             pg_catalog.format('REVOKE CREATE ON SCHEMA tally FROM %s CASCADE;', w.who)
        FROM pg_catalog.pg_namespace AS n, pg_catalog.aclexplode(n.nspacl) AS a,
             LATERAL (SELECT CASE WHEN a.grantee = 0 THEN 'PUBLIC' ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(a.grantee)) END) AS w (who)
       WHERE n.nspname = 'tally' AND a.privilege_type = 'CREATE' AND a.grantee <> n.nspowner AND w.who <> 'tally_owner'
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
        FROM pg_catalog.pg_event_trigger AS t WHERE t.evtenabled <> 'D'
    )
    SELECT f.rule, f.type, f.schema::text, f.object, f.detail, f.fix FROM finding AS f;
  END;

-- A policy of somebody's own may call these: then this stops, and says which.
DROP FUNCTION tally.scope_first_account(), tally.scope_last_account();

-- More arguments are another function: views of one's own that call the old ones stop this, and are named; make them anew
-- afterwards.
DROP FUNCTION tally.retention_curve(text, text, text, timestamptz, timestamptz, text, text, int4[]);
DROP FUNCTION tally.retention(text, text, text, timestamptz, timestamptz, text, text, int4[]);
DROP FUNCTION tally.funnel(text[], interval, timestamptz, timestamptz, text, boolean, text, text, text[], boolean);
DROP FUNCTION tally.funnel(jsonb, interval, timestamptz, timestamptz, text, boolean, text, text, text[], boolean);

CREATE FUNCTION tally.retention(start_event text, return_event text, grain text, "from" timestamptz, "to" timestamptz,
    unit text DEFAULT 'user', kind text DEFAULT 'first_time', brackets int4[] DEFAULT '{0,1,3,7,14,30}',
    of_cohort text DEFAULT NULL, OUT cohort date, OUT period int4, OUT cohort_size int8, OUT retained int8, OUT rate float8)
  RETURNS SETOF record
  LANGUAGE plpgsql STABLE PARALLEL SAFE CALLED ON NULL INPUT
  SET search_path = pg_catalog, pg_temp
  SET timezone = 'UTC'
  SET enable_sort = off
  SET jit = off
AS $$
#variable_conflict use_column
DECLARE
  triangle int8[];
  roles    text;
  wanted   text;
BEGIN
  PERFORM tally.check_metric_range(retention."from", retention."to"), tally.check_metric_grain(retention.grain),
          tally.check_metric_unit(retention.unit);
  IF retention.kind IS NULL OR retention.kind NOT IN ('first_time', 'rolling', 'bracketed') THEN
    RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
      MESSAGE = format('%s is no kind of retention', coalesce(quote_ident(retention.kind), 'null')),
      HINT = 'kinds are first_time, rolling and bracketed';
  END IF;
  IF retention.kind = 'bracketed' AND (cardinality(retention.brackets) IS NULL OR cardinality(retention.brackets) = 0
     OR retention.brackets[1] < 0 OR array_position(retention.brackets, NULL) IS NOT NULL
     OR EXISTS (SELECT FROM generate_subscripts(retention.brackets, 1) AS i
                 WHERE retention.brackets[i] >= retention.brackets[i + 1])) THEN
    RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
      MESSAGE = 'brackets must be numbers of periods from 0, each greater than the one before',
      HINT = 'each number begins a bracket that the next one ends, such as ARRAY[0, 1, 7, 30]';
  END IF;
  roles := CASE WHEN retention.start_event IS NULL THEN '1' ELSE format('CASE a.name WHEN %L THEN 1 ELSE 0 END', retention.start_event) END
    || ' | ' || CASE WHEN retention.return_event IS NULL THEN '2' ELSE format('CASE a.name WHEN %L THEN 2 ELSE 0 END', retention.return_event) END;
  wanted := format('a.bucket < %L::timestamptz', retention."to")
    || CASE WHEN retention.start_event IS NULL OR retention.return_event IS NULL THEN ''
            ELSE format(' AND a.name = ANY (%L::text[])', ARRAY[retention.start_event, retention.return_event]) END
    || CASE WHEN retention.of_cohort IS NULL THEN ''
            ELSE format(' AND (a.tenant_id, a.%I) IN (SELECT m.tenant_id, m.unit_id FROM tally.cohort_units(%L, %L, %L, %L) AS m)',
                        retention.unit || '_id', retention.of_cohort, retention."from", retention."to", retention.unit) END;
  -- Users are read in order from the index, and merged as they come, with the few that are pending. Of accounts, which
  -- are fewer, the sets are merged first. Where nothing is folded yet a row of nobody brings in what is pending.
  EXECUTE CASE retention.unit WHEN 'user' THEN format($query$
    WITH pending AS MATERIALIZED (
      SELECT tally.unit_parts(a.tenant_id, a.user_id, a.days, %1$s) AS parts
        FROM tally.user_activity_pending AS a WHERE a.user_id IS NOT NULL AND %2$s
    ), folded AS MATERIALIZED (
      SELECT tally.retention_triangle(p.tenant_id, p.user_id, p.days, p.role, $1, $2, $3, $4, $5, (SELECT parts FROM pending)) AS triangle
        FROM (SELECT a.tenant_id, a.user_id, a.days, %1$s AS role FROM tally.user_activity_year_base AS a
               WHERE a.user_id IS NOT NULL AND %2$s ORDER BY a.tenant_id, a.user_id) AS p
    )
    SELECT coalesce(f.triangle, (SELECT tally.retention_triangle('', '', NULL, 0, $1, $2, $3, $4, $5, p.parts) FROM pending AS p))
      FROM folded AS f
    $query$, roles, wanted) ELSE format($query$
    SELECT tally.retention_triangle(p.tenant_id, p.account_id, p.days, p.role, $1, $2, $3, $4, $5, NULL)
      FROM (SELECT g.* FROM (
              SELECT a.tenant_id, a.account_id, %1$s AS role, tally.union_days(a.days) AS days
                FROM tally.user_activity_part AS a WHERE %2$s GROUP BY 1, 2, 3 OFFSET 0) AS g
             ORDER BY g.tenant_id, g.account_id) AS p
    $query$, roles, wanted) END
    INTO triangle
   USING retention.grain, (retention."from" AT TIME ZONE 'UTC')::date,
         ((retention."to" - interval '1 microsecond') AT TIME ZONE 'UTC')::date + 1, retention.kind, retention.brackets;
  RETURN QUERY
    SELECT date '2000-01-01' + triangle[n]::int4, triangle[n + 1]::int4, triangle[n + 2], triangle[n + 3], triangle[n + 3] / triangle[n + 2]::float8
      FROM generate_series(1, coalesce(cardinality(triangle), 0), 4) AS n;
END
$$;
COMMENT ON FUNCTION tally.retention(text, text, text, timestamptz, timestamptz, text, text, int4[], text) IS
  'of the units in scope that began in a day, week or month (UTC), how many returned in it and in each later one, from the enriched layer; a null event is any event; of_cohort names a declared cohort, to whose members of the range it is confined';

CREATE FUNCTION tally.retention_curve(start_event text, return_event text, grain text, "from" timestamptz, "to" timestamptz,
    unit text DEFAULT 'user', kind text DEFAULT 'first_time', brackets int4[] DEFAULT '{0,1,3,7,14,30}',
    of_cohort text DEFAULT NULL, OUT period int4, OUT units int8, OUT retained int8, OUT rate float8)
  RETURNS SETOF record
  LANGUAGE sql STABLE PARALLEL SAFE CALLED ON NULL INPUT
  SET search_path = pg_catalog, pg_temp
  BEGIN ATOMIC
    SELECT r.period, sum(r.cohort_size)::pg_catalog.int8, sum(r.retained)::pg_catalog.int8,
           sum(r.retained)::pg_catalog.float8 / sum(r.cohort_size)::pg_catalog.float8
      FROM tally.retention(start_event, return_event, grain, "from", "to", unit, kind, brackets, of_cohort) AS r
     GROUP BY r.period ORDER BY r.period;
  END;
COMMENT ON FUNCTION tally.retention_curve(text, text, text, timestamptz, timestamptz, text, text, int4[], text) IS
  'the triangle of tally.retention as one curve: each period over the cohorts old enough to have it';

CREATE FUNCTION tally.funnel(steps jsonb, "window" interval, "from" timestamptz, "to" timestamptz,
    unit text DEFAULT 'user', strict boolean DEFAULT false, hold text DEFAULT NULL, breakdown text DEFAULT NULL,
    exclude text[] DEFAULT '{}', any_order boolean DEFAULT false, attribution text DEFAULT 'first_step',
    OUT segment text, OUT step int4, OUT name text, OUT units int8, OUT from_first float8, OUT from_previous float8,
    OUT drop_off int8, OUT median_seconds float8, OUT p90_seconds float8)
  RETURNS SETOF record
  LANGUAGE plpgsql STABLE PARALLEL SAFE CALLED ON NULL INPUT
  SET search_path = pg_catalog, pg_temp
  SET timezone = 'UTC'
AS $$
#variable_conflict use_column
DECLARE
  number   int4;
  masks    text;
  labels   text[];
  names    text[];
  unit_id  text := CASE funnel.unit WHEN 'user' THEN 'e.user_id' ELSE 'e.account_id' END;
  excluded text;
  counts   int8[];
  -- The step whose event says which segment a unit belongs to.
  place    text := CASE funnel.attribution WHEN 'last_step' THEN 'cardinality(b.times)' ELSE '1' END;
BEGIN
  PERFORM tally.check_metric_window(funnel."window"), tally.check_metric_range(funnel."from", funnel."to"),
          tally.check_metric_unit(funnel.unit);
  IF funnel.strict AND funnel.any_order THEN
    RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = 'an order can''t be both strict and any',
      HINT = 'leave out strict or any_order';
  END IF;
  IF funnel.attribution IS NULL OR funnel.attribution NOT IN ('first_step', 'last_step') THEN
    RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
      MESSAGE = format('%s is no attribution', coalesce(quote_ident(funnel.attribution), 'null')),
      HINT = 'a unit belongs to the segment of its first_step or of its last_step';
  END IF;
  SELECT count(*), array_agg(CASE WHEN funnel.any_order THEN 'any ' || s.step ELSE s.label END ORDER BY s.step), ARRAY(SELECT n.event_name FROM tally.funnel_steps(funnel.steps) AS n GROUP BY n.event_name ORDER BY min(n.step))
    INTO number, labels, names FROM tally.funnel_steps(funnel.steps) AS s;
  SELECT x INTO excluded FROM unnest(funnel.exclude) AS x WHERE x = ANY (names) LIMIT 1;
  IF FOUND THEN
    RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
      MESSAGE = format('event %s is a step and excluded', quote_ident(excluded)),
      HINT = 'an excluded event ends the attempt, so it can''t be a step of it';
  END IF;
  -- For each name of an event the steps that it fits, as bits; bit 31 excludes.
  SELECT string_agg(format('WHEN %L THEN %s', m.event_name, m.bits), ' ' ORDER BY m.first_step) INTO masks
    FROM (SELECT s.event_name, min(s.step) AS first_step, string_agg(
                   CASE WHEN s.condition IS NULL THEN (1 << s.step - 1)::text
                        ELSE format('CASE WHEN e.properties @> %L THEN %s ELSE 0 END', s.condition, 1 << s.step - 1)
                   END, ' | ') AS bits
            FROM tally.funnel_steps(funnel.steps) AS s GROUP BY s.event_name
          UNION ALL SELECT x, 32, '-2147483648' FROM (SELECT DISTINCT unnest(funnel.exclude)) AS d (x)) AS m;
  -- Without properties that make groups, all events are counted in one pass; of very many, unit by unit, which can spill.
  IF funnel.hold IS NULL AND funnel.breakdown IS NULL
     AND (SELECT coalesce(sum(c.reltuples), 0) FROM pg_partition_tree('tally.events') AS part
           JOIN pg_class AS c ON c.oid = part.relid AND part.isleaf) < 20000000 THEN
    EXECUTE format($query$
      SELECT tally.funnel_counts($1, $4, e.tenant_id, %1$s, e.occurred_at, $5, (CASE e.name %2$s ELSE 0 END)%3$s)
        FROM tally.events AS e
       WHERE e.occurred_at >= $2 AND e.occurred_at < $6 AND %1$s IS NOT NULL %4$s
      $query$, unit_id, masks,
      CASE WHEN funnel.any_order THEN '' ELSE ' & CASE WHEN e.occurred_at < $3 THEN -1 ELSE -2 END' END,
      CASE WHEN funnel.strict THEN '' ELSE format(' AND e.name = ANY (%L::text[])', names || funnel.exclude) END)
      INTO counts
     USING funnel."window", funnel."from", funnel."to",
           CASE WHEN funnel.strict THEN 'strict_order' WHEN funnel.any_order THEN 'any_order' ELSE '' END, number,
           CASE WHEN funnel.any_order THEN funnel."to" ELSE funnel."to" + funnel."window" END;
    RETURN QUERY
      SELECT NULL::text, n, labels[n], coalesce(counts[3 * n - 2], 0),
             coalesce(counts[3 * n - 2], 0) / nullif(counts[1], 0)::float8,
             coalesce(counts[3 * n - 2], 0) / nullif(counts[3 * greatest(n - 1, 1) - 2], 0)::float8,
             coalesce(counts[3 * greatest(n - 1, 1) - 2] - counts[3 * n - 2], 0),
             nullif(counts[3 * n - 1], -1) / 1000000::float8, nullif(counts[3 * n], -1) / 1000000::float8
        FROM generate_series(1, number) AS n ORDER BY n;
    RETURN;
  END IF;
  RETURN QUERY EXECUTE format($query$
    WITH step_event AS %3$s (
      SELECT e.tenant_id, %1$s AS unit_id, %4$s AS held, e.occurred_at, %5$s AS trait,
             (CASE e.name %2$s ELSE 0 END)%10$s AS mask
        FROM tally.events AS e
       WHERE e.occurred_at >= $2 AND e.occurred_at < $7 AND %1$s IS NOT NULL %6$s
    ), chain AS (
      SELECT e.tenant_id, e.unit_id, e.held, tally.funnel_times($1, $4, e.occurred_at, $5, e.mask) AS times
        FROM step_event AS e GROUP BY e.tenant_id, e.unit_id, e.held
    ), best AS (
      %7$s
    ), segmented AS (
      %8$s
    ), reached AS (
      SELECT s.segment, n.step, count(*) AS units,
             percentile_disc(ARRAY[0.5, 0.9]) WITHIN GROUP (ORDER BY s.times[n.step] - s.times[n.step - 1]) AS waits
        FROM segmented AS s JOIN generate_series(1, $5) AS n (step) ON n.step <= cardinality(s.times)
       GROUP BY s.segment, n.step
    ), counted AS (
      -- Steps that nobody reached are shown too. Nulls are equal here, in a form that can be hashed.
      SELECT g.segment, n.step, coalesce(r.units, 0) AS units, r.waits
        FROM (SELECT DISTINCT a.segment FROM reached AS a %9$s) AS g CROSS JOIN generate_series(1, $5) AS n (step)
        LEFT JOIN reached AS r ON r.step = n.step AND coalesce(r.segment, '') = coalesce(g.segment, '')
         AND (r.segment IS NULL) = (g.segment IS NULL)
    )
    SELECT c.segment COLLATE "default", c.step, $6[c.step], c.units,
           c.units / nullif(first_value(c.units) OVER steps, 0)::float8,
           c.units / nullif(CASE c.step WHEN 1 THEN c.units ELSE lag(c.units) OVER steps END, 0)::float8,
           coalesce(lag(c.units) OVER steps - c.units, 0),
           extract(epoch FROM c.waits[1])::float8, extract(epoch FROM c.waits[2])::float8
      FROM counted AS c WINDOW steps AS (PARTITION BY c.segment ORDER BY c.step) ORDER BY c.segment, c.step
    $query$,
    unit_id, masks,
    -- A breakdown reads the events twice: for the chains, and for the property of the event that it goes by.
    CASE WHEN funnel.breakdown IS NULL THEN '' ELSE 'MATERIALIZED' END,
    CASE WHEN funnel.hold IS NULL THEN 'NULL::text' ELSE format('(e.properties ->> %L) COLLATE "C"', funnel.hold) END,
    CASE WHEN funnel.breakdown IS NULL THEN 'NULL::text'
         ELSE format('(e.properties ->> %L) COLLATE "C"', funnel.breakdown) END,
    CASE WHEN funnel.strict THEN '' ELSE format(' AND e.name = ANY (%L::text[])', names || funnel.exclude) END
      || CASE WHEN funnel.hold IS NULL THEN '' ELSE format(' AND e.properties ->> %L IS NOT NULL', funnel.hold) END,
    CASE WHEN funnel.hold IS NULL THEN 'SELECT * FROM chain AS c WHERE c.times <> ''{}'''
         ELSE 'SELECT DISTINCT ON (c.tenant_id, c.unit_id) * FROM chain AS c WHERE c.times <> ''{}'' ORDER BY c.tenant_id, '
              'c.unit_id, cardinality(c.times) DESC, c.times[cardinality(c.times)], c.times[1] DESC, c.times, c.held' END,
    CASE WHEN funnel.breakdown IS NULL THEN 'SELECT NULL::text AS segment, b.times FROM best AS b'
         ELSE 'SELECT min(e.trait) AS segment, b.times FROM best AS b JOIN step_event AS e ON e.tenant_id = b.tenant_id '
              'AND e.unit_id = b.unit_id AND e.held IS NOT DISTINCT FROM b.held AND e.occurred_at = b.times['
              || place || '] AND ' || CASE WHEN funnel.any_order THEN 'e.mask & 2147483647 <> 0' ELSE format('e.mask >> %s - 1 & 1 = 1', place) END || ' GROUP BY b.tenant_id, b.unit_id, b.times' END,
    CASE WHEN funnel.breakdown IS NULL THEN 'UNION SELECT NULL' END,
    -- In any order every event lies in the range; else only the first must.
    CASE WHEN funnel.any_order THEN '' ELSE ' & CASE WHEN e.occurred_at < $3 THEN -1 ELSE -2 END' END)
  USING funnel."window", funnel."from", funnel."to",
        CASE WHEN funnel.strict THEN 'strict_order' WHEN funnel.any_order THEN 'any_order' ELSE '' END, number, labels,
        CASE WHEN funnel.any_order THEN funnel."to" ELSE funnel."to" + funnel."window" END;
END
$$;
COMMENT ON FUNCTION tally.funnel(jsonb, interval, timestamptz, timestamptz, text, boolean, text, text, text[], boolean, text) IS
  'how many units in scope that took the first step from "from" to "to" took each next one within the window; docs/metrics.md defines it';

CREATE FUNCTION tally.funnel(steps text[], "window" interval, "from" timestamptz, "to" timestamptz,
    unit text DEFAULT 'user', strict boolean DEFAULT false, hold text DEFAULT NULL, breakdown text DEFAULT NULL,
    exclude text[] DEFAULT '{}', any_order boolean DEFAULT false, attribution text DEFAULT 'first_step',
    OUT segment text, OUT step int4, OUT name text, OUT units int8, OUT from_first float8, OUT from_previous float8,
    OUT drop_off int8, OUT median_seconds float8, OUT p90_seconds float8)
  RETURNS SETOF record
  LANGUAGE sql STABLE PARALLEL SAFE CALLED ON NULL INPUT
  SET search_path = pg_catalog, pg_temp
  BEGIN ATOMIC
    SELECT f.* FROM tally.funnel(pg_catalog.to_jsonb(steps), "window", "from", "to", unit, strict, hold, breakdown,
                                 exclude, any_order, attribution) AS f;
  END;
COMMENT ON FUNCTION tally.funnel(text[], interval, timestamptz, timestamptz, text, boolean, text, text, text[], boolean, text) IS
  'the funnel whose steps are events of these names';

CREATE FUNCTION tally.cohort_units(name text, "from" timestamptz, "to" timestamptz, unit text, OUT tenant_id text, OUT unit_id text)
  RETURNS SETOF record
  LANGUAGE plpgsql STABLE PARALLEL SAFE CALLED ON NULL INPUT
  SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
  IF EXISTS (SELECT FROM (SELECT c.definition FROM tally.cohort AS c WHERE c.cohort_name = cohort_units.name ORDER BY c.version DESC LIMIT 1) AS d
              WHERE coalesce(d.definition ->> 'unit', 'user') <> cohort_units.unit) THEN
    RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
      MESSAGE = format('cohort %s is not one of %ss', quote_ident(cohort_units.name), cohort_units.unit),
      HINT = 'ask for the unit that the cohort is declared with';
  END IF;
  RETURN QUERY SELECT m.tenant_id, m.unit_id FROM tally.cohort_members(cohort_units.name, cohort_units."from", cohort_units."to") AS m;
END
$$;
COMMENT ON FUNCTION tally.cohort_units(text, timestamptz, timestamptz, text) IS
  'the members of a declared cohort over a range; an error unless they are of this unit';

REVOKE ALL ON FUNCTION tally.retention(text, text, text, timestamptz, timestamptz, text, text, int4[], text),
  tally.retention_curve(text, text, text, timestamptz, timestamptz, text, text, int4[], text),
  tally.funnel(jsonb, interval, timestamptz, timestamptz, text, boolean, text, text, text[], boolean, text),
  tally.funnel(text[], interval, timestamptz, timestamptz, text, boolean, text, text, text[], boolean, text),
  tally.cohort_units(text, timestamptz, timestamptz, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tally.retention(text, text, text, timestamptz, timestamptz, text, text, int4[], text),
  tally.retention_curve(text, text, text, timestamptz, timestamptz, text, text, int4[], text),
  tally.funnel(jsonb, interval, timestamptz, timestamptz, text, boolean, text, text, text[], boolean, text),
  tally.funnel(text[], interval, timestamptz, timestamptz, text, boolean, text, text, text[], boolean, text),
  tally.cohort_units(text, timestamptz, timestamptz, text) TO tally_reader;

COMMENT ON FUNCTION tally.set_retention(text, interval) IS
  'keeps a tenant''s raw events for so long, in whole days, null for ever; for the tenant null: the default of every tenant that has none of its own. maintain() removes what is older, with its keys in the ledger, its batches and what waits of them in quarantine, once it is folded; from then on such events are rejected with SQLSTATE 22T11. Rollups keep their numbers';

CREATE TABLE tally.isolated_tenant (
  isolated_from  timestamptz NOT NULL,
  isolated_until timestamptz,
  set_at         timestamptz NOT NULL DEFAULT now(),
  number         int4 NOT NULL,
  tenant_id      text COLLATE "C" NOT NULL CONSTRAINT isolated_tenant_pkey PRIMARY KEY,
  set_by         name NOT NULL DEFAULT session_user
);
COMMENT ON TABLE tally.isolated_tenant IS 'tenants whose events have partitions of their own';
COMMENT ON COLUMN tally.isolated_tenant.isolated_from IS 'start of the first month (UTC) that has one';
COMMENT ON COLUMN tally.isolated_tenant.isolated_until IS 'months made for a time after this have none; null while it is isolated';
COMMENT ON COLUMN tally.isolated_tenant.set_at IS 'when it was isolated last';
COMMENT ON COLUMN tally.isolated_tenant.number IS 'stands for the tenant in the names of its partitions, tally.events_pYYYY_MM_t<number>';
COMMENT ON COLUMN tally.isolated_tenant.tenant_id IS 'the tenant';
COMMENT ON COLUMN tally.isolated_tenant.set_by IS 'the role that logged in and isolated it last';
ALTER TABLE tally.isolated_tenant OWNER TO tally_owner;
SELECT tally.secure_table('tally.isolated_tenant');
REVOKE ALL ON tally.isolated_tenant FROM PUBLIC;
GRANT SELECT ON tally.isolated_tenant TO tally_analyst, tally_auditor;
SELECT pg_catalog.pg_extension_config_dump('tally.isolated_tenant', '');

CREATE FUNCTION tally.create_leaf(partition name) RETURNS void
  LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE STRICT
  SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  EXECUTE format('CREATE TABLE tally.%I (LIKE tally.events INCLUDING ALL EXCLUDING INDEXES)', partition);
  EXECUTE format('CREATE INDEX %I ON tally.%I (tenant_id, account_id, occurred_at)', partition || '_tenant_account_time', partition);
  PERFORM tally.secure_table(format('tally.%I', partition)::regclass);
END
$$;
COMMENT ON FUNCTION tally.create_leaf(name) IS
  'makes a table for events, with its index and row security, to be attached as a partition';

CREATE FUNCTION tally.split_month(month name, tenant_id text, own name) RETURNS void
  LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE STRICT
  SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  rest name := month || '_rest';
BEGIN
  IF to_regclass('tally.' || rest) IS NULL THEN
    EXECUTE format('ALTER TABLE tally.%I RENAME TO %I', month, rest);
    EXECUTE format('ALTER INDEX tally.%I RENAME TO %I', month || '_tenant_account_time', rest || '_tenant_account_time');
    EXECUTE format('CREATE TABLE tally.%I (LIKE tally.events INCLUDING ALL EXCLUDING INDEXES) PARTITION BY LIST (tenant_id)', month);
    PERFORM tally.secure_table(format('tally.%I', month)::regclass);
    EXECUTE format('ALTER TABLE tally.%I ATTACH PARTITION tally.%I DEFAULT', month, rest);
  END IF;
  PERFORM tally.create_leaf(own);
  EXECUTE format('WITH gone AS (DELETE FROM tally.%I AS e WHERE e.tenant_id = $1 RETURNING *) '
                 'INSERT INTO tally.%I SELECT * FROM gone ORDER BY account_id, occurred_at', rest, own) USING split_month.tenant_id;
  EXECUTE format('ALTER TABLE tally.%I ATTACH PARTITION tally.%I FOR VALUES IN (%L)', month, own, split_month.tenant_id);
END
$$;
COMMENT ON FUNCTION tally.split_month(name, text, name) IS
  'gives a tenant a partition of its own in a month, with the events that it has there; a month that is not yet partitioned by tenant becomes so, and must not be attached';

CREATE OR REPLACE FUNCTION tally.create_partition(month_start timestamptz) RETURNS void
  LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE STRICT
  SET search_path = pg_catalog, pg_temp
  SET timezone = 'UTC'
AS $$
DECLARE
  month_end timestamptz := month_start + interval '1 month';
  partition name := 'events_p' || to_char(month_start, 'YYYY_MM');
  isolated record;
BEGIN
  -- Looked for first: who made one and hasn't committed keeps others waiting for what isn't there, not for what is. By a query,
  -- since a name that is looked up in vain is remembered, and waiting for this lock makes nobody forget it.
  IF NOT EXISTS (SELECT FROM pg_class AS c WHERE c.relname = partition AND c.relnamespace = 'tally'::regnamespace) THEN
    -- One maker at a time: without it two first events of a month would both try, and one of them fail.
    PERFORM pg_advisory_xact_lock('tally.events'::regclass::oid::int4, 0);
  END IF;
  IF to_regclass('tally.' || partition) IS NOT NULL THEN
    -- Not by a query, whose snapshot can be older than the partition.
    IF pg_partition_root(to_regclass('tally.' || partition)) IS DISTINCT FROM 'tally.events'::regclass THEN
      RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state',
        MESSAGE = format('tally.%I is not a partition of tally.events', partition),
        HINT = 'attach it again, or rename it: tally.detach_raw() is the way to take a month out';
    END IF;
    RETURN;
  END IF;
  PERFORM tally.create_leaf(partition);
  FOR isolated IN
    SELECT i.tenant_id, partition || '_t' || i.number AS own FROM tally.isolated_tenant AS i
     WHERE i.isolated_from <= month_start AND coalesce(i.isolated_until, 'infinity') > month_start ORDER BY i.number
  LOOP
    PERFORM tally.split_month(partition, isolated.tenant_id, isolated.own);
  END LOOP;
  EXECUTE format('ALTER TABLE tally.events ATTACH PARTITION tally.%I FOR VALUES FROM (%L) TO (%L)', partition, month_start, month_end);
END
$$;
COMMENT ON FUNCTION tally.create_partition(timestamptz) IS
  'makes the partition of tally.events for the month (UTC) that begins at month_start, with row security';

-- Called with ingest locked out.
CREATE FUNCTION tally.split_months(tenant_id text, "from" timestamptz) RETURNS SETOF text
  LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE STRICT
  SET search_path = pg_catalog, pg_temp
  SET timezone = 'UTC'
AS $$
DECLARE
  month record;
  tenant_number int4;
  own name;
BEGIN
  PERFORM pg_advisory_xact_lock('tally.events'::regclass::oid::int4, 0);
  IF (SELECT count(*) FROM tally.isolated_tenant AS i WHERE i.isolated_until IS NULL AND i.tenant_id <> split_months.tenant_id) >= 100 THEN
    RAISE EXCEPTION USING ERRCODE = 'program_limit_exceeded', MESSAGE = '100 tenants are isolated already',
      HINT = 'each has a partition in every month, and every query plans for all of them; tally.unisolate_tenant() ends one';
  END IF;
  INSERT INTO tally.isolated_tenant AS i (isolated_from, number, tenant_id)
  SELECT date_trunc('month', split_months."from"), coalesce(max(o.number), 0) + 1, split_months.tenant_id FROM tally.isolated_tenant AS o
  ON CONFLICT ON CONSTRAINT isolated_tenant_pkey DO UPDATE
    SET isolated_from = least(i.isolated_from, excluded.isolated_from), isolated_until = NULL, set_at = now(), set_by = session_user
  RETURNING i.number INTO tenant_number;
  FOR month IN
    SELECT c.relname AS name, c.relkind = 'r' AS is_leaf, to_timestamp(substr(c.relname, 9), 'YYYY_MM') AS starts
      FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid
     WHERE i.inhparent = 'tally.events'::regclass AND c.relname ~ '^events_p[0-9]{4,}_[0-9]{2}$'
       AND to_timestamp(substr(c.relname, 9), 'YYYY_MM') >= date_trunc('month', split_months."from")
     ORDER BY 3
  LOOP
    own := month.name || '_t' || tenant_number;
    CONTINUE WHEN to_regclass('tally.' || own) IS NOT NULL;
    IF month.is_leaf THEN
      EXECUTE format('ALTER TABLE tally.events DETACH PARTITION tally.%I', month.name);
    END IF;
    PERFORM tally.split_month(month.name, split_months.tenant_id, own);
    IF month.is_leaf THEN
      EXECUTE format('ALTER TABLE tally.events ATTACH PARTITION tally.%I FOR VALUES FROM (%L) TO (%L)',
        month.name, month.starts, month.starts + interval '1 month');
    END IF;
    RETURN NEXT own;
  END LOOP;
END
$$;
COMMENT ON FUNCTION tally.split_months(text, timestamptz) IS
  'gives a tenant a partition of its own in each month that exists and begins with or after that of a moment; called by tally.isolate_tenant()';

CREATE FUNCTION tally.isolate_tenant(tenant_id text, "from" timestamptz DEFAULT now()) RETURNS SETOF text
  LANGUAGE c VOLATILE PARALLEL UNSAFE STRICT AS 'MODULE_PATHNAME', 'isolate_tenant_wrapper';
COMMENT ON FUNCTION tally.isolate_tenant(text, timestamptz) IS
  'gives a tenant a partition of its own in every month (UTC) from that of a moment on, for a tenant so heavy that the others'' queries and vacuum feel it; moves the events that it has there, while ingest and readers wait; returns the partitions it made. Months to come get theirs as they are made. At most 100 tenants. A repeatable read transaction that began before and reads events only afterwards may miss what was moved';

CREATE FUNCTION tally.unisolate_tenant(tenant_id text) RETURNS boolean
  LANGUAGE c VOLATILE PARALLEL UNSAFE STRICT AS 'MODULE_PATHNAME', 'unisolate_tenant_wrapper';
COMMENT ON FUNCTION tally.unisolate_tenant(text) IS
  'from now on no month is made with a partition for this tenant; those that exist keep theirs. Says whether it was isolated';

REVOKE ALL ON FUNCTION tally.create_leaf(name), tally.split_month(name, text, name), tally.create_partition(timestamptz),
  tally.split_months(text, timestamptz), tally.isolate_tenant(text, timestamptz), tally.unisolate_tenant(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tally.create_leaf(name), tally.split_month(name, text, name), tally.create_partition(timestamptz),
  tally.split_months(text, timestamptz) TO tally_owner;
GRANT EXECUTE ON FUNCTION tally.isolate_tenant(text, timestamptz), tally.unisolate_tenant(text) TO tally_admin;

CREATE OR REPLACE FUNCTION tally.move_raw(before timestamptz, tablespace name) RETURNS SETOF text
  LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE STRICT SECURITY DEFINER
  SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  part record;
BEGIN
  FOR part IN
    SELECT c.oid, c.relname
      FROM pg_inherits AS i JOIN pg_class AS m ON m.oid = i.inhrelid
      CROSS JOIN pg_partition_tree(m.oid) AS t JOIN pg_class AS c ON c.oid = t.relid AND t.isleaf
     WHERE i.inhparent = 'tally.events'::regclass AND m.relname ~ '^events_p[0-9]{4,}_[0-9]{2}$'
       AND to_date(substr(m.relname, 9), 'YYYY_MM') + interval '1 month' <= before AT TIME ZONE 'UTC'
       AND c.reltablespace IS DISTINCT FROM (SELECT t.oid FROM pg_tablespace AS t WHERE t.spcname = move_raw.tablespace)
     ORDER BY c.relname
  LOOP
    EXECUTE format('ALTER TABLE tally.%I SET TABLESPACE %I', part.relname, move_raw.tablespace);
    EXECUTE (SELECT string_agg(format('ALTER INDEX tally.%I SET TABLESPACE %I', c.relname, move_raw.tablespace), '; ')
               FROM pg_index AS x JOIN pg_class AS c ON c.oid = x.indexrelid WHERE x.indrelid = part.oid);
    RETURN NEXT part.relname;
  END LOOP;
END
$$;

COMMENT ON FUNCTION tally.drop_raw(timestamptz) IS
  'drops the raw events of whole months before a moment and returns the partitions; refuses while a rollup has pending rows of buckets that end by then; the ledger keeps their keys, the rollups their numbers';
