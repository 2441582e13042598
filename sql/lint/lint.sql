-- The lint: what it finds, in the columns of Supabase's splinter, so that the same tools can show it.

CREATE FUNCTION tally.lint(OUT name text, OUT title text, OUT level text, OUT facing text, OUT categories text[],
    OUT description text, OUT detail text, OUT remediation text, OUT metadata jsonb, OUT cache_key text)
  RETURNS SETOF record
  LANGUAGE plpgsql STABLE PARALLEL UNSAFE STRICT
  SET search_path = pg_catalog, pg_temp
  SET quote_all_identifiers = off
  SET jit = off -- compiling these queries takes a second, running them a hundredth
AS $$
BEGIN
  RETURN QUERY EXECUTE format($query$
    SELECT r.name, r.title, r.level, 'EXTERNAL', '{SECURITY}'::text[], r.description, f.detail, f.fix,
           jsonb_strip_nulls(jsonb_build_object('schema', f.schema, 'name', f.object, 'type', f.type)),
           concat_ws('_', r.name, f.schema, f.object, md5(f.detail))
      FROM (%s) AS f JOIN tally.lint_rules() AS r ON r.name = f.rule
     ORDER BY array_position('{ERROR,WARN,INFO}'::text[], r.level), r.name, f.schema, f.object, f.detail
    $query$, tally_internal.every('lint_', 'r.*'));
END
$$;
COMMENT ON FUNCTION tally.lint() IS
  'every way found in which isolation could be undone, with the object and the fix: SQL that ends in a semicolon can be run as it stands';

REVOKE ALL ON FUNCTION tally.lint(), tally.lint_rules(), tally_internal.isolated_tables(), tally_internal.lint_policies(), tally_internal.lint_tables(),
  tally_internal.lint_roles(), tally_internal.lint_paths() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tally.lint(), tally.lint_rules(), tally_internal.isolated_tables(), tally_internal.lint_policies(),
  tally_internal.lint_tables(), tally_internal.lint_roles(), tally_internal.lint_paths() TO tally_admin, tally_auditor;

CREATE FUNCTION tally_internal.health_protection()
  RETURNS TABLE (place int4, component text, status text, value float8, "limit" float8, advice text)
  LANGUAGE plpgsql STABLE PARALLEL UNSAFE STRICT
  SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  place := 14;
  component := 'protection';
  value := (SELECT count(*) FROM tally.lint() AS l WHERE l.level = 'ERROR');
  "limit" := 0;
  status := CASE WHEN value > 0 THEN 'failing' ELSE 'ok' END;
  advice := CASE WHEN value > 0 THEN 'isolation can be undone: SELECT * FROM tally.lint()' END;
  RETURN NEXT;
END
$$;
COMMENT ON FUNCTION tally_internal.health_protection() IS 'part of tally.health(): errors found by tally.lint()';
REVOKE ALL ON FUNCTION tally_internal.health_protection() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tally_internal.health_protection() TO tally_admin;
