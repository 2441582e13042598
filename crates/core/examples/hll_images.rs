//! Prints DataSketches images of known values, for tests/data/travel.py to read:
//! kind, first value, end of values, image in hex.

use tally_core::hll::{DEFAULT_LGK, Hll, HllRef, Keying, ValueHasher};

fn main() {
    for kind in ["int", "text"] {
        for end in [0, 1, 7, 8, 24, 25, 192, 193, 1_000, 40_000, 300_000] {
            let parts = [sketch_of(kind, 0, end / 3), sketch_of(kind, end / 4, end)];
            let mut merged = Hll::new(DEFAULT_LGK, Keying::Plain).expect("default lgk");
            for part in parts {
                merged.merge(&HllRef::parse(&part.to_bytes()).expect("own bytes")).expect("alike");
            }
            for sketch in [sketch_of(kind, 0, end), merged] {
                let image = sketch.to_datasketches().expect("plain");
                let hex: String = image.iter().map(|byte| format!("{byte:02x}")).collect();
                println!("{kind} 0 {end} {hex}");
            }
        }
    }
}

fn sketch_of(kind: &str, start: i64, end: i64) -> Hll {
    let mut sketch = Hll::new(DEFAULT_LGK, Keying::Plain).expect("default lgk");
    for i in start..end {
        match kind {
            "int" => sketch.add_i64(&ValueHasher::Plain, i - 50),
            _ => sketch.add_bytes(&ValueHasher::Plain, format!("user-{i}-é").as_bytes()),
        }
    }
    sketch
}
