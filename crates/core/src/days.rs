//! Sets of days, compressed: the days on which something was active. Merging is union: associative, commutative,
//! idempotent. Equal sets have equal bytes; docs/formats.md has the layout.

use crate::stored::{self, StateError};
use crate::varint;

/// First byte of the stored form, and what follows the first day: gaps between days, or a bit for each day.
const GAPS: u8 = 0x16;
const BITS: u8 = 0x17;
/// The same in version 1, which had no checksum.
const GAPS_WITHOUT_CHECKSUM: u8 = 0x10;
const BITS_WITHOUT_CHECKSUM: u8 = 0x11;
/// Microseconds.
const DAY: i64 = 86_400_000_000;

/// The day (UTC, from 2000-01-01) that holds a time in microseconds since 2000.
pub fn day_of(time: i64) -> i32 {
    time.div_euclid(DAY) as i32
}

/// A set of days, counted from 2000-01-01.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Days {
    /// Ascending.
    days: Vec<i32>,
}

impl Days {
    /// Adds a day.
    pub fn add(&mut self, day: i32) {
        match self.days.last() {
            None => self.days.push(day),
            Some(&last) if last < day => self.days.push(day),
            Some(&last) if last == day => {}
            _ => {
                if let Err(place) = self.days.binary_search(&day) {
                    self.days.insert(place, day);
                }
            }
        }
    }

    /// Adds the days of a stored set.
    pub fn merge(&mut self, other: &DaysRef) {
        let after = self.days.last().copied();
        if after.is_none_or(|last| other.first() > last) {
            other.each(|day| self.days.push(day));
            return;
        }
        // Stable sorting of two ascending runs merges them.
        other.each(|day| self.days.push(day));
        self.days.sort();
        self.days.dedup();
    }

    /// The days, ascending.
    pub fn as_slice(&self) -> &[i32] {
        &self.days
    }

    /// Bytes allocated.
    pub fn memory(&self) -> usize {
        self.days.capacity() * size_of::<i32>()
    }

    /// The stored form, the shorter of the two; `None` of no days.
    pub fn to_bytes(&self) -> Option<Vec<u8>> {
        let (&first, &last) = (self.days.first()?, self.days.last()?);
        let mut bytes = vec![GAPS];
        varint::write(varint::fold_sign(first.into()), &mut bytes);
        let start = bytes.len();
        for pair in self.days.windows(2) {
            varint::write((i64::from(pair[1]) - i64::from(pair[0]) - 1) as u64, &mut bytes);
        }
        let span = (i64::from(last) - i64::from(first)) as usize;
        if span / 8 + 1 < bytes.len() - start {
            bytes[0] = BITS;
            bytes.truncate(start);
            bytes.resize(start + span / 8 + 1, 0);
            for &day in &self.days {
                let place = (i64::from(day) - i64::from(first)) as usize;
                bytes[start + place / 8] |= 1 << (place % 8);
            }
        }
        stored::seal(&mut bytes);
        Some(bytes)
    }
}

/// A stored set of days, checked, read in place.
#[derive(Clone, Copy, Debug)]
pub struct DaysRef<'a> {
    first: i32,
    form: u8,
    rest: &'a [u8],
}

impl<'a> DaysRef<'a> {
    /// Checks every byte.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, StateError> {
        let (form, bytes) = match bytes.first() {
            Some(&form @ (GAPS | BITS)) => (form, stored::open(bytes).ok_or(StateError::Checksum)?),
            Some(&GAPS_WITHOUT_CHECKSUM) => (GAPS, bytes),
            Some(&BITS_WITHOUT_CHECKSUM) => (BITS, bytes),
            _ => return Err(StateError::Malformed),
        };
        bytes.split_first().and_then(|(_, rest)| Self::parse_form(form, rest)).ok_or(StateError::Malformed)
    }

    fn parse_form(form: u8, mut rest: &'a [u8]) -> Option<Self> {
        let first = varint::unfold_sign(varint::read(&mut rest)?);
        let days = DaysRef { first: i32::try_from(first).ok()?, form, rest };
        let valid = match form {
            GAPS => {
                let (mut day, mut gaps) = (first, rest);
                while !gaps.is_empty() {
                    day = day.checked_add(i64::try_from(varint::read(&mut gaps)?).ok()?)?.checked_add(1)?;
                    i32::try_from(day).ok()?;
                }
                true
            }
            BITS => {
                let span = i64::try_from(rest.len()).ok()?.checked_mul(8)?;
                rest.first()? & 1 == 1 && *rest.last()? != 0 && i32::try_from(first + span).is_ok()
            }
            _ => false,
        };
        valid.then_some(days)
    }

    /// The first day.
    pub fn first(&self) -> i32 {
        self.first
    }

    /// Hands each day to `take`, ascending.
    #[inline]
    pub fn each(&self, mut take: impl FnMut(i32)) {
        if self.form == GAPS {
            let (mut day, mut gaps) = (self.first, self.rest);
            take(day);
            while let Some(gap) = varint::read(&mut gaps) {
                day = (i64::from(day) + gap as i64 + 1) as i32;
                take(day);
            }
            return;
        }
        for (place, chunk) in self.rest.chunks(8).enumerate() {
            let mut bits = word(chunk);
            while bits != 0 {
                take(self.first + (place * 64) as i32 + bits.trailing_zeros() as i32);
                bits &= bits - 1;
            }
        }
    }

    /// How many days there are.
    pub fn count(&self) -> usize {
        if self.form == BITS {
            return self.rest.iter().map(|byte| byte.count_ones() as usize).sum();
        }
        let mut count = 0;
        self.each(|_| count += 1);
        count
    }

    /// Sets in `words` the bits of the days from `origin` on, which is the first word's lowest bit, as far as they reach.
    #[inline]
    pub fn mark(&self, origin: i32, words: &mut [u64]) {
        let end = i64::from(origin) + words.len() as i64 * 64;
        let first = i64::from(self.first) - i64::from(origin);
        if self.form == BITS && first >= 0 {
            // A word at a time, shifted into its place.
            let (mut at, shift) = ((first / 64) as usize, (first % 64) as u32);
            for chunk in self.rest.chunks(8) {
                let bits = word(chunk);
                let Some(low) = words.get_mut(at) else { return };
                *low |= bits << shift;
                at += 1;
                if shift > 0 {
                    let Some(high) = words.get_mut(at) else { return };
                    *high |= bits >> (64 - shift);
                }
            }
            return;
        }
        self.each(|day| {
            if day >= origin && i64::from(day) < end {
                let place = (i64::from(day) - i64::from(origin)) as usize;
                words[place / 64] |= 1 << (place % 64);
            }
        });
    }
}

fn word(chunk: &[u8]) -> u64 {
    match chunk.try_into() {
        Ok(eight) => u64::from_le_bytes(eight),
        Err(_) => chunk.iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn set(days: impl IntoIterator<Item = i32>) -> Days {
        let mut set = Days::default();
        days.into_iter().for_each(|day| set.add(day));
        set
    }

    fn sealed(bytes: &[u8]) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        stored::seal(&mut bytes);
        bytes
    }

    #[test]
    fn sets_without_a_checksum_are_read_for_ever() {
        assert_eq!(list(&[0x10, 0xF2, 0x89, 0x01, 0]), [8825, 8826]);
        assert_eq!(list(&[0x11, 1, 0b0000_0111, 1]), [-1, 0, 1, 7]);
    }

    #[test]
    fn every_flipped_bit_and_changed_byte_is_found() {
        let sets = [set([0]), set([8825, 8826, 9000]), set(0..366), set((0..300).map(|n| n * n))];
        for bytes in sets.iter().filter_map(Days::to_bytes) {
            for bit in 0..bytes.len() * 8 {
                let mut flipped = bytes.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                assert!(DaysRef::parse(&flipped).is_err(), "bit {bit} of {bytes:?}");
            }
            for place in 1..bytes.len() {
                for change in 1..=u8::MAX {
                    let mut changed = bytes.clone();
                    changed[place] ^= change;
                    assert_eq!(DaysRef::parse(&changed).unwrap_err(), StateError::Checksum);
                }
            }
            for end in 0..bytes.len() {
                assert!(DaysRef::parse(&bytes[..end]).is_err());
            }
        }
    }

    fn list(bytes: &[u8]) -> Vec<i32> {
        let mut days = Vec::new();
        DaysRef::parse(bytes).expect("a stored set").each(|day| days.push(day));
        days
    }

    #[test]
    fn bytes_stay_what_they_are() {
        assert_eq!(set([]).to_bytes(), None);
        assert_eq!(set([0]).to_bytes(), Some(sealed(&[0x16, 0])));
        assert_eq!(set([8826, 8825, 8826]).to_bytes(), Some(sealed(&[0x16, 0xF2, 0x89, 0x01, 0])));
        assert_eq!(set([0]).to_bytes().unwrap(), [0x16, 0, 0x28, 0xA7, 0x41, 0x5D]);
        assert_eq!(set([-1, 0, 1, 7]).to_bytes(), Some(sealed(&[0x17, 1, 0b0000_0111, 1])));
        assert_eq!(set(0..366).to_bytes().unwrap().len(), 2 + 46 + 4, "a leap year, every day");
        assert_eq!((day_of(-1), day_of(0), day_of(DAY - 1), day_of(DAY)), (-1, 0, 0, 1));
    }

    #[test]
    fn what_no_set_is_stored_as_is_refused() {
        for bytes in [
            &[][..],
            &[0x10],
            &[0x12, 0],
            &[0x11, 0],
            &[0x11, 0, 2],
            &[0x11, 0, 1, 0],
            &[0x10, 0, 0x80],
            &[0x10, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x01],
            &[0x10, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x01],
        ] {
            assert!(DaysRef::parse(bytes).is_err(), "{bytes:?}");
            if bytes.len() > 1 {
                let newest = sealed(&[&[bytes[0] + 6], &bytes[1..]].concat());
                assert_eq!(DaysRef::parse(&newest).unwrap_err(), StateError::Malformed, "{bytes:?}");
            }
        }
    }

    fn some_days() -> impl Strategy<Value = Vec<i32>> {
        prop_oneof![
            prop::collection::vec(-400_i32..400, 0..200),
            prop::collection::vec(9_000_i32..9_400, 0..300),
            prop::collection::vec(-100_000_i32..2_000_000, 0..20),
            prop::collection::vec(any::<i64>().prop_map(day_of), 0..20),
            prop::collection::vec(
                prop::sample::select(vec![i32::MIN, i32::MAX, day_of(i64::MIN), day_of(i64::MAX)]),
                0..3
            ),
        ]
    }

    proptest! {
        #[test]
        fn merging_is_the_union_in_any_order(parts in prop::collection::vec(some_days(), 1..5)) {
            let expected: Vec<i32> = parts.iter().flatten().copied().collect::<BTreeSet<_>>().into_iter().collect();
            let stored: Vec<_> = parts.iter().filter_map(|part| set(part.iter().copied()).to_bytes()).collect();
            let (mut forward, mut back) = (Days::default(), Days::default());
            for bytes in &stored {
                forward.merge(&DaysRef::parse(bytes).unwrap());
            }
            for bytes in stored.iter().rev().chain(&stored) {
                back.merge(&DaysRef::parse(bytes).unwrap());
            }
            prop_assert_eq!(forward.as_slice(), &expected[..]);
            prop_assert_eq!(forward.to_bytes(), back.to_bytes());
            if let Some(bytes) = forward.to_bytes() {
                prop_assert_eq!(list(&bytes), expected.clone());
                prop_assert_eq!(DaysRef::parse(&bytes).unwrap().count(), expected.len());
            }
        }

        #[test]
        fn marks_the_days_of_a_range(days in some_days(), origin in -500_i32..9_500, length in 0_usize..9) {
            let Some(bytes) = set(days.iter().copied()).to_bytes() else { return Ok(()) };
            let mut words = vec![0_u64; length];
            DaysRef::parse(&bytes).unwrap().mark(origin, &mut words);
            for place in 0..length * 64 {
                let marked = words[place / 64] >> (place % 64) & 1 == 1;
                prop_assert_eq!(marked, days.contains(&(origin + place as i32)));
            }
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes: Vec<u8>, form in prop::sample::select(vec![0x10_u8, 0x11, 0x16, 0x17])) {
            let behind = [&[form], &bytes[..]].concat();
            for bytes in [bytes.clone(), sealed(&behind), behind] {
                let Ok(days) = DaysRef::parse(&bytes) else { continue };
                let mut last = None;
                days.each(|day| {
                    assert!(last.is_none_or(|last| last < day));
                    last = Some(day);
                });
                days.mark(-1000, &mut [0; 4]);
                let mut again = Days::default();
                again.merge(&days);
                prop_assert_eq!(list(&again.to_bytes().unwrap()), again.as_slice());
            }
        }
    }
}
