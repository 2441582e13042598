-- The doors of the ingest pipeline.

CREATE FUNCTION tally.ingest(events text,
    OUT batch_id int8, OUT accepted int8, OUT duplicates int8, OUT conflicts int8, OUT rejected int8, OUT details json)
  RETURNS SETOF record ROWS 1
  LANGUAGE c VOLATILE PARALLEL UNSAFE STRICT AS 'MODULE_PATHNAME', 'ingest_wrapper';
COMMENT ON FUNCTION tally.ingest(text) IS
  'ingests one event or an array of events given as JSON; each counts once however often it is sent';

CREATE FUNCTION tally.ingest(events json,
    OUT batch_id int8, OUT accepted int8, OUT duplicates int8, OUT conflicts int8, OUT rejected int8, OUT details json)
  RETURNS SETOF record ROWS 1
  LANGUAGE c VOLATILE PARALLEL UNSAFE STRICT AS 'MODULE_PATHNAME', 'ingest_wrapper';
COMMENT ON FUNCTION tally.ingest(json) IS
  'ingests one event or an array of events; each counts once however often it is sent';

CREATE FUNCTION tally.ingest(events jsonb,
    OUT batch_id int8, OUT accepted int8, OUT duplicates int8, OUT conflicts int8, OUT rejected int8, OUT details json)
  RETURNS SETOF record ROWS 1
  LANGUAGE sql VOLATILE PARALLEL UNSAFE STRICT
  SET search_path = pg_catalog, pg_temp
  BEGIN ATOMIC
    SELECT s.* FROM tally.ingest(events::pg_catalog.text) AS s;
  END;
COMMENT ON FUNCTION tally.ingest(jsonb) IS
  'ingests one event or an array of events; each counts once however often it is sent';

CREATE FUNCTION tally.ingest_events(events tally.event[],
    OUT batch_id int8, OUT accepted int8, OUT duplicates int8, OUT conflicts int8, OUT rejected int8, OUT details json)
  RETURNS SETOF record ROWS 1
  LANGUAGE c VOLATILE PARALLEL UNSAFE STRICT AS 'MODULE_PATHNAME', 'ingest_events_wrapper';
COMMENT ON FUNCTION tally.ingest_events(tally.event[]) IS
  'ingests an array of typed events; each counts once however often it is sent';

-- The same with options. A second argument that every call must give, not one with a default: so `tally.ingest($1)` with a
-- parameter of unknown type stays unambiguous.

CREATE FUNCTION tally.ingest(events text, options jsonb,
    OUT batch_id int8, OUT accepted int8, OUT duplicates int8, OUT conflicts int8, OUT rejected int8, OUT details json)
  RETURNS SETOF record ROWS 1
  LANGUAGE c VOLATILE PARALLEL UNSAFE STRICT AS 'MODULE_PATHNAME', 'ingest_with_options_wrapper';
COMMENT ON FUNCTION tally.ingest(text, jsonb) IS
  'the same with options: all_or_nothing (true: the call fails unless every event is accepted or a duplicate), on_conflict (quarantine, ignore, error), source, client, traceparent; a key that is not given comes from tally.ingest_options';

CREATE FUNCTION tally.ingest(events json, options jsonb,
    OUT batch_id int8, OUT accepted int8, OUT duplicates int8, OUT conflicts int8, OUT rejected int8, OUT details json)
  RETURNS SETOF record ROWS 1
  LANGUAGE c VOLATILE PARALLEL UNSAFE STRICT AS 'MODULE_PATHNAME', 'ingest_with_options_wrapper';
COMMENT ON FUNCTION tally.ingest(json, jsonb) IS
  'the same with options, see tally.ingest(text, jsonb)';

CREATE FUNCTION tally.ingest(events jsonb, options jsonb,
    OUT batch_id int8, OUT accepted int8, OUT duplicates int8, OUT conflicts int8, OUT rejected int8, OUT details json)
  RETURNS SETOF record ROWS 1
  LANGUAGE sql VOLATILE PARALLEL UNSAFE STRICT
  SET search_path = pg_catalog, pg_temp
  BEGIN ATOMIC
    SELECT s.* FROM tally.ingest(events::pg_catalog.text, options) AS s;
  END;
COMMENT ON FUNCTION tally.ingest(jsonb, jsonb) IS
  'the same with options, see tally.ingest(text, jsonb)';

CREATE FUNCTION tally.ingest_events(events tally.event[], options jsonb,
    OUT batch_id int8, OUT accepted int8, OUT duplicates int8, OUT conflicts int8, OUT rejected int8, OUT details json)
  RETURNS SETOF record ROWS 1
  LANGUAGE c VOLATILE PARALLEL UNSAFE STRICT AS 'MODULE_PATHNAME', 'ingest_events_with_options_wrapper';
COMMENT ON FUNCTION tally.ingest_events(tally.event[], jsonb) IS
  'the same with options, see tally.ingest(text, jsonb)';

REVOKE ALL ON FUNCTION tally.ingest_events(tally.event[]), tally.ingest(text), tally.ingest(json), tally.ingest(jsonb),
  tally.ingest_events(tally.event[], jsonb), tally.ingest(text, jsonb), tally.ingest(json, jsonb), tally.ingest(jsonb, jsonb)
  FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tally.ingest_events(tally.event[]), tally.ingest(text), tally.ingest(json), tally.ingest(jsonb),
  tally.ingest_events(tally.event[], jsonb), tally.ingest(text, jsonb), tally.ingest(json, jsonb), tally.ingest(jsonb, jsonb)
  TO tally_writer;
