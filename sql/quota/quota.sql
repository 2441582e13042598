-- Quotas: what each tenant may send. src/quota counts.

CREATE TABLE tally.quota (
  events_per_minute int8,
  burst             int8,
  quarantine_events int8,
  batch_events      int4,
  properties_kb     int4,
  tenant_id         text COLLATE "C" NOT NULL CONSTRAINT quota_pkey PRIMARY KEY,
  CONSTRAINT quota_events_per_minute_positive CHECK (events_per_minute OPERATOR(pg_catalog.>) 0),
  CONSTRAINT quota_burst_positive CHECK (burst OPERATOR(pg_catalog.>) 0),
  CONSTRAINT quota_burst_needs_rate CHECK (burst IS NULL OR events_per_minute IS NOT NULL),
  CONSTRAINT quota_quarantine_events_positive CHECK (quarantine_events OPERATOR(pg_catalog.>) 0),
  CONSTRAINT quota_batch_events_positive CHECK (batch_events OPERATOR(pg_catalog.>) 0),
  CONSTRAINT quota_properties_kb_positive CHECK (properties_kb OPERATOR(pg_catalog.>) 0)
);
COMMENT ON TABLE tally.quota IS 'how much each tenant may send; null where nothing bounds it';
COMMENT ON COLUMN tally.quota.events_per_minute IS 'events a minute, in the long run, whatever becomes of them';
COMMENT ON COLUMN tally.quota.burst IS 'the most events at once, after a pause; null: as many as a minute''s';
COMMENT ON COLUMN tally.quota.quarantine_events IS 'events in quarantine: calls that would bring more are refused; about, where several sessions send at once';
COMMENT ON COLUMN tally.quota.batch_events IS 'events in one call';
COMMENT ON COLUMN tally.quota.properties_kb IS 'kilobytes of one event''s properties as stored; an event with more is rejected alone';
COMMENT ON COLUMN tally.quota.tenant_id IS 'the tenant; empty for all that have no quota of their own';

CREATE TABLE tally.quota_state (
  refilled_at timestamptz NOT NULL,
  tokens      float8 NOT NULL,
  tenant_id   text COLLATE "C" NOT NULL CONSTRAINT quota_state_pkey PRIMARY KEY,
  events_per_minute int8,
  burst             int8
);
COMMENT ON TABLE tally.quota_state IS 'what of a tenant''s events a minute was left at a moment; tally.quota_take has what was taken since';
COMMENT ON COLUMN tally.quota_state.refilled_at IS 'the moment';
COMMENT ON COLUMN tally.quota_state.tokens IS 'events that could be sent at once then; below zero where sessions took without knowing of each other';
COMMENT ON COLUMN tally.quota_state.tenant_id IS 'the tenant';
COMMENT ON COLUMN tally.quota_state.events_per_minute IS 'of the quota that this is of: under another one it counts for nothing; null for a state of version 0.1.0';
COMMENT ON COLUMN tally.quota_state.burst IS 'the most events at once of that quota';

CREATE TABLE tally.quota_take (
  taken_at  timestamptz NOT NULL,
  tokens    float8 NOT NULL,
  tenant_id text COLLATE "C" NOT NULL,
  events_per_minute int8,
  burst             int8
);
CREATE INDEX quota_take_tenant ON tally.quota_take (tenant_id);
COMMENT ON TABLE tally.quota_take IS 'events that sessions took from their tenant''s quota, some ahead';
COMMENT ON COLUMN tally.quota_take.taken_at IS 'when';
COMMENT ON COLUMN tally.quota_take.tokens IS 'how many';
COMMENT ON COLUMN tally.quota_take.tenant_id IS 'the tenant';
COMMENT ON COLUMN tally.quota_take.events_per_minute IS 'of the quota under which they were taken: under another one they count for nothing; null for takes of version 0.1.0';
COMMENT ON COLUMN tally.quota_take.burst IS 'the most events at once of that quota';

ALTER TABLE tally.quota_take REPLICA IDENTITY FULL;
ALTER TABLE tally.quota OWNER TO tally_owner;
ALTER TABLE tally.quota_state OWNER TO tally_owner;
ALTER TABLE tally.quota_take OWNER TO tally_owner;
SELECT tally_internal.secure_table('tally.quota'), tally_internal.secure_table('tally.quota_state'), tally_internal.secure_table('tally.quota_take');
SELECT pg_catalog.pg_extension_config_dump('tally.quota', '');
REVOKE ALL ON tally.quota, tally.quota_state, tally.quota_take FROM PUBLIC;
GRANT SELECT ON tally.quota, tally.quota_state, tally.quota_take TO tally_admin, tally_auditor;

CREATE FUNCTION tally_internal.write_quota(tenant_id text, events_per_minute int8, burst int8, batch_events int4,
    properties_kb int4, quarantine_events int8) RETURNS void
  LANGUAGE c VOLATILE PARALLEL UNSAFE CALLED ON NULL INPUT AS 'MODULE_PATHNAME', 'write_quota_wrapper';
COMMENT ON FUNCTION tally_internal.write_quota(text, int8, int8, int4, int4, int8) IS
  'part of tally.set_quota(): writes for any tenant, whatever the caller''s scope';

CREATE FUNCTION tally.set_quota(tenant_id text, events_per_minute int8 DEFAULT NULL, burst int8 DEFAULT NULL,
    batch_events int4 DEFAULT NULL, properties_kb int4 DEFAULT NULL, quarantine_events int8 DEFAULT NULL) RETURNS void
  LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE CALLED ON NULL INPUT SECURITY DEFINER
  SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  problem text := CASE WHEN set_quota.events_per_minute < 1 THEN 'events_per_minute must be 1 or more'
                       WHEN set_quota.burst < 1 THEN 'burst must be 1 or more'
                       WHEN set_quota.burst IS NOT NULL AND set_quota.events_per_minute IS NULL THEN 'a burst needs events_per_minute, by which it is filled again'
                       WHEN set_quota.batch_events < 1 THEN 'batch_events must be 1 or more'
                       WHEN set_quota.properties_kb < 1 THEN 'properties_kb must be 1 or more'
                       WHEN set_quota.quarantine_events < 1 THEN 'quarantine_events must be 1 or more' END;
BEGIN
  IF set_quota.tenant_id IS NOT NULL THEN
    PERFORM tally_internal.check_id('tenant_id', set_quota.tenant_id);
  END IF;
  IF problem IS NOT NULL THEN
    RAISE EXCEPTION USING ERRCODE = 'check_violation', MESSAGE = problem, HINT = 'what is left out, or null, is not limited';
  END IF;
  PERFORM tally_internal.write_quota(coalesce(set_quota.tenant_id, ''), set_quota.events_per_minute, set_quota.burst,
    set_quota.batch_events, set_quota.properties_kb, set_quota.quarantine_events);
END
$$;
COMMENT ON FUNCTION tally.set_quota(text, int8, int8, int4, int4, int8) IS
  'says how much a tenant may send, or with a null tenant all that have no quota of their own; replaces what was said, and removes it where every limit is null; with another rate or burst it begins full. Over it a call is refused with SQLSTATE 53400 and a hint when to retry';
ALTER FUNCTION tally.set_quota(text, int8, int8, int4, int4, int8) OWNER TO tally_owner;
REVOKE ALL ON FUNCTION tally_internal.write_quota(text, int8, int8, int4, int4, int8), tally.set_quota(text, int8, int8, int4, int4, int8)
  FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tally_internal.write_quota(text, int8, int8, int4, int4, int8) TO tally_owner;
GRANT EXECUTE ON FUNCTION tally.set_quota(text, int8, int8, int4, int4, int8) TO tally_admin;
