//! Retention and activity of units (users or accounts) from the days on which they were active.
//!
//! Units are given one after the other; of each only its days inside the range are held, as bits. So memory depends on the range
//! alone, not on how many units there are.

use crate::days::DaysRef;
use crate::grain::Grain;

/// The most periods of a triangle, which then has two million cells.
pub const MAX_PERIODS: usize = 2_000;
/// The most days of a range: more than a century.
pub const MAX_DAYS: usize = 40_000;
const DAY: i64 = 86_400_000_000;
/// Days whose times in microseconds are numbers of 64 bits, with room to spare.
const FIRST_DAYS: core::ops::Range<i32> = -100_000_000..100_000_000;

/// What a part of a unit's activity says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Role {
    /// Its days can be the one on which the unit begins.
    pub starts: bool,
    /// The unit returns on its days.
    pub returns: bool,
}

/// In which periods a return counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// In its own.
    Each,
    /// In its own and every one before it.
    Rolling,
    /// In the bracket that holds it: each begins with this period and ends before the next one's.
    Brackets(Vec<usize>),
}

/// Consecutive days from the first to before the end, with one bit for each that a unit was active on.
#[derive(Clone, Debug)]
struct Active {
    first: i32,
    words: Vec<u64>,
}

impl Active {
    fn new(first: i32, days: usize) -> Self {
        Active { first, words: vec![0; days.div_ceil(64)] }
    }

    /// The first active place from `place` on.
    #[inline]
    fn next(&self, place: usize) -> Option<usize> {
        let mut at = place / 64;
        let mut bits = self.words.get(at)? & (u64::MAX << (place % 64));
        while bits == 0 {
            at += 1;
            bits = *self.words.get(at)?;
        }
        Some(at * 64 + bits.trailing_zeros() as usize)
    }

    /// The last active place before `end`.
    fn last(&self, end: usize) -> Option<usize> {
        let bits = |at: usize| match (at + 1) * 64 {
            reach if reach > end => self.words[at] & !(u64::MAX << (end - at * 64)),
            _ => self.words[at],
        };
        let at = (0..end.div_ceil(64)).rev().find(|at| bits(*at) != 0)?;
        Some(at * 64 + 63 - bits(at).leading_zeros() as usize)
    }
}

/// A row of a triangle: cohort (its first period's day since 2000), period after it, units in the cohort, units retained.
pub type Row = (i32, usize, i64, i64);

/// Cohorts by the period in which units began, and how many of each came back when.
#[derive(Clone, Debug)]
pub struct Triangle {
    kind: Kind,
    days: usize,
    /// The first day of each period, and of the one after the last; days are counted from the range's first.
    starts: Vec<i64>,
    /// The period of each day.
    periods: Vec<u32>,
    sizes: Vec<i64>,
    /// Columns of each cohort.
    width: usize,
    retained: Vec<i64>,
    /// Of the unit at hand: where it began, if it did, and when it was active.
    began: Option<i32>,
    active: Active,
}

impl Triangle {
    /// For units that begin on the days from `first` to before `end`, of periods of a grain; `None` where that is too much.
    pub fn new(grain: Grain, first: i32, end: i32, kind: Kind) -> Option<Self> {
        let days = usize::try_from(i64::from(end) - i64::from(first)).ok()?;
        if days == 0 || days > MAX_DAYS || !FIRST_DAYS.contains(&first) {
            return None;
        }
        let (mut starts, mut periods) = (Vec::new(), Vec::with_capacity(days));
        let mut start = grain.floor(i64::from(first) * DAY) / DAY;
        while start < i64::from(end) {
            starts.push(start - i64::from(first));
            start = grain.ceiling(start * DAY + 1) / DAY;
            while periods.len() < days && i64::from(first) + (periods.len() as i64) < start {
                periods.push(starts.len() as u32 - 1);
            }
        }
        starts.push(start - i64::from(first));
        let number = starts.len() - 1;
        let width = match &kind {
            Kind::Brackets(brackets) => brackets.len(),
            Kind::Each | Kind::Rolling => number,
        };
        (number <= MAX_PERIODS && width <= MAX_PERIODS).then(|| Triangle {
            kind,
            days,
            starts,
            periods,
            sizes: vec![0; number],
            width,
            retained: vec![0; number * width],
            began: None,
            active: Active::new(first, days),
        })
    }

    /// Bytes allocated.
    pub fn memory(&self) -> usize {
        8 * (self.starts.capacity()
            + self.sizes.capacity()
            + self.retained.capacity()
            + self.active.words.capacity())
            + 4 * self.periods.capacity()
    }

    /// Adds a part of the activity of the unit at hand.
    #[inline]
    pub fn add(&mut self, role: Role, days: &DaysRef) {
        if role.starts {
            self.began = Some(self.began.map_or(days.first(), |began| began.min(days.first())));
        }
        if role.returns {
            days.mark(self.active.first, &mut self.active.words);
        }
    }

    /// Ends the unit at hand.
    pub fn end_unit(&mut self) {
        if let Some(began) = self.began.take() {
            let place = i64::from(began) - i64::from(self.active.first);
            if let Some(place) = usize::try_from(place).ok().filter(|place| *place < self.days) {
                self.count(place);
            }
        }
        self.active.words.fill(0);
    }

    /// Counts a unit that began on a day.
    fn count(&mut self, began: usize) {
        let cohort = self.periods[began] as usize;
        self.sizes[cohort] += 1;
        let row = &mut self.retained[cohort * self.width..(cohort + 1) * self.width];
        // Bits beyond the range's end can be set in the last word.
        let period = |place: usize| self.periods.get(place).map(|period| *period as usize - cohort);
        let after = |period: usize| self.starts.get(cohort + period).map(|start| *start as usize);
        if self.kind == Kind::Rolling {
            if let Some(period) = self.active.last(self.days).filter(|last| *last >= began).and_then(period) {
                row[period] += 1;
            }
            return;
        }
        let mut from = began;
        while let Some(period) = self.active.next(from).and_then(period) {
            let next = match &self.kind {
                Kind::Brackets(brackets) => {
                    let bracket = brackets.partition_point(|begins| *begins <= period);
                    if bracket > 0 {
                        row[bracket - 1] += 1;
                    }
                    brackets.get(bracket).and_then(|begins| after(*begins))
                }
                _ => {
                    row[period] += 1;
                    after(period + 1)
                }
            };
            let Some(next) = next else { return };
            from = next;
        }
    }

    /// Every cohort with a unit in it, with each period that begins inside the range.
    pub fn rows(&self) -> Vec<Row> {
        let number = self.sizes.len();
        let mut rows = Vec::new();
        for (cohort, &size) in self.sizes.iter().enumerate().filter(|(_, size)| **size > 0) {
            let start = (i64::from(self.active.first) + self.starts[cohort]) as i32;
            let counts = &self.retained[cohort * self.width..(cohort + 1) * self.width];
            let mut later = 0;
            let mut own = Vec::new();
            for (column, &count) in counts.iter().enumerate().rev() {
                later += count;
                let period = match &self.kind {
                    Kind::Brackets(brackets) => brackets[column],
                    _ => column,
                };
                if cohort + period < number {
                    own.push((start, period, size, if self.kind == Kind::Rolling { later } else { count }));
                }
            }
            rows.extend(own.into_iter().rev());
        }
        rows
    }
}

/// For each day of a range: the units active on it, in the 7 and in the 30 days that end with it.
#[derive(Clone, Debug)]
pub struct Actives {
    days: usize,
    /// By how much each of the three numbers changes on a day.
    changes: [Vec<i64>; 3],
    active: Active,
}

/// How many days back each number looks.
const SPANS: [usize; 3] = [1, 7, 30];
/// The days before the range that matter.
const LEAD: usize = 29;

impl Actives {
    /// For the days from `first` to before `end`; `None` where that is too much.
    pub fn new(first: i32, end: i32) -> Option<Self> {
        let days = usize::try_from(i64::from(end) - i64::from(first)).ok()?;
        (days > 0 && days <= MAX_DAYS && first > i32::MIN + LEAD as i32).then(|| Actives {
            days,
            changes: core::array::from_fn(|_| vec![0; LEAD + days + 1]),
            active: Active::new(first - LEAD as i32, LEAD + days),
        })
    }

    /// Bytes allocated.
    pub fn memory(&self) -> usize {
        8 * (3 * (LEAD + self.days + 1) + self.active.words.capacity())
    }

    /// Adds a part of the activity of the unit at hand.
    #[inline]
    pub fn add(&mut self, days: &DaysRef) {
        days.mark(self.active.first, &mut self.active.words);
    }

    /// Ends the unit at hand.
    pub fn end_unit(&mut self) {
        let end = LEAD + self.days;
        let mut day = self.active.next(0).filter(|day| *day < end);
        while let Some(now) = day {
            let next = self.active.next(now + 1).filter(|day| *day < end);
            // A day keeps its unit in the count for the span, or until the next day takes over.
            for (changes, span) in self.changes.iter_mut().zip(SPANS) {
                changes[now] += 1;
                changes[next.unwrap_or(end).min(now + span).min(end)] -= 1;
            }
            day = next;
        }
        self.active.words.fill(0);
    }

    /// The three numbers of each day.
    pub fn rows(&self) -> Vec<[i64; 3]> {
        let mut now = [0; 3];
        let all = (0..LEAD + self.days).map(|day| {
            now.iter_mut().zip(&self.changes).for_each(|(now, changes)| *now += changes[day]);
            now
        });
        all.skip(LEAD).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::days::Days;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};

    /// A unit: the parts of its activity.
    type Unit = Vec<(bool, bool, Vec<i32>)>;

    fn units() -> impl Strategy<Value = Vec<Unit>> {
        let part = (any::<bool>(), any::<bool>(), prop::collection::vec(8_700_i32..8_900, 1..12));
        prop::collection::vec(prop::collection::vec(part, 1..4), 0..12)
    }

    fn each_part(units: &[Unit], mut take: impl FnMut(Option<(Role, &DaysRef)>)) {
        for unit in units {
            for (starts, returns, days) in unit {
                let mut set = Days::default();
                days.iter().for_each(|&day| set.add(day));
                let bytes = set.to_bytes().unwrap();
                take(Some((Role { starts: *starts, returns: *returns }, &DaysRef::parse(&bytes).unwrap())));
            }
            take(None);
        }
    }

    /// Number of the period of a day, counted from one long before.
    fn number(grain: Grain, day: i32) -> usize {
        let (mut number, mut start) = (0, grain.floor(8_000 * DAY));
        while grain.ceiling(start + 1) <= i64::from(day) * DAY {
            (number, start) = (number + 1, grain.ceiling(start + 1));
        }
        number
    }

    /// From the definition: which periods each member of each cohort was active in.
    fn expected(units: &[Unit], grain: Grain, first: i32, end: i32, kind: &Kind) -> Vec<Row> {
        let mut cohorts: BTreeMap<i32, Vec<BTreeSet<usize>>> = BTreeMap::new();
        for unit in units {
            let days = |wanted: fn(&(bool, bool, Vec<i32>)) -> bool| {
                unit.iter().filter(move |part| wanted(part)).flat_map(|part| part.2.clone())
            };
            let Some(began) = days(|part| part.0).min().filter(|day| (first..end).contains(day)) else {
                continue;
            };
            let cohort = (grain.floor(i64::from(began) * DAY) / DAY) as i32;
            let returned = days(|part| part.1).filter(|day| (began..end).contains(day));
            let periods = returned.map(|day| number(grain, day) - number(grain, began)).collect();
            cohorts.entry(cohort).or_default().push(periods);
        }
        let mut rows = Vec::new();
        for (cohort, members) in cohorts {
            let most = number(grain, end - 1) - number(grain, cohort);
            let columns: Vec<usize> = match kind {
                Kind::Brackets(brackets) => {
                    brackets.iter().copied().filter(|begins| *begins <= most).collect()
                }
                _ => (0..=most).collect(),
            };
            for &period in &columns {
                let counts = |returned: &usize| match kind {
                    Kind::Each => *returned == period,
                    Kind::Rolling => *returned >= period,
                    Kind::Brackets(brackets) => {
                        let next = brackets.iter().copied().find(|begins| *begins > period);
                        (period..next.unwrap_or(usize::MAX)).contains(returned)
                    }
                };
                let retained = members.iter().filter(|periods| periods.iter().any(counts)).count();
                rows.push((cohort, period, members.len() as i64, retained as i64));
            }
        }
        rows
    }

    proptest! {
        #[test]
        fn a_triangle_is_what_the_definition_says(
            units in units(), first in 8_650_i32..8_900, length in 1_i32..200, grain in 0_usize..3, kind in 0_usize..4,
        ) {
            let grain = [Grain::Day, Grain::Week, Grain::Month][grain];
            let kind = [Kind::Each, Kind::Rolling, Kind::Brackets(vec![0, 1, 3, 7]), Kind::Brackets(vec![2, 5])][kind].clone();
            let mut triangle = Triangle::new(grain, first, first + length, kind.clone()).unwrap();
            each_part(&units, |part| match part {
                Some((role, days)) => triangle.add(role, days),
                None => triangle.end_unit(),
            });
            prop_assert_eq!(triangle.rows(), expected(&units, grain, first, first + length, &kind));
        }

        #[test]
        fn actives_are_what_the_definition_says(units in units(), first in 8_650_i32..8_900, length in 1_i32..100) {
            let mut actives = Actives::new(first, first + length).unwrap();
            each_part(&units, |part| match part {
                Some((_, days)) => actives.add(days),
                None => actives.end_unit(),
            });
            let rows = actives.rows();
            for (day, row) in (first..first + length).zip(rows) {
                for (seen, span) in row.into_iter().zip([1, 7, 30]) {
                    let wanted = |unit: &&Unit| unit.iter().any(|part| part.2.iter().any(|d| (day - span + 1..=day).contains(d)));
                    prop_assert_eq!(seen, units.iter().filter(wanted).count() as i64);
                }
            }
        }
    }

    #[test]
    fn ranges_have_limits() {
        assert!(Triangle::new(Grain::Day, 0, 0, Kind::Each).is_none());
        assert!(Triangle::new(Grain::Day, 0, 2_001, Kind::Each).is_none());
        assert!(Triangle::new(Grain::Month, 0, 40_000, Kind::Each).is_some());
        assert!(Triangle::new(Grain::Month, i32::MIN, i32::MAX, Kind::Each).is_none());
        assert!(Triangle::new(Grain::Week, i32::MAX - 1, i32::MAX, Kind::Each).is_none());
        assert!(Actives::new(i32::MIN, i32::MIN + 1).is_none() && Actives::new(5, 5).is_none());
    }
}
