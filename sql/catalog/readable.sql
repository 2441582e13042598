-- Who can read what: the answer that a SELECT would give, found from privileges, policies, views' owners and bindings.
-- tests/server/tests/catalog/readable.rs asks real sessions, and compares.

CREATE FUNCTION tally_internal.binding_kind(bound tally.role_binding, OUT kind text, OUT ids text) RETURNS record
  LANGUAGE sql STABLE PARALLEL SAFE STRICT
  SET search_path = pg_catalog, pg_temp
  BEGIN ATOMIC
    SELECT CASE WHEN NOT EXISTS (SELECT FROM pg_catalog.pg_roles AS r WHERE r.oid = bound.role_name AND r.rolname = bound.bound_as) THEN 'renamed'
                WHEN bound.tenant_id IS NOT NULL THEN 'bound' WHEN bound.needs_token THEN 'pool' WHEN bound.is_global THEN 'global' ELSE 'trusted' END,
           ROW(bound.tenant_id, bound.account_id)::text;
  END;
COMMENT ON FUNCTION tally_internal.binding_kind(tally.role_binding) IS 'what a row of tally.role_binding makes of the role: bound, pool, global, trusted or renamed, and to what';

-- How each role comes into a scope: own, from the start; enter, by tally.enter() or tally.enter_global(); token; none: it can't.
CREATE FUNCTION tally_internal.role_scopes()
  RETURNS TABLE (role_id oid, role_name name, scope text, binding text, is_unbound boolean, sees_all boolean)
  LANGUAGE sql STABLE PARALLEL SAFE STRICT
  SET search_path = pg_catalog, pg_temp
  BEGIN ATOMIC
    WITH bound AS (
      SELECT r.oid AS role_id, r.rolname, r.rolsuper, r.rolsuper OR r.rolbypassrls OR r.rolreplication AS sees_all,
             r.rolsuper OR pg_catalog.pg_has_role(r.oid, 'tally_analyst', 'USAGE') AS is_analyst,
             CASE WHEN own.kind IS NOT NULL THEN own.kind WHEN r.rolsuper THEN 'none'
                  WHEN inherited.kinds > 1 THEN 'ambiguous' ELSE coalesce(inherited.kind, 'none') END AS binding
        FROM pg_catalog.pg_roles AS r
        CROSS JOIN LATERAL (
          SELECT min(k.kind) AS kind FROM tally.role_binding AS b CROSS JOIN LATERAL tally_internal.binding_kind(b) AS k (kind, ids) WHERE b.role_name = r.oid
        ) AS own
        CROSS JOIN LATERAL (
          SELECT min(k.kind) AS kind, count(DISTINCT (k.kind, k.ids)) AS kinds
            FROM tally.role_binding AS b CROSS JOIN LATERAL tally_internal.binding_kind(b) AS k (kind, ids)
           WHERE b.role_name <> r.oid AND EXISTS (SELECT FROM pg_catalog.pg_roles AS g WHERE g.oid = b.role_name)
             AND pg_catalog.pg_has_role(r.oid, b.role_name, 'USAGE')
        ) AS inherited
       WHERE r.rolname !~ '^pg_' AND r.rolname NOT IN ('tally_owner', 'tally_security', 'tally_evaluator')
    )
    SELECT b.role_id, b.rolname,
           CASE b.binding WHEN 'bound' THEN 'own' WHEN 'trusted' THEN 'enter' WHEN 'pool' THEN 'token'
                          WHEN 'global' THEN CASE WHEN b.is_analyst THEN 'own' ELSE 'none' END
                          WHEN 'none' THEN CASE WHEN b.is_analyst THEN 'enter' ELSE 'none' END
                          ELSE 'none' END,
           b.binding, b.binding IN ('none', 'trusted'), b.sees_all
      FROM bound AS b;
  END;

COMMENT ON FUNCTION tally_internal.role_scopes() IS 'each role, as if it logged in: how it comes into a scope, and whether row security holds for it';

CREATE FUNCTION tally_internal.reads(OUT role_id oid, OUT relation oid, OUT is_readable boolean, OUT columns int2[], OUT scope text)
  RETURNS SETOF record
  LANGUAGE sql STABLE PARALLEL SAFE STRICT
  SET search_path = pg_catalog, pg_temp
  SET jit = off -- compiling this query takes seconds, running it a hundredth
  BEGIN ATOMIC
    WITH RECURSIVE role AS MATERIALIZED (SELECT r.* FROM tally_internal.role_scopes() AS r),
    relation AS MATERIALIZED (SELECT r.* FROM tally_internal.catalog_relations() AS r),
    rule AS MATERIALIZED (
      -- What a view reads, as whom: its owner, or whoever asks (0).
      SELECT DISTINCT w.ev_class AS view, d.refobjid AS source, d.refobjsubid::int2 AS number,
             CASE WHEN coalesce((SELECT o.option_value::boolean FROM pg_catalog.pg_options_to_table(c.reloptions) AS o WHERE o.option_name = 'security_invoker'), false)
                  THEN 0::oid ELSE c.relowner END AS reader
        FROM relation AS r JOIN pg_catalog.pg_class AS c ON c.oid = r.relation
        JOIN pg_catalog.pg_rewrite AS w ON w.ev_class = r.relation AND w.rulename = '_RETURN'
        JOIN pg_catalog.pg_depend AS d ON d.classid = 'pg_catalog.pg_rewrite'::regclass AND d.objid = w.oid
         AND d.refclassid = 'pg_catalog.pg_class'::regclass AND d.refobjid <> w.ev_class
        JOIN pg_catalog.pg_class AS s ON s.oid = d.refobjid AND s.relkind IN ('r', 'p', 'v', 'm', 'f')
       WHERE r.relkind = 'v'
    ), calls AS MATERIALIZED (
      SELECT DISTINCT w.ev_class AS view, coalesce(o.oprcode, d.refobjid)::oid AS function
        FROM relation AS r JOIN pg_catalog.pg_rewrite AS w ON w.ev_class = r.relation AND w.rulename = '_RETURN'
        JOIN pg_catalog.pg_depend AS d ON d.classid = 'pg_catalog.pg_rewrite'::regclass AND d.objid = w.oid
         AND d.refclassid IN ('pg_catalog.pg_proc'::regclass, 'pg_catalog.pg_operator'::regclass)
        LEFT JOIN pg_catalog.pg_operator AS o ON d.refclassid = 'pg_catalog.pg_operator'::regclass AND o.oid = d.refobjid
       WHERE r.relkind = 'v'
    ), reach (relation, view) AS (
      SELECT r.relation, r.relation FROM relation AS r WHERE r.relkind = 'v'
      UNION
      SELECT h.relation, u.source FROM reach AS h JOIN rule AS u ON u.view = h.view
        JOIN pg_catalog.pg_class AS c ON c.oid = u.source AND c.relkind = 'v'
    ), seen AS MATERIALIZED (
      -- Each table that reading a relation reads, and as whom: itself, and those of the views in it.
      SELECT r.relation, r.relation AS source, 0::oid AS reader FROM relation AS r WHERE r.relkind <> 'v'
      UNION
      SELECT h.relation, u.source, u.reader FROM reach AS h JOIN rule AS u ON u.view = h.view
    ), secured AS MATERIALIZED (
      SELECT c.oid AS source, c.relowner, c.relforcerowsecurity FROM pg_catalog.pg_class AS c
       WHERE c.relrowsecurity AND c.relkind IN ('r', 'p') AND c.oid IN (SELECT s.source FROM seen AS s)
    ), policy AS MATERIALIZED (
      SELECT p.oid, p.polrelid, p.polname, p.polroles FROM pg_catalog.pg_policy AS p JOIN secured AS s ON s.source = p.polrelid WHERE p.polcmd IN ('r', '*')
    ), asked AS MATERIALIZED (
      SELECT DISTINCT p.oid AS policy, d.refobjid AS function FROM policy AS p
        JOIN pg_catalog.pg_depend AS d ON d.classid = 'pg_catalog.pg_policy'::regclass AND d.objid = p.oid AND d.refclassid = 'pg_catalog.pg_proc'::regclass
    ), function AS MATERIALIZED (
      SELECT c.function AS id FROM calls AS c UNION SELECT a.function FROM asked AS a
    ), refused AS MATERIALIZED (
      SELECT r.role_id, f.id AS function FROM role AS r CROSS JOIN function AS f
       WHERE f.id IN (SELECT p.oid FROM pg_catalog.pg_proc AS p) AND NOT pg_catalog.has_function_privilege(r.role_id, f.id, 'EXECUTE')
    ), held AS MATERIALIZED (
      -- The tables whose row security holds, for a role or for the owner of a view, as the role that logged in.
      SELECT DISTINCT r.role_id, s.source, k.reader, t.relowner
        FROM role AS r CROSS JOIN (SELECT DISTINCT s.source, s.reader FROM seen AS s) AS s JOIN secured AS t ON t.source = s.source
        CROSS JOIN LATERAL (SELECT CASE WHEN s.reader = 0 THEN r.role_id ELSE s.reader END) AS k (reader)
        JOIN pg_catalog.pg_roles AS u ON u.oid = k.reader
       WHERE NOT u.rolsuper AND NOT u.rolbypassrls AND (t.relforcerowsecurity OR NOT pg_catalog.pg_has_role(k.reader, t.relowner, 'USAGE'))
    ), needs AS MATERIALIZED (
      SELECT h.role_id, h.source, h.reader,
             bool_or(p.polname = 'tally_guard' AND NOT tally_internal.is_record(h.source) OR a.function IN ('tally.current_tenant()'::regprocedure, 'tally.current_account()'::regprocedure,
               'tally.scope_key()'::regprocedure, 'tally.scope_is_global()'::regprocedure)) AS a_scope,
             -- Or to be an auditor.
             bool_or(p.polname = 'tally_guard' AND tally_internal.is_record(h.source)) AS a_record,
             bool_or(coalesce(a.function = 'tally_internal.confined_to()'::regprocedure, false)) AS no_doubt,
             bool_or(f.function IS NOT NULL) AS what_is_refused
        FROM held AS h JOIN policy AS p ON p.polrelid = h.source
        LEFT JOIN asked AS a ON a.policy = p.oid
        LEFT JOIN refused AS f ON f.role_id = h.role_id AND f.function = a.function
       WHERE 0 = ANY (p.polroles)
          OR EXISTS (SELECT FROM pg_catalog.unnest(p.polroles) AS o (id) WHERE pg_catalog.pg_has_role(h.reader, o.id, 'USAGE'))
       GROUP BY h.role_id, h.source, h.reader
    ), pair AS MATERIALIZED (
      SELECT r.role_id, r.scope AS how, r.binding, r.is_unbound, r.sees_all, x.relation, x.relkind,
             pg_catalog.has_schema_privilege(r.role_id, x.schema_id, 'USAGE') AS in_schema,
             pg_catalog.has_table_privilege(r.role_id, x.relation, 'SELECT') AS whole,
             pg_catalog.has_any_column_privilege(r.role_id, x.relation, 'SELECT') AS some
        FROM role AS r CROSS JOIN relation AS x
    ), broken AS MATERIALIZED (
      -- Views whose owner, or whoever asks, may not read what is in them, or not call it.
      SELECT u.view, 0::oid AS role_id FROM rule AS u
       WHERE u.reader <> 0 AND NOT CASE WHEN u.number <> 0 THEN pg_catalog.has_column_privilege(u.reader, u.source, u.number, 'SELECT')
                                        ELSE pg_catalog.has_any_column_privilege(u.reader, u.source, 'SELECT') END
      UNION
      SELECT u.view, r.role_id FROM rule AS u CROSS JOIN role AS r
       WHERE u.reader = 0 AND NOT CASE WHEN u.number <> 0 THEN pg_catalog.has_column_privilege(r.role_id, u.source, u.number, 'SELECT')
                                       ELSE pg_catalog.has_any_column_privilege(r.role_id, u.source, 'SELECT') END
      UNION
      SELECT c.view, f.role_id FROM calls AS c JOIN refused AS f ON f.function = c.function
    ), barred AS MATERIALIZED (
      SELECT DISTINCT h.relation, b.role_id FROM reach AS h JOIN broken AS b ON b.view = h.view
    ), bounds AS MATERIALIZED (
      SELECT p.role_id, p.relation, bool_or(n.a_scope) AS a_scope, bool_or(n.a_record) AS a_record, bool_or(n.no_doubt) AS no_doubt, bool_or(n.what_is_refused) AS what_is_refused
        FROM pair AS p JOIN seen AS s ON s.relation = p.relation
        JOIN needs AS n ON n.role_id = p.role_id AND n.source = s.source AND n.reader = CASE WHEN s.reader = 0 THEN p.role_id ELSE s.reader END
       WHERE p.some GROUP BY p.role_id, p.relation
    ), called AS MATERIALIZED (
      -- Functions that ask for the scope, wherever they are called.
      SELECT h.relation,
             bool_or(c.function IN ('tally.current_tenant()'::regprocedure, 'tally.current_account()'::regprocedure, 'tally.scope_key()'::regprocedure,
               'tally.scope_is_global()'::regprocedure, 'tally.current_scope()'::regprocedure))
               -- One that asks first whether somebody is confined asks nobody else for a scope.
               AND NOT bool_or(c.function = 'tally_internal.confined_to()'::regprocedure) AS a_scope,
             bool_or(c.function = 'tally_internal.audit_scope_key()'::regprocedure) AS an_auditor,
             -- Views for those alone who are confined to no tenant call a function all_NAME.
             bool_or(c.function IN (SELECT p.oid FROM pg_catalog.pg_proc AS p
                                     WHERE p.pronamespace = 'tally_internal'::regnamespace AND pg_catalog.starts_with(p.proname::text, 'all_'))) AS whole
        FROM reach AS h JOIN calls AS c ON c.view = h.view GROUP BY h.relation
    ), answer AS (
      SELECT p.role_id, p.relation, p.whole, p.some, p.binding, p.how,
             coalesce(b.a_scope, false) OR coalesce(c.a_scope, false) OR coalesce(b.a_record, false) AND NOT u.is_auditor AS a_scope, coalesce(c.an_auditor, false) AS an_auditor,
             coalesce(c.whole, false) AND NOT (p.is_unbound OR p.binding = 'global' AND p.how <> 'none') AS is_confined,
             u.is_auditor,
             p.sees_all,
             p.in_schema AND p.some AND NOT coalesce(b.what_is_refused, false)
               AND NOT EXISTS (SELECT FROM barred AS d WHERE d.relation = p.relation AND d.role_id IN (0, p.role_id))
               AND NOT (coalesce(b.no_doubt, false) AND p.how = 'none' AND p.binding <> 'none') AS may
        FROM pair AS p
        CROSS JOIN LATERAL (SELECT p.is_unbound AND pg_catalog.pg_has_role(p.role_id, 'tally_auditor', 'USAGE')) AS u (is_auditor)
        LEFT JOIN bounds AS b ON b.role_id = p.role_id AND b.relation = p.relation
        LEFT JOIN called AS c ON c.relation = p.relation
    ), judged AS (
      SELECT a.role_id, a.relation, a.whole,
             a.may AND NOT a.is_confined AND (NOT a.a_scope OR a.how <> 'none') AND (NOT a.an_auditor OR a.is_auditor OR a.how <> 'none') AS may,
             CASE WHEN a.an_auditor AND a.is_auditor THEN 'any' WHEN a.an_auditor AND a.binding = 'global' THEN 'enter'
                  WHEN a.an_auditor OR a.a_scope THEN a.how WHEN a.binding = 'pool' AND a.relation IN (SELECT b.relation FROM bounds AS b WHERE b.no_doubt AND b.role_id = a.role_id) THEN 'token'
                  ELSE 'any' END AS scope,
             a.sees_all
        FROM answer AS a
    ), field AS (
      SELECT j.role_id, j.relation, f.attnum,
             j.may AND (j.whole OR pg_catalog.has_column_privilege(j.role_id, j.relation, f.attnum, 'SELECT'))
               -- A sketch is printed to nobody whom row security binds (src/sketch).
               AND (j.sees_all OR f.atttypid <> 'tally.hll'::regtype) AS may
        FROM judged AS j JOIN pg_catalog.pg_attribute AS f ON f.attrelid = j.relation AND f.attnum > 0 AND NOT f.attisdropped
       WHERE j.may
    ), fields AS (
      SELECT f.role_id, f.relation, bool_and(f.may) AS every, pg_catalog.array_agg(f.attnum ORDER BY f.attnum) FILTER (WHERE f.may) AS columns
        FROM field AS f GROUP BY f.role_id, f.relation
    )
    SELECT j.role_id, j.relation, coalesce(f.every, false), coalesce(f.columns, '{}'), j.scope
      FROM judged AS j LEFT JOIN fields AS f ON f.role_id = j.role_id AND f.relation = j.relation;
  END;
COMMENT ON FUNCTION tally_internal.reads() IS
  'for each role and relation: whether SELECT * works, and which columns do, once it is in a scope; and how it comes into one: any (none is needed), own, enter, token or none';

CREATE FUNCTION tally.readable_by(role_name regrole) RETURNS TABLE (asset text, kind text, readable boolean, scope text)
  LANGUAGE plpgsql STABLE PARALLEL UNSAFE STRICT
  SET search_path = pg_catalog, pg_temp
  SET jit = off
AS $$
BEGIN
  PERFORM tally_internal.refuse_confined();
  RETURN QUERY
    WITH answer AS MATERIALIZED (SELECT r.* FROM tally_internal.reads() AS r WHERE r.role_id = readable_by.role_name)
    SELECT c.name, c.kind, r.is_readable, r.scope
      FROM tally_internal.catalog_relations() AS c JOIN answer AS r USING (relation)
    UNION ALL
    SELECT c.asset, 'column', c.number = ANY (r.columns), r.scope
      FROM tally_internal.catalog_columns() AS c JOIN answer AS r USING (relation);
END
$$;
COMMENT ON FUNCTION tally.readable_by(regrole) IS
  'which tables, views and columns a role reads: whether SELECT works, of a table or view that of all its columns; and in which scope: any where none is needed, own for one that it has from the start, enter or token for one that it enters before, none where it can''t';

REVOKE ALL ON FUNCTION tally_internal.role_scopes(), tally_internal.binding_kind(tally.role_binding), tally_internal.reads(), tally.readable_by(regrole) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tally_internal.role_scopes(), tally_internal.binding_kind(tally.role_binding), tally_internal.reads(), tally.readable_by(regrole) TO tally_admin, tally_auditor;
