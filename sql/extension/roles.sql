-- Roles and the schemas. Roles belong to the cluster, so another database may have made them already.

-- From here to the end of the script: nobody's objects but Postgres' own can be meant by a name or an operator.
SET LOCAL search_path = pg_catalog, pg_temp;
-- Ingest writes below the executor, into heaps.
SET LOCAL default_table_access_method = heap;
-- What is stored of a function's SET clauses depends on it.
SET LOCAL quote_all_identifiers = off;

-- upgrade: skip
DO $$
DECLARE
  seen record;
BEGIN
  IF pg_catalog.current_setting('server_encoding') OPERATOR(pg_catalog.<>) 'UTF8' THEN
    RAISE EXCEPTION USING ERRCODE = 'feature_not_supported',
      MESSAGE = 'pg_tally needs a database with server encoding UTF8',
      HINT = 'create the database with ENCODING ''UTF8''';
  END IF;

  SELECT r.rolname, r.rolsuper INTO STRICT seen
    FROM pg_catalog.pg_namespace AS n
    JOIN pg_catalog.pg_roles AS r ON r.oid OPERATOR(pg_catalog.=) n.nspowner
   WHERE n.nspname OPERATOR(pg_catalog.=) 'tally';
  IF NOT seen.rolsuper THEN
    RAISE EXCEPTION USING ERRCODE = 'insufficient_privilege',
      MESSAGE = pg_catalog.format('schema "tally" already exists and belongs to role "%s"', seen.rolname),
      HINT = 'drop or rename that schema: whoever owns it could replace what pg_tally puts there';
  END IF;
  IF EXISTS (SELECT FROM pg_catalog.pg_class AS c
              WHERE c.relnamespace OPERATOR(pg_catalog.=) 'tally'::pg_catalog.regnamespace::pg_catalog.oid) THEN
    RAISE EXCEPTION USING ERRCODE = 'duplicate_object', MESSAGE = 'schema "tally" is not empty';
  END IF;

  -- Of what such defaults give to a role that is meant to have something, nobody could say afterwards which is which.
  SELECT d.defaclrole::pg_catalog.regrole AS maker, r.rolname INTO seen
    FROM pg_catalog.pg_default_acl AS d, pg_catalog.aclexplode(d.defaclacl) AS a, pg_catalog.pg_roles AS r
   WHERE r.oid OPERATOR(pg_catalog.=) a.grantee AND d.defaclrole OPERATOR(pg_catalog.<>) a.grantee
     AND d.defaclrole OPERATOR(pg_catalog.=) pg_catalog.quote_ident(current_user)::pg_catalog.regrole::pg_catalog.oid
     AND (d.defaclnamespace OPERATOR(pg_catalog.=) 0 OR d.defaclnamespace OPERATOR(pg_catalog.=) 'tally'::pg_catalog.regnamespace::pg_catalog.oid)
     AND r.rolname OPERATOR(pg_catalog.=) ANY (ARRAY['tally_owner', 'tally_security', 'tally_evaluator', 'tally_admin', 'tally_writer',
           'tally_reader', 'tally_analyst', 'tally_auditor', 'tally_custodian']::pg_catalog.name[])
   LIMIT 1;
  IF FOUND THEN
    RAISE EXCEPTION USING ERRCODE = 'insufficient_privilege',
      MESSAGE = pg_catalog.format('default privileges of %s give something to role "%s"', seen.maker, seen.rolname),
      HINT = 'ALTER DEFAULT PRIVILEGES ... REVOKE it: pg_tally grants its roles what they are to have';
  END IF;

  -- An elevated function that was given to such a role while somebody was its member would have its rights for ever.
  SELECT r.rolname, pg_catalog.pg_describe_object(d.classid, d.objid, d.objsubid) AS thing INTO seen
    FROM pg_catalog.pg_roles AS r
    JOIN pg_catalog.pg_shdepend AS d ON d.refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_authid'::pg_catalog.regclass::pg_catalog.oid
     AND d.refobjid OPERATOR(pg_catalog.=) r.oid AND d.deptype OPERATOR(pg_catalog.=) 'o'
     AND (d.dbid OPERATOR(pg_catalog.=) 0 OR d.dbid OPERATOR(pg_catalog.=)
          (SELECT o.oid FROM pg_catalog.pg_database AS o WHERE o.datname OPERATOR(pg_catalog.=) pg_catalog.current_database()))
     AND d.classid OPERATOR(pg_catalog.<>) 'pg_catalog.pg_default_acl'::pg_catalog.regclass::pg_catalog.oid
   WHERE r.rolname OPERATOR(pg_catalog.=) ANY (ARRAY['tally_owner', 'tally_security', 'tally_evaluator']::pg_catalog.name[])
   LIMIT 1;
  IF FOUND THEN
    RAISE EXCEPTION USING ERRCODE = 'insufficient_privilege',
      MESSAGE = pg_catalog.format('role "%s" already owns %s', seen.rolname, seen.thing),
      HINT = 'give it to another role, or drop it: what belongs to this role has its rights';
  END IF;
END
$$;

DO $$
DECLARE
  wanted pg_catalog.name;
  -- Nobody is a member of these: members have the rights of the tables' owners, or may alter what runs as one of them.
  inner_roles CONSTANT pg_catalog.name[] := ARRAY['tally_owner', 'tally_security', 'tally_evaluator'];
  seen   record;
BEGIN
  FOREACH wanted IN ARRAY inner_roles OPERATOR(pg_catalog.||) ARRAY['tally_admin', 'tally_writer', 'tally_reader',
                                                                    'tally_analyst', 'tally_auditor', 'tally_custodian']::pg_catalog.name[]
  LOOP
    SELECT r.rolcanlogin, r.rolsuper, r.rolbypassrls, r.rolcreaterole INTO seen
      FROM pg_catalog.pg_roles AS r WHERE r.rolname OPERATOR(pg_catalog.=) wanted;
    IF NOT FOUND THEN
      EXECUTE pg_catalog.format('CREATE ROLE %I NOLOGIN', wanted);
    ELSIF seen.rolcanlogin OR seen.rolsuper OR seen.rolbypassrls OR seen.rolcreaterole THEN
      RAISE EXCEPTION USING ERRCODE = 'insufficient_privilege',
        MESSAGE = pg_catalog.format('role "%s" exists with LOGIN, SUPERUSER, BYPASSRLS or CREATEROLE', wanted),
        HINT = 'pg_tally''s group roles must have none of these attributes';
    END IF;
  END LOOP;

  SELECT g.rolname, m.rolname AS member INTO seen
    FROM pg_catalog.pg_auth_members AS a
    JOIN pg_catalog.pg_roles AS g ON g.oid OPERATOR(pg_catalog.=) a.roleid
    JOIN pg_catalog.pg_roles AS m ON m.oid OPERATOR(pg_catalog.=) a.member
   WHERE g.rolname OPERATOR(pg_catalog.=) ANY (inner_roles) AND NOT m.rolsuper
   LIMIT 1;
  IF FOUND THEN
    RAISE EXCEPTION USING ERRCODE = 'insufficient_privilege',
      MESSAGE = pg_catalog.format('role "%s" is a member of "%s"', seen.member, seen.rolname),
      HINT = pg_catalog.format('REVOKE %I FROM %I; then make sure that the member left nothing behind', seen.rolname, seen.member);
  END IF;
  SELECT g.rolname, m.rolname AS member INTO seen
    FROM pg_catalog.pg_auth_members AS a
    JOIN pg_catalog.pg_roles AS g ON g.oid OPERATOR(pg_catalog.=) a.roleid
    JOIN pg_catalog.pg_roles AS m ON m.oid OPERATOR(pg_catalog.=) a.member
   WHERE m.rolname OPERATOR(pg_catalog.=) ANY (inner_roles)
   LIMIT 1;
  IF FOUND THEN
    RAISE EXCEPTION USING ERRCODE = 'insufficient_privilege',
      MESSAGE = pg_catalog.format('role "%s" is a member of "%s"', seen.member, seen.rolname),
      HINT = pg_catalog.format('REVOKE %I FROM %I;', seen.rolname, seen.member);
  END IF;
END
$$;

COMMENT ON ROLE tally_owner IS 'owns pg_tally''s tables; nobody logs in as it';
COMMENT ON ROLE tally_security IS 'owns the bindings of roles, the keys of tokens and of sketches, and the functions that write them; nobody logs in as it';
COMMENT ON ROLE tally_evaluator IS 'the role that declared expressions are evaluated as; owns nothing, and needs USAGE and EXECUTE of what they call';
COMMENT ON ROLE tally_admin IS 'declares rollups, binds roles, runs maintenance; may enter any scope';
COMMENT ON ROLE tally_writer IS 'may call the ingest functions';
COMMENT ON ROLE tally_reader IS 'may read events and rollups inside its scope';
COMMENT ON ROLE tally_analyst IS 'may enter the global scope and read across tenants';
COMMENT ON ROLE tally_auditor IS 'may read the records of who did what';
COMMENT ON ROLE tally_custodian IS 'may have sealed values of a tenant in scope revealed';

GRANT tally_reader TO tally_analyst;
GRANT tally_analyst, tally_writer, tally_auditor TO tally_admin;

REVOKE ALL ON SCHEMA tally FROM PUBLIC;
-- upgrade: skip
DO $$
DECLARE
  given record;
BEGIN
  -- Whoever made the schema before, or its default privileges, may have granted something on it.
  FOR given IN
    SELECT DISTINCT pg_catalog.pg_get_userbyid(a.grantee) AS who
      FROM pg_catalog.pg_namespace AS n, pg_catalog.aclexplode(n.nspacl) AS a
     WHERE n.nspname OPERATOR(pg_catalog.=) 'tally' AND a.grantee OPERATOR(pg_catalog.<>) n.nspowner AND a.grantee OPERATOR(pg_catalog.<>) 0
  LOOP
    EXECUTE pg_catalog.format('REVOKE ALL ON SCHEMA tally FROM %I CASCADE', given.who);
  END LOOP;
END
$$;
GRANT USAGE ON SCHEMA tally TO PUBLIC;
GRANT USAGE, CREATE ON SCHEMA tally TO tally_owner;
COMMENT ON SCHEMA tally IS 'pg_tally: events, rollups and metrics by tenant and account';

-- What only our own SQL and the library call. It is made here, and by nobody before.
DO $$
BEGIN
  IF pg_catalog.to_regnamespace('tally_internal') IS NOT NULL THEN
    RAISE EXCEPTION USING ERRCODE = 'duplicate_schema', MESSAGE = 'schema "tally_internal" already exists',
      HINT = 'drop or rename that schema: whoever owns it could replace what pg_tally puts there';
  END IF;
END
$$;
CREATE SCHEMA tally_internal;
REVOKE ALL ON SCHEMA tally_internal FROM PUBLIC;
-- Names in functions are looked up as their caller, or as their owner. tally_evaluator is not among them: what declared
-- expressions call is in schema tally.
GRANT USAGE ON SCHEMA tally_internal TO tally_owner, tally_security, tally_reader, tally_writer, tally_auditor, tally_custodian;
COMMENT ON SCHEMA tally_internal IS 'parts of pg_tally that nothing but pg_tally calls: they change without notice';
