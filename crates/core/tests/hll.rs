//! The distinct-count sketch against a set, and its merge laws.

use proptest::prelude::*;
use std::collections::BTreeSet;
use tally_core::hll::{
    Coupon, DEFAULT_LGK, HashKey, Hll, HllError, HllRef, Keying, ValueHasher, sparse_limit,
};

const PLAIN: ValueHasher = ValueHasher::Plain;

fn sketch_of(lgk: u8, values: &[i64]) -> Hll {
    let mut sketch = Hll::new(lgk, Keying::Plain).unwrap();
    values.iter().for_each(|&value| sketch.add_i64(&PLAIN, value));
    sketch
}

fn merged(parts: &[&Hll]) -> Hll {
    let mut union = Hll::new(parts[0].lgk(), parts[0].keying()).unwrap();
    for part in parts {
        union.merge(&HllRef::parse(&part.to_bytes()).unwrap()).unwrap();
    }
    union
}

#[test]
fn counts_are_exact_up_to_the_limit() {
    for lgk in 4..=14 {
        let mut sketch = Hll::new(lgk, Keying::Plain).unwrap();
        for n in 1..=sparse_limit(lgk).min(1_500) {
            sketch.add_i64(&PLAIN, n as i64);
            sketch.add_i64(&PLAIN, n as i64 / 2 + 1);
            assert_eq!(sketch.estimate(), n as f64);
            assert!(sketch.is_exact() && sketch.stderror() == 0.0);
        }
    }
    assert_eq!(sparse_limit(DEFAULT_LGK), 192);
}

#[test]
fn error_stays_within_bounds_when_dense() {
    for lgk in 4..=14 {
        for n in [500_i64, 5_000, 50_000] {
            let sketch = sketch_of(lgk, &(0..n).collect::<Vec<_>>());
            if sketch.is_exact() {
                continue;
            }
            let error = sketch.estimate() / n as f64 - 1.0;
            assert!(error.abs() <= 4.0 * sketch.stderror(), "lgk {lgk}, n {n}: {error}");
        }
    }
}

/// Root mean square over 400 streams; the full table is examples/hll_accuracy.rs.
#[test]
fn error_has_no_bump_at_the_default_size() {
    let checkpoints = [193, 1_000, 2_000, 5_000, 10_000, 20_000];
    let mut squares = [0.0; 6];
    for trial in 0..400_i64 {
        let mut sketch = sketch_of(DEFAULT_LGK, &[]);
        let mut n = 0;
        for (square, checkpoint) in squares.iter_mut().zip(checkpoints) {
            while n < checkpoint {
                sketch.add_i64(&PLAIN, (trial << 32) | n);
                n += 1;
            }
            *square += (sketch.estimate() / checkpoint as f64 - 1.0_f64).powi(2);
        }
    }
    for (square, n) in squares.iter().zip(checkpoints) {
        let rms = (square / 400.0_f64).sqrt();
        assert!(rms < 0.025, "n {n}: {rms}");
    }
}

#[test]
fn stored_sizes_are_as_promised() {
    let size = |n: i64| sketch_of(DEFAULT_LGK, &(0..n).collect::<Vec<_>>()).to_bytes().len();
    assert_eq!((size(0), size(1), size(10), size(100), size(192)), (8, 12, 48, 408, 776));
    for n in [193, 1_000, 10_000, 100_000, 1_000_000] {
        assert!(size(n) <= 1_100, "{n}: {}", size(n));
    }
}

#[test]
fn starts_without_an_allocation_and_grows_with_use() {
    let empty = sketch_of(DEFAULT_LGK, &[]);
    assert_eq!(empty.memory(), size_of::<Hll>());
    assert!(size_of::<Hll>() <= 48);
    assert_eq!(sketch_of(DEFAULT_LGK, &[1]).memory(), size_of::<Hll>() + 4);
    assert!(sketch_of(DEFAULT_LGK, &(0..100_000).collect::<Vec<_>>()).memory() <= 2_048 + 48);
}

#[test]
fn unlike_sketches_do_not_merge() {
    let make = |lgk, keying| Hll::new(lgk, keying).unwrap().to_bytes();
    let mut ours = Hll::new(11, Keying::Keyed { epoch: 1 }).unwrap();
    let mut refusal = |bytes: Vec<u8>| ours.merge(&HllRef::parse(&bytes).unwrap()).unwrap_err();
    let other_size = refusal(make(12, Keying::Keyed { epoch: 1 }));
    let other_keying = refusal(make(11, Keying::Plain));
    let other_epoch = refusal(make(11, Keying::Keyed { epoch: 2 }));
    assert_eq!(other_size, HllError::LgkMismatch { ours: 11, theirs: 12 });
    assert_eq!(other_keying, HllError::KeyingMismatch);
    assert_eq!(other_epoch, HllError::EpochMismatch { ours: 1, theirs: 2 });
    let states: BTreeSet<_> =
        [other_size, other_keying, other_epoch].iter().map(HllError::sqlstate).collect();
    assert_eq!(states.len(), 3);
    assert_eq!(ours.to_datasketches().unwrap_err(), HllError::KeyedExport);
    assert!(Hll::new(3, Keying::Plain).is_err() && Hll::new(15, Keying::Plain).is_err());
}

#[test]
fn keys_change_the_hash_and_are_not_shown() {
    let keyed = |byte| ValueHasher::Keyed { key: HashKey([byte; 16]), epoch: 1 };
    assert_ne!(keyed(1).int(7), keyed(2).int(7));
    assert_ne!(keyed(1).int(7), PLAIN.int(7));
    assert!(keyed(1).bytes(b"").is_some() && PLAIN.bytes(b"").is_none());
    assert!(!format!("{:?}", keyed(0xab)).contains("171"));
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

#[test]
fn bytes_are_golden() {
    let hex = |bytes: Vec<u8>| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let mut few = sketch_of(11, &[42]);
    few.add_bytes(&PLAIN, b"abc0");
    assert_eq!(hex(few.to_bytes()), "b2000b001abcd00522689906c0088fce");
    assert_eq!(
        HllRef::parse(&unhex("b1000b001abcd00522689906")).map(|old| Hll::try_from(&old).unwrap().to_bytes()),
        Ok(few.to_bytes())
    );
    let keyed = ValueHasher::Keyed { key: HashKey(*b"0123456789abcdef"), epoch: 7 };
    let mut secret = Hll::new(4, keyed.keying()).unwrap();
    secret.add_bytes(&keyed, b"user");
    assert_eq!(hex(secret.to_bytes()), "b201040007000000288cf6088bdc34e0");
    let dense = sketch_of(4, &(0..1_000).collect::<Vec<_>>()).to_bytes();
    assert_eq!(hex(dense.clone()), "b20204050320111353022122d67f2bd5");
    // Version 1, which has no checksum, is read for ever, and renewed.
    for (old, new) in [("b101040007000000288cf608", secret.to_bytes()), ("b10204050320111353022122", dense)] {
        let old = unhex(old);
        assert_eq!(Hll::try_from(&HllRef::parse(&old).unwrap()).unwrap().to_bytes(), new);
        assert_eq!(tally_core::hll::renew(&old).unwrap(), new);
        assert_eq!(tally_core::hll::renew(&new).unwrap(), new);
    }
}

fn values() -> impl Strategy<Value = Vec<i64>> {
    (0_usize..4, 0_i64..1_000_000).prop_flat_map(|(scale, offset)| {
        prop::collection::vec(offset..offset + 5_000, 0..[6, 40, 300, 3_000][scale])
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn state_is_that_of_the_set_whatever_the_order_and_split(
        values in values(),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
        lgk in 4_u8..=12,
    ) {
        let whole = sketch_of(lgk, &values).to_bytes();
        let mut backwards = values.clone();
        backwards.reverse();
        prop_assert_eq!(&sketch_of(lgk, &backwards).to_bytes(), &whole);

        let mut ends: Vec<usize> = cuts.iter().map(|cut| cut.index(values.len() + 1)).collect();
        ends.extend([0, values.len()]);
        ends.sort_unstable();
        let parts: Vec<Hll> = ends.windows(2).map(|pair| sketch_of(lgk, &values[pair[0]..pair[1]])).collect();
        prop_assert_eq!(&merged(&parts.iter().rev().collect::<Vec<_>>()).to_bytes(), &whole);
        let mut in_memory = sketch_of(lgk, &[]);
        for part in &parts {
            in_memory.merge_state(part).unwrap();
        }
        prop_assert_eq!(&in_memory.to_bytes(), &whole);
    }

    #[test]
    fn merge_is_commutative_associative_idempotent_with_empty_as_identity(
        a in values(), b in values(), c in values(),
    ) {
        let [a, b, c] = [a, b, c].map(|values| sketch_of(8, &values));
        let empty = sketch_of(8, &[]);
        let ab = merged(&[&a, &b]);
        prop_assert_eq!(ab.to_bytes(), merged(&[&b, &a]).to_bytes());
        prop_assert_eq!(merged(&[&ab, &c]).to_bytes(), merged(&[&a, &merged(&[&b, &c])]).to_bytes());
        prop_assert_eq!(merged(&[&a, &a]).to_bytes(), a.to_bytes());
        prop_assert_eq!(merged(&[&a, &empty]).to_bytes(), a.to_bytes());
        prop_assert_eq!(merged(&[&empty, &a]).to_bytes(), a.to_bytes());
    }

    #[test]
    fn stored_bytes_round_trip_any_hashes(hashes in prop::collection::vec(any::<(u64, u64, u8)>(), 0..400)) {
        let mut sketch = Hll::new(8, Keying::Keyed { epoch: u32::MAX }).unwrap();
        for &(low, high, zeros) in &hashes {
            sketch.add(Coupon::from_hash(low, high >> (zeros % 64)));
        }
        let bytes = sketch.to_bytes();
        let again = Hll::try_from(&HllRef::parse(&bytes).unwrap()).unwrap();
        prop_assert_eq!(again.to_bytes(), bytes);
        prop_assert_eq!(again.estimate(), sketch.estimate());
    }
}
