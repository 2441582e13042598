-- The raw layer: the dedupe ledger, the events, the batches that carried them and the quarantine.
-- Only the ingest pipeline writes here (src/ingest), below the executor; it checks what the constraints say.

CREATE TABLE tally.tenant (
  sketch_epoch  int4 NOT NULL,
  first_seen_at timestamptz NOT NULL,
  tenant_id     text COLLATE "C" NOT NULL CONSTRAINT tenant_pkey PRIMARY KEY,
  sketch_key    bytea NOT NULL,
  CONSTRAINT tenant_sketch_key_is_128_bits CHECK (octet_length(sketch_key) = 16)
);
COMMENT ON TABLE tally.tenant IS 'one row a tenant, made when its first event arrives';
COMMENT ON COLUMN tally.tenant.sketch_epoch IS
  'random number that stands in its sketches for the key, so that sketches of unlike keys refuse to merge';
COMMENT ON COLUMN tally.tenant.first_seen_at IS 'start of the transaction that ingested its first event';
COMMENT ON COLUMN tally.tenant.tenant_id IS 'the tenant';
COMMENT ON COLUMN tally.tenant.sketch_key IS
  'secret key of its HyperLogLog hashes: without it nobody can choose ids that bend a distinct count';

CREATE TABLE tally.event_key (
  occurred_at timestamptz NOT NULL,
  fingerprint int8 NOT NULL,
  batch_id    int8 NOT NULL,
  event_id    uuid NOT NULL,
  tenant_id   text COLLATE "C" NOT NULL,
  account     text COLLATE "C",
  CONSTRAINT event_key_pkey PRIMARY KEY (tenant_id, event_id)
);
COMMENT ON TABLE tally.event_key IS 'the dedupe ledger: one row for each event ever accepted';
COMMENT ON COLUMN tally.event_key.occurred_at IS 'when the event occurred, as first sent';
COMMENT ON COLUMN tally.event_key.fingerprint IS 'hash of the event''s content: same key and other fingerprint is a conflict';
COMMENT ON COLUMN tally.event_key.batch_id IS 'the batch that brought it';
COMMENT ON COLUMN tally.event_key.event_id IS 'the idempotency key, unique within the tenant';
COMMENT ON COLUMN tally.event_key.tenant_id IS 'the tenant';
COMMENT ON COLUMN tally.event_key.account IS 'the account, so that the event is found by its index; null of events that came under version 0.1.0';

CREATE TABLE tally.events (
  occurred_at timestamptz NOT NULL,
  batch_id    int8 NOT NULL,
  event_id    uuid NOT NULL,
  tenant_id   text COLLATE "C" NOT NULL,
  account_id  text COLLATE "C" NOT NULL,
  name        text COLLATE "C" NOT NULL,
  user_id     text COLLATE "C",
  session_id  text COLLATE "C",
  properties  jsonb NOT NULL
) PARTITION BY RANGE (occurred_at);
-- Ids are read in place: never compressed, and too short to be moved out of line.
ALTER TABLE tally.events
  ALTER tenant_id SET STORAGE EXTERNAL, ALTER account_id SET STORAGE EXTERNAL, ALTER name SET STORAGE EXTERNAL,
  ALTER user_id SET STORAGE EXTERNAL, ALTER session_id SET STORAGE EXTERNAL;
-- Its one index is made on each partition, not here: where the parent has an index, attaching a partition makes another
-- one, and restoring a dump would then meet the partition's own a second time.
COMMENT ON TABLE tally.events IS 'every accepted event, immutable; one partition a month, made when first needed';
COMMENT ON COLUMN tally.events.occurred_at IS 'when the event occurred';
COMMENT ON COLUMN tally.events.batch_id IS 'the batch that brought it (tally.ingest_batch)';
COMMENT ON COLUMN tally.events.event_id IS 'the idempotency key, unique within the tenant';
COMMENT ON COLUMN tally.events.tenant_id IS 'the tenant';
COMMENT ON COLUMN tally.events.account_id IS 'the account inside the tenant';
COMMENT ON COLUMN tally.events.name IS 'the name of the event';
COMMENT ON COLUMN tally.events.user_id IS 'who acted, where sent';
COMMENT ON COLUMN tally.events.session_id IS 'in which session, where sent';
COMMENT ON COLUMN tally.events.properties IS 'everything else, an object';

CREATE TABLE tally.ingest_batch (
  batch_id    int8 NOT NULL,
  ingested_at timestamptz NOT NULL,
  accepted    int4 NOT NULL,
  duplicates  int4 NOT NULL,
  conflicts   int4 NOT NULL,
  rejected    int4 NOT NULL,
  tenant_id   text COLLATE "C" NOT NULL,
  caller      name NOT NULL,
  source      text COLLATE "C",
  client      text COLLATE "C",
  trace_id    text COLLATE "C",
  span_id     text COLLATE "C",
  redrives    int8[],
  CONSTRAINT ingest_batch_pkey PRIMARY KEY (tenant_id, batch_id)
);
COMMENT ON TABLE tally.ingest_batch IS 'one row for each tenant in each ingest call';
COMMENT ON COLUMN tally.ingest_batch.batch_id IS 'the ingest call';
COMMENT ON COLUMN tally.ingest_batch.ingested_at IS 'start of the transaction that ingested it';
COMMENT ON COLUMN tally.ingest_batch.accepted IS 'events counted';
COMMENT ON COLUMN tally.ingest_batch.duplicates IS 'events that were there already';
COMMENT ON COLUMN tally.ingest_batch.conflicts IS 'events whose key was there with other content';
COMMENT ON COLUMN tally.ingest_batch.rejected IS 'events that are in quarantine because they are not valid';
COMMENT ON COLUMN tally.ingest_batch.tenant_id IS 'the tenant; empty for events that named no valid one';
COMMENT ON COLUMN tally.ingest_batch.caller IS 'the role that logged in and called';
COMMENT ON COLUMN tally.ingest_batch.source IS 'what produced the events, where the call''s options say';
COMMENT ON COLUMN tally.ingest_batch.client IS 'the program that sent them: from the call''s options, or else application_name';
COMMENT ON COLUMN tally.ingest_batch.trace_id IS 'the W3C trace that the call was part of, where its options have a valid traceparent';
COMMENT ON COLUMN tally.ingest_batch.span_id IS 'the operation in that trace';
COMMENT ON COLUMN tally.ingest_batch.redrives IS 'of a redrive: the batches that had brought these events into quarantine';

CREATE TABLE tally.quarantine (
  batch_id       int8 NOT NULL,
  quarantined_at timestamptz NOT NULL,
  position       int4 NOT NULL,
  event_id       uuid,
  tenant_id      text COLLATE "C" NOT NULL,
  account_id     text COLLATE "C" NOT NULL DEFAULT '',
  outcome        text COLLATE "C" NOT NULL,
  sqlstate       text COLLATE "C" NOT NULL,
  reason         text COLLATE "C" NOT NULL,
  body           text COLLATE "C" NOT NULL,
  tries          int4 NOT NULL DEFAULT 0,
  tried_at       timestamptz,
  format         text COLLATE "C",
  CONSTRAINT quarantine_pkey PRIMARY KEY (tenant_id, batch_id, position),
  CONSTRAINT quarantine_outcome_known CHECK (outcome IN ('conflict', 'rejected'))
);
COMMENT ON TABLE tally.quarantine IS 'conflicting and rejected events, whole, with the reason';
COMMENT ON COLUMN tally.quarantine.batch_id IS 'the batch that brought it';
COMMENT ON COLUMN tally.quarantine.quarantined_at IS 'start of the transaction that ingested the batch';
COMMENT ON COLUMN tally.quarantine.position IS 'place in the batch, from 0';
COMMENT ON COLUMN tally.quarantine.event_id IS 'the event''s key, where it could be read';
COMMENT ON COLUMN tally.quarantine.tenant_id IS 'the tenant in whose scope it was sent; empty where there was none';
COMMENT ON COLUMN tally.quarantine.account_id IS 'the account in whose scope it was sent; empty where there was none';
COMMENT ON COLUMN tally.quarantine.outcome IS 'conflict or rejected';
COMMENT ON COLUMN tally.quarantine.sqlstate IS 'error code of the reason';
COMMENT ON COLUMN tally.quarantine.reason IS 'what is wrong, naming the field';
COMMENT ON COLUMN tally.quarantine.body IS 'the event as it was sent; what was sent as columns or as a value of the type stands there as one JSON object';
COMMENT ON COLUMN tally.quarantine.tries IS 'how often it was redriven in vain';
COMMENT ON COLUMN tally.quarantine.tried_at IS 'when that was last; outcome, sqlstate and reason are of then';
COMMENT ON COLUMN tally.quarantine.format IS 'of an event of another system''s payload that could not be translated: the format that tally.redrive() translates it by again; null for any other, whatever its text says';

-- tally.find_event() looks for an event that was not accepted.
CREATE INDEX quarantine_event_id ON tally.quarantine (tenant_id, event_id) WHERE event_id IS NOT NULL;

-- Of a row that goes or changes, logical replication sends what identifies it. These have no key: months are split and, as
-- administrators wish, dropped row by row.
ALTER TABLE tally.events REPLICA IDENTITY FULL;

ALTER TABLE tally.tenant OWNER TO tally_security;
ALTER TABLE tally.event_key OWNER TO tally_owner;
ALTER TABLE tally.events OWNER TO tally_owner;
ALTER TABLE tally.ingest_batch OWNER TO tally_owner;
ALTER TABLE tally.quarantine OWNER TO tally_owner;

SELECT tally_internal.secure_table('tally.tenant'), tally_internal.secure_table('tally.event_key'), tally_internal.secure_table('tally.events'),
       tally_internal.secure_table('tally.ingest_batch'), tally_internal.secure_table('tally.quarantine');

SELECT pg_catalog.pg_extension_config_dump('tally.tenant', '');
SELECT pg_catalog.pg_extension_config_dump('tally.event_key', '');
SELECT pg_catalog.pg_extension_config_dump('tally.ingest_batch', '');
SELECT pg_catalog.pg_extension_config_dump('tally.quarantine', '');

REVOKE ALL ON tally.tenant, tally.event_key, tally.events, tally.ingest_batch, tally.quarantine FROM PUBLIC;
GRANT SELECT (tenant_id, first_seen_at) ON tally.tenant TO tally_reader;
-- Verifying makes sketches anew; nothing but ingest writes keys, below the executor.
GRANT SELECT ON tally.tenant TO tally_owner;
GRANT SELECT ON tally.events, tally.ingest_batch, tally.quarantine TO tally_reader;

CREATE FUNCTION tally_internal.health_ledger()
  RETURNS TABLE (place int4, component text, status text, value float8, "limit" float8, advice text)
  LANGUAGE plpgsql STABLE PARALLEL UNSAFE STRICT
  SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  place := 7;
  component := 'ledger';
  value := (SELECT age(c.relfrozenxid) FROM pg_class AS c WHERE c.oid = 'tally.event_key'::regclass);
  "limit" := current_setting('autovacuum_freeze_max_age')::float8;
  status := CASE WHEN value > 4 * "limit" THEN 'failing' WHEN value > 1.2 * "limit" THEN 'warning' ELSE 'ok' END;
  advice := CASE WHEN value > 1.2 * "limit" THEN 'vacuum does not keep up with transactions: VACUUM (FREEZE) tally.event_key' END;
  RETURN NEXT;
END
$$;
COMMENT ON FUNCTION tally_internal.health_ledger() IS 'part of tally.health(): transactions since it was frozen';
REVOKE ALL ON FUNCTION tally_internal.health_ledger() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tally_internal.health_ledger() TO tally_admin;
