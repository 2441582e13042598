-- What nouns keep of a subject besides events and rollups: each adds a function forget_NAME (sql/extension/register.sql).

CREATE FUNCTION tally_internal.forget_quarantine(tenant_id text, subjects text[]) RETURNS int8
  LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE STRICT
  SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  gone int8;
BEGIN
  DELETE FROM tally.quarantine AS q
   WHERE (q.tenant_id = forget_quarantine.tenant_id
          OR (q.tenant_id = '' AND tally_internal.names(tally_internal.readable_quarantined(q.tenant_id, q.batch_id, q."position", q.body), 'tenant_id', ARRAY[forget_quarantine.tenant_id])))
     AND tally_internal.names(tally_internal.readable_quarantined(q.tenant_id, q.batch_id, q."position", q.body), 'user_id', subjects);
  GET DIAGNOSTICS gone = ROW_COUNT;
  IF gone > 0 THEN
    INSERT INTO tally.quarantine_discard (discarded_at, events, tenant_id, role_name, reason)
    VALUES (now(), gone, forget_quarantine.tenant_id, session_user, 'erasure');
  END IF;
  RETURN gone;
END
$$;
COMMENT ON FUNCTION tally_internal.forget_quarantine(text, text[]) IS 'part of an erasure: removes quarantined events that name one of the subjects as their user';

CREATE FUNCTION tally_internal.forget_batches(tenant_id text, subjects text[]) RETURNS int8
  LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE STRICT
  SET search_path = pg_catalog, pg_temp
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
COMMENT ON FUNCTION tally_internal.forget_batches(text, text[]) IS 'part of an erasure: takes the name of a subject from batches that it is the source or client of';

CREATE FUNCTION tally_internal.is_content_naming(content text, subjects text[]) RETURNS boolean
  LANGUAGE sql IMMUTABLE PARALLEL SAFE STRICT
  SET search_path = pg_catalog, pg_temp
  BEGIN ATOMIC
    SELECT EXISTS (SELECT FROM jsonb_path_query(content::jsonb, '$.** ? (@.type() == "string")') AS v (text) WHERE v.text #>> '{}' = ANY (subjects));
  END;
COMMENT ON FUNCTION tally_internal.is_content_naming(text, text[]) IS 'whether the personal part of an audit entry names one of the subjects';

CREATE FUNCTION tally_internal.forget_audit(tenant_id text, subjects text[]) RETURNS int8
  LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE STRICT
  SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  RETURN tally_internal.erase_audit_personal(forget_audit.tenant_id, ARRAY(
    SELECT p.entry_id FROM tally.audit_personal AS p
     WHERE p.tenant_id = forget_audit.tenant_id AND tally_internal.is_content_naming((p.content::jsonb - '{purpose,reason}'::text[])::text, subjects)));
END
$$;
COMMENT ON FUNCTION tally_internal.forget_audit(text, text[]) IS 'part of an erasure: erases the personal parts of audit entries that name one of the subjects, but in the words of a purpose or a reason';

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
CREATE FUNCTION tally_internal.known_subjects(tenant_id text, subjects text[], sent text[]) RETURNS text[]
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
    SELECT s.sent FROM tally.audit_personal AS p JOIN unnest(subjects, known_subjects.sent) AS s (stored, sent) ON s.stored = p.content::jsonb ->> 'subject'
     WHERE p.tenant_id = known_subjects.tenant_id);
  known := known || ARRAY(
    SELECT s.sent
      FROM (SELECT tally_internal.readable_quarantined(q.tenant_id, q.batch_id, q."position", q.body) AS body FROM tally.quarantine AS q
             WHERE q.tenant_id IN (known_subjects.tenant_id, '') OFFSET 0) AS q
      JOIN unnest(subjects, known_subjects.sent) AS s (stored, sent) ON tally_internal.names(q.body, 'user_id', ARRAY[s.stored])
     WHERE tally_internal.names(q.body, 'user_id', subjects));
  RETURN ARRAY(SELECT s.stored FROM unnest(subjects, known_subjects.sent) AS s (stored, sent) WHERE s.sent = ANY (known));
END
$$;
COMMENT ON FUNCTION tally_internal.known_subjects(text, text[], text[]) IS
  'part of an erasure: those of the subjects, by the ids under which they are stored, each with the id as sent, that are known to have been users: by events, activity, the quarantine or tokens';

REVOKE ALL ON FUNCTION tally_internal.known_subjects(text, text[], text[]), tally_internal.forget_quarantine(text, text[]), tally_internal.forget_batches(text, text[]), tally_internal.is_content_naming(text, text[]),
  tally_internal.forget_audit(text, text[]), tally_internal.detached_months() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tally_internal.known_subjects(text, text[], text[]), tally_internal.forget_quarantine(text, text[]), tally_internal.forget_batches(text, text[]), tally_internal.is_content_naming(text, text[]),
  tally_internal.forget_audit(text, text[]), tally_internal.detached_months() TO tally_owner;
