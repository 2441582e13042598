//! Batch ids: when a batch was ingested, in milliseconds since 2000 (UTC), and 22 random bits. In order of time, but not a
//! sequence, whose gaps would tell a tenant how much the others send. The milliseconds fill the other 41 bits until
//! September 2069; from then on every id is the greatest.

/// An event may be dated this far ahead of the batch that carries it, in microseconds: a day, for clients whose clock is
/// wrong.
pub const FUTURE: i64 = 86_400_000_000;

const RANDOM_BITS: u32 = 22;

/// The id of a batch that is ingested at `clock`, in microseconds since 2000.
pub fn id(clock: i64, random: u32) -> i64 {
    first_id(clock).saturating_add(i64::from(random >> (32 - RANDOM_BITS)))
}

/// No batch that is ingested at or after `moment` has a smaller id.
fn first_id(moment: i64) -> i64 {
    moment.div_euclid(1000).saturating_mul(1 << RANDOM_BITS)
}

/// Batches with a smaller id carried no event that is dated `moment` or later.
pub fn first_id_with_events_from(moment: i64) -> i64 {
    first_id(moment.saturating_sub(FUTURE))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The first microsecond whose id would not fit.
    const END: i64 = (1 << (63 - RANDOM_BITS)) * 1000;
    /// From 1970 on; `later` is added.
    const CLOCKS: std::ops::Range<i64> = -946_684_800_000_000..END - 1_000_000;

    proptest! {
        #[test]
        fn ids_are_in_order_of_time(clock in CLOCKS, later in 1000..1_000_000i64, left: u32, right: u32) {
            prop_assert!(id(clock, left) < id(clock + later, right));
        }

        #[test]
        fn a_smaller_id_has_only_earlier_events(clock in CLOCKS, random: u32, ahead in 0..=FUTURE, moment in CLOCKS) {
            let event = clock + ahead;
            if id(clock, random) < first_id_with_events_from(moment) {
                prop_assert!(event < moment);
            }
        }
    }

    #[test]
    fn the_ends_of_time_are_no_overflow() {
        assert_eq!(first_id_with_events_from(i64::MIN), i64::MIN);
        assert_eq!(id(END - 1, u32::MAX), i64::MAX);
        assert_eq!(id(i64::MAX, u32::MAX), i64::MAX);
    }
}
