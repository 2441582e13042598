-- Whoever reads has tables and views before the bindings that their policies ask for, and the script needs both: all are locked before
-- anything is changed, or none for a moment. Where that made a
-- circle, it is tried again, too.
DO $$
DECLARE
  tries CONSTANT pg_catalog.int4 := 60;
  own CONSTANT pg_catalog.text := pg_catalog.current_setting('lock_timeout');
  tables pg_catalog.oid[];
  wanted pg_catalog.oid;
  until pg_catalog.timestamptz;
BEGIN
  FOR attempt IN 1 .. tries LOOP
    BEGIN
      -- What is protected may have been dropped: its row stays.
      SELECT pg_catalog.array_agg(l.id ORDER BY l.is_last, l.id) INTO tables
        FROM (SELECT c.oid, c.relname OPERATOR(pg_catalog.=) 'role_binding' FROM pg_catalog.pg_class AS c
               WHERE c.relnamespace OPERATOR(pg_catalog.=) 'tally'::pg_catalog.regnamespace::pg_catalog.oid AND c.relkind IN ('r', 'p', 'v')
              UNION ALL
              SELECT c.oid, false FROM tally.protected_table AS p
                JOIN pg_catalog.pg_class AS c ON c.oid OPERATOR(pg_catalog.=) p.table_name::pg_catalog.oid AND c.relkind IN ('r', 'p')) AS l (id, is_last);
      until := pg_catalog.clock_timestamp() OPERATOR(pg_catalog.+) '500 ms'::pg_catalog.interval;
      FOREACH wanted IN ARRAY tables LOOP
        PERFORM pg_catalog.set_config('lock_timeout', pg_catalog.concat(greatest(1, (1000
          OPERATOR(pg_catalog.*) EXTRACT(epoch FROM until OPERATOR(pg_catalog.-) pg_catalog.clock_timestamp()))::pg_catalog.int4), 'ms'), true);
        EXECUTE pg_catalog.format('LOCK TABLE %s IN ACCESS EXCLUSIVE MODE', wanted::pg_catalog.regclass);
      END LOOP;
      PERFORM pg_catalog.set_config('lock_timeout', own, true);
      RETURN;
    -- Or dropped since it was listed.
    EXCEPTION WHEN lock_not_available OR deadlock_detected OR undefined_table OR invalid_schema_name OR syntax_error THEN
      IF attempt OPERATOR(pg_catalog.=) tries THEN
        RAISE EXCEPTION USING ERRCODE = 'lock_not_available',
          MESSAGE = pg_catalog.format('the update needs all of pg_tally''s tables for itself, and %s was in use', wanted::pg_catalog.regclass),
          HINT = 'end transactions that stay open and long queries (pg_stat_activity), and update again: nothing was changed';
      END IF;
      PERFORM pg_catalog.pg_sleep(0.5);
    END;
  END LOOP;
END
$$;
