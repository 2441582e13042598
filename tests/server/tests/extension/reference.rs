//! The SQL reference is what is installed, and what is installed is declared with care.

use postgres::Client;
use std::fmt::Write;
use tally_server_tests::Database;

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/sql-reference.md");

fn section(out: &mut String, client: &mut Client, title: &str, header: &str, query: &str) {
    write!(out, "\n## {title}\n\n{header}\n").unwrap();
    let columns = header.matches('|').count() - 1;
    writeln!(out, "|{}", " --- |".repeat(columns)).unwrap();
    for row in client.query(query, &[]).unwrap() {
        let cells: Vec<String> =
            (0..columns).map(|column| row.get::<_, Option<String>>(column).unwrap_or_default()).collect();
        writeln!(out, "| {} |", cells.join(" | ")).unwrap();
    }
}

fn reference(client: &mut Client) -> String {
    let mut out = String::from(
        "# SQL reference\n\nWritten from an installed database by `make reference`; a test compares the two.\n\
         *Who*: the roles that may use it; PUBLIC is everybody.\n",
    );
    let who = |kind: &str, object: &str| {
        format!(
            "(SELECT string_agg(DISTINCT CASE WHEN a.grantee = 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END, ', ')
              FROM aclexplode(coalesce({object}acl, acldefault('{kind}', {object}owner))) AS a
              WHERE a.grantee <> {object}owner)"
        )
    };
    let functions = |kinds: &str| {
        format!(
            "SELECT '`' || p.proname || coalesce(l.way[1], '(' || pg_get_function_arguments(p.oid) || ')') || '`',
                    '`' || pg_get_function_result(p.oid) || '`', coalesce(l.way[2], l.line), {}
             FROM pg_proc AS p
             -- Each further line of a comment tells of another way to call the function: its arguments and what it does then.
             CROSS JOIN LATERAL (SELECT s.line, s.place, regexp_match(s.line, '^(\\(.*?\\)): (.*)$') AS way
                                   FROM string_to_table(obj_description(p.oid, 'pg_proc'), E'\\n') WITH ORDINALITY AS s (line, place)) AS l
             WHERE p.pronamespace = 'tally'::regnamespace AND p.prokind IN ({kinds})
             ORDER BY p.proname, pg_get_function_identity_arguments(p.oid), l.place",
            who("f", "p.pro")
        )
    };
    section(
        &mut out,
        client,
        "Functions",
        "| function | returns | what it does | who |",
        &functions("'f', 'p'"),
    );
    section(
        &mut out,
        client,
        "Aggregates",
        "| aggregate | returns | what it does | who |",
        &functions("'a'"),
    );
    section(
        &mut out,
        client,
        "Types",
        "| type | what it is |",
        "SELECT '`' || typname || '`', obj_description(oid, 'pg_type') FROM pg_type
         WHERE typnamespace = 'tally'::regnamespace AND typtype = 'b' AND typelem = 0 ORDER BY 1",
    );
    for (title, kinds) in [("Views", "'v'"), ("Tables", "'r', 'p'")] {
        let query = format!(
            "SELECT '`' || c.relname || '`', obj_description(c.oid, 'pg_class'), {} FROM pg_class AS c
             WHERE c.relnamespace = 'tally'::regnamespace AND c.relkind IN ({kinds}) ORDER BY 1",
            who("r", "c.rel")
        );
        section(&mut out, client, title, "| name | what it shows | who |", &query);
    }
    section(
        &mut out,
        client,
        "Columns",
        "| table or view | column | type | meaning |",
        "SELECT '`' || c.relname || '`', '`' || a.attname || '`', format_type(a.atttypid, a.atttypmod),
                col_description(c.oid, a.attnum)
         FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
         WHERE c.relnamespace = 'tally'::regnamespace AND c.relkind IN ('r', 'p', 'v')
           AND col_description(c.oid, a.attnum) IS NOT NULL
         ORDER BY c.relname, a.attnum",
    );
    section(
        &mut out,
        client,
        "Settings",
        "| setting | default | unit | what it does |",
        "SELECT '`' || name || '`', boot_val, unit, short_desc || ' ' || extra_desc FROM pg_settings
         WHERE name LIKE 'tally.%' AND name <> 'tally.scope' ORDER BY name",
    );
    // Settings that no list of settings shows.
    for (name, what) in [
        ("key_command", "a program that gives the keys with which the keys of protected data are encrypted"),
        ("key_file", "a file that has them"),
    ] {
        let value: Option<String> =
            client.query_one(&format!("SELECT current_setting('tally.{name}', true)"), &[]).unwrap().get(0);
        assert!(value.is_some(), "tally.{name} is no setting");
        writeln!(out, "| `tally.{name}` |  |  | {what}: PRIVACY.md. Superusers alone are shown it, with `SHOW tally.{name}`. |").unwrap();
    }
    out
}

#[test]
fn the_reference_is_what_is_installed() {
    let database = Database::new("reference");
    let mut client = database.superuser();
    client.batch_execute("LOAD 'pg_tally'").unwrap();
    let installed = reference(&mut client);
    if std::env::var_os("TALLY_WRITE_REFERENCE").is_some() {
        std::fs::write(FILE, &installed).unwrap();
    }
    let written = std::fs::read_to_string(FILE).unwrap_or_default();
    let differs = installed.lines().zip(written.lines().chain(std::iter::repeat(""))).find(|(a, b)| a != b);
    assert!(
        installed == written,
        "docs/sql-reference.md is stale; `make reference` writes it. First: {differs:#?}"
    );
}

/// Names behind `tally.` in documents that nothing installed has: what the documents' own examples make, a setting that nobody is shown,
/// the beginnings of names, and what is said not to be there.
const OTHER_NAMES: [&str; 9] = [
    "scope",
    "reports_month",
    "reports_day_state",
    "own",
    "pem",
    "distribute",
    "detached_events_",
    "events_p",
    "sensitive_",
];

/// The documents that users read, with what they contain.
fn documents() -> Vec<(String, String)> {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
    let in_folder = |folder: &str| {
        let files = std::fs::read_dir(format!("{root}/{folder}")).unwrap();
        files.map(|file| file.unwrap().path()).collect::<Vec<_>>()
    };
    let mut files = in_folder("docs");
    files.extend(in_folder("docs/runbooks"));
    files.extend(in_folder("integrations/dbt"));
    files.push(format!("{root}/README.md").into());
    files.retain(|file| file.extension().is_some_and(|extension| extension == "md"));
    let text = |file: &std::path::PathBuf| std::fs::read_to_string(file).unwrap();
    files.iter().map(|file| (file.display().to_string(), text(file))).collect()
}

#[test]
fn what_documents_name_is_there() {
    let database = Database::new("named");
    let mut client = database.superuser();
    client.batch_execute("LOAD 'pg_tally'").unwrap();
    let installed = "SELECT proname::text FROM pg_proc WHERE pronamespace IN ('tally'::regnamespace, 'tally_internal'::regnamespace)
          UNION SELECT relname FROM pg_class WHERE relnamespace IN ('tally'::regnamespace, 'tally_internal'::regnamespace)
          UNION SELECT typname FROM pg_type WHERE typnamespace IN ('tally'::regnamespace, 'tally_internal'::regnamespace)
          UNION SELECT n FROM unnest(ARRAY['key_file', 'key_command']) AS n WHERE current_setting('tally.' || n, true) IS NOT NULL
          UNION SELECT substr(name, 7) FROM pg_settings WHERE name LIKE 'tally.%'";
    let rows = client.query(installed, &[]).unwrap();
    let installed: std::collections::BTreeSet<String> = rows.iter().map(|row| row.get(0)).collect();
    let mut named = 0;
    for (file, text) in documents() {
        for place in ["tally.", "tally_internal."].iter().flat_map(|schema| {
            text.match_indices(schema).map(|(at, found)| (at, at + found.len())).collect::<Vec<_>>()
        }) {
            if text[..place.0].ends_with(|before: char| before.is_alphanumeric() || "_/-.".contains(before)) {
                continue;
            }
            let rest = &text[place.1..];
            let end = rest.find(|c: char| !c.is_ascii_lowercase() && !c.is_ascii_digit() && c != '_');
            let name = &rest[..end.unwrap_or(rest.len())];
            let is_it = |other: &str| name == other || other.ends_with(['_', 'p']) && name.starts_with(other);
            named += usize::from(!name.is_empty());
            let is_other = name.is_empty() || OTHER_NAMES.iter().any(|other| is_it(other));
            assert!(is_other || installed.contains(name), "{file}: tally.{name} isn't installed");
        }
    }
    assert!(named > 300, "{named} names");
}

/// What a query finds, one line each; the tests below want none.
fn offenders(query: &str) -> Vec<String> {
    Database::new("offenders").superuser().query(query, &[]).unwrap().iter().map(|row| row.get(0)).collect()
}

#[test]
fn everything_has_a_comment() {
    let found = offenders(
        "SELECT 'function ' || oid::regprocedure FROM pg_proc
           WHERE pronamespace IN ('tally'::regnamespace, 'tally_internal'::regnamespace) AND obj_description(oid, 'pg_proc') IS NULL
         UNION ALL SELECT 'type ' || typname FROM pg_type
           WHERE typnamespace IN ('tally'::regnamespace, 'tally_internal'::regnamespace) AND typtype = 'b' AND typelem = 0
             AND obj_description(oid, 'pg_type') IS NULL
         UNION ALL SELECT 'relation ' || relname FROM pg_class
           WHERE relnamespace IN ('tally'::regnamespace, 'tally_internal'::regnamespace) AND relkind IN ('r', 'p', 'v')
             AND obj_description(oid, 'pg_class') IS NULL
         UNION ALL SELECT 'column ' || c.relname || '.' || a.attname
           FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
           WHERE c.relnamespace IN ('tally'::regnamespace, 'tally_internal'::regnamespace) AND c.relkind IN ('r', 'p', 'v')
             AND c.relname !~ '_(base|pending)$' AND NOT c.relispartition AND col_description(c.oid, a.attnum) IS NULL",
    );
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn functions_say_what_they_may_be_used_for() {
    // Whoever elevates has a fixed search path; nothing that writes is parallel safe or less than volatile; everything
    // that PUBLIC may execute is immutable and takes a sketch, an event, or a plain value.
    let found = offenders(
        "SELECT 'elevated without a path: ' || oid::regprocedure FROM pg_proc
           WHERE pronamespace IN ('tally'::regnamespace, 'tally_internal'::regnamespace) AND prosecdef
             AND NOT coalesce(array_to_string(proconfig, ',') LIKE '%search_path=pg_catalog, pg_temp%', false)
         UNION ALL SELECT 'volatile but parallel safe: ' || oid::regprocedure FROM pg_proc
           WHERE pronamespace IN ('tally'::regnamespace, 'tally_internal'::regnamespace) AND provolatile = 'v' AND proparallel <> 'u'
         UNION ALL SELECT 'PUBLIC may execute: ' || oid::regprocedure FROM pg_proc
           WHERE pronamespace IN ('tally'::regnamespace, 'tally_internal'::regnamespace) AND provolatile <> 'i'
             AND has_function_privilege('public', oid, 'EXECUTE')
         UNION ALL SELECT 'PUBLIC may use: ' || relname FROM pg_class
           WHERE relnamespace IN ('tally'::regnamespace, 'tally_internal'::regnamespace) AND relkind IN ('r', 'p', 'v', 'S', 'm')
             AND has_table_privilege('public', oid, 'SELECT, INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER')",
    );
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn every_table_with_a_tenant_has_forced_row_security() {
    // Tables of the audit log are granted to nobody, which privileges.txt shows: who reads it reads a view or a function of its owner's.
    let found = offenders(
        "SELECT c.relname FROM pg_class AS c
         JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attname = 'tenant_id'
         WHERE c.relnamespace IN ('tally'::regnamespace, 'tally_internal'::regnamespace) AND c.relkind IN ('r', 'p') AND c.relname NOT IN ('role_binding', 'tenant_limit', 'retention', 'tenant_horizon', 'slo_target', 'export', 'export_policy',
                'protection', 'privacy_key', 'privacy_renewal')
           AND c.relname !~ '^audit_'
           AND NOT (c.relrowsecurity AND c.relforcerowsecurity
                    AND (SELECT count(*) FROM pg_policy AS p WHERE p.polrelid = c.oid) = 3
                    AND pg_get_userbyid(c.relowner) = CASE c.relname WHEN 'tenant' THEN 'tally_security' ELSE 'tally_owner' END)",
    );
    assert!(found.is_empty(), "{found:#?}");
}
