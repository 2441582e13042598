//! Images of Apache DataSketches: the fixture was written by its Python package (data/travel.py),
//! the Rust crate is a second reader and writer.

use datasketches::hll::{HllSketch, HllType, HllUnion};
use tally_core::hll::{Hll, HllRef, Keying, ValueHasher};

const PLAIN: ValueHasher = ValueHasher::Plain;

fn sketch_of(kind: &str, lgk: u8, values: std::ops::Range<i64>) -> Hll {
    let mut sketch = Hll::new(lgk, Keying::Plain).unwrap();
    for i in values {
        match kind {
            "int" => sketch.add_i64(&PLAIN, i - 50),
            _ => sketch.add_bytes(&PLAIN, format!("user-{i}-é").as_bytes()),
        }
    }
    sketch
}

fn unhex(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

#[test]
fn python_images_are_read_as_the_same_state() {
    let mut seen = 0;
    for line in include_str!("data/datasketches.txt").lines() {
        let mut words = line.split(' ');
        let [kind, start, end, target, form, hex] = std::array::from_fn(|_| words.next().unwrap());
        let ours = sketch_of(kind, 11, start.parse().unwrap()..end.parse().unwrap());
        let theirs = Hll::from_datasketches(&unhex(hex)).unwrap();
        assert_eq!(theirs.to_bytes(), ours.to_bytes(), "{kind} {end} {target} {form}");
        seen += 1;
    }
    assert_eq!(seen, 36);
}

#[test]
fn python_images_of_small_compact_sketches_are_written_byte_for_byte() {
    for line in include_str!("data/datasketches.txt").lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let end: i64 = words[2].parse().unwrap();
        if end <= 1 && words[4] == "compact" {
            assert_eq!(sketch_of(words[0], 11, 0..end).to_datasketches().unwrap(), unhex(words[5]));
        }
    }
}

#[test]
fn the_rust_crate_reads_what_is_written_and_unites_to_the_same_registers() {
    for lgk in [4, 7, 8, 11, 12, 14] {
        for size in [0, 3, 7, 8, 24, 25, 193, 2_000, 150_000] {
            let (left, right) =
                (sketch_of("text", lgk, 0..size), sketch_of("text", lgk, size / 2..size + 30));
            let mut their_union = HllUnion::new(lgk).unwrap();
            for part in [&left, &right] {
                their_union.update(&HllSketch::deserialize(&part.to_datasketches().unwrap()).unwrap());
            }
            let mut our_union = left;
            our_union.merge(&HllRef::parse(&right.to_bytes()).unwrap()).unwrap();
            for target in [HllType::Hll4, HllType::Hll6, HllType::Hll8] {
                let image = their_union.to_sketch(target).serialize();
                let read = Hll::from_datasketches(&image).unwrap();
                assert_eq!(read.to_bytes(), our_union.to_bytes(), "lgk {lgk}, {size}, {target:?}");
            }
            // Two estimators of one state: a fifth of the standard error apart at most.
            let (ours, theirs) = (our_union.estimate(), their_union.composite_estimate());
            let apart = 0.2 * (1.04 / f64::from(1 << lgk).sqrt()) * theirs + 0.01;
            assert!(lgk < 11 || (ours - theirs).abs() <= apart, "lgk {lgk}, {size}: {ours} and {theirs}");
        }
    }
}
