-- What is protected: properties and user ids that are dropped, tokenised or sealed before an event is stored. src/privacy does it.

CREATE TABLE tally.protection (
  declared_at timestamptz NOT NULL DEFAULT now(),
  tenant_id   text COLLATE "C" NOT NULL,
  event_name  text COLLATE "C" NOT NULL,
  path        text COLLATE "C" NOT NULL,
  treatment   text COLLATE "C" NOT NULL,
  declared_by name NOT NULL DEFAULT session_user,
  CONSTRAINT protection_pkey PRIMARY KEY (tenant_id, event_name, path),
  CONSTRAINT protection_treatment_known CHECK (treatment OPERATOR(pg_catalog.=) ANY ('{drop,token,seal}'::pg_catalog.text[])),
  CONSTRAINT protection_user_ids_are_not_sealed CHECK (path OPERATOR(pg_catalog.<>) '' OR treatment OPERATOR(pg_catalog.<>) 'seal')
);
COMMENT ON TABLE tally.protection IS 'what is done to values before they are stored; of declarations about the same value, one for a tenant goes before one for all, and then one for an event before one for every event';
COMMENT ON COLUMN tally.protection.declared_at IS 'when it was declared first';
COMMENT ON COLUMN tally.protection.tenant_id IS 'the tenant; empty for all';
COMMENT ON COLUMN tally.protection.event_name IS 'the name of the events; empty for every one';
COMMENT ON COLUMN tally.protection.path IS 'the property, as a JSON Pointer; empty for the user id';
COMMENT ON COLUMN tally.protection.treatment IS 'drop, token or seal';
COMMENT ON COLUMN tally.protection.declared_by IS 'the role that logged in and declared it';

CREATE TABLE tally.privacy_renewal (
  requested_at timestamptz NOT NULL DEFAULT now(),
  updated_at   timestamptz,
  finished_at  timestamptz,
  after_time   timestamptz,
  rows_read    int8 NOT NULL DEFAULT 0,
  rows_changed int8 NOT NULL DEFAULT 0,
  stage        int4 NOT NULL DEFAULT 0,
  users_from   timestamptz,
  users_to     timestamptz,
  values_from  timestamptz,
  values_to    timestamptz,
  rollup_from  timestamptz,
  tenant_id    text COLLATE "C" NOT NULL CONSTRAINT privacy_renewal_pkey PRIMARY KEY,
  months_done  text COLLATE "C" NOT NULL DEFAULT '',
  month        text COLLATE "C",
  after_account text COLLATE "C",
  after_batch  int8,
  after_position int4,
  is_left      boolean NOT NULL DEFAULT false,
  rollup_done  text COLLATE "C" NOT NULL DEFAULT '',
  rollup_in_hand text COLLATE "C",
  left_in      text[] NOT NULL DEFAULT '{}',
  paths        text[] NOT NULL DEFAULT '{}',
  changed_paths text[] NOT NULL DEFAULT '{}',
  CONSTRAINT privacy_renewal_stage_known CHECK (stage BETWEEN 0 AND 4)
);
COMMENT ON TABLE tally.privacy_renewal IS 'how far what is stored has been gone through, for each tenant of which something was protected or whose keys were rotated';
COMMENT ON COLUMN tally.privacy_renewal.requested_at IS 'when that was last';
COMMENT ON COLUMN tally.privacy_renewal.updated_at IS 'when the last step was made';
COMMENT ON COLUMN tally.privacy_renewal.finished_at IS 'when nothing was left; null while steps are';
COMMENT ON COLUMN tally.privacy_renewal.after_time IS 'of the month in hand, up to which event of the account it is done';
COMMENT ON COLUMN tally.privacy_renewal.rows_read IS 'events and quarantined events that the steps looked at';
COMMENT ON COLUMN tally.privacy_renewal.rows_changed IS 'those that they wrote anew';
COMMENT ON COLUMN tally.privacy_renewal.stage IS '0 waiting for running ingest to end, 1 raw events, 2 rollups that have user ids or tokens, 3 quarantine, 4 finished';
COMMENT ON COLUMN tally.privacy_renewal.users_from IS 'the first event whose user id was changed; null for none';
COMMENT ON COLUMN tally.privacy_renewal.users_to IS 'the last one';
COMMENT ON COLUMN tally.privacy_renewal.values_from IS 'the first event of which properties were changed; null for none';
COMMENT ON COLUMN tally.privacy_renewal.values_to IS 'the last one';
COMMENT ON COLUMN tally.privacy_renewal.tenant_id IS 'the tenant';
COMMENT ON COLUMN tally.privacy_renewal.months_done IS 'the last table of events that is done; they are gone through by name';
COMMENT ON COLUMN tally.privacy_renewal.month IS 'the table in hand';
COMMENT ON COLUMN tally.privacy_renewal.after_account IS 'of it, up to which account it is done; of the quarantine, up to which tenant';
COMMENT ON COLUMN tally.privacy_renewal.after_batch IS 'of the quarantine, up to which batch of that tenant it is done';
COMMENT ON COLUMN tally.privacy_renewal.after_position IS 'and up to which of the batch''s events';
COMMENT ON COLUMN tally.privacy_renewal.is_left IS 'whether some of the quarantine were in others'' hands: they are come back to';
COMMENT ON COLUMN tally.privacy_renewal.rollup_in_hand IS 'the rollup that is being made anew, a month or a year at a time';
COMMENT ON COLUMN tally.privacy_renewal.rollup_from IS 'of it, up to when it is done';
COMMENT ON COLUMN tally.privacy_renewal.left_in IS 'rollups that keep user ids or tokens as they were before in buckets of which raw events are gone';
COMMENT ON COLUMN tally.privacy_renewal.paths IS 'properties that were protected when it was begun, as JSON Pointers';
COMMENT ON COLUMN tally.privacy_renewal.changed_paths IS
  'what has been declared, or has another key, since it was last finished: properties as JSON Pointers, the empty one for the user id; buckets of which raw events are gone keep it as it was';
COMMENT ON COLUMN tally.privacy_renewal.rollup_done IS 'the last rollup that was made anew for other user ids or tokens; they are gone through by name';

ALTER TABLE tally.protection OWNER TO tally_owner;
ALTER TABLE tally.privacy_renewal OWNER TO tally_owner;
SELECT tally_internal.confine_table('tally.protection'), tally_internal.confine_table('tally.privacy_renewal');
REVOKE ALL ON tally.protection, tally.privacy_renewal FROM PUBLIC;
GRANT SELECT ON tally.protection, tally.privacy_renewal TO tally_admin, tally_auditor, tally_analyst;
SELECT pg_catalog.pg_extension_config_dump('tally.protection', '');
SELECT pg_catalog.pg_extension_config_dump('tally.privacy_renewal', '');
SELECT tally_internal.record_changes_of('tally.protection', 'privacy_protection', 'path');

CREATE FUNCTION tally_internal.property_path(path text) RETURNS text
  LANGUAGE c IMMUTABLE PARALLEL SAFE STRICT AS 'MODULE_PATHNAME', 'property_path_wrapper';
COMMENT ON FUNCTION tally_internal.property_path(text) IS 'a path of a property as a JSON Pointer; an error where it can''t be followed';

CREATE FUNCTION tally_internal.path_steps(path text) RETURNS text[]
  LANGUAGE c IMMUTABLE PARALLEL SAFE STRICT AS 'MODULE_PATHNAME', 'path_steps_wrapper';
COMMENT ON FUNCTION tally_internal.path_steps(text) IS 'the keys that a path of a property goes through';

CREATE FUNCTION tally_internal.write_protection(tenant_id text, event_name text, path text, treatment text) RETURNS boolean
  LANGUAGE c VOLATILE PARALLEL UNSAFE CALLED ON NULL INPUT AS 'MODULE_PATHNAME', 'tally_write_protection';
COMMENT ON FUNCTION tally_internal.write_protection(text, text, text, text) IS
  'part of tally.protect_property(): declares, or with a null treatment takes back, for any tenant, whatever the caller''s scope; makes the keys; says whether that changed anything';

CREATE FUNCTION tally_internal.request_renewal(tenant_id text, changed text[]) RETURNS void
  LANGUAGE sql VOLATILE PARALLEL UNSAFE STRICT
  SET search_path = pg_catalog, pg_temp
AS $$
  INSERT INTO tally.privacy_renewal AS r (tenant_id, paths, changed_paths)
  -- The empty one, too: events in quarantine that name no tenant may be anybody's.
  SELECT t.tenant_id, ARRAY(SELECT DISTINCT p.path FROM tally.protection AS p WHERE p.path <> '' AND p.tenant_id IN (t.tenant_id, '')),
         -- Where it is declared for all, that counts for no tenant with a declaration of its own.
         ARRAY(SELECT c.path FROM unnest(request_renewal.changed) AS c (path)
                WHERE t.tenant_id = request_renewal.tenant_id
                   OR request_renewal.tenant_id = ''
                      AND NOT EXISTS (SELECT FROM tally.protection AS p WHERE p.tenant_id = t.tenant_id AND p.event_name = '' AND p.path = c.path))
    FROM (SELECT request_renewal.tenant_id UNION SELECT ''
           UNION SELECT t.tenant_id FROM tally.tenant AS t WHERE request_renewal.tenant_id = ''
           UNION SELECT q.tenant_id FROM tally.quarantine AS q WHERE request_renewal.tenant_id = '') AS t (tenant_id)
   ORDER BY 1
  ON CONFLICT ON CONSTRAINT privacy_renewal_pkey
  DO UPDATE SET requested_at = now(), updated_at = NULL, finished_at = NULL, after_time = NULL, rows_read = 0, rows_changed = 0, stage = 0,
    -- What the one before has changed and not carried over to rollups, this one carries over.
    users_from = CASE WHEN r.finished_at IS NULL THEN r.users_from END, users_to = CASE WHEN r.finished_at IS NULL THEN r.users_to END,
    values_from = CASE WHEN r.finished_at IS NULL THEN r.values_from END, values_to = CASE WHEN r.finished_at IS NULL THEN r.values_to END, months_done = '', month = NULL, after_account = NULL, after_batch = NULL, after_position = NULL, is_left = false, rollup_done = '', rollup_in_hand = NULL, rollup_from = NULL,
    -- What others of that name have, which were declared since, isn't what these kept.
    left_in = ARRAY(SELECT l.rollup_name FROM unnest(r.left_in) WITH ORDINALITY AS l (rollup_name, place)
                      JOIN tally.rollup AS o ON o.rollup_name = l.rollup_name
                       -- The built-in ones are as old as the installation, also one that was restored.
                       AND (o.declared_at <= coalesce(r.updated_at, r.requested_at) OR o.rollup_name IN ('usage', 'user_activity', 'session', 'payment'))
                     ORDER BY l.place),
    paths = ARRAY(SELECT unnest(excluded.paths) UNION SELECT unnest(r.paths) WHERE r.finished_at IS NULL),
    changed_paths = ARRAY(SELECT unnest(excluded.changed_paths) UNION SELECT unnest(r.changed_paths) WHERE r.finished_at IS NULL);
$$;
COMMENT ON FUNCTION tally_internal.request_renewal(text, text[]) IS
  'has what is stored of a tenant, or with an empty one of every tenant, gone through from the beginning, since something of it, properties or with an empty path the user id, is to be stored otherwise';

CREATE FUNCTION tally_internal.check_protection(event text, path text, treatment text, tenant_id text) RETURNS void
  LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE CALLED ON NULL INPUT
  SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  IF check_protection.path IS NULL THEN
    RAISE EXCEPTION USING ERRCODE = 'null_value_not_allowed', MESSAGE = 'path must not be null',
      HINT = 'name a property, as email or /user/email';
  END IF;
  IF check_protection.tenant_id IS NOT NULL THEN
    PERFORM tally_internal.check_id('tenant_id', check_protection.tenant_id);
  END IF;
  IF check_protection.event IS NOT NULL THEN
    PERFORM tally_internal.check_id('event', check_protection.event);
  END IF;
  IF NOT coalesce(check_protection.treatment = ANY ('{drop,token,seal}'::text[]), false) THEN
    RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
      MESSAGE = format('unknown treatment %L', check_protection.treatment),
      HINT = 'treatments are drop, token and seal';
  END IF;
END
$$;
COMMENT ON FUNCTION tally_internal.check_protection(text, text, text, text) IS 'raises an error unless these can be the arguments of a declaration';

-- By the expression's tree (src/rollup/reads.rs). One that can't be read any more may read everything.
CREATE FUNCTION tally_internal.reads_property(expression text, path text) RETURNS boolean
  LANGUAGE c STABLE PARALLEL UNSAFE STRICT AS 'MODULE_PATHNAME', 'reads_property_wrapper';
COMMENT ON FUNCTION tally_internal.reads_property(text, text) IS
  'whether an expression over an event reads what is at a path of its properties, or something that it is in, or that is in it';

CREATE FUNCTION tally_internal.reads_user_id(expression text) RETURNS boolean
  LANGUAGE c STABLE PARALLEL UNSAFE STRICT AS 'MODULE_PATHNAME', 'reads_user_id_wrapper';
COMMENT ON FUNCTION tally_internal.reads_user_id(text) IS 'whether an expression over an event reads the user id';

CREATE FUNCTION tally_internal.reads_session_id(expression text) RETURNS boolean
  LANGUAGE c STABLE PARALLEL UNSAFE STRICT AS 'MODULE_PATHNAME', 'reads_session_id_wrapper';
COMMENT ON FUNCTION tally_internal.reads_session_id(text) IS 'whether an expression over an event reads the session id';

CREATE FUNCTION tally_internal.rollups_using(path text) RETURNS text[]
  LANGUAGE sql STABLE PARALLEL UNSAFE STRICT
  SET search_path = pg_catalog, pg_temp
  BEGIN ATOMIC
    SELECT coalesce(array_agg(DISTINCT e.rollup_name ORDER BY e.rollup_name), '{}')
      FROM (SELECT c.rollup_name, c.expression FROM tally.rollup_column AS c
             UNION ALL SELECT r.rollup_name, r.filter FROM tally.rollup AS r) AS e (rollup_name, expression)
     WHERE tally_internal.reads_property(e.expression, rollups_using.path);
  END;
COMMENT ON FUNCTION tally_internal.rollups_using(text) IS 'declared rollups with an expression that reads what is at a path of the properties, or something that it is in, or that is in it';

CREATE FUNCTION tally_internal.lock_rollups() RETURNS void
  LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE STRICT
  SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  LOCK TABLE tally.rollup IN ROW EXCLUSIVE MODE;
END
$$;
COMMENT ON FUNCTION tally_internal.lock_rollups() IS
  'waits for the rollups that other sessions are declaring or altering, and has them wait until the transaction ends; whoever asks which of them read what is to be protected calls it first, and before any other lock';

CREATE FUNCTION tally_internal.protected_paths(tenant_id text, event_name text) RETURNS text[]
  LANGUAGE sql STABLE PARALLEL SAFE STRICT
  SET search_path = pg_catalog, pg_temp
  BEGIN ATOMIC
    SELECT ARRAY(SELECT DISTINCT p.path FROM tally.protection AS p
                  WHERE p.tenant_id IN ('', protected_paths.tenant_id) AND p.event_name IN ('', protected_paths.event_name) ORDER BY p.path);
  END;
COMMENT ON FUNCTION tally_internal.protected_paths(text, text) IS
  'what is protected of events of a name of a tenant; with an empty one of those about which nothing more is declared';

-- Of declarations for a tenant or an event, too: a mapping is for all of them.
CREATE FUNCTION tally_internal.exposures(format text, mapping text) RETURNS TABLE (tenant_id text, event_name text, path text, key text)
  LANGUAGE sql STABLE PARALLEL SAFE STRICT
  SET search_path = pg_catalog, pg_temp
  BEGIN ATOMIC
    SELECT p.tenant_id, p.event_name, p.path, e.key
      FROM tally.protection AS p
      CROSS JOIN LATERAL (SELECT tally_internal.mapping_exposes(exposures.format, exposures.mapping, p.path,
                                                                tally_internal.protected_paths(p.tenant_id, p.event_name))) AS e (key)
     WHERE e.key IS NOT NULL
     ORDER BY p.path, p.tenant_id, p.event_name;
  END;
COMMENT ON FUNCTION tally_internal.exposures(text, text) IS 'declarations of tally.protect_property() and its kin that a mapping would go round, and by which of its keys';

CREATE FUNCTION tally_internal.refuse_copied(path text, mapping_name text, key text) RETURNS void
  LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE STRICT
  SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  RAISE EXCEPTION USING ERRCODE = 'dependent_objects_still_exist',
    MESSAGE = format('%s is copied by mapping "%s" (%s)', CASE refuse_copied.path WHEN '' THEN 'the user id' ELSE format('property "%s"', refuse_copied.path) END,
                     refuse_copied.mapping_name, refuse_copied.key),
    DETAIL = 'events of payloads would have it in clear there',
    HINT = 'declare the next version of the mapping without that with tally.define_mapping(), or protect the place that it is copied to first';
END
$$;
COMMENT ON FUNCTION tally_internal.refuse_copied(text, text, text) IS 'the error where a mapping in force copies what is protected to where it isn''t; with a null argument nothing';

CREATE FUNCTION tally_internal.refuse_exposed(tenant_id text, event_name text, path text) RETURNS void
  LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE STRICT
  SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  protected text[] := tally_internal.protected_paths(refuse_exposed.tenant_id, refuse_exposed.event_name);
  copier    record;
BEGIN
  SELECT m.mapping_name, e.key INTO copier
    FROM tally_internal.mappings_in_force() AS m
    CROSS JOIN LATERAL (SELECT tally_internal.mapping_exposes(m.format, m.definition::text, refuse_exposed.path, protected)) AS e (key)
   WHERE e.key IS NOT NULL ORDER BY m.mapping_name LIMIT 1;
  PERFORM tally_internal.refuse_copied(refuse_exposed.path, copier.mapping_name, copier.key);
END
$$;
COMMENT ON FUNCTION tally_internal.refuse_exposed(text, text, text) IS 'part of tally.protect_property() and its kin: an error where a mapping in force copies what is declared';

CREATE FUNCTION tally_internal.refuse_opened(tenant_id text, event_name text, path text) RETURNS void
  LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE STRICT
  SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  name   text := CASE WHEN refuse_opened.path <> '' THEN (tally_internal.path_steps(refuse_opened.path))[1] END;
  opened record;
BEGIN
  -- Each declaration that counts for the same events as the one that is taken back, where the fewest others do.
  SELECT l.path, m.mapping_name, e.key INTO opened
    FROM (SELECT DISTINCT p.path, tally_internal.protected_paths(coalesce(nullif(p.tenant_id, ''), refuse_opened.tenant_id),
                                                                 coalesce(nullif(p.event_name, ''), refuse_opened.event_name)) AS protected
            FROM tally.protection AS p
           WHERE (refuse_opened.tenant_id = '' OR p.tenant_id IN ('', refuse_opened.tenant_id))
             AND (refuse_opened.event_name = '' OR p.event_name IN ('', refuse_opened.event_name))) AS l
    -- Other mappings put nothing there.
    JOIN tally_internal.mappings_in_force() AS m ON m.definition ? 'user' OR m.definition -> 'properties' ? name
    CROSS JOIN LATERAL (SELECT tally_internal.mapping_exposes(m.format, m.definition::text, l.path, l.protected, refuse_opened.path)) AS e (key)
   WHERE e.key IS NOT NULL ORDER BY l.path, m.mapping_name LIMIT 1;
  PERFORM tally_internal.refuse_copied(opened.path, opened.mapping_name, opened.key);
END
$$;
COMMENT ON FUNCTION tally_internal.refuse_opened(text, text, text) IS
  'part of tally.unprotect_property() and its kin: an error where a mapping in force copies something protected to what is declared no longer, and only that kept it from sight';

CREATE FUNCTION tally_internal.take_protection_back(tenant_id text, event_name text, path text) RETURNS boolean
  LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE STRICT
  SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  PERFORM tally_internal.lock_mappings();
  IF NOT tally_internal.write_protection(take_protection_back.tenant_id, take_protection_back.event_name, take_protection_back.path, NULL) THEN
    RETURN false;
  END IF;
  PERFORM tally_internal.refuse_opened(take_protection_back.tenant_id, take_protection_back.event_name, take_protection_back.path);
  RETURN true;
END
$$;
COMMENT ON FUNCTION tally_internal.take_protection_back(text, text, text) IS 'part of tally.unprotect_property() and its kin';

CREATE FUNCTION tally.protect_property(event text, path text, treatment text, tenant_id text DEFAULT NULL) RETURNS boolean
  LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE CALLED ON NULL INPUT SECURITY DEFINER
  SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  pointer text;
  used_by text[];
BEGIN
  PERFORM tally_internal.check_protection(protect_property.event, protect_property.path, protect_property.treatment, protect_property.tenant_id);
  pointer := tally_internal.property_path(protect_property.path);
  -- The properties themselves are no array: the first step is the name of a key.
  IF pointer ~ '^/.*/[0-9]+(/|$)' THEN
    RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = format('path "%s" has a number for a step', protect_property.path),
      HINT = 'leave out places in arrays: each element is meant';
  END IF;
  PERFORM tally_internal.lock_rollups();
  used_by := tally_internal.rollups_using(pointer);
  IF cardinality(used_by) > 0 THEN
    RAISE EXCEPTION USING ERRCODE = 'dependent_objects_still_exist',
      MESSAGE = format('property "%s" is used by rollup %s', protect_property.path, array_to_string(used_by, ', ')),
      DETAIL = 'an expression of it reads this property, or all of them; it would meet tokens, or nothing, in the value''s place',
      HINT = 'drop the rollup, or declare it without the property, with tally.alter_rollup()';
  END IF;
  RETURN tally_internal.declare_protection(coalesce(protect_property.tenant_id, ''), coalesce(protect_property.event, ''), pointer, protect_property.treatment);
END
$$;
COMMENT ON FUNCTION tally.protect_property(text, text, text, text) IS
  'has a property of events of a name, or with a null name of every event, dropped, tokenised or sealed before it is stored, for a tenant or with a null tenant for all, also in quarantine; what is stored already follows in steps of tally.maintain(). Returns whether that is new. path is a key or a JSON Pointer';

CREATE FUNCTION tally_internal.declare_protection(tenant_id text, event_name text, path text, treatment text) RETURNS boolean
  LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE STRICT
  SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  is_changed boolean;
BEGIN
  PERFORM tally_internal.lock_mappings();
  -- By what was in force for these events, also those of a name for which something is declared for all tenants: one for the tenant goes before
  -- that, and one for the event before one for every event. Of what was dropped nothing is left anywhere.
  is_changed := EXISTS (
    SELECT FROM (SELECT declare_protection.event_name
                  UNION SELECT o.event_name FROM tally.protection AS o
                         WHERE declare_protection.event_name = '' AND o.tenant_id = '' AND o.path = declare_protection.path
                           AND NOT EXISTS (SELECT FROM tally.protection AS p
                                            WHERE p.tenant_id = declare_protection.tenant_id AND p.event_name = o.event_name AND p.path = declare_protection.path)) AS e (name)
      LEFT JOIN LATERAL (SELECT p.treatment FROM tally.protection AS p
                          WHERE p.tenant_id IN (declare_protection.tenant_id, '') AND p.event_name IN (e.name, '') AND p.path = declare_protection.path
                          ORDER BY p.tenant_id DESC, p.event_name DESC LIMIT 1) AS f ON true
     WHERE coalesce(f.treatment, '') NOT IN ('drop', declare_protection.treatment));
  IF NOT tally_internal.write_protection(declare_protection.tenant_id, declare_protection.event_name, declare_protection.path, declare_protection.treatment) THEN
    RETURN false;
  END IF;
  PERFORM tally_internal.refuse_exposed(declare_protection.tenant_id, declare_protection.event_name, declare_protection.path);
  PERFORM tally_internal.start_renewal(declare_protection.tenant_id, CASE WHEN is_changed THEN ARRAY[declare_protection.path] ELSE '{}'::text[] END);
  RETURN true;
END
$$;
COMMENT ON FUNCTION tally_internal.declare_protection(text, text, text, text) IS 'part of tally.protect_property() and its kin';

CREATE FUNCTION tally_internal.start_renewal(tenant_id text, changed text[]) RETURNS void
  LANGUAGE c VOLATILE PARALLEL UNSAFE STRICT AS 'MODULE_PATHNAME', 'start_renewal_wrapper';
COMMENT ON FUNCTION tally_internal.start_renewal(text, text[]) IS 'tally_internal.request_renewal(), whatever the caller''s scope';

CREATE FUNCTION tally.unprotect_property(event text, path text, tenant_id text DEFAULT NULL) RETURNS boolean
  LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE CALLED ON NULL INPUT SECURITY DEFINER
  SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  PERFORM tally_internal.check_protection(unprotect_property.event, unprotect_property.path, 'drop', unprotect_property.tenant_id);
  PERFORM tally_internal.require_step_up('unprotect');
  RETURN tally_internal.take_protection_back(coalesce(unprotect_property.tenant_id, ''), coalesce(unprotect_property.event, ''),
                                             tally_internal.property_path(unprotect_property.path));
END
$$;
COMMENT ON FUNCTION tally.unprotect_property(text, text, text) IS
  'takes a declaration of tally.protect_property() back, for events to come; what is stored stays as it is. Returns whether there was one';

CREATE FUNCTION tally.protect_user_ids(treatment text DEFAULT 'token', tenant_id text DEFAULT NULL) RETURNS boolean
  LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE CALLED ON NULL INPUT SECURITY DEFINER
  SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  PERFORM tally_internal.check_protection(NULL, 'user_id', protect_user_ids.treatment, protect_user_ids.tenant_id);
  IF protect_user_ids.treatment = 'seal' THEN
    RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = 'user ids can''t be sealed',
      DETAIL = 'no two sealed values are alike, so that no two events would be of the same user',
      HINT = 'treatments of user ids are token and drop; send the id as a property, too, and seal that, where it must be read again';
  END IF;
  RETURN tally_internal.declare_protection(coalesce(protect_user_ids.tenant_id, ''), '', '', protect_user_ids.treatment);
END
$$;
COMMENT ON FUNCTION tally.protect_user_ids(text, text) IS
  'has the user ids of a tenant''s events, or with a null tenant of all, tokenised or dropped before they are stored; what is stored already follows in steps of tally.maintain(). Returns whether that is new';

CREATE FUNCTION tally.unprotect_user_ids(tenant_id text DEFAULT NULL) RETURNS boolean
  LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE CALLED ON NULL INPUT SECURITY DEFINER
  SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  PERFORM tally_internal.check_protection(NULL, 'user_id', 'drop', unprotect_user_ids.tenant_id);
  PERFORM tally_internal.require_step_up('unprotect');
  RETURN tally_internal.take_protection_back(coalesce(unprotect_user_ids.tenant_id, ''), '', '');
END
$$;
COMMENT ON FUNCTION tally.unprotect_user_ids(text) IS
  'takes a declaration of tally.protect_user_ids() back, for events to come: a user is somebody else from then on. Returns whether there was one';

CREATE FUNCTION tally.preview_protection(event text, path text) RETURNS TABLE (tenant_id text, name text, events int8)
  LANGUAGE plpgsql STABLE PARALLEL SAFE CALLED ON NULL INPUT
  SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  -- Lax: arrays on the way are passed through, as they are when it is done.
  way jsonpath := (SELECT ('$' || string_agg('.' || to_json(s.step)::text, '' ORDER BY s.place))::jsonpath
                     FROM unnest(tally_internal.path_steps(preview_protection.path)) WITH ORDINALITY AS s (step, place));
BEGIN
  RETURN QUERY
    SELECT e.tenant_id, e.name, count(*) FROM tally.events AS e
     WHERE (preview_protection.event IS NULL OR e.name = preview_protection.event)
       AND CASE WHEN way IS NULL THEN e.user_id IS NOT NULL ELSE jsonb_path_exists(e.properties, way) END
     GROUP BY 1, 2 ORDER BY 1, 2;
END
$$;
COMMENT ON FUNCTION tally.preview_protection(text, text) IS
  'how many stored events of the scope a declaration of tally.protect_property() would change, by tenant and name; with a null path, of tally.protect_user_ids(). Shows no values';

-- A schema may mark properties: "x-personal": "drop", "token" or "seal"; true is token.
CREATE FUNCTION tally_internal.personal_properties(schema jsonb, pointer text DEFAULT '') RETURNS TABLE (path text, treatment text)
  LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE STRICT
  SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  key   text;
  inner_schema jsonb;
BEGIN
  IF jsonb_typeof(schema) <> 'object' OR length(pointer) > 2000 THEN
    RETURN;
  END IF;
  IF jsonb_typeof(schema -> 'items') = 'object' THEN
    IF schema -> 'items' -> 'x-personal' IN ('true'::jsonb, '"drop"', '"token"', '"seal"') AND pointer <> '' THEN
      path := pointer;
      treatment := CASE WHEN schema -> 'items' -> 'x-personal' = 'true'::jsonb THEN 'token' ELSE schema -> 'items' ->> 'x-personal' END;
      RETURN NEXT;
      RETURN;
    END IF;
    RETURN QUERY SELECT p.path, p.treatment FROM tally_internal.personal_properties(schema -> 'items', pointer) AS p;
  END IF;
  IF jsonb_typeof(schema -> 'properties') <> 'object' THEN
    RETURN;
  END IF;
  FOR key, inner_schema IN SELECT e.key, e.value FROM jsonb_each(schema -> 'properties') AS e LOOP
    path := pointer || '/' || replace(replace(key, '~', '~0'), '/', '~1');
    IF inner_schema -> 'x-personal' IN ('true'::jsonb, '"drop"', '"token"', '"seal"') THEN
      treatment := CASE WHEN inner_schema -> 'x-personal' = 'true'::jsonb THEN 'token' ELSE inner_schema ->> 'x-personal' END;
      RETURN NEXT;
    ELSE
      RETURN QUERY SELECT p.path, p.treatment FROM tally_internal.personal_properties(inner_schema, path) AS p;
    END IF;
  END LOOP;
END
$$;
COMMENT ON FUNCTION tally_internal.personal_properties(jsonb, text) IS
  'the properties that a schema marks with x-personal, and what is to be done to them';

CREATE FUNCTION tally_internal.protect_marked(name text, schema jsonb) RETURNS void
  LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE STRICT
  SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  marked  record;
  used_by text[];
BEGIN
  IF (SELECT count(*) FROM jsonb_path_query(schema, 'strict $.** ? (exists(@."x-personal"))'))
     - (SELECT count(*) FROM jsonb_path_query(schema, 'strict $.** ? (@."x-personal" == false)'))
     <> (SELECT count(*) FROM tally_internal.personal_properties(schema)) THEN
    RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = format('x-personal stands in the schema of "%s" where, or with what, it is not understood', name),
      HINT = 'it is true, "drop", "token" or "seal", of a property in "properties", also of those of an object or of the items of an array; for other places call tally.protect_property()';
  END IF;
  -- What a reference leads to is there, too, where no mark is found.
  IF jsonb_path_exists(schema, 'strict $.** ? (@."x-personal" == true || @."x-personal".type() == "string")') AND EXISTS (
      SELECT FROM jsonb_path_query(schema, 'strict $.** ? (@.type() == "object").keyvalue() ? (@.key starts with "$" && @.key like_regex "Ref$" || @.key == "$ref").value ? (@.type() == "string")') AS r (target)
       CROSS JOIN LATERAL (SELECT r.target #>> '{}' AS place) AS t
       WHERE t.place !~ '^#(/[^%~]*)?$'
          OR jsonb_path_exists(schema #> CASE WHEN t.place = '#' THEN '{}' ELSE string_to_array(substr(t.place, 3), '/') END,
                               'strict $.** ? (@."x-personal" == true || @."x-personal".type() == "string")')) THEN
    RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = format('a reference in the schema of "%s" may lead to what is marked with x-personal', name),
      HINT = 'mark the property itself and write its schema out where it stands, or call tally.protect_property() for each place';
  END IF;
  FOR marked IN SELECT p.path, p.treatment FROM tally_internal.personal_properties(schema) AS p
                 -- What an administrator declared stays.
                 WHERE NOT EXISTS (SELECT FROM tally.protection AS d WHERE d.tenant_id = '' AND d.event_name = name AND d.path = p.path) LOOP
    used_by := tally_internal.rollups_using(marked.path);
    IF cardinality(used_by) > 0 THEN
      RAISE EXCEPTION USING ERRCODE = 'dependent_objects_still_exist',
        MESSAGE = format('property "%s" is used by rollup %s', marked.path, array_to_string(used_by, ', ')),
        HINT = 'drop the rollup, declare it without the property, or leave out x-personal';
    END IF;
    PERFORM tally_internal.declare_protection('', name, marked.path, marked.treatment);
  END LOOP;
END
$$;
COMMENT ON FUNCTION tally_internal.protect_marked(text, jsonb) IS 'part of tally.register_event(): protects what a schema marks as personal, for all tenants';

CREATE FUNCTION tally_internal.sensitive_privacy(OUT act text, OUT description text, OUT held_by name) RETURNS SETOF record
  LANGUAGE sql IMMUTABLE PARALLEL SAFE STRICT
  SET search_path = pg_catalog, pg_temp
  BEGIN ATOMIC
    SELECT v.* FROM (VALUES
      ('unprotect', 'taking the protection of properties or user ids back', 'tally_admin'::name),
      ('reveal', 'revealing a sealed value or a quarantined event', 'tally_custodian')
    ) AS v (act, description, held_by);
  END;
COMMENT ON FUNCTION tally_internal.sensitive_privacy() IS 'acts that may need a second factor: of personal data';

ALTER FUNCTION tally.protect_property(text, text, text, text) OWNER TO tally_owner;
ALTER FUNCTION tally.unprotect_property(text, text, text) OWNER TO tally_owner;
ALTER FUNCTION tally.protect_user_ids(text, text) OWNER TO tally_owner;
ALTER FUNCTION tally.unprotect_user_ids(text) OWNER TO tally_owner;
REVOKE ALL ON FUNCTION tally_internal.property_path(text), tally_internal.path_steps(text), tally_internal.write_protection(text, text, text, text),
  tally_internal.request_renewal(text, text[]), tally_internal.start_renewal(text, text[]), tally_internal.check_protection(text, text, text, text),
  tally_internal.lock_rollups(), tally_internal.rollups_using(text), tally_internal.reads_property(text, text), tally_internal.reads_user_id(text), tally_internal.reads_session_id(text),
  tally_internal.protected_paths(text, text), tally_internal.exposures(text, text), tally_internal.refuse_copied(text, text, text),
  tally_internal.refuse_exposed(text, text, text), tally_internal.refuse_opened(text, text, text), tally_internal.take_protection_back(text, text, text),
  tally_internal.declare_protection(text, text, text, text), tally.protect_property(text, text, text, text),
  tally.unprotect_property(text, text, text), tally.protect_user_ids(text, text), tally.unprotect_user_ids(text), tally.preview_protection(text, text),
  tally_internal.personal_properties(jsonb, text), tally_internal.protect_marked(text, jsonb), tally_internal.sensitive_privacy() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tally_internal.path_steps(text) TO tally_owner, tally_reader;
GRANT EXECUTE ON FUNCTION tally_internal.property_path(text), tally_internal.write_protection(text, text, text, text), tally_internal.request_renewal(text, text[]),
  tally_internal.start_renewal(text, text[]), tally_internal.check_protection(text, text, text, text), tally_internal.lock_rollups(), tally_internal.rollups_using(text),
  tally_internal.reads_property(text, text), tally_internal.reads_user_id(text), tally_internal.reads_session_id(text), tally_internal.protected_paths(text, text),
  tally_internal.exposures(text, text), tally_internal.refuse_copied(text, text, text),
  tally_internal.refuse_exposed(text, text, text), tally_internal.refuse_opened(text, text, text), tally_internal.take_protection_back(text, text, text),
  tally_internal.declare_protection(text, text, text, text), tally_internal.personal_properties(jsonb, text), tally_internal.protect_marked(text, jsonb) TO tally_owner;
GRANT EXECUTE ON FUNCTION tally_internal.sensitive_privacy() TO tally_owner, tally_security, tally_reader, tally_writer, tally_admin, tally_auditor;
GRANT EXECUTE ON FUNCTION tally.protect_property(text, text, text, text), tally.unprotect_property(text, text, text),
  tally.protect_user_ids(text, text), tally.unprotect_user_ids(text) TO tally_admin;
GRANT EXECUTE ON FUNCTION tally.preview_protection(text, text) TO tally_reader;
