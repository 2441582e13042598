-- What nouns keep of a subject besides events and rollups: each adds a function forget_NAME (sql/extension/register.sql).

-- Whoever sends may fill a quarantine, and each text is read, and opened, once: before ingest is locked out, and then those that came since.
CREATE FUNCTION tally_internal.seek_quarantine(tenant_id text, subjects text[], sought jsonb) RETURNS jsonb
  LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE STRICT
  SET search_path = pg_catalog, pg_temp
  SET plan_cache_mode = force_custom_plan -- looks a key up by its hash only where it knows the others
AS $$
DECLARE
  -- What transactions wrote that had ended by then was there. Of the others' rows, those that were there are known by their keys.
  since     xid := (sought ->> 'since')::xid8::xid;
  seen      text[] := ARRAY(SELECT jsonb_array_elements_text(sought -> 'seen'));
  from_now  xid8 := pg_snapshot_xmin(pg_current_snapshot());
  rows      jsonb[] := ARRAY(SELECT jsonb_array_elements(sought -> 'rows'));
  event     record;
  named     text[];
  is_theirs boolean;
BEGIN
  FOR event IN
    SELECT q.*, tally_internal.readable_quarantined(q.tenant_id, q.batch_id, q."position", q.body) AS text
      FROM (SELECT q.tenant_id, q.batch_id, q."position", q.body, concat_ws(' ', q.tenant_id = '', q.batch_id, q."position") AS key, age(q.xmin) <= age(from_now::xid) AS is_new
              FROM tally.quarantine AS q
             WHERE q.tenant_id IN (seek_quarantine.tenant_id, '') AND (since IS NULL OR age(q.xmin) <= age(since))) AS q
     WHERE q.key <> ALL (seen)
  LOOP
    named := tally_internal.named(event.text, 'user_id', subjects);
    IF named <> '{}' THEN
      is_theirs := event.tenant_id <> '' OR tally_internal.names(event.text, 'tenant_id', ARRAY[seek_quarantine.tenant_id]);
      rows := rows || jsonb_build_object('tenant_id', event.tenant_id, 'batch_id', event.batch_id, 'place', event."position", 'is_theirs', is_theirs, 'named', named);
    END IF;
    -- Of more than so many each is read again.
    IF event.is_new AND cardinality(seen) < 500000 THEN
      seen := seen || event.key;
    END IF;
  END LOOP;
  RETURN jsonb_build_object('since', from_now::text, 'seen', seen, 'rows', rows);
END
$$;
COMMENT ON FUNCTION tally_internal.seek_quarantine(text, text[], jsonb) IS
  'part of an erasure: the quarantined events that name one of the subjects as their user, in the tenant''s own quarantine or with it in nobody''s; with what was found before, those that came since, too';

CREATE FUNCTION tally_internal.pin_quarantine(sought jsonb) RETURNS void
  LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE STRICT
  SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  PERFORM FROM tally.quarantine AS q JOIN jsonb_to_recordset(sought -> 'rows') AS r (tenant_id text, batch_id int8, place int4, is_theirs boolean)
    ON q.tenant_id = r.tenant_id AND q.batch_id = r.batch_id AND q."position" = r.place
   WHERE r.is_theirs ORDER BY q.tenant_id, q.batch_id, q."position" FOR UPDATE OF q;
END
$$;
COMMENT ON FUNCTION tally_internal.pin_quarantine(jsonb) IS 'part of an erasure: locks the quarantined events that were found';

CREATE FUNCTION tally_internal.forget_quarantine(tenant_id text, subjects text[], sought jsonb) RETURNS int8
  LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE STRICT
  SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  gone int8;
BEGIN
  DELETE FROM tally.quarantine AS q USING jsonb_to_recordset(sought -> 'rows') AS r (tenant_id text, batch_id int8, place int4, is_theirs boolean)
   WHERE r.is_theirs AND q.tenant_id = r.tenant_id AND q.batch_id = r.batch_id AND q."position" = r.place;
  GET DIAGNOSTICS gone = ROW_COUNT;
  IF gone > 0 THEN
    INSERT INTO tally.quarantine_discard (discarded_at, events, tenant_id, role_name, reason)
    VALUES (now(), gone, forget_quarantine.tenant_id, session_user, 'erasure');
  END IF;
  RETURN gone;
END
$$;
COMMENT ON FUNCTION tally_internal.forget_quarantine(text, text[], jsonb) IS 'part of an erasure: removes the quarantined events that were found';

CREATE FUNCTION tally_internal.forget_batches(tenant_id text, subjects text[], sought jsonb) RETURNS int8
  LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE STRICT
  SET search_path = pg_catalog, pg_temp
  SET plan_cache_mode = force_custom_plan -- of a list that it knows it looks a key up by its hash
AS $$
DECLARE
  gone int8;
BEGIN
  UPDATE tally.ingest_batch AS b
     SET source = CASE WHEN b.source = ANY (subjects) THEN NULL ELSE b.source END,
         client = CASE WHEN b.client = ANY (subjects) THEN NULL ELSE b.client END
   WHERE b.tenant_id = forget_batches.tenant_id AND (b.source = ANY (subjects) OR b.client = ANY (subjects));
  GET DIAGNOSTICS gone = ROW_COUNT;
  RETURN gone;
END
$$;
COMMENT ON FUNCTION tally_internal.forget_batches(text, text[], jsonb) IS 'part of an erasure: takes the name of a subject from batches that it is the source or client of';

CREATE FUNCTION tally_internal.is_content_naming(content text, subjects text[]) RETURNS boolean
  LANGUAGE sql IMMUTABLE PARALLEL SAFE STRICT
  SET search_path = pg_catalog, pg_temp
  BEGIN ATOMIC
    SELECT EXISTS (SELECT FROM jsonb_path_query(content::jsonb, '$.** ? (@.type() == "string")') AS v (text) WHERE v.text #>> '{}' = ANY (subjects));
  END;
COMMENT ON FUNCTION tally_internal.is_content_naming(text, text[]) IS 'whether the personal part of an audit entry names one of the subjects';

CREATE FUNCTION tally_internal.seek_audit(tenant_id text, subjects text[], sought jsonb) RETURNS jsonb
  LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE STRICT
  SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  IF sought <> '{}' THEN
    RETURN sought;
  END IF;
  RETURN (SELECT jsonb_build_object(
            'entries', coalesce(jsonb_agg(p.entry_id) FILTER (WHERE tally_internal.is_content_naming((p.content::jsonb - '{purpose,reason}'::text[])::text, subjects)), '[]'),
            'acting', coalesce(jsonb_agg(DISTINCT p.content::jsonb ->> 'subject') FILTER (WHERE p.content::jsonb ->> 'subject' = ANY (subjects)), '[]'))
            FROM tally.audit_personal AS p WHERE p.tenant_id = seek_audit.tenant_id);
END
$$;
COMMENT ON FUNCTION tally_internal.seek_audit(text, text[], jsonb) IS
  'part of an erasure: audit entries whose personal parts name one of the subjects, but in the words of a purpose or a reason; and which of them acted, as a token said';

CREATE FUNCTION tally_internal.forget_audit(tenant_id text, subjects text[], sought jsonb) RETURNS int8
  LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE STRICT
  SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  RETURN tally_internal.erase_audit_personal(forget_audit.tenant_id, ARRAY(SELECT jsonb_array_elements_text(sought -> 'entries')::uuid));
END
$$;
COMMENT ON FUNCTION tally_internal.forget_audit(text, text[], jsonb) IS 'part of an erasure: erases the personal parts of the audit entries that were found';

-- By what they have, whatever they are called: every column of the events' table. No table of a rollup has, since none of its columns is jsonb.
CREATE FUNCTION tally_internal.detached_months() RETURNS SETOF name
  LANGUAGE sql STABLE PARALLEL SAFE STRICT
  SET search_path = pg_catalog, pg_temp
AS $$
  SELECT c.relname FROM pg_class AS c
   WHERE c.relnamespace = 'tally'::regnamespace AND c.relkind IN ('r', 'p') AND c.relowner = 'tally_owner'::regrole
     AND NOT c.relispartition AND c.oid <> 'tally.events'::regclass
     AND NOT EXISTS (SELECT FROM (VALUES ('tenant_id', 'text'::regtype), ('account_id', 'text'::regtype), ('user_id', 'text'::regtype), ('event_id', 'uuid'::regtype),
                                         ('occurred_at', 'timestamptz'::regtype), ('properties', 'jsonb'::regtype)) AS own (attname, atttypid)
                      WHERE NOT EXISTS (SELECT FROM pg_attribute AS a WHERE a.attrelid = c.oid AND a.attname = own.attname AND a.atttypid = own.atttypid AND NOT a.attisdropped))
   ORDER BY 1
$$;
COMMENT ON FUNCTION tally_internal.detached_months() IS 'months that were detached and are still there';

-- Asked when their events are removed and before the rest is.
CREATE FUNCTION tally_internal.known_subjects(tenant_id text, subjects text[], sent text[], sought jsonb) RETURNS text[]
  LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE STRICT
  SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  known text[];
BEGIN
  known := ARRAY(
    SELECT x.subject FROM tally.erasure AS x
     WHERE x.tenant_id = known_subjects.tenant_id AND x.subject = ANY (known_subjects.sent)
       AND (x.events > 0 OR x.anonymous_events > 0 OR x.detached_events > 0 OR x.first_at IS NOT NULL));
  known := known || ARRAY(
    SELECT s.sent FROM unnest(subjects, known_subjects.sent) AS s (stored, sent)
     WHERE s.stored IN (SELECT jsonb_array_elements_text(sought #> '{audit,acting}')
                         UNION SELECT jsonb_array_elements_text(r.event -> 'named') FROM jsonb_array_elements(sought #> '{quarantine,rows}') AS r (event)));
  RETURN ARRAY(SELECT s.stored FROM unnest(subjects, known_subjects.sent) AS s (stored, sent) WHERE s.sent = ANY (known));
END
$$;
COMMENT ON FUNCTION tally_internal.known_subjects(text, text[], text[], jsonb) IS
  'part of an erasure: those of the subjects, by the ids under which they are stored, each with the id as sent, that are known to have been users: by events, activity, the quarantine or tokens';

REVOKE ALL ON FUNCTION tally_internal.known_subjects(text, text[], text[], jsonb), tally_internal.seek_quarantine(text, text[], jsonb), tally_internal.pin_quarantine(jsonb), tally_internal.forget_quarantine(text, text[], jsonb), tally_internal.seek_audit(text, text[], jsonb), tally_internal.forget_batches(text, text[], jsonb), tally_internal.is_content_naming(text, text[]),
  tally_internal.forget_audit(text, text[], jsonb), tally_internal.detached_months() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tally_internal.known_subjects(text, text[], text[], jsonb), tally_internal.seek_quarantine(text, text[], jsonb), tally_internal.pin_quarantine(jsonb), tally_internal.forget_quarantine(text, text[], jsonb), tally_internal.seek_audit(text, text[], jsonb), tally_internal.forget_batches(text, text[], jsonb), tally_internal.is_content_naming(text, text[]),
  tally_internal.forget_audit(text, text[], jsonb), tally_internal.detached_months() TO tally_owner;
