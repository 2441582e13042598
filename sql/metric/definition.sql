-- Declared metrics and cohorts: names for definitions, which every result carries the hash of. They belong to the
-- installation, not to a tenant: whoever may read metrics sees every definition, and what it yields in his own scope.

CREATE TABLE tally.metric (
  metric_name     text COLLATE "C" NOT NULL,
  version         int4 NOT NULL,
  definition      jsonb NOT NULL,
  definition_hash text COLLATE "C" NOT NULL,
  defined_at      timestamptz NOT NULL DEFAULT now(),
  defined_by      name NOT NULL DEFAULT session_user,
  CONSTRAINT metric_pkey PRIMARY KEY (metric_name, version),
  CONSTRAINT metric_hash_is_of_definition
    CHECK (definition_hash = encode(sha256(convert_to(definition::text, 'UTF8')), 'hex'))
);
COMMENT ON TABLE tally.metric IS 'declared metrics, every version';
COMMENT ON COLUMN tally.metric.metric_name IS 'name of the metric';
COMMENT ON COLUMN tally.metric.version IS 'from 1; the greatest one holds';
COMMENT ON COLUMN tally.metric.definition IS 'what is measured; docs/metrics.md lists the kinds';
COMMENT ON COLUMN tally.metric.definition_hash IS 'SHA-256 of the definition''s canonical text, hexadecimal';
COMMENT ON COLUMN tally.metric.defined_at IS 'when this version was declared';
COMMENT ON COLUMN tally.metric.defined_by IS 'the role that logged in and declared it';

CREATE TABLE tally.cohort (
  cohort_name     text COLLATE "C" NOT NULL,
  version         int4 NOT NULL,
  definition      jsonb NOT NULL,
  definition_hash text COLLATE "C" NOT NULL,
  defined_at      timestamptz NOT NULL DEFAULT now(),
  defined_by      name NOT NULL DEFAULT session_user,
  CONSTRAINT cohort_pkey PRIMARY KEY (cohort_name, version),
  CONSTRAINT cohort_hash_is_of_definition
    CHECK (definition_hash = encode(sha256(convert_to(definition::text, 'UTF8')), 'hex'))
);
COMMENT ON TABLE tally.cohort IS 'declared cohorts, every version: units that did something often enough';
COMMENT ON COLUMN tally.cohort.cohort_name IS 'name of the cohort';
COMMENT ON COLUMN tally.cohort.version IS 'from 1; the greatest one holds';
COMMENT ON COLUMN tally.cohort.definition IS 'who belongs to it: event, at_least, unit';
COMMENT ON COLUMN tally.cohort.definition_hash IS 'SHA-256 of the definition''s canonical text, hexadecimal';
COMMENT ON COLUMN tally.cohort.defined_at IS 'when this version was declared';
COMMENT ON COLUMN tally.cohort.defined_by IS 'the role that logged in and declared it';

ALTER TABLE tally.metric OWNER TO tally_owner;
ALTER TABLE tally.cohort OWNER TO tally_owner;
REVOKE ALL ON tally.metric, tally.cohort FROM PUBLIC;
GRANT SELECT ON tally.metric, tally.cohort TO tally_reader, tally_auditor;
SELECT pg_catalog.pg_extension_config_dump('tally.metric', '');
SELECT pg_catalog.pg_extension_config_dump('tally.cohort', '');

CREATE FUNCTION tally_internal.check_definition(name text, definition jsonb) RETURNS void
  LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE CALLED ON NULL INPUT
  SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  -- The fields of each kind and their types; ! marks those that there must be.
  kinds  constant jsonb := '{
    "events": {"event": "string"},
    "units": {"event": "string", "unit": "string", "approximate": "boolean"},
    "sum": {"event": "string", "property": "string!", "missing": "string", "outliers": "object"},
    "mean": {"event": "string", "property": "string!", "missing": "string", "outliers": "object"},
    "funnel": {"steps": "array!", "window": "string!", "unit": "string", "strict": "boolean", "any_order": "boolean", "hold": "string", "exclude": "array"},
    "activation": {"start": "string", "activation": "string!", "window": "string!", "unit": "string"},
    "retention": {"start": "string", "return": "string", "grain": "string!", "period": "number!", "unit": "string", "rolling": "boolean"},
    "cohort": {"event": "string", "at_least": "number!", "unit": "string"}}';
  kind   text := definition ->> 'kind';
  fields jsonb := kinds -> kind;
  wrong  text;
BEGIN
  IF name IS NULL OR name !~ '^[a-z][a-z0-9_]{0,39}$' THEN
    RAISE EXCEPTION USING ERRCODE = 'invalid_name', MESSAGE = format('%s can''t be used as a name', coalesce(quote_ident(name), 'null')),
      HINT = 'use 1 to 40 lower-case letters, digits and underscores, with a letter first';
  END IF;
  IF fields IS NULL THEN
    RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = format('unknown kind of metric %s', coalesce(quote_ident(kind), 'null')),
      HINT = 'the definition is an object whose "kind" is events, units, sum, mean, funnel, activation or retention';
  END IF;
  SELECT coalesce(f.key, d.key) INTO wrong
    FROM jsonb_each(definition - 'kind') AS d FULL JOIN jsonb_each_text(fields) AS f USING (key)
   WHERE f.key IS NULL OR (d.key IS NULL AND f.value LIKE '%!') OR jsonb_typeof(d.value) <> rtrim(f.value, '!') LIMIT 1;
  IF FOUND THEN
    RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = format('field "%s" of the definition is missing, unknown or of a wrong type', wrong),
      HINT = format('fields of kind %s, ! where needed: %s', kind, fields);
  END IF;
  PERFORM tally_internal.check_metric_unit(coalesce(definition ->> 'unit', 'user'));
  IF definition ? 'window' THEN PERFORM tally_internal.check_metric_window((definition ->> 'window')::interval); END IF;
  IF definition ? 'grain' THEN PERFORM tally_internal.check_metric_grain(definition ->> 'grain'); END IF;
  IF definition ? 'steps' THEN PERFORM tally_internal.funnel_steps(definition -> 'steps'); END IF;
  IF (definition ->> 'period')::numeric NOT BETWEEN 0 AND 10000 OR (definition ->> 'period')::numeric % 1 <> 0
     OR (definition ->> 'at_least')::numeric NOT BETWEEN 1 AND 1000000000 OR (definition ->> 'at_least')::numeric % 1 <> 0 THEN
    RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = 'period and at_least must be whole numbers, period from 0 and at_least from 1',
      HINT = 'period counts days, weeks or months after the one in which a unit began';
  END IF;
  IF coalesce(definition ->> 'missing', 'skip') NOT IN ('skip', 'zero')
     OR (definition -> 'outliers') - ARRAY['treat', 'least', 'greatest'] <> '{}'
     OR coalesce(definition -> 'outliers' ->> 'treat', CASE WHEN definition ? 'outliers' THEN '' ELSE 'drop' END) NOT IN ('drop', 'clamp')
     OR coalesce(jsonb_typeof(definition -> 'outliers' -> 'least'), 'number') <> 'number'
     OR coalesce(jsonb_typeof(definition -> 'outliers' -> 'greatest'), 'number') <> 'number' THEN
    RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = 'the treatment of missing values or outliers is none',
      HINT = 'missing is skip or zero; outliers is {"treat": "drop" or "clamp", "least": number, "greatest": number}';
  END IF;
  IF (definition -> 'outliers' ->> 'least')::numeric > (definition -> 'outliers' ->> 'greatest')::numeric THEN
    RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = 'least must not be greater than greatest',
      HINT = 'outliers is {"treat": "drop" or "clamp", "least": number, "greatest": number}';
  END IF;
  IF definition ->> 'activation' = definition ->> 'start' THEN
    RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = 'the activation event must not be the event that starts',
      HINT = 'name the event that shows that a unit found the product''s value';
  END IF;
  IF definition ->> 'unit' = 'account' AND (definition -> 'approximate')::boolean THEN
    RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = 'accounts are counted exactly',
      HINT = 'leave "approximate" out: the rollup has sketches of users alone';
  END IF;
END
$$;
COMMENT ON FUNCTION tally_internal.check_definition(text, jsonb) IS 'raises an error unless the name and the definition of a metric or cohort are valid';

CREATE FUNCTION tally.define_metric(name text, definition jsonb) RETURNS int4
  LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE CALLED ON NULL INPUT SECURITY DEFINER
  SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  newest tally.metric;
  hash   text := encode(sha256(convert_to(definition::text, 'UTF8')), 'hex');
BEGIN
  PERFORM tally_internal.check_definition(name, definition);
  IF definition ->> 'kind' OPERATOR(pg_catalog.=) 'cohort' THEN
    RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = 'a cohort is not a metric', HINT = 'declare it with tally.define_cohort(name, definition)';
  END IF;
  -- One version after another.
  LOCK TABLE tally.metric IN SHARE ROW EXCLUSIVE MODE;
  SELECT m.* INTO newest FROM tally.metric AS m WHERE m.metric_name OPERATOR(pg_catalog.=) name ORDER BY m.version DESC LIMIT 1;
  IF newest.definition_hash OPERATOR(pg_catalog.=) hash THEN
    RETURN newest.version;
  END IF;
  INSERT INTO tally.metric (metric_name, version, definition, definition_hash)
  VALUES (name, coalesce(newest.version, 0) OPERATOR(pg_catalog.+) 1, definition, hash) RETURNING version INTO newest.version;
  RETURN newest.version;
END
$$;
COMMENT ON FUNCTION tally.define_metric(text, jsonb) IS 'declares a metric, or its next version if the definition differs; returns the version';

CREATE FUNCTION tally.define_cohort(name text, definition jsonb) RETURNS int4
  LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE CALLED ON NULL INPUT SECURITY DEFINER
  SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  newest tally.cohort;
  hash   text := encode(sha256(convert_to(definition::text, 'UTF8')), 'hex');
BEGIN
  PERFORM tally_internal.check_definition(name, definition OPERATOR(pg_catalog.||) '{"kind": "cohort"}');
  LOCK TABLE tally.cohort IN SHARE ROW EXCLUSIVE MODE;
  SELECT c.* INTO newest FROM tally.cohort AS c WHERE c.cohort_name OPERATOR(pg_catalog.=) name ORDER BY c.version DESC LIMIT 1;
  IF newest.definition_hash OPERATOR(pg_catalog.=) hash THEN
    RETURN newest.version;
  END IF;
  INSERT INTO tally.cohort (cohort_name, version, definition, definition_hash)
  VALUES (name, coalesce(newest.version, 0) OPERATOR(pg_catalog.+) 1, definition, hash) RETURNING version INTO newest.version;
  RETURN newest.version;
END
$$;
COMMENT ON FUNCTION tally.define_cohort(text, jsonb) IS 'declares a cohort, {"event": name, "at_least": n, "unit": unit}, or its next version; returns the version';

CREATE FUNCTION tally_internal.metric_definition(name text) RETURNS tally.metric
  LANGUAGE plpgsql STABLE PARALLEL SAFE CALLED ON NULL INPUT
  SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  newest tally.metric;
BEGIN
  SELECT m.* INTO newest FROM tally.metric AS m WHERE m.metric_name = name ORDER BY m.version DESC LIMIT 1;
  IF NOT FOUND THEN
    RAISE EXCEPTION USING ERRCODE = 'undefined_object', MESSAGE = format('there is no metric %s', coalesce(quote_ident(name), 'null')), HINT = 'tally.metric lists the declared metrics';
  END IF;
  RETURN newest;
END
$$;
COMMENT ON FUNCTION tally_internal.metric_definition(text) IS 'the newest version of a declared metric';

CREATE FUNCTION tally.describe_metric(name text) RETURNS text
  LANGUAGE plpgsql STABLE PARALLEL SAFE CALLED ON NULL INPUT
  SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  metric tally.metric := tally_internal.metric_definition(name);
  d      jsonb := metric.definition;
  unit   text := coalesce(d ->> 'unit', 'user') || 's';
  event  text := coalesce('events named "' || (d ->> 'event') || '"', 'all events');
  start  text := coalesce('event "' || (d ->> 'start') || '"', 'event');
BEGIN
  RETURN format('%s, version %s: ', metric.metric_name, metric.version) || CASE replace(d ->> 'kind', 'mean', 'sum')
    WHEN 'events' THEN format('the number of %s', event)
    WHEN 'units' THEN format('the %s number of distinct %s with %s', CASE WHEN (d -> 'approximate')::boolean THEN 'estimated' ELSE 'exact' END, unit, event)
    WHEN 'sum' THEN format('the %s of the property "%s" over %s, %s%s', d ->> 'kind', d ->> 'property', event,
      CASE d ->> 'missing' WHEN 'zero' THEN 'as 0 where it is not a number' ELSE 'where it is a number' END,
      CASE d -> 'outliers' ->> 'treat'
        WHEN 'drop' THEN coalesce(', leaving out what is ' || nullif(concat_ws(' or ', 'below ' || (d -> 'outliers' ->> 'least'), 'above ' || (d -> 'outliers' ->> 'greatest')), ''), '')
        WHEN 'clamp' THEN coalesce(', each ' || nullif(concat_ws(' and ', 'raised to ' || (d -> 'outliers' ->> 'least') || ' where it is less',
                                                                     'lowered to ' || (d -> 'outliers' ->> 'greatest') || ' where it is more'), ''), '')
        ELSE '' END)
    WHEN 'funnel' THEN format('of the %s that did "%s" in the range, the share that went on to %s%s, all within %s of the first step%s%s', unit,
      (SELECT s.label FROM tally_internal.funnel_steps(d -> 'steps') AS s WHERE s.step = 1),
      (SELECT coalesce(string_agg(format('"%s"', s.label), ', then ' ORDER BY s.step), 'nothing more') FROM tally_internal.funnel_steps(d -> 'steps') AS s WHERE s.step > 1),
      CASE WHEN (d -> 'strict')::boolean THEN ' with no other event between' WHEN (d -> 'any_order')::boolean THEN ', in any order' ELSE '' END, d ->> 'window',
      ', with the same "' || (d ->> 'hold') || '" throughout',
      (SELECT format(', and without %s between', string_agg(format('"%s"', x), ' or ')) FROM jsonb_array_elements_text(d -> 'exclude') AS x HAVING count(*) > 0))
    WHEN 'activation' THEN format('of the %s whose first %s is in the range, the share with event "%s" within %s of it', unit, start, d ->> 'activation', d ->> 'window')
    WHEN 'retention' THEN format('of the %s whose first %s is in the range and lies %s or more %ss before its end, the share with an %s in %s %s (UTC) after the one in which they began%s',
      unit, start, d ->> 'period', d ->> 'grain', coalesce('event "' || (d ->> 'return') || '"', 'event'), d ->> 'grain', d ->> 'period', CASE WHEN (d -> 'rolling')::boolean THEN ', or after that' ELSE '' END)
  END;
END
$$;
COMMENT ON FUNCTION tally.describe_metric(text) IS 'the rule of a declared metric in words';

CREATE FUNCTION tally.metric_value(name text, "from" timestamptz, "to" timestamptz, account text DEFAULT NULL, OUT metric_name text, OUT version int4,
    OUT value numeric, OUT exact boolean, OUT stderror float8, OUT as_of timestamptz, OUT definition_hash text,
    OUT whole_from timestamptz)
  RETURNS record
  LANGUAGE plpgsql STABLE PARALLEL SAFE CALLED ON NULL INPUT
  SET search_path = pg_catalog, pg_temp
  SET timezone = 'UTC'
AS $$
#variable_conflict use_column
DECLARE
  metric tally.metric := tally_internal.metric_definition(metric_value.name);
  d      jsonb := metric.definition;
  unit   text := coalesce(d ->> 'unit', 'user');
  least_number    numeric := d -> 'outliers' ->> 'least';
  greatest_number numeric := d -> 'outliers' ->> 'greatest';
  kept   record;
  answered boolean;
BEGIN
  PERFORM tally_internal.warn_unconfined(), tally_internal.check_metric_range(metric_value."from", metric_value."to");
  metric_name := metric.metric_name;
  version := metric.version;
  exact := true;
  stderror := 0;
  as_of := statement_timestamp();
  definition_hash := metric.definition_hash;
  IF (d -> 'approximate')::boolean THEN
    IF date_trunc('day', metric_value."from") <> metric_value."from" OR date_trunc('day', metric_value."to") <> metric_value."to" THEN
      RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = 'an estimate reads whole days: from and to must be at midnight UTC', HINT = 'leave "approximate" out of the definition to count other ranges exactly';
    END IF;
    -- Sketches of two tenants have unlike keys; their users are different users.
    SELECT coalesce(sum(t.users), 0), coalesce(sqrt(sum((t.users * t.error) ^ 2)), 0) INTO value, stderror
      FROM (SELECT tally.distinct_count(tally.rollup(u.users)) AS users, tally.stderror(tally.rollup(u.users)) AS error
              FROM tally.usage_day_state AS u WHERE u.bucket >= metric_value."from" AND u.bucket < metric_value."to"
               AND (d ->> 'event' IS NULL OR u.name = d ->> 'event')
               AND (metric_value.account IS NULL OR u.account_id = metric_value.account) GROUP BY u.tenant_id) AS t;
    exact := stderror = 0;
    RETURN;
  END IF;
  IF d ->> 'kind' IN ('events', 'units', 'sum', 'mean') THEN
    whole_from := tally_internal.lost_until(CASE WHEN d ? 'event' THEN ARRAY[d ->> 'event'] END, metric_value."from", metric_value."to",
      metric_value.account);
  END IF;
  IF whole_from IS NOT NULL AND d ->> 'kind' = 'units' THEN
    SELECT u.* INTO kept FROM tally_internal.kept_units(d ->> 'event', metric_value."from", metric_value."to", unit, metric_value.account) AS u;
    IF NOT kept.split THEN
      value := kept.units;
      whole_from := NULL;
      RETURN;
    END IF;
  ELSIF whole_from IS NOT NULL AND NOT d ? 'outliers' THEN
    SELECT t.* INTO kept FROM tally_internal.kept_totals(d ->> 'event', metric_value."from", metric_value."to", metric_value.account) AS t;
    -- How many values are numbers is kept of amounts alone.
    value := CASE WHEN d ->> 'kind' = 'events' AND NOT kept.events_split THEN kept.events
      WHEN d ->> 'kind' = 'sum' AND d ->> 'property' = 'value' AND NOT kept.events_split THEN coalesce(kept.value_sum, 0)
      WHEN d ->> 'kind' = 'sum' AND d ->> 'property' = 'amount' AND NOT kept.payments_split THEN coalesce(kept.amount, 0) END;
    IF d ->> 'kind' = 'mean' THEN
      answered := CASE WHEN coalesce(d ->> 'missing', 'skip') = 'skip' THEN d ->> 'property' = 'amount' AND NOT kept.payments_split
                       WHEN d ->> 'property' = 'amount' THEN NOT kept.payments_split AND NOT kept.events_split
                       ELSE d ->> 'property' = 'value' AND NOT kept.events_split END;
      value := CASE WHEN answered THEN (CASE d ->> 'property' WHEN 'amount' THEN coalesce(kept.amount, 0) ELSE coalesce(kept.value_sum, 0) END + 0.00000000000000000000)
                 / nullif(CASE d ->> 'missing' WHEN 'zero' THEN kept.events ELSE kept.payments END, 0) END;
    ELSE
      answered := value IS NOT NULL;
    END IF;
    IF answered THEN
      whole_from := NULL;
      RETURN;
    END IF;
  END IF;
  PERFORM tally_internal.refuse_incomplete(whole_from);
  exact := whole_from IS NULL;
  CASE d ->> 'kind'
    WHEN 'events', 'sum', 'mean' THEN
      SELECT CASE d ->> 'kind' WHEN 'sum' THEN coalesce(sum(t.number), 0) WHEN 'mean' THEN (sum(t.number) + 0.00000000000000000000) / nullif(count(t.number), 0) ELSE count(*) END INTO value
        FROM (SELECT CASE WHEN n.number IS NOT NULL AND d -> 'outliers' ->> 'treat' = 'clamp'
                          THEN least(greatest(n.number, least_number), greatest_number) ELSE n.number END AS number
                FROM (SELECT coalesce(tally.property_number(e.properties, d ->> 'property'),
                                      CASE d ->> 'missing' WHEN 'zero' THEN 0 END) AS number
                        FROM tally.events AS e
                       WHERE e.occurred_at >= metric_value."from" AND e.occurred_at < metric_value."to"
                         AND (d ->> 'event' IS NULL OR e.name = d ->> 'event')
                         AND (metric_value.account IS NULL OR e.account_id = metric_value.account)) AS n
               WHERE d -> 'outliers' ->> 'treat' IS DISTINCT FROM 'drop'
                  OR NOT coalesce(n.number < least_number, false) AND NOT coalesce(n.number > greatest_number, false)) AS t;
    WHEN 'units' THEN
      SELECT count(*) INTO value
        FROM (SELECT FROM tally.events AS e
               WHERE e.occurred_at >= metric_value."from" AND e.occurred_at < metric_value."to"
                 AND (d ->> 'event' IS NULL OR e.name = d ->> 'event') AND (unit = 'account' OR e.user_id IS NOT NULL)
                 AND (metric_value.account IS NULL OR e.account_id = metric_value.account)
               GROUP BY e.tenant_id, CASE unit WHEN 'user' THEN e.user_id ELSE e.account_id END) AS u;
    WHEN 'funnel' THEN
      SELECT f.from_first, f.exact, f.whole_from INTO value, exact, whole_from
        FROM tally.funnel(d -> 'steps', (d ->> 'window')::interval, metric_value."from", metric_value."to", unit, coalesce((d -> 'strict')::boolean, false), d ->> 'hold', NULL,
               ARRAY(SELECT jsonb_array_elements_text(d -> 'exclude')), coalesce((d -> 'any_order')::boolean, false),
               account => metric_value.account) AS f ORDER BY f.step DESC LIMIT 1;
    WHEN 'activation' THEN
      SELECT sum(a.activated) / nullif(sum(a.cohort_size), 0)::float8 INTO value
        FROM tally.activation(d ->> 'start', d ->> 'activation', (d ->> 'window')::interval, metric_value."from", metric_value."to", unit,
               account => metric_value.account) AS a;
    WHEN 'retention' THEN
      SELECT sum(r.retained) / nullif(sum(r.cohort_size), 0)::float8 INTO value
        FROM tally.retention(d ->> 'start', d ->> 'return', d ->> 'grain', metric_value."from", metric_value."to", unit,
               CASE WHEN (d -> 'rolling')::boolean THEN 'rolling' ELSE 'first_time' END, account => metric_value.account) AS r WHERE r.period = (d ->> 'period')::int4;
  END CASE;
END
$$;
COMMENT ON FUNCTION tally.metric_value(text, timestamptz, timestamptz, text) IS
  'a declared metric over a range in the present scope, with what tells how it came about; stderror is in units of the value; of one account where that is given';

CREATE FUNCTION tally.metric_series(name text, "from" timestamptz, "to" timestamptz, grain text DEFAULT 'day', account text DEFAULT NULL,
    OUT period timestamptz, OUT value numeric, OUT exact boolean, OUT stderror float8, OUT as_of timestamptz,
    OUT definition_hash text, OUT complete boolean, OUT whole_from timestamptz)
  RETURNS SETOF record
  LANGUAGE plpgsql STABLE PARALLEL SAFE CALLED ON NULL INPUT
  SET search_path = pg_catalog, pg_temp
  SET timezone = 'UTC'
AS $$
#variable_conflict use_column
DECLARE
  step interval;
  -- How long after a period something may still be added to its value.
  d     jsonb := (SELECT m.definition FROM tally.metric AS m WHERE m.metric_name = metric_series.name ORDER BY m.version DESC LIMIT 1);
  later interval := CASE WHEN d ->> 'kind' = 'activation' OR (d ->> 'kind' = 'funnel' AND NOT coalesce((d -> 'any_order')::boolean, false)) THEN (d ->> 'window')::interval
                         ELSE interval '0' END;
BEGIN
  PERFORM tally_internal.check_metric_range(metric_series."from", metric_series."to"), tally_internal.check_metric_grain(metric_series.grain);
  step := ('1 ' || metric_series.grain)::interval;
  IF (metric_series."to" - metric_series."from") / 2000 > step THEN
    RAISE EXCEPTION USING ERRCODE = 'program_limit_exceeded', MESSAGE = 'the range has more than 2000 periods',
      HINT = 'choose a coarser grain or a shorter range';
  END IF;
  RETURN QUERY
    SELECT p.start, v.value, v.exact, v.stderror, v.as_of, v.definition_hash,
           p.start >= metric_series."from" AND p.start + step <= metric_series."to" AND p.start + step + later <= statement_timestamp(), v.whole_from
      FROM generate_series(date_trunc(metric_series.grain, metric_series."from"), metric_series."to" - interval '1 microsecond', step) AS p (start)
     CROSS JOIN LATERAL tally.metric_value(metric_series.name, greatest(p.start, metric_series."from"), least(p.start + step, metric_series."to"),
             metric_series.account) AS v
     ORDER BY p.start;
END
$$;
COMMENT ON FUNCTION tally.metric_series(text, timestamptz, timestamptz, text, text) IS
  'a declared metric of each day, week or month (UTC) of a range, in the present scope; the first and last as far as the range reaches; of one account where that is given';

CREATE FUNCTION tally.cohort_members(name text, "from" timestamptz, "to" timestamptz, account text DEFAULT NULL, OUT tenant_id text, OUT unit_id text,
    OUT times int8, OUT first_at timestamptz, OUT last_at timestamptz, OUT as_of timestamptz, OUT definition_hash text,
    OUT exact boolean, OUT whole_from timestamptz)
  RETURNS SETOF record
  LANGUAGE plpgsql STABLE PARALLEL SAFE CALLED ON NULL INPUT
  SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
  cohort tally.cohort;
BEGIN
  SELECT c.* INTO cohort FROM tally.cohort AS c WHERE c.cohort_name = cohort_members.name ORDER BY c.version DESC LIMIT 1;
  IF NOT FOUND THEN
    RAISE EXCEPTION USING ERRCODE = 'undefined_object', MESSAGE = format('there is no cohort %s', coalesce(quote_ident(cohort_members.name), 'null')), HINT = 'tally.cohort lists the declared cohorts';
  END IF;
  RETURN QUERY SELECT u.tenant_id, u.unit_id, u.times, u.first_at, u.last_at, statement_timestamp(), cohort.definition_hash, u.exact, u.whole_from
    FROM tally.did_at_least(cohort.definition ->> 'event', (cohort.definition ->> 'at_least')::int8, cohort_members."from", cohort_members."to",
           coalesce(cohort.definition ->> 'unit', 'user'), cohort_members.account) AS u;
END
$$;
COMMENT ON FUNCTION tally.cohort_members(text, timestamptz, timestamptz, text) IS 'the units in scope that belong to a declared cohort over a range; of one account where that is given';

CREATE FUNCTION tally_internal.cohort_lost_until(name text, "from" timestamptz, "to" timestamptz, account text) RETURNS timestamptz
  LANGUAGE sql STABLE PARALLEL SAFE CALLED ON NULL INPUT
  SET search_path = pg_catalog, pg_temp
AS $$
  SELECT tally_internal.times_lost_until(c.definition ->> 'event', "from", "to", coalesce(c.definition ->> 'unit', 'user'), account)
    FROM tally.cohort AS c WHERE c.cohort_name = name ORDER BY c.version DESC LIMIT 1
$$;
COMMENT ON FUNCTION tally_internal.cohort_lost_until(text, timestamptz, timestamptz, text) IS
  'as tally_internal.lost_until(), of the events that decide who belongs to a declared cohort over a range, in an account (null for all)';

CREATE FUNCTION tally_internal.cohort_units(name text, "from" timestamptz, "to" timestamptz, unit text, account text, OUT tenant_id text, OUT unit_id text)
  RETURNS SETOF record
  LANGUAGE plpgsql STABLE PARALLEL SAFE CALLED ON NULL INPUT
  SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
  IF EXISTS (SELECT FROM (SELECT c.definition FROM tally.cohort AS c WHERE c.cohort_name = cohort_units.name ORDER BY c.version DESC LIMIT 1) AS d
              WHERE coalesce(d.definition ->> 'unit', 'user') <> cohort_units.unit) THEN
    RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
      MESSAGE = format('cohort %s is not one of %ss', quote_ident(cohort_units.name), cohort_units.unit),
      HINT = 'ask for the unit that the cohort is declared with';
  END IF;
  RETURN QUERY SELECT m.tenant_id, m.unit_id FROM tally.cohort_members(cohort_units.name, cohort_units."from", cohort_units."to", cohort_units.account) AS m;
END
$$;
COMMENT ON FUNCTION tally_internal.cohort_units(text, timestamptz, timestamptz, text, text) IS
  'the members of a declared cohort over a range; an error unless they are of this unit';

ALTER FUNCTION tally.define_metric(text, jsonb) OWNER TO tally_owner;
ALTER FUNCTION tally.define_cohort(text, jsonb) OWNER TO tally_owner;
REVOKE ALL ON FUNCTION tally_internal.check_definition(text, jsonb), tally.define_metric(text, jsonb), tally.define_cohort(text, jsonb),
  tally_internal.metric_definition(text), tally.describe_metric(text), tally.metric_value(text, timestamptz, timestamptz, text),
  tally.metric_series(text, timestamptz, timestamptz, text, text), tally.cohort_members(text, timestamptz, timestamptz, text),
  tally_internal.cohort_units(text, timestamptz, timestamptz, text, text), tally_internal.cohort_lost_until(text, timestamptz, timestamptz, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tally_internal.check_definition(text, jsonb), tally_internal.funnel_steps(jsonb) TO tally_owner;
GRANT EXECUTE ON FUNCTION tally.define_metric(text, jsonb), tally.define_cohort(text, jsonb) TO tally_admin;
GRANT EXECUTE ON FUNCTION tally_internal.metric_definition(text), tally.describe_metric(text), tally.metric_value(text, timestamptz, timestamptz, text),
  tally.metric_series(text, timestamptz, timestamptz, text, text), tally.cohort_members(text, timestamptz, timestamptz, text),
  tally_internal.cohort_units(text, timestamptz, timestamptz, text, text), tally_internal.cohort_lost_until(text, timestamptz, timestamptz, text) TO tally_reader;
