-- A schema for BI tools with what people read of pg_tally and nothing else: each view there is one of schema tally, with its comments,
-- and shows each login what that login may see. Sketches of distinct counts (hll) are left out: a reader isn't shown their bytes, and a
-- preview of the view would fail. Ask those of schema tally, through tally.distinct_count().
--   psql -d DATABASE -f integrations/bi/views.sql                    schema analytics
--   psql -d DATABASE -v schema=reading -f integrations/bi/views.sql  another one
-- As a member of tally_admin that may create schemas in the database. Run it again after an update, and when rollups came or changed. Before
-- tally.drop_rollup() drop the views of that rollup here, or have it drop them (cascade).
\set ON_ERROR_STOP on
\if :{?schema}
\else
\set schema analytics
\endif
SET client_min_messages = warning;
BEGIN;
CREATE SCHEMA IF NOT EXISTS :"schema";
GRANT USAGE ON SCHEMA :"schema" TO tally_reader;
COMMENT ON SCHEMA :"schema" IS 'product analytics: what a person reads of pg_tally';
SELECT pg_catalog.set_config('search_path', 'pg_catalog', true), pg_catalog.set_config('views.schema', :'schema', true) \g /dev/null
DO $views$
DECLARE
  place  constant text := current_setting('views.schema');
  source record;
BEGIN
  FOR source IN
    SELECT c.oid, c.relname,
           string_agg(format('%I', a.attname), ', ' ORDER BY a.attnum) AS columns
      FROM (SELECT r.rollup_name || '_' || g.grain || s.suffix AS name
              FROM tally.rollup AS r CROSS JOIN unnest(r.grains) AS g (grain) CROSS JOIN (VALUES (''), ('_state')) AS s (suffix)
             -- Of these, what the views users and sessions have is what people read.
             WHERE r.rollup_name NOT IN ('user_activity', 'session') OR s.suffix = '' AND r.rollup_name <> 'session'
            UNION ALL VALUES ('users'), ('accounts'), ('sessions'), ('events'), ('quarantine')) AS wanted
      JOIN pg_class AS c ON c.relname = wanted.name COLLATE "C" AND c.relnamespace = 'tally'::regnamespace
      JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.atttypid <> 'tally.hll'::regtype
     GROUP BY c.oid, c.relname ORDER BY c.relname
  LOOP
    -- Made anew, since a column may have gone; what somebody has built on a view stands in the way, and is named.
    EXECUTE format('DROP VIEW IF EXISTS %I.%I', place, source.relname);
    EXECUTE format('CREATE VIEW %1$I.%2$I WITH (security_invoker = true) AS SELECT %3$s FROM tally.%2$I', place, source.relname, source.columns);
    EXECUTE format('COMMENT ON VIEW %I.%I IS %L', place, source.relname, obj_description(source.oid, 'pg_class'));
    EXECUTE (SELECT string_agg(format('COMMENT ON COLUMN %I.%I.%I IS %L', place, source.relname, a.attname, col_description(source.oid, a.attnum)), '; ')
               FROM pg_attribute AS a WHERE a.attrelid = source.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.atttypid <> 'tally.hll'::regtype);
    EXECUTE format('GRANT SELECT ON %I.%I TO tally_reader', place, source.relname);
  END LOOP;
END
$views$;
COMMIT;
SELECT c.relname AS view, pg_catalog.obj_description(c.oid, 'pg_class') AS "what a row is"
  FROM pg_catalog.pg_class AS c WHERE c.relnamespace = pg_catalog.quote_ident(:'schema')::pg_catalog.regnamespace AND c.relkind = 'v' ORDER BY 1;
