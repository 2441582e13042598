//! Medians of ratios taken within rounds, and queries of two sides turn about.

use postgres::Client;
use std::error::Error;
use std::time::Instant;

/// Executions of a query in one backend that aren't counted, by which its plan and its caches are what they stay.
const WARM: usize = 10;

/// Runs each side's query in its backend `repeats` times, turn about, and adds the seconds to `taken`; returns how many rows
/// both found. Two backends with the same statement can differ by half for as long as they live, whichever asks what: a
/// round takes several pairs of new ones.
pub fn turn_about(
    sides: &mut [Client; 2],
    queries: [&str; 2],
    repeats: usize,
    taken: &mut [Vec<f64>; 2],
) -> Result<usize, Box<dyn Error>> {
    let statements = [sides[0].prepare(queries[0])?, sides[1].prepare(queries[1])?];
    let mut found = [0; 2];
    for repeat in 0..WARM + repeats {
        for side in 0..2 {
            let began = Instant::now();
            found[side] = sides[side].query(&statements[side], &[])?.len();
            if repeat >= WARM {
                taken[side].push(began.elapsed().as_secs_f64());
            }
        }
    }
    assert_eq!(found[0], found[1], "both sides see the same rows");
    Ok(found[0])
}

/// Seconds by round and contender.
pub struct Measurements {
    by_contender: Vec<Vec<f64>>,
}

impl Measurements {
    /// Starts with no rounds.
    pub fn new(contenders: usize) -> Self {
        Measurements { by_contender: vec![Vec::new(); contenders] }
    }

    /// Adds a round: the seconds of each contender.
    pub fn add(&mut self, seconds: Vec<f64>) {
        for (all, one) in self.by_contender.iter_mut().zip(seconds) {
            all.push(one);
        }
    }

    /// Prints each contender's median rate, and how fast the first one is relative to it: median, least and greatest
    /// of the rounds' ratios. `rows` is the number of rows in a round.
    pub fn print(&self, names: &[&str], rows: f64) {
        self.print_beside(0, names, rows);
    }

    /// The same, relative to the one of `chosen`.
    pub fn print_beside(&self, chosen: usize, names: &[&str], rows: f64) {
        println!("  {:<36} {:>10}   {} is … times as fast (least–greatest)", "", "rows/s", names[chosen]);
        for (name, seconds) in names.iter().zip(&self.by_contender) {
            let ratios: Vec<f64> =
                self.by_contender[chosen].iter().zip(seconds).map(|(ours, own)| own / ours).collect();
            let [least, middle, greatest] = spread(&ratios);
            let rate = rows / spread(seconds)[1];
            println!("  {name:<36} {rate:>10.0}   {middle:.2} ({least:.2}–{greatest:.2})");
        }
    }
}

/// Returns the least, the median and the greatest; `values` must not be empty.
pub fn spread(values: &[f64]) -> [f64; 3] {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (half, last) = (sorted.len() / 2, sorted.len() - 1);
    let median = if sorted.len() % 2 == 1 { sorted[half] } else { (sorted[half - 1] + sorted[half]) / 2.0 };
    [sorted[0], median, sorted[last]]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spread_of_odd_and_even_counts() {
        assert_eq!(spread(&[3.0, 1.0, 2.0]), [1.0, 2.0, 3.0]);
        assert_eq!(spread(&[4.0, 1.0, 2.0, 3.0]), [1.0, 2.5, 4.0]);
        assert_eq!(spread(&[5.0]), [5.0; 3]);
    }
}
