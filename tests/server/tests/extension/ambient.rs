//! Settings that a database, a role or a session has anyway: under each, the extension installs, takes events across the end of
//! a month, folds, maintains, lints, shows the same numbers, and is dumped and restored. docs/decisions/settings.md says which are
//! fixed and why no other matters.

use postgres::Client;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock};
use tally_server_tests::{
    Database, PrivateServer, Summary, assert_right, assert_same, bin_and_sockets, contents, describe,
    fold_all, ingest, number, of_this_major, seeded,
};

/// How many of these are set in one database, those of one test together; each alone with TALLY_SETTINGS=1.
fn together() -> usize {
    std::env::var("TALLY_SETTINGS").map_or(6, |text| text.parse().expect("a number of settings"))
}

/// What a database may have set. Statements that are sent under it must answer as they do without.
const SETTINGS: [&str; 61] = [
    "default_table_access_method = 'heap2'",
    "default_transaction_isolation = 'repeatable read'",
    "default_transaction_isolation = 'serializable'",
    "default_transaction_deferrable = on",
    "default_toast_compression = 'pglz'",
    "check_function_bodies = off",
    "row_security = off",
    "client_min_messages = debug1",
    "client_min_messages = error",
    "standard_conforming_strings = off",
    "escape_string_warning = on",
    "backslash_quote = off",
    "transform_null_equals = on",
    "array_nulls = off",
    "datestyle = 'German, DMY'",
    "datestyle = 'SQL, DMY'",
    "datestyle = 'Postgres, MDY'",
    "intervalstyle = 'sql_standard'",
    "intervalstyle = 'iso_8601'",
    "timezone = 'America/New_York'",
    "timezone = 'Asia/Kathmandu'",
    "timezone_abbreviations = 'India'",
    "lc_messages = 'C'",
    "lc_numeric = 'C'",
    "lc_time = 'C'",
    "bytea_output = 'escape'",
    "extra_float_digits = -15",
    "xmloption = 'document'",
    "search_path = ''",
    "search_path = 'tally, public'",
    "search_path = 'pg_temp, public, pg_catalog'",
    "quote_all_identifiers = on",
    "createrole_self_grant = 'set, inherit'",
    "session_replication_role = 'local'",
    "lock_timeout = '600s'",
    "idle_in_transaction_session_timeout = '600s'",
    "plpgsql.variable_conflict = 'use_column'",
    "plpgsql.variable_conflict = 'use_variable'",
    "plpgsql.extra_errors = 'all'",
    "plpgsql.check_asserts = off",
    "plan_cache_mode = 'force_generic_plan'",
    "plan_cache_mode = 'force_custom_plan'",
    "enable_partition_pruning = off",
    "enable_indexscan = off",
    "enable_seqscan = off",
    "enable_sort = off",
    "enable_hashagg = off",
    "enable_partitionwise_aggregate = on",
    "force_parallel_mode = on",
    "jit_above_cost = 0", // with jit = on
    "work_mem = '64kB'",
    "maintenance_work_mem = '1MB'",
    "constraint_exclusion = on",
    "from_collapse_limit = 1",
    "gin_pending_list_limit = '64kB'",
    "synchronous_commit = off",
    "track_counts = off",
    "stats_fetch_consistency = 'none'",
    "event_triggers = off",
    "vacuum_freeze_min_age = 0",
    "statement_timeout = '600s'",
];

/// Events of this month, the next and the one before it, so that partitions are made; of two tenants.
fn events(client: &mut Client, from: usize) -> String {
    // The same months in a test that goes on into the next one.
    static MONTH: OnceLock<String> = OnceLock::new();
    let month = MONTH.get_or_init(|| {
        let start = "SELECT to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-\"01T00:00:00Z\"')";
        client.query_one(start, &[]).unwrap().get(0)
    });
    let query = "SELECT json_agg(json_build_object('tenant_id', 't' || n % 2, 'account_id', 'a' || n % 3, 'name', 'n', 'user_id', 'u' || n,
                   'event_id', ('00000000-0000-4000-8000-' || lpad(n::text, 12, '0')),
                   'occurred_at', to_char($2::text::timestamptz AT TIME ZONE 'UTC' - make_interval(months => n % 4, mins => 1), 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"'),
                   'properties', json_build_object('value', n * 1.25, 'note', 'it''s \\ here')))::text
                   FROM generate_series($1::int, $1::int + 59) AS n";
    client.query_one(query, &[&(from as i32), month]).unwrap().get(0)
}

/// Ingests events. A retry is right where the isolation level asks for one.
fn send(client: &mut Client, text: &str) -> Result<Summary, postgres::Error> {
    match ingest(client, text) {
        Err(error) if error.code().is_some_and(|code| code.code() == "40001") => ingest(client, text),
        answer => answer,
    }
}

/// What the numbers are, to the last digit, in the global scope.
fn numbers(admin: &mut Client) -> Vec<String> {
    let mut transaction = admin.transaction().unwrap();
    transaction.batch_execute("SELECT tally.enter_global(); SET LOCAL extra_float_digits = 1; SET LOCAL timezone = 'UTC'; SET LOCAL datestyle = 'ISO, MDY'").unwrap();
    let rows = transaction
        .query(
            "SELECT concat_ws('|', tenant_id, account_id, bucket, name, events, users, revenue) FROM (SELECT u.*, r.revenue FROM tally.usage_day AS u
               JOIN tally.own_day AS r USING (tenant_id, account_id, bucket)) AS x ORDER BY 1",
            &[],
        )
        .unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

/// Installs, sends, folds and maintains in a database in which `set` has been executed; gives the numbers.
fn work(database: &Database, what: &str) -> Vec<String> {
    let fail = |step: &str, error: postgres::Error| -> ! { panic!("{what}: {step}: {error:?}") };
    let mut superuser = database.superuser();
    if let Err(error) = superuser.batch_execute("CREATE EXTENSION pg_tally") {
        fail("CREATE EXTENSION", error);
    }
    if let Err(error) = superuser.batch_execute(
        "BEGIN ISOLATION LEVEL READ COMMITTED;
         SELECT tally.create_rollup('own', '{day}', ARRAY['count(*) AS n', 'sum((properties->>''value'')::numeric) AS revenue'],
           filter => $$occurred_at >= '2020-02-01 00:00'$$); COMMIT",
    ) {
        fail("create_rollup", error);
    }
    let mut plain = database.superuser();
    plain
        .batch_execute(
            "SET client_min_messages = error; SET datestyle = 'ISO, MDY'; SET search_path = public",
        )
        .unwrap();
    let mut writer = database.superuser();
    for from in [0, 60] {
        let text = events(&mut plain, from);
        let summary = send(&mut writer, &text);
        assert_eq!(summary.unwrap_or_else(|error| fail("ingest", error)).accepted, 60, "{what}");
    }
    let mut maintaining = database.superuser();
    if let Err(error) = maintaining.batch_execute("SELECT tally.set_retention('nobody', '30 days')") {
        fail("set_retention", error);
    }
    if let Err(error) = maintaining.batch_execute("CALL tally.maintain()") {
        fail("maintain()", error);
    }
    // What declares needs read committed, and says so elsewhere.
    let isolate = "BEGIN ISOLATION LEVEL READ COMMITTED; SELECT tally.isolate_tenant('t1'); COMMIT";
    if let Err(error) = maintaining.batch_execute(isolate) {
        fail("isolate_tenant", error);
    }
    let failed = "SELECT string_agg(task || ' ' || subject || ': ' || problem, '; ') FROM tally.maintenance WHERE failed_at IS NOT NULL";
    let failed: Option<String> = plain.query_one(failed, &[]).unwrap().get(0);
    assert_eq!(failed, None, "{what}: a task failed");
    for rollup in ["usage", "own", "session", "user_activity"] {
        let pending = format!("SELECT count(*) FROM tally.{rollup}_pending");
        assert_eq!(number(&mut plain, &pending), 0, "{what}: {rollup} was not folded");
    }
    let lint = "SELECT string_agg(name || ' ' || detail, '; ') FROM tally.lint() WHERE level = 'ERROR' AND name <> 'role_setting'";
    let found: Option<String> =
        writer.query_one(lint, &[]).unwrap_or_else(|error| fail("lint", error)).get(0);
    if !what.contains("quote_all") {
        assert_eq!(found, None, "{what}: lint");
    }
    numbers(&mut plain)
}

/// Rows by table, but for those that the installation itself writes.
fn rows(client: &mut Client) -> Vec<String> {
    let rows = contents(client, &["tally"]).into_iter().map(|(table, digest)| format!("{table}: {digest}"));
    // Of the built-in rollups it tells when they were declared.
    rows.map(|line| line.replace('"', ""))
        .filter(|line| !line.starts_with("tally.rollup: ") && !line.starts_with("tally.audit_"))
        .collect()
}

/// Dumps a database in use and restores it into one with the same setting, which must then be the same: every row, object,
/// privilege and policy. Then work goes on there.
fn dump_and_restore(database: &Database, setting: &str) {
    let again = Database::without_extension("ambient_again");
    prepare(&again, setting);
    let (bin, sockets) = bin_and_sockets();
    let mut here = database.superuser();
    let port: i32 = here.query_one("SELECT current_setting('port')::int", &[]).unwrap().get(0);
    let server = format!("-h {} -p {port} -U postgres", sockets.display());
    // The access method that a setting names is there before it.
    let pipe = format!(
        "set -o pipefail; {0}/pg_dump {server} {1} | grep -v 'ACCESS METHOD heap2' | {0}/psql -X -q {server} -v ON_ERROR_STOP=1 -d {2} >/dev/null",
        bin.display(),
        database.name(),
        again.name()
    );
    let done = Command::new("bash").args(["-c", &pipe]).output().unwrap();
    let told = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success() && !told.contains("ERROR"), "{setting}: {told}");
    let mut there = again.superuser();
    // What is compared needs no setting.
    for client in [&mut here, &mut there] {
        client
            .batch_execute(
                "SET jit = off; SET enable_seqscan = on; SET enable_indexscan = on; SET work_mem = '64MB'",
            )
            .unwrap();
    }
    assert_same(setting, &describe(&mut here, &["tally"], false), &describe(&mut there, &["tally"], false));
    assert_same(setting, &rows(&mut here), &rows(&mut there));
    let mut plain = again.superuser();
    plain
        .batch_execute(
            "SET client_min_messages = error; SET datestyle = 'ISO, MDY'; SET search_path = public",
        )
        .unwrap();
    assert_eq!(numbers(&mut plain), {
        let mut plain = database.superuser();
        plain.batch_execute("SET datestyle = 'ISO, MDY'; SET search_path = public").unwrap();
        numbers(&mut plain)
    });
    // What was acknowledged is known, and what is new is counted.
    let (mut writer, mut maintaining) = (again.superuser(), again.superuser());
    let mut go_on = |from: usize| {
        let text = events(&mut plain, from);
        let answer = send(&mut writer, &text);
        answer.unwrap_or_else(|error| panic!("{setting}: ingest after the restore: {error:?}"))
    };
    assert_eq!(go_on(0).duplicates, 60, "{setting}");
    assert_eq!(go_on(120).accepted, 60, "{setting}");
    let maintained = maintaining.batch_execute("CALL tally.maintain()");
    maintained.unwrap_or_else(|error| panic!("{setting}: maintain() after the restore: {error:?}"));
    for (query, wanted) in [
        ("SELECT sum(events)::int8 FROM tally.usage_day_base", 180),
        ("SELECT count(*) FROM tally.usage_pending", 0),
        ("SELECT count(*) FROM tally.maintenance WHERE failed_at IS NOT NULL", 0),
    ] {
        assert_eq!(number(&mut plain, query), wanted, "{setting}: {query}");
    }
}

/// Gives a database a setting and what the setting needs.
fn prepare(database: &Database, settings: &str) {
    let mut superuser = database.superuser();
    superuser.batch_execute("LOAD 'plpgsql'").unwrap();
    if settings.contains("heap2") {
        let method = "CREATE ACCESS METHOD heap2 TYPE TABLE HANDLER heap_tableam_handler";
        superuser.batch_execute(method).unwrap();
    }
    if settings.contains("jit_above_cost") {
        superuser.batch_execute(&format!("ALTER DATABASE {} SET jit = on", database.name())).unwrap();
    }
    for setting in settings.split("; ") {
        superuser.batch_execute(&format!("ALTER DATABASE {} SET {setting}", database.name())).unwrap();
    }
}

/// Settings by the database that gets them, drawn anew each time; none is there twice with two values.
fn groups(mut settings: Vec<String>) -> Vec<Vec<String>> {
    seeded().shuffle(&mut settings);
    let name = |setting: &str| setting.split(' ').next().map(str::to_owned);
    let most = together();
    let mut groups: Vec<Vec<String>> = Vec::new();
    for setting in settings {
        let fits = |group: &&mut Vec<String>| {
            group.len() < most && group.iter().all(|other| name(other) != name(&setting))
        };
        match groups.iter_mut().find(fits) {
            Some(group) => group.push(setting),
            None => groups.push(vec![setting]),
        }
    }
    groups
}

/// Whether this release has the setting that a line names.
fn is_known(setting: &str) -> bool {
    let mut client = tally_server_tests::connect_superuser("postgres");
    client.batch_execute("LOAD 'plpgsql'").unwrap();
    let name = setting.split(' ').next().unwrap();
    client.query_one("SELECT current_setting($1, true) IS NOT NULL", &[&name]).unwrap().get(0)
}

#[test]
fn settings_of_the_database_change_no_number_and_stop_nothing() {
    let settings: Vec<String> =
        SETTINGS.map(of_this_major).into_iter().filter(|line| is_known(line)).collect();
    // What a release lacks is little.
    assert!(settings.len() >= SETTINGS.len() - 3, "{settings:?}");
    let try_one = |setting: &str| {
        let database = Database::without_extension("ambient");
        prepare(&database, setting);
        let found = work(&database, setting);
        dump_and_restore(&database, setting);
        found
    };
    let expected = try_one("application_name = 'plain'");
    assert!(expected.len() >= 10, "{expected:?}");
    let is_right = |settings: &str| {
        let found = catch_unwind(AssertUnwindSafe(|| try_one(settings)));
        if let Ok(found) = &found
            && *found != expected
        {
            eprintln!("{settings}: {found:?} instead of {expected:?}");
        }
        found.is_ok_and(|found| found == expected)
    };
    let groups = groups(settings);
    // Each of them is to be told, not the first alone.
    let (next, failed) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while let Some(group) = groups.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if !is_right(&group.join("; ")) {
                        let alone: Vec<_> =
                            group.iter().filter(|setting| !is_right(setting)).cloned().collect();
                        failed.lock().unwrap().push((group, alone));
                    }
                }
            });
        }
    });
    // What fails together, and which of these alone.
    let failed = failed.into_inner().unwrap();
    assert!(failed.is_empty(), "{failed:?}");
}

/// The same with a default tablespace, in which the owner of our tables may create nothing.
#[test]
fn a_default_tablespace_of_the_database_stops_nothing() {
    let database = Database::without_extension("default_space");
    let space = format!("space_{}", database.name());
    let mut superuser = database.superuser();
    superuser.batch_execute("SET allow_in_place_tablespaces = on").unwrap();
    superuser.batch_execute(&format!("CREATE TABLESPACE {space} LOCATION ''")).unwrap();
    superuser
        .batch_execute(&format!("ALTER DATABASE {} SET default_tablespace = '{space}'", database.name()))
        .unwrap();
    assert!(work(&database, "default_tablespace").len() >= 10);
    dump_and_restore(&database, &format!("default_tablespace = '{space}'"));
    drop((superuser, database));
    tally_server_tests::connect_superuser("postgres")
        .batch_execute(&format!("DROP TABLESPACE {space}"))
        .unwrap();
}

/// Where our tables lie, and how, is the database's own to choose: a session that sets another place sets it for nobody.
#[test]
fn a_sessions_tablespace_and_access_method_are_nobodys() {
    let mut database = Database::new("tablespace");
    let writer = database.role("writer", &["tally_writer"]);
    let space = format!("space_{}", database.name());
    let mut superuser = database.superuser();
    superuser.execute("SELECT tally.bind_role($1::text::regrole, 'a')", &[&writer]).unwrap();
    superuser
        .batch_execute("SET allow_in_place_tablespaces = on; CREATE ACCESS METHOD heap2 TYPE TABLE HANDLER heap_tableam_handler")
        .unwrap();
    superuser.batch_execute(&format!("CREATE TABLESPACE {space} LOCATION ''")).unwrap();
    superuser.batch_execute(&format!("GRANT CREATE ON TABLESPACE {space} TO {writer}")).unwrap();
    let event = |month: &str| {
        format!(
            r#"{{"tenant_id":"a","account_id":"x","name":"n","occurred_at":"{month}-01T00:00:00Z","event_id":"00000000-0000-4000-8000-0000{}0000"}}"#,
            month.replace('-', "").chars().skip(2).collect::<String>()
        )
    };
    for grant in [None, Some(format!("GRANT CREATE ON TABLESPACE {space} TO tally_owner"))] {
        let month = if grant.is_some() { "2022-01" } else { "2021-01" };
        if let Some(grant) = &grant {
            superuser.batch_execute(grant).unwrap();
        }
        let mut client = database.connect(&writer);
        client
            .batch_execute(&format!(
                "SET default_tablespace = '{space}'; SET default_table_access_method = 'heap2'"
            ))
            .unwrap();
        assert_eq!(ingest(&mut client, &event(month)).unwrap().accepted, 1);
        superuser
            .batch_execute(&format!(
                "SET default_tablespace = '{space}'; SELECT tally.make_partitions(2);
                 SELECT tally.create_rollup('placed{}', '{{day}}', ARRAY['count(*) AS n'])",
                u8::from(grant.is_some())
            ))
            .unwrap();
        superuser.batch_execute("CALL tally.maintain()").unwrap();
        superuser.batch_execute("RESET default_tablespace").unwrap();
    }
    let elsewhere = "SELECT count(*) FROM pg_class AS c WHERE c.relnamespace = 'tally'::regnamespace
        AND (c.reltablespace <> 0 OR c.relam = (SELECT oid FROM pg_am WHERE amname = 'heap2'))";
    assert_eq!(number(&mut superuser, elsewhere), 0);
    drop(database);
    let _ =
        tally_server_tests::connect_superuser("postgres").batch_execute(&format!("DROP TABLESPACE {space}"));
}

/// An event trigger that its invoker has to have rights for, as those that write down DDL do.
#[test]
fn event_triggers_fail_nobodys_ingest() {
    let mut database = Database::new("event_trigger");
    let writer = database.role("writer", &["tally_writer"]);
    let admin = database.role("admin", &["tally_admin"]);
    let mut superuser = database.superuser();
    superuser.execute("SELECT tally.bind_role($1::text::regrole, 'a')", &[&writer]).unwrap();
    superuser
        .batch_execute(
            "CREATE TABLE public.ddl_log (at timestamptz, who name, tag text); REVOKE ALL ON public.ddl_log FROM PUBLIC;
             CREATE FUNCTION public.note() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO public.ddl_log VALUES (now(), current_user, tg_tag); END $$;
             CREATE EVENT TRIGGER at_end ON ddl_command_end EXECUTE FUNCTION public.note();
             CREATE EVENT TRIGGER at_start ON ddl_command_start EXECUTE FUNCTION public.note();
             CREATE EVENT TRIGGER at_drop ON sql_drop EXECUTE FUNCTION public.note()",
        )
        .unwrap();
    let event = r#"{"tenant_id":"a","account_id":"x","name":"n","occurred_at":"2021-01-01T00:00:00Z","event_id":"00000000-0000-4000-8000-000000000001"}"#;
    assert_eq!(ingest(&mut database.connect(&writer), event).unwrap().accepted, 1);
    let mut admin = database.connect(&admin);
    for command in [
        "CALL tally.maintain()",
        "SELECT tally.create_rollup('own', '{day}', ARRAY['count(*) AS n'])",
        "SELECT tally.alter_rollup('own', ARRAY['count(user_id) AS m'])",
        "SELECT tally.isolate_tenant('a', '2021-01-01')",
        "CALL tally.maintain()",
        "SELECT tally.detach_raw('2021-02-01')",
        "SELECT tally.drop_rollup('own')",
    ] {
        admin.batch_execute(command).unwrap_or_else(|error| panic!("{command}: {error:?}"));
    }
    assert_eq!(
        number(&mut superuser, "SELECT count(*) FROM tally.maintenance WHERE failed_at IS NOT NULL"),
        0
    );
    // The trigger still counts for everybody else's own.
    superuser.batch_execute("CREATE TABLE public.own (i int)").unwrap();
    assert!(number(&mut superuser, "SELECT count(*) FROM public.ddl_log") > 0);
}

/// Settings of a role reach the process that acts for its session; a role that is read-only by default gets an error where it
/// writes, and only there.
#[test]
fn settings_of_a_role_reach_no_further_than_its_own_statements() {
    let mut database = Database::new("role_settings");
    let writer = database.role("writer", &["tally_writer"]);
    let mut superuser = database.superuser();
    superuser.execute("SELECT tally.bind_role($1::text::regrole, 'a')", &[&writer]).unwrap();
    for setting in [
        "default_transaction_isolation = 'serializable'",
        "search_path = 'pg_temp'",
        "datestyle = 'German'",
        "timezone = 'Asia/Tokyo'",
        "default_tablespace = 'none such'",
        "row_security = off",
        "work_mem = '64kB'",
    ] {
        superuser.batch_execute(&format!("ALTER ROLE {writer} SET {setting}")).unwrap();
    }
    let event = |n: u32| {
        format!(
            r#"{{"tenant_id":"a","account_id":"x","name":"n","occurred_at":"20{:02}-01-01T00:00:00Z","event_id":"00000000-0000-4000-8000-00000000000{n}"}}"#,
            10 + n
        )
    };
    let mut client = database.connect(&writer);
    assert_eq!(ingest(&mut client, &event(1)).unwrap().accepted, 1);
    client.batch_execute("BEGIN").unwrap();
    assert_eq!(ingest(&mut client, &event(2)).unwrap().accepted, 1);
    client.batch_execute("COMMIT").unwrap();
    client.batch_execute("SET default_transaction_read_only = on").unwrap();
    let refused = ingest(&mut client, &event(3)).unwrap_err();
    assert_eq!(refused.code().unwrap().code(), "25006");
    assert_eq!(
        number(&mut superuser, "SELECT count(*) FROM pg_inherits WHERE inhparent = 'tally.events'::regclass"),
        2
    );
}

/// Expressions of Postgres' own functions that say that they are immutable, and read a setting nevertheless: a rollup's name, the
/// expression, and a setting under which it is something else.
const READERS: [(&str, &str, &str); 6] = [
    ("zoned", "(occurred_at AT TIME ZONE 'IST')::date", "timezone_abbreviations = 'India'"),
    ("hashed", "sha256(name::bytea)::text", "bytea_output = 'escape'"),
    ("quoted", "quote_ident(name)", "quote_all_identifiers = on"),
    ("rounded", "tally.property_float(properties, 'x')::text", "extra_float_digits = -5"),
    ("timed", "xmlforest(occurred_at AS t)::text", "timezone = 'Asia/Tokyo'"),
    ("encoded", "xmlforest(sha256(name::bytea) AS t)::text", "xmlbinary = 'hex'"),
];

/// Whoever brings an event, fills, rebuilds or erases: what is stored is what the fixed settings make of it, as dimension, in a filter and
/// as a measure.
#[test]
fn expressions_that_read_a_setting_read_the_fixed_one() {
    let mut database = Database::new("readers");
    let (writer, admin) =
        (database.role("writer", &["tally_writer"]), database.role("admin", &["tally_admin"]));
    let mut superuser = database.superuser();
    superuser.execute("SELECT tally.bind_role($1::text::regrole, 'a')", &[&writer]).unwrap();
    superuser.batch_execute("SELECT tally.set_step_up_policy('erase_subject', false)").unwrap();
    let has_xml = "SELECT count(*) FROM pg_settings WHERE name = 'xmlbinary' AND xpath_exists('/a', '<a/>')";
    assert_eq!(number(&mut superuser, has_xml), 1);
    let (mut writer, mut admin) = (database.connect(&writer), database.connect(&admin));
    let declare = |admin: &mut Client, suffix: &str| {
        for (rollup, expression, _) in READERS {
            let declare = format!(
                "SELECT tally.create_rollup('{rollup}{suffix}', '{{day}}', dimensions => ARRAY[$a${expression} AS value$a$],
                   measures => ARRAY['count(*) AS n', $a$min({expression}) AS least$a$], filter => $a$length(({expression})::text) > 0$a$)"
            );
            let declare = declare.replace("((occurred_at AT TIME ZONE 'IST')::date)::text", "'day'");
            admin.batch_execute(&declare).unwrap();
        }
    };
    let all = READERS.map(|(_, _, setting)| format!("SET LOCAL {setting};")).concat();
    let mut numbers = |admin: &mut Client, suffix: &str| -> Vec<String> {
        let of = |(rollup, _, _): (&str, &str, &str)| {
            fold_all(admin, &format!("{rollup}{suffix}"));
            let query = format!(
                "SELECT string_agg(concat_ws(' ', bucket, value, n, least), ', ' ORDER BY bucket, value) FROM tally.{rollup}{suffix}_day_base"
            );
            let found: Option<String> = superuser.query_one(&query, &[]).unwrap().get(0);
            found.unwrap_or_default()
        };
        READERS.map(of).to_vec()
    };
    declare(&mut admin, "");
    let mut sent = 0;
    let mut send = |settings: &str, user: &str| {
        sent += 1;
        let event = format!(
            r#"{{"tenant_id":"a","account_id":"x","name":"n","user_id":"{user}","occurred_at":"2021-01-01T20:00:00Z","properties":{{"x":0.1234567890123456}},"event_id":"00000000-0000-4000-8000-{sent:012}"}}"#
        );
        writer.batch_execute(&format!("BEGIN; {settings}")).unwrap();
        assert_eq!(ingest(&mut writer, &event).unwrap().accepted, 1, "{settings}");
        writer.batch_execute("COMMIT").unwrap();
    };
    send("", "u");
    for (_, _, setting) in READERS {
        send(&format!("SET LOCAL {setting};"), "gone");
    }
    let expected = numbers(&mut admin, "");
    for ((rollup, expression, setting), numbers) in READERS.into_iter().zip(&expected) {
        assert!(!numbers.contains(','), "under {setting} {expression} is something else: {numbers}");
        assert_right(&mut admin, rollup);
    }
    // Filled from events that are there, made anew, and made anew from what an erasure leaves.
    admin.batch_execute(&format!("BEGIN; {all}")).unwrap();
    declare(&mut admin, "_later");
    admin.batch_execute("COMMIT").unwrap();
    admin.batch_execute("CALL tally.maintain()").unwrap();
    assert_eq!(numbers(&mut admin, "_later"), expected);
    admin.batch_execute(&format!("BEGIN; {all}")).unwrap();
    for (rollup, _, _) in READERS {
        admin.execute("SELECT tally.rebuild_rollup($1)", &[&rollup]).unwrap();
    }
    admin.batch_execute("COMMIT").unwrap();
    assert_eq!(numbers(&mut admin, ""), expected);
    admin
        .batch_execute(&format!("BEGIN; {all} SELECT tally.erase_subject('a', 'gone', 'ticket 1'); COMMIT"))
        .unwrap();
    let left: Vec<String> =
        expected.iter().map(|numbers| numbers.replace(&format!(" {} ", READERS.len() + 1), " 1 ")).collect();
    assert_eq!(numbers(&mut admin, ""), left);
    for (rollup, _, _) in READERS {
        assert_right(&mut admin, rollup);
    }
}

/// A server whose processes are all in use: months are made in the caller's transaction, and folds wait for housekeeping.
#[test]
fn without_a_process_to_spare_everything_still_works() {
    let server = PrivateServer::create("no_workers", "max_worker_processes = 0\nmax_parallel_workers = 0");
    let mut superuser = server.connect("postgres", "postgres");
    superuser
        .batch_execute("CREATE EXTENSION pg_tally; CREATE ROLE w LOGIN IN ROLE tally_writer; SELECT tally.bind_role('w', 'a'); SELECT tally.open_months('-infinity'); ALTER DATABASE postgres SET tally.pending_limit = '64kB'")
        .unwrap();
    let mut writer = server.connect("w", "postgres");
    let batch = |from: usize| {
        let events: Vec<String> = (from..from + 500)
            .map(|n| format!(r#"{{"tenant_id":"a","account_id":"x{n}","name":"n","occurred_at":"2021-0{}-01T00:00:00Z","event_id":"00000000-0000-4000-8000-{n:012}"}}"#, 1 + n % 6))
            .collect();
        format!("[{}]", events.join(","))
    };
    for from in (0..5_000).step_by(500) {
        assert_eq!(ingest(&mut writer, &batch(from)).unwrap().accepted, 500);
    }
    superuser.batch_execute("CALL tally.maintain()").unwrap();
    assert_eq!(number(&mut superuser, "SELECT count(*) FROM tally.usage_pending"), 0);
    assert_eq!(number(&mut superuser, "SELECT sum(events)::int8 FROM tally.usage_day_base"), 5_000);
}
