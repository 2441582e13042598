-- Step-up: which acts need a second factor, and how fresh. src/scope/step_up.rs holds what a session has shown.

CREATE TABLE tally.step_up_policy (
  set_at      timestamptz NOT NULL DEFAULT now(),
  max_age_s   int4 NOT NULL,
  is_required boolean NOT NULL,
  act         text COLLATE "C" NOT NULL CONSTRAINT step_up_policy_pkey PRIMARY KEY,
  amr         text COLLATE "C",
  acr         text COLLATE "C",
  set_by      name NOT NULL DEFAULT session_user,
  CONSTRAINT step_up_policy_age_is_within_a_day CHECK (max_age_s BETWEEN 1 AND 86400)
);
ALTER TABLE tally.step_up_policy OWNER TO tally_security;
COMMENT ON TABLE tally.step_up_policy IS 'which acts need a second factor, where that is not as tally.step_up_acts() has it by default';
COMMENT ON COLUMN tally.step_up_policy.set_at IS 'when it was set';
COMMENT ON COLUMN tally.step_up_policy.max_age_s IS 'seconds that an authentication may be old';
COMMENT ON COLUMN tally.step_up_policy.is_required IS 'whether the act needs a second factor';
COMMENT ON COLUMN tally.step_up_policy.act IS 'the act';
COMMENT ON COLUMN tally.step_up_policy.amr IS 'methods of authentication (RFC 8176), between spaces, of which one is needed; null for those that are a second factor';
COMMENT ON COLUMN tally.step_up_policy.acr IS 'classes of authentication in the identity provider''s words, between spaces, of which one will do instead; null for none';
COMMENT ON COLUMN tally.step_up_policy.set_by IS 'the role that logged in and set it';
REVOKE ALL ON tally.step_up_policy FROM PUBLIC;
GRANT SELECT ON tally.step_up_policy TO tally_admin, tally_auditor;
SELECT pg_catalog.pg_extension_config_dump('tally.step_up_policy', '');
SELECT tally_internal.record_changes_of('tally.step_up_policy', 'step_up_policy', 'act');

CREATE FUNCTION tally.step_up(token text) RETURNS timestamptz
  LANGUAGE c VOLATILE PARALLEL UNSAFE STRICT AS 'MODULE_PATHNAME', 'tally_step_up';
COMMENT ON FUNCTION tally.step_up(text) IS
  'takes a signed token, which answers tally.challenge(), as proof of a second factor for the rest of the session, and returns when the person was authenticated; sensitive acts ask how long ago that was. For logins that are no pool roles: those enter with such a token';

CREATE FUNCTION tally_internal.require_step_up(act text) RETURNS void
  LANGUAGE c VOLATILE PARALLEL UNSAFE CALLED ON NULL INPUT AS 'MODULE_PATHNAME', 'tally_require_step_up';
COMMENT ON FUNCTION tally_internal.require_step_up(text) IS
  'raises an error, 42T20, unless the session, or the transaction of a pool role, has shown a second factor as the act''s policy demands; the attempt is recorded';

CREATE FUNCTION tally_internal.needs_step_up_by_default(act text) RETURNS boolean
  LANGUAGE c IMMUTABLE PARALLEL SAFE STRICT AS 'MODULE_PATHNAME', 'tally_needs_step_up_by_default';
COMMENT ON FUNCTION tally_internal.needs_step_up_by_default(text) IS 'whether an act needs a second factor where no policy says';

CREATE FUNCTION tally_internal.sensitive_scope(OUT act text, OUT description text, OUT held_by name) RETURNS SETOF record
  LANGUAGE sql IMMUTABLE PARALLEL SAFE STRICT
  SET search_path = pg_catalog, pg_temp
  BEGIN ATOMIC
    SELECT v.* FROM (VALUES
      ('binding', 'binding, trusting, pooling and unbinding a role', 'tally_admin'::name),
      ('key', 'registering and revoking a key that tokens are verified with', 'tally_admin'),
      ('policy', 'saying what is recorded, and which acts need a second factor', 'tally_admin')
    ) AS v (act, description, held_by);
  END;
COMMENT ON FUNCTION tally_internal.sensitive_scope() IS 'acts that may need a second factor: of bindings, keys and policies';

CREATE FUNCTION tally_internal.holders_of_act(act text) RETURNS name
  LANGUAGE plpgsql STABLE PARALLEL SAFE STRICT
  SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  found name;
BEGIN
  EXECUTE pg_catalog.format('SELECT a.held_by FROM (%s) AS a WHERE a.act OPERATOR(pg_catalog.=) $1',
                            tally_internal.every('sensitive_', 'r.act, r.held_by')) INTO found USING holders_of_act.act;
  RETURN found;
END
$$;
COMMENT ON FUNCTION tally_internal.holders_of_act(text) IS
  'the group whose members a sensitive act is for; null where it is for no group, or no act of that name is registered';

CREATE FUNCTION tally.step_up_acts(OUT act text, OUT is_required boolean, OUT max_age interval, OUT amr text[], OUT acr text[],
    OUT description text) RETURNS SETOF record
  LANGUAGE plpgsql STABLE PARALLEL SAFE STRICT SECURITY DEFINER
  SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  RETURN QUERY EXECUTE pg_catalog.format($query$
    SELECT a.act, coalesce(p.is_required, tally_internal.needs_step_up_by_default(a.act)), pg_catalog.make_interval(secs => coalesce(p.max_age_s, 300)),
           pg_catalog.string_to_array(p.amr, ' '), pg_catalog.string_to_array(p.acr, ' '), a.description
      FROM (%s) AS a LEFT JOIN tally.step_up_policy AS p ON p.act OPERATOR(pg_catalog.=) a.act ORDER BY 1
    $query$, tally_internal.every('sensitive_', 'r.act, r.description'));
END
$$;
COMMENT ON FUNCTION tally.step_up_acts() IS
  'the acts that may need a second factor, whether they do, how long ago it may have been shown, and which methods (amr; null for those that RFC 8176 has of a second factor) or classes (acr) it must be';

CREATE FUNCTION tally.set_step_up_policy(act text, required boolean, max_age interval DEFAULT '5 minutes', amr text[] DEFAULT NULL,
    acr text[] DEFAULT NULL) RETURNS void
  LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE CALLED ON NULL INPUT SECURITY DEFINER
  SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  seconds float8 := pg_catalog.date_part('epoch', max_age);
BEGIN
  PERFORM tally_internal.check_words('amr', pg_catalog.array_to_string(amr, ' ')), tally_internal.check_words('acr', pg_catalog.array_to_string(acr, ' '));
  PERFORM tally_internal.require_step_up('policy');
  IF set_step_up_policy.act IS NULL OR max_age IS NULL THEN
    RAISE EXCEPTION USING ERRCODE = 'null_value_not_allowed', MESSAGE = 'act and max_age must not be null',
      HINT = 'tally.step_up_acts() lists the acts';
  END IF;
  IF NOT EXISTS (SELECT FROM tally.step_up_acts() AS a WHERE a.act OPERATOR(pg_catalog.=) set_step_up_policy.act) THEN
    RAISE EXCEPTION USING ERRCODE = 'undefined_object', MESSAGE = pg_catalog.format('"%s" is no act that can need a second factor', set_step_up_policy.act),
      HINT = 'tally.step_up_acts() lists them';
  END IF;
  IF NOT seconds OPERATOR(pg_catalog.>=) 1 OR seconds OPERATOR(pg_catalog.>) 86400 THEN
    RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = pg_catalog.format('%s is no age of a second factor', max_age),
      HINT = 'from 1 second to 24 hours';
  END IF;
  IF pg_catalog.array_ndims(amr) OPERATOR(pg_catalog.>) 1 OR pg_catalog.array_ndims(acr) OPERATOR(pg_catalog.>) 1 THEN
    RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = 'amr and acr are lists of words, not of lists',
      HINT = 'ARRAY[''mfa'', ''hwk'']';
  END IF;
  IF EXISTS (SELECT FROM pg_catalog.unnest(amr OPERATOR(pg_catalog.||) acr) AS u (word)
              WHERE u.word IS NULL OR u.word OPERATOR(pg_catalog.=) '' OR u.word OPERATOR(pg_catalog.~) '[[:space:][:cntrl:]]') THEN
    RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = 'amr and acr are words without spaces',
      HINT = 'each as the identity provider has it in its tokens: ARRAY[''mfa'', ''hwk'']';
  END IF;
  IF pg_catalog.cardinality(amr) OPERATOR(pg_catalog.=) 0 AND coalesce(pg_catalog.cardinality(acr), 0) OPERATOR(pg_catalog.=) 0 THEN
    RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = 'no method and no class would be a second factor: nobody could do it any more',
      HINT = 'amr null stands for the methods of RFC 8176 that are one';
  END IF;
  IF required IS NULL THEN
    DELETE FROM tally.step_up_policy AS p WHERE p.act OPERATOR(pg_catalog.=) set_step_up_policy.act;
  ELSE
    INSERT INTO tally.step_up_policy AS p (max_age_s, is_required, act, amr, acr)
    VALUES (seconds::int4, required, set_step_up_policy.act, pg_catalog.array_to_string(amr, ' '), pg_catalog.array_to_string(acr, ' '))
    ON CONFLICT ON CONSTRAINT step_up_policy_pkey
    DO UPDATE SET set_at = excluded.set_at, max_age_s = excluded.max_age_s, is_required = excluded.is_required, amr = excluded.amr,
      acr = excluded.acr, set_by = excluded.set_by;
  END IF;
  IF required AND EXISTS (SELECT FROM tally.step_up_acts() AS a WHERE a.act OPERATOR(pg_catalog.=) ANY ('{key,policy}') AND NOT a.is_required) THEN
    RAISE NOTICE USING MESSAGE = 'an administrator without a second factor can still undo this',
      HINT = 'require one for ''key'' and ''policy'', too: who registers a key could sign for himself, and who sets policies could take this one back';
  END IF;
END
$$;
COMMENT ON FUNCTION tally.set_step_up_policy(text, boolean, interval, text[], text[]) IS
  'says whether an act (tally.step_up_acts()) needs a second factor, how long ago it may have been shown, which methods count (amr, RFC 8176; null for those of a second factor) and which classes (acr) count instead; required null takes a policy back';

ALTER FUNCTION tally.step_up_acts() OWNER TO tally_security;
ALTER FUNCTION tally.set_step_up_policy(text, boolean, interval, text[], text[]) OWNER TO tally_security;
REVOKE ALL ON FUNCTION tally.step_up(text), tally_internal.require_step_up(text), tally_internal.needs_step_up_by_default(text), tally_internal.sensitive_scope(),
  tally_internal.holders_of_act(text), tally.step_up_acts(), tally.set_step_up_policy(text, boolean, interval, text[], text[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tally_internal.needs_step_up_by_default(text), tally_internal.sensitive_scope(), tally_internal.registered(text),
  tally_internal.every(text, text) TO tally_security;
GRANT EXECUTE ON FUNCTION tally_internal.holders_of_act(text), tally_internal.sensitive_scope(), tally_internal.registered(text),
  tally_internal.every(text, text) TO tally_owner;
GRANT EXECUTE ON FUNCTION tally.step_up(text), tally_internal.require_step_up(text), tally.step_up_acts()
  TO tally_owner, tally_security, tally_reader, tally_writer, tally_admin, tally_auditor;
GRANT EXECUTE ON FUNCTION tally.challenge(), tally.token_audience() TO tally_auditor;
GRANT EXECUTE ON FUNCTION tally.set_step_up_policy(text, boolean, interval, text[], text[]) TO tally_admin;
