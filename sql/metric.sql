-- Metrics over the events in scope. The caller's own row security decides which events those are, so the same text
-- gives an account's, a tenant's or the operator's numbers. docs/metrics.md has the definitions.

CREATE FUNCTION tally.retention(start_event text, return_event text, grain text, "from" timestamptz, "to" timestamptz,
    unit text DEFAULT 'user', kind text DEFAULT 'first_time', brackets int4[] DEFAULT '{0,1,3,7,14,30}',
    OUT cohort date, OUT period int4, OUT cohort_size int8, OUT retained int8, OUT rate float8)
  RETURNS SETOF record
  LANGUAGE plpgsql STABLE PARALLEL SAFE CALLED ON NULL INPUT
  SET search_path = pg_catalog, pg_temp
  SET timezone = 'UTC'
AS $$
#variable_conflict use_column
DECLARE
  last_number int4;
BEGIN
  PERFORM tally.check_metric_range(retention."from", retention."to"), tally.check_metric_grain(retention.grain),
          tally.check_metric_unit(retention.unit);
  IF retention.kind IS NULL OR retention.kind NOT IN ('first_time', 'rolling', 'bracketed') THEN
    RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
      MESSAGE = format('%s is no kind of retention', coalesce(quote_ident(retention.kind), 'null')),
      HINT = 'kinds are first_time, rolling and bracketed';
  END IF;
  IF retention.kind = 'bracketed' AND (cardinality(retention.brackets) IS NULL OR cardinality(retention.brackets) = 0
     OR retention.brackets[1] < 0 OR array_position(retention.brackets, NULL) IS NOT NULL
     OR EXISTS (SELECT FROM generate_subscripts(retention.brackets, 1) AS i
                 WHERE retention.brackets[i] >= retention.brackets[i + 1])) THEN
    RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
      MESSAGE = 'brackets must be numbers of periods from 0, each greater than the one before',
      HINT = 'each number begins a bracket that the next one ends, such as ARRAY[0, 1, 7, 30]';
  END IF;
  last_number := tally.period_number(retention.grain, retention."to" - interval '1 microsecond');
  RETURN QUERY
    WITH started AS (
      SELECT e.tenant_id, CASE retention.unit WHEN 'user' THEN e.user_id ELSE e.account_id END AS unit_id,
             min(e.occurred_at) AS started_at
        FROM tally.events AS e
       WHERE e.occurred_at < retention."to" AND (retention.start_event IS NULL OR e.name = retention.start_event)
         AND (retention.unit = 'account' OR e.user_id IS NOT NULL)
       GROUP BY 1, 2 HAVING min(e.occurred_at) >= retention."from"
    ), member AS (
      SELECT s.*, tally.period_number(retention.grain, s.started_at) AS number FROM started AS s
    ), visit AS (
      SELECT DISTINCT m.tenant_id, m.unit_id, m.number,
             tally.period_number(retention.grain, e.occurred_at) - m.number AS period
        FROM member AS m JOIN tally.events AS e ON e.tenant_id = m.tenant_id AND e.occurred_at > m.started_at
         AND CASE retention.unit WHEN 'user' THEN e.user_id ELSE e.account_id END = m.unit_id
       WHERE e.occurred_at >= retention."from" AND e.occurred_at < retention."to"
         AND (retention.return_event IS NULL OR e.name = retention.return_event)
    ), counted AS (
      -- A visit counts in its period, in every one up to it, or in its bracket: once for each unit.
      SELECT v.number, p.period, count(DISTINCT (v.tenant_id, v.unit_id)) AS retained
        FROM visit AS v CROSS JOIN LATERAL (
               SELECT v.period WHERE retention.kind = 'first_time'
               UNION ALL SELECT generate_series(0, v.period) WHERE retention.kind = 'rolling'
               UNION ALL SELECT max(b) FROM unnest(retention.brackets) AS b
                          WHERE retention.kind = 'bracketed' AND b <= v.period) AS p
       GROUP BY v.number, p.period
    )
    SELECT tally.period_start(retention.grain, c.number), p.period, c.size, coalesce(r.retained, 0),
           coalesce(r.retained, 0) / c.size::float8
      FROM (SELECT m.number, count(*) AS size FROM member AS m GROUP BY m.number) AS c
      CROSS JOIN LATERAL (
             SELECT generate_series(0, last_number - c.number) AS period WHERE retention.kind <> 'bracketed'
             UNION ALL SELECT b FROM unnest(retention.brackets) AS b
                        WHERE retention.kind = 'bracketed' AND b <= last_number - c.number) AS p
      LEFT JOIN counted AS r ON r.number = c.number AND r.period = p.period
     ORDER BY c.number, p.period;
END
$$;
COMMENT ON FUNCTION tally.retention(text, text, text, timestamptz, timestamptz, text, text, int4[]) IS
  'of the units in scope that began in a day, week or month (UTC), how many returned in each later one; a null event is any event';

CREATE FUNCTION tally.activation(start_event text, activation_event text, "window" interval, "from" timestamptz,
    "to" timestamptz, unit text DEFAULT 'user', grain text DEFAULT 'month',
    OUT cohort date, OUT cohort_size int8, OUT activated int8, OUT rate float8, OUT median_seconds float8,
    OUT p90_seconds float8)
  RETURNS SETOF record
  LANGUAGE plpgsql STABLE PARALLEL SAFE CALLED ON NULL INPUT
  SET search_path = pg_catalog, pg_temp
  SET timezone = 'UTC'
AS $$
#variable_conflict use_column
DECLARE
  last_at timestamptz := activation."to" + activation."window";
BEGIN
  PERFORM tally.check_metric_window(activation."window"), tally.check_metric_range(activation."from", activation."to"),
          tally.check_metric_unit(activation.unit), tally.check_metric_grain(activation.grain);
  IF activation.activation_event IS NULL OR activation.activation_event = activation.start_event THEN
    RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
      MESSAGE = 'the activation event must not be null, nor the event that starts',
      HINT = 'name the event that shows that a unit found the product''s value';
  END IF;
  RETURN QUERY
    WITH started AS (
      SELECT e.tenant_id, CASE activation.unit WHEN 'user' THEN e.user_id ELSE e.account_id END AS unit_id,
             min(e.occurred_at) AS started_at
        FROM tally.events AS e
       WHERE e.occurred_at < activation."to" AND (activation.start_event IS NULL OR e.name = activation.start_event)
         AND (activation.unit = 'account' OR e.user_id IS NOT NULL)
       GROUP BY 1, 2 HAVING min(e.occurred_at) >= activation."from"
    ), attained AS (
      SELECT s.tenant_id, s.unit_id, min(e.occurred_at) - s.started_at AS wait
        FROM started AS s JOIN tally.events AS e ON e.tenant_id = s.tenant_id
         AND e.occurred_at >= s.started_at AND e.occurred_at <= s.started_at + activation."window"
         AND CASE activation.unit WHEN 'user' THEN e.user_id ELSE e.account_id END = s.unit_id
       WHERE e.occurred_at >= activation."from" AND e.occurred_at < last_at
         AND e.name = activation.activation_event
       GROUP BY s.tenant_id, s.unit_id, s.started_at
    ), counted AS (
      SELECT tally.period_number(activation.grain, s.started_at) AS number, count(*) AS size, count(a.wait) AS activated,
             percentile_disc(ARRAY[0.5, 0.9]) WITHIN GROUP (ORDER BY a.wait) AS waits
        FROM started AS s LEFT JOIN attained AS a ON a.tenant_id = s.tenant_id AND a.unit_id = s.unit_id
       GROUP BY 1
    )
    SELECT tally.period_start(activation.grain, c.number), c.size, c.activated, c.activated / c.size::float8,
           extract(epoch FROM c.waits[1])::float8, extract(epoch FROM c.waits[2])::float8
      FROM counted AS c ORDER BY c.number;
END
$$;
COMMENT ON FUNCTION tally.activation(text, text, interval, timestamptz, timestamptz, text, text) IS
  'of the units in scope that began in a day, week or month (UTC), how many reached the activation event within the window';

CREATE FUNCTION tally.revenue("from" timestamptz, "to" timestamptz, grain text DEFAULT 'month',
    amount_property text DEFAULT 'amount', currency_property text DEFAULT 'currency', event text DEFAULT NULL,
    OUT period date, OUT tenant_id text, OUT account_id text, OUT currency text, OUT amount numeric, OUT new numeric,
    OUT reactivation numeric, OUT expansion numeric, OUT contraction numeric, OUT churned numeric, OUT arpa numeric,
    OUT cumulative numeric)
  RETURNS SETOF record
  LANGUAGE plpgsql STABLE PARALLEL SAFE CALLED ON NULL INPUT
  SET search_path = pg_catalog, pg_temp
  SET timezone = 'UTC'
AS $$
#variable_conflict use_column
BEGIN
  PERFORM tally.check_metric_range(revenue."from", revenue."to"), tally.check_metric_grain(revenue.grain);
  IF revenue.amount_property IS NULL OR revenue.currency_property IS NULL THEN
    RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
      MESSAGE = 'amount_property and currency_property must not be null',
      HINT = 'name the properties that hold the amount, a number, and the currency, a text';
  END IF;
  RETURN QUERY
    WITH paid AS (
      SELECT e.tenant_id, e.account_id, (e.properties ->> revenue.currency_property) COLLATE "C" AS currency,
             tally.period_number(revenue.grain, e.occurred_at) AS number,
             sum(tally.property_number(e.properties, revenue.amount_property)) AS amount
        FROM tally.events AS e
       WHERE e.occurred_at < revenue."to" AND (revenue.event IS NULL OR e.name = revenue.event)
         AND tally.property_number(e.properties, revenue.amount_property) IS NOT NULL
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
             round(avg(f.amount) FILTER (WHERE f.amount > 0) OVER (PARTITION BY f.currency, f.number), 6) AS arpa
        FROM filled AS f
      WINDOW before AS (PARTITION BY f.tenant_id, f.account_id, f.currency ORDER BY f.number)
    )
    SELECT tally.period_start(revenue.grain, r.number), r.tenant_id, r.account_id, r.currency, r.amount,
           CASE WHEN r.previous = 0 AND NOT r.known THEN r.paying ELSE 0 END,
           CASE WHEN r.previous = 0 AND r.known THEN r.paying ELSE 0 END,
           CASE WHEN r.previous > 0 THEN greatest(r.paying - r.previous, 0) ELSE 0 END,
           CASE WHEN r.paying > 0 THEN greatest(r.previous - r.paying, 0) ELSE 0 END,
           CASE WHEN r.paying = 0 THEN r.previous ELSE 0 END,
           r.arpa, r.cumulative
      FROM running AS r
     WHERE r.number BETWEEN tally.period_number(revenue.grain, revenue."from")
                        AND tally.period_number(revenue.grain, revenue."to" - interval '1 microsecond')
     ORDER BY r.number, r.tenant_id, r.account_id, r.currency;
END
$$;
COMMENT ON FUNCTION tally.revenue(timestamptz, timestamptz, text, text, text, text) IS
  'revenue of each account in scope by currency and day, week or month (UTC), and what it moved by; arpa is the average over the paying accounts in scope';
