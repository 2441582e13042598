-- What people say about assets: how they are classified and why, whose they are, what they are for. Everything else in the catalogue
-- is found in what is declared.

-- A column by its number, as long as it lives and whatever it is called; by its name where it is written, as in a dump: where that is
-- restored, columns that had been dropped are in no table, and the others have other numbers.
CREATE TYPE tally_internal.column_place;
CREATE FUNCTION tally_internal.column_place_in(cstring) RETURNS tally_internal.column_place
  LANGUAGE c STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tally_column_place_in';
COMMENT ON FUNCTION tally_internal.column_place_in(cstring) IS 'text form of column_place: schema.table.column, or - for one that isn''t there';
CREATE FUNCTION tally_internal.column_place_out(tally_internal.column_place) RETURNS cstring
  LANGUAGE c STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tally_column_place_out';
COMMENT ON FUNCTION tally_internal.column_place_out(tally_internal.column_place) IS 'text form of column_place, by the names of now';
CREATE FUNCTION tally_internal.column_place_recv(internal) RETURNS tally_internal.column_place
  LANGUAGE c STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tally_column_place_recv';
COMMENT ON FUNCTION tally_internal.column_place_recv(internal) IS 'binary form of column_place: its text form';
CREATE FUNCTION tally_internal.column_place_send(tally_internal.column_place) RETURNS bytea
  LANGUAGE c STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tally_column_place_send';
COMMENT ON FUNCTION tally_internal.column_place_send(tally_internal.column_place) IS 'binary form of column_place: its text form';
CREATE TYPE tally_internal.column_place (
  INPUT = tally_internal.column_place_in, OUTPUT = tally_internal.column_place_out, RECEIVE = tally_internal.column_place_recv,
  SEND = tally_internal.column_place_send, LIKE = int8
);
COMMENT ON TYPE tally_internal.column_place IS 'a column of a table or view, whatever it is called later; a dump has its name';
CREATE CAST (tally_internal.column_place AS int8) WITHOUT FUNCTION;
CREATE CAST (int8 AS tally_internal.column_place) WITHOUT FUNCTION;

CREATE FUNCTION tally_internal.place_of_column(relation oid, number int2) RETURNS tally_internal.column_place
  LANGUAGE sql IMMUTABLE PARALLEL SAFE STRICT
  SET search_path = pg_catalog, pg_temp
  BEGIN ATOMIC
    SELECT ((relation::int8 << 16) | number::int8)::tally_internal.column_place;
  END;
COMMENT ON FUNCTION tally_internal.place_of_column(oid, int2) IS 'the place of the column of a table that has this number';

CREATE FUNCTION tally_internal.number_of_column(place tally_internal.column_place) RETURNS int2
  LANGUAGE sql IMMUTABLE PARALLEL SAFE STRICT
  SET search_path = pg_catalog, pg_temp
  BEGIN ATOMIC
    SELECT (place::int8 & 65535::int8)::int2;
  END;
COMMENT ON FUNCTION tally_internal.number_of_column(tally_internal.column_place) IS 'the number of the column that is in this place; 0 where it was gone before a restore';

CREATE TABLE tally.asset (
  set_at         timestamptz NOT NULL DEFAULT now(),
  relation       regclass,
  place          tally_internal.column_place,
  asset          text COLLATE "C" NOT NULL CONSTRAINT asset_pkey PRIMARY KEY,
  column_name    text COLLATE "C",
  classification text COLLATE "C",
  reason         text COLLATE "C",
  covers         text[],
  lowers         text COLLATE "C",
  owner          text COLLATE "C",
  purpose        text COLLATE "C",
  retention      text COLLATE "C",
  set_by         name NOT NULL DEFAULT session_user,
  CONSTRAINT asset_classification_known CHECK (classification IN ('public', 'internal', 'confidential', 'personal', 'sensitive')),
  CONSTRAINT asset_classification_has_a_reason CHECK (classification IS NULL OR reason ~ $re$\S$re$)
);
COMMENT ON TABLE tally.asset IS 'what was said about assets with tally.classify() and tally.describe_asset()';
COMMENT ON COLUMN tally.asset.set_at IS 'when it was said last';
COMMENT ON COLUMN tally.asset.relation IS 'the table or view, where it is one or a column of one: it stays the same when that is renamed';
COMMENT ON COLUMN tally.asset.place IS 'the column, where it is one: it stays the same when that is renamed, and in a dump has its name; - where it is gone';
COMMENT ON COLUMN tally.asset.asset IS 'the asset as the catalogue named it then';
COMMENT ON COLUMN tally.asset.column_name IS 'the column''s name then';
COMMENT ON COLUMN tally.asset.classification IS 'public, internal, confidential, personal or sensitive; null where nobody said';
COMMENT ON COLUMN tally.asset.reason IS 'why, in the words of whoever said it';
COMMENT ON COLUMN tally.asset.covers IS 'where it is lower than what the asset derives from: the sources for which that was said; with others it doesn''t hold';
COMMENT ON COLUMN tally.asset.lowers IS 'where it is lower: what it was derived as; should that rise, it doesn''t hold';
COMMENT ON COLUMN tally.asset.owner IS 'the person or team that answers for it';
COMMENT ON COLUMN tally.asset.purpose IS 'what it is for';
COMMENT ON COLUMN tally.asset.retention IS 'how long it is kept, where pg_tally doesn''t see to that';
COMMENT ON COLUMN tally.asset.set_by IS 'the role that logged in and said it';
ALTER TABLE tally.asset OWNER TO tally_owner;
REVOKE ALL ON tally.asset FROM PUBLIC;
SELECT tally_internal.confine_table('tally.asset');
GRANT SELECT ON tally.asset TO tally_admin, tally_analyst, tally_auditor;
-- A relation that was dropped is printed as a number, which is another one's where the dump is restored.
SELECT pg_catalog.pg_extension_config_dump('tally.asset',
  'WHERE relation IS NULL OR EXISTS (SELECT FROM pg_catalog.pg_class AS c WHERE c.oid OPERATOR(pg_catalog.=) relation::pg_catalog.oid)');
SELECT tally_internal.record_changes_of('tally.asset', 'asset', 'asset', '{owner}');

-- What the audit log asks of each statement. It is found anew where anything has changed. By names: a subscriber and a restored
-- database have other numbers.
CREATE TABLE tally.personal_column (
  relation text COLLATE "C" NOT NULL CONSTRAINT personal_column_pkey PRIMARY KEY,
  columns  text COLLATE "C" NOT NULL
);
COMMENT ON TABLE tally.personal_column IS 'the columns of tables that are personal, as the catalogue found them last; reads of them are recorded by the policy raw';
COMMENT ON COLUMN tally.personal_column.relation IS 'schema and name of the table; empty in the row that tells what all was found from, - in the one that tells up to which transaction';
COMMENT ON COLUMN tally.personal_column.columns IS 'names of its columns, a JSON array';
ALTER TABLE tally.personal_column OWNER TO tally_owner;
REVOKE ALL ON tally.personal_column FROM PUBLIC;
SELECT tally_internal.confine_table('tally.personal_column');
GRANT SELECT ON tally.personal_column TO tally_admin, tally_auditor;
SELECT pg_catalog.pg_extension_config_dump('tally.personal_column', '');
CREATE TRIGGER personal_column_changed AFTER INSERT OR UPDATE OR DELETE ON tally.personal_column
  FOR EACH ROW EXECUTE FUNCTION tally_internal.forget();
CREATE TRIGGER personal_column_emptied AFTER TRUNCATE ON tally.personal_column
  FOR EACH STATEMENT EXECUTE FUNCTION tally_internal.forget();
ALTER TABLE tally.personal_column ENABLE ALWAYS TRIGGER personal_column_changed, ENABLE ALWAYS TRIGGER personal_column_emptied;

-- Levels, the lowest first.
CREATE FUNCTION tally_internal.class_level(classification text) RETURNS int4
  LANGUAGE sql IMMUTABLE PARALLEL SAFE STRICT
  SET search_path = pg_catalog, pg_temp
  BEGIN ATOMIC
    SELECT pg_catalog.array_position('{public,internal,confidential,personal,sensitive}'::text[], classification);
  END;
COMMENT ON FUNCTION tally_internal.class_level(text) IS 'place of a classification, from 1 for public to 5 for sensitive';

CREATE FUNCTION tally_internal.class_name(level int4) RETURNS text
  LANGUAGE sql IMMUTABLE PARALLEL SAFE STRICT
  SET search_path = pg_catalog, pg_temp
  BEGIN ATOMIC
    SELECT ('{public,internal,confidential,personal,sensitive}'::text[])[level];
  END;
COMMENT ON FUNCTION tally_internal.class_name(int4) IS 'the classification at a place';

CREATE FUNCTION tally_internal.catalog_relations()
  RETURNS TABLE (relation oid, name text, kind text, relkind "char", owner oid, is_own boolean, schema_id oid)
  LANGUAGE sql STABLE PARALLEL SAFE STRICT
  SET search_path = pg_catalog, pg_temp
  BEGIN ATOMIC
    SELECT c.oid, pg_catalog.format('%I.%I', n.nspname, c.relname),
           CASE c.relkind WHEN 'v' THEN 'view' WHEN 'm' THEN 'materialized view' WHEN 'f' THEN 'foreign table' ELSE 'table' END,
           c.relkind, c.relowner, n.nspname IN ('tally', 'tally_internal'), n.oid
      FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
     WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
       AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend AS d JOIN pg_catalog.pg_extension AS e ON e.oid = d.refobjid
                        WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e'
                          AND d.refclassid = 'pg_catalog.pg_extension'::regclass AND e.extname <> 'pg_tally');
  END;
COMMENT ON FUNCTION tally_internal.catalog_relations() IS 'tables and views of the database, but those of Postgres and of other extensions';

CREATE FUNCTION tally_internal.catalog_columns() RETURNS TABLE (relation oid, number int2, asset text)
  LANGUAGE sql STABLE PARALLEL SAFE STRICT
  SET search_path = pg_catalog, pg_temp
  BEGIN ATOMIC
    SELECT r.relation, a.attnum, r.name || '.' || pg_catalog.quote_ident(a.attname)
      FROM tally_internal.catalog_relations() AS r
      JOIN pg_catalog.pg_attribute AS a ON a.attrelid = r.relation AND a.attnum > 0 AND NOT a.attisdropped;
  END;
COMMENT ON FUNCTION tally_internal.catalog_columns() IS 'columns of tally_internal.catalog_relations()';

CREATE FUNCTION tally_internal.catalog_functions() RETURNS TABLE (function oid, name text, owner oid, schema_id oid)
  LANGUAGE sql STABLE PARALLEL SAFE STRICT
  SET search_path = pg_catalog, pg_temp
  BEGIN ATOMIC
    SELECT p.oid, pg_catalog.format('function:%I.%I(%s)', n.nspname, p.proname, pg_catalog.pg_get_function_identity_arguments(p.oid)), p.proowner, n.oid
      FROM pg_catalog.pg_proc AS p JOIN pg_catalog.pg_namespace AS n ON n.oid = p.pronamespace
     WHERE n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'tally_internal')
       AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend AS d JOIN pg_catalog.pg_extension AS e ON e.oid = d.refobjid
                        WHERE d.classid = 'pg_catalog.pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
                          AND d.refclassid = 'pg_catalog.pg_extension'::regclass AND e.extname <> 'pg_tally');
  END;
COMMENT ON FUNCTION tally_internal.catalog_functions() IS 'functions of the database that users call, but those of Postgres and of other extensions';

CREATE FUNCTION tally_internal.find_asset(asset text, OUT kind text, OUT name text, OUT relation oid, OUT number int2, OUT column_name text)
  RETURNS record
  LANGUAGE plpgsql STABLE PARALLEL SAFE CALLED ON NULL INPUT
  SET search_path = pg_catalog, pg_temp
  SET quote_all_identifiers = off
AS $$
DECLARE
  parts text[];
  rest  text := substr(asset, strpos(asset, ':') + 1);
BEGIN
  IF asset IS NULL THEN
    RAISE EXCEPTION USING ERRCODE = 'null_value_not_allowed', MESSAGE = 'asset must not be null',
      HINT = 'name it as tally.catalog does: schema.table, schema.table.column, property:KEY, event:NAME …';
  END IF;
  kind := substring(asset FROM '^(property|rollup|metric|cohort|event|function):.');
  IF kind IN ('property', 'event') THEN
    -- Any key and any name may come one day.
    name := asset;
    RETURN;
  ELSIF kind = 'function' AND EXISTS (SELECT FROM tally_internal.catalog_functions() AS f WHERE f.name = asset) THEN
    name := asset;
    RETURN;
  ELSIF kind = 'rollup' AND EXISTS (SELECT FROM tally.rollup AS r WHERE r.rollup_name = rest)
     OR kind = 'metric' AND EXISTS (SELECT FROM tally.metric AS m WHERE m.metric_name = rest)
     OR kind = 'cohort' AND EXISTS (SELECT FROM tally.cohort AS c WHERE c.cohort_name = rest) THEN
    name := asset;
    RETURN;
  ELSIF kind IS NULL THEN
    BEGIN
      parts := parse_ident(asset);
    EXCEPTION WHEN invalid_parameter_value THEN
      parts := '{}';
    END;
    SELECT r.relation, r.name, r.kind INTO find_asset.relation, find_asset.name, find_asset.kind
      FROM tally_internal.catalog_relations() AS r WHERE r.name = format('%I.%I', coalesce(parts[1], ''), coalesce(parts[2], ''));
    IF FOUND AND cardinality(parts) = 2 THEN
      RETURN;
    ELSIF FOUND AND cardinality(parts) = 3 THEN
      SELECT a.attnum, a.attname INTO find_asset.number, find_asset.column_name
        FROM pg_attribute AS a WHERE a.attrelid = find_asset.relation AND a.attname = parts[3] AND a.attnum > 0 AND NOT a.attisdropped;
      IF FOUND THEN
        name := name || '.' || quote_ident(column_name);
        kind := 'column';
        RETURN;
      END IF;
    END IF;
  END IF;
  RAISE EXCEPTION USING ERRCODE = 'undefined_object', MESSAGE = format('there is no asset %s', quote_literal(asset)),
    HINT = 'name it as tally.catalog does: schema.table, schema.table.column, property:KEY, event:NAME, rollup:NAME, metric:NAME, cohort:NAME or function:schema.name(types)';
END
$$;
COMMENT ON FUNCTION tally_internal.find_asset(text) IS 'the asset of a name; an error where there is none';

-- A column is the one in that place, whatever it is called now. Where another one has the name by which it was said, nothing tells which is
-- meant: what was said holds for both as far as it protects, and for that alone where the one in the place is gone. Where a table was
-- put in another one's place, or a column in another one's, what was said of that one holds for it too, as far as it protects, until somebody
-- says something of its own.
CREATE FUNCTION tally_internal.asset_notes() RETURNS TABLE (asset text, noted_as text, classification text, reason text, covers text[],
    lowers text, owner text, purpose text, retention text, set_at timestamptz, set_by name, is_by_name boolean)
  LANGUAGE sql STABLE PARALLEL SAFE STRICT
  SET search_path = pg_catalog, pg_temp
  BEGIN ATOMIC
    WITH meant AS MATERIALIZED (
    SELECT CASE WHEN n.relation IS NULL THEN n.asset WHEN n.column_name IS NULL THEN r.name ELSE r.name || '.' || pg_catalog.quote_ident(a.attname) END AS asset,
           n.asset AS noted_as, n.classification, n.reason, n.covers, n.lowers, n.owner, n.purpose, n.retention, n.set_at, n.set_by,
           coalesce(a.is_sure, true) OR n.lowers IS NULL AND tally_internal.class_level(n.classification) >= 3 AS is_said
      FROM (SELECT t.*, tally_internal.number_of_column(t.place) AS column_number FROM tally.asset AS t) AS n
      LEFT JOIN tally_internal.catalog_relations() AS r ON r.relation = n.relation
      LEFT JOIN LATERAL (
        SELECT c.attname,
               c.attname = n.column_name AND c.attnum = n.column_number
               OR n.column_number <> 0 AND NOT EXISTS (SELECT FROM pg_catalog.pg_attribute AS o
                               WHERE o.attrelid = n.relation AND o.attnum > 0 AND o.attnum <> c.attnum AND (o.attnum = n.column_number OR o.attname = n.column_name)) AS is_sure
          FROM pg_catalog.pg_attribute AS c
         WHERE c.attrelid = n.relation AND c.attnum > 0 AND NOT c.attisdropped AND (c.attname = n.column_name OR c.attnum = n.column_number)
         ORDER BY c.attnum = n.column_number DESC LIMIT 1
      ) AS a ON true
     WHERE n.relation IS NULL OR (r.relation IS NOT NULL AND (n.column_name IS NULL OR a.attname IS NOT NULL))
    ), here AS MATERIALIZED (
      -- Two may be meant to be of one column: what was said under its name, and the highest class.
      SELECT DISTINCT ON (m.asset) m.asset, m.noted_as,
             CASE WHEN h.level > tally_internal.class_level(m.classification) OR m.classification IS NULL OR NOT m.is_said THEN tally_internal.class_name(h.level) ELSE m.classification END,
             m.reason, CASE WHEN m.is_said AND h.level = tally_internal.class_level(m.classification) THEN m.covers END,
             CASE WHEN m.is_said AND h.level = tally_internal.class_level(m.classification) THEN m.lowers END, m.owner, m.purpose, m.retention, m.set_at, m.set_by
        FROM meant AS m
        LEFT JOIN LATERAL (SELECT max(tally_internal.class_level(o.classification)) AS level FROM meant AS o WHERE o.asset = m.asset AND o.is_said) AS h ON true
       ORDER BY m.asset, m.noted_as = m.asset DESC, m.noted_as
    ), moved AS MATERIALIZED (
      SELECT n.* FROM tally.asset AS n WHERE n.relation IS NOT NULL AND NOT EXISTS (SELECT FROM here AS h WHERE h.asset = n.asset)
    )
    SELECT h.*, false FROM here AS h
    UNION ALL
    SELECT m.asset, m.asset, CASE WHEN m.lowers IS NULL AND tally_internal.class_level(m.classification) >= 3 THEN m.classification END, m.reason, NULL, NULL,
           m.owner, m.purpose, m.retention, m.set_at, m.set_by, true
      FROM moved AS m
     WHERE EXISTS (SELECT FROM tally_internal.catalog_relations() AS r WHERE m.column_name IS NULL AND r.name = m.asset)
        OR EXISTS (SELECT FROM tally_internal.catalog_columns() AS c WHERE m.column_name IS NOT NULL AND c.asset = m.asset);
  END;
COMMENT ON FUNCTION tally_internal.asset_notes() IS
  'tally.asset by the names that the assets have now, without those that are gone; is_by_name where another table or column of that name is meant';

REVOKE ALL ON FUNCTION tally_internal.column_place_in(cstring), tally_internal.column_place_out(tally_internal.column_place), tally_internal.column_place_recv(internal),
  tally_internal.column_place_send(tally_internal.column_place), tally_internal.place_of_column(oid, int2), tally_internal.number_of_column(tally_internal.column_place),
  tally_internal.class_level(text), tally_internal.class_name(int4), tally_internal.catalog_relations(), tally_internal.catalog_columns(),
  tally_internal.catalog_functions(), tally_internal.find_asset(text), tally_internal.asset_notes() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tally_internal.place_of_column(oid, int2), tally_internal.number_of_column(tally_internal.column_place), tally_internal.class_level(text), tally_internal.class_name(int4), tally_internal.catalog_relations(), tally_internal.catalog_columns(),
  tally_internal.catalog_functions(), tally_internal.find_asset(text), tally_internal.asset_notes() TO tally_owner, tally_analyst, tally_auditor;
