-- Findings about what an administrator changed in pg_tally's own tables: columns, keys, triggers, replica identities, months.

CREATE FUNCTION tally_internal.declared_columns(OUT table_name text, OUT column_name text, OUT type_name text) RETURNS SETOF record
  LANGUAGE c STABLE PARALLEL UNSAFE STRICT AS 'MODULE_PATHNAME', 'declared_columns_wrapper';
COMMENT ON FUNCTION tally_internal.declared_columns() IS 'columns that ingest and folds write, as they must be';

CREATE FUNCTION tally_internal.refused_code(target regclass, OUT kind text, OUT name text, OUT function text, OUT problem text) RETURNS SETOF record
  LANGUAGE c STABLE PARALLEL UNSAFE STRICT AS 'MODULE_PATHNAME', 'refused_code_wrapper';
COMMENT ON FUNCTION tally_internal.refused_code(regclass) IS
  'what of a table calls a function that is refused where ingest and folds run it: the default or expression of a column, a constraint or an index; what the functions'' bodies do is not looked into';

CREATE FUNCTION tally_internal.code_as_owner(target regclass, OUT kind text, OUT name text, OUT problem text) RETURNS SETOF record
  LANGUAGE c STABLE PARALLEL UNSAFE STRICT AS 'MODULE_PATHNAME', 'code_as_owner_wrapper';
COMMENT ON FUNCTION tally_internal.code_as_owner(regclass) IS
  'what of a table would run somebody''s code with the rights of its owner where pg_tally''s own statements change rows, and has them refused: a trigger, a foreign key, the default, expression or domain of a column, a constraint or an index';

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
                    ELSE pg_catalog.format('has type %s, not %s', pg_catalog.format_type(a.atttypid, -1), d.type_name) END),
             CASE WHEN a.attnum IS NULL THEN pg_catalog.format('give the column of table tally.%I back its name %I', d.table_name, d.column_name)
                  ELSE pg_catalog.format('ALTER TABLE tally.%I ALTER %I TYPE %s;', d.table_name, d.column_name, d.type_name) END
        FROM declared AS d
        LEFT JOIN pg_catalog.pg_attribute AS a ON a.attrelid = d.id AND a.attname = d.column_name AND a.attnum > 0 AND NOT a.attisdropped
       WHERE d.id IS NOT NULL
         AND (a.attnum IS NULL OR pg_catalog.format_type(a.atttypid, -1) <> d.type_name)
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
      SELECT 'added_code', o.relname::text,
             pg_catalog.format('%s %I of table %s calls %s(), which %s', c.kind, c.name, o.ref, c.function, c.problem),
             CASE c.kind WHEN 'constraint' THEN pg_catalog.format('ALTER TABLE %s DROP CONSTRAINT %I;', o.ref, c.name)
               WHEN 'index' THEN pg_catalog.format('DROP INDEX tally.%I;', c.name)
               ELSE pg_catalog.format('ALTER TABLE %s ALTER %I DROP %s;', o.ref, c.name,
                      (SELECT CASE a.attgenerated WHEN '' THEN 'DEFAULT' ELSE 'EXPRESSION' END
                         FROM pg_catalog.pg_attribute AS a WHERE a.attrelid = o.id AND a.attname = c.name)) END
        FROM own AS o CROSS JOIN LATERAL tally_internal.refused_code(o.id) AS c
       WHERE (o.relispartition OR EXISTS (SELECT FROM declared AS d WHERE d.id = o.id))
         -- Ingest and folds give these a value of their own.
         AND NOT (c.kind = 'column' AND EXISTS (SELECT FROM declared AS d
                                                 WHERE d.table_name = CASE WHEN o.relispartition THEN 'events' ELSE o.relname END AND d.column_name = c.name))
         -- A partition has most of it from its parent, under the same name, but for indexes.
         AND NOT EXISTS (SELECT FROM pg_catalog.pg_inherits AS i CROSS JOIN LATERAL tally_internal.refused_code(i.inhparent) AS p
                          WHERE i.inhrelid = o.id AND p.kind = c.kind AND p.name = c.name)
         AND NOT (c.kind = 'index' AND EXISTS (SELECT FROM pg_catalog.pg_class AS x
                                                WHERE x.relname = c.name AND x.relnamespace = 'tally'::regnamespace AND x.relispartition))
      UNION ALL
      SELECT 'code_as_owner', o.relname::text, pg_catalog.format('%s %I of table %s %s', c.kind, c.name, o.ref, c.problem),
             CASE c.kind WHEN 'trigger' THEN pg_catalog.format('DROP TRIGGER %I ON %s;', c.name, o.ref)
               WHEN 'constraint' THEN pg_catalog.format('ALTER TABLE %s DROP CONSTRAINT %I;', o.ref, c.name)
               WHEN 'index' THEN pg_catalog.format('DROP INDEX tally.%I;', c.name)
               WHEN 'foreign key' THEN (SELECT pg_catalog.string_agg(pg_catalog.format('ALTER TABLE %s DROP CONSTRAINT %I;', k.conrelid::regclass, k.conname), ' ')
                                          FROM pg_catalog.pg_constraint AS k WHERE o.id IN (k.confrelid, k.conrelid) AND k.contype = 'f' AND k.conparentid = 0 AND k.conname = c.name)
               ELSE pg_catalog.format('ALTER TABLE %s DROP COLUMN %I;', o.ref, c.name) END
        FROM own AS o CROSS JOIN LATERAL (SELECT DISTINCT a.* FROM tally_internal.code_as_owner(o.id) AS a) AS c
       -- What is refused by ingest as well is told above; partitions as there.
       WHERE NOT EXISTS (SELECT FROM tally_internal.refused_code(o.id) AS r WHERE r.kind = c.kind AND r.name = c.name)
         -- Of tables of tenants every trigger is told (trigger_on_table).
         AND NOT (c.kind = 'trigger' AND EXISTS (SELECT FROM tally_internal.isolated_tables() AS t WHERE t.id = o.id))
         -- A partition has those of its parent, under other names.
         AND NOT (c.kind = 'foreign key' AND NOT EXISTS (SELECT FROM pg_catalog.pg_constraint AS k WHERE o.id IN (k.confrelid, k.conrelid) AND k.contype = 'f' AND k.conparentid = 0 AND k.conname = c.name))
         AND NOT EXISTS (SELECT FROM pg_catalog.pg_inherits AS i CROSS JOIN LATERAL tally_internal.code_as_owner(i.inhparent) AS p
                          WHERE i.inhrelid = o.id AND p.kind = c.kind AND p.name = c.name)
         AND NOT (c.kind = 'index' AND EXISTS (SELECT FROM pg_catalog.pg_class AS x
                                                WHERE x.relname = c.name AND x.relnamespace = 'tally'::regnamespace AND x.relispartition))
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
      SELECT 'too_few_locks', 'events',
             pg_catalog.format('a query of all months locks %s partitions and indexes, and max_locks_per_transaction is %s', l.locks, l.most),
             pg_catalog.format('set max_locks_per_transaction to %s and restart, or take old months out with tally.drop_raw() or tally.detach_raw()',
               64 * ((l.locks + 95) / 64))
        FROM (SELECT pg_catalog.count(DISTINCT p.relid) + pg_catalog.count(i.indexrelid), pg_catalog.current_setting('max_locks_per_transaction')::int8
                FROM pg_catalog.pg_partition_tree('tally.events') AS p LEFT JOIN pg_catalog.pg_index AS i ON i.indrelid = p.relid
               WHERE p.relid <> 'tally.events'::regclass) AS l (locks, most)
       WHERE l.locks > l.most
      UNION ALL
      SELECT 'month_detached', o.relname::text, pg_catalog.format('table %s is not attached to tally.events', o.ref),
             pg_catalog.format('ALTER TABLE tally.events ATTACH PARTITION %s FOR VALUES FROM (%L) TO (%L);', o.ref,
               pg_catalog.to_char(m.start, 'YYYY-MM-DD 00:00Z'), pg_catalog.to_char(m.start + interval '1 month', 'YYYY-MM-DD 00:00Z'))
        FROM own AS o
        CROSS JOIN LATERAL (SELECT pg_catalog.to_date(pg_catalog.substr(o.relname, 9), 'YYYY_MM')::timestamp) AS m (start)
       WHERE o.relname ~ '^events_p[0-9]{4,}_[0-9]{2}$'
         AND NOT EXISTS (SELECT FROM pg_catalog.pg_inherits AS i WHERE i.inhrelid = o.id AND i.inhparent = 'tally.events'::regclass)
      UNION ALL
      SELECT 'month_missing', 'events', pg_catalog.format('tally.events has no partition for %s, of which rollups have numbers', m.month),
             'restore the month''s table from a backup and attach it, or SELECT tally.record_lost_months() if it will not come back; tally.drop_raw() and tally.detach_raw() are the ways to take months out'
        FROM tally_internal.missing_months() AS m (month)
       WHERE NOT EXISTS (SELECT FROM own AS o WHERE o.relname = 'events_p' || pg_catalog.replace(m.month, '-', '_'))
      UNION ALL
      -- Of a table that the extension makes, a dump has the rows alone. Each column of ours that isn't declared has a comment.
      SELECT 'own_column', o.relname::text, pg_catalog.format('table %s has the column %I of yours', o.ref, a.attname),
             'restore in three steps, as docs/ADMINISTRATION.md says, or keep it in a table of your own'
        FROM own AS o
        JOIN pg_catalog.pg_depend AS m ON m.classid = 'pg_class'::regclass AND m.objid = o.id AND m.deptype = 'e'
        JOIN pg_catalog.pg_attribute AS a ON a.attrelid = o.id AND a.attnum > 0 AND NOT a.attisdropped
       WHERE NOT EXISTS (SELECT FROM declared AS d WHERE d.id = o.id AND d.column_name = a.attname)
         -- A partition has its parent's columns and no others.
         AND NOT (SELECT c.relispartition FROM pg_catalog.pg_class AS c WHERE c.oid = o.id)
         -- Those that keep ingest from working are reported above: without a default, or one of ours under another name.
         AND (NOT a.attnotnull OR a.atthasdef OR a.attidentity <> '')
         AND NOT EXISTS (SELECT FROM declared AS d
                          WHERE d.id = o.id AND NOT EXISTS (SELECT FROM pg_catalog.pg_attribute AS i
                                                             WHERE i.attrelid = o.id AND i.attname = d.column_name AND NOT i.attisdropped))
         AND (EXISTS (SELECT FROM declared AS d WHERE d.id = o.id)
              -- While an expression can't be read, the rollups' columns are not declared.
              OR (pg_catalog.col_description(o.id, a.attnum) IS NULL AND o.relname !~ '_(pending|base)$'))
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
COMMENT ON FUNCTION tally_internal.lint_columns() IS 'findings of tally.lint() about columns, triggers, replica identities and months of pg_tally''s own tables';

REVOKE ALL ON FUNCTION tally_internal.declared_columns(), tally_internal.refused_code(regclass), tally_internal.code_as_owner(regclass), tally_internal.lint_columns() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tally_internal.declared_columns(), tally_internal.refused_code(regclass), tally_internal.code_as_owner(regclass), tally_internal.lint_columns() TO tally_admin, tally_auditor;

CREATE FUNCTION tally_internal.rules_columns(OUT name text, OUT level text, OUT title text, OUT description text)
  RETURNS SETOF record ROWS 20
  LANGUAGE sql IMMUTABLE PARALLEL SAFE STRICT
  SET search_path = pg_catalog, pg_temp
  BEGIN ATOMIC
    SELECT v.* FROM (VALUES
      ('table_altered', 'ERROR', 'A table of pg_tally was altered',
       'Ingest and folds write these columns by name and type, and refuse a table that isn''t as it was made.'),
      ('added_code', 'ERROR', 'Code that was added to a table of pg_tally is refused where it runs',
       'Defaults, constraints and indexes that you added may read and compute, in the session of whoever ingests: what calls anything else stops all ingest, or folds, with 42501.'),
      ('code_as_owner', 'ERROR', 'Somebody''s code would run with the rights of the owner of pg_tally''s tables',
       'Where pg_tally changes rows by statements of its own (redrives, discards, erasures, renewals, policies), a trigger, column, constraint or index that calls functions other than Postgres'' would see every tenant, and a foreign key would fire triggers of the table that has it. Such statements fail with 0A000.'),
      ('trigger_altered', 'ERROR', 'A trigger of pg_tally does not fire in every mode',
       'What it does would be left undone, without an error, for a subscription''s worker or a restore.'),
      ('too_few_locks', 'WARN', 'A query of all months takes more locks than max_locks_per_transaction',
       'The lock table is shared: when many such queries run at once, anybody''s statements fail with 53200.'),
      ('month_detached', 'WARN', 'A month is not attached to the events',
       'Raw queries and metrics count nothing of it, and new events of the month are refused.'),
      ('month_missing', 'WARN', 'A month of which there are numbers is no partition of the events',
       'Somebody dropped it or moved it away by hand: metrics that read events of then refuse, or mark what they can''t count.'),
      ('own_index', 'INFO', 'An index of your own on tally.events',
       'A dump leaves it out, and a restore stops where the indexes of the partitions are attached to it.'),
      ('own_column', 'INFO', 'A column of your own on a table of pg_tally',
       'A dump has the rows with it and not the column, and a restore stops there.'),
      ('replica_identity', 'ERROR', 'A table of pg_tally has no replica identity',
       'A subscriber gets changes that it can''t apply, and stops.')
    ) AS v (name, level, title, description);
  END;
COMMENT ON FUNCTION tally_internal.rules_columns() IS 'the rules of tally_internal.lint_columns()';
REVOKE ALL ON FUNCTION tally_internal.rules_columns() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tally_internal.rules_columns() TO tally_admin, tally_auditor;
