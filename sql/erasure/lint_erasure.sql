-- Findings about erasures: months that were elsewhere when somebody was erased, and are there again.

CREATE FUNCTION tally_internal.erased_without_months() RETURNS TABLE (tenant_id text, month timestamptz, persons int8)
  LANGUAGE c STABLE PARALLEL UNSAFE STRICT AS 'MODULE_PATHNAME', 'erased_without_months_wrapper';
COMMENT ON FUNCTION tally_internal.erased_without_months() IS
  'months that were elsewhere when persons of a tenant were erased, and how many persons; of one tenant alone where the session acts for one';

CREATE FUNCTION tally_internal.unrenewed_months() RETURNS TABLE (tenant_id text, month timestamptz)
  LANGUAGE c STABLE PARALLEL UNSAFE STRICT AS 'MODULE_PATHNAME', 'unrenewed_months_wrapper';
COMMENT ON FUNCTION tally_internal.unrenewed_months() IS
  'months that are attached again and of which a tenant''s rollups count still what was erased while they were detached; of one tenant alone where the session acts for one';

CREATE FUNCTION tally_internal.lint_erasure(OUT rule text, OUT type text, OUT schema text, OUT object text, OUT detail text, OUT fix text)
  RETURNS SETOF record
  LANGUAGE sql STABLE PARALLEL UNSAFE STRICT
  SET search_path = pg_catalog, pg_temp
  BEGIN ATOMIC
    SELECT 'erased_there_again', 'table', n.nspname::text, c.relname::text,
           pg_catalog.format('%I.%I is attached and was elsewhere when %s persons of tenant %L were erased: their events may be in it', n.nspname, c.relname, m.persons, m.tenant_id),
           'ask for these erasures again, as tally.erasures has them: of who is not in it, that leaves nothing but an entry in the audit log'
      FROM tally_internal.erased_without_months() AS m
      JOIN tally_internal.event_parts() AS p ON m.month >= p.first AND m.month < p.next
      JOIN pg_catalog.pg_class AS c ON c.oid = p.part
      JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
     UNION ALL
    SELECT 'erased_there_again', 'table', n.nspname::text, c.relname::text,
           pg_catalog.format('%I.%I is attached and was detached when persons of tenant %L were erased: they are not in it, but the rollups count them still', n.nspname, c.relname, m.tenant_id),
           'CALL tally.maintain()'
      FROM tally_internal.unrenewed_months() AS m
      JOIN tally_internal.event_parts() AS p ON m.month >= p.first AND m.month < p.next
      JOIN pg_catalog.pg_class AS c ON c.oid = p.part
      JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace;
  END;
COMMENT ON FUNCTION tally_internal.lint_erasure() IS 'findings of tally.lint() about erasures';

CREATE FUNCTION tally_internal.rules_erasure(OUT name text, OUT level text, OUT title text, OUT description text)
  RETURNS SETOF record ROWS 1
  LANGUAGE sql IMMUTABLE PARALLEL SAFE STRICT
  SET search_path = pg_catalog, pg_temp
  BEGIN ATOMIC
    SELECT v.* FROM (VALUES
      ('erased_there_again', 'WARN', 'A month is there again that was elsewhere when somebody was erased',
       'An erasure removes what is there and in months that were detached and stay in schema tally: what was moved away came back as it was. What was removed from a month that was detached, the rollups count until it is attached and maintain() has made its buckets anew.')
    ) AS v (name, level, title, description);
  END;
COMMENT ON FUNCTION tally_internal.rules_erasure() IS 'the rules of tally_internal.lint_erasure()';
REVOKE ALL ON FUNCTION tally_internal.erased_without_months(), tally_internal.unrenewed_months(), tally_internal.lint_erasure(), tally_internal.rules_erasure() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tally_internal.erased_without_months(), tally_internal.unrenewed_months(), tally_internal.lint_erasure(), tally_internal.rules_erasure() TO tally_admin, tally_auditor;
GRANT EXECUTE ON FUNCTION tally_internal.event_parts() TO tally_auditor;
