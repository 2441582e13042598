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
  LANGUAGE sql VOLATILE PARALLEL UNSAFE STRICT
  SET search_path = pg_catalog, pg_temp
  BEGIN ATOMIC
    SELECT s.* FROM tally.ingest(pg_catalog.concat('[', pg_catalog.array_to_string(events, ',', 'null'), ']')) AS s;
  END;
COMMENT ON FUNCTION tally.ingest_events(tally.event[]) IS
  'ingests an array of typed events; each counts once however often it is sent';

REVOKE ALL ON FUNCTION tally.ingest_events(tally.event[]), tally.ingest(text), tally.ingest(json), tally.ingest(jsonb) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tally.ingest_events(tally.event[]), tally.ingest(text), tally.ingest(json), tally.ingest(jsonb) TO tally_writer;
