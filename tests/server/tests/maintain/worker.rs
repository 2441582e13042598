//! The background worker does the housekeeping of each listed database as an ordinary role, refuses to be a superuser,
//! comes back after a kill, and follows a reload. pg_cron does the same housekeeping.

use postgres::Client;
use tally_server_tests::{PrivateServer, ingest, wait_for};

const SETTINGS: &str = "shared_preload_libraries = 'pg_tally'\ntally.worker_databases = 'one, two'\n\
                        tally.worker_role = 'keeper'\ntally.worker_interval = 1\nlog_min_messages = warning";

fn event(number: usize) -> String {
    format!(
        r#"{{"tenant_id":"t","account_id":"a","name":"n","event_id":"00000000-0000-4000-8000-{number:012}","occurred_at":"2026-01-01T00:00:00Z"}}"#
    )
}

fn pending(client: &mut Client) -> i64 {
    client.query_one("SELECT count(*) FROM tally.usage_pending", &[]).unwrap().get(0)
}

fn workers(client: &mut Client) -> Vec<(String, String, i32)> {
    let query = "SELECT datname::text, usename::text, pid FROM pg_stat_activity WHERE backend_type = 'pg_tally worker' ORDER BY 1";
    client.query(query, &[]).unwrap().iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect()
}

fn worker_health(server: &PrivateServer, database: &str) -> (String, Option<String>) {
    let mut client = server.connect("postgres", database);
    let mut transaction = client.transaction().unwrap();
    transaction.execute("SELECT tally.enter_global()", &[]).unwrap();
    let row = transaction
        .query_one("SELECT status, advice FROM tally.health() WHERE component = 'worker'", &[])
        .unwrap();
    (row.get(0), row.get(1))
}

#[test]
fn the_worker_keeps_house_as_an_ordinary_role() {
    // Preloaded before the role, the databases or the extension are there: it says so and tries again.
    let server = PrivateServer::create("worker", SETTINGS);
    wait_for("the worker to tell what is missing", || {
        server.log().contains("\"keeper\" does not exist").then_some(())
    });
    let mut admin = server.connect("postgres", "postgres");
    admin.batch_execute("CREATE ROLE keeper LOGIN").unwrap();
    for database in ["one", "two"] {
        admin.batch_execute(&format!("CREATE DATABASE {database}")).unwrap();
        server
            .connect("postgres", database)
            .batch_execute("CREATE EXTENSION pg_tally; SELECT tally.open_months('-infinity')")
            .unwrap();
    }
    let mut one = server.connect("postgres", "one");
    ingest(&mut one, &event(1)).unwrap();
    assert_eq!(pending(&mut one), 1);
    assert_eq!(worker_health(&server, "one").0, "failing");
    // Not yet a member of tally_admin, then a superuser: refused.
    server.stop();
    server.start();
    wait_for("the refusal", || {
        server.log().contains("the role is not a member of tally_admin").then_some(())
    });
    let mut admin = server.connect("postgres", "postgres");
    admin.batch_execute("GRANT tally_admin TO keeper; ALTER ROLE keeper SUPERUSER").unwrap();
    drop(one);
    server.stop();
    server.start();
    wait_for("the refusal", || server.log().contains("the role is a superuser").then_some(()));
    let mut one = server.connect("postgres", "one");
    assert_eq!(pending(&mut one), 1, "a superuser keeps no house");
    server.connect("postgres", "postgres").batch_execute("ALTER ROLE keeper NOSUPERUSER").unwrap();
    // What the database's owner puts in the path, the worker doesn't call.
    one.batch_execute(
        "CREATE TABLE public.trace (what text); CREATE SCHEMA evil; GRANT USAGE ON SCHEMA evil TO PUBLIC; GRANT INSERT ON public.trace TO PUBLIC;
         CREATE FUNCTION evil.to_regprocedure(x text) RETURNS regprocedure LANGUAGE sql AS $$ INSERT INTO public.trace VALUES ('to_regprocedure'); SELECT pg_catalog.to_regprocedure(x) $$;
         CREATE FUNCTION evil.to_regrole(x text) RETURNS regrole LANGUAGE sql AS $$ INSERT INTO public.trace VALUES ('to_regrole'); SELECT pg_catalog.to_regrole(x) $$;
         CREATE FUNCTION evil.same(x name, y name) RETURNS boolean LANGUAGE sql AS $$ INSERT INTO public.trace VALUES ('='); SELECT x OPERATOR(pg_catalog.=) y $$;
         CREATE OPERATOR evil.= (LEFTARG = name, RIGHTARG = name, FUNCTION = evil.same);
         ALTER DATABASE one SET search_path = evil, pg_catalog",
    )
    .unwrap();
    drop(one);
    server.stop();
    server.start();

    // Both databases are looked after, each by a worker of its own.
    let mut one = server.connect("postgres", "one");
    wait_for("the fold", || (pending(&mut one) == 0).then_some(()));
    // Who folds must tell the statistics: ingest takes from them what is pending, and autovacuum what is dead.
    wait_for("the deletions to be counted", || {
        let query = "SELECT n_tup_del > 0 AND n_live_tup = 0 FROM pg_stat_user_tables WHERE relid = 'tally.usage_pending'::regclass";
        one.query_one(query, &[]).unwrap().get::<_, bool>(0).then_some(())
    });
    let sprung = one.query("SELECT what FROM public.trace", &[]).unwrap();
    assert!(sprung.is_empty(), "{sprung:?}");
    one.batch_execute("ALTER DATABASE one RESET search_path; RESET search_path").unwrap();
    let both = wait_for("both workers", || Some(workers(&mut one)).filter(|found| found.len() == 2));
    assert_eq!((both[0].0.as_str(), both[0].1.as_str()), ("one", "keeper"));
    assert_eq!((both[1].0.as_str(), both[1].1.as_str()), ("two", "keeper"));
    wait_for("health to know", || (worker_health(&server, "one") == ("ok".into(), None)).then_some(()));
    let caller: String = one
        .query_one(
            "SELECT caller::text FROM tally.maintenance WHERE task = 'fold' AND subject = 'usage'",
            &[],
        )
        .unwrap()
        .get(0);
    assert_eq!(caller, "keeper");

    // A task that fails is written down, and the others are done.
    one.batch_execute("ALTER FUNCTION tally_internal.analyze_events() RENAME TO hidden").unwrap();
    ingest(&mut one, &event(2)).unwrap();
    wait_for("the failure to be noted", || {
        let query = "SELECT 1 FROM tally.maintenance WHERE task = 'statistics' AND sqlstate = '42883' AND failed_at IS NOT NULL";
        one.query_opt(query, &[]).unwrap().map(|_| ())
    });
    assert!(
        server.log().contains("pg_tally event=maintain_failed task=statistics subject=\"\" sqlstate=42883")
    );
    wait_for("the fold", || (pending(&mut one) == 0).then_some(()));
    one.batch_execute("ALTER FUNCTION tally_internal.hidden() RENAME TO analyze_events").unwrap();
    wait_for("success to be noted", || {
        let query = "SELECT 1 FROM tally.maintenance WHERE task = 'statistics' AND failed_at IS NULL";
        one.query_opt(query, &[]).unwrap().map(|_| ())
    });

    // A reload ends the worker of a database that is no longer listed.
    server.configure("tally.worker_databases = 'one'");
    server.reload();
    wait_for("the worker of two to end", || (workers(&mut one).len() == 1).then_some(()));

    // Killed, with the whole server's other processes: back again.
    let pid = workers(&mut one)[0].2;
    one.batch_execute(&format!("SELECT pg_terminate_backend({pid})")).unwrap();
    drop(one);
    wait_for("another worker", || {
        let mut client = server.config("postgres", "one").connect(postgres::NoTls).ok()?;
        workers(&mut client).first().filter(|worker| worker.2 != pid).map(|_| ())
    });
}

#[test]
fn pg_cron_keeps_house_as_an_ordinary_role() {
    let server = PrivateServer::create("cron", "");
    server.stop();
    let sockets = server.sockets().display();
    server.configure(&format!(
        "shared_preload_libraries = 'pg_cron'\ncron.host = '{sockets}'\ncron.timezone = 'UTC'"
    ));
    server.start();
    let mut admin = server.connect("postgres", "postgres");
    admin.batch_execute("CREATE EXTENSION pg_cron; CREATE ROLE dba LOGIN").unwrap();
    admin.batch_execute("CREATE DATABASE shop").unwrap();
    let mut shop = server.connect("postgres", "shop");
    shop.batch_execute("CREATE EXTENSION pg_tally; GRANT tally_admin TO dba").unwrap();
    ingest(&mut shop, &event(1)).unwrap();
    assert_eq!(pending(&mut shop), 1);
    // As docs/runbooks/install.md has it: at the next full minute.
    let schedule =
        "SELECT cron.schedule_in_database('tally', '* * * * *', 'CALL tally.maintain()', 'shop', 'dba')";
    admin.batch_execute(schedule).unwrap();
    let mut seconds = 0;
    while pending(&mut shop) > 0 {
        seconds += 1;
        assert!(seconds <= 240, "a job has run within four minutes:\n{}", server.log());
        std::thread::sleep(std::time::Duration::from_secs(1));
    }
    let by: String = shop
        .query_one(
            "SELECT caller::text FROM tally.maintenance WHERE task = 'fold' AND subject = 'usage'",
            &[],
        )
        .unwrap()
        .get(0);
    assert_eq!(by, "dba");
    wait_for("the job to be noted", || {
        let done = "SELECT FROM cron.job_run_details WHERE status = 'succeeded' AND database = 'shop' AND username = 'dba'";
        admin.query_opt(done, &[]).unwrap()
    });
}
