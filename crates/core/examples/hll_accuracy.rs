//! Relative error of distinct counts against the number of distinct values.
//!
//! `cargo run --release -p tally-core --example hll_accuracy [trials] [largest n]`
//!
//! Every trial is one stream of distinct values, measured as it grows. Columns: root mean square
//! and mean of the relative error of this crate's sketch; the root mean square of DataSketches'
//! order-free estimator on the same registers; that of the `hyperloglog` crate at 2,048 registers
//! (its first trials only: it is slow to build).

use datasketches::hll::HllSketch;
use hyperloglog::HyperLogLog;
use tally_core::hll::{DEFAULT_LGK, Hll, Keying, ValueHasher};

/// The error rate for which the peer picks 2^11 registers: it takes a natural logarithm for one to base 2.
const PEER_ERROR: f64 = 0.00546;

#[derive(Default)]
struct Errors {
    squares: f64,
    sum: f64,
    count: u32,
}

impl Errors {
    fn add(&mut self, estimate: f64, n: u64) {
        let error = estimate / n as f64 - 1.0;
        self.squares += error * error;
        self.sum += error;
        self.count += 1;
    }

    fn rms(&self) -> f64 {
        100.0 * (self.squares / f64::from(self.count)).sqrt()
    }

    fn mean(&self) -> f64 {
        100.0 * self.sum / f64::from(self.count)
    }
}

fn main() {
    let mut args = std::env::args().skip(1).map(|arg| arg.parse::<u64>().expect("a number"));
    let trials = args.next().unwrap_or(300);
    let largest = args.next().unwrap_or(1_000_000);
    let checkpoints: Vec<u64> =
        [1, 10, 100, 192, 193, 250, 500, 1_000, 1_300, 2_000, 3_000, 4_000, 5_000, 6_000, 8_000, 10_000]
            .into_iter()
            .chain([15_000, 20_000, 30_000, 50_000, 100_000, 300_000, 1_000_000, 3_000_000, 10_000_000])
            .filter(|&n| n <= largest)
            .collect();
    let mut ours: Vec<Errors> = checkpoints.iter().map(|_| Errors::default()).collect();
    let mut theirs: Vec<Errors> = checkpoints.iter().map(|_| Errors::default()).collect();
    let mut peer: Vec<Errors> = checkpoints.iter().map(|_| Errors::default()).collect();
    let hasher = ValueHasher::Plain;
    for trial in 0..trials {
        let mut sketch = Hll::new(DEFAULT_LGK, Keying::Plain).expect("default lgk");
        let mut hyper = HyperLogLog::new_deterministic(PEER_ERROR, u128::from(trial));
        let mut n = 0;
        for (at, &checkpoint) in checkpoints.iter().enumerate() {
            let with_peer = trial < 300 && checkpoint <= 1_000_000;
            while n < checkpoint {
                let value = ((trial << 40) + n) as i64;
                sketch.add_i64(&hasher, value);
                if with_peer {
                    hyper.insert(&value);
                }
                n += 1;
            }
            ours[at].add(sketch.estimate(), n);
            let image = sketch.to_datasketches().expect("plain");
            theirs[at].add(HllSketch::deserialize(&image).expect("valid").estimate(), n);
            if with_peer {
                peer[at].add(hyper.len(), n);
            }
        }
    }
    println!("{trials} trials, 2,048 registers, percent");
    println!("{:>10} {:>8} {:>8} {:>12} {:>11}", "n", "rmse", "bias", "datasketches", "hyperloglog");
    for (at, n) in checkpoints.iter().enumerate() {
        println!(
            "{n:>10} {:>8.3} {:>8.3} {:>12.3} {:>11.3}",
            ours[at].rms(),
            ours[at].mean(),
            theirs[at].rms(),
            peer[at].rms()
        );
    }
}
