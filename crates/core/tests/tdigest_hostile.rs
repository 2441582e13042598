//! Stored bytes that someone made up: never a panic, never more than the caps.

use proptest::prelude::*;
use tally_core::stored::{self, CHECKSUM};
use tally_core::tdigest::{MAX_STORED_BYTES, Summary, TDigest, TDigestError};

/// The first byte of version 1, which had no checksum.
const OLD: u8 = 0xd1;

/// Bytes whose checksum someone has made up as well.
fn resealed(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes[..bytes.len() - CHECKSUM].to_vec();
    stored::seal(&mut bytes);
    bytes
}

fn digest_of(compression: u16, n: u32) -> Summary {
    let mut digest = TDigest::new(compression).unwrap();
    (0..n).for_each(|i| digest.add(f64::from(i.wrapping_mul(0x9e37_79b1) >> 8) - 1e6).unwrap());
    digest.into_summary()
}

/// What parses stores as the same bytes, answers with finite numbers, and merges.
fn use_stored(bytes: &[u8]) -> bool {
    let mut digest = TDigest::new(100).unwrap();
    let merged = digest.merge(bytes).is_ok();
    let Ok(parsed) = Summary::parse(bytes) else {
        assert!(!merged && digest.num_vals() == 0);
        assert_eq!(digest.finish().num_centroids(), 0, "an error adds nothing");
        return false;
    };
    assert_eq!(merged, parsed.compression() == 100);
    let newest = parsed.to_bytes();
    match bytes[0] {
        OLD => assert_eq!(newest[1..newest.len() - CHECKSUM], bytes[1..]),
        _ => assert_eq!(newest, bytes),
    }
    assert!(parsed.num_centroids() <= usize::from(parsed.compression()));
    let mut last = f64::NEG_INFINITY;
    for q in [0.0, 0.01, 0.25, 0.5, 0.99, 1.0] {
        if let Some(answer) = parsed.quantile(q).unwrap() {
            assert!(answer.is_finite() && answer >= last);
            last = answer;
            let rank = parsed.rank(answer).unwrap().unwrap();
            assert!((0.0..=1.0).contains(&rank));
        }
    }
    assert!(parsed.mean().is_none_or(f64::is_finite));
    assert!(parsed.trimmed_mean(0.1, 0.7).unwrap().is_none_or(f64::is_finite));
    let mut twice = TDigest::new(parsed.compression()).unwrap();
    if twice.merge(bytes).and_then(|()| twice.merge(bytes)).is_ok() {
        let twice = twice.into_summary();
        assert_eq!(twice.num_vals(), 2 * parsed.num_vals());
        assert_eq!(Summary::parse(&twice.to_bytes()).unwrap(), twice);
    }
    true
}

const SEEDS: [(u16, u32); 7] =
    [(100, 0), (100, 1), (10, 9), (100, 100), (10, 500), (100, 3_000), (20, 100_000)];

#[test]
fn every_flipped_bit_changed_byte_and_truncation_is_found() {
    for (compression, n) in SEEDS {
        let seed = digest_of(compression, n).to_bytes();
        for end in 0..seed.len() {
            assert!(!use_stored(&seed[..end]));
        }
        for bit in 0..seed.len() * 8 {
            let mut flipped = seed.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(!use_stored(&flipped), "bit {bit} of {seed:?}");
        }
        for place in 1..seed.len() {
            for change in [0x03, 0x30, 0x55, 0xaa, 0xff] {
                let mut changed = seed.clone();
                changed[place] ^= change;
                assert_eq!(Summary::parse(&changed).unwrap_err(), TDigestError::Checksum);
            }
        }
    }
}

#[test]
fn every_truncation_and_bit_flip_is_survived() {
    let mut refused = 0;
    for (compression, n) in SEEDS {
        let mut bytes = digest_of(compression, n).to_bytes();
        assert!(use_stored(&bytes));
        for end in CHECKSUM..bytes.len() {
            refused += u32::from(!use_stored(&resealed(&bytes[..end])));
        }
        for bit in 0..bytes.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            refused += u32::from(!use_stored(&resealed(&bytes)));
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        bytes.push(0);
        assert!(!use_stored(&resealed(&bytes)));
    }
    assert!(refused > 1_000, "the validator refuses: {refused}");
}

#[test]
fn longer_than_the_cap_is_refused() {
    assert!(Summary::parse(&vec![OLD; MAX_STORED_BYTES + 1]).is_err());
}

#[test]
fn a_huge_number_of_centroids_is_refused_before_anything_is_reserved() {
    let mut bytes = vec![OLD, 0, 0xe8, 3];
    bytes.extend(0_f64.to_le_bytes());
    bytes.extend([0xff, 0xff]);
    assert!(!use_stored(&bytes));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn garbage_is_survived(bytes in prop::collection::vec(any::<u8>(), 0..1_500)) {
        use_stored(&bytes);
    }

    #[test]
    fn garbage_behind_a_good_header_is_survived(
        means in prop::collection::vec(any::<f64>(), 1..40),
        weights in prop::collection::vec(any::<u64>(), 40),
        width in 0_usize..=9,
        sum in any::<f64>(),
        order in any::<bool>(),
    ) {
        let mut means = means;
        if order {
            means.sort_unstable_by(f64::total_cmp);
        }
        let mut bytes = vec![OLD, (width as u8) << 4, 100, 0];
        bytes.extend(sum.to_le_bytes());
        bytes.extend((means.len() as u16).to_le_bytes());
        bytes.extend(means.iter().flat_map(|mean| mean.to_le_bytes()));
        for weight in &weights[..means.len()] {
            bytes.extend((weight >> (weight % 64)).to_le_bytes().iter().take(width));
        }
        use_stored(&bytes);
        bytes[0] = 0xd2;
        stored::seal(&mut bytes);
        use_stored(&bytes);
    }

    #[test]
    fn many_bytes_changed_at_once_are_survived(
        n in 0_u32..600,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..20),
    ) {
        let mut bytes = digest_of(20, n).to_bytes();
        for (at, value) in &changes {
            let at = at.index(bytes.len());
            bytes[at] = *value;
        }
        use_stored(&bytes);
        use_stored(&resealed(&bytes));
    }
}
