-- Activity of the units in scope: who was active when, and how often. docs/metrics.md has the definitions.

CREATE FUNCTION tally.active_users(days daterange, unit text DEFAULT 'user', account text DEFAULT NULL,
    OUT day date, OUT dau int8, OUT wau int8, OUT mau int8, OUT stickiness float8, OUT complete boolean)
  RETURNS SETOF record
  LANGUAGE plpgsql STABLE PARALLEL SAFE CALLED ON NULL INPUT
  SET search_path = pg_catalog, pg_temp
  SET enable_sort = off
  SET jit = off
AS $$
#variable_conflict use_column
DECLARE
  first_day date := lower(active_users.days);
  end_day   date := upper(active_users.days);
  -- The buckets, a year each, that can hold the range's days and the 29 before them.
  first_year timestamptz;
  end_at    timestamptz;
  counts    int8[];
BEGIN
  PERFORM tally_internal.warn_unconfined(), tally_internal.check_metric_unit(active_users.unit);
  -- Dates go further than times do.
  IF first_day IS NULL OR end_day IS NULL OR NOT isfinite(first_day) OR NOT isfinite(end_day)
     OR first_day < date '4712-01-01 BC' OR end_day > date '294276-01-01' THEN
    RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
      MESSAGE = 'days must be a range with a first and a last day',
      HINT = 'such as daterange(''2026-01-01'', ''2026-02-01''), which ends before its upper bound';
  END IF;
  first_year := date_trunc('year', (first_day - 29)::timestamp) AT TIME ZONE 'UTC';
  end_at := end_day::timestamp AT TIME ZONE 'UTC';
  -- As in tally.retention.
  IF active_users.unit = 'user' THEN
    WITH pending AS MATERIALIZED (
      SELECT tally_internal.unit_parts(a.tenant_id, a.user_id, a.days, 2) AS parts FROM tally.user_activity_pending AS a
       WHERE a.user_id IS NOT NULL AND a.bucket BETWEEN first_year AND end_at
         AND (active_users.account IS NULL OR a.account_id = active_users.account)
    ), folded AS MATERIALIZED (
      SELECT tally_internal.active_counts(p.tenant_id, p.user_id, p.days, first_day, end_day, (SELECT parts FROM pending)) AS numbers
        FROM (SELECT a.tenant_id, a.user_id, a.days FROM tally.user_activity_year_base AS a
               WHERE a.user_id IS NOT NULL AND a.bucket BETWEEN first_year AND end_at
                 AND (active_users.account IS NULL OR a.account_id = active_users.account) ORDER BY a.tenant_id, a.user_id) AS p
    )
    SELECT coalesce(f.numbers, (SELECT tally_internal.active_counts('', '', NULL, first_day, end_day, p.parts) FROM pending AS p))
      INTO counts FROM folded AS f;
  ELSE
    SELECT tally_internal.active_counts(p.tenant_id, p.account_id, p.days, first_day, end_day, NULL) INTO counts
      FROM (SELECT g.* FROM (
              SELECT a.tenant_id, a.account_id, tally.union_days(a.days) AS days FROM tally_internal.user_activity_part AS a
               WHERE a.bucket BETWEEN first_year AND end_at AND (active_users.account IS NULL OR a.account_id = active_users.account)
               GROUP BY 1, 2 OFFSET 0) AS g
             ORDER BY g.tenant_id, g.account_id) AS p;
  END IF;
  counts := coalesce(counts, array_fill(0::int8, ARRAY[3 * (end_day - first_day)]));
  RETURN QUERY
    SELECT first_day + n, counts[3 * n + 1], counts[3 * n + 2], counts[3 * n + 3],
           counts[3 * n + 1] / nullif(counts[3 * n + 3], 0)::float8, first_day + n < (statement_timestamp() AT TIME ZONE 'UTC')::date
      FROM generate_series(0, end_day - first_day - 1) AS n ORDER BY n;
END
$$;
COMMENT ON FUNCTION tally.active_users(daterange, text, text) IS
  'for each day (UTC) the units in scope active on it, in the 7 and in the 30 days that end with it, and the share of the last that the first is; of one account where that is given';

CREATE FUNCTION tally.session_metrics("from" timestamptz, "to" timestamptz, grain text DEFAULT 'day', account text DEFAULT NULL,
    OUT period date, OUT sessions int8, OUT bounced int8, OUT bounce_rate float8, OUT events int8, OUT mean_seconds float8,
    OUT median_seconds float8, OUT p90_seconds float8, OUT complete boolean)
  RETURNS SETOF record
  LANGUAGE plpgsql STABLE PARALLEL SAFE CALLED ON NULL INPUT
  SET search_path = pg_catalog, pg_temp
  SET timezone = 'UTC'
AS $$
#variable_conflict use_column
BEGIN
  PERFORM tally_internal.warn_unconfined(), tally_internal.check_metric_range(session_metrics."from", session_metrics."to"),
          tally_internal.check_metric_grain(session_metrics.grain);
  RETURN QUERY
    WITH counted AS (
      SELECT tally_internal.period_number(session_metrics.grain, s.started_at) AS number, count(*) AS sessions,
             count(*) FILTER (WHERE s.events = 1) AS bounced, sum(s.events)::int8 AS events,
             sum((extract(epoch FROM s.ended_at - s.started_at) * 1000000)::int8)::float8 / count(*) / 1000000 AS mean,
             percentile_disc(ARRAY[0.5, 0.9]) WITHIN GROUP (ORDER BY s.ended_at - s.started_at) AS lengths
        FROM tally.sessions AS s
       WHERE s.started_at >= session_metrics."from" AND s.started_at < session_metrics."to"
         AND (session_metrics.account IS NULL OR s.account_id = session_metrics.account)
       GROUP BY 1
    )
    SELECT p.first_day, coalesce(c.sessions, 0), coalesce(c.bounced, 0), c.bounced / c.sessions::float8,
           coalesce(c.events, 0), c.mean, extract(epoch FROM c.lengths[1])::float8, extract(epoch FROM c.lengths[2])::float8,
           p.whole AND p.ends <= statement_timestamp()
      FROM tally_internal.metric_periods(session_metrics.grain, session_metrics."from", session_metrics."to") AS p
      LEFT JOIN counted AS c ON c.number = p.number ORDER BY p.number;
END
$$;
COMMENT ON FUNCTION tally.session_metrics(timestamptz, timestamptz, text, text) IS
  'the sessions in scope that began in each day, week or month (UTC): how many, how many of one event alone, and how long they were; of one account where that is given';

CREATE FUNCTION tally.did_at_least(event text, n int8, "from" timestamptz, "to" timestamptz, unit text DEFAULT 'user', account text DEFAULT NULL,
    OUT tenant_id text, OUT unit_id text, OUT times int8, OUT first_at timestamptz, OUT last_at timestamptz,
    OUT exact boolean, OUT whole_from timestamptz)
  RETURNS SETOF record
  LANGUAGE plpgsql STABLE PARALLEL SAFE CALLED ON NULL INPUT
  SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
  lost timestamptz;
BEGIN
  PERFORM tally_internal.warn_unconfined(), tally_internal.check_metric_range(did_at_least."from", did_at_least."to"), tally_internal.check_metric_unit(did_at_least.unit);
  IF did_at_least.n IS NULL OR did_at_least.n < 1 THEN
    RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
      MESSAGE = format('n must be 1 or more, not %s', coalesce(did_at_least.n::text, 'null')),
      HINT = 'units without the event are not listed: nothing says that there is such a unit';
  END IF;
  lost := tally_internal.times_lost_until(did_at_least.event, did_at_least."from", did_at_least."to", did_at_least.unit, did_at_least.account);
  PERFORM tally_internal.refuse_incomplete(lost);
  IF did_at_least.unit = 'account' AND lost IS NULL THEN
    RETURN QUERY
      WITH horizon AS MATERIALIZED (SELECT * FROM tally_internal.raw_horizons())
      SELECT t.tenant_id, t.account_id, sum(t.times)::int8, min(t.first_at), max(t.last_at), true, NULL::timestamptz
        FROM (SELECT e.tenant_id, e.account_id, count(*) AS times, min(e.occurred_at) AS first_at, max(e.occurred_at) AS last_at
                FROM tally.events AS e LEFT JOIN horizon AS h ON h.tenant_id COLLATE "C" = e.tenant_id
               WHERE e.occurred_at >= did_at_least."from" AND e.occurred_at < did_at_least."to"
                 AND (did_at_least.event IS NULL OR e.name = did_at_least.event)
                 AND (did_at_least.account IS NULL OR e.account_id = did_at_least.account)
                 AND (h.whole_from IS NULL OR e.occurred_at >= h.whole_from)
               GROUP BY 1, 2
              UNION ALL
              -- Hours that an end of the range divides there are none: then something is lost.
              SELECT u.tenant_id, u.account_id, u.events, u.first_at, u.last_at
                FROM horizon AS h JOIN tally_internal.usage_hour_part AS u ON u.tenant_id = h.tenant_id COLLATE "C"
               WHERE u.bucket < h.whole_from AND u.first_at >= did_at_least."from" AND u.last_at < did_at_least."to"
                 AND u.bucket >= date_trunc('hour', did_at_least."from", 'UTC') AND u.bucket < did_at_least."to"
                 AND (did_at_least.account IS NULL OR u.account_id = did_at_least.account)
                 AND (did_at_least.event IS NULL OR u.name = did_at_least.event)) AS t
       GROUP BY 1, 2 HAVING sum(t.times) >= did_at_least.n ORDER BY 1, 2;
    RETURN;
  END IF;
  RETURN QUERY
    SELECT e.tenant_id, CASE did_at_least.unit WHEN 'user' THEN e.user_id ELSE e.account_id END, count(*),
           min(e.occurred_at), max(e.occurred_at), lost IS NULL, lost
      FROM tally.events AS e
     WHERE e.occurred_at >= did_at_least."from" AND e.occurred_at < did_at_least."to"
       AND (did_at_least.event IS NULL OR e.name = did_at_least.event)
       AND (did_at_least.account IS NULL OR e.account_id = did_at_least.account)
       AND (did_at_least.unit = 'account' OR e.user_id IS NOT NULL)
     GROUP BY 1, 2 HAVING count(*) >= did_at_least.n ORDER BY 1, 2;
END
$$;
COMMENT ON FUNCTION tally.did_at_least(text, int8, timestamptz, timestamptz, text, text) IS
  'the units in scope with at least n events of a name from "from" to "to"; a null event is any event; of one account where that is given';

CREATE FUNCTION tally.account_health(account text, as_of timestamptz DEFAULT now(), zone text DEFAULT 'UTC',
    OUT account_id text, OUT status text, OUT first_seen timestamp, OUT last_seen timestamp, OUT days_since int4,
    OUT events_30d int8, OUT events_before int8, OUT trend float8, OUT users_30d int8, OUT users_before int8,
    OUT active_days_30d int8, OUT exact boolean, OUT whole_from timestamptz)
  RETURNS record
  LANGUAGE plpgsql STABLE PARALLEL SAFE CALLED ON NULL INPUT
  SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
  tenants int8;
  began   timestamptz;
  seen    timestamptz;
  half    timestamptz := account_health.as_of - interval '720 hours';
BEGIN
  IF account_health.account IS NULL OR account_health.as_of IS NULL OR NOT isfinite(account_health.as_of) THEN
    RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
      MESSAGE = 'account and as_of must not be null, nor as_of infinite', HINT = 'name one account of the tenant in scope';
  END IF;
  PERFORM tally_internal.warn_unconfined();
  -- Thirty times 24 hours up to as_of, and the thirty before them, from the raw events; all time from the rollup by day, whose
  -- days that the sixty divide lie in them as well.
  whole_from := tally_internal.lost_until(NULL, half - interval '720 hours', account_health.as_of, account_health.account);
  exact := whole_from IS NULL;
  SELECT account_health.account, min(u.first_at) FILTER (WHERE u.first_at < account_health.as_of),
         max(u.last_at) FILTER (WHERE u.last_at < account_health.as_of),
         count(DISTINCT u.tenant_id) FILTER (WHERE u.first_at < account_health.as_of)
    INTO account_id, began, seen, tenants
    FROM tally_internal.usage_day_part AS u WHERE u.account_id = account_health.account;
  IF tenants > 1 THEN
    RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
      MESSAGE = format('account %s exists in %s tenants', quote_ident(account_health.account), tenants),
      HINT = 'enter one tenant''s scope first, with tally.enter(tenant)';
  END IF;
  PERFORM tally_internal.refuse_incomplete(whole_from);
  SELECT greatest(seen, max(e.occurred_at)),
         count(*) FILTER (WHERE e.occurred_at >= half), count(*) FILTER (WHERE e.occurred_at < half),
         count(DISTINCT e.user_id) FILTER (WHERE e.occurred_at >= half), count(DISTINCT e.user_id) FILTER (WHERE e.occurred_at < half),
         count(DISTINCT (e.occurred_at AT TIME ZONE 'UTC')::date) FILTER (WHERE e.occurred_at >= half)
    INTO seen, events_30d, events_before, users_30d, users_before, active_days_30d
    FROM tally.events AS e
   WHERE e.account_id = account_health.account AND e.occurred_at >= half - interval '720 hours' AND e.occurred_at < account_health.as_of;
  first_seen := began AT TIME ZONE account_health.zone;
  last_seen := seen AT TIME ZONE account_health.zone;
  days_since := floor(extract(epoch FROM account_health.as_of - seen) / 86400);
  trend := events_30d / nullif(events_before, 0)::float8;
  status := CASE WHEN seen IS NULL THEN 'never' WHEN events_30d = 0 THEN 'dormant'
                 WHEN 2 * events_30d < events_before THEN 'declining' ELSE 'active' END;
END
$$;
COMMENT ON FUNCTION tally.account_health(text, timestamptz, text) IS
  'one row on one account in scope: seen first and last (local time of a zone), events, users and active days of the 30 days up to as_of and of the 30 before, and a status';

CREATE FUNCTION tally.accounts_health(as_of timestamptz DEFAULT now(), zone text DEFAULT 'UTC', account text DEFAULT NULL,
    OUT tenant_id text, OUT account_id text, OUT status text, OUT first_seen timestamp, OUT last_seen timestamp, OUT days_since int4,
    OUT events_30d int8, OUT events_before int8, OUT trend float8, OUT users_30d int8, OUT users_before int8,
    OUT active_days_30d int8, OUT exact boolean, OUT whole_from timestamptz)
  RETURNS SETOF record
  LANGUAGE plpgsql STABLE PARALLEL SAFE CALLED ON NULL INPUT
  SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
  lost timestamptz;
  half timestamptz := accounts_health.as_of - interval '720 hours';
BEGIN
  IF accounts_health.as_of IS NULL OR NOT isfinite(accounts_health.as_of) THEN
    RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
      MESSAGE = 'as_of must not be null or infinite', HINT = 'name a moment, such as now()';
  END IF;
  PERFORM tally_internal.warn_unconfined();
  lost := tally_internal.lost_until(NULL, half - interval '720 hours', accounts_health.as_of, accounts_health.account);
  PERFORM tally_internal.refuse_incomplete(lost);
  RETURN QUERY
    WITH known AS (
      SELECT u.tenant_id, u.account_id, min(u.first_at) FILTER (WHERE u.first_at < accounts_health.as_of) AS began,
             max(u.last_at) FILTER (WHERE u.last_at < accounts_health.as_of) AS seen
        FROM tally_internal.usage_day_part AS u
       WHERE accounts_health.account IS NULL OR u.account_id = accounts_health.account GROUP BY 1, 2
    ), recent AS (
      SELECT e.tenant_id, e.account_id, max(e.occurred_at) AS seen,
             count(*) FILTER (WHERE e.occurred_at >= half) AS events_now, count(*) FILTER (WHERE e.occurred_at < half) AS events_then,
             count(DISTINCT e.user_id) FILTER (WHERE e.occurred_at >= half) AS users_now,
             count(DISTINCT e.user_id) FILTER (WHERE e.occurred_at < half) AS users_then,
             count(DISTINCT (e.occurred_at AT TIME ZONE 'UTC')::date) FILTER (WHERE e.occurred_at >= half) AS days_now
        FROM tally.events AS e
       WHERE e.occurred_at >= half - interval '720 hours' AND e.occurred_at < accounts_health.as_of
         AND (accounts_health.account IS NULL OR e.account_id = accounts_health.account) GROUP BY 1, 2
    ), joined AS (
      SELECT k.tenant_id, k.account_id, k.began, greatest(k.seen, r.seen) AS seen, coalesce(r.events_now, 0) AS events_now,
             coalesce(r.events_then, 0) AS events_then, coalesce(r.users_now, 0) AS users_now, coalesce(r.users_then, 0) AS users_then,
             coalesce(r.days_now, 0) AS days_now
        FROM known AS k LEFT JOIN recent AS r ON r.tenant_id = k.tenant_id AND r.account_id = k.account_id
       WHERE k.began IS NOT NULL
    )
    SELECT j.tenant_id, j.account_id,
           CASE WHEN j.events_now = 0 THEN 'dormant' WHEN 2 * j.events_now < j.events_then THEN 'declining' ELSE 'active' END,
           j.began AT TIME ZONE accounts_health.zone, j.seen AT TIME ZONE accounts_health.zone,
           floor(extract(epoch FROM accounts_health.as_of - j.seen) / 86400)::int4, j.events_now, j.events_then,
           j.events_now / nullif(j.events_then, 0)::float8, j.users_now, j.users_then, j.days_now, lost IS NULL, lost
      FROM joined AS j ORDER BY 1, 2;
END
$$;
COMMENT ON FUNCTION tally.accounts_health(timestamptz, text, text) IS
  'tally.account_health for every account in scope that had an event before as_of, a row each; of one account where that is given';

REVOKE ALL ON FUNCTION tally.retention(text, text, text, timestamptz, timestamptz, text, text, int4[], text, text),
  tally.retention_curve(text, text, text, timestamptz, timestamptz, text, text, int4[], text, text),
  tally.session_metrics(timestamptz, timestamptz, text, text),
  tally.activation(text, text, interval, timestamptz, timestamptz, text, text, text),
  tally.revenue(timestamptz, timestamptz, text, text, text, text, text), tally.active_users(daterange, text, text),
  tally.did_at_least(text, int8, timestamptz, timestamptz, text, text),
  tally.account_health(text, timestamptz, text), tally.accounts_health(timestamptz, text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tally.retention(text, text, text, timestamptz, timestamptz, text, text, int4[], text, text),
  tally.retention_curve(text, text, text, timestamptz, timestamptz, text, text, int4[], text, text),
  tally.session_metrics(timestamptz, timestamptz, text, text),
  tally.activation(text, text, interval, timestamptz, timestamptz, text, text, text),
  tally.revenue(timestamptz, timestamptz, text, text, text, text, text), tally.active_users(daterange, text, text),
  tally.did_at_least(text, int8, timestamptz, timestamptz, text, text),
  tally.account_health(text, timestamptz, text), tally.accounts_health(timestamptz, text, text) TO tally_reader;
