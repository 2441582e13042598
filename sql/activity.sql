-- Activity of the units in scope: who was active when, and how often. docs/metrics.md has the definitions.

CREATE FUNCTION tally.active_users(days daterange, unit text DEFAULT 'user',
    OUT day date, OUT dau int8, OUT wau int8, OUT mau int8, OUT stickiness float8)
  RETURNS SETOF record
  LANGUAGE plpgsql STABLE PARALLEL SAFE CALLED ON NULL INPUT
  SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
  first_day date := lower(active_users.days);
  end_day   date := upper(active_users.days);
BEGIN
  PERFORM tally.check_metric_unit(active_users.unit);
  IF first_day IS NULL OR end_day IS NULL OR NOT isfinite(first_day) OR NOT isfinite(end_day) THEN
    RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
      MESSAGE = 'days must be a range with a first and a last day',
      HINT = 'such as daterange(''2026-01-01'', ''2026-02-01''), which ends before its upper bound';
  END IF;
  RETURN QUERY
    WITH active AS (
      SELECT DISTINCT e.tenant_id, CASE active_users.unit WHEN 'user' THEN e.user_id ELSE e.account_id END AS unit_id,
             (e.occurred_at AT TIME ZONE 'UTC')::date AS day
        FROM tally.events AS e
       WHERE e.occurred_at >= (first_day - 29)::timestamp AT TIME ZONE 'UTC'
         AND e.occurred_at < end_day::timestamp AT TIME ZONE 'UTC'
         AND (active_users.unit = 'account' OR e.user_id IS NOT NULL)
    ), spell AS (
      SELECT a.day, lead(a.day, 1, 'infinity') OVER (PARTITION BY a.tenant_id, a.unit_id ORDER BY a.day) AS next_day
        FROM active AS a
    ), edge AS (
      -- A day of activity keeps its unit in the count for 1, 7 or 30 days, or until its next one takes over.
      SELECT g.day, sum(g.d) AS d, sum(g.w) AS w, sum(g.m) AS m
        FROM (SELECT s.day, 1 AS d, 1 AS w, 1 AS m FROM spell AS s
              UNION ALL SELECT s.day + 1, -1, 0, 0 FROM spell AS s
              UNION ALL SELECT least(s.day + 7, s.next_day), 0, -1, 0 FROM spell AS s
              UNION ALL SELECT least(s.day + 30, s.next_day), 0, 0, -1 FROM spell AS s
              UNION ALL SELECT first_day + n, 0, 0, 0 FROM generate_series(0, end_day - first_day - 1) AS n) AS g
       GROUP BY g.day
    ), running AS (
      SELECT e.day, (sum(e.d) OVER days)::int8 AS dau, (sum(e.w) OVER days)::int8 AS wau,
             (sum(e.m) OVER days)::int8 AS mau
        FROM edge AS e WINDOW days AS (ORDER BY e.day)
    )
    SELECT r.day, r.dau, r.wau, r.mau, r.dau / nullif(r.mau, 0)::float8
      FROM running AS r WHERE r.day >= first_day AND r.day < end_day ORDER BY r.day;
END
$$;
COMMENT ON FUNCTION tally.active_users(daterange, text) IS
  'for each day (UTC) the units in scope active on it, in the 7 and in the 30 days that end with it, and the share of the last that the first is';

CREATE FUNCTION tally.did_at_least(event text, n int8, "from" timestamptz, "to" timestamptz, unit text DEFAULT 'user',
    OUT tenant_id text, OUT unit_id text, OUT times int8, OUT first_at timestamptz, OUT last_at timestamptz)
  RETURNS SETOF record
  LANGUAGE plpgsql STABLE PARALLEL SAFE CALLED ON NULL INPUT
  SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
  PERFORM tally.check_metric_range(did_at_least."from", did_at_least."to"), tally.check_metric_unit(did_at_least.unit);
  IF did_at_least.n IS NULL OR did_at_least.n < 1 THEN
    RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
      MESSAGE = format('n must be 1 or more, not %s', coalesce(did_at_least.n::text, 'null')),
      HINT = 'units without the event are not listed: nothing says that there is such a unit';
  END IF;
  RETURN QUERY
    SELECT e.tenant_id, CASE did_at_least.unit WHEN 'user' THEN e.user_id ELSE e.account_id END, count(*),
           min(e.occurred_at), max(e.occurred_at)
      FROM tally.events AS e
     WHERE e.occurred_at >= did_at_least."from" AND e.occurred_at < did_at_least."to"
       AND (did_at_least.event IS NULL OR e.name = did_at_least.event)
       AND (did_at_least.unit = 'account' OR e.user_id IS NOT NULL)
     GROUP BY 1, 2 HAVING count(*) >= did_at_least.n ORDER BY 1, 2;
END
$$;
COMMENT ON FUNCTION tally.did_at_least(text, int8, timestamptz, timestamptz, text) IS
  'the units in scope with at least n events of a name from "from" to "to"; a null event is any event';

CREATE FUNCTION tally.account_health(account text, as_of timestamptz DEFAULT now(), zone text DEFAULT 'UTC',
    OUT account_id text, OUT status text, OUT first_seen timestamp, OUT last_seen timestamp, OUT days_since int4,
    OUT events_30d int8, OUT events_before int8, OUT trend float8, OUT users_30d int8, OUT users_before int8,
    OUT active_days_30d int8)
  RETURNS record
  LANGUAGE plpgsql STABLE PARALLEL SAFE CALLED ON NULL INPUT
  SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
  tenants int8;
  seen    timestamptz;
BEGIN
  IF account_health.account IS NULL OR account_health.as_of IS NULL OR NOT isfinite(account_health.as_of) THEN
    RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
      MESSAGE = 'account and as_of must not be null, nor as_of infinite', HINT = 'name one account of the tenant in scope';
  END IF;
  -- Thirty times 24 hours up to as_of, and the thirty before them.
  SELECT account_health.account, min(e.occurred_at) AT TIME ZONE account_health.zone,
         max(e.occurred_at) AT TIME ZONE account_health.zone, max(e.occurred_at), count(DISTINCT e.tenant_id),
         count(*) FILTER (WHERE e.occurred_at >= a.half), count(*) FILTER (WHERE e.occurred_at >= a.start AND e.occurred_at < a.half),
         count(DISTINCT e.user_id) FILTER (WHERE e.occurred_at >= a.half),
         count(DISTINCT e.user_id) FILTER (WHERE e.occurred_at >= a.start AND e.occurred_at < a.half),
         count(DISTINCT (e.occurred_at AT TIME ZONE 'UTC')::date) FILTER (WHERE e.occurred_at >= a.half)
    INTO account_id, first_seen, last_seen, seen, tenants, events_30d, events_before, users_30d, users_before,
         active_days_30d
    FROM (SELECT account_health.as_of - interval '720 hours' AS half, account_health.as_of - interval '1440 hours' AS start) AS a
    LEFT JOIN tally.events AS e ON e.account_id = account_health.account AND e.occurred_at < account_health.as_of
     WHERE true;
  IF tenants > 1 THEN
    RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
      MESSAGE = format('account %s exists in %s tenants', quote_ident(account_health.account), tenants),
      HINT = 'enter one tenant''s scope first, with tally.enter(tenant)';
  END IF;
  IF seen IS NULL THEN
    events_30d := 0;
  END IF;
  days_since := floor(extract(epoch FROM account_health.as_of - seen) / 86400);
  trend := events_30d / nullif(events_before, 0)::float8;
  status := CASE WHEN seen IS NULL THEN 'never' WHEN events_30d = 0 THEN 'dormant'
                 WHEN 2 * events_30d < events_before THEN 'declining' ELSE 'active' END;
END
$$;
COMMENT ON FUNCTION tally.account_health(text, timestamptz, text) IS
  'one row on one account in scope: seen first and last (local time of a zone), events, users and active days of the 30 days up to as_of and of the 30 before, and a status';

REVOKE ALL ON FUNCTION tally.retention(text, text, text, timestamptz, timestamptz, text, text, int4[]),
  tally.activation(text, text, interval, timestamptz, timestamptz, text, text),
  tally.revenue(timestamptz, timestamptz, text, text, text, text), tally.active_users(daterange, text),
  tally.did_at_least(text, int8, timestamptz, timestamptz, text),
  tally.account_health(text, timestamptz, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tally.retention(text, text, text, timestamptz, timestamptz, text, text, int4[]),
  tally.activation(text, text, interval, timestamptz, timestamptz, text, text),
  tally.revenue(timestamptz, timestamptz, text, text, text, text), tally.active_users(daterange, text),
  tally.did_at_least(text, int8, timestamptz, timestamptz, text),
  tally.account_health(text, timestamptz, text) TO tally_reader;
