-- The roles that rows of our tables go by. A dump has their names, and a restore finds them in its cluster or loses the table.

CREATE FUNCTION tally.named_roles() RETURNS TABLE (role_name name, named_in text)
  LANGUAGE plpgsql STABLE PARALLEL UNSAFE STRICT
  SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  place record;
BEGIN
  FOR place IN
    SELECT c.oid::regclass AS table_name, a.attname AS column_name
      FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = a.attrelid
     WHERE c.relnamespace = 'tally'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition
       AND a.atttypid = 'regrole'::regtype AND a.attnum > 0 AND NOT a.attisdropped
     ORDER BY 1, 2
  LOOP
    RETURN QUERY EXECUTE format('SELECT DISTINCT r.rolname, %L FROM %s AS t JOIN pg_catalog.pg_roles AS r ON r.oid OPERATOR(pg_catalog.=) t.%I::pg_catalog.oid ORDER BY 1',
      format('%s.%I', place.table_name, place.column_name), place.table_name, place.column_name);
  END LOOP;
END
$$;
COMMENT ON FUNCTION tally.named_roles() IS
  'the roles that bindings, exports, approvals, policies, persons and erasures go by, and where: a cluster that a dump is restored into must have them before; for superusers, as a dump is';
REVOKE ALL ON FUNCTION tally.named_roles() FROM PUBLIC;
