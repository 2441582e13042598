-- The lint: what it finds, in the columns of Supabase's splinter, so that the same tools can show it.

CREATE FUNCTION tally.lint(OUT name text, OUT title text, OUT level text, OUT facing text, OUT categories text[],
    OUT description text, OUT detail text, OUT remediation text, OUT metadata jsonb, OUT cache_key text)
  RETURNS SETOF record
  LANGUAGE sql STABLE PARALLEL UNSAFE STRICT
  SET search_path = pg_catalog, pg_temp
  SET quote_all_identifiers = off
  SET jit = off -- compiling these queries takes a second, running them a hundredth
  BEGIN ATOMIC
    SELECT r.name, r.title, r.level, 'EXTERNAL', '{SECURITY}'::text[], r.description, f.detail, f.fix,
           pg_catalog.jsonb_strip_nulls(pg_catalog.jsonb_build_object('schema', f.schema, 'name', f.object, 'type', f.type)),
           pg_catalog.concat_ws('_', r.name, f.schema, f.object, pg_catalog.md5(f.detail))
      FROM (SELECT * FROM tally_internal.lint_policies() UNION ALL SELECT * FROM tally_internal.lint_tables()
            UNION ALL SELECT * FROM tally_internal.lint_roles() UNION ALL SELECT * FROM tally_internal.lint_paths()
            UNION ALL SELECT * FROM tally_internal.lint_columns() UNION ALL SELECT * FROM tally_internal.lint_audit()) AS f
      JOIN tally.lint_rules() AS r ON r.name = f.rule
     ORDER BY pg_catalog.array_position('{ERROR,WARN,INFO}'::text[], r.level), r.name, f.schema, f.object, f.detail;
  END;
COMMENT ON FUNCTION tally.lint() IS
  'every way found in which isolation could be undone, with the object and the fix: SQL that ends in a semicolon can be run as it stands';

REVOKE ALL ON FUNCTION tally.lint(), tally.lint_rules(), tally_internal.isolated_tables(), tally_internal.lint_policies(), tally_internal.lint_tables(),
  tally_internal.lint_roles(), tally_internal.lint_paths() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tally.lint(), tally.lint_rules(), tally_internal.isolated_tables(), tally_internal.lint_policies(),
  tally_internal.lint_tables(), tally_internal.lint_roles(), tally_internal.lint_paths() TO tally_admin, tally_auditor;
