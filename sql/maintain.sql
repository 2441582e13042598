-- Housekeeping, and what a DBA looks at first.

CREATE FUNCTION tally.make_partitions(months int4 DEFAULT 2) RETURNS int8
  LANGUAGE c VOLATILE PARALLEL UNSAFE STRICT AS 'MODULE_PATHNAME', 'make_partitions_wrapper';
COMMENT ON FUNCTION tally.make_partitions(int4) IS
  'makes the partitions of this month (UTC) and of so many months after it, at most 120, each with row security before anyone can see it; returns how many were missing';

-- Names are qualified one by one: a procedure that commits can't fix its search path.
CREATE PROCEDURE tally.maintain(fold_rows int8 DEFAULT 50000)
  LANGUAGE plpgsql
AS $$
DECLARE
  names text[];
  rollup text;
BEGIN
  PERFORM tally.make_partitions(2);
  COMMIT;
  SELECT pg_catalog.array_agg(r.rollup_name ORDER BY r.rollup_name) INTO names FROM tally.rollup AS r;
  FOREACH rollup IN ARRAY coalesce(names, '{}'::pg_catalog.text[]) LOOP
    LOOP
      EXIT WHEN tally.backfill(rollup, fold_rows) OPERATOR(pg_catalog.=) 0::pg_catalog.int8;
      COMMIT;
    END LOOP;
    LOOP
      -- 0 where nothing is left, and where another session is folding this rollup.
      EXIT WHEN tally.fold(rollup, fold_rows) OPERATOR(pg_catalog.=) 0::pg_catalog.int8;
      COMMIT;
    END LOOP;
    COMMIT;
  END LOOP;
END
$$;
COMMENT ON PROCEDURE tally.maintain(int8) IS
  'all housekeeping in steps that are committed one by one: partitions ahead, then for each rollup filling what waits for its backfill and folding, fold_rows events or pending rows at a time; safe to run twice at once, from any scheduler';

CREATE FUNCTION tally.health()
  RETURNS TABLE (component text, status text, value float8, "limit" float8, advice text)
  LANGUAGE plpgsql STABLE PARALLEL UNSAFE
  SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  declared record;
BEGIN
  component := 'partitions';
  value := (SELECT count(*) FROM generate_series(0, 1) AS ahead
             WHERE to_regclass('tally.events_p' || to_char(date_trunc('month', now() AT TIME ZONE 'UTC')
                                                           + make_interval(months => ahead), 'YYYY_MM')) IS NULL);
  "limit" := 0;
  status := CASE WHEN value > 0 THEN 'warning' ELSE 'ok' END;
  advice := CASE WHEN value > 0 THEN 'partitions of this or the next month are missing and ingest would have to make them: CALL tally.maintain()' END;
  RETURN NEXT;

  FOR declared IN SELECT s.rollup_name, s.pending_bytes, s.lag FROM tally.rollup_status() AS s LOOP
    component := 'rollup ' || declared.rollup_name;
    value := declared.pending_bytes;
    "limit" := 2 * pg_size_bytes(current_setting('tally.pending_limit'));
    status := CASE WHEN value > 4 * "limit" THEN 'failing' WHEN value > "limit" THEN 'warning' ELSE 'ok' END;
    advice := CASE WHEN value > "limit" THEN format('%s bytes of pending rows make readers slow, the oldest wait %s: CALL tally.maintain() more often, then VACUUM tally.%I',
                                                    value, declared.lag, declared.rollup_name || '_pending') END;
    RETURN NEXT;
  END LOOP;

  component := 'quarantine';
  value := (SELECT count(*) FROM tally.quarantine AS q WHERE q.quarantined_at > now() - interval '1 day');
  "limit" := 0;
  status := CASE WHEN value > 0 THEN 'warning' ELSE 'ok' END;
  advice := CASE WHEN value > 0 THEN 'events of the last day were not counted: SELECT reason, count(*) FROM tally.quarantine GROUP BY reason' END;
  RETURN NEXT;

  component := 'ledger';
  value := (SELECT age(c.relfrozenxid) FROM pg_class AS c WHERE c.oid = 'tally.event_key'::regclass);
  "limit" := current_setting('autovacuum_freeze_max_age')::float8;
  status := CASE WHEN value > 4 * "limit" THEN 'failing' WHEN value > 1.2 * "limit" THEN 'warning' ELSE 'ok' END;
  advice := CASE WHEN value > 1.2 * "limit" THEN 'vacuum does not keep up with transactions: VACUUM (FREEZE) tally.event_key' END;
  RETURN NEXT;

  component := 'settings';
  value := (SELECT count(*) FROM pg_settings AS s
             WHERE s.name IN ('fsync', 'full_page_writes', 'autovacuum') AND s.setting = 'off');
  "limit" := 0;
  status := CASE WHEN value > 0 THEN 'failing' ELSE 'ok' END;
  advice := CASE WHEN value > 0 THEN (SELECT 'turn on ' || string_agg(s.name, ', ' ORDER BY s.name) FROM pg_settings AS s
             WHERE s.name IN ('fsync', 'full_page_writes', 'autovacuum') AND s.setting = 'off') END;
  RETURN NEXT;

  component := 'protection';
  value := (SELECT count(*) FROM tally.lint() AS l WHERE l.level = 'ERROR');
  "limit" := 0;
  status := CASE WHEN value > 0 THEN 'failing' ELSE 'ok' END;
  advice := CASE WHEN value > 0 THEN 'isolation can be undone: SELECT * FROM tally.lint()' END;
  RETURN NEXT;
END
$$;
COMMENT ON FUNCTION tally.health() IS
  'one row a component: ok, warning or failing; a number and its limit (months missing, bytes pending, events of the last day in quarantine, transactions since the freeze, unsafe settings, errors found by lint); what to do. In the global scope';

REVOKE ALL ON FUNCTION tally.make_partitions(int4), tally.health() FROM PUBLIC;
REVOKE ALL ON PROCEDURE tally.maintain(int8) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tally.make_partitions(int4), tally.health() TO tally_admin;
GRANT EXECUTE ON PROCEDURE tally.maintain(int8) TO tally_admin;
