-- The doors of the ingest pipeline.

CREATE FUNCTION tally.ingest(events text,
    OUT batch_id int8, OUT accepted int8, OUT duplicates int8, OUT conflicts int8, OUT rejected int8, OUT details json)
  RETURNS SETOF record ROWS 1
  LANGUAGE c VOLATILE PARALLEL UNSAFE CALLED ON NULL INPUT AS 'MODULE_PATHNAME', 'ingest_wrapper';
COMMENT ON FUNCTION tally.ingest(text) IS
  'ingests one event or an array of events given as JSON; each counts once however often it is sent';

CREATE FUNCTION tally.ingest(events json,
    OUT batch_id int8, OUT accepted int8, OUT duplicates int8, OUT conflicts int8, OUT rejected int8, OUT details json)
  RETURNS SETOF record ROWS 1
  LANGUAGE c VOLATILE PARALLEL UNSAFE CALLED ON NULL INPUT AS 'MODULE_PATHNAME', 'ingest_wrapper';
COMMENT ON FUNCTION tally.ingest(json) IS
  'ingests one event or an array of events; each counts once however often it is sent';

CREATE FUNCTION tally.ingest(events jsonb,
    OUT batch_id int8, OUT accepted int8, OUT duplicates int8, OUT conflicts int8, OUT rejected int8, OUT details json)
  RETURNS SETOF record ROWS 1
  LANGUAGE sql VOLATILE PARALLEL UNSAFE CALLED ON NULL INPUT
  SET search_path = pg_catalog, pg_temp
  BEGIN ATOMIC
    SELECT s.* FROM tally.ingest(events::pg_catalog.text) AS s;
  END;
COMMENT ON FUNCTION tally.ingest(jsonb) IS
  'ingests one event or an array of events; each counts once however often it is sent';

CREATE FUNCTION tally.ingest_events(events tally.event[],
    OUT batch_id int8, OUT accepted int8, OUT duplicates int8, OUT conflicts int8, OUT rejected int8, OUT details json)
  RETURNS SETOF record ROWS 1
  LANGUAGE c VOLATILE PARALLEL UNSAFE CALLED ON NULL INPUT AS 'MODULE_PATHNAME', 'ingest_events_wrapper';
COMMENT ON FUNCTION tally.ingest_events(tally.event[]) IS
  'ingests an array of typed events; each counts once however often it is sent';

-- The same with options. A second argument that every call must give, not one with a default: so `tally.ingest($1)` with a
-- parameter of unknown type stays unambiguous. Each is there for text, json and jsonb, which drivers give their parameters; where they
-- leave the type to the server, text is what it takes.

CREATE FUNCTION tally.ingest(events text, options jsonb,
    OUT batch_id int8, OUT accepted int8, OUT duplicates int8, OUT conflicts int8, OUT rejected int8, OUT details json)
  RETURNS SETOF record ROWS 1
  LANGUAGE c VOLATILE PARALLEL UNSAFE CALLED ON NULL INPUT AS 'MODULE_PATHNAME', 'ingest_with_options_wrapper';
COMMENT ON FUNCTION tally.ingest(text, jsonb) IS
  'the same with options: all_or_nothing (true: the call fails unless every event is accepted or a duplicate), on_conflict (quarantine, ignore, error), source, client, traceparent; a key that is not given comes from tally.ingest_options';

CREATE FUNCTION tally.ingest(events text, options text,
    OUT batch_id int8, OUT accepted int8, OUT duplicates int8, OUT conflicts int8, OUT rejected int8, OUT details json)
  RETURNS SETOF record ROWS 1
  LANGUAGE c VOLATILE PARALLEL UNSAFE CALLED ON NULL INPUT AS 'MODULE_PATHNAME', 'ingest_with_options_text_wrapper';
COMMENT ON FUNCTION tally.ingest(text, text) IS
  'the same with options, see tally.ingest(text, jsonb)';

CREATE FUNCTION tally.ingest(events text, options json,
    OUT batch_id int8, OUT accepted int8, OUT duplicates int8, OUT conflicts int8, OUT rejected int8, OUT details json)
  RETURNS SETOF record ROWS 1
  LANGUAGE c VOLATILE PARALLEL UNSAFE CALLED ON NULL INPUT AS 'MODULE_PATHNAME', 'ingest_with_options_text_wrapper';
COMMENT ON FUNCTION tally.ingest(text, json) IS
  'the same with options, see tally.ingest(text, jsonb)';

CREATE FUNCTION tally.ingest(events json, options jsonb,
    OUT batch_id int8, OUT accepted int8, OUT duplicates int8, OUT conflicts int8, OUT rejected int8, OUT details json)
  RETURNS SETOF record ROWS 1
  LANGUAGE c VOLATILE PARALLEL UNSAFE CALLED ON NULL INPUT AS 'MODULE_PATHNAME', 'ingest_with_options_wrapper';
COMMENT ON FUNCTION tally.ingest(json, jsonb) IS
  'the same with options, see tally.ingest(text, jsonb)';

CREATE FUNCTION tally.ingest(events json, options text,
    OUT batch_id int8, OUT accepted int8, OUT duplicates int8, OUT conflicts int8, OUT rejected int8, OUT details json)
  RETURNS SETOF record ROWS 1
  LANGUAGE c VOLATILE PARALLEL UNSAFE CALLED ON NULL INPUT AS 'MODULE_PATHNAME', 'ingest_with_options_text_wrapper';
COMMENT ON FUNCTION tally.ingest(json, text) IS
  'the same with options, see tally.ingest(text, jsonb)';

CREATE FUNCTION tally.ingest(events json, options json,
    OUT batch_id int8, OUT accepted int8, OUT duplicates int8, OUT conflicts int8, OUT rejected int8, OUT details json)
  RETURNS SETOF record ROWS 1
  LANGUAGE c VOLATILE PARALLEL UNSAFE CALLED ON NULL INPUT AS 'MODULE_PATHNAME', 'ingest_with_options_text_wrapper';
COMMENT ON FUNCTION tally.ingest(json, json) IS
  'the same with options, see tally.ingest(text, jsonb)';

CREATE FUNCTION tally.ingest(events jsonb, options jsonb,
    OUT batch_id int8, OUT accepted int8, OUT duplicates int8, OUT conflicts int8, OUT rejected int8, OUT details json)
  RETURNS SETOF record ROWS 1
  LANGUAGE sql VOLATILE PARALLEL UNSAFE CALLED ON NULL INPUT
  SET search_path = pg_catalog, pg_temp
  BEGIN ATOMIC
    SELECT s.* FROM tally.ingest(events::pg_catalog.text, options) AS s;
  END;
COMMENT ON FUNCTION tally.ingest(jsonb, jsonb) IS
  'the same with options, see tally.ingest(text, jsonb)';

CREATE FUNCTION tally.ingest(events jsonb, options text,
    OUT batch_id int8, OUT accepted int8, OUT duplicates int8, OUT conflicts int8, OUT rejected int8, OUT details json)
  RETURNS SETOF record ROWS 1
  LANGUAGE sql VOLATILE PARALLEL UNSAFE CALLED ON NULL INPUT
  SET search_path = pg_catalog, pg_temp
  BEGIN ATOMIC
    SELECT s.* FROM tally.ingest(events::pg_catalog.text, options) AS s;
  END;
COMMENT ON FUNCTION tally.ingest(jsonb, text) IS
  'the same with options, see tally.ingest(text, jsonb)';

CREATE FUNCTION tally.ingest(events jsonb, options json,
    OUT batch_id int8, OUT accepted int8, OUT duplicates int8, OUT conflicts int8, OUT rejected int8, OUT details json)
  RETURNS SETOF record ROWS 1
  LANGUAGE sql VOLATILE PARALLEL UNSAFE CALLED ON NULL INPUT
  SET search_path = pg_catalog, pg_temp
  BEGIN ATOMIC
    SELECT s.* FROM tally.ingest(events::pg_catalog.text, options) AS s;
  END;
COMMENT ON FUNCTION tally.ingest(jsonb, json) IS
  'the same with options, see tally.ingest(text, jsonb)';

CREATE FUNCTION tally.ingest_events(events tally.event[], options jsonb,
    OUT batch_id int8, OUT accepted int8, OUT duplicates int8, OUT conflicts int8, OUT rejected int8, OUT details json)
  RETURNS SETOF record ROWS 1
  LANGUAGE c VOLATILE PARALLEL UNSAFE CALLED ON NULL INPUT AS 'MODULE_PATHNAME', 'ingest_events_with_options_wrapper';
COMMENT ON FUNCTION tally.ingest_events(tally.event[], jsonb) IS
  'the same with options, see tally.ingest(text, jsonb)';

CREATE FUNCTION tally.ingest_events(events tally.event[], options text,
    OUT batch_id int8, OUT accepted int8, OUT duplicates int8, OUT conflicts int8, OUT rejected int8, OUT details json)
  RETURNS SETOF record ROWS 1
  LANGUAGE c VOLATILE PARALLEL UNSAFE CALLED ON NULL INPUT AS 'MODULE_PATHNAME', 'ingest_events_with_options_text_wrapper';
COMMENT ON FUNCTION tally.ingest_events(tally.event[], text) IS
  'the same with options, see tally.ingest(text, jsonb)';

CREATE FUNCTION tally.ingest_events(events tally.event[], options json,
    OUT batch_id int8, OUT accepted int8, OUT duplicates int8, OUT conflicts int8, OUT rejected int8, OUT details json)
  RETURNS SETOF record ROWS 1
  LANGUAGE c VOLATILE PARALLEL UNSAFE CALLED ON NULL INPUT AS 'MODULE_PATHNAME', 'ingest_events_with_options_text_wrapper';
COMMENT ON FUNCTION tally.ingest_events(tally.event[], json) IS
  'the same with options, see tally.ingest(text, jsonb)';

REVOKE ALL ON FUNCTION tally.ingest_events(tally.event[]), tally.ingest(text), tally.ingest(json), tally.ingest(jsonb),
  tally.ingest(text, jsonb), tally.ingest(text, text), tally.ingest(text, json), tally.ingest(json, jsonb),
  tally.ingest(json, text), tally.ingest(json, json), tally.ingest(jsonb, jsonb), tally.ingest(jsonb, text),
  tally.ingest(jsonb, json), tally.ingest_events(tally.event[], jsonb), tally.ingest_events(tally.event[], text), tally.ingest_events(tally.event[], json)
  FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tally.ingest_events(tally.event[]), tally.ingest(text), tally.ingest(json), tally.ingest(jsonb),
  tally.ingest(text, jsonb), tally.ingest(text, text), tally.ingest(text, json), tally.ingest(json, jsonb),
  tally.ingest(json, text), tally.ingest(json, json), tally.ingest(jsonb, jsonb), tally.ingest(jsonb, text),
  tally.ingest(jsonb, json), tally.ingest_events(tally.event[], jsonb), tally.ingest_events(tally.event[], text), tally.ingest_events(tally.event[], json)
  TO tally_writer;

CREATE FUNCTION tally_internal.health_ingest()
  RETURNS TABLE (place int4, component text, status text, value float8, "limit" float8, advice text)
  LANGUAGE plpgsql STABLE PARALLEL UNSAFE STRICT
  SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  place := 1;
  component := 'ingest';
  value := (SELECT round(coalesce(100.0 * sum(b.conflicts + b.rejected) / nullif(sum(b.accepted + b.duplicates + b.conflicts + b.rejected), 0), 0), 3)
              FROM tally.ingest_batch AS b
             -- What a redrive tries again was counted when it came.
             WHERE b.ingested_at > now() - interval '1 hour' AND b.redrives IS NULL);
  "limit" := 1;
  status := CASE WHEN value > 50 THEN 'failing' WHEN value > "limit" THEN 'warning' ELSE 'ok' END;
  advice := CASE WHEN value > "limit" THEN format('%s percent of the last hour''s events conflict or are rejected: SELECT tenant_id, reason, count(*) FROM tally.quarantine WHERE quarantined_at > now() - interval ''1 hour'' GROUP BY 1, 2 ORDER BY 3 DESC', value) END;
  RETURN NEXT;
END
$$;
COMMENT ON FUNCTION tally_internal.health_ingest() IS 'part of tally.health(): events of the last hour that were not counted';
REVOKE ALL ON FUNCTION tally_internal.health_ingest() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tally_internal.health_ingest() TO tally_admin;
