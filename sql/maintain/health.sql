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
DECLARE
  declared record;
  is_used  boolean;
  stray    text;
  gone     text;
  space    float8;
BEGIN
  component := 'ingest';
  value := (SELECT round(coalesce(100.0 * sum(b.conflicts + b.rejected) / nullif(sum(b.accepted + b.duplicates + b.conflicts + b.rejected), 0), 0), 3)
              FROM tally.ingest_batch AS b WHERE b.ingested_at > now() - interval '1 hour');
  "limit" := 1;
  status := CASE WHEN value > 50 THEN 'failing' WHEN value > "limit" THEN 'warning' ELSE 'ok' END;
  advice := CASE WHEN value > "limit" THEN format('%s percent of the last hour''s events conflict or are rejected: SELECT tenant_id, reason, count(*) FROM tally.quarantine WHERE quarantined_at > now() - interval ''1 hour'' GROUP BY 1, 2 ORDER BY 3 DESC', value) END;
  RETURN NEXT;

  -- Where nothing has come in yet, nothing is missing.
  is_used := EXISTS (SELECT FROM tally.ingest_batch) OR EXISTS (SELECT FROM tally.maintenance);
  component := 'partitions';
  stray := (SELECT string_agg(c.oid::regclass::text, ', ' ORDER BY c.relname) FROM pg_class AS c
             WHERE c.relnamespace = 'tally'::regnamespace AND c.relname ~ '^events_p[0-9]{4,}_[0-9]{2}$' AND c.relkind IN ('r', 'p')
               AND NOT EXISTS (SELECT FROM pg_inherits AS i WHERE i.inhrelid = c.oid AND i.inhparent = 'tally.events'::regclass));
  gone := (SELECT string_agg(to_char(m.month AT TIME ZONE 'UTC', 'YYYY-MM'), ', ' ORDER BY m.month) FROM tally.raw_month AS m
            WHERE m.lost_at IS NOT NULL
               OR NOT EXISTS (SELECT FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid
                               WHERE i.inhparent = 'tally.events'::regclass AND c.relname = 'events_p' || to_char(m.month AT TIME ZONE 'UTC', 'YYYY_MM')));
  value := (SELECT count(*) FROM generate_series(0, 1) AS ahead
             WHERE to_regclass('tally.events_p' || to_char(date_trunc('month', now() AT TIME ZONE 'UTC')
                                                           + make_interval(months => ahead), 'YYYY_MM')) IS NULL);
  "limit" := 0;
  status := CASE WHEN stray IS NOT NULL THEN 'failing' WHEN gone IS NOT NULL OR (value > 0 AND is_used) THEN 'warning' ELSE 'ok' END;
  advice := CASE WHEN stray IS NOT NULL
                   THEN format('%s: not attached to tally.events, so its events are not counted and new ones of the month are refused: ALTER TABLE tally.events ATTACH PARTITION it again, or rename it; tally.detach_raw() is the way to take a month out', stray)
                 WHEN gone IS NOT NULL
                   THEN format('%s: taken out by hand, so metrics that read raw events of then refuse: attach it again, or SELECT tally.record_lost_months() if it will not come back', gone)
                 WHEN value > 0 THEN 'partitions of this or the next month are missing and ingest would have to make them: CALL tally.maintain()' END;
  RETURN NEXT;

  -- A query that reads all months locks each partition and its index.
  component := 'partition locks';
  value := (SELECT 2 * count(*) FROM pg_partition_tree('tally.events') AS p WHERE p.relid <> 'tally.events'::regclass);
  "limit" := current_setting('max_locks_per_transaction')::float8;
  status := CASE WHEN value > "limit" THEN 'warning' ELSE 'ok' END;
  advice := CASE WHEN value > "limit" THEN format('a query of all months takes %s locks, and max_locks_per_transaction is %s: when many run at once, statements fail with 53200; set it to %s and restart, or take old months out with tally.drop_raw() or tally.detach_raw()',
                                                  value, "limit", 64 * ceil((value + 32) / 64)) END;
  RETURN NEXT;

  component := 'locks';
  value := (SELECT round(extract(epoch FROM clock_timestamp() - min(h.since))) FROM tally.lock_holders() AS h);
  "limit" := 60;
  status := CASE WHEN value > 10 * "limit" THEN 'failing' WHEN value > "limit" THEN 'warning' ELSE 'ok' END;
  advice := CASE WHEN value > "limit" THEN (SELECT string_agg(format('%s of role %s holds %s since %s', coalesce('process ' || h.pid, format('prepared transaction %L', h.prepared)),
                                                                      h.role_name, h.held, h.since), '; ' ORDER BY h.since, h.held, h.pid)
                                                    || ': until it ends, retention, partitions, folds or declarations may have to wait; pg_terminate_backend() ends a process'
                                              FROM (SELECT * FROM tally.lock_holders() AS o WHERE o.since < clock_timestamp() - interval '60 seconds' ORDER BY o.since LIMIT 5) AS h) END;
  RETURN NEXT;

  FOR declared IN SELECT s.rollup_name, s.pending_bytes, s.pending_rows, s.lag FROM tally.rollup_status() AS s LOOP
    component := 'rollup ' || declared.rollup_name;
    value := declared.pending_rows;
    -- A row has some 128 bytes, as ingest reckons.
    "limit" := 2 * pg_size_bytes(current_setting('tally.pending_limit')) / 128;
    space := declared.pending_bytes - 1024 * declared.pending_rows - 8 * pg_size_bytes(current_setting('tally.pending_limit'));
    status := CASE WHEN value > 4 * "limit" THEN 'failing' WHEN value > "limit" OR space > 0 THEN 'warning' ELSE 'ok' END;
    advice := CASE WHEN value > "limit" THEN format('%s pending rows make readers slow, the last fold was %s ago: CALL tally.maintain() more often', value, declared.lag)
                   WHEN space > 0 THEN format('%s pending rows in %s of pages, which readers pass through: VACUUM tally.%I, and see why autovacuum does not come by (an old transaction, pg_stat_activity.backend_xmin)',
                                              value, pg_size_pretty(declared.pending_bytes), declared.rollup_name || '_pending') END;
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
  status := CASE WHEN value IS NULL OR value > "limit" THEN CASE WHEN tally_internal.worker_is_configured() THEN 'failing' WHEN is_used THEN 'warning' ELSE 'ok' END ELSE 'ok' END;
  advice := CASE WHEN status <> 'ok' THEN format('%s: %s', CASE WHEN value IS NULL THEN 'housekeeping has never run here'
                     ELSE format('housekeeping ran last %s seconds ago', value) END,
                   CASE WHEN tally_internal.worker_is_configured() THEN 'the worker is configured for this database; the server''s log tells why it does not run'
                        ELSE 'schedule CALL tally.maintain(), or configure the worker (tally.worker_databases, tally.worker_role)' END) END;
  RETURN NEXT;

  -- A transaction that is open for long keeps what is newer from being sealed.
  component := 'audit';
  value := (SELECT round(extract(epoch FROM clock_timestamp() - s.unsealed_since)) FROM tally_internal.audit_state() AS s);
  "limit" := CASE WHEN tally_internal.worker_is_configured() THEN 60 ELSE 900 END;
  status := CASE WHEN value > 10 * "limit" THEN 'failing' WHEN value > "limit" THEN 'warning' ELSE 'ok' END;
  advice := CASE WHEN value > "limit" THEN format('entries of the audit log wait for their seal since %s seconds: see that the worker or CALL tally.maintain() runs, and for old transactions (SELECT pid, usename, xact_start FROM pg_stat_activity WHERE backend_xid IS NOT NULL ORDER BY xact_start; SELECT * FROM pg_prepared_xacts)', value) END;
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
