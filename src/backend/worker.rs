//! What a background worker needs of the backend besides pgrx's own wrapper.

use super::{session, version};
use pgrx::bgworkers::BackgroundWorker;
use pgrx::pg_sys;
use std::ffi::CStr;
use std::panic::{RefUnwindSafe, UnwindSafe};

/// Runs `work` in a transaction, and reports what it did to the statistics, as a client's session does after each statement:
/// autovacuum goes by them, and ingest takes from them what is pending.
pub fn transaction<T>(work: impl FnOnce() -> T + UnwindSafe + RefUnwindSafe) -> T {
    let result = BackgroundWorker::transaction(work);
    // SAFETY: called between transactions.
    unsafe {
        pg_sys::pgstat_report_stat(true);
    }
    result
}

/// Whether the library is being loaded by the postmaster, the only moment at which it can register workers.
pub fn is_preloading() -> bool {
    // SAFETY: reads backend state.
    unsafe { pg_sys::process_shared_preload_libraries_in_progress }
}

/// Reads the configuration files again, as every process does after SIGHUP.
pub fn reload_settings() {
    // SAFETY: called between transactions, by a process with its own memory contexts.
    unsafe { pg_sys::ProcessConfigFile(pg_sys::GucContext::PGC_SIGHUP) }
}

/// Name of the database that the session is connected to.
pub fn database_name() -> String {
    // SAFETY: a palloc'd C string, or null where the database was dropped meanwhile.
    unsafe {
        let name = pg_sys::get_database_name(pg_sys::MyDatabaseId);
        if name.is_null() { String::new() } else { CStr::from_ptr(name).to_string_lossy().into_owned() }
    }
}

/// Ends the process with an exit code; the postmaster starts a worker that ends with 1 again, one that ends with 0 not.
#[allow(unreachable_code, reason = "only some releases' headers say that proc_exit doesn't return")]
pub fn exit(code: i32) -> ! {
    // SAFETY: runs the exit callbacks and doesn't come back.
    unsafe { pg_sys::proc_exit(code) };
    unreachable!("proc_exit doesn't return")
}

/// Whether the postmaster asked this worker to end.
pub fn shutdown_is_requested() -> bool {
    // SAFETY: a flag that the signal handler sets.
    unsafe { (&raw const pg_sys::ShutdownRequestPending).read_volatile() != 0 }
}

/// Whether a client is connected to this database.
pub fn has_clients() -> bool {
    // SAFETY: counts entries of shared memory, under their lock.
    unsafe { pg_sys::CountDBConnections(pg_sys::MyDatabaseId) > 0 }
}

/// Whether the server's configuration preloads the library.
pub fn was_preloaded() -> bool {
    session::setting(c"shared_preload_libraries")
        .is_some_and(|libraries| libraries.split(',').any(|name| name.trim().trim_matches('"') == "pg_tally"))
}

unsafe extern "C-unwind" {
    /// Postgres' own, without pgrx's guard, which a signal handler can't be wrapped in.
    fn die(signal: core::ffi::c_int);
}

/// Has the process end when the postmaster asks it to, wherever it waits.
pub fn die_when_told() {
    // As Postgres' own workers do.
    version::handle_signal(pg_sys::SIGTERM as i32, die);
}

/// Defines the exported function with which Postgres starts a process of ours.
macro_rules! process_main {
    ($(#[$attribute:meta])* fn $name:ident() $body:block) => {
        $(#[$attribute])*
        #[pgrx::pg_guard]
        #[allow(unsafe_code, reason = "the symbol's name is one of ours, like every other that begins with tally_")]
        #[unsafe(no_mangle)]
        pub extern "C-unwind" fn $name(_argument: pgrx::pg_sys::Datum) {
            #[deny(unsafe_code)]
            fn body() $body
            body()
        }
    };
}
pub(crate) use process_main;
