//! Nanoseconds an operation of the percentile sketch.
//!
//! `cargo run --release -p tally-core --example tdigest_speed`

use std::hint::black_box;
use std::time::Instant;
use tally_core::tdigest::{Summary, TDigest};
use tdigest::TDigest as Peer;

const COMPRESSION: u16 = 100;

/// Best of many short timings, in nanoseconds a repetition: other work on the machine spoils few of them.
fn time(name: &str, repetitions: u32, mut work: impl FnMut(u32)) {
    const SLICES: u32 = 50;
    let best = (0..SLICES)
        .map(|_| {
            let start = Instant::now();
            (0..repetitions / SLICES).for_each(&mut work);
            start.elapsed().as_nanos() as f64 / f64::from(repetitions / SLICES)
        })
        .fold(f64::INFINITY, f64::min);
    println!("{name:<52} {best:>10.1} ns");
}

/// Uniform doubles, scattered by a multiplicative sequence.
fn value(i: u64) -> f64 {
    (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 11) as f64 / (1_u64 << 53) as f64
}

fn digest_of(values: std::ops::Range<u64>) -> Summary {
    let mut digest = TDigest::new(COMPRESSION).expect("default compression");
    values.for_each(|i| digest.add(value(i)).expect("finite"));
    digest.into_summary()
}

fn main() {
    let mut digest = TDigest::new(COMPRESSION).expect("default compression");
    let mut next = 0;
    time("add, one group", 1_000_000, |_| {
        next += 1;
        digest.add(value(next)).expect("finite");
    });
    let mut peer = Peer::new_with_size(usize::from(COMPRESSION));
    time("tdigest crate: add, one group", 1_000_000, |_| {
        next += 1;
        peer.push(value(next));
    });
    time("build, finish and store a group of 100", 10_000, |i| {
        let start = u64::from(i) * 100;
        black_box(digest_of(start..start + 100).to_bytes());
    });
    time("build, finish and store a group of 1", 100_000, |i| {
        black_box(digest_of(u64::from(i)..u64::from(i) + 1).to_bytes());
    });
    for size in [1, 10, 100, 1_000, 10_000, 100_000] {
        let parts: Vec<Summary> = (0..64).map(|part| digest_of(part * size..(part + 1) * size)).collect();
        let stored: Vec<Vec<u8>> = parts.iter().map(Summary::to_bytes).collect();
        println!("digests of {size}: {} centroids, {} bytes", parts[0].num_centroids(), stored[0].len());
        let mut merged = TDigest::new(COMPRESSION).expect("default compression");
        time("  parse and merge, of many", 20_000, |i| {
            merged.merge(&stored[i as usize & 63]).expect("own bytes");
        });
        time("  merge two and store", 5_000, |i| {
            let mut two = TDigest::new(COMPRESSION).expect("default compression");
            two.merge(&stored[i as usize & 63]).expect("own bytes");
            two.merge(&stored[(i as usize + 1) & 63]).expect("own bytes");
            black_box(two.into_summary().to_bytes());
        });
        time("  parse", 20_000, |i| {
            black_box(Summary::parse(&stored[i as usize & 63]).is_ok());
        });
        time("  store", 20_000, |i| {
            black_box(parts[i as usize & 63].to_bytes());
        });
        time("  quantile", 20_000, |i| {
            black_box(parts[i as usize & 63].quantile(0.95).expect("a fraction"));
        });
    }
    let peers: Vec<Peer> = (0..64)
        .map(|part| {
            let mut digest = Peer::new_with_size(usize::from(COMPRESSION));
            digest.extend_values((part * 10_000..(part + 1) * 10_000).map(value));
            digest.flush();
            digest
        })
        .collect();
    let mut merged = Peer::new_with_size(usize::from(COMPRESSION));
    time("tdigest crate: merge one digest of 10,000", 2_000, |i| {
        merged = Peer::merge_digests(vec![std::mem::take(&mut merged), peers[i as usize & 63].clone()]);
    });
}
