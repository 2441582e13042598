-- Findings about protected data: what could not be carried over.

CREATE FUNCTION tally_internal.lint_privacy(OUT rule text, OUT type text, OUT schema text, OUT object text, OUT detail text, OUT fix text)
  RETURNS SETOF record
  LANGUAGE sql STABLE PARALLEL SAFE STRICT
  SET search_path = pg_catalog, pg_temp
  BEGIN ATOMIC
    SELECT 'privacy_left_behind', 'rollup', 'tally', l.rollup_name,
           pg_catalog.format('rollup %I keeps user ids or tokens as they were before something was protected, or keys rotated, in buckets of which raw events are gone, of %s tenants: %s',
             l.rollup_name, pg_catalog.count(*), pg_catalog.array_to_string((pg_catalog.array_agg(r.tenant_id ORDER BY r.tenant_id))[:10], ', ') || CASE WHEN pg_catalog.count(*) > 10 THEN ', …' ELSE '' END),
           'declare it without them, with tally.alter_rollup(), or accept it: users and values of then count apart from those of now'
      FROM tally.privacy_renewal AS r CROSS JOIN LATERAL pg_catalog.unnest(r.left_in) AS l (rollup_name)
     WHERE EXISTS (SELECT FROM tally.rollup AS o WHERE o.rollup_name = l.rollup_name)
     GROUP BY l.rollup_name;
  END;
COMMENT ON FUNCTION tally_internal.lint_privacy() IS 'findings of tally.lint() about protected data';

CREATE FUNCTION tally_internal.rules_privacy(OUT name text, OUT level text, OUT title text, OUT description text)
  RETURNS SETOF record ROWS 1
  LANGUAGE sql IMMUTABLE PARALLEL SAFE STRICT
  SET search_path = pg_catalog, pg_temp
  BEGIN ATOMIC
    SELECT v.* FROM (VALUES
      ('privacy_left_behind', 'INFO', 'A rollup keeps user ids or tokens of before',
       'What raw events are gone for is not carried over to a declaration or a key, so the same value stands there under two names.')
    ) AS v (name, level, title, description);
  END;
COMMENT ON FUNCTION tally_internal.rules_privacy() IS 'the rules of tally_internal.lint_privacy()';
REVOKE ALL ON FUNCTION tally_internal.lint_privacy(), tally_internal.rules_privacy() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tally_internal.lint_privacy(), tally_internal.rules_privacy() TO tally_admin, tally_auditor;
