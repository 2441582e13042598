-- The probe: an event of a reserved tenant, and how long it takes until its rollup shows it. And what tenants are promised.

CREATE TABLE tally.probe_result (
  sent_at  timestamptz NOT NULL CONSTRAINT probe_result_pkey PRIMARY KEY,
  shown_at timestamptz
);
ALTER TABLE tally.probe_result OWNER TO tally_owner;
COMMENT ON TABLE tally.probe_result IS 'the probes of the last 30 days';
COMMENT ON COLUMN tally.probe_result.sent_at IS 'when the event was sent';
COMMENT ON COLUMN tally.probe_result.shown_at IS 'when a later transaction saw it in the rollup; null where that took more than 10 seconds';
SELECT tally_internal.confine_table('tally.probe_result');
REVOKE ALL ON tally.probe_result FROM PUBLIC;
GRANT SELECT ON tally.probe_result TO tally_analyst, tally_auditor;
SELECT pg_catalog.pg_extension_config_dump('tally.probe_result', '');

-- The probe's SQL runs as the owner, who sends an event like any other.
DO $$
DECLARE
  door record;
BEGIN
  FOR door IN SELECT p.oid::pg_catalog.regprocedure AS name FROM pg_catalog.pg_proc AS p
               WHERE p.pronamespace OPERATOR(pg_catalog.=) 'tally'::pg_catalog.regnamespace::pg_catalog.oid
                 AND p.proname OPERATOR(pg_catalog.=) 'ingest' LOOP
    EXECUTE pg_catalog.format('GRANT EXECUTE ON FUNCTION %s TO tally_owner', door.name);
  END LOOP;
END
$$;

CREATE FUNCTION tally_internal.probe_send() RETURNS timestamptz
  LANGUAGE c VOLATILE PARALLEL UNSAFE STRICT AS 'MODULE_PATHNAME', 'probe_send_wrapper';
COMMENT ON FUNCTION tally_internal.probe_send() IS 'sends the probe''s event, of the reserved tenant tally:probe; returns when; called by tally.probe()';

CREATE FUNCTION tally_internal.probe_shown(sent_at timestamptz) RETURNS boolean
  LANGUAGE c VOLATILE PARALLEL UNSAFE STRICT AS 'MODULE_PATHNAME', 'probe_shown_wrapper';
COMMENT ON FUNCTION tally_internal.probe_shown(timestamptz) IS 'whether the built-in rollup shows the probe''s event, and if so notes when; called by tally.probe()';

CREATE PROCEDURE tally.probe()
  LANGUAGE plpgsql
AS $$
DECLARE
  sent pg_catalog.timestamptz := tally_internal.probe_send();
BEGIN
  COMMIT;
  FOR attempt IN 1 .. 1000 LOOP
    EXIT WHEN tally_internal.probe_shown(sent);
    COMMIT;
    PERFORM pg_catalog.pg_sleep(0.01);
  END LOOP;
  COMMIT;
END
$$;
COMMENT ON PROCEDURE tally.probe() IS
  'sends an event in the reserved tenant tally:probe and notes in tally.probe_result how long it takes until a later transaction sees it in the rollup usage; for a scheduler; the reserved tenant shows in the global scope';

CREATE TABLE tally.slo_target (
  freshness interval NOT NULL,
  latency   interval NOT NULL,
  share     float8 NOT NULL,
  tenant_id text COLLATE "C" NOT NULL CONSTRAINT slo_target_pkey PRIMARY KEY,
  CONSTRAINT slo_target_share_is_a_fraction CHECK (share > 0 AND share <= 1)
);
ALTER TABLE tally.slo_target OWNER TO tally_owner;
COMMENT ON TABLE tally.slo_target IS 'what tenants are promised about freshness and latency';
COMMENT ON COLUMN tally.slo_target.freshness IS 'an event was accepted within this time before now; 100 years where nothing is promised';
COMMENT ON COLUMN tally.slo_target.latency IS 'from an event''s occurring to its acceptance, which is when rollups show it; 100 years where nothing is promised';
COMMENT ON COLUMN tally.slo_target.share IS 'fraction of the events of the last 24 hours that must be within that latency';
COMMENT ON COLUMN tally.slo_target.tenant_id IS 'the tenant; empty for every tenant without a row';
SELECT tally_internal.confine_table('tally.slo_target');
REVOKE ALL ON tally.slo_target FROM PUBLIC;
GRANT SELECT ON tally.slo_target TO tally_analyst, tally_auditor;
SELECT pg_catalog.pg_extension_config_dump('tally.slo_target', '');

CREATE FUNCTION tally.set_slo(tenant_id text, freshness interval, latency interval, share float8 DEFAULT 0.99) RETURNS void
  LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE CALLED ON NULL INPUT SECURITY DEFINER
  SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  IF set_slo.tenant_id IS NOT NULL THEN
    PERFORM tally_internal.check_id('tenant_id', set_slo.tenant_id);
  END IF;
  IF set_slo.share IS NULL OR NOT (set_slo.share > 0 AND set_slo.share <= 1) THEN
    RAISE EXCEPTION USING ERRCODE = 'check_violation', MESSAGE = 'share must be a fraction above 0, up to 1',
      HINT = '0.99 promises that 99 of 100 events are accepted within the latency';
  END IF;
  IF set_slo.freshness < interval '0' OR set_slo.latency < interval '0' THEN
    RAISE EXCEPTION USING ERRCODE = 'check_violation', MESSAGE = format('%s must not be negative', CASE WHEN set_slo.freshness < interval '0' THEN 'freshness' ELSE 'latency' END),
      HINT = 'a length of time, such as 1 hour; null promises nothing of it';
  END IF;
  DELETE FROM tally.slo_target AS t WHERE t.tenant_id = coalesce(set_slo.tenant_id, '');
  IF num_nonnulls(set_slo.freshness, set_slo.latency) > 0 THEN
    INSERT INTO tally.slo_target AS t (freshness, latency, share, tenant_id)
    VALUES (coalesce(set_slo.freshness, interval '100 years'), coalesce(set_slo.latency, interval '100 years'), set_slo.share, coalesce(set_slo.tenant_id, ''));
  END IF;
END
$$;
COMMENT ON FUNCTION tally.set_slo(text, interval, interval, float8) IS
  'promises a tenant, or with null every tenant that has no promise of its own, freshness and latency; null promises nothing of the one, both null removes the promise; tally.slo shows how it is kept';

CREATE VIEW tally.slo WITH (security_invoker = true) AS
  SELECT t.tenant_id, nullif(g.freshness, interval '100 years') AS freshness_target, date_trunc('second', now() - b.last_at) AS freshness,
         coalesce(now() - b.last_at <= g.freshness, g.freshness = interval '100 years') AS freshness_met,
         nullif(g.latency, interval '100 years') AS latency_target, e.latency_p99, coalesce(e.events, 0) AS events, e.in_time AS share,
         g.share AS share_target, coalesce(e.in_time >= g.share, true) AS latency_met
    -- A tenant that is promised something may have sent nothing yet; the probe's is nobody's.
    FROM (SELECT n.tenant_id FROM tally.tenant AS n WHERE n.tenant_id <> 'tally:probe'
          UNION SELECT p.tenant_id FROM tally.slo_target AS p WHERE p.tenant_id <> '') AS t
    JOIN LATERAL (SELECT s.* FROM tally.slo_target AS s WHERE s.tenant_id IN (t.tenant_id, '')
                   ORDER BY s.tenant_id DESC LIMIT 1) AS g ON true
    LEFT JOIN LATERAL (SELECT max(i.ingested_at) AS last_at FROM tally.ingest_batch AS i
                        WHERE i.tenant_id = t.tenant_id AND i.accepted > 0) AS b ON true
    -- A batch id begins with the milliseconds since 2000 at which the batch was ingested.
    LEFT JOIN LATERAL (SELECT count(*) AS events, avg((d.late <= g.latency)::int4)::float8 AS in_time,
                              percentile_disc(0.99) WITHIN GROUP (ORDER BY d.late) AS latency_p99
                         FROM (SELECT greatest(timestamptz '2000-01-01 00:00:00+00' + make_interval(secs => (r.batch_id >> 22) / 1000.0) - r.occurred_at, interval '0') AS late
                                 FROM tally.events AS r
                                WHERE r.tenant_id = t.tenant_id AND r.occurred_at > now() - interval '1 day' AND r.occurred_at <= now()) AS d) AS e ON true;
COMMENT ON VIEW tally.slo IS 'the tenants in scope that are promised something, and how it was kept in the last 24 hours';
COMMENT ON COLUMN tally.slo.tenant_id IS 'the tenant';
COMMENT ON COLUMN tally.slo.freshness_target IS 'longest time since the last accepted event; null where none is promised';
COMMENT ON COLUMN tally.slo.freshness IS 'time since the last accepted event; null where there is none';
COMMENT ON COLUMN tally.slo.freshness_met IS 'whether it is within the target; true where none is promised';
COMMENT ON COLUMN tally.slo.latency_target IS 'longest time from occurring to being accepted and shown; null where none is promised';
COMMENT ON COLUMN tally.slo.latency_p99 IS 'that of all but the latest 1 % of the events of the last 24 hours';
COMMENT ON COLUMN tally.slo.events IS 'events that occurred in the last 24 hours';
COMMENT ON COLUMN tally.slo.share IS 'fraction of them within the target';
COMMENT ON COLUMN tally.slo.share_target IS 'fraction that must be';
COMMENT ON COLUMN tally.slo.latency_met IS 'whether it is; true where there were no events, or no latency is promised';
ALTER VIEW tally.slo OWNER TO tally_owner;
REVOKE ALL ON tally.slo FROM PUBLIC;
GRANT SELECT ON tally.slo TO tally_analyst;

ALTER FUNCTION tally.set_slo(text, interval, interval, float8) OWNER TO tally_owner;
REVOKE ALL ON FUNCTION tally_internal.probe_send(), tally_internal.probe_shown(timestamptz), tally.set_slo(text, interval, interval, float8) FROM PUBLIC;
REVOKE ALL ON PROCEDURE tally.probe() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tally_internal.probe_send(), tally_internal.probe_shown(timestamptz), tally.set_slo(text, interval, interval, float8) TO tally_admin;
GRANT EXECUTE ON PROCEDURE tally.probe() TO tally_admin;

CREATE FUNCTION tally_internal.health_probe()
  RETURNS TABLE (place int4, component text, status text, value float8, "limit" float8, advice text)
  LANGUAGE plpgsql STABLE PARALLEL UNSAFE STRICT
  SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  place := 11;
  component := 'probe';
  value := (SELECT round((extract(epoch FROM coalesce(p.shown_at, clock_timestamp()) - p.sent_at) * 1000)::numeric, 1)
              FROM tally.probe_result AS p WHERE p.sent_at <= clock_timestamp() ORDER BY p.sent_at DESC LIMIT 1);
  "limit" := 1000;
  status := CASE WHEN value > 10 * "limit" THEN 'failing' WHEN value > "limit" THEN 'warning' ELSE 'ok' END;
  advice := CASE WHEN value IS NULL THEN 'no probe has run; to measure from sending to showing, schedule CALL tally.probe()'
                 WHEN value > "limit" THEN format('it took %s ms until the last probe''s event was shown: look for locks and load in pg_stat_activity', value) END;
  RETURN NEXT;
END
$$;
COMMENT ON FUNCTION tally_internal.health_probe() IS 'part of tally.health(): how long the last probe took';
REVOKE ALL ON FUNCTION tally_internal.health_probe() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tally_internal.health_probe() TO tally_admin;
