-- What the metrics want of their arguments, and the calendar that they share: periods of a grain, in UTC, numbered.

CREATE FUNCTION tally_internal.check_metric_range("from" timestamptz, "to" timestamptz) RETURNS void
  LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE CALLED ON NULL INPUT
  SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  IF "from" IS NULL OR "to" IS NULL OR NOT isfinite("from") OR NOT isfinite("to") THEN
    RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
      MESSAGE = 'from and to must be times, neither null nor infinite',
      HINT = 'a range holds its start and not its end, such as ''2026-01-01 00:00Z'', ''2026-02-01 00:00Z''';
  END IF;
  IF "from" >= "to" THEN
    RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
      MESSAGE = format('from (%s) must be earlier than to (%s)', "from", "to"),
      HINT = 'a range holds its start and not its end';
  END IF;
  -- Windows and periods around a range are times, too.
  IF "from" < timestamptz '4700-01-01 00:00Z BC' OR "to" > timestamptz '290000-01-01 00:00Z' THEN
    RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
      MESSAGE = format('from (%s) and to (%s) must lie between 4700 BC and the year 290000', "from", "to"),
      HINT = 'there are no events before the year 1, nor after 9999';
  END IF;
END
$$;
COMMENT ON FUNCTION tally_internal.check_metric_range(timestamptz, timestamptz) IS
  'raises an error unless from and to are finite times, from the earlier, and windows around them are times';

CREATE FUNCTION tally_internal.check_metric_unit(unit text) RETURNS void
  LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE CALLED ON NULL INPUT
  SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  IF unit IS NULL OR unit NOT IN ('user', 'account') THEN
    RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
      MESSAGE = format('unknown unit %s', coalesce(quote_ident(unit), 'null')),
      HINT = 'units are user and account';
  END IF;
END
$$;
COMMENT ON FUNCTION tally_internal.check_metric_unit(text) IS 'raises an error unless the unit is user or account';

CREATE FUNCTION tally_internal.check_metric_grain(grain text) RETURNS void
  LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE CALLED ON NULL INPUT
  SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  IF grain IS NULL OR grain NOT IN ('day', 'week', 'month') THEN
    RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
      MESSAGE = format('unknown grain %s', coalesce(quote_ident(grain), 'null')),
      HINT = 'grains of metrics are day, week and month';
  END IF;
END
$$;
COMMENT ON FUNCTION tally_internal.check_metric_grain(text) IS 'raises an error unless the grain is day, week or month';

CREATE FUNCTION tally_internal.check_metric_window("window" interval) RETURNS void
  LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE CALLED ON NULL INPUT
  SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  IF "window" IS NULL OR "window" <= interval '0' THEN
    RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
      MESSAGE = format('the window must be longer than 0, not %s', coalesce("window"::text, 'null')),
      HINT = 'give a length of time, such as interval ''7 days''';
  END IF;
  IF extract(year FROM "window") <> 0 OR extract(month FROM "window") <> 0 THEN
    RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
      MESSAGE = 'the window must not contain months or years, which differ in length',
      HINT = 'give days, such as interval ''30 days''; a day is 24 hours';
  END IF;
  IF "window" > interval '1000000 days' THEN
    RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
      MESSAGE = format('the window must not be longer than 1000000 days, not %s', "window"),
      HINT = 'give a length of time, such as interval ''7 days''';
  END IF;
END
$$;
COMMENT ON FUNCTION tally_internal.check_metric_window(interval) IS
  'raises an error unless the window is longer than 0, no longer than a million days, and free of months and years';

-- Counted from 0001-01-01, which was a Monday, so that integer division cuts weeks for every event that there can be.
CREATE FUNCTION tally_internal.period_number(grain text, at timestamptz) RETURNS int4
  LANGUAGE sql IMMUTABLE PARALLEL SAFE STRICT
  BEGIN ATOMIC
    SELECT CASE grain
      WHEN 'day' THEN (at AT TIME ZONE 'UTC')::pg_catalog.date - pg_catalog.make_date(1, 1, 1)
      WHEN 'week' THEN ((at AT TIME ZONE 'UTC')::pg_catalog.date - pg_catalog.make_date(1, 1, 1)) / 7
      WHEN 'month' THEN (pg_catalog.date_part('year', at AT TIME ZONE 'UTC') * 12
                         + pg_catalog.date_part('month', at AT TIME ZONE 'UTC') - 1)::pg_catalog.int4
    END;
  END;
COMMENT ON FUNCTION tally_internal.period_number(text, timestamptz) IS
  'number of the day, ISO week or month in UTC that holds a time; successive periods have successive numbers';

CREATE FUNCTION tally_internal.period_start(grain text, number int4) RETURNS date
  LANGUAGE sql IMMUTABLE PARALLEL SAFE STRICT
  BEGIN ATOMIC
    SELECT CASE grain
      WHEN 'day' THEN pg_catalog.make_date(1, 1, 1) + number
      WHEN 'week' THEN pg_catalog.make_date(1, 1, 1) + 7 * number
      WHEN 'month' THEN pg_catalog.make_date(number / 12, number % 12 + 1, 1)
    END;
  END;
COMMENT ON FUNCTION tally_internal.period_start(text, int4) IS 'first day of the day, ISO week or month with this number';

CREATE FUNCTION tally_internal.metric_periods(grain text, "from" timestamptz, "to" timestamptz,
    OUT number int4, OUT first_day date, OUT ends timestamptz, OUT whole boolean)
  RETURNS SETOF record ROWS 50
  LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE STRICT
  SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
  -- No event is earlier.
  first_number int4 := tally_internal.period_number(grain, greatest("from", timestamptz '0001-01-01 00:00Z'));
  last_number  int4 := tally_internal.period_number(grain, "to" - interval '1 microsecond');
BEGIN
  IF last_number - first_number >= 100000 THEN
    RAISE EXCEPTION USING ERRCODE = 'program_limit_exceeded', MESSAGE = 'the range has more than 100000 periods',
      HINT = 'choose a coarser grain or a shorter range';
  END IF;
  RETURN QUERY
    SELECT n, s.day, e.ends, s.day::timestamp AT TIME ZONE 'UTC' >= "from" AND e.ends <= "to"
      FROM generate_series(first_number, last_number) AS n
     CROSS JOIN LATERAL (SELECT tally_internal.period_start(grain, n) AS day) AS s
     CROSS JOIN LATERAL (SELECT tally_internal.period_start(grain, n + 1)::timestamp AT TIME ZONE 'UTC' AS ends) AS e;
END
$$;
COMMENT ON FUNCTION tally_internal.metric_periods(text, timestamptz, timestamptz) IS
  'the days, ISO weeks or months in UTC that a range touches: number, first day, end, and whether the range has all of it';

REVOKE ALL ON FUNCTION tally_internal.check_metric_range(timestamptz, timestamptz), tally_internal.check_metric_unit(text),
  tally_internal.check_metric_grain(text), tally_internal.check_metric_window(interval), tally_internal.period_number(text, timestamptz),
  tally_internal.period_start(text, int4), tally_internal.metric_periods(text, timestamptz, timestamptz) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tally_internal.check_metric_range(timestamptz, timestamptz), tally_internal.check_metric_unit(text),
  tally_internal.check_metric_grain(text), tally_internal.check_metric_window(interval), tally_internal.period_number(text, timestamptz),
  tally_internal.period_start(text, int4), tally_internal.metric_periods(text, timestamptz, timestamptz) TO tally_owner, tally_reader;
