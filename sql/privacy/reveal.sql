-- Revealing what is sealed: by a custodian, with a second factor, for a purpose, so many times an hour, and recorded.

CREATE TABLE tally.reveal_count (
  hour     timestamptz NOT NULL,
  revealed int4 NOT NULL,
  actor    text COLLATE "C" NOT NULL CONSTRAINT reveal_count_pkey PRIMARY KEY
);
COMMENT ON TABLE tally.reveal_count IS 'how many times each custodian, and each person under all its logins, had something revealed in the last hour in which that happened';
COMMENT ON COLUMN tally.reveal_count.hour IS 'the hour';
COMMENT ON COLUMN tally.reveal_count.revealed IS 'how many times, those included that were refused or undone';
COMMENT ON COLUMN tally.reveal_count.actor IS 'hash of the login''s number and of whom its token was for, or of the person whose they are';

CREATE TABLE tally.reveal_limit (
  per_hour int4 NOT NULL,
  only_one boolean NOT NULL DEFAULT true CONSTRAINT reveal_limit_pkey PRIMARY KEY,
  CONSTRAINT reveal_limit_not_negative CHECK (per_hour OPERATOR(pg_catalog.>=) 0),
  CONSTRAINT reveal_limit_is_one_row CHECK (only_one)
);
COMMENT ON TABLE tally.reveal_limit IS 'how many values one custodian may have revealed in an hour, where that is not 100';
COMMENT ON COLUMN tally.reveal_limit.per_hour IS 'so many';
COMMENT ON COLUMN tally.reveal_limit.only_one IS 'there is one row';

ALTER TABLE tally.reveal_count OWNER TO tally_owner;
ALTER TABLE tally.reveal_limit OWNER TO tally_owner;
SELECT tally_internal.confine_table('tally.reveal_count'), tally_internal.confine_table('tally.reveal_limit');
REVOKE ALL ON tally.reveal_count, tally.reveal_limit FROM PUBLIC;
GRANT SELECT ON tally.reveal_limit TO tally_admin, tally_auditor;
SELECT pg_catalog.pg_extension_config_dump('tally.reveal_count', '');
SELECT pg_catalog.pg_extension_config_dump('tally.reveal_limit', '');
SELECT tally_internal.record_changes_of('tally.reveal_limit', 'reveal_limit', 'per_hour');

CREATE FUNCTION tally.set_reveal_limit(per_hour int4) RETURNS void
  LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE CALLED ON NULL INPUT SECURITY DEFINER
  SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  IF set_reveal_limit.per_hour < 0 THEN
    RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = format('a limit of %s can''t be kept', set_reveal_limit.per_hour),
      HINT = 'give how many values one custodian may have revealed in an hour; null for the default, 100';
  END IF;
  DELETE FROM tally.reveal_limit;
  INSERT INTO tally.reveal_limit (per_hour) SELECT set_reveal_limit.per_hour WHERE set_reveal_limit.per_hour IS NOT NULL;
END
$$;
COMMENT ON FUNCTION tally.set_reveal_limit(int4) IS 'says how many values one custodian, a person under all its logins, may have revealed in an hour; null is the default, 100';

CREATE FUNCTION tally_internal.note_reveal(actor text) RETURNS void
  LANGUAGE sql VOLATILE PARALLEL UNSAFE STRICT
  SET search_path = pg_catalog, pg_temp
AS $$
  INSERT INTO tally.reveal_count AS c (actor, hour, revealed) VALUES (note_reveal.actor, date_trunc('hour', now(), 'UTC'), 1)
  ON CONFLICT ON CONSTRAINT reveal_count_pkey
  DO UPDATE SET hour = excluded.hour, revealed = CASE WHEN c.hour = excluded.hour THEN c.revealed + 1 ELSE 1 END;
$$;
COMMENT ON FUNCTION tally_internal.note_reveal(text) IS 'counts a reveal; called in a transaction of its own, so that none is undone';

CREATE FUNCTION tally_internal.begin_reveal(tenant_id text, object text, purpose text) RETURNS void
  LANGUAGE c VOLATILE PARALLEL UNSAFE STRICT AS 'MODULE_PATHNAME', 'tally_begin_reveal';
COMMENT ON FUNCTION tally_internal.begin_reveal(text, text, text) IS
  'counts and records that something is about to be revealed, whatever becomes of the transaction; raises an error, 53400, above the limit';

CREATE FUNCTION tally_internal.open_sealed(tenant_id text, event_id uuid, path text, value text) RETURNS text
  LANGUAGE c VOLATILE PARALLEL UNSAFE STRICT AS 'MODULE_PATHNAME', 'tally_open_sealed';
COMMENT ON FUNCTION tally_internal.open_sealed(text, uuid, text, text) IS 'what is sealed in a place, as JSON';

CREATE FUNCTION tally_internal.open_quarantined(tenant_id text, batch_id int8, "position" int4, body text) RETURNS text
  LANGUAGE c VOLATILE PARALLEL UNSAFE STRICT AS 'MODULE_PATHNAME', 'tally_open_quarantined';
COMMENT ON FUNCTION tally_internal.open_quarantined(text, int8, int4, text) IS 'the text of a quarantined event, opened where it is closed up';

CREATE FUNCTION tally_internal.readable_quarantined(tenant_id text, batch_id int8, "position" int4, body text) RETURNS text
  LANGUAGE c VOLATILE PARALLEL UNSAFE STRICT AS 'MODULE_PATHNAME', 'tally_readable_quarantined';
COMMENT ON FUNCTION tally_internal.readable_quarantined(text, int8, int4, text) IS
  'the same; null where it looks closed up and doesn''t open in this place, so that nobody''s event stands in the way of others''';

CREATE FUNCTION tally_internal.check_reveal(purpose text) RETURNS text
  LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE CALLED ON NULL INPUT
  SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  tenant text;
BEGIN
  PERFORM tally_internal.check_words('purpose', check_reveal.purpose);
  tenant := tally.current_tenant();
  IF tenant IS NULL THEN
    RAISE EXCEPTION USING ERRCODE = 'insufficient_privilege', MESSAGE = 'no tenant in scope',
      HINT = 'what is sealed is a tenant''s: call tally.enter(tenant) first in the transaction';
  END IF;
  IF coalesce(tally_internal.visible_characters(check_reveal.purpose), 0) < 5 THEN
    RAISE EXCEPTION USING ERRCODE = 'null_value_not_allowed', MESSAGE = 'purpose must say what the value is needed for',
      HINT = 'it is kept in the audit log; a case number and a word or two will do';
  END IF;
  PERFORM tally_internal.require_step_up('reveal');
  RETURN tenant;
END
$$;
COMMENT ON FUNCTION tally_internal.check_reveal(text) IS 'the tenant in scope; raises an error where there is none, no purpose, or no second factor';

CREATE FUNCTION tally.reveal(event_id uuid, path text, purpose text) RETURNS jsonb
  LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE CALLED ON NULL INPUT SECURITY DEFINER
  SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  tenant  text := tally_internal.check_reveal(reveal.purpose);
  pointer text := tally_internal.property_path(reveal.path);
  stored  jsonb;
BEGIN
  PERFORM tally_internal.begin_reveal(tenant, concat(reveal.event_id, ' ', pointer), reveal.purpose);
  SELECT e.properties #> tally_internal.path_steps(pointer) INTO stored
    FROM tally.event_key AS k
    JOIN tally.events AS e ON e.tenant_id = k.tenant_id AND e.account_id = coalesce(k.account, e.account_id)
                          AND e.occurred_at = k.occurred_at AND e.event_id = k.event_id
   WHERE k.tenant_id = tenant AND k.event_id = reveal.event_id;
  IF NOT FOUND THEN
    RAISE EXCEPTION USING ERRCODE = '02000', MESSAGE = format('there is no event %s in scope', reveal.event_id),
      HINT = 'its raw event may be gone, too: tally.find_event() tells';
  END IF;
  IF jsonb_typeof(stored) IS DISTINCT FROM 'string' THEN
    RAISE EXCEPTION USING ERRCODE = '22T82', MESSAGE = format('nothing is sealed at %s of event %s', pointer, reveal.event_id),
      HINT = 'name the value itself, with the places in arrays on the way, as /contacts/0/email';
  END IF;
  RETURN tally_internal.open_sealed(tenant, reveal.event_id, pointer, stored #>> '{}')::jsonb;
END
$$;
COMMENT ON FUNCTION tally.reveal(uuid, text, text) IS
  'opens what is sealed in a property of an event of the tenant in scope, for a purpose, which is recorded; needs a second factor, and is limited by the hour (tally.set_reveal_limit())';

CREATE FUNCTION tally.reveal_quarantined(batch_id int8, "position" int4, purpose text) RETURNS text
  LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE CALLED ON NULL INPUT SECURITY DEFINER
  SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  tenant text := tally_internal.check_reveal(reveal_quarantined.purpose);
  stored text;
BEGIN
  PERFORM tally_internal.begin_reveal(tenant, format('quarantine %s %s', reveal_quarantined.batch_id, reveal_quarantined."position"), reveal_quarantined.purpose);
  SELECT q.body INTO stored FROM tally.quarantine AS q
   WHERE q.tenant_id = tenant AND q.batch_id = reveal_quarantined.batch_id AND q."position" = reveal_quarantined."position";
  IF NOT FOUND THEN
    RAISE EXCEPTION USING ERRCODE = '02000', MESSAGE = 'there is no such event in quarantine, in scope',
      HINT = 'tally.quarantine lists those that are there';
  END IF;
  RETURN tally_internal.open_quarantined(tenant, reveal_quarantined.batch_id, reveal_quarantined."position", stored);
END
$$;
COMMENT ON FUNCTION tally.reveal_quarantined(int8, int4, text) IS
  'the text of a quarantined event of the tenant in scope, opened, under the conditions of tally.reveal()';

CREATE FUNCTION tally.tokens_of(value text, purpose text) RETURNS TABLE (token text, of_user_ids boolean)
  LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE CALLED ON NULL INPUT SECURITY DEFINER
  SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  tenant text := tally_internal.check_reveal(tokens_of.purpose);
BEGIN
  -- Whoever could ask for as many as he likes would find what a token stands for.
  PERFORM tally_internal.begin_reveal(tenant, 'tokens of a value', tokens_of.purpose);
  RETURN QUERY SELECT t.token, t.token LIKE 'tok.0.%' FROM unnest(tally_internal.tokens_of(tenant, tokens_of.value)) AS t (token);
END
$$;
COMMENT ON FUNCTION tally.tokens_of(text, text) IS
  'the tokens that may stand for a value in the tenant that is in scope, to look for it: of properties under every key that there was, and of user ids; under the conditions of tally.reveal(). Recorded, without the value';

ALTER FUNCTION tally.tokens_of(text, text) OWNER TO tally_owner;
ALTER FUNCTION tally.set_reveal_limit(int4) OWNER TO tally_owner;
ALTER FUNCTION tally.reveal(uuid, text, text) OWNER TO tally_owner;
ALTER FUNCTION tally.reveal_quarantined(int8, int4, text) OWNER TO tally_owner;
REVOKE ALL ON FUNCTION tally.set_reveal_limit(int4), tally_internal.note_reveal(text), tally_internal.begin_reveal(text, text, text),
  tally_internal.open_sealed(text, uuid, text, text), tally_internal.open_quarantined(text, int8, int4, text), tally_internal.check_reveal(text),
  tally.reveal(uuid, text, text), tally.reveal_quarantined(int8, int4, text), tally.tokens_of(text, text),
  tally_internal.readable_quarantined(text, int8, int4, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tally_internal.note_reveal(text), tally_internal.begin_reveal(text, text, text),
  tally_internal.open_sealed(text, uuid, text, text), tally_internal.open_quarantined(text, int8, int4, text), tally_internal.check_reveal(text) TO tally_owner;
GRANT EXECUTE ON FUNCTION tally.set_reveal_limit(int4) TO tally_admin;
GRANT EXECUTE ON FUNCTION tally_internal.readable_quarantined(text, int8, int4, text) TO tally_owner;
GRANT EXECUTE ON FUNCTION tally.reveal(uuid, text, text), tally.reveal_quarantined(int8, int4, text), tally.tokens_of(text, text) TO tally_custodian;
-- What leads to a scope and a second factor.
GRANT EXECUTE ON FUNCTION tally.current_tenant(), tally.current_account(), tally.current_scope(), tally.enter(text, text), tally.challenge(),
  tally.token_audience(), tally.step_up(text) TO tally_custodian;
