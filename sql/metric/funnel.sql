-- Funnels over the events in scope. The caller's own row security decides which events those are.

-- Reads the steps into one row each and refuses what is none.
CREATE FUNCTION tally_internal.funnel_steps(steps jsonb,
    OUT step int4, OUT label text, OUT event_name text, OUT condition jsonb)
  RETURNS SETOF record ROWS 4
  LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE CALLED ON NULL INPUT
  SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  given jsonb;
BEGIN
  IF steps IS NULL OR jsonb_typeof(steps) <> 'array' OR jsonb_array_length(steps) NOT BETWEEN 1 AND 31 THEN
    RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
      MESSAGE = 'a funnel has 1 to 31 steps',
      HINT = 'give an array of event names, such as ARRAY[''signed_up'', ''paid'']';
  END IF;
  FOR step, given IN SELECT e.place, e.value FROM jsonb_array_elements(steps) WITH ORDINALITY AS e (value, place) LOOP
    IF jsonb_typeof(given) = 'string' THEN
      given := jsonb_build_object('event', given);
    END IF;
    IF jsonb_typeof(given) <> 'object' OR coalesce(jsonb_typeof(given -> 'event'), '') <> 'string'
       OR jsonb_typeof(coalesce(given -> 'where', '{}')) <> 'object'
       OR jsonb_typeof(coalesce(given -> 'label', '""')) <> 'string'
       OR given - ARRAY['event', 'where', 'label'] <> '{}' THEN
      RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
        MESSAGE = format('step %s is invalid: %s', step, given),
        HINT = 'a step is an event''s name, or an object {"event": name, "where": {property: value, ...}, "label": text}';
    END IF;
    event_name := given ->> 'event';
    condition := nullif(given -> 'where', '{}');
    label := coalesce(given ->> 'label', concat_ws(' ', event_name, condition::text));
    RETURN NEXT;
  END LOOP;
END
$$;
COMMENT ON FUNCTION tally_internal.funnel_steps(jsonb) IS
  'the steps of a funnel, one row each: number, label, name of the event, and what its properties must contain';

-- Steps as a text: drivers write an array of names as Postgres does, and objects as JSON.
CREATE FUNCTION tally_internal.funnel_steps_in(steps text) RETURNS jsonb
  LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE STRICT
  SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  -- Objects, and arrays of Postgres with bounds, are neither.
  IF steps ~ $re$^\s*\[object |^\s*\{\s*"\s*\{|^\s*\{\s*"[^"]*"\s*:|^\s*\[\s*-?\d+\s*:$re$ OR steps !~ $re$^\s*[[{]$re$ THEN
    RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
      MESSAGE = format('the steps of a funnel are neither a JSON array nor an array of names: %s', left(steps, 100)),
      HINT = 'send the text of a JSON array, as JSON.stringify or json.dumps makes it, such as ["signed_up", "paid"]';
  END IF;
  RETURN CASE WHEN steps ~ $re$^\s*\[$re$ THEN steps::jsonb ELSE to_jsonb(steps::text[]) END;
END
$$;
COMMENT ON FUNCTION tally_internal.funnel_steps_in(text) IS 'the steps of a funnel given as text: a JSON array, or an array of names as Postgres writes it';

CREATE FUNCTION tally.funnel(steps jsonb, "window" interval, "from" timestamptz, "to" timestamptz,
    unit text DEFAULT 'user', strict boolean DEFAULT false, hold text DEFAULT NULL, breakdown text DEFAULT NULL,
    exclude text[] DEFAULT '{}', any_order boolean DEFAULT false, attribution text DEFAULT 'first_step',
    account text DEFAULT NULL,
    OUT segment text, OUT step int4, OUT name text, OUT units int8, OUT from_first float8, OUT from_previous float8,
    OUT drop_off int8, OUT median_seconds float8, OUT p90_seconds float8, OUT exact boolean, OUT whole_from timestamptz)
  RETURNS SETOF record
  LANGUAGE plpgsql STABLE PARALLEL SAFE CALLED ON NULL INPUT
  SET search_path = pg_catalog, pg_temp
  SET timezone = 'UTC'
AS $$
#variable_conflict use_column
DECLARE
  number   int4;
  masks    text;
  labels   text[];
  names    text[];
  unit_id  text := CASE funnel.unit WHEN 'user' THEN 'e.user_id' ELSE 'e.account_id' END;
  excluded text;
  counts   int8[];
  lost     timestamptz;
  of_account text := CASE WHEN funnel.account IS NULL THEN '' ELSE format(' AND e.account_id = %L', funnel.account) END;
  -- The step whose event says which segment a unit belongs to.
  place    text := CASE funnel.attribution WHEN 'last_step' THEN 'cardinality(b.times)' ELSE '1' END;
BEGIN
  PERFORM tally_internal.warn_unconfined(), tally_internal.check_metric_window(funnel."window"), tally_internal.check_metric_range(funnel."from", funnel."to"),
          tally_internal.check_metric_unit(funnel.unit);
  IF funnel.strict AND funnel.any_order THEN
    RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = 'an order can''t be both strict and any',
      HINT = 'leave out strict or any_order';
  END IF;
  IF funnel.attribution IS NULL OR funnel.attribution NOT IN ('first_step', 'last_step') THEN
    RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
      MESSAGE = format('unknown attribution %s', coalesce(quote_ident(funnel.attribution), 'null')),
      HINT = 'a unit belongs to the segment of its first_step or of its last_step';
  END IF;
  SELECT count(*), array_agg(CASE WHEN funnel.any_order THEN 'any ' || s.step ELSE s.label END ORDER BY s.step), ARRAY(SELECT n.event_name FROM tally_internal.funnel_steps(funnel.steps) AS n GROUP BY n.event_name ORDER BY min(n.step))
    INTO number, labels, names FROM tally_internal.funnel_steps(funnel.steps) AS s;
  SELECT x INTO excluded FROM unnest(funnel.exclude) AS x WHERE x = ANY (names) LIMIT 1;
  IF FOUND THEN
    RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
      MESSAGE = format('event %s is a step and excluded', quote_ident(excluded)),
      HINT = 'an excluded event ends the attempt, so it can''t be a step of it';
  END IF;
  lost := tally_internal.lost_until(CASE WHEN NOT funnel.strict THEN names || funnel.exclude END, funnel."from",
                           CASE WHEN funnel.any_order THEN funnel."to" ELSE funnel."to" + funnel."window" END, funnel.account);
  PERFORM tally_internal.refuse_incomplete(lost);
  -- For each name of an event the steps that it fits, as bits; bit 31 excludes.
  SELECT string_agg(format('WHEN %L THEN %s', m.event_name, m.bits), ' ' ORDER BY m.first_step) INTO masks
    FROM (SELECT s.event_name, min(s.step) AS first_step, string_agg(
                   CASE WHEN s.condition IS NULL THEN (1 << s.step - 1)::text
                        ELSE format('CASE WHEN e.properties @> %L THEN %s ELSE 0 END', s.condition, 1 << s.step - 1)
                   END, ' | ') AS bits
            FROM tally_internal.funnel_steps(funnel.steps) AS s GROUP BY s.event_name
          UNION ALL SELECT x, 32, '-2147483648' FROM (SELECT DISTINCT unnest(funnel.exclude)) AS d (x)) AS m;
  -- Without properties that make groups, all events are counted in one pass; of very many, unit by unit, which can spill.
  IF funnel.hold IS NULL AND funnel.breakdown IS NULL
     AND (SELECT coalesce(sum(c.reltuples), 0) FROM pg_partition_tree('tally.events') AS part
           JOIN pg_class AS c ON c.oid = part.relid AND part.isleaf) < 20000000 THEN
    EXECUTE format($query$
      SELECT tally_internal.funnel_counts($1, $4, e.tenant_id, %1$s, e.occurred_at, $5, (CASE e.name %2$s ELSE 0 END)%3$s)
        FROM tally.events AS e
       WHERE e.occurred_at >= $2 AND e.occurred_at < $6 AND %1$s IS NOT NULL %4$s
      $query$, unit_id, masks,
      CASE WHEN funnel.any_order THEN '' ELSE ' & CASE WHEN e.occurred_at < $3 THEN -1 ELSE -2 END' END,
      CASE WHEN funnel.strict THEN '' ELSE format(' AND e.name = ANY (%L::text[])', names || funnel.exclude) END || of_account)
      INTO counts
     USING funnel."window", funnel."from", funnel."to",
           CASE WHEN funnel.strict THEN 'strict_order' WHEN funnel.any_order THEN 'any_order' ELSE '' END, number,
           CASE WHEN funnel.any_order THEN funnel."to" ELSE funnel."to" + funnel."window" END;
    RETURN QUERY
      SELECT NULL::text, n, labels[n], coalesce(counts[3 * n - 2], 0),
             coalesce(counts[3 * n - 2], 0) / nullif(counts[1], 0)::float8,
             coalesce(counts[3 * n - 2], 0) / nullif(counts[3 * greatest(n - 1, 1) - 2], 0)::float8,
             coalesce(counts[3 * greatest(n - 1, 1) - 2] - counts[3 * n - 2], 0),
             nullif(counts[3 * n - 1], -1) / 1000000::float8, nullif(counts[3 * n], -1) / 1000000::float8, lost IS NULL, lost
        FROM generate_series(1, number) AS n ORDER BY n;
    RETURN;
  END IF;
  RETURN QUERY EXECUTE format($query$
    WITH step_event AS %3$s (
      SELECT e.tenant_id, %1$s AS unit_id, %4$s AS held, e.occurred_at, %5$s AS trait,
             (CASE e.name %2$s ELSE 0 END)%10$s AS mask
        FROM tally.events AS e
       WHERE e.occurred_at >= $2 AND e.occurred_at < $7 AND %1$s IS NOT NULL %6$s
    ), chain AS (
      SELECT e.tenant_id, e.unit_id, e.held, tally.funnel_times($1, $4, e.occurred_at, $5, e.mask) AS times
        FROM step_event AS e GROUP BY e.tenant_id, e.unit_id, e.held
    ), best AS (
      %7$s
    ), segmented AS (
      %8$s
    ), reached AS (
      SELECT s.segment, n.step, count(*) AS units,
             percentile_disc(ARRAY[0.5, 0.9]) WITHIN GROUP (ORDER BY s.times[n.step] - s.times[n.step - 1]) AS waits
        FROM segmented AS s JOIN generate_series(1, $5) AS n (step) ON n.step <= cardinality(s.times)
       GROUP BY s.segment, n.step
    ), counted AS (
      -- Steps that nobody reached are shown too. Nulls are equal here, in a form that can be hashed.
      SELECT g.segment, n.step, coalesce(r.units, 0) AS units, r.waits
        FROM (SELECT DISTINCT a.segment FROM reached AS a %9$s) AS g CROSS JOIN generate_series(1, $5) AS n (step)
        LEFT JOIN reached AS r ON r.step = n.step AND coalesce(r.segment, '') = coalesce(g.segment, '')
         AND (r.segment IS NULL) = (g.segment IS NULL)
    )
    SELECT c.segment COLLATE "default", c.step, $6[c.step], c.units,
           c.units / nullif(first_value(c.units) OVER steps, 0)::float8,
           c.units / nullif(CASE c.step WHEN 1 THEN c.units ELSE lag(c.units) OVER steps END, 0)::float8,
           coalesce(lag(c.units) OVER steps - c.units, 0),
           extract(epoch FROM c.waits[1])::float8, extract(epoch FROM c.waits[2])::float8, $8 IS NULL, $8
      FROM counted AS c WINDOW steps AS (PARTITION BY c.segment ORDER BY c.step) ORDER BY c.segment, c.step
    $query$,
    unit_id, masks,
    -- A breakdown reads the events twice: for the chains, and for the property of the event that it goes by.
    CASE WHEN funnel.breakdown IS NULL THEN '' ELSE 'MATERIALIZED' END,
    CASE WHEN funnel.hold IS NULL THEN 'NULL::text' ELSE format('(e.properties ->> %L) COLLATE "C"', funnel.hold) END,
    CASE WHEN funnel.breakdown IS NULL THEN 'NULL::text'
         ELSE format('(e.properties ->> %L) COLLATE "C"', funnel.breakdown) END,
    CASE WHEN funnel.strict THEN '' ELSE format(' AND e.name = ANY (%L::text[])', names || funnel.exclude) END
      || of_account || CASE WHEN funnel.hold IS NULL THEN '' ELSE format(' AND e.properties ->> %L IS NOT NULL', funnel.hold) END,
    CASE WHEN funnel.hold IS NULL THEN 'SELECT * FROM chain AS c WHERE c.times <> ''{}'''
         ELSE 'SELECT DISTINCT ON (c.tenant_id, c.unit_id) * FROM chain AS c WHERE c.times <> ''{}'' ORDER BY c.tenant_id, '
              'c.unit_id, cardinality(c.times) DESC, c.times[cardinality(c.times)], c.times[1] DESC, c.times, c.held' END,
    CASE WHEN funnel.breakdown IS NULL THEN 'SELECT NULL::text AS segment, b.times FROM best AS b'
         ELSE 'SELECT min(e.trait) AS segment, b.times FROM best AS b JOIN step_event AS e ON e.tenant_id = b.tenant_id '
              'AND e.unit_id = b.unit_id AND e.held IS NOT DISTINCT FROM b.held AND e.occurred_at = b.times['
              || place || '] AND ' || CASE WHEN funnel.any_order THEN 'e.mask & 2147483647 <> 0' ELSE format('e.mask >> %s - 1 & 1 = 1', place) END || ' GROUP BY b.tenant_id, b.unit_id, b.times' END,
    CASE WHEN funnel.breakdown IS NULL THEN 'UNION SELECT NULL' END,
    -- In any order every event lies in the range; else only the first must.
    CASE WHEN funnel.any_order THEN '' ELSE ' & CASE WHEN e.occurred_at < $3 THEN -1 ELSE -2 END' END)
  USING funnel."window", funnel."from", funnel."to",
        CASE WHEN funnel.strict THEN 'strict_order' WHEN funnel.any_order THEN 'any_order' ELSE '' END, number, labels,
        CASE WHEN funnel.any_order THEN funnel."to" ELSE funnel."to" + funnel."window" END, lost;
END
$$;
COMMENT ON FUNCTION tally.funnel(jsonb, interval, timestamptz, timestamptz, text, boolean, text, text, text[], boolean, text, text) IS
  'how many units in scope that took the first step from "from" to "to" took each next one within the window; of one account where that is given; docs/metrics.md defines it';

CREATE FUNCTION tally.funnel(steps text[], "window" interval, "from" timestamptz, "to" timestamptz,
    unit text DEFAULT 'user', strict boolean DEFAULT false, hold text DEFAULT NULL, breakdown text DEFAULT NULL,
    exclude text[] DEFAULT '{}', any_order boolean DEFAULT false, attribution text DEFAULT 'first_step',
    account text DEFAULT NULL,
    OUT segment text, OUT step int4, OUT name text, OUT units int8, OUT from_first float8, OUT from_previous float8,
    OUT drop_off int8, OUT median_seconds float8, OUT p90_seconds float8, OUT exact boolean, OUT whole_from timestamptz)
  RETURNS SETOF record
  LANGUAGE sql STABLE PARALLEL SAFE CALLED ON NULL INPUT
  SET search_path = pg_catalog, pg_temp
  BEGIN ATOMIC
    SELECT f.* FROM tally.funnel(pg_catalog.to_jsonb(steps), "window", "from", "to", unit, strict, hold, breakdown,
                                 exclude, any_order, attribution, account) AS f;
  END;
COMMENT ON FUNCTION tally.funnel(text[], interval, timestamptz, timestamptz, text, boolean, text, text, text[], boolean, text, text) IS
  'the funnel whose steps are events of these names';

CREATE FUNCTION tally.funnel(steps text, "window" interval, "from" timestamptz, "to" timestamptz,
    unit text DEFAULT 'user', strict boolean DEFAULT false, hold text DEFAULT NULL, breakdown text DEFAULT NULL,
    exclude text[] DEFAULT '{}', any_order boolean DEFAULT false, attribution text DEFAULT 'first_step',
    account text DEFAULT NULL,
    OUT segment text, OUT step int4, OUT name text, OUT units int8, OUT from_first float8, OUT from_previous float8,
    OUT drop_off int8, OUT median_seconds float8, OUT p90_seconds float8, OUT exact boolean, OUT whole_from timestamptz)
  RETURNS SETOF record
  LANGUAGE sql STABLE PARALLEL SAFE CALLED ON NULL INPUT
  SET search_path = pg_catalog, pg_temp
  BEGIN ATOMIC
    SELECT f.* FROM tally.funnel(tally_internal.funnel_steps_in(steps), "window", "from", "to", unit, strict, hold, breakdown,
                                 exclude, any_order, attribution, account) AS f;
  END;
COMMENT ON FUNCTION tally.funnel(text, interval, timestamptz, timestamptz, text, boolean, text, text, text[], boolean, text, text) IS
  'the funnel whose steps are given as text, JSON or an array of names as Postgres writes it: what a driver sends that leaves a parameter''s type to the server';

CREATE FUNCTION tally.funnel(steps json, "window" interval, "from" timestamptz, "to" timestamptz,
    unit text DEFAULT 'user', strict boolean DEFAULT false, hold text DEFAULT NULL, breakdown text DEFAULT NULL,
    exclude text[] DEFAULT '{}', any_order boolean DEFAULT false, attribution text DEFAULT 'first_step',
    account text DEFAULT NULL,
    OUT segment text, OUT step int4, OUT name text, OUT units int8, OUT from_first float8, OUT from_previous float8,
    OUT drop_off int8, OUT median_seconds float8, OUT p90_seconds float8, OUT exact boolean, OUT whole_from timestamptz)
  RETURNS SETOF record
  LANGUAGE sql STABLE PARALLEL SAFE CALLED ON NULL INPUT
  SET search_path = pg_catalog, pg_temp
  BEGIN ATOMIC
    SELECT f.* FROM tally.funnel(steps::pg_catalog.jsonb, "window", "from", "to", unit, strict, hold, breakdown,
                                 exclude, any_order, attribution, account) AS f;
  END;
COMMENT ON FUNCTION tally.funnel(json, interval, timestamptz, timestamptz, text, boolean, text, text, text[], boolean, text, text) IS
  'the same, of type json';

REVOKE ALL ON FUNCTION tally_internal.funnel_steps(jsonb), tally_internal.funnel_steps_in(text),
  tally.funnel(jsonb, interval, timestamptz, timestamptz, text, boolean, text, text, text[], boolean, text, text),
  tally.funnel(text, interval, timestamptz, timestamptz, text, boolean, text, text, text[], boolean, text, text),
  tally.funnel(json, interval, timestamptz, timestamptz, text, boolean, text, text, text[], boolean, text, text),
  tally.funnel(text[], interval, timestamptz, timestamptz, text, boolean, text, text, text[], boolean, text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tally_internal.funnel_steps(jsonb), tally_internal.funnel_steps_in(text),
  tally.funnel(jsonb, interval, timestamptz, timestamptz, text, boolean, text, text, text[], boolean, text, text),
  tally.funnel(text, interval, timestamptz, timestamptz, text, boolean, text, text, text[], boolean, text, text),
  tally.funnel(json, interval, timestamptz, timestamptz, text, boolean, text, text, text[], boolean, text, text),
  tally.funnel(text[], interval, timestamptz, timestamptz, text, boolean, text, text, text[], boolean, text, text) TO tally_reader;
