//! Random statements and settings, made from a grammar, as every kind of login that isn't a superuser: afterwards nobody has a right
//! that he didn't have, bindings and keys are as they were, and meanwhile nobody else waits.
//!
//! `TALLY_CASES` says how many transactions are tried, `TALLY_SEED` repeats them.

use postgres::Client;
use postgres::error::SqlState;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;
use tally_server_tests::{Database, TokenSigner, seeded};
use tally_workload::Random;

const TABLES: &[&str] = &[
    "tally.events",
    "tally.event_key",
    "tally.role_binding",
    "tally.token_key",
    "tally.tenant",
    "tally.tenant_limit",
    "tally.quarantine",
    "tally.ingest_batch",
    "tally.maintenance",
    "tally.rollup",
    "tally.usage_day",
    "tally.usage_pending",
    "pg_catalog.pg_authid",
    "pg_catalog.pg_auth_members",
    "shop.orders",
];

const SETTINGS: &[&str] = &[
    "tally.scope",
    "role",
    "session_authorization",
    "search_path",
    "row_security",
    "session_replication_role",
    "check_function_bodies",
    "transform_null_equals",
    "default_transaction_isolation",
    "transaction_isolation",
    "transaction_read_only",
    "statement_timeout",
    "lock_timeout",
    "idle_in_transaction_session_timeout",
    "work_mem",
    "plan_cache_mode",
    "force_parallel_mode",
    "debug_parallel_query",
    "client_min_messages",
    "default_tablespace",
    "session_preload_libraries",
    "local_preload_libraries",
    "allow_system_table_mods",
    "createrole_self_grant",
    "tally.ingest_options",
    "tally.pending_limit",
    "app.tenant",
];

const VALUES: &[&str] = &[
    "*",
    "b",
    "on",
    "off",
    "0",
    "1",
    "replica",
    "serializable",
    "pg_temp, pg_catalog, tally",
    "public",
    "tally_owner",
    "postgres",
    "SUPERUSER",
    "pg_tally",
    "{}",
];

const PRIVILEGES: &[&str] = &["SELECT", "INSERT", "UPDATE", "TRUNCATE", "TRIGGER", "REFERENCES", "ALL"];

const GROUPS: &[&str] = &[
    "tally_owner",
    "tally_admin",
    "tally_analyst",
    "tally_writer",
    "tally_reader",
    "tally_auditor",
    "pg_read_all_data",
    "postgres",
];

const ATTRIBUTES: &[&str] = &["SUPERUSER", "BYPASSRLS", "CREATEROLE", "CREATEDB", "REPLICATION", "LOGIN"];

const LOCKS: &[&str] =
    &["ACCESS SHARE", "ROW EXCLUSIVE", "SHARE UPDATE EXCLUSIVE", "SHARE", "ACCESS EXCLUSIVE"];

/// Calls of ours, with arguments that are wrong, foreign or another role's business.
const CALLS: &[&str] = &[
    "tally.enter('b')",
    "tally.enter('a', 'x')",
    "tally.enter_global()",
    "tally.challenge()",
    "tally.scope_key()",
    "tally.in_scope('b', '*')",
    "tally_internal.forget()",
    "tally_internal.secure_table('tally.events')",
    "tally.protect('shop.orders')",
    "tally.unprotect('shop.orders')",
    "tally_internal.record_protection('shop.orders', NULL, NULL)",
    "tally_internal.check_bindable('postgres')",
    "tally.ingest('[]')",
    "tally.ingest('not json')",
    "tally.redrive()",
    "tally.discard('because')",
    "tally.fold('usage')",
    "tally.authenticate_as('b', 'x')",
    "tally.assert_isolated('shop.orders')",
    "tally.health()",
    "tally.lint()",
    "tally.limit_tenant('b', 1)",
    "tally.set_quota('b', events_per_minute => 1)",
    "tally.set_retention('b', '1 day')",
    "tally.drop_raw('2030-01-01')",
    "tally.make_partitions(1)",
    "tally.isolate_tenant('b', '2026-10-01')",
    "tally.drop_rollup('usage')",
    "tally.rebuild_rollup('usage', '2026-10-01', '2026-11-01')",
    "pg_advisory_lock(1, 2)",
    "pg_advisory_lock(3)",
    "pg_advisory_xact_lock(1, 0)",
    "pg_try_advisory_lock_shared(7)",
    "pg_reload_conf()",
    "pg_read_file('PG_VERSION')",
    "lo_creat(-1)",
    "pg_notify('spy', 'x')",
    "pg_cancel_backend(0)",
];

/// What changes bindings and keys: for everybody but an administrator, who may.
const BINDING_CALLS: &[&str] = &[
    "tally.bind_role('ROLE', 'b')",
    "tally.bind_role('ROLE', scope => 'global')",
    "tally.trust_role('ROLE')",
    "tally.pool_role('ROLE')",
    "tally.unbind_role('ROLE')",
    "tally.register_key('mine', '\\x00')",
    "tally.revoke_key('grammar')",
];

/// What somebody's function tries to do to whoever calls it.
const BODIES: &[&str] = &[
    "UPDATE tally.role_binding SET tenant_id = NULL, account_id = NULL",
    "DELETE FROM tally.token_key",
    "ALTER ROLE ROLE SUPERUSER",
    "GRANT tally_owner TO ROLE",
    "GRANT ALL ON tally.events TO PUBLIC",
    "ALTER TABLE tally.events OWNER TO ROLE",
    "DROP POLICY tally_guard ON tally.events",
    "PERFORM tally.trust_role('ROLE')",
    "SET LOCAL tally.scope = '*'",
    "LOCK TABLE tally.usage_pending IN ACCESS EXCLUSIVE MODE",
    "PERFORM pg_advisory_lock(1)",
    "CREATE TEMPORARY TABLE usage_day (x int)",
    "INSERT INTO tally.events SELECT * FROM tally.events",
    "EXECUTE 'SET ROLE postgres'",
];

fn one<'a>(random: &mut Random, items: &[&'a str]) -> &'a str {
    items[random.below(items.len())]
}

struct Grammar<'a> {
    random: &'a mut Random,
    role: String,
    number: u32,
}

impl Grammar<'_> {
    fn pick<'a>(&mut self, items: &[&'a str]) -> &'a str {
        one(self.random, items)
    }

    fn event(&mut self) -> String {
        self.number += 1;
        let (tenant, month) = (self.pick(&["a", "a", "a", "b", "new"]), 1 + self.random.below(12));
        let name = format!("n{}", self.random.below(40));
        format!(
            r#"{{"tenant_id":"{tenant}","account_id":"x","name":"{name}","event_id":"00000000-0000-4000-b000-{:012}","occurred_at":"2026-{month:02}-03T00:00:00Z"}}"#,
            self.number
        )
    }

    fn function(&mut self, name: &str) -> String {
        let body = self.pick(BODIES).replace("ROLE", &self.role);
        let elevated = self.pick(&["", " SECURITY DEFINER"]);
        let volatility = self.pick(&["IMMUTABLE", "STABLE", "VOLATILE"]);
        format!(
            "CREATE OR REPLACE FUNCTION {name}(x text) RETURNS text LANGUAGE plpgsql {volatility}{elevated} \
             SET search_path = pg_catalog, pg_temp AS $f$ BEGIN {body}; RETURN x; END $f$"
        )
    }

    fn statement(&mut self, depth: usize) -> String {
        let role = self.role.clone();
        let table = self.pick(TABLES);
        match self.random.below(if depth > 0 { 22 } else { 20 }) {
            0 => format!("SET {} {} = '{}'", self.pick(&["LOCAL", "SESSION"]), self.pick(SETTINGS), self.pick(VALUES)),
            1 => format!("SELECT set_config('{}', '{}', {})", self.pick(SETTINGS), self.pick(VALUES), self.pick(&["true", "false"])),
            2 => format!("ALTER ROLE {role} SET {} = '{}'", self.pick(&["search_path", "row_security", "tally.scope", "role"]), self.pick(VALUES)),
            3 => format!("ALTER ROLE {role} {}", self.pick(ATTRIBUTES)),
            4 => format!("GRANT {} TO {role} WITH ADMIN OPTION", self.pick(GROUPS)),
            5 => format!("GRANT {} ON {table} TO {}", self.pick(PRIVILEGES), self.pick(&["PUBLIC", &role])),
            6 => format!("SET ROLE {}", self.pick(GROUPS)),
            7 => self.function("pg_temp.f") + "; SELECT pg_temp.f('x')",
            8 => format!(
                "CREATE DOMAIN pg_temp.text AS pg_catalog.text; CREATE TEMPORARY TABLE {} (tenant_id pg_catalog.text)",
                self.pick(&["role_binding", "events", "usage_pending"])
            ),
            9 => {
                let action = self.pick(&["UPDATE {t} SET tenant_id = 'b'", "DELETE FROM {t}", "INSERT INTO {t} SELECT * FROM {t}", "TRUNCATE {t}"]);
                action.replace("{t}", table)
            }
            10 => format!("LOCK TABLE {table} IN {} MODE NOWAIT", self.pick(LOCKS)),
            11 => format!("SELECT * FROM {table} LIMIT 3 FOR {}", self.pick(&["UPDATE", "SHARE", "KEY SHARE", "NO KEY UPDATE"])),
            12 => format!("SELECT tally.ingest('{}')", self.event()),
            13 => format!("INSERT INTO tally.inbox VALUES ('{}')", self.event()),
            14 => format!("SELECT {}", self.pick(BINDING_CALLS).replace("ROLE", &role)),
            15 | 16 => format!("SELECT {}", self.pick(CALLS)),
            17 => self
                .pick(&[
                    "CREATE POLICY mine ON {t} USING (true)",
                    "ALTER TABLE {t} DISABLE ROW LEVEL SECURITY",
                    "ALTER TABLE {t} OWNER TO {r}",
                    "CREATE TRIGGER spy BEFORE INSERT ON {t} FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()",
                    "CREATE RULE spy AS ON INSERT TO {t} DO ALSO NOTIFY spy",
                    "DROP TABLE {t} CASCADE",
                    "CREATE VIEW public.spy AS SELECT * FROM {t}",
                    "CREATE INDEX ON {t} (tenant_id)",
                    "COMMENT ON TABLE {t} IS 'mine'",
                    "ALTER DEFAULT PRIVILEGES FOR ROLE tally_owner GRANT ALL ON TABLES TO PUBLIC",
                    "REASSIGN OWNED BY tally_owner TO {r}",
                    "DROP OWNED BY tally_owner",
                    "ALTER EXTENSION pg_tally DROP TABLE {t}",
                    "CREATE EVENT TRIGGER spy ON ddl_command_end EXECUTE FUNCTION tally_internal.forget()",
                    "CREATE PUBLICATION spy FOR TABLE {t}",
                ])
                .replace("{t}", table)
                .replace("{r}", &role),
            18 => self
                .pick(&[
                    "LISTEN spy",
                    "LOAD 'pg_tally'",
                    "COPY tally.events TO PROGRAM 'cat'",
                    "COPY (SELECT * FROM tally.events) TO STDOUT",
                    "EXPLAIN (ANALYZE) SELECT * FROM tally.events",
                    "DECLARE c CURSOR WITH HOLD FOR SELECT * FROM tally.events",
                    "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE",
                    "RESET ALL",
                    "DISCARD TEMP",
                    "VACUUM tally.usage_pending",
                    "CALL tally.maintain()",
                    "ALTER SYSTEM SET log_statement = 'all'",
                    "CREATE ROLE mine SUPERUSER",
                    "SAVEPOINT deep",
                    "REFRESH MATERIALIZED VIEW tally.usage_day",
                ])
                .to_owned(),
            19 => format!("SELECT count(*) FROM {table}"),
            20 => {
                let inner = self.statement(depth - 1);
                format!("DO $do$ BEGIN {inner}; EXCEPTION WHEN OTHERS THEN NULL; END $do$").replace("BEGIN SELECT ", "BEGIN PERFORM ")
            }
            _ => {
                let inner = self.statement(depth - 1);
                format!("PREPARE s AS {inner}; EXECUTE s; DEALLOCATE s")
            }
        }
    }
}

/// Rights, policies, owners, bindings and keys, by what they belong to.
fn rights(admin: &mut Client, roles: &[String]) -> BTreeMap<String, String> {
    let query = "
        WITH known AS (SELECT oid, rolname FROM pg_authid WHERE rolname = ANY ($1) OR rolname ~ '^tally_' OR rolname = 'mine')
        SELECT 'role ' || a.rolname, concat_ws(',', a.rolsuper, a.rolbypassrls, a.rolcreaterole, a.rolcreatedb, a.rolreplication, a.rolcanlogin, a.rolinherit)
          FROM pg_authid AS a JOIN known USING (oid)
        UNION ALL
        SELECT 'member ' || m.roleid::regrole || ' ' || m.member::regrole, string_agg(m.admin_option::text, ',')
          FROM pg_auth_members AS m WHERE m.member IN (SELECT oid FROM known) GROUP BY m.roleid, m.member
        UNION ALL
        SELECT 'table ' || c.oid::regclass, concat_ws(' ', c.relowner::regrole, c.relrowsecurity, c.relforcerowsecurity, c.relacl::text,
               (SELECT string_agg(a.attname || a.attacl::text, ',' ORDER BY a.attnum) FROM pg_attribute AS a WHERE a.attrelid = c.oid AND a.attacl IS NOT NULL),
               (SELECT string_agg(concat_ws(' ', p.polname, p.polpermissive, p.polroles::text, pg_get_expr(p.polqual, p.polrelid), pg_get_expr(p.polwithcheck, p.polrelid)), ',' ORDER BY p.polname) FROM pg_policy AS p WHERE p.polrelid = c.oid),
               (SELECT string_agg(concat_ws(' ', t.tgname, t.tgenabled, t.tgfoid), ',' ORDER BY t.tgname) FROM pg_trigger AS t WHERE t.tgrelid = c.oid),
               (SELECT string_agg(concat(r.rulename, r.ev_enabled), ',' ORDER BY r.rulename) FROM pg_rewrite AS r WHERE r.ev_class = c.oid))
          FROM pg_class AS c WHERE c.relkind IN ('r', 'p', 'v', 'S') AND c.relnamespace IN ('tally'::regnamespace, 'tally_internal'::regnamespace)
        UNION ALL
        SELECT 'function ' || p.oid::regprocedure, concat_ws(' ', p.proowner::regrole, p.prosecdef, p.proconfig::text, p.proacl::text)
          FROM pg_proc AS p WHERE p.pronamespace IN ('tally'::regnamespace, 'tally_internal'::regnamespace)
        UNION ALL
        SELECT 'schema ' || n.nspname, concat_ws(' ', n.nspowner::regrole, n.nspacl::text) FROM pg_namespace AS n WHERE n.nspname IN ('tally', 'tally_internal', 'public', 'pg_catalog')
        UNION ALL
        SELECT 'default ' || concat(d.defaclrole::regrole, d.defaclobjtype, d.defaclnamespace), d.defaclacl::text FROM pg_default_acl AS d
        UNION ALL
        SELECT 'binding ' || b.role_name, b::text FROM tally.role_binding AS b
        UNION ALL
        SELECT 'key ' || k.key_id, k::text FROM tally.token_key AS k
        UNION ALL
        SELECT 'event trigger ' || e.evtname, e.evtenabled::text FROM pg_event_trigger AS e";
    let rows = admin.query(query, &[&roles]).unwrap();
    rows.iter().map(|row| (row.get(0), row.get::<_, Option<String>>(1).unwrap_or_default())).collect()
}

/// What became more, or other than it was; an object that came later is judged by what it grants to strangers.
fn gained(before: &BTreeMap<String, String>, after: &BTreeMap<String, String>) -> Vec<String> {
    let is_new_object = |key: &str| key.starts_with("table ") || key.starts_with("function ");
    let keys: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    keys.into_iter()
        .filter(|key| before.get(*key) != after.get(*key))
        .filter(|key| before.contains_key(*key) || !is_new_object(key))
        .map(|key| format!("{key}: {:?} became {:?}", before.get(key), after.get(key)))
        .collect()
}

/// Ends sessions of these logins that wait for somebody for long, with whoever it is that they wait for: they may have set their timeouts off,
/// and the test would wait with them.
fn end_waiting(watch: &mut Client, roles: &[String]) -> Vec<String> {
    let query = "
        SELECT concat_ws(' ', a.usename, 'waits for', (SELECT string_agg(o.usename || ' (' || left(o.query, 100) || ')', ', ')
                 FROM pg_stat_activity AS o WHERE o.pid = ANY (pg_blocking_pids(a.pid))), 'in', left(a.query, 300), pg_terminate_backend(a.pid))
          FROM pg_stat_activity AS a
         WHERE a.usename = ANY ($1) AND a.state = 'active' AND a.query_start < clock_timestamp() - interval '60 s'";
    watch.query(query, &[&roles]).unwrap().iter().map(|row| row.get(0)).collect()
}

/// Whether a statement had to wait for somebody: a second for one lock, or half a minute in all.
fn waited(outcome: Result<u64, postgres::Error>) -> Option<String> {
    let error = outcome.err()?;
    let waits = [SqlState::LOCK_NOT_AVAILABLE, SqlState::QUERY_CANCELED, SqlState::T_R_DEADLOCK_DETECTED];
    error.code().is_some_and(|code| waits.contains(code)).then(|| error.to_string())
}

#[test]
fn no_random_statement_gains_a_right_or_makes_another_tenant_wait() {
    let cases: usize =
        std::env::var("TALLY_CASES").map_or(60, |text| text.parse().expect("TALLY_CASES is a whole number"));
    let mut random = seeded();
    let mut database = Database::new("grammar");
    let tenant = database.role("tenant", &["tally_reader", "tally_writer"]);
    let writer = database.role("writer", &["tally_writer"]);
    let pool = database.role("pool", &["tally_reader", "tally_writer"]);
    let outside = database.role("outside", &["tally_reader"]);
    let owner = database.role("owner", &["tally_writer"]);
    let admin = database.role("admin", &["tally_admin", "tally_reader", "tally_writer"]);
    let other = database.role("other", &["tally_reader", "tally_writer"]);
    let mut superuser = database.superuser();
    let norm = "CREATE OR REPLACE FUNCTION shop.norm(x text) RETURNS text LANGUAGE plpgsql IMMUTABLE \
                SET search_path = pg_catalog, pg_temp AS 'BEGIN RETURN lower(x); END'";
    superuser
        .batch_execute(&format!(
            "SELECT tally.bind_role('{tenant}', 'a'), tally.bind_role('{writer}', 'a'), tally.bind_role('{other}', 'c'), tally.pool_role('{pool}');
             CREATE SCHEMA shop AUTHORIZATION {owner}; GRANT USAGE ON SCHEMA shop TO PUBLIC; SET ROLE {owner};
             CREATE TABLE shop.orders (tenant_id text NOT NULL, id int NOT NULL, PRIMARY KEY (tenant_id, id));
             SELECT tally.protect('shop.orders'); GRANT SELECT, INSERT, UPDATE, DELETE ON shop.orders TO {tenant}, {pool}, {other};
             {norm}; RESET ROLE;
             SELECT tally.create_rollup('normed', '{{day}}', ARRAY['count(*) AS n'], ARRAY['shop.norm(name) AS name'])"
        ))
        .unwrap();
    let signer = TokenSigner::new("grammar", 5);
    signer.register(&mut superuser).unwrap();
    let mut roles = vec![tenant, writer, pool.clone(), outside, owner.clone(), admin.clone()];
    let mut witness = database.connect(&other);
    let mut keeper = database.connect(&admin);
    let (stop, stopped) = mpsc::channel::<()>();
    let (mut watch, watched) = (database.superuser(), roles.clone());
    let watchman = thread::spawn(move || {
        let mut ended = Vec::new();
        while stopped.recv_timeout(Duration::from_secs(5)) == Err(RecvTimeoutError::Timeout) {
            ended.extend(end_waiting(&mut watch, &watched));
        }
        ended
    });
    for session in [&mut witness, &mut keeper] {
        session.batch_execute("SET lock_timeout = '5s'; SET statement_timeout = '120s'").unwrap();
    }
    let mut number = 0;
    let mut probe = |witness: &mut Client| {
        number += 1;
        let month = 1 + number % 11;
        let event = format!(
            r#"{{"tenant_id":"c","account_id":"x","name":"n{}","event_id":"00000000-0000-4000-c000-{number:012}","occurred_at":"2026-{month:02}-04T00:00:00Z"}}"#,
            number % 40
        );
        [
            ("ingest", witness.execute("SELECT tally.ingest($1::text)", &[&event])),
            ("a read", witness.execute("SELECT count(*) FROM tally.events", &[])),
            ("a rollup's read", witness.execute("SELECT count(*) FROM tally.usage_day", &[])),
        ]
    };
    for (what, outcome) in probe(&mut witness) {
        assert!(outcome.is_ok(), "{what} works before: {outcome:?}");
    }
    keeper.execute("CALL tally.maintain()", &[]).unwrap();
    let before = rights(&mut superuser, &roles);
    let mut wrong = Vec::new();
    let mut codes: BTreeMap<String, usize> = BTreeMap::new();
    for case in 0..cases {
        let actor = roles[random.below(roles.len())].clone();
        let mut client = database.connect(&actor);
        let mut grammar = Grammar { random: &mut random, role: actor.clone(), number: case as u32 * 100 };
        let mut told = Vec::new();
        let mut transaction = client.transaction().unwrap();
        if actor == pool && grammar.random.below(3) > 0 {
            signer.enter(&mut transaction, "a").unwrap();
        }
        let count = 1 + grammar.random.below(6);
        for _ in 0..count {
            let mut statement = grammar.statement(2);
            if actor == owner && grammar.random.below(3) == 0 {
                statement = grammar.function("shop.norm");
            }
            // An administrator may bind, and what its own open transaction has locked is its own doing.
            if actor == admin
                && BINDING_CALLS.iter().any(|call| statement.contains(&call[..call.find('(').unwrap()]))
            {
                continue;
            }
            let savepoint = transaction.batch_execute("SAVEPOINT each").is_ok();
            let outcome = transaction.simple_query(&statement).map(drop);
            let failed =
                outcome.as_ref().err().and_then(|error| error.code()).map(|code| code.code().to_owned());
            // A session that set itself a short time to idle is ended where the machine is slow.
            let ends_itself =
                told.iter().any(|earlier: &String| earlier.contains("idle_in_transaction_session_timeout"));
            if ends_itself && outcome.as_ref().is_err_and(postgres::Error::is_closed) {
                break;
            }
            if let Err(error) = &outcome {
                if error.is_closed() || failed.as_deref().is_some_and(|code| code.starts_with("XX")) {
                    wrong.push(format!("{actor}: {statement}: {error:?}"));
                }
                if savepoint {
                    let _ = transaction.batch_execute("ROLLBACK TO each");
                }
            }
            *codes.entry(failed.clone().unwrap_or_default()).or_default() += 1;
            told.push(format!("{statement} -- {}", failed.unwrap_or_default()));
        }
        if actor != admin {
            for (what, outcome) in probe(&mut witness) {
                if let Some(problem) = waited(outcome) {
                    wrong.push(format!("{what} waited for {actor}: {problem}\n  {}", told.join("\n  ")));
                }
            }
            if case % 4 == 0
                && let Some(problem) = waited(keeper.execute("CALL tally.maintain()", &[]))
            {
                wrong.push(format!("maintain() waited for {actor}: {problem}\n  {}", told.join("\n  ")));
            }
        }
        if random.below(2) == 0 && actor != admin {
            let _ = transaction.commit();
        } else {
            let _ = transaction.rollback();
        }
        drop(client);
        // What the owner made of its function meets the next ingest of others.
        for (what, outcome) in probe(&mut witness) {
            if let Some(problem) = waited(outcome) {
                wrong.push(format!("{what} waited after {actor}: {problem}\n  {}", told.join("\n  ")));
            }
        }
        let gained = gained(&before, &rights(&mut superuser, &roles));
        if !gained.is_empty() {
            wrong.push(format!("{actor}: {}\n  {}", gained.join("; "), told.join("\n  ")));
            break;
        }
        superuser.batch_execute(norm).unwrap();
    }
    drop(stop);
    wrong.extend(watchman.join().unwrap());
    // Statements that say nothing would prove nothing.
    println!("{codes:?}");
    let total: usize = codes.values().sum();
    let of = |code: &str| codes.get(code).copied().unwrap_or_default();
    assert!(of("") * 8 > total && of("42601") * 10 < total, "{codes:?}");
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
    roles.clear();
}
