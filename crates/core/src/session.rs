//! Session windows: events of one actor, cut where nothing happened for longer than a gap. A set of windows is merged with
//! another by joining those that are no further apart than the gap; that is associative, commutative, and gives what all the events
//! in one list would: late ones lengthen a window, or join two. Counts add up, so each event goes in once.
//! docs/formats.md has the layout.

use crate::stored::{self, StateError};
use crate::varint;

/// The longest that two successive events of one session can be apart: 30 minutes, in microseconds. Web analytics has used
/// this value since the first log analysers; both ends belong to it.
pub const GAP: i64 = 30 * 60 * 1_000_000;
/// First byte of the stored form.
const VERSION: u8 = 0x23;
/// The same in version 1, which had no checksum.
const VERSION_WITHOUT_CHECKSUM: u8 = 0x20;

/// A session: the times of its first and last event in microseconds since 2000, and how many there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    pub first: i64,
    pub last: i64,
    pub events: u64,
}

/// Windows in order of time, further apart than the gap.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Windows {
    windows: Vec<Window>,
}

impl Windows {
    /// Adds an event.
    pub fn add(&mut self, time: i64) {
        self.join(Window { first: time, last: time, events: 1 });
    }

    /// Adds all windows of a stored set.
    pub fn merge(&mut self, other: &WindowsRef) {
        other.each(|window| self.join(window));
    }

    /// Adds a window, joined with those that it reaches.
    pub fn join(&mut self, mut window: Window) {
        // The windows that reach to within the gap before its start up to the gap after its end.
        let from = self.windows.partition_point(|kept| kept.last < window.first.saturating_sub(GAP));
        let near =
            self.windows[from..].iter().take_while(|kept| kept.first <= window.last.saturating_add(GAP));
        let upto = from + near.count();
        for kept in &self.windows[from..upto] {
            window.first = window.first.min(kept.first);
            window.last = window.last.max(kept.last);
            window.events = window.events.saturating_add(kept.events);
        }
        self.windows.splice(from..upto, [window]);
    }

    /// The windows, in order of time.
    pub fn as_slice(&self) -> &[Window] {
        &self.windows
    }

    /// Bytes allocated.
    pub fn memory(&self) -> usize {
        self.windows.capacity() * size_of::<Window>()
    }

    /// The stored form; `None` of none.
    pub fn to_bytes(&self) -> Option<Vec<u8>> {
        let mut before = self.windows.first()?.first;
        let mut bytes = vec![VERSION];
        varint::write(varint::fold_sign(before), &mut bytes);
        for window in &self.windows {
            // Between the ends of what 64 bits hold with a sign there is more than they hold with one.
            if window.first != before {
                varint::write(window.first.abs_diff(before) - GAP as u64 - 1, &mut bytes);
            }
            varint::write(window.last.abs_diff(window.first), &mut bytes);
            varint::write(window.events, &mut bytes);
            before = window.last;
        }
        stored::seal(&mut bytes);
        Some(bytes)
    }
}

/// A stored set of windows, checked, read in place.
#[derive(Clone, Copy, Debug)]
pub struct WindowsRef<'a> {
    first: i64,
    rest: &'a [u8],
}

impl<'a> WindowsRef<'a> {
    /// Checks every byte.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, StateError> {
        let bytes = match bytes.first() {
            Some(&VERSION) => stored::open(bytes).ok_or(StateError::Checksum)?,
            Some(&VERSION_WITHOUT_CHECKSUM) => bytes,
            _ => return Err(StateError::Malformed),
        };
        bytes.split_first().and_then(|(_, rest)| Self::parse_windows(rest)).ok_or(StateError::Malformed)
    }

    fn parse_windows(mut rest: &'a [u8]) -> Option<Self> {
        let first = varint::unfold_sign(varint::read(&mut rest)?);
        let windows = WindowsRef { first, rest };
        let mut start = first;
        loop {
            let window = read(start, &mut rest)?;
            if window.events == 0 {
                return None;
            }
            if rest.is_empty() {
                return Some(windows);
            }
            start = next(window.last, &mut rest)?;
        }
    }

    /// Hands each window to `take`, in order of time.
    pub fn each(&self, mut take: impl FnMut(Window)) {
        let (mut start, mut rest) = (self.first, self.rest);
        while let Some(window) = read(start, &mut rest) {
            take(window);
            let Some(later) = next(window.last, &mut rest) else { return };
            start = later;
        }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        let mut count = 0;
        self.each(|_| count += 1);
        count
    }
}

fn read(first: i64, rest: &mut &[u8]) -> Option<Window> {
    let last = first.checked_add_unsigned(varint::read(rest)?)?;
    Some(Window { first, last, events: varint::read(rest)? })
}

/// Where the window after one that ends at `last` begins.
fn next(last: i64, rest: &mut &[u8]) -> Option<i64> {
    last.checked_add(GAP + 1)?.checked_add_unsigned(varint::read(rest)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The obvious way: sort, cut where the gap is exceeded.
    fn cut(mut times: Vec<i64>) -> Vec<Window> {
        times.sort_unstable();
        let sessions = times.chunk_by(|a, b| i128::from(*b) - i128::from(*a) <= i128::from(GAP));
        sessions.map(|s| Window { first: s[0], last: s[s.len() - 1], events: s.len() as u64 }).collect()
    }

    fn of(times: &[i64]) -> Windows {
        let mut windows = Windows::default();
        times.iter().for_each(|&time| windows.add(time));
        windows
    }

    fn sealed(bytes: &[u8]) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        stored::seal(&mut bytes);
        bytes
    }

    #[test]
    fn every_flipped_bit_and_changed_byte_is_found() {
        for bytes in
            [of(&[1]), of(&[0, 5, GAP + 6, 9 * GAP]), of(&[-9_000_000_000_000_000, 9_000_000_000_000_000])]
                .iter()
                .filter_map(Windows::to_bytes)
        {
            for bit in 0..bytes.len() * 8 {
                let mut flipped = bytes.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                assert!(WindowsRef::parse(&flipped).is_err(), "bit {bit} of {bytes:?}");
            }
            for place in 1..bytes.len() {
                for change in 1..=u8::MAX {
                    let mut changed = bytes.clone();
                    changed[place] ^= change;
                    assert_eq!(WindowsRef::parse(&changed).unwrap_err(), StateError::Checksum);
                }
            }
            for end in 0..bytes.len() {
                assert!(WindowsRef::parse(&bytes[..end]).is_err());
            }
        }
    }

    fn list(bytes: &[u8]) -> Vec<Window> {
        let mut windows = Vec::new();
        WindowsRef::parse(bytes).expect("stored windows").each(|window| windows.push(window));
        windows
    }

    #[test]
    fn the_gap_itself_joins_and_a_microsecond_more_does_not() {
        assert_eq!(of(&[0, GAP]).as_slice(), [Window { first: 0, last: GAP, events: 2 }]);
        assert_eq!(of(&[0, GAP + 1]).as_slice().len(), 2);
        assert_eq!(of(&[0, 2 * GAP, GAP]).as_slice(), [Window { first: 0, last: 2 * GAP, events: 3 }]);
        assert_eq!(of(&[i64::MIN, i64::MAX]).as_slice().len(), 2);
    }

    #[test]
    fn bytes_stay_what_they_are() {
        assert_eq!(of(&[]).to_bytes(), None);
        assert_eq!(of(&[1, 1]).to_bytes(), Some(sealed(&[0x23, 2, 0, 2])));
        assert_eq!(of(&[0, 5, GAP + 6]).to_bytes(), Some(sealed(&[0x23, 0, 5, 2, 0, 0, 1])));
        assert_eq!(
            list(&[0x20, 0, 5, 2, 0, 0, 1]),
            of(&[0, 5, GAP + 6]).as_slice(),
            "version 1 is read for ever"
        );
        for bytes in [&[][..], &[0x20], &[0x20, 0], &[0x20, 0, 0, 0], &[0x21, 0, 0, 1], &[0x20, 0, 0, 1, 0]] {
            assert!(WindowsRef::parse(bytes).is_err(), "{bytes:?}");
            if bytes.len() > 1 {
                let newest = sealed(&[&[bytes[0] + 3], &bytes[1..]].concat());
                assert_eq!(WindowsRef::parse(&newest).unwrap_err(), StateError::Malformed, "{bytes:?}");
            }
        }
    }

    fn some_times() -> impl Strategy<Value = Vec<i64>> {
        prop_oneof![
            prop::collection::vec(-5 * GAP..5 * GAP, 0..20),
            prop::collection::vec((-20_i64..20).prop_map(|n| n * GAP / 2), 0..20),
            prop::collection::vec((-9_i64..9, -1_i64..2).prop_map(|(n, off)| n * (GAP + 1) + off), 0..20),
            prop::collection::vec(any_time(), 0..20),
        ]
    }

    /// Also the ends of what 64 bits hold and of what SQL knows, between which there are more microseconds than fit.
    fn any_time() -> impl Strategy<Value = i64> {
        let ends = vec![i64::MIN, i64::MAX, -211_813_488_000_000_000, 9_223_371_331_200_000_000 - 1];
        prop_oneof![
            any::<i64>(),
            (prop::sample::select(ends), -2 * GAP..2 * GAP).prop_map(|(end, off)| end.saturating_add(off)),
        ]
    }

    proptest! {
        #[test]
        fn merging_in_any_order_is_cutting_the_whole(parts in prop::collection::vec(some_times(), 1..5)) {
            let expected = cut(parts.concat());
            let stored: Vec<_> = parts.iter().filter_map(|part| of(part).to_bytes()).collect();
            let mut forward = Windows::default();
            let mut back = Windows::default();
            stored.iter().for_each(|bytes| forward.merge(&WindowsRef::parse(bytes).unwrap()));
            stored.iter().rev().for_each(|bytes| back.merge(&WindowsRef::parse(bytes).unwrap()));
            prop_assert_eq!(forward.as_slice(), &expected[..]);
            prop_assert_eq!(back, forward.clone());
            if let Some(bytes) = forward.to_bytes() {
                prop_assert_eq!(list(&bytes), expected.clone());
                prop_assert_eq!(WindowsRef::parse(&bytes).unwrap().count(), expected.len());
            }
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes: Vec<u8>) {
            let behind = sealed(&[&[VERSION], &bytes[..]].concat());
            for bytes in [bytes.clone(), behind] {
                let Ok(windows) = WindowsRef::parse(&bytes) else { continue };
                let mut again = Windows::default();
                again.merge(&windows);
                // What has no checksum gets one.
                let written = if bytes[0] == VERSION { bytes } else { sealed(&[&[VERSION], &bytes[1..]].concat()) };
                prop_assert_eq!(again.to_bytes(), Some(written));
            }
        }
    }
}
