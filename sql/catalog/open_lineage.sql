-- The catalogue in the form of others: OpenLineage (openlineage.io/spec/2-0-2), one event a line.

CREATE FUNCTION tally.open_lineage(namespace text DEFAULT NULL) RETURNS SETOF jsonb
  LANGUAGE plpgsql STABLE PARALLEL UNSAFE CALLED ON NULL INPUT
  SET search_path = pg_catalog, pg_temp
  SET jit = off
  SET timezone = 'UTC'
AS $$
DECLARE
  core   constant text := 'https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/';
  facet  constant text := 'https://openlineage.io/spec/facets/';
  -- Who made it, and whence: each event and each facet says so.
  maker  constant text := 'https://pg-tally.dev/0.2.0';
  place  text := coalesce(open_lineage.namespace,
                   format('postgres://%s:%s', coalesce(host(inet_server_addr()), 'localhost'), coalesce(inet_server_port()::text, current_setting('port'))));
  moment text := to_char(now(), 'YYYY-MM-DD"T"HH24:MI:SS"Z"');
BEGIN
  PERFORM tally_internal.refuse_confined();
  RETURN QUERY
    WITH asset AS MATERIALIZED (
      SELECT a.*, c.relation, c.number FROM tally_internal.all_assets() AS a
        LEFT JOIN tally_internal.catalog_columns() AS c ON c.asset = a.asset
       WHERE a.kind IN ('table', 'view', 'materialized view', 'foreign table', 'column')
    ), relation AS MATERIALIZED (
      SELECT r.relation, r.name, r.relkind, a.kind, a.meaning, a.owner, a.classification, format('%s.%s', current_database(), r.name) AS dataset
        FROM tally_internal.catalog_relations() AS r JOIN asset AS a ON a.asset = r.name AND a.kind <> 'column'
    ), field AS MATERIALIZED (
      SELECT a.asset, a.relation, a.number, f.attname::text AS name, format_type(f.atttypid, f.atttypmod) AS type, a.meaning, a.classification, a.origin
        FROM asset AS a JOIN pg_attribute AS f ON f.attrelid = a.relation AND f.attnum = a.number WHERE a.kind = 'column'
    ), edge AS MATERIALIZED (
      SELECT e.source, e.target, e.kind, e.through FROM tally_internal.lineage_edges() AS e WHERE e.kind IN ('value', 'condition')
    ), input AS MATERIALIZED (
      -- A property is a field of the table of events.
      SELECT e.target, e.kind, coalesce(s.relation, 'tally.events'::regclass::oid) AS relation, coalesce(s.name, 'properties.' || substr(e.source, 10)) AS field
        FROM edge AS e LEFT JOIN field AS s ON s.asset = e.source WHERE s.asset IS NOT NULL OR e.source LIKE 'property:%'
    ), described AS (
      SELECT r.relation, r.dataset, jsonb_strip_nulls(jsonb_build_object(
               'schema', jsonb_build_object('_producer', maker, '_schemaURL', facet || '1-1-1/SchemaDatasetFacet.json#/$defs/SchemaDatasetFacet',
                 'fields', (SELECT jsonb_agg(jsonb_build_object('name', f.name, 'type', f.type, 'description', f.meaning) ORDER BY f.number) FROM field AS f WHERE f.relation = r.relation)),
               'documentation', CASE WHEN r.meaning IS NOT NULL THEN jsonb_build_object('_producer', maker,
                 '_schemaURL', facet || '1-0-1/DocumentationDatasetFacet.json#/$defs/DocumentationDatasetFacet', 'description', r.meaning) END,
               'ownership', CASE WHEN r.owner IS NOT NULL THEN jsonb_build_object('_producer', maker,
                 '_schemaURL', facet || '1-0-1/OwnershipDatasetFacet.json#/$defs/OwnershipDatasetFacet', 'owners', jsonb_build_array(jsonb_build_object('name', r.owner))) END,
               'tags', jsonb_build_object('_producer', maker, '_schemaURL', facet || '1-0-0/TagsDatasetFacet.json#/$defs/TagsDatasetFacet',
                 'tags', jsonb_build_array(jsonb_build_object('key', 'classification', 'value', r.classification, 'source', 'pg_tally'))
                   || coalesce((SELECT jsonb_agg(jsonb_build_object('key', 'classification', 'value', f.classification, 'source', 'pg_tally', 'field', f.name) ORDER BY f.number)
                                  FROM field AS f WHERE f.relation = r.relation AND f.origin <> 'default'), '[]')))) AS facets
        FROM relation AS r
    ), lineage AS (
      SELECT r.relation, jsonb_object_agg(f.name, jsonb_build_object('inputFields',
               (SELECT jsonb_agg(jsonb_build_object('namespace', place, 'name', o.dataset, 'field', i.field,
                         'transformations', jsonb_build_array(jsonb_build_object('type', 'DIRECT', 'subtype', 'TRANSFORMATION'))) ORDER BY o.dataset, i.field)
                  FROM input AS i JOIN relation AS o ON o.relation = i.relation WHERE i.target = f.asset AND i.kind = 'value'))) AS fields
        FROM relation AS r JOIN field AS f ON f.relation = r.relation
       WHERE EXISTS (SELECT FROM input AS i WHERE i.target = f.asset AND i.kind = 'value') GROUP BY r.relation
    ), chosen AS (
      SELECT i.target AS name, jsonb_agg(jsonb_build_object('namespace', place, 'name', o.dataset, 'field', i.field,
               'transformations', jsonb_build_array(jsonb_build_object('type', 'INDIRECT', 'subtype', 'FILTER'))) ORDER BY o.dataset, i.field) AS inputs
        FROM input AS i JOIN relation AS o ON o.relation = i.relation WHERE i.kind = 'condition' GROUP BY i.target
    )
    SELECT jsonb_build_object('eventTime', moment, 'producer', maker, 'schemaURL', core || 'DatasetEvent',
             'dataset', jsonb_build_object('namespace', place, 'name', d.dataset, 'facets', d.facets))
      FROM described AS d
    UNION ALL
    SELECT jsonb_build_object('eventTime', moment, 'producer', maker, 'schemaURL', core || 'JobEvent',
             'job', jsonb_build_object('namespace', place, 'name', d.dataset),
             'inputs', (SELECT coalesce(jsonb_agg(DISTINCT jsonb_build_object('namespace', place, 'name', o.dataset)), '[]')
                          FROM input AS i JOIN relation AS o ON o.relation = i.relation
                         WHERE i.target = r.name OR i.target IN (SELECT f.asset FROM field AS f WHERE f.relation = r.relation)),
             'outputs', jsonb_build_array(jsonb_build_object('namespace', place, 'name', d.dataset, 'facets', jsonb_build_object('columnLineage',
               jsonb_build_object('_producer', maker, '_schemaURL', facet || '1-2-0/ColumnLineageDatasetFacet.json#/$defs/ColumnLineageDatasetFacet',
                 'fields', l.fields, 'dataset', coalesce(c.inputs, '[]'))))))
      FROM described AS d JOIN relation AS r USING (relation) JOIN lineage AS l USING (relation) LEFT JOIN chosen AS c ON c.name = r.name;
END
$$;
COMMENT ON FUNCTION tally.open_lineage(text) IS
  'the catalogue as events of OpenLineage: each table and view as a dataset with its columns, owner and classifications, and what makes it as a job with the lineage of its columns. The namespace names the server; by default it is postgres://address:port';

-- The paper of the quarterly meeting. A noun adds a section by a function review_NAME().
CREATE FUNCTION tally_internal.review_assets() RETURNS TABLE (section text, asset text, finding text, advice text)
  LANGUAGE sql STABLE PARALLEL UNSAFE STRICT
  SET search_path = pg_catalog, pg_temp
  BEGIN ATOMIC
    WITH asset AS MATERIALIZED (SELECT a.* FROM tally_internal.all_assets() AS a),
    note AS MATERIALIZED (SELECT n.* FROM tally_internal.asset_notes() AS n),
    class AS MATERIALIZED (SELECT c.* FROM tally_internal.classes() AS c)
    SELECT 'owners', a.asset, 'nobody answers for this ' || a.kind, pg_catalog.format('SELECT tally.describe_asset(%L, owner => ''...'');', a.asset)
      FROM asset AS a
     WHERE a.owner IS NULL AND a.asset !~ $re$^(tally|tally_internal)\.$re$ AND a.kind IN ('table', 'view', 'materialized view', 'foreign table', 'rollup', 'metric', 'cohort')
       AND a.asset NOT IN ('rollup:usage', 'rollup:user_activity', 'rollup:session', 'rollup:payment')
    UNION ALL
    SELECT 'purposes', a.asset, pg_catalog.format('%s, and nobody said what for', a.classification), pg_catalog.format('SELECT tally.describe_asset(%L, purpose => ''...'');', a.asset)
      FROM asset AS a
     WHERE a.purpose IS NULL AND a.classification IN ('personal', 'sensitive') AND a.asset !~ $re$^(tally|tally_internal)\.$re$ AND a.kind IN ('table', 'view', 'materialized view', 'property')
    UNION ALL
    SELECT 'exceptions', n.asset,
           pg_catalog.format('%s instead of %s since %s, by %s: %s%s', n.classification, n.lowers, n.set_at::date, n.set_by, n.reason,
             CASE WHEN c.level > tally_internal.class_level(n.classification) THEN '; it holds no longer, since it comes from something else now' END),
           'see whether the reason still holds; SELECT tally.classify(...) says it anew'
      FROM note AS n LEFT JOIN class AS c ON c.asset = n.asset WHERE n.lowers IS NOT NULL
    UNION ALL
    SELECT 'exceptions', n.asset,
           pg_catalog.concat_ws(', ', 'another table or column has this name since this was said of it', CASE WHEN n.classification IS NOT NULL THEN n.classification || ' holds for both' END),
           pg_catalog.format('see what it is; SELECT tally.classify(%L, ''...'', ''...''); says it of the one that is there', n.asset)
      FROM note AS n WHERE n.is_by_name
    UNION ALL
    SELECT 'lineage', h.target, pg_catalog.format('comes from %s, whose body is a text: what it reads, and how that is classified, is unknown', h.source),
           pg_catalog.format('SELECT tally.classify(%L, ''...'', ''...''); or write the function with BEGIN ATOMIC', h.target)
      FROM tally_internal.hidden_sources() AS h
     WHERE EXISTS (SELECT FROM asset AS a WHERE a.asset = h.target AND a.kind = 'column')
       AND NOT EXISTS (SELECT FROM note AS n WHERE n.asset = h.target AND n.classification IS NOT NULL)
    UNION ALL
    SELECT 'exceptions', n.asset, 'this was said of a table, view or column that is gone', pg_catalog.format('DELETE FROM tally.asset WHERE asset = %L;', n.asset)
      FROM tally.asset AS n WHERE NOT EXISTS (SELECT FROM note AS o WHERE o.noted_as = n.asset);
  END;
COMMENT ON FUNCTION tally_internal.review_assets() IS 'sections of tally.governance_review(): assets without owner, personal ones without purpose, classifications that were lowered';

CREATE FUNCTION tally_internal.last_seen(OUT actor text, OUT at timestamptz) RETURNS SETOF record
  LANGUAGE sql STABLE PARALLEL SAFE STRICT SECURITY DEFINER
  SET search_path = pg_catalog, pg_temp
  BEGIN ATOMIC
    SELECT e.actor, max(e.at) FROM tally.audit_entry AS e GROUP BY e.actor;
  END;
COMMENT ON FUNCTION tally_internal.last_seen() IS 'when each login was last seen in the audit log';

CREATE FUNCTION tally_internal.reads_are_recorded() RETURNS boolean
  LANGUAGE sql STABLE PARALLEL SAFE STRICT
  SET search_path = pg_catalog, pg_temp
  BEGIN ATOMIC
    SELECT coalesce((SELECT p.reads = 'all' FROM tally.audit_policy AS p WHERE p.tenant_id = ''), false)
       AND NOT EXISTS (SELECT FROM tally.audit_policy AS p WHERE p.reads <> 'all');
  END;
COMMENT ON FUNCTION tally_internal.reads_are_recorded() IS 'whether every read of every tenant is in the audit log';

CREATE FUNCTION tally_internal.review_roles() RETURNS TABLE (section text, asset text, finding text, advice text)
  LANGUAGE sql STABLE PARALLEL UNSAFE STRICT
  SET search_path = pg_catalog, pg_temp
  BEGIN ATOMIC
    WITH seen AS MATERIALIZED (SELECT s.* FROM tally_internal.last_seen() AS s),
    since AS (SELECT min(s.sealed_at) AS at FROM tally.audit_seal AS s)
    SELECT 'roles', r.rolname::text,
           pg_catalog.concat('login with rights on pg_tally, last seen ', coalesce(s.at::date::text, 'never'), ' (audit log since ', coalesce(i.at::date::text, 'today'), ')'),
           -- The log knows acts, and reads as policy says: ingest is neither, nor is what a bound login reads where nothing is recorded.
           CASE WHEN pg_catalog.pg_has_role(r.oid, 'tally_writer', 'MEMBER') OR NOT tally_internal.reads_are_recorded()
                THEN 'it may be at work all the same: ingest is not in the audit log, nor reads without a policy; log_connections and pg_stat_activity tell. Ask whose it is'
                ELSE pg_catalog.format('ALTER ROLE %I NOLOGIN; or REVOKE its groups', r.rolname) END
      FROM pg_catalog.pg_roles AS r CROSS JOIN since AS i LEFT JOIN seen AS s ON s.actor = r.rolname::text
     WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_stat_activity AS a WHERE a.usesysid = r.oid)
       AND r.rolcanlogin AND NOT r.rolsuper AND r.rolname !~ '^pg_'
       AND EXISTS (SELECT FROM pg_catalog.unnest('{tally_reader,tally_writer,tally_auditor}'::name[]) AS g (name) WHERE pg_catalog.pg_has_role(r.oid, g.name, 'MEMBER'))
       AND coalesce(s.at < pg_catalog.now() - interval '90 days', true)
    UNION ALL
    SELECT 'roles', coalesce(b.bound_as::text, b.role_name::text), 'is bound, and there is no role of that name and number any longer',
           pg_catalog.format('SELECT tally.unbind_role(%L);', b.role_name::oid::text)
      FROM tally.role_binding AS b WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_roles AS r WHERE r.oid = b.role_name AND r.rolname = b.bound_as)
    UNION ALL
    SELECT 'roles', r.rolname::text, pg_catalog.concat_ws(', ', CASE WHEN r.rolsuper THEN 'superuser' ELSE 'sees all rows (BYPASSRLS)' END, 'last seen ' || coalesce(s.at::date::text, 'never')),
           'no policy of pg_tally holds for it'
      FROM pg_catalog.pg_roles AS r LEFT JOIN seen AS s ON s.actor = r.rolname::text WHERE r.rolcanlogin AND (r.rolsuper OR r.rolbypassrls);
  END;
COMMENT ON FUNCTION tally_internal.review_roles() IS 'section of tally.governance_review(): logins that were not seen for 90 days, bindings without a role, logins that nothing holds for';

CREATE FUNCTION tally_internal.review_keys() RETURNS TABLE (section text, asset text, finding text, advice text)
  LANGUAGE sql STABLE PARALLEL SAFE STRICT
  SET search_path = pg_catalog, pg_temp
AS $$
    SELECT 'keys', k.key_id, pg_catalog.format('key of tokens, registered %s by %s', k.registered_at::date, k.registered_by), 'register another one, have the application sign with it, revoke this one (docs/tokens.md)'
      FROM tally.token_key AS k WHERE k.valid_until IS NULL AND k.registered_at < pg_catalog.now() - interval '1 year'
$$;
COMMENT ON FUNCTION tally_internal.review_keys() IS 'section of tally.governance_review(): keys of tokens that are older than a year';

CREATE FUNCTION tally_internal.review_alerts() RETURNS TABLE (section text, asset text, finding text, advice text)
  LANGUAGE sql STABLE PARALLEL SAFE STRICT
  SET search_path = pg_catalog, pg_temp
  BEGIN ATOMIC
    SELECT 'alerts', a.actor, pg_catalog.format('%s, %s to %s: %s instead of %s; %s', a.kind, a.first_day, a.last_day, pg_catalog.round(a.value::numeric), pg_catalog.round(a.usual::numeric), a.state),
           pg_catalog.format('SELECT tally.set_alert_state(%L, ''closed'', ''...'');', a.alert_id)
      FROM tally.access_alert AS a WHERE a.state <> 'closed';
  END;
COMMENT ON FUNCTION tally_internal.review_alerts() IS 'section of tally.governance_review(): access alerts that are not closed';

CREATE FUNCTION tally.governance_review(OUT section text, OUT asset text, OUT finding text, OUT advice text) RETURNS SETOF record
  LANGUAGE plpgsql STABLE PARALLEL UNSAFE STRICT
  SET search_path = pg_catalog, pg_temp
  SET jit = off
  SET timezone = 'UTC'
AS $$
BEGIN
  PERFORM tally_internal.refuse_confined();
  RETURN QUERY EXECUTE format('SELECT r.section, r.asset, r.finding, r.advice FROM (%s) AS r ORDER BY 1, 2, 3',
                              tally_internal.every('review_', 'r.section, r.asset, r.finding, r.advice'));
END
$$;
COMMENT ON FUNCTION tally.governance_review() IS
  'what a quarterly meeting looks at: assets without owner or purpose, classifications that were lowered, logins that nobody uses, old keys, open alerts; other parts add theirs';

ALTER FUNCTION tally_internal.last_seen() OWNER TO tally_owner;
REVOKE ALL ON FUNCTION tally.open_lineage(text), tally_internal.review_assets(), tally_internal.last_seen(), tally_internal.reads_are_recorded(), tally_internal.review_roles(), tally_internal.review_keys(),
  tally_internal.review_alerts(), tally.governance_review() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tally.open_lineage(text), tally_internal.review_assets(), tally_internal.last_seen(), tally_internal.reads_are_recorded(), tally_internal.review_roles(), tally_internal.review_keys(),
  tally_internal.review_alerts(), tally.governance_review() TO tally_admin, tally_auditor;
