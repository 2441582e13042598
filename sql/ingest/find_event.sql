-- One event by its id, by way of the ledger, which knows its time and its account and so its place in an index.

CREATE FUNCTION tally_internal.ledger_entry(tenant_id text, event_id uuid, OUT occurred_at timestamptz, OUT batch_id int8, OUT account text)
  RETURNS SETOF record ROWS 1
  LANGUAGE c STABLE PARALLEL UNSAFE STRICT AS 'MODULE_PATHNAME', 'ledger_entry_wrapper';
COMMENT ON FUNCTION tally_internal.ledger_entry(text, uuid) IS
  'part of tally.find_event(), which looks at the scope: what the ledger knows of an event';

-- Elevated, since nobody reads the ledger; row security binds tally_owner, too, to the caller's scope.
CREATE FUNCTION tally.find_event(event_id uuid, tenant text DEFAULT NULL,
    OUT outcome text, OUT tenant_id text, OUT account_id text, OUT batch_id int8, OUT ingested_at timestamptz,
    OUT "position" int4, OUT sqlstate text, OUT reason text, OUT name text, OUT occurred_at timestamptz, OUT user_id text,
    OUT session_id text, OUT properties jsonb)
  RETURNS SETOF record ROWS 1
  LANGUAGE plpgsql STABLE PARALLEL UNSAFE CALLED ON NULL INPUT SECURITY DEFINER
  SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
  own       text := tally.current_tenant();
  candidate text;
  known     record;
BEGIN
  FOR candidate IN
    SELECT coalesce(find_event.tenant, own) WHERE coalesce(find_event.tenant, own) IS NOT NULL
     UNION ALL
    SELECT t.tenant_id FROM tally.tenant AS t WHERE find_event.tenant IS NULL AND own IS NULL
  LOOP
    CONTINUE WHEN own OPERATOR(pg_catalog.<>) candidate;
    SELECT e.* INTO known FROM tally_internal.ledger_entry(candidate, find_event.event_id) AS e;
    IF FOUND THEN
      IF known.account IS NULL THEN
        RETURN QUERY
          SELECT 'accepted', e.tenant_id, e.account_id, e.batch_id, b.ingested_at, NULL::int4, NULL, NULL, e.name, e.occurred_at,
                 e.user_id, e.session_id, e.properties
            FROM tally.events AS e
            LEFT JOIN tally.ingest_batch AS b ON b.tenant_id OPERATOR(pg_catalog.=) e.tenant_id AND b.batch_id OPERATOR(pg_catalog.=) e.batch_id
           WHERE e.tenant_id OPERATOR(pg_catalog.=) candidate AND e.occurred_at OPERATOR(pg_catalog.=) known.occurred_at
             AND e.event_id OPERATOR(pg_catalog.=) find_event.event_id;
      ELSE
        RETURN QUERY
          SELECT 'accepted', e.tenant_id, e.account_id, e.batch_id, b.ingested_at, NULL::int4, NULL, NULL, e.name, e.occurred_at,
                 e.user_id, e.session_id, e.properties
            FROM tally.events AS e
            LEFT JOIN tally.ingest_batch AS b ON b.tenant_id OPERATOR(pg_catalog.=) e.tenant_id AND b.batch_id OPERATOR(pg_catalog.=) e.batch_id
           WHERE e.tenant_id OPERATOR(pg_catalog.=) candidate AND e.account_id OPERATOR(pg_catalog.=) known.account
             AND e.occurred_at OPERATOR(pg_catalog.=) known.occurred_at AND e.event_id OPERATOR(pg_catalog.=) find_event.event_id;
      END IF;
      -- The ledger outlives the raw events. An account's scope sees those of its own alone.
      IF NOT FOUND AND (tally.current_account() IS NULL OR tally.current_account() OPERATOR(pg_catalog.=) known.account) THEN
        RETURN QUERY
          SELECT 'accepted', candidate, known.account, known.batch_id,
                 (SELECT b.ingested_at FROM tally.ingest_batch AS b
                   WHERE b.tenant_id OPERATOR(pg_catalog.=) candidate AND b.batch_id OPERATOR(pg_catalog.=) known.batch_id),
                 NULL::int4, NULL, NULL, NULL, known.occurred_at, NULL, NULL, NULL::jsonb;
      END IF;
    END IF;
    RETURN QUERY
      SELECT q.outcome, q.tenant_id, q.account_id, q.batch_id, q.quarantined_at, q."position", q.sqlstate, q.reason,
             NULL, NULL::timestamptz, NULL, NULL, NULL::jsonb
        FROM tally.quarantine AS q
       WHERE q.tenant_id OPERATOR(pg_catalog.=) candidate AND q.event_id OPERATOR(pg_catalog.=) find_event.event_id
       ORDER BY q.quarantined_at, q.batch_id, q."position";
  END LOOP;
END
$$;
COMMENT ON FUNCTION tally.find_event(uuid, text) IS
  'what became of an event of the scope, by its id: accepted, with the event and the batch that brought it, its columns null where the raw events were dropped since; and each time it went to the quarantine, with batch, position and reason. In the global scope of every tenant, or of the one that is named';
ALTER FUNCTION tally.find_event(uuid, text) OWNER TO tally_owner;

REVOKE ALL ON FUNCTION tally_internal.ledger_entry(text, uuid), tally.find_event(uuid, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tally_internal.ledger_entry(text, uuid) TO tally_owner;
GRANT EXECUTE ON FUNCTION tally.find_event(uuid, text) TO tally_reader;
