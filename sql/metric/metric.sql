-- Metrics over the events in scope. The caller's own row security decides which events those are, so the same text
-- gives an account's, a tenant's or the operator's numbers. docs/metrics.md has the definitions.

CREATE FUNCTION tally.retention(start_event text, return_event text, grain text, "from" timestamptz, "to" timestamptz,
    unit text DEFAULT 'user', kind text DEFAULT 'first_time', brackets int4[] DEFAULT '{0,1,3,7,14,30}',
    of_cohort text DEFAULT NULL, account text DEFAULT NULL, OUT cohort date, OUT period int4, OUT cohort_size int8, OUT retained int8, OUT rate float8,
    OUT complete boolean, OUT exact boolean, OUT whole_from timestamptz)
  RETURNS SETOF record
  LANGUAGE plpgsql STABLE PARALLEL SAFE CALLED ON NULL INPUT
  SET search_path = pg_catalog, pg_temp
  SET timezone = 'UTC'
  SET enable_sort = off
  SET jit = off
AS $$
#variable_conflict use_column
DECLARE
  triangle int8[];
  roles    text;
  wanted   text;
  -- The end of the last day that is over.
  over     date;
  lost     timestamptz;
  members  text;
BEGIN
  PERFORM tally_internal.warn_unconfined(), tally_internal.check_metric_range(retention."from", retention."to"), tally_internal.check_metric_grain(retention.grain),
          tally_internal.check_metric_unit(retention.unit);
  over := least((retention."to" - interval '1 microsecond') AT TIME ZONE 'UTC' + interval '1 day',
                statement_timestamp() AT TIME ZONE 'UTC')::date;
  IF retention.kind IS NULL OR retention.kind NOT IN ('first_time', 'rolling', 'bracketed') THEN
    RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
      MESSAGE = format('unknown kind of retention %s', coalesce(quote_ident(retention.kind), 'null')),
      HINT = 'kinds are first_time, rolling and bracketed';
  END IF;
  IF retention.kind = 'bracketed' AND (cardinality(retention.brackets) IS NULL OR array_ndims(retention.brackets) IS DISTINCT FROM 1
     OR array_lower(retention.brackets, 1) <> 1 OR retention.brackets[1] < 0 OR array_position(retention.brackets, NULL) IS NOT NULL
     OR EXISTS (SELECT FROM generate_subscripts(retention.brackets, 1) AS i
                 WHERE retention.brackets[i] >= retention.brackets[i + 1])) THEN
    RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
      MESSAGE = 'brackets must be numbers of periods from 0, each greater than the one before',
      HINT = 'each number begins a bracket that the next one ends, such as ARRAY[0, 1, 7, 30]';
  END IF;
  IF retention.of_cohort IS NOT NULL THEN
    lost := tally_internal.cohort_lost_until(retention.of_cohort, retention."from", retention."to", retention.account);
    PERFORM tally_internal.refuse_incomplete(lost);
  END IF;
  roles := CASE WHEN retention.start_event IS NULL THEN '1' ELSE format('CASE a.name WHEN %L THEN 1 ELSE 0 END', retention.start_event) END
    || ' | ' || CASE WHEN retention.return_event IS NULL THEN '2' ELSE format('CASE a.name WHEN %L THEN 2 ELSE 0 END', retention.return_event) END;
  wanted := format('a.bucket < %L::timestamptz', retention."to")
    || CASE WHEN retention.start_event IS NULL OR retention.return_event IS NULL THEN ''
            ELSE format(' AND a.name = ANY (%L::text[])', ARRAY[retention.start_event, retention.return_event]) END
    || CASE WHEN retention.account IS NULL THEN '' ELSE format(' AND a.account_id = %L', retention.account) END
    -- Not a join, which would be a nested loop where rows are to come in order: IS TRUE keeps it a table that each row is
    -- looked up in.
    || CASE WHEN retention.of_cohort IS NULL THEN ''
            ELSE format(' AND ((a.tenant_id, a.%I) IN (SELECT m.tenant_id, m.unit_id FROM member AS m)) IS TRUE', retention.unit || '_id') END;
  members := CASE WHEN retention.of_cohort IS NULL THEN ''
    ELSE format('member AS MATERIALIZED (SELECT * FROM tally_internal.cohort_units(%L, %L, %L, %L, %L)), ',
                retention.of_cohort, retention."from", retention."to", retention.unit, retention.account) END;
  -- Users are read in order from the index, and merged as they come, with the few that are pending. Of accounts, which
  -- are fewer, the sets are merged first. Where nothing is folded yet a row of nobody brings in what is pending.
  EXECUTE CASE retention.unit WHEN 'user' THEN format($query$
    WITH %3$s pending AS MATERIALIZED (
      SELECT tally_internal.unit_parts(a.tenant_id, a.user_id, a.days, %1$s) AS parts
        FROM tally.user_activity_pending AS a WHERE a.user_id IS NOT NULL AND %2$s
    ), folded AS MATERIALIZED (
      SELECT tally_internal.retention_triangle(p.tenant_id, p.user_id, p.days, p.role, $1, $2, $3, $4, $5, (SELECT parts FROM pending)) AS triangle
        FROM (SELECT a.tenant_id, a.user_id, a.days, %1$s AS role FROM tally.user_activity_year_base AS a
               WHERE a.user_id IS NOT NULL AND %2$s ORDER BY a.tenant_id, a.user_id) AS p
    )
    SELECT coalesce(f.triangle, (SELECT tally_internal.retention_triangle('', '', NULL, 0, $1, $2, $3, $4, $5, p.parts) FROM pending AS p))
      FROM folded AS f
    $query$, roles, wanted, members) ELSE format($query$
    WITH %3$s nothing AS (SELECT)
    SELECT tally_internal.retention_triangle(p.tenant_id, p.account_id, p.days, p.role, $1, $2, $3, $4, $5, NULL)
      FROM (SELECT g.* FROM (
              SELECT a.tenant_id, a.account_id, %1$s AS role, tally.union_days(a.days) AS days
                FROM tally_internal.user_activity_part AS a WHERE %2$s GROUP BY 1, 2, 3 OFFSET 0) AS g
             ORDER BY g.tenant_id, g.account_id) AS p
    $query$, roles, wanted, members) END
    INTO triangle
   USING retention.grain, (retention."from" AT TIME ZONE 'UTC')::date,
         ((retention."to" - interval '1 microsecond') AT TIME ZONE 'UTC')::date + 1, retention.kind, retention.brackets;
  RETURN QUERY
    SELECT date '2000-01-01' + triangle[n]::int4, triangle[n + 1]::int4, triangle[n + 2], triangle[n + 3], triangle[n + 3] / triangle[n + 2]::float8,
           -- Of a bracket the period that ends it; the last one has no end.
           tally_internal.period_start(retention.grain, tally_internal.period_number(retention.grain, (date '2000-01-01' + triangle[n]::int4)::timestamptz)
             + CASE WHEN retention.kind = 'bracketed'
                    THEN least(coalesce((SELECT min(b) FROM unnest(retention.brackets) AS b WHERE b > triangle[n + 1]), triangle[n + 1]::int4 + 1), 5000)
                    ELSE triangle[n + 1]::int4 + 1 END) <= over,
           lost IS NULL, lost
      FROM generate_series(1, coalesce(cardinality(triangle), 0), 4) AS n;
END
$$;
COMMENT ON FUNCTION tally.retention(text, text, text, timestamptz, timestamptz, text, text, int4[], text, text) IS
  'of the units in scope that began in a day, week or month (UTC), how many returned in it and in each later one, and whether that one is over, from the enriched layer; a null event is any event; of_cohort names a declared cohort, to whose members of the range it is confined; account names an account, to whose events it is';

CREATE FUNCTION tally.retention_curve(start_event text, return_event text, grain text, "from" timestamptz, "to" timestamptz,
    unit text DEFAULT 'user', kind text DEFAULT 'first_time', brackets int4[] DEFAULT '{0,1,3,7,14,30}',
    of_cohort text DEFAULT NULL, account text DEFAULT NULL, OUT period int4, OUT units int8, OUT retained int8, OUT rate float8,
    OUT complete boolean, OUT exact boolean, OUT whole_from timestamptz)
  RETURNS SETOF record
  LANGUAGE sql STABLE PARALLEL SAFE CALLED ON NULL INPUT
  SET search_path = pg_catalog, pg_temp
  BEGIN ATOMIC
    SELECT r.period, sum(r.cohort_size)::pg_catalog.int8, sum(r.retained)::pg_catalog.int8,
           sum(r.retained)::pg_catalog.float8 / sum(r.cohort_size)::pg_catalog.float8,
           pg_catalog.bool_and(r.complete), pg_catalog.bool_and(r.exact), max(r.whole_from)
      FROM tally.retention(start_event, return_event, grain, "from", "to", unit, kind, brackets, of_cohort, account) AS r
     GROUP BY r.period ORDER BY r.period;
  END;
COMMENT ON FUNCTION tally.retention_curve(text, text, text, timestamptz, timestamptz, text, text, int4[], text, text) IS
  'the triangle of tally.retention as one curve: each period over the cohorts old enough to have it; complete where it is for all of them';

CREATE FUNCTION tally.activation(start_event text, activation_event text, "window" interval, "from" timestamptz,
    "to" timestamptz, unit text DEFAULT 'user', grain text DEFAULT 'month', account text DEFAULT NULL,
    OUT cohort date, OUT cohort_size int8, OUT activated int8, OUT rate float8, OUT median_seconds float8,
    OUT p90_seconds float8, OUT complete boolean)
  RETURNS SETOF record
  LANGUAGE plpgsql STABLE PARALLEL SAFE CALLED ON NULL INPUT
  SET search_path = pg_catalog, pg_temp
  SET timezone = 'UTC'
AS $$
#variable_conflict use_column
BEGIN
  PERFORM tally_internal.warn_unconfined(), tally_internal.check_metric_window(activation."window"), tally_internal.check_metric_range(activation."from", activation."to"),
          tally_internal.check_metric_unit(activation.unit), tally_internal.check_metric_grain(activation.grain);
  IF activation.activation_event IS NULL OR activation.activation_event = activation.start_event THEN
    RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
      MESSAGE = 'the activation event must not be null, nor the event that starts',
      HINT = 'name the event that shows that a unit found the product''s value';
  END IF;
  RETURN QUERY
    WITH reached AS (
      SELECT a.tenant_id, CASE activation.unit WHEN 'user' THEN a.user_id ELSE a.account_id END AS unit_id,
             min(a.first_at) FILTER (WHERE activation.start_event IS NULL OR a.name = activation.start_event) AS started_at,
             min(a.first_at) FILTER (WHERE a.name = activation.activation_event) AS activated_at
        FROM tally_internal.user_activity_part AS a
       WHERE (activation.start_event IS NULL OR a.name IN (activation.start_event, activation.activation_event))
         AND (activation.unit = 'account' OR a.user_id IS NOT NULL)
         AND (activation.account IS NULL OR a.account_id = activation.account)
       GROUP BY 1, 2
    ), started AS (
      -- What a unit had reached before it began took it no time.
      SELECT r.started_at, CASE WHEN r.activated_at <= r.started_at + activation."window"
                                THEN greatest(r.activated_at, r.started_at) - r.started_at END AS wait
        FROM reached AS r WHERE r.started_at >= activation."from" AND r.started_at < activation."to"
    ), counted AS (
      SELECT tally_internal.period_number(activation.grain, s.started_at) AS number, count(*) AS size, count(s.wait) AS activated,
             percentile_disc(ARRAY[0.5, 0.9]) WITHIN GROUP (ORDER BY s.wait) AS waits
        FROM started AS s GROUP BY 1
    )
    SELECT p.first_day, coalesce(c.size, 0), coalesce(c.activated, 0), c.activated / c.size::float8,
           extract(epoch FROM c.waits[1])::float8, extract(epoch FROM c.waits[2])::float8,
           p.whole AND p.ends + activation."window" <= statement_timestamp()
      FROM tally_internal.metric_periods(activation.grain, activation."from", activation."to") AS p
      LEFT JOIN counted AS c ON c.number = p.number ORDER BY p.number;
END
$$;
COMMENT ON FUNCTION tally.activation(text, text, interval, timestamptz, timestamptz, text, text, text) IS
  'of the units in scope that began in a day, week or month (UTC), how many had their first activation event by the end of the window, from the enriched layer; of one account where that is given';

CREATE FUNCTION tally.revenue("from" timestamptz, "to" timestamptz, grain text DEFAULT 'month',
    amount_property text DEFAULT 'amount', currency_property text DEFAULT 'currency', event text DEFAULT NULL, account text DEFAULT NULL,
    OUT period date, OUT tenant_id text, OUT account_id text, OUT currency text, OUT amount numeric, OUT new numeric,
    OUT reactivation numeric, OUT expansion numeric, OUT contraction numeric, OUT churned numeric, OUT arpa numeric,
    OUT cumulative numeric, OUT complete boolean, OUT exact boolean, OUT whole_from timestamptz)
  RETURNS SETOF record
  LANGUAGE plpgsql STABLE PARALLEL SAFE CALLED ON NULL INPUT
  SET search_path = pg_catalog, pg_temp
  SET timezone = 'UTC'
AS $$
#variable_conflict use_column
DECLARE
  lost timestamptz;
  kept boolean := false;
  -- Of the rollup whole days are read, and of the raw events what of a day is left.
  rest timestamptz := date_trunc('day', revenue."to", 'UTC');
BEGIN
  PERFORM tally_internal.warn_unconfined(), tally_internal.check_metric_range(revenue."from", revenue."to"), tally_internal.check_metric_grain(revenue.grain);
  IF revenue.amount_property IS NULL OR revenue.currency_property IS NULL THEN
    RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
      MESSAGE = 'amount_property and currency_property must not be null',
      HINT = 'name the properties that hold the amount, a number, and the currency, a text';
  END IF;
  -- All that was ever paid matters, to what is new and to what has come together.
  lost := tally_internal.lost_until(CASE WHEN revenue.event IS NOT NULL THEN ARRAY[revenue.event] END, '-infinity', revenue."to", revenue.account);
  IF lost IS NOT NULL THEN
    kept := revenue.amount_property = 'amount' AND revenue.currency_property = 'currency'
      AND NOT EXISTS (
        SELECT FROM tally_internal.raw_horizons() AS h JOIN tally_internal.payment_part AS p ON p.tenant_id = h.tenant_id COLLATE "C"
         WHERE p.bucket < h.whole_from AND p.bucket >= rest AND p.first_at < revenue."to" AND p.last_at >= revenue."to"
           AND (revenue.event IS NULL OR p.name = revenue.event) AND (revenue.account IS NULL OR p.account_id = revenue.account))
      AND NOT EXISTS (
        SELECT FROM tally_internal.raw_horizons() AS h JOIN tally_internal.usage_day_part AS u ON u.tenant_id = h.tenant_id COLLATE "C"
         WHERE u.bucket < h.payments_from AND u.first_at < revenue."to" AND (revenue.event IS NULL OR u.name = revenue.event)
           AND (revenue.account IS NULL OR u.account_id = revenue.account));
    IF kept THEN
      lost := NULL;
    ELSE
      PERFORM tally_internal.refuse_incomplete(lost);
    END IF;
  END IF;
  RETURN QUERY
    WITH horizon AS MATERIALIZED (SELECT * FROM tally_internal.raw_horizons()), paid AS (
      SELECT e.tenant_id, e.account_id, (e.properties ->> revenue.currency_property) COLLATE "C" AS currency,
             tally_internal.period_number(revenue.grain, e.occurred_at) AS number,
             sum(tally.property_number(e.properties, revenue.amount_property)) AS amount
        FROM tally.events AS e
       WHERE NOT kept AND e.occurred_at < revenue."to" AND (revenue.event IS NULL OR e.name = revenue.event)
         AND (revenue.account IS NULL OR e.account_id = revenue.account)
         AND tally.property_number(e.properties, revenue.amount_property) IS NOT NULL
       GROUP BY 1, 2, 3, 4
       UNION ALL
      SELECT p.tenant_id, p.account_id, p.currency, tally_internal.period_number(revenue.grain, p.bucket), sum(p.amount)
        FROM tally_internal.payment_part AS p LEFT JOIN horizon AS h ON h.tenant_id COLLATE "C" = p.tenant_id
       WHERE kept AND p.bucket < revenue."to" AND (p.bucket < rest OR p.bucket < h.whole_from) AND p.last_at < revenue."to"
         AND (revenue.event IS NULL OR p.name = revenue.event) AND (revenue.account IS NULL OR p.account_id = revenue.account)
       GROUP BY 1, 2, 3, 4
       UNION ALL
      SELECT e.tenant_id, e.account_id, (e.properties ->> 'currency') COLLATE "C",
             tally_internal.period_number(revenue.grain, e.occurred_at), sum(tally.property_number(e.properties, 'amount'))
        FROM tally.events AS e LEFT JOIN horizon AS h ON h.tenant_id COLLATE "C" = e.tenant_id
       WHERE kept AND e.occurred_at >= rest AND e.occurred_at < revenue."to" AND (h.whole_from IS NULL OR rest >= h.whole_from)
         AND (revenue.event IS NULL OR e.name = revenue.event) AND tally.property_number(e.properties, 'amount') IS NOT NULL
         AND (revenue.account IS NULL OR e.account_id = revenue.account)
       GROUP BY 1, 2, 3, 4
    ), filled AS (
      -- The period after a payment is there too, with 0 if nothing was paid: in it an account churns.
      SELECT f.tenant_id, f.account_id, f.currency, f.number, sum(f.amount) AS amount
        FROM (SELECT * FROM paid
              UNION ALL SELECT p.tenant_id, p.account_id, p.currency, p.number + 1, 0 FROM paid AS p) AS f
       GROUP BY 1, 2, 3, 4
    ), running AS (
      SELECT f.*, greatest(f.amount, 0) AS paying,
             CASE WHEN lag(f.number) OVER before = f.number - 1 THEN greatest(lag(f.amount) OVER before, 0)
                  ELSE 0 END AS previous,
             coalesce(max(f.amount) OVER (before ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0) > 0 AS known,
             sum(f.amount) OVER before AS cumulative,
             -- An average has 16 digits in all; a quotient has as many behind the point as what is divided.
             round((sum(f.amount) FILTER (WHERE f.amount > 0) OVER (PARTITION BY f.currency, f.number) + 0.00000000000000000000)
                   / nullif(count(*) FILTER (WHERE f.amount > 0) OVER (PARTITION BY f.currency, f.number), 0), 6) AS arpa
        FROM filled AS f
      WINDOW before AS (PARTITION BY f.tenant_id, f.account_id, f.currency ORDER BY f.number)
    )
    SELECT tally_internal.period_start(revenue.grain, r.number), r.tenant_id, r.account_id, r.currency, r.amount,
           CASE WHEN r.previous = 0 AND NOT r.known THEN r.paying ELSE 0 END,
           CASE WHEN r.previous = 0 AND r.known THEN r.paying ELSE 0 END,
           CASE WHEN r.previous > 0 THEN greatest(r.paying - r.previous, 0) ELSE 0 END,
           CASE WHEN r.paying > 0 THEN greatest(r.previous - r.paying, 0) ELSE 0 END,
           CASE WHEN r.paying = 0 THEN r.previous ELSE 0 END,
           r.arpa, r.cumulative,
           tally_internal.period_start(revenue.grain, r.number + 1)::timestamp AT TIME ZONE 'UTC' <= least(revenue."to", statement_timestamp()),
           lost IS NULL, lost
      FROM running AS r
     WHERE r.number BETWEEN tally_internal.period_number(revenue.grain, revenue."from")
                        AND tally_internal.period_number(revenue.grain, revenue."to" - interval '1 microsecond')
     ORDER BY r.number, r.tenant_id, r.account_id, r.currency;
END
$$;
COMMENT ON FUNCTION tally.revenue(timestamptz, timestamptz, text, text, text, text, text) IS
  'revenue of each account in scope by currency and day, week or month (UTC), and what it moved by; arpa is the average over the paying accounts in scope; of raw events that are gone the rollup payment has the properties amount and currency; of one account where that is given';
