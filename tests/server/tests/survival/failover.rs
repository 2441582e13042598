//! A streaming standby answers the views and refuses writes; and when the primary is killed under load and the standby
//! promoted, clients that retry lose no acknowledged event and count none twice. `TALLY_FAILOVER_SECONDS` sets how long
//! the load runs before the kill and after it (2).

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;
use tally_server_tests::{PrivateServer, ingest, json_array, wait_for};

const WRITERS: usize = 4;
const BATCH: usize = 100;

/// Batch `number` of a writer; every other event is also its neighbour's.
fn keys(writer: usize, number: usize) -> impl Iterator<Item = usize> {
    (0..BATCH).map(move |place| {
        let owner = if place % 2 == 0 { writer / 2 } else { WRITERS + writer };
        owner << 32 | (number * BATCH + place)
    })
}

fn batch(writer: usize, number: usize) -> String {
    let events: Vec<String> = keys(writer, number)
        .map(|key| {
            format!(
                r#"{{"tenant_id":"t{}","account_id":"a{}","name":"n{}","user_id":"u{}","event_id":"00000000-0000-4000-8000-{key:012x}",
                    "occurred_at":"2026-0{}-01T00:00:00Z","properties":{{"value":{}}}}}"#,
                key % 3, key % 5, key % 4, key % 31, 1 + key % 3, key % 1000
            )
        })
        .collect();
    json_array(events.iter().map(String::as_str))
}

#[test]
fn a_standby_reads_and_takes_over_without_losing_or_repeating_anything() {
    let seconds =
        std::env::var("TALLY_FAILOVER_SECONDS").map_or(2, |text| text.parse().expect("a whole number"));
    let primary = PrivateServer::create("primary", "synchronous_commit = on");
    primary.connect("postgres", "postgres").batch_execute("CREATE DATABASE shop").unwrap();
    primary
        .connect("postgres", "shop")
        .batch_execute(
            "CREATE EXTENSION pg_tally; SELECT tally.open_months('-infinity');
             CREATE ROLE app LOGIN; GRANT tally_writer, tally_reader TO app; SELECT tally.trust_role('app');
             CREATE ROLE bi LOGIN; GRANT tally_reader TO bi; SELECT tally.bind_role('bi', 't1');
             CREATE ROLE dba LOGIN; GRANT tally_admin TO dba;",
        )
        .unwrap();
    let standby = primary.standby("standby", "");
    primary.configure("synchronous_standby_names = 'standby'");
    primary.reload();
    let mut app = primary.connect("app", "shop");
    wait_for("the standby to be synchronous", || {
        let synchronous = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'";
        (primary.connect("postgres", "shop").query_one(synchronous, &[]).unwrap().get::<_, i64>(0) == 1)
            .then_some(())
    });
    assert_eq!(ingest(&mut app, &batch(0, 0)).unwrap().accepted, BATCH as i64);

    // Synchronous means written there, shown there a moment later.
    let mut bi = standby.connect("bi", "shop");
    let shown = wait_for("the standby to show the events", || {
        let query = "SELECT sum(events)::int8 FROM tally.usage_day";
        bi.query_one(query, &[]).unwrap().get::<_, Option<i64>>(0)
    });
    let own = keys(0, 0).filter(|key| key % 3 == 1).count() as i64;
    assert_eq!(shown, own, "the bound role sees its tenant alone, there too");
    let mut reader = standby.connect("app", "shop");
    let mut transaction = reader.transaction().unwrap();
    transaction.execute("SELECT tally.enter('t2')", &[]).unwrap();
    assert!(
        transaction
            .query_one("SELECT sum(events)::int8 FROM tally.usage_hour", &[])
            .unwrap()
            .get::<_, i64>(0)
            > 0
    );
    transaction.commit().unwrap();
    assert_eq!(
        reader.query("SELECT * FROM tally.usage_day", &[]).unwrap_err().code().unwrap().code(),
        "42501"
    );
    let mut dba = standby.connect("dba", "shop");
    let mut transaction = dba.transaction().unwrap();
    transaction.execute("SELECT tally.enter_global()", &[]).unwrap();
    assert!(transaction.query("SELECT * FROM tally.verify_rollup('usage')", &[]).unwrap().is_empty());
    assert!(transaction.query("SELECT component FROM tally.health()", &[]).unwrap().len() > 3);
    transaction.commit().unwrap();
    // Writes say what they are and where they can't be.
    let refused = ingest(&mut reader, &batch(0, 1)).unwrap_err();
    let refused = refused.as_db_error().unwrap();
    assert_eq!(refused.code().code(), "25006");
    assert!(
        refused.message().contains("tally.ingest()") && refused.message().contains("recovery"),
        "{refused}"
    );
    for write in [
        "SELECT tally.fold('usage')",
        "SELECT tally.rebuild_rollup('usage')",
        "SELECT tally.drop_raw(now())",
        "CALL tally.maintain()",
        "SELECT tally.create_rollup('x', '{day}', ARRAY['count(*) AS n'])",
    ] {
        let refused = dba.batch_execute(write).unwrap_err();
        assert_eq!(refused.code().unwrap().code(), "25006", "{write}: {refused}");
    }

    let (done, promoted) = (AtomicBool::new(false), AtomicBool::new(false));
    let acknowledged: Vec<(usize, usize)> = thread::scope(|scope| {
        let (done, promoted, primary, standby) = (&done, &promoted, &primary, &standby);
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                scope.spawn(move || {
                    let mut acknowledged = 0;
                    let mut client = None;
                    let mut refused = 0;
                    loop {
                        let server = if promoted.load(Ordering::Relaxed) { standby } else { primary };
                        let connected = client
                            .take()
                            .or_else(|| server.config("app", "shop").connect(postgres::NoTls).ok());
                        let Some(mut connected) = connected else {
                            thread::sleep(Duration::from_millis(20));
                            continue;
                        };
                        // Without an answer the same batch is sent again.
                        match ingest(&mut connected, &batch(writer, acknowledged)) {
                            Ok(summary) => {
                                assert_eq!(
                                    (summary.sent(), summary.conflicts + summary.rejected),
                                    (BATCH as i64, 0)
                                );
                                acknowledged += 1;
                                client = Some(connected);
                                if done.load(Ordering::Relaxed) {
                                    return (acknowledged, refused);
                                }
                            }
                            Err(_) => refused += 1,
                        }
                    }
                })
            })
            .collect();
        thread::sleep(Duration::from_secs(seconds));
        primary.kill();
        standby.promote();
        promoted.store(true, Ordering::Relaxed);
        thread::sleep(Duration::from_secs(seconds));
        done.store(true, Ordering::Relaxed);
        writers.into_iter().map(|writer| writer.join().unwrap()).collect()
    });

    // Every key of every acknowledged batch, once.
    let wanted: std::collections::HashSet<usize> = acknowledged
        .iter()
        .enumerate()
        .flat_map(|(writer, &(batches, _))| (0..batches).flat_map(move |number| keys(writer, number)))
        .collect();
    let mut superuser = standby.connect("postgres", "shop");
    let mut count = |query: &str| superuser.query_one(query, &[]).unwrap().get::<_, i64>(0) as usize;
    assert_eq!(count("SELECT count(*) FROM tally.events"), wanted.len());
    assert_eq!(count("SELECT count(DISTINCT event_id) FROM tally.events"), wanted.len());
    assert_eq!(count("SELECT count(*) FROM tally.event_key"), wanted.len());
    assert_eq!(count("SELECT sum(events)::int8 FROM tally.usage_day"), wanted.len());
    let mut dba = standby.connect("dba", "shop");
    dba.batch_execute("CALL tally.maintain()").unwrap();
    let mut transaction = dba.transaction().unwrap();
    transaction.execute("SELECT tally.enter_global()", &[]).unwrap();
    assert!(transaction.query("SELECT * FROM tally.verify_rollup('usage')", &[]).unwrap().is_empty());
    let refused: usize = acknowledged.iter().map(|&(_, refused)| refused).sum();
    println!(
        "{} events acknowledged, {} distinct, {refused} calls without an answer",
        acknowledged.iter().map(|a| a.0 * BATCH).sum::<usize>(),
        wanted.len()
    );
}
