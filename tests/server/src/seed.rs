//! Seeds that a failed test can be repeated with, and tests that say that they did not run.

use std::fs::OpenOptions;
use std::io::Write;
use std::time::{SystemTime, UNIX_EPOCH};
use tally_workload::Random;

/// Starts a random sequence and prints its seed: `TALLY_SEED`, or one from the clock. The test harness shows what a
/// failed test printed.
pub fn seeded() -> Random {
    let seed = match std::env::var("TALLY_SEED") {
        Ok(text) => text.parse().expect("TALLY_SEED is a whole number"),
        Err(_) => SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970").as_nanos() as u64,
    };
    println!("seed: repeat with TALLY_SEED={seed}");
    Random::new(seed)
}

/// Reports that the calling test does not run. The harness would count its early return as passed, so the line also
/// goes to the file `TALLY_SKIPPED`, from which `make test` counts.
pub fn skip(reason: &str) {
    eprintln!("SKIPPED: {reason}");
    if let Ok(path) = std::env::var("TALLY_SKIPPED") {
        let mut file =
            OpenOptions::new().create(true).append(true).open(path).expect("opening TALLY_SKIPPED");
        writeln!(file, "{reason}").expect("writing to TALLY_SKIPPED");
    }
}
