//! Grains: the widths of a rollup's buckets, in UTC.

use crate::calendar::{civil_from_days, days_from_civil};
use std::fmt;
use std::str::FromStr;

const MINUTE: i64 = 60_000_000;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;
/// 2000-01-01 was a Saturday: the Monday before it is five days earlier.
const FIRST_MONDAY: i64 = -5;

/// The width of a bucket. Ordered from fine to coarse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Grain {
    Minute,
    Hour,
    Day,
    /// ISO weeks, from Monday.
    Week,
    Month,
    Quarter,
    Year,
}

impl Grain {
    /// All grains, from fine to coarse.
    pub const ALL: [Grain; 7] =
        [Grain::Minute, Grain::Hour, Grain::Day, Grain::Week, Grain::Month, Grain::Quarter, Grain::Year];

    /// The grain's name, which is also the field name that SQL's `date_trunc` takes.
    pub fn name(self) -> &'static str {
        match self {
            Grain::Minute => "minute",
            Grain::Hour => "hour",
            Grain::Day => "day",
            Grain::Week => "week",
            Grain::Month => "month",
            Grain::Quarter => "quarter",
            Grain::Year => "year",
        }
    }

    /// Start of the bucket that holds `time`; both in microseconds since 2000-01-01 00:00 UTC. Of a start that 64 bits don't hold
    /// the least number that they do.
    pub fn floor(self, time: i64) -> i64 {
        let day = time.div_euclid(DAY);
        match self {
            Grain::Minute => time.saturating_sub(time.rem_euclid(MINUTE)),
            Grain::Hour => time.saturating_sub(time.rem_euclid(HOUR)),
            Grain::Day => day.saturating_mul(DAY),
            Grain::Week => (day - (day - FIRST_MONDAY).rem_euclid(7)).saturating_mul(DAY),
            Grain::Month | Grain::Quarter | Grain::Year => {
                let (year, month, _) = civil_from_days(day);
                let first = match self {
                    Grain::Month => month,
                    Grain::Quarter => month - (month - 1) % 3,
                    _ => 1,
                };
                days_from_civil(year, first, 1).saturating_mul(DAY)
            }
        }
    }

    /// Start of the first bucket that begins at `time` or later; the greatest number of 64 bits where it is beyond them.
    pub fn ceiling(self, time: i64) -> i64 {
        let floor = self.floor(time);
        if floor == time {
            return time;
        }
        // Lands in the next bucket, whatever its length.
        let step = match self {
            Grain::Minute => MINUTE,
            Grain::Hour => HOUR,
            Grain::Day => DAY,
            Grain::Week => 7 * DAY,
            Grain::Month => 31 * DAY,
            Grain::Quarter => 92 * DAY,
            Grain::Year => 366 * DAY,
        };
        floor.checked_add(step).map_or(i64::MAX, |later| self.floor(later))
    }

    /// Whether every bucket of `coarser` is made of whole buckets of this grain.
    pub fn nests_in(self, coarser: Grain) -> bool {
        self == coarser || (self < coarser && self != Grain::Week)
    }

    /// The finest grain from whose buckets all of `grains` can be made; `None` for no grains.
    pub fn common(grains: &[Grain]) -> Option<Grain> {
        let finest = grains.iter().copied().min()?;
        Some(if grains.iter().all(|&grain| finest.nests_in(grain)) { finest } else { Grain::Day })
    }
}

impl fmt::Display for Grain {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

impl FromStr for Grain {
    type Err = ();

    fn from_str(name: &str) -> Result<Self, ()> {
        Grain::ALL.into_iter().find(|grain| grain.name() == name).ok_or(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Microseconds since 2000 of a civil time, spelled out independently of the code under test.
    fn at(days_since_2000: i64, hour: i64, minute: i64) -> i64 {
        ((days_since_2000 * 24 + hour) * 60 + minute) * 60_000_000
    }

    #[test]
    fn floors_known_times() {
        // 2024-02-29 is day 8825 since 2000-01-01, a Thursday.
        let time = at(8825, 13, 47) + 1;
        assert_eq!(Grain::Minute.floor(time), at(8825, 13, 47));
        assert_eq!(Grain::Hour.floor(time), at(8825, 13, 0));
        assert_eq!(Grain::Day.floor(time), at(8825, 0, 0));
        assert_eq!(Grain::Week.floor(time), at(8822, 0, 0));
        assert_eq!(Grain::Month.floor(time), at(8797, 0, 0));
        assert_eq!(Grain::Quarter.floor(time), at(8766, 0, 0));
        assert_eq!(Grain::Year.floor(time), at(8766, 0, 0));
        // Before 2000, one microsecond short of midnight.
        assert_eq!(Grain::Day.floor(-1), at(-1, 0, 0));
        assert_eq!(Grain::Year.floor(-1), at(-365, 0, 0));
    }

    #[test]
    fn finds_common_grains() {
        assert_eq!(Grain::common(&[Grain::Day, Grain::Hour]), Some(Grain::Hour));
        assert_eq!(Grain::common(&[Grain::Week, Grain::Month]), Some(Grain::Day));
        assert_eq!(Grain::common(&[Grain::Week]), Some(Grain::Week));
        assert_eq!(Grain::common(&[]), None);
    }

    proptest! {
        #[test]
        fn floor_is_an_idempotent_lower_bound(time in -60_000_000_000_000_000_i64..250_000_000_000_000_000) {
            for grain in Grain::ALL {
                let floor = grain.floor(time);
                prop_assert!(floor <= time);
                prop_assert_eq!(grain.floor(floor), floor);
                prop_assert!(grain.floor(floor - 1) < floor);
                let ceiling = grain.ceiling(time);
                prop_assert!(ceiling >= time);
                prop_assert_eq!(grain.floor(ceiling), ceiling);
                prop_assert!(ceiling == time || grain.floor(ceiling - 1) == floor);
            }
        }

        /// A bucket that 64 bits don't hold is taken for the nearest moment that they hold.
        #[test]
        fn there_is_a_floor_and_a_ceiling_of_every_time(off in 0_i64..1_000 * DAY, time: i64) {
            for time in [time, i64::MIN + off, i64::MAX - off] {
                for grain in Grain::ALL {
                    let (floor, ceiling) = (grain.floor(time), grain.ceiling(time));
                    prop_assert!(floor <= time && time <= ceiling, "{grain} {time}: {floor} {ceiling}");
                    prop_assert!(grain.floor(floor) <= floor && grain.ceiling(ceiling) >= ceiling);
                }
            }
        }

        #[test]
        fn nested_grains_agree(time in -60_000_000_000_000_000_i64..250_000_000_000_000_000) {
            for fine in Grain::ALL {
                for coarse in Grain::ALL {
                    if fine.nests_in(coarse) {
                        prop_assert_eq!(coarse.floor(fine.floor(time)), coarse.floor(time));
                    }
                }
            }
        }
    }
}
