-- Erasure: what is left of a person once its events are removed everywhere (src/erasure). Who was erased is known by a hash alone.

CREATE TABLE tally.erasure_key (
  tenant_id text COLLATE "C" NOT NULL CONSTRAINT erasure_key_pkey PRIMARY KEY,
  hash_key  bytea NOT NULL,
  CONSTRAINT erasure_key_is_256_bits CHECK (octet_length(hash_key) = 32)
);
COMMENT ON TABLE tally.erasure_key IS 'one row for each tenant that has erased somebody';
COMMENT ON COLUMN tally.erasure_key.tenant_id IS 'the tenant';
COMMENT ON COLUMN tally.erasure_key.hash_key IS 'secret key under which its erased subjects are hashed, so that their hashes can''t be tried out';
CREATE TRIGGER erasure_key_changed AFTER INSERT OR UPDATE OR DELETE ON tally.erasure_key
  FOR EACH ROW EXECUTE FUNCTION tally_internal.forget();
CREATE TRIGGER erasure_key_emptied AFTER TRUNCATE ON tally.erasure_key
  FOR EACH STATEMENT EXECUTE FUNCTION tally_internal.forget();
ALTER TABLE tally.erasure_key ENABLE ALWAYS TRIGGER erasure_key_changed, ENABLE ALWAYS TRIGGER erasure_key_emptied;

CREATE TABLE tally.erasure (
  requested_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
  finished_at      timestamptz,
  first_at         timestamptz,
  last_at          timestamptz,
  events           int8 NOT NULL DEFAULT 0,
  anonymous_events int8 NOT NULL DEFAULT 0,
  detached_events  int8 NOT NULL DEFAULT 0,
  is_taken         boolean NOT NULL DEFAULT false,
  subject_hash     uuid NOT NULL,
  requested_role   regrole,
  tenant_id        text COLLATE "C" NOT NULL,
  requested_by     text COLLATE "C" NOT NULL,
  reason           text COLLATE "C" NOT NULL,
  subject          text COLLATE "C",
  certificate      jsonb,
  months_missing   timestamptz[] NOT NULL DEFAULT '{}',
  CONSTRAINT erasure_pkey PRIMARY KEY (tenant_id, subject_hash, requested_at),
  CONSTRAINT erasure_names_nobody_once_it_is_done CHECK ((subject IS NULL) = (finished_at IS NOT NULL)),
  CONSTRAINT erasure_is_certified CHECK ((certificate IS NULL) = (finished_at IS NULL))
);
CREATE UNIQUE INDEX erasure_waits_once ON tally.erasure (tenant_id, subject_hash) WHERE finished_at IS NULL;
COMMENT ON TABLE tally.erasure IS 'the subjects that were erased or are to be, one row for each time; events of theirs are refused from the moment on in which they are here';
COMMENT ON COLUMN tally.erasure.requested_at IS 'when it was asked for';
COMMENT ON COLUMN tally.erasure.finished_at IS 'when it was done; null while it waits for tally.maintain()';
COMMENT ON COLUMN tally.erasure.first_at IS 'time of the first event that the subject was known to have';
COMMENT ON COLUMN tally.erasure.last_at IS 'time of the last';
COMMENT ON COLUMN tally.erasure.events IS 'raw events of the subject that were removed';
COMMENT ON COLUMN tally.erasure.anonymous_events IS 'raw events without a user that were removed with its sessions; of several subjects that were erased together with the first of them';
COMMENT ON COLUMN tally.erasure.detached_events IS 'events that were removed from months that were detached, those without a user as above';
COMMENT ON COLUMN tally.erasure.is_taken IS 'whether tally.maintain() is at it';
COMMENT ON COLUMN tally.erasure.subject_hash IS 'stands for the subject: half of its HMAC-SHA256 under the tenant''s key';
COMMENT ON COLUMN tally.erasure.requested_role IS 'where that is a role, its number: it stays the same when the role is renamed';
COMMENT ON COLUMN tally.erasure.tenant_id IS 'the tenant';
COMMENT ON COLUMN tally.erasure.requested_by IS 'who asked for it: the subject of the token, or the role that logged in; empty where that one was erased, too';
COMMENT ON COLUMN tally.erasure.reason IS 'why, in its words';
COMMENT ON COLUMN tally.erasure.subject IS 'the user id, until it is done';
COMMENT ON COLUMN tally.erasure.certificate IS 'what was removed, made anew, and left; its hash is in the audit log';
COMMENT ON COLUMN tally.erasure.months_missing IS 'starts of the months that the tenant had numbers of and whose events were elsewhere when the subject''s erasure was asked for last';

CREATE TABLE tally.erasure_run (
  started_at timestamptz NOT NULL DEFAULT now(),
  tenant_id  text COLLATE "C" NOT NULL CONSTRAINT erasure_run_pkey PRIMARY KEY,
  forgotten  jsonb,
  searched   text[] NOT NULL DEFAULT '{}',
  months_missing timestamptz[] NOT NULL DEFAULT '{}'
);
COMMENT ON TABLE tally.erasure_run IS 'how far tally.maintain() has come with the subjects of a tenant that it erases together';
COMMENT ON COLUMN tally.erasure_run.started_at IS 'when it began: every batch that had begun before had ended';
COMMENT ON COLUMN tally.erasure_run.tenant_id IS 'the tenant';
COMMENT ON COLUMN tally.erasure_run.forgotten IS 'rows of theirs that were removed elsewhere, once all months are done';
COMMENT ON COLUMN tally.erasure_run.searched IS 'the months that are done, by number and name of the table: one that was elsewhere is searched when it is attached meanwhile';
COMMENT ON COLUMN tally.erasure_run.months_missing IS 'starts of the months that were elsewhere when all others were done';

CREATE TABLE tally.erasure_unrenewed (
  month      timestamptz NOT NULL,
  tenant_id  text COLLATE "C" NOT NULL,
  account_id text COLLATE "C" NOT NULL,
  CONSTRAINT erasure_unrenewed_pkey PRIMARY KEY (tenant_id, account_id, month)
);
COMMENT ON TABLE tally.erasure_unrenewed IS 'months that somebody had detached or moved away by hand when events of erased persons were removed, so that the rollups count those still: tally.maintain() makes these buckets anew once the month is attached again';
COMMENT ON COLUMN tally.erasure_unrenewed.month IS 'its start';
COMMENT ON COLUMN tally.erasure_unrenewed.tenant_id IS 'the tenant';
COMMENT ON COLUMN tally.erasure_unrenewed.account_id IS 'the account that had the events';

-- Without a key: who notes something has rows of a tenant's locked, or ingest locked out, and must wait for nobody.
CREATE TABLE tally.erasure_trace (
  changed_at  timestamptz NOT NULL,
  analyzed_at timestamptz,
  table_name  text COLLATE "C" NOT NULL
);
ALTER TABLE tally.erasure_trace REPLICA IDENTITY FULL;
COMMENT ON TABLE tally.erasure_trace IS 'tables from which something was erased, or in which something stored was protected, and whose files and statistics may still have it: a row each time, one once the statistics were made anew';
COMMENT ON COLUMN tally.erasure_trace.changed_at IS 'when that was; the files have it until a vacuum after that';
COMMENT ON COLUMN tally.erasure_trace.analyzed_at IS 'when the statistics were made anew';
COMMENT ON COLUMN tally.erasure_trace.table_name IS 'the table: in schema tally, or with the schema that it is in';

ALTER TABLE tally.erasure_key OWNER TO tally_owner;
ALTER TABLE tally.erasure OWNER TO tally_owner;
ALTER TABLE tally.erasure_run OWNER TO tally_owner;
ALTER TABLE tally.erasure_unrenewed OWNER TO tally_owner;
ALTER TABLE tally.erasure_trace OWNER TO tally_owner;
SELECT tally_internal.secure_table('tally.erasure_key'), tally_internal.secure_table('tally.erasure'),
       tally_internal.secure_table('tally.erasure_run'), tally_internal.secure_table('tally.erasure_unrenewed'), tally_internal.confine_table('tally.erasure_trace');
REVOKE ALL ON tally.erasure_key, tally.erasure, tally.erasure_run, tally.erasure_unrenewed, tally.erasure_trace FROM PUBLIC;
GRANT SELECT (requested_at, finished_at, events, anonymous_events, subject_hash, tenant_id, requested_by, reason, certificate)
  ON tally.erasure TO tally_reader, tally_auditor;
GRANT SELECT ON tally.erasure_run, tally.erasure_trace TO tally_analyst, tally_auditor;
SELECT pg_catalog.pg_extension_config_dump('tally.erasure_key', '');
SELECT pg_catalog.pg_extension_config_dump('tally.erasure', '');
SELECT pg_catalog.pg_extension_config_dump('tally.erasure_run', '');
SELECT pg_catalog.pg_extension_config_dump('tally.erasure_unrenewed', '');
SELECT pg_catalog.pg_extension_config_dump('tally.erasure_trace', '');

CREATE VIEW tally.erasures WITH (security_invoker = true) AS
  SELECT tenant_id, subject_hash, requested_at, requested_by, reason, finished_at, events, anonymous_events, certificate FROM tally.erasure;
COMMENT ON VIEW tally.erasures IS 'the erasures of the tenants in scope, and their certificates; of one who was there again and was erased again, one row for each time';
COMMENT ON COLUMN tally.erasures.tenant_id IS 'the tenant';
COMMENT ON COLUMN tally.erasures.subject_hash IS 'stands for the subject; only the tenant''s secret key leads from an id to it';
COMMENT ON COLUMN tally.erasures.requested_at IS 'when it was asked for; events of the subject are refused since the first time';
COMMENT ON COLUMN tally.erasures.requested_by IS 'who asked for it';
COMMENT ON COLUMN tally.erasures.reason IS 'why, in its words';
COMMENT ON COLUMN tally.erasures.finished_at IS 'when it was done; null while it waits for tally.maintain()';
COMMENT ON COLUMN tally.erasures.events IS 'raw events of the subject that were removed';
COMMENT ON COLUMN tally.erasures.anonymous_events IS 'raw events without a user that were removed with its sessions';
COMMENT ON COLUMN tally.erasures.certificate IS 'what was removed, made anew, and left; its hash is in the audit log';
ALTER VIEW tally.erasures OWNER TO tally_owner;
REVOKE ALL ON tally.erasures FROM PUBLIC;
GRANT SELECT ON tally.erasures TO tally_reader, tally_auditor;

CREATE FUNCTION tally.erase_subject(tenant_id text, subject text, reason text) RETURNS jsonb
  LANGUAGE c VOLATILE PARALLEL UNSAFE CALLED ON NULL INPUT AS 'MODULE_PATHNAME', 'tally_erase_subject';
COMMENT ON FUNCTION tally.erase_subject(text, text, text) IS
  'erases a user of a tenant: its events, with those of its sessions that have no user, and whatever else is kept of it, and makes the rollups'' buckets in which they counted anew from the events that are left; from now on its events are rejected with SQLSTATE 22T13, and a retry of one that was counted is a duplicate still. Returns the certificate, which tells what is left where raw events are gone. Of one who was erased before it removes what is there again, as in a month that was attached again, and gives that a certificate of its own; where nothing is, it returns the last one, and ingest goes on. Otherwise ingest waits meanwhile, readers do not: for many subjects, or one with very many events, there is tally.erase_subjects()';

CREATE FUNCTION tally.erase_subjects(tenant_id text, subjects text[], reason text) RETURNS int8
  LANGUAGE c VOLATILE PARALLEL UNSAFE CALLED ON NULL INPUT AS 'MODULE_PATHNAME', 'tally_erase_subjects';
COMMENT ON FUNCTION tally.erase_subjects(text, text[], text) IS
  'has tally.maintain() erase users of a tenant, as tally.erase_subject() does, in steps that are committed one by one; their events are refused from now on. Returns how many are to be erased now and weren''t waiting for it yet; tally.erasures has their certificates when it is done, of those that were erased before only where something was there again';

-- What the library calls, as tally_owner in the global scope.

CREATE FUNCTION tally_internal.names(body text, field text, ids text[]) RETURNS boolean
  LANGUAGE c IMMUTABLE PARALLEL SAFE STRICT AS 'MODULE_PATHNAME', 'names_wrapper';
COMMENT ON FUNCTION tally_internal.names(text, text, text[]) IS
  'whether a field has one of these values in the text of an event, at any depth; where that is no JSON, whether any string or number in it is one';

CREATE FUNCTION tally_internal.named(body text, field text, ids text[]) RETURNS text[]
  LANGUAGE c IMMUTABLE PARALLEL SAFE CALLED ON NULL INPUT AS 'MODULE_PATHNAME', 'tally_named';
COMMENT ON FUNCTION tally_internal.named(text, text, text[]) IS
  'which of these values a field has in the text of an event, as tally_internal.names() looks for them; none of a text that is null';

CREATE FUNCTION tally_internal.request_erasures(tenant_id text, subjects text[], hashes uuid[], reason text, requested_by text) RETURNS int8
  LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE STRICT
  SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  hash      uuid;
  part      text;
  own       text;
  requested int8 := 0;
BEGIN
  -- Nobody takes away by it what he requested himself.
  FOR part IN SELECT r.name FROM tally_internal.registered('own_') AS r (name) LOOP
    EXECUTE format('SELECT tally_internal.%I($1, $2)', 'own_' || part) INTO own USING request_erasures.tenant_id, subjects;
    IF own IS NOT NULL THEN
      RAISE EXCEPTION USING ERRCODE = 'insufficient_privilege', MESSAGE = 'you requested yourself what this erasure would empty', DETAIL = own,
        HINT = 'have another person ask for the erasure; nobody empties alone what they requested';
    END IF;
  END LOOP;
  FOR hash IN
    INSERT INTO tally.erasure AS x (subject_hash, requested_role, tenant_id, requested_by, reason, subject)
    SELECT s.hash, CASE request_erasures.requested_by WHEN session_user THEN quote_ident(session_user)::regrole END, request_erasures.tenant_id, request_erasures.requested_by, request_erasures.reason, min(s.subject)
      FROM unnest(subjects, hashes) AS s (subject, hash) GROUP BY s.hash ORDER BY s.hash
    ON CONFLICT DO NOTHING
    RETURNING x.subject_hash
  LOOP
    PERFORM tally_internal.record_act('erasure_requested', hash::text, jsonb_build_object('reason', request_erasures.reason),
                                      request_erasures.tenant_id);
    requested := requested + 1;
  END LOOP;
  RETURN requested;
END
$$;
COMMENT ON FUNCTION tally_internal.request_erasures(text, text[], uuid[], text, text) IS
  'notes subjects that are to be erased, each once while it waits; returns how many didn''t wait yet';

-- The one rule by which events without a user are somebody's: what an erasure takes is what tally.subject_report() names.
CREATE FUNCTION tally_internal.anonymous_events(tenant_id text, account_id text, "from" timestamptz, until timestamptz, subjects text[], detached name[])
  RETURNS TABLE (part name, event_id uuid, occurred_at timestamptz)
  LANGUAGE plpgsql STABLE PARALLEL UNSAFE STRICT
  SET search_path = pg_catalog, pg_temp
  SET timezone = 'UTC'
AS $$
DECLARE
  -- A session that a format made of the user's id has two spellings where the user ids were protected after a month was detached: its token tells it.
  spelling text := CASE WHEN cardinality(tally_internal.stored_user_ids(anonymous_events.tenant_id, 'ga4.')) > 1
                        THEN 'CASE WHEN e.session_id LIKE ''ga4.%'' THEN (tally_internal.stored_user_ids(e.tenant_id, e.session_id))[2] ELSE e.session_id END'
                        ELSE 'e.session_id' END;
  stored   text := (SELECT string_agg(format(
                      'SELECT %L::name AS part, e.event_id, e.occurred_at, e.user_id, %s AS session_id FROM tally.%I AS e
                        WHERE e.tenant_id = $1 AND e.account_id = $2 AND e.occurred_at >= $3 AND e.occurred_at <= $4 AND e.session_id IS NOT NULL', t.name, spelling, t.name), ' UNION ALL ')
                      FROM unnest('events'::name || detached) AS t (name));
  sessions text[];
  first_at timestamptz;
  last_at  timestamptz;
BEGIN
  EXECUTE format('SELECT array_agg(DISTINCT e.session_id), min(e.occurred_at), max(e.occurred_at) FROM (%s) AS e WHERE e.occurred_at < $4 AND e.user_id = ANY ($5)', stored)
     INTO sessions, first_at, last_at USING tenant_id, account_id, "from", until, subjects;
  IF sessions IS NULL THEN
    RETURN;
  END IF;
  -- Up to two days away: a day from one of the subjects' to an event without a user, and a day from that to somebody else's.
  RETURN QUERY EXECUTE format(
    'SELECT n.part, n.event_id, n.occurred_at
       FROM (SELECT e.*, count(*) FILTER (WHERE e.user_id = ANY ($5) AND e.occurred_at >= $7 AND e.occurred_at < $8) OVER near AS own,
                    count(*) FILTER (WHERE e.user_id <> ALL ($5)) OVER near AS others
               FROM (%s) AS e WHERE e.session_id = ANY ($6)
             WINDOW near AS (PARTITION BY e.session_id ORDER BY e.occurred_at RANGE BETWEEN interval ''1 day'' PRECEDING AND interval ''1 day'' FOLLOWING)) AS n
      WHERE n.user_id IS NULL AND n.own > 0 AND n.others = 0', stored)
    USING tenant_id, account_id, first_at - interval '2 days', last_at + interval '2 days', subjects, sessions, "from", until;
END
$$;
COMMENT ON FUNCTION tally_internal.anonymous_events(text, text, timestamptz, timestamptz, text[], name[]) IS
  'events without a user, in the events of an account and in months that were detached, that go with subjects, by the ids under which they are stored: within a day of one of theirs of a range of time in the same session, and within a day of nobody else''s there';

CREATE FUNCTION tally_internal.erase_events(tenant_id text, account_id text, "from" timestamptz, until timestamptz, subjects text[],
    sent text[], detached name[], OUT users text[], OUT moments timestamptz[], OUT anonymous_moments timestamptz[], OUT removed int8)
  LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE STRICT
  SET search_path = pg_catalog, pg_temp
  SET timezone = 'UTC'
AS $$
DECLARE
  parts     oid[];
  month     name;
  here      record;
  whose     text[];
  alone     record;
  anonymous int8 := 0;
  elsewhere int8 := 0;
BEGIN
  -- Looked for while the subjects' own are there to tell by.
  SELECT array_agg(a.part) AS places, array_agg(a.event_id) AS ids, array_agg(a.occurred_at) AS times, min(a.occurred_at) AS began, max(a.occurred_at) AS ended
    INTO alone FROM tally_internal.anonymous_events(erase_events.tenant_id, erase_events.account_id, "from", until, subjects, detached) AS a;
  WITH gone AS (
    DELETE FROM tally.events AS e
     WHERE e.tenant_id = erase_events.tenant_id AND e.account_id = erase_events.account_id
       AND e.occurred_at >= "from" AND e.occurred_at < until AND e.user_id = ANY (subjects)
    RETURNING e.user_id, e.occurred_at, e.tableoid AS part
  ), counted AS (
    UPDATE tally.erasure AS x
       SET events = x.events + g.events, first_at = least(x.first_at, g.first_at), last_at = greatest(x.last_at, g.last_at)
      FROM (SELECT s.sent, count(*) AS events, min(o.occurred_at) AS first_at, max(o.occurred_at) AS last_at
              FROM gone AS o JOIN unnest(subjects, erase_events.sent) AS s (stored, sent) ON s.stored = o.user_id GROUP BY s.sent) AS g
     WHERE x.tenant_id = erase_events.tenant_id AND x.subject = g.sent
  )
  SELECT array_agg(DISTINCT g.user_id), array_agg(DISTINCT date_trunc('minute', g.occurred_at)), count(*), array_agg(DISTINCT g.part)
    INTO users, moments, removed, parts
    FROM gone AS g;
  PERFORM tally_internal.note_removed(parts);
  whose := users;
  FOREACH month IN ARRAY detached LOOP
    EXECUTE format(
      'WITH gone AS (
         DELETE FROM tally.%I AS e
          WHERE e.tenant_id = $1 AND e.account_id = $2 AND e.occurred_at >= $3 AND e.occurred_at < $4 AND e.user_id = ANY ($5)
         RETURNING e.user_id, e.occurred_at
       ), counted AS (
         UPDATE tally.erasure AS x
            SET detached_events = x.detached_events + g.events, first_at = least(x.first_at, g.first_at), last_at = greatest(x.last_at, g.last_at)
           FROM (SELECT s.sent, count(*) AS events, min(o.occurred_at) AS first_at, max(o.occurred_at) AS last_at
                   FROM gone AS o JOIN unnest($5, $6) AS s (stored, sent) ON s.stored = o.user_id GROUP BY s.sent) AS g
          WHERE x.tenant_id = $1 AND x.subject = g.sent
       )
       SELECT array_agg(DISTINCT g.user_id) AS users, array_agg(DISTINCT date_trunc(''minute'', g.occurred_at)) AS moments, count(*) AS events FROM gone AS g', month)
       INTO here USING erase_events.tenant_id, erase_events.account_id, "from", until, subjects, erase_events.sent;
    IF here.events > 0 THEN
      PERFORM tally_internal.note_detached(month);
      removed := removed + here.events;
      whose := whose || here.users;
      moments := moments || here.moments;
    END IF;
  END LOOP;
  IF alone.ids IS NULL THEN
    RETURN;
  END IF;
  WITH gone AS (
    DELETE FROM tally.events AS e USING unnest(alone.places, alone.ids, alone.times) AS a (part, event_id, occurred_at)
     WHERE a.part = 'events' AND e.tenant_id = erase_events.tenant_id AND e.account_id = erase_events.account_id
       AND e.occurred_at >= alone.began AND e.occurred_at <= alone.ended
       AND e.occurred_at = a.occurred_at AND e.event_id = a.event_id AND e.user_id IS NULL
    RETURNING e.occurred_at, e.tableoid AS part
  )
  SELECT array_agg(DISTINCT date_trunc('minute', g.occurred_at)), count(*), coalesce(array_agg(DISTINCT g.part), '{}')
    INTO anonymous_moments, anonymous, parts FROM gone AS g;
  PERFORM tally_internal.note_removed(parts);
  FOREACH month IN ARRAY detached LOOP
    CONTINUE WHEN month <> ALL (alone.places);
    EXECUTE format(
      'WITH gone AS (
         DELETE FROM tally.%I AS e USING unnest($3, $4, $5) AS a (part, event_id, occurred_at)
          WHERE a.part = $6 AND e.tenant_id = $1 AND e.account_id = $2 AND e.occurred_at >= $7 AND e.occurred_at <= $8
            AND e.occurred_at = a.occurred_at AND e.event_id = a.event_id AND e.user_id IS NULL
         RETURNING e.occurred_at)
       SELECT array_agg(DISTINCT date_trunc(''minute'', g.occurred_at)) AS moments, count(*) AS events FROM gone AS g', month)
       INTO here USING erase_events.tenant_id, erase_events.account_id, alone.places, alone.ids, alone.times, month, alone.began, alone.ended;
    PERFORM tally_internal.note_detached(month);
    elsewhere := elsewhere + here.events;
    anonymous_moments := anonymous_moments || here.moments;
  END LOOP;
  UPDATE tally.erasure AS x SET anonymous_events = x.anonymous_events + anonymous, detached_events = x.detached_events + elsewhere
   WHERE x.tenant_id = erase_events.tenant_id
     AND x.subject = (SELECT s.sent FROM unnest(subjects, erase_events.sent) AS s (stored, sent) WHERE s.stored = whose[1] LIMIT 1);
  removed := removed + anonymous + elsewhere;
END
$$;
COMMENT ON FUNCTION tally_internal.erase_events(text, text, timestamptz, timestamptz, text[], text[], name[]) IS
  'removes the events of subjects, by the ids under which they are stored, each with the id as sent, in an account and a range of time, attached and in months that were detached, and those without a user that go with them (tally_internal.anonymous_events); tells whose attached ones there were, and the minutes of all';

CREATE FUNCTION tally_internal.seek_subjects(tenant_id text, subjects text[], sought jsonb) RETURNS jsonb
  LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE STRICT
  SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  part text;
  here jsonb;
BEGIN
  FOR part IN SELECT r.name FROM tally_internal.registered('seek_') AS r (name) WHERE r.name <> 'subjects' LOOP
    EXECUTE format('SELECT tally_internal.%I($1, $2, $3)', 'seek_' || part) INTO here
      USING seek_subjects.tenant_id, subjects, coalesce(sought -> part, '{}');
    sought := sought || jsonb_build_object(part, here);
  END LOOP;
  RETURN sought;
END
$$;
COMMENT ON FUNCTION tally_internal.seek_subjects(text, text[], jsonb) IS
  'part of an erasure: calls what nouns have added to the register seek_; what each found, and with what was found before what came since';

CREATE FUNCTION tally_internal.pin_subjects(sought jsonb) RETURNS void
  LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE STRICT
  SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  part text;
BEGIN
  FOR part IN SELECT r.name FROM tally_internal.registered('pin_') AS r (name) WHERE r.name <> 'subjects' LOOP
    EXECUTE format('SELECT tally_internal.%I($1)', 'pin_' || part) USING sought -> part;
  END LOOP;
END
$$;
COMMENT ON FUNCTION tally_internal.pin_subjects(jsonb) IS 'part of an erasure: calls what nouns have added to the register pin_, with what was found';

CREATE FUNCTION tally_internal.forget_subjects(tenant_id text, subjects text[], known text[], sought jsonb) RETURNS jsonb
  LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE STRICT
  SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  part text;
  gone int8;
  told jsonb := '{}';
BEGIN
  FOR part IN SELECT r.name FROM tally_internal.registered('forget_') AS r (name) WHERE r.name <> 'subjects' LOOP
    EXECUTE format('SELECT tally_internal.%I($1, $2, $3)', 'forget_' || part) INTO gone USING forget_subjects.tenant_id, subjects, coalesce(sought -> part, '{}');
    told := told || jsonb_build_object(part, gone);
  END LOOP;
  FOR part IN SELECT r.name FROM tally_internal.registered('unname_') AS r (name) LOOP
    EXECUTE format('SELECT tally_internal.%I($1, $2, $3)', 'unname_' || part) INTO gone USING forget_subjects.tenant_id, known, coalesce(sought -> part, '{}');
    told := told || jsonb_build_object(part, gone);
  END LOOP;
  UPDATE tally.erasure AS x SET requested_by = '' WHERE x.tenant_id = forget_subjects.tenant_id AND x.requested_by = ANY (subjects);
  PERFORM tally_internal.note_trace('{erasure,quarantine,ingest_batch,audit_personal}');
  RETURN told;
END
$$;
COMMENT ON FUNCTION tally_internal.forget_subjects(text, text[], text[], jsonb) IS
  'part of an erasure: calls what nouns have added to the registers forget_ and, with the subjects that are known to have been users, unname_, with what was found; tells how many rows each removed or changed';

CREATE FUNCTION tally_internal.note_trace(tables text[]) RETURNS void
  LANGUAGE sql VOLATILE PARALLEL UNSAFE STRICT
  SET search_path = pg_catalog, pg_temp
  BEGIN ATOMIC
    INSERT INTO tally.erasure_trace (changed_at, table_name)
    SELECT clock_timestamp(), t.name FROM pg_catalog.unnest(tables) AS t (name) GROUP BY t.name;
  END;
COMMENT ON FUNCTION tally_internal.note_trace(text[]) IS 'notes tables whose files and statistics may still have what was erased or protected';

CREATE FUNCTION tally_internal.note_removed(parts oid[]) RETURNS void
  LANGUAGE sql VOLATILE PARALLEL UNSAFE STRICT
  SET search_path = pg_catalog, pg_temp
AS $$
  SELECT tally_internal.note_trace(array_agg(CASE WHEN c.relnamespace = 'tally'::regnamespace THEN c.relname::text ELSE c.oid::regclass::text END) || 'events'::text)
    FROM pg_class AS c WHERE c.oid = ANY (note_removed.parts) HAVING count(*) > 0
$$;
COMMENT ON FUNCTION tally_internal.note_removed(oid[]) IS 'notes partitions of tally.events whose files and statistics may still have what was erased or protected, whoever made them';

CREATE FUNCTION tally_internal.note_detached(part name) RETURNS void
  LANGUAGE sql VOLATILE PARALLEL UNSAFE STRICT
  SET search_path = pg_catalog, pg_temp
AS $$
  SELECT tally_internal.note_trace(ARRAY[part::text, 'events', coalesce(substring(part::text from '^events_p[0-9]{4}_[0-9]{2}'), 'events')])
$$;
COMMENT ON FUNCTION tally_internal.note_detached(name) IS 'notes a table of events that was detached, and those whose statistics may still have what was in it';

CREATE FUNCTION tally_internal.know_activity(tenant_id text, subjects text[], sent text[]) RETURNS void
  LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE STRICT
  SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  IF to_regclass('tally_internal.user_activity_part') IS NULL THEN
    RETURN;
  END IF;
  UPDATE tally.erasure AS x SET first_at = least(x.first_at, a.first_at), last_at = greatest(x.last_at, a.last_at)
    FROM (SELECT s.sent, min(p.first_at) AS first_at, max(p.last_at) AS last_at
            FROM tally_internal.user_activity_part AS p JOIN unnest(subjects, know_activity.sent) AS s (stored, sent) ON s.stored = p.user_id
           WHERE p.tenant_id = know_activity.tenant_id AND p.user_id = ANY (subjects) GROUP BY s.sent) AS a
   WHERE x.tenant_id = know_activity.tenant_id AND x.subject = a.sent;
END
$$;
COMMENT ON FUNCTION tally_internal.know_activity(text, text[], text[]) IS
  'notes since when and until when subjects were active, also where raw events are gone, by what the rollup user_activity knows';

CREATE FUNCTION tally_internal.certify_erasures(tenant_id text, hashes uuid[], certificates jsonb[]) RETURNS void
  LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE STRICT
  SET search_path = pg_catalog, pg_temp
  SET timezone = 'UTC'
AS $$
DECLARE
  done record;
BEGIN
  FOR done IN
    UPDATE tally.erasure AS x SET finished_at = clock_timestamp(), subject = NULL, certificate = s.certificate
      FROM unnest(hashes, certificates) AS s (hash, certificate)
     WHERE x.tenant_id = certify_erasures.tenant_id AND x.subject_hash = s.hash AND x.finished_at IS NULL
    RETURNING x.subject_hash, x.certificate
  LOOP
    PERFORM tally_internal.record_act('subject_erased', done.subject_hash::text,
      jsonb_build_object('certificate_sha256', encode(sha256(convert_to(done.certificate::text, 'UTF8')), 'hex')), certify_erasures.tenant_id);
  END LOOP;
END
$$;
COMMENT ON FUNCTION tally_internal.certify_erasures(text, uuid[], jsonb[]) IS
  'part of an erasure: writes certificates and removes the ids; the hash of each certificate goes into the audit log';

CREATE FUNCTION tally_internal.erasure_step(tenant_id text, max_rows int8) RETURNS int8
  LANGUAGE c VOLATILE PARALLEL UNSAFE STRICT AS 'MODULE_PATHNAME', 'tally_erasure_step';
COMMENT ON FUNCTION tally_internal.erasure_step(text, int8) IS
  'one step of what tally.erase_subjects() asked for of a tenant, or of making buckets anew of months that were detached when something was erased from them and are attached again; with an empty one of making statistics anew that may still have what was erased or protected; returns how much it did, 0 where nothing is left';

CREATE FUNCTION tally_internal.erasing_tenants() RETURNS SETOF text
  LANGUAGE c STABLE PARALLEL UNSAFE STRICT AS 'MODULE_PATHNAME', 'erasing_tenants_wrapper';
COMMENT ON FUNCTION tally_internal.erasing_tenants() IS 'tenants of which subjects wait to be erased, or buckets to be made anew after that, or whose last step failed';

-- By the catalogue: to_regclass() needs the right to use the schema.
CREATE FUNCTION tally_internal.traced_table(table_name text) RETURNS regclass
  LANGUAGE sql STABLE PARALLEL SAFE STRICT
  SET search_path = pg_catalog, pg_temp
  BEGIN ATOMIC
    SELECT coalesce((SELECT c.oid FROM pg_class AS c WHERE c.relnamespace = 'tally'::regnamespace AND c.relname = traced_table.table_name),
                    (SELECT c.oid FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
                      WHERE format('%I.%I', n.nspname, c.relname) = traced_table.table_name))::regclass;
  END;
COMMENT ON FUNCTION tally_internal.traced_table(text) IS 'the table that a row of tally.erasure_trace names; null where it is gone';

CREATE FUNCTION tally_internal.stale_statistics() RETURNS oid
  LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE STRICT
  SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  stale text;
BEGIN
  -- What was vacuumed since, or is gone, has nothing left; a partitioned table has no file.
  WITH traced AS MATERIALIZED (
    SELECT n.table_name, c.relkind, greatest(s.last_vacuum, s.last_autovacuum) AS vacuumed_at
      FROM (SELECT DISTINCT t.table_name FROM tally.erasure_trace AS t) AS n
      LEFT JOIN pg_class AS c ON c.oid = tally_internal.traced_table(n.table_name)
      LEFT JOIN pg_stat_all_tables AS s ON s.relid = c.oid
  )
  DELETE FROM tally.erasure_trace AS t USING traced AS n
   WHERE t.table_name = n.table_name
     AND (n.relkind IS NULL OR t.analyzed_at IS NOT NULL AND (n.relkind <> 'r' OR n.vacuumed_at > t.changed_at));
  SELECT t.table_name INTO stale FROM tally.erasure_trace AS t WHERE t.analyzed_at IS NULL ORDER BY t.table_name LIMIT 1;
  IF stale IS NULL THEN
    RETURN NULL;
  END IF;
  -- What has been noted by now is what the statistics will know of; what is noted from now on stays for another step.
  WITH noted AS (DELETE FROM tally.erasure_trace AS t WHERE t.table_name = stale RETURNING t.changed_at)
  INSERT INTO tally.erasure_trace (changed_at, analyzed_at, table_name)
  SELECT max(n.changed_at), clock_timestamp(), stale FROM noted AS n;
  RETURN tally_internal.traced_table(stale)::oid;
END
$$;
COMMENT ON FUNCTION tally_internal.stale_statistics() IS
  'a table whose statistics may still have what was erased or protected, null where there is none; notes that they were made anew, which the caller does in the same transaction';

REVOKE ALL ON FUNCTION tally.erase_subject(text, text, text), tally.erase_subjects(text, text[], text), tally_internal.names(text, text, text[]), tally_internal.named(text, text, text[]),
  tally_internal.request_erasures(text, text[], uuid[], text, text), tally_internal.anonymous_events(text, text, timestamptz, timestamptz, text[], name[]), tally_internal.erase_events(text, text, timestamptz, timestamptz, text[], text[], name[]), tally_internal.note_removed(oid[]), tally_internal.note_detached(name),
  tally_internal.seek_subjects(text, text[], jsonb), tally_internal.pin_subjects(jsonb), tally_internal.forget_subjects(text, text[], text[], jsonb), tally_internal.note_trace(text[]),
  tally_internal.know_activity(text, text[], text[]), tally_internal.certify_erasures(text, uuid[], jsonb[]), tally_internal.erasure_step(text, int8), tally_internal.erasing_tenants(),
  tally_internal.traced_table(text), tally_internal.stale_statistics() FROM PUBLIC;
GRANT SELECT ON tally_internal.user_activity_part TO tally_owner;
GRANT EXECUTE ON FUNCTION tally_internal.names(text, text, text[]), tally_internal.named(text, text, text[]),
  tally_internal.request_erasures(text, text[], uuid[], text, text), tally_internal.anonymous_events(text, text, timestamptz, timestamptz, text[], name[]), tally_internal.erase_events(text, text, timestamptz, timestamptz, text[], text[], name[]), tally_internal.note_removed(oid[]), tally_internal.note_detached(name),
  tally_internal.seek_subjects(text, text[], jsonb), tally_internal.pin_subjects(jsonb), tally_internal.forget_subjects(text, text[], text[], jsonb), tally_internal.note_trace(text[]),
  tally_internal.know_activity(text, text[], text[]), tally_internal.certify_erasures(text, uuid[], jsonb[]),
  tally_internal.traced_table(text), tally_internal.stale_statistics(),
  tally_internal.registered(text) TO tally_owner;
GRANT EXECUTE ON FUNCTION tally.erase_subject(text, text, text), tally.erase_subjects(text, text[], text), tally_internal.erasure_step(text, int8), tally_internal.erasing_tenants() TO tally_admin;

CREATE FUNCTION tally_internal.sensitive_erasure(OUT act text, OUT description text, OUT held_by name) RETURNS SETOF record
  LANGUAGE sql IMMUTABLE PARALLEL SAFE STRICT
  SET search_path = pg_catalog, pg_temp
  BEGIN ATOMIC
    SELECT v.* FROM (VALUES
      ('erase_subject', 'erasing a person, or asking for that', 'tally_admin'::name),
      ('subject_report', 'reading everything that is kept of a person', 'tally_admin')
    ) AS v (act, description, held_by);
  END;
COMMENT ON FUNCTION tally_internal.sensitive_erasure() IS 'acts that may need a second factor: of erasures';
REVOKE ALL ON FUNCTION tally_internal.sensitive_erasure() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tally_internal.sensitive_erasure() TO tally_owner, tally_security;

CREATE FUNCTION tally_internal.task_erasure() RETURNS TABLE (place int4, subject text)
  LANGUAGE sql STABLE PARALLEL UNSAFE STRICT
  SET search_path = pg_catalog, pg_temp
  BEGIN ATOMIC
    -- Of the statistics after what they may have is erased.
    SELECT 3, e.tenant_id FROM tally_internal.erasing_tenants() AS e (tenant_id) UNION ALL SELECT 4, ''::text;
  END;
COMMENT ON FUNCTION tally_internal.task_erasure() IS 'task of maintain(): erases the subjects that tally.erase_subjects() named, each tenant''s on its own';

CREATE FUNCTION tally_internal.step_erasure(subject text, max_rows int8, OUT done int8, OUT is_over boolean) RETURNS record
  LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE STRICT
  SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  done := tally_internal.erasure_step(subject, max_rows);
  is_over := done = 0;
END
$$;
COMMENT ON FUNCTION tally_internal.step_erasure(text, int8) IS 'one step of it; says how much it did, and whether nothing is left for now';

REVOKE ALL ON FUNCTION tally_internal.task_erasure(), tally_internal.step_erasure(text, int8) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tally_internal.task_erasure(), tally_internal.step_erasure(text, int8) TO tally_admin;

CREATE FUNCTION tally_internal.erasure_state(OUT waiting int8, OUT since timestamptz, OUT unvacuumed text)
  LANGUAGE plpgsql STABLE PARALLEL RESTRICTED STRICT
  SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  SELECT count(*), min(x.requested_at) INTO waiting, since FROM tally.erasure AS x WHERE x.finished_at IS NULL;
  unvacuumed := (SELECT string_agg(coalesce(tally_internal.traced_table(t.table_name)::text, t.table_name), ', ' ORDER BY t.table_name)
                   FROM (SELECT t.table_name, max(t.changed_at) AS changed_at FROM tally.erasure_trace AS t GROUP BY t.table_name) AS t
                   LEFT JOIN pg_stat_all_tables AS s ON s.relid = tally_internal.traced_table(t.table_name)
                  WHERE t.changed_at < clock_timestamp() - interval '1 day'
                    AND s.n_dead_tup > 0 AND coalesce(greatest(s.last_vacuum, s.last_autovacuum), '-infinity') < t.changed_at);
END
$$;
COMMENT ON FUNCTION tally_internal.erasure_state() IS
  'how many erasures wait in the scope, since when the first does, and which tables weren''t vacuumed for a day after something was erased from them, or protected in them';

CREATE FUNCTION tally_internal.health_erasure()
  RETURNS TABLE (place int4, component text, status text, value float8, "limit" float8, advice text)
  LANGUAGE plpgsql STABLE PARALLEL UNSAFE STRICT
  SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  state record;
BEGIN
  SELECT s.* INTO state FROM tally_internal.erasure_state() AS s;
  place := 13;
  component := 'erasure';
  value := coalesce(round(extract(epoch FROM clock_timestamp() - state.since)), 0);
  "limit" := 86400;
  status := CASE WHEN value > 7 * "limit" THEN 'failing' WHEN value > "limit" OR state.unvacuumed IS NOT NULL THEN 'warning' ELSE 'ok' END;
  advice := CASE WHEN value > "limit" THEN format('%s subjects wait to be erased, the first since %s: see that CALL tally.maintain() or the worker runs, and what tally.maintenance says of the task erasure', state.waiting, state.since)
                 WHEN state.unvacuumed IS NOT NULL THEN format('what was erased or protected is in their files still: VACUUM %s', state.unvacuumed) END;
  RETURN NEXT;
END
$$;
COMMENT ON FUNCTION tally_internal.health_erasure() IS 'part of tally.health(): how long erasures wait, and files that still have what was erased';
REVOKE ALL ON FUNCTION tally_internal.erasure_state(), tally_internal.health_erasure() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tally_internal.erasure_state(), tally_internal.health_erasure(), tally_internal.traced_table(text) TO tally_admin;
