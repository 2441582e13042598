-- Retention: how long each tenant's raw events are kept. src/retention.rs removes what is older, in steps.

CREATE TABLE tally.retention (
  keep      interval NOT NULL,
  set_at    timestamptz NOT NULL DEFAULT now(),
  set_by    name NOT NULL DEFAULT session_user,
  tenant_id text COLLATE "C" NOT NULL CONSTRAINT retention_pkey PRIMARY KEY,
  CONSTRAINT retention_is_a_day_or_longer CHECK (keep >= interval '1 day')
);
COMMENT ON TABLE tally.retention IS 'how long raw events are kept; a tenant without a row, and without a default, keeps them for ever';
COMMENT ON COLUMN tally.retention.keep IS 'events older than this are removed by maintain()';
COMMENT ON COLUMN tally.retention.set_at IS 'when it was set';
COMMENT ON COLUMN tally.retention.set_by IS 'the role that logged in and set it';
COMMENT ON COLUMN tally.retention.tenant_id IS 'the tenant; empty for the default of every tenant without a row';

CREATE TABLE tally.tenant_horizon (
  raw_from    timestamptz NOT NULL,
  pruned_from timestamptz NOT NULL DEFAULT '-infinity',
  tenant_id   text COLLATE "C" NOT NULL CONSTRAINT tenant_horizon_pkey PRIMARY KEY
);
COMMENT ON TABLE tally.tenant_horizon IS 'how far retention has come with each tenant; it never goes back';
COMMENT ON COLUMN tally.tenant_horizon.raw_from IS 'earlier events are rejected as too late, and buckets that begin earlier are frozen';
COMMENT ON COLUMN tally.tenant_horizon.pruned_from IS 'earlier events are gone, and their keys from the ledger';
COMMENT ON COLUMN tally.tenant_horizon.tenant_id IS 'the tenant';

ALTER TABLE tally.retention OWNER TO tally_owner;
ALTER TABLE tally.tenant_horizon OWNER TO tally_owner;
SELECT tally_internal.confine_table('tally.retention'), tally_internal.confine_table('tally.tenant_horizon');
REVOKE ALL ON tally.retention, tally.tenant_horizon FROM PUBLIC;
GRANT SELECT ON tally.retention, tally.tenant_horizon TO tally_analyst, tally_auditor;
SELECT pg_catalog.pg_extension_config_dump('tally.retention', '');
SELECT pg_catalog.pg_extension_config_dump('tally.tenant_horizon', '');

CREATE FUNCTION tally.set_retention(tenant_id text, keep interval) RETURNS void
  LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE CALLED ON NULL INPUT SECURITY DEFINER
  SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  IF set_retention.tenant_id IS NOT NULL THEN
    PERFORM tally_internal.check_id('tenant_id', set_retention.tenant_id);
  END IF;
  IF set_retention.keep < interval '1 day' THEN
    RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
      MESSAGE = pg_catalog.format('%s is too short a retention', set_retention.keep),
      HINT = 'keep events for a day or longer: retention goes by whole days (UTC)';
  END IF;
  IF set_retention.keep > interval '1000 years' THEN
    RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
      MESSAGE = pg_catalog.format('%s is too long a retention', set_retention.keep),
      HINT = 'keep events for 1,000 years or less, or for ever: null';
  END IF;
  IF set_retention.keep IS NULL THEN
    DELETE FROM tally.retention AS r WHERE r.tenant_id = coalesce(set_retention.tenant_id, '');
  ELSE
    INSERT INTO tally.retention AS r (keep, tenant_id) VALUES (set_retention.keep, coalesce(set_retention.tenant_id, ''))
    ON CONFLICT ON CONSTRAINT retention_pkey DO UPDATE SET keep = excluded.keep, set_at = excluded.set_at, set_by = excluded.set_by;
  END IF;
END
$$;
COMMENT ON FUNCTION tally.set_retention(text, interval) IS
  'keeps a tenant''s raw events for so long, in whole days, null for ever; for the tenant null: the default of every tenant that has none of its own. maintain() removes what is older, with its keys in the ledger, its batches and what waits of them in quarantine, once it is folded; from then on such events are rejected with SQLSTATE 22T11. Rollups keep their numbers';

CREATE FUNCTION tally.retain(max_rows int8 DEFAULT 50000) RETURNS int8
  LANGUAGE c VOLATILE PARALLEL UNSAFE CALLED ON NULL INPUT AS 'MODULE_PATHNAME', 'retain_wrapper';
COMMENT ON FUNCTION tally.retain(int8) IS
  'one step of retention: moves the tenants'' horizons to today''s, or drops a month that every tenant''s retention has passed, or removes at most max_rows events or keys of one tenant; returns how many, 0 where nothing is left or something waits to be folded first';

CREATE FUNCTION tally.detach_raw(before timestamptz) RETURNS SETOF text
  LANGUAGE c VOLATILE PARALLEL UNSAFE CALLED ON NULL INPUT AS 'MODULE_PATHNAME', 'detach_raw_wrapper';
COMMENT ON FUNCTION tally.detach_raw(timestamptz) IS
  'as drop_raw(), but leaves the events of each month behind as a table of its own, tally.detached_events_YYYY_MM, with row security as before, to be exported or dropped by name; returns the tables';

-- Called with the partitions locked.
CREATE FUNCTION tally_internal.move_partitions(before timestamptz, tablespace name) RETURNS SETOF text
  LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE STRICT
  SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  part record;
BEGIN
  FOR part IN
    SELECT c.oid, c.relname
      FROM pg_inherits AS i JOIN pg_class AS m ON m.oid = i.inhrelid
      CROSS JOIN pg_partition_tree(m.oid) AS t JOIN pg_class AS c ON c.oid = t.relid AND t.isleaf
     WHERE i.inhparent = 'tally.events'::regclass AND m.relname ~ '^events_p[0-9]{4,}_[0-9]{2}$'
       AND to_date(substr(m.relname, 9), 'YYYY_MM') + interval '1 month' <= before AT TIME ZONE 'UTC'
       AND c.reltablespace IS DISTINCT FROM (SELECT t.oid FROM pg_tablespace AS t WHERE t.spcname = move_partitions.tablespace)
     ORDER BY c.relname
  LOOP
    EXECUTE format('ALTER TABLE tally.%I SET TABLESPACE %I', part.relname, move_partitions.tablespace);
    EXECUTE (SELECT string_agg(format('ALTER INDEX tally.%I SET TABLESPACE %I', c.relname, move_partitions.tablespace), '; ')
               FROM pg_index AS x JOIN pg_class AS c ON c.oid = x.indexrelid WHERE x.indrelid = part.oid);
    RETURN NEXT part.relname;
  END LOOP;
END
$$;
COMMENT ON FUNCTION tally_internal.move_partitions(timestamptz, name) IS
  'moves the partitions of whole months before a moment, with their indexes, to a tablespace; called by tally.move_raw()';

CREATE FUNCTION tally.move_raw(before timestamptz, tablespace name) RETURNS SETOF text
  LANGUAGE c VOLATILE PARALLEL UNSAFE CALLED ON NULL INPUT AS 'MODULE_PATHNAME', 'move_raw_wrapper';
COMMENT ON FUNCTION tally.move_raw(timestamptz, name) IS
  'moves the partitions of whole months before a moment, with their indexes, to a tablespace, on which tally_owner needs CREATE; returns those it moved; ingest and readers wait meanwhile, until the transaction ends';

ALTER FUNCTION tally.set_retention(text, interval) OWNER TO tally_owner;
ALTER FUNCTION tally.move_raw(timestamptz, name) OWNER TO tally_owner;
REVOKE ALL ON FUNCTION tally.set_retention(text, interval), tally.retain(int8), tally.detach_raw(timestamptz),
  tally.move_raw(timestamptz, name), tally_internal.move_partitions(timestamptz, name) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tally_internal.move_partitions(timestamptz, name) TO tally_owner;
GRANT EXECUTE ON FUNCTION tally.set_retention(text, interval), tally.retain(int8), tally.detach_raw(timestamptz),
  tally.move_raw(timestamptz, name) TO tally_admin;

CREATE FUNCTION tally_internal.task_retention() RETURNS TABLE (place int4, subject text)
  LANGUAGE sql STABLE PARALLEL SAFE STRICT
  SET search_path = pg_catalog, pg_temp
  BEGIN ATOMIC
    SELECT 4, ''::text;
  END;
COMMENT ON FUNCTION tally_internal.task_retention() IS 'task of maintain(): removes raw events that have been kept long enough';

CREATE FUNCTION tally_internal.step_retention(subject text, max_rows int8, OUT done int8, OUT is_over boolean) RETURNS record
  LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE STRICT
  SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  done := tally.retain(max_rows);
  is_over := done = 0;
END
$$;
COMMENT ON FUNCTION tally_internal.step_retention(text, int8) IS 'one step of it; says how much it did, and whether nothing is left for now';

REVOKE ALL ON FUNCTION tally_internal.task_retention(), tally_internal.step_retention(text, int8) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tally_internal.task_retention(), tally_internal.step_retention(text, int8) TO tally_admin;
