-- Findings about exports and step-up: who needs nobody else, and what needs no second factor.

CREATE FUNCTION tally_internal.lint_export(OUT rule text, OUT type text, OUT schema text, OUT object text, OUT detail text, OUT fix text)
  RETURNS SETOF record
  LANGUAGE sql STABLE PARALLEL SAFE STRICT
  SET search_path = pg_catalog, pg_temp
  BEGIN ATOMIC
    WITH approver AS (
      SELECT DISTINCT l.oid AS id, l.rolname, g.rolname AS group_name
        FROM (SELECT r.approvers, r.approvers_role FROM tally.export_policy AS r WHERE r.approvals > 0
              UNION
              -- And of what no policy says anything: members of tally_admin.
              SELECT r.approvers, r.approvers_role
                FROM (SELECT '' UNION SELECT o.tenant_id FROM tally.export_policy AS o) AS t (tenant_id)
                CROSS JOIN pg_catalog.unnest('{aggregate,raw,personal}'::text[]) AS k (classification)
                CROSS JOIN LATERAL tally_internal.export_rule(t.tenant_id, k.classification, 0) AS r
               WHERE r.approvals > 0) AS p
        JOIN pg_catalog.pg_roles AS g ON g.oid = p.approvers_role AND g.rolname = p.approvers
        JOIN pg_catalog.pg_roles AS l ON l.rolcanlogin AND NOT l.rolsuper AND pg_catalog.pg_has_role(l.oid, g.oid, 'USAGE')
    )
    SELECT 'export_approver_alone', 'role', NULL::text, a.rolname::text,
           pg_catalog.format('role %I may approve exports, as a member of %I, and say who must, as a member of tally_admin: it needs nobody else', a.rolname, a.group_name),
           CASE a.group_name WHEN 'tally_admin' THEN 'name approvers who are no administrators, of aggregate, raw and personal, each: tally.set_export_policy(..., approvers => ...)'
                             ELSE pg_catalog.format('REVOKE %I FROM %I;', a.group_name, a.rolname) END
      FROM approver AS a WHERE pg_catalog.pg_has_role(a.id, 'tally_admin', 'MEMBER')
    UNION ALL
    SELECT 'export_approver_unmapped', 'role', NULL::text, a.rolname::text,
           pg_catalog.format('role %I may approve exports, and nothing says whose login it is', a.rolname),
           -- A person of the login's own name, unless it is somebody's who has others.
           pg_catalog.format('SELECT tally.map_person(%L, login => %L);', a.rolname, pg_catalog.quote_ident(a.rolname))
      FROM approver AS a
     WHERE EXISTS (SELECT FROM tally.person_identity AS p)
       AND NOT EXISTS (SELECT FROM tally.person_identity AS p WHERE p.login = a.id)
     GROUP BY a.rolname
    UNION ALL
    SELECT 'export_approvers_gone', 'role', NULL::text, p.approvers::text,
           pg_catalog.format('a policy of exports (%s, %s) names %I as approvers, and no role of that name is the one that it was: nobody may approve by it',
             p.classification, CASE p.tenant_id WHEN '' THEN 'every tenant' ELSE 'tenant ' || p.tenant_id END, p.approvers),
           pg_catalog.format('name a group that is there: tally.set_export_policy(%L, %s, tenant_id => %L, from_rows => %s, approvers => ...)', p.classification,
             p.approvals, nullif(p.tenant_id, ''), p.from_rows)
      FROM tally.export_policy AS p
     WHERE p.approvals > 0 AND NOT EXISTS (SELECT FROM pg_catalog.pg_roles AS g WHERE g.oid = p.approvers_role AND g.rolname = p.approvers)
    UNION ALL
    SELECT 'person_login_gone', 'role', NULL::text, pg_catalog.substr(p.identity, 7),
           CASE WHEN EXISTS (SELECT FROM pg_catalog.pg_roles AS r WHERE 'login ' || r.rolname = p.identity)
                THEN pg_catalog.format('role %I was mapped to a person and dropped; the one of this name is another, and nobody''s', pg_catalog.substr(p.identity, 7))
                ELSE pg_catalog.format('role %I was mapped to a person, and is gone', pg_catalog.substr(p.identity, 7)) END,
           pg_catalog.format('SELECT tally.map_person(NULL, login => ''%s'');', p.login::oid)
      FROM tally.person_identity AS p
     WHERE p.login::oid <> 0 AND NOT EXISTS (SELECT FROM pg_catalog.pg_roles AS r WHERE r.oid = p.login)
    UNION ALL
    SELECT 'step_up_switched_off', 'table', 'tally', 'step_up_policy', pg_catalog.format('act %L needs no second factor', p.act),
           pg_catalog.format('SELECT tally.set_step_up_policy(%L, true);', p.act)
      FROM tally.step_up_policy AS p WHERE NOT p.is_required AND p.act NOT IN ('binding', 'key', 'policy');
  END;
COMMENT ON FUNCTION tally_internal.lint_export() IS 'findings of tally.lint() about exports and step-up';

CREATE FUNCTION tally_internal.rules_export(OUT name text, OUT level text, OUT title text, OUT description text)
  RETURNS SETOF record ROWS 5
  LANGUAGE sql IMMUTABLE PARALLEL SAFE STRICT
  SET search_path = pg_catalog, pg_temp
  BEGIN ATOMIC
    SELECT v.* FROM (VALUES
      ('export_approver_alone', 'WARN', 'An approver of exports can also change who must approve',
       'Four eyes are two people: whoever approves should not say how many must.'),
      ('export_approver_unmapped', 'INFO', 'An approver of exports is mapped to no person',
       'What the same person requests under another login can be approved under this one.'),
      ('export_approvers_gone', 'WARN', 'The approvers of a policy of exports are gone',
       'Nobody may approve: a role that was renamed, or another one of the same name, is not the group that was meant.'),
      ('person_login_gone', 'INFO', 'A login that was mapped to a person was dropped',
       'A new login of the same name is somebody else until it is mapped, and may approve what that person requests.'),
      ('step_up_switched_off', 'WARN', 'A sensitive act needs no second factor',
       'Whoever takes over an open session can do it.')
    ) AS v (name, level, title, description);
  END;
COMMENT ON FUNCTION tally_internal.rules_export() IS 'the rules of tally_internal.lint_export()';
REVOKE ALL ON FUNCTION tally_internal.lint_export(), tally_internal.rules_export() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tally_internal.lint_export(), tally_internal.rules_export() TO tally_admin, tally_auditor;
