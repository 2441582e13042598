-- Seals over the audit log: a round seals what was recorded since the last one. Taking the log elsewhere, and checking it.

CREATE FUNCTION tally_internal.cluster_number() RETURNS int8
  LANGUAGE c STABLE PARALLEL SAFE STRICT AS 'MODULE_PATHNAME', 'cluster_number_wrapper';
COMMENT ON FUNCTION tally_internal.cluster_number() IS 'the cluster''s system identifier';

CREATE FUNCTION tally_internal.audit_sealed_to(origin int8) RETURNS xid8
  LANGUAGE sql STABLE PARALLEL SAFE STRICT
  SET search_path = pg_catalog, pg_temp
  BEGIN ATOMIC
    SELECT coalesce((SELECT s.to_xid FROM tally.audit_seal AS s WHERE s.origin = audit_sealed_to.origin ORDER BY s.to_xid DESC LIMIT 1), '0'::xid8);
  END;
COMMENT ON FUNCTION tally_internal.audit_sealed_to(int8) IS 'the first transaction of a cluster whose entries are not sealed';

CREATE FUNCTION tally_internal.audit_rounds(max_entries int8) RETURNS TABLE (origin int8, from_xid text, to_xid text)
  LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE STRICT
  SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  -- Entries of transactions below it have committed and are seen, or never will be.
  oldest xid8 := pg_snapshot_xmin(pg_current_snapshot());
  own    int8 := tally_internal.cluster_number();
  start  xid8 := tally_internal.audit_sealed_to(own);
  step   xid8;
  -- Whether a step leaves some of another cluster's, for the next one.
  is_left bool := false;
BEGIN
  FOR origin IN
    -- Of other clusters there are entries only after a restore, whose last seal is another cluster's, also where the database was here before:
    -- this one's own come last.
    (SELECT DISTINCT e.origin FROM tally.audit_entry AS e
      WHERE e.origin <> own
        AND own IS DISTINCT FROM (SELECT s.origin FROM tally.audit_seal AS s ORDER BY s.place DESC LIMIT 1))
    UNION ALL
    SELECT own
  LOOP
    start := tally_internal.audit_sealed_to(audit_rounds.origin);
    -- A step ends with a transaction.
    SELECT s.xid INTO step FROM (SELECT e.xid FROM tally.audit_entry AS e
                                  WHERE e.origin = audit_rounds.origin AND e.xid >= start AND (e.origin <> own OR e.xid < oldest)
                                  ORDER BY e.xid OFFSET greatest(max_entries, 1) - 1 LIMIT 1) AS s;
    IF audit_rounds.origin <> own THEN
      SELECT least(step, max(e.xid)), is_left OR coalesce(step < max(e.xid), false) INTO step, is_left
        FROM tally.audit_entry AS e WHERE e.origin = audit_rounds.origin AND e.xid >= start;
      CONTINUE WHEN step IS NULL;
    ELSIF is_left THEN
      RETURN;
    END IF;
    from_xid := start::text;
    to_xid := coalesce((step::text::numeric + 1)::text, oldest::text);
    CONTINUE WHEN to_xid::numeric <= from_xid::numeric;
    RETURN NEXT;
  END LOOP;
END
$$;
COMMENT ON FUNCTION tally_internal.audit_rounds(int8) IS 'from and up to which transactions, of which clusters, entries can be sealed now';

CREATE FUNCTION tally.seal_audit(max_entries int8 DEFAULT 50000) RETURNS int8
  LANGUAGE c VOLATILE PARALLEL UNSAFE CALLED ON NULL INPUT AS 'MODULE_PATHNAME', 'seal_audit_wrapper';
COMMENT ON FUNCTION tally.seal_audit(int8) IS
  'one step of sealing: stores what sessions handed over through shared memory, and seals the entries of transactions that are older than every running one; returns how many entries, 0 where nothing is left for now';

CREATE FUNCTION tally_internal.audit_step(max_entries int8) RETURNS int8
  LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE STRICT
  SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  RETURN tally.seal_audit(max_entries);
EXCEPTION WHEN OTHERS THEN
  RAISE WARNING USING ERRCODE = SQLSTATE, MESSAGE = format('pg_tally event=audit_failed sqlstate=%s problem=%s', SQLSTATE, to_json(SQLERRM));
  RETURN 0;
END
$$;
COMMENT ON FUNCTION tally_internal.audit_step(int8) IS 'tally.seal_audit(), and a warning in the log where it fails; called by the worker every two seconds';

-- For those who may not read the log itself: administrators.
CREATE FUNCTION tally_internal.audit_state(OUT unsealed_since timestamptz, OUT first_sealed_at timestamptz, OUT anchored_at timestamptz, OUT ahead_by numeric)
  LANGUAGE plpgsql STABLE PARALLEL RESTRICTED STRICT SECURITY DEFINER
  SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  own int8 := tally_internal.cluster_number();
  -- What is seen was written by transactions before it.
  next numeric := greatest(pg_snapshot_xmax(pg_current_snapshot())::text::numeric, pg_current_xact_id_if_assigned()::text::numeric + 1);
  known numeric := greatest(tally_internal.audit_sealed_to(own)::text::numeric,
    (SELECT e.xid::text::numeric + 1 FROM tally.audit_entry AS e WHERE e.origin = own AND e.xid >= next::text::xid8 ORDER BY e.xid DESC LIMIT 1));
BEGIN
  ahead_by := CASE WHEN known > next THEN known - next END;
  unsealed_since := (SELECT min(e.at) FROM tally.audit_entry AS e WHERE e.xid >= tally_internal.audit_sealed_to(tally_internal.cluster_number()) AND e.origin = tally_internal.cluster_number());
  first_sealed_at := (SELECT s.sealed_at FROM tally.audit_seal AS s ORDER BY s.place LIMIT 1);
  anchored_at := (SELECT max(e.at) FROM tally.audit_entry AS e
                   WHERE e.tenant_id = '' AND e.act = 'audit_anchor_taken' AND e.at > now() - interval '31 days' AND e.at <= clock_timestamp());
END
$$;
COMMENT ON FUNCTION tally_internal.audit_state() IS
  'since when entries wait to be sealed, null where none does; when the first seal was made; when an anchor was taken last, within 31 days; how many transactions must pass here before anything can be sealed, null but where the database is of a copy of this cluster that went on for longer';

CREATE FUNCTION tally_internal.audit_waits_s() RETURNS float8
  LANGUAGE c VOLATILE PARALLEL UNSAFE STRICT AS 'MODULE_PATHNAME', 'audit_waits_s_wrapper';
COMMENT ON FUNCTION tally_internal.audit_waits_s() IS
  'how many seconds entries have waited in shared memory while none was taken out of it; null where none waits, or none can';

CREATE FUNCTION tally_internal.create_audit_month(month_start timestamptz) RETURNS boolean
  LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE STRICT
  SET search_path = pg_catalog, pg_temp
  SET timezone = 'UTC'
AS $$
DECLARE
  month_end timestamptz := month_start + interval '1 month';
  month     name := 'audit_p' || to_char(month_start, 'YYYY_MM');
BEGIN
  -- What is in the rest stays there.
  IF to_regclass('tally.' || month) IS NOT NULL
     OR EXISTS (SELECT FROM tally.audit_rest AS r WHERE r.at >= month_start AND r.at < month_end) THEN
    RETURN false;
  END IF;
  EXECUTE format('CREATE TABLE tally.%I (LIKE tally.audit_entry INCLUDING ALL EXCLUDING INDEXES)', month);
  PERFORM tally_internal.finish_audit_table(format('tally.%I', month)::regclass);
  EXECUTE format('ALTER TABLE tally.audit_entry ATTACH PARTITION tally.%I FOR VALUES FROM (%L) TO (%L)', month, month_start, month_end);
  RETURN true;
END
$$;
COMMENT ON FUNCTION tally_internal.create_audit_month(timestamptz) IS 'makes the table of a month''s entries, unless it is there or the month has entries already';

CREATE FUNCTION tally_internal.define_audit_table(statement text) RETURNS void
  LANGUAGE c VOLATILE PARALLEL UNSAFE STRICT AS 'MODULE_PATHNAME', 'define_audit_table_wrapper';
COMMENT ON FUNCTION tally_internal.define_audit_table(text) IS
  'runs a statement that makes or drops a month''s table as its owner, without event triggers, which would run with the owner''s rights';

CREATE FUNCTION tally_internal.maintain_audit() RETURNS int8
  LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE STRICT SECURITY DEFINER
  SET search_path = pg_catalog, pg_temp
  SET timezone = 'UTC'
  SET lock_timeout = '300ms' -- it comes again
  SET default_tablespace = ''
  SET default_table_access_method = heap
AS $$
DECLARE
  done  int8 := 0;
  first timestamptz;
  until timestamptz;
  month record;
  gone  int8;
BEGIN
  FOR ahead IN 0 .. 3 LOOP
    first := date_trunc('month', now()) + make_interval(months => ahead);
    CONTINUE WHEN to_regclass('tally.audit_p' || to_char(first, 'YYYY_MM')) IS NOT NULL;
    PERFORM tally_internal.define_audit_table(format('SELECT tally_internal.create_audit_month(%L)', first));
    -- A month that has entries in the rest already is left there.
    done := done + (to_regclass('tally.audit_p' || to_char(first, 'YYYY_MM')) IS NOT NULL)::int;
  END LOOP;
  -- The rest itself keeps what is younger than 30 days, and a month may have 28.
  until := (SELECT date_trunc('month', least(now() - r.keep, now() - interval '30 days')) FROM tally.audit_retention AS r);
  IF until IS NULL THEN
    RETURN done;
  END IF;
  FOR month IN
    SELECT c.oid::regclass AS id, to_date(substr(c.relname, 8), 'YYYY_MM') AS first_day
      FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid
     WHERE i.inhparent = 'tally.audit_entry'::regclass AND c.relname ~ '^audit_p[0-9]{4,}_[0-9]{2}$'
       AND to_date(substr(c.relname, 8), 'YYYY_MM') < until
     ORDER BY 2
  LOOP
    -- What a transaction that still runs has written isn't there to be seen, and has locked the table.
    EXECUTE format('LOCK TABLE %s IN ACCESS EXCLUSIVE MODE', month.id);
    EXECUTE format('SELECT count(*) FROM %s AS e WHERE e.xid >= tally_internal.audit_sealed_to(e.origin)', month.id) INTO gone;
    CONTINUE WHEN gone > 0;
    EXECUTE format('SELECT count(*) FROM %s', month.id) INTO gone;
    PERFORM tally_internal.define_audit_table(format('DROP TABLE %s', month.id));
    DELETE FROM tally.audit_personal AS p WHERE p.at >= month.first_day AND p.at < month.first_day + interval '1 month';
    PERFORM tally_internal.record_act('audit_month_dropped', month.first_day::text, jsonb_build_object('entries', gone));
    RETURN done + 1;
  END LOOP;
  FOR month IN
    SELECT date_trunc('month', r.at)::date AS first_day, count(*) AS entries, bool_and(r.xid < tally_internal.audit_sealed_to(r.origin)) AS is_sealed
      FROM tally.audit_rest AS r WHERE r.at < until GROUP BY 1 ORDER BY 1
  LOOP
    CONTINUE WHEN NOT month.is_sealed;
    DELETE FROM tally.audit_rest AS r WHERE r.at >= month.first_day AND r.at < month.first_day + interval '1 month';
    DELETE FROM tally.audit_personal AS p WHERE p.at >= month.first_day AND p.at < month.first_day + interval '1 month';
    PERFORM tally_internal.record_act('audit_month_dropped', month.first_day::text, jsonb_build_object('entries', month.entries));
    RETURN done + 1;
  END LOOP;
  RETURN done;
END
$$;
COMMENT ON FUNCTION tally_internal.maintain_audit() IS
  'makes the tables of this month''s entries and of the next three, and drops a month that the log''s retention has passed and that is sealed; returns how many it made or dropped';

-- Taking it elsewhere, and checking it.
CREATE FUNCTION tally.export_audit() RETURNS SETOF text
  LANGUAGE plpgsql STABLE PARALLEL RESTRICTED STRICT SECURITY DEFINER
  SET search_path = pg_catalog, pg_temp
  SET timezone = 'UTC'
  -- One seal at a time, by its index: a join of everything with everything would be the alternative.
  SET enable_hashjoin = off
  SET enable_mergejoin = off
AS $$
DECLARE
  sealed tally.audit_seal;
BEGIN
  IF tally_internal.confined_to() IS NOT NULL THEN
    RAISE EXCEPTION USING ERRCODE = 'insufficient_privilege', MESSAGE = 'the whole audit log is not for a session that is confined to a tenant',
      HINT = 'SELECT from tally.audit, which shows the tenant''s own entries';
  END IF;
  -- What is seen was written by transactions that had begun by then, or by this one.
  RETURN NEXT json_build_object('cluster', tally_internal.cluster_number()::text,
    'next_xid', greatest(pg_snapshot_xmax(pg_current_snapshot())::text::numeric, pg_current_xact_id_if_assigned()::text::numeric + 1)::text,
    'at', (extract(epoch FROM clock_timestamp() - timestamptz '2000-01-01 00:00:00+00') * 1000000)::int8)::text;
  FOR sealed IN SELECT s.* FROM tally.audit_seal AS s ORDER BY s.place LOOP
    RETURN NEXT json_build_object('seal', sealed.place, 'tenant_id', sealed.tenant_id, 'number', sealed.number, 'month', sealed.month,
      'origin', sealed.origin::text, 'from_xid', sealed.from_xid::text, 'to_xid', sealed.to_xid::text,
      'sealed_at', (extract(epoch FROM sealed.sealed_at - timestamptz '2000-01-01 00:00:00+00') * 1000000)::int8,
      'total', sealed.total, 'root', encode(sealed.root, 'hex'), 'previous', encode(sealed.previous, 'hex'),
      'hash', encode(sealed.hash, 'hex'), 'leaves', encode(sealed.leaves, 'hex'), 'frontier', encode(sealed.frontier, 'hex'))::text;
    RETURN QUERY
      SELECT tally_internal.audit_line(e, p) FROM tally.audit_entry AS e
        LEFT JOIN tally.audit_personal AS p ON p.tenant_id = e.tenant_id AND p.entry_id = e.entry_id
       WHERE e.tenant_id = sealed.tenant_id AND e.xid >= sealed.from_xid AND e.xid < sealed.to_xid AND e.origin = sealed.origin
         AND e.at >= sealed.month AND e.at < sealed.month + interval '1 month'
       ORDER BY e.xid, e.entry_id;
  END LOOP;
  -- What no seal covers: new entries, and whatever was put in later.
  RETURN QUERY
    SELECT tally_internal.audit_line(e, p) FROM tally.audit_entry AS e
      LEFT JOIN tally.audit_personal AS p ON p.tenant_id = e.tenant_id AND p.entry_id = e.entry_id
     WHERE NOT EXISTS (
       SELECT FROM tally.audit_seal AS s
        WHERE s.tenant_id = e.tenant_id AND s.origin = e.origin AND s.to_xid > e.xid AND s.from_xid <= e.xid
          AND e.at >= s.month AND e.at < s.month + interval '1 month')
     ORDER BY e.xid, e.entry_id;
END
$$;

CREATE FUNCTION tally_internal.audit_line(entry tally.audit_entry, personal tally.audit_personal) RETURNS text
  LANGUAGE sql STABLE PARALLEL SAFE CALLED ON NULL INPUT
  SET search_path = pg_catalog, pg_temp
  BEGIN ATOMIC
    SELECT json_build_object('entry', entry.entry_id, 'tenant_id', entry.tenant_id, 'origin', entry.origin::text, 'xid', entry.xid::text,
      'at', (extract(epoch FROM entry.at - timestamptz '2000-01-01 00:00:00+00') * 1000000)::int8, 'actor', entry.actor,
      'account_id', entry.account_id, 'act', entry.act, 'object', entry.object, 'detail', entry.detail,
      'personal', encode(entry.personal, 'hex'), 'salt', encode((personal).salt, 'hex'), 'content', (personal).content,
      'leaf', encode(entry.leaf, 'hex'))::text;
  END;
COMMENT ON FUNCTION tally.export_audit() IS
  'the whole log as lines of JSON, the cluster first, each seal before its entries, and what is not sealed at the end, for tally-verify and for keeping elsewhere';
COMMENT ON FUNCTION tally_internal.audit_line(tally.audit_entry, tally.audit_personal) IS 'a line of tally.export_audit()';

CREATE FUNCTION tally.audit_anchor() RETURNS text
  LANGUAGE c VOLATILE PARALLEL UNSAFE STRICT AS 'MODULE_PATHNAME', 'audit_anchor_wrapper';
COMMENT ON FUNCTION tally.audit_anchor() IS
  'the head of the log, one line of JSON to be kept where no administrator of the database can change it: it vouches for every entry that is sealed. That it was taken is an entry itself';

CREATE FUNCTION tally.verify_audit(VARIADIC anchors text[] DEFAULT '{}')
  RETURNS TABLE (fault text, seal int8, tenant_id text, entry_id uuid, detail text)
  LANGUAGE c STABLE PARALLEL RESTRICTED CALLED ON NULL INPUT AS 'MODULE_PATHNAME', 'verify_audit_wrapper';
COMMENT ON FUNCTION tally.verify_audit(text[]) IS
  'what is wrong with the log, the first place first; no row where it is intact. With anchors that were kept elsewhere also where all hashes were made anew, or the end was cut off';

ALTER FUNCTION tally_internal.maintain_audit() OWNER TO tally_owner;
ALTER FUNCTION tally_internal.audit_state() OWNER TO tally_owner;
ALTER FUNCTION tally.export_audit() OWNER TO tally_owner;
REVOKE ALL ON FUNCTION tally_internal.cluster_number(), tally_internal.audit_sealed_to(int8), tally_internal.audit_rounds(int8), tally.seal_audit(int8), tally_internal.audit_step(int8), tally_internal.audit_state(),
  tally_internal.audit_waits_s(),
  tally_internal.define_audit_table(text),
  tally_internal.create_audit_month(timestamptz), tally_internal.maintain_audit(), tally.export_audit(),
  tally_internal.audit_line(tally.audit_entry, tally.audit_personal), tally.audit_anchor(), tally.verify_audit(text[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tally_internal.cluster_number(), tally_internal.audit_sealed_to(int8),
  tally_internal.define_audit_table(text),
  tally_internal.audit_rounds(int8), tally_internal.create_audit_month(timestamptz), tally.export_audit(),
  tally_internal.audit_line(tally.audit_entry, tally.audit_personal) TO tally_owner;
GRANT EXECUTE ON FUNCTION tally.seal_audit(int8),
  tally_internal.audit_step(int8), tally_internal.maintain_audit(), tally_internal.audit_waits_s() TO tally_admin;
GRANT EXECUTE ON FUNCTION tally_internal.audit_state() TO tally_admin, tally_auditor;
GRANT EXECUTE ON FUNCTION tally.export_audit(), tally.audit_anchor(), tally.verify_audit(text[]) TO tally_auditor;

CREATE FUNCTION tally_internal.task_audit() RETURNS TABLE (place int4, subject text)
  LANGUAGE sql STABLE PARALLEL SAFE STRICT
  SET search_path = pg_catalog, pg_temp
  BEGIN ATOMIC
    SELECT 6, ''::text;
  END;
COMMENT ON FUNCTION tally_internal.task_audit() IS 'task of maintain(): stores, seals and drops entries of the audit log';

CREATE FUNCTION tally_internal.step_audit(subject text, max_rows int8, OUT done int8, OUT is_over boolean) RETURNS record
  LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE STRICT
  SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  done := tally.seal_audit(max_rows);
  -- A session that reads an old month for long keeps it from being dropped, and nothing from being sealed.
  BEGIN
    done := done + tally_internal.maintain_audit();
  EXCEPTION WHEN lock_not_available THEN
    RAISE WARNING USING MESSAGE = 'months of the audit log could not be made or dropped: ' || SQLERRM;
  END;
  is_over := done < max_rows;
END
$$;
COMMENT ON FUNCTION tally_internal.step_audit(text, int8) IS 'one step of it; says how much it did, and whether nothing is left for now';

REVOKE ALL ON FUNCTION tally_internal.task_audit(), tally_internal.step_audit(text, int8) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tally_internal.task_audit(), tally_internal.step_audit(text, int8) TO tally_admin;

CREATE FUNCTION tally_internal.health_audit()
  RETURNS TABLE (place int4, component text, status text, value float8, "limit" float8, advice text)
  LANGUAGE plpgsql STABLE PARALLEL UNSAFE STRICT
  SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  in_memory float8 := round(tally_internal.audit_waits_s());
  state     record := tally_internal.audit_state();
  in_table  float8 := round(extract(epoch FROM clock_timestamp() - state.unsealed_since));
BEGIN
  -- A transaction that is open for long keeps what is newer from being sealed.
  place := 10;
  component := 'audit';
  value := greatest(in_memory, in_table);
  "limit" := CASE WHEN tally_internal.worker_is_configured() THEN 60 ELSE 900 END;
  status := CASE WHEN state.ahead_by IS NOT NULL OR value > 10 * "limit" THEN 'failing' WHEN value > "limit" THEN 'warning' ELSE 'ok' END;
  advice := CASE WHEN state.ahead_by IS NOT NULL THEN format('the audit log has entries or seals of %s transactions that have yet to come here, as where the database is of a copy of this cluster that went on for longer: until then nothing is sealed, and what is recorded counts as put in afterwards; restore it into a cluster that initdb made, or see docs/runbooks/restore.md', state.ahead_by)
                 WHEN in_memory > "limit" THEN format('entries of the audit log wait in shared memory since %s seconds, and a restart loses them but for the log''s lines: see that the worker or CALL tally.maintain() runs, and what the server''s log says of event=audit_failed', in_memory)
                 WHEN value > "limit" THEN format('entries of the audit log wait for their seal since %s seconds: see that the worker or CALL tally.maintain() runs, and for old transactions (SELECT pid, usename, xact_start FROM pg_stat_activity WHERE backend_xid IS NOT NULL ORDER BY xact_start; SELECT * FROM pg_prepared_xacts)', value) END;
  RETURN NEXT;
END
$$;
COMMENT ON FUNCTION tally_internal.health_audit() IS 'part of tally.health(): how long entries wait for their seal, or for their way out of shared memory';
REVOKE ALL ON FUNCTION tally_internal.health_audit() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tally_internal.health_audit() TO tally_admin;
