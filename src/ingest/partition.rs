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
