//! Who may do what with every object that the extension makes is what a checked-in list says.

use tally_server_tests::Database;

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../privileges.txt");

/// One line an object and grantee; owners, elevated functions and memberships, too. What an owner may do anyway isn't
/// listed.
const QUERY: &str = "
    WITH granted (object, owner, acl) AS (
      SELECT 'schema ' || nspname, nspowner, coalesce(nspacl, acldefault('n', nspowner))
        FROM pg_namespace WHERE nspname IN ('tally', 'tally_internal')
      UNION ALL
      SELECT CASE WHEN p.prosecdef THEN 'elevated ' ELSE '' END || CASE p.prokind WHEN 'a' THEN 'aggregate ' WHEN 'p' THEN
               'procedure ' ELSE 'function ' END || p.oid::regprocedure, p.proowner, coalesce(p.proacl, acldefault('f', p.proowner))
        FROM pg_proc AS p WHERE p.pronamespace IN ('tally'::regnamespace, 'tally_internal'::regnamespace)
      UNION ALL
      SELECT CASE c.relkind WHEN 'v' THEN 'view ' WHEN 'S' THEN 'sequence ' ELSE 'table ' END || CASE WHEN c.relnamespace = 'tally_internal'::regnamespace THEN 'tally_internal.' ELSE '' END || c.relname, c.relowner,
             coalesce(c.relacl, acldefault(CASE c.relkind WHEN 'S' THEN 's'::\"char\" ELSE 'r' END, c.relowner))
        FROM pg_class AS c WHERE c.relnamespace IN ('tally'::regnamespace, 'tally_internal'::regnamespace) AND c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f')
      UNION ALL
      SELECT 'column ' || c.relname || '.' || a.attname, c.relowner, a.attacl
        FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid
       WHERE c.relnamespace IN ('tally'::regnamespace, 'tally_internal'::regnamespace) AND a.attacl IS NOT NULL
      UNION ALL
      SELECT 'type ' || t.typname, t.typowner, coalesce(t.typacl, acldefault('T', t.typowner))
        FROM pg_type AS t WHERE t.typnamespace IN ('tally'::regnamespace, 'tally_internal'::regnamespace) AND t.typtype = 'b' AND t.typelem = 0
    )
    SELECT format('%s (%s): %s', g.object, g.owner::regrole, coalesce(string_agg(x.line, '; ' ORDER BY x.line), 'nobody'))
      FROM granted AS g
      LEFT JOIN LATERAL (
        SELECT CASE WHEN e.grantee = 0 THEN 'PUBLIC' ELSE e.grantee::regrole::text END || ' '
                 || string_agg(e.privilege_type || CASE WHEN e.is_grantable THEN '*' ELSE '' END, ',' ORDER BY e.privilege_type) AS line
          FROM aclexplode(g.acl) AS e WHERE e.grantee <> g.owner GROUP BY e.grantee
      ) AS x ON true
     GROUP BY g.object, g.owner
    UNION ALL
    SELECT format('membership: %s in %s%s', m.member::regrole, m.roleid::regrole, CASE WHEN m.admin_option THEN ' with admin option' ELSE '' END)
      FROM pg_auth_members AS m
     WHERE m.roleid::regrole::text LIKE 'tally\\_%' AND m.member::regrole::text LIKE 'tally\\_%'
     ORDER BY 1";

#[test]
fn the_reference_of_privileges_is_what_is_installed() {
    let database = Database::new("privileges");
    let mut client = database.superuser();
    let lines: Vec<String> = client.query(QUERY, &[]).unwrap().iter().map(|row| row.get(0)).collect();
    let installed = lines.join("\n") + "\n";
    if std::env::var_os("TALLY_WRITE_REFERENCE").is_some() {
        std::fs::write(FILE, &installed).unwrap();
    }
    let written = std::fs::read_to_string(FILE).unwrap_or_default();
    let missing: Vec<&str> = written.lines().filter(|line| !lines.iter().any(|new| new == line)).collect();
    let new: Vec<&String> =
        lines.iter().filter(|line| !written.lines().any(|old| old == line.as_str())).collect();
    assert!(
        installed == written,
        "tests/privileges.txt is stale; `make reference` writes it. New: {new:#?}; gone: {missing:#?}"
    );
    // What no list may say.
    for line in &lines {
        let (object, _) = line.split_once(':').unwrap();
        let public = line.contains("PUBLIC ");
        let is_data = ["table ", "view ", "column ", "sequence ", "elevated "]
            .iter()
            .any(|kind| object.starts_with(kind));
        assert!(!(public && is_data), "{line}");
        assert!(
            !line.contains('*') || line.starts_with("aggregate") || line.contains("(*)"),
            "grant option: {line}"
        );
        let writes = ["INSERT", "UPDATE", "DELETE", "TRUNCATE", "TRIGGER", "REFERENCES"];
        let may_write = is_data && writes.iter().any(|privilege| line.contains(privilege));
        // COPY's door is a view whose triggers ingest.
        assert!(!may_write || line.starts_with("view inbox"), "{line}");
    }
}

/// PUBLIC executes pure functions of the types: immutable, of C or SQL, and reaching no table.
#[test]
fn public_executes_pure_functions_of_the_types_alone() {
    let found: Vec<String> = Database::new("pure")
        .superuser()
        .query(
            "SELECT p.oid::regprocedure || '' FROM pg_proc AS p JOIN pg_language AS l ON l.oid = p.prolang
              WHERE p.pronamespace IN ('tally'::regnamespace, 'tally_internal'::regnamespace) AND has_function_privilege('public', p.oid, 'EXECUTE')
                AND (p.provolatile <> 'i' OR p.prosecdef OR l.lanname NOT IN ('c', 'sql', 'internal')
                  OR EXISTS (SELECT FROM pg_depend AS d WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid
                              AND d.refclassid = 'pg_class'::regclass))",
            &[],
        )
        .unwrap()
        .iter()
        .map(|row| row.get(0))
        .collect();
    assert!(found.is_empty(), "{found:#?}");
}

/// How a member of each group role comes to what it reads, apart from all others: nothing is entered, a tenant's scope, or the global one.
const WAYS: [(&str, &[&str]); 6] = [
    ("tally_auditor", &[""]),
    ("tally_reader", &["bound"]),
    ("tally_writer", &["bound"]),
    ("tally_custodian", &["bound"]),
    ("tally_analyst", &["", "SELECT tally.enter_global()", "SELECT tally.enter('acme')"]),
    ("tally_admin", &["", "SELECT tally.enter_global()", "SELECT tally.enter('acme')"]),
];

/// A privilege that row security makes worthless would be a lie: each table and view that a group role may read, in the columns that
/// it may, it reads in a scope that it comes into, and what refuses it elsewhere is the lack of a scope, not of a right.
#[test]
fn what_a_group_role_is_granted_it_can_read() {
    let mut database = Database::new("granted");
    let mut superuser = database.superuser();
    let (mut asked, mut wrong) = (0, Vec::new());
    for (group, ways) in WAYS {
        let login = database.role(group, &[group]);
        if ways.contains(&"bound") {
            superuser.execute("SELECT tally.bind_role($1::text::regrole, 'acme')", &[&login]).unwrap();
        }
        let granted = superuser
            .query(
                "SELECT c.oid::regclass::text, string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum)
                   FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
                  WHERE c.relnamespace IN ('tally'::regnamespace, 'tally_internal'::regnamespace) AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
                    AND has_column_privilege($1, c.oid, a.attnum, 'SELECT') AND has_schema_privilege($1, c.relnamespace, 'USAGE')
                  GROUP BY c.oid ORDER BY 1",
                &[&login],
            )
            .unwrap();
        let mut client = database.connect(&login);
        for row in granted {
            let (relation, columns): (String, String) = (row.get(0), row.get(1));
            let refusals: Vec<String> = ways
                .iter()
                .filter_map(|way| {
                    let mut transaction = client.transaction().unwrap();
                    if way.starts_with("SELECT") {
                        transaction.batch_execute(way).unwrap();
                    }
                    // A sketch is read, and printed to nobody.
                    let query =
                        format!("SELECT count(*) FROM (SELECT {columns} FROM {relation} OFFSET 0) AS read");
                    transaction.simple_query(&query).err().map(|error| {
                        error
                            .as_db_error()
                            .map_or_else(|| error.to_string(), |told| told.message().to_owned())
                    })
                })
                .collect();
            asked += 1;
            let lacks_a_right = refusals.iter().any(|refusal| refusal.starts_with("permission denied"));
            if lacks_a_right || refusals.len() == ways.len() {
                wrong.push(format!("{group}: {relation}: {refusals:?}"));
            }
        }
    }
    assert!(asked > 150, "{asked}");
    assert!(wrong.is_empty(), "{} of {asked}:\n{}", wrong.len(), wrong.join("\n"));
}
