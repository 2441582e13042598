//! Prints a workload: one JSON array a line, one line a batch.
//! Usage: tally-workload [--events N] [--batch N] [--seed N] [--days N] [--ids random|time]

use std::io::{self, BufWriter, Write};
use std::process::ExitCode;
use tally_workload::{Ids, Workload, json_array};

fn main() -> ExitCode {
    let mut workload = Workload::default();
    let mut batch = 1_000;
    let mut arguments = std::env::args().skip(1);
    while let Some(option) = arguments.next() {
        let value = arguments.next().unwrap_or_default();
        if let Err(problem) = apply(&mut workload, &mut batch, &option, &value) {
            eprintln!("tally-workload: {option} {value}: {problem}");
            return ExitCode::from(2);
        }
    }
    let mut out = BufWriter::new(io::stdout().lock());
    for events in workload.batches(batch) {
        // The reader has gone: nothing is left to do.
        if writeln!(out, "{}", json_array(&events)).is_err() {
            return ExitCode::FAILURE;
        }
    }
    if out.flush().is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn apply(workload: &mut Workload, batch: &mut usize, option: &str, value: &str) -> Result<(), String> {
    let number = || value.parse::<u64>().map_err(|problem| problem.to_string());
    match option {
        "--events" => workload.events = number()? as usize,
        "--batch" => *batch = (number()? as usize).max(1),
        "--seed" => workload.seed = number()?,
        "--days" => workload.days = number()?.clamp(1, 3_650) as u32,
        "--ids" => {
            workload.ids = match value {
                "random" => Ids::Random,
                "time" => Ids::TimeOrdered,
                _ => return Err("not random or time".into()),
            }
        }
        _ => return Err("no such option".into()),
    }
    Ok(())
}
