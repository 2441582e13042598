-- For tests of your own, run by a superuser: take on a tenant's scope, and show that a table keeps two tenants apart.

CREATE FUNCTION tally.authenticate_as(tenant_id text, account_id text DEFAULT NULL, role_name name DEFAULT 'tally_reader')
  RETURNS void
  LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE CALLED ON NULL INPUT
  SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  IF NOT (SELECT r.rolsuper FROM pg_catalog.pg_roles AS r WHERE r.rolname = session_user) THEN
    RAISE EXCEPTION USING ERRCODE = 'insufficient_privilege',
      MESSAGE = 'tally.authenticate_as() is for tests that a superuser runs',
      HINT = 'elsewhere call tally.enter(tenant) first in the transaction';
  END IF;
  PERFORM pg_catalog.set_config('role', 'none', true);
  IF tenant_id IS NOT NULL THEN
    PERFORM tally_internal.check_id('tenant_id', tenant_id), tally_internal.check_id('account_id', account_id);
  END IF;
  PERFORM pg_catalog.set_config('tally.scope', coalesce(tenant_id || pg_catalog.chr(31) || coalesce(account_id, ''), ''), true);
  PERFORM pg_catalog.set_config('role', role_name, true);
END
$$;
COMMENT ON FUNCTION tally.authenticate_as(text, text, name) IS
  'for tests run by a superuser: continues the transaction as a role that row security binds, in the scope of a tenant or account, without a scope where the tenant is null; may be called again for another one. Code of that role can RESET ROLE: try tables of owners you trust';

CREATE FUNCTION tally_internal.try_as_owner(target regclass, tenant_id text, statement text) RETURNS int8[]
  LANGUAGE c VOLATILE PARALLEL UNSAFE CALLED ON NULL INPUT AS 'MODULE_PATHNAME', 'try_as_owner_wrapper';
COMMENT ON FUNCTION tally_internal.try_as_owner(regclass, text, text) IS
  'for tally.assert_isolated(): what a statement answers, or how many rows it changes, as the table''s owner in the scope of a tenant, in none where that is null, and in none and not bound by the table''s row security where it is empty; undone, and confined: what belongs to the owner can''t become the superuser';

CREATE FUNCTION tally_internal.try_writing_as_owner(target regclass, tenant_id text, statement text) RETURNS int8
  LANGUAGE c VOLATILE PARALLEL UNSAFE CALLED ON NULL INPUT AS 'MODULE_PATHNAME', 'tally_try_writing_as_owner';
COMMENT ON FUNCTION tally_internal.try_writing_as_owner(regclass, text, text) IS
  'for tally.assert_isolated(): as try_as_owner() without triggers and rules, but those that are ENABLE ALWAYS or REPLICA, how many rows a statement changes; null where the table''s row security refuses it, -1 where only a constraint does, -2 where no partition takes the row, an error where anything else does';

CREATE FUNCTION tally_internal.policy_condition(target regclass, command "char", is_check boolean) RETURNS text
  LANGUAGE sql STABLE PARALLEL SAFE STRICT
  SET search_path = pg_catalog, pg_temp
AS $$
  SELECT format('(%s) AND (%s)', coalesce(string_agg(p.condition, ' OR ') FILTER (WHERE p.polpermissive), 'false'),
                coalesce(string_agg(p.condition, ' AND ') FILTER (WHERE NOT p.polpermissive), 'true'))
    FROM (SELECT l.polpermissive, format('(%s)', coalesce(CASE WHEN is_check THEN pg_get_expr(l.polwithcheck, l.polrelid) END, pg_get_expr(l.polqual, l.polrelid), 'true')) AS condition
            FROM pg_policy AS l JOIN pg_class AS c ON c.oid = l.polrelid
           WHERE c.oid = target AND l.polcmd IN ('*', command)
             AND (SELECT bool_or(o.id = 0 OR pg_has_role(c.relowner, o.id, 'USAGE')) FROM unnest(l.polroles) AS o (id))) AS p
$$;
COMMENT ON FUNCTION tally_internal.policy_condition(regclass, "char", boolean) IS
  'for tally.assert_isolated(): what the policies that bind a table''s owner ask of a row which a command meets, or of one that it writes';

CREATE FUNCTION tally.assert_isolated(target regclass, tenant_a text, tenant_b text) RETURNS void
  LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE CALLED ON NULL INPUT
  SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  tenant_column name;
  tenant_type   text;
  columns       text;
  copied        text;
  moved         text;
  tenants       text[] := ARRAY[tenant_a, tenant_b];
  expected      int8[];
  answer        int8[];
  written       int8;
  taken         text;
  swallowing    text;
  own_name      name := (SELECT c.relname FROM pg_catalog.pg_class AS c WHERE c.oid = target);
BEGIN
  PERFORM tally.authenticate_as(NULL, NULL, 'none');
  IF target IS NULL OR tenant_a IS NULL OR tenant_b IS NULL THEN
    RAISE EXCEPTION USING ERRCODE = 'null_value_not_allowed', MESSAGE = 'target, tenant_a and tenant_b must not be null',
      HINT = 'name a protected table, and two tenants that have rows in it';
  END IF;
  PERFORM tally_internal.check_id('tenant_a', tenant_a), tally_internal.check_id('tenant_b', tenant_b);
  SELECT i.tenant_column INTO tenant_column FROM tally_internal.isolated_tables() AS i WHERE i.id = target;
  IF NOT FOUND THEN
    RAISE EXCEPTION USING ERRCODE = '55T01', MESSAGE = pg_catalog.format('table "%s" is not protected', target),
      HINT = CASE WHEN EXISTS (SELECT FROM pg_catalog.pg_class AS c WHERE c.oid = target AND c.relkind IN ('r', 'p'))
                  THEN pg_catalog.format('SELECT tally.protect(%L)', target)
                  ELSE 'only tables are tried: try those that it reads' END;
  END IF;
  tenant_type := (SELECT pg_catalog.format_type(a.atttypid, NULL) FROM pg_catalog.pg_attribute AS a
                   WHERE a.attrelid = target AND a.attname = tenant_column AND NOT a.attisdropped);
  -- Also what is only planned or counted may run the owner's code: none of it as the superuser.
  expected := tally_internal.try_as_owner(target, '',
    pg_catalog.format('SELECT count(*) FILTER (WHERE %1$I::text = %3$L), count(*) FILTER (WHERE %1$I::text = %4$L) FROM %2$s',
      tenant_column, target, tenant_a, tenant_b));
  FOR i IN 1 .. 2 LOOP
    IF expected[i] = 0 OR tenant_a = tenant_b THEN
      RAISE EXCEPTION USING ERRCODE = '55T02',
        MESSAGE = pg_catalog.format('table "%s" has no rows of tenant "%s" to hide', target, tenants[i]),
        HINT = 'insert rows of two tenants first: an empty table proves nothing';
    END IF;
  END LOOP;
  SELECT pg_catalog.string_agg(pg_catalog.quote_ident(a.attname), ', '),
         pg_catalog.string_agg(CASE WHEN a.attname = tenant_column THEN '%L::' || pg_catalog.replace(tenant_type, '%', '%%') ELSE pg_catalog.replace(pg_catalog.quote_ident(a.attname), '%', '%%') END, ', ')
    INTO columns, copied
    FROM pg_catalog.pg_attribute AS a
   WHERE a.attrelid = target AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '';
  -- The same with the columns that are generated, each under its name.
  moved := (SELECT pg_catalog.string_agg(CASE WHEN a.attname = tenant_column THEN '%L::' || pg_catalog.replace(tenant_type, '%', '%%') || ' AS ' ELSE '' END
                                         || pg_catalog.replace(pg_catalog.quote_ident(a.attname), '%', '%%'), ', ')
              FROM pg_catalog.pg_attribute AS a WHERE a.attrelid = target AND a.attnum > 0 AND NOT a.attisdropped);
  -- What these swallow would look like rows that no policy shows.
  swallowing := (SELECT pg_catalog.min(x.name) FROM (
    SELECT pg_catalog.format('trigger "%s"', g.tgname) FROM (
      WITH RECURSIVE part (id) AS (SELECT target::oid UNION SELECT h.inhrelid FROM part AS p JOIN pg_catalog.pg_inherits AS h ON h.inhparent = p.id)
      SELECT p.id FROM part AS p) AS p JOIN pg_catalog.pg_trigger AS g ON g.tgrelid = p.id
     WHERE g.tgenabled IN ('A', 'R') AND g.tgtype & 3 = 3 AND g.tgtype & 28 <> 0
    UNION ALL
    SELECT pg_catalog.format('rule "%s"', r.rulename) FROM pg_catalog.pg_rewrite AS r WHERE r.ev_class = target AND r.ev_enabled IN ('A', 'R')) AS x (name));
  IF swallowing IS NOT NULL THEN
    RAISE EXCEPTION USING ERRCODE = '55T03',
      MESSAGE = pg_catalog.format('what row security lets in can''t be shown: table "%s" has the %s, which is ENABLE ALWAYS or REPLICA', target, swallowing),
      HINT = 'disable it while you try the table: it may swallow rows that the policies show';
  END IF;
  -- The owner has every privilege, and FORCE binds it. Its triggers, policies and defaults run as the owner, confined.
  FOR i IN 1 .. 2 LOOP
    answer := tally_internal.try_as_owner(target, tenants[i],
      pg_catalog.format('SELECT count(*), count(*) FILTER (WHERE %I::text = %L) FROM %s', tenant_column, tenants[i], target));
    IF answer[1] <> answer[2] OR answer[2] <> expected[i] THEN
      RAISE EXCEPTION USING ERRCODE = 'assert_failure',
        MESSAGE = pg_catalog.format('tenant "%s" sees %s rows of table "%s", %s of them its own, and has %s',
          tenants[i], answer[1], target, answer[2], expected[i]),
        HINT = 'tally.lint() names what is wrong';
    END IF;
    -- A condition is met by rows that may be read alone. Without one, every row that the policies show goes.
    written := tally_internal.try_writing_as_owner(target, tenants[i], pg_catalog.format('DELETE FROM %s', target));
    IF written IS DISTINCT FROM tally_internal.try_writing_as_owner(target, tenants[i],
         pg_catalog.format('DELETE FROM %s WHERE %I::text = %L', target, tenant_column, tenants[i])) THEN
      RAISE EXCEPTION USING ERRCODE = 'assert_failure',
        MESSAGE = pg_catalog.format('tenant "%s" can delete rows of other tenants from table "%s"', tenants[i], target);
    END IF;
    -- The policy's check comes before constraints: a violated one tells that the policy let the row in.
    written := tally_internal.try_writing_as_owner(target, tenants[i],
      pg_catalog.format('INSERT INTO %s (%s) OVERRIDING SYSTEM VALUE SELECT %s FROM %s WHERE %I::text = %L LIMIT 1',
        target, columns, pg_catalog.format(copied, tenants[3 - i]), target, tenant_column, tenants[i]));
    IF written = 0 THEN
      RAISE EXCEPTION USING ERRCODE = '55T03',
        MESSAGE = pg_catalog.format('what row security lets in was not shown: something in table "%s" swallowed a row of tenant "%s"', target, tenants[3 - i]),
        HINT = 'disable triggers that are ENABLE ALWAYS or REPLICA while you try the table';
    ELSIF written IS NOT NULL AND written <> -2 THEN
      RAISE EXCEPTION USING ERRCODE = 'assert_failure',
        MESSAGE = pg_catalog.format('tenant "%s" can insert rows of tenant "%s" into table "%s"', tenants[i], tenants[3 - i], target);
    END IF;
    -- With a condition, the policies for reading would be asked about the new row, too.
    written := tally_internal.try_writing_as_owner(target, tenants[i],
      pg_catalog.format('UPDATE %s SET %I = %L::%s', target, tenant_column, tenants[3 - i], tenant_type));
    IF written NOT IN (0, -2) THEN
      RAISE EXCEPTION USING ERRCODE = 'assert_failure',
        MESSAGE = pg_catalog.format('tenant "%s" can write rows of tenant "%s" to table "%s"', tenants[i], tenants[3 - i], target);
    END IF;
    -- Those statements end at the first row that is refused, or that no partition takes: so the policies' conditions are asked of each.
    SELECT a.inserted || b.updated INTO answer
      FROM tally_internal.try_as_owner(target, tenants[i], pg_catalog.format('SELECT count(*) FILTER (WHERE %s) FROM (SELECT %s FROM %s AS %I WHERE %I::text = %L) AS %4$I',
             tally_internal.policy_condition(target, 'a', true), pg_catalog.format(moved, tenants[3 - i]), target, own_name, tenant_column, tenants[i])) AS a (inserted),
           tally_internal.try_as_owner(target, tenants[i], pg_catalog.format('SELECT count(*) FILTER (WHERE %s) FROM (SELECT %s FROM %s AS %I WHERE %I::text = %L AND (%s)) AS %4$I',
             tally_internal.policy_condition(target, 'w', true), pg_catalog.format(moved, tenants[3 - i]), target, own_name, tenant_column, tenants[i],
             tally_internal.policy_condition(target, 'w', false))) AS b (updated);
    IF answer[1] > 0 OR answer[2] > 0 THEN
      RAISE EXCEPTION USING ERRCODE = 'assert_failure',
        MESSAGE = pg_catalog.format('tenant "%s" can %s rows of tenant "%s" to table "%s"', tenants[i], CASE WHEN answer[1] > 0 THEN 'add' ELSE 'write' END, tenants[3 - i], target),
        DETAIL = pg_catalog.format('the policies let in what would be %s of its rows with the other''s id', greatest(answer[1], answer[2]));
    END IF;
    taken := pg_catalog.format('UPDATE %s SET %I = %L::%s', target, tenant_column, tenants[i], tenant_type);
    written := tally_internal.try_writing_as_owner(target, tenants[i], taken);
    IF written IS DISTINCT FROM tally_internal.try_writing_as_owner(target, tenants[i],
         pg_catalog.format('%s WHERE %I::text = %L', taken, tenant_column, tenants[i])) THEN
      RAISE EXCEPTION USING ERRCODE = 'assert_failure',
        MESSAGE = pg_catalog.format('tenant "%s" can take over rows of other tenants in table "%s"', tenants[i], target);
    ELSIF coalesce(written, -1) < 0 THEN
      RAISE EXCEPTION USING ERRCODE = '55T03',
        MESSAGE = pg_catalog.format('what row security lets in was not shown: something in table "%s" refuses tenant "%s" to update its own rows', target, tenants[i]),
        HINT = 'try the table without the constraint, or the part of the policy, that refuses it';
    END IF;
  END LOOP;
  BEGIN
    answer := NULL;
    answer := tally_internal.try_as_owner(target, NULL, pg_catalog.format('SELECT count(*) FROM %s', target));
  EXCEPTION WHEN insufficient_privilege THEN
    NULL;
  END;
  IF answer IS NOT NULL THEN
    RAISE EXCEPTION USING ERRCODE = 'assert_failure', MESSAGE = pg_catalog.format('table "%s" can be read without a scope', target);
  END IF;
END
$$;
COMMENT ON FUNCTION tally.assert_isolated(regclass, text, text) IS
  'for tests run by a superuser: raises an error unless, as the table''s owner, each of two tenants sees exactly its own rows and can neither remove nor write the other''s, because row security refuses it or shows no such row; changes nothing';

REVOKE ALL ON FUNCTION tally.authenticate_as(text, text, name), tally.assert_isolated(regclass, text, text),
  tally_internal.try_as_owner(regclass, text, text), tally_internal.try_writing_as_owner(regclass, text, text),
  tally_internal.policy_condition(regclass, "char", boolean) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tally.authenticate_as(text, text, name) TO tally_owner, tally_reader, tally_writer;
