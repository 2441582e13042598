//! Nanoseconds an operation of the distinct-count sketch.
//!
//! `cargo run --release -p tally-core --example hll_speed`

use datasketches::hll::{HllSketch, HllType, HllUnion};
use std::hint::black_box;
use std::time::Instant;
use tally_core::hll::{DEFAULT_LGK, HashKey, Hll, HllRef, Keying, ValueHasher};

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
    println!("{name:<44} {best:>10.1} ns");
}

fn sketch_of(values: std::ops::Range<i64>) -> Hll {
    let mut sketch = Hll::new(DEFAULT_LGK, Keying::Plain).expect("default lgk");
    values.for_each(|value| sketch.add_i64(&ValueHasher::Plain, value));
    sketch
}

fn main() {
    let keyed = ValueHasher::Keyed { key: HashKey([7; 16]), epoch: 1 };
    let texts: Vec<String> = (0..1024).map(|i| format!("user-{i:011}")).collect();

    let mut sketch = sketch_of(0..0);
    time("add int64, one group", 1_000_000, |i| sketch.add_i64(&ValueHasher::Plain, i64::from(i)));
    time("add 16-byte text, one group", 1_000_000, |i| {
        sketch.add_bytes(&ValueHasher::Plain, texts[i as usize & 1023].as_bytes());
    });
    let mut secret = Hll::new(DEFAULT_LGK, keyed.keying()).expect("default lgk");
    time("add 16-byte text, keyed", 1_000_000, |i| {
        secret.add_bytes(&keyed, texts[i as usize & 1023].as_bytes());
    });
    time("build a group of 1", 100_000, |i| {
        black_box(sketch_of(i64::from(i)..i64::from(i) + 1));
    });
    time("build a group of 100, for each value x 100", 10_000, |i| {
        black_box(sketch_of(i64::from(i)..i64::from(i) + 100));
    });

    let stored: Vec<Vec<u8>> =
        (0..64).map(|part| sketch_of(part * 5_000..(part + 2) * 5_000).to_bytes()).collect();
    let mut union = sketch_of(0..100_000);
    println!("dense stored bytes: {}", stored[0].len());
    time("parse dense", 200_000, |i| {
        black_box(HllRef::parse(&stored[i as usize & 63]).is_ok());
    });
    time("parse and merge dense into dense", 200_000, |i| {
        union.merge(&HllRef::parse(&stored[i as usize & 63]).expect("valid")).expect("alike");
    });
    let other = sketch_of(0..10_000);
    time("merge dense accumulators", 200_000, |_| union.merge_state(&other).expect("alike"));
    time("estimate dense", 100_000, |_| {
        black_box(union.estimate());
    });
    time("serialise dense", 100_000, |_| {
        black_box(union.to_bytes());
    });
    for size in [1, 10, 100] {
        let small: Vec<Vec<u8>> =
            (0..64).map(|part| sketch_of(part * size..(part + 1) * size).to_bytes()).collect();
        println!("stored bytes of {size}: {}", small[0].len());
        time(&format!("parse and merge {size} into dense"), 200_000, |i| {
            union.merge(&HllRef::parse(&small[i as usize & 63]).expect("valid")).expect("alike");
        });
        let few = sketch_of(0..size);
        time(&format!("serialise {size}"), 100_000, |_| {
            black_box(few.to_bytes());
        });
    }

    let theirs: Vec<HllSketch> = stored
        .iter()
        .map(|bytes| {
            let image = Hll::try_from(&HllRef::parse(bytes).expect("valid")).expect("valid");
            HllSketch::deserialize(&image.to_datasketches().expect("plain")).expect("valid")
        })
        .collect();
    let mut their_union = HllUnion::new(DEFAULT_LGK).expect("lgk");
    time("datasketches crate: union of HLL_4, parsed", 20_000, |i| {
        their_union.update(&theirs[i as usize & 63]);
    });
    black_box(their_union.to_sketch(HllType::Hll4));
}
