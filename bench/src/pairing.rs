//! Medians of ratios taken within rounds.

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
        println!("  {:<36} {:>10}   {} is … times as fast (least–greatest)", "", "rows/s", names[0]);
        for (name, seconds) in names.iter().zip(&self.by_contender) {
            let ratios: Vec<f64> =
                self.by_contender[0].iter().zip(seconds).map(|(first, own)| own / first).collect();
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
