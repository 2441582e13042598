-- What default privileges gave on pg_tally's objects when they were made: neither this script nor an upgrade means it.
DO $$
DECLARE
  given record;
BEGIN
  FOR given IN
    SELECT DISTINCT o.kind, o.name, CASE WHEN a.grantee OPERATOR(pg_catalog.=) 0 THEN 'PUBLIC' ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(a.grantee)) END AS who
      FROM (
        SELECT 'TABLE', c.oid::pg_catalog.regclass::pg_catalog.text, c.relowner, c.relacl, CASE c.relkind WHEN 'S' THEN 'S' ELSE 'r' END
          FROM pg_catalog.pg_class AS c WHERE c.relnamespace OPERATOR(pg_catalog.=) ANY (ARRAY['tally', 'tally_internal']::pg_catalog.regnamespace[]::pg_catalog.oid[])
        UNION ALL
        SELECT 'ROUTINE', p.oid::pg_catalog.regprocedure::pg_catalog.text, p.proowner, p.proacl, 'f'
          FROM pg_catalog.pg_proc AS p WHERE p.pronamespace OPERATOR(pg_catalog.=) ANY (ARRAY['tally', 'tally_internal']::pg_catalog.regnamespace[]::pg_catalog.oid[])
        UNION ALL
        SELECT 'TYPE', t.oid::pg_catalog.regtype::pg_catalog.text, t.typowner, t.typacl, 'T'
          FROM pg_catalog.pg_type AS t WHERE t.typnamespace OPERATOR(pg_catalog.=) ANY (ARRAY['tally', 'tally_internal']::pg_catalog.regnamespace[]::pg_catalog.oid[])
        UNION ALL
        SELECT 'SCHEMA', n.nspname::pg_catalog.text, n.nspowner, n.nspacl, 'n'
          FROM pg_catalog.pg_namespace AS n WHERE n.nspname OPERATOR(pg_catalog.=) ANY (ARRAY['tally', 'tally_internal']::pg_catalog.name[])
      ) AS o (kind, name, owner, acl, of_type)
      CROSS JOIN LATERAL pg_catalog.aclexplode(o.acl) AS a
     WHERE a.grantee OPERATOR(pg_catalog.<>) o.owner
       -- PUBLIC may use the schema and its types, and execute their pure functions; all else is revoked by name.
       AND NOT (a.grantee OPERATOR(pg_catalog.=) 0 AND o.of_type OPERATOR(pg_catalog.=) ANY (ARRAY['f', 'T', 'n']))
       AND NOT pg_catalog.pg_get_userbyid(a.grantee) OPERATOR(pg_catalog.=) ANY (ARRAY['tally_owner', 'tally_security', 'tally_evaluator',
             'tally_admin', 'tally_writer', 'tally_reader', 'tally_analyst', 'tally_auditor', 'tally_custodian']::pg_catalog.name[])
       AND EXISTS (SELECT FROM pg_catalog.pg_default_acl AS d, pg_catalog.aclexplode(d.defaclacl) AS x
                    WHERE d.defaclobjtype OPERATOR(pg_catalog.=) o.of_type::pg_catalog."char" AND x.grantee OPERATOR(pg_catalog.=) a.grantee
                      AND (d.defaclnamespace OPERATOR(pg_catalog.=) 0 OR d.defaclnamespace OPERATOR(pg_catalog.=) ANY (ARRAY['tally', 'tally_internal']::pg_catalog.regnamespace[]::pg_catalog.oid[])))
  LOOP
    EXECUTE pg_catalog.format('REVOKE ALL ON %s %s FROM %s CASCADE', given.kind, given.name, given.who);
  END LOOP;
END
$$;
