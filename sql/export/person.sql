-- Who is the same person: logins, and subjects of tokens, that belong to one. Two of them can't do what needs two people.

CREATE TABLE tally.person_identity (
  mapped_at timestamptz NOT NULL DEFAULT now(),
  login     regrole NOT NULL DEFAULT 0::oid::regrole,
  identity  text COLLATE "C" NOT NULL,
  person    text COLLATE "C" NOT NULL,
  mapped_by name NOT NULL DEFAULT session_user,
  CONSTRAINT person_identity_pkey PRIMARY KEY (identity, login)
);
ALTER TABLE tally.person_identity OWNER TO tally_owner;
COMMENT ON TABLE tally.person_identity IS 'logins and subjects of tokens that belong to the same person, who can''t approve under one what was requested under another';
COMMENT ON COLUMN tally.person_identity.mapped_at IS 'when it was mapped';
COMMENT ON COLUMN tally.person_identity.login IS 'the role, by whose number a login is known, whatever it is called later; - for a subject';
COMMENT ON COLUMN tally.person_identity.identity IS '"login " and the name that the role had when it was mapped, or "subject " and the sub of a token';
COMMENT ON COLUMN tally.person_identity.person IS 'the person, in your own words';
COMMENT ON COLUMN tally.person_identity.mapped_by IS 'the role that logged in and mapped it';
REVOKE ALL ON tally.person_identity FROM PUBLIC;
GRANT SELECT ON tally.person_identity TO tally_admin, tally_auditor;
-- A login that was dropped is printed as a number, which is another role's where the dump is restored.
SELECT pg_catalog.pg_extension_config_dump('tally.person_identity',
  'WHERE login::pg_catalog.oid OPERATOR(pg_catalog.=) 0 OR EXISTS (SELECT FROM pg_catalog.pg_roles AS r WHERE r.oid OPERATOR(pg_catalog.=) login::pg_catalog.oid)');
SELECT tally_internal.record_changes_of('tally.person_identity', 'person', 'person', '{identity,person,login}');

CREATE FUNCTION tally_internal.acting_identities() RETURNS text[]
  LANGUAGE c STABLE PARALLEL RESTRICTED STRICT AS 'MODULE_PATHNAME', 'acting_identities_wrapper';
COMMENT ON FUNCTION tally_internal.acting_identities() IS
  'who acts: the role that logged in, by name and number, and the subject that it stepped up with; of a pool role the subject of the token alone, none where that says none';

CREATE FUNCTION tally_internal.is_requester(identities text[]) RETURNS boolean
  LANGUAGE c STABLE PARALLEL RESTRICTED STRICT AS 'MODULE_PATHNAME', 'is_requester_wrapper';
COMMENT ON FUNCTION tally_internal.is_requester(text[]) IS
  'whether who acts is who these identities are of: of a login that people share, the same subject, where they name one';

CREATE FUNCTION tally_internal.with_persons(identities text[]) RETURNS text[]
  LANGUAGE sql STABLE PARALLEL SAFE STRICT
  SET search_path = pg_catalog, pg_temp
  BEGIN ATOMIC
    SELECT identities || ARRAY(SELECT DISTINCT 'person ' || p.person FROM tally.person_identity AS p
                                WHERE CASE WHEN p.login::oid = 0 THEN p.identity ELSE 'role ' || p.login::oid END = ANY (identities) ORDER BY 1);
  END;
COMMENT ON FUNCTION tally_internal.with_persons(text[]) IS 'identities, and the persons whose they are';

CREATE FUNCTION tally.map_person(person text, login regrole DEFAULT NULL, subject text DEFAULT NULL) RETURNS void
  LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE CALLED ON NULL INPUT SECURITY DEFINER
  SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  named text := CASE WHEN map_person.login IS NOT NULL
                     THEN 'login ' || coalesce((SELECT r.rolname::text FROM pg_roles AS r WHERE r.oid = map_person.login), map_person.login::oid::text)
                     ELSE 'subject ' || map_person.subject END;
BEGIN
  PERFORM tally_internal.check_words('subject', map_person.subject);
  PERFORM tally_internal.require_step_up('binding');
  IF num_nonnulls(map_person.login::oid, map_person.subject) <> 1 THEN
    RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = 'name a login or the subject of tokens, one of them',
      HINT = 'tally.map_person(''jane'', login => ''jane_bi''), tally.map_person(''jane'', subject => ''jane@example.com'')';
  END IF;
  IF map_person.person IS NOT NULL THEN
    PERFORM tally_internal.check_id('person', map_person.person);
  END IF;
  -- What a login was mapped as under another name, and what was mapped as this name and is gone.
  DELETE FROM tally.person_identity AS p
   WHERE p.login = map_person.login AND (map_person.person IS NULL OR p.identity <> named)
      OR p.identity = named AND p.login <> coalesce(map_person.login, '-') AND NOT EXISTS (SELECT FROM pg_roles AS r WHERE r.oid = p.login)
      OR map_person.person IS NULL AND map_person.login IS NULL AND p.identity = named;
  IF map_person.person IS NULL THEN
    RETURN;
  END IF;
  IF map_person.login IS NOT NULL AND NOT EXISTS (SELECT FROM pg_roles AS r WHERE r.oid = map_person.login) THEN
    RAISE EXCEPTION USING ERRCODE = 'undefined_object', MESSAGE = format('role %s does not exist', map_person.login),
      HINT = 'name a role that logs in';
  END IF;
  INSERT INTO tally.person_identity AS p (login, identity, person) VALUES (coalesce(map_person.login, '-'), named, map_person.person)
  ON CONFLICT ON CONSTRAINT person_identity_pkey
  DO UPDATE SET person = excluded.person, mapped_at = excluded.mapped_at, mapped_by = excluded.mapped_by;
END
$$;
COMMENT ON FUNCTION tally.map_person(text, regrole, text) IS
  'says that a login, or the subject of tokens, is a person''s: whoever requests an export under one of a person''s can''t approve it under another; person null takes it back';
-- A mapping that holds stays: it keeps people apart who must be two.
CREATE FUNCTION tally_internal.forget_person(tenant_id text, subjects text[], sought jsonb) RETURNS int8
  LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE STRICT
  SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  named text[] := subjects || ARRAY(SELECT 'subject ' || s.id FROM unnest(subjects) AS s (id));
BEGIN
  RETURN tally_internal.erase_audit_personal('', ARRAY(
    SELECT p.entry_id FROM tally.audit_personal AS p JOIN tally.audit_entry AS e ON e.tenant_id = p.tenant_id AND e.entry_id = p.entry_id
     WHERE p.tenant_id = '' AND e.act IN ('person_added', 'person_changed', 'person_removed')
       -- Of most entries one look says that they name none of all.
       AND tally_internal.is_content_naming(p.content, named)
       AND EXISTS (SELECT FROM unnest(subjects) AS s (id)
                    WHERE tally_internal.is_content_naming(p.content, ARRAY[s.id, 'subject ' || s.id])
                      AND NOT EXISTS (SELECT FROM tally.person_identity AS m WHERE m.identity = 'subject ' || s.id OR m.person = s.id))));
END
$$;
COMMENT ON FUNCTION tally_internal.forget_person(text, text[], jsonb) IS
  'part of an erasure: erases what the audit log keeps of mappings of the subjects to persons, once tally.map_person() has taken them back';

ALTER FUNCTION tally.map_person(text, regrole, text) OWNER TO tally_owner;
REVOKE ALL ON FUNCTION tally_internal.acting_identities(), tally_internal.is_requester(text[]), tally_internal.with_persons(text[]), tally.map_person(text, regrole, text), tally_internal.forget_person(text, text[], jsonb) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tally_internal.acting_identities(), tally_internal.is_requester(text[]), tally_internal.with_persons(text[]), tally_internal.require_step_up(text), tally_internal.forget_person(text, text[], jsonb) TO tally_owner;
GRANT EXECUTE ON FUNCTION tally.map_person(text, regrole, text) TO tally_admin;
GRANT EXECUTE ON FUNCTION tally_internal.is_requester(text[]) TO tally_reader, tally_auditor, tally_admin; -- a view asks as who reads it
