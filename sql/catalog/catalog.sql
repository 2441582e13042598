-- The catalogue, and what is said about assets.

-- What the classes are found from, as a text that changes with it.
CREATE FUNCTION tally_internal.personal_found_from() RETURNS text
  LANGUAGE sql VOLATILE PARALLEL UNSAFE STRICT
  SET search_path = pg_catalog, pg_temp
  SET jit = off
  BEGIN ATOMIC
    SELECT concat_ws(' ',
      (SELECT concat_ws('/', count(*), sum(c.xmin::text::int8)) FROM tally_internal.catalog_relations() AS r JOIN pg_class AS c ON c.oid = r.relation),
      (SELECT concat_ws('/', count(*), sum(a.xmin::text::int8)) FROM tally_internal.catalog_relations() AS r JOIN pg_attribute AS a ON a.attrelid = r.relation),
      (SELECT concat_ws('/', count(*), sum(d.xmin::text::int8)) FROM tally_internal.catalog_relations() AS r JOIN pg_attrdef AS d ON d.adrelid = r.relation),
      (SELECT concat_ws('/', count(*), sum(w.xmin::text::int8)) FROM tally_internal.catalog_relations() AS r JOIN pg_rewrite AS w ON w.ev_class = r.relation),
      (SELECT concat_ws('/', count(*), sum(i.xmin::text::int8)) FROM pg_inherits AS i),
      (SELECT concat_ws('/', count(*), sum(n.xmin::text::int8)) FROM tally.asset AS n),
      (SELECT concat_ws('/', count(*), sum(r.xmin::text::int8)) FROM tally.rollup AS r),
      (SELECT concat_ws('/', count(*), sum(c.xmin::text::int8)) FROM tally.rollup_column AS c),
      (SELECT concat_ws('/', count(*), sum(s.xmin::text::int8)) FROM tally.event_schema AS s));
  END;
COMMENT ON FUNCTION tally_internal.personal_found_from() IS 'what the classes of columns are found from, as a text that changes with it';

CREATE FUNCTION tally_internal.personal_columns_now() RETURNS TABLE (relation oid, name text, columns text)
  LANGUAGE sql VOLATILE PARALLEL UNSAFE STRICT
  SET search_path = pg_catalog, pg_temp
  SET jit = off
  BEGIN ATOMIC
    SELECT t.oid, concat(n.nspname, '.', t.relname), json_agg(a.attname ORDER BY a.attnum)::text
      FROM tally_internal.classes() AS c
      JOIN tally_internal.catalog_columns() AS f ON f.asset = c.asset
      JOIN pg_class AS t ON t.oid = f.relation AND t.relkind <> 'v' JOIN pg_namespace AS n ON n.oid = t.relnamespace
      JOIN pg_attribute AS a ON a.attrelid = f.relation AND a.attnum = f.number
     WHERE c.level >= tally_internal.class_level('personal') GROUP BY t.oid, n.nspname, t.relname;
  END;
COMMENT ON FUNCTION tally_internal.personal_columns_now() IS 'the columns of tables that are personal, as the catalogue finds them now; takes a moment';

CREATE FUNCTION tally_internal.has_personal_columns(relations oid[]) RETURNS boolean
  LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE STRICT
  SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  -- What maintain() found holds as long as nothing has changed since.
  IF tally_internal.personal_found_from() = (SELECT p.columns FROM tally.personal_column AS p WHERE p.relation = '') THEN
    RETURN EXISTS (SELECT FROM tally.personal_column AS p JOIN pg_class AS t ON t.oid = ANY (relations)
                     JOIN pg_namespace AS n ON n.oid = t.relnamespace AND concat(n.nspname, '.', t.relname) = p.relation);
  END IF;
  RETURN EXISTS (SELECT FROM tally_internal.personal_columns_now() AS p WHERE p.relation = ANY (relations));
END
$$;
COMMENT ON FUNCTION tally_internal.has_personal_columns(oid[]) IS 'whether one of the tables has a column that is classified personal, as of now; for exports';

CREATE FUNCTION tally_internal.is_something_held() RETURNS boolean
  LANGUAGE sql VOLATILE PARALLEL UNSAFE STRICT
  SET search_path = pg_catalog, pg_temp
  BEGIN ATOMIC
    -- Who waits for it is in the way as well.
    SELECT EXISTS (SELECT FROM pg_locks AS l JOIN pg_class AS c ON c.oid = l.relation AND c.relpersistence <> 't'
                    WHERE l.locktype = 'relation' AND l.mode = 'AccessExclusiveLock' AND l.pid IS DISTINCT FROM pg_backend_pid()
                      AND l.database = (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database())
                      AND (c.relkind IN ('v', 'm') OR EXISTS (SELECT FROM pg_attribute AS a WHERE a.attrelid = c.oid AND a.attgenerated <> '')));
  END;
COMMENT ON FUNCTION tally_internal.is_something_held() IS 'whether another session has, or waits for, a view or a table with generated columns for itself, so that the catalogue can''t look at what it is made of';

CREATE FUNCTION tally_internal.note_personal_columns() RETURNS int8
  LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE STRICT SECURITY DEFINER
  SET search_path = pg_catalog, pg_temp
  SET lock_timeout = '300ms' -- who declares or drops a view is not waited for
  SET jit = off
AS $$
DECLARE
  -- Before anything is read: what was committed by then is seen.
  seen       text := pg_snapshot_xmin(pg_current_snapshot())::text;
  found_from text := tally_internal.personal_found_from();
  changed    int8;
BEGIN
  -- What somebody holds counts as coming from anything, and is looked at again.
  IF tally_internal.is_something_held() THEN
    found_from := 'held ' || found_from;
  END IF;
  IF found_from NOT LIKE 'held %' AND found_from = (SELECT p.columns FROM tally.personal_column AS p WHERE p.relation = '') THEN
    -- Where a transaction was open when it looked last, what had been written since then wasn't known to be all.
    UPDATE tally.personal_column AS p SET columns = seen
     WHERE p.relation = '-' AND p.columns <> seen
       AND (EXISTS (SELECT FROM pg_class AS c WHERE c.relkind IN ('r', 'p', 'm') AND age(c.xmin) <= age(p.columns::xid8::xid))
            OR EXISTS (SELECT FROM pg_attribute AS a WHERE a.attgenerated <> '' AND age(a.xmin) <= age(p.columns::xid8::xid)));
    RETURN 0;
  END IF;
  LOCK TABLE tally.personal_column IN SHARE ROW EXCLUSIVE MODE;
  WITH personal AS MATERIALIZED (
    SELECT n.name AS relation, n.columns FROM tally_internal.personal_columns_now() AS n
    UNION ALL SELECT '', found_from
    UNION ALL SELECT '-', seen
  ), gone AS (
    DELETE FROM tally.personal_column AS p WHERE NOT EXISTS (SELECT FROM personal AS n WHERE n.relation = p.relation) RETURNING 1
  ), kept AS (
    INSERT INTO tally.personal_column AS p (relation, columns) SELECT n.relation, n.columns FROM personal AS n
    ON CONFLICT ON CONSTRAINT personal_column_pkey DO UPDATE SET columns = excluded.columns WHERE p.columns <> excluded.columns
    RETURNING 1
  )
  SELECT (SELECT count(*) FROM gone) + (SELECT count(*) FROM kept) INTO changed;
  IF found_from NOT LIKE 'held %' AND tally_internal.is_something_held() THEN
    UPDATE tally.personal_column AS p SET columns = 'held ' || p.columns WHERE p.relation = '';
  END IF;
  RETURN changed;
END
$$;
COMMENT ON FUNCTION tally_internal.note_personal_columns() IS
  'finds anew which columns of tables are personal, where anything has changed since; returns how many rows of tally.personal_column changed';

CREATE FUNCTION tally_internal.task_catalog() RETURNS TABLE (place int4, subject text)
  LANGUAGE sql STABLE PARALLEL SAFE STRICT
  SET search_path = pg_catalog, pg_temp
  BEGIN ATOMIC
    SELECT 7, ''::text;
  END;
COMMENT ON FUNCTION tally_internal.task_catalog() IS 'task of maintain(): finds out which columns are personal, for the audit log';

CREATE FUNCTION tally_internal.step_catalog(subject text, max_rows int8, OUT done int8, OUT is_over boolean) RETURNS record
  LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE STRICT
  SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  is_over := true;
  done := tally_internal.note_personal_columns();
EXCEPTION WHEN lock_not_available THEN
  -- It comes again.
  done := 0;
END
$$;
COMMENT ON FUNCTION tally_internal.step_catalog(text, int8) IS 'one step of it; says how much it did, and whether nothing is left for now';

-- Takes a name from the row that has it: what that was said of gets the name that it has now, if it is there, which may be another row's in turn.
CREATE FUNCTION tally_internal.free_asset_name(asset text) RETURNS void
  LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE STRICT
  SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  parked  constant text := 'moving ' || free_asset_name.asset;
  present text := (SELECT n.asset FROM tally_internal.asset_notes() AS n WHERE n.noted_as = free_asset_name.asset AND NOT n.is_by_name);
BEGIN
  IF present = free_asset_name.asset THEN
    RETURN;
  END IF;
  DELETE FROM tally.asset AS n WHERE n.asset = free_asset_name.asset AND present IS NULL;
  UPDATE tally.asset AS n SET asset = parked WHERE n.asset = free_asset_name.asset;
  IF FOUND THEN
    PERFORM tally_internal.free_asset_name(present);
    UPDATE tally.asset AS n SET asset = present WHERE n.asset = parked;
  END IF;
END
$$;
COMMENT ON FUNCTION tally_internal.free_asset_name(text) IS 'part of tally_internal.note_asset(): gives what was said of another asset, that had this name, its present name';

-- The row of an asset, made where there is none, by the name that it has now.
CREATE FUNCTION tally_internal.note_asset(asset text) RETURNS text
  LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE STRICT
  SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  found  record;
  noted  text;
  before tally.asset;
BEGIN
  SELECT f.* INTO found FROM tally_internal.find_asset(note_asset.asset) AS f;
  LOCK TABLE tally.asset IN SHARE ROW EXCLUSIVE MODE;
  SELECT n.* INTO before FROM tally.asset AS n WHERE n.asset = found.name;
  PERFORM tally_internal.free_asset_name(found.name);
  noted := (SELECT n.noted_as FROM tally_internal.asset_notes() AS n WHERE n.asset = found.name AND NOT n.is_by_name);
  IF noted IS NULL THEN
    INSERT INTO tally.asset AS n (asset, relation, place, column_name)
    VALUES (found.name, found.relation, tally_internal.place_of_column(found.relation, found.number), found.column_name);
    -- What held for the one that came into its place is said of that from now on.
    IF before.relation IS NOT NULL AND before.relation <> found.relation THEN
      UPDATE tally.asset AS n SET owner = before.owner, purpose = before.purpose, retention = before.retention WHERE n.asset = found.name;
      IF before.lowers IS NULL AND tally_internal.class_level(before.classification) >= 3 THEN
        UPDATE tally.asset AS n SET classification = before.classification, reason = before.reason WHERE n.asset = found.name;
      END IF;
    END IF;
  ELSE
    SELECT n.* INTO before FROM tally.asset AS n WHERE n.asset = noted;
    UPDATE tally.asset AS n SET asset = found.name, place = tally_internal.place_of_column(found.relation, found.number), column_name = found.column_name, set_at = now(), set_by = session_user
     WHERE n.asset = noted;
    -- What held for a column of the name by which it was said, too, is said of that from now on.
    INSERT INTO tally.asset AS n (asset, relation, place, column_name, classification, reason, owner, purpose, retention)
    SELECT before.asset, found.relation, tally_internal.place_of_column(found.relation, a.attnum), a.attname, before.classification, before.reason, before.owner, before.purpose, before.retention
      FROM pg_attribute AS a
     WHERE a.attrelid = found.relation AND a.attname = before.column_name AND a.attnum > 0 AND a.attnum <> found.number AND before.lowers IS NULL
       AND tally_internal.class_level(before.classification) >= 3
    ON CONFLICT ON CONSTRAINT asset_pkey DO NOTHING;
  END IF;
  RETURN found.name;
END
$$;
COMMENT ON FUNCTION tally_internal.note_asset(text) IS 'makes sure that an asset has a row in tally.asset; returns its name';

CREATE FUNCTION tally.classify(asset text, classification text, reason text) RETURNS text
  LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE CALLED ON NULL INPUT SECURITY DEFINER
  SET search_path = pg_catalog, pg_temp
  SET jit = off
AS $$
DECLARE
  found  record;
  name   text;
  wanted int4 := tally_internal.class_level(classify.classification);
  before record;
  higher text;
BEGIN
  PERFORM tally_internal.check_words('reason', classify.reason);
  IF coalesce(tally_internal.visible_characters(classify.reason), 0) = 0 THEN
    RAISE EXCEPTION USING ERRCODE = 'null_value_not_allowed', MESSAGE = 'a classification needs a reason', HINT = 'say why, in your own words: it is kept, and recorded in the audit log';
  END IF;
  IF classify.classification IS NOT NULL AND wanted IS NULL THEN
    RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = format('"%s" is no classification', classify.classification),
      HINT = 'public, internal, confidential, personal or sensitive; null takes back what was said';
  END IF;
  SELECT f.* INTO found FROM tally_internal.find_asset(classify.asset) AS f;
  IF found.kind NOT IN ('table', 'view', 'materialized view', 'foreign table', 'column', 'property') THEN
    RAISE EXCEPTION USING ERRCODE = 'wrong_object_type', MESSAGE = format('a %s is not classified by itself', found.kind),
      HINT = 'classify the columns and properties that it is made of';
  END IF;
  name := tally_internal.note_asset(classify.asset);
  -- Found without what was said before.
  UPDATE tally.asset AS n SET classification = NULL, reason = NULL, covers = NULL, lowers = NULL WHERE n.asset = name AND n.classification IS NOT NULL;
  SELECT c.derived, c.sources INTO before FROM tally_internal.classes() AS c WHERE c.asset = name;
  IF found.number IS NULL AND found.relation IS NOT NULL THEN
    higher := (SELECT min(c.asset) FROM tally_internal.classes() AS c JOIN tally_internal.catalog_columns() AS f ON f.asset = c.asset
                WHERE f.relation = found.relation AND c.level > wanted
                  AND NOT EXISTS (SELECT FROM tally_internal.asset_notes() AS n WHERE n.asset = f.asset AND n.classification IS NOT NULL));
    IF higher IS NOT NULL THEN
      RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state', MESSAGE = format('%s is classified higher than "%s"', higher, classify.classification),
        HINT = 'lower the columns one by one, each with its reason';
    END IF;
  END IF;
  UPDATE tally.asset AS n
     SET classification = classify.classification, reason = CASE WHEN wanted IS NOT NULL THEN classify.reason END,
         covers = CASE WHEN before.derived > wanted THEN coalesce(before.sources, '{}') END,
         lowers = CASE WHEN before.derived > wanted THEN tally_internal.class_name(before.derived) END
   WHERE n.asset = name AND wanted IS NOT NULL;
  DELETE FROM tally.asset AS n WHERE n.asset = name AND num_nonnulls(n.classification, n.owner, n.purpose, n.retention) = 0;
  PERFORM tally_internal.record_act('classified', name, jsonb_strip_nulls(jsonb_build_object('classification', classify.classification, 'reason', classify.reason,
    'lowers', CASE WHEN before.derived > wanted THEN tally_internal.class_name(before.derived) END)));
  PERFORM tally_internal.note_personal_columns();
  RETURN coalesce((SELECT tally_internal.class_name(c.level) FROM tally_internal.classes() AS c WHERE c.asset = name), 'internal');
END
$$;
COMMENT ON FUNCTION tally.classify(text, text, text) IS
  'classifies a table, view, column or property: public, internal, confidential, personal or sensitive; null takes that back. What derives from it is classified with it. Lower than what it derives from itself, it holds as long as that stays the same. Returns what it is classified as now';

CREATE FUNCTION tally.describe_asset(asset text, owner text DEFAULT NULL, purpose text DEFAULT NULL, retention text DEFAULT NULL) RETURNS void
  LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE CALLED ON NULL INPUT SECURITY DEFINER
  SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  name text;
BEGIN
  PERFORM tally_internal.check_words('owner', describe_asset.owner), tally_internal.check_words('purpose', describe_asset.purpose),
    tally_internal.check_words('retention', describe_asset.retention);
  IF describe_asset.asset IS NULL THEN
    RAISE EXCEPTION USING ERRCODE = 'null_value_not_allowed', MESSAGE = 'asset must not be null',
      HINT = 'name it as tally.catalog does: schema.table, schema.table.column, property:KEY, event:NAME …';
  END IF;
  name := tally_internal.note_asset(describe_asset.asset);
  UPDATE tally.asset AS n SET owner = nullif(coalesce(describe_asset.owner, n.owner), ''), purpose = nullif(coalesce(describe_asset.purpose, n.purpose), ''),
         retention = nullif(coalesce(describe_asset.retention, n.retention), '')
   WHERE n.asset = name;
  DELETE FROM tally.asset AS n WHERE n.asset = name AND num_nonnulls(n.classification, n.owner, n.purpose, n.retention) = 0;
END
$$;
COMMENT ON FUNCTION tally.describe_asset(text, text, text, text) IS
  'says who answers for an asset, what it is for and how long it is kept; null leaves what was said, an empty text takes it back';

CREATE FUNCTION tally_internal.raw_retention() RETURNS text
  LANGUAGE sql STABLE PARALLEL SAFE STRICT
  SET search_path = pg_catalog, pg_temp
  BEGIN ATOMIC
    SELECT pg_catalog.concat(coalesce((SELECT r.keep::text FROM tally.retention AS r WHERE r.tenant_id = ''), 'for ever'),
             (SELECT pg_catalog.format('; of %s tenants otherwise', count(*)) FROM tally.retention AS r WHERE r.tenant_id <> '' HAVING count(*) > 0));
  END;
COMMENT ON FUNCTION tally_internal.raw_retention() IS 'how long raw events are kept, in words';

CREATE FUNCTION tally_internal.all_assets()
  RETURNS TABLE (asset text, kind text, meaning text, classification text, origin text, reason text, owner text, belongs_to name, purpose text,
    retention text, freshness text, readers name[])
  LANGUAGE plpgsql STABLE PARALLEL UNSAFE STRICT
  SET search_path = pg_catalog, pg_temp
  SET jit = off
AS $$
BEGIN
  PERFORM tally_internal.refuse_confined();
  RETURN QUERY
    WITH class AS MATERIALIZED (SELECT c.* FROM tally_internal.classes() AS c),
    relation AS MATERIALIZED (SELECT r.* FROM tally_internal.catalog_relations() AS r),
    field AS MATERIALIZED (SELECT f.* FROM tally_internal.catalog_columns() AS f),
    note AS MATERIALIZED (SELECT n.* FROM tally_internal.asset_notes() AS n),
    hidden AS MATERIALIZED (SELECT h.target FROM tally_internal.hidden_sources() AS h),
    login AS MATERIALIZED (SELECT r.oid, r.rolname FROM pg_roles AS r WHERE r.rolcanlogin AND r.rolname !~ '^pg_'),
    reader AS MATERIALIZED (
      SELECT r.relation, l.rolname, r.is_readable, r.columns FROM tally_internal.reads() AS r JOIN login AS l ON l.oid = r.role_id WHERE r.columns <> '{}'
    ), readers AS MATERIALIZED (
      SELECT r.relation, array_agg(r.rolname ORDER BY r.rolname) AS names, bool_and(r.is_readable) AS in_every_column FROM reader AS r GROUP BY r.relation
    ), held AS (
      SELECT r.relation,
             CASE WHEN NOT r.is_own THEN NULL
                  -- By what they are: a rollup may be called as they are.
                  WHEN r.relation IN ('tally.quarantine'::regclass, 'tally.ingest_batch'::regclass, 'tally.event_key'::regclass)
                       OR r.relkind IN ('r', 'p') AND EXISTS (SELECT FROM pg_attribute AS a WHERE a.attrelid = r.relation AND a.attname = 'properties' AND a.atttypid = 'jsonb'::regtype)
                       THEN tally_internal.raw_retention()
                  WHEN split_part(r.name, '.', 2) ~ '^audit'
                       AND EXISTS (SELECT FROM pg_depend AS d JOIN pg_extension AS e ON e.oid = d.refobjid AND e.extname = 'pg_tally'
                                    WHERE d.classid = 'pg_class'::regclass AND d.objid = coalesce(pg_partition_root(r.relation), r.relation) AND d.deptype = 'e') THEN coalesce((SELECT a.keep::text FROM tally.audit_retention AS a), 'for ever')
                  ELSE 'for ever' END AS retention,
             CASE WHEN r.relkind = 'm' THEN 'as of REFRESH MATERIALIZED VIEW' WHEN r.relkind = 'v' THEN 'as of what it reads'
                  WHEN r.is_own AND r.name ~ '_base$' THEN 'as of the last fold; the views add what is pending'
                  WHEN r.is_own THEN 'with each transaction' END AS freshness
        FROM relation AS r
    ), part AS (
      SELECT r.name AS asset, r.kind, obj_description(r.relation, 'pg_class') AS meaning,
             (SELECT max(c.level) FROM class AS c JOIN field AS f ON f.asset = c.asset WHERE f.relation = r.relation) AS level,
             pg_get_userbyid(r.owner) AS belongs_to, h.retention, h.freshness, coalesce(s.names, '{}') AS readers
        FROM relation AS r JOIN held AS h USING (relation) LEFT JOIN readers AS s USING (relation)
      UNION ALL
      SELECT f.asset, 'column', col_description(f.relation, f.number), NULL, pg_get_userbyid(r.owner), h.retention, h.freshness,
             coalesce(CASE WHEN s.in_every_column THEN s.names
                           ELSE (SELECT array_agg(o.rolname ORDER BY o.rolname) FROM reader AS o WHERE o.relation = f.relation AND f.number = ANY (o.columns)) END, '{}')
        FROM field AS f JOIN relation AS r USING (relation) JOIN held AS h USING (relation) LEFT JOIN readers AS s USING (relation)
      UNION ALL
      SELECT f.name, 'function', obj_description(f.function, 'pg_proc'), NULL, pg_get_userbyid(f.owner), NULL, NULL,
             coalesce((SELECT array_agg(l.rolname ORDER BY l.rolname) FROM login AS l
                        WHERE has_schema_privilege(l.oid, f.schema_id, 'USAGE') AND has_function_privilege(l.oid, f.function, 'EXECUTE')), '{}')
        FROM tally_internal.catalog_functions() AS f
      UNION ALL
      SELECT 'rollup:' || r.rollup_name, 'rollup', format('by %s: %s', array_to_string(r.grains, ', '),
               (SELECT string_agg(CASE WHEN c.kind = 'dimension' THEN c.column_name ELSE format('%s %s', c.kind, c.column_name) END, ', ' ORDER BY c.position)
                  FROM tally.rollup_column AS c WHERE c.rollup_name = r.rollup_name)),
             (SELECT max(c.level) FROM class AS c JOIN field AS f ON f.asset = c.asset WHERE f.relation = v.relation), r.declared_by, 'for ever', 'with each transaction', coalesce(s.names, '{}')
        FROM tally.rollup AS r LEFT JOIN relation AS v ON v.name = format('tally.%I', r.rollup_name || '_' || r.grains[1]) LEFT JOIN readers AS s ON s.relation = v.relation
      UNION ALL
      SELECT 'metric:' || m.metric_name, 'metric', m.definition::text, NULL, m.defined_by, NULL, 'when it is asked', NULL
        FROM (SELECT DISTINCT ON (m.metric_name) m.* FROM tally.metric AS m ORDER BY m.metric_name, m.version DESC) AS m
      UNION ALL
      SELECT 'cohort:' || m.cohort_name, 'cohort', m.definition::text, NULL, m.defined_by, NULL, 'when it is asked', NULL
        FROM (SELECT DISTINCT ON (m.cohort_name) m.* FROM tally.cohort AS m ORDER BY m.cohort_name, m.version DESC) AS m
      UNION ALL
      SELECT 'event:' || s.name, 'event', coalesce(s.schema ->> 'description', s.schema ->> 'title', s.reason), NULL, s.registered_by, tally_internal.raw_retention(), 'with each transaction', NULL
        FROM (SELECT DISTINCT ON (s.name) s.* FROM tally.event_schema AS s ORDER BY s.name, s.version DESC) AS s
      UNION ALL
      SELECT p.asset, 'property',
             (SELECT min(s.schema -> 'properties' -> substr(p.asset, 10) ->> 'description') FROM tally.event_schema AS s), NULL, NULL, tally_internal.raw_retention(), 'with each transaction', NULL
        FROM (SELECT c.asset FROM class AS c WHERE c.asset LIKE 'property:%' UNION SELECT n.asset FROM note AS n WHERE n.asset LIKE 'property:%') AS p
    )
    SELECT p.asset, p.kind, p.meaning,
           CASE WHEN p.kind = 'function' THEN NULL ELSE tally_internal.class_name(coalesce(greatest(p.level, c.level), 2)) END,
           CASE WHEN p.kind = 'function' THEN NULL WHEN coalesce(c.level, 0) >= coalesce(p.level, 0) AND c.level IS NOT NULL THEN c.origin WHEN p.level IS NOT NULL THEN 'derived'
                WHEN p.kind = 'column' AND p.asset IN (SELECT u.target FROM hidden AS u) THEN 'unknown' ELSE 'default' END,
           CASE WHEN coalesce(c.level, 0) >= coalesce(p.level, 0) THEN c.reason END,
           n.owner, p.belongs_to, n.purpose, coalesce(n.retention, p.retention), p.freshness, p.readers
      FROM part AS p LEFT JOIN class AS c ON c.asset = p.asset LEFT JOIN note AS n ON n.asset = p.asset;
END
$$;
COMMENT ON FUNCTION tally_internal.all_assets() IS 'the rows of tally.catalog';

CREATE VIEW tally.catalog AS
  SELECT a.asset, a.kind, a.meaning, a.classification, a.origin, a.reason, a.owner, a.belongs_to, a.purpose, a.retention, a.freshness, a.readers
    FROM tally_internal.all_assets() AS a;
COMMENT ON VIEW tally.catalog IS 'the catalogue: tables, views, columns, functions, rollups, metrics, cohorts, registered events and properties; for administrators and auditors';
COMMENT ON COLUMN tally.catalog.asset IS 'its name: schema.table, schema.table.column, function:…, rollup:…, metric:…, cohort:…, event:…, property:…';
COMMENT ON COLUMN tally.catalog.kind IS 'table, view, materialized view, foreign table, column, function, rollup, metric, cohort, event or property';
COMMENT ON COLUMN tally.catalog.meaning IS 'what it means: its comment, its definition or its schema''s description';
COMMENT ON COLUMN tally.catalog.classification IS 'public, internal, confidential, personal or sensitive; of a table, a view and a rollup the highest of its columns';
COMMENT ON COLUMN tally.catalog.origin IS 'declared with tally.classify(), built in, derived from what it is made of, or default; unknown where it comes from a function whose body nobody can read';
COMMENT ON COLUMN tally.catalog.reason IS 'why it is classified so, where somebody said';
COMMENT ON COLUMN tally.catalog.owner IS 'who answers for it, where somebody said';
COMMENT ON COLUMN tally.catalog.belongs_to IS 'the role that owns or declared it';
COMMENT ON COLUMN tally.catalog.purpose IS 'what it is for, where somebody said';
COMMENT ON COLUMN tally.catalog.retention IS 'how long it is kept';
COMMENT ON COLUMN tally.catalog.freshness IS 'how new what it shows is';
COMMENT ON COLUMN tally.catalog.readers IS 'logins that can read it, or a column of it, in a scope that they have or enter; of a function, those that can call it';

ALTER VIEW tally.catalog OWNER TO tally_owner;
REVOKE ALL ON tally.catalog FROM PUBLIC;
GRANT SELECT ON tally.catalog TO tally_admin, tally_auditor;

ALTER FUNCTION tally_internal.note_personal_columns() OWNER TO tally_owner;
ALTER FUNCTION tally.classify(text, text, text) OWNER TO tally_owner;
ALTER FUNCTION tally.describe_asset(text, text, text, text) OWNER TO tally_owner;
REVOKE ALL ON FUNCTION tally_internal.is_something_held(), tally_internal.personal_found_from(), tally_internal.personal_columns_now(), tally_internal.has_personal_columns(oid[]), tally_internal.note_personal_columns(), tally_internal.task_catalog(), tally_internal.step_catalog(text, int8), tally_internal.note_asset(text), tally_internal.free_asset_name(text),
  tally.classify(text, text, text), tally.describe_asset(text, text, text, text), tally_internal.raw_retention(), tally_internal.all_assets() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tally_internal.is_something_held(), tally_internal.personal_found_from(), tally_internal.personal_columns_now(), tally_internal.has_personal_columns(oid[]),
  tally_internal.note_asset(text), tally_internal.free_asset_name(text) TO tally_owner;
GRANT EXECUTE ON FUNCTION tally_internal.note_personal_columns(), tally_internal.task_catalog(), tally_internal.step_catalog(text, int8),
  tally.classify(text, text, text), tally.describe_asset(text, text, text, text) TO tally_admin;
GRANT EXECUTE ON FUNCTION tally_internal.raw_retention(), tally_internal.all_assets() TO tally_admin, tally_auditor;
