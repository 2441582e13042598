-- Where events seem to have personal data: by form and check digits (src/privacy/personal.rs), never showing a value.

CREATE FUNCTION tally_internal.personal_kinds(document jsonb) RETURNS TABLE (path text, kind text)
  LANGUAGE c IMMUTABLE PARALLEL SAFE STRICT AS 'MODULE_PATHNAME', 'personal_kinds_wrapper';
COMMENT ON FUNCTION tally_internal.personal_kinds(jsonb) IS
  'paths of a document at which an e-mail address, a phone or card number, a bank account, an IP address or a national id seems to be; a key that is one itself is shown as *';

CREATE FUNCTION tally.find_personal_data(sample int4 DEFAULT 10000)
  RETURNS TABLE (event text, path text, kind text, sampled int8, found int8)
  LANGUAGE plpgsql STABLE PARALLEL UNSAFE STRICT
  SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  query  text;
BEGIN
  IF find_personal_data.sample < 1 THEN
    RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = format('a sample of %s events is none', find_personal_data.sample),
      HINT = 'give how many events are to be looked at, at most';
  END IF;
  -- Without a scope an error, also where there are no events.
  PERFORM tally.current_tenant();
  -- As many of each of the latest 24 partitions; by tally.events, since partitions are granted to nobody.
  query := (SELECT string_agg(format('(SELECT e.name, e.tenant_id, e.account_id, e.user_id, e.session_id, e.properties FROM tally.events AS e WHERE e.occurred_at >= %L AND e.occurred_at < %L AND e.tableoid = ANY (%L) LIMIT %s)',
                     p.first, p.next, ARRAY(SELECT t.relid::oid FROM pg_partition_tree(p.part) AS t),
                     greatest(find_personal_data.sample / p.parts::int4, 1)), ' UNION ALL ')
              FROM (SELECT l.*, count(*) OVER () AS parts FROM (SELECT e.* FROM tally_internal.event_parts() AS e
                             -- What has no bounds is looked for in all of them: not where it seems to be empty.
                             WHERE isfinite(e.first) OR isfinite(e.next) OR EXISTS (SELECT FROM pg_partition_tree(e.part) AS t JOIN pg_class AS c ON c.oid = t.relid AND c.reltuples <> 0)
                             ORDER BY e.first DESC LIMIT 24) AS l) AS p);
  IF query IS NULL THEN
    RETURN;
  END IF;
  RETURN QUERY EXECUTE format($query$
    WITH sampled AS MATERIALIZED (%s), counted AS (SELECT s.name, count(*) AS events FROM sampled AS s GROUP BY s.name)
    SELECT CASE WHEN EXISTS (SELECT FROM tally_internal.personal_kinds(jsonb_build_object('name', s.name))) THEN '*' ELSE s.name END,
           k.path, k.kind, c.events, count(*)
      FROM sampled AS s JOIN counted AS c ON c.name = s.name
     CROSS JOIN LATERAL tally_internal.personal_kinds(jsonb_build_object('name', s.name, 'tenant_id', s.tenant_id, 'account_id', s.account_id, 'user_id', s.user_id,
                                                                         'session_id', s.session_id, 'properties', s.properties)) AS k
     GROUP BY 1, k.path, k.kind, c.events ORDER BY 1, k.path, k.kind
    $query$, query);
END
$$;
COMMENT ON FUNCTION tally.find_personal_data(int4) IS
  'where events of the scope seem to have e-mail addresses, phone or card numbers, bank accounts, IP addresses or national ids: how many of a sample, as many of each of the latest 24 months; values are never shown. By form and check digits, so most names are not found';

REVOKE ALL ON FUNCTION tally_internal.personal_kinds(jsonb), tally.find_personal_data(int4) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tally_internal.personal_kinds(jsonb), tally.find_personal_data(int4) TO tally_reader;
