-- Access anomalies: what each actor does in a day, from the audit log, and days that differ from that actor's own past.

CREATE TABLE tally.access_day (
  updated_at timestamptz NOT NULL DEFAULT now(),
  rows       int8 NOT NULL,
  denials    int8 NOT NULL,
  day        date NOT NULL,
  actor      text COLLATE "C" NOT NULL,
  hours      int8[] NOT NULL,
  tenants    text[] NOT NULL,
  CONSTRAINT access_day_pkey PRIMARY KEY (actor, day),
  CONSTRAINT access_day_has_24_hours CHECK (cardinality(hours) = 24)
);
COMMENT ON TABLE tally.access_day IS 'what each login did in a day, summed up from the audit log; kept for 400 days';
COMMENT ON COLUMN tally.access_day.updated_at IS 'when it was summed up';
COMMENT ON COLUMN tally.access_day.rows IS 'rows that its statements returned, as far as reads are recorded';
COMMENT ON COLUMN tally.access_day.denials IS 'attempts that were denied';
COMMENT ON COLUMN tally.access_day.day IS 'the day, in UTC';
COMMENT ON COLUMN tally.access_day.actor IS 'the role that logged in';
COMMENT ON COLUMN tally.access_day.hours IS 'entries in each hour';
COMMENT ON COLUMN tally.access_day.tenants IS 'the tenants that it touched, 2,000 at most';

CREATE TABLE tally.access_alert (
  raised_at  timestamptz NOT NULL DEFAULT now(),
  state_at   timestamptz NOT NULL DEFAULT now(),
  value      float8 NOT NULL,
  usual      float8 NOT NULL,
  alert_id   uuid NOT NULL DEFAULT gen_random_uuid() CONSTRAINT access_alert_pkey PRIMARY KEY,
  first_day  date NOT NULL,
  last_day   date NOT NULL,
  actor      text COLLATE "C" NOT NULL,
  kind       text COLLATE "C" NOT NULL,
  state      text COLLATE "C" NOT NULL DEFAULT 'open',
  state_by   name NOT NULL DEFAULT session_user,
  note       text COLLATE "C",
  CONSTRAINT access_alert_kind_known CHECK (kind IN ('volume', 'hours', 'tenants', 'denials', 'slow')),
  CONSTRAINT access_alert_state_known CHECK (state IN ('open', 'acknowledged', 'closed'))
);
CREATE UNIQUE INDEX access_alert_one_a_cause ON tally.access_alert (actor, kind) WHERE state <> 'closed';
COMMENT ON TABLE tally.access_alert IS 'logins that read otherwise than they used to, one alert a login and kind until it is closed';
COMMENT ON COLUMN tally.access_alert.raised_at IS 'when it was found';
COMMENT ON COLUMN tally.access_alert.state_at IS 'when its state was set';
COMMENT ON COLUMN tally.access_alert.value IS 'what was seen on the last day: rows, entries in strange hours, new tenants or denials; of slow, in the last 14 days, or on a usual day of theirs';
COMMENT ON COLUMN tally.access_alert.usual IS 'what was usual before';
COMMENT ON COLUMN tally.access_alert.alert_id IS 'the alert';
COMMENT ON COLUMN tally.access_alert.first_day IS 'the first day that differs';
COMMENT ON COLUMN tally.access_alert.last_day IS 'the last one';
COMMENT ON COLUMN tally.access_alert.actor IS 'the role that logged in';
COMMENT ON COLUMN tally.access_alert.kind IS
  'volume: far more rows than ever; hours: at hours at which it never works; tenants: many that it never touched; denials: many attempts that were denied; slow: somewhat more, day after day';
COMMENT ON COLUMN tally.access_alert.state IS 'open, acknowledged or closed';
COMMENT ON COLUMN tally.access_alert.state_by IS 'the role that logged in and set it';
COMMENT ON COLUMN tally.access_alert.note IS 'what whoever set it said';
ALTER TABLE tally.access_day OWNER TO tally_owner;
ALTER TABLE tally.access_alert OWNER TO tally_owner;
REVOKE ALL ON tally.access_day, tally.access_alert FROM PUBLIC;
SELECT tally_internal.confine_table('tally.access_day'), tally_internal.confine_table('tally.access_alert');
GRANT SELECT ON tally.access_day, tally.access_alert TO tally_auditor;
SELECT pg_catalog.pg_extension_config_dump('tally.access_day', '');
SELECT pg_catalog.pg_extension_config_dump('tally.access_alert', '');
SELECT tally_internal.record_changes_of('tally.access_alert', 'access_alert', 'actor', '{note}');

CREATE FUNCTION tally_internal.judge_access(days jsonb, from_day int4, peers jsonb) RETURNS TABLE (day int4, kind text, value float8, usual float8)
  LANGUAGE c IMMUTABLE PARALLEL SAFE STRICT AS 'MODULE_PATHNAME', 'judge_access_wrapper';
COMMENT ON FUNCTION tally_internal.judge_access(jsonb, int4, jsonb) IS
  'what differs, from a day on, in an actor''s days, against its own past or, where it has none, its colleagues'' great days; days are numbered from a Monday';

CREATE FUNCTION tally_internal.sum_access(since timestamptz) RETURNS int8
  LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE STRICT
  SET search_path = pg_catalog, pg_temp
  SET timezone = 'UTC'
AS $$
DECLARE
  changed int8;
BEGIN
  WITH entry AS (
    SELECT e.at, e.actor, e.tenant_id, e.act, d.detail,
           CASE WHEN e.act = 'denied' THEN coalesce((d.detail ->> 'times')::int8, 1) ELSE 0 END AS denials,
           CASE WHEN e.act = 'read' THEN coalesce((d.detail ->> 'rows')::int8, 0) ELSE 0 END AS rows
      FROM tally.audit_entry AS e CROSS JOIN LATERAL (SELECT CASE WHEN e.act IN ('denied', 'read') THEN e.detail::jsonb END) AS d (detail)
     WHERE e.at >= date_trunc('day', since)
  ), day AS (
    SELECT e.actor, e.at::date AS day, sum(e.rows) AS rows, sum(e.denials) AS denials,
           coalesce((array_agg(DISTINCT e.tenant_id) FILTER (WHERE e.tenant_id <> ''))[1:2000], '{}') AS tenants
      FROM entry AS e GROUP BY e.actor, e.at::date
  ), hour AS (
    SELECT e.actor, e.at::date AS day, extract(hour FROM e.at)::int4 AS hour, count(*) AS entries FROM entry AS e GROUP BY 1, 2, 3
  ), hours AS (
    SELECT d.actor, d.day, array_agg(coalesce(h.entries, 0) ORDER BY n.hour) AS entries
      FROM day AS d CROSS JOIN generate_series(0, 23) AS n (hour) LEFT JOIN hour AS h ON h.actor = d.actor AND h.day = d.day AND h.hour = n.hour
     GROUP BY d.actor, d.day
  )
  INSERT INTO tally.access_day AS a (rows, denials, day, actor, hours, tenants)
  SELECT d.rows, d.denials, d.day, d.actor, h.entries, d.tenants
    FROM day AS d JOIN hours AS h ON h.actor = d.actor AND h.day = d.day
  ON CONFLICT ON CONSTRAINT access_day_pkey DO UPDATE
    SET updated_at = excluded.updated_at, rows = excluded.rows, denials = excluded.denials, hours = excluded.hours, tenants = excluded.tenants;
  GET DIAGNOSTICS changed = ROW_COUNT;
  RETURN changed;
END
$$;
COMMENT ON FUNCTION tally_internal.sum_access(timestamptz) IS 'sums up what actors did, from the day of a moment on; returns how many days of actors';

CREATE FUNCTION tally.find_access_alerts(since timestamptz DEFAULT now() - interval '1 day') RETURNS SETOF tally.access_alert
  LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE CALLED ON NULL INPUT SECURITY DEFINER
  SET search_path = pg_catalog, pg_temp
  SET timezone = 'UTC'
AS $$
DECLARE
  monday constant date := '2000-01-03';
  peers  jsonb;
  found  record;
  alert  tally.access_alert;
BEGIN
  IF since IS NULL THEN
    RAISE EXCEPTION USING ERRCODE = 'null_value_not_allowed', MESSAGE = 'since must not be null',
      HINT = 'leave it out for the last day';
  END IF;
  PERFORM tally_internal.refuse_confined();
  IF NOT isfinite(since) THEN
    RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = 'since must not be infinite', HINT = 'name a day, such as now() or 2026-03-01';
  END IF;
  -- One at a time.
  LOCK TABLE tally.access_alert IN SHARE ROW EXCLUSIVE MODE;
  PERFORM tally_internal.sum_access(since);
  -- What most who have a past stay below on most days. The greatest is left out, of however few: one that reads everything each night is
  -- no measure for others.
  SELECT CASE WHEN count(*) >= 5
              THEN jsonb_build_object('rows', (array_agg(p.rows ORDER BY p.rows))[least(ceil(0.95 * count(*)), count(*) - 1)::int4],
                                      'tenants', (array_agg(p.tenants ORDER BY p.tenants))[least(ceil(0.95 * count(*)), count(*) - 1)::int4])
              ELSE '{}' END INTO peers
    FROM (SELECT percentile_disc(0.95) WITHIN GROUP (ORDER BY a.rows) AS rows, percentile_disc(0.95) WITHIN GROUP (ORDER BY cardinality(a.tenants)) AS tenants
            FROM tally.access_day AS a WHERE a.day >= since::date - 90 GROUP BY a.actor HAVING count(*) >= 20) AS p;
  FOR found IN
    SELECT d.actor, j.* , monday + j.day AS date
      FROM (SELECT a.actor, jsonb_agg(jsonb_build_object('day', a.day - monday, 'rows', a.rows, 'denials', a.denials, 'hours', a.hours, 'tenants', a.tenants)) AS days
              FROM tally.access_day AS a GROUP BY a.actor HAVING max(a.day) >= since::date) AS d
      CROSS JOIN LATERAL tally_internal.judge_access(d.days, since::date - monday, peers) AS j
     ORDER BY j.day, d.actor, j.kind
  LOOP
    SELECT a.* INTO alert FROM tally.access_alert AS a WHERE a.actor = found.actor AND a.kind = found.kind ORDER BY a.state <> 'closed' DESC, a.last_day DESC LIMIT 1;
    -- The same day again, or one that somebody has closed.
    CONTINUE WHEN alert.last_day >= found.date AND (alert.state = 'closed' OR alert.last_day > found.date OR alert.value >= found.value);
    IF alert.state <> 'closed' THEN
      UPDATE tally.access_alert AS a SET last_day = found.date, value = found.value, usual = found.usual WHERE a.alert_id = alert.alert_id RETURNING a.* INTO alert;
    ELSE
      INSERT INTO tally.access_alert AS a (value, usual, first_day, last_day, actor, kind)
      VALUES (found.value, found.usual, found.date, found.date, found.actor, found.kind) RETURNING a.* INTO alert;
    END IF;
    RETURN NEXT alert;
  END LOOP;
  DELETE FROM tally.access_day AS a WHERE a.day < (now() - interval '400 days')::date;
END
$$;
COMMENT ON FUNCTION tally.find_access_alerts(timestamptz) IS
  'judges each login''s days from a moment on against its own past; returns the alerts that it raised or went on with. Housekeeping does so each hour';

CREATE FUNCTION tally.set_alert_state(alert_id uuid, state text, note text DEFAULT NULL) RETURNS void
  LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE CALLED ON NULL INPUT SECURITY DEFINER
  SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  PERFORM tally_internal.refuse_confined(), tally_internal.check_words('note', set_alert_state.note);
  IF set_alert_state.state IS NULL OR set_alert_state.state NOT IN ('open', 'acknowledged', 'closed') THEN
    RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = format('"%s" is no state of an alert', coalesce(set_alert_state.state, 'null')),
      HINT = 'open, acknowledged or closed';
  END IF;
  UPDATE tally.access_alert AS a SET state = set_alert_state.state, note = coalesce(set_alert_state.note, a.note), state_at = now(), state_by = session_user
   WHERE a.alert_id = set_alert_state.alert_id;
  IF NOT FOUND THEN
    RAISE EXCEPTION USING ERRCODE = 'undefined_object', MESSAGE = format('there is no alert %s', coalesce(set_alert_state.alert_id::text, 'null')), HINT = 'tally.access_alert lists them';
  END IF;
END
$$;
COMMENT ON FUNCTION tally.set_alert_state(uuid, text, text) IS
  'says that somebody looks after an alert (acknowledged), that it is over (closed), or that it is not (open)';

CREATE FUNCTION tally_internal.access_was_judged() RETURNS timestamptz
  LANGUAGE sql STABLE PARALLEL SAFE STRICT SECURITY DEFINER
  SET search_path = pg_catalog, pg_temp
  BEGIN ATOMIC
    SELECT max(a.updated_at) FROM tally.access_day AS a WHERE a.updated_at <= clock_timestamp();
  END;
COMMENT ON FUNCTION tally_internal.access_was_judged() IS 'when what actors did was summed up last';

CREATE FUNCTION tally_internal.task_access() RETURNS TABLE (place int4, subject text)
  LANGUAGE sql STABLE PARALLEL SAFE STRICT
  SET search_path = pg_catalog, pg_temp
  BEGIN ATOMIC
    SELECT 8, ''::text;
  END;
COMMENT ON FUNCTION tally_internal.task_access() IS 'task of maintain(): looks for access anomalies, once an hour';

CREATE FUNCTION tally_internal.step_access(subject text, max_rows int8, OUT done int8, OUT is_over boolean) RETURNS record
  LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE STRICT
  SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  judged timestamptz := tally_internal.access_was_judged();
BEGIN
  done := 0;
  is_over := true;
  IF coalesce(judged < now() - interval '1 hour', true) THEN
    done := (SELECT count(*) FROM tally.find_access_alerts(least(now(), coalesce(judged, now())) - interval '1 day') AS a);
  END IF;
END
$$;
COMMENT ON FUNCTION tally_internal.step_access(text, int8) IS 'one step of it; says how much it did, and whether nothing is left for now';

ALTER FUNCTION tally.find_access_alerts(timestamptz) OWNER TO tally_owner;
ALTER FUNCTION tally.set_alert_state(uuid, text, text) OWNER TO tally_owner;
ALTER FUNCTION tally_internal.access_was_judged() OWNER TO tally_owner;
REVOKE ALL ON FUNCTION tally_internal.judge_access(jsonb, int4, jsonb), tally_internal.sum_access(timestamptz), tally.find_access_alerts(timestamptz),
  tally.set_alert_state(uuid, text, text), tally_internal.access_was_judged(), tally_internal.task_access(), tally_internal.step_access(text, int8) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tally_internal.judge_access(jsonb, int4, jsonb), tally_internal.sum_access(timestamptz) TO tally_owner;
GRANT EXECUTE ON FUNCTION tally_internal.access_was_judged(), tally_internal.task_access(), tally_internal.step_access(text, int8) TO tally_admin;
GRANT EXECUTE ON FUNCTION tally.find_access_alerts(timestamptz), tally.set_alert_state(uuid, text, text) TO tally_auditor;
