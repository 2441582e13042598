-- Partitions of tally.events: one a month. A month in which tenants are isolated is partitioned again, by tenant: a partition
-- for each of them, and one for the rest. Each is made, secured and attached in one transaction: nobody sees it without row
-- security.

CREATE TABLE tally.isolated_tenant (
  isolated_from  timestamptz NOT NULL,
  isolated_until timestamptz,
  set_at         timestamptz NOT NULL DEFAULT now(),
  number         int4 NOT NULL,
  tenant_id      text COLLATE "C" NOT NULL CONSTRAINT isolated_tenant_pkey PRIMARY KEY,
  set_by         name NOT NULL DEFAULT session_user
);
COMMENT ON TABLE tally.isolated_tenant IS 'tenants whose events have partitions of their own';
COMMENT ON COLUMN tally.isolated_tenant.isolated_from IS 'start of the first month (UTC) that has one';
COMMENT ON COLUMN tally.isolated_tenant.isolated_until IS 'months made for a time after this have none; null while it is isolated';
COMMENT ON COLUMN tally.isolated_tenant.set_at IS 'when it was isolated last';
COMMENT ON COLUMN tally.isolated_tenant.number IS 'stands for the tenant in the names of its partitions, tally.events_pYYYY_MM_t<number>';
COMMENT ON COLUMN tally.isolated_tenant.tenant_id IS 'the tenant';
COMMENT ON COLUMN tally.isolated_tenant.set_by IS 'the role that logged in and isolated it last';
ALTER TABLE tally.isolated_tenant OWNER TO tally_owner;
SELECT tally_internal.secure_table('tally.isolated_tenant');
REVOKE ALL ON tally.isolated_tenant FROM PUBLIC;
GRANT SELECT ON tally.isolated_tenant TO tally_analyst, tally_auditor;
SELECT pg_catalog.pg_extension_config_dump('tally.isolated_tenant', '');

CREATE TABLE tally.raw_month (
  month   timestamptz NOT NULL CONSTRAINT raw_month_pkey PRIMARY KEY,
  lost_at timestamptz
);
COMMENT ON TABLE tally.raw_month IS 'months that had a partition of tally.events and weren''t taken out by pg_tally: one that has no partition now was taken out by hand';
COMMENT ON COLUMN tally.raw_month.month IS 'start of the month (UTC)';
COMMENT ON COLUMN tally.raw_month.lost_at IS 'when its partition was made anew, without the events of the one that was taken out by hand; null where that didn''t happen';
ALTER TABLE tally.raw_month OWNER TO tally_owner;
SELECT tally_internal.confine_table('tally.raw_month');
REVOKE ALL ON tally.raw_month FROM PUBLIC;
GRANT SELECT ON tally.raw_month TO tally_analyst, tally_auditor;
SELECT pg_catalog.pg_extension_config_dump('tally.raw_month', '');

CREATE TABLE tally.opened_months (
  opened_from timestamptz NOT NULL,
  set_at      timestamptz NOT NULL DEFAULT now(),
  tenant_id   text COLLATE "C" NOT NULL CONSTRAINT opened_months_pkey PRIMARY KEY,
  set_by      name NOT NULL DEFAULT session_user
);
COMMENT ON TABLE tally.opened_months IS 'tenants for whose events ingest makes partitions of earlier months than it does by itself';
COMMENT ON COLUMN tally.opened_months.opened_from IS 'events from this month (UTC) on get a partition';
COMMENT ON COLUMN tally.opened_months.set_at IS 'when it was set';
COMMENT ON COLUMN tally.opened_months.tenant_id IS 'the tenant; empty for every tenant that has no row of its own';
COMMENT ON COLUMN tally.opened_months.set_by IS 'the role that logged in and set it';
ALTER TABLE tally.opened_months OWNER TO tally_owner;
SELECT tally_internal.secure_table('tally.opened_months');
REVOKE ALL ON tally.opened_months FROM PUBLIC;
GRANT SELECT ON tally.opened_months TO tally_analyst, tally_auditor;
SELECT pg_catalog.pg_extension_config_dump('tally.opened_months', '');

CREATE FUNCTION tally.open_months("from" timestamptz, tenant_id text DEFAULT NULL) RETURNS void
  LANGUAGE c VOLATILE PARALLEL UNSAFE CALLED ON NULL INPUT AS 'MODULE_PATHNAME', 'open_months_wrapper';
COMMENT ON FUNCTION tally.open_months(timestamptz, text) IS
  'lets ingest make partitions for a tenant''s events from the month (UTC) of a moment on, before importing history; -infinity for all months, null for no more than the 13 months before this one, which are open to everybody; for the tenant null: for every tenant that has nothing of its own. Events of months that are neither open nor there are rejected with SQLSTATE 22T12, and tally.redrive() brings them in afterwards. Each month is a partition that every tenant''s queries plan for';

CREATE FUNCTION tally_internal.create_leaf(partition name) RETURNS void
  LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE STRICT
  SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  EXECUTE format('CREATE TABLE tally.%I (LIKE tally.events INCLUDING ALL EXCLUDING INDEXES)', partition);
  EXECUTE format('CREATE INDEX %I ON tally.%I (tenant_id, account_id, occurred_at)', partition || '_tenant_account_time', partition);
  EXECUTE format('ALTER TABLE tally.%I REPLICA IDENTITY FULL', partition);
  PERFORM tally_internal.secure_table(format('tally.%I', partition)::regclass);
END
$$;
COMMENT ON FUNCTION tally_internal.create_leaf(name) IS
  'makes a table for events, with its index and row security, to be attached as a partition';

CREATE FUNCTION tally_internal.split_month(month name, tenant_id text, own name) RETURNS void
  LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE STRICT
  SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  rest name := month || '_rest';
  -- What an administrator added comes along, except what Postgres computes.
  columns text := (SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum) FROM pg_attribute AS a
                    WHERE a.attrelid = 'tally.events'::regclass AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '');
BEGIN
  IF to_regclass('tally.' || rest) IS NULL THEN
    EXECUTE format('ALTER TABLE tally.%I RENAME TO %I', month, rest);
    EXECUTE format('ALTER INDEX tally.%I RENAME TO %I', month || '_tenant_account_time', rest || '_tenant_account_time');
    EXECUTE format('CREATE TABLE tally.%I (LIKE tally.events INCLUDING ALL EXCLUDING INDEXES) PARTITION BY LIST (tenant_id)', month);
    EXECUTE format('ALTER TABLE tally.%I REPLICA IDENTITY FULL', month);
    PERFORM tally_internal.secure_table(format('tally.%I', month)::regclass);
    EXECUTE format('ALTER TABLE tally.%I ATTACH PARTITION tally.%I DEFAULT', month, rest);
  END IF;
  PERFORM tally_internal.create_leaf(own);
  EXECUTE format('WITH gone AS (DELETE FROM tally.%1$I AS e WHERE e.tenant_id = $1 RETURNING *) '
                 'INSERT INTO tally.%2$I (%3$s) OVERRIDING SYSTEM VALUE SELECT %3$s FROM gone ORDER BY account_id, occurred_at', rest, own, columns) USING split_month.tenant_id;
  EXECUTE format('ALTER TABLE tally.%I ATTACH PARTITION tally.%I FOR VALUES IN (%L)', month, own, split_month.tenant_id);
END
$$;
COMMENT ON FUNCTION tally_internal.split_month(name, text, name) IS
  'gives a tenant a partition of its own in a month, with the events that it has there; a month that is not yet partitioned by tenant becomes so, and must not be attached';

CREATE FUNCTION tally_internal.event_parts() RETURNS TABLE (part oid, first timestamptz, next timestamptz, is_month boolean)
  LANGUAGE sql STABLE PARALLEL SAFE STRICT
  SET search_path = pg_catalog, pg_temp
  SET timezone = 'UTC'
  SET datestyle = 'ISO'
AS $$
  SELECT p.part, p.first, p.next, isfinite(p.first) AND p.first = date_trunc('month', p.first) AND p.next = p.first + interval '1 month'
    FROM (SELECT c.oid, coalesce(substring(b.text FROM $re$FROM \('(.*?)'\)$re$)::timestamptz, '-infinity'),
                 coalesce(substring(b.text FROM $re$TO \('(.*?)'\)$re$)::timestamptz, 'infinity')
            FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid CROSS JOIN LATERAL pg_get_expr(c.relpartbound, c.oid) AS b (text)
           WHERE i.inhparent = 'tally.events'::regclass) AS p (part, first, next)
$$;
COMMENT ON FUNCTION tally_internal.event_parts() IS
  'the partitions of tally.events, whoever made them and whatever their names, by their bounds, and whether each is one month (UTC); what is not bounded has infinity, that of no other''s rows on both sides';

CREATE FUNCTION tally_internal.event_leaves() RETURNS TABLE (leaf oid, name text, source text, first timestamptz, next timestamptz, is_month boolean)
  LANGUAGE sql STABLE PARALLEL SAFE STRICT
  SET search_path = pg_catalog, pg_temp
AS $$
  SELECT t.relid::oid, t.relid::text COLLATE "C",
         CASE WHEN c.relowner = 'tally_owner'::regrole AND has_schema_privilege('tally_owner', c.relnamespace, 'USAGE') THEN t.relid::text ELSE 'tally.events' END,
         p.first, p.next, p.is_month
    FROM tally_internal.event_parts() AS p CROSS JOIN LATERAL pg_partition_tree(p.part) AS t JOIN pg_class AS c ON c.oid = t.relid
   WHERE t.isleaf
$$;
COMMENT ON FUNCTION tally_internal.event_leaves() IS
  'the tables that hold the rows of tally.events, with the bounds of the partition that each is in, and by what tally_owner reads and changes them: by themselves, or where they are somebody else''s through tally.events, by their tableoid';

CREATE FUNCTION tally_internal.note_months() RETURNS void
  LANGUAGE sql VOLATILE PARALLEL UNSAFE STRICT
  SET search_path = pg_catalog, pg_temp
  SET timezone = 'UTC'
AS $$
  INSERT INTO tally.raw_month (month)
  -- Of a partition that spans many years, the first ten.
  SELECT DISTINCT month.start
    FROM tally_internal.event_parts() AS p
   CROSS JOIN LATERAL generate_series(date_trunc('month', p.first), least(p.next, p.first + interval '10 years') - interval '1 microsecond',
                                      interval '1 month') AS month (start)
   -- Months that it has whole: of a piece nobody can say afterwards what went with it.
   WHERE isfinite(p.first) AND month.start >= p.first AND month.start + interval '1 month' <= p.next
  ON CONFLICT DO NOTHING
$$;
COMMENT ON FUNCTION tally_internal.note_months() IS
  'notes months of partitions that were made or attached by hand, so that it is seen when they are taken out';

CREATE FUNCTION tally_internal.lost_months() RETURNS SETOF text
  LANGUAGE c STABLE PARALLEL UNSAFE STRICT AS 'MODULE_PATHNAME', 'lost_months_wrapper';
COMMENT ON FUNCTION tally_internal.lost_months() IS
  'months (YYYY-MM, UTC) whose events were counted and whose partition was taken out by hand';

CREATE FUNCTION tally_internal.create_partition(month_start timestamptz) RETURNS void
  LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE STRICT
  SET search_path = pg_catalog, pg_temp
  SET timezone = 'UTC'
AS $$
DECLARE
  month_end timestamptz := month_start + interval '1 month';
  partition name := 'events_p' || to_char(month_start, 'YYYY_MM');
  isolated record;
BEGIN
  IF to_regclass('tally.' || partition) IS NOT NULL THEN
    -- Not by a query, whose snapshot can be older than the partition.
    IF pg_partition_root(to_regclass('tally.' || partition)) IS DISTINCT FROM 'tally.events'::regclass THEN
      RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state',
        MESSAGE = format('tally.%I is not a partition of tally.events', partition),
        HINT = 'attach it again, or rename it: tally.detach_raw() is the way to take a month out';
    END IF;
    RETURN;
  END IF;
  IF EXISTS (SELECT FROM tally.raw_month AS m WHERE m.month = month_start) THEN
    -- Somebody took it out by hand: it will be there again, and the events that it had won't.
    PERFORM tally_internal.record_losses(ARRAY[month_start]);
    UPDATE tally.raw_month AS m SET lost_at = now() WHERE m.month = month_start AND tally_internal.has_numbers(m.month);
  ELSE
    INSERT INTO tally.raw_month (month) VALUES (month_start);
  END IF;
  PERFORM tally_internal.create_leaf(partition);
  FOR isolated IN
    SELECT i.tenant_id, partition || '_t' || i.number AS own FROM tally.isolated_tenant AS i
     WHERE i.isolated_from <= month_start AND coalesce(i.isolated_until, 'infinity') > month_start ORDER BY i.number
  LOOP
    PERFORM tally_internal.split_month(partition, isolated.tenant_id, isolated.own);
  END LOOP;
  EXECUTE format('ALTER TABLE tally.events ATTACH PARTITION tally.%I FOR VALUES FROM (%L) TO (%L)', partition, month_start, month_end);
END
$$;
COMMENT ON FUNCTION tally_internal.create_partition(timestamptz) IS
  'makes the partition of tally.events for the month (UTC) that begins at month_start, with row security; its callers see to it that one session at a time makes any';

-- Called with ingest locked out.
CREATE FUNCTION tally_internal.split_months(tenant_id text, "from" timestamptz) RETURNS SETOF text
  LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE STRICT
  SET search_path = pg_catalog, pg_temp
  SET timezone = 'UTC'
AS $$
DECLARE
  month record;
  tenant_number int4;
  own name;
BEGIN
  IF (SELECT count(*) FROM tally.isolated_tenant AS i WHERE i.isolated_until IS NULL AND i.tenant_id <> split_months.tenant_id) >= 100 THEN
    RAISE EXCEPTION USING ERRCODE = 'program_limit_exceeded', MESSAGE = '100 tenants are isolated already',
      HINT = 'each has a partition in every month, and every query plans for all of them; tally.unisolate_tenant() ends one';
  END IF;
  INSERT INTO tally.isolated_tenant AS i (isolated_from, number, tenant_id)
  SELECT date_trunc('month', split_months."from"), coalesce(max(o.number), 0) + 1, split_months.tenant_id FROM tally.isolated_tenant AS o
  ON CONFLICT ON CONSTRAINT isolated_tenant_pkey DO UPDATE
    SET isolated_from = least(i.isolated_from, excluded.isolated_from), isolated_until = NULL, set_at = now(), set_by = session_user
  RETURNING i.number INTO tenant_number;
  FOR month IN
    SELECT c.relname AS name, c.relkind = 'r' AS is_leaf, to_timestamp(substr(c.relname, 9), 'YYYY_MM') AS starts
      FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid
     WHERE i.inhparent = 'tally.events'::regclass AND c.relname ~ '^events_p[0-9]{4,}_[0-9]{2}$'
       AND to_timestamp(substr(c.relname, 9), 'YYYY_MM') >= date_trunc('month', split_months."from")
     ORDER BY 3
  LOOP
    own := month.name || '_t' || tenant_number;
    CONTINUE WHEN to_regclass('tally.' || own) IS NOT NULL;
    IF month.is_leaf THEN
      EXECUTE format('ALTER TABLE tally.events DETACH PARTITION tally.%I', month.name);
    END IF;
    PERFORM tally_internal.split_month(month.name, split_months.tenant_id, own);
    IF month.is_leaf THEN
      EXECUTE format('ALTER TABLE tally.events ATTACH PARTITION tally.%I FOR VALUES FROM (%L) TO (%L)',
        month.name, month.starts, month.starts + interval '1 month');
    END IF;
    RETURN NEXT own;
  END LOOP;
END
$$;
COMMENT ON FUNCTION tally_internal.split_months(text, timestamptz) IS
  'gives a tenant a partition of its own in each month that exists and begins with or after that of a moment; called by tally.isolate_tenant()';

CREATE FUNCTION tally.isolate_tenant(tenant_id text, "from" timestamptz DEFAULT now()) RETURNS SETOF text
  LANGUAGE c VOLATILE PARALLEL UNSAFE CALLED ON NULL INPUT AS 'MODULE_PATHNAME', 'isolate_tenant_wrapper';
COMMENT ON FUNCTION tally.isolate_tenant(text, timestamptz) IS
  'gives a tenant a partition of its own in every month (UTC) from that of a moment on, for a tenant so heavy that the others'' queries and vacuum feel it; moves the events that it has there, while ingest and readers wait; returns the partitions it made. Months to come get theirs as they are made. At most 100 tenants. Everybody can read the bound of a partition, which is the tenant''s id, and how much lies in it: do not isolate a tenant whose existence or volume others must not learn. A repeatable read transaction that began before and reads events only afterwards may miss what was moved';

CREATE FUNCTION tally.unisolate_tenant(tenant_id text) RETURNS boolean
  LANGUAGE c VOLATILE PARALLEL UNSAFE CALLED ON NULL INPUT AS 'MODULE_PATHNAME', 'unisolate_tenant_wrapper';
COMMENT ON FUNCTION tally.unisolate_tenant(text) IS
  'from now on no month is made with a partition for this tenant; those that exist keep theirs. Says whether it was isolated';

REVOKE ALL ON FUNCTION tally.open_months(timestamptz, text), tally_internal.create_leaf(name), tally_internal.split_month(name, text, name), tally_internal.create_partition(timestamptz), tally_internal.event_parts(), tally_internal.event_leaves(), tally_internal.note_months(), tally_internal.lost_months(),
  tally_internal.split_months(text, timestamptz), tally.isolate_tenant(text, timestamptz), tally.unisolate_tenant(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tally_internal.create_leaf(name), tally_internal.split_month(name, text, name), tally_internal.create_partition(timestamptz), tally_internal.event_parts(), tally_internal.event_leaves(), tally_internal.note_months(),
  tally_internal.split_months(text, timestamptz) TO tally_owner;
GRANT EXECUTE ON FUNCTION tally_internal.event_parts() TO tally_reader;
GRANT EXECUTE ON FUNCTION tally_internal.lost_months() TO tally_owner, tally_admin;
GRANT EXECUTE ON FUNCTION tally.open_months(timestamptz, text), tally.isolate_tenant(text, timestamptz),
  tally.unisolate_tenant(text) TO tally_admin;

CREATE FUNCTION tally_internal.task_partitions() RETURNS TABLE (place int4, subject text)
  LANGUAGE sql STABLE PARALLEL SAFE STRICT
  SET search_path = pg_catalog, pg_temp
  BEGIN ATOMIC
    SELECT 1, ''::text;
  END;
COMMENT ON FUNCTION tally_internal.task_partitions() IS 'task of maintain(): makes the partitions of this month and of two after it';

CREATE FUNCTION tally_internal.step_partitions(subject text, max_rows int8, OUT done int8, OUT is_over boolean) RETURNS record
  LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE STRICT
  SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  done := tally.make_partitions(2);
  is_over := true;
END
$$;
COMMENT ON FUNCTION tally_internal.step_partitions(text, int8) IS 'one step of it; says how much it did, and whether nothing is left for now';

REVOKE ALL ON FUNCTION tally_internal.task_partitions(), tally_internal.step_partitions(text, int8) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tally_internal.task_partitions(), tally_internal.step_partitions(text, int8) TO tally_admin;

CREATE FUNCTION tally_internal.task_statistics() RETURNS TABLE (place int4, subject text)
  LANGUAGE sql STABLE PARALLEL SAFE STRICT
  SET search_path = pg_catalog, pg_temp
  BEGIN ATOMIC
    SELECT 5, ''::text;
  END;
COMMENT ON FUNCTION tally_internal.task_statistics() IS 'task of maintain(): makes the statistics of tally.events';

CREATE FUNCTION tally_internal.step_statistics(subject text, max_rows int8, OUT done int8, OUT is_over boolean) RETURNS record
  LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE STRICT
  SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  done := tally_internal.analyze_events();
  is_over := true;
END
$$;
COMMENT ON FUNCTION tally_internal.step_statistics(text, int8) IS 'one step of it; says how much it did, and whether nothing is left for now';

REVOKE ALL ON FUNCTION tally_internal.task_statistics(), tally_internal.step_statistics(text, int8) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tally_internal.task_statistics(), tally_internal.step_statistics(text, int8) TO tally_admin;

CREATE FUNCTION tally_internal.health_partitions()
  RETURNS TABLE (place int4, component text, status text, value float8, "limit" float8, advice text)
  LANGUAGE plpgsql STABLE PARALLEL UNSAFE STRICT
  SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  -- Where nothing has come in yet, nothing is missing.
  is_used boolean := EXISTS (SELECT FROM tally.ingest_batch) OR EXISTS (SELECT FROM tally.maintenance);
  stray text;
  gone text;
BEGIN
  place := 2;
  component := 'partitions';
  stray := (SELECT string_agg(c.oid::regclass::text, ', ' ORDER BY c.relname) FROM pg_class AS c
             WHERE c.relnamespace = 'tally'::regnamespace AND c.relname ~ '^events_p[0-9]{4,}_[0-9]{2}$' AND c.relkind IN ('r', 'p')
               AND NOT EXISTS (SELECT FROM pg_inherits AS i WHERE i.inhrelid = c.oid AND i.inhparent = 'tally.events'::regclass));
  gone := (SELECT string_agg(month, ', ') FROM tally_internal.lost_months() AS month);
  value := (SELECT count(*) FROM generate_series(0, 1) AS ahead
             WHERE to_regclass('tally.events_p' || to_char(date_trunc('month', now() AT TIME ZONE 'UTC')
                                                           + make_interval(months => ahead), 'YYYY_MM')) IS NULL);
  "limit" := 0;
  status := CASE WHEN stray IS NOT NULL THEN 'failing' WHEN gone IS NOT NULL OR (value > 0 AND is_used) THEN 'warning' ELSE 'ok' END;
  advice := CASE WHEN stray IS NOT NULL
                   THEN format('%s: not attached to tally.events, so its events are not counted and new ones of the month are refused: ALTER TABLE tally.events ATTACH PARTITION it again, or rename it; tally.detach_raw() is the way to take a month out', stray)
                 WHEN gone IS NOT NULL
                   THEN format('%s: taken out by hand, so metrics that read raw events of then refuse: attach it again, or SELECT tally.record_lost_months() if it will not come back', gone)
                 WHEN value > 0 THEN 'partitions of this or the next month are missing and ingest would have to make them: CALL tally.maintain()' END;
  RETURN NEXT;

  -- A query that reads all months locks each partition and its index.
  place := 3;
  component := 'partition locks';
  value := (SELECT 2 * count(*) FROM pg_partition_tree('tally.events') AS p WHERE p.relid <> 'tally.events'::regclass);
  "limit" := current_setting('max_locks_per_transaction')::float8;
  status := CASE WHEN value > "limit" THEN 'warning' ELSE 'ok' END;
  advice := CASE WHEN value > "limit" THEN format('a query of all months takes %s locks, and max_locks_per_transaction is %s: when many run at once, statements fail with 53200; set it to %s and restart, or take old months out with tally.drop_raw() or tally.detach_raw()',
                                                  value, "limit", 64 * ceil((value + 32) / 64)) END;
  RETURN NEXT;
END
$$;
COMMENT ON FUNCTION tally_internal.health_partitions() IS 'part of tally.health(): months that are missing or detached, locks of a query of all months';
REVOKE ALL ON FUNCTION tally_internal.health_partitions() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tally_internal.health_partitions() TO tally_admin;
