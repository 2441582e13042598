-- Streams: how far what a consumer reads in order has been stored. src/ingest/stream.rs moves them, in the transaction that stores the
-- events.

CREATE TABLE tally.stream (
  "position" int8,
  batch_id   int8,
  missing    int8 NOT NULL DEFAULT 0,
  moved_at   timestamptz,
  gaps       int4 NOT NULL DEFAULT 0,
  tenant_id  text COLLATE "C" NOT NULL,
  account_id text COLLATE "C" NOT NULL,
  stream     text COLLATE "C" NOT NULL,
  owned_by   name NOT NULL,
  CONSTRAINT stream_pkey PRIMARY KEY (tenant_id, account_id, stream),
  CONSTRAINT stream_position_not_negative CHECK ("position" >= 0)
);
COMMENT ON TABLE tally.stream IS 'how far each stream has been stored';
COMMENT ON COLUMN tally.stream."position" IS 'the position of the last thing stored; null before the first';
COMMENT ON COLUMN tally.stream.batch_id IS 'the batch that brought it';
COMMENT ON COLUMN tally.stream.missing IS 'positions that no batch brought, all together, up to the greatest bigint';
COMMENT ON COLUMN tally.stream.moved_at IS 'start of the transaction that brought it';
COMMENT ON COLUMN tally.stream.gaps IS 'how often positions were missing';
COMMENT ON COLUMN tally.stream.tenant_id IS 'the tenant in whose scope it is sent; empty for what a trusted role sends in none';
COMMENT ON COLUMN tally.stream.account_id IS 'the account in whose scope it is sent; empty where that is the whole tenant';
COMMENT ON COLUMN tally.stream.stream IS 'name of the stream';
COMMENT ON COLUMN tally.stream.owned_by IS 'the role that logged in and began it: it, and members of it, send it';
ALTER TABLE tally.stream OWNER TO tally_owner;
SELECT tally_internal.secure_table('tally.stream');
SELECT pg_catalog.pg_extension_config_dump('tally.stream', '');
REVOKE ALL ON tally.stream FROM PUBLIC;
GRANT SELECT ON tally.stream TO tally_writer, tally_reader, tally_auditor;

CREATE TABLE tally.stream_key (
  secret     uuid NOT NULL DEFAULT gen_random_uuid(),
  tenant_id  text COLLATE "C" NOT NULL,
  account_id text COLLATE "C" NOT NULL,
  CONSTRAINT stream_key_pkey PRIMARY KEY (tenant_id, account_id)
);
COMMENT ON TABLE tally.stream_key IS 'what ids are made from of events that have only their place in a stream';
COMMENT ON COLUMN tally.stream_key.secret IS 'secret number: who doesn''t know it can''t send events of his own under ids that a stream will come to';
COMMENT ON COLUMN tally.stream_key.tenant_id IS 'the tenant in whose scope streams are sent; empty for what a trusted role sends in none';
COMMENT ON COLUMN tally.stream_key.account_id IS 'the account in whose scope they are sent; empty where that is the whole tenant';
ALTER TABLE tally.stream_key OWNER TO tally_owner;
SELECT tally_internal.secure_table('tally.stream_key');
SELECT pg_catalog.pg_extension_config_dump('tally.stream_key', '');
REVOKE ALL ON tally.stream_key FROM PUBLIC;

CREATE FUNCTION tally_internal.stream_secret(tenant text, account text) RETURNS text
  LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE STRICT
  SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  found_one uuid;
BEGIN
  -- It outlives its streams: one that is forgotten and sent again has the ids that it had.
  LOOP
    SELECT k.secret INTO found_one FROM tally.stream_key AS k WHERE k.tenant_id = tenant AND k.account_id = account;
    EXIT WHEN FOUND;
    INSERT INTO tally.stream_key (tenant_id, account_id) VALUES (tenant, account) ON CONFLICT DO NOTHING;
  END LOOP;
  RETURN found_one;
END
$$;
COMMENT ON FUNCTION tally_internal.stream_secret(text, text) IS 'part of ingest: the secret of a scope''s streams, made if there is none';

CREATE FUNCTION tally_internal.hold_stream(tenant text, account text, named text)
  RETURNS TABLE ("position" int8, owned_by name, is_own boolean)
  LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE STRICT
  SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
  found_one tally.stream;
BEGIN
  FOR attempt IN 1 .. 2 LOOP
    SELECT s.* INTO found_one FROM tally.stream AS s
     WHERE s.tenant_id = tenant AND s.account_id = account AND s.stream = named FOR UPDATE;
    EXIT WHEN FOUND;
    INSERT INTO tally.stream AS s (tenant_id, account_id, stream, owned_by) VALUES (tenant, account, named, session_user)
    ON CONFLICT DO NOTHING;
  END LOOP;
  RETURN QUERY SELECT found_one."position", found_one.owned_by,
    -- A role that is gone owns nothing.
    found_one.owned_by = session_user
      OR NOT EXISTS (SELECT FROM pg_catalog.pg_roles AS r WHERE r.rolname = found_one.owned_by AND NOT pg_catalog.pg_has_role(session_user, r.oid, 'MEMBER'));
END
$$;
COMMENT ON FUNCTION tally_internal.hold_stream(text, text, text) IS
  'part of ingest: locks a stream until the transaction ends, made if there is none; says how far it is, and whether whoever logged in may move it';

CREATE FUNCTION tally_internal.move_stream(tenant text, account text, named text, "to" int8, by_batch int8, missed int8) RETURNS void
  LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE STRICT
  SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  UPDATE tally.stream AS s
     SET "position" = "to", batch_id = by_batch, moved_at = now(),
         owned_by = CASE WHEN EXISTS (SELECT FROM pg_catalog.pg_roles AS r WHERE r.rolname = s.owned_by) THEN s.owned_by ELSE session_user END,
         -- Each ends at the greatest number that it may have.
         gaps = s.gaps + (missed > 0 AND s.gaps < 2147483647)::int4,
         missing = s.missing + least(missed, 9223372036854775807 - s.missing)
   WHERE s.tenant_id = tenant AND s.account_id = account AND s.stream = named;
END
$$;
COMMENT ON FUNCTION tally_internal.move_stream(text, text, text, int8, int8, int8) IS 'part of ingest: notes how far a locked stream has been stored';

CREATE FUNCTION tally_internal.put_stream(tenant text, account text, named text, "to" int8) RETURNS void
  LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE CALLED ON NULL INPUT
  SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  DELETE FROM tally.stream AS s
   WHERE "to" IS NULL AND s.tenant_id = tenant AND s.account_id = account AND s.stream = named;
  UPDATE tally.stream AS s SET "position" = "to", moved_at = now()
   WHERE s.tenant_id = tenant AND s.account_id = account AND s.stream = named;
END
$$;
COMMENT ON FUNCTION tally_internal.put_stream(text, text, text, int8) IS 'part of tally.reset_stream()';

CREATE FUNCTION tally.stream_position(stream text) RETURNS int8
  LANGUAGE c STABLE PARALLEL UNSAFE CALLED ON NULL INPUT AS 'MODULE_PATHNAME', 'stream_position_wrapper';
COMMENT ON FUNCTION tally.stream_position(text) IS
  'how far a stream of the caller''s scope has been stored, which a consumer goes on after; null before its first batch';

CREATE FUNCTION tally.reset_stream(stream text, "position" int8) RETURNS int8
  LANGUAGE c VOLATILE PARALLEL UNSAFE CALLED ON NULL INPUT AS 'MODULE_PATHNAME', 'reset_stream_wrapper';
COMMENT ON FUNCTION tally.reset_stream(text, int8) IS
  'puts a stream of the caller''s scope to a position, as where a broker counts anew, or forgets it where that is null; returns where it was. Events that come again are told by their ids';

REVOKE ALL ON FUNCTION tally_internal.stream_secret(text, text), tally_internal.hold_stream(text, text, text), tally_internal.move_stream(text, text, text, int8, int8, int8),
  tally_internal.put_stream(text, text, text, int8), tally.stream_position(text), tally.reset_stream(text, int8) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tally_internal.stream_secret(text, text), tally_internal.hold_stream(text, text, text), tally_internal.move_stream(text, text, text, int8, int8, int8),
  tally_internal.put_stream(text, text, text, int8) TO tally_owner;
GRANT EXECUTE ON FUNCTION tally.stream_position(text), tally.reset_stream(text, int8) TO tally_writer;
