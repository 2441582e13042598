//! Prints the story: one JSON array a line, one line a batch, in the order of arrival.
//! Usage: tally-story [--until MICROSECONDS] [--batch N] [--seed N]    until: since 1970, by default now

use std::io::{self, BufWriter, Write};
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};
use tally_story::Story;
use tally_workload::json_array;

fn main() -> ExitCode {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |age| age.as_micros() as i64);
    let mut story = Story { seed: 1, until: now };
    let mut batch = 1_000;
    let mut arguments = std::env::args().skip(1);
    while let Some(option) = arguments.next() {
        let value = arguments.next().unwrap_or_default();
        match (option.as_str(), value.parse::<i64>()) {
            ("--until", Ok(until)) => story.until = until,
            ("--batch", Ok(size)) => batch = size.clamp(1, 100_000) as usize,
            ("--seed", Ok(seed)) => story.seed = seed as u64,
            _ => {
                eprintln!("tally-story: {option} {value}: not an option with a number");
                return ExitCode::from(2);
            }
        }
    }
    let mut out = BufWriter::new(io::stdout().lock());
    for events in story.events().chunks(batch) {
        // The reader has gone: nothing is left to do.
        if writeln!(out, "{}", json_array(events)).is_err() {
            return ExitCode::FAILURE;
        }
    }
    if out.flush().is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
