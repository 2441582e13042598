-- The ways out of the quarantine. What follows from `redrive` is in src/ingest/doors/redrive.rs; the statements here run with the
-- rights of tally_owner and in the caller's scope.

CREATE TABLE tally.quarantine_discard (
  discarded_at timestamptz NOT NULL,
  events       int8 NOT NULL,
  tenant_id    text COLLATE "C" NOT NULL,
  role_name    name NOT NULL,
  reason       text COLLATE "C" NOT NULL,
  CONSTRAINT quarantine_discard_has_events CHECK (events OPERATOR(pg_catalog.>) 0)
);
COMMENT ON TABLE tally.quarantine_discard IS 'what was discarded from the quarantine: one row for each tenant in each call that discarded something';
COMMENT ON COLUMN tally.quarantine_discard.discarded_at IS 'start of the transaction';
COMMENT ON COLUMN tally.quarantine_discard.events IS 'how many events';
COMMENT ON COLUMN tally.quarantine_discard.tenant_id IS 'the tenant in whose scope they were sent; empty where there was none';
COMMENT ON COLUMN tally.quarantine_discard.role_name IS 'the role that logged in and discarded them';
COMMENT ON COLUMN tally.quarantine_discard.reason IS 'why, in its words';
ALTER TABLE tally.quarantine_discard REPLICA IDENTITY FULL;
ALTER TABLE tally.quarantine_discard OWNER TO tally_owner;
SELECT tally_internal.secure_table('tally.quarantine_discard');
SELECT pg_catalog.pg_extension_config_dump('tally.quarantine_discard', '');
REVOKE ALL ON tally.quarantine_discard FROM PUBLIC;
GRANT SELECT ON tally.quarantine_discard TO tally_reader, tally_auditor;

CREATE FUNCTION tally.redrive(batch_id int8 DEFAULT NULL, "position" int4 DEFAULT NULL, outcome text DEFAULT NULL,
    sqlstate text DEFAULT NULL, since timestamptz DEFAULT NULL, before timestamptz DEFAULT NULL,
    max_events int4 DEFAULT 10000,
    OUT redrive_id int8, OUT accepted int8, OUT duplicates int8, OUT conflicts int8, OUT rejected int8, OUT details json)
  RETURNS SETOF record ROWS 1
  LANGUAGE c VOLATILE PARALLEL UNSAFE CALLED ON NULL INPUT AS 'MODULE_PATHNAME', 'redrive_wrapper';
COMMENT ON FUNCTION tally.redrive(int8, int4, text, text, timestamptz, timestamptz, int4) IS
  'ingests quarantined events of the scope again, those that meet every given condition, at most max_events, the least tried first; accepted ones and duplicates leave the quarantine, the others stay with their present reason. Events that another redrive has in hand are left to it. redrive_id is the batch that was made';

CREATE FUNCTION tally.discard(reason text, batch_id int8 DEFAULT NULL, "position" int4 DEFAULT NULL, outcome text DEFAULT NULL,
    sqlstate text DEFAULT NULL, since timestamptz DEFAULT NULL, before timestamptz DEFAULT NULL)
  RETURNS int8
  LANGUAGE c VOLATILE PARALLEL UNSAFE CALLED ON NULL INPUT AS 'MODULE_PATHNAME', 'discard_wrapper';
COMMENT ON FUNCTION tally.discard(text, int8, int4, text, text, timestamptz, timestamptz) IS
  'removes the quarantined events of the scope that meet every given condition, for good, and notes who did so and why; returns how many there were';

CREATE FUNCTION tally_internal.take_quarantined(batch_id int8, "position" int4, outcome text, sqlstate text, since timestamptz,
    before timestamptz, max_events int4)
  RETURNS TABLE (from_tenant text, from_account text, from_batch int8, from_position int4, format text, body text)
  LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE CALLED ON NULL INPUT
  SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  bytes int8 := 0;
BEGIN
  FOR from_tenant, from_account, from_batch, from_position, format, body IN
    SELECT q.tenant_id, q.account_id, q.batch_id, q."position", q.format, q.body
      FROM tally.quarantine AS q
     WHERE (take_quarantined.batch_id IS NULL OR q.batch_id OPERATOR(pg_catalog.=) take_quarantined.batch_id)
       AND (take_quarantined."position" IS NULL OR q."position" OPERATOR(pg_catalog.=) take_quarantined."position")
       AND (take_quarantined.outcome IS NULL OR q.outcome OPERATOR(pg_catalog.=) take_quarantined.outcome)
       AND (take_quarantined.sqlstate IS NULL OR q.sqlstate OPERATOR(pg_catalog.=) take_quarantined.sqlstate)
       AND (take_quarantined.since IS NULL OR q.quarantined_at OPERATOR(pg_catalog.>=) take_quarantined.since)
       AND (take_quarantined.before IS NULL OR q.quarantined_at OPERATOR(pg_catalog.<) take_quarantined.before)
     ORDER BY q.tries, q.quarantined_at, q.tenant_id, q.batch_id, q."position"
     LIMIT coalesce(take_quarantined.max_events, 10000)
       FOR UPDATE OF q SKIP LOCKED
  LOOP
    RETURN NEXT;
    -- As much as one ingest call may carry.
    bytes := bytes OPERATOR(pg_catalog.+) pg_catalog.octet_length(body);
    EXIT WHEN bytes OPERATOR(pg_catalog.>) 67108864;
  END LOOP;
END
$$;
COMMENT ON FUNCTION tally_internal.take_quarantined(int8, int4, text, text, timestamptz, timestamptz, int4) IS
  'part of tally.redrive(): locks the quarantined events that it is to try, at most 64 MB of them';

CREATE FUNCTION tally_internal.settle_quarantined(redrive_id int8, tenants text[], batches int8[], positions int4[], outcomes text[],
    sqlstates text[], reasons text[]) RETURNS void
  LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE STRICT
  SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  DELETE FROM tally.quarantine AS q
   USING unnest(tenants, batches, positions, outcomes, sqlstates) AS s (tenant_id, batch_id, place, outcome, sqlstate)
   WHERE q.tenant_id = s.tenant_id AND q.batch_id = s.batch_id AND q."position" = s.place
     AND (s.outcome IN ('accepted', 'duplicate') OR s.sqlstate = '22T13');
  UPDATE tally.quarantine AS q
     SET outcome = s.outcome, sqlstate = s.sqlstate, reason = s.reason, tries = q.tries + 1, tried_at = now()
    FROM unnest(tenants, batches, positions, outcomes, sqlstates, reasons)
           AS s (tenant_id, batch_id, place, outcome, sqlstate, reason)
   WHERE q.tenant_id = s.tenant_id AND q.batch_id = s.batch_id AND q."position" = s.place
     AND s.outcome IN ('conflict', 'rejected');
  UPDATE tally.ingest_batch AS b
     SET redrives = ARRAY(SELECT DISTINCT s.batch_id FROM unnest(tenants, batches) AS s (tenant_id, batch_id)
                           WHERE s.tenant_id = b.tenant_id ORDER BY s.batch_id)
   WHERE b.tenant_id = ANY (tenants) AND b.batch_id = redrive_id;
END
$$;
COMMENT ON FUNCTION tally_internal.settle_quarantined(int8, text[], int8[], int4[], text[], text[], text[]) IS
  'part of tally.redrive(): removes what was accepted, and what is of an erased subject, and writes the present reason to the rest';

CREATE FUNCTION tally_internal.discard_quarantined(why text, batch_id int8, "position" int4, outcome text, sqlstate text,
    since timestamptz, before timestamptz) RETURNS int8
  LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE CALLED ON NULL INPUT
  SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
  total int8;
BEGIN
  PERFORM tally_internal.check_words('reason', why);
  IF coalesce(tally_internal.visible_characters(why), 0) = 0 THEN
    RAISE EXCEPTION USING ERRCODE = 'null_value_not_allowed', MESSAGE = 'reason must not be empty',
      HINT = 'say why these events need not be counted: the reason is kept in tally.quarantine_discard';
  END IF;
  WITH discarded AS (
    DELETE FROM tally.quarantine AS q
     WHERE (discard_quarantined.batch_id IS NULL OR q.batch_id OPERATOR(pg_catalog.=) discard_quarantined.batch_id)
       AND (discard_quarantined."position" IS NULL OR q."position" OPERATOR(pg_catalog.=) discard_quarantined."position")
       AND (discard_quarantined.outcome IS NULL OR q.outcome OPERATOR(pg_catalog.=) discard_quarantined.outcome)
       AND (discard_quarantined.sqlstate IS NULL OR q.sqlstate OPERATOR(pg_catalog.=) discard_quarantined.sqlstate)
       AND (discard_quarantined.since IS NULL OR q.quarantined_at OPERATOR(pg_catalog.>=) discard_quarantined.since)
       AND (discard_quarantined.before IS NULL OR q.quarantined_at OPERATOR(pg_catalog.<) discard_quarantined.before)
    RETURNING q.tenant_id
  ), noted AS (
    INSERT INTO tally.quarantine_discard (discarded_at, events, tenant_id, role_name, reason)
    SELECT now(), count(*), d.tenant_id, session_user, why FROM discarded AS d GROUP BY d.tenant_id
    RETURNING events
  )
  SELECT coalesce(sum(n.events), 0)::int8 INTO total FROM noted AS n;
  RETURN total;
END
$$;
COMMENT ON FUNCTION tally_internal.discard_quarantined(text, int8, int4, text, text, timestamptz, timestamptz) IS
  'part of tally.discard(): removes and notes';

REVOKE ALL ON FUNCTION tally.redrive(int8, int4, text, text, timestamptz, timestamptz, int4),
  tally.discard(text, int8, int4, text, text, timestamptz, timestamptz),
  tally_internal.take_quarantined(int8, int4, text, text, timestamptz, timestamptz, int4),
  tally_internal.settle_quarantined(int8, text[], int8[], int4[], text[], text[], text[]),
  tally_internal.discard_quarantined(text, int8, int4, text, text, timestamptz, timestamptz) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tally_internal.take_quarantined(int8, int4, text, text, timestamptz, timestamptz, int4),
  tally_internal.settle_quarantined(int8, text[], int8[], int4[], text[], text[], text[]),
  tally_internal.discard_quarantined(text, int8, int4, text, text, timestamptz, timestamptz) TO tally_owner;
GRANT EXECUTE ON FUNCTION tally.redrive(int8, int4, text, text, timestamptz, timestamptz, int4),
  tally.discard(text, int8, int4, text, text, timestamptz, timestamptz) TO tally_writer;

CREATE FUNCTION tally_internal.health_quarantine()
  RETURNS TABLE (place int4, component text, status text, value float8, "limit" float8, advice text)
  LANGUAGE plpgsql STABLE PARALLEL UNSAFE STRICT
  SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  place := 6;
  component := 'quarantine';
  value := (SELECT count(*) FROM tally.quarantine AS q WHERE q.quarantined_at > now() - interval '1 day');
  "limit" := 0;
  status := CASE WHEN value > 0 THEN 'warning' ELSE 'ok' END;
  advice := CASE WHEN value > 0 THEN 'events of the last day were not counted: SELECT reason, count(*) FROM tally.quarantine GROUP BY reason' END;
  RETURN NEXT;
END
$$;
COMMENT ON FUNCTION tally_internal.health_quarantine() IS 'part of tally.health(): events of the last day that wait there';
REVOKE ALL ON FUNCTION tally_internal.health_quarantine() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tally_internal.health_quarantine() TO tally_admin;
