-- Health: what a DBA looks at first.

CREATE FUNCTION tally_internal.transaction_starts() RETURNS TABLE (pid int4, began timestamptz)
  LANGUAGE c STABLE PARALLEL RESTRICTED STRICT AS 'MODULE_PATHNAME', 'transaction_starts_wrapper';
COMMENT ON FUNCTION tally_internal.transaction_starts() IS
  'when the open transaction of each session of this database began; pg_stat_activity shows it only to the session''s own role and to members of pg_read_all_stats';

CREATE FUNCTION tally.lock_holders()
  RETURNS TABLE (held text, pid int4, role_name name, prepared text, since timestamptz)
  LANGUAGE sql STABLE PARALLEL RESTRICTED STRICT
  SET search_path = pg_catalog, pg_temp
AS $$
  SELECT DISTINCT ON (l.held, l.pid, x.gid) l.held, l.pid, coalesce(a.usename, x.owner), x.gid, coalesce(t.began, x.prepared)
    FROM (SELECT k.pid, k.virtualtransaction,
                 CASE WHEN k.relation = 'tally.rollup'::regclass THEN 'ingest'
                      WHEN k.relation = 'tally.events'::regclass THEN 'events'
                      WHEN k.classid = 'tally.events'::regclass THEN 'partitions'
                      ELSE 'fold ' || (SELECT r.rollup_name FROM tally.rollup AS r
                                        WHERE k.classid = ('tally.' || quote_ident(r.rollup_name || '_pending'))::regclass) END AS held
            FROM pg_locks AS k
           WHERE k.granted AND k.database = (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database())
             AND ((k.relation = 'tally.rollup'::regclass AND k.mode NOT IN ('AccessShareLock', 'RowShareLock'))
                  OR k.relation = 'tally.events'::regclass
                  OR (k.locktype = 'advisory' AND k.objsubid = 3 AND k.objid IN (1, 2)))) AS l
    LEFT JOIN pg_stat_activity AS a ON a.pid = l.pid
    LEFT JOIN tally_internal.transaction_starts() AS t ON t.pid = l.pid
    LEFT JOIN pg_locks AS o ON l.pid IS NULL AND o.pid IS NULL AND o.locktype = 'transactionid' AND o.virtualtransaction = l.virtualtransaction
    LEFT JOIN pg_prepared_xacts AS x ON x.transaction = o.transactionid
   WHERE l.held IS NOT NULL AND l.pid IS DISTINCT FROM pg_backend_pid()
   ORDER BY l.held, l.pid, x.gid, coalesce(t.began, x.prepared)
$$;
COMMENT ON FUNCTION tally.lock_holders() IS
  'transactions that hold what housekeeping and declaring need: ingest (a call that is not committed yet), events (a read of them), partitions (making one), fold and a rollup''s name; the process and its role, or the name of a prepared transaction, and since when it is open';

CREATE FUNCTION tally.health()
  RETURNS TABLE (component text, status text, value float8, "limit" float8, advice text)
  LANGUAGE plpgsql STABLE PARALLEL UNSAFE
  SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  RETURN QUERY EXECUTE format('SELECT h.component, h.status, h.value, h."limit", h.advice FROM (%s) AS h ORDER BY h.place, h.component',
                              tally_internal.every('health_', 'r.*'));
END
$$;
COMMENT ON FUNCTION tally.health() IS
  'one row a component: ok, warning or failing; a number and its limit (per cent of the last hour''s events not counted, months missing, locks of a query, seconds that a lock is held, rows pending, events of the last day in quarantine, transactions since the freeze, failed tasks, seconds since housekeeping, seconds that audit entries wait for their seal, milliseconds of the last probe, unsafe settings, errors found by lint); what to do. In the global scope';

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

REVOKE ALL ON FUNCTION tally_internal.transaction_starts(), tally.lock_holders(), tally.health(), tally.observe_health(), tally.observe_rollups(), tally.observe_slo() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tally_internal.transaction_starts(), tally.lock_holders(), tally.health(), tally.observe_health(), tally.observe_rollups(), tally.observe_slo() TO tally_admin;

CREATE FUNCTION tally_internal.health_locks()
  RETURNS TABLE (place int4, component text, status text, value float8, "limit" float8, advice text)
  LANGUAGE plpgsql STABLE PARALLEL UNSAFE STRICT
  SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  place := 4;
  component := 'locks';
  value := (SELECT round(extract(epoch FROM clock_timestamp() - min(h.since))) FROM tally.lock_holders() AS h);
  "limit" := 60;
  status := CASE WHEN value > 10 * "limit" THEN 'failing' WHEN value > "limit" THEN 'warning' ELSE 'ok' END;
  advice := CASE WHEN value > "limit" THEN (SELECT string_agg(format('%s of role %s holds %s since %s', coalesce('process ' || h.pid, format('prepared transaction %L', h.prepared)),
                                                                      h.role_name, h.held, h.since), '; ' ORDER BY h.since, h.held, h.pid)
                                                    || ': until it ends, retention, partitions, folds or declarations may have to wait; pg_terminate_backend() ends a process'
                                              FROM (SELECT * FROM tally.lock_holders() AS o WHERE o.since < clock_timestamp() - interval '60 seconds' ORDER BY o.since LIMIT 5) AS h) END;
  RETURN NEXT;
END
$$;
COMMENT ON FUNCTION tally_internal.health_locks() IS 'part of tally.health(): who holds locks for long';
REVOKE ALL ON FUNCTION tally_internal.health_locks() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tally_internal.health_locks() TO tally_admin;

CREATE FUNCTION tally_internal.health_settings()
  RETURNS TABLE (place int4, component text, status text, value float8, "limit" float8, advice text)
  LANGUAGE plpgsql STABLE PARALLEL UNSAFE STRICT
  SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  place := 13;
  component := 'settings';
  value := (SELECT count(*) FROM pg_settings AS s
             WHERE s.name IN ('fsync', 'full_page_writes', 'autovacuum') AND s.setting = 'off');
  "limit" := 0;
  status := CASE WHEN value > 0 THEN 'failing' ELSE 'ok' END;
  advice := CASE WHEN value > 0 THEN (SELECT 'turn on ' || string_agg(s.name, ', ' ORDER BY s.name) FROM pg_settings AS s
             WHERE s.name IN ('fsync', 'full_page_writes', 'autovacuum') AND s.setting = 'off') END;
  RETURN NEXT;
END
$$;
COMMENT ON FUNCTION tally_internal.health_settings() IS 'part of tally.health(): unsafe settings';
REVOKE ALL ON FUNCTION tally_internal.health_settings() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tally_internal.health_settings() TO tally_admin;
