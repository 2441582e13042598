//! The percentile sketch against sorted values, and its merge laws.

use proptest::prelude::*;
use tally_core::stored::{self, CHECKSUM};
use tally_core::tdigest::{MAX_COUNT, Summary, TDigest, TDigestError};

fn digest_of(compression: u16, values: &[f64]) -> Summary {
    let mut digest = TDigest::new(compression).unwrap();
    values.iter().for_each(|&value| digest.add(value).unwrap());
    digest.into_summary()
}

fn merged<'a>(compression: u16, parts: impl IntoIterator<Item = &'a Summary>) -> Summary {
    let mut digest = TDigest::new(compression).unwrap();
    for part in parts {
        digest.merge(&part.to_bytes()).unwrap();
    }
    digest.into_summary()
}

fn sorted(values: &[f64]) -> Vec<f64> {
    let mut sorted: Vec<f64> = values.iter().map(|value| value + 0.0).collect();
    sorted.sort_unstable_by(f64::total_cmp);
    sorted
}

/// What `percentile_cont` answers.
fn percentile_cont(sorted: &[f64], q: f64) -> f64 {
    let place = q * (sorted.len() - 1) as f64;
    let (low, high) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
    low + (high - low) * place.fract()
}

/// How far a rank lies outside those of an answer, as a fraction of all values.
fn rank_error(sorted: &[f64], q: f64, answer: f64) -> f64 {
    let below = sorted.partition_point(|&value| value < answer) as f64;
    let upto = sorted.partition_point(|&value| value <= answer) as f64;
    let wanted = q * sorted.len() as f64;
    (below - wanted).max(wanted - upto).max(0.0) / sorted.len() as f64
}

/// What a digest of this compression may be off by at `q`: one cell to either side where the values are
/// spread evenly; five where they span hundreds of orders of magnitude and a mean says nothing about its
/// neighbours. See src/tdigest/cluster.rs for the cells.
fn allowed(compression: u16, q: f64, sorted: &[f64]) -> f64 {
    let near = (q / (1.0 - q)).sqrt();
    let t = near / (1.0 + near);
    let fraction = |t: f64| t.powi(2) / (t.powi(2) + (1.0 - t).powi(2));
    let even = sorted.iter().all(|value| value.abs() <= 1e3);
    let step = if even { 1.0 } else { 5.0 } / f64::from(compression - 2);
    let (low, high) = (fraction((t - step).max(0.0)), fraction((t + step).min(1.0)));
    (q - low).max(high - q) + 2.0 / sorted.len() as f64
}

#[test]
fn few_values_answer_as_percentile_cont() {
    let values = [5.0, -1.5, 3.25, 3.25, 100.0, 7.0, -0.0];
    let digest = digest_of(10, &values);
    let sorted = sorted(&values);
    for q in [0.0, 0.1, 0.25, 0.5, 0.77, 0.95, 1.0] {
        let (ours, exact) = (digest.quantile(q).unwrap().unwrap(), percentile_cont(&sorted, q));
        assert!((ours - exact).abs() < 1e-12, "{q}: {ours}, {exact}");
    }
    assert_eq!((digest.min(), digest.max(), digest.num_vals()), (Some(-1.5), Some(100.0), 7));
    assert_eq!(digest.mean(), Some(117.0 / 7.0));
    assert_eq!(digest.rank(3.25), Ok(Some(4.0 / 7.0)));
    assert_eq!(digest.rank(-2.0), Ok(Some(0.0)));
    assert_eq!(digest.rank(f64::INFINITY), Ok(Some(1.0)));
    // Between values so far apart that the share of the way is rounded to all of it.
    let far = digest_of(100, &[-1e16, 0.25, 0.5]);
    assert_eq!(
        (far.rank(0.0), far.rank(0.25), far.rank(0.3)),
        (Ok(Some(1.0 / 3.0)), Ok(Some(2.0 / 3.0)), Ok(Some(2.0 / 3.0)))
    );
    assert_eq!(digest.trimmed_mean(2.0 / 7.0, 5.0 / 7.0), Ok(Some((3.25 + 3.25 + 5.0) / 3.0)));
    assert_eq!(digest.quantiles(&[1.0, 0.0]), Ok(vec![Some(100.0), Some(-1.5)]));
}

#[test]
fn few_distinct_values_stay_exact_however_many() {
    let values: Vec<f64> = (0..30_000).map(|i| f64::from(i * i % 97)).collect();
    let parts: Vec<Summary> = values.chunks(777).map(|part| digest_of(100, part)).collect();
    for digest in [digest_of(100, &values), merged(100, &parts), merged(100, parts.iter().rev())] {
        assert!(digest.is_exact());
        let sorted = sorted(&values);
        for at in 0..=1_000 {
            let q = f64::from(at) / 1_000.0;
            let exact = percentile_cont(&sorted, q);
            assert!((digest.quantile(q).unwrap().unwrap() - exact).abs() < 1e-9);
        }
        assert_eq!(digest.to_bytes(), digest_of(100, &values).to_bytes());
    }
}

#[test]
fn an_empty_digest_answers_nothing() {
    let empty = digest_of(100, &[]);
    assert_eq!((empty.num_vals(), empty.min(), empty.max(), empty.mean()), (0, None, None, None));
    assert_eq!(
        (empty.quantile(0.5), empty.rank(1.0), empty.trimmed_mean(0.0, 1.0)),
        (Ok(None), Ok(None), Ok(None))
    );
    assert_eq!(empty.to_bytes().len(), 8);
    assert_eq!(Summary::parse(&[0xd1, 0, 100, 0]), Ok(empty.clone()), "version 1");
    assert_eq!(Summary::parse(&empty.to_bytes()).unwrap(), empty);
}

#[test]
fn bad_input_is_refused_with_its_own_state() {
    let mut digest = TDigest::new(100).unwrap();
    for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        assert_eq!(digest.add(value).unwrap_err().sqlstate(), "22003");
    }
    assert_eq!(digest.num_vals(), 0);
    assert!(TDigest::new(9).is_err() && TDigest::new(1_001).is_err());
    let summary = digest_of(100, &[1.0]);
    for q in [-0.1, 1.1, f64::NAN] {
        assert_eq!(summary.quantile(q).unwrap_err().sqlstate(), "22023");
    }
    assert!(summary.trimmed_mean(0.6, 0.5).is_err() && summary.rank(f64::NAN).is_err());
    let other = digest_of(50, &[1.0]);
    let mismatch = TDigestError::CompressionMismatch { ours: 100, theirs: 50 };
    assert_eq!(digest.merge(&other.to_bytes()), Err(mismatch.clone()));
    assert_eq!(digest.merge_summary(&other), Err(mismatch));
}

#[test]
fn counts_do_not_overflow() {
    let mut stored = digest_of(100, &[1.0, 1.0]).to_bytes();
    // In place of a weight of one byte, and the checksum behind it.
    stored.truncate(stored.len() - 1 - CHECKSUM);
    stored[1] = 8 << 4;
    stored.extend([0xff; 8]);
    stored::seal(&mut stored);
    let huge = Summary::parse(&stored).unwrap();
    assert_eq!(huge.num_vals(), MAX_COUNT);
    assert_eq!((huge.quantile(0.5), huge.rank(1.0)), (Ok(Some(1.0)), Ok(Some(1.0))));
    let mut digest = TDigest::new(100).unwrap();
    digest.merge(&stored).unwrap();
    assert_eq!(digest.merge(&stored), Err(TDigestError::Count));
    assert_eq!(digest.add(1.0), Err(TDigestError::Count));
    assert_eq!(digest.finish().to_bytes(), stored);
}

#[test]
fn the_largest_doubles_stay_finite_and_in_order() {
    let values: Vec<f64> =
        (0..5_000).map(|i| if i % 2 == 0 { f64::MAX } else { -f64::MAX } / f64::from(i % 700 + 1)).collect();
    let digest = digest_of(20, &values);
    let answers = digest.quantiles(&[0.0, 0.3, 0.5, 0.501, 0.7, 1.0]).unwrap();
    assert!(answers.windows(2).all(|pair| pair[0] <= pair[1]));
    assert!(answers.iter().all(|answer| answer.unwrap().is_finite()));
    assert!(
        digest.mean().unwrap().is_finite() && digest.trimmed_mean(0.1, 1.0).unwrap().unwrap().is_finite()
    );
    // A sum that was too great on the way, in any order and in parts.
    let (great, mean) = (1e308, 1e308 / 3.0);
    for values in [[great, great, -great], [great, -great, great], [-great, great, great]] {
        let whole = digest_of(10, &values).mean().unwrap();
        let mut parts = TDigest::new(10).unwrap();
        values.iter().for_each(|value| parts.merge(&digest_of(10, &[*value]).to_bytes()).unwrap());
        for seen in [whole, parts.finish().mean().unwrap()] {
            assert!((seen / mean - 1.0).abs() < 1e-12, "{values:?}: {seen}");
        }
    }
    let top = digest_of(10, &[f64::MAX; 3]);
    assert_eq!((top.mean(), top.quantile(0.5)), (Some(f64::MAX), Ok(Some(f64::MAX))));
}

#[test]
fn starts_without_an_allocation_and_stays_within_bounds() {
    let mut digest = TDigest::new(100).unwrap();
    assert_eq!(digest.memory(), size_of::<TDigest>());
    digest.add(1.0).unwrap();
    assert!(digest.memory() <= size_of::<TDigest>() + 16);
    let part = digest_of(100, &(0..5_000).map(f64::from).collect::<Vec<_>>()).to_bytes();
    for i in 0..50_000 {
        digest.add(f64::from(i)).unwrap();
        if i % 100 == 0 {
            digest.merge(&part).unwrap();
        }
    }
    assert!(digest.memory() < 128 * 1024, "{}", digest.memory());
}

/// As a rollup's are: folded again and again. Within the gap there is no value, so that what is asked for beside it is off by what the
/// clusters there hold.
#[test]
fn beside_a_gap_a_digest_merged_again_and_again_is_off_by_little() {
    for split in 3..8 {
        let low = |i: u32| i * 7919 % 10 < split;
        let value = |i: u32| f64::from(i * 31 % 9_973) / 9_973.0 + if low(i) { 0.0 } else { 1_000.0 };
        let values: Vec<f64> = (0..20_000).map(value).collect();
        let mut digest = digest_of(200, &[]);
        for part in values.chunks(500) {
            digest = merged(200, [&digest, &digest_of(200, part)]);
        }
        let sorted = sorted(&values);
        for at in 1..200 {
            let q = f64::from(at) / 200.0;
            let error = rank_error(&sorted, q, digest.quantile(q).unwrap().unwrap());
            assert!(error <= 0.03, "{split}, {q}: {error}");
        }
    }
}

#[test]
fn bytes_are_golden() {
    let hex =
        |digest: Summary| digest.to_bytes().iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    assert_eq!(
        hex(digest_of(100, &[2.5, -1.0])),
        "d2006400000000000000f83f0200000000000000f0bf00000000000004405cb438a3"
    );
    assert_eq!(hex(digest_of(300, &[1.0; 200])), "d2202c0100000000000069400100000000000000f03f9101624c192c");
    let many = digest_of(10, &(0..100).map(f64::from).collect::<Vec<_>>());
    assert_eq!(
        hex(many.clone()),
        concat!(
            "d2100a00",
            "000000000056b340",
            "0a00",
            "0000000000000000000000000000f03f00000000000016400000000000803140",
            "0000000000c042400000000000804e4000000000004054400000000000605740",
            "00000000008058400000000000c05840",
            "03031020302e22100303",
            "3a2a41da"
        )
    );
    // Version 1, which has no checksum, is read for ever, and renewed.
    for digest in [digest_of(100, &[2.5, -1.0]), many] {
        let new = digest.to_bytes();
        let mut old = new[..new.len() - CHECKSUM].to_vec();
        old[0] = 0xd1;
        assert_eq!(Summary::parse(&old), Ok(digest));
        assert_eq!(tally_core::tdigest::renew(&old).unwrap(), new);
        assert_eq!(tally_core::tdigest::renew(&new).unwrap(), new);
    }
}

fn values() -> impl Strategy<Value = Vec<f64>> {
    at_least(0)
}

fn at_least(fewest: usize) -> impl Strategy<Value = Vec<f64>> {
    (0_usize..4, 0_usize..3).prop_flat_map(move |(size, kind)| {
        let value = match kind {
            0 => (-1e3..1e3_f64).boxed(),
            1 => (0_i32..300).prop_map(|i| f64::from(i) / 4.0).boxed(),
            _ => any::<f64>().prop_filter("finite", |value| value.is_finite()).boxed(),
        };
        prop::collection::vec(value, fewest..[3, 30, 300, 3_000][size])
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn answers_are_ordered_bounded_and_near(values in at_least(1), compression in 10_u16..=200) {
        let (digest, sorted) = (digest_of(compression, &values), sorted(&values));
        prop_assert_eq!(digest.num_vals(), values.len() as u64);
        prop_assert!(digest.num_centroids() <= usize::from(compression));
        prop_assert_eq!((digest.min(), digest.max()), (sorted.first().copied(), sorted.last().copied()));
        prop_assert_eq!(digest.quantile(0.0).unwrap(), digest.min());
        prop_assert_eq!(digest.quantile(1.0).unwrap(), digest.max());
        let mut last = sorted[0];
        for at in 1..100 {
            let q = f64::from(at) / 100.0;
            let answer = digest.quantile(q).unwrap().unwrap();
            prop_assert!(answer >= last && answer <= sorted[sorted.len() - 1]);
            last = answer;
            let error = rank_error(&sorted, q, answer);
            prop_assert!(error <= allowed(compression, q, &sorted), "q {}: {}", q, error);
        }
        let mut last = 0.0;
        for &value in &sorted {
            let rank = digest.rank(value).unwrap().unwrap();
            prop_assert!(rank >= last && rank <= 1.0);
            last = rank;
        }
        let mean = digest.mean().unwrap();
        prop_assert!(mean >= sorted[0] && mean <= sorted[sorted.len() - 1]);
    }

    #[test]
    fn parts_merge_to_a_digest_as_good(
        values in at_least(1), size in 1_usize..500, compression in 20_u16..=100,
    ) {
        let parts: Vec<Summary> = values.chunks(size).map(|part| digest_of(compression, part)).collect();
        let (digest, sorted) = (merged(compression, &parts), sorted(&values));
        prop_assert_eq!(digest.num_vals(), values.len() as u64);
        prop_assert_eq!((digest.min(), digest.max()), (sorted.first().copied(), sorted.last().copied()));
        for q in [0.01, 0.1, 0.5, 0.9, 0.95, 0.99] {
            let error = rank_error(&sorted, q, digest.quantile(q).unwrap().unwrap());
            prop_assert!(error <= 2.0 * allowed(compression, q, &sorted), "q {}: {}", q, error);
        }
    }

    #[test]
    fn merging_two_commutes_and_the_empty_digest_changes_nothing(a in values(), b in values()) {
        let (a, b, empty) = (digest_of(50, &a), digest_of(50, &b), digest_of(50, &[]));
        prop_assert_eq!(merged(50, [&a, &b]).to_bytes(), merged(50, [&b, &a]).to_bytes());
        prop_assert_eq!(merged(50, [&a, &empty]).to_bytes(), a.to_bytes());
        prop_assert_eq!(merged(50, [&empty, &a]).to_bytes(), a.to_bytes());
    }

    #[test]
    fn exact_digests_merge_associatively(
        parts in prop::collection::vec(prop::collection::vec(0_i32..40, 0..200), 3),
    ) {
        let [a, b, c] = std::array::from_fn(|at| {
            digest_of(40, &parts[at].iter().copied().map(f64::from).collect::<Vec<_>>())
        });
        let left = merged(40, [&merged(40, [&a, &b]), &c]);
        let right = merged(40, [&a, &merged(40, [&b, &c])]);
        prop_assert_eq!(left.to_bytes(), right.to_bytes());
    }

    #[test]
    fn stored_bytes_round_trip(values in values(), compression in 10_u16..=1_000) {
        let digest = digest_of(compression, &values);
        let bytes = digest.to_bytes();
        let again = Summary::parse(&bytes).unwrap();
        prop_assert_eq!(&again, &digest);
        prop_assert_eq!(again.to_bytes(), bytes);
    }

    #[test]
    fn finishing_leaves_the_accumulator_alone(values in values(), more in values()) {
        let mut digest = TDigest::new(30).unwrap();
        values.iter().for_each(|&value| digest.add(value).unwrap());
        let mut watched = digest.clone();
        prop_assert_eq!(watched.finish().to_bytes(), digest.finish().to_bytes());
        for &value in &more {
            digest.add(value).unwrap();
            watched.add(value).unwrap();
        }
        prop_assert_eq!(watched.into_summary(), digest.into_summary());
    }
}
