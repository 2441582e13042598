//! Work that a client's transaction must not hold until it ends, done in a transaction of its own: by a background process
//! that Postgres starts for it, as the role that logged in. Needs no preloading; takes one of `max_worker_processes`.

use super::session;
use super::worker;
use pgrx::bgworkers::{BackgroundWorker, BackgroundWorkerBuilder, DynamicBackgroundWorker, SignalWakeFlags};
use pgrx::pg_sys::{self, Oid};
use std::cell::Cell;

/// Bytes that Postgres hands to a process it starts, without the NUL.
const MESSAGE_BYTES: usize = 127;

thread_local! {
    /// Whether this process was started for such work.
    static IS_OURS: Cell<bool> = const { Cell::new(false) };
}

/// Has a process run the exported function `entry` with a message; `None` where Postgres has no process to spare.
pub fn start(entry: &str, message: &str) -> Option<DynamicBackgroundWorker> {
    // SAFETY: reads backend state.
    let (database, pid) = unsafe { (pg_sys::MyDatabaseId, pg_sys::MyProcPid) };
    let message = format!("{} {} {message}", database.to_u32(), session::session_role().to_u32());
    if message.len() > MESSAGE_BYTES {
        return None;
    }
    BackgroundWorkerBuilder::new("pg_tally on behalf of a session")
        .set_type("pg_tally on behalf of a session")
        .set_library("pg_tally")
        .set_function(entry)
        .set_extra(&message)
        .set_notify_pid(pid)
        .set_restart_time(None)
        .enable_spi_access()
        .load_dynamic()
        .ok()
}

/// Has a process do so and waits until it has ended, which its own limits see to; says whether there was one.
pub fn run(entry: &str, message: &str) -> bool {
    start(entry, message).is_some_and(|process| process.wait_for_shutdown().is_ok())
}

/// Begins such a process: connects, with the settings that its work counts on whatever the role's own are, and returns
/// the message.
pub fn begin() -> String {
    IS_OURS.set(true);
    BackgroundWorker::attach_signal_handlers(SignalWakeFlags::SIGHUP);
    worker::die_when_told();
    let message = BackgroundWorker::get_extra().to_owned();
    let mut words = message.splitn(3, ' ');
    let mut number = || words.next().and_then(|word| word.parse::<u32>().ok()).map(Oid::from);
    let (database, role) = (number(), number());
    BackgroundWorker::connect_worker_to_spi_by_oid(database, role);
    set_for_work();
    words.next().unwrap_or_default().to_owned()
}

/// The settings that work in a process of ours counts on, whatever the database's or the role's: names mean what we mean by them, each step
/// sees what others committed before it began, may write, and takes as long as it takes.
pub fn set_for_work() {
    let settings = [
        (c"search_path", c"pg_catalog, pg_temp"),
        (c"default_transaction_isolation", c"read committed"),
        (c"default_transaction_read_only", c"off"),
        (c"default_transaction_deferrable", c"off"),
        (c"transaction_timeout", c"0"),
    ];
    // A setting that this release doesn't have is left out.
    let known: Vec<_> = settings.into_iter().filter(|(name, _)| session::is_known(name)).collect();
    session::set_for_session(&known);
}

/// The process that waits for this one, where this one was started by `start`; 0 elsewhere.
pub fn caller() -> i32 {
    // SAFETY: a background worker has its entry.
    if is_running() { unsafe { (*pg_sys::MyBgworkerEntry).bgw_notify_pid } } else { 0 }
}

/// Whether this process was started by `start`: it does our own work, which limits and refusals made for clients are
/// not meant for.
pub fn is_running() -> bool {
    IS_OURS.get()
}
