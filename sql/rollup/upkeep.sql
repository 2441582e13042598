-- Looking after rollups: proving, rebuilding and watching them, and dropping raw events that they have folded.

CREATE TABLE tally.rollup_fold (
  last_fold_at timestamptz NOT NULL,
  rows_folded  int8 NOT NULL,
  rollup_name  text COLLATE "C" NOT NULL CONSTRAINT rollup_fold_pkey PRIMARY KEY
);
COMMENT ON TABLE tally.rollup_fold IS 'what was folded, one row a rollup';
COMMENT ON COLUMN tally.rollup_fold.last_fold_at IS 'when pending rows were last folded';
COMMENT ON COLUMN tally.rollup_fold.rows_folded IS 'pending rows ever folded';
COMMENT ON COLUMN tally.rollup_fold.rollup_name IS 'the rollup';

CREATE TABLE tally.raw_horizon (
  raw_from   timestamptz NOT NULL CONSTRAINT raw_horizon_pkey PRIMARY KEY,
  dropped_at timestamptz NOT NULL DEFAULT now(),
  dropped_by name NOT NULL DEFAULT session_user
);
COMMENT ON TABLE tally.raw_horizon IS 'how far raw events were dropped: buckets from before the latest horizon are frozen';
COMMENT ON COLUMN tally.raw_horizon.raw_from IS 'events from before this moment were dropped';
COMMENT ON COLUMN tally.raw_horizon.dropped_at IS 'when';
COMMENT ON COLUMN tally.raw_horizon.dropped_by IS 'the role that logged in and dropped them';

ALTER TABLE tally.rollup_fold OWNER TO tally_owner;
ALTER TABLE tally.raw_horizon OWNER TO tally_owner;
SELECT tally_internal.confine_table('tally.rollup_fold'), tally_internal.confine_table('tally.raw_horizon');
REVOKE ALL ON tally.rollup_fold, tally.raw_horizon FROM PUBLIC;
GRANT SELECT ON tally.rollup_fold, tally.raw_horizon TO tally_analyst, tally_auditor;
SELECT pg_catalog.pg_extension_config_dump('tally.rollup_fold', '');
SELECT pg_catalog.pg_extension_config_dump('tally.raw_horizon', '');

CREATE FUNCTION tally.verify_rollup(rollup_name text, "from" timestamptz DEFAULT NULL, "to" timestamptz DEFAULT NULL,
    tenant text DEFAULT NULL)
  RETURNS TABLE (grain text, tenant_id text, account_id text, bucket timestamptz, dimensions jsonb, measure text,
    stored text, recomputed text)
  LANGUAGE c VOLATILE PARALLEL UNSAFE CALLED ON NULL INPUT AS 'MODULE_PATHNAME', 'verify_rollup_wrapper';
COMMENT ON FUNCTION tally.verify_rollup(text, timestamptz, timestamptz, text) IS
  'differences between what a rollup shows and a recomputation from the events in scope, none where all is well: counts, sums, extremes and distinct sketches exactly, percentiles by number, extremes, sum and values or ranks; stored states that can not be read, whether or not the events are there; frozen buckets against finer ones';

CREATE FUNCTION tally.rebuild_rollup(rollup_name text, "from" timestamptz DEFAULT NULL, "to" timestamptz DEFAULT NULL,
    tenant text DEFAULT NULL) RETURNS int8
  LANGUAGE c VOLATILE PARALLEL UNSAFE CALLED ON NULL INPUT AS 'MODULE_PATHNAME', 'rebuild_rollup_wrapper';
COMMENT ON FUNCTION tally.rebuild_rollup(text, timestamptz, timestamptz, text) IS
  'makes the buckets of a range of time, widened to whole buckets of every grain, anew from the events; returns how many it read; ingest waits meanwhile, readers do not';

CREATE FUNCTION tally_internal.renewable_times(rollup_name text, "from" timestamptz, "to" timestamptz, tenant_id text, column_names text[])
  RETURNS TABLE (begins timestamptz, ends timestamptz, is_renewable boolean)
  LANGUAGE c VOLATILE PARALLEL UNSAFE STRICT AS 'MODULE_PATHNAME', 'renewable_times_wrapper';
COMMENT ON FUNCTION tally_internal.renewable_times(text, timestamptz, timestamptz, text, text[]) IS
  'a range of time, widened to whole buckets of every grain, in parts: whether a tenant''s raw events of these buckets are all there, so that tally.rebuild_rollup() makes them anew; of those of which some are gone the ones in which the rollup has a value in any of these columns';
REVOKE ALL ON FUNCTION tally_internal.renewable_times(text, timestamptz, timestamptz, text, text[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tally_internal.renewable_times(text, timestamptz, timestamptz, text, text[]) TO tally_owner;

CREATE FUNCTION tally.drop_raw(before timestamptz) RETURNS SETOF text
  LANGUAGE c VOLATILE PARALLEL UNSAFE CALLED ON NULL INPUT AS 'MODULE_PATHNAME', 'drop_raw_wrapper';
COMMENT ON FUNCTION tally.drop_raw(timestamptz) IS
  'drops the raw events of whole months before a moment and returns the partitions; refuses while a rollup has pending rows of buckets that end by then; the ledger keeps their keys, the rollups their numbers';

CREATE FUNCTION tally.record_lost_months() RETURNS SETOF text
  LANGUAGE c VOLATILE PARALLEL UNSAFE STRICT AS 'MODULE_PATHNAME', 'record_lost_months_wrapper';
COMMENT ON FUNCTION tally.record_lost_months() IS
  'for months that somebody dropped or detached by hand and that will not come back: notes that their raw events are gone, as drop_raw() would have, and whose; returns the months. Buckets from before the end of the last one are frozen from then on: rebuild_rollup() and alter_rollup() leave them as they are. Refuses while a rollup has pending rows of buckets that end by then';

CREATE FUNCTION tally.rollup_status()
  RETURNS TABLE (rollup_name text, grains text[], pending_rows int8, pending_bytes int8,
    oldest_pending_bucket timestamptz, last_fold_at timestamptz, rows_folded int8, lag interval)
  -- No subtransaction is to be had in a parallel plan.
  LANGUAGE plpgsql STABLE PARALLEL UNSAFE
  SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  declared record;
BEGIN
  FOR declared IN
    SELECT r.rollup_name, r.grains, r.declared_at, f.last_fold_at, coalesce(f.rows_folded, 0) AS rows_folded
      FROM tally.rollup AS r LEFT JOIN tally.rollup_fold AS f USING (rollup_name) ORDER BY r.rollup_name
  LOOP
    BEGIN
      EXECUTE format('SELECT count(*), min(bucket) FROM tally.%I', declared.rollup_name || '_pending')
        INTO pending_rows, oldest_pending_bucket;
      pending_bytes := pg_table_size(format('tally.%I', declared.rollup_name || '_pending')::regclass);
    EXCEPTION WHEN undefined_table THEN
      -- Dropped since the names were read, by a transaction that this one waited for. Of tables that somebody took away by hand, ingest tells.
      CONTINUE;
    END;
    rollup_name := declared.rollup_name;
    grains := declared.grains;
    last_fold_at := declared.last_fold_at;
    rows_folded := declared.rows_folded;
    lag := CASE WHEN pending_rows = 0 THEN interval '0'
                -- What a clock that was ahead has written tells nothing.
                ELSE greatest(clock_timestamp() - coalesce(CASE WHEN declared.last_fold_at <= clock_timestamp() THEN declared.last_fold_at END, declared.declared_at), interval '0') END;
    RETURN NEXT;
  END LOOP;
END
$$;
COMMENT ON FUNCTION tally.rollup_status() IS
  'one row a rollup: pending rows in scope, bytes of the pending table, the oldest bucket among them, the last fold, and lag: at most how long the oldest pending row has waited (readers see it all the while)';

CREATE FUNCTION tally.freshness(rollup_name text) RETURNS float8
  LANGUAGE sql STABLE PARALLEL UNSAFE STRICT
  SET search_path = pg_catalog, pg_temp
AS $$
  SELECT extract(epoch FROM s.lag)::float8 FROM tally.rollup_status() AS s
   WHERE s.rollup_name = freshness.rollup_name
$$;
COMMENT ON FUNCTION tally.freshness(text) IS
  'seconds for which pending rows of a rollup have waited to be folded at most, 0 where none wait; null where there is no such rollup';

CREATE FUNCTION tally_internal.missing_months() RETURNS SETOF text
  LANGUAGE c STABLE PARALLEL UNSAFE STRICT AS 'MODULE_PATHNAME', 'missing_months_wrapper';
COMMENT ON FUNCTION tally_internal.missing_months() IS
  'months, as YYYY-MM, of which the rollup usage has numbers and tally.events has no partition, although neither retention nor tally.drop_raw() nor tally.detach_raw() took them out; reads the whole rollup';
REVOKE ALL ON FUNCTION tally_internal.missing_months() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tally_internal.missing_months() TO tally_admin, tally_auditor;

REVOKE ALL ON FUNCTION tally.verify_rollup(text, timestamptz, timestamptz, text),
  tally.rebuild_rollup(text, timestamptz, timestamptz, text), tally.drop_raw(timestamptz), tally.record_lost_months(), tally.rollup_status(),
  tally.freshness(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tally.verify_rollup(text, timestamptz, timestamptz, text),
  tally.rebuild_rollup(text, timestamptz, timestamptz, text), tally.drop_raw(timestamptz), tally.record_lost_months() TO tally_admin;
GRANT EXECUTE ON FUNCTION tally.rollup_status(), tally.freshness(text) TO tally_analyst;

CREATE FUNCTION tally_internal.task_backfill() RETURNS TABLE (place int4, subject text)
  LANGUAGE sql STABLE PARALLEL SAFE STRICT
  SET search_path = pg_catalog, pg_temp
  BEGIN ATOMIC
    SELECT 2, r.rollup_name FROM tally.rollup AS r;
  END;
COMMENT ON FUNCTION tally_internal.task_backfill() IS 'task of maintain(): fills what waits for its backfill';

CREATE FUNCTION tally_internal.step_backfill(subject text, max_rows int8, OUT done int8, OUT is_over boolean) RETURNS record
  LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE STRICT
  SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  done := tally.backfill(subject, max_rows);
  is_over := done = 0;
END
$$;
COMMENT ON FUNCTION tally_internal.step_backfill(text, int8) IS 'one step of it; says how much it did, and whether nothing is left for now';

REVOKE ALL ON FUNCTION tally_internal.task_backfill(), tally_internal.step_backfill(text, int8) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tally_internal.task_backfill(), tally_internal.step_backfill(text, int8) TO tally_admin;

CREATE FUNCTION tally_internal.task_fold() RETURNS TABLE (place int4, subject text)
  LANGUAGE sql STABLE PARALLEL SAFE STRICT
  SET search_path = pg_catalog, pg_temp
  BEGIN ATOMIC
    SELECT 3, r.rollup_name FROM tally.rollup AS r;
  END;
COMMENT ON FUNCTION tally_internal.task_fold() IS 'task of maintain(): folds pending rows';

CREATE FUNCTION tally_internal.fold_step(rollup_name text, max_rows int8) RETURNS int8
  LANGUAGE c VOLATILE PARALLEL UNSAFE STRICT AS 'MODULE_PATHNAME', 'fold_step_wrapper';
COMMENT ON FUNCTION tally_internal.fold_step(text, int8) IS
  'as tally.fold(), but null where another session is folding the rollup; a process that folds on behalf of ingest is waited for until it has folded its piece, at most a second';
REVOKE ALL ON FUNCTION tally_internal.fold_step(text, int8) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tally_internal.fold_step(text, int8) TO tally_admin;

CREATE FUNCTION tally_internal.step_fold(subject text, max_rows int8, OUT done int8, OUT is_over boolean) RETURNS record
  LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE STRICT
  SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  done := tally_internal.fold_step(subject, max_rows);
  -- Less than a full step is all: what comes in meanwhile waits for the next round.
  is_over := coalesce(done < max_rows, true);
END
$$;
COMMENT ON FUNCTION tally_internal.step_fold(text, int8) IS 'one step of it; says how much it did, null where another session is at it, and whether nothing is left for now';

REVOKE ALL ON FUNCTION tally_internal.task_fold(), tally_internal.step_fold(text, int8) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tally_internal.task_fold(), tally_internal.step_fold(text, int8) TO tally_admin;

CREATE FUNCTION tally_internal.health_rollups()
  RETURNS TABLE (place int4, component text, status text, value float8, "limit" float8, advice text)
  LANGUAGE plpgsql STABLE PARALLEL UNSAFE STRICT
  SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  declared record;
  space float8;
BEGIN
  FOR declared IN SELECT s.rollup_name, s.pending_bytes, s.pending_rows, s.lag FROM tally.rollup_status() AS s LOOP
    place := 5;
    component := 'rollup ' || declared.rollup_name;
    value := declared.pending_rows;
    -- A row has some 128 bytes, as ingest reckons.
    "limit" := 2 * pg_size_bytes(current_setting('tally.pending_limit')) / 128;
    space := declared.pending_bytes - 1024 * declared.pending_rows - 8 * pg_size_bytes(current_setting('tally.pending_limit'));
    status := CASE WHEN value > 4 * "limit" THEN 'failing' WHEN value > "limit" OR space > 0 THEN 'warning' ELSE 'ok' END;
    advice := CASE WHEN value > "limit" THEN format('%s pending rows make readers slow, the last fold was %s ago: CALL tally.maintain() more often', value, declared.lag)
                   WHEN space > 0 THEN format('%s pending rows in %s of pages, which readers pass through: VACUUM tally.%I, and see why autovacuum does not come by (an old transaction, pg_stat_activity.backend_xmin)',
                                              value, pg_size_pretty(declared.pending_bytes), declared.rollup_name || '_pending') END;
    RETURN NEXT;
  END LOOP;
END
$$;
COMMENT ON FUNCTION tally_internal.health_rollups() IS 'part of tally.health(): pending rows';
REVOKE ALL ON FUNCTION tally_internal.health_rollups() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tally_internal.health_rollups() TO tally_admin;
