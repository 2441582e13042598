-- The schema registry: JSON Schemas of events' properties, by name of the event, in versions that never change.

CREATE TABLE tally.event_schema (
  registered_at timestamptz NOT NULL,
  version       int4 NOT NULL,
  breaking      boolean NOT NULL,
  name          text COLLATE "C" NOT NULL,
  schema        jsonb NOT NULL,
  registered_by name NOT NULL,
  reason        text COLLATE "C" NOT NULL,
  CONSTRAINT event_schema_pkey PRIMARY KEY (name, version),
  CONSTRAINT event_schema_version_positive CHECK (version OPERATOR(pg_catalog.>) 0)
);
COMMENT ON TABLE tally.event_schema IS 'every version of every registered schema, with who registered it, when and why; the greatest version of a name is in force';
COMMENT ON COLUMN tally.event_schema.registered_at IS 'start of the transaction that registered it';
COMMENT ON COLUMN tally.event_schema.version IS 'from 1, without gaps';
COMMENT ON COLUMN tally.event_schema.breaking IS 'whether it may refuse what the version before it took';
COMMENT ON COLUMN tally.event_schema.name IS 'the name of the events';
COMMENT ON COLUMN tally.event_schema.schema IS 'JSON Schema (draft 2020-12 unless it names another) of their properties';
COMMENT ON COLUMN tally.event_schema.registered_by IS 'the role that logged in and registered it';
COMMENT ON COLUMN tally.event_schema.reason IS 'why, in its words';

CREATE TABLE tally.unregistered_policy (
  tenant_id text COLLATE "C" NOT NULL CONSTRAINT unregistered_policy_pkey PRIMARY KEY,
  policy    text COLLATE "C" NOT NULL,
  CONSTRAINT unregistered_policy_known CHECK (policy OPERATOR(pg_catalog.=) ANY ('{allow,mark,reject}'::pg_catalog.text[]))
);
COMMENT ON TABLE tally.unregistered_policy IS 'what becomes of events whose name nobody registered; where nothing is set they are allowed';
COMMENT ON COLUMN tally.unregistered_policy.tenant_id IS 'the tenant; empty for all that have no policy of their own';
COMMENT ON COLUMN tally.unregistered_policy.policy IS 'allow, mark (taken, and noted in tally.unregistered_event) or reject';

CREATE TABLE tally.unregistered_event (
  first_seen_at timestamptz NOT NULL,
  batch_id      int8 NOT NULL,
  tenant_id     text COLLATE "C" NOT NULL,
  name          text COLLATE "C" NOT NULL,
  CONSTRAINT unregistered_event_pkey PRIMARY KEY (tenant_id, name)
);
COMMENT ON TABLE tally.unregistered_event IS 'names that were taken under the policy mark, though nobody has registered them';
COMMENT ON COLUMN tally.unregistered_event.first_seen_at IS 'start of the transaction that ingested the first of them';
COMMENT ON COLUMN tally.unregistered_event.batch_id IS 'the batch that brought it';
COMMENT ON COLUMN tally.unregistered_event.tenant_id IS 'the tenant';
COMMENT ON COLUMN tally.unregistered_event.name IS 'the name of the event';

ALTER TABLE tally.event_schema OWNER TO tally_owner;
ALTER TABLE tally.unregistered_policy OWNER TO tally_owner;
ALTER TABLE tally.unregistered_event OWNER TO tally_owner;
SELECT tally_internal.secure_table('tally.unregistered_policy'), tally_internal.secure_table('tally.unregistered_event');
SELECT pg_catalog.pg_extension_config_dump('tally.event_schema', '');
SELECT pg_catalog.pg_extension_config_dump('tally.unregistered_policy', '');
SELECT pg_catalog.pg_extension_config_dump('tally.unregistered_event', '');
REVOKE ALL ON tally.event_schema, tally.unregistered_policy, tally.unregistered_event FROM PUBLIC;
GRANT SELECT ON tally.event_schema TO tally_reader, tally_writer, tally_auditor;
GRANT SELECT ON tally.unregistered_policy TO tally_admin, tally_auditor;
GRANT SELECT ON tally.unregistered_event TO tally_reader;

CREATE FUNCTION tally_internal.check_event_schema(schema jsonb) RETURNS void
  LANGUAGE c IMMUTABLE PARALLEL SAFE STRICT AS 'MODULE_PATHNAME', 'check_event_schema_wrapper';
COMMENT ON FUNCTION tally_internal.check_event_schema(jsonb) IS
  'raises an error unless this is a JSON Schema that can be registered: an object of at most 64 kB that refers to nothing outside it';

CREATE FUNCTION tally.event_schema_breaks(older jsonb, newer jsonb) RETURNS text[]
  LANGUAGE c IMMUTABLE PARALLEL SAFE STRICT AS 'MODULE_PATHNAME', 'event_schema_breaks_wrapper';
COMMENT ON FUNCTION tally.event_schema_breaks(jsonb, jsonb) IS
  'why the newer schema may refuse what the older one took; empty where it is backward compatible (docs/ingest.md says what is)';

CREATE FUNCTION tally.standard_schema(kind text) RETURNS jsonb
  LANGUAGE c IMMUTABLE PARALLEL SAFE STRICT AS 'MODULE_PATHNAME', 'standard_schema_wrapper';
COMMENT ON FUNCTION tally.standard_schema(text) IS
  'a ready schema to register under a name of your own: product_view, feature_usage or conversion_step';

CREATE FUNCTION tally_internal.registry_changed() RETURNS void
  LANGUAGE c VOLATILE PARALLEL UNSAFE STRICT AS 'MODULE_PATHNAME', 'registry_changed_wrapper';
COMMENT ON FUNCTION tally_internal.registry_changed() IS
  'makes every session read the registry anew once the transaction commits';

CREATE FUNCTION tally.register_event(name text, schema jsonb, reason text, version int4 DEFAULT NULL,
    breaking boolean DEFAULT false) RETURNS int4
  LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE CALLED ON NULL INPUT SECURITY DEFINER
  SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  latest tally.event_schema;
  breaks text[] := '{}';
  following int4;
BEGIN
  PERFORM tally_internal.check_words('reason', register_event.reason);
  IF pg_catalog.num_nulls(register_event.name, register_event.schema, register_event.breaking) OPERATOR(pg_catalog.>) 0
     OR coalesce(tally_internal.visible_characters(register_event.reason), 0) OPERATOR(pg_catalog.=) 0 THEN
    RAISE EXCEPTION USING ERRCODE = 'null_value_not_allowed', MESSAGE = 'name, schema, reason and breaking must be given',
      HINT = 'say in the reason why the schema is needed or changed: it is kept in tally.event_schema';
  END IF;
  PERFORM tally_internal.check_id('name', register_event.name), tally_internal.check_event_schema(register_event.schema);
  -- Before the registry, as everybody who locks both.
  IF EXISTS (SELECT FROM tally_internal.personal_properties(register_event.schema)) THEN
    PERFORM tally_internal.lock_rollups();
  END IF;
  -- One registration at a time: the version before this one must stay the latest. Ingest doesn't wait for it.
  LOCK TABLE tally.event_schema IN SHARE ROW EXCLUSIVE MODE;
  SELECT s.* INTO latest FROM tally.event_schema AS s
   WHERE s.name OPERATOR(pg_catalog.=) register_event.name ORDER BY s.version DESC LIMIT 1;
  IF latest.schema OPERATOR(pg_catalog.=) register_event.schema
     AND (register_event.version IS NULL OR register_event.version OPERATOR(pg_catalog.=) latest.version) THEN
    RETURN latest.version;
  END IF;
  following := coalesce(latest.version, 0) OPERATOR(pg_catalog.+) 1;
  IF register_event.version OPERATOR(pg_catalog.<=) latest.version THEN
    RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state',
      MESSAGE = pg_catalog.format('version %s of "%s" is registered already', register_event.version, register_event.name),
      HINT = pg_catalog.format('a version never changes; register version %s', following);
  ELSIF register_event.version OPERATOR(pg_catalog.<>) following THEN
    RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
      MESSAGE = pg_catalog.format('the next version of "%s" is %s', register_event.name, following),
      HINT = 'leave the version out to get the following one';
  END IF;
  IF latest.version IS NOT NULL THEN
    breaks := tally.event_schema_breaks(latest.schema, register_event.schema);
    IF pg_catalog.cardinality(breaks) OPERATOR(pg_catalog.>) 0 AND NOT register_event.breaking THEN
      RAISE EXCEPTION USING ERRCODE = 'invalid_object_definition',
        MESSAGE = pg_catalog.format('the schema of "%s" is not compatible with version %s', register_event.name, latest.version),
        DETAIL = pg_catalog.array_to_string(breaks, '; '),
        HINT = 'events that were taken so far could be refused; register it with breaking => true if that is meant';
    END IF;
  END IF;
  INSERT INTO tally.event_schema AS s (registered_at, version, breaking, name, schema, registered_by, reason)
  VALUES (pg_catalog.now(), following,
          pg_catalog.cardinality(breaks) OPERATOR(pg_catalog.>) 0,
          register_event.name, register_event.schema, session_user, register_event.reason);
  PERFORM tally_internal.registry_changed(), tally_internal.protect_marked(register_event.name, register_event.schema);
  RETURN following;
END
$$;
COMMENT ON FUNCTION tally.register_event(text, jsonb, text, int4, boolean) IS
  'registers the next version of the JSON Schema of an event''s properties and returns its number; the same schema again changes nothing; one that may refuse what the version before took is an error unless breaking is true. What it marks with x-personal is protected (tally.protect_property)';

CREATE FUNCTION tally.set_unregistered_policy(policy text, tenant_id text DEFAULT NULL) RETURNS void
  LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE CALLED ON NULL INPUT SECURITY DEFINER
  SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  IF set_unregistered_policy.tenant_id IS NOT NULL THEN
    PERFORM tally_internal.check_id('tenant_id', set_unregistered_policy.tenant_id);
  END IF;
  IF NOT coalesce(set_unregistered_policy.policy OPERATOR(pg_catalog.=) ANY ('{allow,mark,reject}'::pg_catalog.text[]), true) THEN
    RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
      MESSAGE = pg_catalog.format('unknown policy "%s"', set_unregistered_policy.policy),
      HINT = 'policies are allow, mark and reject; null removes the one that is set';
  END IF;
  PERFORM tally_internal.write_policy(set_unregistered_policy.policy, coalesce(set_unregistered_policy.tenant_id, ''));
END
$$;
COMMENT ON FUNCTION tally.set_unregistered_policy(text, text) IS
  'says what becomes of events whose name nobody registered: allow, mark or reject; of a tenant, or of all that have no policy of their own; null removes what was said';

CREATE FUNCTION tally_internal.write_policy(policy text, tenant_id text) RETURNS void
  LANGUAGE c VOLATILE PARALLEL UNSAFE CALLED ON NULL INPUT AS 'MODULE_PATHNAME', 'write_policy_wrapper';
COMMENT ON FUNCTION tally_internal.write_policy(text, text) IS
  'part of tally.set_unregistered_policy(): writes for any tenant, whatever the caller''s scope';

ALTER FUNCTION tally.register_event(text, jsonb, text, int4, boolean) OWNER TO tally_owner;
ALTER FUNCTION tally.set_unregistered_policy(text, text) OWNER TO tally_owner;
REVOKE ALL ON FUNCTION tally_internal.check_event_schema(jsonb), tally.event_schema_breaks(jsonb, jsonb), tally.standard_schema(text),
  tally_internal.registry_changed(), tally_internal.write_policy(text, text), tally.register_event(text, jsonb, text, int4, boolean),
  tally.set_unregistered_policy(text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tally.event_schema_breaks(jsonb, jsonb), tally.standard_schema(text) TO tally_owner, tally_admin, tally_writer;
GRANT EXECUTE ON FUNCTION tally_internal.check_event_schema(jsonb), tally_internal.registry_changed(), tally_internal.write_policy(text, text) TO tally_owner;
GRANT EXECUTE ON FUNCTION tally.register_event(text, jsonb, text, int4, boolean),
  tally.set_unregistered_policy(text, text) TO tally_admin;
