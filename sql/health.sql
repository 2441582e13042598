-- Health: what a DBA looks at first.

CREATE FUNCTION tally.health()
  RETURNS TABLE (component text, status text, value float8, "limit" float8, advice text)
  LANGUAGE plpgsql STABLE PARALLEL UNSAFE
  SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  declared record;
BEGIN
  component := 'ingest';
  value := (SELECT round(coalesce(100.0 * sum(b.conflicts + b.rejected) / nullif(sum(b.accepted + b.duplicates + b.conflicts + b.rejected), 0), 0), 3)
              FROM tally.ingest_batch AS b WHERE b.ingested_at > now() - interval '1 hour');
  "limit" := 1;
  status := CASE WHEN value > 50 THEN 'failing' WHEN value > "limit" THEN 'warning' ELSE 'ok' END;
  advice := CASE WHEN value > "limit" THEN format('%s percent of the last hour''s events conflict or are rejected: SELECT tenant_id, reason, count(*) FROM tally.quarantine WHERE quarantined_at > now() - interval ''1 hour'' GROUP BY 1, 2 ORDER BY 3 DESC', value) END;
  RETURN NEXT;

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

  component := 'maintenance';
  value := (SELECT count(*) FROM tally.maintenance AS m WHERE m.failed_at IS NOT NULL);
  "limit" := 0;
  status := CASE WHEN value > 0 THEN 'failing' ELSE 'ok' END;
  advice := (SELECT string_agg(format('%s %s failed at %s with %s: %s', m.task, m.subject, m.failed_at, m.sqlstate, m.problem), '; ' ORDER BY m.task, m.subject)
               FROM tally.maintenance AS m WHERE m.failed_at IS NOT NULL);
  RETURN NEXT;

  component := 'worker';
  value := (SELECT round(extract(epoch FROM clock_timestamp() - max(greatest(m.finished_at, m.failed_at)))) FROM tally.maintenance AS m);
  "limit" := 600;
  status := CASE WHEN value IS NULL OR value > "limit" THEN CASE WHEN tally.worker_is_configured() THEN 'failing' ELSE 'warning' END ELSE 'ok' END;
  advice := CASE WHEN status <> 'ok' THEN format('%s: %s', CASE WHEN value IS NULL THEN 'housekeeping has never run here'
                     ELSE format('housekeeping ran last %s seconds ago', value) END,
                   CASE WHEN tally.worker_is_configured() THEN 'the worker is configured for this database; the server''s log tells why it does not run'
                        ELSE 'schedule CALL tally.maintain(), or configure the worker (tally.worker_databases, tally.worker_role)' END) END;
  RETURN NEXT;

  component := 'probe';
  value := (SELECT round((extract(epoch FROM coalesce(p.shown_at, clock_timestamp()) - p.sent_at) * 1000)::numeric, 1)
              FROM tally.probe_result AS p ORDER BY p.sent_at DESC LIMIT 1);
  "limit" := 1000;
  status := CASE WHEN value > 10 * "limit" THEN 'failing' WHEN value > "limit" THEN 'warning' ELSE 'ok' END;
  advice := CASE WHEN value IS NULL THEN 'no probe has run; to measure from sending to showing, schedule CALL tally.probe()'
                 WHEN value > "limit" THEN format('it took %s ms until the last probe''s event was shown: look for locks and load in pg_stat_activity', value) END;
  RETURN NEXT;

  component := 'version';
  value := (SELECT count(*) FROM pg_extension AS e WHERE e.extname = 'pg_tally' AND e.extversion <> tally.library_version());
  "limit" := 0;
  status := CASE WHEN value > 0 THEN 'warning' ELSE 'ok' END;
  advice := CASE WHEN value > 0 THEN (SELECT format('the library is version %s, the database has %s: ALTER EXTENSION pg_tally UPDATE', tally.library_version(), e.extversion)
                                        FROM pg_extension AS e WHERE e.extname = 'pg_tally') END;
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
  'one row a component: ok, warning or failing; a number and its limit (per cent of the last hour''s events not counted, months missing, bytes pending, events of the last day in quarantine, transactions since the freeze, failed tasks, seconds since housekeeping, milliseconds of the last probe, unsafe settings, errors found by lint); what to do. In the global scope';

-- For whoever asks in single statements, as postgres_exporter does: the scope is entered first.
CREATE FUNCTION tally.observe_health() RETURNS TABLE (component text, status text, value float8, "limit" float8, advice text)
  LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE STRICT
  SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  PERFORM tally.enter_global();
  RETURN QUERY SELECT h.* FROM tally.health() AS h;
END
$$;
COMMENT ON FUNCTION tally.observe_health() IS 'tally.health() in the global scope, which it enters: for monitoring that sends single statements';

CREATE FUNCTION tally.observe_rollups()
  RETURNS TABLE (rollup_name text, grains text[], pending_rows int8, pending_bytes int8, oldest_pending_bucket timestamptz,
    last_fold_at timestamptz, rows_folded int8, lag interval)
  LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE STRICT
  SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  PERFORM tally.enter_global();
  RETURN QUERY SELECT s.* FROM tally.rollup_status() AS s;
END
$$;
COMMENT ON FUNCTION tally.observe_rollups() IS 'tally.rollup_status() in the global scope, which it enters: for monitoring that sends single statements';

CREATE FUNCTION tally.observe_slo() RETURNS SETOF tally.slo
  LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE STRICT
  SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  PERFORM tally.enter_global();
  RETURN QUERY SELECT s.* FROM tally.slo AS s;
END
$$;
COMMENT ON FUNCTION tally.observe_slo() IS 'tally.slo in the global scope, which it enters: for monitoring that sends single statements';

REVOKE ALL ON FUNCTION tally.health(), tally.observe_health(), tally.observe_rollups(), tally.observe_slo() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tally.health(), tally.observe_health(), tally.observe_rollups(), tally.observe_slo() TO tally_admin;
