//! `tally-verify`: checks an export of the audit log against anchors that were kept elsewhere. It needs no database.
//!
//! The export is what `COPY (SELECT line FROM tally.export_audit() AS line) TO …` or `psql -Atc "SELECT tally.export_audit()"`
//! writes; the anchors are lines of `tally.audit_anchor()`. Ends with 0 where all is well, 1 where something is wrong, 2 where it
//! could not be checked.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io::{BufRead, BufReader, stdin};
use std::process::ExitCode;
use tally_core::audit::{Anchor, Report, Verifier, hex};

const USAGE: &str = "usage: tally-verify [--anchors FILE]... [EXPORT]

Checks an export of pg_tally's audit log, from a file or from standard input, against the anchors in FILE, one a line.
Prints what is wrong, the first place first.";

fn main() -> ExitCode {
    match run() {
        Ok(report) => {
            for problem in &report.problems {
                println!("{}", problem.print());
            }
            println!("{}", summary(&report));
            ExitCode::from(u8::from(!report.is_intact()))
        }
        Err(problem) => {
            eprintln!("tally-verify: {problem}");
            ExitCode::from(2)
        }
    }
}

fn run() -> Result<Report, String> {
    let mut anchors = Vec::new();
    let mut export = None;
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--anchors" | "--anchor" => {
                let name = arguments.next().ok_or(USAGE)?;
                anchors.extend(read_anchors(&name)?);
            }
            "--help" | "-h" => return Err(USAGE.to_owned()),
            name if name.starts_with("--") || export.is_some() => return Err(USAGE.to_owned()),
            name => export = Some(name.to_owned()),
        }
    }
    let lines: Box<dyn BufRead> = match export.as_deref() {
        None | Some("-") => Box::new(stdin().lock()),
        Some(name) => Box::new(BufReader::new(open(name)?)),
    };
    let mut verifier = Verifier::new(anchors);
    let mut read = 0_u64;
    for line in lines.lines() {
        let line = line.map_err(|problem| format!("reading the export: {problem}"))?;
        if !line.is_empty() {
            verifier.read(&line);
            read += 1;
        }
    }
    if read == 0 && export.is_none() {
        return Err("the export is empty".to_owned());
    }
    Ok(verifier.finish())
}

fn open(name: &str) -> Result<File, String> {
    File::open(name).map_err(|problem| format!("{name}: {problem}"))
}

fn read_anchors(name: &str) -> Result<Vec<Anchor>, String> {
    let mut anchors = Vec::new();
    for (number, line) in (1..).zip(BufReader::new(open(name)?).lines()) {
        let line = line.map_err(|problem| format!("{name}: {problem}"))?;
        if !line.trim().is_empty() {
            let anchor =
                Anchor::read(&line).map_err(|problem| format!("{name}, line {number}: {problem}"))?;
            anchors.push(anchor);
        }
    }
    Ok(anchors)
}

fn summary(report: &Report) -> String {
    let mut text = match report.found {
        0 => "intact".to_owned(),
        found => format!("{found} problems"),
    };
    text += &format!(
        ": {} seals, {} entries, {} of them not sealed yet, {} anchors agree, root {}",
        report.seals,
        report.entries,
        report.unsealed,
        report.anchors,
        hex(&report.root)
    );
    if !report.dropped_months.is_empty() {
        text += &format!("; dropped by retention: {}", report.dropped_months.join(", "));
    }
    if report.erased > 0 {
        text += &format!("; personal parts erased: {}", report.erased);
    }
    if report.anchors == 0 {
        text += "; without an anchor, hashes that were made anew can't be told from the first ones";
    }
    text
}
