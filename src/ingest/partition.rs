//! Makes the partitions that a batch needs.

use crate::backend::partition::Routing;
use crate::backend::session;
use pgrx::prelude::*;
use std::collections::BTreeSet;

/// Makes each missing partition. Runs before any key is locked: making one waits for other makers, and a transaction
/// that waits must hold nothing they could be waiting for.
pub fn ensure(times: impl Iterator<Item = i64>) {
    let routing = Routing::open(session::relation(c"events"));
    let missing: BTreeSet<i64> =
        times.filter(|time| routing.find(*time).is_none()).map(month_start).collect();
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

const DAY: i64 = 86_400_000_000;

/// First microsecond of the month (UTC) of a time; both since 2000-01-01.
fn month_start(time: i64) -> i64 {
    let days = time.div_euclid(DAY);
    let (year, month, _) = tally_core::event::time::civil_from_days(days);
    tally_core::event::time::days_from_civil(year, month, 1) * DAY
}
