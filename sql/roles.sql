-- Roles and the schema. Roles belong to the cluster, so another database may have made them already.

-- From here to the end of the script: nobody's objects but Postgres' own can be meant by a name or an operator.
SET LOCAL search_path = pg_catalog, pg_temp;

DO $$
DECLARE
  wanted name;
  seen   record;
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

  FOREACH wanted IN ARRAY ARRAY['tally_owner', 'tally_admin', 'tally_writer', 'tally_reader',
                                'tally_analyst', 'tally_auditor']::pg_catalog.name[]
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
END
$$;

COMMENT ON ROLE tally_owner IS 'owns pg_tally''s tables; nobody logs in as it';
COMMENT ON ROLE tally_admin IS 'declares rollups, binds roles, runs maintenance; may enter any scope';
COMMENT ON ROLE tally_writer IS 'may call the ingest functions';
COMMENT ON ROLE tally_reader IS 'may read events and rollups inside its scope';
COMMENT ON ROLE tally_analyst IS 'may enter the global scope and read across tenants';
COMMENT ON ROLE tally_auditor IS 'may read the records of who did what';

GRANT tally_reader TO tally_analyst;
GRANT tally_analyst, tally_writer, tally_auditor TO tally_admin;

REVOKE ALL ON SCHEMA tally FROM PUBLIC;
GRANT USAGE ON SCHEMA tally TO PUBLIC;
GRANT USAGE, CREATE ON SCHEMA tally TO tally_owner;
COMMENT ON SCHEMA tally IS 'pg_tally: events, rollups and metrics by tenant and account';
