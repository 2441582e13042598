-- What a support case needs to know of a database with pg_tally: versions, settings, health, lint, rollups, housekeeping, sizes.
-- As a member of tally_admin, better also of pg_read_all_stats:   psql -d DATABASE -f tally-doctor.sql > doctor.txt
-- It changes nothing, and prints no ids of tenants, accounts or users, no names of roles, no properties, no texts of errors or
-- rollups' expressions: numbers, SQLSTATEs, and names of rollups, tables and rules alone. Read it before you send it all the same.
\set ON_ERROR_STOP off
\set HIDE_ERROR_CONTEXT true
\set VERBOSITY sqlstate
\pset pager off
\pset footer off
\pset null -
\timing off
SET client_min_messages = error;
BEGIN;
SELECT tally.enter_global() \g /dev/null
-- A question that fails leaves the others be. A scope can't be entered inside a savepoint, so this comes after it.
\set ON_ERROR_ROLLBACK on

\echo == Versions
SELECT current_setting('server_version') AS server, e.extversion AS pg_tally, a.default_version AS installed_files, getdatabaseencoding() AS encoding,
       d.datcollate AS collation, pg_is_in_recovery() AS standby, date_trunc('minute', now() - pg_postmaster_start_time()) AS up
  FROM pg_extension AS e JOIN pg_available_extensions AS a ON a.name = e.extname
  JOIN pg_database AS d ON d.datname = current_database() WHERE e.extname = 'pg_tally';

\echo == Settings (those of tally that name databases or roles: whether they are set)
SELECT name, CASE WHEN name NOT IN ('tally.worker_databases', 'tally.worker_role', 'tally.ingest_options') THEN setting
                  WHEN setting = '' THEN 'not set' ELSE 'set' END AS setting, unit, source
  FROM pg_settings
 WHERE name LIKE 'tally.%'
    OR name IN ('autovacuum', 'fsync', 'full_page_writes', 'idle_in_transaction_session_timeout', 'jit', 'maintenance_work_mem', 'max_connections',
                'max_locks_per_transaction', 'max_parallel_workers', 'max_prepared_transactions', 'max_wal_size', 'max_worker_processes',
                'shared_buffers', 'statement_timeout', 'synchronous_commit', 'wal_level', 'work_mem')
 ORDER BY name;
-- Without pg_read_all_stats a login isn't shown what the sessions of other roles are and do.
SELECT pg_has_role('pg_read_all_stats', 'USAGE') AS sees_all_sessions,
       CASE WHEN pg_has_role('pg_read_all_stats', 'USAGE') THEN (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'pg_tally worker') END AS workers;

\echo == Health
SELECT component, status, value, "limit" FROM tally.health();

\echo == Lint: findings by rule
SELECT level, name, count(*) FROM tally.lint() GROUP BY level, name ORDER BY level, name;

\echo == Rollups
SELECT s.rollup_name, s.grains, s.pending_rows, pg_size_pretty(s.pending_bytes) AS pending, s.rows_folded, date_trunc('second', s.lag) AS lag,
       (SELECT string_agg(c.kind, ' ' ORDER BY c.position) FROM tally.rollup_column AS c WHERE c.rollup_name = s.rollup_name) AS columns,
       (SELECT r.filter IS NOT NULL FROM tally.rollup AS r WHERE r.rollup_name = s.rollup_name) AS has_filter
  FROM tally.rollup_status() AS s ORDER BY s.rollup_name;

\echo == Housekeeping
SELECT task, subject, done, failures, date_trunc('second', now() - finished_at) AS age, date_trunc('second', now() - failed_at) AS failed_ago, sqlstate
  FROM tally.maintenance ORDER BY task, subject;
SELECT held, count(*) AS holders, date_trunc('second', now() - min(since)) AS longest FROM tally.lock_holders() GROUP BY held ORDER BY held;

\echo == Ingest of the last 24 hours
SELECT count(*) AS batches, sum(accepted) AS accepted, sum(duplicates) AS duplicates, sum(conflicts) AS conflicts, sum(rejected) AS rejected,
       count(DISTINCT tenant_id) AS tenants, round(100.0 * max(of_tenant) / nullif(sum(accepted), 0)) AS per_cent_of_the_largest
  FROM (SELECT b.*, sum(b.accepted) OVER (PARTITION BY b.tenant_id) AS of_tenant FROM tally.ingest_batch AS b
         WHERE b.ingested_at > now() - interval '24 hours' AND b.redrives IS NULL) AS b;
SELECT count(*) AS redrives, sum(accepted) AS accepted, sum(duplicates) AS duplicates, sum(conflicts + rejected) AS in_vain
  FROM tally.ingest_batch WHERE ingested_at > now() - interval '24 hours' AND redrives IS NOT NULL;
SELECT outcome, sqlstate, count(*), max(tries) AS tries FROM tally.quarantine GROUP BY outcome, sqlstate ORDER BY outcome, sqlstate;

\echo == How many
SELECT (SELECT count(*) FROM tally.tenant) AS tenants, (SELECT count(*) FROM tally.accounts) AS accounts,
       (SELECT count(*) FROM pg_inherits WHERE inhparent = 'tally.events'::regclass) AS months,
       (SELECT count(*) FROM tally.role_binding) AS bindings;

\echo == Sizes of the largest tables
SELECT c.relname AS name, c.reltuples::int8 AS rows_estimated, pg_size_pretty(pg_total_relation_size(c.oid)) AS size, s.n_dead_tup AS dead,
       date_trunc('second', now() - greatest(s.last_vacuum, s.last_autovacuum)) AS vacuumed_ago,
       date_trunc('second', now() - greatest(s.last_analyze, s.last_autoanalyze)) AS analyzed_ago
  FROM pg_class AS c LEFT JOIN pg_stat_all_tables AS s ON s.relid = c.oid
 WHERE c.relnamespace = 'tally'::regnamespace AND c.relkind = 'r'
 ORDER BY pg_total_relation_size(c.oid) DESC, c.relname LIMIT 30;

\echo == Sessions of this database
SELECT backend_type, state, wait_event_type, count(*), date_trunc('second', now() - min(xact_start)) AS oldest_transaction
  FROM pg_stat_activity WHERE datname = current_database() GROUP BY 1, 2, 3 ORDER BY 1, 2, 3;
COMMIT;
\echo == End
