-- Findings about the audit log. What only time shows is looked for in logs that have been sealed for a week.

CREATE FUNCTION tally_internal.lint_audit(OUT rule text, OUT type text, OUT schema text, OUT object text, OUT detail text, OUT fix text)
  RETURNS SETOF record
  LANGUAGE sql STABLE PARALLEL RESTRICTED STRICT
  SET search_path = pg_catalog, pg_temp
  BEGIN ATOMIC
    WITH log AS (
      SELECT s.*, s.first_sealed_at < pg_catalog.now() - interval '7 days' AS is_in_use FROM tally_internal.audit_state() AS s
    ), part AS (
      SELECT c.oid AS id, c.relname, c.relowner, c.relacl FROM pg_catalog.pg_class AS c
       WHERE c.relnamespace = 'tally'::regnamespace AND c.relkind = 'r'
         AND (c.relname = 'audit_seal' OR EXISTS (SELECT FROM pg_catalog.pg_inherits AS i
                                                   WHERE i.inhrelid = c.oid AND i.inhparent = 'tally.audit_entry'::regclass))
    )
    SELECT 'audit_policy_missing', 'table', 'tally', 'audit_policy', 'nothing says which reads are recorded, so none are',
           'SELECT tally.set_audit_policy(''raw'');'
      FROM log AS l WHERE l.is_in_use AND NOT EXISTS (SELECT FROM tally.audit_policy AS p WHERE p.tenant_id = '')
    UNION ALL
    SELECT 'audit_reads_off', 'table', 'tally', 'audit_policy',
           pg_catalog.format('reads of %s are not recorded', CASE p.tenant_id WHEN '' THEN 'every tenant without a policy' ELSE 'tenant ' || pg_catalog.quote_literal(p.tenant_id) END),
           pg_catalog.format('SELECT tally.set_audit_policy(''raw''%s);', CASE WHEN p.tenant_id <> '' THEN ', ' || pg_catalog.quote_literal(p.tenant_id) ELSE '' END)
      FROM tally.audit_policy AS p WHERE p.reads = 'none'
    UNION ALL
    SELECT 'audit_not_sealed', 'table', 'tally', 'audit_entry', pg_catalog.format('entries wait for their seal since %s', l.unsealed_since),
           'see that the worker or CALL tally.maintain() runs, and that no old transaction does'
      FROM log AS l WHERE l.unsealed_since < pg_catalog.now() - interval '1 day'
    UNION ALL
    SELECT 'audit_not_anchored', 'table', 'tally', 'audit_seal',
           pg_catalog.concat('no anchor was taken ', coalesce('since ' || l.anchored_at, 'for a month or ever')),
           'keep what SELECT tally.audit_anchor(); returns where no administrator of the database can change it'
      FROM log AS l WHERE l.is_in_use AND coalesce(l.anchored_at < pg_catalog.now() - interval '7 days', true)
    UNION ALL
    SELECT 'audit_unguarded', 'table', 'tally', p.relname::text, pg_catalog.format('trigger %I of %s is missing', w.name, p.id::regclass),
           pg_catalog.format('CREATE TRIGGER %1$I BEFORE %2$s ON %3$s FOR EACH %4$s EXECUTE FUNCTION tally_internal.keep_audit(); ALTER TABLE %3$s ENABLE ALWAYS TRIGGER %1$I;',
             w.name, CASE w.name WHEN 'audit_kept' THEN 'UPDATE OR DELETE' ELSE 'TRUNCATE' END, p.id::regclass,
             CASE w.name WHEN 'audit_kept' THEN 'ROW' ELSE 'STATEMENT' END)
      FROM part AS p CROSS JOIN (VALUES ('audit_kept'::name), ('audit_not_emptied')) AS w (name)
     WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_trigger AS t WHERE t.tgrelid = p.id AND t.tgname = w.name)
    UNION ALL
    SELECT 'audit_readable', 'table', 'tally', c.relname::text,
           pg_catalog.format('%s may read %s', CASE WHEN a.grantee = 0 THEN 'PUBLIC' ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(a.grantee)) END, c.oid::regclass),
           pg_catalog.format('REVOKE ALL ON %s FROM %s CASCADE;', c.oid::regclass, CASE WHEN a.grantee = 0 THEN 'PUBLIC' ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(a.grantee)) END)
      FROM pg_catalog.pg_class AS c CROSS JOIN LATERAL pg_catalog.aclexplode(c.relacl) AS a
     WHERE a.grantee <> c.relowner AND a.privilege_type = 'SELECT' AND c.relnamespace = 'tally'::regnamespace
       AND (c.relname IN ('audit_entry', 'audit_personal') OR c.oid IN (SELECT p.id FROM part AS p WHERE p.relname <> 'audit_seal'));
  END;
COMMENT ON FUNCTION tally_internal.lint_audit() IS 'findings of tally.lint() about the audit log';
REVOKE ALL ON FUNCTION tally_internal.lint_audit() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tally_internal.lint_audit() TO tally_admin, tally_auditor;

CREATE FUNCTION tally_internal.rules_audit(OUT name text, OUT level text, OUT title text, OUT description text)
  RETURNS SETOF record ROWS 20
  LANGUAGE sql IMMUTABLE PARALLEL SAFE STRICT
  SET search_path = pg_catalog, pg_temp
  BEGIN ATOMIC
    SELECT v.* FROM (VALUES
      ('audit_policy_missing', 'INFO', 'No policy says which reads are recorded',
       'Acts are always recorded; reads of raw events only where tally.set_audit_policy() says so.'),
      ('audit_reads_off', 'INFO', 'Reads are not recorded',
       'Nobody can tell afterwards who read a tenant''s events.'),
      ('audit_not_sealed', 'WARN', 'Entries of the audit log wait for their seal',
       'What isn''t sealed can be changed without a trace. The worker or maintain() seals, once no older transaction runs.'),
      ('audit_not_anchored', 'WARN', 'No anchor of the audit log was taken for a week',
       'A database alone can''t show that its superuser made its hashes anew: an anchor that is kept elsewhere can.'),
      ('audit_unguarded', 'ERROR', 'A table of the audit log does not refuse changes',
       'Its triggers refuse UPDATE, DELETE and TRUNCATE, also to pg_tally''s own functions.'),
      ('audit_readable', 'ERROR', 'The audit log''s tables may be read past their view',
       'The view tally.audit shows a tenant its own entries; the tables have everybody''s.')
    ) AS v (name, level, title, description);
  END;
COMMENT ON FUNCTION tally_internal.rules_audit() IS 'the rules of tally_internal.lint_audit()';
REVOKE ALL ON FUNCTION tally_internal.rules_audit() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tally_internal.rules_audit() TO tally_admin, tally_auditor;
