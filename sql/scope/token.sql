-- Tokens: pool roles, which enter a scope by token alone, and the public keys that tokens are verified with.

CREATE FUNCTION tally.pool_role(role_name regrole) RETURNS void
  LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE CALLED ON NULL INPUT SECURITY DEFINER
  SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  bound_as name := tally_internal.check_bindable(pool_role.role_name);
BEGIN
  PERFORM tally_internal.require_step_up('binding');
  INSERT INTO tally.role_binding AS b (role_name, needs_token, bound_as) VALUES (pool_role.role_name, true, bound_as)
  ON CONFLICT ON CONSTRAINT role_binding_pkey
  DO UPDATE SET tenant_id = NULL, account_id = NULL, needs_token = true, bound_as = excluded.bound_as, is_global = false;
END
$$;
COMMENT ON FUNCTION tally.pool_role(regrole) IS
  'has a role, and the members of a group role, enter scopes by signed token alone, transaction by transaction; replaces an earlier binding or trust';

CREATE TABLE tally.token_key (
  registered_at timestamptz NOT NULL DEFAULT now(),
  valid_until   timestamptz,
  public_key    bytea NOT NULL,
  key_id        text COLLATE "C" NOT NULL CONSTRAINT token_key_pkey PRIMARY KEY,
  registered_by name NOT NULL DEFAULT session_user,
  CONSTRAINT token_key_is_256_bits CHECK (octet_length(public_key) = 32)
);
ALTER TABLE tally.token_key OWNER TO tally_security;
COMMENT ON TABLE tally.token_key IS 'public keys that tokens are verified with; what signs them is nowhere in the database';
COMMENT ON COLUMN tally.token_key.registered_at IS 'when the key was registered';
COMMENT ON COLUMN tally.token_key.valid_until IS 'from when on it verifies nothing; null where it was not revoked';
COMMENT ON COLUMN tally.token_key.public_key IS 'Ed25519 public key, 32 bytes';
COMMENT ON COLUMN tally.token_key.key_id IS 'its name, which tokens carry; never used for another key';
COMMENT ON COLUMN tally.token_key.registered_by IS 'the role that logged in and registered it';
REVOKE ALL ON tally.token_key FROM PUBLIC;
GRANT SELECT ON tally.token_key TO tally_admin, tally_auditor;
SELECT pg_catalog.pg_extension_config_dump('tally.token_key', '');

CREATE FUNCTION tally_internal.read_public_key(key bytea) RETURNS bytea
  LANGUAGE c IMMUTABLE PARALLEL SAFE STRICT AS 'MODULE_PATHNAME', 'read_public_key_wrapper';
COMMENT ON FUNCTION tally_internal.read_public_key(bytea) IS
  'the 32 bytes of an Ed25519 public key given bare or as SubjectPublicKeyInfo; an error for anything else, also for weak keys';

CREATE FUNCTION tally.register_key(key_id text, public_key bytea, valid_until timestamptz DEFAULT NULL) RETURNS void
  LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE CALLED ON NULL INPUT SECURITY DEFINER
  SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  PERFORM tally_internal.require_step_up('key');
  IF register_key.key_id IS NULL OR register_key.public_key IS NULL THEN
    RAISE EXCEPTION USING ERRCODE = 'null_value_not_allowed', MESSAGE = 'key_id and public_key must not be null',
      HINT = 'give the key a name, and its public half: 32 bytes, or SubjectPublicKeyInfo in DER';
  END IF;
  PERFORM tally_internal.check_id('key_id', register_key.key_id);
  INSERT INTO tally.token_key AS k (key_id, public_key, valid_until)
  VALUES (register_key.key_id, tally_internal.read_public_key(register_key.public_key), register_key.valid_until)
  ON CONFLICT ON CONSTRAINT token_key_pkey DO NOTHING;
  IF NOT FOUND THEN
    RAISE EXCEPTION USING ERRCODE = 'duplicate_object',
      MESSAGE = pg_catalog.format('key "%s" is registered already', register_key.key_id),
      HINT = 'a key keeps its name for ever, also when it was revoked: choose another name';
  END IF;
END
$$;
COMMENT ON FUNCTION tally.register_key(text, bytea, timestamptz) IS
  'registers an Ed25519 public key (32 bytes, or SubjectPublicKeyInfo in DER) that tokens may be signed with, until a moment or until revoked';

CREATE FUNCTION tally.revoke_key(key_id text, at timestamptz DEFAULT now()) RETURNS timestamptz
  LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE CALLED ON NULL INPUT SECURITY DEFINER
  SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  until timestamptz;
BEGIN
  PERFORM tally_internal.require_step_up('key');
  IF revoke_key.key_id IS NULL OR revoke_key.at IS NULL THEN
    RAISE EXCEPTION USING ERRCODE = 'null_value_not_allowed', MESSAGE = 'key_id and at must not be null',
      HINT = 'tally.token_key lists the keys; leave out at to revoke one now';
  END IF;
  UPDATE tally.token_key AS k SET valid_until = LEAST(k.valid_until, revoke_key.at)
   WHERE k.key_id OPERATOR(pg_catalog.=) revoke_key.key_id
  RETURNING k.valid_until INTO until;
  IF NOT FOUND THEN
    RAISE EXCEPTION USING ERRCODE = 'undefined_object',
      MESSAGE = pg_catalog.format('key "%s" is not registered', revoke_key.key_id),
      HINT = 'tally.token_key lists the keys';
  END IF;
  RETURN until;
END
$$;
COMMENT ON FUNCTION tally.revoke_key(text, timestamptz) IS
  'has a key verify nothing from a moment on, now by default, and returns the moment; never later than it was set before. To rotate: register the new key, sign with it, then revoke the old one';

CREATE FUNCTION tally.challenge() RETURNS text
  LANGUAGE c VOLATILE PARALLEL UNSAFE STRICT AS 'MODULE_PATHNAME', 'challenge_wrapper';
COMMENT ON FUNCTION tally.challenge() IS
  'a random number that one token in this transaction must answer; another call replaces it';

CREATE FUNCTION tally.token_audience() RETURNS text
  LANGUAGE c STABLE PARALLEL SAFE STRICT AS 'MODULE_PATHNAME', 'token_audience_wrapper';
COMMENT ON FUNCTION tally.token_audience() IS
  'the aud of tokens for this database: the cluster''s system identifier, a slash, the database';

ALTER FUNCTION tally.pool_role(regrole) OWNER TO tally_security;
ALTER FUNCTION tally.register_key(text, bytea, timestamptz) OWNER TO tally_security;
ALTER FUNCTION tally.revoke_key(text, timestamptz) OWNER TO tally_security;
REVOKE ALL ON FUNCTION tally.pool_role(regrole), tally_internal.read_public_key(bytea), tally.challenge(), tally.token_audience(),
  tally.register_key(text, bytea, timestamptz), tally.revoke_key(text, timestamptz) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tally_internal.read_public_key(bytea) TO tally_security;
GRANT EXECUTE ON FUNCTION tally.pool_role(regrole), tally.register_key(text, bytea, timestamptz),
  tally.revoke_key(text, timestamptz) TO tally_admin;
GRANT EXECUTE ON FUNCTION tally.challenge() TO tally_reader, tally_writer;
GRANT EXECUTE ON FUNCTION tally.token_audience() TO tally_reader, tally_writer, tally_admin;
