-- Payloads of other systems: declared mappings, and the door that takes them.

CREATE TABLE tally.payload_mapping (
  defined_at   timestamptz NOT NULL DEFAULT now(),
  version      int4 NOT NULL,
  mapping_name text COLLATE "C" NOT NULL,
  format       text COLLATE "C" NOT NULL,
  definition   jsonb NOT NULL,
  defined_by   name NOT NULL DEFAULT session_user,
  CONSTRAINT payload_mapping_pkey PRIMARY KEY (mapping_name, version),
  CONSTRAINT payload_mapping_version_positive CHECK (version > 0)
);
COMMENT ON TABLE tally.payload_mapping IS 'declared mappings of other systems'' payloads, every version; the greatest of a name is in force';
COMMENT ON COLUMN tally.payload_mapping.defined_at IS 'start of the transaction that declared this version';
COMMENT ON COLUMN tally.payload_mapping.version IS 'from 1, without gaps';
COMMENT ON COLUMN tally.payload_mapping.mapping_name IS 'name of the mapping';
COMMENT ON COLUMN tally.payload_mapping.format IS 'the format that it is for';
COMMENT ON COLUMN tally.payload_mapping.definition IS 'where in an event the fields are; docs/ingest.md lists the keys';
COMMENT ON COLUMN tally.payload_mapping.defined_by IS 'the role that logged in and declared it';
ALTER TABLE tally.payload_mapping OWNER TO tally_owner;
REVOKE ALL ON tally.payload_mapping FROM PUBLIC;
GRANT SELECT ON tally.payload_mapping TO tally_admin, tally_auditor;
SELECT pg_catalog.pg_extension_config_dump('tally.payload_mapping', '');
SELECT tally_internal.record_changes_of('tally.payload_mapping', 'mapping', 'mapping_name');

CREATE FUNCTION tally_internal.check_mapping(format text, mapping text) RETURNS void
  LANGUAGE c IMMUTABLE PARALLEL SAFE STRICT AS 'MODULE_PATHNAME', 'check_mapping_wrapper';
COMMENT ON FUNCTION tally_internal.check_mapping(text, text) IS 'raises an error unless this is a mapping of a format that there is';

CREATE FUNCTION tally_internal.mapping_exposes(format text, mapping text, path text, protected text[], taken_back text DEFAULT NULL) RETURNS text
  LANGUAGE c IMMUTABLE PARALLEL SAFE CALLED ON NULL INPUT AS 'MODULE_PATHNAME', 'mapping_exposes_wrapper';
COMMENT ON FUNCTION tally_internal.mapping_exposes(text, text, text, text[], text) IS
  'the key of a mapping that copies a protected property, or with an empty path the user id, to where it isn''t protected, or with taken_back to where only that protected it until now; null where none does';

CREATE FUNCTION tally_internal.mappings_in_force() RETURNS SETOF tally.payload_mapping
  LANGUAGE sql STABLE PARALLEL SAFE STRICT
  SET search_path = pg_catalog, pg_temp
  BEGIN ATOMIC
    SELECT DISTINCT ON (m.mapping_name) m.* FROM tally.payload_mapping AS m ORDER BY m.mapping_name, m.version DESC;
  END;
COMMENT ON FUNCTION tally_internal.mappings_in_force() IS 'of each declared mapping the newest version';

-- Whoever declares a mapping, or declares or takes back a protection, calls this before looking at the other.
CREATE FUNCTION tally_internal.lock_mappings() RETURNS void
  LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE STRICT
  SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  IF current_setting('transaction_isolation') IN ('repeatable read', 'serializable') THEN
    RAISE EXCEPTION USING ERRCODE = 'active_sql_transaction',
      MESSAGE = 'mappings and protections can''t be declared or taken back in a repeatable read or serializable transaction',
      HINT = 'use read committed: the snapshot may be older than a mapping or a protection that was declared meanwhile';
  END IF;
  LOCK TABLE tally.payload_mapping IN SHARE ROW EXCLUSIVE MODE;
END
$$;
COMMENT ON FUNCTION tally_internal.lock_mappings() IS
  'has what other sessions declare of mappings and protections wait until the transaction ends; an error where the transaction could not see what they declared before';

CREATE FUNCTION tally.define_mapping(name text, format text, mapping jsonb) RETURNS int4
  LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE CALLED ON NULL INPUT SECURITY DEFINER
  SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  newest  tally.payload_mapping;
  exposed record;
BEGIN
  IF num_nulls(define_mapping.name, define_mapping.format, define_mapping.mapping) > 0 THEN
    RAISE EXCEPTION USING ERRCODE = 'null_value_not_allowed', MESSAGE = 'name, format and mapping must be given',
      HINT = 'a mapping that leaves everything to the format is {}';
  END IF;
  IF tally_internal.confined_to() IS NOT NULL THEN
    RAISE EXCEPTION USING ERRCODE = 'insufficient_privilege', MESSAGE = 'a session that is confined to a tenant can''t declare a mapping',
      HINT = 'a mapping says for every tenant where events belong: an administrator without a tenant''s scope declares it';
  END IF;
  PERFORM tally_internal.check_id('name', define_mapping.name),
          tally_internal.check_mapping(define_mapping.format, define_mapping.mapping::text);
  -- One version after another.
  PERFORM tally_internal.lock_mappings();
  SELECT m.* INTO newest FROM tally.payload_mapping AS m
   WHERE m.mapping_name = define_mapping.name ORDER BY m.version DESC LIMIT 1;
  IF newest.format <> define_mapping.format THEN
    RAISE EXCEPTION USING ERRCODE = 'duplicate_object',
      MESSAGE = format('mapping "%s" is one for the format %s', define_mapping.name, newest.format),
      HINT = 'give the mapping another name: what waits in quarantine by this one would be translated by paths of the other format';
  END IF;
  IF newest.definition = define_mapping.mapping THEN
    RETURN newest.version;
  END IF;
  SELECT e.* INTO exposed FROM tally_internal.exposures(define_mapping.format, define_mapping.mapping::text) AS e LIMIT 1;
  IF FOUND THEN
    RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state',
      MESSAGE = format('%s is protected, and the mapping copies it (%s)', CASE exposed.path WHEN '' THEN 'the user id' ELSE format('property "%s"', exposed.path) END, exposed.key),
      DETAIL = 'it would be stored in clear there',
      HINT = 'leave it out, give the copy the name of the protected property, or protect the copy, too, with tally.protect_property()';
  END IF;
  INSERT INTO tally.payload_mapping (version, mapping_name, format, definition)
  VALUES (coalesce(newest.version, 0) + 1, define_mapping.name, define_mapping.format, define_mapping.mapping)
  RETURNING version INTO newest.version;
  RETURN newest.version;
END
$$;
COMMENT ON FUNCTION tally.define_mapping(text, text, jsonb) IS
  'declares where in payloads of a format tenant, account and other fields are, or the next version of that if it differs, of the same format; returns the version; docs/ingest.md lists the keys';
ALTER FUNCTION tally.define_mapping(text, text, jsonb) OWNER TO tally_owner;

CREATE FUNCTION tally.ingest_from(format text, payload text, mapping text DEFAULT NULL, options text DEFAULT NULL,
    OUT batch_id int8, OUT accepted int8, OUT duplicates int8, OUT conflicts int8, OUT rejected int8, OUT details json)
  RETURNS SETOF record ROWS 1
  LANGUAGE c VOLATILE PARALLEL UNSAFE CALLED ON NULL INPUT AS 'MODULE_PATHNAME', 'ingest_from_wrapper';
COMMENT ON FUNCTION tally.ingest_from(text, text, text, text) IS
  'ingests the events of another system''s payload, one JSON document or one on each line: format amplitude, cloudevents, ga4, mixpanel, opentelemetry, posthog, segment, snowplow, or tally; mapping is the name of a declared one (tally.define_mapping), null where the format''s own places and the scope say everything; options as of tally.ingest()';

CREATE FUNCTION tally.ingest_from(format text, payload json, mapping text DEFAULT NULL, options text DEFAULT NULL,
    OUT batch_id int8, OUT accepted int8, OUT duplicates int8, OUT conflicts int8, OUT rejected int8, OUT details json)
  RETURNS SETOF record ROWS 1
  LANGUAGE c VOLATILE PARALLEL UNSAFE CALLED ON NULL INPUT AS 'MODULE_PATHNAME', 'ingest_from_wrapper';
COMMENT ON FUNCTION tally.ingest_from(text, json, text, text) IS
  'the same, see tally.ingest_from(text, text, text, text)';

CREATE FUNCTION tally.ingest_from(format text, payload jsonb, mapping text DEFAULT NULL, options text DEFAULT NULL,
    OUT batch_id int8, OUT accepted int8, OUT duplicates int8, OUT conflicts int8, OUT rejected int8, OUT details json)
  RETURNS SETOF record ROWS 1
  LANGUAGE sql VOLATILE PARALLEL UNSAFE CALLED ON NULL INPUT
  SET search_path = pg_catalog, pg_temp
  BEGIN ATOMIC
    SELECT s.* FROM tally.ingest_from(format, payload::pg_catalog.text, mapping, options) AS s;
  END;
COMMENT ON FUNCTION tally.ingest_from(text, jsonb, text, text) IS
  'the same, see tally.ingest_from(text, text, text, text)';

CREATE FUNCTION tally.ingest_from(format text, payload text, mapping text, options jsonb,
    OUT batch_id int8, OUT accepted int8, OUT duplicates int8, OUT conflicts int8, OUT rejected int8, OUT details json)
  RETURNS SETOF record ROWS 1
  LANGUAGE c VOLATILE PARALLEL UNSAFE CALLED ON NULL INPUT AS 'MODULE_PATHNAME', 'ingest_from_with_options_wrapper';
COMMENT ON FUNCTION tally.ingest_from(text, text, text, jsonb) IS
  'the same, see tally.ingest_from(text, text, text, text)';

CREATE FUNCTION tally.ingest_from(format text, payload json, mapping text, options jsonb,
    OUT batch_id int8, OUT accepted int8, OUT duplicates int8, OUT conflicts int8, OUT rejected int8, OUT details json)
  RETURNS SETOF record ROWS 1
  LANGUAGE c VOLATILE PARALLEL UNSAFE CALLED ON NULL INPUT AS 'MODULE_PATHNAME', 'ingest_from_with_options_wrapper';
COMMENT ON FUNCTION tally.ingest_from(text, json, text, jsonb) IS
  'the same, see tally.ingest_from(text, text, text, text)';

CREATE FUNCTION tally.ingest_from(format text, payload jsonb, mapping text, options jsonb,
    OUT batch_id int8, OUT accepted int8, OUT duplicates int8, OUT conflicts int8, OUT rejected int8, OUT details json)
  RETURNS SETOF record ROWS 1
  LANGUAGE sql VOLATILE PARALLEL UNSAFE CALLED ON NULL INPUT
  SET search_path = pg_catalog, pg_temp
  BEGIN ATOMIC
    SELECT s.* FROM tally.ingest_from(format, payload::pg_catalog.text, mapping, options) AS s;
  END;
COMMENT ON FUNCTION tally.ingest_from(text, jsonb, text, jsonb) IS
  'the same, see tally.ingest_from(text, text, text, text)';

REVOKE ALL ON FUNCTION tally_internal.check_mapping(text, text), tally_internal.mapping_exposes(text, text, text, text[], text),
  tally_internal.mappings_in_force(), tally_internal.lock_mappings(), tally.define_mapping(text, text, jsonb),
  tally.ingest_from(text, text, text, text), tally.ingest_from(text, json, text, text), tally.ingest_from(text, jsonb, text, text),
  tally.ingest_from(text, text, text, jsonb), tally.ingest_from(text, json, text, jsonb), tally.ingest_from(text, jsonb, text, jsonb)
  FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tally_internal.check_mapping(text, text), tally_internal.mapping_exposes(text, text, text, text[], text),
  tally_internal.mappings_in_force(), tally_internal.lock_mappings() TO tally_owner;
GRANT EXECUTE ON FUNCTION tally.define_mapping(text, text, jsonb) TO tally_admin;
GRANT EXECUTE ON FUNCTION
  tally.ingest_from(text, text, text, text), tally.ingest_from(text, json, text, text), tally.ingest_from(text, jsonb, text, text),
  tally.ingest_from(text, text, text, jsonb), tally.ingest_from(text, json, text, jsonb), tally.ingest_from(text, jsonb, text, jsonb)
  TO tally_writer;
