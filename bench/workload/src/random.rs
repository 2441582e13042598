//! A small seeded generator: the same seed gives the same numbers on every machine.

/// Generates pseudo-random numbers (SplitMix64, Steele, Lea and Flood 2014). Not for secrets.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// Starts the sequence that belongs to `seed`.
    pub fn new(seed: u64) -> Self {
        Random(seed)
    }

    /// Returns the next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        mix(self.0)
    }

    /// Returns a number in 0 .. `end`; `end` must not be 0. The bias, below `end` / 2^64, does not matter here.
    pub fn below(&mut self, end: usize) -> usize {
        ((u128::from(self.bits()) * end as u128) >> 64) as usize
    }

    /// Returns a number in 0 ≤ x < 1 with 53 random bits.
    pub fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Returns a number from the standard normal distribution (Box and Muller).
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.unit()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.unit()).cos()
    }

    /// Puts `items` in a random order (Fisher and Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }
}

/// Scrambles `value`: SplitMix64's output function, for ids that must look random but follow from their parts.
pub fn mix(mut value: u64) -> u64 {
    value = (value ^ (value >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    value ^ (value >> 31)
}

/// Draws ranks 0 .. n, the first most often: rank r has weight 1 / (r + 1)^exponent (Zipf's law).
#[derive(Clone, Debug)]
pub struct Zipf(Vec<f64>);

impl Zipf {
    /// Prepares `ranks` ranks; at least one.
    pub fn new(ranks: usize, exponent: f64) -> Self {
        let mut total = 0.0;
        let mut upper: Vec<f64> = (1..=ranks.max(1))
            .map(|rank| {
                total += (rank as f64).powf(-exponent);
                total
            })
            .collect();
        upper.iter_mut().for_each(|bound| *bound /= total);
        Zipf(upper)
    }

    /// Draws a rank.
    pub fn draw(&self, random: &mut Random) -> usize {
        let point = random.unit();
        self.0.partition_point(|bound| *bound <= point).min(self.0.len() - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches_the_published_sequence() {
        // First outputs of SplitMix64 for seed 0, as in the reference implementation.
        let mut random = Random::new(0);
        assert_eq!(random.bits(), 0xE220_A839_7B1D_CDAF);
        assert_eq!(random.bits(), 0x6E78_9E6A_A1B9_65F4);
    }

    #[test]
    fn zipf_prefers_low_ranks_by_its_law() {
        let (zipf, mut random) = (Zipf::new(10, 1.0), Random::new(7));
        let mut counts = [0u32; 10];
        (0..100_000).for_each(|_| counts[zipf.draw(&mut random)] += 1);
        // Weights 1, 1/2, … 1/10 sum to 2.929: rank 0 gets 34.1 %, rank 9 gets 3.4 %; 5 standard deviations each.
        assert!((i64::from(counts[0]) - 34_142).abs() < 750, "{counts:?}");
        assert!((i64::from(counts[9]) - 3_414).abs() < 290, "{counts:?}");
    }

    #[test]
    fn shuffle_keeps_every_item() {
        let mut items: Vec<u32> = (0..1_000).collect();
        Random::new(3).shuffle(&mut items);
        assert_ne!(items, (0..1_000).collect::<Vec<_>>());
        items.sort_unstable();
        assert_eq!(items, (0..1_000).collect::<Vec<_>>());
    }
}
