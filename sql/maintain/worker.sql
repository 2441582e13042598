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
