//! Rank error of percentiles, by distribution: this crate, the `tdigest` crate, and any third engine.
//!
//! `cargo run --release -p tally-core --example tdigest_accuracy [values] [seeds] [numbers.txt] [peer.txt]`
//!
//! `numbers.txt` adds real data, a number a line. `write DIR` instead of all arguments writes the data
//! as `distribution seed part value` lines to DIR/data.txt, so that another engine can answer for it;
//! its answers, `distribution seed mode p value`, come back as `peer.txt`. Error: how far the wanted
//! rank lies outside the ranks that the answer has in the sorted data, in parts per million of the
//! number of values; the mean over seeds. `whole` is one digest built in one go, `parts` the merge of
//! 1,000 digests in random order.

use std::collections::{BTreeMap, HashMap};
use std::io::Write;
use tally_core::tdigest::{Summary, TDigest};
use tdigest::TDigest as Peer;

const COMPRESSION: u16 = 100;
const PARTS: usize = 1_000;
const FRACTIONS: [f64; 7] = [0.01, 0.25, 0.5, 0.52, 0.95, 0.99, 0.999];
const SYNTHETIC: [&str; 9] = [
    "uniform",
    "lognormal",
    "sorted",
    "reversed",
    "constant",
    "two-point",
    "two-humps",
    "zero-inflated",
    "pareto-int",
];

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn unit(&mut self) -> f64 {
        ((self.next() >> 11) as f64 + 0.5) / (1_u64 << 53) as f64
    }

    fn normal(&mut self) -> f64 {
        (-2.0 * self.unit().ln()).sqrt() * (std::f64::consts::TAU * self.unit()).cos()
    }

    fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, (self.next() % (last as u64 + 1)) as usize);
        }
    }
}

fn data(name: &str, n: usize, seed: u64, real: &[f64]) -> Vec<f64> {
    let mut random = Random(seed);
    match name {
        "uniform" => (0..n).map(|_| random.unit()).collect(),
        "lognormal" => (0..n).map(|_| random.normal().exp()).collect(),
        "sorted" => (0..n).map(|i| i as f64).collect(),
        "reversed" => (0..n).rev().map(|i| i as f64).collect(),
        "constant" => vec![42.5; n],
        "two-point" => (0..n).map(|_| f64::from(u8::from(random.unit() < 0.3))).collect(),
        "two-humps" => (0..n)
            .map(|_| if random.unit() < 0.53 { random.unit() } else { 1e3 * (1.0 + random.unit()) })
            .collect(),
        "zero-inflated" => {
            (0..n).map(|_| if random.unit() < 0.4 { 0.0 } else { (2.0 * random.normal()).exp() }).collect()
        }
        "pareto-int" => (0..n).map(|_| (10.0 * random.unit().powf(-1.0 / 1.2)).floor()).collect(),
        _ => {
            let mut values = real.to_vec();
            random.shuffle(&mut values);
            values.truncate(n);
            values
        }
    }
}

fn rank_error(sorted: &[f64], q: f64, answer: f64) -> f64 {
    let below = sorted.partition_point(|&value| value < answer) as f64;
    let upto = sorted.partition_point(|&value| value <= answer) as f64;
    let wanted = q * sorted.len() as f64;
    (below - wanted).max(wanted - upto).max(0.0) / sorted.len() as f64 * 1e6
}

fn parts_of(values: &[f64]) -> impl Iterator<Item = &[f64]> {
    values.chunks(values.len().div_ceil(PARTS))
}

fn order(parts: usize, seed: u64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..parts).collect();
    Random(seed ^ 0x5eed).shuffle(&mut order);
    order
}

fn ours(values: &[f64]) -> Summary {
    let mut digest = TDigest::new(COMPRESSION).expect("default compression");
    values.iter().for_each(|&value| digest.add(value).expect("finite"));
    digest.into_summary()
}

fn ours_merged(values: &[f64], seed: u64) -> Summary {
    let parts: Vec<Vec<u8>> = parts_of(values).map(|part| ours(part).to_bytes()).collect();
    let mut digest = TDigest::new(COMPRESSION).expect("default compression");
    for at in order(parts.len(), seed) {
        digest.merge(&parts[at]).expect("own bytes");
    }
    digest.into_summary()
}

fn peer(values: &[f64]) -> Peer {
    let mut digest = Peer::new_with_size(usize::from(COMPRESSION));
    digest.extend_values(values.iter().copied());
    digest.flush();
    digest
}

fn peer_merged(values: &[f64], seed: u64) -> Peer {
    let parts: Vec<Peer> = parts_of(values).map(peer).collect();
    let order = order(parts.len(), seed);
    // One after another, as an aggregate does that keeps one digest.
    order.iter().fold(Peer::new_with_size(usize::from(COMPRESSION)), |merged, &at| {
        Peer::merge_digests(vec![merged, parts[at].clone()])
    })
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let arg = |at: usize| args.get(at).map(String::as_str).filter(|arg| *arg != "-");
    if arg(0) == Some("write") {
        let (n, seeds) = (arg(2).map_or(50_000, number), arg(3).map_or(3, number) as u64);
        return write(arg(1).expect("a directory"), n, seeds, &read_numbers(arg(4)));
    }
    let (n, seeds) = (arg(0).map_or(50_000, number), arg(1).map_or(3, number) as u64);
    let real = read_numbers(arg(2));
    let third = read_answers(arg(3));
    println!("{n} values, {seeds} seeds, compression {COMPRESSION}; mean rank error, ppm");
    println!(
        "{:<14} {:<6} {:>6} {:>9} {:>9} {:>9}  centroids bytes",
        "data", "mode", "p", "ours", "crate", "peer"
    );
    let names = SYNTHETIC.iter().copied().chain((!real.is_empty()).then_some("real"));
    for name in names {
        let mut errors: BTreeMap<(&str, usize), [f64; 3]> = BTreeMap::new();
        let mut sizes = HashMap::new();
        for seed in 0..seeds {
            let values = data(name, n, seed, &real);
            let mut sorted = values.clone();
            sorted.sort_unstable_by(f64::total_cmp);
            for (mode, digest, other) in [
                ("whole", ours(&values), peer(&values)),
                ("parts", ours_merged(&values, seed), peer_merged(&values, seed)),
            ] {
                sizes.insert(mode, (digest.num_centroids(), digest.to_bytes().len()));
                for (at, &q) in FRACTIONS.iter().enumerate() {
                    let sums = errors.entry((mode, at)).or_default();
                    let answers = [
                        digest.quantile(q).expect("a fraction"),
                        other.estimate_quantile(q),
                        third.get(&(name.to_owned(), seed, mode.to_owned(), at)).copied(),
                    ];
                    for (sum, answer) in sums.iter_mut().zip(answers) {
                        *sum +=
                            answer.map_or(f64::NAN, |answer| rank_error(&sorted, q, answer)) / seeds as f64;
                    }
                }
            }
        }
        for ((mode, at), [ours, crates, peer]) in errors {
            let (centroids, bytes) = sizes[mode];
            let worse = if ours > peer { "  worse" } else { "" };
            println!(
                "{name:<14} {mode:<6} {:>6} {ours:>9.1} {crates:>9.1} {peer:>9.1}  {centroids:>9} {bytes:>5}{worse}",
                FRACTIONS[at]
            );
        }
    }
}

fn number(text: &str) -> usize {
    text.parse().expect("a number")
}

fn read_numbers(path: Option<&str>) -> Vec<f64> {
    let text = path.map(|path| std::fs::read_to_string(path).expect("readable")).unwrap_or_default();
    text.lines().map(|line| line.parse().expect("a number")).collect()
}

fn read_answers(path: Option<&str>) -> HashMap<(String, u64, String, usize), f64> {
    let text = path.map(|path| std::fs::read_to_string(path).expect("readable")).unwrap_or_default();
    text.lines()
        .map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let q: f64 = words[3].parse().expect("a fraction");
            let at = FRACTIONS.iter().position(|&known| known == q).expect("a known fraction");
            let key = (words[0].to_owned(), words[1].parse().expect("a seed"), words[2].to_owned(), at);
            (key, words[4].parse().expect("a number"))
        })
        .collect()
}

fn write(directory: &str, n: usize, seeds: u64, real: &[f64]) {
    let file = std::fs::File::create(format!("{directory}/data.txt")).expect("writable");
    let mut out = std::io::BufWriter::new(file);
    let names = SYNTHETIC.iter().copied().chain((!real.is_empty()).then_some("real"));
    for name in names {
        for seed in 0..seeds {
            let values = data(name, n, seed, real);
            let places = order(parts_of(&values).count(), seed);
            let mut place_of = vec![0; places.len()];
            places.iter().enumerate().for_each(|(place, &part)| place_of[part] = place);
            for (part, values) in parts_of(&values).enumerate() {
                for value in values {
                    writeln!(out, "{name}\t{seed}\t{}\t{value:?}", place_of[part]).expect("writable");
                }
            }
        }
    }
}
