-- As the others, which a fresh installation grants in a loop.
GRANT EXECUTE ON FUNCTION tally.ingest(text, text), tally.ingest(text, json), tally.ingest(json, text), tally.ingest(json, json),
  tally.ingest(jsonb, text), tally.ingest(jsonb, json) TO tally_owner;
