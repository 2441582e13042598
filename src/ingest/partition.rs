//! Makes the partitions that a batch needs.

use crate::backend::partition::Routing;
use crate::backend::session;
use pgrx::prelude::*;
use std::collections::BTreeSet;
use tally_core::grain::Grain;

/// Makes each missing partition. Runs before any key is locked: making one waits for other makers, and a transaction
/// that waits must hold nothing they could be waiting for.
pub fn ensure(times: impl Iterator<Item = i64>) {
    let routing = Routing::open(session::relation(c"events"));
    let missing: BTreeSet<i64> =
        times.filter(|time| routing.find(*time).is_none()).map(|time| Grain::Month.floor(time)).collect();
    routing.close();
    for start in missing {
        session::as_owner(|| {
            Spi::run_with_args(
                "SELECT tally.create_partition($1)",
                &[TimestampWithTimeZone::try_from(start).expect("event times are in range").into()],
            )
            .expect("create_partition raises its own errors");
        });
    }
}

/// Makes the partitions of this month and of `months` after it; returns how many were missing.
#[pg_extern(sql = false)]
fn make_partitions(months: i32) -> i64 {
    session::require_writable(c"tally.make_partitions()");
    session::as_owner(|| {
        let count = "SELECT count(*) FROM pg_inherits WHERE inhparent = 'tally.events'::regclass";
        let there = || Spi::get_one::<i64>(count).expect("a count").unwrap_or(0);
        let before = there();
        Spi::run_with_args(
            "SELECT tally.create_partition(date_trunc('month', now(), 'UTC') + make_interval(months => ahead)) \
               FROM generate_series(0, $1) AS ahead",
            &[months.clamp(0, 120).into()],
        )
        .expect("DDL raises its own errors");
        there() - before
    })
}
