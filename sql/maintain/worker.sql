-- The background worker and the library (src/worker.rs), as SQL sees them.

CREATE FUNCTION tally.library_version() RETURNS text
  LANGUAGE c STABLE PARALLEL SAFE STRICT AS 'MODULE_PATHNAME', 'library_version_wrapper';
COMMENT ON FUNCTION tally.library_version() IS
  'version of the library that this session has loaded; pg_extension has that of the SQL objects, which ALTER EXTENSION pg_tally UPDATE brings up to it';

CREATE FUNCTION tally_internal.worker_is_configured() RETURNS boolean
  LANGUAGE c STABLE PARALLEL SAFE STRICT AS 'MODULE_PATHNAME', 'worker_is_configured_wrapper';
COMMENT ON FUNCTION tally_internal.worker_is_configured() IS 'whether tally.worker_databases lists this database and the library was preloaded';

REVOKE ALL ON FUNCTION tally.library_version(), tally_internal.worker_is_configured() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tally.library_version(), tally_internal.worker_is_configured() TO tally_reader;

CREATE FUNCTION tally_internal.health_version()
  RETURNS TABLE (place int4, component text, status text, value float8, "limit" float8, advice text)
  LANGUAGE plpgsql STABLE PARALLEL UNSAFE STRICT
  SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  place := 12;
  component := 'version';
  value := (SELECT count(*) FROM pg_extension AS e WHERE e.extname = 'pg_tally' AND e.extversion <> tally.library_version());
  "limit" := 0;
  status := CASE WHEN value > 0 THEN 'warning' ELSE 'ok' END;
  advice := CASE WHEN value > 0 THEN (SELECT format('the library is version %s, the database has %s: ALTER EXTENSION pg_tally UPDATE', tally.library_version(), e.extversion)
                                        FROM pg_extension AS e WHERE e.extname = 'pg_tally') END;
  RETURN NEXT;
END
$$;
COMMENT ON FUNCTION tally_internal.health_version() IS 'part of tally.health(): whether the library and the SQL objects are of one version';
REVOKE ALL ON FUNCTION tally_internal.health_version() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tally_internal.health_version() TO tally_admin;
