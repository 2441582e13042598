-- Every guard: ours, those of declared rollups and partitions, and those of protected tables; of the records that auditors read every policy.
DO $upgrade$
DECLARE
  guarded record;
BEGIN
  FOR guarded IN
    SELECT p.polrelid::pg_catalog.regclass AS id, w.policy_name, w.declared, pg_catalog.array_to_string(w.role_names, ', ') AS role_names
      FROM pg_catalog.pg_policy AS p
      JOIN pg_catalog.pg_class AS c ON c.oid OPERATOR(pg_catalog.=) p.polrelid
      LEFT JOIN LATERAL (
        SELECT t.tenant_column, t.account_column FROM tally.protected_table AS t
         WHERE p.polrelid OPERATOR(pg_catalog.=) ANY (SELECT f.id FROM tally_internal.family(t.table_name) AS f (id)) LIMIT 1) AS t ON true
      CROSS JOIN LATERAL tally_internal.policies(p.polrelid,
        CASE WHEN c.relnamespace OPERATOR(pg_catalog.=) 'tally'::pg_catalog.regnamespace THEN 'tenant_id' ELSE t.tenant_column END,
        CASE WHEN c.relnamespace OPERATOR(pg_catalog.=) 'tally'::pg_catalog.regnamespace
             THEN (SELECT a.attname FROM pg_catalog.pg_attribute AS a
                    WHERE a.attrelid OPERATOR(pg_catalog.=) p.polrelid AND a.attname OPERATOR(pg_catalog.=) 'account_id' AND NOT a.attisdropped)
             ELSE t.account_column END) AS w
     WHERE w.policy_name OPERATOR(pg_catalog.=) p.polname
       AND (p.polname OPERATOR(pg_catalog.=) 'tally_guard'
            OR p.polname OPERATOR(pg_catalog.=) ANY ('{tally_tenant,tally_global}'::pg_catalog.name[]) AND tally_internal.is_record(p.polrelid))
     ORDER BY p.polrelid, w.policy_name
  LOOP
    EXECUTE pg_catalog.format('ALTER POLICY %I ON %s TO %s USING (%s) WITH CHECK (%s)', guarded.policy_name, guarded.id, guarded.role_names,
      guarded.declared, guarded.declared);
  END LOOP;
END
$upgrade$;

-- A policy of somebody's own may call these: then this stops, and says which.
DROP FUNCTION tally.scope_first_account(), tally.scope_last_account();

-- Sessions take notice of the inbox's triggers.
GRANT INSERT ON tally.inbox TO tally_writer;

-- Partitions and rollups that are there get what new ones are made with: a replica identity, no workers for base rows, and in finished views
-- the bucket as a date.
DO $upgrade$
DECLARE
  existing record;
  borrowed pg_catalog.regclass[] := '{}';
  has_pending CONSTANT text := 'tally_internal.may_have_pending((SELECT waiting.keys FROM waiting), tenant_id, account_id, bucket)';
BEGIN
  -- A script may replace views of its extension alone: those of declared rollups are its own meanwhile.
  FOR existing IN
    SELECT v.id
      FROM tally.rollup AS r
      CROSS JOIN LATERAL pg_catalog.unnest(r.grains) AS g (grain)
      CROSS JOIN LATERAL pg_catalog.unnest('{"",_state}'::pg_catalog.text[]) AS s (suffix)
      CROSS JOIN LATERAL (SELECT pg_catalog.format('tally.%I', pg_catalog.concat(r.rollup_name, '_', g.grain, s.suffix))::pg_catalog.regclass) AS v (id)
     WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_depend AS d WHERE d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass
                          AND d.objid OPERATOR(pg_catalog.=) v.id::pg_catalog.oid AND d.deptype OPERATOR(pg_catalog.=) 'e')
     ORDER BY v.id::pg_catalog.oid
  LOOP
    EXECUTE pg_catalog.format('ALTER EXTENSION pg_tally ADD VIEW %s', existing.id);
    borrowed := pg_catalog.array_append(borrowed, existing.id);
  END LOOP;
  FOR existing IN
    SELECT c.oid::pg_catalog.regclass AS id FROM pg_catalog.pg_class AS c
     WHERE c.relnamespace OPERATOR(pg_catalog.=) 'tally'::pg_catalog.regnamespace AND c.relkind IN ('r', 'p') AND c.relreplident OPERATOR(pg_catalog.=) 'd'
       AND NOT EXISTS (SELECT FROM pg_catalog.pg_index AS i WHERE i.indrelid OPERATOR(pg_catalog.=) c.oid AND i.indisprimary)
     ORDER BY c.oid
  LOOP
    EXECUTE pg_catalog.format('ALTER TABLE %s REPLICA IDENTITY FULL', existing.id);
  END LOOP;
  FOR existing IN
    SELECT b.id
      FROM tally.rollup AS r
      CROSS JOIN LATERAL pg_catalog.unnest(r.grains) AS g (grain)
      CROSS JOIN LATERAL (SELECT pg_catalog.format('tally.%I', pg_catalog.concat(r.rollup_name, '_', g.grain, '_base'))::pg_catalog.regclass) AS b (id)
      JOIN pg_catalog.pg_class AS c ON c.oid OPERATOR(pg_catalog.=) b.id::pg_catalog.oid
     WHERE NOT EXISTS (SELECT FROM pg_catalog.unnest(c.reloptions) AS o (text) WHERE o.text OPERATOR(pg_catalog.~) '^parallel_workers=')
     ORDER BY c.oid
  LOOP
    EXECUTE pg_catalog.format('ALTER TABLE %s SET (parallel_workers = 0)', existing.id);
  END LOOP;
  FOR existing IN
    SELECT v.id, g.grain, pg_catalog.pg_get_viewdef(v.id) AS definition
      FROM tally.rollup AS r
      CROSS JOIN LATERAL pg_catalog.unnest(r.grains) AS g (grain)
      CROSS JOIN LATERAL (SELECT pg_catalog.format('tally.%I', pg_catalog.concat(r.rollup_name, '_', g.grain))::pg_catalog.regclass) AS v (id)
     WHERE g.grain OPERATOR(pg_catalog.<>) ALL ('{minute,hour}'::pg_catalog.text[])
       AND NOT EXISTS (SELECT FROM pg_catalog.pg_attribute AS a WHERE a.attrelid OPERATOR(pg_catalog.=) v.id::pg_catalog.oid AND a.attname OPERATOR(pg_catalog.=) g.grain::pg_catalog.name)
     ORDER BY r.rollup_name, g.grain
  LOOP
    EXECUTE pg_catalog.format('CREATE OR REPLACE VIEW %s WITH (security_invoker = true) AS %s', existing.id,
      pg_catalog.regexp_replace(existing.definition, $re$\n   FROM (?!.*\n   FROM )$re$,
        pg_catalog.format(E',\n    (bucket AT TIME ZONE ''UTC'')::date AS %I\n   FROM ', existing.grain)));
    EXECUTE pg_catalog.format('COMMENT ON COLUMN %s.%I IS %L', existing.id, existing.grain,
      'the bucket as a date, of its first day (UTC), the same in every time zone');
  END LOOP;
  -- Views of states group by aggregates for few rows, and base rows that something is pending of alone: as src/rollup/layout.rs has it.
  FOR existing IN
    SELECT v.id, v.base, v.pending, g.grain, c.names, c.alone,
           pg_catalog.regexp_replace(
             pg_catalog.regexp_replace(
               pg_catalog.regexp_replace(
                 pg_catalog.regexp_replace(pg_catalog.rtrim(pg_catalog.pg_get_viewdef(v.id), ';'), $re$^( +)\(sum\((.*)\)\)::bigint AS $re$, $re$\1tally_internal.total(\2) AS $re$, 'gn'),
                 $re$^( +)tally\.rollup\($re$, $re$\1tally_internal.rollup_few($re$, 'gn'),
               $re$^( +)tally\.union_days\($re$, $re$\1tally_internal.union_few_days($re$, 'gn'),
             $re$^( +)tally\.union_session_windows\($re$, $re$\1tally_internal.union_few_session_windows($re$, 'gn') AS definition
      FROM tally.rollup AS r
      CROSS JOIN LATERAL pg_catalog.unnest(r.grains) AS g (grain)
      CROSS JOIN LATERAL (
        SELECT pg_catalog.format('tally.%I', pg_catalog.concat(r.rollup_name, '_', g.grain, '_state'))::pg_catalog.regclass,
               pg_catalog.format('tally.%I', pg_catalog.concat(r.rollup_name, '_', g.grain, '_base'))::pg_catalog.regclass,
               pg_catalog.format('tally.%I', pg_catalog.concat(r.rollup_name, '_pending'))::pg_catalog.regclass) AS v (id, base, pending)
      CROSS JOIN LATERAL (
        SELECT pg_catalog.string_agg(pg_catalog.format(', %I', a.attname), '' ORDER BY a.attnum) AS names,
               pg_catalog.string_agg(CASE WHEN a.atttypid OPERATOR(pg_catalog.=) b.atttypid THEN pg_catalog.format(', %I', a.attname)
                 ELSE pg_catalog.format(', %1$I::%2$s AS %1$I', a.attname, pg_catalog.format_type(a.atttypid, NULL)) END, '' ORDER BY a.attnum) AS alone
          FROM pg_catalog.pg_attribute AS a
          JOIN pg_catalog.pg_attribute AS b ON b.attrelid OPERATOR(pg_catalog.=) v.base::pg_catalog.oid AND b.attname OPERATOR(pg_catalog.=) a.attname
         WHERE a.attrelid OPERATOR(pg_catalog.=) v.id::pg_catalog.oid AND a.attname OPERATOR(pg_catalog.<>) ALL ('{tenant_id,account_id,bucket}'::pg_catalog.name[])) AS c
     ORDER BY r.rollup_name, g.grain
  LOOP
    -- Of rollups that this script made it is so already.
    IF existing.grain OPERATOR(pg_catalog.<>) ALL ('{quarter,year}'::pg_catalog.text[]) AND existing.definition OPERATOR(pg_catalog.!~) '^ *WITH ' THEN
      existing.definition := pg_catalog.format(
        'WITH waiting AS MATERIALIZED (SELECT tally_internal.pending_keys(tenant_id, account_id, bucket, %L) AS keys FROM %s)'
        ' SELECT tenant_id, account_id, bucket%s FROM (SELECT tenant_id, account_id, bucket%s FROM %s WHERE %s IS NOT TRUE UNION ALL %s) AS rows'
        ' LEFT JOIN (SELECT count(*)) AS no_row_locks ON true',
        existing.grain, existing.pending, existing.names, existing.alone, existing.base, has_pending,
        pg_catalog.regexp_replace(existing.definition, $re$\n( +)UNION ALL\n$re$, pg_catalog.format(E' WHERE %s\n\\1UNION ALL\n', has_pending)));
    END IF;
    EXECUTE pg_catalog.format('CREATE OR REPLACE VIEW %s WITH (security_invoker = true) AS %s', existing.id, existing.definition);
  END LOOP;
  FOR existing IN SELECT b.id FROM pg_catalog.unnest(borrowed) AS b (id) LOOP
    EXECUTE pg_catalog.format('ALTER EXTENSION pg_tally DROP VIEW %s', existing.id);
  END LOOP;
END
$upgrade$;

-- What the columns of rollups' views say of themselves, with what may be summed: as src/rollup/layout.rs has it.
DO $upgrade$
DECLARE
  remark record;
BEGIN
  FOR remark IN
    WITH measure AS (
      SELECT c.rollup_name, g.grain, c.position, c.column_name, c.kind,
             CASE c.kind WHEN 'percentiles' THEN pg_catalog.format('tally.approx_percentile(0.95, tally.rollup(%I))', c.column_name)
                         WHEN 'days' THEN pg_catalog.format('tally.day_count(tally.union_days(%I))', c.column_name)
                         WHEN 'session_windows'
                         THEN pg_catalog.format('tally.session_window_count(tally.union_session_windows(%I))', c.column_name)
                         ELSE pg_catalog.format('tally.distinct_count(tally.rollup(%I))', c.column_name) END AS of_several,
             CASE WHEN c.kind OPERATOR(pg_catalog.=) ANY ('{count,sum}'::pg_catalog.text[])
                  THEN pg_catalog.format('%s. Adds up', c.kind)
                  WHEN c.kind OPERATOR(pg_catalog.=) ANY ('{min,max}'::pg_catalog.text[])
                  THEN pg_catalog.format('%1$s. Doesn''t add up: of several rows take the %1$s', c.kind)
                  WHEN c.kind OPERATOR(pg_catalog.=) 'first'
                  THEN pg_catalog.format('first value, that of %1$s_at. Doesn''t add up: of several rows take that of the least %1$s_at', c.column_name)
                  WHEN c.kind OPERATOR(pg_catalog.=) 'last'
                  THEN pg_catalog.format('last value, that of %1$s_at. Doesn''t add up: of several rows take that of the greatest %1$s_at', c.column_name)
                  END AS plain
        FROM tally.rollup_column AS c
        JOIN tally.rollup AS r ON r.rollup_name OPERATOR(pg_catalog.=) c.rollup_name
       CROSS JOIN LATERAL pg_catalog.unnest(r.grains) AS g (grain)
       WHERE c.kind OPERATOR(pg_catalog.<>) 'dimension'
    )
    SELECT pg_catalog.format('tally.%I', pg_catalog.concat(m.rollup_name, '_', m.grain, s.suffix)) AS view, s.column_name, s.text
      FROM measure AS m
     CROSS JOIN LATERAL (
       SELECT '_state', m.column_name,
              coalesce(m.plain, pg_catalog.format('%s, as a state: ask %s, of one row or of several', m.kind, m.of_several))
        UNION ALL
       SELECT '', m.column_name,
              coalesce(m.plain, pg_catalog.format('%s. Doesn''t add up: of several rows ask %s of the _state view',
                CASE m.kind WHEN 'distinct' THEN 'estimated number of distinct values' WHEN 'days' THEN 'number of days'
                            ELSE 'number of session windows' END, m.of_several))
        WHERE m.kind OPERATOR(pg_catalog.<>) 'percentiles'
        UNION ALL
       SELECT '', m.column_name OPERATOR(pg_catalog.||) '_stderr',
              pg_catalog.format('standard error of %s, in values. Doesn''t add up', m.column_name)
        WHERE m.kind OPERATOR(pg_catalog.=) 'distinct'
        UNION ALL
       SELECT '', m.column_name OPERATOR(pg_catalog.||) p.suffix,
              pg_catalog.format('estimated value at fraction %1$s. Doesn''t add up, nor do averages of it: of several rows ask '
                'tally.approx_percentile(%1$s, tally.rollup(%2$I)) of the _state view', p.fraction, m.column_name)
         FROM (VALUES ('_p50', '0.5'), ('_p95', '0.95'), ('_p99', '0.99')) AS p (suffix, fraction)
        WHERE m.kind OPERATOR(pg_catalog.=) 'percentiles'
     ) AS s (suffix, column_name, text)
     ORDER BY m.rollup_name, m.grain, s.suffix, m.position, s.column_name
  LOOP
    EXECUTE pg_catalog.format('COMMENT ON COLUMN %s.%I IS %L', remark.view, remark.column_name, remark.text);
  END LOOP;
END
$upgrade$;

-- The functions of declared expressions were looked up by the login that ingested, and are now by tally_evaluator.
DO $usage$
DECLARE
  used record;
BEGIN
  FOR used IN
    SELECT DISTINCT n.nspname
      FROM pg_catalog.pg_namespace AS n, pg_catalog.aclexplode(n.nspacl) AS a
     WHERE n.nspname OPERATOR(pg_catalog.<>) ALL (ARRAY['tally', 'tally_internal']::pg_catalog.name[]) AND a.privilege_type OPERATOR(pg_catalog.=) 'USAGE'
       AND pg_catalog.pg_get_userbyid(a.grantee) OPERATOR(pg_catalog.=) 'tally_writer'
  LOOP
    EXECUTE pg_catalog.format('GRANT USAGE ON SCHEMA %I TO tally_evaluator', used.nspname);
  END LOOP;
END
$usage$;

-- Two that kept house at once could leave what is past its retention: it is looked for once more.
UPDATE tally.tenant_horizon SET pruned_from = '-infinity' WHERE pruned_from OPERATOR(pg_catalog.>) '-infinity'::pg_catalog.timestamptz;
