-- Scope: what the current transaction may see. Row security on every table reads it through these functions.

CREATE TABLE tally.role_binding (
  role_name   regrole NOT NULL CONSTRAINT role_binding_pkey PRIMARY KEY,
  tenant_id   text COLLATE "C",
  account_id  text COLLATE "C",
  needs_token boolean NOT NULL DEFAULT false,
  bound_as    name,
  is_global   boolean NOT NULL DEFAULT false,
  CONSTRAINT role_binding_account_needs_tenant CHECK (account_id IS NULL OR tenant_id IS NOT NULL),
  CONSTRAINT role_binding_token_names_the_tenant CHECK (NOT needs_token OR tenant_id IS NULL),
  CONSTRAINT role_binding_global_has_no_tenant CHECK (NOT is_global OR tenant_id IS NULL AND NOT needs_token)
);
ALTER TABLE tally.role_binding OWNER TO tally_security;
COMMENT ON TABLE tally.role_binding IS
  'roles with a scope of their own, for those that log in as them or as members of them; a row without a tenant is a pool role, which enters scopes by token, a role that reads every tenant (is_global), or else a trusted role, which may act for every tenant';
COMMENT ON COLUMN tally.role_binding.role_name IS 'the role that logs in (session_user), or a group of it';
COMMENT ON COLUMN tally.role_binding.tenant_id IS 'the only tenant the role may see; null for a trusted, pool or global role';
COMMENT ON COLUMN tally.role_binding.account_id IS 'the only account the role may see; null for the whole tenant';
COMMENT ON COLUMN tally.role_binding.needs_token IS 'whether it is a pool role, which enters a scope by signed token alone';
COMMENT ON COLUMN tally.role_binding.bound_as IS 'the role''s name when it was bound; the binding counts while the role has it still';
COMMENT ON COLUMN tally.role_binding.is_global IS 'whether it reads every tenant, from the start';
REVOKE ALL ON tally.role_binding FROM PUBLIC;
GRANT SELECT ON tally.role_binding TO tally_admin, tally_auditor;
-- A role that was dropped is printed as a number, which is another role's where the dump is restored.
SELECT pg_catalog.pg_extension_config_dump('tally.role_binding',
  'WHERE EXISTS (SELECT FROM pg_catalog.pg_roles AS r WHERE r.oid OPERATOR(pg_catalog.=) role_name::pg_catalog.oid AND r.rolname OPERATOR(pg_catalog.=) bound_as)');

CREATE FUNCTION tally_internal.name_binding() RETURNS trigger
  LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE CALLED ON NULL INPUT
  SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  IF TG_OP = 'UPDATE' OR NEW.bound_as IS NULL THEN
    NEW.bound_as := (SELECT r.rolname FROM pg_catalog.pg_roles AS r
                      WHERE r.oid OPERATOR(pg_catalog.=) NEW.role_name::pg_catalog.oid);
  END IF;
  RETURN NEW;
END
$$;
COMMENT ON FUNCTION tally_internal.name_binding() IS 'trigger: notes which name the role has that is bound';
REVOKE ALL ON FUNCTION tally_internal.name_binding() FROM PUBLIC;
CREATE TRIGGER role_binding_named BEFORE INSERT OR UPDATE OF role_name ON tally.role_binding
  FOR EACH ROW EXECUTE FUNCTION tally_internal.name_binding();
ALTER TABLE tally.role_binding ENABLE ALWAYS TRIGGER role_binding_named;

-- Backends remember bindings and limits; whatever changes one, also replication and a restore, makes them forget.
CREATE FUNCTION tally_internal.forget() RETURNS trigger
  LANGUAGE c VOLATILE PARALLEL UNSAFE CALLED ON NULL INPUT AS 'MODULE_PATHNAME', 'tally_forget';
COMMENT ON FUNCTION tally_internal.forget() IS
  'trigger: tells every session, at commit, to forget what it knows of the table';
REVOKE ALL ON FUNCTION tally_internal.forget() FROM PUBLIC;
CREATE TRIGGER role_binding_changed AFTER INSERT OR UPDATE OR DELETE ON tally.role_binding
  FOR EACH ROW EXECUTE FUNCTION tally_internal.forget();
CREATE TRIGGER role_binding_emptied AFTER TRUNCATE ON tally.role_binding
  FOR EACH STATEMENT EXECUTE FUNCTION tally_internal.forget();
ALTER TABLE tally.role_binding ENABLE ALWAYS TRIGGER role_binding_changed, ENABLE ALWAYS TRIGGER role_binding_emptied;

CREATE FUNCTION tally.current_tenant() RETURNS text
  LANGUAGE c STABLE PARALLEL SAFE STRICT AS 'MODULE_PATHNAME', 'current_tenant_wrapper';
COMMENT ON FUNCTION tally.current_tenant() IS
  'the tenant in scope, null in the global scope; error 42501 where there is no scope';

CREATE FUNCTION tally.current_account() RETURNS text
  LANGUAGE c STABLE PARALLEL SAFE STRICT AS 'MODULE_PATHNAME', 'current_account_wrapper';
COMMENT ON FUNCTION tally.current_account() IS
  'the account in scope, null where the scope is a whole tenant or global; error 42501 where there is no scope';

CREATE FUNCTION tally.scope_is_global() RETURNS boolean
  LANGUAGE c STABLE PARALLEL SAFE STRICT AS 'MODULE_PATHNAME', 'scope_is_global_wrapper';
COMMENT ON FUNCTION tally.scope_is_global() IS
  'whether the scope is global; error 42501 where there is no scope';

CREATE FUNCTION tally.scope_key() RETURNS text
  LANGUAGE c STABLE PARALLEL SAFE STRICT AS 'MODULE_PATHNAME', 'scope_key_wrapper';
COMMENT ON FUNCTION tally.scope_key() IS
  'the scope as one text, which row security gives to tally.in_scope(); error 42501 where there is none';

-- Pure functions of their arguments: what changes with the scope is the key, which every query reads anew.
CREATE FUNCTION tally_internal.in_scope_support(request internal) RETURNS internal
  LANGUAGE c STABLE PARALLEL SAFE STRICT AS 'MODULE_PATHNAME', 'tally_in_scope_support';
COMMENT ON FUNCTION tally_internal.in_scope_support(internal) IS
  'tells the planner how many rows tally.in_scope() keeps, and which range of an index has them';

CREATE FUNCTION tally.in_scope(tenant_id text, account_id text, scope_key text) RETURNS boolean
  LANGUAGE c IMMUTABLE PARALLEL SAFE STRICT SUPPORT tally_internal.in_scope_support AS 'MODULE_PATHNAME', 'tally_account_in_scope';
COMMENT ON FUNCTION tally.in_scope(text, text, text) IS
  'whether a row of this tenant and account is in the scope that has this key (tally.scope_key())';

CREATE FUNCTION tally.in_scope(tenant_id text, scope_key text) RETURNS boolean
  LANGUAGE c IMMUTABLE PARALLEL SAFE STRICT SUPPORT tally_internal.in_scope_support AS 'MODULE_PATHNAME', 'tally_tenant_in_scope';
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

CREATE FUNCTION tally_internal.confined_to() RETURNS text
  LANGUAGE c STABLE PARALLEL SAFE STRICT AS 'MODULE_PATHNAME', 'confined_to_wrapper';
COMMENT ON FUNCTION tally_internal.confined_to() IS
  'the tenant beyond which the session sees nothing, by its scope or by its login; null where neither confines it; error 42501 for a pool role without a scope';

-- Ids of other types than text: only the spelling that Postgres itself would print stands for a value, or two different
-- tenants would share rows.
CREATE FUNCTION tally.id_as_uuid(id text) RETURNS uuid
  LANGUAGE c IMMUTABLE PARALLEL SAFE STRICT AS 'MODULE_PATHNAME', 'id_as_uuid_wrapper';
COMMENT ON FUNCTION tally.id_as_uuid(text) IS
  'an id as the uuid that is printed so; null where none is';

CREATE FUNCTION tally.id_as_int8(id text) RETURNS int8
  LANGUAGE c IMMUTABLE PARALLEL SAFE STRICT AS 'MODULE_PATHNAME', 'id_as_int8_wrapper';
COMMENT ON FUNCTION tally.id_as_int8(text) IS
  'an id as the integer that is printed so; null where none is';

CREATE FUNCTION tally.current_scope(OUT kind text, OUT tenant_id text, OUT account_id text) RETURNS record
  LANGUAGE sql STABLE PARALLEL SAFE STRICT
  SET search_path = pg_catalog, pg_temp
  BEGIN ATOMIC
    SELECT CASE WHEN tally.scope_is_global() THEN 'global'
                WHEN tally.current_account() IS NULL THEN 'tenant'
                ELSE 'account' END,
           tally.current_tenant(), tally.current_account();
  END;
COMMENT ON FUNCTION tally.current_scope() IS
  'the scope in words: account, tenant or global, with its ids; error 42501 where there is none';

CREATE FUNCTION tally.enter(tenant_id text, account_id text DEFAULT NULL) RETURNS void
  LANGUAGE c VOLATILE PARALLEL UNSAFE CALLED ON NULL INPUT AS 'MODULE_PATHNAME', 'enter_wrapper';
COMMENT ON FUNCTION tally.enter(text, text) IS
  'puts the rest of the transaction in the scope of a tenant or one of its accounts; for trusted roles, and for bound roles that narrow their own tenant to an account
(tenant_id text): of a pool role, tenant_id is a signed token: puts the rest of the transaction in the scope that it names, which answers tally.challenge(); for pool roles, which enter no other way';

CREATE FUNCTION tally.enter_global() RETURNS void
  LANGUAGE c VOLATILE PARALLEL UNSAFE STRICT AS 'MODULE_PATHNAME', 'enter_global_wrapper';
COMMENT ON FUNCTION tally.enter_global() IS
  'puts the rest of the transaction in the global scope: every tenant; for members of tally_analyst that are not bound to a tenant';

CREATE FUNCTION tally.bind_role(role_name regrole, tenant_id text, account_id text DEFAULT NULL) RETURNS void
  LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE CALLED ON NULL INPUT SECURITY DEFINER
  SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  bound_as name;
BEGIN
  PERFORM tally_internal.require_step_up('binding');
  IF bind_role.role_name IS NULL OR bind_role.tenant_id IS NULL THEN
    RAISE EXCEPTION USING ERRCODE = 'null_value_not_allowed',
      MESSAGE = 'role_name and tenant_id must not be null',
      HINT = 'tally.trust_role(role) is for a role that acts for every tenant, tally.bind_role(role, scope => ''global'') for one that reads every tenant';
  END IF;
  PERFORM tally_internal.check_id('tenant_id', bind_role.tenant_id), tally_internal.check_id('account_id', bind_role.account_id);
  bound_as := tally_internal.check_bindable(bind_role.role_name);
  INSERT INTO tally.role_binding AS b (role_name, tenant_id, account_id, bound_as)
  VALUES (bind_role.role_name, bind_role.tenant_id, bind_role.account_id, bound_as)
  ON CONFLICT ON CONSTRAINT role_binding_pkey
  DO UPDATE SET tenant_id = excluded.tenant_id, account_id = excluded.account_id, needs_token = false,
    bound_as = excluded.bound_as, is_global = false;
END
$$;
COMMENT ON FUNCTION tally.bind_role(regrole, text, text) IS
  'binds a role, and the members of a group role, to one tenant, or to one of its accounts; replaces an earlier binding';

CREATE TYPE tally.scope_kind AS ENUM ('global');
COMMENT ON TYPE tally.scope_kind IS 'a scope that a role can be bound to without a tenant';

CREATE FUNCTION tally.bind_role(role_name regrole, scope tally.scope_kind) RETURNS void
  LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE CALLED ON NULL INPUT SECURITY DEFINER
  SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  bound_as name := tally_internal.check_bindable(bind_role.role_name);
BEGIN
  IF bind_role.scope IS NULL THEN
    RAISE EXCEPTION USING ERRCODE = 'null_value_not_allowed', MESSAGE = 'scope must not be null',
      HINT = 'tally.bind_role(role, scope => ''global'') is for a role that reads every tenant, tally.bind_role(role, tenant) for one that reads one tenant';
  END IF;
  PERFORM tally_internal.require_step_up('binding');
  IF NOT pg_catalog.pg_has_role(bind_role.role_name::pg_catalog.oid, 'tally_analyst', 'USAGE') THEN
    RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
      MESSAGE = pg_catalog.format('role %s may not read every tenant', bind_role.role_name),
      HINT = pg_catalog.format('GRANT tally_analyst TO %s; first', bind_role.role_name);
  END IF;
  INSERT INTO tally.role_binding AS b (role_name, bound_as, is_global) VALUES (bind_role.role_name, bound_as, true)
  ON CONFLICT ON CONSTRAINT role_binding_pkey
  DO UPDATE SET tenant_id = NULL, account_id = NULL, needs_token = false, bound_as = excluded.bound_as, is_global = true;
END
$$;
COMMENT ON FUNCTION tally.bind_role(regrole, tally.scope_kind) IS
  'has a role, and the members of a group role, read every tenant from the start, in single statements, too; for members of tally_analyst; replaces an earlier binding';

CREATE FUNCTION tally.trust_role(role_name regrole) RETURNS void
  LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE CALLED ON NULL INPUT SECURITY DEFINER
  SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  bound_as name := tally_internal.check_bindable(trust_role.role_name);
BEGIN
  PERFORM tally_internal.require_step_up('binding');
  INSERT INTO tally.role_binding AS b (role_name, tenant_id, account_id, bound_as)
  VALUES (trust_role.role_name, NULL, NULL, bound_as)
  ON CONFLICT ON CONSTRAINT role_binding_pkey
  DO UPDATE SET tenant_id = NULL, account_id = NULL, needs_token = false, bound_as = excluded.bound_as, is_global = false;
END
$$;
COMMENT ON FUNCTION tally.trust_role(regrole) IS
  'lets a role, and the members of a group role, act for every tenant: enter any tenant''s scope, and ingest for any tenant without entering one';

CREATE FUNCTION tally.unbind_role(role_name regrole) RETURNS boolean
  LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE CALLED ON NULL INPUT SECURITY DEFINER
  SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  IF unbind_role.role_name IS NULL THEN
    RAISE EXCEPTION USING ERRCODE = 'null_value_not_allowed', MESSAGE = 'role_name must not be null',
      HINT = 'tally.role_binding lists the roles that are bound';
  END IF;
  PERFORM tally_internal.require_step_up('binding');
  DELETE FROM tally.role_binding AS b WHERE b.role_name OPERATOR(pg_catalog.=) unbind_role.role_name;
  RETURN FOUND;
END
$$;
COMMENT ON FUNCTION tally.unbind_role(regrole) IS
  'removes a role''s binding, trust or need of tokens; says whether there was one';

CREATE FUNCTION tally_internal.check_bindable(role_name regrole) RETURNS name
  LANGUAGE plpgsql STABLE PARALLEL SAFE CALLED ON NULL INPUT
  SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  seen record;
BEGIN
  IF check_bindable.role_name IS NULL THEN
    RAISE EXCEPTION USING ERRCODE = 'null_value_not_allowed', MESSAGE = 'role_name must not be null',
      HINT = 'name a role; pg_roles lists those that there are';
  END IF;
  SELECT r.rolname, r.rolsuper OR r.rolbypassrls AS bypasses,
         NOT r.rolcanlogin AND r.rolname::text OPERATOR(pg_catalog.~) '^(tally|pg)_' AS is_own
    INTO seen FROM pg_catalog.pg_roles AS r
   WHERE r.oid OPERATOR(pg_catalog.=) check_bindable.role_name::pg_catalog.oid;
  IF NOT FOUND THEN
    RAISE EXCEPTION USING ERRCODE = 'undefined_object',
      MESSAGE = pg_catalog.format('role %s does not exist', check_bindable.role_name),
      HINT = 'CREATE ROLE makes it; pg_roles lists those that there are';
  END IF;
  IF seen.bypasses THEN
    RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
      MESSAGE = pg_catalog.format('role %s bypasses row security', check_bindable.role_name),
      HINT = 'a binding holds only for roles that are neither SUPERUSER nor BYPASSRLS';
  END IF;
  IF seen.is_own THEN
    RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
      MESSAGE = pg_catalog.format('role %s can''t be bound', check_bindable.role_name),
      HINT = 'members of a bound role inherit its binding: bind a login, or a group role of your own, whose name doesn''t begin with tally_';
  END IF;
  RETURN seen.rolname;
END
$$;
COMMENT ON FUNCTION tally_internal.check_bindable(regrole) IS
  'the role''s name; an error for a role that does not exist, bypasses row security, or is one of pg_tally''s or Postgres'' own';

CREATE FUNCTION tally_internal.check_id(field text, value text) RETURNS void
  LANGUAGE c IMMUTABLE PARALLEL SAFE STRICT AS 'MODULE_PATHNAME', 'check_id_wrapper';
COMMENT ON FUNCTION tally_internal.check_id(text, text) IS
  'raises an error unless the value is an id: 1 to 200 bytes without control characters';

CREATE FUNCTION tally_internal.check_words(field text, value text) RETURNS void
  LANGUAGE c IMMUTABLE PARALLEL SAFE STRICT AS 'MODULE_PATHNAME', 'check_words_wrapper';
COMMENT ON FUNCTION tally_internal.check_words(text, text) IS
  'raises an error where what somebody wrote, such as a reason, is longer than 2,000 bytes: it has to fit into an entry of the audit log';

CREATE FUNCTION tally_internal.visible_characters(text text) RETURNS int4
  LANGUAGE c IMMUTABLE PARALLEL SAFE STRICT AS 'MODULE_PATHNAME', 'visible_characters_wrapper';
COMMENT ON FUNCTION tally_internal.visible_characters(text) IS
  'how many characters of a purpose or a reason show something: white space of any kind, and characters that take no place, say nothing';

ALTER FUNCTION tally.bind_role(regrole, text, text) OWNER TO tally_security;
ALTER FUNCTION tally.bind_role(regrole, tally.scope_kind) OWNER TO tally_security;
ALTER FUNCTION tally.trust_role(regrole) OWNER TO tally_security;
ALTER FUNCTION tally.unbind_role(regrole) OWNER TO tally_security;

REVOKE ALL ON FUNCTION tally.current_tenant(), tally.current_account(), tally.scope_is_global(),
  tally.scope_key(), tally_internal.in_scope_support(internal), tally.in_scope(text, text, text), tally.in_scope(text, text),
  tally.first_account(text), tally.last_account(text), tally.current_scope(),
  tally_internal.confined_to(), tally.id_as_uuid(text), tally.id_as_int8(text),
  tally.enter(text, text), tally.enter_global(), tally.bind_role(regrole, text, text), tally.bind_role(regrole, tally.scope_kind),
  tally.trust_role(regrole), tally.unbind_role(regrole), tally_internal.check_bindable(regrole),
  tally_internal.check_id(text, text), tally_internal.check_words(text, text), tally_internal.visible_characters(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tally_internal.check_bindable(regrole), tally_internal.check_id(text, text), tally_internal.check_words(text, text), tally_internal.visible_characters(text) TO tally_owner, tally_security;
GRANT EXECUTE ON FUNCTION tally.current_tenant(), tally.current_account(), tally.scope_is_global(),
  tally.scope_key(), tally.in_scope(text, text, text), tally.in_scope(text, text),
  tally.first_account(text), tally.last_account(text), tally.current_scope(),
  tally.id_as_uuid(text), tally.id_as_int8(text),
  tally.enter(text, text), tally.enter_global() TO tally_owner, tally_reader, tally_writer;
GRANT EXECUTE ON FUNCTION tally_internal.confined_to() TO tally_owner, tally_reader, tally_writer, tally_auditor;
GRANT EXECUTE ON FUNCTION tally.bind_role(regrole, text, text), tally.bind_role(regrole, tally.scope_kind), tally.trust_role(regrole),
  tally.unbind_role(regrole) TO tally_admin;

-- Records of administration by tenant: auditors read those of every tenant without a scope, everybody else as any table with tenant rows.
CREATE FUNCTION tally_internal.record_tenant() RETURNS text
  LANGUAGE c STABLE PARALLEL SAFE STRICT AS 'MODULE_PATHNAME', 'record_tenant_wrapper';
COMMENT ON FUNCTION tally_internal.record_tenant() IS
  'as tally.current_tenant(), and null for an auditor who is in no scope and bound to no tenant';

CREATE FUNCTION tally_internal.record_account() RETURNS text
  LANGUAGE c STABLE PARALLEL SAFE STRICT AS 'MODULE_PATHNAME', 'record_account_wrapper';
COMMENT ON FUNCTION tally_internal.record_account() IS
  'as tally.current_account(), and null for an auditor who is in no scope and bound to no tenant';

CREATE FUNCTION tally_internal.record_is_global() RETURNS boolean
  LANGUAGE c STABLE PARALLEL SAFE STRICT AS 'MODULE_PATHNAME', 'record_is_global_wrapper';
COMMENT ON FUNCTION tally_internal.record_is_global() IS
  'as tally.scope_is_global(), and true for an auditor who is in no scope and bound to no tenant';

CREATE FUNCTION tally_internal.record_key() RETURNS text
  LANGUAGE c STABLE PARALLEL SAFE STRICT AS 'MODULE_PATHNAME', 'record_key_wrapper';
COMMENT ON FUNCTION tally_internal.record_key() IS
  'as tally.scope_key(), and that of everything for an auditor who is in no scope and bound to no tenant';

CREATE FUNCTION tally_internal.is_record(target regclass) RETURNS boolean
  LANGUAGE c STABLE PARALLEL SAFE STRICT AS 'MODULE_PATHNAME', 'is_record_wrapper';
COMMENT ON FUNCTION tally_internal.is_record(regclass) IS 'whether a table has records of administration by tenant, which auditors read without a scope';

CREATE FUNCTION tally_internal.asked_of(target regclass, condition text) RETURNS text
  LANGUAGE sql STABLE PARALLEL SAFE STRICT
  SET search_path = pg_catalog, pg_temp
  BEGIN ATOMIC
    SELECT CASE WHEN tally_internal.is_record(target)
                THEN pg_catalog.regexp_replace(pg_catalog.regexp_replace(condition,
                       $re$tally\.(?:current|scope)_(\w+)\(\) AS \w+$re$, $re$tally_internal.record_\1() AS record_\1$re$, 'g'),
                       $re$tally\.(?:current|scope)_(\w+)\(\)$re$, $re$tally_internal.record_\1()$re$, 'g')
                ELSE condition END;
  END;
COMMENT ON FUNCTION tally_internal.asked_of(regclass, text) IS
  'the condition of a policy, which asks for the scope, as a table has it: of records of administration, for the scope that those are read in';

REVOKE ALL ON FUNCTION tally_internal.record_tenant(), tally_internal.record_account(), tally_internal.record_is_global(), tally_internal.record_key(),
  tally_internal.is_record(regclass), tally_internal.asked_of(regclass, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tally_internal.record_tenant(), tally_internal.record_account(), tally_internal.record_is_global(), tally_internal.record_key()
  TO tally_owner, tally_reader, tally_writer, tally_auditor;
GRANT EXECUTE ON FUNCTION tally_internal.is_record(regclass), tally_internal.asked_of(regclass, text) TO tally_owner, tally_reader, tally_writer, tally_auditor;
GRANT EXECUTE ON FUNCTION tally.in_scope(text, text) TO tally_auditor;

-- Every table with tenant rows gets these policies, in the transaction that creates it.
-- The permissive policies open, the restrictive one closes: a permissive policy added later can't widen the scope.
-- The permissive one compares the tenant in SQL, where an index serves it; the restrictive one compares the whole scope.
CREATE FUNCTION tally_internal.secure_table(target regclass) RETURNS void
  LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE STRICT
  SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  -- A table without accounts is a whole tenant's to read. The elevated functions write to it in any scope.
  guard text := 'tally.in_scope(tenant_id, (SELECT tally.scope_key())) '
    'AND ((SELECT tally.current_account()) IS NULL OR CURRENT_USER OPERATOR(pg_catalog.=) ANY (''{tally_owner,tally_security}''::pg_catalog.name[]))';
  stranger text;
BEGIN
  -- What default privileges have given; what is meant is granted afterwards.
  FOR stranger IN
    SELECT DISTINCT CASE WHEN a.grantee OPERATOR(pg_catalog.=) 0 THEN 'PUBLIC' ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(a.grantee)) END
      FROM pg_catalog.pg_class AS c, pg_catalog.aclexplode(c.relacl) AS a
     WHERE c.oid OPERATOR(pg_catalog.=) target::pg_catalog.oid AND a.grantee OPERATOR(pg_catalog.<>) c.relowner
  LOOP
    EXECUTE pg_catalog.format('REVOKE ALL ON %s FROM %s CASCADE', target, stranger);
  END LOOP;
  IF EXISTS (SELECT FROM pg_catalog.pg_attribute AS a
              WHERE a.attrelid OPERATOR(pg_catalog.=) target::pg_catalog.oid
                AND a.attname OPERATOR(pg_catalog.=) 'account_id' AND NOT a.attisdropped) THEN
    guard := 'tally.in_scope(tenant_id, account_id, (SELECT tally.scope_key()))';
  END IF;
  EXECUTE pg_catalog.format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY', target);
  EXECUTE tally_internal.asked_of(target, pg_catalog.format('CREATE POLICY tally_tenant ON %s TO PUBLIC '
    'USING (tenant_id OPERATOR(pg_catalog.=) (SELECT tally.current_tenant())) '
    'WITH CHECK (tenant_id OPERATOR(pg_catalog.=) (SELECT tally.current_tenant()))', target));
  EXECUTE tally_internal.asked_of(target, pg_catalog.format('CREATE POLICY tally_global ON %s TO tally_analyst, tally_owner%s '
    'USING ((SELECT tally.scope_is_global())) WITH CHECK ((SELECT tally.scope_is_global()))', target,
    CASE WHEN tally_internal.is_record(target) THEN ', tally_auditor' END));
  EXECUTE tally_internal.asked_of(target, pg_catalog.format('CREATE POLICY tally_guard ON %s AS RESTRICTIVE TO PUBLIC USING (%s) WITH CHECK (%s)',
    target, guard, guard));
END
$$;
COMMENT ON FUNCTION tally_internal.secure_table(regclass) IS
  'enables and forces row security on one of pg_tally''s own tables creates its policies, and revokes what default privileges gave on it; one without accounts shows nothing in the scope of an account';
REVOKE ALL ON FUNCTION tally_internal.secure_table(regclass) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tally_internal.secure_table(regclass) TO tally_owner;
