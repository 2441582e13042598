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
    PERFORM tally.check_id('tenant_id', tenant_id), tally.check_id('account_id', account_id);
  END IF;
  PERFORM pg_catalog.set_config('tally.scope', coalesce(tenant_id || pg_catalog.chr(31) || coalesce(account_id, ''), ''), true);
  PERFORM pg_catalog.set_config('role', role_name, true);
END
$$;
COMMENT ON FUNCTION tally.authenticate_as(text, text, name) IS
  'for tests run by a superuser: continues the transaction as a role that row security binds, in the scope of a tenant or account, without a scope where the tenant is null; may be called again for another one';

CREATE FUNCTION tally.assert_isolated(target regclass, tenant_a text, tenant_b text) RETURNS void
  LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE STRICT
  SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  tenant_column name;
  tenant_type   text;
  owner_name    name := (SELECT pg_catalog.pg_get_userbyid(c.relowner) FROM pg_catalog.pg_class AS c WHERE c.oid = target);
  columns       text;
  copied        text;
  tenants       text[] := ARRAY[tenant_a, tenant_b];
  expected      int8[];
  seen          int8;
  own           int8;
BEGIN
  PERFORM tally.authenticate_as(NULL, NULL, 'none');
  SELECT i.tenant_column INTO tenant_column FROM tally.isolated_tables() AS i WHERE i.id = target;
  IF NOT FOUND THEN
    RAISE EXCEPTION USING ERRCODE = '55T01', MESSAGE = pg_catalog.format('table "%s" is not protected', target),
      HINT = pg_catalog.format('SELECT tally.protect(%L)', target);
  END IF;
  tenant_type := (SELECT pg_catalog.format_type(a.atttypid, NULL) FROM pg_catalog.pg_attribute AS a
                   WHERE a.attrelid = target AND a.attname = tenant_column AND NOT a.attisdropped);
  EXECUTE pg_catalog.format('SELECT ARRAY[count(*) FILTER (WHERE %1$I::text = $1), count(*) FILTER (WHERE %1$I::text = $2)] FROM %2$s',
    tenant_column, target) INTO expected USING tenant_a, tenant_b;
  FOR i IN 1 .. 2 LOOP
    IF expected[i] = 0 OR tenant_a = tenant_b THEN
      RAISE EXCEPTION USING ERRCODE = '55T02',
        MESSAGE = pg_catalog.format('table "%s" has no rows of tenant "%s" to hide', target, tenants[3 - i]),
        HINT = 'insert rows of two tenants first: an empty table proves nothing';
    END IF;
  END LOOP;
  SELECT pg_catalog.string_agg(pg_catalog.quote_ident(a.attname), ', '),
         pg_catalog.string_agg(CASE WHEN a.attname = tenant_column THEN '$1::' || tenant_type ELSE pg_catalog.quote_ident(a.attname) END, ', ')
    INTO columns, copied
    FROM pg_catalog.pg_attribute AS a
   WHERE a.attrelid = target AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '';
  -- Everything below is undone by the exception at its end. The owner has every privilege, and FORCE binds it.
  BEGIN
    FOR i IN 1 .. 2 LOOP
      PERFORM tally.authenticate_as(tenants[i], NULL, owner_name);
      EXECUTE pg_catalog.format('SELECT count(*), count(*) FILTER (WHERE %I::text = $1) FROM %s', tenant_column, target)
        INTO seen, own USING tenants[i];
      IF seen <> own OR own <> expected[i] THEN
        RAISE EXCEPTION USING ERRCODE = 'assert_failure',
          MESSAGE = pg_catalog.format('tenant "%s" sees %s rows of table "%s", %s of them its own, and has %s',
            tenants[i], seen, target, own, expected[i]),
          HINT = 'tally.lint() names what is wrong';
      END IF;
      EXECUTE pg_catalog.format('DELETE FROM %s WHERE %I::text = $1', target, tenant_column) USING tenants[3 - i];
      GET DIAGNOSTICS seen = ROW_COUNT;
      IF seen > 0 THEN
        RAISE EXCEPTION USING ERRCODE = 'assert_failure',
          MESSAGE = pg_catalog.format('tenant "%s" can delete %s rows of tenant "%s" from table "%s"', tenants[i], seen, tenants[3 - i], target);
      END IF;
      -- The policy's check comes before constraints: a violated one tells that the policy let the row in.
      BEGIN
        EXECUTE pg_catalog.format('INSERT INTO %s (%s) OVERRIDING SYSTEM VALUE SELECT %s FROM %s WHERE %I::text = $2 LIMIT 1',
          target, columns, copied, target, tenant_column) USING tenants[3 - i], tenants[i];
        seen := 1;
      EXCEPTION
        WHEN insufficient_privilege THEN seen := 0;
        WHEN integrity_constraint_violation THEN seen := 1;
      END;
      IF seen > 0 THEN
        RAISE EXCEPTION USING ERRCODE = 'assert_failure',
          MESSAGE = pg_catalog.format('tenant "%s" can insert rows of tenant "%s" into table "%s"', tenants[i], tenants[3 - i], target);
      END IF;
      BEGIN
        EXECUTE pg_catalog.format('UPDATE %s SET %2$I = $1::%3$s WHERE %2$I::text = $2', target, tenant_column, tenant_type) USING tenants[3 - i], tenants[i];
        GET DIAGNOSTICS seen = ROW_COUNT;
      EXCEPTION WHEN insufficient_privilege THEN
        NULL;
      END;
      IF seen > 0 THEN
        RAISE EXCEPTION USING ERRCODE = 'assert_failure',
          MESSAGE = pg_catalog.format('tenant "%s" can write rows of tenant "%s" to table "%s"', tenants[i], tenants[3 - i], target);
      END IF;
    END LOOP;
    PERFORM tally.authenticate_as(NULL, NULL, owner_name);
    BEGIN
      seen := NULL;
      EXECUTE pg_catalog.format('SELECT count(*) FROM %s', target) INTO seen;
    EXCEPTION WHEN insufficient_privilege THEN
      NULL;
    END;
    IF seen IS NOT NULL THEN
      RAISE EXCEPTION USING ERRCODE = 'assert_failure', MESSAGE = pg_catalog.format('table "%s" can be read without a scope', target);
    END IF;
    RAISE EXCEPTION USING ERRCODE = '55T03', MESSAGE = 'isolated';
  EXCEPTION WHEN SQLSTATE '55T03' THEN
    NULL;
  END;
END
$$;
COMMENT ON FUNCTION tally.assert_isolated(regclass, text, text) IS
  'for tests run by a superuser: raises an error unless, as the table''s owner, each of two tenants sees exactly its own rows and can neither remove nor write the other''s; changes nothing';

REVOKE ALL ON FUNCTION tally.authenticate_as(text, text, name), tally.assert_isolated(regclass, text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tally.authenticate_as(text, text, name) TO tally_owner, tally_reader, tally_writer;
