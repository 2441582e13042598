-- The record of processing and the facts that an impact assessment begins with, from what is installed.

CREATE FUNCTION tally.privacy_report(tenant_id text) RETURNS TABLE (section text, item text, detail text)
  LANGUAGE plpgsql STABLE PARALLEL UNSAFE CALLED ON NULL INPUT
  SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  own  text := tally.current_tenant();
  kept interval := (SELECT r.keep FROM tally.retention AS r WHERE r.tenant_id IN (privacy_report.tenant_id, '') ORDER BY r.tenant_id DESC LIMIT 1);
  reads text := (SELECT p.reads FROM tally.audit_policy AS p WHERE p.tenant_id IN (privacy_report.tenant_id, '') ORDER BY p.tenant_id DESC LIMIT 1);
BEGIN
  IF privacy_report.tenant_id IS NULL THEN
    RAISE EXCEPTION USING ERRCODE = 'null_value_not_allowed', MESSAGE = 'tenant_id must not be null',
      HINT = 'a report is about one tenant: name it';
  END IF;
  IF own <> privacy_report.tenant_id THEN
    RAISE EXCEPTION USING ERRCODE = 'insufficient_privilege', MESSAGE = 'this session acts for another tenant',
      HINT = 'enter the tenant''s scope, or the global one';
  END IF;
  RETURN QUERY
    SELECT 'data', 'users', format('%s users with %s events, from %s to %s', count(*), coalesce(sum(u.events), 0), min(u.first_seen), max(u.last_seen))
      FROM tally.users AS u WHERE u.tenant_id = privacy_report.tenant_id;
  RETURN QUERY VALUES
    ('data', 'events', 'user_id: who acted; session_id: in which session; occurred_at: when; properties: what the application sends (tally.find_personal_data() looks into them)'),
    ('data', 'quarantine', 'events that were not accepted, whole'),
    ('data', 'rollups', 'numbers by account and time; of users: days, sessions and counts by user_id; distinct counts as sketches under a secret key of the tenant');
  RETURN QUERY
    SELECT DISTINCT ON (s.name) 'purpose', s.name, format('version %s, by %s: %s', s.version, s.registered_by, s.reason)
      FROM tally.event_schema AS s ORDER BY s.name, s.version DESC;
  RETURN QUERY VALUES
    ('retention', 'raw events', coalesce(format('%s, by days (UTC)', kept), 'for ever')),
    ('retention', 'rollups', 'for ever'),
    ('retention', 'audit log', coalesce((SELECT r.keep::text FROM tally.audit_retention AS r), 'for ever'));
  RETURN QUERY
    SELECT 'access', b.role_name::text,
           CASE WHEN b.tenant_id IS NOT NULL THEN concat('bound to this tenant', ', account ' || b.account_id)
                WHEN b.needs_token THEN 'pool role: any tenant that a signed token names' WHEN b.is_global THEN 'every tenant, reading' ELSE 'trusted: any tenant' END
      FROM tally.role_binding AS b WHERE b.tenant_id IS NULL OR b.tenant_id = privacy_report.tenant_id ORDER BY 2;
  RETURN QUERY
    SELECT 'access', r.rolname::text, format('member of %s', string_agg(g.rolname, ', ' ORDER BY g.rolname))
      FROM pg_roles AS r JOIN pg_roles AS g ON g.rolname IN ('tally_admin', 'tally_analyst', 'tally_auditor') AND pg_has_role(r.oid, g.oid, 'MEMBER') AND r.oid <> g.oid
     WHERE r.rolcanlogin AND NOT r.rolsuper GROUP BY r.rolname ORDER BY 2;
  RETURN QUERY
    SELECT 'access', r.rolname::text, CASE WHEN r.rolsuper THEN 'superuser: everything' ELSE 'BYPASSRLS: everything that it is granted' END
      FROM pg_roles AS r WHERE r.rolcanlogin AND (r.rolsuper OR r.rolbypassrls) ORDER BY 2;
  RETURN QUERY
    SELECT 'recipients', p.pubname::text, format('publication with %s', string_agg(t.tablename, ', ' ORDER BY t.tablename))
      FROM pg_publication_tables AS t JOIN pg_publication AS p ON p.pubname = t.pubname WHERE t.schemaname = 'tally' GROUP BY p.pubname ORDER BY 2;
  RETURN QUERY
    SELECT 'rights', 'erasures', format('%s asked for, %s done, the longest took %s', count(*), count(x.finished_at), coalesce(max(x.finished_at - x.requested_at)::text, 'no time'))
      FROM tally.erasures AS x WHERE x.tenant_id = privacy_report.tenant_id;
  RETURN QUERY VALUES
    ('rights', 'access', 'tally.subject_report() has everything that is kept of a user'),
    ('measures', 'isolation', 'row security, forced, on every table of tenants; tally.lint() looks for ways around it'),
    ('measures', 'reads that are recorded', coalesce(reads, 'none')),
    ('measures', 'second factor for erasures', (SELECT CASE WHEN a.is_required THEN 'needed' ELSE 'not needed' END FROM tally.step_up_acts() AS a WHERE a.act = 'erase_subject'));
  RETURN QUERY
    SELECT 'measures', 'protected before it is stored',
           format('%s of %s: %s', CASE WHEN p.path = '' THEN 'user ids' ELSE p.path END, CASE WHEN p.event_name = '' THEN 'every event' ELSE p.event_name END,
                  CASE p.treatment WHEN 'drop' THEN 'dropped' WHEN 'token' THEN 'tokenised' ELSE 'sealed' END)
      FROM (SELECT DISTINCT ON (d.event_name, d.path) d.* FROM tally.protection AS d WHERE d.tenant_id IN (privacy_report.tenant_id, '')
             ORDER BY d.event_name, d.path, d.tenant_id DESC) AS p ORDER BY p.event_name, p.path;
  RETURN QUERY
    SELECT 'measures', 'keys', format('of its own, made %s, %s times rotated, last %s', k.made_at, k.newest - 1, coalesce(k.rotated_at::text, 'never'))
      FROM tally.privacy_key AS k WHERE k.tenant_id = privacy_report.tenant_id;
  IF EXISTS (SELECT FROM tally.privacy_renewal AS r WHERE r.tenant_id = privacy_report.tenant_id AND r.finished_at IS NULL) THEN
    RETURN QUERY VALUES ('risks', 'protection', 'what was stored before has not been carried over yet: tally.privacy_renewal says how far it is');
  END IF;
  RETURN QUERY
    SELECT 'risks', 'protection', format('rollup %s keeps user ids or tokens as they were before', l.rollup_name)
      FROM tally.privacy_renewal AS r CROSS JOIN LATERAL unnest(r.left_in) AS l (rollup_name) WHERE r.tenant_id = privacy_report.tenant_id ORDER BY 3;
  IF kept IS NULL THEN
    RETURN QUERY VALUES ('risks', 'retention', 'raw events are kept for ever: tally.set_retention()');
  END IF;
  IF coalesce(reads, 'none') = 'none' THEN
    RETURN QUERY VALUES ('risks', 'reads', 'nobody can say later who read raw events: tally.set_audit_policy()');
  END IF;
  IF EXISTS (SELECT FROM tally.erasures AS x WHERE x.tenant_id = privacy_report.tenant_id AND x.finished_at IS NULL AND x.requested_at < now() - interval '1 day') THEN
    RETURN QUERY VALUES ('risks', 'erasures', 'some wait for longer than a day: see that CALL tally.maintain() or the worker runs');
  END IF;
END
$$;
COMMENT ON FUNCTION tally.privacy_report(text) IS
  'for a tenant, what a record of processing (GDPR, article 30) and an impact assessment (article 35) ask for, as far as the database knows: personal data, purposes, retention, who has access, recipients, rights, measures and risks. In the tenant''s scope or the global one';
REVOKE ALL ON FUNCTION tally.privacy_report(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tally.privacy_report(text) TO tally_admin;
