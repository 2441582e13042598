-- What isolates a table: its policies, as declared and as printed, the columns that can hold ids, and indexes that begin with
-- the tenant. tally.protect() makes it so, tally.lint() watches it, for pg_tally's own tables and for the user's.

CREATE FUNCTION tally_internal.family(target regclass) RETURNS SETOF regclass
  LANGUAGE sql STABLE PARALLEL SAFE STRICT
  SET search_path = pg_catalog, pg_temp
  BEGIN ATOMIC
    WITH RECURSIVE member (id) AS (
      SELECT target::oid
      UNION
      SELECT i.inhrelid FROM member AS m JOIN pg_catalog.pg_inherits AS i ON i.inhparent = m.id
    )
    SELECT m.id::regclass FROM member AS m ORDER BY m.id;
  END;
COMMENT ON FUNCTION tally_internal.family(regclass) IS
  'a table and everything below it: partitions and inheritance children of every level';

CREATE FUNCTION tally_internal.id_type(type oid) RETURNS regtype
  LANGUAGE sql STABLE PARALLEL SAFE STRICT
  SET search_path = pg_catalog, pg_temp
  BEGIN ATOMIC
    WITH RECURSIVE base (id, next) AS (
      SELECT t.oid, t.typbasetype FROM pg_catalog.pg_type AS t WHERE t.oid = type
      UNION ALL
      SELECT t.oid, t.typbasetype FROM base AS b JOIN pg_catalog.pg_type AS t ON t.oid = b.next
    )
    SELECT b.id::regtype FROM base AS b
     WHERE b.next = 0 AND b.id IN ('text'::regtype, 'varchar'::regtype, 'uuid'::regtype, 'int2'::regtype, 'int4'::regtype, 'int8'::regtype);
  END;
COMMENT ON FUNCTION tally_internal.id_type(oid) IS
  'the type itself, or what a domain is over, where it can hold ids: text, varchar, uuid or an integer; null where it can''t';

-- The same three policies as tally_internal.secure_table() makes. Text is compared with the scope's key; other types with the value that
-- the scope's text stands for, found once a query. Equality of all these types is leakproof, and so a condition of an index.
CREATE FUNCTION tally_internal.policies(target regclass, tenant_column name, account_column name,
    OUT policy_name name, OUT is_permissive boolean, OUT role_names name[], OUT declared text, OUT printed text)
  RETURNS SETOF record
  LANGUAGE sql STABLE PARALLEL SAFE CALLED ON NULL INPUT
  SET search_path = pg_catalog, pg_temp
  SET quote_all_identifiers = off -- else what it says differs from what pg_get_expr() prints
  BEGIN ATOMIC
    WITH spelled AS (
      SELECT a.attname = tenant_column AS is_tenant, k.kind,
             CASE WHEN t.typtype = 'd' THEN pg_catalog.format('%I::pg_catalog.%I', a.attname, (SELECT o.typname FROM pg_catalog.pg_type AS o WHERE o.oid = k.cast_to))
                  ELSE pg_catalog.quote_ident(a.attname) END AS declared,
             CASE WHEN t.typtype = 'd' OR b.id = 'varchar'::regtype
                  THEN pg_catalog.format('(%I)::%s', a.attname, pg_catalog.format_type(k.cast_to, NULL))
                  ELSE pg_catalog.quote_ident(a.attname) END AS printed
        FROM pg_catalog.pg_attribute AS a
        JOIN pg_catalog.pg_type AS t ON t.oid = a.atttypid
        CROSS JOIN LATERAL tally_internal.id_type(t.oid) AS b (id)
        CROSS JOIN LATERAL (
          SELECT CASE WHEN b.id = 'varchar'::regtype THEN 'text'::regtype ELSE b.id END,
                 CASE b.id WHEN 'uuid'::regtype THEN 'uuid' WHEN 'text'::regtype THEN 'text' WHEN 'varchar'::regtype THEN 'text' ELSE 'int8' END
        ) AS k (cast_to, kind)
       WHERE a.attrelid = target AND a.attname IN (tenant_column, account_column) AND NOT a.attisdropped AND b.id IS NOT NULL
    ), compared AS (
      SELECT s.*, v.value, v.printed_value
        FROM spelled AS s
        CROSS JOIN LATERAL (SELECT CASE WHEN s.is_tenant THEN 'current_tenant' ELSE 'current_account' END) AS n (name)
        CROSS JOIN LATERAL (
          SELECT CASE s.kind WHEN 'text' THEN pg_catalog.format('(SELECT tally.%s())', n.name)
                             ELSE pg_catalog.format('(SELECT tally.id_as_%s(tally.%s()))', s.kind, n.name) END,
                 CASE s.kind WHEN 'text' THEN pg_catalog.format('( SELECT tally.%1$s() AS %1$s)', n.name)
                             ELSE pg_catalog.format('( SELECT tally.id_as_%1$s(tally.%2$s()) AS id_as_%1$s)', s.kind, n.name) END
        ) AS v (value, printed_value)
    ), tenant AS (
      SELECT c.*, c.declared || ' OPERATOR(pg_catalog.=) ' || c.value AS equal,
             pg_catalog.format('(%s = %s)', c.printed, c.printed_value) AS printed_equal
        FROM compared AS c WHERE c.is_tenant
    ), account AS (
      SELECT c.*, '((SELECT tally.current_account()) IS NULL OR ' || c.declared || ' OPERATOR(pg_catalog.=) ' || c.value || ')' AS admits,
             pg_catalog.format('((( SELECT tally.current_account() AS current_account) IS NULL) OR (%s = %s))', c.printed, c.printed_value) AS printed_admits
        FROM compared AS c WHERE NOT c.is_tenant
    ), guard AS (
      SELECT t.equal, t.printed_equal, g.*
        FROM tenant AS t LEFT JOIN account AS c ON true
        CROSS JOIN LATERAL (SELECT t.kind = 'text' AND coalesce(c.kind = 'text', true)) AS k (is_text)
        CROSS JOIN LATERAL (SELECT
          CASE WHEN t.kind = 'text'
               THEN 'tally.in_scope(' || pg_catalog.concat_ws(', ', t.declared, CASE WHEN k.is_text THEN c.declared END, '(SELECT tally.scope_key())') || ')'
               ELSE '((SELECT tally.scope_is_global()) OR ' || t.equal || ')' END,
          CASE WHEN t.kind = 'text'
               THEN 'tally.in_scope(' || pg_catalog.concat_ws(', ', t.printed, CASE WHEN k.is_text THEN c.printed END, '( SELECT tally.scope_key() AS scope_key)') || ')'
               ELSE '(( SELECT tally.scope_is_global() AS scope_is_global) OR ' || t.printed_equal || ')' END,
          CASE WHEN NOT k.is_text THEN c.admits END, CASE WHEN NOT k.is_text THEN c.printed_admits END
        ) AS p (declared_tenant, printed_tenant, declared_account, printed_account)
        -- In an account's scope, what pg_tally keeps without accounts shows nothing; a table of the user's may be protected so.
        CROSS JOIN LATERAL (SELECT
          EXISTS (SELECT FROM pg_catalog.pg_class AS o WHERE o.oid = target AND o.relnamespace = 'tally'::regnamespace)
          AND account_column IS NULL) AS o (is_whole)
        CROSS JOIN LATERAL (SELECT
          pg_catalog.concat_ws(' AND ', p.declared_tenant, p.declared_account, CASE WHEN o.is_whole THEN
            '((SELECT tally.current_account()) IS NULL OR CURRENT_USER OPERATOR(pg_catalog.=) ANY (''{tally_owner,tally_security}''::pg_catalog.name[]))' END),
          pg_catalog.concat_ws(' AND ', p.printed_tenant, p.printed_account, CASE WHEN o.is_whole THEN
            '((( SELECT tally.current_account() AS current_account) IS NULL) OR (CURRENT_USER = ANY (''{tally_owner,tally_security}''::name[])))' END),
          p.declared_account IS NOT NULL OR o.is_whole
        ) AS g (guard, printed_guard, has_parts)
    )
    SELECT v.policy_name, v.is_permissive, v.role_names, tally_internal.asked_of(target, v.declared), tally_internal.asked_of(target, v.printed)
      FROM guard AS g
     CROSS JOIN LATERAL (VALUES
       ('tally_tenant'::name, true, '{public}'::name[], g.equal, g.printed_equal),
       ('tally_global', true, CASE WHEN tally_internal.is_record(target) THEN '{tally_analyst,tally_auditor,tally_owner}'::name[]
                                   ELSE '{tally_analyst,tally_owner}' END, '(SELECT tally.scope_is_global())',
        '( SELECT tally.scope_is_global() AS scope_is_global)'),
       ('tally_guard', false, '{public}', g.guard, CASE WHEN g.has_parts THEN '(' || g.printed_guard || ')' ELSE g.printed_guard END)
     ) AS v (policy_name, is_permissive, role_names, declared, printed);
  END;
COMMENT ON FUNCTION tally_internal.policies(regclass, name, name) IS
  'the policies that isolate a table: as they are declared, and as pg_get_expr() prints them';

CREATE FUNCTION tally_internal.policy_is_intact(target regclass, policy_name name, is_permissive boolean, role_names name[],
    printed text) RETURNS boolean
  LANGUAGE sql STABLE PARALLEL SAFE STRICT
  SET search_path = pg_catalog, pg_temp
  SET quote_all_identifiers = off
  BEGIN ATOMIC
    SELECT EXISTS (
      SELECT FROM pg_catalog.pg_policy AS p
       WHERE p.polrelid = target AND p.polname = policy_name AND p.polcmd = '*' AND p.polpermissive = is_permissive
         AND pg_catalog.pg_get_expr(p.polqual, p.polrelid) = printed
         AND pg_catalog.pg_get_expr(p.polwithcheck, p.polrelid) = printed
         AND ARRAY(SELECT CASE WHEN r.id = 0 THEN 'public' ELSE pg_catalog.pg_get_userbyid(r.id) END
                     FROM pg_catalog.unnest(p.polroles) AS r (id) ORDER BY 1) = role_names);
  END;
COMMENT ON FUNCTION tally_internal.policy_is_intact(regclass, name, boolean, name[], text) IS
  'whether a table has this policy, exactly';

CREATE FUNCTION tally_internal.shared_indexes(target regclass, tenant_column name, OUT index_id regclass, OUT reason text, OUT fix text)
  RETURNS SETOF record
  LANGUAGE sql STABLE PARALLEL SAFE STRICT
  SET search_path = pg_catalog, pg_temp
  SET quote_all_identifiers = off -- the fix is made from the index's definition, of which it must know the beginning
  BEGIN ATOMIC
    SELECT x.indexrelid::regclass, r.reason,
           CASE WHEN x.indisunique THEN pg_catalog.format('make the key (%I, ...), tenant first', tenant_column)
                WHEN x.indisexclusion THEN pg_catalog.format('check it otherwise than by an exclusion constraint, or have (%I, ...) in an index of access method btree', tenant_column)
                WHEN m.amname = 'btree' AND pg_catalog.starts_with(d.definition, d.beginning)
                  THEN pg_catalog.format('CREATE INDEX ON %s USING btree (%I, %s; DROP INDEX %s;', target, tenant_column,
                         pg_catalog.substr(d.definition, pg_catalog.length(d.beginning) + 1), x.indexrelid::regclass)
                WHEN m.amname = 'hash'
                  THEN pg_catalog.format('CREATE INDEX ON %s (%s)%s; DROP INDEX %s;', target,
                         pg_catalog.concat_ws(', ', pg_catalog.quote_ident(tenant_column),
                           CASE WHEN x.indkey[0] IS DISTINCT FROM a.attnum THEN '(' || pg_catalog.pg_get_indexdef(x.indexrelid, 1, false) || ')' END),
                         ' WHERE ' || pg_catalog.pg_get_expr(x.indpred, x.indrelid), x.indexrelid::regclass)
                ELSE pg_catalog.format('DROP INDEX %s;', x.indexrelid::regclass) END
      FROM pg_catalog.pg_index AS x
      JOIN pg_catalog.pg_class AS c ON c.oid = x.indexrelid
      JOIN pg_catalog.pg_am AS m ON m.oid = c.relam
      JOIN pg_catalog.pg_class AS t ON t.oid = x.indrelid
      JOIN pg_catalog.pg_namespace AS n ON n.oid = t.relnamespace
      JOIN pg_catalog.pg_attribute AS a ON a.attrelid = x.indrelid AND a.attname = tenant_column AND NOT a.attisdropped
      CROSS JOIN LATERAL (
        SELECT CASE
          WHEN m.amname <> 'btree' THEN pg_catalog.format('is of access method %s, which does not keep the tenants'' entries apart', m.amname)
          WHEN x.indkey[0] = 0 THEN 'begins with an expression'
          WHEN x.indkey[0] <> a.attnum
            THEN pg_catalog.format('begins with %I', (SELECT f.attname FROM pg_catalog.pg_attribute AS f WHERE f.attrelid = x.indrelid AND f.attnum = x.indkey[0]))
          WHEN x.indcollation[0] <> a.attcollation THEN 'compares the tenant under another collation than the table does'
          WHEN NOT EXISTS (SELECT FROM pg_catalog.pg_opclass AS k
                             JOIN pg_catalog.pg_amop AS o ON o.amopfamily = k.opcfamily AND o.amopstrategy = 3
                             JOIN pg_catalog.pg_operator AS e ON e.oid = o.amopopr
                            WHERE k.oid = x.indclass[0]
                              AND e.oprcode IN ('texteq'::regproc, 'uuid_eq'::regproc, 'int2eq'::regproc, 'int4eq'::regproc, 'int8eq'::regproc))
            THEN 'compares the tenant by an operator class without its equality' END
      ) AS r (reason)
      CROSS JOIN LATERAL (
        SELECT pg_catalog.pg_get_indexdef(x.indexrelid, 0, false),
               pg_catalog.format('CREATE INDEX %I ON %s%I.%I USING btree (', c.relname, CASE c.relkind WHEN 'I' THEN 'ONLY ' ELSE '' END, n.nspname, t.relname)
      ) AS d (definition, beginning)
     WHERE x.indrelid = target AND r.reason IS NOT NULL;
  END;
COMMENT ON FUNCTION tally_internal.shared_indexes(regclass, name) IS
  'indexes of a table that find rows by something else than first the tenant: whoever searches them reads entries of every tenant';

-- From Postgres 18 on a column can be NOT NULL by a constraint that was never validated, and be so in a table alone.
CREATE FUNCTION tally_internal.nullable_members(target regclass, column_name name, OUT id regclass) RETURNS SETOF regclass
  LANGUAGE sql STABLE PARALLEL SAFE STRICT
  SET search_path = pg_catalog, pg_temp
  BEGIN ATOMIC
    SELECT f.id FROM tally_internal.family(target) AS f (id)
      JOIN pg_catalog.pg_attribute AS a ON a.attrelid = f.id AND a.attname = column_name AND NOT a.attisdropped
     WHERE NOT a.attnotnull
        OR EXISTS (SELECT FROM pg_catalog.pg_constraint AS k
                    WHERE k.conrelid = f.id AND k.contype = 'n' AND k.conkey[1] = a.attnum AND NOT k.convalidated)
     ORDER BY f.id <> target, f.id;
  END;
COMMENT ON FUNCTION tally_internal.nullable_members(regclass, name) IS
  'of a table and everything below it, those in which a column may hold nulls';

REVOKE ALL ON FUNCTION tally_internal.family(regclass), tally_internal.id_type(oid), tally_internal.policies(regclass, name, name),
  tally_internal.policy_is_intact(regclass, name, boolean, name[], text), tally_internal.shared_indexes(regclass, name),
  tally_internal.nullable_members(regclass, name) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tally_internal.family(regclass), tally_internal.id_type(oid), tally_internal.policies(regclass, name, name),
  tally_internal.policy_is_intact(regclass, name, boolean, name[], text), tally_internal.shared_indexes(regclass, name),
  tally_internal.nullable_members(regclass, name)
  TO tally_owner, tally_reader, tally_writer, tally_auditor;
