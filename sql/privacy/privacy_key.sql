-- The keys of protected data, wrapped: what unwraps them is in a file or a command's output (tally.key_file, tally.key_command).

CREATE TABLE tally.privacy_key (
  made_at    timestamptz NOT NULL,
  rotated_at timestamptz,
  retired_at timestamptz,
  newest     int4 NOT NULL,
  oldest     int4 NOT NULL,
  tenant_id  text COLLATE "C" NOT NULL CONSTRAINT privacy_key_pkey PRIMARY KEY,
  wrapped_by text COLLATE "C" NOT NULL,
  wrapped    bytea NOT NULL,
  box_key    bytea,
  CONSTRAINT privacy_key_epochs_in_order CHECK (1 OPERATOR(pg_catalog.<=) oldest AND oldest OPERATOR(pg_catalog.<=) newest),
  CONSTRAINT privacy_key_is_whole
    CHECK (pg_catalog.octet_length(wrapped) OPERATOR(pg_catalog.=) (61 OPERATOR(pg_catalog.*) (newest OPERATOR(pg_catalog.+) 1))),
  CONSTRAINT privacy_key_boxes_are_of_no_tenant CHECK ((box_key IS NOT NULL) OPERATOR(pg_catalog.=) (tenant_id OPERATOR(pg_catalog.=) ''))
);
COMMENT ON TABLE tally.privacy_key IS 'the keys of protected data, one row a tenant, wrapped with a key that the database does not have';
COMMENT ON COLUMN tally.privacy_key.made_at IS 'when the first of them were made';
COMMENT ON COLUMN tally.privacy_key.rotated_at IS 'when the newest was made, if by a rotation';
COMMENT ON COLUMN tally.privacy_key.retired_at IS 'when the last of the earlier ones had nothing left under it';
COMMENT ON COLUMN tally.privacy_key.newest IS 'epoch of the key that new values of properties are protected with; that of user ids, 0, is never rotated';
COMMENT ON COLUMN tally.privacy_key.oldest IS 'epoch of the first key that something protected may still be stored under in raw events';
COMMENT ON COLUMN tally.privacy_key.tenant_id IS 'the tenant; empty for the keys of boxes, in which quarantined events are closed up';
COMMENT ON COLUMN tally.privacy_key.wrapped_by IS 'id of the key-encrypting key';
COMMENT ON COLUMN tally.privacy_key.wrapped IS 'the keys of the epochs from 0 on, wrapped (docs/formats.md)';
COMMENT ON COLUMN tally.privacy_key.box_key IS 'public half of the newest key of boxes';
ALTER TABLE tally.privacy_key OWNER TO tally_security;
SELECT tally_internal.confine_table('tally.privacy_key');
REVOKE ALL ON tally.privacy_key FROM PUBLIC;
GRANT SELECT (made_at, rotated_at, retired_at, newest, oldest, tenant_id, wrapped_by) ON tally.privacy_key TO tally_owner, tally_admin, tally_auditor;
SELECT pg_catalog.pg_extension_config_dump('tally.privacy_key', '');

CREATE FUNCTION tally_internal.replace_privacy_key(tenant_id text, was bytea, newest int4, wrapped_by text, wrapped bytea, box_key bytea) RETURNS boolean
  LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE CALLED ON NULL INPUT SECURITY DEFINER
  SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  UPDATE tally.privacy_key AS k
     SET rotated_at = CASE WHEN k.newest OPERATOR(pg_catalog.<>) replace_privacy_key.newest THEN pg_catalog.now() ELSE k.rotated_at END,
         newest = replace_privacy_key.newest, wrapped_by = replace_privacy_key.wrapped_by, wrapped = replace_privacy_key.wrapped,
         box_key = replace_privacy_key.box_key
   WHERE k.tenant_id OPERATOR(pg_catalog.=) replace_privacy_key.tenant_id AND k.wrapped OPERATOR(pg_catalog.=) replace_privacy_key.was;
  RETURN FOUND;
END
$$;
COMMENT ON FUNCTION tally_internal.replace_privacy_key(text, bytea, int4, text, bytea, bytea) IS
  'part of tally.rotate_keys() and tally.rewrap_keys(): replaces a tenant''s keys where they are still those that were read; says whether they were';

CREATE FUNCTION tally_internal.retire_privacy_keys(tenant_id text, epoch int4) RETURNS void
  LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE STRICT SECURITY DEFINER
  SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  UPDATE tally.privacy_key AS k SET oldest = retire_privacy_keys.epoch, retired_at = pg_catalog.now()
   WHERE k.tenant_id OPERATOR(pg_catalog.=) retire_privacy_keys.tenant_id AND k.oldest OPERATOR(pg_catalog.<) retire_privacy_keys.epoch;
  IF FOUND THEN
    PERFORM tally_internal.record_act('privacy_keys_retired', NULL, pg_catalog.jsonb_build_object('before_epoch', retire_privacy_keys.epoch),
                                      retire_privacy_keys.tenant_id);
  END IF;
END
$$;
COMMENT ON FUNCTION tally_internal.retire_privacy_keys(text, int4) IS 'notes that nothing protected is stored in raw events under a tenant''s keys before an epoch any more';

CREATE FUNCTION tally_internal.rotate_tenant_key(tenant_id text) RETURNS int4
  LANGUAGE c VOLATILE PARALLEL UNSAFE STRICT AS 'MODULE_PATHNAME', 'tally_rotate_tenant_key';
COMMENT ON FUNCTION tally_internal.rotate_tenant_key(text) IS 'part of tally.rotate_keys(): makes a key of a new epoch';

CREATE FUNCTION tally_internal.rewrap_tenant_keys(tenant_id text) RETURNS boolean
  LANGUAGE c VOLATILE PARALLEL UNSAFE STRICT AS 'MODULE_PATHNAME', 'tally_rewrap_tenant_keys';
COMMENT ON FUNCTION tally_internal.rewrap_tenant_keys(text) IS 'part of tally.rewrap_keys()';

CREATE FUNCTION tally_internal.key_problem(tenant_id text) RETURNS text
  LANGUAGE c VOLATILE PARALLEL UNSAFE STRICT AS 'MODULE_PATHNAME', 'key_problem_wrapper';
COMMENT ON FUNCTION tally_internal.key_problem(text) IS 'why a tenant''s keys can''t be used now; null where they can, or where it has none';

CREATE FUNCTION tally_internal.master_key_id() RETURNS text
  LANGUAGE c VOLATILE PARALLEL UNSAFE STRICT AS 'MODULE_PATHNAME', 'master_key_id_wrapper';
COMMENT ON FUNCTION tally_internal.master_key_id() IS 'the id of the key-encrypting key that is at hand and wraps; null where there is none';

CREATE FUNCTION tally_internal.tokens_of(tenant_id text, value text) RETURNS text[]
  LANGUAGE c VOLATILE PARALLEL UNSAFE STRICT AS 'MODULE_PATHNAME', 'tokens_of_wrapper';
COMMENT ON FUNCTION tally_internal.tokens_of(text, text) IS
  'the tokens that may stand for a value: of a property, the newest first, under every key that there was; last, that of a user id';

CREATE FUNCTION tally_internal.stored_user_ids(tenant_id text, user_id text) RETURNS text[]
  LANGUAGE c VOLATILE PARALLEL UNSAFE STRICT AS 'MODULE_PATHNAME', 'tally_stored_user_ids';
COMMENT ON FUNCTION tally_internal.stored_user_ids(text, text) IS
  'the ids under which a user may be stored, of one that was sent: as it is, and its token where the tenant has keys; an error where those are not at hand';

CREATE FUNCTION tally.rotate_keys(tenant_id text) RETURNS int4
  LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE CALLED ON NULL INPUT SECURITY DEFINER
  SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  epoch int4;
BEGIN
  IF rotate_keys.tenant_id IS NULL THEN
    RAISE EXCEPTION USING ERRCODE = 'null_value_not_allowed', MESSAGE = 'tenant_id must not be null',
      HINT = 'each tenant has keys of its own: name one';
  END IF;
  PERFORM tally_internal.check_id('tenant_id', rotate_keys.tenant_id);
  -- First, as the steps do that lock both.
  PERFORM tally_internal.start_renewal(rotate_keys.tenant_id,
                                       ARRAY(SELECT DISTINCT p.path FROM tally.protection AS p
                                              WHERE p.tenant_id IN (rotate_keys.tenant_id, '') AND p.path <> '' AND p.treatment <> 'drop'));
  epoch := tally_internal.rotate_tenant_key(rotate_keys.tenant_id);
  IF EXISTS (SELECT FROM tally.protection AS p WHERE p.tenant_id IN (rotate_keys.tenant_id, '') AND p.path = '' AND p.treatment = 'token') THEN
    RAISE NOTICE USING MESSAGE = 'tokens of user ids stay as they are: the key that they are made with is not rotated',
      HINT = 'docs/PRIVACY.md says why, and what rotating does';
  END IF;
  PERFORM tally_internal.record_act('privacy_keys_rotated', NULL, jsonb_build_object('epoch', epoch), rotate_keys.tenant_id);
  RETURN epoch;
END
$$;
COMMENT ON FUNCTION tally.rotate_keys(text) IS
  'gives a tenant a new key, which tokens and sealed values of properties are made with from now on, and returns its epoch; what is stored is carried over in steps of tally.maintain(), while ingest goes on, but for the time in which a month or a year of a rollup by tokens is made anew. User ids keep their tokens: the identity key is not rotated';

CREATE FUNCTION tally.rewrap_keys() RETURNS int8
  LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE STRICT SECURITY DEFINER
  SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  tenant  text;
  changed int8 := 0;
BEGIN
  FOR tenant IN SELECT k.tenant_id FROM tally_internal.key_holders() AS k (tenant_id) ORDER BY 1 LOOP
    IF tally_internal.rewrap_tenant_keys(tenant) THEN
      changed := changed + 1;
    END IF;
  END LOOP;
  IF changed > 0 THEN
    PERFORM tally_internal.record_act('privacy_keys_rewrapped', tally_internal.master_key_id(), jsonb_build_object('tenants', changed));
  END IF;
  RETURN changed;
END
$$;
COMMENT ON FUNCTION tally.rewrap_keys() IS
  'wraps the keys of every tenant with the first key of the key file, and returns of how many they were wrapped with another: after that the earlier key can be taken out of the file';

CREATE FUNCTION tally_internal.key_holders() RETURNS SETOF text
  LANGUAGE sql STABLE PARALLEL SAFE STRICT SECURITY DEFINER
  SET search_path = pg_catalog, pg_temp
  BEGIN ATOMIC
    SELECT k.tenant_id FROM tally.privacy_key AS k;
  END;
COMMENT ON FUNCTION tally_internal.key_holders() IS 'the tenants that have keys, and the empty one of the keys of boxes';

CREATE FUNCTION tally_internal.health_privacy()
  RETURNS TABLE (place int4, component text, status text, value float8, "limit" float8, advice text)
  LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE STRICT
  SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  problem text := (SELECT tally_internal.key_problem(''));
  master  text := tally_internal.master_key_id();
BEGIN
  place := 14;
  component := 'privacy_keys';
  "limit" := 0;
  value := (SELECT count(*) FROM tally.privacy_key AS k WHERE k.newest > k.oldest OR k.wrapped_by <> coalesce(master, k.wrapped_by));
  status := CASE WHEN problem IS NOT NULL THEN 'failing'
                 WHEN EXISTS (SELECT FROM tally.privacy_key AS k WHERE k.wrapped_by <> coalesce(master, k.wrapped_by)) THEN 'warning'
                 WHEN EXISTS (SELECT FROM tally.privacy_renewal AS r WHERE r.finished_at IS NULL AND r.requested_at < now() - interval '1 day') THEN 'warning'
                 ELSE 'ok' END;
  advice := CASE WHEN problem IS NOT NULL THEN problem || '; events of protected tenants wait in quarantine: tally.redrive(sqlstate => ''55T80'') when the keys are back'
                 WHEN status = 'warning' AND EXISTS (SELECT FROM tally.privacy_key AS k WHERE k.wrapped_by <> coalesce(master, k.wrapped_by))
                   THEN 'keys are wrapped with an earlier key-encrypting key: SELECT tally.rewrap_keys()'
                 WHEN status = 'warning' THEN 'what is stored has not been carried over to new keys or declarations for a day: tally.privacy_renewal says how far it is, tally.maintenance why' END;
  RETURN NEXT;
END
$$;
COMMENT ON FUNCTION tally_internal.health_privacy() IS 'part of tally.health(): tenants with keys that are to retire or to be wrapped anew, and whether the keys are at hand';

ALTER FUNCTION tally_internal.replace_privacy_key(text, bytea, int4, text, bytea, bytea) OWNER TO tally_security;
ALTER FUNCTION tally_internal.retire_privacy_keys(text, int4) OWNER TO tally_security;
ALTER FUNCTION tally_internal.key_holders() OWNER TO tally_security;
ALTER FUNCTION tally.rotate_keys(text) OWNER TO tally_owner;
ALTER FUNCTION tally.rewrap_keys() OWNER TO tally_owner;
REVOKE ALL ON FUNCTION tally_internal.replace_privacy_key(text, bytea, int4, text, bytea, bytea), tally_internal.retire_privacy_keys(text, int4),
  tally_internal.rotate_tenant_key(text), tally_internal.rewrap_tenant_keys(text), tally_internal.key_problem(text), tally_internal.master_key_id(),
  tally_internal.tokens_of(text, text), tally_internal.stored_user_ids(text, text), tally_internal.key_holders(), tally.rotate_keys(text), tally.rewrap_keys(),
  tally_internal.health_privacy() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tally_internal.replace_privacy_key(text, bytea, int4, text, bytea, bytea), tally_internal.retire_privacy_keys(text, int4),
  tally_internal.rotate_tenant_key(text), tally_internal.rewrap_tenant_keys(text), tally_internal.master_key_id(),
  tally_internal.tokens_of(text, text), tally_internal.stored_user_ids(text, text), tally_internal.key_holders() TO tally_owner;
GRANT EXECUTE ON FUNCTION tally_internal.key_problem(text), tally_internal.master_key_id(), tally_internal.health_privacy() TO tally_admin;
GRANT EXECUTE ON FUNCTION tally.rotate_keys(text), tally.rewrap_keys() TO tally_admin;
