//! Nobody stops the others: whatever a client's transaction has done and however long it stays open, other tenants' ingest,
//! reads and housekeeping end soon, or with an error that names who is in the way.

use postgres::Client;
use std::time::{Duration, Instant};
use tally_server_tests::{Database, ingest, number, wait_for};

/// What others may have to wait for a lock, and for an answer in all on a machine that is slow and busy. Whoever stands in the way
/// here does so for ever.
const LOCK_WAIT: &str = "SET lock_timeout = '5s'";
const SOON: Duration = Duration::from_secs(40);

struct Shop {
    database: Database,
    /// Readers and writers bound to tenants a and b.
    a: String,
    b: String,
    admin: String,
}

impl Shop {
    fn new(topic: &str) -> Self {
        let mut database = Database::new(topic);
        let groups = ["tally_writer", "tally_reader"];
        let (a, b) = (database.role("a", &groups), database.role("b", &groups));
        let admin = database.role("admin", &["tally_admin"]);
        let mut superuser = database.superuser();
        for (role, tenant) in [(&a, "a"), (&b, "b")] {
            superuser.execute("SELECT tally.bind_role($1::text::regrole, $2)", &[role, &tenant]).unwrap();
        }
        // Both tenants are known, and there are months enough.
        for tenant in ["a", "b"] {
            for month in ["2024-01", "2024-02", "2026-10", "2026-11"] {
                assert_eq!(ingest(&mut superuser, &event(tenant, month, 0)).unwrap().accepted, 1);
            }
        }
        for rollup in ["usage", "session", "user_activity"] {
            number(&mut superuser, &format!("SELECT tally.fold('{rollup}')"));
        }
        Self { database, a, b, admin }
    }

    fn a(&self) -> Client {
        self.database.connect(&self.a)
    }

    fn b(&self) -> Client {
        self.database.connect(&self.b)
    }

    fn admin(&self) -> Client {
        let mut admin = self.database.connect(&self.admin);
        // A loop in the test must not go on for ever where something is wrong.
        admin.batch_execute("SET statement_timeout = '180s'").unwrap();
        admin
    }

    /// While something else goes on, tenant b reads, sends, and sends again: each at once.
    fn assert_b_is_free(&self, during: &str, first: usize) {
        let mut b = self.b();
        b.batch_execute(&format!("SET statement_timeout = '60s'; {LOCK_WAIT}")).unwrap();
        for round in 0..3 {
            soon(&format!("reading during {during}"), || {
                number(&mut b, "SELECT count(*) FROM tally.events");
            });
            soon(&format!("reading a rollup during {during}"), || {
                number(&mut b, "SELECT coalesce(sum(events), 0)::int8 FROM tally.usage_day");
            });
            soon(&format!("ingest during {during}"), || {
                assert_eq!(ingest(&mut b, &event("b", "2026-11", first + round)).unwrap().accepted, 1);
            });
        }
    }
}

fn soon<T>(what: &str, work: impl FnOnce() -> T) -> T {
    let began = Instant::now();
    let result = work();
    assert!(began.elapsed() < SOON, "{what} took {:?}", began.elapsed());
    result
}

fn event(tenant: &str, month: &str, number: usize) -> String {
    let tenant_digit = if tenant == "a" { 'a' } else { 'b' };
    let month_digits = month.replace('-', "");
    format!(
        r#"{{"tenant_id":"{tenant}","account_id":"x","name":"n","user_id":"u{number}","occurred_at":"{month}-15T12:00:00Z",
            "event_id":"{tenant_digit}0{month_digits}-0000-4000-8000-{number:012}"}}"#
    )
}

/// `count` events of accounts of their own, so that each leaves a pending row.
fn many(tenant: &str, from: usize, count: usize) -> String {
    let events: Vec<String> = (from..from + count)
        .map(|n| {
            format!(
                r#"{{"tenant_id":"{tenant}","account_id":"account {tenant} {n}","name":"n","user_id":"u{n}","session_id":"s{n}",
                    "occurred_at":"2026-11-15T12:00:00Z","event_id":"{tenant}1000000-0000-4000-8000-{n:012}"}}"#
            )
        })
        .collect();
    format!("[{}]", events.join(","))
}

fn sqlstate(error: &postgres::Error) -> String {
    error.code().map(|code| code.code().to_owned()).unwrap_or_default()
}

/// What a tenant may leave open.
fn hostile(shop: &Shop) -> Vec<(&'static str, Client)> {
    let statements = [
        ("a read of the events", "BEGIN; SELECT count(*) FROM tally.events".to_owned()),
        ("a cursor", "BEGIN; DECLARE c CURSOR FOR SELECT * FROM tally.events; FETCH 1 FROM c".to_owned()),
        ("a read of a rollup", "BEGIN; SELECT * FROM tally.usage_day".to_owned()),
        (
            "a serializable read",
            "BEGIN ISOLATION LEVEL SERIALIZABLE; SELECT count(*) FROM tally.events".to_owned(),
        ),
        ("a write", format!("BEGIN; SELECT tally.ingest('{}'::text)", event("a", "2026-11", 500))),
        (
            "a write into a new month",
            format!("BEGIN; SELECT tally.ingest('{}'::text)", event("a", "2025-07", 501)),
        ),
        (
            "a write in a savepoint",
            format!("BEGIN; SAVEPOINT s; SELECT tally.ingest('{}'::text)", event("a", "2026-11", 502)),
        ),
    ];
    statements
        .into_iter()
        .map(|(what, statement)| {
            let mut client = shop.a();
            client.batch_execute(&statement).unwrap();
            (what, client)
        })
        .collect()
}

/// Retention is due for months and rows; neither readers, nor writers, nor a transaction that is prepared and left, make
/// housekeeping wait or others behind it.
#[test]
fn housekeeping_waits_for_nobody_and_nobody_for_it() {
    let shop = Shop::new("idle");
    let mut admin = shop.admin();
    admin.batch_execute("SELECT tally.set_retention(NULL, '400 days')").unwrap();
    for (number, (what, mut client)) in hostile(&shop).into_iter().enumerate() {
        std::thread::scope(|scope| {
            let maintaining = scope.spawn(|| {
                let mut admin = shop.admin();
                let began = Instant::now();
                admin.batch_execute("CALL tally.maintain()").unwrap();
                began.elapsed()
            });
            shop.assert_b_is_free(what, 10 + 10 * number);
            let took = maintaining.join().unwrap();
            // Three locks are tried at most, each for less than a third of a second.
            assert!(took < 2 * SOON, "maintain() took {took:?} during {what}");
        });
        client.batch_execute("ROLLBACK").unwrap();
    }
    // Prepared and left alone, not even a restart ends it.
    let mut superuser = shop.database.superuser();
    let gid = format!("left by {}", shop.database.name());
    superuser
        .batch_execute(&format!(
            "BEGIN; SELECT tally.ingest('{}'::text); PREPARE TRANSACTION '{gid}'",
            event("a", "2026-11", 600)
        ))
        .unwrap();
    admin.batch_execute("CALL tally.maintain()").unwrap();
    shop.assert_b_is_free("a prepared transaction", 200);
    let problem = "SELECT problem FROM tally.maintenance WHERE task = 'retention' AND failed_at IS NOT NULL";
    let said: Option<String> = superuser.query_opt(problem, &[]).unwrap().map(|row| row.get(0));
    assert!(said.is_some_and(|said| said.contains("ingest")), "what was kept waiting is noted");
    let refused = admin.query("SELECT tally.drop_raw('2024-02-01')", &[]).unwrap_err();
    assert_eq!(sqlstate(&refused), "55P03", "{refused}");
    let detail = refused.as_db_error().unwrap().detail().unwrap().to_owned();
    assert!(detail.contains(&gid), "{detail}");
    superuser.batch_execute(&format!("ROLLBACK PREPARED '{gid}'")).unwrap();
    // Now everything is done that was left.
    admin.batch_execute("CALL tally.maintain()").unwrap();
    let left = "SELECT count(*) FROM pg_inherits WHERE inhparent = 'tally.events'::regclass AND inhrelid::regclass::text ~ 'p2024'";
    assert_eq!(number(&mut superuser, left), 0, "the months that are due are gone");
    assert_eq!(
        number(&mut superuser, "SELECT count(*) FROM tally.maintenance WHERE failed_at IS NOT NULL"),
        0
    );
}

/// Whatever of its own a tenant, or who judges its exports, has locked in a transaction that stays open: an erasure of one of its persons is refused, or
/// comes again with housekeeping, and nobody's ingest waits. Nothing of it is lost.
#[test]
fn an_erasure_waits_for_nobody_with_ingest_locked_out() {
    let mut shop = Shop::new("erased");
    let judge = shop.database.role("judge", &["tally_admin"]);
    let mut superuser = shop.database.superuser();
    superuser
        .batch_execute(
            "SELECT tally.set_step_up_policy('erase_subject', false), tally.set_step_up_policy('approve_export', false)",
        )
        .unwrap();
    let open = [
        ("withdraw_export", &shop.a, "SELECT tally.withdraw_export('ID', 'no')"),
        ("withdraw_export in a savepoint", &shop.a, "SAVEPOINT s; SELECT tally.withdraw_export('ID', 'no')"),
        ("approve_export", &judge, "SELECT tally.approve_export('ID')"),
        ("reject_export", &judge, "SELECT tally.reject_export('ID', 'no')"),
        ("discard", &shop.a, "SELECT tally.discard('junk')"),
        ("redrive", &shop.a, "SELECT tally.redrive()"),
    ];
    let left = |superuser: &mut Client, person: &str| {
        let left = format!(
            "SELECT (SELECT count(*) FROM tally.events WHERE user_id = '{person}') + (SELECT count(*) FROM tally.quarantine WHERE body ~ '{person}') \
                  + (SELECT count(*) FROM tally.export WHERE purpose ~ '{person}')"
        );
        number(superuser, &left)
    };
    for (place, (what, role, statement)) in open.into_iter().enumerate() {
        let person = format!("person-{place}");
        let sent = |time: &str| of_person(&person, time, place);
        let mut a = shop.a();
        assert_eq!(ingest(&mut a, &sent("2026-11-15T12:00:00Z")).unwrap().accepted, 1);
        assert_eq!(ingest(&mut a, &sent("never")).unwrap().rejected, 1);
        let request = "SELECT tally.request_export('SELECT name FROM tally.events', $1, 10)::text";
        let id: String = a.query_one(request, &[&format!("about {person}")]).unwrap().get(0);
        let mut holder = shop.database.connect(role);
        holder.batch_execute("BEGIN").unwrap();
        for statement in statement.replace("ID", &id).split("; ") {
            holder.batch_execute(statement).unwrap_or_else(|error| panic!("{what}: {error:?}"));
        }
        for round in 0..2 {
            std::thread::scope(|scope| {
                let erasing = scope.spawn(|| {
                    let mut admin = shop.admin();
                    if round == 0 {
                        return admin.batch_execute(&format!(
                            "SELECT tally.erase_subject('a', '{person}', 'asked for')"
                        ));
                    }
                    admin
                        .batch_execute(&format!(
                            "SELECT tally.erase_subjects('a', '{{{person}}}', 'asked for')"
                        ))
                        .unwrap();
                    admin.batch_execute("CALL tally.maintain()")
                });
                std::thread::sleep(Duration::from_secs(1));
                shop.assert_b_is_free(what, 3000 + 100 * place + 10 * round);
                let answer = soon(what, || erasing.join().unwrap());
                if round == 1 {
                    return answer.unwrap_or_else(|error| panic!("{what}: {error:?}"));
                }
                let refused = answer.expect_err(what);
                assert_eq!(sqlstate(&refused), "55P03", "{what}: {refused:?}");
                let refused = refused.as_db_error().unwrap();
                assert!(
                    refused.detail().unwrap().contains(&format!("process {}", pid_of(&shop, role))),
                    "{what}: {refused:?}"
                );
                assert!(refused.hint().unwrap().contains("try again"), "{what}: {refused:?}");
                let noted = "SELECT count(*) FROM tally.erasure WHERE finished_at IS NULL";
                assert_eq!(number(&mut shop.database.superuser(), noted), 0, "{what}");
            });
        }
        assert!(left(&mut superuser, &person) > 0, "{what}");
        holder.batch_execute("ROLLBACK").unwrap();
        assert_eq!(
            number(&mut superuser, "SELECT count(*) FROM tally.erasure WHERE finished_at IS NULL"),
            1,
            "{what}"
        );
        shop.admin().batch_execute("CALL tally.maintain()").unwrap();
        assert_eq!(left(&mut superuser, &person), 0, "{what}");
        let failed = "SELECT count(*) FROM tally.maintenance WHERE failed_at IS NOT NULL";
        assert_eq!(number(&mut superuser, failed), 0, "{what}");
    }
}

/// What a tenant has of its own, and may have as much of as it likes, is read before ingest is locked out, and each quarantined event once.
#[test]
fn an_erasure_reads_a_tenants_own_before_ingest_is_locked_out() {
    let shop = Shop::new("sought");
    shop.database.set("track_functions = 'all'");
    let mut superuser = shop.database.superuser();
    superuser.batch_execute("SELECT tally.set_step_up_policy('erase_subject', false)").unwrap();
    let mut a = shop.a();
    let waiting: Vec<String> = (0..30).map(|n| of_person(&format!("nobody-{n}"), "never", 500 + n)).collect();
    assert_eq!(ingest(&mut a, &format!("[{}]", waiting.join(","))).unwrap().rejected, 30);
    let opened = "SELECT coalesce(sum(calls), 0)::int8 FROM pg_stat_user_functions WHERE funcname = 'readable_quarantined'";
    for (place, (table, is_step)) in [
        ("quarantine", false),
        ("export", false),
        ("audit_personal", false),
        ("quarantine", true),
        ("export", true),
        ("audit_personal", true),
    ]
    .into_iter()
    .enumerate()
    {
        let person = format!("person-{place}");
        assert_eq!(
            ingest(&mut a, &of_person(&person, "2026-11-15T12:00:00Z", 600 + place)).unwrap().accepted,
            1
        );
        assert_eq!(ingest(&mut a, &of_person(&person, "never", 600 + place)).unwrap().rejected, 1);
        let before = number(&mut superuser, opened);
        let mut holder = shop.database.superuser();
        holder.batch_execute(&format!("BEGIN; LOCK TABLE tally.{table} IN ACCESS EXCLUSIVE MODE")).unwrap();
        let mut admin = shop.admin();
        let admin_pid = pid(&mut admin);
        std::thread::scope(|scope| {
            let erasing = scope.spawn(|| {
                if !is_step {
                    return admin
                        .batch_execute(&format!("SELECT tally.erase_subject('a', '{person}', 'asked for')"));
                }
                // Steps alone, of which nothing else of housekeeping keeps one.
                admin.batch_execute(&format!(
                    "SELECT tally.erase_subjects('a', '{{{person}}}', 'asked for')"
                ))?;
                for _ in 0..100 {
                    if number(&mut admin, "SELECT tally_internal.erasure_step('a', 1000)") == 0 {
                        break;
                    }
                }
                Ok(())
            });
            let waits = format!(
                "SELECT count(*) FROM pg_locks WHERE pid = {admin_pid} AND relation = 'tally.{table}'::regclass AND NOT granted"
            );
            wait_for("the erasure to read", || (number(&mut superuser, &waits) > 0).then_some(()));
            let locked = "SELECT count(*) FROM pg_locks WHERE relation = 'tally.rollup'::regclass AND mode = 'ShareRowExclusiveLock' AND granted";
            assert_eq!(number(&mut superuser, locked), 0, "ingest is locked out while {table} is read");
            shop.assert_b_is_free(table, 4000 + 10 * place);
            holder.batch_execute("ROLLBACK").unwrap();
            soon(table, || erasing.join().unwrap()).unwrap();
        });
        let left = format!(
            "SELECT (SELECT count(*) FROM tally.events WHERE user_id = '{person}') + (SELECT count(*) FROM tally.quarantine WHERE body ~ '{person}')"
        );
        assert_eq!(number(&mut superuser, &left), 0, "{table}");
        assert_eq!(number(&mut superuser, "SELECT count(*) FROM tally.quarantine"), 30);
        drop(admin);
        wait_for("the calls to be counted", || (number(&mut superuser, opened) > before).then_some(()));
        let times = number(&mut superuser, opened) - before;
        assert!(times <= 33, "31 quarantined events were opened {times} times");
    }
}

/// An event of somebody of tenant a's, valid or, by its time, not.
fn of_person(person: &str, time: &str, number: usize) -> String {
    format!(
        r#"{{"tenant_id":"a","account_id":"x","name":"n","user_id":"{person}","occurred_at":"{time}",
            "event_id":"a9000000-0000-4000-8000-{number:012}"}}"#
    )
}

/// The process of the only transaction of a role's that idles.
fn pid_of(shop: &Shop, role: &str) -> i32 {
    let idle = "SELECT pid FROM pg_stat_activity WHERE usename = $1::text AND state = 'idle in transaction'";
    shop.database.superuser().query_one(idle, &[&role]).unwrap().get(0)
}

/// A month that can't be dropped because somebody reads is emptied row by row: events go when their time has come.
#[test]
fn retention_goes_on_while_somebody_reads() {
    let shop = Shop::new("emptied");
    shop.admin().batch_execute("SELECT tally.set_retention(NULL, '400 days')").unwrap();
    let mut reader = shop.a();
    reader
        .batch_execute("BEGIN; SELECT count(*) FROM tally.usage_day; SELECT count(*) FROM tally.events")
        .unwrap();
    shop.admin().batch_execute("CALL tally.maintain()").unwrap();
    let mut superuser = shop.database.superuser();
    assert_eq!(number(&mut superuser, "SELECT count(*) FROM tally.events_p2024_01"), 0);
    assert_eq!(
        number(&mut superuser, "SELECT count(*) FROM tally.event_key WHERE occurred_at < '2024-02-01'"),
        0
    );
}

/// Whoever declares gets an answer in bounded time, with the holder's process in it; others get through all the while.
#[test]
fn declarations_end_with_an_error_that_names_the_holder() {
    let shop = Shop::new("declared");
    let mut admin = shop.admin();
    admin.batch_execute("SELECT tally.create_rollup('extra', '{day}', ARRAY['count(*) AS n'])").unwrap();
    let commands = [
        ("a", "SELECT tally.create_rollup('another', '{day}', ARRAY['count(*) AS n'])"),
        ("a", "SELECT tally.alter_rollup('extra', ARRAY['count(user_id) AS m'])"),
        ("b", "SELECT tally.alter_rollup('extra', ARRAY['count(user_id) AS m'])"),
        ("a", "SELECT tally.rebuild_rollup('extra')"),
        ("b", "SELECT tally.drop_rollup('extra')"),
        ("a", "SELECT tally.isolate_tenant('a', '2026-10-01')"),
        ("b", "SELECT tally.isolate_tenant('a', '2026-10-01')"),
        ("b", "SELECT tally.drop_raw('2024-02-01')"),
        ("b", "SELECT tally.detach_raw('2024-02-01')"),
        ("b", "SELECT tally.move_raw('2024-02-01', 'pg_default')"),
    ];
    // A writer stands in the way of each, a reader in that of those that change what it reads.
    let mut writer = shop.a();
    writer
        .batch_execute(&format!("BEGIN; SELECT tally.ingest('{}'::text)", event("a", "2026-11", 700)))
        .unwrap();
    let mut reader = shop.a();
    reader.batch_execute("BEGIN; SELECT * FROM tally.extra_day; SELECT count(*) FROM tally.events").unwrap();
    let pids = [pid(&mut writer), pid(&mut reader)];
    for ended in [false, true] {
        for (number, (kind, command)) in commands.iter().enumerate() {
            if ended && *kind == "a" {
                continue;
            }
            std::thread::scope(|scope| {
                let declaring = scope.spawn(|| {
                    let began = Instant::now();
                    (shop.admin().batch_execute(command), began.elapsed())
                });
                shop.assert_b_is_free(command, 1000 + 100 * usize::from(ended) + 10 * number);
                let (answer, took) = declaring.join().unwrap();
                let refused = answer.expect_err(command);
                assert_eq!(sqlstate(&refused), "55P03", "{command}: {refused}");
                assert!(took < 2 * SOON, "{command} took {took:?}");
                let error = refused.as_db_error().unwrap();
                let detail = error.detail().unwrap();
                assert!(
                    detail.contains(&format!("process {}", pids[usize::from(ended)])),
                    "{command}: {detail}"
                );
                assert!(error.hint().unwrap().contains("try again"), "{command}");
            });
        }
        // With the writer gone, the reader alone is in the way.
        writer.batch_execute("ROLLBACK").unwrap();
    }
    reader.batch_execute("ROLLBACK").unwrap();
    for command in [
        "SELECT tally.alter_rollup('extra', ARRAY['count(user_id) AS m'])",
        "SELECT tally.drop_rollup('extra')",
    ] {
        admin.batch_execute(command).unwrap();
    }
}

fn pid(client: &mut Client) -> i32 {
    client.query_one("SELECT pg_backend_pid()", &[]).unwrap().get(0)
}

/// An administrator who set a lock_timeout gets the answer by then.
#[test]
fn a_lock_timeout_of_ones_own_counts() {
    let shop = Shop::new("own_timeout");
    let mut writer = shop.a();
    writer
        .batch_execute(&format!("BEGIN; SELECT tally.ingest('{}'::text)", event("a", "2026-11", 1)))
        .unwrap();
    let mut admin = shop.admin();
    admin.batch_execute("SET lock_timeout = '50ms'").unwrap();
    // Without it, all tries with their pauses take eight seconds each time. A machine that is busy is late once, or twice.
    let is_in_time = (0..20).any(|_| {
        let began = Instant::now();
        let refused = admin
            .batch_execute("SELECT tally.create_rollup('another', '{day}', ARRAY['count(*) AS n'])")
            .unwrap_err();
        assert_eq!(sqlstate(&refused), "55P03");
        began.elapsed() < Duration::from_secs(6)
    });
    assert!(is_in_time);
}

/// No lock that SQL can take is one that anything of ours waits for.
#[test]
fn advisory_locks_of_any_login_are_in_nobodys_way() {
    let mut shop = Shop::new("advisory");
    let outsider = shop.database.role("outsider", &[]);
    let mut outsider = shop.database.connect(&outsider);
    // Of every table of ours, with the second numbers that are in use, as one number and as two, shared and not.
    outsider
        .batch_execute(
            "DO $$ DECLARE t oid; BEGIN
               FOR t IN SELECT c.oid FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
                         WHERE n.nspname = 'tally' AND c.relname ~ '^(events|event_key|rollup|quota_take|unregistered_event|.*_pending)$' LOOP
                 FOR k IN 0 .. 4 LOOP
                   PERFORM pg_advisory_lock(t::int4, k), pg_advisory_lock((t::int8 << 32) | k);
                 END LOOP;
               END LOOP;
             END $$",
        )
        .unwrap();
    let mut b = shop.b();
    for month in ["2026-05", "2023-03"] {
        soon("a new month", || {
            assert_eq!(ingest(&mut b, &event("b", month, 1)).unwrap().accepted, 1);
        });
    }
    let mut admin = shop.admin();
    admin.batch_execute("CALL tally.maintain()").unwrap();
    assert_eq!(number(&mut shop.database.superuser(), "SELECT count(*) FROM tally.usage_pending"), 0);
    assert_eq!(
        number(
            &mut shop.database.superuser(),
            "SELECT count(*) FROM tally.maintenance WHERE failed_at IS NOT NULL"
        ),
        0
    );
}

/// An open transaction that was the first in a month keeps nobody from that month, nor from another new one.
#[test]
fn a_new_month_is_there_for_all_at_once() {
    let shop = Shop::new("new_month");
    let (mut a, mut b) = (shop.a(), shop.b());
    for (ending, mine, theirs) in [
        ("ROLLBACK", "2025-03", "2025-04"),
        ("COMMIT", "2025-05", "2025-06"),
        ("ROLLBACK", "2019-01", "2018-01"),
    ] {
        a.batch_execute(&format!("BEGIN; SELECT tally.ingest('{}'::text)", event("a", mine, 1))).unwrap();
        for month in [mine, theirs] {
            soon(&format!("the first event of {month}"), || {
                assert_eq!(ingest(&mut b, &event("b", month, 1)).unwrap().accepted, 1);
            });
        }
        soon("maintain()", || shop.admin().batch_execute("CALL tally.maintain()").unwrap());
        a.batch_execute(ending).unwrap();
    }
    // Each is a partition like any other.
    assert_eq!(
        number(
            &mut shop.database.superuser(),
            "SELECT count(*) FROM tally.lint() WHERE level = 'ERROR' AND detail ~ 'events_p'"
        ),
        0
    );
}

/// How long a process may take to fold what its role has sent, which is refused meanwhile.
const FOLDED_BY: Duration = Duration::from_secs(180);

/// Sends events that may be refused for a while, as a client does that goes by the hint.
fn insist(client: &mut Client, events: &str) {
    let until = Instant::now() + FOLDED_BY;
    while let Err(error) = ingest(client, events) {
        assert!(sqlstate(&error) == "53400" && Instant::now() < until, "{error:?}");
        std::thread::sleep(Duration::from_secs(1));
    }
}

/// Who folds on the side and stays open keeps nobody from sending or folding: bound writers and transaction blocks fold by a
/// process of their own.
#[test]
fn an_open_transaction_that_brought_much_keeps_nobody_from_folding() {
    let shop = Shop::new("folder");
    shop.database.set("tally.pending_limit = '64kB'");
    let (mut a, mut b) = (shop.a(), shop.b());
    let folded = "SELECT coalesce(sum(rows_folded), 0)::int8 FROM tally.rollup_fold";
    let mut superuser = shop.database.superuser();
    for (round, opened) in ["BEGIN", "BEGIN ISOLATION LEVEL REPEATABLE READ"].into_iter().enumerate() {
        a.batch_execute(opened).unwrap();
        for call in 0..4 {
            ingest(&mut a, &many("a", 10_000 * round + 1000 * call, 1000)).unwrap();
        }
        let before = number(&mut superuser, folded);
        // Many times the limit at which calls would be refused, were nobody able to fold.
        for call in 0..40 {
            insist(&mut b, &many("b", 100_000 * round + 1000 * call, 1000));
        }
        let mut admin = shop.admin();
        admin.batch_execute("CALL tally.maintain()").unwrap();
        // By a process that may still be at it, if not by that call.
        wait_for("others' rows to be folded", || (number(&mut superuser, folded) > before).then_some(()));
        let held = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 1 AND pid = $1";
        assert_eq!(
            superuser.query_one(held, &[&pid(&mut a)]).unwrap().get::<_, i64>(0),
            0,
            "a holds a folder's lock"
        );
        a.batch_execute("COMMIT").unwrap();
    }
    // Nor one statement that goes on for as long as it likes.
    let cancel = a.cancel_token();
    let text = many("a", 50_000, 1000);
    std::thread::scope(|scope| {
        let sleeping = scope.spawn(|| {
            a.batch_execute(&format!("SELECT accepted, pg_sleep(600) FROM tally.ingest('{text}'::text)"))
        });
        std::thread::sleep(Duration::from_secs(2));
        let pending = "SELECT count(*) FROM tally.usage_pending";
        insist(&mut b, &many("b", 500_000, 1000));
        // A process may be folding at the same time.
        let until = Instant::now() + Duration::from_secs(240);
        while number(&mut superuser, pending) > 0 {
            shop.admin().batch_execute("CALL tally.maintain()").unwrap();
            assert!(Instant::now() < until, "all that is committed is folded");
        }
        let _ = cancel.cancel_query(postgres::NoTls);
        let _ = sleeping.join().unwrap();
    });
}

/// What a transaction brought itself, nobody can fold before it ends: it isn't made to wait for that, and told what to do.
#[test]
fn a_transaction_that_brings_more_than_may_be_pending_is_told_to_send_less_at_once() {
    let shop = Shop::new("large");
    shop.database.set("tally.pending_limit = '64kB'");
    let stored = "SELECT count(*) FROM tally.event_key";
    let before = number(&mut shop.database.superuser(), stored);
    // 64 limits are 32,768 rows.
    let calls = |client: &mut Client, round: usize, calls: usize| {
        (0..calls).try_for_each(|call| {
            let began = Instant::now();
            let sent = ingest(client, &many("a", 1_000_000 * round + 4000 * call, 4000)).map(|_| ());
            assert!(began.elapsed() < SOON, "a call waits for what can't come");
            sent
        })
    };
    let whole = |client: &mut Client, round: usize| {
        let events: Vec<String> =
            (0..12).map(|part| many("a", 1_000_000 * round + 4000 * part, 4000)).collect();
        let text = events.join(",").replace("],[", ",");
        client.execute(
            "INSERT INTO tally.inbox (tenant_id, account_id, name, event_id, occurred_at, user_id, session_id) \
             SELECT e ->> 'tenant_id', e ->> 'account_id', e ->> 'name', e ->> 'event_id', e ->> 'occurred_at', \
               e ->> 'user_id', e ->> 'session_id' FROM json_array_elements($1::text::json) AS e",
            &[&text],
        )
    };
    let mut refused = Vec::new();
    for (round, opened) in ["BEGIN", "BEGIN ISOLATION LEVEL REPEATABLE READ"].into_iter().enumerate() {
        let mut a = shop.a();
        a.batch_execute(opened).unwrap();
        refused.push((opened, calls(&mut a, 1 + round, 12)));
        a.batch_execute("ROLLBACK").unwrap();
    }
    refused.push(("one statement", whole(&mut shop.a(), 3).map(|_| ())));
    for (what, answer) in refused {
        let error = answer.expect_err(what);
        assert_eq!(sqlstate(&error), "54000", "{what}: {error:?}");
        let error = error.as_db_error().unwrap();
        assert!(error.hint().unwrap().contains("several transactions"), "{what}: {error:?}");
    }
    let mut superuser = shop.database.superuser();
    assert_eq!(number(&mut superuser, stored), before, "nothing of them is stored");
    // What was rolled back isn't counted, nor what was committed a moment ago.
    let mut a = shop.a();
    a.batch_execute("BEGIN").unwrap();
    for round in 0..6 {
        a.batch_execute("SAVEPOINT s").unwrap();
        calls(&mut a, 10 + round, 2).unwrap();
        a.batch_execute("ROLLBACK TO s").unwrap();
    }
    calls(&mut a, 20, 2).unwrap();
    a.batch_execute("COMMIT").unwrap();
    for round in 0..4 {
        let until = Instant::now() + FOLDED_BY;
        a.batch_execute("BEGIN").unwrap();
        while let Err(error) = calls(&mut a, 30 + round, 4) {
            assert!(sqlstate(&error) == "53400" && Instant::now() < until, "{error:?}");
            a.batch_execute("ROLLBACK").unwrap();
            std::thread::sleep(Duration::from_secs(1));
            a.batch_execute("BEGIN").unwrap();
        }
        a.batch_execute("COMMIT").unwrap();
    }
    assert_eq!(number(&mut superuser, stored), before + 18 * 4000);
}

/// What one transaction is noting of the registry, another call of the tenant doesn't wait for.
#[test]
fn a_mark_of_the_registry_is_not_waited_for() {
    let shop = Shop::new("marked");
    shop.admin().batch_execute("SELECT tally.set_unregistered_policy('mark')").unwrap();
    let (mut first, mut second) = (shop.a(), shop.a());
    first
        .batch_execute(&format!("BEGIN; SELECT tally.ingest('{}'::text)", event("a", "2026-11", 800)))
        .unwrap();
    soon("the same name again", || {
        assert_eq!(ingest(&mut second, &event("a", "2026-11", 801)).unwrap().accepted, 1);
    });
    first.batch_execute("ROLLBACK").unwrap();
    let mut superuser = shop.database.superuser();
    let noted = "SELECT count(*) FROM tally.unregistered_event WHERE tenant_id = 'a' AND name = 'n'";
    assert_eq!(number(&mut superuser, noted), 0);
    // The next event of the name is noted, once, also where one transaction brings several.
    second
        .batch_execute(&format!("BEGIN; SELECT tally.ingest('{}'::text)", event("a", "2026-11", 802)))
        .unwrap();
    ingest(&mut second, &event("a", "2026-11", 803)).unwrap();
    second.batch_execute("COMMIT").unwrap();
    assert_eq!(number(&mut superuser, noted), 1);
}

/// health() says who holds what, since when.
#[test]
fn health_names_who_holds_what() {
    let shop = Shop::new("holders");
    let mut writer = shop.a();
    writer
        .batch_execute(&format!("BEGIN; SELECT tally.ingest('{}'::text)", event("a", "2026-11", 900)))
        .unwrap();
    let mut folder = shop.admin();
    folder.batch_execute("BEGIN; SELECT tally.fold('usage')").unwrap();
    let held = "SELECT held, role_name::text, since > now() - interval '1 minute' FROM tally.lock_holders() WHERE pid = $1 ORDER BY held";
    let of = |client: &mut Client| -> Vec<(String, String, bool)> {
        let rows = shop.admin().query(held, &[&pid(client)]).unwrap();
        rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect()
    };
    let of_writer = of(&mut writer);
    assert!(of_writer.contains(&("ingest".into(), shop.a.clone(), true)), "{of_writer:?}");
    assert!(of_writer.iter().any(|(held, _, _)| held == "events"), "{of_writer:?}");
    let of_folder = of(&mut folder);
    assert!(of_folder.contains(&("fold usage".into(), shop.admin.clone(), true)), "{of_folder:?}");
    // A tenant learns nothing of others' transactions.
    for function in ["tally.lock_holders", "tally_internal.transaction_starts"] {
        let refused = shop.b().query(&format!("SELECT * FROM {function}()"), &[]).unwrap_err();
        assert_eq!(sqlstate(&refused), "42501");
    }
    let mut admin = shop.admin();
    admin.batch_execute("BEGIN; SELECT tally.enter_global()").unwrap();
    let status: String =
        admin.query_one("SELECT status FROM tally.health() WHERE component = 'locks'", &[]).unwrap().get(0);
    assert_eq!(status, "ok", "not yet a minute");
}
