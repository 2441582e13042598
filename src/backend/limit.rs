//! Settings that a tenant is limited in, and the timers of a client's statement and of its transaction.

use super::session;
use super::version::{USER_TIMEOUT, transaction_number};
use core::ffi::{CStr, c_int};
use pgrx::pg_sys;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};
use std::time::Duration;

/// A limit, in the units of the settings that it lowers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// Milliseconds.
    StatementTimeout,
    /// Kilobytes.
    WorkMem,
    ParallelWorkers,
    /// Milliseconds.
    IdleInTransaction,
}

unsafe extern "C-unwind" {
    // Postgres' own, which pgrx doesn't bind, or guards in a way that a signal's handler can't use.
    fn enable_timeout_at(timeout: c_int, time: i64);
    fn get_timeout_active(timeout: c_int) -> bool;
    fn get_timeout_finish_time(timeout: c_int) -> i64;
    fn RegisterTimeout(timeout: c_int, handler: unsafe extern "C-unwind" fn()) -> c_int;
    fn GetCurrentStatementStartTimestamp() -> i64;
    fn GetCurrentTimestamp() -> i64;
    fn IsTransactionState() -> bool;
    fn SetLatch(latch: *mut pg_sys::Latch);
}

/// Number of STATEMENT_TIMEOUT among Postgres' timeouts, the same from 9.3 to 18.
const STATEMENT_TIMEOUT: c_int = 3;
/// Microseconds that a statement may take to end once it was cancelled. Undoing what it did takes none of a session's time to speak
/// of; two seconds leave room for a busy machine.
const GRACE_US: i64 = 2_000_000;
/// Microseconds until the last resort is tried again, where it came while nothing could be ended.
const RETRY_AFTER_US: i64 = 20_000;
/// What work_mem is multiplied by for a hash table: Postgres' default, and the most that a limited tenant gets.
const HASH_MEM_MULTIPLIER: f64 = 2.0;
/// The least that Postgres takes for maintenance_work_mem up to 16, kilobytes, and for temp_buffers, blocks of 8 kB.
const LEAST_MAINTENANCE_WORK_MEM: i32 = 1024;
const LEAST_TEMP_BUFFERS: i32 = 100;

/// Lowers the settings of a limit to `most` until the transaction ends; what is lower already stays.
pub fn lower(limit: Limit, most: i32) {
    // SAFETY: reads settings.
    unsafe {
        match limit {
            Limit::StatementTimeout => to_most(c"statement_timeout", pg_sys::StatementTimeout, most, true),
            Limit::IdleInTransaction => to_most(
                c"idle_in_transaction_session_timeout",
                pg_sys::IdleInTransactionSessionTimeout,
                most,
                true,
            ),
            Limit::ParallelWorkers => {
                to_most(
                    c"max_parallel_workers_per_gather",
                    pg_sys::max_parallel_workers_per_gather,
                    most,
                    false,
                );
                to_most(
                    c"max_parallel_maintenance_workers",
                    pg_sys::max_parallel_maintenance_workers,
                    most,
                    false,
                );
            }
            Limit::WorkMem => {
                to_most(c"work_mem", pg_sys::work_mem, most, false);
                to_most(c"logical_decoding_work_mem", pg_sys::logical_decoding_work_mem, most, false);
                let maintenance = most.max(LEAST_MAINTENANCE_WORK_MEM);
                to_most(c"maintenance_work_mem", pg_sys::maintenance_work_mem, maintenance, false);
                if pg_sys::hash_mem_multiplier > HASH_MEM_MULTIPLIER {
                    session::set_local(c"hash_mem_multiplier", c"2");
                }
                // Once a temporary table was used, its buffers are there, and Postgres refuses the change.
                if pg_sys::NLocBuffer == 0 {
                    let buffers = (most / 8).max(LEAST_TEMP_BUFFERS);
                    to_most(c"temp_buffers", pg_sys::num_temp_buffers, buffers, false);
                }
            }
        }
    }
}

fn to_most(setting: &CStr, now: i32, most: i32, zero_is_unlimited: bool) {
    if now > most || (zero_is_unlimited && now == 0) {
        let value = std::ffi::CString::new(most.to_string()).expect("digits contain no NUL");
        session::set_local(setting, &value);
    }
}

/// Has the client's statement end `milliseconds` after the client sent it, unless it is to end sooner. Called again in the same
/// statement it changes nothing, whatever was set meanwhile: the time counts from when the statement came. Where `to_the_last`, one
/// that catches the error and goes on ends with its session.
pub fn bound_statement(milliseconds: i32, to_the_last: bool) {
    // SAFETY: reads backend state; the timeout is registered in every backend that runs statements, and disabled when one ends.
    unsafe {
        let began = GetCurrentStatementStartTimestamp();
        let end = began + i64::from(milliseconds) * 1000;
        if !get_timeout_active(STATEMENT_TIMEOUT) || get_timeout_finish_time(STATEMENT_TIMEOUT) > end {
            enable_timeout_at(STATEMENT_TIMEOUT, end);
        }
        if to_the_last && BOUNDED.swap(began, Ordering::Relaxed) != began {
            enable_timeout_at(last_resort(), end + GRACE_US);
        }
    }
}

/// Start of the client's statement that was bounded last.
static BOUNDED: AtomicI64 = AtomicI64::new(0);

/// The timeout of our own, registered when it is first asked for.
fn last_resort() -> c_int {
    static NUMBER: OnceLock<c_int> = OnceLock::new();
    // SAFETY: the handler stays; Postgres hands out the next free number.
    *NUMBER.get_or_init(|| unsafe { RegisterTimeout(USER_TIMEOUT, end_session) })
}

/// Ends the session whose statement goes on although it was cancelled: it caught `query_canceled`. Runs in a signal's handler, so it
/// only sets flags and a timer, as Postgres' own do.
unsafe extern "C-unwind" fn end_session() {
    // SAFETY: flags, a timer and a latch of this backend. Timers fire one after the other, and one that did may be armed again.
    unsafe {
        // No statement runs where there is no query string, unless the protocol itself calls a function; another one is bounded anew.
        let calls_function = pg_sys::MyBEEntry
            .as_ref()
            .is_some_and(|entry| entry.st_state == pg_sys::BackendState::STATE_FASTPATH);
        let is_running = calls_function || !pg_sys::debug_query_string.is_null();
        if !is_running || GetCurrentStatementStartTimestamp() != BOUNDED.load(Ordering::Relaxed) {
            return;
        }
        end_or_retry(last_resort());
    }
}

/// Ends the session where its transaction can be ended, else a little later.
///
/// # Safety
/// In a timeout's handler; `timeout` is its number.
unsafe fn end_or_retry(timeout: c_int) {
    // SAFETY: flags, a timer and a latch of this backend.
    unsafe {
        // A transaction that commits isn't in that state any more: its wait for a standby is not cut short. Nor is one that
        // begins or undoes a savepoint, which a statement that catches its end does all the time: so later.
        if !IsTransactionState() {
            enable_timeout_at(timeout, GetCurrentTimestamp() + RETRY_AFTER_US);
            return;
        }
        pg_sys::ProcDiePending = 1;
        pg_sys::InterruptPending = 1;
        SetLatch(pg_sys::MyLatch);
    }
}

/// The transaction that was bounded last.
static OVERSTAYING: AtomicU32 = AtomicU32::new(0);

/// Has the session end where the running transaction is still there after so long: a client that doesn't take its answer, or says half of
/// what ends the transaction, would keep others from what it holds.
pub fn bound_transaction(time: Duration) {
    // SAFETY: reads the clock, and sets a timer that is registered.
    unsafe { enable_timeout_at(overstay(), GetCurrentTimestamp() + time.as_micros() as i64) }
    // A timer of an earlier transaction is gone by now.
    OVERSTAYING.store(transaction_number(), Ordering::Relaxed);
}

fn overstay() -> c_int {
    static NUMBER: OnceLock<c_int> = OnceLock::new();
    // SAFETY: as for the last resort.
    *NUMBER.get_or_init(|| unsafe { RegisterTimeout(USER_TIMEOUT, end_transaction) })
}

/// Runs in a signal's handler, as above.
unsafe extern "C-unwind" fn end_transaction() {
    // SAFETY: a number of this backend's process is read, which is 0 or another one where the transaction has ended.
    unsafe {
        if transaction_number() == OVERSTAYING.load(Ordering::Relaxed) {
            end_or_retry(overstay());
        }
    }
}
