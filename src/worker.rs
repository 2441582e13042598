//! The background worker: where the library is preloaded, one process a listed database does what `tally.maintain()` does,
//! as an ordinary role. Postgres starts it again when it ends, also after a crash.

use crate::audit;
use crate::backend::sql::{self, Moment};
use crate::backend::worker::process_main;
use crate::backend::{own_transaction, session, transactions, worker as backend};
use crate::scope::{self, Scope, ScopeError};
use crate::settings;
use pgrx::bgworkers::{BackgroundWorker, BackgroundWorkerBuilder, SignalWakeFlags};
use pgrx::prelude::*;
use std::time::{Duration, Instant};

/// How long Postgres waits before it starts a worker that ended again.
const RESTART: Duration = Duration::from_secs(5);
/// How long audit entries may wait to be stored and sealed.
const SEALING: Duration = Duration::from_secs(2);
/// Steps of it in a row, so that a busy log doesn't keep the worker from its other tasks.
const SEALING_STEPS: usize = 8;
/// Rows or events in one step, as in `tally.maintain()`.
const STEP: i64 = 50_000;
/// Postgres copies a worker's database name into so many bytes.
const NAME_BYTES: usize = 127;

/// Registers a worker for each database listed. Only the postmaster can.
pub fn register() {
    if !backend::is_preloading() {
        return;
    }
    for database in settings::worker_databases() {
        if database.len() > NAME_BYTES {
            warning!("pg_tally event=worker_refused database={database:?} problem=\"the name is too long\"");
            continue;
        }
        BackgroundWorkerBuilder::new(&format!("pg_tally worker {database}"))
            .set_type("pg_tally worker")
            .set_library("pg_tally")
            .set_function("tally_worker_main")
            .set_extra(&database)
            .set_restart_time(Some(RESTART))
            .enable_spi_access()
            .load();
    }
}

process_main! {
    /// Where Postgres starts the worker.
    fn tally_worker_main() {
        BackgroundWorker::attach_signal_handlers(SignalWakeFlags::SIGHUP | SignalWakeFlags::SIGTERM);
        let database = BackgroundWorker::get_extra();
        let Some(role) = settings::worker_role() else {
            log!(
                "pg_tally event=worker_refused database={database:?} problem=\"tally.worker_role is not set\" \
                 hint=\"name a login role that is a member of tally_admin\""
            );
            backend::exit(1);
        };
        // Never without a name: that would be the bootstrap superuser. A role that doesn't exist or may not log in is an error
        // here, which the log shows, and Postgres tries again.
        BackgroundWorker::connect_worker_to_spi(Some(database), Some(&role));
        own_transaction::set_for_work();
        if let Some(problem) = backend::transaction(refusal) {
            log!("pg_tally event=worker_refused database={database:?} role={role:?} problem={problem:?}");
            backend::exit(1);
        }
        log!("pg_tally event=worker_started database={database:?} role={role:?}");
        backend::transaction(audit::serve);
        loop {
            // Where more came in than one step takes, writers are waiting for this one to fold it.
            let pause = if round() { Duration::ZERO } else { settings::worker_interval() };
            let (goes_on, is_to_reload) = wait(pause);
            if !goes_on {
                log!("pg_tally event=worker_stopped database={database:?}");
                // Started again unless the server is stopping.
                backend::exit(1);
            }
            if is_to_reload {
                backend::reload_settings();
                if !settings::worker_databases().iter().any(|listed| listed == database) {
                    log!("pg_tally event=worker_stopped database={database:?} problem=\"no longer listed\"");
                    backend::exit(0);
                }
                if settings::worker_role().as_ref() != Some(&role) {
                    log!(
                        "pg_tally event=worker_restarting database={database:?} problem=\"tally.worker_role changed\""
                    );
                    backend::exit(1);
                }
            }
        }
    }
}

/// Waits for the next round, and stores and seals audit entries meanwhile; says whether the worker goes on, and whether it is to
/// read its settings anew.
fn wait(pause: Duration) -> (bool, bool) {
    let until = Instant::now() + pause;
    loop {
        seal_audit();
        let left = until.saturating_duration_since(Instant::now());
        let goes_on = BackgroundWorker::wait_latch(Some(left.min(SEALING)));
        let is_to_reload = BackgroundWorker::sighup_received();
        if !goes_on || is_to_reload || Instant::now() >= until {
            return (goes_on, is_to_reload);
        }
    }
}

/// Stores and seals what there is of audit entries. A failure is the log's to tell, and the next round's: what waits stays.
fn seal_audit() {
    for _ in 0..SEALING_STEPS {
        let sealed = backend::transaction(|| {
            let known = "SELECT to_regprocedure('tally_internal.audit_step(bigint)') IS NOT NULL";
            if sql::one(known, &[]) != Some(true) {
                return None;
            }
            sql::one::<i64>("SELECT tally_internal.audit_step($1)", &[STEP.into()])
        });
        if sealed.unwrap_or(0) == 0 || backend::shutdown_is_requested() {
            break;
        }
    }
}

/// Why the connected role may not do this; `None` where it may.
fn refusal() -> Option<String> {
    let problem = "SELECT CASE WHEN r.rolsuper THEN 'the role is a superuser' \
                               WHEN r.rolbypassrls THEN 'the role bypasses row security' \
                               WHEN to_regrole('tally_admin') IS NULL THEN 'pg_tally is not installed in this database' \
                               WHEN NOT pg_has_role(r.oid, 'tally_admin', 'USAGE') THEN 'the role is not a member of tally_admin' END \
                     FROM pg_roles AS r WHERE r.rolname = session_user";
    sql::one(problem, &[])
}

/// Does every task once, each step in a transaction of its own; says whether one of them took more than a step.
fn round() -> bool {
    let mut is_busy = false;
    let tasks = backend::transaction(|| {
        let is_there = "SELECT to_regprocedure('tally_internal.maintain_step(text,text,bigint)') IS NOT NULL";
        if sql::one(is_there, &[]) != Some(true) {
            return Vec::new();
        }
        // Not there before an update.
        let is_there = "SELECT to_regprocedure('tally_internal.maintenance_round()') IS NOT NULL";
        if sql::one(is_there, &[]) == Some(true) { begin_round() } else { tasks() }
    });
    // A rollup into which much comes is folded for as long as it comes.
    let mut sealed_at = Instant::now();
    for (task, subject) in tasks {
        loop {
            if sealed_at.elapsed() >= SEALING {
                seal_audit();
                sealed_at = Instant::now();
            }
            let (task, subject) = (task.as_str(), subject.as_str());
            let done = backend::transaction(|| {
                let step = "SELECT tally_internal.maintain_step($1, $2, $3)";
                sql::one::<i64>(step, &[task.into(), subject.into(), STEP.into()])
            });
            if done.unwrap_or(0) == 0 || backend::shutdown_is_requested() {
                break;
            }
            is_busy = true;
        }
        if backend::shutdown_is_requested() {
            break;
        }
    }
    is_busy
}

fn tasks() -> Vec<(String, String)> {
    let read = |row: sql::Row| (row.get(1).unwrap_or_default(), row.get(2).unwrap_or_default());
    sql::rows("SELECT task, subject FROM tally_internal.maintenance_tasks()", &[], read)
}

/// The tasks of a round; takes back that others failed, which nothing else ever would: a rollup that was dropped isn't tried again. Who sees
/// one tenant's tasks alone doesn't know of others.
fn begin_round() -> Vec<(String, String)> {
    let tasks = tasks();
    if !matches!(scope::current(), Ok(Scope::Global) | Err(ScopeError::Missing)) {
        return tasks;
    }
    let (names, subjects): (Vec<String>, Vec<String>) = tasks.iter().cloned().unzip();
    let clear = "SELECT tally_internal.clear_failures($1, $2)";
    session::as_owner(|| sql::run(clear, &[names.into(), subjects.into()]));
    tasks
}

#[pg_extern(sql = false)]
fn maintenance_round() -> TableIterator<'static, (name!(task, String), name!(subject, String))> {
    session::require_writable(c"tally.maintain()");
    TableIterator::new(begin_round())
}

/// Makes a step with the caller's rights, and notes as the owner what came of it: nobody else may say so.
#[pg_extern(sql = false)]
fn maintain_step(task: &str, subject: &str, max_rows: i64) -> i64 {
    session::require_writable(c"tally.maintain()");
    let began = session::clock();
    let step =
        "SELECT s.done, s.is_over, s.code, s.problem FROM tally_internal.attempt_task($1, $2, $3) AS s";
    let read =
        |row: sql::Row| (row.get::<i64>(1), row.get::<bool>(2), row.get::<String>(3), row.get::<String>(4));
    // A step that may take nothing succeeds at everything.
    let made = sql::changed_rows(step, &[task.into(), subject.into(), max_rows.max(1).into()], read);
    // Without a count another session is at it, and knows what comes of it.
    let Some((Some(done), is_over, sqlstate, problem)) = made.into_iter().next() else { return 0 };
    let known = "SELECT true FROM tally.maintenance AS m WHERE m.task = $1 AND m.subject = $2";
    let is_known = || session::as_owner(|| sql::one(known, &[task.into(), subject.into()])) == Some(true);
    let is_listed = || tasks().iter().any(|listed| (&*listed.0, &*listed.1) == (task, subject));
    // What is no task, or none any more, can't have failed.
    if problem.is_none() && (done > 0 || is_known()) || is_listed() {
        let note = "SELECT tally_internal.note_maintenance($1, $2, $3, $4, $5, $6)";
        let values =
            [task.into(), subject.into(), Moment(began).into(), done.into(), sqlstate.into(), problem.into()];
        session::as_owner(|| sql::run(note, &values));
    }
    if is_over == Some(true) { 0 } else { done }
}

/// When each session's open transaction began.
#[pg_extern(sql = false)]
fn transaction_starts() -> TableIterator<'static, (name!(pid, i32), name!(began, TimestampWithTimeZone))> {
    let open = transactions::open().into_iter();
    TableIterator::new(
        open.filter_map(|(pid, began)| Some((pid, TimestampWithTimeZone::try_from(began).ok()?))),
    )
}

#[pg_extern(sql = false)]
fn library_version() -> &'static str {
    env!("CARGO_PKG_VERSION")
}

#[pg_extern(sql = false)]
fn worker_is_configured() -> bool {
    let database = backend::database_name();
    backend::was_preloaded() && settings::worker_databases().contains(&database)
}
