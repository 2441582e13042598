//! Stored and foreign bytes that someone made up: never a panic, never more than the caps.

use proptest::prelude::*;
use tally_core::hll::{Hll, HllError, HllRef, Keying, MAX_STORED_BYTES, ValueHasher};
use tally_core::stored::{self, CHECKSUM};

/// The first byte of version 1, which had no checksum.
const OLD: u8 = 0xb1;

/// Bytes whose checksum someone has made up as well.
fn resealed(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes[..bytes.len() - CHECKSUM].to_vec();
    stored::seal(&mut bytes);
    bytes
}

fn sketch_of(lgk: u8, keying: Keying, values: std::ops::Range<i64>) -> Hll {
    let mut sketch = Hll::new(lgk, keying).unwrap();
    values.for_each(|value| sketch.add_i64(&ValueHasher::Plain, value));
    sketch
}

/// What parses is canonical: it comes back as the same bytes, and its numbers are finite.
fn use_stored(bytes: &[u8]) -> bool {
    let Ok(parsed) = HllRef::parse(bytes) else { return false };
    let sketch = Hll::try_from(&parsed).unwrap();
    let newest = sketch.to_bytes();
    match bytes[0] {
        OLD => assert_eq!(newest[1..newest.len() - CHECKSUM], bytes[1..]),
        _ => assert_eq!(newest, bytes),
    }
    assert!(sketch.estimate().is_finite() && sketch.estimate() >= 0.0);
    let bounds = sketch.bounds(3).unwrap();
    assert!(bounds.lower <= bounds.estimate && bounds.estimate <= bounds.upper);
    true
}

fn use_foreign(bytes: &[u8]) -> bool {
    let Ok(sketch) = Hll::from_datasketches(bytes) else { return false };
    let stored = sketch.to_bytes();
    assert!(stored.len() <= MAX_STORED_BYTES);
    assert!(use_stored(&stored), "an import must store");
    true
}

fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for lgk in [4, 7, 8, 11] {
        for size in [0, 1, 7, 8, 24, 200, 60_000] {
            seeds.push(sketch_of(lgk, Keying::Plain, 0..size).to_bytes());
        }
    }
    seeds.extend(
        [3, 2_000].map(|size| sketch_of(7, Keying::Keyed { epoch: 0x0102_0304 }, 0..size).to_bytes()),
    );
    seeds
}

#[test]
fn every_flipped_bit_changed_byte_and_truncation_is_found() {
    for seed in seeds() {
        for end in 0..seed.len() {
            assert!(!use_stored(&seed[..end]));
        }
        for bit in 0..seed.len() * 8 {
            let mut flipped = seed.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(!use_stored(&flipped), "bit {bit} of {seed:?}");
        }
        for place in 1..seed.len().min(300) {
            for change in [0x03, 0x30, 0x55, 0xaa, 0xff] {
                let mut changed = seed.clone();
                changed[place] ^= change;
                assert_eq!(HllRef::parse(&changed).unwrap_err(), HllError::Checksum);
            }
        }
    }
}

#[test]
fn every_truncation_and_bit_flip_of_stored_bytes_is_survived() {
    let mut refused = 0;
    for seed in seeds() {
        assert!(use_stored(&seed));
        for end in CHECKSUM..seed.len() {
            refused += u32::from(!use_stored(&resealed(&seed[..end])));
        }
        let mut flipped = seed;
        for bit in 0..flipped.len() * 8 {
            flipped[bit / 8] ^= 1 << (bit % 8);
            refused += u32::from(!use_stored(&resealed(&flipped)));
            flipped[bit / 8] ^= 1 << (bit % 8);
        }
        flipped.push(0);
        refused += u32::from(!use_stored(&resealed(&flipped)));
    }
    assert!(refused > 1_000, "the validator refuses: {refused}");
}

#[test]
fn every_truncation_and_bit_flip_of_foreign_images_is_survived() {
    let mut refused = 0;
    for (lgk, size) in [(4, 5), (4, 1_000), (8, 20), (8, 100_000), (11, 100), (9, 60_000)] {
        let mut image = sketch_of(lgk, Keying::Plain, 0..size).to_datasketches().unwrap();
        for end in 0..image.len() {
            assert!(!use_foreign(&image[..end]));
        }
        for bit in 0..image.len() * 8 {
            image[bit / 8] ^= 1 << (bit % 8);
            refused += u32::from(!use_foreign(&image));
            image[bit / 8] ^= 1 << (bit % 8);
        }
    }
    assert!(refused > 100, "the validator refuses: {refused}");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn garbage_is_survived(bytes in prop::collection::vec(any::<u8>(), 0..2_200)) {
        use_stored(&bytes);
        use_foreign(&bytes);
    }

    #[test]
    fn garbage_behind_a_good_header_is_survived(
        mut bytes in prop::collection::vec(any::<u8>(), 12..1_200),
        dense in any::<bool>(),
        keyed in any::<bool>(),
        lgk in 4_u8..=14,
        base in 0_u8..=64,
    ) {
        bytes[..4].copy_from_slice(&[0xb2, u8::from(keyed) | (u8::from(dense) << 1), lgk, base]);
        use_stored(&resealed(&bytes));
        bytes[0] = OLD;
        use_stored(&bytes);
    }

    #[test]
    fn many_bytes_changed_at_once_are_survived(
        size in 0_i64..600,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..20),
    ) {
        let mut bytes = sketch_of(8, Keying::Plain, 0..size).to_bytes();
        for (at, value) in &changes {
            let at = at.index(bytes.len());
            bytes[at] = *value;
        }
        use_stored(&bytes);
        use_stored(&resealed(&bytes));
    }
}

#[test]
fn longer_than_the_cap_is_refused() {
    assert!(HllRef::parse(&vec![OLD; MAX_STORED_BYTES + 1]).is_err());
    assert!(Hll::from_datasketches(&vec![2; 1 << 20]).is_err());
}

/// All registers but one are exceptions at the largest lgk: still within the cap, still parsed.
#[test]
fn the_worst_sketch_fits_the_cap() {
    let mut image = vec![10, 1, 7, 14, 0, 16, 0, 2 | (2 << 2)];
    image.extend([0; 32]);
    image.extend(std::iter::repeat_n(63, (1 << 14) - 1).chain([0]));
    assert!(use_foreign(&image));
}
