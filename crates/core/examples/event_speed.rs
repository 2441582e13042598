//! Times the event parser: `cargo run --release --example event_speed [events.jsonl]`.
//!
//! Prints nanoseconds an event, the fastest of nine runs, for a synthetic batch and, if given, for a file of one
//! event a line. The typed `serde_json` parser is timed beside it as a yardstick; it does less, since it leaves
//! properties as raw text, times and ids as strings, and checks none of them.

use serde::Deserialize;
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::hint::black_box;
use std::time::Instant;
use tally_core::event::{Limits, encode_into, fingerprint, parse_batch};
use tally_core::jsonb::{Bounds, Encoder};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(dead_code)]
struct Typed<'a> {
    #[serde(borrow)]
    tenant_id: Cow<'a, str>,
    #[serde(borrow)]
    account_id: Cow<'a, str>,
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(borrow)]
    user_id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    session_id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    occurred_at: Cow<'a, str>,
    #[serde(borrow)]
    event_id: Cow<'a, str>,
    #[serde(borrow)]
    properties: Option<&'a RawValue>,
}

fn best(count: usize, mut run: impl FnMut()) -> f64 {
    (0..9)
        .map(|_| {
            let start = Instant::now();
            run();
            start.elapsed().as_nanos() as f64 / count as f64
        })
        .fold(f64::INFINITY, f64::min)
}

fn synthetic(count: usize, properties: bool) -> String {
    let mut seed = 42u64;
    let mut next = move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    let events: Vec<String> = (0..count)
        .map(|_| {
            let (a, b) = (next(), next());
            let properties = if properties {
                format!(
                    r#","properties":{{"files":{},"insertions":{},"deletions":{}}}"#,
                    a % 20,
                    a % 3000,
                    b % 700
                )
            } else {
                String::new()
            };
            format!(
                r#"{{"event_id":"{a:016x}{b:016x}","tenant_id":"tenant{}","account_id":"account{}","user_id":"u_{b:016x}","name":"commit","occurred_at":"2024-{:02}-{:02}T{:02}:{:02}:{:02}Z"{properties}}}"#,
                a % 50,
                a % 900,
                a % 12 + 1,
                a % 28 + 1,
                b % 24,
                b % 60,
                a % 60,
            )
        })
        .collect();
    format!("[{}]", events.join(","))
}

fn report(label: &str, text: &str) {
    let limits = Limits { batch_bytes: 1 << 30, batch_events: usize::MAX, ..Limits::default() };
    let batch = parse_batch(text, &limits).expect("a batch");
    let count = batch.items.len();
    let accepted = batch.items.iter().filter(|i| i.event.is_ok()).count();
    println!("{label}: {count} events, {accepted} accepted, {} bytes an event", text.len() / count);
    let parse = best(count, || {
        black_box(parse_batch(text, &limits)).ok();
    });
    let hashed = best(count, || {
        for item in parse_batch(text, &limits).expect("a batch").items {
            black_box(item.event.as_ref().map(fingerprint)).ok();
        }
    });
    let mut out = Vec::new();
    let encode = best(count, || {
        out.clear();
        for event in batch.items.iter().filter_map(|i| i.event.as_ref().ok()) {
            encode_into(event, &mut out);
        }
        black_box(&out);
    });
    let typed = best(count, || {
        black_box(serde_json::from_str::<Vec<Typed<'_>>>(text)).ok();
    });
    println!("  parse_batch (with jsonb)      {parse:7.0} ns");
    println!("  parse_batch + fingerprint     {hashed:7.0} ns");
    println!("  encode_into                   {encode:7.0} ns");
    println!("  serde_json, envelope only     {typed:7.0} ns");
}

fn main() {
    report("synthetic", &synthetic(50_000, true));
    report("synthetic, no properties", &synthetic(50_000, false));
    let small = r#"{"files":5,"insertions":1026,"deletions":0}"#;
    let bounds = Bounds { depth: 32, bytes: 64 << 10 };
    let (mut encoder, mut out) = (Encoder::new(), Vec::new());
    let one = best(1_000_000, || {
        for _ in 0..1_000_000 {
            out.clear();
            black_box(encoder.encode(black_box(small), bounds, &mut out)).ok();
        }
    });
    println!("jsonb of {small}: {one:.0} ns");
    if let Some(path) = std::env::args().nth(1) {
        let lines = std::fs::read_to_string(path).expect("a readable file");
        let events: Vec<&str> = lines.lines().filter(|l| !l.is_empty()).collect();
        report("file", &format!("[{}]", events.join(",")));
    }
}
