-- Housekeeping, and what a DBA looks at first.

CREATE FUNCTION tally.make_partitions(months int4 DEFAULT 2) RETURNS int8
  LANGUAGE c VOLATILE PARALLEL UNSAFE CALLED ON NULL INPUT AS 'MODULE_PATHNAME', 'make_partitions_wrapper';
COMMENT ON FUNCTION tally.make_partitions(int4) IS
  'makes the partitions of this month (UTC) and of so many months after it, at most 120, each with row security before anyone can see it; returns how many were missing';

CREATE TABLE tally.maintenance (
  started_at  timestamptz NOT NULL,
  finished_at timestamptz NOT NULL,
  failed_at   timestamptz,
  done        int8 NOT NULL,
  failures    int8 NOT NULL DEFAULT 0,
  task        text COLLATE "C" NOT NULL,
  subject     text COLLATE "C" NOT NULL,
  caller      name NOT NULL,
  sqlstate    text,
  problem     text,
  CONSTRAINT maintenance_pkey PRIMARY KEY (task, subject)
);
COMMENT ON TABLE tally.maintenance IS 'what maintain() and the worker did last, one row a task; noted when there was work or a failure, and once a minute';
COMMENT ON COLUMN tally.maintenance.started_at IS 'when the last step began';
COMMENT ON COLUMN tally.maintenance.finished_at IS 'when the last step that succeeded ended';
COMMENT ON COLUMN tally.maintenance.failed_at IS 'when the task failed, where its last step did; otherwise null';
COMMENT ON COLUMN tally.maintenance.done IS 'rows, events or partitions ever worked on';
COMMENT ON COLUMN tally.maintenance.failures IS 'steps that ever failed';
COMMENT ON COLUMN tally.maintenance.task IS 'partitions, backfill, privacy, erasure, fold, retention, statistics, audit, catalog or access';
COMMENT ON COLUMN tally.maintenance.subject IS 'the rollup or the tenant that the task is about; otherwise empty';
COMMENT ON COLUMN tally.maintenance.caller IS 'the role that logged in and ran it';
COMMENT ON COLUMN tally.maintenance.sqlstate IS 'error code, where the last step failed';
COMMENT ON COLUMN tally.maintenance.problem IS 'error message, where the last step failed';
ALTER TABLE tally.maintenance OWNER TO tally_owner;
SELECT tally_internal.confine_table('tally.maintenance');
REVOKE ALL ON tally.maintenance FROM PUBLIC;
GRANT SELECT ON tally.maintenance TO tally_analyst, tally_auditor;
SELECT pg_catalog.pg_extension_config_dump('tally.maintenance', '');

CREATE FUNCTION tally_internal.note_maintenance(task text, subject text, started_at timestamptz, done int8, sqlstate text, problem text)
  RETURNS void
  LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE CALLED ON NULL INPUT
  SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  IF note_maintenance.problem IS NULL AND note_maintenance.done = 0 AND EXISTS (
      SELECT FROM tally.maintenance AS m WHERE m.task = note_maintenance.task AND m.subject = note_maintenance.subject
         -- Not what was noted while the clock was ahead.
         AND m.failed_at IS NULL AND m.finished_at > clock_timestamp() - interval '1 minute' AND m.finished_at <= clock_timestamp()) THEN
    RETURN;
  END IF;
  -- Another session that does the same task notes it, and may take its time.
  PERFORM FROM tally.maintenance AS m WHERE m.task = note_maintenance.task AND m.subject = note_maintenance.subject FOR UPDATE SKIP LOCKED;
  IF NOT FOUND AND EXISTS (SELECT FROM tally.maintenance AS m WHERE m.task = note_maintenance.task AND m.subject = note_maintenance.subject) THEN
    RETURN;
  END IF;
  INSERT INTO tally.maintenance AS m (started_at, finished_at, failed_at, done, failures, task, subject, caller, sqlstate, problem)
  VALUES (note_maintenance.started_at, clock_timestamp(), CASE WHEN note_maintenance.problem IS NOT NULL THEN clock_timestamp() END,
          note_maintenance.done, (note_maintenance.problem IS NOT NULL)::int4, note_maintenance.task, note_maintenance.subject,
          session_user, note_maintenance.sqlstate, note_maintenance.problem)
  ON CONFLICT ON CONSTRAINT maintenance_pkey DO UPDATE SET started_at = excluded.started_at,
    finished_at = CASE WHEN excluded.failed_at IS NULL THEN excluded.finished_at ELSE m.finished_at END,
    failed_at = excluded.failed_at, done = m.done + excluded.done, failures = m.failures + excluded.failures,
    caller = excluded.caller, sqlstate = excluded.sqlstate, problem = excluded.problem;
END
$$;
COMMENT ON FUNCTION tally_internal.note_maintenance(text, text, timestamptz, int8, text, text) IS
  'writes down what a step of maintenance did; called by tally_internal.maintain_step(), and by processes that fold, as the owner';

-- A rollup that was dropped, or a task that is done for good, isn't tried again: nothing would ever take its failure back.
CREATE FUNCTION tally_internal.clear_failures(tasks text[], subjects text[]) RETURNS void
  LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE STRICT
  SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  IF EXISTS (SELECT FROM tally.maintenance AS m WHERE m.failed_at IS NOT NULL) THEN
    UPDATE tally.maintenance AS u SET failed_at = NULL, sqlstate = NULL, problem = NULL
     WHERE (u.task, u.subject) IN (SELECT m.task, m.subject FROM tally.maintenance AS m
                                    WHERE m.failed_at IS NOT NULL
                                      AND (m.task, m.subject) NOT IN (SELECT t.task, t.subject FROM unnest(clear_failures.tasks, clear_failures.subjects) AS t (task, subject))
                                      FOR UPDATE SKIP LOCKED);
  END IF;
END
$$;
COMMENT ON FUNCTION tally_internal.clear_failures(text[], text[]) IS
  'takes back from tally.maintenance that tasks failed which are not among these; called by tally_internal.maintenance_round(), as the owner';

-- Partitioned tables aren't analysed by autovacuum.
CREATE FUNCTION tally_internal.analyze_events() RETURNS int8
  LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE STRICT SECURITY DEFINER
  SET search_path = pg_catalog, pg_temp
  SET lock_timeout = '300ms' -- who makes a partition is in its way, and it comes again
AS $$
BEGIN
  IF EXISTS (SELECT FROM pg_stat_all_tables AS s WHERE s.relid = 'tally.events'::regclass
                AND s.last_analyze > clock_timestamp() - interval '1 day' AND s.last_analyze <= clock_timestamp()) THEN
    RETURN 0;
  END IF;
  ANALYZE tally.events;
  RETURN 1;
END
$$;
COMMENT ON FUNCTION tally_internal.analyze_events() IS 'makes the statistics of tally.events, unless they are from the last 24 hours; returns 1 if it did';

CREATE FUNCTION tally_internal.maintenance_tasks() RETURNS TABLE (task text, subject text)
  LANGUAGE plpgsql STABLE PARALLEL SAFE STRICT
  SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  RETURN QUERY EXECUTE format('SELECT t.registered, t.subject FROM (%s) AS t ORDER BY t.place, t.subject',
                              tally_internal.every('task_', 'r.place, r.subject'));
END
$$;
COMMENT ON FUNCTION tally_internal.maintenance_tasks() IS 'what maintain() and the worker do in a round, in order';

CREATE FUNCTION tally_internal.maintenance_round() RETURNS TABLE (task text, subject text)
  LANGUAGE c VOLATILE PARALLEL UNSAFE STRICT AS 'MODULE_PATHNAME', 'maintenance_round_wrapper';
COMMENT ON FUNCTION tally_internal.maintenance_round() IS
  'begins a round: tally_internal.maintenance_tasks(), and takes back from tally.maintenance that others failed';

CREATE FUNCTION tally_internal.attempt_task(task text, subject text, max_rows int8, OUT done int8, OUT is_over boolean, OUT code text, OUT problem text)
  LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE STRICT
  SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  began timestamptz := clock_timestamp();
BEGIN
  IF attempt_task.task NOT IN (SELECT r.name FROM tally_internal.registered('step_') AS r (name)) THEN
    RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = format('there is no task %I', attempt_task.task),
      HINT = 'tally_internal.maintenance_tasks() lists the tasks';
  END IF;
  IF pg_is_in_recovery() THEN
    RAISE EXCEPTION USING ERRCODE = 'read_only_sql_transaction', MESSAGE = 'cannot execute tally.maintain() during recovery',
      HINT = 'run it on the primary';
  END IF;
  -- A task that fails must not keep the others from being done.
  BEGIN
    EXECUTE format('SELECT s.done, s.is_over FROM tally_internal.%I($1, $2) AS s', 'step_' || attempt_task.task)
      INTO done, is_over USING attempt_task.subject, max_rows;
  EXCEPTION WHEN OTHERS THEN
    done := 0;
    is_over := true;
    GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, problem = MESSAGE_TEXT;
    RAISE WARNING USING ERRCODE = code, MESSAGE = format('pg_tally event=maintain_failed task=%s subject=%s sqlstate=%s ms=%s problem=%s',
      attempt_task.task, quote_ident(attempt_task.subject), code,
      round(extract(epoch FROM clock_timestamp() - began) * 1000), to_json(problem));
  END;
END
$$;
COMMENT ON FUNCTION tally_internal.attempt_task(text, text, int8) IS
  'one bounded step of a task, which is undone where it fails: how much it did, null where another session is at it, whether it is finished for now, and what went wrong; part of tally_internal.maintain_step()';

CREATE FUNCTION tally_internal.maintain_step(task text, subject text, max_rows int8) RETURNS int8
  LANGUAGE c VOLATILE PARALLEL UNSAFE STRICT AS 'MODULE_PATHNAME', 'maintain_step_wrapper';
COMMENT ON FUNCTION tally_internal.maintain_step(text, text, int8) IS
  'one bounded step of a task of tally_internal.maintenance_tasks(); returns how much it did, 0 where the task is finished for now, also where it failed: then a warning is raised and tally.maintenance tells';

-- Names are qualified one by one: a procedure that commits can't fix its search path.
CREATE PROCEDURE tally.maintain(fold_rows int8 DEFAULT 50000)
  LANGUAGE plpgsql
AS $$
DECLARE
  tasks    pg_catalog.text[];
  subjects pg_catalog.text[];
BEGIN
  IF fold_rows IS NULL THEN
    RAISE EXCEPTION USING ERRCODE = 'null_value_not_allowed', MESSAGE = 'fold_rows must be given', HINT = 'leave it out for 50,000';
  END IF;
  -- Each step needs a snapshot of its own, whatever the isolation that the database or the role has by default.
  COMMIT;
  SET TRANSACTION ISOLATION LEVEL READ COMMITTED;
  SELECT pg_catalog.array_agg(t.task), pg_catalog.array_agg(t.subject) INTO tasks, subjects
    FROM tally_internal.maintenance_round() AS t;
  FOR place IN 1 .. pg_catalog.cardinality(tasks) LOOP
    LOOP
      EXIT WHEN coalesce(tally_internal.maintain_step(tasks[place], subjects[place], fold_rows) OPERATOR(pg_catalog.=) 0::pg_catalog.int8, true);
      COMMIT;
      SET TRANSACTION ISOLATION LEVEL READ COMMITTED;
    END LOOP;
    COMMIT;
    SET TRANSACTION ISOLATION LEVEL READ COMMITTED;
  END LOOP;
END
$$;
COMMENT ON PROCEDURE tally.maintain(int8) IS
  'all housekeeping in steps that are committed one by one: partitions ahead, filling what waits for its backfill, folding, retention, statistics; fold_rows events or rows at a time; a task that fails, or that others'' transactions keep from its locks, raises a warning, leaves the others alone and is tried again in the next round; safe to run twice at once, from any scheduler';

ALTER FUNCTION tally_internal.note_maintenance(text, text, timestamptz, int8, text, text) OWNER TO tally_owner;
ALTER FUNCTION tally_internal.clear_failures(text[], text[]) OWNER TO tally_owner;
ALTER FUNCTION tally_internal.analyze_events() OWNER TO tally_owner;
REVOKE ALL ON FUNCTION tally.make_partitions(int4), tally_internal.note_maintenance(text, text, timestamptz, int8, text, text),
  tally_internal.clear_failures(text[], text[]), tally_internal.analyze_events(), tally_internal.maintenance_tasks(), tally_internal.maintenance_round(),
  tally_internal.attempt_task(text, text, int8), tally_internal.maintain_step(text, text, int8) FROM PUBLIC;
REVOKE ALL ON PROCEDURE tally.maintain(int8) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tally.make_partitions(int4), tally_internal.analyze_events(), tally_internal.maintenance_tasks(), tally_internal.maintenance_round(),
  tally_internal.attempt_task(text, text, int8), tally_internal.maintain_step(text, text, int8) TO tally_admin;
GRANT EXECUTE ON PROCEDURE tally.maintain(int8) TO tally_admin;

CREATE FUNCTION tally_internal.health_maintenance()
  RETURNS TABLE (place int4, component text, status text, value float8, "limit" float8, advice text)
  LANGUAGE plpgsql STABLE PARALLEL UNSAFE STRICT
  SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  -- Where nothing has come in yet, nothing is missing.
  is_used boolean := EXISTS (SELECT FROM tally.ingest_batch) OR EXISTS (SELECT FROM tally.maintenance);
  -- What the clock had written while it was ahead says nothing of when anything ran.
  is_ahead boolean := EXISTS (SELECT FROM tally.maintenance AS m WHERE m.task <> 'fold' AND greatest(m.finished_at, m.failed_at) > clock_timestamp());
BEGIN
  place := 8;
  component := 'maintenance';
  value := (SELECT count(*) FROM tally.maintenance AS m WHERE m.failed_at IS NOT NULL);
  "limit" := 0;
  status := CASE WHEN value > 0 THEN 'failing' ELSE 'ok' END;
  advice := (SELECT string_agg(format('%s %s failed at %s with %s: %s', m.task, m.subject, m.failed_at, m.sqlstate, m.problem), '; ' ORDER BY m.task, m.subject)
               FROM tally.maintenance AS m WHERE m.failed_at IS NOT NULL);
  RETURN NEXT;

  place := 9;
  component := 'worker';
  -- Folds are noted by other processes, too.
  value := (SELECT round(extract(epoch FROM clock_timestamp() - max(greatest(m.finished_at, m.failed_at))))
              FROM tally.maintenance AS m WHERE m.task <> 'fold' AND greatest(m.finished_at, m.failed_at) <= clock_timestamp());
  "limit" := 600;
  status := CASE WHEN value IS NULL OR value > "limit" THEN CASE WHEN tally_internal.worker_is_configured() THEN 'failing' WHEN is_used THEN 'warning' ELSE 'ok' END ELSE 'ok' END;
  advice := CASE WHEN status <> 'ok' THEN format('%s: %s', CASE WHEN value IS NULL AND is_ahead THEN 'housekeeping was noted by a clock that was ahead, and has not run since'
                     WHEN value IS NULL THEN 'housekeeping has never run here'
                     ELSE format('housekeeping ran last %s seconds ago', value) END,
                   CASE WHEN tally_internal.worker_is_configured() THEN 'the worker is configured for this database; the server''s log tells why it does not run'
                        ELSE 'schedule CALL tally.maintain(), or configure the worker (tally.worker_databases, tally.worker_role)' END) END;
  RETURN NEXT;
END
$$;
COMMENT ON FUNCTION tally_internal.health_maintenance() IS 'part of tally.health(): tasks that failed, and when any was done';
REVOKE ALL ON FUNCTION tally_internal.health_maintenance() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tally_internal.health_maintenance() TO tally_admin;
