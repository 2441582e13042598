-- database: empty
-- The extension installs by its plain name, in its own schema, in the version that the control file promises; it
-- cannot be installed twice or moved; dropped, it leaves no object behind, and can be installed again.
SELECT (SELECT count(*) FROM pg_class) AS classes, (SELECT count(*) FROM pg_proc) AS functions,
       (SELECT count(*) FROM pg_type) AS types, (SELECT count(*) FROM pg_operator) AS operators,
       (SELECT count(*) FROM pg_policy) AS policies, (SELECT count(*) FROM pg_event_trigger) AS triggers \gset
CREATE EXTENSION pg_tally;
SELECT e.extversion = v.default_version AS is_default_version, n.nspname, e.extrelocatable
  FROM pg_extension e
  JOIN pg_available_extensions v ON v.name = e.extname
  JOIN pg_namespace n ON n.oid = e.extnamespace
 WHERE e.extname = 'pg_tally';
\set VERBOSITY sqlstate
CREATE EXTENSION pg_tally;
ALTER EXTENSION pg_tally SET SCHEMA public;
\set VERBOSITY default
DROP EXTENSION pg_tally;
SELECT (SELECT count(*) FROM pg_class) - :classes AS classes, (SELECT count(*) FROM pg_proc) - :functions AS functions,
       (SELECT count(*) FROM pg_type) - :types AS types, (SELECT count(*) FROM pg_operator) - :operators AS operators,
       (SELECT count(*) FROM pg_policy) - :policies AS policies,
       (SELECT count(*) FROM pg_event_trigger) - :triggers AS triggers;
CREATE EXTENSION pg_tally;
