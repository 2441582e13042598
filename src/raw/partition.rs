//! Makes the partitions that a batch needs.

use super::RawError;
use crate::backend::lock::{self, Attempts, Busy};
use crate::backend::partition::Routing;
use crate::backend::report::given;
use crate::backend::sql::{self, Moment};
use crate::backend::subtransaction::{self, Verdict};
use crate::backend::worker::process_main;
use crate::backend::{own_transaction, session, worker};
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};
use tally_core::grain::Grain;

/// Months that fit into the message to a process, each as its first hour since 2000, after the milliseconds to wait.
const MONTHS_OF_A_PROCESS: usize = 11;
const HOUR: i64 = 3_600_000_000;
/// How long the first event of a month waits for an ANALYZE of all events, which reads samples of every partition.
const ANALYZE_WAIT: Duration = Duration::from_secs(10);

/// Makes each missing partition. Runs before any key is locked. In a transaction of their own, so that others need not wait
/// for the end of this one; where Postgres has no process for that, in this one.
pub fn ensure(times: impl Iterator<Item = i64>) -> Result<(), Busy> {
    let routing = Routing::open(session::relation(c"events"));
    let missing: BTreeSet<i64> =
        times.filter(|time| !routing.covers(*time)).map(|time| Grain::Month.floor(time)).collect();
    routing.close();
    let missing: Vec<i64> = missing.into_iter().collect();
    // A caller that limits its wait for locks is told at once that there is one.
    let wait = if session::lock_timeout() > 0 { Duration::ZERO } else { ANALYZE_WAIT };
    let until = Instant::now() + wait;
    for months in missing.chunks(MONTHS_OF_A_PROCESS) {
        let hours = months.iter().map(|month| (month / HOUR).to_string());
        let left_to_wait = until.saturating_duration_since(Instant::now()).as_millis().to_string();
        let message: Vec<String> = std::iter::once(left_to_wait).chain(hours).collect();
        let has_waited = own_transaction::run("tally_partition_main", &message.join(" "));
        // Those that it didn't make.
        let routing = Routing::open(session::relation(c"events"));
        let left: Vec<i64> = months.iter().copied().filter(|&month| !routing.covers(month)).collect();
        routing.close();
        let until = if has_waited { Instant::now() } else { until };
        left.iter().try_for_each(|&month| create(month, until))?;
        left.into_iter().try_for_each(learn)?;
    }
    Ok(())
}

/// Has this session know of a month's partition that another one has just made: it is seen once it is committed, a moment before others
/// are told that the table's partitions have changed. Its maker keeps it locked until they are.
fn learn(month: i64) -> Result<(), Busy> {
    let routing = Routing::open(session::relation(c"events"));
    let is_known = routing.covers(month);
    routing.close();
    let partition = "SELECT to_regclass('tally.events_p' || to_char($1, 'YYYY_MM'))::oid";
    match session::as_owner(|| sql::one::<pg_sys::Oid>(partition, &[Moment(month).into()])) {
        Some(partition) if !is_known => {
            let what = format!("events of {} can't be stored", month_name(month));
            lock::relations(&what, &[(partition, pg_sys::AccessShareLock)], Attempts::Several)
        }
        _ => Ok(()),
    }
}

process_main! {
    /// Where Postgres starts the process that makes partitions.
    fn tally_partition_main() {
        let message = own_transaction::begin();
        let mut numbers = message.split(' ').filter_map(|number| number.parse::<i64>().ok());
        let wait = numbers.next().unwrap_or(0).unsigned_abs();
        let until = Instant::now() + Duration::from_millis(wait);
        for hour in numbers {
            // What keeps it from making one keeps the session, too, which then says so.
            worker::transaction(|| create(hour * HOUR, until).is_ok());
        }
    }
}

/// Makes the partition of the month that begins at a moment, unless it is there. Waits until then for an ANALYZE to end.
fn create(month: i64, until: Instant) -> Result<(), Busy> {
    let events = session::relation(c"events");
    let what = format!("the partition of {} can't be made", month_name(month));
    let exists = "SELECT EXISTS (SELECT FROM pg_class AS c WHERE c.relname = 'events_p' || to_char($1, 'YYYY_MM') \
                    AND c.relnamespace = 'tally'::regnamespace)";
    // Looked for first: who makes one keeps others waiting for what isn't there, not for what is.
    let exists = session::as_owner(|| sql::one(exists, &[Moment(month).into()]));
    if exists != Some(true) {
        while let Err(busy) = take_locks(&what, events) {
            // Nobody is kept waiting meanwhile but others who make partitions.
            if Instant::now() >= until || !lock::is_analyzed(events) {
                return Err(busy);
            }
            session::pause(lock::RETRY_PAUSE);
        }
    }
    lock::as_owner_defining(|| {
        sql::run("SELECT tally_internal.create_partition($1)", &[Moment(month).into()]);
    });
    Ok(())
}

/// Takes what making a partition needs, or nothing.
fn take_locks(what: &str, events: pg_sys::Oid) -> Result<(), Busy> {
    let take = || {
        // One maker at a time: without it two first events of a month would both try, and one of them fail.
        lock::named(what, events, lock::PARTITION_MAKING, Attempts::One)?;
        // What attaching takes, here where it can be given up.
        lock::relations(what, &[(events, pg_sys::ShareUpdateExclusiveLock)], Attempts::One)
    };
    let taken = subtransaction::run(|| match take() {
        Ok(()) => Verdict::Keep(Ok(())),
        Err(busy) => Verdict::Undo(Err(busy)),
    });
    taken.unwrap_or_else(|caught| caught.rethrow())
}

fn month_name(month: i64) -> String {
    let name = "SELECT to_char($1, 'YYYY-MM')";
    session::as_owner(|| sql::one(name, &[Moment(month).into()])).unwrap_or_default()
}

/// Makes the partitions of this month and of `months` after it; returns how many were missing.
#[pg_extern(sql = false)]
fn make_partitions(months: Option<i32>) -> Result<i64, ErrorReport> {
    let months = given(months, "months", "leave it out for the two months after this one")?;
    if months < 0 {
        return Err(RawError::TooFew("months", 0, "leave it out for the two months after this one").into());
    }
    session::require_writable(c"tally.make_partitions()");
    let starts = format!(
        "SELECT array_agg({} ORDER BY ahead) FROM generate_series(0, $1) AS ahead",
        sql::micros("date_trunc('month', now(), 'UTC') + make_interval(months => ahead)")
    );
    let starts = session::as_owner(|| sql::one::<Vec<i64>>(&starts, &[months.min(120).into()]));
    let count = "SELECT count(*) FROM pg_inherits WHERE inhparent = 'tally.events'::regclass";
    let there = || session::as_owner(|| sql::one::<i64>(count, &[])).unwrap_or(0);
    let before = there();
    for start in starts.unwrap_or_default() {
        create(start, Instant::now())?;
    }
    // A database that isn't updated yet has no such table. While months are taken out, another round notes those that are there.
    let events = [(session::relation(c"events"), pg_sys::AccessShareLock)];
    if session::find_relation(c"raw_month").is_some()
        && lock::relations("months can't be noted", &events, Attempts::One).is_ok()
    {
        session::as_owner(|| sql::run("SELECT tally_internal.note_months()", &[]));
    }
    Ok(there() - before)
}
