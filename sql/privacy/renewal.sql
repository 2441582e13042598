-- Doing to what is stored what declarations and keys of now say, in steps. The statements run as tally_owner, in the global scope
-- (src/privacy/renewal.rs).

CREATE FUNCTION tally_internal.renewed_event_properties(tenant_id text, name text, event_id uuid, properties text) RETURNS text
  LANGUAGE c VOLATILE PARALLEL UNSAFE STRICT AS 'MODULE_PATHNAME', 'renewed_event_properties_wrapper';
COMMENT ON FUNCTION tally_internal.renewed_event_properties(text, text, uuid, text) IS
  'the properties of a stored event as they should be now; null where they are so';

CREATE FUNCTION tally_internal.renewed_user_id(tenant_id text, name text, user_id text) RETURNS text
  LANGUAGE c VOLATILE PARALLEL UNSAFE STRICT AS 'MODULE_PATHNAME', 'renewed_user_id_wrapper';
COMMENT ON FUNCTION tally_internal.renewed_user_id(text, text, text) IS
  'a stored user id as it should be now; null where it is to be dropped';

CREATE FUNCTION tally_internal.closed_body(tenant_id text, batch_id int8, "position" int4, body text) RETURNS text
  LANGUAGE c VOLATILE PARALLEL UNSAFE STRICT AS 'MODULE_PATHNAME', 'closed_body_wrapper';
COMMENT ON FUNCTION tally_internal.closed_body(text, int8, int4, text) IS
  'the text of a quarantined event, closed up; null where it stays as it is';

CREATE FUNCTION tally_internal.renew_events(tenant text, max_rows int8) RETURNS int8
  LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE STRICT
  SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  renewal tally.privacy_renewal;
  seen    record;
BEGIN
  SELECT r.* INTO STRICT renewal FROM tally.privacy_renewal AS r WHERE r.tenant_id = tenant FOR UPDATE;
  IF renewal.month IS NULL OR to_regclass(format('tally.%I', renewal.month)) IS NULL THEN
    renewal.month := (SELECT min(leaf.relname::text COLLATE "C") FROM pg_partition_tree('tally.events') AS t JOIN pg_class AS leaf ON leaf.oid = t.relid
                       WHERE t.isleaf AND leaf.relname COLLATE "C" > renewal.months_done);
    renewal.after_account := NULL;
    renewal.after_time := NULL;
    IF renewal.month IS NULL THEN
      UPDATE tally.privacy_renewal AS r SET stage = 2, month = NULL, updated_at = clock_timestamp() WHERE r.tenant_id = tenant;
      RETURN 1;
    END IF;
  END IF;
  -- In the order of the table's index. Those that stand at the same moment as the last one belong to the step, too.
  EXECUTE format($query$
    WITH piece AS MATERIALIZED (
      SELECT e.ctid AS place, e.account_id, e.occurred_at, e.user_id,
             tally_internal.renewed_event_properties(e.tenant_id, e.name, e.event_id, e.properties::text) AS properties,
             CASE WHEN e.user_id IS NOT NULL THEN tally_internal.renewed_user_id(e.tenant_id, e.name, e.user_id) END AS new_user
        FROM (SELECT e.ctid, e.* FROM tally.%I AS e
               WHERE e.tenant_id = $1 AND ($2::text IS NULL OR (e.account_id, e.occurred_at) > ($2, $3))
               ORDER BY e.account_id, e.occurred_at FETCH FIRST $4 ROWS WITH TIES) AS e
    ), changed AS (
      UPDATE tally.%1$I AS e SET properties = coalesce(p.properties::jsonb, e.properties), user_id = p.new_user
        FROM piece AS p
       WHERE e.ctid = p.place AND (p.properties IS NOT NULL OR p.new_user IS DISTINCT FROM p.user_id)
      RETURNING e.occurred_at, p.new_user IS DISTINCT FROM p.user_id AS is_of_user
    )
    SELECT (SELECT count(*) FROM piece) AS read, (SELECT count(*) FROM changed) AS written,
           (SELECT min(c.occurred_at) FROM changed AS c WHERE c.is_of_user) AS users_from,
           (SELECT max(c.occurred_at) FROM changed AS c WHERE c.is_of_user) AS users_to,
           (SELECT p.account_id FROM piece AS p ORDER BY p.account_id DESC, p.occurred_at DESC LIMIT 1) AS account,
           (SELECT p.occurred_at FROM piece AS p ORDER BY p.account_id DESC, p.occurred_at DESC LIMIT 1) AS moment
    $query$, renewal.month) INTO seen USING tenant, renewal.after_account, renewal.after_time, max_rows;
  UPDATE tally.privacy_renewal AS r
     SET rows_read = r.rows_read + seen.read, rows_changed = r.rows_changed + seen.written, updated_at = clock_timestamp(),
         users_from = least(r.users_from, seen.users_from), users_to = greatest(r.users_to, seen.users_to),
         month = CASE WHEN seen.read >= max_rows THEN renewal.month END,
         months_done = CASE WHEN seen.read >= max_rows THEN r.months_done ELSE renewal.month END,
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
AS $$
DECLARE
  written int8;
  is_left boolean;
BEGIN
  -- Who rotates the keys writes this row, too.
  PERFORM FROM tally.privacy_renewal AS r WHERE r.tenant_id = tenant AND r.stage = 3 FOR UPDATE;
  IF NOT FOUND THEN
    RETURN 1;
  END IF;
  WITH piece AS MATERIALIZED (
    SELECT q.ctid AS place, tally_internal.closed_body(q.tenant_id, q.batch_id, q."position", q.body) AS body
      FROM (SELECT q.ctid, q.* FROM tally.quarantine AS q WHERE q.tenant_id = tenant AND q.body !~ '^box\.[0-9]+\.[A-Za-z0-9_-]{64,}$'
             LIMIT max_rows FOR UPDATE SKIP LOCKED) AS q
  )
  UPDATE tally.quarantine AS q SET body = p.body, reason = 'it is closed up; tally.redrive() tells what is wrong with it'
    FROM piece AS p WHERE q.ctid = p.place AND p.body IS NOT NULL;
  GET DIAGNOSTICS written = ROW_COUNT;
  is_left := written = 0 AND EXISTS (SELECT FROM tally.quarantine AS q WHERE q.tenant_id = tenant
                                       AND tally_internal.closed_body(q.tenant_id, q.batch_id, q."position", q.body) IS NOT NULL);
  UPDATE tally.privacy_renewal AS r
     SET rows_read = r.rows_read + written, rows_changed = r.rows_changed + written, updated_at = clock_timestamp(),
         stage = CASE WHEN written = 0 AND NOT is_left THEN 4 ELSE r.stage END,
         finished_at = CASE WHEN written = 0 AND NOT is_left THEN clock_timestamp() END
   WHERE r.tenant_id = tenant;
  IF is_left THEN
    -- In a redrive's hands: they come in another round.
    RETURN written;
  ELSIF written = 0 THEN
    PERFORM tally_internal.retire_privacy_keys(k.tenant_id, k.newest) FROM tally.privacy_key AS k WHERE k.tenant_id = tenant;
    RETURN 0;
  END IF;
  RETURN written;
END
$$;
COMMENT ON FUNCTION tally_internal.renew_quarantine(text, int8) IS 'part of a step: some of a tenant''s quarantined events';

CREATE FUNCTION tally_internal.renew_stored(tenant_id text, max_rows int8) RETURNS int8
  LANGUAGE c VOLATILE PARALLEL UNSAFE STRICT AS 'MODULE_PATHNAME', 'renew_stored_wrapper';
COMMENT ON FUNCTION tally_internal.renew_stored(text, int8) IS
  'one bounded step of going through what is stored of a tenant; 0 where nothing is left';

CREATE FUNCTION tally_internal.note_rollup_renewed(tenant_id text, rollup_name text) RETURNS void
  LANGUAGE sql VOLATILE PARALLEL UNSAFE CALLED ON NULL INPUT SECURITY DEFINER
  SET search_path = pg_catalog, pg_temp
AS $$
  UPDATE tally.privacy_renewal AS r
     SET stage = CASE WHEN note_rollup_renewed.rollup_name IS NULL THEN 3 ELSE 2 END,
         rollup_done = coalesce(note_rollup_renewed.rollup_name, r.rollup_done), updated_at = clock_timestamp()
   WHERE r.tenant_id = note_rollup_renewed.tenant_id AND r.stage = 2;
$$;
COMMENT ON FUNCTION tally_internal.note_rollup_renewed(text, text) IS
  'part of a step: a rollup was made anew from a tenant''s changed user ids; null where there was none left';

CREATE FUNCTION tally_internal.note_rollup_left(tenant_id text, rollup_name text) RETURNS void
  LANGUAGE sql VOLATILE PARALLEL UNSAFE STRICT SECURITY DEFINER
  SET search_path = pg_catalog, pg_temp
AS $$
  UPDATE tally.privacy_renewal AS r
     SET left_in = array_append(r.left_in, note_rollup_left.rollup_name)
   WHERE r.tenant_id = note_rollup_left.tenant_id AND note_rollup_left.rollup_name <> ALL (r.left_in);
$$;
COMMENT ON FUNCTION tally_internal.note_rollup_left(text, text) IS 'part of a step: a rollup that can''t be made anew';

CREATE FUNCTION tally_internal.task_privacy() RETURNS TABLE (place int4, subject text)
  LANGUAGE sql STABLE PARALLEL SAFE STRICT
  SET search_path = pg_catalog, pg_temp
  BEGIN ATOMIC
    SELECT 6, r.tenant_id FROM tally.privacy_renewal AS r WHERE r.finished_at IS NULL;
  END;
COMMENT ON FUNCTION tally_internal.task_privacy() IS 'task of maintain(): does to what is stored what declarations and keys of now say';

CREATE FUNCTION tally_internal.step_privacy(subject text, max_rows int8, OUT done int8, OUT is_over boolean) RETURNS record
  LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE STRICT
  SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  renewal     tally.privacy_renewal := (SELECT r FROM tally.privacy_renewal AS r WHERE r.tenant_id = subject);
  next_rollup text;
BEGIN
  IF renewal.stage = 2 THEN
    next_rollup := (SELECT min(r.rollup_name) FROM tally.rollup AS r
                     WHERE r.rollup_name > renewal.rollup_done AND renewal.users_from IS NOT NULL
                       AND (position('user_id' IN r.filter) > 0
                            OR EXISTS (SELECT FROM tally.rollup_column AS c WHERE c.rollup_name = r.rollup_name AND position('user_id' IN c.expression) > 0)));
    IF next_rollup IS NOT NULL THEN
      BEGIN
        done := tally.rebuild_rollup(next_rollup, renewal.users_from, renewal.users_to + interval '1 microsecond', subject);
      EXCEPTION WHEN object_not_in_prerequisite_state THEN
        -- Raw events of its coarsest buckets are gone: it can't be made anew, and nothing else may wait for that for ever.
        RAISE WARNING USING MESSAGE = format('rollup %I keeps user ids of tenant "%s" as they were sent: %s', next_rollup, subject, SQLERRM);
        PERFORM tally_internal.note_rollup_left(subject, next_rollup);
      END;
    END IF;
    PERFORM tally_internal.note_rollup_renewed(subject, next_rollup);
    done := greatest(done, 1);
  ELSE
    done := tally_internal.renew_stored(subject, least(max_rows, 20000));
  END IF;
  is_over := done = 0;
END
$$;
COMMENT ON FUNCTION tally_internal.step_privacy(text, int8) IS 'one step of it';

ALTER FUNCTION tally_internal.note_rollup_renewed(text, text) OWNER TO tally_owner;
ALTER FUNCTION tally_internal.note_rollup_left(text, text) OWNER TO tally_owner;
REVOKE ALL ON FUNCTION tally_internal.note_rollup_renewed(text, text), tally_internal.note_rollup_left(text, text), tally_internal.renewed_event_properties(text, text, uuid, text), tally_internal.renewed_user_id(text, text, text),
  tally_internal.closed_body(text, int8, int4, text), tally_internal.renew_events(text, int8), tally_internal.renew_quarantine(text, int8),
  tally_internal.renew_stored(text, int8), tally_internal.task_privacy(), tally_internal.step_privacy(text, int8) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tally_internal.renewed_event_properties(text, text, uuid, text), tally_internal.renewed_user_id(text, text, text),
  tally_internal.closed_body(text, int8, int4, text), tally_internal.renew_events(text, int8), tally_internal.renew_quarantine(text, int8) TO tally_owner;
GRANT EXECUTE ON FUNCTION tally_internal.note_rollup_renewed(text, text), tally_internal.note_rollup_left(text, text), tally_internal.renew_stored(text, int8), tally_internal.task_privacy(), tally_internal.step_privacy(text, int8) TO tally_admin;
