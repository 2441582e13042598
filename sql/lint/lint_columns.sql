-- Findings about what an administrator changed in pg_tally's own tables: columns, keys, triggers, replica identities.

CREATE FUNCTION tally_internal.declared_columns(OUT table_name text, OUT column_name text, OUT type_name text) RETURNS SETOF record
  LANGUAGE c STABLE PARALLEL UNSAFE STRICT AS 'MODULE_PATHNAME', 'declared_columns_wrapper';
COMMENT ON FUNCTION tally_internal.declared_columns() IS 'columns that ingest and folds write, as they must be';

CREATE FUNCTION tally_internal.lint_columns(OUT rule text, OUT type text, OUT schema text, OUT object text, OUT detail text, OUT fix text)
  RETURNS SETOF record
  LANGUAGE sql STABLE PARALLEL UNSAFE STRICT
  SET search_path = pg_catalog, pg_temp
  BEGIN ATOMIC
    WITH own AS (
      SELECT c.oid AS id, c.oid::regclass AS ref, c.relname, c.relkind, c.relpersistence, c.relreplident, c.relispartition
        FROM pg_catalog.pg_class AS c
       WHERE c.relnamespace = 'tally'::regnamespace AND c.relkind IN ('r', 'p')
    ), declared AS (
      SELECT o.id, d.table_name, d.column_name, d.type_name
        FROM tally_internal.declared_columns() AS d LEFT JOIN own AS o ON o.relname = d.table_name
    ), finding (rule, object, detail, fix) AS (
      SELECT 'table_altered', d.table_name, pg_catalog.format('table tally.%I is missing', d.table_name),
             'give it back its name and schema, or restore it from a backup'
        FROM declared AS d WHERE d.id IS NULL GROUP BY d.table_name
      UNION ALL
      SELECT 'table_altered', d.table_name,
             pg_catalog.format('column %I of table tally.%I %s', d.column_name, d.table_name,
               CASE WHEN a.attnum IS NULL THEN 'is missing'
                    ELSE pg_catalog.format('has type %s, not %s', pg_catalog.format_type(a.atttypid, NULL), d.type_name) END),
             CASE WHEN a.attnum IS NULL THEN pg_catalog.format('give the column of table tally.%I back its name %I', d.table_name, d.column_name)
                  ELSE pg_catalog.format('ALTER TABLE tally.%I ALTER %I TYPE %s;', d.table_name, d.column_name, d.type_name) END
        FROM declared AS d
        LEFT JOIN pg_catalog.pg_attribute AS a ON a.attrelid = d.id AND a.attname = d.column_name AND a.attnum > 0 AND NOT a.attisdropped
       WHERE d.id IS NOT NULL
         AND (a.attnum IS NULL OR pg_catalog.format_type(a.atttypid, NULL) <> d.type_name)
      UNION ALL
      SELECT 'table_altered', o.relname::text, pg_catalog.format('table %s is unlogged', o.ref),
             pg_catalog.format('ALTER TABLE %s SET LOGGED;', o.ref)
        FROM own AS o WHERE o.relpersistence = 'u'
      UNION ALL
      SELECT 'table_altered', o.relname::text,
             pg_catalog.format('column %I of table %s was added NOT NULL and has no default', a.attname, o.ref),
             pg_catalog.format('ALTER TABLE %s ALTER %I DROP NOT NULL;', o.ref, a.attname)
        FROM own AS o JOIN pg_catalog.pg_attribute AS a ON a.attrelid = o.id AND a.attnum > 0 AND NOT a.attisdropped
       WHERE a.attnotnull AND NOT a.atthasdef AND a.attidentity = '' AND NOT o.relispartition
         AND EXISTS (SELECT FROM declared AS d WHERE d.id = o.id)
         AND NOT EXISTS (SELECT FROM declared AS d WHERE d.id = o.id AND d.column_name = a.attname)
         AND NOT (o.relname = 'event_key' AND a.attname = 'account')
      UNION ALL
      SELECT 'replica_identity', o.relname::text,
             pg_catalog.format('table %s has no replica identity that tells its rows apart', o.ref),
             pg_catalog.format('ALTER TABLE %s REPLICA IDENTITY %s;', o.ref,
               CASE WHEN k.indexrelid IS NULL THEN 'FULL' ELSE 'DEFAULT' END)
        FROM own AS o LEFT JOIN pg_catalog.pg_index AS k ON k.indrelid = o.id AND k.indisprimary
       WHERE o.relreplident <> 'f' AND NOT (o.relreplident = 'd' AND k.indexrelid IS NOT NULL)
         AND NOT (o.relreplident = 'i' AND EXISTS (SELECT FROM pg_catalog.pg_index AS r WHERE r.indrelid = o.id AND r.indisreplident))
      UNION ALL
      -- A dump has the indexes of the partitions and not that of tally.events, to which a restore would attach them.
      SELECT 'own_index', 'events', pg_catalog.format('table tally.events has the index %I of yours', c.relname),
             'restore in three steps, as docs/ADMINISTRATION.md says, or make indexes on the partitions alone'
        FROM pg_catalog.pg_index AS i JOIN pg_catalog.pg_class AS c ON c.oid = i.indexrelid
       WHERE i.indrelid = 'tally.events'::regclass AND NOT i.indisunique
      UNION ALL
      SELECT 'trigger_altered', t.tgrelid::regclass::text,
             pg_catalog.format('trigger %s of %s does not fire in every mode', t.tgname, t.tgrelid::regclass),
             CASE WHEN c.relkind = 'v'
                  THEN pg_catalog.format('UPDATE pg_catalog.pg_trigger SET tgenabled = %L WHERE tgrelid = %L::pg_catalog.regclass;', 'A', t.tgrelid::regclass)
                  ELSE pg_catalog.format('ALTER TABLE %s ENABLE ALWAYS TRIGGER %I;', t.tgrelid::regclass, t.tgname) END
        FROM pg_catalog.pg_trigger AS t
        JOIN pg_catalog.pg_class AS c ON c.oid = t.tgrelid
        JOIN pg_catalog.pg_proc AS f ON f.oid = t.tgfoid AND f.pronamespace IN ('tally'::regnamespace, 'tally_internal'::regnamespace)
       WHERE NOT t.tgisinternal AND t.tgenabled <> 'A' AND c.relnamespace = 'tally'::regnamespace
    )
    SELECT f.rule, 'table', 'tally', f.object, f.detail, f.fix FROM finding AS f;
  END;
COMMENT ON FUNCTION tally_internal.lint_columns() IS 'findings of tally.lint() about columns, triggers and replica identities of pg_tally''s own tables';

REVOKE ALL ON FUNCTION tally_internal.declared_columns(), tally_internal.lint_columns() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tally_internal.declared_columns(), tally_internal.lint_columns() TO tally_admin, tally_auditor;
