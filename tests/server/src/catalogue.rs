//! What a database contains, in words that don't depend on oids or on the order of making: two databases that print the
//! same lines are the same to every user.

use postgres::Client;
use std::collections::BTreeMap;

/// One line an object: relations, columns, constraints, indexes, policies, views, functions, types, operators, casts,
/// privileges, comments, partition bounds, and what belongs to the extension. Of the schemas named, and the roles.
const OBJECTS: &str = r#"
WITH space AS (SELECT oid, nspname FROM pg_namespace WHERE nspname = ANY ($1)),
relation AS (SELECT c.*, s.nspname || '.' || c.relname AS name FROM pg_class AS c JOIN space AS s ON s.oid = c.relnamespace
              WHERE c.relkind IN ('r', 'p', 'v', 'S', 'm')),
acl AS (SELECT string_agg(format('%s=%s%s', CASE WHEN a.grantee = 0 THEN 'PUBLIC' ELSE pg_get_userbyid(a.grantee) END,
                  a.privilege_type, CASE WHEN a.is_grantable THEN '*' END), ',' ORDER BY a.grantee = 0, pg_get_userbyid(a.grantee), a.privilege_type) AS text, o.class, o.id
          FROM (SELECT 'pg_class'::regclass AS class, r.oid AS id, coalesce(r.relacl, acldefault(CASE r.relkind WHEN 'S' THEN 's' ELSE 'r' END::"char", r.relowner)) AS acl FROM relation AS r
                UNION ALL SELECT 'pg_proc'::regclass, p.oid, coalesce(p.proacl, acldefault('f', p.proowner)) FROM pg_proc AS p JOIN space AS s ON s.oid = p.pronamespace
                UNION ALL SELECT 'pg_type'::regclass, t.oid, coalesce(t.typacl, acldefault('T', t.typowner)) FROM pg_type AS t JOIN space AS s ON s.oid = t.typnamespace
                UNION ALL SELECT 'pg_namespace'::regclass, n.oid, coalesce(n.nspacl, acldefault('n', n.nspowner)) FROM pg_namespace AS n JOIN space AS s USING (oid)) AS o,
               aclexplode(o.acl) AS a GROUP BY o.class, o.id)
SELECT 'relation', name, concat_ws(' ', relkind, pg_get_userbyid(relowner), relrowsecurity, relforcerowsecurity, relpersistence,
       array_to_string(reloptions, ','), pg_get_expr(relpartbound, oid), pg_get_partkeydef(oid),
       (SELECT string_agg(i.inhparent::regclass::text, ',') FROM pg_inherits AS i WHERE i.inhrelid = relation.oid)) FROM relation
UNION ALL SELECT 'privileges', pg_describe_object(class, id, 0), text FROM acl
UNION ALL SELECT 'column', r.name || '.' || a.attname, concat_ws(' ', CASE WHEN r.relkind <> 'p' THEN a.attnum END,
       format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attstorage, a.attidentity, a.attgenerated,
       CASE WHEN a.attcollation <> 0 THEN a.attcollation::regcollation END, pg_get_expr(d.adbin, d.adrelid), a.attacl::text)
     FROM relation AS r JOIN pg_attribute AS a ON a.attrelid = r.oid AND a.attnum > 0 AND NOT a.attisdropped
     LEFT JOIN pg_attrdef AS d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
UNION ALL SELECT 'constraint', r.name || '.' || c.conname, pg_get_constraintdef(c.oid) || c.convalidated
     FROM relation AS r JOIN pg_constraint AS c ON c.conrelid = r.oid
UNION ALL SELECT 'index', r.name, pg_get_indexdef(i.indexrelid) || i.indisvalid FROM relation AS r JOIN pg_index AS i ON i.indrelid = r.oid
UNION ALL SELECT 'policy', r.name || '.' || p.polname, concat_ws(' ', p.polcmd, p.polpermissive, pg_get_expr(p.polqual, p.polrelid), pg_get_expr(p.polwithcheck, p.polrelid),
       (SELECT string_agg(CASE WHEN u = 0 THEN 'PUBLIC' ELSE pg_get_userbyid(u) END, ',' ORDER BY CASE WHEN u = 0 THEN 'PUBLIC' ELSE pg_get_userbyid(u) END) FROM unnest(p.polroles) AS u))
     FROM relation AS r JOIN pg_policy AS p ON p.polrelid = r.oid
UNION ALL SELECT 'view', r.name, pg_get_viewdef(r.oid) FROM relation AS r WHERE r.relkind IN ('v', 'm')
UNION ALL SELECT 'trigger', r.name || '.' || t.tgname, pg_get_triggerdef(t.oid) || t.tgenabled::text FROM relation AS r JOIN pg_trigger AS t ON t.tgrelid = r.oid AND NOT t.tgisinternal
UNION ALL SELECT 'sequence', r.name, concat_ws(' ', q.seqtypid::regtype, q.seqstart, q.seqincrement, q.seqmax, q.seqmin, q.seqcycle) FROM relation AS r JOIN pg_sequence AS q ON q.seqrelid = r.oid
UNION ALL SELECT 'function', p.oid::regprocedure::text, concat_ws(' ', pg_get_userbyid(p.proowner),
       CASE WHEN p.prokind <> 'a' THEN pg_get_functiondef(p.oid) END,
       (SELECT row(a.aggtransfn, a.aggfinalfn, a.aggcombinefn, a.aggserialfn, a.aggdeserialfn, a.aggtranstype::regtype, a.agginitval, a.aggkind)::text FROM pg_aggregate AS a WHERE a.aggfnoid = p.oid))
     FROM pg_proc AS p JOIN space AS s ON s.oid = p.pronamespace
UNION ALL SELECT 'type', format_type(t.oid, NULL), row(t.typlen, t.typbyval, t.typtype, t.typcategory, t.typinput, t.typoutput, t.typreceive, t.typsend, t.typalign, t.typstorage, pg_get_userbyid(t.typowner))::text
     FROM pg_type AS t JOIN space AS s ON s.oid = t.typnamespace WHERE t.typtype IN ('b', 'd', 'e', 'r')
UNION ALL SELECT 'operator', o.oid::regoperator::text, row(o.oprcode, o.oprrest, o.oprjoin, o.oprcanmerge, o.oprcanhash, o.oprcom::regoperator, o.oprnegate::regoperator)::text
     FROM pg_operator AS o JOIN space AS s ON s.oid = o.oprnamespace
UNION ALL SELECT 'operator class', s.nspname || '.' || o.opcname, row(o.opcintype::regtype, o.opcdefault, o.opcmethod)::text FROM pg_opclass AS o JOIN space AS s ON s.oid = o.opcnamespace
UNION ALL SELECT 'cast', format('%s to %s', c.castsource::regtype, c.casttarget::regtype), row(c.castfunc::regprocedure, c.castcontext, c.castmethod)::text
     FROM pg_cast AS c JOIN pg_type AS t ON t.oid = c.castsource OR t.oid = c.casttarget JOIN space AS s ON s.oid = t.typnamespace
UNION ALL SELECT 'comment', pg_describe_object(d.classoid, d.objoid, d.objsubid), d.description FROM pg_description AS d
     WHERE (d.classoid = 'pg_class'::regclass AND d.objoid IN (SELECT oid FROM relation))
        OR (d.classoid = 'pg_proc'::regclass AND d.objoid IN (SELECT p.oid FROM pg_proc AS p JOIN space AS s ON s.oid = p.pronamespace))
        OR (d.classoid = 'pg_type'::regclass AND d.objoid IN (SELECT t.oid FROM pg_type AS t JOIN space AS s ON s.oid = t.typnamespace))
        OR (d.classoid = 'pg_namespace'::regclass AND d.objoid IN (SELECT oid FROM space))
UNION ALL SELECT 'member', pg_describe_object(d.classid, d.objid, d.objsubid), e.extname
     FROM pg_depend AS d JOIN pg_extension AS e ON e.oid = d.refobjid
     WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e' AND e.extname = 'pg_tally'
UNION ALL SELECT 'dumped', c.id::regclass::text, c.condition FROM pg_extension AS e, unnest(e.extconfig, e.extcondition) AS c (id, condition) WHERE e.extname = 'pg_tally'
UNION ALL SELECT 'role', r.rolname, concat_ws(' ', r.rolcanlogin, r.rolsuper, r.rolbypassrls, r.rolcreaterole, array_to_string(r.rolconfig, ','),
       (SELECT string_agg(pg_get_userbyid(m.roleid), ',' ORDER BY pg_get_userbyid(m.roleid)) FROM pg_auth_members AS m WHERE m.member = r.oid))
     FROM pg_roles AS r WHERE r.rolname !~ '^pg_' AND $2
"#;

/// Lines that describe every object of the schemas, and where asked the cluster's roles.
pub fn describe(client: &mut Client, schemas: &[&str], roles: bool) -> Vec<String> {
    client.batch_execute("SET search_path = pg_catalog").expect("a search path");
    let rows = client.query(OBJECTS, &[&schemas, &roles]).expect("the catalogue can be read");
    client.batch_execute("RESET search_path").expect("a search path");
    let mut lines: Vec<String> = rows
        .iter()
        .map(|row| {
            let detail: Option<String> = row.get(2);
            format!(
                "{} {}: {}",
                row.get::<_, String>(0),
                row.get::<_, String>(1),
                detail.unwrap_or_default().trim()
            )
        })
        .collect();
    lines.sort();
    lines
}

/// Number of rows and a digest of them all, by table and sequence, whatever order they lie in. Read as the superuser.
pub fn contents(client: &mut Client, schemas: &[&str]) -> BTreeMap<String, String> {
    let names = client
        .query(
            "SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
              WHERE n.nspname = ANY ($1) AND c.relkind IN ('r', 'S')",
            &[&schemas],
        )
        .expect("the catalogue can be read");
    names
        .iter()
        .map(|row| {
            let name: String = row.get(0);
            let digest = client.query_one(
                &format!("SELECT count(*) || ' ' || coalesce(md5(string_agg(t::text, E'\\n' ORDER BY t::text COLLATE \"C\")), '') FROM {name} AS t"),
                &[],
            );
            (name, digest.expect("the superuser reads every table").get(0))
        })
        .collect()
}

/// Fails with the lines that only one side has.
pub fn assert_same(what: &str, left: &[String], right: &[String]) {
    let only = |these: &[String], those: &[String]| -> Vec<String> {
        these.iter().filter(|line| !those.contains(line)).cloned().collect()
    };
    let (missing, added) = (only(left, right), only(right, left));
    assert!(
        missing.is_empty() && added.is_empty(),
        "{what}: only before {missing:#?}, only after {added:#?}"
    );
}
