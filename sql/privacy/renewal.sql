-- Doing to what is stored what declarations and keys of now say, in steps. The statements run as tally_owner, in the global scope, with the
-- tenant's row locked (src/privacy/renewal.rs).

CREATE FUNCTION tally_internal.renewed_event_properties(tenant_id text, name text, event_id uuid, properties text) RETURNS text
  LANGUAGE c VOLATILE PARALLEL UNSAFE STRICT AS 'MODULE_PATHNAME', 'renewed_event_properties_wrapper';
COMMENT ON FUNCTION tally_internal.renewed_event_properties(text, text, uuid, text) IS
  'the properties of a stored event as they should be now; null where they are so';

CREATE FUNCTION tally_internal.renewed_user_id(tenant_id text, name text, user_id text) RETURNS text
  LANGUAGE c VOLATILE PARALLEL UNSAFE STRICT AS 'MODULE_PATHNAME', 'renewed_user_id_wrapper';
COMMENT ON FUNCTION tally_internal.renewed_user_id(text, text, text) IS
  'a stored user id as it should be now; null where it is to be dropped';

CREATE FUNCTION tally_internal.renewed_session_id(tenant_id text, name text, session_id text) RETURNS text
  LANGUAGE c VOLATILE PARALLEL UNSAFE STRICT AS 'MODULE_PATHNAME', 'renewed_session_id_wrapper';
COMMENT ON FUNCTION tally_internal.renewed_session_id(text, text, text) IS
  'a stored session id as it should be now: a token where a payload''s format made it of the user''s id and that is protected';

CREATE FUNCTION tally_internal.closed_body(tenant_id text, batch_id int8, "position" int4, body text) RETURNS text
  LANGUAGE c VOLATILE PARALLEL UNSAFE STRICT AS 'MODULE_PATHNAME', 'closed_body_wrapper';
COMMENT ON FUNCTION tally_internal.closed_body(text, int8, int4, text) IS
  'the text of a quarantined event, closed up; null where it stays as it is';

CREATE FUNCTION tally_internal.renew_events(tenant text, max_rows int8) RETURNS int8
  LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE STRICT
  SET search_path = pg_catalog, pg_temp
  SET timezone = 'UTC'
  SET datestyle = 'ISO'
AS $$
DECLARE
  renewal tally.privacy_renewal;
  place   record;
  seen    record;
BEGIN
  SELECT r.* INTO STRICT renewal FROM tally.privacy_renewal AS r WHERE r.tenant_id = tenant;
  -- The one in hand, or the next: by name, with the schema where that is another.
  SELECT l.* INTO place FROM tally_internal.event_leaves() AS l
   WHERE l.name COLLATE "C" = renewal.month OR l.name COLLATE "C" > renewal.months_done
   ORDER BY (l.name COLLATE "C" = renewal.month) IS NOT TRUE, l.name COLLATE "C" LIMIT 1;
  IF NOT FOUND THEN
    UPDATE tally.privacy_renewal AS r SET stage = 2, month = NULL, updated_at = clock_timestamp() WHERE r.tenant_id = tenant;
    RETURN 1;
  END IF;
  IF place.name IS DISTINCT FROM renewal.month THEN
    renewal.after_account := NULL;
    renewal.after_time := NULL;
  END IF;
  -- In the order of the table's index. Those that stand at the same moment as the last one belong to the step, too.
  EXECUTE format($query$
    WITH piece AS MATERIALIZED (
      SELECT e.ctid AS place, e.account_id, e.occurred_at, e.user_id, e.session_id,
             tally_internal.renewed_event_properties(e.tenant_id, e.name, e.event_id, e.properties::text) AS properties,
             CASE WHEN e.user_id IS NOT NULL THEN tally_internal.renewed_user_id(e.tenant_id, e.name, e.user_id) END AS new_user,
             tally_internal.renewed_session_id(e.tenant_id, e.name, e.session_id) AS new_session
        FROM (SELECT e.ctid, e.* FROM %4$s AS e
               WHERE e.tenant_id = $1 AND ($2::text IS NULL OR (e.account_id, e.occurred_at) > ($2, $3))
                 AND e.tableoid = %1$s AND e.occurred_at >= %2$L AND e.occurred_at < %3$L
               ORDER BY e.account_id, e.occurred_at FETCH FIRST $4 ROWS WITH TIES) AS e
    ), changed AS (
      UPDATE %4$s AS e SET properties = coalesce(p.properties::jsonb, e.properties), user_id = p.new_user, session_id = p.new_session
        FROM piece AS p
       WHERE e.ctid = p.place AND (p.properties IS NOT NULL OR (p.new_user, p.new_session) IS DISTINCT FROM (p.user_id, p.session_id))
         AND e.tenant_id = $1 AND e.tableoid = %1$s AND e.occurred_at >= %2$L AND e.occurred_at < %3$L
      RETURNING e.occurred_at, p.properties IS NOT NULL AS is_of_value, (p.new_user, p.new_session) IS DISTINCT FROM (p.user_id, p.session_id) AS is_of_user
    )
    SELECT (SELECT count(*) FROM piece) AS read, c.*,
           (SELECT p.account_id FROM piece AS p ORDER BY p.account_id DESC, p.occurred_at DESC LIMIT 1) AS account,
           (SELECT p.occurred_at FROM piece AS p ORDER BY p.account_id DESC, p.occurred_at DESC LIMIT 1) AS moment
      FROM (SELECT count(*) AS written, min(c.occurred_at) FILTER (WHERE c.is_of_user) AS users_from, max(c.occurred_at) FILTER (WHERE c.is_of_user) AS users_to,
                   min(c.occurred_at) FILTER (WHERE c.is_of_value) AS values_from, max(c.occurred_at) FILTER (WHERE c.is_of_value) AS values_to
              FROM changed AS c) AS c
    $query$, place.leaf, place.first, place.next, place.source) INTO seen USING tenant, renewal.after_account, renewal.after_time, max_rows;
  IF seen.written > 0 THEN
    -- The planner's statistics have values, too, those of tally.events for a day.
    PERFORM tally_internal.note_removed(ARRAY[place.leaf]);
  END IF;
  UPDATE tally.privacy_renewal AS r
     SET rows_read = r.rows_read + seen.read, rows_changed = r.rows_changed + seen.written, updated_at = clock_timestamp(),
         users_from = least(r.users_from, seen.users_from), users_to = greatest(r.users_to, seen.users_to),
         values_from = least(r.values_from, seen.values_from), values_to = greatest(r.values_to, seen.values_to),
         month = CASE WHEN seen.read >= max_rows THEN place.name END,
         months_done = CASE WHEN seen.read >= max_rows THEN r.months_done ELSE place.name END,
         after_account = CASE WHEN seen.read >= max_rows THEN seen.account END,
         after_time = CASE WHEN seen.read >= max_rows THEN seen.moment END
   WHERE r.tenant_id = tenant;
  RETURN greatest(seen.read, 1);
END
$$;
COMMENT ON FUNCTION tally_internal.renew_events(text, int8) IS 'part of a step: some of a tenant''s raw events';

CREATE FUNCTION tally_internal.renew_quarantine(tenant text, max_rows int8) RETURNS int8
  LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE STRICT
  SET search_path = pg_catalog, pg_temp
  -- By the key, whatever the planner knows of the table: else each step may read it as a whole.
  SET enable_seqscan = off
  SET enable_bitmapscan = off
AS $$
DECLARE
  renewal tally.privacy_renewal;
  seen    record;
BEGIN
  SELECT r.* INTO STRICT renewal FROM tally.privacy_renewal AS r WHERE r.tenant_id = tenant;
  -- In the order of the key. With those of no tenant, which each declaration has gone through, too: everybody's, since what names one tenant may
  -- wait with another. What a redrive has in its hands is not waited for.
  EXECUTE format($query$
    WITH piece AS MATERIALIZED (
      SELECT q.ctid AS place, q.tenant_id, q.batch_id, q."position", tally_internal.closed_body(q.tenant_id, q.batch_id, q."position", q.body) AS body
        FROM (SELECT q.ctid, q.* FROM tally.quarantine AS q
               WHERE %s AND (q.tenant_id, q.batch_id, q."position") > ($2, $3, $4)
               ORDER BY q.tenant_id, q.batch_id, q."position" LIMIT $5) AS q
    ), held AS MATERIALIZED (
      SELECT q.ctid AS place FROM tally.quarantine AS q WHERE q.ctid = ANY (ARRAY(SELECT p.place FROM piece AS p WHERE p.body IS NOT NULL)) FOR UPDATE SKIP LOCKED
    ), changed AS (
      UPDATE tally.quarantine AS q SET body = p.body, reason = 'it is closed up; tally.redrive() tells what is wrong with it'
        FROM piece AS p JOIN held AS h ON h.place = p.place WHERE q.ctid = h.place
      RETURNING 1
    )
    SELECT count(*) AS read, count(p.body) AS due, (SELECT count(*) FROM changed) AS written, l.*
      FROM piece AS p, (SELECT max(l.tenant_id) AS tenant, max(l.batch_id) AS batch, max(l."position") AS place
                          FROM (SELECT p.* FROM piece AS p ORDER BY p.tenant_id DESC, p.batch_id DESC, p."position" DESC LIMIT 1) AS l) AS l
     GROUP BY l.tenant, l.batch, l.place
    $query$, CASE WHEN tenant = '' THEN 'true' ELSE 'q.tenant_id = $1' END)
    INTO seen USING tenant, CASE WHEN renewal.after_batch IS NULL THEN tenant ELSE renewal.after_account END, coalesce(renewal.after_batch, -9223372036854775808), coalesce(renewal.after_position, -1), max_rows;
  IF seen.written > 0 THEN
    PERFORM tally_internal.note_trace('{quarantine}');
  END IF;
  IF seen.read > 0 THEN
    UPDATE tally.privacy_renewal AS r
       SET rows_read = r.rows_read + seen.read, rows_changed = r.rows_changed + seen.written, updated_at = clock_timestamp(),
           after_account = seen.tenant, after_batch = seen.batch, after_position = seen.place, is_left = r.is_left OR seen.due > seen.written
     WHERE r.tenant_id = tenant;
    RETURN seen.read;
  END IF;
  -- Those that were left come in another round.
  UPDATE tally.privacy_renewal AS r
     SET updated_at = clock_timestamp(), after_account = NULL, after_batch = NULL, after_position = NULL, is_left = false,
         stage = CASE WHEN r.is_left THEN r.stage ELSE 4 END, finished_at = CASE WHEN NOT r.is_left THEN clock_timestamp() END
   WHERE r.tenant_id = tenant;
  IF NOT renewal.is_left THEN
    PERFORM tally_internal.retire_privacy_keys(k.tenant_id, k.newest) FROM tally.privacy_key AS k WHERE k.tenant_id = tenant;
  END IF;
  RETURN 0;
END
$$;
COMMENT ON FUNCTION tally_internal.renew_quarantine(text, int8) IS 'part of a step: some of a tenant''s quarantined events, or with an empty one of everybody''s';

CREATE FUNCTION tally_internal.renew_stored(tenant_id text, max_rows int8) RETURNS int8
  LANGUAGE c VOLATILE PARALLEL UNSAFE STRICT AS 'MODULE_PATHNAME', 'renew_stored_wrapper';
COMMENT ON FUNCTION tally_internal.renew_stored(text, int8) IS
  'one bounded step of going through what is stored of a tenant; 0 where nothing is left, null where another session is at it';

CREATE FUNCTION tally_internal.task_privacy() RETURNS TABLE (place int4, subject text)
  LANGUAGE plpgsql STABLE PARALLEL SAFE STRICT
  SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  -- With those of which the last step failed, so that it is noted when nothing is left to be done.
  RETURN QUERY
    SELECT 6, r.tenant_id FROM tally.privacy_renewal AS r
     WHERE r.finished_at IS NULL
        OR EXISTS (SELECT FROM tally.maintenance AS m WHERE m.task = 'privacy' AND m.subject = r.tenant_id AND m.failed_at IS NOT NULL);
END
$$;
COMMENT ON FUNCTION tally_internal.task_privacy() IS 'task of maintain(): does to what is stored what declarations and keys of now say';

CREATE FUNCTION tally_internal.columns_keeping(rollup_name text, paths text[]) RETURNS text[]
  LANGUAGE sql STABLE PARALLEL UNSAFE STRICT
  SET search_path = pg_catalog, pg_temp
  BEGIN ATOMIC
    -- Counts and sums tell of no value.
    SELECT ARRAY(SELECT c.column_name FROM tally.rollup_column AS c
                  WHERE c.rollup_name = columns_keeping.rollup_name AND c.kind = ANY ('{dimension,min,max,first,last,distinct,percentiles}')
                    AND EXISTS (SELECT FROM unnest(columns_keeping.paths) AS p (path)
                                 WHERE CASE p.path WHEN '' THEN tally_internal.reads_user_id(c.expression) ELSE tally_internal.reads_property(c.expression, p.path) END)
                  ORDER BY c."position");
  END;
COMMENT ON FUNCTION tally_internal.columns_keeping(text, text[]) IS
  'columns of a rollup that have values of properties, given as JSON Pointers, or with an empty path the user id: as they are, as tokens, or in sketches';

CREATE FUNCTION tally_internal.protected_columns(renewal tally.privacy_renewal, rollup_name text, OUT changed text[], OUT all_of_them text[]) RETURNS record
  LANGUAGE sql STABLE PARALLEL UNSAFE STRICT
  SET search_path = pg_catalog, pg_temp
  BEGIN ATOMIC
    SELECT tally_internal.columns_keeping(protected_columns.rollup_name, renewal.changed_paths),
           tally_internal.columns_keeping(protected_columns.rollup_name, ARRAY(
             SELECT '' UNION SELECT unnest(renewal.paths)
              UNION SELECT p.path FROM tally.protection AS p WHERE p.tenant_id IN (renewal.tenant_id, '')));
  END;
COMMENT ON FUNCTION tally_internal.protected_columns(tally.privacy_renewal, text) IS
  'part of a step: columns of a rollup that have something that was declared or got another key since the last time, and those that have anything that is protected, or user ids';

-- `until`: a month at a time, since ingest waits meanwhile; or a year, where buckets of every grain begin together once a year at best.
CREATE FUNCTION tally_internal.next_renewed(renewal tally.privacy_renewal, OUT rollup_name text, OUT "from" timestamptz, OUT "to" timestamptz, OUT until timestamptz,
    OUT is_begun boolean) RETURNS record
  LANGUAGE plpgsql STABLE PARALLEL UNSAFE STRICT
  SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  -- Of what is protected now, too: a rollup that was declared since may count by tokens.
  of_values text[] := ARRAY(SELECT unnest(tally_internal.rollups_using(p.path)) FROM (
                              SELECT p.path FROM tally.protection AS p WHERE p.path <> '' AND p.tenant_id IN (renewal.tenant_id, '')
                              UNION SELECT unnest(renewal.paths)) AS p (path)
                             WHERE renewal.values_from IS NOT NULL);
  of_users text[] := ARRAY(SELECT r.rollup_name FROM tally.rollup AS r
                            WHERE renewal.users_from IS NOT NULL
                              AND EXISTS (SELECT FROM (SELECT c.expression FROM tally.rollup_column AS c WHERE c.rollup_name = r.rollup_name UNION ALL SELECT r.filter) AS e (expression)
                                           WHERE tally_internal.reads_user_id(e.expression) OR tally_internal.reads_session_id(e.expression)));
  piece text;
BEGIN
  -- Also those that no event that is there concerns, but some that are gone.
  rollup_name := (SELECT min(r.rollup_name) FROM tally.rollup AS r
                   WHERE r.rollup_name > renewal.rollup_done
                     AND (r.rollup_name = ANY (of_values || of_users || renewal.left_in)
                          OR tally_internal.columns_keeping(r.rollup_name, renewal.changed_paths) <> '{}'));
  is_begun := coalesce(next_renewed.rollup_name = renewal.rollup_in_hand, false);
  -- Up to which it is made anew already.
  IF is_begun THEN
    "from" := renewal.rollup_from;
  END IF;
  "from" := greatest("from", least(CASE WHEN next_renewed.rollup_name = ANY (of_values) THEN renewal.values_from END, CASE WHEN next_renewed.rollup_name = ANY (of_users) THEN renewal.users_from END));
  "to" := greatest(CASE WHEN next_renewed.rollup_name = ANY (of_values) THEN renewal.values_to END, CASE WHEN next_renewed.rollup_name = ANY (of_users) THEN renewal.users_to END)
          + interval '1 microsecond';
  piece := (SELECT CASE WHEN r.grains && '{quarter,year}' OR r.grains @> '{week,month}' THEN 'year' ELSE 'month' END
              FROM tally.rollup AS r WHERE r.rollup_name = next_renewed.rollup_name);
  until := least((date_trunc(piece, "from" AT TIME ZONE 'UTC') + ('1 ' || piece)::interval) AT TIME ZONE 'UTC', "to");
END
$$;
COMMENT ON FUNCTION tally_internal.next_renewed(tally.privacy_renewal) IS
  'part of a step: the next rollup that has user ids, or tokens of properties, which were changed, the time in which they were, null where none are there, how far of it is gone at once, and whether it has been begun';

CREATE FUNCTION tally_internal.step_privacy(subject text, max_rows int8, OUT done int8, OUT is_over boolean) RETURNS record
  LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE STRICT
  SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  done := tally_internal.renew_stored(subject, least(max_rows, 20000));
  is_over := done = 0;
END
$$;
COMMENT ON FUNCTION tally_internal.step_privacy(text, int8) IS 'one step of it; says how much it did, null where another session is at it, and whether nothing is left for now';

REVOKE ALL ON FUNCTION tally_internal.renewed_event_properties(text, text, uuid, text), tally_internal.renewed_user_id(text, text, text),
  tally_internal.renewed_session_id(text, text, text), tally_internal.closed_body(text, int8, int4, text), tally_internal.renew_events(text, int8), tally_internal.renew_quarantine(text, int8),
  tally_internal.renew_stored(text, int8), tally_internal.task_privacy(), tally_internal.next_renewed(tally.privacy_renewal), tally_internal.step_privacy(text, int8),
  tally_internal.columns_keeping(text, text[]), tally_internal.protected_columns(tally.privacy_renewal, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tally_internal.renewed_event_properties(text, text, uuid, text), tally_internal.renewed_user_id(text, text, text),
  tally_internal.renewed_session_id(text, text, text), tally_internal.closed_body(text, int8, int4, text), tally_internal.renew_events(text, int8), tally_internal.renew_quarantine(text, int8) TO tally_owner;
GRANT EXECUTE ON FUNCTION tally_internal.next_renewed(tally.privacy_renewal), tally_internal.rollups_using(text), tally_internal.path_steps(text),
  tally_internal.columns_keeping(text, text[]), tally_internal.protected_columns(tally.privacy_renewal, text) TO tally_owner;
GRANT EXECUTE ON FUNCTION tally_internal.renew_stored(text, int8), tally_internal.task_privacy(), tally_internal.rollups_using(text), tally_internal.path_steps(text), tally_internal.reads_property(text, text),
  tally_internal.step_privacy(text, int8) TO tally_admin;
