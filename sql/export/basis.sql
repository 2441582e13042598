-- What an export's answer hangs on beside rows: an approval is bound to it, and is void when it changes.

-- Functions of Postgres' own that aren't IMMUTABLE, but give what their arguments, fixed settings and the time make of them. Whatever isn't named
-- here reads what whoever runs an export can change at that moment: settings, its session, the catalogue, counters, files, a text's query.
CREATE FUNCTION tally_internal.bound_functions() RETURNS name[]
  LANGUAGE sql IMMUTABLE PARALLEL SAFE STRICT
  SET search_path = pg_catalog, pg_temp
  BEGIN ATOMIC
    SELECT '{age,anytextcat,array_to_json,array_to_string,clock_timestamp,concat,concat_ws,convert,convert_from,convert_to,current_database,date,
      date_add,date_cmp_timestamptz,date_eq_timestamptz,date_ge_timestamptz,date_gt_timestamptz,date_le_timestamptz,date_lt_timestamptz,
      date_ne_timestamptz,date_part,date_subtract,date_trunc,extract,format,gen_random_uuid,generate_series,in_range,interval_pl_timestamptz,
      json_agg,json_agg_strict,json_build_array,json_build_object,json_object_agg,json_object_agg_strict,json_object_agg_unique,
      json_object_agg_unique_strict,json_populate_record,json_populate_recordset,json_to_record,json_to_recordset,jsonb_agg,jsonb_agg_strict,
      jsonb_build_array,jsonb_build_object,jsonb_object_agg,jsonb_object_agg_strict,jsonb_object_agg_unique,jsonb_object_agg_unique_strict,
      jsonb_path_exists_tz,jsonb_path_match_tz,jsonb_path_query_array_tz,jsonb_path_query_first_tz,jsonb_path_query_tz,jsonb_populate_record,
      jsonb_populate_recordset,jsonb_to_record,jsonb_to_recordset,length,make_timestamptz,money,now,numeric,overlaps,pg_typeof,quote_literal,
      quote_nullable,row_to_json,session_user,statement_timestamp,textanycat,time,timestamp,timestamp_cmp_timestamptz,timestamp_eq_timestamptz,
      timestamp_ge_timestamptz,timestamp_gt_timestamptz,timestamp_le_timestamptz,timestamp_lt_timestamptz,timestamp_ne_timestamptz,timestamptz,
      timestamptz_cmp_date,timestamptz_cmp_timestamp,timestamptz_eq_date,timestamptz_eq_timestamp,timestamptz_ge_date,timestamptz_ge_timestamp,
      timestamptz_gt_date,timestamptz_gt_timestamp,timestamptz_le_date,timestamptz_le_timestamp,timestamptz_lt_date,timestamptz_lt_timestamp,
      timestamptz_mi_interval,timestamptz_ne_date,timestamptz_ne_timestamp,timestamptz_pl_interval,timetz,timezone,to_char,to_date,to_json,to_jsonb,
      to_number,to_timestamp,transaction_timestamp,uuidv4,uuidv7}'::name[];
  END;
COMMENT ON FUNCTION tally_internal.bound_functions() IS
  'functions of Postgres'' own that an export may call though they aren''t IMMUTABLE';

-- Those of ours that hand out who somebody is, or what events carry, as those do that count by the values of a property: what they read inside isn't seen by who asks which tables a query reads.
CREATE FUNCTION tally_internal.personal_functions() RETURNS name[]
  LANGUAGE sql IMMUTABLE PARALLEL SAFE STRICT
  SET search_path = pg_catalog, pg_temp
  BEGIN ATOMIC
    SELECT '{cohort_members,cohort_units,did_at_least,export_audit,find_access_alerts,find_event,find_personal_data,funnel,kept_units,preview_protection,
      readable_quarantined,reveal,reveal_quarantined,revenue,subject_report,tokens_of}'::name[];
  END;
COMMENT ON FUNCTION tally_internal.personal_functions() IS 'functions of pg_tally that hand out ids of users, properties or what tokens say: an export that calls one is personal';

-- All that a query's answer hangs on beside rows: functions, operators, relations and types, and what those stand on in turn.
CREATE FUNCTION tally_internal.export_basis(functions oid[], operators oid[], relations oid[], types oid[], OUT basis text, OUT classification text, OUT unbound text,
    OUT called oid[], OUT named oid[], OUT read oid[], OUT shaped oid[], OUT mappings oid[])
  RETURNS record
  LANGUAGE sql STABLE PARALLEL SAFE STRICT
  SET search_path = pg_catalog, pg_temp
  SET jit = off -- takes seconds, as the planner expects many rows
  BEGIN ATOMIC
    -- What our own functions call is ours: bound, but not asked about.
    WITH RECURSIVE own (id) AS (
      SELECT d.objid FROM pg_extension AS e JOIN pg_depend AS d ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid
       WHERE e.extname = 'pg_tally' AND d.classid = 'pg_proc'::regclass AND d.deptype = 'e'
    ), item (class, id, is_inner) AS (
      SELECT 'pg_proc'::regclass::oid, f.id, false FROM unnest(functions) AS f (id)
      UNION
      SELECT 'pg_operator'::regclass::oid, o.id, false FROM unnest(operators) AS o (id)
      UNION
      SELECT 'pg_class'::regclass::oid, r.id, false FROM unnest(relations) AS r (id)
      UNION
      SELECT 'pg_type'::regclass::oid, t.id, false FROM unnest(types) AS t (id)
      UNION
      SELECT n.class, n.id, i.is_inner OR (i.class = 'pg_proc'::regclass AND i.id IN (SELECT o.id FROM own AS o))
        FROM item AS i
        CROSS JOIN LATERAL (
          SELECT d.refclassid, d.refobjid FROM pg_depend AS d
           WHERE d.classid = i.class AND d.objid = i.id AND i.class = 'pg_proc'::regclass AND d.deptype = 'n'
          UNION ALL
          SELECT d.refclassid, d.refobjid FROM pg_rewrite AS w JOIN pg_depend AS d ON d.classid = 'pg_rewrite'::regclass AND d.objid = w.oid
           WHERE i.class = 'pg_class'::regclass AND w.ev_class = i.id
          UNION ALL
          SELECT d.refclassid, d.refobjid FROM pg_policy AS p JOIN pg_depend AS d ON d.classid = 'pg_policy'::regclass AND d.objid = p.oid
           WHERE i.class = 'pg_class'::regclass AND p.polrelid = i.id
          UNION ALL
          SELECT d.refclassid, d.refobjid FROM pg_constraint AS c JOIN pg_depend AS d ON d.classid = 'pg_constraint'::regclass AND d.objid = c.oid
           WHERE i.class = 'pg_type'::regclass AND c.contypid = i.id
          UNION ALL
          -- A table's rows are those of the tables that inherit from it, too. Partitions come and go with time, and are not bound.
          SELECT 'pg_class'::regclass::oid, h.inhrelid FROM pg_inherits AS h JOIN pg_class AS c ON c.oid = h.inhparent AND c.relkind <> 'p'
           WHERE i.class = 'pg_class'::regclass AND h.inhparent = i.id
          UNION ALL
          -- But for foreign ones: what those are called elsewhere is a definition.
          SELECT 'pg_class'::regclass::oid, t.relid::oid FROM pg_class AS p, pg_partition_tree(p.oid) AS t JOIN pg_class AS c ON c.oid = t.relid AND c.relkind = 'f'
           WHERE i.class = 'pg_class'::regclass AND p.oid = i.id AND p.relkind = 'p'
          UNION ALL
          -- A domain's type, an array's, a range's, a row's.
          SELECT 'pg_type'::regclass::oid, p.id
            FROM pg_type AS t
            CROSS JOIN LATERAL (SELECT t.typbasetype UNION ALL SELECT t.typelem
              UNION ALL SELECT r.rngsubtype FROM pg_range AS r WHERE r.rngtypid = t.oid OR r.rngmultitypid = t.oid
              UNION ALL SELECT a.atttypid FROM pg_attribute AS a WHERE a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped) AS p (id)
           WHERE i.class = 'pg_type'::regclass AND t.oid = i.id AND p.id <> 0
          UNION ALL
          -- By what values are compared, sorted and told apart: Postgres looks it up where a type or an operator has it.
          SELECT 'pg_opfamily'::regclass::oid, o.opcfamily FROM pg_opclass AS o
           WHERE i.class = 'pg_type'::regclass AND i.id >= 16384 AND o.opcintype = i.id AND o.opcmethod IN (403, 405)
          UNION ALL
          SELECT 'pg_opfamily'::regclass::oid, o.opcfamily FROM pg_range AS r JOIN pg_opclass AS o ON o.oid = r.rngsubopc
           WHERE i.class = 'pg_type'::regclass AND i.id >= 16384 AND i.id IN (r.rngtypid, r.rngmultitypid)
          UNION ALL
          SELECT 'pg_opfamily'::regclass::oid, a.amopfamily FROM pg_amop AS a
           WHERE i.class = 'pg_operator'::regclass AND i.id >= 16384 AND a.amopopr = i.id AND a.amopmethod IN (403, 405)
          UNION ALL
          SELECT 'pg_operator'::regclass::oid, a.amopopr FROM pg_amop AS a WHERE i.class = 'pg_opfamily'::regclass AND a.amopfamily = i.id AND a.amopopr >= 16384
          UNION ALL
          SELECT 'pg_proc'::regclass::oid, a.amproc::oid FROM pg_amproc AS a JOIN pg_opfamily AS f ON f.oid = a.amprocfamily
           WHERE i.class = 'pg_opfamily'::regclass AND f.oid = i.id AND a.amproc::oid >= 12000 AND (a.amprocnum = 1 OR f.opfmethod = 405)
          UNION ALL
          -- What Postgres has itself is in no pg_depend.
          SELECT 'pg_proc'::regclass::oid, m.match[1]::oid
            FROM (SELECT p.prosqlbody::text FROM pg_proc AS p WHERE i.class = 'pg_proc'::regclass AND p.oid = i.id
                  UNION ALL SELECT w.ev_action::text FROM pg_rewrite AS w WHERE i.class = 'pg_class'::regclass AND w.ev_class = i.id
                  UNION ALL SELECT concat(p.polqual::text, p.polwithcheck::text) FROM pg_policy AS p WHERE i.class = 'pg_class'::regclass AND p.polrelid = i.id
                  UNION ALL SELECT c.conbin::text FROM pg_constraint AS c WHERE i.class = 'pg_type'::regclass AND c.contypid = i.id
                 ) AS t (tree),
                 regexp_matches(t.tree, ':(?:funcid|opfuncid|aggfnoid|winfnoid) ([1-9][0-9]*)', 'g') AS m (match)
          UNION ALL
          SELECT 'pg_proc'::regclass::oid, f.id FROM pg_aggregate AS a,
                 unnest(ARRAY[a.aggtransfn, a.aggfinalfn, a.aggcombinefn, a.aggserialfn, a.aggdeserialfn, a.aggmtransfn, a.aggminvtransfn, a.aggmfinalfn]::oid[]) AS f (id)
           WHERE i.class = 'pg_proc'::regclass AND i.id >= 12000 AND a.aggfnoid = i.id AND f.id <> 0
          UNION ALL
          SELECT 'pg_proc'::regclass::oid, o.oprcode::oid FROM pg_operator AS o WHERE i.class = 'pg_operator'::regclass AND o.oid = i.id
        ) AS n (class, id)
       WHERE n.class IN ('pg_proc'::regclass, 'pg_class'::regclass, 'pg_operator'::regclass, 'pg_opfamily'::regclass, 'pg_type'::regclass)
    ), function AS (
      SELECT p.*, concat(p.xmin, ' ', md5(p::text)) AS version, l.lanname, e.extname, e.extversion, n.nspname, i.is_inner
        FROM (SELECT i.id, bool_and(i.is_inner) FROM item AS i WHERE i.class = 'pg_proc'::regclass GROUP BY i.id) AS i (id, is_inner)
        JOIN pg_proc AS p ON p.oid = i.id JOIN pg_language AS l ON l.oid = p.prolang JOIN pg_namespace AS n ON n.oid = p.pronamespace
        LEFT JOIN pg_depend AS d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
        LEFT JOIN pg_extension AS e ON e.oid = d.refobjid
    ), asked AS (
      SELECT * FROM function AS f WHERE NOT f.is_inner AND f.extname IS DISTINCT FROM 'pg_tally'
    ), relation AS MATERIALIZED (
      SELECT c.*, n.nspname FROM (SELECT DISTINCT i.id FROM item AS i WHERE i.class = 'pg_class'::regclass) AS i
        JOIN pg_class AS c ON c.oid = i.id JOIN pg_namespace AS n ON n.oid = c.relnamespace
    ), type AS (
      SELECT t.*, t.xmin AS version FROM (SELECT DISTINCT i.id FROM item AS i WHERE i.class = 'pg_type'::regclass) AS i JOIN pg_type AS t ON t.oid = i.id
       WHERE t.oid >= 16384
    ), shape (id) AS (
      SELECT r.oid FROM relation AS r UNION SELECT t.typrelid FROM type AS t WHERE t.typrelid <> 0
    ), far AS MATERIALIZED (
      SELECT t.ftrelid, s.oid AS server, concat_ws(' ', t.xmin, t.ftoptions, s.oid, s.xmin, md5(s::text), w.oid, w.xmin, md5(w::text), p.xmin, md5(p::text)) AS version
        FROM relation AS r JOIN pg_foreign_table AS t ON t.ftrelid = r.oid
        JOIN pg_foreign_server AS s ON s.oid = t.ftserver JOIN pg_foreign_data_wrapper AS w ON w.oid = s.srvfdw LEFT JOIN pg_proc AS p ON p.oid = w.fdwhandler
    ), line (text) AS (
      -- With who wrote the row last: what is changed and changed back is not what was looked at. One transaction may write several, so with its content.
      SELECT concat_ws(' ', 'function', f.oid, f.version, f.proname, f.lanname, f.extversion,
               (SELECT concat(a.xmin, ' ', md5(a::text)) FROM pg_aggregate AS a WHERE a.aggfnoid = f.oid))
        FROM function AS f WHERE f.oid >= 12000
      UNION ALL
      SELECT concat_ws(' ', 'relation', r.oid, r.relname, r.relkind, r.relowner, r.relam, r.relrowsecurity, r.relforcerowsecurity, r.reloptions,
               (SELECT f.version FROM far AS f WHERE f.ftrelid = r.oid),
               (SELECT string_agg(concat(d.xmin, ' ', md5(d.adbin::text)), ',' ORDER BY d.adnum)
                  FROM pg_attrdef AS d JOIN pg_attribute AS a ON a.attrelid = d.adrelid AND a.attnum = d.adnum AND a.attgenerated <> '' WHERE d.adrelid = r.oid),
               (SELECT string_agg(concat(w.xmin, ' ', md5(w.ev_action::text)), ',' ORDER BY w.rulename) FROM pg_rewrite AS w WHERE w.ev_class = r.oid),
               (SELECT string_agg(md5(concat_ws(' ', p.xmin, p.polcmd, p.polpermissive, p.polroles, p.polqual, p.polwithcheck)), ',' ORDER BY p.polname)
                  FROM pg_policy AS p WHERE p.polrelid = r.oid))
        FROM relation AS r
      UNION ALL
      -- A row's columns are its type's; those that are gone tell what it was in between.
      SELECT concat_ws(' ', 'columns', s.id,
               (SELECT string_agg(concat_ws(' ', a.xmin, a.attnum, a.attisdropped, quote_literal(a.attname), a.atttypid, a.atttypmod, a.attcollation, a.attgenerated, a.attfdwoptions), ','
                         ORDER BY a.attnum)
                  FROM pg_attribute AS a WHERE a.attrelid = s.id AND a.attnum > 0))
        FROM shape AS s
      UNION ALL
      SELECT concat_ws(' ', 'type', t.oid, t.typname, md5(t::text),
               (SELECT string_agg(concat(c.xmin, ' ', md5(c.conbin::text)), ',' ORDER BY c.conname) FROM pg_constraint AS c WHERE c.contypid = t.oid),
               (SELECT string_agg(concat_ws(' ', v.oid, v.xmin, md5(v.enumlabel)), ',' ORDER BY v.enumsortorder) FROM pg_enum AS v WHERE v.enumtypid = t.oid),
               (SELECT concat(r.xmin, ' ', md5(r::text)) FROM pg_range AS r WHERE t.oid IN (r.rngtypid, r.rngmultitypid)),
               -- Its own reading and writing, which are in C.
               (SELECT string_agg(concat_ws(' ', p.oid, p.xmin, md5(p::text)), ',' ORDER BY p.oid)
                  FROM (SELECT unnest(ARRAY[t.typinput, t.typoutput, t.typreceive, t.typsend, t.typmodin, t.typmodout, t.typsubscript]::oid[])
                        UNION SELECT unnest(ARRAY[r.rngcanonical, r.rngsubdiff]::oid[]) FROM pg_range AS r WHERE t.oid IN (r.rngtypid, r.rngmultitypid)) AS f (id)
                  JOIN pg_proc AS p ON p.oid = f.id WHERE f.id >= 12000))
        FROM type AS t
      UNION ALL
      SELECT concat_ws(' ', 'comparison', f.oid, f.xmin, md5(f::text),
               (SELECT string_agg(concat_ws(' ', o.oid, o.xmin, md5(o::text)), ',' ORDER BY o.oid) FROM pg_opclass AS o WHERE o.opcfamily = f.oid),
               (SELECT string_agg(concat_ws(' ', a.oid, a.xmin, md5(a::text)), ',' ORDER BY a.oid) FROM pg_amop AS a WHERE a.amopfamily = f.oid),
               (SELECT string_agg(concat_ws(' ', a.oid, a.xmin, md5(a::text)), ',' ORDER BY a.oid) FROM pg_amproc AS a WHERE a.amprocfamily = f.oid))
        FROM pg_opfamily AS f WHERE f.oid >= 16384 AND f.oid IN (SELECT i.id FROM item AS i WHERE i.class = 'pg_opfamily'::regclass)
      UNION ALL
      -- Which policies hold for whom: for who asks, and for those whose views are read.
      SELECT concat_ws(' ', 'role', u.oid, u.rolsuper, u.rolbypassrls, string_agg(concat(h.id, ' ', pg_has_role(u.oid, h.id, 'USAGE')), ',' ORDER BY h.id))
        FROM pg_roles AS u
        LEFT JOIN (SELECT r.relowner FROM relation AS r WHERE r.relrowsecurity
                   UNION SELECT m.id FROM relation AS r JOIN pg_policy AS p ON p.polrelid = r.oid, unnest(p.polroles) AS m (id) WHERE m.id <> 0) AS h (id) ON true
       WHERE u.rolname = session_user OR u.oid IN (SELECT r.relowner FROM relation AS r WHERE r.relkind = 'v')
       GROUP BY u.oid, u.rolsuper, u.rolbypassrls
    )
    SELECT (SELECT string_agg(l.text, E'\n' ORDER BY l.text) FROM line AS l),
           -- Aggregate is what reads rollups alone: of the catalogue's texts anybody can be an author.
           CASE WHEN EXISTS (SELECT FROM function AS f WHERE NOT f.is_inner AND f.extname = 'pg_tally' AND f.proname = ANY (tally_internal.personal_functions()))
                THEN 'personal'
                WHEN EXISTS (SELECT FROM relation AS r WHERE r.relkind NOT IN ('v', 'c')
                                AND NOT (r.nspname = 'tally' AND EXISTS (SELECT FROM tally.rollup AS u
                                  WHERE r.relname = u.rollup_name || '_pending' OR r.relname IN (SELECT u.rollup_name || '_' || g.grain || '_base' FROM unnest(u.grains) AS g (grain)))))
                  -- What our own functions read inside isn't known here.
                  OR EXISTS (SELECT FROM function AS f WHERE f.nspname IN ('tally', 'tally_internal') AND f.lanname = 'plpgsql')
                THEN 'raw' ELSE 'aggregate' END,
           coalesce(
             (SELECT format('function %s, whose body names its functions and tables by text alone', min(f.oid::regprocedure::text))
                FROM asked AS f WHERE f.oid >= 12000 AND f.lanname NOT IN ('c', 'internal') AND f.prosqlbody IS NULL AND f.prokind <> 'a' HAVING count(*) > 0),
             (SELECT format('function %s, which is VOLATILE', min(f.oid::regprocedure::text)) FROM function AS f
               WHERE f.provolatile = 'v' AND NOT f.is_inner AND NOT (f.oid < 12000 AND f.proname = ANY (tally_internal.bound_functions())) HAVING count(*) > 0),
             (SELECT format('function %s, which reads what a text or a setting names, or what the session has', min(f.oid::regprocedure::text)) FROM asked AS f
               WHERE f.oid < 12000 AND (f.provolatile <> 'i' AND NOT f.proname = ANY (tally_internal.bound_functions())
                                        OR f.proargtypes::oid[] && ARRAY['regconfig'::regtype, 'regdictionary'::regtype]::oid[] OR f.proname = 'pg_partition_root' OR f.oid = 'age(xid)'::regprocedure)
              HAVING count(*) > 0),
             -- A number becomes the name that an object has at that moment.
             (SELECT format('type %s, whose values are names of what is in the catalogue', min(i.id::regtype::text)) FROM item AS i
               WHERE i.class = 'pg_type'::regclass AND NOT i.is_inner
                 AND i.id = ANY ('{regclass,regproc,regprocedure,regoper,regoperator,regtype,regrole,regnamespace,regcollation,regconfig,regdictionary,aclitem}'::regtype[]::oid[])
              HAVING count(*) > 0),
             -- What tablefunc and xml2 are told to run is a text; what others compare goes by settings.
             (SELECT format('function %s, which is not IMMUTABLE and may read what a text or a setting names', min(f.oid::regprocedure::text)) FROM asked AS f
               WHERE f.oid >= 12000 AND f.lanname IN ('c', 'internal') AND f.provolatile <> 'i' HAVING count(*) > 0),
             -- Rows are handed out as JSON, and Postgres makes it by such a cast.
             (SELECT format('type %s, for which somebody has made a cast to json', min(k.castsource::regtype::text)) FROM pg_cast AS k JOIN type AS t ON t.oid = k.castsource
               WHERE k.casttarget = 'json'::regtype AND k.castfunc <> 0 AND k.oid >= 16384
                 AND NOT EXISTS (SELECT FROM pg_depend AS d WHERE d.classid = 'pg_cast'::regclass AND d.objid = k.oid AND d.deptype = 'e')
              HAVING count(*) > 0),
             (SELECT format('function %s, which has its owner''s rights', min(f.oid::regprocedure::text))
                FROM asked AS f WHERE f.prosecdef HAVING count(*) > 0),
             (SELECT format('temporary table %s', min(r.oid::regclass::text)) FROM relation AS r WHERE r.relpersistence = 't' HAVING count(*) > 0)),
           (SELECT array_agg(f.oid) FROM function AS f WHERE f.oid >= 12000),
           (SELECT array_agg(t.oid) FROM type AS t),
           -- What our own functions read inside is theirs to answer for: those that hand out people have their names here.
           (SELECT array_agg(DISTINCT coalesce(part.relid::oid, i.id)) FROM item AS i JOIN pg_class AS c ON c.oid = i.id
              LEFT JOIN LATERAL (SELECT t.relid FROM pg_partition_tree(i.id) AS t WHERE c.relkind = 'p') AS part ON true
             WHERE i.class = 'pg_class'::regclass AND NOT i.is_inner),
           (SELECT array_agg(s.id) FROM shape AS s),
           -- A foreign table is read by the mapping of who asks, of a view's owner, or of who owns a function that has its owner's rights, or else by that of everybody.
           (SELECT array_agg(m.umid ORDER BY m.umid) FROM pg_user_mappings AS m
             WHERE m.srvid IN (SELECT f.server FROM far AS f)
               AND (m.umuser = 0 OR m.umuser IN (SELECT u.oid FROM pg_roles AS u WHERE u.rolname = session_user
                                                 UNION SELECT r.relowner FROM relation AS r WHERE r.relkind = 'v'
                                                 UNION SELECT f.proowner FROM function AS f WHERE f.prosecdef)));
  END;
COMMENT ON FUNCTION tally_internal.export_basis(oid[], oid[], oid[], oid[]) IS
  'definitions that a query''s answer hangs on; what it reads: aggregate, raw or, by our own functions, personal; what of it can''t be bound to an approval, if anything; the functions called and types named that Postgres doesn''t have itself; the tables read, with their partitions; whose columns count; and the user mappings by which foreign tables are read';

REVOKE ALL ON FUNCTION tally_internal.bound_functions(), tally_internal.personal_functions(), tally_internal.export_basis(oid[], oid[], oid[], oid[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tally_internal.bound_functions(), tally_internal.personal_functions(), tally_internal.export_basis(oid[], oid[], oid[], oid[]) TO tally_owner;
