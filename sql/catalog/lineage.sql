-- Lineage: which columns come from which, from the property that an event was sent with to the view that somebody made over a rollup's.

CREATE FUNCTION tally_internal.view_sources(view oid, OUT column_number int2, OUT source oid, OUT source_column int2, OUT property text, OUT called oid)
  RETURNS SETOF record
  LANGUAGE c STABLE PARALLEL SAFE STRICT AS 'MODULE_PATHNAME', 'view_sources_wrapper';
COMMENT ON FUNCTION tally_internal.view_sources(oid) IS
  'what each column of a view, or each generated column of a table, comes from: columns (0 is a whole row), properties of tally.events and functions; column 0 is what its rows are chosen by';

CREATE FUNCTION tally_internal.expression_sources(expression text, OUT column_number int2, OUT source oid, OUT source_column int2, OUT property text, OUT called oid)
  RETURNS SETOF record
  LANGUAGE c STABLE PARALLEL UNSAFE STRICT AS 'MODULE_PATHNAME', 'expression_sources_wrapper';
COMMENT ON FUNCTION tally_internal.expression_sources(text) IS 'the same of an expression over an event, as rollups declare them';

-- The functions that views and generated columns call, and those that these call in turn.
CREATE FUNCTION tally_internal.called_functions() RETURNS TABLE (relation oid, column_number int2, function oid)
  LANGUAGE sql STABLE PARALLEL SAFE STRICT
  SET search_path = pg_catalog, pg_temp
  SET jit = off
  BEGIN ATOMIC
    WITH RECURSIVE called (relation, column_number, function) AS (
      SELECT r.relation, s.column_number, s.called FROM tally_internal.catalog_relations() AS r CROSS JOIN LATERAL tally_internal.view_sources(r.relation) AS s
       WHERE (r.relkind IN ('v', 'm') OR EXISTS (SELECT FROM pg_catalog.pg_attribute AS a WHERE a.attrelid = r.relation AND a.attgenerated <> '')) AND s.called IS NOT NULL
      UNION
      SELECT c.relation, c.column_number, d.refobjid FROM called AS c
        JOIN pg_catalog.pg_depend AS d ON d.classid = 'pg_catalog.pg_proc'::regclass AND d.objid = c.function
         AND d.refclassid = 'pg_catalog.pg_proc'::regclass AND d.deptype = 'n'
    )
    SELECT c.relation, c.column_number, c.function FROM called AS c;
  END;
COMMENT ON FUNCTION tally_internal.called_functions() IS 'the functions that a view''s columns, or generated columns of a table, come from; column 0 is what its rows are chosen by';

-- A body that is a text may read anything.
CREATE FUNCTION tally_internal.hidden_sources() RETURNS TABLE (source text, target text, through text)
  LANGUAGE sql STABLE PARALLEL SAFE STRICT
  SET search_path = pg_catalog, pg_temp
  SET jit = off
  BEGIN ATOMIC
    SELECT f.name, coalesce(o.asset, r.name), r.kind
      FROM tally_internal.called_functions() AS c
      JOIN pg_catalog.pg_proc AS p ON p.oid = c.function AND p.prosqlbody IS NULL AND p.prokind = 'f'
      JOIN pg_catalog.pg_language AS l ON l.oid = p.prolang AND l.lanname NOT IN ('c', 'internal')
      JOIN tally_internal.catalog_functions() AS f ON f.function = c.function
      JOIN tally_internal.catalog_relations() AS r ON r.relation = c.relation
      LEFT JOIN tally_internal.catalog_columns() AS o ON o.relation = c.relation AND o.number = c.column_number
     WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_depend AS d
                        WHERE d.classid = 'pg_catalog.pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e')
       AND (c.column_number = 0 OR o.asset IS NOT NULL);
  END;
COMMENT ON FUNCTION tally_internal.hidden_sources() IS 'views, their columns and generated columns that come from a function whose body is a text: what that reads is unknown';

-- kind: value, what a value is made of; condition, what decides on rows, or how they are counted; definition, what declares it;
-- part, what is one of many in it.
CREATE FUNCTION tally_internal.lineage_edges() RETURNS TABLE (source text, target text, kind text, through text)
  LANGUAGE sql STABLE PARALLEL UNSAFE STRICT
  SET search_path = pg_catalog, pg_temp
  SET jit = off
  BEGIN ATOMIC
    WITH relation AS MATERIALIZED (SELECT r.* FROM tally_internal.catalog_relations() AS r),
    field AS MATERIALIZED (SELECT c.* FROM tally_internal.catalog_columns() AS c),
    seen AS MATERIALIZED (
      SELECT r.relation, r.name, r.kind, s.* FROM relation AS r CROSS JOIN LATERAL tally_internal.view_sources(r.relation) AS s
       WHERE (r.relkind IN ('v', 'm') OR EXISTS (SELECT FROM pg_catalog.pg_attribute AS a WHERE a.attrelid = r.relation AND a.attgenerated <> ''))
    ), told AS MATERIALIZED (
      -- What a function with a body that Postgres has read takes from tables, its result is made of.
      SELECT s.relation, s.name, s.kind, s.column_number, s.source, s.source_column, s.property FROM seen AS s WHERE s.called IS NULL
      UNION
      SELECT r.relation, r.name, r.kind, c.column_number, d.refobjid, d.refobjsubid::int2, NULL
        FROM relation AS r JOIN tally_internal.called_functions() AS c ON c.relation = r.relation
        JOIN pg_catalog.pg_depend AS d ON d.classid = 'pg_catalog.pg_proc'::regclass AND d.objid = c.function
         AND d.refclassid = 'pg_catalog.pg_class'::regclass AND d.refobjsubid > 0
    ), measured AS MATERIALIZED (
      SELECT c.rollup_name, c.column_name, c.kind, c.position, e.source_column, e.property
        FROM tally.rollup_column AS c CROSS JOIN LATERAL tally_internal.expression_sources(c.expression) AS e
       WHERE c.expression IS NOT NULL AND e.called IS NULL AND e.column_number = 1
    ), kept AS (
      -- The tables of a rollup: pending rows, and the base rows of each grain.
      SELECT r.rollup_name, pg_catalog.format('tally.%I', r.rollup_name || '_pending') AS name, NULL::text AS base FROM tally.rollup AS r
      UNION ALL
      SELECT r.rollup_name, pg_catalog.format('tally.%I', r.rollup_name || '_pending'), pg_catalog.format('tally.%I', r.rollup_name || '_' || g.grain || '_base')
        FROM tally.rollup AS r CROSS JOIN LATERAL pg_catalog.unnest(r.grains) AS g (grain)
    ), defined AS (
      SELECT DISTINCT ON (m.metric_name) 'metric:' || m.metric_name AS asset, m.definition FROM tally.metric AS m ORDER BY m.metric_name, m.version DESC
    ), grouped AS (
      SELECT DISTINCT ON (c.cohort_name) 'cohort:' || c.cohort_name, c.definition FROM tally.cohort AS c ORDER BY c.cohort_name, c.version DESC
    ), declared AS (
      SELECT d.* FROM defined AS d UNION ALL SELECT g.* FROM grouped AS g
    ), schema AS (
      SELECT DISTINCT ON (s.name) s.name, s.schema FROM tally.event_schema AS s ORDER BY s.name, s.version DESC
    ), edge (source, target, kind, through) AS (
      SELECT coalesce('property:' || t.property, f.asset),
             CASE WHEN t.column_number = 0 THEN t.name ELSE o.asset END,
             CASE WHEN t.column_number = 0 THEN 'condition' ELSE 'value' END, t.kind
        FROM told AS t
        LEFT JOIN field AS o ON o.relation = t.relation AND o.number = t.column_number
        LEFT JOIN field AS f ON t.property IS NULL AND f.relation = t.source AND (f.number = t.source_column OR t.source_column = 0)
       WHERE (t.column_number = 0 OR o.asset IS NOT NULL) AND (t.property IS NOT NULL OR f.asset IS NOT NULL)
      UNION ALL
      SELECT coalesce('property:' || m.property, f.asset), pg_catalog.format('tally.%I.%I', m.rollup_name || '_pending', m.column_name), 'value', 'rollup'
        FROM measured AS m
        LEFT JOIN field AS f ON m.property IS NULL AND f.relation = 'tally.events'::regclass AND (f.number = m.source_column OR m.source_column = 0)
      UNION ALL
      SELECT 'tally.events.' || k.source, pg_catalog.format('tally.%I.%I', r.rollup_name || '_pending', k.target), 'value', 'rollup'
        FROM tally.rollup AS r CROSS JOIN (VALUES ('tenant_id', 'tenant_id'), ('account_id', 'account_id'), ('occurred_at', 'bucket')) AS k (source, target)
      UNION ALL
      SELECT 'tally.events.occurred_at', pg_catalog.format('tally.%I.%I', c.rollup_name || '_pending', c.column_name || '_at'), 'value', 'rollup'
        FROM tally.rollup_column AS c WHERE c.kind IN ('first', 'last')
      UNION ALL
      SELECT coalesce('property:' || e.property, f.asset), pg_catalog.format('tally.%I', r.rollup_name || '_pending'), 'condition', 'rollup'
        FROM tally.rollup AS r CROSS JOIN LATERAL tally_internal.expression_sources('(' || r.filter || E'\n) IS TRUE') AS e
        LEFT JOIN field AS f ON e.property IS NULL AND f.relation = 'tally.events'::regclass AND (f.number = e.source_column OR e.source_column = 0)
       WHERE r.filter IS NOT NULL AND e.called IS NULL
      UNION ALL
      SELECT 'rollup:' || k.rollup_name, coalesce(k.base, k.name), 'definition', 'rollup' FROM kept AS k
      UNION ALL
      SELECT p.asset, b.asset, 'value', 'fold'
        FROM kept AS k
        JOIN relation AS pending ON pending.name = k.name JOIN field AS p ON p.relation = pending.relation
        JOIN relation AS base ON base.name = k.base
        JOIN field AS b ON b.relation = base.relation AND pg_catalog.substr(b.asset, pg_catalog.length(base.name) + 2) = pg_catalog.substr(p.asset, pg_catalog.length(pending.name) + 2)
       WHERE k.base IS NOT NULL
      UNION ALL
      SELECT p.asset, c.asset, 'value', 'partition'
        FROM pg_catalog.pg_inherits AS i
        JOIN relation AS above ON above.relation = i.inhparent JOIN field AS p ON p.relation = i.inhparent
        JOIN relation AS below ON below.relation = i.inhrelid
        JOIN field AS c ON c.relation = i.inhrelid AND pg_catalog.substr(c.asset, pg_catalog.length(below.name) + 2) = pg_catalog.substr(p.asset, pg_catalog.length(above.name) + 2)
      UNION ALL
      SELECT 'property:' || (d.definition ->> 'property'), d.asset, 'value', 'definition' FROM declared AS d WHERE d.definition ? 'property'
      UNION ALL
      SELECT 'event:' || (e.name #>> '{}'), d.asset, 'condition', 'definition'
        FROM declared AS d CROSS JOIN LATERAL pg_catalog.jsonb_path_query(d.definition, '$.**."event"') AS e (name) WHERE pg_catalog.jsonb_typeof(e.name) = 'string'
      UNION ALL
      SELECT CASE d.definition ->> 'unit' WHEN 'account' THEN 'tally.events.account_id' WHEN 'session' THEN 'tally.events.session_id' ELSE 'tally.events.user_id' END,
             d.asset, 'condition', 'definition'
        FROM declared AS d WHERE d.definition ->> 'kind' NOT IN ('events', 'sum', 'mean')
      UNION ALL
      SELECT 'event:' || s.name, 'property:' || p.key, 'definition', 'schema'
        FROM schema AS s CROSS JOIN LATERAL pg_catalog.jsonb_object_keys(CASE WHEN pg_catalog.jsonb_typeof(s.schema -> 'properties') = 'object' THEN s.schema -> 'properties' ELSE '{}' END) AS p (key)
    ), property AS (
      SELECT e.source AS asset FROM edge AS e WHERE e.source LIKE 'property:%'
      UNION
      SELECT e.target FROM edge AS e WHERE e.target LIKE 'property:%'
      UNION
      SELECT n.asset FROM tally.asset AS n WHERE n.asset LIKE 'property:%'
    )
    SELECT e.source, e.target, e.kind, e.through FROM edge AS e WHERE e.source <> e.target
    UNION
    SELECT p.asset, 'tally.events.properties', 'part', 'event' FROM property AS p;
  END;
COMMENT ON FUNCTION tally_internal.lineage_edges() IS 'what the catalogue knows to come from what';

-- What classes assets without anybody having said so. A noun adds its own by functions classed_NAME().
CREATE FUNCTION tally_internal.classed_built_in() RETURNS TABLE (asset text, classification text, reason text)
  LANGUAGE sql STABLE PARALLEL SAFE STRICT
  SET search_path = pg_catalog, pg_temp
  BEGIN ATOMIC
    SELECT v.* FROM (VALUES
      ('tally.events.user_id', 'personal', 'who acted'),
      ('tally.events.session_id', 'personal', 'one person''s session'),
      ('tally.events.properties', 'personal', 'may hold anything that was sent'),
      ('tally.quarantine.body', 'personal', 'the event as it was sent'),
      ('tally.audit_personal.content', 'personal', 'whom a token was made for'),
      ('tally.audit.personal', 'personal', 'whom a token was made for'),
      ('tally.quarantine.reason', 'personal', 'may quote what was sent'),
      ('tally.ingest_batch.source', 'personal', 'may be somebody''s device'),
      ('tally.ingest_batch.client', 'personal', 'may be somebody''s device'),
      ('tally.quarantine_discard.reason', 'personal', 'words, which may name whose events they were'),
      ('tally.erasure.subject', 'personal', 'who is to be erased'),
      ('tally.erasure.requested_by', 'personal', 'may be whom a token was made for'),
      ('tally.erasure.reason', 'personal', 'words, which may name who was erased'),
      ('tally.audit_entry.detail', 'personal', 'has the words of some acts'' reasons'),
      ('tally.person_identity.login', 'personal', 'a person''s login'),
      ('tally.person_identity.identity', 'personal', 'a person''s login, or whom tokens are made for'),
      ('tally.person_identity.person', 'personal', 'who it is'),
      ('tally.export.identities', 'personal', 'who requested it'),
      ('tally.export.query', 'personal', 'may name whom it asks about'),
      ('tally.export.params', 'personal', 'may name whom it asks about'),
      ('tally.export.columns', 'personal', 'names from the query, which may be anything'),
      ('tally.export.purpose', 'personal', 'words, which may name whom it asks about'),
      ('tally.export.reason', 'personal', 'words, which may name whom it asks about'),
      ('tally.export_approval.identities', 'personal', 'who approved'),
      ('tally.access_alert.note', 'personal', 'words about what somebody did'),
      ('tally.asset.owner', 'personal', 'may be a person'),
      ('tally.catalog.owner', 'personal', 'may be a person'),
      ('tally.tenant.sketch_key', 'confidential', 'a secret key'),
      ('tally.erasure_key.hash_key', 'confidential', 'a secret key'),
      ('tally.privacy_key.wrapped', 'confidential', 'secret keys, under another one'),
      ('tally.stream_key.secret', 'confidential', 'a secret number'),
      ('tally.accounts.users', 'internal', 'a number of people, and none of them'),
      ('property:value', 'internal', 'the measured value that the built-in rollups sum up'),
      ('property:amount', 'internal', 'the amount that the built-in rollups sum up'),
      ('property:currency', 'internal', 'the currency of amounts')
    ) AS v (asset, classification, reason)
    UNION ALL
    SELECT pg_catalog.format('tally.%I.%I', c.rollup_name || t.suffix, c.column_name), 'internal',
           'a sketch: hashes under the tenant''s secret key, of which a number is made'
      FROM tally.rollup_column AS c JOIN tally.rollup AS r USING (rollup_name)
      CROSS JOIN LATERAL (SELECT '_pending' UNION ALL SELECT '_' || g.grain || '_base' FROM pg_catalog.unnest(r.grains) AS g (grain)) AS t (suffix)
     WHERE c.kind = 'distinct';
  END;
COMMENT ON FUNCTION tally_internal.classed_built_in() IS 'classifications of pg_tally''s own columns, and of the properties that its built-in rollups read';

CREATE FUNCTION tally_internal.classed_schema() RETURNS TABLE (asset text, classification text, reason text)
  LANGUAGE sql STABLE PARALLEL SAFE STRICT
  SET search_path = pg_catalog, pg_temp
  BEGIN ATOMIC
    SELECT 'property:' || p.key, k.classification, 'the schema of event ' || s.name || ' says so'
      FROM (SELECT DISTINCT ON (s.name) s.name, s.schema FROM tally.event_schema AS s ORDER BY s.name, s.version DESC) AS s
      CROSS JOIN LATERAL pg_catalog.jsonb_each(CASE WHEN pg_catalog.jsonb_typeof(s.schema -> 'properties') = 'object' THEN s.schema -> 'properties' ELSE '{}' END) AS p
      CROSS JOIN LATERAL (SELECT CASE WHEN p.value ->> 'x-classification' IN ('public', 'internal', 'confidential', 'personal', 'sensitive') THEN p.value ->> 'x-classification'
                                      WHEN p.value -> 'x-personal' = 'true' THEN 'personal' END) AS k (classification)
     WHERE pg_catalog.jsonb_typeof(p.value) = 'object' AND k.classification IS NOT NULL;
  END;
COMMENT ON FUNCTION tally_internal.classed_schema() IS
  'classifications of properties by the registered schemas: "x-classification", or "x-personal": true';

-- Flow: an asset is what was said of it, or what pg_tally knows of it, or else the highest of what it is made of. What was said and is
-- lower holds for the sources that it was said for.
CREATE FUNCTION tally_internal.classes() RETURNS TABLE (asset text, level int4, origin text, reason text, derived int4, sources text[])
  LANGUAGE plpgsql STABLE PARALLEL UNSAFE STRICT
  SET search_path = pg_catalog, pg_temp
  SET jit = off
AS $$
BEGIN
  RETURN QUERY EXECUTE format($query$
    WITH RECURSIVE edge AS MATERIALIZED (
      -- A property of which nothing is known is what all of them are.
      SELECT DISTINCT CASE e.kind WHEN 'part' THEN e.target ELSE e.source END AS source, CASE e.kind WHEN 'part' THEN e.source ELSE e.target END AS target
        FROM tally_internal.lineage_edges() AS e WHERE e.kind IN ('value', 'part')
    ), made_of AS MATERIALIZED (
      SELECT e.target AS asset, array_agg(e.source ORDER BY e.source) AS sources FROM edge AS e GROUP BY e.target
    ), known AS MATERIALIZED (
      SELECT DISTINCT ON (c.asset) c.asset, tally_internal.class_level(c.classification) AS level, c.reason FROM (%s) AS c
       ORDER BY c.asset, tally_internal.class_level(c.classification) DESC
    ), note AS MATERIALIZED (
      SELECT n.asset, tally_internal.class_level(n.classification) AS level, n.reason, n.covers, tally_internal.class_level(n.lowers) AS lowers
        FROM tally_internal.asset_notes() AS n WHERE n.classification IS NOT NULL
      UNION ALL
      -- What was said of a table holds for its columns of which nothing was.
      SELECT f.asset, tally_internal.class_level(n.classification), n.reason, n.covers, tally_internal.class_level(n.lowers)
        FROM tally_internal.asset_notes() AS n JOIN tally_internal.catalog_relations() AS r ON r.name = n.asset
        JOIN tally_internal.catalog_columns() AS f ON f.relation = r.relation
       WHERE n.classification IS NOT NULL
         AND NOT EXISTS (SELECT FROM tally_internal.asset_notes() AS o WHERE o.asset = f.asset AND o.classification IS NOT NULL)
    ), rise (asset, level) AS (
      -- What assets would be if nobody had lowered any.
      SELECT k.asset, k.level FROM known AS k
      UNION
      SELECT n.asset, n.level FROM note AS n WHERE n.lowers IS NULL
      UNION
      SELECT e.target, r.level FROM rise AS r JOIN edge AS e ON e.source = r.asset
       WHERE NOT EXISTS (SELECT FROM known AS k WHERE k.asset = e.target)
         AND NOT EXISTS (SELECT FROM note AS n WHERE n.asset = e.target AND n.lowers IS NULL AND n.level >= r.level)
    ), risen AS MATERIALIZED (
      SELECT r.asset, max(r.level) AS level FROM rise AS r GROUP BY r.asset
    ), holding AS MATERIALIZED (
      SELECT n.* FROM note AS n
        LEFT JOIN made_of AS m ON m.asset = n.asset LEFT JOIN risen AS r ON r.asset = n.asset
       WHERE n.lowers IS NULL OR (coalesce(m.sources, '{}') <@ coalesce(n.covers, '{}') AND coalesce(r.level, 0) <= n.lowers)
    ), flow (asset, level) AS (
      SELECT h.asset, h.level FROM holding AS h
      UNION
      SELECT k.asset, k.level FROM known AS k WHERE NOT EXISTS (SELECT FROM holding AS h WHERE h.asset = k.asset)
      UNION
      SELECT e.target, f.level FROM flow AS f JOIN edge AS e ON e.source = f.asset
       WHERE NOT EXISTS (SELECT FROM known AS k WHERE k.asset = e.target)
         AND NOT EXISTS (SELECT FROM holding AS h WHERE h.asset = e.target AND (h.lowers IS NOT NULL OR h.level >= f.level))
    ), flowed AS (
      SELECT f.asset, max(f.level) AS level FROM flow AS f GROUP BY f.asset
    )
    SELECT f.asset, f.level,
           CASE WHEN h.level = f.level THEN 'declared' WHEN k.level = f.level THEN 'built in' ELSE 'derived' END,
           CASE WHEN h.level = f.level THEN h.reason WHEN k.level = f.level THEN k.reason END,
           r.level, m.sources
      FROM flowed AS f
      LEFT JOIN holding AS h ON h.asset = f.asset LEFT JOIN known AS k ON k.asset = f.asset
      LEFT JOIN risen AS r ON r.asset = f.asset LEFT JOIN made_of AS m ON m.asset = f.asset
    $query$, tally_internal.every('classed_', 'r.asset, r.classification, r.reason'));
END
$$;
COMMENT ON FUNCTION tally_internal.classes() IS
  'level of each asset that has one: as declared, as built in, or derived from its sources; and what it would be had nobody lowered it';

CREATE FUNCTION tally_internal.refuse_confined() RETURNS void
  LANGUAGE plpgsql STABLE PARALLEL SAFE STRICT
  SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  IF tally_internal.confined_to() IS NOT NULL THEN
    RAISE EXCEPTION USING ERRCODE = 'insufficient_privilege', MESSAGE = 'the catalogue is not for a session that is confined to a tenant',
      HINT = 'it names the tables, views and roles of everybody: ask as an auditor, an administrator or an analyst without a tenant''s scope';
  END IF;
END
$$;
COMMENT ON FUNCTION tally_internal.refuse_confined() IS 'raises an error in a session that is confined to a tenant';

CREATE FUNCTION tally_internal.all_lineage() RETURNS TABLE (source text, target text, kind text, through text)
  LANGUAGE plpgsql STABLE PARALLEL UNSAFE STRICT
  SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  PERFORM tally_internal.refuse_confined();
  RETURN QUERY
    SELECT e.source, e.target, e.kind, e.through FROM tally_internal.lineage_edges() AS e
    UNION
    SELECT h.source, h.target, 'unknown', h.through FROM tally_internal.hidden_sources() AS h;
END
$$;
COMMENT ON FUNCTION tally_internal.all_lineage() IS 'tally_internal.lineage_edges() and tally_internal.hidden_sources(), but not for tenants';

CREATE VIEW tally.lineage AS SELECT l.source, l.target, l.kind, l.through FROM tally_internal.all_lineage() AS l;
COMMENT ON VIEW tally.lineage IS 'what comes from what: properties of events, columns of rollups, of views and of the views that were made over them, metrics';
COMMENT ON COLUMN tally.lineage.source IS 'the asset that it comes from';
COMMENT ON COLUMN tally.lineage.target IS 'the asset that is made of it';
COMMENT ON COLUMN tally.lineage.kind IS
  'value: its value is made of it; condition: its rows are chosen, grouped or counted by it; definition: it is declared by it; part: it is one of many things in it; unknown: it comes from a function whose body is a text, which may read anything';
COMMENT ON COLUMN tally.lineage.through IS 'by what: a view, a rollup, its fold, a partition, a table whose column is generated, a definition, a schema, an event';

CREATE FUNCTION tally.impact(asset text) RETURNS TABLE (affected text, distance int4, kind text, by text[])
  LANGUAGE plpgsql STABLE PARALLEL UNSAFE STRICT
  SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  name text;
BEGIN
  PERFORM tally_internal.refuse_confined();
  name := (SELECT f.name FROM tally_internal.find_asset(impact.asset) AS f);
  RETURN QUERY
    WITH RECURSIVE edge AS MATERIALIZED (
      SELECT e.source, e.target, e.kind FROM tally_internal.all_lineage() AS e
      UNION
      -- A table is what its columns are, and what chooses rows bears on all of them.
      SELECT r.name, c.asset, 'part' FROM tally_internal.catalog_relations() AS r JOIN tally_internal.catalog_columns() AS c ON c.relation = r.relation
    ), reached (asset, distance, is_value, path) AS (
      SELECT name, 0, true, ARRAY[name]
      UNION ALL
      SELECT s.* FROM (
        SELECT DISTINCT ON (e.target) e.target, r.distance + 1, r.is_value AND e.kind <> 'condition', r.path || e.target
          FROM reached AS r JOIN edge AS e ON e.source = r.asset
         WHERE NOT e.target = ANY (r.path) AND r.distance < 50 AND NOT (e.target = 'tally.events.properties' AND r.asset LIKE 'property:%')
         ORDER BY e.target, r.is_value DESC
      ) AS s
    )
    SELECT DISTINCT ON (r.asset) r.asset, r.distance, CASE WHEN r.is_value THEN 'value' ELSE 'condition' END, r.path[1 : cardinality(r.path) - 1]
      FROM reached AS r WHERE r.distance > 0 ORDER BY r.asset, r.is_value DESC, r.distance;
END
$$;
COMMENT ON FUNCTION tally.impact(text) IS
  'what a change of an asset bears on, how many steps away: value where its values change, condition where only its rows do; by is the way there';

ALTER VIEW tally.lineage OWNER TO tally_owner;
REVOKE ALL ON tally.lineage FROM PUBLIC;
GRANT SELECT ON tally.lineage TO tally_admin, tally_analyst, tally_auditor;
REVOKE ALL ON FUNCTION tally_internal.view_sources(oid), tally_internal.called_functions(), tally_internal.hidden_sources(), tally_internal.expression_sources(text), tally_internal.lineage_edges(), tally_internal.classed_built_in(),
  tally_internal.classed_schema(), tally_internal.classes(), tally_internal.refuse_confined(), tally_internal.all_lineage(), tally.impact(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tally_internal.view_sources(oid), tally_internal.called_functions(), tally_internal.hidden_sources(), tally_internal.expression_sources(text), tally_internal.lineage_edges(), tally_internal.classed_built_in(),
  tally_internal.classed_schema(), tally_internal.classes(), tally_internal.refuse_confined() TO tally_owner, tally_analyst, tally_auditor;
GRANT EXECUTE ON FUNCTION tally_internal.all_lineage(), tally.impact(text) TO tally_analyst, tally_auditor;
GRANT EXECUTE ON FUNCTION tally_internal.registered(text), tally_internal.every(text, text) TO tally_owner, tally_analyst;
